"""The bridge between two dates: why equity moved, draw by draw, and the return on it.

For parameters θ and assumptions a, V(S; D, θ, a) is the value at level expected of customers S with
histories D. Between an opening (C0, D0) and a closing (C1, D1), τ time units later, the lines are

====================  =======================================================================
``unwinding``         O (e^(δτ) - 1), O the opening
``release``           -e^(δτ) V(C0; D0) of the margin expected within τ
``bought, silent``    V(new purchases, old spend) - X over customers who bought, or did not; X = O +
                      unwinding + release is what was expected
``basket``            V(new purchases, new spend) - V(new purchases, old spend)
``new``               V of customers whose first purchase lies between the dates
``horizon_roll``      V to the full horizon - V to what was left of the old one; the same of the window
                      in which customers are addressed at a cost
``perimeter``         customers who vanished (-X), appeared with an older first purchase, or whose
                      history was rewritten
``periods``           discounting by periods instead of continuously, which all lines above do
``purchases, spend``  parameters re-estimated, first of the purchase then of the spend model
``margin, cost,       one assumption after the other, in this order; or each the average over all
discount, horizon``   orders (Shapley)
``model``             another model class
====================  =======================================================================

With ``basis="opening"`` movements use the opening's parameters and assumptions, and the last four
rows follow at the closing date: movements are honest forecast errors. With ``basis="closing"`` those
rows come first, at the opening date (a restatement), and movements use the closing's: their joint
posterior is exact, but parameters that have seen the movement explain more of it.

The cost of keeping customers is in V, and so in every line. No log tells what of it was paid between
the dates: it is taken to be what was expected.

Under the model, realized margin less that cost, accumulated to the closing, and the closing's value of
the same customers have the expectation e^(δτ) O.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from clvmodels.artifacts import (
    DAYS_PER_UNIT,
    Assumptions,
    FamilyPosterior,
    Posterior,
    Segment,
    Summary,
    interval,
)
from clvmodels.effects import Effects
from clvmodels.equity import newcomers
from clvmodels.equity.shapley import contributions
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.numerics import loops
from clvmodels.value import Flow, Natives, valuation_flow
from clvmodels.value.presence import span, tabulate_presence
from clvmodels.value.residual import tabulate
from clvmodels.value.stream import spend_statistics
from clvmodels.value.threads import ordered

Basis = Literal["closing", "opening"]
Scope = Literal["existing", "with_acquired", "total"]
Attribution = Literal["sequential", "shapley"]
BASES: tuple[Basis, ...] = ("closing", "opening")
MOVEMENTS = (
    *("unwinding", "release", "bought", "silent", "basket"),
    *("new", "horizon_roll", "perimeter", "periods"),
)
ASSUMPTIONS = ("margin", "cost", "discount", "horizon")
REVISIONS = ("purchases", "spend", *ASSUMPTIONS, "model")
LINES = ("opening", *MOVEMENTS, *REVISIONS, "closing")
ORDER: Mapping[Basis, tuple[str, ...]] = {
    "opening": LINES,
    "closing": ("opening", *REVISIONS, *MOVEMENTS, "closing"),
}
"""Lines of a basis in the order in which they lead from opening to closing."""
KINDS = ("bought", "silent", "new", "vanished", "appeared", "rewritten")
SCOPES: tuple[Scope, ...] = ("existing", "with_acquired", "total")
ATTRIBUTIONS: tuple[Attribution, ...] = ("sequential", "shapley")

_TILE = 256
_SAME_TIME = 1e-6  # durations in time units that differ by less are equal


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two dates.

    Attributes
    ----------
    summary, posterior, assumptions
        As they were used at this date.
    margin_of_other
        Margin ratio that this date's rule gives the customers of the other date, shape (customer of
        the other date,); where it is left out, a customer who is at one date only has one margin.
    """

    summary: Summary
    posterior: Posterior
    assumptions: Assumptions
    margin_of_other: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Movement:
    """The bridge in one basis.

    Attributes
    ----------
    lines
        Shape (line, draw) in the order of ``LINES``, currency: opening and closing as published,
        and what leads from one to the other.
    acquired
        The part of ``lines`` that belongs to customers acquired between the dates.
    newcomers
        Line ``new`` in the parts of :mod:`clvmodels.equity.newcomers`, shape (draw,) each, and
        ``periods`` where discounting is not continuous; empty where nobody was acquired.
    segments
        Column → (labels, shape (line, segment, draw)).
    margin_expected, margin_existing, margin_acquired
        Of orders, accumulated to the closing date at δ, currency: expected of the opening's customers,
        shape (draw,), and realized, floats.
    cost_existing, cost_acquired
        What keeping the opening's customers, and those acquired since, was expected to cost between the
        dates, accumulated in the same way, shape (draw,), currency.
    hurdle
        e^(δτ) - 1.
    residual
        Closing, valued on its own, less the sum of the other lines, shape (draw,).
    """

    basis: Basis
    lines: np.ndarray
    acquired: np.ndarray
    newcomers: Mapping[str, np.ndarray]
    segments: Mapping[str, tuple[tuple[str, ...], np.ndarray]]
    margin_expected: np.ndarray
    margin_existing: float
    margin_acquired: float
    cost_existing: np.ndarray
    cost_acquired: np.ndarray
    hurdle: float
    residual: np.ndarray

    def __getitem__(self, line: str) -> np.ndarray:
        return self.lines[LINES.index(line)]

    @property
    def start(self) -> np.ndarray:
        """Opening with the parameters and assumptions of the movements: restated in basis closing."""
        opening = self["opening"]
        return opening if self.basis == "opening" else opening + _sum(self.lines, REVISIONS)


@dataclass(frozen=True)
class FutureEquity:
    """Equity of customers not yet acquired, net of what acquiring them costs.

    Attributes
    ----------
    opening, closing
        At the two dates, shape (draw,), currency.
    release
        The part of ``opening`` that was to be acquired between the dates, accumulated to the closing:
        value at the closing and margin until then, less acquisition cost, all as expected at the
        opening, shape (draw,), currency. Without a surprise closing - roll = e^(δτ) opening - release.
    roll
        The part of ``closing`` beyond the end of the opening's forecast (and horizon), which moved on
        with the date, shape (draw,), currency.
    due
        Customers who were to be acquired between the dates, shape (draw,).
    growth
        e^(δτ) of the opening.
    """

    opening: np.ndarray
    closing: np.ndarray
    release: np.ndarray
    roll: np.ndarray
    due: np.ndarray
    growth: float

    @property
    def unwinding(self) -> np.ndarray:
        return (self.growth - 1) * self.opening

    @property
    def revision(self) -> np.ndarray:
        """What is now expected of the opening's forecast beyond what was expected then."""
        return self.closing - self.roll - (self.growth * self.opening - self.release)

    def paired(self, order: np.ndarray | None) -> FutureEquity:
        """With the opening's draws in the order of :attr:`Bridge.order`."""
        if order is None:
            return self
        moved = {name: getattr(self, name) for name in ("opening", "release", "due")}
        return replace(self, **{n: v[order] if len(v) > 1 else v for n, v in moved.items()})


@dataclass(frozen=True, kw_only=True)
class Return:
    """Return on the equity of the opening, (cash + change of equity) / opening, per draw.

    Attributes
    ----------
    value
        Shape (draw,), per period; NaN where it is not defined.
    created
        Cash + change of equity - hurdle × opening, currency: value created beyond the hurdle.
    parts
        Line → share of the opening. In the place of ``release`` stands ``margin_variance``, realized
        less expected margin; acquired customers bring ``margin_acquired`` and ``acquisition_cost``;
        future customers bring ``future_unwinding``, ``future_release`` (what was expected of those
        who were to be acquired since), ``future_roll`` (the forecast's end moved on) and
        ``future_revision``. They add up to ``value``.
    defined
        False where the opening, or its 95 % interval, is not above zero.
    """

    value: np.ndarray
    created: np.ndarray
    hurdle: float
    parts: Mapping[str, np.ndarray]
    defined: bool

    @property
    def excess(self) -> np.ndarray:
        return self.value - self.hurdle

    @property
    def chance(self) -> float | None:
        """P(value created beyond the hurdle); None for a single parameter vector."""
        return float((self.created > 0).mean()) if len(self.created) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """Both bases, and the customers.

    Attributes
    ----------
    coupling
        How draws of the two posteriors were paired: ``independent``, ``comonotone``, ``identical``
        (one and the same posterior) or ``point`` (at least one parameter vector). It decides the
        intervals of lines that compare the two, and slightly how their sum is split over them.
    attribution
        ``sequential``: changed assumptions one after the other; ``shapley``: averaged over all orders.
    elapsed
        τ in time units; ``years`` the same in years.
    counts
        Number of customers of every kind in ``KINDS``.
    customers
        pyarrow Table, one row per customer of either date, see :func:`build`.
    accumulation
        ``by day``, or ``uniform``: how realized margin was brought to the closing date.
    alert
        Currency: the shortfall that ``p_shortfall`` of ``customers`` is about.
    order
        Draw of the opening's posterior that stands at each place of ``lines``; None: as they were.
    """

    movements: Mapping[Basis, Movement]
    coupling: str
    attribution: Attribution
    elapsed: float
    years: float
    counts: Mapping[str, int]
    customers: Any
    accumulation: str
    alert: float
    level: str
    currency: str
    order: np.ndarray | None = None

    def alerts(self, probability: float = 0.5) -> Any:
        """Customers who fell short of expectation by ``alert`` with at least this probability.

        Level expected (for one parameter vector: those who did), the largest shortfall first.
        """
        import pyarrow.compute as pc

        table = self.customers
        found = table.filter(pc.greater_equal(table["p_shortfall"], probability))
        return found.sort_by([("surprise", "ascending"), ("customer", "ascending")])


def build(
    opening: Side,
    closing: Side,
    *,
    refitted: Posterior | None = None,
    coupling: Literal["independent", "comonotone"] = "independent",
    attribution: Attribution = "sequential",
    revenue: np.ndarray | None = None,
    alert: float | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Bridge:
    """The bridge from an opening to a closing.

    Parameters
    ----------
    refitted
        The opening's model class fitted to the closing's data, where the closing's class is
        another; left out, all of that change is on the line ``model``.
    coupling
        How draws of the opening's and the closing's posterior meet: in random order, or sorted by
        V(C1; D1, ·, opening's assumptions).
    attribution
        How changed assumptions share their common effect, see :class:`Bridge`.
    revenue
        Revenue of each of the closing's customers between the dates, accumulated to the closing at
        the opening's and at the closing's δ, shape (customer, 2). Left out: from the differences
        of the summaries, as if it came evenly.
    alert
        Shortfall in currency; default: the margin of an average first order.
    seed
        Of the random order.

    Returns
    -------
    Bridge
        ``customers`` has the columns ``customer``, ``kind``, ``value_opening``, ``value_closing``,
        ``change``, ``change_per_year``, ``expected_change`` (drift), ``surprise``, ``revision``
        (posterior means), ``p_increase`` (of value_closing over value_opening), ``p_shortfall``
        (surprise below -alert), ``margin_realized``, ``margin_expected``. Drift and surprise are
        those of basis opening. Level expected.

    Raises
    ------
    InputError
        If the dates are reversed, the two have no customer in common, or differ in unit, clock,
        currency or number of draws.
    """
    _refuse(opening, closing)
    kinds = _kinds(opening.summary, closing.summary)
    tau = kinds.elapsed
    posteriors, how, order = _coupled(opening, closing, refitted, coupling, seed)
    plan = _Plan(opening, closing, posteriors, kinds, attribution)
    exact = revenue is not None
    earned = revenue if revenue is not None else _even(opening, closing, kinds)
    if alert is None:
        first = closing.summary["first_amount"]
        alert = float(abs((closing.assumptions.margin * first).mean()))
    draws = max(len(opening.posterior), len(closing.posterior), *(len(p) for p in posteriors))
    columns, labels = _groups(opening.summary, closing.summary)
    size = 1 + sum(map(len, labels.values()))
    sums = {basis: np.zeros((len(LINES), size, draws)) for basis in BASES}
    acquired = {basis: np.zeros((len(LINES), draws)) for basis in BASES}
    expected = {basis: np.zeros(draws) for basis in BASES}
    cash = {basis: np.zeros(2) for basis in BASES}
    kept = {basis: np.zeros(draws) for basis in BASES}
    smooth_new = {basis: np.zeros(draws) for basis in BASES}
    found: list[dict[str, Any]] = []

    def work(tile: _Tile) -> tuple[_Tile, dict[Basis, np.ndarray], dict[Basis, Any], dict[str, Any]]:
        states = plan.states(tile)
        membership = np.zeros((size, len(tile)))
        membership[0] = 1
        at = 1
        for name, these in labels.items():
            codes = columns[name][0 if tile.at_opening else 1][tile.old if tile.at_opening else tile.new]
            membership[at + codes, np.arange(len(tile))] = 1
            at += len(these)
        reduced, paid = {}, {}
        for basis in BASES:
            lines = states.lines(basis)
            block = np.zeros((len(LINES), size, draws))
            for name, values in lines.items():
                block[LINES.index(name)] = membership @ np.broadcast_to(values, (len(tile), draws))
            reduced[basis] = block
            side = int(basis == "closing")
            got = np.zeros(len(tile))
            if tile.at_closing:
                got = states.margins[side] * earned[tile.new, side]
            fresh = states.smooth(basis).sum(axis=0) if tile.kind == "new" else None
            spent = np.broadcast_to(states.kept(basis), (len(tile), draws)).sum(axis=0)
            paid[basis] = (got, spent - block[LINES.index("release"), 0], fresh, spent)
        return tile, reduced, paid, states.details(alert, paid["opening"][0])

    for tile, reduced, paid, details in ordered(work, kinds.tiles(), threads):
        for basis in BASES:
            sums[basis] += reduced[basis]
            got, due, fresh, spent = paid[basis]
            expected[basis] += due
            kept[basis] += spent
            if tile.kind == "new":
                acquired[basis] += reduced[basis][:, 0]
                smooth_new[basis] += fresh
            cash[basis][int(tile.kind == "new")] += got.sum()
        found.append(details)

    movements = {}
    for basis, used in zip(BASES, (closing, opening), strict=True):
        lines, at, segments = sums[basis][:, 0], 1, {}
        for name, these in labels.items():
            segments[name] = (these, sums[basis][:, at : at + len(these)])
            at += len(these)
        parts, cost = plan.newcomers(basis, smooth_new[basis], acquired[basis][LINES.index("new")])
        movements[basis] = Movement(
            basis=basis,
            lines=lines,
            acquired=acquired[basis],
            newcomers=parts,
            segments=segments,
            margin_expected=expected[basis],
            margin_existing=float(cash[basis][0]),
            margin_acquired=float(cash[basis][1]),
            cost_existing=kept[basis],
            cost_acquired=np.broadcast_to(cost, draws),
            hurdle=float(np.expm1(used.assumptions.delta * tau)),
            residual=lines[-1] - lines[:-1].sum(axis=0),
        )
    return Bridge(
        movements=movements,
        coupling=how,
        attribution=attribution,
        elapsed=tau,
        years=tau / closing.assumptions.units_per_year,
        counts={kind: len(kinds.old[kind]) for kind in KINDS},
        customers=_table(found, tau / closing.assumptions.units_per_year),
        accumulation="by day" if exact else "uniform",
        alert=alert,
        level="point" if draws == 1 else "expected",
        currency=closing.summary.currency,
        order=order,
    )


def return_on_customer(
    movement: Movement,
    scope: Scope = "existing",
    *,
    revised: bool = True,
    acquisition_cost: float = 0.0,
    future: FutureEquity | None = None,
) -> Return:
    """(Cash from customers + change of equity) / opening equity over the period between the dates.

    Cash is realized margin less what keeping customers was expected to cost, accumulated to the
    closing date, so that without a surprise the return is the hurdle e^(δτ) - 1. ("Return on Customer"
    is a service mark of Peppers & Rogers Group.)

    Parameters
    ----------
    scope
        The opening's customers; those and the customers acquired since, net of ``acquisition_cost``;
        or, with ``future``, also the customers still to be acquired at either date (the scope of
        Peppers and Rogers), where acquisition that had been planned is no new value.
    revised
        With the opening as published and all lines, or without the lines ``REVISIONS`` and without
        ``horizon_roll``, from ``movement.start``: what was achieved, apart from what is now thought
        differently and from a later end of the horizon. Without a surprise that is the hurdle.
    acquisition_cost
        Spent on acquisition between the dates, accumulated to the closing date, currency.
    future
        Needed for scope ``total``, and for no other. Without revisions its lines ``future_revision``
        and ``future_roll`` are left out too.
    """
    if (future is None) == (scope == "total"):
        raise ValueError("scope total, and no other, needs the equity of future customers")
    lines = movement.lines - movement.acquired if scope == "existing" else movement.lines
    start = movement["opening"] if revised else movement.start
    achieved = tuple(name for name in MOVEMENTS if name != "horizon_roll")
    names = (*MOVEMENTS, *REVISIONS) if revised else achieved
    gains = {name: lines[LINES.index(name)] for name in names}
    gains["margin_variance"] = movement.margin_existing - movement.cost_existing + gains.pop("release")
    if scope != "existing":
        gains["margin_acquired"] = movement.margin_acquired - movement.cost_acquired
        gains["acquisition_cost"] = np.full(len(start), -float(acquisition_cost))
    if future is not None:
        gains["future_unwinding"] = future.unwinding
        gains["future_release"] = -future.release
        if revised:
            gains["future_roll"] = future.roll
            gains["future_revision"] = future.revision
        start = start + future.opening
    gain = np.sum(list(gains.values()), axis=0)
    low = interval(start, 0.95)[0] if len(start) > 1 else start.min()
    defined = bool(start.mean() > 0 and low > 0)
    base = start if defined else np.full(len(start), np.nan)
    return Return(
        value=gain / base,
        created=gain - movement.hurdle * start,
        hurdle=movement.hurdle,
        parts={name: value / base for name, value in gains.items()},
        defined=defined,
    )


def _sum(lines: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    return lines[[LINES.index(name) for name in names]].sum(axis=0)


def _refuse(opening: Side, closing: Side) -> None:
    """Raise for two sides that cannot be compared."""
    a, b = opening.summary, closing.summary
    if a.observation_end > b.observation_end:
        raise InputError(
            f"the bridge would lead back from {a.observation_end} to {b.observation_end}: "
            "give the earlier date first."
        )
    for what, one, other in (
        ("currency", a.currency, b.currency),
        ("time unit", a.time_unit, b.time_unit),
        ("clock", a.clock, b.clock),
    ):
        if one != other:
            raise InputError(
                f"the opening has {what} {one} and the closing {other}: a bridge needs one {what}."
            )
    for side in (opening, closing):
        if side.assumptions.cost_alive and valuation_flow(side.assumptions).undiscounted_forever:
            raise InputError(
                "value.cost.while_alive is paid for ever: set a positive value.annual_discount_rate or a "
                "finite value.horizon."
            )
    sizes = {len(opening.posterior), len(closing.posterior)} - {1}
    if len(sizes) > 1:
        raise InputError(
            f"the opening has {len(opening.posterior):,} posterior draws and the closing "
            f"{len(closing.posterior):,}: fit both with the same fit.draws."
        )


# --- who is who ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tile:
    """Customers of one kind: positions at the opening and at the closing (-1: not there)."""

    kind: str
    old: np.ndarray
    new: np.ndarray

    def __len__(self) -> int:
        return len(self.old)

    @property
    def at_opening(self) -> bool:
        return self.kind not in ("new", "appeared")

    @property
    def at_closing(self) -> bool:
        return self.kind != "vanished"


@dataclass(frozen=True)
class _Kinds:
    """Positions of the customers of every kind at both dates, and the time between the dates."""

    old: Mapping[str, np.ndarray]
    new: Mapping[str, np.ndarray]
    elapsed: float

    def tiles(self) -> Iterator[_Tile]:
        for kind in KINDS:
            old, new = self.old[kind], self.new[kind]
            for low in range(0, len(old), _TILE):
                yield _Tile(kind, old[low : low + _TILE], new[low : low + _TILE])


def _kinds(a: Summary, b: Summary) -> _Kinds:
    shared, i, j = np.intersect1d(a.customer, b.customer, assume_unique=True, return_indices=True)
    if not len(shared):
        raise InputError(
            f"none of the {len(a):,} customers of {a.observation_end} is among the {len(b):,} of "
            f"{b.observation_end}: a bridge follows customers by their id, which has to stay the same."
        )
    days = (b.observation_end - a.observation_end).days
    grown = b["T"][j] - a["T"][i]
    tau = days / DAYS_PER_UNIT[a.time_unit] if a.clock == "continuous" else float(np.median(grown))
    more = b["frequency"][j] - a["frequency"][i]
    later = b["recency"][j] - a["recency"][i]
    rewritten = (np.abs(grown - tau) > _SAME_TIME) | (more < 0) | (a.first_day[i] != b.first_day[j])
    rewritten |= (more == 0) & (np.abs(later) > _SAME_TIME)
    bought = ~rewritten & (more > 0)
    silent = ~rewritten & (more == 0)
    gone = np.setdiff1d(np.arange(len(a)), i)
    arrived = np.setdiff1d(np.arange(len(b)), j)
    fresh = b.first_day[arrived] > np.datetime64(a.observation_end)
    none = np.full(len(gone), -1)
    old = {"bought": i[bought], "silent": i[silent], "rewritten": i[rewritten], "vanished": gone}
    new = {"bought": j[bought], "silent": j[silent], "rewritten": j[rewritten], "vanished": none}
    new |= {"new": arrived[fresh], "appeared": arrived[~fresh]}
    old |= {kind: np.full(len(new[kind]), -1) for kind in ("new", "appeared")}
    return _Kinds(old, new, tau)


def _groups(
    a: Summary, b: Summary
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, tuple[str, ...]]]:
    """Codes of both dates' customers into the labels of either, for the columns of both."""
    codes, labels = {}, {}
    for name in b.segments:
        if name not in a.segments:
            continue
        pair: tuple[Segment, Segment] = (a.segments[name], b.segments[name])
        every = tuple(sorted({*pair[0].labels, *pair[1].labels}))
        place = {label: k for k, label in enumerate(every)}
        codes[name] = tuple(np.array([place[label] for label in s.labels], int)[s.codes] for s in pair)
        labels[name] = every
    return codes, labels


def paid_between(opening: Summary, closing: Summary) -> tuple[np.ndarray, np.ndarray]:
    """What customers paid between two summaries, by the difference of their histories.

    Returns
    -------
    customer
        Positions at the closing of customers who can be followed: bought, silent and new.
    revenue
        Shape (customer,), not accumulated, currency.
    """
    return _paid_between(opening, closing, _kinds(opening, closing))


def _paid_between(a: Summary, b: Summary, kinds: _Kinds) -> tuple[np.ndarray, np.ndarray]:
    known = np.concatenate([kinds.new[kind] for kind in ("bought", "silent", "new")])
    revenue = b["frequency"] * np.nan_to_num(b["monetary_value"])
    for kind in ("bought", "silent"):
        old, new = kinds.old[kind], kinds.new[kind]
        revenue[new] -= a["frequency"][old] * np.nan_to_num(a["monetary_value"][old])
    revenue[kinds.new["new"]] += b["first_amount"][kinds.new["new"]]
    return known, revenue[known]


def _even(opening: Side, closing: Side, kinds: _Kinds) -> np.ndarray:
    """Revenue between the dates from the summaries, accumulated as if it came evenly."""
    known, revenue = _paid_between(opening.summary, closing.summary, kinds)
    out = np.zeros((len(closing.summary), 2))
    for k, side in enumerate((opening, closing)):
        grown = side.assumptions.delta * kinds.elapsed
        out[known, k] = revenue * (np.expm1(grown) / grown if grown else 1.0)
    return out


# --- draws ---------------------------------------------------------------------------------------


def _coupled(
    opening: Side, closing: Side, refitted: Posterior | None, coupling: str, seed: int
) -> tuple[tuple[Posterior, Posterior, Posterior], str, np.ndarray | None]:
    """Opening's, refitted and closing's posterior with their draws paired, how, and the opening's order."""
    before, after = opening.posterior, closing.posterior
    if refitted is None:
        same_class = all(
            getattr(before, role).family == getattr(after, role).family for role in ("purchases", "spend")
        )
        refitted = after if same_class else before
    if _equal(before, after):
        return (after, after, after), "identical", None
    if before.is_point or after.is_point:
        return (before, refitted, after), "point", None

    def follow(posterior: Posterior, stream: int) -> np.ndarray:
        """The order of a posterior's draws in which they meet those of the closing."""
        if coupling == "comonotone":
            ranks = np.argsort(np.argsort(total(after), kind="stable"))
            return np.argsort(total(posterior), kind="stable")[ranks]
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4, stream)))
        return rng.permutation(len(posterior))

    flow = valuation_flow(opening.assumptions)
    totals: dict[int, np.ndarray] = {}

    def total(posterior: Posterior) -> np.ndarray:
        if id(posterior) not in totals:
            totals[id(posterior)] = _total(closing, posterior, flow)
        return totals[id(posterior)]

    order = follow(before, 0)
    paired = _reordered(before, order)
    middle = refitted
    if refitted is before:
        middle = paired
    elif refitted is not after and not refitted.is_point:
        middle = _reordered(refitted, follow(refitted, 1))
    return (paired, middle, after), coupling, order


def _equal(a: Posterior, b: Posterior) -> bool:
    return all(
        getattr(a, role).family == getattr(b, role).family
        and np.array_equal(getattr(a, role).flat, getattr(b, role).flat)
        and _same_effects(getattr(a, role).effects, getattr(b, role).effects)
        for role in ("purchases", "spend")
    )


def _same_effects(a: Effects | None, b: Effects | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.terms == b.terms and np.array_equal(a.flat, b.flat)


def _reordered(posterior: Posterior, order: np.ndarray) -> Posterior:
    """The same joint draws in another order, as one chain."""
    parts = {}
    for role in ("purchases", "spend"):
        part = getattr(posterior, role)
        if len(part.flat) > 1:
            effects = part.effects and replace(part.effects, draws=part.effects.flat[order][None])
            part = replace(part, draws=part.flat[order][None], effects=effects)
        parts[role] = part
    return replace(posterior, **parts)


def _total(side: Side, posterior: Posterior, flow: Flow) -> np.ndarray:
    """Value of a side's customers under a posterior and a flow, shape (draw,)."""
    policy = _Cost.of(side.assumptions)
    bought = _Purchases(side.summary, posterior, [flow], [flow] if policy.alive else [])
    spent = _Spend(side.summary, posterior)
    customers = bought.order
    total = np.zeros(len(posterior))
    for low in range(0, len(customers), _TILE):
        tile = customers[low : low + _TILE]
        total += side.assumptions.margin[tile] @ (bought.at(tile)[:, 0] * spent.at(tile))
        if policy.alive:
            total -= policy.alive * bought.there(tile)[:, 0].sum(axis=0)
    return total


# --- values --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cost:
    """What keeping a customer costs, currency per time unit: while there, and while addressed."""

    alive: float
    addressed: float
    window: float

    @classmethod
    def of(cls, assumptions: Assumptions) -> _Cost:
        a = assumptions
        return cls(a.cost_alive, a.cost_addressed, a.cost_window)

    def contact(self, flow: Flow, discrete: bool, passed: float = 0.0) -> float:
        """Of addressing one customer in a flow, ``passed`` time units of the window being over."""
        if not self.addressed:
            return 0.0
        end = min(flow.horizon, max(self.window - passed, 0.0))
        return self.addressed * float(span([replace(flow, horizon=end)], discrete)[0])


@dataclass(frozen=True)
class _Patterns:
    """Customers by what they share of one posterior's native draws: all of them, without effects.

    Attributes
    ----------
    draws
        Native draws of each pattern, shape (draw, parameter).
    members
        Customers of each.
    number, local
        Pattern of each customer, and its position in ``members``.
    """

    draws: list[np.ndarray]
    members: list[np.ndarray]
    number: np.ndarray
    local: np.ndarray

    @classmethod
    def of(cls, part: FamilyPosterior, summary: Summary, draws: int) -> _Patterns:
        found = cls([], [], np.empty(len(summary), int), np.empty(len(summary), int))
        for theta, members in Natives.of(part, summary).groups():
            found.number[members], found.local[members] = len(found.draws), np.arange(len(members))
            found.draws.append(np.array(np.broadcast_to(theta, (draws, theta.shape[1])), order="C"))
            found.members.append(members)
        return found

    def over(self, customers: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Pattern, places among ``customers``, and positions in ``members``."""
        number = self.number[customers]
        for k in np.unique(number):
            at = np.flatnonzero(number == k)
            yield int(k), at, self.local[customers[at]]


class _Purchases:
    """Expected discounted purchases, and time alive, of a summary's customers under one posterior."""

    def __init__(self, summary: Summary, posterior: Posterior, flows: list[Flow], alive: list[Flow]) -> None:
        self.family = registry.purchases(posterior.purchases.family)
        self.patterns = _Patterns.of(posterior.purchases, summary, len(posterior))
        self.shape = len(flows), len(posterior)
        rows, self.tables, self.presence = [], [], []
        for draws, members in zip(self.patterns.draws, self.patterns.members, strict=True):
            own = summary.take(members).fold(self.family.state)
            rows.append(own)
            self.tables.append(tabulate(self.family, draws, own.stats, flows))
            if alive:
                self.presence.append(tabulate_presence(self.family, draws, own.stats, alive))
        self.rows = rows

    @property
    def order(self) -> np.ndarray:
        """Customers, those of equal pattern and statistics next to each other."""
        return np.concatenate([
            members[np.argsort(rows.index, kind="stable")]
            for members, rows in zip(self.patterns.members, self.rows, strict=True)
        ])  # fmt: skip

    def at(self, customers: np.ndarray) -> np.ndarray:
        """Purchases, shape (customer, flow, draw)."""
        return self._times_alive(self.tables, customers)

    def there(self, customers: np.ndarray) -> np.ndarray:
        """Time alive, shape (customer, flow, draw), time units."""
        assert self.presence
        return self._times_alive(self.presence, customers)

    def _times_alive(self, tables: Sequence[Any], customers: np.ndarray) -> np.ndarray:
        out = np.empty((len(customers), *self.shape))
        for k, at, local in self.patterns.over(customers):
            own, draws = self.rows[k], self.patterns.draws[k]
            rows, place = np.unique(own.index[local], return_inverse=True)
            alive = np.empty((len(rows), len(draws)))
            loops.over_stats(self.family.p_alive, draws, np.ascontiguousarray(own.stats[rows]), alive)
            out[at] = (tables[k].at(rows) * alive[:, None, :])[place]
        return out


class _Spend:
    """Expected mean spend of a summary's customers under one posterior."""

    def __init__(self, summary: Summary, posterior: Posterior) -> None:
        self.family = registry.spend(posterior.spend.family)
        self.patterns = _Patterns.of(posterior.spend, summary, len(posterior))
        self.stats = spend_statistics(self.family, summary)
        self.draws = len(posterior)

    def at(self, customers: np.ndarray) -> np.ndarray:
        """Shape (customer, draw)."""
        out = np.empty((len(customers), self.draws))
        for k, at, _ in self.patterns.over(customers):
            own = np.empty((len(at), self.draws))
            stats = self.stats[customers[at]]
            loops.over_stats(self.family.expected_spend, self.patterns.draws[k], stats, own)
            out[at] = own
        return out


class _Plan:
    """Tables for both dates under every posterior, and the flows that the lines need."""

    def __init__(
        self,
        opening: Side,
        closing: Side,
        posteriors: tuple[Posterior, ...],
        kinds: _Kinds,
        attribution: Attribution,
    ) -> None:
        self.sides, self.kinds, self.attribution = (opening, closing), kinds, attribution
        self.posteriors, tau = posteriors, kinds.elapsed
        assumptions = [side.assumptions for side in self.sides]
        old, new = (_plain(valuation_flow(a)) for a in assumptions)
        self.full = (old, replace(new, horizon=old.horizon), new)
        """As at the opening; with the closing's discounting; with the closing's horizon too."""
        self.mixed = {
            (False, False): old,
            (True, False): self.full[1],
            (False, True): replace(old, horizon=new.horizon),
            (True, True): new,
        }
        """By whether discounting, and whether the horizon, are the closing's."""
        smooth = [Flow(delta=f.delta, horizon=f.horizon) for f in (old, new)]
        self.smooth = tuple(smooth)
        self.within = tuple(replace(f, horizon=min(tau, f.horizon)) for f in smooth)
        self.left = tuple(replace(f, horizon=max(f.horizon - tau, 0.0)) for f in smooth)
        self.growth = tuple(float(np.exp(a.delta * tau)) for a in assumptions)
        orders = self.mixed.values() if attribution == "shapley" else self.full
        flows = list(dict.fromkeys([*orders, *self.smooth, *self.within, *self.left]))
        self.place = {flow: k for k, flow in enumerate(flows)}
        self.costs = tuple(_Cost.of(a) for a in assumptions)
        self.discrete = closing.summary.clock == "discrete"
        costly = any(cost.alive for cost in self.costs)
        made: dict[tuple[int, int], tuple[_Purchases, _Spend]] = {}
        for date, side in enumerate(self.sides):
            for posterior in posteriors:
                if (date, id(posterior)) not in made:
                    bought = _Purchases(side.summary, posterior, flows, flows if costly else [])
                    made[date, id(posterior)] = bought, _Spend(side.summary, posterior)
        self.tables = [[made[date, id(posterior)] for posterior in posteriors] for date in (0, 1)]

    def states(self, tile: _Tile) -> _States:
        old, new = self.sides
        if tile.kind == "vanished":
            first = old.assumptions.margin[tile.old]
            last = first if new.margin_of_other is None else new.margin_of_other[tile.old]
        else:
            last = new.assumptions.margin[tile.new]
            if tile.at_opening:
                first = old.assumptions.margin[tile.old]
            else:
                first = last if old.margin_of_other is None else old.margin_of_other[tile.new]
        return _States(self, tile, (first, last), old.summary.customer, new.summary.customer)

    def newcomers(
        self, basis: Basis, smooth: np.ndarray, line: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The line ``new`` in parts, each of shape (draw,), and what keeping them was expected to cost.

        ``smooth`` is the line discounted continuously.
        """
        fresh = self.kinds.new["new"]
        if not len(fresh):
            return {}, np.zeros(1)
        model, side = (2, 1) if basis == "closing" else (0, 0)
        margins = self.states(_Tile("new", self.kinds.old["new"], fresh)).margins[side]
        bought, spent_by = self.tables[1][model]
        buys, pays = bought.patterns.number[fresh], spent_by.patterns.number[fresh]
        both, group = np.unique(np.column_stack([buys, pays]), axis=0, return_inverse=True)
        cost = self.costs[side]
        parts: dict[str, np.ndarray] = {}
        spent: np.ndarray = np.zeros(1)
        for k, (one, other) in enumerate(both):
            some = np.flatnonzero(group.ravel() == k)
            found, paid = newcomers.since_acquired(
                (bought.family, spent_by.family),
                (bought.patterns.draws[one], spent_by.patterns.draws[other]),
                self.smooth[side],
                self.sides[1].summary["T"][fresh[some]],
                margins[some],
                smooth if k == 0 else np.zeros(1),  # the line's parts add up to the value of all
                alive=cost.alive,
                contact=functools.partial(cost.contact, discrete=self.discrete),
            )
            parts = {name: value + parts.get(name, 0.0) for name, value in found.items()}
            spent = spent + paid
        periodic = self.full[model] != self.smooth[side]
        return parts | ({"periods": line - smooth} if periodic else {}), spent


class _States:
    """Values of one tile of customers: any history, parameters, margin and flow."""

    def __init__(
        self,
        plan: _Plan,
        tile: _Tile,
        margins: tuple[np.ndarray, np.ndarray],
        old_ids: np.ndarray,
        new_ids: np.ndarray,
    ) -> None:
        self.plan, self.tile, self.margins = plan, tile, margins
        self.ids = new_ids[tile.new] if tile.at_closing else old_ids[tile.old]
        self._factors: dict[tuple[str, int, int], np.ndarray] = {}

    def _factor(self, what: Literal["purchases", "there", "spend"], date: int, model: int) -> np.ndarray:
        table = self.plan.tables[date][model][int(what == "spend")]
        key = (what, date, id(table))
        if key not in self._factors:
            made: Any = table.there if what == "there" else table.at  # type: ignore[union-attr]
            self._factors[key] = made(self.tile.new if date else self.tile.old)
        return self._factors[key]

    def _cost(self, date: int, model: int, cost: int, flow: Flow, passed: float = 0.0) -> Any:
        """Cost of keeping customers within a flow, shape (customer, draw), or one number for all."""
        policy = self.plan.costs[cost]
        total: Any = policy.contact(flow, self.plan.discrete, passed)
        if policy.alive:
            total = total + policy.alive * self._factor("there", date, model)[:, self.plan.place[flow]]
        return total

    def value(
        self,
        date: int,
        purchases: int,
        spend: int,
        margin: int,
        flow: Flow,
        spend_date: int | None = None,
        cost: int | None = None,
        passed: float = 0.0,
    ) -> np.ndarray:
        """Shape (customer, draw). Models: 0 opening's, 1 refitted, 2 closing's.

        ``cost`` is the side whose cost of keeping is subtracted, by default that of ``margin``;
        ``passed`` how much of its contact window is over.
        """
        orders = self._factor("purchases", date, purchases)[:, self.plan.place[flow]]
        paid = self._factor("spend", date if spend_date is None else spend_date, spend)
        kept = self._cost(date, purchases, margin if cost is None else cost, flow, passed)
        return self.margins[margin][:, None] * paid * orders - kept

    def lines(self, basis: Basis) -> dict[str, np.ndarray]:
        """Lines of the bridge, each of shape (customer, draw); those left out are zero."""
        out: dict[str, np.ndarray] = {}
        if self.tile.at_opening:
            out["opening"] = self.value(0, 0, 0, 0, self.plan.full[0])
            if basis == "closing":
                out |= self._revised(0)
            out |= self._carried(basis)
        if self.tile.at_closing:
            arrived, restart = self._arrived(basis, out)
            out |= arrived
            out["periods"] = out.get("periods", 0.0) + restart
            if basis == "opening":
                out |= self._revised(1)
            out["closing"] = self.value(1, 2, 2, 1, self.plan.full[2])
        return out

    def _settings(self, basis: Basis) -> tuple[int, int, int, Flow]:
        """Model, side, margin and full flow that the movements of a basis use."""
        return (2, 1, 1, self.plan.full[2]) if basis == "closing" else (0, 0, 0, self.plan.full[0])

    def smooth(self, basis: Basis) -> np.ndarray:
        """Value at the closing, discounted continuously, shape (customer, draw)."""
        model, side, margin, _ = self._settings(basis)
        return self.value(1, model, model, margin, self.plan.smooth[side])

    def kept(self, basis: Basis) -> Any:
        """What keeping the opening's customers was expected to cost, accumulated to the closing."""
        if not self.tile.at_opening:
            return 0.0
        model, side, _, _ = self._settings(basis)
        return self.plan.growth[side] * self._cost(0, model, side, self.plan.within[side])

    def _carried(self, basis: Basis) -> dict[str, np.ndarray]:
        """What was expected to happen to the opening's customers."""
        model, side, margin, full = self._settings(basis)
        published = self.value(0, model, model, margin, full)
        smooth = self.value(0, model, model, margin, self.plan.smooth[side])
        due = self.value(0, model, model, margin, self.plan.within[side])
        growth = self.plan.growth[side]
        out = {"unwinding": smooth * (growth - 1), "release": -growth * due, "periods": smooth - published}
        if self.tile.kind == "vanished":
            out["perimeter"] = -growth * (smooth - due)
        return out

    def expected(self, basis: Basis) -> np.ndarray:
        """Value at the closing date that was expected at the opening."""
        model, side, margin, _ = self._settings(basis)
        smooth = self.value(0, model, model, margin, self.plan.smooth[side])
        return self.plan.growth[side] * (smooth - self.value(0, model, model, margin, self.plan.within[side]))

    def _arrived(self, basis: Basis, so_far: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Any]:
        """What did happen, and what discounting by periods changes at the closing."""
        model, side, margin, full = self._settings(basis)
        kind = self.tile.kind
        whole = self.value(1, model, model, margin, full)
        if kind in ("new", "appeared"):
            return {"new" if kind == "new" else "perimeter": whole}, 0.0
        smooth = self.value(1, model, model, margin, self.plan.smooth[side])
        if kind == "rewritten":
            return {"perimeter": smooth - self.expected(basis)}, whole - smooth
        left, tau = self.plan.left[side], self.plan.kinds.elapsed
        old_spend = self.value(1, model, model, margin, left, spend_date=0, passed=tau)
        same = self.value(1, model, model, margin, left, passed=tau)
        return {
            kind: old_spend - self.expected(basis),
            "basket": same - old_spend,
            "horizon_roll": smooth - same,
        }, whole - smooth

    def _revised(self, date: int) -> dict[str, np.ndarray]:
        """Parameters, assumptions and model, one after the other, at one date."""
        flow = self.plan.full[0]
        published = self.value(date, 0, 0, 0, flow)
        repurchased = self.value(date, 1, 0, 0, flow)
        refitted = self.value(date, 1, 1, 0, flow)
        out = {"purchases": repurchased - published, "spend": refitted - repurchased}
        out |= self._assumed(date)
        reassumed = self.value(date, 1, 1, 1, self.plan.full[2])
        return out | {"model": self.value(date, 2, 2, 1, self.plan.full[2]) - reassumed}

    def _assumed(self, date: int) -> dict[str, np.ndarray]:
        """Assumptions: one after the other, or each averaged over all orders."""

        def value(changed: frozenset[str]) -> np.ndarray:
            flow = self.plan.mixed["discount" in changed, "horizon" in changed]
            return self.value(date, 1, 1, int("margin" in changed), flow, cost=int("cost" in changed))

        if self.plan.attribution == "shapley":
            old, new = self.plan.full[0], self.plan.full[2]
            moved = {
                "margin": not np.array_equal(*self.margins),
                "cost": self.plan.costs[0] != self.plan.costs[1],
                "discount": replace(old, horizon=new.horizon) != new,
                "horizon": old.horizon != new.horizon,
            }
            changes = [name for name in ASSUMPTIONS if moved[name]]
            return contributions(changes, value) if changes else {}
        out, before = {}, value(frozenset())
        for k, name in enumerate(ASSUMPTIONS, start=1):
            after = value(frozenset(ASSUMPTIONS[:k]))
            out[name] = after - before
            before = after
        return out

    def details(self, alert: float, margin_realized: np.ndarray) -> dict[str, Any]:
        """Posterior means and probabilities of every customer, basis opening."""
        n, none = len(self.tile), np.full(len(self.tile), np.nan)
        opening = self.value(0, 0, 0, 0, self.plan.full[0]) if self.tile.at_opening else np.zeros((n, 1))
        closing = self.value(1, 2, 2, 1, self.plan.full[2]) if self.tile.at_closing else np.zeros((n, 1))
        change = closing - opening
        out = {
            "customer": self.ids,
            "kind": [self.tile.kind] * n,
            "value_opening": opening.mean(axis=1) if self.tile.at_opening else none,
            "value_closing": closing.mean(axis=1) if self.tile.at_closing else none,
            "change": change.mean(axis=1),
            "expected_change": none,
            "surprise": none,
            "revision": none,
            "p_increase": (change > 0).mean(axis=1),
            "p_shortfall": none,
            "margin_realized": margin_realized,
            "margin_expected": none,
        }
        if self.tile.at_opening:
            carried = self._carried("opening")
            drift = carried["unwinding"] + carried["release"]
            out["expected_change"] = drift.mean(axis=1)
            due = np.broadcast_to(self.kept("opening"), drift.shape) - carried["release"]
            out["margin_expected"] = due.mean(axis=1)
            if self.tile.kind in ("bought", "silent"):
                left = self.plan.left[0]
                surprise = self.value(1, 0, 0, 0, left, passed=self.plan.kinds.elapsed)
                surprise = surprise - self.expected("opening")
                out["surprise"] = surprise.mean(axis=1)
                out["revision"] = out["change"] - out["expected_change"] - out["surprise"]
                out["p_shortfall"] = (surprise < -alert).mean(axis=1)
        return out


def _plain(flow: Flow) -> Flow:
    return replace(flow, period=1.0) if flow.timing == "continuous" else flow


def _table(found: list[dict[str, Any]], years: float) -> Any:
    """One row per customer, sorted by id."""
    import pyarrow as pa

    columns = {name: np.concatenate([np.asarray(part[name]) for part in found]) for name in found[0]}
    order = np.argsort(columns["customer"], kind="stable")
    data = {name: column[order] for name, column in columns.items()}
    out: dict[str, Any] = {}
    for name, column in data.items():
        text = name in ("customer", "kind")
        out[name] = pa.array(column.tolist(), pa.string()) if text else pa.array(column, from_pandas=True)
        if name == "change":
            per_year = column / years if years > 0 else np.full(len(column), np.nan)
            out["change_per_year"] = pa.array(per_year, from_pandas=True)
    return pa.table(out)
