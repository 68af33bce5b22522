"""Policy outputs: a deterministic action or a tanh-squashed diagonal Gaussian, and their heads.

The Gaussian is that of Haarnoja et al. 2018 (arXiv 1801.01290, appendix C). Random draws come from
a `Noise` source passed in by the caller, so an update can be replayed from recorded draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# shape -> standard normal draws on the device of the update
Noise = Callable[[Sequence[int]], Tensor]

_LOG_STD_MIN, _LOG_STD_MAX = -5.0, 2.0


@dataclass
class Deterministic:
    """One action per state.

    Attributes:
        mean: (..., act_dim) the action, tanh-squashed.
    """

    mean: Tensor

    def sample(self, noise: Noise) -> Tensor:
        """The action itself; draws nothing."""
        return self.mean

    def last_step(self) -> Deterministic:
        """The output (B, act_dim) for the last of K steps."""
        return Deterministic(self.mean[:, -1])


@dataclass
class TanhGaussian:
    """a = tanh(u), u ~ N(loc, std^2), independently per dimension.

    Attributes:
        loc: (..., act_dim) mean of u.
        std: (..., act_dim) standard deviation of u.
    """

    loc: Tensor
    std: Tensor

    @property
    def mean(self) -> Tensor:
        """(..., act_dim) tanh(loc), the action in evaluation."""
        return self.loc.tanh()

    def _log_density(self, u: Tensor) -> Tensor:
        """log pi(tanh(u)) = log N(u) - log |d tanh(u) / du|, summed over action dimensions."""
        z = (u - self.loc) / self.std
        log_normal = -0.5 * z.square() - self.std.log() - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2) without cancellation for large |u|
        log_slope = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
        return (log_normal - log_slope).sum(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """(...) log-density of given actions (..., act_dim) inside (-1, 1)."""
        return self._log_density(torch.atanh(action))

    def sample(self, noise: Noise) -> Tensor:
        """(..., act_dim) one reparameterised sample."""
        return self.sample_with_log_prob(noise)[0]

    def sample_with_log_prob(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """A reparameterised sample and its log-density, computed from its pre-tanh value."""
        u = self.loc + self.std * noise(self.loc.shape)
        return u.tanh(), self._log_density(u)

    def entropy(self, noise: Noise) -> Tensor:
        """(...) single-sample estimate of the entropy, reparameterised."""
        return -self.sample_with_log_prob(noise)[1]

    def last_step(self) -> TanhGaussian:
        """The output (B, act_dim) for the last of K steps."""
        return TanhGaussian(self.loc[:, -1], self.std[:, -1])


PolicyOutput = Deterministic | TanhGaussian


class DeterministicHead(nn.Sequential):
    """Maps hidden states to tanh(linear)."""

    def __init__(self, hidden_dim: int, act_dim: int) -> None:
        super().__init__(nn.Linear(hidden_dim, act_dim), nn.Tanh())

    def forward(self, hidden: Tensor) -> Deterministic:
        return Deterministic(super().forward(hidden))


class GaussianHead(nn.Module):
    """Maps hidden states to mean and log standard deviation, the latter squashed to [-5, 2]."""

    def __init__(self, hidden_dim: int, act_dim: int) -> None:
        super().__init__()
        self.mu = nn.Linear(hidden_dim, act_dim)
        self.log_std = nn.Linear(hidden_dim, act_dim)
        for layer in (self.mu, self.log_std):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> TanhGaussian:
        squashed = self.log_std(hidden).tanh()
        log_std = _LOG_STD_MIN + 0.5 * (_LOG_STD_MAX - _LOG_STD_MIN) * (squashed + 1.0)
        return TanhGaussian(self.mu(hidden), log_std.exp())
