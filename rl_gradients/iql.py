"""IQL (Kostrikov, Nair, Levine 2021, arXiv 2110.06169)."""

from __future__ import annotations

import torch
from torch import Tensor

from decision_transformer import Noise, PolicyOutput
from get_args import Settings
from rl_gradients.common import (
    Networks,
    RLGradient,
    log_likelihood,
    td_target,
    twin_q_loss,
    weighted_regression_loss,
)
from trajectories import Batch, Info, critic_mean, masked_mean, without_padding

MAX_WEIGHT = 100.0


def expectile_loss(advantage: Tensor, ratio: float, mask: Tensor) -> Tensor:
    """mean |ratio - 1(A < 0)| A^2, A = Q(s, a) - V(s) (arXiv 2110.06169, equation 5).

    Args:
        advantage: (B, K) with gradient to V.
        ratio: The expectile; 0.5 is the mean.
        mask: (B, K) bool.
    """
    advantage = without_padding(advantage, mask)
    weight = torch.where(advantage < 0, 1.0 - ratio, ratio)
    return critic_mean(weight * advantage.square(), mask)


def iql_weights(advantage: Tensor, beta: float) -> Tensor:
    """min(exp(beta A), 100) (arXiv 2110.06169, equation 7), all (B, K)."""
    return (beta * advantage).exp().clamp(max=MAX_WEIGHT)


class IQL(RLGradient):
    """Expectile regression of V; advantage-weighted regression onto the data's actions."""

    with_v = True

    def __init__(self, settings: Settings) -> None:
        self.gamma, self.tau = settings.gamma, settings.IQL_tau
        self.ratio, self.beta = settings.IQL_ratio, settings.IQL_beta
        # advantages of the current batch before the critic step, which weight the policy loss
        self._advantage: Tensor | None = None

    def critic_loss(self, nets: Networks, batch: Batch, noise: Noise) -> tuple[Tensor, Info]:
        with torch.no_grad():
            q_data = nets.critic_target.min_q(batch.states, batch.actions, batch.timesteps)
            next_value = nets.critic_target.v(batch.next_states)
            target = td_target(batch, self.gamma, next_value)
        v = nets.critic.v(batch.states)
        advantage = q_data - v
        self._advantage = advantage.detach()
        v_loss = expectile_loss(advantage, self.ratio, batch.mask)
        q = nets.critic.q(batch.states, batch.actions, batch.timesteps)
        q_loss, info = twin_q_loss(q, target, batch.mask)
        info |= {"V_loss": v_loss.detach(), "V_mean": masked_mean(v.detach(), batch.mask)}
        return v_loss + q_loss, info

    def actor_loss(
        self, nets: Networks, batch: Batch, policy: PolicyOutput, noise: Noise
    ) -> tuple[Tensor, Info]:
        if self._advantage is None:
            raise RuntimeError("critic_loss must be called before actor_loss")
        weights = iql_weights(self._advantage, self.beta)
        loss = weighted_regression_loss(weights, log_likelihood(policy, batch.actions), batch.mask)
        info = {
            "rl_scale": torch.ones_like(loss.detach()),
            "advantage_weight": masked_mean(weights, batch.mask),
        }
        return loss, info
