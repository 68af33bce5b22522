"""How cost grows with K, width, batch, dataset and replay size, each doubled three times.

    python benchmarks/bench_scaling.py --batch_size 64 --plot scaling.png --json

- K, width, batch: the fastest of `--updates` updates, with the other sizes as given.
- Dataset: building the replay buffer, and drawing a batch.
- Replay size: adding a trajectory to a full buffer, and drawing a batch.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from matplotlib.figure import Figure

from benchmarks import bench_update, measuring
from replay_buffer import ReplayBuffer
from trajectories import Trajectory

VALUES = {
    "K": [5, 10, 20, 40],
    "embed_dim": [128, 256, 512, 1024],
    "batch_size": [32, 64, 128, 256],
    "dataset_rows": [250_000, 500_000, 1_000_000, 2_000_000],
    "replay_size": [250, 500, 1000, 2000],
}
# milliseconds by name, for one value of one size
Figures = dict[str, float]


def measure_dataset(args: Namespace, rows: int, device: torch.device) -> Figures:
    """Building a replay buffer, and drawing a batch from it."""
    count = rows // measuring.LENGTH
    data = measuring.random_dataset(count)
    buffer, build_ms = measuring.timed(partial(ReplayBuffer, data, count, 0.001, device), device)
    return {"build_ms": build_ms, "batch_ms": measure_draw(args, buffer)}


def measure_replay(args: Namespace, capacity: int, device: torch.device) -> Figures:
    """Adding a trajectory to a full replay buffer, and drawing a batch from it."""
    buffer = ReplayBuffer(measuring.random_dataset(capacity), capacity, 0.001, device)
    new = measuring.random_dataset(1)
    episode = Trajectory(
        new.observations, new.final_observations[0], new.actions, new.rewards, new.terminals
    )

    def add() -> None:
        for _ in range(2 * capacity):
            buffer.add(episode)

    add_ms = measuring.timed(add, device)[1] / (2 * capacity)
    return {"add_ms": add_ms, "batch_ms": measure_draw(args, buffer)}


def measure_draw(args: Namespace, buffer: ReplayBuffer) -> float:
    return measuring.best_ms(lambda: buffer.sample(args.batch_size, args.K), 20, buffer.device)


def measure(args: Namespace, name: str, value: int) -> Figures:
    """The figures of one value of one size."""
    if name == "dataset_rows":
        return measure_dataset(args, value, measuring.prepare(args))
    if name == "replay_size":
        return measure_replay(args, value, measuring.prepare(args))
    figures = bench_update.measure(Namespace(**vars(args) | {name: value}))
    return {key: figures[key] for key in ("critic_ms", "actor_ms")}


def plot(results: dict[str, dict[int, Figures]], title: str, path: Path) -> None:
    """One log-log panel per size, with a dotted line of proportional cost."""
    figure = Figure(figsize=(3.2 * len(results), 3.4))
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for axis, (name, row) in zip(axes, results.items(), strict=True):
        values = list(row)
        for key in row[values[0]]:
            axis.loglog(values, [row[v][key] for v in values], marker="o", label=key[:-3])
        first = max(row[values[0]].values())
        line = [first * v / values[0] for v in values]
        axis.loglog(values, line, color="grey", linestyle=":", label="proportional")
        axis.set_xticks(values, [f"{v:,}" for v in values], rotation=30)
        axis.minorticks_off()
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    axes[0].set_ylabel("milliseconds")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = measuring.parser(__doc__)
    measuring.add_sizes(parser)
    parser.add_argument("--only", nargs="+", choices=list(VALUES), default=list(VALUES))
    parser.add_argument("--updates", type=int, default=2, help="repetitions; the fastest counts")
    parser.add_argument("--plot", type=Path, help="PNG file for a plot")
    args = parser.parse_args()
    results: dict[str, dict[int, Figures]] = {}
    for name in args.only:
        results[name] = {}
        for value in VALUES[name]:
            results[name][value] = measure(args, name, value)
            shown = ", ".join(f"{k} {v:.2f}" for k, v in results[name][value].items())
            print(f"{name} {value:,}: {shown}", flush=True)
    if args.plot:
        title = f"K {args.K}, embed {args.embed_dim}, batch {args.batch_size}, {args.precision}"
        plot(results, title, args.plot)
    if args.json:
        print(json.dumps({**vars(args), "scaling": results}, default=str))


if __name__ == "__main__":
    main()
