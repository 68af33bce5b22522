"""Time and memory of main.py from its start to the end of its first update.

    python benchmarks/bench_start.py --rows 1000000 --json

The dataset is a generated file in hopper's format. The time covers a new process: interpreter,
imports, reading the data, networks, one critic and one actor update. The default `--batch_size` is
1, so that the update itself hardly counts.

Memory is the peak resident set at the third update, minus that of the same program with 2,000 rows
and a model of width 32. `memory_ratio` divides this by the same difference in the sizes of the raw
arrays and of the model's state (weights, targets, optimiser moments). Libraries, environments and
kernel code therefore do not count. `memory_ratio_with_libraries` counts everything allocated after
the imports.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SMALL_ROWS, SMALL_MODEL = 2_000, ["--embed_dim", "32", "--n_head", "2"]
# later updates reuse the buffers of the first ones
UPDATES = 3


class FirstUpdateDone(Exception):
    """Ends the measured run."""


def run_to_first_update(command_line: list[str], started: float) -> dict[str, float]:
    """Run main.py in this process and stop it after its first updates."""
    import main
    from benchmarks.measuring import MIB, resident_bytes, timed
    from trainer import Trainer

    figures = {"imports_s": time.time() - started, "imports_mib": resident_bytes("VmRSS") / MIB}
    update = Trainer.update

    def first_updates(trainer: Any, *args: Any) -> None:
        figures["ready_s"] = time.time() - started
        timed(lambda: update(trainer, *args), trainer.device)
        figures["first_update_s"] = time.time() - started
        for _ in range(UPDATES - 1):
            update(trainer, *args)
        figures["peak_mib"] = resident_bytes("VmHWM") / MIB
        figures["state_mib"] = model_state_bytes(trainer) / MIB
        raise FirstUpdateDone

    Trainer.update = first_updates  # type: ignore[method-assign, assignment]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            main.main(command_line)
        except FirstUpdateDone:
            return figures
    raise RuntimeError(f"main.py ended before its first update:\n{output.getvalue()}")


def model_state_bytes(trainer: Any) -> int:
    """Size of weights, targets and optimiser moments."""
    nets = trainer.nets
    modules = (nets.actor, nets.critic, nets.actor_target, nets.critic_target)
    tensors = [p for module in modules for p in module.parameters()]
    for optimizer in (trainer.actor_optimizer, trainer.critic_optimizer):
        for moments in optimizer.state.values():
            tensors += [x for x in moments.values() if x.dim()]
    return sum(x.numel() * x.element_size() for x in tensors)


def write_dataset(path: Path, rows: int) -> None:
    """Write random rows in the published format of `TASK`, in episodes of 800 steps on average."""
    import h5py
    import numpy as np

    from benchmarks.measuring import TASK

    generator = np.random.default_rng(0)
    ends = generator.random(rows) < 1 / 800
    terminals = generator.random(rows) < 0.5
    observations = 0.01 * generator.standard_normal((rows, TASK.obs_dim), np.float32)
    following = np.roll(observations, -1, axis=0)
    following[ends] = 0
    arrays = {
        "observations": observations,
        "next_observations": following,
        "actions": generator.uniform(-1, 1, (rows, TASK.act_dim)).astype(np.float32),
        "rewards": generator.random(rows, np.float32),
        "terminals": ends & terminals,
        "timeouts": ends & ~terminals,
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", compression_opts=1)


def start_once(args: argparse.Namespace, folder: str, rows: int, *flags: str) -> dict[str, float]:
    """Start in a new process with a dataset of `rows` rows, which is created in `folder`."""
    from benchmarks.measuring import MIB, TASK, in_new_process

    data_dir = Path(folder) / f"{rows}"
    if not data_dir.exists():
        data_dir.mkdir()
        write_dataset(data_dir / f"{TASK.name}.hdf5", rows)
    given = ["--env", TASK.name, "--data_dir", str(data_dir), "--device", str(args.device)]
    given += ["--stoc", "0", "--use_entropy_reg", "0", "--batch_size", str(args.batch_size)]
    given += ["--run_dir", tempfile.mkdtemp(dir=folder), "--precision", args.precision, *flags]
    figures = in_new_process(run_to_first_update, given, time.time())
    # observations, actions, rewards in float32, and two flags
    figures["raw_arrays_mib"] = rows * (4 * (TASK.obs_dim + TASK.act_dim + 1) + 2) / MIB
    return figures


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The fastest of `--repeats` starts, and its memory relative to a small run."""
    with tempfile.TemporaryDirectory() as folder:
        starts = [start_once(args, folder, args.rows) for _ in range(args.repeats)]
        small = start_once(args, folder, SMALL_ROWS, *SMALL_MODEL)
    best = min(starts, key=lambda figures: figures["first_update_s"])
    best["small_peak_mib"] = small["peak_mib"]
    sizes = best["raw_arrays_mib"] + best["state_mib"]
    small_sizes = small["raw_arrays_mib"] + small["state_mib"]
    best["memory_ratio"] = (best["peak_mib"] - small["peak_mib"]) / (sizes - small_sizes)
    best["memory_ratio_with_libraries"] = (best["peak_mib"] - best["imports_mib"]) / sizes
    return best


def main() -> None:
    from benchmarks import measuring

    parser = measuring.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="transitions of the dataset")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2, help="starts; the fastest counts")
    args = parser.parse_args()
    print(f"{args.rows:,} rows, {args.precision}")
    measuring.report(args, measure(args))


if __name__ == "__main__":
    from utils import run_command  # loads torch, which the measured process times itself

    run_command(main)
