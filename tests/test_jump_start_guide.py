"""--jump_start_guide: a jump start by the policy of another run or by an exported policy."""

import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import tasks
from evaluation import rollout
from main import Experiment, main
from policy_export import load_policy, open_policy, save_policy
from policy_export.policy import WEIGHTS_FILE
from run.checkpoint import load_checkpoint
from run.files import GUIDE_FOLDER
from run.resume import read_settings
from run.stopping import EXIT_STOPPED, StopSignal
from tasks import make_vector
from tests.data_files import random_arrays, write
from tests.test_checkpoint import stop_after
from tests.tiny_runs import (
    DETERMINISTIC,
    STOCHASTIC,
    TINY,
    metrics_of,
    refusal,
    run,
    same_weights,
)

NAME = "maze2d-umaze-v1"
LEARNER = [*DETERMINISTIC, *shlex.split("--K 3 --eval_context_length 2")]
# guides that differ from the learner in all that may differ
IQL = shlex.split(
    "--rl_algo IQL --num_actor_update_interval 1 --use_entropy_reg 0 --actor_sup_coeff 0 "
    "--policy mlp --n_layer 1 --embed_dim 24 --K 1 --eval_context_length 1"
)
TRANSFORMER = [*STOCHASTIC, *shlex.split("--K 6 --eval_context_length 5 --n_head 4 --ordering 1")]


@pytest.fixture(scope="module", autouse=True)
def short_horizons():
    with pytest.MonkeyPatch.context() as patch:
        for name, task in tasks.TASKS.items():
            patch.setitem(tasks.TASKS, name, replace(task, horizon=25))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Datasets and guides, which were trained on other data than the learner will be."""
    folder = tmp_path_factory.mktemp("guides")
    arrays = random_arrays(tasks.TASKS[NAME], 200, 0)
    write(folder / f"{NAME}.hdf5", arrays)
    arrays["observations"] = 2 * arrays["observations"] + np.float32(3)
    write(folder / "other.hdf5", arrays)
    for name, flags in (("iql", IQL), ("transformer", TRANSFORMER)):
        flags = [*flags, "--dataset", str(folder / "other.hdf5"), "--max_online_iters", "1"]
        assert run(folder, folder / name, *flags) == 0
    save_policy(open_policy(folder / "iql"), folder / "exported")
    return folder


def learner_of(folder, run_dir, *flags):
    where = ["--env", NAME, "--data_dir", str(folder), "--run_dir", str(run_dir)]
    return Experiment(read_settings([*where, *TINY, *LEARNER, "--jump_start_steps", "9", *flags]))


@pytest.mark.parametrize("name", ["iql", "transformer", "exported"])
def test_guide_acts_as_it_does_alone_then_the_learner(folder, tmp_path, monkeypatch, name):
    experiment = learner_of(folder, tmp_path / "run", "--jump_start_guide", str(folder / name))
    learner, ours = experiment.trainer.nets.actor.eval(), experiment.rollout_settings
    guide = open_policy(folder / name)
    theirs, seen = guide.rollout_settings(), []
    assert not np.allclose(ours.state_mean, theirs.state_mean, atol=1)

    def play(actor, acting):
        envs = make_vector(guide.task, range(3))
        return [episode.trajectory for episode in rollout(actor, envs, acting, 50.0)]

    def record(states, *others):
        seen.append(states)
        return act(states, *others)

    act = learner.act
    monkeypatch.setattr(learner, "act", record)
    guided = play(*experiment.collector.jump_start.policy(learner, 9, ours))
    alone = play(guide.actor, theirs)
    difference = [
        abs(a.actions - b.actions).max(axis=1) for a, b in zip(guided, alone, strict=True)
    ]
    assert np.max(difference, axis=0)[:9].max() < 1e-5
    assert np.min(difference, axis=0)[9:].min() > 1e-4
    # the learner sees its own context, normalised as always
    assert [states.shape[1] for states in seen] == [2] * (25 - 9)
    observations = np.stack([trajectory.observations[9:] for trajectory in guided], axis=1)
    states = torch.stack([states[:, -1] for states in seen])
    expected = (observations - ours.state_mean) / ours.state_std
    np.testing.assert_allclose(states.numpy(), expected, rtol=0, atol=1e-4)


def test_run_keeps_a_copy_of_its_guide_and_needs_no_pretraining(folder, tmp_path):
    flags = ["--jump_start_guide", str(folder / "iql"), "--jump_start_iters", "1"]
    flags += shlex.split("--jump_start_steps 9 --max_pretrain_iters 0 --max_online_iters 2")
    assert run(folder, tmp_path / "run", *LEARNER, *flags) == 0
    assert [row["aug_traj/guided_steps"] for row in metrics_of(tmp_path / "run")] == [9.0, 0.0]
    copy, guide = load_policy(tmp_path / "run" / GUIDE_FOLDER), open_policy(folder / "iql")
    assert copy.record["origin"] == guide.record["origin"]
    assert all(
        torch.equal(x, y)
        for x, y in zip(copy.actor.parameters(), guide.actor.parameters(), strict=True)
    )
    assert load_checkpoint(tmp_path / "run")["jump_start"] is None


def test_stopped_run_resumes_identically_after_the_guide_is_gone(folder, tmp_path, monkeypatch):
    guide = tmp_path / "guide"
    shutil.copytree(folder / "iql", guide)
    flags = [*LEARNER, "--jump_start_guide", str(guide), "--max_online_iters", "3"]
    flags += shlex.split("--jump_start_steps 9 --jump_start_iters 2")
    assert run(folder, tmp_path / "whole", *flags) == 0
    part, sessions = tmp_path / "part", 1
    # in pretraining, then every five updates or iterations
    monkeypatch.setattr(StopSignal, "__call__", stop_after(0))
    code = run(folder, part, *flags)
    shutil.rmtree(guide)
    while code == EXIT_STOPPED:
        monkeypatch.setattr(StopSignal, "__call__", stop_after(5))
        code, sessions = main(["--resume", str(part)]), sessions + 1
    assert code == 0 and sessions > 3
    assert metrics_of(part) == metrics_of(tmp_path / "whole")
    assert same_weights(part, tmp_path / "whole")


def test_unusable_guides_are_refused_in_one_line(folder, tmp_path, capsys):
    arrays = random_arrays(tasks.TASKS["hopper-medium-v2"], 200, 0)
    write(tmp_path / "hopper-medium-v2.hdf5", arrays)
    flags = [*DETERMINISTIC, "--max_online_iters", "0"]
    assert run(tmp_path, tmp_path / "hopper", *flags, env="hopper-medium-v2") == 0
    shutil.copytree(folder / "exported", tmp_path / "damaged")
    weights = tmp_path / "damaged" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    capsys.readouterr()
    for name, problem in (
        ("nothing", "neither an exported policy"),
        ("hopper", f"its task has name hopper-medium-v2, {NAME} has {NAME}; use a policy of"),
        ("damaged", f"{weights}: damaged"),
    ):
        flags = ["--jump_start_steps", "5", "--jump_start_guide", str(tmp_path / name)]
        error = refusal(capsys, run(folder, tmp_path / "run", *LEARNER, *flags))
        assert error.startswith("error: --jump_start_guide") and problem in error
        assert not (tmp_path / "run").exists()
