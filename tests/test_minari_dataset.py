"""Minari datasets, made with Minari in a temporary store: same dataset and checks as for HDF5."""

import sys

import numpy as np
import pytest
from gymnasium import spaces

from data import dataset_path, load_dataset
from offline_data.minari_store import VERSION
from tasks import get_task
from tests.conftest import ROOT
from tests.data_files import dataset_fault, random_arrays, split_by_loop, write
from utils import UserError

HOPPER = get_task("hopper-medium-v2")
NAMES = ["hopper-medium-v2", "maze2d-open-v0", "antmaze-umaze-v2", "door-human-v1"]


@pytest.fixture
def minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return pytest.importorskip("minari")


def box(width, size=np.inf):
    return spaces.Box(-size, size, (width,), np.float64)


def store(minari, name, task, parts, **options):
    """Create a dataset of these trajectories in the local store."""
    buffers = []
    for number, part in enumerate(parts):
        terminals = part["terminals"]
        cut = np.zeros(len(terminals), bool)
        cut[-1] = not terminals[-1]
        observations = np.concatenate([part["observations"], part["final_observation"][None]])
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=number,
                observations=options.get("observe", np.asarray)(observations.astype(float)),
                actions=part["actions"].astype(float),
                rewards=part["raw_rewards"].tolist(),
                terminations=terminals.tolist(),
                truncations=cut.tolist(),
            )
        )
    minari.create_dataset_from_buffers(
        name,
        buffers,
        env=options.get("env"),
        observation_space=options.get("space", box(task.obs_dim)),
        action_space=options.get("action_space", box(task.act_dim, 1.0)),
        author="nobody",
        author_email="nobody@nowhere.org",
        algorithm_name="random",
        code_permalink="none",
    )


def parts_of(task, rows=300):
    return split_by_loop(task, random_arrays(task, rows, 3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_gives_the_same_dataset_as_hdf5(minari, tmp_path, name):
    task = get_task(name)
    want = load_dataset(write(tmp_path / f"{name}.hdf5", random_arrays(task, 300, 3)), task)
    store(minari, f"own/{task.family}-v0", task, parts_of(task))
    path = dataset_path(task, tmp_path, f"minari:own/{task.family}-v0")
    got = load_dataset(path, task)
    for field in ("observations", "actions", "rewards", "terminals", "final_observations",
                  "lengths", "returns", "raw_returns"):  # fmt: skip
        ours, theirs = getattr(got, field), getattr(want, field)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(got.state_mean, want.state_mean, rtol=1e-12)
    np.testing.assert_allclose(got.state_std, want.state_std, rtol=1e-12)
    fingerprint = got.fingerprint
    assert fingerprint["file"] == str(path)
    assert fingerprint["origin"] == {"dataset": f"own/{task.family}-v0"}
    assert fingerprint["bytes"] > 0
    assert len(fingerprint["sha256"]) == 64


def fault(name, task=HOPPER) -> str:
    return dataset_fault(dataset_path(task, ROOT, f"minari:{name}"), task)


@pytest.mark.filterwarnings("ignore")
def test_unknown_id_lists_similar_ones(minari):
    assert "the store is empty" in fault("hopper/medium-v0")
    store(minari, "hopper/mine-v3", HOPPER, parts_of(HOPPER))
    message = fault("hopper/medium-v0")
    assert "closest: hopper/mine-v3" in message
    assert message.endswith("minari download hopper/medium-v0")
    for name in ("", "../..", "a b"):
        assert "hopper/mine-v3" in fault(name)


@pytest.mark.filterwarnings("ignore")
def test_dictionary_observations_are_refused(minari):
    task = get_task("antmaze-umaze-v2")
    keys = {"achieved_goal": 2, "observation": 27, "desired_goal": 2}
    space = spaces.Dict({key: box(width) for key, width in keys.items()})

    def observe(values):
        return {key: np.zeros((len(values), width)) for key, width in keys.items()}

    store(minari, "antmaze/umaze-v0", task, parts_of(task, 40), space=space, observe=observe)
    message = fault("antmaze/umaze-v0", task)
    assert "observations are dictionaries (achieved_goal, desired_goal, observation)" in message
    assert "use the task's D4RL file" in message


@pytest.mark.filterwarnings("ignore")
def test_dataset_of_another_task_is_refused(minari):
    ant = get_task("ant-medium-v2")
    store(minari, "own/ant-v0", ant, parts_of(ant))
    assert "(like ant)" in fault("own/ant-v0")
    walker, cheetah = get_task("walker2d-medium-v2"), get_task("halfcheetah-medium-v2")
    store(minari, "walker2d/own-v0", walker, parts_of(walker))
    assert "its dataset is 'walker2d/own-v0'" in fault("walker2d/own-v0", cheetah)
    store(minari, "own/data-v0", walker, parts_of(walker), env="Walker2d-v5")
    assert "its environment is 'Walker2d-v5'" in fault("own/data-v0", cheetah)
    dataset = load_dataset(dataset_path(walker, ROOT, "minari:own/data-v0"), walker)
    assert dataset.notices[0].startswith(
        "its environment is Walker2d-v5, but evaluation and fine-tuning use D4RL's (v2); "
    )


@pytest.mark.filterwarnings("ignore")
def test_values_are_checked_like_those_of_hdf5(minari):
    parts = parts_of(HOPPER)
    parts[1]["raw_rewards"][0] = np.nan
    store(minari, "own/nan-v0", HOPPER, parts)
    assert "NaN or infinity in rewards" in fault("own/nan-v0")
    parts = parts_of(HOPPER)
    parts[1]["actions"][0] = 40
    store(minari, "own/large-v0", HOPPER, parts, action_space=box(3, 50.0))
    assert "reaches 40" in fault("own/large-v0")


@pytest.mark.filterwarnings("ignore")
def test_damaged_or_empty_file(minari, tmp_path):
    store(minari, "own/data-v0", HOPPER, parts_of(HOPPER))
    folder = tmp_path / "store" / "own" / "data-v0" / "data"
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for content in (whole[: len(whole) // 2], b""):
            file.write_bytes(content)
            assert "Minari cannot read it" in fault("own/data-v0")
        file.write_bytes(whole)
    load_dataset(dataset_path(HOPPER, ROOT, "minari:own/data-v0"), HOPPER)


def test_minari_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=f"pip install minari=={VERSION}$"):
        load_dataset(dataset_path(HOPPER, ROOT, "minari:own/data-v0"), HOPPER)


def test_version_matches_the_requirements():
    assert f"minari=={VERSION}\n" in (ROOT / "requirements-optional.txt").read_text()
