"""States of sums, and all that is solved, are in float32 or better, whatever the inputs are."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32, or in its own dtype where that is better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(like: Tensor) -> AbstractContextManager:
    """Switch autocast off: it would make products of states in half precision."""
    return torch.autocast(like.device.type, enabled=False)


def new_state(k: Tensor, v: Tensor) -> Tensor:
    """The state before the first token, zeros `(..., d, e)` in float32 or better."""
    return wide(k).new_zeros(*k.shape[:-2], k.shape[-1], v.shape[-1])
