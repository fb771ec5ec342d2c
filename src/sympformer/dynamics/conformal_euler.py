"""Conformally symplectic Euler."""

from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Oracle, Scheme, State, StepSize, split


class ConformalEuler(Scheme):
    """Kick, then damp, then drift: p' = σ (p + h_p G(x, p)), x' = x + h_x F(x, p').

    Each step is made over [t, t+h]. F(x, p') reuses the kernel at x (paper, equation 15). It is
    conformally symplectic where the Hamiltonian is separable; in the attention metric G depends on
    p, and an explicit kick keeps the order but not the symplectic form.
    """

    order = 1
    evaluations = 1

    def step(
        self, oracle: Oracle, state: State, h: StepSize, t: Scalar, memory: None
    ) -> tuple[State, None]:
        """Advance over [t, t+h]."""
        h_x, h_p = split(h)
        x, p = state
        field = oracle(x)
        p_next = self.damping.decay(t, h_p) * advance(p, h_p, field.force(p))
        return State(advance(x, h_x, field.velocity(p_next)), p_next), memory
