"""Damping schedules: the rate α(t), its antiderivative η(t), and the exact factors of one step.

Over a step [t, t+h] the momentum of p' = -α(t) p + g, with a constant g, goes from p to
`decay(t, h) * p + weight(t, h) * g`, where (docs/schemes.md)

    decay  = exp(-(η(t+h) - η(t))),      weight = ∫_t^{t+h} exp(-(η(t+h) - η(s))) ds.

Coefficients, t and h are numbers or tensors, and gradients flow through all of them; numbers in
give numbers out. η vanishes, or its logarithm does, at `t0`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature

import numpy as np
import torch
from torch import Tensor

from sympformer.dynamics.scalar import Scalar, exp, log, log1p, phi
from sympformer.errors import InputError, lookup

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
# The rule on [0, 1]. 32 nodes reach 1e-13 for h ≤ 10 t and c_lin h ≤ 50: far beyond one layer.
_RULE = torch.from_numpy((1 + _NODES) / 2), torch.from_numpy(_WEIGHTS / 2)


class Damping(ABC):
    """What a scheme asks of a damping schedule."""

    @abstractmethod
    def alpha(self, t: Scalar) -> Scalar:
        """Rate α(t) ≥ 0."""

    @abstractmethod
    def eta(self, t: Scalar) -> Scalar:
        """Antiderivative η(t) of the rate."""

    @abstractmethod
    def rise(self, t: Scalar, h: Scalar) -> Scalar:
        """η(t+h) - η(t), without cancellation."""

    @abstractmethod
    def weight(self, t: Scalar, h: Scalar) -> Scalar:
        """∫_t^{t+h} exp(-(η(t+h) - η(s))) ds, the weight of a constant force over [t, t+h]."""

    def decay(self, t: Scalar, h: Scalar) -> Scalar:
        """σ = exp(-(η(t+h) - η(t))), the exact damping of a momentum over [t, t+h]."""
        return exp(-self.rise(t, h))


def _check_not_negative(**values: Scalar) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor) and not value >= 0:
            raise InputError(f"damping needs {name} ≥ 0, not {value}")


def _check_positive(**values: Scalar) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor) and not value > 0:
            raise InputError(f"this damping needs {name} > 0, not {value}: start later")


@dataclass(frozen=True)
class Constant(Damping):
    """α(t) = rate: linear friction; rate = 0 is the undamped flow."""

    rate: Scalar
    t0: float = 0.0

    def __post_init__(self):
        _check_not_negative(alpha=self.rate)

    def alpha(self, t: Scalar) -> Scalar:
        """Rate, the same at every t."""
        return self.rate

    def eta(self, t: Scalar) -> Scalar:
        """Rate times (t - t0)."""
        return self.rate * (t - self.t0)

    def rise(self, t: Scalar, h: Scalar) -> Scalar:
        """η(t+h) - η(t)."""
        return self.rate * h

    def weight(self, t: Scalar, h: Scalar) -> Scalar:
        """(1 - e^{-αh}) / α."""
        return h * phi(self.rate * h)


@dataclass(frozen=True)
class Nesterov(Damping):
    """α(t) = r / t for t > 0 (Su, Boyd and Candès 2016, with r = 3)."""

    r: Scalar = 3.0
    t0: float = 1.0

    def __post_init__(self):
        _check_not_negative(r=self.r)
        _check_positive(t0=self.t0)

    def alpha(self, t: Scalar) -> Scalar:
        """The rate r / t."""
        _check_positive(t=t)
        return self.r / t

    def eta(self, t: Scalar) -> Scalar:
        """Its antiderivative r log(t / t0)."""
        _check_positive(t=t)
        return self.r * log(t / self.t0)

    def rise(self, t: Scalar, h: Scalar) -> Scalar:
        """η(t+h) - η(t) = r log((t+h) / t)."""
        _check_positive(t=t)
        return self.r * log1p(h / t)

    def weight(self, t: Scalar, h: Scalar) -> Scalar:
        """(t' - t (t/t')^r) / (r+1) with t' = t+h, written with L = log(t'/t): no cancellation."""
        _check_positive(t=t)
        L = log1p(h / t)
        return (t + h) * L * phi((self.r + 1) * L)


@dataclass(frozen=True)
class LogLinear(Damping):
    """α(t) = c_log / t + c_lin for t > 0: Nesterov's decay with a floor."""

    c_log: Scalar
    c_lin: Scalar
    t0: float = 1.0

    def __post_init__(self):
        _check_not_negative(c_log=self.c_log, c_lin=self.c_lin)
        _check_positive(t0=self.t0)

    def alpha(self, t: Scalar) -> Scalar:
        """c_log / t + c_lin."""
        _check_positive(t=t)
        return self.c_log / t + self.c_lin

    def eta(self, t: Scalar) -> Scalar:
        """c_log log(t / t0) + c_lin t."""
        _check_positive(t=t)
        return self.c_log * log(t / self.t0) + self.c_lin * t

    def rise(self, t: Scalar, h: Scalar) -> Scalar:
        """η(t+h) - η(t)."""
        _check_positive(t=t)
        return self.c_log * log1p(h / t) + self.c_lin * h

    def weight(self, t: Scalar, h: Scalar) -> Scalar:
        """A Kummer function, by the Gauss-Legendre rule with 32 nodes on [t, t+h]."""
        given = (t, h, self.c_log, self.c_lin)
        like = next(
            (a for a in given if isinstance(a, Tensor)), torch.zeros((), dtype=torch.float64)
        )
        node, weight = (values.to(like) for values in _RULE)
        start, step, c_log, c_lin = (
            torch.as_tensor(a, dtype=like.dtype, device=like.device).unsqueeze(-1) for a in given
        )
        left = node * step
        rise = c_log * torch.log1p(left / (start + step - left)) + c_lin * left
        mean = ((-rise).exp() * weight).sum(-1)
        return h * (mean if any(isinstance(a, Tensor) for a in given) else mean.item())


UNDAMPED = Constant(0.0)


def constant(alpha: Scalar, t0: float = 0.0) -> Constant:
    """Damping with the constant rate alpha."""
    return Constant(alpha, t0)


DAMPINGS: dict[str, Callable[..., Damping]] = {
    "constant": constant,
    "nesterov": Nesterov,
    "loglinear": LogLinear,
}


def damping(kind: str, **coefficients: Scalar) -> Damping:
    """Build a damping schedule: constant (alpha), nesterov (r), loglinear (c_log, c_lin).

    Each also takes t0, the time at which η (or its logarithm) vanishes.

    Raises:
        InputError: unknown kind or coefficient, a coefficient missing, negative or out of range.
    """
    build = lookup(DAMPINGS, kind, "damping")
    try:
        signature(build).bind(**coefficients)
    except TypeError as error:
        wanted = ", ".join(signature(build).parameters)
        raise InputError(f"{kind} damping takes {wanted}: {error}") from None
    return build(**coefficients)
