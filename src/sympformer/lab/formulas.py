"""The formulas of the theory, one head, for a few thousand particles: O(N²) time and memory.

These are the functions of `sympformer.attention.naive`, with arguments that are looked at.
`lab.flows` has the same fields in O(N) memory, for clouds of more particles.
"""

import torch
from torch import Tensor

from sympformer.attention import naive
from sympformer.attention.naive import Causality
from sympformer.lab.flows import SoftmaxFlow, hamiltonian
from sympformer.lab.matrices import require_causality, require_definite, require_symmetric
from sympformer.lab.regularised import RegularisedFlow


def softmax_field(
    x: Tensor, p: Tensor, A: Tensor, B: Tensor, causality: Causality = "joint"
) -> tuple[Tensor, Tensor]:
    """Velocity and conservative force of (S), docs/theory.md; see `naive.softmax_field`.

    Args:
        x: positions `(..., N, d)`.
        p: momenta `(..., N, d)`.
        A: symmetric `(d, d)`, the kernel is exp(xᵀA y).
        B: symmetric positive definite `(d, d)`, the mobility is B / z; V = B A.
        causality: "joint", the exact flow, or "prefix", token i sees j ≤ i.

    Raises:
        InputError: A, B or the causality is not of the required kind.
    """
    _require(A, B, causality)
    return naive.softmax_field(x, p, A, B, causality)


def softmax_acceleration(
    x: Tensor, u: Tensor, A: Tensor, B: Tensor, causality: Causality = "joint"
) -> Tensor:
    """Att(x) - C(u) of (U), for velocities u; see `naive.softmax_acceleration`.

    The other arguments and errors are those of `softmax_field`.
    """
    _require(A, B, causality)
    return naive.softmax_acceleration(x, u, A, B, causality)


def softmax_hamiltonian(x: Tensor, p: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """H = ½ Σ_i p_iᵀB p_i / z_i - (1/2N) Σ_ij K_ij, `(...)`; its field is (S), joint.

    The arguments and errors are those of `softmax_field`.
    """
    return hamiltonian(SoftmaxFlow(A, B)(x), p)


def linear_field(
    x: Tensor, y: Tensor, A: Tensor, V: Tensor, causality: Causality = "joint"
) -> tuple[Tensor, Tensor]:
    """Velocity and conservative force of (L), docs/theory.md; see `naive.linear_field`.

    Args:
        x: positions `(..., N, d)`.
        y: momenta `(..., N, d)`.
        A: symmetric `(d, d)`, the kernel is xᵀA y.
        V: symmetric `(d, d)`, the energy is -½ ∫ xᵀV x dρ.
        causality: "joint", the exact flow, or "prefix", token i sees j ≤ i.

    Raises:
        InputError: A or V is not symmetric, or the causality is unknown.
    """
    require_causality(causality)
    require_symmetric(A=A, V=V)
    return naive.linear_field(x, y, A, V, causality)


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


def regularised_field(
    x: Tensor, y: Tensor, A: Tensor, V: Tensor, rho: float, causality: Causality = "joint"
) -> tuple[Tensor, Tensor]:
    """Velocity and conservative force of (R), docs/delta.md; see `naive.regularised_field`.

    Args:
        x: positions `(..., N, d)`.
        y: momenta `(..., N, d)`.
        A: symmetric positive definite `(d, d)`, the kernel is xᵀA y.
        V: symmetric `(d, d)`, the energy is -½ ∫ xᵀV x dμ.
        rho: the regulariser ρ > 0.
        causality: "joint", the exact flow, or "prefix", token i sees j ≤ i.

    Raises:
        InputError: A, V, ρ or the causality is not of the required kind.
    """
    RegularisedFlow(A, V, rho, causality)  # refuses what is of the wrong kind
    return naive.regularised_field(x, y, A, V, rho, causality)


def regularised_moments(
    S: Tensor, m: Tensor, cov: Tensor, A: Tensor, V: Tensor, rho: float, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Time derivatives of S, mean and covariance under (R) with y = S x, docs/delta.md (MR).

    With M = Σ + m mᵀ and the regression C = (A M + ρ)⁻¹A M S of the momenta on the positions:
    Ṡ = -αS - (C S + S Cᵀ - C Cᵀ) + V, ṁ = Cᵀm, Σ̇ = CᵀΣ + Σ C. Symmetric S stays symmetric.
    """
    AM = A @ (cov + m[..., :, None] * m[..., None, :])
    C = torch.linalg.solve(AM + rho * torch.eye(S.shape[-1]).to(S), AM @ S)
    dS = V - alpha * S - (C @ S + S @ C.mT - C @ C.mT)
    return dS, (C.mT @ m[..., None])[..., 0], C.mT @ cov + cov @ C


def _require(A: Tensor, B: Tensor, causality: Causality) -> None:
    require_causality(causality)
    require_symmetric(A=A)
    require_definite(B=B)
