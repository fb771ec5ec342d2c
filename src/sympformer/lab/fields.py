"""The flows of the theory as oracles: one head, no parameters, kernels streamed in row tiles.

An oracle is what `sympformer.dynamics` steps: `oracle(x)` evaluates the kernel once and returns
the field at x, with `velocity(p)`, `force(p)` and the energies. Shapes are `(..., N, d)`. The
functions below it have the signatures of the formulas. Memory is O(N) beyond a fixed budget, so
10,000 particles fit; `sympformer.attention.naive` holds the same formulas as they stand on paper.
"""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from sympformer.attention.naive import Causality
from sympformer.errors import InputError, lookup
from sympformer.lab.kernel import Kernel, tiles


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

    def __call__(self, x: Tensor) -> "SoftmaxField":
        """Evaluate the kernel at x."""
        return SoftmaxField(x, self)


class SoftmaxField:
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

    def __call__(self, x: Tensor) -> "VelocityField":
        """Evaluate the kernel at x."""
        return VelocityField(x, self)


class VelocityField:
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

    def __call__(self, x: Tensor) -> "LinearField":
        """Fix the position."""
        return LinearField(x, self)


class LinearField:
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


@dataclass(frozen=True)
class GradientFlow:
    """The gradient flow that `flow` accelerates, ẋ = -G⁻¹ δE/δρ: a layer without momentum.

    Its momentum never moves, so that the same schemes step it.
    """

    flow: SoftmaxFlow | LinearFlow

    def __call__(self, x: Tensor) -> "GradientField":
        """Evaluate the kernel at x."""
        return GradientField(self.flow(x))


class GradientField:
    """The field of a gradient flow at x."""

    def __init__(self, at: SoftmaxField | LinearField):
        self.at = at

    def velocity(self, p: Tensor) -> Tensor:
        """-G⁻¹ δE/δρ, whatever p."""
        return self.at.gradient_flow()

    def force(self, p: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(p)


def softmax_field(
    x: Tensor, p: Tensor, A: Tensor, B: Tensor, causality: Causality = "joint"
) -> tuple[Tensor, Tensor]:
    """Velocity and conservative force of (S); see `SoftmaxFlow`."""
    at = SoftmaxFlow(A, B, causality)(x)
    return at.velocity(p), at.force(p)


def softmax_acceleration(
    x: Tensor, u: Tensor, A: Tensor, B: Tensor, causality: Causality = "joint"
) -> Tensor:
    """Att(x) - C(u) of (U); see `VelocityFlow`."""
    return VelocityFlow(A, B, causality)(x).force(u)


def softmax_hamiltonian(x: Tensor, p: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """H = ½ Σ_i p_iᵀB p_i / z_i - (1/2N) Σ_ij K_ij; its field is (S)."""
    return hamiltonian(SoftmaxFlow(A, B)(x), p)


def linear_field(
    x: Tensor, y: Tensor, A: Tensor, V: Tensor, causality: Causality = "joint"
) -> tuple[Tensor, Tensor]:
    """Velocity and conservative force of (L); see `LinearFlow`."""
    at = LinearFlow(A, V, causality)(x)
    return at.velocity(y), at.force(y)


def linear_hamiltonian(x: Tensor, y: Tensor, A: Tensor, V: Tensor) -> Tensor:
    """H = (1/2N) Σ_ij (x_iᵀA x_j) y_iᵀ y_j - ½ Σ_i x_iᵀV x_i; its field is (L)."""
    return hamiltonian(LinearFlow(A, V)(x), y)


def hamiltonian(at: SoftmaxField | LinearField, p: Tensor) -> Tensor:
    """Kinetic energy plus N E(ρ), of shape `(...)`."""
    return at.kinetic(p) + at.energy()


def linear_moments(
    S: Tensor, m: Tensor, cov: Tensor, A: Tensor, V: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Time derivatives of S, mean and covariance under (L) with y = S x.

    Ṡ = -αS - (A M S² + S² M A) + V, ṁ = W m, Σ̇ = W Σ + Σ Wᵀ with M = Σ + m mᵀ, W = S M A
    (Prop. 4.3; Cor. 4.4 is m = 0).
    """
    M = cov + m[..., :, None] * m[..., None, :]
    W = S @ M @ A
    dS = V - alpha * S - (A @ M @ S @ S + S @ S @ M @ A)
    return dS, (W @ m[..., None])[..., 0], W @ cov + cov @ W.mT


def require_causality(name: str) -> None:
    """Raise InputError unless the causality is one of "prefix" and "joint"."""
    lookup(dict.fromkeys(get_args(Causality)), name, "causality")


def require_symmetric(**matrices: Tensor) -> None:
    """Raise InputError unless every matrix is square, finite and symmetric to rounding."""
    for name, matrix in matrices.items():
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"{name} must be a square matrix, not of shape {tuple(matrix.shape)}")
        gap = (matrix - matrix.mT).abs().max().item()
        if not gap <= 1e-10 * max(1.0, matrix.abs().max().item()):
            raise InputError(f"{name} must be symmetric: |{name} - {name}ᵀ| = {gap:.3g}")


def require_definite(**matrices: Tensor) -> None:
    """Raise InputError unless every matrix is symmetric positive definite."""
    require_symmetric(**matrices)
    for name, matrix in matrices.items():
        spectrum = torch.linalg.eigvalsh(matrix)
        least, most = spectrum[0].item(), spectrum[-1].item()
        if not least > 1e-12 * most:
            raise InputError(f"{name} must be positive definite: least eigenvalue {least:.3g}")
