"""Target-return curriculum, jump start, and the distance to the previous policy."""

import shlex
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from build_networks import make_actor
from collecting import GuidedPolicy, JumpStart, Schedules
from evaluation import RolloutSettings, rollout
from get_args import Settings
from main import main
from run.checkpoint import state_files
from run.progress import ProgressDisplay
from tests.documented_metrics import documented_metrics
from tests.tiny_runs import DETERMINISTIC, metrics_of, run
from tests.toy_problem import ACTING, SMALL, STEPS, TASK, TwoSteps, regret, train
from trainer import Trainer


def test_curriculum_rises_linearly():
    settings = replace(Settings(), online_rtg=100, rtg_curriculum_iters=4, rtg_curriculum_start=-20)
    targets = [Schedules(settings).target_return(i, 0) for i in range(7)]
    assert targets == [-20.0, 10.0, 40.0, 70.0, 100.0, 100.0, 100.0]
    assert Schedules(replace(Settings(), online_rtg=100)).target_return(0, 0) == 100.0


def test_jump_start_shrinks_linearly():
    settings = replace(Settings(), jump_start_steps=10, jump_start_iters=4)
    assert [Schedules(settings).guided_steps(i, 0) for i in range(6)] == [10, 8, 5, 3, 0, 0]
    assert Schedules(Settings()).guided_steps(0, 0) == 0


def test_published_schedules_decay_with_each_episode():
    """Figure 24: 100 x 0.99^N steps, and RTG_eval - 0.99^N (RTG_eval - RTG_data)."""
    settings = replace(
        Settings(), eval_rtg=120, online_rtg=999, rtg_curriculum_decay=0.99, jump_start_steps=100,
        jump_start_decay=0.99,
    )  # fmt: skip
    schedules = Schedules(settings, data_return=20.0)
    assert [schedules.guided_steps(9, n) for n in (0, 1, 2, 69, 458, 459)] == [
        100, 99, 98, 49, 1, 0
    ]  # fmt: skip
    targets = [schedules.target_return(9, n) for n in (0, 1, 2, 69, 10_000)]
    assert targets == pytest.approx([20, 21, 120 - 98.01, 120 - 100 * 0.99**69, 120])
    given = Schedules(replace(settings, rtg_curriculum_start=-30), data_return=20.0)
    assert given.target_return(0, 0) == -30.0


@given(st.integers(1, 1000), st.integers(1, 50))
def test_schedules_are_monotonic_and_reach_their_end(size, iterations):
    settings = replace(
        Settings(), online_rtg=size, rtg_curriculum_iters=iterations, rtg_curriculum_start=-5,
        jump_start_steps=size, jump_start_iters=iterations,
    )  # fmt: skip
    targets = [Schedules(settings).target_return(i, 0) for i in range(iterations + 2)]
    steps = [Schedules(settings).guided_steps(i, 0) for i in range(iterations + 2)]
    assert (targets[0], targets[-2]) == (-5, size)
    assert (steps[0], steps[-2]) == (size, 0)
    assert min(steps[:-2]) > 0
    assert (np.diff(targets) >= 0).all()
    assert (np.diff(steps) <= 0).all()


@pytest.mark.parametrize("steps", range(STEPS + 2))
def test_the_guide_acts_first_then_the_learner(steps):
    torch.manual_seed(0)
    guide, learner = (make_actor(SMALL, TASK).eval() for _ in range(2))
    acting = RolloutSettings(TASK, STEPS, np.zeros(TASK.obs_dim), np.ones(TASK.obs_dim))
    policy = GuidedPolicy(guide, learner, steps, acting, acting)
    (guided,) = rollout(policy, TwoSteps(1), acting, 0.0)
    (alone,) = rollout(guide, TwoSteps(1), acting, 0.0)
    same = guided.trajectory.actions == alone.trajectory.actions
    assert same.all(axis=1).tolist() == [t < steps for t in range(STEPS)]


def test_the_guide_stays_the_pretrained_policy():
    actor = make_actor(SMALL, TASK)
    jump_start = JumpStart()
    assert jump_start.policy(actor, 1, ACTING) == (actor, ACTING)  # nothing was pretrained
    jump_start.start(actor)
    before = {name: x.clone() for name, x in actor.state_dict().items()}
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(1.0)
    guided, _ = jump_start.policy(actor, 1, ACTING)
    assert isinstance(guided, GuidedPolicy)
    assert guided.learner is actor
    assert all(torch.equal(x, before[name]) for name, x in guided.guide.state_dict().items())
    again = JumpStart()
    again.load_state_dict(jump_start.state_dict(), actor)
    ours = again.state_dict()
    assert ours is not None
    assert all(torch.equal(x, before[name]) for name, x in ours.items())
    # an iteration that is stopped after the last guided episode starts over with the guide
    assert jump_start.policy(actor, 0, ACTING) == (actor, ACTING)
    assert jump_start.state_dict() is not None
    jump_start.end()
    assert jump_start.state_dict() is None


def test_prev_policy_coeff_slows_the_policy_down():
    """It still moves, because the previous policy follows at every iteration."""
    settings = replace(SMALL, rl_algo="TD3", stoc=0)
    start = regret(train(settings, 3.0, 0.0, iterations=0))
    free = regret(train(settings, 3.0, 0.0, iterations=3))
    held = regret(train(settings, 3.0, 0.0, 100.0, iterations=3))
    assert 1.3 * free < held < 0.9 * start


def test_the_previous_policy_is_copied_at_each_iteration(monkeypatch):
    # an MLP: the transformer's embedding dropout would add a distance
    settings = replace(SMALL, rl_algo="TD3", stoc=0, policy="mlp")
    distances = []
    update = Trainer._log

    def record(self, info):
        if "policy_distance" in info:
            distances.append(info["policy_distance"].item())
        update(self, info)

    monkeypatch.setattr(Trainer, "_log", record)
    train(settings, 3.0, 0.0, 0.05, iterations=3, updates=4, pretraining=2)
    assert len(distances) == 12  # none in pretraining
    for i, distance in enumerate(distances):
        assert (distance < 1e-9) == (i % 4 == 0)


@pytest.mark.usefixtures("short_horizons")
def test_schedules_are_logged_and_checkpointed_only_when_enabled(data_dir, tmp_path):
    flags = shlex.split("--eval_interval 1 --K 3 --eval_context_length 2 --keep_checkpoints 9")
    schedules = shlex.split(
        "--rtg_curriculum_iters 2 --rtg_curriculum_start 1200 --jump_start_steps 9 "
        "--jump_start_iters 2 --prev_policy_coeff 0.05 --max_online_iters 3"
    )
    assert run(data_dir, tmp_path / "on", *DETERMINISTIC, *flags, *schedules) == 0
    assert run(data_dir, tmp_path / "off", *DETERMINISTIC, *flags, "--max_online_iters", "1") == 0
    on, off = metrics_of(tmp_path / "on"), metrics_of(tmp_path / "off")
    new = {"aug_traj/target_return", "aug_traj/guided_steps", "training/policy_distance"}
    assert new <= documented_metrics()
    assert {key for row in on for key in row} - {key for row in off for key in row} == new
    assert on[0] == off[0]
    assert [row["aug_traj/target_return"] for row in on[1:]] == [1200.0, 4200.0, 7200.0]
    assert [row["aug_traj/guided_steps"] for row in on[1:]] == [9.0, 5.0, 0.0]
    assert all(row["training/policy_distance"] > 0 for row in on[1:])

    pretrained, *later, last = [
        torch.load(path, weights_only=True) for path in reversed(state_files(tmp_path / "on"))
    ]
    assert pretrained["jump_start"] is None
    assert last["jump_start"] is None
    assert len(later) == 2
    for state in later:
        for name, x in pretrained["trainer"]["actor"].items():
            assert torch.equal(state["jump_start"][name], x)
    assert last["trainer"]["previous"] is None


@pytest.mark.usefixtures("short_horizons")
def test_published_schedules_count_the_episodes_of_the_run(data_dir, tmp_path):
    """Three episodes of 25 steps per iteration; the last two continue after a resume."""
    flags = shlex.split(
        "--jump_start_steps 20 --jump_start_decay 0.9 --rtg_curriculum_decay 0.5 --eval_rtg 100 "
        "--rtg_curriculum_start 0 --minimum_sapairs_per_iter 60 --max_online_iters 1"
    )
    assert run(data_dir, tmp_path / "run", *DETERMINISTIC, *flags) == 0
    assert main(["--resume", str(tmp_path / "run"), "--max_online_iters", "3"]) == 0
    rows = metrics_of(tmp_path / "run")[1:]
    targets = [row["aug_traj/target_return"] for row in rows]
    assert targets == [100 - 100 * 0.5**n for n in (0, 3, 6)]
    assert [row["aug_traj/guided_steps"] for row in rows] == [20.0, 14.0, 10.0]


@pytest.mark.usefixtures("short_horizons")
def test_each_episode_of_an_iteration_follows_the_schedule(data_dir, tmp_path, monkeypatch):
    asked = []
    target_return = Schedules.target_return

    def record(self, iteration, episode):
        asked.append((iteration, episode))
        return target_return(self, iteration, episode)

    counts: list[int] = []
    monkeypatch.setattr(Schedules, "target_return", record)
    monkeypatch.setattr(ProgressDisplay, "collection", lambda self: nullcontext(counts.append))
    flags = shlex.split("--minimum_sapairs_per_iter 60 --num_online_rollouts 2")
    flags += ["--max_online_iters", "2"]
    assert run(data_dir, tmp_path / "run", *DETERMINISTIC, *flags) == 0
    assert asked == [(0, 0), (0, 2), (1, 4), (1, 6)]
    assert counts == 2 * [*range(2, 101, 2)]  # steps shown
