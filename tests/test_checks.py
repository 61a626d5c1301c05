"""Posterior predictive checks: they pass where the model is true and fail where it is not."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from clvmodels.artifacts import Calendar, FamilyPosterior, Posterior, Summary
from clvmodels.fit import shocks
from clvmodels.models import registry
from clvmodels.validate import checks, predictive_checks, systematic

PURCHASES = {"r": 0.5, "alpha": 4.0, "a": 0.8, "b": 2.4}
SPEND = {"p": 6.25, "q": 3.74, "gamma": 15.44}
END = dt.date(2001, 6, 30)
DAYS = 7 * 40
AFTER = 7 * 20


def simulated(seed: int, customers: int = 600, holdout: float = 20.0) -> Summary:
    """A summary whose every column comes from the models at the true parameters."""
    rng = np.random.default_rng(seed)
    born = rng.integers(0, 150, customers)  # days after the first day of observation
    age = (DAYS - 1 - born) / 7
    found = registry.purchases("bg_nbd").simulate(PURCHASES, age + holdout, rng)
    seen = found.statistics(age)
    baskets = registry.spend("gamma_gamma").simulate(SPEND, np.maximum(seen["frequency"], 1), rng)
    first_day = np.datetime64(END) - (DAYS - 1 - born).astype("timedelta64[D]")
    day = np.datetime64(END) - np.arange(DAYS - 1, -AFTER - 1, -1).astype("timedelta64[D]")
    ordered = np.ceil(born[found.customer] + 7 * found.time).astype(int)
    repeat = np.bincount(ordered[ordered < len(day)], minlength=len(day)).astype(float)
    later = np.bincount(found.customer, found.time > age[found.customer], customers)
    # The future baskets of those who never bought again are drawn as for anybody.
    amount = np.where(later > 0, later * baskets.mean, 0.0)
    return Summary(
        customer=np.array([f"{i:06d}" for i in range(customers)], dtype=object),
        columns={
            **seen,
            "monetary_value": np.where(seen["frequency"] > 0, baskets.monetary_value, np.nan),
            "first_amount": baskets.mean,
            "holdout_frequency": later.astype(float),
            "holdout_amount": amount,
        },
        first_day=first_day,
        segments={},
        calendar=Calendar(
            day=day,
            first_orders=np.zeros(len(day)),
            repeat_orders=repeat,
            first_amount=np.zeros(len(day)),
            repeat_amount=np.zeros(len(day)),
        ),
        time_unit="week",
        observation_start=END - dt.timedelta(days=DAYS - 1),
        observation_end=END,
        holdout=holdout,
        currency="EUR",
        ledger={},
        fingerprint="f",
    )


def posterior(draws: int = 50, spread: float = 0.0) -> Posterior:
    """Draws at the true parameters, so that checks hold at their nominal rates."""
    rng = np.random.default_rng(0)
    parts = [
        FamilyPosterior(
            family=name,
            parameters=tuple(theta),
            draws=np.array(list(theta.values())) * np.exp(spread * rng.normal(size=(1, draws, len(theta)))),
            sampler="importance" if draws > 1 else "fixed",
            maximum={},
            diagnostics={},
            priors={},
            rows=1,
            customers=1,
        )
        for name, theta in (("bg_nbd", PURCHASES), ("gamma_gamma", SPEND))
    ]
    return Posterior(purchases=parts[0], spend=parts[1], time_unit="week", currency="EUR")


def changed(summary: Summary, **columns: np.ndarray) -> Summary:
    return replace(summary, columns={**summary.columns, **columns})


@pytest.fixture(scope="module")
def summary() -> Summary:
    return simulated(1)


@pytest.fixture(scope="module")
def found(summary):
    result, arrays = predictive_checks(summary, posterior(), seed=3)
    return {check.name: check for check in result}, arrays


def run(summary, **options):
    return {check.name: check for check in predictive_checks(summary, posterior(**options), seed=3)[0]}


def test_each_check_is_made_and_says_what_it_found(found):
    result, _ = found
    assert list(result) == [
        "frequency_histogram", "zero_class", "recency", "tracking_band", "tracking_error", "window_halves",
        "spend_mean", "spend_median", "spend_distribution", "spend_frequency_correlation", "holdout_orders",
        "holdout_spend",
    ]  # fmt: skip
    for check in result.values():
        assert check.sentence.endswith(".")
        assert check.value is not None


def test_arrays_count_what_the_summary_holds(summary, found):
    _, arrays = found
    assert arrays["frequency_observed"].sum() == len(summary)
    np.testing.assert_allclose(arrays["frequency_model"].sel(band="mean").sum(), len(summary))
    weeks = DAYS // 7 + AFTER // 7
    assert arrays.sizes["week"] == weeks
    in_window = arrays["weekly_observed"][: DAYS // 7]
    assert in_window.sum() == summary["frequency"].sum()
    assert arrays["weekly_observed"].sum() == summary["frequency"].sum() + summary["holdout_frequency"].sum()
    np.testing.assert_array_equal(arrays["cumulative_observed"], arrays["weekly_observed"].cumsum())
    assert arrays["week"].values[DAYS // 7 - 1] == np.datetime64(END)
    for name in ("weekly", "cumulative", "frequency", "spend"):
        low, mean, high = arrays[f"{name}_model"].values
        assert (low <= high).all()
        assert (
            (low <= mean + 1e-9) | (mean < 1)
        ).all()  # the mean of rare counts may lie below a 5 % quantile of 0
    assert arrays["holdout_orders"].attrs["actual"] == summary["holdout_frequency"].sum()


def test_same_seed_same_result(summary, found):
    again, arrays = predictive_checks(summary, posterior(), seed=3)
    assert again == tuple(found[0].values())
    assert arrays.identical(found[1])


def test_verdicts_hold_at_their_nominal_rates_where_the_model_is_true():
    """40 data sets. With the parameters known, P(p < .05) is .05 and a 95 % interval covers .95 (a 90 %
    one .90); the bounds are quantiles of the binomial at 1e-4 each."""
    results = [run(simulated(100 + k, customers=300)) for k in range(40)]
    for name, rate in (
        ("frequency_histogram", 0.95),
        ("zero_class", 0.95),
        ("spend_mean", 0.95),
        ("spend_median", 0.95),
        ("holdout_orders", 0.90),
        ("tracking_band", 0.99),
    ):
        passed = sum(bool(result[name].passed) for result in results)
        assert passed >= binom.ppf(1e-4, len(results), rate), (name, passed)
    p = np.array([result["frequency_histogram"].value for result in results])
    # A uniform p has the standard deviation 1/√12; four of those of the mean.
    assert abs(p.mean() - 0.5) < 4 / np.sqrt(12 * len(p))


def test_wrong_frequencies_fail(summary):
    rng = np.random.default_rng(5)
    regular = rng.poisson(2.0, len(summary)).astype(float)
    recency = np.where(regular > 0, 0.5 * summary["T"], 0.0)
    result = run(
        changed(summary, frequency=regular, recency=recency, monetary_value=np.full(len(summary), 30.0))
    )
    assert result["frequency_histogram"].passed is False
    assert "do not follow" in result["frequency_histogram"].sentence
    assert result["zero_class"].passed is False


def test_wrong_spend_fails(summary):
    result = run(changed(summary, monetary_value=1.5 * summary["monetary_value"]))
    assert result["spend_mean"].passed is False
    assert result["spend_median"].passed is False
    assert result["spend_frequency_correlation"].passed is True


@pytest.mark.parametrize(("power", "words"), [(0.6, "too low"), (-0.6, "too high")])
def test_spend_that_goes_with_frequency_fails_and_names_the_remedy(summary, power, words):
    x = np.maximum(summary["frequency"], 1)
    result = run(changed(summary, monetary_value=summary["monetary_value"] * x**power))
    check = result["spend_frequency_correlation"]
    assert check.passed is False
    assert words in check.sentence
    assert "Remedy: split the log by something known at the first purchase" in check.sentence
    assert check.figure == "spend_by_frequency"


def test_spend_by_frequency_shows_the_trend_that_the_model_does_not_know(summary):
    x = np.maximum(summary["frequency"], 1)
    bent = changed(summary, monetary_value=summary["monetary_value"] * x**0.6)
    for one, trend in ((summary, False), (bent, True)):
        _, arrays = predictive_checks(one, posterior(), seed=3)
        seen = arrays["spend_by_frequency_observed"].values
        low, _, high = arrays["spend_by_frequency_model"].values
        buyers = one["frequency"] > 0
        twice = one["frequency"] == 2
        assert seen[1] == pytest.approx(one["monetary_value"][twice].mean())
        assert len(seen) == arrays.sizes["repeats"]
        assert buyers.sum() > 100
        assert (seen[-1] > high[-1]) == trend
        assert seen[-1] > low[-1]


def test_spend_without_spread_has_no_correlation(summary):
    flat = np.where(summary["frequency"] > 0, 25.0, np.nan)
    assert run(changed(summary, monetary_value=flat))["spend_frequency_correlation"].passed is None


def test_shocks_shared_by_all_fail_the_tracking(summary):
    orders = summary.calendar.repeat_orders.copy()
    week = np.arange(len(orders)) // 7
    orders[week % 2 == 0] *= 2
    orders[week % 2 == 1] = 0
    shocked = replace(summary, calendar=replace(summary.calendar, repeat_orders=orders))
    result = run(shocked)
    assert result["tracking_band"].passed is False
    assert result["tracking_error"].passed is False


def test_a_missed_holdout_is_called_a_miss(summary):
    result = run(changed(summary, holdout_frequency=2 * summary["holdout_frequency"]))
    assert result["holdout_orders"].passed is False
    assert "MISS" in result["holdout_orders"].sentence
    assert "% more" in result["holdout_orders"].sentence.replace("\u00a0", " ")


def test_a_holdout_is_judged_by_level_systematic(summary, found):
    """Shocks that never change multiply every draw; those of purchases and of baskets both move spend."""
    was, arrays = found
    draws = arrays.sizes["draw"]

    def still(level: float) -> shocks.Shocks:
        return shocks.Shocks(
            parameters=np.tile([0.5, 0.0, 0.0], (draws, 1)), state=np.zeros((draws, 2)),
            loads=np.full((draws, 1), level), weeks=50, used=50, season=False,
            events=np.ones((200, 1)), k_hat=0.0, ess=draws,
        )  # fmt: skip

    weather = systematic.Weather(orders=still(np.log(2)), baskets=still(np.log(1.5)), reason=None)
    doubled = changed(
        summary,
        holdout_frequency=2 * summary["holdout_frequency"],
        holdout_amount=3 * summary["holdout_amount"],
    )
    result, now = predictive_checks(doubled, posterior(), 3, weather)
    result = {check.name: check for check in result}
    for name, factor in (("orders", 2), ("spend", 3)):
        np.testing.assert_allclose(now[f"holdout_{name}_systematic"], factor * arrays[f"holdout_{name}"])
        np.testing.assert_array_equal(now[f"holdout_{name}"], arrays[f"holdout_{name}"])
        check = result[f"holdout_{name}"]
        assert check.passed == was[f"holdout_{name}"].passed
        assert "systematic interval" in check.sentence
        assert "without shared shocks" in check.sentence


def test_without_holdout_nothing_is_said_of_one(summary):
    result, arrays = predictive_checks(replace(summary, holdout=0.0), posterior(), seed=3)
    assert not any(check.name.startswith("holdout") for check in result)
    assert arrays.sizes["week"] == DAYS // 7


def test_a_window_shorter_than_a_week_is_one_week(summary):
    start = END - dt.timedelta(days=3)
    columns = {
        **summary.columns,
        "T": np.full(len(summary), 3 / 7),
        "recency": np.where(summary["frequency"] > 0, 2 / 7, 0.0),
    }
    short = replace(
        summary,
        columns=columns,
        first_day=np.full(len(summary), np.datetime64(start)),
        observation_start=start,
        holdout=0.0,
    )
    _, arrays = predictive_checks(short, posterior(), seed=3)
    assert arrays.sizes["week"] == 1


def test_later_customers_leave_the_weeks_after_the_window_unobserved(summary):
    """A calendar that counts more than the summary's customers is not compared with them."""
    orders = summary.calendar.repeat_orders.copy()
    orders[-1] += 1
    _, arrays = predictive_checks(
        replace(summary, calendar=replace(summary.calendar, repeat_orders=orders)), posterior(), seed=3
    )
    after = arrays["week"].values > np.datetime64(END)
    assert np.isnan(arrays["weekly_observed"].values[after]).all()
    assert np.isfinite(arrays["weekly_model"].values[:, after]).all()


def test_a_single_parameter_vector_gets_no_verdict_and_no_band(summary):
    result, arrays = predictive_checks(summary, posterior(1), seed=3)
    for check in result:
        if check.name not in ("tracking_error", "spend_frequency_correlation"):  # these need no interval
            assert check.passed is None, check.name
        assert "interval" not in check.sentence
    for name in ("frequency", "weekly", "cumulative", "spend"):
        low, mean, high = arrays[f"{name}_model"].values
        assert np.isnan(low).all()
        assert np.isnan(high).all()
        assert np.isfinite(mean).all()


def test_a_subsample_says_so_and_keeps_the_scale(summary, found, monkeypatch):
    monkeypatch.setattr(checks, "CUSTOMERS", 300)
    result, arrays = predictive_checks(summary, posterior(), seed=3)
    assert arrays.attrs["customers"] == 300
    assert "(on a sample of 300 of 600 customers)" in result[0].sentence
    assert arrays["frequency_observed"].sum() == 300
    whole = found[1]
    inside = arrays["week"].values <= np.datetime64(END)
    sums = [a["weekly_model"].sel(band="mean").values[inside].sum() for a in (arrays, whole)]
    # Means of 200 replicates of 300 customers times 2: the sd of a replicate's total is about 2 √(300 · 20),
    # that of the mean 11, and the subsample's own ages add as much again; five standard deviations.
    assert abs(sums[0] - sums[1]) < 5 * 2 * 11


def test_scaling_keeps_the_variance_of_parameters_and_of_chance():
    """Halves with a shared part of sd s and own chance of variance v: scaled by k, the total has the
    variance k² · 4s² + k · 2v."""
    rng = np.random.default_rng(7)
    n, k, s, v = 200_000, 10.0, 3.0, 50.0
    shared = rng.normal(100, s, n)
    halves = shared[:, None, None] + rng.normal(0, np.sqrt(v), (n, 2, 1))
    total = checks._to_all(halves, k)
    expected = k**2 * 4 * s**2 + k * 2 * v
    # A variance of n normal draws has the relative error √(2/n) = .003; the split into two adds its like.
    assert total.var() == pytest.approx(expected, rel=0.02)
    assert total.mean() == pytest.approx(k * 200, rel=1e-3)
    np.testing.assert_array_equal(checks._to_all(halves, 1), halves.sum(axis=1))


def test_weeks_are_counted_back_from_the_end_of_observation():
    days = np.array([0.0, -6.0, -6.99, -7.0, -13.0, -14.0, 1.0])
    assert checks._weeks_back(days).tolist() == [0, 0, 0, 1, 1, 2, -1]
