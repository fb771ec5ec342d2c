"""What goes on inside the chunks of a decayed sum, or of the delta rule, and between them.

All that happens inside a chunk of C tokens happens in all chunks at once. Between them goes the
state of a head, d×e, by `S' = A S + B` with an A and a B a chunk, in a loop of one small product
each.

In a chunk, with E_ij what is left of token j at i, the errors `e_i = y_i - (D_i S_{i-1})ᵀk_i` solve

    (I + L diag β) e = y - K̂ S,      L_ij = E_ij k_i·k_j for j < i,      K̂_i = E_i0 k_i,

with S the state before the chunk; what is written is `w = β e`. With X the inverse of that matrix
and `Z = Xᵀ β K̃`, where K̃ are the keys as the end of the chunk sees them,

    A = D - Zᵀ K̂,      B = Zᵀ y,      e = X (y - K̂ S).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sympformer.attention import decay as decays

BLOCK = 16
"""Triangular matrices of this size are inverted by substitution, larger ones by halves."""


class Chunks:
    """All that is known of some chunks `(M, G, C, ·)` before their states are.

    What reads from the state are queries, keys of a system, or both: rows of one tensor.
    """

    def __init__(
        self, q: Tensor | None, k: Tensor, beta: Tensor | None, y: Tensor, g: Tensor | None
    ):
        self.k, self.beta, self.y, self.size = k, beta, y, k.shape[-2]
        self.reads, self.solves = q is not None, beta is not None
        self.readers = rows([q, k if self.solves else None])
        every = k.new_ones(self.size, self.size)
        mask = rows([every.tril() if self.reads else None, every.tril(-1) if self.solves else None])
        self.decay = decays.of_chunks(g, mask)
        start = self.decay.start
        start = None if start is None else rows([start] * (self.reads + self.solves))
        self.start, self.early = start, scaled(self.readers, start)
        self.late = scaled(k, self.decay.end)
        self.weight = self.decay.product(self.readers, k)
        if beta is not None:
            self.inverse = unit_lower_inverse(self.of_keys(self.weight) * beta.mT)
            self.writing = self.inverse.mT @ (self.late * beta)
            eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
            erased = self.writing.mT @ self.of_keys(self.early)
            self.transition = scaled(eye, self.decay.whole) - erased

    def of_queries(self, x: Tensor) -> Tensor:
        """The rows of `x` that belong to queries."""
        return x[..., : self.size, :]

    def of_keys(self, x: Tensor) -> Tensor:
        """The rows of `x` that belong to keys of the system."""
        return x[..., -self.size :, :]

    def forward(self, state: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """`q_iᵀS_i`, the errors, and the states `(M + 1, G, d, e)` from the given one on."""
        if self.beta is None:
            states = scan_diagonal(self.decay.whole, self.late.mT @ self.y, state)
            before, errors, w = self.early @ states[:-1], self.y, self.y
        else:
            states = scan(self.transition, self.writing.mT @ self.y, state)
            before = self.early @ states[:-1]
            errors = self.inverse @ (self.y - self.of_keys(before))
            w = self.beta * errors
        if not self.reads:
            return None, errors, states
        return self.of_queries(before) + self.of_queries(self.weight) @ w, errors, states

    def backward(
        self,
        errors: Tensor,
        states: Tensor,
        d_read: Tensor | None,
        d_errors: Tensor | None,
        pull: Tensor,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of the arguments, and of the state before; `pull` is that of the last state.

        What was read has a gradient where there are queries.
        """
        k, beta, decay, before = self.k, self.beta, self.decay, states[:-1]
        found, w = {}, errors if beta is None else errors * beta
        d_w = torch.zeros_like(w) if d_read is None else self.of_queries(self.weight).mT @ d_read
        if beta is None:
            d_before = rows([d_read])
            pulls = scan_diagonal(decay.whole, self.early.mT @ d_before, pull, backwards=True)
            after = pulls[1:]
            found["y"] = d_w + self.late @ after
        else:
            # What reaches the errors by themselves, and what they hand on to each other.
            direct = beta * d_w if d_errors is None else beta * d_w + d_errors
            d_y = self.inverse.mT @ direct
            own = self.early.mT @ rows([d_read, -d_y])
            pulls = scan(self.transition.mT, own, pull, backwards=True)
            after = pulls[1:]
            later = torch.cat([self.writing, self.late], dim=-2) @ after
            found["y"] = d_y = d_y + later[..., : self.size, :]
            d_w = d_w + self.of_keys(later) - self.of_keys(self.weight).mT @ d_y
            found["beta"] = (errors * d_w).sum(-1, keepdim=True)
            d_before = rows([d_read, -d_y])
        d_readers, d_write = decay.pull_back(d_before, w, self.readers, k)
        d_readers = d_readers + scaled(d_before @ before.mT, self.start)
        d_write = d_write + scaled(w @ after.mT, decay.end)
        if self.reads:
            found["q"] = self.of_queries(d_readers)
        found["k"] = d_write + self.of_keys(d_readers) if self.solves else d_write
        if decay.whole is not None:
            # Of g summed from the start of the chunk: what reads is as if multiplied by the
            # exponential of the sum, and what writes as if divided by it.
            total = (self.readers * d_readers).unflatten(-2, (-1, self.size)).sum(-3) - k * d_write
            last = (after * states[1:]).sum(-1).unsqueeze(-2)
            if decay.whole.shape[-2] == 1:
                total, last = total.sum(-1, keepdim=True), last.sum(-1, keepdim=True)
            found["g"] = total.flip(-2).cumsum(-2).flip(-2) + last
        return found, pulls[0]


def rows(parts: Sequence[Tensor | None]) -> Tensor:
    """Those that are there, one below the other."""
    return torch.cat([t for t in parts if t is not None], dim=-2)


def scan(transition: Tensor, own: Tensor, first: Tensor, *, backwards: bool = False) -> Tensor:
    """All of `S' = A S + B`, `(M + 1, G, d, e)`; backwards, the last is given."""
    steps = list(zip(transition.unbind(0), own.unbind(0), strict=True))
    states = [first]
    for a, b in reversed(steps) if backwards else steps:
        states.append(torch.baddbmm(b, a, states[-1]))
    return torch.stack(states[::-1] if backwards else states)


def scan_diagonal(
    whole: Tensor | None, own: Tensor, first: Tensor, *, backwards: bool = False
) -> Tensor:
    """As `scan`, with a diagonal A, or the identity."""
    factors = [None] * own.shape[0] if whole is None else whole.unbind(0)
    steps = list(zip(factors, own.unbind(0), strict=True))
    states = [first]
    for a, b in reversed(steps) if backwards else steps:
        states.append(states[-1] + b if a is None else torch.addcmul(b, a, states[-1]))
    return torch.stack(states[::-1] if backwards else states)


def scaled(x: Tensor, factor: Tensor | None) -> Tensor:
    """`factor · x`; None is 1."""
    return x if factor is None else x * factor


def unit_lower_inverse(matrix: Tensor) -> Tensor:
    """Inverse of I plus the strictly lower triangle of `(..., C, C)`, C a power of two."""
    size = matrix.shape[-1]
    if size <= BLOCK:
        eye = torch.eye(size, dtype=matrix.dtype, device=matrix.device).expand(matrix.shape)
        return torch.linalg.solve_triangular(matrix, eye, upper=False, unitriangular=True)
    half = size // 2
    blocks = torch.stack([matrix[..., :half, :half], matrix[..., half:, half:]])
    first, second = unit_lower_inverse(blocks)
    cross = -second @ (matrix[..., half:, :half] @ first)
    top = torch.cat([first, torch.zeros_like(first)], dim=-1)
    return torch.cat([top, torch.cat([cross, second], dim=-1)], dim=-2)
