"""Feed-forward critics: an ensemble of Q networks, a V network, or both.

All Q networks are evaluated as one batched matrix product, with their parameters stacked along a
leading ensemble dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "leakyrelu": F.leaky_relu,
    "swish": F.silu,
}

# factor of AdaNorm's adaptive scaling (Xu et al. 2019, arXiv 1911.07013)
_ADANORM_SCALE = 0.1
# number of timesteps with a learned embedding in time-aware critics
_TIME_EMBEDDINGS = 1024


@dataclass(frozen=True)
class CriticConfig:
    """Architecture options shared by all critics.

    Attributes:
        activation: A key of `ACTIVATIONS`.
        normalization: "layernorm", "affinenorm" or "adanorm", applied to each hidden layer before
            its activation; None for no normalisation.
        time_aware: Timestep input of Q: 0 none, 1 a learned embedding, 2 binary digits.
        time_dim: Size of that embedding, or number of digits (most significant first).
        hidden_dim: Width of the hidden layers.
    """

    activation: str = "relu"
    normalization: str | None = None
    time_aware: int = 0
    time_dim: int = 10
    hidden_dim: int = 256


def first_members(number: int, *stacked: Tensor) -> tuple[Tensor, ...]:
    """The first `number` entries of stacked parameters, without an operation if that is all."""
    return tuple(p if number == len(p) else p[:number] for p in stacked)


class EnsembleLinear(nn.Module):
    """`members` independent linear layers, each initialised like `torch.nn.Linear`."""

    def __init__(self, members: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(members, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(members, 1, out_features))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(M, N, in) -> (M, N, out) for the first M members"""
        weight, bias = first_members(len(x), self.weight, self.bias)
        return torch.baddbmm(bias, x, weight.mT)


class Normalization(nn.Module):
    """LayerNorm of the last dimension, plain, affine (per member) or adaptive."""

    def __init__(self, kind: str, members: int, size: int) -> None:
        super().__init__()
        self.kind, self.size = kind, size
        if kind == "affinenorm":
            self.weight = nn.Parameter(torch.ones(members, 1, size))
            self.bias = nn.Parameter(torch.zeros(members, 1, size))

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x, (self.size,))
        if self.kind == "affinenorm":
            weight, bias = first_members(len(x), self.weight, self.bias)
            return torch.addcmul(bias, y, weight)
        if self.kind == "adanorm":
            return (1.0 - _ADANORM_SCALE * y) * y
        return y


class EnsembleMLP(nn.Module):
    """`members` independent networks with two hidden layers and a scalar output."""

    def __init__(self, members: int, in_features: int, config: CriticConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        sizes = [in_features, width, width, 1]
        self.members = members
        self.layers = nn.ModuleList(EnsembleLinear(members, a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList()
        if config.normalization is not None:
            self.norms.extend(Normalization(config.normalization, members, width) for _ in range(2))
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        """(..., in) -> (M, ...) for the first M members, by default all"""
        members = members or self.members
        h = x.reshape(1, -1, x.shape[-1]).expand(members, -1, -1)
        for i, layer in enumerate(self.layers[:-1]):
            h = layer(h)
            if self.norms:
                h = self.norms[i](h)
            h = self.activation(h)
        return self.layers[-1](h).reshape(members, *x.shape[:-1])


class Critic(nn.Module):
    """Q functions of (state, action[, timestep]) and a V function of the state.

    Args:
        obs_dim, act_dim: Lengths of an observation and of an action.
        config: Options of the networks.
        num_q: Number of Q networks (2 for clipped double Q-learning, 0 for none).
        with_v: Whether there is a V network.
        make_network: (members, in_features, config) -> a module (..., in) -> (members, ...), whose
            optional second argument limits it to the first members.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: CriticConfig,
        *,
        num_q: int = 2,
        with_v: bool = False,
        make_network: Callable[[int, int, CriticConfig], nn.Module] = EnsembleMLP,
    ) -> None:
        super().__init__()
        self.config = config
        self.time_embed = None
        time_dim = config.time_dim if config.time_aware else 0
        if num_q and config.time_aware == 1:
            self.time_embed = nn.Embedding(_TIME_EMBEDDINGS, config.time_dim)
        q_features = obs_dim + act_dim + time_dim
        self.q_net = make_network(num_q, q_features, config) if num_q else None
        self.v_net = make_network(1, obs_dim, config) if with_v else None

    def q(
        self, states: Tensor, actions: Tensor, timesteps: Tensor, members: int | None = None
    ) -> Tensor:
        """Q values of the first `members` Q networks, by default of all.

        Args:
            states: (..., obs_dim) normalised.
            actions: (..., act_dim).
            timesteps: (...) int64; used by time-aware critics only.

        Returns:
            (num_q, ...)
        """
        if self.q_net is None:
            raise RuntimeError("this critic has no Q network")
        inputs = [states, actions]
        if self.config.time_aware:
            inputs.append(self._time_features(timesteps))
        return self.q_net(torch.cat(inputs, dim=-1), members)

    def q1(self, states: Tensor, actions: Tensor, timesteps: Tensor) -> Tensor:
        """(...) the first Q network only, which deterministic policy gradients follow."""
        return self.q(states, actions, timesteps, members=1)[0]

    def min_q(self, states: Tensor, actions: Tensor, timesteps: Tensor) -> Tensor:
        """(...) minimum over the Q networks: clipped double Q-learning (Fujimoto et al. 2018)."""
        return self.q(states, actions, timesteps).amin(dim=0)

    def v(self, states: Tensor) -> Tensor:
        """(...) the value of states (..., obs_dim)."""
        if self.v_net is None:
            raise RuntimeError("this critic has no V network")
        return self.v_net(states)[0]

    def _time_features(self, timesteps: Tensor) -> Tensor:
        if self.time_embed is not None:
            return self.time_embed(timesteps)
        bits = torch.arange(self.config.time_dim - 1, -1, -1, device=timesteps.device)
        return ((timesteps[..., None] >> bits) & 1).float()
