"""Pickles of arrays are read as written; whatever else a pickle holds is refused, and never run."""

import collections
import io
import os
import pickle
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_data.pickle_file import open_pickle
from offline_data.restricted_pickle import Array, load
from utils import UserError

TYPES = ["<f4", ">f8", "<f2", "|b1", "|i1", "<i8", ">u2", "<u4"]


def plain(value):
    """What `load` returns, with arrays in their stand-ins' place."""
    if isinstance(value, Array):
        return value.value
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return bytes(value) if isinstance(value, memoryview) else value


def read(path, content):
    path.write_bytes(content)
    return plain(load(path))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.pkl"


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays(path, protocol, kind, order):
    values = np.random.default_rng(0).uniform(0, 99, (5, 4)).astype(kind)
    array = np.array(values, order=order)
    [got] = read(path, pickle.dumps([array], protocol))
    np.testing.assert_array_equal(got, array)
    assert got.dtype.itemsize == array.dtype.itemsize
    assert not got.flags.writeable


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_before_and_after_2(path, module):
    content = pickle.dumps([np.arange(3.0)], 3)
    _, found, rest = content.partition(np.arange(1).__reduce__()[0].__module__.encode())
    assert found
    np.testing.assert_array_equal(read(path, _ + module.encode() + rest)[0], np.arange(3.0))


@pytest.mark.parametrize("protocol", [3, 4])
def test_plain_values(path, protocol):
    shared = [1, -1, 2**40, -(2**900), 300, 70000]
    value = {
        "numbers": shared,
        "again": shared,
        "others": (None, True, False, 1.5, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "text": "é" * 300,
        "bytes": b"\x00" * 300,
        "empty": [{}, [], ""],
        "long": list(range(2500)),
    }
    got = read(path, pickle.dumps(value, protocol))
    assert got == value
    assert got["numbers"] == got["again"]
    ordered = collections.OrderedDict(a=1, b=2)
    assert read(path, pickle.dumps(ordered, protocol)) == ordered
    scalars = [np.float64(1.5), np.int32(-7), np.float32(0.1)]
    assert read(path, pickle.dumps(scalars, protocol)) == [1.5, -7, pytest.approx(0.1)]


class Runs:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def call_on_disk(folder):
    """Calls that would leave a file behind."""
    target = str(folder / "harm")
    return {
        "os.system": Runs(os.system, f"touch {target}"),
        "eval": Runs(eval, f"open({target!r}, 'w')"),
        "exec": Runs(exec, f"open({target!r}, 'w')"),
        "open": Runs(open, target, "w"),
        "memmap": Runs(np.memmap, target, "f8", "w+", 0, (4,)),
        "save": Runs(np.save, target, 1),
        "load": Runs(np.load, target),
        "fromfile": Runs(np.fromfile, target),
        "import": Runs(__import__, "antigravity"),
        "getattr": Runs(getattr, "a", "upper"),
    }


@pytest.mark.parametrize("name", call_on_disk(Path("x")))
@pytest.mark.parametrize("protocol", [3, 4])
def test_nothing_is_called(path, tmp_path, name, protocol):
    content = pickle.dumps([call_on_disk(tmp_path)[name]], protocol)
    path.write_bytes(content)
    before = set(sys.modules)
    with pytest.raises(UserError, match=r"the name '.*', which no array of numbers needs"):
        load(path)
    assert not list(tmp_path.glob("harm*"))
    assert "antigravity" not in set(sys.modules) - before
    if name == "open":  # the same bytes do harm in the standard library's hands
        pickle.loads(content)[0].close()
        assert (tmp_path / "harm").exists()


P4 = b"\x80\x04"
DTYPE = b"cnumpy\ndtype\n"
NDARRAY = b"cnumpy\nndarray\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"


def text(value: str) -> bytes:
    return b"\x8c" + struct.pack("<B", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def kind(code: str) -> bytes:
    return DTYPE + text(code) + b"\x89\x88\x87R"


def array(shape: bytes, dtype: bytes, raw: bytes) -> bytes:
    """An array's instructions with anything in the place of its state."""
    start = RECONSTRUCT + NDARRAY + b"K\x00\x85" + b"C\x01b" + b"\x87R"
    return start + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"


HOSTILE = {
    "no state for an array": RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R" + b"Nb.",
    "reserve by _reconstruct": RECONSTRUCT + NDARRAY + number(2**60) + b"\x85C\x01b\x87R.",
    "reserve by ndarray": NDARRAY + number(2**60) + b"\x85\x85R.",
    "reserve by shape": array(number(2**60) + b"\x85", kind("f8"), b"C\x00") + b".",
    "nothing times much": array(b"K\x00" + number(2**62) + b"\x86", kind("f8"), b"C\x00") + b".",
    "negative shape": array(number(-4) + b"\x85", kind("f8"), b"C\x00") + b".",
    "shape of texts": array(text("a") + b"\x85", kind("f8"), b"C\x00") + b".",
    "objects": array(b"K\x01\x85", kind("O8"), b"]Na") + b".",
    "numbers as objects": array(b"K\x01\x85", kind("f8"), b"]Na") + b".",
    "structures": DTYPE + text("f8,O") + b"\x89\x88\x87R.",
    "sub-arrays": DTYPE + text("(1000000000,)f8") + b"\x89\x88\x87R.",
    "type that is none": DTYPE + text("f1") + b"\x89\x88\x87R.",
    "type of a type": DTYPE + kind("f8") + b"\x89\x88\x87R.",
    "names in a type": kind("f8") + b"(K\x03" + text("<") + b"N(t}" + b"K\xffK\xffK\x00tb.",
    "memo far away": b"Nr\xff\xff\xff\xff.N.",
    "unknown memo": b"j\xff\xff\xff\xff.",
    "text of terabytes": b"\x8d" + struct.pack("<Q", 2**42) + b"a.",
    "bytes of terabytes": b"\x8e" + struct.pack("<Q", 2**63) + b"a.",
    "bytearray of terabytes": b"\x96" + struct.pack("<Q", 2**42) + b"a.",
    "frame of terabytes": b"\x95" + struct.pack("<Q", 2**62) + b"N",
    "long of gigabytes": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
    "persistent id": b"Pfile\n.",
    "binary persistent id": text("file") + b"Q.",
    "extension": b"\x82\x01.",
    "new object": DTYPE + text("f8") + b"\x85\x81.",
    "new object with keywords": DTYPE + b")}\x92.",
    "old instance": b"(S'touch harm'\nios\nsystem\n.",
    "old object": b"(cos\nsystem\no.",
    "sets": b"\x8f(K\x01\x90.",
    "next buffer": b"\x97.",
    "nested key": b"}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "nested list as key": b"}]Ns.",
    "nested marks": b"(" * 200_000 + b".",
    "marks without end": b"(" * 200_000,
    "nested lists, unfinished": b"]" * 200_000,
    "pop from nothing": b"0.",
    "append to nothing": b"a.",
    "append to a number": b"K\x01K\x01a.",
    "items of nothing": b"(u.",
    "odd items": b"}(K\x01u.",
    "items for an array": RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R" + text("a") + b"Ns.",
    "call of a number": b"K\x01)R.",
    "call without arguments": DTYPE + b"NR.",
    "call with too few": DTYPE + b")R.",
    "call with too many": b"ccollections\nOrderedDict\n(K\x01K\x02K\x03tR.",
    "state for a list": b"]Nb.",
    "scalar of 3 bytes": b"cnumpy.core.multiarray\nscalar\n" + kind("f8") + b"C\x03abc\x86R.",
    "name without end": b"c" + b"a" * 200_000,
    "name of a submodule": b"cnumpy.core\nmultiarray._reconstruct\n.",
    "dotted name": text("numpy") + text("ndarray.tofile") + b"\x93.",
    "name of no text": b"NN\x93.",
    "broken text": b"\x8c\x02\xff\xfe.",
    "broken name": b"c\xff\n\xff\n.",
    "nothing": b".",
    "too much": b"NN.",
    "no end": b"N",
    "an instruction that does not exist": b"\xff.",
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile(path, content):
    path.write_bytes(P4 + content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as error, open_pickle(path):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 200
    assert peak < 200 * 2**20  # nested lists take 56 bytes each


def test_deep_nesting_that_is_complete(path):
    """Deeper than any stack, and destroyed again without a crash."""
    for instructions in (b"]" + b"]" * 300_000 + b"a" * 300_000, b")" + b"\x85" * 300_000):
        path.write_bytes(P4 + instructions + b".")
        with pytest.raises(UserError, match=r"trajectory 0 is|not of a list"), open_pickle(path):
            pass


def test_references_do_not_multiply(path):
    """A small file whose full expansion would not fit into any memory."""
    levels = b"]q\x00" + b"".join(
        b"](" + b"h%c" % level * 10 + b"eq%c" % (level + 1) for level in range(100)
    )
    path.write_bytes(P4 + b"(" + levels + b"l.")
    with pytest.raises(UserError), open_pickle(path):
        pass


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"<html>404</html>", b"\x89HDF\r\n\x1a\n", b"(lp0\n."]
)
def test_no_pickle(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match="no pickle of Python 3"):
        load(path)


@pytest.mark.parametrize("protocol", [2, 5])
def test_other_protocols_say_what_to_do(path, protocol):
    path.write_bytes(pickle.dumps([np.arange(3.0)], protocol))
    with pytest.raises(UserError, match="protocol=4"):
        load(path)


def test_absent_and_folder(tmp_path):
    for path in (tmp_path / "b.pkl", tmp_path):
        with pytest.raises(UserError, match="no such file"):
            load(path)


def test_too_many_instructions(path, monkeypatch):
    monkeypatch.setattr("restricted_pickle._MOST_INSTRUCTIONS", 50)
    assert read(path, pickle.dumps([1], 4)) == [1]
    path.write_bytes(P4 + b"}" * 60)
    with pytest.raises(UserError, match="more than 50 pickle instructions"):
        load(path)


def whole_pickle(protocol):
    file = io.BytesIO()
    trajectory = {
        "observations": np.ones((3, 4), np.float32),
        "next_observations": np.ones((3, 4), np.float32),
        "actions": np.zeros((3, 2)),
        "rewards": np.arange(3.0),
        "terminals": np.zeros(3, bool),
    }
    pickle.dump([trajectory, dict(trajectory)], file, protocol)
    return file.getvalue()


WHOLE = {protocol: whole_pickle(protocol) for protocol in (3, 4)}
EDITS = st.lists(
    st.tuples(st.integers(0, 10**4), st.binary(max_size=4), st.integers(0, 4)), max_size=6
)


@settings(max_examples=500, deadline=None)
@given(protocol=st.sampled_from([3, 4]), edits=EDITS, end=st.one_of(st.none(), st.integers(0, 900)))
def test_mutated_bytes_end_in_a_user_error_or_in_trajectories(
    tmp_path_factory, protocol, edits, end
):
    content = WHOLE[protocol]
    for place, new, removed in edits:
        place %= len(content)
        content = content[:place] + new + content[place + removed :]
    path = tmp_path_factory.getbasetemp() / "mutated.pkl"
    path.write_bytes(content[:end])
    try:
        with open_pickle(path) as rows:
            assert rows.arrays["observations"][...].dtype.kind in "fiu"
    except UserError as error:
        assert "\n" not in str(error)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=60))
def test_random_instructions(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random.pkl"
    path.write_bytes(P4 + content)
    with pytest.raises(UserError) as error, open_pickle(path):
        pass
    assert "\n" not in str(error.value)
