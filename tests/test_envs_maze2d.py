"""Maze2d: mazes, resets, rewards, speed limit, walls."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d4rl_envs import get_task, make
from d4rl_envs.maze2d import MAZES, Maze2dEnv, cells

ENVS = {layout: Maze2dEnv(layout) for layout in MAZES}


@pytest.mark.parametrize("layout", MAZES)
def test_maze_is_closed_and_has_one_goal(layout):
    rows = MAZES[layout].split("/")
    assert len({len(row) for row in rows}) == 1
    assert set(rows[0] + rows[-1] + "".join(row[0] + row[-1] for row in rows)) == {"#"}
    assert len(cells(MAZES[layout], "G")) == 1
    assert len(cells(MAZES[layout], "#OG")) == sum(map(len, rows))


@pytest.mark.parametrize("layout", MAZES)
def test_reset_distribution(layout):
    env = ENVS[layout]
    env.reset(seed=0)
    obs = np.array([env.reset()[0] for _ in range(2000)])
    nearest = np.rint(obs[:, :2])
    assert np.abs(obs[:, :2] - nearest).max() <= 0.1
    np.testing.assert_allclose((obs[:, :2] - nearest).std(), 0.1 / np.sqrt(3), rtol=0.05)
    np.testing.assert_allclose(obs[:, 2:].std(), 0.1, rtol=0.05)
    free = {tuple(cell) for cell in cells(MAZES[layout], "OG").tolist()}
    starts, counts = np.unique(nearest, axis=0, return_counts=True)
    assert {tuple(cell) for cell in starts.tolist()} == free  # including the goal cell
    expected = len(obs) / len(free)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(MAZES)),
    st.integers(0, 2**31 - 1),
    st.lists(st.tuples(*[st.floats(-1, 1)] * 2), min_size=1, max_size=60),
)
def test_step_properties(layout, seed, actions):
    env = ENVS[layout]
    before, _ = env.reset(seed=seed)
    free = {tuple(cell) for cell in cells(MAZES[layout], "OG").tolist()}
    for action in actions:
        obs, reward, terminated = env.advance(np.array(action))
        # clipped to 5 before a step, which adds at most 100 / mass * 0.01; contacts add more
        assert np.abs(obs[2:]).max() < 10
        assert tuple(np.rint(obs[:2])) in free
        assert reward == (np.hypot(*(obs[:2] - env.goal)) <= 0.5)
        assert not terminated
        np.testing.assert_allclose(obs[:2], before[:2] + 0.01 * obs[2:], atol=1e-12)
        before = obs


def test_dense_reward_falls_with_the_distance_to_the_goal():
    env = make(get_task("maze2d-eval-umaze-dense-v1"))
    env.reset(seed=0)
    for place in ([1.0, 3.0], [1.0, 1.0], [3.0, 2.0]):
        env.set_state(np.array(place), np.zeros(2))
        obs, reward, terminated = env.advance(np.zeros(2))
        assert reward == pytest.approx(np.exp(-np.hypot(obs[0] - 1, obs[1] - 3)), abs=1e-15)
        assert not terminated


def test_wall_stops_the_ball():
    env = ENVS["umaze"]
    env.reset(seed=0)
    env.set_state(np.array([1.0, 2.0]), np.zeros(2))
    for _ in range(300):
        obs, *_ = env.advance(np.array([1.0, 0.0]))
    # the wall below cell (1, 2) starts half a cell lower, shifted by 0.2
    assert 1.0 < obs[0] < 1.25
    assert obs[1] == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("layout", MAZES)
def test_step_equals_d4rls_forward_pass_before_every_step(layout, scale):
    """`advance` skips the parts of that pass that have no effect."""
    env, reference = ENVS[layout], Maze2dEnv(layout)
    env.reset(seed=1)
    reference.reset(seed=1)
    rng = np.random.default_rng(2)
    touching = 0
    for step in range(1500):
        if step % 20 == 0:
            push = rng.uniform(-1, 1, 2)  # long enough in one direction to reach a wall
        action = np.clip(push + rng.normal(0, 0.3, 2), -1, 1) * scale
        obs, _, _ = env.advance(action)
        np.clip(reference.qvel, -5, 5, out=reference.qvel)
        reference.forward()
        reference.simulate(action)
        touching += reference.data.ncon > 1
        np.testing.assert_array_equal(obs, reference.observation())
    assert scale == 0 or touching > 20
