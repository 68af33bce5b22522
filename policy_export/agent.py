"""A policy to step through an environment of your own: it keeps history and return-to-go.

from policy_export import load

policy = load("hopper-policy")
policy.reset(target_return=3600)
action = policy.act(observation)
policy.observe(reward)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from delayedreward import RewardDelayer
from evaluation import mean_action
from policy_export.policy import Policy, open_policy
from trajectories import MAX_TIMESTEPS
from utils import UserError


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    *,
    context_length: int | None = None,
    best: bool = False,
) -> Agent:
    """Load a policy that acts, from an exported policy or from a run.

    Args:
        path: Folder of an exported policy or of a run.
        device: Device of the network.
        context_length: Steps of history the policy sees; by default as in the run's evaluations.
        best: With a run: its best evaluation's policy instead of the newest checkpoint's.

    Raises:
        UserError: the folder is neither, a file in it is damaged, or training used no context of
            this length.
    """
    return Agent(open_policy(Path(path).expanduser(), device, best), context_length)


class Agent:
    """Acts as in the run's evaluations, in one environment or in a batch of environments.

    Observations, rewards and actions are those of the environment: normalisation, reward transform,
    return-to-go and history are internal. In each step, call `act`, then `observe`.

    Args:
        policy: The policy.
        context_length: Steps of history it sees; by default as in the run's evaluations.

    Attributes:
        policy: The policy.
        return_to_go: (N,) current return-to-go, in training rewards.
        timestep: (N,) steps since the start of each episode.

    Raises:
        UserError: training used no context of this length.
    """

    def __init__(self, policy: Policy, context_length: int | None = None) -> None:
        self.policy, self._settings = policy, policy.rollout_settings(context_length)
        self._device = next(policy.actor.parameters()).device
        self._mean, self._std = (
            torch.as_tensor(x, dtype=torch.float32, device=self._device)
            for x in (policy.state_mean, policy.state_std)
        )
        # "act" or "observe"; "" before the first reset
        self._next = ""

    def reset(self, target_return: ArrayLike | None = None, *, num_envs: int | None = None) -> None:
        """Start new episodes.

        Args:
            target_return: In training rewards; one for each environment if it is an array. By
                default that of the run's evaluations.
            num_envs: Number of environments. Without it, and with a single target return,
                observations and actions are those of one environment, without a batch dimension.

        Raises:
            UserError: a target return is not finite, or their number is not `num_envs`.
        """
        target = self.policy.settings.eval_rtg if target_return is None else target_return
        targets = np.asarray(target, np.float64)
        self._batched = targets.ndim > 0 or num_envs is not None
        n = num_envs if num_envs is not None else targets.size
        if targets.ndim > 1 or targets.size not in (1, n) or n < 1:
            raise UserError(
                f"{targets.size} target returns for {n} environments; pass one for each"
            )
        if not np.isfinite(targets).all():
            raise UserError(f"target return {target}: not finite")
        task, steps = self.policy.task, self._settings.context_length
        self._targets = np.broadcast_to(targets, n)
        # the return-to-go that the network sees, as in `evaluation.rollout`
        self._rtg = self._targets * task.rtg_scale
        self.timestep = np.zeros(n, np.int64)
        self._delayer = RewardDelayer(n, self._settings.delayed_reward)
        self._states = torch.zeros(n, steps, task.obs_dim, device=self._device)
        self._actions = torch.zeros(n, steps, task.act_dim, device=self._device)
        self._rtgs = torch.zeros(n, steps, 1, device=self._device)
        self._next = "act"

    @property
    def return_to_go(self) -> np.ndarray:
        return self._rtg / self.policy.task.rtg_scale

    @torch.inference_mode()
    def act(self, observation: ArrayLike) -> np.ndarray:
        """The policy's mean action, (act_dim,) or (N, act_dim), within [-1, 1].

        Args:
            observation: (obs_dim,), or (N, obs_dim) of N environments.

        Raises:
            UserError: the observation has another shape or is not finite, or `reset` or `observe`
                has to be called first.
        """
        self._expect("act")
        obs = self._checked("observation", observation, (self.policy.task.obs_dim,))
        states = torch.as_tensor(obs, dtype=torch.float32, device=self._device)
        rtg = torch.as_tensor(self._rtg, dtype=torch.float32, device=self._device)
        new = (
            (states - self._mean) / self._std,
            torch.zeros_like(self._actions[:, -1]),
            rtg[:, None],
        )
        histories = (self._states, self._actions, self._rtgs)
        for history, last in zip(histories, new, strict=True):
            history.copy_(history.roll(-1, dims=1))
            history[:, -1] = last
        lengths = np.minimum(self.timestep + 1, self._settings.context_length)
        # episodes with the same number of steps in their history go through the network together
        for length in np.unique(lengths):
            index = np.flatnonzero(lengths == length)
            times = self.timestep[index, None] + np.arange(1 - length, 1)
            timesteps = torch.as_tensor(times.clip(max=MAX_TIMESTEPS - 1), device=self._device)
            rows = torch.as_tensor(index, device=self._device)
            past, taken, wanted = (history[rows, -int(length) :] for history in histories)
            output = self.policy.actor.act(past, taken, wanted, timesteps)
            self._actions[rows, -1] = mean_action(output)[0]
        self._next = "observe"
        actions = self._actions[:, -1].cpu().numpy().copy()
        return actions if self._batched else actions[0]

    def observe(self, reward: ArrayLike, done: ArrayLike = False) -> None:
        """Tell the policy the result of its action.

        Args:
            reward: The environment's own reward, a number or (N,).
            done: Whether the episode ended (terminated or truncated), bool or (N,). Those
                environments start a new episode with the same target return, so the next
                observation has to be the first one after their reset.

        Raises:
            UserError: the reward has another shape or is not finite, or `act` has to be called
                first.
        """
        self._expect("observe")
        raw = self._checked("reward", reward, ())
        ended = np.broadcast_to(np.asarray(done, bool), raw.shape)
        task = self.policy.task
        self._rtg = (
            self._rtg - self._delayer.step(task.training_reward(raw), ended) * task.rtg_scale
        )
        self.timestep = np.where(ended, 0, self.timestep + 1)
        self._rtg = np.where(ended, self._targets * task.rtg_scale, self._rtg)
        self._next = "act"

    def _expect(self, call: str) -> None:
        if self._next != call:
            raise UserError(f"{call}() out of turn: call {self._next or 'reset'}() first")

    def _checked(self, name: str, values: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
        """The values as (N, *shape) float64, without NaN and infinity."""
        array = np.asarray(values, np.float64)
        expected = (len(self.timestep), *shape) if self._batched else shape
        if array.shape != expected:
            raise UserError(f"{name} of shape {array.shape}: expected {expected}")
        if not np.isfinite(array).all():
            raise UserError(f"{name} is NaN or infinite")
        return array if self._batched else array[None]
