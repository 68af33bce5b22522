"""Comparing two datasets: z is small for samples of one behaviour, and large otherwise."""

import re
import subprocess
import sys

import numpy as np
import pytest

from scripts.compare_datasets import statistics
from tasks import get_task
from tests.conftest import ROOT
from tests.data_files import random_arrays, write

TASK = get_task("maze2d-open-v0")


def arrays(seed, shift=0.0):
    """Episodes of about 10 rows that are correlated within an episode."""
    rows = random_arrays(TASK, 4000, seed, 0.05)
    ends = np.flatnonzero(rows["terminals"] | rows["timeouts"])
    episode = np.searchsorted(ends, np.arange(4000))
    level = np.random.default_rng(seed + 1).normal(size=(len(ends) + 1, TASK.obs_dim))
    rows["observations"] += level[episode].astype(np.float32)
    rows["observations"][:, 1] += shift
    return rows


def test_statistics_match_the_rows(tmp_path):
    rows = arrays(0)
    values, errors, episodes = statistics(write(tmp_path / "a.hdf5", rows), TASK)
    ends = np.flatnonzero(rows["terminals"] | rows["timeouts"])
    lengths = np.diff(ends, prepend=-1)
    returns = [
        rows["rewards"][end - length + 1 : end + 1].astype(float).sum()
        for end, length in zip(ends, lengths, strict=True)
    ]
    both = np.concatenate([rows["observations"], rows["actions"]], axis=1)[: ends[-1] + 1]
    scores = TASK.normalized_score(np.array(returns))
    expected = [scores.mean(), lengths.mean(), lengths.std(), *both.mean(0), *both.std(0)]
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    assert episodes == len(ends)
    assert errors[0] == pytest.approx(scores.std() / len(ends) ** 0.5, rel=0.15)


def test_standard_error_matches_the_spread_over_many_samples(tmp_path):
    results = [statistics(write(tmp_path / f"{i}.hdf5", arrays(i * 7)), TASK) for i in range(25)]
    means = np.array([values[3:7] for values, _, _ in results])
    errors = np.array([errors[3:7] for _, errors, _ in results])
    np.testing.assert_allclose(means.std(axis=0).mean(), errors.mean(), rtol=0.3)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.0, 4.0), (1.0, 5.0, 99.0)])
def test_script_detects_a_shift(tmp_path, shift, low, high):
    first = write(tmp_path / "a.hdf5", arrays(0))
    second = write(tmp_path / "b.hdf5", arrays(5, shift))
    output = subprocess.run(
        [sys.executable, ROOT / "scripts" / "compare_datasets.py", first, second,
         "--env", TASK.name],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    largest = float(re.findall(r"largest ([\d.]+)", output)[0])
    assert low <= largest <= high
    assert ("largest" in output and "mean of observation 1)" in output) == bool(shift)
