"""Compare two datasets of one task: are they samples of the same behaviour?

    python scripts/compare_datasets.py data/maze2d-umaze-v1.hdf5 other.hdf5 --env maze2d-umaze-v1

Standard errors come from resampling whole episodes (bootstrap), as rows of an episode are not
independent. z is the difference in standard errors: two samples of the same behaviour have a root
mean square z of about 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from offline_data.d4rl_file import open_d4rl
from tasks import Task, get_task
from utils import UserError

RESAMPLES = 400


def statistics(path: Path, task: Task) -> tuple[np.ndarray, np.ndarray, int]:
    """Statistics of a file's complete episodes, their standard errors, and the number of episodes.

    In this order: mean normalised return; mean and standard deviation of the episode length; mean
    of each observation and action entry; standard deviation of each.
    """
    with open_d4rl(path) as file:
        file.check_task(task)
        timeouts = file.flags("timeouts") if "timeouts" in file.arrays else False
        ends = np.flatnonzero(file.flags("terminals") | timeouts)
        rewards = file.column("rewards")
        wide = [np.concatenate([b for _, b in file.blocks(n)]) for n in ("observations", "actions")]
    if len(ends) < 2:
        raise UserError(f"{path}: fewer than two complete episodes")
    lengths = np.diff(ends, prepend=-1)
    starts = ends - lengths + 1
    rows = np.concatenate(wide, axis=1, dtype=np.float64)[: ends[-1] + 1]
    scores = task.normalized_score(np.add.reduceat(rewards[: len(rows)], starts, dtype=np.float64))
    per_episode = np.column_stack([
        np.ones(len(ends)), scores, lengths, lengths.astype(float) ** 2,
        np.add.reduceat(rows, starts), np.add.reduceat(rows**2, starts),
    ])  # fmt: skip

    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(ends), np.full(len(ends), 1 / len(ends)), RESAMPLES)
    values = summarise(per_episode.sum(axis=0)[None], rows.shape[1])[0]
    return values, summarise(draws @ per_episode, rows.shape[1]).std(axis=0), len(ends)


def summarise(sums: np.ndarray, width: int) -> np.ndarray:
    """Statistics from sums over episodes, (resamples, 4 + 2 width)."""
    episodes, score, steps, squared = sums[:, :4].T
    mean = sums[:, 4 : 4 + width] / steps[:, None]
    variance = sums[:, 4 + width :] / steps[:, None] - mean**2
    length = steps / episodes
    spread = np.sqrt(np.maximum(squared / episodes - length**2, 0.0))
    std = np.sqrt(np.maximum(variance, 0.0))
    return np.column_stack([score / episodes, length, spread, mean, std])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("first", type=Path, help="D4RL HDF5 file")
    parser.add_argument("second", type=Path, help="D4RL HDF5 file")
    parser.add_argument("--env", required=True, metavar="TASK", help="task of both files")
    args = parser.parse_args()
    try:
        task = get_task(args.env)
        first, first_error, first_count = statistics(args.first, task)
        second, second_error, second_count = statistics(args.second, task)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    entries = [f"observation {i}" for i in range(task.obs_dim)]
    entries += [f"action {i}" for i in range(task.act_dim)]
    names = ["normalised return", "episode length", "std of episode length"]
    names += [f"{kind} of {entry}" for kind in ("mean", "std") for entry in entries]

    errors = np.hypot(first_error, second_error)
    z = (first - second) / np.where(errors > 0, errors, 1)
    print(f"episodes: {first_count} and {second_count}")
    print("| statistic | first | second | z |\n|---|---|---|---|")
    for row in zip(names, first, first_error, second, second_error, z, strict=True):
        print("| {} | {:.4f} ± {:.4f} | {:.4f} ± {:.4f} | {:+.1f} |".format(*row))
    constant = errors == 0
    print(f"\n{len(z)} statistics, {constant.sum()} of them constant; "
          f"RMS z of the others {np.sqrt(np.mean(z[~constant] ** 2)):.2f}, "
          f"largest {np.abs(z).max():.1f} ({names[int(np.abs(z).argmax())]})")  # fmt: skip


if __name__ == "__main__":
    main()
