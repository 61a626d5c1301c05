"""MBG/NBD against print, and against the BG/NBD of those who survive their first purchase."""

from __future__ import annotations

import holdout
import numpy as np
import oracles
import pytest
from builders import make_summary
from scipy.special import hyp2f1

from clvmodels.config import FitConfig, ModelConfig
from clvmodels.fit import fit_family, measure
from clvmodels.models import registry
from clvmodels.numerics.discounting import Flow
from clvmodels.value import expected_purchases

MBG, BG = registry.purchases("mbg_nbd"), registry.purchases("bg_nbd")
ROWS = np.array(
    [(0, 0, 38.86), (1, 0.2, 38.0), (2, 30.43, 38.86), (7, 35, 77.86), (29, 35, 38), (1500, 90, 90.0)]
)


@pytest.fixture(scope="module")
def printed(published) -> dict[str, float]:
    return published["MBG_NBD_CDNOW"]["params"]


@pytest.fixture(scope="module")
def best(cdnow):
    """The maximum of the likelihood, week 39."""
    return holdout.maximum(cdnow, "mbg_nbd")


def surviving(theta: np.ndarray) -> np.ndarray:
    """p of those who did not leave after the first purchase is Beta(a, b + 1)."""
    r, alpha, a, b = theta
    return np.array([r, alpha, a, b + 1])


# ---------------------------------------------------------------- print


def test_cdnow_week_39(best, printed):
    for name in MBG.parameter_names:
        assert best[name] == pytest.approx(printed[name], abs=5e-4), name
    # Our own fit: no text that prints it could be read.
    assert best["log_likelihood"] == pytest.approx(-9582.136, abs=5e-4)


def test_holdout_accuracy_on_cdnow(cdnow, best, published):
    # Three printed digits, of a sample that lacks one of the 6,919 transactions: one digit of the last.
    table = published["CDNOW_holdout_accuracy_by_model"]["table"]
    assert holdout.accuracy(cdnow, "mbg_nbd", best) == pytest.approx(table["CBG/NBD (=MBG/NBD)"], abs=1e-3)


def test_expected_purchases_are_the_published_form(printed):
    """E[Y(t)] = P(alive) (a+b+x)/(a-1) [1 - ((α+T)/(α+T+t))^(r+x) ₂F₁(r+x, b+x+1; a+b+x; t/(α+T+t))]."""
    theta = MBG.vector(printed)
    r, alpha, a, b = theta
    for row, t in ((ROWS[0], 39.0), (ROWS[2], 39.0), (ROWS[3], 100.0)):
        x, _, T = row
        series = hyp2f1(r + x, b + x + 1, a + b + x, t / (alpha + T + t))
        exact = (a + b + x) / (a - 1) * (1 - ((alpha + T) / (alpha + T + t)) ** (r + x) * series)
        found = expected_purchases(MBG, theta[None], row[None], [Flow(delta=0.0, horizon=t)])[0, 0, 0]
        assert found == pytest.approx(MBG.p_alive(theta, row) * exact, rel=1e-9)
    row = np.array([[2, 30.43, 38.86]])
    found = expected_purchases(MBG, theta[None], row, [Flow(delta=0.0, horizon=39.0)])[0, 0, 0]
    assert found == pytest.approx(1.262961, abs=5e-7)


# ---------------------------------------------------------------- the first purchase


@pytest.mark.parametrize("theta", MBG.typical, ids=str)
def test_density_is_a_mixture_over_the_first_purchase(theta):
    """b/(a+b) of the customers are a BG/NBD with b + 1; the others never buy again."""
    vector = MBG.vector(theta)
    columns = dict(zip(("frequency", "recency", "T"), ROWS.T, strict=True))
    stays = theta["b"] / (theta["a"] + theta["b"])
    later = oracles.density(BG, theta)(surviving(vector), columns)
    exact = np.logaddexp(np.log(stays) + later, np.where(ROWS[:, 0] == 0, np.log1p(-stays), -np.inf))
    np.testing.assert_allclose(oracles.density(MBG, theta)(vector, columns), exact, rtol=1e-12)


@pytest.mark.parametrize("theta", MBG.typical, ids=str)
def test_the_living_are_those_of_the_bg_nbd(theta):
    vector = MBG.vector(theta)
    for row in ROWS:
        for s in (0.0, 1.0, 50.0, 1e4):
            assert MBG.rate(vector, row, s) == BG.rate(surviving(vector), row, s)
        assert MBG.total(vector, row) == pytest.approx(BG.total(surviving(vector), row), rel=1e-14)
        if row[0] > 0:
            assert MBG.p_alive(vector, row) == pytest.approx(BG.p_alive(surviving(vector), row), rel=1e-14)


def test_one_time_buyers_may_be_gone(best):
    vector = MBG.vector(best)
    stays = best["b"] / (best["a"] + best["b"])
    chances = [MBG.p_alive(vector, np.array([0.0, 0.0, T])) for T in (0.0, 1.0, 10.0, 39.0, 1e4)]
    assert chances[0] == pytest.approx(stays, rel=1e-15)
    assert (np.diff(chances) < 0).all()
    assert 0 < chances[-1] < 0.05


def test_a_new_customer_is_worth_a_survivor_with_probability_b(best):
    vector = MBG.vector(best)
    new, flows = np.zeros((1, 3)), [Flow(delta=0.0027), Flow(delta=0.0027, horizon=52.0)]
    one = expected_purchases(MBG, vector[None], new, flows)
    survivor = expected_purchases(BG, surviving(vector)[None], new, flows)
    np.testing.assert_allclose(one, survivor * best["b"] / (best["a"] + best["b"]), rtol=1e-14)


# ---------------------------------------------------------------- recovery


def test_recovers_its_own_simulator():
    theta = MBG.typical[0]
    T = np.random.default_rng(4).uniform(26, 78, 8000)
    histories = MBG.simulate(theta, T, np.random.default_rng(5))
    summary = make_summary(histories.statistics(T))
    rows = summary.fold(MBG.statistics)
    posterior = fit_family(
        MBG, rows, ModelConfig(family="mbg_nbd"), FitConfig(draws=1000), 6, measure(summary)
    )
    draws = np.log(posterior.flat)
    z = (draws.mean(axis=0) - np.log(MBG.vector(theta))) / draws.std(axis=0)
    assert (np.abs(z) < oracles.Z).all(), z
    assert (draws.std(axis=0) < 0.2).all()
