"""Whole runs with tiny models, and their results."""

import json
import shlex

import pytest
import torch

from main import Experiment, main
from run.checkpoint import load_checkpoint
from run.files import METRICS_FILE

TINY = shlex.split(
    "--device cpu --embed_dim 16 --n_layer 2 --n_head 2 --batch_size 8 --log_to_tb 0 "
    "--checkpoint_interval 1 --num_updates_per_pretrain_iter 4 --num_updates_per_online_iter 3 "
    "--num_eval_episodes 2"
)
DETERMINISTIC = shlex.split("--stoc 0 --use_entropy_reg 0")
ODT = shlex.split("--stoc 1 --use_entropy_reg 1 --actor_rl_coeff 0")
PURE_TD3 = [*DETERMINISTIC, "--actor_sup_coeff", "0"]
STOCHASTIC = shlex.split("--stoc 1 --use_entropy_reg 1 --actor_rl_coeff 0.1")


def run(data_dir, run_dir, *flags, env="maze2d-umaze-v1", recurrent=False):
    """A new run; returns its exit code."""
    where = ["--env", env, "--data_dir", str(data_dir), "--run_dir", str(run_dir)]
    return main([*where, *TINY, *flags], recurrent)


def interrupted_run(data_dir, run_dir, *flags, when, recurrent=False):
    """A run interrupted after collecting in online iteration `when` (from 0)."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_collecting(patch, when)
        return run(data_dir, run_dir, *flags, recurrent=recurrent)


def interrupt_collecting(monkeypatch, when):
    collect = Experiment.collect

    def interrupted(self):
        metrics = collect(self)
        if self.progress.iteration == when:
            raise KeyboardInterrupt
        return metrics

    monkeypatch.setattr(Experiment, "collect", interrupted)


def metrics_of(run_dir):
    """The rows of a run without times."""
    rows = [json.loads(line) for line in (run_dir / METRICS_FILE).read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def weights_of(run_dir):
    state, nets = load_checkpoint(run_dir)["trainer"], ("actor", "critic", "critic_target")
    return {f"{net}.{key}": x for net in nets for key, x in state[net].items()}


def same_weights(a, b):
    one, two = weights_of(a), weights_of(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def refusal(capsys, code):
    """The one-line error of a refused command."""
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error
