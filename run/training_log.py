"""Means of an iteration's losses, accumulated on the device, and the error if one diverges."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from run.files import DIVERGENCE_FILE
from run.state import DIVERGED
from trajectories import Batch, Info
from utils import atomic_write


class Divergence(Exception):
    """A loss, a weight or the policy's output became NaN or infinite.

    Args:
        names: The quantities that are not finite.
        batch: The batch when that was noticed, possibly some updates later.
    """

    # recorded in config.json
    outcome = DIVERGED

    def __init__(self, names: list[str], batch: Batch | None) -> None:
        super().__init__(", ".join(names))
        self._names = names
        self._arrays: dict[str, Tensor] = vars(batch) if batch is not None else {}

    @property
    def flags_to_try(self) -> list[str]:
        """The learning rates to lower: of the critic, of the actor, or of both if both broke."""
        critic = [name.startswith(("critic", "Q_", "V_")) for name in self._names]
        flags = {"critic_learning_rate": any(critic), "learning_rate": not all(critic)}
        return [flag for flag, broke in flags.items() if broke]

    def write_report(self, run_dir: Path) -> None:
        """Describe the batch in a file, if it can be written."""
        statistics = {
            name: {"min": x.min().item(), "mean": x.mean().item(), "max": x.max().item()}
            for name, x in ((name, x.double()) for name, x in self._arrays.items())
        }
        report = {"not_finite": self._names, "batch": statistics}
        with contextlib.suppress(OSError), atomic_write(run_dir / DIVERGENCE_FILE, "w") as file:
            json.dump(report, file, indent=1)


class RunningMeans:
    """Means and standard deviations of 0-d tensors by name, accumulated on their device.

    Nothing is copied to the host before `read`. Running sums rather than lists, because thousands
    of small tensors that outlive an update would fragment the device's memory. The sums stay where
    they are, so CUDA graphs can add to them.
    """

    def __init__(self) -> None:
        # by the names that are added together: sums, sums of squares and counts, (3, names)
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, info: Info) -> None:
        """Add one value of each name."""
        if not info:
            return
        values = torch.stack(list(info.values())).double()
        sums = self._sums.get(tuple(info))
        if sums is None:
            sums = self._sums[tuple(info)] = values.new_zeros(3, len(info))
        elif sums.device != values.device:
            # restored on the CPU
            sums = self._sums[tuple(info)] = sums.to(values.device)
        sums.add_(torch.stack([values, values.square(), torch.ones_like(values)]))

    def read(self) -> dict[str, tuple[float, float]]:
        """Mean and (population) standard deviation of each name; then reset."""
        out = {}
        for name, (total, squares, count) in self._totals().items():
            mean = total / count
            out[name] = (mean, max(squares / count - mean * mean, 0.0) ** 0.5)
        for sums in self._sums.values():
            sums.zero_()
        return out

    def not_finite(self) -> list[str]:
        """Names whose sum is NaN or infinite."""
        return [name for name, (x, *_) in self._totals().items() if not math.isfinite(x)]

    def _totals(self) -> dict[str, list[float]]:
        """Sum, sum of squares and count of each name since the last `read`."""
        totals: dict[str, list[float]] = {}
        for names, sums in self._sums.items():
            for name, *column in zip(names, *sums.tolist(), strict=True):
                so_far = totals.get(name, [0.0, 0.0, 0.0])
                totals[name] = [a + b for a, b in zip(so_far, column, strict=True)]
        return {name: column for name, column in totals.items() if column[2]}

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, to continue the iteration later.

        As they are added, not their totals: another order of additions would change the means'
        last digits.
        """
        return {"groups": [(list(names), sums.clone()) for names, sums in self._sums.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`."""
        # older checkpoints have none: the means are then those of the iteration's rest
        self._sums = {tuple(names): sums.clone() for names, sums in state.get("groups", [])}
