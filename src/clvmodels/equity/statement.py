"""Customer equity: values summed over customers inside every draw, level by level."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from clvmodels.artifacts import Equity, Segment, storable
from clvmodels.equity.concentration import Histogram
from clvmodels.equity.customers import CustomerTable
from clvmodels.equity.segments import partitions
from clvmodels.equity.sensitivity import Survey
from clvmodels.fit.segments import adding_up
from clvmodels.value import AnyValuation, Tile

SHARES = np.linspace(0, 1, 101)
LORENZ_QUANTILES = (0.05, 0.50, 0.95)


class _Level:
    """Running sums of one level."""

    def __init__(self, valuation: AnyValuation, typical: float, parts: Mapping[str, Segment]) -> None:
        draws = len(valuation.draws)
        self.total = np.zeros(draws)
        self.alive = np.zeros(draws)
        self.orders = np.zeros((draws, len(valuation.horizons)))
        self.revenue = np.zeros_like(self.orders)
        self.bands = np.zeros((draws, 0))
        self.parts = parts
        self.segments = {name: np.zeros((draws, len(part.labels))) for name, part in parts.items()}
        self.may_lose = valuation.may_lose
        self.losing = np.zeros((2, draws))
        self.best = np.zeros(draws)
        self.once = valuation.summary["frequency"] == 0
        self.never_again = np.zeros(draws)
        self._histogram: Histogram | None = Histogram(draws, typical)
        self.lorenz = self.gini = np.zeros(0)

    def sums(self, tile: Tile, valuation: AnyValuation, best: np.ndarray | None) -> _Sums:
        """What one tile adds; takes no notice of other tiles, so that threads may work on it."""
        codes = {name: part.codes for name, part in self.parts.items()}
        return _Sums(
            total=tile.sum(),
            segments={name: tile.sum_by(code[tile.customers]) for name, code in codes.items()},
            never_again=tile.sum(self.once[tile.customers]),
            best=None if best is None else tile.sum(best[tile.customers]),
            losing=_losing(tile) if self.may_lose else None,
        )

    def add(self, tile: Tile, sums: _Sums) -> None:
        self.total += sums.total
        self.alive += tile.alive
        self.orders += tile.orders
        self.revenue += tile.revenue
        if tile.bands is not None:
            self.bands = self.bands + tile.bands if self.bands.size else tile.bands
        for name, by_code in sums.segments.items():
            for code, total in by_code.items():
                self.segments[name][:, code] += total
        self.never_again += sums.never_again
        if sums.best is not None:
            self.best += sums.best
        if sums.losing is not None:
            self.losing += sums.losing
        assert self._histogram is not None
        self._histogram.add(tile.distinct, tile.members)

    def finish(self) -> None:
        """Reduce the histogram to what is reported."""
        assert self._histogram is not None
        self.lorenz, self.gini = self._histogram.lorenz(SHARES), self._histogram.gini()
        self._histogram = None


@dataclass(frozen=True)
class _Sums:
    """Sums of value over the customers of one tile, shape (draw,) each."""

    total: np.ndarray
    segments: dict[str, dict[int, np.ndarray]]
    never_again: np.ndarray
    best: np.ndarray | None
    losing: np.ndarray | None


def _losing(tile: Tile) -> np.ndarray:
    """Customers of negative value: their number and their value, shape (2, draw)."""
    below = np.minimum(tile.distinct, 0.0)
    members = np.ones(len(below)) if tile.members is None else tile.members
    return np.stack([members @ (below < 0), members @ below])


def build(
    valuation: AnyValuation,
    progress: Callable[[str, float], None] | None = None,
    survey: Survey | None = None,
) -> Equity:
    """Customer equity of the valuation's customers at all levels.

    Parameters
    ----------
    valuation
        Customers, posterior and assumptions.
    progress
        Called with the level and the fraction done.
    survey
        Of the same valuation: with it equity is also split into cohorts, deciles and classes of
        P(alive), and what the survey found is kept.

    Returns
    -------
    Equity
        With level ``point`` alone if the posterior is one parameter vector.
    """
    point = valuation.posterior.is_point
    names = ("point",) if point else ("expected", "latent", "predictive")
    n = len(valuation.summary)
    typical = _typical(valuation)
    table = CustomerTable(n, len(valuation.draws))
    best: np.ndarray | None = None
    parts = {f"segment:{storable(k)}": v for k, v in valuation.summary.segments.items()}
    if survey is not None:
        parts |= {f"partition:{k}": v for k, v in partitions(valuation.summary, survey).items()}
    levels: dict[str, _Level] = {}
    for name in names:
        level = levels[name] = _Level(valuation, typical, parts)
        first = name == names[0]

        reduce = partial(_reduce, valuation, level, best, table if first else None)
        tiles = valuation.expected(then=reduce) if first else getattr(valuation, name)(then=reduce)
        done = 0
        for tile, sums, columns in tiles:
            if first:
                table.add(tile, columns)
            level.add(tile, sums)
            done += len(tile.customers)
            if progress:
                progress(f"value, level {name}", done / n)
        level.finish()
        if first:
            best = top(table["value_mean"], 0.10)
            level.best[:] = np.nan  # the set is chosen from this very pass
    customers = table.table(valuation.summary)
    data = _dataset(valuation, levels)
    if survey is not None:
        data = data.merge(_surveyed(survey, valuation.summary.currency), combine_attrs="override")
        customers = _with_risk(customers, survey, parts)
    return Equity(data=data, customers=customers)


def with_shocks(
    equity: Equity,
    value: np.ndarray,
    orders: np.ndarray,
    revenue: np.ndarray,
    apart: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Equity:
    """Level systematic: the predictive draws, times the shocks that all customers share.

    Customers still to be won buy in the same weather; what it costs to win them does not depend on it.

    Parameters
    ----------
    value
        Factor on every sum of value, shape (draw,): shocks are not diversified over segments.
    orders, revenue
        Factors up to each horizon, shape (draw, horizon).
    apart
        Segment column → factors of its segments beside ``value``, shape (draw, segment). In every draw they
        are scaled alike, so that the segments still add to the total.
    """
    scaled = ("total", "never_again", "losing_value")
    factors = {"orders": orders, "revenue": revenue} | {
        str(name): value
        for name in equity.data
        if name in scaled or name.startswith(("segment:", "partition:"))
    }
    for column, own in apart.items():
        drawn = equity.segment(column).sel(level="predictive").transpose("draw", ...).values
        factors[f"segment:{storable(column)}"] = value[:, None] * adding_up(own, drawn)
    data, future = _one_more_level(equity.data, factors), equity.future
    if future is not None:
        future = _one_more_level(future, {"gross": value})
        future["net"] = (future["gross"] - future["cost"]).assign_attrs(future["net"].attrs)
        future["together"] = (data["total"] + future["net"]).assign_attrs(future["together"].attrs)
    return replace(equity, data=data, future=future)


def _one_more_level(data: Any, factors: Mapping[str, np.ndarray]) -> Any:
    """The Dataset with a level systematic: predictive, times a factor of shape (draw,) or (draw, other)."""
    import xarray as xr

    levels = [name for name, variable in data.data_vars.items() if "level" in variable.dims]
    added = data[levels].sel(level="predictive").assign_coords(level="systematic")
    for name, factor in factors.items():
        one = added[name]
        dims = ("draw", *(dim for dim in one.dims if dim != "draw"))[: factor.ndim]
        added[name] = (one * xr.DataArray(factor, dims=dims)).transpose(*one.dims).assign_attrs(one.attrs)
    whole = xr.concat([data[levels], added], dim="level", combine_attrs="override")
    rest = data.drop_vars([*levels, "level"])
    return xr.merge([whole, rest], combine_attrs="override").assign_attrs(data.attrs)


def _surveyed(survey: Survey, currency: str) -> Any:
    """The survey's draws as variables with the dims ``picked`` (draws it used), ``change``, ``until``."""
    import xarray as xr

    unit = {"unit": currency}
    stacked = {
        "changed": (("change", "picked"), np.array(list(survey.changed.values())), unit),
        "lost": (
            ("until", "picked"),
            np.array(list(survey.lost.values())).reshape(-1, len(survey.picks)),
            unit,
        ),
    }
    single = ("equity", "potential", "by_purchases", "by_spend")
    named = {"equity": "unchanged"}
    variables = {named.get(name, name): ("picked", getattr(survey, name), unit) for name in single}
    coords = {"change": list(survey.changed), "until": list(survey.lost), "picked": survey.picks}
    return xr.Dataset(variables | stacked, coords=coords)


def _with_risk(customers: Any, survey: Survey, parts: Mapping[str, Segment]) -> Any:
    """Columns ``decile``, ``value_lapsed`` and ``value_in_doubt``."""
    import pyarrow as pa

    columns = {"value_lapsed": survey.lapse, "value_in_doubt": survey.in_doubt}
    if (part := parts.get("partition:decile")) is not None:
        columns = {"decile": np.array(part.labels, int)[part.codes]} | columns
    for name, column in columns.items():
        free = name if name not in customers.column_names else f"{name} (equity)"
        customers = customers.append_column(free, pa.array(column))
    return customers


def _reduce(
    valuation: AnyValuation, level: _Level, best: np.ndarray | None, table: CustomerTable | None, tile: Tile
) -> tuple[Tile, _Sums, dict[str, np.ndarray]]:
    return tile, level.sums(tile, valuation, best), table.columns(tile) if table else {}


def top(values: np.ndarray, share: float) -> np.ndarray:
    """Mask of the best ``share`` of customers, ties broken by position."""
    count = max(round(share * len(values)), 1)
    mask = np.zeros(len(values), bool)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask


def _typical(valuation: AnyValuation) -> float:
    """A typical value of a customer, to center the histogram."""
    spend = valuation.summary["first_amount"]
    margin = np.abs(valuation.assumptions.margin)
    return float(max(np.median(spend[spend > 0]) * margin.mean(), 1e-12)) if (spend > 0).any() else 1.0


def _share(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Part over total per draw; NaN where there is nothing to share."""
    return np.divide(part, total, out=np.full(len(total), np.nan), where=total != 0)


def _dataset(valuation: AnyValuation, levels: dict[str, _Level]) -> Any:
    import xarray as xr

    assumptions, summary = valuation.assumptions, valuation.summary
    currency = summary.currency
    first = next(iter(levels.values()))
    edges = valuation.band_edges
    years = assumptions.band_years
    used = edges[1:] > edges[:-1]
    bands = [
        f"{a:g}-{b:g} years" if np.isfinite(b) else f">{a:g} years" for a, b in itertools.pairwise(years)
    ]
    lorenz = {name: level.lorenz for name, level in levels.items()}

    def stack(pick: Callable[[_Level], np.ndarray]) -> np.ndarray:
        return np.stack([pick(level) for level in levels.values()])

    def segments(name: str) -> np.ndarray:
        return stack(lambda v: v.segments[name])

    decile = int(np.flatnonzero(np.isclose(SHARES, 0.10))[0])
    unit = {"unit": currency}
    share = {"unit": "share"}
    variables: dict[str, Any] = {
        "total": (("level", "draw"), stack(lambda v: v.total), unit),
        "bands": (("draw", "band"), first.bands[:, :-1][:, used], unit),
        "never_again": (("level", "draw"), stack(lambda v: v.never_again), unit),
        "alive": (("draw",), first.alive, {"unit": "customers"}),
        "orders": (("level", "draw", "horizon"), stack(lambda v: v.orders), {"unit": "orders"}),
        "revenue": (("level", "draw", "horizon"), stack(lambda v: v.revenue), unit),
        "beyond": (("draw",), _share(first.bands[:, -1], first.total), share),
        "gini": (("level", "draw"), stack(lambda v: v.gini), share),
        "top_decile": (("level", "draw"), np.stack([v[:, decile] for v in lorenz.values()]), share),
        "fixed_top_decile": (("level", "draw"), stack(lambda v: _share(v.best, v.total)), share),
        "lorenz": (
            ("level", "quantile", "share_of"),
            np.stack([np.quantile(v, LORENZ_QUANTILES, axis=0) for v in lorenz.values()]),
            share,
        ),
    }
    coords: dict[str, Any] = {
        "level": list(levels),
        "band": [band for band, use in zip(bands, used, strict=True) if use],
        "horizon": list(assumptions.horizons),
        "quantile": list(LORENZ_QUANTILES),
        "share_of": SHARES,
    }
    for name, part in first.parts.items():
        kind, _, key = name.partition(":")
        by, many = (f"by:{key}", f"customers:{key}") if kind == "segment" else (f"in:{key}", f"members:{key}")
        counts = np.bincount(part.codes, minlength=len(part.labels))
        variables[name] = (("level", "draw", by), segments(name), unit)
        variables[many] = ((by,), counts, {"unit": "customers"})
        coords[by] = list(part.labels)
    if valuation.may_lose:
        variables["losing_customers"] = (
            ("level", "draw"),
            stack(lambda v: v.losing[0]),
            {"unit": "customers"},
        )
        variables["losing_value"] = (("level", "draw"), stack(lambda v: v.losing[1]), unit)
    attrs = {
        "currency": currency,
        "customers": len(summary),
        "valuation_date": summary.observation_end.isoformat(),
        "annual_discount_rate": assumptions.annual_discount_rate,
        "delta": assumptions.delta,
        "time_unit": summary.time_unit,
        "timing": assumptions.timing,
        "horizon": assumptions.horizon,
        "margin": assumptions.margin_source,
        "cost": assumptions.cost_source,
        "scope": "existing customers, before indirect cost and tax; acquisition cost not subtracted",
    }
    return xr.Dataset(variables, coords=coords, attrs=attrs)
