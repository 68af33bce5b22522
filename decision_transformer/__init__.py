"""The decision transformer: a GPT-2 decoder over (return-to-go, state, action) tokens."""

from decision_transformer.decision_transformer import DecisionTransformer, TransformerSize
from decision_transformer.policy import Deterministic, Noise, PolicyOutput, TanhGaussian

__all__ = [
    "DecisionTransformer",
    "Deterministic",
    "Noise",
    "PolicyOutput",
    "TanhGaussian",
    "TransformerSize",
]
