"""Vectorised rollouts of a policy, for evaluation and data collection, and their metrics.

Histories of all episodes are kept in preallocated arrays on the policy's device, and each
observation is normalised once. At each step the policy receives the recent, unpadded history of the
environments that are still running. As a CUDA graph (fast_gpu/acting.py) it receives the padded
history of all environments, which gives the same actions up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from decision_transformer import Actor, Deterministic, Noise, PolicyOutput
from delayedreward import RewardDelayer
from fast_gpu.acting import GraphedActing, Graphs, graphed_acting
from tasks import Task
from trajectories import MAX_TIMESTEPS, Trajectory, clamp_action
from utils import UserError

SCORE, RETURN = "evaluation/normalized_score", "evaluation/raw_return_mean"
# consecutive rollouts without a single step after which collection gives up
_MOST_FRUITLESS = 10


class ActingPolicy(Protocol):
    """The interface of a policy in a rollout."""

    def act(
        self, states: Tensor, actions: Tensor, rtg: Tensor, timesteps: Tensor
    ) -> PolicyOutput: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


class Environments(Protocol):
    """The interface of `d4rl_envs.vector.EnvVector` in a rollout."""

    num_envs: int
    faulted: np.ndarray
    steps: np.ndarray

    def reset(self, indices: np.ndarray | None = None) -> np.ndarray: ...

    def step(
        self, actions: np.ndarray, indices: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...

    def success(self) -> np.ndarray | None: ...


@dataclass(frozen=True)
class RolloutSettings:
    """How the policy acts.

    Attributes:
        task: Provides the reward transform, the return-to-go scale and the horizon.
        context_length: Steps of history given to the policy.
        state_mean, state_std: (obs_dim,) for normalising observations.
        delayed_reward: Rewards are paid every M steps; 0 for every step.
        cuda_graphs: Graphs captured so far, for acting on a GPU; None acts without them.
    """

    task: Task
    context_length: int
    state_mean: np.ndarray
    state_std: np.ndarray
    delayed_reward: int = 0
    cuda_graphs: Graphs | None = None


@dataclass
class Episode:
    """One finished episode.

    Attributes:
        trajectory: Observations, actions and rewards. The last step is marked terminal even at the
            time limit, as in the published runs.
        raw_return: Sum of the environment's raw rewards.
        reached_horizon: Whether it lasted to the time limit.
        success: By the criterion of the family; None if it has none.
        faulted: Whether an environment fault ended it; the trajectory ends before the faulty step
            and may be empty.
        log_probs: (T,) log-likelihood of the actions under a stochastic policy, 0 otherwise.
    """

    trajectory: Trajectory
    raw_return: float
    reached_horizon: bool
    success: bool | None
    faulted: bool
    log_probs: np.ndarray

    @property
    def training_return(self) -> float:
        """Sum of the training rewards."""
        return float(self.trajectory.rewards.sum())

    @property
    def length(self) -> int:
        return len(self.trajectory.rewards)


# policy output -> actions (k, act_dim) and, if sampled, their log-likelihoods (k,)
ChooseAction = Callable[[PolicyOutput], tuple[Tensor, Tensor | None]]


def mean_action(policy: PolicyOutput) -> tuple[Tensor, None]:
    """The action used in evaluation."""
    return clamp_action(policy.mean), None


def exploring_action(
    policy: PolicyOutput, noise: Noise, std: float
) -> tuple[Tensor, Tensor | None]:
    """The action used in collection: deterministic plus Gaussian noise, or a sample."""
    if isinstance(policy, Deterministic):
        return clamp_action(policy.mean + std * noise(policy.mean.shape)), None
    action, log_prob = policy.sample_with_log_prob(noise)
    return clamp_action(action), log_prob


class _Acting:
    """The steps of n episodes so far, in preallocated arrays, and a policy that acts on them."""

    def __init__(
        self, actor: ActingPolicy, choose: ChooseAction, settings: RolloutSettings, num_envs: int
    ) -> None:
        task, size = settings.task, (num_envs, settings.task.horizon)
        device = next(actor.parameters()).device
        self._actor, self._choose, self._device = actor, choose, device
        self._mean = torch.as_tensor(settings.state_mean, dtype=torch.float32, device=device)
        self._std = torch.as_tensor(settings.state_std, dtype=torch.float32, device=device)
        self._states = torch.empty(*size, task.obs_dim, device=device)
        self._actions = torch.zeros(*size, task.act_dim, device=device)
        self._rtg = torch.empty(*size, 1, device=device)
        self._timesteps = torch.arange(task.horizon, device=device).clamp(max=MAX_TIMESTEPS - 1)
        self._context_length = settings.context_length
        self._t = 0

    def step(
        self, running: np.ndarray, obs: np.ndarray, rtg: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions (k, act_dim) of the running episodes, and their log-likelihoods (k,) or 0.

        Args:
            running: (k,) indices of the running episodes.
            obs: (k, obs_dim) their observations.
            rtg: (k,) their scaled returns-to-go.
        """
        index, t = torch.as_tensor(running, device=self._device), self._t
        states = torch.as_tensor(obs, dtype=torch.float32, device=self._device)
        self._states[index, t] = (states - self._mean) / self._std
        self._rtg[index, t, 0] = torch.as_tensor(rtg, dtype=torch.float32, device=self._device)
        steps = slice(max(0, t + 1 - self._context_length), t + 1)
        states, actions, rtgs = (x[index, steps] for x in (self._states, self._actions, self._rtg))
        timesteps = self._timesteps[steps].expand(len(index), -1)
        action, log_prob = self._choose(self._actor.act(states, actions, rtgs, timesteps))
        self._actions[index, t] = action
        self._t += 1
        chosen = action.cpu().numpy()
        return chosen, np.zeros(len(chosen)) if log_prob is None else log_prob.cpu().numpy()


def _acting(
    actor: ActingPolicy, choose: ChooseAction, settings: RolloutSettings, num_envs: int
) -> _Acting | GraphedActing:
    """What acts in a rollout: a CUDA graph for a plain policy on a GPU."""
    graphs, on_gpu = settings.cuda_graphs, next(actor.parameters()).is_cuda
    if graphs is not None and on_gpu and isinstance(actor, Actor):
        return graphed_acting(graphs, actor, choose, settings, num_envs)
    return _Acting(actor, choose, settings, num_envs)


class _Records:
    """Preallocated raw data of n episodes, as NumPy arrays in the environment's units."""

    def __init__(self, task: Task, num_envs: int) -> None:
        size = (num_envs, task.horizon)
        self.observations = np.empty((*size, task.obs_dim), np.float32)
        self.finals = np.zeros((num_envs, task.obs_dim), np.float32)
        self.actions = np.empty((*size, task.act_dim), np.float32)
        self.rewards = np.zeros(size)
        self.log_probs = np.zeros(size)
        self.raw_returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)

    def write_step(
        self, t: int, running: np.ndarray, obs: np.ndarray, raw: np.ndarray, rewards: np.ndarray
    ) -> None:
        """Results of action t in the running episodes: observations, raw and training rewards."""
        self.rewards[running, t] = rewards
        self.raw_returns[running] += raw
        self.lengths[running] = t + 1
        self.finals[running] = obs

    def trajectory(self, i: int) -> Trajectory:
        length = self.lengths[i]
        terminals = np.zeros(length, bool)
        terminals[-1:] = True
        return Trajectory(
            self.observations[i, :length].copy(),
            self.finals[i].copy(),
            self.actions[i, :length].copy(),
            self.rewards[i, :length].copy(),
            terminals,
        )

    def episodes(self, envs: Environments) -> list[Episode]:
        """What happened in each environment."""
        success = envs.success()
        horizon = self.rewards.shape[1]
        return [
            Episode(
                self.trajectory(i),
                float(self.raw_returns[i]),
                bool(length == horizon),
                None if success is None else bool(success[i]),
                bool(envs.faulted[i]),
                self.log_probs[i, :length].copy(),
            )
            for i, length in enumerate(self.lengths)
        ]


@torch.inference_mode()
def rollout(
    actor: ActingPolicy,
    envs: Environments,
    settings: RolloutSettings,
    target_return: float,
    choose_action: ChooseAction = mean_action,
    after_step: Callable[[], object] = lambda: None,
) -> list[Episode]:
    """Run one full episode in each environment.

    Args:
        actor: The policy, already in training or evaluation mode (dropout on or off).
        envs: n environments; they are reset first.
        settings: How the policy acts.
        target_return: Target return in training rewards; return-to-go starts at target x scale
            and decreases by reward x scale at each step.
        choose_action: Maps the policy output to actions inside (-1, 1).
        after_step: Called after each environment step.

    Returns:
        n episodes, in the order of the environments.

    Raises:
        DivergedPolicy: an action is NaN.
    """
    task, n = settings.task, envs.num_envs
    acting, records = _acting(actor, choose_action, settings, n), _Records(task, n)
    delayer = RewardDelayer(n, settings.delayed_reward)
    scale = task.rtg_scale
    rtg = np.full(n, target_return * scale)
    obs = envs.reset()
    running = np.flatnonzero(~envs.faulted)
    obs = obs[running]
    for t in range(task.horizon):
        if len(running) == 0:
            break
        records.observations[running, t] = obs
        actions, log_probs = acting.step(running, obs, rtg[running])
        _check_actions(actions)
        records.actions[running, t] = actions
        records.log_probs[running, t] = log_probs

        obs, raw, terminated, truncated = envs.step(actions, running)
        after_step()
        done = terminated | truncated | (t + 1 == task.horizon)
        good = ~envs.faulted[running]
        rewards = delayer.step(np.where(good, task.training_reward(raw), 0.0), done, running)
        records.write_step(t, running[good], obs[good], raw[good], rewards[good])
        # the faulty step is dropped, so its delayed rewards are paid one step earlier
        records.rewards[running[~good], max(t - 1, 0)] += rewards[~good]
        rtg[running] -= rewards * scale
        running, obs = running[~done], obs[~done]
    return records.episodes(envs)


def collect_episodes(
    play: Callable[[list[Episode]], list[Episode]], task: Task, minimum_steps: int = 0
) -> list[Episode]:
    """Play until the episodes have at least `minimum_steps` steps (and at least one).

    Args:
        play: Plays the next episodes, given the episodes so far.
        task: Their task, for an error message.
        minimum_steps: Steps to collect.

    Raises:
        UserError: environment faults leave no steps.
    """
    episodes: list[Episode] = []
    steps = fruitless = 0
    while steps < max(minimum_steps, 1):
        new = play(episodes)
        gained = sum(episode.length for episode in new)
        fruitless = 0 if gained else fruitless + 1
        if fruitless == _MOST_FRUITLESS:
            raise UserError(
                f"{task.name}: all environments failed before their first step "
                f"{fruitless} times in a row; the first failure is logged above"
            )
        episodes += new
        steps += gained
    return episodes


class DivergedPolicy(UserError):
    """The output of the policy is NaN."""


def _check_actions(actions: np.ndarray) -> None:
    if np.isnan(actions).any():
        raise DivergedPolicy(
            "the policy output is NaN: training has diverged; restart with a lower "
            "--learning_rate or --critic_learning_rate"
        )


def evaluation_metrics(episodes: list[Episode], task: Task) -> dict[str, float]:
    """Means over evaluation episodes, by their names in docs/METRICS.md."""
    returns = np.array([episode.training_return for episode in episodes])
    lengths = np.array([episode.length for episode in episodes])
    metrics = {
        "evaluation/return_mean_gm": returns.mean(),
        "evaluation/return_std_gm": returns.std(),
        "evaluation/length_mean_gm": lengths.mean(),
        "evaluation/length_std_gm": lengths.std(),
        **_raw_metrics(episodes, task, "evaluation", "raw_return_mean"),
    }
    if len(episodes) > 1:
        raw = np.array([episode.raw_return for episode in episodes])
        name, values = (SCORE, task.normalized_score(raw)) if task.scored else (RETURN, raw)
        metrics[f"{name}_se"] = values.std(ddof=1) / np.sqrt(len(values))
    if task.family == "antmaze":
        metrics["evaluation/SR"] = sum(
            not (episode.reached_horizon or episode.faulted) for episode in episodes
        )
    successes = [episode.success for episode in episodes]
    if any(success is not None for success in successes):
        metrics["evaluation/success_rate"] = np.mean([bool(success) for success in successes])
    return {name: float(value) for name, value in metrics.items()}


def collection_metrics(episodes: list[Episode], task: Task) -> dict[str, float]:
    """Means over collected episodes, by their names in docs/METRICS.md."""
    return {
        "aug_traj/return": float(np.mean([e.training_return for e in episodes])),
        "aug_traj/length": float(np.mean([e.length for e in episodes])),
        **_raw_metrics(episodes, task, "aug_traj", "raw_return"),
    }


def _raw_metrics(episodes: list[Episode], task: Task, kind: str, name: str) -> dict[str, float]:
    raw = float(np.mean([episode.raw_return for episode in episodes]))
    score = {f"{kind}/normalized_score": task.normalized_score(raw)} if task.scored else {}
    faults = float(sum(episode.faulted for episode in episodes))
    return {f"{kind}/{name}": raw, **score, f"{kind}/env_faults": faults}


def headline(metrics: Mapping[str, Any]) -> tuple[str, float]:
    """Name and value of the metric that evaluations are compared by; -inf without an evaluation.

    The normalised score, or the raw return of a task without reference scores.
    """
    name = SCORE if SCORE in metrics else RETURN
    return name, float(metrics.get(name, -math.inf))
