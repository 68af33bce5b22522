"""Loading datasets: splitting rules, the order of the steps, and real data."""

import logging
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import dataset_path, load_dataset
from offline_data import rows as dataset_rows
from tasks import TASKS, get_task
from tests.conftest import ROOT, SHARED, shared_file
from tests.data_files import random_arrays, split_by_loop, write
from utils import UserError

FAMILIES = ["hopper-medium-v2", "maze2d-open-v0", "antmaze-umaze-v2", "pen-human-v1"]


def expected_order(task, trajectories, remove_trivial=True):
    """Trajectories that count for the state statistics, and those that are loaded, in order."""
    trivial = 0
    kept = []
    for trajectory in trajectories:
        rewards = task.training_reward(trajectory["raw_rewards"])
        trivial += len(rewards) == 1
        if task.family == "antmaze" and remove_trivial and len(rewards) == 1 and trivial > 9:
            continue
        kept.append(trajectory | {"rewards": rewards, "return": rewards.astype(float).sum()})
    loaded = sorted(kept, key=lambda t: t["return"])
    return kept, loaded[1:] if len(loaded) > 1 else loaded


def assert_equals(dataset, kept, loaded):
    n = dataset.num_transitions
    for name in ("observations", "actions", "rewards", "terminals"):
        np.testing.assert_array_equal(
            getattr(dataset, name)[:n], np.concatenate([t[name] for t in loaded])
        )
    np.testing.assert_array_equal(
        dataset.final_observations, [t["final_observation"] for t in loaded]
    )
    np.testing.assert_array_equal(dataset.lengths, [len(t["rewards"]) for t in loaded])
    np.testing.assert_allclose(dataset.returns, [t["return"] for t in loaded])
    np.testing.assert_allclose(
        dataset.raw_returns, [t["raw_rewards"].astype(float).sum() for t in loaded]
    )
    states = np.concatenate([t["observations"] for t in kept]).astype(float)
    np.testing.assert_allclose(dataset.state_mean, states.mean(0), atol=1e-9)
    np.testing.assert_allclose(dataset.state_std, states.std(0) + 1e-6, atol=1e-9)


@settings(max_examples=60)
@given(
    st.sampled_from(FAMILIES),
    st.integers(1, 120),
    st.integers(0, 10**6),
    st.sampled_from([0.05, 0.3, 0.7]),
    st.booleans(),
)
def test_loading_matches_a_row_by_row_reference(tmp_path_factory, name, rows, seed, ends, remove):
    task = get_task(name)
    arrays = random_arrays(task, rows, seed, ends)
    path = write(tmp_path_factory.mktemp("d") / f"{name}.hdf5", arrays)
    kept, loaded = expected_order(task, split_by_loop(task, arrays), remove)
    if not kept:
        with pytest.raises(UserError, match="no complete trajectory"):
            load_dataset(path, task, remove_trivial=remove)
        return
    assert_equals(load_dataset(path, task, remove_trivial=remove), kept, loaded)


@pytest.mark.parametrize("name", FAMILIES)
def test_block_size_does_not_matter(tmp_path, name, monkeypatch):
    """Trajectories and their ends may straddle the blocks of a compressed file."""
    task = get_task(name)
    arrays = random_arrays(task, 400, 3, 0.1)
    path = write(tmp_path / f"{name}.hdf5", arrays, chunks=True, compression="gzip")
    monkeypatch.setattr(dataset_rows, "_BLOCK_ROWS", 7)
    kept, loaded = expected_order(task, split_by_loop(task, arrays))
    assert_equals(load_dataset(path, task), kept, loaded)


@pytest.mark.parametrize("name", FAMILIES)
def test_without_timeouts_episodes_end_at_the_horizon(tmp_path, name):
    task = get_task(name)
    arrays = random_arrays(task, 4 * task.horizon + 50, 1, 0.0)
    arrays["terminals"][[task.horizon // 2, 2 * task.horizon]] = True
    del arrays["timeouts"]
    path = write(tmp_path / f"{name}.hdf5", arrays)
    kept, loaded = expected_order(task, split_by_loop(task, arrays))
    assert max(len(t["rewards"]) for t in kept) in (task.horizon, task.horizon - 1)
    assert_equals(load_dataset(path, task), kept, loaded)


def test_antmaze_trajectory_continues_if_nothing_moved_at_a_timeout(tmp_path):
    """Row 4 is dropped; row 5 repeats its observation, so rows 0 to 9 are one trajectory."""
    task = get_task("antmaze-umaze-v2")
    arrays = random_arrays(task, 21, 0, 0.0)
    arrays["timeouts"][[4, 14]] = True
    arrays["terminals"][9] = True
    arrays["observations"][5] = arrays["observations"][4]
    dataset = load_dataset(write(tmp_path / "antmaze-umaze-v2.hdf5", arrays), task)
    # trajectories are rows 0-9 without 4, 10-13 and 15-19; the lowest is dropped
    assert set(dataset.lengths) < {9, 4, 5}
    assert dataset.num_trajectories == 2
    assert dataset.terminals[: dataset.num_transitions].sum() == 2


def test_spare_rows_change_only_the_array_sizes(tmp_path):
    task = get_task("hopper-medium-v2")
    path = write(tmp_path / "hopper-medium-v2.hdf5", random_arrays(task, 60, 5))
    plain, roomy = load_dataset(path, task), load_dataset(path, task, spare_rows=13)
    n = plain.num_transitions
    assert len(plain.observations) == n
    for name in ("observations", "actions", "rewards", "terminals"):
        array = getattr(roomy, name)
        assert len(array) == n + 13
        assert array.flags.owndata
        np.testing.assert_array_equal(array[:n], getattr(plain, name))
    assert roomy.num_transitions == n


def test_dtypes_do_not_depend_on_those_of_the_file(tmp_path):
    task = get_task("pen-human-v1")
    arrays = random_arrays(task, 60, 5)
    wide = {k: v.astype(np.float64) for k, v in arrays.items()}
    wide["rewards"] = wide["rewards"][:, None]
    dataset = load_dataset(write(tmp_path / "a.hdf5", wide), task)
    for name in ("observations", "actions", "rewards", "final_observations"):
        assert getattr(dataset, name).dtype == np.float32
    assert dataset.terminals.dtype == bool
    assert dataset.lengths.dtype == np.int64
    for name in ("returns", "raw_returns", "state_mean", "state_std"):
        assert getattr(dataset, name).dtype == np.float64
    same = load_dataset(write(tmp_path / "b.hdf5", arrays), task)
    np.testing.assert_array_equal(dataset.observations, same.observations)
    np.testing.assert_array_equal(dataset.rewards, same.rewards)


def test_rewards_are_delayed_after_sorting(tmp_path):
    task = get_task("pen-human-v1")
    path = write(tmp_path / "pen-human-v1.hdf5", random_arrays(task, 300, 2, 0.05))
    plain, delayed = load_dataset(path, task), load_dataset(path, task, delayed_reward=5)
    np.testing.assert_array_equal(delayed.observations, plain.observations)
    np.testing.assert_array_equal(delayed.returns, plain.returns)
    starts = np.cumsum(plain.lengths) - plain.lengths
    np.testing.assert_allclose(np.add.reduceat(delayed.rewards, starts), plain.returns, rtol=1e-5)
    step = np.arange(len(plain.rewards)) - np.repeat(starts, plain.lengths)
    steps_to_end = np.repeat(plain.lengths, plain.lengths) - 1 - step
    unpaid = (step % 5 != 4) & (steps_to_end > 0)
    assert not delayed.rewards[unpaid].any()
    assert delayed.rewards[~unpaid].all()


def test_single_trajectory_is_kept(tmp_path):
    task = get_task("hopper-medium-v2")
    arrays = random_arrays(task, 30, 5, 0.0)
    arrays["timeouts"][19] = True
    dataset = load_dataset(write(tmp_path / "hopper-medium-v2.hdf5", arrays), task)
    assert dataset.lengths.tolist() == [20]
    np.testing.assert_array_equal(dataset.observations, arrays["observations"][:20])
    np.testing.assert_array_equal(dataset.final_observations[0], arrays["next_observations"][19])


def test_equal_returns_keep_file_order(tmp_path):
    task = get_task("maze2d-open-v0")
    arrays = random_arrays(task, 41, 5, 0.0)
    arrays["timeouts"][9::10] = True
    arrays["rewards"][:] = 0
    dataset = load_dataset(write(tmp_path / "a.hdf5", arrays), task)
    np.testing.assert_array_equal(dataset.observations, arrays["observations"][10:40])


def test_rounded_next_observations_cause_a_warning(tmp_path, caplog):
    task = get_task("hopper-medium-v2")
    arrays = random_arrays(task, 200, 7, 0.05)
    path = tmp_path / "hopper-medium-v2.hdf5"
    want = load_dataset(write(path, arrays), task)
    assert not caplog.records
    (row, *_) = np.flatnonzero(~(arrays["terminals"] | arrays["timeouts"]))
    arrays["next_observations"][row, 2] += 1e-4
    with caplog.at_level(logging.WARNING):
        got = load_dataset(write(path, arrays), task)
    (record,) = caplog.records
    assert re.search(r"in 1 rows .* by up to 0\.0001", record.getMessage())
    np.testing.assert_array_equal(got.lengths, want.lengths)


def test_fingerprint(tmp_path):
    task = get_task("hopper-medium-v2")
    path = write(tmp_path / "hopper-medium-v2.hdf5", random_arrays(task, 60, 5))
    with h5py.File(path, "a") as file:
        file.attrs["task"] = "hopper-medium-v2"
    dataset = load_dataset(path, task)
    facts = dataset.fingerprint
    assert facts["file"] == path.name
    assert facts["bytes"] == path.stat().st_size
    assert len(facts["sha256"]) == 64
    assert facts["rows"] == 60
    assert facts["transitions"] == dataset.num_transitions
    assert facts["trajectories"] == dataset.num_trajectories
    assert "observations" in facts["keys"]
    assert facts["origin"] == {"task": "hopper-medium-v2"}


def test_importing_data_does_not_load_h5py():
    code = "import sys, data; sys.exit('h5py' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_dataset_path(tmp_path):
    task = get_task("hopper-medium-v2")
    command = "cd data && python download_gym_datasets.py --only hopper-medium-v2"
    for file in (None, str(tmp_path)):
        with pytest.raises(UserError) as error:
            dataset_path(task, tmp_path, file)
        assert f"{tmp_path}/hopper-medium-v2.hdf5: no such dataset; " in str(error.value)
        assert str(error.value).endswith(f"{command} --data_dir {tmp_path}")
    with pytest.raises(UserError, match=f"mine.hdf5: no such dataset; .*{re.escape(command)}$"):
        dataset_path(task, tmp_path, str(tmp_path / "mine.hdf5"))
    (tmp_path / "hopper-medium-v2.hdf5").touch()
    (tmp_path / "mine.hdf5").touch()
    assert dataset_path(task, tmp_path, str(tmp_path / "mine.hdf5")) == tmp_path / "mine.hdf5"


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_dataset_path_accepts_names_of_d4rl_and_folders(tmp_path, task):
    theirs, ours = tmp_path / task.url.rpartition("/")[2], tmp_path / f"{task.name}.hdf5"
    theirs.touch()
    assert dataset_path(task, tmp_path, None) == theirs
    assert dataset_path(task, tmp_path / "other", str(tmp_path)) == theirs
    ours.touch()
    assert dataset_path(task, tmp_path, None) == ours


REAL = sorted(path.stem for path in (SHARED / "data").glob("*.hdf5"))


def _listed():
    """Steps, episodes and normalised score of each file, from the table next to the files."""
    table = {}
    for line in shared_file("data/README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or not cells[2][:1].isdigit():
            continue
        *others, last = re.split(r"-?, ", cells[0].replace("-expert-v1", ""))
        names = [f"{hand}-expert-v1" for hand in (*others, last)] if others else [cells[0]]
        steps = int(cells[2].replace(",", "").split()[0])
        episodes = cells[3].split(", ") if others else [cells[3]]
        scores = cells[4].split(" (")[0].split(", ")
        for name, count, score in zip(names, episodes, scores, strict=True):
            table[name] = (steps, int(count.replace(",", "")), float(score))
    return table


@pytest.mark.parametrize("name", REAL)
def test_real_files_match_the_reference_and_their_description(name, caplog):
    path, task = shared_file(f"data/{name}.hdf5"), get_task(name)
    with h5py.File(path) as file:
        arrays = {key: file[key][:] for key in file}
    trajectories = split_by_loop(task, arrays)
    kept, loaded = expected_order(task, trajectories)
    dataset = load_dataset(path, task)
    assert_equals(dataset, kept, loaded)
    assert not caplog.records

    steps, episodes, score = _listed()[name]
    assert dataset.fingerprint["rows"] == steps
    last = arrays["terminals"] | arrays["timeouts"]
    assert episodes == last.sum()
    ends = np.flatnonzero(last)
    sums = np.diff(np.cumsum(arrays["rewards"], dtype=float)[ends], prepend=0)
    assert task.normalized_score(sums).mean() == pytest.approx(score, abs=0.051)
    # an episode lost at the end of the file, or an unfinished one that is kept
    assert abs(len(trajectories) - episodes) <= 1
    assert dataset.num_trajectories == len(kept) - 1


def test_door_human_keeps_the_published_number_of_rows():
    """The last of 25 demonstrations has no next row and is dropped."""
    path, task = shared_file("data/door-human-v1.hdf5"), get_task("door-human-v1")
    with h5py.File(path) as file:
        arrays = {key: file[key][:] for key in file}
    trajectories = split_by_loop(task, arrays)
    assert sum(len(t["terminals"]) for t in trajectories) == task.published_steps
    dataset = load_dataset(path, task)
    lowest = min(trajectories, key=lambda t: t["raw_rewards"].sum())
    assert dataset.num_transitions == task.published_steps - len(lowest["terminals"])
    assert dataset.num_trajectories == 23
