"""Kill, stop and damage tiny runs, and report the results in docs/RELIABILITY.md.

    python -m tests.reliability [--out docs/RELIABILITY.md] [--kills 30] [--iterations 2000]

Every check compares with an undisturbed run, bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
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

import torch

from get_args import parse_args
from main import Experiment
from run.checkpoint import load_checkpoint, read_file, state_files
from run.files import CHECKPOINT_FOLDER, CONFIG_FILE, METRICS_FILE
from run.stopping import EXIT_STOPPED
from tasks import get_task
from tests.conftest import ROOT
from tests.data_files import random_arrays, write
from tests.fuzz_readers import KINDS, fuzz_apart
from tests.tiny_runs import metrics_of, same_weights
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
MID_WRITE = "while writing a checkpoint"


@dataclass
class Finding:
    """One row of the report.

    Attributes:
        check: The name of the check.
        result: The result, in figures.
        passed: Whether the guarantee held.
    """

    check: str
    result: str
    passed: bool


def start(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "main.py"), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def start_run(folder: Path, run_dir: Path) -> subprocess.Popen[str]:
    return start(*TINY, *KILLED_RUN, "--data_dir", str(folder), "--run_dir", str(run_dir))


def resume(run_dir: Path) -> tuple[int, str]:
    """Resume a run to its end; returns the exit code and standard error."""
    process = start("--resume", str(run_dir))
    _, error = process.communicate()
    return process.returncode, error.strip()


def equal_runs(one: Path, two: Path) -> bool:
    return metrics_of(one) == metrics_of(two) and same_weights(one, two)


def undisturbed(folder: Path) -> tuple[Path, float]:
    """A run without interruption, and the seconds it took to start."""
    run_dir, begun = folder / "whole", time.monotonic()
    process = start_run(folder, run_dir)
    while not (run_dir / CONFIG_FILE).exists() and process.poll() is None:
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    _, error = process.communicate()
    if process.returncode:
        raise UserError(f"the undisturbed run failed: {error}")
    return run_dir, seconds


def phase_of(run_dir: Path, started: bool) -> str:
    """Where a run was killed."""
    if half_written(run_dir / CHECKPOINT_FOLDER):
        return MID_WRITE
    if not started:
        return "before the first checkpoint"
    return f"in the {metrics_of(run_dir)[-1]['phase']} phase"


def check_kills(folder: Path, kills: int, seed: int) -> Finding:
    """Kill a run with SIGKILL at random moments, and resume it each time."""
    name = "kill -9 at random moments"
    whole, seconds = undisturbed(folder)
    run_dir, rng, resumed = folder / "killed", random.Random(seed), 0
    places: Counter[str] = Counter()
    while True:
        started = bool(state_files(run_dir))
        if not started:
            shutil.rmtree(run_dir, ignore_errors=True)
        process = start("--resume", str(run_dir)) if started else start_run(folder, run_dir)
        resumed += started
        if places.total() < kills:
            with contextlib.suppress(subprocess.TimeoutExpired):
                # during startup or afterwards
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
    text += "metrics and weights " + ("identical" if same else "DIFFER")
    # kills during startup alone would prove nothing
    online = places["in the online phase"] + places[MID_WRITE] > 0
    return Finding(name, text, same and places.total() == kills and online)


def check_signal(folder: Path) -> Finding:
    """Send SIGTERM in the middle of an iteration."""
    run_dir = folder / "stopped"
    process = start_run(folder, run_dir)
    while not (run_dir / METRICS_FILE).exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    tick = load_checkpoint(run_dir)["trainer"]["tick"]
    code, _ = resume(run_dir)
    same = code == 0 and equal_runs(folder / "whole", run_dir)
    advised = process.returncode == EXIT_STOPPED and "--resume" in error
    text = f"exit code {process.returncode}, checkpoint after batch {tick} of the iteration; "
    text += f"resumed run {'identical' if same else 'DIFFERS'}"
    return Finding("SIGTERM during an iteration", text, same and advised)


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A small separate file system.

    Raises:
        UserError: this user cannot mount one.
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
    """Fill the disk during a run."""
    name = "disk full"
    try:
        with small_disk(folder / "disk", 12) as disk:
            process = start_run(folder, disk / "run")
            while len(state_files(disk / "run")) < 2 and process.poll() is None:
                time.sleep(0.05)
            with contextlib.suppress(OSError):
                (disk / "ballast").write_bytes(b"0" * (12 << 20))
            _, error = process.communicate()
            shutil.copytree(disk / "run", folder / "saved")
    except UserError as problem:
        return Finding(name, f"not run: {problem}", True)
    kept = len(state_files(folder / "saved"))
    code, resume_error = resume(folder / "saved")
    same = code == 0 and equal_runs(folder / "whole", folder / "saved")
    last = error.strip().splitlines()[-1] if error else "no error"
    text = f"exit code {process.returncode} ({last}); {kept} checkpoints kept; resumed elsewhere: "
    text += "identical" if same else f"DIFFERS {resume_error}"
    return Finding(name, text.replace(str(folder), "..."), same)


def check_truncation(folder: Path) -> Finding:
    """Truncate a checkpoint at every 5% of its length."""
    whole, refused = state_files(folder / "whole")[0].read_bytes(), 0
    for share in range(0, 100, 5):
        cut = folder / "cut.pt"
        cut.write_bytes(whole[: len(whole) * share // 100])
        try:
            read_file(cut)
        except UserError as error:
            refused += "\n" not in str(error)
    text = f"{refused} of 20 truncated files refused with a one-line error"
    return Finding("truncated checkpoint", text, refused == 20)


def memory_mib() -> float:
    fields = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in fields if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def check_soak(folder: Path, iterations: int) -> Finding:
    """Watch memory and open files over thousands of online iterations in one process."""
    flags = [*TINY, "--data_dir", str(folder), "--run_dir", str(folder / "soak")]
    flags += ["--max_pretrain_iters", "1", "--max_online_iters", str(iterations)]
    flags += ["--num_updates_per_online_iter", "3", "--eval_interval", "100"]
    flags += ["--checkpoint_interval", "50", "--max_online_transitions", "100000000"]
    seen: list[tuple[float, int]] = []

    class Watched(Experiment):
        def _finish_iteration(self, metrics: dict[str, float], last: bool) -> None:
            super()._finish_iteration(metrics, last)
            if self.progress.iterations["online"] % (iterations // 20) == 0:
                seen.append((memory_mib(), len(list(Path("/proc/self/fd").iterdir()))))

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        Watched(parse_args(flags)).run()
    # after the first quarter, the buffer is full and the allocator has settled
    memory, files = zip(*seen[len(seen) // 4 :], strict=True)
    low, high, handles = min(memory), max(memory), sorted({min(files), max(files)})
    text = f"{iterations:,} iterations: {low:.0f} to {high:.0f} MiB of memory, "
    text += f"{' to '.join(map(str, handles))} open files"
    return Finding("soak test", text, high - low < 30 and len(handles) == 1)


def check_damage(kind: str, seed: int, count: int) -> Finding:
    """Read files with random damage."""
    outcome = fuzz_apart(kind, seed, count)
    text = f"{count:,} files (seed {seed}): {outcome.refused:,} refused with a one-line error, "
    text += f"{outcome.accepted:,} accepted as valid"
    if outcome.failures:
        text += f"; {len(outcome.failures)} FAILED, first: {outcome.failures[0]}"
    return Finding(f"random damage to `{kind}` files", text, not outcome.failures)


HEAD = f"""# Reliability

`make reliability` (`python -m tests.reliability`, about 15 minutes) kills, stops and resumes tiny
runs of {TASK}, fills their disk, and damages files of every kind that the program reads.
It compares each resumed run with an undisturbed one, bit for bit, and writes this page.

| check | result | passed |
|---|---|---|
"""

GUARANTEES = """
The reader of a damaged file passes if it refuses the file with a one-line error or returns valid
content: the original weights of checkpoints and policies, finite arrays of the right shapes for
datasets, valid settings for `config.json`. `python -m tests.fuzz_readers` runs these checks alone.

## Guarantees

- **Checkpoints** are written to a temporary file, read back and then renamed. The newest
  `--keep_checkpoints` are kept, along with the policy of the best evaluation.
- **Resuming.** `--resume` continues from the newest intact checkpoint. On one machine, metrics and
  weights are identical to those of an uninterrupted run, wherever the interruption happened.
- **Signals.** On SIGTERM, SIGINT, SIGHUP, SIGUSR1 or SIGXCPU, a run finishes the current update,
  writes a checkpoint, prints the command to resume and exits with code 75. A second Ctrl-C, or
  another signal more than 5 seconds later, ends it immediately.
- **Cost.** A checkpoint does not contain the offline data, and each collected trajectory is written
  only once, so the cost of a checkpoint grows with neither.
- **Divergence.** A loss or a weight that is NaN or infinite ends the run with exit code 3 and an
  error that suggests a flag to change. The last checkpoint predates the divergence.
- **Untrusted files.** Reading a file executes nothing in it. Checkpoints are verified by checksum
  and loaded with `torch.load(weights_only=True)`; pickled datasets are read by a `pickle.Unpickler`
  with a `find_class` whitelist.

"""

LIMITS = """## Limits

- Pickle memory bombs (tiny files that expand hugely) are not guarded against.
- Damaged HDF5 global heaps are not checked before reading; the HDF5 library can hang on them.
"""


def page(findings: list[Finding]) -> str:
    """The content of docs/RELIABILITY.md."""
    rows = [f"| {f.check} | {f.result} | {'yes' if f.passed else 'NO'} |\n" for f in findings]
    return HEAD + "".join(rows) + GUARANTEES + LIMITS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "RELIABILITY.md")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--iterations", type=int, default=2000, help="of the soak test")
    parser.add_argument("--files", type=int, default=2000, help="damaged files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    findings = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / f"{TASK}.hdf5", random_arrays(get_task(TASK), 3000, seed=0, ends=0.01))
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
    args.out.write_text(page(findings))
    return 0 if all(finding.passed for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
