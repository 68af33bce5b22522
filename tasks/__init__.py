"""The D4RL tasks as training sees them."""

from tasks.table import TASKS, Task, get_task

__all__ = ["TASKS", "Task", "get_task"]
