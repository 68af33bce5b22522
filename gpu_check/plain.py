"""Updates and acting against a plain implementation, by benchmarks/bench_plain.py."""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from gpu_check.agent import MAIN, SMALL
from gpu_check.part import ROOT, Part

SCRIPT = "benchmarks/bench_plain.py"


def compare(device: torch.device, steps: int, precision: str) -> dict[str, float]:
    """Milliseconds of both implementations, and how many times faster ours is."""
    flags = f"--json --device {device} --K {steps} --precision {precision} --rounds 1 --steps 50"
    flags += " --updates 10" if device.type == "cuda" else f" --updates 1 {SMALL}"
    command = [sys.executable, SCRIPT, *flags.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-500:])
    found = json.loads(done.stdout.splitlines()[-1])
    both = [f"{side}{work}_ms" for work in ("update", "act") for side in ("plain_", "")]
    return {name: found[name] for name in (*both, "update_speedup", "act_speedup")}


def check(part: Part) -> None:
    for steps, precision in MAIN[: 1 if part.quick else None]:
        part.item(f"K {steps}, {precision}", compare, part.device, steps, precision)
