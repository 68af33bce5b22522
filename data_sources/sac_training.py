"""Train SAC (Haarnoja et al. 2018, arXiv 1812.05905) up to the return of D4RL's medium policy.

The implementation is Stable-Baselines3's. Training is saved to a folder of plain arrays and
tensors, nothing of which is unpickled, and resumes exactly where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit, TransformObservation
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from tqdm import tqdm

from d4rl_envs import make
from d4rl_envs.vector import EnvVector
from data_sources.blocks import Block
from run.checkpoint import read_file, rng_state, set_rng_state, write_verified
from tasks import TASKS, Task
from utils import UserError, atomic_write

# steps of uniformly random actions without updates, as in the authors' own runs
LEARNING_STARTS = 10_000
BATCH_SIZE = 256
# close: from half the level on, as a policy may double its return in a few thousand steps
EVAL_INTERVAL, CLOSE_INTERVAL = 5_000, 1_000
EVAL_EPISODES = 10
# further episodes that have to reach the level, too, as a single evaluation may be lucky
CONFIRMING_EPISODES = 50
STATE_FILE = "state.pt"


class SacTraining:
    """SAC in one environment, with everything it has collected.

    Attributes:
        level: Mean normalised return of the published medium dataset.
        history: (steps, mean normalised return of the sampled policy) of every evaluation.
        model: Stable-Baselines3's agent.
    """

    def __init__(self, task: Task, folder: Path, seed: int, max_steps: int) -> None:
        """Start training, or resume from the folder.

        Raises:
            UserError: the folder is damaged.
        """
        # more do not speed up small networks, but change the results
        torch.set_num_threads(1)
        self._task, self._folder, self._seed = task, folder, seed
        self.level = TASKS[f"{task.family}-medium-v2"].published_score
        self.history: list[tuple[int, float]] = []
        space = Box(-np.inf, np.inf, (task.obs_dim,), np.float32)
        self._bare_env = make(task)
        self._bare_env.reset(seed=seed)
        env = TransformObservation(self._bare_env, lambda obs: obs.astype(np.float32), space)
        self._env = TimeLimit(env, task.horizon)
        state, stored_steps = None, 0
        if (folder / STATE_FILE).exists():
            with _reading(folder):
                state = read_file(folder / STATE_FILE)
                stored_steps = int(state["history"][-1][0])
        # the last episode may exceed the maximum
        rows = max(max_steps, stored_steps) + task.horizon + 1
        self.model = SAC("MlpPolicy", self._env, buffer_size=rows, seed=seed, device="cpu")
        self.model.set_logger(Logger(None, []))
        if state:
            with _reading(folder):
                self._restore(state)

    @property
    def steps(self) -> int:
        """Number of transitions collected so far."""
        return int(self.model.replay_buffer.pos)

    @property
    def reached(self) -> bool:
        """Whether the last evaluation reached the level."""
        return bool(self.history) and self.history[-1][1] >= self.level

    @property
    def interval(self) -> int:
        """Steps until the next evaluation."""
        close = bool(self.history) and self.history[-1][1] >= self.level / 2
        return CLOSE_INTERVAL if close else EVAL_INTERVAL

    def collect(self, steps: int, bar: tqdm) -> None:
        """Act and learn for at least `steps` steps, up to the end of an episode."""
        target, ended = self.steps + steps, True
        buffer = self.model.replay_buffer
        while self.steps < target or not ended:
            if ended:
                obs, _ = self._env.reset()
            action = self._explore(obs)
            # float64, because `step` rounds float32 actions, which changes the resumed trainings
            next_obs, reward, terminated, truncated, _ = self._env.step(action.astype(float))
            ended = terminated or truncated
            # values are bootstrapped at the time limit
            info = {"TimeLimit.truncated": truncated and not terminated}
            buffer.add(obs, next_obs, action, np.array([reward]), np.array([ended]), [info])
            obs = next_obs
            if self.steps > LEARNING_STARTS:
                self.model.train(gradient_steps=1, batch_size=BATCH_SIZE)
            bar.update()

    def _explore(self, obs: np.ndarray) -> np.ndarray:
        if self.steps < LEARNING_STARTS:
            return 2 * torch.rand(self._task.act_dim).numpy() - 1
        return self.act(obs)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Sampled actions (..., act_dim) in [-1, 1] for observations (..., obs_dim)."""
        return self.model.predict(obs, deterministic=False)[0]

    def evaluate(self) -> None:
        """Append the sampled policy's mean normalised return to the history.

        This draws nothing from the generators of training, so it does not affect training.
        """
        score = self._score(EVAL_EPISODES)
        if score >= self.level:
            score = self._score(CONFIRMING_EPISODES)
        self.history.append((self.steps, score))

    def _score(self, episodes: int) -> float:
        rng = np.random.default_rng([self._seed, self.steps, episodes])
        envs = EnvVector(self._task, rng.integers(2**31, size=episodes).tolist())
        obs, running, returns = envs.reset(), np.arange(episodes), np.zeros(episodes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            while len(running):
                obs, rewards, terminated, truncated = envs.step(self.act(obs), running)
                returns[running] += rewards
                unfinished = ~(terminated | truncated)
                obs, running = obs[unfinished], running[unfinished]
        return float(self._task.normalized_score(returns.mean()))

    def rows(self, start: int, stop: int) -> Block:
        """Transitions `start` to `stop` as arrays of a dataset."""
        buffer, part = self.model.replay_buffer, slice(start, stop)
        timeouts = buffer.timeouts[part, 0] > 0
        return {
            "observations": buffer.observations[part, 0],
            "actions": buffer.actions[part, 0],
            "rewards": buffer.rewards[part, 0],
            "terminals": (buffer.dones[part, 0] > 0) & ~timeouts,
            "timeouts": timeouts,
            "next_observations": buffer.next_observations[part, 0],
        }

    def save(self) -> None:
        """Save the state and the rows since the last save; call it right after `evaluate`.

        No episode is running then, so the environment's only state is its generator.

        Raises:
            UserError: the folder cannot be written.
        """
        start = self.history[-2][0] if len(self.history) > 1 else 0
        state = {
            "history": self.history,
            "parameters": self.model.get_parameters(),
            "log_ent_coef": self.model.log_ent_coef.detach(),
            "generators": rng_state(),
            "environment": json.dumps(self._bare_env.np_random.bit_generator.state),
        }
        rows: dict[str, Any] = self.rows(start, self.steps)
        try:
            self._folder.mkdir(exist_ok=True)
            with atomic_write(self._rows_file(self.steps)) as file:
                np.savez(file, **rows)
            write_verified(self._folder / STATE_FILE, state)
        except OSError as error:
            raise UserError(f"{self._folder}: cannot be written ({error})") from None

    def _rows_file(self, steps: int) -> Path:
        return self._folder / f"rows-{steps}.npz"

    def _restore(self, state: dict[str, Any]) -> None:
        for steps, _ in state["history"]:
            self._restore_rows(steps)
        self.model.set_parameters(state["parameters"])
        self.model.log_ent_coef.data.copy_(state["log_ent_coef"])
        self._bare_env.np_random.bit_generator.state = json.loads(state["environment"])
        set_rng_state(state["generators"])
        self.history = state["history"]

    def _restore_rows(self, stop: int) -> None:
        """Append the rows saved at step `stop` to the replay buffer."""
        buffer = self.model.replay_buffer
        part = slice(buffer.pos, stop)
        with np.load(self._rows_file(stop), allow_pickle=False) as rows:
            for name in ("observations", "next_observations", "actions", "rewards"):
                getattr(buffer, name)[part, 0] = rows[name]
            buffer.timeouts[part, 0] = rows["timeouts"]
            buffer.dones[part, 0] = rows["timeouts"] | rows["terminals"]
        buffer.pos = stop


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Report exceptions caused by damaged files as one line."""
    try:
        yield
    except Exception as error:  # damaged files raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{folder}: cannot resume this training ({reason}); delete the folder to start over"
        ) from None
