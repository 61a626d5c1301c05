"""What became of customers who were acquired between two dates.

Of a customer whose first purchase was T time units before the closing, with A the value on that day,
first purchase not included, of what falls before the closing's horizon ends:

==============  ==========================================================
``acquired``    A = m E[ζ] DET, with parameters alone: nothing was known
``unwinding``   A (e^(δT) - 1)
``release``     -e^(δT) of the part of A that was expected before the closing
``experience``  value at the closing less the three above
==============  ==========================================================

They add up to the value at the closing; under the model realized repeat margin and that value have
the expectation e^(δT) A.
"""

from __future__ import annotations

import numpy as np

from clvmodels.models.family import PurchaseFamily, SpendFamily
from clvmodels.numerics import loops
from clvmodels.value import Flow
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
) -> dict[str, np.ndarray]:
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

    Returns
    -------
    dict
        Name in ``LINES`` → shape (draw,), currency.
    """
    purchases, spend = family
    start = np.zeros((1, len(purchases.state)))
    alive = np.empty((1, len(draws[0])))
    loops.over_stats(purchases.p_alive, draws[0], start, alive)
    basket = np.empty_like(alive)
    loops.over_stats(spend.expected_spend, draws[1], np.zeros((1, len(spend.statistics))), basket)
    ages, place = np.unique(age, return_inverse=True)
    weight = np.bincount(place, weights=margin, minlength=len(ages))
    growth = np.exp(flow.delta * ages)
    sums = {name: np.zeros(len(draws[0])) for name in LINES[:3]}
    for low in range(0, len(ages), _AGES):
        some = slice(low, low + _AGES)
        whole, due = (
            _orders(purchases, draws[0], start, flow.delta, ends)
            for ends in (ages[some] + flow.horizon, ages[some])
        )
        w, g = weight[some], growth[some]
        sums["acquired"] += w @ whole
        sums["unwinding"] += (w * (g - 1)) @ whole
        sums["release"] -= (w * g) @ due
    found = {name: total * alive[0] * basket[0] for name, total in sums.items()}
    return found | {"experience": value - sum(found.values())}


def _orders(
    family: PurchaseFamily, draws: np.ndarray, start: np.ndarray, delta: float, ends: np.ndarray
) -> np.ndarray:
    """Expected discounted purchases of a customer who has just been acquired, shape (end, draw)."""
    distinct, place = np.unique(ends, return_inverse=True)
    flows = [Flow(delta=delta, horizon=float(end)) for end in distinct]
    return residual(family, draws, start, flows)[0][place]
