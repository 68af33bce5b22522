"""Checkpoint files, resuming from them, and stops and faults during a run."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain, repeat
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from build_networks import load_moments
from main import Experiment, main
from run import checkpoint as checkpoint_module
from run import stopping
from run.checkpoint import (
    SEAL_SIZE,
    load_best,
    load_checkpoint,
    read_file,
    rng_state,
    set_rng_state,
    state_files,
    write_verified,
)
from run.files import BEST_FILE, CHECKPOINT_FOLDER, LOCK_FILE
from run.resume import read_settings
from run.state import STOPPED, run_state
from run.stopping import EXIT_DIVERGED, EXIT_INTERRUPTED, EXIT_STOPPED, StopSignal
from run.training_log import RunningMeans
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
WEIGHTS = torch.arange(500.0)
STATE: dict[str, Any] = {"weights": WEIGHTS, "name": "hopper", "numbers": [1, 2.5, None]}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "state.pt"
    write_verified(path, STATE)
    return path


def test_a_written_file_reads_back(written):
    for state in (read_file(written), torch.load(written, weights_only=True)):
        assert torch.equal(state.pop("weights"), WEIGHTS)
        assert state == {"name": "hopper", "numbers": [1, 2.5, None]}


@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_any_changed_byte_is_detected(written, tmp_path_factory, place, bits):
    content = bytearray(written.read_bytes())
    content[int(place * len(content))] ^= bits
    path = tmp_path_factory.mktemp("damaged") / "state.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable checkpoint") as error:
        read_file(path)
    assert "\n" not in str(error.value)


def test_every_byte_of_the_zip_directory_is_covered(written, tmp_path):
    """The checksums of the zip format itself cover only the content of its entries."""
    content = written.read_bytes()
    path = tmp_path / "state.pt"
    for place in range(content.index(b"PK\x01\x02"), len(content) - SEAL_SIZE):
        damaged = bytearray(content)
        damaged[place] ^= 255
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="checksum mismatch"):
            read_file(path)


def test_truncated_and_foreign_files_are_refused(written, tmp_path):
    content, path = written.read_bytes(), tmp_path / "state.pt"
    torch.save(STATE, path)
    cut = [content[: len(content) * share // 100] for share in range(0, 100, 5)]
    for other in (*cut, path.read_bytes(), b"x" * 1000, b"\x80\x04cos\nsystem\n."):
        path.write_bytes(other)
        with pytest.raises(UserError, match="truncated, or not written by this version"):
            read_file(path)


def test_only_dictionaries_without_code_are_read(tmp_path):
    path = tmp_path / "state.pt"
    write_verified(path, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not a checkpoint of this program"):
        read_file(path)
    write_verified(path, {"command": subprocess.run})
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_file(path)


def test_a_file_that_reads_back_differently_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module.Path, "read_bytes", lambda self: b"other")
    with pytest.raises(OSError, match="reads back differently"):
        write_verified(tmp_path / "state.pt", STATE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_running_out_of_memory_is_not_called_damage(written, monkeypatch, kind):
    def load(*_, **__):
        raise kind("out of memory")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(kind):
        read_file(written)


def test_only_the_generator_of_the_runs_device_is_saved_and_restored(monkeypatch):
    """Another GPU, fewer GPUs or a CPU are no obstacle to resuming."""
    states = {"cuda:0": torch.tensor([0]), "cuda:1": torch.tensor([1])}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[str(device)])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda x, device: states.update({str(device): x})
    )
    on_gpu, on_cpu = rng_state("cuda:1"), rng_state("cpu")
    drawn = torch.rand(3)
    for device in ("cpu", "cuda:0"):
        set_rng_state(on_cpu, device)
        assert states["cuda:0"] == 0
    set_rng_state(on_gpu, "cpu")
    assert states["cuda:0"] == 0
    assert torch.equal(torch.rand(3), drawn)
    set_rng_state(on_gpu, "cuda:0")
    assert states["cuda:0"] == 1


def test_a_state_from_the_cpu_moves_to_the_device_except_step_counts():
    """AdamW's step counts on a GPU would make the host wait in every update."""
    device = torch.device("meta")
    optimizers, means = [], []
    for place in (torch.device("cpu"), device):
        p = torch.nn.Parameter(torch.ones(3, device=place))
        p.grad = torch.ones_like(p)
        optimizers.append(torch.optim.AdamW([p]))
        means.append(RunningMeans())
    optimizers[0].step()
    means[0].add({"Q_mean": torch.ones(())})
    load_moments(optimizers[1], optimizers[0].state_dict())
    (state,) = optimizers[1].state.values()
    assert (state["step"].device.type, state["exp_avg"].device) == ("cpu", device)
    means[1].load_state_dict(means[0].state_dict())
    means[1].add({"Q_mean": torch.ones((), device=device)})
    assert means[1]._sums["Q_mean",].device == device


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
    "published schedules": [
        *DETERMINISTIC,
        *shlex.split("--jump_start_steps 20 --jump_start_decay 0.7 --rtg_curriculum_decay 0.7"),
        *shlex.split("--minimum_sapairs_per_iter 40"),
    ],
    "SAC": shlex.split(ONLINE + "SAC"),
    "AWAC": shlex.split(ONLINE + "AWAC --AWAC_soft_flag 2 --AWAC_normalize_adv 1"),
    "IQL": shlex.split(ONLINE + "IQL"),
}


def stop_after(checks):
    """Request a stop at the given check, counted from 0."""
    answers = chain(repeat(False, checks), repeat(True))
    return lambda self: next(answers)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_stopped_repeatedly_equals_an_uninterrupted_one(
    data_dir, tmp_path, monkeypatch, method
):
    flags = [*METHODS[method], "--max_online_iters", "3", "--eval_interval", "2"]
    flags += ["--replay_size", "6"]
    assert run(data_dir, tmp_path / "whole", *flags) == 0
    part, sessions = tmp_path / "part", 1
    # before the first update, then every three updates or iterations
    monkeypatch.setattr(StopSignal, "__call__", stop_after(0))
    code = run(data_dir, part, *flags)
    while code == EXIT_STOPPED:
        monkeypatch.setattr(StopSignal, "__call__", stop_after(3))
        code, sessions = main(["--resume", str(part)]), sessions + 1
    assert code == 0 and sessions > 5
    assert metrics_of(part) == metrics_of(tmp_path / "whole")
    assert same_weights(part, tmp_path / "whole")


def test_flags_of_a_resumed_run_apply_to_the_current_iteration(data_dir, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    monkeypatch.setattr(StopSignal, "__call__", stop_after(13))
    assert run(data_dir, run_dir, *FLAGS, "--max_online_iters", "2") == EXIT_STOPPED
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


def test_a_signal_ends_a_run_with_a_checkpoint_and_a_command_that_resumes_it(
    data_dir, tmp_path, monkeypatch
):
    """Also if it is repeated, and if the run is resumed from another folder."""
    where = ["--env", "maze2d-umaze-v1", "--data_dir", data_dir.name, "--run_dir", "my run"]
    flags = [*FLAGS, "--num_updates_per_pretrain_iter", "1000000"]
    command = [sys.executable, str(ROOT / "main.py"), *where, *TINY, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path,
                          text=True, env=environment) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        lines = []
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            lines.append(process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        _, more = process.communicate(timeout=60)
    assert process.returncode == EXIT_STOPPED
    assert lines[0] == "Stopping after this update (Ctrl-C again to quit immediately).\n"
    assert lines[1].startswith("Stopped. Resume with: ") and more == ""
    run_dir = tmp_path / "my run"
    assert load_checkpoint(run_dir)["phase"] == "pretrain"
    assert run_state(run_dir, json.loads((run_dir / "config.json").read_text()))[0] == STOPPED
    python, script, *words = shlex.split(lines[1].partition(": ")[2])
    assert shutil.which(python) and (tmp_path / script).samefile(ROOT / "main.py")
    assert words == ["--resume", "my run"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    short = shlex.split("--num_updates_per_pretrain_iter 1 --max_online_iters 0")
    assert main(["--resume", "../my run", *short]) == 0


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture
def no_signal_ignored():
    """Default handlers, even if the tests run under nohup or in the background."""
    kinds = (signal.SIGHUP, signal.SIGINT)
    before = [signal.signal(kind, signal.SIG_DFL) for kind in kinds]
    yield
    for kind, handler in zip(kinds, before, strict=True):
        signal.signal(kind, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGXCPU"])
@pytest.mark.usefixtures("no_signal_ignored")
def test_a_later_signal_interrupts_but_not_a_repeated_one(monkeypatch, name):
    kind, stop = getattr(signal, name), StopSignal()
    monkeypatch.setattr(stopping, "_ONE_REQUEST", 0.01)
    with stop.installed():
        assert not stop()
        send(kind)
        assert stop()
        # a second Ctrl-C is meant
        with pytest.raises(KeyboardInterrupt) if name == "SIGINT" else contextlib.nullcontext():
            send(kind)
        time.sleep(0.1)
        monkeypatch.setattr(stopping, "_SAME_MOMENT", 0.0)
        # the system repeats SIGXCPU every second
        send(signal.SIGXCPU)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
        stop.ignore()
        send(kind)


def test_a_signal_repeated_during_a_long_computation_does_not_interrupt(monkeypatch):
    monkeypatch.setattr(stopping, "_ONE_REQUEST", 0.1)
    stop = StopSignal()
    with stop.installed():
        send(signal.SIGTERM)
        # handlers run once the computation returns to Python
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})
        send(signal.SIGTERM)
        time.sleep(0.3)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGALRM})
    assert stop()


def test_no_alarm_ends_a_stopped_run_at_its_exit():
    stop = StopSignal()
    with stop.installed():
        send(signal.SIGTERM)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        stop.ignore()
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_signals_ignored_by_nohup_stay_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopSignal()
    with stop.installed():
        send(signal.SIGHUP)
    signal.signal(signal.SIGHUP, before)
    assert not stop()


OUT_OF_MEMORY = {
    "CPU": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."),
        "(tried to allocate 64 bytes)",
    ),
    "NumPy": (MemoryError("Unable to allocate 7.4 GiB for an array"), "7.4 GiB"),
    "GPU": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "2.00 GiB"),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_too_little_memory_is_one_line_with_flags_to_lower(
    data_dir, tmp_path, capsys, monkeypatch, kind
):
    error, amount = OUT_OF_MEMORY[kind]

    def fail(self):
        raise error

    monkeypatch.setattr(Experiment, "collect", fail)
    assert run(data_dir, tmp_path / "run", *FLAGS, "--batch_size", "8") == 4
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    assert "out of memory on cpu in online iteration 1 (" in line and amount in line
    assert "use a smaller --batch_size (8), --embed_dim (16) or --K (3); resume with: " in line
    assert line.endswith("--batch_size 4\n")


def test_interrupted_before_the_first_checkpoint_advises_the_same_command(
    data_dir, tmp_path, capsys, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_iteration", interrupt)
        assert run(data_dir, run_dir, *FLAGS) == EXIT_INTERRUPTED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"delete {run_dir} and run the same command again.")
    shutil.rmtree(run_dir)
    assert run(data_dir, run_dir, *FLAGS, "--max_online_iters", "0") == 0


def test_the_newest_checkpoints_and_the_best_policy_are_kept(data_dir, tmp_path):
    flags = [*FLAGS, "--max_online_iters", "5", "--keep_checkpoints", "3", "--replay_size", "2"]
    assert run(data_dir, tmp_path / "run", *flags, "--checkpoint_interval", "1") == 0
    names = [path.name for path in state_files(tmp_path / "run")]
    assert names == ["000005-online-5.pt", "000004-online-4.pt", "000003-online-3.pt"]
    best = read_file(tmp_path / "run" / CHECKPOINT_FOLDER / BEST_FILE)
    scores = [row.get("evaluation/normalized_score", -1e9) for row in metrics_of(tmp_path / "run")]
    assert best["evaluation"]["evaluation/normalized_score"] == max(scores)


def test_checkpoint_interval_and_collected_trajectories(data_dir, tmp_path):
    flags = [*FLAGS, "--max_online_iters", "5", "--minimum_sapairs_per_iter", "60"]
    flags += ["--keep_checkpoints", "100", "--checkpoint_interval", "2"]
    assert run(data_dir, tmp_path / "run", *flags) == 0
    assert [path.name for path in state_files(tmp_path / "run")] == [
        "000003-online-5.pt", "000002-online-4.pt", "000001-online-2.pt", "000000-pretrain-1.pt"
    ]  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "run" / CHECKPOINT_FOLDER).glob("rows-*.pt"))
    assert names == [f"rows-00000{a}-0000{b}.pt" for a, b in ((0, "06"), (6, "12"))] + [
        "rows-000012-000015.pt"
    ]
    state = load_checkpoint(tmp_path / "run")
    assert [sum(part["lengths"]) for part in state["collected"]] == [150, 150, 75]
    assert "rows" not in state["buffer"]


def test_trajectories_dropped_from_the_buffer_are_deleted_from_disk(data_dir, tmp_path):
    flags = [*FLAGS, "--max_online_iters", "12", "--replay_size", "1", "--eval_interval", "100"]
    assert run(data_dir, tmp_path / "run", *flags, "--checkpoint_interval", "1") == 0
    assert len(list((tmp_path / "run" / CHECKPOINT_FOLDER).glob("rows-*.pt"))) < 8
    assert main(["--resume", str(tmp_path / "run"), "--max_online_iters", "13"]) == 0


@pytest.fixture
def finished(data_dir, tmp_path):
    flags = [*FLAGS, "--max_online_iters", "2", "--warmup_steps", "2"]
    assert run(data_dir, tmp_path / "run", *flags) == 0
    return tmp_path / "run"


def test_a_damaged_checkpoint_falls_back_to_the_one_before(finished, caplog):
    newest, before = state_files(finished)
    whole = newest.read_bytes()
    newest.write_bytes(whole[:2000] + b"\x00\xff\x00" + whole[2003:])
    assert load_checkpoint(finished)["number"] == int(before.name[:6])
    assert f"checksum mismatch: damaged); using {before.name} instead" in caplog.text


def test_a_finished_run_is_complete_and_stays_as_it_is(finished, capsys):
    before = {path: path.read_bytes() for path in finished.rglob("*.*")}
    capsys.readouterr()
    assert main(["--resume", str(finished), "--batch_size", "4"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(
        "complete, at online iteration 2 (50 transitions). To continue it, increase "
        "--max_online_iters (2)."
    )
    assert {path: path.read_bytes() for path in finished.rglob("*.*")} == before
    assert main(["--resume", str(finished), "--max_online_iters", "3"]) == 0
    assert "Resuming from online iteration 2 (50 transitions)\n" in capsys.readouterr().out


def test_flags_that_the_run_has_passed_are_refused(finished, capsys):
    before = (finished / "config.json").read_bytes()
    capsys.readouterr()
    for flags in (
        "--max_pretrain_iters 2", "--num_updates_per_pretrain_iter 9", "--RL_from_start 1",
        "--max_online_iters 1", "--max_online_transitions 49", "--warmup_steps 3",
        "--rtg_curriculum_iters 2 --rtg_curriculum_start 0", "--save_dir x", "--run_dir x",
    ):  # fmt: skip
        line = refusal(capsys, main(["--resume", str(finished), *flags.split()]))
        assert flags.split()[0] in line
    assert (finished / "config.json").read_bytes() == before
    same = "--max_pretrain_iters 1 --num_updates_per_pretrain_iter 4 --max_online_iters 3"
    assert main(["--resume", str(finished), *same.split()]) == 0


def rewrite(run_dir, **changes):
    for path in state_files(run_dir):
        write_verified(path, read_file(path) | changes)


def damage(run_dir, state):
    for path in state_files(run_dir):
        path.write_bytes(b"")


def wrong_shape(run_dir, state):
    actor = dict(state["trainer"]["actor"]) | {"embed_state.weight": torch.zeros(3, 3)}
    rewrite(run_dir, trainer=state["trainer"] | {"actor": actor})


def missing_row(run_dir, state):
    path = run_dir / "metrics.jsonl"
    path.write_text(path.read_text().partition("\n")[0] + "\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage, "no checksum"),
        (wrong_shape, "embed_state.weight (3, 3)"),
        (missing_row, "has 1 rows, but the checkpoint was written after 3"),
        (lambda path, _: (path / "metrics.jsonl").write_text("no\n" * 3), "line 1 is not JSON"),
        (lambda path, _: rewrite(path, env="maze2d-large-v1"), "env maze2d-large-v1"),
        (lambda path, _: rewrite(path, rl_algo="SAC"), "rl_algo SAC"),
        (lambda path, _: rewrite(path, format=99), "format 99"),
        (lambda path, state: rewrite(path, eval_rng=state["eval_rng"][:1]), "1 saved generators"),
    ],
    ids=["damaged", "shape", "row", "not JSON", "env", "algorithm", "format", "environments"],
)
def test_a_refused_resume_changes_no_file(finished, capsys, change, message):
    change(finished, load_checkpoint(finished))
    (finished / CHECKPOINT_FOLDER / "rows-000002-000003.pt").write_bytes(b"left by a kill")
    before = {path: path.read_bytes() for path in finished.rglob("*.*")}
    capsys.readouterr()
    assert message in refusal(capsys, main(["--resume", str(finished), "--max_online_iters", "3"]))
    after = {path: path.read_bytes() for path in finished.rglob("*.*")}
    assert after | {finished / LOCK_FILE: b""} == before | {finished / LOCK_FILE: b""}


@pytest.mark.parametrize("fails", ["write", "read back"])
def test_a_full_disk_keeps_the_last_checkpoint(data_dir, tmp_path, caplog, monkeypatch, fails):
    save, read = checkpoint_module.write_verified, checkpoint_module.Path.read_bytes

    def full(path, state):
        if path.name.startswith("000001"):
            raise OSError(28, "No space left on device")
        save(path, state)

    def other(self):
        return b"something else" if ".000001" in self.name else read(self)

    flags = [*FLAGS, "--max_online_iters", "1", "--eval_interval", "100"]
    with monkeypatch.context() as patch:
        if fails == "write":
            patch.setattr(checkpoint_module, "write_verified", full)
        else:
            patch.setattr(checkpoint_module.Path, "read_bytes", other)
        assert run(data_dir, tmp_path / "run", *flags) == 0
    assert "no checkpoint written" in caplog.text
    assert [path.name for path in state_files(tmp_path / "run")] == ["000000-pretrain-1.pt"]
    assert not list((tmp_path / "run" / CHECKPOINT_FOLDER).glob(".*"))


def diverge_in_iteration(monkeypatch, number):
    step = Trainer._critic_step

    def diverging(self, batch):
        info = step(self, batch)
        if self.phase_iterations == number:
            info["critic_MSE_loss"] = torch.tensor(torch.nan)
        return info

    monkeypatch.setattr(Trainer, "_critic_step", diverging)


def test_divergence_advises_a_command_with_a_lower_learning_rate(
    data_dir, tmp_path, capsys, monkeypatch
):
    flags = [*FLAGS, "--max_online_iters", "3"]
    with monkeypatch.context() as patch:
        diverge_in_iteration(patch, 1)
        assert run(data_dir, tmp_path / "run", *flags) == EXIT_DIVERGED
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "diverged in online iteration 2: critic_MSE_loss not finite" in error
    words = shlex.split(error.partition("a lower --critic_learning_rate (it was 0.001): ")[2])[2:]
    assert words[-2:] == ["--critic_learning_rate", "0.00033"]
    report = json.loads((tmp_path / "run" / "divergence.json").read_text())
    assert report["not_finite"] == ["critic_MSE_loss"]
    assert set(report["batch"]["rewards"]) == {"min", "mean", "max"}
    assert load_checkpoint(tmp_path / "run")["iterations"]["online"] == 1
    assert main(words) == 0


def test_divergence_before_the_first_checkpoint_advises_to_start_again(
    data_dir, tmp_path, capsys, monkeypatch
):
    diverge_in_iteration(monkeypatch, 0)
    assert run(data_dir, tmp_path / "run", *FLAGS) == EXIT_DIVERGED
    error = capsys.readouterr().err
    assert error.endswith("start again with a lower --critic_learning_rate (it was 0.001)\n")


@pytest.mark.parametrize("net", ["critic", "actor"])
def test_a_divergence_in_the_last_update_of_an_iteration_is_noticed_before_the_checkpoint(
    data_dir, tmp_path, capsys, monkeypatch, net
):
    check = Trainer._check_finite

    def last_update(self):
        check(self)
        if self.phase_iterations == 1:
            next(getattr(self.nets, net).parameters()).data.view(-1)[0] = torch.inf

    monkeypatch.setattr(Trainer, "_check_finite", last_update)
    flags = [*FLAGS, "--max_online_iters", "3"]
    assert run(data_dir, tmp_path / "run", *flags) == EXIT_DIVERGED
    error = capsys.readouterr().err
    assert f"diverged in online iteration 2: {net}_weights not finite" in error
    flag = {"critic": "--critic_learning_rate", "actor": "--learning_rate"}[net]
    assert f"with a lower {flag} (it was" in error
    assert load_checkpoint(tmp_path / "run")["iterations"]["online"] == 1


def test_a_best_policy_of_iterations_after_the_checkpoint_is_replaced(data_dir, tmp_path):
    """A run that resumes with other flags does not repeat them."""
    flags = [*FLAGS, "--max_online_iters", "3", "--eval_interval", "1", "--keep_checkpoints", "9"]
    assert run(data_dir, tmp_path / "run", *flags) == 0
    best = tmp_path / "run" / CHECKPOINT_FOLDER / BEST_FILE
    state = read_file(best)
    state["iterations"] = {"pretrain": 1, "online": 3}
    state["evaluation"]["evaluation/normalized_score"] = 1e9
    checkpoint_module.write_verified(best, state)
    state_files(tmp_path / "run")[0].unlink()
    assert main(["--resume", str(tmp_path / "run"), "--learning_rate", "1e-5"]) == 0
    assert load_best(tmp_path / "run")["evaluation"]["evaluation/normalized_score"] < 1e9


def test_a_kill_between_trajectories_and_checkpoint_loses_nothing(
    data_dir, tmp_path, monkeypatch, caplog
):
    """The resumed run writes them again, and deletes what the kill left half written."""
    flags = [*FLAGS, "--max_online_iters", "4"]
    assert run(data_dir, tmp_path / "whole", *flags) == 0
    save = checkpoint_module.write_verified

    def killed(path, state):
        if path.name.startswith("000003"):
            path.with_name(f".{path.name}.77.part").write_bytes(b"half")
            raise KeyboardInterrupt
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_verified", killed)
        assert run(data_dir, tmp_path / "part", *flags) == EXIT_INTERRUPTED
    assert main(["--resume", str(tmp_path / "part")]) == 0
    assert metrics_of(tmp_path / "part") == metrics_of(tmp_path / "whole")
    assert same_weights(tmp_path / "part", tmp_path / "whole")
    assert "000003-online-3.pt.77.part was half written" in caplog.text
    assert not list((tmp_path / "part" / CHECKPOINT_FOLDER).glob(".*"))
