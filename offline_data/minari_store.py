"""Minari datasets (Farama Foundation), by id, from the local Minari store.

Minari is optional. An episode of T steps there has T + 1 observations, so that every step has its
own next observation, and says by itself where it ends.
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

from offline_data.episodes import EpisodeRows
from utils import UserError

PREFIX = "minari:"
# the release of requirements-optional.txt
VERSION = "0.5.4"


class MinariRows(EpisodeRows):
    """The episodes of a Minari dataset."""

    def __init__(self, path: Path, dataset: Any) -> None:
        self._dataset = dataset
        super().__init__(path, [_arrays(path, episode) for episode in dataset.iterate_episodes()])

    def origin(self) -> dict[str, str]:
        """The dataset's id and that of the environment it was collected in, where it is known."""
        spec = self._dataset.env_spec
        return {"dataset": self._dataset.id} | ({"environment": spec.id} if spec else {})

    def files(self) -> list[Path]:
        """All but the descriptions."""
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
        UserError: no Minari, no such dataset (the message has near names), one that cannot be
            read, or whose observations are no flat arrays.
    """
    minari = _minari()
    name = str(path).removeprefix(PREFIX)
    try:
        with warnings.catch_warnings():
            # of packages that only its environment would need
            warnings.simplefilter("ignore")
            dataset = minari.load_dataset(name)
            _check_spaces(path, dataset)
            rows = MinariRows(path, dataset)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: {_absent(minari, name)}") from None
    except Exception as error:  # Minari's readers raise whatever a faulty file leads to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: Minari cannot read it ({reason})") from None
    yield rows


def _minari() -> ModuleType:
    try:
        import minari
    except ImportError as error:
        raise UserError(
            f"--dataset {PREFIX}ID needs Minari ({error}): pip install minari=={VERSION}"
        ) from None
    return minari


def _absent(minari: ModuleType, name: str) -> str:
    """What to do about a dataset that is not in the local store."""
    try:
        local = list(minari.list_local_datasets())
    except Exception:  # a foreign folder in the store
        local = []
    near = difflib.get_close_matches(name, local, n=3, cutoff=0.4) or local[:3]
    there = f"the nearest names are {', '.join(near)}" if near else "there are none at all"
    return f"no such dataset in the local store ({there}); get it with: minari download {name}"


def _check_spaces(path: Path, dataset: Any) -> None:
    """Refuse observations or actions that are no flat arrays."""
    spaces = {"observations": dataset.observation_space, "actions": dataset.action_space}
    for name, space in spaces.items():
        parts = getattr(space, "spaces", None)
        if isinstance(parts, dict):
            raise UserError(
                f"{path}: its {name} are dictionaries ({', '.join(parts)}), as of "
                "gymnasium-robotics' mazes, whose coordinates and physics are not D4RL's; use the "
                "D4RL file of the task"
            )
        if type(space).__name__ != "Box" or len(space.shape) != 1:
            raise UserError(f"{path}: its {name} are {space}, not flat arrays of numbers")


def _arrays(path: Path, episode: Any) -> dict[str, np.ndarray]:
    """The arrays of one episode as those of a trajectory."""
    observations = np.asarray(episode.observations)
    if len(observations) != len(episode.rewards) + 1:
        raise UserError(
            f"{path}: episode {episode.id} has {len(observations)} observations for "
            f"{len(episode.rewards)} steps, where one more than steps is needed"
        )
    return {
        "observations": observations[:-1],
        "next_observations": observations[1:],
        "actions": np.asarray(episode.actions),
        "rewards": np.asarray(episode.rewards),
        "terminals": np.asarray(episode.terminations),
    }
