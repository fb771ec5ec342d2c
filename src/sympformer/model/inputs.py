"""From token ids to the stream: tables, and what tokens start with."""

from typing import Literal

import torch
from torch import Tensor, nn

from sympformer.attention.past import Past, erase
from sympformer.errors import InputError
from sympformer.model.layers import Embeddings, LayerNorm, Stream


class Inputs(nn.Module):
    """The initial position and momentum of every token.

    A table of the input's own (`tie_embeddings=False`) is layer-normalised to unit size; the
    usual table, which the head shares, stays small. With a `block_size` of 0, no table holds
    positions.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        d: int,
        *,
        tied: bool = True,
        momentum: Literal["zero", "embedding", "difference"] = "zero",
        shift: bool = False,
        injection: bool = False,
        bias: bool = False,
    ):
        super().__init__()
        sizes = vocab_size, block_size, d
        self.usual = Embeddings(*sizes)
        self.own = None if tied else Embeddings(*sizes)
        self.norm = None if tied else LayerNorm(d, bias)
        self.momentum = Embeddings(*sizes) if momentum == "embedding" else None
        self.difference = Difference(d) if momentum == "difference" else None
        self.shift = Shift(d) if shift else None
        self.injected = Embeddings(*sizes) if injection else None

    def forward(self, tokens: Tensor, past: Past) -> Stream:
        """Ids `(B, T)` that follow the past's, to the stream at time 1.

        Positions are counted from each row's first token behind its padding.
        """
        positions = torch.arange(past.length, past.length + tokens.shape[1], device=tokens.device)
        if past.padding is not None:
            positions = (positions - past.padding[:, None]).clamp(min=0)
        if self.own is None or self.norm is None:
            x = e = self.usual(tokens, positions)
        else:
            e = self.norm(self.own(tokens, positions))
            x = self.usual.placed(e, positions)
        p = None if self.momentum is None else self.momentum(tokens, positions)
        if self.difference is not None or self.shift is not None:
            before = previous(e, past)
            p = p if self.difference is None else self.difference(e, before)
            x = x if self.shift is None else self.shift(x, before)
        injected = None if self.injected is None else self.injected(tokens, positions)
        return Stream.start(x, p, injected)


class Difference(nn.Module):
    """`p_0(i) = a ∘ e_i - b ∘ e_{i-1}`: tokens start with the velocity of the text itself."""

    def __init__(self, d: int):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.empty(d)), nn.Parameter(torch.empty(d))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with the difference itself."""
        nn.init.ones_(self.a)
        nn.init.ones_(self.b)

    def forward(self, e: Tensor, before: Tensor) -> Tensor:
        """Inputs and their predecessors `(B, T, d)` to momenta."""
        return self.a * e - self.b * before


class Shift(nn.Module):
    """`x_i + a ∘ e_{i-1}`: the input of the token before, added by learned weights from 0."""

    def __init__(self, d: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start without it."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Positions, and the inputs of their predecessors, `(B, T, d)`."""
        return x + self.weight * before


def previous(e: Tensor, past: Past) -> Tensor:
    """The input of the token before each, `(B, T, d)`; zero before the first."""
    last, e = past.recall("input"), erase(e, past.padding, past.length)
    if last is None:
        last = torch.zeros_like(e[:, :1])
    past.keep("input", e[:, -1:].clone())
    return torch.cat([last, e], dim=1)[:, :-1]


def require_ids(tokens: Tensor, *types: torch.dtype) -> None:
    """Refuse what cannot be ids: all but int64 and `types`.

    Raises:
        InputError: they are not whole numbers.
    """
    if tokens.dtype not in (torch.int64, *types):
        raise InputError(f"ids must be int64, not {tokens.dtype}: tokens.long() makes them so")
