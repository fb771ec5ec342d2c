"""Matrices, exact solutions and orders: what several experiments need."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp
from torch import Tensor

from sympformer.dynamics import Damping, Oracle, State
from sympformer.errors import InputError
from sympformer.files import require_regular


def positive(rng: Generator, d: int, low: float = 0.3, high: float = 1.0) -> Tensor:
    """A symmetric positive definite matrix with eigenvalues from low to high, at random angles."""
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return torch.from_numpy(Q * np.linspace(low, high, d) @ Q.T)


def symmetric(rng: Generator, d: int) -> Tensor:
    """A symmetric matrix with eigenvalues of both signs, at most 1 in size."""
    return positive(rng, d, -0.6, 1.0)


def matrix(path: Path | None, name: str, default: Tensor) -> Tensor:
    """The matrix in a .npy or text file, or `default` where there is no file.

    Raises:
        InputError: the file is missing, is not a matrix, or does not fit the default's dimension.
    """
    if path is None:
        return default
    try:
        require_regular(path)
        array = np.load(path) if path.suffix == ".npy" else np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the matrix {name} from {path}: {error}") from None
    if array.shape != default.shape:
        raise InputError(f"{name} in {path} is {array.shape}, but must be {tuple(default.shape)}")
    return torch.from_numpy(array.astype(np.float64))


def exact(oracle: Oracle, schedule: Damping, start: State, times: Sequence[float]) -> list[State]:
    """States at `times` (the first is the start's) by a Runge-Kutta method of order 8.

    Independent of our schemes: scipy's DOP853 at relative tolerance 1e-12.
    """

    def slope(t: float, state: np.ndarray) -> np.ndarray:
        x, p = torch.from_numpy(state).reshape(2, *start.x.shape)
        at = oracle(x)
        force = at.force(p) - schedule.alpha(t) * p
        return torch.stack([at.velocity(p), force]).flatten().numpy()

    path = solve_ivp(
        slope,
        (times[0], times[-1]),
        torch.stack(start).flatten().numpy(),
        method="DOP853",
        t_eval=times,
        rtol=1e-12,
        atol=1e-13,
    )
    if not path.success:
        raise InputError(f"no exact solution up to t = {times[-1]}: {path.message}; shorten it")
    return [State(*torch.from_numpy(y).reshape(2, *start.x.shape)) for y in path.y.T.copy()]


def order(counts: ArrayLike, errors: ArrayLike) -> float:
    """Least-squares slope of -log(error) against log(count).

    Raises:
        InputError: fewer than two counts.
    """
    if np.unique(counts).size < 2:
        raise InputError(f"a slope needs two or more different values, not {counts}")
    return float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])
