"""Collecting episodes online, and its ablations: a target-return curriculum and a jump start.

Both ablations are off by default:

- Curriculum: the target return starts low and rises to the final target.
- Jump start (Uchendu et al. 2022, arXiv 2204.02372): a guide, the pretrained policy or another
  trained one, acts for the first h steps of each episode, then the learner takes over.

Each has two schedules. The linear one depends on the online iteration. The exponential one, that of
the published ablations (Yan, Schwing, Wang 2024, arXiv 2410.24108, figure 24), depends on the
number of episodes collected so far; those collected in parallel share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from build_networks import slow_copy
from decision_transformer import Actor, Noise, PolicyOutput
from evaluation import Episode, RolloutSettings, collect_episodes, exploring_action, rollout
from get_args import Settings
from run.stopping import Stopped


@dataclass(frozen=True)
class Schedules:
    """Target return and guided steps of an online episode.

    Attributes:
        settings: The run's settings.
        data_return: Mean return of the dataset, in training rewards.
    """

    settings: Settings
    data_return: float = 0.0

    def target_return(self, iteration: int, episode: int) -> float:
        """Target return in training rewards; iterations and episodes are counted from 0.

        Linear: from `--rtg_curriculum_start` in the first iteration to `--online_rtg` in iteration
        `--rtg_curriculum_iters` + 1. Exponential, with decay d, episode N and data return R:
        eval_rtg - d^N (eval_rtg - R).
        """
        s = self.settings
        start = self.data_return if s.rtg_curriculum_start is None else s.rtg_curriculum_start
        if s.rtg_curriculum_decay:
            return s.eval_rtg - s.rtg_curriculum_decay**episode * (s.eval_rtg - start)
        if s.rtg_curriculum_iters:
            done = min(iteration / s.rtg_curriculum_iters, 1.0)
            return start + (s.online_rtg - start) * done
        return float(s.online_rtg)

    def guided_steps(self, iteration: int, episode: int) -> int:
        """h; iterations and episodes are counted from 0.

        Linear, rounded up: from `--jump_start_steps` in the first iteration to 0 in iteration
        `--jump_start_iters` + 1. Exponential, rounded down: jump_start_steps d^N with decay d in
        episode N.
        """
        s = self.settings
        if s.jump_start_decay:
            return math.floor(s.jump_start_steps * s.jump_start_decay**episode)
        return math.ceil(s.jump_start_steps * max(1.0 - iteration / s.jump_start_iters, 0.0))

    def metrics(self, iteration: int, episode: int) -> dict[str, float]:
        """Values of the enabled schedules."""
        metrics: dict[str, float] = {}
        if self.settings.rtg_curriculum_iters or self.settings.rtg_curriculum_decay:
            metrics["aug_traj/target_return"] = self.target_return(iteration, episode)
        if self.settings.jump_start_steps:
            metrics["aug_traj/guided_steps"] = float(self.guided_steps(iteration, episode))
        return metrics


class TrainedPolicy(Protocol):
    """The interface of `policy_export.Policy` as a guide."""

    @property
    def actor(self) -> Actor: ...

    def rollout_settings(self) -> RolloutSettings: ...


class GuidedPolicy(nn.Module):
    """Acts by a guide policy for the first steps of each episode, then by the learner.

    Each sees its own context length and normalisation of states.

    Args:
        guide: Acts at timesteps below `steps`, in evaluation mode.
        learner: Acts afterwards, in its current mode.
        steps: h.
        guide_acting, acting: How the guide and the learner act.
    """

    def __init__(
        self, guide: Actor, learner: Actor, steps: int, guide_acting: RolloutSettings,
        acting: RolloutSettings,
    ) -> None:  # fmt: skip
        super().__init__()
        self.guide, self.learner, self.steps = guide, learner, steps
        self.context_lengths = guide_acting.context_length, acting.context_length
        # from the learner's normalised states to the guide's
        std = guide_acting.state_std
        scale, shift = acting.state_std / std, (acting.state_mean - guide_acting.state_mean) / std
        device = next(learner.parameters()).device
        self.scale, self.shift = (
            torch.as_tensor(x, dtype=torch.float32, device=device) for x in (scale, shift)
        )

    def act(self, states: Tensor, actions: Tensor, rtg: Tensor, timesteps: Tensor) -> PolicyOutput:
        """The output of guide or learner; all episodes are at the same timestep.

        Args:
            states: (k, T, obs_dim) normalised as the learner's.
            actions, rtg, timesteps: (k, T, ...), as for a decision transformer.
        """
        guided = int(timesteps[0, -1]) < self.steps
        actor = self.guide if guided else self.learner
        recent = slice(-self.context_lengths[0 if guided else 1], None)
        if guided:
            states = states * self.scale + self.shift
        return actor.act(
            states[:, recent], actions[:, recent], rtg[:, recent], timesteps[:, recent]
        )


class JumpStart:
    """Holds the guide policy until the schedule ends.

    Args:
        guide: The guide; by default the policy as of the start of fine-tuning.
    """

    def __init__(self, guide: TrainedPolicy | None = None) -> None:
        self._guide = guide.actor if guide else None
        self._acting = guide.rollout_settings() if guide else None

    def start(self, actor: Actor) -> None:
        """Copy the policy as of the start of fine-tuning, unless there is another guide."""
        self._guide = self._guide or slow_copy(actor)

    def end(self) -> None:
        """Drop the guide."""
        self._guide = None

    def policy(
        self, actor: Actor, steps: int, acting: RolloutSettings
    ) -> tuple[Actor | GuidedPolicy, RolloutSettings]:
        """The policy that collects if the guide acts for the first `steps` steps, and how.

        Args:
            actor: The learner.
            steps: h.
            acting: How the learner acts.
        """
        if steps == 0 or self._guide is None:
            return actor, acting
        policy = GuidedPolicy(self._guide, actor, steps, self._acting or acting, acting)
        return policy, replace(acting, context_length=max(policy.context_lengths))

    def state_dict(self) -> dict[str, Any] | None:
        """The guide's weights; None without a guide."""
        return None if self._guide is None else self._guide.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None, actor: Actor) -> None:
        """Restore `state_dict()`.

        Args:
            state: What `state_dict` returned.
            actor: A policy with the shape of the guide, if none was given.
        """
        if state is None:
            self._guide = None
            return
        self._guide = self._guide or slow_copy(actor)
        self._guide.load_state_dict(state)


@dataclass
class Collector:
    """Plays the episodes of online iterations.

    Attributes:
        settings: The run's settings.
        envs: The environments that episodes are collected in, in parallel.
        acting: How the policy acts.
        noise: Source of the exploration noise.
        schedules, jump_start: Target return, and which policy acts.
    """

    settings: Settings
    envs: Any
    acting: RolloutSettings
    noise: Noise
    schedules: Schedules
    jump_start: JumpStart = field(default_factory=JumpStart)

    def __post_init__(self) -> None:
        self._explore = partial(exploring_action, noise=self.noise, std=self.settings.expl_noise)

    def collect(
        self,
        actor: Actor,
        iteration: int,
        episode: int,
        show: Callable[[int], object] = lambda steps: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Episode]:
        """The episodes of an iteration, at least `--minimum_sapairs_per_iter` steps.

        Args:
            actor: The policy.
            iteration, episode: Iterations and episodes finished before.
            show: Called after each environment step with the iteration's number of steps.
            stop: Whether to stop early, checked before each rollout.

        Raises:
            Stopped: `stop` returned true.
            UserError: an action is NaN, or environment faults leave no steps.
        """
        actor.train(self.settings.online_data_mode == "train")

        def play(done: list[Episode]) -> list[Episode]:
            if stop():
                raise Stopped
            place = iteration, episode + len(done)
            steps = sum(each.length for each in done)
            guided_steps = self.schedules.guided_steps(*place)
            policy, acting = self.jump_start.policy(actor, guided_steps, self.acting)
            return rollout(
                policy,
                self.envs,
                acting,
                self.schedules.target_return(*place),
                self._explore,
                lambda: show(steps + int(self.envs.steps.sum())),
            )

        task, at_least = self.acting.task, self.settings.minimum_sapairs_per_iter
        episodes = collect_episodes(play, task, at_least)
        # not before, as an iteration that is stopped starts over
        if self.schedules.guided_steps(iteration, episode + len(episodes)) == 0:
            self.jump_start.end()
        return episodes
