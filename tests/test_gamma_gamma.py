"""Gamma-Gamma against print, and against its own story integrated over ν."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
from builders import make_assumptions, make_posterior, make_summary
from scipy.special import gammaln

from clvmodels.config import ModelConfig
from clvmodels.errors import InputError
from clvmodels.fit.priors import check_model
from clvmodels.models import registry
from clvmodels.value import Valuation

GG = registry.spend("gamma_gamma")
CDNOW = {"p": 6.25, "q": 3.74, "gamma": 15.44}
ROWS = [(1, 12.0), (2, 35.17), (7, 3.5), (29, 300.0), (600, 20.0)]


@pytest.fixture(scope="module")
def density() -> oracles.Density:
    return oracles.density(GG, CDNOW)


@pytest.fixture(scope="module")
def buyers(cdnow) -> dict[str, np.ndarray]:
    seen = cdnow["frequency"] > 0
    return {name: cdnow[name][seen] for name in GG.statistics}


def story(theta, x: float, z: float) -> tuple[float, float]:
    """Density of a mean basket z of x, and the expected mean spend, by a grid over log ν.

    Given ν the mean of x baskets is Gamma(p x, ν x). The trapezoidal rule converges
    exponentially; e^-40 of the mass is cut off.
    """
    y = np.linspace(-45, 25, 40_000) - math.log(z)
    nu, step = np.exp(y), y[1] - y[0]
    shape = theta["p"] * x
    log_prior = theta["q"] * np.log(theta["gamma"] * nu) - theta["gamma"] * nu - gammaln(theta["q"])
    log_data = shape * np.log(nu * x) + (shape - 1) * math.log(z) - nu * x * z - gammaln(shape)
    mass = step * np.exp(log_prior + log_data)
    return math.log(mass.sum()), (mass * theta["p"] / nu).sum() / mass.sum()


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("theta", GG.typical, ids=str)
def test_density_and_mean_are_the_story_integrated(density, theta, row):
    level, mean = story(theta, *row)
    columns = {"frequency": np.array([row[0]], float), "monetary_value": np.array([row[1]])}
    direct = density(GG.vector(theta), columns)[0]
    # Terms such as p x log x are some thousand in size at x = 600.
    assert direct == pytest.approx(level, abs=1e-9 * (1 + row[0] / 10))
    assert GG.expected_spend(GG.vector(theta), np.array(row, float)) == pytest.approx(mean, rel=1e-9)


def test_latent_is_the_story_integrated():
    """ν ~ Gamma(q + p x, γ + x z̄), so that ζ = p/ν has mean and variance of an inverse gamma."""
    draws = oracles.SpendCase(GG, CDNOW).draws(np.array([2.0, 50.0]), 20_000, seed=1)[:, 0]
    shape, rate = CDNOW["q"] + CDNOW["p"] * 2, CDNOW["gamma"] + 100.0
    mean = CDNOW["p"] * rate / (shape - 1)
    oracles.assert_mean_zero(draws - mean, "ζ")
    oracles.assert_mean_zero(CDNOW["p"] / draws - shape / rate, "ν")
    oracles.assert_mean_zero((draws - mean) ** 2 - mean**2 / (shape - 2), "variance")


def test_log_likelihood_of_the_sample(density, buyers, published):
    """Check 2: -4055.92 over the 946 who bought again, at the published parameters."""
    printed = published["GammaGamma_CDNOW"]
    assert printed["params"] == CDNOW
    assert len(buyers["frequency"]) == 946
    total = density(GG.vector(CDNOW), buyers).sum()
    # The maximum is flat: parameters rounded to two digits lose less than 0.01.
    assert total == pytest.approx(printed["LL"]["CLVTools_test_and_replication"], abs=0.01)
    # The paper has the density of total instead of mean spend: Σ log x less.
    in_paper = total - np.log(buyers["frequency"]).sum()
    assert round(in_paper) == printed["LL"]["paper_39wk_optimum"]


def test_log_likelihood_at_the_longer_window(density, buyers, published):
    """-4661 on the 39-week data with the parameters of 78 weeks."""
    block = published["FHL2005_RFM_CLV_customer_equity"]
    assert "4.6823/4.1904/24.4006" in block["params_78wk"]["source"]
    total = density(np.array([4.6823, 4.1904, 24.4006]), buyers).sum()
    in_paper = total - np.log(buyers["frequency"]).sum()
    assert round(in_paper) == block["LL_check"]["GG_39wk_at_78wk_params"]


def test_expected_spend_of_the_first_customers(cdnow, numbered, published):
    rows = np.column_stack([np.nan_to_num(cdnow[name][numbered]) for name in GG.statistics])
    found = [GG.expected_spend(GG.vector(CDNOW), row) for row in rows]
    printed = published["GammaGamma_CDNOW"]["E(M|x,m)_first_ten_customers"]["values"]
    # Parameters printed to two digits move these by up to 0.15 %.
    assert found[:10] == pytest.approx(printed, rel=1.5e-3)
    block = published["GammaGamma_CDNOW"]["replication"]
    precise = np.array(block["params"])
    for number, value in block["E"].items():
        assert GG.expected_spend(precise, rows[int(number) - 1]) == pytest.approx(value, rel=2e-5)


def test_population_mean_is_nine_cents_above_what_was_seen(buyers, published):
    assert published["GammaGamma_CDNOW"]["theoretical_minus_observed_mean"] == "nine cents"
    p, q, gamma = published["GammaGamma_CDNOW"]["replication"]["params"]
    theory = p * gamma / (q - 1)
    assert theory - buyers["monetary_value"].mean() == pytest.approx(0.09, abs=0.005)


def test_expected_spend_shrinks_to_the_population():
    """A weighted mean of population and own average, with weight (q-1)/(px+q-1) on the population."""
    theta, population = GG.vector(CDNOW), 6.25 * 15.44 / 2.74
    for x, z in ROWS:
        weight = 2.74 / (6.25 * x + 2.74)
        found = GG.expected_spend(theta, np.array([x, z], float))
        assert found == pytest.approx(weight * population + (1 - weight) * z, rel=1e-12)


def test_no_mean_without_a_thin_tail():
    """q <= 1: the mean of a customer without history is infinite; with history p x + q > 1 suffices."""
    heavy = np.array([[6.25, 1.0, 15.44], [6.25, 0.9, 15.44], [0.05, 0.9, 15.44]])
    assert not GG.has_mean(heavy).any()
    assert GG.has_mean(np.array([[6.25, 1.001, 15.44]])).all()
    new, seen = np.zeros(2), np.array([1.0, 30.0])
    assert [GG.expected_spend(theta, new) for theta in heavy] == [math.inf] * 3
    assert GG.expected_spend(heavy[1], seen) < math.inf
    assert GG.expected_spend(heavy[2], seen) == math.inf


def test_draws_without_a_mean_are_counted_and_refused():
    columns = {
        "frequency": [0.0, 3.0],
        "recency": [0.0, 5.0],
        "T": [9.0, 9.0],
        "monetary_value": [np.nan, 20.0],
    }
    summary = make_summary({name: np.array(column) for name, column in columns.items()})
    bought, spent = (
        np.tile([0.24, 4.4, 0.8, 2.4], (3, 1)),
        np.array([[6.0, 0.9, 15.0], [6, 4, 15], [6, 1, 15]]),
    )
    posterior = make_posterior(("bg_nbd", bought), ("gamma_gamma", spent))
    with pytest.raises(InputError, match=r"mean spend of Gamma-Gamma is infinite in 2 of 3 draws"):
        Valuation(summary, posterior, make_assumptions(summary), 1)
    model = ModelConfig(family="gamma_gamma", fixed={"p": 6.0, "q": 0.9, "gamma": 15.0})
    with pytest.raises(InputError, match=r"models.spend.fixed: the mean spend of Gamma-Gamma is infinite"):
        check_model(model)
