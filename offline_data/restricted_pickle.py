"""Read pickles of NumPy arrays in plain containers, without running anything that they name.

A pickle is a program, and `pickle.load` runs it. Forbidding it all but a few names is not enough
for files that come from anywhere: the standard library's interpreter still reserves as much memory
as a file claims to need, and hashes whatever nests in a dictionary's key until the stack overflows.
So this module has an interpreter of its own, of the instructions that Python 3 writes for lists,
dictionaries, tuples, numbers, texts and arrays. The few classes that arrays name are not imported
either: stand-ins take their place, which only note type, shape and bytes. Bytes stay in the file,
which is mapped into memory, until an array is read.
"""

from __future__ import annotations

import math
import mmap
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from utils import UserError

# Python 3 wrote protocol 3 by default up to 3.7 and 4 from then on
PROTOCOLS = (3, 4)
# an array takes 20 to 40; at most some 4 GB of empty objects can come of so many
_MOST_INSTRUCTIONS = 30_000_000
_NUMBER_TYPE = re.compile(r"[fiu][1248]|b1")
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_GLOBALS = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("collections", "OrderedDict"): "OrderedDict",
} | {(module, name): name for module in _ARRAY_MODULES for name in ("_reconstruct", "scalar")}


_BYTE, _SHORT, _INT, _UNSIGNED, _LONG, _DOUBLE = map(
    struct.Struct, ("<B", "<H", "<i", "<I", "<Q", ">d")
)


class Refused(Exception):
    """Why a pickle is not read."""


class Global:
    """A class or function that a pickle names; it is never imported."""

    def __init__(self, name: str) -> None:
        self.name = name


class NumberType:
    """What stands for a `numpy.dtype` of numbers or bools."""

    def __init__(self, code: str) -> None:
        if _NUMBER_TYPE.fullmatch(code) is None:
            raise Refused(f"an array of type {code[:20]!r}; only arrays of numbers are read")
        # a bool of NumPy's that is neither 0 nor 1 would pass for both
        self.dtype = np.dtype("u1" if code == "b1" else code)

    def build(self, state: Any) -> None:
        """Take the byte order from `numpy.dtype.__setstate__`'s argument."""
        if not (isinstance(state, tuple) and len(state) == 8 and state[1] in ("<", ">", "|", "=")):
            raise Refused("a malformed array type")
        if state[2:5] != (None, None, None):
            raise Refused("an array of structures; only arrays of numbers are read")
        self.dtype = self.dtype.newbyteorder(state[1])


class Array:
    """What stands for a `numpy.ndarray`.

    Attributes:
        value: The array, a read-only view of the file; None until its content has come.
    """

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        """Take type, shape and bytes from `numpy.ndarray.__setstate__`'s argument."""
        if not (isinstance(state, tuple) and len(state) == 5):
            raise Refused("a malformed array")
        _, shape, kind, fortran, raw = state
        sizes = isinstance(shape, tuple) and len(shape) <= 32
        if not (sizes and all(type(n) is int and n >= 0 for n in shape)):
            raise Refused("an array of malformed shape")
        if not (isinstance(kind, NumberType) and isinstance(raw, memoryview)):
            raise Refused("an array of objects; only arrays of numbers are read")
        if math.prod(shape) * kind.dtype.itemsize != len(raw):
            raise Refused(f"an array of {len(raw)} bytes, which is not what its shape needs")
        order: Literal["C", "F"] = "F" if fortran is True else "C"
        self.value = np.frombuffer(raw, kind.dtype).reshape(shape, order=order)


def load(path: Path) -> Any:
    """Read a pickle of protocol 3 or 4.

    Returns:
        What was pickled: lists, tuples, dictionaries with texts as keys, numbers, texts,
        `memoryview` for bytes and `Array` for arrays. Cycles and shared objects are kept.

    Raises:
        UserError: no such file, damaged, or something in it that is none of these.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            # an empty file cannot be mapped
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.peek(1) else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return Interpreter(memoryview(content)).run()
    except Refused as reason:
        raise UserError(f"{path}: not read, for it holds {reason}") from None


class Interpreter:
    """The stack machine of a pickle.

    Args:
        content: The whole file.
    """

    def __init__(self, content: memoryview) -> None:
        self._content, self._position = content, 0
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute to the end; returns what is left on the stack.

        Raises:
            Refused: at the first thing that is not admitted.
        """
        start = bytes(self._content[:2])
        if len(start) < 2 or start[:1] != pickle.PROTO:
            raise Refused("no pickle of Python 3")
        if start[1] not in PROTOCOLS:
            raise Refused(f"a pickle of protocol {start[1]}; write it again with protocol=4")
        self._position = 2
        try:
            for _ in range(_MOST_INSTRUCTIONS):
                code = self._content[self._position]
                self._position += 1
                if code == pickle.STOP[0]:
                    return self._result()
                action = _INSTRUCTIONS.get(code)
                if action is None:
                    raise Refused(f"the pickle instruction {_name(code)}, which no array needs")
                action(self)
        except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error):
            # the end of the file, an empty stack, an unknown memo, a broken text, an odd shape
            raise Refused(f"a damaged pickle (at byte {self._position})") from None
        raise Refused(f"more than {_MOST_INSTRUCTIONS:,} pickle instructions")

    def _result(self) -> Any:
        if self._marked or len(self._stack) != 1:
            raise Refused("a damaged pickle (unfinished objects at its end)")
        return self._stack[0]

    def take(self, count: int) -> memoryview:
        """The next bytes of the file."""
        end = self._position + count
        if end > len(self._content):
            raise Refused("a truncated pickle")
        taken = self._content[self._position : end]
        self._position = end
        return taken

    def number(self, form: struct.Struct) -> Any:
        """The next number of the file."""
        (value,) = form.unpack_from(self._content, self._position)
        self._position += form.size
        return value

    def line(self) -> str:
        """The next line of the file; names are short."""
        piece = bytes(self._content[self._position : self._position + 256])
        text, newline, _ = piece.partition(b"\n")
        if not newline:
            raise Refused("a damaged pickle (a name without end)")
        self._position += len(text) + 1
        return text.decode()

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def popped_mark(self) -> list[Any]:
        """What lies above the last mark."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def append(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise TypeError
        self._stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target, keys = self._stack[-1], items[::2]
        if type(target) is not dict or len(items) % 2:
            raise TypeError
        if not all(type(key) is str for key in keys):
            raise Refused("a dictionary whose keys are no texts")
        target.update(zip(keys, items[1::2], strict=True))

    def memoize(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def get(self, place: int) -> None:
        self.push(self._memo[place])

    def find_class(self, module: str, name: str) -> None:
        """Push the stand-in for one of the few admitted names."""
        if (module, name) not in _GLOBALS:
            shown = f"{module}.{name}"[:80]
            raise Refused(f"the name {shown!r}, which no array of numbers needs; nothing was run")
        self.push(Global(_GLOBALS[module, name]))

    def find_class_on_stack(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (type(name) is str and type(module) is str):
            raise TypeError
        self.find_class(module, name)

    def reduce(self) -> None:
        """Call one of the admitted names, that is, make its stand-in."""
        arguments, function = self._stack.pop(), self._stack.pop()
        if not (isinstance(function, Global) and type(arguments) is tuple):
            raise Refused("a call of something that is no function")
        self.push(_CALLS[function.name](*arguments))

    def build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if not isinstance(target, Array | NumberType):
            raise Refused("a state for something that is no array")
        target.build(state)


def _name(code: int) -> str:
    names = {ord(known.code): known.name for known in pickletools.opcodes}
    return names.get(code, f"0x{code:02x}")


def _new_array(kind: Any, shape: Any, code: Any) -> Array:
    """`numpy.core.multiarray._reconstruct`; pickles say (0,) and get the true shape later."""
    if not (isinstance(kind, Global) and kind.name == "ndarray" and shape == (0,)):
        raise Refused("a malformed array")
    return Array()


def _new_type(code: Any, align: Any = False, copy: Any = False) -> NumberType:
    """`numpy.dtype`."""
    if type(code) is not str:
        raise Refused("a malformed array type")
    return NumberType(code)


def _new_scalar(kind: Any, raw: Any) -> int | float | bool:
    """`numpy.core.multiarray.scalar`."""
    if not (isinstance(kind, NumberType) and isinstance(raw, memoryview)):
        raise Refused("a malformed number")
    if len(raw) != kind.dtype.itemsize:
        raise Refused("a malformed number")
    return np.frombuffer(raw, kind.dtype)[0].item()


def _no_call(*_: Any) -> Any:
    raise Refused("an array that is not made as pickles of arrays make it")


_CALLS: dict[str, Callable[..., Any]] = {
    "_reconstruct": _new_array,
    "dtype": _new_type,
    "scalar": _new_scalar,
    "OrderedDict": lambda: {},
    "ndarray": _no_call,
}


def _text(machine: Interpreter, form: struct.Struct) -> None:
    machine.push(str(machine.take(machine.number(form)), "utf-8"))


def _bytes(machine: Interpreter, form: struct.Struct) -> None:
    machine.push(machine.take(machine.number(form)))


def _long(machine: Interpreter) -> None:
    machine.push(int.from_bytes(machine.take(machine.number(_BYTE)), "little", signed=True))


_INSTRUCTIONS: dict[int, Callable[[Interpreter], Any]] = {
    code[0]: action
    for code, action in {
        pickle.FRAME: lambda m: m.take(8),
        pickle.MARK: lambda m: m.mark(),
        pickle.NONE: lambda m: m.push(None),
        pickle.NEWTRUE: lambda m: m.push(True),
        pickle.NEWFALSE: lambda m: m.push(False),
        pickle.BININT: lambda m: m.push(m.number(_INT)),
        pickle.BININT1: lambda m: m.push(m.number(_BYTE)),
        pickle.BININT2: lambda m: m.push(m.number(_SHORT)),
        pickle.LONG1: _long,
        pickle.BINFLOAT: lambda m: m.push(m.number(_DOUBLE)),
        pickle.SHORT_BINUNICODE: lambda m: _text(m, _BYTE),
        pickle.BINUNICODE: lambda m: _text(m, _UNSIGNED),
        pickle.BINUNICODE8: lambda m: _text(m, _LONG),
        pickle.SHORT_BINBYTES: lambda m: _bytes(m, _BYTE),
        pickle.BINBYTES: lambda m: _bytes(m, _UNSIGNED),
        pickle.BINBYTES8: lambda m: _bytes(m, _LONG),
        pickle.EMPTY_LIST: lambda m: m.push([]),
        pickle.EMPTY_DICT: lambda m: m.push({}),
        pickle.EMPTY_TUPLE: lambda m: m.push(()),
        pickle.TUPLE: lambda m: m.push(tuple(m.popped_mark())),
        pickle.TUPLE1: lambda m: m.tuple_of(1),
        pickle.TUPLE2: lambda m: m.tuple_of(2),
        pickle.TUPLE3: lambda m: m.tuple_of(3),
        pickle.APPEND: lambda m: m.append([m._stack.pop()]),
        pickle.APPENDS: lambda m: m.append(m.popped_mark()),
        pickle.SETITEM: lambda m: m.set_items([m._stack.pop(-2), m._stack.pop()]),
        pickle.SETITEMS: lambda m: m.set_items(m.popped_mark()),
        pickle.MEMOIZE: lambda m: m.memoize(len(m._memo)),
        pickle.BINPUT: lambda m: m.memoize(m.number(_BYTE)),
        pickle.LONG_BINPUT: lambda m: m.memoize(m.number(_UNSIGNED)),
        pickle.BINGET: lambda m: m.get(m.number(_BYTE)),
        pickle.LONG_BINGET: lambda m: m.get(m.number(_UNSIGNED)),
        pickle.GLOBAL: lambda m: m.find_class(m.line(), m.line()),
        pickle.STACK_GLOBAL: lambda m: m.find_class_on_stack(),
        pickle.REDUCE: lambda m: m.reduce(),
        pickle.BUILD: lambda m: m.build(),
    }.items()
}
