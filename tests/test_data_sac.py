"""Datasets of a SAC agent: training, its rows, the score it stops at, and resuming."""

import itertools
import shutil
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tqdm import tqdm

import tasks
from d4rl_envs.registration import make
from data import load_dataset
from data_sources import command, generate
from run.checkpoint import rng_state, write_verified
from tasks import get_task
from tests.conftest import shared_file
from utils import UserError, seed_everything

pytest.importorskip("stable_baselines3")

from data_sources import sac_training
from data_sources.sac_training import SacTraining

SCRIPT = "download_gym_datasets.py"
MEDIUM, REPLAY = "hopper-medium-v2", "hopper-medium-replay-v2"
FOLDER = "hopper-sac-seed0.training"
# steps after which the tests' scores reach the level
ENOUGH = 150
MEASURE = SacTraining._score


def score(training, episodes):
    """The true score, raised far above the level after ENOUGH steps."""
    return MEASURE(training, episodes) + 1000 * (training.steps >= ENOUGH)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Short episodes, small batches, frequent evaluations, and scores that reach the level."""
    sizes = {"LEARNING_STARTS": 100, "BATCH_SIZE": 4, "EVAL_INTERVAL": 45, "CLOSE_INTERVAL": 7}
    with pytest.MonkeyPatch.context() as patch:
        for name, task in tasks.TASKS.items():
            patch.setitem(tasks.TASKS, name, replace(task, horizon=25))
        for name, value in {**sizes, "EVAL_EPISODES": 2, "CONFIRMING_EPISODES": 3}.items():
            patch.setattr(sac_training, name, value)
        patch.setattr(SacTraining, "_score", score)
        yield


@pytest.fixture(scope="module")
def straight(tiny, tmp_path_factory):
    """A folder with both datasets, made without interruption; do not change it."""
    folder = tmp_path_factory.mktemp("straight")
    for name, steps in ((REPLAY, None), (MEDIUM, 1000)):
        made(folder, name, steps=steps)
    return folder


@pytest.fixture
def finished(straight, tmp_path):
    """A folder with a finished training but no datasets."""
    shutil.copytree(straight / FOLDER, tmp_path / FOLDER)
    return tmp_path


def run(folder, *options):
    """Run the script in this process; returns the exit code."""
    return command.main(SCRIPT, ["--source", "generate", "--data_dir", str(folder), *options])


def made(folder, name=REPLAY, *, seed=0, steps=None):
    """The arrays of a generated dataset."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.hdf5"
    generate.generate(get_task(name), path, steps=steps, seed=seed)
    return read(folder, name)


def read(folder, name=REPLAY):
    with h5py.File(folder / f"{name}.hdf5") as file:
        return {key: file[key][...] for key in file}


def assert_equal(first, second):
    assert set(first) == set(second)
    for key, array in first.items():
        np.testing.assert_array_equal(array, second[key])


def test_both_datasets_use_the_same_training(tmp_path, capsys):
    assert run(tmp_path, "--only", MEDIUM, "--only", REPLAY, "--steps", "150") == 0
    evaluations = [line for line in capsys.readouterr().out.splitlines() if "of 44.32" in line]
    assert len(evaluations) == len({line.split()[2] for line in evaluations}) == 3
    attributes = {}
    for name in (MEDIUM, REPLAY):
        dataset = load_dataset(tmp_path / f"{name}.hdf5", get_task(name))
        assert (dataset.lengths <= 25).all()
        with h5py.File(tmp_path / f"{name}.hdf5") as file:
            attributes[name] = dict(file.attrs)
            rows = len(file["rewards"])
        assert rows == (150 if name == MEDIUM else attributes[name]["training_steps"])
    assert attributes[MEDIUM].pop("task") == MEDIUM
    assert attributes[REPLAY].pop("task") == REPLAY
    assert attributes[MEDIUM] == attributes[REPLAY]
    assert attributes[MEDIUM]["recipe"] == "sac"
    assert ENOUGH <= attributes[MEDIUM]["training_steps"] < ENOUGH + 90
    score = tasks.TASKS[MEDIUM].normalized_score(attributes[MEDIUM]["reached_return"])
    assert score == pytest.approx(attributes[MEDIUM]["reached_score"])
    assert attributes[MEDIUM]["reached_score"] >= 44.32


@pytest.mark.parametrize("name", [MEDIUM, REPLAY])
def test_form_matches_published_files(straight, name):
    arrays = read(straight, name)
    with h5py.File(shared_file(f"data/{name}.hdf5")) as real:
        assert set(real) == set(arrays)
        for key, array in arrays.items():
            assert real[key].dtype == array.dtype
            assert real[key].shape[1:] == array.shape[1:]


def test_replay_rows_replay_in_the_environment(straight):
    arrays = read(straight)
    env = make(get_task(REPLAY))
    env.reset(seed=0)
    obs, _ = env.reset()
    length = 0
    for row, action in enumerate(arrays["actions"]):
        np.testing.assert_array_equal(arrays["observations"][row], obs.astype(np.float32))
        obs, reward, terminated = env.advance(action.astype(float))
        length += 1
        np.testing.assert_array_equal(arrays["next_observations"][row], obs.astype(np.float32))
        assert arrays["rewards"][row] == np.float32(reward)
        assert arrays["terminals"][row] == terminated
        assert arrays["timeouts"][row] == (length == 25 and not terminated)
        if terminated or length == 25:
            obs, _ = env.reset()
            length = 0
    assert length == 0
    assert arrays["terminals"].any()
    assert arrays["timeouts"].any()


def test_medium_rows_are_samples_of_the_policy(straight):
    arrays = read(straight, MEDIUM)
    training = SacTraining(get_task(MEDIUM), straight / FOLDER, 0, 1000)
    observations = torch.as_tensor(arrays["observations"])
    with torch.no_grad():
        mean, log_std, _ = training.model.actor.get_action_dist_params(observations)
    samples = np.arctanh(arrays["actions"].astype(float).clip(-1 + 1e-6, 1 - 1e-6))
    noise = (samples - mean.numpy()) / log_std.exp().numpy()
    assert abs(noise.mean()) < 0.1  # 5 standard errors
    assert abs(noise.std() - 1) < 0.07
    assert np.flatnonzero(arrays["terminals"] | arrays["timeouts"]).size >= 1000 // 25


@pytest.mark.parametrize("family", ["halfcheetah", "walker2d", "ant"])
def test_other_families_can_be_generated(tmp_path, family):
    arrays = made(tmp_path, f"{family}-medium-replay-v2")
    assert np.isfinite(arrays["next_observations"]).all()
    assert len(arrays["rewards"]) >= ENOUGH


def test_rows_are_determined_by_the_seed(straight, tmp_path):
    first = read(straight)
    assert_equal(first, made(tmp_path / "again"))
    other = made(tmp_path / "other", seed=1)
    assert not np.isclose(first["actions"][:ENOUGH], other["actions"][:ENOUGH]).all(axis=1).any()


class TestResuming:
    @pytest.mark.parametrize("moment", ["collect", "evaluate", "save"])
    def test_interruption_changes_neither_rows_nor_policy(
        self, straight, tmp_path, monkeypatch, moment
    ):
        work, calls = getattr(SacTraining, moment), itertools.count(1)

        def interrupted(*args):
            if next(calls) == 3:
                raise KeyboardInterrupt
            return work(*args)

        broken = tmp_path / "broken"
        with monkeypatch.context() as patch:
            patch.setattr(SacTraining, moment, interrupted)
            with pytest.raises(KeyboardInterrupt):
                made(broken)
        assert [file.name for file in broken.iterdir()] == [FOLDER]
        seed_everything(99)
        assert_equal(read(straight), made(broken))
        assert_equal(read(straight, MEDIUM), made(broken, MEDIUM, steps=1000))

    def test_interruption_between_saving_rows_and_state(self, straight, tmp_path, monkeypatch):
        save = sac_training.write_verified

        def interrupted(path, state):
            if len(state["history"]) == 3:
                raise KeyboardInterrupt
            save(path, state)

        with monkeypatch.context() as patch:
            patch.setattr(sac_training, "write_verified", interrupted)
            with pytest.raises(KeyboardInterrupt):
                made(tmp_path / "broken")
        assert_equal(read(straight), made(tmp_path / "broken"))

    def test_more_training_steps_resume_where_it_gave_up(self, tmp_path, capsys):
        options = ["--only", REPLAY, "--max_training_steps"]
        assert run(tmp_path, *options, "100") == 2
        output = capsys.readouterr()
        (line,) = output.err.splitlines()
        first, *_ = output.out.splitlines()
        assert line.startswith(f"{REPLAY}: SAC scores ")
        assert "44.32" in line
        assert "--max_training_steps" in line
        assert [file.name for file in tmp_path.iterdir()] == [FOLDER]
        assert run(tmp_path, *options, "100") == 2
        assert capsys.readouterr().out == ""  # no further training
        assert run(tmp_path, *options, "1000") == 0
        assert first not in capsys.readouterr().out

    @pytest.mark.parametrize(
        "fault", ["truncated", "flipped", "state", "history", "absent", "rows", "pickle"]
    )
    def test_damaged_training(self, finished, fault):
        folder = finished / FOLDER
        rows = sorted(folder.glob("rows-*"))[0]
        checkpoint = folder / "state.pt"
        if fault == "truncated":
            checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
        elif fault == "flipped":
            content = bytearray(checkpoint.read_bytes())
            content[len(content) // 2] ^= 1
            checkpoint.write_bytes(content)
        elif fault == "state":
            write_verified(checkpoint, {"history": [(60, 0.0)]})
        elif fault == "history":
            write_verified(checkpoint, {"history": [3]})
        elif fault == "absent":
            rows.unlink()
        elif fault == "rows":
            rows.write_bytes(rows.read_bytes()[:500])
        else:
            objects: Any = dict.fromkeys(np.load(rows), np.array([{}], object))
            np.savez(rows, **objects)
        with pytest.raises(UserError) as error:
            made(finished, MEDIUM, steps=10)
        assert str(error.value).startswith(str(folder))
        assert "\n" not in str(error.value)
        assert not (finished / f"{MEDIUM}.hdf5").exists()

    def test_training_of_another_environment(self, finished):
        (finished / FOLDER).rename(finished / "ant-sac-seed0.training")
        with pytest.raises(UserError, match=r"ant-sac-seed0\.training: cannot resume"):
            made(finished, "ant-medium-v2")

    def test_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / FOLDER).touch()
        with pytest.raises(UserError, match="cannot be written"):
            made(tmp_path)


class TestTraining:
    @pytest.fixture
    def training(self, tmp_path):
        return SacTraining(get_task(MEDIUM), tmp_path / FOLDER, 0, 1000)

    def test_updates_begin_after_the_random_steps(self, training):
        weight = training.model.policy.actor.mu.weight
        before = weight.detach().clone()
        training.collect(1, tqdm(disable=True))
        assert training.steps <= 25  # to the end of the episode
        assert (before == weight).all()
        training.collect(ENOUGH, tqdm(disable=True))
        assert (before != weight).any()

    def test_values_are_bootstrapped_at_time_limits(self, training):
        training.collect(200, tqdm(disable=True))
        rows, buffer = training.rows(0, training.steps), training.model.replay_buffer
        samples = buffer._get_samples(np.arange(training.steps))
        np.testing.assert_array_equal(samples.dones[:, 0].numpy() > 0, rows["terminals"])
        assert rows["timeouts"].any()
        assert not (rows["timeouts"] & rows["terminals"]).any()

    def test_score_is_the_mean_normalised_return(self, training, monkeypatch):
        task = get_task(MEDIUM)
        monkeypatch.setattr(training, "act", lambda obs: 0.3 * np.ones((len(obs), 3)))
        measured = MEASURE(training, 4)
        returns = []
        for seed in np.random.default_rng([0, 0, 4]).integers(2**31, size=4).tolist():
            env = make(task)
            env.reset(seed=seed)
            returns.append(0.0)
            for _ in range(task.horizon):
                _, reward, terminated = env.advance(np.full(3, 0.3))
                returns[-1] += reward
                if terminated:
                    break
        assert measured == pytest.approx(task.normalized_score(sum(returns) / 4))

    def test_evaluation_does_not_affect_training(self, training):
        training.collect(ENOUGH, tqdm(disable=True))
        before = rng_state(), training._bare_env.np_random.bit_generator.state
        training.evaluate()
        after = rng_state(), training._bare_env.np_random.bit_generator.state
        assert str(before) == str(after)
        assert (before[0]["torch"] == after[0]["torch"]).all()

    def test_evaluations_are_more_frequent_close_to_the_level(self, training):
        assert training.interval == 45
        training.history = [(45, 22.1)]
        assert training.interval == 45
        training.history.append((90, 22.2))
        assert training.interval == 7

    def test_lucky_evaluation_is_not_enough(self, training, monkeypatch):
        luck = {2: 50.0, 3: 40.0}
        monkeypatch.setattr(SacTraining, "_score", lambda _, episodes: luck[episodes])
        training.evaluate()
        assert not training.reached
        luck[3] = 45.0
        training.evaluate()
        assert training.reached
        assert [score for _, score in training.history] == [40.0, 45.0]

    def test_level_is_the_score_of_the_medium_dataset(self, tmp_path, monkeypatch):
        for name in (MEDIUM, REPLAY):
            assert SacTraining(get_task(name), tmp_path, 0, 10).level == 44.32
        easier = replace(get_task(MEDIUM), published_score=-1000.0)
        monkeypatch.setitem(tasks.TASKS, MEDIUM, easier)
        assert len(made(tmp_path)["rewards"]) < 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_training_steps", "0"], "--max_training_steps 0: must be in [1, 4294967295]"),
        (["--only", REPLAY, "--steps", "9"], f"--steps: {REPLAY} has one row per training step"),
    ],
)
def test_invalid_options(tmp_path, capsys, options, message):
    assert run(tmp_path, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
    assert not any(tmp_path.iterdir())
