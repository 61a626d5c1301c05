"""Pareto/NBD: published numbers on CDNOW, and its integral against mpmath where it is awkward."""

from __future__ import annotations

import datetime as dt
import itertools
import json

import holdout
import mpmath as mp
import numpy as np
import oracles
import pytest
from conftest import REFERENCE
from scipy import stats

from clvmodels import value
from clvmodels.config import DataConfig
from clvmodels.data import summarise
from clvmodels.models import pareto_nbd
from clvmodels.models.registry import purchases
from clvmodels.numerics.discounting import Flow

PARETO = purchases("pareto_nbd")
NAMES = PARETO.parameter_names


@pytest.fixture(scope="module")
def reference():
    return json.loads((REFERENCE / "pareto_nbd.json").read_text())


@pytest.fixture(scope="module")
def best(cdnow):
    """The maximum of the likelihood, week 39."""
    return holdout.maximum(cdnow, "pareto_nbd")


@pytest.fixture(scope="module")
def walkthrough(published):
    """Numbers of the BTYD walkthrough, and its parameters as one draw."""
    numbers = published["BTYD_walkthrough_CDNOW"]["Pareto/NBD"]
    return numbers, np.array([[numbers[name] for name in NAMES]])


def purchases_by(draws, rows, *horizons):
    flows = [Flow(delta=0.0, horizon=h) for h in horizons]
    return value.expected_purchases(PARETO, draws, np.array(rows, float), flows)[0]


# ---------------------------------------------------------------- published


def test_cdnow_week_39(best, published):
    printed = published["FHL2005_counting_easy_way"]["Pareto/NBD"]
    for name in NAMES:
        assert best[name] == pytest.approx(printed[name], abs=5.1e-4), name
    ll = published["BTYD_walkthrough_CDNOW"]["Pareto/NBD"]["LL"]
    assert best["log_likelihood"] == pytest.approx(ll, abs=5.1e-4)


def test_cdnow_week_78(reference):
    summary = summarise(DataConfig(source="cdnow_sample", observation_end=dt.date(1998, 6, 30)))
    found = holdout.maximum(summary, "pareto_nbd")
    # Maximisers stop where the likelihood is flat: four digits agree among the sources.
    for name, value_ in reference["week_78_fit"]["params"].items():
        assert found[name] == pytest.approx(value_, rel=1e-4), name


def test_holdout_accuracy_on_cdnow(cdnow, best, published):
    # Three printed digits, of a sample that lacks one of the 6,919 transactions: one digit of the last.
    table = published["CDNOW_holdout_accuracy_by_model"]["table"]
    assert holdout.accuracy(cdnow, "pareto_nbd", best) == pytest.approx(table["Pareto/NBD"], abs=1e-3)


def test_expected_purchases_of_a_new_customer(best, walkthrough, reference):
    new = [[0, 0, 0]]
    here = purchases_by(PARETO.vector(best)[None], new, 52)[0, 0]
    assert here == pytest.approx(walkthrough[0]["E[X(52)]"], rel=1e-4)  # at a maximum found elsewhere
    printed = reference["expected_purchases"]
    draws = PARETO.vector(printed["params"])[None]
    found = purchases_by(draws, new, *range(1, 10))[0]
    assert found == pytest.approx(printed["E[X(0..9)]"][1:], abs=5.1e-9)


def test_customer_1516(walkthrough):
    """The walkthrough's numbers come from unrounded parameters: three digits at those printed."""
    numbers, draws = walkthrough
    customer = numbers["cust1516"]
    row = [customer["x"], customer["t_x"], customer["T"]]
    assert purchases_by(draws, [row], 52)[0, 0] == pytest.approx(customer["CET_52"], rel=5e-4)
    assert PARETO.p_alive(draws[0], np.array(row)) == pytest.approx(customer["P_alive"], abs=2e-6)


def test_increasing_frequency_paradox(walkthrough):
    """With t_x = 20 of T = 39 more purchases mean fewer to come; unrounded parameters again."""
    numbers, draws = walkthrough
    for x, printed in numbers["increasing_frequency_T39_tx20_52w"].items():
        assert purchases_by(draws, [[int(x), 20, 39]], 52)[0, 0] == pytest.approx(printed, rel=1e-3)


def test_holdout_by_calibration_frequency(cdnow, best, walkthrough):
    numbers = walkthrough[0]["holdout_by_calibration_frequency_0..7plus"]
    group = np.minimum(cdnow["frequency"], 7).astype(int)
    count = np.bincount(group)
    expected = holdout.expected(cdnow, "pareto_nbd", best, Flow(delta=0.0, horizon=39.0))
    assert count.tolist() == numbers["n"]
    assert np.bincount(group, cdnow["holdout_frequency"]) / count == pytest.approx(
        numbers["actual"], abs=5.1e-4
    )
    assert np.bincount(group, expected) / count == pytest.approx(numbers["expected"], abs=1.1e-3)


def test_tracking(cdnow, best, walkthrough):
    """Cumulative expected purchases of the cohort, weeks 20 to 25: births staggered, as printed."""
    numbers = walkthrough[0]
    weeks = np.arange(19, 26)
    born, customers = np.unique(cdnow["T"].max() - cdnow["T"], return_counts=True)
    ages = np.unique((weeks[:, None] - born).ravel())
    draws = PARETO.vector(best)[None]
    by_age = dict(zip(ages, purchases_by(draws, [[0, 0, 0]], *ages)[0], strict=True))
    total = np.array([sum(n * by_age[w - b] for b, n in zip(born, customers, strict=True)) for w in weeks])
    assert total[1:] == pytest.approx(numbers["cum_expected_w20_25"], rel=1e-4)
    assert np.diff(total) == pytest.approx(numbers["weekly_expected_w20_25"], rel=1e-4)


def test_dert(reference):
    numbers = reference["DERT"]
    draws, T = PARETO.vector(numbers["params"])[None], numbers["T"]
    rows = np.array([[7, 35, T], [1, 30, T], [0, 0, 0]], float)
    found = value.expected_purchases(PARETO, draws, rows, [Flow(delta=numbers["delta"])])[0, :, 0]
    printed = [numbers["x7_tx35"], numbers["x1_tx30"], numbers["just_acquired"]]
    assert found == pytest.approx(printed, abs=5.1e-7)
    # FHL (2005), equation 2: Ψ is Tricomi's function.
    r, alpha, s, beta = map(mp.mpf, draws[0])
    delta = mp.mpf(numbers["delta"])
    for row, have in zip(rows, found, strict=True):
        b = beta + row[2]
        tricomi = mp.exp(delta * b) * mp.gammainc(1 - s, delta * b)
        exact = (r + row[0]) / (alpha + row[2]) * b**s * delta ** (s - 1) * tricomi
        assert have == pytest.approx(float(exact) * PARETO.p_alive(draws[0], row), rel=1e-9)


# ---------------------------------------------------------------- the integral


def corner_grid():
    """θ and rows: α and β 10,000 apart, shapes near 0, x to 1,500, T from t_x to 400; every fifth."""
    shapes = [0.05, 0.606, 3.0]
    thetas = itertools.product(shapes, [0.05, 10.6, 500.0], shapes, [0.05, 11.7, 500.0])
    rows = [
        (0.0, 0.0, 0.0),
        (0.0, 0.0, 1e-6),
        (0.0, 0.0, 400.0),
        (1.0, 1e-6, 39.0),
        (2.0, 30.43, 38.86),
        (40.0, 3.0, 400.0),
        (1500.0, 75.0, 75.0),
        (1500.0, 200.0, 200.5),
        (1500.0, 75.0, 400.0),
    ]
    for theta, row in itertools.islice(itertools.product(thetas, rows), 0, None, 5):
        yield np.array(theta), np.array(row)


def log_integral(theta, row):
    """log ∫ (α+τ)^-(r+x) (β+τ)^-(s+1) dτ from t_x to T, relative to the integrand at t_x; and log of that.

    By 30 Gauss-Legendre nodes on panels that double, from well within the steepest fall on, so that the
    integrand is smooth on each: to rounding, which a test against mpmath says.
    """
    r, alpha, s, beta = theta
    x, t_x, T = row
    R, a, b = r + x, alpha + t_x, beta + t_x
    step = min(a / R, b / (s + 1)) / 4
    cuts = np.concatenate([[0], step * (2.0 ** np.arange(1, 60) - 1)])
    cuts = np.append(cuts[cuts < T - t_x], T - t_x)
    nodes, weights = np.polynomial.legendre.leggauss(30)
    u = (cuts[:-1, None] + cuts[1:, None]) / 2 + np.diff(cuts)[:, None] / 2 * nodes
    height = np.exp(-R * np.log1p(u / a) - (s + 1) * np.log1p(u / b))
    return np.log((height @ weights * np.diff(cuts) / 2).sum()), -R * np.log(a) - (s + 1) * np.log(b)


def test_the_oracle_of_the_integral_is_exact():
    for theta, row in itertools.islice(corner_grid(), 3, None, 29):
        r, alpha, s, beta = map(mp.mpf, theta)
        x, t_x, T = map(mp.mpf, row)
        if t_x < T:

            def height(u, R=r + x, a=alpha + t_x, S=s + 1, b=beta + t_x):
                return mp.exp(-R * mp.log1p(u / a) - S * mp.log1p(u / b))

            first = min((alpha + t_x) / (r + x), (beta + t_x) / (s + 1))
            cuts = [c for c in [0] + [first * 4**k for k in range(-1, 40)] if c < T - t_x] + [T - t_x]
            assert log_integral(theta, row)[0] == pytest.approx(
                float(mp.log(mp.quad(height, cuts))), abs=1e-13
            )


def test_density_and_p_alive_at_the_corners():
    """Against the likelihood as its authors wrote it, the integral taken as it stands.

    The two shares are right to 1e-12; sums of terms R log(α + t) round to 1e-15 of their size.
    """
    density = oracles.density(PARETO, PARETO.typical[0])
    for theta, row in corner_grid():
        r, alpha, s, beta = map(mp.mpf, theta)
        x, t_x, T = map(mp.mpf, row)
        left = mp.mpf(0)
        if t_x < T:
            left = s * mp.exp(sum(log_integral(theta, row)))
        alive = (alpha + T) ** -(r + x) * (beta + T) ** -s
        log_l = mp.loggamma(r + x) - mp.loggamma(r) + r * mp.log(alpha) + s * mp.log(beta)
        log_l += mp.log(alive + left)
        columns = {name: row[[j]] for j, name in enumerate(PARETO.statistics)}
        found = density(theta, columns)[0]
        assert found == pytest.approx(float(log_l), abs=1e-11 + 1e-13 * row[0]), (theta, row)
        chance = PARETO.p_alive(theta, row)
        odds_lost = float(left / (alive + left))
        assert chance == pytest.approx(
            float(alive / (alive + left)), rel=1e-11 + 1e-13 * row[0], abs=1e-300
        ), (theta, row)
        assert 1 - chance == pytest.approx(odds_lost, rel=1e-9, abs=1e-15), (theta, row)
        assert np.isfinite(density.gradient(theta, columns, np.ones(1))).all(), (theta, row)


def test_density_is_the_published_one():
    """Fader and Hardie (2005): a difference of two ₂F₁, which mpmath can evaluate, either way round."""
    for theta in PARETO.typical:
        r, alpha, s, beta = map(mp.mpf, (theta[name] for name in NAMES))
        for x, t_x, T in [(0, 0.0, 38.86), (2, 30.43, 38.86), (26, 30.86, 31.0), (3, 0.2, 39.0)]:
            N = r + s + x

            def one(t, N=N, x=x, r=r, alpha=alpha, s=s, beta=beta):
                if alpha >= beta:
                    return mp.hyp2f1(N, s + 1, N + 1, (alpha - beta) / (alpha + t)) / (alpha + t) ** N
                return mp.hyp2f1(N, r + x, N + 1, (beta - alpha) / (beta + t)) / (beta + t) ** N

            whole = 1 / ((alpha + T) ** (r + x) * (beta + T) ** s) + s / N * (one(t_x) - one(T))
            log_l = mp.loggamma(r + x) - mp.loggamma(r) + r * mp.log(alpha) + s * mp.log(beta) + mp.log(whole)
            columns = {"frequency": np.array([float(x)]), "recency": np.array([t_x]), "T": np.array([T])}
            found = oracles.density(PARETO, theta)(PARETO.vector(theta), columns)[0]
            assert found == pytest.approx(float(log_l), abs=1e-10)


def test_moment_of_leaving_has_its_density():
    """Draws put through their distribution function are uniform (Kolmogorov-Smirnov, p > 1e-6)."""
    rng = np.random.default_rng(11)
    for a, R, b, S, duration in [
        (10.6, 0.55, 11.7, 1.6, 38.0),
        (40.0, 26.6, 12.0, 1.6, 8.0),
        (0.1, 1.05, 50.0, 1.05, 400.0),
        (300.0, 1500.6, 2.0, 4.0, 60.0),
    ]:
        draws = np.array([pareto_nbd._leaving(a, R, b, S, duration, rng) for _ in range(4000)])
        assert ((draws >= 0) & (draws <= duration)).all()
        # Trapezoids in log(1 + u/m) with m the scale of the steepest fall: right to 1e-6.
        m = min(a / R, b / S)
        u = m * np.expm1(np.linspace(0, np.log1p(duration / m), 20_001))
        height = np.exp(-R * np.log1p(u / a) - S * np.log1p(u / b)) * (1 + u / m)
        mass = np.concatenate([[0], np.cumsum(height[1:] + height[:-1])])
        below = np.interp(draws, u, mass / mass[-1])
        assert stats.kstest(below, "uniform").pvalue > 1e-6


def test_one_time_buyers_can_have_left():
    # Unlike in a model where only a purchase is an occasion to leave.
    theta = PARETO.vector(PARETO.typical[0])
    assert PARETO.p_alive(theta, np.array([0.0, 0.0, 39.0])) < 0.6
