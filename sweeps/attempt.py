"""One attempt at a run: start or resume it, wait for its end, record its status."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from run.checkpoint import state_files
from run.files import OUTPUT_FILE, SWEEP_FILES, SWEEP_LOCK_FILE
from run.state import FINISHED, RUNNING, is_running
from run.stopping import EXIT_INTERRUPTED, EXIT_STOPPED
from sweeps.plan import SweepRun
from sweeps.state import Status, now, read_status, state_of_end

ROOT = Path(__file__).resolve().parents[1]
GUARD = Path(__file__).with_name("guard.py")
# seconds to wait until an earlier attempt has released the folder
_LOCK_TIMEOUT = 120.0


@dataclass(frozen=True)
class Allocation:
    """The resources of a run.

    Attributes:
        threads: Threads for PyTorch and NumPy.
        gpu: Whether the run may use a GPU.
        directory: Working directory, for relative paths among its flags.
        stop_file: If this file appears, the run is stopped. All machines share its file system.
    """

    threads: int
    gpu: bool
    directory: Path
    stop_file: Path | None = None

    def stop_requested(self) -> bool:
        return self.stop_file is not None and self.stop_file.exists()


def status_of(run: SweepRun) -> Status:
    """The recorded status of a run; a new one if there is no record yet."""
    return read_status(run.folder) or Status(run.sweep, run.task, run.method, run.seed)


def command_words(run: SweepRun) -> list[str]:
    """Arguments of main.py, to start the run or to resume the one in its folder."""
    where = "--resume" if state_files(run.folder) else "--run_dir"
    return [*run.flags, where, str(run.folder)]


def attempt(run: SweepRun, allocation: Allocation, stop: Callable[[], bool] = lambda: False) -> int:
    """Start main.py and wait for its end.

    The run is stopped, with a checkpoint, if `stop` returns True, the allocation's stop file
    appears or this process dies.

    Returns:
        main.py's exit code; 128 + N if signal N ended it.

    Raises:
        OSError: the folder is not usable, or another process is using it.
    """
    if allocation.stop_requested():
        return EXIT_STOPPED
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / SWEEP_LOCK_FILE, timeout=_LOCK_TIMEOUT):
        _wait_until_free(run.folder)
        status = status_of(run)
        if not state_files(run.folder):
            _start_over(run.folder)
        status.state, status.exit_code, status.message = RUNNING, None, ""
        status.attempts += 1
        status.host, status.started, status.ended = socket.gethostname(), now(), None
        status.write(run.folder)
        with (run.folder / OUTPUT_FILE).open("a") as output:
            output.write(f"--- attempt {status.attempts}, {status.started}, {status.host}\n")
            output.flush()
            process = _start(command_words(run), allocation, output.fileno())
        code = _wait(process, lambda: stop() or allocation.stop_requested())
        status.state, status.exit_code, status.ended = state_of_end(run.folder, code), code, now()
        status.message = "" if status.state == FINISHED else _reason(run.folder, code)
        status.write(run.folder)
    return code


def _wait_until_free(folder: Path) -> None:
    """Wait for an earlier attempt whose sweep died: its guard is stopping it."""
    until = time.monotonic() + _LOCK_TIMEOUT
    while is_running(folder):
        if time.monotonic() >= until:
            raise BlockingIOError(errno.EAGAIN, "another program is working on the run", folder)
        time.sleep(0.2)


def _start(words: list[str], allocation: Allocation, output: int) -> subprocess.Popen[bytes]:
    threads = str(allocation.threads)
    env = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    if not allocation.gpu:
        env["CUDA_VISIBLE_DEVICES"] = ""
    # a separate session, since Ctrl-C in the terminal is handled by the sweep
    return subprocess.Popen(
        [sys.executable, "-S", str(GUARD), sys.executable, str(ROOT / "main.py"), *words],
        stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, cwd=allocation.directory,
        env=env, start_new_session=True,
    )  # fmt: skip


def _wait(process: subprocess.Popen[bytes], stop: Callable[[], bool]) -> int:
    while process.poll() is None and not stop():
        time.sleep(0.1)
    if process.stdin is not None:
        # makes the guard stop the run
        process.stdin.close()
    return process.wait()


def _start_over(folder: Path) -> None:
    """Remove the files of an attempt that ended before its first checkpoint."""
    for path in folder.iterdir():
        if path.name in SWEEP_FILES:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _reason(folder: Path, code: int) -> str:
    """Why an attempt ended: its last line of output, or the signal."""
    if code > 128 and code != EXIT_INTERRUPTED:
        return f"killed by signal {code - 128}"
    with (folder / OUTPUT_FILE).open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    written = [line.strip() for line in lines if line.strip()]
    return written[-1][:500] if written else ""
