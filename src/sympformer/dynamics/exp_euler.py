"""Exponential Euler."""

from torch import Tensor

from sympformer.dynamics.first_order import FirstOrder
from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Field


class ExpEuler(FirstOrder):
    """Exponential Euler: x' = x + h_x F(x, p), p' = σ p + w G(x, p).

    Each step is made over [t, t+h]; w is the exact weight of a force frozen over the step (paper,
    equation 16; Hochbruck and Ostermann, Exponential integrators, 2010).
    """

    def kick(self, field: Field, p: Tensor, h: Scalar, t: Scalar) -> Tensor:
        """σ p + w G(x, p)."""
        decay, weight = self.damping.decay(t, h), self.damping.weight(t, h)
        return advance(decay * p, weight, field.force(p))
