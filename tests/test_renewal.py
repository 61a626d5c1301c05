"""Renewals with Erlang-k gaps: series, roots of unity and integrals against one another."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammaln, roots_jacobi

from clvmodels.numerics.discounting import Flow
from clvmodels.numerics.renewal import mixed_renewal_rates, renewal_rate, renewal_value
from clvmodels.numerics.special import beta_power_mean


def mixed(k, shape, a, b, v) -> np.ndarray:
    out = np.empty(k)
    mixed_renewal_rates(float(k), shape, a, b, v, out)
    return out


def by_series(k: int, shape: float, a: float, b: float, v: float) -> np.ndarray:
    """The docstring's sum over purchases, term by term in extended precision."""
    wide = np.longdouble
    shape, a, b, v = map(wide, (shape, a, b, v))
    last = k - 1
    c = shape + last
    terms = int((3 * c * v + 15 * np.sqrt((c + 1) * v * (1 + v)) + 60 * (1 + v)) / k) + 60
    m = np.arange(1, terms, dtype=wide)
    step = np.log((b + m - 1) / (a + b + m - 1)) - k * np.log1p(1 / v)
    for i in range(k):
        step += np.log1p((c - 1) / ((m - 1) * k + 1 + i) + 1 / ((m - 1) * k + 1 + i))
    log_term = np.log(c) - (c + 1) * np.log1p(v) + np.r_[wide(0), np.cumsum(step)]
    m = np.arange(1, terms + 1, dtype=wide)
    out = np.empty(k)
    for j in range(last, -1, -1):
        out[j] = np.exp(log_term).sum()
        if j:
            log_term = log_term + np.log(v * (shape + j - 1) / (m * k - j))
    return out


@pytest.mark.parametrize("k", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("shape", [1e-3, 0.24, 1.8, 8.0, 60.0, 400.0])
def test_mixture_equals_its_series(k, shape):
    """In all regimes: every term, the first terms and an integral, an integral alone."""
    for a, b, v in itertools.product((0.05, 0.8, 60.0), (0.3, 40.0), (1e-70, 0.01, 0.7, 9.0, 80.0, 2e3)):
        if shape * v > 3e4:
            continue  # the direct sum would be long
        reference = by_series(k, shape, a, b, v)
        there = reference > 1e-290
        np.testing.assert_allclose(mixed(k, shape, a, b, v)[there], reference[there], rtol=1e-11)


@pytest.mark.parametrize("shape", [3000.0, 12_000.0])
def test_heavy_buyers(shape):
    for k, v in itertools.product((2, 8), (0.01, 0.2, 3.0)):
        np.testing.assert_allclose(
            mixed(k, shape, 0.8, 1500.0, v), by_series(k, shape, 0.8, 1500.0, v), rtol=1e-10
        )


@pytest.mark.parametrize(
    "point",
    [(2, 0.7, 0.8, 2.4, 3.0), (3, 4.2, 1.3, 5.0, 30.0), (5, 1.8, 0.6, 1.2, 0.8), (8, 30.0, 0.4, 9.0, 2.0)],
)
def test_mixture_equals_the_roots_of_unity_averaged_over_p(point):
    """E over p of c/k Σ_l ρ^(j+1-k) ω^(l(j+1)) (1 + (1 - ω^l ρ)v)^-(c+1), c = R + j, ρ = (1-p)^(1/k).

    A power series in 1 - p that is regular down to p = -k/v or so: a Gauss rule of 200 points.
    """
    k, shape, a, b, v = point
    x, w = roots_jacobi(200, b - 1, a - 1)
    rho, root = ((1 - x) / 2)[:, None] ** (1 / k), np.exp(2j * np.pi * np.arange(k) / k)
    found = []
    for j in range(k):
        c = shape + j
        given = c / k * rho ** (j + 1 - k) * root ** (j + 1) * (1 + (1 - root * rho) * v) ** -(c + 1)
        found.append(w @ given.real.sum(axis=1) / w.sum())
    np.testing.assert_allclose(mixed(*point), found, rtol=1e-9)


def test_one_phase_is_the_beta_mean_of_an_exponential():
    for shape, a, b, v in itertools.product(
        (0.24, 3.0, 200.0), (0.3, 1.5), (0.6, 40.0), (0.0, 0.1, 5.0, 1e4)
    ):
        exact = shape * beta_power_mean(shape + 1.0, a, b, v)
        assert mixed(1, shape, a, b, v)[0] == pytest.approx(exact, rel=1e-10)


def test_undiscounted_mixture_adds_up_to_the_mean_number_of_purchases():
    """∫ rate ds = E[1/p] = (a+b-1)/(a-1), whatever the phase; in log v up to where 1e-12 is left."""
    for k, shape, a, b in ((2, 0.7, 3.0, 2.4), (6, 1.8, 2.5, 4.0), (4, 20.0, 4.0, 30.0)):
        x, w = np.polynomial.legendre.leggauss(20)
        u = (np.arange(-20, 60)[:, None] + (x + 1) / 2).ravel()  # v from e^-20 to e^60
        rates = np.array([mixed(k, shape, a, b, v) for v in np.exp(u)])
        totals = (np.tile(w / 2, 80) * np.exp(u)) @ rates
        assert totals == pytest.approx((a + b - 1) / (a - 1), rel=1e-7)


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 1 - 1e-7, 1.0])
@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_rate_given_latents_is_the_sum_over_purchases(k, p):
    lam, m = 1.7, np.arange(1, 400)
    for j, s in itertools.product(range(k), (0.01, 0.8, 5.0, 40.0)):
        i = m * k - j - 1
        with np.errstate(divide="ignore"):
            survived = (m - 1) * np.log1p(-p) if p < 1 else np.where(m == 1, 0.0, -np.inf)
        terms = np.exp(survived + math.log(lam) + i * math.log(lam * s) - lam * s - gammaln(i + 1))
        assert renewal_rate(k, j, lam, p, s) == pytest.approx(terms.sum(), abs=1e-8 * lam)


@pytest.mark.parametrize("timing", ["continuous", "mid", "end"])
@pytest.mark.parametrize(("k", "j", "p"), [(1, 0, 0.2), (2, 1, 0.05), (3, 0, 0.4), (8, 5, 0.1)])
def test_value_given_latents_is_the_rate_discounted(k, j, p, timing):
    lam = 2.3
    for flow in (
        Flow(delta=0.1, horizon=6.5, timing=timing),
        Flow(delta=0.0, horizon=3.0, timing=timing),
        Flow(delta=0.2, timing=timing),
    ):
        end = min(flow.horizon, 160.0)

        def discounted(s, flow=flow):
            return renewal_rate(k, j, lam, p, s) * float(flow.discount(np.array(s)))

        edges = np.unique(np.r_[np.arange(0.0, math.ceil(end)), end])
        total = sum(quad(discounted, low, high)[0] for low, high in itertools.pairwise(edges))
        assert renewal_value(k, j, lam, p, flow.code()) == pytest.approx(total, rel=1e-7)


def test_undiscounted_value_is_the_mean_number_of_purchases():
    for k, p in itertools.product((1, 2, 5, 8), (0.01, 0.5, 0.99)):
        value = renewal_value(k, k // 2, 1.3, p, Flow(delta=0.0).code())
        assert value == pytest.approx(1 / p, rel=1e-7)
    assert renewal_value(3.0, 0.0, 0.0, 0.4, Flow(delta=0.0).code()) == 0.0
