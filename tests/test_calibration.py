"""The error that remains: the hierarchical model against oracles, and nothing known before its day."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
import test_backtest as backtests
from builders import make_assumptions, make_posterior
from scipy import stats

from clvmodels import equity, run
from clvmodels.fit import remainder
from clvmodels.report import page
from clvmodels.report.text import fill
from clvmodels.run import backtesting
from clvmodels.validate import backtest as testing
from clvmodels.validate import calibration, systematic
from clvmodels.value import Valuation
from clvmodels.value.horizons import MEASURES

START = dt.date(2020, 1, 1)
DAYS = {"4 weeks": 28, "13 weeks": 91}


def row(number: int, horizon: str, error: float, model: float = 0.1, measure: str = "orders"):
    known = START + dt.timedelta(days=number + DAYS[horizon])
    return {
        "origin": (START + dt.timedelta(days=number)).isoformat(), "number": number, "steps": DAYS[horizon],
        "known": known.isoformat(), "horizon": horizon, "measure": measure, "level": "systematic",
        "error": error, "model": model,
    }  # fmt: skip


def rows(errors: np.ndarray, wide: bool = True) -> list[dict]:
    """Origins every four weeks; errors of both horizons."""
    labels = DAYS if wide else ("4 weeks",)
    return [row(28 * k, label, float(e)) for k, e in enumerate(errors) for label in labels]


# --- the model -----------------------------------------------------------------------------------


def test_density_is_that_of_a_t_with_the_variance_of_both_parts():
    rng = np.random.default_rng(1)
    error, model = 0.2 * rng.standard_normal(7), rng.uniform(0.05, 0.3, 7)
    bias, scale = rng.normal(0, 0.2, (4, 7)), rng.uniform(0, 0.3, (4, 7))
    nu = remainder.DEGREES
    wide = np.sqrt((model**2 + scale**2) * (nu - 2) / nu)  # a t has variance ν/(ν - 2)
    expected = stats.t.logpdf(error, nu, bias, wide).sum(1)
    found = remainder._log_likelihood(error, model, bias, scale)
    np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-10)
    # What is applied is normal: at 90 % the two intervals differ by 2 %.
    assert stats.t.ppf(0.95, nu) * np.sqrt((nu - 2) / nu) == pytest.approx(stats.norm.ppf(0.95), rel=0.025)


def test_posterior_is_the_prior_weighted_by_the_likelihood():
    rng = np.random.default_rng(2)
    horizon = np.array([0] * 6 + [1])
    error = np.array([0.3, 0.1, 0.2, 0.35, 0.15, 0.3, 0.5])
    model = np.full(7, 0.08)
    native = remainder._native(rng.standard_normal((200_000, 8)), 2)
    bias, scale = native[:, :2], native[:, 2:]
    log = remainder._log_likelihood(error, model, bias[:, horizon], scale[:, horizon])
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    found = remainder.estimate(error, model, horizon, 2, 2000, 3)
    assert found.k_hat < remainder.TRUSTED
    effective = 1 / (weight**2).sum()
    for drawn, told in zip((*found.bias.T, *found.scale.T), (*bias.T, *scale.T), strict=True):
        error_of_mean = drawn.std() * np.sqrt(1 / effective + 1 / found.ess)
        assert drawn.mean() == pytest.approx(weight @ told, abs=4 * error_of_mean)
    # The horizon with one error leans on the other: less far out, and less sure.
    assert 0.2 < found.bias[:, 1].mean() < 0.4
    assert found.bias[:, 1].std() > found.bias[:, 0].std()


def test_ranks_of_true_values_are_uniform():
    """Simulation-based calibration: values from the prior, errors from them, ranks among the draws."""
    rng, worlds, horizon = np.random.default_rng(4), 40, np.repeat([0, 1, 2], [9, 4, 1])
    ranks = []
    for k in range(worlds):
        truth = remainder._native(rng.standard_normal((1, 10)), 3)[0]
        model = rng.uniform(0.05, 0.2, len(horizon))
        nu = remainder.DEGREES
        wide = np.sqrt((model**2 + truth[3:][horizon] ** 2) * (nu - 2) / nu)
        error = truth[:3][horizon] + wide * rng.standard_t(nu, len(horizon))
        found = remainder.estimate(error, model, horizon, 3, 100, k)
        ranks.append((np.column_stack([found.bias, found.scale]) < truth).mean(0))
    for rank in np.array(ranks).T:
        assert stats.kstest(rank, "uniform").pvalue > 1e-4


# --- who may know what ---------------------------------------------------------------------------


def test_errors_that_were_not_known_yet_change_nothing():
    told = rows(0.1 * np.random.default_rng(5).standard_normal(12))
    day = START + dt.timedelta(days=28 * 7)
    first = calibration.remaining(told, "orders", day, 1)
    assert first.used == {"4 weeks": 7, "13 weeks": 1}
    assert first.estimable == ("4 weeks",)
    for one in told:
        if dt.date.fromisoformat(one["known"]) > day:
            one["error"] = 9.0
    again = calibration.remaining(told, "orders", day, 1)
    np.testing.assert_array_equal(first.found.bias, again.found.bias)
    later = calibration.remaining(told, "orders", day + dt.timedelta(days=28), 1)
    assert later.used["4 weeks"] == 8
    assert later.of("4 weeks")[1].mean() > again.of("4 weeks")[1].mean()


def test_origins_do_not_overlap_and_five_are_needed():
    told = [row(7 * k, "4 weeks", 0.0) for k in range(20)]  # weekly origins, 4 weeks ahead
    known = START + dt.timedelta(days=7 * 19 + 28)
    assert calibration.remaining(told, "orders", known, 1).used == {"4 weeks": 5}
    before = calibration.remaining(told, "orders", START + dt.timedelta(days=7 * 15 + 28), 1)
    assert before.found is None
    assert before.reason.endswith("whose outcome was known, and there were 4")
    assert before.estimable == ()
    with pytest.raises(ValueError, match="not estimable"):
        before.of("4 weeks")
    assert calibration.remaining([], "orders", known, 1).reason.endswith("there were 0")


def test_the_latest_of_the_most_origins_are_taken():
    numbers = [0, 10, 28, 40, 56, 57]
    assert testing.apart(numbers, 28) == [0, 2, 5]
    assert testing.apart([0, 10], 28) == [1]
    assert testing.apart([], 28) == []


def test_widening_adds_the_scale_and_moving_the_bias():
    told = rows(0.4 + 0.15 * np.random.default_rng(6).standard_normal(12), wide=False)
    known = calibration.remaining(told, "orders", dt.date(2030, 1, 1), 1)
    draws = np.exp(0.1 * np.random.default_rng(7).standard_normal(20_000))
    bias, scale = known.of("4 weeks")
    wide, moved = known.widened(draws, "4 weeks", 1)
    variance = 0.1**2 + (scale**2).mean()
    # The relative error of a variance from n draws of small excess kurtosis is near sqrt(2 / n).
    assert np.log(wide).var() == pytest.approx(variance, rel=6 * np.sqrt(2 / len(draws)))
    assert np.median(wide) == pytest.approx(1, abs=5 * np.sqrt(variance * np.pi / 2 / len(draws)))
    np.testing.assert_allclose(np.log(moved / wide), np.resize(bias, len(draws)))
    twice, _ = known.widened(2 * draws, "4 weeks", 1)
    np.testing.assert_allclose(twice, 2 * wide)  # one ε a draw for all parts


# --- from a log to the page ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrated") / "world-backtest"
    plan = ("validation.horizons=[4 weeks, 13 weeks]", "validation.first=2020-08-10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testing, "DRAWS", 100)
        patch.setattr(testing, "FEWEST", 100)
        return run.backtest(backtests.CONFIG, backtests.world(1), out=out, overrides=plan)


def test_a_backtest_scores_what_it_could_have_known(found):
    table = found.summary
    dates = [origin["date"] for origin in table["origins"]]
    assert table["calibrated"]["horizons"] == ["4 weeks"]
    assert "13 weeks" in table["calibrated"]["reason"]
    scored = {row["level"]: row for row in table["calibration"] if row["measure"] == "orders"}
    assert set(scored) == {table["calibrated"]["base"], "calibrated", "moved"}
    # Of origins four weeks apart the sixth is the first that five outcomes precede.
    assert scored["calibrated"]["origins"] == len(dates) - testing.ENOUGH
    assert scored["calibrated"]["width_90"] > scored[table["calibrated"]["base"]]["width_90"]
    assert {one["known"] for one in table["errors"] if one["horizon"] == "4 weeks"} == {
        (dt.date.fromisoformat(day) + dt.timedelta(days=28)).isoformat() for day in dates
    }
    assert any("widens the calibrated intervals" in sentence for sentence in table["sentences"])
    kept = backtests.read_csv(found.path / "calibration.csv")
    assert [row["level"] for row in kept] == [row["level"] for row in table["calibration"]]
    assert len(backtests.read_csv(found.path / "errors.csv")) == len(table["errors"])
    text = (found.path / "backtest.html").read_text()
    assert "The error that remains" in text
    assert "not estimable: stress" in text


@pytest.fixture(scope="module")
def valued(cdnow):
    wiggle = np.exp(0.05 * np.random.default_rng(1).standard_normal((100, 7)))
    bg, gg = np.array([0.243, 4.414, 0.793, 2.426]), np.array([6.25, 3.74, 15.44])
    draws = make_posterior(("bg_nbd", bg * wiggle[:, :4]), ("gamma_gamma", gg * wiggle[:, 4:]))
    valuation = Valuation(cdnow, draws, make_assumptions(cdnow), 1)
    weather = systematic.of_window(valuation, 1)
    built = equity.build(valuation)
    moved = systematic.effects(weather, valuation, built.data["bands"].mean("draw").values, 1)
    return valuation, equity.with_shocks(built, moved.value, moved.orders, moved.revenue), weather


def told(start: dt.date, count: int) -> dict:
    """What a backtest with origins every four weeks from a day on would say of its errors."""
    errors = 0.1 * np.random.default_rng(8).standard_normal(count)
    day = (start - START).days
    found = [row(day + 28 * k, "4 weeks", e, 0.2, m) for k, e in enumerate(errors) for m in MEASURES]
    return {"errors": found, "clock": "continuous", "time_unit": "week"}


def test_a_run_carries_its_calibrated_interval(valued, monkeypatch):
    valuation, whole, weather = valued
    monkeypatch.setattr(testing, "FEWEST", 100)
    monkeypatch.setattr(testing, "DRAWS", 100)
    table = told(dt.date(1997, 3, 1), 7)
    block = backtesting._calibrated(table, valuation, whole, weather, 1)
    assert block["reason"] is None
    assert block["stress"] is None
    (ahead,) = block["horizons"]
    base = whole.total("systematic")
    assert block["equity"]["sd"] > base.std(ddof=1)
    assert block["equity"]["horizon"] == "4 weeks"
    # Purchases of four weeks at the window's end, 45 a week, in whatever weather.
    assert 100 < ahead["orders"]["mean"] < 260
    assert ahead["margin"]["mean"] == pytest.approx(0.3 * ahead["revenue"]["mean"], rel=0.05)
    text = fill(page._calibrated(block), {"currency": "USD", "backtest": {"calibrated": block}})
    assert "over 4 weeks purchases" in text
    assert "if the error of 4 weeks held for all of equity" in text


def test_a_run_uses_only_what_its_day_knew(valued):
    """The summary ends on 30 September 1997: of seven outcomes four were known."""
    valuation, whole, weather = valued
    table = told(dt.date(1997, 9, 30) - dt.timedelta(days=4 * 28), 7)
    block = backtesting._calibrated(table, valuation, whole, weather, 1)
    assert block["horizons"] == []
    assert "there were 4" in block["reason"]
    assert [one["share"] for one in block["stress"]] == list(calibration.STRESS)
    assert block["stress"][0]["low"] == pytest.approx(0.9 * whole.total("systematic").mean())
    text = fill(page._calibrated(block), {"currency": "USD", "backtest": {"calibrated": block}})
    assert text.startswith("None, because the error that remains is not estimable")
    book = equity.build(valuation)
    table = told(dt.date(1997, 3, 1), 7)
    block = backtesting._calibrated(table, valuation, book, weather, 1)
    assert "level systematic, which this run does not have" in block["reason"]
