"""Energy and Hamiltonian along gradient flow and accelerated flow.

Three settings in which the energy is bounded below:

- linear attention with V negative definite: E = ½ ∫ xᵀ|V| x dρ. The mobility fades with the cloud,
  so both flows are slow: E falls as 1/t for the gradient flow, as 1/t² with Nesterov's damping. In
  the regularised metric it fades where the kernel falls below ρ: the same laws, from there on,
  with ρ times the energy.
- softmax attention on the unit sphere: E ≥ -½ e^β. It is not convex, and where it is curved by
  order 1 a momentum has nothing to gain; see `clusters` for the slow merging where it has.
- a quadratic potential in the softmax metric, which is convex: iterations against condition number.

And one in which it is not: softmax attention in R^d. There E runs to -∞ in finite time under
either flow, a rate would mean nothing, and only the dissipation dH/dt = -α pᵀẋ is shown.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import Tensor

from sympformer.dynamics import SCHEMES, UNDAMPED, Damping, State, damping, follow
from sympformer.errors import InputError
from sympformer.figures import label_lines, slope_guide
from sympformer.lab.flows import EnergyFlow, GradientFlow, LinearFlow, SoftmaxFlow, hamiltonian
from sympformer.lab.problems import order, positive
from sympformer.lab.record import Claim, Result
from sympformer.lab.regularised import RegularisedFlow
from sympformer.lab.sphere import on_sphere, retract

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NESTEROV = damping("nesterov", r=3.0)
KINDS = ("gradient", "accelerated")
FADING = {"linear": "section 4", "regularised": "delta.md"}  # flows and their sources


@dataclass(frozen=True)
class EnergyConfig:
    """Rates of decay in time, and iterations against condition number."""

    particles: int = 64
    """Number of particles N of the flows in time."""
    dimension: int = 3
    """Dimension d of the flows in time."""
    steps: int = 2000
    """Number of steps of the flows in time, of size 0.05."""
    rho: float = 0.3
    """Regulariser ρ of the regularised flow."""
    beta: float = 2.0
    """Inverse temperature β on the sphere, A = β I and V = I."""
    conditions: tuple[float, ...] = (10.0, 100.0, 1000.0, 10_000.0)
    """Condition numbers of the quadratic potential."""
    tolerance: float = 1e-6
    """Energy, relative to that of the start, at which iterations are counted."""
    seed: int = 0
    """Seed of the matrices and of the start."""


def run(config: EnergyConfig) -> Result:
    """Rates, bounds and iteration counts.

    Raises:
        InputError: fewer than two condition numbers, or one below 1.
    """
    if len(config.conditions) < 2 or min(config.conditions) < 1:
        raise InputError("energy needs two or more condition numbers, each at least 1")
    rng, d = np.random.default_rng(config.seed), config.dimension
    A, B = positive(rng, d), positive(rng, d)
    x = torch.from_numpy(rng.standard_normal((config.particles, d)))
    eye = torch.eye(d, dtype=x.dtype)
    h, steps = 0.05, config.steps
    arrays: dict[str, np.ndarray] = {}

    fading = {"linear": LinearFlow(A, -B), "regularised": RegularisedFlow(A, -B, config.rho)}
    sphere = SoftmaxFlow(config.beta * eye, eye / config.beta)
    for name, flow in fading.items():
        arrays |= _both(name, flow, x - x.mean(0), h, steps)
    arrays |= _both("sphere", sphere, x / x.norm(dim=1, keepdim=True), h, steps, sphere=True)
    arrays |= _both("free", SoftmaxFlow(A, B), 0.5 * x, h / 20, min(steps, 400))

    late = slice(steps // 4, None)
    rate = {
        (name, kind): order(arrays[f"{name}: time"][late], arrays[f"{name}, {kind}: energy"][late])
        for name in FADING
        for kind in KINDS
    }
    lead = {
        kind: arrays[f"regularised, {kind}: energy"][-1]
        / (config.rho * arrays[f"linear, {kind}: energy"][-1])
        for kind in KINDS
    }
    balance = {name: _balance(name, arrays) for name in (*FADING, "sphere", "free")}
    floor = -np.exp(config.beta) / 2
    lowest = min(arrays[f"sphere, {kind}: energy"].min() for kind in KINDS)
    calls = {
        kind: [_iterations(kind, kappa, config) for kappa in config.conditions] for kind in KINDS
    }
    arrays["conditions"] = np.array(config.conditions)
    arrays |= {f"iterations, {kind}": np.array(count) for kind, count in calls.items()}
    slope = {kind: -order(config.conditions, count) for kind, count in calls.items()}
    claims = [
        *(
            Claim(source, f"{name}, {label}", rate[name, kind], low, high)
            for name, source in FADING.items()
            for kind, label, low, high in (
                ("gradient", "gradient flow, E ∝ 1/t", 0.85, 1.15),
                ("accelerated", "accelerated, E ∝ 1/t²", 1.8, 2.2),
            )
        ),
        *(
            Claim("delta.md", f"{kind}, E over ρ E of linear, at the end", ratio, 0.8, 1.25)
            for kind, ratio in lead.items()
        ),
        Claim("section 5", "sphere, E over its bound -½e^β", lowest / floor, high=1 + 1e-12),
        *(
            Claim("eq. 4", f"{n}, balance of dH/dt = -α pᵀẋ", v, high=0.02)
            for n, v in balance.items()
        ),
        Claim("eq. 2", "convex, gradient, slope in κ", slope["gradient"], 0.9, 1.1),
        Claim("eq. 2", "convex, accelerated, slope in κ", slope["accelerated"], 0.4, 0.6),
    ]
    numbers: dict[str, float] = {
        f"{kind}, κ = {kappa:g}: iterations": count
        for kind, counts in calls.items()
        for kappa, count in zip(config.conditions, counts, strict=True)
    }
    for kind in KINDS:
        energy = arrays[f"sphere, {kind}: energy"]
        reached = energy <= energy[0] + 0.99 * (floor - energy[0])
        numbers[f"sphere, {kind}: calls to 99 % of the fall"] = (
            int(reached.argmax()) if reached.any() else np.nan
        )
    return Result(arrays, claims, numbers)


def _both(
    name: str,
    flow: EnergyFlow,
    x: Tensor,
    h: float,
    steps: int,
    sphere: bool = False,
) -> dict[str, np.ndarray]:
    """Energy and Hamiltonian a particle at each step of the two flows, from rest, a call a step."""
    paths = {
        "gradient": (SCHEMES["euler"](UNDAMPED), GradientFlow(flow)),
        "accelerated": (SCHEMES["etd-ab2"](NESTEROV), flow),
    }
    arrays = {f"{name}: time": 1 + h * np.arange(steps + 1)}
    for kind, (scheme, oracle) in paths.items():
        path = follow(
            scheme,
            on_sphere(oracle) if sphere else oracle,
            State(x, torch.zeros_like(x)),
            h,
            steps,
            project=retract if sphere else None,
        )
        fields = [(flow(at), p) for at, p in zip(*path, strict=True)]
        arrays[f"{name}, {kind}: energy"] = np.array([f.energy() for f, _ in fields]) / len(x)
        arrays[f"{name}, {kind}: hamiltonian"] = np.array(
            [hamiltonian(f, p) for f, p in fields]
        ) / len(x)
    return arrays


def _balance(name: str, arrays: dict[str, np.ndarray]) -> float:
    """|H(T) - H(0) + ∫ α pᵀẋ dt| over the fall of H; pᵀẋ is twice the kinetic energy H - E."""
    H = arrays[f"{name}, accelerated: hamiltonian"]
    loss = 2 * (H - arrays[f"{name}, accelerated: energy"])
    time = arrays[f"{name}: time"]
    loss *= [NESTEROV.alpha(t) for t in time]
    return float(abs(H[-1] - H[0] + trapezoid(loss, time)) / abs(H[0] - H[-1]))


def _iterations(kind: str, kappa: float, config: EnergyConfig) -> int:
    """Steps until the energy of a quadratic potential has fallen to the tolerance.

    Q has eigenvalues from 1/κ to 1, and the start has the same energy along each of them. The
    kernel is exp(0.3 xᵀQ y). Each flow is stepped safely within its limit of stability, the
    accelerated one with the critical damping α = 2 / √κ of the slowest mode.
    """
    rng, d = np.random.default_rng(config.seed), 4
    spectrum = torch.logspace(0, -np.log10(kappa), d, dtype=torch.float64)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], (8, d)))
    x = signs / spectrum.sqrt()
    flow = SoftmaxFlow(torch.diag(0.3 * spectrum), torch.eye(d).double(), potential=spectrum.diag())
    friction: Damping = damping("constant", alpha=2 / kappa**0.5)
    scheme, oracle, h = {
        "gradient": (SCHEMES["euler"](UNDAMPED), GradientFlow(flow), 1.0),
        "accelerated": (SCHEMES["conformal-euler"](friction), flow, 0.4),
    }[kind]
    state, start, count, chunk = State(x, 0 * x), (x**2 @ spectrum).sum(), 0, 500
    while count < 100 * kappa + 1000:
        path = follow(scheme, oracle, state, h, chunk)
        below = (path.x**2 @ spectrum).sum(-1) <= config.tolerance * start
        if below.any():
            return count + int(below.int().argmax())
        state, count = State(path.x[-1], path.p[-1]), count + chunk
    raise InputError(f"no convergence at condition number {kappa:g} in {count} steps")


def draw(result: Result) -> "Figure":
    """Energy over time in two settings, and iterations against condition number."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.2), layout="constrained")
    fading, sphere, convex = figure.subplots(1, 3)
    arrays = result.arrays
    ends: dict[str, list] = {"fading": [], "sphere": [], "convex": []}
    for kind, style in zip(KINDS, ("--", "-"), strict=True):
        for k, name in enumerate(FADING):
            time, energy = arrays[f"{name}: time"], arrays[f"{name}, {kind}: energy"]
            fading.loglog(time, energy, style, color=f"C{k}")
            ends["fading"].append((f"{name}, {kind}", time[-1], energy[-1], f"C{k}"))
        time, energy = arrays["sphere: time"], arrays[f"sphere, {kind}: energy"]
        sphere.plot(time, energy, style, color="C0")
        ends["sphere"].append((kind, time[-1], energy[-1], "C0"))
        kappas, calls = arrays["conditions"], arrays[f"iterations, {kind}"]
        convex.loglog(kappas, calls, "o" + style, color="C0")
        ends["convex"].append((kind, kappas[-1], calls[-1], "C0"))
    total = arrays["sphere, accelerated: hamiltonian"]
    sphere.plot(arrays["sphere: time"], total, ":", color="C2")
    ends["sphere"].append(("H, accelerated", arrays["sphere: time"][-1], total[-1], "C2"))
    fading.set(xlabel="t", title="E, linear and regularised, V < 0")
    sphere.set(xlabel="t", xscale="log", title="E, softmax attention on the sphere")
    convex.set(xlabel="condition number κ", title="kernel evaluations, convex potential")
    late, last = arrays["linear: time"][-1], arrays["conditions"][-1]
    span = late / 15, late / 3
    slope_guide(fading, span, 6 * arrays["linear, gradient: energy"][-1], -1, "1/t")
    slope_guide(fading, span, 3 * arrays["regularised, accelerated: energy"][-1], -2, "1/t²")
    for slope, kind, text in ((1, "gradient", "κ"), (0.5, "accelerated", "√κ")):
        end = arrays[f"iterations, {kind}"][-1] / 2
        slope_guide(convex, (last / 50, last), end, slope, text)
    for axis, name in ((fading, "fading"), (sphere, "sphere"), (convex, "convex")):
        label_lines(axis, ends[name])
    return figure
