"""The replay buffer: golden numbers, and a plain list of trajectories."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_buffer import ReplayBuffer
from tests.conftest import golden_file
from trajectories import Batch, Trajectory, TrajectoryDataset, returns_to_go

OBS, ACT = 3, 2


def episode(length, seed, obs_dim=OBS, first_reward=None, act_dim=ACT):
    rng = np.random.default_rng(seed)
    terminals = np.zeros(length, dtype=bool)
    terminals[-1] = seed % 2
    rewards = rng.standard_normal(length)
    if first_reward is not None:
        rewards[0] = first_reward
    return Trajectory(
        rng.standard_normal((length, obs_dim)),
        rng.standard_normal(obs_dim),
        rng.uniform(-1, 1, (length, act_dim)),
        rewards,
        terminals,
    )


def dataset_of(episodes, mean=None, std=None, spare=0):
    """A dataset of episodes in the given order."""

    def rows(name):
        x = np.concatenate([getattr(episode, name) for episode in episodes])
        x = x.astype(bool if name == "terminals" else np.float32)
        return np.concatenate([x, np.zeros((spare, *x.shape[1:]), dtype=x.dtype)])

    returns = np.array([episode.rewards.sum() for episode in episodes])
    obs_dim = episodes[0].observations.shape[1]
    return TrajectoryDataset(
        observations=rows("observations"),
        actions=rows("actions"),
        rewards=rows("rewards"),
        terminals=rows("terminals"),
        final_observations=np.stack([e.final_observation for e in episodes]).astype(np.float32),
        lengths=np.array([len(e.rewards) for e in episodes]),
        returns=returns,
        raw_returns=returns,
        state_mean=np.zeros(obs_dim) if mean is None else mean,
        state_std=np.ones(obs_dim) if std is None else std,
        fingerprint={},
    )


def window_rows(buffer):
    """All rows at which a sample can start."""
    return torch.arange(buffer._bounds[buffer._first], buffer._end)


def first_rewards(buffer):
    """The first reward of each trajectory in the buffer, which identifies it in these tests."""
    batch = buffer.gather(window_rows(buffer), 1)
    return batch.rewards[batch.timesteps == 0].tolist()


def test_every_start_equals_golden():
    data = np.load(golden_file("subtrajectory.npz"))
    steps, mean, std = int(data["K"]), data["state_mean"], data["state_std"]
    trajectory = Trajectory(
        data["traj/observations"],
        data["traj/next_observations"][-1],
        data["traj/actions"],
        data["traj/rewards"],
        data["traj/terminals"].astype(bool),
    )
    dataset = dataset_of([trajectory], mean, std)
    buffer = ReplayBuffer(dataset, 10, rtg_scale=float(data["reward_scale"]))
    length = len(trajectory.rewards)
    batch = buffer.gather(torch.arange(length), steps)
    for start in range(length):
        for name in ("states", "actions", "rewards", "dones", "rtg", "next_states"):
            ours = getattr(batch, name)[start]
            theirs = torch.from_numpy(data[f"start{start}/{name}"]).reshape(ours.shape).float()
            if name == "next_states":
                # the golden episode has random next states inside, where ours are the next row's
                known = ~batch.mask[start] | (batch.timesteps[start] == length - 1)
                ours, theirs = ours[known], theirs[known]
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)
        assert batch.timesteps[start].tolist() == data[f"start{start}/timesteps"].tolist()
        mask = data[f"start{start}/padding_mask"].astype(bool)
        assert batch.mask[start].tolist() == mask.tolist()


@pytest.mark.parametrize("part", ["first", "second"])
def test_contents_equal_golden(part):
    golden = json.loads(golden_file("replay_buffer.json").read_text())
    if part == "first":
        offline = sorted(golden["offline_returns_first_reward"])
    else:
        golden |= golden["second"]
        offline = golden["offline"]
    names = iter(range(1000))
    make = lambda reward: episode(3, next(names), first_reward=reward)  # noqa: E731
    buffer = ReplayBuffer(dataset_of([make(r) for r in offline]), golden["capacity"], 1.0)
    assert sorted(first_rewards(buffer)) == sorted(golden["contents"][0])
    for added, contents in zip(golden["adds"], golden["contents"][1:], strict=True):
        for reward in added:
            buffer.add(make(reward))
        assert sorted(first_rewards(buffer)) == sorted(contents)
        assert buffer.num_trajectories == len(contents)


def slow_subtrajectory(episodes, number, start, steps, mean, std, scale):
    """One sub-trajectory, step by step, by its definition."""
    e = episodes[number]
    total = len(e.rewards)
    length = min(steps, total - start)
    states = np.concatenate([e.observations, e.final_observation[None]])
    rtg = np.append(np.cumsum(e.rewards[::-1])[::-1], 0.0) * scale
    out = {
        "states": np.zeros((steps, OBS)),
        "next_states": np.zeros((steps, OBS)),
        "actions": np.zeros((steps, ACT)),
        "rewards": np.zeros(steps),
        "dones": np.full(steps, 2.0),
        "rtg": np.zeros((steps + 1, 1)),
        "timesteps": np.zeros(steps, dtype=int),
        "mask": np.zeros(steps, dtype=bool),
    }
    for i in range(length):
        at, t = steps - length + i, start + i
        out["states"][at], out["next_states"][at] = states[t], states[t + 1]
        out["actions"][at], out["rewards"][at] = e.actions[t], e.rewards[t]
        out["dones"][at], out["rtg"][at] = e.terminals[t], rtg[t]
        out["timesteps"][at], out["mask"][at] = t, True
    out["rtg"][steps] = rtg[start + length]
    for name in ("states", "next_states"):
        out[name] = (out[name] - mean) / std
    return out


@settings(max_examples=25)
@given(
    offline=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    online=st.lists(st.integers(1, 9), max_size=12),
    capacity=st.integers(1, 8),
    steps=st.integers(1, 6),
    spare=st.sampled_from([0, 3, 100]),
)
def test_batches_equal_those_of_a_plain_list(offline, online, capacity, steps, spare):
    rng = np.random.default_rng(0)
    mean, std = rng.standard_normal(OBS), rng.uniform(0.5, 2.0, OBS)
    episodes = [episode(length, seed) for seed, length in enumerate(offline)]
    buffer = ReplayBuffer(dataset_of(episodes, mean, std, spare), capacity, 0.1)
    everything = buffer.gather(torch.arange(buffer._bounds[buffer._offline]), steps)
    check_batch(everything, episodes, steps, mean, std)
    held = episodes[max(0, len(episodes) - capacity) :]
    for seed, length in enumerate(online):
        new = episode(length, 100 + seed)
        buffer.add(new)
        held = [*held, new][-capacity:]
        assert buffer.num_trajectories == len(held)
        assert buffer.num_transitions == sum(len(e.rewards) for e in held)
    check_batch(buffer.gather(window_rows(buffer), steps), held, steps, mean, std)


def check_batch(batch: Batch, episodes, steps, mean, std):
    """Every start of every episode, in order."""
    row = 0
    for number, e in enumerate(episodes):
        for start in range(len(e.rewards)):
            slow = slow_subtrajectory(episodes, number, start, steps, mean, std, 0.1)
            for name, theirs in slow.items():
                ours = getattr(batch, name)[row].numpy()
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=name)
            row += 1
    assert row == len(batch.rewards)


def test_samples_are_uniform_over_transitions():
    torch.manual_seed(0)
    buffer = ReplayBuffer(dataset_of([episode(n, n) for n in (1, 5, 30)]), 2, 1.0)
    buffer.add(episode(4, 9))
    first = buffer.sample(20_000, 3).states[:, -1]
    every = buffer.gather(window_rows(buffer), 3).states[:, -1]
    counts = torch.stack([(first == state).all(-1).sum() for state in every.unique(dim=0)])
    # the buffer holds the last offline trajectory and the new one; each start but the last two of
    # a trajectory has its own last state
    assert counts.sum() == 20_000
    share = 20_000 / buffer.num_transitions
    assert counts.min() > share - 5 * share**0.5
    pretraining = buffer.sample(5_000, 1, offline=True).states[:, 0]
    offline = buffer.gather(torch.arange(36), 1).states[:, 0]
    seen = torch.stack([(pretraining == state).all(-1).sum() for state in offline])
    assert len(seen) == 36
    assert seen.min() > 5_000 / 36 - 5 * (5_000 / 36) ** 0.5


def test_memory_stays_bounded():
    buffer = ReplayBuffer(dataset_of([episode(5, 1)]), 10, 1.0)
    for _ in range(500):
        buffer.add(episode(5, 0))
    assert len(buffer._rows["rewards"]) <= 5 * 10 * 4
    assert len(buffer._finals) <= 50


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=25),
    capacity=st.integers(1, 6),
    pauses=st.lists(st.integers(0, 24), max_size=4),
)
def test_state_round_trip(lengths, capacity, pauses):
    """A buffer saved in parts and restored continues like the original."""
    episodes = [episode(n, n) for n in (3, 4)]
    buffer = ReplayBuffer(dataset_of(episodes), capacity, 1.0)
    parts, written = [], 0
    for number, length in enumerate(lengths):
        buffer.add(episode(length, number))
        if number in pauses and buffer.state_dict()["stored_from"] <= written:
            parts.append((written, buffer.collected(written)))
            written = number + 1
    state = buffer.state_dict()
    # a checkpoint of what is still in storage
    whole = [buffer.collected(state["stored_from"])]
    other = ReplayBuffer(dataset_of(episodes), capacity, 1.0)
    other.load_state_dict(state, whole)
    for start, part in parts:
        pieces = [episode(n, start + i).rewards for i, n in enumerate(part["lengths"])]
        np.testing.assert_allclose(part["rows"]["rewards"], np.concatenate(pieces), rtol=1e-6)
    for each in (buffer, other):
        each.add(episode(6, 77))
        assert each.num_trajectories == buffer.num_trajectories
    rows, others = window_rows(buffer), window_rows(other)
    a, b = buffer.gather(rows, 4), other.gather(others, 4)
    for name in set(vars(a)) - {"rows"}:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=10))
def test_returns_to_go_equal_suffix_sums(lengths):
    rewards = np.random.default_rng(0).standard_normal(sum(lengths))
    pieces = np.split(rewards, np.cumsum(lengths)[:-1])
    slow = np.concatenate([np.cumsum(piece[::-1])[::-1] for piece in pieces])
    np.testing.assert_allclose(returns_to_go(rewards, np.array(lengths)), slow, atol=1e-6)


def test_actions_stay_inside_the_open_interval():
    e = episode(3, 0)
    e.actions[:] = 1.0
    buffer = ReplayBuffer(dataset_of([e]), 4, 1.0)
    buffer.add(e)
    actions = buffer.gather(torch.arange(6), 1).actions
    assert actions.max() < 1.0
    assert torch.isfinite(torch.atanh(actions)).all()
