"""Level predictive by laws of rates: random numbers, and the same distribution as purchase by purchase."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest
from builders import make_assumptions, make_posterior, make_summary
from scipy import stats

from clvmodels.models import registry
from clvmodels.numerics import paths, variates
from clvmodels.numerics.discounting import Flow
from clvmodels.value import Valuation, stream
from clvmodels.value.stream import windows

THETA = {
    "bg_nbd": [0.6, 4.4, 0.9, 3.4],
    "mbg_nbd": [0.6, 4.4, 0.9, 3.4],
    "pareto_nbd": [0.6, 4.4, 0.8, 20.0],
    "nbd": [0.6, 4.4],
}
SPEND = [6.25, 3.74, 15.44]
DRAWS = 4_000
ALPHA = 1e-5
"""Chance that a test of a true hypothesis fails; there are some hundred of them."""


@numba.njit
def _fill(word, step, kind, first, second, out):
    for i in range(len(out)):
        if kind == 0:
            out[i], word = variates_uniform(word, step)
        elif kind == 1:
            out[i], word = variates_normal(word, step)
        elif kind == 2:
            out[i], word = variates_gamma(word, step, first)
        elif kind == 3:
            out[i], word = variates_beta(word, step, first, second)
        else:
            out[i], word = variates_poisson(word, step, first)


variates_uniform, variates_normal, variates_gamma = variates.uniform, variates.normal, variates.gamma
variates_beta, variates_poisson = variates.beta, variates.poisson


def drawn(kind: int, first: float = 0.0, second: float = 0.0, key: int = 1) -> np.ndarray:
    out = np.empty(200_000)
    word, step = variates.stream(key, 7)
    _fill(word, step, kind, first, second, out)
    return out


LAWS = {0: stats.uniform, 1: stats.norm, 2: stats.gamma, 3: stats.beta}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(0, ()), (1, ()), (2, (6.25,)), (2, (1.0,)), (2, (0.243,)), (2, (400.0,)), (3, (0.79, 3.4))],
    ids=str,
)
def test_variates_have_their_law(kind, arguments):
    law = LAWS[kind](*arguments)
    assert stats.kstest(drawn(kind, *arguments), law.cdf).pvalue > ALPHA


@pytest.mark.parametrize("mean", [0.3, 5.0, 11.9, 12.1, 30.0, 300.0])
def test_poissons_have_their_law(mean):
    counts = np.bincount(drawn(4, mean).astype(int))
    expected = stats.poisson(mean).pmf(np.arange(len(counts))) * counts.sum()
    often = expected > 20
    distance = ((counts - expected)[often] ** 2 / expected[often]).sum()
    assert stats.chi2.sf(distance, often.sum()) > ALPHA


def test_streams_are_independent():
    one, other = drawn(0, key=1), drawn(0, key=2)
    assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / np.sqrt(len(one))
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 4.5 / np.sqrt(len(one))


def test_annuity_is_that_of_a_flow():
    for timing, period in (("continuous", 1.0), ("mid", 4.345), ("begin", 13.0), ("end", 13.0)):
        flow = Flow(delta=0.0027, horizon=100.0, timing=timing, period=period)
        periodic, _, delta, _, step, offset = flow.code()
        found = paths.annuity(100.0, delta, periodic, step, offset)
        assert found == pytest.approx(float(flow.decaying(np.zeros(()))), rel=1e-13)


def summary():
    """A zero buyer, one who bought twice, one who is busy and one who may have left."""
    columns = {
        "frequency": np.array([0.0, 2.0, 90.0, 6.0]),
        "recency": np.array([0.0, 30.0, 51.0, 20.0]),
        "T": np.array([30.0, 38.0, 52.0, 40.0]),
        "monetary_value": np.array([np.nan, 20.0, 35.0, 50.0]),
        "first_amount": np.full(4, 30.0),
    }
    return make_summary(columns)


def both(name: str, **changes) -> list[dict[str, np.ndarray]]:
    """Values by customer, orders and revenue: by laws of rates, and purchase by purchase.

    Of the latter all purchases are drawn up to a discount of exp(-9).
    """
    customers = summary()
    theta, spend = np.tile(THETA[name], (DRAWS, 1)), np.tile(SPEND, (DRAWS, 1))
    posterior = make_posterior((name, theta), ("gamma_gamma", spend))
    assumptions = make_assumptions(customers, margin=np.full(4, 0.3), **changes)
    found = []
    for seed, family in ((1, registry.purchases(name)), (2, None)):
        valued = Valuation(customers, posterior, assumptions, seed)
        with pytest.MonkeyPatch.context() as patch:
            if family is None:
                valued.purchases = replace(valued.purchases, given_alive=None)
                patch.setattr(stream, "_DRAWN", 9.0)
            (tile,) = valued.predictive()
        values = dict(enumerate(tile.value[np.argsort(tile.customers)]))
        for k in range(tile.orders.shape[1]):
            values |= {f"orders {k}": tile.orders[:, k], f"revenue {k}": tile.revenue[:, k]}
        found.append(values | {"alive": tile.alive})
    return found


CASES = {
    "forever": {},
    "long horizons": {"horizons": {"a": 26.0, "b": 500.0}, "annual_discount_rate": 0.4},
    "periods": {"timing": "mid", "period": 13.0, "horizon": 300.0},
    "undiscounted": {"annual_discount_rate": 0.0, "horizon": 260.0},
    "cost": {"cost_alive": 0.02},
}


@pytest.mark.parametrize(
    ("name", "case"),
    [("bg_nbd", case) for case in CASES]
    + [("mbg_nbd", "forever"), ("pareto_nbd", "forever"), ("pareto_nbd", "cost"), ("nbd", "forever")],
)
def test_same_distribution_as_purchase_by_purchase(name, case):
    """Means, variances and the whole distribution, of each customer's value and of what is sold.

    The distribution from 2 dollars on: far purchases, summed as a gamma, are some cents where they are few.
    """
    for (key, fast), (_, slow) in zip(*(found.items() for found in both(name, **CASES[case])), strict=True):
        least = 2.0 if isinstance(key, int) else -1.0
        assert stats.ks_2samp(np.maximum(fast, least), np.maximum(slow, least)).pvalue > ALPHA, key
        for power in (1, 2):
            one, two = (np.abs(v - slow.mean()) ** power if power == 2 else v for v in (fast, slow))
            error = np.hypot(one.std(), two.std()) / np.sqrt(DRAWS)
            assert abs(one.mean() - two.mean()) <= 4.5 * error + 1e-12, (key, power)


def test_what_is_not_drawn_one_by_one_has_the_right_variance():
    """Given rates, purchases are a compound Poisson sum: its mean and variance are known.

    A customer of known rate (huge shapes) who hardly ever leaves and buys forty times in a unit of time, so
    that windows are drawn as sums. Var = ∫ λ E[Y²] disc² ds; 6,000 draws tell 8 % of it (4.5 √(2/6,000)).
    """
    count, rate, delta = 6_000, 40.0, 0.05
    value = np.empty((1, count))
    flow = Flow(delta=delta, horizon=60.0)
    inner, near, end = windows(flow, np.array([0.0, 10.0]))
    huge, shape = 1e12, 2.0
    theta = np.tile([rate * huge, huge, 1.0, 1e12], (count, 1))
    paths.predictive_paths(
        registry.purchases("bg_nbd").p_alive,
        registry.purchases("bg_nbd").given_alive,
        registry.spend("gamma_gamma").given_history,
        True,
        theta,
        np.tile([shape, huge, huge * 5.0 / shape], (count, 1)),
        np.zeros((1, 3)),
        np.zeros((1, 2)),
        np.ones(1),
        0.0,
        np.array([0.0, 1.0, 0.0, delta, end]),
        inner,
        near,
        np.array([0.0, 10.0]),
        *variates.stream(4, 5),
        value,
        np.zeros(count),
        np.zeros((1, count)),
        np.zeros((1, count)),
    )
    mean = rate * 5.0 * -np.expm1(-delta * 60.0) / delta
    square = 5.0**2 * (1 + 1 / shape)
    variance = rate * square * -np.expm1(-2 * delta * 60.0) / (2 * delta)
    assert value.mean() == pytest.approx(mean, abs=4.5 * np.sqrt(variance / count))
    assert value.var() == pytest.approx(variance, rel=4.5 * np.sqrt(2 / count))
