"""The bridge as files: one table of numbers, drawn as JSON, CSV, page and waterfall.

Every block of numbers carries its ``unit`` and ``level``, as in ``summary.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels.artifacts import LEVEL_CONTENTS
from clvmodels.equity.bridge import (
    ASSUMPTIONS,
    BASES,
    KINDS,
    LINES,
    MOVEMENTS,
    ORDER,
    REVISIONS,
    SCOPES,
    Basis,
    Bridge,
    FutureEquity,
    Movement,
    Return,
    return_on_customer,
)
from clvmodels.report import page, tables
from clvmodels.report.files import write_csv
from clvmodels.report.text import SPACE, fill, long_date, lookup, show

SCHEMA = 1
COMPARED = ("purchases", "spend", "model")
"""Lines between draws of two posteriors: their intervals depend on how the draws were paired."""

LABELS = {
    "opening": "Opening, as published",
    "unwinding": "Unwinding of the discount",
    "release": "Margin expected in the period, paid out",
    "bought": "Customers who bought",
    "silent": "Customers who were silent",
    "basket": "Basket value",
    "new": "New customers",
    "horizon_roll": "Horizon moved on",
    "perimeter": "Perimeter: missing, merged or rewritten ids",
    "periods": "Discounting by periods",
    "purchases": "Re-estimated purchase model",
    "spend": "Re-estimated spend model",
    "margin": "Assumption: margin",
    "cost": "Assumption: cost of keeping",
    "discount": "Assumption: discounting",
    "horizon": "Assumption: horizon",
    "model": "Another model",
    "closing": "Closing",
    "start": "Opening, restated",
    "before_revisions": "Closing before revisions",
    "margin_variance": "Realized less expected margin",
    "margin_acquired": "Margin from acquired customers",
    "acquisition_cost": "Acquisition cost",
    "future_unwinding": "Future customers: unwinding",
    "future_release": "Future customers: acquisition expected in the period",
    "future_roll": "Future customers: end of the forecast moved on",
    "future_revision": "Future customers: forecast and value revised",
}
FUTURE_LINES = ("opening", "unwinding", "release", "roll", "revision", "closing")
FUTURE_LABELS = {
    "opening": "Opening: customers still to be won, net",
    "unwinding": "Unwinding of the discount",
    "release": "Acquisition expected in the period, now past",
    "roll": "End of the forecast moved on",
    "revision": "Forecast, value and cost revised",
    "closing": "Closing: customers still to be won, net",
}
NEWCOMER_LABELS = {
    "acquired": "at acquisition, first order not included",
    "unwinding": "unwinding since",
    "release": "margin expected since, paid out",
    "experience": "experience since",
    "periods": "discounting by periods",
}
ATTRIBUTION_TEXT = {
    "sequential": "Changed assumptions follow one after the other: margin, cost, discounting, horizon.",
    "shapley": "What changed assumptions bring together is shared by averaging over all orders of the "
    "changes (Shapley).",
}
SCOPE_LABELS = {
    "existing": "opening's customers",
    "with_acquired": "with acquired customers",
    "total": "with acquired and future customers",
}
KIND_LABELS = {
    "bought": "bought in the period",
    "silent": "were silent in the period",
    "new": "were acquired in the period",
    "vanished": "are missing at the closing",
    "appeared": "appeared with an older first purchase",
    "rewritten": "have a history that was rewritten",
}
BASIS_TEXT = {
    "closing": "Movements use the parameters and assumptions of the closing date, after the opening was "
    "restated to them. Each line has an exact joint posterior. Because these parameters have already seen "
    "the period, the experience lines explain it; they are not a test of the forecast.",
    "opening": "Movements use the parameters and assumptions of the opening date; what was re-estimated or "
    "changed follows at the closing date. The experience lines are honest forecast errors.",
}
_COUPLING_TEXT = {
    "independent": "Draws of the two posteriors are paired at random (independent, conservative: wide "
    "intervals of the lines that compare them).",
    "comonotone": "Draws of the two posteriors are paired in order of the value of the closing's customers "
    "(comonotone: narrow intervals of the lines that compare them).",
    "identical": "Both dates use one and the same posterior, draw by draw.",
    "point": "At least one date has one parameter vector: what compares the two has no interval of its own.",
}
CSV_COLUMNS = ("basis", "line", "column", "segment", "level", "statistic", "value", "unit")


def build(
    bridge: Bridge,
    *,
    name: str,
    opening: Mapping[str, Any],
    closing: Mapping[str, Any],
    basis: Basis = "closing",
    acquisition_cost: float = 0.0,
    alerts: int = 0,
    converged: bool | None = True,
    future: FutureEquity | None = None,
    notes: Sequence[str] = (),
    versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Every number of the bridge, with unit and level, JSON-ready.

    Parameters
    ----------
    opening, closing
        ``date``, ``customers``, ``fingerprint`` and ``assumptions`` (texts by topic) of both.
    basis
        The one that the page shows first.
    alerts
        Number of customers on the alert list.
    future
        Equity of future customers, for the return in total; left out, it is not given.
    notes
        Sentences that a reader must know.
    """
    money, level = bridge.currency, bridge.level
    table: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "currency": money,
        "level": level,
        "contains": LEVEL_CONTENTS[level],
        "basis": basis,
        "coupling": bridge.coupling,
        "coupling_text": _COUPLING_TEXT[bridge.coupling],
        "attribution": bridge.attribution,
        "attribution_text": ATTRIBUTION_TEXT[bridge.attribution],
        "converged": converged,
        "notes": list(notes),
        "opening": dict(opening),
        "closing": dict(closing),
        "elapsed": {"value": bridge.years, "unit": "years"},
        "accumulation": bridge.accumulation,
        "customers": {kind: {"value": bridge.counts[kind], "unit": "customers"} for kind in KINDS},
        "alerts": {
            "customers": {"value": alerts, "unit": "customers"},
            "shortfall": {"value": bridge.alert, "unit": money},
            "probability": {"value": 0.5, "unit": "probability"},
        },
        "acquisition_cost": {"value": float(acquisition_cost), "unit": money},
        "future": None if future is None else _future(future, bridge),
        "bases": {
            found: _basis(bridge.movements[found], bridge, acquisition_cost, future)
            for found in (basis, *(other for other in BASES if other != basis))
        },
        "versions": dict(versions or {}),
    }
    table = tables.clean(table)
    table["sentences"] = [fill(sentence, table) for sentence in sentences(table)]
    return table


def _future(future: FutureEquity, bridge: Bridge) -> dict[str, Any]:
    """Equity of customers still to be won, apart from that of existing ones, line by line."""
    draws = {name: getattr(future, name) for name in FUTURE_LINES} | {"release": -future.release}
    block = {
        name: tables.statistics(v, unit=bridge.currency, level=bridge.level) for name, v in draws.items()
    }
    due = tables.statistics(future.due, unit="customers", level=bridge.level)
    return {"lines": block, "due": due}


def _basis(movement: Movement, bridge: Bridge, cost: float, future: FutureEquity | None) -> dict[str, Any]:
    money, level = bridge.currency, bridge.level

    def block(draws: np.ndarray, line: str = "") -> dict[str, Any]:
        found = tables.statistics(draws, unit=money, level=level)
        return found | ({"coupling": bridge.coupling} if line in COMPARED else {})

    lines = {line: block(movement[line], line) for line in ORDER[movement.basis]}
    subtotals = {"start": block(movement.start)}
    if movement.basis == "opening":
        revised = movement.lines[[LINES.index(line) for line in REVISIONS]].sum(axis=0)
        subtotals = {"before_revisions": block(movement["closing"] - revised)}
    return {
        "text": BASIS_TEXT[movement.basis],
        "lines": lines,
        "subtotals": subtotals,
        "change": block(movement["closing"] - movement["opening"]) | {"coupling": bridge.coupling},
        "zero": [line for line in LINES if not movement[line].any()],
        "newcomers": {line: block(values) for line, values in movement.newcomers.items()},
        "margin": {
            "expected": block(movement.margin_expected),
            "existing": {"value": movement.margin_existing, "unit": money},
            "acquired": {"value": movement.margin_acquired, "unit": money},
            "cost_existing": block(movement.cost_existing),
            "cost_acquired": block(movement.cost_acquired),
        },
        "residual": {"value": float(np.abs(movement.residual).max()), "unit": money},
        "returns": {
            scope: {
                what: returned(
                    return_on_customer(
                        movement,
                        scope,
                        revised=what == "published",
                        acquisition_cost=cost,
                        future=future if scope == "total" else None,
                    ),
                    bridge,
                )
                for what in ("published", "achieved")
            }
            for scope in SCOPES
            if scope != "total" or future is not None
        },
        "segments": {
            column: [
                {"label": label, "lines": {line: block(values[k, g], line) for k, line in enumerate(LINES)}}
                for g, label in enumerate(labels)
            ]
            for column, (labels, values) in movement.segments.items()
        },
    }


def returned(found: Return, bridge: Bridge) -> dict[str, Any]:
    level = bridge.level
    shares = {"unit": "share", "level": level}

    def block(draws: np.ndarray) -> dict[str, Any]:
        return tables.statistics(draws, **shares)

    with np.errstate(invalid="ignore", divide="ignore"):
        yearly = (
            np.power(np.maximum(1 + found.value, 0), 1 / bridge.years) - 1 if bridge.years else found.value
        )
    chance = found.chance
    verdict = "not defined"
    if found.defined:
        mean = found.value.mean()
        verdict = "creating" if mean > found.hurdle else "harvesting" if mean > 0 else "destroying"
    return {
        "defined": found.defined,
        "verdict": verdict,
        "value": block(found.value),
        "yearly": block(yearly),
        "hurdle": {"value": found.hurdle, **shares},
        "excess": block(found.excess),
        "created": tables.statistics(found.created, unit=bridge.currency, level=level),
        "chance": {"value": chance, "unit": "probability", "level": level},
        "parts": {line: block(values) for line, values in found.parts.items()},
    }


def sentences(table: Mapping[str, Any]) -> list[str]:
    """Three plain sentences, four where ids changed, with the keys of their numbers in braces."""
    key = f"bases.{table['basis']}"
    block = table["bases"][table["basis"]]

    def ninety(of: str) -> str:
        if lookup(table, of)["interval_90"] is None:
            return ""
        return f" (90{SPACE}%: {{{of}.interval_90.0}} to {{{of}.interval_90.1}})"

    began, ended = f"{key}.lines.opening", f"{key}.lines.closing"
    first = (
        f"Between {long_date(table['opening']['date'])} and {long_date(table['closing']['date'])} equity at "
        f"level {table['level']} went from {table['currency']}{SPACE}{{{began}.mean}}{ninety(began)} to "
        f"{{{ended}.mean}}{ninety(ended)}."
    )
    paid = block["margin"]["existing"]["value"]
    due = block["margin"]["expected"]["mean"]
    word = "more" if paid > due else "less"
    second = (
        f"The opening's customers paid {table['currency']}{SPACE}{{{key}.margin.existing.value:whole}} of "
        f"margin, {word} than the {{{key}.margin.expected.mean:whole}} expected"
        + (
            f" (keeping them was expected to cost {{{key}.margin.cost_existing.mean:whole}}, taken as paid)"
            if block["margin"]["cost_existing"]["mean"]
            else ""
        )
        + "; against what was expected, "
        f"customers who bought moved equity by {{{key}.lines.bought.mean}}, customers who were silent by "
        f"{{{key}.lines.silent.mean}}, and basket value by {{{key}.lines.basket.mean}}."
    )
    result = f"{key}.returns.existing"
    if not block["returns"]["existing"]["published"]["defined"]:
        third = (
            "Opening equity is not above zero, so a return on it is not defined; value created beyond the "
            f"hurdle is {table['currency']}{SPACE}{{{result}.published.created.mean}}."
        )
        return [first, second, third, *_perimeter(table, key)]
    chance = block["returns"]["existing"]["achieved"]["chance"]["value"]
    sure = "" if chance is None else (
        f", with probability {{{result}.achieved.chance.value}} above the hurdle (parameters only)"
    )  # fmt: skip
    third = (
        f"The return on the opening's customers was {{{result}.published.value.mean}} against a hurdle of "
        f"{{{result}.published.hurdle.value}}; without what was re-estimated or assumed anew it was "
        f"{{{result}.achieved.value.mean}}{sure}."
    )
    return [first, second, third, *_perimeter(table, key)]


def _perimeter(table: Mapping[str, Any], key: str) -> list[str]:
    if not any(table["customers"][kind]["value"] for kind in ("vanished", "appeared", "rewritten")):
        return []
    return [
        "Not all customers can be followed: {customers.vanished.value} are missing at the closing, "
        "{customers.appeared.value} appeared with an older first purchase, and the history of "
        "{customers.rewritten.value} was rewritten; equity moved by "
        f"{{{key}.lines.perimeter.mean}} with them."
    ]


def since(bridge: Bridge, table: Mapping[str, Any]) -> dict[str, Any]:
    """The block ``since`` of a run's table: how equity has changed since an earlier run.

    Parameters
    ----------
    table
        As :func:`build` made it; its first basis is shown.
    """
    basis = table["basis"]
    block = table["bases"][basis]
    return {
        "date": table["opening"]["date"],
        "elapsed": table["elapsed"],
        "level": bridge.level,
        "basis": basis,
        "coupling": bridge.coupling,
        "change": block["change"],
        "lines": block["lines"],
        "returns": block["returns"],
        "future": table["future"],
        "acquisition_cost": table["acquisition_cost"],
        "notes": table["notes"],
    }


def rows(table: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Tidy rows of ``bridge.csv``."""
    for kind, block in table["customers"].items():
        yield "", f"customers_{kind}", "", "", "", "value", block["value"], block["unit"]
    if table["future"]:
        yield from _stats("", "future.due", "", "", table["future"]["due"])
        for line, block in table["future"]["lines"].items():
            yield from _stats("", f"future.{line}", "", "", block)
    for basis, found in table["bases"].items():
        for line, block in (found["lines"] | found["subtotals"]).items():
            yield from _stats(basis, line, "", "", block)
        for name, block in found["margin"].items():
            yield from _stats(basis, f"margin_{name}", "", "", block)
        for name, block in found["newcomers"].items():
            yield from _stats(basis, f"new.{name}", "", "", block)
        yield from _stats(basis, "change", "", "", found["change"])
        yield from _stats(basis, "residual", "", "", found["residual"])
        for scope, kinds in found["returns"].items():
            for what, result in kinds.items():
                at = f"return_{scope}_{what}"
                for name in ("value", "yearly", "hurdle", "excess", "created", "chance"):
                    yield from _stats(basis, f"{at}.{name}", "", "", result[name])
                for line, block in result["parts"].items():
                    yield from _stats(basis, f"{at}.part.{line}", "", "", block)
        for column, groups in found["segments"].items():
            for group in groups:
                for line, block in group["lines"].items():
                    yield from _stats(basis, line, column, group["label"], block)


def _stats(
    basis: str, line: str, column: str, segment: str, block: Mapping[str, Any]
) -> Iterator[tuple[Any, ...]]:
    for name, value in block.items():
        if name in ("unit", "level", "coupling"):
            continue
        names = (f"{name}_low", f"{name}_high") if name.startswith("interval") else (name,)
        values = (value or (None, None)) if len(names) == 2 else (value,)
        for statistic, number in zip(names, values, strict=True):
            yield basis, line, column, segment, block.get("level", ""), statistic, number, block["unit"]


def write(
    folder: Path, bridge: Bridge, table: Mapping[str, Any], config: str, meta: Mapping[str, Any]
) -> None:
    """Write every file into an existing folder.

    ``bridge.html``, ``bridge.json``, ``bridge.csv``, ``customers.parquet``, ``alerts.csv``,
    ``figures/``, ``config.yaml`` (as given) and ``manifest.json``.
    """
    import pyarrow.parquet as pq

    from clvmodels.report import figures

    (folder / "bridge.json").write_text(tables.dumps(table), encoding="utf-8")
    write_csv(folder / "bridge.csv", CSV_COLUMNS, rows(table))
    about = {key: table[key] for key in ("schema", "level", "currency", "opening", "closing")}
    customers = bridge.customers.replace_schema_metadata({"clvmodels": json.dumps(about)})
    pq.write_table(customers, folder / "customers.parquet", compression="zstd")
    found = bridge.alerts()
    write_csv(folder / "alerts.csv", found.column_names, (tuple(row.values()) for row in found.to_pylist()))
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    place = folder / "figures"
    place.mkdir()
    drawn = {}
    for basis in table["bases"]:
        figure = waterfall(table, basis)
        drawn[basis] = figures.svg(figure)
        (place / f"bridge_{basis}.svg").write_text(drawn[basis], encoding="utf-8")
        (place / f"bridge_{basis}.png").write_bytes(figures.png(figure))
    (folder / "bridge.html").write_text(html(table, drawn), encoding="utf-8")
    text = json.dumps(dict(meta), indent=2, ensure_ascii=False, default=str) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def shown(table: Mapping[str, Any], basis: str) -> list[tuple[str, str, bool]]:
    """(key of the block, label, whether a total) of the lines to show, in order, zeros left out."""
    block = table["bases"][basis]
    revised = [line for line in REVISIONS if line not in block["zero"]]
    out: list[tuple[str, str, bool]] = []
    for line in block["lines"]:
        total = line in ("opening", "closing")
        if basis == "opening" and revised and line == REVISIONS[0]:
            key = f"bases.{basis}.subtotals.before_revisions"
            out.append((key, LABELS["before_revisions"], True))
        if basis == "closing" and revised and line == MOVEMENTS[0]:
            out.append((f"bases.{basis}.subtotals.start", LABELS["start"], True))
        if total or line not in block["zero"]:
            out.append((f"bases.{basis}.lines.{line}", LABELS[line], total))
    return out


def decimals(table: Mapping[str, Any]) -> str:
    """One style for all lines: whole units of currency, unless equity is small."""
    ends = [table["bases"][table["basis"]]["lines"][line]["mean"] for line in ("opening", "closing")]
    return "whole" if max(map(abs, ends)) >= 1000 else "fixed"


def html(table: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """The page: inline style and figures, no script, no network."""
    from markupsafe import Markup

    return page.template("bridge.html.j2", table).render(
        sentences=sentences(table),
        style=decimals(table),
        shown={basis: shown(table, basis) for basis in table["bases"]},
        figures={basis: Markup(svg) for basis, svg in figures.items()},
        labels=LABELS,
        kinds=KIND_LABELS,
        compared=COMPARED,
        scopes=SCOPE_LABELS,
        newcomers=NEWCOMER_LABELS,
        future=FUTURE_LABELS,
        assumptions=ASSUMPTIONS,
        whats={"published": "as published", "achieved": "without revisions"},
    )


def waterfall(table: Mapping[str, Any], basis: str | None = None) -> Any:
    """Waterfall from opening to closing, line by line, with 90 % intervals; a matplotlib figure."""
    from clvmodels.report import figures

    return figures._styled(_waterfall)(table, basis or table["basis"])


def _waterfall(table: Mapping[str, Any], basis: str) -> Any:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from clvmodels.report import figures as f

    lines, style = shown(table, basis), decimals(table)
    figure = f.Picture(figsize=(8.0, 1.0 + 0.3 * len(lines)))
    ax = figure.subplots()
    level, ends = 0.0, [0.0]
    texts = []
    for row, (key, _, total) in enumerate(lines):
        block = lookup(table, key)
        mean, span = block["mean"], block["interval_90"]
        base = 0.0 if total else level
        level = mean if total else level + mean
        up = mean >= 0
        face = f.INK if total else f.PALE if up else "white"
        ax.barh(row, mean, left=base, height=0.62, color=face, edgecolor=f.INK if total else f.MODEL, lw=0.8,
                hatch="" if total or up else "////")  # fmt: skip
        reach = [base, level]
        if span:
            low, high = (base + value for value in span)
            dashed = key.rpartition(".")[2] in COMPARED
            ax.plot([low, high], [row, row], color=f.GREY if total else f.INK, lw=1.3,
                    ls=(0, (2, 1.2)) if dashed else "-")  # fmt: skip
            reach += [low, high]
        if row + 1 < len(lines):
            ax.plot([level, level], [row + 0.31, row + 0.69], color=f.GREY, lw=0.7)
        ends += reach
        texts.append((row, show(table, f"{key}.mean", style), not total and up))
    left, right = min(ends), max(ends)
    ax.set_xlim(left - (0.02 if left < 0 else 0) * (right - left), right + 0.03 * (right - left))
    for row, text, up in texts:
        ax.annotate(f"+{text}" if up else text, (1.09, row), xycoords=("axes fraction", "data"),
                    ha="right", va="center", fontsize=8)  # fmt: skip
    ax.set_yticks(range(len(lines)), [label for _, label, _ in lines])
    ax.tick_params("y", length=0)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.set_xlabel(f"Equity ({table['currency']}), mean at level {table['level']}")
    f._thousands(ax.xaxis)
    ax.grid(axis="x", color="#eceff2", lw=0.6)
    handles: list[Any] = [
        Patch(facecolor=f.INK, label="equity"),
        Patch(facecolor=f.PALE, edgecolor=f.MODEL, label="increase"),
        Patch(facecolor="white", edgecolor=f.MODEL, hatch="////", label="decrease"),
    ]
    if any(lookup(table, key)["interval_90"] for key, _, _ in lines):
        handles.append(Line2D([], [], color=f.INK, lw=1.3, label="90 % interval of the line"))
        if any(key.rpartition(".")[2] in COMPARED for key, _, _ in lines):
            name = f"the same, draws paired ({table['coupling']})"
            handles.append(Line2D([], [], color=f.INK, lw=1.3, ls=(0, (2, 1.2)), label=name))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=7.5)
    return figure


def summary_lines(table: Mapping[str, Any], basis: str | None = None) -> list[tuple[str, str, str]]:
    """Label, mean and 90 % interval of the lines of a basis as text, for the command line."""
    out: list[tuple[str, str, str]] = []
    style = decimals(table)
    for key, label, _ in shown(table, basis or table["basis"]):
        span = "none"
        if lookup(table, key)["interval_90"] is not None:
            ends: Sequence[str] = [show(table, f"{key}.interval_90.{end}", style) for end in (0, 1)]
            span = f"{ends[0]} to {ends[1]}"
        out.append((label, show(table, f"{key}.mean", style), span))
    return out
