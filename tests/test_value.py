"""Values of customers: interpolation, streaming, levels and their seeds."""

from __future__ import annotations

import itertools
import math
import threading

import numpy as np
import oracles
import pytest
from builders import make_assumptions, make_posterior, make_summary
from oracles import assert_mean_zero

from clvmodels import value
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.numerics.discounting import Flow, schedule
from clvmodels.value import Valuation, stream
from clvmodels.value.residual import residual, tabulate
from clvmodels.value.similar import similar
from clvmodels.value.threads import ordered

BG, GG = registry.purchases("bg_nbd"), registry.spend("gamma_gamma")
CDNOW = np.array([0.243, 4.414, 0.793, 2.426])
SPEND = np.array([6.25, 3.74, 15.44])
LEVELS = ("expected", "latent", "predictive")


def draws(count: int, spread: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    return (
        CDNOW * np.exp(spread * rng.standard_normal((count, 4))),
        SPEND * np.exp(spread / 3 * rng.standard_normal((count, 3))),
    )


def customers(count: int = 700, seed: int = 4):
    """A summary with many ages, heavy buyers and one row that many share."""
    case = oracles.PurchaseCase(BG, dict(zip(BG.parameter_names, CDNOW, strict=True)))
    rng = np.random.default_rng(seed)
    T = np.round(rng.uniform(2, 40, count) * 7) / 7
    T[:50] = 30.0
    columns = BG.simulate(case.theta, T, rng).statistics(T)
    columns["frequency"][:30], columns["recency"][:30] = 0, 0
    columns["frequency"][60], columns["recency"][60] = 600, T[60]
    baskets = GG.simulate(dict(zip(GG.parameter_names, SPEND, strict=True)), columns["frequency"], rng)
    columns["monetary_value"] = baskets.monetary_value
    columns["first_amount"] = rng.uniform(5, 60, count)
    return make_summary(columns, {"channel": rng.choice(["ads", "friends", "search"], count)})


@pytest.fixture(scope="module")
def summary():
    return customers()


def valuation(summary, count: int = 7, seed: int = 1, threads: int | None = None, fixed=None, **changes):
    pair = fixed if fixed is not None else draws(count)
    posterior = make_posterior(("bg_nbd", pair[0]), ("gamma_gamma", pair[1]))
    changes.setdefault("margin", np.linspace(0.2, 0.4, len(summary)))
    return Valuation(summary, posterior, make_assumptions(summary, **changes), seed, threads)


def gathered(tiles) -> dict[str, np.ndarray]:
    """Values by customer, and the sums over tiles."""
    tiles = list(tiles)
    order = np.concatenate([tile.customers for tile in tiles])
    values = np.concatenate([tile.value for tile in tiles])
    out = {"value": np.empty_like(values)}
    out["value"][order] = values
    for name in ("alive", "orders", "revenue", "bands"):
        if getattr(tiles[0], name) is not None:
            out[name] = sum(getattr(tile, name) for tile in tiles)
    out["seen"] = np.sort(order)
    return out


# ---------------------------------------------------------------- interpolation


TABLE_FLOWS = [
    Flow(delta=0.0027),
    Flow(delta=0.0, horizon=39.0),
    Flow(delta=0.0027, start=52.0, horizon=156.0),
    Flow(delta=0.0027, timing="end", period=4.345),
]


AGES = np.sort(np.random.default_rng(0).uniform(3 / 7, 520, 90))


def interpolated_and_direct(theta) -> tuple[np.ndarray, np.ndarray]:
    """R from the table and R computed at each T itself: shape (x, T, flow, draw)."""
    stats = np.array([[x, 0.0, t] for x in (0, 1, 40, 1500) for t in AGES])
    pair = np.array([theta, theta * [1.1, 2.0, 0.9, 1.1]])
    table = tabulate(BG, pair, stats, TABLE_FLOWS)
    assert len(table.values) < len(stats) / 2, "nothing was interpolated"
    assert (table.at(slice(5, 17)) == table.at(slice(0, 40))[5:17]).all()
    shape = (4, len(AGES), len(TABLE_FLOWS), 2)
    return table.at(slice(0, len(stats))).reshape(shape), residual(BG, pair, stats, TABLE_FLOWS).reshape(
        shape
    )


@pytest.mark.parametrize("theta", [CDNOW, [20.0, 4.4, 0.8, 2.4], [0.6, 0.05, 0.5, 0.6]], ids=str)
def test_table_equals_direct_evaluation(theta):
    """To 1e-10, over ages of three days to ten years."""
    table, direct = interpolated_and_direct(np.array(theta))
    np.testing.assert_allclose(table, direct, rtol=1e-10)


def test_table_of_a_sharp_function():
    """Dropout of a = 20 makes a late window rise over twenty decades with T.

    The error is then a share of the largest value, not of the smallest: 2e-9.
    """
    table, direct = interpolated_and_direct(np.array([0.243, 4.4, 20.0, 20.0]))
    assert (np.abs(table - direct) <= 2e-9 * direct.max(axis=1, keepdims=True)).all()
    np.testing.assert_allclose(table[:, :, 0], direct[:, :, 0], rtol=1e-11)


@pytest.mark.parametrize(
    ("name", "theta"),
    [
        ("bg_nbd", CDNOW),
        ("bg_nbd", [20.0, 4.4, 0.8, 2.4]),
        ("mbg_nbd", [0.5, 6.0, 0.9, 1.6]),
        ("pareto_nbd", [0.55, 10.6, 0.6, 11.6]),
        ("nbd", [0.4, 8.0]),
    ],
    ids=str,
)
def test_rates_of_one_age_serve_all_ages(name, theta):
    """R from rates at shared s / (c + T) against R computed at each age, to 1e-10; each draw has its c."""
    family = registry.purchases(name)
    stats = np.array([[x, 0.0, t] for x in (0, 1, 40, 1500) for t in AGES])
    pair = np.array([theta, np.array(theta) * [1.1, 2.0, 0.9, 1.1][: len(theta)]])
    found = similar(family, pair, stats, TABLE_FLOWS)
    np.testing.assert_allclose(found, residual(family, pair, stats, TABLE_FLOWS), rtol=1e-10)
    alone = similar(family, pair, stats[:90], TABLE_FLOWS)
    np.testing.assert_allclose(alone, found[:90], rtol=1e-10)


def test_many_draws_take_the_rates_of_one_age(monkeypatch):
    """The table of the same rows is the same to 1e-10 with rates of one age and with those of each."""
    stats = np.array([[x, 0.0, t] for x in (0, 1, 7) for t in AGES])
    some, _ = draws(60)
    tables = []
    for few in (10**9, 0):
        monkeypatch.setitem(tabulate.__globals__, "_FEW", few)
        tables.append(tabulate(BG, some, stats, TABLE_FLOWS).at(slice(0, len(stats))))
    assert (tables[0] != tables[1]).any()
    np.testing.assert_allclose(*tables, rtol=1e-10)


def test_few_ages_are_not_interpolated():
    stats = np.array([[0.0, 0.0, 10.0], [0.0, 0.0, 20.0], [3.0, 5.0, 20.0]])
    pair = CDNOW[None, :]
    table = tabulate(BG, pair, stats, TABLE_FLOWS)
    assert (table.at(slice(0, 3)) == residual(BG, pair, stats, TABLE_FLOWS)).all()


# ---------------------------------------------------------------- streaming


def brute_force(valued: Valuation) -> dict[str, np.ndarray]:
    """Customer by customer, draw by draw, with finer quadrature and plain Python sums."""
    summary, assumptions = valued.summary, valued.assumptions
    flows = [valued.flow, *valued.horizons]
    plan = schedule(flows, 1.0, refine=2)
    n, count = len(summary), len(valued.draws)
    value_, orders = np.empty((n, count)), np.zeros((count, len(flows) - 1))
    alive, revenue = np.zeros(count), np.zeros_like(orders)
    for i, d in itertools.product(range(n), range(count)):
        row = np.array([summary[name][i] for name in BG.state])
        spent = np.array([summary["frequency"][i], np.nan_to_num(summary["monetary_value"][i])])
        chance = BG.p_alive(valued.draws[d], row)
        spend = GG.expected_spend(valued.spend_draws[d], spent)
        purchases = chance * (plan.weights @ [BG.rate(valued.draws[d], row, s) for s in plan.nodes])
        value_[i, d] = assumptions.margin[i] * spend * purchases[0]
        alive[d] += chance
        orders[d] += purchases[1:]
        revenue[d] += spend * purchases[1:]
    return {"value": value_, "alive": alive, "orders": orders, "revenue": revenue}


@pytest.mark.parametrize(
    "changes", [{}, {"horizon": 100.0, "timing": "mid", "period": 4.345}], ids=["forever", "periods"]
)
def test_streaming_equals_brute_force(changes):
    small = customers(80)
    valued = valuation(small, 3, **changes)
    found, slow = gathered(valued.expected()), brute_force(valued)
    for name, reference in slow.items():
        # 1e-9 where a horizon cuts a panel of the coarser quadrature, else 1e-10.
        np.testing.assert_allclose(found[name], reference, rtol=1e-10 if name == "value" else 1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_every_customer_once(summary, level):
    found = gathered(getattr(valuation(summary), level)())
    assert (found["seen"] == np.arange(len(summary))).all()
    assert found["value"].shape == (700, 7)
    assert np.isfinite(found["value"]).all()
    assert (found["value"] >= 0).all()
    assert (found["alive"] <= 700).all()


@pytest.mark.parametrize("level", LEVELS)
def test_threads_change_no_bit(summary, level):
    one, four = (gathered(getattr(valuation(summary, threads=n), level)()) for n in (1, 4))
    for name in one:
        assert (one[name] == four[name]).all(), name


@pytest.mark.parametrize("level", LEVELS)
def test_seed_decides(summary, level):
    first, again, other = (gathered(getattr(valuation(summary, seed=s), level)()) for s in (1, 1, 2))
    for name in first:
        assert (first[name] == again[name]).all()
    assert (first["value"] == other["value"]).all() == (level == "expected")


def test_levels_have_streams_of_their_own(summary):
    latent, predictive = (gathered(getattr(valuation(summary), level)()) for level in LEVELS[1:])
    assert (latent["alive"] != predictive["alive"]).any()


def test_tiles_move_no_expected_value(summary, monkeypatch):
    """Random streams belong to tiles, so that tile size changes latent draws, and nothing expected."""
    before = {level: gathered(getattr(valuation(summary), level)()) for level in LEVELS}
    monkeypatch.setattr(stream, "TILE", 37)
    after = {level: gathered(getattr(valuation(summary), level)()) for level in LEVELS}
    for name in before["expected"]:
        np.testing.assert_allclose(after["expected"][name], before["expected"][name], rtol=1e-12)
    for level in LEVELS[1:]:
        assert (after[level]["value"] != before[level]["value"]).any()


def test_order_of_customers_moves_no_expected_value(summary):
    shuffle = np.random.default_rng(1).permutation(len(summary))
    columns = {name: column[shuffle] for name, column in summary.columns.items()}
    margin = np.linspace(0.2, 0.4, len(summary))
    plain = gathered(valuation(summary, margin=margin).expected())
    mixed = gathered(valuation(make_summary(columns), margin=margin[shuffle]).expected())
    np.testing.assert_allclose(mixed["value"], plain["value"][shuffle], rtol=1e-13)
    for name in ("alive", "orders", "revenue", "bands"):
        np.testing.assert_allclose(mixed[name], plain[name], rtol=1e-12)


def test_a_part_is_worth_what_it_is_in_the_whole(summary):
    pick = np.arange(0, 700, 5)
    part = make_summary({name: column[pick] for name, column in summary.columns.items()})
    margin = np.linspace(0.2, 0.4, len(summary))
    whole = gathered(valuation(summary, margin=margin).expected())["value"][pick]
    alone = gathered(valuation(part, margin=margin[pick]).expected())["value"]
    np.testing.assert_allclose(alone, whole, rtol=1e-10)  # other nodes, same values


def test_bands_add_up(summary):
    for changes in ({}, {"horizon": 130.0}, {"timing": "end", "period": 13.0}):
        found = gathered(valuation(summary, **changes).expected())
        # The last window is what lies beyond the observed length, not a band.
        total = found["value"].sum(axis=0)
        np.testing.assert_allclose(found["bands"][:, :-1].sum(axis=1), total, rtol=1e-9)
        assert (found["bands"][:, -1] > 0).all()
        assert (found["bands"][:, -1] < total).all()


def test_details_are_posterior_means(summary):
    valued = valuation(summary)
    tiles = list(valued.expected())
    order = np.concatenate([tile.customers for tile in tiles])
    details = {k: np.concatenate([tile.details[k] for tile in tiles]) for k in tiles[0].details}
    assert set(details) == {"p_alive", "expected_spend", "orders_39_weeks", "orders_12_months"}
    chance = value.p_alive(BG, valued.draws, valued.rows.stats[valued.rows.index])
    spend = value.expected_spend(GG, valued.spend_draws, valued.spend_stats)
    assert chance.shape == spend.shape == (7, 700)
    np.testing.assert_allclose(details["p_alive"], chance.mean(axis=0)[order], rtol=1e-13)
    np.testing.assert_allclose(details["expected_spend"], spend.mean(axis=0)[order], rtol=1e-13)
    flows = [Flow(delta=0.0, horizon=39.0)]
    stats = valued.rows.stats[valued.rows.index[:20]]
    expected = value.expected_purchases(BG, valued.draws, stats, flows)
    assert expected.shape == (7, 20, 1)
    position = np.argsort(order)[:20]
    np.testing.assert_allclose(details["orders_39_weeks"][position], expected.mean(axis=0)[:, 0], rtol=1e-9)
    assert next(iter(valued.expected(details=False))).details is None


def test_draws_meet_in_pairs(summary):
    """Draw d of the purchase model meets draw d of the spend model; one draw meets all."""
    pair = draws(3)
    joint = gathered(valuation(summary, fixed=pair).expected())["value"]
    for d in range(3):
        alone = gathered(valuation(summary, fixed=(pair[0][d], pair[1][d])).expected())["value"]
        np.testing.assert_allclose(joint[:, [d]], alone, rtol=1e-9)
    mixed = gathered(valuation(summary, fixed=(pair[0][0], pair[1])).expected())["value"]
    np.testing.assert_allclose(mixed[:, 0], joint[:, 0], rtol=1e-9)
    assert (mixed[:, 1] != joint[:, 1]).any()


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize(
    ("changes", "a"),
    [
        ({}, 0.793),
        ({"horizon": 100.0}, 0.793),
        ({"timing": "mid", "period": 4.345}, 0.793),
        ({"timing": "end", "period": 52.1775, "horizon": 130.0}, 0.793),
        ({"annual_discount_rate": 0.0, "horizon": 260.0}, 0.793),
        ({"annual_discount_rate": 0.0}, 2.6),
    ],
    ids=["forever", "finite", "mid", "years", "undiscounted", "undiscounted forever"],
)
def test_draws_average_to_the_expected_value(level, changes, a):
    """At one parameter vector: total value, customers alive, orders and revenue, within Monte Carlo error."""
    small = customers(120)
    theta = CDNOW.copy()
    theta[2] = a
    many = np.tile(theta, (1500, 1)), np.tile(SPEND, (1500, 1))
    changes = changes | {"horizons": {"long": 104.0, "short": 26.0}}
    exact = gathered(valuation(small, fixed=(theta, SPEND), **changes).expected())
    drawn = gathered(getattr(valuation(small, fixed=many, **changes), level)())
    assert_mean_zero(drawn["value"].sum(axis=0) - exact["value"].sum(), "total")
    assert_mean_zero((drawn["value"] - exact["value"]).T, "customers")
    for name in ("alive", "orders", "revenue"):
        assert_mean_zero(drawn[name] - exact[name], name)


def test_levels_widen():
    """Check 17: sd(expected) <= sd(latent) <= sd(predictive), parameters apart.

    At one parameter vector the first is 0, and in both others customers are independent: the
    variance of a customer's purchases given who it is adds to the variance of who it is.
    """
    small = customers(200)
    many = np.tile(CDNOW, (3000, 1)), np.tile(SPEND, (3000, 1))
    # Without the heaviest buyer, whose own uncertainty would stand for everybody's.
    margin = np.where(small["frequency"] < 100, 0.3, 0.0)
    changes = {"fixed": many, "margin": margin, "horizon": 104.0}
    totals = {lv: gathered(getattr(valuation(small, **changes), lv)())["value"].sum(axis=0) for lv in LEVELS}
    assert np.ptp(totals["expected"]) < 1e-9 * totals["expected"].mean()
    squares = [np.square(totals[level] - totals[level].mean()) for level in LEVELS[1:]]
    error = math.sqrt(sum(s.var() for s in squares) / 3000)
    assert squares[0].mean() > 0
    assert squares[1].mean() - squares[0].mean() > oracles.Z * error, "the sample is too small to tell"


def test_parameters_are_in_every_level():
    """The mean over draws follows each draw's own parameters at all levels."""
    small = customers(300)
    pair = draws(6, spread=0.4)
    many = tuple(np.repeat(part, 400, axis=0) for part in pair)
    exact = gathered(valuation(small, fixed=pair).expected())["value"].sum(axis=0)
    for level in LEVELS[1:]:
        total = gathered(getattr(valuation(small, fixed=many), level)())["value"].sum(axis=0)
        assert_mean_zero(total.reshape(6, 400).T - exact, level)


@pytest.mark.parametrize("level", LEVELS)
def test_horizons_keep_their_labels(summary, level):
    horizons = {"two years": 104.0, "a month": 4.0, "a year": 52.0, "again": 52.0}
    orders = gathered(getattr(valuation(summary, horizons=horizons), level)())["orders"]
    two, month, year, again = orders.T
    assert (month < year).all()
    assert (year < two).all()
    np.testing.assert_allclose(year, again, rtol=1e-13)
    none = gathered(getattr(valuation(summary, horizons={}), level)())
    assert none["orders"].shape == (7, 0)


def test_future_bins_add_up_to_what_is_expected():
    small = customers(150)
    many = np.tile(CDNOW, (2000, 1)), np.tile(SPEND, (2000, 1))
    edges = np.array([0.0, 1.0, 5.0, 13.0, 39.0])
    drawn = gathered(valuation(small, fixed=many).future(edges))
    flows = [Flow(delta=0.0, start=a, horizon=b) for a, b in itertools.pairwise(edges)]
    valued = valuation(small, fixed=(CDNOW, SPEND))
    stats = valued.rows.stats[valued.rows.index]
    expected = value.expected_purchases(BG, CDNOW[None, :], stats, flows)[0]
    spend = value.expected_spend(GG, SPEND[None, :], valued.spend_stats)[0]
    assert_mean_zero(drawn["orders"] - expected.sum(axis=0), "orders")
    assert_mean_zero(drawn["revenue"] - spend @ expected, "revenue")
    assert (drawn["value"] == 0).all()
    assert (drawn["orders"] == np.round(drawn["orders"])).all()


# ---------------------------------------------------------------- no discounting


def test_undiscounted_and_forever(summary):
    """Check 15: refused if a <= 1 in any draw; in closed form if a > 1 in all."""
    some, spend = draws(7)
    assert (some[:, 2] < 1).any()
    with pytest.raises(InputError, match="set a positive discount rate or a finite horizon"):
        valuation(summary, annual_discount_rate=0.0)
    some[:, 2] += 1.5
    valued = valuation(summary, fixed=(some, spend), annual_discount_rate=0.0)
    found = gathered(valued.expected())
    chance = value.p_alive(BG, some, valued.rows.stats[valued.rows.index]).T
    mean = value.expected_spend(GG, spend, valued.spend_stats).T
    closed = (some[:, 2] + some[:, 3] + summary["frequency"][:, None] - 1) / (some[:, 2] - 1)
    reference = valued.assumptions.margin[:, None] * mean * chance * closed
    np.testing.assert_allclose(found["value"], reference, rtol=1e-10)
    np.testing.assert_allclose(found["bands"][:, :-1].sum(axis=1), reference.sum(axis=0), rtol=1e-9)
    assert (np.diff(found["bands"][:, :-1] / [1, 2, 2, 5, 1e9], axis=1) < 0).all()


@pytest.mark.parametrize("level", LEVELS[1:])
def test_rates_that_underflow(level):
    """r = 0.001: half of all λ are below the smallest float, but λ/(λp) is 1/p."""
    theta, small = np.array([0.001, 4.4, 2.6, 2.4]), customers(80)
    many = np.tile(theta, (1500, 1)), np.tile(SPEND, (1500, 1))
    exact = gathered(valuation(small, fixed=(theta, SPEND), annual_discount_rate=0.0).expected())
    drawn = gathered(getattr(valuation(small, fixed=many, annual_discount_rate=0.0), level)())
    assert_mean_zero(drawn["value"].sum(axis=0) - exact["value"].sum(), "total")


def test_a_finite_horizon_needs_no_discounting(summary):
    found = gathered(
        valuation(summary, annual_discount_rate=0.0, horizon=52.0, horizons={"h": 52.0}).expected()
    )
    # Undiscounted value is margin times revenue, customer by customer.
    revenue = gathered(
        valuation(
            summary, annual_discount_rate=0.0, horizon=52.0, horizons={"h": 52.0}, margin=np.ones(700)
        ).expected()
    )
    np.testing.assert_allclose(revenue["value"].sum(axis=0), revenue["revenue"][:, 0], rtol=1e-12)
    margin = np.linspace(0.2, 0.4, 700)[:, None]
    np.testing.assert_allclose(found["value"], margin * revenue["value"], rtol=1e-13)


# ---------------------------------------------------------------- threads


def test_ordered_keeps_the_order_and_few_in_flight():
    lock, running, most = threading.Lock(), 0, 0

    def work(k: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return k * k

    taken = []

    def tasks():
        for k in range(50):
            taken.append(k)
            yield k

    results = ordered(work, tasks(), threads=3)
    assert next(results) == 0
    assert len(taken) <= 2 * 3 + 1
    assert list(results) == [k * k for k in range(1, 50)]
    assert most <= 3


def test_ordered_passes_errors_on():
    def work(k: int) -> int:
        if k == 3:
            raise InputError("three")
        return k

    with pytest.raises(InputError, match="three"):
        list(ordered(work, range(10), threads=2))
