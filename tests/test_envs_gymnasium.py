"""Every registered id keeps Gymnasium's rules."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import d4rl_envs
from d4rl_envs.base import check_engine
from d4rl_envs.registration import ENTRY_POINTS
from d4rl_envs.tasks import FAMILIES
from tasks import TASKS, get_task
from tests.env_golden import RECORDED
from utils import UserError

NAMES = list(TASKS)


def test_all_tasks_are_registered():
    assert set(ENTRY_POINTS) == set(FAMILIES)
    for name in NAMES:
        assert gymnasium.spec(name).max_episode_steps == get_task(name).horizon


@pytest.mark.parametrize("name", NAMES)
def test_check_env(name):
    env = gymnasium.make(name, disable_env_checker=True).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # observations are unbounded, which Gymnasium finds worth a remark
        warnings.filterwarnings("ignore", message=".*Box observation space m.*infinit")
        check_env(env, skip_render_check=True)
    task = get_task(name)
    assert env.observation_space.shape == (task.obs_dim,)
    assert env.observation_space.dtype == np.float64
    assert env.action_space.shape == (task.act_dim,)


@pytest.mark.parametrize("family", RECORDED)
def test_resets_are_seeded(family):
    first, second = (gymnasium.make(RECORDED[family][0]) for _ in range(2))
    a, b = first.reset(seed=5)[0], second.reset(seed=5)[0]
    np.testing.assert_array_equal(a, b)
    c, d = first.reset()[0], second.reset()[0]
    np.testing.assert_array_equal(c, d)
    assert (a != c).any()
    assert (first.reset(seed=6)[0] != a).any()


def test_horizon_by_gymnasium():
    env = gymnasium.make("maze2d-open-v0")
    env.reset(seed=0)
    for step in range(1, 151):
        assert env.step(np.zeros(2))[2:4] == (False, step == 150)


def test_other_engine_releases_are_pointed_out(caplog):
    check_engine("4.0.0")
    assert "mujoco==3.2.6" in caplog.text


def test_faults():
    env = gymnasium.make("hopper-medium-v2", disable_env_checker=True)
    env.reset(seed=0)
    with pytest.raises(UserError, match="shape"):
        env.step(np.zeros(4))
    with pytest.raises(UserError, match="NaN"):
        env.step(np.array([0.0, np.inf, 0.0]))


@pytest.mark.parametrize(
    "name", ["hopper-medium-v2", "maze2d-umaze-v1", "antmaze-umaze-v2", "hammer-human-v1"]
)
def test_rendering(name):
    vector = d4rl_envs.make_vector(get_task(name), [0], "rgb_array")
    vector.reset()
    try:
        first = vector.render()
    except UserError as error:
        pytest.skip(str(error))
    assert first.shape == (480, 480, 3)
    assert first.dtype == np.uint8
    assert first.std() > 5
    for _ in range(20):
        vector.step(np.ones((1, get_task(name).act_dim)))
    assert (vector.render() != first).any()
    vector.close()
