"""What the library hands to a pass, checked: options, masks, positions."""

from typing import Any

import torch
from torch import Tensor

from sympformer.errors import InputError
from sympformer.model.generation import as_mask


def require_known(other: dict[str, Any]) -> None:
    """Refuse options without effect."""
    for name, value in other.items():
        if value is not None and value is not False and name not in _KNOWN:
            raise InputError(f"{name} has no effect in this model: leave it out")


_KNOWN = {"is_first_iteration", "tokenizer"}
"""What the library hands to every model, whatever it takes."""


def left_only(mask: Tensor) -> Tensor:
    """The mask of the padding on the left alone; what is on the right, no token sees.

    Raises:
        InputError: it is not `(B, T)` of 0 and 1, or there is padding between tokens.
    """
    if mask.ndim != 2:
        raise InputError(
            f"the attention mask must be (batch, time), not {tuple(mask.shape)}: masks of pairs of "
            "tokens have no place in a model whose order is in its states"
        )
    real = as_mask(mask, mask)
    begun = real.cumsum(1) > 0
    ended = real.flip(1).cumsum(1).flip(1) == 0
    if (begun & ~ended & ~real).any():
        raise InputError(
            "the attention mask has padding between tokens: it may be at the ends; behind a "
            "learned prompt, pad on the right (tokenizer.padding_side)"
        )
    return begun


def require_positions(
    given: Tensor | None, mask: Tensor | None, tokens: Tensor, start: int
) -> None:
    """Refuse positions that are not those of the tokens."""
    if given is None:
        return
    rows, n = tokens.shape[:2]
    expected = torch.arange(start, start + n, device=tokens.device).expand(rows, n)
    real = torch.ones_like(expected, dtype=torch.bool)
    if mask is not None:
        if mask.shape[1] == start + n:
            expected = expected - (~mask).sum(1, keepdim=True)
        real = mask[:, -n:]
    if not torch.equal(given.expand(rows, n)[real], expected[real]):
        raise InputError(
            "position_ids must count the tokens of a row from 0, behind its padding: others have "
            "no effect in this model; leave them out"
        )
