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

import torch

import d4rl_envs
from collecting import JumpStart, return_to_ask_for, schedule_metrics
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
from logger import Logger, create_run_dir
from replay_buffer import ReplayBuffer
from rl_gradients import OnPolicyGradient
from rl_gradients.online_buffer import OnlineBuffer
from run.checkpoint import (
    CheckpointStore,
    check_shapes,
    load_checkpoint,
    refusing_foreign_state,
    rng_state,
    set_rng_state,
    state_files,
)
from run.files import DIVERGENCE_FILE
from run.resume import read_settings
from run.setting_checks import check_settings, notices
from run.state import RunSession
from run.stopping import (
    EXIT_DIVERGED,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    EXIT_USER_ERROR,
    Stopped,
    StopSignal,
    resume_command,
)
from run.training_log import Divergence
from run.video import VideoRecorder
from run.writers import leave
from tasks import get_task
from trainer import Trainer
from trajectories import Batch
from utils import UserError, seed_everything, select_device

# evaluation environment i has seed i, collecting environment i this much more
COLLECTING_SEED = 100
# after a divergence, the learning rate to try is so many times lower
LOWER_RATE = 3.0


class Experiment:
    """One run: the offline data, the environments, the agent and the log, wired together.

    Args:
        settings: Checked settings.
        stop: Tells whether the run is to end early.

    Raises:
        UserError: the data, the run's folder or the device is not usable. Nothing is written
            before all of them are.
    """

    def __init__(self, settings: Settings, stop: Callable[[], bool] = lambda: False) -> None:
        self.settings, self.task = settings, get_task(settings.env)
        self._stop = stop
        self.device = select_device(settings.device, settings.force_device)
        check_device(self.device, settings.precision, bool(settings.compile))
        self.budget = settings.max_online_transitions or self.task.online_budget
        path = dataset_path(self.task, Path(settings.data_dir), settings.dataset)
        seed_everything(settings.seed)
        self.trainer = Trainer(settings, self.task, self.device)
        mode = "rgb_array" if settings.video_debug else None
        make = partial(
            d4rl_envs.make_vector,
            self.task,
            backend=settings.env_backend,
            legacy_python=settings.legacy_python,
        )
        self.eval_envs = make(range(settings.num_eval_episodes), mode)
        self.online_envs = make(
            range(COLLECTING_SEED, COLLECTING_SEED + settings.num_online_rollouts)
        )
        self.video = VideoRecorder(self.eval_envs) if settings.video_debug else None
        fingerprint = self._load_data(path)
        # not before: what loading frees is to go back to the system
        tune_device(self.device, settings.precision)
        self.online_buffer = None
        if isinstance(self.trainer.algorithm, OnPolicyGradient):
            self.online_buffer = OnlineBuffer(
                self.buffer, self.trainer.algorithm, settings.batch_size, settings.K
            )
        self.jump_start = JumpStart(settings)
        self.iterations = {"pretrain": 0, "online": 0}
        self.phase = ""
        self.transitions = 0
        # of the iteration under way: what its collecting gave
        self.collected: dict[str, float] = {}
        self.best_score = -math.inf
        self.start = time.perf_counter()
        run_dir = create_run_dir(settings)
        self.session = RunSession(run_dir)
        state = self._read_checkpoint(run_dir) if settings.resume else None
        self.logger = Logger(run_dir, settings, fingerprint)
        self.checkpoints = CheckpointStore(run_dir, settings.keep_checkpoints, state)
        if state is not None:
            with refusing_foreign_state():
                self._load_state_dict(state)

    def _load_data(self, path: Path) -> dict[str, Any]:
        """Make the replay buffer of the offline data; returns the data's fingerprint."""
        settings = self.settings
        dataset = load_dataset(
            path,
            self.task,
            remove_trivial=bool(settings.remove_trivial_trajs),
            delayed_reward=settings.delayed_reward,
            spare_rows=self._online_rows(),
        )
        score = float(self.task.normalized_score(dataset.raw_returns.mean()))
        self.rollout_settings = RolloutSettings(
            self.task,
            settings.eval_context_length,
            dataset.state_mean,
            dataset.state_std,
            settings.delayed_reward,
        )
        fingerprint = dataset.fingerprint | {"mean_normalized_score": score}
        fingerprint["engine"] = self.eval_envs.engine
        rtg_scale = self.task.rtg_scale
        self.buffer = ReplayBuffer(dataset, settings.replay_size, rtg_scale, self.device)
        return fingerprint

    def _online_rows(self) -> int:
        """Rows that collected transitions can come to need: room for them is made at once."""
        s, horizon = self.settings, self.task.horizon
        iteration = s.minimum_sapairs_per_iter + s.num_online_rollouts * horizon
        # twice what the buffer holds, so that old rows make way in large blocks
        held = 2 * s.replay_size * horizon
        return min(self.budget, held, s.max_online_iters * iteration) + iteration

    def run(self) -> None:
        """Pretrain, fine-tune, leave checkpoints.

        Raises:
            Stopped: early, on request.
            Divergence: a loss is not finite any more.
        """
        self._say_hello()
        try:
            with self.session:
                self.pretrain()
                self.finetune()
        finally:
            self.logger.finish()
            self.eval_envs.close()
            self.online_envs.close()
        self.logger.info(f"finished; results are in {self.logger.run_dir}")

    def _say_hello(self) -> None:
        log, buffer = self.logger, self.buffer
        for notice in notices(self.settings):
            log.info(f"note: {notice}")
        actor = sum(p.numel() for p in self.trainer.nets.actor.parameters())
        log.info(
            f"{self.task.name} on {self.device}: {buffer.num_offline_transitions:,} offline "
            f"transitions, {actor:,} actor parameters, results in {log.run_dir}"
        )

    def pretrain(self) -> None:
        """Supervised learning on all offline trajectories (the critic learns along)."""
        s = self.settings
        sample = partial(self.buffer.sample, s.batch_size, s.K, offline=True)
        while self.iterations["pretrain"] < s.max_pretrain_iters:
            self._start_phase("pretrain")
            metrics = self._train(sample, s.num_updates_per_pretrain_iter)
            metrics |= self.evaluate()
            last = self.iterations["pretrain"] + 1 >= s.max_pretrain_iters
            self._finish_iteration(metrics, last)

    def finetune(self) -> None:
        """Collect, add to the replay buffer, train, until the iterations or the budget end."""
        s = self.settings
        sample = partial(self.buffer.sample, s.batch_size, s.K)
        while self.iterations["online"] < s.max_online_iters and (
            self.collected or self.transitions < self.budget
        ):
            self._start_phase("online")
            # an iteration that was stopped in training has collected already
            self.collected = self.collected or self.collect()
            metrics = self._train(sample, s.num_updates_per_online_iter, self.online_buffer)
            metrics |= self.collected
            iteration = self.iterations["online"] + 1
            last = iteration >= s.max_online_iters or self.transitions >= self.budget
            if last or iteration % s.eval_interval == 0:
                metrics |= self.evaluate()
            self.collected = {}
            self._finish_iteration(metrics, last)

    def collect(self) -> dict[str, float]:
        """Roll out whole episodes until there are enough steps, and add them to the buffer."""
        s, actor, iteration = self.settings, self.trainer.nets.actor, self.iterations["online"]
        start = time.perf_counter()
        actor.train(s.online_data_mode == "train")
        choose = partial(exploring_action, noise=self.trainer.noise, std=s.expl_noise)
        episodes = collect_episodes(
            self.jump_start.policy(actor, iteration),
            self.online_envs,
            self.rollout_settings,
            return_to_ask_for(s, iteration),
            choose,
            s.minimum_sapairs_per_iter,
        )
        stored = [episode for episode in episodes if episode.length > 0]
        for episode in stored:
            self.buffer.add(episode.trajectory)
        if self.online_buffer is not None:
            self.online_buffer.start_iteration(stored, actor)
        self.transitions += sum(episode.length for episode in stored)
        metrics = collection_metrics(episodes, self.task) | schedule_metrics(s, iteration)
        metrics["time/rollout"] = time.perf_counter() - start
        return metrics

    def evaluate(self) -> dict[str, float]:
        """Play the evaluation episodes with the mean action."""
        start = time.perf_counter()
        actor = self.trainer.nets.actor.eval()
        after_step = self.video.after_step if self.video else lambda: None
        target = self.settings.eval_rtg
        episodes = rollout(
            actor, self.eval_envs, self.rollout_settings, target, after_step=after_step
        )
        if self.video:
            self._save_video(self.video)
        metrics = evaluation_metrics(episodes, self.task)
        metrics["time/evaluation"] = time.perf_counter() - start
        return metrics

    def _save_video(self, video: VideoRecorder) -> None:
        if video.problem:
            self.logger.warning(f"no video: {video.problem}")
            self.video = None
            return
        name = f"{self.phase}_{self.iterations[self.phase] + 1}.gif"
        try:
            video.save(self.logger.run_dir / "videos" / name)
        except OSError as error:
            self.logger.warning(f"no video: videos/{name} was not written: {error}")

    def _train(
        self, sample: Callable[[], Batch], updates: int, online: OnlineBuffer | None = None
    ) -> dict[str, float]:
        phase = self.phase
        bar = self.logger.progress(updates, f"{phase} {self.iterations[phase] + 1}")
        try:
            metrics = self.trainer.run_iteration(sample, updates, bar.update, online, self._stop)
        finally:
            bar.close()
        if metrics is None:
            self._save()
            raise Stopped
        return metrics

    def _coefficients(self) -> tuple[float, ...]:
        """Weights of the RL loss, of the supervised one and of the distance, in this phase."""
        s = self.settings
        if self.phase == "online":
            return s.actor_rl_coeff, s.actor_sup_coeff, s.prev_policy_coeff
        return (s.actor_rl_coeff, s.actor_sup_coeff) if s.RL_from_start else (0.0, 1.0)

    def _start_phase(self, phase: str) -> None:
        """Once per phase: its coefficients and fresh targets."""
        if self.phase != phase:
            self.phase = phase
            self.trainer.start_phase(*self._coefficients())
            if phase == "online":
                self.jump_start.start(self.trainer.nets.actor)

    def _finish_iteration(self, metrics: dict[str, float], last: bool) -> None:
        """Log the iteration, keep what is good, and end here where that is asked for.

        Args:
            metrics: All of the iteration.
            last: Whether it is the last one of its phase.
        """
        phase = self.phase
        self.iterations[phase] += 1
        metrics["replay/trajectories"] = self.buffer.num_trajectories
        metrics["replay/transitions"] = self.buffer.num_transitions
        metrics["time/total"] = time.perf_counter() - self.start
        self.logger.log(phase, self.iterations[phase], self.transitions, metrics)
        if metrics.get("evaluation/normalized_score", -math.inf) > self.best_score:
            self._save_best(metrics)
        if last or self._stop() or self.iterations[phase] % self.settings.checkpoint_interval == 0:
            self._save()
        if self._stop():
            raise Stopped

    def _save_best(self, metrics: dict[str, float]) -> None:
        self.best_score = metrics["evaluation/normalized_score"]
        state = {
            **self._identity(),
            "trainer": {"actor": self.trainer.nets.actor.state_dict()},
            "evaluation": {k: v for k, v in metrics.items() if k.startswith("evaluation/")},
        }
        try:
            self.checkpoints.save_best(state)
        except OSError as error:
            self.logger.warning(f"the best policy was not written: {error}")

    def _save(self) -> None:
        """Write a checkpoint; where that fails the run goes on with the one before."""
        state = self.state_dict()
        stored_from = state["buffer"]["stored_from"]
        start = max(self.checkpoints.trajectories_written, stored_from)
        label = f"{self.phase}-{self.iterations[self.phase]}"
        try:
            self.checkpoints.save(state, self.buffer.collected(start), label)
        except OSError as error:
            self.logger.warning(f"no checkpoint: {error}; the one before stays")

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to, and what its policy needs to act."""
        settings = self.rollout_settings
        return {
            "env": self.task.name,
            "rl_algo": self.settings.rl_algo,
            "recurrent": self.settings.recurrent,
            "phase": self.phase,
            "iterations": dict(self.iterations),
            "transitions": self.transitions,
            "normalization": {
                "mean": torch.as_tensor(settings.state_mean),
                "std": torch.as_tensor(settings.state_std),
            },
        }

    def state_dict(self) -> dict[str, Any]:
        """All that `--resume` needs beside the settings and both kinds of trajectories."""
        online = self.online_buffer
        return {
            **self._identity(),
            "collected_metrics": dict(self.collected),
            "best_score": self.best_score,
            "seconds": time.perf_counter() - self.start,
            "rows_logged": self.logger.rows,
            "trainer": self.trainer.state_dict(),
            "buffer": self.buffer.state_dict(),
            "online_buffer": None if online is None else online.state_dict(),
            "jump_start": self.jump_start.state_dict(),
            "rng": rng_state(),
            "eval_rng": self.eval_envs.rng_states(),
            "online_rng": self.online_envs.rng_states(),
        }

    def _read_checkpoint(self, run_dir: Path) -> dict[str, Any]:
        """The state to resume from, refused before anything in the run's folder changes."""
        state = load_checkpoint(run_dir, self.device)
        settings = self.settings
        ours = {"env": self.task.name, "rl_algo": settings.rl_algo, "recurrent": settings.recurrent}
        for name, value in ours.items():
            if state.get(name) != value:
                raise UserError(
                    f"--resume: the checkpoint has {name} {state.get(name)}, not {value}"
                )
        with refusing_foreign_state():
            for name in ("actor", "critic"):
                owner = f"--resume: the checkpoint's {name}"
                check_shapes(getattr(self.trainer.nets, name), state["trainer"][name], owner)
        return state

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.phase, self.iterations = state["phase"], state["iterations"]
        self.transitions, self.collected = state["transitions"], state["collected_metrics"]
        self.best_score = state["best_score"]
        self.start -= state["seconds"]
        self.logger.rewind(state["rows_logged"])
        self.trainer.load_state_dict(state["trainer"])
        self.trainer.set_coefficients(*self._coefficients())
        self.buffer.load_state_dict(state["buffer"], state["collected"])
        if self.online_buffer is not None:
            self.online_buffer.load_state_dict(state["online_buffer"], self.trainer.nets.actor)
        self.jump_start.load_state_dict(state["jump_start"], self.trainer.nets.actor)
        self.eval_envs.set_rng_states(state["eval_rng"])
        self.online_envs.set_rng_states(state["online_rng"])
        set_rng_state(state["rng"])


def main(argv: Sequence[str] | None = None, recurrent: bool = False) -> int:
    """Run the command line, where wanted with recurrent critics; returns the exit code."""
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    stop = StopSignal()
    experiment: Experiment | None = None
    try:
        settings = read_settings(argv, recurrent)
        check_settings(settings)
        with stop.installed():
            experiment = Experiment(settings, stop)
            experiment.run()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USER_ERROR
    except Divergence as error:
        sys.stderr.write(f"error: {_explain(error, experiment)}\n")
        return EXIT_DIVERGED
    except Stopped:
        sys.stderr.write(f"stopped; go on with: {_resume_command(experiment)}\n")
        return EXIT_STOPPED
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; go on with: {_resume_command(experiment)}\n")
        return EXIT_INTERRUPTED
    return 0


def _resume_command(experiment: Experiment | None, *flags: str) -> str:
    """What to type to go on from the last checkpoint."""
    if experiment is None:
        return "the same command, nothing was written yet"
    settings, run_dir = experiment.settings, experiment.logger.run_dir
    return resume_command(run_dir, settings.recurrent, *flags)


def _explain(error: Divergence, experiment: Experiment | None) -> str:
    """One line on what broke and what to try."""
    if experiment is None:
        return f"training diverged: {error}"
    run_dir, phase, flag = experiment.logger.run_dir, experiment.phase, error.flag_to_try
    error.write_report(run_dir)
    used = getattr(experiment.settings, flag)
    advice = f"start again with a lower --{flag} (it was {used:g})"
    if state_files(run_dir):
        command = _resume_command(experiment, f"--{flag}", f"{used / LOWER_RATE:.2g}")
        advice = f"go on from the last good checkpoint with a lower --{flag}: {command}"
    return (
        f"training diverged: {error} not finite in {phase} iteration "
        f"{experiment.iterations[phase] + 1}; {run_dir / DIVERGENCE_FILE} describes the batch; "
        + advice
    )


if __name__ == "__main__":
    leave(main())
