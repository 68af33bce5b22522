"""Exported policies: a folder with everything needed to act, independent of run and dataset.

    policy.safetensors    weights of the network, float32, by parameter name
    policy.json           everything else:
        format_version    1
        task              name, obs_dim, act_dim, horizon (steps), reward_divisor, reward_shift,
                          rtg_scale; of a task file also its definition, with action bounds
        settings          architecture of the network; K, eval_context_length (steps),
                          eval_rtg (training rewards), delayed_reward
        state_mean, state_std   (obs_dim,) for normalising observations
        weights_sha256    checksum of policy.safetensors
        origin            the run: method, seed, phase, iterations, transitions
        scores            metrics of the run's last evaluation and when it was, or null
        versions          versions of the packages that wrote the policy

To act, normalise observations to (obs - state_mean) / state_std. Return-to-go starts at eval_rtg x
rtg_scale and decreases by (raw reward / reward_divisor + reward_shift) x rtg_scale at each step.
The policy sees the last eval_context_length steps. Its actions are in [-1, 1]; scale them to the
action bounds of a task file. Loading a policy executes none of its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from decision_transformer import Actor
from evaluation import RolloutSettings, headline
from get_args import Settings
from policy_export.checks import (
    POLICY_SETTINGS,
    checked_actor,
    checked_moments,
    checked_settings,
    checked_task,
    task_facts,
)
from run.checkpoint import load_best, load_checkpoint
from run.config import package_versions, plain
from run.files import CONFIG_FILE, METRICS_FILE
from tasks import Task, get_task
from tasks.task_file import recorded_task
from utils import UserError, atomic_write, json_object

FORMAT_VERSION = 1
WEIGHTS_FILE, POLICY_FILE = "policy.safetensors", "policy.json"


@dataclass(frozen=True)
class Policy:
    """A trained policy, ready to act.

    Attributes:
        actor: The network, in evaluation mode.
        task: The task it was trained on.
        settings: Settings of the run; only `POLICY_SETTINGS` are meaningful.
        state_mean, state_std: (obs_dim,) float64.
        record: Where it comes from, JSON-serialisable: "origin", "scores", "versions".
    """

    actor: Actor
    task: Task
    settings: Settings
    state_mean: np.ndarray
    state_std: np.ndarray
    record: dict[str, Any]

    def rollout_settings(self, context_length: int | None = None) -> RolloutSettings:
        """How the policy acts, by default with the context length of the run's evaluations.

        Raises:
            UserError: training used no context of this length.
        """
        length = self.settings.eval_context_length if context_length is None else context_length
        if not 1 <= length <= self.settings.K:
            raise UserError(
                f"--context {length}: this policy was trained with contexts of 1 to "
                f"{self.settings.K} steps"
            )
        return RolloutSettings(
            self.task, length, self.state_mean, self.state_std, self.settings.delayed_reward
        )


def open_policy(path: Path, device: torch.device | str = "cpu", best: bool = False) -> Policy:
    """Load a policy from the folder of an exported policy or of a run.

    Args:
        path: The folder.
        device: Device of the actor.
        best: Load the policy of the run's best evaluation instead of the newest checkpoint.

    Raises:
        UserError: the folder is neither, or a file in it is damaged.
    """
    if (path / POLICY_FILE).is_file():
        if best:
            raise UserError(f"--best: {path} is an exported policy, not a run; leave it out")
        return load_policy(path, device)
    if (path / CONFIG_FILE).is_file():
        return policy_of_run(path, device, best)
    raise UserError(
        f"{path}: neither an exported policy (no {POLICY_FILE}) nor a run (no {CONFIG_FILE})"
    )


def policy_of_run(
    run_dir: Path,
    device: torch.device | str = "cpu",
    best: bool = False,
    state: Mapping[str, Any] | None = None,
) -> Policy:
    """The policy of a run's newest checkpoint, or of its best evaluation.

    Args:
        run_dir: The run's folder.
        device: Device of the actor.
        best: Whether to use the best evaluation.
        state: The checkpoint, if it has been read already.

    Raises:
        UserError: not a run folder, no checkpoint in it, or a file is damaged.
    """
    config = _read_json(run_dir / CONFIG_FILE)
    recorded = config.get("settings")
    settings = checked_settings(run_dir / CONFIG_FILE, recorded, extra=("env", "seed"))
    if state is None:
        state = load_best(run_dir) if best else load_checkpoint(run_dir, collected=False)
    owner = f"{run_dir}: the checkpoint"
    if state.get("env") != settings.env:
        raise UserError(f"{owner} is of {state.get('env')}, {CONFIG_FILE} of {settings.env}")
    own = config.get("task")
    task = recorded_task(own, run_dir / CONFIG_FILE) if own else get_task(settings.env)
    try:
        weights = dict(state["trainer"]["actor"])
        moments = {name: state["normalization"][name].tolist() for name in ("mean", "std")}
        phase, iterations = str(state["phase"]), {k: int(n) for k, n in state["iterations"].items()}
        transitions = int(state["transitions"])
        scores: dict[str, Any] | None
        if best:
            place: dict[str, Any] = {"phase": phase, "iteration": iterations[phase]}
            place |= {"total_transitions_sampled": transitions}
            scores = place | {k: float(x) for k, x in state["evaluation"].items()}
        else:
            scores = _last_scores(run_dir, int(state["rows_logged"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{owner} is incomplete ({type(error).__name__}: {error})") from None
    origin = {"method": config.get("method"), "seed": settings.seed, "phase": phase}
    origin |= {"iterations": iterations, "transitions": transitions}
    versions = {"python": platform.python_version(), **package_versions()}
    record = {"origin": origin, "scores": scores, "versions": versions}
    actor = checked_actor(owner, settings, task, weights, device)
    mean, std = (checked_moments(owner, name, moments[name], task) for name in ("mean", "std"))
    return Policy(actor, task, settings, mean, std, record)


def save_policy(policy: Policy, folder: Path) -> None:
    """Write a policy to a new or empty folder, atomically.

    Raises:
        UserError: the folder exists and is not empty, or cannot be written.
    """
    weights = {name: x.detach().cpu().contiguous() for name, x in policy.actor.state_dict().items()}
    content = safetensors.torch.save(weights)
    description = {
        "format_version": FORMAT_VERSION,
        "task": task_facts(policy.task) | {"horizon": policy.task.horizon},
        "settings": {name: getattr(policy.settings, name) for name in POLICY_SETTINGS},
        "state_mean": policy.state_mean.tolist(),
        "state_std": policy.state_std.tolist(),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        **policy.record,
    }
    whole = folder.resolve()
    part = whole.parent / f".{whole.name}.{os.getpid()}.part"
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: exists and is not empty; choose a new folder")
        part.mkdir(parents=True)
        with atomic_write(part / WEIGHTS_FILE) as file:
            file.write(content)
        with atomic_write(part / POLICY_FILE, "w") as file:
            json.dump(plain(description), file, indent=1, allow_nan=False)
            file.write("\n")
        if whole.exists():
            # the same folder, because a shell may be in it; policy.json last makes it a policy
            for name in (WEIGHTS_FILE, POLICY_FILE):
                (part / name).replace(whole / name)
        else:
            part.replace(whole)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_policy(folder: Path, device: torch.device | str = "cpu") -> Policy:
    """Load what `save_policy` wrote.

    Raises:
        UserError: a file is missing, damaged or of another format version, or the two files do not
            belong together.
    """
    path = folder / POLICY_FILE
    description = _read_json(path)
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format_version {str(version)[:20]}, expected {FORMAT_VERSION}; export the "
            "policy again with this version of the program"
        )
    task = checked_task(path, description.get("task"))
    settings = checked_settings(path, description.get("settings"))
    mean, std = (
        checked_moments(path, x, description.get(f"state_{x}"), task) for x in ("mean", "std")
    )
    content = _read_bytes(folder / WEIGHTS_FILE)
    try:
        weights = safetensors.torch.load(content)
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{folder / WEIGHTS_FILE}: damaged ({reason}); export it again") from None
    actor = checked_actor(str(folder / WEIGHTS_FILE), settings, task, weights, device)
    if description.get("weights_sha256") != hashlib.sha256(content).hexdigest():
        raise UserError(
            f"{folder / WEIGHTS_FILE}: does not match {POLICY_FILE} (damaged, or of another "
            "policy); export the policy again"
        )
    record = {name: description.get(name) for name in ("origin", "scores", "versions")}
    return Policy(actor, task, settings, mean, std, record)


def _last_scores(run_dir: Path, rows: int) -> dict[str, Any] | None:
    """The last evaluation in the first rows of metrics.jsonl, and when in the run it was."""
    path = run_dir / METRICS_FILE
    if not path.exists():
        return None
    try:
        lines = [json_object(line) for line in _read_bytes(path).splitlines()[:rows]]
        scored = [line for line in lines if headline(line)[0] in line]
        place = ("phase", "iteration", "total_transitions_sampled")
        return {
            name: value
            for line in scored[-1:]
            for name, value in line.items()
            if name in place or name.startswith("evaluation/")
        } or None
    except ValueError:
        raise UserError(f"{path}: damaged; a line is not a JSON object") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json_object(_read_bytes(path))
    except ValueError as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: damaged ({reason})") from None
