"""Resumed runs against uninterrupted ones, tensor by tensor."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_check.part import Part
from gpu_check.runs import RUNS, at_once, call, command, rows_of
from run.checkpoint import load_checkpoint
from run.stopping import EXIT_STOPPED

CHOSEN = ("TD3+ODT", "SAC", "PPO", "LSTM critics", "TD3+ODT, bf16")
# batches before the run is told to stop: all of pretraining and part of an online iteration
TICKS = 50
STOPPED = """
import itertools, sys
from run.stopping import StopSignal
count = itertools.count()
StopSignal.__call__ = lambda self: next(count) >= {ticks}
import main
sys.exit(main.main(sys.argv[1:], recurrent={recurrent}))
"""


def tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors of a nested state, by their path."""
    if isinstance(value, Tensor):
        return {name: value}
    rows = value.items() if isinstance(value, dict) else enumerate(value)
    parts = [(f"{name}/{key}", x) for key, x in rows if isinstance(x, dict | list | tuple | Tensor)]
    return {path: x for key, part in parts for path, x in tensors(part, key).items()}


def difference(one: Any, other: Any) -> tuple[float, str]:
    """The largest relative difference between two nested states, and its tensor.

    Raises:
        RuntimeError: they have different tensors.
    """
    ours, theirs = tensors(one), tensors(other)
    if {k: x.shape for k, x in ours.items()} != {k: x.shape for k, x in theirs.items()}:
        raise RuntimeError("the states have different tensors")
    worst = 0.0, ""
    for name, x in ours.items():
        y = theirs[name]
        if not torch.equal(x, y):
            distance = (x.double() - y.double()).norm() / y.double().norm().clamp(min=1e-30)
            # NaN, which no comparison finds, counts as infinite
            worst = max(worst, (distance.nan_to_num(nan=torch.inf).item(), name))
    return worst


def first_difference(run_dir: Path, other: Path) -> str:
    """Where the logged metrics of two runs part, in order of time; empty if nowhere."""
    rows, others = rows_of(run_dir), rows_of(other)
    for row, twin in zip(rows, others, strict=False):
        names = [name for name in {**row, **twin} if row.get(name) != twin.get(name)]
        if names:
            values = ", ".join(f"{n} {row.get(n)} against {twin.get(n)}" for n in names[:4])
            return f"{row['phase']} {row['iteration']}: {values}"
    return "" if len(rows) == len(others) else f"{len(rows)} rows against {len(others)}"


def resumed(part: Part, name: str, flags: str) -> dict[str, Any]:
    """Check that a run that was stopped and resumed equals one that was not.

    Two runs with the same seed show first whether the device computes the same bits each time.
    """
    whole, again, stopped = (part.folder / f"{name} {kind}" for kind in ("whole", "again", "stop"))
    script, *words = command(part, flags, stopped)
    program = STOPPED.format(ticks=TICKS, recurrent=script != "main.py")
    with ThreadPoolExecutor() as pool:
        twins = [pool.submit(call, command(part, flags, run_dir)) for run_dir in (whole, again)]
        call(["-c", program, *words], EXIT_STOPPED)
        call([script, "--resume", str(stopped)])
    for twin in twins:
        twin.result()
    first, second, third = map(load_checkpoint, (whole, again, stopped))
    noise, what = difference(first, second)
    distance, where = difference(first, third)
    if noise:
        raise RuntimeError(
            f"not reproducible: {what} of two uninterrupted runs differs by {noise:.2g} (of the "
            f"resumed one by {distance:.2g}); metrics: {first_difference(whole, again) or 'equal'}"
        )
    if distance:
        metrics = first_difference(whole, stopped) or "equal"
        raise RuntimeError(f"{where} differs by {distance:.2g}; metrics: {metrics}")
    if metrics := first_difference(whole, stopped):
        raise RuntimeError(f"the logged metrics differ: {metrics}")
    return {"difference": 0.0}


def check(part: Part) -> None:
    at_once(part, {name: RUNS[name] for name in CHOSEN[: 1 if part.quick else None]}, resumed)
