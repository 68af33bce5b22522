"""One update and one iteration of training: critic, actor, temperature, targets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from build_networks import (
    GRADIENT_CLIP,
    load_moments,
    make_actor,
    make_actor_optimizer,
    make_critic,
    replay_as_cuda_graphs,
    slow_copy,
)
from decision_transformer import Actor, PolicyOutput
from decision_transformer.policy import Deterministic
from get_args import Settings
from rl_gradients import Networks, OnPolicyGradient, make_rl_gradient
from rl_gradients.online_buffer import OnlineBuffer
from run.training_log import Divergence, RunningMeans
from tasks import Task
from trajectories import Batch, Info, masked_mean, without_padding

CRITIC_WEIGHT_DECAY = 0.01
# batches between looks at the losses: each look waits for the device
CHECK_INTERVAL = 100
TEMPERATURE_LR = 1e-4

# what is logged under another name than training/<name>
_LOG_NAMES = {"actor_loss": "train_loss_mean", "temperature": "temp_value"}
_SPREAD_NAMES = {"actor_loss": "train_loss_std"}


def supervised_loss(
    policy: PolicyOutput, batch: Batch, entropy: Tensor | None, entropy_weight: Tensor | float
) -> tuple[Tensor, Info]:
    """The decision transformer's own loss, a mean over the steps that are no padding.

    Deterministic: the squared error per action dimension. Stochastic (Zheng et al. 2022,
    equation 5): -(log pi(a | .) + weight * entropy).

    Args:
        policy: The actor's output on the batch.
        batch: The batch.
        entropy: 0-d estimate of the policy's entropy; None for a deterministic policy.
        entropy_weight: The temperature, without gradient; 0 leaves the entropy out.
    """
    if isinstance(policy, Deterministic):
        error = F.mse_loss(policy.mean, batch.actions, reduction="none").mean(-1)
        return masked_mean(error, batch.mask), {}
    nll = -masked_mean(policy.log_prob(batch.actions), batch.mask)
    loss = nll if entropy is None else nll - entropy_weight * entropy
    return loss, {"nll": nll.detach()}


def action_distance_loss(actions: Tensor, previous: Tensor, mask: Tensor) -> Tensor:
    """mean ||pi(s) - pi_previous(s)||^2, summed over action dimensions.

    Up to a factor it is the KL divergence of two Gaussians of one fixed variance around both
    actions, so that it holds the policy near the previous one as a KL regulariser does.

    Args:
        actions: (B, K, act_dim) mean actions of the policy, with gradient.
        previous: (B, K, act_dim) those of the previous policy, without.
        mask: (B, K) bool.
    """
    difference = without_padding(actions - previous, mask[..., None])
    return masked_mean(difference.square().sum(-1), mask)


class Trainer:
    """The networks, their optimisers and the update.

    Args:
        settings: All settings of the run.
        task: The task, for the sizes of the networks and the critic's LayerNorm.
        device: Where everything is computed.
    """

    def __init__(self, settings: Settings, task: Task, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.algorithm = make_rl_gradient(settings)
        actor = make_actor(settings, task).to(device)
        critic = make_critic(settings, task, self.algorithm).to(device)
        log_temperature = torch.tensor(settings.init_temperature, device=device).log()
        self.nets = Networks(
            actor, critic, slow_copy(actor), slow_copy(critic), nn.Parameter(log_temperature)
        )
        if settings.compile:
            replay_as_cuda_graphs(actor, self.nets.actor_target)
        self.actor_optimizer = make_actor_optimizer(settings, actor)
        self.critic_optimizer = torch.optim.AdamW(
            critic.parameters(),
            lr=settings.critic_learning_rate,
            weight_decay=CRITIC_WEIGHT_DECAY,
            foreach=True,
        )
        self.temperature_optimizer = torch.optim.Adam(
            [self.nets.log_temperature], lr=TEMPERATURE_LR * settings.temperature_learnable
        )
        self.tunes_temperature = bool(settings.stoc) and (
            bool(settings.use_entropy_reg) or self.algorithm.tunes_temperature
        )
        self.entropy_target = -float(task.act_dim)
        self.actor_updates = 0
        self.rl_coeff, self.sup_coeff, self.prev_policy_coeff = 0.0, 1.0, 0.0
        # the actor at the iteration's start, where its distance has a coefficient
        self._previous: Actor | None = None
        self.phase_iterations = 0
        # progress of an iteration under way: batches, and seconds before an interruption
        self.tick, self._seconds = 0, 0.0
        self._batch: Batch | None = None
        self._means = RunningMeans()

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers on the training device."""
        return torch.randn(tuple(shape), device=self.device)

    def set_coefficients(
        self, rl_coeff: float, sup_coeff: float, prev_policy_coeff: float = 0.0
    ) -> None:
        """Weigh the actor's losses.

        Args:
            rl_coeff, sup_coeff: Weights of the RL and of the supervised loss.
            prev_policy_coeff: That of the distance to the actions of the actor as it was when
                the iteration began.
        """
        self.rl_coeff, self.sup_coeff = rl_coeff, sup_coeff
        self.prev_policy_coeff = prev_policy_coeff

    def start_phase(self, *coefficients: float) -> None:
        """Begin pretraining or online fine-tuning: `set_coefficients`, fresh target networks.

        Optimisers and the learning-rate schedule carry over.
        """
        self.set_coefficients(*coefficients)
        self.phase_iterations = 0
        self.nets.actor_target = slow_copy(self.nets.actor)
        self.nets.critic_target = slow_copy(self.nets.critic)
        if self.settings.compile:
            replay_as_cuda_graphs(self.nets.actor_target)

    def run_iteration(
        self,
        sample: Callable[[], Batch],
        num_updates: int,
        on_update: Callable[[], object] = lambda: None,
        online: OnlineBuffer | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:
        """`num_updates` actor updates, with `--num_actor_update_interval` critic updates each.

        Args:
            sample: Draws a batch.
            num_updates: Number of actor updates.
            on_update: Called after each, for a progress bar.
            online: What PPO and AWR learn from, beside the batches of the supervised loss.
            stop_requested: Asked before each batch; the iteration then ends early, and the next
                call goes on where it was.

        Returns:
            Means over the iteration, by the names of docs/METRICS.md; None if it ended early.

        Raises:
            Divergence: a loss is not finite any more.
        """
        start = time.perf_counter()
        self.nets.actor.train()
        if self.prev_policy_coeff and self.tick == 0:
            self._previous = slow_copy(self.nets.actor)
        for tick in range(self.tick, self._num_ticks(num_updates, online)):
            if stop_requested():
                self._seconds += time.perf_counter() - start
                return None
            if online is None:
                updated_actor = self._tick(tick, sample)
            else:
                updated_actor = self._online_tick(tick, num_updates, sample, online)
            self.tick = tick + 1
            if updated_actor:
                on_update()
            if self.tick % CHECK_INTERVAL == 0:
                self._check_finite()
        self._check_finite()
        self.phase_iterations += 1
        metrics = self._read_logged()
        seconds = self._seconds + time.perf_counter() - start
        metrics["time/training"] = seconds
        metrics["time/updates_per_second"] = num_updates / seconds if num_updates else 0.0
        self.tick, self._seconds, self._previous = 0, 0.0, None
        return metrics

    def _num_ticks(self, num_updates: int, online: OnlineBuffer | None) -> int:
        """Batches of an iteration: what an interrupted one counts its progress in."""
        if online is None:
            return num_updates * self.settings.num_actor_update_interval
        return num_updates * (2 if online.critic_first else 1)

    def _tick(self, tick: int, sample: Callable[[], Batch]) -> bool:
        with_actor = tick % self.settings.num_actor_update_interval == 0
        self.update(sample(), with_actor)
        return with_actor

    def _online_tick(
        self, tick: int, num_updates: int, sample: Callable[[], Batch], online: OnlineBuffer
    ) -> bool:
        """Critic and actor in turn on online batches, or first the one and then the other."""
        if tick == 0 or (online.critic_first and tick == num_updates):
            online.refresh(self.nets.critic)
        batch = online.sample()
        if not online.critic_first or tick < num_updates:
            self.update_critic(batch)
        if online.critic_first and tick < num_updates:
            return False
        self.update_actor(sample(), batch)
        return True

    def _check_finite(self) -> None:
        broken = self._means.not_finite()
        if broken:
            raise Divergence(broken, self._batch)

    def update(self, batch: Batch, with_actor: bool) -> None:
        """One critic update; where due also the actor on the same batch, and then the targets."""
        self.update_critic(batch)
        if with_actor:
            self.update_actor(batch)
            self.update_targets()

    def update_critic(self, batch: Batch) -> None:
        """One step on the critic's loss."""
        self._batch = batch
        if self.settings.compile:
            torch.compiler.cudagraph_mark_step_begin()
        loss, info = self.algorithm.critic_loss(self.nets, batch, self.noise)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        self._log({"critic_MSE_loss": loss.detach(), **info})

    def update_actor(self, batch: Batch, online: Batch | None = None) -> None:
        """One step on the supervised and the RL loss; then the temperature, where it learns.

        Args:
            batch: For the supervised loss, and for the RL loss where there is no other.
            online: For the RL loss of PPO and AWR.
        """
        nets = self.nets
        policy = self._policy(batch, nets.actor)
        entropy = None
        if not isinstance(policy, Deterministic):
            entropy = masked_mean(policy.entropy(self.noise), batch.mask)
            self._log({"entropy": entropy.detach(), "temperature": nets.temperature})
        weight = nets.temperature if self.settings.use_entropy_reg else 0.0
        sup_loss, sup_info = supervised_loss(policy, batch, entropy, weight)
        rl_loss, rl_coeff, rl_info = self._rl_loss(batch, policy, online)

        loss = self.sup_coeff * sup_loss + rl_coeff * rl_loss
        if self._previous is not None:
            with torch.no_grad():
                previous = self._policy(batch, self._previous)
            distance = action_distance_loss(policy.mean, previous.mean, batch.mask)
            loss = loss + self.prev_policy_coeff * distance
            self._log({"policy_distance": distance.detach()})
        self.actor_optimizer.zero_grad()
        loss.backward()
        self._step_actor()
        if self.tunes_temperature and entropy is not None:
            self._update_temperature(entropy.detach())
        losses = {"actor_loss": loss, "sup_loss": sup_loss, "rl_loss": rl_loss}
        losses["rl_coeff"] = torch.zeros((), device=self.device) + rl_coeff
        self._log({**{k: v.detach() for k, v in losses.items()}, **sup_info, **rl_info})

    @staticmethod
    def _policy(batch: Batch, actor: Actor) -> PolicyOutput:
        return actor(batch.states, batch.actions, batch.rtg[:, :-1], batch.timesteps, batch.mask)

    def _rl_loss(
        self, batch: Batch, policy: PolicyOutput, online: Batch | None
    ) -> tuple[Tensor, Tensor | float, Info]:
        """The RL loss, its coefficient for this update, and what to log.

        Without a coefficient the loss is for the log only, and has no gradient.
        """
        coeff = self.rl_coeff
        if isinstance(self.algorithm, OnPolicyGradient):
            if online is None:
                return torch.zeros((), device=self.device), 0.0, {}
            if self.algorithm.starts_late and self.phase_iterations == 0:
                coeff = 0.0
        self.nets.critic.requires_grad_(False)
        with torch.set_grad_enabled(coeff != 0):
            if online is not None:
                batch, policy = online, self._policy(online, self.nets.actor)
            loss, info = self.algorithm.actor_loss(self.nets, batch, policy, self.noise)
        self.nets.critic.requires_grad_(True)
        scale = info.pop("rl_scale")
        return loss, coeff / scale if self.settings.normalized_rl_coeff else coeff, info

    def _step_actor(self) -> None:
        if self.settings.grad_clip:
            norm = nn.utils.clip_grad_norm_(self.nets.actor.parameters(), GRADIENT_CLIP)
            self._log({"grad_norm": norm})
        self.actor_optimizer.param_groups[0]["lr"] = self.actor_lr
        self.actor_optimizer.step()
        self.actor_updates += 1

    @property
    def actor_lr(self) -> float:
        """Learning rate of the next actor update: linear warm-up, then constant."""
        settings = self.settings
        if not settings.lr_scheduler or not settings.warmup_steps:
            return settings.learning_rate
        return settings.learning_rate * min((self.actor_updates + 1) / settings.warmup_steps, 1)

    def _update_temperature(self, entropy: Tensor) -> None:
        """Move the entropy towards minus the action dimension (Haarnoja et al. 2018b, eq. 18)."""
        loss = self.nets.log_temperature.exp() * (entropy - self.entropy_target)
        self.temperature_optimizer.zero_grad()
        loss.backward()
        self.temperature_optimizer.step()

    @torch.no_grad()
    def update_targets(self) -> None:
        """theta' <- tau theta + (1 - tau) theta'"""
        if not self.algorithm.tau:
            return
        pairs = [
            (self.nets.actor_target, self.nets.actor),
            (self.nets.critic_target, self.nets.critic),
        ]
        slow: list[Tensor] = [p for target, _ in pairs for p in target.parameters()]
        fast: list[Tensor] = [p for _, online in pairs for p in online.parameters()]
        torch._foreach_lerp_(slow, fast, self.algorithm.tau)

    def _log(self, info: Info) -> None:
        self._means.add(info)

    def _read_logged(self) -> dict[str, float]:
        metrics = {"training/actor_lr": self.actor_lr}
        for name, (mean, deviation) in self._means.read().items():
            metrics[f"training/{_LOG_NAMES.get(name, name)}"] = mean
            if name in _SPREAD_NAMES:
                metrics[f"training/{_SPREAD_NAMES[name]}"] = deviation
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Weights, targets, optimisers and counters, as tensors and plain values."""
        nets = self.nets
        return {
            "actor": nets.actor.state_dict(),
            "critic": nets.critic.state_dict(),
            "actor_target": nets.actor_target.state_dict(),
            "critic_target": nets.critic_target.state_dict(),
            "log_temperature": nets.log_temperature.detach().clone(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "temperature_optimizer": self.temperature_optimizer.state_dict(),
            "actor_updates": self.actor_updates,
            "previous": None if self._previous is None else self._previous.state_dict(),
            "phase_iterations": self.phase_iterations,
            "tick": self.tick,
            "seconds": self._seconds,
            "means": self._means.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`; learning rates and coefficients stay those of the settings."""
        nets = self.nets
        for name in ("actor", "critic", "actor_target", "critic_target"):
            getattr(nets, name).load_state_dict(state[name])
        nets.log_temperature.data.copy_(state["log_temperature"])
        for name in ("actor_optimizer", "critic_optimizer", "temperature_optimizer"):
            load_moments(getattr(self, name), state[name])
        self.actor_updates = state["actor_updates"]
        if state["previous"] is not None:
            self._previous = slow_copy(nets.actor)
            self._previous.load_state_dict(state["previous"])
        self.phase_iterations = state["phase_iterations"]
        self.tick, self._seconds = state["tick"], state["seconds"]
        self._means.load_state_dict(state["means"])
