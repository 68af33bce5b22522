"""The replay buffer: whole trajectories as flat arrays on the training device.

Rows are stored in the order of eviction: offline trajectories by ascending return, then collected
ones by age. The buffer's content is therefore one contiguous window of rows: sampling a transition
draws one integer, adding a trajectory appends its rows, evicting one advances the window's start.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trajectories import (
    MAX_TIMESTEPS,
    PADDING_DONE,
    Batch,
    Trajectory,
    TrajectoryDataset,
    clamp_action,
    returns_to_go,
)

# larger than any row's number
_NO_ROW = torch.iinfo(torch.int64).max


class ReplayBuffer:
    """Offline and collected trajectories, sampled as sub-trajectories.

    Args:
        dataset: Offline trajectories, ascending by return. The buffer takes ownership: arrays
            already on the device are normalised in place instead of copied.
        capacity: Maximum number of trajectories; of the offline ones, those with the highest
            returns are kept.
        rtg_scale: Factor on returns-to-go.
        device: Device of the arrays and of the batches.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        capacity: int,
        rtg_scale: float,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity, self.device = capacity, torch.device(device)
        rows, count = dataset.num_transitions, dataset.num_trajectories
        self._mean, self._std = self._tensor(dataset.state_mean), self._tensor(dataset.state_std)
        self._padding = -self._mean / self._std
        self._rtg_scale = rtg_scale
        # one row per transition; rows from `self._end` on are free
        self._rows = {
            "states": self._tensor(dataset.observations),
            "actions": self._tensor(dataset.actions),
            "rewards": self._tensor(dataset.rewards),
            "terminals": torch.from_numpy(dataset.terminals).to(self.device),
        }
        self._rows["rtg"] = torch.empty_like(self._rows["rewards"])
        self._rows["states"][:rows].sub_(self._mean).div_(self._std)
        self._rows["actions"][:rows] = clamp_action(self._rows["actions"][:rows])
        rtg = returns_to_go(dataset.rewards[:rows], dataset.lengths)
        self._rows["rtg"][:rows] = self._tensor(rtg) * rtg_scale
        # per trajectory: its first row, and the state after its last action
        self._bounds = [0, *np.cumsum(dataset.lengths).tolist()]
        # past the last trajectory: larger than any row
        self._starts = torch.tensor(self._bounds, device=self.device)
        finals = self._tensor(dataset.final_observations)
        self._finals = finals.sub_(self._mean).div_(self._std)
        self._offline = count
        # first trajectory in the buffer
        self._first = max(0, count - capacity)
        # the newest trajectories with at least this many rows stay in storage after eviction
        self.keep_transitions = 0
        # number of collected trajectories no longer in storage
        self._forgotten = 0

    @property
    def num_trajectories(self) -> int:
        """Trajectories in the buffer."""
        return len(self._bounds) - 1 - self._first

    @property
    def num_transitions(self) -> int:
        """Transitions in the buffer."""
        return self._end - self._bounds[self._first]

    @property
    def num_offline_transitions(self) -> int:
        """Offline transitions, which pretraining samples from."""
        return self._bounds[self._offline]

    @property
    def _end(self) -> int:
        return self._bounds[-1]

    def add(self, trajectory: Trajectory) -> None:
        """Append a collected trajectory, evicting the oldest one if the buffer is full.

        Amortised linear in the trajectory's length.
        """
        length = len(trajectory.rewards)
        self._make_room(length)
        rows = slice(self._end, self._end + length)
        states = self._tensor(trajectory.observations)
        rtg = self._tensor(returns_to_go(trajectory.rewards, np.array([length])))
        self._rows["states"][rows] = (states - self._mean) / self._std
        self._rows["actions"][rows] = clamp_action(self._tensor(trajectory.actions))
        self._rows["rewards"][rows] = self._tensor(trajectory.rewards)
        self._rows["terminals"][rows] = torch.from_numpy(trajectory.terminals).to(self.device)
        self._rows["rtg"][rows] = rtg * self._rtg_scale
        number = len(self._bounds) - 1
        final = self._tensor(trajectory.final_observation)
        self._finals[number] = (final - self._mean) / self._std
        self._starts[number + 1] = rows.stop
        self._bounds.append(rows.stop)
        self._first = max(self._first, len(self._bounds) - 1 - self.capacity)

    def sample(self, batch_size: int, steps: int, *, offline: bool = False) -> Batch:
        """Sample sub-trajectories of up to `steps` steps from uniformly drawn first transitions.

        Args:
            batch_size: B.
            steps: K. A sub-trajectory that reaches the end of its episode is left-padded.
            offline: Sample from all offline trajectories instead of the buffer.
        """
        return Sampler(self, batch_size, steps, offline)()

    def gather(self, rows: Tensor, steps: int) -> Batch:
        """Sub-trajectories of up to `steps` steps that start at the given rows (B,)."""
        # not sliced to the trajectories there are, so that CUDA graphs can replay it
        starts = self._starts
        number = torch.searchsorted(starts, rows, right=True) - 1
        ends = starts[number + 1]
        length = (ends - rows).clamp(max=steps)
        # column k of K + 1 is this many steps after the start; negative at padding
        step = torch.arange(steps + 1, device=self.device) - (steps - length)[:, None]
        mask = step >= 0
        index = (rows[:, None] + step.clamp(min=0)).clamp(max=(ends - 1)[:, None])
        ended = (rows + length == ends)[:, None]
        # the last column is the step after the sub-trajectory, possibly past the end of the episode
        states = self._rows["states"][index]
        states = torch.where(mask[..., None], states, self._padding)
        states[:, -1] = torch.where(ended, self._finals[number], states[:, -1])
        rtg = torch.where(mask, self._rows["rtg"][index], 0.0)
        rtg[:, -1] = torch.where(ended[:, 0], 0.0, rtg[:, -1])
        index, mask = index[:, :-1], mask[:, :-1]
        timesteps = (index - starts[number][:, None]).clamp(max=MAX_TIMESTEPS - 1)
        return Batch(
            states=states[:, :-1],
            next_states=torch.where(mask[..., None], states[:, 1:], self._padding),
            actions=torch.where(mask[..., None], self._rows["actions"][index], 0.0),
            rewards=torch.where(mask, self._rows["rewards"][index], 0.0),
            dones=torch.where(mask, self._rows["terminals"][index].float(), PADDING_DONE),
            rtg=rtg[..., None],
            timesteps=torch.where(mask, timesteps, 0),
            mask=mask,
            rows=index,
        )

    def sampled_rows(self, offline: bool) -> range:
        """The rows that first transitions are drawn from."""
        if offline:
            return range(self.num_offline_transitions)
        return range(self._bounds[self._first], self._end)

    def storage(self) -> tuple[int, ...]:
        """Addresses and lengths of the arrays, which change when they grow."""
        arrays = (*self._rows.values(), self._starts, self._finals)
        return tuple(number for x in arrays for number in (x.data_ptr(), len(x)))

    def newest_rows(self, *, trajectories: int = 0, transitions: int = 0) -> range:
        """Rows of the newest trajectories: that many, or enough for at least N transitions."""
        first = len(self._bounds) - 1 - trajectories
        if transitions:
            first = bisect.bisect_right(self._bounds, self._end - transitions) - 1
        return range(self._bounds[max(first, 0)], self._end)

    def last_rows(self, rows: range) -> np.ndarray:
        """Last row of each trajectory in a range of rows made of whole trajectories."""
        low, high = (bisect.bisect_left(self._bounds, row) for row in (rows.start, rows.stop))
        return np.array(self._bounds[low + 1 : high + 1]) - 1

    def state_dict(self) -> dict[str, Any]:
        """Which collected trajectories are stored, and the first one in the buffer.

        Collected trajectories are numbered from the start of the run; `stored_from` to `total` - 1
        are in storage. `collected` returns the trajectories themselves.
        """
        return {
            "stored_from": self._forgotten,
            "total": self._forgotten + len(self._bounds) - 1 - self._offline,
            "first_held": self._first + (self._forgotten if self._first > self._offline else 0),
        }

    def collected(self, start: int) -> dict[str, Any]:
        """Collected trajectories from number `start` on.

        Returns:
            rows: tensors by name, one row per transition; finals: (M, obs_dim); lengths: a list.
        """
        first = self._offline + start - self._forgotten
        bounds = self._bounds[first:]
        return {
            "rows": {name: x[bounds[0] : self._end].clone() for name, x in self._rows.items()},
            "finals": self._finals[first : len(self._bounds) - 1].clone(),
            "lengths": np.diff(bounds).tolist(),
        }

    def load_state_dict(self, state: dict[str, Any], collected: list[dict[str, Any]]) -> None:
        """Restore `state_dict()` into a new buffer of the same dataset.

        Args:
            state: What `state_dict` returned.
            collected: Results of `collected` that together hold the trajectories `stored_from` to
                `total` - 1.
        """
        for part in collected:
            rows, count = sum(part["lengths"]), len(part["lengths"])
            self._grow(rows=rows, trajectories=count)
            for name, x in part["rows"].items():
                self._rows[name][self._end : self._end + rows] = x.to(self.device)
            number = len(self._bounds) - 1
            self._finals[number : number + count] = part["finals"].to(self.device)
            self._bounds += (self._end + np.cumsum(part["lengths"], dtype=np.int64)).tolist()
        self._starts[: len(self._bounds)] = torch.tensor(self._bounds, device=self.device)
        self._forgotten = state["stored_from"]
        first = state["first_held"]
        self._first = first - (self._forgotten if first > self._offline else 0)

    def _make_room(self, length: int) -> None:
        """Make room for one more trajectory of `length` rows."""
        offline_rows = self._bounds[self._offline]
        if self._end + length > len(self._rows["rewards"]):
            dead = self._bounds[self._first_needed()] - offline_rows
            if 2 * dead >= self._end - offline_rows and dead > 0:
                self._forget_dead()
            # grow by half, so that copying stays amortised
            self._grow(rows=length, spare_rows=self._end // 2)
        self._grow(trajectories=1, spare_trajectories=len(self._bounds))

    def _grow(
        self,
        rows: int = 0,
        trajectories: int = 0,
        spare_rows: int = 0,
        spare_trajectories: int = 0,
    ) -> None:
        """Reallocate the arrays that lack room for this many more rows and trajectories."""
        count = len(self._bounds) - 1
        if self._end + rows > len(self._rows["rewards"]):
            size = self._end + max(rows, spare_rows)
            self._rows = {name: _resized(x, self._end, size) for name, x in self._rows.items()}
        if count + trajectories > len(self._finals):
            size = count + max(trajectories, spare_trajectories)
            self._finals = _resized(self._finals, count, size)
            self._starts = _resized(self._starts, count + 1, size + 1)
            self._starts[count + 1 :] = _NO_ROW

    def _forget_dead(self) -> None:
        """Overwrite evicted trajectories with those still needed."""
        first = self._first_needed()
        start, offline_rows = self._bounds[first], self._bounds[self._offline]
        live, count = self._end - start, len(self._bounds) - 1 - first
        for x in self._rows.values():
            x[offline_rows : offline_rows + live] = x[start : self._end].clone()
        finals = self._finals[first : first + count].clone()
        self._finals[self._offline : self._offline + count] = finals
        moved = [bound - start + offline_rows for bound in self._bounds[first + 1 :]]
        self._bounds[self._offline + 1 :] = moved
        self._starts[: len(self._bounds)] = torch.tensor(self._bounds, device=self.device)
        self._starts[len(self._bounds) :] = _NO_ROW
        self._first += self._offline - first
        self._forgotten += first - self._offline

    def _first_needed(self) -> int:
        """The oldest collected trajectory needed by the buffer or by `keep_transitions`."""
        kept = self.newest_rows(transitions=self.keep_transitions).start
        return max(self._offline, min(self._first, bisect.bisect_left(self._bounds, kept)))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.device)


@dataclass(frozen=True)
class Sampler:
    """Samples batches from a buffer, see `ReplayBuffer.sample`.

    Drawing rows and gathering them are separate, as CUDA graphs hold only the latter.
    """

    buffer: ReplayBuffer
    batch_size: int
    steps: int
    offline: bool = False

    def __call__(self) -> Batch:
        """A batch."""
        rows = torch.empty(self.batch_size, dtype=torch.int64, device=self.buffer.device)
        self.draw(rows)
        return self.gather(rows)

    def draw(self, out: Tensor) -> None:
        """Draw the first rows of a batch into a tensor (B,)."""
        rows = self.buffer.sampled_rows(self.offline)
        torch.randint(rows.start, rows.stop, out.shape, out=out)

    def gather(self, rows: Tensor) -> Batch:
        """The sub-trajectories that start at these rows."""
        return self.buffer.gather(rows, self.steps)

    def storage(self) -> tuple[int, ...]:
        """Addresses and lengths of what `gather` reads."""
        return self.buffer.storage()


def _resized(x: Tensor, used: int, size: int) -> Tensor:
    """The first `used` rows of x in a new tensor of `size` rows."""
    out = x.new_empty(size, *x.shape[1:])
    out[:used] = x[:used]
    return out
