"""Plain Euler."""

from torch import Tensor

from sympformer.dynamics.first_order import FirstOrder
from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Field


class PlainEuler(FirstOrder):
    """Euler with a damping factor: x' = x + h_x F(x, p), p' = σ p + h_p G(x, p).

    Each step is made over [t, t+h]; the factor a of the paper is the exact decay σ of the step
    (docs/schemes.md).
    """

    def kick(self, field: Field, p: Tensor, h: Scalar, t: Scalar) -> Tensor:
        """σ p + h G(x, p)."""
        return advance(self.damping.decay(t, h) * p, h, field.force(p))
