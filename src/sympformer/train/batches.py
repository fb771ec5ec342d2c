"""What the engine needs of a loader."""

from typing import Any, Protocol

from torch import Tensor


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
