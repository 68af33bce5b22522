"""Worker process that serves the benchmark's original environments over a pipe.

`legacy.py` runs this file with a Python 3.8 to 3.10 that has gym, d4rl and mujoco-py; the file
imports nothing from this repository. Messages in both directions are frames: the length of a JSON
header (4 bytes, little-endian), the header, and the bytes of the arrays that the header lists by
name, type and shape. Requests are answered in order; the process ends with the pipe.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import signal
import struct
import sys
import traceback
import types
from typing import Any, BinaryIO

import numpy as np

LENGTH = struct.Struct("<I")
_MOST_HEADER_BYTES = 2**24
# the d4rl modules that register each family
_MODULES = {
    "hopper": "gym_mujoco",
    "halfcheetah": "gym_mujoco",
    "walker2d": "gym_mujoco",
    "ant": "gym_mujoco",
    "maze2d": "pointmaze",
    "antmaze": "locomotion",
    "pen": "hand_manipulation_suite",
    "hammer": "hand_manipulation_suite",
    "door": "hand_manipulation_suite",
    "relocate": "hand_manipulation_suite",
}


def encode(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Frame with a header and arrays."""
    listed = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    text = json.dumps({**header, "arrays": listed}).encode()
    return b"".join([LENGTH.pack(len(text)), text, *(a.tobytes() for a in arrays.values())])


def header_size(prefix: bytes) -> int:
    """Size of the header, from the first 4 bytes of a frame."""
    size = int(LENGTH.unpack(prefix)[0])
    if size > _MOST_HEADER_BYTES:
        raise ValueError(f"header of {size} bytes")
    return size


def decode_header(text: bytes) -> tuple[dict[str, Any], int]:
    """The header, and the number of bytes of the arrays that follow."""
    header = json.loads(text)
    sizes = [np.dtype(kind).itemsize * math.prod(shape) for _, kind, shape in header["arrays"]]
    return header, sum(sizes)


def decode_arrays(header: dict[str, Any], content: bytes) -> dict[str, np.ndarray]:
    """The arrays that a header lists, read-only."""
    arrays, start = {}, 0
    for name, kind, shape in header["arrays"]:
        array = np.frombuffer(content, kind, math.prod(shape), start)
        arrays[name] = array.reshape(shape)
        start += array.nbytes
    return arrays


def provide_mjrl() -> None:
    """Replace mjrl, which no package index has, unless it is installed.

    d4rl needs only one of its base classes; gym's MuJoCo environment can do its work.
    """
    try:
        importlib.import_module("mjrl.envs.mujoco_env")
        return
    except ImportError:
        from gym.envs.mujoco import mujoco_env

    class MujocoEnv(mujoco_env.MujocoEnv):
        def reset(self, **_: Any) -> Any:
            self.sim.reset()
            self.sim.forward()
            return self.reset_model()

    names = ("mjrl", "mjrl.envs", "mjrl.envs.mujoco_env")
    outer, inner, module = modules = [types.ModuleType(name) for name in names]
    outer.envs, inner.mujoco_env, module.MujocoEnv = inner, module, MujocoEnv  # type: ignore
    for place, name in enumerate(names):
        sys.modules[name] = modules[place]


class Environment:
    """One environment with its own generators.

    D4RL draws antmaze goals from NumPy's global generator, so each environment swaps in its own
    state of that generator while it resets.
    """

    def __init__(self, task: str, seed: int) -> None:
        import gym
        from gym.utils import seeding

        self.task = task
        # without gym's time limit, but with the wrapper that clips and scales actions
        self.env = gym.make(task).unwrapped
        self.inner = self.env
        while "_wrapped_env" in vars(self.inner):
            self.inner = self.inner._wrapped_env
        self.inner.np_random = seeding.np_random(seed)[0]
        self.global_state: Any = np.random.RandomState(seed).get_state()

    def reset(self) -> np.ndarray:
        np.random.set_state(self.global_state)  # noqa: NPY002
        obs = self.env.reset()
        self.global_state = np.random.get_state()  # noqa: NPY002
        return np.asarray(obs, np.float64)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """Observation, reward, done, and whether the goal was achieved in this step."""
        obs, reward, done, info = self.env.step(action)
        achieved = info.get("goal_achieved", reward > 0 and self.task.startswith("antmaze"))
        return np.asarray(obs, np.float64), float(reward), bool(done), bool(achieved)

    def rng_state(self) -> list[Any]:
        kind, keys, position, has_gauss, gauss = self.global_state
        state = [kind, keys.tolist(), position, has_gauss, gauss]
        return [self.inner.np_random.bit_generator.state, state]

    def set_rng_state(self, state: list[Any]) -> None:
        own, (kind, keys, *rest) = state
        self.inner.np_random.bit_generator.state = own
        self.global_state = (kind, np.array(keys, np.uint32), *rest)

    def state(self) -> dict[str, np.ndarray]:
        """Positions, velocities, the solver's warm start, and what resets randomise."""
        data, model = self.inner.sim.data, self.inner.sim.model
        state: dict[str, Any] = {"qpos": data.qpos, "qvel": data.qvel}
        state["warmstart"] = data.qacc_warmstart
        for name in ("body_pos", "body_quat", "site_pos"):
            state[name] = getattr(model, name)
        state["goal"] = getattr(self.inner, "target_goal", None)
        # site_pos is None in a model without sites
        return {k: np.array(v, np.float64) for k, v in state.items() if v is not None}


class Server:
    """Answers requests: each is a method that takes the header and the arrays."""

    def __init__(self) -> None:
        self.task = ""
        self.envs: list[Environment] = []
        self.broken: set[int] = set()  # rebuilt by their next reset

    def make(self, header: dict[str, Any], _: dict[str, np.ndarray]) -> Any:
        """Make one environment per seed and answer with the versions of the packages."""
        import gym
        import mujoco_py

        provide_mjrl()
        importlib.import_module(f"d4rl.{_MODULES[header['task'].split('-')[0]]}")
        self.task = header["task"]
        self.envs = [Environment(self.task, seed) for seed in header["seeds"]]
        versions = {
            "mujoco-py": mujoco_py.__version__,
            "gym": gym.__version__,
            "numpy": np.__version__,
            "Python": platform.python_version(),
        }
        return {"versions": versions}, {}

    def reset(self, _: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        faults, observations = [], []
        for row, i in enumerate(arrays["indices"].tolist()):
            try:
                if i in self.broken:
                    self.rebuild(i)
                observations.append(self.envs[i].reset())
            except Exception as error:
                faults.append(self.fault(row, i, error))
                observations.append(None)
        return {"faults": faults}, {"observations": _stacked(observations)}

    def step(self, _: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        faults, observations, results = [], [], []
        for row, i in enumerate(arrays["indices"].tolist()):
            try:
                obs, *result = self.envs[i].step(arrays["actions"][row])
            except Exception as error:  # mujoco-py raises if physics become unstable
                faults.append(self.fault(row, i, error))
                obs, result = None, [0.0, True, False]
            observations.append(obs)
            results.append(result)
        rewards, dones, achieved = zip(*results)  # noqa: B905 - no such option in Python 3.8
        return {"faults": faults}, {
            "observations": _stacked(observations),
            "rewards": np.array(rewards, np.float64),
            "dones": np.array(dones, bool),
            "achieved": np.array(achieved, bool),
        }

    def state(self, header: dict[str, Any], _: dict[str, np.ndarray]) -> Any:
        return {}, self.envs[header["index"]].state()

    def rng_states(self, _: dict[str, Any], __: dict[str, np.ndarray]) -> Any:
        return {"states": [env.rng_state() for env in self.envs]}, {}

    def set_rng_states(self, header: dict[str, Any], _: dict[str, np.ndarray]) -> Any:
        for i, state in enumerate(header["states"]):
            self.envs[i].set_rng_state(state)
        return {}, {}

    def fault(self, row: int, i: int, error: Exception) -> list[Any]:
        self.broken.add(i)
        traceback.print_exc()
        return [row, type(error).__name__, str(error)]

    def rebuild(self, i: int) -> None:
        """Replace an environment that raised by a new one with the same generators."""
        state = self.envs[i].rng_state()
        self.envs[i] = Environment(self.task, 0)
        self.envs[i].set_rng_state(state)
        self.broken.discard(i)


def _stacked(observations: list[Any]) -> np.ndarray:
    """(k, obs_dim), zeros where one is missing; (k, 0) if all are."""
    width = max((len(obs) for obs in observations if obs is not None), default=0)
    return np.array([np.zeros(width) if obs is None else obs for obs in observations], np.float64)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the pipe is closed."""

    def take(count: int) -> bytes:
        taken = requests.read(count)
        if len(taken) < count:
            raise EOFError
        return taken

    server = Server()
    while True:
        try:
            header, size = decode_header(take(header_size(take(LENGTH.size))))
            arrays = decode_arrays(header, take(size))
        except EOFError:
            return
        try:
            answer = encode(*getattr(server, header["request"])(header, arrays))
        except Exception as error:
            traceback.print_exc()
            answer = encode({"error": f"{type(error).__name__}: {error}"}, {})
        answers.write(answer)
        answers.flush()


def main() -> None:
    # terminals and schedulers send these to all processes of a job; the parent handles them
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # d4rl prints to standard output, which must not mix with the answers
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with answers:
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
