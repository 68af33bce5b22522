"""Datasets and environments against recordings of d4rl 1.1 with gym 0.23 and mujoco-py."""

import hashlib
import json

import numpy as np
import pytest

import d4rl_envs
from d4rl_envs import datasets
from tests.conftest import SHARED, shared_file

RECORDING = "golden/d4rl_api/seed7.npz"
TASKS = [
    *(f"{family}-medium-v2" for family in ("hopper", "halfcheetah", "walker2d", "ant")),
    "maze2d-umaze-v1",
    "antmaze-umaze-v2",
    *(f"{family}-human-v1" for family in ("pen", "hammer", "door", "relocate")),
]
# D4RL draws antmaze's starts and goals from NumPy's global generator
SEEDED = [task for task in TASKS if not task.startswith("antmaze")]
FILES = sorted(path.stem for path in (SHARED / "data").glob("*.hdf5"))


@pytest.fixture(scope="module")
def recording():
    with np.load(shared_file(RECORDING)) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def facts(recording):
    return json.loads(str(recording["facts"]))


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_episodes_equal_d4rls(recording, name):
    env = d4rl_envs.make(d4rl_envs.get_task(name))
    starts = [env.reset(seed=7)[0], env.reset()[0], env.reset()[0]]
    np.testing.assert_allclose(starts, recording[f"{name}/resets"], rtol=0, atol=1e-9)
    first = env.reset(seed=7)[0]
    np.testing.assert_allclose(first, recording[f"{name}/first"], rtol=0, atol=1e-9)
    steps = [env.step(action) for action in recording[f"{name}/actions"]]
    for key, values in zip(
        ("observations", "rewards", "dones"), zip(*steps, strict=True), strict=False
    ):
        np.testing.assert_allclose(np.array(values), recording[f"{name}/{key}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", TASKS)
def test_facts_equal_d4rls(facts, name):
    fact, task = facts[name], d4rl_envs.get_task(name)
    assert (task.horizon, task.url) == (fact["horizon"], fact["dataset_url"])
    assert (task.ref_min_score, task.ref_max_score) == (fact["ref_min"], fact["ref_max"])
    assert task.normalized_score(1.0) / 100 == pytest.approx(fact["score_of_1"], abs=1e-12)


@pytest.mark.parametrize("name", TASKS)
def test_old_interface_equals_d4rls(recording, facts, name):
    pytest.importorskip("gym")
    from d4rl_envs.gym_env import OfflineEnv

    env = OfflineEnv(name)
    env.seed(7)
    first = env.reset()
    if name in SEEDED:
        np.testing.assert_allclose(first, recording[f"{name}/first"], rtol=0, atol=1e-9)
    assert sorted(env.step(recording[f"{name}/actions"][0])[-1]) == facts[name]["infos"]
    assert env.get_normalized_score(1.0) == pytest.approx(facts[name]["score_of_1"], abs=1e-12)


@pytest.mark.parametrize("name", FILES)
def test_datasets_equal_d4rls(facts, name):
    fact = facts[f"dataset/{name}"]
    arrays = datasets.load(name, shared_file(f"data/{name}.hdf5"))
    assert {key: list(array.shape) for key, array in arrays.items()} == fact["get_dataset"]
    for terminate_on_end in (False, True):
        transitions = datasets.qlearning(arrays, terminate_on_end=terminate_on_end)
        assert list(transitions) == list(fact[f"qlearning_terminate_{terminate_on_end:d}"])
        for key, recorded in fact[f"qlearning_terminate_{terminate_on_end:d}"].items():
            shape, dtype, digest, total = recorded
            array = transitions[key]
            assert (list(array.shape), str(array.dtype)) == (shape, dtype)
            assert hashlib.sha256(array.tobytes()).hexdigest()[:16] == digest
            assert array.sum(dtype=np.float64) == pytest.approx(total, abs=1e-6)
    count, lengths, total = fact["sequences"]
    episodes = list(datasets.sequences(arrays))
    assert len(episodes) == count
    assert [len(episode["rewards"]) for episode in episodes[: len(lengths)]] == lengths
    assert sum(float(episode["rewards"].sum()) for episode in episodes) == pytest.approx(total)
