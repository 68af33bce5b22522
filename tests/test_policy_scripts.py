"""Command lines that export and evaluate a policy."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from d4rl_envs.maze2d import Maze2dEnv
from evaluation import Episode
from policy_export import save_policy
from policy_export.playing import play, summarise
from scripts import evaluate as evaluate_script
from scripts import export_policy
from tasks import get_task
from tests.commands import as_command
from tests.conftest import ROOT
from tests.test_env_faults import spoiling
from tests.test_policy_file import SMALL, edit, policy_with
from tests.tiny_runs import DETERMINISTIC, interrupted_run, metrics_of, refusal, run
from trajectories import Trajectory

evaluate = as_command(evaluate_script.main)
export = as_command(export_policy.main)

pytestmark = pytest.mark.usefixtures("short_horizons")
MAZE = "maze2d-umaze-v1"


@pytest.fixture
def folder(tmp_path):
    """An exported maze2d policy."""
    save_policy(policy_with(SMALL, get_task(MAZE)), tmp_path / "policy")
    return tmp_path / "policy"


def results(capsys, *args):
    """The JSON printed by the script."""
    assert evaluate([*map(str, args), "--json", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)


def test_run_and_export_reproduce_the_runs_evaluation(data_dir, tmp_path, capsys):
    """The run's only evaluation had environments of seeds 0 and 1."""
    flags = [*DETERMINISTIC, "--max_online_iters", "0", "--K", "4", "--eval_context_length", "2"]
    assert run(data_dir, tmp_path / "run", *flags, env="hopper-medium-v2") == 0
    assert export([str(tmp_path / "run"), "--out", str(tmp_path / "policy")]) == 0
    output = capsys.readouterr().out
    assert f"wrote {tmp_path / 'policy'}: hopper-medium-v2, TD3+ODT, 7,167 parameters" in output
    (row,) = metrics_of(tmp_path / "run")
    assert f"normalised score {row['evaluation/normalized_score']:.2f} in the run" in output
    result = results(capsys, tmp_path / "policy", "--episodes", 2)
    assert result == results(capsys, tmp_path / "run", "--episodes", 2)
    assert result == results(capsys, tmp_path / "run", "--episodes", 2, "--best")
    for ours, theirs in (
        ("return_mean", "raw_return_mean"),
        ("training_return_mean", "return_mean_gm"),
        ("return_std", "return_std_gm"),
        ("length_mean", "length_mean_gm"),
        ("normalized_score", "normalized_score"),
    ):
        assert result[ours] == pytest.approx(row[f"evaluation/{theirs}"], rel=1e-12)
    assert (result["context"], result["rtg"]) == (2, 3600)


def test_export_reports_an_earlier_iterations_score_as_such(data_dir, tmp_path, capsys):
    flags = [*DETERMINISTIC, "--max_online_iters", "3", "--eval_interval", "3"]
    assert interrupted_run(data_dir, tmp_path / "run", *flags, when=1) == 130
    assert export([str(tmp_path / "run"), "--out", str(tmp_path / "policy")]) == 0
    score = r"online iteration 1, normalised score -?[\d.]+ in the run at pretrain iteration 1$"
    assert re.search(score, capsys.readouterr().out.strip())


def assert_same_episodes(ours, theirs):
    for one, two in zip(ours, theirs, strict=True):
        assert one.length == two.length
        np.testing.assert_allclose(
            one.trajectory.observations, two.trajectory.observations, rtol=1e-3, atol=1e-4
        )


def test_each_episode_has_its_own_seed(monkeypatch):
    policy = policy_with(SMALL, get_task("hopper-medium-v2"))
    five = play(policy, 5, 0.0, seed=1)
    assert len({episode.raw_return for episode in five}) == 5
    assert_same_episodes(play(policy, 2, 0.0, seed=4), five[3:])
    monkeypatch.setattr("policy_export.playing._PARALLEL", 2)
    assert_same_episodes(play(policy, 5, 0.0, seed=1), five)


def test_target_return_and_context_affect_the_actions():
    policy = policy_with(SMALL, get_task("hopper-medium-v2"))

    def actions(*args, **kwargs):
        return play(policy, 1, *args, **kwargs)[0].trajectory.actions

    base = actions(0.0)
    assert np.array_equal(base, actions(0.0, context_length=4))
    assert not np.array_equal(base, actions(5000.0))
    short = actions(0.0, context_length=1)
    assert np.array_equal(base[0], short[0])
    assert not np.array_equal(base[1], short[1])


def test_text_output(folder, capsys):
    assert evaluate([str(folder), "--episodes", "3", "--verbose", "--seed", "11"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["seed", "return", "score", "length", "success"]
    assert [line.split()[0] for line in lines[1:4]] == ["11", "12", "13"]
    assert lines[4] == f"{MAZE}: 3 episodes, seed 11, target return 3600, context 4"
    assert re.search(r" ± [\d.]+ \(standard deviation over episodes\)$", lines[5])
    assert re.search(r" \(95% interval \S+ to \S+\)$", lines[6])
    assert "success rate" not in "\n".join(lines)
    save_policy(policy_with(SMALL, get_task("antmaze-umaze-v2")), folder.parent / "ant")
    assert evaluate([str(folder.parent / "ant"), "--episodes", "1"]) == 0
    assert "success rate      0.0%" in capsys.readouterr().out


def test_single_episode_has_no_deviation_and_no_interval(folder, capsys):
    assert evaluate([str(folder), "--episodes", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{MAZE}: 1 episode, seed 0, target return 3600, context 4"
    assert [len(line.split()) for line in lines[1:3]] == [2, 3]
    result = results(capsys, folder, "--episodes", 1)
    assert result["return_std"] is result["normalized_score_interval"] is None


def test_faults_are_reported(folder, capsys, monkeypatch):
    act, advance, count = spoiling(reward=np.nan), Maze2dEnv.advance, iter(range(10**6))

    def faulty(env, action):
        if next(count) == 20:
            return act(env, lambda action: advance(env, action), action)
        return advance(env, action)

    monkeypatch.setattr(Maze2dEnv, "advance", faulty)
    assert evaluate([str(folder), "--episodes", "2", "--verbose"]) == 0
    output = capsys.readouterr().out
    assert "faults            1 of 2 episodes" in output
    assert output.count("(fault)") == 1


def episode(score, success):
    task = get_task("pen-human-v1")
    raw = task.ref_min_score + score / 100 * (task.ref_max_score - task.ref_min_score)
    rewards = np.array([raw / 100])
    empty = np.zeros((1, 45))
    trajectory = Trajectory(empty, empty[0], np.zeros((1, 24)), rewards, np.array([True]))
    return Episode(trajectory, raw, False, success, False, np.zeros(1))


def test_summary_of_known_scores():
    episodes = [episode(score, score > 50) for score in (0.0, 20.0, 40.0, 100.0)]
    result = summarise(episodes, get_task("pen-human-v1"))
    assert result["normalized_score"] == pytest.approx(40.0)
    assert result["success_rate"] == 0.25
    assert result["return_mean"] == pytest.approx(100 * result["training_return_mean"])
    episodes[0].success = None  # of other environments, which reported nothing
    assert summarise(episodes, get_task("pen-human-v1"))["success_rate"] == 0.25


def test_the_largest_seed_is_that_of_the_last_episode(folder, capsys):
    assert results(capsys, folder, "--episodes", 1, "--seed", 2**32 - 1)["seed"] == 2**32 - 1
    code = evaluate([str(folder), "--episodes", "2", "--seed", str(2**32 - 1)])
    assert "use a number in [0, 4294967294]" in refusal(capsys, code)


def test_video(folder, capsys):
    code = evaluate([str(folder), "--video", str(folder.parent / "new" / "a.gif")])
    if (folder.parent / "new" / "a.gif").exists():
        assert code == 0
        assert "10 episodes" in capsys.readouterr().out
    else:  # OpenGL does not work here
        assert "OpenGL" in refusal(capsys, code)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--episodes", "0"], "--episodes 0"),
        (["--episodes", "many"], "--episodes"),
        (["--context", "7"], "--context 7: this policy was trained with contexts of 1 to 6"),
        (["--context", "0"], "--context 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--rtg", "nan"], "--rtg nan"),
        (["--video", "a.avi"], "--video a.avi"),
        (["--device", "tpu"], "--device tpu"),
        (["--rgt", "3"], "did you mean --rtg?"),
        (["--json", "--verbose"], "--verbose"),
        (["--best"], "is an exported policy"),
    ],
    ids=str,
)
def test_invalid_flag_is_a_one_line_error(folder, capsys, flags, message):
    assert message in refusal(capsys, evaluate([str(folder), *flags]))


def test_invalid_folder_is_a_one_line_error(folder, capsys):
    assert "neither an exported" in refusal(capsys, evaluate([str(folder.parent)]))
    edit(folder, settings={"K": 0})
    assert "policy.json" in refusal(capsys, evaluate([str(folder)]))
    absent = str(folder.parent / "absent")
    assert "config.json: cannot be read" in refusal(capsys, export([absent, "--out", absent]))
    assert not (folder.parent / "absent").exists()


def test_script_runs_from_any_directory(folder):
    """In a separate process, with only JSON on standard output."""
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--episodes", "1", "--json", "--context", "1"],
        cwd=folder, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["context"] == 1
