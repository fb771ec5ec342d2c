"""A leak that reading does not show: mask the kernel, then differentiate the total energy.

Let the kernel be lower triangular, K_ij = exp(y_iᵀA y_j) for j <= i and 0 above, and z_i the mean
of the n_i visible entries of row i. Every term of the energy is causal:

    H = ½ Σ_i p_iᵀB p_i / z_i - ½ Σ_i z_i

Its derivative is not, because token i is also a key in the rows of later tokens. With
s_i = p_iᵀB p_i / z_i²,

    -∂H/∂y_i = ½ Σ_{j≤i} (s_i + 1) K_ij A y_j / n_i + ½ Σ_{j≥i} (s_j + 1) K_ji Aᵀy_j / n_j

The second sum runs over the future. The causal flow has the same sum over the past instead,

    G_i      = ½ Σ_{j≤i} (s_i + s_j + 2) K_ij A y_j / n_i                                  (S')

`LanguageModel(config, leaking=True)` uses the first force and `leaking=False` the second; nothing
else differs. Run this file to audit both.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sympformer.causality import audit


@dataclass(frozen=True)
class Config:
    """Sizes of the language model."""

    vocab_size: int
    block_size: int = 128
    n_layer: int = 3
    n_embd: int = 64


class Output(NamedTuple):
    """Logits (B, T, V), and the mean loss in nats per token if there were targets."""

    logits: Tensor
    loss: Tensor | None


class Attention(nn.Module):
    """One step of the accelerated flow, a kick and then a drift, with one head."""

    def __init__(self, width: int, leaking: bool):
        super().__init__()
        self.leaking = leaking
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.root = nn.Linear(width, width, bias=False)  # U, with the mobility B = UᵀU
        self.norm_y = nn.LayerNorm(width)
        self.norm_p = nn.LayerNorm(width)
        self.step_p = nn.Parameter(torch.tensor(1.0))
        self.step_x = nn.Parameter(torch.tensor(1.0))
        self.damping = nn.Parameter(torch.tensor(2.0))  # a logit

    def forward(self, x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm_y(x)
        force = self.derivative_of_total(y, p) if self.leaking else self.prefix_force(y, p)
        p = self.norm_p(self.damping.sigmoid() * (p + self.step_p * force))
        _, z, _ = self.kernel(y, p)
        velocity = self.root(p) @ self.root.weight / z
        return x + self.step_x * velocity, p

    def kernel(self, y: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """K / n (B, T, T), z (B, T, 1) and the kinetic energies p_iᵀB p_i / z_i (B, T, 1)."""
        scores = self.query(y) @ self.key(y).mT / y.shape[-1] ** 0.5
        n = torch.arange(1, y.shape[1] + 1, device=y.device, dtype=y.dtype)[:, None]
        K = scores.clamp(-60, 60).exp().tril() / n
        z = K.sum(-1, keepdim=True)
        return K, z, self.root(p).square().sum(-1, keepdim=True) / z

    @torch.enable_grad()
    def derivative_of_total(self, y: Tensor, p: Tensor) -> Tensor:
        """-∂H/∂y by automatic differentiation: THE LEAK."""
        y = y if y.requires_grad else y.detach().requires_grad_()
        _, z, kinetic = self.kernel(y, p)
        energy = (kinetic - z).sum() / 2
        return -torch.autograd.grad(energy, y, create_graph=True)[0]

    def prefix_force(self, y: Tensor, p: Tensor) -> Tensor:
        """(S'): every sum runs over j <= i."""
        K, z, kinetic = self.kernel(y, p)
        s = kinetic / z
        weights = K * (s + s.mT + 2) / 2
        return weights @ self.key(y) @ self.query.weight / y.shape[-1] ** 0.5


class LanguageModel(nn.Module):
    """A small decoder: embeddings, layers of accelerated attention and MLP, tied head."""

    def __init__(self, config: Config, leaking: bool):
        super().__init__()
        self.config = config
        width = config.n_embd
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.block_size, width)
        self.attention = nn.ModuleList(Attention(width, leaking) for _ in range(config.n_layer))
        self.mlp = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width, bias=False),
                nn.GELU(),
                nn.Linear(4 * width, width, bias=False),
            )
            for _ in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(width)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Output:
        """Logits for tokens (B, T), and the mean loss over targets (B, T)."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        p = torch.zeros_like(x)
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            x, p = attention(x, p)
            x = x + mlp(x)
        logits = self.norm(x) @ self.tokens.weight.T
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return Output(logits, loss)


def main() -> None:
    """Audit both models."""
    for leaking in (True, False):
        torch.manual_seed(0)
        print(audit(LanguageModel(Config(vocab_size=512), leaking)))


if __name__ == "__main__":
    main()
