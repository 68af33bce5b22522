"""Time and memory of loading the largest datasets, from generated files of the published sizes.

    python benchmarks/bench_load.py [--json] [--rows_scale 1.0]

Each file is loaded in a new process. `peak_mib` is the growth of its resident set while loading, to
be compared with the size of the returned arrays.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import h5py
import numpy as np
import torch

from benchmarks.measuring import MIB, in_new_process, resident_bytes, timed
from data import load_dataset
from tasks import Task, get_task
from utils import run_command

# task, rows, mean episode length
CASES = [
    ("maze2d-large-v1", 4_000_000, 300),
    ("ant-medium-v2", 1_000_000, 850),
    ("antmaze-large-play-v2", 1_000_000, 700),
]


def write_dataset(path: Path, task: Task, rows: int, length: int) -> None:
    """Write a file of random values in the published format, compressed like the published ones."""
    generator = np.random.default_rng(0)
    ends = generator.random(rows) < 1 / length
    at_limit = generator.random(rows) < 0.5
    # steps that are possible in every environment
    observations = 0.01 * generator.standard_normal((rows, task.obs_dim), np.float32)
    observations[:, 27:] = 0 if task.family == "ant" else observations[:, 27:]
    rewards = generator.random(rows, np.float32)
    arrays = {
        "observations": observations,
        "actions": generator.uniform(-1, 1, (rows, task.act_dim)).astype(np.float32),
        "rewards": rewards.round() if "maze" in task.family else rewards,
        "terminals": ends & ~at_limit,
        "timeouts": ends & at_limit,
    }
    if task.family in ("ant", "hopper"):
        following = np.roll(observations, -1, axis=0)
        following[ends] = 0
        arrays["next_observations"] = following
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", compression_opts=1)


def load_once(path: Path, task: Task) -> dict[str, float]:
    """Load a file in this process; returns time and memory."""
    before = resident_bytes("VmRSS")
    dataset, ms = timed(partial(load_dataset, path, task), torch.device("cpu"))
    peak = resident_bytes("VmHWM") - before
    arrays = [getattr(dataset, field) for field in ("observations", "actions", "rewards")]
    arrays += [dataset.terminals, dataset.final_observations]
    size = sum(array.nbytes for array in arrays)
    return {
        "transitions": dataset.num_transitions,
        "seconds": round(ms / 1000, 2),
        "array_mib": round(size / MIB, 1),
        "peak_mib": round(peak / MIB, 1),
        "peak_per_array": round(peak / size, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows_scale", type=float, default=1.0, help="factor on the rows")
    parser.add_argument(
        "--json", action="store_true", help="print the results as a last line of JSON"
    )
    args = parser.parse_args()
    results = {}
    for name, rows, length in CASES:
        with tempfile.TemporaryDirectory() as folder:
            path, task = Path(folder) / f"{name}.hdf5", get_task(name)
            write_dataset(path, task, int(rows * args.rows_scale), length)
            results[name] = in_new_process(load_once, path, task)
        print(name, results[name], flush=True)
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    run_command(main)
