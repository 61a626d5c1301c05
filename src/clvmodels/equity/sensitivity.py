"""What equity depends on: changed assumptions, better customers, and the sources of its variance.

One pass over the customers with some of the draws, spread evenly over all by what a few customers are
worth. A discount rate and a
horizon are weights on the same evaluations of the rate; so is a change of the customers themselves
from the valuation date on, histories and who is alive unchanged. Where a customer's latent rate is
``λ e^(-κ s)``, dropout 1 % lower makes it ``λ e^(-0.99 κ s)``, whose discounted sum R at δ up to H is

    R(δ/h, h H) / h    with h = 0.99,

and purchasing at c times the rate makes it c R, or R(δ/c, c H) where every purchase may be the last:
more purchases bring the end nearer. All changes meet the same draws, so that differences are exact in
each of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clvmodels.numerics import loops
from clvmodels.numerics.discounting import Flow
from clvmodels.value import AnyValuation, Valuation, expected_spend, p_alive, residual
from clvmodels.value import valuation as any_valuation
from clvmodels.value.residual import make_schedule, tabulate
from clvmodels.value.stream import TILE, Kinds
from clvmodels.value.threads import ordered

DRAWS = 200
"""Draws of the pass: an interval's end is then known to a tenth of a standard deviation."""
POINTS = 0.02
"""Change of the yearly discount rate."""
MARGIN = 0.01
"""Change of the margin ratio."""
BETTER = 0.01
"""Relative improvement of retention, purchase rate and spend."""
YEARS = (3.0, 5.0, 10.0, np.inf)
"""Horizons."""
_FEW = 8
_BY_CUSTOMER = ("p_alive", "value", "lapse", "in_doubt")
_SUMS = ("equity", "potential", "by_purchases", "by_spend")


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Equity of the same draws under changed assumptions, level expected.

    Attributes
    ----------
    picks
        Which draws, ascending.
    equity
        Under the assumptions as they are, shape (draw,), currency.
    changed
        Change → equity, shape (draw,). ``discount_up``, ``discount_down``, ``margin_up``,
        ``margin_down``, ``horizon_<years>`` (years, or inf), ``retention`` (dropout 1 % lower), ``rate``
        and ``spend`` (1 % higher). What has no meaning for a family or diverges is left out.
    potential
        Equity if every customer who may be alive were, shape (draw,).
    lost
        Horizon → value today of what attrition takes until then: customers at that time worth what they
        are now, less what is expected of them, shape (draw,).
    by_purchases, by_spend
        Expectation of equity given the purchase parameters, or the spend parameters, of a draw: the
        other model's parameters averaged out, shape (draw,).
    p_alive, value, lapse, in_doubt
        Posterior means by customer, shape (customer,): P(alive), value V = P W, (1 - P) W and
        (1 - P) V; W is the value if alive.
    """

    picks: np.ndarray
    equity: np.ndarray
    changed: Mapping[str, np.ndarray]
    potential: np.ndarray
    lost: Mapping[str, np.ndarray]
    by_purchases: np.ndarray
    by_spend: np.ndarray
    p_alive: np.ndarray
    value: np.ndarray
    lapse: np.ndarray
    in_doubt: np.ndarray


@dataclass(frozen=True)
class _Wanted:
    """A flow, and the factors of its purchases and of its time alive."""

    flow: Flow
    purchases: float = 1.0
    presence: float = 1.0


def survey(valuation: AnyValuation, draws: int = DRAWS) -> Survey:
    """Value the customers under changed assumptions, those who differ in their parameters pattern by pattern.

    Parameters
    ----------
    valuation
        Customers, posterior and assumptions.
    draws
        At most so many draws are used.
    """
    picks = _spread(valuation, draws)
    whole: Survey | None = None
    for part, members in valuation.each(lambda part, members: (_alike(part, picks), members)):
        whole = _more(whole, part, members, len(valuation.summary))
    assert whole is not None
    return whole


def _more(whole: Survey | None, part: Survey, members: np.ndarray, customers: int) -> Survey:
    """The survey of some customers beside that of others: sums, and columns of all customers.

    A change that diverges for some is left out for all.
    """
    merged: dict[str, Any] = {}
    for name in _BY_CUSTOMER:
        merged[name] = np.empty(customers) if whole is None else getattr(whole, name)
        merged[name][members] = getattr(part, name)
    if whole is None:
        return replace(part, **merged)
    merged |= {name: getattr(whole, name) + getattr(part, name) for name in _SUMS}
    for name in ("changed", "lost"):
        one, other = getattr(whole, name), getattr(part, name)
        merged[name] = {key: value + other[key] for key, value in one.items() if key in other}
    return replace(whole, **merged)


def _alike(valuation: Valuation, picks: np.ndarray) -> Survey:
    """The survey of customers who share their draws, at some of them."""
    thin = copy.copy(valuation)
    thin.draws = np.ascontiguousarray(valuation.draws[picks])
    thin.spend_draws = np.ascontiguousarray(valuation.spend_draws[picks])
    wanted = _wanted(thin)
    names = list(wanted)
    flows = [w.flow for w in wanted.values()]
    family, cost = thin.purchases, thin.assumptions.cost_alive
    kinds = Kinds.of(family, thin.rows, thin.spend_stats, thin.assumptions.margin)
    table = tabulate(family, thin.draws, kinds.statistics, flows)
    kept = thin.presence(kinds.statistics, flows)
    slower = _slower(thin, kinds.statistics)
    factors = np.array([[w.purchases, w.presence] for w in wanted.values()]).T[:, None, :, None]
    theirs = ("retention", "rate")  # changes of customers: what the firm pays them stays where it is
    contact = thin.contact([thin.flow if n in theirs else f for n, f in zip(names, flows, strict=True)])

    def work(low: int) -> dict[str, np.ndarray]:
        high = min(low + TILE, len(kinds.row))
        start = kinds.start[low : high + 1]
        one, members = kinds.order[start[:-1]], np.diff(start).astype(float)
        rows, row = np.unique(kinds.row[low:high], return_inverse=True)
        groups, group = np.unique(kinds.group[rows], return_inverse=True)
        alive = np.empty((len(rows), len(picks)))
        loops.over_stats(family.p_alive, thin.draws, thin.rows.stats[rows], alive)
        spend = np.empty((len(one), len(picks)))
        loops.over_stats(thin.spend.expected_spend, thin.spend_draws, thin.spend_stats[one], spend)
        margin = thin.assumptions.margin[one][:, None]
        times = np.zeros((len(rows), len(one)))
        times[row, np.arange(len(one))] = members
        whole = table.at(groups)[group] * factors[0]  # (row, flow, draw), given alive
        paid = np.zeros_like(whole) if kept is None else cost * kept.at(groups)[group] * factors[1]
        if slower is not None:
            k = names.index("retention")
            whole[:, k] = slower[0].at(groups)[group][:, 0]
            paid[:, k] = 0.0 if slower[1] is None else cost * slower[1].at(groups)[group][:, 0]
        earned = times @ (margin * spend)  # (row, draw)
        count = times.sum(axis=1)
        possible = (alive.max(axis=1) > 0).astype(float)
        gained = np.einsum("rd,rfd->fd", earned * alive, whole)
        spent = np.einsum("rd,rfd->fd", count[:, None] * alive, paid)
        ahead, due = whole[:, 0] * alive, paid[:, 0] * alive
        worth = margin * spend * whole[row, 0] - paid[row, 0]  # W, by kind
        chance = alive[row]
        return {
            "customers": kinds.order[start[0] : start[-1]],
            "kind": np.repeat(np.arange(len(one)), members.astype(int)),
            "gained": gained,
            "spent": spent,
            "gross": ((times @ spend) * ahead).sum(axis=0),
            "potential": (possible[:, None] * (earned * whole[:, 0] - count[:, None] * paid[:, 0])).sum(
                axis=0
            ),
            "purchases": (earned.mean(axis=1)[:, None] * ahead - count[:, None] * due).sum(axis=0),
            "spend": (earned * ahead.mean(axis=1)[:, None]).sum(axis=0) - (count * due.mean(axis=1)).sum(),
            "p_alive": chance.mean(axis=1),
            "value": (chance * worth).mean(axis=1) - contact[0],
            "lapse": possible[row] * ((1 - chance) * worth).mean(axis=1),
            "in_doubt": ((1 - chance) * chance * worth).mean(axis=1),
        }

    by_customer = {name: np.empty(len(thin.summary)) for name in _BY_CUSTOMER}
    total = dict.fromkeys(("gained", "spent", "gross", "potential", "purchases", "spend"), np.zeros(()))
    for part in ordered(work, range(0, len(kinds.row), TILE), thin.threads):
        for name, column in by_customer.items():
            column[part["customers"]] = part[name][part["kind"]]
        total = {name: value + part[name] for name, value in total.items()}
    fixed = len(thin.summary) * contact
    net = dict(zip(names, total["gained"] - total["spent"] - fixed[:, None], strict=True))
    base = net.pop("")
    before_contact = dict(zip(names, total["gained"] - total["spent"], strict=True))
    lost = {
        label: np.exp(-thin.flow.delta * h) * before_contact[f"until {label}"]
        - before_contact[f"after {label}"]
        for label, h in thin.assumptions.horizons.items()
        if f"after {label}" in names
    }
    changed = {name: value for name, value in net.items() if not name.startswith(("until ", "after "))}
    changed |= {
        "margin_up": base + MARGIN * total["gross"],
        "margin_down": base - MARGIN * total["gross"],
        "spend": base + BETTER * total["gained"][0],
    }
    return Survey(
        picks=picks,
        equity=base,
        changed=changed,
        potential=total["potential"] - fixed[0],
        lost=lost,
        by_purchases=total["purchases"] - fixed[0],
        by_spend=total["spend"] - fixed[0],
        **by_customer,
    )


def _spread(valuation: AnyValuation, count: int) -> np.ndarray:
    """Draws spread evenly over all in the order of what a few customers are worth, ascending."""
    if len(valuation.draws) <= count:
        return np.arange(len(valuation.draws))
    few = valuation.order[np.linspace(0, len(valuation.order) - 1, _FEW).astype(int)]
    assumptions = replace(valuation.assumptions, margin=valuation.assumptions.margin[few])
    some = any_valuation(valuation.summary.take(few), valuation.posterior, assumptions, valuation.seed, 1)
    order = np.argsort(sum(some.each(_worth)), kind="stable")
    middle = (np.arange(count) + 0.5) * len(order) / count
    return np.sort(order[middle.astype(int)])


def _worth(valuation: Valuation, _: np.ndarray) -> np.ndarray:
    """Expected revenue of the customers, shape (draw,)."""
    stats = valuation.rows.stats[valuation.rows.index]
    left = residual(valuation.purchases, valuation.draws, stats, [valuation.flow])[:, 0]
    alive = p_alive(valuation.purchases, valuation.draws, stats)
    spend = expected_spend(valuation.spend, valuation.spend_draws, valuation.spend_stats)
    out: np.ndarray = (spend * alive * left.T).sum(axis=1)
    return out


def _wanted(valuation: Valuation) -> dict[str, _Wanted]:
    """Flows by change; the first, without a name, is the valuation's own."""
    flow, assumptions, family = valuation.flow, valuation.assumptions, valuation.purchases
    year = assumptions.units_per_year

    def at(rate: float) -> Flow:
        return replace(flow, delta=float(np.log1p(rate) / year))

    found = {"": _Wanted(flow)}
    found["discount_up"] = _Wanted(at(assumptions.annual_discount_rate + POINTS))
    if (lower := assumptions.annual_discount_rate - POINTS) >= -1e-12:
        found["discount_down"] = _Wanted(at(max(lower, 0.0)))
    found |= {f"horizon_{years:g}": _Wanted(replace(flow, horizon=years * year)) for years in YEARS}
    if family.latent_rate is None:
        h = 1 - BETTER
        found["retention"] = _Wanted(_faster(flow, h), 1 / h, 1 / h)
    if family.role != "contract":
        c = 1 + BETTER
        if family.dropout == "purchase":
            found["rate"] = _Wanted(_faster(flow, c), 1.0, 1 / c)
        else:
            found["rate"] = _Wanted(flow, c)
    for label, h in assumptions.horizons.items():
        if h < flow.horizon:
            found[f"until {label}"] = _Wanted(replace(flow, horizon=flow.horizon - h))
            found[f"after {label}"] = _Wanted(replace(flow, start=h))
    endless = valuation.assumptions.cost_alive or not family.converges(valuation.draws)
    return {name: w for name, w in found.items() if not (w.flow.undiscounted_forever and endless)}


def _faster(flow: Flow, factor: float) -> Flow:
    """The flow that sees time run at ``factor`` times the speed."""
    return replace(
        flow, delta=flow.delta / factor, horizon=flow.horizon * factor, period=flow.period * factor
    )


def _slower(valuation: Valuation, stats: np.ndarray) -> tuple | None:
    """Tables of purchases and time alive with dropout 1 % lower, on a discrete clock.

    There ``h s`` is no opportunity, and the rate is evaluated between them.
    """
    family, draws = valuation.purchases, valuation.draws
    if family.clock != "discrete" or family.latent_rate is not None:
        return None
    plan = make_schedule(family, draws, stats, [valuation.flow])
    plan = replace(plan, nodes=plan.nodes * (1 - BETTER))
    kept = None
    if valuation.assumptions.cost_alive and family.survival is not None:
        kept = tabulate(replace(family, rate=family.survival), draws, stats, [valuation.flow], plan)
    return tabulate(family, draws, stats, [valuation.flow], plan), kept
