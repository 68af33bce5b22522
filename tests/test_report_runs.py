"""How the report reads run folders: states, settings, duplicates and damage."""

import json
import math
import shutil

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from reporting.build import build
from reporting.contents import search_tables
from reporting.differences import differing_flags
from reporting.runs import (
    RunResult,
    read_run,
    read_runs,
    run_folders,
    state_warnings,
)
from run.files import LOCK_FILE
from run.state import DIVERGED, FAILED, FINISHED, KILLED, RUNNING, STOPPED, UNFINISHED
from tests.report_runs import ended, finished_run, settings, status
from utils import UserError


def read(folder) -> tuple[dict[str, RunResult], list[str]]:
    """The runs below a folder by folder name, and the warnings."""
    runs, warnings = read_runs(run_folders([folder]))
    return {run.folder.name: run for run in runs}, warnings


def test_run_is_read_as_logged(tmp_path):
    chosen = settings("ODT", "maze2d-umaze-v1", 7, suffix="-x", delayed_reward=5)
    finished_run(tmp_path / "a", 1.5, [10.0, 22.25], **chosen)
    run = read_run(tmp_path / "a")
    assert (run.env, run.task, run.method, run.base, run.seed) == (
        "maze2d-umaze-v1", "maze2d-umaze-v1 (delayed 5)", "ODT-x", "ODT", 7
    )  # fmt: skip
    assert (run.state, run.note, run.counts) == (FINISHED, "", True)
    np.testing.assert_array_equal(run.curve.steps, [0, 100, 200])
    assert (run.before, run.final) == (1.5, 22.25)
    assert (run.iterations, run.online_steps, run.offline) == (3, 205, 44.32)


def test_states_are_read(tmp_path):
    for seed, name in enumerate(["finished", "stopped", "diverged", "failed", "killed", "running"]):
        finished_run(tmp_path / name, 1.0, [2.0], seed=seed)
    ended(tmp_path / "stopped", STOPPED)
    ended(tmp_path / "diverged", DIVERGED, "Divergence: critic_MSE_loss")
    ended(tmp_path / "failed", FAILED, "RuntimeError: x")
    ended(tmp_path / "killed", None)
    ended(finished_run(tmp_path / "no_lock", 1.0, [2.0], seed=6), None)
    (tmp_path / "no_lock" / LOCK_FILE).unlink()
    with FileLock(tmp_path / "running" / LOCK_FILE):
        found, _ = read(tmp_path)
    assert {name: run.state for name, run in found.items()} == {
        "finished": FINISHED, "stopped": STOPPED, "diverged": DIVERGED, "failed": FAILED,
        "killed": KILLED, "running": RUNNING, "no_lock": UNFINISHED,
    }  # fmt: skip
    assert [name for name, run in found.items() if run.counts] == ["finished"]
    assert found["failed"].note == "RuntimeError: x"


def test_runs_that_only_a_sweep_recorded(tmp_path):
    """A run that was stopped before its first checkpoint is stopped, not failed."""
    status(tmp_path / "planned", state="planned", seed=1)
    status(tmp_path / "stopped", state="stopped", seed=2)
    status(tmp_path / "failed", state="failed", seed=3, attempts=3, message="no data")
    found, warnings = read(tmp_path)
    assert {name: (run.state, run.note) for name, run in found.items()} == {
        "planned": ("planned", ""),
        "stopped": (STOPPED, ""),
        "failed": (FAILED, "no data; 3 attempts"),
    }
    assert warnings == []


@pytest.mark.parametrize("content", [{"state": "crashed"}, {"state": "planned", "seed": "pong"}])
def test_unknown_states_and_seeds_are_rejected(tmp_path, content):
    status(tmp_path, **content)
    with pytest.raises(UserError, match=str(tmp_path)):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "field", [{"method": 3}, {"sweep": ["a"]}, {"task": {}}, {"message": 1}, {"attempts": "two"},
              {"sampled": 5}],
    ids=str,
)  # fmt: skip
def test_runs_with_a_damaged_status_are_skipped_with_a_warning(tmp_path, field):
    finished_run(tmp_path / "good", 1.0, [2.0])
    status(tmp_path / "unstarted", state="planned", **field)
    status(finished_run(tmp_path / "started", 1.0, [2.0], seed=4), state="finished", **field)
    found, warnings = read(tmp_path)
    assert list(found) == ["good"]
    for folder, line in zip(("started", "unstarted"), warnings, strict=True):
        assert line.startswith(f"{tmp_path / folder / 'status.json'}: not a run's record (")


def test_run_that_has_just_started(tmp_path):
    finished_run(tmp_path / "a", None, [])
    for _ in range(2):
        run = read_run(tmp_path / "a")
        assert len(run.curve.steps) == 0 and math.isnan(run.before) and math.isnan(run.final)
        assert not run.counts
        (tmp_path / "a" / "metrics.jsonl").unlink(missing_ok=True)


def test_incomplete_last_row_is_ignored(tmp_path):
    finished_run(tmp_path / "a", 1.0, [2.0])
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "onl')
    assert read_run(tmp_path / "a").final == 2.0


def test_note_counts_resumes_and_attempts(tmp_path):
    folder = finished_run(tmp_path / "a", 1.0, [2.0])
    config = json.loads((folder / "config.json").read_text())
    config["resumed"] = [{"outcome": FINISHED}]
    (folder / "config.json").write_text(json.dumps(config))
    status(folder, state="finished", attempts=2, exit_code=0)
    assert read_run(folder).note == "resumed 1 time; 2 attempts"


def test_runs_with_a_final_score_that_is_not_finite_do_not_count(tmp_path):
    run = read_run(finished_run(tmp_path / "a", 1.0, [2.0, float("nan")]))
    assert run.state == FINISHED and not run.counts
    pretrained = read_run(finished_run(tmp_path / "b", 1.0, []))
    assert state_warnings([run, pretrained]) == [
        f"{tmp_path}/a: finished, but the final score is not finite; left out",
        f"{tmp_path}/b: finished, but not fine-tuned; left out",
    ]


def test_one_run_per_seed_counts(tmp_path):
    """The finished run, and of several the one started last."""
    for name, start in [("a", "2026-01-01"), ("b", "2026-01-02"), ("c", "2026-01-03")]:
        folder = finished_run(tmp_path / name, 1.0, [2.0], seed=3)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"started": start}))
    ended(tmp_path / "c", STOPPED)
    found, warnings = read(tmp_path)
    assert [name for name, run in found.items() if not run.superseded] == ["b"]
    assert len(warnings) == 2 and all("not used" in line for line in warnings)


def test_experiments_are_separate_methods(tmp_path):
    finished_run(tmp_path / "a", 1.0, [2.0], exp_name="one")
    assert read(tmp_path)[0]["a"].method == "TD3+ODT"
    finished_run(tmp_path / "b", 1.0, [2.0], exp_name="two")
    finished_run(tmp_path / "c", 1.0, [2.0], embed_dim=64)
    found, warnings = read(tmp_path)
    assert [found[name].method for name in "abc"] == ["TD3+ODT [one]", "TD3+ODT [two]", "TD3+ODT"]
    assert warnings == [] and not any(run.superseded for run in found.values())


def test_other_settings_are_separate_methods(tmp_path):
    """No mean includes runs of two sizes; flags that do not change a run's numbers are ignored."""
    finished_run(tmp_path / "a", 1.0, [2.0], seed=1, embed_dim=64, save_dir="here")
    finished_run(tmp_path / "b", 1.0, [2.0], seed=2, embed_dim=64, save_dir="there", device="cpu")
    found, warnings = read(tmp_path)
    assert {run.method for run in found.values()} == {"TD3+ODT"} and warnings == []
    finished_run(tmp_path / "c", 1.0, [2.0], seed=2, embed_dim=128, gamma=0.9, exp_name="default")
    finished_run(tmp_path / "d", 1.0, [2.0], seed=2, env="maze2d-umaze-v1", K=1)
    status(tmp_path / "e", state="planned", method="TD3+ODT", seed=3)
    status(tmp_path / "f", state="planned", method="ODT", seed=3)
    found, warnings = read(tmp_path)
    assert {name: run.method for name, run in found.items()} == {
        "a": "TD3+ODT (embed_dim 64, gamma 0.99)",
        "b": "TD3+ODT (embed_dim 64, gamma 0.99)",
        "c": "TD3+ODT (embed_dim 128, gamma 0.9)",
        "d": "TD3+ODT (embed_dim 512, gamma 0.99)",
        # like the started runs of its sweep and method
        "e": found["c"].method,
        "f": "ODT",
    }
    assert warnings == [
        "TD3+ODT: runs differ in --embed_dim, --gamma; each combination is listed as a method of "
        "its own"
    ]
    assert not any(run.superseded for run in found.values())


def test_runs_of_versions_without_a_flag_have_its_default():
    assert differing_flags([{"policy": "transformer"}, {}]) == []
    assert differing_flags([{"policy": "mlp"}, {}]) == ["policy"]


def test_planned_runs_have_the_delay_of_their_sweep(tmp_path):
    finished_run(tmp_path / "a", 1.0, [2.0], delayed_reward=5, exp_name="table10")
    status(tmp_path / "b", state="planned", seed=11, sweep="table10")
    assert read(tmp_path)[0]["b"].task == "hopper-medium-v2 (delayed 5)"


def test_unstarted_runs_have_the_method_of_their_sweep_as_the_started_ones_name_it(tmp_path):
    """A sweep adds "-small" to the method "small"; --suffix may also be one of its flags."""
    flags = settings("TD3+ODT", "hopper-medium-v2", 1, exp_name="s", suffix="-small")
    started = finished_run(tmp_path / "started", 1.0, [2.0], **flags)
    status(started, state="finished", sweep="s", method="small", seed=1)
    status(tmp_path / "planned", state="planned", sweep="s", method="small", seed=2)
    other = {"sweep": "s", "task": "maze2d-umaze-v1"}
    status(tmp_path / "other", state="planned", method="small", seed=1, **other)
    status(tmp_path / "none", state="planned", method="big", seed=1, **other)
    found, warnings = read(tmp_path)
    assert not warnings and found["planned"].settings and not found["other"].settings
    assert {name: (run.method, run.base) for name, run in found.items()} == {
        **dict.fromkeys(("started", "planned", "other"), ("TD3+ODT-small", "TD3+ODT")),
        "none": ("big", "big"),
    }


def test_folders_are_found_once_and_in_order(tmp_path):
    runs = [tmp_path / "exp" / task / "seed1" / "time" for task in ("b", "a")]
    for run in runs:
        finished_run(run, 1.0, [2.0])
    (runs[0] / "wandb" / "x").mkdir(parents=True)
    (runs[0] / "wandb" / "x" / "config.json").write_text("{}")
    found = run_folders([tmp_path, tmp_path / "exp" / "b", runs[1]])
    assert found == [runs[1], runs[0]]


def test_links_are_followed_without_going_round(tmp_path):
    run = finished_run(tmp_path / "elsewhere" / "run", 1.0, [2.0])
    top = tmp_path / "exp"
    own = finished_run(top / "z" / "own", 1.0, [2.0])
    for name, target in (("run", run), ("latest", own), ("loop", top)):
        (top / name).symlink_to(target)
    assert run_folders([top]) == [own, top / "run"]


@pytest.mark.parametrize("name", ["none", "empty", "file"])
def test_paths_without_runs_are_rejected_in_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{tmp_path / name}: (not a folder|contains no run)"):
        run_folders([tmp_path / name])


@pytest.mark.parametrize("content", ["", "[]", '{"settings": {"env": "x"}}', "[" * 100_000, "\0"])
def test_runs_with_a_damaged_config_are_skipped_with_a_warning(tmp_path, content):
    finished_run(tmp_path / "good", 1.0, [2.0])
    bad = finished_run(tmp_path / "bad", 1.0, [2.0], seed=4)
    (bad / "config.json").write_text(content)
    found, (line,) = read(tmp_path)
    assert list(found) == ["good"]
    assert str(bad / "config.json") in line and line.endswith("skipped") and "\n" not in line
    shutil.rmtree(tmp_path / "good")
    with pytest.raises(UserError, match="no readable run"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["not json\n", "3\n", '{"phase": "online"}\n', '{"phase": "online", "iteration": 1, '
     '"total_transitions_sampled": 1, "evaluation/normalized_score": "high"}\n'],
)  # fmt: skip
def test_runs_with_damaged_metrics_are_listed_and_do_not_count(tmp_path, content):
    bad = finished_run(tmp_path / "bad", 1.0, [2.0], seed=4)
    with (bad / "metrics.jsonl").open("a") as file:
        file.write(content)
    found, (line,) = read(tmp_path)
    assert found["bad"].state == "damaged" and not found["bad"].counts
    assert str(bad / "metrics.jsonl") in line and "\n" not in line


def test_damage_is_reported_with_its_line(tmp_path):
    folder = finished_run(tmp_path / "a", 1.0, [2.0])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"phase": no}\n{}\n')
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    expected = f"unreadable (ValueError: line {len(lines) - 1}: Expecting value)"
    assert read_run(folder).note == f"{folder / 'metrics.jsonl'}: {expected}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(data=st.data())
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_config_gives_a_run_or_one_line(tmp_path, data):
    folder = tmp_path / "a"
    if not folder.exists():
        finished_run(folder, 1.0, [2.0])
        (tmp_path / "original").write_text((folder / "config.json").read_text())
    config = json.loads((tmp_path / "original").read_text())
    part = data.draw(st.sampled_from([config, config["settings"]]))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(JSON)
    (folder / "config.json").write_text(json.dumps(config))
    try:
        run = read_run(folder)
    except UserError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
    else:
        assert isinstance(run.method, str) and isinstance(run.seed, int)


def test_trials_of_a_search_are_listed_by_score_with_their_flags(tmp_path):
    ends = [(20.0, "finished"), (5.0, "pruned"), (40.0, "finished")]
    for number, (score, state) in enumerate(ends):
        folder = tmp_path / f"trial{number:03d}"
        flags = settings("TD3+ODT", "hopper-medium-v2", 1, exp_name="find", K=number + 5)
        finished_run(folder, 1.0, [2.0, score], **flags)
        status(
            folder, state=state, sampled={"K": number + 5}, message="ended early" * (number == 1)
        )
    status(tmp_path / "trial003", state="planned", sampled={"K": 8}, sweep="find", method="TD3+ODT")
    found, warnings = read(tmp_path)
    assert found["trial001"].state == "pruned" and found["trial001"].note == "ended early"
    assert found["trial002"].method == "TD3+ODT trial002" and not warnings
    (table,) = search_tables(build(list(found.values()), []))
    assert table.columns[-1] == "K"
    assert [(row[0].text, row[1].text, row[-1].text) for row in table.rows] == [
        ("trial002", "40.00", "7"), ("trial000", "20.00", "5"), ("trial001", "5.00", "6"),
        ("trial003", "–", "8"),
    ]  # fmt: skip
