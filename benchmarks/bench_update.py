"""Time one TD3+ODT update (hopper sizes) and compare it with the speed of a matrix product.

    python benchmarks/bench_update.py --K 20 --precision bf16 --updates 5 --json

Prints the fastest of `--updates` critic updates with their batches, what an actor update adds,
batches alone, the floating-point operations of both updates, and their speed as a share of that of
a plain matrix product with the transformer's sizes and precision.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measuring
from fast_gpu.graph import WARM_UP
from replay_buffer import ReplayBuffer, Sampler
from trainer import Trainer
from utils import run_command


def measure(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one configuration."""
    device, settings = measuring.prepare(args), measuring.td3_settings(args)
    trainer = Trainer(settings, measuring.TASK, device)
    trainer.start_phase(settings.actor_rl_coeff, settings.actor_sup_coeff)
    trainer.nets.actor.train()
    buffer = ReplayBuffer(measuring.random_dataset(), 1000, 0.001, device)
    sample = Sampler(buffer, args.batch_size, args.K)
    for with_actor in [False, True] * (WARM_UP + 1):
        trainer.update_on(sample, with_actor)
    batch_ms = measuring.best_ms(sample, 20, device)
    critic_ms, both_ms = (
        measuring.best_ms(partial(trainer.update_on, sample, actor), args.updates, device)
        for actor in (False, True)
    )
    actor_ms = both_ms - critic_ms
    # the counter does not see into compiled code
    plain = Trainer(replace(settings, compile=0), measuring.TASK, device)
    plain.start_phase(settings.actor_rl_coeff, settings.actor_sup_coeff)
    counted = measuring.flops(lambda: plain.update(sample(), with_actor=True))
    tflops = counted / both_ms / 1e9
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    rows = args.batch_size * (3 * args.K - 1)
    matmul = measuring.matmul_tflops(rows, args.embed_dim, dtype, device)
    return {
        "critic_ms": critic_ms,
        "actor_ms": actor_ms,
        "batch_ms": batch_ms,
        "update_ms": measuring.update_ms(args.K, critic_ms, actor_ms),
        "updates_per_second": 1000 / measuring.update_ms(args.K, critic_ms, actor_ms),
        "gflop": counted / 1e9,
        "tflops": tflops,
        "matmul_tflops": matmul,
        "share_of_matmul": tflops / matmul,
    }


def main() -> None:
    parser = measuring.parser(__doc__)
    measuring.add_sizes(parser)
    parser.add_argument("--updates", type=int, default=5, help="repetitions; the fastest counts")
    parser.add_argument("--compile", type=int, choices=[0, 1], default=0, help="CUDA only")
    args = parser.parse_args()
    print(f"K {args.K}, embed {args.embed_dim}, batch {args.batch_size}, {args.precision}")
    measuring.report(args, measure(args))


if __name__ == "__main__":
    run_command(main)
