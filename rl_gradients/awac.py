"""AWAC (Nair, Gupta, Dalal, Levine 2020, arXiv 2006.09359), with optional entropy terms."""

from __future__ import annotations

import torch
from torch import Tensor

from decision_transformer import Noise, PolicyOutput, TanhGaussian
from get_args import Settings
from rl_gradients.common import (
    Networks,
    RLGradient,
    log_likelihood,
    next_policy,
    td_target,
    twin_q_loss,
    weighted_regression_loss,
)
from rl_gradients.sac import soft_value
from trajectories import Batch, Info, clamp_action, masked_mean

MAX_WEIGHT = 20.0


def awac_weights(advantage: Tensor, beta: float) -> Tensor:
    """min(exp(A / beta), 20) (arXiv 2006.09359, equation 13), all (B, K)."""
    return (advantage / beta).exp().clamp(max=MAX_WEIGHT)


def softmax_weights(advantage: Tensor, beta: float, mask: Tensor) -> Tensor:
    """Softmax of A / beta over all unpadded steps of the batch, (B, K)."""
    logits = torch.where(mask, advantage / beta, -torch.inf)
    return logits.flatten().softmax(0).view_as(logits)


class AWAC(RLGradient):
    """Advantage-weighted regression onto the data's actions.

    `--AWAC_soft_flag` 0: no entropy terms; 1: SAC's soft critic target; 2: also SAC's entropy term
    in the actor loss.
    """

    tunes_temperature = True

    def __init__(self, settings: Settings) -> None:
        self.gamma, self.tau, self.beta = settings.gamma, settings.AWAC_tau, settings.AWAC_beta
        self.soft = settings.AWAC_soft_flag or 0
        self.normalize = bool(settings.AWAC_normalize_adv)

    def critic_loss(self, nets: Networks, batch: Batch, noise: Noise) -> tuple[Tensor, Info]:
        with torch.no_grad():
            policy = next_policy(nets, batch)
            log_prob = None
            if isinstance(policy, TanhGaussian):
                action, log_prob = policy.sample_with_log_prob(noise)
            else:
                action = policy.mean
            next_value = nets.critic_target.min_q(
                batch.next_states, clamp_action(action), batch.timesteps
            )
            if self.soft and log_prob is not None:
                next_value = soft_value(next_value, log_prob, nets.temperature)
            target = td_target(batch, self.gamma, next_value)
        q = nets.critic.q(batch.states, batch.actions, batch.timesteps)
        return twin_q_loss(q, target, batch.mask)

    def actor_loss(
        self, nets: Networks, batch: Batch, policy: PolicyOutput, noise: Noise
    ) -> tuple[Tensor, Info]:
        with torch.no_grad():
            q = nets.critic.min_q(batch.states, batch.actions, batch.timesteps)
            v = nets.critic.min_q(batch.states, policy.sample(noise), batch.timesteps)
            if self.normalize:
                weights = softmax_weights(q - v, self.beta, batch.mask)
            else:
                weights = awac_weights(q - v, self.beta)
        loss = weighted_regression_loss(weights, log_likelihood(policy, batch.actions), batch.mask)
        if isinstance(policy, TanhGaussian):
            # drawn for every flag value, which keeps the published order of random draws
            entropy = masked_mean(policy.entropy(noise), batch.mask)
            if self.soft == 2:
                loss = loss - nets.temperature * entropy
        info = {
            "rl_scale": masked_mean(v.abs(), batch.mask),
            "advantage_weight": masked_mean(weights, batch.mask),
        }
        return loss, info
