"""From a token stream to batches: the epoch protocol of training, and fixed validation blocks."""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sympformer.data.documents import IGNORED, apart, taken
from sympformer.errors import InputError


class Loader:
    """Endless training batches: every block once an epoch, in an order that depends on `seed` only.

    An epoch cuts the stream into non-overlapping blocks of `block_size` inputs and their targets
    (the same tokens one further on). Each epoch shifts the cuts by an offset of its own and
    shuffles the blocks. Ranks take turns of `batch_size` blocks in that one order, so together
    they see what a single rank with batches of `world_size * batch_size` sees. A batch that an
    epoch cannot fill goes on into the next.

    Iterating gives (inputs, targets), int64, each of shape (batch_size, block_size).

    With `eos`, the separator, `passes` gives every document by itself: see `documents.apart`.

    Raises:
        InputError: the stream is shorter than one block, or `seed` is negative.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        block_size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        eos: int | None = None,
    ) -> None:
        _require_block(tokens, block_size)
        if seed < 0:
            raise InputError(f"the data seed must not be negative, but is {seed}")
        self.tokens = tokens
        self.block_size = block_size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.eos = eos
        self._start_epoch(0)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        starts = np.array([self._next_start() for _ in range(self.world_size * self.batch_size)])
        first = self.rank * self.batch_size
        return _batch(self.tokens, starts[first : first + self.batch_size], self.block_size)

    def passes(self) -> list[tuple[Tensor, Tensor]]:
        """The next batch in the parts in which the model takes it, one if documents are packed."""
        inputs, targets = next(self)
        if self.eos is None:
            return [(inputs, targets)]
        return [
            (taken(inputs, places, self.eos), taken(targets, places, IGNORED))
            for places in apart(inputs, self.eos)
        ]

    def state_dict(self) -> dict[str, int]:
        """Where the stream of blocks stands; the same on every rank."""
        return {"epoch": self.epoch, "block": self._block, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken, with any number of ranks.

        Raises:
            InputError: `state` is of a loader with another seed, block size or token stream.
        """
        for key, value in self._identity().items():
            if state[key] != value:
                raise InputError(f"cannot resume: {key} was {state[key]}, now it is {value}")
        self._start_epoch(state["epoch"])
        self._block = state["block"]

    def _identity(self) -> dict[str, int]:
        return {"seed": self.seed, "block_size": self.block_size, "tokens": len(self.tokens)}

    def _start_epoch(self, epoch: int) -> None:
        random = np.random.default_rng([self.seed, epoch])
        slack = len(self.tokens) - self.block_size
        offset = int(random.integers(min(self.block_size, slack)))
        blocks = random.permutation(_count_blocks(len(self.tokens) - offset, self.block_size))
        self._starts = offset + self.block_size * blocks
        self._block = 0
        self.epoch = epoch

    def _next_start(self) -> int:
        if self._block == len(self._starts):
            self._start_epoch(self.epoch + 1)
        self._block += 1
        return self._starts[self._block - 1]


def valid_blocks(
    tokens: np.ndarray,
    block_size: int,
    batch_size: int,
    max_blocks: int | None = None,
    eos: int | None = None,
) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
    """Validation batches, the same for every model: all blocks, or `max_blocks` spread evenly.

    Gives (inputs, targets, positions), each of shape (B, block_size) with B <= batch_size:
    `targets == tokens[positions]`, so `floor[positions]` belongs to exactly these targets. With
    `eos` every document is a row by itself (see `documents.apart`), and `positions`, one axis
    then, are those of the targets that count.

    Raises:
        InputError: the stream is shorter than one block.
    """
    _require_block(tokens, block_size)
    blocks = _count_blocks(len(tokens), block_size)
    chosen = blocks if max_blocks is None else min(blocks, max_blocks)
    starts = np.arange(chosen) * blocks // chosen * block_size
    for first in range(0, chosen, batch_size):
        batch = starts[first : first + batch_size]
        positions = batch[:, None] + np.arange(1, block_size + 1)
        inputs, targets = _batch(tokens, batch, block_size)
        if eos is None:
            yield inputs, targets, positions
            continue
        for places in apart(inputs, eos):
            here = positions.flatten()[places[places >= 0].numpy()]
            yield taken(inputs, places, eos), taken(targets, places, IGNORED), here


def _count_blocks(tokens: int, block_size: int) -> int:
    return (tokens - 1) // block_size  # the last target needs one token more


def _require_block(tokens: np.ndarray, block_size: int) -> None:
    if len(tokens) <= block_size:
        raise InputError(
            f"the text has {len(tokens)} tokens, but a block of {block_size} needs "
            f"{block_size + 1}: give more text or a smaller block_size"
        )


def _batch(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> tuple[Tensor, Tensor]:
    window = tokens[starts[:, None] + np.arange(block_size + 1)]
    batch = torch.from_numpy(window.astype(np.int64))
    return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
