"""The published flags: pages, shell scripts and sweeps/published.txt agree."""

import re
import shlex
import subprocess
from dataclasses import replace

import pytest

from get_args import Settings, parse_args
from run.folder import method_name
from run.setting_checks import check_settings
from sweeps.published import METHOD_FLAGS, TASK_FLAGS
from tasks import TASKS
from tests.conftest import ROOT
from tests.test_get_args import COMMANDS, ODT, README, TD3, documented_settings

SUITES = ("mujoco", "adroit", "antmaze", "maze2d")
_ADROIT = ("pen", "hammer", "door", "relocate")
SUITE_TASKS: dict[str, list[str]] = {suite: [] for suite in SUITES}
for _task in TASK_FLAGS:
    _family = TASKS[_task].family
    _known = "adroit" if _family in _ADROIT else _family
    SUITE_TASKS[_known if _known in SUITES else "mujoco"].append(_task)


def shell(suite: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "scripts" / f"{suite}.sh"
    env = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run([script, *words], capture_output=True, text=True, env=env)


def shell_settings(suite: str, *words: str) -> list[Settings]:
    """Settings of the commands that a dry run prints."""
    done = shell(suite, "--dry-run", *words)
    assert (done.returncode, done.stderr) == (0, "")
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert all(command[:2] == ["python", "main.py"] for command in commands)
    return [parse_args(command[2:]) for command in commands]


def table_settings(task: str, method: str = "TD3+ODT") -> Settings:
    return parse_args(["--env", task, "--seed", "16", *TASK_FLAGS[task], *METHOD_FLAGS[method]])


def test_table_has_every_task_of_the_benchmark_once() -> None:
    assert sorted(TASK_FLAGS) == sorted(name for name, task in TASKS.items() if task.published)


def test_commands_page_and_table_list_the_same_commands() -> None:
    assert {table_settings(task) for task in TASK_FLAGS} == set(documented_settings())
    assert shlex.join(METHOD_FLAGS["ODT"]) == ODT
    assert shlex.join(METHOD_FLAGS["TD3"]) == TD3


def method_rows(text: str) -> dict[str, list[str]]:
    """Flags by method, from a table with one method per row."""
    rows = re.findall(r"^\| ([\w+]+)(?: \(.*\))? \| `(--.*)` \|$", text, flags=re.MULTILINE)
    return {method: shlex.split(flags) for method, flags in rows}


def test_flags_of_every_method_match_the_table() -> None:
    text = COMMANDS.read_text().replace("\\\n", " ")
    flags = method_rows(text)
    blocks = re.findall(r"^(\S+).*:\n\n```text\n([^`]*)```", text, flags=re.MULTILINE)
    flags |= {name: shlex.split(block) for name, block in blocks}
    flags["IQL-MLP"] = flags.pop("IQL")
    assert set(flags) == set(METHOD_FLAGS) - {"TD3+ODT"}
    for name, words in flags.items():
        assert parse_args(words) == parse_args(METHOD_FLAGS[name]), name


def test_readme_baseline_flags_match_the_table() -> None:
    flags = method_rows(README.read_text())
    assert list(flags) == ["ODT", "TD3", "DDPG+ODT"]
    for name, words in flags.items():
        for task in ("hopper-medium-v2", "maze2d-umaze-v1", "antmaze-umaze-v2", "pen-human-v1"):
            # appended to the TD3+ODT command: the last value of a flag counts
            both = ["--env", task, "--seed", "16", *TASK_FLAGS[task], *METHOD_FLAGS["TD3+ODT"]]
            assert parse_args([*both, *words]) == table_settings(task, name)


def test_shell_scripts_and_commands_page_list_the_same_commands() -> None:
    printed = [settings for suite in SUITES for settings in shell_settings(suite)]
    assert len(printed) == len(TASK_FLAGS)
    assert set(printed) == set(documented_settings())


@pytest.mark.parametrize("method", METHOD_FLAGS)
def test_every_method_can_run_on_every_task(method: str) -> None:
    for task in TASK_FLAGS:
        settings = table_settings(task, method)
        check_settings(settings)
        assert method_name(settings) == method


def test_shell_sweep_takes_methods_seeds_tasks_delay_and_flags() -> None:
    words = ["--method", "ODT,TD3", "--seeds", "1,2", "--tasks", "ant-*,hopper-random-v2"]
    words += ["--delayed_reward", "5", "--", "--suffix", "a b", "--embed_dim=64"]
    expected = [
        replace(table_settings(task, method), seed=seed, delayed_reward=5,
                suffix="a b", embed_dim=64)
        for task in ("ant-medium-v2", "ant-medium-replay-v2", "ant-random-v2", "hopper-random-v2")
        for method in ("ODT", "TD3")
        for seed in (1, 2)
    ]  # fmt: skip
    assert shell_settings("mujoco", *words) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sead", "1"], "--sead: unknown option"),
        (["ODT"], "ODT: unknown option"),
        (["--seeds", "1,x"], "--seeds x"),
        (["--seeds", "4294967296"], "--seeds 4294967296"),
        (["--seeds", ","], "no seed given"),
        (["--seeds"], "needs a value"),
        (["--tasks", "hopper-medium-v2"], "--tasks hopper-medium-v2: no such task"),
        (["--tasks", "maze2d-*,*.py"], "--tasks *.py"),
        (["--method", "TD3+ODT,PDT"], "--method PDT: unknown method; use TD3+ODT"),
        (["--delayed_reward", "1"], "--delayed_reward 1"),
        (["--delayed_reward", "-2"], "--delayed_reward -2"),
    ],
)
def test_bad_arguments_are_one_line(words: list[str], said: str) -> None:
    done = shell("maze2d", "--dry-run", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr


@pytest.mark.parametrize("suite", SUITES)
def test_usage_names_options_methods_and_tasks(suite: str) -> None:
    text = shell(suite, "--help").stdout
    assert text.startswith(f"usage: scripts/{suite}.sh ")
    options = ["--method", "--seeds", "--tasks", "--delayed_reward", "--dry-run", "-h"]
    assert all(word in text for word in [*options, *METHOD_FLAGS, *SUITE_TASKS[suite]])


@pytest.mark.parametrize(
    ("codes", "code", "runs"), [("0 0 0", 0, 3), ("0 3 0", 1, 3), ("0 2", 2, 2), ("75", 75, 1)]
)
def test_exit_codes_of_the_runs(tmp_path, codes: str, code: int, runs: int) -> None:
    """A failed run does not keep the next from running; one that was stopped or refused does."""
    fake = tmp_path / "python"
    fake.write_text(
        '#!/bin/sh\necho "$@" >> "$LOG"; n=$(wc -l < "$LOG"); set -- $CODES\n'
        'shift $((n - 1)); exit "$1"\n'
    )
    fake.chmod(0o755)
    log = tmp_path / "log"
    done = shell("maze2d", "--tasks", "maze2d-open-v0", "--seeds", "1,2,3",
                 PYTHON=str(fake), LOG=str(log), CODES=codes)  # fmt: skip
    assert done.returncode == code, done.stderr
    assert len(log.read_text().splitlines()) == runs
