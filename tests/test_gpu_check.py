"""The GPU check in its CPU mode: every part finds a fault, and none stops the others."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import trainer
from gpu_check import __main__ as program
from gpu_check import compiled, plain, profile, resume, runs
from gpu_check.part import RESULTS_FILE, Part
from gpu_check.report import read_items
from run.checkpoint import load_checkpoint, state_files, write_verified
from tests.conftest import ROOT

CPU = torch.device("cpu")
GOLDEN_FAULT = """
import critic, sys
make_q = critic.Critic.q
critic.Critic.q = lambda *args: make_q(*args) + 1e-3
from gpu_check.part import main
main("golden", "cpu", sys.argv[1], "1")
"""


@pytest.fixture
def part(tmp_path):
    return Part(CPU, tmp_path, quick=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run."""
    part = Part(CPU, tmp_path_factory.mktemp("finished"), quick=True)
    runs.write_data(part.folder)
    flags = f"{runs.RUNS['TD3+BC, bf16']} --max_online_iters 1"
    runs.call(runs.command(part, flags, part.folder / "run"))
    return part.folder / "run"


def results(part):
    return {item["item"]: item for item in read_items(part.folder / RESULTS_FILE)}


def test_parts_run_and_are_reported(tmp_path, capsys):
    chosen = ["environment", "waits", "timing"]
    flags = f"--device cpu --quick --out {tmp_path} --only {' '.join(chosen)}"
    assert program.main(flags.split()) == 0, (tmp_path / "log.txt").read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert [part["part"] for part in report["parts"]] == chosen
    (versions,) = report["parts"][0]["items"]
    assert versions["figures"]["torch"] == torch.__version__
    *updates, acting = (item["figures"] for item in report["parts"][2]["items"])
    for figures in updates:
        assert 0 < figures["host_ms"] <= figures["ms"]
        assert figures["peak_mib"] > 100
    assert acting["graph_ms"] > 0
    table = (tmp_path / "report.md").read_text()
    assert "| timing | passed | 4 of 4 |" in table
    assert "| K 20, bf16 | passed |" in table
    assert "timing: passed, 4 of 4 items" in capsys.readouterr().out


def test_a_part_that_fails_hangs_or_lacks_a_package_does_not_stop_the_rest(tmp_path, monkeypatch):
    plan = {
        "fails": program.Plan(60, ()),
        "crashes": program.Plan(60, ()),
        "hangs": program.Plan(10, ()),
        "cut short": program.Plan(999, ()),
        "lacks": program.Plan(60, ("no_such_package",)),
        "passes": program.Plan(60, ("torch",)),
    }

    def call(command, seconds, log):
        name, part = command[3], Part(CPU, Path(command[5]), quick=False)
        if name != "crashes":
            part.record("first", 1.0, {"ms": 2.5})
        if name == "fails":
            part.item("second", lambda: {"ms": 1 / 0})
        if name in ("hangs", "cut short"):
            with (part.folder / RESULTS_FILE).open("a") as file:
                file.write('{"item": "half')
            return None
        return 1 if name == "crashes" else 0

    monkeypatch.setattr(program, "PARTS", plan)
    monkeypatch.setattr(program, "call", call)
    arguments = ["--device", "cpu", "--minutes", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu_check", *arguments])
    assert program.main(arguments) == 1
    parts = json.loads((tmp_path / "report.json").read_text())["parts"]
    found = {part["part"]: (part["result"], len(part["items"]), part["reason"]) for part in parts}
    assert found == {
        "fails": ("failed", 2, ""),
        "crashes": ("failed", 0, "exit code 1; see log.txt"),
        "hangs": ("failed", 1, "stopped after 40 s"),
        "cut short": ("unfinished", 1, "stopped after 120 s"),
        "lacks": ("skipped", 0, "needs no_such_package"),
        "passes": ("passed", 1, ""),
    }
    table = (tmp_path / "report.md").read_text()
    assert "| fails | failed | 1 of 2 |" in table and "failed: second |" in table
    assert "| second | failed | 0.0 | ZeroDivisionError: division by zero |" in table


def test_a_call_ends_with_everything_it_started(tmp_path):
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '100']).pid, flush=True); "
    command = [sys.executable, "-c", code + "sys.stdin.read(); import time; time.sleep(100)"]
    with (tmp_path / "log.txt").open("w") as log:
        assert program.call(command, 2, log) is None
        assert program.call([sys.executable, "-c", "raise SystemExit(3)"], 60, log) == 3
    child = int((tmp_path / "log.txt").read_text().splitlines()[-2])
    time.sleep(0.2)
    running = Path(f"/proc/{child}/cmdline")  # empty once the process has ended
    assert not running.exists() or not running.read_bytes()


def test_an_unknown_device_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        program.main(["--device", "cuda:99"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --device cuda:99: ") and error.count("\n") == 1


def test_a_wrong_critic_is_found(part):
    command = [sys.executable, "-c", GOLDEN_FAULT, str(part.folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    found = results(part)
    failed = {name for name, item in found.items() if not item["ok"]}
    assert "test_v_and_q_equal_golden" in failed
    assert "not close" in found["test_v_and_q_equal_golden"]["error"]
    kept = {name for name in found if "forward" in name or "acting" in name or "steps" in name}
    assert len(kept) > 8 and not kept & failed


def test_a_run_must_end_well_and_with_finite_metrics(part, monkeypatch):
    chosen = {"good": runs.RUNS["TD3+ODT, K = 1"], "refused": f"{runs.RUNS['TD3+ODT']} --K 0"}
    runs.at_once(part, chosen, runs.run)
    found = results(part)
    assert found["good"]["ok"], found["good"]["error"]
    assert "exit code 2: error: --K 0" in found["refused"]["error"]
    monkeypatch.setattr(runs, "call", lambda words: "")
    row = {"phase": "online", "training/Q_mean": "NaN"}
    monkeypatch.setattr(runs, "rows_of", lambda run_dir: [row] * 3)
    with pytest.raises(RuntimeError, match="3 of 3 rows, not all finite"):
        runs.run(part, "good", "")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("", ""),
        ("critic_target", "critic_target/q_net.layers.0.weight differs by .*; metrics: equal"),
        ("a row", "metrics differ: 2 rows against 3"),
        ("a value", "metrics differ: online 1: training/Q_mean .* against 7"),
    ],
)
def test_a_resumed_run_must_equal_the_other(part, finished, monkeypatch, fault, message):
    def call(words, code=0):
        words = list(words)
        if "--resume" in words:
            return
        run_dir = Path(words[words.index("--run_dir") + 1])
        shutil.copytree(finished, run_dir)
        if code and fault.startswith("a "):
            file = run_dir / "metrics.jsonl"
            *rows, last = file.read_text().splitlines()
            added = [last] if fault == "a row" else []
            changed = last if added else json.dumps(json.loads(last) | {"training/Q_mean": 7})
            file.write_text("\n".join([*rows, changed, *added]) + "\n")
        elif code and fault:
            state = load_checkpoint(run_dir)
            state["trainer"][fault]["q_net.layers.0.weight"][0, 0, 0] += 1e-3
            write_verified(state_files(run_dir)[0], state)

    monkeypatch.setattr(resume, "call", call)
    if not fault:
        found = resume.resumed(part, "run", "")
        assert found == {"difference": 0.0}
        return
    with pytest.raises(RuntimeError, match=message):
        resume.resumed(part, "run", "")


def test_a_stopped_run_stops_within_online_training(part):
    runs.write_data(part.folder)
    script, *words = runs.command(part, runs.RUNS["TD3+ODT"], part.folder / "run")
    assert script == "main.py"
    runs.call(["-c", resume.STOPPED.format(ticks=resume.TICKS, recurrent=False), *words], 75)
    state = load_checkpoint(part.folder / "run")
    assert state["phase"] == "online" and state["trainer"]["tick"] > 0


def test_compiled_updates_must_equal_the_others():
    with patch.object(trainer, "compile_policies", compiled.trace_only):
        assert compiled.equal(CPU)["distance"] < 1e-4

    def other(*actors):
        for p in actors[0].parameters():
            p.data.add_(1e-3)

    with (
        patch.object(trainer, "compile_policies", other),
        pytest.raises(RuntimeError, match="weights differ"),
    ):
        compiled.equal(CPU)


def test_a_profile_counts_what_runs(monkeypatch):
    monkeypatch.setattr(profile, "UPDATES", 1)
    found = profile.profile(CPU, 1, "fp32")
    times = [float(row.split(" ms ")[0]) for row in found["top"]]
    assert times == sorted(times, reverse=True)
    assert found["busy_ms"] > sum(times) > 0
    assert found["kernels"] > 100


def test_the_plain_baseline_is_called_as_it_is_documented(monkeypatch):
    commands = []

    def run_script(command, **_):
        commands.append(shlex.join(command[1:]))
        return subprocess.CompletedProcess(command, 1, "", "error: it failed\n")

    monkeypatch.setattr(subprocess, "run", run_script)
    with pytest.raises(RuntimeError, match="it failed"):
        plain.compare(CPU, 20, "bf16")
    assert commands[0].startswith("benchmarks/bench_plain.py --json --device cpu --K 20")


@pytest.mark.parametrize("pair", [(1.0, torch.nan), (torch.nan, 1.0), (1.0, torch.inf)])
def test_states_with_nan_differ(pair):
    one, other = ({"x": torch.tensor([value, 2.0])} for value in pair)
    assert resume.difference(one, other) == (torch.inf, "/x")
