"""Damaged files of every kind are refused in one line or read correctly."""

import random
import time
from functools import partial
from types import SimpleNamespace

import pytest

from tests import fuzz_readers
from tests.fuzz_readers import KINDS, Outcome, damaged, fuzz, fuzz_apart
from utils import UserError


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind):
    outcome = fuzz_apart(kind, seed=2, count=200)
    assert outcome.failures == []
    assert outcome.refused > 100
    assert outcome.refused + outcome.accepted == 200


def valid_once(folder, then):
    """A kind of file whose first read succeeds."""
    path = folder / "file"
    path.write_bytes(b"0123456789")
    reads = iter([lambda: None])
    return path, lambda: next(reads, then)()


def fail_with(error):
    raise error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("observations"), "KeyError"),
        (UserError("two\nlines"), "not one line"),
        (AssertionError("wrong"), "wrong"),
        (SystemExit(0), "SystemExit"),
    ],
)
def test_other_outcomes_are_failures(error, text):
    make = partial(valid_once, then=partial(fail_with, error))
    outcome = fuzz(make, "0", 3, SimpleNamespace(value=0))
    assert len(outcome.failures) == 3
    assert text in outcome.failures[0]


def test_hang_is_a_failure(monkeypatch):
    """`_prepare` runs in the process that hangs, so the changes are made there."""
    monkeypatch.setattr(fuzz_readers, "_prepare", hang_at_once)
    assert fuzz_apart("hdf5", 0, 3) == Outcome(failures=["file 0: crash, or a hang of 20 s"])


def hang_at_once(counter):
    fuzz_readers._counter = counter
    fuzz_readers.SECONDS = 1
    fuzz_readers.KINDS["hdf5"] = partial(valid_once, then=partial(time.sleep, 60))


def test_damage_is_determined_by_the_seed():
    content = bytes(range(60))
    some = [damaged(content, random.Random(seed)) for seed in range(50)]
    assert some == [damaged(content, random.Random(seed)) for seed in range(50)]
    assert sum(x != content for x in some) > 40
