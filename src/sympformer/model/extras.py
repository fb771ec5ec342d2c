"""Ingredients that any attention may have: what queries and keys are made of, how outputs leave.

They belong to no flow. Rivals won with them, so every kind of attention takes the same ones, and
nothing wins by an ingredient that another was denied: a short convolution along the text, an
activation, unit length, a norm and a gate of the heads' outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sympformer.attention.past import Past, erase
from sympformer.errors import InputError
from sympformer.model.layers import Linear, split_heads
from sympformer.typed import check_fields

EPS = 1e-6
"""Of norms, as in the published rivals."""


@dataclass(frozen=True)
class Extras:
    """Which of them an attention has.

    Raises:
        InputError: a value of another kind, or a convolution of a width below 0.
    """

    convolution: int = 0
    """Tokens that a causal convolution of each channel sees, its own included; 0 is none."""
    activation: Literal["none", "silu"] = "none"
    """Of queries, keys (and values, where they are convolved too)."""
    keys: Literal["free", "unit"] = "free"
    """Queries and keys as they come, or of unit length in every head."""
    output_norm: bool = False
    """Root mean square norm of each head's output, with a gain."""
    output_gate: bool = False
    """Heads' outputs times SiLU of a map of the token, `(d, d)`."""

    def __post_init__(self):
        check_fields(self)
        if self.convolution < 0 or self.convolution == 1:
            raise InputError(
                f"convolution must be 0 (none) or the number of tokens that it sees, at least 2, "
                f"not {self.convolution}"
            )

    @property
    def on_features(self) -> bool:
        """Whether queries and keys are anything but projections."""
        return bool(self.convolution) or self.activation != "none" or self.keys != "free"


NONE = Extras()


class Convolution(nn.Module):
    """A causal convolution along the text, each channel by itself, without bias."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw it as torch draws its own convolutions."""
        bound = len(self.weight) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, past: Past, name: str = "convolved") -> Tensor:
        """`Σ_j w_j x_{i-j}`, `(B, T, c)`; before a row's first token there is nothing."""
        width = len(self.weight)
        x = erase(x, past.padding, past.length)
        before = past.recall(name)
        if before is None:
            before = torch.zeros_like(x[:, :1]).expand(-1, width - 1, -1)
        x = torch.cat([before.to(x.dtype), x], dim=1)
        if past.keeps:
            past.keep(name, x[:, x.shape[1] - width + 1 :].clone())
        n, weight = x.shape[1] - width + 1, self.weight.to(x.dtype)
        out = x[:, width - 1 :] * weight[0]
        for j in range(1, width):
            out = torch.addcmul(out, x[:, width - 1 - j : width - 1 - j + n], weight[j])
        return out


class Features(nn.Module):
    """What becomes of projected tokens before heads compare them.

    Args:
        d: model dimension.
        n_head: heads.
        count: projections, side by side: 2 are queries and keys, 3 have the values too.
        extras: which ingredients; unit length is of queries and keys alone.
    """

    def __init__(self, d: int, n_head: int, count: int, extras: Extras):
        super().__init__()
        self.n_head, self.count, self.extras = n_head, count, extras
        width = extras.convolution
        self.convolution = Convolution(count * d, width) if width else None

    def forward(self, z: Tensor, past: Past) -> "Featured":
        """Projections `(B, T, count · d)`."""
        if self.convolution is not None:
            z = self.convolution(z, past)
        return Featured(self, z, past)


class Featured:
    """The features of some tokens, and how they move with their tokens."""

    def __init__(self, module: Features, z: Tensor, past: Past):
        self.module, self.z, self.past = module, z, past
        self.heads = self._heads(F.silu(z) if module.extras.activation == "silu" else z)

    def _heads(self, a: Tensor) -> list[Tensor]:
        """By projection and head, `(B, H, T, d_h)`, of unit length if asked for."""
        m = self.module
        parts = [split_heads(part, m.n_head) for part in a.chunk(m.count, dim=-1)]
        if m.extras.keys == "unit":
            parts[:2] = [_unit(part) for part in parts[:2]]
        return parts

    def tangent(self, dz: Tensor) -> list[Tensor]:
        """The rates of change of queries and keys, given those of all projections, `(B, T, c)`."""
        m, z = self.module, self.z
        if m.convolution is not None:
            dz = m.convolution(dz, self.past, "moving")
        a = z
        if m.extras.activation == "silu":
            s = z.sigmoid()
            a, dz = z * s, dz * s * (1 + z * (1 - s))
        parts, rates = (
            [split_heads(part, m.n_head) for part in t.chunk(m.count, dim=-1)[:2]] for t in (a, dz)
        )
        if m.extras.keys == "free":
            return rates
        return [_unit_rate(part, rate) for part, rate in zip(parts, rates, strict=True)]


class Outputs(nn.Module):
    """A norm and a gate of what heads give, `(B, H, T, d_h)`."""

    def __init__(self, d: int, head: int, extras: Extras):
        super().__init__()
        self.gain = Gain(head) if extras.output_norm else None
        self.gate = Linear(d, d) if extras.output_gate else None

    def forward(self, out: Tensor, x: Tensor) -> Tensor:
        """Of heads' outputs and the tokens `(B, T, d)` that they are of."""
        if self.gain is not None:
            out = self.gain(out)
        if self.gate is not None:
            out = out * split_heads(F.silu(self.gate(x)), out.shape[-3])
        return out


class Gain(nn.Module):
    """Root mean square norm with a gain a channel, from 1."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with 1."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width)`, in its dtype; the mean is taken in float32 or better."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = (wide.square().mean(-1, keepdim=True) + EPS).rsqrt()
        return (wide * scale * self.weight).to(x.dtype)


def maps_of(extras: Extras, d: int, features: int) -> float:
    """What they cost a token, in products with a `(d, d)` matrix (see `Cost`).

    Args:
        extras: which there are.
        d: model dimension.
        features: projections that are convolved.
    """
    return features * extras.convolution / d + extras.output_gate


def _unit(x: Tensor) -> Tensor:
    """In float32 or better: a head may be narrow, and its square small."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * (wide.square().sum(-1, keepdim=True) + EPS).rsqrt()).to(x.dtype)


def _unit_rate(x: Tensor, rate: Tensor) -> Tensor:
    """The rate of change of `_unit(x)`."""
    inverse = (x.square().sum(-1, keepdim=True) + EPS).rsqrt()
    unit = x * inverse
    return inverse * (rate - unit * (unit * rate).sum(-1, keepdim=True))


def require(extras: Extras, allowed: Sequence[str], where: str) -> None:
    """Refuse ingredients that an attention has no place for.

    Raises:
        InputError: one of them differs from its default.
    """
    for name, default in vars(NONE).items():
        value = getattr(extras, name)
        if value != default and name not in allowed:
            raise InputError(
                f"{name} = {value!r} has no place in {where}, and would have no effect: remove it"
            )
