"""PPO with a clipped surrogate (Schulman et al. 2017, arXiv 1707.06347)."""

from __future__ import annotations

import torch
from torch import Tensor

from decision_transformer import Noise, PolicyOutput
from get_args import Settings
from rl_gradients.common import Networks, gaussian
from rl_gradients.on_policy import OnPolicyGradient, online_batch
from trajectories import Batch, Info, masked_mean, without_padding

# bound of log(pi / pi_old), against overflow of the ratio
MAX_LOG_RATIO = 20.0


def clipped_surrogate_loss(
    log_ratio: Tensor, advantages: Tensor, clip: float, mask: Tensor
) -> tuple[Tensor, Info]:
    """-mean min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = pi / pi_old (equation 7).

    Args:
        log_ratio: (B, K) log pi(a | s) - log pi_old(a | s), with gradient.
        advantages: (B, K).
        clip: eps.
        mask: (B, K) bool.
    """
    log_ratio, advantages = (without_padding(x, mask) for x in (log_ratio, advantages))
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    share = ((ratio - 1.0).abs() > clip).float()
    return -masked_mean(surrogate, mask), {"clipped_share": masked_mean(share, mask)}


class PPO(OnPolicyGradient):
    """Learns from the episodes collected in the current iteration."""

    def __init__(self, settings: Settings) -> None:
        self.gamma, self.td_lambda = settings.gamma, settings.PPO_td_lambda
        self.clip = settings.PPO_eps_clip
        self.compares_to_old_policy = bool(settings.PPO_old_logprob_generated_in_training)

    def actor_loss(
        self, nets: Networks, batch: Batch, policy: PolicyOutput, noise: Noise
    ) -> tuple[Tensor, Info]:
        batch = online_batch(batch)
        log_ratio = gaussian(policy).log_prob(batch.actions) - batch.log_probs
        loss, info = clipped_surrogate_loss(log_ratio, batch.advantages, self.clip, batch.mask)
        return loss, {"rl_scale": torch.ones_like(loss.detach()), **info}
