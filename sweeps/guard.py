"""Run a command that must not outlive whoever asked for it.

    python guard.py COMMAND...

The command is asked to stop by SIGTERM, once, when this process gets SIGTERM or when its standard
input ends, which it does when the process at the other end dies, however that happens. On Linux
that holds for this process's own death too: Ray kills the children of its workers. The exit code
is the command's, 128 + N if signal N ended it. Needs nothing but Python, so that one such process
per run is cheap.
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
    # looked up before the fork; there are no threads yet, so that a function may run after it
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    child = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        preexec_fn=(lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)) if prctl else None,
    )
    asked = threading.Lock()

    def stop(number: int = 0, frame: FrameType | None = None) -> None:
        # a second signal would make the run end without a checkpoint
        if asked.acquire(blocking=False) and child.poll() is None:
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
