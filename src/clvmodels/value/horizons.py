"""What groups of customers will do up to several horizons, undiscounted, at every level.

The same latents and paths serve all horizons and all groups, so that a total and its parts belong
to one another draw by draw. Nothing of size draws × customers is kept. Customers who differ in their
parameters are worked out pattern by pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clvmodels.numerics import groups, loops
from clvmodels.numerics.discounting import Flow
from clvmodels.value.patterns import AnyValuation
from clvmodels.value.residual import make_schedule, tabulate
from clvmodels.value.stream import Valuation, p_alive
from clvmodels.value.threads import ordered

MEASURES = ("orders", "revenue", "margin")
"""Purchases; what is paid for them; and that times each customer's margin ratio (currency)."""
SAMPLED = 25
"""Predictive draws of which the margin of every customer is returned."""
_STREAM = 4
_TILE = 256


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Level expected: sums by group, and posterior means by customer.

    Attributes
    ----------
    total
        Shape (measure, group, flow, draw).
    orders, margin
        Posterior means of purchases and margin, shape (customer, flow).
    spend
        Posterior mean of the expected mean spend, shape (customer,).
    """

    total: np.ndarray
    orders: np.ndarray
    margin: np.ndarray
    spend: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """Levels latent and predictive.

    Attributes
    ----------
    latent, predictive
        Shape (measure, group, horizon, draw).
    bought
        Predictive probability of a purchase up to the horizon, shape (customer, horizon).
    sampled
        Margin of each customer in the first draws, shape (customer, horizon, draw), currency.
    """

    latent: np.ndarray
    predictive: np.ndarray
    bought: np.ndarray
    sampled: np.ndarray


def expected(valuation: AnyValuation, flows: Sequence[Flow], member: np.ndarray, count: int) -> Expected:
    """Expected purchases, revenue and margin in windows of the future.

    Parameters
    ----------
    flows
        Windows, discounted or not; ``valuation.assumptions`` gives the margins alone.
    member
        Groups of each customer, shape (customer, grouping), whole numbers below ``count``.
    count
        Number of groups over all groupings.
    """
    n = len(valuation.summary)
    total = np.zeros((len(MEASURES), count, len(flows), len(valuation.draws)))
    orders, margins, spends = np.empty((n, len(flows))), np.empty((n, len(flows))), np.empty(n)
    for customers, part in valuation.each(
        lambda one, members: (members, _expected(one, flows, member[members], count))
    ):
        total += part.total
        orders[customers], margins[customers], spends[customers] = part.orders, part.margin, part.spend
    return Expected(total=total, orders=orders, margin=margins, spend=spends)


def _expected(valuation: Valuation, flows: Sequence[Flow], member: np.ndarray, count: int) -> Expected:
    draws, rows, n = valuation.draws, valuation.rows, len(valuation.summary)
    table = tabulate(valuation.purchases, draws, rows.stats, flows)
    order = np.lexsort((np.arange(n), rows.index))
    tiles = [order[low : low + _TILE] for low in range(0, n, _TILE)]

    def work(customers: np.ndarray) -> tuple[np.ndarray, ...]:
        index = rows.index[customers]
        block = slice(index[0], index[-1] + 1)
        local = index - index[0]
        alive = np.empty((block.stop - block.start, len(draws)))
        loops.over_stats(valuation.purchases.p_alive, draws, rows.stats[block], alive)
        spend = np.empty((len(customers), len(draws)))
        stats = valuation.spend_stats[customers]
        loops.over_stats(valuation.spend.expected_spend, valuation.spend_draws, stats, spend)
        bought = (table.at(block) * alive[:, None, :])[local]
        margin = valuation.assumptions.margin[customers]
        inside = np.zeros((count, len(customers)))
        for column in member[customers].T:
            inside[column, np.arange(len(customers))] = 1.0
        used = np.flatnonzero(inside.any(axis=1))
        shape = (len(used), len(flows), len(draws))
        paid = bought * spend[:, None, :]
        sums = np.stack(
            [
                (inside[used] * weight @ values.reshape(len(customers), -1)).reshape(shape)
                for values, weight in ((bought, 1.0), (paid, 1.0), (paid, margin))
            ]
        )
        return customers, used, sums, bought.mean(axis=2), margin[:, None] * paid.mean(axis=2), spend.mean(1)

    total = np.zeros((len(MEASURES), count, len(flows), len(draws)))
    orders, margins, spends = np.empty((n, len(flows))), np.empty((n, len(flows))), np.empty(n)
    for customers, used, sums, mean_orders, mean_margin, mean_spend in ordered(
        work, tiles, valuation.threads
    ):
        total[:, used] += sums
        orders[customers], margins[customers], spends[customers] = mean_orders, mean_margin, mean_spend
    return Expected(total=total, orders=orders, margin=margins, spend=spends)


def simulated(
    valuation: AnyValuation, horizons: Sequence[float], member: np.ndarray, count: int
) -> Simulated:
    """Draws of purchases, revenue and margin of groups in (T, T + horizon].

    Parameters
    ----------
    horizons
        Ascending, in time units.
    member, count
        As for :func:`expected`.
    """
    n, size = len(valuation.summary), len(horizons)
    total = np.zeros((2, len(MEASURES), count, size, len(valuation.draws)))
    bought, sampled = np.empty((n, size)), np.empty((n, size, min(SAMPLED, len(valuation.draws))))
    for customers, part in valuation.each(
        lambda one, members: (members, _simulated(one, horizons, member[members], count))
    ):
        total += np.stack([part.latent, part.predictive])
        bought[customers], sampled[customers] = part.bought, part.sampled
    return Simulated(latent=total[0], predictive=total[1], bought=bought, sampled=sampled)


def _simulated(valuation: Valuation, horizons: Sequence[float], member: np.ndarray, count: int) -> Simulated:
    family, spend, n = valuation.purchases, valuation.spend, len(valuation.summary)
    ends = np.asarray(horizons, float)
    flows = [Flow(delta=0.0, horizon=end) for end in ends]
    codes = np.array([flow.code(family.clock == "discrete") for flow in flows])
    plan = make_schedule(family, valuation.draws, valuation.rows.stats, flows)
    closed = family.latent_rate is None or family.latent_value is not None
    width = max(len(family.latents), len(spend.latents))
    draws = len(valuation.draws)
    order = np.lexsort((np.arange(n), valuation.rows.index))

    def work(task: tuple[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        number, customers = task
        used, local = np.unique(member[customers], return_inverse=True)
        local = np.ascontiguousarray(local.reshape(member[customers].shape), np.int64)
        sums = np.zeros((2, len(MEASURES), len(used), len(ends), draws))
        bought = np.zeros((len(customers), len(ends)))
        sampled = np.zeros((len(customers), len(ends), min(SAMPLED, draws)))
        key = np.random.SeedSequence(valuation.seed, spawn_key=(_STREAM, number))
        groups.horizon_totals(
            family.latent,
            family.gap,
            spend.latent,
            spend.basket,
            family.latent_rate or loops.exponential_rate,
            family.latent_value or loops.exponential_value,
            closed,
            valuation.draws,
            valuation.spend_draws,
            valuation.rows.stats[valuation.rows.index[customers]],
            valuation.spend_stats[customers],
            valuation.assumptions.margin[customers],
            local,
            ends,
            codes,
            plan.nodes,
            plan.weights,
            np.random.Generator(np.random.PCG64(key)),
            width,
            sums[0],
            sums[1],
            bought,
            sampled,
        )
        return customers, used, sums, bought / draws, sampled

    total = np.zeros((2, len(MEASURES), count, len(ends), draws))
    probability = np.empty((n, len(ends)))
    margins = np.empty((n, len(ends), min(SAMPLED, draws)))
    tiles = [order[low : low + _TILE] for low in range(0, n, _TILE)]
    for customers, used, sums, bought, sampled in ordered(work, enumerate(tiles), valuation.threads):
        total[:, :, used] += sums
        probability[customers], margins[customers] = bought, sampled
    return Simulated(latent=total[0], predictive=total[1], bought=probability, sampled=margins)


def from_acquisition(valuation: Valuation, steps: int, per_unit: float) -> np.ndarray:
    """Expected repeat purchases of a new customer in each counted day (period) after the first purchase.

    Parameters
    ----------
    steps
        Days (periods) wanted.
    per_unit
        Days (periods) in a time unit.

    Returns
    -------
    Shape (draw, step): purchases in ((k-1)/per_unit, k/per_unit], nothing known but the parameters. The
    rate of a customer just acquired, by three-point Gauss-Legendre in each day, times the probability that
    the first purchase was not the last, which families with dropout after every purchase have below 1.
    """
    family = valuation.purchases
    nobody = np.zeros(len(family.state))
    if family.clock == "discrete":
        times, weights = np.arange(1.0, steps + 1), np.ones(1)
    else:
        points, weights = np.polynomial.legendre.leggauss(3)
        times = ((np.arange(steps)[:, None] + (points + 1) / 2) / per_unit).ravel()
        weights = weights / 2 / per_unit
    rate = np.empty((len(valuation.draws), len(times)))
    groups.rates_over_time(family.rate, valuation.draws, nobody, times, rate)
    stays = p_alive(family, valuation.draws, nobody[None])
    return stays * (rate.reshape(len(rate), steps, -1) @ weights)


def in_window(valuation: AnyValuation, per_unit: float, back: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected repeat purchases in windows of the past, and revenue, given first days and parameters alone.

    Parameters
    ----------
    per_unit
        Days (periods) in a time unit.
    back
        Ascending, days (periods) before the end of observation, whole or not; window k lies between
        entries k and k + 1.

    Returns
    -------
    orders, revenue
        Shape (draw, window) each; revenue at the mean spend of the population, currency.
    """

    def work(one: Valuation, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        orders, nobody = _in_window(one, per_unit, back), np.zeros(one.spend_stats.shape[1])
        spend = np.array([one.spend.expected_spend(theta, nobody) for theta in one.spend_draws])
        return orders, orders * spend[:, None]

    shape = len(valuation.draws), len(back) - 1
    orders, revenue = np.zeros(shape), np.zeros(shape)
    for some, paid in valuation.each(work):
        orders += some
        revenue += paid
    return orders, revenue


def in_window_by(
    valuation: AnyValuation, per_unit: float, back: np.ndarray, codes: np.ndarray, count: int
) -> np.ndarray:
    """Expected repeat purchases of groups in windows of the past, as :func:`in_window`.

    Parameters
    ----------
    codes
        Group of each customer, shape (customer,), whole numbers below ``count``.

    Returns
    -------
    Shape (draw, group, window).
    """
    out = np.zeros((len(valuation.draws), count, len(back) - 1))
    for some in valuation.each(
        lambda one, members: _in_window_by(one, per_unit, back, codes[members], count)
    ):
        out += some
    return out


def _in_window(valuation: Valuation, per_unit: float, back: np.ndarray) -> np.ndarray:
    nobody_apart = np.zeros(len(valuation.summary), int)
    return _in_window_by(valuation, per_unit, back, nobody_apart, 1)[:, 0]


def _in_window_by(
    valuation: Valuation, per_unit: float, back: np.ndarray, codes: np.ndarray, count: int
) -> np.ndarray:
    age, place = np.unique(np.round(valuation.summary["T"] * per_unit, 6), return_inverse=True)
    customers = np.zeros((len(age), count))
    np.add.at(customers, (place, codes), 1.0)
    size = int(max(age.max(), back[-1])) + 2
    daily = from_acquisition(valuation, size, per_unit)
    upto = np.concatenate([np.zeros((len(daily), 1)), daily.cumsum(axis=1)], axis=1)

    def at(since: np.ndarray) -> np.ndarray:
        """Expected repeats so long after first purchases, shape (draw, group)."""
        whole = since.astype(int)
        share = (since - whole)[:, None]
        return upto[:, whole] @ (customers * (1 - share)) + upto[:, whole + 1] @ (customers * share)

    cumulated = np.stack([at(np.maximum(age - edge, 0.0)) for edge in back], axis=2)
    return cumulated[..., :-1] - cumulated[..., 1:]
