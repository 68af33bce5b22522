"""Running sweeps: attempts, retries, kills, stops, resuming, longer budgets and searches."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

import sweeps.attempt as attempt_module
from run.files import CONFIG_FILE, LOCK_FILE, STATUS_FILE, SWEEP_LOCK_FILE
from run.state import DIVERGED, FAILED, FINISHED, KILLED, RUNNING, STOPPED, UNFINISHED
from run.stopping import EXIT_STOPPED
from scripts import sweep as sweep_script
from sweeps.attempt import Allocation, Attempt, command_words, retried, run_here
from sweeps.board import Board, progress
from sweeps.folders import remaining, status_of
from sweeps.plan import Sweep, SweepRun, read_sweep
from sweeps.state import PLANNED, PRUNED, Status, metric_rows, read_status
from tests.commands import as_command
from tests.conftest import ROOT
from tests.test_sweep_plan import write_sweep
from utils import UserError

main = as_command(sweep_script.main)

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


def program(folder: Path, code: str) -> Allocation:
    """An allocation of a program instead of main.py; FOLDER is the run's folder."""
    script = folder / "program.py"
    start = "import os, sys\nfrom pathlib import Path\nFOLDER = Path(sys.argv[-1])\n"
    script.write_text(start + code)
    return Allocation(1, 0, folder, script)


def run_once(run: SweepRun, allocation: Allocation) -> int | None:
    return Attempt(run, allocation).wait()


@pytest.mark.parametrize(
    ("code", "number", "state", "message"),
    [
        ("print('good')", 0, FINISHED, ""),
        ("print('bad'); sys.exit('error: broken')", 1, FAILED, "error: broken"),
        ("sys.exit(2)", 2, FAILED, "--- attempt 1"),
        ("print('nan'); sys.exit(3)", 3, DIVERGED, "nan"),
        ("print('so far'); sys.exit(75)", 75, STOPPED, "so far"),
        ("os.kill(os.getpid(), 9)", 137, KILLED, "killed by signal 9"),
        ("(FOLDER / 'config.json').write_text('{\"outcome\": \"finished\"}')\n"
         "os.kill(os.getpid(), 15)", 143, FINISHED, ""),
    ],
)  # fmt: skip
def test_status_records_how_an_attempt_ended(code, number, state, message, tmp_path) -> None:
    run = runs_of(tmp_path)[0]
    assert run_once(run, program(tmp_path, code)) == number
    content = json.loads((run.folder / STATUS_FILE).read_text())
    about = {key: content[key] for key in ("task", "method", "seed", "attempts")}
    assert about == {"task": run.task, "method": run.method, "seed": run.seed, "attempts": 1}
    assert (content["state"], content["exit_code"]) == (state, number)
    assert content["message"][:13] == message[:13]
    assert content["host"] and content["started"] <= content["ended"]


def test_attempt_starts_over_or_resumes(tmp_path) -> None:
    run = runs_of(tmp_path)[0]
    seen = program(tmp_path, "Path(FOLDER, 'seen').write_text(' '.join([sys.argv[-2], *sorted("
                   "p.name for p in FOLDER.iterdir())]))\n"
                   "(FOLDER / 'logs').mkdir(exist_ok=True)\n")  # fmt: skip
    for _ in range(2):
        run_once(run, seen)
        assert (run.folder / "seen").read_text() == "--run_dir output.log status.json sweep.lock"
    add_checkpoint(run)
    assert command_words(run)[-2:] == ["--resume", str(run.folder)]
    run_once(run, seen)
    assert (run.folder / "seen").read_text().split()[:2] == ["--resume", "checkpoints"]
    assert status_of(run).attempts == 3


def add_checkpoint(run: SweepRun) -> None:
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / "checkpoints" / "000000-pretrain-1.pt").touch()


def test_run_gets_its_allocation(tmp_path, monkeypatch) -> None:
    run = runs_of(tmp_path)[0]
    shown = program(tmp_path, "print(os.environ['OMP_NUM_THREADS'], os.getcwd(), "
                    "repr(os.environ.get('CUDA_VISIBLE_DEVICES')))")  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    for threads, gpus, visible in ((4, 0.5, "'3'"), (2, 0, "''")):
        run_once(run, Allocation(threads, gpus, tmp_path, shown.script))
        last = (run.folder / "output.log").read_text().splitlines()[-1]
        assert last == f"{threads} {tmp_path} {visible}"


def test_folder_in_use_is_not_touched(tmp_path, monkeypatch) -> None:
    run = runs_of(tmp_path)[0]
    monkeypatch.setattr(attempt_module, "_LOCK_TIMEOUT", 0.3)
    run.folder.mkdir(parents=True)
    (run.folder / "precious").touch()
    for name in (SWEEP_LOCK_FILE, LOCK_FILE):
        with FileLock(run.folder / name), pytest.raises(OSError):
            Attempt(run, program(tmp_path, ""))
        assert (run.folder / "precious").exists()


def test_file_system_without_locks_leaves_no_lock_behind(tmp_path, monkeypatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    run = runs_of(tmp_path)[0]
    monkeypatch.setattr("fcntl.flock", flock)
    assert run_once(run, program(tmp_path, "")) == 0
    assert run_once(run, program(tmp_path, "")) == 0
    assert status_of(run).state == FINISHED


def test_only_crashed_runs_are_retried(tmp_path) -> None:
    runs = runs_of(tmp_path, methods=["ODT"], seeds=[1, 2, 3, 4, 5, 6])
    codes = {1: "0", 2: "9 1 0", 3: "1 75 1 0", 4: "2 0", 5: "3 0", 6: "4 0"}
    ends = program(
        tmp_path,
        f"""
codes = {codes}[int(FOLDER.name[4:])].split()
code = int(codes[(FOLDER / 'output.log').read_text().count('--- attempt') - 1])
os.kill(os.getpid(), 9) if code == 9 else sys.exit(code)
""",
    )
    run_here(runs, 2, ends, lambda: False, lambda: None)
    assert states(runs) == [FINISHED, FINISHED, FAILED, FAILED, DIVERGED, FAILED]
    assert [status_of(run).attempts for run in runs] == [1, 3, 3, 1, 1, 1]
    assert remaining(runs) == [runs[2], runs[3], runs[5]]
    # out of memory on a GPU shared with other runs
    assert retried(status_of(runs[5]), gpus=0.5)
    assert not retried(status_of(runs[5]), gpus=1)


def test_status_of_a_run_whose_sweep_died(tmp_path) -> None:
    run = runs_of(tmp_path)[0]
    assert read_status(run.folder) is None
    Status(run.sweep, run.task, run.method, run.seed, RUNNING, attempts=1).write(run.folder)
    assert status_of(run).state == KILLED
    with FileLock(run.folder / SWEEP_LOCK_FILE):
        assert status_of(run).state == RUNNING
        assert remaining((run,)) == []
    (run.folder / CONFIG_FILE).write_text("{}")
    # no run.lock: it may still be running, on a file system without locks
    assert status_of(run).state == UNFINISHED
    (run.folder / CONFIG_FILE).write_text('{"outcome": "finished"}')
    assert status_of(run).state == FINISHED
    for damaged in ("{", '{"state": "fine"}', "[]", '{"sweep": 1, "state": "odd"}'):
        (run.folder / STATUS_FILE).write_text(damaged)
        assert read_status(run.folder) is None


def test_progress_has_the_last_row_and_score(tmp_path) -> None:
    run = runs_of(tmp_path)[0]
    assert progress(run) == ""
    run.folder.mkdir(parents=True)
    rows = [{"phase": "online", "iteration": 1, "evaluation/normalized_score": 5.5}]
    rows += [{"phase": "online", "iteration": n, "x": "y" * 3000} for n in (2, 3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run.folder / "metrics.jsonl").write_text(text + '{"phase": "onl')
    assert progress(run) == "online 3/2, score 5.5"


def test_board_prints_changes_and_counts(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sweeps.board._INTERVAL", 0)
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
        "maze2d-umaze-v1 TD3+ODT seed1: failed (attempt 2), oh "
        "[3 waiting, 0 running, 0 done, 1 failed]"
    )
    assert board.lines()[-1] == "small: 3 waiting, 0 running, 0 done, 1 failed"
    assert len(board.lines()) == 5 and len(board.lines(done=False)) == 2


def test_board_in_a_terminal(tmp_path) -> None:
    rich_console = pytest.importorskip("rich.console")
    runs = runs_of(tmp_path)
    for run, state, attempts, message in (
        (runs[1], RUNNING, 2, ""),
        (runs[2], FAILED, 1, "KeyError: '[/data/x]' [red]"),
    ):
        about = (run.task, run.method, run.seed, state, None, attempts, message)
        Status("small", *about).write(run.folder)
    (runs[1].folder / "metrics.jsonl").write_text(
        '{"phase": "online", "iteration": 2, "total_transitions_sampled": 1200, '
        '"evaluation/normalized_score": 7.25}\n'
    )
    console = rich_console.Console(width=120)
    with FileLock(runs[1].folder / SWEEP_LOCK_FILE), console.capture() as captured:
        console.print(Board("small", runs).table())
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert lines == [
        "small: 2 waiting, 1 running, 0 done, 1 failed",
        "task method run state progress",
        "maze2d-umaze-v1 TD3+ODT seed2 running (attempt 2) online 2/2, 1,200 steps, score 7.2",
        f"{runs[2].task} {runs[2].method} {runs[2].folder.name} failed KeyError: '[/data/x]' [red]",
    ]


def test_local_sweep_skips_finished_runs_until_they_get_a_longer_budget(
    data_dir, tmp_path, capsys
) -> None:
    path = sweep_of(tmp_path, data_dir, methods=["TD3+ODT"], seeds=[1])
    words = [str(path), "--save_dir", str(tmp_path / "exp"), "--here"]
    assert main(words) == 0
    assert "small: 1 of 1 runs to start" in capsys.readouterr().out
    (run,) = read_sweep(path, tmp_path / "exp").runs
    before = (run.folder / "metrics.jsonl").read_bytes()
    assert main(words) == 0
    assert "small: 0 of 1 runs to start" in capsys.readouterr().out
    assert (run.folder / "metrics.jsonl").read_bytes() == before
    assert main([*words[:3], "--dry-run"]) == 0
    assert capsys.readouterr().out == ""
    assert main([*words[:3], "--status"]) == 0
    assert capsys.readouterr().out.count(": done") == 1
    # other settings under the same names
    for flag, value, recorded in (("gamma", "0.5", "0.99"), ("max_online_iters", "1", "2")):
        assert main([*words, "--", f"--{flag}", value]) == 2
        error = capsys.readouterr().err
        assert f"the run there has --{flag} {recorded}, the sweep {value}" in error
        assert error.count("\n") == 1
    assert main([*words, "--", "--log_to_tb", "1", "--data_dir", str(data_dir.resolve())]) == 0
    assert main([*words, "--", "--max_online_iters", "3"]) == 0
    assert metric_rows(run.folder)[-1]["iteration"] == 3
    assert (run.folder / "metrics.jsonl").read_bytes().startswith(before)
    assert status_of(run).attempts == 2
    # nothing is deleted if there is no checkpoint to continue from
    shutil.rmtree(run.folder / "checkpoints")
    before = (run.folder / "metrics.jsonl").read_bytes()
    assert main([*words, "--", "--max_online_iters", "4"]) == 2
    assert "is finished and has no checkpoint to continue from" in capsys.readouterr().err
    assert (run.folder / "metrics.jsonl").read_bytes() == before


def test_unwritable_folder_of_a_sweep_is_one_line(data_dir, tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    path = sweep_of(tmp_path, data_dir, methods=["TD3+ODT"], seeds=[1])
    assert main([str(path), "--save_dir", str(tmp_path / "file"), "--here"]) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error and error.count("\n") == 1


def test_stop_leaves_the_remaining_runs_planned(tmp_path) -> None:
    runs = runs_of(tmp_path)
    waits = program(tmp_path, "import time; (FOLDER / 'on').touch(); time.sleep(600)")
    run_here(runs, 2, waits, (runs[0].folder / "on").exists, lambda: None)
    assert states(runs) == [KILLED, PLANNED, PLANNED, PLANNED]
    assert status_of(runs[0]).exit_code == 128 + signal.SIGTERM


# stands in for main.py: quick, with its signals, checkpoints, lock and exit codes. trial000 is
# killed on its first attempt and later waits for the file `go`; trial001 is refused.
RUN = """
import fcntl, json, signal, time
lock = (FOLDER / 'run.lock').open('w')
fcntl.flock(lock, fcntl.LOCK_EX)
flags = dict(word.lstrip('-').split('=') for word in sys.argv if '=' in word)
def end(outcome, code):
    (FOLDER / 'config.json').write_text(json.dumps({'settings': {}, 'outcome': outcome}))
    sys.exit(code)
for kind in (signal.SIGTERM, signal.SIGXCPU):
    signal.signal(kind, lambda number, frame: end('stopped', 75))
(FOLDER / 'checkpoints').mkdir(exist_ok=True)
(FOLDER / 'checkpoints' / '000000-online-1.pt').touch()
rows = FOLDER / 'metrics.jsonl'
done = len(rows.read_text().splitlines()) if rows.exists() else 0
assert sys.argv[-2] == ('--resume' if done else '--run_dir')
for n in range(done, 9):
    score = 100 * float(flags['learning_rate']) + n
    row = {'phase': 'online', 'iteration': n + 1, 'evaluation/normalized_score': score}
    with rows.open('a') as file:
        file.write(json.dumps(row) + '\\n')
    if FOLDER.name == 'trial001':
        end('failed', 2)
    if (FOLDER.name, n) == ('trial000', 0):
        os.kill(os.getpid(), 9)
    (FOLDER / 'ready').touch()
    while not (FOLDER.parents[3] / 'go').exists():
        time.sleep(0.1)
end('finished', 0)
"""
# with seed 25, the learning rates fall from trial to trial
SEARCH = {"trials": 4, "flags": {"learning_rate": {"uniform": [0.1, 0.9]}}}


def test_ray_search_survives_a_killed_driver_and_stops(data_dir, tmp_path) -> None:
    """Its driver is killed, it is resumed, stopped, and resumed to the end."""
    pytest.importorskip("ray.tune")
    path = sweep_of(tmp_path, data_dir, methods=["TD3+ODT"], seeds=[25], gpus=0,
                    flags={"max_online_iters": 9}, search=SEARCH)  # fmt: skip
    allocation = program(tmp_path, RUN)
    driver = tmp_path / "driver.py"
    driver.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from functools import partial; from pathlib import Path\n"
        "import sweeps.tuning; from scripts.sweep import main\n"
        "sweeps.tuning.Allocation = partial(sweeps.tuning.Allocation, "
        f"script=Path({str(allocation.script)!r}))\n"
        "sys.exit(main())\n"
    )
    command = [sys.executable, str(driver), str(path), "--save_dir", str(tmp_path / "exp")]
    runs = read_sweep(path, tmp_path / "exp").runs
    start = partial(
        subprocess.Popen, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip

    def processes() -> bytes:
        pattern = f"{allocation.script} .*/trial"
        return subprocess.run(["pgrep", "-f", pattern], capture_output=True).stdout

    # the killed run is retried; with the sweep killed, it stops by itself, with a checkpoint
    first = start()
    until(lambda: status_of(runs[0]).attempts == 2 and states(runs[2:]) == [PRUNED] * 2)
    until((runs[0].folder / "ready").exists)
    first.kill()
    first.communicate()
    until(lambda: not processes() and RUNNING not in states(runs))
    assert states(runs) == [STOPPED, FAILED, PRUNED, PRUNED]
    assert [status_of(run).attempts for run in runs] == [2, 1, 1, 1]

    (runs[0].folder / "ready").unlink()
    second = start()
    until((runs[0].folder / "ready").exists)
    second.send_signal(signal.SIGINT)
    output, error = second.communicate()
    assert second.returncode == EXIT_STOPPED, output + error
    assert error.splitlines()[-1].startswith("Stopped. Resume with: ")
    assert not processes()
    # every call starts the refused run once, which this one may have stopped
    assert [states(runs)[i] for i in (0, 2, 3)] == [STOPPED, PRUNED, PRUNED]

    (tmp_path / "exp" / "go").touch()
    third = start()
    output, error = third.communicate()
    assert third.returncode == 1, output + error
    assert states(runs) == [FINISHED, FAILED, PRUNED, PRUNED]
    rows = [metric_rows(run.folder)[-1]["iteration"] for run in runs]
    assert (rows[0], rows[2], rows[3]) == (9, 1, 1)
    assert status_of(runs[0]).attempts == 4
    assert [status_of(run).sampled for run in runs] == [dict(run.sampled) for run in runs]
    # Tune's own records are removed
    assert len(list((tmp_path / "exp" / "small").glob(".tune-*"))) == 1


def test_optuna_continues_from_the_trials_that_have_started(tmp_path) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("ray.tune")
    from sweeps.tuning import _Suggestions

    search = SEARCH | {"algorithm": "optuna"}
    sweep = read_sweep(sweep_of(tmp_path, methods=["ODT"], seeds=[1], search=search), tmp_path)
    assert sweep.search is not None
    suggestions = _Suggestions(sweep.runs, sweep.search)
    tried = [suggestions.suggest(str(number))["run"] for number in range(3)]
    suggestions.on_trial_complete("0", {"score": 5.0})
    for run in tried:
        assert f"--learning_rate={dict(run.sampled)['learning_rate']}" in run.flags
        assert run.settings.learning_rate == dict(run.sampled)["learning_rate"]
        assert status_of(run).sampled == dict(run.sampled)
    status = status_of(tried[1])
    status.attempts = 1
    status.write(tried[1].folder)
    again = read_sweep(sweep_of(tmp_path, methods=["ODT"], seeds=[1], search=search), tmp_path)
    assert again.runs[1] == tried[1]
    assert _Suggestions(again.runs, sweep.search).suggest("a")["run"] == tried[1]


def test_tune_can_pickle_the_monitor_of_a_table_in_a_terminal() -> None:
    pytest.importorskip("ray.tune")
    from ray import cloudpickle

    from sweeps.tuning import _Monitor

    locked = threading.RLock()
    assert cloudpickle.dumps(_Monitor(lambda: bool(locked), lambda: None))


def test_missing_ray_is_one_line(data_dir, tmp_path, monkeypatch, capsys) -> None:
    path = sweep_of(tmp_path, data_dir)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "sweeps.tuning", raising=False)
    assert main([str(path), "--save_dir", str(tmp_path / "exp")]) == 2
    error = capsys.readouterr().err
    assert "requirements-optional.txt" in error and error.count("\n") == 1


def test_unreachable_cluster_is_one_line(data_dir, tmp_path, capsys) -> None:
    pytest.importorskip("ray.tune")
    path, folder = sweep_of(tmp_path, data_dir), tmp_path / "exp"
    assert main([str(path), "--save_dir", str(folder), "--address", "127.0.0.1:1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --address 127.0.0.1:1: no answer") and error.count("\n") == 1
    assert not list(folder.rglob(STATUS_FILE))


@pytest.mark.parametrize(
    ("cpus", "gpus", "room"),
    [
        (1, None, (1, 0.5)),
        (8, 0, (8, 0)),
        (0.5, 0.25, (0.5, 0.25)),
        (9, None, "cpus 9: no machine has more than 8 cores"),
    ],
)
def test_resources_fit_on_a_machine(cpus, gpus, room, monkeypatch) -> None:
    pytest.importorskip("ray.tune")
    from sweeps import tuning

    nodes: list[Any] = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(tuning, "ray", SimpleNamespace(nodes=lambda: nodes))
    if isinstance(room, tuple):
        assert tuple(tuning._resources(Sweep("x", (), cpus, gpus)).values()) == room
    else:
        with pytest.raises(UserError, match=room):
            tuning._resources(Sweep("x", (), cpus, gpus))
    nodes[0]["Resources"].pop("GPU")
    assert tuning._resources(Sweep("x", (), 1, None)) == {"cpu": 1, "gpu": 0}
    with pytest.raises(UserError, match="Ray finds no GPU"):
        tuning._resources(Sweep("x", (), 1, 0.5))
