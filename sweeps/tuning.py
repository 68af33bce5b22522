"""Run a sweep with Ray Tune, on this machine or a cluster.

Tune decides which runs start when, retries those that fail, and ends bad trials of a search. Each
run is a process of main.py, and its folder is its only state: a later call starts from the folders,
and gives the search the scores in them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from evaluation import headline
from run.state import RUNNING
from run.stopping import StopSignal
from sweeps.attempt import ROOT, Allocation, Attempt, retried
from sweeps.folders import fail, is_ready, plan, status_of
from sweeps.plan import Sweep, SweepRun, with_flags
from sweeps.search import Search, iterations, phase_to_compare
from sweeps.state import ENDED, PRUNED, in_use, metric_rows
from utils import UserError

# GPUs per run, if there are any and the sweep has no field gpus
_GPU_SHARE = 0.5
# seconds after which a step returns, so that Tune can stop the run
_STEP = 1.0
# seconds to wait for the last checkpoints
_PATIENCE = 120.0
_ENVIRONMENT = {
    # no telemetry
    "RAY_USAGE_STATS_ENABLED": "0",
    # by default Ray's workers have the lowest priority and starve on a busy machine
    "RAY_worker_niceness": "0",
    # keep CUDA_VISIBLE_DEVICES for runs without a GPU, the default of Ray's next version
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # runs stop by themselves when their worker ends, with a checkpoint
    "RAY_kill_child_processes_on_worker_exit": "0",
    # the sweep handles signals; a run has no score before its first evaluation; runs log themselves
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def evaluations(run: SweepRun) -> list[dict[str, Any]]:
    """Score and iteration of each evaluation; 0 in the phase that ASHA does not compare."""
    compared = phase_to_compare(run.settings)
    return [
        {"score": headline(row)[1], "iteration": row["iteration"] * (row["phase"] == compared)}
        for row in metric_rows(run.folder)
        if headline(row)[0] in row
    ]


class TuneRun(tune.Trainable):
    """A run, as Tune sees it. A step ends with an evaluation or the run, or after a second."""

    def setup(self, config: dict[str, Any]) -> None:
        self._run: SweepRun = config["run"]
        self._allocation: Allocation = config["allocation"]
        self._evaluations = 0
        self._result: dict[str, Any] = {}
        self._attempt = Attempt(self._run, self._allocation)

    def step(self) -> dict[str, Any]:
        ended = self._attempt.wait(_STEP) is not None
        # a resumed run first removes the rows after its checkpoint, then adds the same again
        if self._run.sampled and len(found := evaluations(self._run)) > self._evaluations:
            self._result = found[self._evaluations]
            self._evaluations += 1
        elif ended:
            status = status_of(self._run)
            if retried(status, self._allocation.gpus):
                raise RuntimeError(status.message)
            return self._result | {"done": True, "ended": True}
        return self._result

    def cleanup(self) -> None:
        # there is none if setup failed
        if hasattr(self, "_attempt"):
            self._attempt.stop()
            self._attempt.wait()


class _Monitor(tune.Callback, tune.Stopper):
    """Shows the progress, records how Tune ended a run, and stops all on request."""

    def __init__(self, stop: Callable[[], bool], show: Callable[[], None]) -> None:
        self._stop, self._show = stop, show

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles it for a resumption that is not used, and a table in a terminal has locks
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop()

    def setup(self, **info: Any) -> None:
        # Tune takes this signal, which also ends a sweep, for itself
        signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGTERM))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        run = trial.config["run"]
        status = status_of(run)
        if result.get("done") and not result.get("ended") and status.state == RUNNING:
            status.state, status.message = PRUNED, "ended early because of its score"
            status.write(run.folder)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        fail(trial.config["run"], str(trial.get_error()).strip().split("\n")[-1][:500])


class _Suggestions(Searcher):
    """Trials that have started before, then others with Optuna's suggestions as flags."""

    def __init__(
        self, runs: Sequence[SweepRun], search: Search, ended: Sequence[SweepRun] = ()
    ) -> None:
        from ray.tune.search.optuna import OptunaSearch  # optional

        super().__init__("score", "max")
        self._search = search
        self._started = deque(run for run in runs if status_of(run).attempts)
        self._new = deque(run for run in runs if not status_of(run).attempts)
        self._resumed: dict[str, SweepRun] = {}
        # another seed than that of earlier calls, which would repeat their suggestions
        seed = runs[0].seed + len(self._started) + len(ended)
        space = dict(search.space)
        self._optuna = OptunaSearch(space, metric="score", mode="max", seed=seed)
        for run in ended:
            self._add(run, evaluations(run)[-1:])

    def _add(self, run: SweepRun, results: Sequence[dict[str, Any]]) -> None:
        for result in results:
            if "score" in result:
                self._optuna.add_evaluated_point(dict(run.sampled), result["score"])

    def suggest(self, trial_id: str) -> dict[str, Any]:
        if self._started:
            self._resumed[trial_id] = run = self._started.popleft()
        else:
            values = self._optuna.suggest(trial_id)
            run = with_flags(self._new.popleft(), self._search.tidy(values))
            plan([run])
        return {"run": run}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if trial_id in self._resumed:
            self._add(self._resumed[trial_id], [result or {}])
        else:
            self._optuna.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the folders of the runs are the record."""


def run_on_ray(
    sweep: Sweep, todo: Sequence[SweepRun], address: str | None, stop: StopSignal,
    show: Callable[[], None],
) -> None:  # fmt: skip
    """Run as many runs in parallel as fit.

    Args:
        sweep: The sweep.
        todo: The runs to start.
        address: Of a Ray cluster; None for this machine.
        stop: Whether to stop early.
        show: Called repeatedly to show the progress.

    Raises:
        UserError: the cluster does not answer, or none of its machines has the resources of a run.
    """
    with _ray(address):
        resources = _resources(sweep)
        allocation = Allocation(max(1, int(resources["cpu"])), resources["gpu"], Path.cwd())
        plan(todo)
        # after Ray, which installs its own signal handlers
        with stop.installed():
            shared = {run.pretraining for run in todo}
            for wave in ([r for r in todo if r in shared], [r for r in todo if r not in shared]):
                if not stop() and (ready := [run for run in wave if is_ready(run)]):
                    _fit(sweep, ready, allocation, resources, _Monitor(stop, show))
            _wait_for_checkpoints(todo, show)


def _fit(
    sweep: Sweep, runs: Sequence[SweepRun], allocation: Allocation, resources: dict[str, float],
    monitor: _Monitor,
) -> None:  # fmt: skip
    config = tune.TuneConfig(trial_dirname_creator=lambda trial: trial.trial_id)
    space = {"allocation": allocation, "run": tune.grid_search(list(runs))}
    if sweep.search:
        # trials are compared with those that ended in an earlier call
        trials = [run for run in sweep.runs if run.sampled]
        ended = [run for run in trials if status_of(run).state in ENDED]
        config.scheduler = _scheduler(sweep.search, trials, ended)
        if sweep.search.algorithm == "optuna":
            config.search_alg = _Suggestions(runs, sweep.search, ended)
            config.num_samples = len(runs)
            del space["run"]
    with tempfile.TemporaryDirectory(prefix=".tune-", dir=sweep.folder) as folder:
        run_config = tune.RunConfig(
            storage_path=folder,
            failure_config=tune.FailureConfig(max_failures=sweep.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            stop=monitor,
            callbacks=[monitor],
            verbose=0,
        )
        tune.Tuner(
            tune.with_resources(TuneRun, resources),
            param_space=space, tune_config=config, run_config=run_config,
        ).fit()  # fmt: skip


def _scheduler(
    search: Search, runs: Sequence[SweepRun], ended: Sequence[SweepRun]
) -> TrialScheduler:
    """ASHA, if trials may end early; Li et al. 2020, arXiv 1810.05934."""
    longest = max(iterations(run.settings) for run in runs)
    grace = search.grace_iters or max(1, longest // 9)
    if not search.early_stopping or grace >= longest:
        return FIFOScheduler()
    # no rung is at the last iteration, after which a trial is finished anyway
    scheduler = AsyncHyperBandScheduler(
        time_attr="iteration", metric="score", mode="max", max_t=longest - 1, grace_period=grace,
        reduction_factor=search.reduction_factor, stop_last_trials=False,
    )  # fmt: skip
    for run in ended:
        trial: Any = SimpleNamespace(trial_id=str(run.folder))
        scheduler.on_trial_add(None, trial)
        for evaluation in evaluations(run):
            scheduler.on_trial_result(None, trial, evaluation)
    return scheduler


def _wait_for_checkpoints(runs: Sequence[SweepRun], show: Callable[[], None]) -> None:
    """Wait for runs that Tune did not wait for: it gives each some seconds to stop."""
    until = time.monotonic() + _PATIENCE
    while any(in_use(run.folder) for run in runs) and time.monotonic() < until:
        show()
        time.sleep(0.2)
    show()


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Start Ray on this machine, or connect to the cluster at an address.

    Raises:
        UserError: the cluster does not answer, or Ray does not start.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if address:
        _check_answers(address)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    local: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        try:
            ray.init(
                address=address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": path} | _ENVIRONMENT},
                **local,
            )
        except Exception as error:  # Ray raises many kinds
            reason, where = " ".join(str(error).split())[:300], address or "this machine"
            raise UserError(f"Ray does not start on {where}: {reason}") from None
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Reject an unreachable HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()) or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: no answer ({error}); start Ray there") from None


def _resources(sweep: Sweep) -> dict[str, float]:
    """Cores and GPUs per run.

    Raises:
        UserError: no machine has as many.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = {kind: max(node.get(kind, 0.0) for node in machines) for kind in ("CPU", "GPU")}
    gpus = sweep.gpus if sweep.gpus is not None else _GPU_SHARE * (most["GPU"] > 0)
    if sweep.cpus > most["CPU"]:
        raise UserError(f"cpus {sweep.cpus:g}: no machine has more than {most['CPU']:g} cores")
    if gpus > most["GPU"]:
        raise UserError(f"gpus {gpus:g}: Ray finds no GPU; use 0")
    return {"cpu": sweep.cpus, "gpu": gpus}
