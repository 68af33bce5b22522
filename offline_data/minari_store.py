"""Open Minari datasets (Farama Foundation) of the local store.

Minari is optional. Its episodes of T steps have T + 1 observations, so every step has its own next
observation.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from offline_data.episodes import TrajectoryRows
from utils import UserError

PREFIX = "minari:"
# the release in requirements-optional.txt
VERSION = "0.5.4"


class MinariRows(TrajectoryRows):
    """The episodes of a Minari dataset."""

    def __init__(self, path: Path, dataset: Any) -> None:
        self._dataset = dataset
        super().__init__(path, [_arrays(path, episode) for episode in dataset.iterate_episodes()])

    def origin(self) -> dict[str, str]:
        """The ids of the dataset and, if known, of its environment."""
        spec = self._dataset.env_spec
        return {"dataset": self._dataset.id} | ({"environment": spec.id} if spec else {})

    def files(self) -> list[Path]:
        """All files but the JSON descriptions."""
        files = sorted(Path(self._dataset.storage.data_path).rglob("*"))
        return [file for file in files if file.is_file() and file.suffix != ".json"]

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"file": str(self.path)}


@contextmanager
def open_minari(path: Path) -> Iterator[MinariRows]:
    """Open a dataset of the local Minari store.

    Args:
        path: "minari:" and the dataset's id.

    Raises:
        UserError: Minari is not installed, there is no such dataset (the message lists similar
            ids), it cannot be read, or its spaces are not flat arrays.
    """
    try:
        import minari
    except ImportError as error:
        raise UserError(
            f"--dataset {PREFIX}ID needs Minari ({error}): pip install minari=={VERSION}"
        ) from None
    name = str(path).removeprefix(PREFIX)
    try:
        with warnings.catch_warnings():
            # about packages that only the dataset's environment needs
            warnings.simplefilter("ignore")
            dataset = minari.load_dataset(name)
            _check_spaces(path, dataset)
            rows = MinariRows(path, dataset)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: {_not_found(minari, name)}") from None
    except Exception as error:  # damaged datasets raise many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: Minari cannot read it ({reason})") from None
    yield rows


def _not_found(minari: ModuleType, name: str) -> str:
    try:
        local = list(minari.list_local_datasets())
    except Exception:  # a folder in the store that is not a dataset
        local = []
    close = difflib.get_close_matches(name, local, n=3, cutoff=0.4) or local[:3]
    found = f"closest: {', '.join(close)}" if close else "the store is empty"
    return f"no such dataset in the local store ({found}); get it with: minari download {name}"


def _check_spaces(path: Path, dataset: Any) -> None:
    """Check that observations and actions are flat arrays."""
    spaces = {"observations": dataset.observation_space, "actions": dataset.action_space}
    for name, space in spaces.items():
        parts = getattr(space, "spaces", None)
        if isinstance(parts, dict):
            raise UserError(
                f"{path}: its {name} are dictionaries ({', '.join(parts)}), as in "
                "gymnasium-robotics' mazes, whose coordinates and physics differ from D4RL's; use "
                "the task's D4RL file"
            )
        if type(space).__name__ != "Box" or len(space.shape) != 1:
            raise UserError(f"{path}: its {name} are {space}, not flat arrays of numbers")


def _arrays(path: Path, episode: Any) -> dict[str, np.ndarray]:
    """An episode as a trajectory."""
    observations, steps = np.asarray(episode.observations), len(episode.rewards)
    if len(observations) != steps + 1:
        raise UserError(
            f"{path}: episode {episode.id} has {len(observations)} observations for {steps} steps, "
            f"but needs {steps + 1}"
        )
    return {
        "observations": observations[:-1],
        "next_observations": observations[1:],
        "actions": np.asarray(episode.actions),
        "rewards": np.asarray(episode.rewards),
        "terminals": np.asarray(episode.terminations),
    }
