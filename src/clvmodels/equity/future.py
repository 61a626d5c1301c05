"""Equity of customers still to be won: their number, times what each is worth, less what each costs.

``CE_future = Σ_j e^{-δ τ_j} A_j (v_j - CAC)`` over acquisition periods j with mid-times τ_j (on a
discrete clock the periods themselves), draw by draw, v_j being the value of a customer at the first
order, that order included. It is always stated apart from the equity of existing customers.

Two traversals give one sum: by cohort (what each is worth), and by calendar period (the margin of all
cohorts that falls into it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from clvmodels.artifacts import Assumptions, Check, Equity, Forecast, Posterior, Segment, Summary
from clvmodels.equity.bridge import FutureEquity
from clvmodels.errors import InputError
from clvmodels.numerics.discounting import OFFSET
from clvmodels.value import AnyNewcomer, Flow, valuation, valuation_flow

POOL = 256
"""Customers simulated per draw, whose spread becomes that of a cohort's value."""
EXACT = 200
"""Customers of a cohort from which on the spread of its value is taken to be normal."""
CHART_COHORTS = 8
"""Cohorts of existing customers, at most, in the chart of margins."""
CHART_DRAWS = 200
"""Draws, evenly spread, over which the existing customers' margin by period is averaged."""
AGREE = 1e-10
"""Relative difference between the two traversals that is rounding."""


@dataclass(frozen=True)
class Cohorts:
    """Present values of future cohorts at level expected, draw by draw.

    Attributes
    ----------
    value
        Of one customer at the first order, shape (draw, cohort).
    by_cohort
        Discounted margin of each cohort, shape (draw, cohort).
    cost
        Discounted acquisition cost of each cohort, shape (draw, cohort).
    by_period, later
        Discounted margin by calendar period, shape (draw, period), and after the last, (draw,).
    margin
        The same by calendar period without discounting, shape (draw, period).
    margin_by_cohort
        Its mean over draws, shape (cohort, period).
    """

    value: np.ndarray
    by_cohort: np.ndarray
    cost: np.ndarray
    by_period: np.ndarray
    later: np.ndarray
    margin: np.ndarray
    margin_by_cohort: np.ndarray

    @property
    def disagreement(self) -> float:
        """Largest relative difference between the cohort and the calendar view of the total."""
        rows = self.by_cohort.sum(axis=1)
        columns = self.by_period.sum(axis=1) + self.later
        size = np.maximum(np.abs(self.by_cohort).sum(axis=1), 1e-300)
        return float((np.abs(rows - columns) / size).max()) if rows.size else 0.0


def cohorts(newcomer: AnyNewcomer, forecast: Forecast, flow: Flow, cac: np.ndarray) -> Cohorts:
    """Both traversals of the future cohorts.

    Parameters
    ----------
    newcomer
        A customer about to be won.
    forecast
        ``expected`` counts, shape (draw, cohort).
    flow
        Discounting and horizon of the valuation; nothing after the horizon counts, for any cohort.
    cac
        Cost of a customer by draw, at the moment of the first order.
    """
    count, step = forecast.expected.shape[1], forecast.period
    discrete = newcomer.purchases.clock == "discrete"
    number = np.arange(1, count + 1)
    at = (number if discrete else number - 0.5) * step
    left = flow.horizon - at if np.isfinite(flow.horizon) else np.full(count, np.inf)
    discount = np.exp(-flow.delta * at)
    lead = np.exp(flow.delta * OFFSET[flow.timing]) if discrete and flow.timing != "continuous" else 1.0
    first = newcomer.first_order[:, None]

    edges = np.maximum((np.arange(count + 1) - 0.5) * step, 0.0)  # ages at the ends of calendar periods
    spans = [(edges[k], edges[k + 1]) for k in range(count)]
    tails = [(edges[count - j], max(left[j], edges[count - j])) for j in range(count)]
    whole = [replace(flow, horizon=h) for h in np.unique(left)]
    plain = Flow(delta=0.0, horizon=0.0)
    flows = [
        *whole,
        *(replace(flow, start=a, horizon=b) for a, b in spans),
        *(replace(flow, start=a, horizon=b) for a, b in tails),
        *(replace(plain, start=a, horizon=b) for a, b in spans),
    ]
    found = newcomer.later(flows)
    full, window, tail, flat = np.split(found, np.cumsum([len(whole), count, count]), axis=1)
    value = first * lead + full[:, np.searchsorted(np.unique(left), left)]

    won = forecast.expected * discount
    by_period, margin = np.zeros((2, len(found), count))
    of_cohort = np.zeros((count, count))
    for j in range(count):
        age = slice(0, count - j)
        by_period[:, j:] += won[:, j : j + 1] * window[:, age]
        undiscounted = forecast.expected[:, j : j + 1] * flat[:, age]
        undiscounted[:, 0] += forecast.expected[:, j] * first[:, 0]
        margin[:, j:] += undiscounted
        of_cohort[j, j:] = undiscounted.mean(axis=0)
    return Cohorts(
        value=value,
        by_cohort=won * value,
        cost=won * cac[:, None] * lead,
        by_period=by_period + won * first * lead,
        later=(won * tail).sum(axis=1),
        margin=margin,
        margin_by_cohort=of_cohort,
    )


@dataclass(frozen=True)
class Outlook:
    """Customers still to be won as they are seen on one date; arguments of :func:`cohorts`."""

    newcomer: AnyNewcomer
    forecast: Forecast
    flow: Flow
    cac: np.ndarray

    def net(self) -> np.ndarray:
        """Value less cost of each cohort, shape (draw, cohort), currency; level expected."""
        found = cohorts(self.newcomer, self.forecast, self.flow, self.cac)
        return found.by_cohort - found.cost

    def until(self, end: float) -> np.ndarray:
        """Share of each cohort that is won within so many time units, shape (cohort,)."""
        step, count = self.forecast.period, self.forecast.expected.shape[1]
        if self.newcomer.purchases.clock == "discrete":
            return (np.arange(1, count + 1) * step <= end + 1e-9).astype(float)
        return np.clip(end / step - np.arange(count), 0.0, 1.0)

    def cut(self, end: float, horizon: float) -> Outlook:
        """The outlook to an earlier end of the forecast, and of the horizon."""
        share = self.until(end)
        at = (np.arange(len(share)) + 0.5) * self.forecast.period
        keep = (share > 0) & (at < horizon)
        counts, expected = (
            share[keep] * values[:, keep] for values in (self.forecast.counts, self.forecast.expected)
        )
        forecast = replace(self.forecast, expected=expected, counts=counts)
        return replace(self, forecast=forecast, flow=replace(self.flow, horizon=horizon))


def between(opening: Outlook, closing: Outlook, elapsed: float) -> FutureEquity:
    """Equity of future customers at two dates, ``elapsed`` time units apart, each by its own forecast.

    The opening's draws are in the order of its own posterior.
    """
    before, after = opening.net(), closing.net()
    passed = opening.until(elapsed)
    growth = float(np.exp(opening.flow.delta * elapsed))
    end = opening.forecast.expected.shape[1] * opening.forecast.period - elapsed
    horizon = min(closing.flow.horizon, opening.flow.horizon - elapsed)
    kept = np.zeros(len(after))
    if end > 0 and horizon > 0:
        kept = closing.cut(end, horizon).net().sum(axis=1)
    return FutureEquity(
        opening=before.sum(axis=1),
        closing=after.sum(axis=1),
        release=growth * before @ passed,
        roll=after.sum(axis=1) - kept,
        due=opening.forecast.expected @ passed,
        growth=growth,
    )


def drawn(
    newcomer: AnyNewcomer,
    forecast: Forecast,
    flow: Flow,
    found: Cohorts,
    level: Literal["latent", "predictive"],
    seed: np.random.SeedSequence,
) -> np.ndarray:
    """Discounted margin of each cohort with the number of customers and their own values drawn.

    A cohort of A customers is worth ``A v`` and noise of variance ``A Var(V | θ)``: normal from
    ``EXACT`` customers on, below it the sum of so many simulated ones.

    Returns
    -------
    Shape (draw, cohort).
    """
    pool_seed, own = seed.spawn(2)
    rng = np.random.default_rng(own)
    pool = newcomer.simulate(level, flow, POOL, pool_seed)
    away = (pool - pool.mean(axis=0)) * np.sqrt(POOL / (POOL - 1))
    spread = away.std(axis=0)
    draws = np.arange(len(forecast.counts))
    scale = found.value / newcomer.value(flow)[:, None] if np.isfinite(flow.horizon) else np.ones((1, 1))
    with np.errstate(invalid="ignore"):
        unit = np.where(forecast.expected > 0, found.by_cohort / forecast.expected / found.value, 0.0)
    out = np.zeros_like(forecast.counts)
    for j, won in enumerate(forecast.counts.T):
        noise = np.sqrt(won) * spread * rng.standard_normal(len(won))
        few = np.flatnonzero(won < EXACT)
        most = int(won[few].max(initial=0))
        picks = away[rng.integers(POOL, size=(most, len(few))), draws[few]]
        noise[few] = (picks * (np.arange(most)[:, None] < won[few])).sum(axis=0)
        out[:, j] = unit[:, j] * (won * found.value[:, j] + noise * np.broadcast_to(scale, out.shape)[:, j])
    return out


def build(
    newcomer: AnyNewcomer,
    forecast: Forecast,
    assumptions: Assumptions,
    existing: Equity,
    cac: np.ndarray | None,
    seed: int,
) -> tuple[Any, tuple[Check, ...]]:
    """Future equity at every level, beside the existing one.

    Parameters
    ----------
    newcomer, forecast
        What a customer is worth, and how many come; draw d of one meets draw d of the other.
    existing
        Equity of existing customers, whose levels and draws are taken.
    cac
        Cost of a customer by draw, currency; None: acquisition cost is not known.

    Returns
    -------
    data
        xarray Dataset; every variable carries ``unit``. ``gross``, ``cost``, ``net`` and ``together``
        (existing and net future) have dims (level, draw).
    checks
        That both traversals agree.
    """
    import xarray as xr

    flow, money = valuation_flow(assumptions), existing.currency
    draws = len(forecast.expected)
    if draws != existing.data.sizes["draw"]:
        raise ValueError("forecast and equity differ in their number of draws")
    cost = np.zeros(draws) if cac is None else np.broadcast_to(cac, draws).astype(float)
    found = cohorts(newcomer, forecast, flow, cost)
    levels = existing.levels
    gross, paid, won = np.empty((3, len(levels), draws))
    seeds = np.random.SeedSequence(seed, spawn_key=(5,)).spawn(len(levels))
    for k, level in enumerate(levels):
        if k == 0:
            value, number = found.by_cohort, forecast.expected
            costs = found.cost
        else:
            value, number = drawn(newcomer, forecast, flow, found, level, seeds[k]), forecast.counts  # type: ignore[arg-type]
            ratio = np.divide(
                number, forecast.expected, out=np.zeros_like(number), where=forecast.expected > 0
            )
            costs = found.cost * ratio
        gross[k], paid[k], won[k] = value.sum(axis=1), costs.sum(axis=1), number.sum(axis=1)
    total = np.stack([existing.total(level) for level in levels])
    years = _years(forecast, assumptions)
    every = np.unique(years)

    def by_year(values: np.ndarray) -> np.ndarray:
        return values @ (years[:, None] == every).astype(float)

    unit, people = {"unit": money}, {"unit": "customers"}
    data = xr.Dataset(
        {
            "gross": (("level", "draw"), gross, unit),
            "cost": (("level", "draw"), paid, unit),
            "net": (("level", "draw"), gross - paid, unit),
            "together": (("level", "draw"), total + gross - paid, unit),
            "customers": (("level", "draw"), won, people),
            "value": (("draw",), newcomer.value(flow), unit),
            "first_order": (("draw",), newcomer.first_order, unit),
            "cac": (("draw",), cost if cac is not None else np.full(draws, np.nan), unit),
            "by_year": (("draw", "year"), by_year(found.by_cohort - found.cost), unit),
            "customers_by_year": (("draw", "year"), by_year(forecast.expected), people),
            "margin_by_year": (("draw", "year"), by_year(found.margin), unit),
            "later": (("draw",), found.later, unit),
            "expected": (("draw", "period"), forecast.expected, people),
            "counts": (("draw", "period"), forecast.counts, people),
            "history": (("past",), forecast.history, people),
            "margin_by_cohort": (("cohort", "period"), found.margin_by_cohort, unit),
        },
        coords={"level": list(levels), "year": every},
        attrs={
            "kind": forecast.kind,
            "period": forecast.period,
            "currency": money,
            "disagreement": found.disagreement,
            "cost_known": int(cac is not None),
        },
    )
    return data, (_agree(found),)


def _years(forecast: Forecast, assumptions: Assumptions) -> np.ndarray:
    """Year, from 1, in which each period ends."""
    end = np.arange(1, forecast.expected.shape[1] + 1) * forecast.period / assumptions.units_per_year
    return np.ceil(end - 1e-9).astype(int)


def _agree(found: Cohorts) -> Check:
    gap = found.disagreement
    return Check(
        name="future: cohorts and calendar",
        passed=bool(gap <= AGREE),
        sentence=f"Future equity summed by cohort and by calendar period differs by at most {gap:.1e} of "
        f"itself, limit {AGREE:.0e}.",
        value=gap,
        threshold=AGREE,
    )


def existing_margin(
    summary: Summary,
    posterior: Posterior,
    assumptions: Assumptions,
    forecast: Forecast,
    seed: int,
    groups: Segment | None = None,
) -> np.ndarray:
    """Expected margin of the existing customers by period to come, undiscounted, shape (period,).

    With ``groups`` that of each, shape (group, period). Mean over ``CHART_DRAWS`` draws.
    """
    if groups is not None:
        parts = []
        for code in range(len(groups.labels)):
            some = np.flatnonzero(groups.codes == code)
            assumed = replace(assumptions, margin=assumptions.margin[some])
            parts.append(existing_margin(summary.take(some), posterior, assumed, forecast, seed))
        return np.array(parts)
    picks = np.linspace(0, len(posterior) - 1, min(len(posterior), CHART_DRAWS)).round().astype(int)
    few = posterior.picked(picks)
    ends = np.arange(1, forecast.expected.shape[1] + 1) * forecast.period
    whole = replace(assumptions, horizons={}, band_years=(0.0, *(ends / assumptions.units_per_year)))
    plain = replace(whole, annual_discount_rate=0.0, horizon=float(ends[-1]), timing="continuous")
    total = np.zeros(len(ends))
    for tile in valuation(summary, few, plain, seed).expected(details=False):
        assert tile.bands is not None
        total += tile.bands[:, :-1].mean(axis=0)
    return total


def plan_counts(
    plan: np.ndarray, interval: tuple[float, float] | None, draws: int, seed: np.random.SeedSequence
) -> tuple[np.ndarray, np.ndarray]:
    """Rates and counts of a given plan, shape (draw, period).

    Parameters
    ----------
    plan
        Customers by period.
    interval
        90 % of a log-normal ratio, shared by all periods of a draw; None: the plan is reached.
    """
    rng = np.random.default_rng(seed)
    ratio = np.ones(draws) if interval is None else spread(interval, draws, rng)
    expected = ratio[:, None] * plan
    return expected, rng.poisson(expected).astype(float)


def spread(ends: tuple[float, float], draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draws of a log-normal of which 90 % lies between two ends, shape (draw,)."""
    low, high = np.log(ends)
    return np.exp((low + high) / 2 + (high - low) / (2 * 1.6448536269514722) * rng.standard_normal(draws))


def amounts(amount: float | tuple[float, float], draws: int, seed: np.random.SeedSequence) -> np.ndarray:
    """Draws of an amount, or of [low, high], shape (draw,); one draw is the median."""
    if isinstance(amount, tuple):
        if draws == 1:
            return np.array([np.sqrt(amount[0] * amount[1])])
        return spread(amount, draws, np.random.default_rng(seed))
    return np.full(draws, float(amount))


def first_amounts(summary: Summary, draws: int, seed: int) -> np.ndarray:
    """Mean amount of the first orders in the log, with its standard error, shape (draw,).

    Raises
    ------
    InputError
        If the summary has no amounts of first orders.
    """
    amount = summary["first_amount"]
    amount = amount[np.isfinite(amount)]
    if not len(amount):
        raise InputError(
            "value.first_order is observed, but these data have no amounts of first orders; take model."
        )
    error = amount.std(ddof=1) / np.sqrt(len(amount)) if len(amount) > 1 and draws > 1 else 0.0
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(6,)))
    return np.maximum(amount.mean() + error * rng.standard_normal(draws), 0.0)
