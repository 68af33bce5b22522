"""Run a command that must not outlive its parent process.

    python guard.py COMMAND...

Sends SIGTERM to the command, once, when this process gets SIGTERM or its standard input ends, which
happens when the parent dies. On Linux the command also gets SIGTERM when this process itself dies:
Ray kills the children of its workers. Exits with the command's exit code, 128 + N if signal N
ended it. Imports only the standard library, so that one such process per run is cheap.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from types import FrameType

_PR_SET_PDEATHSIG = 1


def main() -> int:
    # loaded before the fork; preexec_fn is safe here because there are no other threads yet
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    child = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        preexec_fn=(lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)) if prctl else None,
    )
    stopping = threading.Lock()

    def stop(number: int = 0, frame: FrameType | None = None) -> None:
        # a second signal would end the run without a checkpoint
        if stopping.acquire(blocking=False) and child.poll() is None:
            child.terminate()

    def wait_for_end() -> None:
        while os.read(0, 64):
            pass
        stop()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=wait_for_end, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
