"""Recurrent critics: Q and V of the sub-trajectory up to each step, by an RNN or an LSTM.

They process padded steps like any other and start from a zero state. Acting needs no critic, so
there is no step-by-step interface.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from critic import ACTIVATIONS, Critic, CriticConfig, EnsembleLinear, Normalization

NUM_LAYERS = 3


class RecurrentEnsemble(nn.Module):
    """`members` networks: recurrent layers, normalisation, activation, a scalar output.

    Args:
        arch: "LSTM", or "RNN": h_t = activation(W x_t + U h_{t-1} + b), activation "relu" or
            "tanh".
        members: Number of networks.
        in_features: Size of a step's input.
        config: Width, normalisation and activation, which RNN cells also use.
    """

    def __init__(self, arch: str, members: int, in_features: int, config: CriticConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        kind = nn.LSTM if arch == "LSTM" else partial(nn.RNN, nonlinearity=config.activation)
        self.recurrent = nn.ModuleList(
            kind(in_features, width, NUM_LAYERS, batch_first=True) for _ in range(members)
        )
        self.norm = (
            Normalization(config.normalization, members, width) if config.normalization else None
        )
        self.activation = ACTIVATIONS[config.activation]
        self.head = EnsembleLinear(members, width, 1)

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        """(..., K, in) -> (M, ..., K) for the first M members, by default all"""
        sequences = x.reshape(-1, *x.shape[-2:])
        outputs = [layers(sequences)[0].flatten(0, 1) for layers in self.recurrent[:members]]
        h = torch.stack(outputs)
        if self.norm is not None:
            h = self.norm(h)
        return self.head(self.activation(h)).reshape(len(outputs), *x.shape[:-1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # cuDNN needs the weights in one block, which a deep copy breaks up
        for module in self.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()


class RecurrentCritic(Critic):
    """A `Critic` with recurrent networks; inputs are (..., K, dim) in temporal order.

    Args:
        obs_dim, act_dim: Lengths of an observation and of an action.
        config: Options of the networks.
        arch: "RNN" or "LSTM".
        num_q: Number of Q networks.
        with_v: Whether there is a V network.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: CriticConfig,
        *,
        arch: str = "RNN",
        num_q: int = 2,
        with_v: bool = False,
    ) -> None:
        network = partial(RecurrentEnsemble, arch)
        super().__init__(obs_dim, act_dim, config, num_q=num_q, with_v=with_v, make_network=network)
