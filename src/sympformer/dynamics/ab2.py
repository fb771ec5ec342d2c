"""Adams-Bashforth of order 2 on the damped system."""

from sympformer.dynamics.multistep import Slopes, adams_bashforth
from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Oracle, Scheme, State, StepSize, split


class AB2(Scheme):
    """y' = y + h ((1 + ρ/2) f(y_k) - (ρ/2) f(y_{k-1})) on y = (x, p), f = (F, G - α p).

    Each step is made over [t, t+h], the first one by damped Euler. ρ = h_k / h_{k-1} for x and
    for p apart; with equal steps the weights are 3/2 and -1/2 (paper, equation
    17).
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
        velocity = field.velocity(p)
        force = field.force(p) - self.damping.alpha(t) * p
        now = Slopes(velocity, force, h_x, h_p)
        if memory is not None:
            velocity = adams_bashforth(velocity, memory.velocity, h_x, memory.h_x)
            force = adams_bashforth(force, memory.force, h_p, memory.h_p)
        return State(advance(x, h_x, velocity), advance(p, h_p, force)), now
