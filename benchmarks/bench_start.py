"""Time and memory of main.py from its start to the end of its first update.

    python benchmarks/bench_start.py --rows 1000000 --json

The dataset is a generated file of hopper's form. The time is that of a new process: interpreter,
imports, reading the data, networks, one critic and one actor update on a batch of `--batch_size`
(1 by default, so that the update's own memory and time do not count).

Memory is the peak of the resident set at the third update. `memory_ratio` is what it is above that
of the same program on a dataset of 2,000 rows with a model of width 32, divided by the raw arrays
and the model's state (weights, targets, moments of the optimisers), less those of the small run.
So libraries, environments and the code of kernels, which every run has, do not count.
`memory_ratio_with_libraries` counts all that is not there after the imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MIB = 2**20
TASK = "hopper-medium-v2"
# the run whose memory is that of libraries and environments
SMALL_ROWS, SMALL_MODEL = 2_000, ["--embed_dim", "32", "--n_head", "2"]
# what grows until then are buffers that later updates use again
UPDATES = 3


class FirstUpdateDone(Exception):
    """Ends the run that is measured."""


def run_to_first_update(command_line: list[str], started: float) -> dict[str, Any]:
    """Run main.py in this process and stop it after its first updates."""
    import main
    from benchmarks import measuring
    from trainer import Trainer

    figures: dict[str, Any] = {"imports_s": time.time() - started}
    imported = measuring.resident_bytes("VmRSS")
    update = Trainer.update

    def first_updates(trainer: Any, *args: Any) -> None:
        figures["ready_s"] = time.time() - started
        update(trainer, *args)
        figures["first_update_s"] = time.time() - started
        for _ in range(UPDATES - 1):
            update(trainer, *args)
        peak = measuring.resident_bytes("VmHWM")
        figures["imports_mib"], figures["peak_mib"] = imported / MIB, peak / MIB
        figures["state_mib"] = model_state_bytes(trainer) / MIB
        raise FirstUpdateDone

    Trainer.update = first_updates  # type: ignore[method-assign, assignment]
    try:
        main.main(command_line)
    except FirstUpdateDone:
        return figures
    raise RuntimeError("main.py ended before its first update")


def model_state_bytes(trainer: Any) -> int:
    """Weights, targets and the optimisers' moments."""
    nets = trainer.nets
    modules = (nets.actor, nets.critic, nets.actor_target, nets.critic_target)
    tensors = [p for module in modules for p in module.parameters()]
    for optimizer in (trainer.actor_optimizer, trainer.critic_optimizer):
        for moments in optimizer.state.values():
            tensors += [x for x in moments.values() if x.dim()]
    return sum(x.numel() * x.element_size() for x in tensors)


def start_once(args: argparse.Namespace, folder: str, rows: int, *flags: str) -> dict[str, float]:
    """One new process on a dataset of so many rows, which is written into `folder` if need be."""
    from benchmarks.bench_load import write_dataset
    from tasks import get_task

    task, data_dir = get_task(TASK), Path(folder) / f"{rows}"
    if not data_dir.exists():
        data_dir.mkdir()
        write_dataset(data_dir / f"{TASK}.hdf5", task, rows, 800)
    given = ["--env", TASK, "--data_dir", str(data_dir), "--device", args.device, "--stoc", "0"]
    given += ["--use_entropy_reg", "0", "--batch_size", str(args.batch_size)]
    given += ["--run_dir", tempfile.mkdtemp(dir=folder), "--precision", args.precision, *flags]
    child = [sys.executable, __file__, "--child", str(time.time()), json.dumps(given)]
    output = subprocess.run(child, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    # observations, actions, rewards in float32, and two flags
    figures["raw_arrays_mib"] = rows * (4 * (task.obs_dim + task.act_dim + 1) + 2) / MIB
    return figures


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The fastest of `--repeats` starts, and its memory beside that of a small run."""
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
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(run_to_first_update(json.loads(sys.argv[3]), float(sys.argv[2]))))
        return
    from benchmarks import measuring

    parser = measuring.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="transitions of the dataset")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2, help="the fastest of so many counts")
    args = parser.parse_args()
    print(f"{args.rows:,} rows, {args.precision}")
    measuring.report(args, measure(args))


if __name__ == "__main__":
    main()
