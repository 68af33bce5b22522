"""The GPT-2 decoder (Radford et al. 2019), without token and position embeddings.

Parameters have the names and layouts of `transformers.GPT2Model` (linear weights are stored
input x output), so state dicts are interchangeable; see `GPT2Decoder.gpt2_state_dict`.
Attention is written out as batched products and a softmax: sequences are short (59 tokens at
K = 20), padded steps are masked, and the last block only queries some positions. On a CPU
`scaled_dot_product_attention` is several times slower for this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_cpu.dropout import Dropout
from fast_cpu.linear import is_packed, linear

if TYPE_CHECKING:
    from transformers import GPT2Config

# GPT2Model's token and position embeddings, which the decoder does not have
_EMBEDDINGS = ("wte.weight", "wpe.weight")
# when compiled for a GPU, sequences of more than _MANY_TOKENS have keys padded to a multiple of
# _KEYS_PER_LOAD, which speeds up the products; without fusion the copies cost more than that saves
_MANY_TOKENS, _KEYS_PER_LOAD = 32, 8


def make_activation(name: str) -> nn.Module:
    """The activation with this name in `transformers.activations`."""
    from transformers.activations import ACT2FN  # slow to import

    module: nn.Module = ACT2FN[name]
    return module


class Linear(nn.Module):
    """A linear layer with its weight stored input x output, as in GPT-2's checkpoints."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        return linear(x, self.weight, self.bias, relu)


class SelfAttention(nn.Module):
    """Multi-head self-attention, scores scaled by 1 / sqrt(head size)."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)
        self.attn_dropout = Dropout(config.attn_pdrop)

    def _heads(self, x: Tensor, parts: int, length: int) -> tuple[Tensor, ...]:
        """(B, T, parts x E) -> `parts` tensors (B x heads, length, head size), zero after T"""
        if length > x.shape[1]:
            x = F.pad(x, (0, 0, 0, length - x.shape[1]))
        x = x.unflatten(-1, (parts, self.n_head, -1)).permute(2, 0, 3, 1, 4)
        return x.flatten(1, 2).unbind(0)

    def forward(self, x: Tensor, bias: Tensor, queries: slice | None) -> Tensor:
        """x (B, T, E) -> (B, Q, E); bias (B, 1, Q, S) or (Q, S) is added to the scores.

        S >= T: the keys are padded with zeros, which the bias must mask.
        """
        (batch, steps, size), length = x.shape, bias.shape[-1]
        weight, c = self.c_attn.weight, self.c_attn.bias
        if queries is None or is_packed(weight):
            q, k, v = self._heads(self.c_attn(x), 3, length)
            q = q[:, :steps] if queries is None else q[:, :steps][:, queries]
        else:
            # some positions query, all provide keys and values
            rows = x[:, queries]
            (q,) = self._heads(linear(rows, weight[:, :size], c[:size]), 1, rows.shape[1])
            k, v = self._heads(linear(x, weight[:, size:], c[size:]), 2, length)
        scores = torch.bmm(q, k.mT).unflatten(0, (batch, self.n_head))
        scores = torch.add(bias, scores, alpha=q.shape[-1] ** -0.5)
        weights = self.attn_dropout(scores.softmax(-1, dtype=torch.float32).to(v.dtype))
        out = torch.bmm(weights.flatten(0, 1), v).unflatten(0, (batch, self.n_head))
        return self.c_proj(out.transpose(1, 2).flatten(2))


def _spare_keys(x: Tensor) -> int:
    """The number of masked keys that pad the attention over tokens (B, T, E)."""
    padded = x.is_cuda and torch.compiler.is_compiling() and x.shape[1] > _MANY_TOKENS
    return -x.shape[1] % _KEYS_PER_LOAD if padded else 0


class MLP(nn.Module):
    """The two-layer MLP of a block, `n_inner` wide."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Linear(config.n_embd, inner)
        self.c_proj = Linear(inner, config.n_embd)
        self.act = make_activation(config.activation_function)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.act, nn.ReLU):
            return self.c_proj(self.c_fc(x, relu=True))
        return self.c_proj(self.act(self.c_fc(x)))


class Block(nn.Module):
    """A pre-LayerNorm transformer block."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        eps = config.layer_norm_epsilon
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=eps)
        self.attn = SelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=eps)
        self.mlp = MLP(config)
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, bias: Tensor, queries: slice | None = None) -> Tensor:
        residual = x if queries is None else x[:, queries]
        x = self.dropout.add(residual, self.attn(self.ln_1(x), bias, queries))
        return self.dropout.add(x, self.mlp(self.ln_2(x)))


class GPT2Decoder(nn.Module):
    """GPT-2's blocks and final LayerNorm, applied to input embeddings."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.drop = Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(
        self,
        embeddings: Tensor,
        keep: Tensor | None = None,
        queries: slice | None = None,
    ) -> Tensor:
        """Decode a sequence causally.

        Args:
            embeddings: (B, T, E) input embeddings.
            keep: (B, T) bool, False at padding, which no other token attends to; None if there is
                no padding.
            queries: Positions whose output is needed; None for all. The last block computes its
                queries, projection and MLP for these only, with identical results.

        Returns:
            (B, Q, E) hidden states after the final LayerNorm; undefined at padding.
        """
        length = embeddings.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=embeddings.device).tril()
        if keep is not None:
            # a padded token attends to itself: a softmax over nothing would be NaN
            itself = torch.eye(length, dtype=torch.bool, device=embeddings.device)
            mask = (mask & keep[:, None, :]) | itself
        bias = embeddings.new_zeros(mask.shape).masked_fill_(~mask, -math.inf)
        if keep is not None:
            bias = bias[:, None]  # for all heads
        if spare := _spare_keys(embeddings):
            bias = F.pad(bias, (0, spare), value=-math.inf)
        x = self.drop(embeddings)
        for block in self.h[:-1]:
            x = block(x, bias)
        rows = bias if queries is None else bias[..., queries, :]
        return self.ln_f(self.h[-1](x, rows, queries))

    def matrices(self) -> set[str]:
        """Names of the weights of the linear layers."""
        layers = [name for name, m in self.named_modules() if isinstance(m, Linear)]
        return {f"{name}.weight" for name in layers}

    def gpt2_state_dict(self) -> dict[str, Tensor]:
        """The weights for `transformers.GPT2Model.load_state_dict`, with zero embeddings."""
        size = self.config.n_embd
        return {
            **self.state_dict(),
            "wte.weight": torch.zeros(self.config.vocab_size, size),
            "wpe.weight": torch.zeros(self.config.n_positions, size),
        }

    def load_gpt2_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the weights of a `transformers.GPT2Model` except its embeddings."""
        self.load_state_dict({k: v for k, v in state.items() if k not in _EMBEDDINGS})
