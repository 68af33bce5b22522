"""Weights of the golden numbers: made by a rule from a seed, so that files need not store them."""

from __future__ import annotations

import numpy as np
import torch


def golden_weights(data, prefix: str, base: int | None = None) -> dict[str, torch.Tensor]:
    """The named float32 tensors of `data[prefix/...]`, tensor i drawn from seed base + i."""
    names = data[f"{prefix}/names"].tolist()
    shapes = data[f"{prefix}/shapes"].tolist()
    base = int(data[f"{prefix}/base"]) if base is None else base
    weights = {}
    for i, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        size = tuple(int(n) for n in shape.split("x"))
        x = np.random.RandomState(base + i).standard_normal(size)
        if len(size) > 1:
            x = x / np.sqrt(size[0] if "transformer.h" in name else size[1])
        else:
            x = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
        if name.startswith("predict_action") and name.endswith("weight"):
            x = 0.1 * x
        weights[name] = torch.from_numpy(x.astype(np.float32))
    return weights


def load_policy(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load golden weights into a DecisionTransformer, without the tensors that nothing uses."""
    unused = ("transformer.wte.weight", "embed_timestep.weight")
    model.load_state_dict({k: v for k, v in weights.items() if k not in unused})


def load_critic(critic: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load golden weights l1..l3 (first Q), l4..l6 (second Q), V_l1..V_l3 into a Critic."""
    critic.load_state_dict(critic_state(weights))


def critic_state(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Golden critic tensors under the names, and stacked as in, `critic.Critic`."""
    state = {k: v for k, v in weights.items() if k.startswith("time_embed")}
    names = {k.removeprefix("Q_"): v for k, v in weights.items()}
    for layer in range(3):
        pair = [f"l{layer + 1}", f"l{layer + 4}"]
        if f"{pair[0]}.weight" in names:
            weight = torch.stack([names[f"{name}.weight"] for name in pair])
            bias = torch.stack([names[f"{name}.bias"] for name in pair])
            state[f"q_net.layers.{layer}.weight"] = weight
            state[f"q_net.layers.{layer}.bias"] = bias[:, None]
        if f"V_l{layer + 1}.weight" in names:
            state[f"v_net.layers.{layer}.weight"] = names[f"V_l{layer + 1}.weight"][None]
            state[f"v_net.layers.{layer}.bias"] = names[f"V_l{layer + 1}.bias"][None, None]
    return state
