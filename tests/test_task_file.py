"""Tasks from task files: reading, environments, datasets, whole runs, reports, export."""

import csv
import json
import re
import types
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml

from data import load_dataset
from evaluation import RETURN
from get_args import parse_args
from main import main
from reporting.figures import RETURN_LABEL, SCORE_LABEL, learning_curves
from reporting.runs import read_runs, run_folders
from reporting.style import styles
from run.checkpoint import load_best
from run.files import BEST_FILE, CHECKPOINT_FOLDER
from scripts import evaluate as evaluate_script
from scripts import export_policy
from scripts import report as report_script
from sweeps.plan import read_sweep
from tasks import make_vector
from tasks.task_file import read_task_file, recorded_task
from tests.commands import as_command
from tests.conftest import ROOT
from tests.data_files import dataset_fault, write
from tests.report_runs import finished_run, settings
from tests.test_minari_dataset import store
from tests.tiny_runs import (
    DETERMINISTIC,
    TINY,
    interrupt_collecting,
    metrics_of,
    refusal,
    same_weights,
)
from utils import UserError

evaluate = as_command(evaluate_script.main)
export = as_command(export_policy.main)
report = as_command(report_script.main)

PAGE = (ROOT / "docs" / "TASKS.md").read_text()
CONTENT = {"name": "pendulum", "environment": "Pendulum-v1", "horizon": 8, "eval_rtg": -8}
ONLINE = [*TINY, *DETERMINISTIC, "--max_pretrain_iters", "0", "--eval_interval", "1"]
SCORES = {"ref_min_score": -80, "ref_max_score": 0}


def write_task(folder: Path, **keys: Any) -> Path:
    """A task file; keys that are None are left out."""
    content = {key: x for key, x in (CONTENT | keys).items() if x is not None}
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def recorded() -> dict[str, np.ndarray]:
    """Five episodes of random actions, by the code of the documentation."""
    code = blocks("python")[1].replace("=200", "=8").replace("range(20)", "range(5)")
    scope: dict[str, Any] = {}
    exec(code.partition("with h5py")[0], scope)
    columns = zip(*scope["rows"], strict=True)
    return {name: np.array(x) for name, x in zip(scope["NAMES"], columns, strict=True)}


@pytest.fixture
def heavy(monkeypatch):
    """The module my_envs of the documentation."""
    module = types.ModuleType("my_envs")
    exec(blocks("python")[0], module.__dict__)
    monkeypatch.setitem(__import__("sys").modules, "my_envs", module)


def test_the_examples_of_the_page_are_valid(tmp_path, heavy):
    first, second = blocks("yaml")
    path = tmp_path / "pendulum.yaml"
    path.write_text(first)
    task = read_task_file(path)
    assert (task.name, task.horizon, task.obs_dim, task.act_dim) == ("pendulum", 200, 3, 1)
    assert task.training_reward(-5.0) == -0.5
    assert not task.scored
    path.write_text(second + " ")
    task = read_task_file(path)
    assert (task.eval_rtg, task.online_rtg) == (-300, -300)
    (env,) = make_vector(task, [0]).envs
    assert env.env.unwrapped.m == 1.5
    for line in "".join(blocks("bash")).replace("\\\n", " ").splitlines():
        argv = line.replace("pendulum.yaml", str(write_task(tmp_path))).split()
        assert parse_args(argv[2:]).env == "pendulum"
    keys = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))))
    assert keys == set(task.record()) - {"spaces"} | {
        "environment", "ref_min_score", "ref_max_score"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"horizn": 3}, "horizn: unknown key; did you mean horizon?"),
        ({"horizon": None}, "horizon: missing; add the time limit of an episode, in steps"),
        ({"horizon": 0}, "horizon: 0 is not above 0"),
        ({"horizon": "200"}, "horizon: '200' is not an integer"),
        ({"horizon": True}, "horizon: True is not an integer"),
        ({"eval_rtg": 1.5}, "eval_rtg: 1.5 is not an integer"),
        ({"rtg_scale": "1e-3"}, "rtg_scale: '1e-3' is not a finite number; write 1.0e-3"),
        ({"reward_shift": float("nan")}, "reward_shift: nan is not a finite number"),
        ({"kwargs": {"g": {1, 2}}}, "kwargs: use texts, numbers, lists and mappings"),
        ({"kwargs": {"gravity": 1}}, "Pendulum-v1 cannot be made (TypeError: "),
        ({"name": "a/b"}, "name: 'a/b': not a file name"),
        ({"name": "hopper-medium-v2"}, "a D4RL task has this name"),
        ({"environment": None}, "set one of environment (a Gymnasium id) and entry_point"),
        ({"entry_point": "a:b"}, "set one of environment (a Gymnasium id) and entry_point"),
        ({"environment": "Pendulm-v1"}, "Did you mean: `Pendulum`?"),
        ({"environment": "CartPole-v1"}, "its actions are Discrete(2); only flat, continuous"),
        ({"environment": "FrozenLake-v1"}, "its observations are Discrete(16); only flat"),
        (
            {"environment": None, "entry_point": "no_such_module:make"},
            "No module named 'no_such_module'); its module must be on PYTHONPATH",
        ),
        ({"ref_min_score": 1}, "ref_min_score and ref_max_score belong together"),
        ({"ref_min_score": 1, "ref_max_score": 0}, "ref_max_score: must be above"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, capsys, keys, message):
    path = write_task(tmp_path, **keys)
    flags = ["--task_file", str(path), "--run_dir", str(tmp_path / "run")]
    error = refusal(capsys, main([*flags, *ONLINE]))
    assert error.startswith(f"error: --task_file {path}: ")
    assert message in error
    assert not (tmp_path / "run").exists()


def test_unbounded_actions_are_refused(tmp_path, monkeypatch):
    def make(**_):
        env = gymnasium.make("Pendulum-v1")
        env.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
        return env

    monkeypatch.setattr(gymnasium, "unbounded", make, raising=False)
    path = write_task(tmp_path, environment=None, entry_point="gymnasium:unbounded")
    with pytest.raises(UserError, match="only finite bounds"):
        read_task_file(path)


def test_flags_override_the_file_and_another_env_is_refused(tmp_path):
    flags = ["--task_file", str(write_task(tmp_path, online_budget=99))]
    settings = parse_args([*flags, "--eval_rtg", "-3"])
    assert (settings.env, settings.eval_rtg, settings.online_rtg) == ("pendulum", -3, -8)
    assert settings.task.online_budget == 99
    assert parse_args([*flags, "--env", "pendulum"]).env == "pendulum"
    with pytest.raises(UserError, match=r"--env hopper-medium-v2: .* is task pendulum"):
        parse_args([*flags, "--env", "hopper-medium-v2"])


def test_integers_are_read_as_floats_where_a_float_is_expected(tmp_path):
    task = read_task_file(write_task(tmp_path, rtg_scale=1, reward_divisor=2, reward_shift=0))
    facts = task.rtg_scale, task.reward_divisor, task.reward_shift
    assert facts == (1, 2, 0) and {type(x) for x in facts} == {float}
    episodes = [*TINY, *DETERMINISTIC, "--max_pretrain_iters", "0", "--max_online_iters", "1"]
    assert main([*episodes, "--task_file", str(tmp_path / "task.yaml"), "--run_dir",
                 str(tmp_path / "run")]) == 0  # fmt: skip


def test_networks_of_another_task_with_the_same_name_are_refused(tmp_path, capsys):
    flags = [*ONLINE, "--max_online_iters", "1", "--task_file", str(write_task(tmp_path))]
    assert main([*flags, "--run_dir", str(tmp_path / "run")]) == 0
    write_task(tmp_path, rtg_scale=2.0)
    source = str(tmp_path / "run" / CHECKPOINT_FOLDER / BEST_FILE)
    capsys.readouterr()
    error = refusal(capsys, main([*flags, "--init_from", source]))
    assert f"the policy of --init_from {source}: its task has rtg_scale " in error
    assert "pendulum has 2.0; use a policy of that task" in error


def test_a_record_gives_the_same_task(tmp_path):
    task = read_task_file(write_task(tmp_path, kwargs={"g": 9.5}, **SCORES))
    record = json.loads(json.dumps(task.record()))
    assert recorded_task(record, "file") == task
    damages: list[dict[str, Any]] = [
        {"spaces": {}}, {"spaces": None}, {"horizon": "x"}, {"more": 1}
    ]  # fmt: skip
    for damage in damages:
        with pytest.raises(UserError, match=r"^file: "):
            recorded_task(record | damage, "file")


def test_actions_of_a_dataset_are_scaled_and_others_refused(tmp_path, capsys, caplog):
    arrays = recorded()
    path, task = write(tmp_path / "a.hdf5", arrays), read_task_file(write_task(tmp_path))
    data = load_dataset(path, task)
    assert data.num_trajectories == 4  # of five, without the lowest
    assert 0.8 < np.abs(data.actions).max() <= 1.0
    order = np.argsort(arrays["rewards"].reshape(5, 8).sum(1))[1:]
    want = arrays["actions"].reshape(5, 8)[order].ravel() / 2
    np.testing.assert_allclose(data.actions[:, 0], want, atol=1e-6)
    flags = ["--task_file", str(tmp_path / "task.yaml"), *TINY, *DETERMINISTIC]
    assert "no dataset to pretrain on; add --dataset" in refusal(capsys, main(flags))
    wide = arrays | {"actions": np.tile(arrays["actions"], 2)}
    path = write(tmp_path / "wide.hdf5", wide)
    message = refusal(capsys, main([*flags, "--dataset", str(path)]))
    assert "pendulum has 3 observation and 1 action entries, this file 3 and 2" in message
    arrays["actions"][7], arrays["actions"][9] = -2.5, 50
    path = write(tmp_path / "large.hdf5", arrays)
    message = refusal(capsys, main([*flags, "--dataset", str(path)]))
    assert "actions must be in [-2, 2], but row 9 has 50; scale" in message
    arrays["actions"][9] = 0
    load_dataset(write(path, arrays), task)
    assert "actions outside [-2, 2] in 1 rows" in caplog.text


def test_an_online_run_without_data_resumes_without_the_file(tmp_path, capsys, monkeypatch):
    """And without reference scores, which gives returns."""
    flags = [*ONLINE, "--max_online_iters", "3", "--replay_size", "2"]
    whole, part, path = tmp_path / "whole", tmp_path / "part", write_task(tmp_path)
    flags += ["--task_file", str(path)]
    assert main([*flags, "--run_dir", str(whole)]) == 0
    output = capsys.readouterr().out
    assert "offline data: none" in output
    assert re.search(r"^\[online 3, 24 steps\] return -\d+\.\d+, collected -", output, re.M)
    assert not any("score" in key for row in metrics_of(whole) for key in row)
    best = max(row["evaluation/raw_return_mean"] for row in metrics_of(whole))
    assert load_best(whole)["evaluation"]["evaluation/raw_return_mean"] == best
    with monkeypatch.context() as patch:
        interrupt_collecting(patch, 1)
        main([*flags, "--run_dir", str(part)])
    capsys.readouterr()
    path.write_text(path.read_text() + "reward_shift: 1\n")
    with monkeypatch.context() as patch:
        interrupt_collecting(patch, 2)
        main(["--resume", str(part)])
    assert f"note: --task_file {path} has changed since" in capsys.readouterr().out
    path.unlink()
    assert main(["--resume", str(part)]) == 0
    assert "has changed" not in capsys.readouterr().out
    assert metrics_of(part) == metrics_of(whole)
    assert same_weights(part, whole)


def test_a_run_with_data_and_scores_is_exported_and_evaluated(tmp_path, capsys, heavy):
    data = write(tmp_path / "a.hdf5", recorded())
    keys = {"environment": None, "entry_point": "my_envs:heavy_pendulum", "kwargs": {"mass": 1.0}}
    path = write_task(tmp_path, **keys, **SCORES)
    run, policy = tmp_path / "run", tmp_path / "policy"
    flags = ["--task_file", str(path), "--dataset", str(data), "--run_dir", str(run)]
    flags += [*TINY, *DETERMINISTIC, "--max_online_iters", "0"]
    assert main(flags) == 0
    output = capsys.readouterr().out
    assert ", normalised score " in output and " score " in output
    (row,) = metrics_of(run)
    assert export([str(run), "--out", str(policy)]) == 0
    task = json.loads((policy / "policy.json").read_text())["task"]
    assert task["definition"]["spaces"]["action_high"] == [2.0]
    capsys.readouterr()
    args = [str(policy), "--episodes", "2", "--device", "cpu"]
    assert "the code my_envs:heavy_pendulum, which a policy" in refusal(capsys, evaluate(args))
    assert evaluate([*args, "--json", "--task_file", str(path)]) == 0
    score = json.loads(capsys.readouterr().out)["normalized_score"]
    assert score == pytest.approx(row["evaluation/normalized_score"])
    write_task(tmp_path, **keys, horizon=9, rtg_scale=1.0)
    message = refusal(capsys, evaluate([*args, "--task_file", str(path)]))
    assert "trained on another task" in message


def test_evaluation_without_scores_shows_returns(tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--task_file", str(write_task(tmp_path)), *ONLINE, "--max_online_iters", "1"]
    assert main([*flags, "--run_dir", str(run)]) == 0
    assert export([str(run), "--out", str(tmp_path / "policy")]) == 0
    assert re.search(r"online iteration 1, return -\d+\.\d+ in the run", capsys.readouterr().out)
    args = [str(tmp_path / "policy"), "--device", "cpu", "--episodes", "3"]
    assert evaluate([*args, "--verbose"]) == 0
    output = capsys.readouterr().out
    assert "95% interval -" in output
    assert "score  " not in output.partition("seed")[2].partition("\n")[2]
    assert evaluate([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["normalized_score"] is None


def test_a_sweep_takes_the_task_from_its_flags(tmp_path):
    path = write_task(tmp_path)
    content: dict[str, Any] = {"methods": ["TD3+ODT"], "seeds": [1], "published_flags": True}
    content["flags"] = {"task_file": str(path), "max_pretrain_iters": 0}
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump(content))
    (run,) = read_sweep(sweep, tmp_path / "exp").runs
    assert (run.task, run.settings.task.horizon, run.settings.eval_rtg) == ("pendulum", 8, -8)
    assert parse_args(run.flags) == run.settings
    flags = content.pop("flags")
    content |= {"tasks": ["maze2d-umaze-v1", "pendulum"], "task_flags": {"pendulum": flags}}
    sweep.write_text(yaml.safe_dump(content))
    assert [run.task for run in read_sweep(sweep, tmp_path / "exp").runs] == content["tasks"]
    content["tasks"] = ["pendulun"]
    sweep.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="unknown task; similar names: pendulum"):
        read_sweep(sweep, tmp_path / "exp")


def test_reports_and_plots_show_returns_without_scores(tmp_path, capsys):
    pytest.importorskip("plotly")
    for name, keys in (("a", {}), ("b", {"kwargs": {"g": 9.0}})):
        own: dict[str, Any] = {"own_task": read_task_file(write_task(tmp_path, **keys))}
        for seed in (1, 2, 3):
            finals = [-500.0, -100.0 - seed]
            about = settings("TD3", "pendulum", seed, **own)
            finished_run(tmp_path / "runs" / f"{name}{seed}", -800.0, finals, RETURN, **about)
    about = settings("TD3", "maze2d-umaze-v1", 1)
    finished_run(tmp_path / "runs" / "maze", 10.0, [60.0], **about)
    out = tmp_path / "report"
    assert report([str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert "TD3: runs differ in --task_file" in capsys.readouterr().err
    text = (out / "report.md").read_text()
    titles = re.findall(r"^## Aggregates: (.*)", text, re.MULTILINE)
    assert titles == ["maze2d-umaze-v1", "pendulum (returns)"]
    assert text.count("| -102.00(+698.00), [-103.00, -101.00], 3 of 3 ") == 2
    with (out / "intervals.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "pendulum"]
    assert {row["point"] for row in rows if row["metric"] == "Optimality Gap"} == {""}
    assert {row["point"] for row in rows if row["metric"] == "Mean"} == {"-102.0"}
    runs, _ = read_runs(run_folders([tmp_path / "runs"]))
    figure = learning_curves(runs, styles([run.method for run in runs]))
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_visible()]
    assert labels == [SCORE_LABEL, RETURN_LABEL]


@pytest.mark.filterwarnings("ignore")
def test_a_minari_dataset_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    minari = pytest.importorskip("minari")
    task, arrays = read_task_file(write_task(tmp_path)), recorded()
    parts = [
        {name: x[i : i + 8] for name, x in arrays.items()}
        | {"raw_rewards": arrays["rewards"][i : i + 8]}
        | {"final_observation": arrays["next_observations"][i + 7]}
        for i in range(0, 40, 8)
    ]
    store(minari, "pendulum/random-v0", task, parts, env="Pendulum-v1",
          action_space=gymnasium.spaces.Box(-2, 2, (1,), np.float64))  # fmt: skip
    data = load_dataset(Path("minari:pendulum/random-v0"), task)
    want = load_dataset(write(tmp_path / "a.hdf5", arrays), task)
    np.testing.assert_array_equal(data.actions, want.actions)
    np.testing.assert_array_equal(data.observations, want.observations)
    assert data.fingerprint["origin"]["environment"] == "Pendulum-v1"
    assert not any("its environment" in notice for notice in data.notices)
    other = read_task_file(write_task(tmp_path, environment="MountainCarContinuous-v0"))
    message = dataset_fault(Path("minari:pendulum/random-v0"), other)
    assert "has 2 observation and 1 action entries" in message
