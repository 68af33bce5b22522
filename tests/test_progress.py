"""What a run prints: its progress, and that output never ends it."""

import io
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

import utils
from get_args import Settings
from run import progress as progress_module
from run.progress import Progress, ProgressDisplay
from scripts import evaluate, export_policy, plot_learning_curve, report
from tests.commands import as_command
from tests.conftest import ROOT

SETTINGS = replace(
    Settings(), max_pretrain_iters=2, num_updates_per_pretrain_iter=100, max_online_iters=50,
    num_updates_per_online_iter=10, max_online_transitions=900, num_online_rollouts=3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("iterations", "transitions", "collected", "left"),
    [
        ((0, 0), 0, False, (2, 50)),
        ((2, 0), 0, False, (0, 50)),
        # at 25 steps per iteration, the budget allows 36
        ((2, 4), 100, False, (0, 32)),
        ((2, 3), 100, True, (0, 33)),
        ((2, 4), 10, False, (0, 46)),
        ((2, 35), 900, True, (0, 1)),
        ((2, 36), 900, False, (0, 0)),
        ((2, 36), 1000, False, (0, 0)),
        ((2, 50), 500, False, (0, 0)),
    ],
)
def test_iterations_left_obey_the_limits(iterations, transitions, collected, left):
    done = dict(zip(("pretrain", "online"), iterations, strict=True))
    metrics = {"aug_traj/return": 1.0} if collected else {}
    progress = Progress("online", done, transitions, metrics)
    assert tuple(progress.iterations_left(SETTINGS).values()) == left


def test_without_a_terminal_a_line_shows_progress_and_time_left(monkeypatch, capsys):
    seconds = iter(range(0, 10_000, 30))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(seconds))
    progress = Progress("online", {"pretrain": 2, "online": 4}, 40)
    display = ProgressDisplay(SETTINGS, progress)
    with display.training(10) as show:
        for _ in range(3):
            show()
    with display.evaluation(1000) as show:
        show()
        show()
    progress.iterations["online"] += 1
    with display.collection() as collected:
        collected(700)
        collected(1200)
        collected(2900)
        collected(3001)
    lines = capsys.readouterr().err.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d online", line) for line in lines)
    assert [line[20:] for line in lines] == [
        # 46 iterations of 10 updates, at 30 s per update
        "online iteration 5: 1/10 updates, run: 3:49:30 left",
        "online iteration 5: 3/10 updates, run: 3:48:30 left",
        "online iteration 5, evaluation: 2/1,000 steps, run: 6:20:50 left",
        # 45 iterations of 10 updates
        "online iteration 6, collection: 1,200/3,000 steps, run: 8:45:00 left",
        "online iteration 6, collection: 3,000/3,000 steps, run: 11:15:00 left",
    ]


def test_output_escapes_missing_characters_and_outlives_its_reader(monkeypatch):
    reading, writing = os.pipe()
    for name in ("stdout", "__stdout__", "stderr", "__stderr__"):
        monkeypatch.setattr(sys, name, None)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(os.fdopen(writing, "wb"), "ascii"))
    utils.make_output_lasting()
    with sys.stdout, os.fdopen(reading, "rb") as pipe:
        sys.stdout.write("score → 5\n")
        sys.stdout.flush()
        assert pipe.readline() == b"score \\u2192 5\n"
        pipe.close()
        for _ in range(3):
            sys.stdout.write("x" * 100_000)
            sys.stdout.flush()
        # closed from the start
        sys.stderr.write("lost")
    sys.stderr.close()


def test_help_into_a_closed_pipe_is_no_error():
    command = [sys.executable, str(ROOT / "main.py"), "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, error = process.communicate()
    assert (process.returncode, error) == (0, b"")


def test_printed_commands_run_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python-that-is-not-on-path", "main.py"])
    monkeypatch.chdir(tmp_path)
    assert utils.shell_command("main.py", "--resume", "my run") == (
        f"{sys.executable} {ROOT}/main.py --resume 'my run'"
    )
    monkeypatch.setattr(sys, "orig_argv", ["sh", "main.py"])
    monkeypatch.chdir(ROOT)
    assert utils.shell_command("scripts/sweep.py") == "sh scripts/sweep.py"


@pytest.mark.parametrize("folder", ["scripts", "data", "benchmarks", "motivation"])
def test_output_ends_no_command_line(folder):
    programs = [path for path in (ROOT / folder).glob("*.py") if "__main__" in path.read_text()]
    assert programs
    for path in programs:
        assert "    run_command(" in path.read_text().partition("__main__")[2], path


@pytest.mark.parametrize(
    ("code", "output", "status", "error"),
    [
        ("print('x' * 100_000)", "pipe", 0, ""),
        ("print('x')", "pipe", 0, ""),
        ("print('x' * 100_000)", "/dev/full", 2, "error: standard output: cannot be written (No"),
        ("print('x')", "/dev/full", 2, "error: standard output: cannot be written (No"),
        ("raise utils.UserError('--seed: wrong')", "/dev/null", 2, "error: --seed: wrong\n"),
        ("raise KeyboardInterrupt", "/dev/null", 130, "Interrupted.\n"),
    ],
)
def test_commands_end_with_at_most_one_line(code, output, status, error):
    program = f"import utils\ndef main():\n    {code}\nutils.run_command(main)"
    if output == "pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(output, os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, check=False,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == status
    assert done.stderr.startswith(error) and done.stderr.count("\n") == bool(error)


@pytest.mark.parametrize("script", [evaluate, export_policy, plot_learning_curve, report])
def test_commands_expand_a_leading_tilde(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["~/none"] if script is evaluate else ["~/none", "--out=~/new.png"]
    assert as_command(script.main)(arguments) == 2
    assert f"{tmp_path}/none" in capsys.readouterr().err
