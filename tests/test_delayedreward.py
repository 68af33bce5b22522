"""Delayed rewards: golden numbers, and equal delays for datasets and environments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delayedreward import RewardDelayer, delay_rewards
from tests.conftest import GOLDEN

LENGTHS_DELAY_SEED = st.tuples(
    st.lists(st.integers(1, 23), min_size=1, max_size=6), st.integers(0, 9), st.integers(0, 2**32)
)


def test_golden_numbers():
    golden = np.load(GOLDEN / "delayed_reward.npz", allow_pickle=False)
    count = sum(name.startswith("before") for name in golden)
    before = [golden[f"before{i}"] for i in range(count)]
    after = np.concatenate([golden[f"after{i}"] for i in range(count)])
    lengths = np.array([len(rewards) for rewards in before])
    paid = delay_rewards(np.concatenate(before), lengths, int(golden["delay"]))
    np.testing.assert_allclose(paid, after, rtol=0, atol=1e-14)


@given(LENGTHS_DELAY_SEED)
def test_rewards_are_paid_at_block_and_episode_ends_only(case):
    lengths, delay, seed = case
    rewards = np.random.default_rng(seed).normal(size=sum(lengths))
    paid = delay_rewards(rewards, np.array(lengths), delay)
    start = 0
    for length in lengths:
        for step in range(length):
            at_end = step == length - 1 or (step + 1) % max(delay, 1) == 0
            block = start + step // max(delay, 1) * max(delay, 1)
            expected = rewards[block : start + step + 1].sum() if at_end else 0.0
            assert paid[start + step] == pytest.approx(expected, abs=1e-12)
        start += length


@given(LENGTHS_DELAY_SEED)
def test_environments_delay_like_datasets(case):
    lengths, delay, seed = case
    generator = np.random.default_rng(seed)
    num_envs = 3
    episodes = [generator.normal(size=(num_envs, length)) for length in lengths]
    delayer = RewardDelayer(num_envs, delay)
    for rewards in episodes:
        paid = np.zeros_like(rewards)
        for step in range(rewards.shape[1]):
            done = np.full(num_envs, step == rewards.shape[1] - 1)
            where = generator.permutation(num_envs)
            paid[where, step] = delayer.step(rewards[where, step], done, where)
        expected = delay_rewards(
            rewards.ravel(), np.full(num_envs, rewards.shape[1]), delay
        ).reshape(rewards.shape)
        np.testing.assert_allclose(paid, expected, rtol=0, atol=1e-12)


def test_environments_may_step_separately():
    delayer = RewardDelayer(2, 3)
    assert delayer.step(np.array([1.0]), np.array([False]), np.array([1])).tolist() == [0]
    assert delayer.step(np.array([5.0, 2.0]), np.array([True, False])).tolist() == [5, 0]
    assert delayer.step(np.array([4.0]), np.array([False]), np.array([1])).tolist() == [7]
    # both started a new block: environment 1 after three steps, environment 0 after its episode
    assert delayer.step(np.array([1.0, 1.0]), np.array([False, True])).tolist() == [0, 1]


def test_dtype_and_input_are_preserved():
    rewards = np.ones(7, np.float32)
    paid = delay_rewards(rewards, np.array([7]), 3)
    assert paid.dtype == np.float32
    assert paid.tolist() == [0, 0, 3, 0, 0, 3, 1]
    assert rewards.tolist() == [1] * 7
