"""The decision transformer (Chen et al. 2021, arXiv 2106.01345; online: arXiv 2202.05607).

A trajectory is the token sequence  R_0 s_0 a_0 R_1 s_1 a_1 ...  of return-to-go, state and
action. The output at s_t predicts a_t. The outputs at a_t predict s_{t+1} and R_{t+1}; no loss uses
them, but the published model has these heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from decision_transformer.gpt2 import GPT2Decoder
from decision_transformer.policy import DeterministicHead, GaussianHead, PolicyOutput
from decision_transformer.rounded import Rounded
from fast_cpu.acting_twin import ActingTwin
from trajectories import MAX_TIMESTEPS

if TYPE_CHECKING:
    from transformers import GPT2Config


@dataclass(frozen=True)
class TransformerSize:
    """Shape and regularisation of the transformer.

    Attributes:
        embed_dim, n_layer, n_head: Width, depth and attention heads per block.
        activation: Activation of the MLPs, a name in `transformers.activations`.
        dropout: Dropout of attention weights and residual branches.
        embed_dropout: Dropout of the token embeddings.
    """

    embed_dim: int = 512
    n_layer: int = 4
    n_head: int = 4
    activation: str = "relu"
    dropout: float = 0.1
    embed_dropout: float = 0.1

    def gpt2_config(self) -> GPT2Config:
        from transformers import GPT2Config  # slow to import

        return GPT2Config(
            vocab_size=1,
            bos_token_id=None,
            eos_token_id=None,
            n_positions=1024,
            n_embd=self.embed_dim,
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_inner=4 * self.embed_dim,
            activation_function=self.activation,
            resid_pdrop=self.dropout,
            attn_pdrop=self.dropout,
            embd_pdrop=self.embed_dropout,
        )


class DecisionTransformer(nn.Module):
    """Policy over sub-trajectories of up to K steps.

    Args:
        obs_dim, act_dim: Lengths of an observation and of an action.
        size: Shape of the transformer.
        stochastic: Tanh-Gaussian instead of deterministic policy.
        ordering: Add a learned embedding of the absolute timestep to all three tokens of a step.
        dtype: Compute type of the transformer. With bfloat16 its weights are rounded for each
            pass; weights, gradients, embeddings, heads and losses stay float32.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        size: TransformerSize,
        *,
        stochastic: bool = False,
        ordering: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.transformer = GPT2Decoder(size.gpt2_config())
        self._matrices = self.transformer.matrices()
        self._twin: ActingTwin[GPT2Decoder] = ActingTwin()
        self.embed_ordering = nn.Embedding(MAX_TIMESTEPS, size.embed_dim) if ordering else None
        self.embed_return = nn.Linear(1, size.embed_dim)
        self.embed_state = nn.Linear(obs_dim, size.embed_dim)
        self.embed_action = nn.Linear(act_dim, size.embed_dim)
        self.embed_ln = nn.LayerNorm(size.embed_dim)
        self.predict_state = nn.Linear(size.embed_dim, obs_dim)
        self.predict_return = nn.Linear(size.embed_dim, 1)
        head = GaussianHead if stochastic else DeterministicHead
        self.predict_action = head(size.embed_dim, act_dim)

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
        """Predict the action of every step from the history up to its state.

        Args:
            states: (B, K, obs_dim) normalised.
            actions: (B, K, act_dim); the last one is not used.
            rtg: (B, K, 1) scaled return-to-go.
            timesteps: (B, K) int64 steps since the episode's start, below 1000.
            mask: (B, K) bool, False at padded steps, which no other step attends to; None if
                there is no padding.

        Returns:
            The policy output for all K steps; undefined at padding.
        """
        self._twin.clear()
        # no action prediction attends to the last action, so its token is omitted; with K = 1 the
        # empty slice still gives the action embedding a (zero) gradient
        tokens = self._tokens(states, actions[:, :-1], rtg, timesteps)
        keep = None if mask is None else mask.repeat_interleave(3, dim=1)[:, :-1]
        return self.predict_action(self._decode(tokens, keep, slice(1, None, 3)))

    def act(self, states: Tensor, actions: Tensor, rtg: Tensor, timesteps: Tensor) -> PolicyOutput:
        """The policy output for the last step of an unpadded history, (B, act_dim).

        Takes the arguments of `forward` for the K steps so far.
        """
        tokens = self._tokens(states, actions[:, :-1], rtg, timesteps)
        # checked here because a compiled forward cannot
        acting = torch.is_inference_mode_enabled()
        hidden = self._decode(tokens, None, slice(-1, None), acting)
        return self.predict_action(hidden[:, 0])

    def predict_next(
        self,
        states: Tensor,
        actions: Tensor,
        rtg: Tensor,
        timesteps: Tensor,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predicted next states (B, K, obs_dim) and returns-to-go (B, K, 1)."""
        tokens = self._tokens(states, actions, rtg, timesteps)
        keep = None if mask is None else mask.repeat_interleave(3, dim=1)
        hidden = self._decode(tokens, keep, slice(2, None, 3))
        return self.predict_state(hidden), self.predict_return(hidden)

    def _tokens(self, states: Tensor, actions: Tensor, rtg: Tensor, timesteps: Tensor) -> Tensor:
        """Interleave to (B, T, E): 3K tokens, or 3K - 1 without the last action."""
        batch, steps = timesteps.shape
        kinds = [self.embed_return(rtg), self.embed_state(states), self.embed_action(actions)]
        if self.embed_ordering is not None:
            order = self.embed_ordering(timesteps)
            kinds = [kind + order[:, : kind.shape[1]] for kind in kinds]
        length = 2 * steps + actions.shape[1]
        tokens = states.new_empty(batch, length, kinds[0].shape[-1])
        for offset, kind in enumerate(kinds):
            tokens[:, offset::3] = kind
        return self.embed_ln(tokens)

    def _decode(
        self, tokens: Tensor, keep: Tensor | None, queries: slice, acting: bool = False
    ) -> Tensor:
        if acting and tokens.device.type == "cpu":
            ready = self._twin.of(self.transformer, self._matrices, self.dtype)
            return ready(tokens.to(self.dtype), keep, queries).float()
        if self.dtype == tokens.dtype:
            return self.transformer(tokens, keep, queries)
        names, parameters = zip(*self.transformer.named_parameters(), strict=True)
        weights = dict(zip(names, Rounded.apply(self.dtype, *parameters), strict=True))
        inputs = (tokens.to(self.dtype), keep, queries)
        return functional_call(self.transformer, weights, inputs).float()
