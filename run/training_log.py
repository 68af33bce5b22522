"""What an iteration logs, summed up on the device, and what happens when it is not finite."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from run.files import DIVERGENCE_FILE
from trajectories import Batch, Info
from utils import atomic_write


class Divergence(Exception):
    """A loss became NaN or infinite.

    Args:
        names: Which of the logged numbers.
        batch: The batch at hand when that was noticed, some batches later perhaps.
    """

    # what config.json says of the run's end
    outcome = "diverged"

    def __init__(self, names: list[str], batch: Batch | None) -> None:
        super().__init__(", ".join(names))
        self._names = names
        self._arrays: dict[str, Tensor] = vars(batch) if batch is not None else {}

    @property
    def flag_to_try(self) -> str:
        """The learning rate to lower: whose loss broke first."""
        critic = any(name.startswith(("critic", "Q_", "V_")) for name in self._names)
        return "critic_learning_rate" if critic else "learning_rate"

    def write_report(self, run_dir: Path) -> None:
        """Describe the batch in a file, where that is possible."""
        statistics = {
            name: {"min": x.min().item(), "mean": x.mean().item(), "max": x.max().item()}
            for name, x in ((name, x.double()) for name, x in self._arrays.items())
        }
        report = {"not_finite": self._names, "batch": statistics}
        with contextlib.suppress(OSError), atomic_write(run_dir / DIVERGENCE_FILE, "w") as file:
            json.dump(report, file, indent=1)


class RunningMeans:
    """Means and deviations of 0-d tensors by name, summed up on their device.

    Nothing is read on the host before `read`. Sums rather than lists: thousands of small tensors
    that outlive an update would fragment the memory it works in.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._counts: dict[str, int] = {}

    def add(self, info: Info) -> None:
        """Count one value of each name."""
        for name, value in info.items():
            if name not in self._sums:
                zero = torch.zeros((), dtype=torch.float64, device=value.device)
                self._sums[name] = (zero, zero.clone())
            total, squares = self._sums[name]
            total.add_(value)
            squares.addcmul_(value.double(), value.double())
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, tuple[float, float]]:
        """Mean and (population) standard deviation of each name; starts anew."""
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
        if not self._sums:
            return []
        finite = torch.stack([total for total, _ in self._sums.values()]).isfinite().tolist()
        return [name for name, good in zip(self._sums, finite, strict=True) if not good]

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, for an iteration that goes on later."""
        sums = {name: torch.stack(self._sums[name]) for name in self._counts}
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`."""
        self._sums = {name: (x[0].clone(), x[1].clone()) for name, x in state["sums"].items()}
        self._counts = dict(state["counts"])
