"""Pretrain a decision transformer on offline data, then fine-tune it online with RL gradients."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import d4rl_envs
from collecting import JumpStart, schedule_metrics, target_return
from data import dataset_path, load_dataset
from evaluation import (
    RolloutSettings,
    collect_episodes,
    collection_metrics,
    evaluation_metrics,
    exploring_action,
    rollout,
)
from fast_cpu.device_tuning import check_device, tune_device
from get_args import Settings
from logger import Logger
from replay_buffer import ReplayBuffer
from rl_gradients import OnPolicyGradient
from rl_gradients.on_policy_buffer import OnPolicyBuffer
from run.checkpoint import CheckpointStore, load_checkpoint
from run.files import VIDEO_FOLDER
from run.folder import create_run_dir
from run.resume import read_settings
from run.setting_checks import check_settings, notices
from run.snapshot import Progress, best_policy_state, checkpoint_state, restore
from run.state import RunSession
from run.stopping import (
    EXIT_DIVERGED,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    EXIT_USER_ERROR,
    Stopped,
    StopSignal,
    explain_divergence,
    next_step,
)
from run.training_log import Divergence
from run.video import VideoRecorder
from run.writers import leave
from tasks import get_task
from trainer import Trainer
from trajectories import Batch
from utils import UserError, seed_everything, select_device

# evaluation environments have the seeds 0, 1, ..., collection environments 100, 101, ...
COLLECTION_SEED = 100


class Experiment:
    """One run: offline data, environments, agent and logger wired together.

    Args:
        settings: Checked settings.
        stop: Whether the run should stop early.

    Raises:
        UserError: the data, device, folder or checkpoint cannot be used; nothing is written then.
    """

    def __init__(self, settings: Settings, stop: Callable[[], bool] = lambda: False) -> None:
        self.settings, self.task, self._stop = settings, get_task(settings.env), stop
        self.device = select_device(settings.device, settings.force_device)
        check_device(self.device, settings.precision, bool(settings.compile))
        self.budget = settings.max_online_transitions or self.task.online_budget
        path = dataset_path(self.task, Path(settings.data_dir), settings.dataset)
        seed_everything(settings.seed)
        self.trainer = Trainer(settings, self.task, self.device)
        self._make_environments()
        fingerprint = self._load_data(path)
        # after loading, so that memory freed by it returns to the system
        tune_device(self.device, settings.precision)
        self.on_policy: OnPolicyBuffer | None = None
        if isinstance(self.trainer.algorithm, OnPolicyGradient):
            self.on_policy = OnPolicyBuffer(
                self.buffer, self.trainer.algorithm, settings.batch_size, settings.K
            )
        self.jump_start = JumpStart(settings)
        self.progress = Progress()

        self.run_dir = create_run_dir(settings)
        self.session = RunSession(self.run_dir)
        state = load_checkpoint(self.run_dir) if settings.resume else None
        if state is not None:
            restore(self, state)
            self.trainer.set_coefficients(*self._coefficients())
        self.logger = Logger(
            self.run_dir, settings, fingerprint, self.eval_envs.engine, self.progress.rows
        )
        self.checkpoints = CheckpointStore(self.run_dir, settings.keep_checkpoints, state)

    def _make_environments(self) -> None:
        s = self.settings
        make = partial(
            d4rl_envs.make_vector, self.task, backend=s.env_backend, legacy_python=s.legacy_python
        )
        mode = "rgb_array" if s.video_debug else None
        self.eval_envs = make(range(s.num_eval_episodes), mode)
        self.online_envs = make(range(COLLECTION_SEED, COLLECTION_SEED + s.num_online_rollouts))
        self.video = VideoRecorder(self.eval_envs) if s.video_debug else None

    def _load_data(self, path: Path) -> dict[str, Any]:
        """Fill the replay buffer with the offline data; returns the data's fingerprint."""
        s = self.settings
        dataset = load_dataset(
            path,
            self.task,
            remove_trivial=bool(s.remove_trivial_trajs),
            delayed_reward=s.delayed_reward,
            spare_rows=self._online_rows(),
        )
        mean, std = dataset.state_mean, dataset.state_std
        self.rollout_settings = RolloutSettings(
            self.task, s.eval_context_length, mean, std, s.delayed_reward
        )
        self.buffer = ReplayBuffer(dataset, s.replay_size, self.task.rtg_scale, self.device)
        score = float(self.task.normalized_score(dataset.raw_returns.mean()))
        return dataset.fingerprint | {"mean_normalized_score": score}

    def _online_rows(self) -> int:
        """Buffer rows to reserve for collected transitions."""
        s, horizon = self.settings, self.task.horizon
        iteration = s.minimum_sapairs_per_iter + s.num_online_rollouts * horizon
        # twice the buffer's capacity, so that old rows are dropped in large blocks
        capacity = 2 * s.replay_size * horizon
        return min(self.budget, capacity, s.max_online_iters * iteration) + iteration

    def run(self) -> None:
        """Pretrain, then fine-tune."""
        for notice in notices(self.settings):
            self.logger.info(f"note: {notice}")
        actor = sum(p.numel() for p in self.trainer.nets.actor.parameters())
        self.logger.info(
            f"{self.task.name} on {self.device}: {self.buffer.num_offline_transitions:,} offline "
            f"transitions, {actor:,} actor parameters, results in {self.run_dir}"
        )
        try:
            with self.session:
                self.pretrain()
                self.finetune()
        finally:
            self.logger.finish()
            self.eval_envs.close()
            self.online_envs.close()
        self.logger.info(f"Finished. Results are in {self.run_dir}")

    def pretrain(self) -> None:
        """Supervised learning on all offline trajectories; the critic is trained too."""
        s, done = self.settings, self.progress.iterations
        sample = partial(self.buffer.sample, s.batch_size, s.K, offline=True)
        while done["pretrain"] < s.max_pretrain_iters:
            self._start_phase("pretrain")
            metrics = self._train(sample, s.num_updates_per_pretrain_iter)
            metrics |= self.evaluate()
            self._finish_iteration(metrics, last=done["pretrain"] + 1 >= s.max_pretrain_iters)

    def finetune(self) -> None:
        """Collect episodes and train on the replay buffer, until the iterations or budget end."""
        s, progress = self.settings, self.progress
        sample = partial(self.buffer.sample, s.batch_size, s.K)
        while progress.iterations["online"] < s.max_online_iters and (
            progress.collected or progress.transitions < self.budget
        ):
            self._start_phase("online")
            # an iteration that was stopped during training has already collected
            progress.collected = progress.collected or self.collect()
            metrics = self._train(sample, s.num_updates_per_online_iter, self.on_policy)
            metrics |= progress.collected
            iteration = progress.iteration + 1
            last = iteration >= s.max_online_iters or progress.transitions >= self.budget
            if last or iteration % s.eval_interval == 0:
                metrics |= self.evaluate()
            progress.collected = {}
            self._finish_iteration(metrics, last)

    def collect(self) -> dict[str, float]:
        """Collect the iteration's episodes into the replay buffer; returns their metrics."""
        s, actor, iteration = self.settings, self.trainer.nets.actor, self.progress.iteration
        start = time.perf_counter()
        actor.train(s.online_data_mode == "train")
        episodes = collect_episodes(
            self.jump_start.policy(actor, iteration),
            self.online_envs,
            self.rollout_settings,
            target_return(s, iteration),
            partial(exploring_action, noise=self.trainer.noise, std=s.expl_noise),
            s.minimum_sapairs_per_iter,
        )
        stored = [episode for episode in episodes if episode.length > 0]
        if self.on_policy is not None:
            self.on_policy.add(stored, actor)
        else:
            for episode in stored:
                self.buffer.add(episode.trajectory)
        self.progress.transitions += sum(episode.length for episode in stored)
        metrics = collection_metrics(episodes, self.task) | schedule_metrics(s, iteration)
        return metrics | {"time/rollout": time.perf_counter() - start}

    def evaluate(self) -> dict[str, float]:
        """Run the evaluation episodes with mean actions; returns their metrics."""
        start, target = time.perf_counter(), self.settings.eval_rtg
        actor = self.trainer.nets.actor.eval()
        record = self.video.after_step if self.video else lambda: None
        episodes = rollout(actor, self.eval_envs, self.rollout_settings, target, after_step=record)
        if self.video:
            self._save_video(self.video)
        metrics = evaluation_metrics(episodes, self.task)
        return metrics | {"time/evaluation": time.perf_counter() - start}

    def _save_video(self, video: VideoRecorder) -> None:
        name = f"{VIDEO_FOLDER}/{self.progress.phase}_{self.progress.iteration + 1}.gif"
        try:
            video.save(self.run_dir / name)
        except OSError as error:
            self.logger.warning(f"{name} not written: {error}")
        if video.problem:
            self.logger.warning(f"no videos: {video.problem}")
            self.video = None

    def _start_phase(self, phase: str) -> None:
        """Set the phase's coefficients and reset the target networks, once per phase."""
        if self.progress.phase != phase:
            self.progress.phase = phase
            self.trainer.start_phase(*self._coefficients())
            if phase == "online":
                self.jump_start.start(self.trainer.nets.actor)

    def _coefficients(self) -> tuple[float, ...]:
        """Weights of the phase's RL loss, supervised loss and distance to the previous policy."""
        s = self.settings
        if self.progress.phase == "online":
            return s.actor_rl_coeff, s.actor_sup_coeff, s.prev_policy_coeff
        return (s.actor_rl_coeff, s.actor_sup_coeff) if s.RL_from_start else (0.0, 1.0)

    def _train(
        self, sample: Callable[[], Batch], updates: int, on_policy: OnPolicyBuffer | None = None
    ) -> dict[str, float]:
        """Train for one iteration; returns its metrics."""
        with self.logger.progress(updates, self.progress.place) as bar:
            metrics = self.trainer.run_iteration(sample, updates, bar.update, on_policy, self._stop)
        if metrics is None:
            self.checkpoints.save(checkpoint_state(self), self.buffer.collected)
            raise Stopped
        return metrics

    def _finish_iteration(self, metrics: dict[str, float], last: bool) -> None:
        """Log the iteration (`last`: of its phase), write checkpoints, and stop if requested."""
        progress, interval = self.progress, self.settings.checkpoint_interval
        progress.iterations[progress.phase] += 1
        metrics["replay/trajectories"] = self.buffer.num_trajectories
        metrics["replay/transitions"] = self.buffer.num_transitions
        metrics["time/total"] = progress.seconds
        self.logger.log(progress.phase, progress.iteration, progress.transitions, metrics)
        score = metrics.get("evaluation/normalized_score", -math.inf)
        if score > progress.best_score:
            progress.best_score = score
            self.checkpoints.save_best(best_policy_state(self, metrics))
        stopping = self._stop()
        if last or stopping or progress.iteration % interval == 0:
            self.checkpoints.save(checkpoint_state(self), self.buffer.collected)
        if stopping:
            raise Stopped


def main(argv: Sequence[str] | None = None, recurrent: bool = False) -> int:
    """Run the command line, optionally with recurrent critics; returns the exit code."""
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    stop = StopSignal()
    experiment: Experiment | None = None
    try:
        settings = read_settings(argv, recurrent)
        check_settings(settings)
        with stop.installed():
            experiment = Experiment(settings, stop)
            experiment.run()
        return 0
    except UserError as error:
        message, code = f"error: {error}", EXIT_USER_ERROR
    except Divergence as error:
        assert experiment is not None  # which raised it
        message, code = f"error: {explain_divergence(error, experiment)}", EXIT_DIVERGED
    except Stopped:
        message, code = f"Stopped. {next_step(experiment, recurrent)}", EXIT_STOPPED
    except KeyboardInterrupt:
        message, code = f"Interrupted. {next_step(experiment, recurrent)}", EXIT_INTERRUPTED
    sys.stderr.write(f"{message}\n")
    return code


if __name__ == "__main__":
    leave(main())
