"""What customers cost and may cost, and the way of both parts through a run and its report."""

from __future__ import annotations

import copy
import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_report as reporting
from builders import make_assumptions, make_posterior, make_summary

from clvmodels.artifacts import Equity
from clvmodels.config import Config
from clvmodels.data.spend import read_spend
from clvmodels.effects import Effects, Term
from clvmodels.equity import acquisition, future, prospect
from clvmodels.errors import InputError
from clvmodels.fit import acquisition as fitted
from clvmodels.report import acquisition as report
from clvmodels.report import figures, files, page, tables, text
from clvmodels.run import newcomers
from clvmodels.value import Flow, Newcomer, Valuation, valuation_flow
from clvmodels.value.newcomer import Mixture

SPEND = {reporting.HOSTILE: 900.0, "a & b": [300.0, 500.0], "$x_1$ {currency}": 0}
BOTH = {
    "future": {"forecast": "plan", "plan": 30, "horizon": "2 years", "interval": [0.8, 1.2]},
    "acquisition": {"by": "channel", "spend": SPEND, "customers": "together"},
}


def config(**more) -> Config:
    plain = {
        "name": "test",
        "data": {"source": "log.csv", "segments": ["channel"], "observation_end": "1997-09-30"},
        "value": {"margin": 0.3, "annual_discount_rate": 0.15},
    }
    return Config.model_validate(plain | more)


@pytest.fixture(scope="module")
def made():
    """Everything a run with both parts hands to the report."""
    artefacts = reporting.Artefacts(120)
    artefacts.config = config(**BOTH)
    artefacts.equity, gate = newcomers.add(
        artefacts.config, artefacts.summary, artefacts.posterior, artefacts.assumptions, artefacts.equity
    )
    assert gate == ()
    artefacts.table = artefacts.build()
    return artefacts


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_all", lambda *_: {})  # only the figures of these two parts
        return made.write(tmp_path_factory.mktemp("run"))


# --- the numbers -----------------------------------------------------------------------------------


def test_cost_is_spend_over_customers_won(made):
    data, summary = made.equity.acquisition, made.summary
    codes = summary.segments["channel"].codes
    for label, amount in zip(summary.segments["channel"].labels, (900.0, None, 0.0), strict=True):
        row = data.sel(channel=label)
        won = int((codes == summary.segments["channel"].labels.index(label)).sum())
        assert row["won"] == row["customers"] == won
        if amount is not None:
            np.testing.assert_allclose(row["cac"].values, amount / won)
    whole = data.sel(channel=newcomers.ALL)
    parts = data["spend"].isel(channel=slice(1, None)).sum("channel").values
    np.testing.assert_allclose(whole["cac"].values, parts / len(summary))
    spread = data["spend"].sel(channel="a & b").values
    assert 300 < np.median(spread) < 500
    assert spread.std() > 0


def test_organic_customers_pay_back_at_once_and_have_no_ratio(made):
    channel = next(c for c in made.table["acquisition"]["channels"] if c["label"].startswith("$x"))
    assert channel["cac"]["mean"] == 0
    assert channel["ratio"] is None
    assert channel["payback"]["median"] == 0
    assert channel["payback"]["never"] == 0
    assert channel["pays"]["on_average"] == channel["pays"]["one_customer"] == 1
    assert channel["surplus"]["mean"] == channel["ltv"]["mean"]


def test_maximum_costs_are_ordered_and_follow_the_draws(made):
    draws = made.equity.acquisition["ltv"].values[0]
    most = made.table["acquisition"]["channels"][0]["maximum"]
    assert most["assured"]["value"] == pytest.approx(np.quantile(draws, 0.1), rel=1e-9)
    assert most["assured"]["value"] < most["break_even"]["value"] == pytest.approx(draws.mean(), rel=1e-9)
    assert most["target"]["value"] == pytest.approx(draws.mean() / 3, rel=1e-9)
    assert most["payback"]["mean"] < most["break_even"]["value"]
    # A cost of what the first year earns is paid back after one year, in every draw.
    new = newcomers._newcomer(made.config, made.summary, made.posterior, made.assumptions)
    year = made.assumptions.units_per_year
    within = made.equity.acquisition["within"].values[0]
    np.testing.assert_allclose(new.payback(within, 0.0, 100 * year, 1.0), year, rtol=1e-5)


def test_published_unit_economics_and_accounting():
    """Checks 25 and 26: McCarthy and Fader's 47/38 and 59/69; a campaign that loses 621,180."""
    for ltv, cac, printed, surplus in ((47, 38, 1.237, 9), (59, 69, 0.855, -10)):
        block = reporting_ratio(ltv, cac)
        assert block["median"] == pytest.approx(printed, abs=5e-4)
        assert block["above_1"] == (surplus > 0)
    won, rate, sales, margin, cost = 7308, 1.0, 500.0, 0.13, 150.0
    response = np.array([[0.0, won * rate, 0.0]])  # everybody answers any spend
    spent = won * cost
    found = acquisition.profit(spent, response, np.array([sales * margin]))
    assert found[0] == pytest.approx(-621_180)


def reporting_ratio(ltv, cac):
    from clvmodels.report.acquisition import _ratio

    return _ratio(np.full(50, float(ltv)), np.full(50, float(cac)), "expected")


def test_never_is_counted_and_quantiles_beyond_it_do_not_exist():
    from clvmodels.report.acquisition import _payback

    months = np.r_[np.arange(1.0, 71.0), np.full(30, np.inf)]
    block = _payback(months, "expected")
    assert block["never"] == 0.3
    assert block["within_12"] == 0.12
    assert block["median"] == 50
    assert block["interval_50"] == [25, None]
    assert _payback(np.full(9, np.inf), "expected")["median"] is None


def test_budget_is_where_the_last_unit_wins_its_own_worth():
    """Against a search on a fine grid; regret is zero at the optimum of a single draw."""
    rng = np.random.default_rng(1)
    response = np.column_stack([np.full(30, 5.0), rng.uniform(50, 90, 30), rng.uniform(800, 1500, 30)])
    ltv = rng.uniform(20, 60, 30)
    optimum, now, best, at = acquisition.budget(response, ltv, 100.0)
    grid = np.linspace(0, 4000, 40_001)
    for d in range(30):
        by_grid = grid[np.argmax(acquisition.profit(grid, response[d : d + 1], ltv[d]))]
        assert optimum[d] == pytest.approx(by_grid, abs=0.11)
    assert (now >= -1e-9).all()
    assert (best >= -1e-9).all()
    expected = np.mean([acquisition.profit(grid, response[d : d + 1], ltv[d]) for d in range(30)], axis=0)
    assert at == pytest.approx(grid[expected.argmax()], abs=np.quantile(optimum, 0.99) / 200)
    assert best.mean() <= now.mean()
    nothing = acquisition.budget(response, np.full(30, 1e-3), 100.0)
    assert (nothing[0] == 0).all()


def test_budget_curve_has_its_top_at_the_best_spend():
    rng = np.random.default_rng(3)
    response = np.array([20.0, 200.0, 2000.0]) * np.exp(0.1 * rng.standard_normal((400, 3)))
    ltv = 50 * np.exp(0.05 * rng.standard_normal(400))
    _, _, _, best = acquisition.budget(response, ltv, 1000.0)
    spend, mean, low, high = acquisition.budget_curve(response, ltv, best)
    assert (spend[0], mean[0]) == (0, 0)
    step = spend[1]
    # The best is found on a grid of its own; both steps together bound the difference.
    assert abs(spend[mean.argmax()] - best) <= step + best / 100
    assert (low <= mean).all()
    assert (mean <= high).all()
    block = {"spend": spend, "mean": mean, "low": low, "high": high, "unit": "USD", "level": "expected"}
    budget = {"curve": block, "now": {"value": 1000.0}, "best": {"value": best}}
    table = {"acquisition": {"channels": [{"label": "tv", "budget": budget}]}}
    figure = report.budget_curves(table["acquisition"], "USD")
    assert figure.axes[0].get_xlabel() == "Monthly spend (USD)"
    found = list(report._curve_rows("tv", block))
    assert len(found) == 3 * len(spend)


def test_response_recovers_its_curve_and_needs_a_history():
    rng = np.random.default_rng(2)
    spend = np.tile([0.0, 500, 1000, 2000, 4000, 8000], 6)
    won = rng.poisson(20 + 200 * spend / (2000 + spend))
    draws, k_hat = fitted.response(spend, won, 1000, np.random.SeedSequence(1))
    assert k_hat < 0.7
    low, high = np.quantile(draws, [0.005, 0.995], axis=0)
    assert ((low < [20, 200, 2000]) & (high > [20, 200, 2000])).all()
    assert fitted.response(spend[:6], won[:6], 1000, np.random.SeedSequence(1)) is None
    assert fitted.response(np.full(36, 100.0), won, 1000, np.random.SeedSequence(1)) is None


def test_a_channel_is_judged_by_its_own_customers_where_they_are_enough(made, monkeypatch):
    """The fit is replaced: what is tested is whose draws value which channel."""
    labels = made.summary.segments["channel"].labels
    asked = config(acquisition={"by": "channel", "spend": {labels[0]: 10.0}})
    rates = {84: 2.0, 83: 1.0}
    monkeypatch.setattr(newcomers, "OWN_CUSTOMERS", 84)
    monkeypatch.setattr(newcomers, "OWN_BUYERS", 5)

    def fit(part, purchases, spend, options, seed):
        assert options.draws == 120
        own = made.posterior.purchases
        return replace(made.posterior, purchases=replace(own, draws=own.draws * [rates[len(part)], 1, 1, 1]))

    monkeypatch.setattr("clvmodels.fit.fit", fit)
    args = made.summary, made.posterior, made.assumptions, made.equity
    first, _ = newcomers.add(asked, *args)
    found = first.acquisition
    assert [acquisition.BASES[k] for k in found["basis"].values] == ["own", "own", "all", "all"]
    ltv = found["ltv"].values
    assert (ltv[1] > ltv[0]).all()
    np.testing.assert_array_equal(ltv[2], ltv[0])
    monkeypatch.setattr("clvmodels.fit.fit", None)  # a run read back is valued without a fit
    again, _ = newcomers.add(asked, *args, known=first)
    np.testing.assert_array_equal(again.acquisition["ltv"].values, ltv)


def with_effects(posterior, *terms: Term):
    """The posterior with effects of given terms, spread around draws of any size."""
    count = len(posterior)
    rng = np.random.default_rng(4)
    parts = {}
    for role, drivers in (("purchases", ("purchase", "dropout")), ("spend", ("spend",))):
        mine = tuple(term for term in terms if term.driver in drivers)
        size = sum(len(term.names) + term.estimated_sd for term in mine)
        draws = np.abs(0.3 + 0.2 * rng.standard_normal((1, count, size)))
        part = getattr(posterior, role)
        parts[role] = replace(part, effects=Effects(terms=mine, draws=draws) if mine else None)
    return replace(posterior, **parts)


def test_channels_that_the_model_pools_are_valued_by_it(made):
    """Witness: a new customer of each channel, predicted on its own."""
    labels = made.summary.segments["channel"].labels
    pooled = [
        Term(driver=driver, by=("channel",), kind="pool", prior_scale=0.5, labels=tuple(sorted(labels)))
        for driver in ("purchase", "spend")
    ]
    asked = config(**BOTH)
    draws = with_effects(made.posterior, *pooled)
    found, _ = newcomers.add(asked, made.summary, draws, made.assumptions, made.equity)
    data = found.acquisition
    assert [acquisition.BASES[k] for k in data["basis"].values] == ["own", "pooled", "pooled", "pooled"]
    assert data["customers"].values[0] == data["customers"].values[1:].sum() == len(made.summary)
    one = {
        label: prospect(made.summary, draws, made.assumptions, 1, {"channel": label}).value["expected"]
        for label in labels
    }
    for label in labels:
        np.testing.assert_allclose(data["ltv"].sel(channel=label).values, one[label], rtol=1e-9)
    # All customers are a mixture of the channels as they are in the log.
    share = np.bincount(made.summary.segments["channel"].codes) / len(made.summary)
    mixed = sum(w * one[label] for w, label in zip(share, labels, strict=True))
    np.testing.assert_allclose(data["ltv"].values[0], mixed, rtol=1e-9)
    np.testing.assert_allclose(found.future["value"].values, mixed, rtol=1e-9)
    assert np.ptp([draws.mean() for draws in one.values()]) > 1
    made_of = Mixture.of(draws, made.summary, margin=0.3)
    flow = Flow(delta=0.0027)
    pool = made_of.simulate("latent", flow, 3000, np.random.SeedSequence(1))
    error = pool.mean() - made_of.value(flow).mean()
    assert abs(error) < 3 * pool.mean(axis=1).std() / np.sqrt(len(pool))
    disclosed = dict(report.disclosures(report_of(made, found, asked)))["Cost of customers"]
    assert "pools channel partially" in disclosed


def report_of(made, equity: Equity, asked: Config) -> dict:
    other = copy.copy(made)
    other.config, other.equity = asked, equity
    return other.build()


def test_more_patterns_than_a_mixture_holds_are_sampled(made):
    """A number for each customer: forty of them stand for all, and the sum is near that of everybody."""
    rng = np.random.default_rng(3)
    spent = np.round(rng.gamma(4, 10, len(made.summary)), 2)
    summary = replace(made.summary, columns=dict(made.summary.columns) | {"first_amount": spent})
    term = Term(
        driver="spend", by=("first_amount",), kind="numeric", prior_scale=0.5, centre=40.0, scale=20.0
    )
    draws = with_effects(made.posterior, term)
    mixed = Mixture.of(draws, summary, margin=0.3)
    assert len(mixed.parts) == 40
    assert mixed.weights.sum() == pytest.approx(1)
    flow = Flow(delta=0.0027)
    every = [
        prospect(summary, draws, made.assumptions, 1, {"first_amount": amount}, margin=0.3).value["expected"]
        for amount in np.quantile(spent, (np.arange(40) + 0.5) / 40)
    ]
    np.testing.assert_allclose(mixed.value(flow).mean(), np.mean(every), rtol=0.02)


def test_months_that_are_pooled_are_those_of_the_next_month(made):
    month = str(np.datetime64(made.summary.observation_end, "M") + 1)
    known = tuple(np.unique(made.summary.first_day.astype("datetime64[M]").astype(str)))
    term = Term(driver="purchase", by=("first_month",), kind="walk", prior_scale=0.2, labels=known)
    draws = with_effects(made.posterior, term)
    (part,) = Mixture.of(draws, made.summary, margin=0.3).parts
    one = prospect(made.summary, draws, made.assumptions, 1, {"first_month": month}, margin=0.3)
    np.testing.assert_allclose(part.value(valuation_flow(made.assumptions)), one.value["expected"], rtol=1e-9)


def test_cost_of_keeping_lowers_what_a_new_customer_is_worth(made):
    """Witness: the value of a customer with no history, as any customer is valued."""
    summary = make_summary({"frequency": np.zeros(1), "recency": np.zeros(1), "T": np.zeros(1)})
    costs = {"cost_alive": 0.02, "cost_addressed": 0.03, "cost_window": 52.0}
    whole = make_assumptions(summary, **costs)
    given = make_posterior(("bg_nbd", [0.243, 4.414, 0.793, 2.426]), ("gamma_gamma", [6.25, 3.74, 15.44]))
    new = Newcomer(given, 0.3, **costs)
    flow = valuation_flow(whole)
    (tile,) = Valuation(summary, given, whole, 1).expected()
    np.testing.assert_allclose(new.value(flow) - new.first_order, tile.value[0], rtol=1e-9)
    pool = new.simulate("latent", flow, 4000, np.random.SeedSequence(2))
    assert abs(pool.mean() - new.value(flow)[0]) < 3 * pool.std() / np.sqrt(len(pool))
    plain = Newcomer(given, 0.3)
    cost = np.array([15.0])
    late, early = (one.payback(cost, 0.0, 5000.0, 1.0)[0] for one in (new, plain))
    assert late > early > 0
    # A grid of 128 steps in the logarithm of time: the curve is straight within one to this precision.
    curve = new.first_order + new.later([Flow(delta=0.0, horizon=late)])[:, 0]
    assert curve[0] == pytest.approx(15.0, rel=1e-4)
    assert new.payback(np.array([500.0]), 0.0, 5000.0, 1.0)[0] == np.inf


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"future": {"forecast": "trend"}}, "no first purchase in the last 27 weeks"),
        ({"future": {"forecast": "plan", "plan": 3, "horizon": "2 days"}}, "shorter than one month"),
        ({"acquisition": {"by": "channel", "spend": {"tv": 5}}}, "channel 'tv' is not in the data"),
        ({"acquisition": {"spend": 5, "currency": "EUR"}}, "acquisition.currency is EUR, but the data"),
        ({"acquisition": {"spend": 5, "since": "1996-01-01"}}, "since 1996-01-01 is outside the data"),
        ({"acquisition": {"spend": 5, "since": "1997-09-01"}}, "no customer was won in that time"),
    ],
)
def test_what_the_data_cannot_carry_is_refused(made, asked, said):
    with pytest.raises(InputError) as caught:
        newcomers.check(config(**asked), made.summary)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_short_log_has_no_trend():
    T = np.linspace(0, 12, 60)
    summary = make_summary({"frequency": np.zeros(60), "recency": np.zeros(60), "T": T})
    with pytest.raises(InputError, match=r"the log has 2 whole months of first purchases and 6 are needed"):
        newcomers.check(config(future={"forecast": "trend"}), summary)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("month,cost\n1997-01,5\n", "has no column spend; it has month, cost"),
        ("month,spend\n", "has no rows"),
        ("month,spend\n1997-13,5\n", "line 2: '1997-13' is not a month"),
        ("month,spend\n1997-01,-5\n", "line 2: '-5' is not an amount of at least 0"),
        ("month,spend,currency\n1997-01,5,EUR\n", "line 2: the spend is in EUR, the data in USD"),
        ("month,spend\n1996-11,5\n", "the month 1996-11 of s.csv is not wholly inside the data"),
        ("month,spend\n1997-10,5\n", "the month 1997-10 of s.csv is not wholly inside the data"),
    ],
)
def test_a_file_of_spend_that_cannot_be_used_is_refused(made, tmp_path, content, said):
    (tmp_path / "s.csv").write_text(content)
    asked = config(acquisition={"spend": "s.csv"})
    asked._base = tmp_path
    with pytest.raises(InputError) as caught:
        newcomers.check(asked, made.summary)
    assert said in str(caught.value)


def test_spend_by_month_pays_for_the_customers_of_those_months(made, tmp_path):
    (tmp_path / "s.csv").write_text(
        "month,spend,channel\n1997-02,10,a & b\n1997-03-01,20,a & b\n1997-02,5,a & b\n"
    )
    table = read_spend(tmp_path / "s.csv", "channel", "USD")
    np.testing.assert_array_equal(table.spend, [[15, 20]])
    for lag, first in ((None, "1997-02-01"), ("15 days", "1997-02-16")):
        asked = config(acquisition={"by": "channel", "spend": "s.csv", "lag": lag})
        asked._base = tmp_path
        _, costs = newcomers.check(asked, made.summary)
        here = made.summary.segments["channel"].codes == 1
        day = made.summary.first_day
        start = np.datetime64(first)
        expected = here & (day >= start) & (day < start + np.timedelta64(59, "D"))
        np.testing.assert_array_equal(costs.won[1], expected)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.csv cannot be read"):
        read_spend(tmp_path / "nowhere.csv", None, "USD")


# --- the report ------------------------------------------------------------------------------------


def test_page_json_and_csv_say_the_same(made, folder):
    """Check 34: every number on the page is that of its key; every row of the CSV files too."""
    stored = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert stored == made.table
    shown = reporting.Page((folder / "report.html").read_text(encoding="utf-8"))
    keys = {key for key, _ in shown.numbers}
    for key, number in shown.numbers:
        if key.startswith(("future.", "acquisition.")):
            value = text.lookup(stored, key)
            if isinstance(value, float) and number != text.NONE:
                plain = number.replace(",", "").replace("\u2212", "-")
                scale = 100 if plain.endswith("%") else 1
                written = plain.removesuffix("\u00a0%")
                places = len(written.partition(".")[2])
                assert abs(float(written) - scale * value) <= 0.5 * 10.0**-places * (1 + 1e-9), key
    assert {"future.net.predictive.mean", "future.together.expected.mean", "future.value.mean"} <= keys
    assert {"acquisition.channels.0.cac.mean", "acquisition.channels.1.payback.within_12"} <= keys
    assert reporting.HOSTILE not in (folder / "report.html").read_text(encoding="utf-8")
    with open(folder / "acquisition.csv", encoding="utf-8") as file:
        rows = {(r["channel"], r["metric"], r["statistic"]): r["value"] for r in csv.DictReader(file)}
    for channel in stored["acquisition"]["channels"]:
        assert float(rows[channel["label"], "ltv", "mean"]) == channel["ltv"]["mean"]
        assert (
            float(rows[channel["label"], "maximum_target", "value"]) == channel["maximum"]["target"]["value"]
        )
        assert float(rows[channel["label"], "payback", "within_24"]) == channel["payback"]["within_24"]
    with open(folder / "future.csv", encoding="utf-8") as file:
        future = {
            (r["metric"], r["group"], r["level"], r["statistic"]): r["value"] for r in csv.DictReader(file)
        }
    for level, block in stored["future"]["net"].items():
        assert float(future["net", "total", level, "mean"]) == block["mean"]
    assert tables.dumps(made.build()) == tables.dumps(stored)


def test_future_equity_stands_apart(made, folder):
    stored = made.table
    plain = reporting.Artefacts(120).table
    assert stored["equity"] == plain["equity"]
    assert plain["future"] is None
    assert plain["acquisition"] is None
    for level in stored["levels"]:
        parts = stored["equity"]["existing"][level]["mean"] + stored["future"]["net"][level]["mean"]
        assert stored["future"]["together"][level]["mean"] == pytest.approx(parts, rel=1e-9)
    words = " ".join(stored["sentences"])
    assert "stated apart from the existing ones" in words
    assert "a given plan, not a finding" in words
    topics = {entry["topic"]: entry["text"] for entry in stored["disclosures"]}
    assert "2\u00a0years of the valuation date" in topics["Future customers"]
    assert "valued apart" in topics["Scope"]
    again = files.load(folder)["equity"]
    assert isinstance(again, Equity)
    assert again.future.equals(made.equity.future)


def test_sensitivity_to_acquisition_is_that_of_another_plan(made):
    """Witness: a plan of 33 customers instead of 30; and costs a tenth higher."""
    bare = replace(made.equity, future=None, acquisition=None)
    inputs = made.summary, made.posterior, made.assumptions, bare
    found = {entry["name"]: entry for entry in made.table["future"]["sensitivities"]}
    for name, plan, spend in (
        ("acquisition_up", 33, 1.0),
        ("acquisition_down", 27, 1.0),
        ("cost_up", 30, 1.1),
    ):
        asked = config(**BOTH).future.model_copy(update={"plan": plan})
        cac = made.equity.future["cac"].values * spend
        ahead = newcomers._ahead(made.config, asked, made.summary)
        forecast, _ = newcomers._forecast(made.config, asked, ahead, 120, None, None)
        new = newcomers._newcomer(made.config, *inputs[:3])
        data, _ = future.build(new, forecast, made.assumptions, bare, cac, made.config.seed)
        together = data["together"].sel(level="expected").values
        assert found[name]["equity"]["mean"] == pytest.approx(together.mean(), rel=1e-9), name
    sources = {entry["source"]: entry["share"] for entry in made.table["future"]["variance"]}
    assert sum(sources.values()) == pytest.approx(1)
    assert sources["acquisition"] > 0


def test_a_single_parameter_vector_has_no_intervals():
    artefacts = reporting.Artefacts(1, converged=None)
    artefacts.config = config(**BOTH)
    args = artefacts.summary, artefacts.posterior, artefacts.assumptions, artefacts.equity
    artefacts.equity, _ = newcomers.add(artefacts.config, *args)
    table = artefacts.build()
    assert table["future"]["net"]["point"]["interval_90"] is None
    assert table["future"]["customers"]["point"]["mean"] == 24 * 30
    assert table["acquisition"]["channels"][0]["maximum"]["assured"]["value"] is None
    page.html(table, {})


def test_docs_list_every_key(made):
    """docs/future.md against the keys of both blocks."""
    import re

    content = (Path(__file__).parents[1] / "docs" / "future.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \|", content, flags=re.M)
    documented = {key.removesuffix(".*") for row in rows for key in re.findall(r"`([^`]+)`", row)}
    found = set()
    for name in ("future", "acquisition"):
        for key, child in made.table[name].items():
            if isinstance(child, list) and f"{name}.{key}[i]" not in documented:
                found |= {f"{name}.{key}[i].{inner}" for entry in child for inner in entry}
            elif isinstance(child, list):
                found.add(f"{name}.{key}[i]")
            elif isinstance(child, dict) and set(child) == set(made.table["levels"]):
                found.add(f"{name}.{key}.<level>")
            else:
                found.add(f"{name}.{key}")
    assert found == documented


def test_the_first_order_may_be_the_one_observed(made):
    asked = config(value={"margin": 0.3, "annual_discount_rate": 0.15, "first_order": "observed"})
    new = newcomers._newcomer(asked, made.summary, made.posterior, made.assumptions)
    mean = made.summary["first_amount"].mean()
    error = made.summary["first_amount"].std(ddof=1) / np.sqrt(len(made.summary))
    assert abs(new.first_order.mean() / 0.3 - mean) < 4 * error / np.sqrt(120)
    assert new.first_order.std() / 0.3 == pytest.approx(error, rel=0.3)
    point = make_posterior(("bg_nbd", np.array([0.2, 4.0, 0.8, 2.4])), ("fixed_spend", np.array([30.0])))
    assert newcomers._newcomer(asked, made.summary, point, made.assumptions).first_order[0] == pytest.approx(
        0.3 * mean
    )
