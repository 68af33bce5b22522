"""Networks of the golden files: sizes from the files, weights drawn by a rule from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from critic import Critic, CriticConfig
from decision_transformer import DecisionTransformer, TransformerSize
from recurrent_critic import RecurrentCritic
from tasks import Task

# attention heads of the files that do not record them
HEADS = 2


@dataclass(frozen=True)
class SizedTask(Task):
    """A task with sizes of its own instead of its family's."""

    obs_dim: int = 0
    act_dim: int = 0


def shapes(data, prefix: str) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of `data[prefix/...]`, by name."""
    return {
        name: tuple(int(n) for n in shape.split("x"))
        for name, shape in zip(
            data[f"{prefix}/names"].tolist(), data[f"{prefix}/shapes"].tolist(), strict=True
        )
    }


def weights(data, prefix: str, base: int | None = None) -> dict[str, torch.Tensor]:
    """The float32 tensors of `data[prefix/...]`; tensor i is drawn from seed base + i."""
    base = int(data[f"{prefix}/base"]) if base is None else base
    drawn = {}
    for i, (name, size) in enumerate(shapes(data, prefix).items()):
        x = np.random.RandomState(base + i).standard_normal(size)
        if len(size) > 1:
            x = x / np.sqrt(size[0] if "transformer.h" in name else size[1])
        else:
            x = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
        if name.startswith("predict_action") and name.endswith("weight"):
            x = 0.1 * x
        drawn[name] = torch.from_numpy(x.astype(np.float32))
    return drawn


def golden_policy(data, prefix: str = "weights", n_head: int = HEADS) -> DecisionTransformer:
    """The policy of a golden file, without dropout."""
    sizes = shapes(data, prefix)
    embed_dim, obs_dim = sizes["embed_state.weight"]
    n_layer = sum(name.endswith(".ln_1.weight") for name in sizes)
    model = DecisionTransformer(
        obs_dim,
        sizes["embed_action.weight"][1],
        TransformerSize(embed_dim, n_layer, n_head, dropout=0.0, embed_dropout=0.0),
        stochastic="predict_action.mu.weight" in sizes,
        ordering="embed_ordering.weight" in sizes,
    ).eval()
    load_policy(model, weights(data, prefix))
    return model


def load_policy(model: torch.nn.Module, drawn: dict[str, torch.Tensor]) -> None:
    """Load golden weights into a policy, except the two tensors that the program never uses."""
    unused = ("transformer.wte.weight", "embed_timestep.weight")
    model.load_state_dict({name: x for name, x in drawn.items() if name not in unused})


def golden_critic(data, prefix: str = "weights", arch: str | None = None, **options) -> Critic:
    """The critic of a golden file.

    Args:
        data: The file.
        prefix: Prefix of its weights.
        arch: "RNN" or "LSTM"; None for a feed-forward critic.
        options: Activation, normalisation and time input for `CriticConfig`.
    """
    sizes = shapes(data, prefix)
    inputs = "" if "states" in data else "batch0/"
    obs_dim, act_dim = (data[f"{inputs}{name}"].shape[-1] for name in ("states", "actions"))
    with_v = any(name.startswith("V_") for name in sizes)
    if arch:
        config = CriticConfig(hidden_dim=sizes["Q_1.weight_hh_l0"][1], **options)
        critic: Critic = RecurrentCritic(obs_dim, act_dim, config, arch=arch)
    else:
        hidden_dim, features = sizes["Q_l1.weight" if with_v else "l1.weight"]
        time_dim = features - obs_dim - act_dim
        config = CriticConfig(hidden_dim=hidden_dim, time_dim=time_dim, **options)
        critic = Critic(obs_dim, act_dim, config, with_v=with_v)
    load_critic(critic, weights(data, prefix))
    return critic


def load_critic(critic: torch.nn.Module, drawn: dict[str, torch.Tensor]) -> None:
    """Load golden weights into a critic."""
    state = {name: x.clone() for name, x in critic.state_dict().items()}
    for name, view in golden_critic_state(state).items():
        view.copy_(drawn.pop(name))
    assert not drawn
    critic.load_state_dict(state)


def golden_critic_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Views of a critic's stacked tensors under golden names.

    Feed-forward Q networks are l1..l3 and l4..l6, or Q_l1..Q_l6 next to a V network V_l1..V_l3;
    recurrent ones are Q_1 and Q_2 with output layers l1 and l2.
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
