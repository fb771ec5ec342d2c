"""What a model remembers of earlier tokens: the state of cached decoding."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cache:
    """The tensors that the layers left, in the order in which they asked, and their length.

    A cache is never changed: the model returns a new one, and an old one stays valid, so that
    one prefix can be continued in several ways.
    """

    entries: tuple[Tensor, ...]
    length: int


class Recorder:
    """Extends a cache during one forward pass; `length` is the number of earlier tokens.

    Layers ask in the same order in every pass, so the order alone tells which entry is meant.
    """

    def __init__(self, cache: Cache | None):
        self.length = cache.length if cache else 0
        self._old = iter(cache.entries) if cache else None
        self._entries: list[Tensor] = []

    def recall(self) -> Tensor | None:
        """What earlier tokens left here, or None if there are none; `keep` must follow."""
        return None if self._old is None else next(self._old)

    def keep(self, value: Tensor) -> None:
        """Leave `value` for later tokens, in place of what was recalled."""
        self._entries.append(value)

    def extend(self, new: Tensor) -> Tensor:
        """Append `new` `(..., n, d)` to what earlier tokens left; return the whole."""
        old = self.recall()
        whole = new if old is None else torch.cat([old, new], dim=-2)
        self.keep(whole)
        return whole

    def cache(self, n_new: int) -> Cache:
        """The cache after this pass over `n_new` tokens."""
        return Cache(tuple(self._entries), self.length + n_new)
