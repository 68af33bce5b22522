"""Datasets from behaviour policies: the files, the networks, the ant's route through its maze."""

import io
import pickle
import zipfile
from unittest.mock import Mock

import h5py
import numpy as np
import pytest

from d4rl_envs.antmaze import GOAL_RADIUS, MAZES, AntMazeEnv
from d4rl_envs.registration import make
from data import load_dataset
from data_sources import command, generate
from data_sources.behaviour_policy import AntPolicy, HandPolicy
from data_sources.episodes import AntBehaviour
from tasks import TASKS, get_task
from tests.conftest import shared_file
from utils import UserError

PEN, UMAZE = get_task("pen-expert-v1"), get_task("antmaze-umaze-v2")


def hand_arrays(task=PEN, hidden=(7, 5)):
    rng = np.random.default_rng(0)
    sizes = {"in": task.obs_dim, "h0": hidden[0], "h1": hidden[1], "act": task.act_dim}
    shapes = {
        "in_shift": "in", "in_scale": "in", "W0": "h0 in", "b0": "h0", "W1": "h1 h0", "b1": "h1",
        "W2": "act h1", "b2": "act", "out_shift": "act", "out_scale": "act", "log_std": "act",
    }  # fmt: skip
    arrays: dict[str, np.ndarray] = {}
    for name, dimensions in shapes.items():
        shape = tuple(sizes[dimension] for dimension in dimensions.split())
        arrays[name] = rng.normal(size=shape).astype(np.float32)
    arrays["in_scale"] = np.abs(arrays["in_scale"]) + 0.5
    arrays["log_std"] -= 2
    return arrays


def ant_arrays(task=UMAZE, hidden=(6, 4)):
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    layers = {
        "fc0": (hidden[0], task.obs_dim),
        "fc1": hidden[::-1],
        "last_fc": (task.act_dim, hidden[1]),
        "last_fc_log_std": (task.act_dim, hidden[1]),
    }
    for name, shape in layers.items():
        arrays[f"{name}/weight"] = rng.normal(size=shape).astype(np.float32)
        arrays[f"{name}/bias"] = rng.normal(size=shape[0]).astype(np.float32)
    return arrays


def save(path, arrays):
    np.savez(path, **arrays)
    return path


def fixed_noise(value):
    """A generator whose normal draws are all `value`."""
    rng = Mock(spec=np.random.Generator)
    rng.standard_normal.side_effect = lambda shape: np.full(shape, value)
    return rng


@pytest.mark.parametrize("noise", [0.0, 0.7, -1.3])
def test_hand_policy_matches_a_plain_computation(tmp_path, noise):
    a = hand_arrays()
    policy = HandPolicy(save(tmp_path / "p.npz", a), PEN)
    obs = np.random.default_rng(1).normal(size=45)
    x = (obs - a["in_shift"]) / (a["in_scale"] + 1e-8)
    for i in range(2):
        weight, bias = a[f"W{i}"].astype(float), a[f"b{i}"]
        x = np.array([np.tanh(sum(w * v for w, v in zip(row, x, strict=True)) + b)
                      for row, b in zip(weight, bias, strict=True)])  # fmt: skip
    mean = (a["W2"].astype(float) @ x + a["b2"]) * a["out_scale"] + a["out_shift"]
    expected = np.clip(mean + np.exp(a["log_std"].astype(float)) * noise, -1, 1)
    np.testing.assert_allclose(policy.sample(obs, fixed_noise(noise)), expected, atol=1e-6)
    assert (np.abs(expected) < 1).any()
    np.testing.assert_allclose(policy.mean(np.stack((obs, obs)))[1], mean, atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_ant_policy_matches_a_plain_computation(tmp_path, noise):
    a = ant_arrays()
    a["last_fc_log_std/bias"][:2] = 50, -500  # beyond the clip
    policy = AntPolicy(save(tmp_path / "p.npz", a), UMAZE)
    obs = np.random.default_rng(1).normal(size=29)
    x = np.append(obs[2:], [6.0, 8.0])
    for layer in ("fc0", "fc1"):
        x = a[f"{layer}/weight"].astype(float) @ x + a[f"{layer}/bias"]
        x = np.where(x > 0, x, 0)
    mean = a["last_fc/weight"] @ x + a["last_fc/bias"]
    log_std = a["last_fc_log_std/weight"] @ x + a["last_fc_log_std/bias"]
    log_std = np.minimum(np.maximum(log_std, -20), 2)
    expected = np.tanh(mean + noise * np.exp(log_std))
    # the length of the direction does not matter
    for direction in ([3.0, 4.0], [0.3, 0.4]):
        action = policy.sample(obs, np.array(direction), fixed_noise(noise))
        np.testing.assert_allclose(action, expected, atol=1e-6)
    assert np.isfinite(policy.sample(obs, np.zeros(2), fixed_noise(0.0))).all()


def fault(path, task=PEN):
    kind = AntPolicy if task.family == "antmaze" else HandPolicy
    with pytest.raises(UserError) as error:
        kind(path, task)
    message = str(error.value)
    assert message.startswith(f"--policy {path}: ")
    assert "\n" not in message
    return message


class TestInvalidFiles:
    def test_missing_file(self, tmp_path):
        assert "no such file" in fault(tmp_path / "p.npz")

    def test_not_npz(self, tmp_path):
        path = tmp_path / "p.npz"
        for content in (b"", b"text", pickle.dumps({"W0": 1})):
            path.write_bytes(content)
            assert "not an .npz file of arrays" in fault(path)
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
        assert "not an .npz file of arrays" in fault(path)

    def test_nothing_is_unpickled(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (pytest.fail, ("unpickled",))

        arrays = hand_arrays()
        arrays["W0"] = np.array([Bomb()], dtype=object)
        with zipfile.ZipFile(tmp_path / "p.npz", "w") as file:
            for name, array in arrays.items():
                content = io.BytesIO()
                np.save(content, array, allow_pickle=True)
                file.writestr(f"{name}.npy", content.getvalue())
        assert "allow_pickle=False" in fault(tmp_path / "p.npz")

    def test_truncated(self, tmp_path):
        path = save(tmp_path / "p.npz", hand_arrays())
        path.write_bytes(path.read_bytes()[:-100])
        assert "not an .npz file of arrays" in fault(path)

    def test_missing_arrays(self, tmp_path):
        arrays = hand_arrays()
        del arrays["W1"], arrays["log_std"]
        assert "no W1, log_std in this file" in fault(save(tmp_path / "p.npz", arrays))

    @pytest.mark.parametrize("name", ["W0", "b0", "W1", "W2", "out_scale", "in_scale", "log_std"])
    def test_wrong_shapes(self, tmp_path, name):
        arrays = hand_arrays()
        arrays[name] = np.zeros((*arrays[name].shape[:-1], arrays[name].shape[-1] + 1))
        # sizes that are not fixed contradict those of the next layer
        assert "has shape" in fault(save(tmp_path / "p.npz", arrays))
        arrays[name] = np.float32(1)
        assert f"{name} has shape ()" in fault(save(tmp_path / "p.npz", arrays))

    def test_policy_of_another_task(self, tmp_path):
        path = save(tmp_path / "p.npz", hand_arrays())
        message = fault(path, get_task("hammer-expert-v1"))
        assert "in_shift has shape (45,) instead of (46)" in message
        assert "no fc0/weight" in fault(path, UMAZE)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, tmp_path, value):
        arrays = hand_arrays()
        arrays["W1"][2, 3] = value
        assert "W1 is not an array of finite numbers" in fault(save(tmp_path / "p.npz", arrays))

    def test_strings(self, tmp_path):
        arrays = hand_arrays()
        arrays["b0"] = np.array(["a"] * 7)
        assert "b0 is not an array of finite numbers" in fault(save(tmp_path / "p.npz", arrays))


class TestAntBehaviour:
    @pytest.fixture
    def walker(self, tmp_path):
        def make_walker(name, policy=None):
            task = get_task(name)
            env = make(task)
            assert isinstance(env, AntMazeEnv)
            policy = policy or AntPolicy(save(tmp_path / "p.npz", ant_arrays()), task)
            return env, AntBehaviour(task, env, policy, np.random.default_rng(0))

        return make_walker

    def test_position_to_cell(self, walker):
        _, ant = walker("antmaze-umaze-v2")
        for xy, cell in {
            (0, 0): (1, 1), (3.9, -0.6): (1, 1), (4.1, 0.2): (1, 2), (8.3, 8.9): (3, 3),
            (-0.9, 8.0): (3, 1),
        }.items():  # fmt: skip
            assert ant._cell(np.array(xy)) == cell

    @pytest.mark.parametrize("name", ["antmaze-umaze-v2", "antmaze-large-play-v2"])
    def test_play_tasks_use_the_goal_of_the_task(self, walker, name):
        env, ant = walker(name)
        for _ in range(5):
            obs, _ = env.reset()
            assert ant.begin(obs) is obs
            np.testing.assert_array_equal(ant.goal, env.goal)
            assert not ant.done(np.append(ant.goal, np.zeros(27)))

    @pytest.mark.parametrize("name", ["antmaze-umaze-diverse-v2", "antmaze-medium-diverse-v2"])
    def test_diverse_tasks_use_all_cells_as_starts_and_goals(self, walker, name):
        env, ant = walker(name)
        grid = MAZES[get_task(name).layout].split("/")
        seen: dict[str, set[tuple[int, int]]] = {"start": set(), "goal": set()}
        for _ in range(150):
            obs = ant.begin(env.reset()[0])
            np.testing.assert_array_equal(obs, env.observation())
            # within 0.1 of a cell's centre
            for kind, xy in (("start", obs[:2] + 0.1), ("goal", ant.goal)):
                row, column = ant._cell(xy)
                assert grid[row][column] != "#"
                seen[kind].add((row, column))
            assert ant.done(np.append(ant.goal + GOAL_RADIUS * 0.7, np.zeros(27)))
            assert not ant.done(np.append(ant.goal + GOAL_RADIUS, np.zeros(27)))
        free = sum(row.count(kind) for row in grid for kind in "ROG")
        assert len(seen["start"]) == len(seen["goal"]) == free

    def test_waypoints_are_the_next_cell_and_finally_the_goal(self, walker):
        class Still:
            def sample(self, obs, direction, rng):
                self.direction = direction
                return np.zeros(8)

        policy = Still()
        env, ant = walker("antmaze-umaze-v2", policy)
        ant.begin(env.reset()[0])
        obs = np.zeros(29)
        waypoints = []
        for _ in range(50):
            action = ant.act(obs)
            waypoints.append(policy.direction)
        assert 0 < np.abs(action).max() < 2  # only noise
        low, high = np.min(waypoints, axis=0), np.max(waypoints, axis=0)
        assert ((low >= [4, 0]) & (high <= [5, 1]) & (high - low > 0.5)).all()
        obs[:2] = 4.5, 8.5
        ant.act(obs)
        np.testing.assert_allclose(policy.direction, ant.goal - obs[:2])


def read(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file}


@pytest.mark.parametrize("name", ["pen-expert-v1", "antmaze-umaze-v2", "antmaze-umaze-diverse-v2"])
def test_untrained_policies_give_a_valid_file_determined_by_the_seed(tmp_path, name):
    task = get_task(name)
    arrays = ant_arrays(task) if task.family == "antmaze" else hand_arrays(task)
    policy = save(tmp_path / "p.npz", arrays)
    files = []
    for i in range(2):
        path = tmp_path / f"{i}" / f"{name}.hdf5"
        path.parent.mkdir()
        generate.generate(task, path, steps=260, seed=1, policy=policy)
        files.append(read(path))
    for key, array in files[0].items():
        np.testing.assert_array_equal(array, files[1][key])
        assert len(array) == 260
    assert set(files[0]) == {"observations", "actions", "rewards", "terminals", "timeouts"}
    assert np.abs(files[0]["actions"]).max() <= 1
    assert not (files[0]["terminals"] & files[0]["timeouts"]).any()
    if task.family == "pen":
        ends = np.flatnonzero(files[0]["terminals"] | files[0]["timeouts"])
        assert np.diff(ends, prepend=-1).max() <= task.horizon
    load_dataset(path, task)
    with h5py.File(path) as file:
        assert file.attrs["policy"] == "p.npz"


@pytest.mark.parametrize(
    ("name", "policy", "steps", "least"),
    [("pen-expert-v1", "pen", 1000, 70), ("door-expert-v1", "door", 1000, 85),
     ("hammer-expert-v1", "hammer", 1000, 60), ("relocate-expert-v1", "relocate", 1000, 70)],
)  # fmt: skip
def test_experts_score_like_experts(tmp_path, name, policy, steps, least):
    """The published means are 97 to 107; the bounds allow for samples of five to ten episodes."""
    task, path = get_task(name), tmp_path / f"{name}.hdf5"
    generate.generate(task, path, steps=steps, seed=0,
                      policy=shared_file(f"policies/{policy}.npz"))  # fmt: skip
    arrays = read(path)
    ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
    returns = np.add.reduceat(arrays["rewards"].astype(float), np.append(0, ends[:-1] + 1))
    assert task.normalized_score(returns).mean() > least


def test_ant_reaches_its_goal(tmp_path):
    path = tmp_path / "antmaze-umaze-v2.hdf5"
    generate.generate(UMAZE, path, steps=1500, seed=0, policy=shared_file("policies/antmaze.npz"))
    arrays = read(path)
    reached = np.flatnonzero(arrays["terminals"])
    assert len(reached) >= 2
    np.testing.assert_array_equal(np.flatnonzero(arrays["rewards"]), reached)


class TestCommand:
    def run(self, capsys, folder, *options):
        script = "download_advanced.py"
        code = command.main(script, ["--source", "generate", "--data_dir", str(folder), *options])
        return code, capsys.readouterr()

    def test_generates_from_a_policy_file(self, tmp_path, capsys):
        policy = save(tmp_path / "p.npz", hand_arrays())
        options = ["--only", "pen-expert-v1", "--steps", "210", "--policy", str(policy)]
        code, output = self.run(capsys, tmp_path / "out", *options)
        assert (code, output.err) == (0, "")
        assert "210 rows" in output.out

    def test_policy_is_missing_invalid_or_impossible(self, tmp_path, capsys):
        policy = str(save(tmp_path / "p.npz", hand_arrays()))
        for options, message in (
            (["--only", "pen-expert-v1"], "pen-expert-v1: --source generate needs a behaviour"),
            (["--only", "hammer-expert-v1", "--policy", policy], f"--policy {policy}: in_shift"),
        ):
            code, output = self.run(capsys, tmp_path / "out", *options)
            assert code == 2
            (line,) = output.err.splitlines()
            assert line.startswith(message)
        assert not any((tmp_path / "out").iterdir())

    def test_unused_policy_is_refused(self, tmp_path, capsys):
        options = ["--source", "generate", "--policy", "p.npz", "--data_dir", str(tmp_path)]
        code = command.main("download_d4rl_basic.py", [*options, "--only", "maze2d-open-v0"])
        assert code == 2
        assert "its recipe uses no policy" in capsys.readouterr().err


def test_tasks_that_need_a_policy():
    names = {name for name, task in TASKS.items() if generate.recipe(task) == "policy"}
    experts = {f"{hand}-expert-v1" for hand in ("pen", "hammer", "door", "relocate")}
    assert names == experts | {n for n in TASKS if n.startswith("antmaze") and n.endswith("-v2")}
