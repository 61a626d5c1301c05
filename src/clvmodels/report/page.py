"""The report as one HTML page: inline style and figures, no script, no network.

Every number on the page stands in an element whose ``data-key`` names its place in
``summary.json``. Text that comes from data is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clvmodels.report import future, tables
from clvmodels.report.text import NONE, SPACE, fill, long_date, lookup, show

SEGMENTS_SHOWN = 12
RANKS_SHOWN = 3

_TITLES = {
    "frequency_histogram": "Purchases per customer",
    "zero_class": "Customers without a repeat purchase",
    "recency": "Time since the last purchase",
    "tracking_band": "Tracking inside the band",
    "tracking_error": "Tracking error",
    "window_halves": "Both halves of the window",
    "spend_mean": "Mean spend",
    "spend_median": "Median spend",
    "spend_distribution": "Distribution of spend",
    "spend_frequency_correlation": "Spend and frequency unrelated",
    "holdout_orders": "Holdout: purchases",
    "holdout_spend": "Holdout: spend",
    "stability_purchases": "Backtest: purchase parameters stable",
    "stability_spend": "Backtest: spend parameters stable",
}
_MARKS = {True: ("✓", "passed"), False: ("✕", "failed"), None: (NONE, "no verdict")}
_CONCENTRATION = {
    "gini": ("Gini coefficient", "0: all customers equal; 1: one customer holds everything"),
    "top_decile": ("Share of the top tenth", "the tenth that is most valuable at this level, sorted anew in "
                   "every draw"),
    "fixed_top_decile": ("Share of a fixed top tenth", "the tenth with the highest expected value: the one "
                         "that can be addressed"),
}  # fmt: skip


def html(table: Mapping[str, Any], figures: Mapping[str, tuple[str, str]]) -> str:
    """The page.

    Parameters
    ----------
    table
        As made by :func:`clvmodels.report.tables.build`, or read from ``summary.json``.
    figures
        Name → (SVG element, caption).
    """
    from markupsafe import Markup

    from clvmodels.report import effects

    return template("report.html.j2", table).render(
        data_checks=[check["name"] for check in _data_checks(table)],
        draw_checks=[check["name"] for check in table["checks"] if check not in _data_checks(table)],
        figures={name: (Markup(svg), caption) for name, (svg, caption) in figures.items()},
        levels=list(table["levels"]),
        base=next(iter(table["levels"])),
        rank_level=list(table["levels"])[min(1, len(table["levels"]) - 1)],
        point=table["equity"]["existing"][next(iter(table["levels"]))]["sd"] is None,
        unconverged=table["diagnostics"]["converged"] is False,
        lede=future.lede(table),
        sentences=tables.sentences(table),
        disclosures=tables.disclosures(table),
        confidence=confidence(table),
        concentration=_CONCENTRATION,
        ledger=_ledger(table),
        titles=_TITLES,
        marks=_MARKS,
        effect_columns=effects.by_column(table),
        effect_words=effects.WORDS,
        segments_shown=SEGMENTS_SHOWN,
        ranks_shown=RANKS_SHOWN,
    )


def template(name: str, table: Mapping[str, Any]) -> Any:
    """A Jinja template with what writes numbers of the table.

    ``n(key)`` writes a number in an element that carries its key, ``span(key)`` an interval, and
    ``say(text)`` a sentence whose keys of numbers stand in braces; ``t`` is the table itself.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    def number(key: str, style: str | None = None) -> Markup:
        return Markup('<span data-key="{}">{}</span>').format(key, show(table, key, style))

    def span(key: str, style: str | None = None) -> Markup:
        """An interval as ``low to high``, each with its own key."""
        if lookup(table, key) is None:
            return Markup('<span data-key="{}">{}</span>').format(key, NONE)
        ends = (number(f"{key}.{end}", style) for end in (0, 1))
        return Markup('<span class="span">{} <i>to</i> {}</span>').format(*ends)

    def sentence(text: str) -> Markup:
        return Markup(fill(str(escape(text)), table, number))  # numbers are escaped by number()

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    known = {
        "t": table,
        "n": number,
        "span": span,
        "say": sentence,
        "lookup": lambda key: lookup(table, key),
        "has": lambda key: lookup(table, key) is not None,
        "long_date": long_date,
        "NONE": NONE,
    }
    return environment.get_template(name, globals=known)


def confidence(table: Mapping[str, Any]) -> list[tuple[bool | None, str, str]]:
    """The confidence box: verdict, title, and text with keys of numbers in braces."""
    rows = [_convergence(table)]
    beyond = (
        f"{{beyond_window.mean}} of the value lies further ahead than the {table['beyond_window']['window']} "
        "that the data span; no data have tested that part."
    )
    rows.append((None, "Beyond the data", beyond))
    rows.append(_holdout(table))
    rows.append(_backtest(table))
    if table.get("backtest"):
        rows.append((None, "Calibrated intervals", _calibrated(table["backtest"]["calibrated"])))
    checks = [
        c for c in _data_checks(table) if c["passed"] is not None and not c["name"].startswith("holdout")
    ]
    if checks:
        failed = [_TITLES.get(c["name"], c["name"]).lower() for c in checks if not c["passed"]]
        text = f"{len(checks) - len(failed)} of {len(checks)} passed" + (
            f"; not passed: {', '.join(failed)}." if failed else "."
        )
        rows.append((not failed, "Model against data", text))
    rows.append(
        (
            None,
            "In no interval",
            ", ".join(table["assumptions"]["excluded_from_intervals"]).capitalize() + ".",
        )
    )
    return rows


def _data_checks(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Checks of the model against data; the others are about the draws."""
    return [check for check in table["checks"] if check["figure"] or check["name"] in _TITLES]


def _convergence(table: Mapping[str, Any]) -> tuple[bool | None, str, str]:
    found = table["diagnostics"]
    samplers = sorted(set(found["sampler"].values()))
    if found["converged"] is None or all(name in ("map", "fixed") for name in samplers):
        return None, "Uncertainty", (
            "One parameter vector (level point): quick, but without any statement of how sure it is."
        )  # fmt: skip
    parts = [f"sampler {' and '.join(samplers)}, {{diagnostics.draws.value}} draws"]
    if found["k_hat"] is not None:
        parts.append("k-hat {diagnostics.k_hat:fixed} (at most 0.7)")
    if found["r_hat"] is not None:
        parts.append("largest R-hat {diagnostics.r_hat} (at most 1.01)")
    smallest = next((key for key in ("ess", "ess_bulk") if found[key] is not None), None)
    if smallest:
        parts.append(f"at least {{diagnostics.{smallest}:count}} effective draws (400 needed)")
    if found["divergences"]:
        parts.append("{diagnostics.divergences} divergences (none allowed)")
    word = "The draws have converged" if found["converged"] else "The draws have NOT converged"
    return bool(found["converged"]), "Convergence", f"{word}: {'; '.join(parts)}."


def _holdout(table: Mapping[str, Any]) -> tuple[bool | None, str, str]:
    """What happened after the end of observation, in plain words."""
    if not table["validation"]:
        return (
            None,
            "Holdout",
            "No later purchases were held back, so no forecast of this model has been tested.",
        )
    orders, spend = table["validation"]["holdout_orders"], table["validation"]["holdout_spend"]
    text = (
        f"Over the {orders['window']} that followed, customers made {{validation.holdout_orders.actual}} "
        "repeat purchases ("
        + _forecast(orders, "holdout_orders")
        + f") and spent {{currency}}{SPACE}{{validation.holdout_spend.actual}} ("
        + _forecast(spend, "holdout_spend")
        + ")."
    )
    if orders["inside_90"] is None:
        return None, "Holdout", text
    shocked = orders["systematic"] is not None
    inside = [(block["systematic"] or block)["inside_90"] for block in (orders, spend)]
    if all(inside):
        narrow = [
            name
            for name, block in (("purchases", orders), ("spend", spend))
            if shocked and not block["inside_90"]
        ]
        missed = f" Without shared shocks the forecast of {' and of '.join(narrow)} missed." if narrow else ""
        return True, "Holdout", f"Both inside. {text}{missed}"
    which = "Both forecasts missed" if not any(inside) else (
        "The forecast of spend missed" if inside[0] else "The forecast of purchases missed"
    )  # fmt: skip
    level = " systematic" if shocked else ""
    return False, "Holdout", (
        f"{which}: the truth lies outside the 90{SPACE}%{level} interval. {text} Read every interval here as "
        "too narrow."
    )  # fmt: skip


def _forecast(block: Mapping[str, Any], name: str) -> str:
    """Mean and interval of the headline level; without shared shocks beside it."""
    textbook = f"{{validation.{name}.mean}} expected{_ninety(block, name)}"
    if block["systematic"] is None:
        return textbook
    wide = _ninety(block["systematic"], f"{name}.systematic")
    return f"{{validation.{name}.systematic.mean}} expected{wide}; without shared shocks {textbook}"


def _backtest(table: Mapping[str, Any]) -> tuple[bool | None, str, str]:
    """How far ahead forecasts were tested on the past, and what came of it."""
    found, title = table.get("backtest"), "Tested on the past"
    if not found:
        return None, title, (
            "Not yet measured: run python -m clvmodels backtest with this config, then fit again. Until then "
            "no horizon is validated, no coverage is known and no interval is calibrated."
        )  # fmt: skip
    parts = [
        f"{b['label']}: purchases {{backtest.horizons.{k}.orders.coverage:percent}}, revenue "
        f"{{backtest.horizons.{k}.revenue.coverage:percent}} of "
        f"{{backtest.horizons.{k}.origins.value:count}} origins "
        f"({{backtest.horizons.{k}.separate.value:count}} without overlap)"
        for k, b in enumerate(found["horizons"])
    ]
    held = found["held"]
    text = (
        f"Forecasts of the past were tested up to {found['horizon']} ahead, within which "
        f"{{backtest.share.mean}} of this equity lies. 90{SPACE}% {_level(found)} intervals held: "
        f"{'; '.join(parts)}. Validated horizon: {held or 'none'}."
    )
    verdicts = [block["holds"] for block in found["horizons"]]
    return False if False in verdicts else True if all(verdicts) else None, title, text


def _level(found: Mapping[str, Any]) -> str:
    """The level whose intervals were tested; both, where not every horizon has the same."""
    return " and ".join(dict.fromkeys(block["orders"]["level"] for block in found["horizons"]))


def _calibrated(found: Mapping[str, Any]) -> str:
    """The calibrated intervals, or why there are none and a stress in their place."""
    at = "backtest.calibrated"
    if not found["horizons"]:
        changed = " and ".join(
            f"by {{{at}.stress.{k}.share:percent}} {{currency}}{SPACE}{{{at}.stress.{k}.low}} to "
            f"{{{at}.stress.{k}.high}}"
            for k in range(len(found["stress"]))
        )
        return (
            f"None, because {found['reason']}. Were everything to come out lower or "
            f"higher, equity would be: {changed}."
        )
    parts = []
    for k, block in enumerate(found["horizons"]):
        key = f"{at}.horizons.{k}"
        bias = [
            f"{name} {{{at}.estimates.{j}.bias.mean:percent}}"
            for j, row in enumerate(found["estimates"])
            for name in [{"orders": "purchases", "revenue": "revenue"}.get(row["measure"])]
            if name and row["horizon"] == block["label"]
        ]
        parts.append(
            f"over {block['label']} purchases {{{key}.orders.interval_90.0}} to "
            f"{{{key}.orders.interval_90.1}} and revenue {{currency}}{SPACE}"
            f"{{{key}.revenue.interval_90.0}} to {{{key}.revenue.interval_90.1}} "
            f"(bias of the past, not applied: {', '.join(bias)})"
        )
    rest = f" Not calibrated: {found['reason']}." if found["reason"] else ""
    return (
        f"90{SPACE}%, level {found['base']} widened by the errors that its past forecasts left: "
        f"{'; '.join(parts)}; if the error of {found['equity']['horizon']} held for all of equity, "
        f"{{currency}}{SPACE}{{{at}.equity.interval_90.0}} to {{{at}.equity.interval_90.1}}.{rest}"
    )


def _ninety(block: Mapping[str, Any], name: str) -> str:
    if block["interval_90"] is None:
        return ""
    key = f"validation.{name}.interval_90"
    return f", 90{SPACE}% {block['level']} {{{key}.0}} to {{{key}.1}}"


def _ledger(table: Mapping[str, Any]) -> dict[str, Any]:
    """Lines of the data ledger in three groups: (key, label, style), and its notes."""
    from clvmodels.data.ledger import KEYS

    style = {"text": "text", "date": "text", "count": "count", "money": "fixed"}
    scalars = [key for key, value in table["data"].items() if not isinstance(value, Mapping | list)]
    lines = [(key, *KEYS.get(key, (key.replace("_", " ").capitalize(), ""))) for key in scalars]
    groups: dict[str, list[tuple[str, str, str | None]]] = {"Log": [], "Spend": [], "Rows and customers": []}
    for key, label, kind in lines:
        group = {"count": "Rows and customers", "money": "Spend"}.get(kind, "Log")
        groups[group].append((f"data.{key}", label, style.get(kind)))
    return {
        "groups": {name: group for name, group in groups.items() if group},
        "notes": table["data"].get("notes", []),
    }
