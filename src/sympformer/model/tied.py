"""Tied geometry: oracles in which the theory holds literally inside a layer (maths.md, 2 and 3).

One head; all that the theory wants symmetric or definite is so by its parameters.
"""

import torch
from torch import Tensor, nn

from sympformer.attention.softmax import Normalizer, Past, SoftmaxField
from sympformer.model.config import ModelConfig
from sympformer.model.heads import Field, Heads
from sympformer.model.linear_attention import LinearHeads, Maps


class Triangular(nn.Module):
    """A learned lower triangular matrix, kept as the vector of its entries."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n
        self.entries = nn.Parameter(torch.zeros(n * (n + 1) // 2))

    def forward(self) -> Tensor:
        """The matrix `(n, n)`."""
        full = self.entries.new_zeros(self.n, self.n)
        rows, columns = torch.tril_indices(self.n, self.n, device=self.entries.device)
        return full.index_put((rows, columns), self.entries)


class Symmetric(Triangular):
    """A learned symmetric matrix, `T + Tᵀ`."""

    def initialise(self) -> None:
        """Draw it from N(0, 0.02) off the diagonal, as all matrices."""
        nn.init.normal_(self.entries, std=0.02)

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


class TiedAttention(Heads):
    """Softmax attention with the kernel `exp(xᵀA y)` and `V = B A`.

    `A` is symmetric, `B = L Lᵀ` positive definite.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.normalizer: Normalizer = config.normalizer
        self.kernel, self.factor = Symmetric(config.n_embd), Cholesky(config.n_embd)

    def initialise(self) -> None:
        """Start with `B = I`."""
        self.kernel.initialise()

    def matrices(self) -> tuple[Tensor, Tensor]:
        """`A` and the factor `L` of `B`."""
        return self.scale * self.kernel(), self.factor()

    def forward(self, x: Tensor, past: Past) -> "TiedField":
        """The field at positions `x` `(B, T, d)`."""
        return TiedField(self, x, past)


class TiedField(Field):
    """One evaluation of tied softmax attention; all arguments and results are `(B, T, d)`."""

    def __init__(self, module: TiedAttention, x: Tensor, past: Past):
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

    def _momentum(self, p: Tensor) -> Tensor:
        """`Lᵀp`, made once, so that velocity and force of one `p` share a sweep."""
        if self._p is not p:
            self._p, self._pi = p, (p @ self.L).unsqueeze(-3)
        return self._pi

    def _raise(self, covector: Tensor) -> Tensor:
        """`B` times a covector."""
        return covector @ self.L @ self.L.mT


class TiedLinearAttention(LinearHeads):
    """Linear attention with the kernel `xᵀA y` and the energy `-½ ∫ xᵀV x dρ`.

    `A = scale · L Lᵀ` is positive definite, so that the kernel is a metric, `V` is symmetric, and
    the momentum moves its token unprojected.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.factor, self.energy = Cholesky(config.n_embd), Symmetric(config.n_embd)

    def initialise(self) -> None:
        """Start with `L = I`."""
        self.energy.initialise()

    def maps(self) -> Maps:
        """Queries and keys are `Lᵀx`, values and forces `V x`."""
        transposed, V = self.factor().mT, self.energy()
        return Maps(query=transposed, key=transposed, value=V, potential=V)
