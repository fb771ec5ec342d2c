"""Our cache, in the clothes of `transformers`' own."""

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache as HFCache

from sympformer.errors import InputError
from sympformer.model import Cache


class SympFormerCache(HFCache):
    """What a model remembers of earlier tokens; `state` is ours, which never changes.

    The object is what changes: after a pass it holds the state of the longer text.
    """

    def __init__(self, state: Cache | None = None):
        super().__init__(layers=[])
        self.state = Cache() if state is None else state

    def __repr__(self) -> str:
        return f"SympFormerCache({self.state!r})"

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens so far, padding included."""
        return self.state.length

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1: it grows, or is of constant size."""
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Keys, and their offset."""
        return self.state.length + query_length, 0

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first token."""
        return -1 if self.state.rows is None else self.state.rows

    @property
    def is_compileable(self) -> bool:
        """Whether its shapes never change: not promised."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether it holds anything."""
        return self.state.length > 0

    @property
    def is_croppable(self) -> bool:
        """Whether tokens can be forgotten one by one: not by states of constant size."""
        return self.state.croppable

    @property
    def is_linear(self) -> list[bool]:
        """Not so, in the library's sense: it knows how many tokens it holds."""
        return [False]

    @property
    def is_sliding(self) -> list[bool]:
        """No layer forgets by position."""
        return [False]

    def reset(self) -> None:
        """Forget everything."""
        self.state = Cache()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Take these rows, as beam search asks for."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor | Sequence[int]) -> None:
        """Take these rows."""
        self.state = self.state.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Take each row `repeats` times."""
        if self.state.rows is not None:
            self.state = self.state.select(torch.arange(self.state.rows).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens, `-tokens_to_remove` of them, as the library counts.

        Raises:
            InputError: the number is above 0, there are not so many tokens, or the cache holds
                states of constant size, which cannot forget single tokens.
        """
        if not -self.state.length <= tokens_to_remove <= 0:
            raise InputError(
                f"a cache of {self.state.length} tokens cannot be cropped by {tokens_to_remove}: "
                f"-n removes the last n, {-self.state.length} to 0"
            )
        self.state = self.state.crop(self.state.length + tokens_to_remove)
