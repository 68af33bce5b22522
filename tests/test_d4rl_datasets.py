"""d4rl_envs.datasets: D4RL's rules row by row, its recordings, files, downloads."""

import hashlib
import json
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d4rl_envs import UserError, datasets
from d4rl_envs.tasks import TASKS as D4RL_TASKS
from tasks import TASKS
from tests.conftest import SHARED, shared_file
from tests.data_files import random_arrays, write

NAME = "hopper-medium-v2"
FILES = sorted(path.stem for path in (SHARED / "data").glob("*.hdf5"))


def ends_by_counting(arrays, horizon, rows, skip):
    """D4RL's rule for timeouts, row by row: (rows,) bool."""
    counter, found = 0, []
    for row in range(rows):
        timeout = bool(arrays["timeouts"][row]) if "timeouts" in arrays else counter == horizon - 1
        found.append(timeout)
        if timeout and skip:
            counter = 0
        else:
            counter = 1 if timeout or arrays["terminals"][row] else counter + 1
    return np.array(found, bool)


@st.composite
def small_datasets(draw):
    rows = draw(st.integers(2, 40))
    arrays = {
        "observations": np.arange(3.0 * rows).reshape(rows, 3),
        "actions": np.arange(2.0 * rows).reshape(rows, 2),
        "rewards": np.arange(1.0 * rows),
        "terminals": np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows))),
    }
    # mostly no terminal, so that episodes reach the horizon
    arrays["terminals"] &= np.arange(rows) % draw(st.integers(1, 11)) == 0
    if draw(st.booleans()):
        arrays["timeouts"] = np.arange(rows) % draw(st.integers(2, 7)) == 0
    return arrays


@settings(max_examples=150)
@given(small_datasets(), st.integers(2, 8))
def test_transitions_and_episodes_follow_d4rls_rules(arrays, horizon):
    rows = len(arrays["rewards"])
    for terminate_on_end in (False, True):
        out = ends_by_counting(arrays, horizon, rows - 1, skip=not terminate_on_end)
        kept = [row for row in range(rows - 1) if terminate_on_end or not out[row]]
        found = datasets.qlearning(arrays, horizon, terminate_on_end)
        for key, values in (
            ("observations", arrays["observations"][kept]),
            ("next_observations", arrays["observations"][[row + 1 for row in kept]]),
            ("rewards", arrays["rewards"][kept]),
        ):
            assert found[key].dtype == np.float32
            np.testing.assert_array_equal(found[key], values)
        np.testing.assert_array_equal(found["terminals"], arrays["terminals"][kept])
    ends = ends_by_counting(arrays, horizon, rows, skip=False) | arrays["terminals"]
    starts = [0, *(np.flatnonzero(ends) + 1)]
    episodes = list(datasets.sequences(arrays, horizon))
    assert [list(episode["rewards"]) for episode in episodes] == [
        list(range(start, stop)) for start, stop in pairwise(starts)
    ]


@pytest.mark.parametrize("name", FILES)
def test_real_files_equal_d4rls_recordings(name):
    with np.load(shared_file("golden/d4rl_api/seed7.npz")) as recording:
        fact = json.loads(str(recording["facts"]))[f"dataset/{name}"]
    arrays = datasets.load(name, shared_file(f"data/{name}.hdf5"))
    assert {key: list(array.shape) for key, array in arrays.items()} == fact["get_dataset"]
    for terminate_on_end in (False, True):
        transitions = datasets.qlearning(arrays, terminate_on_end=terminate_on_end)
        assert list(transitions) == list(fact[f"qlearning_terminate_{terminate_on_end:d}"])
        for key, recorded in fact[f"qlearning_terminate_{terminate_on_end:d}"].items():
            shape, dtype, digest, total = recorded
            array = transitions[key]
            assert (list(array.shape), str(array.dtype)) == (shape, dtype)
            assert hashlib.sha256(array.tobytes()).hexdigest()[:16] == digest
            assert array.sum(dtype=np.float64) == pytest.approx(total, abs=1e-6)
    count, lengths, total = fact["sequences"]
    episodes = list(datasets.sequences(arrays))
    assert len(episodes) == count
    assert [len(episode["rewards"]) for episode in episodes[: len(lengths)]] == lengths
    assert sum(float(episode["rewards"].sum()) for episode in episodes) == pytest.approx(total)


def test_an_id_stands_for_its_dataset_and_horizon(tmp_path, monkeypatch):
    arrays = random_arrays(TASKS[NAME], 2500, seed=0, ends=0.0)
    del arrays["timeouts"]
    write(tmp_path / "hopper_medium-v2.hdf5", arrays)  # D4RL's file name
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    assert len(datasets.qlearning(NAME)["rewards"]) == 2499 - 2
    assert [len(episode["rewards"]) for episode in datasets.sequences(NAME)] == [1000, 999]
    arrays["rewards"][:] = 1
    write(tmp_path / f"{NAME}.hdf5", arrays)  # the name used here comes first
    assert datasets.load(NAME)["rewards"].min() == 1


def test_dataset_without_timeouts_needs_a_horizon():
    arrays = random_arrays(TASKS[NAME], 20, seed=0)
    del arrays["timeouts"]
    with pytest.raises(UserError, match="horizon: required for a dataset without timeouts"):
        datasets.qlearning(arrays)


def test_nested_entries_columns_and_scalars(tmp_path):
    arrays = random_arrays(TASKS[NAME], 20, seed=0)
    arrays["rewards"] = arrays["rewards"].reshape(-1, 1)
    path = write(tmp_path / "file.hdf5", arrays)
    with h5py.File(path, "a") as file:
        file["infos/qpos"] = np.zeros((20, 6))
        file["metadata/algorithm"] = "SAC"
    loaded = datasets.load(NAME, path)
    assert loaded["rewards"].shape == (20,)
    assert loaded["infos/qpos"].shape == (20, 6)
    assert loaded["metadata/algorithm"] == b"SAC"
    episode = next(datasets.sequences(loaded))
    assert set(episode) == set(loaded) - {"metadata/algorithm"}


def spoil(arrays, fault):
    if fault == "missing":
        del arrays["terminals"]
    elif fault == "task":
        arrays["observations"] = np.zeros((20, 17))
    else:
        arrays["rewards"] = arrays["rewards"][:10]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "no terminals in this file (it contains actions, next_observations, "
         "observations, rewards, timeouts)"),
        ("task", "not a dataset of hopper-medium-v2: observations has shape (20, 17) instead of "
         "(20, 11)"),
        ("short", "not a dataset of hopper-medium-v2: rewards has shape (10,) instead of (20,)"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, fault, message):
    arrays = random_arrays(TASKS[NAME], 20, seed=0)
    spoil(arrays, fault)
    path = write(tmp_path / "file.hdf5", arrays)
    with pytest.raises(UserError) as error:
        datasets.load(NAME, path)
    assert str(error.value) == f"{path}: {message}"


def test_unreadable_files_are_refused(tmp_path):
    path = tmp_path / "file.hdf5"
    with pytest.raises(UserError, match="no such file"):
        datasets.load(NAME, path)
    path.write_bytes(b"text")
    with pytest.raises(UserError, match="not an HDF5 file"):
        datasets.load(NAME, path)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_missing_datasets_are_downloaded_once(tmp_path, monkeypatch):
    served, cache = tmp_path / "served", tmp_path / "cache" / "datasets"
    served.mkdir()
    write(served / "hopper_medium-v2.hdf5", random_arrays(TASKS[NAME], 20, seed=0))
    (served / "walker2d_medium-v2.hdf5").write_bytes(b"an error page")
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(served))
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("D4RL_DATASET_DIR", str(cache))
    for name in (NAME, "walker2d-medium-v2"):
        address = f"http://127.0.0.1:{server.server_port}/{TASKS[name].url.rpartition('/')[2]}"
        monkeypatch.setitem(D4RL_TASKS, name, replace(D4RL_TASKS[name], url=address))
    try:
        assert len(datasets.load(NAME)["rewards"]) == 20
        with pytest.raises(UserError, match="not an HDF5 file"):
            datasets.load("walker2d-medium-v2")
    finally:
        server.shutdown()
        server.server_close()
    assert [path.name for path in cache.iterdir()] == ["hopper_medium-v2.hdf5"]
    assert len(datasets.load(NAME)["rewards"]) == 20
