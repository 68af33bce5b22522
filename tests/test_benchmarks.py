"""The benchmarks run and say what they promise; no test looks at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import bench_rollout, bench_scaling, bench_start, bench_update, measuring
from decision_transformer.linear import linear

TINY = ["--embed_dim", "16", "--n_layer", "2", "--n_head", "2", "--device", "cpu"]
UPDATE = {"critic_ms", "actor_ms", "batch_ms", "tflops", "share_of_matmul"}


def run(module, monkeypatch, capsys, *flags):
    """The JSON object of a benchmark's last line."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *flags, "--json"])
    module.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_update(precision, monkeypatch, capsys):
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


def test_start(monkeypatch, capsys):
    flags = ["--rows", "5000", "--repeats", "1", "--device", "cpu"]
    figures = run(bench_start, monkeypatch, capsys, *flags)
    assert 0 < figures["imports_s"] < figures["ready_s"] < figures["first_update_s"]
    assert figures["peak_mib"] > figures["state_mib"] > 4 * 12.6 * 4 / 1.1


def test_scaling_and_its_plot(monkeypatch, capsys, tmp_path):
    values = {"K": [1, 2], "dataset_rows": [1000, 2000], "replay_size": [1, 2]}
    monkeypatch.setattr(bench_scaling, "VALUES", values)
    flags = [*TINY, "--batch_size", "4", "--updates", "1", "--plot", str(tmp_path / "plot.png")]
    figures = run(bench_scaling, monkeypatch, capsys, *flags, "--only", *values)["scaling"]
    assert {name: [int(v) for v in row] for name, row in figures.items()} == values
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_operations_of_fused_and_plain_products():
    x, weight = torch.randn(6, 4), torch.randn(4, 10, requires_grad=True)
    forward = 2 * 6 * 4 * 10
    assert measuring.flops(lambda: linear(x, weight, torch.zeros(10))) == forward
    assert (
        measuring.flops(lambda: linear(x, weight, torch.zeros(10)).sum().backward()) == 2 * forward
    )
    assert measuring.flops(lambda: x @ weight) == forward


def test_scripts_start_from_any_folder(tmp_path):
    for name in ("update", "rollout", "start", "scaling", "load", "envs"):
        path = Path(measuring.__file__).with_name(f"bench_{name}.py")
        command = [sys.executable, str(path), "--help"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
