"""Level systematic: factors of shared shocks, and what they leave alone."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from builders import make_assumptions, make_posterior, make_summary

from clvmodels import equity
from clvmodels.fit import shocks
from clvmodels.models.registry import spend
from clvmodels.validate import systematic
from clvmodels.value import Valuation

BG = np.array([0.243, 4.414, 0.793, 2.426])
GG = np.array([6.25, 3.74, 15.44])


def posterior(draws: int):
    wiggle = np.exp(0.05 * np.random.default_rng(1).standard_normal((draws, 7)))
    return make_posterior(("bg_nbd", BG * wiggle[:, :4]), ("gamma_gamma", GG * wiggle[:, 4:]))


def steady(draws: int, level: float = 0.0) -> systematic.Weather:
    """Shocks that never change: the factor is exp(level) in every week."""
    still = shocks.Shocks(
        parameters=np.tile([0.5, 0.0, 0.0], (draws, 1)), state=np.zeros((draws, 2)),
        loads=np.full((draws, 1), level), weeks=50, used=50, season=False,
        events=np.ones((2_000, 1)), k_hat=0.0, ess=draws,
    )  # fmt: skip
    return systematic.Weather(orders=still, baskets=None, reason=None)


@pytest.fixture(scope="module")
def valuation(cdnow):
    return Valuation(cdnow, posterior(200), make_assumptions(cdnow), 1)


@pytest.fixture(scope="module")
def built(valuation):
    return equity.build(valuation)


def test_factors_weigh_weeks_by_their_flow():
    rng = np.random.default_rng(2)
    paths, flow = rng.lognormal(size=(5, 9)), rng.uniform(1, 2, 9)
    found = systematic.factors(paths, flow, [1, 4, 9])
    for row, until in zip(found, (1, 4, 9), strict=True):
        np.testing.assert_allclose(row, [np.average(p[:until], weights=flow[:until]) for p in paths])


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_a_constant_shock_is_the_factor_itself(valuation, built, level):
    bands = built.data["bands"].mean("draw").values
    found = systematic.effects(steady(200, level), valuation, bands, 1)
    for part in (found.value, found.orders, found.revenue):
        np.testing.assert_allclose(part, np.exp(level), rtol=1e-12)


def test_shared_shocks_scale_every_part_alike(built):
    rng = np.random.default_rng(3)
    value, orders, revenue = (
        rng.lognormal(size=200),
        rng.lognormal(size=(200, 2)),
        rng.lognormal(size=(200, 2)),
    )
    found = equity.with_shocks(built, value, orders, revenue)
    assert found.levels == ("expected", "latent", "predictive", "systematic")
    np.testing.assert_allclose(found.total("systematic"), found.total("predictive") * value, rtol=1e-14)
    for name, factor in (("orders", orders), ("revenue", revenue), ("never_again", value)):
        was, now = (found.data[name].sel(level=level).values for level in ("predictive", "systematic"))
        np.testing.assert_allclose(now, was * factor, rtol=1e-14)
    for name in ("gini", "top_decile", "lorenz"):
        was, now = (found.data[name].sel(level=level).values for level in ("predictive", "systematic"))
        np.testing.assert_array_equal(now, was)
    for level in built.levels:
        np.testing.assert_array_equal(found.total(level), built.total(level))
    assert set(found.data.data_vars) == set(built.data.data_vars)
    assert found.data.attrs == built.data.attrs


def test_variation_of_a_basket_is_that_of_gamma_gamma():
    """Var z / E[z]² = (1 + 1/p)(q - 1)/(q - 2) - 1, from z | ν ~ Gamma(p, ν), ν ~ Gamma(q, γ)."""
    p, q = 6.25, 8.0
    found = systematic.variation(spend("gamma_gamma"), [p, q, 15.44], 1)
    exact = np.sqrt((1 + 1 / p) * (q - 1) / (q - 2) - 1)
    # Relative error of a coefficient of variation from n draws of this kurtosis: some 1.5 / sqrt(n).
    assert found == pytest.approx(exact, rel=4 * 1.5 / np.sqrt(systematic.WORLD))


def test_cdnow_strays_from_its_model_by_a_fifth_a_week(valuation):
    """The weekly ratios of the calibration window tell it without any model of shocks."""
    found = systematic.of_window(valuation, 1)
    assert found.orders.used >= 30
    calendar, end = valuation.summary.calendar, np.datetime64("1997-09-30")
    week = ((end - calendar.day).astype(int) // 7)[calendar.day <= end]
    late = week < 25
    seen = np.bincount(week[late], calendar.repeat_orders[calendar.day <= end][late])
    rough = np.sqrt(np.log(seen / np.convolve(seen, np.ones(9) / 9, "same"))[5:-5].var() - (1 / seen).mean())
    sigma = found.orders.parameters[:, 1]
    assert sigma.mean() - 3 * sigma.std() < rough < sigma.mean() + 3 * sigma.std()
    assert found.orders.k_hat < shocks.TRUSTED


def test_why_there_is_none():
    summary = make_summary({"frequency": [1, 0], "recency": [3.0, 0], "T": [9.0, 9.0]})
    point = Valuation(
        summary, make_posterior(("bg_nbd", BG), ("gamma_gamma", GG)), make_assumptions(summary), 1
    )
    assert "no interval" in systematic.of_window(point, 1).reason
    many = Valuation(summary, posterior(20), make_assumptions(summary), 1)
    weather = systematic.of_window(many, 1)
    assert "table of summaries" in weather.reason
    (check,) = systematic.checks(weather)
    assert check.passed is None
    with pytest.raises(ValueError, match="table of summaries"):
        weather.paths(3, 1)


def test_customers_to_be_won_meet_the_same_weather(built):
    """Their gross value moves, their cost and their number do not; net and together add up."""
    rng = np.random.default_rng(4)
    gross, cost, count = rng.lognormal(size=(3, 3, 200))
    dims = ("level", "draw")
    future = xr.Dataset(
        {"gross": (dims, gross), "cost": (dims, cost), "net": (dims, gross - cost),
         "customers": (dims, count), "together": (dims, gross), "by_year": ("draw", gross[0])},
        coords={"level": list(built.levels)},
    )  # fmt: skip
    value = rng.lognormal(size=200)
    found = equity.with_shocks(replace(built, future=future), value, np.ones((200, 2)), np.ones((200, 2)))
    last = found.future.sel(level="systematic")
    np.testing.assert_allclose(last["gross"], gross[2] * value, rtol=1e-14)
    np.testing.assert_array_equal(last["cost"], cost[2])
    np.testing.assert_array_equal(last["customers"], count[2])
    np.testing.assert_allclose(last["net"], gross[2] * value - cost[2], rtol=1e-12)
    np.testing.assert_allclose(last["together"], found.total("systematic") + last["net"], rtol=1e-14)
    assert list(found.future["by_year"].dims) == ["draw"]


def test_doses_are_shares_of_weeks():
    edges = np.array(["2020-01-05", "2020-01-12", "2020-01-19", "2020-02-19"], "datetime64[D]")
    day = dt.date
    names, dose = systematic.doses(
        [
            ("sale", day(2020, 1, 12), day(2020, 1, 13)),  # the last day of a week and the first of another
            ("fair", day(2020, 1, 1), day(2020, 1, 31)),
            ("sale", day(2020, 2, 1), day(2020, 2, 19)),
        ],
        edges,
    )
    assert names == ("sale", "fair")
    np.testing.assert_allclose(dose[:, 0], [1 / 7, 1 / 7, 19 / 31])
    np.testing.assert_allclose(dose[:, 1], [1, 1, 12 / 31])


def test_known_events_are_regressors_and_what_the_window_has_not_seen_is_left_out(valuation):
    """CDNOW's window with its purchases doubled in five weeks: the event takes the doubling."""
    summary = valuation.summary
    since, until = dt.date(1997, 7, 9), dt.date(1997, 8, 12)
    calendar = summary.calendar
    inside = (calendar.day >= np.datetime64(since)) & (calendar.day <= np.datetime64(until))
    more = replace(calendar, repeat_orders=np.where(inside, 2, 1) * calendar.repeat_orders)
    changed = Valuation(replace(summary, calendar=more), posterior(200), valuation.assumptions, 1)
    planned = ("sale", dt.date(1997, 10, 8), dt.date(1997, 10, 14))  # the second week after the window
    never = ("new", dt.date(1997, 10, 1), dt.date(1997, 12, 31))
    found = systematic.of_window(changed, 1, [("sale", since, until), planned, never])
    assert found.events == ("sale",)
    effect, blind = found.orders.loads[:, -1], systematic.of_window(changed, 1)
    assert effect.mean() == pytest.approx(np.log(2), abs=4 * effect.std())
    path = np.log(found.paths(4, 1)[0]).mean(0)
    error = 4 * found.orders.path(4, 1).std() / np.sqrt(200)
    assert path[1] - (path[0] + path[2]) / 2 == pytest.approx(effect.mean(), abs=2 * error)
    assert found.orders.parameters[:, 1].mean() < blind.orders.parameters[:, 1].mean()
    (check,) = systematic.checks(found)
    assert "sale: +" in check.sentence
