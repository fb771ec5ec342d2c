"""The contract of `integrate`."""

from functools import partial

import pytest
import torch

from sympformer.dynamics import SCHEMES, DivergenceError, damping, follow, integrate, schemes
from sympformer.dynamics.state import State
from sympformer.dynamics.tao import Tao
from sympformer.errors import InputError


def spring(x, p):
    return p, -x


def test_names():
    assert schemes() == [
        "plain-euler",
        "euler",
        "conformal-euler",
        "exp-euler",
        "ab2",
        "etd-ab2",
        "strang",
        "tao",
    ]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5, 4)])
def test_trajectories_start_with_the_start(name, dtype, shape):
    torch.manual_seed(0)
    x, p = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    before = x.clone(), p.clone()
    path = integrate(spring, x, p, name, damping("nesterov", r=3.0), h=0.1, steps=4)
    for trajectory, start, kept in zip(path, (x, p), before, strict=True):
        assert trajectory.shape == (5, *shape)
        assert trajectory.dtype == dtype
        assert torch.equal(trajectory[0], start)
        assert torch.equal(start, kept)


def test_a_first_step_by_hand():
    friction = damping("constant", alpha=0.5)
    x, p = integrate(spring, torch.tensor(1.0), torch.tensor(2.0), "euler", friction, 0.1, 1)
    assert x[1].item() == pytest.approx(1.2)
    assert p[1].item() == pytest.approx(2.0 + 0.1 * (-1.0 - 1.0))


def test_the_clock_moves_with_the_step_of_the_momentum():
    seen = []

    class Watched(SCHEMES["euler"]):
        def step(self, oracle, state, h, t, memory):
            seen.append(t)
            return super().step(oracle, state, h, t, memory)

    one = torch.ones(())
    integrate(spring, one, one, Watched, damping("nesterov", r=3.0), h=(0.5, 0.25), steps=3, t0=2.0)
    assert seen == [2.0, 2.25, 2.5]


def test_the_field_is_evaluated_once_for_each_momentum():
    calls = []

    def field(x, p):
        calls.append((x.item(), p.item()))
        return spring(x, p)

    one = torch.ones(())
    for name, expected in (("euler", 3), ("ab2", 3), ("exp-euler", 3), ("conformal-euler", 6)):
        calls.clear()
        integrate(field, one, one, name, damping("constant", alpha=0.1), h=0.1, steps=3)
        assert len(calls) == expected


class Spring:
    def __init__(self, x):
        self.x = x

    def velocity(self, p):
        return p

    def force(self, p):
        return -self.x


def test_follow_keeps_every_third_state():
    start, schedule = State(torch.tensor([1.0]), torch.tensor([0.0])), damping("nesterov", r=3.0)
    few = follow(SCHEMES["strang"](schedule), Spring, start, 0.1, steps=7, t0=2.0, every=3)
    x, p = integrate(spring, *start, "strang", schedule, h=0.1, steps=7, t0=2.0)
    assert torch.equal(few.x, x[::3])
    assert torch.equal(few.p, p[::3])


def test_follow_projects_after_every_step():
    start = State(torch.tensor([0.6, 0.8]), torch.tensor([1.0, 0.0]))
    path = follow(
        SCHEMES["ab2"](damping("constant", alpha=0.1)),
        Spring,
        start,
        0.1,
        steps=9,
        project=lambda state: State(state.x / state.x.norm(), state.p),
    )
    torch.testing.assert_close(path.x.norm(dim=-1), torch.ones(10))
    assert not torch.allclose(path.x[0], path.x[-1], atol=0.1)


def test_a_scheme_with_its_own_parameter():
    one = torch.ones((), dtype=torch.float64)
    loose, tight = (
        integrate(
            lambda x, p: ((1 + x**2) * p, -x * p**2), one, one, partial(Tao, xi=xi), h=0.1, steps=5
        )[0][-1]
        for xi in (0.5, 5.0)
    )
    assert loose != tight
    torch.testing.assert_close(loose, tight, rtol=0.05, atol=0)


@pytest.mark.parametrize("name", SCHEMES)
def test_divergence_names_the_step_and_keeps_the_past(name):
    x, p = torch.tensor([1.0]), torch.tensor([1.0])
    with pytest.raises(DivergenceError, match="smaller steps") as caught:
        integrate(lambda x, p: (x**3, p**3), x, p, name, h=1.0, steps=100)
    error = caught.value
    assert isinstance(error, InputError)
    assert f"step {error.step} (t = {1 + error.step}" in str(error)
    assert len(error.x) == len(error.p) == error.step
    assert error.x.isfinite().all()


def test_a_start_that_is_not_finite():
    with pytest.raises(DivergenceError, match="step 0"):
        integrate(spring, torch.tensor([float("nan")]), torch.zeros(1), h=0.1, steps=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "strong"}, "did you mean 'strang'"),
        ({"steps": -1}, "steps ≥ 0"),
        ({"h": 0.0}, "h > 0"),
        ({"h": (0.1, -0.1)}, "h > 0"),
        ({"p": torch.zeros(3)}, "one shape"),
    ],
)
def test_bad_input(change, message):
    arguments = {"x": torch.zeros(2), "p": torch.zeros(2), "scheme": "ab2", "h": 0.1, "steps": 2}
    with pytest.raises(InputError, match=message):
        integrate(spring, **{**arguments, **change})
