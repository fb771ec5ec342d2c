"""Conformally symplectic Euler."""

from dataclasses import dataclass

from torch import Tensor

from sympformer.dynamics.first_order import Drift, FirstOrder
from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Field


@dataclass(frozen=True)
class ConformalEuler(FirstOrder):
    """Kick, then damp, then drift: p' = σ (p + h_p G(x, p)), x' = x + h_x F(x, p').

    Each step is made over [t, t+h]. F(x, p') reuses the kernel at x (paper, equation 15). It is
    conformally symplectic where the Hamiltonian is separable; in the attention metric G depends on
    p, and an explicit kick keeps the order but not the symplectic form.
    """

    drift: Drift = "after"

    def kick(self, field: Field, p: Tensor, h: Scalar, t: Scalar) -> Tensor:
        """σ (p + h G(x, p))."""
        return self.damping.decay(t, h) * advance(p, h, field.force(p))
