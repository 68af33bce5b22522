"""The documentation: builds without a warning, has no dead link, loads nothing from the network."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from reporting.paper import AVERAGE, METHODS, TITLES, paper_rows, published_score
from scripts.docs_site import Readme, on_page_content, parts_of, relink, render, slug
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
# attributes by which a browser loads something, by tag; links that one may click are others
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(site)]
    variables = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True)


class Page(HTMLParser):
    """Anchors, links and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in LOADED and values.get(LOADED[tag]):
            self.loaded.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path.name: Page(path) for path in site.glob("*.html")}


def is_address(link):
    return re.match(r"[a-z]+:|//", link) is not None


def test_every_page_is_there_and_in_the_navigation(site, pages):
    assert {Path(name).stem for name in PAGES} | {"404"} == {Path(name).stem for name in pages}
    for name in PAGES:
        assert f"{Path(name).stem}.html" in pages["index.html"].links, name
    assert (site / "search" / "search_index.json").stat().st_size > 10_000


def test_no_link_is_dead(site, pages):
    checked = 0
    for name, page in pages.items():
        if name == "404.html":  # its links are those of the site's root
            continue
        for link in [*page.links, *page.loaded]:
            if is_address(link):
                continue
            path, _, anchor = unquote(link).partition("#")
            assert path == "" or (site / path).exists(), f"{name}: {link}"
            if anchor and (path == "" or path.endswith(".html")):
                assert anchor in pages[path or name].ids, f"{name}: {link}"
                checked += 1
    assert checked > 100


def test_nothing_is_loaded_from_the_network(site, pages):
    assert [(n, x) for n, page in pages.items() for x in page.loaded if is_address(x)] == []
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:|//)", style.read_text()) == []


def test_parts_of_the_readme_are_included_with_links_that_fit(site, pages):
    text = (site / "QUICKSTART.html").read_text()
    assert "make run" in text and "checkpoints/" in text
    assert "REPORTS.html" in pages["QUICKSTART.html"].links
    assert pages["COMMANDS.html"].ids >= {"mujoco", "antmaze", "adroit", "maze2d"}
    assert "README.md" not in " ".join(link for page in pages.values() for link in page.links)


def test_mistakes_fail_the_build(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "scripts").mkdir()
    for name in ("mkdocs.yml", "README.md", "scripts/docs_site.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    with (tmp_path / "docs" / "METRICS.md").open("a") as page:
        page.write(
            "\n[a](ABSENT.md) [b](FLAGS.md#no-such-part) [c](../absent.py)\n"
            "[d](../README.md#nowhere) here\n\n[e](../README.md#nothing)\n"
        )
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for said in ("ABSENT.md", "no-such-part", "../absent.py", "#nowhere", "#nothing"):
        assert said in done.stderr, said


LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{name}" for name in PAGES)])
def test_links_work_where_the_files_are_read_as_they_are(name):
    """On GitHub: relative files, and anchors as it makes them."""
    path = ROOT / name
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for link in LINK.findall(text):
        if is_address(link):
            continue
        target, _, anchor = link.partition("#")
        file = path.parent / target if target else path
        assert file.exists(), link
        if anchor:
            assert anchor in parts_of(file.read_text()), link


def published(table, label, method):
    score = published_score(table, label, method)
    assert score is not None
    return f"{score[0]:.2f} ({score[1]:+.2f})"


def test_the_published_tables_are_the_papers():
    text = (DOCS / "REPRODUCING.md").read_text()
    for table, title in TITLES.items():
        lines = parts_of(text)[slug(title)].splitlines()[2:]
        cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
        methods = [m for m in METHODS if published_score(table, AVERAGE, m)]
        assert cells[0] == ["task", *methods]
        rows = [(row.env, row.label) for row in paper_rows() if row.table == table]
        wanted = [
            [env, *(published(table, label, method) for method in methods)]
            for env, label in [*rows, ("average", AVERAGE)]
        ]
        assert cells[2:] == wanted


def test_parts_end_at_the_next_heading_of_their_rank():
    text = "# A\n1\n## B c\n2\n```\n# not a heading\n```\n### `D` e\n3\n## F, g\n4\n"
    parts = parts_of(text)
    assert list(parts) == ["a", "b-c", "d-e", "f-g"]
    assert parts["a"] == text.strip()
    assert parts["b-c"].startswith("## B c\n2") and parts["b-c"].endswith("### `D` e\n3")


def test_links_to_the_repository(monkeypatch):
    readme = Readme({"try": "## Try\n[x](docs/FLAGS.md#k) [y](utils.py)"}, {"try": "Q.md"})
    text = "[a](../utils.py) `[b](../utils.py)` [c](../README.md#try) [`d`](F.md) [e](https://x.y)"
    assert relink(text, "docs", readme, "", "p") == (
        "a `[b](../utils.py)` [c](Q.md#try) [`d`](F.md) [e](https://x.y)"
    )
    assert relink("[a](../envs/base.py)", "docs", readme, "https://h/blob/main/", "p") == (
        "[a](https://h/blob/main/envs/base.py)"
    )
    page = "before\n\n[Try](../README.md#try)\n\nafter [f](../README.md)"
    assert render(page, readme, "", "p") == (
        "before\n\n## Try\n[x](FLAGS.md#k) y\n\nafter [f](index.md)"
    )


def test_flags_stay_whole():
    html = "<p><code>a-b --K 5 -lr x</code> --K <pre><code class='x'>--K</code></pre></p>"
    assert on_page_content(html, None, None, None) == (
        '<p><code>a-b <span class="flag">--K</span> 5 <span class="flag">-lr</span> x</code> --K '
        "<pre><code class='x'>--K</code></pre></p>"
    )
