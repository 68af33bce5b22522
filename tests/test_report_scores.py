"""The report's arithmetic, against numbers worked out by hand and against rliable's own."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("rliable")
pytest.importorskip("plotly")

from rliable import metrics

from reporting import contents
from reporting.build import build
from reporting.paper import (
    AVERAGE,
    METHODS,
    TITLES,
    find_row,
    paper_rows,
    published_interval,
    published_score,
)
from reporting.runs import Run
from reporting.scores import (
    METRICS,
    Bootstrap,
    aggregate,
    aggregate_each,
    compare,
    curve_over_runs,
    improvement,
    task_intervals,
)
from reporting.style import order_methods, styles
from reporting.tables import Cell, Table, format_score, number, to_csv, to_markdown
from run.state import FINISHED, STOPPED
from tests.conftest import shared_file

FEW = Bootstrap(reps=50)
scores_of = st.tuples(st.integers(1, 5), st.integers(1, 3)).flatmap(
    lambda shape: arrays(float, shape, elements=st.integers(-50, 200).map(float))
)


def make_run(task="hopper-medium-v2", method="ODT", seed=0, final=50.0, before=10.0, **changes):
    """A finished run with an evaluation in the middle."""
    run = Run(
        Path(f"{task}/{method}/{seed}"), task, 0, method, method, seed, FINISHED,
        steps=np.array([0.0, 50.0, 100.0]), scores=np.array([before, before, final]),
    )  # fmt: skip
    return dataclasses.replace(run, **changes)


def test_aggregates_by_hand():
    """Two tasks, four runs: the middle half of 0 10 20 30 40 50 60 110 is 20 to 50."""
    scores = np.array([[0.0, 40.0], [10.0, 50.0], [20.0, 60.0], [30.0, 110.0]])
    iqm, median, mean, gap = aggregate(scores)
    assert iqm == (20 + 30 + 40 + 50) / 4
    # of the tasks' means, 15 and 65
    assert median == 40 and mean == 40
    # 110 counts as 100
    assert gap == 100 - (0 + 10 + 20 + 30 + 40 + 50 + 60 + 100) / 8


@settings(deadline=None, max_examples=50)
@given(scores_of)
def test_all_tasks_at_once_are_each_task_alone(scores):
    found = aggregate_each(scores).reshape(len(METRICS), -1)
    for column in range(scores.shape[1]):
        np.testing.assert_allclose(found[:, column], aggregate(scores[:, [column]]), atol=1e-9)


def test_improvement_by_hand():
    x, y = np.array([[1.0], [3.0]]), np.array([[0.0], [2.0], [3.0]])
    # 1 > 0; 3 > 0, 3 > 2, 3 = 3
    assert improvement(x, y)[0] == pytest.approx((3 + 0.5) / 6)


@settings(deadline=None, max_examples=50)
@given(scores_of, st.integers(1, 5), st.integers(0, 10**6))
def test_improvement_is_rliables(x, size, seed):
    y = np.random.default_rng(seed).integers(-50, 200, (size, x.shape[1])).astype(float)
    there = improvement(x, y)[0]
    assert there == pytest.approx(metrics.probability_of_improvement(x, y))
    assert there + improvement(y, x)[0] == pytest.approx(1.0)


@settings(deadline=None, max_examples=50)
@given(scores_of)
def test_intervals_hold_the_mean_and_stay_within_the_scores(scores):
    found = FEW.intervals(scores, aggregate_each).reshape(len(METRICS), -1, 3)
    point, low, high = found[METRICS.index("Mean")].T
    np.testing.assert_allclose(point, scores.mean(axis=0))
    if len(scores) == 1:
        assert np.isnan(low).all() and np.isnan(high).all()
        return
    assert (low >= scores.min(axis=0) - 1e-9).all() and (high <= scores.max(axis=0) + 1e-9).all()
    assert (low <= high).all()


def test_bootstrap_draws_runs_within_each_task():
    """Runs of one task agree, tasks do not: nothing is uncertain."""
    scores = np.tile([10.0, 90.0], (4, 1))
    mean = FEW.intervals(scores, aggregate)[METRICS.index("Mean")]
    np.testing.assert_allclose(mean, [50.0, 50.0, 50.0])


def test_bootstrap_of_many_runs_is_the_normal_interval():
    scores = np.random.default_rng(0).normal(50.0, 10.0, (400, 1))
    _, low, high = Bootstrap(reps=2000).intervals(scores, aggregate)[METRICS.index("Mean")]
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / 20, rel=0.1)


def test_same_seed_same_intervals_and_no_trace_in_the_global_generator():
    scores = np.random.default_rng(0).normal(size=(5, 2))
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    first = Bootstrap(50, seed=1).intervals(scores, aggregate)
    assert np.random.random() == expected  # noqa: NPY002
    np.testing.assert_array_equal(first, Bootstrap(50, seed=1).intervals(scores, aggregate))
    assert (first != Bootstrap(50, seed=2).intervals(scores, aggregate)).any()


def test_tasks_with_different_numbers_of_runs():
    finals = {"a": np.array([1.0, 3.0]), "b": np.array([5.0]), "c": np.array([2.0, 2.0])}
    found = task_intervals(finals, FEW)
    assert found["a"]["Mean"][0] == 2 and found["b"]["Mean"][0] == 5
    assert math.isnan(found["b"]["Mean"][1]) and found["c"]["Mean"] == (2, 2, 2)


def test_comparisons_are_over_what_all_tasks_have():
    runs = [make_run("a", "X", seed, 10.0 * seed) for seed in (1, 2, 3)]
    runs += [make_run("b", "X", seed, 100.0 + seed) for seed in (2, 4)]
    runs += [make_run("a", "Y", 1)]
    runs += [make_run("b", "Y", 1, state=STOPPED)]
    found = compare("both", runs, ["X", "Y"], ["a", "b"])
    assert found is not None
    # seed 2 is the one that both tasks have
    np.testing.assert_array_equal(found.scores("X"), [[20.0, 102.0], [10.0, 104.0]])
    assert found.left_out == (
        "X: 1 finished run beyond 2 of each task",
        "Y: no finished run of b",
    )
    assert compare("none", runs, ["Y"], ["a", "b"]) is None


def test_mean_curve_by_hand():
    a = make_run(steps=np.array([0.0, 100.0, 300.0]), scores=np.array([0.0, 10.0, 30.0]))
    b = make_run(steps=np.array([0.0, 200.0]), scores=np.array([4.0, 0.0]))
    curve = curve_over_runs("ODT", [[a, b]], FEW)
    assert curve is not None and curve.runs == 2
    np.testing.assert_array_equal(curve.steps, [0, 100, 200])
    np.testing.assert_allclose(curve.mean, [2, (10 + 2) / 2, (20 + 0) / 2])
    np.testing.assert_allclose([curve.low[0], curve.high[0]], [0, 4])
    far = make_run(steps=np.array([400.0, 500.0]), scores=np.array([0.0, 1.0]))
    assert curve_over_runs("ODT", [[a, far]], FEW) is None


def test_aggregate_curve_is_the_mean_of_the_tasks_means():
    """Over the share of each run's steps: budgets differ."""
    long = make_run("b", final=70.0, before=20.0, steps=np.array([0.0, 5000.0, 10000.0]))
    curve = curve_over_runs("ODT", [[make_run("a", final=30.0)], [long]], FEW)
    assert curve is not None
    np.testing.assert_allclose(curve.steps, [0, 50, 100])
    np.testing.assert_allclose(curve.mean, [15, 15, 50])


def test_long_curves_are_thinned():
    steps = np.arange(5000.0)
    curve = curve_over_runs("ODT", [[make_run(steps=steps, scores=steps)]], FEW)
    assert curve is not None and len(curve.steps) <= 200
    assert (curve.steps[0], curve.steps[-1]) == (0, 4999)
    np.testing.assert_allclose(curve.mean, curve.steps)


@pytest.mark.parametrize(
    ("final", "increase", "text"),
    [
        (89.07, 25.97, "89.07(+25.97)"),
        (44.72, -21.3, "44.72(-21.30)"),
        (-0.001, -0.001, "0.00(+0.00)"),
        (8.36, math.nan, "8.36"),
        (math.nan, 1.0, "–"),
    ],
)
def test_scores_in_the_papers_form(final, increase, text):
    assert format_score(final, increase) == text


def table_of(runs, name="T1"):
    report = build(runs, [], FEW)
    (table,) = [table for table in contents.score_tables(report) if table.name == name]
    return report, table


def test_table_by_hand():
    """Means over finished runs: (80 + 90) / 2, and (20 + 40) / 2 above what it was before."""
    runs = [
        make_run(seed=1, final=80.0, before=60.0),
        make_run(seed=2, final=90.0, before=50.0),
        make_run(seed=3, final=0.0, state=STOPPED),
        make_run(method="SAC+ODT", seed=1, final=1.0, state=STOPPED),
        make_run("hopper-random-v2", seed=1, final=30.0),
    ]
    _, table = table_of(runs)
    assert table.columns[:4] == ["Task", "ODT", "ODT (paper)", "SAC+ODT"]
    medium, random, average = table.rows
    assert medium[0] == Cell("hopper-medium-v2", "hopper-medium-v2", ("Ho-M-v2",))
    assert medium[1].text == "85.00(+30.00)" and medium[1].value == 85.0
    assert medium[1].detail == ("[80.00, 90.00]", "2 of 3")
    assert medium[2] == Cell("97.84(+48.69)", 97.84, ("[95.44, 99.34]",), "paper")
    assert (medium[3].text, medium[3].detail) == ("–", ("0 of 1", "1 stopped"))
    assert (random[1].text, random[1].detail) == ("30.00(+20.00)", ("1 of 1",))
    assert random[3].text == "" and table.totals == 1
    # of 85 and 30, of +30 and +20; the published 97.84(+48.69) and 29.08(+26.92)
    assert average[1].text == "57.50(+25.00)"
    assert average[2].text == "63.46(+37.80)"
    assert average[3].text == "–"


def test_whole_tables_have_the_published_average_too():
    rows = [row for row in paper_rows() if row.table == "T11"]
    _, table = table_of([make_run(row.env, "TD3", final=1.0) for row in rows], "T11")
    assert [row[0].text for row in table.rows][-2:] == [
        "Average of these rows",
        "Average, as published",
    ]
    published = table.columns.index("TD3 (paper)")
    assert table.rows[-1][published].text == "252.53(+103.59)"
    assert table.totals == 2


def test_the_papers_other_methods_are_never_ours():
    """Its IQL has an MLP for a policy: beside our RL gradient it would compare unlike things."""
    _, table = table_of([make_run(method="IQL"), make_run(method="TD3")])
    assert list(table.columns[:4]) == ["Task", "TD3", "TD3 (paper)", "IQL"]
    assert table.columns.count("IQL (paper)") == 1
    assert table.columns.index("IQL (paper)") > 4
    _, table = table_of([make_run(method="IQL-MLP")])
    assert list(table.columns[:3]) == ["Task", "IQL-MLP", "IQL (paper)"]


def test_published_columns_stand_beside_the_method_itself_not_its_variants():
    runs = [make_run(method="ODT"), make_run(method="ODT-x", base="ODT"), make_run(method="TD3")]
    _, table = table_of(runs)
    assert table.columns[:3] == ["Task", "ODT", "ODT (paper)"]
    assert table.columns.count("ODT (paper)") == 1


def test_delayed_rewards_are_another_table():
    runs = [make_run(delayed_reward=5), make_run(), make_run(delayed_reward=3)]
    names = [table.name for table in contents.score_tables(build(runs, [], FEW))]
    assert names == ["T1", "T10", "other"]


def test_published_figures_are_those_given():
    """As far as they stand beside the checkout; and every row of a table has a task."""
    assert len(paper_rows()) == 12 + 12 + 6 + 12 + 4
    for row in paper_rows():
        assert find_row(row.env, row.delayed_reward) == row
        assert published_score(row.table, row.label, "TD3+ODT") is not None
    assert published_score("T1", AVERAGE, "ODT") == (55.14, 18.58)
    assert published_score("T10", "Ho-M-v2", "DDPG+ODT") is None
    hopper = find_row("hopper-medium-v2", 0)
    assert hopper is not None
    assert published_interval(hopper, "IQM", "ODT") == (98.85, 94.85, 99.37)
    folder = Path(contents.__file__).with_name("paper")
    for ours, given_name in [
        ("results.csv", "paper_results.csv"),
        ("confidence_intervals.csv", "paper_confidence_intervals.csv"),
    ]:
        given_file = shared_file(f"spec/{given_name}")
        assert (folder / ours).read_text() == given_file.read_text()


def test_published_intervals_belong_to_the_published_scores():
    """A wrong line of rows.csv would pair an interval with another task's score."""
    path = Path(contents.__file__).with_name("paper") / "confidence_intervals.csv"
    with path.open(newline="") as file:
        finals = {
            (line["group"], line["env"], line["method"]): float(line["table_final"])
            for line in csv.DictReader(file)
        }
    paired = {}
    for row in paper_rows():
        for method in METHODS:
            if (*row.intervals, method) in finals:
                score = published_score(row.table, row.label, method)
                assert score is not None
                paired[(*row.intervals, method)] = score[0]
    assert paired == finals
    assert {row.table for row in paper_rows()} == set(TITLES)


def test_methods_have_an_order_and_a_look_of_their_own():
    names = ["PPO+ODT", "TD3", "ODT", "TD3+ODT", "ODT [b]", "AWR+ODT"]
    ordered = ["TD3+ODT", "ODT", "ODT [b]", "TD3", "AWR+ODT", "PPO+ODT"]
    assert order_methods(names) == ordered
    many = [f"M{i:02d}" for i in range(30)]
    assert len({dataclasses.astuple(look) for look in styles(many).values()}) == 30


def test_markdown_and_csv_hold_any_text():
    rows = [[Cell("a|b\n <i>", "x", ("more",)), number(math.nan)]]
    table = Table("t", "T", ["one", "two"], rows)
    assert to_markdown(table).splitlines()[-1] == "| a\\|b &lt;i>, more | – |"
    assert to_csv(["a", "b"], [["x,y", math.nan], [None, 0.1]]) == 'a,b\n"x,y",\n,0.1\n'
