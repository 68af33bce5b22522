"""Unflagged episode ends, rows in disorder, rewards of another kind, what loading reports."""

import pickle
from collections import Counter

import h5py
import numpy as np
import pytest

from data import load_dataset
from data_sources.maze_recipe import planner_rows
from offline_data import rows as dataset_rows
from offline_data.breaks import STEP_LIMITS
from tasks import get_task
from tests.conftest import shared_file
from tests.data_files import dataset_fault, random_arrays, write

NAMES = ["hopper-medium-v2", "antmaze-umaze-v2", "pen-human-v1", "hammer-human-v1",
         "door-human-v1", "relocate-human-v1"]  # fmt: skip
FIELDS = ["observations", "actions", "rewards", "terminals", "final_observations", "lengths",
          "returns", "raw_returns"]  # fmt: skip
# episodes of other lengths than the horizon; the last one is unfinished
LENGTHS = [20, 31, 8, 25, 17, 40, 22, 9]


def recording(task) -> dict[str, np.ndarray]:
    """Arrays with right flags: episodes at places far apart, one of which ends by a terminal."""
    arrays = random_arrays(task, sum(LENGTHS), 0, 0.0)
    arrays["rewards"][:20] = 0 if task.family in ("maze2d", "antmaze") else -9  # the lowest
    ends = np.cumsum(LENGTHS)[:-1] - 1
    arrays["observations"] += np.repeat(np.arange(len(LENGTHS)) % 3, LENGTHS)[:, None]
    arrays["terminals"][ends[2]] = True
    arrays["timeouts"][np.delete(ends, 2)] = True
    if "next_observations" in arrays:
        arrays["next_observations"] = np.roll(arrays["observations"], -1, axis=0)
        arrays["next_observations"][ends] = arrays["observations"][ends] + 0.01
    return arrays


def exported(arrays) -> dict[str, np.ndarray]:
    """What D4RL's qlearning_dataset returns: no rows with a timeout, next observations instead."""
    kept = np.flatnonzero(~arrays["timeouts"][:-1])
    rest = {name: arrays[name][kept] for name in ("observations", "actions", "rewards")}
    return rest | {
        "terminals": arrays["terminals"][kept],
        "next_observations": arrays["observations"][kept + 1],
    }


def every_20_rows(timeouts):
    return np.arange(1, len(timeouts) + 1) % 20 == 0


def load(folder, task, arrays):
    return load_dataset(write(folder / f"{task.name}.hdf5", arrays), task)


def assert_same(got, want):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    for name in ("state_mean", "state_std"):  # summed in blocks of another size
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-12)


def about_flags(dataset) -> list[str]:
    return [
        notice
        for notice in dataset.notices
        if "unflagged" in notice or "ignored timeouts" in notice
    ]


@pytest.mark.parametrize("name", NAMES)
def test_missing_timeouts_are_found(tmp_path, name, monkeypatch):
    monkeypatch.setattr(dataset_rows, "_BLOCK_ROWS", 7)
    task = get_task(name)
    arrays = recording(task)
    want = load(tmp_path, task, arrays)
    assert not about_flags(want)
    assert want.num_trajectories == len(LENGTHS) - 2 + (task.family == "antmaze")
    del arrays["timeouts"]
    got = load(tmp_path, task, arrays)
    assert_same(got, want)
    (notice,) = about_flags(got)
    assert notice.startswith("unflagged episode ends: 6; split where ")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "misplace",
    [lambda t: np.roll(t, 1), lambda t: np.roll(t, -1), lambda t: np.roll(t, -3), np.zeros_like,
     every_20_rows],
    ids=["late", "early", "earlier", "none", "out of step"],
)  # fmt: skip
def test_misplaced_timeouts_are_corrected(tmp_path, name, misplace):
    task = get_task(name)
    arrays = recording(task)
    want = load(tmp_path, task, arrays)
    got = load(tmp_path, task, arrays | {"timeouts": misplace(arrays["timeouts"])})
    assert_same(got, want)
    assert "unflagged" in about_flags(got)[0]


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_missing_timeout_does_not_make_others_doubtful(tmp_path, name):
    task = get_task(name)
    arrays = recording(task)
    arrays["observations"][20:51] -= 1  # the second episode begins where the first one ended
    want = load(tmp_path, task, arrays)
    arrays["timeouts"][83] = False
    got = load(tmp_path, task, arrays)
    assert_same(got, want)
    (notice,) = about_flags(got)
    assert notice.startswith("unflagged episode ends: 1; split where ")


@pytest.mark.parametrize("name", [*NAMES, "maze2d-umaze-v1"])
def test_exports_of_qlearning_dataset_have_the_same_episodes(tmp_path, name):
    task = get_task(name)
    arrays = recording(task)
    want = load(tmp_path, task, arrays)
    got = load(tmp_path, task, exported(arrays))
    if task.family == "antmaze":
        assert_same(got, want)
    else:
        at_timeout = ~want.terminals[np.cumsum(want.lengths) - 1]
        np.testing.assert_array_equal(np.sort(got.lengths), np.sort(want.lengths - at_timeout))
    assert about_flags(got)[0].startswith("unflagged episode ends: 6; split where next_obs")


def test_skipped_rows_end_episodes_of_a_moving_ball(tmp_path):
    """An export of maze2d, where nothing jumps at a timeout: the ball keeps rolling."""
    task = get_task("maze2d-umaze-v1")
    arrays = random_arrays(task, 400, 0, 0.0)
    arrays["observations"][:, 0] = 0.03 * np.arange(400)
    arrays["observations"][:, 1] = 1.0
    arrays["observations"][:, 2] = 3.0
    arrays["timeouts"][99::100] = True
    got = load(tmp_path, task, exported(arrays))
    assert got.lengths.tolist() == [99, 99]
    assert about_flags(load(tmp_path, task, arrays)) == []
    del arrays["timeouts"]
    got = load(tmp_path, task, arrays)
    assert got.lengths.tolist() == [300]
    assert got.notices[0] == (
        "no timeouts array: split after the task's horizon of 300 steps, 1 times"
    )


@pytest.mark.parametrize("name", [*NAMES, "maze2d-umaze-v1"])
def test_rows_in_disorder_are_refused(tmp_path, name):
    task = get_task(name)
    arrays = recording(task)
    order = np.random.default_rng(0).permutation(len(arrays["rewards"]))
    path = write(tmp_path / f"{name}.hdf5", {key: a[order] for key, a in arrays.items()})
    message = dataset_fault(path, task)
    assert "rows within episodes, " in message
    assert message.endswith("; store the rows in the order in which they were collected")


@pytest.mark.parametrize("name", ["antmaze-umaze-v2", "pen-human-v1"])
def test_jumps_within_listed_episodes_split_them(tmp_path, name):
    """A pickle file made of a D4RL file without timeouts."""
    task = get_task(name)
    arrays = recording(task)
    del arrays["timeouts"]
    episode = {key: a[:-1] for key, a in arrays.items()}
    episode["next_observations"] = arrays["observations"][1:]
    path = tmp_path / "mine.pkl"
    path.write_bytes(pickle.dumps([episode]))
    dataset = load_dataset(path, task)
    assert Counter(dataset.lengths) < Counter([*LENGTHS[:-1], LENGTHS[-1] - 1])
    assert dataset.num_trajectories == len(LENGTHS) - 1
    assert about_flags(dataset)[0].startswith("unflagged episode ends: 7")


@pytest.mark.parametrize("name", ["antmaze-umaze-v2", "maze2d-umaze-v1"])
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda r: r - 1, "row 0 has -1 (range -1 to 0)"),
        (lambda r: 10 * r, "row 5 has 10 (range 0 to 10)"),
        (lambda r: np.exp(r - 2), "row 0 has 0.1353 (range 0.1353 to 0.3679)"),
    ],
)
def test_sparse_tasks_refuse_other_rewards(tmp_path, name, change, found):
    task = get_task(name)
    arrays = random_arrays(task, 60, 5)
    arrays["rewards"][:], arrays["rewards"][5] = 0, 1
    path = tmp_path / f"{name}.hdf5"
    load_dataset(write(path, arrays), task)
    arrays["rewards"] = change(arrays["rewards"])
    message = dataset_fault(write(path, arrays), task)
    assert message.startswith(f"{name} pays rewards of 0 or 1, but {found}; use the sparse dataset")


@pytest.mark.parametrize("name", ["pen-human-v1", "maze2d-umaze-dense-v1"])
def test_dense_tasks_refuse_sparse_rewards(tmp_path, name):
    task = get_task(name)
    arrays = random_arrays(task, 60, 5)
    path = tmp_path / f"{name}.hdf5"
    load_dataset(write(path, arrays), task)
    arrays["rewards"] = np.where(arrays["rewards"] > 1, 0.0, -1.0)
    message = dataset_fault(write(path, arrays), task)
    assert message.startswith(f"all rewards are -1 or 0, but {name} pays dense rewards; use")


def test_dropped_rows_are_counted(tmp_path):
    task = get_task("antmaze-umaze-v2")
    arrays = random_arrays(task, 100, 0, 0.0)
    arrays["terminals"][:12] = True
    arrays["timeouts"][[39, 69]] = True
    arrays["observations"] += np.digitize(np.arange(100), [40, 70])[:, None]
    arrays["rewards"][:], arrays["rewards"][50] = 0, 1
    assert load(tmp_path, task, arrays).notices == [
        "dropped 35 of 100 rows: 2 at timeouts, 1 at the end of the file, 3 in one-step "
        "trajectories, 29 in the trajectory with the lowest return"
    ]
    hopper = get_task("hopper-medium-v2")
    arrays = random_arrays(hopper, 30, 0, 0.0)
    arrays["timeouts"][19] = True
    assert load(tmp_path, hopper, arrays).notices == [
        "dropped 10 of 30 rows: 10 at the end of the file"
    ]


def test_episodes_beyond_the_horizon_are_reported(tmp_path):
    task = get_task("pen-human-v1")
    arrays = random_arrays(task, 502, 0, 0.0)
    arrays["timeouts"][[99, 200, 350, 500]] = True
    arrays["rewards"][:100] = -10
    assert load(tmp_path, task, arrays).notices[1:] == [
        "trajectories longer than the task's horizon of 100 steps: 2 of 3 (up to 150); their "
        "returns are not comparable with the reference scores"
    ]


@pytest.mark.parametrize(
    ("text", "other"),
    [("Hopper-v5", True), ("hopper-medium-v0", True), ("Hopper-v2", False), ("hopper", False),
     ("hopper-medium-v2", False)],
)  # fmt: skip
def test_other_versions_of_the_environment_are_reported(tmp_path, text, other):
    task = get_task("hopper-random-v2")
    path = write(tmp_path / "hopper-random-v2.hdf5", random_arrays(task, 60, 0))
    with h5py.File(path, "a") as file:
        file.attrs["env_id"] = text
    notices = load_dataset(path, task).notices
    assert (f"its env_id is {text}, but " in notices[0]) == other


def test_summary(tmp_path):
    task = get_task("maze2d-umaze-v1")
    arrays = random_arrays(task, 1000, 0, 0.0)
    arrays["timeouts"][[9, 209, 509, 901]] = True
    arrays["rewards"][:], arrays["rewards"][300:460] = 0, 1
    assert load(tmp_path, task, arrays).summary(task) == (
        "892 transitions, 3 trajectories, return 53.33 (0 to 160), length 297.33 (200 to 392), "
        "normalised score 21.4"
    )


@pytest.mark.parametrize("name", ["antmaze-umaze-v2", "antmaze-medium-play-v2", "pen-expert-v1",
                                  "hammer-expert-v1", "door-expert-v1", "door-human-v1",
                                  "maze2d-umaze-v1", "maze2d-open-v0"])  # fmt: skip
def test_steps_of_real_files_stay_far_below_the_limits(name):
    limit = STEP_LIMITS[get_task(name).family]
    with h5py.File(shared_file(f"data/{name}.hdf5")) as file:
        steps = limit.steps(file["observations"][:])
        inner = ~(file["terminals"][:] | file["timeouts"][:])[:-1]
    assert steps[inner].max() < limit.longest / 2


@pytest.mark.parametrize("name", ["hopper-medium-v2", "halfcheetah-medium-v2", "ant-medium-v2",
                                  "antmaze-umaze-v2", "antmaze-medium-play-v2", "pen-expert-v1",
                                  "hammer-expert-v1", "door-expert-v1"])  # fmt: skip
def test_real_files_need_no_timeouts(tmp_path, name):
    task, path = get_task(name), shared_file(f"data/{name}.hdf5")
    with h5py.File(path) as file:
        arrays = {key: file[key][:] for key in file if key != "timeouts"}
    assert_same(load(tmp_path, task, arrays), load_dataset(path, task))


def test_reported_files_are_repaired():
    """Files of public bug reports."""
    task, maze = get_task("antmaze-medium-play-v2"), get_task("maze2d-umaze-v1")
    right = load_dataset(shared_file("trials/data/antmaze_right_timeouts.hdf5"), task)
    repaired = load_dataset(shared_file("trials/data/antmaze_no_timeouts.hdf5"), task)
    assert_same(repaired, right)
    assert right.num_trajectories == 39
    dataset = load_dataset(shared_file("trials/data/maze2d_qlearning.hdf5"), maze)
    assert dataset.notices[0].startswith("unflagged episode ends: 35")
    message = dataset_fault(shared_file("trials/data/antmaze_rewards_minus_1.hdf5"),
                            get_task("antmaze-umaze-v2"))  # fmt: skip
    assert "row 0 has -1 (range -1 to 0)" in message
    pen = load_dataset(shared_file("trials/data/pen_long.pkl"), get_task("pen-expert-v1"))
    assert "longer than the task's horizon of 100 steps: 1 of 1 (up to 200)" in pen.notices[-1]


def test_maze2d_without_timeouts_is_split_where_the_goal_changes(tmp_path):
    task = get_task("maze2d-open-v0")
    arrays = next(planner_rows(task, 800, 0))
    want = load(tmp_path, task, arrays)
    ends = arrays.pop("timeouts")
    got = load(tmp_path, task, arrays)
    assert_same(got, want)
    notice = f"no timeouts array: split where infos/goal changes, {ends[:-1].sum()} times"
    assert notice in got.notices
    # nothing else tells where the planner's episodes end
    del arrays["infos/goal"]
    lengths = load(tmp_path, task, arrays).lengths
    assert set(lengths) == {task.horizon}
