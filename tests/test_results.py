"""scripts/publish_results.py, and the runs kept in results/."""

import json
from pathlib import Path

import numpy as np
import pytest

from reporting.results import final_score, results_table
from reporting.runs import read_run, read_runs, run_folders
from reporting.tables import to_markdown
from scripts import publish_results
from tests.commands import as_command
from tests.conftest import ROOT
from tests.report_runs import ended, finished_run, settings

main = as_command(publish_results.main)

TASK = "maze2d-umaze-v1"
RESULTS = [folder.parent for folder in ROOT.glob("results/*/table.md")]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three seeds of two methods with seven evaluations each."""
    for seed in range(3):
        rising = [10.0 * i + seed for i in range(1, 8)]
        finished_run(tmp_path / f"a{seed}", 5.0, rising, **settings("TD3+ODT", TASK, seed))
        finished_run(tmp_path / f"b{seed}", 5.0, [8.0 + seed] * 7, **settings("ODT", TASK, seed))
    # one was stopped and resumed
    config = tmp_path / "b2" / "config.json"
    first = json.loads(config.read_text())
    resumed = {key: first[key] for key in ("started", "ended", "outcome") if key in first}
    config.write_text(json.dumps(first | {"outcome": "stopped", "resumed": [resumed]}))
    return tmp_path


def test_kept_runs_give_the_same_curves(runs: Path, tmp_path: Path, capsys) -> None:
    out, figure = tmp_path / "kept", tmp_path / "curves.png"
    assert main([str(runs), "--out", str(out), "--figure", str(figure)]) == 0
    assert figure.stat().st_size > 10_000
    original, _ = read_runs([folder for folder in run_folders([runs]) if out not in folder.parents])
    kept, warnings = read_runs(run_folders([out]))
    assert not warnings and len(kept) == len(original) == 6
    for a, b in zip(original, kept, strict=True):
        assert (a.task, a.method, a.seed, a.state, a.offline) == (
            b.task, b.method, b.seed, b.state, b.offline
        )  # fmt: skip
        np.testing.assert_allclose(a.curve.steps, b.curve.steps)
        np.testing.assert_allclose(a.curve.values, b.curve.values)
    # the last five evaluations of seed 0: 30 to 70
    assert final_score(kept[-3]) == pytest.approx(50.0)
    assert "| 51.0 [50.0, 52.0] | +46.0 [45.0, 47.0]" in capsys.readouterr().out
    # making the table again from the kept runs alone changes nothing
    before = (out / "table.md").read_bytes()
    assert main([str(out), "--out", str(out)]) == 0
    assert (out / "table.md").read_bytes() == before


def test_kept_settings_name_no_folder_of_the_machine(runs: Path, tmp_path: Path) -> None:
    assert main([str(runs), "--out", str(tmp_path / "kept")]) == 0
    for path in (tmp_path / "kept").rglob("config.json"):
        config = json.loads(path.read_text())
        assert "command" not in config and "platform" not in config
        assert not {"data_dir", "run_dir", "save_dir"} & set(config["settings"])
        assert str(tmp_path) not in path.read_text() and str(ROOT) not in path.read_text()


def test_kept_runs_on_other_inputs_stay_separate_methods(tmp_path: Path, capsys) -> None:
    """Data sets and policies are told apart without their folders."""
    runs, out = tmp_path / "runs", tmp_path / "kept"
    for number, (flag, value) in enumerate(
        [("dataset", "/scratch/me/other.hdf5"), ("dataset", "minari:a/b-v0"), ("dataset", ""),
         ("jump_start_guide", "/scratch/a/seed1"), ("jump_start_guide", "/scratch/b/seed1")]
    ):  # fmt: skip
        given = settings("ODT", TASK, 1) | {flag: value}
        finished_run(runs / str(number), 5.0, [9.0 * number], **given)
    methods = sorted(run.method for run in read_runs(run_folders([runs]))[0])
    assert len(set(methods)) == 5 and not any("/scratch" in method for method in methods)
    assert sum("(dataset unset, jump_start_guide seed1 " in method for method in methods) == 2
    assert main([str(runs), "--out", str(out)]) == 0
    assert sorted(run.method for run in read_runs(run_folders([out]))[0]) == methods
    assert capsys.readouterr().err.count("warning: ODT: runs differ in --dataset, --jump_") == 1
    assert not any("scratch" in path.read_text() for path in out.rglob("config.json"))
    # minari:a/b-v0 is one folder too
    assert len(list(out.glob("*/*/seed1/config.json"))) == 5
    config = json.loads((runs / "0" / "config.json").read_text())
    config["fingerprint"]["sha256"] = "abcdef" + "0" * 58
    (runs / "0" / "config.json").write_text(json.dumps(config))
    assert read_run(runs / "0").settings["dataset"] == "other.hdf5 abcdef"


def test_methods_with_long_labels_are_kept_apart(tmp_path: Path) -> None:
    for number, suffix in enumerate(("x" * 400 + "a", "x" * 400 + "b")):
        finished_run(tmp_path / str(number), 5.0, [9.0], **settings("ODT", TASK, 1, suffix=suffix))
    assert main([str(tmp_path), "--out", str(tmp_path / "kept")]) == 0
    assert len(list((tmp_path / "kept" / TASK).glob("*/seed1"))) == 2


def test_a_kept_run_is_replaced_only_by_the_same_run(tmp_path: Path, capsys) -> None:
    out, kept = tmp_path / "kept", tmp_path / "kept" / TASK / "ODT" / "seed1"
    for name, scores, more in (
        ("first", [9.0], {"max_online_iters": 1}),
        ("longer", [9.0, 12.0], {"max_online_iters": 2, "device": "cpu"}),
        ("new", [1.0], {"env": "hopper-medium-v2"}),
        ("other", [30.0], {"embed_dim": 64}),
    ):  # fmt: skip
        finished_run(tmp_path / name, 5.0, scores, **(settings("ODT", TASK, 1) | more))
    for name, final in (("first", 9.0), ("longer", 12.0)):
        assert main([str(tmp_path / name), "--out", str(out)]) == 0
        assert read_run(kept).final == final
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    capsys.readouterr()
    assert main([str(tmp_path / "new"), str(tmp_path / "other"), "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"error: {kept}: keeps a run with other settings than {tmp_path / 'other'} (--embed_dim); "
        "choose another --out\n"
    )
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_without_a_finished_run_nothing_is_written(tmp_path: Path, capsys) -> None:
    run = ended(finished_run(tmp_path / "run", 5.0, [9.0]), "stopped")
    capsys.readouterr()
    assert main([str(run), "--out", str(tmp_path / "kept")]) == 2
    assert f"{run}: no run has finished fine-tuning" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_short_purely_online_runs_have_steps_and_no_change(tmp_path: Path) -> None:
    run = read_run(finished_run(tmp_path / "a", None, [10.0, 20.0]))
    ((*_, steps, before, final, change, _),) = results_table([run]).rows
    assert [cell.text for cell in (steps, before, final, change)] == ["205", "–", "15.0", "–"]


def test_lead_has_an_interval_and_needs_three_seeds(runs: Path) -> None:
    every, _ = read_runs(run_folders([runs]))
    table = results_table(every)
    assert [row[-1].text for row in table.rows] == ["", "+42.0 [40.7, 43.3]"]
    two = [run for run in every if run.seed < 2]
    assert [row[-1].text for row in results_table(two).rows] == ["", "+42.0"]


def test_a_folder_without_runs_is_one_line(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "kept")]) == 2
    assert "contains no run" in capsys.readouterr().err


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_the_kept_table_is_that_of_the_kept_runs(folder: Path) -> None:
    runs, warnings = read_runs(run_folders([folder]))
    assert not warnings
    table = (folder / "table.md").read_text()
    assert table == to_markdown(results_table(runs))
    assert table in (ROOT / "docs" / "RESULTS.md").read_text()
    assert all(run.counts and run.iterations >= 100 for run in runs)
    budgets: dict[str, set[object]] = {}
    for run in runs:
        budgets.setdefault(run.task, set()).add(run.settings["max_online_iters"])
    assert all(len(budget) == 1 for budget in budgets.values())


def test_results_are_kept() -> None:
    assert {folder.name for folder in RESULTS} == {"cpu", "h200"}
