"""Equity over time as files: one table of numbers, drawn as JSON, CSV, page and figures.

Every block of numbers carries its ``unit`` and ``level``, as in ``summary.json``.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels.artifacts import LEVEL_CONTENTS, Assumptions, Equity, Summary
from clvmodels.equity.bridge import BASES, LINES, Bridge, return_on_customer
from clvmodels.report import page, tables
from clvmodels.report.bridge import returned
from clvmodels.report.files import write_csv
from clvmodels.report.text import NONE, SPACE, fill, long_date, lookup, show

SCHEMA = 1
GROUPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "carried": ("Unwinding less margin paid out", ("unwinding", "release")),
    "experience": ("Experience with existing customers", ("bought", "silent", "basket")),
    "new": ("New customers", ("new",)),
    "revised": ("Re-estimated parameters", ("purchases", "spend", "model")),
    "other": (
        "Assumptions, horizon, perimeter",
        ("margin", "cost", "discount", "horizon", "horizon_roll", "perimeter", "periods"),
    ),
}
"""Lines of the bridge in groups: label and lines. Together they are all lines between the ends."""
CSV_COLUMNS = ("date", "from", "metric", "basis", "level", "statistic", "value", "unit")
FACTS = ("alive", "orders", "basket", "per_customer")
COUPLING_TEXT = {
    "independent": "draws of two dates are paired at random (wide intervals of what compares them)",
    "comonotone": "draws of two dates are paired in order of equity (narrow intervals of what compares them)",
}


def facts(data: Summary) -> dict[str, Any]:
    """What a date says before anything is fitted."""
    return {
        "date": data.observation_end.isoformat(),
        "currency": data.currency,
        "customers": {"value": len(data), "unit": "customers"},
        "repeat_buyers": {"value": int((data["frequency"] > 0).sum()), "unit": "customers"},
        "skipped": None,
    }


def statement(equity: Equity, assumptions: Assumptions) -> dict[str, Any]:
    """What a date is worth; needs exactly one horizon, of a year, in the equity."""
    levels, money, data = equity.levels, equity.currency, equity.data
    base = levels[0]
    alive = data["alive"].values
    orders, revenue = (data[name].sel(level=base).values[:, 0] for name in ("orders", "revenue"))
    total = equity.total(base)

    def block(draws: np.ndarray, unit: str) -> dict[str, Any]:
        return tables.statistics(draws, unit=unit, level=base)

    with np.errstate(invalid="ignore", divide="ignore"):
        per_alive, basket = orders / alive, revenue / orders
    return {
        "alive": block(alive, "customers"),
        "orders": block(per_alive, "orders per year"),
        "basket": block(basket, money),
        "margin": {"value": float(assumptions.margin.mean()), "unit": "share"},
        "per_customer": block(total / len(equity.customers), money),
        "equity": {
            level: tables.statistics(equity.total(level), unit=money, level=level) for level in levels
        },
    }


def period(bridge: Bridge, start: dt.date, end: dt.date) -> dict[str, Any]:
    """Why equity moved between two dates: change, groups of lines, lines and returns, in both bases."""
    money, level = bridge.currency, bridge.level

    def block(draws: np.ndarray) -> dict[str, Any]:
        return tables.statistics(draws, unit=money, level=level)

    closing = bridge.movements["closing"]
    change = closing["closing"] - closing["opening"]
    out: dict[str, Any] = {
        "from": start.isoformat(),
        "to": end.isoformat(),
        "years": {"value": bridge.years, "unit": "years"},
        "coupling": bridge.coupling,
        "acquired": {"value": bridge.counts["new"], "unit": "customers"},
        "change": block(change) | {"coupling": bridge.coupling},
        "bases": {},
    }
    for basis in BASES:
        movement = bridge.movements[basis]
        out["bases"][basis] = {
            "groups": {
                name: block(movement.lines[[LINES.index(line) for line in lines]].sum(axis=0))
                for name, (_, lines) in GROUPS.items()
            },
            "lines": {line: block(movement[line]) for line in LINES},
            "returns": {
                what: returned(return_on_customer(movement, revised=what == "published"), bridge)
                for what in ("published", "achieved")
            },
        }
    return out


def build(
    dates: Sequence[Mapping[str, Any]],
    periods: Sequence[Mapping[str, Any]],
    *,
    name: str,
    every: str,
    basis: str,
    coupling: str,
    assumptions: Mapping[str, str],
    asked: tuple[str, str],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Every number of the history, with unit and level, JSON-ready.

    Parameters
    ----------
    dates, periods
        As made by :func:`facts` with :func:`statement`, and by :func:`period`, in order; periods lead
        from each date that has equity to the next.
    asked
        First and last day that were asked for.
    """
    valued = [date for date in dates if not date["skipped"]]
    levels = list(valued[0]["equity"])
    level = levels[0]
    money = valued[0]["currency"]
    totals = {}
    for basis_ in BASES:
        found = [one["bases"][basis_]["groups"] for one in periods]
        totals[basis_] = {
            group: {"value": sum(one[group]["mean"] for one in found), "unit": money, "level": level}
            for group in GROUPS
        }
    notes = [
        f"{long_date(date['date'])} has no equity: {_sentence(date['skipped'])}"
        for date in dates
        if date["skipped"]
    ]
    if dates[-1]["date"] < asked[1]:
        notes.append(
            f"The steps from {long_date(asked[0])} lead to {long_date(dates[-1]['date'])}, not to "
            f"{long_date(asked[1])}."
        )
    if any(date.get("converged") is False for date in dates):
        which = ", ".join(long_date(d["date"]) for d in dates if d.get("converged") is False)
        notes.append(f"The draws of {which} have NOT converged; they are shown because that was allowed.")
    table: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "currency": money,
        "level": level,
        "levels": {one: LEVEL_CONTENTS[one] for one in levels},
        "every": every,
        "basis": basis,
        "coupling": coupling,
        "dates": [dict(date) for date in dates],
        "periods": [dict(one) for one in periods],
        "change": {
            "value": valued[-1]["equity"][level]["mean"] - valued[0]["equity"][level]["mean"],
            "unit": money,
            "level": level,
        },
        "totals": totals,
        "assumptions": dict(assumptions),
        "notes": notes,
        "versions": dict(versions),
    }
    table = tables.clean(table)
    table["sentences"] = [fill(sentence, table) for sentence in sentences(table)]
    return table


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _valued(table: Mapping[str, Any]) -> list[int]:
    return [k for k, date in enumerate(table["dates"]) if not date["skipped"]]


def decimals(table: Mapping[str, Any]) -> str:
    """One style for what moved equity: whole units of currency, unless equity is small."""
    worth = [table["dates"][k]["equity"][table["level"]]["mean"] for k in _valued(table)]
    return "whole" if max(map(abs, worth)) >= 1000 else "fixed"


def sentences(table: Mapping[str, Any]) -> list[str]:
    """Three plain sentences with the keys of their numbers in braces."""
    at, level, basis = _valued(table), table["level"], table["basis"]
    first, last = f"dates.{at[0]}", f"dates.{at[-1]}"
    money = f"{table['currency']}{SPACE}"

    def ninety(of: str) -> str:
        if lookup(table, of)["interval_90"] is None:
            return ""
        return f" (90{SPACE}%: {{{of}.interval_90.0}} to {{{of}.interval_90.1}})"

    ends = [f"{key}.equity.{level}" for key in (first, last)]
    begun, ended = (long_date(table["dates"][k]["date"]) for k in (at[0], at[-1]))
    one = (
        f"Equity of existing customers at level {level} went from {money}{{{ends[0]}.mean}}"
        f"{ninety(ends[0])} on {begun} to {{{ends[1]}.mean}}{ninety(ends[1])} on {ended}, "
        f"a change of {{change.value:{decimals(table)}}}."
    )
    if not table["periods"]:
        return [one]
    part = {group: f"{{totals.{basis}.{group}.value:{decimals(table)}}}" for group in GROUPS}
    came = any(one["acquired"]["value"] for one in table["periods"])
    brought = f"customers acquired on the way brought {part['new']}, " if came else ""
    two = (
        f"Of that change, in {table['currency']}, {brought}experience with existing customers brought "
        f"{part['experience']}, unwinding of the discount less margin paid out {part['carried']}, and "
        f"re-estimated parameters {part['revised']}."
    )
    key = f"periods.{len(table['periods']) - 1}.bases.{basis}.returns"
    latest = table["periods"][-1]
    spell = f"From {long_date(latest['from'])} to {long_date(latest['to'])}"
    if not latest["bases"][basis]["returns"]["published"]["defined"]:
        return [
            one,
            two,
            f"{spell} a return on equity is not defined, because the opening is not above zero.",
        ]
    chance = latest["bases"][basis]["returns"]["achieved"]["chance"]["value"]
    sure = "" if chance is None else (
        f", above the hurdle with probability {{{key}.achieved.chance.value}} (parameters only)"
    )  # fmt: skip
    three = (
        f"{spell} the return on existing customers was {{{key}.published.value.mean}} against a hurdle of "
        f"{{{key}.published.hurdle.value}}; without re-estimation it was {{{key}.achieved.value.mean}}{sure}."
    )
    return [one, two, three]


def rows(table: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Tidy rows of ``history.csv``; ``from`` is there where a number compares two dates."""
    for date in table["dates"]:
        for name in ("customers", "repeat_buyers", *FACTS, "margin"):
            if name in date:
                yield from _stats(date["date"], "", name, "", date[name])
        for block in date.get("equity", {}).values():
            yield from _stats(date["date"], "", "equity", "", block)
    for one in table["periods"]:
        ends = one["to"], one["from"]
        yield from _stats(*ends, "change", "", one["change"])
        yield from _stats(*ends, "acquired", "", one["acquired"])
        for basis, found in one["bases"].items():
            for kind in ("groups", "lines"):
                for name, block in found[kind].items():
                    yield from _stats(*ends, f"{kind[:-1]}.{name}", basis, block)
            for what, result in found["returns"].items():
                for name in ("value", "yearly", "hurdle", "excess", "created", "chance"):
                    yield from _stats(*ends, f"return.{what}.{name}", basis, result[name])


def _stats(date: str, start: str, metric: str, basis: str, block: Mapping[str, Any]) -> Iterator[Any]:
    for name, value in block.items():
        if name in ("unit", "level", "coupling"):
            continue
        names = (f"{name}_low", f"{name}_high") if name.startswith("interval") else (name,)
        values = (value or (None, None)) if len(names) == 2 else (value,)
        for statistic, number in zip(names, values, strict=True):
            yield date, start, metric, basis, block.get("level", ""), statistic, number, block["unit"]


def plain_rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per date with means, for a DataFrame."""
    found = {one["to"]: one for one in table["periods"]}
    out = []
    for date in table["dates"]:
        row: dict[str, Any] = {"date": date["date"], "customers": date["customers"]["value"]}
        if not date["skipped"]:
            block = date["equity"][table["level"]]
            low, high = block["interval_90"] or (np.nan, np.nan)
            row |= {name: date[name]["mean"] for name in FACTS}
            row |= {"equity": block["mean"], "low_90": low, "high_90": high}
        if date["date"] in found:
            one = found[date["date"]]
            returns = one["bases"][table["basis"]]["returns"]
            row |= {
                "change": one["change"]["mean"],
                "return": returns["published"]["value"]["mean"],
                "excess": returns["published"]["excess"]["mean"],
                "excess_achieved": returns["achieved"]["excess"]["mean"],
            }
        out.append(row)
    return out


def printed(table: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The statement as text for the command line: header and rows."""
    header = ("date", "customers", "alive", "equity", "90 % interval", "change", "excess return")
    found = {one["to"]: k for k, one in enumerate(table["periods"])}
    out = []
    for k, date in enumerate(table["dates"]):
        cells = [date["date"], show(table, f"dates.{k}.customers.value")]
        key = f"dates.{k}.equity.{table['level']}"
        if date["skipped"]:
            cells += [NONE] * 5
        else:
            span = NONE
            if lookup(table, key)["interval_90"] is not None:
                span = " to ".join(show(table, f"{key}.interval_90.{end}") for end in (0, 1))
            cells += [show(table, f"dates.{k}.alive.mean"), show(table, f"{key}.mean"), span]
            if (at := found.get(date["date"])) is None:
                cells += [NONE] * 2
            else:
                result = f"periods.{at}.bases.{table['basis']}.returns.published.excess.mean"
                cells += [show(table, f"periods.{at}.change.mean"), show(table, result)]
        out.append(tuple(cells))
    return header, out


def write(folder: Path, table: Mapping[str, Any], config: str, meta: Mapping[str, Any]) -> None:
    """Write every file into an existing folder.

    ``history.html``, ``history.json``, ``history.csv``, ``figures/``, ``config.yaml`` (as used) and
    ``manifest.json``.
    """
    from clvmodels.report import figures

    (folder / "history.json").write_text(tables.dumps(table), encoding="utf-8")
    write_csv(folder / "history.csv", CSV_COLUMNS, rows(table))
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    place = folder / "figures"
    place.mkdir()
    drawn = {}
    pictures = {"equity": fan(table), "statement": drivers(table)}
    if table["periods"]:
        pictures["change"] = changes(table)
    for name, figure in pictures.items():
        drawn[name] = figures.svg(figure)
        (place / f"{name}.svg").write_text(drawn[name], encoding="utf-8")
        (place / f"{name}.png").write_bytes(figures.png(figure))
    (folder / "history.html").write_text(html(table, drawn), encoding="utf-8")
    text = json.dumps(dict(meta), indent=2, ensure_ascii=False, default=str) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def html(table: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """The page: inline style and figures, no script, no network."""
    from markupsafe import Markup

    basis = table["basis"]
    used = [g for g in GROUPS if any(one["bases"][basis]["groups"][g]["mean"] for one in table["periods"])]
    return page.template("series.html.j2", table).render(
        sentences=sentences(table),
        figures={name: Markup(svg) for name, svg in figures.items()},
        groups={name: GROUPS[name][0] for name in used},
        coupling=COUPLING_TEXT[table["coupling"]],
        style=decimals(table),
    )


# --- figures -------------------------------------------------------------------------------------


def fan(table: Mapping[str, Any]) -> Any:
    """Equity over time: mean, 50, 90 and 95 % intervals; a matplotlib figure."""
    from clvmodels.report import figures

    return figures._styled(_fan)(table)


def changes(table: Mapping[str, Any]) -> Any:
    """What moved equity from date to date, stacked; a matplotlib figure."""
    from clvmodels.report import figures

    return figures._styled(_changes)(table)


def drivers(table: Mapping[str, Any]) -> Any:
    """Customers, orders, basket and value per customer over time; a matplotlib figure."""
    from clvmodels.report import figures

    return figures._styled(_drivers)(table)


def _days(table: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], Any]:
    found = [table["dates"][k] for k in _valued(table)]
    return found, np.array([date["date"] for date in found], "datetime64[D]")


def _dated(ax: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=9)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _fan(table: Mapping[str, Any]) -> Any:
    from clvmodels.report import figures as f

    found, days = _days(table)
    figure = f.Picture(figsize=(8.0, 3.2))
    ax = figure.subplots()
    level = table["level"]
    blocks = [date["equity"][level] for date in found]
    top = [block["mean"] for block in blocks]
    if blocks[0]["interval_90"]:
        for probability, shade in (("95", f.FAINT), ("90", "#cddbe9"), ("50", f.PALE)):
            low, high = np.array([block[f"interval_{probability}"] for block in blocks]).T
            ax.fill_between(days, low, high, color=shade, lw=0, label=f"{probability} % interval, {level}")
            top += list(high)
    ax.plot(days, [block["mean"] for block in blocks], "o-", color=f.MODEL, ms=3.5, label=f"mean, {level}")
    if "predictive" in found[0]["equity"]:
        ends = np.array([date["equity"]["predictive"]["interval_90"] for date in found]).T
        for end, label in zip(ends, ("90 % interval, predictive", None), strict=True):
            ax.plot(days, end, color=f.INK, ls=f.LINES["predictive"], lw=1.0, label=label)
            top += list(end)
    ax.set_ylim(min(0, 1.05 * min(top)), 1.06 * max(top))
    ax.set_ylabel(f"Equity of the existing customers ({table['currency']})")
    f._thousands(ax.yaxis)
    ax.grid(axis="y", color="#eceff2", lw=0.6)
    _dated(ax)
    figure.legend(loc="outside upper left", ncols=5, fontsize=7.5, handlelength=1.6, columnspacing=1.2)
    return figure


def _changes(table: Mapping[str, Any]) -> Any:
    from clvmodels.report import figures as f

    basis, periods = table["basis"], table["periods"]
    figure = f.Picture(figsize=(8.0, 3.4))
    ax = figure.subplots()
    faces = {
        "carried": (f.GREY, ""), "experience": (f.MODEL, ""), "new": (f.PALE, ""),
        "revised": ("white", "////"), "other": ("white", "...."),
    }  # fmt: skip
    above, below = np.zeros(len(periods)), np.zeros(len(periods))
    place = np.arange(len(periods))
    for group, (label, _) in GROUPS.items():
        means = np.array([one["bases"][basis]["groups"][group]["mean"] for one in periods])
        if not means.any():
            continue
        base = np.where(means >= 0, above, below)
        colour, hatch = faces[group]
        ax.bar(
            place, means, 0.62, bottom=base, color=colour, hatch=hatch, edgecolor=f.INK, lw=0.5, label=label
        )
        above += np.maximum(means, 0)
        below += np.minimum(means, 0)
    net = [one["change"]["mean"] for one in periods]
    ax.plot(place, net, "D", color="white", mec=f.INK, ms=5, mew=1.2, label="Change of equity")
    ax.axhline(0, color=f.INK, lw=0.8)
    labels = [f"to {one['to']}" for one in periods]
    many = len(periods) > 8
    ax.set_xticks(place, labels, rotation=60 if many else 0, ha="right" if many else "center", fontsize=7)
    ax.tick_params("x", length=0)
    ax.set_xlim(-0.6, len(periods) - 0.4)
    ax.set_ylabel(f"{table['currency']}, mean at level {table['level']}")
    f._thousands(ax.yaxis)
    ax.grid(axis="y", color="#eceff2", lw=0.6)
    figure.legend(loc="outside upper left", ncols=3, fontsize=7.5)
    return figure


def _drivers(table: Mapping[str, Any]) -> Any:
    from clvmodels.report import figures as f

    found, days = _days(table)
    figure = f.Picture(figsize=(8.0, 4.6))
    panels = figure.subplots(2, 2, sharex=True).ravel()
    titles = {
        "alive": "Customers: ever (dashed), expected alive",
        "orders": "Orders in the next year per customer alive",
        "basket": f"Basket in the next year ({table['currency']})",
        "per_customer": f"Equity per customer ever ({table['currency']})",
    }
    for ax, (name, title) in zip(panels, titles.items(), strict=True):
        blocks = [date[name] for date in found]
        means = [block["mean"] for block in blocks]
        top = list(means)
        if blocks[0]["interval_90"]:
            low, high = np.array([block["interval_90"] for block in blocks]).T
            ax.fill_between(days, low, high, color=f.PALE, lw=0, alpha=0.75, label="90 % interval")
            top += list(high)
        ax.plot(days, means, "o-", color=f.MODEL, ms=3, label="mean")
        if name == "alive":
            ever = [date["customers"]["value"] for date in found]
            ax.plot(days, ever, color=f.INK, ls=(0, (5, 2)), label="customers ever")
            top += ever
        ax.set_title(title, fontweight="normal")
        ax.set_ylim(min(0, 1.05 * min(top)), 1.08 * max(top))
        f._thousands(ax.yaxis)
        ax.grid(axis="y", color="#eceff2", lw=0.6)
        _dated(ax)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=3, fontsize=7.5)
    return figure
