"""Effects of covariates and pooled columns: their part of the table, of the page, and their figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from clvmodels.artifacts import Assumptions, Posterior, Summary
from clvmodels.effects import DRIVERS

SHOWN = 40
"""Levels that a figure shows: those of the most customers."""
WORDS = {"purchase": "Purchase rate", "dropout": "Dropout", "spend": "Spend"}
UNIT = "factor"
TICKS = (
    (0.9, 1.0, 1.1, 1.2),
    (0.5, 0.7, 1.0, 1.4, 2.0),
    (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
    (0.1, 0.3, 1.0, 3.0, 10.0),
    (0.01, 0.1, 1.0, 10.0, 100.0),
)
"""Marks of a logarithmic axis of factors, the closest first."""
COLUMNS = ("column", "label", "kind", "customers", "metric", "level", "statistic", "value", "unit")


def block(summary: Summary, posterior: Posterior, assumptions: Assumptions) -> dict[str, Any]:
    """The keys ``effects`` and ``pooling`` of the table; empty lists for models without effects."""
    from clvmodels import equity
    from clvmodels.report.tables import statistics

    level = "point" if posterior.is_point else "expected"

    def about(draws: np.ndarray, unit: str = UNIT) -> dict[str, Any]:
        return statistics(draws, unit=unit, level=level)

    rows = equity.effects(summary, posterior, assumptions) if posterior.effects else ()
    return {
        "effects": [
            {
                "column": row.column,
                "label": row.label,
                "kind": row.kind,
                "customers": {"value": row.customers, "unit": "customers"},
                "multipliers": {driver: about(draws) for driver, draws in row.multipliers.items()},
                "value": about(row.value),
                "observed": {driver: {"value": seen, "unit": UNIT} for driver, seen in row.observed.items()},
            }
            for row in rows
        ],
        "pooling": [
            {"column": term.column, "driver": term.driver, "sd": about(found.sd(term), "1")}
            for found in posterior.effects
            for term in found.terms
            if term.pooled
        ],
    }


def csv_rows(table: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``effects.csv``."""
    from clvmodels.report.tables import flat

    for row in table["effects"]:
        head = row["column"], row["label"], row["kind"], row["customers"]["value"]
        for metric, statistics in [*row["multipliers"].items(), ("value", row["value"])]:
            for name, value in flat(statistics):
                yield (*head, metric, statistics["level"], name, value, statistics["unit"])
        for driver, seen in row["observed"].items():
            yield (*head, driver, "", "observed", seen["value"], seen["unit"])


def by_column(table: Mapping[str, Any]) -> dict[str, list[int]]:
    """Positions in ``effects`` by column, those of pooled columns marked by their kind."""
    found: dict[str, list[int]] = {}
    for i, row in enumerate(table.get("effects", ())):
        name = row["column"] + (" (pooled)" if row["kind"] in ("pool", "walk") else "")
        found.setdefault(name, []).append(i)
    return found


def draw_all(table: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """A figure for each pooled column: name → (figure, caption)."""
    out: dict[str, tuple[Any, str]] = {}
    point = all(row["value"]["sd"] is None for row in table.get("effects", ()))
    for places in by_column(table).values():
        rows = [table["effects"][i] for i in places]
        if rows[0]["kind"] not in ("pool", "walk"):
            continue
        intervals = "" if point else " (circle: mean; thick: 50 %, thin: 90 % interval)"
        shown = f" The {SHOWN} levels of the most customers." if len(rows) > SHOWN else ""
        out[f"pooling_{len(out) + 1}"] = (
            shrinkage(rows),
            f"By {rows[0]['column']}: each level relative to the average customer, pooled{intervals}; the "
            "cross is what its customers were observed to do relative to all customers (repeat purchases per "
            "time, repeat spend), which few customers make unsure. The line from cross to circle is what "
            f"pooling takes away.{shown}",
        )
    return out


def _ticks(low: float, high: float) -> tuple[float, ...]:
    """The closest marks whose labels do not run into one another: a fifth of the axis apart."""
    least = (high / low) ** 0.2
    return next((t for t in TICKS if all(b / a >= least for a, b in pairwise(t))), TICKS[-1])


def shrinkage(rows: list[Mapping[str, Any]]) -> Any:
    """Pooled levels against what was observed of them, a panel for each driver and one for value."""
    from clvmodels.report import figures

    return figures._styled(_shrinkage)(rows)


def _shrinkage(rows: list[Mapping[str, Any]]) -> Any:
    from matplotlib.ticker import FixedLocator, FuncFormatter

    from clvmodels.report import figures

    if rows[0]["kind"] == "pool":
        rows = sorted(rows, key=lambda row: -row["customers"]["value"])[:SHOWN]
    metrics = [driver for driver in DRIVERS if driver in rows[0]["multipliers"]]
    titles = [WORDS[driver] for driver in metrics] + ["Value of a new customer"]
    height = 0.9 + 0.19 * len(rows)
    figure, panels = figures._panels(len(titles), width=8.8, height=height, squeeze=False)
    for ax, title, metric in zip(panels[0], titles, [*metrics, "value"], strict=True):
        for j, row in enumerate(rows):
            about = row["value"] if metric == "value" else row["multipliers"][metric]
            seen = row["observed"].get(metric, {}).get("value", 0.0)
            if seen > 0:
                ax.plot([seen, about["mean"]], [j, j], color=figures.PALE, lw=1.0, zorder=0)
                ax.plot(seen, j, "x", color=figures.INK, ms=4.5, zorder=4)
            figures._interval(ax, j, about, figures.MODEL)
        ax.axvline(1.0, color=figures.GREY, lw=0.7, ls=(0, (2, 2)), zorder=0)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(_ticks(*ax.get_xlim())))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"× {v:g}"))
        ax.minorticks_off()
        ax.tick_params("x", labelsize=7)
        ax.set_title(title)
        ax.tick_params("y", length=0)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(axis="y", color="#eceff2", lw=0.6)
        ax.set_yticks(range(len(rows)), [])
    names = [f"{figures._short(row['label'])} ({row['customers']['value']:,})" for row in rows]
    panels[0, 0].set_yticks(range(len(rows)), names)
    return figure
