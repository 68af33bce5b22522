"""Results of the parts as report.json and report.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PASSED, FAILED, SKIPPED, UNFINISHED = "passed", "failed", "skipped", "unfinished"


@dataclass
class Result:
    """What a part found.

    Attributes:
        part: Its name.
        result: passed, failed, skipped or unfinished (the check's time was up).
        reason: Why it did not pass, unless an item shows that.
        seconds: Its duration.
        items: Its results: item, ok, seconds, figures, error.
    """

    part: str
    result: str
    reason: str
    seconds: float
    items: list[dict[str, Any]]

    @property
    def failed_items(self) -> list[dict[str, Any]]:
        return [item for item in self.items if not item["ok"]]

    @property
    def line(self) -> str:
        """One line for the terminal."""
        text = f"{self.part}: {self.result}"
        if self.items:
            text += f", {len(self.items) - len(self.failed_items)} of {len(self.items)} items"
        if self.seconds:
            text += f", {self.seconds:.0f} s"
        return f"{text} ({self.reason})" if self.reason else text


def read_items(path: Path) -> list[dict[str, Any]]:
    """The results that a part wrote; a last line that is cut short does not count."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write(folder: Path, device: str, missing: list[str], results: list[Result]) -> None:
    """Write report.json and report.md."""
    whole = {"device": device, "missing_packages": missing, "parts": [asdict(r) for r in results]}
    (folder / "report.json").write_text(json.dumps(whole, indent=1) + "\n")
    (folder / "report.md").write_text("\n".join(_markdown(device, missing, results)) + "\n")


def _markdown(device: str, missing: list[str], results: list[Result]) -> Iterator[str]:
    yield "# GPU check\n"
    yield f"Device: {device}. Missing packages: {', '.join(missing) or 'none'}.\n"
    yield "| part | result | items | seconds | remark |"
    yield "|---|---|---|---|---|"
    for r in results:
        names = [item["item"] for item in r.failed_items]
        remark = r.reason or (f"failed: {', '.join(names[:5])}" if names else "")
        passed = len(r.items) - len(names)
        yield _row(r.part, r.result, f"{passed} of {len(r.items)}", f"{r.seconds:.0f}", remark)
    for r in results:
        shown = [item for item in r.items if item["figures"] or item["error"]]
        if shown:
            yield f"\n## {r.part.capitalize()}\n"
            yield "| item | result | seconds | figures |\n|---|---|---|---|"
            for item in shown:
                outcome = PASSED if item["ok"] else FAILED
                yield _row(item["item"], outcome, item["seconds"], _figures(item))


def _row(*cells: object) -> str:
    shown = [" ".join(str(cell).split()).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(shown)} |"


def _figures(item: dict[str, Any]) -> str:
    if item["error"]:
        return item["error"][:600]
    return ", ".join(f"{name} {_value(value)}" for name, value in item["figures"].items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {x}" for name, x in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
