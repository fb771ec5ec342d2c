"""Plain Euler."""

from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Oracle, Scheme, State, StepSize, split


class PlainEuler(Scheme):
    """Euler with a damping factor: x' = x + h_x F(x, p), p' = σ p + h_p G(x, p).

    Each step is made over [t, t+h]; the factor a of the paper is the exact decay σ of the step
    (docs/schemes.md).
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
        p_next = advance(self.damping.decay(t, h_p) * p, h_p, field.force(p))
        return State(x_next, p_next), memory
