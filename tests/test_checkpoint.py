"""Checkpoints: whole or not at all, old ones kept, stops and faults on the way."""

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest
import torch

import main as main_module
from main import EXIT_DIVERGED, EXIT_STOPPED, Experiment, main
from run import checkpoint as checkpoint_module
from run.checkpoint import load_checkpoint, read_file, state_files, write_verified
from run.files import BEST_FILE, CHECKPOINT_FOLDER
from run.resume import read_settings
from run.stopping import StopSignal
from tests.conftest import ROOT
from tests.tiny_runs import (
    DETERMINISTIC,
    STOCHASTIC,
    TINY,
    metrics_of,
    refusal,
    run,
    same_weights,
)
from trainer import Trainer
from utils import UserError

pytestmark = pytest.mark.usefixtures("short_horizons")

FLAGS = [*DETERMINISTIC, "--K", "3", "--eval_context_length", "2", "--eval_interval", "2"]


def stop_after(ticks):
    """A stop request at the so-many-th time that training asks for one."""
    asked = iter(range(10**9))
    return lambda self: next(asked) >= ticks


def stopped_run(data_dir, run_dir, *flags, ticks, recurrent=False):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopSignal, "__call__", stop_after(ticks))
        return run(data_dir, run_dir, *flags, recurrent=recurrent)


ONLINE = "--use_entropy_reg 0 --num_actor_update_interval 1 --rl_algo "
METHODS = {
    "TD3": [*DETERMINISTIC],
    "stochastic TD3": [*STOCHASTIC],
    "PPO": shlex.split(ONLINE + "PPO --PPO_old_logprob_generated_in_training 1"),
    "AWR": shlex.split(ONLINE + "AWR"),
    "TD3+BC": [*DETERMINISTIC, "--policy", "mlp"],
    "near the previous policy": [*STOCHASTIC, "--prev_policy_coeff", "5"],
    "jump start": [*DETERMINISTIC, *shlex.split("--jump_start_steps 20 --jump_start_iters 2")],
    "curriculum": [
        *STOCHASTIC,
        *shlex.split("--rtg_curriculum_iters 2 --rtg_curriculum_start -9"),
    ],
    "SAC": shlex.split(ONLINE + "SAC"),
    "AWAC": shlex.split(ONLINE + "AWAC --AWAC_soft_flag 2 --AWAC_normalize_adv 1"),
    "IQL": shlex.split(ONLINE + "IQL"),
}
# in pretraining, at its border to fine-tuning, between iterations, within one
TICKS = [0, 2, 7, 11, 13, 17]


@pytest.mark.parametrize(
    ("method", "ticks"),
    [
        (method, t)
        for method in METHODS
        for t in (TICKS[1:4] if method in ("SAC", "AWAC", "IQL") else TICKS)
    ],
)
def test_stopped_anywhere_goes_on_as_if_it_had_not(data_dir, tmp_path, method, ticks):
    flags = [*METHODS[method], "--max_online_iters", "3", "--eval_interval", "2"]
    flags += ["--replay_size", "6"]
    assert run(data_dir, tmp_path / "whole", *flags) == 0
    assert stopped_run(data_dir, tmp_path / "part", *flags, ticks=ticks) == EXIT_STOPPED
    assert main(["--resume", str(tmp_path / "part")]) == 0
    assert metrics_of(tmp_path / "part") == metrics_of(tmp_path / "whole")
    assert same_weights(tmp_path / "part", tmp_path / "whole")


def test_flags_given_to_a_resumed_run_take_effect(data_dir, tmp_path):
    """In the phase and the iteration under way too: that is what the advice on divergence needs."""
    run_dir = tmp_path / "run"
    assert stopped_run(data_dir, run_dir, *FLAGS, "--max_online_iters", "2", ticks=13) == 75
    changed = "--actor_rl_coeff 0.7 --critic_learning_rate 0.125 --weight_decay 0.25 --grad_clip 0"
    settings = read_settings(["--resume", str(run_dir), *changed.split(), "--learning_rate", "0"])
    trainer = Experiment(settings).trainer
    assert trainer.tick > 0 and trainer.actor_updates > 0
    assert (trainer.rl_coeff, trainer.sup_coeff) == (0.7, 1.0)
    assert [group["lr"] for group in trainer.critic_optimizer.param_groups] == [0.125]
    (group,) = trainer.actor_optimizer.param_groups
    assert (group["weight_decay"], group["max_grad_norm"]) == (0.25, 1.0)
    assert group["step"] == trainer.actor_updates
    assert trainer.actor_lr == 0.0


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_run_with_a_checkpoint_and_says_how_to_go_on(data_dir, tmp_path, kind):
    run_dir = tmp_path / "run"
    flags = [*FLAGS, "--num_updates_per_pretrain_iter", "1000000"]
    where = ["--env", "maze2d-umaze-v1", "--data_dir", str(data_dir), "--run_dir", str(run_dir)]
    command = [sys.executable, str(ROOT / "main.py"), *where, *TINY, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, env=environment) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(kind)
        _, error = process.communicate(timeout=60)
    assert process.returncode == EXIT_STOPPED
    assert error.splitlines()[-1].endswith(f"--resume {run_dir}")
    assert load_checkpoint(run_dir, "cpu")["phase"] == "pretrain"


def test_newest_stay_and_the_best_is_beside_them(data_dir, tmp_path):
    flags = [*FLAGS, "--max_online_iters", "5", "--keep_checkpoints", "3", "--replay_size", "2"]
    assert run(data_dir, tmp_path / "run", *flags, "--checkpoint_interval", "1") == 0
    names = [path.name for path in state_files(tmp_path / "run")]
    assert names == ["000005-online-5.pt", "000004-online-4.pt", "000003-online-3.pt"]
    best = read_file(tmp_path / "run" / CHECKPOINT_FOLDER / BEST_FILE, "cpu")
    scores = [row.get("evaluation/normalized_score", -1e9) for row in metrics_of(tmp_path / "run")]
    assert best["evaluation"]["evaluation/normalized_score"] == max(scores)


def test_interval_between_checkpoints(data_dir, tmp_path):
    flags = [*FLAGS, "--max_online_iters", "5", "--keep_checkpoints", "100"]
    assert run(data_dir, tmp_path / "run", *flags, "--checkpoint_interval", "2") == 0
    names = [path.name for path in state_files(tmp_path / "run")]
    assert names == [
        "000003-online-5.pt", "000002-online-4.pt", "000001-online-2.pt", "000000-pretrain-1.pt"
    ]  # fmt: skip


def test_collected_trajectories_are_written_once(data_dir, tmp_path):
    flags = [*FLAGS, "--max_online_iters", "4", "--minimum_sapairs_per_iter", "60"]
    assert run(data_dir, tmp_path / "run", *flags, "--checkpoint_interval", "2") == 0
    names = sorted(path.name for path in (tmp_path / "run" / CHECKPOINT_FOLDER).glob("rows-*.pt"))
    assert names == ["rows-000000-000006.pt", "rows-000006-000012.pt"]
    offline = load_checkpoint(tmp_path / "run", "cpu")
    assert [sum(part["lengths"]) for part in offline["collected"]] == [150, 150]
    assert "rows" not in offline["buffer"]


def test_trajectories_that_left_the_buffer_leave_the_disk(data_dir, tmp_path):
    flags = [*FLAGS, "--max_online_iters", "30", "--replay_size", "2", "--eval_interval", "100"]
    assert run(data_dir, tmp_path / "run", *flags, "--checkpoint_interval", "1") == 0
    assert len(list((tmp_path / "run" / CHECKPOINT_FOLDER).glob("rows-*.pt"))) < 15
    assert main(["--resume", str(tmp_path / "run"), "--max_online_iters", "31"]) == 0


@pytest.fixture
def finished(data_dir, tmp_path):
    assert run(data_dir, tmp_path / "run", *FLAGS, "--max_online_iters", "2") == 0
    return tmp_path / "run"


def test_damaged_checkpoint_gives_way_to_the_one_before(finished, caplog):
    newest, before = state_files(finished)
    whole = newest.read_bytes()
    newest.write_bytes(whole[:2000] + b"\x00\xff\x00" + whole[2003:])
    state = load_checkpoint(finished, "cpu")
    assert state["number"] == int(before.name[:6])
    assert newest.name in caplog.text


@pytest.mark.parametrize("share", range(0, 100, 5))
def test_truncated_checkpoint_is_noticed(finished, share):
    path = state_files(finished)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * share // 100])
    with pytest.raises(UserError, match="not a readable checkpoint") as error:
        read_file(path, "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04cos\nsystem\n.", b"PK\x03\x04 not a zip"])
def test_foreign_files_are_refused_in_one_line(finished, capsys, content):
    for path in state_files(finished):
        path.write_bytes(content)
    capsys.readouterr()
    refusal(capsys, main(["--resume", str(finished)]))


def rewrite(run_dir, **changes):
    for path in state_files(run_dir):
        write_verified(path, read_file(path, "cpu") | changes)


def test_what_differs_is_named(finished, capsys):
    state = load_checkpoint(finished, "cpu")
    capsys.readouterr()
    rewrite(finished, env="maze2d-large-v1")
    assert "maze2d-large-v1" in refusal(capsys, main(["--resume", str(finished)]))
    rewrite(finished, env="maze2d-umaze-v1", rl_algo="SAC")
    assert "rl_algo SAC" in refusal(capsys, main(["--resume", str(finished)]))
    trainer = dict(state["trainer"])
    trainer["actor"] = dict(trainer["actor"]) | {"embed_state.weight": torch.zeros(3, 3)}
    rewrite(finished, rl_algo="TD3", trainer=trainer)
    said = refusal(capsys, main(["--resume", str(finished)]))
    assert "embed_state.weight" in said
    rewrite(finished, trainer=state["trainer"], format=99)
    assert "format 99" in refusal(capsys, main(["--resume", str(finished)]))


def test_refused_resume_changes_nothing(finished, capsys):
    before = {path: path.read_bytes() for path in finished.rglob("*.json*")}
    for path in state_files(finished):
        path.write_bytes(b"")
    refusal(capsys, main(["--resume", str(finished)]))
    assert {path: path.read_bytes() for path in finished.rglob("*.json*")} == before


@pytest.mark.parametrize("fails", ["write", "read back"])
def test_full_disk_keeps_the_last_checkpoint(data_dir, tmp_path, capsys, monkeypatch, fails):
    save, calls = checkpoint_module.write_verified, []

    def full(path, state):
        calls.append(path.name)
        if path.name.startswith("000001"):
            part = path.with_name(".part")
            part.write_bytes(b"torn")
            part.unlink()
            raise OSError(28, "No space left on device")
        save(path, state)

    def other(self):
        return b"something else" if ".000001" in self.name else read(self)

    read = checkpoint_module.Path.read_bytes
    if fails == "write":
        monkeypatch.setattr(checkpoint_module, "write_verified", full)
    else:
        monkeypatch.setattr(checkpoint_module.Path, "read_bytes", other)
    flags = [*FLAGS, "--max_online_iters", "1", "--eval_interval", "100"]
    assert run(data_dir, tmp_path / "run", *flags) == 0
    assert "no checkpoint" in capsys.readouterr().out
    assert [path.name for path in state_files(tmp_path / "run")] == ["000000-pretrain-1.pt"]
    assert not list((tmp_path / "run" / CHECKPOINT_FOLDER).glob(".*"))
    monkeypatch.undo()


def test_divergence_stops_with_the_flag_to_try(data_dir, tmp_path, capsys, monkeypatch):
    update = Trainer.update_critic

    def diverging(self, batch):
        update(self, batch)
        if self.phase_iterations == 1:
            self._log({"critic_MSE_loss": torch.tensor(torch.nan)})

    monkeypatch.setattr(Trainer, "update_critic", diverging)
    flags = [*FLAGS, "--max_online_iters", "3"]
    assert run(data_dir, tmp_path / "run", *flags) == EXIT_DIVERGED
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "online iteration 2" in error
    words = shlex.split(error.partition("a lower --critic_learning_rate: python main.py ")[2])
    assert words[-2:] == ["--critic_learning_rate", "0.00033"]
    report = json.loads((tmp_path / "run" / "divergence.json").read_text())
    assert report["not_finite"] == ["critic_MSE_loss"]
    assert set(report["batch"]["rewards"]) == {"min", "mean", "max"}
    state = load_checkpoint(tmp_path / "run", "cpu")
    assert state["iterations"]["online"] == 1
    monkeypatch.undo()
    assert main(words) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["resumed"]


def test_divergence_before_the_first_checkpoint(data_dir, tmp_path, capsys, monkeypatch):
    def diverging(self, batch):
        self._log({"critic_MSE_loss": torch.tensor(torch.nan)})

    monkeypatch.setattr(Trainer, "update_critic", diverging)
    assert run(data_dir, tmp_path / "run", *FLAGS) == EXIT_DIVERGED
    error = capsys.readouterr().err
    assert error.endswith("start again with a lower --critic_learning_rate (it was 0.001)\n")


def test_what_a_kill_left_half_written_is_removed_and_told(data_dir, tmp_path, caplog):
    flags = [*FLAGS, "--max_online_iters", "2"]
    assert run(data_dir, tmp_path / "run", *flags) == 0
    part = tmp_path / "run" / CHECKPOINT_FOLDER / ".000009-online-9.pt.77.part"
    part.write_bytes(b"half")
    assert main(["--resume", str(tmp_path / "run"), "--max_online_iters", "3"]) == 0
    assert not part.exists()
    assert "000009-online-9.pt.77.part was half written" in caplog.text


def test_kill_between_rows_and_checkpoint_loses_nothing(data_dir, tmp_path, monkeypatch):
    """Rows of a checkpoint that was never written are written again by the resumed run."""
    flags = [*FLAGS, "--max_online_iters", "4"]
    assert run(data_dir, tmp_path / "whole", *flags) == 0
    save = checkpoint_module.write_verified

    def killed(path, state):
        if path.name.startswith("000003"):
            raise KeyboardInterrupt
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_verified", killed)
        assert run(data_dir, tmp_path / "part", *flags) == main_module.EXIT_INTERRUPTED
    assert main(["--resume", str(tmp_path / "part")]) == 0
    assert metrics_of(tmp_path / "part") == metrics_of(tmp_path / "whole")
    assert same_weights(tmp_path / "part", tmp_path / "whole")


def test_stop_request_is_noted_and_a_second_one_interrupts():
    stop = StopSignal()
    with stop.installed():
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
