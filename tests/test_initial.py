"""--init_from: runs that start from the networks of another run or of an exported policy."""

import hashlib
import json
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import tasks
from main import Experiment, main
from policy_export.policy import load_policy, policy_of_run, save_policy
from reporting.runs import read_run
from run.checkpoint import load_checkpoint, read_state
from run.files import BEST_FILE, CHECKPOINT_FOLDER, PRETRAINED_FILE
from run.stopping import EXIT_INTERRUPTED
from run.wandb_writer import config_of
from tests.data_files import random_arrays, write
from tests.tiny_runs import (
    DETERMINISTIC,
    PURE_TD3,
    STOCHASTIC,
    TINY,
    interrupt_collecting,
    metrics_of,
    refusal,
    run,
    same_weights,
)

SHORT = ["--K", "3", "--eval_context_length", "2", "--max_online_iters", "2"]
DDPG = shlex.split("--rl_algo DDPG --num_actor_update_interval 1")


@pytest.fixture(scope="module", autouse=True)
def short_horizons():
    with pytest.MonkeyPatch.context() as patch:
        for name, task in tasks.TASKS.items():
            patch.setitem(tasks.TASKS, name, replace(task, horizon=25))
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write(folder / "maze2d-umaze-v1.hdf5", random_arrays(tasks.TASKS["maze2d-umaze-v1"], 200, 0))
    return folder


@pytest.fixture(scope="module")
def sources(data_dir, tmp_path_factory):
    """A deterministic and a stochastic run with two iterations of pretraining and two online."""
    folder = tmp_path_factory.mktemp("sources")
    for name, method in (("deterministic", DETERMINISTIC), ("stochastic", STOCHASTIC)):
        flags = [*method, *SHORT, "--max_pretrain_iters", "2", "--seed", "3"]
        assert run(data_dir, folder / name, *flags) == 0
    return folder


def pretrained(run_dir):
    return read_state(run_dir / CHECKPOINT_FOLDER / PRETRAINED_FILE)


def start(data_dir, run_dir, source, *flags):
    """The experiment as it starts, before anything is trained."""
    from run.resume import read_settings

    where = ["--env", "maze2d-umaze-v1", "--data_dir", str(data_dir), "--run_dir", str(run_dir)]
    argv = [*where, *TINY, *SHORT, *flags, "--init_from", str(source)]
    return Experiment(read_settings(argv))


def test_a_run_keeps_its_networks_at_the_end_of_pretraining(sources, data_dir, tmp_path):
    state = pretrained(sources / "deterministic")
    assert (state["phase"], state["iterations"]) == ("pretrain", {"pretrain": 2, "online": 0})
    flags = [*DETERMINISTIC, *SHORT, "--max_pretrain_iters", "2", "--seed", "3"]
    assert run(data_dir, tmp_path / "run", *flags, "--max_online_iters", "0") == 0
    alone = load_checkpoint(tmp_path / "run")["trainer"]
    for net in ("actor", "critic"):
        assert all(torch.equal(x, alone[net][key]) for key, x in state["trainer"][net].items())


def test_a_new_method_starts_from_the_networks_with_an_evaluation(sources, data_dir, tmp_path):
    source, run_dir = sources / "deterministic", tmp_path / "run"
    flags = [*PURE_TD3, *SHORT, "--init_from", str(source), "--seed", "8", "--eval_interval", "1"]
    assert run(data_dir, run_dir, *flags) == 0
    first, *rows = metrics_of(run_dir)
    place = ("phase", "iteration", "total_transitions_sampled")
    assert [first[name] for name in place] == ["online", 0, 0]
    assert [(row["phase"], row["iteration"]) for row in rows] == [("online", 1), ("online", 2)]
    # the pretrained policy in the first episodes of the evaluation environments
    again = start(data_dir, tmp_path / "again", source, *DETERMINISTIC)
    again.progress.phase = "online"
    evaluated = {k: v for k, v in again.evaluate().items() if not k.startswith("time/")}
    assert {k: v for k, v in first.items() if k.startswith("evaluation/")} == evaluated
    config = json.loads((run_dir / "config.json").read_text())
    theirs = json.loads((source / "config.json").read_text())
    file = source / CHECKPOINT_FOLDER / PRETRAINED_FILE
    assert config["origin"] == {
        "folder": str(source),
        "file": f"{CHECKPOINT_FOLDER}/{PRETRAINED_FILE}",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "run_id": theirs["wandb_id"],
        "method": "TD3+ODT",
        "seed": 3,
        "phase": "pretrain",
        "iterations": {"pretrain": 2, "online": 0},
        "transitions": 0,
        "taken": ["actor", "critic"],
    }
    assert config_of(again.settings, config)["origin"] == config["origin"]
    result = read_run(run_dir)
    assert result.note == "initialised from TD3+ODT seed 3, pretrain iteration 2"
    assert result.settings["init_from"] == "TD3+ODT, pretrain iteration 2"
    assert (result.before, result.curve.steps[0]) == (first["evaluation/normalized_score"], 0)


@pytest.mark.parametrize("optimizer", [0, 1])
def test_networks_are_the_sources_and_optimisers_if_requested(
    sources, data_dir, tmp_path, optimizer
):
    source = sources / "stochastic"
    flags = [*STOCHASTIC, "--init_optimizer", str(optimizer), "--learning_rate", "0.5"]
    trainer = start(data_dir, tmp_path / "run", source, *flags).trainer
    ours, theirs = trainer.state_dict(), pretrained(source)["trainer"]
    for net in ("actor", "critic"):
        assert all(torch.equal(x, ours[net][key]) for key, x in theirs[net].items())
    assert torch.equal(ours["log_temperature"], theirs["log_temperature"])
    assert trainer.actor_updates == (theirs["actor_updates"] if optimizer else 0) < 9
    for name in ("actor_optimizer", "critic_optimizer", "temperature_optimizer"):
        assert len(ours[name]["state"]) == (len(theirs[name]["state"]) if optimizer else 0)
    assert trainer.actor_optimizer.param_groups[0]["lr"] == 0.5


def test_a_deterministic_policy_starts_from_the_mean_of_a_stochastic_one(
    sources, data_dir, tmp_path
):
    source = sources / "stochastic"
    one = start(data_dir, tmp_path / "a", source, *STOCHASTIC)
    two = start(data_dir, tmp_path / "b", source, *DETERMINISTIC)
    batch = one.buffer.sample(4, 3)
    outputs = [e.trainer._policy(batch, e.trainer.nets.actor.eval()).mean for e in (one, two)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([*DETERMINISTIC, *DDPG], "actor; new: critic (the source has --rl_algo TD3), optimisers"),
        (
            [*DETERMINISTIC, "--critic_activation", "tanh"],
            "actor; new: critic (the source has --critic_activation relu), optimisers",
        ),
        (DETERMINISTIC, "actor, critic; new: optimisers"),
    ],
)
def test_another_critic_is_new_and_reported(sources, data_dir, tmp_path, capsys, flags, reason):
    experiment = start(data_dir, tmp_path / "run", sources / "deterministic", *flags)
    output = capsys.readouterr().out
    assert f"(TD3+ODT seed 3, pretrain iteration 2): {reason}\n" in output
    theirs = pretrained(sources / "deterministic")["trainer"]["critic"]
    ours = experiment.trainer.nets.critic.state_dict()
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[k], x) for k, x in theirs.items())
    assert same == ("actor, critic" in reason)


def test_an_exported_policy_gives_the_actor(sources, data_dir, tmp_path, capsys):
    save_policy(policy_of_run(sources / "deterministic"), tmp_path / "policy")
    flags = [*DETERMINISTIC, *SHORT, "--init_from", str(tmp_path / "policy")]
    assert run(data_dir, tmp_path / "run", *flags) == 0
    assert "actor; new: critic (the source has none), optimisers" in capsys.readouterr().out
    origin = json.loads((tmp_path / "run" / "config.json").read_text())["origin"]
    assert (origin["file"], origin["phase"]) == ("policy.safetensors", "online")
    actor = start(data_dir, tmp_path / "b", tmp_path / "policy", *DETERMINISTIC).trainer.nets.actor
    weights = load_policy(tmp_path / "policy").actor.state_dict()
    assert all(torch.equal(x, weights[key]) for key, x in actor.state_dict().items())


def test_a_checkpoint_file_gives_fine_tuned_networks(sources, data_dir, tmp_path):
    source = sources / "deterministic"
    for file, phase in (("000003-online-2.pt", "online"), (BEST_FILE, None)):
        path = source / CHECKPOINT_FOLDER / file
        experiment = start(data_dir, tmp_path / file, path, *DETERMINISTIC)
        theirs = read_state(path)
        assert phase in (theirs["phase"], None)
        actor = experiment.trainer.nets.actor.state_dict()
        assert all(torch.equal(x, actor[key]) for key, x in theirs["trainer"]["actor"].items())


def test_a_run_resumes_without_its_source_and_equals_an_uninterrupted_one(
    sources, data_dir, tmp_path, monkeypatch
):
    """Also with another dataset than the source's, whose states are normalised as the source's."""
    arrays = random_arrays(tasks.TASKS["maze2d-umaze-v1"], 200, 1)
    arrays["observations"] += 3
    write(tmp_path / "other.hdf5", arrays)
    source = tmp_path / "source"
    shutil.copytree(sources / "stochastic", source)
    flags = [*STOCHASTIC, *SHORT, "--init_from", str(source), "--init_optimizer", "1"]
    flags += ["--dataset", str(tmp_path / "other.hdf5"), "--eval_interval", "1"]
    flags += ["--max_pretrain_iters", "40"]
    assert run(data_dir, tmp_path / "whole", *flags) == 0
    part = tmp_path / "part"
    with monkeypatch.context() as patch:
        interrupt_collecting(patch, 0)
        assert run(data_dir, part, *flags) == EXIT_INTERRUPTED
    assert len(metrics_of(part)) == 1
    shutil.rmtree(source)
    assert main(["--resume", str(part)]) == 0
    assert metrics_of(part) == metrics_of(tmp_path / "whole")
    assert same_weights(part, tmp_path / "whole")
    config = json.loads((part / "config.json").read_text())
    assert (config["origin"]["seed"], config["settings"]["max_pretrain_iters"]) == (3, 0)
    kept = load_checkpoint(part)["normalization"]
    theirs = pretrained(sources / "stochastic")["normalization"]
    assert torch.equal(kept["mean"], theirs["mean"]) and torch.equal(kept["std"], theirs["std"])


def test_another_dataset_is_normalised_as_the_sources(sources, data_dir, tmp_path, capsys):
    source = sources / "deterministic"
    arrays = random_arrays(tasks.TASKS["maze2d-umaze-v1"], 200, 0)
    same = start(data_dir, tmp_path / "a", source, *DETERMINISTIC)
    assert "states are normalised" not in capsys.readouterr().out
    arrays["observations"] += np.float32(3)
    write(tmp_path / "other.hdf5", arrays)
    flags = [*DETERMINISTIC, "--dataset", str(tmp_path / "other.hdf5")]
    other = start(data_dir, tmp_path / "b", source, *flags)
    assert capsys.readouterr().out.count("note: --init_from: states are normalised") == 1
    shift = (other.buffer._rows["states"] - same.buffer._rows["states"])[:100]
    expected = torch.tensor(3 / same.rollout_settings.state_std, dtype=torch.float32)
    assert torch.allclose(shift, expected.expand_as(shift), atol=1e-5)


REFUSED = [
    ("deterministic", STOCHASTIC, "--stoc 1: the policy of --init_from {} has --stoc 0; use"),
    ("deterministic", [*DETERMINISTIC, "--embed_dim", "32"], "--embed_dim 32: the policy of"),
    ("deterministic", [*DETERMINISTIC, "--n_head", "4"], "--n_head 4: the policy of"),
    ("deterministic", [*DETERMINISTIC, "--policy", "mlp"], "--policy mlp: the policy of"),
    (
        "deterministic",
        [*DETERMINISTIC, "--env", "hopper-medium-v2"],
        "--env hopper-medium-v2: the policy of --init_from {} is for maze2d-umaze-v1",
    ),
    (
        "stochastic",
        [*DETERMINISTIC, "--init_optimizer", "1"],
        "--init_optimizer 1: the optimiser of --init_from {} is for --stoc 1, this run has 0",
    ),
    (
        "deterministic",
        [*DETERMINISTIC, "--init_optimizer", "1", "--actor_optimizer", "adamw"],
        "is for --actor_optimizer lamb, this run has adamw; use --init_optimizer 0",
    ),
    (
        f"deterministic/{CHECKPOINT_FOLDER}/{BEST_FILE}",
        [*DETERMINISTIC, "--init_optimizer", "1"],
        "has no optimisers; use --init_optimizer 0",
    ),
    ("", DETERMINISTIC, "--init_from {}: neither a run's folder, nor"),
    ("nothing", DETERMINISTIC, "--init_from {}: neither a run's folder, nor"),
]


@pytest.mark.parametrize(("source", "flags", "message"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(
    sources, data_dir, tmp_path, capsys, source, flags, message
):
    path = sources / source if source else sources
    code = run(data_dir, tmp_path / "run", *SHORT, *flags, "--init_from", str(path))
    assert message.format(path) in refusal(capsys, code)
    assert not (tmp_path / "run").exists()


def test_runs_without_pretrained_networks_are_refused(sources, data_dir, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(sources / "deterministic", source)
    flags = [*DETERMINISTIC, *SHORT, "--init_from", str(source)]
    pretrained_file = source / CHECKPOINT_FOLDER / PRETRAINED_FILE
    pretrained_file.write_bytes(pretrained_file.read_bytes()[:-1])
    assert f"{pretrained_file}: not a readable" in refusal(
        capsys, run(data_dir, tmp_path / "run", *flags)
    )
    pretrained_file.unlink()
    error = refusal(capsys, run(data_dir, tmp_path / "run", *flags))
    assert "no pretrained networks any more; to start from fine-tuned ones, pass a" in error
    newest = source / CHECKPOINT_FOLDER / "000003-online-2.pt"
    assert error.endswith(f"such as {newest}\n")
    for path in newest.parent.glob("*.pt"):
        path.unlink()
    error = refusal(capsys, run(data_dir, tmp_path / "run", *flags))
    assert "this run has no checkpoint yet" in error
    assert not (tmp_path / "run").exists()


def test_a_run_stopped_in_pretraining_gives_its_newest_checkpoint(sources, data_dir, tmp_path):
    """As do runs of versions that did not keep the networks at the end of pretraining."""
    source = tmp_path / "source"
    flags = [*DETERMINISTIC, *SHORT, "--max_pretrain_iters", "2", "--seed", "3"]
    assert run(data_dir, source, *flags, "--max_online_iters", "0") == 0
    (source / CHECKPOINT_FOLDER / PRETRAINED_FILE).unlink()
    one = start(data_dir, tmp_path / "a", source, *DETERMINISTIC).trainer.nets.actor
    two = start(data_dir, tmp_path / "b", sources / "deterministic", *DETERMINISTIC)
    actor = two.trainer.nets.actor.state_dict()
    assert all(torch.equal(x, actor[key]) for key, x in one.state_dict().items())
