"""What the actor learns from beside the RL gradient: imitation, and staying near to itself."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from decision_transformer import PolicyOutput
from decision_transformer.policy import Deterministic
from replay_buffer import Batch
from rl_gradients.common import Info, masked_mean, without_padding


def supervised_loss(
    policy: PolicyOutput, batch: Batch, entropy: Tensor | None, entropy_weight: Tensor | float
) -> tuple[Tensor, Info]:
    """The decision transformer's own loss, a mean over the steps that are no padding.

    Deterministic: the squared error per action dimension. Stochastic (Zheng et al. 2022,
    equation 5): -(log pi(a | .) + weight * entropy).

    Args:
        policy: The actor's output on the batch.
        batch: The batch.
        entropy: 0-d estimate of the policy's entropy; None for a deterministic policy.
        entropy_weight: The temperature, without gradient; 0 leaves the entropy out.
    """
    if isinstance(policy, Deterministic):
        error = F.mse_loss(policy.mean, batch.actions, reduction="none").mean(-1)
        return masked_mean(error, batch.mask), {}
    nll = -masked_mean(policy.log_prob(batch.actions), batch.mask)
    loss = nll if entropy is None else nll - entropy_weight * entropy
    return loss, {"nll": nll.detach()}


def action_distance_loss(actions: Tensor, previous: Tensor, mask: Tensor) -> Tensor:
    """mean ||pi(s) - pi_previous(s)||^2, summed over action dimensions.

    Up to a factor it is the KL divergence of two Gaussians of one fixed variance around both
    actions, so that it holds the policy near the previous one as a KL regulariser does.

    Args:
        actions: (B, K, act_dim) mean actions of the policy, with gradient.
        previous: (B, K, act_dim) those of the previous policy, without.
        mask: (B, K) bool.
    """
    difference = without_padding(actions - previous, mask[..., None])
    return masked_mean(difference.square().sum(-1), mask)
