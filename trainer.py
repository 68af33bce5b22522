"""Training: the update of critic, actor, temperature and targets, and iterations of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from build_networks import (
    GRADIENT_CLIP,
    adamw,
    compile_policies,
    load_moments,
    make_actor,
    make_actor_optimizer,
    make_critic,
    slow_copy,
)
from decision_transformer import Actor, PolicyOutput
from decision_transformer.losses import action_distance_loss, supervised_loss
from decision_transformer.policy import Deterministic
from fast_gpu.updates import GraphedUpdates
from get_args import Settings
from lamb import Lamb
from replay_buffer import Sampler
from rl_gradients import Networks, OnPolicyGradient, make_rl_gradient
from rl_gradients.on_policy_buffer import OnPolicyBuffer
from run.training_log import Divergence, RunningMeans
from tasks import Task
from trajectories import Batch, Info, masked_mean

CRITIC_WEIGHT_DECAY = 0.01
# batches between checks for NaN; each check synchronises with the device
CHECK_INTERVAL = 100
TEMPERATURE_LR = 1e-4

# metrics logged under another name than training/<name>
_LOG_NAMES = {"actor_loss": "train_loss_mean", "temperature": "temp_value"}
_SPREAD_NAMES = {"actor_loss": "train_loss_std"}


class Trainer:
    """The networks, their optimisers and the update.

    Args:
        settings: All settings of the run.
        task: The task, for network sizes and the critic's LayerNorm.
        device: Device of all computations.
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
            compile_policies(actor, self.nets.actor_target)
        self.actor_optimizer = make_actor_optimizer(settings, actor)
        self.critic_optimizer = adamw(
            critic.parameters(), settings.critic_learning_rate, CRITIC_WEIGHT_DECAY
        )
        rate = TEMPERATURE_LR * settings.temperature_learnable
        self.temperature_optimizer = adamw([self.nets.log_temperature], rate, 0.0)
        self.tunes_temperature = bool(settings.stoc) and (
            bool(settings.use_entropy_reg) or self.algorithm.tunes_temperature
        )
        self.entropy_target = -float(task.act_dim)
        self.actor_updates = 0
        self.rl_coeff, self.sup_coeff, self.prev_policy_coeff = 0.0, 1.0, 0.0
        # the actor as of the iteration's start, if prev_policy_coeff is not 0
        self._previous: Actor | None = None
        self.phase_iterations = 0
        # progress of the current iteration: batches done, and seconds before an interruption
        self.tick, self._seconds = 0, 0.0
        self._batch: Batch | None = None
        self._means = RunningMeans()
        graphed = device.type == "cuda" and settings.cuda_graphs
        self._graphs = GraphedUpdates(self._update, device) if graphed else None

    # ---- one update

    def update(self, batch: Batch, with_actor: bool) -> None:
        """One critic update, optionally followed by an actor and a target update on the batch."""
        if with_actor:
            self._prepare_actor_step()
        self._update(batch, with_actor)

    def update_on(self, sample: Callable[[], Batch], with_actor: bool) -> None:
        """`update` on a sampled batch, as a CUDA graph if possible."""
        # the previous policy is another network in each iteration
        if self._graphs is None or self._previous is not None or not isinstance(sample, Sampler):
            self.update(sample(), with_actor)
            return
        if with_actor:
            self._prepare_actor_step()
        self._graphs(sample, with_actor)

    def _update(self, batch: Batch, with_actor: bool) -> None:
        """Launch an update; CUDA graphs replay it without running this code."""
        info = self._critic_step(batch)
        if with_actor:
            info |= self._actor_step(batch)
            self.update_targets()
        self._log(info)

    def update_critic(self, batch: Batch) -> None:
        """One step on the critic loss."""
        self._log(self._critic_step(batch))

    def update_actor(self, batch: Batch, on_policy: Batch | None = None) -> None:
        """One step on the supervised and the RL loss, then on the temperature if it is learned.

        Args:
            batch: Batch of the supervised loss, and of the RL loss unless `on_policy` is given.
            on_policy: Batch of the RL loss of PPO and AWR.
        """
        self._prepare_actor_step()
        self._log(self._actor_step(batch, on_policy))

    def _critic_step(self, batch: Batch) -> Info:
        self._batch = batch
        loss, info = self.algorithm.critic_loss(self.nets, batch, self.noise)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        return {"critic_MSE_loss": loss.detach(), **info}

    def _prepare_actor_step(self) -> None:
        """Set what differs from one step of the actor's optimiser to the next."""
        optimizer, lr = self.actor_optimizer, self.actor_lr
        group = optimizer.param_groups[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
        if isinstance(optimizer, Lamb) and optimizer.capturable:
            optimizer.prepare()
        self.actor_updates += 1

    def _actor_step(self, batch: Batch, on_policy: Batch | None = None) -> Info:
        nets, info = self.nets, Info()
        policy = self._policy(batch, nets.actor)
        entropy = None
        if not isinstance(policy, Deterministic):
            entropy = masked_mean(policy.entropy(self.noise), batch.mask)
            info |= {"entropy": entropy.detach(), "temperature": nets.temperature}
        weight = nets.temperature if self.settings.use_entropy_reg else 0.0
        sup_loss, sup_info = supervised_loss(policy, batch, entropy, weight)
        rl_loss, rl_coeff, rl_info = self._rl_loss(batch, policy, on_policy)

        loss = self.sup_coeff * sup_loss + rl_coeff * rl_loss
        if self._previous is not None:
            with torch.no_grad():
                previous = self._policy(batch, self._previous)
            distance = action_distance_loss(policy.mean, previous.mean, batch.mask)
            loss = loss + self.prev_policy_coeff * distance
            info["policy_distance"] = distance.detach()
        self.actor_optimizer.zero_grad()
        loss.backward()
        if self.settings.grad_clip:
            norm = nn.utils.clip_grad_norm_(nets.actor.parameters(), GRADIENT_CLIP)
            info["grad_norm"] = norm
        self.actor_optimizer.step()
        if self.tunes_temperature and entropy is not None:
            self._update_temperature(entropy.detach())
        losses = {"actor_loss": loss, "sup_loss": sup_loss, "rl_loss": rl_loss}
        info |= {name: x.detach() for name, x in losses.items()}
        info["rl_coeff"] = torch.zeros((), device=self.device) + rl_coeff
        return info | sup_info | rl_info

    def _rl_loss(
        self, batch: Batch, policy: PolicyOutput, on_policy: Batch | None
    ) -> tuple[Tensor, Tensor | float, Info]:
        """The RL loss, its coefficient in this update, and metrics.

        With a coefficient of 0 the loss is computed for the log only, without gradient.
        """
        coeff = self.rl_coeff
        if isinstance(self.algorithm, OnPolicyGradient):
            if on_policy is None:
                return torch.zeros((), device=self.device), 0.0, {}
            if self.algorithm.starts_late and self.phase_iterations == 0:
                coeff = 0.0
        self.nets.critic.requires_grad_(False)
        try:
            with torch.set_grad_enabled(coeff != 0):
                if on_policy is not None:
                    batch, policy = on_policy, self._policy(on_policy, self.nets.actor)
                loss, info = self.algorithm.actor_loss(self.nets, batch, policy, self.noise)
        finally:
            # also if a CUDA graph cannot capture this: the update then runs without it
            self.nets.critic.requires_grad_(True)
        scale = info.pop("rl_scale")
        return loss, coeff / scale if self.settings.normalized_rl_coeff else coeff, info

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
        nets = self.nets
        pairs = [(nets.actor_target, nets.actor), (nets.critic_target, nets.critic)]
        slow: list[Tensor] = [p for target, _ in pairs for p in target.parameters()]
        fast: list[Tensor] = [p for _, trained in pairs for p in trained.parameters()]
        torch._foreach_lerp_(slow, fast, self.algorithm.tau)

    @staticmethod
    def _policy(batch: Batch, actor: Actor) -> PolicyOutput:
        return actor(batch.states, batch.actions, batch.rtg[:, :-1], batch.timesteps, batch.mask)

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Standard normal draws on the training device."""
        return torch.randn(tuple(shape), device=self.device)

    # ---- phases and iterations

    def set_coefficients(
        self, rl_coeff: float, sup_coeff: float, prev_policy_coeff: float = 0.0
    ) -> None:
        """Set the weights of the actor's losses.

        Args:
            rl_coeff, sup_coeff: Weights of the RL and of the supervised loss.
            prev_policy_coeff: Weight of the distance to the actions of the actor as of the
                iteration's start.
        """
        self.rl_coeff, self.sup_coeff = rl_coeff, sup_coeff
        self.prev_policy_coeff = prev_policy_coeff
        self._forget_graphs()

    def start_phase(self, *coefficients: float) -> None:
        """Begin pretraining or fine-tuning: `set_coefficients` and fresh target networks.

        Optimisers and the learning-rate schedule carry over.
        """
        self.set_coefficients(*coefficients)
        self.phase_iterations = 0
        self.nets.actor_target = slow_copy(self.nets.actor)
        self.nets.critic_target = slow_copy(self.nets.critic)
        if self.settings.compile:
            compile_policies(self.nets.actor_target)

    def _forget_graphs(self) -> None:
        """Capture updates again, as numbers or tensors that they use change."""
        if self._graphs is not None:
            self._graphs.clear()

    def run_iteration(
        self,
        sample: Callable[[], Batch],
        num_updates: int,
        on_update: Callable[[], object] = lambda: None,
        on_policy: OnPolicyBuffer | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:
        """`num_updates` actor updates, with `--num_actor_update_interval` critic updates each.

        Args:
            sample: Draws a batch from the replay buffer.
            num_updates: Number of actor updates.
            on_update: Called after each actor update, for a progress bar.
            on_policy: Source of batches for the RL loss of PPO and AWR.
            stop_requested: Checked before each batch. If true, the iteration ends early and the
                next call continues it.

        Returns:
            Means over the iteration by their names in docs/METRICS.md; None if it ended early.

        Raises:
            Divergence: a loss or a weight is NaN or infinite.
        """
        start = time.perf_counter()
        self.nets.actor.train()
        if self.prev_policy_coeff and self.tick == 0:
            self._previous = slow_copy(self.nets.actor)
        for tick in range(self.tick, self._num_ticks(num_updates, on_policy)):
            if stop_requested():
                self._seconds += time.perf_counter() - start
                return None
            if on_policy is None:
                updated_actor = tick % self.settings.num_actor_update_interval == 0
                self.update_on(sample, updated_actor)
            else:
                updated_actor = self._on_policy_tick(tick, num_updates, sample, on_policy)
            self.tick = tick + 1
            if updated_actor:
                on_update()
            if self.tick % CHECK_INTERVAL == 0:
                self._check_finite()
        self._check_finite()
        self._check_weights()
        self.phase_iterations += 1
        metrics = self._read_metrics()
        seconds = self._seconds + time.perf_counter() - start
        metrics["time/training"] = seconds
        metrics["time/updates_per_second"] = num_updates / seconds if num_updates else 0.0
        self.tick, self._seconds, self._previous = 0, 0.0, None
        return metrics

    def _num_ticks(self, num_updates: int, on_policy: OnPolicyBuffer | None) -> int:
        """Batches per iteration."""
        if on_policy is None:
            return num_updates * self.settings.num_actor_update_interval
        return num_updates * (2 if on_policy.critic_first else 1)

    def _on_policy_tick(
        self, tick: int, num_updates: int, sample: Callable[[], Batch], on_policy: OnPolicyBuffer
    ) -> bool:
        """PPO: critic and actor on every batch. AWR: first all critic, then all actor updates."""
        if tick == 0 or (on_policy.critic_first and tick == num_updates):
            on_policy.refresh(self.nets.critic)
        batch = on_policy.sample()
        if not on_policy.critic_first or tick < num_updates:
            self.update_critic(batch)
        if on_policy.critic_first and tick < num_updates:
            return False
        self.update_actor(sample(), batch)
        return True

    # ---- metrics and checkpoints

    def _log(self, info: Info) -> None:
        self._means.add(info)

    def divergence(self, *names: str) -> Divergence:
        """The error if these quantities are not finite."""
        return Divergence(list(names), self._batch)

    def _check_finite(self) -> None:
        broken = self._means.not_finite()
        if broken:
            raise self.divergence(*broken)

    def _check_weights(self) -> None:
        """Check the result of the last update, which no loss covers yet."""
        for name, net in (("critic_weights", self.nets.critic), ("actor_weights", self.nets.actor)):
            if not torch.stack([p.isfinite().all() for p in net.parameters()]).all():
                raise self.divergence(name)

    def _read_metrics(self) -> dict[str, float]:
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
        """Restore `state_dict()`; learning rates and coefficients are taken from the settings."""
        self._forget_graphs()
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
