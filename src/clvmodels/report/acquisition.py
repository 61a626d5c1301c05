"""What customers cost and may cost: the block ``acquisition`` of the table, its words, rows and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clvmodels.artifacts import INTERVALS, Assumptions, Equity, Summary
from clvmodels.config import Config
from clvmodels.equity.acquisition import BASES
from clvmodels.report import figures as f
from clvmodels.report.text import SPACE

COLUMNS = ("channel", "metric", "level", "statistic", "value", "unit")
WITHIN = (3, 6, 12, 24)
"""Months within which a cost may be paid back."""
SHOWN = 12
PAYBACKS = {"payback": "undiscounted", "payback_discounted": "discounted"}


def block(
    summary: Summary, assumptions: Assumptions, equity: Equity, config: Config, statistics: Any
) -> dict[str, Any] | None:
    """The block of the table; None where the config does not ask for it."""
    data, asked = equity.acquisition, config.acquisition
    if data is None or asked is None:
        return None
    money, base, year = equity.currency, equity.levels[0], assumptions.units_per_year
    labels = [str(label) for label in data["channel"].values]
    out: dict[str, Any] = {
        "by": asked.by,
        "assurance": {"value": asked.assurance, "unit": "probability"},
        "target_ratio": {"value": asked.target_ratio, "unit": "1"},
        "payback": asked.payback,
        "first_order": config.value.first_order,
        "channels": [],
    }
    for k, label in enumerate(labels):
        draws = {n: v.values[k] for n, v in data.data_vars.items() if v.dims == ("channel", "draw")}
        ltv = statistics(draws["ltv"], unit=money, level=base)
        costs = bool(np.isfinite(draws["cac"]).all())
        entry: dict[str, Any] = {
            "label": label,
            "customers": {"value": int(data["customers"].values[k]), "unit": "customers"},
            "repeat_buyers": {"value": int(data["repeat_buyers"].values[k]), "unit": "customers"},
            "age": {"value": float(data["age"].values[k]), "unit": summary.time_unit},
            "basis": BASES[int(data["basis"].values[k])],
            "ltv": ltv,
            "first_order": statistics(draws["first_order"], unit=money, level=base),
            "maximum": {
                "break_even": {"value": ltv["mean"], "unit": money, "level": base},
                "assured": {"value": _low(draws["ltv"], 1 - asked.assurance), "unit": money, "level": base},
                "target": {"value": ltv["mean"] / asked.target_ratio, "unit": money, "level": base},
                "payback": statistics(draws["within"], unit=money, level=base),
            },
            "won": None,
            "spend": None,
            "cac": None,
            "surplus": None,
            "ratio": None,
            "pays": None,
            "payback": None,
            "payback_discounted": None,
            "budget": None,
        }
        if costs:
            entry |= {
                "won": {"value": int(data["won"].values[k]), "unit": "customers"},
                "spend": statistics(draws["spend"], unit=money, level=base),
                "cac": statistics(draws["cac"], unit=money, level=base),
                "surplus": statistics(draws["ltv"] - draws["cac"], unit=money, level=base),
                "ratio": _ratio(draws["ltv"], draws["cac"], base),
                "pays": {
                    "unit": "probability",
                    "level": base,
                    "on_average": (draws["ltv"] > draws["cac"]).mean(),
                    "one_customer": float(data["one"].values[k]),
                },
                "payback": _payback(12 / year * draws["payback"], base),
                "payback_discounted": _payback(12 / year * draws["payback_discounted"], base),
                "budget": _budget(data, k, draws, statistics, money, base),
            }
        out["channels"].append(entry)
    out["curve"] = {
        "months": (12 / year * data["time"].values).tolist(),
        "unit": money,
        "level": base,
        **{str(b): data["curve"].values[0, j] for j, b in enumerate(data["bound"].values)},
    }
    return out


def _low(draws: np.ndarray, probability: float) -> float | None:
    return float(np.quantile(draws, probability)) if len(draws) > 1 else None


def _ratio(ltv: np.ndarray, cac: np.ndarray, level: str) -> dict[str, Any] | None:
    """Quantiles and probabilities; the mean of a ratio need not exist."""
    if not (cac > 0).all():
        return None
    ratio = ltv / cac
    return {"unit": "1", "level": level, "median": np.median(ratio), **_intervals(ratio)} | {
        f"above_{k}": float((ratio > k).mean()) for k in (1, 3)
    }


def _payback(months: np.ndarray, level: str) -> dict[str, Any]:
    """Quantiles, None where they are not reached, and probabilities; never a mean."""
    return {
        "unit": "months",
        "level": level,
        "median": _reached(months, 0.5),
        **_intervals(months),
        **{f"within_{m}": float((months <= m).mean()) for m in WITHIN},
        "never": float(np.isinf(months).mean()),
    }


def _intervals(draws: np.ndarray) -> dict[str, Any]:
    ends = {f"interval_{100 * p:.0f}": ((1 - p) / 2, (1 + p) / 2) for p in INTERVALS}
    return {n: [_reached(draws, e) for e in pair] if len(draws) > 1 else None for n, pair in ends.items()}


def _reached(draws: np.ndarray, probability: float) -> float | None:
    """A quantile that is one of the draws where any is infinite; None where it is infinite."""
    method = "inverted_cdf" if np.isinf(draws).any() else "linear"
    value = float(np.quantile(draws, probability, method=method))  # type: ignore[call-overload]
    return value if np.isfinite(value) else None


def _budget(
    data: Any, k: int, draws: Mapping[str, np.ndarray], statistics: Any, money: str, level: str
) -> dict[str, Any] | None:
    best = float(data["best"].values[k])
    if not np.isfinite(best):
        return None
    return {
        "now": {"value": float(data["monthly"].values[k]), "unit": money},
        "best": {"value": best, "unit": money},
        "optimum": statistics(draws["optimum"], unit=money, level=level),
        "regret_now": statistics(draws["regret_now"], unit=money, level=level),
        "regret_best": statistics(draws["regret_best"], unit=money, level=level),
        "curve": {"unit": money, "level": level}
        | {str(b): data["budget"].values[k, j].tolist() for j, b in enumerate(data["of_budget"].values)},
    }


def sentences(table: Mapping[str, Any]) -> list[str]:
    """One plain sentence, with the keys of its numbers in braces."""
    found = table["acquisition"]
    if found is None:
        return []
    first = found["channels"][0]
    key, money = "acquisition.channels.0", f"{{currency}}{SPACE}"
    text = f"A new customer is worth {money}{{{key}.ltv.mean}}, first order included"
    if first["cac"]:
        text += f", and costs {money}{{{key}.cac.mean}}"
        median = first["payback"]["median"]
        if median == 0:
            text += ", which the first order pays back"
        elif median is None:
            text += ", which is not paid back"
        else:
            text += f", paid back after {{{key}.payback.median:tenth}} months (median)"
        text += f"; with {{{key}.pays.on_average}} probability the value exceeds the cost."
    else:
        text += "."
    losing = [c["label"] for c in found["channels"][1:] if c["pays"] and c["pays"]["on_average"] < 0.5]
    if losing:
        names = ", ".join(label.replace("{", "(").replace("}", ")") for label in losing[:3])
        text += f" Not worth their cost, more likely than not: {names}."
    assured = "{acquisition.channels.0.maximum.assured.value}"
    if first["maximum"]["assured"]["value"] is not None:
        text += f" With {{acquisition.assurance.value}} assurance it may cost up to {money}{assured}."
    return [text]


def disclosures(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader must be told of these costs."""
    found = table["acquisition"]
    if found is None:
        return []
    shared = sum(channel["basis"] == "all" for channel in found["channels"])
    how = ""
    if any(channel["basis"] == "pooled" for channel in found["channels"]):
        how = (
            f" The model pools {found['by']} partially: a new customer is worth what its own customers say, "
            "drawn towards all the others the more the fewer they are."
        )
    elif shared:
        how = (
            f" {shared} of {len(found['channels']) - 1} have too few customers to be judged on their own, or "
            "draws that did not converge: what a new customer of theirs is worth is taken from all "
            "customers, with their own margin."
        )
    first = {
        "model": "The first order is taken to be of the mean size of the spend model.",
        "observed": "The first order is taken to be of the mean size of the first orders in the log.",
    }[found["first_order"]]
    return [
        (
            "Cost of customers",
            "Value, cost and payback are for the average new customer at the moment of the first order. "
            f"{first} The spend is as stated in the config, not found in the log.{how} A channel's customers "
            "may differ for reasons other than the channel.",
        )
    ]


def rows(table: Mapping[str, Any], flat: Any) -> Iterator[tuple[Any, ...]]:
    """Rows of ``acquisition.csv``."""
    for channel in table["acquisition"]["channels"]:
        for name, stats in channel.items():
            if name in ("maximum", "budget") and stats:
                for part, inner in stats.items():
                    metric, level = f"{name}_{part}", inner.get("level", "")
                    if part == "curve":
                        yield from _curve_rows(channel["label"], inner)
                        continue
                    for statistic, value in flat(inner):
                        yield channel["label"], metric, level, statistic, value, inner["unit"]
            elif isinstance(stats, Mapping):
                for statistic, value in flat(stats):
                    yield channel["label"], name, stats.get("level", ""), statistic, value, stats["unit"]
            elif name == "basis":
                yield channel["label"], name, "", "value", stats, ""


def _curve_rows(label: str, curve: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for k, spend in enumerate(curve["spend"]):
        for bound in ("mean", "low", "high"):
            yield label, f"budget_curve_at_{spend:.6g}", curve["level"], bound, curve[bound][k], curve["unit"]


# --- figures ---------------------------------------------------------------------------------------


def figures(table: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """LTV against CAC by channel; the curve on which a customer pays back."""
    found = table["acquisition"]
    if found is None:
        return {}
    bands = found["channels"][0]["ltv"]["interval_90"] is not None
    out = {
        "acquisition": (
            ltv_against_cac(found, table["currency"]),
            "What a new customer is worth (circle"
            + (", with 50 and 90 % intervals" if bands else "")
            + ") and what one costs (bar).",
        ),
        "payback": (
            payback_curve(found, table["currency"]),
            "Expected margin of a new customer since the first order, undiscounted; it pays back where it "
            "crosses its cost." + (" Shaded: 90 % interval." if bands else ""),
        ),
    }
    if any(channel["budget"] for channel in found["channels"]):
        out["budget"] = (
            budget_curves(found, table["currency"]),
            "Value of the customers whom a month's spend wins, less the spend, under a response that "
            "saturates; shaded: 90 % interval; dashed: the present spend; circle: the best.",
        )
    return out


@f._styled
def ltv_against_cac(found: Mapping[str, Any], currency: str, ax: Any = None) -> Any:
    """Value and cost of a new customer by channel, with intervals."""
    channels: Sequence[Mapping[str, Any]] = found["channels"][:SHOWN]
    figure, ax = f._axes(ax, 4.4, 1.0 + 0.24 * len(channels))
    for j, channel in enumerate(channels):
        f._interval(ax, j, channel["ltv"], f.MODEL)
        if cac := channel["cac"]:
            ax.plot(cac["mean"], j, "|", color=f.INK, ms=11, mew=1.6, label="cost" if j == 0 else None)
            if cac["interval_90"]:
                ax.plot(cac["interval_90"], [j, j], color=f.INK, lw=0.8)
    ax.set_yticks(range(len(channels)), [f._short(channel["label"]) for channel in channels])
    ax.tick_params("y", length=0)
    ax.grid(axis="y", color="#eceff2", lw=0.6)
    ax.set_ylim(len(channels) - 0.4, -0.6)
    values = [c[k]["mean"] for c in channels for k in ("ltv", "cac") if c[k] and c[k]["mean"] > 0]
    if values and max(values) > 30 * min(values) and min(c["ltv"]["mean"] for c in channels) > 0:
        ax.set_xscale("log")
        ax.minorticks_off()
    else:
        ax.set_xlim(min(0, ax.get_xlim()[0]))
    ax.set_xlabel(f"Per customer ({currency})")
    f._thousands(ax.xaxis)
    return figure


@f._styled
def budget_curves(found: Mapping[str, Any], currency: str) -> Any:
    """Profit of a month by its spend, of the channels with the highest spend."""
    having = [channel for channel in found["channels"] if channel["budget"]]
    having = sorted(having, key=lambda channel: -channel["budget"]["now"]["value"])[:3]
    figure, panels = f._panels(len(having), width=8.8 if len(having) > 1 else 4.4, height=2.4, squeeze=False)
    for ax, channel in zip(panels[0], having, strict=True):
        budget, curve = channel["budget"], channel["budget"]["curve"]
        ax.fill_between(curve["spend"], curve["low"], curve["high"], color=f.FAINT, lw=0)
        ax.plot(curve["spend"], curve["mean"], color=f.MODEL)
        ax.axvline(budget["now"]["value"], color=f.INK, lw=1, ls=(0, (5, 2)))
        best = budget["best"]["value"]
        ax.plot(best, np.interp(best, curve["spend"], curve["mean"]), "o", color="white", mec=f.INK, ms=5)
        ax.axhline(0, color=f.GREY, lw=0.6)
        ax.set_title(f._short(channel["label"]), fontsize=8)
        ax.set_xlabel(f"Monthly spend ({currency})")
        for axis in (ax.xaxis, ax.yaxis):
            f._thousands(axis)
        ax.xaxis.get_major_locator().set_params(nbins=5)
    panels[0][0].set_ylabel(f"Profit of a month ({currency})")
    return figure


@f._styled
def payback_curve(found: Mapping[str, Any], currency: str, ax: Any = None) -> Any:
    """Cumulative expected margin of a new customer, and the cost that it has to cover."""
    figure, ax = f._axes(ax, 4.4, 2.8)
    curve, first = found["curve"], found["channels"][0]
    months = curve["months"]
    if first["ltv"]["interval_90"]:
        ax.fill_between(months, curve["low"], curve["high"], color=f.FAINT, lw=0)
    ax.plot(months, curve["mean"], color=f.MODEL, label="margin, cumulative")
    if first["cac"]:
        ax.axhline(first["cac"]["mean"], color=f.INK, lw=1, ls=(0, (5, 2)), label="cost")
    median = first["payback"] and first["payback"]["median"]
    if median is not None and 0 < median < months[-1]:
        ax.plot(median, first["cac"]["mean"], "o", color="white", mec=f.INK, ms=5)
    ax.set_xlim(0, months[-1])
    ax.set_ylim(min(0, min(curve["low"])))
    ax.set_xlabel("Months after the first order")
    ax.set_ylabel(f"Per customer ({currency})")
    f._thousands(ax.yaxis)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=2)
    return figure
