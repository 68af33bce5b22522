"""Shared by the benchmarks: arguments, input data, time, operations, memory."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from fast_cpu.device_tuning import tune_device
from get_args import Settings
from tasks import get_task
from trajectories import TrajectoryDataset
from utils import UserError, select_device

Result = TypeVar("Result")

TASK = get_task("hopper-medium-v2")
LENGTH = 1000
SIZES = {"K": 20, "embed_dim": 512, "n_layer": 4, "n_head": 4, "batch_size": 256}
MIB = 2**20


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with the arguments common to all benchmarks of training."""
    out = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    out.add_argument("--precision", choices=["fp32", "tf32", "bf16"], default="fp32")
    out.add_argument("--device", type=_device, default="auto", help="auto, cpu, cuda or cuda:N")
    out.add_argument("--json", action="store_true", help="print the results as a last line of JSON")
    return out


def _device(text: str) -> torch.device:
    try:
        return select_device(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_sizes(out: argparse.ArgumentParser) -> None:
    """Add arguments for the sizes of the model and the batch, and for CPU threads."""
    out.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's default")
    out.add_argument("--cuda_graphs", type=int, choices=[0, 1], default=1, help="as of main.py")
    for name, value in SIZES.items():
        out.add_argument(f"--{name}", type=int, default=value)


def prepare(args: argparse.Namespace, tune: bool = True) -> torch.device:
    """Set threads and seed, and tune the device as for training; returns the device."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if tune:
        tune_device(args.device, args.precision)
    torch.manual_seed(0)
    return args.device


def td3_settings(args: argparse.Namespace) -> Settings:
    """Deterministic TD3+ODT with the given sizes and precision."""
    known = vars(Settings())
    given = {name: value for name, value in vars(args).items() if name in known}
    return replace(Settings(), stoc=0, use_entropy_reg=0, **given)


def random_dataset(trajectories: int = 100) -> TrajectoryDataset:
    """Trajectories of 1,000 random steps; the time of an update does not depend on the data."""
    rng = np.random.default_rng(0)
    rows = trajectories * LENGTH
    return TrajectoryDataset(
        observations=rng.standard_normal((rows, TASK.obs_dim), dtype=np.float32),
        actions=rng.uniform(-1, 1, (rows, TASK.act_dim)).astype(np.float32),
        rewards=rng.standard_normal(rows, dtype=np.float32),
        terminals=np.zeros(rows, bool),
        final_observations=rng.standard_normal((trajectories, TASK.obs_dim), dtype=np.float32),
        lengths=np.full(trajectories, LENGTH),
        returns=np.zeros(trajectories),
        raw_returns=np.zeros(trajectories),
        state_mean=np.zeros(TASK.obs_dim),
        state_std=np.ones(TASK.obs_dim),
        fingerprint={},
    )


def timed(function: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """Result of a call and its time in milliseconds, until the device has finished."""
    start = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, 1000 * (time.perf_counter() - start)


def best_ms(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    """The fastest of `repeats` calls in milliseconds, after two warm-up calls."""
    return min([timed(function, device)[1] for _ in range(repeats + 2)][2:])


def update_ms(steps: int, critic_ms: float, actor_ms: float) -> float:
    """An actor update with its critic updates: two at K = 20, otherwise one, as published."""
    return (2 if steps == 20 else 1) * critic_ms + actor_ms


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
    """Resident set of this process: VmRSS now, VmHWM at its peak.

    Linux only. Unlike that of getrusage, the peak does not include the parent process.
    """
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def in_new_process(function: Callable[..., Result], *args: Any) -> Result:
    """Call a module-level function in a new interpreter, unaffected by this one's settings."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(function, *args).result()


def report(args: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Print the figures, with `--json` also as one line of JSON."""
    for name, value in figures.items():
        shown = f"{value:12.3f}" if isinstance(value, float) else value
        print(f"  {name:20s} {shown}")
    if args.json:
        print(json.dumps({**vars(args), **figures}, default=str))
