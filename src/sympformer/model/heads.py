"""What all attention modules share: the scale of the scores and the layout of heads."""

import math

from torch import Tensor, nn

from sympformer.attention.naive import Causality
from sympformer.model.config import ModelConfig


class Heads(nn.Module):
    """Splits tokens into heads and back.

    Heads: one kernel each ("independent"), or one kernel of the scores averaged over heads
    ("averaged"), which is a single head of full width with scale `1/(H √d_h)`, maths.md "Heads".
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        averaged, d_head = config.heads == "averaged", config.n_embd // config.n_head
        self.n_head = 1 if averaged else config.n_head
        self.scale = 1 / math.sqrt(d_head) / (config.n_head if averaged else 1)
        self.causality: Causality = config.causality

    def split(self, x: Tensor) -> Tensor:
        """`(B, T, d)` to `(B, H, T, d/H)`."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(-3, -2)

    def merge(self, x: Tensor) -> Tensor:
        """`(B, H, T, d/H)` to `(B, T, d)`."""
        return x.transpose(-3, -2).flatten(-2)

    def initialise(self) -> None:
        """Set what does not start from N(0, 0.02)."""


class Field:
    """One evaluation of an oracle; all arguments and results are `(B, T, d)`."""

    def attention(self) -> Tensor:
        """The acceleration at rest, in velocity form."""
        raise NotImplementedError

    def connection(self, u: Tensor) -> Tensor:
        """`C(u)`, the connection of the oracle's metric."""
        raise NotImplementedError

    def proposal(self, p: Tensor, beta: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """`W = β p + γ Att` and `C(W)`."""
        w = beta * p + gamma * self.attention()
        return w, self.connection(w)
