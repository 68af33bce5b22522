"""MLP policy of the current state, as in TD3 and TD3+BC.

With a deterministic head, two hidden layers of 256 and ReLU it is the actor of Fujimoto, van Hoof,
Meger 2018 (arXiv 1802.09477) and Fujimoto, Gu 2021 (arXiv 2106.06860). Its interface is that of the
decision transformer.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from decision_transformer.gpt2 import make_activation
from decision_transformer.policy import DeterministicHead, GaussianHead, PolicyOutput


class DecisionMLP(nn.Module):
    """Policy that predicts each action from the current state only.

    Args:
        obs_dim, act_dim: Lengths of an observation and of an action.
        width, depth: Size and number of the hidden layers.
        activation: Their activation, a name in `transformers.activations`.
        stochastic: Tanh-Gaussian instead of deterministic policy.
        autocast_dtype: Autocast type of the hidden layers (bfloat16); weights, head and losses stay
            float32. None runs everything in float32.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        *,
        width: int = 256,
        depth: int = 2,
        activation: str = "relu",
        stochastic: bool = False,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.autocast_dtype = autocast_dtype
        sizes = [obs_dim] + depth * [width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = make_activation(activation)
        head = GaussianHead if stochastic else DeterministicHead
        self.predict_action = head(width, act_dim)

    @property
    def stochastic(self) -> bool:
        return isinstance(self.predict_action, GaussianHead)

    def forward(
        self,
        states: Tensor,
        actions: Tensor,
        rtg: Tensor,
        timesteps: Tensor,
        mask: Tensor | None = None,
    ) -> PolicyOutput:
        """Predict the action of every step from its state.

        Args:
            states: (B, K, obs_dim) normalised.
            actions, rtg, timesteps, mask: As for the decision transformer; unused.

        Returns:
            The policy output for all K steps; undefined at padding.
        """
        return self._predict(states)

    def act(self, states: Tensor, actions: Tensor, rtg: Tensor, timesteps: Tensor) -> PolicyOutput:
        """The policy output for the last step of a history, (B, act_dim)."""
        return self._predict(states[:, -1])

    def _predict(self, states: Tensor) -> PolicyOutput:
        if self.autocast_dtype is None:
            return self.predict_action(self._hidden(states))
        with torch.autocast(states.device.type, self.autocast_dtype):
            hidden = self._hidden(states)
        return self.predict_action(hidden.float())

    def _hidden(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.activation(layer(x))
        return x
