"""Running sweeps: attempts, retries, kills, stops and resuming."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

import sweeps.attempt as attempt_module
from run.checkpoint import state_files
from run.files import LOCK_FILE, STATUS_FILE, SWEEP_LOCK_FILE
from run.state import DIVERGED, FAILED, FINISHED, KILLED, RUNNING, STOPPED
from run.stopping import EXIT_STOPPED
from scripts.sweep import main
from sweeps.attempt import Allocation, attempt, command_words, status_of
from sweeps.board import Board
from sweeps.loop import LocalExecutor, remaining, run_all
from sweeps.on_ray import _resources
from sweeps.plan import Sweep, SweepRun, read_sweep
from sweeps.state import PLANNED, Status, last_row, read_status
from tests.conftest import ROOT
from tests.test_sweep_plan import write_sweep
from tests.tiny_runs import metrics_of, same_weights
from utils import UserError

GUARD = [sys.executable, str(ROOT / "sweeps" / "guard.py")]
ALLOCATION = Allocation(1, False, ROOT)
TINY = {
    "device": "cpu", "embed_dim": 16, "n_layer": 1, "n_head": 1, "batch_size": 8, "K": 1,
    "eval_context_length": 1, "num_eval_episodes": 1, "log_to_tb": False, "checkpoint_interval": 1,
    "num_updates_per_pretrain_iter": 3, "num_updates_per_online_iter": 3, "eval_interval": 4,
    "minimum_sapairs_per_iter": 1, "max_online_iters": 2,
}  # fmt: skip


def until(condition: Callable[[], object], seconds: float = 600) -> None:
    """Wait for a condition; processes may be slow."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def sweep_of(folder: Path, data_dir: Path | None = None, **fields: Any) -> Path:
    flags = TINY | {"data_dir": str(data_dir)} | fields.pop("flags", {})
    return write_sweep(folder, flags=flags, **fields)


def runs_of(folder: Path, data_dir: Path | None = None, **fields: Any) -> tuple[SweepRun, ...]:
    return read_sweep(sweep_of(folder, data_dir, **fields), folder / "exp").runs


def states(runs: tuple[SweepRun, ...]) -> list[str]:
    return [status_of(run).state for run in runs]


@pytest.mark.parametrize("number", [signal.SIGTERM, None], ids=["SIGTERM", "end of input"])
def test_guard_sends_one_signal_and_returns_the_exit_code(tmp_path, number) -> None:
    stopped = tmp_path / "stopped"
    code = (
        "import signal, sys, time\n"
        "def note(*_):\n"
        f"    open({str(stopped)!r}, 'a').write('x')\n"
        "signal.signal(signal.SIGTERM, note)\n"
        f"open({str(tmp_path / 'ready')!r}, 'w')\n"
        "while not sys.stdin.read() and time.sleep(0.05) is None:\n"
        f"    import os\n    if os.path.exists({str(tmp_path / 'go')!r}): sys.exit(75)\n"
    )
    guard = subprocess.Popen([*GUARD, sys.executable, "-c", code], stdin=subprocess.PIPE)
    until((tmp_path / "ready").exists)
    assert guard.stdin is not None
    if number is None:
        guard.stdin.close()
    else:
        guard.send_signal(number)
        guard.send_signal(signal.SIGINT)
        until(stopped.exists)
        guard.send_signal(number)
    until(stopped.exists)
    time.sleep(0.3)
    assert stopped.read_text() == "x"
    (tmp_path / "go").touch()
    assert guard.wait() == 75


def test_guard_returns_the_signal_that_ended_the_command() -> None:
    command = ["sh", "-c", "kill -9 $$"]
    assert subprocess.Popen([*GUARD, *command], stdin=subprocess.PIPE).wait() == 128 + 9


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_command_does_not_outlive_a_killed_guard(tmp_path) -> None:
    command = ["sh", "-c", f"echo $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid;"
               "exec sleep 600"]  # fmt: skip
    guard = subprocess.Popen([*GUARD, *command], stdin=subprocess.PIPE)
    until((tmp_path / "pid").exists)
    guard.kill()
    guard.wait()

    def gone() -> bool:
        try:
            os.kill(int((tmp_path / "pid").read_text()), 0)
        except ProcessLookupError:
            return True
        return False

    until(gone, 30)


def fake_main(folder: Path, monkeypatch, code: str) -> None:
    """Replace main.py; FOLDER is the run's folder."""
    (folder / "main.py").write_text("import sys\nfrom pathlib import Path\n"
                                    "FOLDER = Path(sys.argv[-1])\n" + code)  # fmt: skip
    monkeypatch.setattr(attempt_module, "ROOT", folder)


@pytest.mark.parametrize(
    ("code", "number", "state", "message"),
    [
        ("print('good')", 0, FINISHED, ""),
        ("print('bad'); sys.exit('error: broken')", 1, FAILED, "error: broken"),
        ("sys.exit(2)", 2, FAILED, ""),
        ("print('nan'); sys.exit(3)", 3, DIVERGED, "nan"),
        ("print('so far'); sys.exit(75)", 75, STOPPED, "so far"),
        ("import os; os.kill(os.getpid(), 9)", 137, KILLED, "killed by signal 9"),
        ("(FOLDER / 'config.json').write_text('{\"outcome\": \"finished\"}')\n"
         "import os; os.kill(os.getpid(), 15)", 143, FINISHED, ""),
    ],
)  # fmt: skip
def test_status_records_how_an_attempt_ended(
    code, number, state, message, tmp_path, monkeypatch
) -> None:
    run = runs_of(tmp_path)[0]
    fake_main(tmp_path, monkeypatch, code)
    assert attempt(run, ALLOCATION) == number
    content = json.loads((run.folder / STATUS_FILE).read_text())
    about = {key: content[key] for key in ("task", "method", "seed", "attempts")}
    assert about == {"task": run.task, "method": run.method, "seed": run.seed, "attempts": 1}
    assert (content["state"], content["exit_code"]) == (state, number)
    assert content["message"].startswith("--- attempt 1") if number == 2 else (
        content["message"] == message
    )  # fmt: skip
    assert content["host"] and content["started"] <= content["ended"]


def test_attempt_starts_over_or_resumes(tmp_path, monkeypatch) -> None:
    run = runs_of(tmp_path)[0]
    fake_main(tmp_path, monkeypatch,
              "Path(FOLDER, 'seen').write_text(' '.join([sys.argv[-2], *sorted(p.name for p in "
              "FOLDER.iterdir())]))\n(FOLDER / 'logs').mkdir(exist_ok=True)\n")  # fmt: skip
    for _ in range(2):
        attempt(run, ALLOCATION)
        assert (run.folder / "seen").read_text() == "--run_dir output.log status.json sweep.lock"
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "000000-pretrain-1.pt").touch()
    assert command_words(run)[-2:] == ["--resume", str(run.folder)]
    attempt(run, ALLOCATION)
    assert (run.folder / "seen").read_text().split()[:2] == ["--resume", "checkpoints"]
    assert status_of(run).attempts == 3


def test_run_gets_its_allocation(tmp_path, monkeypatch) -> None:
    run = runs_of(tmp_path)[0]
    fake_main(tmp_path, monkeypatch,
              "import os; print(os.environ['OMP_NUM_THREADS'], os.getcwd(), "
              "repr(os.environ.get('CUDA_VISIBLE_DEVICES')))")  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    for threads, gpu, visible in ((4, True, "'3'"), (2, False, "''")):
        attempt(run, Allocation(threads, gpu, tmp_path))
        last = (run.folder / "output.log").read_text().splitlines()[-1]
        assert last == f"{threads} {tmp_path} {visible}"


def test_folder_in_use_is_not_touched(tmp_path, monkeypatch) -> None:
    run = runs_of(tmp_path)[0]
    fake_main(tmp_path, monkeypatch, "")
    monkeypatch.setattr(attempt_module, "_LOCK_TIMEOUT", 0.3)
    run.folder.mkdir(parents=True)
    (run.folder / "precious").touch()
    for name in (SWEEP_LOCK_FILE, LOCK_FILE):
        with FileLock(run.folder / name), pytest.raises(OSError):
            attempt(run, ALLOCATION)
        assert (run.folder / "precious").exists()


class Scripted:
    """An executor whose attempts end as listed: (state, exit code, problem) by label."""

    def __init__(self, script: dict[str, list[tuple[str, int, str]]]) -> None:
        self.script, self.queue, self.log = script, [], []  # type: ignore[var-annotated]

    def submit(self, run: SweepRun) -> None:
        assert status_of(run).state == PLANNED
        self.queue.append(run)

    def wait(self, seconds: float) -> list[tuple[SweepRun, str]]:
        run = self.queue.pop(0)
        self.log.append(run.label)
        state, code, problem = self.script[run.label].pop(0)
        status = status_of(run)
        status.state, status.exit_code, status.attempts = state, code, status.attempts + 1
        status.write(run.folder)
        return [(run, problem)]

    def cancel(self) -> None:
        raise AssertionError("not stopped")


def test_only_crashed_runs_are_retried(tmp_path) -> None:
    runs = runs_of(tmp_path, methods=["ODT"], seeds=[1, 2, 3, 4, 5, 6])
    task = "maze2d-umaze-v1 ODT seed "
    executor = Scripted(
        {
            task + "1": [(FINISHED, 0, "")],
            task + "2": [(KILLED, 137, ""), (FAILED, 1, ""), (FINISHED, 0, "")],
            task + "3": [(FAILED, 1, ""), (STOPPED, 75, ""), (FAILED, 1, ""), (FINISHED, 0, "")],
            task + "4": [(FAILED, 2, ""), (FINISHED, 0, "")],
            task + "5": [(DIVERGED, 3, ""), (FINISHED, 0, "")],
            task + "6": [(PLANNED, 0, "machine lost"), (FINISHED, 0, "")],
        }
    )
    shown: list[int] = []
    run_all(executor, runs, 2, lambda: False, lambda: shown.append(1))
    assert states(runs) == [FINISHED, FINISHED, FAILED, FAILED, DIVERGED, FINISHED]
    assert [executor.log.count(run.label) for run in runs] == [1, 3, 3, 1, 1, 2]
    assert len(shown) == 1 + len(executor.log)
    assert remaining(runs) == [runs[2], runs[3]]


def test_status_of_a_run_whose_sweep_died(tmp_path) -> None:
    run = runs_of(tmp_path)[0]
    assert read_status(run.folder) is None
    Status(run.sweep, run.task, run.method, run.seed, RUNNING, attempts=1).write(run.folder)
    assert status_of(run).state == KILLED
    with FileLock(run.folder / SWEEP_LOCK_FILE):
        assert status_of(run).state == RUNNING
        assert remaining((run,)) == []
    (run.folder / "config.json").write_text('{"outcome": "finished"}')
    assert status_of(run).state == FINISHED
    for damaged in ("{", '{"state": "fine"}', "[]", '{"sweep": 1, "state": "odd"}'):
        (run.folder / STATUS_FILE).write_text(damaged)
        assert read_status(run.folder) is None


def test_last_row_has_the_last_score(tmp_path) -> None:
    assert last_row(tmp_path) == {}
    rows = [{"phase": "online", "iteration": 1, "evaluation/normalized_score": 5.5}]
    rows += [{"phase": "online", "iteration": n, "x": "y" * 3000} for n in (2, 3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"phase": "onl')
    row = last_row(tmp_path)
    assert (row["iteration"], row["evaluation/normalized_score"]) == (3, 5.5)


def test_board_prints_changes_and_counts(tmp_path, capsys) -> None:
    runs = runs_of(tmp_path)
    board = Board("small", runs)
    with board.displayed():
        Status("small", runs[0].task, runs[0].method, runs[0].seed, FAILED, 1, 2, "oh").write(
            runs[0].folder
        )
        board.update()
        board.update()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(
        "maze2d-umaze-v1 TD3+ODT seed 1: failed (attempt 2), oh "
        "[3 waiting, 0 running, 0 done, 1 failed]"
    )
    assert board.lines()[-1] == "small: 3 waiting, 0 running, 0 done, 1 failed"
    assert len(board.lines()) == 5 and len(board.lines(done=False)) == 2


def test_board_in_a_terminal(tmp_path, monkeypatch) -> None:
    rich_console = pytest.importorskip("rich.console")
    runs = runs_of(tmp_path)
    Status("small", runs[1].task, runs[1].method, runs[1].seed, RUNNING, None, 2).write(
        runs[1].folder
    )
    (runs[1].folder / "metrics.jsonl").write_text(
        '{"phase": "online", "iteration": 2, "total_transitions_sampled": 1200, '
        '"evaluation/normalized_score": 7.25}\n'
    )
    console = rich_console.Console(width=120)
    with FileLock(runs[1].folder / SWEEP_LOCK_FILE), console.capture() as captured:
        console.print(Board("small", runs)._table())
    lines = captured.get().splitlines()
    assert lines[0] == "small: 3 waiting, 1 running, 0 done"
    assert [line.split() for line in lines if "seed" in line] == [
        ["task", "method", "seed", "state", "progress"]
    ]
    (row,) = [line for line in lines if "maze2d" in line]
    assert row.split()[:5] == ["maze2d-umaze-v1", "TD3+ODT", "2", "running", "(2)"]
    assert "online 2/2, 1,200 steps, score 7.2" in row


def test_local_sweep_runs_and_skips_finished_runs(data_dir, tmp_path, capsys) -> None:
    path = sweep_of(tmp_path, data_dir, methods=["TD3+ODT"], seeds=[1, 2])
    words = [str(path), "--save_dir", str(tmp_path / "exp"), "--here"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "small: 2 of 2 runs to start" in output and "[0 waiting, 0 running, 2 done]" in output
    runs = read_sweep(path, tmp_path / "exp").runs
    before = [(run.folder / "metrics.jsonl").read_bytes() for run in runs]
    assert main(words) == 0
    assert "small: 0 of 2 runs to start" in capsys.readouterr().out
    assert [(run.folder / "metrics.jsonl").read_bytes() for run in runs] == before
    assert main([*words[:3], "--dry-run"]) == 0
    assert capsys.readouterr().out == ""
    assert main([*words[:3], "--status"]) == 0
    assert capsys.readouterr().out.count(": done") == 2
    # other settings under the same names
    assert main([*words, "--", "--gamma", "0.5"]) == 2
    error = capsys.readouterr().err
    assert "the run there has --gamma 0.99, the sweep 0.5" in error
    assert error.count("\n") == 2
    assert main([*words, "--", "--log_to_tb", "1", "--data_dir", str(data_dir.resolve())]) == 0


def test_refused_run_is_not_retried(data_dir, tmp_path, capsys) -> None:
    (data_dir / "maze2d-umaze-v1.hdf5").write_bytes(b"no dataset")
    path = sweep_of(tmp_path, data_dir, methods=["ODT"], seeds=[1])
    assert main([str(path), "--save_dir", str(tmp_path / "exp"), "--here"]) == 1
    (run,) = read_sweep(path, tmp_path / "exp").runs
    status = status_of(run)
    assert (status.state, status.exit_code, status.attempts) == (FAILED, 2, 1)
    assert status.message.startswith("error: ") and "maze2d-umaze-v1.hdf5" in status.message
    assert status.message in capsys.readouterr().out


def test_stop_leaves_the_remaining_runs_planned(tmp_path, monkeypatch) -> None:
    runs = runs_of(tmp_path)
    fake_main(tmp_path, monkeypatch, "import time; (FOLDER / 'on').touch(); time.sleep(600)")
    stopping = SimpleNamespace(now=False)

    def stop() -> bool:
        stopping.now = stopping.now or (runs[0].folder / "on").exists()
        return stopping.now

    run_all(LocalExecutor(ALLOCATION, stop), runs, 2, stop, lambda: None)
    assert states(runs) == [KILLED, PLANNED, PLANNED, PLANNED]
    assert status_of(runs[0]).exit_code == 128 + signal.SIGTERM


def test_ray_sweep_survives_kills_and_stops(data_dir, tmp_path) -> None:
    """A run is killed by SIGKILL, then its sweep is stopped, resumed, killed and resumed."""
    pytest.importorskip("ray")
    flags = {"max_online_iters": 16, "num_updates_per_online_iter": 30}
    path = sweep_of(tmp_path, data_dir, methods=["TD3+ODT"], seeds=[1, 2], flags=flags,
                    cpus=0.5, gpus=0)  # fmt: skip
    runs = read_sweep(path, tmp_path / "exp").runs
    command = [sys.executable, str(ROOT / "scripts" / "sweep.py"), str(path)]
    command += ["--save_dir", str(tmp_path / "exp")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=env, start_new_session=True)  # fmt: skip

    def pid_of(run: SweepRun) -> int:
        pattern = rf"/main\.py .*{tmp_path.name}/exp/.*/seed{run.seed}$"
        found = subprocess.run(["pgrep", "-f", pattern], capture_output=True).stdout.split()
        # the guard is the older process
        return int(found[-1]) if found else 0

    def rows(run: SweepRun) -> int:
        file = run.folder / "metrics.jsonl"
        return len(file.read_bytes().splitlines()) if file.exists() else 0

    first = start()
    until(lambda: rows(runs[0]) > 2)
    victim = pid_of(runs[0])
    assert victim
    os.kill(victim, signal.SIGKILL)
    until(lambda: status_of(runs[0]).attempts == 2 and rows(runs[0]) > 3)
    first.send_signal(signal.SIGINT)
    output, error = first.communicate()
    assert first.returncode == EXIT_STOPPED, output + error
    assert "Resume with: python scripts/sweep.py" in error
    assert set(states(runs)) <= {STOPPED, PLANNED, FINISHED}
    assert states(runs)[0] == STOPPED and "attempt 2" in output
    assert all(not pid_of(run) for run in runs)

    # if the sweep itself is killed, no run keeps running
    second = start()
    until(lambda: status_of(runs[0]).attempts == 3 and status_of(runs[0]).state == RUNNING)
    os.killpg(second.pid, signal.SIGKILL)
    second.communicate()
    until(lambda: RUNNING not in states(runs) and not any(pid_of(run) for run in runs))

    third = start()
    output, error = third.communicate()
    assert third.returncode == 0, output + error
    assert states(runs) == [FINISHED] * 2
    assert "small: 0 of 2 runs to start" not in output
    assert all(len(state_files(run.folder)) == 2 for run in runs)

    # the interrupted run equals an uninterrupted one
    whole = tmp_path / "whole"
    quiet = [*runs[0].flags, "--run_dir", str(whole)]
    subprocess.run([sys.executable, str(ROOT / "main.py"), *quiet], env=env, check=True,
                   capture_output=True)  # fmt: skip
    assert metrics_of(whole) == metrics_of(runs[0].folder)
    assert same_weights(whole, runs[0].folder)


def test_missing_ray_is_one_line(data_dir, tmp_path, monkeypatch, capsys) -> None:
    path = sweep_of(tmp_path, data_dir)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([str(path), "--save_dir", str(tmp_path / "exp")]) == 2
    error = capsys.readouterr().err
    assert "requirements-optional.txt" in error and error.count("\n") == 1


def test_unreachable_cluster_is_one_line(data_dir, tmp_path) -> None:
    pytest.importorskip("ray")
    path = sweep_of(tmp_path, data_dir)
    command = [sys.executable, str(ROOT / "scripts" / "sweep.py"), str(path)]
    command += ["--save_dir", str(tmp_path / "exp"), "--address", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --address 127.0.0.1:1: no answer")
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "exp").rglob(STATUS_FILE))


@pytest.mark.parametrize(
    ("cpus", "gpus", "room"),
    [
        (1, None, (1, 0.5)),
        (8, 0, (8, 0)),
        (0.5, 0.25, (0.5, 0.25)),
        (9, None, "cpus 9: no machine has more than 8 cores"),
    ],
)
def test_resources_fit_on_a_machine(cpus, gpus, room) -> None:
    nodes: list[Any] = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    ray, sweep = SimpleNamespace(nodes=lambda: nodes), Sweep("x", (), cpus, gpus)
    if isinstance(room, tuple):
        assert _resources(ray, sweep) == room
    else:
        with pytest.raises(UserError, match=room):
            _resources(ray, sweep)
    nodes[0]["Resources"].pop("GPU")
    assert _resources(ray, Sweep("x", (), 1, None)) == (1, 0)
    with pytest.raises(UserError, match="Ray finds no GPU"):
        _resources(ray, Sweep("x", (), 1, 0.5))
