"""The benchmarks run and report what they document; no test depends on a time."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import bench_plain, bench_rollout, bench_start, bench_update, measuring
from benchmarks.plain import PlainTD3
from fast_cpu.dropout import Dropout
from fast_cpu.linear import linear
from get_args import Settings
from replay_buffer import ReplayBuffer
from tests.conftest import ROOT
from trainer import Trainer
from trajectories import clamp_action

TINY = ["--embed_dim", "16", "--n_layer", "1", "--n_head", "2", "--device", "cpu"]
UPDATE = {"critic_ms", "actor_ms", "batch_ms", "tflops", "share_of_matmul"}
# runs each script given; the modules of one script are not available to the next
RUN_SCRIPTS = """
import runpy, sys
path, before = list(sys.path), set(sys.modules)
for script in sys.argv[2:]:
    runpy.run_path(script)
    sys.path[:] = path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(sys.argv[1]) and "site-packages" not in file:
            del sys.modules[name]
"""


def run(module, monkeypatch, capsys, *flags):
    """The JSON object in a benchmark's last line."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *flags, "--json"])
    module.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_update_reports_times_and_operations(precision, monkeypatch, capsys):
    flags = [*TINY, "--K", "3", "--batch_size", "4", "--updates", "1", "--precision", precision]
    figures = run(bench_update, monkeypatch, capsys, *flags)
    assert set(figures) >= UPDATE
    assert all(figures[name] > 0 for name in UPDATE)
    assert figures["K"] == 3


def test_rollout_steps_every_environment_to_the_end(monkeypatch, capsys):
    flags = [*TINY, "--envs", "2", "--steps", "40", "--context", "2", "--repeats", "1"]
    figures = run(bench_rollout, monkeypatch, capsys, *flags)
    assert figures["act_ms"] > 0
    assert figures["env_ms"] > 0


def test_plain_implementation_computes_the_same_numbers():
    """Padding and clipping included."""
    task = measuring.TASK
    settings = replace(
        Settings(), embed_dim=16, n_layer=2, n_head=2, dropout=0.0, stoc=0, use_entropy_reg=0,
        K=8, warmup_steps=3, learning_rate=0.01, critic_learning_rate=0.01,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer = Trainer(settings, task, torch.device("cpu"))
    plain, expected = (PlainTD3(settings, task.obs_dim, task.act_dim) for _ in range(2))
    for module in (*trainer.nets.actor.modules(), *plain.actor.modules()):
        if isinstance(module, Dropout | torch.nn.Dropout):  # no setting for the embeddings' dropout
            module.p = 0.0
    nets = trainer.nets
    plain.load(nets.actor, nets.critic)
    trainer.start_phase(settings.actor_rl_coeff, settings.actor_sup_coeff)
    nets.actor.train()
    data = measuring.random_dataset(2)
    data.terminals[[999, 1999]] = True
    buffer = ReplayBuffer(data, 10, 0.001)
    # the last sub-trajectories are padded
    for rows in ([0, 700, 1400], [5, 997, 1100], [300, 994, 1999]):
        batch = buffer.gather(torch.tensor(rows), settings.K)
        torch.manual_seed(1)
        plain.update_critic(batch)
        plain.update_actor(batch)
        torch.manual_seed(1)
        trainer.update(batch, with_actor=True)
    for (actor, critics), ours in (
        ((plain.actor, plain.critics), (nets.actor, nets.critic)),
        ((plain.actor_target, plain.critic_targets), (nets.actor_target, nets.critic_target)),
    ):
        expected.load(*ours)
        for trained, loaded in ((actor, expected.actor), (critics, expected.critics)):
            for (name, x), y in zip(
                trained.state_dict().items(), loaded.state_dict().values(), strict=True
            ):
                torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5, msg=name)

    history = buffer.gather(torch.tensor([0, 1000]), 3)
    nets.actor.eval()
    plain.actor.eval()
    steps = history.states, history.actions, history.rtg[:, :-1]
    with torch.no_grad():
        action = clamp_action(nets.actor.act(*steps, history.timesteps).mean)
    torch.testing.assert_close(plain.act(*steps, 3), action)


def test_plain_reports_speedups_on_the_requested_device(monkeypatch, capsys):
    devices = []

    def in_this_process(function, args):
        devices.append(args.device)
        return function(args)

    monkeypatch.setattr(measuring, "in_new_process", in_this_process)
    flags = [*TINY, "--K", "3", "--batch_size", "4", "--updates", "1", "--rounds", "1"]
    figures = run(bench_plain, monkeypatch, capsys, *flags, "--steps", "5")
    for name in ("critic", "actor", "update", "act"):
        quotient = figures[f"plain_{name}_ms"] / figures[f"{name}_ms"]
        assert figures[f"{name}_speedup"] == pytest.approx(quotient) and quotient > 0
    assert devices == [torch.device("cpu")] * 3


def test_start_reports_time_and_memory(monkeypatch, capsys):
    flags = ["--rows", "5000", "--repeats", "1", "--device", "cpu"]
    figures = run(bench_start, monkeypatch, capsys, *flags)
    assert 0 < figures["imports_s"] < figures["ready_s"] < figures["first_update_s"]
    assert figures["peak_mib"] > figures["state_mib"] > 4 * 12.6 * 4 / 1.1
    assert figures["peak_mib"] > figures["small_peak_mib"] > figures["imports_mib"]
    assert 0 < figures["memory_ratio"] < figures["memory_ratio_with_libraries"]


def test_operations_are_counted_in_fused_and_plain_products():
    x, weight = torch.randn(6, 4), torch.randn(4, 10, requires_grad=True)
    forward = 2 * 6 * 4 * 10
    fused = lambda: linear(x, weight, torch.zeros(10))  # noqa: E731
    assert measuring.flops(fused) == forward
    assert measuring.flops(lambda: fused().sum().backward()) == 2 * forward
    assert measuring.flops(lambda: x @ weight) == forward


def test_scripts_start_from_any_folder(tmp_path):
    scripts = sorted(Path(measuring.__file__).parent.glob("bench_*.py"))
    assert scripts
    command = [sys.executable, "-c", RUN_SCRIPTS, str(ROOT), *map(str, scripts)]
    subprocess.run(command, cwd=tmp_path, check=True)
