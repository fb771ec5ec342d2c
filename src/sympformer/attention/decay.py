"""How much of an earlier token is left within a chunk: all, a factor a head, or one a channel.

A decay is the logarithm `g ≤ 0` of what a token leaves of the state before it, in
`S_i = e^{g_i} S_{i-1} + …`: of token j, token i sees `e^{g_{j+1} + … + g_i}`. Every exponential
here is of such a sum, so that none overflows, and a decay of -inf forgets everything.

Chunks are `(..., C, d)`. What reads from them may be R times as many, `(..., R C, d)`, as queries
and keys are; keys read strictly earlier tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

FORGOTTEN = -1000.0
"""The exponential of this is zero in every precision; sums of as many as there are stay finite."""


class Kept(NamedTuple):
    """No decay; `start`, `end` and `whole` are as in `HeadDecay`, and 1."""

    mask: Tensor
    """Which of the tokens a reader sees, `(R C, C)`, 1 or 0."""
    start: None = None
    end: None = None
    whole: None = None

    def product(self, readers: Tensor, k: Tensor) -> Tensor:
        """`r_i·k_j` for the tokens that a reader sees, `(..., R C, C)`, else 0."""
        return readers @ k.mT * self.mask

    def pull_back(self, g: Tensor, v: Tensor, readers: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients for readers and keys of `Σ_i g_i · Σ_j product_ij v_j`."""
        weight = self.product(g, v)
        return weight @ k, weight.mT @ readers


class HeadDecay:
    """A factor for the whole state, `(..., C, 1)`."""

    start: Tensor
    """Of the state before the chunk, as token i sees it."""
    end: Tensor
    """Of token j, as the end of the chunk sees it."""
    whole: Tensor
    """Of the state before the chunk, as its end sees it."""

    def __init__(self, g: Tensor, mask: Tensor):
        # In float64: what is left of a recent token must not suffer from what was forgotten before.
        total = g.clamp(min=FORGOTTEN).double().cumsum(-2)
        between = (total - total.mT).to(g.dtype).clamp(max=0.0).exp()
        count = mask.shape[-2] // g.shape[-2]
        self.mask = torch.cat([between] * count, dim=-2) * mask
        self.start = total.to(g.dtype).exp()
        self.end = (total[..., -1:, :] - total).to(g.dtype).exp()
        self.whole = self.start[..., -1:, :]

    product, pull_back = Kept.product, Kept.pull_back


class ChannelDecay:
    """A factor for each channel of the keys, `(..., C, d)`.

    A chunk is halved again and again: all that the second half sees of the first decays to the
    border between them, and from there on.
    """

    def __init__(self, g: Tensor, mask: Tensor):
        self.mask = mask
        self.start, self.end = g.cumsum(-2).exp(), _later(g).exp()
        self.whole = self.start[..., -1:, :].mT
        self.borders: list[tuple[Tensor, Tensor]] = []  # from each border on, and to it
        while g.shape[-2] > 1:
            g = _halves(g)
            self.borders.append((g[1].cumsum(-2).exp(), _later(g[0]).exp()))

    def product(self, readers: Tensor, k: Tensor) -> Tensor:
        """As `Kept`, each channel times what is left of j at i."""
        readers = readers.unflatten(-2, (-1, k.shape[-2]))
        return self._product(readers, k, 0).flatten(-3, -2) * self.mask

    def _product(self, readers: Tensor, k: Tensor, depth: int) -> Tensor:
        if k.shape[-2] == 1:
            return (readers * k.unsqueeze(-3)).sum(-1, keepdim=True)
        late, early = self.borders[depth]
        readers, k = _halves(readers), _halves(k)
        cross = (readers[1] * late.unsqueeze(-3)).flatten(-3, -2) @ (k[0] * early).mT
        first, second = self._product(readers, k, depth + 1)
        first = torch.cat([first, torch.zeros_like(first)], dim=-1)
        return torch.cat([first, torch.cat([cross.view_as(second), second], dim=-1)], dim=-2)

    def pull_back(self, g: Tensor, v: Tensor, readers: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """As `Kept`."""
        rows = (-1, k.shape[-2])
        weight = ((g @ v.mT) * self.mask).unflatten(-2, rows)
        d_readers, d_k = self._pull_back(weight, readers.unflatten(-2, rows), k, 0)
        return d_readers.flatten(-3, -2), d_k

    def _pull_back(
        self, weight: Tensor, readers: Tensor, k: Tensor, depth: int
    ) -> tuple[Tensor, Tensor]:
        half = k.shape[-2] // 2
        if not half:
            return weight * k.unsqueeze(-3), (weight * readers).sum(-3)
        late, early = self.borders[depth]
        blocks = torch.stack([weight[..., :half, :half], weight[..., half:, half:]])
        cross = weight[..., half:, :half].flatten(-3, -2)
        readers, k, late = _halves(readers), _halves(k), late.unsqueeze(-3)
        (first, second), (d_k1, d_k2) = self._pull_back(blocks, readers, k, depth + 1)
        second = second + (cross @ (k[0] * early)).view_as(second) * late
        d_k1 = d_k1 + cross.mT @ (readers[1] * late).flatten(-3, -2) * early
        return torch.cat([first, second], dim=-2), torch.cat([d_k1, d_k2], dim=-2)


Decay = Kept | HeadDecay | ChannelDecay


def of_chunks(g: Tensor | None, mask: Tensor) -> Decay:
    """The decay within chunks `(..., C, 1)` or `(..., C, d)`; None is no decay."""
    if g is None:
        return Kept(mask)
    return HeadDecay(g, mask) if g.shape[-1] == 1 else ChannelDecay(g, mask)


def _halves(x: Tensor) -> Tensor:
    return torch.stack(x.chunk(2, dim=-2))


def _later(g: Tensor) -> Tensor:
    """`g_{i+1} + … + g_C`."""
    shifted = torch.cat([g[..., 1:, :], torch.zeros_like(g[..., :1, :])], dim=-2)
    return shifted.flip(-2).cumsum(-2).flip(-2)


def between(g: Tensor) -> Tensor:
    """What is left of token j at token i, `(..., n, n, 1)` or `(..., n, n, d)`: the formula."""
    n = g.shape[-2]
    later = torch.ones(n, n, dtype=torch.bool, device=g.device).tril(-1)[..., None]
    steps = g.unsqueeze(-2).expand(*g.shape[:-1], n, g.shape[-1]).masked_fill(~later, 0.0)
    return steps.cumsum(-3).exp()


def to_end(g: Tensor) -> tuple[Tensor, Tensor]:
    """What the last token sees of each, `(..., n, ·)`, and of the state before, `(..., ·, 1)`."""
    return _later(g).exp(), g.sum(-2).exp().unsqueeze(-1)
