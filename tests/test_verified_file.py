"""Files of tensors: what is read is what was written, or nothing."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from run.checkpoint import SEAL_SIZE, read_file, write_verified
from utils import UserError

WEIGHTS = torch.arange(500.0)
STATE: dict[str, Any] = {"weights": WEIGHTS, "name": "hopper", "numbers": [1, 2.5, None]}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "state.pt"
    write_verified(path, STATE)
    return path


def test_it_comes_back(written):
    state = read_file(written, "cpu")
    assert torch.equal(state.pop("weights"), WEIGHTS)
    assert state == {"name": "hopper", "numbers": [1, 2.5, None]}  # fmt: skip


def test_others_can_read_it_too(written):
    assert torch.equal(torch.load(written, weights_only=True)["weights"], WEIGHTS)


@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_any_changed_byte_is_noticed(written, tmp_path_factory, place, bits):
    content = bytearray(written.read_bytes())
    content[int(place * len(content))] ^= bits
    path = tmp_path_factory.mktemp("damaged") / "state.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable checkpoint") as error:
        read_file(path, "cpu")
    assert "\n" not in str(error.value)


def test_every_byte_of_the_directory_is_covered(written, tmp_path):
    """The archive's own checks are of its entries' contents only."""
    content = written.read_bytes()
    path = tmp_path / "state.pt"
    for place in range(content.index(b"PK\x01\x02"), len(content) - SEAL_SIZE):
        damaged = bytearray(content)
        damaged[place] ^= 255
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="its checksum is another one"):
            read_file(path, "cpu")


@pytest.mark.parametrize("content", [b"", b"SHA-256:", b"x" * 1000])
def test_without_a_checksum(tmp_path, content):
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no checksum at its end"):
        read_file(path, "cpu")


def test_what_was_saved_without_one(tmp_path):
    torch.save(STATE, tmp_path / "state.pt")
    with pytest.raises(UserError, match="not of this version"):
        read_file(tmp_path / "state.pt", "cpu")


def test_other_content_than_a_dictionary(tmp_path):
    write_verified(tmp_path / "list.pt", [1, 2])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not a checkpoint of this program"):
        read_file(tmp_path / "list.pt", "cpu")


def test_what_the_disk_gives_back_differs(tmp_path, monkeypatch):
    monkeypatch.setattr("verified_file.Path.read_bytes", lambda self: b"other")
    with pytest.raises(OSError, match="reads back differently"):
        write_verified(tmp_path / "state.pt", STATE)
    assert not list(tmp_path.iterdir())
