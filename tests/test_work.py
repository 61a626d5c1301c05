"""How much work a run is, counted instead of timed: a loss of speed fails here on any machine.

Bounds are what the code needs today, with a tenth to spare. Exactness of what saves the work is tested
beside it.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace

import numba
import numpy as np
import pytest
from builders import make_assumptions, make_posterior, make_summary

from clvmodels import equity
from clvmodels.config import FitConfig, ModelConfig
from clvmodels.fit import fit_family, measure, nuts
from clvmodels.fit.convergence import ess
from clvmodels.fit.graph import Target
from clvmodels.fit.maximum import climb
from clvmodels.fit.priors import resolve
from clvmodels.models import registry
from clvmodels.models.family import compiled
from clvmodels.numerics import loops, paths
from clvmodels.numerics.discounting import Flow
from clvmodels.value import Valuation
from clvmodels.value.residual import residual, tabulate

DAYS = 365
RATES = 1_760
THETA = {
    "bg_nbd": [0.243, 30.9, 0.793, 2.426],
    "mbg_nbd": [0.525, 43.3, 0.891, 1.614],
    "pareto_nbd": [0.553, 74.0, 0.606, 81.7],
}
SPEND = np.array([6.25, 3.74, 15.44])
FLOWS = [
    Flow(delta=0.00038),
    Flow(delta=0.0, horizon=365.0),
    Flow(delta=0.00038, start=365.0, horizon=1095.0),
]


def daily(count: int):
    """Customers of a year in days, as a shop has them: many alike, a few who buy every week."""
    family, rng = registry.purchases("bg_nbd"), np.random.default_rng(5)
    T = rng.integers(1, DAYS + 1, count).astype(float)
    found = family.simulate(dict(zip(family.parameter_names, THETA["bg_nbd"], strict=True)), T, rng)
    columns = found.statistics(T)
    columns["recency"] = np.ceil(columns["recency"])
    spend = rng.gamma(6.0, 6.0, count).round(2)
    columns["monetary_value"] = np.where(columns["frequency"] > 0, spend, np.nan)
    return make_summary(columns)


def draws(name: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(8)
    return np.array(THETA[name]) * np.exp(0.03 * rng.standard_normal((count, 4)))


def valuation(summary, count: int) -> Valuation:
    spend = SPEND * np.exp(0.01 * np.random.default_rng(9).standard_normal((count, 3)))
    posterior = make_posterior(("bg_nbd", draws("bg_nbd", count)), ("gamma_gamma", spend))
    return Valuation(summary, posterior, make_assumptions(summary, units_per_year=365.2425), 1)


@pytest.fixture
def work(monkeypatch):
    """Evaluations of rates and of other scalars, counted where the loops are called."""
    count: Counter[str] = Counter()
    rates, scalars, aging = loops.weighted_rates, loops.over_stats, loops.aging_rates

    def weighted_rates(rate, draws, stats, nodes, weights, out):
        count["rate"] += len(draws) * len(stats) * len(nodes)
        rates(rate, draws, stats, nodes, weights, out)

    def over_stats(scalar, draws, stats, out):
        count[scalar.__name__] += len(draws) * len(stats)
        scalars(scalar, draws, stats, out)

    def aging_rates(rate, draws, stats, column, age, v, out):
        count["rate"] += len(draws) * (len(v) + 1)
        aging(rate, draws, stats, column, age, v, out)

    monkeypatch.setattr(loops, "weighted_rates", weighted_rates)
    monkeypatch.setattr(loops, "aging_rates", aging_rates)
    monkeypatch.setattr(loops, "over_stats", over_stats)
    return count


def test_work_of_a_valuation(work):
    summary, count = daily(20_000), 20
    valued = valuation(summary, count)
    kinds = sum(len(tile.distinct) for tile in valued.expected())
    names = ("frequency", "recency", "T", "monetary_value")
    table = np.unique(np.nan_to_num([summary[name] for name in names]), axis=1)
    assert kinds == table.shape[1]  # distinct customers, not customers
    assert work["expected_spend"] == kinds * count
    assert (
        work["p_alive"] <= 1.05 * len(valued.rows.weight) * count
    )  # a row at the end of a tile counts twice
    assert work["rate"] <= 1.1 * RATES * count, f"{work['rate'] / count:,.0f} rates a draw"


def test_more_customers_are_little_more_work(work):
    found = []
    for n in (5_000, 40_000):
        work.clear()
        list(valuation(daily(n), 4).expected())
        found.append(dict(work))
    few, many = found
    # A table over frequency and age: its size is not that of the data.
    assert many["rate"] < 2 * few["rate"]
    assert many["expected_spend"] < 8 * 0.9 * few["expected_spend"]  # zero buyers are alike


def test_predictive_paths_are_drawn_by_laws_of_rates(monkeypatch):
    """One call of the quick loop a tile, none of the one that goes purchase by purchase, no latents."""
    count, quick = Counter(), paths.predictive_paths

    def counted(*given):
        count["tile"] += 1
        quick(*given)

    monkeypatch.setattr(paths, "predictive_paths", counted)
    monkeypatch.setattr(loops, "predictive_values", None)
    monkeypatch.setattr(loops, "latent_values", None)
    valued = valuation(daily(600), 3)
    assert len(list(valued.predictive())) == count["tile"] == 3
    assert len(list(valued.future([0.0, 30.0]))) == 3
    assert count["tile"] == 6


def test_memory_is_that_of_a_tile():
    """Equity of four times the customers: what is added is columns, not draws × customers."""
    count, peaks = 200, []
    for n in (2_000, 8_000):
        valued = valuation(daily(n), count)
        tracemalloc.start()
        equity.build(valued)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 6_000 < 600  # bytes a customer; its draws would be 1,600
    assert peaks[1] < 100e6


def test_work_of_a_fit(monkeypatch):
    """One compilation with and one without gradient; a few gradients and two proposals a draw."""
    family, count = registry.purchases("bg_nbd"), Counter()
    call, compile_, density = Target.__call__, Target._compile, Target.density

    def counted(name, function, size=lambda *a: 1):
        def wrapper(self, *args, **kwargs):
            count[name] += size(*args)
            return function(self, *args, **kwargs)

        return wrapper

    monkeypatch.setattr(Target, "__call__", counted("gradient", call))
    monkeypatch.setattr(Target, "_compile", counted("compilation", compile_))
    monkeypatch.setattr(Target, "density", counted("density", density, len))
    summary = daily(3_000)
    rows = summary.fold(family.statistics)
    part = fit_family(family, rows, ModelConfig(family="bg_nbd"), FitConfig(draws=1000), 1, measure(summary))
    assert part.diagnostics["k_hat"] < 0.5
    assert part.diagnostics["ess"] > 800
    assert count["compilation"] <= 2
    assert count["gradient"] <= 120
    assert count["density"] == part.diagnostics["proposals"] <= 1_750


@pytest.mark.parametrize("name", ["bg_nbd", "pareto_nbd"])
def test_work_of_a_large_fit(name, monkeypatch):
    """One compilation, and gradients whose number depends neither on customers nor on draws."""
    family, count = registry.purchases(name), Counter()
    call, compile_ = Target.__call__, Target._compile

    def called(self, *args, **kwargs):
        count["gradient"] += 1
        return call(self, *args, **kwargs)

    def compiled_(self, gradient):
        count["compilation"] += 1
        return compile_(self, gradient)

    monkeypatch.setattr(Target, "__call__", called)
    monkeypatch.setattr(Target, "_compile", compiled_)
    summary = daily(50_000)
    rows = summary.fold(family.statistics)
    part = fit_family(family, rows, ModelConfig(family=name), FitConfig(draws=3000), 1, measure(summary))
    assert part.diagnostics["log_weight_error"] < 0.01
    assert part.diagnostics["ess"] > 2900
    assert count["compilation"] <= 1
    assert count["gradient"] <= 220


@pytest.mark.parametrize("name", ["bg_nbd", "pareto_nbd"])
def test_work_of_chains(name, cdnow):
    """Gradients of NUTS are few, as few for each family, and its draws worth as many independent ones."""
    family = registry.purchases(name)
    rows = cdnow.fold(family.statistics)
    target = Target.of(family, rows, resolve(family, ModelConfig(family=name), measure(cdnow), {}))
    mode = climb(lambda point: target(point)[:2], target.start(measure(cdnow)))
    count = Counter()

    def counted(point):
        count["gradient"] += 1
        return target(point)

    points, divergences = nuts.sample(counted, mode, 2, 200, 800, 3, bend=True)
    assert divergences == 0
    assert min(ess(points[..., i])["bulk"] for i in range(points.shape[2])) > 800
    assert count["gradient"] <= 5_100


def test_costly_terms_are_computed_once_a_pair():
    """Of two columns: of 20,000 customers' rows a fifth; and the log-likelihood is that of the rows."""
    family, summary = registry.purchases("pareto_nbd"), daily(20_000)
    rows = summary.fold(family.statistics)
    target = Target.of(family, rows, resolve(family, ModelConfig(family=family.name), measure(summary), {}))
    sizes = {
        name: len(target.model[name].get_value()) for name in target.model.named_vars if "_first" in name
    }
    columns = [rows[name] for name in rows.names]
    pairs = [len(np.unique([columns[0], column], axis=1).T) for column in columns[1:]]
    assert sorted(sizes.values()) == sorted(pairs)
    assert sum(pairs) < 0.6 * len(rows.weight)
    start = target.start(measure(summary))
    value, _, native = target(start, 0.0, 0.0)
    theta = dict(zip(family.parameter_names, native, strict=True))
    per_row = family.log_likelihood(theta, {name: rows[name] for name in rows.names}).eval()
    assert value == pytest.approx(rows.weight @ per_row, rel=1e-12)


# ---------------------------------------------------------------- what saves the work is exact


def grid(frequencies, ages) -> np.ndarray:
    return np.array([[x, 0.0, t] for x in frequencies for t in ages])


@pytest.mark.parametrize("name", list(THETA))
def test_interpolation_in_frequency_is_exact(name):
    """To 1e-10, at every frequency up to one purchase a day."""
    family, some = registry.purchases(name), draws(name, 3)
    stats = grid([*range(90), 120, 200, 364], np.arange(5.0, DAYS, 9))
    table = tabulate(family, some, stats, FLOWS)
    assert sum(curve.share is not None for curve in table.curves) > 80, "nothing was interpolated"
    assert len(table.values) < len(stats) / 3
    np.testing.assert_allclose(
        table.at(slice(0, len(stats))), residual(family, some, stats, FLOWS), rtol=1e-10
    )


plain = registry.purchases("pareto_nbd").rate


@compiled.rate
def uneven(theta, stats, s):
    """A rate that is no smooth function of frequency."""
    return plain(theta, stats, s) * (1.0 + 0.001 * (np.floor(stats[0]) % 2.0))


def test_what_is_not_smooth_in_frequency_is_not_interpolated():
    family = replace(registry.purchases("pareto_nbd"), rate=uneven)
    stats = grid(range(60), np.arange(5.0, DAYS, 9))
    some = draws("pareto_nbd", 2)
    table = tabulate(family, some, stats, FLOWS)
    assert all(curve.share is None for curve in table.curves)
    np.testing.assert_allclose(
        table.at(slice(0, len(stats))), residual(family, some, stats, FLOWS), rtol=1e-10
    )


def test_kinds_are_their_customers():
    summary = daily(3_000)
    valued = valuation(summary, 5)
    codes = np.arange(len(summary)) % 3
    for tile in valued.expected():
        value = tile.value
        assert value.shape == (len(tile.customers), 5)
        assert tile.members.sum() == len(tile.customers)
        np.testing.assert_allclose(tile.sum(), value.sum(axis=0), rtol=1e-13)
        mask = tile.customers % 2 == 0
        np.testing.assert_allclose(tile.sum(mask), value[mask].sum(axis=0), rtol=1e-13)
        for code, total in tile.sum_by(codes[tile.customers]).items():
            np.testing.assert_allclose(total, value[codes[tile.customers] == code].sum(axis=0), rtol=1e-13)


def test_combination_is_a_product_of_matrices():
    rng = np.random.default_rng(1)
    weights, values, out = rng.normal(size=(7, 5)), rng.normal(size=(5, 1300)), np.empty((7, 1300))
    loops.combine(weights, values, out)
    np.testing.assert_allclose(out, weights @ values, rtol=1e-12, atol=1e-13)
    assert isinstance(loops.combine, numba.core.dispatcher.Dispatcher)
