"""One attempt at a run: start it or go on with it, wait for its end, write down what it is."""

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
from sweeps.plan import Run
from sweeps.state import Status, now, read_status, state_of_end

ROOT = Path(__file__).resolve().parents[1]
GUARD = Path(__file__).with_name("guard.py")
# seconds that an attempt waits for one before it to leave the folder
_PATIENCE = 120.0


@dataclass(frozen=True)
class Share:
    """What a run gets of the machine it runs on.

    Attributes:
        threads: How many threads its arithmetic may use.
        gpu: Whether it may use a GPU.
        directory: Where relative paths among its flags start.
        stop_file: A file whose appearance asks it to stop, on a file system that all share.
    """

    threads: int
    gpu: bool
    directory: Path
    stop_file: Path | None = None

    def stop_asked(self) -> bool:
        """Whether the file is there."""
        return self.stop_file is not None and self.stop_file.exists()


def status_of(run: Run) -> Status:
    """The status of a run, a new one where nothing is written of it yet."""
    return read_status(run.folder) or Status(run.sweep, run.task, run.method, run.seed)


def command_words(run: Run) -> list[str]:
    """main.py's arguments: those of a new run, or of going on with the one in the folder."""
    where = "--resume" if state_files(run.folder) else "--run_dir"
    return [*run.flags, where, str(run.folder)]


def attempt(run: Run, share: Share, stop: Callable[[], bool] = lambda: False) -> int:
    """Start main.py and wait for its end.

    `stop`, the share's file and this process's own death ask the run to stop, which it does with
    a checkpoint.

    Returns:
        main.py's exit code; 128 + N if signal N ended it.

    Raises:
        OSError: the folder cannot be used, or another process works in it.
    """
    if share.stop_asked():
        return EXIT_STOPPED
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / SWEEP_LOCK_FILE, timeout=_PATIENCE):
        _wait_until_left(run.folder)
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
            process = _start(command_words(run), share, output.fileno())
        code = _wait(process, lambda: stop() or share.stop_asked())
        status.state, status.exit_code, status.ended = state_of_end(run.folder, code), code, now()
        status.message = "" if status.state == FINISHED else _reason(run.folder, code)
        status.write(run.folder)
    return code


def _wait_until_left(folder: Path) -> None:
    """Wait for an attempt whose sweep died: its guard has asked it to stop."""
    until = time.monotonic() + _PATIENCE
    while is_running(folder):
        if time.monotonic() >= until:
            raise BlockingIOError(errno.EAGAIN, "another program is at work on the run", folder)
        time.sleep(0.2)


def _start(words: list[str], share: Share, output: int) -> subprocess.Popen[bytes]:
    threads = str(share.threads)
    env = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    if not share.gpu:
        env["CUDA_VISIBLE_DEVICES"] = ""
    # a session of its own: Ctrl-C in the terminal is the sweep's to handle
    return subprocess.Popen(
        [sys.executable, "-S", str(GUARD), sys.executable, str(ROOT / "main.py"), *words],
        stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, cwd=share.directory,
        env=env, start_new_session=True,
    )  # fmt: skip


def _wait(process: subprocess.Popen[bytes], stop: Callable[[], bool]) -> int:
    while process.poll() is None and not stop():
        time.sleep(0.1)
    if process.stdin is not None:
        # the guard takes it as the word to stop
        process.stdin.close()
    return process.wait()


def _start_over(folder: Path) -> None:
    """Remove what an attempt left that ended before its first checkpoint."""
    for path in folder.iterdir():
        if path.name in SWEEP_FILES:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _reason(folder: Path, code: int) -> str:
    """Why it ended with that exit code: the last thing that it said, or the signal."""
    if code > 128 and code != EXIT_INTERRUPTED:
        return f"killed by signal {code - 128}"
    with (folder / OUTPUT_FILE).open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:500] if said else ""
