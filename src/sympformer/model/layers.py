"""Building blocks that every architecture shares."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sympformer import products
from sympformer.errors import InputError
from sympformer.torch_private import transformed

SPREAD = 0.02
"""Standard deviation of every matrix and table at the start, as published."""


class LayerNorm(nn.LayerNorm):
    """Layer normalisation with a gain, without a bias unless it is asked for.

    Its first and second derivatives are right. Third ones in reverse mode, torch's own of
    `F.layer_norm`, are not (torch 2.13): for them, write the norm out in plain operations.
    """

    def __init__(self, n_embd: int, bias: bool = False):
        super().__init__(n_embd, bias=bias)


class Linear(nn.Linear):
    """A linear map, without a bias unless it is asked for; that starts at 0."""

    def __init__(self, n_in: int, n_out: int, bias: bool = False):
        super().__init__(n_in, n_out, bias=bias)
        self.biased = bias

    def reset_parameters(self) -> None:
        """Draw the matrix."""
        nn.init.normal_(self.weight, std=SPREAD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """`(..., n_in)` to `(..., n_out)`."""
        return affine(input, self.weight, self.bias)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`W x + b` of every token, or `W x`."""
    made = products.linear(x, weight)
    return made if bias is None else made + bias


def matrix(module: nn.Module) -> Tensor:
    """The matrix of a linear map, for products that the map itself does not make.

    Who asks for it heeds the bias that the map was built with.

    Raises:
        InputError: something stands in for the map (an adapter, a hook) whose products are others.
    """
    if type(module).forward is not Linear.forward or _is_dressed(module):
        raise InputError(
            f"a projection is replaced or has hooks ({type(module).__name__}), but products with "
            "its matrix are made beside it: merge the adapter into the matrix and remove the "
            "hooks, or use torch.nn.utils.parametrize"
        )
    if module.bias is not None and not module.biased:
        raise InputError(
            "a projection has a bias, but products with its matrix alone are made beside it: "
            "remove the bias"
        )
    return module.weight  # pyright: ignore[reportReturnType]


def _is_dressed(module: nn.Module) -> bool:
    """Whether calling a module does more than the forward pass of its class."""
    hooks = (
        module._forward_pre_hooks,  # pruning and the old weight norm make their matrix in one
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
    return "forward" in module.__dict__ or any(hooks)


class Mobility(Linear):
    """The map `U` of momenta to heads, from the identity.

    A momentum at rest among equal scores then moves its token by itself.
    """

    def __init__(self, d: int):
        super().__init__(d, d)

    def reset_parameters(self) -> None:
        """Set `U = I`."""
        nn.init.eye_(self.weight)


class MLP(nn.Module):
    """GELU perceptron, `width` inside: the oracle without interaction."""

    def __init__(self, n_embd: int, width: int, kind: str = "gelu", *, bias: bool = False):
        super().__init__()
        self.kind = kind
        self.expand = Linear(n_embd, width, bias)
        self.contract = Linear(width, n_embd, bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., d)` to `(..., d)`."""
        wide = self.expand(x)
        # GELU is made again in the backward pass: kept, it is a quarter of a layer's memory.
        return _remade(self.contract, F.gelu if self.kind == "gelu" else _tanh_gelu, wide)


def _tanh_gelu(x: Tensor) -> Tensor:
    """The approximation that GPT-2 was trained with."""
    return F.gelu(x, approximate="tanh")


def _remade(
    outer: Callable[[Tensor], Tensor], inner: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """`outer(inner(x))`, for whose backward pass `inner(x)` is not kept but made again.

    `torch.utils.checkpoint` would run `outer` again too, with the parameters that its module has by
    then: the wrong ones where they were given by `torch.func.functional_call`.
    """
    if not (x.requires_grad and torch.is_grad_enabled()) or transformed(x):
        return outer(inner(x))
    if torch.compiler.is_compiling():  # all that a graph depends on is an argument of it
        return checkpoint(lambda x: outer(inner(x)), x, use_reentrant=False)
    middle = inner(x)
    storage, version = middle.untyped_storage(), middle._version

    def pack(t: Tensor) -> Tensor | tuple:
        # What `outer` has changed in place would not be made again so.
        if t.untyped_storage() is not storage or t._version != version:
            return t
        return t.shape, t.stride(), t.storage_offset()

    def unpack(packed: Tensor | tuple) -> Tensor:
        return packed if isinstance(packed, Tensor) else inner(x).as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return outer(middle)


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """`(B, T, d)` to `(B, H, T, d/H)`."""
    return x.unflatten(-1, (n_head, -1)).transpose(-3, -2)


def in_heads(x: Tensor, d: int, n_head: int) -> list[Tensor]:
    """Projections side by side, `(B, T, c d)`, to c times `(B, H, T, d/H)`."""
    return [split_heads(part, n_head) for part in x.split(d, dim=-1)]


def merge_heads(x: Tensor) -> Tensor:
    """`(B, H, T, d/H)` to `(B, T, d)`."""
    return x.transpose(-3, -2).flatten(-2)


Domain = Literal["positive", "unit", "signed", "real"]


class LearnedScalar(nn.Module):
    """A learned number in its domain: "positive" by softplus, "unit" by sigmoid, "signed"
    (below 1 either way) by tanh, "real" free.

    They form an optimizer group of their own (`sympformer.train.optimizer`): no weight decay,
    not clipped, a larger learning rate. The parameter has one element, not none: sharded training
    asks for an axis.
    """

    def __init__(self, initial: float, domain: Domain):
        super().__init__()
        self.initial = initial
        self.domain: Domain = domain
        self.raw = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set it to its initial value."""
        x = self.initial
        raw = {
            "positive": lambda: math.log(math.expm1(x)),
            "unit": lambda: math.log(x / (1 - x)),
            "signed": lambda: math.atanh(x),
            "real": lambda: x,
        }[self.domain]()
        nn.init.constant_(self.raw, raw)

    def forward(self) -> Tensor:
        """The value, a tensor without axes."""
        return value(self.raw.squeeze(0), self.domain)

    def extra_repr(self) -> str:
        """Show the domain in the printed model."""
        return self.domain


def value(raw: Tensor, domain: Domain) -> Tensor:
    """Numbers in the domain, from any real ones."""
    if domain == "positive":
        return F.softplus(raw)
    if domain == "signed":
        return raw.tanh()
    return raw.sigmoid() if domain == "unit" else raw


class Embedding(nn.Embedding):
    """A table of vectors."""

    def reset_parameters(self) -> None:
        """Draw the table."""
        nn.init.normal_(self.weight, std=SPREAD)


def table(module: nn.Module) -> Tensor:
    """The vectors of a table of tokens, for the head, which shares it.

    Raises:
        InputError: something stands in for the table (an adapter), which the head would pass by.
    """
    if not isinstance(module, nn.Embedding):
        raise InputError(
            f"the table of tokens is replaced by {type(module).__name__}, which the head would "
            "pass by: merge it into the table, or use torch.nn.utils.parametrize"
        )
    return module.weight


class Embeddings(nn.Module):
    """Token embeddings and, unless `block_size` is 0, position embeddings, added."""

    def __init__(self, vocab_size: int, block_size: int, n_embd: int):
        super().__init__()
        self.tokens = Embedding(vocab_size, n_embd)
        self.positions = Embedding(block_size, n_embd) if block_size else None

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Ids `(B, T)`, or vectors in their place, and positions `(T)` to `(B, T, d)`."""
        return self.placed(tokens if tokens.is_floating_point() else self.tokens(tokens), positions)

    def placed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Add the embeddings of positions `(T)` to `(B, T, d)`."""
        return x if self.positions is None else x + self.positions(positions)


class Stream(NamedTuple):
    """Every token's state, and the clock.

    `x, p, v` are `(B, T, d)`: position, momentum (the velocity, in velocity form), and the MLP's
    own velocity; `t` is the time of the damping, `memory` the past of a multistep scheme, and
    `injected` what is added to the position in every layer.
    """

    x: Tensor
    p: Tensor
    v: Tensor
    t: Tensor
    memory: object = None
    injected: Tensor | None = None

    @classmethod
    def start(cls, x: Tensor, p: Tensor | None = None, injected: Tensor | None = None) -> Self:
        """Tokens at `x`, at rest unless they have a momentum, at time 1.

        The clock is in float32 or better, whatever the tokens are in.

        Raises:
            InputError: positions that are no real numbers, or another shape of what goes with them.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"positions must be a tensor of real numbers, not {kind}")
        for name, other in (("momenta", p), ("what is injected", injected)):
            if other is not None and other.shape != x.shape:
                raise InputError(
                    f"{name} must have the shape of the positions, {tuple(x.shape)}, not "
                    f"{tuple(other.shape)}"
                )
        zero = torch.zeros_like(x)
        t = x.new_ones((), dtype=torch.promote_types(x.dtype, torch.float32))
        return cls(x, zero if p is None else p, zero, t, injected=injected)
