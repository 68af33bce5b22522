"""Fake interpreter with gym, d4rl and mujoco-py: `fake_legacy.py -I WORKER`.

Runs the real worker with trivial environments. The environment variable FAKE_LEGACY selects a
fault.
"""

import os
import runpy
import signal
import sys
import time
import types

import numpy as np

FAULT = os.environ.get("FAKE_LEGACY", "")
SIZES = {"maze2d": (4, 2), "hopper": (11, 3), "antmaze": (29, 8), "pen": (45, 24)}


class FakeEnv:
    """Observations drift with the mean action; the reward is the sum of the actions."""

    np_random: np.random.Generator

    def __init__(self, task):
        self.task, self.family = task, task.split("-")[0]
        self.obs_dim, self.act_dim = SIZES[self.family]
        self.unwrapped = self
        self.steps = 0
        model = types.SimpleNamespace(body_pos=np.ones((2, 3)), body_quat=np.ones((2, 4)))
        model.site_pos = None
        data = types.SimpleNamespace(qpos=np.ones(3), qvel=np.ones(2), qacc_warmstart=np.ones(2))
        self.sim = types.SimpleNamespace(model=model, data=data)

    def reset(self):
        sys.stdout.write("Target Goal: (1.0, 2.0)\n")
        self.steps = 0
        self.obs = self.np_random.uniform(size=self.obs_dim + (FAULT == "wide"))
        if self.family == "antmaze":
            self.target_goal = np.random.uniform(size=2)  # noqa: NPY002 - like d4rl
            self.obs[:2] = self.target_goal
        return self.obs.astype(np.float64)

    def step(self, action):
        os.write(1, b"noise on the standard output\n")
        assert action.shape == (self.act_dim,)
        assert np.abs(action).max() <= 1
        self.steps += 1
        if self.steps == 3:
            fail(self)
        self.obs = self.obs + action.mean()
        if FAULT == "nan" and self.steps == 3:
            return self.obs * np.nan, 0.0, False, {}
        info = {"goal_achieved": self.steps % 2 == 1} if self.family == "pen" else {}
        reached = self.family == "antmaze" and self.steps == 4
        reward = float(reached) if self.family == "antmaze" else action.sum()
        return self.obs, reward, reached or (self.family == "hopper" and self.steps == 9), info


def fail(env):
    if FAULT == "raise" and env.obs[0] > 0:
        raise RuntimeError("Got MuJoCo Warning:\nUnknown warning")
    if FAULT == "exit":
        sys.stderr.write("out of luck\n")
        sys.stderr.flush()
        os._exit(3)
    if FAULT == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if FAULT == "hang":
        time.sleep(60)


class Proxy:
    """Like d4rl's wrapper, forwards attributes to the wrapped environment."""

    def __init__(self, env):
        self._wrapped_env, self.unwrapped = env, self

    def __getattr__(self, name):
        return getattr(self._wrapped_env, name)


def make(task):
    return types.SimpleNamespace(unwrapped=Proxy(FakeEnv(task)))


def np_random(seed):
    return np.random.Generator(np.random.PCG64(seed)), seed


def module(name, **content):
    made = types.ModuleType(name)
    vars(made).update(content)
    sys.modules[name] = made
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, made)


module("gym", __version__="0.23.1", make=make)
module("gym.utils")
module("gym.utils.seeding", np_random=np_random)
module("gym.envs")
module("gym.envs.mujoco")
module("gym.envs.mujoco.mujoco_env", MujocoEnv=object)
if FAULT != "no mujoco":
    module("mujoco_py", __version__="2.0.2.13")
module("d4rl")
for family in ("gym_mujoco", "pointmaze", "locomotion", "hand_manipulation_suite"):
    module(f"d4rl.{family}")

if FAULT == "babble":
    sys.stdout.write("Welcome to the old stack!\n" * 10)
    sys.stdout.flush()
assert sys.argv[1] == "-I"
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
