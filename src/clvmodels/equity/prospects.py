"""What a customer who is about to be acquired will be worth: purchases, spend and lifetime value.

A prospect has a pattern of covariates and segments but no history: the row x = t_x = T = 0, and a first
order at time 0 that belongs to its value. A pooled column may have a level that the fit has not seen; its
deviation is then drawn from the hierarchy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clvmodels.artifacts import (
    INTERVALS,
    LEVEL_CONTENTS,
    Assumptions,
    Posterior,
    Segment,
    Summary,
    interval,
)
from clvmodels.effects import AMOUNT, MONTH
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.numerics import latents as loops
from clvmodels.numerics.discounting import Flow
from clvmodels.numerics.loops import exponential_rate, exponential_value
from clvmodels.value import Natives, expected_purchases, expected_spend, valuation_flow
from clvmodels.value.residual import make_schedule

FADED = 14.0
"""Purchases that are discounted by less than exp(-14) = 8e-7 are not drawn."""


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """Draws of one new customer's future, first order included.

    Attributes
    ----------
    value
        Level → lifetime value before acquisition cost, shape (draw,), currency.
    orders, revenue
        Level → horizon → undiscounted orders and revenue, shape (draw,).
    spend
        Level → the customer's mean spend (at level predictive: the amount of the first order).
    """

    value: Mapping[str, np.ndarray]
    orders: Mapping[str, Mapping[str, np.ndarray]]
    revenue: Mapping[str, Mapping[str, np.ndarray]]
    spend: Mapping[str, np.ndarray]
    pattern: Mapping[str, str | float]
    currency: str

    def summary(self) -> Any:
        """Mean, sd and intervals by quantity and level, a pandas DataFrame."""
        import pandas as pd

        rows = {}
        for level in self.value:
            found = {("lifetime value", self.currency): self.value[level]}
            found["spend", self.currency] = self.spend[level]
            for label in self.orders[level]:
                found[f"orders, {label}", "orders"] = self.orders[level][label]
                found[f"revenue, {label}", self.currency] = self.revenue[level][label]
            for (name, unit), draws in found.items():
                row = {"mean": draws.mean(), "sd": draws.std(ddof=1) if len(draws) > 1 else np.nan}
                for probability in INTERVALS:
                    low, high = interval(draws, probability)
                    row |= {f"low_{probability:.0%}": low, f"high_{probability:.0%}": high}
                rows[name, level] = row | {"unit": unit, "contains": LEVEL_CONTENTS[level]}
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index = pd.MultiIndex.from_tuples(table.index, names=["quantity", "level"])
        return table

    def __repr__(self) -> str:
        level, draws = next(iter(self.value.items()))
        of = ", ".join(f"{name} = {value}" for name, value in self.pattern.items())
        low, high = interval(draws, 0.90)
        spread = f", 90 % {low:,.2f} to {high:,.2f}" if len(draws) > 1 else ""
        return (
            f"<New customer{f' of {of}' if of else ''}: {level} lifetime value {draws.mean():,.2f}{spread}>"
        )


def prospect(
    summary: Summary,
    posterior: Posterior,
    assumptions: Assumptions,
    seed: int,
    pattern: Mapping[str, str | float] | None = None,
    margin: float | None = None,
) -> Prospect:
    """Predict a customer of a pattern from the first order on.

    Parameters
    ----------
    summary
        Customers to whom the posterior was fitted; says what the columns are.
    pattern
        Column → level or number, for every covariate and pooled column of the model.
    margin
        Contribution margin ratio; default: the mean of the customers'.

    Raises
    ------
    InputError
        If a column is missing or unknown, or a level of a covariate was not seen.
    """
    pattern = dict(pattern or {})
    ratio = float(assumptions.margin.mean()) if margin is None else margin
    newcomer = _newcomer(summary, posterior, pattern)
    buying, spending = registry.purchases(posterior.purchases.family), registry.spend(posterior.spend.family)
    count = len(posterior)
    draws, spend_draws = (
        np.array(np.broadcast_to(found, (count, found.shape[1])), order="C")
        for found in (Natives.of(part, newcomer).draws(0) for part in (posterior.purchases, posterior.spend))
    )
    flow = valuation_flow(assumptions)
    flows = [flow, *(Flow(delta=0.0, horizon=h) for h in assumptions.horizons.values())]
    names = list(assumptions.horizons)
    nobody, nothing = np.zeros((1, len(buying.state))), np.zeros((1, len(spending.statistics)))
    spend = expected_spend(spending, spend_draws, nothing)[:, 0]
    ahead = 1 + expected_purchases(buying, draws, nobody, flows)[:, 0]
    first = "point" if posterior.is_point else "expected"
    out: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = {
        first: (ratio * spend * ahead[:, 0], ahead[:, 1:], spend[:, None] * ahead[:, 1:], spend)
    }
    if not posterior.is_point:
        rng = np.random.default_rng([seed, 8])
        own = np.zeros((1, count, len(buying.latents)))
        baskets = np.zeros((1, count, len(spending.latents)))
        loops.draw(buying.latent, draws, nobody, rng, own.shape[2], own)
        loops.draw(spending.latent, spend_draws, nothing, rng, baskets.shape[2], baskets)
        plan = make_schedule(buying, draws, nobody, flows)
        closed = buying.latent_rate is None or buying.latent_value is not None
        columns = np.empty((len(flows), 1, count))
        for k, one in enumerate(flows):
            loops.purchases(
                buying.latent_rate or exponential_rate, buying.latent_value or exponential_value, closed,
                own, one.code(buying.clock == "discrete"), plan.nodes, np.ascontiguousarray(plan.weights[k]),
                columns[k],
            )  # fmt: skip
        likely, mean = 1 + columns[:, 0].T, baskets[0, :, 0]
        out["latent"] = (ratio * mean * likely[:, 0], likely[:, 1:], mean[:, None] * likely[:, 1:], mean)
        out["predictive"] = _played(buying, spending, own[0], baskets[0], flow, flows[1:], ratio, rng)
    return Prospect(
        value={level: found[0] for level, found in out.items()},
        orders={level: dict(zip(names, found[1].T, strict=True)) for level, found in out.items()},
        revenue={level: dict(zip(names, found[2].T, strict=True)) for level, found in out.items()},
        spend={level: found[3] for level, found in out.items()},
        pattern=pattern,
        currency=posterior.currency,
    )


def _played(
    buying: Any,
    spending: Any,
    own: np.ndarray,
    baskets: np.ndarray,
    flow: Flow,
    horizons: Sequence[Flow],
    ratio: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every purchase and basket of each draw, one by one."""
    count = len(own)
    value, first = np.zeros(count), np.zeros(count)
    orders, revenue = np.zeros((2, count, len(horizons)))
    ends = np.array([one.horizon for one in horizons])
    last = min(flow.horizon, FADED / flow.delta if flow.delta > 0 else np.inf)
    stop = max(last, float(ends.max(initial=0.0)))
    for d in range(count):
        s = 0.0
        first[d] = amount = spending.basket(baskets[d], rng)
        value[d] = amount
        orders[d], revenue[d] = 1.0, amount
        while own[d, 0] == 1.0:
            wait = buying.gap(own[d], s, rng)
            if wait < 0 or not np.isfinite(wait) or s + wait > stop:
                break
            s += wait
            amount = spending.basket(baskets[d], rng)
            value[d] += amount * flow.discount(np.array(s)) if s <= last else 0.0
            orders[d] += s <= ends
            revenue[d] += amount * (s <= ends)
    return ratio * value, orders, revenue, first


def _newcomer(summary: Summary, posterior: Posterior, pattern: Mapping[str, str | float]) -> Summary:
    """A summary of one customer with a pattern and no history."""
    needed = {name for found in posterior.effects for term in found.terms for name in term.by}
    for name in pattern:
        if name not in needed:
            raise InputError(
                f"new customer: {name!r} is no covariate or pooled column of this model; it has "
                f"{', '.join(sorted(needed)) or 'none'}."
            )
    if missing := sorted(needed - set(pattern)):
        raise InputError(f"new customer: {', '.join(missing)} not given; the model needs them.")
    one = summary.take(np.zeros(1, int))
    columns = {name: np.zeros(1) for name in one.columns} | {"monetary_value": np.full(1, np.nan)}
    first_day = one.first_day
    if AMOUNT in pattern:
        columns[AMOUNT] = np.full(1, float(pattern[AMOUNT]))
    if MONTH in pattern:
        try:
            first_day = np.array([pattern[MONTH]], "datetime64[M]").astype("datetime64[D]")
        except ValueError:
            raise InputError(
                f"new customer: {MONTH} {pattern[MONTH]!r}: a month is written 1997-09."
            ) from None
    labels = {name: _text(value) for name, value in pattern.items() if name not in (AMOUNT, MONTH)}
    features = {name: Segment(codes=np.zeros(1, int), labels=(label,)) for name, label in labels.items()}
    return replace(one, columns=columns, first_day=first_day, features=features, segments={})


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.12g}"
