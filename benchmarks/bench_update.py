"""Time one TD3+ODT update (hopper sizes) and compare it with the speed of a matrix product.

    python benchmarks/bench_update.py --K 20 --precision bf16 --updates 5 --json

Prints the fastest of `--updates` critic updates, actor updates and batches, the floating-point
operations of both updates, and their speed as a share of that of a plain matrix product with the
transformer's sizes and precision.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measuring
from replay_buffer import ReplayBuffer
from trainer import Trainer
from utils import run_command


def measure(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one configuration."""
    device, settings = measuring.prepare(args), measuring.td3_settings(args)
    trainer = Trainer(settings, measuring.TASK, device)
    trainer.start_phase(settings.actor_rl_coeff, settings.actor_sup_coeff)
    trainer.nets.actor.train()
    buffer = ReplayBuffer(measuring.random_dataset(), 1000, 0.001, device)
    batch = buffer.sample(args.batch_size, args.K)

    def actor_and_targets() -> None:
        trainer.update_actor(batch)
        trainer.update_targets()

    batch_ms = measuring.best_ms(lambda: buffer.sample(args.batch_size, args.K), 20, device)
    critic_ms = measuring.best_ms(lambda: trainer.update_critic(batch), args.updates, device)
    actor_ms = measuring.best_ms(actor_and_targets, args.updates, device)
    # the counter does not see into compiled code
    plain = Trainer(replace(settings, compile=0), measuring.TASK, device)
    plain.start_phase(settings.actor_rl_coeff, settings.actor_sup_coeff)
    counted = measuring.flops(lambda: plain.update(batch, with_actor=True))
    tflops = counted / (critic_ms + actor_ms) / 1e9
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    rows = args.batch_size * (3 * args.K - 1)
    matmul = measuring.matmul_tflops(rows, args.embed_dim, dtype, device)
    return {
        "critic_ms": critic_ms,
        "actor_ms": actor_ms,
        "batch_ms": batch_ms,
        "update_ms": measuring.update_ms(args.K, critic_ms, actor_ms),
        "updates_per_second": 1000 / measuring.update_ms(args.K, critic_ms + batch_ms, actor_ms),
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
