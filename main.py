"""Pretrain a decision transformer on offline data, then fine-tune it online with RL gradients."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import envs
from checkpoint import load_checkpoint, rng_state, save_checkpoint, set_rng_state
from data import dataset_path, load_dataset
from envs.tasks import get_task
from evaluation import (
    Episode,
    RolloutSettings,
    collection_metrics,
    evaluation_metrics,
    exploring_action,
    rollout,
)
from get_args import check_settings, notices, parse_args
from logger import Logger, create_run_dir
from online_buffer import OnlineBuffer
from replay_buffer import Batch, ReplayBuffer
from rl_gradients import OnPolicyGradient
from settings import Settings
from trainer import Trainer
from utils import UserError, seed_everything, select_device
from video import VideoRecorder

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

# evaluation environment i has seed i, collecting environment i this much more
COLLECTING_SEED = 100


class Experiment:
    """One run: the offline data, the environments, the agent and the log, wired together.

    Args:
        settings: Checked settings.

    Raises:
        UserError: the data, the run's folder or the device is not usable. Nothing is written
            before all of them are.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.task = settings, get_task(settings.env)
        self.device = select_device(settings.device, settings.force_device)
        self.budget = settings.max_online_transitions or self.task.spec.online_budget
        path = dataset_path(self.task, Path(settings.data_dir), settings.dataset)
        seed_everything(settings.seed)
        self.trainer = Trainer(settings, self.task, self.device)
        mode = "rgb_array" if settings.video_debug else None
        self.eval_envs = envs.make_vector(self.task, range(settings.num_eval_episodes), mode)
        self.online_envs = envs.make_vector(
            self.task, range(COLLECTING_SEED, COLLECTING_SEED + settings.num_online_rollouts)
        )
        self.video = VideoRecorder(self.eval_envs) if settings.video_debug else None
        fingerprint = self._load_data(path)
        self.online_buffer = None
        if isinstance(self.trainer.algorithm, OnPolicyGradient):
            self.online_buffer = OnlineBuffer(
                self.buffer, self.trainer.algorithm, settings.batch_size, settings.K
            )
        self.iterations = {"pretrain": 0, "online": 0}
        self.phase = ""
        self.transitions = 0
        self.start = time.perf_counter()
        run_dir = create_run_dir(settings)
        state = self._read_checkpoint(run_dir) if settings.resume else None
        self.logger = Logger(run_dir, settings, fingerprint)
        if state is not None:
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
        rtg_scale = self.task.spec.rtg_scale
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
        """Pretrain, fine-tune, leave a checkpoint."""
        self._say_hello()
        try:
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
        coefficients = (s.actor_rl_coeff, s.actor_sup_coeff) if s.RL_from_start else (0.0, 1.0)
        sample = partial(self.buffer.sample, s.batch_size, s.K, offline=True)
        while self.iterations["pretrain"] < s.max_pretrain_iters:
            self._start_phase("pretrain", *coefficients)
            metrics = self._train("pretrain", sample, s.num_updates_per_pretrain_iter)
            metrics |= self.evaluate()
            self._finish_iteration("pretrain", metrics, save=True)

    def finetune(self) -> None:
        """Collect, add to the replay buffer, train, until the iterations or the budget end."""
        s = self.settings
        sample = partial(self.buffer.sample, s.batch_size, s.K)
        while self.iterations["online"] < s.max_online_iters and self.transitions < self.budget:
            self._start_phase("online", s.actor_rl_coeff, s.actor_sup_coeff)
            metrics = self.collect()
            metrics |= self._train(
                "online", sample, s.num_updates_per_online_iter, self.online_buffer
            )
            iteration = self.iterations["online"] + 1
            last = iteration >= s.max_online_iters or self.transitions >= self.budget
            evaluates = last or iteration % s.eval_interval == 0
            if evaluates:
                metrics |= self.evaluate()
            self._finish_iteration("online", metrics, save=evaluates)

    def collect(self) -> dict[str, float]:
        """Roll out whole episodes until there are enough steps, and add them to the buffer."""
        s, actor = self.settings, self.trainer.nets.actor
        start = time.perf_counter()
        actor.train(s.online_data_mode == "train")
        choose = partial(exploring_action, noise=self.trainer.noise, std=s.expl_noise)
        episodes: list[Episode] = []
        steps = 0
        while not episodes or steps < s.minimum_sapairs_per_iter:
            episodes += rollout(
                actor, self.online_envs, self.rollout_settings, s.online_rtg, choose
            )
            steps = sum(episode.length for episode in episodes)
        for episode in episodes:
            self.buffer.add(episode.trajectory)
        if self.online_buffer is not None:
            self.online_buffer.start_iteration(episodes, actor)
        self.transitions += steps
        metrics = collection_metrics(episodes, self.task)
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
        video.save(self.logger.run_dir / "videos" / name)

    def _train(
        self,
        phase: str,
        sample: Callable[[], Batch],
        updates: int,
        online: OnlineBuffer | None = None,
    ) -> dict[str, float]:
        bar = self.logger.progress(updates, f"{phase} {self.iterations[phase] + 1}")
        try:
            return self.trainer.run_iteration(sample, updates, bar.update, online)
        finally:
            bar.close()

    def _start_phase(self, phase: str, rl_coeff: float, sup_coeff: float) -> None:
        """Once per phase: its coefficients and fresh targets."""
        if self.phase != phase:
            self.phase = phase
            self.trainer.start_phase(rl_coeff, sup_coeff)

    def _finish_iteration(self, phase: str, metrics: dict[str, float], save: bool) -> None:
        self.iterations[phase] += 1
        metrics["replay/trajectories"] = self.buffer.num_trajectories
        metrics["replay/transitions"] = self.buffer.num_transitions
        metrics["time/total"] = time.perf_counter() - self.start
        self.logger.log(phase, self.iterations[phase], self.transitions, metrics)
        if save:
            try:
                save_checkpoint(self.logger.run_dir, self.state_dict())
            except OSError as error:
                self.logger.warning(f"no checkpoint: {error}; the previous one stays")

    def state_dict(self) -> dict[str, Any]:
        """All that `--resume` needs beside the settings and the offline data."""
        return {
            "env": self.task.name,
            "rl_algo": self.settings.rl_algo,
            "phase": self.phase,
            "iterations": dict(self.iterations),
            "transitions": self.transitions,
            "seconds": time.perf_counter() - self.start,
            "rows_logged": self.logger.rows,
            "trainer": self.trainer.state_dict(),
            "buffer": self.buffer.state_dict(),
            "rng": rng_state(),
            "eval_rng": self.eval_envs.rng_states(),
            "online_rng": self.online_envs.rng_states(),
        }

    def _read_checkpoint(self, run_dir: Path) -> dict[str, Any]:
        """The state to resume from, refused before anything in the run's folder changes."""
        state = load_checkpoint(run_dir, self.device)
        for name, ours in (("env", self.task.name), ("rl_algo", self.settings.rl_algo)):
            if state.get(name) != ours:
                raise UserError(
                    f"--resume: the checkpoint has --{name} {state.get(name)}, not {ours}"
                )
        return state

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.phase, self.iterations = state["phase"], state["iterations"]
        self.transitions = state["transitions"]
        self.start -= state["seconds"]
        self.logger.rewind(state["rows_logged"])
        self.trainer.load_state_dict(state["trainer"])
        self.buffer.load_state_dict(state["buffer"])
        self.eval_envs.set_rng_states(state["eval_rng"])
        self.online_envs.set_rng_states(state["online_rng"])
        set_rng_state(state["rng"])


def main(argv: Sequence[str] | None = None, recurrent: bool = False) -> int:
    """Run the command line, where wanted with recurrent critics; returns the exit code."""
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    try:
        settings = parse_args(argv, recurrent)
        check_settings(settings)
        Experiment(settings).run()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
