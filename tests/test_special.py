"""beta_power_mean against mpmath and against its own contiguous relations."""

from __future__ import annotations

import itertools
import math

import mpmath as mp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaln

from clvmodels.numerics import special
from clvmodels.numerics.special import (
    beta_power_mean,
    beta_share,
    beta_share_along,
    beta_shares,
    beta_staying,
)

# The docstring's claim: relative error below 5e-11 on this domain.
CLAIM = 5e-11

GRID = list(
    itertools.product(
        (1e-3, 0.3, 1.243, 2.0, 3.2, 24.9, 25.5, 301.0),
        (0.05, 0.3, 0.793, 0.999999999, 1.0000001, 2.5, 20.0, 200.0),
        (0.05, 0.207, 2.426, 30.0, 1502.4),
        (1e-8, 0.01, 0.5, 1.4, 1.6, 30.0, 3e3, 1e6, 1e12),
    )
)


def hyp2f1(c: float, a: float, b: float, v: float) -> mp.mpf:
    """₂F₁(c, a; a+b; -v) after Pfaff, at 60 digits: with 30 mpmath itself is wrong for large b."""
    with mp.workdps(60):
        c, a, b, v = map(mp.mpf, (c, a, b, v))
        return (1 + v) ** -a * mp.hyp2f1(a, a + b - c, a + b, v / (1 + v), maxterms=10**6)


def test_against_mpmath():
    picked = np.random.default_rng(5).choice(len(GRID), 220, replace=False)
    for k in picked:
        reference = hyp2f1(*GRID[k])
        if reference > 1e-280:
            assert beta_power_mean(*GRID[k]) == pytest.approx(float(reference), rel=CLAIM), GRID[k]


@pytest.mark.parametrize(
    "point",
    [
        # The corners of the design: a near 1, a + b near 1, x = 0 and x = 1,500 (c = r + x + 1).
        (1.243, 0.9999999, 2.426, 2.0),
        (1.243, 1.0000001, 2.426, 2.0),
        (1.243, 0.4, 0.6, 5.0),
        (1.243, 0.4, 0.6000001, 1e5),
        (1501.243, 0.793, 1502.426, 0.9),
        (1501.243, 0.793, 1502.426, 400.0),
        (1501.243, 1.0000001, 1500.6, 1e4),
        (601.243, 0.793, 602.426, 1.0),
        # Peaks that are narrow, masses beside both ends, and a c - a that is an integer.
        (3.0, 50.0, 2.4, 72000.0),
        (1.243, 200.0, 1502.4, 30.0),
        (25.5, 0.05, 0.05, 10.0),
        (2.5, 1.5, 3.0, 40.0),
        (2.51, 1.5, 3.0, 40.0),
        (4.0, 4.0, 4.0, 1e3),
    ],
)
def test_corners_against_quadrature(point):
    c, a, b, v = point
    with mp.workdps(25):
        reference = oracles.beta_mean(a, b, lambda p: (1 + p * v) ** -mp.mpf(c))
    assert beta_power_mean(*point) == pytest.approx(float(reference), rel=CLAIM)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    c=st.floats(-3, math.log10(1500)).map(lambda u: 10**u),
    a=st.floats(math.log10(0.05), math.log10(200)).map(lambda u: 10**u),
    b=st.floats(math.log10(0.05), math.log10(1500)).map(lambda u: 10**u),
    v=st.floats(-8, 8).map(lambda u: 10**u),
)
def test_contiguous_relation(c, a, b, v):
    """E[(1+pv)^-c] = E[(1+pv)^-(c+1)] + v E[p (1+pv)^-(c+1)]; E[p f(p)] is a mean under Beta(a+1, b).

    All terms are positive, so that errors do not grow: each side is within the claim.
    """
    whole = beta_power_mean(c, a, b, v)
    part = v * a / (a + b) * beta_power_mean(c + 1, a + 1, b, v)
    assert whole == pytest.approx(beta_power_mean(c + 1, a, b, v) + part, rel=3 * CLAIM, abs=1e-280)


@pytest.mark.parametrize(("c", "a", "b"), [(1.243, 0.793, 2.426), (301.0, 1.0, 30.0), (0.5, 20.0, 0.3)])
def test_integral_identity(c, a, b):
    """∫₀^v E[p (1+pu)^-(c+1)] du = (1 - E[(1+pv)^-c]) / c."""
    x, w = np.polynomial.legendre.leggauss(60)
    for v in (0.1, 3.0, 1e4):
        top = math.log1p(v)
        u = np.expm1(top * (x + 1) / 2)
        inside = [a / (a + b) * beta_power_mean(c + 1, a + 1, b, t) * (1 + t) for t in u]
        # 60 nodes in log(1 + u) leave 1e-12 of the integral.
        assert np.dot(w, inside) * top / 2 == pytest.approx((1 - beta_power_mean(c, a, b, v)) / c, rel=1e-9)


def test_without_argument_it_is_one():
    for c, a, b, _ in GRID[::97]:
        assert beta_power_mean(c, a, b, 0.0) == 1.0


def test_falls_and_stays_within_jensen():
    """Convexity: (1 + v E[p])^-c is a lower bound; the mean is at most 1."""
    for c, a, b, v in GRID:
        value = beta_power_mean(c, a, b, v)
        assert 0 <= value <= 1 + CLAIM
        assert value >= (1 + v * a / (a + b)) ** -c * (1 - CLAIM)


def test_the_ways_agree_where_several_are_open():
    """Trapezoidal rule, Pfaff series and reflected series are three computations."""
    both = 0
    for c, a, b, v in GRID[::3]:
        slow = special._trapezoid(c, a, b, v)
        for quick in (special._pfaff(c, a, b, v), special._reflected(c, a, b, v) if v > 1.5 else -1.0):
            if quick > 1e-280:
                both += 1
                assert quick == pytest.approx(slow, rel=2 * CLAIM)
    assert both > 200


def test_log_beta():
    for a, b in itertools.product((0.05, 1.0, 7.3, 1500.0), repeat=2):
        assert special.log_beta(a, b) == pytest.approx(betaln(a, b), rel=1e-11, abs=1e-11)


def test_logistic_of_difference():
    for z in (-800.0, -40.0, -1.0, 0.0, 1.0, 40.0, 700.0):
        assert special.logistic_of_difference(z, 0.0) == pytest.approx(float(1 / (1 + mp.exp(z))), rel=1e-15)
        assert special.logistic_of_difference(z + 5, 5.0) == pytest.approx(
            float(1 / (1 + mp.exp(z))), rel=1e-15
        )
    assert special.logistic_of_difference(1e6, 0.0) == 0.0
    assert special.logistic_of_difference(-math.inf, 0.0) == 1.0


def shares_on_the_line(a, b, v):
    """Both shares, and the derivatives of the second by log a, log b and log v, by the trapezoidal rule.

    In u = logit p the integrands are analytic within π of the real line: with steps of 0.6/√(a+b) widths
    of the peak, and 0.2 at most, the rule is right to the rounding of 80 bits.
    """
    mode, step = np.log(a / b), min(0.2, 0.6 / math.sqrt(a + b))
    u = np.arange(mode - 40 / min(a, 1) - 40, mode + 40 / min(b, 1) + 40, step).astype(np.longdouble)
    log_p, log_q = -np.logaddexp(0, -u), -np.logaddexp(0, u)
    weight = np.exp(a * log_p + b * log_q - (a * log_p + b * log_q).max())
    weight /= weight.sum()
    first, second = 1 / (1 + v * np.exp(-u)), 1 / (1 + np.exp(u) / v)
    mean = weight @ second
    slopes = [
        a * weight @ (second * (log_p - weight @ log_p)),
        b * weight @ (second * (log_q - weight @ log_q)),
    ]
    return weight @ first, mean, [*slopes, weight @ (first * second)]


def test_beta_shares_and_slopes():
    rng = np.random.default_rng(4)
    for k in range(60):
        a, b = np.exp(rng.uniform(np.log(0.02), np.log(1500), 2))
        v = float(np.exp(rng.uniform(-1, 1) * np.log((3, 1e4, 1e6)[k % 3])))
        first, second, slopes = shares_on_the_line(a, b, v)
        assert beta_shares(a, b, v) == pytest.approx((float(first), float(second)), rel=2e-12), (a, b, v)
        value, *found = beta_share(a, b, v)
        assert value == pytest.approx(float(second), rel=2e-12)
        room = 1e-9 * float(min(first, second))  # derivatives lose some digits where terms are many
        assert np.array([a, b, v]) * found == pytest.approx(np.array(slopes, float), abs=room), (a, b, v)


@pytest.mark.parametrize(("n", "held"), [(0, ""), (1, ""), (31, "b"), (32, "av"), (75, ""), (200, "ab")])
def test_beta_share_along_vectors(n, held):
    """As one by one, whatever stands beside an entry: near 1 and far from it, 0 and not a number.

    Both stop where less than 1e-13 is left, and their derivatives as the test above allows.
    """
    rng = np.random.default_rng(n)
    a, b = np.exp(rng.uniform(np.log(0.02), np.log(1500), (2, n)))
    v = np.exp(rng.uniform(-1, 1, n) * np.where(np.arange(n) < 64, 1.4, 12.0))
    a, b, v = (x[:1] if name in held else x for name, x in zip("abv", (a, b, v), strict=True))
    if n == 200:
        v[[40, 140]] = np.nan, 0.0
    found = beta_share_along(a, b, v)
    assert found.shape == (4, n)
    for i, row in enumerate(np.broadcast(a, b, v) if n else []):
        one, have = np.array(beta_share(*map(float, row))), found[:, i]
        if not row[2] > 0:
            np.testing.assert_array_equal(have, one if row[2] == 0 else np.nan)
            continue
        room = 1e-9 * min(one[0], 1 - one[0]) / np.array(row)
        assert min(have[0], 1 - one[0]) > 0
        assert have[0] == pytest.approx(one[0], rel=1e-12)
        assert (np.abs(have[1:] - one[1:]) <= room).all(), row


def test_neighbours_change_no_bit_of_a_share():
    """In any order, and alone."""
    rng = np.random.default_rng(1)
    a, b = np.exp(rng.uniform(-2, 4, (2, 100)))
    v = np.exp(rng.uniform(-1.2, 1.2, 100) * (np.arange(100) < 90) * rng.integers(0, 2, 100))
    v[90:] = np.exp(rng.uniform(-9, 9, 10))  # those that need many terms
    a[85:90] = 10.0 ** np.arange(4, 9)  # and those whose products would overflow
    found, order = beta_share_along(a, b, v), rng.permutation(100)
    for i in range(85, 90):
        np.testing.assert_array_equal(found[:, i], beta_share(a[i], b[i], v[i]))
    np.testing.assert_array_equal(beta_share_along(a[order], b[order], v[order]), found[:, order])
    for i in range(0, 100, 7):
        np.testing.assert_array_equal(
            beta_share_along(a[i : i + 1], b[i : i + 1], v[i : i + 1])[:, 0], found[:, i]
        )


def test_beta_shares_far_out():
    """One of two exponential clocks is almost surely first; equal clocks share as their shapes."""
    assert beta_shares(3.0, 5.0, 1.0) == pytest.approx((3 / 8, 5 / 8), rel=1e-14)
    # E[(1-p)/p] v to the first order in v, for a > 1.
    assert beta_shares(40.0, 2.0, 1e-9)[1] == pytest.approx(2 / 39 * 1e-9, rel=1e-6)
    assert beta_shares(2.0, 40.0, 1e9)[0] == pytest.approx(2 / 39 * 1e-9, rel=1e-6)
    # b and v to the limit in which 1-p is b^-1 times a gamma: the exponential integral, scaled.
    assert beta_shares(1.0, 1e6, 1e-6)[1] == pytest.approx(float(mp.e * mp.e1(1)), rel=1e-5)


@pytest.mark.parametrize("n", [0, 1, 5, 31, 32, 33, 60, 3000])
@pytest.mark.parametrize(("a", "b"), [(1e-3, 1e-3), (1e-3, 40.0), (0.8, 2.4), (0.3, 2000.0), (300.0, 0.5)])
def test_the_chance_of_staying_n_times(a, b, n):
    """log E[(1-p)^n] and its slopes by mpmath.

    Sums of at most 32 terms round by a few eps; two series of size n log(n + b), of which the difference
    is taken, by a few eps of theirs.
    """
    mp.mp.dps = 40
    A, B = mp.mpf(a), mp.mpf(b)
    exact = (
        mp.loggamma(B + n) + mp.loggamma(A + B) - mp.loggamma(B) - mp.loggamma(A + B + n),
        mp.digamma(A + B) - mp.digamma(A + B + n),
        mp.digamma(B + n) - mp.digamma(B) + mp.digamma(A + B) - mp.digamma(A + B + n),
    )
    for found, want in zip(beta_staying(a, b, float(n)), map(float, exact), strict=True):
        assert found == pytest.approx(want, rel=1e-13, abs=1e-15 * (1 + n * np.log(n + b + 32)))
