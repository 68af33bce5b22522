"""Use the networks of another run or of an exported policy (`--init_from`, `--jump_start_guide`).

For `--init_from`, a run offers the networks at the end of its pretraining,
checkpoints/pretrained.pt. Its other checkpoints are used only if their file is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from build_networks import load_moments
from get_args import CRITIC, FLAGS, Settings, flags_with
from policy_export.checks import task_facts
from policy_export.policy import (
    POLICY_FILE,
    WEIGHTS_FILE,
    Policy,
    load_policy,
    open_policy,
    policy_of_run,
)
from run.checkpoint import check_shapes, read_state, state_files
from run.config import describe_origin
from run.files import CHECKPOINT_FOLDER, CONFIG_FILE, GUIDE_FOLDER, PRETRAINED_FILE
from run.snapshot import OPTIMIZERS
from trainer import Trainer
from trajectories import Moments
from utils import UserError, json_object

# flags that determine the shape and function of the policy and of the critic
_POLICY_FLAGS, _CRITIC_FLAGS = (
    tuple(name for name in flags_with(*kind) if FLAGS[name].metadata["fixed"])
    for kind in (("policy", "model"), ("group", CRITIC))
)


@dataclass(frozen=True)
class Source:
    """The networks of `--init_from`, checked against the settings of the new run.

    Attributes:
        settings: Settings of the new run.
        policy: The policy, with the mean and standard deviation that normalise its states.
        state: What the file contains of `Trainer.state_dict`; empty for an exported policy.
        origin: Where the networks come from and which of them the run takes, for config.json.
        summary: The same in one line.
    """

    settings: Settings
    policy: Policy
    state: Mapping[str, Any]
    origin: dict[str, Any]
    summary: str

    @property
    def normalization(self) -> Moments:
        """Mean and standard deviation of the states the policy was trained with."""
        return self.policy.state_mean, self.policy.state_std

    def load_into(self, trainer: Trainer) -> None:
        """Load the networks, and with --init_optimizer 1 their optimisers, into a new trainer.

        Raises:
            UserError: the file is incomplete, or its critic has another shape.
        """
        nets, state, taken = trainer.nets, self.state, self.origin["taken"]
        owner = f"--init_from {self.settings.init_from}"
        nets.actor.load_state_dict(self._actor_weights())
        try:
            if "critic" in taken:
                check_shapes(nets.critic, state["critic"], f"{owner}: the critic")
                nets.critic.load_state_dict(state["critic"])
            if "temperature" in taken:
                nets.log_temperature.data.copy_(state["log_temperature"])
            if "optimisers" in taken:
                for name in OPTIMIZERS:
                    if name.removesuffix("_optimizer") in taken:
                        load_moments(getattr(trainer, name), state[name])
                trainer.actor_updates = int(state["actor_updates"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{owner}: {self.origin['file']} is incomplete ({reason})") from None

    def _actor_weights(self) -> dict[str, Tensor]:
        """The policy's weights; for a deterministic policy from a stochastic one, the mean's."""
        weights = self.policy.actor.state_dict()
        if self.settings.stoc == self.policy.settings.stoc:
            return weights
        return {
            name.replace("predict_action.mu.", "predict_action.0."): x
            for name, x in weights.items()
            if not name.startswith("predict_action.log_std.")
        }


def open_source(settings: Settings) -> Source:
    """Read the networks of --init_from.

    Raises:
        UserError: there are none, a file is damaged, or they do not fit the settings.
    """
    path = Path(settings.init_from)
    if (path / POLICY_FILE).is_file():
        folder, file, policy = path, path / WEIGHTS_FILE, load_policy(path)
        config: dict[str, Any] = {"settings": vars(policy.settings)}
        state: dict[str, Any] = {}
    else:
        file = _checkpoint_file(path)
        folder, checkpoint = file.parent.parent, read_state(file)
        policy = policy_of_run(folder, best="evaluation" in checkpoint, state=checkpoint)
        config, state = json_object((folder / CONFIG_FILE).read_text()), checkpoint["trainer"]
    _check_policy(settings, policy)
    recorded = config["settings"] | {"recurrent": bool(config.get("recurrent"))}
    new_critic = _why_new_critic(settings, recorded) if "critic" in state else "the source has none"
    if settings.init_optimizer:
        _check_optimizers(settings, recorded, state)
    taken = ["actor"] + ["critic"] * (not new_critic)
    same_start = recorded.get("init_temperature") == settings.init_temperature
    if settings.stoc and "log_temperature" in state and same_start:
        taken.append("temperature")
    taken += ["optimisers"] * settings.init_optimizer
    with file.open("rb") as opened:
        checksum = hashlib.file_digest(opened, "sha256").hexdigest()
    origin = {
        "folder": str(folder), "file": str(file.relative_to(folder)), "sha256": checksum,
        "run_id": config.get("wandb_id"), **(policy.record["origin"] or {}), "taken": taken,
    }  # fmt: skip
    new = [f"critic ({new_critic})"] if new_critic else []
    new += ["temperature"] if settings.stoc and "temperature" not in taken else []
    new += [] if settings.init_optimizer else ["optimisers"]
    summary = f"initialised from {file} ({describe_origin(origin)}): {', '.join(taken)}"
    summary += f"; new: {', '.join(new)}" if new else ""
    return Source(settings, policy, state, origin, summary)


def open_guide(settings: Settings, device: torch.device) -> Policy | None:
    """The policy of --jump_start_guide, if any; a resumed run has a copy in its folder.

    Raises:
        UserError: there is none, a file is damaged, or it is of another task than the run.
    """
    if not settings.jump_start_guide:
        return None
    copy = Path(settings.resume) / GUIDE_FOLDER
    try:
        policy = open_policy(copy if settings.resume else Path(settings.jump_start_guide), device)
    except UserError as error:
        raise UserError(f"--jump_start_guide: {error}") from None
    _check_task(policy, settings, f"--jump_start_guide {settings.jump_start_guide}")
    return policy


def _check_task(policy: Policy, settings: Settings, owner: str) -> None:
    """Raise a UserError if the policy depends on facts that the run's task does not share."""
    theirs = task_facts(policy.task)
    for name, ours in task_facts(settings.task).items():
        if name != "definition" and theirs[name] != ours:
            raise UserError(
                f"{owner}: its task has {name} {theirs[name]}, {settings.env} has {ours}; use a "
                "policy of that task"
            )


def _checkpoint_file(path: Path) -> Path:
    """The file of a run's pretrained networks, or the checkpoint that was given.

    Raises:
        UserError: there is none.
    """
    owner, path = f"--init_from {path}", path.resolve()
    if path.is_file() and (path.parent.parent / CONFIG_FILE).is_file():
        return path
    if not (path / CONFIG_FILE).is_file():
        raise UserError(
            f"{owner}: neither a run's folder, nor one of its checkpoint files, nor an exported "
            "policy; pass one of them"
        )
    checkpoints = state_files(path)
    pretraining = [file for file in checkpoints if "-pretrain-" in file.name]
    for file in [path / CHECKPOINT_FOLDER / PRETRAINED_FILE, *pretraining]:
        if file.is_file():
            return file
    if not checkpoints:
        raise UserError(f"{owner}: this run has no checkpoint yet; wait for its pretraining to end")
    raise UserError(
        f"{owner}: this run has no pretrained networks any more; to start from fine-tuned ones, "
        f"pass a checkpoint file, such as {checkpoints[0]}"
    )


def _check_policy(settings: Settings, policy: Policy) -> None:
    """Raise a UserError if the policy is of another task, or of another shape than the run's."""
    owner = f"the policy of --init_from {settings.init_from}"
    if policy.task.name != settings.env:
        raise UserError(
            f"--env {settings.env}: {owner} is for {policy.task.name}; use that task, or another "
            "policy"
        )
    _check_task(policy, settings, owner)
    for name in _POLICY_FLAGS:
        ours, theirs = getattr(settings, name), getattr(policy.settings, name)
        unread = settings.policy == "mlp" and name == "n_head"
        if ours != theirs and not unread and (name, ours) != ("stoc", 0):
            raise UserError(f"--{name} {ours}: {owner} has --{name} {theirs}; use that value")


def _why_new_critic(settings: Settings, recorded: Mapping[str, Any]) -> str:
    """Why the critic cannot be taken; "" if it can."""
    if recorded["recurrent"] != settings.recurrent:
        return f"the source's is {'not ' * settings.recurrent}recurrent"
    for name in ("rl_algo", *_CRITIC_FLAGS):
        theirs, ours = recorded.get(name), getattr(settings, name)
        if theirs != ours and (name != "arch" or settings.recurrent):
            return f"the source has --{name} {theirs}"
    return ""


def _check_optimizers(
    settings: Settings, recorded: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """Raise a UserError if the actor's optimiser cannot be taken."""
    owner = f"--init_from {settings.init_from}"
    if not all(name in state for name in OPTIMIZERS):
        raise UserError(f"--init_optimizer 1: {owner} has no optimisers; use --init_optimizer 0")
    for name in ("actor_optimizer", "stoc"):
        theirs, ours = recorded.get(name), getattr(settings, name)
        if theirs != ours:
            raise UserError(
                f"--init_optimizer 1: the optimiser of {owner} is for --{name} {theirs}, this run "
                f"has {ours}; use --init_optimizer 0"
            )
