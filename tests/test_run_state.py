"""The state of a run: running, or how it ended."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from main import Experiment, main
from run import state as run_state_module
from run.files import LOCK_FILE
from run.state import (
    DIVERGED,
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    STOPPED,
    UNFINISHED,
    RunSession,
    is_running,
    run_state,
)
from run.stopping import EXIT_DIVERGED, EXIT_INTERRUPTED
from tests.conftest import ROOT
from tests.tiny_runs import DETERMINISTIC, TINY, interrupted_run, run
from trainer import Trainer
from utils import UserError

pytestmark = pytest.mark.usefixtures("short_horizons")

FLAGS = [*DETERMINISTIC, "--K", "2", "--eval_context_length", "2", "--max_online_iters", "2"]


def config_of(run_dir):
    return json.loads((run_dir / "config.json").read_text())


def state_of(run_dir):
    return run_state(run_dir, config_of(run_dir))


def test_the_last_session_decides(data_dir, tmp_path):
    run_dir = tmp_path / "run"
    assert interrupted_run(data_dir, run_dir, *FLAGS, when=1) == EXIT_INTERRUPTED
    assert state_of(run_dir)[0] == STOPPED
    assert main(["--resume", str(run_dir)]) == 0
    config = config_of(run_dir)
    (resumed,) = config["resumed"]
    assert (config["outcome"], resumed["outcome"]) == (STOPPED, FINISHED)
    assert resumed["ended"] >= resumed["started"]
    assert state_of(run_dir) == (FINISHED, "")
    assert not is_running(run_dir)


def test_divergence_and_errors_are_distinguished(data_dir, tmp_path, monkeypatch):
    def step(self, batch):
        return {"critic_MSE_loss": torch.tensor(torch.nan)}

    def crash(self):
        raise RuntimeError("out of\norder")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_critic_step", step)
        assert run(data_dir, tmp_path / "diverged", *FLAGS) == EXIT_DIVERGED
    assert state_of(tmp_path / "diverged")[0] == DIVERGED
    assert "critic_MSE_loss" in state_of(tmp_path / "diverged")[1]
    monkeypatch.setattr(Experiment, "collect", crash)
    with pytest.raises(RuntimeError):
        run(data_dir, tmp_path / "failed", *FLAGS)
    assert state_of(tmp_path / "failed") == (FAILED, "RuntimeError: out of order")


def test_a_process_is_running_until_it_is_killed(data_dir, tmp_path):
    run_dir = tmp_path / "run"
    where = ["--env", "maze2d-umaze-v1", "--data_dir", str(data_dir), "--run_dir", str(run_dir)]
    flags = [*TINY, *FLAGS, "--num_updates_per_pretrain_iter", "1000000"]
    command = [sys.executable, str(ROOT / "main.py"), *where, *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        while not (run_dir / "config.json").exists():
            time.sleep(0.02)
        try:
            assert state_of(run_dir) == (RUNNING, "")
        finally:
            process.kill()
            process.communicate()
    assert state_of(run_dir) == (KILLED, "")


def test_a_running_run_cannot_be_resumed(data_dir, tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    assert interrupted_run(data_dir, run_dir, *FLAGS, when=1) == EXIT_INTERRUPTED
    before = (run_dir / "config.json").read_bytes()
    monkeypatch.setattr(run_state_module, "_PATIENCE", 0.0)
    capsys.readouterr()
    with FileLock(run_dir / LOCK_FILE):
        assert state_of(run_dir) == (RUNNING, "")
        assert main(["--resume", str(run_dir)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "another program is working on this run" in error
    assert (run_dir / "config.json").read_bytes() == before
    assert main(["--resume", str(run_dir)]) == 0


def test_a_run_without_a_lock_is_unfinished(tmp_path):
    assert run_state(tmp_path, {"settings": {}}) == (UNFINISHED, "")


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    """Whatever file lies there: the marker of a soft lock would block the run for ever."""

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / LOCK_FILE).write_text("4242\nnode7\n")
    with RunSession(tmp_path):
        assert state_of(tmp_path) == (UNFINISHED, "")
    assert "Function not implemented" in caplog.text
    assert config_of(tmp_path)["outcome"] == FINISHED


def test_a_run_that_may_only_be_read_is_running_or_unknown(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    opened, hidden = Path.open, False

    def read_only(self, mode="r", **words):
        if self.name == LOCK_FILE and (mode != "rb" or hidden):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, mode, **words)

    monkeypatch.setattr(Path, "open", read_only)
    with FileLock(tmp_path / LOCK_FILE):
        assert state_of(tmp_path) == (RUNNING, "")
        hidden = True
        assert state_of(tmp_path) == (UNFINISHED, "")


def test_a_full_disk_at_the_end_keeps_config_json(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"settings": {}}')

    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="reason"), RunSession(tmp_path):
        monkeypatch.setattr("os.fsync", full)
        raise UserError("reason")
    assert config_of(tmp_path) == {"settings": {}}
    assert state_of(tmp_path) == (KILLED, "")
