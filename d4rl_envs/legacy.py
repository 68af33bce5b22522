"""The benchmark's original environments (gym, d4rl, mujoco-py) in a separate process.

The original stack needs Python 3.8 to 3.10, so `legacy_worker.py` runs it with another interpreter.
This module starts the worker and communicates with it over pipes; nothing is pickled.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from d4rl_envs.errors import UserError
from d4rl_envs.legacy_worker import decode_arrays, decode_header, encode, header_size
from d4rl_envs.tasks import D4RLTask
from d4rl_envs.vector import EnvVector

PYTHON_VARIABLE = "ODT_LEGACY_PYTHON"
WORKER = Path(__file__).with_name("legacy_worker.py")
_ROOT = Path(__file__).resolve().parents[1]
_RECIPE = "install it with `make legacy`, see docs/ENVIRONMENTS.md"
# seconds; mujoco-py compiles itself when it is first imported
START_TIMEOUT, ANSWER_TIMEOUT = 900.0, 120.0
# an episode is a success once its goal was achieved in more than this many steps
SUCCESS_STEPS = {"antmaze": 0, "pen": 20, "hammer": 25, "door": 25, "relocate": 25}

Arrays = dict[str, np.ndarray]


def legacy_python(path: str = "") -> Path:
    """The interpreter of the original stack: `path`, else ODT_LEGACY_PYTHON, else .venv-legacy.

    Raises:
        UserError: there is no such interpreter.
    """
    variable = os.environ.get(PYTHON_VARIABLE, "")
    # not resolved, because a virtual environment's interpreter is a symbolic link
    python = Path(path or variable or _ROOT / ".venv-legacy" / "bin" / "python").absolute()
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise UserError(
            f"{python}: no interpreter for the original environments here; set --legacy_python or "
            f"{PYTHON_VARIABLE} ({_RECIPE})"
        )
    return python


class LegacyWorker:
    """A worker process with environments of one task.

    Args:
        python: Interpreter of the worker.
        task: D4RL task id.
        seeds: One per environment.

    Attributes:
        versions: Versions of the worker's packages, by name.

    Raises:
        UserError: the worker does not start. All methods raise it if the worker dies, fails or does
            not answer.
    """

    def __init__(self, python: Path, task: str, seeds: Sequence[int]) -> None:
        self._python = python
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        quiet = {"D4RL_SUPPRESS_IMPORT_ERROR": "1", "D4RL_DATASET_DIR": tempfile.gettempdir()}
        try:
            self._process = subprocess.Popen(
                [python, "-I", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=os.environ | quiet,
                bufsize=0,
            )
        except OSError as error:
            raise UserError(f"{python}: cannot be executed ({error.strerror}); {_RECIPE}") from None
        self._finalizer = weakref.finalize(self, _end, self._process, self._errors)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        request = {"request": "make", "task": task, "seeds": [int(seed) for seed in seeds]}
        self.versions: dict[str, str] = self.ask(request, timeout=START_TIMEOUT)[0]["versions"]

    def ask(
        self, header: dict[str, Any], arrays: Arrays | None = None, timeout: float | None = None
    ) -> tuple[dict[str, Any], Arrays]:
        """Send a request and wait for the answer."""
        if not self._finalizer.alive:
            raise UserError(f"the d4rl worker ({self._python}) was closed; start a new one")
        deadline = time.monotonic() + (timeout or ANSWER_TIMEOUT)
        try:
            self._write(encode(header, arrays or {}), deadline)
            answer, size = decode_header(self._read(header_size(self._read(4, deadline)), deadline))
            content = decode_arrays(answer, self._read(size, deadline))
        except TimeoutError:
            self._fail(f"did not answer within {timeout or ANSWER_TIMEOUT:g} s")
        except (EOFError, BrokenPipeError):
            self._fail(self._how_it_ended())
        except (ValueError, KeyError, TypeError) as error:
            self._fail(f"sent an invalid message ({error})")
        if "error" in answer:
            self._fail(f"failed ({_one_line(str(answer['error']))})")
        return answer, content

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            pipe = self._ready(self._process.stdin, selectors.EVENT_WRITE, deadline)
            rest = rest[os.write(pipe, rest) :]

    def _read(self, count: int, deadline: float) -> bytes:
        pieces = []
        while count:
            pipe = self._ready(self._process.stdout, selectors.EVENT_READ, deadline)
            pieces.append(os.read(pipe, count))
            if not pieces[-1]:
                raise EOFError
            count -= len(pieces[-1])
        return b"".join(pieces)

    def _ready(self, pipe: IO[bytes] | None, event: int, deadline: float) -> int:
        """Wait until a pipe is readable or writable and return its file descriptor."""
        if pipe is None or pipe.closed:
            raise EOFError
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
        return pipe.fileno()

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its pipes"
        cause = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"died ({cause})"

    def _fail(self, what: str) -> NoReturn:
        """Kill the process and raise an error with the last line of its standard error."""
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        line = next((line for line in reversed(lines) if line.strip()), "")
        last = f"; its last output: {_one_line(line)}" if line and line not in what else ""
        self.close()
        raise UserError(f"the d4rl worker ({self._python}) {what}{last}; {_RECIPE}")

    def close(self) -> None:
        """End the process and wait for it."""
        self._finalizer()


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    """Close the pipes, which ends the worker, and wait for it."""
    for pipe in (process.stdin, process.stdout, errors):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


class LegacyEnvVector(EnvVector):
    """An `EnvVector` on the original engine; it cannot render.

    Args:
        task: Defines the environment.
        seeds: One per environment. A seed gives other episodes than in the native engine, whose
            generators are of another kind.
        python: The interpreter, see `legacy_python`.

    Raises:
        UserError: the worker does not start.
    """

    def __init__(self, task: D4RLTask, seeds: Sequence[int], python: str = "") -> None:
        self._begin(task, len(seeds))
        self._achieved = np.zeros(self.num_envs, np.int64)  # steps with the goal achieved
        self._worker = LegacyWorker(legacy_python(python), task.name, seeds)
        self.engine = ", ".join(f"{k} {v}" for k, v in self._worker.versions.items())

    def _restart(self, indices: np.ndarray, obs: np.ndarray) -> None:
        self._achieved[indices] = 0
        header, arrays = self._ask("reset", indices)
        self._take(indices, header, arrays, observations=obs)

    def _advance(
        self,
        indices: np.ndarray,
        actions: np.ndarray,
        obs: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
    ) -> None:
        header, arrays = self._ask("step", indices, actions)
        achieved = np.zeros(len(indices), bool)
        self._take(
            indices, header, arrays,
            observations=obs, rewards=rewards, dones=terminated, achieved=achieved,
        )  # fmt: skip
        self._achieved[indices] += achieved

    def _ask(
        self, request: str, indices: np.ndarray, actions: np.ndarray | None = None
    ) -> tuple[dict[str, Any], Arrays]:
        arrays = {"indices": np.asarray(indices, np.int64)}
        if actions is not None:
            arrays["actions"] = actions
        return self._worker.ask({"request": request}, arrays)

    def _take(
        self, indices: np.ndarray, header: dict[str, Any], arrays: Arrays, **targets: np.ndarray
    ) -> None:
        """Copy an answer's arrays into `targets` and record its faults."""
        for name, target in targets.items():
            found = arrays[name]
            if found.size == 0:  # every environment failed
                continue
            if found.shape != target.shape:
                raise UserError(
                    f"the d4rl worker's {name} have shape {found.shape}, expected {target.shape}: "
                    f"its d4rl has another {self.task.name}; {_RECIPE}"
                )
            target[:] = found
        for row, kind, details in header["faults"]:
            self._note_fault(int(indices[row]), kind, _one_line(details))

    def state(self, index: int = 0) -> Arrays:
        """qpos, qvel, warmstart, body_pos, body_quat and, if there are any, site_pos and goal."""
        return self._worker.ask({"request": "state", "index": index})[1]

    def success(self) -> np.ndarray | None:
        if self.task.family not in SUCCESS_STEPS:
            return None
        return self._achieved > SUCCESS_STEPS[self.task.family]

    def render(self, index: int = 0) -> np.ndarray:
        raise UserError("--env_backend d4rl cannot render; use --env_backend native")

    def rng_states(self) -> list[Any]:
        return self._worker.ask({"request": "rng_states"})[0]["states"]

    def set_rng_states(self, states: Sequence[Any]) -> None:
        self._check_number(states)
        self._worker.ask({"request": "set_rng_states", "states": list(states)})

    def close(self) -> None:
        self._worker.close()
