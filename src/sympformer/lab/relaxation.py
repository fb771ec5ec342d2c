"""How long a cloud takes to relax, against the condition number κ of A M, in three metrics.

The energy is ½ ∫ |x|² dμ, as round as can be: what is badly conditioned is the kernel alone. M = I
at the start, and A has eigenvalues from 1 to 1/κ, so that the fastest direction has the rate 1, or
1/(1 + ρ). Stein's gradient flow waits for the slowest, a time like κ; the regularised one waits
ρκ, once that is more than 1; Wasserstein's does not know the kernel. A momentum takes the square
root of what the metric has left, and where nothing is left it is in the way.

Times are those of the flows, by an independent integrator. A cloud has relaxed when its
Hamiltonian, kinetic energy included, has fallen to the tolerance: with momentum the energy alone
passes through zero and comes back.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import root_scalar
from scipy.special import wrightomega
from torch import Tensor

from sympformer.dynamics import UNDAMPED, damping
from sympformer.errors import InputError
from sympformer.figures import label_lines, slope_guide
from sympformer.lab.flows import EnergyFlow, GradientFlow, LinearFlow, SoftmaxFlow, hamiltonian
from sympformer.lab.problems import order
from sympformer.lab.record import Claim, Result
from sympformer.lab.regularised import RegularisedFlow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("gradient", "accelerated")
SLOW = 10.0
"""Time of a gradient flow, in units of the fastest direction, from which it counts as slow."""


@dataclass(frozen=True)
class RelaxationConfig:
    """Time to relax against the condition number of the kernel, with and without momentum."""

    conditions: tuple[float, ...] = (10.0, 100.0, 1000.0, 10_000.0)
    """Condition numbers κ of A M at the start."""
    rhos: tuple[float, ...] = (0.1, 0.01, 0.001)
    """Regularisers ρ; two κ must have κρ ≤ 0.1 for the least, two κρ ≥ 10 for the largest."""
    dimension: int = 4
    """Dimension d; the eigenvalues of A are spread evenly in their logarithm."""
    tolerance: float = 0.02
    """Hamiltonian, relative to that of the start, at which the cloud has relaxed."""
    r: float = 3.0
    """Nesterov damping r / t of the accelerated flows, from t = 1."""
    seed: int = 0
    """Seed of the angles of cloud and kernel."""


def run(config: RelaxationConfig) -> Result:
    """Times, their exponents in κ, and what metric and momentum leave to each other.

    Raises:
        InputError: conditions, regularisers, dimension or tolerance leave nothing to fit.
    """
    kappas, least, most = np.array(config.conditions), *_extremes(config)
    well, badly = kappas * least <= 0.1, kappas * most >= 10
    if min(kappas, default=0) < 1 or min(well.sum(), badly.sum()) < 2:
        raise InputError("relaxation needs κ ≥ 1, two of them with κρ ≤ 0.1 and two with κρ ≥ 10")
    if not config.tolerance * config.dimension < 1:
        raise InputError("the tolerance must be below 1 / dimension, or the slowest has no say")

    times, calls = (defaultdict[tuple[str, str], list[float]](list) for _ in range(2))
    exact: dict[str, list[float]] = defaultdict(list)
    for kappa in config.conditions:
        x, A = _problem(kappa, config)
        for name, (flow, rho) in _metrics(A, config).items():
            exact[name].append(_closed_form(rho, kappa, config))
            for kind in KINDS:
                time, evaluations = _relaxation(flow, kind, x, config)
                times[name, kind].append(time)
                calls[name, kind].append(evaluations)
    T = {key: np.array(time) for key, time in times.items()}
    arrays = {"conditions": kappas}
    arrays |= {f"{name}, {kind}: time": time for (name, kind), time in T.items()}
    arrays |= {f"{name}, {kind}: evaluations": np.array(n) for (name, kind), n in calls.items()}
    arrays |= {f"{name}: closed form": np.array(time) for name, time in exact.items()}
    return Result(arrays, _claims(T, arrays, config), _numbers(arrays))


def _extremes(config: RelaxationConfig) -> tuple[float, float]:
    """The least and the largest regulariser."""
    if min(config.rhos, default=0) <= 0:
        raise InputError("relaxation needs regularisers ρ > 0")
    return min(config.rhos), max(config.rhos)


def _problem(kappa: float, config: RelaxationConfig) -> tuple[Tensor, Tensor]:
    """A cloud with second moments M = I, and the matrix A of a kernel of condition number κ."""
    rng, d = np.random.default_rng(config.seed), config.dimension
    x = np.linalg.qr(rng.standard_normal((2 * d, d)))[0] * np.sqrt(2 * d)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    A = Q * _spectrum(kappa, config) @ Q.T
    return torch.from_numpy(x), torch.from_numpy((A + A.T) / 2)


def _spectrum(kappa: float, config: RelaxationConfig) -> np.ndarray:
    return np.logspace(0, -np.log10(kappa), config.dimension)


def _metrics(A: Tensor, config: RelaxationConfig) -> dict[str, tuple[EnergyFlow, float]]:
    """The flows of the same energy in every metric, and their ρ.

    The metric of softmax attention with a kernel that is 1 everywhere is Wasserstein's.
    """
    eye = torch.eye(len(A), dtype=A.dtype)
    return {
        "Stein": (LinearFlow(A, -eye), np.inf),
        **{f"ρ = {rho:g}": (RegularisedFlow(A, -eye, rho), rho) for rho in config.rhos},
        "Wasserstein": (SoftmaxFlow(0 * A, eye, potential=eye), 0.0),
    }


def _relaxation(
    flow: EnergyFlow, kind: str, x: Tensor, config: RelaxationConfig
) -> tuple[float, float]:
    """Time until the Hamiltonian has fallen to the tolerance, and evaluations it took to find.

    By scipy's RK45, which chooses its steps.
    """
    oracle = GradientFlow(flow) if kind == "gradient" else flow
    friction = UNDAMPED if kind == "gradient" else damping("nesterov", r=config.r)
    goal = config.tolerance * hamiltonian(flow(x), 0 * x).item()

    def slope(t: float, state: np.ndarray) -> np.ndarray:
        position, momentum = torch.from_numpy(state).view(2, *x.shape)
        at = oracle(position)
        force = at.force(momentum) - friction.alpha(t) * momentum
        return torch.stack([at.velocity(momentum), force]).flatten().numpy()

    def left(t: float, state: np.ndarray) -> float:
        position, momentum = torch.from_numpy(state).view(2, *x.shape)
        return hamiltonian(flow(position), momentum).item() / goal - 1

    left.terminal = True  # pyright: ignore[reportFunctionMemberAccess]
    start = torch.stack([x, 0 * x]).flatten().numpy()
    path = solve_ivp(slope, (1, 1e12), start, rtol=1e-6, atol=1e-9, events=left)
    if path.status != 1:
        raise InputError(f"a cloud does not relax: {path.message}")
    return float(path.t[-1]) - 1, float(path.nfev)


def _closed_form(rho: float, kappa: float, config: RelaxationConfig) -> float:
    """The time of a gradient flow, from the second moment m of every direction.

    ṁ = -2m with ρ = 0, Wasserstein's, -2am² with ρ = ∞, Stein's, and -2am²/(am + ρ) regularised,
    where z = ρ/(am) obeys z + log z = ρ/a + log(ρ/a) + 2t.
    """
    a = _spectrum(kappa, config)

    def moments(t: float) -> np.ndarray:
        if rho == 0:
            return np.exp(-2 * t) + 0 * a
        if rho == np.inf:
            return 1 / (1 + 2 * a * t)
        return rho / a / wrightomega(rho / a + np.log(rho / a) + 2 * t)

    return root_scalar(lambda t: moments(t).mean() - config.tolerance, bracket=(0, 1e12)).root


def _claims(
    T: dict[tuple[str, str], np.ndarray], arrays: dict[str, np.ndarray], config: RelaxationConfig
) -> list[Claim]:
    kappas, (least, most) = arrays["conditions"], _extremes(config)
    everywhere, well, badly = kappas > 0, kappas * least <= 0.1, kappas * most >= 10
    rows = [
        ("Stein", "Stein", everywhere, (0.85, 1.1), (0.4, 0.6)),
        (f"ρ = {most:g}", f"ρ = {most:g}, κρ ≥ 10", badly, (0.85, 1.1), (0.4, 0.6)),
        (f"ρ = {least:g}", f"ρ = {least:g}, κρ ≤ 0.1", well, (-0.02, 0.2), (-0.02, 0.1)),
    ]
    claims = [
        Claim(
            "delta.md", f"{label}, {kind}, exponent of κ", _exponent(kappas, time, where), *bounds
        )
        for name, label, where, *both in rows
        for kind, bounds in zip(KINDS, both, strict=True)
        for time in [T[name, kind]]
    ]
    names = [name for name, kind in T if kind == "gradient"]
    slow, fast = (np.concatenate([T[name, kind] for name in names]) for kind in KINDS)
    closed = np.concatenate([arrays[f"{name}: closed form"] for name in names])
    root = (fast / np.sqrt(slow))[slow >= SLOW]
    best = {kind: T[f"ρ = {least:g}", kind][well] for kind in KINDS}
    metric_over_momentum = (best["gradient"] / T["Stein", "accelerated"][well]).max()
    limit = T[f"ρ = {least:g}", "gradient"].min() / T["Wasserstein", "gradient"].min()
    return [
        *claims,
        Claim(
            "delta.md", "gradient flows, closed form", np.abs(slow / closed - 1).max(), high=1e-3
        ),
        Claim("delta.md", f"ρ = {least:g} over Wasserstein, least κ", limit, 1, 1.2),
        Claim("delta.md", "slow flows, accelerated over √gradient, least", root.min(), low=2),
        Claim("delta.md", "the same, largest", root.max(), high=3),
        Claim(
            "delta.md", "κρ ≤ 0.1 without momentum over Stein with", metric_over_momentum, high=0.2
        ),
        Claim(
            "delta.md",
            "κρ ≤ 0.1, accelerated over gradient",
            (best["accelerated"] / best["gradient"]).min(),
            low=1,
        ),
    ]


def _exponent(kappas: np.ndarray, time: np.ndarray, where: np.ndarray) -> float:
    return -order(kappas[where], time[where])


def _numbers(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Times and evaluations at the largest condition number."""
    worst = int(arrays["conditions"].argmax())
    kappa = arrays["conditions"][worst]
    return {
        f"κ = {kappa:g}, {key}": float(array[worst])
        for key, array in arrays.items()
        if key.endswith((": time", ": evaluations"))
    }


def draw(result: Result) -> "Figure":
    """Time against condition number, and with momentum against without."""
    from matplotlib.figure import Figure

    arrays, kappas = result.arrays, result.arrays["conditions"]
    names = [key.removesuffix(": closed form") for key in arrays if key.endswith("closed form")]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    ends = []
    for k, name in enumerate(names):
        gradient, accelerated = (arrays[f"{name}, {kind}: time"] for kind in KINDS)
        left.loglog(kappas, gradient, "o--", color=f"C{k}", ms=4)
        left.loglog(kappas, accelerated, "s-", color=f"C{k}", ms=4)
        ends.append((name, kappas[-1], accelerated[-1], f"C{k}"))
        right.loglog(gradient, accelerated, "o", color=f"C{k}", ms=4)
    slowest = max(arrays[f"{name}, gradient: time"].max() for name in names)
    slope_guide(right, (2.0, slowest), slowest, 1, "equal")
    slope_guide(right, (2.0, slowest), 2.7 * slowest**0.5, 0.5, "2.7 √T")
    left.set(xlabel="condition number κ of A M")
    left.set_title("time to relax (dashed: gradient flow, solid: with momentum)")
    right.set(xlabel="time of the gradient flow", title="time with momentum")
    label_lines(left, ends)
    return figure
