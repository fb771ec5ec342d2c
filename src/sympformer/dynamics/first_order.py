"""What the first-order schemes share: one evaluation of the kernel, a kick and a drift."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Field, Oracle, Scheme, State, StepSize, split

Drift = Literal["before", "after"]


@dataclass(frozen=True)
class FirstOrder(Scheme):
    """A kick p' of the momentum, and the drift x' = x + h_x F(x, ·).

    `drift="before"` moves with the old momentum p (explicit, as published), `"after"` with the new
    one p' (semi-implicit): F(x, p') reuses the kernel at x, so both cost one evaluation.
    """

    drift: Drift = "before"
    order = 1
    evaluations = 1

    @property
    def drifts_after_its_kick(self) -> bool:
        """As asked for."""
        return self.drift == "after"

    @abstractmethod
    def kick(self, field: Field, p: Tensor, h: Scalar, t: Scalar) -> Tensor:
        """The momentum after [t, t+h], damping included."""

    def step(
        self, oracle: Oracle, state: State, h: StepSize, t: Scalar, memory: None
    ) -> tuple[State, None]:
        """Advance over [t, t+h]."""
        h_x, h_p = split(h)
        x, p = state
        field = oracle(x)
        if self.drift == "before":
            x = advance(x, h_x, field.velocity(p))
            return State(x, self.kick(field, p, h_p, t)), memory
        p = self.kick(field, p, h_p, t)
        return State(advance(x, h_x, field.velocity(p)), p), memory
