"""Matrix products of tokens with weights, through the faster of torch's two libraries.

For float32 on a processor torch calls the BLAS that it was built with. Where that is MKL and the
processor is not Intel's, it leaves the widest vectors unused, and a single row, as in decoding, is
multiplied by one thread; oneDNN, which torch ships for its compiled graphs, does better
(docs/speed.md). Everywhere else these functions are `F.linear`.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sympformer import torch_private
from sympformer.derivatives import pull_back, recorded
from sympformer.torch_private import transformed

WORTHWHILE, LARGE = 2**21, 2**16
"""Multiplications, and weights for however few rows, from which oneDNN's larger overhead a call is
repaid."""


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weightᵀ`.

    Args:
        x: `(..., n_in)`.
        weight: `(n_out, n_in)`.

    Returns:
        `(..., n_out)`.
    """
    if transformed(x, weight) or torch.compiler.is_exporting():
        return F.linear(x, weight)
    if torch.compiler.is_compiling():
        return _compiled(x, weight)
    if not suits(x, weight):
        return F.linear(x, weight)
    return _Linear.apply(x, weight) if torch.is_grad_enabled() else _of_rows(x, weight)


def _compiled(x: Tensor, weight: Tensor) -> Tensor:
    if x.numel() > x.shape[-1] or torch.is_grad_enabled() or not _is_plain(x, weight):
        return F.linear(x, weight)
    # Of a single row the compiler makes a loop over all threads, of `F.linear` a call.
    return (torch_private.made_once(x.flatten()) * weight).sum(-1).view(*x.shape[:-1], -1)


def _of_rows(x: Tensor, weight: Tensor) -> Tensor:
    return product(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ bᵀ` of `(m, k)` and `(n, k)`: `linear` without its detours, where those are large."""
    if (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)) or transformed(a, b):
        return linear(a, b)
    if not suits(a, b):
        return a @ b.mT
    if not (b.is_contiguous() or b.mT.is_contiguous()):
        b = b.contiguous()  # for other strides oneDNN has a slow loop only
    return torch_private.onednn_product(a, b)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which `x` is multiplied by a matrix: autocast leaves float64 alone."""
    kind = x.device.type
    if x.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, weight)
        return _of_rows(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        if recorded(grad):
            return tuple(pull_back(F.linear, (x, weight), [grad]))
        rows, grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        by_x, by_weight = ctx.needs_input_grad
        g_x = product(grad, weight.mT).view(x.shape) if by_x else None
        return g_x, _weight_gradient(rows, grad) if by_weight else None


def _weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """`gradᵀ x`; the wider of the two is put where oneDNN splits the work."""
    if grad.shape[-1] > x.shape[-1]:
        return product(x.mT, grad.mT).mT.contiguous()
    return product(grad.mT, x.mT)


def suits(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN multiplies `(..., k)` and `(n, k)` faster."""
    large = b.numel() >= LARGE or a.numel() * b.shape[0] >= WORTHWHILE
    return large and _is_plain(a, b) and _better()


def _is_plain(a: Tensor, b: Tensor) -> bool:
    """Whether this is a product in float32 on a processor."""
    return (
        a.device.type == "cpu"
        and a.dtype == b.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def _better() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch_private.has_onednn_product
    )
