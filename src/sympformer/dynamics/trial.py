"""A scheme run on nothing: what it asks of a field, and of the damping.

What the damping does in a step depends on no token. So it can be had beforehand, of many steps at
once: `factors` runs the scheme with vectors for times and step sizes, and `Known` hands a scheme
the factors of one step in the order in which it asks for them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sympformer.dynamics.damping import UNDAMPED, Damping
from sympformer.dynamics.scalar import Scalar
from sympformer.dynamics.state import Scheme, State, StepSize

Factors = Mapping[str, tuple[Any, ...]]
"""What a damping answers in one step, by the name of the question, in the order of the calls."""


@dataclass
class Calls:
    """What is asked of an oracle: kernels, and velocities and forces of how many momenta.

    It is an oracle, and its field, whose every answer is zero.
    """

    fields: int = 0
    velocities: int = 0
    forces: int = 0
    momenta: int = 0

    def __post_init__(self):
        self._p: Tensor | None = None

    @classmethod
    def of(cls, scheme: Callable[..., Scheme]) -> "Calls":
        """What one step of a scheme asks."""
        calls, state = cls(), _nothing()
        made = scheme(UNDAMPED)
        made.step(calls, state, 0.1, 1.0, made.init(state))
        return calls

    def __call__(self, x: Tensor) -> "Calls":
        """The field."""
        self.fields, self._p = self.fields + 1, None
        return self

    def velocity(self, p: Tensor) -> Tensor:
        """Zero."""
        self.velocities += 1
        return self._answer(p)

    def force(self, p: Tensor) -> Tensor:
        """Zero."""
        self.forces += 1
        return self._answer(p)

    def _answer(self, p: Tensor) -> Tensor:
        if self._p is not p:  # a velocity and a force of one momentum project it once
            self._p, self.momenta = p, self.momenta + 1
        return torch.zeros_like(p)


class Asked(Damping):
    """A damping whose answers are noted down."""

    def __init__(self, damping: Damping):
        self.damping = damping
        self.answers: dict[str, list[Scalar]] = {}

    def alpha(self, t: Scalar) -> Scalar:
        """The rate, noted."""
        return self._note("alpha", t)

    def eta(self, t: Scalar) -> Scalar:
        """The antiderivative, noted."""
        return self._note("eta", t)

    def rise(self, t: Scalar, h: Scalar) -> Scalar:
        """The difference of the antiderivative, noted."""
        return self._note("rise", t, h)

    def weight(self, t: Scalar, h: Scalar) -> Scalar:
        """The weight, noted."""
        return self._note("weight", t, h)

    def decay(self, t: Scalar, h: Scalar) -> Scalar:
        """The decay, noted."""
        return self._note("decay", t, h)

    @property
    def factors(self) -> Factors:
        """What was answered so far."""
        return {question: tuple(answers) for question, answers in self.answers.items()}

    def _note(self, question: str, *arguments: Scalar) -> Scalar:
        answer = getattr(self.damping, question)(*arguments)
        self.answers.setdefault(question, []).append(answer)
        return answer


class Known(Damping):
    """The damping of one step whose factors are known; the arguments of a question are not read."""

    def __init__(self, factors: Factors):
        self._left = {question: list(answers) for question, answers in factors.items()}

    def alpha(self, t: Scalar) -> Scalar:
        """The next rate."""
        return self._left["alpha"].pop(0)

    def eta(self, t: Scalar) -> Scalar:
        """The next antiderivative."""
        return self._left["eta"].pop(0)

    def rise(self, t: Scalar, h: Scalar) -> Scalar:
        """The next difference of the antiderivative."""
        return self._left["rise"].pop(0)

    def weight(self, t: Scalar, h: Scalar) -> Scalar:
        """The next weight."""
        return self._left["weight"].pop(0)

    def decay(self, t: Scalar, h: Scalar) -> Scalar:
        """The next decay."""
        return self._left["decay"].pop(0)


def factors(
    scheme: Callable[..., Scheme], damping: Damping, t: Scalar, h: StepSize
) -> tuple[Factors, Factors]:
    """What the damping answers in a first step, whose memory is fresh, and in a later one.

    Args:
        scheme: the discretisation.
        damping: its coefficients may be vectors, one entry a step.
        t: where the steps start, alike.
        h: how long they are, alike.
    """
    state, made = _nothing(), scheme(asked := Asked(damping))
    _, memory = made.step(Calls(), state, h, t, made.init(state))
    first = asked.factors
    if memory is None or made.copies_state:
        return first, first
    made = scheme(asked := Asked(damping))
    made.step(Calls(), state, h, t, memory)
    return first, asked.factors


def _nothing() -> State:
    return State(torch.zeros(()), torch.zeros(()))
