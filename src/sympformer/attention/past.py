"""What an evaluation of attention remembers of earlier tokens, seen from below.

`sympformer.model.cache` is where it comes from. Each thing that is left has a name, and a part of
a model has its own names.
"""

from typing import Protocol, Self

from torch import Tensor


class Past(Protocol):
    """Earlier tokens, as one part of a model sees them."""

    length: int
    """Number of earlier tokens."""
    padding: Tensor | None
    """Number of padding tokens on the left of each row, `(B,)`, or None."""
    keeps: bool
    """Whether what is left for later tokens will be used; in training it is not."""

    def part(self, name: str) -> "Past":
        """The same tokens, as a part of this part sees them."""
        ...

    def recall(self, name: str) -> Tensor | None:
        """What earlier tokens left under this name, or None if there are none."""
        ...

    def keep(self, name: str, value: Tensor) -> None:
        """Leave `value` for later tokens, in place of what was there."""
        ...

    def extend(self, name: str, new: Tensor) -> Tensor:
        """Append `new` to what earlier tokens left along the token axis; return the whole."""
        ...


class NoPast:
    """No earlier tokens, and nothing to remember: a pass of training, or a single evaluation."""

    length, keeps = 0, False

    def __init__(self, padding: Tensor | None = None):
        self.padding = padding

    def part(self, name: str) -> Self:
        """Itself."""
        return self

    def recall(self, name: str) -> None:
        """Nothing."""

    def keep(self, name: str, value: Tensor) -> None:
        """Forget it."""

    def extend(self, name: str, new: Tensor) -> Tensor:
        """The new tokens."""
        return new
