"""What MkDocs does with the pages of docs/ beyond Markdown (a hook of mkdocs.yml).

The pages are written to be read on GitHub and in an editor too. On the site

- a line that is nothing but a link to a part of README.md (`[Install](../README.md#install)`)
  becomes that part, so that nothing is told twice;
- other links to README.md lead to the page that has the part;
- flags in code are not broken between lines;
- links to other files outside docs/ become their text, or lead to the file where mkdocs.yml has a
  `repo_url`.

A link to a file or a part of README.md that does not exist is a warning, an error with --strict.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = "README.md"
# MkDocs counts the warnings of loggers below its own
_log = logging.getLogger("mkdocs.hooks.docs_site")
_INCLUDED = re.compile(r"^\[[^\]]+\]\(\.\./README\.md#([\w-]+)\)$", re.MULTILINE)
# code comes first, so that what looks like a link there stays as it is
_CODE_OR_LINK = re.compile(
    r"(?P<code>```.*?```|(?<!\[)`[^`\n]+`)|(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Readme:
    """README.md on the site.

    Attributes:
        parts: Text of each part by its anchor, with its heading and the parts below it.
        pages: The page that has the part, by anchor.
    """

    parts: Mapping[str, str]
    pages: Mapping[str, str]


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def parts_of(text: str) -> dict[str, str]:
    """The parts of a Markdown text by anchor."""
    blank = re.sub(r"```.*?```", lambda code: re.sub(r"\S", " ", code[0]), text, flags=re.DOTALL)
    heads = list(re.finditer(r"^(#+) (.+)$", blank, re.MULTILINE))
    parts = {}
    for i, head in enumerate(heads):
        later = [other.start() for other in heads[i + 1 :] if len(other[1]) <= len(head[1])]
        end = later[0] if later else len(text)
        parts[slug(head[2])] = text[head.start() : end].strip()
    return parts


def read_readme(pages: Mapping[str, str]) -> Readme:
    """README.md, with the pages (name to text) that include parts of it."""
    parts = parts_of((ROOT / README).read_text())
    homes = {
        anchor: name
        for name, text in pages.items()
        for included in _INCLUDED.findall(text)
        for anchor in parts_of(parts.get(included, ""))
    }
    return Readme(parts, homes)


def relink(markdown: str, folder: str, readme: Readme, repo_url: str, page: str) -> str:
    """Make links fit the site.

    Args:
        folder: Of the file that the text comes from, relative to the repository.
        repo_url: What files of the repository are seen at, up to their path; "" for nowhere.
        page: The page's name, for warnings.
    """

    def link(found: re.Match[str]) -> str:
        text, target = found["text"], found["target"]
        if found["code"] or re.match(r"[a-z]+:|#", target):
            return found[0]
        path, sharp, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(folder, path))
        if path.startswith("docs/"):
            return f"[{text}]({posixpath.relpath(path, 'docs')}{sharp}{anchor})"
        if path == README:
            if anchor and anchor not in readme.parts:
                _log.warning("%s: README.md has no part #%s", page, anchor)
            home = readme.pages.get(anchor)
            return f"[{text}]({home}#{anchor})" if home else f"[{text}](index.md)"
        if path.startswith("..") or not (ROOT / path).exists():
            _log.warning("%s: %s is no file of the repository", page, target)
        return f"[{text}]({repo_url}{path})" if repo_url else text

    return _CODE_OR_LINK.sub(link, markdown)


def render(markdown: str, readme: Readme, repo_url: str, page: str) -> str:
    """A page's text with the parts of README.md that it includes."""
    pieces = []
    for i, piece in enumerate(_INCLUDED.split(markdown)):
        if i % 2 == 0:
            pieces.append(relink(piece, "docs", readme, repo_url, page))
        elif piece in readme.parts:
            pieces.append(relink(readme.parts[piece], "", readme, repo_url, page))
        else:
            _log.warning("%s: README.md has no part #%s", page, piece)
    return "".join(pieces)


def on_config(config: Any) -> Any:
    """Called by MkDocs at the start: leave pages that are not there out of the navigation."""
    for section in config.nav or []:
        for title, pages in section.items():
            if isinstance(pages, list):
                there = (Path(config.docs_dir) / next(iter(page.values())) for page in pages)
                section[title] = [p for p, path in zip(pages, there, strict=True) if path.exists()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs once the pages are known."""
    pages = {
        file.src_uri: (Path(config.docs_dir) / file.src_uri).read_text()
        for file in files.documentation_pages()
    }
    config.extra["readme"] = read_readme(pages)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Called by MkDocs with the text of each page."""
    url = f"{config.repo_url.rstrip('/')}/blob/main/" if config.repo_url else ""
    return render(markdown, config.extra["readme"], url, page.file.src_uri)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Called by MkDocs with each page as HTML: no line ends amid a flag."""
    return re.sub(r"<code>[^<]*</code>", keep_flags_whole, html)


def keep_flags_whole(code: re.Match[str]) -> str:
    """Mark the flags in a piece of code for site.css."""
    return re.sub(r"(?<![\w-])--?[A-Za-z]\w*", r'<span class="flag">\g<0></span>', code[0])
