"""Read pickle files of trajectories, as the data scripts of the published runs write them.

Such a file is a list of dictionaries, one per trajectory, with the arrays `observations`,
`next_observations`, `actions`, `rewards` (raw) and `terminals`.

Unpickling calls any function that a file names. Here every name maps to one of a few harmless
stand-ins. Even NumPy's own classes are not used, as `numpy.dtype.__setstate__` trusts its input.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from offline_data.episodes import ARRAYS, TrajectoryRows
from utils import UserError

SUFFIXES = (".pkl", ".pickle")


@contextmanager
def open_pickle(path: Path) -> Iterator[TrajectoryRows]:
    """Open a pickle file of trajectories; nothing in it is executed.

    Raises:
        UserError: missing, damaged, not a list of trajectories, or it contains anything other than
            plain containers, numbers and arrays.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged pickles raise many kinds
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"{path}: not a pickle file, or damaged ({reason})") from None
    if not isinstance(content, list):
        raise UserError(f"{path}: contains {_kind(content)}, not a list of trajectories")
    trajectories = [_arrays(f"{path}: trajectory {i}", item) for i, item in enumerate(content)]
    yield TrajectoryRows(path, trajectories)


def _arrays(where: str, trajectory: Any) -> dict[str, np.ndarray]:
    """The arrays of one trajectory; other entries are ignored."""
    if not isinstance(trajectory, dict):
        raise UserError(f"{where} is {_kind(trajectory)}, not a dictionary of arrays")
    missing = [name for name in ARRAYS if name not in trajectory]
    if missing:
        found = ", ".join(str(key)[:40] for key in list(trajectory)[:8]) or "nothing"
        raise UserError(f"{where}: no {', '.join(missing)} in it (it contains {found})")
    arrays = {}
    for name in ARRAYS:
        values = getattr(trajectory[name], "values", None)
        if not isinstance(values, np.ndarray):
            raise UserError(f"{where}: {name} is {_kind(trajectory[name])}, not a numeric array")
        arrays[name] = values
    return arrays


def _kind(value: Any) -> str:
    if isinstance(value, _Array):
        return "an array of objects" if value.values is None else "an array"
    return f"a {type(value).__name__}"


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise UserError(
                f"refused: it would call {f'{module}.{name}'[:80]!r}; re-save it with plain dicts "
                "and NumPy arrays"
            ) from None


class _DType:
    """Stands in for `numpy.dtype`.

    Attributes:
        dtype: None if it is not numeric.
    """

    dtype: np.dtype | None = None

    def __init__(self, code: str, *_: Any) -> None:
        if re.fullmatch(r"[fiu][1248]|b1", code):
            # a bool other than 0 and 1 would pass for both
            self.dtype = np.dtype("u1" if code == "b1" else code)

    def __setstate__(self, state: Any) -> None:
        if self.dtype is not None:
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for `numpy.ndarray`.

    Attributes:
        values: None if it is not numeric.
    """

    values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self._fill(raw, dtype, shape, "F" if fortran else "C")

    def _fill(self, raw: Any, dtype: _DType, shape: Any, order: Any) -> _Array:
        if dtype.dtype is not None:
            self.values = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)
        return self


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    # how protocol 2 writes bytes
    ("_codecs", "encode"): lambda text, *_: text.encode("latin-1"),
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS |= {
        (f"{_core}.multiarray", "_reconstruct"): lambda *_: _Array(),
        (f"{_core}.multiarray", "scalar"): lambda *_: None,  # no array is made of scalars
        (f"{_core}.numeric", "_frombuffer"): lambda *args: _Array()._fill(*args),
    }
for _module in ("builtins", "__builtin__"):
    _STAND_INS |= {(_module, kind.__name__): kind for kind in (list, dict, int, float)}
