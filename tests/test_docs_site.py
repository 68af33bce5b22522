"""The documentation builds without warnings, has no dead links and works without a network."""

import json
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
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
# with notebook.ipynb as a page, see docs/hooks.py
SITE_PAGES = [*PAGES, "NOTEBOOK.md"]
# attributes that make a browser load a file, by tag; links to click are not among them
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "chrome"))), None
)


def slug(heading: str) -> str:
    """A heading's anchor as GitHub generates it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def parts_of(text: str) -> dict[str, str]:
    """Sections of a Markdown text by anchor, each with its heading and subsections."""
    blank = re.sub(r"```.*?```", lambda code: re.sub(r"\S", " ", code[0]), text, flags=re.DOTALL)
    heads = list(re.finditer(r"^(#+) (.+)$", blank, re.MULTILINE))
    parts = {}
    for i, head in enumerate(heads):
        later = [other.start() for other in heads[i + 1 :] if len(other[1]) <= len(head[1])]
        end = later[0] if later else len(text)
        parts[slug(head[2])] = text[head.start() : end].strip()
    return parts


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(site)]
    variables = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True)


class Page(HTMLParser):
    """Anchors, links and loaded files of an HTML page."""

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


def test_navigation_lists_every_page(site, pages):
    assert {Path(name).stem for name in SITE_PAGES} | {"404"} == {Path(name).stem for name in pages}
    for name in SITE_PAGES:
        assert f"{Path(name).stem}.html" in pages["index.html"].links, name


def test_site_has_no_dead_links(site, pages):
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


def test_site_loads_nothing_from_the_network(site, pages):
    assert [(n, x) for n, page in pages.items() for x in page.loaded if is_address(x)] == []
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:|//)", style.read_text()) == []


def test_search_index_is_a_script_that_needs_no_server(site, pages):
    text = (site / "search" / "search_index.js").read_text()
    index = json.loads(text.removeprefix("var __index = "))
    assert {page["location"].split("#")[0] for page in index["docs"]} == set(pages) - {"404.html"}
    for name, page in pages.items():
        scripts = [file for file in page.loaded if file.endswith(".js")]
        # the replacement of Worker comes before the theme's code, which uses it
        assert "iframe-worker" in scripts[0], name
        assert "assets/javascripts/bundle" in scripts[1], name


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; skips if it or its driver is absent."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def window(browser):
    """An empty window, 1280 pixels wide."""
    window = browser.new_page(viewport={"width": 1280, "height": 900})
    window.set_default_timeout(60_000)
    yield window
    window.close()


def test_search_works_from_disk(site, window):
    window.goto((site / "index.html").as_uri())
    window.click("[data-md-component=search-query]")
    window.keyboard.type("curriculum")
    window.wait_for_selector(".md-search-result__link")
    found = window.eval_on_selector_all(".md-search-result__link", "all => all.map(a => a.href)")
    assert any("ALGORITHMS.html" in link for link in found)


OVERFLOW = """() => [...document.querySelectorAll("pre > code, .md-typeset__scrollwrap")]
    .filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.innerText.slice(0, 60))"""


@pytest.mark.parametrize("name", SITE_PAGES)
def test_code_and_tables_fit_the_window(site, window, name):
    window.goto((site / name).with_suffix(".html").as_uri())
    assert window.evaluate(OVERFLOW) == []


def test_broken_links_fail_the_build(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "METRICS.md").open("a") as page:
        page.write("\n[a](ABSENT.md) [b](FLAGS.md#no-such-part) [c](../README.md)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for link in ("ABSENT.md", "no-such-part", "../README.md"):
        assert link in done.stderr, link


LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *(f"docs/{p}" for p in PAGES)])
def test_links_work_on_github(name):
    """Links lead to files of the repository and to anchors as GitHub generates them."""
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


def test_published_tables_match_the_paper():
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


def test_sections_end_at_the_next_heading_of_their_level():
    text = "# A\n1\n## B c\n2\n```\n# not a heading\n```\n### `D` e\n3\n## F, g\n4\n"
    parts = parts_of(text)
    assert list(parts) == ["a", "b-c", "d-e", "f-g"]
    assert parts["a"] == text.strip()
    assert parts["b-c"].startswith("## B c\n2") and parts["b-c"].endswith("### `D` e\n3")
