"""What every scheme shares: the state, the step size, and the protocol of an oracle."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from sympformer.dynamics.damping import Damping
from sympformer.dynamics.scalar import Scalar


class State(NamedTuple):
    """Positions and momenta (or velocities) of one shape."""

    x: Tensor
    p: Tensor


StepSize = Scalar | tuple[Scalar, Scalar]
"""One step size, or a pair (h_x, h_p); the clock of the damping moves with h_p."""


def split(h: StepSize) -> tuple[Scalar, Scalar]:
    """Return (h_x, h_p)."""
    return h if isinstance(h, tuple) else (h, h)


class Field(Protocol):
    """The field at one position: the kernel has been evaluated, momenta are still free."""

    def velocity(self, p: Tensor, /) -> Tensor:
        """F(x, p)."""
        ...

    def force(self, p: Tensor, /) -> Tensor:
        """G(x, p), the conservative force: damping is the scheme's business."""
        ...


class Oracle(Protocol):
    """Evaluates the kernel once, at x."""

    def __call__(self, x: Tensor, /) -> Field:
        """Return the field at x."""
        ...


@dataclass(frozen=True)
class Scheme(ABC):
    """A time discretisation; it never asks which oracle it has.

    `order` holds in both variables; `evaluations` of the kernel are made a step. What a step must
    remember for the next one travels in `memory`, so a scheme itself never changes. Where
    `copies_state`, the memory is a copy of the state and must be made anew, by `init`, when
    anything but the scheme has moved the state. A step asks its damping for the same factors, in
    the same order, whatever the state is.
    """

    damping: Damping
    order: ClassVar[int]
    evaluations: ClassVar[int]
    copies_state: ClassVar[bool] = False

    @classmethod
    def constants(cls) -> dict[str, float]:
        """Numbers of the scheme's own, by name, with their defaults: a model learns them."""
        return {f.name: getattr(cls, f.name) for f in fields(cls) if f.type == Scalar}

    @property
    def drifts_after_its_kick(self) -> bool:
        """Whether the new position depends on the force of the same step."""
        return True

    def init(self, state: State) -> Any:
        """Memory before the first step; nothing, unless a scheme says otherwise."""
        return None

    @abstractmethod
    def step(
        self, oracle: Oracle, state: State, h: StepSize, t: Scalar, memory: Any
    ) -> tuple[State, Any]:
        """Advance over [t, t+h]."""
