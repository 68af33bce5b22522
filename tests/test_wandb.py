"""Weights & Biases: what is logged, and that its failures never affect a run."""

import json
import shutil
import subprocess
import sys
import threading
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import logger as logger_module
from get_args import FLAGS, Settings, parse_args
from logger import Logger
from run.wandb_writer import _GROUPS, STEP, tags
from run.writers import InBackground
from tests.conftest import ROOT
from tests.documented_metrics import documented_metrics
from tests.tiny_runs import DETERMINISTIC, TINY, metrics_of, same_weights
from tests.wandb_files import of_kind, records

QUIET = replace(Settings(), log_to_tb=False)
SESSIONS = """
import sys
from pathlib import Path
from get_args import parse_args
from logger import Logger
folder, mode, flags = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
settings = parse_args(["--wandb_mode", mode, "--log_to_tb", "no", *flags])
for session in (0, 1):
    log = Logger(folder, settings, rows=2 * session)
    for number in (0, 1):
        score = {"evaluation/normalized_score": 5.0 - number, "training/Q_mean": 1.0}
        log.log("online", 2 * session + number + 1, 100 * (2 * session + number + 1), score)
    log.finish()
"""


def in_process(code: str, home: Path, *words: object) -> str:
    """Run code in a separate process, with a home folder without an account."""
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT),
           "OMP_NUM_THREADS": "1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True, text=True, env=env, cwd=home, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wandb_files(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("wandb/offline-run-*/*.wandb"))


def test_offline_sessions_are_one_run(tmp_path: Path) -> None:
    """Identity, configuration, metrics, steps and artifact in wandb's own files."""
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "checkpoints" / "000000-online-1.pt").write_bytes(b"state")
    (run_dir / "guide").mkdir()
    (run_dir / "guide" / "policy.json").write_text("{}")
    flags = ["--env=pen-human-v1", "--seed=4", "--exp_name=table2", "--suffix=-x",
             "--delayed_reward=5", "--wandb_artifacts=1"]  # fmt: skip
    in_process(SESSIONS, tmp_path, run_dir, "offline", *flags)
    sessions = [records(path) for path in wandb_files(run_dir)]
    assert len(sessions) == 2
    run_id = json.loads((run_dir / "config.json").read_text())["wandb_id"]
    steps = []
    for session in sessions:
        (run,) = of_kind(session, "run")
        assert (run.run_id, run.run_group) == (run_id, "pen-human-v1-TD3+ODT-x")
        assert run.display_name == "pen-human-v1-TD3+ODT-x-seed4"
        assert run.job_type == "finetune"
        assert list(run.tags) == ["pen-human-v1", "pen", "TD3+ODT-x", "seed4", "table2", "delayed5"]
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        about = {"task": "pen-human-v1", "method": "TD3+ODT-x", "seed": 4, "sweep": "table2"}
        assert config | about == config and set(FLAGS) <= set(config)
        metrics = of_kind(session, "metric")
        assert {m.glob_name or m.name for m in metrics} == {
            *(f"{group}/*" for group in _GROUPS), "evaluation/normalized_score"
        }  # fmt: skip
        assert {metric.step_metric for metric in metrics} == {STEP}
        (summary,) = [metric.summary for metric in metrics if metric.name]
        assert summary.max and summary.last
        for row in of_kind(session, "history"):
            values = {item.nested_key[0]: json.loads(item.value_json) for item in row.item}
            assert values[STEP] == 100 * (values["_step"] + 1) == 100 * values["iteration"]
            steps.append(values["_step"])
        (artifact,) = of_kind(session, "artifact")
        assert artifact.type == "checkpoint"
        assert [content.path for content in artifact.manifest.contents] == [
            "checkpoints/000000-online-1.pt", "config.json", "guide/policy.json", "metrics.jsonl"
        ]  # fmt: skip
    assert steps == [0, 1, 2, 3]


def test_without_an_account_a_run_is_kept_locally(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    output = in_process(SESSIONS, tmp_path, run_dir, "online")
    assert output.count("warning: wandb: cannot reach the service") == 2
    assert len(metrics_of(run_dir)) == 4
    assert len(wandb_files(run_dir)) == 2
    assert all(not of_kind(records(path), "artifact") for path in wandb_files(run_dir))


RUNS = """
import sys
from dataclasses import replace
import tasks
from main import main
name, folder, flags = "maze2d-umaze-v1", sys.argv[1], sys.argv[2:]
tasks.TASKS[name] = replace(tasks.TASKS[name], horizon=25)
for mode in ("disabled", "offline"):
    main(["--env", name, *flags, "--wandb_mode", mode, "--run_dir", f"{folder}/{mode}"])
"""


def test_results_are_the_same_with_and_without_wandb(data_dir, tmp_path: Path) -> None:
    flags = [*TINY, *DETERMINISTIC, "--data_dir", data_dir, "--max_online_iters", "2"]
    in_process(RUNS, tmp_path, tmp_path, *flags, "--K", "2", "--eval_context_length", "1")
    assert metrics_of(tmp_path / "offline") == metrics_of(tmp_path / "disabled")
    assert same_weights(tmp_path / "offline", tmp_path / "disabled")
    (path,) = wandb_files(tmp_path / "offline")
    assert len(of_kind(records(path), "history")) == 3


def fake_wandb(monkeypatch: pytest.MonkeyPatch, init: Any) -> None:
    fake = types.SimpleNamespace(init=init, setup=lambda _: None, Settings=lambda **words: words)
    monkeypatch.setitem(sys.modules, "wandb", fake)


def fake_run(logged: list[tuple[dict, int]]) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        log=lambda row, step: logged.append((row, step)),
        define_metric=lambda *_, **__: None,
        finish=lambda: None,
        url=None,
    )


def test_every_row_is_logged_even_without_the_service(tmp_path: Path, monkeypatch) -> None:
    logged: list[tuple[dict, int]] = []
    begun: list[dict] = []

    def init(**about: object) -> types.SimpleNamespace:
        begun.append(about)
        if about["mode"] == "online":
            raise TimeoutError("no network")
        return fake_run(logged)

    fake_wandb(monkeypatch, init)
    chosen: dict[str, Any] = {
        "wandb_mode": "online",
        "wandb_entity": "team",
        "wandb_project": "maze",
    }
    log = Logger(tmp_path, replace(QUIET, max_online_iters=0, **chosen))
    log.log("pretrain", 1, 0, {"evaluation/SR": 3})
    log.log("pretrain", 2, 0, {"evaluation/SR": 4})
    log.finish()
    assert [about["mode"] for about in begun] == ["online", "offline"]
    assert begun[1] | {"entity": "team", "project": "maze", "dir": str(tmp_path)} == begun[1]
    assert begun[1]["job_type"] == "pretrain"
    assert [(row["evaluation/SR"], step) for row, step in logged] == [(3.0, 0), (4.0, 1)]


def test_a_resumed_run_is_named_by_its_new_settings(tmp_path: Path, monkeypatch) -> None:
    names: list[Any] = []

    def init(**about: object) -> types.SimpleNamespace:
        names.append(about["name"])
        return fake_run([])

    fake_wandb(monkeypatch, init)
    for coefficient in (0.1, 0.0):
        settings = replace(QUIET, wandb_mode="offline", actor_rl_coeff=coefficient)
        Logger(tmp_path, settings).finish()
    assert names == ["hopper-medium-v2-TD3+ODT-seed10", "hopper-medium-v2-ODT-seed10"]


def test_an_agent_of_a_wandb_sweep_sets_the_id(tmp_path: Path, monkeypatch) -> None:
    begun: list[dict] = []

    def init(**about: object) -> types.SimpleNamespace:
        begun.append(about)
        return fake_run([])

    fake_wandb(monkeypatch, init)
    monkeypatch.setenv("WANDB_RUN_ID", "agent")
    for number, sweep in enumerate(("", "sweep")):
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
        folder = tmp_path / str(number)
        folder.mkdir()
        Logger(folder, replace(QUIET, wandb_mode="offline")).finish()
    assert [about["id"] for about in begun] == [id_of(tmp_path / "0"), "agent"]
    monkeypatch.delenv("WANDB_SWEEP_ID")
    Logger(tmp_path / "1", replace(QUIET, wandb_mode="offline")).finish()
    assert begun[-1]["id"] == id_of(tmp_path / "1") == "agent"


def id_of(run_dir: Path) -> str:
    return json.loads((run_dir / "config.json").read_text())["wandb_id"]


def test_copies_of_a_run_get_ids_of_their_own(tmp_path: Path) -> None:
    original, moved = tmp_path / "original", tmp_path / "moved"
    original.mkdir()
    Logger(original, QUIET)
    branches = [tmp_path / name for name in "ab"]
    for branch in branches:
        shutil.copytree(original, branch)
        Logger(branch, QUIET)
    ids = [id_of(folder) for folder in (original, *branches)]
    assert len(set(ids)) == 3
    original.rename(moved)
    for folder in (moved, *branches):
        Logger(folder, QUIET)
    assert [id_of(folder) for folder in (moved, *branches)] == ids


def test_a_hanging_service_does_not_block_a_run(tmp_path: Path, monkeypatch, capsys) -> None:
    hanging = threading.Event()
    fake_wandb(monkeypatch, lambda **_: hanging.wait())
    monkeypatch.setattr(logger_module, "_WANDB_PATIENCE", 0.1)
    log = Logger(tmp_path, replace(QUIET, wandb_mode="online"))
    for iteration in range(3):
        log.log("online", iteration, 0, {"training/Q_mean": 1.0})
    assert len(metrics_of(tmp_path)) == 3
    log.finish()
    hanging.set()
    assert capsys.readouterr().out.count("warning: wandb failed (not finished 0 seconds") == 1


HANGING = """
import atexit, contextlib, time
from run.writers import InBackground, leave
atexit.register(lambda: time.sleep(600))
class Hanging:
    def close(self): time.sleep(600)
writer = InBackground("hanging", Hanging, 0.1)
with contextlib.suppress(TimeoutError):
    writer.close()
print("leaving")
leave(75)
"""


def test_a_library_that_hangs_at_exit_does_not_keep_the_program_alive() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (75, "leaving\n", "")


def test_a_thread_keeps_the_order_and_raises_its_error() -> None:
    class Slow:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def write(self, row: Any, number: int) -> None:
            time.sleep(0.01)
            self.seen.append(number)

        def close(self) -> None:
            self.seen.append(-1)

    slow = Slow()
    writer = InBackground("slow", lambda: slow, 60)
    for number in range(5):
        writer.write({}, number)
    writer.close()
    assert slow.seen == [0, 1, 2, 3, 4, -1]

    def broken() -> Slow:
        raise RuntimeError("no such thing")

    writer = InBackground("broken", broken, 60)
    with pytest.raises(RuntimeError, match="no such thing"):
        writer.close()


def test_tags_are_short_and_groups_match_the_metrics() -> None:
    settings = parse_args(["--exp_name", "x" * 100])
    assert max(map(len, tags(settings, "ODT"))) == 64
    assert {name.split("/")[0] for name in documented_metrics()} == set(_GROUPS)
