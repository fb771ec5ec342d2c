"""The next token, chosen from the logits."""

import math

import torch
from torch import Tensor

from sympformer.errors import InputError

_GREEDY = torch.finfo(torch.float32).eps
"""Below this temperature the most likely token is taken: beside logits of 1 it is 0."""
_SEEDS = -(2**63), 2**64


def sample(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    random: torch.Generator,
    vocab_size: int | None = None,
) -> Tensor:
    """Choose one id a row, `(B, V)` to `(B, 1)`, in float32 whatever the logits are.

    Args:
        logits: of any floating dtype.
        temperature: 0, or so close to it that it makes no difference, takes the most likely id.
        top_k: draw among exactly the k most likely ids; of equal ones at the edge, any.
        random: where the draws come from.
        vocab_size: ids from this on are not chosen.

    Raises:
        InputError: a row has no finite largest logit.
    """
    logits = logits[:, :vocab_size]
    peak, likeliest = logits.max(-1, keepdim=True)
    if not peak.isfinite().all():
        raise InputError(
            "the model's predictions are not finite numbers: its weights have diverged, or its "
            "precision is too low"
        )
    if temperature < _GREEDY:
        return likeliest
    ids = None
    if top_k is not None and top_k < logits.shape[-1]:
        logits, ids = logits.topk(top_k, dim=-1)
    likelihood = ((logits.float() - peak.float()) / temperature).softmax(-1)
    drawn = torch.multinomial(likelihood, 1, generator=random)
    return drawn if ids is None else ids.gather(-1, drawn)


def require_sampling(
    temperature: float, top_k: int | None, seed: int | None, vocab_size: int | None
) -> None:
    """Refuse options that no draw can follow.

    Raises:
        InputError: one of them is out of range.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InputError(f"temperature must be a number of at least 0, not {temperature}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, not {top_k}")
    if vocab_size is not None and vocab_size < 1:
        raise InputError(f"vocab_size must be at least 1, not {vocab_size}")
    if seed is not None and not _SEEDS[0] <= seed < _SEEDS[1]:
        raise InputError(f"seed must be from -2^63 to 2^64 - 1, not {seed}")
