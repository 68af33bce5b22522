"""Paths and fixtures shared by the tests."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

import tasks
from tests.data_files import random_arrays, write

# how long an example takes depends on the machine's other work
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).parent / "golden"
# data samples and facts that are not in the repository
SHARED = Path(os.environ.get("ODT_SHARED", ROOT.parent / "shared"))


def shared_file(relative: str) -> Path:
    """A file in the shared folder; skips the test if it is missing."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative} in the folder ODT_SHARED")
    return path


def golden_files(pattern: str) -> dict[str, Path]:
    """Golden files by stem; those in the shared folder override those in the repository."""
    folders = (GOLDEN, SHARED / "golden")
    return {path.stem: path for folder in folders for path in sorted(folder.glob(pattern))}


def golden_file(name: str) -> Path:
    (path,) = golden_files(name).values()
    return path


@pytest.fixture
def short_horizons(monkeypatch):
    """Limit episodes to 25 steps."""
    for name, task in tasks.TASKS.items():
        monkeypatch.setitem(tasks.TASKS, name, replace(task, horizon=25))


@pytest.fixture
def data_dir(tmp_path):
    """A folder with small random datasets of two tasks."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("maze2d-umaze-v1", "hopper-medium-v2"):
        write(folder / f"{name}.hdf5", random_arrays(tasks.TASKS[name], 200, seed=0))
    return folder
