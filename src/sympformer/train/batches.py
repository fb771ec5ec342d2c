"""What the engine needs of a loader, and how an update is shared between processes."""

import math
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from sympformer.errors import InputError


class Batches(Protocol):
    """Endless batches of training, (inputs, targets), that go on exactly from a state."""

    rank: int
    world_size: int

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Ids, int64 `(B, T)`, and the targets, of which -100 does not count."""
        ...

    def passes(self) -> list[tuple[Tensor, Tensor]]:
        """The next batch in the parts in which the model takes it, one after another."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where the stream of batches stands."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...


class Share(NamedTuple):
    """What one process makes of an update: whole micro-batches, or an equal part of one."""

    micro_batches: int
    """Passes of each process."""
    parts: int
    """Processes that share a micro-batch, each with an equal part of its rows."""


def share(batch_size: int, accumulation: int, processes: int) -> Share:
    """Share the `accumulation` micro-batches of an update, which stays the same.

    Raises:
        InputError: the number of processes does not divide the rows of an update.
    """
    together = math.gcd(accumulation, processes)
    parts = processes // together
    if batch_size % parts:
        raise InputError(
            f"{processes} processes cannot share the {batch_size * accumulation} rows of an update "
            f"evenly (batch_size {batch_size}, accumulation {accumulation}): start a number that "
            "divides them, or choose another batch_size or accumulation"
        )
    return Share(accumulation // together, parts)
