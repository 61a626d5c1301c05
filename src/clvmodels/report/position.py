"""Where value sits, what is at risk and what it depends on: blocks of the table, figures, CSV rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from clvmodels.artifacts import Assumptions, Equity
from clvmodels.equity.risk import TAIL, TAILS, tail, variance_budget
from clvmodels.equity.segments import CHANCES
from clvmodels.equity.sensitivity import BETTER, MARGIN, POINTS, YEARS

WAKE_UP = 200
"""Customers in ``wake_up.csv``."""
SHOWN = 10
"""Of these, how many stand on the page."""
SOURCES = {
    "purchases": "Purchase model's parameters",
    "spend": "Spend model's parameters",
    "interplay": "Both together",
    "latents": "Who each customer really is",
    "noise": "Purchases and baskets as they fall",
    "shared": "Shocks that all customers share",
    "acquisition": "Customers still to come",
}
_NAMES = {"cohort": "first purchase", "decile": "decile", "p_alive": "P(alive)"}


def blocks(equity: Equity, assumptions: Assumptions) -> dict[str, Any]:
    """The keys ``partitions``, ``negative``, ``risk``, ``sensitivities``, ``variance`` and ``wake_up``.

    All but ``negative`` are empty where equity was built without a survey; ``negative`` is None where
    no customer can be worth less than nothing.
    """
    surveyed = "changed" in equity.data
    return {
        "partitions": {
            name: [_part(equity, name, j) for j in range(equity.data.sizes[f"in:{name}"])]
            for name in _NAMES
            if f"partition:{name}" in equity.data
        },
        "negative": _negative(equity),
        "risk": _risk(equity) if surveyed else {},
        "sensitivities": _sensitivities(equity, assumptions) if surveyed else [],
        "variance": variance(equity) if surveyed else [],
        "wake_up": wake_up(equity)[:SHOWN] if surveyed else [],
    }


def _statistics(draws: np.ndarray, unit: str, level: str) -> dict[str, Any]:
    from clvmodels.report.tables import statistics

    return statistics(draws, unit=unit, level=level)


def _part(equity: Equity, name: str, j: int) -> dict[str, Any]:
    """One set of a partition, like a segment."""
    from clvmodels.report.tables import rank_probabilities

    data, money = equity.data, equity.currency
    size = data[f"members:{name}"].values.astype(float)
    out: dict[str, Any] = {
        "label": str(data[f"in:{name}"].values[j]),
        "customers": {"value": int(size[j]), "unit": "customers"},
    }
    kinds: dict[str, dict[str, Any]] = {"equity": {}, "share": {}, "per_customer": {}, "rank": {}}
    for level in equity.levels:
        draws = data[f"partition:{name}"].sel(level=level).transpose("draw", ...).values
        own, total = draws[:, j], equity.total(level)
        kinds["equity"][level] = _statistics(own, money, level)
        kinds["share"][level] = _statistics(_ratio(own, total), "share", level)
        kinds["per_customer"][level] = _statistics(own / max(size[j], 1), money, level)
        ranks = rank_probabilities(draws, size)
        kinds["rank"][level] = {"unit": "probability", "level": level} | {
            what: None if p is None else p[j] for what, p in ranks.items()
        }
    return out | kinds


def _ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Part over total; NaN, and so no number, where a total is not above zero in every draw."""
    return part / total if (total > 0).all() else np.full(len(total), np.nan)


def _negative(equity: Equity) -> dict[str, Any] | None:
    """Customers who are worth less than nothing, and their value, by level."""
    if "losing_value" not in equity.data:
        return None
    units = {"customers": "customers", "value": equity.currency}
    return {
        what: {
            level: _statistics(equity.data[f"losing_{what}"].sel(level=level).values, unit, level)
            for level in equity.levels
        }
        for what, unit in units.items()
    }


def _risk(equity: Equity) -> dict[str, Any]:
    data, money, base = equity.data, equity.currency, equity.levels[0]
    unchanged, potential = data["unchanged"].values, data["potential"].values
    below = []
    if "partition:p_alive" in data:
        for k, chance in enumerate(CHANCES, start=1):
            sums = {
                level: data["partition:p_alive"]
                .sel(level=level)
                .transpose("draw", ...)
                .values[:, :k]
                .sum(axis=1)
                for level in equity.levels
            }
            below.append({
                "below": chance,
                "customers": {"value": int(data["members:p_alive"].values[:k].sum()), "unit": "customers"},
                "equity": {lv: _statistics(d, money, lv) for lv, d in sums.items()},
                "share": {
                    lv: _statistics(_ratio(d, equity.total(lv)), "share", lv) for lv, d in sums.items()
                },
            })  # fmt: skip
    last = equity.levels[-1]
    lost = {str(label): data["lost"].sel(until=label).values for label in data["until"].values}
    return {
        "draws": {"value": len(unchanged), "unit": "draws"},
        "potential": _statistics(potential, money, base),
        "lapse": _statistics(potential - unchanged, money, base),
        "equity": _statistics(unchanged, money, base),
        "by_p_alive": below,
        "attrition": {
            label: {
                "value": _statistics(d, money, base),
                "share": _statistics(_ratio(d, unchanged), "share", base),
            }
            for label, d in lost.items()
        },
        "tail": None if len(equity.total(last)) < 2 else dict(
            zip(("quantile", "mean_beyond"), tail(equity.total(last)), strict=True),
            unit=money, level=last, probability=TAIL,
        ),
        "tails": [
            dict(zip(("quantile", "mean_beyond"), tail(equity.total(level), p), strict=True), unit=money,
                 level=level, probability=p)
            for level in equity.levels[2:] for p in TAILS
        ],
    }  # fmt: skip


def _sensitivities(equity: Equity, assumptions: Assumptions) -> list[dict[str, Any]]:
    """One block per change, in the order of ``labels``; ``change`` and ``relative`` are draw by draw."""
    data, money, base = equity.data, equity.currency, equity.levels[0]
    unchanged = data["unchanged"].values
    found = []
    for name, label in labels(assumptions).items():
        if name not in data["change"].values:
            continue
        draws = data["changed"].sel(change=name).values
        relative = _ratio(draws - unchanged, unchanged)
        better = name in ("retention", "rate", "spend")
        found.append({
            "name": name,
            "label": label,
            "equity": _statistics(draws, money, base),
            "change": _statistics(draws - unchanged, money, base),
            "relative": _statistics(relative, "share", base),
            "elasticity": _statistics(relative / BETTER, "1", base) if better else None,
        })  # fmt: skip
    return found


def labels(assumptions: Assumptions) -> dict[str, str]:
    """Every change in words."""
    rate, points = 100 * assumptions.annual_discount_rate, 100 * POINTS
    years = assumptions.horizon / assumptions.units_per_year
    found = {
        "discount_up": f"Discount rate {rate + points:.4g} % instead of {rate:.4g} %",
        "discount_down": f"Discount rate {max(rate - points, 0):.4g} % instead of {rate:.4g} %",
        "margin_up": f"Margin {100 * MARGIN:g} point higher",
        "margin_down": f"Margin {100 * MARGIN:g} point lower",
        "retention": f"Retention: dropout {100 * BETTER:g} % lower",
        "rate": f"Purchase rate {100 * BETTER:g} % higher",
        "spend": f"Spend per purchase {100 * BETTER:g} % higher",
    }
    for span in YEARS:
        if span != years:
            found[f"horizon_{span:g}"] = f"Horizon {span:g} years" if span < math.inf else "Horizon infinite"
    return found


def variance(equity: Equity, acquisition: Mapping[str, np.ndarray] | None = None) -> list[dict[str, Any]]:
    """Sources of the variance of equity; with ``acquisition`` of that of future customers too."""
    budget = variance_budget(equity, acquisition)
    if budget is None:
        return []
    return [
        {
            "source": name,
            "label": SOURCES[name],
            "unit": "share",
            "level": equity.levels[-1],
            "share": part.share,
            "mc_error": part.error,
            "sd": {"value": math.sqrt(max(part.variance, 0.0)), "unit": equity.currency},
        }
        for name, part in budget.items()
    ]


def wake_up(equity: Equity) -> list[dict[str, Any]]:
    """Customers whose value is most in doubt: (1 - P(alive)) V, the largest first."""
    table, base, money = equity.customers, equity.levels[0], equity.currency
    doubt = np.asarray(table["value_in_doubt"])
    order = np.argsort(-doubt, kind="stable")[:WAKE_UP]
    columns = {name: np.asarray(table[name])[order] for name in ("p_alive", "value_mean", "value_lapsed")}
    return [
        {
            "customer": str(table["customer"][int(i)].as_py()),
            "p_alive": {"value": columns["p_alive"][k], "unit": "probability", "level": base},
            "value": {"value": columns["value_mean"][k], "unit": money, "level": base},
            "in_doubt": {"value": doubt[i], "unit": money, "level": base},
            "lapsed": {"value": columns["value_lapsed"][k], "unit": money, "level": base},
        }
        for k, i in enumerate(order)
        if doubt[i] > 0
    ]


# --- tidy rows of the CSV files ------------------------------------------------------------------

RISK_COLUMNS = ("metric", "group", "level", "statistic", "value", "unit")


def partition_rows(table: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``partitions.csv``, with the columns of ``segments.csv``."""
    from clvmodels.report.tables import segment_rows

    yield from segment_rows({"segments": table["partitions"]})


def risk_rows(table: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``risk.csv``: at risk, sensitivities and the variance budget."""
    risk = table["risk"]
    parts: list[tuple[str, str, Mapping[str, Any] | None]] = []
    if risk:
        parts += [(name, "", risk[name]) for name in ("potential", "lapse", "equity")]
        for entry in risk["by_p_alive"]:
            group = f"P(alive) below {entry['below']:g}"
            parts.append(("customers", group, entry["customers"]))
            parts += [(f"{m} below", group, b) for m in ("equity", "share") for b in entry[m].values()]
        for label, entry in risk["attrition"].items():
            parts += [("attrition", label, entry["value"]), ("attrition share", label, entry["share"])]
        parts.append(("tail", "", risk["tail"]))
        parts += [("tail", f"{entry['probability']:.0%}", entry) for entry in risk["tails"]]
    for what, by_level in (table["negative"] or {}).items():
        parts += [(f"negative {what}", "", block) for block in by_level.values()]
    for entry in table["sensitivities"]:
        parts += [(m, entry["name"], entry[m]) for m in ("equity", "change", "relative", "elasticity")]
    for entry in table["variance"]:
        shares = {key: entry[key] for key in ("unit", "level", "share", "mc_error")}
        parts += [("variance", entry["source"], shares), ("variance sd", entry["source"], entry["sd"])]
    from clvmodels.report.tables import flat

    for metric, group, block in parts:
        if block:
            for name, value in flat(block):
                yield metric, group, block.get("level", ""), name, value, block["unit"]


WAKE_UP_COLUMNS = ("rank", "customer", "p_alive", "value", "in_doubt", "lapsed", "unit", "level")


def wake_up_rows(equity: Equity) -> Iterator[tuple[Any, ...]]:
    """Rows of ``wake_up.csv``: one customer each."""
    from clvmodels.report.tables import clean

    if "value_in_doubt" not in equity.customers.column_names:
        return
    for rank, entry in enumerate(clean(wake_up(equity)), start=1):
        values = (entry[name]["value"] for name in ("p_alive", "value", "in_doubt", "lapsed"))
        yield rank, entry["customer"], *values, equity.currency, equity.levels[0]


# --- figures -------------------------------------------------------------------------------------


def figures(table: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """``position`` (deciles, P(alive)) and ``sensitivity`` (tornado, variance), with captions."""
    from clvmodels.report import figures as style

    base = next(iter(table["levels"]))
    many = table["equity"]["existing"][base]["sd"] is not None
    lines = "; lines: 90 % intervals" if many else ""
    out: dict[str, tuple[Any, str]] = {}
    if table.get("partitions", {}).get("decile"):
        out["position"] = (
            style._styled(_draw_position)(table, style),
            f"Level {base}{lines}. Tenths by expected value, and customers by the probability that they are "
            "still active.",
        )
    if table.get("sensitivities"):
        out["sensitivity"] = (
            style._styled(_draw_sensitivity)(table, style),
            f"Change of equity (level {base}), all else as it is{lines}."
            + (
                f" Right: where the variance of equity at level {list(table['levels'])[-1]} comes from; "
                "lines: two Monte Carlo errors."
                if table["variance"]
                else ""
            ),
        )
    return out


def _bars(ax: Any, style: Any, blocks: list[Mapping[str, Any]]) -> None:
    for j, block in enumerate(blocks):
        ax.bar(j, block["mean"], width=0.66, color=style.PALE, edgecolor=style.MODEL, lw=0.7)
        if block["interval_90"]:
            ax.plot([j, j], block["interval_90"], color=style.INK, lw=1.1)
    ax.axhline(0, color=style.GREY, lw=0.6)
    style._thousands(ax.yaxis)


def _draw_position(table: Mapping[str, Any], style: Any) -> Any:
    names = [name for name in ("decile", "p_alive") if table["partitions"].get(name)]
    figure, panels = style._panels(len(names), height=2.6, squeeze=False)
    base = next(iter(table["levels"]))
    for ax, name in zip(panels[0], names, strict=True):
        parts = table["partitions"][name]
        _bars(ax, style, [part["equity"][base] for part in parts])
        short = [part["label"].replace(" to ", "\n– ").replace(" and more", "\nand more") for part in parts]
        ax.set_xticks(range(len(parts)), [label.replace("below ", "below\n") for label in short])
        ax.tick_params("x", length=0, labelsize=7)
        ax.set_xlabel("Tenth of the customers, most valuable first" if name == "decile" else "P(alive)")
        ax.set_ylabel(f"Equity ({table['currency']})")
    return figure


def _draw_sensitivity(table: Mapping[str, Any], style: Any) -> Any:
    rows = table["sensitivities"]
    size = 0.9 + 0.24 * max(len(rows), 2 + len(table["variance"]))
    figure, panels = style._panels(2, height=size, squeeze=False, gridspec_kw={"width_ratios": [1.35, 1]})
    left, right = panels[0]
    ordered = sorted(rows, key=lambda row: -abs(row["change"]["mean"]))
    for j, row in enumerate(ordered):
        block = row["change"]
        up = block["mean"] >= 0
        shade, hatch = (style.PALE, None) if up else (style.FAINT, "////")
        left.barh(j, block["mean"], height=0.62, color=shade, edgecolor=style.MODEL, lw=0.7, hatch=hatch)
        if block["interval_90"]:
            left.plot(block["interval_90"], [j, j], color=style.INK, lw=1.1)
    left.axvline(0, color=style.GREY, lw=0.8)
    left.set_yticks(range(len(ordered)), [row["label"].partition(" instead")[0] for row in ordered])
    left.set_ylim(len(ordered) - 0.4, -0.6)
    left.set_ylabel("What changes")
    left.tick_params("y", length=0)
    left.set_xlabel(f"Change of equity ({table['currency']})")
    style._thousands(left.xaxis)
    left.xaxis.get_major_locator().set_params(nbins=4)
    for j, part in enumerate(table["variance"]):
        error = 2 * part["mc_error"]
        right.barh(j, part["share"], height=0.62, color=style.PALE, edgecolor=style.MODEL, lw=0.7)
        right.plot([part["share"] - error, part["share"] + error], [j, j], color=style.INK, lw=1.1)
    if not table["variance"]:
        right.set_axis_off()
        return figure
    right.axvline(0, color=style.GREY, lw=0.8)
    right.set_yticks(range(len(table["variance"])), [part["label"] for part in table["variance"]])
    right.set_ylim(len(table["variance"]) - 0.4, -0.6)
    right.tick_params("y", length=0)
    right.set_xlabel("Share of the variance of equity")
    style._shares(right.xaxis)
    return figure
