"""What many tests use: where golden numbers and real data lie."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).parent / "golden"
# real data and facts beside the checkout; tests that need them skip where they are absent
SHARED = ROOT.parent / "shared"


def shared_file(relative: str) -> Path:
    """A file of the folder beside the checkout; skips the test where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"{relative} is not here")
    return path
