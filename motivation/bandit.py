"""A one-step bandit whose best action is between two regions of poor offline data.

Source: section 3.1 of Yan, Schwing, Wang 2024 (arXiv 2410.24108). There is no state, and an episode
is one action in [-1, 1]. The reward is (a + 1)^2 for a <= 0 and 1 - 2a above, with a maximum of 1
at a = 0. The offline data are 100 actions near -1 and 28 in (0.5, 1); none has a reward above
0.0025.

In each seed, ODT, DDPG and ODT+DDPG start from the same weights and data. All seeds of all methods
are one stack of networks, trained in parallel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from critic import EnsembleLinear
from get_args import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, flag

METHODS = ("ODT", "DDPG", "ODT+DDPG")
# offline actions: (number, lowest, highest) of each region
OFFLINE = ((100, -1.0, -0.95), (28, 0.5, 1.0))
OPTIMUM = 0.0
LOWEST, HIGHEST = -1.0, 1.0  # of actions and rewards
_HIDDEN = 128
_ABOUT = "one-step bandit"


@dataclass(frozen=True)
class BanditSettings:
    """Settings of the experiment, which are the flags of motivation.py."""

    # fmt: off
    seeds: int = flag(100, _ABOUT, "independent runs of each method", within=AT_LEAST_ONE)
    seed: int = flag(0, _ABOUT, "seed of the experiment", within="[0, 4294967295]")
    pretrain_epochs: int = flag(5, _ABOUT, "epochs on the offline data", within=NOT_NEGATIVE)
    online_epochs: int = flag(16, _ABOUT, "epochs of collecting and training", within=NOT_NEGATIVE)
    batch_size: int = flag(32, _ABOUT, "samples per update; an epoch is one pass over all data",
        within=AT_LEAST_ONE)
    new_samples: int = flag(64, _ABOUT, "actions collected at the start of each online epoch",
        within=AT_LEAST_ONE)
    noise: float = flag(0.01, _ABOUT, "exploration noise: uniform in [-NOISE, NOISE]",
        within=NOT_NEGATIVE)
    actor_lr: float = flag(5e-4, _ABOUT, "policy learning rate (Adam)", within=POSITIVE)
    critic_lr: float = flag(3e-3, _ABOUT, "critic learning rate (Adam)", within=POSITIVE)
    rl_coeff: float = flag(1.0, _ABOUT, "weight of the RL loss; the supervised loss has "
        "weight 1", within=POSITIVE)
    target_return: float = flag(1.0, _ABOUT, "return-to-go on which the policy is conditioned when "
        "acting; 1 is the optimum")
    rl_rtg: str = flag("target", _ABOUT, "return-to-go at which the critic evaluates the policy: "
        "the target, or those of the batch as in TD3+ODT", choices=("target", "batch"))
    # fmt: on


@dataclass
class History:
    """Results before training and after each of E epochs, for M methods and S seeds.

    Attributes:
        actions: (E + 1, M, S) the policy's action at the target return.
        values: (E + 1, M, S, G) the critic's estimate for each action of `grid`.
        policies: (E + 1, M, S, G) the policy's action for each return of `grid`.
        grid: (G,) over [-1, 1], the range of actions and of rewards.
        pretrained: Number of pretraining epochs.
        samples: (E + 1,) actions collected online so far.
    """

    actions: Tensor
    values: Tensor
    policies: Tensor
    grid: Tensor
    pretrained: int
    samples: list[int]


def reward(actions: Tensor) -> Tensor:
    """(a + 1)^2 for a <= 0, 1 - 2a above; any shape."""
    return torch.where(actions <= 0, (actions + 1) ** 2, 1 - 2 * actions)


def offline_actions(seeds: int, generator: torch.Generator) -> Tensor:
    """(seeds, 128) offline actions, uniform in each of the two regions."""
    parts = [
        low + (high - low) * torch.rand(seeds, count, generator=generator)
        for count, low, high in OFFLINE
    ]
    return torch.cat(parts, dim=1)


def make_networks(seeds: int) -> nn.Sequential:
    """Networks (M x S, N, 1) -> (M x S, N, 1), with equal weights for all methods of a seed."""
    members = len(METHODS) * seeds
    networks = nn.Sequential(
        EnsembleLinear(members, 1, _HIDDEN),
        nn.ReLU(),
        EnsembleLinear(members, _HIDDEN, _HIDDEN),
        nn.ReLU(),
        EnsembleLinear(members, _HIDDEN, 1),
    )
    with torch.no_grad():
        for p in networks.parameters():
            p.copy_(_for_all_methods(p[:seeds]))
    return networks


def _for_all_methods(x: Tensor) -> Tensor:
    """(S, ...) -> (M x S, ...)"""
    return x.repeat(len(METHODS), *[1] * (x.dim() - 1))


class Bandit:
    """The experiment: stacked policies, critics and data.

    The policy is tanh of a network of the return-to-go; the critic is a network of the action. An
    episode has one step, so the reward is both the critic's target and the action's return-to-go.
    """

    def __init__(self, settings: BanditSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        # random numbers are drawn on the CPU, so that they are the same for all devices
        self._generator = torch.Generator().manual_seed(settings.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.actor = make_networks(settings.seeds).to(device)
            self.critic = make_networks(settings.seeds).to(device)
        self._actor_optimiser = torch.optim.Adam(self.actor.parameters(), settings.actor_lr)
        self._critic_optimiser = torch.optim.Adam(self.critic.parameters(), settings.critic_lr)
        self.actions = self._draw(lambda: offline_actions(settings.seeds, self._generator))
        self._target = torch.full((len(self.actions), 1), settings.target_return, device=device)

    def policy(self, returns: Tensor) -> Tensor:
        """(M x S, N) returns-to-go -> (M x S, N) actions."""
        return torch.tanh(self.actor(returns[..., None]))[..., 0]

    def value(self, actions: Tensor) -> Tensor:
        """(M x S, N) actions -> (M x S, N) estimated rewards."""
        return self.critic(actions[..., None])[..., 0]

    def run(self, after_epoch: Callable[[], Any] = lambda: None) -> History:
        """Pretrain the policy (supervised) and the critic, then train online."""
        s = self.settings
        grid = torch.linspace(LOWEST, HIGHEST, 201)
        samples, records = [0], [self._record(grid)]
        rl, supervised = self._coefficients()
        for epoch in range(s.pretrain_epochs + s.online_epochs):
            if epoch < s.pretrain_epochs:
                self.train(torch.zeros_like(rl), torch.ones_like(supervised))
            else:
                self.collect()
                self.train(rl, supervised)
            samples.append(max(0, epoch + 1 - s.pretrain_epochs) * s.new_samples)
            records.append(self._record(grid))
            after_epoch()
        actions, values, policies = map(torch.stack, zip(*records, strict=True))
        return History(actions, values, policies, grid, s.pretrain_epochs, samples)

    @torch.no_grad()
    def collect(self) -> None:
        """Collect actions at the target return, with noise."""
        s = self.settings
        shape = (s.seeds, s.new_samples)
        unit = self._draw(lambda: 2 * torch.rand(shape, generator=self._generator) - 1)
        collected = (self.policy(self._target) + s.noise * unit).clamp(LOWEST, HIGHEST)
        self.actions = torch.cat([self.actions, collected], dim=1)

    def train(self, rl: Tensor, supervised: Tensor) -> None:
        """Train for one epoch, in random order.

        Args:
            rl, supervised: (M x S,) weights of the two losses.
        """
        size = (self.settings.seeds, self.actions.shape[1])
        order = self._draw(lambda: torch.rand(size, generator=self._generator).argsort(dim=1))
        for index in order.split(self.settings.batch_size, dim=1):
            self._update(self.actions.gather(1, index), rl, supervised)

    def _update(self, actions: Tensor, rl: Tensor, supervised: Tensor) -> None:
        rewards = reward(actions)
        self._critic_optimiser.zero_grad()
        # summed over networks, so that each gets the gradient of its own mean
        (self.value(actions) - rewards).square().mean(dim=1).sum().backward()
        self._critic_optimiser.step()
        chosen = self.policy(rewards)
        evaluated = chosen if self.settings.rl_rtg == "batch" else self.policy(self._target)
        self.critic.requires_grad_(False)
        gain = self.value(evaluated).mean(dim=1)
        self.critic.requires_grad_(True)
        error = (chosen - actions).square().mean(dim=1)
        self._actor_optimiser.zero_grad()
        (supervised * error - rl * gain).sum().backward()
        self._actor_optimiser.step()

    def _coefficients(self) -> tuple[Tensor, Tensor]:
        rl = torch.tensor([0.0, 1.0, 1.0]) * self.settings.rl_coeff
        supervised = torch.tensor([1.0, 0.0, 1.0])
        spread = [x.repeat_interleave(self.settings.seeds) for x in (rl, supervised)]
        return spread[0].to(self.device), spread[1].to(self.device)

    def _draw(self, draw: Callable[[], Tensor]) -> Tensor:
        """Draw random numbers (S, ...) and repeat them for all methods, (M x S, ...)."""
        return _for_all_methods(draw()).to(self.device)

    @torch.no_grad()
    def _record(self, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (M, S), values and policies (M, S, G)."""
        everywhere = grid.to(self.device).expand(len(self.actions), -1)
        results = self.policy(self._target)[:, 0], self.value(everywhere), self.policy(everywhere)
        shape = (len(METHODS), self.settings.seeds)
        actions, values, policies = (x.unflatten(0, shape).cpu() for x in results)
        return actions, values, policies
