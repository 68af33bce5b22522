"""The window of PPO and AWR, and TD(lambda) returns against golden numbers and a plain loop."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from critic import Critic, CriticConfig
from decision_transformer import DecisionTransformer, TransformerSize
from evaluation import Episode
from get_args import Settings
from replay_buffer import ReplayBuffer
from rl_gradients import make_rl_gradient
from rl_gradients.on_policy import OnPolicyGradient, td_lambda_returns
from rl_gradients.on_policy_buffer import OnPolicyBuffer
from tests.conftest import golden_file
from tests.test_replay_buffer import ACT, OBS, dataset_of, episode

ACTOR = DecisionTransformer(
    OBS, ACT, TransformerSize(16, 1, 1, dropout=0.0, embed_dropout=0.0), stochastic=True
)
BASE = replace(Settings(), use_entropy_reg=0, num_actor_update_interval=1)


def algorithm(**given):
    made = make_rl_gradient(replace(BASE, **given))
    assert isinstance(made, OnPolicyGradient)
    return made


def collected(lengths, seed=50):
    """Finished episodes with known log-probabilities."""
    return [
        Episode(
            episode(n, seed + i),
            raw_return=0.0,
            reached_horizon=False,
            success=None,
            faulted=False,
            log_probs=100.0 * i + np.arange(n),
        )
        for i, n in enumerate(lengths)
    ]


def buffer_of(lengths, capacity=100):
    return ReplayBuffer(dataset_of([episode(n, i) for i, n in enumerate(lengths)]), capacity, 1.0)


def test_returns_equal_golden():
    data = np.load(golden_file("td_lambda.npz"))
    values = data["next_observations"] @ data["v_weights"]
    # inside the trajectory the next value is that of the next row
    values[:-1] = (data["observations"] @ data["v_weights"])[1:]
    last = torch.zeros(len(values), dtype=torch.bool)
    last[-1] = True
    returns = td_lambda_returns(
        torch.from_numpy(data["rewards"]),
        torch.from_numpy(data["terminals"]).bool(),
        torch.from_numpy(values),
        last,
        float(data["gamma"]),
        float(data["lam"]),
    )
    # the golden values pass through float32
    np.testing.assert_allclose(returns, data["target"], rtol=1e-6, atol=1e-6)


def returns_by_loop(rewards, terminals, next_values, last, gamma, td_lambda):
    out, ahead = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        mix = 0.0 if last[t] else td_lambda
        bootstrap = (1 - mix) * next_values[t] + mix * ahead
        out[t] = ahead = rewards[t] + gamma * (1 - terminals[t]) * bootstrap
    return out


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    td_lambda=st.sampled_from([0.0, 0.5, 0.98, 1.0]),
)
def test_returns_equal_a_plain_loop(lengths, seed, gamma, td_lambda):
    rng = np.random.default_rng(seed)
    rows = sum(lengths)
    rewards, next_values = rng.standard_normal((2, rows))
    terminals, last = rng.random(rows) < 0.1, np.zeros(rows, bool)
    last[np.cumsum(lengths) - 1] = True
    given = [torch.from_numpy(x) for x in (rewards, terminals, next_values, last)]
    ours = td_lambda_returns(given[0], given[1], given[2], given[3], gamma, td_lambda)
    slow = returns_by_loop(rewards, terminals, next_values, last, gamma, td_lambda)
    np.testing.assert_allclose(ours, slow, rtol=1e-9, atol=1e-9)


def test_awr_window_holds_at_least_its_size_in_whole_trajectories():
    buffer = buffer_of([4, 5, 6])
    on_policy = OnPolicyBuffer(buffer, algorithm(rl_algo="AWR", AWR_buffer_size=9), 8, 3)
    for length, rows in ((2, range(4, 17)), (3, range(9, 20)), (20, range(20, 40))):
        new = collected([length])
        on_policy.add(new, ACTOR)
        assert on_policy._rows == rows
    everything = OnPolicyBuffer(buffer, algorithm(rl_algo="AWR", AWR_buffer_size=1000), 8, 3)
    everything.add(new, ACTOR)
    assert everything._rows == range(60)


def test_ppo_window_holds_the_iteration_with_its_log_probabilities():
    buffer = buffer_of([4, 5])
    on_policy = OnPolicyBuffer(buffer, algorithm(rl_algo="PPO"), 64, 3)
    new = collected([2, 6])
    on_policy.add(new, ACTOR)
    assert on_policy._rows == range(9, 17)
    on_policy.refresh(Critic(OBS, ACT, CriticConfig(), num_q=0, with_v=True))
    batch = on_policy.sample()
    known = np.concatenate([each.log_probs for each in new])
    np.testing.assert_array_equal(
        batch.log_probs[batch.mask], known[(batch.rows - 9)[batch.mask].numpy()]
    )


def test_ppo_window_holds_the_whole_iteration_in_a_smaller_replay_buffer():
    buffer = buffer_of([4, 5], capacity=2)
    on_policy = OnPolicyBuffer(buffer, algorithm(rl_algo="PPO"), 64, 3)
    for seed in range(40):
        new = collected([3, 2, 4, 3], seed=seed)
        on_policy.add(new, ACTOR)
        batch = buffer.gather(torch.arange(on_policy._rows.start, on_policy._rows.stop), 1)
        rewards = np.concatenate([each.trajectory.rewards for each in new])
        np.testing.assert_allclose(batch.rewards[:, 0], rewards, rtol=1e-6)
        assert buffer.num_trajectories == 2


@pytest.mark.parametrize("normalize", [0, 1])
def test_refresh_equals_values_row_by_row(normalize):
    torch.manual_seed(0)
    chosen = algorithm(rl_algo="AWR", AWR_buffer_size=12, AWR_normalize_adv=normalize)
    buffer = buffer_of([3, 5], capacity=3)
    on_policy = OnPolicyBuffer(buffer, chosen, 64, 4)
    new = collected([7, 6])
    on_policy.add(new, ACTOR)
    critic = Critic(OBS, ACT, CriticConfig(), num_q=0, with_v=True)
    on_policy.refresh(critic)
    returns, advantages = [], []
    for each in new:
        t = each.trajectory
        states = np.concatenate([t.observations, t.final_observation[None]])
        with torch.no_grad():
            v = critic.v(torch.as_tensor(states, dtype=torch.float32)).double().numpy()
        last = np.arange(len(t.rewards)) == len(t.rewards) - 1
        target = returns_by_loop(
            t.rewards, t.terminals, v[1:], last, chosen.gamma, chosen.td_lambda
        )
        returns.append(target)
        advantages.append(target - v[:-1])
    wanted = np.concatenate(advantages)
    if normalize:
        wanted = (wanted - wanted.mean()) / (wanted.std() + 1e-5)
    np.testing.assert_allclose(on_policy._returns, np.concatenate(returns), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(on_policy._advantages, wanted, rtol=1e-4, atol=1e-4)
    batch = on_policy.sample()
    assert batch.returns.shape == batch.mask.shape


def test_trajectories_of_the_window_stay_in_storage_after_eviction():
    buffer = buffer_of([3], capacity=2)
    on_policy = OnPolicyBuffer(buffer, algorithm(rl_algo="AWR", AWR_buffer_size=40), 8, 3)
    names = []
    for seed in range(60):
        (new,) = collected([5], seed=100 + seed)
        names.append(new.trajectory.rewards[0])
        on_policy.add([new], ACTOR)
        batch = buffer.gather(torch.arange(on_policy._rows.start, on_policy._rows.stop), 1)
        first = batch.rewards[batch.timesteps == 0].numpy()
        np.testing.assert_allclose(first[-len(names[-8:]) :], names[-8:], rtol=1e-6)
        assert buffer.num_trajectories == 2
    assert len(buffer._rows["rewards"]) < 250


def test_recomputed_log_probabilities_are_those_of_the_old_policy():
    torch.manual_seed(0)
    actor = copy.deepcopy(ACTOR)
    buffer = buffer_of([4])
    chosen = algorithm(rl_algo="PPO", PPO_old_logprob_generated_in_training=1)
    on_policy = OnPolicyBuffer(buffer, chosen, 16, 3)
    (new,) = collected([9])
    on_policy.add([new], actor)
    on_policy.refresh(Critic(OBS, ACT, CriticConfig(), num_q=0, with_v=True))
    batch = on_policy.sample()
    policy = actor(batch.states, batch.actions, batch.rtg[:, :-1], batch.timesteps, batch.mask)
    log_probs = policy.log_prob(batch.actions).detach()
    torch.testing.assert_close(batch.log_probs[batch.mask], log_probs[batch.mask])
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(0.1)
    assert torch.equal(on_policy._recomputed(batch), batch.log_probs)
