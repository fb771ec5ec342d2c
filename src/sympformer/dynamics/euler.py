"""Damped Euler."""

from torch import Tensor

from sympformer.dynamics.first_order import FirstOrder
from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Field


class Euler(FirstOrder):
    """Damped ("presymplectic") Euler: x' = x + h_x F(x, p), p' = p + h_p (G(x, p) - α(t) p).

    Each step is made over [t, t+h]; the damping is explicit (docs/schemes.md).
    """

    def kick(self, field: Field, p: Tensor, h: Scalar, t: Scalar) -> Tensor:
        """Of explicit damping, p + h (G(x, p) - α(t) p)."""
        return advance(p, h, field.force(p) - self.damping.alpha(t) * p)
