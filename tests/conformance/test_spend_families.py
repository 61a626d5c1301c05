"""Every spend family at every typical point: simulator, density, expectation and latents agree."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
from oracles import SpendCase, assert_mean_zero
from scipy.integrate import quad

from clvmodels.models.family import SpendFamily

CASES = oracles.all_cases(SpendFamily)
ESTIMATED = [case for case in CASES if case.family.coordinates]


@pytest.fixture(scope="session", params=CASES, ids=repr)
def case(request) -> SpendCase:
    return request.param


@pytest.fixture(scope="session", params=ESTIMATED, ids=repr)
def estimated(request) -> SpendCase:
    return request.param


@pytest.fixture(scope="session")
def density(estimated) -> oracles.Density:
    return oracles.density(estimated.family, estimated.theta)


def test_simulated_baskets_are_baskets(case):
    baskets = case.baskets
    assert (np.bincount(baskets.customer, minlength=len(case.frequency)) == case.frequency).all()
    assert (baskets.amount > 0).all()
    assert (np.isnan(baskets.monetary_value) == (case.frequency == 0)).all()
    # Baskets scatter around their customer's own mean.
    error = baskets.amount / baskets.mean[baskets.customer] - 1
    assert_mean_zero(np.bincount(baskets.customer, error, len(case.frequency)), "baskets")


def test_density_integrates_to_one(estimated, density):
    """Over the one basket of x = 1; over the mean of x baskets, or over both of two baskets."""
    center = math.log(np.median(estimated.baskets.amount))
    # 40 log units hold all mass but that of a tail thinner than z^-0.5.
    ends = (center - 40, center + 40)

    def one(log_z: float, x: float = 1.0) -> float:
        columns = estimated.observed(np.exp([[log_z]]))
        columns["frequency"] = np.array([x])
        return math.exp(log_z + density(estimated.vector, columns)[0])

    def integral(x: float, times=lambda log_z: 1.0) -> float:
        points = np.linspace(center - 5, center + 5, 11)
        return quad(lambda u: times(u) * one(u, x), *ends, points=points, limit=400)[0]

    assert integral(1.0) == pytest.approx(1, abs=1e-7)
    population = estimated.family.expected_spend(estimated.vector, np.zeros(len(estimated.family.statistics)))
    assert integral(1.0, math.exp) == pytest.approx(population, rel=1e-6)
    if estimated.by_mean:
        for x in (2.0, 7.0, 40.0):
            assert integral(x) == pytest.approx(1, abs=1e-7)
        return

    grid = center + np.linspace(-14, 14, 301)
    first, second = (axis.ravel() for axis in np.meshgrid(grid, grid))
    columns = estimated.observed(np.exp(np.column_stack([first, second])))
    mass = np.exp(density(estimated.vector, columns) + first + second)
    # The trapezoidal rule on the whole plane converges exponentially for a smooth density.
    assert mass.sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1, abs=1e-6)


def test_gradient_equals_differences(estimated, density):
    columns = {name: column[:200] for name, column in estimated.buyers.items()}
    weight = np.random.default_rng(3).integers(0, 4, 200).astype(float)
    score, level = density.score(estimated.vector, columns), np.abs(density(estimated.vector, columns))
    free = [estimated.family.parameter_names.index(name) for name in density.free]
    for w in (weight, np.eye(200)[0], np.eye(200)[level.argmax()]):
        room = 1e-9 * (1 + w @ level) / estimated.vector[free] + 1e-9 * (w @ np.abs(score))
        gradient = density.gradient(estimated.vector, columns, w)
        np.testing.assert_array_less(np.abs(gradient - w @ score), room)


def test_score_has_mean_zero(estimated, density):
    assert_mean_zero(density.score(estimated.vector, estimated.buyers), "score")


def test_information_equality(estimated, density):
    """E[s sᵀ] = -E[∂s/∂θ]."""
    score = density.score(estimated.vector, estimated.buyers)
    products = score[:, :, None] * score[:, None, :]
    assert_mean_zero(products + density.curvature(estimated.vector, estimated.buyers), "information")


def test_smaller_unit_of_currency(case):
    """Dollars to cents: amounts times a hundred, densities over it, nothing else."""
    theta = oracles.rescaled(case.family, case.vector, currency=100.0)
    cents = type(case.baskets)(
        mean=100 * case.baskets.mean, customer=case.baskets.customer, amount=100 * case.baskets.amount
    )
    columns = cents.statistics(case.family.extra_statistics)
    for old, new in zip(case.rows(case.columns)[:300], case.rows(columns)[:300], strict=True):
        expected = case.family.expected_spend(case.vector, old)
        assert case.family.expected_spend(theta, new) == pytest.approx(100 * expected, rel=1e-11)
    if not case.family.coordinates:
        return
    density = oracles.density(case.family, case.theta)
    buyers = {name: column[case.frequency > 0] for name, column in columns.items()}
    observations = 1.0 if case.by_mean else buyers["frequency"]
    before = density(case.vector, case.buyers)
    shifted = density(theta, buyers) + observations * math.log(100)
    assert (np.abs(shifted - before) <= 1e-11 * (100 + np.abs(before))).all()


def test_expected_spend_is_the_mean_of_what_follows(case):
    """The tower property: over customers, own mean minus expected mean averages to 0."""
    expected = np.array([case.family.expected_spend(case.vector, row) for row in case.rows(case.columns)])
    for x in np.unique(case.frequency):
        here = case.frequency == x
        assert_mean_zero((case.baskets.mean - expected)[here], f"own mean spend at x = {x}")
        # Without a history everybody is expected to spend the population mean.
        assert_mean_zero(expected[here] - expected[case.frequency == 0][0], f"expected spend at x = {x}")


def test_latent_and_basket_means(case):
    for k in (0, 1, 2, 3, 5):
        row = case.rows(case.columns)[k]
        means, baskets = case.draws(row, 20_000, seed=k).T
        assert_mean_zero(means - case.family.expected_spend(case.vector, row), "latent mean")
        assert_mean_zero(baskets / means - 1, "basket over mean")


def test_latents_are_who_the_customers_are(estimated):
    """The true mean ranks anywhere among latent draws given its customer's history."""
    rows = estimated.rows(estimated.columns)[:1500]
    ranks = np.array(
        [
            (estimated.draws(row, 19, seed=k)[:, 0] < true).mean()
            for k, (row, true) in enumerate(zip(rows, estimated.baskets.mean, strict=False))
        ]
    )
    assert_mean_zero(ranks - 0.5, "rank of the true mean")
    # A discrete uniform variable on 0, 1/19, ..., 1 has variance (20² - 1) / (12 · 19²).
    assert_mean_zero((ranks - 0.5) ** 2 - (20**2 - 1) / (12 * 19**2), "spread of the ranks")


def test_weights_equal_repeated_rows(estimated, density):
    small = {name: column[:60] for name, column in estimated.buyers.items()}
    weight = np.arange(60) % 4 + 1
    repeated = {name: np.repeat(column, weight) for name, column in small.items()}
    total = density(estimated.vector, repeated).sum()
    assert weight @ density(estimated.vector, small) == pytest.approx(total, rel=1e-12)


def test_compiled_equals_interpreted(case):
    family = case.family
    for row in case.rows(case.columns)[:30]:
        function = family.expected_spend
        assert function(case.vector, row) == pytest.approx(function.py_func(case.vector, row), rel=1e-12)
        outs = []
        for latent, basket in (
            (family.latent, family.basket),
            (family.latent.py_func, family.basket.py_func),
        ):
            rng, out = np.random.default_rng(1), np.zeros(len(family.latents))
            latent(case.vector, row, rng, out)
            outs.append([*out, basket(out, rng)])
        assert outs[0] == pytest.approx(outs[1], rel=1e-12)


def test_has_mean_says_whether_expected_spend_is_finite(case):
    new = np.zeros(len(case.family.statistics))
    points = np.array(oracles.corners(case.family, case.theta))
    said = case.family.has_mean(points)
    assert said.shape == (len(points),)
    assert said[0], "a typical point has a mean"
    for point, finite in zip(points, said, strict=True):
        assert math.isfinite(case.family.expected_spend(point, new)) == finite


def test_finite_at_the_corners(estimated, density):
    """Tiny, huge and many baskets, at parameters far out."""
    center = float(np.median(estimated.baskets.amount))
    seen = [[center], [1e-4 * center], [1e6 * center], [center] * 1500, [center, 100 * center]]
    columns = oracles.merged([estimated.observed(np.array([baskets])) for baskets in seen])
    rows = estimated.rows(columns)
    for theta in oracles.corners(estimated.family, estimated.theta):
        assert np.isfinite(density(theta, columns)).all(), theta
        assert np.isfinite(density.gradient(theta, columns, np.ones(len(rows)))).all(), theta
        if estimated.family.has_mean(theta[None])[0]:
            for row in rows:
                assert 0 < estimated.family.expected_spend(theta, row) < math.inf, f"{theta} {row}"
