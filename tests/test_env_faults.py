"""Environments that raise, return NaN or become unstable: the episode ends, the run continues."""

import logging
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch

import d4rl_envs
from d4rl_envs.engine import mujoco
from d4rl_envs.locomotion import HopperEnv
from d4rl_envs.maze2d import Maze2dEnv
from d4rl_envs.vector import NOT_FINITE, UNSTABLE
from data import load_dataset
from decision_transformer import Deterministic
from evaluation import (
    collect_episodes,
    collection_metrics,
    evaluation_metrics,
    rollout,
)
from replay_buffer import ReplayBuffer
from run.stopping import EXIT_DIVERGED
from tasks import TASKS, get_task
from tests.data_files import random_arrays, write
from tests.test_evaluation import actor_for, settings_for
from tests.tiny_runs import DETERMINISTIC, metrics_of, run
from utils import UserError

CHEETAH = replace(get_task("halfcheetah-medium-v2"), horizon=12)


@pytest.fixture(autouse=True)
def nothing_logged_yet(monkeypatch):
    monkeypatch.setattr("d4rl_envs.vector._logged", set())
    monkeypatch.setattr("d4rl_envs.engine._logged", set())


def raising(error):
    def act(env, advance, action):
        raise error

    return act


def spoiling(**values):
    """Replace parts of what a step returns."""

    def act(env, advance, action):
        obs, reward, terminated = advance(action)
        obs = np.where(np.arange(len(obs)) == 3, values.get("obs", obs), obs)
        return obs, values.get("reward", reward), terminated

    return act


def exploding(env, advance, action):
    env.qvel[3] = 1e12
    return advance(action)


FAULTS = {
    "FatalError": (raising(mujoco.FatalError("stack overflow\nin a step")), "FatalError"),
    "ValueError": (raising(ValueError("bad pose")), "ValueError"),
    "UserError": (raising(UserError("an action is NaN")), "UserError"),
    "NaN": (spoiling(obs=np.nan), NOT_FINITE),
    "infinite reward": (spoiling(reward=-np.inf), NOT_FINITE),
    "beyond float32": (spoiling(obs=1e39), NOT_FINITE),
    "unstable": (exploding, UNSTABLE),
}


def spoil(env, step, act):
    """Replace the environment's step number `step` (from 0) by `act`."""
    advance, count = env.advance, iter(range(10**6))
    env.advance = lambda a: act(env, advance, a) if next(count) == step else advance(a)


def vector_of(task=CHEETAH, step=None, act=None, which=1):
    vector = d4rl_envs.make_vector(task, [5, 6, 7])
    if act is not None:
        spoil(vector.envs[which], step, act)
    return vector


def play(vector, task=CHEETAH, **kwargs):
    return rollout(actor_for(task), vector, settings_for(task, **kwargs), 0.0)


@pytest.mark.parametrize("step", [1, 7, 11])
@pytest.mark.parametrize("name", FAULTS)
def test_episode_ends_before_the_fault(name, step):
    act, kind = FAULTS[name]
    healthy, vector = play(vector_of()), vector_of(step=step, act=act)
    episodes = play(vector)
    assert [episode.length for episode in episodes] == [12, step, 12]
    assert [episode.faulted for episode in episodes] == [False, True, False]
    assert not episodes[1].reached_horizon
    assert vector.faults == {kind: 1}
    for ours, theirs in zip(episodes, healthy, strict=True):
        length = ours.length
        for field in ("observations", "actions", "rewards"):
            got = getattr(ours.trajectory, field)
            want = getattr(theirs.trajectory, field)[:length]
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    part, whole = episodes[1].trajectory, healthy[1].trajectory
    np.testing.assert_allclose(part.final_observation, whole.observations[step], atol=1e-5)
    assert part.terminals.tolist() == [False] * (step - 1) + [True]
    assert episodes[1].raw_return == pytest.approx(float(part.rewards.sum()))
    assert evaluation_metrics(episodes, CHEETAH)["evaluation/env_faults"] == 1


@pytest.mark.parametrize("name", FAULTS)
def test_next_episode_is_the_same_as_without_the_fault(name):
    act, kind = FAULTS[name]
    healthy, vector = vector_of(), vector_of(step=4, act=act)
    play(healthy), play(vector)
    old = vector.envs[1]
    want, got = play(healthy), play(vector)
    raised = kind.endswith("Error")
    assert (vector.envs[1] is not old) == raised
    assert [episode.length for episode in got] == [12, 12, 12]
    for ours, theirs in zip(got, want, strict=True):
        for field in ("observations", "actions", "rewards"):
            one, two = getattr(ours.trajectory, field), getattr(theirs.trajectory, field)
            assert np.array_equal(one, two)
    assert vector.rng_states() == healthy.rng_states()


@pytest.mark.parametrize("name", FAULTS)
def test_fault_in_the_first_step_gives_an_empty_episode(tmp_path, name):
    episodes = play(vector_of(step=0, act=FAULTS[name][0]))
    assert [episode.length for episode in episodes] == [12, 0, 12]
    assert episodes[1].raw_return == episodes[1].training_return == 0.0
    for metrics in (evaluation_metrics(episodes, CHEETAH), collection_metrics(episodes, CHEETAH)):
        assert np.isfinite(list(metrics.values())).all()
    path = write(tmp_path / f"{CHEETAH.name}.hdf5", random_arrays(CHEETAH, 60, seed=0))
    buffer = ReplayBuffer(load_dataset(path, CHEETAH), 100, 0.001)
    for episode in play(vector_of(step=5, act=FAULTS[name][0])):
        buffer.add(episode.trajectory)
    batch = buffer.sample(400, 4)
    values = vars(batch).values()
    assert all(bool(torch.isfinite(x.float()).all()) for x in values)


@pytest.mark.parametrize("broken", [raising(RuntimeError("no")), spoiling(obs=np.nan)])
def test_fault_in_a_reset_gives_an_empty_episode(broken):
    vector = vector_of()
    env = vector.envs[2]
    reset = env.reset
    env.reset = lambda: (broken(env, lambda a: (reset()[0], 0.0, False), None)[0], {})
    assert [episode.length for episode in play(vector)] == [12, 12, 0]
    assert sum(vector.faults.values()) == 1
    env.reset = reset
    assert [episode.length for episode in play(vector)] == [12, 12, 12]


def test_fault_pays_outstanding_delayed_rewards():
    plain = play(vector_of(step=8, act=raising(ValueError())))
    delayed = play(vector_of(step=8, act=raising(ValueError())), delayed_reward=5)
    rewards = delayed[1].trajectory.rewards
    assert np.flatnonzero(rewards).tolist() == [4, 7]
    assert delayed[1].raw_return == pytest.approx(delayed[1].training_return)
    first = plain[1].trajectory.rewards[:5].sum()
    assert rewards[4] == pytest.approx(first, abs=0.2)


def test_unstable_step_that_raises_does_not_affect_other_environments():
    task = replace(get_task("maze2d-umaze-v1"), horizon=6)

    def explode_and_raise(env, advance, action):
        env.qpos[0] = np.nan
        mujoco.mj_step(env.model, env.data)
        raise ValueError

    vector = vector_of(task, 2, exploding_ball, which=0)
    spoil(vector.envs[1], 3, explode_and_raise)
    assert [episode.length for episode in play(vector, task)] == [2, 3, 6]
    assert vector.faults == {UNSTABLE: 1, "ValueError": 1}


def exploding_ball(env, advance, action):
    env.qpos[0] = np.nan
    return advance(action)


def test_fault_is_no_success_in_antmaze():
    task = replace(get_task("antmaze-umaze-v2"), horizon=5)
    episodes = play(vector_of(task, 3, raising(ValueError())), task)
    assert [episode.length for episode in episodes] == [5, 3, 5]
    metrics = evaluation_metrics(episodes, task)
    assert metrics["evaluation/SR"] == metrics["evaluation/success_rate"] == 0.0
    # the faulty step costs no -1
    assert episodes[1].training_return == -3.0


def test_each_kind_of_fault_is_logged_once(caplog):
    vector = vector_of(step=3, act=raising(ValueError("bad\npose")))
    spoil(vector.envs[0], 5, raising(ValueError("another")))
    spoil(vector.envs[2], 6, exploding)
    play(vector)
    assert vector.faults == {"ValueError": 2, UNSTABLE: 1}
    logged = [r.getMessage() for r in caplog.records if r.name == "d4rl_envs.vector"]
    assert len(logged) == 2
    assert "ValueError: bad pose" in logged[0]
    assert UNSTABLE in logged[1]
    assert all("\n" not in line for line in logged)
    caplog.clear()
    play(vector_of(step=2, act=exploding))
    assert not caplog.records


def test_memory_errors_and_interrupts_are_raised():
    for error in (MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            play(vector_of(step=2, act=raising(error)))


def test_collecting_counts_only_kept_steps_and_gives_up_without_any():
    actor, settings = actor_for(CHEETAH), settings_for(CHEETAH)
    vector = vector_of(step=0, act=raising(ValueError()), which=0)

    def play(done):
        return rollout(actor, vector, settings, 0.0)

    episodes = collect_episodes(play, CHEETAH, 40)
    assert [episode.length for episode in episodes] == [0, 12, 12, 12, 12, 12]
    for env in vector.envs:
        env.advance = lambda action: (np.full(CHEETAH.obs_dim, np.nan), 0.0, False)
    with pytest.raises(UserError, match="10 times in a row"):
        collect_episodes(play, CHEETAH)


@pytest.fixture
def faulty_environments(monkeypatch):
    """Every 7th step of hopper and every 31st of maze2d fails, in one of several ways."""

    def make_faulty(cls, period):
        advance, count = cls.advance, iter(range(10**9))
        acts = [act for act, kind in FAULTS.values() if kind != UNSTABLE]

        def faulty(env, action):
            number = next(count)
            if number % period == 0:
                act = acts[number // period % len(acts)]
                return act(env, lambda a: advance(env, a), action)
            return advance(env, action)

        monkeypatch.setattr(cls, "advance", faulty)

    make_faulty(HopperEnv, 7)
    make_faulty(Maze2dEnv, 31)


PPO = shlex.split("--stoc 1 --use_entropy_reg 0 --num_actor_update_interval 1 --rl_algo PPO")


@pytest.mark.parametrize(
    ("env", "method"), [("hopper-medium-v2", DETERMINISTIC), ("maze2d-umaze-v1", PPO)]
)
@pytest.mark.usefixtures("short_horizons", "faulty_environments")
def test_run_continues_after_faults(data_dir, tmp_path, env, method, caplog):
    caplog.set_level(logging.ERROR)
    flags = [*method, "--max_online_iters", "4", "--eval_interval", "2"]
    flags += ["--minimum_sapairs_per_iter", "40", "--delayed_reward", "3"]
    assert run(data_dir, tmp_path / "run", *flags, env=env) == 0
    rows = metrics_of(tmp_path / "run")
    assert len(rows) == 5
    assert sum(row.get("aug_traj/env_faults", 0) for row in rows) > 0
    assert sum(row.get("evaluation/env_faults", 0) for row in rows) > 0
    assert all(np.isfinite(value) for row in rows for key, value in row.items() if "/" in key)
    assert rows[-1]["total_transitions_sampled"] >= 160


def test_nan_policy_output_stops_the_rollout():
    actor = actor_for(CHEETAH)
    with torch.no_grad():
        actor.embed_state.weight[0, 0] = torch.nan
    vector = vector_of()
    with pytest.raises(UserError, match="lower --learning_rate or --critic_learning_rate"):
        rollout(actor, vector, settings_for(CHEETAH), 0.0)
    assert not vector.faults


@pytest.mark.usefixtures("short_horizons")
def test_run_with_diverged_policy_ends_with_one_line(data_dir, tmp_path, capsys, monkeypatch):
    act = "decision_transformer.DecisionTransformer.act"
    head = torch.full((1, TASKS["maze2d-umaze-v1"].act_dim), torch.nan)

    def diverged(actor, states, *rest):
        return Deterministic(head.expand(len(states), -1))

    monkeypatch.setattr(act, diverged)
    code = run(data_dir, tmp_path / "run", *DETERMINISTIC, "--max_online_iters", "1")
    assert code == EXIT_DIVERGED
    error = capsys.readouterr().err
    assert "training diverged in pretrain iteration 1: policy_output not finite" in error
    assert "lower --learning_rate (it was" in error and error.count("\n") == 1
