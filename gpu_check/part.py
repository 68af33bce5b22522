"""A part of the check in a process of its own: `python -m gpu_check.part NAME DEVICE FOLDER QUICK`.

A part is a module of this package with a function `check(part)`, which calls `part.item` for
everything it checks. Results are written one by one, so a part that crashes or is cut short still
reports what it found.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS_FILE = "results.jsonl"
_writing = threading.Lock()


@dataclass(frozen=True)
class Part:
    """What a part works with.

    Attributes:
        device: The device under test. On the CPU everything is small.
        folder: An existing folder for temporary files.
        quick: Whether to check fewer variants.
    """

    device: torch.device
    folder: Path
    quick: bool

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def item(self, name: str, function: Callable[..., dict[str, Any]], *args: Any) -> None:
        """Record the figures that a function returns, or the error that it raises."""
        start = time.perf_counter()
        try:
            figures, error = function(*args), ""
        except Exception as problem:
            figures, error = {}, f"{type(problem).__name__}: {problem}"
        self.record(name, time.perf_counter() - start, figures, error)

    def record(self, name: str, seconds: float, figures: dict[str, Any], error: str = "") -> None:
        """Record a result; with an error the item has failed."""
        short = {k: float(f"{x:.4g}") if isinstance(x, float) else x for k, x in figures.items()}
        row = {"item": name, "ok": not error, "seconds": round(seconds, 1), "figures": short}
        with _writing, (self.folder / RESULTS_FILE).open("a") as file:
            file.write(json.dumps(row | {"error": error}, default=str) + "\n")


def main(name: str, device: str, folder: str, quick: str) -> None:
    """Run a part."""
    part = Part(torch.device(device), Path(folder), quick == "1")
    if part.on_gpu:
        # CUDA graphs, events and memory statistics belong to the current device
        torch.cuda.set_device(part.device)
    try:
        importlib.import_module(f"gpu_check.{name}").check(part)
    except Exception as problem:
        part.record("the part itself", 0.0, {}, f"{type(problem).__name__}: {problem}")
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
