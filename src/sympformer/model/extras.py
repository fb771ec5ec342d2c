"""Ingredients that any attention may have: what queries and keys are made of, how outputs leave.

They belong to no flow. Rivals won with them, so every kind of attention takes the same ones, and
nothing wins by an ingredient that another was denied: a short convolution along the text, an
activation, unit length, a norm and a gate of the heads' outputs.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sympformer.attention.past import Past, erase
from sympformer.errors import InputError
from sympformer.model.layers import Linear, in_heads, split_heads
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

    def require_plain_outputs(self, what: str) -> None:
        """Refuse a norm and a gate where there are no outputs to have them.

        Raises:
            InputError: one of them is asked for.
        """
        for name in ("output_norm", "output_gate"):
            if getattr(self, name):
                raise InputError(f"{name} = true has no place in {what}: remove it")


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

    def forward(
        self,
        x: Tensor,
        past: Past,
        name: str = "convolved",
        channels: slice = slice(None),
    ) -> Tensor:
        """`Σ_j w_j x_{i-j}`, `(B, T, c)`, of these channels; before a row's first token is none."""
        width = len(self.weight)
        x = erase(x, past.padding, past.length)
        before = past.recall(name)
        if before is None:
            before = torch.zeros_like(x[:, :1]).expand(-1, width - 1, -1)
        x = torch.cat([before.to(x.dtype), x], dim=1)
        if past.keeps:
            past.keep(name, x[:, x.shape[1] - width + 1 :].clone())
        n, weight = x.shape[1] - width + 1, self.weight[:, channels].to(x.dtype)
        out = x[:, width - 1 :] * weight[0]
        for j in range(1, width):
            out = torch.addcmul(out, x[:, width - 1 - j : width - 1 - j + n], weight[j])
        return out


class Features(nn.Module):
    """What becomes of projected tokens before heads compare them.

    Args:
        d: model dimension.
        n_head: heads.
        count: projections that it makes something of: 2 are queries and keys, 3 have the values
            too, which are never of unit length.
        extras: which ingredients.
    """

    def __init__(self, d: int, n_head: int, count: int, extras: Extras):
        super().__init__()
        self.d, self.n_head, self.count, self.extras = d, n_head, count, extras
        self.width, width = count * d, extras.convolution
        self.convolution = Convolution(self.width, width) if width else None

    @classmethod
    def of(cls, d: int, n_head: int, extras: Extras, *, values: bool) -> Self | None:
        """Those of an attention, with values or without; None if there is nothing to make."""
        plain = not extras.convolution and extras.activation == "none"
        if plain and extras.keys == "free":
            return None
        return cls(d, n_head, 2 if plain or not values else 3, extras)

    def forward(self, made: Tensor, past: Past) -> "Featured":
        """Of projections side by side, `(B, T, c d)`; those beyond `count` stay as they are."""
        z, rest = made[..., : self.width], made[..., self.width :]
        if self.convolution is not None:
            z = self.convolution(z, past)
        return Featured(self, z, rest, past)

    def activate(self, z: Tensor) -> Tensor:
        """The activation."""
        return F.silu(z) if self.extras.activation == "silu" else z


class Featured:
    """The features of some tokens, and how they move with their tokens."""

    def __init__(self, module: Features, z: Tensor, rest: Tensor, past: Past):
        self.module, self.z, self.past = module, z, past
        q, k, *others = in_heads(torch.cat([module.activate(z), rest], -1), module.d, module.n_head)
        if module.extras.keys == "unit":
            q, k = _unit(q), _unit(k)
        self.heads = [q, k, *others]
        """Queries, keys and the other projections, `(B, H, T, d_h)` each."""

    def tangent(self, rates: Tensor, first: int = 0) -> list[Tensor]:
        """The rates of change of queries and keys, given those of their projections.

        It may be asked for once: what a convolution has seen of the rates is left for later tokens.

        Args:
            rates: `(B, T, 2d)`; or `(B, T, d)`, of one projection.
            first: which projection they begin with: 0 for queries, 1 for keys.
        """
        m = self.module
        these = slice(first * m.d, first * m.d + rates.shape[-1])
        z = self.z[..., these]
        if m.convolution is not None:
            rates = m.convolution(rates, self.past, "moving", these)
        if m.extras.activation == "silu":
            s = z.sigmoid()
            rates = rates * s * (1 + z * (1 - s))
        moving = in_heads(rates, m.d, m.n_head)
        if m.extras.keys == "free":
            return moving
        heads = in_heads(m.activate(z), m.d, m.n_head)
        return [_unit_rate(head, rate) for head, rate in zip(heads, moving, strict=True)]


class Outputs(nn.Module):
    """A norm and a gate of what heads give, `(B, H, T, d_h)`."""

    def __init__(self, d: int, head: int, extras: Extras):
        super().__init__()
        self.gain = Gain(head) if extras.output_norm else None
        self.gate = Linear(d, d) if extras.output_gate else None

    @classmethod
    def of(cls, d: int, n_head: int, extras: Extras) -> Self | None:
        """Those of an attention; None if outputs leave as they are."""
        if not (extras.output_norm or extras.output_gate):
            return None
        return cls(d, d // n_head, extras)

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


def extra_maps(module: nn.Module, d: int) -> float:
    """What the ingredients of an attention cost a token, in products with a `(d, d)` matrix.

    That are gates; a convolution of each channel, norms and activations are no such products.
    """
    gates = (m.gate for m in module.modules() if isinstance(m, Outputs) and m.gate is not None)
    return sum(gate.weight.numel() for gate in gates) / d**2


def _unit(x: Tensor) -> Tensor:
    """In float32 or better: a head may be narrow, and its square small."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * (wide.square().sum(-1, keepdim=True) + EPS).rsqrt()).to(x.dtype)


def _unit_rate(x: Tensor, rate: Tensor) -> Tensor:
    """The rate of change of `_unit(x)`."""
    inverse = (x.square().sum(-1, keepdim=True) + EPS).rsqrt()
    unit = x * inverse
    return inverse * (rate - unit * (unit * rate).sum(-1, keepdim=True))
