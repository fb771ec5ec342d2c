"""Damping schedules against quadrature, limits and finite differences."""

import math

import pytest
import torch
from scipy.integrate import quad

from sympformer.dynamics import damping
from sympformer.dynamics.scalar import phi
from sympformer.errors import InputError

KINDS = [
    ("constant", {"alpha": 0.7}),
    ("nesterov", {"r": 3.0}),
    ("loglinear", {"c_log": 2.5, "c_lin": 0.4}),
]


@pytest.mark.parametrize(("kind", "coefficients"), KINDS)
@pytest.mark.parametrize(("t", "h"), [(1.0, 1e-6), (1.0, 0.1), (2.5, 1.0), (0.3, 3.0)])
def test_decay_and_weight_against_quadrature(kind, coefficients, t, h):
    schedule = damping(kind, **coefficients)

    def tail(s):
        return quad(schedule.alpha, s, t + h, epsabs=0, epsrel=1e-13)[0]

    weight = quad(lambda s: math.exp(-tail(s)), t, t + h, epsabs=0, epsrel=1e-12)[0]
    assert schedule.decay(t, h) == pytest.approx(math.exp(-tail(t)), rel=1e-12)
    assert schedule.weight(t, h) == pytest.approx(weight, rel=1e-12)
    assert schedule.eta(t + h) - schedule.eta(t) == pytest.approx(tail(t), rel=1e-9)


@pytest.mark.parametrize(("c_log", "c_lin"), [(0.0, 5.0), (0.5, 0.0), (3.3, 0.2), (12.0, 5.0)])
@pytest.mark.parametrize("h", [1e-3, 1.0, 10.0])
def test_the_rule_of_loglinear_is_exact_in_its_range(c_log, c_lin, h):
    schedule = damping("loglinear", c_log=c_log, c_lin=c_lin)
    exact = quad(
        lambda v: math.exp(c_log * math.log1p(-v * h / (1 + h)) - c_lin * h * v),
        0,
        1,
        epsabs=0,
        epsrel=1e-13,
        limit=200,
    )[0]
    assert schedule.weight(1.0, h) == pytest.approx(h * exact, rel=1e-12)


@pytest.mark.parametrize(("kind", "coefficients"), KINDS)
def test_tensors_and_numbers_agree(kind, coefficients):
    numbers = damping(kind, **coefficients)
    tensors = damping(kind, **{k: torch.tensor(v).double() for k, v in coefficients.items()})
    t, h = 1.7, 0.3
    as_tensors = (torch.tensor(t).double(), torch.tensor(h).double())
    for name in ("decay", "weight"):
        value = getattr(numbers, name)(t, h)
        assert isinstance(value, float)
        for times in ((t, h), as_tensors):
            torch.testing.assert_close(
                getattr(tensors, name)(*times), torch.tensor(value).double(), rtol=1e-6, atol=0
            )


@pytest.mark.parametrize("z", [-0.099, -1e-9, 0.0, 1e-12, 0.05, 0.0999999, 0.1000001, 0.2, 3.0])
def test_phi_and_its_gradient_on_both_branches(z):
    at = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.as_tensor(phi(at)), at)
    value = quad(lambda v: math.exp(-z * v), 0, 1, epsabs=0, epsrel=2e-14)[0]
    slope = quad(lambda v: -v * math.exp(-z * v), 0, 1, epsabs=0, epsrel=2e-14)[0]
    assert phi(z) == pytest.approx(value, rel=1e-14)
    assert gradient.item() == pytest.approx(slope, rel=1e-13)


def test_the_taylor_branch_meets_the_closed_form():
    z = torch.linspace(0.02, 0.0999, 50, dtype=torch.float64)
    torch.testing.assert_close(phi(z), -torch.expm1(-z) / z, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("kind", "coefficients"), KINDS)
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_gradients_through_coefficients_time_and_step(kind, coefficients, scale):
    names = list(coefficients)
    leaves = [torch.tensor(scale * v).double().requires_grad_() for v in coefficients.values()]
    leaves += [torch.tensor(v).double().requires_grad_() for v in (1.3, 0.2 * scale)]

    def factors(*values):
        schedule = damping(kind, **dict(zip(names, values, strict=False)))
        t, h = values[-2:]
        return torch.as_tensor(schedule.decay(t, h)), torch.as_tensor(schedule.weight(t, h))

    assert torch.autograd.gradcheck(factors, leaves, eps=1e-5, atol=1e-8)


@pytest.mark.parametrize(("kind", "coefficients"), KINDS)
def test_vanishing_damping(kind, coefficients):
    none = {k: torch.zeros((), dtype=torch.float64, requires_grad=True) for k in coefficients}
    schedule = damping(kind, **none)
    decay, weight = schedule.decay(2.0, 0.5), schedule.weight(2.0, 0.5)
    assert torch.as_tensor(decay).item() == 1.0
    assert torch.as_tensor(weight).item() == pytest.approx(0.5, rel=1e-14)
    gradients = torch.autograd.grad(torch.as_tensor(weight), list(none.values()))
    assert all(g.isfinite() and g < 0 for g in gradients)


def test_schedules_are_the_published_ones():
    assert damping("constant", alpha=0.5).eta(3.0) == 1.5
    assert damping("nesterov", r=3.0).eta(2.0) == pytest.approx(3 * math.log(2))
    both = damping("loglinear", c_log=2.0, c_lin=0.5, t0=4.0)
    assert both.eta(8.0) == pytest.approx(2 * math.log(2) + 4)
    assert both.alpha(8.0) == 0.75
    assert damping("nesterov", r=3.0).decay(2.0, 2.0) == pytest.approx(0.125)
    assert damping("constant", alpha=2.0).weight(0.0, 1.0) == pytest.approx((1 - math.exp(-2)) / 2)


@pytest.mark.parametrize(
    ("kind", "coefficients", "message"),
    [
        ("nestrov", {"r": 3.0}, "did you mean 'nesterov'"),
        ("nesterov", {"alpha": 3.0}, "nesterov damping takes r, t0"),
        ("constant", {}, "constant damping takes alpha"),
        ("constant", {"alpha": -1.0}, "alpha ≥ 0"),
        ("constant", {"alpha": float("nan")}, "alpha ≥ 0"),
        ("loglinear", {"c_log": 1.0, "c_lin": 1.0, "t0": 0.0}, "t0 > 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(kind, coefficients, message):
    with pytest.raises(InputError, match=message) as caught:
        damping(kind, **coefficients)
    assert "\n" not in str(caught.value)


def test_a_logarithmic_schedule_cannot_start_at_zero():
    with pytest.raises(InputError, match="t > 0"):
        damping("nesterov", r=3.0).decay(0.0, 0.1)
