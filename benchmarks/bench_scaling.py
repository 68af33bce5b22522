"""How cost grows with K, width, batch, dataset and replay size, each doubled three times.

    python benchmarks/bench_scaling.py --batch_size 64 --plot scaling.png --json

Updates: best of `--updates`, the other sizes as given. Dataset: making the replay buffer of so
many rows, and drawing a batch. Replay size: adding a trajectory to a full buffer of so many, and
drawing a batch.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch

from benchmarks import bench_update, measuring
from fast_cpu.device_tuning import tune_device
from replay_buffer import ReplayBuffer
from tasks import get_task
from trajectories import Trajectory
from utils import select_device

VALUES = {
    "K": [5, 10, 20, 40],
    "embed_dim": [128, 256, 512, 1024],
    "batch_size": [32, 64, 128, 256],
    "dataset_rows": [250_000, 500_000, 1_000_000, 2_000_000],
    "replay_size": [250, 500, 1000, 2000],
}
# of one value: figures by name
Figures = dict[str, float]


def measure_update(args: Namespace, name: str, value: int) -> Figures:
    figures = bench_update.measure(Namespace(**vars(args) | {name: value}))
    return {key: figures[key] for key in ("critic_ms", "actor_ms")}


def measure_dataset(args: Namespace, rows: int) -> Figures:
    task, device = get_task("hopper-medium-v2"), select_device(args.device)
    count = rows // measuring.LENGTH
    data = measuring.random_dataset(task.obs_dim, task.act_dim, count)
    start = time.perf_counter()
    buffer = ReplayBuffer(data, count, 0.001, device)
    build_ms = 1000 * (time.perf_counter() - start)
    draw = measuring.best_ms(lambda: buffer.sample(args.batch_size, args.K), 20, device)
    return {"build_ms": build_ms, "batch_ms": draw}


def measure_replay(args: Namespace, capacity: int) -> Figures:
    task, device = get_task("hopper-medium-v2"), select_device(args.device)
    data = measuring.random_dataset(task.obs_dim, task.act_dim, capacity)
    buffer = ReplayBuffer(data, capacity, 0.001, device)
    new = measuring.random_dataset(task.obs_dim, task.act_dim, 1)
    episode = Trajectory(
        new.observations, new.final_observations[0], new.actions, new.rewards, new.terminals
    )
    start = time.perf_counter()
    for _ in range(2 * capacity):
        buffer.add(replace(episode))
    add_ms = 1000 * (time.perf_counter() - start) / (2 * capacity)
    draw = measuring.best_ms(lambda: buffer.sample(args.batch_size, args.K), 20, device)
    return {"add_ms": add_ms, "batch_ms": draw}


def measure(args: Namespace, name: str, value: int) -> Figures:
    """The figures of one value of one size."""
    if name == "dataset_rows":
        return measure_dataset(args, value)
    if name == "replay_size":
        return measure_replay(args, value)
    return measure_update(args, name, value)


def plot(results: dict[str, dict[int, Figures]], title: str, path: Path) -> None:
    """A panel per size, both axes logarithmic, with the line of proportional cost."""
    figure, axes = plt.subplots(1, len(results), figsize=(3.2 * len(results), 3.4), squeeze=False)
    for axis, (name, row) in zip(axes[0], results.items(), strict=True):
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
    axes[0][0].set_ylabel("milliseconds")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = measuring.parser(__doc__)
    measuring.add_sizes(parser)
    parser.add_argument("--only", nargs="+", choices=list(VALUES), default=list(VALUES))
    parser.add_argument("--updates", type=int, default=2, help="the best of so many counts")
    parser.add_argument("--plot", type=Path, help="PNG file to draw the figures in")
    args = parser.parse_args()
    args.compile = 0
    if args.threads:
        torch.set_num_threads(args.threads)
    tune_device(select_device(args.device), args.precision)
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
