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
    """A loss became NaN or infinite.

    Args:
        names: The logged quantities that are not finite.
        batch: The batch when that was noticed, possibly some updates later.
    """

    # recorded in config.json
    outcome = DIVERGED

    def __init__(self, names: list[str], batch: Batch | None) -> None:
        super().__init__(", ".join(names))
        self._names = names
        self._arrays: dict[str, Tensor] = vars(batch) if batch is not None else {}

    @property
    def flag_to_try(self) -> str:
        """The learning rate to lower: the critic's if one of its losses broke."""
        critic = any(name.startswith(("critic", "Q_", "V_")) for name in self._names)
        return "critic_learning_rate" if critic else "learning_rate"

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
    of small tensors that outlive an update would fragment the device's memory.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._counts: dict[str, int] = {}

    def add(self, info: Info) -> None:
        """Add one value of each name."""
        for name, value in info.items():
            sums = self._sums.get(name)
            if sums is None:
                zero = torch.zeros((), dtype=torch.float64, device=value.device)
                sums = (zero, zero.clone())
            elif sums[0].device != value.device:  # restored on the CPU
                sums = (sums[0].to(value.device), sums[1].to(value.device))
            self._sums[name] = sums
            sums[0].add_(value)
            sums[1].addcmul_(value.double(), value.double())
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, tuple[float, float]]:
        """Mean and (population) standard deviation of each name; then reset."""
        out = {}
        for name, count in self._counts.items():
            mean, square = (total.item() / count for total in self._sums[name])
            out[name] = (mean, max(square - mean * mean, 0.0) ** 0.5)
            for total in self._sums[name]:
                total.zero_()
        self._counts.clear()
        return out

    def not_finite(self) -> list[str]:
        """Names whose sum is NaN or infinite."""
        return [name for name, (x, _) in self._sums.items() if not math.isfinite(x.item())]

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, to continue the iteration later."""
        sums = {name: torch.stack(self._sums[name]) for name in self._counts}
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`; the sums move to the values' device when `add` is called."""
        self._sums = {name: (x[0].clone(), x[1].clone()) for name, x in state["sums"].items()}
        self._counts = dict(state["counts"])
