"""Building blocks that every architecture shares."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sympformer import products
from sympformer.derivatives import remade


class LayerNorm(nn.LayerNorm):
    """Layer normalisation with a gain and no bias."""

    def __init__(self, n_embd: int):
        super().__init__(n_embd, bias=False)


class Linear(nn.Linear):
    """A linear map without bias."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """`(..., n_in)` to `(..., n_out)`."""
        return products.linear(input, self.weight)


class MLP(nn.Module):
    """GELU perceptron, `width` inside, no bias: the oracle without interaction."""

    def __init__(self, n_embd: int, width: int):
        super().__init__()
        self.expand = Linear(n_embd, width)
        self.contract = Linear(width, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., d)` to `(..., d)`."""
        wide = self.expand(x)
        # GELU is made again in the backward pass: kept, it is a quarter of a layer's memory.
        return remade(self.contract, F.gelu, wide)


class Scalar(nn.Module):
    """A learned scalar in its domain: "positive" by softplus, "unit" by sigmoid, "real" free.

    Scalars form an optimizer group of their own (`sympformer.train.optimizer`): no weight decay,
    not clipped, a larger learning rate.
    """

    def __init__(self, initial: float, domain: Literal["positive", "unit", "real"]):
        super().__init__()
        self.domain = domain
        raw = {
            "positive": lambda: math.log(math.expm1(initial)),
            "unit": lambda: math.log(initial / (1 - initial)),
            "real": lambda: initial,
        }[domain]()
        self.raw = nn.Parameter(torch.tensor(raw))

    def forward(self) -> Tensor:
        """The value, a tensor without axes."""
        if self.domain == "positive":
            return F.softplus(self.raw)
        return self.raw.sigmoid() if self.domain == "unit" else self.raw

    def extra_repr(self) -> str:
        """Show the domain in the printed model."""
        return self.domain


class Table(nn.Module):
    """Token and position embeddings, added."""

    def __init__(self, vocab_size: int, block_size: int, n_embd: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, n_embd)
        self.positions = nn.Embedding(block_size, n_embd)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Ids `(B, T)` and positions `(T)` to `(B, T, d)`."""
        return self.tokens(tokens) + self.positions(positions)


class Stream(NamedTuple):
    """What flows through the layers: every token's state, and the clock.

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
