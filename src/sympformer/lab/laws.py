"""Elliptically contoured laws: x = m + C^½ r ω, ω uniform on the sphere, r of its own law."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from sympformer.errors import lookup

FREEDOM = 5  # degrees of freedom of the Student-t law: its variance is finite, its tail heavy
POWER = 2  # of the power-exponential law, g(u) = exp(-u^POWER / 2): lighter than Gaussian


def _gaussian(rng: Generator, n: int, d: int) -> np.ndarray:
    return np.sqrt(rng.chisquare(d, n))


def _student(rng: Generator, n: int, d: int) -> np.ndarray:
    return np.sqrt(d * rng.f(d, FREEDOM, n))


def _logistic(rng: Generator, n: int, d: int) -> np.ndarray:
    """g(u) = e^-u / (1 + e^-u)²: a Gamma law for u = r², thinned by 1 / (1 + e^-u)² ≥ 1/4."""
    u = rng.gamma(d / 2, size=8 * n + 64)
    return np.sqrt(u[rng.random(len(u)) < (1 + np.exp(-u)) ** -2][:n])


def _power_exponential(rng: Generator, n: int, d: int) -> np.ndarray:
    return (2 * rng.gamma(d / (2 * POWER), size=n)) ** (0.5 / POWER)


RADII: dict[str, Callable[[Generator, int, int], np.ndarray]] = {
    "gaussian": _gaussian,
    "student": _student,
    "logistic": _logistic,
    "power-exponential": _power_exponential,
}


def sample(
    law: str, n: int, mean: np.ndarray, covariance: np.ndarray, rng: Generator
) -> np.ndarray:
    """Draw n points `(n, d)` of a law with the given mean and covariance.

    The radii are scaled to mean square d, so that every law has covariance C, up to sampling.

    Raises:
        InputError: unknown law.
    """
    d = len(mean)
    radius = lookup(RADII, law, "law")(rng, n, d)
    radius *= np.sqrt(d / np.mean(radius**2))
    direction = rng.standard_normal((n, d))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return mean + radius[:, None] * direction @ np.linalg.cholesky(covariance).T


def radii(x: np.ndarray) -> np.ndarray:
    """Mahalanobis radii of a cloud `(n, d)` about its own mean: affine maps leave them alone."""
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    return np.sqrt((centred * np.linalg.solve(covariance, centred.T).T).sum(1))


def affine_residual(start: np.ndarray, end: np.ndarray) -> float:
    """Relative distance of `end` from the best affine image of `start`."""
    design = np.linalg.qr(np.column_stack([start, np.ones(len(start))]))[0]
    return float(np.linalg.norm(end - design @ (design.T @ end)) / np.linalg.norm(end))
