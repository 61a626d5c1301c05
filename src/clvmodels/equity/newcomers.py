"""What became of customers who were acquired between two dates.

Of a customer whose first purchase was T time units before the closing, with A the value on that day,
first purchase not included, of what falls before the closing's horizon ends:

==============  ==========================================================
``acquired``    A = m E[ζ] DET less the cost of keeping, with parameters alone: nothing was known
``unwinding``   A (e^(δT) - 1)
``release``     -e^(δT) of the part of A that was expected before the closing
``experience``  value at the closing less the three above
==============  ==========================================================

They add up to the value at the closing; under the model realized repeat margin, less the cost that was
expected, and that value have the expectation e^(δT) A. Where customers are addressed for a window at a
cost, a new one is so for a window from the first purchase on, and for another from the closing on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clvmodels.models.family import PurchaseFamily, SpendFamily
from clvmodels.numerics import loops
from clvmodels.value import Flow
from clvmodels.value.presence import tabulate_presence
from clvmodels.value.residual import residual

LINES = ("acquired", "unwinding", "release", "experience")
_AGES = 64  # at a time


def since_acquired(
    family: tuple[PurchaseFamily, SpendFamily],
    draws: tuple[np.ndarray, np.ndarray],
    flow: Flow,
    age: np.ndarray,
    margin: np.ndarray,
    value: np.ndarray,
    *,
    alive: float = 0.0,
    contact: Callable[[Flow], float] = lambda flow: 0.0,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The lines above, summed over customers.

    Parameters
    ----------
    family, draws
        Purchase and spend model; draws of shape (draw, parameter) that belong together.
    flow
        Discounting at the closing, continuous.
    age, margin
        T in time units and margin ratio, shape (customer,).
    value
        Value of all of them at the closing, shape (draw,), currency.
    alive
        Cost of keeping a customer who is there, currency per time unit.
    contact
        Cost of addressing one customer within a flow, currency.

    Returns
    -------
    lines
        Name in ``LINES`` → shape (draw,), currency.
    cost
        What keeping them was expected to cost until the closing, accumulated to it, shape (draw,).
    """
    purchases, spend = family
    start = np.zeros((1, len(purchases.state)))
    there = np.empty((1, len(draws[0])))
    loops.over_stats(purchases.p_alive, draws[0], start, there)
    basket = np.empty_like(there)
    loops.over_stats(spend.expected_spend, draws[1], np.zeros((1, len(spend.statistics))), basket)
    ages, place = np.unique(age, return_inverse=True)
    weight = np.bincount(place, weights=margin, minlength=len(ages))
    count = np.bincount(place, minlength=len(ages)).astype(float)
    growth = np.exp(flow.delta * ages)
    sums, costs = ({name: np.zeros(len(draws[0])) for name in LINES[:3]} for _ in range(2))
    for low in range(0, len(ages), _AGES):
        some = slice(low, low + _AGES)
        whole, due = (
            _orders(purchases, draws[0], start, flow.delta, ends)
            for ends in (ages[some] + flow.horizon, ages[some])
        )
        _add(sums, weight[some], growth[some], whole, due)
        kept, paid = _kept(purchases, draws[0], start, flow, ages[some], alive, contact, there[0])
        _add(costs, count[some], growth[some], kept, paid)
    found = {name: sums[name] * there[0] * basket[0] - costs[name] for name in sums}
    return found | {"experience": value - sum(found.values())}, -costs["release"]


def _add(
    sums: dict[str, np.ndarray], weight: np.ndarray, growth: np.ndarray, whole: np.ndarray, due: np.ndarray
) -> None:
    """Add the lines of customers by age; ``whole`` and ``due`` of one customer, shape (age, draw)."""
    sums["acquired"] += weight @ whole
    sums["unwinding"] += (weight * (growth - 1)) @ whole
    sums["release"] -= (weight * growth) @ due


def _kept(
    family: PurchaseFamily,
    draws: np.ndarray,
    start: np.ndarray,
    flow: Flow,
    ages: np.ndarray,
    alive: float,
    contact: Callable[[Flow], float],
    there: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Cost of keeping a customer, at acquisition: in all, and until the closing; shape (age, draw)."""
    paid = np.array([contact(replace(flow, horizon=age)) for age in ages])
    whole = paid + np.exp(-flow.delta * ages) * contact(flow)
    out = []
    for ends, addressed in ((ages + flow.horizon, whole), (ages, paid)):
        cost = np.repeat(addressed[:, None], len(draws), axis=1)
        if alive:
            distinct, place = np.unique(ends, return_inverse=True)
            table = tabulate_presence(family, draws, start, _until(flow.delta, distinct))
            cost += alive * there * table.at(np.zeros(1, int))[0][place]
        out.append(cost)
    return out[0], out[1]


def _orders(
    family: PurchaseFamily, draws: np.ndarray, start: np.ndarray, delta: float, ends: np.ndarray
) -> np.ndarray:
    """Expected discounted purchases of a customer who has just been acquired, shape (end, draw)."""
    distinct, place = np.unique(ends, return_inverse=True)
    return residual(family, draws, start, _until(delta, distinct))[0][place]


def _until(delta: float, ends: np.ndarray) -> list[Flow]:
    return [Flow(delta=delta, horizon=float(end)) for end in ends]
