"""Time and memory of main.py from its start to the end of its first update.

    python benchmarks/bench_start.py --rows 1000000 --json

The dataset is a generated file of hopper's form. The time is that of a new process: interpreter,
imports, reading the data, networks, one critic and one actor update on a batch of `--batch_size`
(1 by default, so that the update's own memory and time do not count). `memory_ratio` is the peak
of the resident set without what the imports take, divided by the raw arrays and the model's state
(weights, targets, moments of the optimisers).
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


class FirstUpdateDone(Exception):
    """Ends the run that is measured."""


def run_to_first_update(command_line: list[str], started: float) -> dict[str, Any]:
    """Run main.py in this process and stop it after its first update."""
    import main
    from benchmarks import measuring
    from trainer import Trainer

    figures: dict[str, Any] = {"imports_s": time.time() - started}
    imported = measuring.resident_bytes("VmRSS")
    update = Trainer.update

    def first_update(trainer: Any, *args: Any) -> None:
        figures["ready_s"] = time.time() - started
        update(trainer, *args)
        figures["first_update_s"] = time.time() - started
        peak = measuring.resident_bytes("VmHWM") - imported
        nets, optimizers = trainer.nets, (trainer.actor_optimizer, trainer.critic_optimizer)
        modules = (nets.actor, nets.critic, nets.actor_target, nets.critic_target)
        state = sum(p.numel() * p.element_size() for m in modules for p in m.parameters())
        for optimizer in optimizers:
            for moments in optimizer.state.values():
                state += sum(x.numel() * x.element_size() for x in moments.values() if x.dim())
        figures["imports_mib"], figures["peak_mib"] = imported / MIB, peak / MIB
        figures["state_mib"] = state / MIB
        raise FirstUpdateDone

    Trainer.update = first_update  # type: ignore[method-assign, assignment]
    try:
        main.main(command_line)
    except FirstUpdateDone:
        return figures
    raise RuntimeError("main.py ended before its first update")


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The fastest of `--repeats` starts."""
    from benchmarks.bench_load import write_dataset
    from envs.tasks import get_task

    task = get_task(TASK)
    raw = args.rows * (task.obs_dim + task.act_dim + 1) * 4 + 2 * args.rows
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / f"{TASK}.hdf5", task, args.rows, 800)
        for i in range(args.repeats):
            given = ["--env", TASK, "--data_dir", folder, "--device", args.device, "--stoc", "0"]
            given += ["--use_entropy_reg", "0", "--batch_size", str(args.batch_size)]
            given += ["--run_dir", f"{folder}/run{i}", "--precision", args.precision]
            child = [sys.executable, __file__, "--child", str(time.time()), json.dumps(given)]
            output = subprocess.run(child, check=True, capture_output=True, text=True).stdout
            figures = json.loads(output.splitlines()[-1])
            if not best or figures["first_update_s"] < best["first_update_s"]:
                best = figures
    best["raw_arrays_mib"] = raw / MIB
    best["memory_ratio"] = best["peak_mib"] / (best["raw_arrays_mib"] + best["state_mib"])
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
