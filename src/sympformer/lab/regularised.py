"""The regularised Stein flow as an oracle: linear attention whose velocity is a ridge regression.

Joint, everything is read from one d×d matrix, the regression of the momenta on the positions, so
that time and memory are O(N); with prefix sums the momenta are solved for by a delta rule, in
chunks. Shapes are `(..., N, d)`. Tested against `lab.regularised_field`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sympformer.attention.naive import Causality, visible_count
from sympformer.attention.prefix_solve import solve_chunked
from sympformer.attention.prefix_sums import chunked
from sympformer.errors import InputError
from sympformer.lab.matrices import require_causality, require_definite, require_symmetric


@dataclass(frozen=True)
class RegularisedFlow:
    """The accelerated regularised Stein flow, docs/delta.md (R); the momentum is called y.

    Args:
        A: symmetric positive definite `(d, d)`, the kernel is xᵀA y.
        V: symmetric `(d, d)`, the energy is -½ ∫ xᵀV x dμ.
        rho: the regulariser ρ > 0 of the metric with G⁻¹ = (K + ρ)⁻¹K: Wasserstein as ρ → 0, Stein
            (over ρ) as ρ → ∞.
        causality: "joint", the exact flow, or "prefix", token i sees j ≤ i.

    Raises:
        InputError: A, V, ρ or the causality is not of the required kind.
    """

    A: Tensor
    V: Tensor
    rho: float
    causality: Causality = "joint"

    def __post_init__(self):
        require_causality(self.causality)
        require_definite(A=self.A)
        require_symmetric(V=self.V)
        if not 0 < self.rho < math.inf:
            raise InputError(f"rho must be a number > 0, not {self.rho}")

    def __call__(self, x: Tensor) -> "RegularisedFlowField":
        """Fix the position."""
        return RegularisedFlowField(x, self)


class RegularisedFlowField:
    """The field of (R) at x."""

    def __init__(self, x: Tensor, flow: RegularisedFlow):
        self.x, self.flow, self.keys = x, flow, x @ flow.A
        self.count = visible_count(x.shape[-2], x.shape[-2], flow.causality, x)

    def velocity(self, y: Tensor) -> Tensor:
        """ẋ_i = (1/n_i) Σ_j (x_iᵀA x_j) w_j = y_i - ρ w_i, joint Cᵀx_i."""
        if self.flow.causality == "joint":
            return self.x @ self._regression(y)
        return y - self.flow.rho * self._residuals(y)

    def force(self, y: Tensor) -> Tensor:
        """ẏ_i + α y_i = V x_i - (ρ/n_i) Σ_j (w_iᵀw_j) A x_j, joint V x_i - C (y_i - Cᵀx_i)."""
        free = self.x @ self.flow.V
        if self.flow.causality == "joint":
            C = self._regression(y)
            return free - (y - self.x @ C) @ C.mT
        w = self._residuals(y)
        return free - self.flow.rho * chunked(w, w, self.keys) / self.count

    def gradient_flow(self) -> Tensor:
        """Velocity of the gradient flow, K (K + ρ)⁻¹ X V: the regression of V x on x."""
        return self.velocity(self.x @ self.flow.V)

    def kinetic(self, y: Tensor) -> Tensor:
        """½ tr yᵀ(K + ρ)⁻¹K y."""
        return (y * self.velocity(y)).sum((-2, -1)) / 2

    def energy(self) -> Tensor:
        """N E(μ) = -½ Σ_i x_iᵀV x_i."""
        return -(self.x @ self.flow.V * self.x).sum((-2, -1)) / 2

    def _regression(self, y: Tensor) -> Tensor:
        """C = (A M + ρ)⁻¹ A Xᵀy / N = (1/N) Σ_j A x_j w_jᵀ: no power of 1/ρ, however small ρ is."""
        n, d = self.x.shape[-2:]
        shifted = self.keys.mT @ self.x / n + self.flow.rho * torch.eye(d).to(self.x)
        # Without a check, so that a path that runs off to infinity is reported as such.
        return torch.linalg.solve_ex(shifted, self.keys.mT @ y / n).result

    def _residuals(self, y: Tensor) -> Tensor:
        """The solution w of (K + ρ) w = y with prefix sums."""
        keys = self.x @ torch.linalg.cholesky(self.flow.A)
        return solve_chunked(keys, self.flow.rho * self.count, self.count * y)
