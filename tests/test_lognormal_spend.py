"""Log-normal spend against the multivariate normal, quadrature and the balanced design's maximum."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
import pytest
from scipy import integrate, stats

from clvmodels.models.lognormal_spend import FAMILY, LOGS, objection

THETA = {"median": 28.0, "sigma": 0.45, "tau": 0.65}


def log_density(theta, columns):
    rows = {name: np.asarray(columns[name], float) for name in FAMILY.statistics}
    # Arrays, because PyTensor keeps a plain Python float in single precision where it fits.
    return FAMILY.log_likelihood({name: np.asarray(v) for name, v in theta.items()}, rows).eval()


def test_density_is_the_multivariate_normal_of_log_baskets():
    """Baskets of one customer have covariance σ²I + τ²J on the log scale."""
    rng = np.random.default_rng(1)
    for x in (1, 2, 7):
        z = rng.lognormal(3, 0.8, x)
        covariance = THETA["sigma"] ** 2 * np.eye(x) + THETA["tau"] ** 2
        oracle = stats.multivariate_normal(np.full(x, np.log(THETA["median"])), covariance).logpdf(np.log(z))
        ours = log_density(
            THETA,
            {
                "frequency": [x],
                "log_spend": [np.log(z).sum()],
                "log_spend_squared": [(np.log(z) ** 2).sum()],
            },
        )
        np.testing.assert_allclose(ours, oracle - np.log(z).sum(), rtol=1e-12)


@pytest.mark.parametrize("x", [0, 1, 4])
def test_expected_spend_by_quadrature(x):
    """The mean of exp(m + σ²/2) under m's posterior, integrated numerically."""
    rng = np.random.default_rng(2)
    y = rng.normal(3.4, 0.5, x)
    mu, sigma, tau = np.log(THETA["median"]), THETA["sigma"], THETA["tau"]

    def weight(m):
        return stats.norm.pdf(m, mu, tau) * np.prod(stats.norm.pdf(y, m, sigma))

    top, _ = integrate.quad(lambda m: np.exp(m + sigma**2 / 2) * weight(m), mu - 8, mu + 8, epsrel=1e-11)
    bottom, _ = integrate.quad(weight, mu - 8, mu + 8, epsrel=1e-11)
    row = np.array([x, y.sum(), (y**2).sum()])
    assert FAMILY.expected_spend(FAMILY.vector(THETA), row) == pytest.approx(top / bottom, rel=1e-9)


def test_maximum_of_a_balanced_design_is_the_analysis_of_variance():
    """With x baskets each: σ² = SSW/(n(x-1)), σ² + xτ² = x Var(means); the gradient vanishes there."""
    rng = np.random.default_rng(3)
    n, x = 400, 5
    y = rng.normal(3, 0.7, (n, 1)) + rng.normal(0, 0.4, (n, x))
    within = ((y - y.mean(axis=1, keepdims=True)) ** 2).sum() / (n * (x - 1))
    between = x * y.mean(axis=1).var()
    values = [np.exp(y.mean()), np.sqrt(within), np.sqrt((between - within) / x)]
    free = [pt.dscalar(name) for name in FAMILY.parameter_names]
    rows = {
        "frequency": np.full(n, float(x)),
        "log_spend": y.sum(axis=1),
        "log_spend_squared": (y**2).sum(axis=1),
    }
    total = FAMILY.log_likelihood(dict(zip(FAMILY.parameter_names, free, strict=True)), rows).sum()
    gradient = pt.stack(pt.grad(total, free)).eval(dict(zip(free, values, strict=True)))
    # The terms that cancel are of the size of n x / σ: float precision leaves 1e-9 of it.
    np.testing.assert_allclose(gradient, 0, atol=1e-9 * n * x / values[1])


def test_mean_spend_is_the_coordinate():
    mean = FAMILY.to_coordinates(THETA)["mean_spend"]
    baskets = FAMILY.simulate(THETA, np.full(200_000, 1), np.random.default_rng(4))
    error = baskets.amount.std() / np.sqrt(len(baskets.amount))
    assert abs(baskets.amount.mean() - mean) < 4.5 * error
    assert FAMILY.expected_spend(FAMILY.vector(THETA), np.zeros(3)) == pytest.approx(mean, rel=1e-12)


def test_simulated_statistics_are_the_declared_ones():
    baskets = FAMILY.simulate(THETA, np.array([0, 1, 3]), np.random.default_rng(5))
    found = baskets.statistics(LOGS)
    logs = np.log(baskets.amount)
    np.testing.assert_allclose(found["log_spend"], [0, logs[0], logs[1:].sum()], rtol=1e-12)
    np.testing.assert_allclose(
        found["log_spend_squared"], [0, logs[0] ** 2, (logs[1:] ** 2).sum()], rtol=1e-12
    )


def test_amounts_of_zero_are_refused():
    assert "amounts above 0" in objection({"log_spend": np.array([1.0, -np.inf])})
    assert objection({"log_spend": np.array([1.0, 0.0])}) is None
