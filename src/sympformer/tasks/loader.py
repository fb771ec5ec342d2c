"""The batches of a training run on a task."""

from typing import Any, Self

import torch
from torch import Tensor

from sympformer.errors import InputError
from sympformer.tasks.task import Task


class TaskLoader:
    """Endless training batches, each drawn from the seed and its own number.

    Ranks take turns of one micro-batch, or `parts` of them together, each an equal part of its
    rows. So together they see what a single rank sees that accumulates as many.

    Iterating gives (inputs, targets), int64, each of shape (batch_size / parts, T), where T may
    differ from batch to batch; targets that do not count are -100.

    Raises:
        InputError: `seed` is negative.
    """

    def __init__(
        self,
        task: Task,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
    ) -> None:
        if seed < 0:
            raise InputError(f"the data seed must not be negative, but is {seed}")
        self.task, self.batch_size, self.seed = task, batch_size, seed
        self.rank, self.world_size, self.parts = rank, world_size, parts
        self._drawn = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        number, part = divmod(self.rank, self.parts)
        batch = self.task.training_batch(self.seed, self._drawn + number, self.batch_size)
        self._drawn += self.world_size // self.parts
        rows = self.batch_size // self.parts
        own = slice(part * rows, (part + 1) * rows)
        return torch.from_numpy(batch.tokens[own]), torch.from_numpy(batch.targets[own])

    def passes(self) -> list[tuple[Tensor, Tensor]]:
        """The next batch, which the model takes as it is."""
        return [next(self)]

    def state_dict(self) -> dict[str, Any]:
        """Where the stream of batches stands; the same on every rank."""
        return {"drawn": self._drawn, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken, with any number of ranks.

        Raises:
            InputError: `state` is of a loader with another seed, batch size or task.
        """
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise InputError(f"cannot resume: {key} was {state.get(key)}, now it is {value}")
        self._drawn = state["drawn"]

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.seed, "batch_size": self.batch_size, "task": self.task.digest}
