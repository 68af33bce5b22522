"""The run's folder, config.json, metrics files, TensorBoard and the console."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import logger as logger_module
from get_args import Settings, parse_args
from logger import Logger
from run.config import git_state
from run.files import CHECKPOINT_FOLDER
from run.folder import create_run_dir, method_name
from run.resume import read_settings
from run.writers import MetricsFiles
from tests.documented_metrics import documented_metrics
from utils import UserError

QUIET = replace(Settings(), log_to_tb=False)
NOW = datetime(2026, 1, 2, 3, 4, 5)


def rows_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def csv_of(run_dir: Path) -> list[dict]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "argv, name",
    [
        ([], "TD3+ODT"),
        (["--actor_rl_coeff=0"], "ODT"),
        (["--actor_rl_coeff=0", "--rl_algo=SAC"], "ODT"),
        (["--actor_sup_coeff=0"], "TD3"),
        (["--rl_algo=sac"], "SAC+ODT"),
        (["--rl_algo=IQL", "--actor_sup_coeff=0"], "IQL"),
        (["--rl_algo=ddpg"], "DDPG+ODT"),
        (["--policy=mlp"], "TD3+BC"),
        (["--policy=mlp", "--actor_rl_coeff=0"], "BC"),
        (["--policy=mlp", "--rl_algo=IQL", "--actor_sup_coeff=0"], "IQL-MLP"),
    ],
)
def test_method_is_named_by_its_coefficients(argv: list[str], name: str) -> None:
    assert method_name(parse_args(argv)) == name


def test_run_folder_is_named_by_task_method_seed_and_time(tmp_path: Path) -> None:
    settings = replace(Settings(), save_dir=str(tmp_path), env="pen-human-v1", seed=7)
    base = tmp_path / "pen-human-v1"
    assert create_run_dir(settings, NOW) == base / "TD3+ODT" / "seed7" / "20260102-030405"
    named = replace(settings, exp_name="try", suffix="_b", actor_rl_coeff=0.0)
    assert create_run_dir(named, NOW) == base / "ODT-try_b" / "seed7" / "20260102-030405"


def test_runs_started_in_the_same_second_get_separate_folders(tmp_path: Path) -> None:
    settings = replace(Settings(), save_dir=str(tmp_path))
    folders = [create_run_dir(settings, NOW) for _ in range(3)]
    assert len(set(folders)) == 3 and all(folder.is_dir() for folder in folders)


def test_run_dir_must_be_new_or_empty(tmp_path: Path) -> None:
    settings = replace(Settings(), run_dir=str(tmp_path / "a" / "b"))
    assert create_run_dir(settings) == tmp_path / "a" / "b"
    assert create_run_dir(settings) == tmp_path / "a" / "b"
    (tmp_path / "a" / "b" / "model.pt").write_text("precious")
    with pytest.raises(UserError, match=r"--run_dir.*not empty; choose a new folder$"):
        create_run_dir(settings)
    assert (tmp_path / "a" / "b" / "model.pt").read_text() == "precious"
    (tmp_path / "a" / "b" / CHECKPOINT_FOLDER).mkdir()
    (tmp_path / "a" / "b" / CHECKPOINT_FOLDER / "000000-pretrain-1.pt").touch()
    with pytest.raises(UserError, match=r"not empty; .*, or pass --resume .* to resume its run$"):
        create_run_dir(settings)


@pytest.mark.parametrize("flag", ["run_dir", "save_dir"])
@pytest.mark.parametrize("name", ["file", "file/x"])
def test_unwritable_folder_is_refused(tmp_path: Path, flag: str, name: str) -> None:
    (tmp_path / "file").write_text("kept")
    chosen: dict[str, Any] = {flag: str(tmp_path / name)}
    with pytest.raises(UserError, match=f"--{flag}.*not writable") as error:
        create_run_dir(replace(Settings(), **chosen))
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "kept"


def test_config_is_complete_before_training_starts(tmp_path: Path) -> None:
    fingerprint = {"mean_normalized_score": np.float32(44.5), "rows": np.int64(3), "x": np.nan}
    Logger(tmp_path, replace(QUIET, seed=5), fingerprint, "MuJoCo 3")
    config = json.loads((tmp_path / "config.json").read_text())
    assert read_settings([f"--resume={tmp_path}"]) == replace(
        QUIET, seed=5, resume=str(tmp_path), run_dir=str(tmp_path)
    )
    assert config["method"] == "TD3+ODT"
    assert config["fingerprint"] == {"mean_normalized_score": 44.5, "rows": 3, "x": "NaN"}
    assert config["engine"] == "MuJoCo 3"
    assert config["packages"]["torch"] == torch.__version__
    assert config["python"] == sys.version.split()[0]
    assert config["platform"] and config["command"]
    assert datetime.fromisoformat(config["started"]).tzinfo is not None


def make_repository(folder: Path) -> str:
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    (folder / "code.py").write_text("x = 1\n")
    git("add", "code.py")
    git("commit", "-q", "-m", "first")
    return git("rev-parse", "HEAD")


def test_git_state_writes_nothing(tmp_path: Path) -> None:
    commit = make_repository(tmp_path)
    # a touched file makes a plain `git status` refresh the index
    (tmp_path / "code.py").touch()

    def snapshot() -> dict:
        files = [path for path in (tmp_path / ".git").rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = snapshot()
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "code.py").write_text("x = 2\n")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}
    assert snapshot() == before


def test_git_state_without_repository_or_git(tmp_path: Path, monkeypatch) -> None:
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


def test_log_appends_one_row_to_each_file(tmp_path: Path, capsys) -> None:
    log = Logger(tmp_path, QUIET)
    scalar: Any = torch.tensor(1.5)
    log.log("pretrain", 0, 0, {"training/Q_mean": scalar})
    log.log("online", 3, 2000, {"training/Q_mean": 2, "evaluation/normalized_score": 50.25})
    head = ["phase", "iteration", "total_transitions_sampled", "training/Q_mean"]
    rows = rows_of(tmp_path)
    assert rows[0] == dict(zip(head, ["pretrain", 0, 0, 1.5], strict=True))
    assert rows[1] == dict(zip(head, ["online", 3, 2000, 2], strict=True)) | {
        "evaluation/normalized_score": 50.25
    }
    table = csv_of(tmp_path)
    assert list(table[0]) == [*head, "evaluation/normalized_score"]
    assert [row["evaluation/normalized_score"] for row in table] == ["", "50.25"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[pretrain 0, 0 steps] Q 1.5"
    assert lines[1] == "[online 3, 2,000 steps] score 50.25, Q 2"


NUMBERS = st.one_of(st.integers(-(10**9), 10**9), st.floats())
ROWS = st.lists(st.dictionaries(st.sampled_from(["a/b", 'c/"d', "e/,f", "g/\n"]), NUMBERS))


@given(rows=ROWS)
def test_every_number_reads_back(rows: list[dict], tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("run")
    files = MetricsFiles(folder)
    for number, row in enumerate(rows):
        files.append({"phase": "online", "iteration": number, **row})
    if not rows:
        return
    strict = [
        json.loads(line, parse_constant=pytest.fail)
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    table = csv_of(folder)
    assert len(strict) == len(table) == len(rows)
    for row, line, cells in zip(rows, strict, table, strict=True):
        for key, value in row.items():
            for text in (line[key], cells[key]):
                np.testing.assert_equal(float(text), float(value))
        assert all(cells[key] == "" for key in set(cells) - set(line))


@pytest.fixture
def resumable(tmp_path: Path) -> Path:
    """Five rows, the last half written."""
    log = Logger(tmp_path, Settings(), {"rows": 3}, "MuJoCo 3.1")
    log.log("pretrain", 1, 0, {"training/Q_mean": 1, "evaluation/SR": 3})
    for iteration in range(1, 4):
        log.log("online", iteration, 100 * iteration, {"training/Q_mean": iteration})
    log.finish()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "onl')
    return tmp_path


def events_of(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_resuming_drops_rows_after_the_checkpoint_everywhere(resumable: Path) -> None:
    log = Logger(resumable, Settings(), rows=2)
    log.log("online", 2, 250, {"training/Q_mean": 20, "evaluation/SR": float("nan")})
    log.finish()
    assert [row["training/Q_mean"] for row in rows_of(resumable)] == [1, 1, 20]
    assert [row["training/Q_mean"] for row in csv_of(resumable)] == ["1", "1", "20"]
    events = events_of(resumable)
    assert np.isnan(events["evaluation/SR"].pop()[1])
    assert events == {
        "pretrain/training/Q_mean": [(1, 1.0)],
        "pretrain/evaluation/SR": [(1, 3.0)],
        "evaluation/SR": [(0, 3.0)],
        "training/Q_mean": [(100, 1.0), (250, 20.0)],
    }


def test_each_session_is_recorded(resumable: Path, capsys) -> None:
    started = json.loads((resumable / "config.json").read_text())["started"]
    longer = replace(QUIET, resume=str(resumable), max_online_iters=9)
    Logger(resumable, longer, {"rows": 3}, "MuJoCo 3.1", rows=4)
    Logger(resumable, replace(longer, actor_rl_coeff=0.0), {"rows": 3}, "MuJoCo 3.1", rows=4)
    assert "warning" not in capsys.readouterr().out
    config = json.loads((resumable / "config.json").read_text())
    assert (config["started"], config["settings"]["max_online_iters"]) == (started, 9)
    assert [session["changed_settings"] for session in config["resumed"]] == [
        {"log_to_tb": [True, False], "max_online_iters": [1500, 9]},
        {"actor_rl_coeff": [0.1, 0.0]},
    ]
    assert config["method"] == "ODT"


def test_another_dataset_or_engine_is_one_warning(resumable: Path, capsys) -> None:
    Logger(resumable, QUIET, {"rows": 3}, "MuJoCo 3.2", rows=4)
    assert re.findall("warning: .*", capsys.readouterr().out) == [
        "warning: this run used MuJoCo 3.1 so far and now uses MuJoCo 3.2; results may differ"
    ]
    Logger(resumable, QUIET, {"rows": 4}, "MuJoCo 3.2", rows=4)
    assert re.findall("warning: .*", capsys.readouterr().out) == [
        "warning: the offline dataset is not the one this run was started with"
    ]


def test_other_hardware_is_recorded_with_a_warning(resumable: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 123)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    for device in ("cpu", "cuda"):
        Logger(resumable, QUIET, {"rows": 3}, "MuJoCo 3.1", torch.device(device), 4)
    assert re.findall("now uses .*;", capsys.readouterr().out) == [
        "now uses 123 CPU threads;",
        "now uses NVIDIA H100;",
    ]
    on_cpu, on_gpu = json.loads((resumable / "config.json").read_text())["resumed"]
    assert (on_cpu["threads"], on_cpu["gpu"]) == (123, None)
    assert on_gpu["gpu"]["name"] == "NVIDIA H100"


def test_damaged_config_is_refused_and_kept(resumable: Path) -> None:
    (resumable / "config.json").write_text("{")
    metrics = (resumable / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"config\.json"):
        Logger(resumable, QUIET, rows=2)
    assert (resumable / "config.json").read_text() == "{"
    assert (resumable / "metrics.jsonl").read_text() == metrics


def test_a_full_disk_is_one_line_and_keeps_complete_rows(tmp_path: Path, monkeypatch) -> None:
    log = Logger(tmp_path, QUIET)
    synced: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", synced.append)
        log.log("online", 0, 0, {"training/Q_mean": 1.0})
    assert synced
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    opened = Path.open

    def half(self: Path, *args, **kwargs):
        file = opened(self, *args, **kwargs)
        if self != path:
            return file

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, content):
                return file.write(content[: len(content) // 2])

        return Full()

    monkeypatch.setattr(Path, "open", half)
    with pytest.raises(UserError, match="cannot be written"):
        log.log("online", 1, 0, {"training/Q_mean": 2.0})
    assert path.read_text() == whole


def test_failing_optional_writers_are_one_warning_each(tmp_path: Path, monkeypatch, capsys) -> None:
    class Broken:
        def __init__(self, *_: object) -> None:
            self.problem, self.address = "", None

        def write(self, row: dict, number: int) -> None:
            raise RuntimeError("lost\nconnection")

        def close(self) -> None:
            raise AssertionError("a broken writer is not used again")

    def unopenable(*_: object) -> None:
        raise ImportError("no module")

    monkeypatch.setattr(logger_module, "WandbWriter", Broken)
    monkeypatch.setattr(logger_module, "TensorBoardWriter", unopenable)
    log = Logger(tmp_path, replace(Settings(), wandb_mode="offline"))
    for iteration in range(3):
        log.log("online", iteration, 0, {"training/Q_mean": 1.0})
    log.finish()
    warnings = re.findall("warning: .*", capsys.readouterr().out)
    assert warnings == [
        "warning: TensorBoard failed (no module); continuing without it",
        "warning: wandb failed (lost connection); continuing without it",
    ]
    assert len(rows_of(tmp_path)) == 3


def test_console_lines_fit_100_columns(tmp_path: Path, capsys) -> None:
    metrics = dict.fromkeys((key for key, _, _ in logger_module._CONSOLE), -123.456)
    metrics["evaluation/success_rate"] = 1.0
    Logger(tmp_path, QUIET).log("online", 1500, 1_050_000, metrics)
    (line,) = capsys.readouterr().out.splitlines()
    assert "success 100%" in line and len(line) <= 100


def test_console_metrics_are_documented() -> None:
    assert {key for key, _, _ in logger_module._CONSOLE} <= documented_metrics()
