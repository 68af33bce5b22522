"""Time this program and the plain way (plain.py) in turn on one machine, and give the quotients.

    python benchmarks/bench_plain.py --K 20 --precision bf16 --rounds 2 --json

Each timing is a process of its own, plain and ours in turn, so that neither has the other's
settings and a machine that slows down slows both. Figures are the best of all rounds. The plain
way is always float32; `--precision` is that of ours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import measuring
from benchmarks.plain import PlainTD3
from replay_buffer import ReplayBuffer
from tasks import get_task

FOLDER = Path(__file__).resolve().parent
# steps that the policy sees when it acts, where K allows it
CONTEXT = 5
CPU = torch.device("cpu")


def measure_plain(args: argparse.Namespace) -> dict[str, float]:
    """One critic update, one actor update, one step of a rollout, the plain way."""
    torch.manual_seed(0)
    task = get_task("hopper-medium-v2")
    agent = PlainTD3(measuring.td3_settings(args), task.obs_dim, task.act_dim)
    buffer = ReplayBuffer(
        measuring.random_dataset(task.obs_dim, task.act_dim), 1000, task.rtg_scale
    )
    batch = buffer.sample(args.batch_size, args.K)
    agent.actor.train()
    critic_ms = measuring.best_ms(lambda: agent.update_critic(batch), args.updates, CPU)
    actor_ms = measuring.best_ms(lambda: agent.update_actor(batch), args.updates, CPU)
    agent.actor.eval()
    context = min(CONTEXT, args.K)
    history = buffer.sample(args.envs, context)
    seen = history.states, history.actions, history.rtg[:, :-1]
    act_ms = measuring.best_ms(lambda: agent.act(*seen, context), 20, CPU)
    return {"critic_ms": critic_ms, "actor_ms": actor_ms, "act_ms": act_ms}


def call(args: argparse.Namespace, script: str, *flags: str) -> dict[str, float]:
    """The figures of another benchmark, in a process of its own."""
    sizes = [word for name in measuring.SIZES for word in (f"--{name}", str(vars(args)[name]))]
    command = [sys.executable, str(FOLDER / script), *sizes, "--device", "cpu", *flags, "--json"]
    command += ["--threads", str(args.threads)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Both ways in turn, the best of each, and how many times faster ours is."""
    best: dict[str, float] = {}
    updates = ["--updates", str(args.updates)]
    precision = ["--precision", args.precision]
    context = min(CONTEXT, args.K)
    steps = ["--envs", str(args.envs), "--context", str(context), "--steps", str(args.steps)]
    for _ in range(args.rounds):
        plain = call(args, Path(__file__).name, "--child", *updates, "--envs", str(args.envs))
        ours = call(args, "bench_update.py", *updates, *precision)
        acting = call(args, "bench_rollout.py", *steps, *precision)
        found = {f"plain_{name}": plain[name] for name in ("critic_ms", "actor_ms", "act_ms")}
        found |= {name: ours[name] for name in ("critic_ms", "actor_ms")}
        found |= {"act_ms": acting["act_ms"]}
        best = {name: min(value, best.get(name, value)) for name, value in found.items()}
    for prefix in ("plain_", ""):
        critic, actor = best[f"{prefix}critic_ms"], best[f"{prefix}actor_ms"]
        best[f"{prefix}update_ms"] = measuring.update_ms(args.K, critic, actor)
    for name in ("critic", "actor", "update", "act"):
        best[f"{name}_speedup"] = best[f"plain_{name}_ms"] / best[f"{name}_ms"]
    return best


def main() -> None:
    parser = measuring.parser(__doc__)
    measuring.add_sizes(parser)
    parser.add_argument("--updates", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--envs", type=int, default=10, help="environments that act as one batch")
    parser.add_argument("--steps", type=int, default=100, help="steps of the rollout")
    parser.add_argument("--rounds", type=int, default=2, help="each way is timed so often")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.child:
        measuring.report(args, measure_plain(args))
        return
    print(f"K {args.K}, embed {args.embed_dim}, batch {args.batch_size}, ours {args.precision}")
    measuring.report(args, measure(args))


if __name__ == "__main__":
    main()
