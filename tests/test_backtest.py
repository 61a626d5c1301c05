"""Backtests: scores against oracles, the true model covered as it says, files, resumption, bad input."""

from __future__ import annotations

import csv
import datetime as dt
import itertools
import json
import re
import sys
from pathlib import Path

import mpmath
import numpy as np
import pandas as pd
import pytest
from builders import make_assumptions, make_posterior
from scipy.stats import binom, norm

from clvmodels import cli, run
from clvmodels import fit as fitting
from clvmodels.artifacts import Check
from clvmodels.config import DataConfig, load
from clvmodels.data import history
from clvmodels.errors import ConvergenceError, InputError
from clvmodels.models import registry
from clvmodels.numerics import loops
from clvmodels.numerics.discounting import Flow
from clvmodels.report.page import confidence
from clvmodels.report.text import lookup, show
from clvmodels.run import backtesting
from clvmodels.validate import backtest as testing
from clvmodels.validate.backtest import Backtest, Horizon
from clvmodels.value import Valuation, horizons

ROOT = Path(__file__).parents[1]
THETA = {"r": 0.5, "alpha": 6.0, "a": 0.8, "b": 2.4}
SPEND = {"p": 6.25, "q": 3.74, "gamma": 15.44}
FIRST = np.datetime64("2020-01-01")
BG_BB = {"alpha": 1.2, "beta": 3.0, "gamma": 0.7, "delta": 4.0}
COLUMNS = {"customer": "who", "date": "when", "amount": "paid"}
PLAN = ("validation.horizons=[4 weeks, 13 weeks]", "validation.every=12 weeks")
MONTHS = ("data.clock=discrete", "data.time_unit=month")
CONFIG = {
    "name": "world",
    "data": {"columns": COLUMNS, "segments": ["land"]},
    "models": {
        "purchases": {"family": "bg_nbd", "fixed": THETA},
        "spend": {"family": "gamma_gamma", "fixed": SPEND},
    },
    "value": {"margin": {"by": "land", "values": {"north": 0.2, "south": 0.4}}, "annual_discount_rate": 0.1},
}


def world(seed: int, customers: int = 250, weeks: int = 60, cohort: int = 25) -> pd.DataFrame:
    """A log of customers who follow the models exactly, but that their purchases fall on days."""
    rng = np.random.default_rng(seed)
    born = rng.integers(0, 7 * cohort, customers)
    path = registry.purchases("bg_nbd").simulate(THETA, weeks - born / 7, rng)
    day = born[path.customer] + np.ceil(7 * path.time).astype(int)
    kept = day < 7 * weeks
    owner, day = path.customer[kept], day[kept]
    count = np.bincount(owner, minlength=customers)
    amount = registry.spend("gamma_gamma").simulate(SPEND, count + 1, rng)
    paid = np.split(amount.amount, np.cumsum(count + 1)[:-1])
    rows = [(k, born[k], paid[k][0]) for k in range(customers)]
    rows += list(zip(owner, day, np.concatenate([p[1:] for p in paid]), strict=True))
    who, when, spent = zip(*rows, strict=True)
    return pd.DataFrame(
        {
            "who": [f"c{k:04}" for k in who],
            "when": FIRST + np.array(when).astype("timedelta64[D]"),
            "paid": np.round(spent, 2),
            "land": np.where(np.array(who) % 3 == 0, "north", "south"),
        }
    )


def remembered(table: pd.DataFrame) -> history.History:
    """The log in memory without an engine; days are merged by hand."""
    days = table.groupby(["who", "when"], as_index=False).paid.sum()
    customer, start = np.unique(days.who.to_numpy(object), return_index=True)
    return history.History(
        customer=customer,
        start=np.r_[start, len(days)],
        day=days.when.to_numpy().astype("datetime64[D]"),
        amount=np.rint(days.paid.to_numpy() * 1e6).astype(np.int64),
        segments={},
        margins={},
        last=days.when.max().date(),
        time_unit="week",
        clock="continuous",
        currency="USD",
    )


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return world(1)


@pytest.fixture(scope="module")
def past(table):
    return history.read(DataConfig(columns=COLUMNS, segments=("land",)), transactions=table)


@pytest.fixture(scope="module")
def done(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "world-backtest"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testing, "DRAWS", 400)
        return run.backtest(CONFIG, table, out=out, overrides=PLAN)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def point():
    return make_posterior(("bg_nbd", list(THETA.values())), ("gamma_gamma", list(SPEND.values())))


# --- scores --------------------------------------------------------------------------------------


def test_scores_of_normal_draws_are_those_of_the_normal():
    """CRPS of a normal: Gneiting and Raftery (2007), eq. 21; draws at quantiles have no chance in them."""
    draws = norm.ppf((np.arange(4000) + 0.5) / 4000, 10, 2)
    for actual in (4.0, 9.0, 12.5):
        z = (actual - 10) / 2
        row = testing.score(draws, actual)
        exact = 2 * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
        assert row["crps"] == pytest.approx(exact, abs=2e-3)  # the tails beyond 1/8000 are cut off
        assert row["pit"] == pytest.approx(norm.cdf(z), abs=1 / 4000)
        assert row["z"] == pytest.approx(z, abs=2e-3)
        assert row["log_ratio"] == pytest.approx(np.log(actual / 10), abs=1e-9)
        for p in testing.PROBABILITIES:
            assert row[f"inside_{100 * p:.0f}"] == (abs(z) <= norm.ppf((1 + p) / 2))
    assert testing.score(np.zeros(10), 0.0)["z"] is None
    assert testing.score(draws, 0.0)["log_ratio"] is None


def test_log_score_is_the_density_of_the_mixture_over_parameters():
    """Normal totals with normal means have a normal density; counts with gamma means are mixed Poisson."""
    rng = np.random.default_rng(3)
    draws = 40_000
    means = rng.normal(400, 30, draws)
    totals = rng.normal(means, 20)
    for actual in (340.0, 400.0, 450.0):
        # About 6,000 draws or more are near enough to count: 1.3 % each way, four times.
        found = testing.log_score(means, totals, actual)
        assert found == pytest.approx(norm.logpdf(actual, 400, np.hypot(30, 20)), abs=0.05)
    shape, rate = 40.0, 0.1
    means = rng.gamma(shape, 1 / rate, draws)
    counts = rng.poisson(means).astype(float)
    p = mpmath.mpf(rate) / (1 + rate)
    for actual in (330.0, 400.0, 470.0):
        exact = mpmath.log(
            mpmath.gamma(actual + shape) / mpmath.gamma(shape) / mpmath.factorial(actual)
            * p**shape * (1 - p) ** actual
        )  # fmt: skip
        # The variance is that of the mean draw, 400, not of the truth: f''/f times 70/2 is below 0.01.
        assert testing.log_score(means, counts, actual) == pytest.approx(float(exact), abs=0.05)
    assert testing.log_score(means, means, 400.0) is None


def test_capture_counts_ties_with_their_share():
    value = np.array([5.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0])
    assert testing.captured(value, value) == 0.5
    assert testing.captured(value, np.zeros(10)) == pytest.approx(0.1)
    # Two places: the best, and one of three tied.
    assert testing.captured(value, np.array([9, 3, 3, 3, 0, 0, 0, 0, 0, 0.0]), 0.2) == pytest.approx(0.6)
    assert testing.captured(np.zeros(4), np.ones(4)) is None


def test_gini_is_the_mean_absolute_difference():
    value = np.random.default_rng(0).gamma(0.4, 1, 60)
    brute = np.abs(value[:, None] - value).sum() / (2 * len(value) ** 2 * value.mean())
    assert testing.gini_of(value) == pytest.approx(brute, rel=1e-12)
    assert np.isnan(testing.gini_of(np.zeros(3)))


def test_separate_origins_are_the_most_that_do_not_overlap():
    rng = np.random.default_rng(2)
    for _ in range(20):
        days = np.sort(rng.choice(60, 9, replace=False)).tolist()
        steps = int(rng.integers(3, 25))
        most = max(
            size
            for size in range(1, 10)
            for some in itertools.combinations(days, size)
            if all(b - a >= steps for a, b in itertools.pairwise(some))
        )
        assert testing.separate(days, steps) == most


def test_band_holds_its_probability():
    for count, p in itertools.product((1, 5, 13, 40), testing.PROBABILITIES):
        low, high = testing.band(count, p)
        inside = binom.cdf(round(high * count), count, p) - binom.cdf(round(low * count) - 1, count, p)
        assert inside >= testing.BAND
        shares = np.arange(count + 1) / count
        tails = [binom.cdf(k - 1, count, p) if k else 0.0 for k in range(count + 1)]
        assert tails[int(np.argmax(shares >= low - 1e-12))] <= (1 - testing.BAND) / 2
    assert testing.band(0, 0.9) is None


def test_reliability_of_a_calibrated_forecast_is_its_diagonal():
    rng = np.random.default_rng(5)
    chance = rng.uniform(0, 1, 20_000)
    for row in testing.reliable(chance, rng.uniform(0, 1, 20_000) < chance):
        assert row["customers"] == 2000
        error = np.sqrt(row["predicted"] * (1 - row["predicted"]) / 2000)
        assert row["observed"] == pytest.approx(row["predicted"], abs=4 * error)


# --- forecasts -----------------------------------------------------------------------------------


def test_expected_purchases_since_acquisition_are_the_papers(past):
    """Fader, Hardie and Lee (2005), eq. (9), by mpmath; and simulation from the story alone."""
    summary, _ = past.at(dt.date(2020, 8, 4))
    valuation = Valuation(summary, point(), make_assumptions(summary), 1)
    daily = horizons.from_acquisition(valuation, 7 * 40, 7.0)[0]
    r, alpha, a, b = THETA.values()
    for t in (1, 13, 40):
        f = mpmath.hyp2f1(r, b, a + b - 1, mpmath.mpf(t) / (alpha + t))
        exact = (a + b - 1) / (a - 1) * (1 - (alpha / (alpha + t)) ** r * f)
        assert daily[: 7 * t].sum() == pytest.approx(float(exact), rel=1e-8)
    back = 7 * np.arange(20)
    weekly = horizons.in_window(valuation, past.per_unit, back)[0][0]
    age = np.rint(7 * summary["T"]).astype(int)
    upto = np.r_[0.0, daily.cumsum()]
    assert weekly.sum() == pytest.approx((upto[age] - upto[np.maximum(age - back[-1], 0)]).sum(), rel=1e-12)
    rng = np.random.default_rng(8)
    paths = 400
    found = registry.purchases("bg_nbd").simulate(THETA, np.tile(summary["T"], paths), rng)
    before = np.tile(summary["T"], paths)[found.customer] - found.time
    brute = np.histogram(before, back / 7)[0] / paths
    # Purchases of a week come from many customers: nearly Poisson, twice that variance is safe.
    np.testing.assert_allclose(weekly, brute, atol=5 * np.sqrt(2 * brute.max() / paths))


def test_levels_groups_and_chances_agree(past):
    """Tower property between levels; groups add up; chances are those of another loop."""
    summary, _ = past.at(dt.date(2020, 8, 4))
    draws = 600
    many = make_posterior(
        ("bg_nbd", np.tile(list(THETA.values()), (draws, 1))),
        ("gamma_gamma", np.tile(list(SPEND.values()), (draws, 1))),
    )
    margin = np.where(np.arange(len(summary)) % 2, 0.2, 0.5)
    valuation = Valuation(summary, many, make_assumptions(summary, margin=margin), 7)
    member = np.column_stack([np.zeros(len(summary), int), 1 + np.arange(len(summary)) % 4])
    ends = [4.0, 13.0]
    flows = [Flow(delta=0.0, horizon=end) for end in ends]
    mean = horizons.expected(valuation, flows, member, 5)
    drawn = horizons.simulated(valuation, ends, member, 5)
    assert np.ptp(mean.total, axis=3).max() < 1e-9  # one parameter vector
    for found in (drawn.latent, drawn.predictive):
        np.testing.assert_allclose(found[:, 1:].sum(axis=1), found[:, 0])
        error = found.std(axis=3) / np.sqrt(draws)
        assert (np.abs(found.mean(axis=3) - mean.total.mean(axis=3)) < 4.5 * error).all()
    assert (drawn.latent.std(axis=3) < drawn.predictive.std(axis=3)).all()
    np.testing.assert_allclose(drawn.sampled.sum(axis=0), drawn.predictive[2, 0, :, : horizons.SAMPLED])
    np.testing.assert_allclose(mean.orders.sum(axis=0), mean.total[0, 0].mean(axis=1))
    np.testing.assert_allclose(mean.margin.sum(axis=0), mean.total[2, 0].mean(axis=1))
    family, rng = registry.purchases("bg_nbd"), np.random.default_rng(1)
    stats = np.ascontiguousarray(np.column_stack([summary[name] for name in family.state]))
    for k, end in enumerate(ends):
        count = np.empty((len(summary), draws))
        loops.count_purchases(
            family.latent, family.gap, valuation.draws, stats, end, rng, len(family.latents), count
        )
        other = (count > 0).mean(axis=1)
        error = np.sqrt(2 * np.maximum(other * (1 - other), 1 / draws) / draws)
        assert (np.abs(drawn.bought[:, k] - other) < 5 * error).all()


def test_the_true_model_covers_as_it_says(monkeypatch):
    """Predictive intervals at their rate, within the 99.8 % binomial band; expected ones below it."""
    monkeypatch.setattr(testing, "DRAWS", 400)
    monkeypatch.setattr(horizons, "SAMPLED", 2)
    monkeypatch.setattr(testing, "THIN", 2)
    worlds, inside, expected, pit = 24, [], [], []
    for seed in range(worlds):
        past = remembered(world(100 + seed, 120))
        end = dt.date(2020, 8, 18)
        summary, position = past.at(end)
        margin = np.full(len(summary), 0.3)
        horizon = [Horizon(label="13 weeks", steps=91)]
        found = testing.evaluate(past, summary, position, point(), margin, horizon, seed)
        rows = {(r["measure"], r["level"]): r for r in found.scores if not r["column"]}
        inside.append([rows[m, "predictive"]["inside_90"] for m in ("orders", "revenue")])
        expected.append(rows["orders", "expected"]["inside_90"])
        pit.append(rows["orders", "predictive"]["pit"])
    low, high = binom.ppf([0.001, 0.999], worlds, 0.9)
    for total in np.sum(inside, axis=0):
        assert low <= total <= high
    assert np.sum(expected) < low
    assert abs(np.mean(pit) - 0.5) < 4 * np.sqrt(1 / 12 / worlds)


def test_cdnow_at_week_39_is_what_is_known_of_it():
    """BG/NBD on the 1/10 sample: 1,882 purchases came against an interval to about 1,860 (a miss).

    Intervals of 95 % from another program: expected 1,509 to 1,803, predictive 1,466 to 1,860, means
    1,657. Ends of an interval of 1,000 draws have a standard error of 8.5 (sd 100); two sets of draws
    and default against flat priors make 40 of it.
    """
    config = load(ROOT / "configs" / "cdnow.yaml", ["fit.draws=1000"])
    past = history.read(config.data)
    summary, position = past.at(dt.date(1997, 9, 30))
    draws = fitting.fit(summary, config.models.purchases, config.models.spend, config.fit, 1)
    margin = np.full(len(summary), 0.3)
    horizon = [Horizon(label="39 weeks", steps=273)]
    found = testing.evaluate(past, summary, position, draws, margin, horizon, 1)
    rows = {(r["measure"], r["level"]): r for r in found.scores if not r["column"]}
    assert rows["orders", "predictive"]["actual"] == 1882
    assert round(rows["revenue", "predictive"]["actual"]) == 70976
    assert rows["margin", "predictive"]["actual"] == pytest.approx(
        0.3 * rows["revenue", "predictive"]["actual"]
    )
    for level, low, high in (("expected", 1509, 1803), ("predictive", 1466, 1860)):
        row = rows["orders", level]
        assert row["mean"] == pytest.approx(1657, abs=15)
        assert (row["low_95"], row["high_95"]) == pytest.approx((low, high), abs=40)
        assert not row["inside_90"]
    split = found.split[0]
    assert split["spend_error"] + split["purchase_error"] == pytest.approx(
        np.log(split["actual"] / split["expected"])
    )


# --- the command ---------------------------------------------------------------------------------


def test_origins_stand_where_they_should(done):
    dates = [origin.date for origin in done.backtest.origins]
    end = dt.date(2020, 1, 1) + dt.timedelta(days=7 * 60 - 1)
    assert np.unique(np.diff(dates)).tolist() == [dt.timedelta(days=84)]
    assert abs((end - dates[-1]).days - 28) <= 7  # nobody need buy on the very last day
    assert all(origin.reason is None for origin in done.backtest.origins)
    assert done.backtest.origins[-1].horizons == ("4 weeks",)
    assert done.backtest.origins[0].horizons == ("4 weeks", "13 weeks")
    first = done.backtest.origins[0]
    assert first.customers == 250 or first.customers < 250
    assert done.summary["scored"]["value"] == len(dates)


def test_record_holds_what_a_shared_level_needs(done, past):
    origin = done.backtest.origins[0]
    data = origin.data
    summary, position = past.at(origin.date)
    assert data["window_orders"].sum() <= summary["frequency"].sum()
    assert data["week"].values[-1] == np.datetime64(origin.date)
    assert data["window_expected_orders"].dims == ("thin", "week")
    assert data["window_level_noise"].shape == (data.sizes["week"],) * 2
    told = np.isfinite(np.diagonal(data["window_level_noise"]))
    anchor, level = data["window_anchor"].values, data["window_level"].values
    assert anchor.sum() == pytest.approx(1)
    assert anchor @ level == pytest.approx(1)
    assert told.any()
    assert not anchor[~told].any()
    count, paid = past.repeats(position, origin.date, origin.date + dt.timedelta(days=91))
    assert float(data["later_orders"].sum()) == count.sum() == data["actual"].values[0, 1]
    assert float(data["later_revenue"].sum()) == pytest.approx(paid.sum())
    weekly = data["later_expected_orders"].sum("later")
    total = data["total"].sel(level="expected", measure="orders", horizon="13 weeks")
    np.testing.assert_allclose(weekly, total.values[data["thin"].values], rtol=1e-8)
    paid = data["later_expected_revenue"].sum("later")
    total = data["total"].sel(level="expected", measure="revenue", horizon="13 weeks")
    np.testing.assert_allclose(paid, total.values[data["thin"].values], rtol=1e-8)


def test_files_hold_the_table_and_the_page_its_numbers(done):
    folder = done.path
    table = json.loads((folder / "backtest.json").read_text())
    assert table == json.loads(json.dumps(done.summary))
    page = (folder / "backtest.html").read_text()
    keys = re.findall(r'data-key="([^"]+)">([^<]*)<', page)
    assert len(keys) > 200
    for key, text in keys:
        lookup(table, key)
        shown = {show(table, key, style) for style in (None, "percent", "count", "fixed", "number", "text")}
        assert text.replace("&#39;", "'") in shown, key
    assert "<script" not in page
    rows = read_csv(folder / "coverage.csv")
    assert {row["column"] for row in rows} == {"", "value decile", "land"}
    assert len(read_csv(folder / "scores.csv")) == len(done.scores)
    weeks = pd.read_parquet(folder / "weekly.parquet")
    assert set(weeks.part) == {"window", "later"}
    back = Backtest.load(folder / "backtest.nc")
    assert back.horizons == done.backtest.horizons
    assert back.origins[0].scores == done.backtest.origins[0].scores
    assert back.origins[0].data["total"].equals(done.backtest.origins[0].data["total"])
    assert "origins" in repr(done) or "past days" in repr(done)
    assert len(done.coverage) == len(rows)


def test_groups_add_up_to_all_customers(done):
    scores = done.scores[done.scores.level.isin(["predictive", "systematic"])]
    assert set(scores[scores.column != ""].level) == {"predictive", "systematic"}
    for _, some in scores.groupby(["origin", "horizon", "measure", "level"]):
        whole = some[some.column == ""].iloc[0]
        for column in ("value decile", "land"):
            part = some[some.column == column]
            assert part.customers.sum() == whole.customers
            assert part.actual.sum() == pytest.approx(whole.actual)
            assert part["mean"].sum() == pytest.approx(whole["mean"])


def test_naive_rules_are_what_they_say(done, past):
    origin = done.backtest.origins[0]
    _, position = past.at(origin.date)
    rows = {(r["horizon"], r["rule"]): r for r in origin.naive if r["measure"] == "orders"}
    before = origin.date - dt.timedelta(days=28)
    assert rows["4 weeks", "last period"]["forecast"] == past.repeats(position, before, origin.date)[0].sum()
    start = past.first - dt.timedelta(days=1)
    everything = past.repeats(position, start, origin.date)[0].sum()
    seen = (origin.date - start).days
    assert rows["4 weeks", "trailing mean"]["forecast"] == pytest.approx(everything * 28 / seen)
    assert ("4 weeks", "last year") not in rows
    last = done.backtest.origins[-1]
    found = {(r["horizon"], r["rule"]): r for r in last.naive if r["measure"] == "orders"}
    _, position = past.at(last.date)
    year = last.date - dt.timedelta(days=364)
    expected = past.repeats(position, year, year + dt.timedelta(days=28))[0].sum()
    assert found["4 weeks", "last year"]["forecast"] == expected
    for row in done.summary["rules"]:
        name = row["horizon"], row["measure"], row["rule"]
        made = [r for r in done.backtest.rows("naive") if (r["horizon"], r["measure"], r["rule"]) == name]
        wrong = sum(abs(r["mean_systematic"] - r["actual"]) for r in made)
        assert row["systematic_error"] == pytest.approx(wrong / sum(r["actual"] for r in made))
        assert row["wins"] == (row["error"] < row["model_error"])
    wins = any(row["wins"] for row in done.summary["rules"])
    for row in done.summary["decisions"]:
        naive = max(row["top_decile_last_period"], row["top_decile_spend_so_far"])
        said = "the best tenth of customers" in done.summary["sentences"][-1]
        assert said or row["top_decile"] >= naive
    assert ("A NAIVE RULE WINS" in " ".join(done.summary["sentences"])) == wins


def test_finished_origins_are_not_fitted_again(done, table, tmp_path, monkeypatch):
    calls = []
    fit_once = fitting.fit

    def counted(*args, **kwargs):
        calls.append(args[0].observation_end)
        return fit_once(*args, **kwargs)

    monkeypatch.setattr(fitting, "fit", counted)
    options = {"cache": done.path.with_name("world-backtest.cache"), "out": tmp_path / "again"}
    again = run.backtest(CONFIG, table, overrides=PLAN, **options)
    assert calls == []
    assert (again.path / "backtest.json").read_bytes() == (done.path / "backtest.json").read_bytes()
    one = done.backtest.origins[1].date
    changed = [f"validation.origins={one}", "validation.horizons=4 weeks", "seed=5"]
    run.backtest(CONFIG, table, cache=options["cache"], overrides=changed)
    assert calls == [one]


def test_an_origin_that_does_not_converge_is_recorded_and_not_scored(table, monkeypatch):
    bad = dt.date(2020, 9, 1)
    gates = iter([(Check(name="purchases: k-hat", passed=False, sentence="k-hat is 3."),), ()])
    monkeypatch.setattr(fitting, "gate", lambda draws: next(gates))
    changes = [f"validation.origins=[{bad}, 2020-10-01]", "validation.horizons=4 weeks"]
    found = run.backtest(CONFIG, table, overrides=changes)
    assert [origin.reason for origin in found.backtest.origins] == ["not converged: k-hat is 3.", None]
    assert found.summary["scored"]["value"] == 1
    assert {row["origin"] for row in found.backtest.rows("scores")} == {"2020-10-01"}
    gates = iter([(Check(name="purchases: k-hat", passed=False, sentence="k-hat is 3."),)])
    with pytest.raises(ConvergenceError, match=r"no origin could be scored.*k-hat"):
        run.backtest(CONFIG, table, overrides=[f"validation.origins={bad}", "validation.horizons=4 weeks"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["validation.origins=2019-05-01"], r"validation\.origins: 2019-05-01 is not inside the log"),
        (["validation.origins=2021-02-20"], "leaves less than the shortest horizon, 4 weeks"),
        (["validation.first=2030-01-01"], r"validation\.first 2030-01-01 is not inside the log"),
        (["validation.horizons=3 years"], "too short to look back"),
        (["validation.horizons=[4 weeks, 55 weeks]"], r"55 weeks: the log ends .* earlier than 55 weeks"),
        (["validation.horizons=[]"], "validation.horizons"),
        (["validation.every=4"], "a duration needs its unit"),
        (["validation.origins=soon"], "a day is written"),
        ([*MONTHS, "validation.every=1 week"], "no whole number of months"),
        ([*MONTHS, "validation.horizons=1 week"], "no whole number"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(table, tmp_path, changes, expected):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=expected) as caught:
        run.backtest(CONFIG, table, out=out, overrides=changes)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_command_line(table, tmp_path, monkeypatch, capsys):
    table.to_csv(tmp_path / "log.csv", index=False)
    config = CONFIG | {"data": CONFIG["data"] | {"source": "log.csv"}}
    (tmp_path / "w.yaml").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["clvmodels", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0

    plan = ("--origins", "2020-09-01,2020-10-01", "--horizons", "4 weeks")
    assert call("backtest", "w.yaml", *plan, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [origin["date"] for origin in document["origins"]] == ["2020-09-01", "2020-10-01"]
    assert Path("runs/world-backtest/backtest.html").exists()
    assert call("backtest", "w.yaml", *plan) == 2
    assert "exists" in capsys.readouterr().err
    assert call("backtest", "w.yaml", *plan, "--overwrite") == 0
    assert "4 weeks" in capsys.readouterr().out
    assert call("backtest", "w.yaml", "--every", "often") == 2
    assert "validation.every" in capsys.readouterr().err
    assert call("backtest", str(ROOT / "configs" / "donations.yaml")) == 2
    assert "table of frequency, recency and T has no dates" in capsys.readouterr().err


def test_a_discrete_clock_counts_periods(table):
    config = {
        "name": "months",
        "data": {"columns": COLUMNS, "clock": "discrete", "time_unit": "month"},
        "models": {
            "purchases": {"family": "bg_bb", "fixed": BG_BB},
            "spend": {"family": "gamma_gamma", "fixed": SPEND},
        },
        "value": {"margin": 0.3, "annual_discount_rate": 0.1},
    }  # fmt: skip
    found = run.backtest(
        config, table, overrides=["validation.every=3 months", "validation.horizons=[1 month, 3 months]"]
    )
    assert [h.steps for h in found.backtest.horizons][:2] == [1, 3]
    for origin in found.backtest.origins:
        assert (origin.date + dt.timedelta(days=1)).day == 1
    past = history.read(load(config).data, transactions=table)
    origin = found.backtest.origins[0]
    _, position = past.at(origin.date)
    count, _ = past.repeats(position, origin.date, past.after(origin.date, 1))
    assert origin.data["actual"].values[0, 0] == count.sum()


# --- page one of a run ---------------------------------------------------------------------------


def test_a_run_says_what_was_tested(done, table, tmp_path):
    place = tmp_path / "runs"
    place.mkdir()
    (place / "world-backtest").symlink_to(done.path)
    tested = run.fit(CONFIG, table, out=place / "world")
    block = tested.summary["backtest"]
    assert block["horizon"] == "13 weeks"
    assert block["horizons"] == done.summary["horizons"]
    assert block["calibrated"]["horizons"] == []
    assert [one["share"] for one in block["calibrated"]["stress"]] == [0.1, 0.2]
    mean = tested.result.total(tested.result.levels[-1]).mean()
    assert block["calibrated"]["stress"][1]["low"] == pytest.approx(0.8 * mean)
    page = (place / "world" / "report.html").read_text()
    assert "Forecasts of the past were tested up to 13 weeks ahead" in page
    assert "None, because the error that remains is not estimable" in page
    said = [text for *_, text in confidence(tested.summary | {"backtest": None})]
    assert any(text.startswith("Not yet measured: run python -m clvmodels backtest") for text in said)
    again = run.report(place / "world", out=place / "dearer", overrides=["value.margin=0.5"])
    assert "tested up to 13 weeks ahead" in again.read_text()
    # The share within the horizon is that of a valuation that ends there.
    named = [f"validation.backtest={done.path}"]
    near = run.fit(CONFIG, table, overrides=[*named, "value.horizon=13 weeks"])
    assert near.summary["backtest"]["share"]["mean"] == pytest.approx(1.0)
    level = tested.result.levels[0]
    share = near.result.total(level).mean() / tested.result.total(level).mean()
    assert block["share"]["mean"] == pytest.approx(share, rel=1e-6)
    with pytest.raises(InputError, match="of other data or models"):
        run.fit(CONFIG, table, overrides=[*named, "data.zero_days=drop"])
    with pytest.raises(InputError, match=r"holds no backtest\.json"):
        run.fit(CONFIG, table, overrides=["validation.backtest=nowhere"])


def test_drift_is_measured_against_the_first_origins_own_maximum():
    described = {
        "purchases": {"family": "bg_nbd", "maximum": {}},
        "spend": {"family": "gamma_gamma", "maximum": {}},
    }
    origins = tuple(
        testing.Origin(date=dt.date(2020, month, 1), customers=2, parameters=described) for month in (1, 2)
    )
    found = Backtest(origins=origins, horizons=(), currency="USD", time_unit="week", clock="continuous")
    assert backtesting._drift(load(CONFIG), None, found) is None
