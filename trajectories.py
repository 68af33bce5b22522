"""The data that flows through training: trajectories, batches, and means that skip padding.

Shapes: B sub-trajectories of K steps, left-padded if shorter; N transitions; M trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks import Task

# timesteps with an embedding of their own; later ones share the last
MAX_TIMESTEPS = 1000

# actions stay strictly inside (-1, 1), where the inverse of tanh is finite
ACTION_LIMIT = 1.0 - 1e-6

# value of `dones` at padded steps
PADDING_DONE = 2.0

# metrics of one update: 0-d tensors by name, on the device of the update
Info = dict[str, Tensor]


# mean and standard deviation of the states, (obs_dim,) float64 each
Moments = tuple[np.ndarray, np.ndarray]


@dataclass
class TrajectoryDataset:
    """Offline trajectories as flat arrays, one after another, sorted by ascending return.

    Attributes:
        observations: (N + spare, obs_dim) float32. The spare rows are unset; a replay buffer
            grows into them without a copy. The same holds for the next three arrays.
        actions: (N + spare, act_dim) float32.
        rewards: (N + spare,) float32 training rewards: transformed, then delayed.
        terminals: (N + spare,) bool, the dataset's terminal flags (False at time limits);
            antmaze: True at the last row of every trajectory.
        final_observations: (M, obs_dim) float32, the observation after each trajectory's last
            action.
        lengths: (M,) int64.
        returns: (M,) float64 sums of the training rewards.
        raw_returns: (M,) float64 sums of the raw rewards, for the normalised score.
        state_mean: (obs_dim,) float64 mean over all states, including those of the trajectory with
            the lowest return, which is dropped.
        state_std: (obs_dim,) float64 standard deviation over the same states, plus 1e-6.
        fingerprint: Facts about the file and what was kept of it, as plain JSON values.
        notices: What the user should know about the data, one line each: what was split or
            dropped, episodes longer than the horizon.
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
    notices: list[str] = field(default_factory=list)

    @property
    def num_transitions(self) -> int:
        """N, not counting spare rows."""
        return int(self.lengths.sum())

    @property
    def num_trajectories(self) -> int:
        """M."""
        return len(self.lengths)

    def normalize_by(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Replace the moments, by which states are normalised, with those of --init_from."""
        pairs = (self.state_mean, mean), (self.state_std, std)
        if self.num_trajectories and not all(
            np.allclose(ours, theirs, rtol=1e-6) for ours, theirs in pairs
        ):
            self.notices.append(
                "--init_from: states are normalised with the mean and standard deviation its "
                "networks were trained with, which are not those of this dataset"
            )
        self.state_mean, self.state_std = mean, std

    def summary(self, task: Task) -> str:
        """One line: size, mean raw return and mean length with their ranges, and mean score."""
        if self.num_trajectories == 0:
            return "none"
        parts = [
            f"{name} {_short(values.mean())} ({_short(values.min())} to {_short(values.max())})"
            for name, values in (("return", self.raw_returns), ("length", self.lengths))
        ]
        if task.scored:
            score = task.normalized_score(float(self.raw_returns.mean()))
            parts.append(f"normalised score {score:.1f}")
        return (
            f"{self.num_transitions:,} transitions, {self.num_trajectories:,} trajectories, "
            f"{', '.join(parts)}"
        )

    def mean_score(self, task: Task) -> dict[str, float]:
        """The mean normalised score, or without reference scores the mean return; {} if empty."""
        if self.num_trajectories == 0:
            return {}
        mean = float(self.raw_returns.mean())
        if task.scored:
            return {"mean_normalized_score": task.normalized_score(mean)}
        return {"mean_return": mean}


def _short(number: float) -> str:
    return f"{number:,.2f}".rstrip("0").rstrip(".")


@dataclass
class Trajectory:
    """One collected episode of T steps, as NumPy arrays.

    Attributes:
        observations: (T, obs_dim) unnormalised.
        final_observation: (obs_dim,) the observation after the last action.
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
    """A batch of sub-trajectories.

    Attributes:
        states, next_states: (B, K, obs_dim) normalised.
        actions: (B, K, act_dim).
        rewards: (B, K) training rewards.
        dones: (B, K) 1 if the next state is terminal, 2 at padding.
        rtg: (B, K + 1, 1) scaled return-to-go; [:, :-1] goes with states, [:, 1:] with
            next_states.
        timesteps: (B, K) int64 steps since the episode's start.
        mask: (B, K) bool, False at padding.
        rows: (B, K) int64 row of each step in the replay buffer; arbitrary at padding.
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
        rewards: (N,) rewards of all trajectories, one after another.
        lengths: (M,) their lengths.

    Returns:
        (N,) float32, summed in float64.
    """
    ends = np.cumsum(lengths)
    total = np.concatenate([[0.0], np.cumsum(rewards, dtype=np.float64)])
    at_end = np.repeat(total[ends], lengths)
    return (at_end - total[:-1]).astype(np.float32)


def clamp_action(action: Tensor) -> Tensor:
    """Clamp actions to the open interval that policies and stored data share."""
    return action.clamp(-ACTION_LIMIT, ACTION_LIMIT)


def without_padding(x: Tensor, mask: Tensor) -> Tensor:
    """x (..., B, K) with 0 at padding.

    Apply it before any nonlinear function: its slope at padding may be infinite or NaN, and the
    backward pass would turn 0 times that into NaN.
    """
    return torch.where(mask, x, 0.0)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (B, K) over unpadded steps."""
    return without_padding(x, mask).sum() / mask.sum()


def critic_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of x (B, K) over unpadded steps, divided by all B x K steps.

    The published critics are trained with this mean.
    """
    return without_padding(x, mask).mean()
