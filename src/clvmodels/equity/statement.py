"""Customer equity: values summed over customers inside every draw, level by level."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from clvmodels.artifacts import Equity, storable
from clvmodels.equity.concentration import Histogram
from clvmodels.equity.customers import CustomerTable
from clvmodels.value import AnyValuation, Tile

SHARES = np.linspace(0, 1, 101)
LORENZ_QUANTILES = (0.05, 0.50, 0.95)


class _Level:
    """Running sums of one level."""

    def __init__(self, valuation: AnyValuation, typical: float) -> None:
        draws = len(valuation.draws)
        self.total = np.zeros(draws)
        self.alive = np.zeros(draws)
        self.orders = np.zeros((draws, len(valuation.horizons)))
        self.revenue = np.zeros_like(self.orders)
        self.bands = np.zeros((draws, 0))
        self.segments = {
            name: np.zeros((draws, len(segment.labels)))
            for name, segment in valuation.summary.segments.items()
        }
        self.best = np.zeros(draws)
        self.once = valuation.summary["frequency"] == 0
        self.never_again = np.zeros(draws)
        self.histogram = Histogram(draws, typical)

    def add(self, tile: Tile, valuation: AnyValuation, best: np.ndarray | None) -> None:
        self.total += tile.value.sum(axis=0)
        self.alive += tile.alive
        self.orders += tile.orders
        self.revenue += tile.revenue
        if tile.bands is not None:
            self.bands = self.bands + tile.bands if self.bands.size else tile.bands
        for name, segment in valuation.summary.segments.items():
            codes = segment.codes[tile.customers]
            for code in np.unique(codes):
                self.segments[name][:, code] += tile.value[codes == code].sum(axis=0)
        self.never_again += tile.value[self.once[tile.customers]].sum(axis=0)
        if best is not None:
            self.best += tile.value[best[tile.customers]].sum(axis=0)
        self.histogram.add(tile.value)


def build(valuation: AnyValuation, progress: Callable[[str, float], None] | None = None) -> Equity:
    """Customer equity of the valuation's customers at all levels.

    Parameters
    ----------
    valuation
        Customers, posterior and assumptions.
    progress
        Called with the level and the fraction done.

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
    levels: dict[str, _Level] = {}
    for name in names:
        level = levels[name] = _Level(valuation, typical)
        first = name == names[0]
        tiles = valuation.expected() if first else getattr(valuation, name)()
        done = 0
        for tile in tiles:
            if first:
                table.add(tile)
            level.add(tile, valuation, best)
            done += len(tile.customers)
            if progress:
                progress(f"value, level {name}", done / n)
        if first:
            best = top(table["value_mean"], 0.10)
            level.best[:] = np.nan  # the set is chosen from this very pass
    return Equity(data=_dataset(valuation, levels), customers=table.table(valuation.summary))


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
    lorenz = {name: level.histogram.lorenz(SHARES) for name, level in levels.items()}

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
        "gini": (("level", "draw"), stack(lambda v: v.histogram.gini()), share),
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
    for name, segment in summary.segments.items():
        key = storable(name)
        counts = np.bincount(segment.codes, minlength=len(segment.labels))
        variables[f"segment:{key}"] = (("level", "draw", f"by:{key}"), segments(name), unit)
        variables[f"customers:{key}"] = ((f"by:{key}",), counts, {"unit": "customers"})
        coords[f"by:{key}"] = list(segment.labels)
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
        "scope": "existing customers, before indirect cost and tax; acquisition cost not subtracted",
    }
    return xr.Dataset(variables, coords=coords, attrs=attrs)
