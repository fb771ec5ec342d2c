"""Elliptically contoured laws stay so under accelerated linear attention (Prop. 4.3, Cor. 4.4).

Under (L) every particle moves by one common linear map, whatever the cloud and whatever the
momentum: ẋ_i = (1/N) Σ_j (x_iᵀA x_j) y_j is linear in x_i, and so is the velocity Cᵀx_i of the
regularised flow (R), with moment equations of its own. So no start of the cloud alone can break
an ellipse; a cube stays a parallelepiped. A momentum that is not y = S x, Φ_0 not quadratic, keeps
the shape too, and only the moment equations fail, since they are closed by S. What does break the
shape is a velocity that is not linear in x_i: softmax attention, or a map that is not common:
prefix causality, under which each token sees its own past.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from sympformer.dynamics import SCHEMES, Oracle, State, damping, follow
from sympformer.errors import InputError, lookup
from sympformer.lab.flows import LinearFlow, VelocityFlow
from sympformer.lab.formulas import linear_moments, regularised_moments
from sympformer.lab.laws import RADII, affine_residual, radii, sample
from sympformer.lab.matrices import require_definite
from sympformer.lab.problems import matrix, positive, symmetric
from sympformer.lab.record import Claim, Result, contour
from sympformer.lab.regularised import RegularisedFlow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Moments = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Time derivatives of S, mean and covariance."""


@dataclass(frozen=True)
class EllipseConfig:
    """Particles of (L) and (R) against the moment equations, and what breaks an ellipse."""

    laws: tuple[str, ...] = tuple(RADII)
    """Initial laws."""
    particles: int = 1000
    """Number of particles N."""
    dimension: int = 3
    """Dimension d."""
    offset: float = 0.7
    """Norm of the non-zero initial mean; every law also starts from mean zero."""
    duration: float = 1.0
    """Length of the time interval."""
    steps: int = 50
    """Coarsest number of steps of the extrapolation."""
    alpha: float = 0.5
    """Constant damping α."""
    rho: float = 0.3
    """Regulariser ρ of the regularised flow."""
    scheme: str = "strang"
    """Scheme of order 2 to extrapolate."""
    A: Path | None = None
    """Text or .npy file with the symmetric matrix A of the kernel; random by default."""
    V: Path | None = None
    """File with the symmetric value matrix V; random by default."""
    covariance: Path | None = None
    """File with the positive definite covariance of the initial laws; random by default."""
    seed: int = 0
    """Seed of the matrices and of the clouds."""


def run(config: EllipseConfig) -> Result:
    """Compare particles, moments and radii.

    Raises:
        InputError: a matrix is of the wrong kind, or there are too few particles.
    """
    rng, d = np.random.default_rng(config.seed), config.dimension
    if d < 2 or not config.laws:
        raise InputError("an ellipse needs dimension 2 or more, and at least one law")
    if config.particles < 2 * (d + 1):
        raise InputError(f"{config.particles} particles: dimension {d} needs {2 * (d + 1)} or more")
    A = matrix(config.A, "A", positive(rng, d))
    V = matrix(config.V, "V", symmetric(rng, d))
    C = matrix(config.covariance, "covariance", positive(rng, d) * min(1, 3 / d))
    S = 0.5 * symmetric(rng, d)
    require_definite(covariance=C)
    direction = rng.standard_normal(d)
    means = {"centred": 0 * direction, "shifted": config.offset * direction}
    means["shifted"] /= np.linalg.norm(direction)
    flows = {"linear": LinearFlow(A, V), "regularised": RegularisedFlow(A, V, config.rho)}
    matrices = {"A": A, "V": V, "alpha": config.alpha}
    moments = {
        "linear": partial(linear_moments, **matrices),
        "regularised": partial(regularised_moments, **matrices, rho=config.rho),
    }

    cases: dict[str, tuple[Oracle, Moments | None, Tensor, Tensor]] = {}
    for law in config.laws:
        for kind, mean in means.items():
            x = torch.from_numpy(sample(law, config.particles, mean, C.numpy(), rng))
            x = x - x.mean(0) if kind == "centred" else x
            for name, flow in flows.items():
                cases[f"{name}, {law}, {kind}"] = flow, moments[name], x, x @ S
    few = min(config.particles, 1000)  # the contrasts cost O(N²)
    x = torch.from_numpy(sample("student", few, means["shifted"], C.numpy(), rng))
    cube = torch.from_numpy(rng.uniform(-1.5, 1.5, x.shape))
    for name, flow in flows.items():
        cases |= {
            f"{name}, cube": (flow, moments[name], cube, cube @ S),
            f"{name}, curved momentum": (flow, moments[name], x, torch.tanh(2 * x) @ S),
            f"{name}, prefix": (replace(flow, causality="prefix"), None, x, x @ S),
        }
    cases["softmax"] = VelocityFlow(2 * A, torch.eye(d).double()), None, x, torch.zeros_like(x)

    times = np.linspace(0, config.duration, config.steps + 1)
    arrays, frames = {"time": times}, {}
    for name, (oracle, rates, x, y) in cases.items():
        cloud = _path(oracle, config.scheme, x, y, config).x.numpy()
        arrays[f"{name}: affine residual"] = _residuals(cloud)
        arrays[f"{name}: radii"] = np.stack([radii(cloud[0]), radii(cloud[-1])])
        arrays[f"{name}: cloud"] = cloud[[0, -1]]
        if rates is not None:
            arrays[f"{name}: moment error"] = _moment_errors(oracle, rates, x, y, config)
        if name in _panels(config.laws):
            frames[name] = cloud[..., :2]
    for name, flow in flows.items():
        for scheme in SCHEMES:
            cloud = _path(flow, scheme, x, x @ S, config).x.numpy()
            arrays[f"{name}, {scheme}: affine residual"] = _residuals(cloud)
    return Result(arrays, _claims(config, arrays), frames=frames, frame_times=times)


def _path(
    oracle: Oracle, scheme: str, x: Tensor, y: Tensor, config: EllipseConfig, refine: int = 1
) -> State:
    """Trajectory at the coarse times, by steps `refine` times finer."""
    build, steps = lookup(SCHEMES, scheme, "scheme"), config.steps * refine
    h, friction = config.duration / steps, damping("constant", alpha=config.alpha)
    return follow(build(friction), oracle, State(x, y), h, steps, every=refine)


def _residuals(cloud: np.ndarray) -> np.ndarray:
    return np.array([affine_residual(cloud[0], at) for at in cloud])


def _moment_errors(
    flow: Oracle, rates: Moments, x: Tensor, y: Tensor, config: EllipseConfig
) -> np.ndarray:
    """Largest error of mean and covariance at each time, against the moment equations by DOP853.

    The particles move by a scheme of order 2 with h, h/2, h/4, h/8; Richardson's extrapolation
    removes the terms h², h³ and h⁴ of their moments. S_0 is the symmetric matrix
    nearest to y = x S.
    """
    refinements = np.array([1, 2, 4, 8])
    levels = [
        _moments(_path(flow, config.scheme, x, y, config, refine).x) for refine in refinements
    ]
    removed = np.vander(1 / refinements, 5, increasing=True)[:, [0, 2, 3, 4]].T
    weights = np.linalg.solve(removed, [1, 0, 0, 0])
    particles = np.tensordot(weights, np.stack(levels), 1)

    d = x.shape[1]
    S = torch.linalg.lstsq(x, y).solution
    S = (S + S.mT) / 2

    def slope(_: float, state: np.ndarray) -> np.ndarray:
        S, m, cov = torch.from_numpy(state).split([d * d, d, d * d])
        dS, dm, dcov = rates(S.view(d, d), m, cov.view(d, d))
        return torch.cat([dS.flatten(), dm, dcov.flatten()]).numpy()

    start = np.concatenate([S.flatten().numpy(), levels[0][0]])
    times = np.linspace(0, config.duration, config.steps + 1)
    span = times[[0, -1]]
    path = solve_ivp(slope, span, start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-13)
    return np.abs(particles - path.y[d * d :].T).max(1)


def _moments(cloud: Tensor) -> np.ndarray:
    """Mean and covariance of each frame, flattened."""
    mean = cloud.mean(1, keepdim=True)
    covariance = (cloud - mean).mT @ (cloud - mean) / cloud.shape[1]
    return torch.cat([mean.flatten(1), covariance.flatten(1)], 1).numpy()


def _claims(config: EllipseConfig, arrays: dict[str, np.ndarray]) -> list[Claim]:
    def worst(quantity: str, *names: str) -> float:
        return max(float(arrays[f"{name}: {quantity}"].max()) for name in names)

    def change(*names: str) -> float:
        return max(radial_change(arrays[f"{name}: radii"]) for name in names)

    worst_affine, worst_moment = partial(worst, "affine residual"), partial(worst, "moment error")
    rows = []
    for flow, proposition, corollary, beyond in (
        ("linear", "Prop. 4.3", "Cor. 4.4", "beyond 4.3"),
        ("regularised", "delta.md", "delta.md", "delta.md"),
    ):
        centred = [f"{flow}, {law}, centred" for law in config.laws]
        shifted = [f"{flow}, {law}, shifted" for law in config.laws]
        laws, schemes = centred + shifted, [f"{flow}, {scheme}" for scheme in SCHEMES]
        cube, curved, prefix = (f"{flow}, {n}" for n in ("cube", "curved momentum", "prefix"))
        rows += [
            (proposition, f"{flow}, affine image at every step", worst_affine(*laws), None, 1e-10),
            (proposition, f"{flow}, for every scheme", worst_affine(*schemes), None, 1e-10),
            (proposition, f"{flow}, change of the radial quantiles", change(*laws), None, 1e-10),
            (proposition, f"{flow}, moments and their ODE", worst_moment(*shifted), None, 1e-8),
            (corollary, f"{flow}, the same from mean zero", worst_moment(*centred), None, 1e-8),
            (beyond, f"{flow}, a cube, affine residual", worst_affine(cube), None, 1e-10),
            (beyond, f"{flow}, curved momentum", worst_affine(curved), None, 1e-10),
            ("contrast", f"{flow}, curved momentum, ODE", worst_moment(curved), 1e-3, None),
            ("contrast", f"{flow}, prefix causality, quantiles", change(prefix), 1e-3, None),
        ]
    rows.append(("contrast", "softmax, radial quantiles", change("softmax"), 1e-3, None))
    return [Claim(*row) for row in rows]


def radial_change(radii: np.ndarray) -> float:
    """Mean change of the sorted Mahalanobis radii between two clouds, `(2, N)`."""
    first, last = np.sort(radii, axis=1)
    return float(np.abs(last - first).mean())


def _panels(laws: Sequence[str]) -> list[str]:
    """The cases to show: one law, and other clouds or flows."""
    law = f"{laws[0]}, shifted"
    names = (law, "cube", "prefix")
    return [f"{flow}, {name}" for flow in ("linear", "regularised") for name in names] + ["softmax"]


def draw(result: Result) -> "Figure":
    """Clouds and ellipses at start and end; what became of the radii, on one logarithmic axis."""
    from matplotlib.figure import Figure

    arrays = result.arrays
    laws = [name.split(", ")[1] for name in arrays if name.endswith("shifted: cloud")]
    panels = _panels(laws)
    figure = Figure(figsize=(2.4 * len(panels), 5.4), layout="constrained")
    clouds, below = figure.subplots(2, len(panels), height_ratios=(1.1, 1))
    for i, (axis, changes, name) in enumerate(zip(clouds, below, panels, strict=True)):
        for cloud, label, colour in zip(
            arrays[f"{name}: cloud"], ("start", "end"), ("#949494", "#0066A8"), strict=True
        ):
            flat = cloud[:, :2]
            axis.scatter(*flat.T, s=2, color=colour, alpha=0.35, rasterized=True, linewidths=0)
            x, y = contour(flat)
            axis.plot(x, y, color=colour, lw=1.6)
            if i == 0:
                at = (x[y.argmax()], y.max()) if label == "start" else (x[y.argmin()], y.min())
                away = (0, 5) if label == "start" else (0, -12)
                options = {"textcoords": "offset points", "ha": "center", "color": colour}
                axis.annotate(f"{label}, 2σ", at, xytext=away, size=8, **options)
        flat = arrays[f"{name}: cloud"][..., :2]
        middle, reach = flat.mean((0, 1)), 2.6 * flat.std((0, 1)).max()
        limits = [(m - reach, m + reach) for m in middle]
        axis.set(aspect="equal", xlim=limits[0], ylim=limits[1], xticks=[], yticks=[])
        axis.grid(False)
        axis.spines["bottom"].set_visible(False)
        axis.set_title(name.replace(", ", ",\n", 1), fontsize=9)
        first, last = np.sort(arrays[f"{name}: radii"], axis=1)
        changed = np.abs(last / first - 1).clip(1e-17)
        changes.semilogy(first, changed, ".", ms=2, color="#0066A8", rasterized=True)
        changes.set(xlabel="radial quantile, start", ylim=(1e-17, 3))
        if i:
            changes.set_yticklabels([])
    below[0].set_title("radii: relative change at the end", fontsize=9)
    return figure
