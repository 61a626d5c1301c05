"""BG/CNBD-k, and what both families of Erlang-k gaps share: k = 1, phases, regularity, the choice of k."""

from __future__ import annotations

import math
from dataclasses import replace

import holdout
import numpy as np
import oracles
import pytest
from builders import make_summary

import clvmodels as clv
from clvmodels.config import FitConfig, ModelConfig
from clvmodels.data import summarise
from clvmodels.errors import InputError
from clvmodels.fit import check_model, fit_family, measure
from clvmodels.models import registry
from clvmodels.numerics.discounting import Flow
from clvmodels.value import residual
from clvmodels.value.residual import tabulate

PAIRS = [(registry.purchases(f"{p}_cnbd_k"), registry.purchases(f"{p}_nbd")) for p in ("bg", "mbg")]
FAMILIES = [pair[0] for pair in PAIRS]
THETA = {"r": 0.525, "alpha": 6.183, "a": 0.891, "b": 1.614}
REGULAR = {"k": 3.0, "r": 1.5, "alpha": 1.2, "a": 0.8, "b": 3.0}
TIMES = [[], [0.2], [30.43], [10.0, 30.43], [5, 10, 14, 20, 25, 30, 35], list(np.linspace(0.3, 38.8, 29))]
AGES = [38.86, 38.0, 31.0, 38.86, 38.86, 38.86]


def observed(family, times=TIMES, ages=AGES):
    case = oracles.PurchaseCase(family, family.typical[0])
    return oracles.merged([case.observed(list(t), T) for t, T in zip(times, ages, strict=True)])


def states(family, columns) -> np.ndarray:
    return np.column_stack([columns[name] for name in family.state])


# ---------------------------------------------------------------- one phase


@pytest.mark.parametrize(("family", "parent"), PAIRS, ids=repr)
def test_one_phase_is_the_parent(family, parent):
    theta, columns = {"k": 1.0} | THETA, observed(family)
    one, plain = family.vector(theta), parent.vector(THETA)
    np.testing.assert_allclose(
        oracles.density(family, theta)(one, columns),
        oracles.density(parent, THETA)(plain, columns),
        rtol=1e-14,
    )
    for row in states(family, columns):
        assert family.p_alive(one, row) == parent.p_alive(plain, row)
        assert family.total(one, row) == parent.total(plain, row)
        assert family.rate(one, row, 0.0) == parent.rate(plain, row, 0.0)
        assert family.rate(one, row, 77.7) == parent.rate(plain, row, 77.7)


@pytest.mark.parametrize(("family", "parent"), PAIRS, ids=repr)
def test_one_phase_has_the_maximum_and_the_value_of_the_parent(family, parent, cdnow_with_gaps):
    one = holdout.maximum(cdnow_with_gaps, family.name)
    plain = holdout.maximum(cdnow_with_gaps, parent.name)
    assert one == pytest.approx(plain | {"k": 1.0}, rel=1e-9)
    flow = Flow(delta=0.0027)
    np.testing.assert_allclose(
        holdout.expected(cdnow_with_gaps, family.name, one, flow),
        holdout.expected(cdnow_with_gaps, parent.name, plain, flow),
        rtol=1e-8,
    )


# ---------------------------------------------------------------- the density in full


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("k", [2, 5])
def test_density_is_the_story_integrated(family, k):
    """Gaps of k phases, alive or gone, on a grid over (log λ, logit p); the sum of weights is 1 to 1e-12."""
    theta = REGULAR | {"k": float(k)}
    log_lam = np.linspace(-30, 6, 3000)[:, None]
    logit = np.linspace(-45, 15, 1200)[None, :]
    log_p, log_q = -np.logaddexp(0, -logit), -np.logaddexp(0, logit)
    lam = np.exp(log_lam)
    prior = theta["r"] * log_lam - theta["alpha"] * lam + theta["a"] * log_p + theta["b"] * log_q
    prior = np.exp(prior - prior.max())
    prior /= prior.sum()
    columns = observed(family)
    found = oracles.density(family, theta)(family.vector(theta), columns)
    for times, T, level, row in zip(TIMES, AGES, found, states(family, columns), strict=True):
        gaps, x = np.diff([0.0, *times]), len(times)
        log_gaps = (k * log_lam - math.lgamma(k)) * x + (k - 1) * np.log(gaps).sum() - lam * sum(gaps)
        left = lam * (T - sum(gaps))
        silent = sum(left**j / math.factorial(j) for j in range(k)) * np.exp(-left)
        n = x if family is FAMILIES[0] else x + 1
        alive = (prior * np.exp(log_gaps + n * log_q) * silent).sum()
        gone = (prior * np.exp(log_gaps + log_p + (n - 1) * log_q)).sum() if n else 0.0
        assert level == pytest.approx(math.log(alive + gone), abs=1e-9 * (1 + abs(level)))
        assert family.p_alive(family.vector(theta), row) == pytest.approx(alive / (alive + gone), rel=1e-9)


# ---------------------------------------------------------------- phases


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_the_running_gap_matters(family):
    """Just after a purchase none is due; a regular gap later one is; x, T and the draw are the same."""
    theta = family.vector(REGULAR)
    just, due = np.array([9.0, 38.0, 38.0]), np.array([9.0, 34.0, 38.0])
    assert family.rate(theta, just, 0.0) == 0.0
    assert family.rate(theta, due, 0.0) > 0.15
    weights = np.empty(3)
    family.phases.weights(theta, just, weights)
    assert weights.tolist() == [1.0, 0.0, 0.0]
    family.phases.weights(theta, due, weights)
    assert weights.sum() == pytest.approx(1, abs=1e-15)
    assert weights[2] > weights[1] > weights[0] > 0


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("elapsed", [0.0, 2.0, 6.0])
def test_future_of_a_customer_whose_gap_runs(family, elapsed):
    """Brute force: λ and p from the posterior of x = 4 known gaps, the running gap rejected until it fits.

    Customers who are alive at T had not left at t_x, and their gap is longer than T - t_x.
    """
    k, r, alpha, a, b = theta = family.vector(REGULAR)
    x, t_x, n = 4, 12.0, 400_000
    occasions = x if family is FAMILIES[0] else x + 1
    rng = np.random.default_rng(1)
    lam = rng.gamma(r + k * x, 1 / (alpha + t_x), n)
    p = rng.beta(a, b + occasions, n)
    first = rng.standard_gamma(k, n) / lam
    fits = first > elapsed
    lam, p, clock = lam[fits], p[fits], first[fits] - elapsed
    edges = np.array([1.0, 4.0, 20.0])
    count, alive = np.zeros((3, len(lam))), np.ones(len(lam), bool)
    while (alive := alive & (clock <= edges[-1])).any():
        count += alive & (clock <= edges[:, None])
        alive &= rng.random(len(p)) > p
        clock = clock + rng.standard_gamma(k, len(p)) / lam
    flows = [Flow(delta=0.0, horizon=h) for h in edges]
    row = np.array([[float(x), t_x, t_x + elapsed]])
    exact = residual(family, np.array([theta]), row, flows)[0, :, 0]
    oracles.assert_mean_zero((count - exact[:, None]).T, "purchases")


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("k", [1.0, 2.0, 5.0])
def test_table_of_phases_equals_every_row_by_itself(family, k):
    """The table holds each phase at some T; rows differ in recency."""
    rng = np.random.default_rng(8)
    x = np.sort(np.repeat([0.0, 1.0, 3.0, 12.0, 60.0], 12))
    T = rng.uniform(20, 39, len(x))
    rows = np.column_stack([x, np.where(x > 0, T * rng.uniform(0.3, 1, len(x)), 0.0), T])
    rows = rows[np.lexsort(rows.T[::-1])]
    draws = family.vector(REGULAR | {"k": k}) * np.exp(0.1 * rng.standard_normal((3, 5)) * [0, 1, 1, 1, 1])
    flows = [Flow(delta=0.0027), Flow(delta=0.0, horizon=13.0), Flow(delta=0.0027, start=52.0, horizon=104.0)]
    table = tabulate(family, draws, rows, flows)
    plain = residual(replace(family, phases=None), draws, rows, flows)  # from `rate` alone
    np.testing.assert_allclose(residual(family, draws, rows, flows), plain, rtol=1e-9)
    np.testing.assert_allclose(table.at(slice(0, len(rows))), plain, rtol=1e-9)
    np.testing.assert_array_equal(table.at(slice(7, 50)), table.at(slice(0, 60))[7:50])


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_what_a_phase_is_worth_adds_up(family):
    """Discounted at δ: a phase less to wait multiplies the value of a latent customer by (λ+δ)/λ."""
    lam, p, k, delta = 1.3, 0.2, 3.0, 0.07
    code = Flow(delta=delta).code()
    values = [
        family.latent_value(np.array([1.0, lam / k, lam / k * p, p, phase, k]), code)
        for phase in (0.0, 1.0, 2.0)
    ]
    factor = lam / (lam + delta)
    assert values[1] / values[0] == pytest.approx(1 / factor, rel=1e-12)
    assert values[2] / values[1] == pytest.approx(1 / factor, rel=1e-12)
    assert values[0] == pytest.approx(factor**k / (1 - (1 - p) * factor**k), rel=1e-12)


# ---------------------------------------------------------------- fit


def simulated(family, theta, customers: int, seed: int):
    T = np.random.default_rng(seed).uniform(26, 78, customers)
    histories = family.simulate(theta, T, np.random.default_rng(seed + 1))
    return make_summary(histories.statistics(T, family.extra_statistics))


def fitted(family, summary, **options):
    model = ModelConfig(family=family.name, settings={"k": "auto"})
    rows = summary.fold(family.statistics)
    return fit_family(family, rows, model, FitConfig(**options), 6, measure(summary))


@pytest.mark.parametrize("k", [2.0, 3.0])
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_auto_finds_k_and_the_fit_recovers_the_simulator(family, k):
    theta = {"k": k, "r": 0.85, "alpha": 3.0, "a": 0.79, "b": 2.42}
    posterior = fitted(family, simulated(family, theta, 3000, 40), draws=1000)
    assert posterior.settings == {"k": k}
    evidence = {choice["k"]: choice["log_evidence"] for choice in posterior.diagnostics["choices"]}
    assert sorted(evidence) == list(range(1, 9))
    assert max(evidence, key=evidence.get) == k
    assert evidence[k] > max(evidence[k - 1], evidence[k + 1]) + 20
    draws = np.log(posterior.flat[:, 1:])
    z = (draws.mean(axis=0) - np.log(family.vector(theta)[1:])) / draws.std(axis=0)
    assert (np.abs(z) < oracles.Z).all(), z
    assert (draws.std(axis=0) < 0.35).all()


@pytest.fixture(scope="session")
def cdnow_with_gaps():
    from clvmodels.config import DataConfig

    config = DataConfig(source="cdnow_sample", observation_end="1997-09-30")
    return summarise(config, statistics=FAMILIES[0].extra_statistics)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_cdnow_buys_at_random(family, cdnow_with_gaps):
    posterior = fitted(family, cdnow_with_gaps, sampler="map")
    assert posterior.settings == {"k": 1}
    evidence = [choice["log_evidence"] for choice in posterior.diagnostics["choices"]]
    assert evidence[0] > evidence[1] + 200
    assert (np.diff(evidence) < 0).all()


# ---------------------------------------------------------------- bad input


def test_k_is_one_of_its_choices():
    for k, words in (
        (2.5, "2.5 is none of 1, 2, 3"),
        (9, "9 is none of"),
        ("many", "'many' is not a number"),
    ):
        with pytest.raises(InputError, match=words):
            check_model(ModelConfig(family="bg_cnbd_k", settings={"k": k}))
    check_model(ModelConfig(family="bg_cnbd_k", settings={"k": 4}))
    check_model(ModelConfig(family="bg_cnbd_k", settings={"k": "auto"}))


def test_needs_the_times_between_purchases():
    import pandas as pd

    columns = {"frequency": [0, 1, 3], "recency": [0.0, 4.0, 20.0], "T": [30.0, 30.0, 30.0]}
    config = {
        "data": {"kind": "summary", "observation_end": "1997-09-30"},
        "models": {"purchases": {"family": "bg_cnbd_k"}, "spend": {"family": "fixed_spend"}},
        "value": {"margin": 0.3, "annual_discount_rate": 0.15},
    }
    with pytest.raises(InputError, match="no column 'log_intervals', which this model needs"):
        clv.fit(config, pd.DataFrame(columns))


def test_from_a_config():
    run = clv.fit(
        {
            "data": {"source": "cdnow_sample", "observation_end": "1997-09-30"},
            "models": {
                "purchases": {"family": "mbg_cnbd_k", "fixed": {"k": 2, **THETA | {"alpha": 3.1}}},
                "spend": {"family": "fixed_spend", "settings": {"amount": 35.0}},
            },
            "value": {"margin": 0.3, "annual_discount_rate": 0.15},
        }
    )
    assert run.draws.purchases.flat.tolist() == [[2.0, 0.525, 3.1, 0.891, 1.614]]
    theta = dict(zip(FAMILIES[1].parameter_names, run.draws.purchases.flat[0], strict=True))
    orders = holdout.expected(run.data, "mbg_cnbd_k", theta, Flow(delta=math.log(1.15) / 52.1775))
    assert run.equity.total("point")[0] == pytest.approx(0.3 * 35 * orders.sum(), rel=1e-9)
