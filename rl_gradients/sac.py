"""SAC (Haarnoja et al. 2018, arXiv 1801.01290; with twin critics: arXiv 1812.05905)."""

from __future__ import annotations

import torch
from torch import Tensor

from decision_transformer import Noise, PolicyOutput
from get_args import Settings
from rl_gradients.common import Networks, RLGradient, gaussian, next_policy, td_target, twin_q_loss
from trajectories import Batch, Info, clamp_action, masked_mean


def soft_value(q: Tensor, log_prob: Tensor, temperature: Tensor) -> Tensor:
    """V(s) = Q(s, a) - T log pi(a | s), all (B, K) (arXiv 1812.05905, equation 3)."""
    return q - temperature * log_prob


def soft_policy_loss(min_q: Tensor, entropy: Tensor, temperature: Tensor, mask: Tensor) -> Tensor:
    """-(T H(pi) + mean min_i Q_i(s, a)), a ~ pi reparameterised (arXiv 1812.05905, equation 7).

    Args:
        min_q: (B, K) with gradient.
        entropy: 0-d estimate with gradient.
        temperature: 0-d T, detached.
        mask: (B, K) bool.
    """
    return -(temperature * entropy + masked_mean(min_q, mask))


class SAC(RLGradient):
    """Twin soft critics and a learned temperature."""

    tunes_temperature = True

    def __init__(self, settings: Settings) -> None:
        self.gamma = settings.gamma
        self.tau = settings.SAC_tau

    def critic_loss(self, nets: Networks, batch: Batch, noise: Noise) -> tuple[Tensor, Info]:
        with torch.no_grad():
            action, log_prob = gaussian(next_policy(nets, batch)).sample_with_log_prob(noise)
            next_q = nets.critic_target.min_q(
                batch.next_states, clamp_action(action), batch.timesteps
            )
            next_value = soft_value(next_q, log_prob, nets.temperature)
            target = td_target(batch, self.gamma, next_value)
        q = nets.critic.q(batch.states, batch.actions, batch.timesteps)
        return twin_q_loss(q, target, batch.mask)

    def actor_loss(
        self, nets: Networks, batch: Batch, policy: PolicyOutput, noise: Noise
    ) -> tuple[Tensor, Info]:
        policy = gaussian(policy)
        entropy = masked_mean(policy.entropy(noise), batch.mask)
        min_q = nets.critic.min_q(batch.states, policy.sample(noise), batch.timesteps)
        loss = soft_policy_loss(min_q, entropy, nets.temperature, batch.mask)
        return loss, {"rl_scale": masked_mean(min_q.detach().abs(), batch.mask)}
