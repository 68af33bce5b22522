"""Time this program against a straightforward implementation (plain.py) on one machine.

    python benchmarks/bench_plain.py --K 20 --precision bf16 --rounds 2 --json

The two run alternately, each in a process of its own, so that neither inherits the other's settings
and a slowdown of the machine affects both. Figures are the best of all rounds. The plain
implementation always uses float32; `--precision` applies to ours.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import bench_rollout, bench_update, measuring
from benchmarks.plain import PlainTD3
from replay_buffer import ReplayBuffer
from utils import run_command

# maximum steps of history for acting
CONTEXT = 5


def measure_plain(args: argparse.Namespace) -> dict[str, float]:
    """A critic update, an actor update and a rollout step of the plain implementation."""
    device, task = measuring.prepare(args, tune=False), measuring.TASK
    agent = PlainTD3(measuring.td3_settings(args), task.obs_dim, task.act_dim, device)
    buffer = ReplayBuffer(measuring.random_dataset(), 1000, task.rtg_scale, device)
    batch = buffer.sample(args.batch_size, args.K)
    agent.actor.train()
    critic_ms = measuring.best_ms(lambda: agent.update_critic(batch), args.updates, device)
    actor_ms = measuring.best_ms(lambda: agent.update_actor(batch), args.updates, device)
    agent.actor.eval()
    history = buffer.sample(args.envs, args.context)
    seen = history.states, history.actions, history.rtg[:, :-1]
    act_ms = measuring.best_ms(lambda: agent.act(*seen, args.context), 20, device)
    return {"plain_critic_ms": critic_ms, "plain_actor_ms": actor_ms, "plain_act_ms": act_ms}


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The best times of both, and how many times faster ours is."""
    names = [f"{side}{work}_ms" for work in ("critic", "actor", "act") for side in ("plain_", "")]
    best = dict.fromkeys(names, float("inf"))
    for _ in range(args.rounds):
        for benchmark in (measure_plain, bench_update.measure, bench_rollout.measure):
            found = measuring.in_new_process(benchmark, args)
            best = {name: min(ms, found.get(name, ms)) for name, ms in best.items()}
    for side in ("plain_", ""):
        times = best[f"{side}critic_ms"], best[f"{side}actor_ms"]
        best[f"{side}update_ms"] = measuring.update_ms(args.K, *times)
    for work in ("critic", "actor", "update", "act"):
        best[f"{work}_speedup"] = best[f"plain_{work}_ms"] / best[f"{work}_ms"]
    return best


def main() -> None:
    parser = measuring.parser(__doc__)
    measuring.add_sizes(parser)
    parser.add_argument("--updates", type=int, default=3, help="repetitions; the fastest counts")
    parser.add_argument("--envs", type=int, default=10, help="environments that act as one batch")
    parser.add_argument("--steps", type=int, default=100, help="steps of the rollout")
    parser.add_argument("--repeats", type=int, default=3, help="rollouts; the fastest counts")
    parser.add_argument("--rounds", type=int, default=2, help="timings of each implementation")
    args = parser.parse_args()
    args.context = min(CONTEXT, args.K)
    print(f"K {args.K}, embed {args.embed_dim}, batch {args.batch_size}, ours {args.precision}")
    measuring.report(args, measure(args))


if __name__ == "__main__":
    run_command(main)
