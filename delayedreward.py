"""Delayed rewards: each block of M steps pays the sum of its rewards at its last step.

Blocks start with the episode; its last block, possibly shorter, pays when the episode terminates or
is truncated. Returns do not change. Source: the delayed-reward experiments in section 4 of Yan,
Schwing, Wang 2024, arXiv 2410.24108.
"""

from __future__ import annotations

import numpy as np


def delay_rewards(rewards: np.ndarray, lengths: np.ndarray, delay: int) -> np.ndarray:
    """Delay the rewards of concatenated trajectories.

    Args:
        rewards: (N,) rewards.
        lengths: (M,) lengths of the trajectories; they sum to N.
        delay: Steps per block; 0 and 1 do not change the rewards.

    Returns:
        (N,) array of the same dtype: the sum of each block at its last step, 0 elsewhere.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if delay <= 1 or len(rewards) == 0:
        return rewards.copy()
    lengths = lengths[lengths > 0]
    # first row of each block: every `delay` rows of each trajectory
    counts = -(-lengths // delay)
    first_block = np.cumsum(counts) - counts
    in_trajectory = np.arange(counts.sum()) - np.repeat(first_block, counts)
    starts = np.repeat(np.cumsum(lengths) - lengths, counts) + in_trajectory * delay
    ends = np.append(starts[1:], len(rewards)) - 1

    paid = np.zeros_like(rewards)
    paid[ends] = np.add.reduceat(rewards, starts, dtype=np.float64)
    return paid


class RewardDelayer:
    """The same delay for vectorised environments."""

    def __init__(self, num_envs: int, delay: int) -> None:
        """Delay the rewards of `num_envs` environments by blocks of `delay` steps (0, 1: none)."""
        self.delay = max(int(delay), 1)
        self._owed = np.zeros(num_envs)
        self._steps = np.zeros(num_envs, dtype=np.int64)

    def step(
        self, rewards: np.ndarray, done: np.ndarray, indices: np.ndarray | None = None
    ) -> np.ndarray:
        """Delayed rewards of one step.

        Args:
            rewards: (k,) training rewards of this step.
            done: (k,) whether the step ended the episode (terminated or truncated).
            indices: (k,) environments that were stepped, each once (default: all).

        Returns:
            (k,) float64. Environments that are done start a new block at their next step.
        """
        where = np.arange(len(self._owed)) if indices is None else np.asarray(indices)
        self._owed[where] += rewards
        self._steps[where] += 1
        pays = np.asarray(done, dtype=bool) | (self._steps[where] % self.delay == 0)
        paid = np.where(pays, self._owed[where], 0.0)
        self._owed[where[pays]] = 0.0
        self._steps[where[np.asarray(done, dtype=bool)]] = 0
        return paid
