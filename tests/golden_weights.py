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
    """Load golden weights into a Critic or a RecurrentCritic."""
    state = {k: v.clone() for k, v in critic.state_dict().items()}
    for name, view in golden_critic_state(state).items():
        view.copy_(weights.pop(name))
    assert not weights
    critic.load_state_dict(state)


def golden_critic_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Views of a Critic's stacked tensors under golden names.

    The two Q networks are l1..l3 and l4..l6, with a V network Q_l1.. and V_l1..V_l3; the recurrent
    ones Q_1 and Q_2, with the linear layers l1 and l2.
    """
    with_v = any(name.startswith("v_net") for name in state)
    views = {}
    for name, tensor in state.items():
        if name.startswith("time_embed"):
            views[name] = tensor
            continue
        net, block, *layer, kind = name.split(".")
        if block == "recurrent":
            views[f"Q_{int(layer[0]) + 1}.{kind}"] = tensor
            continue
        for member, part in enumerate(tensor):
            number = member + 1 if block == "head" else 3 * member + int(layer[0]) + 1
            head = {"q_net": "Q_", "v_net": "V_"}[net] if with_v else ""
            views[f"{head}l{number}.{kind}"] = part[0] if kind == "bias" else part
    return views
