"""From token ids to the stream: tables, and what tokens start with."""

from typing import Literal

import torch
from torch import Tensor, nn

from sympformer.attention.past import Past, erase
from sympformer.errors import InputError
from sympformer.model.layers import Embeddings, LayerNorm, Stream
from sympformer.torch_private import transformed


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
        self.vocab_size, self.d = vocab_size, d
        sizes = vocab_size, block_size, d
        self.usual = Embeddings(*sizes)
        self.own = None if tied else Embeddings(*sizes)
        self.norm = None if tied else LayerNorm(d, bias)
        self.momentum = Embeddings(*sizes) if momentum == "embedding" else None
        self.difference = Difference(d) if momentum == "difference" else None
        self.shift = Shift(d) if shift else None
        self.injected = Embeddings(*sizes) if injection else None

    @property
    def tables(self) -> list[Embeddings]:
        """Where a token is looked up: its position, its momentum, what is injected."""
        first = self.usual if self.own is None else self.own
        return [first, *(t for t in (self.momentum, self.injected) if t is not None)]

    def embed(self, tokens: Tensor) -> Tensor:
        """Ids `(B, T)` to what the tables say of them, side by side, `(B, T, tables d)`."""
        return torch.cat([table.tokens(tokens) for table in self.tables], dim=-1)

    def require(self, tokens: Tensor) -> None:
        """Refuse what `forward` cannot take.

        Raises:
            InputError: neither ids `(B, T)` of the vocabulary nor vectors `(B, T, tables d)`.
        """
        if tokens.ndim == 3 and tokens.is_floating_point():
            n = len(self.tables)
            if tokens.shape[2] != n * self.d or 0 in tokens.shape:
                raise InputError(
                    f"vectors in the place of ids must be (batch, time, {n * self.d}), {n} tables "
                    f"side by side, not {tuple(tokens.shape)}: model.inputs.embed makes them"
                )
            return
        require_ids(tokens, torch.int32)
        if tokens.ndim != 2 or 0 in tokens.shape:
            raise InputError(
                f"tokens must be (batch, time), each at least 1, not {tuple(tokens.shape)}"
            )
        # Reading ids back from an accelerator would stall it; there, its own assertion speaks.
        # A transform may not read ids back either; there, the table speaks.
        unread = torch.compiler.is_compiling() or transformed(tokens)
        if tokens.device.type == "cpu" and not unread:
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.vocab_size:
                raise InputError(
                    f"token id {low if low < 0 else high} is outside the vocabulary of "
                    f"{self.vocab_size}: was the text encoded with another tokenizer?"
                )

    def forward(self, tokens: Tensor, past: Past) -> Stream:
        """Ids `(B, T)` that follow the past's, to the stream at time 1; or what `embed` makes.

        Positions are counted from each row's first token behind its padding.
        """
        positions = torch.arange(past.length, past.length + tokens.shape[1], device=tokens.device)
        if past.padding is not None:
            positions = (positions - past.padding[:, None]).clamp(min=0)
        tables = self.tables
        n = len(tables)
        given = tokens.chunk(n, dim=-1) if tokens.is_floating_point() else [tokens] * n
        e, *others = (table(each, positions) for table, each in zip(tables, given, strict=True))
        x = e
        if self.norm is not None:
            e = self.norm(e)
            x = self.usual.placed(e, positions)
        p = None if self.momentum is None else others[0]
        if self.difference is not None or self.shift is not None:
            before = previous(e, past)
            p = p if self.difference is None else self.difference(e, before)
            x = x if self.shift is None else self.shift(x, before)
        return Stream.start(x, p, None if self.injected is None else others[-1])


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
