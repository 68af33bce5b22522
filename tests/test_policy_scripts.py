"""Exporting a policy and playing it from the command line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from d4rl_envs.maze2d import Maze2dEnv
from evaluation import Episode
from policy_export.policy import save_policy
from scripts.evaluate import bootstrap_interval, play, summarise
from scripts.evaluate import main as evaluate
from scripts.export_policy import main as export
from tasks import get_task
from tests.conftest import ROOT
from tests.test_env_faults import spoiling
from tests.test_policy_file import SMALL, edit, policy_with
from tests.tiny_runs import DETERMINISTIC, metrics_of, refusal, run
from trajectories import Trajectory

pytestmark = pytest.mark.usefixtures("short_horizons")
MAZE = "maze2d-umaze-v1"


@pytest.fixture
def folder(tmp_path):
    """An exported policy of a maze."""
    save_policy(policy_with(SMALL, get_task(MAZE)), tmp_path / "policy")
    return tmp_path / "policy"


def told(capsys, *args):
    """The JSON that the script prints."""
    assert evaluate([*map(str, args), "--json", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_and_its_export_play_as_the_run_evaluated(data_dir, tmp_path, capsys):
    """The run's only evaluation began with seeds 0 and 1."""
    flags = [*DETERMINISTIC, "--max_online_iters", "0", "--K", "4", "--eval_context_length", "2"]
    assert run(data_dir, tmp_path / "run", *flags, env="hopper-medium-v2") == 0
    assert export([str(tmp_path / "run"), "--out", str(tmp_path / "policy")]) == 0
    said = capsys.readouterr().out
    assert f"wrote {tmp_path / 'policy'}: hopper-medium-v2, TD3+ODT, 7,167 parameters" in said
    (row,) = metrics_of(tmp_path / "run")
    assert f"normalised score {row['evaluation/normalized_score']:.2f} in the run" in said
    results = [
        told(capsys, tmp_path / "policy", "--episodes", 2),
        told(capsys, tmp_path / "run", "--episodes", 2),
        told(capsys, tmp_path / "run", "--episodes", 2, "--best"),
    ]
    assert results[0] == results[1] == results[2]
    for ours, theirs in (
        ("return_mean", "raw_return_mean"),
        ("training_return_mean", "return_mean_gm"),
        ("return_std", "return_std_gm"),
        ("length_mean", "length_mean_gm"),
        ("normalized_score", "normalized_score"),
    ):
        assert results[0][ours] == pytest.approx(row[f"evaluation/{theirs}"], rel=1e-12)
    assert (results[0]["context"], results[0]["rtg"]) == (2, 3600)


def test_episodes_belong_to_their_seeds(folder, capsys):
    five = told(capsys, folder, "--episodes", 5, "--seed", 3)["per_episode"]["training_return"]
    assert told(capsys, folder, "--episodes", 5, "--seed", 3)["per_episode"][
        "training_return"
    ] == five  # fmt: skip
    later = told(capsys, folder, "--episodes", 2, "--seed", 6)["per_episode"]["training_return"]
    np.testing.assert_allclose(later, five[3:], atol=1e-5)
    policy = policy_with(SMALL, get_task("hopper-medium-v2"))
    whole = play(policy, 5, 0.0, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.evaluate._TOGETHER", 2)
        parts = play(policy, 5, 0.0, seed=1)
    for one, two in zip(whole, parts, strict=True):
        assert one.length == two.length
        np.testing.assert_allclose(
            one.trajectory.observations, two.trajectory.observations, rtol=1e-3, atol=1e-4
        )
    assert len({episode.raw_return for episode in whole}) == 5


def test_return_and_context_reach_the_policy():
    policy = policy_with(SMALL, get_task("hopper-medium-v2"))

    def actions(*args, **kwargs):
        return play(policy, 1, *args, **kwargs)[0].trajectory.actions

    base = actions(0.0)
    assert np.array_equal(base, actions(0.0, context_length=4))
    assert not np.array_equal(base, actions(5000.0))
    short = actions(0.0, context_length=1)
    assert np.array_equal(base[0], short[0])
    assert not np.array_equal(base[1], short[1])


def test_text(folder, capsys, monkeypatch):
    assert evaluate([str(folder), "--episodes", "3", "--verbose", "--seed", "11"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["seed", "return", "score", "length", "success"]
    assert [line.split()[0] for line in lines[1:4]] == ["11", "12", "13"]
    assert f"{MAZE}: 3 episodes, seed 11, return-to-go 3600, context 4" in lines[4]
    assert "95% bootstrap over episodes" in "\n".join(lines)
    assert "success rate" not in "\n".join(lines)
    assert evaluate([str(folder), "--episodes", "1"]) == 0
    assert "no interval from one episode" in capsys.readouterr().out
    save_policy(policy_with(SMALL, get_task("antmaze-umaze-v2")), folder.parent / "ant")
    assert evaluate([str(folder.parent / "ant"), "--episodes", "1"]) == 0
    assert "success rate      0.0%" in capsys.readouterr().out


def test_faults_are_told(folder, capsys, monkeypatch):
    act, advance, count = spoiling(reward=np.nan), Maze2dEnv.advance, iter(range(10**6))

    def faulty(env, action):
        if next(count) == 20:
            return act(env, lambda action: advance(env, action), action)
        return advance(env, action)

    monkeypatch.setattr(Maze2dEnv, "advance", faulty)
    assert evaluate([str(folder), "--episodes", "2", "--verbose"]) == 0
    said = capsys.readouterr().out
    assert "faults            1 episode" in said
    assert said.count("(fault)") == 1


def episode(score, success):
    task = get_task("pen-human-v1")
    raw = task.ref_min_score + score / 100 * (task.ref_max_score - task.ref_min_score)
    rewards = np.array([raw / 100])
    empty = np.zeros((1, 45))
    trajectory = Trajectory(empty, empty[0], np.zeros((1, 24)), rewards, np.array([True]))
    return Episode(trajectory, raw, False, success, False, np.zeros(1))


def test_summary_by_hand():
    episodes = [episode(score, score > 50) for score in (0.0, 20.0, 40.0, 100.0)]
    result = summarise(episodes, get_task("pen-human-v1"))
    assert result["normalized_score"] == pytest.approx(40.0)
    assert result["success_rate"] == 0.25
    assert result["return_mean"] == pytest.approx(100 * result["training_return_mean"])
    low, high = result["normalized_score_interval"]
    assert 0.0 < low < 40.0 < high < 100.0


def test_interval():
    assert bootstrap_interval(np.array([3.0])) is None
    assert bootstrap_interval(np.full(7, 3.0)) == (3.0, 3.0)
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    interval = bootstrap_interval(values)
    assert interval is not None
    assert interval == bootstrap_interval(values)
    wanted = values.mean() + np.array([-1.96, 1.96]) * values.std() / 20
    np.testing.assert_allclose(interval, wanted, atol=0.02)
    assert bootstrap_interval(np.array([0.0, 1.0])) == (0.0, 1.0)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    samples = np.random.default_rng(1).exponential(1.0, (300, 40))
    intervals = np.array([bootstrap_interval(sample) for sample in samples])
    share = np.mean((intervals[:, 0] <= 1.0) & (intervals[:, 1] >= 1.0))
    assert 0.88 < share < 0.97


def test_video(folder, capsys):
    code = evaluate([str(folder), "--video", str(folder.parent / "new" / "a.gif")])
    if (folder.parent / "new" / "a.gif").exists():
        assert code == 0
        assert "10 episodes" in capsys.readouterr().out
    else:  # there is no OpenGL here
        assert "OpenGL" in refusal(capsys, code)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--episodes", "0"], "--episodes 0"),
        (["--episodes", "many"], "--episodes"),
        (["--context", "7"], "a context of 7 steps: this policy was trained with contexts of 1 to"),
        (["--context", "0"], "a context of 0 steps"),
        (["--seed", "-1"], "--seed -1"),
        (["--rtg", "nan"], "--rtg nan"),
        (["--video", "a.avi"], "end it in .gif or .mp4"),
        (["--device", "tpu"], "--device tpu"),
        (["--rgt", "3"], "did you mean --rtg?"),
        (["--json", "--verbose"], "--verbose"),
        (["--best"], "chosen at its export"),
    ],
    ids=str,
)
def test_bad_flags_are_one_line(folder, capsys, flags, said):
    try:
        code = evaluate([str(folder), *flags])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert said in refusal(capsys, code)


def test_bad_folders_are_one_line(folder, capsys):
    assert "neither an exported" in refusal(capsys, evaluate([str(folder.parent)]))
    edit(folder, settings={"K": 0})
    assert "policy.json" in refusal(capsys, evaluate([str(folder)]))
    absent = str(folder.parent / "absent")
    assert "config.json: cannot be read" in refusal(capsys, export([absent, "--out", absent]))
    assert not (folder.parent / "absent").exists()


def test_scripts_run_from_anywhere(folder):
    """A real process; nothing but JSON on standard output."""
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--episodes", "1", "--json", "--context", "1"],
        cwd=folder, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["context"] == 1
