"""What flows through the program: offline and collected trajectories, batches, masked means.

Shapes: B sub-trajectories of K steps, left-padded where shorter. Padded steps never count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# timesteps of an episode that have an embedding of their own
MAX_TIMESTEPS = 1000


# actions stay inside (-1, 1): the inverse of tanh has to be finite
ACTION_LIMIT = 1.0 - 1e-6

# the dones entry of padded steps
PADDING_DONE = 2.0

# named 0-d tensors on the device of the update
Info = dict[str, Tensor]


@dataclass
class TrajectoryDataset:
    """Whole trajectories as flat arrays, in ascending order of their return.

    There are N transitions in M trajectories; the rows of one trajectory lie together, in order.

    Attributes:
        observations: (N + spare, obs_dim) float32. Rows from N on are unset: room for a replay
            buffer to grow into without another copy. The same holds for the next three.
        actions: (N + spare, act_dim) float32.
        rewards: (N + spare,) float32 training rewards: transformed, then delayed.
        terminals: (N + spare,) bool, the dataset's terminal flag (a time limit is none);
            antmaze: set at the last row of every trajectory.
        final_observations: (M, obs_dim) float32, what followed each trajectory's last action.
        lengths: (M,) int64.
        returns: (M,) float64 sums of the training rewards.
        raw_returns: (M,) float64 sums of the file's rewards, for the normalised score.
        state_mean: (obs_dim,) float64 over all states, the lowest trajectory's included.
        state_std: (obs_dim,) float64, with 1e-6 added.
        fingerprint: JSON-able facts about the file and what was kept of it.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    final_observations: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray
    raw_returns: np.ndarray
    state_mean: np.ndarray
    state_std: np.ndarray
    fingerprint: dict[str, Any]

    @property
    def num_transitions(self) -> int:
        """N, without the spare rows."""
        return int(self.lengths.sum())

    @property
    def num_trajectories(self) -> int:
        """M."""
        return len(self.lengths)


@dataclass
class Trajectory:
    """One collected episode of T steps, as NumPy arrays.

    Attributes:
        observations: (T, obs_dim) not normalised.
        final_observation: (obs_dim,) what followed the last action.
        actions: (T, act_dim).
        rewards: (T,) training rewards.
        terminals: (T,) bool.
    """

    observations: np.ndarray
    final_observation: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray


@dataclass
class Batch:
    """B sub-trajectories of K steps, left-padded where shorter.

    Attributes:
        states, next_states: (B, K, obs_dim) normalised.
        actions: (B, K, act_dim).
        rewards: (B, K) training rewards.
        dones: (B, K) 1 where a terminal state follows, 2 at padding.
        rtg: (B, K + 1, 1) scaled return-to-go; [:, :-1] goes with states, [:, 1:] with
            next_states.
        timesteps: (B, K) int64 steps since the episode's start.
        mask: (B, K) bool, False at padding.
        rows: (B, K) int64, where each step lies in the buffer's storage; any row at padding.
    """

    states: Tensor
    next_states: Tensor
    actions: Tensor
    rewards: Tensor
    dones: Tensor
    rtg: Tensor
    timesteps: Tensor
    mask: Tensor
    rows: Tensor


def returns_to_go(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Undiscounted suffix sums of each trajectory's rewards.

    Args:
        rewards: (N,) rows of all trajectories, one after the other.
        lengths: (M,) their lengths.

    Returns:
        (N,) float32; sums are taken in float64.
    """
    ends = np.cumsum(lengths)
    total = np.concatenate([[0.0], np.cumsum(rewards, dtype=np.float64)])
    # the sum before each row, taken from the sum at its trajectory's end
    at_end = np.repeat(total[ends], lengths)
    return (at_end - total[:-1]).astype(np.float32)


def clamp_action(action: Tensor) -> Tensor:
    """Clamp to the action range that policies act in and data is stored in."""
    return action.clamp(-ACTION_LIMIT, ACTION_LIMIT)


def without_padding(x: Tensor, mask: Tensor) -> Tensor:
    """x (..., B, K) with 0 at padding.

    Losses do this before anything that is not linear, whose slope at padding may be infinite or
    NaN: gradients are multiplied by it, and 0 times that is NaN.
    """
    return torch.where(mask, x, 0.0)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (B, K) over the steps that are no padding."""
    return without_padding(x, mask).sum() / mask.sum()


def critic_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of x (B, K) over the steps that are no padding, divided by ALL B x K steps.

    The published critics are trained with this mean.
    """
    return without_padding(x, mask).mean()
