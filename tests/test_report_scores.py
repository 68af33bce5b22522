"""Metrics, intervals, comparisons and tables of reports: by hand and against rliable."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reporting import contents
from reporting.build import build
from reporting.curves import run_curve
from reporting.intervals import bootstrap, mean_over_runs, share_interval
from reporting.paper import (
    AVERAGE,
    METHODS,
    TITLES,
    find_row,
    paper_rows,
    published_interval,
    published_score,
)
from reporting.runs import RunResult
from reporting.scores import METRICS, aggregate, compare, improvement, metric_intervals
from reporting.style import order_methods, styles
from reporting.tables import Cell, Table, format_score, number, to_csv, to_markdown
from run.state import FINISHED, STOPPED
from tests.conftest import shared_file

scores_of = st.tuples(st.integers(1, 5), st.integers(1, 3)).flatmap(
    lambda shape: arrays(float, shape, elements=st.integers(-50, 200).map(float))
)


def make_run(task="hopper-medium-v2", method="ODT", seed=0, final=50.0, before=10.0, **changes):
    """A finished run with an evaluation in the middle."""
    run = RunResult(
        Path(f"{task}/{method}/{seed}"), task, 0, method, method, seed, FINISHED,
        curve=run_curve([0.0, 50.0, 100.0], [before, before, final]),
    )  # fmt: skip
    return dataclasses.replace(run, **changes)


def one_resample(scores):
    """(n, tasks) scores as the arguments of a statistic."""
    return list(scores.T[:, None])


def test_aggregates_by_hand():
    """Two tasks, four runs: the middle half of 0 10 20 30 40 50 60 110 is 20 to 50."""
    scores = np.array([[0.0, 40.0], [10.0, 50.0], [20.0, 60.0], [30.0, 110.0]])
    ((iqm, median, mean, gap),) = aggregate(*one_resample(scores))
    assert iqm == (20 + 30 + 40 + 50) / 4
    # of the tasks' means, 15 and 65
    assert median == 40 and mean == 40
    # 110 counts as 100
    assert gap == 100 - (0 + 10 + 20 + 30 + 40 + 50 + 60 + 100) / 8


def test_improvement_by_hand():
    x, y = np.array([[1.0, 3.0]]), np.array([[0.0, 2.0, 3.0]])
    # 1 > 0; 3 > 0, 3 > 2, 3 = 3
    assert improvement(x, y)[0] == pytest.approx((3 + 0.5) / 6)


@settings(max_examples=50)
@given(scores_of, st.integers(1, 5), st.integers(0, 10**6))
def test_metrics_are_those_of_rliable(x, size, seed):
    metrics = pytest.importorskip("rliable.metrics")
    theirs = [metrics.aggregate_iqm(x), metrics.aggregate_median(x), metrics.aggregate_mean(x)]
    theirs.append(metrics.aggregate_optimality_gap(x, 100))
    np.testing.assert_allclose(aggregate(*one_resample(x))[0], theirs, atol=1e-9)
    y = np.random.default_rng(seed).integers(-50, 200, (size, x.shape[1])).astype(float)
    ours = improvement(*one_resample(x), *one_resample(y))[0]
    assert ours == pytest.approx(metrics.probability_of_improvement(x, y))


def test_intervals_are_those_of_rliable():
    library = pytest.importorskip("rliable.library")
    scores = np.random.default_rng(0).normal(50, 20, (5, 4))
    _, ends = library.get_interval_estimates(
        {"x": scores}, lambda x: aggregate(*one_resample(x))[0], reps=5000
    )
    ours = np.array([interval[1:] for interval in metric_intervals(list(scores.T)).values()])
    np.testing.assert_allclose(ours, ends["x"].T, atol=2)


@pytest.mark.parametrize("runs", [1, 2, 3, 5])
def test_intervals_need_three_runs_and_stay_within_the_scores(runs):
    scores = np.random.default_rng(0).normal(50, 20, runs)
    for metric, (point, low, high) in metric_intervals([scores]).items():
        assert point == pytest.approx(aggregate(scores[None])[0, METRICS.index(metric)])
        if runs < 3:
            assert math.isnan(low) and math.isnan(high)
        elif metric == "Mean":
            assert scores.min() - 1e-9 <= low < point < high <= scores.max() + 1e-9


def test_bootstrap_interval_covers_the_true_mean():
    samples = np.random.default_rng(1).exponential(1.0, (100, 40))
    intervals = np.array([bootstrap([sample], mean_over_runs)[1:] for sample in samples])
    share = np.mean((intervals[:, 0] <= 1.0) & (intervals[:, 1] >= 1.0))
    assert 0.88 < share < 0.97


def test_bootstrap_resamples_runs_within_each_task():
    """Runs of each task agree, tasks do not: nothing is uncertain."""
    assert metric_intervals([np.full(4, 10.0), np.full(4, 90.0)])["Mean"] == (50, 50, 50)


def test_interval_of_many_runs_is_the_normal_interval():
    values = np.random.default_rng(0).normal([0.0, 5.0], [1.0, 2.0], (400, 2))
    mean, low, high = bootstrap([values], mean_over_runs)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    half = 1.96 * values.std(axis=0) / 20
    np.testing.assert_allclose([low, high], [mean - half, mean + half], atol=0.03)


def test_share_interval_covers_the_true_share():
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        intervals = [share_interval(int(n), 40) for n in rng.binomial(40, share, 1000)]
        assert 0.92 < np.mean([low <= share <= high for low, high in intervals]) < 0.98
    assert share_interval(0, 10) == pytest.approx((0, 0.278), abs=1e-3)
    assert share_interval(10, 10) == pytest.approx((0.722, 1), abs=1e-3)


def test_comparisons_use_the_same_number_of_runs_of_each_task():
    runs = [make_run("a", "X", seed, 10.0 * seed) for seed in (1, 2, 3)]
    runs += [make_run("b", "X", seed, 100.0 + seed) for seed in (2, 4)]
    runs += [make_run("a", "Y", 1)]
    found = compare("both", runs, ["X", "Y"], ["a", "b"])
    assert found is not None and found.runs == {"X": 4}
    # of task a seed 2, which both tasks have, then seed 1
    assert found.metrics["X"]["Mean"][0] == (20 + 10 + 102 + 104) / 4
    assert found.left_out == [
        "X: 1 of its runs, for equal numbers per task",
        "Y (no finished run of b)",
    ]
    assert compare("none", runs, ["Y"], ["a", "b"]) is None


def test_probability_of_improvement_needs_three_runs_of_both_methods():
    runs = [make_run("a", method, seed, 10.0 * seed) for method in "XYZ" for seed in (1, 2, 3)]
    found = compare("one", runs[:-1], list("XYZ"), ["a"])
    assert found is not None
    assert list(found.improvements) == [("X", "Y")] and found.improvements["X", "Y"][0] == 0.5
    assert set(found.metrics) == set("XYZ") and math.isnan(found.metrics["Z"]["IQM"][1])


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
def test_scores_have_the_papers_format(final, increase, text):
    assert format_score(final, increase) == text


def table_of(runs, name="T1"):
    report = build(runs, [])
    (table,) = [table for table in contents.score_tables(report) if table.name == name]
    return report, table


def test_table_by_hand():
    """Means over finished runs: (80 + 90 + 100) / 3, with an increase of (20 + 40 + 30) / 3."""
    runs = [
        make_run(seed=1, final=80.0, before=60.0),
        make_run(seed=2, final=90.0, before=50.0),
        make_run(seed=3, final=100.0, before=70.0),
        make_run(seed=4, final=0.0, state=STOPPED),
        make_run(method="SAC+ODT", seed=1, final=1.0, state=STOPPED),
        make_run("hopper-random-v2", seed=1, final=30.0),
    ]
    _, table = table_of(runs)
    assert table.columns[:4] == ["Task", "ODT", "ODT (paper)", "SAC+ODT"]
    medium, random, average = table.rows
    assert medium[0] == Cell("hopper-medium-v2", "hopper-medium-v2", ("Ho-M-v2",))
    assert medium[1].text == "90.00(+30.00)" and medium[1].value == 90.0
    assert medium[1].detail == ("[80.00, 100.00]", "3 of 4")
    assert medium[2] == Cell("97.84(+48.69)", 97.84, ("[95.44, 99.34]",), "paper")
    assert (medium[3].text, medium[3].detail) == ("–", ("0 of 1", "1 stopped"))
    assert (random[1].text, random[1].detail) == ("30.00(+20.00)", ("1 of 1",))
    assert random[3].text == "" and table.totals == 1
    # of 90 and 30, of +30 and +20; the published 97.84(+48.69) and 29.08(+26.92)
    assert average[1].text == "60.00(+25.00)"
    assert average[2].text == "63.46(+37.80)"
    assert average[3].text == "–"


def test_complete_tables_have_the_published_average():
    rows = [row for row in paper_rows() if row.table == "T11"]
    _, table = table_of([make_run(row.env, "TD3", final=1.0) for row in rows], "T11")
    assert [row[0].text for row in table.rows][-2:] == [
        "Average of these rows",
        "Average, as published",
    ]
    published = table.columns.index("TD3 (paper)")
    assert table.rows[-1][published].text == "252.53(+103.59)"
    assert table.totals == 2


def test_published_iql_is_shown_next_to_iql_with_an_mlp_only():
    """The paper's IQL has an MLP policy; our method IQL is the RL gradient of a transformer."""
    _, table = table_of([make_run(method="IQL"), make_run(method="TD3")])
    assert list(table.columns[:4]) == ["Task", "TD3", "TD3 (paper)", "IQL"]
    assert table.columns.count("IQL (paper)") == 1
    assert table.columns.index("IQL (paper)") > 4
    _, table = table_of([make_run(method="IQL-MLP")])
    assert list(table.columns[:3]) == ["Task", "IQL-MLP", "IQL (paper)"]


def test_published_columns_follow_the_method_itself_not_its_variants():
    runs = [make_run(method="ODT"), make_run(method="ODT-x", base="ODT"), make_run(method="TD3")]
    _, table = table_of(runs)
    assert table.columns[:3] == ["Task", "ODT", "ODT (paper)"]
    assert table.columns.count("ODT (paper)") == 1


def test_delayed_rewards_have_their_own_table():
    runs = [make_run(delayed_reward=5), make_run(), make_run(delayed_reward=3)]
    names = [table.name for table in contents.score_tables(build(runs, []))]
    assert names == ["T1", "T10", "other"]


def test_published_scores_match_the_source():
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
    """A wrong line in rows.csv would pair an interval with the score of another task."""
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


def test_methods_have_a_fixed_order_and_distinct_styles():
    names = ["PPO+ODT", "TD3", "ODT", "TD3+ODT", "ODT [b]", "AWR+ODT"]
    ordered = ["TD3+ODT", "ODT", "ODT [b]", "TD3", "AWR+ODT", "PPO+ODT"]
    assert order_methods(names) == ordered
    many = [f"M{i:02d}" for i in range(30)]
    assert len({dataclasses.astuple(look) for look in styles(many).values()}) == 30


def test_markdown_and_csv_escape_text():
    rows = [[Cell("a|b\n <i>", "x", ("more",)), number(math.nan)]]
    table = Table("t", "T", ["one", "two"], rows)
    assert to_markdown(table).splitlines()[-1] == "| a\\|b &lt;i>, more | – |"
    assert to_csv(["a", "b"], [["x,y", math.nan], [None, 0.1]]) == 'a,b\n"x,y",\n,0.1\n'
