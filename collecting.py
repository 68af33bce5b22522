"""Ablations of how episodes are collected: what return is asked for, and who acts at first.

Both follow a schedule over online iterations, and both are off by default.

- Curriculum: the return asked for rises linearly from `--rtg_curriculum_start` in the first
  iteration to `--online_rtg` in iteration `--rtg_curriculum_iters` + 1, where it stays.
- Jump start (Uchendu et al. 2022, arXiv 2204.02372): the policy as it was when fine-tuning began
  acts for the first h steps of each episode, and the one that learns goes on from there. h falls
  linearly from `--jump_start_steps` in the first iteration to 0 in iteration
  `--jump_start_iters` + 1.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from build_networks import slow_copy
from decision_transformer import Actor, PolicyOutput
from get_args import Settings


def return_to_ask_for(settings: Settings, iteration: int) -> float:
    """The target return of online iteration `iteration`, counted from 0, in training units."""
    target, start = float(settings.online_rtg), settings.rtg_curriculum_start
    if settings.rtg_curriculum_iters == 0 or start is None:
        return target
    return start + (target - start) * min(iteration / settings.rtg_curriculum_iters, 1.0)


def steps_of_guide(settings: Settings, iteration: int) -> int:
    """h of online iteration `iteration`, counted from 0; rounded up."""
    if settings.jump_start_steps == 0:
        return 0
    left = max(1.0 - iteration / settings.jump_start_iters, 0.0)
    return math.ceil(settings.jump_start_steps * left)


class GuidedPolicy(nn.Module):
    """A guide for the first steps of each episode, then the learner.

    Args:
        guide: Acts at timesteps below `steps`, with dropout off.
        learner: Acts from there on, in the mode it is in.
        steps: h.
    """

    def __init__(self, guide: Actor, learner: Actor, steps: int) -> None:
        super().__init__()
        self.guide, self.learner, self.steps = guide, learner, steps

    def act(self, states: Tensor, actions: Tensor, rtg: Tensor, timesteps: Tensor) -> PolicyOutput:
        """The output of the one whose turn it is; all episodes are at the same timestep."""
        guided = int(timesteps[0, -1]) < self.steps
        return (self.guide if guided else self.learner).act(states, actions, rtg, timesteps)


class JumpStart:
    """Keeps the guide from the start of fine-tuning until it is not needed any more."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guide: Actor | None = None

    def start(self, actor: Actor) -> None:
        """Take a copy of the policy that fine-tuning begins with."""
        if self._settings.jump_start_steps:
            self._guide = slow_copy(actor)

    def policy(self, actor: Actor, iteration: int) -> Actor | GuidedPolicy:
        """What collects in online iteration `iteration`, counted from 0."""
        steps = steps_of_guide(self._settings, iteration)
        if steps == 0 or self._guide is None:
            self._guide = None
            return actor
        return GuidedPolicy(self._guide, actor, steps)

    def state_dict(self) -> dict[str, Any] | None:
        """The guide's weights; None where there is no guide."""
        return None if self._guide is None else self._guide.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None, actor: Actor) -> None:
        """Restore `state_dict()`.

        Args:
            state: What `state_dict` returned.
            actor: Any policy of the right shape.
        """
        self._guide = None
        if state is not None:
            self._guide = slow_copy(actor)
            self._guide.load_state_dict(state)


def schedule_metrics(settings: Settings, iteration: int) -> dict[str, float]:
    """What the schedules gave for an iteration, counted from 0; nothing where they are off."""
    metrics: dict[str, float] = {}
    if settings.rtg_curriculum_iters:
        metrics["aug_traj/target_return"] = return_to_ask_for(settings, iteration)
    if settings.jump_start_steps:
        metrics["aug_traj/guided_steps"] = float(steps_of_guide(settings, iteration))
    return metrics
