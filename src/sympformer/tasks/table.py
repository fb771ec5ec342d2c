"""The table of tasks."""

from collections.abc import Mapping
from typing import Any

from sympformer.errors import InputError, enter, lookup
from sympformer.tasks.copying import SelectiveCopying
from sympformer.tasks.induction import Induction
from sympformer.tasks.noisy import NoisyRecall
from sympformer.tasks.overwrite import OverwrittenRecall
from sympformer.tasks.recall import Recall
from sympformer.tasks.task import Task
from sympformer.tasks.words import A5, S3, S5, Parity
from sympformer.typed import from_table

TASKS: dict[str, type[Task]] = {
    kind.name: kind
    for kind in (
        Recall,
        OverwrittenRecall,
        NoisyRecall,
        SelectiveCopying,
        Induction,
        Parity,
        S3,
        S5,
        A5,
    )
}


def register_task(kind: type[Task]) -> None:
    """Add a task of your own: commands know it by its `name` then.

    Raises:
        InputError: it has no name, or its name is taken.
    """
    enter(TASKS, getattr(kind, "name", ""), kind, "task")


def make_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """The task of this name.

    Raises:
        InputError: there is none, or an option is unknown or refused; the message names the task.
    """
    kind = lookup(TASKS, name, "task")
    try:
        return from_table(kind, f"the options of task {name}", options or {})
    except (TypeError, OverflowError) as error:
        raise InputError(f"the options of task {name} cannot be used: {error}") from None
