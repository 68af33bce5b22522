"""Copies of environments (deepcopy and pickle) continue exactly like the original."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest

import d4rl_envs
from tests.env_golden import RECORDED


def pickled(env):
    return pickle.loads(pickle.dumps(env))


def assert_equal(ours, theirs):
    """Compare two results of `step` or `reset`."""
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("steps", [0, 5], ids=["fresh", "mid-episode"])
@pytest.mark.parametrize("family", RECORDED)
def test_copy_continues_like_the_original(family, steps, copied):
    name = RECORDED[family][0]
    env, act_dim = gymnasium.make(name), d4rl_envs.get_task(name).act_dim
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps + 15, act_dim))
    for action in actions[:steps]:
        env.step(action)
    twin = copied(env)
    for action in actions[steps:-5]:
        assert_equal(env.step(action), twin.step(action))
    assert_equal(env.reset(), twin.reset())  # both generators are in the same state
    for action in actions[-5:]:
        assert_equal(env.step(action), twin.step(action))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("family", RECORDED)
def test_copy_is_independent(family, copied):
    env = d4rl_envs.make(d4rl_envs.get_task(RECORDED[family][0]))
    env.reset(seed=0)
    twin = copied(env)
    before = twin.observation()
    env.step(np.ones(env.model.nu))
    env.reset()
    np.testing.assert_array_equal(twin.observation(), before)
