"""Time and memory of loading the largest datasets, on generated files of the published sizes.

    python benchmarks/bench_load.py [--json FILE] [--rows_scale 1.0]

Every load runs in a process of its own; its peak memory is the process's peak resident set less
the resident set before the load, to be compared with the size of the arrays that are returned.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import h5py
import numpy as np

from benchmarks.measuring import resident_bytes
from data import load_dataset
from tasks import Task, get_task

MIB = 2**20
# task, rows, mean episode length
CASES = [
    ("maze2d-large-v1", 4_000_000, 300),
    ("ant-medium-v2", 1_000_000, 850),
    ("antmaze-large-play-v2", 1_000_000, 700),
]


def write_dataset(path: Path, task: Task, rows: int, length: int) -> None:
    """Write a file of the published form with random values; compressed like the published ones."""
    generator = np.random.default_rng(0)
    ends = generator.random(rows) < 1 / length
    at_limit = generator.random(rows) < 0.5
    observations = generator.standard_normal((rows, task.obs_dim), np.float32)
    observations[:, 27:] = 0 if task.family == "ant" else observations[:, 27:]
    arrays = {
        "observations": observations,
        "actions": generator.uniform(-1, 1, (rows, task.act_dim)).astype(np.float32),
        "rewards": generator.random(rows, np.float32),
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


def load_once(path: Path, name: str) -> dict[str, float]:
    """Load in this process and say what it took."""
    before = resident_bytes("VmRSS")
    start = time.perf_counter()
    dataset = load_dataset(path, get_task(name))
    seconds = time.perf_counter() - start
    peak = resident_bytes("VmHWM") - before
    arrays = [getattr(dataset, field) for field in ("observations", "actions", "rewards")]
    arrays += [dataset.terminals, dataset.final_observations]
    size = sum(array.nbytes for array in arrays)
    return {
        "transitions": dataset.num_transitions,
        "seconds": round(seconds, 2),
        "array_mib": round(size / MIB, 1),
        "peak_mib": round(peak / MIB, 1),
        "peak_per_array": round(peak / size, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--rows_scale", type=float, default=1.0, help="factor on the rows")
    parser.add_argument("--load", nargs=2, metavar=("FILE", "TASK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load_once(Path(args.load[0]), args.load[1])))
        return
    results = {}
    for name, rows, length in CASES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.hdf5"
            write_dataset(path, get_task(name), int(rows * args.rows_scale), length)
            command = [sys.executable, __file__, "--load", str(path), name]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[name] = json.loads(output)
        print(name, results[name], flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
