"""What stands before the newest tokens: earlier ones, and padding, which is none.

What earlier tokens left comes from `sympformer.model.cache`, seen from below: each thing has a
name, and a part of a model has its own names.

Padding stands on the left of a row and evens out the rows of a batch: `padding` such tokens,
`(B,)`. They must change nothing for the tokens behind them, and the softmax forms and the linear
ones need no mask for it. Arguments with heads are `(B, H, n, d)` for the n newest tokens, behind
`start` earlier ones. Without padding (None) every function gives back what it was given.
"""

from typing import Protocol, Self

import torch
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


_HIDDEN = -1e6
"""Score of a padding token: beyond any score of a token, so that its weight is exactly 0."""


def is_padding(padding: Tensor, start: int, n: int) -> Tensor:
    """Which of the newest tokens are padding, `(B, n)` bool."""
    return torch.arange(start, start + n, device=padding.device) < padding[:, None]


def hide(
    q: Tensor, k: Tensor, scale: float, padding: Tensor | None, start: int
) -> tuple[Tensor, Tensor]:
    """Queries and keys one column wider, which hides padding from tokens.

    The column of keys is huge and negative in padding and 0 in tokens; that of queries is 1 in
    tokens. It is 0 in padding, which sees the padding before it as a text of its own: what comes
    of that is not used, but it is no worse than any text, and so finite.
    """
    if padding is None:
        return q, k
    hidden = is_padding(padding, start, k.shape[-2])[:, None, :, None]
    hidden = hidden.expand(*k.shape[:-1], 1).to(k.dtype)
    lowest = max(_HIDDEN / scale, torch.finfo(k.dtype).min / 4)
    return torch.cat([q, 1 - hidden], dim=-1), torch.cat([k, lowest * hidden], dim=-1)


def erase(x: Tensor, padding: Tensor | None, start: int) -> Tensor:
    """`x`, `(B, n, d)` or `(B, H, n, d)`, with zeros in the place of padding."""
    if padding is None:
        return x
    hidden = is_padding(padding, start, x.shape[-2])
    return x.masked_fill(hidden.view(-1, *[1] * (x.ndim - 3), x.shape[-2], 1), 0.0)


def subtract(count: Tensor, padding: Tensor | None) -> Tensor:
    """The number of tokens among `count` `(n, 1)`, at least 1, as `(B, 1, n, 1)`."""
    return count if padding is None else (count - padding[:, None, None, None]).clamp(min=1)
