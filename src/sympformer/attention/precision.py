"""States of sums, and all that is solved, are in float32 or better, whatever the inputs are."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32, or in its own dtype where that is better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(like: Tensor) -> AbstractContextManager:
    """Switch autocast off: it would make products of states in half precision."""
    kind = like.device.type
    # Nothing to switch off leaves no trace in a graph that is exported.
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def new_state(k: Tensor, v: Tensor) -> Tensor:
    """The state before the first token, zeros `(..., d, e)` in float32 or better."""
    return wide(k).new_zeros(*k.shape[:-2], k.shape[-1], v.shape[-1])
