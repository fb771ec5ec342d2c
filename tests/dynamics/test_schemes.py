"""Every scheme of the table: order, exact damping, the undamped limit, gradients."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import jv, yv

from sympformer.dynamics import SCHEMES, UNDAMPED, damping, integrate
from sympformer.dynamics.state import State

DAMPINGS = {
    "constant": damping("constant", alpha=0.5),
    "nesterov": damping("nesterov", r=3.0),
    "loglinear": damping("loglinear", c_log=1.5, c_lin=0.3),
}
X0, P0, SPAN = (1.0, -0.5, 0.2), (0.5, 1.0, -1.5), 2.0
EXACT_DAMPING = ["plain-euler", "conformal-euler", "exp-euler", "etd-ab2", "strang", "tao"]


def oscillator(x, p):
    """Field of H = p²/2 + x²/2."""
    return p, -x


def curved(x, p):
    """Field of the non-separable H = (1 + x²) p² / 2 - cos x: a pendulum in a curved metric."""
    return (1 + x**2) * p, -x * p**2 - x.sin()


FIELDS = {"oscillator": oscillator, "curved": curved}


def starts():
    """Three independent particles: one alone may pass a zero of its error."""
    return torch.tensor(X0, dtype=torch.float64), torch.tensor(P0, dtype=torch.float64)


@cache
def exact(field, kind):
    """(x, p) at the end of the span, by a Runge-Kutta method of order 8."""

    def slope(t, y):
        x, p = torch.from_numpy(y).reshape(2, -1)
        velocity, force = FIELDS[field](x, p)
        return torch.cat([velocity, force - DAMPINGS[kind].alpha(t) * p]).numpy()

    flow = solve_ivp(slope, (1, 1 + SPAN), X0 + P0, method="DOP853", rtol=1e-12, atol=1e-13)
    return flow.y[:, -1].reshape(2, -1)


def final(scheme, field, schedule, steps):
    """(x, p) at the end of the span."""
    path = integrate(field, *starts(), scheme, schedule, h=SPAN / steps, steps=steps)
    return torch.stack([path[0][-1], path[1][-1]]).numpy()


def order(counts, errors):
    """Slope of -log(error) against log(count)."""
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


def test_reference_against_closed_forms():
    omega, x0, p0 = math.sqrt(1 - 0.25**2), np.array(X0), np.array(P0)
    wave = x0 * math.cos(omega * SPAN) + (p0 + 0.25 * x0) / omega * math.sin(omega * SPAN)
    np.testing.assert_allclose(
        exact("oscillator", "constant")[0], math.exp(-0.25 * SPAN) * wave, rtol=1e-9
    )
    # x'' + 3 x'/t + x = 0 is solved by x = (a J_1(t) + b Y_1(t)) / t
    modes = np.array([[jv(1, 1), yv(1, 1)], [-jv(2, 1), -yv(2, 1)]])
    end, (a, b) = 1 + SPAN, np.linalg.solve(modes, np.array([x0, p0]))
    np.testing.assert_allclose(
        exact("oscillator", "nesterov")[0], (a * jv(1, end) + b * yv(1, end)) / end, rtol=1e-9
    )


@pytest.mark.parametrize("kind", DAMPINGS)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", SCHEMES)
def test_order(name, field, kind):
    counts, truth = [64, 128, 256], exact(field, kind)
    errors = [final(name, FIELDS[field], DAMPINGS[kind], n) - truth for n in counts]
    for variable in np.linalg.norm(errors, axis=-1).T:
        assert order(counts, variable) == pytest.approx(SCHEMES[name].order, abs=0.2)


@pytest.mark.parametrize("kind", DAMPINGS)
@pytest.mark.parametrize("name", EXACT_DAMPING)
def test_damping_is_exact_on_a_free_particle(name, kind):
    x, p = starts()
    path = integrate(
        lambda x, p: (p, torch.zeros_like(p)), x, p, name, DAMPINGS[kind], h=0.3, steps=7
    )[1]
    torch.testing.assert_close(path[-1], p * DAMPINGS[kind].decay(1.0, 2.1), rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", DAMPINGS)
def test_constant_force_is_exact_in_exponential_euler(kind):
    zero = torch.zeros(1, dtype=torch.float64)
    path = integrate(lambda x, p: (p, zero + 2), zero, zero, "exp-euler", DAMPINGS[kind], 0.3, 7)
    assert path[1][-1].item() == pytest.approx(2 * DAMPINGS[kind].weight(1.0, 2.1), rel=1e-13)


@pytest.mark.parametrize("name", SCHEMES)
def test_vanishing_damping(name):
    none = final(name, curved, UNDAMPED, 20)
    for schedule in (
        damping("nesterov", r=0.0),
        damping("loglinear", c_log=0.0, c_lin=0.0),
        damping("constant", alpha=1e-13),
    ):
        np.testing.assert_allclose(final(name, curved, schedule, 20), none, rtol=1e-11)


@pytest.mark.parametrize(
    ("name", "same"), [("plain-euler", "euler"), ("exp-euler", "euler"), ("etd-ab2", "ab2")]
)
def test_what_differs_in_the_damping_only_agrees_without_it(name, same):
    reference = final(same, curved, UNDAMPED, 20)
    np.testing.assert_allclose(final(name, curved, UNDAMPED, 20), reference, rtol=1e-13)


class Counted:
    """An oracle that counts how often its kernel is evaluated."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return At(x)


class At:
    def __init__(self, x):
        self.x = x

    def velocity(self, p):
        return curved(self.x, p)[0]

    def force(self, p):
        return curved(self.x, p)[1]


@pytest.mark.parametrize("name", SCHEMES)
def test_evaluations_of_the_kernel(name):
    scheme, oracle = SCHEMES[name](UNDAMPED), Counted()
    state = State(torch.ones(2), torch.zeros(2))
    memory = scheme.init(state)
    for k in range(1, 4):
        state, memory = scheme.step(oracle, state, 0.1, 1.0, memory)
        assert oracle.calls == k * scheme.evaluations


@pytest.mark.parametrize("kind", DAMPINGS)
@pytest.mark.parametrize("name", SCHEMES)
def test_gradients_through_coefficients_time_and_both_steps(name, kind):
    coefficients = {
        "constant": {"alpha": 0.5},
        "nesterov": {"r": 3.0},
        "loglinear": {"c_log": 1.5, "c_lin": 0.3},
    }[kind]
    x, p = starts()

    def end(h_x, h_p, t, *values):
        schedule = damping(kind, **dict(zip(coefficients, values, strict=True)))
        path = integrate(curved, x, p, name, schedule, h=(h_x, h_p), steps=3, t0=t)
        return path[0][-1], path[1][-1]

    numbers = (0.2, 0.1, 1.5, *coefficients.values())
    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in numbers]
    for learned, fixed in zip(end(*leaves), end(*numbers), strict=True):
        torch.testing.assert_close(learned, fixed, rtol=1e-13, atol=0)
    assert torch.autograd.gradcheck(end, leaves)


@pytest.mark.parametrize("name", [n for n in SCHEMES if n != "tao"])
def test_two_step_sizes_are_a_change_of_units(name):
    """(c h, h / c) follows x' = F, p' = G as h follows x' = c F, p' = G / c.

    Not so for Tao, whose rotation between the copies is scaled by the steps alone.
    """
    x, p = starts()
    c = 1.3

    def stretched(x, p):
        velocity, force = curved(x, p)
        return c * velocity, force / c

    pair = integrate(curved, x, p, name, h=(0.1 * c, 0.1 / c), steps=5)
    single = integrate(stretched, x, p, name, h=0.1, steps=5)
    torch.testing.assert_close(pair, single, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["ab2", "etd-ab2"])
def test_variable_steps_keep_the_order(name):
    """Steps that alternate by a factor 3: fixed weights 3/2 and -1/2 would fall to order 1."""
    scheme, oracle = SCHEMES[name](DAMPINGS["nesterov"]), Counted()
    counts, errors = [64, 128, 256], []
    for n in counts:
        state, t = State(*starts()), 1.0
        memory = scheme.init(state)
        for k in range(n):
            h = SPAN / n * (1.5 if k % 2 else 0.5)
            state, memory = scheme.step(oracle, state, h, t, memory)
            t += h
        errors.append(np.linalg.norm(torch.stack(state).numpy() - exact("curved", "nesterov")))
    assert order(counts, errors) == pytest.approx(2, abs=0.2)


class Slopes:
    """An oracle whose velocity and force are given numbers."""

    def __init__(self, velocity, force):
        self.slopes = torch.tensor(velocity), torch.tensor(force)

    def __call__(self, x):
        return self

    def velocity(self, p):
        return self.slopes[0]

    def force(self, p):
        return self.slopes[1]


@pytest.mark.parametrize("name", ["ab2", "etd-ab2"])
def test_variable_step_weights_integrate_a_line(name):
    """Weights (1 + ρ/2, -ρ/2) are exact where the slope is linear, for x and p apart."""
    scheme = SCHEMES[name](UNDAMPED)
    state = State(torch.zeros(()), torch.zeros(()))
    state, memory = scheme.step(Slopes(1.0, 5.0), state, (0.2, 0.3), 1.0, None)
    state, _ = scheme.step(Slopes(1.2, 5.9), state, (0.4, 0.1), 1.3, memory)
    # x: slope 1 + t over [0.2, 0.6]; p: slope 5 + 3 t over [0.3, 0.4]
    assert state.x.item() == pytest.approx(0.2 * 1.0 + 0.4 * 1.4, rel=1e-6)
    assert state.p.item() == pytest.approx(0.3 * 5.0 + 0.1 * 6.05, rel=1e-6)


def test_tao_holds_its_copies_together():
    scheme = SCHEMES["tao"](UNDAMPED)
    state, oracle = State(*starts()), Counted()
    memory = scheme.init(state)
    for _ in range(1000):
        state, memory = scheme.step(oracle, state, 0.05, 1.0, memory)
    assert (state.x - memory.x).abs().max() < 0.02
