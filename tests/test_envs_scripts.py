"""The parity table and the benchmark, as commands."""

import json
import sys

import pytest

from benchmarks import bench_envs
from scripts import env_parity_table
from tests.conftest import GOLDEN
from tests.env_golden import RECORDED
from utils import UserError


def test_parity_table(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["table", "--golden", str(GOLDEN / "envs")])
    env_parity_table.main()
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = {line[0].strip("| "): line[1:] for line in lines[2:]}
    assert set(rows) == {task for tasks in RECORDED.values() for task in tasks}
    assert rows["maze2d-umaze-v1"][:3] == ["0, 0", "0", "0, 0"]
    assert all(row[-1] == "- |" for row in rows.values())  # the recordings here have 40 steps
    for row in rows.values():
        assert all(float(value) < 1e-9 for value in row[0].split(", "))


def test_parity_table_without_recordings(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["table", "--golden", str(tmp_path)])
    with pytest.raises(UserError, match="no recording"):
        env_parity_table.main()
    (tmp_path / "hopper-medium-v2.npz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="not a readable recording"):
        env_parity_table.main()


def test_benchmark(monkeypatch, capsys):
    arguments = ["--tasks", "maze2d-open-v0", "--num_envs", "2", "--seconds", "0.01", "--json"]
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    bench_envs.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["num_envs"] == 2
    assert result["steps_per_second"]["maze2d-open-v0"] > 0
    monkeypatch.setattr(sys, "argv", ["bench", "--num_envs", "0"])
    with pytest.raises(UserError, match="must be positive"):
        bench_envs.main()
