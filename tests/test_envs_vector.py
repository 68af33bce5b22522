"""EnvVector: equivalence to single environments, seeds, indices, resuming."""

import json

import gymnasium
import numpy as np
import pytest

import d4rl_envs
from utils import UserError

TASKS = ["hopper-medium-v2", "ant-random-v2", "maze2d-umaze-v1"]


@pytest.mark.parametrize("name", TASKS)
def test_vector_equals_single_environments(name):
    task = d4rl_envs.get_task(name)
    seeds = [3, 4, 5]
    vector = d4rl_envs.make_vector(task, seeds)
    singles = [gymnasium.make(name, disable_env_checker=True) for _ in seeds]
    expected = [env.reset(seed=seed)[0] for env, seed in zip(singles, seeds, strict=True)]
    np.testing.assert_array_equal(vector.reset(), expected)
    for actions in np.random.default_rng(0).uniform(-1.5, 1.5, (30, 3, task.act_dim)):
        got = vector.step(actions)
        results = [env.step(action)[:4] for env, action in zip(singles, actions, strict=True)]
        for a, b in zip(got, zip(*results, strict=True), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(vector.reset(np.array([1])), [singles[1].reset()[0]])


def test_shapes_and_types():
    task = d4rl_envs.get_task("hopper-medium-v2")
    vector = d4rl_envs.make_vector(task, range(3))
    assert vector.num_envs == 3
    vector.reset()
    indices = np.array([2, 0])
    obs, rewards, terminated, truncated = vector.step(np.zeros((2, task.act_dim)), indices)
    assert obs.shape == (2, task.obs_dim)
    assert obs.dtype == rewards.dtype == np.float64
    assert rewards.shape == terminated.shape == truncated.shape == (2,)
    assert terminated.dtype == truncated.dtype == bool
    assert vector.success() is None


def test_indices_step_only_these_environments():
    task = d4rl_envs.get_task("hopper-medium-v2")
    together, apart = (d4rl_envs.make_vector(task, [0, 1]) for _ in range(2))
    together.reset()
    apart.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 2, 3))
    both = [together.step(a)[0] for a in actions]
    for t, a in enumerate(actions):
        np.testing.assert_array_equal(apart.step(a[1:], np.array([1]))[0], both[t][1:])
    for t, a in enumerate(actions):
        np.testing.assert_array_equal(apart.step(a[:1], np.array([0]))[0], both[t][:1])


def test_each_environment_has_its_own_step_count():
    task = d4rl_envs.get_task("maze2d-open-v0")
    vector = d4rl_envs.make_vector(task, [0, 1])
    vector.reset()
    action = np.zeros((2, 2))
    for _ in range(10):
        vector.step(action)
    vector.reset(np.array([1]))
    for step in range(11, task.horizon + 1):
        truncated = vector.step(action)[3]
        assert truncated.tolist() == [step >= task.horizon, False]


def test_saved_generators_resume_exactly():
    task = d4rl_envs.get_task("hopper-medium-v2")
    vector = d4rl_envs.make_vector(task, [7, 8])
    vector.reset()
    saved = json.loads(json.dumps(vector.rng_states()))
    expected = [vector.reset(), vector.reset()]
    resumed = d4rl_envs.make_vector(task, [0, 0])
    resumed.set_rng_states(saved)
    for want in expected:
        np.testing.assert_array_equal(resumed.reset(), want)


def test_invalid_input_is_rejected():
    task = d4rl_envs.get_task("hopper-medium-v2")
    vector = d4rl_envs.make_vector(task, [0])
    vector.reset()
    with pytest.raises(UserError, match=r"expected \(1, 3\)"):
        vector.step(np.zeros((1, 4)))
    with pytest.raises(UserError, match="NaN"):
        vector.step(np.full((1, 3), np.nan))
    with pytest.raises(UserError, match="2 saved generators for 1"):
        vector.set_rng_states([{}, {}])
    with pytest.raises(UserError, match="damaged"):
        vector.set_rng_states([{"bit_generator": "PCG64"}])
    with pytest.raises(UserError, match="rgb_array"):
        vector.render()
    with pytest.raises(UserError, match="render_mode"):
        d4rl_envs.make_vector(task, [0], "human")
