"""The online buffer of PPO and AWR: the newest trajectories with TD(lambda) returns."""

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

# sub-trajectories per forward when all values are computed
_SWEEP_BATCH = 2048


class OnlineBuffer:
    """A window of the replay buffer's rows, and numbers of its own for each of them.

    Args:
        buffer: Where the trajectories lie.
        algorithm: Says how large the window is and how returns are made.
        batch_size: B.
        steps: K.

    Attributes:
        critic_first: Whether all critic updates of an iteration come before the actor's.
    """

    def __init__(
        self, buffer: ReplayBuffer, algorithm: OnPolicyGradient, batch_size: int, steps: int
    ) -> None:
        self._buffer, self._algorithm = buffer, algorithm
        self._batch_size, self._steps = batch_size, steps
        self.critic_first = algorithm.critic_first
        buffer.keep_transitions = algorithm.buffer_size
        self._rows = range(0)
        self._log_probs = self._returns = self._advantages = torch.empty(0)
        self._old_actor: Actor | None = None

    def start_iteration(self, episodes: Sequence[Episode], actor: Actor) -> None:
        """Set the window after these episodes were added to the replay buffer.

        Args:
            episodes: What this iteration collected.
            actor: The policy at the iteration's start; a copy is kept where the algorithm
                compares with it.
        """
        size = self._algorithm.buffer_size
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
        """The window, as its length, and its numbers: for an iteration that goes on later."""
        old = self._old_actor
        return {
            "length": len(self._rows),
            "log_probs": self._log_probs,
            "returns": self._returns,
            "advantages": self._advantages,
            "old_actor": None if old is None else old.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], actor: Actor) -> None:
        """Restore `state_dict()` after the replay buffer.

        Args:
            state: What `state_dict` returned.
            actor: Any policy of the right shape.
        """
        device = self._buffer.device
        end = self._buffer.newest_rows().stop
        self._rows = range(end - state["length"], end)
        self._log_probs = state["log_probs"].to(device)
        self._returns = state["returns"].to(device)
        self._advantages = state["advantages"].to(device)
        if state["old_actor"] is not None:
            self._old_actor = copy.deepcopy(actor).eval()
            self._old_actor.load_state_dict(state["old_actor"])

    @torch.no_grad()
    def refresh(self, critic: Critic) -> None:
        """New returns and advantages, by the critic as it is now."""
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
        """Draw sub-trajectories from the window, as the replay buffer does."""
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
        """What the policy at the iteration's start says of the batch, in the same contexts."""
        if self._old_actor is None:
            raise RuntimeError("no policy was kept")
        policy = self._old_actor(
            batch.states, batch.actions, batch.rtg[:, :-1], batch.timesteps, batch.mask
        )
        return log_likelihood(policy, batch.actions)

    def _sweep(self) -> Iterator[Batch]:
        """Every row of the window once, in sub-trajectories of up to K steps."""
        last = self._buffer.last_rows(self._rows)
        first = np.concatenate([[self._rows.start], last[:-1] + 1])
        counts = (last - first) // self._steps + 1
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(first, counts) + number * self._steps
        for i in range(0, len(starts), _SWEEP_BATCH):
            rows = torch.as_tensor(starts[i : i + _SWEEP_BATCH], device=self._buffer.device)
            yield self._buffer.gather(rows, self._steps)
