"""What a model remembers of earlier tokens: the state of cached decoding."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from sympformer.errors import InputError


class Buffer:
    """Room for the tokens of one entry, `(..., room, d)`; the first `filled` of them are there.

    Several caches share a buffer: each knows by its own length how many of the tokens it holds.
    """

    def __init__(self, data: Tensor, filled: int):
        self.data, self.filled = data, filled

    def tokens(self, length: int) -> Tensor:
        """The first `length` tokens."""
        return self.data.narrow(-2, 0, length)

    def takes(self, new: Tensor, length: int) -> bool:
        """Whether `new` can be written behind the first `length` tokens, to nobody's harm.

        Not where another cache has gone on from them already, and not where gradients are
        recorded: autograd may have saved a view of the buffer.
        """
        return (
            length == self.filled
            and length + new.shape[-2] <= self.data.shape[-2]
            and (new.shape[:-2], new.dtype) == (self.data.shape[:-2], self.data.dtype)
            and not torch.is_grad_enabled()
        )

    def append(self, new: Tensor) -> None:
        """Write `new` behind the last token."""
        self.data.narrow(-2, self.filled, new.shape[-2]).copy_(new)
        self.filled += new.shape[-2]


@dataclass(frozen=True)
class Cache:
    """What the layers left, in the order in which they asked; without entries, a fresh start.

    A cache never changes: the model returns a new one, and an old one stays valid, so that one
    prefix can be continued in several ways. What grows with the text lies in buffers, to which a
    continuation only adds; a second continuation of the same prefix copies them first.
    """

    entries: tuple[Tensor | Buffer, ...] = ()
    length: int = 0
    """Number of tokens so far, padding included."""
    padding: Tensor | None = None
    """Number of padding tokens on the left of each row, `(B,)` int64; None without padding."""
    capacity: int = 0
    """Tokens for which to make room at once; more is made when needed."""


class Recorder:
    """Extends a cache during one forward pass.

    Layers ask in the same order in every pass, so the order alone tells which entry is meant.

    Args:
        cache: what an earlier pass left.
        limit: tokens beyond which there is never a need for room; 0 if unknown.
        keeps: whether to keep anything at all; training need not.
    """

    def __init__(self, cache: Cache | None, *, limit: int = 0, keeps: bool = True):
        cache = cache or Cache()
        self.length, self.padding, self.keeps = cache.length, cache.padding, keeps
        self._capacity, self._limit = cache.capacity, limit
        self._old = list(cache.entries)
        self._entries: list[Tensor | Buffer] = []

    def recall(self) -> Tensor | None:
        """What earlier tokens left here, or None if there are none; `keep` must follow."""
        return cast(Tensor | None, self._next())

    def keep(self, value: Tensor) -> None:
        """Leave `value` for later tokens, in place of what was recalled."""
        if self.keeps:
            self._entries.append(value)

    def extend(self, new: Tensor) -> Tensor:
        """Append `new` `(..., n, d)` to what earlier tokens left; return the whole."""
        old = cast(Buffer | None, self._next())
        if old is None and not self._capacity:
            buffer = Buffer(new, new.shape[-2])
        elif old is not None and self.keeps and old.takes(new, self.length):
            old.append(new)
            buffer = old
        else:
            buffer = self._grown(old and old.tokens(self.length), new)
        if self.keeps:
            self._entries.append(buffer)
        return buffer.tokens(self.length + new.shape[-2])

    def cache(self, n_new: int) -> Cache:
        """The cache after this pass over `n_new` tokens."""
        return Cache(tuple(self._entries), self.length + n_new, self.padding, self._capacity)

    def _next(self) -> Tensor | Buffer | None:
        # Without a counter: a compiled block would be one graph for each of its values.
        return self._old.pop(0) if self._old else None

    def _grown(self, old: Tensor | None, new: Tensor) -> Buffer:
        """A new buffer with both, and with room for as many more."""
        if old is not None and old.shape[:-2] != new.shape[:-2]:
            raise InputError(
                f"the cache is of {old.shape[0]} rows, the tokens are of {new.shape[0]}: "
                "continue every row that the cache was made from"
            )
        length = self.length + new.shape[-2]
        if torch.is_grad_enabled() or not self.keeps:
            return Buffer(new if old is None else torch.cat([old, new], dim=-2), length)
        room = 2 * length if old is not None else length
        room = max(length, self._capacity, min(room, self._limit or room))
        dtype = new.dtype if old is None else torch.promote_types(old.dtype, new.dtype)
        with torch.inference_mode(False):  # to be written in any mode
            data = new.new_empty(*new.shape[:-2], room, new.shape[-1], dtype=dtype)
        if old is not None:
            data[..., : self.length, :] = old
        data[..., self.length : length, :] = new
        return Buffer(data, length)
