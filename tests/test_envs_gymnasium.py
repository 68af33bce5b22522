"""Registration with Gymnasium and its interface."""

import copy
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import d4rl_envs
from d4rl_envs.engine import TESTED_VERSION, check_version
from d4rl_envs.registration import ENTRY_POINTS, register_all
from d4rl_envs.tasks import FAMILIES
from tests.conftest import ROOT
from tests.env_golden import TASKS, golden_recordings
from utils import UserError


def test_all_tasks_are_registered():
    assert set(ENTRY_POINTS) == set(FAMILIES)
    for name, task in d4rl_envs.TASKS.items():
        assert gymnasium.spec(name).max_episode_steps == task.horizon


def test_ids_of_another_package_are_kept_with_a_warning(monkeypatch, caplog):
    register_all()
    assert not caplog.text  # its own
    names = ["hopper-medium-v2", "pen-human-v0", "maze2d-eval-umaze-v1", "antmaze-umaze-v0"]
    for name in names:
        foreign = gymnasium.envs.registration.EnvSpec(name, entry_point="elsewhere:Env")
        monkeypatch.setitem(gymnasium.registry, name, foreign)
    register_all()
    assert all(gymnasium.spec(name).entry_point == "elsewhere:Env" for name in names)
    (record,) = caplog.records
    line = "hopper-medium-v2, maze2d-eval-umaze-v1, antmaze-umaze-v0 and 1 more: registered by"
    assert record.getMessage().startswith(line)
    assert d4rl_envs.make(d4rl_envs.get_task(names[0])).model.nu == 3


def test_physics_is_loaded_with_the_first_environment():
    """gymnasium-robotics, which is slow to import, only with a hand task."""
    code = (
        "import sys, d4rl_envs, gymnasium\n"
        "slow = {'mujoco', 'torch', 'gymnasium_robotics', 'h5py', 'scipy', 'gym'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
        "for n in ('hopper-medium-v2', 'maze2d-umaze-v1'): gymnasium.make(n).reset(seed=0)\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n['mujoco']\n"


@pytest.mark.parametrize("name", TASKS)
def test_environment_passes_gymnasiums_check(name):
    env = gymnasium.make(name, disable_env_checker=True).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # observations are unbounded, which Gymnasium warns about
        warnings.filterwarnings("ignore", message=".*Box observation space m.*infinit")
        check_env(env, skip_render_check=True)
    recording = golden_recordings(name)[0]
    assert env.observation_space.shape == recording.observations.shape[1:]
    assert env.observation_space.dtype == np.float64
    assert env.action_space.shape == recording.actions.shape[1:]


def test_untested_mujoco_version_is_logged(caplog):
    check_version(TESTED_VERSION)
    assert not caplog.text
    check_version("4.0.0")
    assert "MuJoCo 4.0.0" in caplog.text


def test_invalid_actions_are_rejected():
    env = gymnasium.make("hopper-medium-v2", disable_env_checker=True)
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"shape \(4,\): expected \(3,\)"):
        env.step(np.zeros(4))
    with pytest.raises(UserError, match="NaN"):
        env.step(np.array([0.0, np.inf, 0.0]))


@pytest.mark.parametrize(
    "name", ["hopper-medium-v2", "maze2d-umaze-v1", "antmaze-umaze-v2", "hammer-human-v1"]
)
def test_rendering(name):
    env = d4rl_envs.make(d4rl_envs.get_task(name), "rgb_array")
    env.reset(seed=0)
    try:
        first = np.asarray(env.render())
    except UserError as error:
        pytest.skip(str(error))
    assert first.shape == (*env.image_size, 3)
    assert first.dtype == np.uint8
    assert first.std() > 5
    twin = copy.deepcopy(env)  # has a renderer of its own
    np.testing.assert_array_equal(np.asarray(twin.render()), first)
    for _ in range(20):
        env.step(np.ones(env.model.nu))
    assert not np.array_equal(np.asarray(env.render()), first)
    np.testing.assert_array_equal(np.asarray(twin.render()), first)
    env.close()
    twin.close()
