"""Critics: golden numbers, plain PyTorch modules, initialisation."""

import numpy as np
import pytest
import torch
from torch import nn

from critic import ACTIVATIONS, Critic, CriticConfig
from tests.conftest import golden_file, golden_files
from tests.golden_weights import golden_critic

Q_FILES = golden_files("q_critic_*.npz")


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("stem", Q_FILES)
def test_q_equals_golden(stem):
    data = np.load(Q_FILES[stem])
    time, norm, activation = stem.removeprefix("q_critic_time").split("_")
    norm = None if norm == "nonorm" else norm
    critic = golden_critic(data, activation=activation, normalization=norm, time_aware=int(time))
    states, actions, timesteps = (
        torch.from_numpy(data[key]) for key in ("states", "actions", "timesteps")
    )
    inputs = (states, actions, timesteps)
    q = critic.q(*inputs)
    close(q[0], data["q1"][..., 0])
    close(q[1], data["q2"][..., 0])
    close(critic.q1(*inputs), data["q1"][..., 0])
    close(critic.min_q(*inputs), np.minimum(data["q1"], data["q2"])[..., 0])


def test_v_and_q_equal_golden():
    data = np.load(golden_file("vq_critic.npz"))
    states, actions = torch.from_numpy(data["states"]), torch.from_numpy(data["actions"])
    critic = golden_critic(data, normalization="layernorm")
    timesteps = torch.zeros(states.shape[:2], dtype=torch.int64)
    q = critic.q(states, actions, timesteps)
    close(q[0], data["q1"][..., 0])
    close(q[1], data["q2"][..., 0])
    close(critic.v(states), data["v"][..., 0])


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("norm", [None, "layernorm", "affinenorm"])
def test_members_equal_separate_networks(activation, norm):
    """Each member computes the same as a stack of torch's own modules."""
    modules = {"relu": nn.ReLU, "tanh": nn.Tanh, "leakyrelu": nn.LeakyReLU, "swish": nn.SiLU}
    config = CriticConfig(activation, norm, hidden_dim=16)
    critic = Critic(4, 3, config, num_q=3)
    x = torch.randn(5, 7)
    q = critic.q(x[:, :4], x[:, 4:], torch.zeros(5, dtype=torch.int64))
    weights = critic.state_dict()
    for member in range(3):
        stack = nn.Sequential()
        for i in range(3):
            weight = weights[f"q_net.layers.{i}.weight"][member]
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            linear.weight.data = weight
            linear.bias.data = weights[f"q_net.layers.{i}.bias"][member, 0]
            stack.append(linear)
            if i < 2:
                if norm:
                    stack.append(nn.LayerNorm(16, elementwise_affine=norm == "affinenorm"))
                stack.append(modules[activation]())
        close(q[member], stack(x)[:, 0])


def test_affine_normalization_is_trained():
    critic = Critic(4, 3, CriticConfig(normalization="affinenorm"))
    names = [name for name, _ in critic.named_parameters() if "norms" in name]
    assert len(names) == 4
    critic.q(
        torch.randn(2, 4), torch.randn(2, 3), torch.zeros(2, dtype=torch.int64)
    ).sum().backward()
    assert all(
        p.grad is not None and p.grad.any() for n, p in critic.named_parameters() if "norms.0" in n
    )


def test_initialisation_equals_that_of_linear_layers():
    torch.manual_seed(0)
    critic = Critic(11, 3, CriticConfig(hidden_dim=64))
    for i, inputs in enumerate((14, 64, 64)):
        bound = inputs**-0.5
        weight = critic.get_parameter(f"q_net.layers.{i}.weight")
        for tensor in (weight, critic.get_parameter(f"q_net.layers.{i}.bias")):
            assert tensor.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
        assert not torch.equal(weight[0], weight[1])


def test_binary_time_is_most_significant_first():
    critic = Critic(1, 1, CriticConfig(time_aware=2, time_dim=4))
    bits = critic._time_features(torch.tensor([[0, 1, 10]]))
    assert bits.tolist() == [[[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0]]]
