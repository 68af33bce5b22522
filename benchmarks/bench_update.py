"""Time one TD3+ODT update (hopper sizes) and compare it with the machine's matrix-product speed.

    python benchmarks/bench_update.py --K 20 --precision bf16 --updates 5 --json

Prints the best of `--updates` critic updates, actor updates and batches after a warm-up, the
floating-point operations of both updates, and what share that is of the speed of a plain matrix
product of the transformer's sizes in the same precision. With --json the last line is one object.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measuring
from fast_cpu.device_tuning import tune_device
from replay_buffer import ReplayBuffer
from tasks import get_task
from trainer import Trainer
from utils import select_device


def measure(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one configuration."""
    task, device = get_task("hopper-medium-v2"), select_device(args.device)
    settings = measuring.td3_settings(args)
    tune_device(device, args.precision)
    torch.manual_seed(0)
    trainer = Trainer(settings, task, device)
    trainer.start_phase(settings.actor_rl_coeff, settings.actor_sup_coeff)
    trainer.nets.actor.train()
    data = measuring.random_dataset(task.obs_dim, task.act_dim)
    buffer = ReplayBuffer(data, 1000, 0.001, device)
    batch = buffer.sample(args.batch_size, args.K)

    def actor_and_targets() -> None:
        trainer.update_actor(batch)
        trainer.update_targets()

    batch_ms = measuring.best_ms(lambda: buffer.sample(args.batch_size, args.K), 20, device)
    critic_ms = measuring.best_ms(lambda: trainer.update_critic(batch), args.updates, device)
    actor_ms = measuring.best_ms(actor_and_targets, args.updates, device)
    # counted without compiling, which the counter does not see through
    plain = Trainer(replace(settings, compile=0), task, device)
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
    parser.add_argument("--updates", type=int, default=5, help="the best of so many counts")
    parser.add_argument("--compile", type=int, choices=[0, 1], default=0, help="CUDA only")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"K {args.K}, embed {args.embed_dim}, batch {args.batch_size}, {args.precision}")
    measuring.report(args, measure(args))


if __name__ == "__main__":
    main()
