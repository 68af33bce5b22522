"""Curriculum return-to-go, jump start, and the distance to the previous policy."""

import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from build_networks import make_actor
from collecting import GuidedPolicy, JumpStart, return_to_ask_for, steps_of_guide
from evaluation import RolloutSettings, rollout
from get_args import Settings
from run.checkpoint import load_checkpoint, state_files
from tests.documented_metrics import documented_metrics
from tests.tiny_runs import DETERMINISTIC, metrics_of, run, same_weights
from tests.toy_problem import SMALL, STEPS, TASK, TwoSteps, regret, train
from trainer import Trainer


def test_curriculum_by_hand():
    settings = replace(Settings(), online_rtg=100, rtg_curriculum_iters=4, rtg_curriculum_start=-20)
    targets = [return_to_ask_for(settings, i) for i in range(7)]
    assert targets == [-20.0, 10.0, 40.0, 70.0, 100.0, 100.0, 100.0]
    assert return_to_ask_for(replace(Settings(), online_rtg=100), 0) == 100.0


def test_jump_start_by_hand():
    settings = replace(Settings(), jump_start_steps=10, jump_start_iters=4)
    assert [steps_of_guide(settings, i) for i in range(6)] == [10, 8, 5, 3, 0, 0]
    assert steps_of_guide(Settings(), 0) == 0


@given(st.integers(1, 1000), st.integers(1, 50))
def test_schedules_go_one_way_and_arrive(size, iterations):
    settings = replace(
        Settings(), online_rtg=size, rtg_curriculum_iters=iterations, rtg_curriculum_start=-5,
        jump_start_steps=size, jump_start_iters=iterations,
    )  # fmt: skip
    targets = [return_to_ask_for(settings, i) for i in range(iterations + 2)]
    steps = [steps_of_guide(settings, i) for i in range(iterations + 2)]
    assert (targets[0], targets[-2]) == (-5, size)
    assert (steps[0], steps[-2]) == (size, 0)
    assert min(steps[:-2]) > 0
    assert (np.diff(targets) >= 0).all()
    assert (np.diff(steps) <= 0).all()


@pytest.mark.parametrize("steps", range(STEPS + 2))
def test_the_guide_acts_first_and_the_learner_goes_on(steps):
    torch.manual_seed(0)
    guide, learner = (make_actor(SMALL, TASK).eval() for _ in range(2))
    acting = RolloutSettings(TASK, STEPS, np.zeros(TASK.obs_dim), np.ones(TASK.obs_dim))
    (guided,) = rollout(GuidedPolicy(guide, learner, steps), TwoSteps(1), acting, 0.0)
    (alone,) = rollout(guide, TwoSteps(1), acting, 0.0)
    same = guided.trajectory.actions == alone.trajectory.actions
    assert same.all(axis=1).tolist() == [t < steps for t in range(STEPS)]


def test_the_guide_stays_what_fine_tuning_began_with():
    settings = replace(SMALL, jump_start_steps=1, jump_start_iters=2)
    actor = make_actor(settings, TASK)
    jump_start = JumpStart(settings)
    assert jump_start.policy(actor, 0) is actor  # nothing was pretrained
    jump_start.start(actor)
    before = {name: x.clone() for name, x in actor.state_dict().items()}
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(1.0)
    guided = jump_start.policy(actor, 1)
    assert isinstance(guided, GuidedPolicy)
    assert guided.learner is actor
    assert all(torch.equal(x, before[name]) for name, x in guided.guide.state_dict().items())
    again = JumpStart(settings)
    again.load_state_dict(jump_start.state_dict(), actor)
    ours = again.state_dict()
    assert ours is not None
    assert all(torch.equal(x, before[name]) for name, x in ours.items())
    assert jump_start.policy(actor, 2) is actor
    assert jump_start.state_dict() is None


def test_a_coefficient_slows_the_policy_down():
    """It still moves, because what it is held to moves along with every iteration."""
    settings = replace(SMALL, rl_algo="TD3", stoc=0)
    free = regret(train(settings, 3.0, 0.0))
    held = regret(train(settings, 3.0, 0.0, prev_policy_coeff=100.0))
    still = regret(train(settings, 0.0, 1.0))
    assert 2.0 * free < held < 0.9 * still


def test_the_previous_policy_is_that_of_the_iterations_start(monkeypatch):
    # an MLP has no dropout, which would be a distance of its own
    settings = replace(SMALL, rl_algo="TD3", stoc=0, policy="mlp")
    distances = []
    update = Trainer._log

    def record(self, info):
        if "policy_distance" in info:
            distances.append(info["policy_distance"].item())
        update(self, info)

    monkeypatch.setattr(Trainer, "_log", record)
    train(settings, 3.0, 0.0, prev_policy_coeff=0.05, iterations=3, updates=4, pretraining=2)
    assert len(distances) == 12  # none in pretraining
    for i, distance in enumerate(distances):
        assert (distance < 1e-9) == (i % 4 == 0)


LONG = [*DETERMINISTIC, *shlex.split("--max_online_iters 3 --eval_interval 1 --K 3")]
LONG += ["--eval_context_length", "2"]


@pytest.mark.usefixtures("short_horizons")
def test_off_by_default_and_logged_when_on(data_dir, tmp_path):
    flags = shlex.split(
        "--rtg_curriculum_iters 2 --rtg_curriculum_start 1200 --jump_start_steps 9 "
        "--jump_start_iters 2 --prev_policy_coeff 0.05"
    )
    assert run(data_dir, tmp_path / "on", *LONG, *flags) == 0
    assert run(data_dir, tmp_path / "off", *LONG) == 0
    on, off = metrics_of(tmp_path / "on"), metrics_of(tmp_path / "off")
    new = {"aug_traj/target_return", "aug_traj/guided_steps", "training/policy_distance"}
    assert new <= documented_metrics()
    assert {key for row in on for key in row} - {key for row in off for key in row} == new
    assert on[0] == off[0]
    assert [row["aug_traj/target_return"] for row in on[1:]] == [1200.0, 4200.0, 7200.0]
    assert [row["aug_traj/guided_steps"] for row in on[1:]] == [9.0, 5.0, 0.0]
    assert all(row["training/policy_distance"] > 0 for row in on[1:])
    assert not same_weights(tmp_path / "on", tmp_path / "off")


@pytest.mark.usefixtures("short_horizons")
def test_the_guide_is_in_the_checkpoint_as_long_as_it_is_needed(data_dir, tmp_path):
    flags = ["--jump_start_steps", "9", "--jump_start_iters", "2", "--keep_checkpoints", "9"]
    assert run(data_dir, tmp_path / "run", *LONG, *flags) == 0
    pretrained, *later, last = [
        torch.load(path, weights_only=True) for path in reversed(state_files(tmp_path / "run"))
    ]
    assert pretrained["jump_start"] is None
    assert last["jump_start"] is None
    assert len(later) == 2
    for state in later:
        for name, x in pretrained["trainer"]["actor"].items():
            assert torch.equal(state["jump_start"][name], x)
    assert load_checkpoint(tmp_path / "run", "cpu")["trainer"]["previous"] is None
