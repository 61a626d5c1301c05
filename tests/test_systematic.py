"""Level systematic: factors of shared shocks, and what they leave alone."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from builders import make_assumptions, make_posterior, make_summary

from clvmodels import equity
from clvmodels.artifacts import Calendar
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
    found = systematic.variation(spend("gamma_gamma"), [p, q, 15.44], 1).total
    exact = np.sqrt((1 + 1 / p) * (q - 1) / (q - 2) - 1)
    # Relative error of a coefficient of variation from n draws of this kurtosis: some 1.5 / sqrt(n).
    assert found == pytest.approx(exact, rel=4 * 1.5 / np.sqrt(systematic.WORLD))


def test_own_baskets_weigh_as_gamma_gamma_says():
    """E[M | x, m] = p (γ + x m) / (p x + q - 1) leans on own baskets to the share x / (x + (q - 1) / p)."""
    p, q = 6.25, 8.0
    found = systematic.variation(spend("gamma_gamma"), [p, q, 15.44], 1).outweighed
    # Two variances, with twice the relative error of a coefficient of variation (above) each.
    assert found == pytest.approx((q - 1) / p, rel=4 * 3 * np.sqrt(2 / systematic.WORLD))


def returning(seed: int, growth: float, newcomers: float, customers: int = 600, weeks: int = 40):
    """Purchases as rows (customer, week, amount): customer by customer from a first week on, of mean 1
    exp(growth t) exp(-newcomers first), within a coefficient of variation of 0.5."""
    rng = np.random.default_rng(seed)
    born = rng.integers(0, weeks, customers)
    count = rng.poisson(0.15 * (weeks - born))
    who = np.repeat(np.arange(customers), count)
    week = (born[who] + rng.random(len(who)) * (weeks - born[who])).astype(int)
    own = np.exp(0.4 * rng.standard_normal(customers) - newcomers * born)
    return who, week, own[who] * np.exp(growth * week) * rng.gamma(4, 1 / 4, len(who))


def calendar_of(who: np.ndarray, week: np.ndarray, amount: np.ndarray, weeks: int) -> Calendar:
    """Row by row what the calendar holds of customers against their own mean."""
    out = {name: np.zeros(weeks) for name in ("returns", "baskets", "squares", "shares")}
    pairs = np.zeros((weeks, weeks))
    for customer in np.unique(who):
        mine = who == customer
        if mine.sum() >= 2:
            ratio = amount[mine] / amount[mine].mean()
            at = np.bincount(week[mine], minlength=weeks)
            for name, values in (("returns", np.ones(len(ratio))), ("baskets", ratio), ("squares", ratio**2)):
                np.add.at(out[name], week[mine], values)
            out["shares"] += at / mine.sum()
            pairs += np.outer(at, at) / mine.sum()
    nothing = {
        name: np.zeros(0) for name in ("first_orders", "repeat_orders", "first_amount", "repeat_amount")
    }
    return Calendar(day=np.zeros(0, "datetime64[D]"), **nothing, **out, pairs=pairs)


def test_levels_within_customers_are_the_regression_on_customers_and_weeks():
    """Witness: least squares with a column for every customer and every week."""
    weeks = 20
    who, week, amount = returning(3, 0.01, 0.0, 120, weeks)
    share = np.arange(1.0, weeks + 1) / np.arange(1.0, weeks + 1).sum()
    found = systematic.within_customers(calendar_of(who, week, amount, weeks), weeks, share)
    often = np.bincount(who)[who] >= 2
    who, week, amount = np.unique(who[often], return_inverse=True)[1], week[often], amount[often]
    size = np.bincount(who)
    ratio = amount / (np.bincount(who, amount) / size)[who]
    columns = np.column_stack([np.eye(len(size))[who], np.eye(weeks)[week]])
    solved, _, rank, _ = np.linalg.lstsq(columns, ratio, rcond=None)
    level = solved[len(size) :]
    told = np.isfinite(np.diagonal(found.noise))
    assert told.sum() >= weeks - 2
    weight = np.where(told, share, 0) / share[told].sum()
    centred = np.eye(weeks) - weight
    # The ridge of 1e-6 of a purchase moves levels by some 1e-6 of themselves.
    np.testing.assert_allclose(
        (found.observed / found.expected)[told], (1 + centred @ level)[told], rtol=1e-5
    )
    left = ratio - columns @ solved
    inverse = np.linalg.pinv(columns.T @ columns)[len(size) :, len(size) :]
    noise = (left @ left) / (len(ratio) - rank) * centred @ inverse @ centred.T
    expected = noise + systematic.FLOOR * np.eye(weeks)
    inside = np.ix_(told, told)
    np.testing.assert_allclose(found.noise[inside], expected[inside], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.anchor, weight)


def test_newcomers_do_not_hide_that_everybody_pays_more():
    """Baskets grow by 1 % a week, newcomers bring smaller ones: a week's mean basket nearly stands still."""
    weeks, growth = 40, 0.01
    who, week, amount = returning(4, growth, 3 * growth, 3000, weeks)
    calendar = calendar_of(who, week, amount, weeks)
    found = systematic.within_customers(calendar, weeks, np.full(weeks, 1 / weeks))
    told = np.isfinite(np.diagonal(found.noise))
    time = np.flatnonzero(told) - np.flatnonzero(told).mean()
    level = np.log(found.observed / found.expected)[told]
    precision = np.linalg.inv(found.noise[np.ix_(told, told)])
    error = 1 / np.sqrt(time @ precision @ time)
    slope = time @ precision @ level * error**2
    assert abs(slope - growth) < 3 * error
    assert slope > 5 * error
    mean = np.bincount(week, amount, weeks) / np.bincount(week, minlength=weeks)
    assert np.polyfit(np.arange(weeks), np.log(mean), 1)[0] < growth / 2  # what weeks as a whole would say


def test_few_weeks_within_customers_tell_nothing():
    who, week, amount = returning(5, 0.0, 0.0, 4, 20)
    assert systematic.within_customers(calendar_of(who, week, amount, 20), 20, np.full(20, 0.05)) is None
    who, week, amount = returning(5, 0.0, 0.0, 400, 12)
    assert systematic.within_customers(calendar_of(who, week, amount, 12), 12, np.full(12, 1 / 12)) is None


def test_weeks_that_the_calendar_does_not_reach_are_left_out():
    who, week, amount = returning(6, 0.0, 0.0, 400, 20)
    calendar = calendar_of(who, week, amount, 20)
    found = systematic.within_customers(calendar, 26, np.full(20, 0.05))
    shorter = systematic.within_customers(calendar, 15, np.full(20, 0.05))
    assert len(found.observed) == 26
    assert np.isinf(np.diagonal(found.noise)[:6]).all()
    assert found.noise.shape == (26, 26)
    assert len(shorter.observed) == 15
    assert isinstance(shocks.estimate(found, 20, 1), shocks.Shocks)


def test_a_forecast_rests_on_own_baskets_as_far_as_they_are_trusted():
    """Witness: how the sum of x / (x + k) m + k / (x + k) mean moves with the baskets of each week, where
    everybody's mean weighs customers by x / (x + k)."""
    k, weeks = 1.5, 12
    columns = {"frequency": [3, 1, 0], "recency": [8.0, 5.0, 0], "T": [10.5, 6.5, 4.5]}
    summary = make_summary(columns)
    # With Var within = V and Var between = W of the mean squared: k = V (1 + W) / W, and 1 + total² =
    # (1 + V)(1 + W), so that k W = total² - W.
    spread = systematic.Spread(total=1.0, between=np.sqrt(1 / (1 + k)))
    assert spread.outweighed == pytest.approx(k)
    worth = np.array([5.0, 2.0, 3.0])
    found = systematic.anchor(summary, weeks, worth, spread)
    own = np.array([3 / 4.5, 1 / 2.5, 0])
    told = worth * own + (worth - worth * own).sum() * own / own.sum()
    expected = np.zeros(weeks)
    expected[weeks - 1 - 2] += told[0] / 3  # the last purchase, 2.5 weeks ago
    expected[[weeks - 1 - ago for ago in range(2, 11)]] += told[0] * 2 / 3 / 9
    expected[weeks - 1 - 1] += told[1]
    np.testing.assert_allclose(found, expected / worth.sum())


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
    check, of_baskets = systematic.checks(found)
    assert "sale: +" in check.sentence
    assert of_baskets.passed == (found.baskets.k_hat <= shocks.TRUSTED)
    tenth = 100 * (1.1**found.baskets.slope - 1)
    assert f"baskets change by {tenth.mean():+.1f} %" in of_baskets.sentence


def test_what_passes_is_told_by_all_orders_and_what_lasts_within_customers():
    """Each reading alone has the same draws of its part; where one tells nothing the other stands alone."""
    rng = np.random.default_rng(3)
    count = np.full(40, 90.0)
    every = systematic.of_weeks(count, count * np.exp(0.1 * rng.standard_normal(40)), 0.9)
    level = np.exp(0.01 * np.arange(40))
    within = shocks.Ratios(observed=level, expected=np.ones(40), noise=np.full(40, 0.02**2))
    both = systematic.of_baskets(every, within, 50, 1)
    passing, lasting = shocks.estimate(every, 50, 1), shocks.estimate(within, 50, 3)
    np.testing.assert_array_equal(both.steps(5, 2)[0], passing.steps(5, 2)[0])
    np.testing.assert_array_equal(both.steps(5, 2)[1], lasting.steps(5, 2)[1])
    alone = systematic.of_baskets(every, None, 50, 1)
    np.testing.assert_array_equal(alone.path(5, 2), passing.path(5, 2))
    nothing = replace(every, noise=np.full(40, np.inf))
    assert systematic.of_baskets(nothing, None, 50, 1) is None
    np.testing.assert_array_equal(
        systematic.of_baskets(nothing, within, 50, 1).path(5, 2), lasting.path(5, 2)
    )
    np.testing.assert_array_equal(systematic.of_baskets(every, nothing, 50, 1).path(5, 2), passing.path(5, 2))
