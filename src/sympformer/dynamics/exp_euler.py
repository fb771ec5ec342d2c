"""Exponential Euler."""

from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Oracle, Scheme, State, StepSize, split


class ExpEuler(Scheme):
    """Exponential Euler: x' = x + h_x F(x, p), p' = σ p + w G(x, p).

    Each step is made over [t, t+h]; w is the exact weight of a force frozen over the step (paper,
    equation 16; Hochbruck and Ostermann, Exponential integrators, 2010).
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
        x_next = advance(x, h_x, field.velocity(p))
        decay, weight = self.damping.decay(t, h_p), self.damping.weight(t, h_p)
        p_next = advance(decay * p, weight, field.force(p))
        return State(x_next, p_next), memory
