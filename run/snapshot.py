"""What a checkpoint contains, and restoring a run from it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from evaluation import RolloutSettings
from get_args import Settings
from replay_buffer import ReplayBuffer
from rl_gradients.on_policy_buffer import OnPolicyBuffer
from run.checkpoint import check_shapes, rng_state, set_rng_state
from run.progress import Progress

if TYPE_CHECKING:
    from d4rl_envs.vector import EnvVector

# in the state of a trainer
OPTIMIZERS = ("actor_optimizer", "critic_optimizer", "temperature_optimizer")


class Parts(Protocol):
    """The parts of a run that a checkpoint covers, see `main.Experiment`."""

    settings: Settings
    run_dir: Path
    device: torch.device
    rollout_settings: RolloutSettings
    progress: Progress
    trainer: Any
    buffer: ReplayBuffer
    on_policy: OnPolicyBuffer | None
    collector: Any
    eval_envs: EnvVector
    online_envs: EnvVector


def best_policy_state(run: Parts, metrics: Mapping[str, float]) -> dict[str, Any]:
    """What best.pt contains: the policy, and the evaluation among the iteration's metrics."""
    return {
        **_identity(run),
        "trainer": {"actor": run.trainer.nets.actor.state_dict()},
        "evaluation": {k: v for k, v in metrics.items() if k.startswith("evaluation/")},
    }


def pretrained_state(run: Parts) -> dict[str, Any]:
    """What pretrained.pt contains: networks, optimisers and their counter of updates."""
    state = run.trainer.state_dict()
    names = ("actor", "critic", "log_temperature", *OPTIMIZERS, "actor_updates")
    return {
        **_identity(run),
        "rows_logged": run.progress.rows,
        "trainer": {name: state[name] for name in names},
    }


def checkpoint_state(run: Parts) -> dict[str, Any]:
    """Everything `--resume` needs except the settings and the trajectories."""
    progress, on_policy = run.progress, run.on_policy
    return {
        **_identity(run),
        "episodes": progress.episodes,
        "collected_metrics": dict(progress.collected),
        "best_score": progress.best_score,
        "seconds": progress.seconds,
        "rows_logged": progress.rows,
        "trainer": run.trainer.state_dict(),
        "buffer": run.buffer.state_dict(),
        "online_buffer": None if on_policy is None else on_policy.state_dict(),
        "jump_start": run.collector.jump_start.state_dict(),
        "rng": rng_state(run.device),
        "eval_rng": run.eval_envs.rng_states(),
        "online_rng": run.online_envs.rng_states(),
    }


def _identity(run: Parts) -> dict[str, Any]:
    """Which run this is, how far it has come, and what its policy needs to act."""
    settings, progress = run.settings, run.progress
    return {
        "env": settings.env,
        "rl_algo": settings.rl_algo,
        "recurrent": settings.recurrent,
        "phase": progress.phase,
        "iterations": dict(progress.iterations),
        "transitions": progress.transitions,
        "normalization": {
            "mean": torch.as_tensor(run.rollout_settings.state_mean),
            "std": torch.as_tensor(run.rollout_settings.state_std),
        },
    }


def restore(run: Parts, state: dict[str, Any]) -> None:
    """Restore a new run from a checkpoint; writes no files.

    Args:
        run: Built with the settings of the checkpoint's run.
        state: From `load_checkpoint`. The run's progress is restored already.

    Raises:
        UserError: the weights have other shapes.
    """
    for name in ("actor", "critic"):
        owner = f"--resume: the checkpoint's {name}"
        check_shapes(getattr(run.trainer.nets, name), state["trainer"][name], owner)
    run.progress.started = time.perf_counter() - state["seconds"]
    run.trainer.load_state_dict(state["trainer"])
    run.buffer.load_state_dict(state["buffer"], state["collected"])
    actor = run.trainer.nets.actor
    if run.on_policy is not None:
        run.on_policy.load_state_dict(state["online_buffer"], actor)
    run.collector.jump_start.load_state_dict(state["jump_start"], actor)
    run.eval_envs.set_rng_states(state["eval_rng"])
    run.online_envs.set_rng_states(state["online_rng"])
    set_rng_state(state["rng"], run.device)
