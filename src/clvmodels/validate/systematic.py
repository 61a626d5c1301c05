"""Level systematic: predictive, and what moves all customers together.

Given the parameters the customers of a model are independent, so its intervals shrink with their
number; promotions, seasons and the economy do not. The weeks of the window tell how far reality
strayed from what the model expects of these customers given their first days (``fit/shocks.py``
for purchases and, apart, for the mean basket); the two processes are continued beyond the data, and
every predictive draw is multiplied by one shared path: its flow of expected purchases (of value, for
equity) weighs the weeks of the path. Shocks are not diversified over customers or segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clvmodels.fit import shocks
from clvmodels.models import registry
from clvmodels.models.family import SpendFamily

WORLD = 20_000
"""Baskets simulated for their coefficient of variation."""
FLOOR = 1e-4
"""Smallest variance of a mean basket's logarithm."""


@dataclass(frozen=True, kw_only=True)
class Weather:
    """Shared shocks of purchases and of the mean basket, or why there are none.

    Attributes
    ----------
    orders, baskets
        Posterior of the processes; ``baskets`` is None where all baskets are equal.
    reason
        Why shocks cannot be estimated; None where they can.
    """

    orders: shocks.Shocks | None
    baskets: shocks.Shocks | None
    reason: str | None

    def paths(self, weeks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Factors on purchases and on revenue in each week to come, shape (draw, week)."""
        if self.orders is None:
            raise ValueError(self.reason)
        orders = self.orders.path(weeks, seed)
        return orders, orders if self.baskets is None else orders * self.baskets.path(weeks, seed + 1)


def estimate(
    orders: np.ndarray,
    expected: np.ndarray,
    revenue: np.ndarray,
    variation: float,
    draws: int,
    seed: int,
    events: np.ndarray | None = None,
) -> Weather:
    """Shared shocks from the weeks of a window.

    Parameters
    ----------
    orders, revenue
        Repeat purchases and what was paid for them, shape (week,).
    expected
        Repeat purchases that the model expects of these customers given their first days, shape (week,).
    variation
        Coefficient of variation of one basket.
    draws
        Draws wanted.
    events
        Known events, see :class:`~clvmodels.fit.shocks.Ratios`; they move purchases.
    """
    found = shocks.estimate(shocks.Ratios.of_counts(orders, expected, events), draws, seed)
    if isinstance(found, str):
        return Weather(orders=None, baskets=None, reason=found)
    if variation == 0 or not revenue.sum() > 0:
        return Weather(orders=found, baskets=None, reason=None)
    mean = np.divide(revenue, orders, out=np.zeros(len(orders)), where=orders > 0)
    known = (orders > 0) & (mean > 0)
    noise = np.full(len(orders), np.inf)
    noise[known] = np.maximum(variation**2 / orders[known], FLOOR)
    noise[orders < shocks.LEAST] = np.inf
    usual = np.full(len(orders), revenue.sum() / orders.sum())
    baskets = shocks.estimate(shocks.Ratios(observed=mean, expected=usual, noise=noise), draws, seed + 1)
    return Weather(orders=found, baskets=None if isinstance(baskets, str) else baskets, reason=None)


def variation(family: SpendFamily, theta: Sequence[float], seed: int) -> float:
    """Coefficient of variation of one basket over customers and purchases; 0 where all are equal."""
    rng = np.random.default_rng(seed)
    named = dict(zip(family.parameter_names, map(float, theta), strict=True))
    amount = family.simulate(named, np.ones(WORLD, int), rng).amount
    return float(amount.std() / amount.mean())


def spend_variation(name: str, theta: np.ndarray, seed: int) -> float:
    """:func:`variation` of a family by name at the mean of its draws, shape (draw, parameter)."""
    family = registry.get(name)
    assert isinstance(family, SpendFamily)
    return variation(family, theta.mean(axis=0), seed)


def factors(paths: np.ndarray, flow: np.ndarray, until: Sequence[int]) -> np.ndarray:
    """Mean factor of each draw up to each horizon, weighed by the expected flow.

    Parameters
    ----------
    paths
        Shape (draw, week).
    flow
        Expected amount in each week, shape (week,).
    until
        Number of weeks of each horizon.

    Returns
    -------
    Shape (horizon, draw).
    """
    cumulated = (paths * flow).cumsum(axis=1)
    total = flow.cumsum()
    at = np.asarray(until) - 1
    return (cumulated[:, at] / np.where(total[at] > 0, total[at], 1.0)).T
