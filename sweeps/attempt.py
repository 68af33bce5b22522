"""One attempt at a run: a process of main.py that starts or resumes it, and its status."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from run.checkpoint import state_files
from run.files import OUTPUT_FILE, SWEEP_FILES, SWEEP_LOCK_FILE
from run.state import FINISHED, RUNNING, is_running
from run.stopping import EXIT_INTERRUPTED, EXIT_OUT_OF_MEMORY, EXIT_USER_ERROR
from sweeps.folders import fail, is_ready, plan, status_of
from sweeps.plan import SweepRun
from sweeps.state import ENDED, PRUNED, Status, now, state_of_end

ROOT = Path(__file__).resolve().parents[1]
# seconds to wait until an earlier attempt has released the folder
_LOCK_TIMEOUT = 120.0
# Runs a command that gets SIGXCPU when its parent dies, by prctl(PR_SET_PDEATHSIG). Of the signals
# that stop a run, only this one may arrive in addition to another: see run/stopping.py.
_STOP_WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGXCPU); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Allocation:
    """The resources of a run.

    Attributes:
        threads: Threads for PyTorch and NumPy.
        gpus: GPUs of the run, may be below 1.
        directory: Working directory, for relative paths among its flags.
        script: The program; None for the run's own.
    """

    threads: int
    gpus: float
    directory: Path
    script: Path | None = None


def command_words(run: SweepRun) -> list[str]:
    """Arguments of main.py, to start the run or to resume the one in its folder."""
    where = "--resume" if state_files(run.folder) else "--run_dir"
    return [*run.flags, where, str(run.folder)]


class Attempt:
    """A process of main.py for a run; if this process dies, it stops with a checkpoint.

    Raises:
        OSError: the folder is not usable, or another process is using it.
    """

    def __init__(self, run: SweepRun, allocation: Allocation) -> None:
        self._run, self._stopping = run, False
        self._code: int | None = None
        run.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(run.folder)
        try:
            self._process = self._start(allocation)
        except BaseException:
            self._lock.release()
            raise

    def _start(self, allocation: Allocation) -> subprocess.Popen[bytes]:
        folder = self._run.folder
        if not state_files(folder):
            _remove_files(folder)
        status = status_of(self._run)
        status.state, status.exit_code, status.message = RUNNING, None, ""
        status.attempts += 1
        status.host, status.started, status.ended = socket.gethostname(), now(), None
        status.write(folder)
        threads = str(allocation.threads)
        env = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        if not allocation.gpus:
            env["CUDA_VISIBLE_DEVICES"] = ""
        script = allocation.script or ROOT / self._run.program
        command = [sys.executable, str(script), *command_words(self._run)]
        if sys.platform == "linux":
            command = [sys.executable, "-S", "-c", _STOP_WITH_PARENT, *command]
        with (folder / OUTPUT_FILE).open("a") as output:
            output.write(f"--- attempt {status.attempts}, {status.started}, {status.host}\n")
            output.flush()
            # a separate session, since Ctrl-C in the terminal is handled by the sweep
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=allocation.directory, env=env, start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the end of the run, record it in its status, and release the folder.

        Args:
            seconds: How long to wait at most.

        Returns:
            The exit code, 128 + N if signal N ended the run; None if it is still running.
        """
        if self._code is None:
            try:
                code = self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None
            self._code = code if code >= 0 else 128 - code
            self._record(self._code)
            self._lock.release()
        return self._code

    def stop(self) -> None:
        """Let the run stop after its current update, with a checkpoint."""
        # a second signal would end it without one
        if not self._stopping:
            self._stopping = True
            self._process.terminate()

    def _record(self, code: int) -> None:
        status = status_of(self._run)
        status.exit_code, status.ended = code, now()
        if status.state != PRUNED:
            status.state = state_of_end(self._run.folder, code)
            ended = status.state == FINISHED
            status.message = "" if ended else _reason(self._run.folder, code)
        status.write(self._run.folder)


def retried(status: Status, gpus: float) -> bool:
    """Whether another attempt may succeed where this one ended.

    A run that main.py refused fails again. So does one that is out of memory, unless it shares a
    GPU with others.
    """
    shared = 0 < gpus < 1
    hopeless = (EXIT_USER_ERROR,) if shared else (EXIT_USER_ERROR, EXIT_OUT_OF_MEMORY)
    return status.state not in ENDED and status.exit_code not in hopeless


def run_here(
    runs: Sequence[SweepRun], retries: int, allocation: Allocation, stop: Callable[[], bool],
    show: Callable[[], None],
) -> None:  # fmt: skip
    """Run one after another on this machine, without Ray; `show` is called repeatedly."""
    plan(runs)
    for run in runs:
        for _ in range(1 + retries):
            if stop():
                return
            if not is_ready(run):
                break
            try:
                attempt = Attempt(run, allocation)
                while attempt.wait(0.1) is None:
                    if stop():
                        attempt.stop()
                    show()
            except OSError as error:
                fail(run, str(error))
            show()
            if not retried(status_of(run), allocation.gpus):
                break


def _lock(folder: Path) -> FileLock:
    """Lock a folder, after an earlier attempt that is stopping because its sweep died.

    Raises:
        OSError: another program is working on the run.
    """
    # a soft lock would remain after a crash and block the run for ever
    lock = FileLock(folder / SWEEP_LOCK_FILE, fallback_to_soft=False)
    until = time.monotonic() + _LOCK_TIMEOUT
    busy = BlockingIOError(errno.EAGAIN, "another program is working on the run")
    try:
        lock.acquire(_LOCK_TIMEOUT)
    except Timeout:
        raise busy from None
    except OSError:
        # a file system without locks, about which main.py warns
        return lock
    while is_running(folder):
        if time.monotonic() >= until:
            lock.release()
            raise busy
        time.sleep(0.2)
    return lock


def _remove_files(folder: Path) -> None:
    """Remove the files of an attempt that ended before its first checkpoint."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in SWEEP_FILES:
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
