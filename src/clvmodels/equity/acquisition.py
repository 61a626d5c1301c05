"""Unit economics of winning customers: what they are worth, what they cost, when they pay back.

``LTV = m E[ζ] (1 + DET)`` with the first order, before acquisition cost; ``CAC`` is what was spent
divided by the customers it won. All draw by draw: a ratio or a time is computed in each draw, then
summarised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from clvmodels.artifacts import Assumptions
from clvmodels.numerics.discounting import Flow
from clvmodels.value import AnyNewcomer, valuation_flow

LONGEST = 100.0
"""Years after which a cost that is not paid back counts as never paid back."""
CURVE = 49
"""Points of the payback curve, over ``CURVE_YEARS`` or the horizon if that is shorter."""
CURVE_YEARS = 4.0
BASES = ("all", "own", "pooled")
"""On whose customers the value of a channel's new customer rests."""
BUDGET_STEPS = 61
"""Points of the budget curve."""
ONE = 64
"""Customers simulated per draw for the probability that one customer pays back."""


@dataclass(frozen=True)
class Channel:
    """Customers of one channel or segment, what a new one is worth, and what was spent to win them.

    Attributes
    ----------
    customers, repeat_buyers, age
        In the log: on whom the estimate rests, and their mean time since the first order.
    basis
        ``own``: the value of a new customer is estimated from these customers; ``pooled``: by a model that
        pools the channels partially; ``all``: from all customers.
    spend
        By draw, currency; None: not known.
    won
        Customers that the spend won.
    response
        Draws of the response of monthly acquisitions to spend, shape (draw, 3): base, top, half; see
        :func:`clvmodels.fit.acquisition.response`. None where spend history does not allow it.
    monthly
        Mean monthly spend of that history.
    """

    label: str
    customers: int
    repeat_buyers: int
    age: float
    newcomer: AnyNewcomer
    basis: Literal["own", "pooled", "all"]
    spend: np.ndarray | None = None
    won: int = 0
    response: np.ndarray | None = None
    monthly: float = np.nan


def build(
    channels: Sequence[Channel], assumptions: Assumptions, payback: float, seed: int, currency: str
) -> Any:
    """Unit economics of every channel, draw by draw.

    Parameters
    ----------
    payback
        Time units in which a customer has to pay back.

    Returns
    -------
    xarray Dataset with dims (channel, draw); NaN where a channel has no spend. ``payback`` is in time
    units, ``inf`` for never; ``curve`` has its mean, 5 and 95 % quantiles.
    """
    import xarray as xr

    flow, year = valuation_flow(assumptions), assumptions.units_per_year
    longest = min(LONGEST * year, assumptions.horizon)
    times = np.linspace(0, min(CURVE_YEARS * year, assumptions.horizon), CURVE)
    names = ("ltv", "first_order", "within", "spend", "cac", "payback", "payback_discounted", "optimum",
             "regret_now", "regret_best")  # fmt: skip
    draws = len(channels[0].newcomer.posterior)
    out = {name: np.full((len(channels), draws), np.nan) for name in names}
    curve = np.empty((len(channels), 3, CURVE))
    budgets = np.full((len(channels), 4, BUDGET_STEPS), np.nan)
    one, best = np.full((2, len(channels)), np.nan)
    seeds = np.random.SeedSequence(seed, spawn_key=(7,)).spawn(len(channels))
    same: dict[int, int] = {}  # channels that share one customer share the results too
    for k, channel in enumerate(channels):
        new = channel.newcomer
        if (twin := same.setdefault(id(new), k)) < k:
            for values in (out["ltv"], out["first_order"], out["within"], curve):
                values[k] = values[twin]
        else:
            out["ltv"][k], out["first_order"][k] = new.value(flow), new.first_order
            reached = new.later([Flow(delta=0.0, horizon=t) for t in (*times[1:], payback)])
            out["within"][k] = new.first_order + reached[:, -1]
            grown = new.first_order[:, None] + np.column_stack([np.zeros(draws), reached[:, :-1]])
            curve[k] = grown.mean(axis=0), *np.quantile(grown, [0.05, 0.95], axis=0)
        if channel.spend is None:
            continue
        out["spend"][k] = channel.spend
        out["cac"][k] = cac = channel.spend / channel.won
        out["payback"][k] = new.payback(cac, 0.0, longest, year / 52)
        out["payback_discounted"][k] = new.payback(cac, flow.delta, longest, year / 52)
        drawn = new.simulate("predictive" if draws > 1 else "latent", flow, ONE, seeds[k])
        one[k] = (drawn > cac).mean()
        if channel.response is not None:
            found = budget(channel.response, out["ltv"][k], channel.monthly)
            out["optimum"][k], out["regret_now"][k], out["regret_best"][k], best[k] = found
            budgets[k] = budget_curve(channel.response, out["ltv"][k], max(channel.monthly, best[k]))
    money, time = {"unit": currency}, {"unit": "time"}
    units = {name: time if name.startswith("payback") else money for name in names}
    return xr.Dataset(
        {
            **{name: (("channel", "draw"), values, units[name]) for name, values in out.items()},
            "one": (("channel",), one, {"unit": "probability"}),
            "best": (("channel",), best, money),
            "monthly": (("channel",), np.array([c.monthly for c in channels]), money),
            "customers": (("channel",), np.array([c.customers for c in channels])),
            "repeat_buyers": (("channel",), np.array([c.repeat_buyers for c in channels])),
            "age": (("channel",), np.array([c.age for c in channels]), time),
            "won": (("channel",), np.array([c.won for c in channels])),
            "basis": (("channel",), np.array([BASES.index(c.basis) for c in channels])),
            "curve": (("channel", "bound", "time"), curve, money),
            "budget": (("channel", "of_budget", "step"), budgets, money),
        },
        coords={
            "channel": [c.label for c in channels],
            "time": times,
            "bound": ["mean", "low", "high"],
            "of_budget": ["spend", "mean", "low", "high"],
        },
        attrs={"currency": currency, "longest": longest, "payback": payback},
    )


def profit(spend: np.ndarray | float, response: np.ndarray, ltv: np.ndarray) -> np.ndarray:
    """Value of the customers won in a month less the spend: ``(base + top S/(half + S)) LTV - S``.

    The base, customers who come without spend, is left out: it does not depend on the budget.
    """
    top, half = response[:, 1], response[:, 2]
    return top * spend / (half + spend) * ltv - spend


def budget_curve(response: np.ndarray, ltv: np.ndarray, most: float) -> np.ndarray:
    """Monthly :func:`profit` by spend up to one and a half times ``most``.

    Returns
    -------
    Spend, mean, 5 and 95 % quantile over draws, shape (4, step).
    """
    grid = np.linspace(0.0, 1.5 * most, BUDGET_STEPS)
    drawn = np.array([profit(s, response, ltv) for s in grid])
    return np.array([grid, drawn.mean(axis=1), *np.quantile(drawn, [0.05, 0.95], axis=1)])


def budget(
    response: np.ndarray, ltv: np.ndarray, now: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The monthly spend at which the last unit of money wins its own worth of value.

    ``A'(S) LTV = 1`` gives ``S = sqrt(top half LTV) - half``, or 0.

    Returns
    -------
    optimum, regret_now, regret_best
        By draw: the best spend if the draw were true, and what is lost against it per month at the
        present spend and at ``best``.
    best
        The spend of the highest expected profit.
    """
    _, top, half = response[:, :3].T
    optimum = np.maximum(np.sqrt(np.maximum(top * half * ltv, 0.0)) - half, 0.0)
    most = profit(optimum, response, ltv)
    grid = np.linspace(0.0, np.quantile(optimum, 0.99) if len(optimum) > 1 else float(optimum[0]), 201)
    expected = [profit(s, response, ltv).mean() for s in grid]
    best = float(grid[int(np.argmax(expected))])
    return optimum, most - profit(now, response, ltv), most - profit(best, response, ltv), best
