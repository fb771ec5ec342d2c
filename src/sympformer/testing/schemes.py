"""What a time discretisation must hold."""

import math
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from sympformer.dynamics import Damping, Scheme, damping, integrate
from sympformer.dynamics.scalar import Scalar
from sympformer.dynamics.state import State
from sympformer.dynamics.strang import Strang
from sympformer.dynamics.trial import Asked, Calls, factors
from sympformer.errors import one_line, shown
from sympformer.testing.reported import reported

TOLERANCE = 0.2
"""How far a measured order may be from the one that is claimed."""

AGREEMENT = 0.02
"""How far the end of many short steps may be from that of a scheme of ours."""


def separable(x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """A pendulum: the velocity depends on the momentum alone, the force on the position alone."""
    return p, -x.sin()


def curved(x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Motion in a metric that depends on the position, as that of attention does."""
    return (1 + x**2) * p, -x * p**2 - x.sin()


class Forceless:
    """The curved field at one position, its force multiplied by `share`."""

    def __init__(self, x: Tensor, share: float):
        self.x, self.share = x, share

    def velocity(self, p: Tensor) -> Tensor:
        """As it is."""
        return curved(self.x, p)[0]

    def force(self, p: Tensor) -> Tensor:
        """The share of it."""
        return self.share * curved(self.x, p)[1]


def check_scheme(scheme: Callable[[Damping], Scheme]) -> None:
    """Order, evaluations of the kernel, damping that is known beforehand, repeats, gradients.

    Args:
        scheme: the class, as `register_scheme` takes it, or a `functools.partial` of it.

    Raises:
        AssertionError: one of them is not what the class says.
    """
    kind = getattr(scheme, "func", scheme)
    fits = isinstance(kind, type) and issubclass(kind, Scheme)
    assert fits, f"check_scheme takes a class below Scheme, not {shown(scheme)}"
    name = kind.__name__
    with reported(name):
        _check(scheme, name)


def _check(scheme: Callable[[Damping], Scheme], name: str) -> None:
    rate = damping("loglinear", c_log=1.5, c_lin=0.3)
    made = scheme(rate)
    _check_constants(made, name)
    _check_result(made, name)
    calls = Calls.of(scheme)
    assert calls.fields == made.evaluations, (
        f"{name} says {made.evaluations} evaluations of the kernel a step and makes {calls.fields}"
    )
    _check_repeats(made, name)
    _check_order(scheme, rate, made.order, name)
    _check_questions(scheme, rate, name)
    _check_kick(scheme, name)
    _check_precision(scheme, rate, name)
    _check_gradients(scheme, name)


def _start() -> State:
    x = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
    return State(x, x.flip(0))


def _check_constants(made: Scheme, name: str) -> None:
    known = made.constants()
    for field in fields(made):
        assert field.type != "Scalar", (
            f"{name}.{field.name} is annotated with the text 'Scalar', so no model learns it: "
            "leave out `from __future__ import annotations`"
        )
    for constant, value in known.items():
        assert value > 0, (
            f"{name}.{constant} starts from {value}: models learn constants that are greater than 0"
        )


def _check_result(made: Scheme, name: str) -> None:
    start = _start()
    result = made.step(lambda x: Forceless(x, 1), start, 0.1, 1.0, made.init(start))
    pair = isinstance(result, tuple) and [isinstance(part, State) for part in result]
    assert pair in ([True, False], [True, True]), (
        f"{name}.step must return (State, memory), not {shown(result)}"
    )


def _check_repeats(made: Scheme, name: str) -> None:
    """One scheme follows two paths, one of them twice."""

    def path(start: State) -> list[State]:
        states, memory = [start], made.init(start)
        for k in range(3):
            state, memory = made.step(
                lambda x: Forceless(x, 1), states[-1], 0.1, 1 + k / 10, memory
            )
            states.append(state)
        return states

    start = _start()
    first = path(start)
    path(State(start.p, 2 * start.x))
    again = path(start)
    same = all(
        torch.equal(a.x, b.x) and torch.equal(a.p, b.p) for a, b in zip(first, again, strict=True)
    )
    assert same, f"{name} gives another path when it is used again: what it keeps belongs in memory"
    assert torch.equal(start.x, _start().x), f"{name} changes the state it is given"


def _check_order(scheme: Callable[[Damping], Scheme], rate: Damping, order: int, name: str) -> None:
    counts, start = [64, 128, 256], _start()
    for field in (separable, curved):
        ends = []
        for steps in (*counts, 4096):
            x, p = integrate(field, *start, scheme, rate, h=2 / steps, steps=steps)
            ends.append(State(x[-1], p[-1]))
        damped = integrate(field, *start, Strang, rate, h=2 / 4096, steps=4096)
        for variable, end, path in zip(("positions", "momenta"), ends[-1], damped, strict=True):
            off = (end - path[-1]).norm().item()
            assert off < AGREEMENT, (
                f"{name} leads to other {variable} than the damped flow, off by {off:.2g} in a "
                f"{field.__name__} field: does its step ask self.damping?"
            )
        for variable, *states, exact in zip(("positions", "momenta"), *ends, strict=True):
            errors = [(state - exact).norm().item() for state in states]
            measured = math.log2(errors[0] / errors[-1]) / 2
            assert abs(measured - order) < TOLERANCE, (
                f"{name} says order {order}, its {variable} have order {measured:.2f} in a "
                f"{field.__name__} field"
            )


def _check_questions(scheme: Callable[[Damping], Scheme], rate: Damping, name: str) -> None:
    """Models ask the damping once a pass, for all layers, with vectors and on no state."""
    t, h = torch.tensor([1.0, 1.5]).double(), (torch.tensor([0.5, 0.3]), torch.tensor([0.4, 0.2]))
    try:
        known = factors(scheme, rate, t, h)
    except Exception as error:  # whatever the scheme raises
        raise AssertionError(f"{name} takes no vectors of step sizes: {one_line(error)}") from error
    start = _start()
    for size in (0.0, 1.0, -3.0):
        state = State(size * start.x, size * start.p)
        for i in range(2):
            step, memory = (h[0][i], h[1][i]), None
            for when, expected in zip(("a first", "a later"), known, strict=True):
                made = scheme(asked := Asked(rate))
                if memory is None or made.copies_state:
                    memory = made.init(state)
                _, memory = made.step(lambda x: Forceless(x, 1), state, step, t[i], memory)
                got = asked.factors
                assert {q: len(a) for q, a in got.items()} == {
                    q: len(a) for q, a in expected.items()
                }, f"{name} asks its damping for other things in another state, in {when} step"
                for question, answers in got.items():
                    for one, vector in zip(answers, expected[question], strict=True):
                        vector = torch.as_tensor(vector)
                        assert vector.shape == t.shape, (
                            f"{name} asks for {question} at times that are not those of its step"
                        )
                        assert torch.allclose(vector[i], torch.as_tensor(one).to(vector)), (
                            f"{name} asks for {question} at another time in another state, "
                            f"in {when} step"
                        )


def _check_kick(scheme: Callable[[Damping], Scheme], name: str) -> None:
    """Whether the position depends on the force of the same step: the last layer goes by it."""
    rate, start = damping("constant", alpha=0.5), _start()
    made, after = scheme(rate), scheme(rate).drifts_after_its_kick
    _, later = made.step(lambda x: Forceless(x, 1), start, 0.1, 1.0, made.init(start))
    for memory in (made.init(start), start if made.copies_state else later):
        pair = [
            made.step(lambda x, s=s: Forceless(x, s), start, 0.1, 1.0, memory)[0].x for s in (0, 1)
        ]
        depends = not torch.equal(*pair)
        says = f"{name} says drifts_after_its_kick = {after}, but its new position"
        assert depends == after, (
            f"{says} {'depends' if depends else 'does not depend'} on the force of the same step"
        )


def _check_precision(scheme: Callable[[Damping], Scheme], rate: Damping, name: str) -> None:
    """Times and step sizes are in float32, whatever the state is in."""
    t, h = torch.tensor(1.0), torch.tensor(0.1)
    for dtype in (torch.float32, torch.bfloat16):
        made, start = scheme(rate), State(*(part.to(dtype) for part in _start()))
        try:
            state, memory = made.step(lambda x: Forceless(x, 1), start, (h, h), t, made.init(start))
            state, _ = made.step(lambda x: Forceless(x, 1), state, (h, h), t + h, memory)
        except Exception as error:  # whatever the scheme raises
            raise AssertionError(f"{name} fails in {dtype}: {one_line(error)}") from error
        assert state.x.dtype == state.p.dtype == dtype, (
            f"{name} makes {state.x.dtype} and {state.p.dtype} of a state in {dtype}"
        )
        assert state.x.isfinite().all(), f"{name} is not finite in {dtype}"


def _check_gradients(scheme: Callable[[Damping], Scheme], name: str) -> None:
    """To step sizes, damping and constants: models learn all of them."""
    constants = scheme(damping("constant", alpha=0.5)).constants()
    start = _start()

    def end(h_x: Tensor, h_p: Tensor, alpha: Tensor, *values: Scalar) -> Tensor:
        made = dict(zip(constants, values, strict=True))
        rate = damping("constant", alpha=alpha)
        x, p = integrate(curved, *start, lambda d: scheme(d, **made), rate, (h_x, h_p), steps=3)
        return torch.cat([x[-1], p[-1]])

    values = {"its step size of x": 0.1, "its step size of p": 0.2, "its damping": 0.5, **constants}
    inputs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values.values()]
    jacobian = torch.autograd.functional.jacobian(end, tuple(inputs))
    for i, (what, exact) in enumerate(zip(values, jacobian, strict=True)):
        step = 1e-5
        shifted = [
            [v.detach() + s * step * (i == j) for j, v in enumerate(inputs)] for s in (1, -1)
        ]
        slope = (end(*shifted[0]) - end(*shifted[1])) / (2 * step)
        assert torch.allclose(exact, slope, rtol=1e-5, atol=1e-7), (
            f"{name} hands no gradient, or a wrong one, on to {what}"
        )
