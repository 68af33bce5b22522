"""Sweeps whose runs share their pretraining."""

from pathlib import Path
from typing import Any

import pytest

import sweeps.attempt as attempt
from get_args import parse_args
from main import main as train
from reporting.runs import read_runs, run_folders
from run.state import DIVERGED, FAILED
from scripts import sweep as sweep_script
from sweeps.attempt import command_words
from sweeps.folders import status_of
from sweeps.plan import Sweep, read_sweep
from sweeps.sharing import PRETRAINING
from sweeps.state import state_of_end
from tests.commands import as_command
from tests.test_sweep_plan import write_sweep
from tests.tiny_runs import TINY, metrics_of
from utils import json_object

main = as_command(sweep_script.main)

FLAGS: dict[str, Any] = dict(zip([name[2:] for name in TINY[::2]], TINY[1::2], strict=True))
FLAGS |= {"num_eval_episodes": 1, "max_online_iters": 1, "K": 1, "eval_context_length": 1}


def sweep_of(folder: Path, **fields: Any) -> Sweep:
    fields = {"share_pretraining": True, "published_flags": False} | fields
    return read_sweep(write_sweep(folder, **fields), folder / "exp")


def run_here(monkeypatch, codes: dict[str, int] | None = None) -> list[str]:
    """Run attempts in this process; returns the methods in the order in which they start.

    Args:
        codes: Exit codes of methods that fail instead of running, by the start of their names.
    """
    started = []

    class InThisProcess:
        def __init__(self, run, _):
            started.append(run.method)
            failing = [c for name, c in (codes or {}).items() if run.method.startswith(name)]
            status = status_of(run)
            status.exit_code = failing[0] if failing else train(command_words(run))
            status.state = state_of_end(run.folder, status.exit_code)
            status.write(run.folder)

        def wait(self, _):
            return 0

    monkeypatch.setattr(attempt, "Attempt", InThisProcess)
    return started


def groups(sweep: Sweep) -> dict[str, set[str]]:
    """Methods by the name of their pretraining."""
    found: dict[str, set[str]] = {}
    for run in sweep.runs:
        name = run.pretraining.folder.name if run.pretraining else ""
        found.setdefault(name, set()).add(run.method)
    return found


def test_runs_with_the_same_pretraining_share_it(tmp_path) -> None:
    stochastic = {"stoc": 1, "use_entropy_reg": 1}
    methods = [
        "TD3+ODT",
        "TD3",
        "ODT",
        {"TD3+ODT-stochastic": stochastic | {"actor_rl_coeff": 0.3, "online_rtg": 9}},
        {"TD3+ODT-wide": {"stoc": 0, "use_entropy_reg": 0, "embed_dim": 64}},
        {"TD3+ODT-rtg": {"stoc": 0, "use_entropy_reg": 0, "eval_rtg": 64}},
        "DDPG+ODT",
        "TD3+BC",
        {"TD3+BC-strong": {"RL_from_start": 1, "actor_rl_coeff": 5.0, **stochastic}},
        {"TD3+ODT-none": {"stoc": 0, "use_entropy_reg": 0, "max_pretrain_iters": 0}},
        {"TD3+ODT-only": {"stoc": 0, "use_entropy_reg": 0, "max_online_iters": 0}},
        {"TD3+ODT-jump": {"stoc": 0, "use_entropy_reg": 0, "jump_start_steps": 5}},
    ]
    sweep = sweep_of(tmp_path, methods=methods, tasks=["maze2d-umaze-v1", "hopper-medium-v2"])
    first = [run for run in sweep.runs if run.task == "maze2d-umaze-v1"]
    shared = groups(Sweep("", tuple(first)))
    own = shared.pop("")
    assert own == {"TD3+ODT-none", "TD3+ODT-only"}
    assert sorted(map(sorted, shared.values())) == [
        ["DDPG+ODT"],
        ["ODT", "TD3+ODT-stochastic"],
        ["TD3", "TD3+ODT", "TD3+ODT-jump"],
        ["TD3+BC"],
        ["TD3+BC-strong"],
        ["TD3+ODT-rtg"],
        ["TD3+ODT-wide"],
    ]
    # two seeds, and no folder for two tasks
    assert len({run.pretraining for run in sweep.runs if run.pretraining}) == 2 * len(shared)


def test_the_shared_run_has_the_flags_that_count_and_others_start_from_it(tmp_path) -> None:
    flags = FLAGS | {"data_dir": str(tmp_path), "learning_rate": 0.01, "expl_noise": 0.5}
    sweep = sweep_of(tmp_path, methods=["TD3", "TD3+ODT"], flags=flags, seeds=[5, 6])
    assert not any(run.pretraining is None for run in sweep.runs)
    (shared,) = {run.pretraining for run in sweep.runs if run.pretraining}
    assert shared.settings == parse_args(shared.flags)
    assert (shared.settings.seed, shared.settings.max_online_iters) == (5, 0)
    assert (shared.settings.learning_rate, shared.settings.expl_noise) == (0.01, 0.1)
    assert shared.settings.data_dir == str(tmp_path)
    assert shared.folder.parent == tmp_path / "exp" / "small" / "maze2d-umaze-v1" / "pretraining"
    for run in sweep.runs:
        assert run.settings == parse_args(run.flags)
        assert (run.settings.init_from, run.settings.init_optimizer) == (str(shared.folder), 1)
        assert (run.settings.max_pretrain_iters, run.settings.expl_noise) == (0, 0.5)
    # the name does not depend on the order and number of the methods
    other = sweep_of(tmp_path, methods=["ODT", "TD3+ODT"], flags=flags, seeds=[5])
    assert shared.folder.name in groups(other)


@pytest.mark.usefixtures("short_horizons")
def test_two_methods_and_two_seeds_train_from_one_pretraining(
    data_dir, tmp_path, monkeypatch, capsys
) -> None:
    started = run_here(monkeypatch)
    fields = {"methods": ["TD3", "TD3+ODT"], "flags": FLAGS | {"data_dir": str(data_dir)}}
    sweep = sweep_of(tmp_path, **fields)
    words = [str(tmp_path / "small.yaml"), "--save_dir", str(tmp_path / "exp")]
    # a selection of runs has the same pretraining
    assert main([*words, "--here", "--seeds", "2"]) == 0
    assert main([*words, "--here"]) == 0
    assert [method.startswith(PRETRAINING) for method in started] == [True] + 4 * [False]
    capsys.readouterr()
    assert main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out == ""
    (shared,) = {run.pretraining for run in sweep.runs if run.pretraining}
    assert [row["phase"] for row in metrics_of(shared.folder)] == ["pretrain"]
    for run in sweep.runs:
        assert [(r["phase"], r["iteration"]) for r in metrics_of(run.folder)] == [
            ("online", 0), ("online", 1)
        ]  # fmt: skip
        config = json_object((run.folder / "config.json").read_text())
        assert config["origin"]["folder"] == str(shared.folder)
        assert config["origin"]["taken"] == ["actor", "critic", "optimisers"]
    runs, warnings = read_runs(run_folders([tmp_path / "exp"]))
    assert {(run.method, run.seed) for run in runs} == {
        (method, seed) for method in ("TD3", "TD3+ODT") for seed in (1, 2)
    }
    assert all(run.counts for run in runs) and not warnings


@pytest.mark.usefixtures("short_horizons")
def test_runs_without_their_pretraining_do_not_start(data_dir, tmp_path, monkeypatch) -> None:
    started = run_here(monkeypatch, {PRETRAINING: 3})
    sweep = sweep_of(tmp_path, flags=FLAGS | {"data_dir": str(data_dir)}, methods=["TD3", "ODT"])
    words = [str(tmp_path / "small.yaml"), "--save_dir", str(tmp_path / "exp"), "--here"]
    for _ in range(2):
        assert main(words) == 1
        assert len(started) == 2
        for run in sweep.runs:
            status = status_of(run)
            assert (status.state, status.message) == (FAILED, "its shared pretraining is diverged")
    assert {status_of(r.pretraining).state for r in sweep.runs if r.pretraining} == {DIVERGED}


@pytest.mark.usefixtures("short_horizons")
def test_a_finished_pretraining_can_be_deleted(data_dir, tmp_path, monkeypatch, capsys) -> None:
    run_here(monkeypatch)
    sweep = sweep_of(
        tmp_path, flags=FLAGS | {"data_dir": str(data_dir)}, methods=["TD3"], seeds=[4]
    )
    words = [str(tmp_path / "small.yaml"), "--save_dir", str(tmp_path / "exp")]
    assert main([*words, "--here"]) == 0
    (run,) = sweep.runs
    assert run.pretraining is not None
    for path in sorted(run.pretraining.folder.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    capsys.readouterr()
    assert main([*words, "--dry-run"]) == main([*words, "--here"]) == 0
    assert "0 of 1 runs to start" in capsys.readouterr().out
