"""What many tests use: where golden numbers and real data lie."""

from dataclasses import replace
from pathlib import Path

import pytest

import tasks
from tests.data_files import random_arrays, write

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


@pytest.fixture
def short_horizons(monkeypatch):
    """Episodes of at most 25 steps."""
    for name, task in tasks.TASKS.items():
        monkeypatch.setitem(tasks.TASKS, name, replace(task, horizon=25))


@pytest.fixture
def data_dir(tmp_path):
    """A folder with a small dataset of random numbers for a few tasks."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("maze2d-umaze-v1", "hopper-medium-v2"):
        write(folder / f"{name}.hdf5", random_arrays(tasks.TASKS[name], 200, seed=0))
    return folder
