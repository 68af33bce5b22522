"""DDPG: TD3 with one critic and without noise on the targets."""

from dataclasses import replace

import pytest
import torch

from get_args import Settings
from tasks import TASKS
from tests.test_decision_mlp import random_batch
from trainer import Trainer

SETTINGS = replace(
    Settings(), embed_dim=16, n_layer=1, n_head=1, dropout=0.0, stoc=0, use_entropy_reg=0,
    num_actor_update_interval=1, learning_rate=0.01, warmup_steps=1, TD3_policy_noise=0.0,
    TD3_tau=0.1, DDPG_tau=0.1,
)  # fmt: skip


def trainer_of(algorithm):
    torch.manual_seed(4)
    settings = replace(SETTINGS, rl_algo=algorithm)
    trainer = Trainer(settings, TASKS["maze2d-umaze-v1"], torch.device("cpu"))
    trainer.nets.actor.eval()  # no dropout
    return trainer


def first_critic(state):
    """The weights of the first Q network."""
    return {name: x[:1] for name, x in state.items()}


def test_ddpg_equals_td3_with_two_equal_critics_and_no_noise():
    ours, theirs = trainer_of("DDPG"), trainer_of("TD3")
    both = theirs.nets.critic
    both.load_state_dict(
        {k: x.expand(2, *x.shape[1:]).clone() for k, x in ours.nets.critic.state_dict().items()}
    )
    theirs.nets.actor.load_state_dict(ours.nets.actor.state_dict())
    for trainer in (ours, theirs):
        trainer.start_phase(0.5, 1.0)
        for _ in range(5):
            trainer.update(random_batch(), with_actor=True)
    for name in ("critic", "critic_target"):
        one = getattr(ours.nets, name).state_dict()
        two = getattr(theirs.nets, name).state_dict()
        torch.testing.assert_close(one, first_critic(two))
        assert {x.shape[0] for x in one.values()} == {1}
    for name in ("actor", "actor_target"):
        torch.testing.assert_close(
            getattr(ours.nets, name).state_dict(), getattr(theirs.nets, name).state_dict()
        )


def test_critic_loss_equals_equations_4_and_5():
    trainer, batch = trainer_of("DDPG"), random_batch()
    batch = replace(batch, dones=torch.tensor([[0.0, 0.0, 1.0]]).expand(5, -1))
    nets = trainer.nets
    with torch.no_grad():
        nets.critic_target.q_net.layers[-1].bias.add_(0.7)
        nets.actor_target.predict_action[0].bias.add_(0.3)
        following = torch.cat([batch.actions[:, 1:], torch.zeros(5, 1, 2)], dim=1)
        action = nets.actor_target(
            batch.next_states, following, batch.rtg[:, 1:], batch.timesteps + 1
        ).mean
        next_q = nets.critic_target.q(batch.next_states, action, batch.timesteps)[0]
        target = batch.rewards + 0.99 * next_q
        target[:, 2] = batch.rewards[:, 2]
        expected = (nets.critic.q(batch.states, batch.actions, batch.timesteps)[0] - target) ** 2
    loss, _ = trainer.algorithm.critic_loss(nets, batch, trainer.noise)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
