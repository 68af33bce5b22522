"""The learning-curve picture, read back through what it drew and said."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from get_args import Settings
from logger import Logger
from scripts.plot_learning_curve import SCORE, draw, main, mean_curve, read_curve, save
from tests.conftest import ROOT
from utils import UserError


def make_run(
    folder: Path, steps: list[int], scores: list[float], pretrain: list[float], **chosen: object
) -> Path:
    """A run's folder, written by the program's own logger."""
    folder.mkdir()
    settings = replace(Settings(), log_to_tb=False, **chosen)  # type: ignore[arg-type]
    log = Logger(folder, settings, {"mean_normalized_score": 44.32})
    for iteration, score in enumerate(pretrain):
        log.log("pretrain", iteration, 0, {SCORE: score, "evaluation/return_mean_gm": score})
    for iteration, (step, score) in enumerate(zip(steps, scores, strict=True)):
        log.log("online", 2 * iteration, step, {SCORE: score})
        log.log("online", 2 * iteration + 1, step + 5, {"training/Q_mean": 1.0})
    log.finish()
    return folder


def test_curve_is_the_evaluations_and_the_end_of_pretraining(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [100, 200], [10.0, float("nan")], [1.0, 2.0])
    curve = read_curve(run, SCORE)
    np.testing.assert_array_equal(curve.steps, [0, 100, 200])
    np.testing.assert_array_equal(curve.values, [2.0, 10.0, np.nan])
    assert (curve.env, curve.method, curve.seed) == ("hopper-medium-v2", "TD3+ODT", 10)
    assert curve.offline == 44.32


def test_mean_covers_what_all_runs_have(tmp_path: Path) -> None:
    a = read_curve(make_run(tmp_path / "a", [100, 300], [10, 30], [0]), SCORE)
    b = read_curve(make_run(tmp_path / "b", [200, 400], [0, 100], [4], seed=1), SCORE)
    steps, values = mean_curve([a, b])
    np.testing.assert_array_equal(steps, [0, 100, 200, 300])
    np.testing.assert_allclose(values, [2, (10 + 2) / 2, (20 + 0) / 2, (30 + 50) / 2])


def test_picture_shows_seeds_mean_and_offline_data(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(s), [100, 200], [s, 2 * s], [1], seed=s) for s in (3, 4)]
    odt = make_run(tmp_path / "odt", [100], [7], [1], actor_rl_coeff=0.0)
    axes = draw([read_curve(run, SCORE) for run in [*runs, odt]], SCORE).axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [
        "TD3+ODT, mean of 2 runs",
        "ODT, seed 10",
        "after pretraining",
        "offline data (44.3)",
    ]
    # two seeds, their mean, its first point, the other method, its first point, an entry of the
    # legend, offline data
    assert len(axes.lines) == 8
    assert list(axes.lines[2].get_ydata()) == [1.0, 3.5, 7.0]  # type: ignore[arg-type]
    assert axes.get_title() == "hopper-medium-v2"


def test_command_writes_a_picture_and_says_before_and_after(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a b", [100, 200], [10.0, 55.5], [1.0, 2.25])
    out = tmp_path / "new" / "curve.png"
    command = [sys.executable, str(ROOT / "scripts" / "plot_learning_curve.py"), str(run)]
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "hopper-medium-v2 TD3+ODT seed 10: normalised score 2.25 after pretraining, "
        "55.50 after 200 online steps"
    )
    picture = matplotlib.image.imread(out)
    assert picture.shape[0] > 500 and picture.shape[1] > 800
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 10


def test_other_metrics_and_runs_without_pretraining(tmp_path: Path, capsys) -> None:
    run = make_run(tmp_path / "a", [100, 200], [10.0, 20.0], [])
    out = tmp_path / "q.svg"
    assert main([str(run), "--out", str(out), "--metric", "training/Q_mean"]) == 0
    assert "offline data" not in out.read_text()
    assert capsys.readouterr().out.endswith("training/Q_mean 1.00 after 205 online steps\n")


def test_mistakes_are_one_line(tmp_path: Path, capsys) -> None:
    run = make_run(tmp_path / "a", [100], [10.0], [1.0])
    out = str(tmp_path / "x.png")
    (tmp_path / "empty").mkdir()
    broken = make_run(tmp_path / "broken", [100], [10.0], [1.0])
    (broken / "config.json").write_text(json.dumps({"settings": {}}))
    damaged = make_run(tmp_path / "damaged", [100], [10.0], [1.0])
    (damaged / "metrics.jsonl").write_text('{"phase"\n')
    capsys.readouterr()
    for argv, named in [
        ([str(tmp_path / "none"), "--out", out], "none"),
        ([str(tmp_path / "empty"), "--out", out], "metrics.jsonl"),
        ([str(broken), "--out", out], "broken"),
        ([str(damaged), "--out", out], "metrics.jsonl"),
        ([str(run), "--out", out, "--metric", "normalised_score"], SCORE),
        ([str(run), "--out", str(tmp_path / "x.docx")], "--out"),
        ([str(run), "--out", str(run / "config.json" / "x.png")], "--out"),
    ]:
        assert main(argv) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and said.err.count("\n") == 1, said.err
        assert named in said.err and said.out == ""
    assert not Path(out).exists()


def test_a_failed_write_keeps_the_old_picture(tmp_path: Path, monkeypatch) -> None:
    run = make_run(tmp_path / "a", [100], [10.0], [1.0])
    out = tmp_path / "x.png"
    out.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save(draw([read_curve(run, SCORE)], SCORE), out)
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "x.png"]
