"""Pretrain a decision transformer on offline data, then fine-tune it online with RL gradients."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from collecting import Collector, JumpStart, Schedules
from data import dataset_path, load_dataset
from evaluation import (
    DivergedPolicy,
    RolloutSettings,
    collection_metrics,
    evaluation_metrics,
    headline,
    rollout,
)
from fast_cpu.device_tuning import check_device, tune_device
from get_args import Settings
from logger import Logger
from policy_export.initial import open_guide, open_source
from policy_export.policy import save_policy
from replay_buffer import ReplayBuffer, Sampler
from rl_gradients import OnPolicyGradient
from rl_gradients.on_policy_buffer import OnPolicyBuffer
from run.checkpoint import CheckpointStore, rng_state, set_rng_state
from run.files import GUIDE_FOLDER, VIDEO_FOLDER
from run.folder import create_run_dir, method_name
from run.progress import Progress, ProgressDisplay, online_budget, online_rows
from run.resume import open_run, read_settings
from run.setting_checks import check_settings, notices
from run.snapshot import best_policy_state, checkpoint_state, pretrained_state, restore
from run.state import RunSession
from run.stopping import Stopped, StopSignal, explain, run_program
from run.video import VideoRecorder, save_or_warn
from tasks import make_vector
from trainer import Trainer
from trajectories import Batch, Moments, TrajectoryDataset
from utils import seed_everything, select_device

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
        resumed = open_run(settings) if settings.resume else None
        source = open_source(settings) if settings.init_from and not resumed else None
        self.settings, self.task, self._stop = settings, settings.task, stop
        self.device = select_device(settings.device, settings.force_device)
        check_device(self.device, settings.precision, bool(settings.compile))
        guide = open_guide(settings, self.device)
        path = dataset_path(self.task, Path(settings.data_dir), settings.dataset)
        seed_everything(settings.seed)
        self.trainer = Trainer(settings, self.task, self.device)
        if source:
            source.load_into(self.trainer)
        self._make_environments()
        start = resumed or source
        data = self._load_data(path, start.normalization if start else None)
        # after loading, so that memory freed by it returns to the system
        tune_device(self.device, settings.precision)
        self.on_policy: OnPolicyBuffer | None = None
        if isinstance(self.trainer.algorithm, OnPolicyGradient):
            self.on_policy = OnPolicyBuffer(
                self.buffer, self.trainer.algorithm, settings.batch_size, settings.K
            )
        mean_return = float(data.returns.mean()) if data.num_trajectories else 0.0
        self.collector = Collector(
            settings, self.online_envs, self.rollout_settings, self.trainer.noise,
            Schedules(settings, mean_return), JumpStart(guide),
        )  # fmt: skip
        self.progress = resumed.progress if resumed else Progress()
        self.display = ProgressDisplay(settings, self.progress)

        self.run_dir = Path(settings.resume) if resumed else create_run_dir(settings)
        self.session = resumed.session if resumed else RunSession(self.run_dir)
        if resumed:
            restore(self, resumed.state)
            self.trainer.set_coefficients(*self._coefficients())
        elif guide:
            save_policy(guide, self.run_dir / GUIDE_FOLDER)
        facts = data.fingerprint | data.mean_score(self.task)
        self.logger = Logger(
            self.run_dir, settings, facts, self.eval_envs.engine, self.device, self.progress.rows,
            source.origin if source else None,
        )  # fmt: skip
        self.checkpoints = CheckpointStore(
            self.run_dir, settings.keep_checkpoints, resumed.state if resumed else None
        )
        self._introduce(data)
        if start:
            self.logger.info(start.summary)

    def _introduce(self, data: TrajectoryDataset) -> None:
        for notice in [*notices(self.settings), *data.notices]:
            self.logger.info(f"note: {notice}")
        self.logger.info(f"offline data: {data.summary(self.task)}")
        actor = sum(p.numel() for p in self.trainer.nets.actor.parameters())
        self.logger.info(
            f"{self.task.name} {method_name(self.settings)} on {self.device}, "
            f"{actor:,} actor parameters, results in {self.run_dir}"
        )

    def _make_environments(self) -> None:
        s = self.settings
        make = partial(make_vector, self.task, backend=s.env_backend, legacy_python=s.legacy_python)
        mode = "rgb_array" if s.video_debug else None
        self.eval_envs = make(range(s.num_eval_episodes), mode)
        self.online_envs = make(range(COLLECTION_SEED, COLLECTION_SEED + s.num_online_rollouts))
        self.video = VideoRecorder(self.eval_envs) if s.video_debug else None

    def _load_data(self, path: Path | None, normalization: Moments | None) -> TrajectoryDataset:
        """Fill the replay buffer with the offline data, normalised by its own moments or these."""
        s = self.settings
        data = load_dataset(
            path,
            self.task,
            remove_trivial=bool(s.remove_trivial_trajs),
            delayed_reward=s.delayed_reward,
            spare_rows=online_rows(s),
        )
        if normalization:
            data.normalize_by(*normalization)
        self.rollout_settings = RolloutSettings(
            self.task, s.eval_context_length, data.state_mean, data.state_std, s.delayed_reward,
            {} if s.cuda_graphs else None,
        )  # fmt: skip
        self.buffer = ReplayBuffer(data, s.replay_size, self.task.rtg_scale, self.device)
        return data

    def run(self) -> None:
        """Pretrain, then fine-tune."""
        try:
            with self.session:
                self._run()
        finally:
            self.logger.finish()
            self.eval_envs.close()
            self.online_envs.close()

    def _run(self) -> None:
        try:
            self.pretrain()
            self.finetune()
        except DivergedPolicy:
            raise self.trainer.divergence("policy_output") from None

    def pretrain(self) -> None:
        """Supervised learning on all offline trajectories; the critic is trained too."""
        s = self.settings
        sample = Sampler(self.buffer, s.batch_size, s.K, offline=True)
        while left := self.progress.iterations_left(s)["pretrain"]:
            self._start_phase("pretrain")
            metrics = self._train(sample, s.num_updates_per_pretrain_iter)
            metrics |= self.evaluate()
            self._finish_iteration(metrics, last=left == 1)

    def finetune(self) -> None:
        """Collect episodes and train on the replay buffer, until the iterations or budget end."""
        s, progress = self.settings, self.progress
        if s.init_from and not progress.rows:
            # iteration 0 only evaluates
            self._start_phase("online")
            progress.iterations["online"] = -1
            self._finish_iteration(self.evaluate(), last=True)
        sample = Sampler(self.buffer, s.batch_size, s.K)
        while progress.iterations_left(s)["online"]:
            self._start_phase("online")
            # an iteration that was stopped during training has already collected
            progress.collected = progress.collected or self.collect()
            metrics = self._train(sample, s.num_updates_per_online_iter, self.on_policy)
            metrics |= progress.collected
            iteration = progress.iteration + 1
            last = iteration >= s.max_online_iters or progress.transitions >= online_budget(s)
            if last or iteration % s.eval_interval == 0:
                metrics |= self.evaluate()
            progress.collected = {}
            self._finish_iteration(metrics, last)

    def collect(self) -> dict[str, float]:
        """Collect the iteration's episodes into the replay buffer; returns their metrics."""
        progress, actor, start = self.progress, self.trainer.nets.actor, time.perf_counter()
        place = progress.iteration, progress.episodes
        draws = rng_state(self.device), self.online_envs.rng_states()
        try:
            with self.display.collection() as show:
                episodes = self.collector.collect(actor, *place, show, self._stop)
        except Stopped:
            # a resumed run starts the iteration over
            set_rng_state(draws[0], self.device)
            self.online_envs.set_rng_states(draws[1])
            self.checkpoints.save(checkpoint_state(self), self.buffer.collected)
            raise
        progress.episodes += len(episodes)
        stored = [episode for episode in episodes if episode.length > 0]
        if self.on_policy is not None:
            self.on_policy.add(stored, actor)
        else:
            for episode in stored:
                self.buffer.add(episode.trajectory)
        progress.transitions += sum(episode.length for episode in stored)
        metrics = collection_metrics(episodes, self.task) | self.collector.schedules.metrics(*place)
        return metrics | {"time/rollout": time.perf_counter() - start}

    def evaluate(self) -> dict[str, float]:
        """Run the evaluation episodes with mean actions; returns their metrics."""
        start, target = time.perf_counter(), self.settings.eval_rtg
        actor = self.trainer.nets.actor.eval()
        record: Callable[[], object] = self.video.after_step if self.video else lambda: None
        with self.display.evaluation(self.task.horizon) as show:
            acting, both = self.rollout_settings, lambda: (show(), record())
            episodes = rollout(actor, self.eval_envs, acting, target, after_step=both)
        if self.video:
            file = f"{VIDEO_FOLDER}/{self.progress.phase}_{self.progress.iteration + 1}.gif"
            self.video = save_or_warn(self.video, self.run_dir, file, self.logger.warning)
        metrics = evaluation_metrics(episodes, self.task)
        return metrics | {"time/evaluation": time.perf_counter() - start}

    def _start_phase(self, phase: str) -> None:
        """Set the phase's coefficients and reset the target networks, once per phase."""
        if self.progress.phase != phase:
            self.progress.phase = phase
            self.trainer.start_phase(*self._coefficients())
            if phase == "online" and self.settings.jump_start_steps:
                self.collector.jump_start.start(self.trainer.nets.actor)

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
        with self.display.training(updates) as show:
            metrics = self.trainer.run_iteration(sample, updates, show, on_policy, self._stop)
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
        progress.rows += 1
        score = headline(metrics)[1]
        if score > progress.best_score:
            progress.best_score = score
            self.checkpoints.save_best(best_policy_state(self, metrics))
        if last and progress.phase == "pretrain":
            self.checkpoints.save_pretrained(pretrained_state(self))
        stopping = self._stop()
        if last or stopping or progress.iteration % interval == 0:
            self.checkpoints.save(checkpoint_state(self), self.buffer.collected)
        if stopping:
            raise Stopped


def main(
    argv: Sequence[str] | None = None, recurrent: bool = False, stop: StopSignal | None = None
) -> int:
    """Run the command line; returns the exit code.

    Args:
        argv: The command line; None for the program's own.
        recurrent: Whether the critics are recurrent.
        stop: Whether the run should stop early.
    """
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    stop, experiment = stop or StopSignal(), None
    try:
        settings = read_settings(argv, recurrent)
        check_settings(settings)
        experiment = Experiment(settings, stop)
        experiment.run()
        message, code = f"Finished. Results are in {experiment.run_dir}", 0
    except (Exception, KeyboardInterrupt) as error:
        message, code = explain(error, experiment, recurrent)
    # a signal must not change the exit code any more
    stop.ignore()
    (sys.stderr if code else sys.stdout).write(f"{message}\n")
    return code


if __name__ == "__main__":
    run_program(main)
