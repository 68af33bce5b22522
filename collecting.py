"""Ablations of data collection: a target-return curriculum and a jump start.

Both follow a schedule over online iterations and are off by default.

- Curriculum: the target return rises linearly from `--rtg_curriculum_start` in the first iteration
  to `--online_rtg` in iteration `--rtg_curriculum_iters` + 1, then stays constant.
- Jump start (Uchendu et al. 2022, arXiv 2204.02372): the pretrained policy acts for the first h
  steps of each episode, then the learner takes over. h decreases linearly from
  `--jump_start_steps` in the first iteration to 0 in iteration `--jump_start_iters` + 1.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from build_networks import slow_copy
from decision_transformer import Actor, PolicyOutput
from get_args import Settings


def target_return(settings: Settings, iteration: int) -> float:
    """Target return of online iteration `iteration`, counted from 0, in training rewards."""
    target, start = float(settings.online_rtg), settings.rtg_curriculum_start
    if settings.rtg_curriculum_iters == 0 or start is None:
        return target
    return start + (target - start) * min(iteration / settings.rtg_curriculum_iters, 1.0)


def guided_steps(settings: Settings, iteration: int) -> int:
    """h of online iteration `iteration`, counted from 0; rounded up."""
    if settings.jump_start_steps == 0:
        return 0
    remaining = max(1.0 - iteration / settings.jump_start_iters, 0.0)
    return math.ceil(settings.jump_start_steps * remaining)


class GuidedPolicy(nn.Module):
    """Acts by a guide policy for the first steps of each episode, then by the learner.

    Args:
        guide: Acts at timesteps below `steps`, in evaluation mode.
        learner: Acts afterwards, in its current mode.
        steps: h.
    """

    def __init__(self, guide: Actor, learner: Actor, steps: int) -> None:
        super().__init__()
        self.guide, self.learner, self.steps = guide, learner, steps

    def act(self, states: Tensor, actions: Tensor, rtg: Tensor, timesteps: Tensor) -> PolicyOutput:
        """The output of guide or learner; all episodes are at the same timestep."""
        guided = int(timesteps[0, -1]) < self.steps
        return (self.guide if guided else self.learner).act(states, actions, rtg, timesteps)


class JumpStart:
    """Holds the guide policy from the start of fine-tuning until the schedule ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guide: Actor | None = None

    def start(self, actor: Actor) -> None:
        """Copy the policy as of the start of fine-tuning."""
        if self._settings.jump_start_steps:
            self._guide = slow_copy(actor)

    def policy(self, actor: Actor, iteration: int) -> Actor | GuidedPolicy:
        """The policy that collects in online iteration `iteration`, counted from 0."""
        steps = guided_steps(self._settings, iteration)
        if steps == 0 or self._guide is None:
            self._guide = None
            return actor
        return GuidedPolicy(self._guide, actor, steps)

    def state_dict(self) -> dict[str, Any] | None:
        """The guide's weights; None without a guide."""
        return None if self._guide is None else self._guide.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None, actor: Actor) -> None:
        """Restore `state_dict()`.

        Args:
            state: What `state_dict` returned.
            actor: A policy of the same shape.
        """
        self._guide = None
        if state is not None:
            self._guide = slow_copy(actor)
            self._guide.load_state_dict(state)


def schedule_metrics(settings: Settings, iteration: int) -> dict[str, float]:
    """Values of the enabled schedules in an iteration, counted from 0."""
    metrics: dict[str, float] = {}
    if settings.rtg_curriculum_iters:
        metrics["aug_traj/target_return"] = target_return(settings, iteration)
    if settings.jump_start_steps:
        metrics["aug_traj/guided_steps"] = float(guided_steps(settings, iteration))
    return metrics
