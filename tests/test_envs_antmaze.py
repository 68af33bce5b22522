"""AntMaze: mazes, goals, success."""

import numpy as np
import pytest

import d4rl_envs
from d4rl_envs.antmaze import MAZES, AntMazeEnv, positions
from d4rl_envs.vector import EnvVector

GOAL_CELLS = {"umaze": (0, 8), "medium": (20, 20), "large": (32, 24)}


@pytest.mark.parametrize("layout", MAZES)
def test_maze_is_closed_and_has_its_goal_in_place(layout):
    rows = MAZES[layout].split("/")
    assert len({len(row) for row in rows}) == 1
    assert set(rows[0] + rows[-1] + "".join(row[0] + row[-1] for row in rows)) == {"#"}
    np.testing.assert_array_equal(positions(MAZES[layout], "R"), [[0, 0]])
    np.testing.assert_array_equal(positions(MAZES[layout], "G"), [GOAL_CELLS[layout]])


@pytest.mark.parametrize("layout", MAZES)
def test_reset_distribution(layout):
    env = AntMazeEnv(layout)
    env.reset(seed=0)
    obs, goals = zip(*((env.reset()[0], env.goal) for _ in range(400)), strict=True)
    starts = np.array(obs)[:, :15] - env.init_qpos
    assert np.abs(np.delete(starts, range(3, 7), axis=1)).max() <= 0.1
    np.testing.assert_allclose(np.linalg.norm(np.array(obs)[:, 3:7], axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(np.array(obs)[:, 15:].std(), 0.1, rtol=0.05)
    offset = np.array(goals) - GOAL_CELLS[layout]
    assert offset.min() >= 0
    assert offset.max() <= 1.5
    # a sum of U(0, 1) and U(0, 0.5)
    np.testing.assert_allclose(offset.mean(axis=0), 0.75, atol=0.06)
    np.testing.assert_allclose(offset.std(axis=0), np.sqrt(1 / 12 + 0.25 / 12), rtol=0.1)


def goals_of(vector: EnvVector) -> list:
    return [env.goal.tolist() for env in vector.envs if isinstance(env, AntMazeEnv)]


def test_version_0_keeps_its_goal():
    """Also a resumed run, in which only the generators are restored."""
    task = d4rl_envs.get_task("antmaze-umaze-v0")
    vector, other = (d4rl_envs.make_vector(task, seeds) for seeds in ([3, 4], [3, 5]))
    vector.reset()
    goals = goals_of(vector)
    assert goals[0] != goals[1]
    offset = np.array(goals) - GOAL_CELLS["umaze"]
    assert offset.min() >= 0
    assert offset.max() <= 1.5
    vector.reset()
    assert goals_of(vector) == goals
    other.set_rng_states(vector.rng_states())
    other.reset()
    assert goals_of(other)[0] == goals[0]


def test_success_lasts_until_the_next_reset():
    task = d4rl_envs.get_task("antmaze-umaze-v2")
    vector = d4rl_envs.make_vector(task, [0, 1])
    vector.reset()
    np.testing.assert_array_equal(vector.success(), [False, False])
    env = vector.envs[1]
    assert isinstance(env, AntMazeEnv)
    state = env.init_qpos.copy()
    for distance, at_goal in ((0.49, True), (1.0, False)):
        state[:2] = env.goal + np.array([0.0, distance])
        env.set_state(state, env.init_qvel)
        _, rewards, terminated, _ = vector.step(np.zeros((2, task.act_dim)))
        assert rewards.tolist() == [0.0, float(at_goal)]
        assert terminated.tolist() == [False, at_goal]
        np.testing.assert_array_equal(vector.success(), [False, True])
    vector.reset(np.array([1]))
    np.testing.assert_array_equal(vector.success(), [False, False])


def test_falling_over_does_not_terminate():
    env = AntMazeEnv("umaze")
    env.reset(seed=0)
    upside_down = env.init_qpos.copy()
    upside_down[3:7] = (0, 1, 0, 0)
    env.set_state(upside_down, env.init_qvel)
    for _ in range(20):
        assert not env.advance(np.zeros(env.model.nu))[2]
