"""The order of every scheme, on the softmax (S), the linear (L) and the regularised flow (R)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sympformer import figures
from sympformer.dynamics import SCHEMES, State, damping, follow
from sympformer.lab.flows import LinearFlow, SoftmaxFlow
from sympformer.lab.problems import exact, order, positive, symmetric
from sympformer.lab.record import Claim, Result
from sympformer.lab.regularised import RegularisedFlow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 0.15


@dataclass(frozen=True)
class OrdersConfig:
    """Errors of positions and momenta against an independent solution, by regression."""

    particles: int = 8
    """Number of particles N."""
    dimension: int = 3
    """Dimension d."""
    duration: float = 1.0
    """Length of the time interval, from t = 1."""
    steps: tuple[int, ...] = (64, 128, 256, 512)
    """Numbers of steps of the regression."""
    c_log: float = 1.0
    """Log-linear damping, the coefficient of 1/t."""
    c_lin: float = 0.5
    """Log-linear damping, the constant part."""
    rho: float = 0.3
    """Regulariser ρ of the regularised flow."""
    seed: int = 0
    """Seed of the matrices and of the start."""


def run(config: OrdersConfig) -> Result:
    """Integrate with every scheme and every number of steps."""
    rng, shape = np.random.default_rng(config.seed), (config.particles, config.dimension)
    A, B = positive(rng, config.dimension), positive(rng, config.dimension)
    V = symmetric(rng, config.dimension)
    flows = {
        "softmax": SoftmaxFlow(A, B),
        "linear": LinearFlow(A, V),
        "regularised": RegularisedFlow(A, V, config.rho),
    }
    start = State(*(torch.from_numpy(0.7 * rng.standard_normal((2, *shape)))))
    schedule = damping("loglinear", c_log=config.c_log, c_lin=config.c_lin)
    arrays, claims = {"steps": np.array(config.steps)}, []
    for name, flow in flows.items():
        truth = torch.stack(exact(flow, schedule, start, [1.0, 1.0 + config.duration])[-1])
        for scheme, build in SCHEMES.items():
            errors = []
            for steps in config.steps:
                h = config.duration / steps
                path = follow(build(schedule), flow, start, h, steps, every=steps)
                end = torch.stack([path.x[-1], path.p[-1]])
                errors.append((end - truth).flatten(1).norm(dim=1).numpy())
            arrays[f"{name}, {scheme}"] = np.stack(errors)
            for variable, error in zip("xp", np.stack(errors).T, strict=True):
                slope = order(config.steps, error)
                low, high = build.order - TOLERANCE, build.order + TOLERANCE
                claims.append(Claim("section 2", f"{name}, {scheme}, {variable}", slope, low, high))
    return Result(arrays, claims)


def draw(result: Result) -> "Figure":
    """Error of the positions against evaluations of the kernel, one panel a field."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(14, 4.5), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    ends: list[tuple[str, float, float, str]] = []
    for axis, field in zip(axes, ("softmax", "linear", "regularised"), strict=True):
        ends = []
        for k, (scheme, build) in enumerate(SCHEMES.items()):
            calls = build.evaluations * result.arrays["steps"]
            error = result.arrays[f"{field}, {scheme}"][:, 0]
            style, colour = "o-" if build.order == 2 else "s--", f"C{k}"
            axis.loglog(calls, error, style, ms=4, color=colour)
            ends.append((scheme, calls[-1], error[-1], colour))
        axis.set(title=f"{field} flow: error of the positions", xlabel="evaluations of the kernel")
        axis.xaxis.set_minor_formatter(NullFormatter())  # of a short range they run together
        calls = result.arrays["steps"]
        worst = max(result.arrays[f"{field}, {name}"][0, 0] for name in SCHEMES)
        least = min(result.arrays[f"{field}, {name}"][0, 0] for name in SCHEMES)
        span = float(calls[0]), float(calls[-1])
        figures.slope_guide(axis, span, 1.8 * worst * span[0] / span[1], -1, "order 1")
        figures.slope_guide(axis, span, least / 3 * (span[0] / span[1]) ** 2, -2, "order 2")
    figures.label_lines(axes[-1], ends)
    return figure
