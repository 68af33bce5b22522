"""Targets, weights and likelihoods of the losses: small numbers worked by hand."""

import math
from dataclasses import replace

import pytest
import torch

from decision_transformer.policy import Deterministic, TanhGaussian
from rl_gradients import awac, common, iql, ppo, sac, td3
from tests.test_losses import log_normal, random_batch
from trajectories import critic_mean, masked_mean


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_means_skip_padding():
    x, mask = t([2.0, 4.0, 100.0, 6.0]), torch.tensor([[True, True, False, True]])
    assert masked_mean(x, mask).item() == 4.0  # (2 + 4 + 6) / 3
    assert critic_mean(x, mask).item() == 3.0  # (2 + 4 + 6) / 4


def test_td_target_stops_at_terminals():
    batch = replace(random_batch(), rewards=t([1.0, 1.0, -2.0]), dones=t([0.0, 1.0, 0.0]))
    target = common.td_target(batch, 0.5, t([4.0, 4.0, 3.0]))
    assert target.tolist() == [[3.0, 1.0, -0.5]]  # 1 + 0.5 * 4; 1; -2 + 0.5 * 3


def test_smoothing_noise_is_clipped_then_the_action():
    action, draws = t([0.0, 0.0, 0.9, -0.95]), t([1.0, -9.0, 2.0, -0.1])
    smoothed = td3.smoothed_action(action, draws, std=0.2, clip=0.3)
    # 0.2 * 1; noise clipped to -0.3; 0.9 + 0.3 above the range; -0.95 - 0.02
    torch.testing.assert_close(smoothed, t([0.2, -0.3, 1.0 - 1e-6, -0.97]))


def test_soft_value_adds_the_entropy_bonus():
    assert sac.soft_value(t(3.0), t(-2.0), t(0.5)).item() == 4.0  # 3 + 0.5 * 2


def test_advantage_weights_are_clipped_exponentials():
    log = math.log
    weights = awac.awac_weights(t(2 * log(3.0), -2 * log(4.0), 50.0), beta=2.0)
    torch.testing.assert_close(weights, t(3.0, 0.25, 20.0))
    weights = iql.iql_weights(t(log(3.0), -log(2.0), 50.0), beta=2.0)
    torch.testing.assert_close(weights, t(9.0, 0.25, 100.0))


def test_metrics_of_the_losses():
    mask = torch.tensor([[True, True, False]])
    _, info = common.twin_q_loss(t([[[1.0, 3.0, 9.0]], [[7.0, 7.0, 7.0]]])[0], t([0.0]), mask)
    assert info["Q_mean"].item() == 2.0  # (1 + 3) / 2, of the first critic
    _, info = td3.deterministic_policy_loss(t([-3.0, 5.0, 7.0]), mask)
    assert info["rl_scale"].item() == 4.0  # (3 + 5) / 2
    log_ratio = t([math.log(1.5), math.log(1.1), math.log(9.0)])
    _, info = ppo.clipped_surrogate_loss(log_ratio, t([1.0, 1.0, 1.0]), 0.2, mask)
    assert info["clipped_share"].item() == 0.5


def test_a_huge_probability_ratio_stays_finite():
    log_ratio = t([1e4]).requires_grad_()
    loss, _ = ppo.clipped_surrogate_loss(log_ratio, t([-1.0]), 0.2, torch.tensor([[True]]))
    loss.backward()
    assert loss.item() == pytest.approx(math.exp(20.0))
    assert log_ratio.grad.isfinite().all()


def test_log_likelihood_of_both_policies():
    actions = t([[0.6, -0.2]])
    policy = Deterministic(t([[0.1, 0.2]]))
    # -(0.5^2 + 0.4^2)
    assert common.log_likelihood(policy, actions).item() == pytest.approx(-0.41)
    gaussian = TanhGaussian(t([[0.5, 0.0]]), t([[1.0, 2.0]]))
    expected = log_normal(math.atanh(0.6), 0.5, 1.0) - math.log(1 - 0.36)
    expected += log_normal(math.atanh(-0.2), 0.0, 2.0) - math.log(1 - 0.04)
    assert common.log_likelihood(gaussian, actions).item() == pytest.approx(expected)
