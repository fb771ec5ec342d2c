"""Contract tests of schemes: ours pass, and what is broken is caught by the right message."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from sympformer.dynamics import SCHEMES, damping
from sympformer.dynamics.first_order import FirstOrder
from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import State, split
from sympformer.testing import check_scheme

Euler, Strang, AB2, Tao = (SCHEMES[name] for name in ("euler", "strang", "ab2", "tao"))


@pytest.mark.parametrize("name", SCHEMES)
def test_our_schemes(name):
    check_scheme(SCHEMES[name])


@pytest.mark.parametrize("name", [n for n, s in SCHEMES.items() if issubclass(s, FirstOrder)])
def test_our_schemes_that_drift_after_their_kick(name):
    check_scheme(partial(SCHEMES[name], drift="after"))


class WrongOrder(Euler):
    """Says that it is better than it is."""

    order = 2


class WrongCount(Strang):
    """Says that it is cheaper than it is."""

    evaluations = 1


class OnlySeparable(Strang):
    """Leapfrog, which is of order 2 in a separable field only."""

    evaluations = 2

    def step(self, oracle, state, h, t, memory):
        h_x, h_p = split(h)
        start, p = oracle(state.x), self.damping.decay(t, h_p / 2) * state.p
        p = advance(p, h_p / 2, start.force(p))
        x = advance(state.x, h_x, start.velocity(p))
        p = advance(p, h_p / 2, oracle(x).force(p))
        return State(x, self.damping.decay(t + h_p / 2, h_p / 2) * p), memory


class Remembers(Strang):
    """Keeps the number of its steps in itself."""

    def step(self, oracle, state, h, t, memory):
        count = self.__dict__.setdefault("count", [])
        count.append(0)
        state, memory = super().step(oracle, state, h, t, memory)
        return State(state.x + 1e-9 * len(count), state.p), memory


class Adaptive(Euler):
    """Looks at the state before it asks the damping."""

    def kick(self, field, p, h, t):
        return super().kick(field, p, h, t + h if p.abs().sum() > 1e3 or not p.any() else t)


class Twice(Euler):
    """Asks once more where the state is far out."""

    def kick(self, field, p, h, t):
        if p.abs().sum() > 3:
            self.damping.alpha(t)
        return super().kick(field, p, h, t)


class Numbers(Euler):
    """Makes a number of the step size."""

    def kick(self, field, p, h, t):
        return super().kick(field, p, float(h), t)


class Detached(Euler):
    """Forgets the gradient of its step size."""

    def kick(self, field, p, h, t):
        return super().kick(field, p, h.detach() if isinstance(h, torch.Tensor) else h, t)


class DeniesItsKick(Strang):
    """Says that the position does not depend on the force."""

    @property
    def drifts_after_its_kick(self):
        return False


class ClaimsAKick(AB2):
    """Says that the position depends on the force of the same step."""

    @property
    def drifts_after_its_kick(self):
        return True


class Widens(Euler):
    """Computes in float64 whatever it is given."""

    def kick(self, field, p, h, t):
        return super().kick(field, p, h, t).double()


class Undamped(Euler):
    """Never asks its damping."""

    def kick(self, field, p, h, t):
        return advance(p, h, field.force(p))


class Alone(Euler):
    """Returns a state alone."""

    def step(self, oracle, state, h, t, memory):  # pyright: ignore[reportIncompatibleMethodOverride]
        return state


class Raises(Euler):
    """Fails."""

    def step(self, oracle, state, h, t, memory):
        raise KeyError("no")


@dataclass(frozen=True)
class NegativeConstant(Tao):
    """A constant that cannot be learned."""

    xi: Scalar = -1.0


@dataclass(frozen=True)
class TextConstant(Tao):
    """As in a file with `from __future__ import annotations`."""

    xi: "Scalar" = 1.0


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        (WrongOrder, "WrongOrder says order 2, its positions have order 1.0. in a separable field"),
        (OnlySeparable, "says order 2, its positions have order 1.0. in a curved field"),
        (WrongCount, "says 1 evaluations of the kernel a step and makes 2"),
        (Remembers, "another path when it is used again: what it keeps belongs in memory"),
        (Adaptive, "asks for .* at another time in another state"),
        (Twice, "asks its damping for other things in another state"),
        (Numbers, "takes no vectors of step sizes"),
        (Detached, "no gradient, or a wrong one, on to its step size of p"),
        (DeniesItsKick, "its new position depends on the force of the same step"),
        (ClaimsAKick, "its new position does not depend on the force of the same step"),
        (Widens, "makes torch.float64 and torch.float64 of a state in torch.float32"),
        (Undamped, "leads to other positions than the damped flow"),
        (Alone, "step must return .State, memory., not"),
        (Raises, "Raises fails: KeyError"),
        ("heun", "takes a class below Scheme, not 'heun'"),
        (Euler(damping("constant", alpha=1.0)), "takes a class below Scheme"),
        (NegativeConstant, "xi starts from -1.0"),
        (TextConstant, "leave out `from __future__ import annotations`"),
    ],
)
def test_a_broken_scheme_is_caught(scheme, says):
    with pytest.raises(AssertionError, match=says) as caught:
        check_scheme(scheme)
    assert "\n" not in str(caught.value)
