"""Weights & Biases: what a run tells it, and that a run never waits for it nor fails with it."""

import json
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
    log = Logger(folder, settings)
    for number in (0, 1):
        score = {"evaluation/normalized_score": 5.0 - number, "training/Q_mean": 1.0}
        log.log("online", 2 * session + number + 1, 100 * (2 * session + number + 1), score)
    log.finish()
"""


def in_process(code: str, home: Path, *words: object) -> str:
    """Run code in a process of its own, with a home that holds no account."""
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
    """Read back from wandb's own files: identity, configuration, metrics, steps, artifact."""
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "checkpoints" / "000000-online-1.pt").write_bytes(b"state")
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
            "checkpoints/000000-online-1.pt", "config.json", "metrics.jsonl"
        ]  # fmt: skip
    assert steps == [0, 1, 2, 3]


def test_without_an_account_a_run_stays_local(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    said = in_process(SESSIONS, tmp_path, run_dir, "online")
    assert said.count("warning: wandb: the service cannot be used") == 2
    assert len(metrics_of(run_dir)) == 4
    assert len(wandb_files(run_dir)) == 2
    assert all(not of_kind(records(path), "artifact") for path in wandb_files(run_dir))


def test_a_run_is_the_same_with_and_without(data_dir, tmp_path: Path) -> None:
    code = "import sys; from main import main; sys.exit(main(sys.argv[1:]))"
    flags = [*TINY, *DETERMINISTIC, "--env", "maze2d-umaze-v1", "--data_dir", data_dir,
             "--max_online_iters", "2", "--K", "2", "--eval_context_length", "1"]  # fmt: skip
    for mode in ("disabled", "offline"):
        folder = tmp_path / mode
        in_process(code, tmp_path, *flags, "--wandb_mode", mode, "--run_dir", folder)
    assert metrics_of(tmp_path / "offline") == metrics_of(tmp_path / "disabled")
    assert same_weights(tmp_path / "offline", tmp_path / "disabled")
    (path,) = wandb_files(tmp_path / "offline")
    assert len(of_kind(records(path), "history")) == 3


def fake_wandb(monkeypatch: pytest.MonkeyPatch, init: Any) -> None:
    """A wandb whose runs are what `init` gives."""
    fake = types.SimpleNamespace(init=init, setup=lambda _: None, Settings=lambda **words: words)
    monkeypatch.setitem(sys.modules, "wandb", fake)


def fake_run(logged: list[tuple[dict, int]]) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        log=lambda row, step: logged.append((row, step)),
        define_metric=lambda *_, **__: None,
        finish=lambda: None,
        url=None,
    )


def test_every_row_goes_there_and_the_service_may_be_away(tmp_path: Path, monkeypatch) -> None:
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


def test_an_agent_of_a_wandb_sweep_gives_the_id(tmp_path: Path, monkeypatch) -> None:
    begun: list[dict] = []

    def init(**about: object) -> types.SimpleNamespace:
        begun.append(about)
        return fake_run([])

    fake_wandb(monkeypatch, init)
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-agent")
    for number, sweep in enumerate(("", "sweep")):
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
        folder = tmp_path / str(number)
        folder.mkdir()
        Logger(folder, replace(QUIET, wandb_mode="offline")).finish()
    own = json.loads((tmp_path / "0" / "config.json").read_text())["wandb_id"]
    assert [about["id"] for about in begun] == [own, "of-the-agent"]


def test_a_hanging_service_holds_up_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    hanging = threading.Event()
    fake_wandb(monkeypatch, lambda **_: hanging.wait())
    monkeypatch.setattr(logger_module, "_WANDB_PATIENCE", 0.1)
    log = Logger(tmp_path, replace(QUIET, wandb_mode="online"))
    for iteration in range(3):
        log.log("online", iteration, 0, {"training/Q_mean": 1.0})
    assert len(metrics_of(tmp_path)) == 3
    log.finish()
    hanging.set()
    assert capsys.readouterr().out.count("warning: wandb failed (not done 0 seconds after") == 1


@pytest.mark.parametrize(("patience", "code"), [(0.1, 75), (60, 75)], ids=["hanging", "in time"])
def test_a_library_that_waits_at_exit_does_not_keep_the_program(
    patience: float, code: int, tmp_path: Path
) -> None:
    """The library's own hook waits for as long as its thread hangs."""
    done = subprocess.run(
        [sys.executable, "-c",
         "import atexit, contextlib, sys, time\n"
         "from log_writers import InBackground, leave\n"
         "hang = float(sys.argv[1]) < 1\n"
         "atexit.register(lambda: time.sleep(600) if hang else print('left'))\n"
         "class Hanging:\n"
         "    def close(self): time.sleep(600 if hang else 0)\n"
         "writer = InBackground('hanging', Hanging, float(sys.argv[1]))\n"
         "with contextlib.suppress(TimeoutError):\n"
         "    writer.close()\n"
         f"print('said'); leave({code})", str(patience)],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.split() == (["said"] if patience < 1 else ["said", "left"])


def test_a_thread_keeps_the_order_and_tells_the_first_error() -> None:
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


def test_tags_are_short_and_groups_are_those_of_the_metrics() -> None:
    settings = parse_args(["--exp_name", "x" * 100])
    assert max(map(len, tags(settings, "ODT"))) == 64
    assert {name.split("/")[0] for name in documented_metrics()} == set(_GROUPS)
