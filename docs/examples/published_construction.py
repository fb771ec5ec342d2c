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
else differs. (The published z_i divides by the full length in place of n_i, which makes the model
depend on the length as well.) This file trains both on the embedded corpus, whose entropy is known,
audits them, and draws their losses; it takes a minute or two on one core:

    python docs/examples/published_construction.py
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import sympformer as sf
from sympformer.data import Corpus, Loader, fables, valid_blocks
from sympformer.files import atomic

BATCH_SIZE = 16
LEARNING_RATE = 6e-3
WARMUP = 50
EVALUATE_EVERY = 20
VALID_BLOCKS = 64
NAMES = {True: "derivative of the total energy (leaks)", False: "sums over the past"}


@dataclass(frozen=True)
class Config:
    """Sizes of the language model."""

    vocab_size: int
    block_size: int = 64
    n_layer: int = 2
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
        # The force has e^{3 score}, and its LayerNorm squares that: float32 must survive it.
        K = scores.clamp(-10, 10).exp().tril() / n
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


def train(model: LanguageModel, corpus: Corpus, steps: int) -> Iterator[tuple[int, float]]:
    """Train with AdamW, warm-up and cosine; yield the update and the validation loss."""
    loader = Loader(corpus.train, model.config.block_size, BATCH_SIZE, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    for step, (tokens, targets) in zip(range(steps), loader, strict=False):
        if step % EVALUATE_EVERY == 0:
            yield step, evaluate(model, corpus)
        cosine = 0.55 + 0.45 * math.cos(math.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * cosine
        model(tokens, targets).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    yield steps, evaluate(model, corpus)


@torch.no_grad()
def evaluate(model: LanguageModel, corpus: Corpus) -> float:
    """Validation loss, in nats per token."""
    blocks = validation(model.config, corpus)
    return float(np.mean([model(x, y).loss.item() for x, y, _ in blocks]))


def entropy_floor(config: Config, corpus: Corpus) -> float:
    """Entropy of exactly the tokens that `evaluate` predicts: no causal model has a lower loss."""
    assert corpus.floor is not None
    return float(np.mean([corpus.floor[at].mean() for _, _, at in validation(config, corpus)]))


def validation(config: Config, corpus: Corpus) -> Iterator[Any]:
    """The fixed validation blocks."""
    return valid_blocks(corpus.valid, config.block_size, BATCH_SIZE, VALID_BLOCKS)


def draw(curves: dict[str, list[tuple[int, float]]], floor: float) -> Figure:
    """Both losses, and the floor that only a leak can pass."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    last = next(iter(curves.values()))[-1][0]

    def label(text: str, height: float, colour: str) -> None:
        axes.annotate(
            text,
            (last, height),
            xytext=(0, 11),
            textcoords="offset points",
            ha="right",
            color=colour,
        )

    for (name, curve), colour in zip(curves.items(), ("#D55E00", "#0072B2"), strict=True):
        axes.plot(*zip(*curve, strict=True), color=colour, linewidth=2)
        label(f"{name}: {curve[-1][1]:.2f}", curve[-1][1], colour)
    axes.axhline(floor, color="#555555", linestyle="--", linewidth=1.2)
    axes.axhspan(0, floor, color="#D55E00", alpha=0.08, linewidth=0)
    label(f"entropy of the text: {floor:.2f}", floor, "#555555")
    axes.set(xlim=(0, last), ylim=(0, None))
    axes.set(xlabel="updates", ylabel="validation loss (nats per token)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Train both models, audit them, draw the figure."""
    parser = argparse.ArgumentParser(description="A leak that reading does not show.")
    parser.add_argument("--steps", type=int, default=1000, help="updates of each model")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder")
    options = parser.parse_args()
    corpus = fables(train_tokens=1_000_000, valid_tokens=20_000)
    config = Config(vocab_size=corpus.tokenizer.vocab_size)
    floor = entropy_floor(config, corpus)
    curves = {}
    for leaking, name in NAMES.items():
        torch.manual_seed(0)
        model = LanguageModel(config, leaking)
        curves[name] = []
        for step, loss in train(model, corpus, options.steps):
            curves[name].append((step, loss))
            print(
                f"leaking={leaking}: update {step}, validation loss {loss:.3f}, floor {floor:.3f}"
            )
        print(sf.audit(model))
    figure = draw(curves, floor)
    with matplotlib.rc_context({"svg.hashsalt": "leak"}):
        for name, metadata in (("leak.png", None), ("leak.svg", {"Date": None})):
            with atomic(options.out / name) as partial:
                figure.savefig(partial, dpi=200, metadata=metadata)


if __name__ == "__main__":
    main()
