"""What training adds to D4RL's task table: rewards, return-to-go scale, critic, budget, script.

Source: the published runs (Yan, Schwing, Wang 2024, arXiv 2410.24108).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import d4rl_envs.tasks
from d4rl_envs.tasks import D4RLTask, Reward


@dataclass(frozen=True)
class Task(D4RLTask):
    """A D4RL task with its training settings, which are the same for a whole family.

    Attributes:
        reward_divisor, reward_shift: The training reward is `raw / reward_divisor + reward_shift`.
        rtg_scale: Factor on return-to-go before it conditions the policy.
        critic_layernorm: Whether critics normalise their hidden layers by default.
        online_budget: Online transitions after which a run ends by default.
        script: The script in data/ that gets the family's datasets.
    """

    reward_divisor: float = 1.0
    reward_shift: float = 0.0
    rtg_scale: float = 0.001
    critic_layernorm: bool = True
    online_budget: int = 1_050_000
    script: str = "download_gym_datasets.py"

    @property
    def scored(self) -> bool:
        """Whether reference scores define normalised scores."""
        return math.isfinite(self.ref_min_score)

    @property
    def action_bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Low and high bounds of the environment's actions; None if they are -1 and 1."""
        return None

    def training_reward(self, raw: Reward) -> Reward:
        """The reward used in training, from the raw reward of the environment or the dataset."""
        return raw / self.reward_divisor + self.reward_shift


_LOCOMOTION: dict[str, Any] = {"critic_layernorm": False, "online_budget": 600_000}
_HAND: dict[str, Any] = {"script": "download_advanced.py"}

_TRAINING: dict[str, dict[str, Any]] = {
    "hopper": _LOCOMOTION,
    "halfcheetah": _LOCOMOTION,
    "walker2d": _LOCOMOTION,
    "ant": _LOCOMOTION,
    "maze2d": {"rtg_scale": 1.0, "script": "download_d4rl_basic.py"},
    "antmaze": {"reward_shift": -1.0, "script": "download_antmaze_datasets.py"},
    "pen": {"reward_divisor": 100.0, "rtg_scale": 1.0, **_HAND},
    "hammer": {"reward_divisor": 1000.0, "rtg_scale": 1.0, **_HAND},
    "door": {"reward_divisor": 100.0, **_HAND},
    "relocate": {"reward_divisor": 100.0, "rtg_scale": 1.0, **_HAND},
}


def _with_training(task: D4RLTask) -> Task:
    facts = {field.name: getattr(task, field.name) for field in fields(D4RLTask)}
    return Task(**facts, **_TRAINING[task.family])


TASKS: dict[str, Task] = {
    name: _with_training(task) for name, task in d4rl_envs.tasks.TASKS.items()
}


def get_task(name: str) -> Task:
    """The task with this name or alias.

    Raises:
        UserError: no such task; the message lists the closest names.
    """
    return TASKS[d4rl_envs.tasks.get_task(name).name]
