"""The bridge between two dates and the return on it: worked example, identities, files, bad input."""

from __future__ import annotations

import csv
import datetime as dt
import functools
import itertools
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from builders import make_assumptions, make_posterior, make_summary, undocumented

from clvmodels import cli, equity, run
from clvmodels.config import DataConfig
from clvmodels.data import summarise
from clvmodels.data.realized import realized
from clvmodels.equity import bridge, newcomers
from clvmodels.equity.bridge import (
    ASSUMPTIONS,
    BASES,
    LINES,
    MOVEMENTS,
    ORDER,
    REVISIONS,
    FutureEquity,
    Side,
    return_on_customer,
)
from clvmodels.equity.shapley import contributions
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.report import bridge as reporting
from clvmodels.report import page as run_page
from clvmodels.value import Flow, Valuation

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
        cost_alive=0.03, cost_addressed=0.02, cost_window=50.0,
        closing={"horizon": 156.0, "timing": "mid", "annual_discount_rate": 0.1, "margin": 0.33,
                 "cost_alive": 0.02, "cost_window": 70.0},
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
        ("cost", {"cost_alive": 0.1}),
        ("cost", {"cost_addressed": 0.05, "cost_window": 52.0}),
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


def test_time_alive_of_every_family_is_that_of_its_valuation(world):
    """Survival in closed form, and where a family tells of last purchases only."""
    for family in ("pareto_nbd", "mbg_nbd"):
        draws = [0.55, 10.6, 0.6, 11.7] if family == "pareto_nbd" else list(THETA.values())
        given = make_posterior((family, draws), ("gamma_gamma", list(SPEND.values())))
        pair = [replace(side, posterior=given) for side in sides(world, cost_alive=0.05)]
        movement = bridge.build(*pair).movements["closing"]
        for side, line in zip(pair, ("opening", "closing"), strict=True):
            whole = equity.build(Valuation(side.summary, given, side.assumptions, 1)).total("point")
            np.testing.assert_allclose(movement[line], whole, rtol=1e-10)
        assert abs(movement.residual[0]) < 1e-9 * movement["closing"][0]


def test_a_contact_window_that_moves_on_is_part_of_the_horizon_roll(world):
    """Addressed for 30 of 39 weeks and then for 30 more: paid in between, and begun anew."""
    a, b = sides(world, cost_addressed=0.1, cost_window=30.0)
    delta = a.assumptions.delta
    movement, free = (
        bridge.build(*pair).movements["opening"]
        for pair in ((a, b), sides(world))
    )  # fmt: skip
    window = 0.1 * -np.expm1(-30 * delta) / delta
    assert movement.cost_existing[0] == pytest.approx(len(a.summary) * window * np.exp(39 * delta), rel=1e-12)
    assert movement["horizon_roll"][0] == pytest.approx(-len(a.summary) * window, rel=1e-12)
    assert movement["opening"][0] == pytest.approx(free["opening"][0] - len(a.summary) * window, rel=1e-12)
    for line in ("bought", "silent", "basket"):
        assert movement[line][0] == pytest.approx(free[line][0], rel=1e-9)
    assert movement.margin_expected[0] == pytest.approx(free.margin_expected[0], rel=1e-12)


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
    a, b = sides(population, weeks=39.0, cost_alive=0.1)
    delta = a.assumptions.delta
    found = bridge.build(a, b, revenue=population.revenue(0, 39, delta, delta))
    movement = found.movements["opening"]
    per_customer = found.customers.to_pandas()
    gain = per_customer["margin_realized"] + per_customer["value_closing"]
    gain -= movement.cost_existing[0] / len(gain)
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
    assert movement.cost_existing[0] > 5 * se


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


# --- changed assumptions, averaged over their orders ---------------------------------------------


def by_brute_force(changes, value):
    """The definition: what each adds when its turn comes, averaged over all orders."""
    out = dict.fromkeys(changes, 0.0)
    orders = list(itertools.permutations(changes))
    for order in orders:
        for k, change in enumerate(order):
            gain = value(frozenset(order[: k + 1])) - value(frozenset(order[:k]))
            out[change] = out[change] + gain / len(orders)
    return out


@pytest.mark.parametrize("changes", ["a", "ab", "abc", "abcd"])
def test_contributions_are_the_average_over_all_orders(changes):
    rng = np.random.default_rng(len(changes))
    table: dict[frozenset[str], np.ndarray] = {}

    def value(some):
        return table.setdefault(some, rng.standard_normal(5))

    expected = by_brute_force(changes, value)
    found = contributions(changes, value)
    for change in changes:
        np.testing.assert_allclose(found[change], expected[change], rtol=1e-12, atol=1e-14)
    total = value(frozenset(changes)) - value(frozenset())
    np.testing.assert_allclose(sum(found.values()), total, rtol=1e-12, atol=1e-14)


def test_changes_that_do_the_same_get_the_same():
    def value(some):
        return np.array([10.0 * (len(some & {"a", "b"}) ** 2) + 3.0 * ("c" in some)])

    found = contributions("abc", value)
    assert found["a"] == pytest.approx(found["b"], rel=1e-14)
    assert found["c"] == pytest.approx(3.0, rel=1e-14)
    with pytest.raises(ValueError, match="120 orders; at most 4"):
        contributions("abcde", value)


CHANGES = {"margin": 0.36, "cost_alive": 0.05, "annual_discount_rate": 0.08, "horizon": 156.0}


@pytest.fixture(scope="module")
def reassumed(world):
    """The same customers and draws at one date; margin, cost, discount rate and horizon differ."""
    a, b = sides(world, 20, weeks=0.0, closing=CHANGES, margin=0.3, horizon=104.0, cost_alive=0.02)
    return a, replace(b, posterior=a.posterior)


def test_shapley_lines_are_the_average_of_valuations_in_every_order(reassumed):
    """Witness: the sixteen valuations, each made by the value step on its own."""
    a, b = reassumed
    names = dict(zip(ASSUMPTIONS, CHANGES, strict=True))

    def value(some):
        changed = {names[change]: getattr(b.assumptions, names[change]) for change in some}
        assumed = replace(a.assumptions, **changed)
        return equity.build(Valuation(a.summary, a.posterior, assumed, 1)).total("expected")

    found = bridge.build(a, b, attribution="shapley")
    expected = by_brute_force(ASSUMPTIONS, functools.cache(value))
    for movement in found.movements.values():
        for line in ASSUMPTIONS:
            np.testing.assert_allclose(movement[line], expected[line], rtol=1e-9)
        assert (np.abs(movement.residual) < 1e-9 * movement["closing"]).all()
    back = bridge.build(b, a, attribution="shapley").movements["closing"]
    for line in ASSUMPTIONS:
        np.testing.assert_allclose(back[line], -expected[line], rtol=1e-9)
    # Order matters, so that the average says something.
    forth = bridge.build(a, b).movements["closing"]
    assert (np.abs(forth["margin"] / expected["margin"] - 1) > 0.05).all()


@pytest.mark.parametrize("change", CHANGES)
def test_one_changed_assumption_is_the_same_in_any_order(reassumed, change):
    a, b = reassumed
    changed = replace(a.assumptions, **{change: getattr(b.assumptions, change)})
    pair = a, replace(a, assumptions=changed)
    one, other = (bridge.build(*pair, attribution=how) for how in ("sequential", "shapley"))
    for basis in BASES:
        assert (one.movements[basis].lines == other.movements[basis].lines).all()


def test_shapley_changes_the_lines_of_assumptions_only(eventful):
    a, b, one = eventful
    other = bridge.build(a, b, refitted=posterior(40, 21), seed=5, attribution="shapley")
    for basis in BASES:
        x, y = one.movements[basis], other.movements[basis]
        assert (np.abs(y.residual) < 1e-9 * y["closing"]).all()
        for line in LINES:
            if line not in ASSUMPTIONS:
                np.testing.assert_allclose(x[line], y[line], rtol=1e-12, atol=1e-9, err_msg=line)
        assert (np.abs(x["margin"] - y["margin"]) > 1e-3 * np.abs(x["margin"])).all()


# --- customers acquired between the dates --------------------------------------------------------


def test_value_at_acquisition_is_the_published_one():
    """BG/NBD just acquired at δ = 0.0027: DET 3.64781 (by quadrature, five digits after the point)."""
    families = registry.purchases("bg_nbd"), registry.spend("gamma_gamma")
    draws = np.array([list(THETA.values())]), np.array([list(SPEND.values())])
    given = families, draws, Flow(delta=0.0027), np.array([10.0]), np.array([0.5]), np.array([20.0])
    found, cost = newcomers.since_acquired(*given)
    assert not cost.any()
    basket = SPEND["p"] * SPEND["gamma"] / (SPEND["q"] - 1)
    assert found["acquired"][0] / (0.5 * basket) == pytest.approx(3.64781, abs=5e-6)
    assert found["unwinding"][0] == pytest.approx(found["acquired"][0] * np.expm1(0.027), rel=1e-12)
    # λ and p have a mean of r/α and a/(a+b): few purchases fall into ten weeks, at most λ 10.
    assert 0 < -found["release"][0] / (0.5 * basket) < THETA["r"] / THETA["alpha"] * 10 * np.exp(0.027)
    assert sum(line[0] for line in found.values()) == pytest.approx(20.0, rel=1e-12)


def test_new_customers_in_parts_add_up(eventful, world):
    a, b = sides(world, 20)
    plain = bridge.build(a, b)
    for found, names in ((eventful[2], (*newcomers.LINES, "periods")), (plain, newcomers.LINES)):
        for movement in found.movements.values():
            assert tuple(movement.newcomers) == names
            np.testing.assert_allclose(sum(movement.newcomers.values()), movement["new"], rtol=1e-12)
    assert bridge.build(a, a).movements["closing"].newcomers == {}


@pytest.mark.parametrize("horizon", [np.inf, 60.0])
def test_experience_with_new_customers_has_mean_zero(horizon):
    """E[repeat margin and value at the closing | acquired] = e^(δT) A, by simulation: 3 standard errors."""
    population = World(5_000, 31, (-1.0, 10.0))
    costs = {"cost_alive": 0.1, "cost_addressed": 0.01, "cost_window": 20.0}
    a, b = sides(population, weeks=39.0, horizon=horizon, **costs)
    delta = a.assumptions.delta
    paid = population.revenue(0, 39, delta, delta)
    found = bridge.build(a, b, revenue=paid)
    movement = found.movements["opening"]
    fresh = population.born > 0
    first = 0.3 * population.first[fresh] * np.exp(delta * (39 - population.born[fresh]))
    repeat = 0.3 * paid[fresh, 0] - first
    value = found.customers.to_pandas().query("kind == 'new'")["value_closing"].to_numpy()
    se = (repeat + value).std() * np.sqrt(fresh.sum())
    parts = {name: line[0] for name, line in movement.newcomers.items()}
    cost = movement.cost_acquired[0]
    surprise = parts["experience"] + repeat.sum() - cost + parts["release"]
    assert abs(surprise) < 3 * se
    # The margin and the cost that were expected are far from zero, so that the sum says something.
    assert parts["release"] < -5 * se
    assert cost > 2 * se
    # Addressed for 20 weeks from the first purchase on, and there for at most all of the time since.
    age = 39 - population.born[fresh]
    grown = np.exp(delta * age)
    addressed = 0.01 * (grown * -np.expm1(-delta * np.minimum(age, 20.0)) / delta).sum()
    assert addressed < cost < addressed + 0.1 * ((grown - 1) / delta).sum()


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
            cash = movement.margin_existing - movement.cost_existing
            closing = movement["closing"] - movement.acquired[-1]
            if scope == "with_acquired":
                cash = cash + movement.margin_acquired - movement.cost_acquired - 100
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


def test_a_horizon_that_moves_on_is_no_achievement(world):
    """Nobody bought and nobody was expected to: what is left is the hurdle, whatever the horizon."""
    a, b = sides(world, horizon=104.0)
    movement = bridge.build(a, b).movements["opening"]
    kept = ("opening", "unwinding", "release", "horizon_roll", "closing")
    lines = np.where(np.isin(LINES, kept)[:, None], movement.lines, 0.0)
    calm = replace(
        movement, lines=lines, acquired=np.zeros_like(lines),
        margin_existing=float(-movement["release"][0]) + float(movement.cost_existing[0]),
    )  # fmt: skip
    achieved, published = (return_on_customer(calm, revised=what) for what in (False, True))
    assert achieved.value[0] == pytest.approx(movement.hurdle, rel=1e-12)
    assert published.value[0] > movement.hurdle + 0.05


def test_return_in_total_without_a_surprise_is_the_hurdle(eventful):
    """Planned acquisition that happens as planned is unwinding, not new value."""
    movement = eventful[2].movements["opening"]
    rng = np.random.default_rng(9)
    draws = movement.lines.shape[1]
    opening, due = rng.gamma(50, 20, draws), rng.gamma(50, 2, draws)
    new, cost = rng.gamma(50, 4, draws), 40.0
    lines = np.zeros_like(movement.lines)
    start = movement["opening"]
    for name, line in (
        ("opening", start), ("unwinding", movement.hurdle * start), ("release", -due), ("new", new),
        ("closing", (1 + movement.hurdle) * start - due + new),
    ):  # fmt: skip
        lines[LINES.index(name)] = line
    calm = replace(
        movement, lines=lines, acquired=np.zeros_like(lines), margin_acquired=150.0,
        cost_existing=np.zeros(draws), cost_acquired=np.zeros(draws),
    )  # fmt: skip
    calm.acquired[LINES.index("new")] = calm.acquired[-1] = new
    # Realized margin is one number: give each draw the one it expected.
    planned = rng.gamma(50, 30, draws)
    release = new + 150.0 - cost
    closing = (1 + movement.hurdle) * planned - release
    for k in range(draws):
        one = replace(
            calm,
            lines=lines[:, [k]],
            acquired=calm.acquired[:, [k]],
            margin_existing=float(due[k]),
            cost_existing=np.zeros(1),
            cost_acquired=np.zeros(1),
        )
        future = FutureEquity(
            opening=planned[[k]], closing=closing[[k]], release=release[[k]], roll=np.zeros(1),
            due=np.ones(1), growth=1 + movement.hurdle,
        )  # fmt: skip
        result = return_on_customer(one, "total", acquisition_cost=cost, future=future)
        assert result.value[0] == pytest.approx(movement.hurdle, rel=1e-12)
        assert result.created[0] == pytest.approx(0, abs=1e-9 * start[k])
        # With acquired customers but without what was planned, the same looks like new value.
        assert return_on_customer(one, "with_acquired", acquisition_cost=cost).value[0] > movement.hurdle
    zero = np.zeros(draws)
    better = FutureEquity(
        opening=planned, closing=closing + opening, release=release, roll=zero, due=zero,
        growth=1 + movement.hurdle,
    )  # fmt: skip
    result = return_on_customer(calm, "total", acquisition_cost=cost, future=better)
    np.testing.assert_allclose(sum(result.parts.values()), result.value, rtol=1e-10)
    np.testing.assert_allclose(result.parts["future_revision"], opening / (start + planned), rtol=1e-9)
    achieved = return_on_customer(calm, "total", revised=False, acquisition_cost=cost, future=better)
    assert "future_revision" not in achieved.parts
    with pytest.raises(ValueError, match="needs the equity of future"):
        return_on_customer(calm, "total")


def test_return_in_total_is_on_the_page_where_future_customers_are_valued(eventful):
    found = eventful[2]
    draws = len(found.movements["opening"]["opening"])
    future = FutureEquity(*(np.full(draws, value) for value in (500.0, 450.0, 100.0, 30.0, 7.0)), growth=1.1)
    table = _table(found, future=future)
    block = table["bases"]["closing"]["returns"]["total"]["published"]
    assert set(block["parts"]) >= {"future_unwinding", "future_release", "future_roll", "future_revision"}
    assert [block["mean"] for block in table["future"]["lines"].values()] == pytest.approx(
        [500, 50, -100, 30, -30, 450]
    )
    years = table["elapsed"]["value"]
    mean = return_on_customer(found.movements["closing"], "total", future=future).value
    assert block["yearly"]["mean"] == pytest.approx(((1 + mean) ** (1 / years) - 1).mean(), rel=1e-9)
    page = reporting.html(table, {"closing": "", "opening": ""})
    assert "with acquired and future customers" in page
    assert "annualised" in page
    assert "of which at acquisition" in page
    assert "customers still to be won" in page
    alone = _table(found)
    assert "total" not in alone["bases"]["closing"]["returns"]
    assert alone["future"] is None
    assert undocumented(table, "bridge.md", "`bridge.json`") == ([], [])


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
    kept = replace(b.assumptions, cost_alive=0.1, annual_discount_rate=0.0)
    with pytest.raises(InputError, match="while_alive is paid for ever"):
        bridge.build(a, replace(b, assumptions=kept))
    with pytest.raises(InputError, match="currency USD and the closing EUR"):
        bridge.build(a, replace(b, summary=replace(b.summary, currency="EUR")))


def open_shop(folder: Path) -> None:
    """A log of 90 customers, a third of them new in the last months, with fixed parameters."""
    rng = np.random.default_rng(5)
    rows = ["customer_id,date,amount,country"]
    for customer, start in enumerate(rng.integers(0, 200, 90)):
        for day, amount in zip(
            np.r_[0, rng.integers(1, 150, rng.poisson(2))], rng.gamma(4, 10, 20), strict=False
        ):
            date = np.datetime64("2024-01-01") + int(start + day)
            rows.append(f"c{customer},{date},{amount:.2f},{'FR' if customer % 3 else 'DE'}")
    (folder / "shop.csv").write_text("\n".join(rows) + "\n")
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
    (folder / "shop.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Path:
    open_shop(tmp_path)
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


def _table(found: bridge.Bridge, **more) -> dict:
    side = {"date": "1997-09-30", "customers": 1, "fingerprint": "", "assumptions": {"Margin": "0.3"}}
    return reporting.build(found, name="test", opening=side, closing=side | {"date": "1998-06-30"}, **more)


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


PLAN = {"forecast": "plan", "plan": 12, "horizon": "2 years", "cac": 3.0}


def test_future_customers_of_both_dates_give_the_return_in_total(shop):
    config = yaml.safe_load((shop / "shop.yaml").read_text()) | {"future": PLAN}
    (shop / "shop.yaml").write_text(yaml.safe_dump(config))
    days = ("2024-03-31", "2024-05-31")
    found = run.bridge("shop.yaml", *days)
    lines = {name: block["mean"] for name, block in found.summary["future"]["lines"].items()}
    for name, day in zip(("opening", "closing"), days, strict=True):
        alone = run.fit("shop.yaml", overrides=[f"data.observation_end={day}"])
        assert lines[name] == pytest.approx(alone.summary["future"]["net"]["point"]["mean"], rel=1e-9)
    moved = lines["unwinding"] + lines["release"] + lines["roll"] + lines["revision"]
    assert lines["opening"] + moved == pytest.approx(lines["closing"], rel=1e-9)
    # One plan and one set of parameters: all that is new is the end of the plan, which moved on.
    assert lines["revision"] == pytest.approx(0, abs=1e-3 * lines["opening"])
    assert found.summary["future"]["due"]["mean"] == pytest.approx(12 * 61 / (365.2425 / 12), rel=1e-9)
    won = found.summary["customers"]["new"]["value"]
    assert found.summary["acquisition_cost"]["value"] == pytest.approx(3.0 * won)
    assert "was not given" in found.summary["notes"][0]
    total = found.summary["bases"]["opening"]["returns"]["total"]["published"]
    opening = found.summary["bases"]["opening"]["lines"]["opening"]["mean"] + lines["opening"]
    closing = found.summary["bases"]["opening"]["lines"]["closing"]["mean"] + lines["closing"]
    margin = found.summary["bases"]["opening"]["margin"]
    cash = margin["existing"]["value"] + margin["acquired"]["value"] - 3.0 * won
    assert total["value"]["mean"] == pytest.approx((cash + closing - opening) / opening, rel=1e-8)
    told = run.bridge("shop.yaml", *days, acquisition_cost=50.0)
    assert told.summary["acquisition_cost"]["value"] == 50.0
    assert told.summary["notes"] == []


def test_future_customers_at_one_date_only_are_named(shop):
    alone = run.bridge("shop.yaml", "2024-03-31", "2024-05-31")
    assert alone.summary["future"] is None
    config = yaml.safe_load((shop / "shop.yaml").read_text())
    runs = [
        run.fit(config | more | {"data": config["data"] | {"observation_end": day}})
        for day, more in (("2024-03-31", {}), ("2024-05-31", {"future": PLAN}))
    ]
    found = run.bridge_runs(*runs)
    assert found.summary["future"] is None
    assert "Only the closing values customers still to be won" in found.summary["notes"][-1]


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


def test_cost_of_keeping_may_change_between_dates(shop):
    days = ("2024-05-31", "2024-10-31")
    change = "value.cost.while_alive=6 per year"
    config = yaml.safe_load((shop / "shop.yaml").read_text())
    config["value"]["cost"] = {"while_alive": "3 per year", "addressed": "1 per year", "window": "1 year"}
    (shop / "shop.yaml").write_text(yaml.safe_dump(config))
    found = run.bridge("shop.yaml", *days, changes=[change])
    block = found.summary["bases"]["closing"]
    assert block["lines"]["cost"]["mean"] < 0
    assert block["margin"]["cost_existing"]["mean"] > 0
    text = found.summary["closing"]["assumptions"]["Cost of keeping"]
    assert text == "6 per year while the customer is there and 1 per year for every customer addressed, " \
        "there or not, for 1 year"  # fmt: skip
    assert "keeping them was expected to cost" in " ".join(found.summary["sentences"])
    later = run.fit(config | {"data": config["data"] | {"observation_end": "2024-10-31"},
                              "value": config["value"] | {"cost": config["value"]["cost"] | {
                                  "while_alive": "6 per year"}}})  # fmt: skip
    assert block["lines"]["closing"]["mean"] == pytest.approx(later.equity.total("point")[0], rel=1e-9)


def test_margin_may_come_from_another_column(shop):
    import pandas as pd

    log = pd.read_csv("shop.csv").assign(before=0.3, after=0.4)
    document = yaml.safe_load(Path("shop.yaml").read_text())
    del document["data"]["source"]
    document["value"]["margin"] = {"column": "before"}
    change = "value.margin={column: after}"
    found = run.bridge(document, "2024-05-31", "2024-10-31", log, changes=[change])
    movement = found.bridge.movements["opening"]
    # A customer who was acquired since has the margin of the closing only.
    existing = movement["closing"] - movement.acquired[-1]
    assert movement["margin"][0] == pytest.approx(0.25 * existing[0], rel=1e-12)


# --- between two finished runs -------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[Path, dict]:
    """Two runs of the shop, months apart, in the folders a and b; and the bridge of its config."""
    place = tmp_path_factory.mktemp("fitted")
    open_shop(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clvmodels.report.files._draw", lambda *_: None)  # figures take the most time
        for folder, day in (("a", "2024-05-31"), ("b", "2024-10-31")):
            window = [f"data.observation_end={day}", f"name={folder}"]
            run.fit(place / "shop.yaml", overrides=window, out=place / folder)
    return place, run.bridge(place / "shop.yaml", "2024-05-31", "2024-10-31").summary


@pytest.fixture
def runs(fitted, tmp_path, monkeypatch) -> Path:
    shutil.copytree(fitted[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clvmodels.fit.fit", None)  # nothing may be fitted
    return tmp_path


def test_two_runs_give_the_lines_of_one_config_with_two_dates(fitted, command, runs):
    status, out, err = command("a", "b", "--json")
    assert status == 0, err
    document = json.loads(out)
    assert document["path"] == "runs/a-to-b"
    assert (runs / "runs" / "a-to-b" / "bridge.html").exists()
    assert document["accumulation"] == "by day"
    assert document["notes"] == []
    assert document["bases"] == fitted[1]["bases"]
    assert document["bases"]["closing"]["residual"]["value"] < 1e-9


def test_page_one_of_a_run_tells_of_the_change_since_an_earlier_one(fitted, monkeypatch):
    """The numbers of the bridge between the two runs, beside the equity they lead to."""
    place, between = fitted
    window = ["data.observation_end=2024-10-31", "name=b"]
    found = run.fit(place / "shop.yaml", overrides=[*window, "report.since=a"])
    table, block = found.summary, between["bases"]["closing"]
    assert table["since"]["date"] == "2024-05-31"
    assert table["since"]["lines"] == block["lines"]
    assert table["since"]["returns"] == block["returns"]
    assert table["since"]["change"]["mean"] == pytest.approx(
        block["lines"]["closing"]["mean"] - block["lines"]["opening"]["mean"],
        abs=1e-9 * block["lines"]["closing"]["mean"],  # numbers have ten digits
    )
    assert table["equity"]["existing"]["point"]["mean"] == block["lines"]["closing"]["mean"]
    assert "Since 31\u00a0May\u00a02024 equity has changed by" in table["sentences"][1]
    page = run_page.html(table, {}).partition("How far to trust this")[0]
    assert "Since 31\u00a0May\u00a02024, at level point" in page
    assert "Excess of the return over the hurdle" in page
    monkeypatch.setattr("clvmodels.fit.fit", None)  # what cannot be compared is known before a fit
    for changed, said in (
        ("report.since=c", "is not the folder of a run"),
        ("report.since=b", "at 2024-10-31, and this one is at 2024-10-31: name an earlier run"),
        ("data.currency=EUR", "has currency USD and this one EUR"),
        ("data.time_unit=day", "has time_unit week and this one day"),
    ):
        with pytest.raises(InputError, match=r"report\.since") as caught:
            run.fit(place / "shop.yaml", overrides=[*window, "report.since=a", changed])
        assert said in str(caught.value)


def test_without_the_log_what_was_paid_comes_from_the_runs(runs):
    exact = run.bridge_runs("a", "b").summary["bases"]["closing"]
    log = (runs / "shop.csv").read_text()
    for text, reason in ((None, "there is no file"), (log.replace("c5,", "c6,"), "no longer says")):
        (runs / "shop.csv").unlink() if text is None else (runs / "shop.csv").write_text(text)
        found = run.bridge_runs("a", "b")
        assert found.summary["accumulation"] == "uniform"
        (note,) = found.summary["notes"]
        assert "as if it had come evenly" in note
        assert reason in note
        even = found.summary["bases"]["closing"]
        assert even["lines"] == exact["lines"]
        page = reporting.html(found.summary, {"closing": "", "opening": ""})
        assert page.count("as if it had come evenly") == 1
        # 15 % a year over five months moves a payment by 6 % at most, and by half of it on average.
        assert even["margin"]["existing"]["value"] == pytest.approx(
            exact["margin"]["existing"]["value"], rel=0.03
        )


def test_another_model_of_the_later_run_is_one_line(runs):
    loaded = run.load("b")
    families = make_posterior(("mbg_nbd", list(THETA.values())), ("gamma_gamma", list(SPEND.values())))
    config = run.bridging.load_config("b/config.yaml", (), None)
    other = replace(loaded, draws=families, config=config)
    found = run.bridge_runs("a", other)
    moved = {line for line in REVISIONS if found.bridge.movements["closing"][line].any()}
    assert moved == {"model"}
    assert "Another model" in found.summary["notes"][0]
    assert "learned since" in repr(found.summary["notes"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("b", "a"), "b is a valuation at 2024-10-31 and a at 2024-05-31: give the earlier run first"),
        (("a", "a"), "give the earlier run first"),
        (("a",), "a: a bridge of one config needs --from and --to"),
        (("a", "b", "a"), "3 folders"),
        (("a", "b", "--from", "2024-05-31"), "--from is for a bridge of one config"),
        (("a", "b", "--change", "value.margin=0.2"), "--change is for a bridge of one config"),
        (("a", "b", "--attribution", "best"), "attribution is 'best': choose sequential or shapley"),
        (("a", "shop.yaml"), "shop.yaml is not the folder of a run"),
        (("a", "empty"), "empty is not a complete run"),
        (("a", "days"), "the opening has time unit week and the closing day"),
        (("a", "pounds"), "the opening has currency USD and the closing GBP"),
        (("a", "periods"), "the opening has clock continuous and the closing discrete"),
    ],
)
def test_runs_that_cannot_be_bridged_are_refused_in_one_sentence(command, runs, arguments, expected):
    (runs / "empty").mkdir()
    other = {"days": {"time_unit": "day"}, "pounds": {"currency": "GBP"}, "periods": {"clock": "discrete"}}
    if arguments[-1] in other:
        # A run of its own would take seconds: change what the folder says of its customers.
        shutil.copytree("b", arguments[-1])
        changed = replace(run.load("b").data, **other[arguments[-1]])
        changed.save(runs / arguments[-1] / "summary.parquet")
    before = sorted(runs.rglob("*"))
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert sorted(runs.rglob("*")) == before
