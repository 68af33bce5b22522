"""Saving and loading the state of a run, atomically and without executing anything."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils import UserError, atomic_write

CHECKPOINT_FILE = "checkpoint.pt"


def save_checkpoint(run_dir: Path, state: dict[str, Any]) -> None:
    """Write the state to the run's folder; until that is done the previous one stays.

    Raises:
        OSError: the folder cannot be written.
    """
    with atomic_write(run_dir / CHECKPOINT_FILE) as file:
        torch.save(state, file)


def load_checkpoint(run_dir: Path, device: torch.device) -> dict[str, Any]:
    """Read the state of a run: tensors and plain values only.

    Raises:
        UserError: there is none, or it is damaged or of another kind.
    """
    path = run_dir / CHECKPOINT_FILE
    if not path.exists():
        raise UserError(f"{run_dir}: there is no {CHECKPOINT_FILE} to resume from")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint of this program")
    return state


def rng_state() -> dict[str, Any]:
    """The states of the global generators of Python, NumPy and PyTorch."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - the global generator is meant
    kind, keys, *rest = numpy_state
    return {
        "python": json.dumps([version, words, gauss]),
        "numpy": json.dumps([kind, keys.tolist(), *rest]),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore `rng_state()`."""
    version, words, gauss = json.loads(state["python"])
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = json.loads(state["numpy"])
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])
