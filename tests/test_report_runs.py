"""What the report takes a run's folder for: every state, every kind of damage, one line each."""

import json
import math
import shutil

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from reporting.runs import Run, differing_flags, mixed_settings, read_run, read_runs, run_folders
from run.files import LOCK_FILE
from run.state import DIVERGED, FAILED, FINISHED, KILLED, RUNNING, STOPPED, UNFINISHED
from tests.report_runs import ended, finished_run, settings, status
from utils import UserError


def states(folder) -> dict[str, str]:
    runs, _ = read_runs(run_folders([folder]))
    return {run.folder.name: run.state for run in runs}


def test_a_run_is_read_as_it_was_logged(tmp_path):
    chosen = settings("ODT", "maze2d-umaze-v1", 7, suffix="-x")
    finished_run(tmp_path / "a", 1.5, [10.0, 22.25], **chosen)
    run = read_run(tmp_path / "a")
    assert (run.env, run.task, run.method, run.base, run.seed) == (
        "maze2d-umaze-v1", "maze2d-umaze-v1", "ODT-x", "ODT", 7
    )  # fmt: skip
    assert (run.state, run.note, run.counts) == (FINISHED, "", True)
    np.testing.assert_array_equal(run.steps, [0, 100, 200])
    np.testing.assert_array_equal(run.scores, [1.5, 10.0, 22.25])
    assert (run.before, run.final) == (1.5, 22.25)
    assert (run.iterations, run.online_steps, run.offline) == (3, 205, 44.32)


def test_a_delay_makes_another_task(tmp_path):
    finished_run(tmp_path / "a", 1.0, [2.0], delayed_reward=5)
    assert read_run(tmp_path / "a").task == "hopper-medium-v2 (delayed 5)"


def test_every_state_is_told(tmp_path):
    for seed, name in enumerate(["finished", "stopped", "diverged", "failed", "killed", "running"]):
        finished_run(tmp_path / name, 1.0, [2.0], seed=seed)
    ended(tmp_path / "stopped", STOPPED)
    ended(tmp_path / "diverged", DIVERGED, "Divergence: critic_MSE_loss")
    ended(tmp_path / "failed", FAILED, "RuntimeError: x")
    ended(tmp_path / "killed", None)
    status(tmp_path / "planned", state="planned", task="hopper-medium-v2", method="ODT", seed=9)
    crashed = {"task": "hopper-medium-v2", "method": "ODT", "attempts": 3, "message": "no data"}
    status(tmp_path / "crashed", state="crashed", seed=10, **crashed)
    with FileLock(tmp_path / "running" / LOCK_FILE):
        assert states(tmp_path) == {
            "finished": FINISHED, "stopped": STOPPED, "diverged": DIVERGED, "failed": FAILED,
            "killed": KILLED, "running": RUNNING, "planned": "planned", "crashed": FAILED,
        }  # fmt: skip
    found = read_runs(run_folders([tmp_path]))[0]
    # the lock is gone, and the end was recorded
    assert [run.folder.name for run in found if run.counts] == ["finished", "running"]
    notes = {run.folder.name: run.note for run in found}
    assert notes["failed"] == "RuntimeError: x"
    assert notes["crashed"] == "no data; 3 attempts"


def test_runs_of_versions_that_recorded_no_end(tmp_path):
    """Whether all was done is seen from the rows."""
    for name, flags in [
        ("by_iterations", {"max_online_iters": 3}),
        ("by_transitions", {"max_online_transitions": 205}),
        ("on_the_way", {}),
        ("diverged", {}),
    ]:
        finished_run(tmp_path / name, 1.0, [2.0, 3.0], seed=len(name), **flags)
        ended(tmp_path / name, None)
        (tmp_path / name / LOCK_FILE).unlink()
    (tmp_path / "diverged" / "divergence.json").write_text("{}")
    assert states(tmp_path) == {
        "by_iterations": FINISHED, "by_transitions": FINISHED, "on_the_way": UNFINISHED,
        "diverged": DIVERGED,
    }  # fmt: skip


def test_a_run_that_has_just_started(tmp_path):
    finished_run(tmp_path / "a", 1.0, [])
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    run = read_run(tmp_path / "a")
    assert len(run.steps) == 0 and math.isnan(run.before) and math.isnan(run.final)
    assert not run.counts
    (tmp_path / "a" / "metrics.jsonl").unlink()
    assert len(read_run(tmp_path / "a").steps) == 0


def test_a_row_in_the_writing_is_left_out(tmp_path):
    finished_run(tmp_path / "a", 1.0, [2.0])
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "onl')
    assert read_run(tmp_path / "a").final == 2.0


def test_what_happened_on_the_way_is_noted(tmp_path):
    folder = finished_run(tmp_path / "a", 1.0, [2.0])
    config = json.loads((folder / "config.json").read_text())
    config["resumed"] = [{"outcome": FINISHED}]
    (folder / "config.json").write_text(json.dumps(config))
    status(folder, state="finished", attempts=2, exit_code=0)
    assert read_run(folder).note == "resumed 1 time; 2 attempts"


def test_not_finite_scores_do_not_count(tmp_path):
    run = read_run(finished_run(tmp_path / "a", 1.0, [2.0, float("nan")]))
    assert run.state == FINISHED and not run.counts


def test_one_run_per_seed_counts(tmp_path):
    """The finished one, of those the one started last."""
    for name, start in [("a", "2026-01-01"), ("b", "2026-01-02"), ("c", "2026-01-03")]:
        folder = finished_run(tmp_path / name, 1.0, [2.0], seed=3)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"started": start}))
    ended(tmp_path / "c", STOPPED)
    runs, warnings = read_runs(run_folders([tmp_path]))
    assert {run.folder.name: run.superseded for run in runs} == {"a": True, "b": False, "c": True}
    assert len(warnings) == 2 and all("not used" in line for line in warnings)


def test_experiments_are_told_apart_where_there_are_several(tmp_path):
    finished_run(tmp_path / "a", 1.0, [2.0], exp_name="one")
    assert [run.method for run in read_runs(run_folders([tmp_path]))[0]] == ["TD3+ODT"]
    finished_run(tmp_path / "b", 1.0, [2.0], exp_name="two")
    finished_run(tmp_path / "c", 1.0, [2.0])
    runs, _ = read_runs(run_folders([tmp_path]))
    assert [run.method for run in runs] == ["TD3+ODT", "TD3+ODT [one]", "TD3+ODT [two]"]
    assert not any(run.superseded for run in runs)


def test_planned_runs_have_the_delay_of_their_sweep(tmp_path):
    finished_run(tmp_path / "a", 1.0, [2.0], delayed_reward=5, exp_name="table10")
    about = {"task": "hopper-medium-v2", "method": "TD3+ODT", "sweep": "table10"}
    status(tmp_path / "b", state="planned", seed=11, **about)
    runs, _ = read_runs(run_folders([tmp_path]))
    assert {run.task for run in runs} == {"hopper-medium-v2 (delayed 5)"}


def test_folders_are_found_once_and_in_order(tmp_path):
    runs = [tmp_path / "exp" / task / "seed1" / "time" for task in ("b", "a")]
    for run in runs:
        finished_run(run, 1.0, [2.0])
    (runs[0] / "wandb" / "x").mkdir(parents=True)
    (runs[0] / "wandb" / "x" / "config.json").write_text("{}")
    found = run_folders([tmp_path, tmp_path / "exp" / "b", runs[1]])
    assert found == [runs[1], runs[0]]


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, said in [("none", "no such"), ("empty", "no run in it"), ("file", "no folder")]:
        with pytest.raises(UserError, match=said) as caught:
            run_folders([tmp_path / name])
        assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"settings": 3}', '{"settings": {"env": "x"}}', "[" * 100_000, "\0"],
)
def test_damaged_configs_are_named_and_left_out(tmp_path, content):
    finished_run(tmp_path / "good", 1.0, [2.0])
    bad = finished_run(tmp_path / "bad", 1.0, [2.0], seed=4)
    (bad / "config.json").write_text(content)
    runs, warnings = read_runs(run_folders([tmp_path]))
    assert [run.folder.name for run in runs] == ["good"]
    (line,) = warnings
    assert str(bad / "config.json") in line and line.endswith("left out") and "\n" not in line
    shutil.rmtree(tmp_path / "good")
    with pytest.raises(UserError, match="no run is readable"):
        read_runs(run_folders([tmp_path]))


@pytest.mark.parametrize(
    "content",
    ["not json\n", "3\n", '{"phase": "online"}\n', '{"phase": "online", "iteration": 1, '
     '"total_transitions_sampled": 1, "evaluation/normalized_score": "high"}\n'],
)  # fmt: skip
def test_damaged_metrics_are_shown_and_never_counted(tmp_path, content):
    finished_run(tmp_path / "good", 1.0, [2.0])
    bad = finished_run(tmp_path / "bad", 1.0, [2.0], seed=4)
    with (bad / "metrics.jsonl").open("a") as file:
        file.write(content)
    runs, warnings = read_runs(run_folders([tmp_path]))
    found = {run.folder.name: run for run in runs}
    assert found["bad"].state == "damaged" and not found["bad"].counts
    (line,) = warnings
    assert str(bad / "metrics.jsonl") in line and "\n" not in line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(data=st.data())
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_record_holds_is_a_run_or_one_line(tmp_path, data):
    folder = tmp_path / "a"
    if not folder.exists():
        finished_run(folder, 1.0, [2.0])
        (tmp_path / "whole").write_text((folder / "config.json").read_text())
    config = json.loads((tmp_path / "whole").read_text())
    part = data.draw(st.sampled_from([config, config["settings"]]))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(JSON)
    (folder / "config.json").write_text(json.dumps(config))
    try:
        run = read_run(folder)
    except UserError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
    else:
        assert isinstance(run.method, str) and isinstance(run.seed, int)


def test_unknown_states_and_tasks_of_sweeps_are_refused(tmp_path):
    for content in [{}, {"task": "pong", "method": "ODT", "seed": 1, "state": "planned"}]:
        status(tmp_path, **content)
        with pytest.raises(UserError, match=str(tmp_path)):
            read_run(tmp_path)


def test_flags_that_differ_within_a_method_are_named(tmp_path):
    finished_run(tmp_path / "a", 1.0, [2.0], seed=1, embed_dim=64, save_dir="here")
    finished_run(tmp_path / "b", 1.0, [2.0], seed=2, embed_dim=64, save_dir="there")
    runs, _ = read_runs(run_folders([tmp_path]))
    assert mixed_settings(runs) == []
    finished_run(tmp_path / "c", 1.0, [2.0], seed=3, embed_dim=128, gamma=0.9)
    runs, _ = read_runs(run_folders([tmp_path]))
    (line,) = mixed_settings(runs)
    assert line.startswith("hopper-medium-v2 TD3+ODT: its runs differ in ")
    assert "--embed_dim (64, 128)" in line and "--gamma (0.99, 0.9)" in line
    assert "seed" not in line and "save_dir" not in line
    assert differing_flags([]) == {}
    # of a version that did not have the flag yet
    assert differing_flags([{"policy": "transformer"}, {}]) == {}


def test_scores_before_and_after_where_there_are_none():
    run = Run(None, "hopper-medium-v2", 0, "ODT", "ODT", 1, FINISHED)  # type: ignore[arg-type]
    assert math.isnan(run.before) and math.isnan(run.final)
