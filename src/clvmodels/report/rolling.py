"""A comparison on rolling origins as files: JSON, CSV, page and figure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels.report import tables
from clvmodels.report.files import write_csv
from clvmodels.report.text import SPACE
from clvmodels.validate.rolling import CHOSEN, STACKED, STANDARD_ERRORS, Rolling

SCHEMA = 1
SHOWN = {"orders": "purchases", "revenue": "revenue"}
COLUMNS = (
    *("level", "measure", "horizon", "variant", "origins", "apart", "bias", "relative_crps"),
    *("coverage_90", "rms_z", "width_90", "difference", "se", "verdict"),
)
UNITS = {
    "origins": "origins", "apart": "origins", "bias": "share", "relative_crps": "share of what came",
    "coverage_90": "share of origins", "rms_z": "1", "width_90": "share of the forecast",
    "difference": "share of what came", "se": "share of what came",
}  # fmt: skip


def build(result: Rolling, name: str, currency: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """The content of ``rolling.json``; ``docs/rolling.md`` lists the keys."""
    levels = [row["level"] for row in result.table]
    level = "systematic" if "systematic" in levels else "predictive"
    return {
        "schema": SCHEMA,
        "name": name,
        "currency": currency,
        "level": level,
        "variants": list(result.variants),
        "units": UNITS,
        "table": [dict(row) for row in result.table],
        "weights": [dict(row) for row in result.weights],
        "left_out": {name: dict(rows) for name, rows in result.left_out.items() if rows},
        "sentences": sentences(result, level),
        "versions": dict(versions),
    }


def sentences(result: Rolling, level: str) -> list[str]:
    """What the table says, horizon by horizon, and whether it can be told."""
    out = []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in result.table:
        if row["level"] == level:
            groups.setdefault((row["measure"], row["horizon"]), []).append(row)
    for (measure, horizon), rows in groups.items():
        best = next(row for row in rows if row["verdict"] == "best")
        least = min(rows, key=lambda row: np.inf if row["bias"] is None else abs(row["bias"]))
        text = (
            f"{SHOWN[measure].capitalize()} over {horizon}: {best['variant']} is closest (CRPS "
            f"{_percent(best['relative_crps'])} of what came, bias {_signed(best['bias'])}, "
            f"90{SPACE}% intervals cover {best['coverage_90']:.2f}); "
        )
        if least is not best:
            text += f"the smallest bias is that of {least['variant']} ({_signed(least['bias'])}); "
        others = [row for row in rows if row is not best]
        worse = [row["variant"] for row in others if row["verdict"] == "worse"]
        if all(row["verdict"] == "unknown" for row in others):
            text += f"with {best['apart']} of {best['origins']} origins apart nothing can be told apart."
        elif not worse:
            text += f"none of the others can be told apart from it ({best['apart']} origins apart)."
        else:
            rest = [row["variant"] for row in others if row["verdict"] == "alike"]
            text += f"worse by more than {STANDARD_ERRORS:.0f} standard errors: {', '.join(worse)}"
            text += f"; cannot be told apart from it: {', '.join(rest)}." if rest else "."
        out.append(text)
    if result.weights:
        last = [row for row in result.weights if row["level"] == level and row["measure"] == "orders"][-1]
        share = ", ".join(
            f"{name} {weight:.2f}" for name, weight in last["weights"].items() if weight >= 0.005
        )
        out.append(
            f"At the last origin, {last['origin']}, {last['known']} earlier forecasts were known: they "
            f"choose {last['chosen']} for purchases, and weigh {share}."
        )
    for name, reasons in result.left_out.items():
        if reasons:
            day, why = next(iter(reasons.items()))
            out.append(f"{name}: {len(reasons)} origins were not scored, and so not compared; {day}: {why}")
    return out


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}{SPACE}%"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}{SPACE}%".replace("-", "−")


def printed(
    table: Mapping[str, Any], measure: str = "orders"
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of a measure at the table's level: bias, CRPS and coverage of each variant."""
    rows = [row for row in table["table"] if row["level"] == table["level"] and row["measure"] == measure]
    horizons = list(dict.fromkeys(row["horizon"] for row in rows))
    found = {(row["variant"], row["horizon"]): row for row in rows}
    lines = []
    for name in [*table["variants"], STACKED, CHOSEN]:
        cells = []
        for horizon in horizons:
            row = found[name, horizon]
            mark = {"best": "*", "worse": "!"}.get(row["verdict"], "")
            cells.append(
                f"{_signed(row['bias'])}, {_percent(row['relative_crps'])}{mark}, {row['coverage_90']:.2f}"
            )
        lines.append((name, *cells))
    return ("variant", *horizons), lines


def write(folder: Path, table: Mapping[str, Any], result: Rolling) -> None:
    """``rolling.json``, ``rolling.csv``, ``scores.csv``, ``rolling.html`` and ``figures/rolling.svg``."""
    from clvmodels.report import figures

    (folder / "rolling.json").write_text(tables.dumps(table), encoding="utf-8")
    write_csv(folder / "rolling.csv", COLUMNS, [tuple(row[c] for c in COLUMNS) for row in table["table"]])
    names = tuple(result.scores[0])
    write_csv(folder / "scores.csv", names, [tuple(row[c] for c in names) for row in result.scores])
    drawn = figure(table)
    (folder / "figures").mkdir()
    text = figures.svg(drawn)
    (folder / "figures" / "rolling.svg").write_text(text, encoding="utf-8")
    (folder / "rolling.html").write_text(page(table, text), encoding="utf-8")


def page(table: Mapping[str, Any], figure: str) -> str:
    """The page: sentences, a table for each measure and the figure."""
    css = (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    said = "".join(f"<li>{html.escape(text)}</li>" for text in table["sentences"])
    measures = list(dict.fromkeys(row["measure"] for row in table["table"]))
    shown = "".join(
        f"<section>\n<h2>{SHOWN[measure].capitalize()}</h2>\n{_html(*printed(table, measure))}\n</section>\n"
        for measure in measures
    )
    name, title = html.escape(table["name"]), "Variants on rolling origins"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}: {name}</title>\n'
        f"<style>\n{css}\n</style>\n</head>\n<body>\n<main>\n"
        f'<header>\n<p class="eyebrow">{name}</p>\n<h1>{title}</h1>\n'
        f'<p class="lede">Forecasts at level {table["level"]}, by how far ahead they reach</p>\n</header>\n'
        f"<ul>{said}</ul>\n"
        '<p class="note">Bias: what came over what was expected, less 1. CRPS: over what came, less is '
        "better; * is the lowest, ! is worse than it by more than two standard errors. Coverage: share of "
        "origins whose truth lay inside the 90 % interval. stacked and chosen learn from what was known at "
        "each origin.</p>\n"
        f'{shown}<section>\n<figure class="wide">{figure}<figcaption>Purchases at level {table["level"]}, by '
        "variant and horizon.</figcaption></figure>\n</section>\n</main>\n</body>\n</html>\n"
    )


def _html(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    first, *horizons = map(html.escape, header)
    head = f"<th>{first}</th>" + "".join(
        f'<th class="num">{cell}<br><small>bias, CRPS, coverage</small></th>' for cell in horizons
    )
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f'<td class="num">{html.escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def figure(table: Mapping[str, Any]) -> Any:
    """Bias and CRPS of purchases by horizon, one mark for each variant."""
    from clvmodels.report import figures as f

    return f._styled(_figure)(table)


def _figure(table: Mapping[str, Any]) -> Any:
    from clvmodels.report import figures as f

    rows = [row for row in table["table"] if row["level"] == table["level"] and row["measure"] == "orders"]
    horizons = list(dict.fromkeys(row["horizon"] for row in rows))
    names = [*table["variants"], STACKED, CHOSEN]
    drawn, axes = f._panels(2, height=1.3 + 0.3 * len(names), sharey=True)
    shades, shift = (f.MODEL, f.INK, f.PALE, f.GREY), 0.5 / max(1, len(horizons))
    titles = ("Bias: what came over what was expected, less 1", "CRPS over what came: less is better")
    for ax, key, title in zip(axes, ("bias", "relative_crps"), titles, strict=True):
        for k, horizon in enumerate(horizons):
            found = {row["variant"]: row[key] for row in rows if row["horizon"] == horizon}
            values = [np.nan if found[name] is None else found[name] for name in names]
            places = np.arange(len(names)) + shift * (k - (len(horizons) - 1) / 2)
            ax.plot(
                values, places, "osD^v"[k % 5], ms=5, color=shades[k % 4], mec=f.INK, mew=0.6, label=horizon
            )
        ax.axvline(0, color=f.GREY, lw=0.8)
        ax.set_title(title)
        ax.set_xlabel(f"Purchases, level {table['level']}")
        ax.tick_params("y", length=0)
        ax.grid(axis="y", color="#eceff2", lw=0.6)
        f._shares(ax.xaxis)
    axes[0].set_yticks(range(len(names)), [f._short(name) for name in names])
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    axes[1].set_xlim(0)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(horizons))
    return drawn
