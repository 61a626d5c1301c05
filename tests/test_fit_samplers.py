"""Samplers where the posterior is known in closed form, and where it is out of their reach."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from clvmodels.artifacts import FamilyPosterior, Posterior, Rows
from clvmodels.config import FitConfig, ModelConfig
from clvmodels.fit import fit_family, gate, nuts, surrogate
from clvmodels.fit.convergence import _ess_of_mean
from clvmodels.fit.graph import Target
from clvmodels.fit.importance import _effective, resample, sample, smooth
from clvmodels.fit.maximum import Peak, climb
from clvmodels.fit.priors import resolve
from clvmodels.models import registry
from clvmodels.models.family import Coordinate, Family, Parameter, Scale
from clvmodels.numerics import bends
from clvmodels.numerics.special import ranks

SCALE = Scale(time=1.0, rate=1.0, spend=1.0)
SHAPE, RATE = 2.0, 1.5  # of the gamma prior
N = 60


def toy(parameters, log_likelihood, priors, statistics=("x",)) -> Family:
    """A family whose coordinates are its free parameters."""
    free = [p for p in parameters if p.constant is None]
    return Family(
        name="toy",
        title="Toy",
        role="spend",
        parameters=tuple(parameters),
        coordinates=tuple(Coordinate(name=p.name, domain=p.domain, unit="1", meaning="") for p in free),
        from_coordinates=lambda c: {p.name: c[p.name] for p in free},
        to_coordinates=lambda theta: {p.name: theta[p.name] for p in free},
        priors=lambda scale: priors,
        statistics=statistics,
        log_likelihood=log_likelihood,
        references=(),
        typical=(),
    )


def parameter(name, domain="positive", **more) -> Parameter:
    return Parameter(name=name, domain=domain, unit="1", meaning="", **more)


def gamma_log_likelihood(theta, rows):
    import pytensor.tensor as pt

    k, x = theta["k"], rows["x"]
    return k * pt.log(theta["rate"]) - pt.gammaln(k) + (k - 1) * pt.log(x) - theta["rate"] * x


def bernoulli_log_likelihood(theta, rows):
    import pytensor.tensor as pt

    return rows["x"] * pt.log(theta["p"]) + (1 - rows["x"]) * pt.log1p(-theta["p"])


GAMMA = toy(
    [parameter("rate"), parameter("k", constant=1.0, choices=(1.0, 2.0, 6.0))],
    gamma_log_likelihood,
    {"rate": {"dist": "Gamma", "alpha": SHAPE, "beta": RATE}},
)
BERNOULLI = toy(
    [parameter("p", "unit")], bernoulli_log_likelihood, {"p": {"dist": "Beta", "alpha": 1.0, "beta": 1.0}}
)


def rows_of(x: np.ndarray) -> Rows:
    values, index, count = np.unique(x, return_inverse=True, return_counts=True)
    return Rows(names=("x",), stats=values[:, None], weight=count.astype(float), index=index)


@pytest.fixture(scope="module")
def waits() -> np.ndarray:
    return np.random.default_rng(8).gamma(2.0, 0.5, N)


def run(family, x, priors=None, settings=None, maximum=True, **options) -> FamilyPosterior:
    model = ModelConfig(family="toy", priors=priors or {}, settings=settings or {})
    return fit_family(family, rows_of(x), model, FitConfig(**options), 4, SCALE, maximum=maximum)


@pytest.mark.parametrize("sampler", ["importance", "nuts"])
def test_conjugate_posterior_on_the_positive_line(waits, sampler):
    posterior = run(GAMMA, waits, settings={"k": 2}, sampler=sampler)
    exact = stats.gamma(SHAPE + 2 * N, scale=1 / (RATE + waits.sum()))
    # Every other draw, so that NUTS's are independent enough for a test at 1 in 10,000.
    assert stats.kstest(posterior.flat[::2, 0], exact.cdf).pvalue > 1e-4
    assert set(posterior.flat[:, 1]) == {2.0}
    assert posterior.settings == {"k": 2}
    assert posterior.diagnostics["ess_bulk"]["k"] is None
    maximum = 2 * N / waits.sum()
    assert posterior.maximum["rate"] == pytest.approx(maximum, rel=1e-8)
    exact_value = stats.gamma(2, scale=1 / maximum).logpdf(waits).sum()
    assert posterior.maximum["log_likelihood"] == pytest.approx(exact_value, rel=1e-12)


@pytest.mark.parametrize("priors", [{}, "flat"])
def test_conjugate_posterior_on_the_unit_interval(priors):
    x = (np.arange(N) < 3).astype(float)
    posterior = run(BERNOULLI, x, priors)
    assert stats.kstest(posterior.flat[:, 0], stats.beta(4, N - 2).cdf).pvalue > 1e-4


def test_map_is_the_mode_without_jacobian(waits):
    posterior = run(GAMMA, waits, sampler="map")
    assert posterior.flat[0, 0] == pytest.approx((SHAPE + N - 1) / (RATE + waits.sum()), rel=1e-8)


def test_maximum_may_lie_where_the_prior_is_zero(waits):
    posterior = run(GAMMA, waits, {"rate": {"dist": "Uniform", "lower": 0.1, "upper": 0.5}})
    assert posterior.maximum["rate"] == pytest.approx(1 / waits.mean(), rel=1e-8)
    assert posterior.diagnostics["maximum_converged"]
    rate = posterior.flat[:, 0]
    assert 0.1 < rate.min() < rate.max() < 0.5


def test_draws_do_not_depend_on_the_search_for_the_maximum(waits):
    found, left_out = run(GAMMA, waits), run(GAMMA, waits, maximum=False)
    np.testing.assert_array_equal(found.draws, left_out.draws)
    assert found.maximum
    assert not left_out.maximum
    assert "maximum_converged" not in left_out.diagnostics


def test_maximum_at_the_edge_is_reported_as_such():
    posterior = run(BERNOULLI, np.zeros(N))
    assert not posterior.diagnostics["maximum_converged"]
    # BFGS stops at a gradient of 1e-7 of the value at the start, 28.
    assert posterior.maximum["log_likelihood"] == pytest.approx(0, abs=1e-5)
    assert stats.kstest(posterior.flat[:, 0], stats.beta(1, N + 1).cdf).pvalue > 1e-4


def test_auto_constant_has_the_highest_marginal_likelihood(waits):
    posterior = run(GAMMA, waits, settings={"k": "auto"}, draws=200)
    assert posterior.settings == {"k": 2}
    for choice in posterior.diagnostics["choices"]:
        k, total = choice["k"], waits.sum()
        shape = SHAPE + N * k
        exact = (
            (k - 1) * np.log(waits).sum()
            - N * math.lgamma(k)
            + SHAPE * math.log(RATE)
            - math.lgamma(SHAPE)
            + math.lgamma(shape)
            - shape * math.log(RATE + total)
        )
        # Laplace's method on the logarithm of a gamma variate is Stirling's formula: 1/(12 shape) low.
        assert exact - choice["log_evidence"] == pytest.approx(1 / (12 * shape), rel=0.01)


def funnel(theta, rows):
    """Neal's funnel, as if it were a likelihood: exp(v/2) is the scale of five more parameters."""
    import pytensor.tensor as pt

    inside = sum(theta[f"y{i}"] ** 2 for i in range(5))
    return rows["x"] * (-0.5 * inside * pt.exp(-theta["v"]) - 2.5 * theta["v"])


def test_gate_fails_where_importance_sampling_cannot_reach():
    priors = {"v": {"dist": "Normal", "mu": 0.0, "sigma": 3.0}} | {
        f"y{i}": {"dist": "Flat"} for i in range(5)
    }
    family = toy([parameter(name, "real") for name in priors], funnel, priors)
    posterior = run(family, np.ones(1))
    spend = fit_family(
        registry.get("gamma_gamma"),
        None,
        ModelConfig(family="gamma_gamma", fixed={"p": 6.0, "q": 4.0, "gamma": 15.0}),
        FitConfig(),
        0,
        None,
    )
    checks = gate(Posterior(purchases=posterior, spend=spend, time_unit="week", currency="USD"))
    failed = [check for check in checks if check.passed is False]
    assert "purchases: k-hat" in [check.name for check in failed]
    assert failed[0].value > 0.7
    assert "fit.sampler: nuts" in failed[0].sentence


def normal(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return -0.5 * (points**2).sum(1), points


@pytest.mark.parametrize("width", [1.0, 0.3, 4.0])
def test_sampler_recovers_from_a_wrong_start(width):
    found = sample(normal, np.full(3, 0.5), width**2 * np.eye(3), 2000, np.random.default_rng(6))
    assert found.k_hat < 0.5
    assert found.ess > 1600
    for column in found.draws.T:
        assert stats.kstest(column, "norm").pvalue > 1e-4


def skewed(shape):
    """Logarithms of independent gammas of one shape, less the logarithm of that: log density and slope."""
    return lambda z: (shape * float((z - np.exp(z)).sum()), shape * (1 - np.exp(z)))


def test_polynomial_draws_are_from_the_density():
    shape, rng = 3000.0, np.random.default_rng(3)
    asked = []

    def counted(z):
        asked.append(z)
        return skewed(shape)(z)

    found, error = surrogate.draw(counted, np.zeros(4), np.eye(4) / shape, 1000, rng)
    assert len(asked) < 100  # whatever the draws
    # What degree four leaves of shape (z - exp z) is shape z^5/120, z normal of sd 1/√shape; four of these.
    assert error < 3 * math.sqrt(4 * 945) / 120 * shape**-1.5
    assert found.ess > 950
    for column in np.exp(found.draws).T:
        assert stats.kstest(column, stats.gamma(shape, scale=1 / shape).cdf).pvalue > 1e-4


def test_straight_coordinates_are_of_the_same_density():
    shape, k = 2.0, 2
    mode = Peak(np.zeros(k), -shape * k, shape * np.eye(k), True)
    counts = []
    for bend in (False, True):
        asked = []

        def target(z, asked=asked):
            asked.append(z)
            return skewed(shape)(z)

        points, divergences = nuts.sample(target, mode, 2, 200, 1000, 5, bend=bend)
        assert divergences == 0
        for column in np.exp(points).reshape(-1, k)[::2].T:
            assert stats.kstest(column, stats.gamma(shape, scale=1 / shape).cdf).pvalue > 1e-4
        counts.append(len(asked))
    assert counts[0] != counts[1]  # it was bent


def some_map(k, many=bends.BENDS, seed=3):
    """One to one: |u·d| is at most 0.6."""
    rng = np.random.default_rng(seed)
    lower = np.eye(k) + 0.3 * rng.standard_normal((k, k))
    parts = [rng.standard_normal(k), lower[np.tril_indices(k)]]
    for _ in range(many):
        u, d = rng.standard_normal((2, k))
        d *= 0.6 / np.abs(u @ d) if abs(u @ d) > 0.6 else 1.0
        parts += [u, d, rng.standard_normal(1)]
    return bends.Straightened(np.concatenate(parts), k), np.tril(lower)


@pytest.mark.parametrize("k", [1, 3])
def test_a_map_has_the_jacobian_and_the_inverse_that_it_says(k):
    straight, root = some_map(k)
    y, step = np.random.default_rng(1).standard_normal(k), 1e-6 * np.eye(k)
    jacobian = np.array([straight(y + h) - straight(y - h) for h in step]).T / 2e-6
    value, slope = straight.back(y, 0.0, np.zeros(k))
    assert value + np.linalg.slogdet(root)[1] == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-8)
    differences = [
        (straight.back(y + h, 0.0, np.zeros(k))[0] - straight.back(y - h, 0.0, np.zeros(k))[0]) / 2e-6
        for h in step
    ]
    np.testing.assert_allclose(slope, differences, atol=1e-8)
    g = np.random.default_rng(2).standard_normal(k)
    found = straight.back(y, 0.0, g)[1]
    np.testing.assert_allclose(found - slope, jacobian.T @ g, atol=1e-7)
    misfit, allowed = bends.misfit(straight.packed, k, straight(y)[None], g[None])
    assert allowed
    np.testing.assert_allclose(misfit[0], y + found, atol=1e-12)  # by the inverse


def test_a_map_is_found_from_gradients():
    """Points of a known map of a standard normal: one of the same form makes them normal again."""
    k = 3
    known, _ = some_map(k, many=1, seed=8)

    def density(z):
        y = optimize.root(lambda y: known(y) - z, np.zeros(k), tol=1e-13).x
        jacobian = np.array([known(y + h) - known(y - h) for h in 1e-6 * np.eye(k)]).T / 2e-6
        value, slope = known.back(y, 0.0, np.zeros(k))
        return -y @ y / 2 - value, np.linalg.solve(jacobian.T, -y - slope)

    peak = climb(density, known(np.zeros(k)))
    found = bends.Straightened.of(density, peak.point, peak.covariance)
    white = bends.Straightened.at(peak.point, peak.covariance)
    left = []
    for straight in (white, found):
        ys = np.random.default_rng(5).standard_normal((50, k))
        slopes = np.array([straight.back(y, *density(straight(y)))[1] for y in ys])
        left.append(((slopes + ys) ** 2).sum(1).mean())
    assert left[0] > 0.1
    assert left[1] < 1e-4


def test_what_cannot_be_straightened_is_whitened():
    """Where the density is undefined at more than half of the points that the fit looks at."""
    covariance = np.diag([4.0, 9.0])
    found = bends.Straightened.of(lambda z: (math.nan, np.full(2, math.nan)), np.ones(2), covariance)
    np.testing.assert_array_equal(found(np.zeros(2)), np.ones(2))
    np.testing.assert_allclose(found(np.array([1.0, -1.0])), [3.0, -2.0])


@pytest.mark.parametrize(
    "density",
    [
        skewed(2.0),  # too skewed for degree four
        lambda z: (-4 * float(np.log1p(z**2 / 8).sum()), -z / (1 + z**2 / 8)),  # tails too heavy
        lambda z: (np.nan if z[0] > 1 else -float(z @ z) / 2, -z),  # not defined everywhere
    ],
)
def test_polynomial_says_where_it_will_not_do(density):
    spread = np.eye(2) / 2 if density(np.ones(2))[1][0] < -1.5 else np.eye(2)
    _, error = surrogate.draw(density, np.zeros(2), spread, 1000, np.random.default_rng(3))
    assert error > 3 * surrogate.LARGEST_ERROR


def test_effective_size_of_copies_is_the_variance_of_the_mean():
    # 400 samples of 100 draws out of too few proposals with unequal weights: the variance of their means
    # is known to sqrt(2/400) = 7 %, hence 28 % at four standard errors.
    rng, means, errors, sizes = np.random.default_rng(7), [], [], []
    for _ in range(400):
        proposals = 3 * rng.standard_normal(120)
        log_weight = stats.norm.logpdf(proposals) - stats.norm(0, 3).logpdf(proposals)
        weight = np.exp(log_weight) / np.exp(log_weight).sum()
        chosen = resample(weight, 100, rng.random())
        copies = np.bincount(chosen, minlength=120)
        assert (np.abs(copies - 100 * weight) < 1).all()
        sizes.append((100**2 / (copies**2).sum(), _effective(weight, 100)))
        means.append(proposals[chosen].mean())
        errors.append(proposals[chosen].var() / _ess_of_mean(proposals[chosen], (chosen,)))
    assert np.mean(errors) == pytest.approx(np.var(means), rel=0.28)
    exact, expected = np.mean(sizes, axis=0)
    assert exact < 80  # far from 100, or nothing was tested
    assert exact == pytest.approx(expected, rel=0.02)


def test_smoothing_knows_a_tail_that_is_too_heavy():
    # Weights of a proposal with tail index 2 for a target with 1: Pareto with k = 1/(2 - 1) = 1.
    u = np.random.default_rng(9).random(4000)
    weight, k_hat = smooth(-np.log(u))
    assert weight.sum() == pytest.approx(1)
    assert k_hat == pytest.approx(1, abs=4 * 2 / math.sqrt(3 * math.sqrt(4000)))  # (1+k)/sqrt(tail), 4 errors


@pytest.mark.parametrize("n", [60, 500, 4000])
@pytest.mark.parametrize("power", [-0.3, 0.2, 1.2])
def test_smoothing_is_that_of_arviz(n, power):
    from arviz_stats.base import array_stats

    log_weight = -power * np.log(np.random.default_rng(n).random(n))
    smoothed, k_hat = array_stats.psislw(-log_weight)
    found, found_k = smooth(log_weight)
    assert found_k == pytest.approx(float(k_hat), rel=1e-10)
    np.testing.assert_allclose(found, np.exp(smoothed) / np.exp(smoothed).sum(), rtol=1e-10)


def test_ranks_are_those_of_scipy():
    from scipy.stats import rankdata

    values = np.random.default_rng(3).integers(0, 40, 200) / 7
    assert (ranks(values) == rankdata(values)).all()


@pytest.mark.parametrize("name", ["bg_nbd", "gamma_gamma"])
@pytest.mark.parametrize("priors", [{}, "flat"])
def test_density_is_the_family_s_and_its_gradient_the_slope(name, priors):
    family = registry.get(name)
    rng, T = np.random.default_rng(2), np.repeat([10.0, 20.0, 30.0], 40)
    if family.role == "spend":
        frequency = rng.integers(1, 9, 120).astype(float)
        baskets = family.simulate(family.typical[0], frequency, rng)
        columns = {"frequency": frequency, "monetary_value": baskets.monetary_value}
    else:
        columns = family.simulate(family.typical[0], T, rng).statistics(T)
    table = np.column_stack([columns[column] for column in family.statistics])
    rows = Rows(
        names=family.statistics, stats=table, weight=rng.integers(1, 4, 120) * 1.0, index=np.arange(120)
    )
    scale = Scale(time=20.0, rate=0.05, spend=30.0)
    target = Target.of(family, rows, resolve(family, ModelConfig(family=name, priors=priors), scale, {}))
    start = target.start(scale)
    value, _, native = target(start, 0.0, 0.0)
    theta = dict(zip(family.parameter_names, native, strict=True))
    per_row = family.log_likelihood(theta, {column: rows[column] for column in rows.names}).eval()
    assert value == pytest.approx(rows.weight @ per_row, rel=1e-12)
    batch, parameters = target.density(np.array([start, start + 0.1]))
    assert batch[0] == pytest.approx(target(start)[0], rel=1e-14)
    np.testing.assert_allclose(parameters[0], native)
    np.testing.assert_allclose(target.native(np.array([start]))[0], native, rtol=1e-13)
    for weights in ((1.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        gradient = target(start, *weights)[1]
        h = 1e-5
        slope = [
            (target(start + step, *weights)[0] - target(start - step, *weights)[0]) / (2 * h)
            for step in h * np.eye(len(start))
        ]
        # Central differences: h² of curvature plus rounding of the value over h.
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-15 * abs(value) / h * 10)


def test_the_pymc_model_has_the_same_density():
    family = registry.get("gamma_gamma")
    rows = Rows(
        names=family.statistics,
        stats=np.array([[1.0, 20.0], [3.0, 35.0]]),
        weight=np.array([2.0, 1.0]),
        index=np.arange(2),
    )
    scale = Scale(time=20.0, rate=0.05, spend=30.0)
    target = Target.of(family, rows, resolve(family, ModelConfig(family="gamma_gamma"), scale, {}))
    point = target.start(scale) + 0.2
    values = {variable.name: part for variable, part in zip(target.model.value_vars, point, strict=True)}
    for weights, jacobian in (((1.0, 1.0), True), ((1.0, 0.0), False)):
        assert target(point, *weights)[0] == pytest.approx(
            float(target.model.compile_logp(jacobian=jacobian)(values)), rel=1e-12
        )


def test_a_search_that_rises_without_end_ends():
    """A ridge that gains 0.02 nats on its way to infinity: no maximum, said after a few evaluations."""
    asked = []

    def ridge(point):
        x, y = point
        asked.append(y)
        fall = 0.02 * np.exp(-y / 20)
        return -3e4 - 50 * (x - 1) ** 2 - fall, np.array([-100 * (x - 1), fall / 20])

    peak = climb(ridge, np.zeros(2))
    assert not peak.converged
    assert peak.point[0] == pytest.approx(1, abs=1e-6)
    assert len(asked) < 50  # 50 of Newton's steps would ask 250 times
