"""What covariates and segments do: to the rate of purchases, dropout, spend, and to a customer's value.

Every effect is a contrast: a number that is one standard deviation higher, a level instead of the
reference, a pooled level instead of the average customer's (the mean deviation of these customers; the
hierarchy's own centre is less sure, as it stands for levels that were not seen too); all other columns at
their centre. Value is the lifetime value of a new customer, first order included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clvmodels.artifacts import Assumptions, Posterior, Summary
from clvmodels.effects import DRIVERS, Driver, Effects, Term, combined, numbers, values
from clvmodels.models import links, registry
from clvmodels.models.family import PurchaseFamily
from clvmodels.value import expected_purchases, expected_spend, valuation_flow


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One contrast.

    Attributes
    ----------
    column, label
        The column, and the level, or what a number is raised by.
    kind
        That of the column's terms: ``numeric``, ``levels``, ``pool`` or ``walk``.
    multipliers
        Driver → factor of the mean purchase rate, dropout or spend, shape (draw,); drivers on which the
        column does not act are left out.
    value
        Factor of the lifetime value of a new customer, shape (draw,).
    customers
        Customers of the level; all of them for a number.
    observed
        Driver → the level's repeat purchases per time (``purchase``), or mean repeat spend (``spend``),
        relative to all customers: what it would be without a model. Empty for numbers.
    """

    column: str
    label: str
    kind: str
    multipliers: Mapping[Driver, np.ndarray]
    value: np.ndarray
    customers: int
    observed: Mapping[Driver, float]


def effects(summary: Summary, posterior: Posterior, assumptions: Assumptions) -> tuple[Effect, ...]:
    """Every contrast of every covariate and pooled column, in order of columns; levels by customers."""
    by_column: dict[tuple[str, str], list[tuple[Effects, Term]]] = {}
    for found in posterior.effects:
        for term in found.terms:
            by_column.setdefault((term.column, term.kind), []).append((found, term))
    out: list[Effect] = []
    for (column, kind), terms in sorted(by_column.items(), key=lambda item: item[0]):
        contrasts: dict[str, dict[Driver, np.ndarray]] = {}
        base: dict[Driver, np.ndarray] = {}
        sizes, observed = _levels(summary, terms[0][1])
        for found, term in terms:
            shifts = _contrasts(found, term)
            for label, shift in shifts.items():
                contrasts.setdefault(label, {})[term.driver] = shift
            if term.pooled:
                count = sum(sizes.get(label, 0) for label in shifts)
                base[term.driver] = np.sum(
                    [sizes.get(label, 0) / count * shift for label, shift in shifts.items()], axis=0
                )
        here = _Point.of(posterior, assumptions, base)
        rows = [
            Effect(
                column=column,
                label=label,
                kind=kind,
                multipliers=here.multipliers(shifts),
                value=here.value_factor(shifts),
                customers=sizes.get(label, len(summary) if kind == "numeric" else 0),
                observed=observed.get(label, {}),
            )
            for label, shifts in contrasts.items()
        ]
        out += rows if kind in ("numeric", "walk") else sorted(rows, key=lambda row: -row.customers)
    return tuple(out)


def _contrasts(found: Effects, term: Term) -> dict[str, np.ndarray]:
    """Label → shift on the link, shape (draw,)."""
    at = 0
    for other in found.terms:
        if other == term:
            break
        at += len(other.names)
    own = found.flat[:, at : at + len(term.names)]
    if term.kind == "numeric":
        unit = f"× {np.exp(term.scale):.3g}" if term.log else f"+ {term.scale:.3g}"
        out = {f"{unit} (one sd)": own[:, 0]}
        return out | ({"missing": own[:, 1]} if term.flagged else {})
    shown = [label for label in term.labels if term.pooled or term.coding == "sum" or label != term.reference]
    table = term.contrasts()
    instead = "" if term.pooled or term.coding == "sum" else f" (instead of {term.reference})"
    return {label + instead: own @ table[term.labels.index(label)] for label in shown}


def _levels(summary: Summary, term: Term) -> tuple[dict[str, int], dict[str, dict[Driver, float]]]:
    """Customers of each label, and what is observed of them relative to all."""
    if term.kind == "numeric":
        return {"missing": int(np.isnan(numbers(*values(summary, term.by[0]))).sum())}, {}
    codes, labels = combined(summary, term.by)
    instead = "" if term.pooled or term.coding == "sum" else f" (instead of {term.reference})"
    x, T = summary["frequency"], summary["T"]
    paid = np.where(summary.spenders, x * np.nan_to_num(summary["monetary_value"]), 0.0)
    spent = np.where(summary.spenders, x, 0.0)
    sums = [np.bincount(codes, weights, len(labels)) for weights in (None, x, T, paid, spent)]
    sizes: dict[str, int] = {}
    observed: dict[str, dict[Driver, float]] = {}
    for i, label in enumerate(labels):
        count, bought, time, amount, orders = (float(column[i]) for column in sums)
        name = label + instead
        sizes[name] = int(count)
        observed[name] = {}
        if time > 0 and x.sum() > 0:
            observed[name]["purchase"] = bought / time / (x.sum() / T.sum())
        if orders > 0:
            observed[name]["spend"] = amount / orders / (paid.sum() / spent.sum())
    return sizes, observed


@dataclass(frozen=True)
class _Point:
    """Native draws of the customer that others are compared with, and the value of a new one."""

    posterior: Posterior
    assumptions: Assumptions
    draws: tuple[np.ndarray, np.ndarray]
    value: np.ndarray

    @classmethod
    def of(cls, posterior: Posterior, assumptions: Assumptions, base: Mapping[Driver, np.ndarray]) -> _Point:
        draws = _natives(posterior, base)
        return cls(posterior, assumptions, draws, new_customer(posterior, assumptions, *draws))

    def multipliers(self, shifts: Mapping[Driver, np.ndarray]) -> dict[Driver, np.ndarray]:
        """Driver → factor of the coordinate that it moves."""
        out: dict[Driver, np.ndarray] = {}
        parts = (self.posterior.purchases, self.posterior.spend)
        for part, draws, other in zip(parts, self.draws, _natives(self.posterior, shifts), strict=True):
            family = registry.get(part.family)
            for driver, coordinate in links.driven(family).items():
                if driver in shifts:
                    old, new = (
                        family.to_coordinates(dict(zip(family.parameter_names, theta.T, strict=True)))
                        for theta in (draws, other)
                    )
                    out[driver] = new[coordinate.name] / old[coordinate.name]
        return {driver: out[driver] for driver in DRIVERS if driver in out}

    def value_factor(self, shifts: Mapping[Driver, np.ndarray]) -> np.ndarray:
        other = new_customer(self.posterior, self.assumptions, *_natives(self.posterior, shifts))
        return other / self.value


def _natives(posterior: Posterior, shifts: Mapping[Driver, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Native draws of purchases and spend after shifts from the centre."""
    found = []
    for part, draws in zip((posterior.purchases, posterior.spend), posterior.centre(), strict=True):
        family = registry.get(part.family)
        mine = {driver: shift for driver, shift in shifts.items() if driver in links.driven(family)}
        found.append(links.draws(family, draws, mine) if mine else draws)
    return found[0], found[1]


def new_customer(
    posterior: Posterior, assumptions: Assumptions, purchases: np.ndarray, spend: np.ndarray
) -> np.ndarray:
    """Expected lifetime value of a new customer, first order included, at the mean margin, shape (draw,)."""
    family: PurchaseFamily = registry.purchases(posterior.purchases.family)
    spending = registry.spend(posterior.spend.family)
    nobody = np.zeros((1, len(family.state)))
    ahead = expected_purchases(family, purchases, nobody, [valuation_flow(assumptions)])[:, 0, 0]
    basket = expected_spend(spending, spend, np.zeros((1, len(spending.statistics))))[:, 0]
    out: np.ndarray = float(assumptions.margin.mean()) * basket * (1 + ahead)
    return out
