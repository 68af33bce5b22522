"""Attempts as Ray tasks, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from run.state import RUNNING
from sweeps.attempt import ROOT, Allocation, attempt, status_of
from sweeps.loop import Outcome
from sweeps.plan import Sweep, SweepRun
from utils import UserError

# GPUs per run, if there are any and the sweep has no field gpus
_GPU_SHARE = 0.5
_STARTS = 4


class RayExecutor:
    """Runs as many attempts in parallel as fit.

    Args:
        ray: The module.
        cpus, gpus: Resources of one run.
        folder: A folder shared by all machines.
    """

    def __init__(self, ray: Any, cpus: float, gpus: float, folder: Path) -> None:
        self._ray = ray
        self.stop_file = folder / f".stop-{secrets.token_hex(8)}"
        self._allocation = Allocation(max(1, int(cpus)), gpus > 0, Path.cwd(), self.stop_file)
        # retries are decided in loop.py
        self._attempt = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(attempt)
        self._runs: dict[Any, SweepRun] = {}

    def submit(self, run: SweepRun) -> None:
        self._runs[self._attempt.remote(run, self._allocation)] = run

    def wait(self, seconds: float) -> list[Outcome]:
        ended, _ = self._ray.wait(list(self._runs), num_returns=1, timeout=seconds)
        return [(self._runs.pop(task), self._problem(task)) for task in ended]

    def _problem(self, task: Any) -> str:
        try:
            self._ray.get(task)
        except self._ray.exceptions.TaskCancelledError:
            return ""
        except self._ray.exceptions.RayError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            return lines[-1].strip()[:500] if lines else type(error).__name__
        return ""

    def cancel(self) -> None:
        # Ray's interrupt may come late, or while a status is being written
        self.stop_file.touch()
        for task, run in self._runs.items():
            if status_of(run).state != RUNNING:
                self._ray.cancel(task)


@contextlib.contextmanager
def ray_executor(sweep: Sweep, address: str | None) -> Iterator[RayExecutor]:
    """Start Ray on this machine, or connect to the cluster at an address.

    Raises:
        UserError: Ray is not installed, the cluster does not answer, or none of its machines has
            the resources of one run.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "Ray is not installed; run python -m pip install -r requirements-optional.txt, or pass "
            "--here to run one after another"
        ) from None
    # no telemetry
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # by default Ray's workers have the lowest priority and starve on a busy machine
    os.environ.setdefault("RAY_worker_niceness", "0")
    # keep CUDA_VISIBLE_DEVICES for tasks without a GPU, the default of Ray's next version
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address:
        _check_answers(address)
    try:
        _start(ray, address)
        cpus, gpus = _resources(ray, sweep)
        executor = RayExecutor(ray, cpus, gpus, sweep.runs[0].folder.parents[2])
        try:
            yield executor
        finally:
            executor.stop_file.unlink(missing_ok=True)
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


def _start(ray: Any, address: str | None) -> None:
    """Start Ray or connect to it; on a busy machine a start may time out, so it is retried."""
    about: dict[str, Any] = {} if address else {"include_dashboard": False}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    for tries_left in range(0 if address else _STARTS - 1, -1, -1):
        try:
            ray.init(
                address=address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                **about,
            )
            return
        except Exception as error:  # Ray raises many kinds
            ray.shutdown()
            if not tries_left:
                reason, where = " ".join(str(error).split())[:300], address or "this machine"
                raise UserError(f"Ray does not start on {where}: {reason}") from None


def _resources(ray: Any, sweep: Sweep) -> tuple[float, float]:
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
    return sweep.cpus, gpus
