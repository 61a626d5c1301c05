"""NBD: published accuracy on CDNOW, its density, and what it says without dropout."""

from __future__ import annotations

import math

import holdout
import numpy as np
import oracles
import pytest
from scipy import stats
from scipy.special import gammaln

from clvmodels.models.registry import purchases
from clvmodels.numerics.discounting import Flow

NBD = purchases("nbd")


@pytest.fixture(scope="module")
def best(cdnow):
    return holdout.maximum(cdnow, "nbd")


def test_holdout_accuracy_on_cdnow(cdnow, best, published):
    # Three printed digits, of a sample that lacks one of the 6,919 transactions: one digit of the last.
    printed = published["CDNOW_holdout_accuracy_by_model"]["table"]["NBD"]
    assert holdout.accuracy(cdnow, "nbd", best) == pytest.approx(printed, abs=1e-3)


def test_density_is_that_of_counts_and_uniform_times():
    """x! / T^x is the density of x uniform ordered times; SciPy has the negative binomial count."""
    theta = NBD.typical[0]
    x, T = np.array([0.0, 1, 2, 7, 60, 1500]), np.array([3.0, 0.5, 39, 39, 20, 400])
    log_count = stats.nbinom.logpmf(x, theta["r"], theta["alpha"] / (theta["alpha"] + T))
    density = oracles.density(NBD, theta)(NBD.vector(theta), {"frequency": x, "T": T})
    assert density == pytest.approx(log_count + gammaln(x + 1) - x * np.log(T), rel=1e-12)


def test_a_customer_is_worth_the_present_rate_for_ever():
    draws, delta = NBD.vector(NBD.typical[0])[None], 0.0027
    r, alpha = draws[0]
    rows = np.array([[0.0, 39.0], [7.0, 30.0]])
    forever = holdout.value.residual(NBD, draws, rows, [Flow(delta=delta)])[:, 0, 0]
    assert forever == pytest.approx((r + rows[:, 0]) / (alpha + rows[:, 1]) / delta, rel=1e-10)
    assert not NBD.converges(draws)
    assert all(NBD.p_alive(draws[0], row) == 1 for row in rows)


def test_why_dropout_matters(cdnow, best):
    """Without dropout CDNOW's holdout is overstated by half, and its infinite horizon fourfold."""
    with_dropout = holdout.maximum(cdnow, "pareto_nbd")
    window = Flow(delta=0.0, horizon=cdnow.holdout)
    made = cdnow["holdout_frequency"].sum()
    assert holdout.expected(cdnow, "nbd", best, window).sum() / made == pytest.approx(1.56, abs=0.01)
    assert holdout.expected(cdnow, "pareto_nbd", with_dropout, window).sum() / made == pytest.approx(
        0.885, abs=0.01
    )
    forever = Flow(delta=math.log(1.15) / 52.1775)
    ratio = (
        holdout.expected(cdnow, "nbd", best, forever).sum()
        / holdout.expected(cdnow, "pareto_nbd", with_dropout, forever).sum()
    )
    assert ratio == pytest.approx(3.88, abs=0.01)
