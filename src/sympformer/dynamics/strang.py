"""Half-damp Strang splitting."""

from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Oracle, Scheme, State, StepSize, split


class Strang(Scheme):
    """Damp over h/2, move conservatively over h, damp over h/2.

    Each step is made over [t, t+h]. The conservative step is the explicit midpoint rule: the
    Hamiltonian is not separable, so no explicit leapfrog has order 2. A two-step method would ask
    for one evaluation, but damping breaks the conservative path at every step, and the past
    slopes would have to be moved across the break, by a second evaluation in all but name. The
    midpoint rule needs two, no memory, and never mixes the fields of two layers.
    """

    order = 2
    evaluations = 2

    def step(
        self, oracle: Oracle, state: State, h: StepSize, t: Scalar, memory: None
    ) -> tuple[State, None]:
        """Advance over [t, t+h]."""
        h_x, h_p = split(h)
        x, p = state.x, self.damping.decay(t, h_p / 2) * state.p
        start = oracle(x)
        p_mid = p + (h_p / 2) * start.force(p)
        middle = oracle(x + (h_x / 2) * start.velocity(p))
        x_next = advance(x, h_x, middle.velocity(p_mid))
        p_next = advance(p, h_p, middle.force(p_mid))
        return State(x_next, self.damping.decay(t + h_p / 2, h_p / 2) * p_next), memory
