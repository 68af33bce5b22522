"""MkDocs hook: shows docs/notebook.ipynb, with its outputs, as the page NOTEBOOK.md."""

from __future__ import annotations

import base64
import json
import textwrap
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_IMAGES = {"image/png": "png", "image/gif": "gif"}
_WIDTH = 96


def notebook_page(notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its images by path."""
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        printed = ""
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            kinds = [kind for kind in _IMAGES if kind in data]
            if not kinds:
                printed += "".join(output.get("text") or data["text/plain"])
                continue
            path = f"images/notebook-{len(images)}.{_IMAGES[kinds[0]]}"
            images[path] = base64.b64decode(data[kinds[0]])
            width = output["metadata"].get(kinds[0], {}).get("width")
            parts += _printed(printed)
            parts.append(f"![output]({path})" + (f'{{ width="{width}" }}' if width else ""))
            printed = ""
        parts += _printed(printed)
    return "\n\n".join(parts) + "\n", images


def _printed(text: str) -> list[str]:
    """A block of output with lines that fit the page; none if there is no output."""
    lines = [textwrap.fill(line, _WIDTH) for line in text.splitlines()]
    return ["\n".join(["```text", *lines, "```"])] if lines else []


def on_files(files: Files, config: MkDocsConfig) -> Files:
    notebook = json.loads((Path(config.docs_dir) / "notebook.ipynb").read_text())
    text, images = notebook_page(notebook)
    files.append(File.generated(config, "NOTEBOOK.md", content=text))
    for path, image in images.items():
        files.append(File.generated(config, path, content=image))
    return files
