"""Invalid dataset files are reported in one line."""

import errno
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import h5py
import numpy as np
import pytest

from data import load_dataset
from offline_data.rows import environment_named
from tasks import TASKS, get_task
from tests.data_files import dataset_fault, random_arrays, write

HOPPER = get_task("hopper-medium-v2")


@pytest.fixture
def arrays():
    return random_arrays(HOPPER, 60, 5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hopper-medium-v2.hdf5"


def fault(path, task=HOPPER) -> str:
    return dataset_fault(path, task)


def test_missing_file(path):
    assert fault(path) == "no such file"
    assert fault(path.parent) == "no such file"


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", pickle.dumps({"a": 1})])
def test_not_hdf5(path, content):
    path.write_bytes(content)
    assert "not an HDF5 file" in fault(path)


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_truncated(path, arrays, share):
    write(path, arrays)
    os.truncate(path, int(path.stat().st_size * share))
    assert "truncated" in fault(path)


def test_overwritten_values(path):
    write(path, random_arrays(HOPPER, 3000, 5), chunks=True, compression="gzip")
    with h5py.File(path) as file:
        place = file["observations"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 400)
    assert "damaged" in fault(path)


def test_missing_filter_is_named(path, arrays, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    del arrays["rewards"]
    with h5py.File(write(path, arrays), "a") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((60,))
        plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((60,))
        h5py.h5d.create(file.id, b"rewards", h5py.h5t.IEEE_F32LE, space, plist)
    message = fault(path)
    assert message.startswith("rewards is compressed with the HDF5 filter")
    assert message.endswith("(32001), which is not installed; pip install hdf5plugin")


def test_file_open_for_writing_elsewhere_is_not_called_damaged(path, arrays):
    write(path, arrays)
    code = f"import h5py; f = h5py.File({str(path)!r}, 'r+'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout and other.stdout.readline()
        assert fault(path) == "another program has it open for writing, close it there"
        other.communicate(b"\n")
    load_dataset(path, HOPPER)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_file_is_opened_without_a_lock_if_only_locking_fails(path, arrays, monkeypatch, number):
    real = h5py.File

    def opened(*args, locking=True):
        if locking:
            raise OSError(number, "unable to lock file")
        return real(*args, locking=False)

    write(path, arrays)
    monkeypatch.setattr(h5py, "File", opened)
    if number == errno.ENOLCK:
        load_dataset(path, HOPPER)
    else:
        assert fault(path) == "cannot be read (Input/output error)"


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminals"])
def test_missing_array(path, arrays, name):
    del arrays[name]
    assert f"no {name} in this file (it contains " in fault(write(path, arrays))


def test_all_missing_arrays_are_listed(path):
    message = fault(write(path, {"images": np.zeros((3, 2))}))
    assert "no observations, actions, rewards, terminals, next_observations" in message
    assert "images" in message


def test_only_gym_tasks_after_v0_require_next_observations(path, tmp_path, arrays):
    task = get_task("hopper-medium-v0")
    want = load_dataset(write(path, arrays), task).final_observations  # used if present
    np.testing.assert_array_equal(want, load_dataset(path, HOPPER).final_observations)
    del arrays["next_observations"]
    assert "no next_observations" in fault(write(path, arrays))
    data = load_dataset(path, task)
    rows = [np.flatnonzero((arrays["observations"] == o).all(1)).item() for o in data.observations]
    ends = np.array(rows)[np.cumsum(data.lengths) - 1]
    np.testing.assert_array_equal(data.final_observations, arrays["observations"][ends + 1])
    task = get_task("pen-human-v1")
    load_dataset(write(tmp_path / "pen-human-v1.hdf5", random_arrays(task, 60, 5)), task)


@pytest.mark.parametrize("name", ["observations", "rewards", "terminals", "timeouts"])
def test_wrong_length(path, arrays, name):
    arrays[name] = arrays[name][:-3]
    assert "57" in fault(write(path, arrays))


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "timeouts"])
def test_wrong_shape(path, arrays, name):
    arrays[name] = np.zeros((60, 3, 2))
    assert f"{name} has shape (60, 3, 2)" in fault(write(path, arrays))


def test_scalar_or_group_instead_of_an_array(path, arrays):
    arrays["rewards"] = np.float32(1)
    assert "rewards has shape ()" in fault(write(path, arrays))
    del arrays["rewards"]
    with h5py.File(write(path, arrays), "a") as file:
        file.create_group("rewards")
    assert "rewards is not an array" in fault(path)


@pytest.mark.parametrize(
    "values",
    [np.full(60, b"one"), np.zeros(60, complex), np.zeros(60, [("a", float), ("b", int)])],
)
def test_wrong_type(path, arrays, values):
    arrays["rewards"] = values
    assert "rewards has dtype" in fault(write(path, arrays))


def test_strings(path, arrays):
    del arrays["rewards"]
    with h5py.File(write(path, arrays), "a") as file:
        file.create_dataset("rewards", data=["a"] * 60, dtype=h5py.string_dtype())
    assert "rewards has dtype object, which is not numeric" in fault(path)


def test_widths_of_another_task(path):
    message = fault(write(path, random_arrays(get_task("walker2d-medium-v2"), 60, 5)))
    assert "dataset of another task" in message
    assert "halfcheetah and walker2d" in message
    odd = random_arrays(HOPPER, 60, 5)
    odd["actions"] = np.zeros((60, 5))
    assert "no known task" in fault(write(path, odd))


def test_width_of_next_observations(path, arrays):
    arrays["next_observations"] = np.zeros((60, 12))
    assert "next_observations has width 12" in fault(write(path, arrays))


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "next_observations"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(path, arrays, name, value):
    arrays[name][[17, 33], ...] = value
    assert f"NaN or infinity in {name}, first in row 17" in fault(write(path, arrays))


def test_opposite_infinities_and_float64_beyond_float32(path, arrays):
    arrays["rewards"][[3, 4]] = np.inf, -np.inf
    assert "first in row 3" in fault(write(path, arrays))
    arrays["rewards"] = np.full(60, 1e300)
    assert "rewards, first in row 0" in fault(write(path, arrays))


def test_actions_out_of_range(path, arrays, caplog):
    arrays["actions"][21, 1] = -30
    assert "actions must be in [-1, 1], but row 21 has -30; scale" in fault(write(path, arrays))
    arrays["actions"][21, 1] = -1.2
    with caplog.at_level(logging.WARNING):
        load_dataset(write(path, arrays), HOPPER)
    assert "outside [-1, 1] in 1 rows" in caplog.text


@pytest.mark.parametrize("name", ["terminals", "timeouts"])
@pytest.mark.parametrize("value", [2, 0.5, -1, np.nan])
def test_flags_other_than_0_and_1(path, arrays, name, value):
    arrays[name] = arrays[name].astype(float)
    arrays[name][9] = value
    assert f"{name} must be 0 or 1, but row 9 is {value}" in fault(write(path, arrays))


def test_no_complete_trajectory(path):
    arrays = random_arrays(HOPPER, 60, 5, 0.0)
    assert "no complete trajectory in its 60 rows" in fault(write(path, arrays))
    empty = {name: array[:0] for name, array in arrays.items()}
    assert "no complete trajectory in its 0 rows" in fault(write(path, empty))


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("name", ["antmaze-umaze-v2", "maze2d-open-v0"])
def test_too_short_for_a_next_observation(tmp_path, name, rows):
    task = get_task(name)
    arrays = random_arrays(task, rows, 5, 1.0)
    path = tmp_path / f"{name}.hdf5"
    assert "no complete trajectory" in fault(write(path, arrays), task)
    del arrays["timeouts"]
    arrays["infos/goal"] = np.zeros((rows, 2))
    assert "no complete trajectory" in fault(write(path, arrays), task)


def test_other_files_are_not_read(path, arrays, tmp_path):
    other = write(tmp_path / "other.hdf5", arrays)
    for name in ("observations", "rewards"):
        rest = {key: array for key, array in arrays.items() if key != name}
        with h5py.File(write(path, rest), "a") as file:
            file[name] = h5py.ExternalLink(str(other), name)
        assert f"{name} is a link to another file" in fault(path)
    with h5py.File(write(path, rest), "a") as file:
        layout = h5py.VirtualLayout((60,), np.float32)
        layout[:] = h5py.VirtualSource(str(other), "rewards", (60,))
        file.create_virtual_dataset("rewards", layout)
    assert "values of rewards are in another file" in fault(path)
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(240))
    with h5py.File(write(path, rest), "a") as file:
        file.create_dataset("rewards", (60,), np.float32, external=[(str(raw), 0, 240)])
    assert "values of rewards are in another file" in fault(path)


def test_declared_but_never_written(path, arrays):
    """A small file may claim terabytes, which must not be allocated."""
    rows = 10**12
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            shape = (rows, *array.shape[1:])
            file.create_dataset(name, shape, array.dtype, chunks=(1000, *array.shape[1:]))
    assert "never written" in fault(path)


def test_too_large_for_memory(path, arrays, monkeypatch):
    write(path, arrays)

    def no_room(*_, **__):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr("data._SortedReader", no_room)
    assert "too large for this machine's memory" in fault(path)


class TestOrigin:
    """Files of the right widths that contain the name of a task."""

    halfcheetah = get_task("halfcheetah-medium-v2")

    def file(self, folder: Path, name="a.hdf5", task="halfcheetah-medium-v2"):
        return write(folder / name, random_arrays(get_task(task), 60, 5))

    @pytest.mark.parametrize("key", ["env_id", "task", "environment"])
    @pytest.mark.parametrize("value", ["Walker2d-v2", np.bytes_(b"walker2d-medium-v2")])
    def test_attribute_of_another_family(self, tmp_path, key, value):
        path = self.file(tmp_path)
        with h5py.File(path, "a") as file:
            file.attrs[key] = value
        message = fault(path, self.halfcheetah)
        assert "dataset of another task than halfcheetah-medium-v2" in message
        assert f"its {key} is" in message

    def test_metadata_of_another_family(self, tmp_path):
        path = self.file(tmp_path)
        with h5py.File(path, "a") as file:
            file["metadata/env_name"] = "walker2d"
        assert "its env_name is 'walker2d'" in fault(path, self.halfcheetah)
        with h5py.File(path, "a") as file:
            del file["metadata"]
            file.create_group("metadata").attrs["env"] = "Walker2d"
        assert "its env is 'Walker2d'" in fault(path, self.halfcheetah)

    def test_another_layout(self, tmp_path):
        path = self.file(tmp_path, task="maze2d-umaze-v1")
        with h5py.File(path, "a") as file:
            file.attrs["task"] = "maze2d-umaze-v1"
        assert "another task" in fault(path, get_task("maze2d-large-v1"))
        load_dataset(path, get_task("maze2d-umaze-v1"))

    def test_another_policy_in_the_same_environment_is_accepted(self, tmp_path, caplog):
        path = self.file(tmp_path, "halfcheetah-random-v2.hdf5")
        with h5py.File(path, "a") as file:
            file.attrs["task"] = "halfcheetah-random-v2"
            file["metadata/algorithm"] = "SAC"
            file["metadata/env_version"] = 2
        load_dataset(path, self.halfcheetah)
        assert not caplog.records

    @pytest.mark.parametrize("name", ["walker2d-medium-v2.hdf5", "walker2d_medium-v2.hdf5"])
    def test_file_name_of_another_task_only_causes_a_warning(self, tmp_path, caplog, name):
        load_dataset(self.file(tmp_path, name), self.halfcheetah)
        assert "by its name, a dataset of another task" in caplog.text

    def test_unusual_attributes_are_ignored(self, tmp_path):
        path = self.file(tmp_path)
        with h5py.File(path, "a") as file:
            file.attrs["task"] = np.zeros(3)
            file.attrs["env"] = h5py.Empty("f")
            file.attrs["environment"] = b"\xff\xfe walker"
            file["metadata/task"] = np.zeros((2, 2))
            file["metadata/env"] = h5py.ExternalLink("/etc/hostname", "a")
            file["metadata/domain"] = h5py.SoftLink("/nowhere")
        load_dataset(path, self.halfcheetah)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_environment_is_recognised_in_task_and_file_names(task):
    for text in (task.name, Path(task.url).stem):
        assert environment_named(text) == (task.family, task.layout)


def test_names_without_an_environment():
    for text in ("", "SAC", "my-data", "dataset", "giant", "openly"):
        assert environment_named(text) is None
    assert environment_named("Ant-v2") == ("ant", "")
    assert environment_named("maze2d-umaze-v1 eval") == ("maze2d", "umaze")
