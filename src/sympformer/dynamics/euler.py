"""Damped Euler."""

from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Oracle, Scheme, State, StepSize, split


class Euler(Scheme):
    """Damped ("presymplectic") Euler: x' = x + h_x F(x, p), p' = p + h_p (G(x, p) - α(t) p).

    Each step is made over [t, t+h]; the damping is explicit (docs/schemes.md).
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
        p_next = advance(p, h_p, field.force(p) - self.damping.alpha(t) * p)
        return State(x_next, p_next), memory
