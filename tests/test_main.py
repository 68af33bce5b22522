"""Whole runs by the command line, with tiny models."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch

import tasks
from d4rl_envs.registration import ENTRY_POINTS
from main import main
from run.checkpoint import load_checkpoint
from run.stopping import EXIT_INTERRUPTED
from run.video import VideoRecorder
from tests.conftest import ROOT, SHARED, shared_file
from tests.data_files import random_arrays, write
from tests.documented_metrics import documented_metrics
from tests.test_get_args import published_commands
from tests.tiny_runs import (
    DETERMINISTIC,
    ODT,
    PURE_TD3,
    STOCHASTIC,
    TINY,
    interrupt_collecting,
    metrics_of,
    refusal,
    run,
    same_weights,
)

pytestmark = pytest.mark.usefixtures("short_horizons")


@pytest.mark.parametrize(
    ("env", "method"),
    [
        ("maze2d-umaze-v1", DETERMINISTIC),
        ("hopper-medium-v2", ODT),
        ("maze2d-umaze-v1", PURE_TD3),
        ("hopper-medium-v2", STOCHASTIC),
    ],
    ids=["TD3+ODT", "ODT", "TD3", "stochastic TD3+ODT"],
)
def test_a_run_writes_metrics_config_and_checkpoints(data_dir, tmp_path, capsys, env, method):
    run_dir = tmp_path / "run"
    flags = ["--K", "3", "--eval_context_length", "2", "--max_online_iters", "3"]
    assert run(data_dir, run_dir, *method, *flags, "--eval_interval", "2", env=env) == 0
    output = capsys.readouterr().out
    assert "note: dropped " in output and "offline data: " in output
    assert output.endswith(f"Finished. Results are in {run_dir}\n")
    rows = metrics_of(run_dir)
    assert [(row["phase"], row["iteration"]) for row in rows] == [
        ("pretrain", 1), ("online", 1), ("online", 2), ("online", 3)
    ]  # fmt: skip
    assert rows[0]["total_transitions_sampled"] == 0
    assert 0 < rows[1]["total_transitions_sampled"] < rows[3]["total_transitions_sampled"]
    evaluated = ["evaluation/normalized_score" in row for row in rows]
    assert evaluated == [True, False, True, True]
    named = {key for row in rows for key in row if "/" in key}
    assert named <= documented_metrics()
    assert {"training/train_loss_mean", "training/sup_loss", "training/rl_loss",
            "training/critic_MSE_loss", "training/Q_mean", "aug_traj/return",
            "evaluation/return_mean_gm", "evaluation/length_mean_gm"} <= named  # fmt: skip
    assert all(np.isfinite(value) for row in rows for key, value in row.items() if "/" in key)
    config = json.loads((run_dir / "config.json").read_text())
    assert config["settings"]["env"] == env
    assert config["fingerprint"]["file"] == f"{env}.hdf5"
    assert (run_dir / "metrics.csv").exists()
    assert load_checkpoint(run_dir)["transitions"] == rows[3]["total_transitions_sampled"]


def test_results_depend_only_on_the_seed(data_dir, tmp_path):
    flags = [*STOCHASTIC, "--max_online_iters", "2", "--eval_interval", "1"]
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        assert run(data_dir, tmp_path / name, *flags, "--seed", seed) == 0
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert metrics_of(tmp_path / "a") != metrics_of(tmp_path / "c")


@pytest.mark.parametrize("method", [DETERMINISTIC, STOCHASTIC], ids=["deterministic", "stochastic"])
def test_a_run_interrupted_while_collecting_equals_an_uninterrupted_one(
    data_dir, tmp_path, monkeypatch, method
):
    """It resumes from the checkpoint before, whose environment generators collect the same."""
    flags = [*method, "--K", "3", "--eval_context_length", "3", "--max_online_iters", "4"]
    flags += ["--eval_interval", "1", "--replay_size", "6"]
    part = tmp_path / "part"
    assert run(data_dir, tmp_path / "whole", *flags) == 0
    for when in (0, 1, 3):
        with monkeypatch.context() as patch:
            interrupt_collecting(patch, when)
            code = main(["--resume", str(part)]) if when else run(data_dir, part, *flags)
        assert code == EXIT_INTERRUPTED
        assert len(metrics_of(part)) == 1 + when
    assert main(["--resume", str(part)]) == 0
    assert metrics_of(part) == metrics_of(tmp_path / "whole")
    assert same_weights(part, tmp_path / "whole")


def test_a_run_ends_at_its_budget_with_an_evaluation(data_dir, tmp_path):
    flags = [*DETERMINISTIC, "--K", "2", "--eval_context_length", "1"]
    flags += ["--max_online_transitions", "60", "--eval_interval", "100"]
    assert run(data_dir, tmp_path / "run", *flags) == 0
    last = metrics_of(tmp_path / "run")[-1]
    assert last["iteration"] == 3  # of 25 steps each
    assert "evaluation/normalized_score" in last


def test_an_iteration_collects_the_minimum_of_steps(data_dir, tmp_path):
    flags = [*DETERMINISTIC, "--max_online_iters", "1", "--minimum_sapairs_per_iter", "60"]
    assert run(data_dir, tmp_path / "run", *flags, "--num_online_rollouts", "2") == 0
    assert metrics_of(tmp_path / "run")[-1]["total_transitions_sampled"] == 100


def test_the_rl_loss_starts_online_or_in_pretraining(data_dir, tmp_path):
    flags = [*DETERMINISTIC, "--max_online_iters", "1", "--actor_rl_coeff", "0.3"]
    for start, expected in (("0", [0.0, 0.3]), ("1", [0.3, 0.3])):
        assert run(data_dir, tmp_path / start, *flags, "--RL_from_start", start) == 0
        rows = metrics_of(tmp_path / start)
        assert [row["training/rl_coeff"] for row in rows] == pytest.approx(expected)


def test_bfloat16_and_critic_options_run(data_dir, tmp_path):
    flags = "--precision bf16 --critic_time_aware 1 --critic_normalization adanorm --ordering 1 "
    flags += "--critic_activation swish --delayed_reward 4 --normalized_rl_coeff 1 "
    flags += "--online_data_mode train --max_online_iters 1"
    assert run(data_dir, tmp_path / "run", *DETERMINISTIC, *shlex.split(flags)) == 0


def test_videos_are_written_or_explained(data_dir, tmp_path, capsys):
    flags = [*DETERMINISTIC, "--max_online_iters", "0", "--video_debug", "1"]
    assert run(data_dir, tmp_path / "run", *flags) == 0
    made = (tmp_path / "run" / "videos" / "pretrain_1.gif").exists()
    # without OpenGL the run warns and continues
    assert made != ("no videos" in capsys.readouterr().out)


def test_a_run_continues_if_videos_cannot_be_written(data_dir, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(VideoRecorder, "after_step", lambda _: None)
    monkeypatch.setattr(VideoRecorder, "save", full)
    flags = [*DETERMINISTIC, "--max_online_iters", "1", "--video_debug", "1"]
    assert run(data_dir, tmp_path / "run", *flags) == 0
    assert "videos/pretrain_1.gif not written" in capsys.readouterr().out


@pytest.mark.parametrize("command", published_commands(), ids=" ".join)
def test_every_published_command_runs(tmp_path, command):
    """With tiny models, short episodes and random data."""
    task = tasks.get_task(command[command.index("--env") + 1])
    assert task.family in ENTRY_POINTS
    write(tmp_path / f"{task.name}.hdf5", random_arrays(task, 120, seed=1))
    small = shlex.split("--max_pretrain_iters 1 --max_online_iters 1 --minimum_sapairs_per_iter 1")
    where = ["--data_dir", str(tmp_path), "--run_dir", str(tmp_path / "run")]
    assert main([*command, *TINY, *small, *where]) == 0
    assert len(metrics_of(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (SHARED / "data").glob("*.hdf5")) or ["hopper-medium-v2"]
)
def test_real_data_trains(tmp_path, name):
    path = shared_file(f"data/{name}.hdf5")
    flags = [*DETERMINISTIC, "--dataset", str(path), "--max_online_iters", "1"]
    assert run(tmp_path, tmp_path / "run", *flags, env=name) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env", "hoper-medium-v2"], "hopper-medium-v2"),
        (["--env", "walker2d-medium-v2"], "download_gym_datasets.py --only walker2d-medium-v2"),
        (["--K", "0"], "--K"),
        (["--eval_context_length", "0"], "--eval_context_length"),
        (["--K", "2", "--eval_context_length", "3"], "--eval_context_length"),
        (["--dataset", "/dev/null"], "/dev/null"),
        (["--rl_algo", "SOC"], "--rl_algo"),
        pytest.param(
            ["--device", "cuda"],
            "--device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(data_dir, tmp_path, capsys, flags, message):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["main.py"])
        try:
            code = run(data_dir, tmp_path / "run", *DETERMINISTIC, *flags)
        except SystemExit as ended:
            code = ended.code
    assert message in refusal(capsys, code)
    assert not (tmp_path / "run").exists()


def test_unusable_run_folders_are_refused(data_dir, tmp_path, capsys):
    flags = [*DETERMINISTIC, "--max_online_iters", "0"]
    assert run(data_dir, tmp_path / "run", *flags) == 0
    before = metrics_of(tmp_path / "run")
    capsys.readouterr()
    assert "not empty" in refusal(capsys, run(data_dir, tmp_path / "run", *flags))
    assert metrics_of(tmp_path / "run") == before
    (tmp_path / "file").write_text("")
    refusal(capsys, run(data_dir, tmp_path / "file" / "run", *flags))
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        refusal(capsys, run(data_dir, tmp_path / "locked" / "run", *flags))


def test_help_loads_no_environments_datasets_or_models():
    slow = ["mujoco", "gymnasium_robotics", "h5py", "transformers", "PIL", "wandb", "tensorboard"]
    code = (
        "import contextlib, sys\n"
        "from main import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "--rl_algo" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
