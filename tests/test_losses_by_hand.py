"""The loss functions: small numbers worked by hand."""

import math
from dataclasses import replace

import pytest
import torch

from decision_transformer.policy import Deterministic, TanhGaussian
from rl_gradients import awac, common, iql, on_policy, ppo, sac, td3
from tests.test_losses import log_normal, random_batch
from trainer import action_distance_loss, supervised_loss


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_means():
    x, mask = t([2.0, 4.0, 100.0, 6.0]), torch.tensor([[True, True, False, True]])
    assert common.masked_mean(x, mask).item() == 4.0  # (2 + 4 + 6) / 3
    assert common.critic_mean(x, mask).item() == 3.0  # (2 + 4 + 6) / 4


def test_td_target():
    batch = replace(random_batch(), rewards=t([1.0, 1.0, -2.0]), dones=t([0.0, 1.0, 0.0]))
    target = common.td_target(batch, 0.5, t([4.0, 4.0, 3.0]))
    # 1 + 0.5 * 4; a terminal step has no future; -2 + 0.5 * 3
    assert target.tolist() == [[3.0, 1.0, -0.5]]


def test_twin_q():
    q = t([[[1.0, 9.0]], [[2.0, 9.0]]]).squeeze(0)
    loss, info = common.twin_q_loss(q, t([4.0, 0.0]), torch.tensor([[True, False]]))
    assert loss.item() == 6.5  # ((1 - 4)^2 + (2 - 4)^2) / 2 steps, one of them padding
    assert info["Q_mean"].item() == 1.0


def test_smoothed_action():
    action, draws = t([0.0, 0.0, 0.9, -0.95]), t([1.0, -9.0, 2.0, -0.1])
    smoothed = td3.smoothed_action(action, draws, std=0.2, clip=0.3)
    # 0.2 * 1; clipped to -0.3; 0.9 + 0.3 above the range; -0.95 - 0.02
    torch.testing.assert_close(smoothed, t([0.2, -0.3, 1.0 - 1e-6, -0.97]))


def test_deterministic_policy():
    loss, info = td3.deterministic_policy_loss(
        t([-3.0, 5.0, 7.0]), torch.tensor([[True, True, False]])
    )
    assert loss.item() == -1.0  # -(-3 + 5) / 2
    assert info["rl_scale"].item() == 4.0  # (3 + 5) / 2


def test_soft_value_and_soft_policy():
    assert sac.soft_value(t(3.0), t(-2.0), t(0.5)).item() == 4.0  # 3 + 0.5 * 2
    loss = sac.soft_policy_loss(t([1.0, 3.0]), t(4.0), t(0.5), torch.tensor([[True, True]]))
    assert loss.item() == -4.0  # -(0.5 * 4 + 2)


def test_advantage_weights():
    log = math.log
    weights = awac.advantage_weights(t(2 * log(3.0), -2 * log(4.0), 50.0), beta=2.0)
    torch.testing.assert_close(weights, t(3.0, 0.25, 20.0))
    weights = iql.advantage_weights(t(log(3.0), -log(2.0), 50.0), beta=2.0)
    torch.testing.assert_close(weights, t(9.0, 0.25, 100.0))
    weights = awac.normalized_advantage_weights(
        t([2 * log(1.0), 2 * log(3.0), 9.0]), 2.0, torch.tensor([[True, True, False]])
    )
    torch.testing.assert_close(weights, t([0.25, 0.75, 0.0]))


def test_weighted_regression():
    loss = common.weighted_regression_loss(
        t([2.0, 0.5, 9.0]), t([-1.0, -4.0, -9.0]), torch.tensor([[True, True, False]])
    )
    assert loss.item() == 2.0  # (2 * 1 + 0.5 * 4) / 2


def test_expectile():
    mask = torch.tensor([[True, True, True, False]])
    loss = iql.expectile_loss(t([2.0, -2.0, 0.0, 9.0]), 0.75, mask)
    assert loss.item() == 1.0  # (0.75 * 4 + 0.25 * 4 + 0) / 4
    # the middle of the squared error is the mean
    assert iql.expectile_loss(t([2.0, -4.0]), 0.5, mask[:, :2]).item() == 5.0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),  # the plain policy gradient: d(-rho A)/d log pi = -rho A
        (1.5, 2.0, -2.4, 0.0),  # good, and already more likely by more than 20 %
        (0.5, 2.0, -1.0, -1.0),  # good, and less likely: not clipped
        (0.5, -2.0, 1.6, 0.0),  # bad, and already less likely by more than 20 %
        (1.5, -2.0, 3.0, 3.0),  # bad, and more likely: not clipped
    ],
)
def test_clipped_surrogate(ratio, advantage, loss, slope):
    log_ratio = t([math.log(ratio)]).requires_grad_()
    ours, info = ppo.clipped_surrogate_loss(log_ratio, t([advantage]), 0.2, torch.tensor([[True]]))
    ours.backward()
    assert ours.item() == pytest.approx(loss)
    assert log_ratio.grad.item() == pytest.approx(slope)
    assert info["clipped_share"].item() == float(ratio != 1.0)


def test_a_huge_probability_ratio_stays_finite():
    log_ratio = t([1e4]).requires_grad_()
    loss, _ = ppo.clipped_surrogate_loss(log_ratio, t([-1.0]), 0.2, torch.tensor([[True]]))
    loss.backward()
    assert loss.item() == pytest.approx(math.exp(20.0))
    assert log_ratio.grad.isfinite().all()


def test_value_loss():
    loss = on_policy.value_loss(t([1.0, 7.0]), t([5.0, 0.0]), torch.tensor([[True, False]]))
    assert loss.item() == 4.0  # 0.5 * (1 - 5)^2 / 2 steps, one of them padding


def test_log_likelihood_of_both_policies():
    actions = t([[0.6, -0.2]])
    policy = Deterministic(t([[0.1, 0.2]]))
    # -(0.5^2 + 0.4^2)
    assert common.log_likelihood(policy, actions).item() == pytest.approx(-0.41)
    gaussian = TanhGaussian(t([[0.5, 0.0]]), t([[1.0, 2.0]]))
    expected = log_normal(math.atanh(0.6), 0.5, 1.0) - math.log(1 - 0.36)
    expected += log_normal(math.atanh(-0.2), 0.0, 2.0) - math.log(1 - 0.04)
    assert common.log_likelihood(gaussian, actions).item() == pytest.approx(expected)


def test_distance_to_the_previous_policy():
    actions = t([[0.5, 0.1], [-0.2, 0.0], [9.0, 9.0]])
    previous = t([[0.2, 0.5], [0.0, 0.0], [0.0, 0.0]])
    mask = torch.tensor([[True, True, False]])
    # (0.3^2 + 0.4^2 + 0.2^2) / 2
    assert action_distance_loss(actions, previous, mask).item() == pytest.approx(0.145)


def test_supervised_loss_by_hand():
    actions, mask = t([[0.5, 0.0], [9.0, 9.0]])[None], torch.tensor([[True, False]])
    batch = replace(random_batch(), mask=mask, actions=actions)
    policy = Deterministic(t([[0.1, 0.2], [0.0, 0.0]])[None])
    loss, info = supervised_loss(policy, batch, None, 0.0)
    assert loss.item() == pytest.approx(0.1)  # (0.4^2 + 0.2^2) / 2 dimensions
    assert info == {}
