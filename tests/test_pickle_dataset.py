"""Pickle files of trajectories: the same dataset as from the HDF5 file, and the same checks."""

import logging
import pickle
from functools import partial

import numpy as np
import pytest

from data import dataset_path, load_dataset
from tasks import get_task
from tests.data_files import random_arrays, split_by_loop, write
from utils import UserError

NAMES = ["hopper-medium-v2", "maze2d-open-v0", "antmaze-umaze-v2", "door-human-v1"]
HOPPER = get_task("hopper-medium-v2")


def trajectories(task, arrays):
    """What the scripts of the published runs make of a D4RL file."""
    made = []
    for part in split_by_loop(task, arrays):
        following = np.concatenate([part["observations"][1:], part["final_observation"][None]])
        made.append(
            {
                "observations": part["observations"],
                "next_observations": following,
                "actions": part["actions"],
                "rewards": part["raw_rewards"],
                "terminals": part["terminals"],
            }
        )
    return made


def dump(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.fixture
def made():
    return trajectories(HOPPER, random_arrays(HOPPER, 60, 5))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", [3, 4])
def test_the_same_as_the_hdf5_file(tmp_path, name, protocol):
    task = get_task(name)
    arrays = random_arrays(task, 400, 3)
    load = partial(load_dataset, task=task, delayed_reward=3, spare_rows=5)
    want = load(write(tmp_path / f"{name}.hdf5", arrays))
    got = load(dump(tmp_path / f"{name}.pkl", trajectories(task, arrays), protocol))
    assert got.num_trajectories > 5
    rows = got.num_transitions
    for field in ("observations", "actions", "rewards", "terminals"):
        ours, theirs = getattr(got, field), getattr(want, field)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_array_equal(ours[:rows], theirs[:rows])
    for field in ("final_observations", "lengths", "returns", "raw_returns"):
        np.testing.assert_array_equal(getattr(got, field), getattr(want, field))
    for field in ("state_mean", "state_std"):  # summed in other blocks where rows were left out
        np.testing.assert_allclose(getattr(got, field), getattr(want, field), rtol=1e-12)


def test_fingerprint(tmp_path, made):
    path = dump(tmp_path / "mine.pkl", made)
    fingerprint = load_dataset(path, HOPPER).fingerprint
    assert fingerprint["file"] == "mine.pkl"
    assert fingerprint["bytes"] == path.stat().st_size
    assert len(fingerprint["sha256"]) == 64
    assert fingerprint["rows"] == sum(len(t["rewards"]) for t in made)
    assert fingerprint["trajectories"] == len(made) - 1
    assert dataset_path(HOPPER, tmp_path, str(path)) == path


def test_blocks_that_cut_through_trajectories(tmp_path, made, monkeypatch):
    path = dump(tmp_path / "a.pkl", made)
    whole = load_dataset(path, HOPPER)
    monkeypatch.setattr("dataset_rows._BLOCK_ROWS", 7)
    parts = load_dataset(path, HOPPER)
    np.testing.assert_array_equal(parts.observations, whole.observations)
    np.testing.assert_array_equal(parts.final_observations, whole.final_observations)


def test_mixed_types_and_columns(tmp_path, made):
    """float64 beside float32, integer flags, rewards as a column."""
    want = load_dataset(dump(tmp_path / "a.pkl", made), HOPPER)
    for number, trajectory in enumerate(made):
        trajectory["rewards"] = trajectory["rewards"][:, None]
        trajectory["terminals"] = trajectory["terminals"].astype(int)
        if number % 2:
            trajectory["observations"] = trajectory["observations"].astype(float)
        trajectory["extra"] = "not read"
    got = load_dataset(dump(tmp_path / "b.pkl", made), HOPPER)
    np.testing.assert_array_equal(got.observations, want.observations)
    np.testing.assert_array_equal(got.rewards, want.rewards)
    np.testing.assert_array_equal(got.terminals, want.terminals)


def fault(path, content, task=HOPPER) -> str:
    with pytest.raises(UserError) as error:
        load_dataset(dump(path, content), task)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hopper-medium-v2.pkl"


def test_contents_of_another_kind(path, made):
    assert "a dictionary, not of a list" in fault(path, {"observations": 1})
    assert "no trajectories" in fault(path, [])
    assert "trajectory 1 is a list" in fault(path, [made[0], [1]])
    assert "trajectory 0: rewards is a list" in fault(path, [made[0] | {"rewards": [1.0]}])
    del made[2]["actions"], made[2]["terminals"]
    assert "trajectory 2: no actions, terminals in it (it holds 'obs" in fault(path, made)


def test_objects(path, made):
    made[1]["rewards"] = np.array([None] * len(made[1]["rewards"]))
    assert "'O8'; only arrays of numbers are read" in fault(path, made)


def test_shapes(path, made):
    whole = {name: array.copy() for name, array in made[1].items()}
    made[1]["rewards"] = whole["rewards"][:-1]
    assert "trajectory 1: rewards has" in fault(path, made)
    made[1]["rewards"] = np.zeros((len(whole["rewards"]), 2))
    assert "trajectory 1: rewards has shape" in fault(path, made)
    made[1]["rewards"], made[1]["actions"] = whole["rewards"], np.array(1.0)
    assert "trajectory 1: actions has shape () instead" in fault(path, made)
    made[1]["actions"] = whole["actions"][:, :2]
    assert "trajectory 1: actions has rows of (2,) numbers" in fault(path, made)
    made[1] = {name: array[:0] for name, array in whole.items()}
    assert "trajectory 1 is empty" in fault(path, made)


def test_another_task(path):
    task = get_task("walker2d-medium-v2")
    content = trajectories(task, random_arrays(task, 60, 5))
    assert "halfcheetah and walker2d" in fault(path, content)


def test_a_file_name_of_another_task_is_only_warned_about(tmp_path, caplog):
    task = get_task("walker2d-medium-v2")
    content = trajectories(task, random_arrays(task, 60, 5))
    with caplog.at_level(logging.WARNING):
        load_dataset(dump(tmp_path / "halfcheetah-medium-v2.pkl", content), task)
    assert "by its name a dataset of another task" in caplog.text


@pytest.mark.parametrize("name", ["observations", "next_observations", "actions", "rewards"])
def test_not_finite(path, made, name):
    made[1][name][0] = np.nan
    row = len(made[0]["rewards"])
    assert f"NaN or infinity in {name}, first in row {row}" in fault(path, made)


def test_flags_and_action_range(path, made):
    made[0]["actions"][0, 0] = 30
    assert "row 0 reaches 30" in fault(path, made)
    made[0]["actions"][0, 0] = 0
    made[0]["terminals"] = made[0]["terminals"].astype(int) + 5
    assert "terminals must be 0 or 1" in fault(path, made)
    content = pickle.dumps(made, 4)
    raw = np.array([True, True, True, True]).tobytes()
    made[0] = {name: array[:1].repeat(4, axis=0) for name, array in made[1].items()}
    made[0]["terminals"] = np.ones(4, bool)
    content = pickle.dumps(made, 4)
    assert content.count(b"C\x04" + raw) == 1
    path.write_bytes(content.replace(b"C\x04" + raw, b"C\x04\x01\x01\x07\x01"))
    with pytest.raises(UserError, match="row 2 is 7"):
        load_dataset(path, HOPPER)


def test_repeated_trajectories(path, made):
    """References cost two bytes each, and would stand for any amount of rows."""
    assert "write them apart" in fault(path, [made[0]] * 3000)
