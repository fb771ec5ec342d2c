"""What a model remembers of earlier tokens: the state of cached decoding."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from sympformer.errors import InputError, shown


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


Entry = Tensor | Buffer
"""What one part of a model left: a state of constant size, or what grows with the text."""


@dataclass(frozen=True, repr=False)
class Cache:
    """What the parts of a model left, by name; without entries, a fresh start.

    A cache never changes: the model returns a new one, and an old one stays valid, so that one
    prefix can be continued in several ways. What grows with the text lies in buffers, to which a
    continuation only adds; a second continuation of the same prefix copies them first.

    A copy (`copy.deepcopy`) is a cache of the same model. One that was pickled is of none, for
    nothing says then which weights made it: models refuse it, and read the text anew instead.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    """By name, as `blocks.0.key`."""
    length: int = 0
    """Number of tokens so far, padding included."""
    padding: Tensor | None = None
    """Number of padding tokens on the left of each row, `(B,)` int64; None without padding."""
    capacity: int = 0
    """Tokens for which to make room at once; more is made when needed."""
    owner: object = None
    """Whose it is: no other model takes it. None for a fresh start."""
    dtype: torch.dtype | None = None
    """Of the model's weights when it was made; None for a fresh start."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy is of the same model; of its copy, if that has been copied with it before."""
        copied = {
            f.name: copy.deepcopy(getattr(self, f.name), memo)
            for f in fields(self)
            if f.name != "owner"
        }
        return replace(self, **copied, owner=memo.get(id(self.owner), self.owner))

    def __repr__(self) -> str:
        return f"Cache({self.length} tokens, {self.rows or 0} rows, {len(self.entries)} entries)"

    @property
    def rows(self) -> int | None:
        """Rows of the batch that it is of; None of a fresh start."""
        return next(map(_batch, self.entries.values()), None)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds, without the room that is made for more: what a model remembers."""
        return sum(
            (entry.tokens(self.length) if isinstance(entry, Buffer) else entry).nbytes
            for entry in self.entries.values()
        )

    @property
    def croppable(self) -> bool:
        """Whether it can be cropped: nothing in it is one state of all tokens."""
        return not self._states()

    def _states(self) -> list[str]:
        return [name for name, entry in self.entries.items() if not isinstance(entry, Buffer)]

    def select(self, rows: Tensor | Sequence[int]) -> Self:
        """The cache of these rows of the batch, in this order; a row may come more than once.

        Args:
            rows: their numbers, or a mask of all rows, bool, that is true for those to keep.

        Raises:
            InputError: there is no such row, or neither numbers nor a mask are given.
        """
        known = self.rows
        index = _numbers(rows, known)
        if known and index.numel() and not 0 <= int(index.min()) <= int(index.max()) < known:
            raise InputError(f"rows must be from 0 to {known - 1}, not {index.tolist()}")

        def rows_of(t: Tensor) -> Tensor:
            return t.index_select(0, index.to(t.device))

        def chosen(entry: Entry) -> Entry:
            if isinstance(entry, Buffer):
                return Buffer(rows_of(entry.tokens(self.length)), self.length)
            return rows_of(entry)

        entries = {name: chosen(entry) for name, entry in self.entries.items()}
        padding = None if self.padding is None else rows_of(self.padding)
        return replace(self, entries=entries, padding=padding)

    def crop(self, length: int) -> Self:
        """The cache after the first `length` tokens only; buffers are shared, nothing is copied.

        Raises:
            InputError: there are not so many tokens, or there is a state of constant
                size, as in linear attention, which holds all of them.
        """
        if type(length) is not int:
            raise InputError(f"a number of tokens must be a whole number, not {length!r}")
        if not 0 <= length <= self.length:
            raise InputError(f"a cache of {self.length} tokens cannot be cropped to {length}")
        if length < self.length and (states := self._states()):
            raise InputError(
                f"{states[0]} is one state of all {self.length} tokens and cannot be cropped: keep "
                "the cache of the shorter text, which stays valid"
            )
        entries, owner = (self.entries, self.owner) if length else ({}, None)
        return replace(self, entries=entries, owner=owner, length=length)


def _batch(entry: Entry) -> int:
    return len(entry.data if isinstance(entry, Buffer) else entry)


def _numbers(rows: Any, known: int | None) -> Tensor:
    """Rows as `select` takes them, as their numbers, int64."""
    try:
        index = torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"rows must be a list of numbers or a mask, not {shown(rows)}") from None
    if index.ndim == 1 and index.dtype == torch.bool:
        if known not in (None, len(index)):
            raise InputError(f"a mask of rows must have {known} entries, not {len(index)}")
        return index.nonzero().squeeze(1)
    if index.ndim != 1 or (index.numel() and (index.is_floating_point() or index.is_complex())):
        raise InputError(f"rows must be a list of numbers or a mask, not {shown(index.tolist())}")
    return index.to(torch.int64)


def _require_rows(known: int | None, rows: int) -> None:
    if known not in (None, rows):
        raise InputError(
            f"the cache is of {known} rows, the tokens are of {rows}: continue every row that the "
            "cache was made from, or cache.select(rows)"
        )


class Recorder:
    """Extends a cache during one forward pass; it is the past of a model's parts.

    Args:
        cache: what an earlier pass left.
        limit: tokens beyond which there is never a need for room; 0 if unknown.
        keeps: whether to leave anything for later tokens; scoring a continuation need not.
        owner: whose cache it will be.
        rows: of the batch that goes on; not checked if None.
        dtype: of the weights; not checked if None.

    Raises:
        InputError: the cache is another model's, of other rows, or of weights of another dtype.
    """

    def __init__(
        self,
        cache: Cache | None = None,
        *,
        limit: int = 0,
        keeps: bool = True,
        owner: object = None,
        rows: int | None = None,
        dtype: torch.dtype | None = None,
    ):
        cache = cache or Cache()
        if cache.length and cache.owner is not owner:
            raise InputError(
                "this cache is of another model: continue with the one that made it, or start anew"
            )
        if cache.length and rows is not None:
            _require_rows(cache.rows, rows)
        if cache.length and dtype not in (None, cache.dtype):
            raise InputError(
                f"the cache was made by weights in {cache.dtype}, which are in {dtype} now: make "
                "it anew"
            )
        self.dtype = dtype
        self.length, self.padding, self.keeps = cache.length, cache.padding, keeps
        self.capacity, self.limit, self.owner = cache.capacity, limit, owner
        self.old, self.rows = cache.entries, cache.rows
        self.new: dict[str, Entry] = {}

    def part(self, name: str) -> "Part":
        """The past of one part of the model."""
        return Part(self, name)

    def cache(self, n_new: int) -> Cache:
        """The cache after this pass over `n_new` tokens."""
        length = self.length + n_new
        entries = dict(self.new)
        return Cache(entries, length, self.padding, self.capacity, self.owner, self.dtype)


class Part:
    """The past as one part of a model sees it: `sympformer.attention.past.Past`."""

    def __init__(self, recorder: Recorder, name: str):
        self.recorder, self.name = recorder, name
        self.length, self.padding, self.keeps = recorder.length, recorder.padding, recorder.keeps

    def part(self, name: str) -> "Part":
        """A part of this part."""
        return Part(self.recorder, f"{self.name}.{name}")

    def require_rows(self, rows: int) -> None:
        """Refuse to go on with other rows than those that the cache is of.

        Raises:
            InputError: there are not so many rows.
        """
        _require_rows(self.recorder.rows, rows)

    def recall(self, name: str) -> Tensor | None:
        """What earlier tokens left under this name, or None if there are none."""
        return cast(Tensor | None, self._old(name))

    def keep(self, name: str, value: Tensor) -> None:
        """Leave `value` for later tokens, in place of what was there."""
        self._leave(name, value)

    def extend(self, name: str, new: Tensor) -> Tensor:
        """Append `new` `(..., n, d)` to what earlier tokens left; return the whole."""
        old = cast(Buffer | None, self._old(name))
        if old is None and not self.recorder.capacity:
            buffer = Buffer(new, new.shape[-2])
        elif old is not None and self.keeps and old.takes(new, self.length):
            old.append(new)
            buffer = old
        else:
            buffer = self._grown(old and old.tokens(self.length), new)
        self._leave(name, buffer)
        return buffer.tokens(self.length + new.shape[-2])

    def _old(self, name: str) -> Entry | None:
        if self.length and f"{self.name}.{name}" not in self.recorder.old:
            raise InputError(f"this cache has no {self.name}.{name}: it is of another model")
        return self.recorder.old.get(f"{self.name}.{name}")

    def _leave(self, name: str, entry: Entry) -> None:
        if not self.keeps:
            return
        name = f"{self.name}.{name}"
        assert name not in self.recorder.new, f"{name} was left twice"
        self.recorder.new[name] = entry

    def _grown(self, old: Tensor | None, new: Tensor) -> Buffer:
        """A new buffer with both, and with room for as many more."""
        if old is not None:
            _require_rows(len(old), len(new))
        length = self.length + new.shape[-2]
        if torch.is_grad_enabled() or not self.keeps:
            return Buffer(new if old is None else torch.cat([old, new], dim=-2), length)
        room = 2 * length if old is not None else length
        limit = self.recorder.limit or room
        room = max(length, self.recorder.capacity, min(room, limit))
        dtype = new.dtype if old is None else torch.promote_types(old.dtype, new.dtype)
        with torch.inference_mode(False):  # to be written in any mode
            data = new.new_empty(*new.shape[:-2], room, new.shape[-1], dtype=dtype)
        if old is not None:
            data[..., : self.length, :] = old
        data[..., self.length : length, :] = new
        return Buffer(data, length)
