"""scripts/plot_learning_curve.py: curves, figures and the table it prints."""

import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from reporting.curves import SCORE, mean_curve, run_curve
from reporting.figures import learning_curves, split_curves
from reporting.runs import read_run, read_runs, run_folders
from reporting.style import save_figure, styles
from run.state import DIVERGED
from scripts import plot_learning_curve
from tests.commands import as_command
from tests.conftest import ROOT
from tests.report_runs import ended, finished_run, settings
from utils import UserError

main = as_command(plot_learning_curve.main)

HOPPER, MAZE = "hopper-medium-v2", "maze2d-umaze-v1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three seeds of TD3+ODT, two of ODT and a diverged one of TD3."""
    top = tmp_path_factory.mktemp("runs")
    for seed, final in enumerate((30.0, 100.0, 80.0)):
        finished_run(
            top / f"a{seed}", 10.0 * seed, [20, final], **settings("TD3+ODT", HOPPER, seed)
        )
    for seed, scores in enumerate(([1.0, 2.0], [3.0, 4.0, 5.0])):
        finished_run(top / f"b{seed}", 3.0, scores, **settings("ODT", HOPPER, seed))
    ended(finished_run(top / "c", 1.0, [2.0], **settings("TD3", HOPPER, 1)), DIVERGED)
    return top


def test_curve_is_the_end_of_pretraining_and_all_evaluations(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a", 2.0, [10.0, float("nan")])
    curve = read_run(run, SCORE).curve
    np.testing.assert_array_equal(curve.steps, [0, 100, 200])
    np.testing.assert_array_equal(curve.values, [2.0, 10.0, np.nan])
    assert not curve.has_interval


def test_mean_curve_covers_the_steps_of_all_runs() -> None:
    a, b = run_curve([0, 100, 300], [0, 10, 30]), run_curve([0, 200, 400], [4, 0, 100])
    mean = mean_curve([[a, b]])
    assert mean is not None and mean.runs == 2
    np.testing.assert_array_equal(mean.steps, [0, 100, 200, 300])
    np.testing.assert_allclose(mean.values, [2, (10 + 2) / 2, (20 + 0) / 2, (30 + 50) / 2])
    assert mean_curve([[a, run_curve([400, 500], [0, 1])]]) is None


def test_mean_over_tasks_uses_the_percentage_of_each_runs_steps() -> None:
    short, long = run_curve([0, 50, 100], [10, 10, 30]), run_curve([0, 5000, 10000], [20, 20, 70])
    mean = mean_curve([[short], [long]])
    assert mean is not None
    np.testing.assert_allclose(mean.steps, [0, 50, 100])
    np.testing.assert_allclose(mean.values, [15, 15, 50])


def test_long_mean_curves_are_thinned() -> None:
    steps = np.arange(5000.0).tolist()
    mean = mean_curve([[run_curve(steps, steps)]])
    assert mean is not None and len(mean.steps) == 200
    assert (mean.steps[0], mean.steps[-1]) == (0, 4999)
    np.testing.assert_allclose(mean.values, mean.steps)


def test_only_three_or_more_runs_have_an_interval() -> None:
    runs = [run_curve([0, 100], [final, final]) for final in (1.0, 2.0, 6.0)]
    for count in (1, 2):
        mean = mean_curve([runs[:count]])
        assert mean is not None and not mean.has_interval
    mean = mean_curve([runs])
    assert mean is not None and mean.has_interval
    # a resample of three runs is three times the same run more often than 2.5% of the time
    assert (mean.low[0], mean.values[0], mean.high[0]) == (1.0, 3.0, 6.0)


def test_figure_has_means_a_band_single_seeds_and_unfinished_runs(folder: Path) -> None:
    runs, _ = read_runs(run_folders([folder]))
    style = styles([run.method for run in runs])
    figure = learning_curves(runs, style)
    (axes,), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "TD3+ODT (3 seeds)", "ODT (2 seeds)", "TD3 (none finished)",
        "not finished: x ended, > can continue", "95% interval of the mean",
    ]  # fmt: skip
    drawn = {tuple(line.get_ydata()): line for line in axes.lines}  # type: ignore[arg-type]
    front = drawn[10.0, 20.0, 70.0]
    assert front.get_color() == style["TD3+ODT"].colour
    others = [line for line in axes.lines if line is not front]
    assert all(front.get_linewidth() > line.get_linewidth() for line in others)
    assert all(front.get_zorder() > line.get_zorder() for line in others)
    # the other mean, both seeds of it, and the unfinished run
    assert {(3.0, 2.0, 3.0), (3.0, 1.0, 2.0), (3.0, 3.0, 4.0, 5.0)} < set(drawn)
    assert drawn[1.0, 2.0].get_linestyle() == ":" and (2.0,) in drawn
    (band,) = axes.collections
    assert band.get_paths()[0].get_extents().ymax == 100.0
    assert [text.get_text() for text in axes.texts] == ["offline data\n44.3 on average"]


def test_several_tasks_have_a_panel_each(folder: Path, tmp_path: Path) -> None:
    finished_run(tmp_path / "maze", 1.0, [2.0], **settings("ODT", MAZE, 1))
    runs, _ = read_runs(run_folders([folder, tmp_path]))
    figure = learning_curves(runs, styles([run.method for run in runs]))
    assert [axes.get_title() for axes in figure.axes] == [HOPPER, MAZE]
    assert figure.legends[0].get_texts()[1].get_text() == "ODT (1 to 2 seeds)"
    with pytest.raises(UserError, match="pass runs of one task"):
        split_curves(runs, {}, SCORE)


def test_the_legend_of_five_tasks_is_in_the_unused_panel(tmp_path: Path) -> None:
    tasks = ["hopper-medium-v2", "hopper-random-v2", "ant-medium-v2", MAZE, "maze2d-medium-v1"]
    for task in tasks:
        finished_run(tmp_path / task, 1.0, [2.0], **settings("ODT", task, 1))
    runs, _ = read_runs(run_folders([tmp_path]))
    figure = learning_curves(runs, styles(["ODT"]))
    *panels, last = figure.axes
    assert sorted(axes.get_title() for axes in panels) == sorted(tasks)
    legend = last.get_legend()
    assert legend is not None and not last.axison and not figure.legends
    assert legend.get_texts()[0].get_text() == "ODT (1 seed)"


def test_split_figure_has_a_panel_per_method(folder: Path) -> None:
    runs, _ = read_runs(run_folders([folder]))
    panels = split_curves(runs, styles([run.method for run in runs]), SCORE).axes
    assert [axes.get_title() for axes in panels] == ["TD3+ODT\n3 seeds", "ODT\n2 seeds"]
    mean, start = panels[0].lines
    np.testing.assert_allclose(mean.get_ydata(), [10, 20, 70])  # type: ignore[arg-type]
    np.testing.assert_allclose(start.get_ydata(), [10, 10])  # type: ignore[arg-type]


def test_command_finds_runs_and_prints_scores_before_and_after(folder: Path, tmp_path) -> None:
    out = tmp_path / "new" / "curve.png"
    script = ROOT / "scripts" / "plot_learning_curve.py"
    done = subprocess.run([sys.executable, str(script), str(folder), "--out", str(out)],
                          capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 of 6 runs are not finished (1 diverged)" in done.stderr
    assert done.stdout.splitlines()[3:] == [
        f"| {HOPPER} | TD3+ODT | 3 | 10.0 (0.0 to 20.0) | 70.0 (30.0 to 100.0) | +60.0 | 3 of 3 |",
        f"| {HOPPER} | ODT | 2 | 3.0 (3.0 to 3.0) | 3.5 (2.0 to 5.0) | +0.5 | 1 of 2 |",
    ]
    picture = matplotlib.image.imread(out)
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 10


def test_other_metrics_and_runs_without_pretraining(tmp_path: Path, capsys) -> None:
    run = finished_run(tmp_path / "a", None, [10.0, 20.0])
    capsys.readouterr()
    assert main([str(run), "--out", str(tmp_path / "q.svg"), "--metric", "training/Q_mean"]) == 0
    assert capsys.readouterr().out.endswith("| 1 | – | 1.0 | – | – |\n")


def test_errors_are_one_line(folder: Path, tmp_path: Path, capsys) -> None:
    out, run = str(tmp_path / "x.png"), str(folder / "a0")
    empty = finished_run(tmp_path / "started", None, [])
    damaged = finished_run(tmp_path / "damaged", 1.0, [2.0], seed=4)
    (damaged / "metrics.jsonl").write_text("not json\n")
    capsys.readouterr()
    for argv, expected in [
        ([str(tmp_path / "none"), "--out", out], "none: not a folder"),
        ([str(empty), "--out", out], "nothing to plot yet"),
        ([str(damaged), "--out", out], "metrics.jsonl: unreadable"),
        ([str(damaged), str(empty), "--out", out], "started: nothing to plot yet"),
        ([str(folder / "c"), "--out", out, "--split"], "no finished runs"),
        ([run, "--out", out, "--metric", "normalised_score"], SCORE),
        ([run, "--out", str(tmp_path / "x.docx")], "--out"),
        ([run, "--out", str(folder / "a0" / "config.json" / "x.png")], "--out"),
    ]:
        assert main(argv) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
        assert expected in printed.err and printed.out == ""
    assert not Path(out).exists()


def test_failed_write_keeps_the_old_figure(folder: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "x.png"
    out.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    runs = [read_run(folder / "a0")]
    with pytest.raises(UserError, match="No space left"):
        save_figure(learning_curves(runs, styles(["TD3+ODT"])), out)
    assert out.read_bytes() == b"old" and list(tmp_path.iterdir()) == [out]
