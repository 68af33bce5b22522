"""Locomotion: resets, terminations and rewards that the recordings do not cover."""

import numpy as np
import pytest

import d4rl_envs
from d4rl_envs.engine import mujoco
from d4rl_envs.physics import capsules_as_cylinders
from utils import UserError

TASKS = ["hopper-medium-v2", "halfcheetah-medium-v2", "walker2d-medium-v2", "ant-medium-v2"]


def make(name):
    return d4rl_envs.make(d4rl_envs.get_task(name))


@pytest.mark.parametrize("name", TASKS)
def test_reset_distribution(name):
    env = make(name)
    env.reset(seed=0)
    drawn = []
    for _ in range(400):
        env.reset()
        drawn.append(np.concatenate((env.qpos - env.init_qpos, env.qvel - env.init_qvel)))
    rows = np.array(drawn)
    # normalisation reduces the noise of a quaternion
    positions = np.delete(rows[:, : env.model.nq], range(3, 7) if "ant" in name else [], axis=1)
    velocities = rows[:, env.model.nq :]
    width = 0.005 if name.startswith(("hopper", "walker2d")) else 0.1
    assert np.abs(positions).max() <= width
    np.testing.assert_allclose(positions.std(), width / np.sqrt(3), rtol=0.05)
    if width == 0.005:
        assert np.abs(velocities).max() <= width
        np.testing.assert_allclose(velocities.std(), width / np.sqrt(3), rtol=0.05)
    else:
        np.testing.assert_allclose(velocities.std(), 0.1, rtol=0.05)
        assert np.abs(velocities).max() > 0.2


def test_ant_starts_with_a_unit_quaternion():
    env = make("ant-medium-v2")
    obs, _ = env.reset(seed=3)
    assert np.linalg.norm(obs[1:5]) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", TASKS)
def test_actions_are_clipped_before_the_control_cost(name):
    env = make(name)
    large, one = (np.full(env.action_space.shape, x) for x in (3.0, 1.0))
    env.reset(seed=1)
    expected = env.step(one)
    env.reset(seed=1)
    got = env.step(large)
    np.testing.assert_array_equal(got[0], expected[0])
    assert got[1] == expected[1]


@pytest.mark.parametrize(
    ("name", "index", "bound", "outwards"),
    [
        ("hopper-medium-v2", 1, 0.7, -1),
        ("hopper-medium-v2", 2, -0.2, -1),
        ("hopper-medium-v2", 2, 0.2, 1),
        ("hopper-medium-v2", 5, 100.0, 1),
        ("walker2d-medium-v2", 1, 0.8, -1),
        ("walker2d-medium-v2", 1, 2.0, 1),
        ("walker2d-medium-v2", 2, 1.0, 1),
        ("walker2d-medium-v2", 2, -1.0, -1),
        ("ant-medium-v2", 2, 0.2, -1),
        ("ant-medium-v2", 2, 1.0, 1),
    ],
)
def test_terminations(name, index, bound, outwards, monkeypatch):
    env = make(name)
    env.reset(seed=0)
    monkeypatch.setattr(env, "simulate", lambda ctrl: None)  # keep the state set below
    for offset, expected in ((-1e-9, False), (1e-9, True)):
        env.qpos[:] = env.init_qpos
        env.qpos[index] = bound + outwards * offset
        assert env.step(np.zeros(env.action_space.shape))[2] is expected


def test_large_velocity_terminates_hopper_and_is_clipped_in_the_observation():
    env = make("hopper-medium-v2")
    env.reset(seed=0)
    qvel = env.init_qvel.copy()
    qvel[0] = 150.0
    env.set_state(env.init_qpos, qvel)
    obs, _, terminated, _, _ = env.step(np.zeros(3))
    assert terminated
    assert obs[5] == 10.0


def test_ant_reward_uses_lagged_torso_position():
    env = make("ant-medium-v2")
    env.reset(seed=0)
    action = np.full(8, 0.5)
    env.step(action)
    lagged, fresh = env.torso[0], env.qpos[0]
    assert lagged != fresh
    reward = env.step(action)[1]
    expected = (env.torso[0] - lagged) / 0.05 + 1.0 - 0.5 * 8 * 0.25
    assert reward == pytest.approx(expected, abs=1e-12)


def test_unstable_physics_ends_the_episode_and_writes_no_log_file(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("d4rl_envs.engine._logged", set())
    env = make("halfcheetah-medium-v2")
    env.reset(seed=0)
    env.qvel[3] = 1e12
    obs, _, terminated, _, _ = env.step(np.zeros(6))
    assert terminated
    assert np.isfinite(obs).all()
    assert "unstable" in caplog.text
    assert not list(tmp_path.iterdir())
    env.reset()
    assert not env.step(np.zeros(6))[2]


def test_capsule_patch_rejects_other_geoms():
    spec = mujoco.MjSpec.from_string(
        '<mujoco><worldbody><body><joint/><geom name="b" type="box" size="1 1 1"/></body>'
        "</worldbody></mujoco>"
    )
    with pytest.raises(UserError, match="geom b"):
        capsules_as_cylinders(spec.compile(), spec)
