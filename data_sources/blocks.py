"""Blocks of dataset rows while they are generated, and writing them to a file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from offline_data.split import GYM_FAMILIES
from tasks import Task
from utils import UserError, atomic_write

BLOCK_ROWS = 20_000

Block = dict[str, np.ndarray]  # (k, ...) rows by the name of their array in the file


def block_sizes(rows: int) -> Iterator[int]:
    """Sizes of the blocks that make up `rows` rows."""
    for start in range(0, rows, BLOCK_ROWS):
        yield min(BLOCK_ROWS, rows - start)


def empty_block(task: Task, rows: int) -> Block:
    """Unset arrays with the form of the task's D4RL file; flags are False."""
    block = {
        "observations": np.empty((rows, task.obs_dim), np.float32),
        "actions": np.empty((rows, task.act_dim), np.float32),
        "rewards": np.empty(rows, np.float32),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.zeros(rows, bool),
    }
    if task.family in GYM_FAMILIES:
        block["next_observations"] = np.empty((rows, task.obs_dim), np.float32)
    return block


def write_dataset(
    path: Path, blocks: Iterable[Block], rows: int, attributes: dict[str, Any]
) -> None:
    """Write blocks of `rows` rows in total to a D4RL HDF5 file, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    content = io.BytesIO()  # on a full disk HDF5 itself would crash
    try:
        with (
            atomic_write(path) as raw,
            tqdm(desc=path.stem, total=rows, unit="row", unit_scale=True, disable=None) as bar,
        ):
            with h5py.File(content, "w") as file:
                file.attrs.update(attributes)
                start = 0
                for block in blocks:
                    count = len(block["rewards"])
                    for name, values in block.items():
                        if name not in file:
                            shape = (rows, *values.shape[1:])
                            file.create_dataset(name, shape, values.dtype, compression="gzip")
                        file[name][start : start + count] = values
                    start += count
                    bar.update(count)
            raw.write(content.getbuffer())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
