"""The task table: published facts, scores, training rewards, look-up."""

import csv
from collections import Counter

import numpy as np
import pytest

from tasks import TASKS, get_task
from tests.conftest import SHARED
from utils import UserError

FACTS = SHARED / "spec" / "tasks.csv"
_TRANSFORMS = {"r": (1, 0), "r-1": (1, -1), "r/100": (100, 0), "r/1000": (1000, 0)}


@pytest.mark.skipif(not FACTS.exists(), reason="needs spec/tasks.csv in the shared folder")
def test_table_equals_published_facts():
    with FACTS.open() as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert set(rows) == {name for name, task in TASKS.items() if task.published}
    for name, row in rows.items():
        task = TASKS[name]
        assert task.family == row["family"]
        assert task.obs_dim == int(row["obs_dim"])
        assert task.act_dim == int(row["act_dim"])
        assert task.horizon == int(row["horizon"])
        assert task.ref_min_score == float(row["ref_min_score"])
        assert task.ref_max_score == float(row["ref_max_score"])
        divisor, shift = _TRANSFORMS[row["training_reward"]]
        assert (task.reward_divisor, task.reward_shift) == (divisor, shift)
        assert task.rtg_scale == float(row["rtg_scale"])
        assert task.critic_layernorm == bool(int(row["critic_layernorm"]))
        assert task.online_budget == int(row["online_transition_budget"])
        assert task.published_steps == int(row["published_steps"])
        assert task.published_score == float(row["published_mean_normalised_return"])
        assert task.url == row["d4rl_dataset_url"]


def test_table_has_all_versions_of_the_datasets():
    """Counts of the ids that d4rl 1.1 lists for these families."""
    families = Counter(task.family for task in TASKS.values())
    assert len(TASKS) == 119
    assert len({task.url for task in TASKS.values()}) == 119
    assert families["hopper"] == families["halfcheetah"] == families["walker2d"] == 17
    assert (families["ant"], families["maze2d"], families["antmaze"]) == (18, 14, 12)
    assert families["pen"] == families["hammer"] == families["door"] == families["relocate"] == 6
    for task in TASKS.values():
        assert task.published == (task.published_steps > 0) == (not np.isnan(task.published_score))


@pytest.mark.parametrize(
    ("name", "horizon", "references", "file"),
    [
        ("hopper-medium-expert-v2", 1000, (-20.272305, 3234.3),
         "gym_mujoco_v2/hopper_medium_expert-v2"),
        ("ant-full-replay-v1", 1000, (-325.6, 3879.7), "gym_mujoco_v1/ant_full_replay-v1"),
        ("halfcheetah-expert-v0", 1000, (-280.178953, 12135.0), "gym_mujoco/halfcheetah_expert"),
        ("walker2d-medium-replay-v0", 1000, (1.629008, 4592.3), "gym_mujoco/walker_mixed"),
        ("ant-random-expert-v0", 1000, (-325.6, 3879.7), "gym_mujoco/ant_random_expert"),
        ("maze2d-open-dense-v0", 150, (11.17817, 27.166538620695782), "maze2d/maze2d-open-dense"),
        ("maze2d-eval-large-v1", 800, (16.4, 302.22), "maze2d/maze2d-eval-large-sparse-v1"),
        ("antmaze-large-play-v0", 1000, (0.0, 1.0), "ant_maze_new/"
         "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse"),
        ("pen-human-v0", 100, (96.262799, 3076.8331017826877), "hand_dapg/pen-v0_demos_clipped"),
        ("door-cloned-v0", 200, (-56.512833, 2880.5693087298737),
         "hand_dapg/door-demos-v0-bc-combined"),
    ],
)  # fmt: skip
def test_facts_of_other_versions(name, horizon, references, file):
    task = get_task(name)
    assert task.horizon == horizon
    assert (task.ref_min_score, task.ref_max_score) == references
    assert task.url == f"http://rail.eecs.berkeley.edu/datasets/offline_rl/{file}.hdf5"


@pytest.mark.parametrize(
    ("name", "layout", "dense"),
    [
        ("maze2d-open-dense-v0", "open", True),
        ("maze2d-eval-umaze-v1", "eval-umaze", False),
        ("maze2d-eval-medium-dense-v1", "eval-medium", True),
        ("antmaze-umaze-v0", "umaze", False),
        ("hopper-medium-v2", "", False),
    ],
)
def test_layout_and_reward_follow_from_the_name(name, layout, dense):
    assert (get_task(name).layout, get_task(name).dense) == (layout, dense)


def test_normalised_score_is_0_for_random_and_100_for_expert():
    for task in TASKS.values():
        assert task.normalized_score(task.ref_min_score) == 0
        assert task.normalized_score(task.ref_max_score) == pytest.approx(100)


def test_training_reward_depends_on_the_family():
    raw = np.array([0.0, 1.0])
    assert TASKS["antmaze-umaze-v2"].training_reward(raw).tolist() == [-1, 0]
    assert TASKS["pen-human-v1"].training_reward(raw).tolist() == [0, 0.01]
    # not pen's transform, although the name contains "pen-"
    assert TASKS["maze2d-open-v0"].training_reward(raw).tolist() == [0, 1]


def test_unknown_task_error_suggests_close_names():
    with pytest.raises(UserError, match=r"^hoper-medium-v2: unknown task; .* hopper-medium-v2"):
        get_task("hoper-medium-v2")
    with pytest.raises(UserError, match=r"^qqq: unknown task; families: hopper, .*relocate$"):
        get_task("qqq")


def test_alias_gives_the_task():
    assert get_task("hopper-medium-random-v2").name == "hopper-random-v2"
