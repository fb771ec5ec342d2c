"""Adams-Bashforth of order 2 on the undamped variables."""

from sympformer.dynamics.multistep import Slopes, adams_bashforth
from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Oracle, Scheme, State, StepSize, split


class ETDAB2(Scheme):
    """AB2 on Π = e^η p, which obeys Π' = e^η G, x' = F(x, e^{-η} Π): the damping is exact.

    Divided by e^η at the end of the step, only decays remain, so nothing can overflow:

        p' = σ (p + h_p ((1 + ρ/2) G_k - (ρ/2) σ_{k-1} G_{k-1})),
        x' = x + h_x ((1 + ρ/2) F_k - (ρ/2) F_{k-1}),

    with ρ = h_k / h_{k-1} for x and for p apart, and σ_{k-1} the decay of the previous step. Each
    step is made over [t, t+h], the first one by exponential Euler. Moving x by both past
    velocities keeps order 2 in both variables (paper, equations 12, 13 and 17).
    """

    order = 2
    evaluations = 1

    @property
    def drifts_after_its_kick(self) -> bool:
        """The position moves along earlier velocities."""
        return False

    def step(
        self, oracle: Oracle, state: State, h: StepSize, t: Scalar, memory: Slopes | None
    ) -> tuple[State, Slopes]:
        """Advance over [t, t+h]."""
        h_x, h_p = split(h)
        x, p = state
        field = oracle(x)
        velocity, force = field.velocity(p), field.force(p)
        decay = self.damping.decay(t, h_p)
        now = Slopes(velocity, decay * force, h_x, h_p)
        if memory is None:
            p_next = advance(decay * p, self.damping.weight(t, h_p), force)
        else:
            velocity = adams_bashforth(velocity, memory.velocity, h_x, memory.h_x)
            force = adams_bashforth(force, memory.force, h_p, memory.h_p)
            p_next = decay * advance(p, h_p, force)
        return State(advance(x, h_x, velocity), p_next), now
