"""What a step in momentum form needs that depends on no token: times, step sizes, damping.

The layers of a model are steps of one flow, one after another, each with a step size and damping
coefficients of its own. All of it is made once a pass, for all layers together.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sympformer.dynamics import Scheme, damping
from sympformer.dynamics.trial import Factors, factors
from sympformer.model.layers import LearnedScalar, value

START = {
    "constant": {"alpha": 1.0},
    "nesterov": {"r": 3.0},
    "loglinear": {"c_log": 3.0, "c_lin": 1e-4},
}
"""The coefficients that the damping of a layer starts with."""


class Tempo(NamedTuple):
    """One step: when it begins and ends, how long it is for `x` and `p`, and what damping does.

    All are tensors without axes, in float32 or better. `first` is for a step without memory.
    """

    t: Tensor
    end: Tensor
    h_x: Tensor
    h_p: Tensor
    first: Factors
    later: Factors


class Pace(NamedTuple):
    """What one layer learns of it."""

    scheme: Callable[..., Scheme]
    damping: str
    h_x: LearnedScalar
    h_p: LearnedScalar
    coefficients: Mapping[str, LearnedScalar]


def timetable(paces: Sequence[Pace], t0: Tensor) -> list[Tempo]:
    """The steps of layers of one kind, in order; the clock moves with `h_p`, from `t0`."""
    scheme, kind, names = paces[0].scheme, paces[0].damping, paces[0].coefficients
    h_x, h_p = (_all([getattr(pace, name) for pace in paces], t0) for name in ("h_x", "h_p"))
    rate = damping(kind, **{n: _all([pace.coefficients[n] for pace in paces], t0) for n in names})
    end = t0 + h_p.cumsum(0)
    t = torch.cat([t0.unsqueeze(0), end[:-1]])
    first, later = (_by_step(f) for f in factors(scheme, rate, t, (h_x, h_p)))
    times = zip(*(v.unbind() for v in (t, end, h_x, h_p)), strict=True)
    return [
        Tempo(t, end, h_x, h_p, first[i], later[i]) for i, (t, end, h_x, h_p) in enumerate(times)
    ]


def _all(scalars: Sequence[LearnedScalar], like: Tensor) -> Tensor:
    """The values of positive scalars, one a layer, as a vector of the clock's type."""
    raw = torch.cat([scalar.raw for scalar in scalars])
    return value(raw.to(torch.promote_types(raw.dtype, like.dtype)), scalars[0].domain)


def _by_step(made: Factors) -> list[Factors]:
    """The factors of each step, from vectors over all steps."""
    answers = {question: [v.unbind() for v in vectors] for question, vectors in made.items()}
    count = next((len(v[0]) for v in answers.values() if v), 0)
    return [{q: tuple(v[i] for v in vs) for q, vs in answers.items()} for i in range(count)]
