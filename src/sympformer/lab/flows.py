"""The flows of the theory as oracles: one head, no parameters, kernels streamed in row tiles.

An oracle is what `sympformer.dynamics` steps: `oracle(x)` evaluates the kernel once and returns
the field at x, with `velocity(p)`, `force(p)` and the energies. Shapes are `(..., N, d)`. Memory is
O(N) beyond a fixed budget, so 10,000 particles fit. This is the fast form of `lab.formulas`, and
tested against it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sympformer.attention.naive import Causality
from sympformer.dynamics import Field
from sympformer.lab.kernel import Kernel, tiles
from sympformer.lab.matrices import require_causality, require_definite, require_symmetric


@dataclass(frozen=True)
class SoftmaxFlow:
    """Accelerated softmax attention in momentum form, docs/theory.md (S).

    Args:
        A: symmetric `(d, d)`, the kernel is exp(xᵀA y).
        B: symmetric positive definite `(d, d)`, the mobility is B / z; V = B A.
        causality: "joint", the exact flow, or "prefix", token i sees j ≤ i.
        potential: None for the attention energy -½ ∬ k dρ dρ, or a symmetric matrix Q for the
            energy ½ ∫ xᵀQ x dρ in the same metric.

    Raises:
        InputError: A, B, the potential or the causality is not of the required kind.
    """

    A: Tensor
    B: Tensor
    causality: Causality = "joint"
    potential: Tensor | None = None

    def __post_init__(self):
        require_causality(self.causality)
        require_symmetric(A=self.A)
        require_definite(B=self.B)
        if self.potential is not None:
            require_symmetric(potential=self.potential)

    def __call__(self, x: Tensor) -> "SoftmaxFlowField":
        """Evaluate the kernel at x."""
        return SoftmaxFlowField(x, self)


class SoftmaxFlowField:
    """The field of (S) at x; `z` is the mean kernel of each token, `(..., N, 1)`."""

    def __init__(self, x: Tensor, flow: SoftmaxFlow):
        self.x, self.flow = x, flow
        self.kernel = Kernel(x, flow.A, flow.causality)
        self.z = self.kernel.log_z.exp()

    def velocity(self, p: Tensor) -> Tensor:
        """ẋ_i = B p_i / z_i."""
        return p @ self.flow.B / self.z

    def force(self, p: Tensor) -> Tensor:
        """-∂H/∂x_i = z_i Σ_j a_ij (w + (s_i + s_j)/2) A x_j, where w = 1, or 0 and then -Q x_i."""
        kernel, Q = self.kernel, self.flow.potential
        s = (p * self.velocity(p)).sum(-1, keepdim=True) / self.z
        w = 1 if Q is None else 0
        force = self.z * ((w + s / 2) * kernel.mean + kernel.average(s * kernel.keys) / 2)
        return force if Q is None else force - self.x @ Q

    def gradient_flow(self) -> Tensor:
        """Velocity -G⁻¹ δE/δρ of the gradient flow: the attention layer, or -B Q x_i / z_i."""
        Q = self.flow.potential
        return self.kernel.mean @ self.flow.B if Q is None else -self.velocity(self.x @ Q)

    def kinetic(self, p: Tensor) -> Tensor:
        """½ Σ_i p_iᵀB p_i / z_i."""
        return (p * self.velocity(p)).sum((-2, -1)) / 2

    def energy(self) -> Tensor:
        """N E(ρ): -(1/2N) Σ_ij K_ij = -½ Σ_i z_i, or ½ Σ_i x_iᵀQ x_i."""
        Q = self.flow.potential
        return -self.z.sum((-2, -1)) / 2 if Q is None else (self.x @ Q * self.x).sum((-2, -1)) / 2


@dataclass(frozen=True)
class VelocityFlow:
    """Accelerated softmax attention in velocity form, docs/theory.md (U).

    The same flow as `SoftmaxFlow`; arguments and errors as there.
    """

    A: Tensor
    B: Tensor
    causality: Causality = "joint"

    def __post_init__(self):
        require_causality(self.causality)
        require_symmetric(A=self.A)
        require_definite(B=self.B)

    def __call__(self, x: Tensor) -> "VelocityFlowField":
        """Evaluate the kernel at x."""
        return VelocityFlowField(x, self)


class VelocityFlowField:
    """The field of (U) at x."""

    def __init__(self, x: Tensor, flow: VelocityFlow):
        self.x, self.flow = x, flow
        self.kernel = Kernel(x, flow.A, flow.causality)
        self.attention = self.kernel.mean @ flow.B

    def velocity(self, u: Tensor) -> Tensor:
        """ẋ_i = u_i."""
        return u

    def force(self, u: Tensor) -> Tensor:
        """Att_i - C_i(u), C_i = c_i u_i - ½ (s_i Att_i + Σ_j a_ij s_j V x_j)."""
        keys, d = self.kernel.keys, self.x.shape[-1]
        s = (u * torch.linalg.solve(self.flow.B, u.mT).mT).sum(-1, keepdim=True)
        kinetic, turning = self.kernel.average(torch.cat([s * keys, u @ self.flow.A], -1)).split(
            [d, d], -1
        )
        c = (u * self.kernel.mean + self.x * turning).sum(-1, keepdim=True)
        return self.attention - c * u + (s * self.attention + kinetic @ self.flow.B) / 2


@dataclass(frozen=True)
class LinearFlow:
    """Accelerated linear attention, docs/theory.md (L); the momentum is called y.

    Args:
        A: symmetric `(d, d)`, the kernel is xᵀA y.
        V: symmetric `(d, d)`, the energy is -½ ∫ xᵀV x dρ.
        causality: "joint", the exact flow, or "prefix", token i sees j ≤ i.

    Raises:
        InputError: A or V is not symmetric, or the causality is unknown.
    """

    A: Tensor
    V: Tensor
    causality: Causality = "joint"

    def __post_init__(self):
        require_causality(self.causality)
        require_symmetric(A=self.A, V=self.V)

    def __call__(self, x: Tensor) -> "LinearFlowField":
        """Fix the position."""
        return LinearFlowField(x, self)


class LinearFlowField:
    """The field of (L) at x."""

    def __init__(self, x: Tensor, flow: LinearFlow):
        self.x, self.flow = x, flow
        self.keys = x @ flow.A

    def velocity(self, y: Tensor) -> Tensor:
        """ẋ_i = (1/n_i) Σ_j (x_iᵀA x_j) y_j."""
        return self._mean(self.keys, self.x, y)

    def force(self, y: Tensor) -> Tensor:
        """ẏ_i + α y_i = -(1/n_i) Σ_j (y_iᵀ y_j) A x_j + V x_i."""
        return self.x @ self.flow.V - self._mean(y, y, self.keys)

    def gradient_flow(self) -> Tensor:
        """Velocity of the gradient flow, linear attention: (1/n_i) Σ_j (x_iᵀA x_j) V x_j."""
        return self.velocity(self.x @ self.flow.V)

    def kinetic(self, y: Tensor) -> Tensor:
        """(1/2N) Σ_ij (x_iᵀA x_j) y_iᵀ y_j."""
        return (y * self.velocity(y)).sum((-2, -1)) / 2

    def energy(self) -> Tensor:
        """N E(ρ) = -½ Σ_i x_iᵀV x_i."""
        return -(self.x @ self.flow.V * self.x).sum((-2, -1)) / 2

    def _mean(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(1/n_i) Σ_j (q_iᵀ k_j) v_j over the visible tokens."""
        n = q.shape[-2]
        if self.flow.causality == "joint":
            return q @ (k.mT @ v) / n
        count = torch.arange(1, n + 1, dtype=q.dtype, device=q.device)[:, None]
        parts = [
            (q[..., rows, :] @ k[..., : rows.stop, :].mT).tril(rows.start) @ v[..., : rows.stop, :]
            for rows in tiles(q)
        ]
        return torch.cat(parts, -2) / count


class EnergyField(Field, Protocol):
    """The field of a flow that descends an energy in a metric, at one position."""

    def gradient_flow(self) -> Tensor:
        """Velocity -G⁻¹ δE/δρ of the flow without momentum."""
        ...

    def kinetic(self, p: Tensor, /) -> Tensor:
        """½ Σ_i p_iᵀẋ_i, of shape `(...)`."""
        ...

    def energy(self) -> Tensor:
        """N E(ρ), of shape `(...)`."""
        ...


EnergyFlow = Callable[[Tensor], EnergyField]
"""Evaluates the kernel once, at x: `SoftmaxFlow`, `LinearFlow`, `RegularisedFlow`."""


@dataclass(frozen=True)
class GradientFlow:
    """The gradient flow that `flow` accelerates, ẋ = -G⁻¹ δE/δρ: a layer without momentum.

    Its momentum never moves, so that the same schemes step it.
    """

    flow: EnergyFlow

    def __call__(self, x: Tensor) -> "GradientFlowField":
        """Evaluate the kernel at x."""
        return GradientFlowField(self.flow(x))


class GradientFlowField:
    """The field of a gradient flow at x."""

    def __init__(self, at: EnergyField):
        self.at = at

    def velocity(self, p: Tensor) -> Tensor:
        """-G⁻¹ δE/δρ, whatever p."""
        return self.at.gradient_flow()

    def force(self, p: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(p)


def hamiltonian(at: EnergyField, p: Tensor) -> Tensor:
    """Kinetic energy plus N E(ρ), of shape `(...)`."""
    return at.kinetic(p) + at.energy()
