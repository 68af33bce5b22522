"""Time one TD3+ODT update (hopper sizes) and compare it with the machine's matrix-product speed.

    python benchmarks/bench_update.py --K 20 --precision bf16 --updates 5 --json

Prints the best of `--updates` critic updates, actor updates and batches after a warm-up, the
floating-point operations of both updates, and what share that is of the speed of a plain matrix
product of the transformer's sizes in the same precision. With --json the last line is one object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import TrajectoryDataset
from device_tuning import tune_device
from envs.tasks import get_task
from replay_buffer import ReplayBuffer
from settings import Settings
from trainer import Trainer
from utils import select_device

TRAJECTORIES, LENGTH = 100, 1000


def random_dataset(obs_dim: int, act_dim: int) -> TrajectoryDataset:
    """Trajectories of 1,000 steps of noise: the time of an update does not depend on the data."""
    rng = np.random.default_rng(0)
    rows = TRAJECTORIES * LENGTH
    return TrajectoryDataset(
        observations=rng.standard_normal((rows, obs_dim), dtype=np.float32),
        actions=rng.uniform(-1, 1, (rows, act_dim)).astype(np.float32),
        rewards=rng.standard_normal(rows, dtype=np.float32),
        terminals=np.zeros(rows, bool),
        final_observations=rng.standard_normal((TRAJECTORIES, obs_dim), dtype=np.float32),
        lengths=np.full(TRAJECTORIES, LENGTH),
        returns=np.zeros(TRAJECTORIES),
        raw_returns=np.zeros(TRAJECTORIES),
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


def flops(function: Callable[[], object]) -> int:
    """Operations of the matrix products in one call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def matmul_tflops(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> float:
    """Speed of the MLP's first product: (rows, width) x (width, 4 width)."""
    x = torch.randn(rows, width, device=device, dtype=dtype)
    weight = torch.randn(width, 4 * width, device=device, dtype=dtype)
    seconds = best_ms(lambda: x @ weight, 10, device) / 1000
    return 8 * rows * width * width / seconds / 1e12


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--K", type=int, default=20)
    parser.add_argument("--embed_dim", type=int, default=512)
    parser.add_argument("--n_layer", type=int, default=4)
    parser.add_argument("--n_head", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one configuration."""
    task, device = get_task("hopper-medium-v2"), select_device(args.device)
    given = {name: value for name, value in vars(args).items() if hasattr(Settings(), name)}
    settings = replace(Settings(), stoc=0, use_entropy_reg=0, **given)
    tune_device(device, args.precision)
    torch.manual_seed(0)
    trainer = Trainer(settings, task, device)
    trainer.start_phase(settings.actor_rl_coeff, settings.actor_sup_coeff)
    trainer.nets.actor.train()
    buffer = ReplayBuffer(random_dataset(task.obs_dim, task.act_dim), 1000, 0.001, device)
    batch = buffer.sample(args.batch_size, args.K)

    def actor_and_targets() -> None:
        trainer.update_actor(batch)
        trainer.update_targets()

    batch_ms = best_ms(lambda: buffer.sample(args.batch_size, args.K), 20, device)
    critic_ms = best_ms(lambda: trainer.update_critic(batch), args.updates, device)
    actor_ms = best_ms(actor_and_targets, args.updates, device)
    operations = flops(lambda: trainer.update_critic(batch)) + flops(actor_and_targets)
    tflops = operations / (critic_ms + actor_ms) / 1e9
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    matmul = matmul_tflops(args.batch_size * (3 * args.K - 1), args.embed_dim, dtype, device)
    # the published default: two critic updates per actor update at K = 20, else one
    critics = 2 if args.K == 20 else 1
    return {
        "critic_ms": critic_ms,
        "actor_ms": actor_ms,
        "batch_ms": batch_ms,
        "updates_per_second": 1000 / (critics * (critic_ms + batch_ms) + actor_ms),
        "gflop": operations / 1e9,
        "tflops": tflops,
        "matmul_tflops": matmul,
        "share_of_matmul": tflops / matmul,
    }


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    figures = measure(args)
    print(f"K {args.K}, embed {args.embed_dim}, batch {args.batch_size}, {args.precision}")
    for name, value in figures.items():
        print(f"  {name:20s} {value:10.3f}")
    if args.json:
        print(json.dumps({**vars(args), **figures}))


if __name__ == "__main__":
    main()
