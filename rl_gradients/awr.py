"""AWR (Peng, Kumar, Zhang, Levine 2019, arXiv 1910.00177), algorithm 1."""

from __future__ import annotations

import torch
from torch import Tensor

from decision_transformer import Noise, PolicyOutput, TanhGaussian
from get_args import Settings
from rl_gradients.awac import awac_weights
from rl_gradients.common import Networks, log_likelihood, weighted_regression_loss
from rl_gradients.on_policy import OnPolicyGradient, online_batch
from trajectories import Batch, Info, masked_mean


class AWR(OnPolicyGradient):
    """Fits V to TD(lambda) returns, then the policy to stored actions, weighted by advantage."""

    critic_first = True
    starts_late = True

    def __init__(self, settings: Settings) -> None:
        self.gamma, self.td_lambda = settings.gamma, settings.AWR_td_lambda
        self.beta, self.buffer_size = settings.AWR_beta, settings.AWR_buffer_size
        self.normalizes_advantages = bool(settings.AWR_normalize_adv)

    def actor_loss(
        self, nets: Networks, batch: Batch, policy: PolicyOutput, noise: Noise
    ) -> tuple[Tensor, Info]:
        batch = online_batch(batch)
        weights = awac_weights(batch.advantages, self.beta)
        loss = weighted_regression_loss(weights, log_likelihood(policy, batch.actions), batch.mask)
        if isinstance(policy, TanhGaussian):
            loss = loss - nets.temperature * masked_mean(policy.entropy(noise), batch.mask)
        info = {
            "rl_scale": torch.ones_like(loss.detach()),
            "advantage_weight": masked_mean(weights, batch.mask),
        }
        return loss, info
