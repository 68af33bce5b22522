"""scripts/report.py: the files it writes, and its page in a browser."""

import csv
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

pytest.importorskip("plotly")

from run.state import DIVERGED, STOPPED
from scripts import report
from tests.commands import as_command
from tests.conftest import ROOT
from tests.report_runs import ended, finished_run, settings, status

main = as_command(report.main)

HOPPER, MAZE = "hopper-medium-v2", "maze2d-umaze-v1"
# final scores by task and method, of seeds 1, 2, 3; 10 before fine-tuning
FINALS = {
    (HOPPER, "TD3+ODT"): (70.0, 80.0, 99.0),
    (HOPPER, "ODT"): (30.0, 40.0, 41.0),
    (MAZE, "TD3+ODT"): (110.0, 120.0, 130.0),
    (MAZE, "ODT"): (50.0, 60.0, 61.0),
}
EVIL = "</script><script>window.hacked = 1</script><img src=http://x.invalid/ onerror=hacked=1>|"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Twelve finished runs, one diverged, one stopped, one planned, one with a hostile name."""
    top = tmp_path_factory.mktemp("runs")
    for (env, method), finals in FINALS.items():
        for seed, final in enumerate(finals, 1):
            folder = top / env / method / f"seed{seed}"
            finished_run(folder, 10.0, [20.0, final], **settings(method, env, seed))
    for seed, state in [(4, DIVERGED), (5, STOPPED)]:
        folder = top / HOPPER / "ODT" / f"seed{seed}"
        finished_run(folder, 10.0, [-50.0], **settings("ODT", HOPPER, seed))
        ended(folder, state, "Divergence: x" if state == DIVERGED else "")
    status(top / "later", state="planned", task=MAZE, method="SAC+ODT", seed=1)
    named = settings("TD3", MAZE, 1, suffix=EVIL)
    finished_run(top / MAZE / "evil", 1.0, [2.0, 3.0], **named)
    return top


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "new"
    assert main([str(runs), "--out", str(out)]) == 0
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_command_prints_states_and_warnings(runs, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), str(runs / HOPPER)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "warning: 2 of 8 runs are not finished (1 diverged, 1 stopped); means and tables leave "
        "them out, figures show them as dotted lines\n"
    )
    first, last = done.stdout.splitlines()
    assert first == "6 finished, 1 diverged, 1 stopped"
    assert last == f"wrote {len([p for p in tmp_path.rglob('*') if p.is_file()])} files; " + (
        f"open {tmp_path / 'report.html'}"
    )


def test_scores_count_finished_runs_only(written):
    scores = {
        (row["task"], row["method"], row["source"]): row for row in rows_of(written / "scores.csv")
    }
    hopper = scores[HOPPER, "ODT", "runs"]
    assert float(hopper["final"]) == 37.0 and float(hopper["increase"]) == 27.0
    assert (hopper["runs"], hopper["of"]) == ("3", "5")
    assert 30 <= float(hopper["ci_low"]) < 37 < float(hopper["ci_high"]) <= 41
    assert scores[HOPPER, "ODT", "paper"]["final"] == "97.84"
    assert (MAZE, "SAC+ODT", "runs") not in scores


def test_aggregates_and_improvement(written):
    """Without TD3, which has not finished hopper."""
    found = {(row["method"], row["metric"]): row for row in rows_of(written / "aggregates.csv")}
    assert {method for method, _ in found} == {"TD3+ODT", "ODT"}
    assert float(found["ODT", "Mean"]["point"]) == 47.0
    # 70 80 99 110 120 130 without the lowest and the highest quarter of six, one each
    assert float(found["TD3+ODT", "IQM"]["point"]) == (80 + 99 + 110 + 120) / 4
    assert float(found["TD3+ODT", "Optimality Gap"]["point"]) == pytest.approx(51 / 6)
    (pair,) = rows_of(written / "improvement.csv")
    assert (pair["x"], pair["y"], float(pair["probability"])) == ("TD3+ODT", "ODT", 1.0)


def test_curves_and_runs_are_written(written):
    curves = rows_of(written / "curves.csv")
    mean = [
        row
        for row in curves
        if (row["task"], row["method"], row["curve"]) == (HOPPER, "ODT", "mean")
    ]
    assert [(float(row["at"]), float(row["score"])) for row in mean] == [
        (0, 10), (100, 20), (200, 37)
    ]  # fmt: skip
    assert {row["runs"] for row in mean} == {"3"}
    assert any(row["curve"] == "seed 4, diverged" for row in curves)
    found = rows_of(written / "runs.csv")
    assert len(found) == 16
    assert [row["state"] for row in found if row["counts"] == "0"] == [
        "diverged",
        "stopped",
        "planned",
    ]


def test_markdown_links_to_the_figures(written):
    text = (written / "report.md").read_text()
    linked = re.findall(r"\((figures/[^)]*\.png)\)", text)
    assert {f"figures/curves-{HOPPER}.png", "figures/aggregates-0.png"} <= set(linked)
    for name in linked:
        assert matplotlib.image.imread(written / name).std() > 0.01
        assert (written / name).with_suffix(".svg").read_text().startswith("<?xml")
    assert "83.00(+73.00)" in text and "97.84(+48.69)" in text
    assert EVIL not in text and "1 diverged" in text
    shown = (written / "T1.csv").read_text().splitlines()
    assert shown[1].startswith(f"{HOPPER},83.00(+73.00),89.07(+25.97),37.00(+27.00),")


def files_below(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_runs_give_the_same_bytes_and_do_not_change(runs, written, tmp_path):
    before = files_below(runs)
    assert main([str(runs), "--out", str(tmp_path)]) == 0
    assert files_below(tmp_path) == files_below(written)
    assert files_below(runs) == before


def test_report_without_finished_runs(tmp_path):
    ended(finished_run(tmp_path / "runs" / "a", 1.0, [2.0]), STOPPED)
    status(tmp_path / "runs" / "b", state="planned", task=MAZE, method="ODT", seed=1)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "There are no finished runs yet." in page
    shutil.rmtree(tmp_path / "runs" / "a")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "There are no evaluations yet." in (tmp_path / "out" / "report.html").read_text()


def test_errors_are_one_line(runs, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    (tmp_path / "file").write_text("")
    for argv, expected in [
        ([str(tmp_path / "none"), "--out", str(out)], "none"),
        ([str(runs), "--out", str(tmp_path / "file")], "--out"),
        ([str(runs), "--out", str(tmp_path / "file" / "x")], "file/x"),
    ]:
        assert main(argv) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
        assert expected in printed.err and printed.out == ""
    for argv in ([str(runs)], [str(runs), "--ou", "x", "--wrong"]):
        assert main(argv) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    for name in ("reporting.output", "reporting.page"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert main([str(runs), "--out", str(out)]) == 2
    assert "pip install -r requirements-report.txt" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; skips if it or its driver is not installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    flags = [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield found
        found.close()


@pytest.fixture
def page(browser, written, request):
    """The page, 1280 pixels wide or as parametrised; it must load nothing and log no errors."""
    page = browser.new_page(viewport={"width": getattr(request, "param", 1280), "height": 900})
    page.set_default_timeout(120_000)
    requests: list[str] = []
    messages: list[str] = []
    page.on("request", lambda each: requests.append(each.url))
    page.on("console", lambda each: messages.append(each.text))
    page.on("pageerror", lambda each: messages.append(str(each)))
    address = (written / "report.html").as_uri()
    page.goto(address)
    yield page
    assert all(url.startswith((address, "data:", "blob:")) for url in requests)
    assert messages == []
    page.close()


def column(page, table: str, number: int) -> list[str]:
    cells = page.locator(f"#table-{table} tbody tr td:nth-child({number})")
    return [text.split("\n")[0] for text in cells.all_inner_texts()]


def test_click_on_a_heading_sorts_the_table(page):
    heads = page.locator("#table-runs th button")
    score = heads.all_inner_texts().index("Last score") + 1
    before = column(page, "runs", score)
    heads.nth(score - 1).click()
    down = column(page, "runs", score)
    assert down != before and sorted(down) == sorted(before)
    # the run without a score stays last in both directions
    assert down[-1] == "–" and [float(x) for x in down[:-1]] == sorted(map(float, down[:-1]))[::-1]
    heads.nth(score - 1).click()
    up = column(page, "runs", score)
    assert up[-1] == "–" and up[:-1] == down[:-1][::-1]
    assert page.locator("#table-runs th[aria-sort]").count() == 1
    heads.nth(1).focus()
    page.keyboard.press("Enter")
    methods = column(page, "runs", 2)
    assert methods == sorted(methods, key=str.lower) and methods[0] == "ODT"


def test_numbers_are_sorted_as_numbers(page):
    heads = page.locator("#table-intervals th button")
    mean = heads.all_inner_texts().index("Mean")
    heads.nth(mean).click()
    shown = [float(text.replace(",", "")) for text in column(page, "intervals", mean + 1)]
    assert shown == sorted(shown, reverse=True) and shown[0] > 100 > shown[-1]


def test_curves_zoom_and_reset(page):
    chart = page.locator(f"#chart-{HOPPER}")
    chart.scroll_into_view_if_needed()

    def limits() -> list[float]:
        return chart.evaluate("plot => plot._fullLayout.xaxis.range.slice()")

    box = chart.locator(".nsewdrag").bounding_box()
    before = limits()
    x, y = box["x"], box["y"] + box["height"] / 2
    page.mouse.move(x + 0.3 * box["width"], y)
    page.mouse.down()
    page.mouse.move(x + 0.6 * box["width"], y, steps=5)
    page.mouse.up()
    chart.evaluate("plot => new Promise(done => setTimeout(done, 300))")
    zoomed = limits()
    assert before[0] < zoomed[0] < zoomed[1] < before[1]
    assert zoomed[1] - zoomed[0] == pytest.approx(0.3 * (before[1] - before[0]), rel=0.05)
    page.mouse.dblclick(x + 0.5 * box["width"], y)
    chart.evaluate("plot => new Promise(done => setTimeout(done, 600))")
    assert limits() == pytest.approx(before)


def test_methods_can_be_hidden_in_all_charts(page):
    drawn = "plot => plot.querySelectorAll('.scatterlayer .trace').length"
    charts = page.locator(".chart")
    before = [charts.nth(i).evaluate(drawn) for i in range(charts.count())]
    page.locator('.legend input[value="ODT"]').uncheck()
    page.wait_for_timeout(300)
    after = [charts.nth(i).evaluate(drawn) for i in range(charts.count())]
    assert len(before) == 3 and all(a < b for a, b in zip(after, before, strict=True))
    page.locator('.legend input[value="ODT"]').check()
    page.wait_for_timeout(300)
    assert [charts.nth(i).evaluate(drawn) for i in range(charts.count())] == before


@pytest.mark.parametrize("page", [1280, 400], indirect=True)
def test_page_fits_the_window_and_escapes_text(page):
    wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) == 0
    assert page.evaluate("() => window.hacked") is None
    assert f"TD3{EVIL}" in page.locator("#table-overview thead").inner_text()
    for image in page.locator("figure img").all():
        assert image.evaluate("image => image.naturalWidth") > 100
    small = page.locator("#table-T1 td:nth-child(2) small").all_inner_texts()
    assert small[1] == "3 of 3"
