"""Recurrent critics: golden numbers, their equations, whole runs."""

import copy
import json
import runpy
import shlex
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from critic import Critic, CriticConfig
from get_args import parse_args
from main import main
from recurrent_critic import NUM_LAYERS, RecurrentCritic
from run.folder import method_name
from run.setting_checks import notices
from run.stopping import EXIT_INTERRUPTED
from tests.conftest import ROOT, golden_file
from tests.golden_weights import golden_critic
from tests.tiny_runs import (
    DETERMINISTIC,
    STOCHASTIC,
    interrupted_run,
    metrics_of,
    refusal,
    run,
    same_weights,
)

OBS, ACT, B, K = 4, 3, 2, 5
ARCHS = ("RNN", "LSTM")
IQL = shlex.split(
    "--rl_algo IQL --num_actor_update_interval 1 --use_entropy_reg 0 --critic_time_aware 2 "
    "--critic_activation tanh"
)


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=tolerance, atol=tolerance)


def make(arch="RNN", config=None, **options):
    return RecurrentCritic(OBS, ACT, config or CriticConfig(hidden_dim=8), arch=arch, **options)


def inputs(*shape):
    torch.manual_seed(1)
    timesteps = torch.randint(0, 1000, shape)
    return torch.randn(*shape, OBS), torch.randn(*shape, ACT), timesteps


@pytest.mark.parametrize(("arch", "normalized"), [*product(ARCHS, (0, 1))])
def test_q_equals_golden(arch, normalized):
    data = np.load(golden_file(f"recurrent_q_{arch.lower()}_ln{normalized}.npz"))
    states, actions = torch.from_numpy(data["states"]), torch.from_numpy(data["actions"])
    normalization = "layernorm" if normalized else None
    critic = golden_critic(data, arch=arch, normalization=normalization)
    timesteps = torch.zeros(states.shape[:2], dtype=torch.int64)
    q = critic.q(states, actions, timesteps)
    close(q[0], data["q1"][..., 0])
    close(q[1], data["q2"][..., 0])
    close(critic.q1(states, actions, timesteps), data["q1"][..., 0])
    close(critic.min_q(states, actions, timesteps), np.minimum(data["q1"], data["q2"])[..., 0])


def step_by_step(weights, x, arch, activation):
    """Outputs (K, width) of the layers for one sequence (K, in), by their equations."""
    for layer in range(NUM_LAYERS):
        w, u = weights[f"weight_ih_l{layer}"], weights[f"weight_hh_l{layer}"]
        bias = weights[f"bias_ih_l{layer}"] + weights[f"bias_hh_l{layer}"]
        h = c = torch.zeros(u.shape[1])
        outputs = []
        for step in x:
            z = w @ step + u @ h + bias
            if arch == "RNN":
                h = activation(z)
            else:
                enter, forget, cell, leave = z.chunk(4)
                c = forget.sigmoid() * c + enter.sigmoid() * cell.tanh()
                h = leave.sigmoid() * c.tanh()
            outputs.append(h)
        x = torch.stack(outputs)
    return x


@pytest.mark.parametrize(
    ("arch", "activation", "norm"),
    [*product(ARCHS, ("relu", "tanh"), (None, "layernorm"))],
)
def test_members_follow_their_equations(arch, activation, norm):
    config = CriticConfig(activation, norm, hidden_dim=8)
    critic = make(arch, config, num_q=3, with_v=True)
    states, actions, timesteps = inputs(B, K)
    q, v = critic.q(states, actions, timesteps), critic.v(states)
    function = getattr(torch, activation)
    x = torch.cat([states, actions], dim=-1)
    networks = [(q[i], critic.q_net, i, x) for i in range(3)] + [(v, critic.v_net, 0, states)]
    for ours, network, member, features in networks:
        weights, heads = network.recurrent[member].state_dict(), network.head.state_dict()
        for row in range(B):
            h = step_by_step(weights, features[row], arch, function)
            if norm:
                h = (h - h.mean(-1, keepdim=True)) / (
                    h.var(-1, keepdim=True, correction=0) + 1e-5
                ) ** 0.5
            value = function(h) @ heads["weight"][member, 0] + heads["bias"][member, 0, 0]
            close(ours[row], value)


@pytest.mark.parametrize("arch", ARCHS)
def test_values_depend_on_the_past_and_not_on_the_future(arch):
    critic = make(arch, with_v=True)
    states, actions, timesteps = inputs(B, K)
    changed = states.clone()
    changed[:, 2] += 1.0
    pairs = [
        (critic.q(states, actions, timesteps)[0], critic.q(changed, actions, timesteps)[0]),
        (critic.v(states), critic.v(changed)),
    ]
    for before, after in pairs:
        assert torch.equal(before[:, :2], after[:, :2])
        assert (before[:, 2:] != after[:, 2:]).all()


@pytest.mark.parametrize(("num_q", "with_v"), [(2, False), (0, True), (2, True), (1, True)])
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("time_aware", [0, 1])
def test_shapes_and_gradients(arch, num_q, with_v, time_aware):
    config = CriticConfig(normalization="layernorm", time_aware=time_aware, hidden_dim=8)
    critic = make(arch, config, num_q=num_q, with_v=with_v)
    for shape in ((K,), (B, K), (3, B, K)):
        states, actions, timesteps = inputs(*shape)
        actions.requires_grad_()
        total = torch.zeros(())
        if num_q:
            q = critic.q(states, actions, timesteps)
            assert q.shape == (num_q, *shape)
            assert critic.min_q(states, actions, timesteps).shape == shape
            total = total + q.square().sum()
        if with_v:
            v = critic.v(states)
            assert v.shape == shape
            total = total + v.square().sum()
        critic.zero_grad()
        total.backward()
        assert all(p.grad is not None and p.grad.any() for p in critic.parameters())
        assert actions.grad is None or actions.grad.any()
        assert (actions.grad is not None) == bool(num_q)
    if not num_q:
        with pytest.raises(RuntimeError, match="no Q"):
            critic.q(states, actions, timesteps)
    if not with_v:
        with pytest.raises(RuntimeError, match="no V"):
            critic.v(states)


@pytest.mark.parametrize("time_aware", [1, 2])
def test_only_time_aware_q_depends_on_time(time_aware):
    states, actions, timesteps = inputs(B, K)
    for aware in (0, time_aware):
        critic = make(config=CriticConfig(time_aware=aware, hidden_dim=8))
        q, later = (critic.q(states, actions, t) for t in (timesteps, (timesteps + 1) % 1000))
        assert torch.equal(q, later) != bool(aware)


@pytest.mark.parametrize("arch", ARCHS)
def test_recurrent_critics_learn_a_value_of_the_previous_action(arch):
    """Feed-forward critics cannot: their error stays at the target's variance, 1."""
    torch.manual_seed(0)
    config, errors = CriticConfig("tanh", hidden_dim=16), []
    for critic in (make(arch, config), Critic(OBS, ACT, config)):
        optimizer = torch.optim.Adam(critic.parameters(), lr=0.02)
        for _ in range(150):
            actions = torch.randn(64, K, ACT)
            states, timesteps = torch.zeros(64, K, OBS), torch.zeros(64, K, dtype=torch.int64)
            q = critic.q(states, actions, timesteps)
            error = (q[..., 1:] - actions[:, :-1, 0]).square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        errors.append(error.item())
    assert errors[0] < 0.3
    assert errors[1] > 0.7


def test_a_copy_keeps_its_weights_in_one_block(monkeypatch):
    """Otherwise cuDNN would compact them at every forward pass, with a warning."""
    critic, flattened = make(), []
    monkeypatch.setattr(nn.RNN, "flatten_parameters", lambda self: flattened.append(self))
    twin = copy.deepcopy(critic)
    assert flattened == list(twin.q_net.recurrent)
    states, actions, timesteps = inputs(B, K)
    args = (states, actions, timesteps)
    assert torch.equal(critic.q(*args), twin.q(*args))
    with torch.no_grad():
        twin.q_net.recurrent[0].weight_hh_l2.add_(1.0)
    assert not torch.equal(critic.q(*args)[0], twin.q(*args)[0])


@pytest.mark.usefixtures("short_horizons")
@pytest.mark.parametrize(("arch", "method"), [("RNN", STOCHASTIC), ("LSTM", IQL)])
def test_an_interrupted_run_resumes_identically(data_dir, tmp_path, arch, method):
    flags = [*method, "--arch", arch, "--K", "3", "--eval_context_length", "2"]
    flags += ["--max_online_iters", "2", "--eval_interval", "1"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert run(data_dir, whole, *flags, recurrent=True) == 0
    rows = metrics_of(whole)
    assert [row["phase"] for row in rows] == ["pretrain", "online", "online"]
    assert all(np.isfinite(value) for row in rows for key, value in row.items() if "/" in key)
    config = json.loads((whole / "config.json").read_text())
    assert config["recurrent"] is True
    assert config["method"].endswith(f"-{arch}")

    code = interrupted_run(data_dir, part, *flags, when=1, recurrent=True)
    assert code == EXIT_INTERRUPTED
    assert main(["--resume", str(part)], recurrent=True) == 0
    assert metrics_of(part) == rows
    assert same_weights(part, whole)


def contents(run_dir):
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("short_horizons")
def test_each_entry_point_resumes_only_its_own_runs(data_dir, tmp_path, capsys):
    for recurrent, program in ((True, "recurrent_main.py"), (False, "main.py")):
        run_dir = tmp_path / program
        flags = [*DETERMINISTIC, "--max_online_iters", "0"]
        assert run(data_dir, run_dir, *flags, recurrent=recurrent) == 0
        before = contents(run_dir)
        capsys.readouterr()
        error = refusal(capsys, main(["--resume", str(run_dir)], not recurrent))
        assert error.endswith(f"use {program}\n")
        assert contents(run_dir) == before
    resume = ["--resume", str(tmp_path / "recurrent_main.py"), "--arch", "LSTM"]
    assert "--arch LSTM" in refusal(capsys, main(resume, True))


def test_the_entry_point_trains_recurrent_critics(monkeypatch):
    given = []
    monkeypatch.setattr("main.main", lambda **options: given.append(options))
    monkeypatch.setattr("run.stopping.run_program", lambda entry: entry())
    runpy.run_path(str(ROOT / "recurrent_main.py"), run_name="__main__")
    assert given == [{"recurrent": True}]


def test_help_and_notices_mention_recurrent_critics(capsys):
    with pytest.raises(SystemExit):
        main(["--help"], recurrent=True)
    assert "recurrent critics (--arch)" in " ".join(capsys.readouterr().out.split())
    argv = ["--arch", "LSTM", "--stoc", "0", "--use_entropy_reg", "0"]
    assert "recurrent_main.py" in notices(parse_args(argv))[0]
    assert notices(parse_args(argv, recurrent=True)) == []
    assert method_name(parse_args(argv, recurrent=True)) == "TD3+ODT-LSTM"
    assert method_name(parse_args(argv)) == "TD3+ODT"


@pytest.mark.usefixtures("short_horizons")
def test_options_of_feed_forward_critics_are_rejected(data_dir, tmp_path, capsys):
    flags = [*DETERMINISTIC, "--critic_activation", "swish"]
    error = refusal(capsys, run(data_dir, tmp_path / "run", *flags, recurrent=True))
    assert "relu and tanh" in error
    assert not (tmp_path / "run").exists()
