"""What the benchmarks share: input, time, operations, memory, the speed of a matrix product."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from get_args import Settings
from trajectories import TrajectoryDataset

LENGTH = 1000
SIZES = {"K": 20, "embed_dim": 512, "n_layer": 4, "n_head": 4, "batch_size": 256}


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with the flags that all of these benchmarks have."""
    out = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    out.add_argument("--precision", choices=["fp32", "tf32", "bf16"], default="fp32")
    out.add_argument("--device", default="auto")
    out.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    out.add_argument("--json", action="store_true", help="end with one line of JSON")
    return out


def add_sizes(out: argparse.ArgumentParser) -> None:
    """Flags for the sizes of the model and of the batch."""
    for name, value in SIZES.items():
        out.add_argument(f"--{name}", type=int, default=value)


def td3_settings(args: argparse.Namespace) -> Settings:
    """TD3+ODT, deterministic, with the sizes and the precision given."""
    known = vars(Settings())
    given = {name: value for name, value in vars(args).items() if name in known}
    return replace(Settings(), stoc=0, use_entropy_reg=0, **given)


def update_ms(steps: int, critic_ms: float, actor_ms: float) -> float:
    """An actor update with its critic updates: two at K = 20, else one, as published."""
    return (2 if steps == 20 else 1) * critic_ms + actor_ms


def report(args: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Print the figures, as JSON too where asked for."""
    for name, value in figures.items():
        print(
            f"  {name:20s} {value:12.3f}" if isinstance(value, float) else f"  {name:20s} {value}"
        )
    if args.json:
        print(json.dumps({**vars(args), **figures}, default=str))


def random_dataset(obs_dim: int, act_dim: int, trajectories: int = 100) -> TrajectoryDataset:
    """Trajectories of 1,000 steps of noise: the time of an update does not depend on the data."""
    rng = np.random.default_rng(0)
    rows = trajectories * LENGTH
    return TrajectoryDataset(
        observations=rng.standard_normal((rows, obs_dim), dtype=np.float32),
        actions=rng.uniform(-1, 1, (rows, act_dim)).astype(np.float32),
        rewards=rng.standard_normal(rows, dtype=np.float32),
        terminals=np.zeros(rows, bool),
        final_observations=rng.standard_normal((trajectories, obs_dim), dtype=np.float32),
        lengths=np.full(trajectories, LENGTH),
        returns=np.zeros(trajectories),
        raw_returns=np.zeros(trajectories),
        state_mean=np.zeros(obs_dim),
        state_std=np.ones(obs_dim),
        fingerprint={},
    )


def best_ms(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    """The fastest of so many calls, in milliseconds, after two that do not count."""
    best = float("inf")
    for i in range(repeats + 2):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i >= 2:
            best = min(best, time.perf_counter() - start)
    return 1000 * best


def _linear_flops(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * x.numel() * weight[0]


def flops(function: Callable[[], object]) -> int:
    """Operations of the matrix products in one call."""
    fused = {torch.ops.mkldnn._linear_pointwise: _linear_flops}
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        function()
    return counter.get_total_flops()


def matmul_tflops(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> float:
    """Speed of the MLP's first product: (rows, width) x (width, 4 width)."""
    x = torch.randn(rows, width, device=device, dtype=dtype)
    weight = torch.randn(width, 4 * width, device=device, dtype=dtype)
    seconds = best_ms(lambda: x @ weight, 20, device) / 1000
    return 8 * rows * width * width / seconds / 1e12


def resident_bytes(field: str) -> int:
    """This process's resident set: VmRSS now, VmHWM at its peak (Linux; other than getrusage's
    figure, it does not start at the peak of the process that started this one)."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
