"""Pickle files of trajectories: the same dataset and checks as for HDF5; nothing is executed."""

import os
import pickle
import subprocess
from collections import OrderedDict, defaultdict
from functools import partial

import numpy as np
import pytest

from data import dataset_path, load_dataset
from tasks import get_task
from tests.data_files import dataset_fault, random_arrays, split_by_loop, write

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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hopper-medium-v2.pkl"


def fault(path, content, task=HOPPER) -> str:
    return dataset_fault(dump(path, content), task)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_gives_the_same_dataset_as_hdf5(tmp_path, name, protocol):
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
    for field in ("state_mean", "state_std"):  # summed in other blocks where rows were dropped
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


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_other_types_layouts_and_containers_are_read(tmp_path, made, protocol):
    want = load_dataset(dump(tmp_path / "a.pkl", made), HOPPER)
    for number, trajectory in enumerate(made):
        trajectory["rewards"] = trajectory["rewards"][:, None]
        trajectory["terminals"] = trajectory["terminals"].astype(int)
        observations = trajectory["observations"].astype([">f8", "<f4"][number % 2])
        trajectory["observations"] = np.asfortranarray(observations)
        trajectory["actions"] = trajectory["actions"].repeat(2, axis=0)[::2]
        trajectory["infos"] = {"text": "é", "score": np.float32(1.5), "none": np.array([None])}
    made[0], made[1] = OrderedDict(made[0]), defaultdict(list, made[1])
    got = load_dataset(dump(tmp_path / "b.pkl", made, protocol), HOPPER)
    for field in ("observations", "actions", "rewards", "terminals"):
        np.testing.assert_array_equal(getattr(got, field), getattr(want, field))


def test_names_of_numpy_1_are_read(path, made):
    want = load_dataset(dump(path, made), HOPPER)
    path.write_bytes(pickle.dumps(made, 3).replace(b"numpy._core", b"numpy.core"))
    np.testing.assert_array_equal(load_dataset(path, HOPPER).rewards, want.rewards)


class Calls:
    """Calls a function when it is unpickled normally."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


MALICIOUS = {
    "posix.system": lambda target: Calls(os.system, f"touch {target}"),
    "builtins.eval": lambda target: Calls(eval, f"open({target!r}, 'w')"),
    "io.open": lambda target: Calls(open, target, "w"),
    "subprocess.Popen": lambda target: Calls(subprocess.Popen, ["touch", target]),
    "builtins.getattr": lambda target: Calls(getattr, target, "upper"),
    "numpy.save": lambda target: Calls(np.save, target, 1),
    "numpy.memmap": lambda target: Calls(np.memmap, target, "f8", "w+", 0, (4,)),
}


@pytest.mark.parametrize("name", MALICIOUS)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_malicious_pickles_execute_nothing(path, tmp_path, name, protocol):
    message = fault(path, [MALICIOUS[name](str(tmp_path / "harm"))], HOPPER)
    assert "refused: it would call '" in message
    assert name.rpartition(".")[2] in message
    assert "re-save it with plain dicts and NumPy arrays" in message
    assert not list(tmp_path.glob("harm*"))


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = RECONSTRUCT + b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R"
FLOAT = b"cnumpy\ndtype\n\x8c\x02f8\x89\x88\x87R"


@pytest.mark.parametrize(
    "content",
    [
        b"ios\nsystem\n.",  # other instructions that call a function
        b"(cos\nsystem\no.",
        b"cos\nsystem\n)\x81.",
        b"\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"\x82\x01.",
        b"Pfile\n.",
        RECONSTRUCT + b"cbuiltins\nlist\nK\x00\x85C\x01b\x87R.",  # arrays that are none
        NDARRAY + b"(K\x01K\x04\x85" + FLOAT + b"\x89C\x01atb.",
        NDARRAY + b"(K\x01J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86" + FLOAT + b"\x89C\x08aaaaaaaatb.",
        NDARRAY + b"N\x62.",
        # an object array whose dtype claims to contain no objects, made of bytes
        NDARRAY
        + b"(K\x01K\x01\x85cnumpy\ndtype\n\x8c\x02O8\x89\x88\x87R(K\x03\x8c\x01|NNNJ\xff\xff"
        b"\xff\xffJ\xff\xff\xff\xffK\x00tb\x89C\x08aaaaaaaatb.",
        FLOAT + b"(K\x03\x8c\x01?NNNK\x00K\x00K\x00tb.",
        b"",  # damaged, or no pickle at all
        b"\x80",
        b"\x80\x04",
        b"<html>404</html>",
        b"\x89HDF\r\n\x1a\n",
        b"\x80\x63N.",
    ],
)
def test_garbage_is_reported_in_one_line(path, content):
    path.write_bytes(content if content[:1] in b"<\x80\x89" else b"\x80\x04" + content)
    message = dataset_fault(path, HOPPER)
    assert len(message) < 200


def test_truncated_and_missing_files(path, made, tmp_path):
    content = pickle.dumps(made)
    for size in (100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert "not a pickle file, or damaged" in dataset_fault(path, HOPPER)
    assert "No such file" in dataset_fault(tmp_path / "b.pkl", HOPPER)


def test_wrong_contents(path, made):
    assert "contains a dict, not a list of trajectories" in fault(path, {"observations": 1})
    assert "no trajectories" in fault(path, [])
    assert "trajectory 1 is a list" in fault(path, [made[0], [1]])
    assert "trajectory 0: rewards is a list" in fault(path, [made[0] | {"rewards": [1.0]}])
    objects = np.array([None] * len(made[0]["rewards"]))
    assert "rewards is an array of objects" in fault(path, [made[0] | {"rewards": objects}])
    del made[2]["actions"], made[2]["terminals"]
    assert "trajectory 2: no actions, terminals in it (it contains obs" in fault(path, made)


def test_wrong_shapes(path, made):
    whole = dict(made[1])
    made[1]["rewards"] = whole["rewards"][:-1]
    assert "trajectory 1: rewards has" in fault(path, made)
    made[1]["rewards"] = np.zeros((len(whole["rewards"]), 2))
    assert "trajectory 1: rewards has shape" in fault(path, made)
    made[1]["rewards"], made[1]["actions"] = whole["rewards"], np.array(1.0)
    assert "trajectory 1: actions has shape () instead" in fault(path, made)
    made[1]["actions"] = whole["actions"][:, :2]
    assert "trajectory 1: actions has rows of shape (2,)" in fault(path, made)
    made[1] = {name: array[:0] for name, array in whole.items()}
    assert "trajectory 1 is empty" in fault(path, made)


def test_values_are_checked_like_those_of_hdf5(path, made):
    made[0]["actions"][0, 0] = 30
    assert "row 0 has 30" in fault(path, made)
    made[0]["actions"][0, 0] = 0
    made[1]["next_observations"][0] = np.nan
    row = len(made[0]["rewards"])
    assert f"NaN or infinity in next_observations, first in row {row}" in fault(path, made)
    walker = get_task("walker2d-medium-v2")
    content = trajectories(walker, random_arrays(walker, 60, 5))
    assert "halfcheetah and walker2d" in fault(path, content)


def test_bools_other_than_0_and_1_are_refused(path, made):
    four = {name: array[:1].repeat(4, axis=0) for name, array in made[1].items()}
    content = pickle.dumps([four | {"terminals": np.ones(4, bool)}], 4)
    assert content.count(b"C\x04\x01\x01\x01\x01") == 1
    path.write_bytes(content.replace(b"C\x04\x01\x01\x01\x01", b"C\x04\x01\x01\x07\x01"))
    assert "terminals must be 0 or 1, but row 2 is 7" in dataset_fault(path, HOPPER)
