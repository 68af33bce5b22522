"""Losses of the actor besides the RL gradients: supervised, and distance to the previous policy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from decision_transformer.policy import Deterministic, PolicyOutput
from trajectories import Batch, Info, masked_mean, without_padding


def supervised_loss(
    policy: PolicyOutput, batch: Batch, entropy: Tensor | None, entropy_weight: Tensor | float
) -> tuple[Tensor, Info]:
    """The loss of the (online) decision transformer, a mean over unpadded steps.

    Deterministic: squared error per action dimension. Stochastic (Zheng et al. 2022, equation 5):
    -(log pi(a | .) + weight * entropy).

    Args:
        policy: The actor's output on the batch.
        batch: The batch.
        entropy: 0-d estimate of the policy's entropy; None for a deterministic policy.
        entropy_weight: The temperature, detached; 0 disables the entropy bonus.
    """
    if isinstance(policy, Deterministic):
        error = F.mse_loss(policy.mean, batch.actions, reduction="none").mean(-1)
        return masked_mean(error, batch.mask), {}
    nll = -masked_mean(policy.log_prob(batch.actions), batch.mask)
    loss = nll if entropy is None else nll - entropy_weight * entropy
    return loss, {"nll": nll.detach()}


def action_distance_loss(actions: Tensor, previous: Tensor, mask: Tensor) -> Tensor:
    """mean ||pi(s) - pi_previous(s)||^2, summed over action dimensions.

    Up to a factor this is the KL divergence between Gaussians of equal, fixed variance around the
    two actions, so it acts as a KL regulariser towards the previous policy.

    Args:
        actions: (B, K, act_dim) mean actions of the policy, with gradient.
        previous: (B, K, act_dim) mean actions of the previous policy, detached.
        mask: (B, K) bool.
    """
    difference = without_padding(actions - previous, mask[..., None])
    return masked_mean(difference.square().sum(-1), mask)
