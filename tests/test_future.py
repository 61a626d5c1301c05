"""Customers still to be won: their number, the sum over cohorts, and identities that it must keep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from builders import make_assumptions, make_posterior, make_summary
from scipy import stats

from clvmodels.artifacts import Forecast, Segment
from clvmodels.config import DataConfig
from clvmodels.data import summarise
from clvmodels.equity import build as existing_equity
from clvmodels.equity import future
from clvmodels.fit import acquisition
from clvmodels.report import future as report
from clvmodels.value import Flow, Newcomer, Valuation

DELTA = 0.0027


def newcomer(draws=60, family="bg_nbd", theta=(0.243, 4.414, 0.793, 2.426)) -> Newcomer:
    rng = np.random.default_rng(5)
    purchases = np.array(theta) * np.exp(0.05 * rng.normal(size=(draws, len(theta))))
    spend = np.array([6.25, 3.74, 15.44]) * np.exp(0.05 * rng.normal(size=(draws, 3)))
    return Newcomer(make_posterior((family, purchases), ("gamma_gamma", spend)), 0.3)


def forecast(draws=60, periods=24, period=52.1775 / 12, rate=100.0) -> Forecast:
    rng = np.random.default_rng(6)
    expected = rng.gamma(50, rate / 50, (draws, periods))
    counts = rng.poisson(expected).astype(float)
    return Forecast(kind="plan", period=period, expected=expected, counts=counts, history=np.ones(8))


@pytest.mark.parametrize(
    ("timing", "horizon"), [("continuous", np.inf), ("continuous", 130.0), ("end", 130.0)]
)
def test_cohorts_and_calendar_give_one_sum(timing, horizon):
    """Check 21: row = column to 1e-10 in every draw, for any discounting."""
    flow = Flow(delta=DELTA, horizon=horizon, timing=timing, period=4.0)
    found = future.cohorts(newcomer(), forecast(), flow, np.full(60, 12.0))
    rows, columns = found.by_cohort.sum(axis=1), found.by_period.sum(axis=1) + found.later
    np.testing.assert_allclose(rows, columns, rtol=1e-10)
    assert found.disagreement < 1e-10
    assert (found.later > 0).all()


@pytest.mark.parametrize("name", ["bg_bb", "sbg"])
def test_cohorts_and_calendar_agree_on_a_discrete_clock(name):
    """There also against brute force: opportunity by opportunity."""
    theta = (1.204, 0.750, 0.657, 2.783) if name == "bg_bb" else (0.668, 3.806)
    new, ahead = newcomer(family=name, theta=theta), forecast(period=1.0, periods=7)
    found = future.cohorts(new, ahead, Flow(delta=0.1, horizon=20.0), np.zeros(60))
    assert found.disagreement < 1e-10
    each = new.later([Flow(delta=0.0, start=s - 1, horizon=s) for s in range(1, 21)])
    total = np.zeros(60)
    for j in range(1, 8):
        at = j + np.arange(1, 21 - j)
        value = new.first_order * np.exp(-0.1 * j) + each[:, : 20 - j] @ np.exp(-0.1 * at)
        total += ahead.expected[:, j - 1] * value
    np.testing.assert_allclose(found.by_cohort.sum(axis=1), total, rtol=1e-9)


@pytest.mark.parametrize("horizon", [np.inf, 150.0])
def test_what_was_forecast_and_comes_is_no_surprise(horizon):
    """Three of 24 months pass: what is left of the forecast is as it was, and its end moves on."""
    new, ahead, cac = newcomer(), forecast(), np.full(60, 4.0)
    flow = Flow(delta=DELTA, horizon=horizon)
    more = np.full((60, 3), 90.0)
    later = replace(
        ahead,
        expected=np.hstack([ahead.expected[:, 3:], more]),
        counts=np.hstack([ahead.counts[:, 3:], more]),
    )
    outlooks = [future.Outlook(new, seen, flow, cac) for seen in (ahead, later)]
    elapsed = 3 * ahead.period
    found = future.between(*outlooks, elapsed)
    scale = found.opening.mean()
    np.testing.assert_allclose(found.revision, 0, atol=1e-9 * scale)
    np.testing.assert_allclose(found.due, ahead.expected[:, :3].sum(axis=1), rtol=1e-12)
    # The roll by hand: three more months of customers, and a horizon that ends later for everybody.
    net = outlooks[1].net()
    if np.isinf(horizon):
        np.testing.assert_allclose(found.roll, net[:, -3:].sum(axis=1), rtol=1e-9)
    assert (found.roll > net[:, -3:].sum(axis=1) * (1 - 1e-9)).all()
    # What is in the past: worth at its own time, brought to the closing.
    at = (np.arange(3) + 0.5) * ahead.period
    value = future.cohorts(new, ahead, flow, cac).value[:, :3]
    grown = np.exp(DELTA * (elapsed - at))
    np.testing.assert_allclose(found.release, (ahead.expected[:, :3] * (value - 4.0)) @ grown, rtol=1e-9)
    np.testing.assert_allclose(
        found.closing, found.opening + found.unwinding - found.release + found.roll + found.revision
    )
    # Half a month is half of its customers; beyond the forecast nothing is left of it.
    half = future.between(*outlooks, 0.5 * ahead.period)
    np.testing.assert_allclose(half.due, 0.5 * ahead.expected[:, 0], rtol=1e-12)
    gone = future.between(*outlooks, 30 * ahead.period)
    np.testing.assert_allclose(gone.roll, gone.closing)


def test_constant_acquisition_for_ever_is_a_perpetuity():
    """Check 22: A (v - CAC)/δ. Mid-period discounting leaves the factor x/sinh(x), x = δ period / 2."""
    new, flow, cac = newcomer(4), Flow(delta=0.05), np.full(4, 7.0)
    # exp(-0.05 · 1600) = 2e-35 is left out.
    ahead = Forecast(
        kind="plan",
        period=2.0,
        expected=np.full((4, 800), 6.0),
        counts=np.zeros((4, 800)),
        history=np.ones(1),
    )
    at = (np.arange(1, 801) - 0.5) * 2.0
    by_hand = (6.0 * np.exp(-0.05 * at)).sum() * (new.value(flow) - cac)
    short = replace(ahead, expected=ahead.expected[:, :40], counts=ahead.counts[:, :40])
    found = future.cohorts(new, short, flow, cac)
    first = (found.by_cohort - found.cost).sum(axis=1)
    rest = np.exp(-0.05 * 80)  # what follows 40 periods is the same stream, 80 time units later
    x = 0.05 * 2.0 / 2
    perpetuity = 3.0 * (new.value(flow) - cac) / 0.05 * x / np.sinh(x)
    np.testing.assert_allclose(first / (1 - rest), perpetuity, rtol=1e-10)
    np.testing.assert_allclose(by_hand, perpetuity, rtol=1e-10)


def test_textbook_formulas_follow_from_the_same_parts():
    """Checks 23 and 24 on a contract whose customers all have one retention rate.

    Gupta, Lehmann and Stuart's toy of 100 a year at 80 % and 12 % is 250 = m r/(1+d-r) of a customer
    just acquired (100 · .8/.32); with the first payment it is m (1+d)/(1+d-r), 100 more. A beta with
    precision 1e7 stands for the common rate and is off by 1e-6.
    """
    precision = 1e7
    theta = np.array([0.2 * precision, 0.8 * precision])
    new = Newcomer(make_posterior(("sbg", theta), ("fixed_spend", np.array([100.0]))), 1.0)
    flow = Flow(delta=np.log(1.12))
    residual = new.later([flow])[0, 0]
    assert residual == pytest.approx(100 * 0.8 / (1.12 - 0.8), rel=1e-5)
    assert residual == pytest.approx(250.0, rel=1e-5)
    assert new.value(flow)[0] - residual == pytest.approx(100)
    assert new.value(flow)[0] == pytest.approx(100 * 1.12 / (1.12 - 0.8), rel=1e-5)
    early = new.later([Flow(delta=np.log(1.12), timing="begin")])[0, 0]
    assert early / residual == pytest.approx(1.12)


@pytest.fixture(scope="module")
def base():
    """Equity of 40 customers under 200 draws, and a newcomer of the same posterior."""
    rng = np.random.default_rng(8)
    age = rng.uniform(10, 39, 40)
    x = rng.poisson(1.0, 40).astype(float)
    summary = make_summary({"frequency": x, "recency": np.where(x > 0, age / 2, 0.0), "T": age})
    new = newcomer(200)
    assumptions = make_assumptions(summary)
    return summary, new, assumptions, existing_equity(Valuation(summary, new.posterior, assumptions, 1))


def test_nobody_won_leaves_existing_equity(base):
    _, new, assumptions, equity = base
    zeros = np.zeros((200, 6))
    none = Forecast(kind="none", period=4.0, expected=zeros, counts=zeros, history=np.ones(1))
    data, checks = future.build(new, none, assumptions, equity, np.full(200, 5.0), 1)
    assert (data["net"].values == 0).all()
    np.testing.assert_array_equal(data["together"].values, [equity.total(lv) for lv in equity.levels])
    assert all(check.passed for check in checks)


def test_levels_share_a_mean_and_widen(base):
    """Compound noise: Var = A Var(V) + v² Var(A) where the rate is given (few and many customers)."""
    _, _, assumptions, equity = base
    # Customers who differ little, so that a value has light tails and 200 draws tell its sd.
    alike = [np.tile(theta, (200, 1)) for theta in ((20.0, 200.0, 4.0, 16.0), (6.0, 30.0, 150.0))]
    one = Newcomer(make_posterior(("bg_nbd", alike[0]), ("gamma_gamma", alike[1])), 0.3)
    flow = Flow(delta=assumptions.delta)
    pool = one.simulate("predictive", flow, 300, np.random.SeedSequence(11))
    for rate in (20.0, 400.0):  # exact sums, and the normal approximation
        rng = np.random.default_rng(int(rate))
        expected = np.full((200, 5), rate)
        counts = rng.poisson(expected).astype(float)
        ahead = Forecast(kind="plan", period=4.0, expected=expected, counts=counts, history=np.ones(1))
        data, _ = future.build(one, ahead, assumptions, equity, None, 2)
        gross = data["gross"].sel(level="predictive").values
        at = np.exp(-assumptions.delta * 4.0 * (np.arange(5) + 0.5))
        value = one.value(flow)[0]
        sd = np.sqrt(rate * (at**2).sum() * (pool.var() + value**2))
        assert data["gross"].sel(level="expected").values.std() < 1e-9 * sd
        assert abs(gross.mean() - rate * at.sum() * value) < 4 * sd / np.sqrt(200)
        # 200 draws give the sd of a nearly normal sum to 1/sqrt(400) = 5 %.
        assert gross.std() == pytest.approx(sd, rel=0.20)
        gross_latent = data["gross"].sel(level="latent").values
        assert gross_latent.std() < 1.25 * gross.std()
        latent = one.simulate("latent", flow, 300, np.random.SeedSequence(12))
        assert latent.var() < pool.var()


def test_parts_add_up_in_every_draw(base):
    _, new, assumptions, equity = base
    data, _ = future.build(new, forecast(200), assumptions, equity, np.full(200, 9.0), 3)
    net = data["net"].sel(level="expected").values
    np.testing.assert_allclose(data["by_year"].sum("year").values, net, rtol=1e-12)
    np.testing.assert_allclose(
        data["customers_by_year"].sum("year").values, data["customers"].sel(level="expected").values
    )
    np.testing.assert_allclose(
        data["margin_by_cohort"].sum("cohort").sum().item(), data["margin_by_year"].sum("year").mean().item()
    )
    again, _ = future.build(new, forecast(200), assumptions, equity, np.full(200, 9.0), 3)
    assert data.identical(again)


def test_future_margin_of_existing_customers_is_their_equity_by_period(base):
    """Undiscounted sum over the periods against the orders and revenue of the statement."""
    summary, new, assumptions, equity = base
    ahead = forecast(200, periods=12)
    found = future.existing_margin(summary, new.posterior, assumptions, ahead, 1)
    revenue = equity.data["revenue"].sel(level="expected", horizon="12 months").values
    # The same 200 draws and two quadratures, each to 1e-8.
    assert found.sum() == pytest.approx(0.3 * revenue.mean(), rel=1e-7)
    halves = Segment(codes=np.arange(len(summary)) % 2, labels=("even", "odd"))
    parts = future.existing_margin(summary, new.posterior, assumptions, ahead, 1, halves)
    np.testing.assert_allclose(parts.sum(axis=0), found, rtol=1e-9)


def test_the_past_is_stacked_by_cohort_and_reaches_back_to_the_start():
    """Of eight months three were used for a forecast; the log's own totals, split by first purchase."""
    end = "1997-09-30"
    summary = summarise(DataConfig(source="cdnow_sample", observation_end=end), cohorts=True)
    period = 52.1775 / 12
    labels = ["1997-01", "1997-02", "1997-03"]
    data = xr.Dataset({"history": ("past", np.zeros(3))}, coords={"acquired": labels})
    past = report._past(summary, data, period, 0.3, "USD")
    assert [entry["used"] for entry in past] == [False] * 5 + [True] * 3
    for entry in past:
        total = entry["first_orders"]["value"] + entry["repeat_orders"]["value"]
        assert sum(entry["cohorts"]) == pytest.approx(total, rel=1e-9)
    days = np.round(np.array([8, 3]) * period * 7).astype(int).astype("timedelta64[D]")
    start, used = np.datetime64(end) - days
    seen = (summary.calendar.day > start) & (summary.calendar.day <= np.datetime64(end))
    amount = summary.calendar.first_amount + summary.calendar.repeat_amount
    assert sum(sum(entry["cohorts"]) for entry in past) == pytest.approx(0.3 * amount[seen].sum())
    won = [entry["customers"]["value"] for entry in past[:5]]
    assert sum(won) == np.sum((summary.first_day > start) & (summary.first_day <= used))
    table = {"past": past, "rate": [], "margin": [], "cohorts": labels}
    assert report.margin_by_cohort(table, "USD").axes


# --- how many come ---------------------------------------------------------------------------------


def test_forecast_agrees_with_brute_force():
    """300,000 draws from the prior, in NumPy from the story alone, weighted by SciPy's likelihood."""
    counts, rng, n = np.array([9, 12, 8, 13, 15, 11, 16]), np.random.default_rng(1), 300_000
    a = acquisition
    level = np.log(counts[-6:].mean()) + rng.standard_normal(n)
    growth = a.GROWTH * rng.standard_normal(n)
    walk, noise = (abs(s * rng.standard_normal(n)) for s in (a.WALK, a.NOISE))
    steps = rng.standard_normal((n, 6))
    log_rate = np.empty((n, 7))
    log_rate[:, 6] = level
    for t in range(5, -1, -1):
        log_rate[:, t] = log_rate[:, t + 1] - growth - walk * steps[:, t]
    shape = noise**-2.0
    rate = np.exp(log_rate)
    chance = shape[:, None] / (shape[:, None] + rate)
    weight = np.exp(stats.nbinom.logpmf(counts, shape[:, None], chance).sum(axis=1))
    weight /= weight.sum()
    effective = 1 / (weight**2).sum()
    assert effective > 3000
    chosen = rng.choice(n, 5000, p=weight)
    damping = rng.uniform(*a.DAMPING, 5000)[:, None] ** np.arange(1, 13)
    later = level[chosen, None] + growth[chosen, None] * damping.cumsum(axis=1)
    later += walk[chosen, None] * rng.standard_normal((5000, 12)).cumsum(axis=1)
    truth = np.log(np.exp(later).sum(axis=1))
    expected, drawn, checks = a.trend(counts, 12, months=1.0, draws=2000, seed=np.random.SeedSequence(2))
    assert all(check.passed for check in checks)
    found = np.log(expected.sum(axis=1))
    error = truth.std() * np.sqrt(1 / 2000 + 1 / 3000)
    assert abs(found.mean() - truth.mean()) < 4 * error
    # sd of an sd with kurtosis up to 6: sqrt(5/4 n).
    assert found.std() == pytest.approx(truth.std(), rel=4 * np.sqrt(1.25 * (1 / 2000 + 1 / 3000)))
    assert drawn.sum(axis=1).var() > expected.sum(axis=1).var()
    assert drawn.mean() == pytest.approx(expected.mean(), rel=0.05)


def test_two_years_show_a_season_and_growth_fades():
    rng = np.random.default_rng(4)
    t = np.arange(-24, 24)
    rate = 300 * np.exp(0.01 * t * (t < 0) + 0.4 * np.cos(2 * np.pi * t / 12))
    counts = rng.poisson(rate[:24])
    expected, _, checks = acquisition.trend(
        counts, 24, months=1.0, draws=1500, seed=np.random.SeedSequence(3)
    )
    assert all(check.passed for check in checks)
    middle = np.median(expected, axis=0)
    assert middle[0] / middle[6] == pytest.approx(rate[24] / rate[30], rel=0.25)
    low, high = np.quantile(expected, [0.01, 0.99], axis=0)
    assert ((low < rate[24:]) & (rate[24:] < high)).mean() > 0.9
    assert np.median(expected[:, 12:].sum(axis=1)) < np.exp(0.01 * 18) * counts[-12:].sum()
    assert len(expected) == 1500


def test_periods_are_counted_back_from_the_end():
    T = np.array([0.0, 1.0, 4.3, 4.4, 8.0, 13.1, 13.2])
    summary = make_summary({"frequency": np.zeros(7), "recency": np.zeros(7), "T": T})
    np.testing.assert_array_equal(acquisition.first_purchases(summary, 4.4), [1, 2, 3])
    np.testing.assert_array_equal(acquisition.first_purchases(summary, 4.4, since=9.0), [2, 3])


@pytest.mark.parametrize(("gap", "closed"), [(0.0, False), (4.0, False), (9.0, True)])
def test_a_closed_cohort_is_known_by_its_gap(gap, closed):
    T = gap + np.linspace(0, 12, 60)
    summary = make_summary({"frequency": np.zeros(60), "recency": np.zeros(60), "T": T})
    assert acquisition.stopped(summary, 4.35) == (gap if closed else 0.0)


def test_a_plan_has_the_interval_that_was_asked_for():
    expected, counts = future.plan_counts(
        np.array([100.0, 300.0]), (0.8, 1.1), 40_000, np.random.SeedSequence(1)
    )
    # 5 % quantiles of 40,000 log-normals: standard error sd/(sqrt(n) φ) = 0.0015.
    np.testing.assert_allclose(np.quantile(expected[:, 0] / 100, [0.05, 0.95]), [0.8, 1.1], atol=0.006)
    np.testing.assert_allclose(expected[:, 1], 3 * expected[:, 0])
    assert counts.mean() == pytest.approx(expected.mean(), rel=0.01)
    certain, _ = future.plan_counts(np.array([5.0]), None, 3, np.random.SeedSequence(1))
    np.testing.assert_array_equal(certain, [[5.0]] * 3)
