"""Level systematic: predictive, and what moves all customers together.

Given the parameters the customers of a model are independent, so its intervals shrink with their
number; promotions, seasons and the economy do not. The weeks of the window tell how far reality
strayed from what the model expects of these customers given their first days (``fit/shocks.py``
for purchases and for the mean basket); the two processes are continued beyond the data, and
every predictive draw is multiplied by one shared path: its flow of expected purchases (of value, for
equity) weighs the weeks of the path. Shocks are not diversified over customers or segments.

Baskets are read twice. What passes is told by the mean basket of all orders of a week (:func:`of_weeks`), for
a promotion moves both who buys and what they pay, and it may follow the passing shocks of purchases. What
lasts is told within customers (:func:`within_customers`), for the mean of all orders drifts with who has
joined: newcomers' small baskets hide that everybody pays more. Amount over own mean is regressed on customer
and week, which leaves what all customers' baskets have in common. It counts from the
level that the forecast rests on (:func:`anchor`): a customer's own baskets as far as the spend model trusts
them, everybody's for the rest.

Where a segment column is named, each of its segments also strays from the others (``fit/segments.py``).
Its factor beside the shared one has mean 1 over the segments, weighed by what they are expected to be
worth, in every week of every draw: the total keeps the shared path.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clvmodels.artifacts import (
    DAYS_PER_UNIT,
    Calendar,
    Check,
    FamilyPosterior,
    Intensity,
    Summary,
    interval,
)
from clvmodels.fit import segments, shocks
from clvmodels.models import registry
from clvmodels.models.family import Baskets, SpendFamily
from clvmodels.numerics.discounting import Flow
from clvmodels.value import AnyValuation, Natives
from clvmodels.value import horizons as ahead
from clvmodels.value import valuation as any_valuation
from clvmodels.value.horizons import MEASURES, in_window, in_window_by

THIN = 50
"""Draws over which the window's expectation is averaged."""
LONGEST = 522
"""Weeks (periods) of a path: ten years; what is later keeps the factor of the last."""
WORLD = 20_000
"""Baskets simulated for their coefficient of variation."""
SAMPLED = 500
"""Customers whose baskets these are, where customers differ."""
FLOOR = 1e-4
"""Smallest variance of a mean basket's logarithm."""
TOLD = 1.0
"""Purchases of returning customers, less those that tell the customers' own means, below which a week does
not tell the level of baskets."""
LOWEST = 0.1
"""Smallest level of a week's baskets of which a logarithm is taken."""
WEIGHED = 2000
"""Customers at most, spread evenly, whose expected purchases say what the forecast rests on."""


Event = tuple[str, dt.date, dt.date]
"""Name, first and last day of something known that moves all customers."""


def doses(events: Sequence[Event], edges: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Names, and the share of the days of each week (period) that lie inside each event.

    Parameters
    ----------
    edges
        Last days, the first of the week before the first one, shape (week + 1,), datetime64[D].

    Returns
    -------
    Shape (week, name): stretches of one name add up.
    """
    names = tuple(dict.fromkeys(name for name, *_ in events))
    out = np.zeros((len(edges) - 1, len(names)))
    low, high = edges[:-1] + np.timedelta64(1, "D"), edges[1:]
    length = (high - low).astype(int) + 1
    for name, since, until in events:
        first, last = (
            np.maximum(low, np.datetime64(since, "D")),
            np.minimum(high, np.datetime64(until, "D")),
        )
        days = np.maximum((last - first).astype(int) + 1, 0)
        out[:, names.index(name)] += days / length
    return names, np.minimum(out, 1.0)


@dataclass(frozen=True, kw_only=True)
class Weather:
    """Shared shocks of purchases and of the mean basket, or why there are none.

    Attributes
    ----------
    orders, baskets
        Posterior of the processes; ``baskets`` is None where all baskets are equal, and follows ``orders``.
    reason
        Why shocks cannot be estimated; None where they can.
    events
        Names of the events whose effect was estimated, the last columns of ``orders.loads``.
    by
        Segment column whose segments were asked to have a part of their own.
    parts
        Posterior of these parts, or a sentence why they cannot be estimated.
    """

    orders: shocks.Shocks | None
    baskets: shocks.Shocks | None
    reason: str | None
    events: tuple[str, ...] = ()
    by: str | None = None
    parts: segments.Parts | str | None = None

    def paths(self, weeks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Factors on purchases and on revenue in each week to come, shape (draw, week)."""
        if self.orders is None:
            raise ValueError(self.reason)
        orders = self.orders.path(weeks, seed)
        if self.baskets is None:
            return orders, orders
        baskets = self.baskets.path(weeks, seed + 1) * self.baskets.following(self.orders, weeks, seed)
        return orders, orders * baskets


def estimate(
    orders: np.ndarray,
    expected: np.ndarray,
    revenue: np.ndarray,
    variation: float,
    draws: int,
    seed: int,
    events: tuple[Sequence[str], np.ndarray] | None = None,
    within: shocks.Ratios | None = None,
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
        Names and doses of known events in the window and after it, shape (week + later weeks, event); they
        move purchases. One that the window has not seen is left out: nothing tells its effect.
    within
        Baskets compared within customers, of :func:`within_customers`, which tell their drift; None: the mean
        basket of all orders tells it, whoever bought.
    """
    named, dose = events or ((), np.empty((len(orders), 0)))
    met = (dose[: len(orders)][np.asarray(expected) >= shocks.LEAST] > 0).sum(axis=0) > 0
    names = tuple(name for name, seen in zip(named, met, strict=True) if seen)
    known = dose[:, met] if names else None
    found = shocks.estimate(shocks.Ratios.of_counts(orders, expected, known), draws, seed)
    if isinstance(found, str):
        return Weather(orders=None, baskets=None, reason=found)
    if variation == 0 or not revenue.sum() > 0:
        return Weather(orders=found, baskets=None, reason=None, events=names)
    level = replace(of_weeks(orders, revenue, variation), leader=found.passing)
    baskets = of_baskets(level, within, draws, seed + 1)
    return Weather(orders=found, baskets=baskets, reason=None, events=names)


def of_baskets(
    level: shocks.Ratios, within: shocks.Ratios | None, draws: int, seed: int
) -> shocks.Shocks | None:
    """Passing shocks of the mean basket of all orders; drift within customers, where they tell it."""
    passing = shocks.estimate(level, draws, seed)
    lasting = passing if within is None else shocks.estimate(within, draws, seed + 2)
    if isinstance(passing, str):
        return None if isinstance(lasting, str) else lasting
    return passing if isinstance(lasting, str) else passing.drifting(lasting)


def of_weeks(orders: np.ndarray, revenue: np.ndarray, variation: float) -> shocks.Ratios:
    """The mean basket of each week over that of the window."""
    mean = np.divide(revenue, orders, out=np.zeros(len(orders)), where=orders > 0)
    known = (orders >= shocks.LEAST) & (mean > 0)
    noise = np.full(len(orders), np.inf)
    noise[known] = np.maximum(variation**2 / orders[known], FLOOR)
    return shocks.Ratios(
        observed=mean, expected=np.full(len(orders), revenue.sum() / orders.sum()), noise=noise
    )


def within_customers(calendar: Calendar, weeks: int, anchor: np.ndarray) -> shocks.Ratios | None:
    """The level of customers' baskets in each week, from customers who came back at least twice.

    In customer i's purchase j in week t, amount over own mean is r_ij = c_i + s_t + e_ij. Least squares take
    the customers out: with N the purchases by week and P the ``pairs`` of the calendar, (diag(N) - P) s =
    Σ (r - 1), and the covariance of s is φ (diag(N) - P)⁺, with φ the variance of e. What levels have in
    common is not told; it is set by ``anchor``: the weighted mean of 1 + s is 1.

    Parameters
    ----------
    calendar
        With what customers paid by week against their own mean.
    weeks
        Weeks of the window, at most ``shocks.MOST`` of which are used.
    anchor
        Weight of each of the calendar's weeks, shape (week,).

    Returns
    -------
    None where fewer than ``shocks.FEWEST`` weeks tell a level.

    References
    ----------
    Abowd, Kramarz and Margolis (1999), High wage workers and high wage firms, Econometrica 67(2): two-way
    effects, of which one side is swept out.
    """
    count, size = calendar.returns, len(calendar.returns)
    seen = count > 0
    information = np.diag(count) - calendar.pairs
    told = np.diagonal(information) >= TOLD
    told[: max(0, size - min(weeks, shocks.MOST))] = False
    if told.sum() < shocks.FEWEST:
        return None
    # Levels that no customer connects stand far apart: a ridge that is nothing beside one purchase.
    inverse = np.zeros((size, size))
    inverse[np.ix_(seen, seen)] = np.linalg.inv(information[np.ix_(seen, seen)] + 1e-6 * np.eye(seen.sum()))
    excess = calendar.baskets - count
    level = inverse @ excess
    free = count.sum() - calendar.shares.sum() - seen.sum() + 1
    rest = (calendar.squares - 2 * calendar.baskets + count).sum() - level @ excess
    if free <= 0 or rest <= 0:
        return None
    weight = np.where(told, anchor, 0.0)
    weight = weight / weight.sum() if weight.sum() > 0 else told / told.sum()
    centred = np.eye(size) - weight
    factor = np.maximum(1 + level - weight @ level, LOWEST)
    noise = rest / free * centred @ inverse @ centred.T + FLOOR * np.eye(size)
    before = max(0, weeks - size)
    kept = slice(max(0, size - weeks), None)
    noise = np.pad(noise[kept, kept], (before, 0))
    factor, weight, told = (np.pad(v[kept], (before, 0)) for v in (factor, weight, told))
    noise[~told, ~told] = np.inf
    return shocks.Ratios(
        observed=factor, expected=np.full(weeks, weight @ factor), noise=noise, anchor=weight
    )


def anchor(
    summary: Summary, weeks: int, expected: np.ndarray, spread: Spread, chosen: np.ndarray | None = None
) -> np.ndarray:
    """What a forecast of spend rests on, by week: how much each week's baskets count in it.

    A customer's mean spend is taken to be known from x own baskets to the share x / (x + k) of
    :class:`Spread`, and else from everybody's, who count by their own shares. Of a customer's
    repeat purchases one is the last, on its day, and the others are taken to be spread evenly since the first
    purchase day.

    Parameters
    ----------
    weeks
        Of the calendar.
    expected
        Expected revenue ahead of the customers ``chosen`` (all), shape (customer,).

    Returns
    -------
    Shape (week,), sum 1 where anybody came back.
    """
    chosen = np.arange(len(summary)) if chosen is None else chosen
    x = summary["frequency"]
    own = x / (x + spread.outweighed)
    width = 1.0 if summary.clock == "discrete" else 7.0 / DAYS_PER_UNIT[summary.time_unit]
    worth = np.zeros(len(summary))
    worth[chosen] = expected
    told = worth * own
    told += (worth - told).sum() * own / max(own.sum(), 1e-300)
    born = np.clip(summary["T"] / width, 0, weeks - 1).astype(int)
    last = np.clip((summary["T"] - summary["recency"]) / width, 0, weeks - 1).astype(int)
    each = np.divide(told, x, out=np.zeros(len(x)), where=x > 0)
    out = np.bincount(last, each, weeks)
    even = each * np.maximum(x - 1, 0) / (born - last + 1)
    steps = np.bincount(last, even, weeks + 1) - np.bincount(born + 1, even, weeks + 1)
    out += steps.cumsum()[:weeks]
    return out[::-1] / max(out.sum(), 1e-300)


@dataclass(frozen=True)
class Spread:
    """Coefficients of variation: of one basket over customers and purchases, ``total``, and of customers'
    means, ``between``; both 0 where all are equal."""

    total: float
    between: float

    @property
    def outweighed(self) -> float:
        """k: how many own baskets tell a customer's mean as well as everybody's do (Bühlmann and Straub)."""
        within = (1 + self.total**2) / (1 + self.between**2) - 1
        return within * (1 + self.between**2) / max(self.between, 1e-6) ** 2

    @classmethod
    def of(cls, baskets: Baskets) -> Spread:
        total, between = (float(v.std() / v.mean()) for v in (baskets.amount, baskets.mean))
        return cls(total, min(between, total))


def variation(family: SpendFamily, theta: Sequence[float], seed: int) -> Spread:
    """How baskets differ at one parameter vector."""
    rng = np.random.default_rng(seed)
    named = dict(zip(family.parameter_names, map(float, theta), strict=True))
    return Spread.of(family.simulate(named, np.ones(WORLD, int), rng))


def spend_variation(part: FamilyPosterior, summary: Summary, seed: int) -> Spread:
    """:func:`variation` at the posterior mean; with effects, over customers of these patterns."""
    family = registry.spend(part.family)
    if part.effects is None:
        return variation(family, part.flat.mean(axis=0), seed)
    rng = np.random.default_rng(seed)
    who = rng.choice(np.flatnonzero(summary.spenders), SAMPLED)
    found = Natives.of(part, summary)
    distinct, place = np.unique(found.index[who], return_inverse=True)
    means = np.array([found.draws(int(pattern)).mean(axis=0) for pattern in distinct])
    rows = np.repeat(means[place], WORLD // SAMPLED, axis=0)
    varies = (means != means[:1]).any(axis=0)
    theta = {
        name: rows[:, j] if varies[j] else float(means[0, j]) for j, name in enumerate(family.parameter_names)
    }
    return Spread.of(family.simulate(theta, np.ones(len(rows), int), rng))


def beside(
    parts: segments.Parts,
    share: np.ndarray,
    paths: np.ndarray,
    flow: np.ndarray,
    until: Sequence[int],
    seed: int,
) -> np.ndarray:
    """Factor of each segment up to each horizon, beside the :func:`factors` that all customers share.

    All segments are taken to flow like the total.

    Parameters
    ----------
    share
        Expected amounts of the segments, none below 0, shape (segment,).
    paths, flow, until
        As for :func:`factors`.

    Returns
    -------
    Shape (horizon, draw, segment).
    """
    shared = (paths * flow).T
    out, cumulated = np.empty((len(until), len(paths), len(share))), 0.0
    for week, own in enumerate(parts.factors(share / share.sum(), len(flow), seed), start=1):
        cumulated = cumulated + own * shared[week - 1][:, None]
        out[np.asarray(until) == week] = cumulated
    total = shared.cumsum(axis=0)[np.asarray(until) - 1]
    return out / np.where(total > 0, total, 1.0)[..., None]


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


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Factors of shared shocks on the sums of a valuation: ``value`` (draw,), ``orders`` and ``revenue``
    (draw, horizon); and on the value of each segment beside ``value`` (draw, segment), or None."""

    value: np.ndarray
    orders: np.ndarray
    revenue: np.ndarray
    parts: np.ndarray | None = None


def of_window(
    valuation: AnyValuation, seed: int, events: Sequence[Event] = (), by: str | None = None
) -> Weather:
    """Shared shocks of a run's own window, as many draws as its posterior has.

    Parameters
    ----------
    by
        Segment column whose segments have a part of their own; the summary was made with their days.
    """
    summary = valuation.summary
    calendar, discrete = summary.calendar, summary.clock == "discrete"
    if len(valuation.draws) < 2:
        return Weather(orders=None, baskets=None, reason="one parameter vector has no interval")
    if not len(calendar.day):
        return Weather(orders=None, baskets=None, reason="a table of summaries does not tell the weeks")
    end = np.datetime64(summary.observation_end, "D")
    past = calendar.day <= end
    if discrete:
        weeks, inside, position = int(past.sum()), past, np.arange(past.size)
        back, per_unit = np.arange(weeks + 1.0), 1.0
        long = DAYS_PER_UNIT[summary.time_unit]
    else:
        days = int((end - np.datetime64(summary.observation_start, "D")).astype(int)) + 1
        weeks = days // 7
        age = (end - calendar.day).astype(int)
        inside, position = past & (age < 7 * weeks), weeks - 1 - age // 7
        back, per_unit = 7.0 * np.arange(weeks + 1), DAYS_PER_UNIT[summary.time_unit]
        long = 7.0
    orders, revenue = (
        np.bincount(position[inside], column[inside], weeks)
        for column in (calendar.repeat_orders, calendar.repeat_amount)
    )
    edges = end + np.rint(long * np.arange(-len(orders), LONGEST + 1)).astype("timedelta64[D]")
    few = any_valuation(summary, valuation.posterior.thinned(THIN), valuation.assumptions, seed)
    expected = in_window(few, per_unit, back.astype(int))[0][:, ::-1].mean(axis=0)
    spread = spend_variation(few.posterior.spend, summary, seed)
    count = len(valuation.draws)
    within = None
    if len(calendar.returns) and spread.between > 0:
        chosen = np.unique(np.linspace(0, len(summary) - 1, WEIGHED).round().astype(int))
        weight = anchor(summary, len(calendar.returns), _a_year_ahead(few, chosen), spread, chosen)
        within = within_customers(calendar, weeks, weight)
    found = estimate(orders, expected, revenue, spread.total, count, seed, doses(events, edges), within)
    if by is None or found.orders is None:
        return found
    return apart_by(found, few, by, per_unit, back.astype(int), count, seed)


def apart_by(
    weather: Weather,
    few: AnyValuation,
    by: str,
    per_unit: float,
    back: np.ndarray,
    draws: int,
    seed: int,
    intensity: Intensity | None = None,
) -> Weather:
    """Shared shocks, and beside them those of a column's segments.

    Parameters
    ----------
    few
        Some draws of the posterior, whose summary was made with the days of these segments.
    by
        The column.
    per_unit
        Days (periods) in a time unit.
    back
        Edges of the window's weeks, whole days (periods) before the end of observation, ascending from 0.
    draws
        Draws wanted, as many as those of ``weather``.
    intensity
        Of the calendar, where the summary is in times of its clock; expectations are those at intensity one.
    """
    summary = few.summary
    part, calendar, weeks = summary.segments[by], summary.calendar, len(back) - 1
    end = np.datetime64(summary.observation_end, "D")
    if summary.clock == "discrete":
        age = np.arange(len(calendar.day))[::-1] - int((calendar.day > end).sum())
    else:
        age = (end - calendar.day).astype(int)
    place = np.searchsorted(back, age[calendar.segment_day.astype(int)], side="right") - 1
    inside = place < weeks
    bought = np.zeros((len(part.labels), weeks))
    code = calendar.segment_code[inside].astype(int)
    np.add.at(bought, (code, weeks - 1 - place[inside]), calendar.segment_orders[inside])
    ago, rate = back, np.ones(weeks)
    if intensity is not None:
        ago, rate = intensity.end - intensity.clock(intensity.end - back), intensity.value
    wanted = in_window_by(few, per_unit, ago, part.codes, len(part.labels))[..., ::-1].mean(axis=0) / rate
    return replace(weather, by=by, parts=segments.estimate(bought, wanted, draws, seed + 2))


def _a_year_ahead(valuation: AnyValuation, chosen: np.ndarray) -> np.ndarray:
    """Expected revenue of some customers over a year, shape (customer,)."""
    summary, assumptions = valuation.summary.take(chosen), valuation.assumptions
    plain = replace(assumptions, margin=assumptions.margin[chosen])
    year = Flow(delta=0.0, horizon=assumptions.units_per_year)
    one = any_valuation(summary, valuation.posterior, plain, valuation.seed)
    found = ahead.expected(one, [year], np.zeros((len(chosen), 1), np.int64), 1)
    return found.orders[:, 0] * found.spend


def effects(
    weather: Weather,
    valuation: AnyValuation,
    bands: np.ndarray,
    seed: int,
    parts: np.ndarray | None = None,
) -> Effects:
    """Factors on what a valuation summed.

    The weeks of a path are weighed by the expected flow of value, interpolated (monotone cubic)
    between the cumulated values of the year bands.

    Parameters
    ----------
    bands
        Expected value by band of ``valuation.band_edges``, bands of no length left out, shape (band,).
    parts
        Expected value of the segments that have shocks of their own, none below 0, shape (segment,).
    """
    from scipy.interpolate import PchipInterpolator

    summary, assumptions = valuation.summary, valuation.assumptions
    step = 1.0 if summary.clock == "discrete" else 7.0 / DAYS_PER_UNIT[summary.time_unit]
    edges = np.unique(np.asarray(valuation.band_edges, float))
    finite = edges[np.isfinite(edges)]
    cumulated = np.concatenate([[0.0], np.cumsum(bands)])
    far = max(finite[-1], *assumptions.horizons.values()) if assumptions.horizons else finite[-1]
    weeks = int(np.clip(np.ceil(far / step), 1, LONGEST))
    at = PchipInterpolator(finite, cumulated[: len(finite)], extrapolate=False)(
        np.minimum(step * np.arange(weeks + 1), finite[-1])
    )
    flow = np.diff(at)
    orders, revenue = weather.paths(weeks, seed)
    until = [
        int(np.clip(np.ceil(length / step - 1e-9), 1, weeks)) for length in assumptions.horizons.values()
    ]
    beyond = cumulated[-1] - at[-1]
    total = (revenue @ flow + beyond * revenue[:, -1]) / (flow.sum() + beyond)
    apart = None
    if parts is not None and isinstance(weather.parts, segments.Parts) and parts.sum() > 0:
        weight = flow + beyond * (np.arange(weeks) == weeks - 1)
        apart = beside(weather.parts, parts, revenue, weight, [weeks], seed + 2)[0]
    return Effects(
        value=total,
        orders=factors(orders, flow, until).T,
        revenue=factors(revenue, flow, until).T,
        parts=apart,
    )


def upto(weather: Weather, valuation: AnyValuation, lengths: Sequence[float], seed: int) -> np.ndarray:
    """Factors on undiscounted totals up to each horizon, as a backtest makes them.

    Parameters
    ----------
    lengths
        Ascending, in time units.
    seed
        That of :func:`effects` gives the same paths.

    Returns
    -------
    Shape (measure, horizon, draw); the weeks of a path are weighed by expected purchases and revenue.
    """
    step = 1.0 if valuation.summary.clock == "discrete" else 7.0 / DAYS_PER_UNIT[valuation.summary.time_unit]
    until = [max(1, int(np.ceil(length / step - 1e-9))) for length in lengths]
    few = any_valuation(valuation.summary, valuation.posterior.thinned(THIN), valuation.assumptions, seed)
    flows = [Flow(delta=0.0, start=step * k, horizon=step * (k + 1)) for k in range(until[-1])]
    everybody = np.zeros((len(valuation.summary), 1), np.int64)
    flow = ahead.expected(few, flows, everybody, 1).total[:, 0].mean(axis=-1)
    orders, revenue = weather.paths(until[-1], seed)
    by_orders, by_revenue = factors(orders, flow[0], until), factors(revenue, flow[1], until)
    return np.stack([{"orders": by_orders}.get(measure, by_revenue) for measure in MEASURES])


def checks(weather: Weather) -> tuple[Check, ...]:
    """What was found of shared shocks, and whether their draws can be trusted."""
    if weather.orders is None:
        sentence = f"Shocks that all customers share were not estimated: {weather.reason}."
        return (Check(name="shared shocks", passed=None, sentence=sentence),)
    found = weather.orders
    effects = [
        f"; {name}: {100 * np.expm1(column).mean():+.0f} % "
        f"({' to '.join(f'{100 * end:+.0f}' for end in interval(np.expm1(column), 0.90))} %, 90 % interval)"
        for name, column in zip(weather.events, found.loads.T[::-1][: len(weather.events)][::-1], strict=True)
    ]
    shared = (
        Check(
            name="shared shocks",
            passed=bool(found.k_hat <= shocks.TRUSTED),
            value=found.k_hat,
            threshold=shocks.TRUSTED,
            sentence=(
                f"Repeat purchases of all customers strayed together from the model's expectation: "
                f"{_movement(found)}, from {found.used} weeks{''.join(effects)}; k-hat {found.k_hat:.2f} "
                f"(at most {shocks.TRUSTED})."
            ),
        ),
    )
    return (*shared, *_checks_of_baskets(weather.baskets), *_checks_of_parts(weather))


def _movement(found: shocks.Shocks | segments.Parts) -> str:
    phi, sigma, tau = found.parameters.mean(axis=0)
    return (
        f"weekly shocks of {100 * sigma:.0f} % (of which {100 * phi:.0f} % last into the next week) and a "
        f"drift of {100 * tau:.1f} % a week"
    )


def _checks_of_baskets(found: shocks.Shocks | None) -> tuple[Check, ...]:
    if found is None:
        return ()
    follow = ""
    if found.slope is not None:
        tenth = 1.1**found.slope - 1
        low, high = interval(tenth, 0.90)
        follow = (
            f"; where a passing shock brings 10 % more purchases, baskets change by "
            f"{100 * tenth.mean():+.1f} % ({100 * low:+.1f} to {100 * high:+.1f} %, 90 % interval)"
        )
    sentence = (
        f"Baskets of all customers moved together: {_movement(found)}, from {found.used} weeks{follow}; "
        f"k-hat {found.k_hat:.2f} (at most {shocks.TRUSTED})."
    )
    return (
        Check(
            name="shared shocks of baskets",
            passed=bool(found.k_hat <= shocks.TRUSTED),
            value=found.k_hat,
            threshold=shocks.TRUSTED,
            sentence=sentence,
        ),
    )


def _checks_of_parts(weather: Weather) -> tuple[Check, ...]:
    found, name = weather.parts, f"shocks by {weather.by}"
    if found is None:
        return ()
    if isinstance(found, str):
        sentence = (
            f"Segments of {weather.by} share the shocks of all customers, without a part of their own: "
        )
        return (Check(name=name, passed=None, sentence=f"{sentence}{found}."),)
    sentence = (
        f"Segments of {weather.by} strayed from one another: {_movement(found)}, from {found.seen.sum()} of "
        f"{len(found.seen)} segments; k-hat {found.k_hat:.2f} (at most {shocks.TRUSTED})."
    )
    passed = bool(found.k_hat <= shocks.TRUSTED)
    return (Check(name=name, passed=passed, value=found.k_hat, threshold=shocks.TRUSTED, sentence=sentence),)
