"""Rollouts: golden numbers, batches of episodes, delayed rewards, exploration."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import d4rl_envs
from decision_transformer import DecisionTransformer, TransformerSize
from delayedreward import delay_rewards
from evaluation import (
    RolloutSettings,
    collection_metrics,
    evaluation_metrics,
    exploring_action,
    mean_action,
    rollout,
)
from tasks import TASKS
from tests.conftest import golden_file
from tests.golden_weights import SizedTask, golden_policy

# one task of each family
FAMILY_TASKS = {task.family: name for name, task in TASKS.items()}.values()
SMALL = TransformerSize(embed_dim=32, n_layer=2, n_head=2)


class LinearEnvs:
    """x' = x A + a B, reward x'[0] - 0.1 |a|^2, ending after the file's numbers of steps."""

    def __init__(self, data):
        self.a, self.b, self.x0, self.end = data["A"], data["B"], data["x0"], data["end"]
        self.num_envs = len(self.x0)
        self.faulted = np.zeros(self.num_envs, bool)

    def reset(self, indices=None):
        self.x, self.steps = self.x0.copy(), np.zeros(self.num_envs, int)
        return self.x.copy()

    def step(self, actions, indices=None):
        self.x[indices] = self.x[indices] @ self.a + actions @ self.b
        self.steps[indices] += 1
        obs = self.x[indices].copy()
        rewards = obs[:, 0] - 0.1 * (actions**2).sum(-1)
        terminated = self.steps[indices] >= self.end[indices]
        return obs, rewards, terminated, np.zeros(len(indices), bool)

    def success(self):
        return None


def linear_task(data):
    act_dim, obs_dim = data["B"].shape
    return SizedTask(
        "linear", "linear", int(data["max_ep_len"]), 0.0, 1.0, 0, 0.0, "",
        rtg_scale=float(data["reward_scale"]), obs_dim=obs_dim, act_dim=act_dim,
    )  # fmt: skip


@pytest.mark.parametrize("stochastic", [0, 1])
def test_rollout_equals_golden(stochastic):
    data = np.load(golden_file(f"rollout_stoc{stochastic}.npz"))
    task, context = linear_task(data), int(data["eval_context_length"])
    settings = RolloutSettings(task, context, data["state_mean"], data["state_std"])
    actor, target = golden_policy(data), float(data["target_return"])
    episodes = rollout(actor, LinearEnvs(data), settings, target)
    np.testing.assert_allclose([e.training_return for e in episodes], data["returns"], rtol=1e-5)
    assert [e.length for e in episodes] == data["lengths"].tolist()
    for i, episode in enumerate(episodes):
        ours = vars(episode.trajectory)
        for name in ("observations", "actions", "rewards", "terminals"):
            theirs = data[f"traj{i}/{name}"].reshape(ours[name].shape)
            np.testing.assert_allclose(ours[name], theirs, rtol=1e-4, atol=1e-5, err_msg=name)
        # without the last golden next observation, which the reset overwrote
        following = data[f"traj{i}/next_observations"][:-1]
        np.testing.assert_allclose(ours["observations"][1:], following, rtol=1e-4, atol=1e-5)


def settings_for(task, **kwargs):
    mean, std = np.zeros(task.obs_dim), np.ones(task.obs_dim)
    return RolloutSettings(task, 3, mean, std, **kwargs)


def actor_for(task, **kwargs):
    torch.manual_seed(0)
    return DecisionTransformer(task.obs_dim, task.act_dim, SMALL, **kwargs).eval()


def test_episodes_of_a_batch_equal_each_one_alone():
    """An environment whose episode ends does not affect the others."""
    data = dict(np.load(golden_file("rollout_stoc0.npz")))
    task = linear_task(data)
    actor, settings = actor_for(task), settings_for(task)
    together = rollout(actor, LinearEnvs(data), settings, 1.0)
    assert [e.length for e in together] == data["end"].clip(max=task.horizon).tolist()
    for i, episode in enumerate(together):
        one = data | {name: data[name][i : i + 1] for name in ("x0", "end")}
        (alone,) = rollout(actor, LinearEnvs(one), settings, 1.0)
        for name, ours in vars(alone.trajectory).items():
            np.testing.assert_allclose(ours, vars(episode.trajectory)[name], rtol=1e-4, atol=1e-6)


def test_rollouts_are_reproducible_and_differ_from_each_other():
    task = replace(TASKS["maze2d-umaze-v1"], horizon=20)
    actor, settings = actor_for(task), settings_for(task)

    def returns():
        vector = d4rl_envs.make_vector(task, [3, 4])
        first = rollout(actor, vector, settings, 60.0)
        second = rollout(actor, vector, settings, 60.0)
        return [e.trajectory.observations for e in first + second]

    one, two = returns(), returns()
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(one[0], one[2])


def test_delayed_reward_pays_the_same_return():
    task = replace(TASKS["hopper-medium-v2"], horizon=40)
    actor = actor_for(task)
    (plain,) = rollout(actor, d4rl_envs.make_vector(task, [0]), settings_for(task), 0.0)
    delayed_settings = settings_for(task, delayed_reward=5)
    (delayed,) = rollout(actor, d4rl_envs.make_vector(task, [0]), delayed_settings, 0.0)
    rewards = delayed.trajectory.rewards
    assert not rewards[:4].any()
    first = plain.trajectory.rewards[:5].sum()
    assert rewards[4] == pytest.approx(first, abs=0.05)
    assert delayed.raw_return == pytest.approx(delayed.training_return)


@pytest.mark.parametrize("name", FAMILY_TASKS)
def test_environments_delay_rewards_like_datasets(name):
    """In each family: transform, then pay every 7 steps and at the end of the episode."""
    task = replace(TASKS[name], horizon=30)
    rng = np.random.default_rng(0)
    actions = torch.tensor(rng.uniform(-1, 1, (30, 2, task.act_dim)), dtype=torch.float32)

    def play(**kwargs):
        step = iter(actions)
        vector = d4rl_envs.make_vector(task, [0, 1])
        return rollout(
            actor_for(task), vector, settings_for(task, **kwargs), 0.0,
            lambda policy: (next(step)[: len(policy.mean)], None),
        )  # fmt: skip

    for plain, delayed in zip(play(), play(delayed_reward=7), strict=True):
        rewards = plain.trajectory.rewards
        expected = delay_rewards(rewards, np.array([len(rewards)]), 7)
        np.testing.assert_allclose(delayed.trajectory.rewards, expected, atol=1e-9)
        np.testing.assert_array_equal(delayed.trajectory.actions, plain.trajectory.actions)


def test_metrics_separate_training_return_and_score():
    task = replace(TASKS["hopper-medium-v2"], horizon=30)
    episodes = rollout(
        actor_for(task), d4rl_envs.make_vector(task, [0, 1]), settings_for(task), 0.0
    )
    metrics = evaluation_metrics(episodes, task)
    raw = float(np.mean([episode.raw_return for episode in episodes]))
    assert metrics["evaluation/raw_return_mean"] == pytest.approx(raw)
    assert metrics["evaluation/normalized_score"] == pytest.approx(task.normalized_score(raw))
    assert metrics["evaluation/return_mean_gm"] == pytest.approx(raw)
    assert "evaluation/SR" not in metrics
    assert set(collection_metrics(episodes, task)) == {
        "aug_traj/return",
        "aug_traj/length",
        "aug_traj/raw_return",
        "aug_traj/normalized_score",
        "aug_traj/env_faults",
    }


def test_exploration_adds_noise_or_samples():
    task = TASKS["maze2d-umaze-v1"]
    noise = torch.ones
    batch = [torch.zeros(4, 1, 4), torch.zeros(4, 1, 2), torch.zeros(4, 1, 1)]
    batch.append(torch.zeros(4, 1, dtype=torch.int64))
    plain = actor_for(task).act(*batch)
    torch.testing.assert_close(exploring_action(plain, noise, 0.25)[0], plain.mean + 0.25)
    assert exploring_action(plain, noise, 50.0)[0].max() < 1.0
    stochastic = actor_for(task, stochastic=True).act(*batch)
    sample, log_prob = exploring_action(stochastic, noise, 0.25)
    torch.testing.assert_close(sample, (stochastic.loc + stochastic.std).tanh())
    torch.testing.assert_close(log_prob, stochastic.log_prob(sample), rtol=1e-3, atol=1e-3)
    assert torch.equal(mean_action(stochastic)[0], stochastic.mean)
