"""The metrics that docs/METRICS.md defines."""

import re

from tests.conftest import ROOT


def documented_metrics() -> set[str]:
    """Names in the first column of the tables of docs/METRICS.md, such as "training/Q_mean"."""
    text = (ROOT / "docs" / "METRICS.md").read_text()
    cells = re.findall(r"^\| (`[^|]*`) \|", text, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([a-z_A-Z0-9]+/[a-zA-Z_0-9]+)`", cell)}
