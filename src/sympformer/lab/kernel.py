"""The softmax kernel of a cloud, streamed in row tiles so that memory grows like N."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sympformer.attention.naive import Causality

TILE = 2**19  # entries of one row tile of the kernel: 4 MB in float64, about a core's cache
KEPT = 2**24  # a kernel of at most this many entries is kept between velocity and force


class Kernel:
    """Softmax weights a_ij of the scores x_iᵀA x_j, one row tile at a time.

    `keys` are the rows A x_j, `mean` is Σ_j a_ij A x_j, `log_z` the log of the mean of the kernel
    over the visible tokens, `(..., N, 1)`.
    """

    def __init__(self, x: Tensor, A: Tensor, causality: Causality):
        self.x, self.keys, self.causality = x, x @ A, causality
        self._kept: list[Tensor] | None = [] if _size(x) <= KEPT else None
        means, logs = [], []
        for rows, scores in self._scores():
            top = scores.amax(-1, keepdim=True)
            weights = (scores - top).exp()
            total = weights.sum(-1, keepdim=True)
            count = torch.isfinite(scores).sum(-1, keepdim=True) if self._prefix else x.shape[-2]
            logs.append(top + (total / count).log())
            means.append(weights @ self._visible(self.keys, rows) / total)
            if self._kept is not None:
                self._kept.append(weights / total)
        self.mean, self.log_z = torch.cat(means, -2), torch.cat(logs, -2)

    def average(self, values: Tensor) -> Tensor:
        """Σ_j a_ij v_j."""
        if self._kept is not None:
            parts = zip(tiles(self.x), self._kept, strict=True)
        else:
            parts = ((rows, scores.softmax(-1)) for rows, scores in self._scores())
        return torch.cat([a @ self._visible(values, rows) for rows, a in parts], -2)

    @property
    def _prefix(self) -> bool:
        return self.causality == "prefix"

    def _visible(self, values: Tensor, rows: slice) -> Tensor:
        return values[..., : rows.stop, :] if self._prefix else values

    def _scores(self) -> Iterator[tuple[slice, Tensor]]:
        for rows in tiles(self.x):
            scores = self.x[..., rows, :] @ self._visible(self.keys, rows).mT
            if self._prefix:
                future = torch.ones_like(scores, dtype=torch.bool).triu(rows.start + 1)
                scores = scores.masked_fill(future, -math.inf)
            yield rows, scores


def tiles(x: Tensor) -> list[slice]:
    """Row slices such that one tile of the kernel holds at most about `TILE` entries."""
    n = x.shape[-2]
    height = max(1, TILE * n // _size(x))
    return [slice(i, min(i + height, n)) for i in range(0, n, height)]


def _size(x: Tensor) -> int:
    return x.numel() // x.shape[-1] * x.shape[-2]
