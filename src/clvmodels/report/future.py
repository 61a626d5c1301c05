"""Customers still to be won: the block ``future`` of the table, its words, rows and figures."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clvmodels.artifacts import DAYS_PER_UNIT, Assumptions, Equity, Summary
from clvmodels.equity.future import CHART_COHORTS
from clvmodels.equity.segments import cohorts
from clvmodels.report import figures as f
from clvmodels.report.position import variance
from clvmodels.report.text import SPACE, duration, long_date

MORE = 0.10
"""Relative change of the number of customers won, or of their cost."""
COLUMNS = ("metric", "group", "level", "statistic", "value", "unit")
KINDS = {
    "trend": "forecast from the log's own first purchases",
    "plan": "a given plan",
    "none": "nobody new is won",
}


def block(summary: Summary, assumptions: Assumptions, equity: Equity, statistics: Any) -> Any:
    """The block of the table; None where the config does not ask for it.

    Parameters
    ----------
    statistics
        :func:`clvmodels.report.tables.statistics`.
    """
    data = equity.future
    if data is None:
        return None
    money, levels = equity.currency, equity.levels
    base, period = levels[0], float(data.attrs["period"])
    year = assumptions.units_per_year
    periods, known = data.sizes["period"], bool(data.attrs["cost_known"])
    span = max(data.sizes["past"], 1) * period / year
    amounts = summary["first_amount"][np.isfinite(summary["first_amount"])]
    seen = float(amounts.mean()) if len(amounts) else None

    def by_level(name: str) -> dict[str, Any]:
        unit = data[name].attrs["unit"]
        return {lv: statistics(data[name].sel(level=lv).values, unit=unit, level=lv) for lv in levels}

    def one(name: str, **where: Any) -> dict[str, Any]:
        values = data[name].sel(**where) if where else data[name]
        return statistics(values.values, unit=values.attrs["unit"], level=base)

    ends = _ends(summary, period, np.arange(1, periods + 1))
    return {
        "forecast": str(data.attrs["kind"]),
        "period": {"value": period, "unit": summary.time_unit},
        "horizon": {
            "value": periods * period / year,
            "unit": "years",
            "text": duration(periods * period / year, "year"),
        },
        "history": {"value": span, "unit": "years", "text": duration(span, "year")},
        "reach": {"value": periods * period / year / span, "unit": "1"},
        "cost_known": known,
        "customers": by_level("customers"),
        "value": one("value"),
        "first_order": one("first_order"),
        "first_amount_seen": {"value": seen, "unit": money},
        "cac": one("cac") if known else None,
        "gross": by_level("gross"),
        "cost": by_level("cost") if known else None,
        "net": by_level("net"),
        "together": by_level("together"),
        "years": [
            {
                "label": f"Year {y}",
                "customers": one("customers_by_year", year=y),
                "net": one("by_year", year=y),
                "margin": one("margin_by_year", year=y),
            }
            for y in data["year"].values.tolist()
        ],
        "later": one("later"),
        "disagreement": float(data.attrs["disagreement"]),
        "rate": [
            {"end": str(end), "customers": statistics(draws, unit="customers", level=base)}
            for end, draws in zip(ends, data["expected"].transpose("period", "draw").values, strict=True)
        ],
        "cohorts": [str(label) for label in data["acquired"].values],
        "past": _past(summary, data, period, float(np.mean(assumptions.margin)), money),
        "margin": _margin(data, ends, year, period, money, base),
        "sensitivities": _sensitivities(data, equity, statistics),
        "variance": variance(equity, {lv: data["net"].sel(level=lv).values for lv in levels}),
    }


def _sensitivities(data: Any, equity: Equity, statistics: Any) -> list[dict[str, Any]]:
    """Existing and future equity together, were more or fewer customers won, or at another cost."""
    base, more = equity.levels[0], f"{100 * MORE:g} %"
    gross, cost, together = (data[name].sel(level=base).values for name in ("gross", "cost", "together"))
    changes = {
        "acquisition_up": (f"{more} more customers won", MORE * (gross - cost)),
        "acquisition_down": (f"{more} fewer customers won", -MORE * (gross - cost)),
    }
    if data.attrs["cost_known"]:
        changes["cost_up"] = (f"Cost of a customer {more} higher", -MORE * cost)
    with np.errstate(invalid="ignore", divide="ignore"):
        return [
            {
                "name": name,
                "label": label,
                "equity": statistics(together + change, unit=equity.currency, level=base),
                "change": statistics(change, unit=equity.currency, level=base),
                "relative": statistics(change / together, unit="share", level=base),
                "elasticity": statistics(
                    change / together / (-MORE if name.endswith("down") else MORE), unit="1", level=base
                ),
            }
            for name, (label, change) in changes.items()
        ]


def _ends(summary: Summary, period: float, number: np.ndarray) -> np.ndarray:
    """Last days of periods counted from the valuation date, datetime64[D]."""
    days = np.round(number * period * DAYS_PER_UNIT[summary.time_unit]).astype(int)
    return np.datetime64(summary.observation_end) + days.astype("timedelta64[D]")


def _past(summary: Summary, data: Any, period: float, margin: float, money: str) -> list[dict[str, Any]]:
    """Customers won and margin earned in past periods, the oldest first; the forecast ``used`` the last."""
    calendar, used = summary.calendar, data["history"].values
    spare = 0
    if len(calendar.day):
        days = (summary.observation_end - summary.observation_start).days + 1
        whole = int(np.floor(days / (period * DAYS_PER_UNIT[summary.time_unit]) + 1e-9))
        spare = max(whole - len(used), 0)
    number = np.arange(spare + len(used)) - spare - len(used) + 1
    ends = _ends(summary, period, number)
    edges = _ends(summary, period, np.r_[number[0] - 1, number]) if len(number) else ends
    place = np.searchsorted(edges, calendar.day, side="left") - 1
    inside = (place >= 0) & (place < len(number))
    cohorts = _cohort_amounts(summary, data["acquired"].values, place, len(number)) * margin
    before = [float(calendar.first_orders[inside & (place == k)].sum()) for k in range(spare)]
    won = np.r_[before, used]
    out = []
    for k, end in enumerate(ends):
        days = inside & (place == k)
        first, repeat = (
            float(a[days].sum()) * margin for a in (calendar.first_amount, calendar.repeat_amount)
        )
        out.append(
            {
                "end": str(end),
                "used": k >= spare,
                "customers": {"value": won[k], "unit": "customers"},
                "first_orders": {"value": first if len(calendar.day) else None, "unit": money},
                "repeat_orders": {"value": repeat if len(calendar.day) else None, "unit": money},
                "cohorts": cohorts[:, k].tolist(),
            }
        )
    return out


def _cohort_amounts(summary: Summary, labels: np.ndarray, place: np.ndarray, periods: int) -> np.ndarray:
    """Amounts of past periods by cohort of the first purchase, shape (cohort, period); empty if unknown."""
    calendar = summary.calendar
    if not len(calendar.cohort_amount):
        return np.zeros((0, periods))
    months = calendar.cohort_month.astype(int).astype("datetime64[M]")
    found = cohorts(np.r_[summary.first_day, months.astype("datetime64[D]")], CHART_COHORTS)
    code = found.codes[len(summary) :]
    if found.labels != tuple(labels):
        return np.zeros((0, periods))
    at = place[calendar.cohort_day.astype(int)]
    inside = (at >= 0) & (at < periods)
    out = np.zeros((len(labels), periods))
    np.add.at(out, (code[inside], at[inside]), calendar.cohort_amount[inside])
    return out


def _margin(
    data: Any, ends: np.ndarray, year: float, period: float, money: str, base: str
) -> list[dict[str, Any]]:
    """Expected undiscounted margin of each period to come: existing customers, then by year of winning."""
    of_cohort = data["margin_by_cohort"].values
    years = np.ceil(np.arange(1, len(ends) + 1) * period / year - 1e-9).astype(int)
    return [
        {
            "end": str(end),
            "unit": money,
            "level": base,
            "existing": float(data["existing_margin"].values[:, t].sum()),
            "cohorts": data["existing_margin"].values[:, t].tolist(),
            "won": [float(of_cohort[years == y, t].sum()) for y in np.unique(years)],
        }
        for t, end in enumerate(ends)
    ]


def sentences(table: Mapping[str, Any]) -> list[str]:
    """Two plain sentences, with the keys of their numbers in braces."""
    block = table["future"]
    if block is None:
        return []
    last = list(table["levels"])[-1]
    if block["forecast"] == "none":
        return ["No customer still to be won is counted: the future equity is 0 by assumption."]
    costs = "after the cost of winning them" if block["cost_known"] else "before the cost of winning them"
    first = (
        f"Customers still to be won over the next {{future.horizon.text}} add "
        f"{{currency}}{SPACE}{{future.net.{last}.mean}} {costs}"
        + _ninety(block["net"][last], f"future.net.{last}")
        + f", stated apart from the existing ones: {{future.customers.{last}.mean}} are expected, each worth "
        f"{{currency}}{SPACE}{{future.value.mean}} at the first order"
        + (f" and costing {{currency}}{SPACE}{{future.cac.mean}}." if block["cost_known"] else ".")
    )
    how = {
        "trend": "That number is a forecast which reaches {future.reach.value:tenth} times as far ahead "
        "as the {future.history.text} of first purchases it was made from, and no data have tested "
        "it.",
        "plan": "That number is a given plan, not a finding of this analysis.",
    }[block["forecast"]]
    second = f"Both together come to {{currency}}{SPACE}{{future.together.{last}.mean}}"
    second += _ninety(block["together"][last], f"future.together.{last}")
    return [first, f"{how} {second}."]


def _ninety(block: Mapping[str, Any], key: str) -> str:
    if block["interval_90"] is None:
        return ""
    return f" (90{SPACE}% {block['level']}: {{{key}.interval_90.0}} to {{{key}.interval_90.1}})"


def disclosures(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader must be told of the forecast, topic by topic."""
    block = table["future"]
    if block is None:
        return []
    cost = (
        "Each costs {currency} {future.cac.mean} on average, paid at the first order."
        if block["cost_known"]
        else "What it costs to win them is not known here and is not subtracted."
    )
    how = {
        "trend": "The number of customers is forecast from the log's own first purchases by a negative "
        "binomial with a random walk of its monthly rate, a trend that fades, and a season where two years "
        "are seen. In a log that starts in mid-business, first purchases of old customers count as new "
        "ones.",
        "plan": "The number of customers is a given plan.",
        "none": "Nobody new is won.",
    }[block["forecast"]]
    return [
        (
            "Future customers",
            "Won within {future.horizon.text} of the valuation date; later ones count for "
            f"nothing. {how} They are taken to be like the customers in the log. {cost}",
        )
    ]


def scope(table: Mapping[str, Any]) -> str | None:
    """What the scope says of future customers; None where they are in no number."""
    if table["future"] is None:
        return None
    return "Customers still to be won are valued apart, and are in no number but those that say so."


def rows(table: Mapping[str, Any], flat: Any) -> Iterator[tuple[Any, ...]]:
    """Rows of ``future.csv``."""
    block = table["future"]
    for name in ("customers", "gross", "cost", "net", "together"):
        for level, stats in (block[name] or {}).items():
            for statistic, value in flat(stats):
                yield name, "total", level, statistic, value, stats["unit"]
    for name in ("value", "first_order", "cac", "later"):
        if block[name]:
            for statistic, value in flat(block[name]):
                yield name, "total", block[name]["level"], statistic, value, block[name]["unit"]
    for entry in block["years"]:
        for name in ("customers", "net", "margin"):
            for statistic, value in flat(entry[name]):
                yield name, entry["label"], entry[name]["level"], statistic, value, entry[name]["unit"]
    for entry in block["sensitivities"]:
        for name in ("equity", "change", "relative", "elasticity"):
            for statistic, value in flat(entry[name]):
                yield name, entry["name"], entry[name]["level"], statistic, value, entry[name]["unit"]
    for entry in block["variance"]:
        for name in ("share", "mc_error"):
            yield "variance", entry["source"], entry["level"], name, entry[name], entry["unit"]
    for entry in block["past"]:
        for name in ("customers", "first_orders", "repeat_orders"):
            yield f"past_{name}", entry["end"], "", "value", entry[name]["value"], entry[name]["unit"]
        money = entry["first_orders"]["unit"]
        for label, value in zip(block["cohorts"], entry["cohorts"], strict=False):
            yield f"past_margin_won_in_{label}", entry["end"], "", "value", value, money
    for entry in block["rate"]:
        for statistic, value in flat(entry["customers"]):
            yield "customers", entry["end"], entry["customers"]["level"], statistic, value, "customers"
    for entry in block["margin"]:
        yield "margin_existing", entry["end"], entry["level"], "mean", entry["existing"], entry["unit"]
        for label, value in zip(block["cohorts"], entry["cohorts"], strict=True):
            yield f"margin_won_in_{label}", entry["end"], entry["level"], "mean", value, entry["unit"]
        for k, value in enumerate(entry["won"], start=1):
            yield f"margin_won_in_year_{k}", entry["end"], entry["level"], "mean", value, entry["unit"]


# --- figures ---------------------------------------------------------------------------------------


def figures(table: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Customers won, past and forecast; margin by cohort, past and forecast."""
    block = table["future"]
    if block is None:
        return {}
    shaded = " Shaded: 50 and 90 % intervals." if block["rate"][0]["customers"]["interval_90"] else ""
    out = {
        "future_customers": (
            customers_won(block),
            f"First purchases in the log, and the rate ({KINDS[block['forecast']]}).{shaded}"
            + ("" if all(entry["used"] for entry in block["past"]) else " White: left out of the forecast."),
        )
    }
    if block["forecast"] != "none":
        out["future_margin"] = (
            margin_by_cohort(block, table["currency"]),
            "Margin by quarter, stacked by when customers were won: in the past from the log's first and "
            "repeat orders; ahead the expected margin, undiscounted, before acquisition cost. The existing "
            "customers' part is the mean of 200 draws.",
        )
    return out


@f._styled
def customers_won(block: Mapping[str, Any], ax: Any = None) -> Any:
    """Customers won in each period: the log's, and the forecast's rate with its intervals."""
    figure, ax = f._axes(ax, 4.4, 2.8)
    past, rate = block["past"], block["rate"]
    day = [dt.date.fromisoformat(entry["end"]) for entry in past]
    width = 0.8 * max((day[-1] - day[0]).days / max(len(day) - 1, 1), 1) if len(day) > 1 else 24
    for used, colour, name in ((True, f.PALE, "first purchases"), (False, "white", "left out")):
        some = [
            (when, e["customers"]["value"]) for when, e in zip(day, past, strict=True) if e["used"] == used
        ]
        if some:
            ax.bar(*zip(*some, strict=True), width=-width, align="edge", color=colour, edgecolor=f.MODEL,
                   lw=0.6, label=name)  # fmt: skip
    ahead = [dt.date.fromisoformat(entry["end"]) for entry in rate]
    stats = [entry["customers"] for entry in rate]
    if stats[0]["interval_90"]:
        for key, colour in (("interval_90", f.FAINT), ("interval_50", f.PALE)):
            ax.fill_between(ahead, *np.transpose([one[key] for one in stats]), color=colour, lw=0)
    ax.plot(ahead, [one["mean"] for one in stats], color=f.INK, label="rate ahead, mean")
    ax.set_ylim(0)
    ax.set_ylabel("Customers won per period")
    f._dates(ax)
    f._thousands(ax.yaxis)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=3)
    return figure


@f._styled
def margin_by_cohort(block: Mapping[str, Any], currency: str, ax: Any = None) -> Any:
    """Margin by quarter, stacked by cohort: what the log has, then what is expected."""
    figure, ax = f._axes(ax, 8.8, 3.2)
    months = 3 if len(block["margin"]) > 8 else 1
    past, ahead = _quarters(block["past"], months, True), _quarters(block["margin"], months, False)
    if all(e["first_orders"]["value"] is None for group in past for e in group):
        past = []
    names = block["cohorts"]
    known = bool(past) and bool(past[0][0]["cohorts"])
    won = len(ahead[0][0]["won"]) if ahead else 0
    greys = [str(shade) for shade in np.linspace(0.88, 0.42, max(len(names), 2))]
    shades, hatches = [f.MODEL, "#6f97bf", f.PALE, "#cddbe8", f.FAINT], ["", "////", "", "....", ""]
    ticks, labels = [], []
    for x, group in enumerate([*past, *ahead]):
        parts: list[tuple[float, str, str, str]] = []
        if x < len(past) and not known:
            parts = [
                (sum(e["repeat_orders"]["value"] for e in group), "#8d99a6", "", "past: repeat orders"),
                (sum(e["first_orders"]["value"] for e in group), "#c9d0d7", "", "past: first orders"),
            ]
        else:
            parts = [
                (sum(e["cohorts"][k] for e in group), greys[k], "", f"won in {name}")
                for k, name in enumerate(names)
            ]
        if x >= len(past):
            parts += [
                (sum(e["won"][k] for e in group), shades[k % 5], hatches[k % 5], f"to be won in year {k + 1}")
                for k in range(won)
            ]
        low = 0.0
        for height, colour, hatch, name in parts:
            new = name not in ax.get_legend_handles_labels()[1]
            ax.bar(x, height, 0.8, bottom=low, color=colour, hatch=hatch, edgecolor="white", lw=0.4,
                   label=name if new else None)  # fmt: skip
            low += height
        ticks.append(x)
        labels.append(group[-1]["end"][:7])
    ax.axvline(len(past) - 0.5, color=f.INK, lw=0.8, ls=(0, (2, 1.6)))
    every = max(len(ticks) // 9, 1)
    ax.set_xticks(ticks[::every], labels[::every])
    ax.set_xlabel(f"{'Quarter' if months == 3 else 'Period'} that ends in")
    ax.set_ylabel(f"Margin ({currency})")
    f._thousands(ax.yaxis)
    handles, names = ax.get_legend_handles_labels()
    ax.legend(handles, names, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=6)
    return figure


def _quarters(entries: Sequence[Any], months: int, backwards: bool) -> list[list[Any]]:
    """Whole groups of periods next to the valuation date; what is left over is left out."""
    spare = len(entries) % months
    used = entries[spare:] if backwards else entries[: len(entries) - spare]
    return [list(used[k : k + months]) for k in range(0, len(used), months)]


def lede(table: Mapping[str, Any]) -> str:
    """The scope in the heading of the page."""
    when = long_date(table["assumptions"]["valuation_date"])
    apart = "" if table["future"] is None else ", and apart from them those still to be won"
    return f"Existing customers{apart}, valued on {when}, in {table['currency']}"
