"""The MLP policy: its formula, its inputs, and the objective of TD3+BC."""

from dataclasses import replace

import pytest
import torch

from critic import Critic
from decision_transformer import DecisionMLP
from get_args import Settings
from tasks import TASKS
from trainer import Trainer
from trajectories import Batch

B, K, OBS, ACT = 5, 3, 4, 2
TASK = TASKS["maze2d-umaze-v1"]


def history(seed=0):
    torch.manual_seed(seed)
    return (
        torch.randn(B, K, OBS),
        torch.rand(B, K, ACT) * 2 - 1,
        torch.randn(B, K, 1),
        torch.arange(K).expand(B, -1),
    )


def policy(**options):
    torch.manual_seed(1)
    return DecisionMLP(OBS, ACT, **options)


def numbers(output):
    return list(vars(output).values())


def test_default_sizes_give_the_td3_actor():
    """tanh(W3 relu(W2 relu(W1 s + b1) + b2) + b3), two hidden layers of 256."""
    actor, (states, *rest) = policy(), history()
    assert [tuple(layer.weight.shape) for layer in actor.layers] == [(256, OBS), (256, 256)]
    first, second = actor.layers
    last = actor.predict_action[0]
    hidden = (states @ first.weight.T + first.bias).clamp(min=0)
    hidden = (hidden @ second.weight.T + second.bias).clamp(min=0)
    expected = torch.tanh(hidden @ last.weight.T + last.bias)
    torch.testing.assert_close(actor(states, *rest).mean, expected)


@pytest.mark.parametrize("stochastic", [False, True])
def test_each_action_depends_only_on_its_state(stochastic):
    actor = policy(width=16, depth=1, stochastic=stochastic)
    assert actor.stochastic == stochastic
    states, *rest = history()
    output = numbers(actor(states, *rest))
    _, *others = history(seed=9)
    mask = torch.zeros(B, K, dtype=torch.bool)
    assert all(map(torch.equal, output, numbers(actor(states, *others, mask))))
    changed = states.clone()
    changed[:, 1] += 1.0
    for before, after in zip(output, numbers(actor(changed, *rest)), strict=True):
        assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
        assert (before[:, 1] != after[:, 1]).all()
    for whole, last in zip(output, numbers(actor.act(states, *rest)), strict=True):
        assert last.shape == (B, ACT)
        torch.testing.assert_close(whole[:, -1], last)


@pytest.mark.parametrize("stochastic", [False, True])
def test_an_update_changes_every_weight(stochastic):
    settings = replace(
        Settings(), policy="mlp", embed_dim=16, n_layer=3, stoc=int(stochastic), use_entropy_reg=0,
        activation_function="tanh", learning_rate=0.01,
    )  # fmt: skip
    trainer = Trainer(settings, TASK, torch.device("cpu"))
    before = {name: x.clone() for name, x in trainer.nets.actor.state_dict().items()}
    trainer.start_phase(1.0, 1.0)
    trainer.update(random_batch(), with_actor=True)
    for name, x in trainer.nets.actor.state_dict().items():
        assert not torch.equal(x, before[name]), name


def test_bfloat16_applies_to_hidden_layers_only():
    plain, half = policy(), policy(autocast_dtype=torch.bfloat16)
    args = history()
    ours, theirs = plain(*args).mean, half(*args).mean
    assert theirs.dtype == torch.float32
    assert not torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)


def random_batch():
    states, actions, rtg, timesteps = history()
    return Batch(
        states=states,
        next_states=states + 0.1,
        actions=actions,
        rewards=torch.randn(B, K),
        dones=torch.zeros(B, K),
        rtg=torch.cat([rtg, rtg[:, -1:]], dim=1),
        timesteps=timesteps,
        mask=torch.ones(B, K, dtype=torch.bool),
        rows=torch.zeros(B, K, dtype=torch.int64),
    )


def test_actor_loss_equals_the_td3_bc_objective(monkeypatch):
    """(pi(s) - a)^2 - lambda Q(s, pi(s)), lambda = alpha / mean |Q| (Fujimoto, Gu 2021, eq. 5)."""
    settings = replace(
        Settings(), policy="mlp", embed_dim=16, n_layer=2, stoc=0, use_entropy_reg=0,
        actor_rl_coeff=2.5, normalized_rl_coeff=1,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer = Trainer(settings, TASK, torch.device("cpu"))
    trainer.start_phase(2.5, 1.0)
    logged: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(trainer, "_log", logged.update)
    batch, nets = random_batch(), trainer.nets
    assert isinstance(nets.critic, Critic)
    with torch.no_grad():
        action = nets.actor(batch.states, batch.actions, batch.rtg[:, :-1], batch.timesteps).mean
        q = nets.critic.q(batch.states, action, batch.timesteps)[0]
    weight = 2.5 / q.abs().mean()
    expected = (action - batch.actions).square().mean() - weight * q.mean()
    trainer.update_actor(batch)
    torch.testing.assert_close(logged["actor_loss"], expected)
    torch.testing.assert_close(logged["rl_coeff"], weight)
