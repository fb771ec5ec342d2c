"""Generated tasks whose best possible accuracy and loss are known (docs/tasks.md)."""

from sympformer.tasks.loader import TaskLoader
from sympformer.tasks.table import TASKS, make_task, register_task
from sympformer.tasks.task import IGNORED, Batch, Setting, Task

__all__ = [
    "IGNORED",
    "TASKS",
    "Batch",
    "Setting",
    "Task",
    "TaskLoader",
    "make_task",
    "register_task",
]
