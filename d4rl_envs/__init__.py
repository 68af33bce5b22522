"""The D4RL benchmark environments on current MuJoCo bindings, with D4RL's dynamics.

Importing this package registers every task with Gymnasium under its D4RL id. MuJoCo is loaded when
the first environment is made.
"""

from d4rl_envs.errors import UserError
from d4rl_envs.registration import make, make_vector, register_all
from d4rl_envs.tasks import TASKS, D4RLTask, get_task

__all__ = ["TASKS", "D4RLTask", "UserError", "get_task", "make", "make_vector"]

register_all()
