"""Adroit: resets, success, models without skin, rotations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import d4rl_envs
from d4rl_envs.adroit import DoorEnv, HammerEnv, PenEnv, RelocateEnv, euler_from_matrix
from d4rl_envs.engine import mujoco
from d4rl_envs.hand import adroit_model
from d4rl_envs.physics import NULL_ROTATION

ENVS = {env.name: env() for env in (PenEnv, HammerEnv, DoorEnv, RelocateEnv)}


def resets(name, read, count=300):
    env = ENVS[name]
    env.reset(seed=0)
    rows = []
    for _ in range(count):
        env.reset()
        np.testing.assert_array_equal(env.qpos, env.init_qpos)
        np.testing.assert_array_equal(env.qvel, 0)
        rows.append(read(env).copy())
    return np.array(rows)


@pytest.mark.parametrize(
    ("name", "read", "low", "high"),
    [
        ("hammer", lambda env: env.model.body("nail_board").pos[2:], (0.1,), (0.25,)),
        (
            "door",
            lambda env: env.model.body("frame").pos,
            (-0.3, 0.25, 0.252),
            (-0.2, 0.35, 0.35),
        ),
        ("relocate", lambda env: env.model.body("Object").pos[:2], (-0.15, -0.15), (0.15, 0.3)),
        (
            "relocate",
            lambda env: env.model.site("target").pos,
            (-0.2, -0.2, 0.15),
            (0.2, 0.2, 0.35),
        ),
        (
            "pen",
            lambda env: np.array(
                euler_from_matrix(env.data.xmat[env.model.body("target").id].copy())
            ),
            (-1.0, -1.0, 0.0),
            (1.0, 1.0, 0.0),
        ),
    ],
)
def test_reset_distribution(name, read, low, high):
    rows = resets(name, read)
    low, high = np.array(low), np.array(high)
    assert (rows >= low - 1e-12).all()
    assert (rows <= high + 1e-12).all()
    width = high - low
    np.testing.assert_allclose(rows.mean(axis=0), (low + high) / 2, atol=0.07 * width.max())
    np.testing.assert_allclose(rows.std(axis=0), width / np.sqrt(12), atol=0.03 * width.max())


@pytest.mark.parametrize(("name", "needed"), [("pen", 20), ("door", 25)])
def test_success_needs_the_goal_achieved_in_enough_steps(name, needed, monkeypatch):
    task = d4rl_envs.get_task(f"{name}-human-v1")
    vector = d4rl_envs.make_vector(task, [0, 1])
    vector.reset()
    monkeypatch.setattr(vector.envs[1], "reward", lambda: (1.0, True))
    action = np.zeros((2, task.act_dim))
    for step in range(1, needed + 3):
        vector.step(action)
        np.testing.assert_array_equal(vector.success(), [False, step > needed])
    vector.reset(np.array([1]))
    np.testing.assert_array_equal(vector.success(), [False, False])


def test_dropped_pen_terminates_the_episode():
    env = ENVS["pen"]
    env.reset(seed=0)
    dropped = env.init_qpos.copy()
    dropped[-6] += 0.3  # the x axis of the pen's frame points down
    env.set_state(dropped, env.init_qvel)
    _, reward, terminated = env.advance(np.zeros(env.model.nu))
    assert terminated
    assert reward < -4


@pytest.mark.parametrize("name", ENVS)
def test_model_without_skin_has_the_same_dynamics(name):
    models = [adroit_model(name, visuals) for visuals in (False, True)]
    assert models[0].nmesh == models[0].ntex == 0 < models[1].nmesh
    states = [mujoco.MjData(model) for model in models]
    low, high = models[0].actuator_ctrlrange.T
    for ctrl in np.random.default_rng(0).uniform(low, high, (60, len(low))):
        for model, data in zip(models, states, strict=True):
            data.ctrl[:] = ctrl
            mujoco.mj_step(model, data, 5)
    np.testing.assert_array_equal(states[0].qpos, states[1].qpos)
    np.testing.assert_array_equal(states[0].qvel, states[1].qvel)
    np.testing.assert_array_equal(states[0].site_xpos, states[1].site_xpos)


@pytest.mark.parametrize("name", ENVS)
def test_actions_are_joint_positions_relative_to_their_range(name):
    env = ENVS[name]
    for action, expected in ((-1, 0), (0, 0.5), (1, 1)):
        env.reset(seed=0)
        env.advance(np.full(env.model.nu, float(action)))
        low, high = env.model.actuator_ctrlrange.T
        np.testing.assert_allclose(env.ctrl, low + expected * (high - low), atol=1e-15)


def test_tiny_rotations_are_skipped():
    assert np.cos(0.999 * NULL_ROTATION / 2) == 1.0 > np.cos(1.001 * NULL_ROTATION / 2)
    env = ENVS["door"]
    latch, handle = env.model.joint("latch").qposadr[0], env.site("S_handle")

    def drop(angle):
        """How far the handle sinks, in m, when the latch 0.15 m away is turned."""
        env.reset(seed=0)
        before, qpos = handle[2], env.init_qpos.copy()
        qpos[latch] = angle
        env.set_state(qpos, env.init_qvel)
        assert env.qpos[latch] == angle
        return before - handle[2]

    assert drop(0.99 * NULL_ROTATION) == drop(-0.99 * NULL_ROTATION) == 0
    for angle in (1.01 * NULL_ROTATION, -1.01 * NULL_ROTATION, 1e-3):
        np.testing.assert_allclose(drop(angle), 0.15 * np.sin(angle), rtol=1e-2)
    # the reference pose and the integration are unaffected
    assert drop(0.5 * NULL_ROTATION) == 0
    env.qvel[:] = 1e-6
    env.advance(np.zeros(env.model.nu))
    assert 0.5 * NULL_ROTATION < env.qpos[latch] < NULL_ROTATION
    env.reset()
    np.testing.assert_array_equal(env.qpos, env.init_qpos)
    np.testing.assert_array_equal(env.model.qpos0, 0)


angles = st.floats(-3.1, 3.1)


def quat_from_euler(angles):
    quat = np.empty(4)
    mujoco.mju_euler2Quat(quat, angles, "xyz")
    return quat


@given(angles, st.floats(-1.5, 1.5), angles)
def test_euler_angles_round_trip(x, y, z):
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, quat_from_euler((x, y, z)))
    np.testing.assert_allclose(euler_from_matrix(matrix), (x, y, z), atol=1e-6)


@given(angles, angles, angles)
def test_euler_angles_match_gymnasium_robotics(x, y, z):
    rotations = pytest.importorskip("gymnasium_robotics.utils.rotations")
    quat = quat_from_euler((x, y, z))
    theirs = rotations.euler2quat(np.array([x, y, z]))
    np.testing.assert_allclose(np.abs(quat @ theirs), 1.0, atol=1e-12)  # q and -q turn equally
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, quat)
    np.testing.assert_allclose(
        euler_from_matrix(matrix), rotations.mat2euler(matrix.reshape(3, 3)), atol=1e-9
    )


def test_gimbal_lock_sets_x_to_zero():
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, quat_from_euler((0.0, np.pi / 2, 0.7)))
    x, y, z = euler_from_matrix(np.where(np.abs(matrix) < 1e-15, 0.0, matrix))
    assert x == 0.0
    assert y == pytest.approx(np.pi / 2)
    assert z == pytest.approx(0.7)
