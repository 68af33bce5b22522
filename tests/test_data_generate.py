"""Generated datasets: the published recipes, determinism, agreement with D4RL's own samples."""

import h5py
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d4rl_envs.maze2d import MAZES, cells
from d4rl_envs.registration import make
from data import load_dataset
from data_sources import blocks, generate
from data_sources.maze_planner import ANT_MOVES, BALL_MOVES, GridPlanner
from data_sources.maze_recipe import BallDriver
from tasks import TASKS, get_task
from tests.conftest import shared_file


def made(tmp_path, name, steps, seed=0):
    """Arrays of a generated dataset."""
    path = tmp_path / f"{name}.hdf5"
    generate.generate(get_task(name), path, steps=steps, seed=seed)
    return read(path)


def read(path):
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, entry: (
                arrays.update({name: entry[...]}) if isinstance(entry, h5py.Dataset) else None
            )
        )
    return arrays


@pytest.mark.parametrize("name", ["hopper-random-v2", "maze2d-umaze-v1", "halfcheetah-random-v2"])
def test_rows_are_determined_by_the_seed(tmp_path, name, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 130)
    first, again = (made(tmp_path, name, 300) for _ in range(2))
    other = made(tmp_path, name, 300, seed=1)
    assert set(first) == set(other)
    for key, array in first.items():
        np.testing.assert_array_equal(array, again[key])
    for key in ("observations", "actions"):
        assert not np.isclose(first[key], other[key]).all(axis=1).any()


@pytest.mark.parametrize("name", ["hopper-random-v2", "maze2d-umaze-v1", "maze2d-open-v0"])
def test_form_matches_published_files(tmp_path, name):
    arrays = made(tmp_path, name, 100)
    real = read(shared_file(f"data/{name}.hdf5"))
    assert set(real) <= set(arrays)
    assert set(arrays) - set(real) <= {"infos/goal"}
    for key, array in real.items():
        assert arrays[key].dtype == array.dtype
        assert arrays[key].shape == (100, *array.shape[1:])


def test_default_sizes():
    assert generate.default_steps(get_task("hopper-random-v2")) == 1_000_000
    assert generate.default_steps(get_task("maze2d-medium-v1")) == 2_000_000
    assert generate.default_steps(get_task("maze2d-large-v1")) == 4_000_000


def test_tasks_with_a_recipe_that_needs_no_policy():
    names = {name for name, task in TASKS.items() if generate.recipe(task) in ("random", "planner")}
    random = {f"{family}-random-v2" for family in ("hopper", "halfcheetah", "walker2d", "ant")}
    mazes = {f"maze2d-{layout}-v1" for layout in ("umaze", "medium", "large")}
    assert names == random | mazes | {"maze2d-open-v0"}


def test_random_rows_replay_in_the_environment(tmp_path):
    task = get_task("hopper-random-v2")
    arrays = made(tmp_path, task.name, 200, seed=4)
    env = make(task)
    obs, _ = env.reset(seed=4)
    for row in range(200):
        np.testing.assert_array_equal(arrays["observations"][row], obs.astype(np.float32))
        obs, reward, terminated = env.advance(arrays["actions"][row].astype(float))
        np.testing.assert_array_equal(arrays["next_observations"][row], obs.astype(np.float32))
        assert arrays["rewards"][row] == np.float32(reward)
        assert arrays["terminals"][row] == terminated
        if terminated:
            obs, _ = env.reset()
    assert arrays["terminals"].any()
    assert not arrays["timeouts"].any()


def test_random_actions_are_uniform(tmp_path):
    actions = made(tmp_path, "halfcheetah-random-v2", 2100)["actions"].ravel().astype(float)
    assert np.abs(actions).max() <= 1
    shares = np.histogram(actions, bins=10, range=(-1, 1))[0] / actions.size
    # 5 standard errors
    np.testing.assert_allclose(shares, 0.1, atol=5 * np.sqrt(0.09 / actions.size))
    assert abs(np.corrcoef(actions[:-1], actions[1:])[0, 1]) < 5 / np.sqrt(actions.size)


def test_time_limits_are_stored_as_timeouts(tmp_path):
    arrays = made(tmp_path, "halfcheetah-random-v2", 2100)
    assert np.flatnonzero(arrays["timeouts"]).tolist() == [999, 1999]
    assert not arrays["terminals"].any()
    dataset = load_dataset(
        tmp_path / "halfcheetah-random-v2.hdf5", get_task("halfcheetah-random-v2")
    )
    assert dataset.lengths.tolist() == [1000]


def test_interruption_leaves_no_file(tmp_path, monkeypatch):
    def broken(*_):
        yield blocks.empty_block(get_task("maze2d-open-v0"), 10)
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "planner_rows", broken)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, "maze2d-open-v0", 100)
    assert not any(tmp_path.iterdir())


class TestGridPlanner:
    @pytest.mark.parametrize("moves", [BALL_MOVES, ANT_MOVES])
    @pytest.mark.parametrize("layout", MAZES)
    def test_routes_are_shortest(self, layout, moves):
        """Compared with breadth-first search, for every pair of free cells."""
        planner = GridPlanner(MAZES[layout], moves)
        free = [tuple(cell) for cell in cells(MAZES[layout], "OG").tolist()]
        for goal in free:
            distance = self.distances(set(free), goal)
            for start in free:
                route = planner.route(start, goal)
                assert route[-1] == goal
                assert len(route) == max(distance[start], 1)
                path = [start, *route]
                steps = np.abs(np.diff(path, axis=0)).sum(axis=1)
                assert (steps == 1).all() or start == goal
                assert set(route) <= set(free)

    @staticmethod
    def distances(free, goal):
        distance, border = {goal: 0}, [goal]
        while border:
            row, column = border.pop(0)
            for dr, dc in BALL_MOVES[1:].tolist():
                cell = (row + dr, column + dc)
                if cell in free and cell not in distance:
                    distance[cell] = distance[row, column] + 1
                    border.append(cell)
        return distance

    def test_ties_go_to_the_first_move(self):
        """In an open maze the ball moves along columns first, the ant along rows."""
        planner = GridPlanner(MAZES["open"], BALL_MOVES)
        assert planner.route((3, 5), (1, 3)) == [(3, 4), (3, 3), (2, 3), (1, 3)]
        assert planner.route((1, 1), (3, 2)) == [(1, 2), (2, 2), (3, 2)]
        planner = GridPlanner(MAZES["open"], ANT_MOVES)
        assert planner.route((1, 1), (3, 2)) == [(2, 1), (3, 1), (3, 2)]

    def test_start_may_be_a_wall(self):
        """The position of a ball that touches a wall may round to the wall's cell."""
        planner = GridPlanner(MAZES["umaze"], BALL_MOVES)
        assert planner.route((0, 1), (3, 1))[0] == (1, 1)

    def test_unreachable_goal(self):
        with pytest.raises(ValueError, match="no route"):
            GridPlanner("#####/#O#G#/#####", BALL_MOVES).route((1, 1), (1, 3))


class TestBallDriver:
    def test_goal_is_reached_only_if_near_and_slow(self):
        driver = BallDriver(MAZES["umaze"], np.random.default_rng(0))
        driver.new_goal(1.0, 1.0)
        while np.round(driver.goal).tolist() != [3, 1]:
            driver.new_goal(1.0, 1.0)
        assert not driver.act(1.0, 1.0, 0.0, 0.0)[2]
        assert not driver.act(3.0, 1.05, 0.0, 0.0)[2]  # near, but not slow
        assert not driver.act(3.0, 1.11, 0.0, 0.0)[2]  # slow, but not near enough
        assert driver.act(3.0, 1.05, 0.0, 0.0)[2]

    @settings(max_examples=30)
    @given(st.integers(0, 10**6), st.sampled_from(sorted(MAZES)))
    def test_noise_of_goals_and_waypoints(self, seed, layout):
        rng = np.random.default_rng(seed)
        driver = BallDriver(MAZES[layout], rng)
        start = rng.permutation(cells(MAZES[layout], "OG"))[0].tolist()
        driver.new_goal(*start)
        waypoints = np.array(driver._waypoints)
        route = np.array(driver._planner.route(tuple(start), tuple(waypoints[-1].astype(int))))
        gap = route - waypoints
        assert (gap[:-1] >= 0).all()
        assert (gap[:-1] <= 0.2).all()
        assert (gap[-1] == 0).all()
        assert np.abs(driver.goal - route[-1]).max() <= 0.1

    def test_control_law(self):
        driver = BallDriver(MAZES["open"], np.random.default_rng(0))
        driver.new_goal(2.0, 2.0)
        wx, wy = driver._waypoints[0]
        ax, ay, _ = driver.act(wx + 0.05, wy - 0.02, 0.3, -0.1)
        assert ax == pytest.approx(10 * -0.05 - 0.3)
        assert ay == pytest.approx(10 * 0.02 + 0.1)
        assert driver.act(0.0, 9.0, 0.0, 0.0)[:2] == (1.0, -1.0)


@pytest.mark.parametrize("name", ["maze2d-open-v0", "maze2d-umaze-v1", "maze2d-large-v1"])
def test_segments_end_at_their_goal_or_at_the_horizon(tmp_path, name):
    task = get_task(name)
    arrays = made(tmp_path, name, 4000, seed=2)
    goal = cells(MAZES[task.layout], "G")[0]
    away = np.linalg.norm(arrays["observations"][:, :2] - goal, axis=1)
    np.testing.assert_array_equal(arrays["rewards"], away <= 0.5)
    assert not arrays["terminals"].any()
    assert (np.abs(arrays["actions"]) <= 1).all()
    ends = np.flatnonzero(arrays["timeouts"])
    lengths = np.diff(ends, prepend=-1)
    assert lengths.max() <= task.horizon + 1
    goals = np.round(arrays["infos/goal"][ends])
    missed = np.linalg.norm(arrays["observations"][ends, :2] - goals, axis=1) >= 0.1
    assert (lengths[missed] == task.horizon + 1).all()
    # the goal changes exactly there, and the ball continues from its position
    changes = np.flatnonzero((np.diff(arrays["infos/goal"], axis=0) != 0).any(axis=1))
    np.testing.assert_array_equal(changes, ends[ends < 3999])
    step = np.abs(np.diff(arrays["observations"][:, :2], axis=0)).max(axis=1)
    assert step.max() <= 0.06


def samples(path, task):
    """Scores and lengths of the episodes, and all rows of observations and actions."""
    arrays = read(path)
    last = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
    starts = np.append(0, last[:-1] + 1)
    returns = np.add.reduceat(arrays["rewards"][: last[-1] + 1].astype(float), starts)
    rows = np.concatenate([arrays["observations"], arrays["actions"]], axis=1).astype(float)
    return task.normalized_score(returns), np.diff(last, prepend=-1), rows


@pytest.mark.parametrize(
    ("name", "steps"), [("maze2d-umaze-v1", 50_000), ("hopper-random-v2", 20_000)]
)
def test_agrees_with_data_from_the_original_stack(tmp_path, name, steps):
    """Within 4 standard errors for means over episodes, and within a few per cent of the standard
    deviation for rows, which are not independent."""
    task = get_task(name)
    real = samples(shared_file(f"data/{name}.hdf5"), task)
    path = tmp_path / f"{name}.hdf5"
    generate.generate(task, path, steps=steps, seed=0)
    ours = samples(path, task)
    for theirs, mine in zip(real[:2], ours[:2], strict=True):
        error = np.hypot(theirs.std() / len(theirs) ** 0.5, mine.std() / len(mine) ** 0.5)
        assert abs(theirs.mean() - mine.mean()) < 4 * error
    spread = real[2].std(axis=0)
    assert (np.abs(real[2].mean(0) - ours[2].mean(0)) < 0.08 * spread).all()
    np.testing.assert_allclose(ours[2].std(axis=0), spread, rtol=0.15)


def test_attributes_record_how_the_file_was_made(tmp_path):
    made(tmp_path, "maze2d-open-v0", 20)
    with h5py.File(tmp_path / "maze2d-open-v0.hdf5") as file:
        assert file.attrs["mujoco_version"] == mujoco.__version__
        assert (file.attrs["recipe"], file.attrs["seed"]) == ("planner", 0)
