"""Acting in several environments with one graph launch and one wait per step."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fast_gpu.graph import Graph
from tasks import Task
from trajectories import MAX_TIMESTEPS

# policy output -> actions (n, act_dim) and, if sampled, their log-likelihoods (n,)
Choose = Callable[[Any], tuple[Tensor, Tensor | None]]


class Settings(Protocol):
    """What acting needs of a rollout's settings."""

    @property
    def task(self) -> Task: ...

    @property
    def context_length(self) -> int: ...

    @property
    def state_mean(self) -> np.ndarray: ...

    @property
    def state_std(self) -> np.ndarray: ...


class GraphedActing:
    """The recent steps of n episodes on the GPU, and a policy that acts on them.

    Each step has the same shapes: histories are left-padded to the context length, and the policy
    also acts in episodes that have ended.

    Args:
        actor: (states, actions, rtg, timesteps, mask) -> the policy output for all steps.
        choose: Policy output -> actions (n, act_dim) and log-likelihoods (n,) or None.
        settings: Context length, moments for normalising observations, and the task.
        num_envs: n.
    """

    def __init__(
        self,
        actor: nn.Module,
        choose: Choose,
        settings: Settings,
        num_envs: int,
    ) -> None:
        device, act_dim = next(actor.parameters()).device, settings.task.act_dim
        moments = settings.state_mean, settings.state_std
        self._actor, self._choose = actor, choose
        self._mean, self._std = (
            torch.as_tensor(x, dtype=torch.float32, device=device) for x in moments
        )
        size, obs_dim = (num_envs, settings.context_length), len(settings.state_mean)
        self._states = torch.zeros(*size, obs_dim, device=device)
        self._actions = torch.zeros(*size, act_dim, device=device)
        self._rtg = torch.zeros(*size, 1, device=device)
        self._timesteps = torch.zeros(size, dtype=torch.int64, device=device)
        self._mask = torch.zeros(size, dtype=torch.bool, device=device)
        # observation and return-to-go; action and log-likelihood
        self._input = torch.zeros(num_envs, obs_dim + 1, device=device)
        self._output = torch.zeros(num_envs, act_dim + 1, device=device)
        self._host_input = torch.zeros(self._input.shape, pin_memory=device.type == "cuda")
        self._host_output = torch.zeros(self._output.shape, pin_memory=device.type == "cuda")
        self._graph = Graph(self._act, "acting")

    def reset(self) -> None:
        """Begin new episodes."""
        for x in (self._states, self._actions, self._rtg, self._timesteps, self._mask):
            x.zero_()

    def step(
        self, running: np.ndarray, obs: np.ndarray, rtg: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions (k, act_dim) of the running episodes, and their log-likelihoods (k,) or 0.

        Args:
            running: (k,) indices of the running episodes.
            obs: (k, obs_dim) their observations.
            rtg: (k,) their scaled returns-to-go.
        """
        given = self._host_input.numpy()
        given[running, :-1] = obs
        given[running, -1] = rtg
        self._graph()
        torch.cuda.current_stream().synchronize()
        out = self._host_output.numpy()[running]
        return out[:, :-1], out[:, -1]

    def _act(self) -> None:
        self._input.copy_(self._host_input, non_blocking=True)
        states = (self._input[:, :-1] - self._mean) / self._std
        # 0 at the first step
        time = (self._timesteps[:, -1] + self._mask[:, -1]).clamp(max=MAX_TIMESTEPS - 1)
        histories = self._states, self._actions, self._rtg, self._timesteps, self._mask
        for history in histories:
            history[:, :-1] = history[:, 1:].clone()
        self._states[:, -1] = states
        self._actions[:, -1] = 0.0
        self._rtg[:, -1] = self._input[:, -1:]
        self._timesteps[:, -1] = time
        self._mask[:, -1] = True
        # not compiled: with --compile 1 that would take a minute for each kind of rollout
        policy = self._actor.forward(*histories)
        action, log_prob = self._choose(policy.last_step())
        self._actions[:, -1] = action
        self._output[:, :-1] = action
        if log_prob is not None:
            self._output[:, -1] = log_prob
        self._host_output.copy_(self._output, non_blocking=True)


Graphs = dict[tuple[Hashable, ...], GraphedActing]


def graphed_acting(
    graphs: Graphs, actor: nn.Module, choose: Choose, settings: Settings, num_envs: int
) -> GraphedActing:
    """A `GraphedActing` for new episodes, captured once for all rollouts of the same kind.

    Args:
        graphs: Those captured so far, with the same settings.
        actor: The policy, the same object in each rollout. Its weights may change in place.
        choose, settings, num_envs: See `GraphedActing`; the same objects in each rollout.
    """
    key = actor, choose, num_envs, actor.training
    if key not in graphs:
        graphs[key] = GraphedActing(actor, choose, settings, num_envs)
    graphs[key].reset()
    return graphs[key]
