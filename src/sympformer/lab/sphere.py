"""Flows on the unit sphere: layer normalisation as a projection.

The flow of a Hamiltonian, or of its gradient, restricted to tokens of norm 1: velocities and
momenta are tangent, and a normal force -(pᵀẋ) x keeps them so. Between two steps the state is put
back on the sphere exactly.
"""

from collections.abc import Callable

from torch import Tensor

from sympformer.dynamics import Field, Oracle, State


def tangent(x: Tensor, v: Tensor) -> Tensor:
    """The part of v that is tangent to the unit sphere at x."""
    return v - (v * x).sum(-1, keepdim=True) * x


def retract(state: State) -> State:
    """The nearest point of the sphere, and the momentum made tangent there."""
    x = state.x / state.x.norm(dim=-1, keepdim=True)
    return State(x, tangent(x, state.p))


def on_sphere(oracle: Oracle) -> Callable[[Tensor], "SphereField"]:
    """The oracle of the same flow restricted to the unit sphere."""
    return lambda x: SphereField(x, oracle(x))


class SphereField:
    """The field of the restricted flow at x."""

    def __init__(self, x: Tensor, free: Field):
        self.x, self.free = x, free

    def velocity(self, p: Tensor) -> Tensor:
        """The velocity of the free flow, made tangent."""
        return tangent(self.x, self.free.velocity(p))

    def force(self, p: Tensor) -> Tensor:
        """The force of the free flow, made tangent, and the normal force of the constraint."""
        normal = (p * self.velocity(p)).sum(-1, keepdim=True)
        return tangent(self.x, self.free.force(p)) - normal * self.x
