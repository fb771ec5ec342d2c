"""From token ids to the stream: tables, and what tokens start with."""

import torch
from torch import Tensor, nn

from sympformer.attention.padding import erase
from sympformer.attention.softmax import Past
from sympformer.model.config import ModelConfig
from sympformer.model.layers import LayerNorm, Stream, Table


class Inputs(nn.Module):
    """The initial position and momentum of every token.

    A table of the input's own (`tie_embeddings=False`) is layer-normalised to unit size; the
    usual table, which the head shares, stays small.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        sizes = config.vocab_size, config.block_size, config.n_embd
        self.usual = Table(*sizes)
        self.own = None if config.tie_embeddings else Table(*sizes)
        self.norm = None if config.tie_embeddings else LayerNorm(config.n_embd)
        self.momentum = Table(*sizes) if config.initial_momentum == "embedding" else None
        differs = config.initial_momentum == "difference"
        self.difference = Difference(config.n_embd) if differs else None
        self.shift = nn.Parameter(torch.zeros(config.n_embd)) if config.token_shift else None
        self.injected = Table(*sizes) if config.injection else None

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
            x = e + self.usual.positions(positions)
        p = zero = torch.zeros_like(x)
        if self.momentum is not None:
            p = self.momentum(tokens, positions)
        if self.difference is not None:
            p = self.difference(e, previous(e, past))
        if self.shift is not None:
            x = x + self.shift * previous(e, past)
        injected = None if self.injected is None else self.injected(tokens, positions)
        return Stream(x=x, p=p, v=zero, t=x.new_ones(()), injected=injected)


class Difference(nn.Module):
    """`p_0(i) = a ∘ e_i - b ∘ e_{i-1}`: tokens start with the velocity of the text itself."""

    def __init__(self, n_embd: int):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(n_embd)), nn.Parameter(torch.ones(n_embd))

    def forward(self, e: Tensor, before: Tensor) -> Tensor:
        """Inputs and their predecessors `(B, T, d)` to momenta."""
        return self.a * e - self.b * before


def previous(e: Tensor, past: Past) -> Tensor:
    """The input of the token before each, `(B, T, d)`; zero before the first."""
    last, e = past.recall(), erase(e, past.padding, past.length)
    if last is None:
        last = torch.zeros_like(e[:, :1])
    past.keep(e[:, -1:].clone())
    return torch.cat([last, e[:, :-1]], dim=1)
