"""scripts/algorithms.sh, the recipe of docs/ALGORITHMS.md."""

import os
import re
import shlex
import subprocess

import pytest

from get_args import RL_ALGORITHMS, parse_args
from run.folder import method_name
from run.setting_checks import check_settings
from tests.conftest import ROOT

SCRIPT = ROOT / "scripts" / "algorithms.sh"
PAGE = (ROOT / "docs" / "ALGORITHMS.md").read_text()
STUB = '#!/bin/sh\nprintf "%s\\n" "$*" >>"$CALLS"\nexit $CODE\n'


@pytest.fixture
def call(tmp_path):
    """Run the script with an interpreter that only records its arguments."""
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    calls = tmp_path / "calls"

    def run(*words, code=0, **variables):
        calls.write_text("")
        env = os.environ | {"PYTHON": str(stub), "CALLS": str(calls), "CODE": str(code)}
        env |= {"OUT": str(tmp_path / "out"), "DATA_DIR": str(tmp_path)} | variables
        done = subprocess.run([SCRIPT, *words], capture_output=True, text=True, env=env)
        return done, [shlex.split(line)[1:] for line in calls.read_text().splitlines()]

    return run


def test_every_method_of_the_page_has_valid_settings(call):
    variants = re.findall(r"TD3\+ODT-\w+", SCRIPT.read_text().partition("\nEND\n")[0])
    assert len(variants) == 4
    done, commands = call(SEEDS="7")
    assert done.returncode == 0
    more, extra = call(SEEDS="7", METHODS=" ".join(variants))
    assert more.returncode == 0
    assert (len(commands), len(extra)) == (20, 8)
    algorithms = set()
    for command in commands + extra:
        settings = parse_args(command)
        check_settings(settings)
        name = method_name(settings) + settings.suffix
        assert settings.run_dir.endswith(f"{settings.env}/{name}/seed7")
        assert f"`{name}`" in PAGE or f"| {name} |" in PAGE
        algorithms.add(settings.rl_algo)
    assert algorithms == set(RL_ALGORITHMS)


def test_finished_runs_are_skipped_and_failed_runs_are_repeated(call):
    chosen = {"SEEDS": "7 8", "METHODS": "TD3", "TASKS": "hopper-medium-v2"}
    done, commands = call(code=3, **chosen)
    assert (done.returncode, len(commands)) == (1, 2)
    assert "failed" in done.stderr
    assert len(call(**chosen)[1]) == 2
    assert call(**chosen)[1] == []
    assert len(call(**chosen | {"SEEDS": "9"})[1]) == 1


@pytest.mark.parametrize("wrong", [{"METHODS": "TD4"}, {"TASKS": "hopper"}])
def test_unknown_names_are_one_line(call, wrong):
    done, commands = call(**wrong)
    assert (done.returncode, commands) == (2, [])
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert call("--help")[0].returncode == 0
    assert call("--hlep")[0].returncode == 2
