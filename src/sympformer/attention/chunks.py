"""What goes on inside the chunks of a decayed sum, or of the delta rule, and between them.

All that can be done inside a chunk of C tokens is done in all chunks at once. Between them goes
the state of a head, d×e: in a running sum where nothing decays and nothing is solved, else in a
loop, of two small products a chunk for the delta rule.

In a chunk, with E_ij what is left of token j at i, the errors `e_i = y_i - (D_i S_{i-1})ᵀk_i` solve

    (I + L diag β) e = y - K̂ S,      L_ij = E_ij k_i·k_j for j < i,      K̂_i = E_i0 k_i,

with S the state before the chunk; what is written is `w = β e`. With X the inverse of that matrix,
and K̃ the keys as the end of the chunk sees them, the loop is

    e = X y - (X K̂) S,      S' = D S + (β K̃)ᵀ e.
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
            self.writing = self.late * beta

    def of_queries(self, x: Tensor) -> Tensor:
        """The rows of `x` that belong to queries."""
        return x[..., : self.size, :]

    def of_keys(self, x: Tensor) -> Tensor:
        """The rows of `x` that belong to keys of the system."""
        return x[..., -self.size :, :]

    def forward(self, state: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """`q_iᵀS_i`, the errors, and the state `(G, d, e)` after the last chunk."""
        if self.beta is None:
            states = accumulated(self.decay.whole, self.late.mT @ self.y, state)
            errors = w = self.y
        else:
            own, seen = self.inverse @ self.y, self.inverse @ self.of_keys(self.early)
            states, errors = substituted(own, seen, self.writing, self.decay.whole, state)
            w = self.beta * errors
        if not self.reads:
            return None, errors, states[-1]
        before = self.of_queries(self.early) @ states[:-1]
        return before + self.of_queries(self.weight) @ w, errors, states[-1]

    def backward(
        self,
        errors: Tensor,
        state: Tensor,
        d_read: Tensor | None,
        d_errors: Tensor | None,
        pull: Tensor,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of the arguments, and of the state before; `pull` is that of the last state.

        What was read has a gradient where there are queries. The states are made again, from the
        first of them and what was written.
        """
        k, beta, decay = self.k, self.beta, self.decay
        found, w = {}, errors if beta is None else errors * beta
        states = accumulated(decay.whole, self.late.mT @ w, state)
        before = states[:-1]
        d_w = torch.zeros_like(w) if d_read is None else self.of_queries(self.weight).mT @ d_read
        if beta is None:
            d_before = rows([d_read])
            own = self.early.mT @ d_before
            whole = None if decay.whole is None else decay.whole.flip(0)
            pulls = accumulated(whole, own.flip(0), pull).flip(0)
            first, after = pulls[0], pulls[1:]
            found["y"] = d_w + self.late @ after
        else:
            # What reaches the errors by themselves, and what they hand on to each other.
            direct = beta * d_w if d_errors is None else beta * d_w + d_errors
            own = None if d_read is None else self.of_queries(self.early).mT @ d_read
            first, after, d_y = pulled_back(
                self.inverse.mT @ direct,
                self.inverse.mT @ self.writing,
                self.of_keys(self.early),
                own,
                decay.whole,
                pull,
            )
            found["y"] = d_y
            d_w = d_w + self.late @ after - self.of_keys(self.weight).mT @ d_y
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
        return found, first


def rows(parts: Sequence[Tensor | None]) -> Tensor:
    """Those that are there, one below the other."""
    return torch.cat([t for t in parts if t is not None], dim=-2)


def accumulated(whole: Tensor | None, own: Tensor, first: Tensor) -> Tensor:
    """All of `S' = D S + B`, `(M + 1, G, d, e)`."""
    if whole is None:
        return torch.cat([first.unsqueeze(0), own]).cumsum(0)
    states = [first]
    for a, b in zip(whole.unbind(0), own.unbind(0), strict=True):
        states.append(torch.addcmul(b, a, states[-1]))
    return torch.stack(states)


def substituted(
    own: Tensor, seen: Tensor, writing: Tensor, whole: Tensor | None, first: Tensor
) -> tuple[Tensor, Tensor]:
    """States and errors: `e = own - seen S`, `S' = D S + writingᵀ e`, chunk by chunk."""
    states, errors = [first], []
    factors = [None] * own.shape[0] if whole is None else whole.unbind(0)
    for b, a, write, d in zip(
        own.unbind(0), seen.unbind(0), writing.mT.unbind(0), factors, strict=True
    ):
        errors.append(torch.baddbmm(b, a, states[-1], alpha=-1))
        left = scaled(states[-1], d)
        states.append(torch.baddbmm(left, write, errors[-1]))
    return torch.stack(states), torch.stack(errors)


def pulled_back(
    direct: Tensor,
    written: Tensor,
    early: Tensor,
    own: Tensor | None,
    whole: Tensor | None,
    last: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the first state, of those after each chunk, and of the values.

    `y' = direct + written S'`, `S = D S' + own - earlyᵀ y'`, from the last chunk to the first.
    """
    count = direct.shape[0]
    factors = [None] * count if whole is None else whole.unbind(0)
    owns = [None] * count if own is None else own.unbind(0)
    steps = zip(direct.unbind(0), written.unbind(0), early.mT.unbind(0), owns, factors, strict=True)
    after, values = [last], []
    for b, a, read, more, d in reversed(list(steps)):
        values.append(torch.baddbmm(b, a, after[-1]))
        left = scaled(after[-1], d)
        left = left if more is None else left + more
        after.append(torch.baddbmm(left, read, values[-1], alpha=-1))
    return after[-1], torch.stack(after[-2::-1]), torch.stack(values[::-1])


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
