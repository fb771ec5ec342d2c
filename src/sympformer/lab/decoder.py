"""Prefix causality against the exact flow: what a decoder's dynamics leaves out, by position.

Under prefix causality token i moves by what tokens j ≤ i show it. For exchangeable tokens its past
is a sample of i out of N, whose mean is off by (1/i - 1/N)^{1/2}, and its path differs from that of
the exact, joint flow as much: early tokens are far off, late ones follow the flow of the density.
In the regularised metric the one pass over the past is itself an estimate, with an error like
i^{-1/2}: there the last token, too, is off.

The yardstick is the density's flow as a decoder, every prefix an ensemble of its own
(`causality = "ensembles"` of a model): token i is the last of the joint flow of tokens 1 to i. It
sees no later token either, and what it is off is the sample alone; the rest of the distance is the
price of one pass.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sympformer.attention.naive import Causality
from sympformer.dynamics import SCHEMES, Oracle, State, damping, follow
from sympformer.errors import InputError
from sympformer.lab.flows import LinearFlow, VelocityFlow
from sympformer.lab.problems import order, positive
from sympformer.lab.record import Claim, Result
from sympformer.lab.regularised import RegularisedFlow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BOTH: tuple[Causality, ...] = ("prefix", "joint")


@dataclass(frozen=True)
class DecoderConfig:
    """Distance of the causal dynamics from the exact flow, by position."""

    particles: int = 256
    """Number of tokens N."""
    dimension: int = 4
    """Dimension d."""
    starts: int = 8
    """Independent Gaussian starts to average over."""
    h: float = 0.05
    """Step size."""
    steps: int = 20
    """Number of steps."""
    rho: float = 0.3
    """Regulariser ρ of the regularised flow."""
    positions: int = 20
    """Positions at which the ensembles are followed, from the first token to the last."""
    seed: int = 0
    """Seed of the matrices and of the starts."""


def run(config: DecoderConfig) -> Result:
    """Follow the same tokens under either causality.

    Raises:
        InputError: fewer than 32 tokens, or a single dimension.
    """
    if config.particles < 32 or config.dimension < 2 or config.positions < 8:
        raise InputError(
            "decoder needs 32 or more tokens, for late positions, dimension ≥ 2, and 8 or more "
            "positions of ensembles"
        )
    rng, d = np.random.default_rng(config.seed), config.dimension
    A, B = positive(rng, d), positive(rng, d)
    x = torch.from_numpy(rng.standard_normal((config.starts, config.particles, d))) / d**0.5
    scheme = SCHEMES["etd-ab2"](damping("nesterov", r=3.0))

    def path(flow: Oracle, tokens: int) -> np.ndarray:
        start = State(x[:, :tokens], torch.zeros_like(x[:, :tokens]))
        return follow(scheme, flow, start, config.h, config.steps).x.numpy()

    arrays: dict[str, np.ndarray] = {"position": np.arange(1, config.particles + 1)}
    prefixes = np.unique(np.geomspace(1, config.particles, config.positions).round().astype(int))
    arrays["position of ensembles"] = prefixes
    claims, frames, half = [], {}, config.particles // 2
    flows = {
        "softmax": {c: VelocityFlow(A, B, c) for c in BOTH},
        "linear": {c: LinearFlow(A, -B, c) for c in BOTH},
        "regularised": {c: RegularisedFlow(A, -B, config.rho, c) for c in BOTH},
    }
    for name, flow in flows.items():
        paths = {c: path(flow[c], config.particles) for c in BOTH}
        gap = np.linalg.norm(paths["prefix"] - paths["joint"], axis=-1)
        moved = np.linalg.norm(paths["joint"] - paths["joint"][0], axis=-1)
        whole = np.sqrt((moved[-1] ** 2).mean())
        relative = np.sqrt((gap[-1] ** 2).mean(0)) / whole
        arrays[f"{name}: distance"] = relative
        arrays[f"{name}: distance over time"] = np.sqrt((gap**2).mean(1))
        ends = {i: path(flow["joint"], int(i))[-1, :, -1] for i in prefixes}
        exact = paths["joint"][-1]
        off = [np.linalg.norm(end - exact[:, i - 1], axis=-1) for i, end in ends.items()]
        alone = np.sqrt((np.array(off) ** 2).mean(1)) / whole
        arrays[f"{name}: distance of ensembles"] = alone
        leak = {c: np.abs(path(flow[c], half) - paths[c][:, :, :half]).max() for c in BOTH}
        position = arrays["position"][7:-1]
        slope = -order(1 / position - 1 / config.particles, relative[7:-1])
        late = (prefixes >= 8) & (prefixes < config.particles)
        sample = -order(1 / prefixes[late] - 1 / config.particles, alone[late])
        claims += [
            Claim("prefix", f"{name}, moved by later tokens", leak["prefix"], high=1e-12),
            Claim("joint", f"{name}, moved by later tokens", leak["joint"], low=1e-4),
            Claim("prefix", f"{name}, exponent of 1/i - 1/N", slope, 0.25, 0.75),
            Claim("prefix", f"{name}, last token", relative[-1], high=0.1),
            Claim("ensembles", f"{name}, exponent of 1/i - 1/N", sample, 0.25, 0.75),
            Claim(
                "ensembles",
                f"{name}, distance of one pass over that of the sample alone",
                (relative[prefixes[late] - 1] / alone[late])[-4:].mean(),
                *((1.1, None) if name == "regularised" else (0.9, 1.1)),
            ),
        ]
        frames |= {f"{name}, {c}": p[:, 0, :, :2] for c, p in paths.items()}
    last = {name: arrays[f"{name}: distance"][-1] for name in ("linear", "regularised")}
    claims.append(
        Claim(
            "delta.md",
            "last token, regularised over linear",
            last["regularised"] / last["linear"],
            3,
        )
    )
    times = config.h * np.arange(config.steps + 1)
    return Result(arrays, claims, frames=frames, frame_times=times)


def draw(result: Result) -> "Figure":
    """Distance from the exact flow against the position."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axis = figure.subplots()
    position = result.arrays["position"]
    for name in ("softmax", "linear", "regularised"):
        (dots,) = axis.loglog(
            position, result.arrays[f"{name}: distance"], ".", ms=3, label=f"{name}, one pass"
        )
        prefixes, alone = (
            result.arrays[key]
            for key in ("position of ensembles", f"{name}: distance of ensembles")
        )
        axis.loglog(
            prefixes[:-1], alone[:-1], "-", lw=1, color=dots.get_color(), label=f"{name}, ensembles"
        )
    sampling = np.sqrt(1 / position - 1 / len(position))[:-1]
    axis.loglog(position[:-1], sampling, "k:", label="$(1/i - 1/N)^{1/2}$")
    axis.set(xlabel="position i", ylabel="distance from the exact flow / distance moved")
    axis.legend(fontsize=8)
    return figure
