"""The samplers against the radial laws they claim, and the invariants of affine maps."""

import numpy as np
import pytest
from scipy import stats

from sympformer.errors import InputError
from sympformer.lab.laws import FREEDOM, POWER, RADII, affine_residual, radii, sample


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("law", RADII)
def test_radii_follow_the_generator(law, d):
    """Density of r ∝ r^(d-1) g(r²), by quadrature on a fine grid."""
    generators = {
        "gaussian": lambda u: np.exp(-u / 2),
        "student": lambda u: (1 + u / FREEDOM) ** (-(FREEDOM + d) / 2),
        "logistic": lambda u: np.exp(-u) / (1 + np.exp(-u)) ** 2,
        "power-exponential": lambda u: np.exp(-(u**POWER) / 2),
    }
    grid = np.linspace(0, 200, 400_001)
    density = grid ** (d - 1) * generators[law](grid**2)
    cdf = np.cumsum(density) / density.sum()
    r = RADII[law](np.random.default_rng(0), 4000, d)
    assert len(r) == 4000
    assert stats.kstest(r, lambda v: np.interp(v, grid, cdf)).pvalue > 1e-3


@pytest.mark.parametrize("law", RADII)
def test_sample_has_the_mean_and_covariance(law):
    mean, covariance = np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
    x = sample(law, 40_000, mean, covariance, np.random.default_rng(1))
    np.testing.assert_allclose(x.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.1)


def test_affine_maps_keep_radii_and_nothing_else_does():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((100, 3))
    image = x @ rng.standard_normal((3, 3)) + rng.standard_normal(3)
    np.testing.assert_allclose(radii(image), radii(x), rtol=1e-10)
    assert affine_residual(x, image) < 1e-14
    assert affine_residual(x, x**3) > 0.1


def test_unknown_law():
    with pytest.raises(InputError, match="did you mean 'student'"):
        sample("studnt", 3, np.zeros(2), np.eye(2), np.random.default_rng(0))
