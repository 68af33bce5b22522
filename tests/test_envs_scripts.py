"""Command lines: the parity table, the experts' returns and the benchmark."""

import json
import sys

import numpy as np
import pytest

import d4rl_envs
from benchmarks import bench_envs
from data_sources.behaviour_policy import HandPolicy
from scripts import adroit_expert_scores, env_parity_table
from tasks import get_task
from tests.conftest import GOLDEN, shared_file
from tests.env_golden import TASKS
from tests.test_data_policies import hand_arrays, save
from utils import UserError


def test_parity_table(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["table", "--golden", str(GOLDEN / "envs")])
    env_parity_table.main()
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = {line[0].strip("| "): line[1:] for line in lines[2:]}
    assert set(rows) == set(TASKS)
    assert rows["maze2d-umaze-v1"][:3] == ["0, 0", "0", "0, 0"]
    assert all(row[-1] == "- |" for row in rows.values())  # fewer than 200 steps
    for row in rows.values():
        assert all(float(value) < 1e-9 for value in row[0].split(", "))


def test_parity_table_without_recordings_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["table", "--golden", str(tmp_path)])
    with pytest.raises(UserError, match=r"--golden .*: no file"):
        env_parity_table.main()
    (tmp_path / "hopper-medium-v2.npz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match=r"hopper-medium-v2.npz: cannot be read"):
        env_parity_table.main()


def expert_rows(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["scores", *map(str, arguments)])
    adroit_expert_scores.main()
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    return lines[0], {line[0]: line[1:] for line in lines[2:]}


def test_expert_scores_equal_single_episodes(monkeypatch, capsys, tmp_path):
    for family in adroit_expert_scores.OLD_ENGINE:
        save(tmp_path / f"{family}.npz", hand_arrays(get_task(f"{family}-expert-v1")))
    options = ["--policies", tmp_path, "--episodes", 2, "--seed", 5]
    header, rows = expert_rows(monkeypatch, capsys, *options)
    assert header[1] == "here, 2 episodes"
    assert list(rows) == list(adroit_expert_scores.OLD_ENGINE)

    task = get_task("door-expert-v1")
    policy = HandPolicy(tmp_path / "door.npz", task)
    returns = []
    for seed in (5, 6):
        env = d4rl_envs.make(task)
        obs, _ = env.reset(seed=seed)
        total = 0.0
        for _ in range(task.horizon):
            obs, reward, *_ = env.step(policy.mean(obs))
            total += reward
        returns.append(total)
    score = task.normalized_score(float(np.mean(returns)))
    expected = [f"{np.mean(returns):.1f} ± {np.std(returns):.1f}", "3009.9 ± 18.8"]
    assert rows["door"][:2] == expected
    assert rows["door"][3:] == [f"{score:.1f}", "0%"]
    assert float(rows["door"][2]) < -10


def test_experts_score_as_in_the_old_engine(monkeypatch, capsys):
    folder = shared_file("policies")
    _, rows = expert_rows(monkeypatch, capsys, "--policies", folder, "--episodes", 3)
    for _, _, z, score, success in rows.values():
        assert abs(float(z)) < 4
        assert float(score) > 50
        assert int(success.rstrip("%")) >= 40


def test_expert_scores_reject_missing_and_damaged_policies(monkeypatch, capsys, tmp_path):
    for family in ("pen", "hammer", "relocate"):
        (tmp_path / f"{family}.npz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match=r"--policies .*: no door.npz"):
        expert_rows(monkeypatch, capsys, "--policies", tmp_path)
    (tmp_path / "door.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"pen.npz: "):
        expert_rows(monkeypatch, capsys, "--policies", tmp_path)
    with pytest.raises(UserError, match="--episodes must be positive"):
        expert_rows(monkeypatch, capsys, "--policies", tmp_path, "--episodes", 0)


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
