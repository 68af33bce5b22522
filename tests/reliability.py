"""Break runs on purpose, and write down what was left: docs/RELIABILITY.md.

    python -m tests.reliability [--out docs/RELIABILITY.md] [--kills 30] [--iterations 2000]

Kills a run at random moments and resumes it, fills its disk, cuts its checkpoints short, and
lets one run for thousands of iterations. Every check compares with an undisturbed run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch

from get_args import parse_args
from main import EXIT_STOPPED, Experiment
from run.checkpoint import load_checkpoint, read_file, state_files
from run.files import CHECKPOINT_FOLDER, CONFIG_FILE
from tasks import get_task
from tests.conftest import ROOT
from tests.fuzz_readers import KINDS, fuzz_apart
from utils import UserError, half_written

TASK = "maze2d-umaze-v1"
TINY = [
    "--env", TASK, "--device", "cpu", "--stoc", "0", "--use_entropy_reg", "0",
    "--K", "2", "--eval_context_length", "2", "--embed_dim", "16", "--n_layer", "1",
    "--n_head", "1", "--batch_size", "16", "--num_eval_episodes", "1", "--log_to_tb", "0",
    "--replay_size", "60", "--num_updates_per_pretrain_iter", "100", "--warmup_steps", "10",
]  # fmt: skip
KILLED_RUN = [
    "--max_pretrain_iters", "8", "--max_online_iters", "150", "--eval_interval", "5",
    "--num_updates_per_online_iter", "60", "--checkpoint_interval", "1",
]  # fmt: skip


MID_WRITE = "in the middle of writing a checkpoint"


@dataclass
class Finding:
    """One line of the report.

    Attributes:
        check: What was done.
        result: What was seen, in figures.
        passed: Whether that is what is promised.
    """

    check: str
    result: str
    passed: bool


def write_dataset(folder: Path) -> None:
    """A small dataset of random numbers."""
    task, rng, rows = get_task(TASK), np.random.default_rng(0), 3000
    with h5py.File(folder / f"{TASK}.hdf5", "w") as file:
        file["observations"] = rng.normal(size=(rows, task.obs_dim)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (rows, task.act_dim)).astype(np.float32)
        file["rewards"] = rng.normal(size=rows).astype(np.float32)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = rng.random(rows) < 0.02


def start(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "main.py"), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(*flags: str) -> tuple[int, str]:
    """Run to the end: exit code and what was said on standard error."""
    process = start(*flags)
    _, error = process.communicate()
    return process.returncode, error


def rows_of(run_dir: Path) -> list[dict[str, object]]:
    """The metrics of a run, without those that measure time."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def same_weights(one: Path, two: Path) -> bool:
    states = [load_checkpoint(run_dir, "cpu")["trainer"] for run_dir in (one, two)]
    nets = ("actor", "critic", "actor_target", "critic_target")
    return all(
        torch.equal(states[0][net][key], states[1][net][key])
        for net in nets
        for key in states[0][net]
    )


def equal_runs(one: Path, two: Path) -> bool:
    return rows_of(one) == rows_of(two) and same_weights(one, two)


def undisturbed(folder: Path) -> tuple[Path, float]:
    """A run that nothing happens to, and the seconds that it took to start."""
    run_dir = folder / "whole"
    begun = time.monotonic()
    process = start(*TINY, *KILLED_RUN, "--data_dir", str(folder), "--run_dir", str(run_dir))
    while not (run_dir / CONFIG_FILE).exists() and process.poll() is None:
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    _, error = process.communicate()
    if process.returncode:
        raise UserError(f"the undisturbed run failed: {error}")
    return run_dir, seconds


def phase_of(run_dir: Path, started: bool) -> str:
    """What a run that was killed was at."""
    if half_written(run_dir / CHECKPOINT_FOLDER):
        return MID_WRITE
    if not started:
        return "before the first checkpoint"
    return f"in the {rows_of(run_dir)[-1]['phase']} phase"


def check_kills(folder: Path, kills: int, seed: int) -> Finding:
    """kill -9 at random moments, resumed each time."""
    name = "kill -9 at random moments"
    whole, seconds = undisturbed(folder)
    run_dir, rng, resumed = folder / "killed", random.Random(seed), 0
    first = [*TINY, *KILLED_RUN, "--data_dir", str(folder), "--run_dir", str(run_dir)]
    places: Counter[str] = Counter()
    while True:
        started = bool(state_files(run_dir))
        if not started:
            shutil.rmtree(run_dir, ignore_errors=True)
        process = start(*(["--resume", str(run_dir)] if started else first))
        resumed += started
        if places.total() < kills:
            with contextlib.suppress(subprocess.TimeoutExpired):
                # while it starts, or some time after
                process.wait(seconds * rng.uniform(0.5, 3.0))
        if places.total() < kills and process.poll() is None:
            process.kill()
            process.communicate()
            places[phase_of(run_dir, bool(state_files(run_dir)))] += 1
            continue
        _, error = process.communicate()
        if process.returncode:
            return Finding(name, f"a resumed run failed: {error.strip()}", False)
        break
    same = equal_runs(whole, run_dir)
    where = ", ".join(f"{count} {place}" for place, count in sorted(places.items()))
    text = f"{places.total()} kills (seed {seed}: {where}), resumed {resumed} times: "
    text += "metrics and weights " + ("equal" if same else "DIFFER")
    # kills that all fall into the start would prove nothing
    online = places["in the online phase"] + places[MID_WRITE] > 0
    return Finding(name, text, same and places.total() == kills and online)


def check_signal(folder: Path) -> Finding:
    """SIGTERM in the middle of an iteration."""
    run_dir = folder / "stopped"
    flags = [*TINY, *KILLED_RUN, "--data_dir", str(folder), "--run_dir", str(run_dir)]
    process = start(*flags)
    while not (run_dir / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    tick = load_checkpoint(run_dir, "cpu")["trainer"]["tick"]
    code, _ = finish("--resume", str(run_dir))
    same = code == 0 and equal_runs(folder / "whole", run_dir)
    told = process.returncode == EXIT_STOPPED and "--resume" in error
    text = f"exit code {process.returncode}, checkpoint after batch {tick} of the iteration; "
    text += f"resumed run {'equal' if same else 'DIFFERS'}"
    return Finding("SIGTERM in an iteration", text, same and told)


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of its own, where this user may mount one.

    Raises:
        UserError: no.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        raise UserError("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def check_full_disk(folder: Path) -> Finding:
    """A disk that fills up while the run goes on."""
    name = "disk full"
    try:
        with small_disk(folder / "disk", 12) as disk:
            run_dir = disk / "run"
            ballast = disk / "ballast"
            flags = [*TINY, *KILLED_RUN, "--data_dir", str(folder), "--run_dir", str(run_dir)]
            process = start(*flags)
            while len(state_files(run_dir)) < 2 and process.poll() is None:
                time.sleep(0.05)
            with contextlib.suppress(OSError):
                ballast.write_bytes(b"0" * (12 << 20))
            _, error = process.communicate()
            shutil.copytree(run_dir, folder / "saved")
    except UserError as problem:
        return Finding(name, f"not run: {problem}", True)
    kept = [path.name for path in state_files(folder / "saved")]
    code, resume_error = finish("--resume", str(folder / "saved"))
    same = code == 0 and equal_runs(folder / "whole", folder / "saved")
    text = f"exit code {process.returncode} ({error.strip().splitlines()[-1] if error else 'none'}"
    text += f"); {len(kept)} checkpoints left; resumed elsewhere: "
    text += "equal" if same else f"DIFFERS {resume_error.strip()}"
    return Finding(name, text.replace(str(folder), "..."), same)


def check_truncation(folder: Path) -> Finding:
    """A checkpoint cut at every 5% of its length."""
    path = state_files(folder / "whole")[0]
    whole, refused = path.read_bytes(), 0
    for share in range(0, 100, 5):
        cut = folder / "cut.pt"
        cut.write_bytes(whole[: len(whole) * share // 100])
        with contextlib.suppress(UserError):
            read_file(cut, "cpu")
            continue
        refused += 1
    text = f"{refused} of 20 cut files refused, in one line each"
    return Finding("checkpoint cut short", text, refused == 20)


def memory_mib() -> float:
    fields = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in fields if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def check_soak(folder: Path, iterations: int) -> Finding:
    """Thousands of online iterations in one process: memory and open files."""
    flags = [*TINY, "--data_dir", str(folder), "--run_dir", str(folder / "soak")]
    flags += ["--max_pretrain_iters", "1", "--max_online_iters", str(iterations)]
    flags += ["--num_updates_per_online_iter", "3", "--eval_interval", "100"]
    flags += ["--checkpoint_interval", "50", "--max_online_transitions", "100000000"]
    seen: list[tuple[float, int]] = []

    class Watched(Experiment):
        def _finish_iteration(self, metrics: dict[str, float], last: bool) -> None:
            super()._finish_iteration(metrics, last)
            if self.iterations["online"] % (iterations // 20) == 0:
                seen.append((memory_mib(), len(list(Path("/proc/self/fd").iterdir()))))

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        Watched(parse_args(flags)).run()
    # the buffer has filled and the allocator has settled after a quarter
    settled = seen[len(seen) // 4 :]
    low, high = min(m for m, _ in settled), max(m for m, _ in settled)
    handles = {count for _, count in settled}
    text = f"{iterations} iterations: {low:.0f} to {high:.0f} MiB, {sorted(handles)} open files"
    return Finding("soak", text, high - low < 30 and len(handles) == 1)


def check_damage(kind: str, seed: int, count: int) -> Finding:
    """Files with random damage."""
    outcome = fuzz_apart(kind, seed, count)
    text = f"{count:,} files (seed {seed}): {outcome.refused:,} refused in one line, "
    text += f"{outcome.accepted:,} accepted, whole"
    if outcome.failures:
        text += f"; {len(outcome.failures)} FAILED, first: {outcome.failures[0]}"
    return Finding(f"random damage to `{kind}` files", text, not outcome.failures)


HEAD = """# Reliability

What happens to a run when it is killed, stopped, or its disk fills up, as figures. This page is
written by `make reliability` (`scripts/reliability.py`), which breaks tiny runs of {task} on
purpose and compares each with an undisturbed one, to the bit.

| check | seen | kept its promise |
|---|---|---|
"""

PROMISES = """
What is promised:

- A checkpoint is written beside the ones before, read back, and only then takes its name; the
  newest `--keep_checkpoints` stay, and the policy of the best evaluation is beside them.
- `--resume` goes on from the newest checkpoint that is whole. On one machine its metrics and
  weights are those of a run that was never interrupted, wherever that happened.
- SIGTERM and SIGINT end the run after the update at hand, with a checkpoint, exit code 75 and the
  command that goes on. A second signal ends it at once.
- A checkpoint's cost does not grow with the offline data, which it does not contain, nor with the
  collected trajectories, each of which is written once.
- A loss that is NaN or infinite ends the run with exit code 3 and the flag to try; the last
  checkpoint is from before.
- Files are read without executing anything: `torch.load(weights_only=True)` and a check of every
  byte first.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "RELIABILITY.md")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--files", type=int, default=2000, help="damaged files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    findings = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder)
        checks: list[Callable[[], Finding]] = [
            lambda: check_kills(folder, args.kills, args.seed),
            lambda: check_signal(folder),
            lambda: check_full_disk(folder),
            lambda: check_truncation(folder),
            lambda: check_soak(folder, args.iterations),
            *(partial(check_damage, kind, args.seed, args.files) for kind in KINDS),
        ]
        for check in checks:
            finding = check()
            findings.append(finding)
            print(f"{'ok  ' if finding.passed else 'FAIL'} {finding.check}: {finding.result}")
    table = "\n".join(
        f"| {each.check} | {each.result} | {'yes' if each.passed else 'NO'} |" for each in findings
    )
    args.out.write_text(HEAD.format(task=TASK) + table + "\n" + PROMISES)
    return 0 if all(finding.passed for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
