"""The undamped flows: derivation from the Hamiltonian, energy drift, symplecticity, (S) and (U)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sympformer.dynamics import (
    SCHEMES,
    UNDAMPED,
    Damping,
    DivergenceError,
    Oracle,
    Scheme,
    State,
    damping,
    follow,
)
from sympformer.dynamics.tao import Tao
from sympformer.figures import label_lines
from sympformer.lab.flows import EnergyFlow, LinearFlow, SoftmaxFlow, VelocityFlow, hamiltonian
from sympformer.lab.problems import exact, order, positive, symmetric
from sympformer.lab.record import Claim, Result
from sympformer.lab.regularised import RegularisedFlow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISTINCT = ("euler", "conformal-euler", "ab2", "strang", "tao")
"""Without damping plain-euler and exp-euler are euler, and etd-ab2 is ab2."""
DEFECT_STEPS = (0.04, 0.02, 0.01)
"""Step sizes at which the symplecticity defect is measured."""


@dataclass(frozen=True)
class ConservationConfig:
    """Energy over many steps in the bounded flow, and what holds in every undamped flow."""

    particles: int = 8
    """Number of particles N."""
    dimension: int = 2
    """Dimension d."""
    steps: int = 10_000
    """Number of steps of every scheme."""
    h: float = 0.05
    """Step size."""
    xi: float = 10.0
    """Coupling ξ of the two copies of Tao's scheme."""
    rho: float = 0.3
    """Regulariser ρ of the regularised flow."""
    seed: int = 0
    """Seed of the matrices and of the start."""


def run(config: ConservationConfig) -> Result:
    """Drifts, defects and agreements.

    The energy of attention is unbounded below, and the undamped flow (S) runs off to infinity in
    finite time. The long run is therefore made in the same metric with the energy ½ ∫ xᵀQ x dρ,
    which is bounded; everything else is about (S), (U), (L) and (R) themselves. (Bounded energies
    do not make (L) and (R) bounded: the cloud collapses and the momenta grow, H constant.)
    """
    rng, d = np.random.default_rng(config.seed), config.dimension
    A, B, Q = (positive(rng, d) for _ in range(3))
    bounded, attention = SoftmaxFlow(A, B, potential=Q), SoftmaxFlow(A, B)
    start = State(*torch.from_numpy(rng.standard_normal((2, config.particles, d))))

    every = max(1, config.steps // 500)
    arrays: dict[str, np.ndarray] = {
        "time": config.h * every * np.arange(config.steps // every + 1)
    }
    for name in DISTINCT:
        arrays[f"drift: {name}"] = _drift(bounded, _build(name, config), start, config, every)
    drift = {name: np.abs(arrays[f"drift: {name}"]) for name in DISTINCT}
    half = len(arrays["time"]) // 2
    growth = {  # of the mean drift, from the first half of the run to the second
        n: v[half:].mean() / v[1:half].mean() if len(v) > half else np.inf for n, v in drift.items()
    }

    few = State(0.7 * start.x[:3], 0.7 * start.p[:3])
    V = symmetric(rng, d)
    linear, regularised = LinearFlow(A, V), RegularisedFlow(A, V, config.rho)
    separable = SoftmaxFlow(0 * A, B, potential=Q)
    flows = {"attention": attention, "regularised": regularised}
    defects = {
        (kind, n): [_defect(flow, n, few, h) for h in DEFECT_STEPS]
        for kind, flow in flows.items()
        for n in DISTINCT
    }
    arrays |= {f"defect, {kind}: {n}": np.array(defect) for (kind, n), defect in defects.items()}
    arrays["defect steps"] = np.array(DEFECT_STEPS)

    ratio = drift["euler"].max() / drift["tao"].max()
    claims = [
        Claim("Prop. 5.2", "(S) is the field of its H", _derivation(attention, few), high=1e-12),
        Claim("Prop. 4.5", "(L) is the field of its H", _derivation(linear, few), high=1e-12),
        Claim("delta.md", "(R) is the field of its H", _derivation(regularised, few), high=1e-12),
        Claim("delta.md", "(R), change of H, exact path", _change(regularised, few), high=1e-10),
        Claim("Prop. 5.2", "(S) and (U) are one flow", _forms(A, B, few), high=1e-8),
        Claim("section 2", "strang, energy drift", drift["strang"].max(), high=1e-2),
        Claim("section 2", "tao, energy drift", drift["tao"].max(), high=1e-2),
        Claim("section 2", "tao, growth of the drift", growth["tao"], high=1.5),
        Claim("section 2", "euler, drift over that of tao", ratio, low=10),
        *(
            Claim("section 2", f"tao, {k}, symplectic", max(defects[k, "tao"]), high=1e-12)
            for k in flows
        ),
        Claim(
            "section 2",
            "conformal-euler, separable H",
            _defect(separable, "conformal-euler", few, 0.1),
            high=1e-12,
        ),
        *(
            Claim(
                "section 2", f"conformal-euler, {k}", max(defects[k, "conformal-euler"]), low=1e-6
            )
            for k in flows
        ),
        *(
            Claim(
                "section 2",
                f"{n}, {k}, order of the defect",
                -order(DEFECT_STEPS, defects[k, n]),
                low=SCHEMES[n].order + 0.7,
            )
            for k in flows
            for n in ("euler", "conformal-euler", "strang")
        ),
    ]
    numbers = {f"{n}: energy drift": v.max() for n, v in drift.items()}
    numbers |= {f"{n}: second half / first half": v for n, v in growth.items()}
    return Result(arrays, claims, numbers)


def _build(name: str, config: ConservationConfig) -> Callable[[Damping], Scheme]:
    return partial(Tao, xi=config.xi) if name == "tao" else SCHEMES[name]


def _drift(
    flow: SoftmaxFlow,
    build: Callable[[Damping], Scheme],
    start: State,
    config: ConservationConfig,
    every: int,
) -> np.ndarray:
    """(H - H_0) / |H_0| along the run, up to where it diverges, if it does."""
    try:
        path = follow(build(UNDAMPED), flow, start, config.h, config.steps, every=every)
    except DivergenceError as error:
        path = State(error.x, error.p)
    energy = hamiltonian(flow(path.x), path.p)
    return ((energy - energy[0]) / energy[0].abs()).numpy()


def _derivation(flow: EnergyFlow, state: State) -> float:
    """Largest relative difference of the field from ∂H/∂p, -∂H/∂x by automatic derivation."""
    x, p = (v.clone().requires_grad_() for v in state)
    at = flow(x)
    dx, dp = torch.autograd.grad(hamiltonian(at, p), (x, p))
    gaps = (at.velocity(p) - dp).abs().max() / dp.abs().max(), (at.force(p) + dx).abs().max()
    return max(gaps[0].item(), (gaps[1] / dx.abs().max()).item())


def _change(flow: EnergyFlow, state: State) -> float:
    """Largest relative change of H along the undamped path by DOP853, up to t = 1."""
    path = exact(flow, UNDAMPED, state, np.linspace(0, 1, 11).tolist())
    H = torch.stack([hamiltonian(flow(at.x), at.p) for at in path])
    return ((H - H[0]) / H[0]).abs().max().item()


def _forms(A: Tensor, B: Tensor, start: State) -> float:
    """Largest distance of the positions of (S) and of (U), both by DOP853, damped and not."""
    momentum, velocity = SoftmaxFlow(A, B), VelocityFlow(A, B)
    fast = State(start.x, momentum(start.x).velocity(start.p))
    times, gap = np.linspace(1.0, 1.4, 5).tolist(), 0.0
    for schedule in (UNDAMPED, damping("nesterov", r=3.0)):
        pairs = zip(
            exact(momentum, schedule, start, times),
            exact(velocity, schedule, fast, times),
            strict=True,
        )
        gap = max(gap, *((s.x - u.x).abs().max().item() for s, u in pairs))
    return gap


def _defect(flow: Oracle, name: str, start: State, h: float) -> float:
    """Max |JᵀΩJ - Ω| of the map of two steps; of Tao's scheme, in its extended phase space.

    Two steps, so that a multistep method shows itself beyond its first step.
    """
    scheme, copies, shape = SCHEMES[name](UNDAMPED), 2 if name == "tao" else 1, start.x.shape

    def flow_map(z: Tensor) -> Tensor:
        first, *others = (State(*pair) for pair in z.view(copies, 2, *shape))
        state, memory = first, others[0] if others else None
        for _ in range(2):
            state, memory = scheme.step(flow, state, h, 1.0, memory)
        pairs = [state, memory] if others else [state]
        return torch.stack([torch.stack(pair) for pair in pairs]).flatten()

    z = torch.stack([torch.stack(start)] * copies).flatten()
    J = torch.autograd.functional.jacobian(flow_map, z)
    n = start.x.numel()
    unit = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=z.dtype)
    pairs, each = torch.eye(copies, dtype=z.dtype), torch.eye(n, dtype=z.dtype)
    omega = torch.kron(pairs, torch.kron(unit, each))
    return (J.mT @ omega @ J - omega).abs().max().item()


def draw(result: Result) -> "Figure":
    """Energy drift over time, and symplecticity defects against the step size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    drifts, defects, steps = [], [], result.arrays["defect steps"]
    for name in DISTINCT:
        drift = result.arrays[f"drift: {name}"]
        (line,) = left.semilogy(result.arrays["time"][1 : len(drift)], np.abs(drift[1:]), lw=0.8)
        for kind, style in (("attention", "o-"), ("regularised", "s:")):
            defect, label = result.arrays[f"defect, {kind}: {name}"], f"{name}, {kind}"
            colour = str(line.get_color())
            right.loglog(steps, defect, style, color=colour, ms=4)
            defects.append((label, steps.max(), defect[steps.argmax()], colour))
        drifts.append((name, line.get_xdata()[-1], abs(drift[-1]), str(line.get_color())))
    left.set(xlabel="t", title="|H - H₀| / |H₀|, undamped bounded flow")
    right.set(xlabel="h", title="symplecticity defect, max |JᵀΩJ - Ω|")
    right.set_xticks(steps, [f"{h:g}" for h in steps])
    right.minorticks_off()
    label_lines(left, drifts)
    label_lines(right, defects, size=7.5)
    return figure
