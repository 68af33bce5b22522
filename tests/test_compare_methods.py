"""Panels and table of several methods, read back."""

from pathlib import Path

import numpy as np
import pytest

from scripts.compare_methods import by_method, draw, main, seed_values
from scripts.plot_learning_curve import SCORE, read_curve
from tests.test_plot import make_run


def make_runs(folder: Path) -> list[Path]:
    return [
        make_run(folder / "a", [100, 300], [10, 30], [0], seed=1),
        make_run(folder / "b", [200, 400], [0, 100], [4], seed=2),
        make_run(folder / "c", [100, 200], [1, 2], [3], seed=1, actor_rl_coeff=0.0),
    ]


def test_table_has_mean_range_and_change(tmp_path: Path, capsys) -> None:
    out, runs = tmp_path / "panels.png", make_runs(tmp_path)
    capsys.readouterr()
    assert main([*map(str, runs), "--out", str(out)]) == 0
    assert out.stat().st_size > 5000
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| TD3+ODT | 2 | 2.0 (0.0 to 4.0) | 65.0 (30.0 to 100.0) | +63.0 | 2 of 2 |",
        "| ODT | 1 | 3.0 | 2.0 | -1.0 | 0 of 1 |",
    ]


def test_panels_have_mean_range_and_start(tmp_path: Path) -> None:
    methods = by_method([read_curve(run, SCORE) for run in make_runs(tmp_path)])
    steps, values = seed_values(methods["TD3+ODT"])
    np.testing.assert_array_equal(steps, [0, 100, 200, 300])
    np.testing.assert_allclose(values, [[0, 10, 20, 30], [4, 2, 0, 50]])
    panels = draw(methods).axes
    assert [axes.get_title() for axes in panels] == ["TD3+ODT\n2 seeds", "ODT\n1 seed"]
    mean, start = panels[0].lines
    np.testing.assert_allclose(mean.get_ydata(), [2, 6, 10, 40])  # type: ignore[arg-type]
    np.testing.assert_allclose(start.get_ydata(), [2, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("chosen", "pretrain", "said"),
    [
        ({"env": "ant-medium-v2", "seed": 3}, [1.0], "ant-medium-v2 and hopper-medium-v2"),
        ({"seed": 1}, [1.0], "a second run of TD3+ODT seed 1"),
        ({"seed": 3}, [], "needs an evaluation after pretraining"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    tmp_path: Path, capsys, chosen, pretrain, said
) -> None:
    runs = [*make_runs(tmp_path), make_run(tmp_path / "d", [100], [1.0], pretrain, **chosen)]
    capsys.readouterr()
    assert main([*map(str, runs), "--out", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert said in error
