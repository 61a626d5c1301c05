"""Beta-discrete-Weibull: the sBG inside it, its survival function, its fit to published survivors."""

from __future__ import annotations

import itertools
import math

import mpmath as mp
import numpy as np
import oracles
import pytest
from scipy.optimize import minimize
from scipy.special import betaln

from clvmodels.artifacts import Rows
from clvmodels.config import FitConfig, ModelConfig
from clvmodels.fit import fit_family
from clvmodels.models import registry
from clvmodels.models._discrete import log_rising
from clvmodels.models.family import Scale
from clvmodels.numerics.discounting import Flow
from clvmodels.value import residual

BDW, SBG = registry.purchases("bdw"), registry.purchases("sbg")
POINTS = [(0.7, 3.5, 1.2), (3.0, 9.0, 0.6), (0.3, 0.02, 2.5), (20.0, 1.0, 0.1), (1e-3, 5.0, 1.0)]


def rows(survivors: list[int], years: int) -> Rows:
    left = -np.diff(survivors[: years + 1])
    x = np.arange(years + 1.0)
    stats = np.column_stack([x, np.full(years + 1, float(years))])
    weight = np.r_[left, survivors[years]].astype(float)
    return Rows(names=BDW.statistics, stats=stats, weight=weight, index=np.zeros(0, int))


def survival(theta: tuple[float, ...], t: float) -> mp.mpf:
    gamma, delta, c = (mp.mpf(value) for value in theta)
    return mp.beta(gamma, delta + mp.mpf(t) ** c) / mp.beta(gamma, delta)


# --- the sBG at c = 1 --------------------------------------------------------------------------


def test_one_is_the_sbg():
    x, T = (grid.ravel() for grid in np.meshgrid(np.arange(60.0), np.arange(60.0)))
    x, T = x[x <= T], T[x <= T]
    columns = {"frequency": x, "T": T}
    for alpha, beta in ((0.668, 3.806), (0.704, 1.182), (0.05, 0.02), (30.0, 4.0)):
        one = oracles.density(SBG, {})(np.array([alpha, beta]), columns)
        two = oracles.density(BDW, {})(np.array([alpha, beta, 1.0]), columns)
        # Differences of log Γ(100): 360 eps, of which -expm1 of a hazard of α/60 keeps 60/α eps.
        np.testing.assert_allclose(two, one, rtol=1e-11, atol=1e-12)
        small, large = np.array([[alpha, beta]]), np.array([[alpha, beta, 1.0]])
        stats = np.column_stack([T[::50], T[::50]])
        flows = [Flow(delta=0.1, timing="begin"), Flow(delta=0.0, horizon=12.0), Flow(delta=0.001)]
        np.testing.assert_allclose(
            residual(BDW, large, stats, flows), residual(SBG, small, stats, flows), rtol=1e-11
        )
        if alpha > 1:
            assert BDW.total(large[0], stats[5]) == pytest.approx(SBG.total(small[0], stats[5]), rel=1e-9)


def test_simulated_alike_at_one():
    T = np.full(40_000, 8.0)
    one = SBG.simulate({"alpha": 0.7, "beta": 1.2}, T, np.random.default_rng(4))
    two = BDW.simulate({"gamma": 0.7, "delta": 1.2, "c": 1.0}, T, np.random.default_rng(4))
    np.testing.assert_array_equal(one.lifetime, two.lifetime)


# --- survival function -------------------------------------------------------------------------


@pytest.mark.parametrize("theta", POINTS)
def test_density_and_rate_in_arbitrary_precision(theta):
    pairs = [(0, 0), (0, 1), (0, 1500), (1, 1), (1, 5), (7, 8), (30, 30), (400, 1500), (1500, 1500)]
    x, T = np.array(pairs, float).T
    found = oracles.density(BDW, {})(np.array(theta), {"frequency": x, "T": T})
    with mp.workdps(40):
        for k, (a, b) in enumerate(pairs):
            exact = survival(theta, a) - survival(theta, a + 1) if a < b else survival(theta, b)
            # A hazard h is a difference of logs of size γ log(t^c): relative error γ log(t^c) eps / h.
            assert found[k] == pytest.approx(float(mp.log(exact)), rel=1e-11, abs=1e-10)
        for t, s in itertools.product((0, 3, 200), (1, 2.5, 40, 1e6)):
            exact = survival(theta, t + s) / survival(theta, t)
            assert BDW.rate(np.array(theta), np.array([t, t], float), s) == pytest.approx(
                float(exact), rel=1e-13
            )


def test_ratio_of_gammas():
    with mp.workdps(40):
        for a, b in itertools.product((1e-6, 0.05, 3.0, 1e3, 1e6), (1e-6, 0.01, 0.5, 9.0, 200.0, 1e9, 1e13)):
            exact = float(mp.loggamma(mp.mpf(a) + b) - mp.loggamma(b))
            assert log_rising(b, a) == pytest.approx(exact, rel=1e-14, abs=3e-14)


@pytest.mark.parametrize("theta", [(1.5, 2.0, 0.9), (0.8, 3.0, 2.0), (12.0, 1.0, 0.15), (0.55, 0.5, 3.0)])
def test_total_is_the_infinite_sum(theta):
    """Against the sum of a million opportunities and the power law that is left."""
    gamma, _, c = theta
    for T in (0.0, 9.0):
        n = T + np.arange(1.0, 1e6 + 1)
        rates = np.exp(betaln(gamma, theta[1] + n**c) - betaln(gamma, theta[1] + T**c))
        # Σ over t > N of t^-κ is (N + 1/2)^(1-κ)/(κ-1), to (κ/N)²; S(t) is that law to γ(γ+δ)/N^c.
        power = c * gamma
        rest = rates[-1] * n[-1] ** power * (n[-1] + 0.5) ** (1 - power) / (power - 1)
        share = rest / (rates.sum() + rest)
        wrong = share * gamma * (gamma + theta[1]) / n[-1] ** c
        total = BDW.total(np.array(theta), np.array([T, T]))
        assert total == pytest.approx(rates.sum() + rest, rel=1e-9 + wrong)


def test_hazard_may_rise_or_fall():
    """Of one customer the dropout probability rises with age for c > 1 and falls for c < 1."""
    for c, sign in ((1.6, 1), (0.6, -1), (1.0, 0)):
        latents = np.array([1.0, 1.0, 0.3, c, 0.0])
        kept = np.array([BDW.latent_rate(latents, s) for s in range(8)])
        hazard = 1 - kept[1:] / kept[:-1]
        assert (np.sign(np.round(np.diff(hazard), 12)) == sign).all()


# --- latents -----------------------------------------------------------------------------------


def test_latent_value_is_the_sum():
    flows = [
        Flow(delta=0.0953, timing="begin"),
        Flow(delta=0.002, timing="mid"),
        Flow(delta=0.01, horizon=1000.2),
        Flow(delta=0.0, horizon=70.0),
        Flow(delta=0.0, horizon=0.5),
    ]
    offset = {"begin": 1.0, "mid": 0.5, "continuous": 0.0}
    for decay, c, T in itertools.product(
        (1e-6, 1e-3, 0.05, 0.7, 5.0), (0.2, 0.6, 1.0, 1.7, 4.0), (0.0, 9.0, 100.0)
    ):
        latents = np.array([1.0, 1.0, decay, c, T])
        for flow in flows:
            s = np.arange(1.0, math.floor(min(flow.horizon, 60 / flow.delta if flow.delta else math.inf)) + 1)
            terms = np.exp(-decay * ((T + s) ** c - T**c) - flow.delta * (s - offset[flow.timing]))
            # The second correction of Euler and Maclaurin's formula is left out: (7/5760) f'''.
            assert BDW.latent_value(latents, flow.code(True)) == pytest.approx(
                terms.sum(), rel=1e-9, abs=1e-300
            )
    for decay in (0.003, 0.3, 3.0):
        value = BDW.latent_value(np.array([1.0, 1.0, decay, 1.0, 4.0]), Flow(delta=0.0).code(True))
        assert value == pytest.approx(1 / math.expm1(decay), rel=1e-9)


@pytest.mark.parametrize(
    "theta", [(0.7, 3.5, 1.2), (0.7, 1.2, 0.3), (0.4, 0.5, 3.0), (2.0, 1.0, 0.05), (9.0, 1.0, 4.0)]
)
@pytest.mark.parametrize("x", [0.0, 1.0, 6.0])
def test_latents_of_those_who_left(theta, x):
    """E[θ] of a draw against its integral: θ weighted with (1-θ)^(x^c) - (1-θ)^((x+1)^c)."""
    gamma, delta, c = theta
    rng, out, draws = np.random.default_rng(3), np.zeros(5), 20_000
    dropout = np.empty(draws)
    for d in range(draws):
        BDW.latent(np.array(theta), np.array([x, x + 3.0]), rng, out)
        dropout[d] = -math.expm1(-out[2])
    weights = [math.exp(betaln(gamma, delta + t**c)) for t in (x, x + 1)]
    means = [math.exp(betaln(gamma + 1, delta + t**c)) for t in (x, x + 1)]
    oracles.assert_mean_zero(dropout - (means[0] - means[1]) / (weights[0] - weights[1]), f"{theta} {x}")


# --- fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["High End", "Regular"])
def test_fit_to_published_survivors(published, label):
    """The maximum is that of SciPy with the survival function of the paper, and better than the sBG's."""
    survivors = published["sBG_FaderHardie2007"][label]["survivors_0..12"]
    data = rows(survivors, 7)
    found = fit_family(
        BDW,
        data,
        ModelConfig(family="bdw", priors="flat"),
        FitConfig(sampler="map"),
        0,
        Scale(time=7.0, rate=0.5, spend=math.nan),
    ).maximum
    t, lost = np.arange(8.0), np.r_[-np.diff(survivors[:8]), survivors[7]]

    def negative(logs: np.ndarray) -> float:
        gamma, delta, c = np.exp(logs)
        S = np.exp(betaln(gamma, delta + t**c) - betaln(gamma, delta))
        return -lost @ np.log(np.r_[S[:-1] - S[1:], S[-1]])

    best = minimize(
        negative,
        [0.0, 0.0, 0.0],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 5000},
    )
    assert best.success
    assert found["log_likelihood"] == pytest.approx(-best.fun, abs=1e-8)
    # At a curvature of 1/sd² a log-likelihood right to 1e-8 places the maximum to 1.4e-4 sd, sd < 1.
    assert [found[name] for name in BDW.parameter_names] == pytest.approx(np.exp(best.x), rel=2e-3)
    within = oracles.density(SBG, {})
    columns = dict(zip(data.names, data.stats.T, strict=True))
    printed = [published["sBG_FaderHardie2007"][label][name] for name in SBG.parameter_names]
    assert found["log_likelihood"] > data.weight @ within(np.array(printed), columns)


def test_objection_is_that_of_a_contract():
    assert BDW.objection is SBG.objection
