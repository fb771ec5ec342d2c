"""Tao's explicit symplectic integrator in an extended phase space."""

from dataclasses import dataclass

from sympformer.dynamics.scalar import Scalar, advance, cos, sin
from sympformer.dynamics.state import Oracle, Scheme, State, StepSize, split


@dataclass(frozen=True)
class Tao(Scheme):
    """Two copies (x, p) and (y, q), each driven by a field at the other's momentum or position.

    Each step is made over [t, t+h]: damp over h/2, then the symmetric composition
    A(h/2) B(h/2) C(h) B(h/2) A(h/2), then damp over h/2.

        A: p += h G(x, q), y += h F(x, q)      (flow of H(x, q))
        B: x += h F(y, p), q += h G(y, p)      (flow of H(y, p))
        C: rotates (x - y, p - q) by the angle 2ξh and keeps the sums

    Undamped it is symplectic in the extended space, whatever H. ξ must be large enough to hold the
    copies together, and 2ξh below about 1 to see order 2. With h_x ≠ h_p the angle takes their
    geometric mean, as the rescaled flow does. `memory` is the second copy (y, q). Source: Tao,
    Explicit symplectic approximation of nonseparable Hamiltonians, Phys. Rev. E 94, 2016.
    """

    xi: Scalar = 1.0
    order = 2
    evaluations = 4
    copies_state = True

    def init(self, state: State) -> State:
        """The second copy starts where the first does."""
        return state

    def step(
        self, oracle: Oracle, state: State, h: StepSize, t: Scalar, memory: State
    ) -> tuple[State, State]:
        """Advance over [t, t+h]."""
        h_x, h_p = split(h)
        half = (h_x / 2, h_p / 2)
        decay = self.damping.decay(t, half[1])
        first = State(state.x, decay * state.p)
        second = State(memory.x, decay * memory.p)

        first, second = _drive(oracle, first, second, half)
        second, first = _drive(oracle, second, first, half)
        first, second = self._rotate(first, second, h_x, h_p)
        second, first = _drive(oracle, second, first, half)
        first, second = _drive(oracle, first, second, half)

        decay = self.damping.decay(t + half[1], half[1])
        return State(first.x, decay * first.p), State(second.x, decay * second.p)

    def _rotate(self, first: State, second: State, h_x: Scalar, h_p: Scalar) -> tuple[State, State]:
        """Flow of ξ (|x - y|² + |p - q|²) / 2."""
        ratio = (h_x / h_p) ** 0.5
        angle = 2 * self.xi * h_p * ratio
        c, s = cos(angle), sin(angle)
        mean_x, gap_x = (first.x + second.x) / 2, (first.x - second.x) / 2
        mean_p, gap_p = (first.p + second.p) / 2, (first.p - second.p) / 2
        gap_x, gap_p = c * gap_x + ratio * s * gap_p, c * gap_p - s / ratio * gap_x
        return State(mean_x + gap_x, mean_p + gap_p), State(mean_x - gap_x, mean_p - gap_p)


def _drive(
    oracle: Oracle, here: State, there: State, h: tuple[Scalar, Scalar]
) -> tuple[State, State]:
    """Flow of H(x, q): the field at x of the one copy and q of the other moves p and y."""
    field = oracle(here.x)
    kicked = State(here.x, advance(here.p, h[1], field.force(there.p)))
    drifted = State(advance(there.x, h[0], field.velocity(there.p)), there.p)
    return kicked, drifted
