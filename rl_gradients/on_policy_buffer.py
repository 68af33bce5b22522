"""The on-policy buffer of PPO and AWR: the newest trajectories with their TD(lambda) returns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from critic import Critic
from decision_transformer import Actor
from evaluation import Episode
from replay_buffer import ReplayBuffer
from rl_gradients.common import log_likelihood
from rl_gradients.on_policy import OnlineBatch, OnPolicyGradient, td_lambda_returns
from trajectories import Batch

# sub-trajectories per forward pass when values are recomputed
_SWEEP_BATCH = 2048


class OnPolicyBuffer:
    """A window of the replay buffer's newest rows, with returns, advantages and log-probabilities.

    Args:
        buffer: Storage of the trajectories.
        algorithm: Determines the size of the window and the returns.
        batch_size: B.
        steps: K.

    Attributes:
        critic_first: Whether all critic updates of an iteration precede the actor updates.
    """

    def __init__(
        self, buffer: ReplayBuffer, algorithm: OnPolicyGradient, batch_size: int, steps: int
    ) -> None:
        self._buffer, self._algorithm = buffer, algorithm
        self._batch_size, self._steps = batch_size, steps
        self.critic_first = algorithm.critic_first
        self._rows = range(0)
        self._log_probs = self._returns = self._advantages = torch.empty(0)
        self._old_actor: Actor | None = None

    def add(self, episodes: Sequence[Episode], actor: Actor) -> None:
        """Add the episodes of an iteration to the replay buffer and move the window to them.

        They stay in storage for the iteration even if the replay buffer is smaller than that.

        Args:
            episodes: The episodes collected in this iteration.
            actor: The policy at the start of the iteration, copied if the algorithm needs it.
        """
        size = self._algorithm.buffer_size
        collected = sum(episode.length for episode in episodes)
        self._buffer.keep_transitions = max(size, collected)
        for episode in episodes:
            self._buffer.add(episode.trajectory)
        newest = {"transitions": size} if size else {"trajectories": len(episodes)}
        self._rows = self._buffer.newest_rows(**newest)
        log_probs = np.concatenate([episode.log_probs for episode in episodes])
        device = self._buffer.device
        self._log_probs = torch.zeros(len(self._rows), device=device)
        new = torch.as_tensor(log_probs, dtype=torch.float32, device=device)[-len(self._rows) :]
        self._log_probs[len(self._rows) - len(new) :] = new
        if self._algorithm.compares_to_old_policy:
            self._old_actor = copy.deepcopy(actor).eval()

    def state_dict(self) -> dict[str, Any]:
        """Length of the window and its data, to resume within an iteration."""
        old = self._old_actor
        return {
            "length": len(self._rows),
            "log_probs": self._log_probs,
            "returns": self._returns,
            "advantages": self._advantages,
            "old_actor": None if old is None else old.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], actor: Actor) -> None:
        """Restore `state_dict()`, after the replay buffer is restored.

        Args:
            state: What `state_dict` returned.
            actor: A policy of the same shape.
        """
        device = self._buffer.device
        end = self._buffer.newest_rows().stop
        self._rows = range(end - state["length"], end)
        self._buffer.keep_transitions = max(self._algorithm.buffer_size, state["length"])
        self._log_probs = state["log_probs"].to(device)
        self._returns = state["returns"].to(device)
        self._advantages = state["advantages"].to(device)
        if state["old_actor"] is not None:
            self._old_actor = copy.deepcopy(actor).eval()
            self._old_actor.load_state_dict(state["old_actor"])

    @torch.no_grad()
    def refresh(self, critic: Critic) -> None:
        """Recompute returns and advantages with the current critic."""
        device, low = self._buffer.device, self._rows.start
        columns = {
            name: torch.zeros(len(self._rows), device=device)
            for name in ("rewards", "terminals", "last", "values", "next_values")
        }
        for batch in self._sweep():
            where = (batch.rows - low)[batch.mask]
            columns["rewards"][where] = batch.rewards[batch.mask]
            columns["terminals"][where] = batch.dones[batch.mask]
            columns["values"][where] = critic.v(batch.states)[batch.mask]
            columns["next_values"][where] = critic.v(batch.next_states)[batch.mask]
        last = torch.as_tensor(self._buffer.last_rows(self._rows), device=device)
        columns["last"][last - low] = 1.0
        self._returns = td_lambda_returns(
            columns["rewards"],
            columns["terminals"].bool(),
            columns["next_values"],
            columns["last"].bool(),
            self._algorithm.gamma,
            self._algorithm.td_lambda,
        )
        self._advantages = self._returns - columns["values"]
        if self._algorithm.normalizes_advantages:
            spread = self._advantages.std(correction=0) + 1e-5
            self._advantages = (self._advantages - self._advantages.mean()) / spread

    def sample(self) -> OnlineBatch:
        """Sample sub-trajectories from the window, as the replay buffer does."""
        size = (self._batch_size,)
        device = self._buffer.device
        rows = torch.randint(self._rows.start, self._rows.stop, size, device=device)
        batch = self._buffer.gather(rows, self._steps)
        where = (batch.rows - self._rows.start).clamp(min=0)
        log_probs = self._log_probs[where]
        if self._old_actor is not None:
            log_probs = self._recomputed(batch)
        return OnlineBatch(
            **vars(batch),
            returns=self._returns[where],
            advantages=self._advantages[where],
            log_probs=log_probs,
        )

    @torch.no_grad()
    def _recomputed(self, batch: Batch) -> Tensor:
        """Log-likelihood of the batch under the policy as of the start of the iteration."""
        if self._old_actor is None:
            raise RuntimeError("the old policy was not stored")
        policy = self._old_actor(
            batch.states, batch.actions, batch.rtg[:, :-1], batch.timesteps, batch.mask
        )
        return log_likelihood(policy, batch.actions)

    def _sweep(self) -> Iterator[Batch]:
        """All rows of the window, each once, as sub-trajectories of up to K steps."""
        last = self._buffer.last_rows(self._rows)
        first = np.concatenate([[self._rows.start], last[:-1] + 1])
        counts = (last - first) // self._steps + 1
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(first, counts) + number * self._steps
        for i in range(0, len(starts), _SWEEP_BATCH):
            rows = torch.as_tensor(starts[i : i + _SWEEP_BATCH], device=self._buffer.device)
            yield self._buffer.gather(rows, self._steps)
