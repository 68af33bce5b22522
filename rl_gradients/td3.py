"""TD3 (Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477), equations 13 and 14 and algorithm 1."""

from __future__ import annotations

import torch
from torch import Tensor

from decision_transformer import Noise, PolicyOutput
from get_args import Settings
from rl_gradients.common import Networks, RLGradient, next_policy, td_target, twin_q_loss
from trajectories import Batch, Info, clamp_action, masked_mean


def smoothed_action(action: Tensor, draw: Tensor, std: float, clip: float) -> Tensor:
    """Target policy smoothing: clamp(a' + clamp(std * eps, -c, c)), eps ~ N(0, 1).

    Args:
        action: (B, K, act_dim) the target actor's action.
        draw: (B, K, act_dim) eps.
        std, clip: Standard deviation and clip range of the noise.
    """
    return clamp_action(action + (std * draw).clamp(-clip, clip))


def deterministic_policy_loss(q1: Tensor, mask: Tensor) -> tuple[Tensor, Info]:
    """-mean Q_1(s, pi(s)): the deterministic policy gradient.

    Args:
        q1: (B, K) the first critic at the policy's action, with gradient.
        mask: (B, K) bool.
    """
    return -masked_mean(q1, mask), {"rl_scale": masked_mean(q1.detach().abs(), mask)}


class TD3(RLGradient):
    """Twin critics and target policy smoothing; the trainer delays the policy updates."""

    def __init__(self, settings: Settings) -> None:
        self.gamma = settings.gamma
        self.tau = settings.TD3_tau
        self.noise_std = settings.TD3_policy_noise
        self.noise_clip = settings.TD3_noise_clip

    def critic_loss(self, nets: Networks, batch: Batch, noise: Noise) -> tuple[Tensor, Info]:
        with torch.no_grad():
            action = next_policy(nets, batch).sample(noise)
            action = smoothed_action(action, noise(action.shape), self.noise_std, self.noise_clip)
            next_q = nets.critic_target.min_q(batch.next_states, action, batch.timesteps)
            target = td_target(batch, self.gamma, next_q)
        q = nets.critic.q(batch.states, batch.actions, batch.timesteps)
        return twin_q_loss(q, target, batch.mask)

    def actor_loss(
        self, nets: Networks, batch: Batch, policy: PolicyOutput, noise: Noise
    ) -> tuple[Tensor, Info]:
        q1 = nets.critic.q1(batch.states, policy.mean, batch.timesteps)
        return deterministic_policy_loss(q1, batch.mask)
