"""Elementary functions of numbers or tensors: numbers in, numbers out; smooth gradients."""

import math

import torch
from torch import Tensor

Scalar = float | Tensor

_TAYLOR = [(-1.0) ** n / math.factorial(n + 1) for n in range(12)]
_SMALL = 0.1  # below it the twelve Taylor terms are exact to rounding in float64


def exp(z: Scalar) -> Scalar:
    """e^z."""
    return torch.exp(z) if isinstance(z, Tensor) else math.exp(z)


def log(z: Scalar) -> Scalar:
    """Natural logarithm."""
    return torch.log(z) if isinstance(z, Tensor) else math.log(z)


def log1p(z: Scalar) -> Scalar:
    """log(1 + z), accurate for small z."""
    return torch.log1p(z) if isinstance(z, Tensor) else math.log1p(z)


def cos(z: Scalar) -> Scalar:
    """Cosine."""
    return torch.cos(z) if isinstance(z, Tensor) else math.cos(z)


def sin(z: Scalar) -> Scalar:
    """Sine."""
    return torch.sin(z) if isinstance(z, Tensor) else math.sin(z)


def advance(x: Tensor, h: Scalar, slope: Tensor) -> Tensor:
    """`x + h · slope`; with a tensor h no memory is taken for the product."""
    return torch.addcmul(x, h, slope) if isinstance(h, Tensor) else x + h * slope


def phi(z: Scalar) -> Scalar:
    """(1 - e^-z) / z, continued by 1 at z = 0: the mean of e^-s over s in [0, z].

    Near 0 a Taylor branch keeps value and gradient accurate; the closed form is fed a harmless
    argument there, since `torch.where` differentiates both of its branches.
    """
    if not isinstance(z, Tensor):
        return float(phi(torch.tensor(z, dtype=torch.float64)))
    small = z.abs() < _SMALL
    near, far = torch.where(small, z, 0.0), torch.where(small, 1.0, z)
    series = torch.zeros_like(near)
    for coefficient in reversed(_TAYLOR):
        series = series * near + coefficient
    return torch.where(small, series, -torch.expm1(-far) / far)
