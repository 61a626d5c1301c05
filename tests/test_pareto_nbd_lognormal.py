"""Pareto/NBD (Abe): its averages against another rule and against the story, and CDNOW as published."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import holdout
import numpy as np
import oracles
import pytest
from builders import make_summary
from conftest import REFERENCE

from clvmodels.config import CovariatesConfig, FitConfig, ModelConfig, ModelsConfig
from clvmodels.data import design as data_design
from clvmodels.fit import fit_family, measure
from clvmodels.fit.links import Design, LinkedTarget
from clvmodels.fit.priors import resolve
from clvmodels.models.pareto_nbd_lognormal import _population, _tangent, averaged
from clvmodels.models.registry import purchases

ABE = purchases("pareto_nbd_lognormal")
CDNOW = np.array([0.0308, 1.151, 0.027, 1.96, 0.127])
POINTS = [
    CDNOW,
    np.array([0.1, 0.7, 0.02, 0.9, -0.6]),
    np.array([0.03, 0.5, 0.02, 2.5, 0.3]),
    np.array([0.03, 2.0, 0.02, 0.3, -1.0]),
    np.array([0.07, 0.64, 0.1, 0.64, 0.88]),
]
ROWS = np.array(
    [
        (0, 0, 0),
        (0, 0, 1e-5),
        (0, 0, 39.0),
        (1, 1e-4, 39.0),
        (2, 30.43, 38.86),
        (2, 3.0, 39.0),
        (20, 30.0, 39.0),
        (20, 39.0, 39.0),
        # Data that pull both rates far from the population.
        (0, 0, 3000.0),
        (100, 300.0, 310.0),
        (3, 500.0, 1000.0),
    ]
)


def columns(rows):
    return dict(zip(ABE.statistics, np.atleast_2d(rows).T, strict=True))


def averages(theta, row, *functions):
    """log E[L], and E[f(λ, μ) | data] by Gauss-Legendre panels in standardized rates.

    log μ is taken given log λ, so that nodes and rule have nothing in common with the family's.
    """
    lambda_median, s1, mu_median, s2, coupling = theta
    x, t_x, T = row
    rest = s2 / math.sqrt(1 + coupling**2)
    slope = coupling * rest / s1
    points, weights = np.polynomial.legendre.leggauss(20)

    def panels(low, high, count):
        edges = np.linspace(low, high, count + 1)
        half = np.diff(edges)[:, None] / 2
        return (edges[:-1, None] + half * (1 + points)).ravel(), (half * weights).ravel()

    (w1, dw1), (w2, dw2) = panels(-12, 12, 60), panels(-11, 11, 40)
    log_lam = math.log(lambda_median) + s1 * w1[:, None]
    log_mu = math.log(mu_median) + slope * s1 * w1[:, None] + rest * w2
    lam, mu = np.exp(log_lam), np.exp(log_mu)
    both = lam + mu
    likelihood = np.logaddexp(log_lam - both * T, log_mu - both * t_x) - np.log(both) + x * log_lam
    log_weight = likelihood - (w1[:, None] ** 2 + w2**2) / 2 - math.log(2 * math.pi)
    top = log_weight.max()
    weight = np.exp(log_weight - top) * dw1[:, None] * dw2
    stays = np.exp(x * log_lam - both * T - likelihood)
    return top + math.log(weight.sum()), [
        (weight * f(lam, mu, stays)).sum() / weight.sum() for f in functions
    ]


# ---------------------------------------------------------------- two other ways


@pytest.mark.parametrize("theta", POINTS, ids=str)
def test_density_and_p_alive_by_another_rule(theta):
    """The grids' steps leave relative errors of 1e-8; each row alone has the coarsest grid it can have."""
    own = of_rows(theta, ROWS)
    for row, one in zip(ROWS, own, strict=True):
        found = oracles.density(ABE, {})(theta, columns(row))[0]
        exact, (chance,) = averages(theta, row, lambda lam, mu, stays: stays)
        assert found == pytest.approx(exact, abs=1e-8), row
        assert one == pytest.approx(exact, abs=2e-10), (row, "by a grid of its own")
        assert ABE.p_alive(theta, row) == pytest.approx(chance, rel=1e-7), row


def of_rows(theta, rows):
    """The likelihood of rows that have parameters of their own, here all the same."""
    point = {name: np.full(len(rows), value) for name, value in zip(ABE.parameter_names, theta, strict=True)}
    return ABE.log_likelihood(point, columns(rows)).eval(mode="FAST_COMPILE")


def test_rates_that_vary_far_less_than_the_other():
    """Both grids' steps then differ a thousandfold, which takes another way through the code."""
    theta, rows = np.array([0.03, 1.0, 0.02, 1e-3, 0.4]), ROWS[[2, 4, 7]]
    for row, found in zip(rows, of_rows(theta, rows), strict=True):
        assert found == pytest.approx(averages(theta, row)[0], abs=2e-10), row


@pytest.mark.parametrize("theta", POINTS[:3], ids=str)
def test_slopes_of_a_row_are_those_of_its_likelihood(theta):
    """Five-point differences with steps of 1e-3: truncated at 1e-12, rounded at 1e-10 of the derivative."""
    lambda_median, s1, mu_median, s2, coupling = theta
    rest = s2 / math.sqrt(1 + coupling**2)
    point = np.array([math.log(lambda_median), s1, math.log(mu_median), coupling * rest / s1, rest])
    for row in ROWS:
        slopes = averaged(*point, *row)[1:]
        for step, found in zip(1e-3 * np.eye(5), slopes, strict=True):
            values = [averaged(*(point + k * step), *row)[0] for k in (-2, -1, 1, 2)]
            slope = np.dot([1, -8, 8, -1], values) / 12e-3
            assert found == pytest.approx(slope, rel=1e-8, abs=1e-8), row


def test_effects_of_zero_leave_the_model_as_it_is():
    """Value and gradient, whose grids differ: 300 rows within 1e-9 each, gradients within 1e-7."""
    rng = np.random.default_rng(5)
    T = rng.choice([20.0, 40.0], 300)
    stats = ABE.simulate(ABE.typical[0], T, rng).statistics(T)
    people = make_summary({name: np.ceil(10 * column) / 10 for name, column in stats.items()})
    people = replace(people, features=make_summary(stats, {"channel": T > 30}).segments)
    models = ModelsConfig(covariates=CovariatesConfig(purchase=("channel",), dropout=("channel",)))
    design = Design.of(data_design.terms(models, people), people)
    priors = resolve(ABE, ModelConfig(family=ABE.name), measure(people), {})
    linked = LinkedTarget.of(ABE, design.fold(people, ABE.statistics, None), priors, design)
    theta = ABE.vector(ABE.typical[0])
    logarithm = np.arange(5) < 4  # coupling is real
    point = np.where(logarithm, np.log(np.abs(theta)), theta)
    value, gradient, quantities = linked(np.r_[point, 0, 0], 0.0, 0.0)
    rows = people.fold(ABE.statistics)
    of_all, stats = oracles.density(ABE, {}), columns(rows.stats)
    assert value == pytest.approx(rows.weight @ of_all(theta, stats), abs=300 * 1e-9)
    slope = of_all.gradient(theta, stats, rows.weight) * np.where(logarithm, theta, 1.0)
    np.testing.assert_allclose(gradient[:5], slope, atol=300 * 1e-7)
    np.testing.assert_allclose(quantities[:5], theta, rtol=1e-13)
    # Of a level's shift, the gradient by differences in the customers that have it.
    moved = [linked(np.r_[point, step, 0], 0.0, 0.0)[0] for step in (-1e-4, 1e-4)]
    assert (moved[1] - moved[0]) / 2e-4 == pytest.approx(gradient[5], rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("theta", POINTS, ids=str)
def test_rate_by_another_rule(theta):
    times = np.array([0.0, 3.0, 200.0, 1e4])
    for row in ROWS[[0, 2, 4, 7, 9, 10]]:
        paid = [lambda lam, mu, stays, s=s: stays * lam * np.exp(-mu * s) for s in times]
        _, (alive, *exact) = averages(theta, row, lambda lam, mu, stays: stays, *paid)
        for s, value in zip(times, exact, strict=True):
            assert ABE.rate(theta, row, s) == pytest.approx(value / alive, rel=1e-7), (row, s)


def test_density_is_the_average_of_the_story():
    """Abe's eq. (5) averaged over a million simulated customers' λ and μ, within Monte Carlo error."""
    theta = ABE.typical[0]
    n, rng = 1_000_000, np.random.default_rng(3)
    c = theta["coupling"]
    rho = c / math.sqrt(1 + c**2)
    w1, w2 = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n).T
    lam = theta["lambda_median"] * np.exp(theta["sigma_lambda"] * w1)
    mu = theta["mu_median"] * np.exp(theta["sigma_mu"] * w2)
    rows = ROWS[[2, 4, 5]]
    density = np.exp(oracles.density(ABE, {})(ABE.vector(theta), columns(rows)))
    for (x, t_x, T), found in zip(rows, density, strict=True):
        both = lam + mu
        story = lam**x / both * (lam * np.exp(-both * T) + mu * np.exp(-both * t_x))
        oracles.assert_mean_zero(story / found - 1, str((x, t_x, T)))


def test_equal_customers_have_the_likelihood_of_one():
    """As both standard deviations vanish, L of one λ and μ remains; the difference is of order σ²."""
    lam, mu, sigma = 0.3, 0.05, 1e-4
    theta = np.array([lam, sigma, mu, sigma, 0.4])
    for row, found in zip(ROWS, oracles.density(ABE, {})(theta, columns(ROWS)), strict=True):
        x, t_x, T = row
        both = lam + mu
        exact = x * math.log(lam) - math.log(both)
        exact += math.log(lam * math.exp(-both * T) + mu * math.exp(-both * t_x))
        room = sigma**2 * (1 + (lam * T - x) ** 2 + (mu * T) ** 2 + lam * T)
        assert found == pytest.approx(exact, abs=room + 1e-9), row


def test_rates_are_the_rate():
    times = np.array([0.0, 1.0, 50.0, 1e4])
    out = np.empty(4)
    for row in ROWS:
        ABE.rates(CDNOW, row, times, out)
        assert out.tolist() == [ABE.rate(CDNOW, row, s) for s in times]


def test_latents_have_the_posterior_of_the_customer():
    """Moments of draws against the average by the other rule, alive or not."""
    functions = (
        lambda lam, mu, stays: stays,
        lambda lam, mu, stays: np.log(lam),
        lambda lam, mu, stays: np.log(mu),
        lambda lam, mu, stays: np.log(lam) * np.log(mu),
        lambda lam, mu, stays: np.exp(-20 * mu),
        lambda lam, mu, stays: stays * np.log(mu),
        lambda lam, mu, stays: stays * lam,
    )
    rng, out = np.random.default_rng(8), np.empty(3)
    for theta in POINTS[:3]:
        for row in ROWS[[0, 2, 4, 5, 6]]:
            draws = np.empty((4000, 3))
            for draw in draws:
                ABE.latent(theta, row, rng, out)
                draw[:] = out
            alive, lam, mu = draws.T
            _, exact = averages(theta, row, *functions)
            found = np.column_stack([f(lam, mu, alive) for f in functions])
            oracles.assert_mean_zero(found - exact, str(row))


def test_heavy_buyers_are_drawn():
    """1,500 purchases: λ is known to 1/√1,500, far narrower than the population."""
    row, rng, out = np.array([1500.0, 75.0, 75.0]), np.random.default_rng(4), np.empty(3)
    lam = []
    for _ in range(300):
        ABE.latent(CDNOW, row, rng, out)
        lam.append(math.log(out[1]))
    _, (exact,) = averages_near(CDNOW, row, lambda lam, mu, stays: np.log(lam))
    oracles.assert_mean_zero(np.array(lam) - exact)


@pytest.mark.parametrize("x", [0.0, 20.0, 891.0, 1e5])
def test_proposals_of_latents_lie_where_the_customer_is(x):
    """The tangent moves the population's mean to the mode, or heavy buyers are never accepted.

    At a wide population a Newton decrement of .01 still left it five standard deviations away.
    """
    for theta in (CDNOW, np.array([0.041, 1.85, 0.027, 1.96, 0.34]), np.array([0.02, 2.5, 0.05, 4.0, -0.7])):
        m1, s1, m2, s2, slope, _ = population = _population(theta)
        covariance = np.array([[s1**2, slope * s1**2], [slope * s1**2, s2**2]])
        for p, q, t in ((x + 1, 0.0, 52.5), (x, 1.0, 52.4)):
            z1, z2, _, d1, d2, _ = _tangent(population, p, q, t)
            miss = np.array([m1, m2]) + covariance @ [d1, d2] - [z1, z2]
            assert miss @ np.linalg.solve(covariance, miss) < 0.1**2 + 1e-9


def test_rates_that_are_nearly_one_number_have_no_likelihood():
    """ρ within 1e-8 of 1: the grid would take gigabytes, and a search that climbs there has to stop."""
    theta = np.array([0.0308, 1.151, 0.027, 1.96, 1e4])
    assert of_rows(theta, ROWS[4:6]) == pytest.approx([-math.inf] * 2)
    shared = dict(zip(ABE.parameter_names, theta, strict=True))
    assert ABE.log_likelihood(shared, columns(ROWS[4:6])).eval(mode="FAST_COMPILE")[0] == -math.inf
    rest = theta[3] / math.sqrt(1 + theta[4] ** 2)
    point = math.log(theta[0]), theta[1], math.log(theta[2]), theta[4] * rest / theta[1], rest
    assert averaged(*point, *ROWS[4])[0] == -math.inf


def averages_near(theta, row, function):
    """For a narrow posterior of λ: its mode and ±10 widths; T = t_x, so that nobody has left."""
    x, _, T = row
    z = np.linspace(-10, 10, 4001) / math.sqrt(x) + math.log(x / T)
    m, s = math.log(theta[0]), theta[1]
    log_weight = x * z - T * np.exp(z) - ((z - m) / s) ** 2 / 2
    weight = np.exp(log_weight - log_weight.max())
    # The other factor, E[e^-μT | λ], is flat over so narrow a range: a slope below 0.2 in log λ.
    return None, [(weight * function(np.exp(z), None, None)).sum() / weight.sum()]


# ---------------------------------------------------------------- data


def test_recovers_its_simulator():
    """1,200 customers: the maximum is within Z standard errors of the truth in every parameter."""
    truth = ABE.typical[1]
    rng = np.random.default_rng(20260102)
    T = rng.choice([26.0, 52.0, 78.0, 104.0], 1200)
    histories = ABE.simulate(truth, T, rng)
    # Whole days, so that rows fold; a purchase counts to the end of its day.
    days = {name: np.ceil(column * 7) / 7 for name, column in histories.statistics(T).items()}
    days["frequency"] = histories.statistics(T)["frequency"]
    summary = make_summary(days)
    found = holdout.maximum(summary, ABE.name)
    best = ABE.vector(found)
    score = oracles.density(ABE, {}).score(best, days)
    error = np.sqrt(np.diag(np.linalg.inv(score.T @ score)))
    assert (np.abs(best - ABE.vector(truth)) < oracles.Z * error).all()
    assert (error < [0.02, 0.2, 0.02, 0.8, 1.0]).all(), "the data say something about every parameter"


def test_cdnow_posterior_as_published(cdnow):
    """Each printed median within our central 95 %, and ours within theirs.

    The two posteriors differ by their hyperpriors (most for the variance of log μ, of which the data
    say least), one transaction, and the error of 5,000 steps of a Gibbs sampler, which is not printed.
    """
    printed = json.loads((REFERENCE / "pareto_nbd_lognormal.json").read_text())["cdnow_posterior"]
    posterior = fit_family(
        ABE,
        cdnow.fold(ABE.statistics),
        ModelConfig(family=ABE.name),
        FitConfig(draws=250),
        1,
        measure(cdnow),
    )
    assert posterior.diagnostics["k_hat"] < 0.7
    lambda_median, s1, mu_median, s2, c = posterior.draws[0].T
    covariance = c / np.sqrt(1 + c**2) * s1 * s2
    for name, draws in [
        ("log_lambda", np.log(lambda_median)),
        ("log_mu", np.log(mu_median)),
        ("var_log_lambda", s1**2),
        ("cov_log_lambda_log_mu", covariance),
        ("var_log_mu", s2**2),
    ]:
        low, median, high = np.quantile(draws, printed["quantiles"])
        theirs = printed[name]
        assert low < theirs[1] < high, name
        assert theirs[0] < median < theirs[2], name
    # It fits CDNOW better than independent gammas do: log-likelihood -9594.98 with one parameter fewer.
    assert posterior.maximum["log_likelihood"] == pytest.approx(-9573.413, abs=2e-3)


@pytest.mark.parametrize(("sigma_mu", "coupling"), [(1055.6, -2.18), (1.0, 1e9), (1e-9, 0.3)])
def test_rows_far_from_any_posterior_have_a_likelihood_or_none(sigma_mu, coupling):
    """What a heavy-tailed proposal may try: a number or minus infinity, and no error."""
    from clvmodels.models.pareto_nbd_lognormal import averaged

    s1, rest = 0.576, sigma_mu / np.sqrt(1 + coupling**2)
    for row in ((0.0, 0.0, 40.0), (1.0, 5.0, 60.0), (40.0, 79.0, 80.0)):
        value = averaged(-1.57, s1, -3.16, coupling * rest / s1, rest, *row)[0]
        assert value < np.inf
