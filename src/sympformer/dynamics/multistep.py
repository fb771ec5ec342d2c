"""The slopes that a two-step method remembers."""

from typing import NamedTuple

from torch import Tensor

from sympformer.dynamics.scalar import Scalar


class Slopes(NamedTuple):
    """Slopes of x and p at the previous grid point, and the step sizes that led away from it."""

    velocity: Tensor
    force: Tensor
    h_x: Scalar
    h_p: Scalar


def adams_bashforth(now: Tensor, before: Tensor, h: Scalar, h_before: Scalar) -> Tensor:
    """Mean slope over the coming step: (1 + ρ/2) now - (ρ/2) before, with ρ = h / h_before.

    The line through the last two slopes, integrated over the step (Hairer, Nørsett and Wanner,
    Solving ordinary differential equations I, section III.5).
    """
    half = 0.5 * (h / h_before)
    return (1 + half) * now - half * before
