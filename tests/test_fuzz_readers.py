"""Damaged files of every kind: refused in one line or whole, and the fuzzer sees what is not."""

import random

import pytest

from tests import fuzz_readers as fuzzer
from tests.fuzz_readers import KINDS, ROWS, damaged, fuzz, fuzz_apart
from utils import UserError


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind):
    outcome = fuzz_apart(kind, seed=2, count=200)
    assert outcome.failures == []
    assert outcome.refused > 100
    assert outcome.refused + outcome.accepted == 200


def broken(error):
    def read():
        raise error

    return read


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("observations"), "KeyError"),
        (UserError("two\nlines"), "not one line"),
        (fuzzer.NotWhole("shapes"), "shapes"),
        (SystemExit(0), "SystemExit"),
    ],
)
def test_what_must_not_happen_is_reported(tmp_path, monkeypatch, error, said):
    path = tmp_path / "file"

    def kind(folder):
        path.write_bytes(b"0123456789")
        reads = iter([lambda: None])
        return path, lambda: next(reads, broken(error))()

    monkeypatch.setitem(KINDS, "broken", kind)
    outcome = fuzz("broken", 0, 3, tmp_path / "at")
    assert len(outcome.failures) == 3
    assert said in outcome.failures[0]


def test_an_endless_loop_is_reported(tmp_path, monkeypatch):
    first = iter([True])

    def kind(folder):
        (tmp_path / "file").write_bytes(b"content")

        def read():
            while not next(first, False):
                pass

        return tmp_path / "file", read

    monkeypatch.setitem(KINDS, "endless", kind)
    monkeypatch.setattr(fuzzer, "SECONDS", 1)
    assert "no answer" in fuzz("endless", 0, 1, tmp_path / "at").failures[0]


def test_damage_changes_files_and_is_the_same_for_a_seed():
    content = bytes(range(ROWS))
    some = [damaged(content, random.Random(seed)) for seed in range(50)]
    assert some == [damaged(content, random.Random(seed)) for seed in range(50)]
    assert sum(x != content for x in some) > 40
