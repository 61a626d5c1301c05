"""The bridge between two dates and the return on it: worked example, identities, files, bad input."""

from __future__ import annotations

import csv
import datetime as dt
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from builders import make_assumptions, make_posterior, make_summary

from clvmodels import cli, equity, run
from clvmodels.config import DataConfig
from clvmodels.data import summarise
from clvmodels.data.realized import realized
from clvmodels.equity import bridge
from clvmodels.equity.bridge import BASES, LINES, MOVEMENTS, ORDER, REVISIONS, Side, return_on_customer
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.report import bridge as reporting
from clvmodels.value import Valuation

THETA = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}
SPEND = {"p": 6.25, "q": 3.74, "gamma": 15.44}
REFERENCE = json.loads((Path(__file__).parent / "reference" / "bridge.json").read_text())
START = dt.date(1997, 9, 30)


def scattered(theta: dict[str, float], draws: int, seed: int) -> np.ndarray:
    """Draws around a parameter vector, 5 % apart; the spend model's q stays above 1."""
    rng = np.random.default_rng(seed)
    return np.array(list(theta.values())) * np.exp(0.05 * rng.standard_normal((draws, len(theta))))


def posterior(draws: int = 1, seed: int = 0, purchases: str = "bg_nbd"):
    if draws == 1:
        return make_posterior((purchases, list(THETA.values())), ("gamma_gamma", list(SPEND.values())))
    parts = (purchases, scattered(THETA, draws, seed)), ("gamma_gamma", scattered(SPEND, draws, seed + 1))
    return make_posterior(*parts)


class World:
    """Customers simulated from the models, seen at any week; none of it reuses the value step."""

    def __init__(self, customers: int, seed: int, born: tuple[float, float] = (-39.0, 0.0)) -> None:
        rng = np.random.default_rng(seed)
        days = rng.integers(round(7 * born[0]), round(7 * born[1]) + 1, customers)
        self.born = days / 7
        self.first_day = np.datetime64(START) + days
        self.segment = rng.choice(["north", "south"], customers)
        self.first = rng.gamma(4, 8, customers)
        path = registry.purchases("bg_nbd").simulate(THETA, 200 - self.born, rng)
        self.customer, self.time = path.customer, path.time + self.born[path.customer]
        count = np.bincount(self.customer, minlength=customers)
        self.amount = registry.spend("gamma_gamma").simulate(SPEND, count, rng).amount

    def at(self, week: float):
        """Summary at a week after START."""
        known = self.born <= week
        x, t_x, spent = np.zeros(len(known)), np.zeros(len(known)), np.zeros(len(known))
        seen = self.time <= week
        np.add.at(x, self.customer[seen], 1)
        np.maximum.at(t_x, self.customer[seen], (self.time - self.born[self.customer])[seen])
        np.add.at(spent, self.customer[seen], self.amount[seen])
        columns = {
            "frequency": x,
            "recency": t_x,
            "T": week - self.born,
            "monetary_value": np.divide(spent, x, out=np.full(len(x), np.nan), where=x > 0),
            "first_amount": self.first,
        }
        names = np.array([f"c{i:06}" for i in range(len(known))], dtype=object)
        made = make_summary({k: v[known] for k, v in columns.items()}, {"region": self.segment[known]})
        end = START + dt.timedelta(days=round(7 * week))
        return replace(made, customer=names[known], first_day=self.first_day[known], observation_end=end)

    def revenue(self, start: float, end: float, *deltas: float) -> np.ndarray:
        """Revenue in (start, end] of the customers known at the end, accumulated at each δ."""
        out = np.zeros((len(self.born), len(deltas)))
        inside = (self.time > start) & (self.time <= end)
        fresh = (self.born > start) & (self.born <= end)
        for k, delta in enumerate(deltas):
            grown = self.amount * np.exp(delta * (end - self.time))
            np.add.at(out[:, k], self.customer[inside], grown[inside])
            out[fresh, k] += (self.first * np.exp(delta * (end - self.born)))[fresh]
        return out[self.born <= end]


def sides(world: World, draws: int = 1, weeks: float = 39.0, closing: dict | None = None, **opening):
    """Both dates, with assumptions of each."""
    out = []
    for week, changes, seed in ((0.0, opening, 1), (weeks, opening | (closing or {}), 11)):
        summary = world.at(week)
        changes = dict(changes)
        if "margin" in changes:
            changes["margin"] = np.full(len(summary), changes["margin"])
        out.append(
            Side(
                summary=summary,
                posterior=posterior(draws, seed),
                assumptions=make_assumptions(summary, **changes),
            )
        )
    return out


@pytest.fixture(scope="module")
def world() -> World:
    """300 customers, of whom a third are acquired between the dates."""
    return World(300, 3, (-60.0, 30.0))


@pytest.fixture(scope="module")
def eventful(world):
    """Everything at once: new, missing, merged and older customers, all assumptions changed."""
    a, b = sides(
        world, 40, horizon=104.0, timing="end", period=4.0, margin=0.3,
        closing={"horizon": 156.0, "timing": "mid", "annual_discount_rate": 0.1, "margin": 0.33},
    )  # fmt: skip

    names = a.summary.customer

    def without(side: Side, gone: np.ndarray) -> Side:
        keep = ~np.isin(side.summary.customer, gone)
        columns = {name: column[keep] for name, column in side.summary.columns.items()}
        segments = {k: replace(s, codes=s.codes[keep]) for k, s in side.summary.segments.items()}
        summary = replace(
            side.summary, customer=side.summary.customer[keep], columns=columns, segments=segments,
            first_day=side.summary.first_day[keep],
        )  # fmt: skip
        return replace(
            side, summary=summary, assumptions=replace(side.assumptions, margin=side.assumptions.margin[keep])
        )

    a = without(a, names[:3])  # three were not known at the opening, though they had bought
    b = without(b, names[3:8])  # five are not among the closing's
    days = b.summary.first_day.copy()
    days[b.summary.customer == names[10]] -= 7  # one was merged with an older id
    b = replace(b, summary=replace(b.summary, first_day=days))
    refitted = posterior(40, 21)
    b = replace(b, posterior=posterior(40, 31, "mbg_nbd"))
    return a, b, bridge.build(a, b, refitted=refitted, seed=5)


# --- the worked example --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cdnow_sides(cdnow):
    end = summarise(DataConfig(source="cdnow_sample", observation_end="1998-06-30"))
    out = []
    for summary, when in ((cdnow, "opening"), (end, "closing")):
        found = REFERENCE["maximum_likelihood"][when]
        draws = [(list(found[role].values())) for role in ("purchases", "spend")]
        given = make_posterior(("bg_nbd", draws[0]), ("gamma_gamma", draws[1]))
        made = make_assumptions(summary, units_per_year=52)
        out.append(Side(summary=summary, posterior=given, assumptions=made))
    return out


def test_worked_example(cdnow_sides):
    """Every printed digit: half a dollar, and 1e-6 for parameters given to eight digits."""
    found = bridge.build(*cdnow_sides)
    movement = found.movements["opening"]
    expected = dict.fromkeys(LINES, 0.0) | REFERENCE["lines"]
    for line, value in expected.items():
        assert movement[line][0] == pytest.approx(value, rel=1e-6, abs=0.5), line
    assert {kind: count for kind, count in found.counts.items() if count} == REFERENCE["customers"]
    assert found.level == "point"
    assert found.coupling == "point"


def test_realized_margin_of_the_worked_example(cdnow_sides):
    """From the log, by day; the summaries alone, as if it came evenly, are within 1 %."""
    delta = cdnow_sides[0].assumptions.delta
    config = DataConfig(source="cdnow_sample", observation_end="1997-09-30", holdout_end="1998-06-30")
    ids, revenue = realized(config, [delta, 0.0])
    assert len(ids) == REFERENCE["customers"]["bought"]
    assert 0.3 * revenue[:, 0].sum() == pytest.approx(REFERENCE["margin_realized"], abs=0.5)
    summary = cdnow_sides[0].summary
    place = np.searchsorted(summary.customer.astype(str), ids.astype(str))
    # Cents are exact in the decimals of the engine; a mean of floats is not.
    np.testing.assert_allclose(revenue[:, 1], summary["holdout_amount"][place], rtol=1e-12)
    even = bridge.build(*cdnow_sides)
    assert even.accumulation == "uniform"
    assert even.movements["opening"].margin_existing == pytest.approx(REFERENCE["margin_realized"], rel=0.01)


# --- identities ----------------------------------------------------------------------------------


def test_lines_add_up_in_every_draw_whatever_happened(eventful):
    _, _, found = eventful
    assert found.counts["vanished"] == 5
    assert found.counts["appeared"] == 3
    assert found.counts["rewritten"] == 1
    assert found.counts["new"] > 50
    for movement in found.movements.values():
        assert (np.abs(movement.residual) < 1e-9 * movement["closing"]).all()
        for line in LINES:
            assert movement[line].any(), line
    assert sum(found.counts.values()) == found.customers.num_rows
    said = _table(found)["sentences"][3]
    assert "5 are missing at the closing, 3 appeared" in said


def test_both_ends_are_the_published_valuations(eventful):
    a, b, found = eventful
    opening = equity.build(Valuation(a.summary, a.posterior, a.assumptions, 1)).total("expected")
    closing = equity.build(Valuation(b.summary, b.posterior, b.assumptions, 1)).total("expected")
    for movement in found.movements.values():
        # The opening's draws are reordered to meet the closing's; sums differ by rounding.
        np.testing.assert_allclose(np.sort(movement["opening"]), np.sort(opening), rtol=1e-12)
        np.testing.assert_allclose(movement["closing"], closing, rtol=1e-12)


def test_segments_and_customers_add_to_the_total(eventful):
    _, _, found = eventful
    for movement in found.movements.values():
        labels, values = movement.segments["region"]
        assert labels == ("north", "south")
        scale = np.abs(movement.lines).max()
        np.testing.assert_allclose(values.sum(axis=1), movement.lines, rtol=0, atol=1e-12 * scale)
    table = found.customers
    for column, line in (("value_opening", "opening"), ("value_closing", "closing")):
        total = np.nansum(table[column].to_numpy(zero_copy_only=False))
        assert total == pytest.approx(found.movements["opening"][line].mean(), rel=1e-12)
    surprise = np.nansum(table["surprise"].to_numpy(zero_copy_only=False))
    experience = sum(found.movements["opening"][line].mean() for line in ("bought", "silent", "basket"))
    assert surprise == pytest.approx(experience, rel=1e-10)


@pytest.mark.parametrize("draws", [1, 20])
def test_identical_data_and_assumptions_move_nothing(world, draws):
    a, _ = sides(world, draws)
    found = bridge.build(a, a)
    assert found.coupling == "identical"
    for movement in found.movements.values():
        for line in (*MOVEMENTS, *REVISIONS):
            assert not movement[line].any(), line
        assert (movement["opening"] == movement["closing"]).all()


@pytest.mark.parametrize(
    ("line", "change"),
    [
        ("discount", {"annual_discount_rate": 0.1}),
        ("discount", {"timing": "end"}),
        ("horizon", {"horizon": 104.0}),
        ("margin", {"margin": 0.35}),
    ],
)
def test_one_changed_assumption_is_one_line(world, line, change):
    a, _ = sides(world, 10)
    changed = dict(change)
    if line == "margin":
        changed["margin"] = np.full(len(a.summary), change["margin"])
    found = bridge.build(a, replace(a, assumptions=replace(a.assumptions, **changed)))
    for movement in found.movements.values():
        assert {name for name in (*MOVEMENTS, *REVISIONS) if movement[name].any()} == {line}


def test_a_change_of_parameters_is_on_their_lines_only(world):
    a, _ = sides(world, 10)
    b = replace(a, posterior=posterior(10, 50))
    for movement in bridge.build(a, b).movements.values():
        moved = {name for name in (*MOVEMENTS, *REVISIONS) if movement[name].any()}
        assert moved == {"purchases", "spend"}


def test_another_model_is_one_line_unless_the_old_one_was_refitted(world):
    a, _ = sides(world, 10)
    b = replace(a, posterior=posterior(10, 1, "mbg_nbd"))
    movement = bridge.build(a, b).movements["closing"]
    assert {name for name in (*MOVEMENTS, *REVISIONS) if movement[name].any()} == {"model"}
    movement = bridge.build(a, b, refitted=posterior(10, 70)).movements["closing"]
    moved = {name for name in (*MOVEMENTS, *REVISIONS) if movement[name].any()}
    assert moved == {"purchases", "spend", "model"}


def test_all_silent(world):
    a, b = sides(world)
    late = replace(
        b.summary,
        columns=dict(b.summary.columns)
        | {name: np.zeros(len(b.summary)) for name in ("frequency", "recency")}
        | {"monetary_value": np.full(len(b.summary), np.nan)},
    )
    place = np.searchsorted(late.customer.astype(str), a.summary.customer.astype(str))
    for name in ("frequency", "recency", "monetary_value"):
        late.columns[name][place] = a.summary[name]
    movement = bridge.build(a, replace(b, summary=late)).movements["opening"]
    assert movement["bought"][0] == 0
    assert movement["silent"][0] < 0
    assert movement.margin_existing == pytest.approx(0, abs=1e-9)


def test_realized_margin_and_new_value_are_worth_what_was_expected():
    """E[realized margin + closing value | opening] = e^(δτ) opening, by simulation: 3 standard errors."""
    population = World(20_000, 8)
    a, b = sides(population, weeks=39.0)
    delta = a.assumptions.delta
    found = bridge.build(a, b, revenue=population.revenue(0, 39, delta, delta))
    movement = found.movements["opening"]
    per_customer = found.customers.to_pandas()
    gain = per_customer["margin_realized"] + per_customer["value_closing"]
    error = gain - np.exp(39 * delta) * per_customer["value_opening"]
    se = error.std() * np.sqrt(len(error))
    assert abs(error.sum()) < 3 * se
    assert error.sum() == pytest.approx(
        movement["bought"][0] + movement["silent"][0] + movement["basket"][0]
        + movement.margin_existing - movement.margin_expected[0], rel=1e-6, abs=1e-6 * se,
    )  # fmt: skip
    result = return_on_customer(movement)
    assert abs(result.value[0] - result.hurdle) < 3 * se / movement["opening"][0]
    assert abs(result.created[0]) < 3 * se
    # The two parts by themselves are far from zero, so that the sum says something.
    assert movement["bought"][0] > 10 * se
    assert movement["silent"][0] < -10 * se


def test_chained_bridges_lead_to_the_same_closing(world):
    """And e^(δ(t2-t1)) M1 + M2 = M of the whole period."""
    delta = sides(world)[0].assumptions.delta

    def between(start: float, end: float):
        made = [
            Side(summary=s, posterior=posterior(), assumptions=make_assumptions(s))
            for s in (world.at(start), world.at(end))
        ]
        return bridge.build(*made, revenue=world.revenue(start, end, delta, delta)).movements["opening"]

    first, second, whole = between(0, 20), between(20, 39), between(0, 39)
    assert first["closing"][0] == pytest.approx(second["opening"][0], rel=1e-12)
    assert whole["closing"][0] == pytest.approx(second["closing"][0], rel=1e-12)
    money = [m.margin_existing + m.margin_acquired for m in (first, second, whole)]
    assert np.exp(19 * delta) * money[0] + money[1] == pytest.approx(money[2], rel=1e-10)


def test_finite_horizon_rolls_on(world):
    """A horizon shorter than the period: everything expected has been paid out."""
    a, b = sides(world, horizon=20.0)
    movement = bridge.build(a, b).movements["opening"]
    scale = movement["opening"][0]
    assert movement["opening"] + movement["unwinding"] + movement["release"] == pytest.approx(
        0, abs=1e-9 * scale
    )
    for line in ("bought", "silent", "basket"):
        assert movement[line] == pytest.approx(0, abs=1e-9 * scale)
    assert movement["horizon_roll"][0] > 0


# --- draws ---------------------------------------------------------------------------------------


def test_coupling_decides_the_interval_of_what_compares_and_nothing_else(world):
    a, b = sides(world, 200)
    loose, tight = (bridge.build(a, b, coupling=how, seed=2) for how in ("independent", "comonotone"))
    assert (loose.coupling, tight.coupling) == ("independent", "comonotone")
    for basis in BASES:
        one, other = loose.movements[basis], tight.movements[basis]
        assert other["purchases"].std() < 0.7 * one["purchases"].std()
        for line in ORDER[basis]:
            if line not in ("purchases", "spend"):
                # Reordering draws changes no mean, but for the last digits of the sum.
                assert one[line].mean() == pytest.approx(other[line].mean(), rel=1e-9, abs=1e-9), line
        # Old spend meets new purchases between the two lines: their sum knows nothing of it.
        total = [(m["purchases"] + m["spend"]).mean() for m in (one, other)]
        assert total[0] == pytest.approx(total[1], rel=1e-9)
    again = bridge.build(a, b, seed=2)
    assert (again.movements["closing"].lines == loose.movements["closing"].lines).all()


def test_threads_change_nothing(world):
    a, b = sides(world, 10)
    one, two = (bridge.build(a, b, threads=n).movements["closing"].lines for n in (1, 2))
    assert (one == two).all()


# --- return on customer --------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["existing", "with_acquired"])
@pytest.mark.parametrize("revised", [True, False])
def test_return_is_the_sum_of_its_parts(eventful, scope, revised):
    for movement in eventful[2].movements.values():
        result = return_on_customer(movement, scope, revised=revised, acquisition_cost=100.0)
        np.testing.assert_allclose(sum(result.parts.values()), result.value, rtol=1e-10, atol=1e-12)
        start = movement["opening"] if revised else movement.start
        np.testing.assert_allclose(
            result.created, (result.value - result.hurdle) * start, rtol=1e-9, atol=1e-9
        )
        if revised:
            cash = movement.margin_existing
            closing = movement["closing"] - movement.acquired[-1]
            if scope == "with_acquired":
                cash += movement.margin_acquired - 100
                closing = movement["closing"]
            np.testing.assert_allclose(result.value, (cash + closing - start) / start, rtol=1e-9)


def test_without_a_surprise_the_return_is_the_hurdle(cdnow_sides):
    """What is left when every line but the unwinding is taken away; 39 of 52 weeks at 15 %: 11.05 %."""
    movement = bridge.build(*cdnow_sides).movements["opening"]
    result = return_on_customer(movement)
    assert result.hurdle == pytest.approx(1.15 ** (39 / 52) - 1, rel=1e-12)
    assert result.parts["unwinding"][0] == pytest.approx(result.hurdle, rel=1e-12)
    assert result.value[0] == pytest.approx(0.55, abs=0.005)
    assert result.chance is None


def test_an_opening_that_is_not_above_zero_has_no_return(world):
    a, b = sides(world, 10, margin=-0.1)
    found = bridge.build(a, b)
    for movement in found.movements.values():
        result = return_on_customer(movement)
        assert not result.defined
        assert np.isnan(result.value).all()
        assert np.isfinite(result.created).all()
    table = _table(found)
    assert table["bases"]["closing"]["returns"]["existing"]["published"]["value"]["mean"] is None
    assert "not defined" in table["sentences"][2]
    assert "NaN" not in json.dumps(table)
    assert "not defined" in reporting.html(table, {"closing": "", "opening": ""})


# --- bad input -----------------------------------------------------------------------------------


def test_two_dates_that_cannot_be_bridged(world):
    a, b = sides(world, 10)
    with pytest.raises(InputError, match=r"lead back from 1998-06-30 to 1997-09-30.*earlier date first"):
        bridge.build(b, a)
    other = np.array([f"x{i}" for i in range(len(b.summary))], dtype=object)
    with pytest.raises(InputError, match=r"none of the .* customers .* by their id"):
        bridge.build(a, replace(b, summary=replace(b.summary, customer=other)))
    with pytest.raises(InputError, match="10 posterior draws and the closing 12"):
        bridge.build(a, replace(b, posterior=posterior(12, 1)))
    with pytest.raises(InputError, match="currency USD and the closing EUR"):
        bridge.build(a, replace(b, summary=replace(b.summary, currency="EUR")))


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Path:
    """A log of 90 customers, a third of them new in the last months, with fixed parameters."""
    rng = np.random.default_rng(5)
    rows = ["customer_id,date,amount,country"]
    for customer, start in enumerate(rng.integers(0, 200, 90)):
        for day, amount in zip(
            np.r_[0, rng.integers(1, 150, rng.poisson(2))], rng.gamma(4, 10, 20), strict=False
        ):
            date = np.datetime64("2024-01-01") + int(start + day)
            rows.append(f"c{customer},{date},{amount:.2f},{'FR' if customer % 3 else 'DE'}")
    (tmp_path / "shop.csv").write_text("\n".join(rows) + "\n")
    config = {
        "name": "shop",
        "data": {
            "source": "shop.csv",
            "columns": {"customer": "customer_id", "date": "date", "amount": "amount"},
            "segments": ["country"],
        },
        "models": {
            "purchases": {"family": "bg_nbd", "fixed": THETA},
            "spend": {"family": "gamma_gamma", "fixed": SPEND},
        },
        "value": {"margin": 0.3, "annual_discount_rate": 0.15},
    }
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls the command line in this process; returns (exit status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clvmodels", "bridge", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *capsys.readouterr())

    return call


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--from", "2024-06-30", "--to", "2024-03-31"), "--from is the earlier date"),
        (("--from", "2024-06-30", "--to", "2024-06-30"), "--from is the earlier date"),
        (("--from", "2020-06-30", "--to", "2024-06-30"), "before the first date in the data"),
        (("--from", "2024-03-31", "--to", "2026-01-01"), "after the last date in the data"),
        (("--from", "March", "--to", "2024-06-30"), "--from March: a day is written 1997-09-30"),
        (
            ("--from", "2024-03-31", "--to", "2024-06-30", "--change", "data.currency=EUR"),
            "only keys under value, models and fit",
        ),
        (("--from", "2024-03-31", "--to", "2024-06-30", "--coupling", "best"), "independent or comonotone"),
        (("--from", "2024-03-31", "--to", "2024-06-30", "--set", "value.margin=30"), "30 % is 0.3"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(shop, command, arguments, expected):
    before = sorted(shop.rglob("*"))
    status, out, err = command("shop.yaml", *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert sorted(shop.rglob("*")) == before


# --- files ---------------------------------------------------------------------------------------


def _table(found: bridge.Bridge) -> dict:
    side = {"date": "1997-09-30", "customers": 1, "fingerprint": "", "assumptions": {"Margin": "0.3"}}
    return reporting.build(found, name="test", opening=side, closing=side | {"date": "1998-06-30"})


def test_command_writes_page_numbers_and_figures_that_agree(shop, command):
    arguments = ("shop.yaml", "--from", "2024-05-31", "--to", "2024-10-31", "--out", "b")
    status, out, err = command(*arguments, "--change", "value.annual_discount_rate=0.1", "--json")
    assert status == 0, err
    document = json.loads(out)
    table = json.loads((shop / "b" / "bridge.json").read_text())
    assert document == {"path": "b", **table}
    lines = table["bases"]["closing"]["lines"]
    assert lines["new"]["mean"] > 0
    assert lines["discount"]["mean"] > 0
    assert lines["purchases"]["mean"] == 0
    assert lines["opening"]["interval_90"] is None
    assert table["level"] == "point"
    with (shop / "b" / "bridge.csv").open() as file:
        written = {
            (row["basis"], row["line"]): float(row["value"])
            for row in csv.DictReader(file)
            if row["statistic"] == "mean" and not row["column"] and row["value"]
        }
    for basis in BASES:
        for line, block in table["bases"][basis]["lines"].items():
            assert written[basis, line] == block["mean"]
    page = (shop / "b" / "bridge.html").read_text()
    shown = dict(re.findall(r'<span data-key="([^"]+)">([^<]*)</span>', page))
    assert "bases.closing.lines.closing.mean" in shown
    for key, text in shown.items():
        number = text.replace(",", "").replace("\u2212", "-").replace("\u00a0%", "")
        assert re.fullmatch(r"-?[\d.]+(e-?\d+)?|–", number), (key, text)
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", page)
    customers = pq.read_table(shop / "b" / "customers.parquet")
    assert customers.num_rows == sum(block["value"] for block in table["customers"].values())
    assert (shop / "b" / "figures" / "bridge_closing.png").stat().st_size > 10_000
    alerts = list(csv.DictReader((shop / "b" / "alerts.csv").read_text().splitlines()))
    assert len(alerts) == table["alerts"]["customers"]["value"]
    surprises = [float(row["surprise"]) for row in alerts]
    assert surprises == sorted(surprises)
    assert all(value < -table["alerts"]["shortfall"]["value"] for value in surprises)
    status, _, err = command(*arguments)
    assert status == 2
    assert "--overwrite" in err


def test_same_inputs_same_numbers_and_a_notebook_sees_them(shop):
    one, two = (
        run.bridge("shop.yaml", "2024-05-31", dt.date(2024, 10, 31), basis="opening") for _ in range(2)
    )
    assert json.dumps(one.summary) == json.dumps(two.summary)
    assert one.summary["accumulation"] == "by day"
    assert list(one.lines().index) == list(ORDER["opening"])
    assert one.lines("closing").loc["closing", "mean"] == one.lines().loc["closing", "mean"]
    assert "Closing" in repr(one)
    assert one.customers["change_per_year"].notna().all()
    from matplotlib.figure import Figure

    assert isinstance(one.plot(), Figure)


def test_margin_by_segment_may_change_between_dates(shop):
    change = "value.margin={by: country, values: {FR: 0.4, DE: 0.2}}"
    found = run.bridge("shop.yaml", "2024-05-31", "2024-10-31", changes=[change])
    movement = found.bridge.movements["opening"]
    labels, values = movement.segments["country"]
    by_segment = dict(zip(labels, values[LINES.index("margin"), :, 0], strict=True))
    assert by_segment["FR"] > 0 > by_segment["DE"]
    before = movement["closing"] - movement["margin"]
    shares = {label: values[LINES.index("closing"), g, 0] for g, label in enumerate(labels)}
    # 30 % became 40 % and 20 %: before the change the segments were 3/4 and 3/2 of what they are.
    assert before[0] == pytest.approx(0.75 * shares["FR"] + 1.5 * shares["DE"], rel=1e-12)
