"""What plain Ray Tune cannot do, which is why sweeps/ does it itself; see docs/SWEEPS.md.

If one of these tests fails with a newer Ray, Tune can do it, and code of sweeps/ may go.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytest.importorskip("ray.tune")

import ray
from ray import tune

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[str]:
    """The address of a Ray session on this machine."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    handlers = [signal.getsignal(kind) for kind in signals]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        session = ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            logging_level=logging.ERROR,
        )  # fmt: skip
        yield session.address_info["gcs_address"]
        ray.shutdown()
    for kind, handler in zip(signals, handlers, strict=True):
        signal.signal(kind, handler)


@dataclass
class Job:
    """What a trial runs. `Tuner.restore` can replace objects, but no numbers and strings."""

    seed: int
    budget: int
    notes: Path


class Counting(tune.Trainable):
    """Counts to the budget, and notes each step in a file."""

    def setup(self, config: dict[str, Any]) -> None:
        self.job, self.steps = config["job"], 0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        with self.job.notes.open("a") as file:
            file.write(f"seed {self.job.seed} step {self.steps}\n")
        return {"done": self.steps >= self.job.budget}

    def save_checkpoint(self, folder: str) -> None:
        Path(folder, "steps").write_text(str(self.steps))

    def load_checkpoint(self, folder: str) -> None:
        self.steps = int(Path(folder, "steps").read_text())


class Exiting(tune.Trainable):
    """Ends its process with exit code 77, after output of its own and of a child process."""

    def step(self) -> dict[str, Any]:
        with Path(self.config["notes"]).open("a") as file:
            file.write(f"{self.logdir}\n")
        sys.stdout.write("from Python\n")
        sys.stdout.flush()
        subprocess.run(["echo", "from a child"])
        os._exit(77)


def space(notes: Path, seeds: list[int], budget: int) -> dict[str, Any]:
    return {"job": tune.grid_search([Job(seed, budget, notes) for seed in seeds])}


def new_tuner(trainable: Any, param_space: dict[str, Any], folder: Path, **options: Any) -> Any:
    config = tune.RunConfig(name=folder.name, storage_path=str(folder.parent), verbose=0, **options)
    return tune.Tuner(trainable, param_space=param_space, run_config=config)


def fit(tuner: Any, notes: Path) -> list[str]:
    """What the trials noted."""
    notes.write_text("")
    tuner.fit()
    return notes.read_text().splitlines()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with one finished trial, of seed 1."""
    folder = tmp_path_factory.mktemp("tune")
    notes = folder / "notes"
    tuner = new_tuner(Counting, space(notes, [1], 1), folder / "sweep")
    assert fit(tuner, notes) == ["seed 1 step 1"]
    return folder / "sweep"


@pytest.fixture
def sweep(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "sweep")


def test_restored_experiment_runs_neither_a_new_seed_nor_a_longer_budget(sweep, tmp_path) -> None:
    notes = tmp_path / "notes"
    larger = space(notes, [1, 2], 3)
    assert fit(tune.Tuner.restore(str(sweep), Counting, param_space=larger), notes) == []


def test_finished_trials_continue_only_by_their_position(sweep, tmp_path) -> None:
    """An experimental option: seed 0, now first in the list, continues from seed 1's checkpoint."""
    notes, kind = tmp_path / "notes", tune.ResumeConfig.ResumeType.RESUME
    tuner = tune.Tuner.restore(
        str(sweep), Counting, param_space=space(notes, [0, 1], 3),
        _resume_config=tune.ResumeConfig(finished=kind),
    )  # fmt: skip
    assert fit(tuner, notes) == ["seed 0 step 2", "seed 0 step 3"]


def test_new_experiment_in_the_folder_repeats_finished_trials(sweep, tmp_path) -> None:
    notes = tmp_path / "notes"
    tuner = new_tuner(Counting, space(notes, [1], 1), sweep)
    assert fit(tuner, notes) == ["seed 1 step 1"]


def test_crash_loses_its_exit_code_and_its_log(tmp_path) -> None:
    """It is retried, whatever the exit code is."""
    notes, folder = tmp_path / "notes", tmp_path / "sweep"
    tuner = new_tuner(
        Exiting, {"notes": str(notes)}, folder, log_to_file=True,
        failure_config=tune.FailureConfig(max_failures=1),
        sync_config=tune.SyncConfig(sync_artifacts=True),
    )  # fmt: skip
    attempts = fit(tuner, notes)
    assert len(attempts) == 2
    (result,) = tuner.get_results()
    assert isinstance(result.error, ray.exceptions.ActorDiedError)
    detail = str(result.error).partition("Worker exit detail")[2]
    assert detail and "77" not in detail
    # a temporary folder of the machine that ran the trial has what Python printed
    assert not list(folder.rglob("stdout"))
    assert set(Path(attempts[-1], "stdout").read_text().splitlines()) == {"from Python"}


# a trial with a child process, which needs ten seconds to end well
DRIVER = """
import subprocess, sys, time
from pathlib import Path
import ray
from ray import tune
FOLDER = Path(sys.argv[2])
CHILD = '''
import pathlib, signal, sys, time
def end(*_):
    time.sleep(10)
    pathlib.Path("saved").touch()
    sys.exit()
signal.signal(signal.SIGTERM, end)
pathlib.Path("started").touch()
time.sleep(600)
'''
class Parent(tune.Trainable):
    def setup(self, config):
        self.child = subprocess.Popen([sys.executable, "-c", CHILD], cwd=FOLDER)
    def step(self):
        time.sleep(0.1)
        if (FOLDER / "started").exists():
            (FOLDER / "pid").write_text(str(self.child.pid))
        return {}
    def cleanup(self):
        (FOLDER / "cleaned").touch()
ray.init(address=sys.argv[1], log_to_driver=False)
config = tune.RunConfig(name="sweep", storage_path=str(FOLDER), verbose=0)
tune.Tuner(Parent, run_config=config).fit()
"""


def test_killed_driver_kills_its_runs_and_leaves_an_outdated_record(cluster, tmp_path) -> None:
    command = [sys.executable, "-c", DRIVER, cluster, str(tmp_path)]
    driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text() != "")
    driver.kill()
    driver.wait()
    wait_until(lambda: not Path("/proc", pid.read_text()).exists())
    assert not (tmp_path / "saved").exists()
    assert not (tmp_path / "cleaned").exists()
    (record,) = (tmp_path / "sweep").glob("experiment_state-*.json")
    (trial,) = json.loads(record.read_text())["trial_data"]
    assert json.loads(trial[0])["status"] in ("PENDING", "RUNNING")


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)
