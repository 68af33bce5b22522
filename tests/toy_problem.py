"""A problem with a known optimum: two steps, two action dimensions, all reward at the end.

    reward = -4 sum_t |a_t - OPTIMUM_t|^2

The second state contains the first action, which can only be learned through that state's value.
The offline actions are spread around -OPTIMUM, wide enough to cover OPTIMUM.
"""

from copy import deepcopy
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch

from evaluation import RolloutSettings, exploring_action, rollout
from get_args import Settings
from replay_buffer import ReplayBuffer
from rl_gradients import OnPolicyGradient
from rl_gradients.on_policy_buffer import OnPolicyBuffer
from tasks import TASKS
from tests.test_replay_buffer import dataset_of
from trainer import Trainer
from trajectories import Trajectory

STEPS = 2
OPTIMUM = np.array([[0.3, -0.3], [-0.3, 0.3]])
BEHAVIOUR_STD = 0.4
OFFLINE_EPISODES, COLLECTED_EPISODES = 400, 128
# only its observation and action sizes matter here
TASK = replace(TASKS["maze2d-umaze-v1"], horizon=STEPS)
ACTING = RolloutSettings(TASK, STEPS, np.zeros(TASK.obs_dim), np.ones(TASK.obs_dim))

SMALL = replace(
    Settings(), embed_dim=32, n_layer=1, n_head=1, dropout=0.0, batch_size=32, K=STEPS,
    learning_rate=0.01, weight_decay=0.0, warmup_steps=1, critic_learning_rate=0.005,
    use_entropy_reg=0, num_actor_update_interval=1, actor_rl_coeff=3.0, gamma=0.9, device="cpu",
)  # fmt: skip


class TwoSteps:
    """Any number of episodes in parallel."""

    def __init__(self, num_envs):
        self.num_envs, self.faulted = num_envs, np.zeros(num_envs, bool)

    def reset(self, indices=None):
        self.step_number, self.steps = 0, np.zeros(self.num_envs, int)
        self.actions = np.zeros((self.num_envs, STEPS, TASK.act_dim))
        return self.observe()

    def observe(self):
        states = np.zeros((self.num_envs, TASK.obs_dim))
        if self.step_number < STEPS:
            states[:, self.step_number] = 1.0
            states[:, 2:] = self.actions[:, 0]
        return states

    def step(self, actions, indices=None):
        self.actions[:, self.step_number] = actions
        self.step_number += 1
        self.steps += 1
        ended = np.full(self.num_envs, self.step_number == STEPS)
        reward = -4.0 * np.square(self.actions - OPTIMUM).sum((1, 2)) * ended
        return self.observe(), reward, ended, np.zeros(self.num_envs, bool)

    def success(self):
        return None


def offline_buffer(seed):
    """Episodes of the behaviour policy; with all returns-to-go 0, they carry no information."""
    rng = np.random.default_rng(seed)
    envs = TwoSteps(OFFLINE_EPISODES)
    states, rewards = [envs.reset()], []
    for optimum in OPTIMUM:
        noise = rng.standard_normal((OFFLINE_EPISODES, TASK.act_dim))
        obs, reward, *_ = envs.step((BEHAVIOUR_STD * noise - optimum).clip(-0.99, 0.99))
        states.append(obs)
        rewards.append(reward)
    last = np.arange(STEPS) == STEPS - 1
    episodes = [
        Trajectory(np.stack(s[:-1]), s[-1], actions, np.array(r), last)
        for s, actions, r in zip(
            zip(*states, strict=True), envs.actions, zip(*rewards, strict=True), strict=True
        )
    ]
    return ReplayBuffer(dataset_of(episodes), OFFLINE_EPISODES, rtg_scale=0.0)


def regret(trainer):
    """Squared distance of the mean actions to the optimum, summed over steps and dimensions."""
    actor = trainer.nets.actor.eval()
    return -rollout(actor, TwoSteps(1), ACTING, 0.0)[0].raw_return / 4.0


@cache
def pretrained(settings, seed, updates):
    """State of a trainer after supervised updates on the offline data."""
    torch.manual_seed(seed)
    trainer, buffer = Trainer(settings, TASK, torch.device("cpu")), offline_buffer(seed)
    trainer.start_phase(0.0, 1.0)
    sample = partial(buffer.sample, settings.batch_size, STEPS, offline=True)
    trainer.run_iteration(sample, updates)
    return trainer.state_dict()


def train(settings, *coefficients, seed=0, iterations=6, updates=10, pretraining=40):
    """Pretrain, then train with these coefficients of the losses; returns the trainer."""
    trainer, buffer = Trainer(settings, TASK, torch.device("cpu")), offline_buffer(seed)
    # a copy, because optimisers adopt the loaded moments
    trainer.load_state_dict(deepcopy(pretrained(settings, seed, pretraining)))
    torch.manual_seed(seed)
    trainer.start_phase(*coefficients)
    sample = partial(buffer.sample, settings.batch_size, STEPS, offline=True)
    on_policy = None
    if isinstance(trainer.algorithm, OnPolicyGradient):
        on_policy = OnPolicyBuffer(buffer, trainer.algorithm, settings.batch_size, STEPS)
    explore = partial(exploring_action, noise=trainer.noise, std=0.1)
    for _ in range(iterations):
        if on_policy is not None:
            actor = trainer.nets.actor.eval()
            episodes = rollout(actor, TwoSteps(COLLECTED_EPISODES), ACTING, 0.0, explore)
            on_policy.add(episodes, actor)
        trainer.run_iteration(sample, updates, on_policy=on_policy)
    return trainer
