"""Policies: a GPT-2 decoder over (return-to-go, state, action) tokens, or an MLP of the state."""

from decision_transformer.decision_mlp import DecisionMLP
from decision_transformer.decision_transformer import DecisionTransformer, TransformerSize
from decision_transformer.policy import Deterministic, Noise, PolicyOutput, TanhGaussian

# the policy network
Actor = DecisionTransformer | DecisionMLP

__all__ = [
    "Actor",
    "DecisionMLP",
    "DecisionTransformer",
    "Deterministic",
    "Noise",
    "PolicyOutput",
    "TanhGaussian",
    "TransformerSize",
]
