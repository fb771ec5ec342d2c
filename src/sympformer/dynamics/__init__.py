"""How a state moves: damping schedules, time discretisations, and their composition."""

from sympformer.dynamics.damping import DAMPINGS, UNDAMPED, Damping, damping
from sympformer.dynamics.integrate import DivergenceError, follow, integrate
from sympformer.dynamics.scalar import Scalar, advance
from sympformer.dynamics.state import Field, Oracle, Scheme, State, StepSize, split
from sympformer.dynamics.table import SCHEMES, register_scheme

__all__ = [
    "DAMPINGS",
    "SCHEMES",
    "UNDAMPED",
    "Damping",
    "DivergenceError",
    "Field",
    "Oracle",
    "Scalar",
    "Scheme",
    "State",
    "StepSize",
    "advance",
    "damping",
    "follow",
    "integrate",
    "register_scheme",
    "schemes",
    "split",
]


def schemes() -> list[str]:
    """Names of the time discretisations."""
    return list(SCHEMES)
