"""DDPG (Lillicrap et al. 2016, arXiv 1509.02971), equations 4 to 6 and algorithm 1."""

from __future__ import annotations

import torch
from torch import Tensor

from decision_transformer import Noise, PolicyOutput
from get_args import Settings
from rl_gradients.common import Networks, RLGradient, next_policy, td_target, twin_q_loss
from rl_gradients.td3 import deterministic_policy_loss
from trajectories import Batch, Info, clamp_action


class DDPG(RLGradient):
    """TD3 without its three additions: one critic, no target noise, no delayed actor updates.

    The critic target is y = r + gamma (1 - d) Q'(s', pi'(s')), with a sampled action if the policy
    is stochastic, as in TD3.
    """

    num_q = 1

    def __init__(self, settings: Settings) -> None:
        self.gamma, self.tau = settings.gamma, settings.DDPG_tau

    def critic_loss(self, nets: Networks, batch: Batch, noise: Noise) -> tuple[Tensor, Info]:
        with torch.no_grad():
            action = clamp_action(next_policy(nets, batch).sample(noise))
            next_q = nets.critic_target.q1(batch.next_states, action, batch.timesteps)
            target = td_target(batch, self.gamma, next_q)
        q = nets.critic.q(batch.states, batch.actions, batch.timesteps)
        return twin_q_loss(q, target, batch.mask)

    def actor_loss(
        self, nets: Networks, batch: Batch, policy: PolicyOutput, noise: Noise
    ) -> tuple[Tensor, Info]:
        q1 = nets.critic.q1(batch.states, policy.mean, batch.timesteps)
        return deterministic_policy_loss(q1, batch.mask)
