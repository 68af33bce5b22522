"""Tasks as training sees them: D4RL's, and those of task files."""

from tasks.environments import make_vector
from tasks.table import TASKS, Task, get_task
from tasks.task_file import OWN, OwnTask

__all__ = ["OWN", "TASKS", "OwnTask", "Task", "get_task", "make_vector"]
