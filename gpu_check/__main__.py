"""Check training on a GPU and time it.

    python -m gpu_check --device cuda --minutes 8 --out exp/gpu_check

Runs its parts in order of importance, each in a process of its own, until the time is up, and
writes report.md, report.json and log.txt. With --device cpu the same code runs on small sizes.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import torch

from gpu_check import report
from gpu_check.environment import installed, pinned
from gpu_check.part import RESULTS_FILE, ROOT
from gpu_check.report import FAILED, PASSED, SKIPPED, UNFINISHED, Result


class Plan(NamedTuple):
    """A part: its longest duration on a GPU in seconds, and the packages it imports."""

    seconds: int
    needs: tuple[str, ...]


TRAINING = ("numpy", "gymnasium", "transformers", "h5py", "filelock", "tqdm")
WHOLE_RUNS = (*TRAINING, "mujoco")
# by module of this package, in order of importance
PARTS = {
    "environment": Plan(60, ()),
    "golden": Plan(150, (*TRAINING, "pytest", "hypothesis")),
    "runs": Plan(240, WHOLE_RUNS),
    "resume": Plan(180, WHOLE_RUNS),
    "captured": Plan(120, WHOLE_RUNS),
    "waits": Plan(90, TRAINING),
    "timing": Plan(150, WHOLE_RUNS),
    "compiled": Plan(240, TRAINING),
    "profile": Plan(60, TRAINING),
    "plain": Plan(150, WHOLE_RUNS),
}
# a part does not start with less time than this
SHORTEST = 10


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with code 2 if there is no such device."""
    parser = argparse.ArgumentParser("python -m gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument("--minutes", type=float, default=8, help="time limit (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("exp/gpu_check"),
                        help="folder of the report (default: exp/gpu_check)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer variants of everything")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"only these parts: {', '.join(PARTS)} (default: all)")  # fmt: skip
    args = parser.parse_args(argv)
    if args.device == "cuda":
        args.device = "cuda:0"  # the same GPU for every part
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ["cpu", *(f"cuda:{i}" for i in range(gpus))]
    if args.device not in devices:
        known = ", ".join(devices)
        parser.exit(2, f"error: --device {args.device}: PyTorch finds {known}; use one of them\n")
    return args


def run(name: str, args: argparse.Namespace, seconds: float, log: TextIO) -> Result:
    """Run a part for at most `seconds` and at most its own limit."""
    plan = PARTS[name]
    if absent := [module for module in plan.needs if importlib.util.find_spec(module) is None]:
        return Result(name, SKIPPED, f"needs {', '.join(absent)}", 0.0, [])
    if seconds < SHORTEST:
        return Result(name, SKIPPED, "no time left", 0.0, [])
    longest = plan.seconds * (4 if args.device == "cpu" else 1)
    limit, start = min(seconds, longest), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        words = ["-m", "gpu_check.part", name, args.device, folder, str(int(args.quick))]
        code = call([sys.executable, *words], limit, log)
        items = report.read_items(Path(folder) / RESULTS_FILE)
    result, reason = PASSED, ""
    if code is None:
        result = FAILED if limit == longest else UNFINISHED
        reason = f"stopped after {limit:.0f} s"
    elif code or not items:
        result, reason = FAILED, f"exit code {code}; see log.txt"
    if any(not item["ok"] for item in items):
        result = FAILED
    return Result(name, result, reason, time.monotonic() - start, items)


def call(command: list[str], seconds: float, log: TextIO) -> int | None:
    """Run a command in the project's folder; returns its exit code, or None after `seconds`.

    Then it is killed with all processes it started.
    """
    log.write(f"--- {' '.join(command[1:])}\n")
    log.flush()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; returns 1 if a part failed."""
    args = parse(argv)
    deadline = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    missing = [name for name in pinned() if not installed(name)]
    if missing:
        tell(f"missing: {', '.join(missing)}; parts that need them are skipped")
    results: list[Result] = []
    with (args.out / "log.txt").open("w") as log:
        for name in PARTS:
            if name in args.only:
                results.append(run(name, args, deadline - time.monotonic(), log))
                tell(results[-1].line)
                report.write(args.out, args.device, missing, results)
    tell(f"the report is {args.out / 'report.md'}")
    return int(any(result.result == FAILED for result in results))


def tell(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
