"""Tied geometry: oracles in which the theory holds literally inside a layer (maths.md, 2 and 3).

One head; all that the theory wants symmetric or definite is so by its parameters.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from sympformer.attention.naive import Causality
from sympformer.attention.past import Past
from sympformer.attention.softmax import Normalizer, SoftmaxField
from sympformer.dynamics.trial import Calls
from sympformer.errors import InputError
from sympformer.model.layers import SPREAD
from sympformer.model.linear_attention import RIDGE, LinearOracle, Map, Maps
from sympformer.model.oracle import EVERY, MOVING, AttentionOracle, Cost, OracleField, Reads
from sympformer.model.softmax_attention import pairs_of_softmax, require_mobility


class Triangular(nn.Module):
    """A learned lower triangular matrix, kept as the vector of its entries."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n
        self.entries = nn.Parameter(torch.empty(n * (n + 1) // 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with the zero matrix."""
        nn.init.zeros_(self.entries)

    def forward(self) -> Tensor:
        """The matrix `(n, n)`."""
        full = self.entries.new_zeros(self.n, self.n)
        rows, columns = torch.tril_indices(self.n, self.n, device=self.entries.device)
        return full.index_put((rows, columns), self.entries)


class Symmetric(Triangular):
    """A learned symmetric matrix, `T + Tᵀ`."""

    def reset_parameters(self) -> None:
        """Draw it as all matrices, off the diagonal."""
        nn.init.normal_(self.entries, std=SPREAD)

    def forward(self) -> Tensor:
        """The matrix `(n, n)`."""
        lower = super().forward()
        return lower + lower.mT


class Cholesky(Triangular):
    """The factor `L` of a learned positive definite matrix `L Lᵀ`, from the identity."""

    def forward(self) -> Tensor:
        """`L` `(n, n)`, its diagonal positive."""
        lower = super().forward()
        return lower.tril(-1) + lower.diagonal().exp().diag()


def _one_head(n_head: int) -> None:
    if n_head != 1:
        raise InputError(f"tied attention needs n_head = 1, not {n_head}: its matrices are whole")


class TiedSoftmaxAttention(AttentionOracle):
    """Softmax attention with the kernel `exp(xᵀA y)` and `V = B A`, in one head.

    `A` is symmetric, `B = L Lᵀ` positive definite, from the identity.
    """

    answers: ClassVar[frozenset[Reads]] = EVERY

    def __init__(
        self,
        d: int,
        n_head: int = 1,
        *,
        reads: Reads = "attention",
        causality: Causality = "prefix",
        normalizer: Normalizer = "prefix",
    ):
        _one_head(n_head)
        super().__init__(d, n_head, reads=reads, causality=causality)
        require_mobility(normalizer, reads)
        self.normalizer: Normalizer = normalizer
        self.kernel, self.factor = Symmetric(d), Cholesky(d)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """`A` and the factor `L` of `B`."""
        return self.scale * self.kernel(), self.factor()

    def forward(self, x: Tensor, past: Past) -> "TiedField":
        """The field at positions `x` `(B, T, d)`."""
        return TiedField(self, x, past)

    def cost(self, calls: Calls) -> Cost:
        """Maps: A x; Lᵀp, L; B is two, and the solve with L half of one."""
        pairs = pairs_of_softmax(self.reads, calls)
        if self.reads in MOVING:
            attended = 2 * (self.reads == "both")
            return Cost(calls.fields + calls.momenta + calls.velocities + attended, pairs)
        return Cost(6.5 if self.reads == "connection" else 3, pairs)


class TiedField(OracleField):
    """One evaluation of tied softmax attention; all arguments and results are `(B, T, d)`."""

    def __init__(self, module: TiedSoftmaxAttention, x: Tensor, past: Past):
        self.A, self.L = module.matrices()
        # The values are the covectors A x_j: a force is their mean, a velocity B times it.
        covector = x @ self.A
        self.field = SoftmaxField(
            covector.unsqueeze(-3),
            x.to(covector.dtype).unsqueeze(-3),
            covector.unsqueeze(-3),
            scale=1.0,
            causality=module.causality,
            normalizer=module.normalizer,
            past=past,
        )
        self._p: Tensor | None = None
        self._pi: Tensor

    def attention(self) -> Tensor:
        """`Σ_j a_ij V x_j`."""
        return self._raise(self.field.attention.squeeze(-3))

    def velocity(self, p: Tensor) -> Tensor:
        """`B p_i / z_i`."""
        return self.field.velocity(self._momentum(p)).squeeze(-3) @ self.L.mT

    def force(self, p: Tensor) -> Tensor:
        """`z_i Σ_j a_ij (1 + (s_i + s_j)/2) A x_j`, maths.md (S')."""
        return self.field.force(self._momentum(p)).squeeze(-3)

    def connection(self, u: Tensor) -> Tensor:
        """`C(u)` of maths.md (U), `s_i = u_iᵀB⁻¹u_i`."""
        dtype = torch.promote_types(u.dtype, torch.float32)
        with torch.autocast(u.device.type, enabled=False):  # a solve needs full precision
            flat = torch.linalg.solve_triangular(self.L.to(dtype), u.to(dtype).mT, upper=False)
        s = flat.square().sum(-2)[..., None, :, None].to(u.dtype)
        c, pull = self.field.connection((u @ self.A).unsqueeze(-3), u.unsqueeze(-3), s)
        return c.squeeze(-3) * u + self._raise(pull.squeeze(-3))

    def weights(self) -> Tensor:
        """`a_ij` of the only head."""
        return self.field.weights()

    def energy(self) -> Tensor:
        """`-½ z_i`."""
        return self.field.energy()

    def _momentum(self, p: Tensor) -> Tensor:
        """`Lᵀp`, made once, so that velocity and force of one `p` share a sweep."""
        if self._p is not p:
            self._p, self._pi = p, (p @ self.L).unsqueeze(-3)
        return self._pi

    def _raise(self, covector: Tensor) -> Tensor:
        """`B` times a covector."""
        return covector @ self.L @ self.L.mT


class TiedLinearAttention(LinearOracle):
    """Linear attention with the kernel `xᵀA y` and the energy `-½ ∫ xᵀV x dρ`, in one head.

    `A = scale · L Lᵀ` is positive definite, so that the kernel is a metric, from `L = I`; `V` is
    symmetric, and the momentum moves its token unprojected.
    """

    def __init__(
        self,
        d: int,
        n_head: int = 1,
        *,
        reads: Reads = "attention",
        causality: Causality = "prefix",
        ridge: float = RIDGE,
    ):
        _one_head(n_head)
        super().__init__(d, n_head, reads=reads, causality=causality, ridge=ridge)
        self.factor = Cholesky(d)
        self.energy = None if reads == "drift" else Symmetric(d)

    def maps(self) -> Maps:
        """Queries and keys are `Lᵀx`, values and forces `V x`."""
        transposed = Map(self.factor().mT)
        V = None if self.energy is None else Map(self.energy())
        return Maps(query=transposed, key=transposed, value=V, potential=V)
