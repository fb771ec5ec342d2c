"""What flows through the layers."""

from typing import NamedTuple, Self

import torch
from torch import Tensor


class Stream(NamedTuple):
    """Every token's state, and the clock.

    `x, p, v` are `(B, T, d)`: position, momentum (the velocity, in velocity form), and the MLP's
    own velocity; `t` is the time of the damping, `memory` the past of a multistep scheme, and
    `injected` what is added to the position in every layer.
    """

    x: Tensor
    p: Tensor
    v: Tensor
    t: Tensor
    memory: object = None
    injected: Tensor | None = None

    @classmethod
    def start(cls, x: Tensor, p: Tensor | None = None, injected: Tensor | None = None) -> Self:
        """Tokens at `x`, at rest unless they have a momentum, at time 1.

        The clock is in float32 or better, whatever the tokens are in.
        """
        zero = torch.zeros_like(x)
        t = x.new_ones((), dtype=torch.promote_types(x.dtype, torch.float32))
        return cls(x, zero if p is None else p, zero, t, injected=injected)
