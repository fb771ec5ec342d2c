"""Tokens on the sphere gather in clusters; how long the two flows take to merge them.

Layer normalisation is the projection to the unit sphere, A = β I and V = I. A few clusters emerge
within a time of order 1 from either flow. What is slow is their merging: two tokens at the angle ω
see each other with a weight of about e^{-β (1 - cos ω)}, and the gradient flow needs the inverse
of it. A momentum needs about its square root: the slope of log T against β is halved.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.integrate import quad
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from sympformer.dynamics import SCHEMES, UNDAMPED, Oracle, Scheme, State, damping, follow
from sympformer.errors import InputError
from sympformer.figures import INK, label_lines
from sympformer.lab.film import Sphere
from sympformer.lab.flows import GradientFlow, SoftmaxFlow, VelocityFlow
from sympformer.lab.problems import order
from sympformer.lab.record import Claim, Result
from sympformer.lab.sphere import on_sphere, retract

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAR = 0.98  # cosine above which two tokens are neighbours; a cluster is a connected component
MERGED = 0.99  # mean cosine of all pairs above which the tokens are one cluster
APART = 2 * np.pi / 3  # angle of the two tokens whose merging is timed
KINDS = ("gradient", "accelerated")
SHOWN, COUNTED = 2, 10  # steps between two frames of the film, and between two counts


@dataclass(frozen=True)
class ClustersConfig:
    """Number of clusters over time, and the time to one cluster."""

    particles: int = 32
    """Number of tokens N."""
    starts: int = 4
    """Independent uniform starts to average over."""
    betas: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Inverse temperatures β."""
    dimensions: tuple[int, ...] = (2, 3, 8)
    """Dimensions d."""
    h: float = 0.1
    """Step size."""
    steps: int = 500
    """Number of steps."""
    pair_betas: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0)
    """Inverse temperatures at which the merging of two tokens is timed."""
    seed: int = 0
    """Seed of the starts."""


def run(config: ClustersConfig) -> Result:
    """Follow both flows from rest, for every temperature and dimension.

    Raises:
        InputError: no dimension or temperature, or one out of range.
    """
    if min(config.dimensions, default=1) < 2 or min(config.betas, default=0) <= 0:
        raise InputError("clusters needs dimensions ≥ 2 and inverse temperatures β > 0")
    rng = np.random.default_rng(config.seed)
    times = config.h * COUNTED * np.arange(config.steps // COUNTED + 1)
    arrays: dict[str, np.ndarray] = {"time": times}
    seen = 3 if 3 in config.dimensions else config.dimensions[0], max(config.betas)
    films, numbers, slips, left = {}, {}, [], []
    for d in config.dimensions:
        start = _uniform(rng, (config.starts, config.particles, d))
        for beta in config.betas:
            for kind in KINDS:
                scheme, oracle = _flow(kind, beta, d)
                film = follow(
                    scheme, oracle, start, config.h, config.steps, every=SHOWN, project=retract
                )
                path = film.x[:: COUNTED // SHOWN]
                slips.append((path.norm(dim=-1) - 1).abs().max().item())
                key = f"d = {d}, β = {beta:g}, {kind}"
                if (d, beta) == seen:
                    films[key] = film
                counts = np.array([[_count(cloud) for cloud in batch] for batch in path])
                cosine = (path.mean(-2) ** 2).sum(-1).numpy()
                arrays |= {f"{key}: clusters": counts, f"{key}: mean cosine": cosine}
                left.append(counts[-1].mean() / config.particles)
                numbers[f"{key}: time to one cluster"] = _first(times, cosine.min(1) >= MERGED)

    pairs = {kind: [_merging(kind, beta, config.h) for beta in config.pair_betas] for kind in KINDS}
    exact = np.array([_merging_exact(beta) for beta in config.pair_betas])
    arrays |= {f"pair, {kind}: time": np.array(t) for kind, t in pairs.items()}
    arrays |= {"pair: betas": np.array(config.pair_betas), "pair, exact: time": exact}
    slope = {kind: -order(np.exp(config.pair_betas), t) for kind, t in pairs.items()}
    halved = slope["accelerated"] / slope["gradient"]
    numbers |= {f"two tokens, {kind}: slope of log T in β": v for kind, v in slope.items()}
    claims = [
        Claim("sphere", "|x| = 1, largest slip", max(slips), high=1e-12),
        Claim("clusters", "clusters left a token", max(left), high=0.5),
        Claim(
            "two tokens",
            "gradient flow against quadrature",
            np.abs(arrays["pair, gradient: time"] / exact - 1).max(),
            high=0.05,
        ),
        Claim("two tokens", "slope of log T, accelerated over gradient", halved, 0.4, 0.65),
    ]
    frames, momenta = _film(films)
    frame_times = config.h * SHOWN * np.arange(config.steps // SHOWN + 1)
    return Result(arrays, claims, numbers, frames, momenta, frame_times)


def _film(films: dict[str, State]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The first start as it is seen, `(frames, N, 3)`: positions, and momenta where there are some.

    In more than two dimensions the viewer is where the tokens are on average.
    """
    x = {key: film.x[:, 0].numpy() for key, film in films.items()}
    p = {key: film.p[:, 0].numpy() for key, film in films.items()}
    every = np.concatenate([path.reshape(-1, path.shape[-1]) for path in x.values()])
    axes = np.eye(3)[:, :2]
    if every.shape[1] > 2:
        towards = every.mean(0) / np.linalg.norm(every.mean(0))
        across = every - every @ np.outer(towards, towards)
        axes = np.stack([*np.linalg.svd(across, full_matrices=False)[2][:2], towards])
    return {k: v @ axes.T for k, v in x.items()}, {k: v @ axes.T for k, v in p.items() if v.any()}


def _flow(kind: str, beta: float, d: int) -> tuple[Scheme, Oracle]:
    """One evaluation of the kernel a step, either way."""
    A, B = beta * torch.eye(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64) / beta
    if kind == "gradient":
        return SCHEMES["euler"](UNDAMPED), on_sphere(GradientFlow(SoftmaxFlow(A, B)))
    return SCHEMES["etd-ab2"](damping("nesterov", r=3.0)), on_sphere(VelocityFlow(A, B))


def _uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> State:
    x = torch.from_numpy(rng.standard_normal(shape))
    return retract(State(x, torch.zeros_like(x)))


def _count(cloud: Tensor) -> int:
    """Number of clusters of tokens `(N, d)`."""
    return connected_components((cloud @ cloud.T >= NEAR).numpy(), directed=False)[0]


def _first(times: np.ndarray, reached: np.ndarray) -> float:
    """The first time at which `reached`, or nan."""
    return float(times[reached.argmax()]) if reached.any() else np.nan


def _merging(kind: str, beta: float, h: float) -> float:
    """Time until two tokens at the angle `APART` have a cosine of `MERGED`, from rest."""
    scheme, oracle = _flow(kind, beta, 2)
    x = torch.tensor([[1.0, 0.0], [np.cos(APART), np.sin(APART)]], dtype=torch.float64)
    steps = int(2 * _merging_exact(beta) / h) + 100
    path = follow(scheme, oracle, State(x, torch.zeros_like(x)), h, steps, project=retract).x
    return _first(h * np.arange(steps + 1), ((path[:, 0] * path[:, 1]).sum(-1) >= MERGED).numpy())


def _merging_exact(beta: float) -> float:
    """The same for the gradient flow, ω' = -2 sin ω / (1 + e^{β (1 - cos ω)}), by quadrature."""
    return quad(
        lambda w: (1 + np.exp(beta * (1 - np.cos(w)))) / (2 * np.sin(w)), np.arccos(MERGED), APART
    )[0]


def draw(result: Result) -> "Figure":
    """Tokens on the sphere at three times; clusters over time; two tokens merging, against β."""
    from matplotlib.figure import Figure

    arrays = result.arrays
    cases = [k.removesuffix(", gradient: clusters") for k in arrays if "gradient: clusters" in k]
    dimensions = list(dict.fromkeys(case.split(",")[0] for case in cases))
    figure = Figure(figsize=(3.9 * (len(dimensions) + 1), 6.8), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.1))[:, 0]
    _draw_tokens(above, result)
    *panels, last = below.subplots(1, len(dimensions) + 1)
    for axis, dimension in zip(panels, dimensions, strict=True):
        betas = [case for case in cases if case.split(",")[0] == dimension]
        ends, time = [], 1 + arrays["time"]
        for k, case in enumerate(betas):
            for kind, style in zip(KINDS, ("--", "-"), strict=True):
                counts = arrays[f"{case}, {kind}: clusters"].mean(1)
                axis.plot(time, counts, style, color=f"C{k}", lw=1.4)
            left = arrays[f"{case}, accelerated: clusters"][-1].mean()
            ends.append((case.split(", ")[1], time[-1], left, f"C{k}"))
        axis.set(xscale="log", yscale="log", xlabel="1 + t")
        axis.set_title(f"{dimension}: clusters (dashed: gradient flow)", fontsize=9)
        label_lines(axis, ends)
    betas, ends = arrays["pair: betas"], []
    for k, kind in enumerate(KINDS):
        time = arrays[f"pair, {kind}: time"]
        last.semilogy(betas, time, "o-", color=f"C{k}")
        ends.append((kind, betas[-1], time[-1], f"C{k}"))
    exact = arrays["pair, exact: time"]
    last.semilogy(betas, exact, ":", color=INK)
    ends.append(("quadrature", betas[-1], exact[-1], INK))
    last.set_xlabel("β")
    last.set_title("time to merge two tokens", fontsize=9)
    label_lines(last, ends)
    return figure


def _draw_tokens(figure: Any, result: Result) -> None:
    """The first start at the largest β, at three times."""
    count = len(result.frame_times)
    moments = (0, count // 10, count - 1)
    axes = figure.subplots(1, len(KINDS) * len(moments))
    case = next(iter(result.frames)).rpartition(", ")[0]
    figure.suptitle(f"{case}: tokens, arrows are momenta", x=0.005, ha="left", fontsize=9)
    places = [(name, k) for name in result.frames for k in moments]
    for axis, (name, k) in zip(axes, places, strict=True):
        Sphere(axis, result.frames[name], result.momenta.get(name)).show(k)
        kind = name.rpartition(", ")[2]
        axis.set_title(f"{kind}, t = {result.frame_times[k]:.3g}", fontsize=9)
