"""The task table: published facts, scores, training rewards, look-up."""

import csv

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
    assert set(rows) == set(TASKS)
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


def test_normalised_score_is_0_for_random_and_100_for_expert():
    for task in TASKS.values():
        assert task.normalized_score(task.ref_min_score) == 0
        assert task.normalized_score(task.ref_max_score) == 100


def test_training_reward_depends_on_the_family():
    raw = np.array([0.0, 1.0])
    assert TASKS["antmaze-umaze-v2"].training_reward(raw).tolist() == [-1, 0]
    assert TASKS["pen-human-v1"].training_reward(raw).tolist() == [0, 0.01]
    # not pen's transform, although the name contains "pen-"
    assert TASKS["maze2d-open-v0"].training_reward(raw).tolist() == [0, 1]


def test_unknown_task_error_suggests_close_names():
    with pytest.raises(UserError, match=r"^hoper-medium-v2: unknown task; .* hopper-medium-v2"):
        get_task("hoper-medium-v2")


def test_alias_gives_the_task():
    assert get_task("hopper-medium-random-v2").name == "hopper-random-v2"
