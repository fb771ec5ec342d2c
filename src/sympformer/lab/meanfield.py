"""The particle systems are the accelerated PDEs of the density (Prop. 4.1, 5.1, docs/delta.md).

In one dimension the PDE for the density ρ and the potential Φ is solved on a grid, by Chebyshev
collocation, knowing nothing of particles. N particles start at the quantiles of ρ_0 with momenta
Φ_0', Φ_0 not quadratic. As N grows, their ranks approach the distribution function of ρ, and their
momenta Φ'. With kernel k, mobility 1 and an energy whose first variation is δE:

    linear   ∂ρ = -(ρ u)',  u = a x ∫ y Φ' dρ,   ∂Φ = -αΦ - u Φ' + v x²/2
    regular. ∂ρ = -(ρ u)',  u = c x, c = a ∫ y Φ' dρ / (r + a ∫ y² dρ),
                                                 ∂Φ = -αΦ - u Φ' + u²/2 + v x²/2
    softmax  ∂ρ = -(ρ u)',  u = b Φ'/z,          ∂Φ = -αΦ - ½ (u Φ' - ∫ k b (Φ'/z)² dρ) + z
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.polynomial import Chebyshev
from numpy.polynomial.chebyshev import chebpts1
from scipy.integrate import solve_ivp
from scipy.stats import norm

from sympformer.dynamics import SCHEMES, State, damping, follow
from sympformer.figures import label_lines, slope_guide
from sympformer.lab.flows import LinearFlow, SoftmaxFlow
from sympformer.lab.problems import order
from sympformer.lab.record import Claim, Result
from sympformer.lab.regularised import RegularisedFlow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACH = 4.0  # the grid is [-REACH, REACH]: eight standard deviations at the start
SOURCES = {"linear": "Prop. 4.1", "regularised": "delta.md", "softmax": "Prop. 5.1"}
WIDTH = 0.5  # standard deviation of ρ_0


@dataclass(frozen=True)
class MeanfieldConfig:
    """Particles against the partial differential equations, as N grows."""

    particles: tuple[int, ...] = (64, 256, 1024)
    """Numbers of particles N."""
    grid: int = 96
    """Number of Chebyshev points."""
    duration: float = 0.5
    """Length of the time interval, from t = 1."""
    steps: int = 100
    """Number of steps of the particles."""
    a: float = 0.5
    """Kernel exp(a x y), or a x y."""
    rho: float = 0.3
    """Regulariser r of the regularised flow."""
    b: float = 0.8
    """Mobility b / z of the softmax flow; value v = b a of all."""
    r: float = 3.0
    """Nesterov damping r / t."""


def run(config: MeanfieldConfig) -> Result:
    """Solve the PDEs, move the particles, compare ranks and momenta."""
    nodes = REACH * chebpts1(config.grid)
    a, b = (torch.tensor([[v]], dtype=torch.float64) for v in (config.a, config.b))
    schedule = damping("nesterov", r=config.r)
    flows = {
        "linear": LinearFlow(a, a * b),
        "regularised": RegularisedFlow(a, a * b, config.rho),
        "softmax": SoftmaxFlow(a, b),
    }
    fine = np.linspace(-REACH, REACH, 401)
    arrays: dict[str, np.ndarray] = {"x": fine, "particles": np.array(config.particles)}
    claims = []
    for name, flow in flows.items():
        density, potential = _solve(name, nodes, config)
        distribution, slope = density.integ(lbnd=-REACH), potential.deriv()
        errors = []
        for n in config.particles:
            ranks = (np.arange(n) + 0.5) / n
            x = torch.from_numpy(WIDTH * norm.ppf(ranks))[:, None]
            start, h = State(x, _momentum(x)), config.duration / config.steps
            path = follow(SCHEMES["strang"](schedule), flow, start, h, config.steps)
            x, p = path.x[-1, :, 0].numpy(), path.p[-1, :, 0].numpy()
            errors.append([np.abs(distribution(x) - ranks).max(), np.abs(slope(x) - p).mean()])
            arrays[f"{name}: cloud"] = np.stack([x, p])  # the largest N stays
        arrays |= {f"{name}: density": density(fine), f"{name}: errors": np.array(errors)}
        for k, quantity in enumerate(("ranks", "momenta")):
            error = arrays[f"{name}: errors"][:, k]
            rate = order(config.particles, error)
            claims += [
                Claim(
                    SOURCES[name],
                    f"{name}, {quantity}, error at the largest N",
                    error[-1],
                    high=1e-3,
                ),
                Claim(SOURCES[name], f"{name}, {quantity}, order in N", rate, low=0.7),
            ]
    return Result(arrays, claims)


def _momentum(x: torch.Tensor) -> torch.Tensor:
    """Φ_0' for Φ_0 = 0.3 sin 2x."""
    return 0.6 * (2 * x).cos()


def _solve(name: str, nodes: np.ndarray, config: MeanfieldConfig) -> tuple[Chebyshev, Chebyshev]:
    """Density and potential at the end, as polynomials on the grid."""
    n, (a, b) = len(nodes), (config.a, config.b)
    identity = np.eye(n)
    D = np.stack([_fit(nodes, row).deriv()(nodes) for row in identity], axis=1)
    weight = np.array([_fit(nodes, row).integ(lbnd=-REACH)(REACH) for row in identity])
    kernel = np.exp(a * np.outer(nodes, nodes))

    def linear(rho: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope = D @ phi
        u = a * nodes * (weight @ (nodes * slope * rho))
        return u, -u * slope + a * b * nodes**2 / 2

    def regularised(rho: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope, second = D @ phi, weight @ (nodes**2 * rho)
        u = a * nodes * (weight @ (nodes * slope * rho)) / (config.rho + a * second)
        return u, -u * slope + u**2 / 2 + a * b * nodes**2 / 2

    def softmax(rho: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope, z = D @ phi, kernel @ (weight * rho)
        u = b * slope / z
        return u, -(u * slope - kernel @ (weight * rho * b * (slope / z) ** 2)) / 2 + z

    fields: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]]
    fields = {"linear": linear, "regularised": regularised, "softmax": softmax}
    schedule = damping("nesterov", r=config.r)

    def rate(t: float, state: np.ndarray) -> np.ndarray:
        rho, phi = state.reshape(2, n)
        u, conservative = fields[name](rho, phi)
        return np.concatenate([-D @ (rho * u), conservative - schedule.alpha(t) * phi])

    start = np.concatenate([norm.pdf(nodes, scale=WIDTH), 0.3 * np.sin(2 * nodes)])
    end = solve_ivp(rate, (1, 1 + config.duration), start, method="DOP853", rtol=1e-8, atol=1e-10)
    rho, phi = end.y[:, -1].reshape(2, n)
    return _fit(nodes, rho), _fit(nodes, phi)


def _fit(nodes: np.ndarray, values: np.ndarray) -> Chebyshev:
    return Chebyshev.fit(nodes, values, len(nodes) - 1, domain=[-REACH, REACH])


def draw(result: Result) -> "Figure":
    """The density with the histogram of the particles, and errors against N."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.8), layout="constrained")
    *panels, last = figure.subplots(1, 1 + len(SOURCES))
    particles, ends = result.arrays["particles"], []
    for axis, name in zip(panels, SOURCES, strict=True):
        axis.hist(
            result.arrays[f"{name}: cloud"][0], 40, density=True, alpha=0.4, label="particles"
        )
        axis.plot(result.arrays["x"], result.arrays[f"{name}: density"], label="PDE")
        axis.set(title=name, xlabel="x", xlim=(-3, 3))
        for k, quantity in enumerate(("ranks", "momenta")):
            error = result.arrays[f"{name}: errors"][:, k]
            (line,) = last.loglog(particles, error, "o-", ms=4)
            ends.append((f"{name}, {quantity}", particles[-1], error[-1], str(line.get_color())))
    panels[0].legend()
    last.set(xlabel="particles", title="error")
    highest = max(result.arrays[f"{name}: errors"][0].max() for name in SOURCES)
    first, final = float(particles[0]), float(particles[-1])
    slope_guide(last, (first, final), 2.5 * highest * first / final, -1, "1/N")
    label_lines(last, ends)
    return figure
