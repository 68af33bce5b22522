"""Rows of a dataset under way: blocks of arrays by name, and how they are written to a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from offline_data.split import GYM_FAMILIES
from tasks import Task
from utils import atomic_write

BLOCK_ROWS = 20_000

Block = dict[str, np.ndarray]  # name of the array in the file -> (k, ...) rows


def block_sizes(rows: int) -> Iterator[int]:
    """Sizes of the blocks that `rows` rows are made in."""
    for start in range(0, rows, BLOCK_ROWS):
        yield min(BLOCK_ROWS, rows - start)


def empty_block(task: Task, rows: int) -> Block:
    """Unset arrays for `rows` rows, as D4RL's file of the task has them; flags are False."""
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
    """Write blocks, which together have `rows` rows, to an HDF5 file of D4RL's form.

    The file gets its name when it is complete; whatever happens before leaves nothing behind.
    """
    with (
        atomic_write(path, "w+b") as raw,
        h5py.File(raw, "w") as file,
        tqdm(desc=path.stem, total=rows, unit="row", unit_scale=True, disable=None) as bar,
    ):
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
