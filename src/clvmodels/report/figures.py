"""Figures of the report, drawn from artefacts, readable in grey and free of global state.

Every public function returns a matplotlib Figure; those with one panel draw on ``ax`` where one
is given. Lines differ in style, areas in shade or hatch, so that nothing rests on colour alone.
Axis titles carry units; intervals state their probability in the legend. For a single parameter
vector there is no interval and none is drawn.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from clvmodels.artifacts import Equity, Posterior, Summary, interval
from clvmodels.report import position
from clvmodels.report.histories import surfaces

INK, MODEL, PALE, FAINT, GREY = "#1c2733", "#2f5d8a", "#a9c1d9", "#e4ecf4", "#75808c"
LINES: dict[str, Any] = {
    "expected": "-",
    "latent": (0, (5, 2)),
    "predictive": (0, (1, 1.6)),
    "systematic": (0, (6, 1.5, 1, 1.5)),
    "point": "-",
}


_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.3,
    "hatch.linewidth": 0.5,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
    "svg.hashsalt": "clvmodels",
    "figure.constrained_layout.use": True,
}
_FONTS = "-apple-system, BlinkMacSystemFont, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def _styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Draw within this module's style, whatever the user's own settings are."""

    @wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Any:
        with matplotlib.rc_context(), warnings.catch_warnings():
            # A script that this machine cannot measure is still text in the SVG.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return styled


class Picture(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def _axes(ax: Any, width: float = 4.4, height: float = 2.8) -> tuple[Any, Any]:
    if ax is not None:
        return ax.figure, ax
    figure = Picture(figsize=(width, height))
    return figure, figure.subplots()


def _panels(columns: int, rows: int = 1, width: float = 8.8, height: float = 3.2, **kwargs: Any) -> Any:
    figure = Picture(figsize=(width, height))
    return figure, figure.subplots(rows, columns, **kwargs)


def _thousands(axis: Any) -> None:
    def write(v: float, _: int) -> str:
        return (f"{v:,.0f}" if v == round(v) else f"{v:,.4g}").replace("-", "\u2212")

    axis.set_major_formatter(FuncFormatter(write))


def _shares(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %".replace("-", "\u2212")))


def _money(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def _density(draws: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Gaussian kernel density with a robust normal-reference bandwidth, by a fine histogram."""
    low, high = np.quantile(draws, [0.25, 0.75])
    width = 1.2 * min(draws.std(), (high - low) / 1.349 or draws.std()) * len(draws) ** -0.2
    step = grid[1] - grid[0]
    width = max(width, step)
    counts = np.histogram(draws, np.r_[grid - step / 2, grid[-1] + step / 2])[0]
    reach = int(np.ceil(4 * width / step))
    kernel = np.exp(-0.5 * (step * np.arange(-reach, reach + 1) / width) ** 2)
    return np.convolve(counts, kernel / kernel.sum())[reach : reach + len(grid)] / (len(draws) * step)


# --- equity --------------------------------------------------------------------------------------


@_styled
def equity_density(equity: Equity, ax: Any = None) -> Any:
    """Posterior density of total equity at every level, with 50 and 90 % intervals below it."""
    figure, ax = _axes(ax, 4.4, 2.7)
    levels = equity.levels
    draws = {level: equity.total(level) for level in levels}
    ax.set_xlabel(f"Equity of the existing customers ({equity.currency})")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    _thousands(ax.xaxis)
    ax.xaxis.get_major_locator().set_params(nbins=5)  # seven figures have room
    if len(draws[levels[0]]) < 2:
        value = float(draws[levels[0]][0])
        ax.axvline(value, color=MODEL, lw=2)
        ax.annotate(
            _money(value),
            (value, 0.9),
            (6, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
        )
        ax.set_xlim(0, 2 * value)
        return figure
    pooled = np.concatenate(list(draws.values()))
    low, high = np.quantile(pooled, [0.0005, 0.9995])
    grid = np.linspace(low - 0.08 * (high - low), high + 0.08 * (high - low), 400)
    curves = {level: _density(values, grid) for level, values in draws.items()}
    top = max(curve.max() for curve in curves.values())
    ax.fill_between(grid, 0, curves[levels[0]], color=FAINT, lw=0)
    for level, curve in curves.items():
        ax.plot(grid, curve, color=MODEL if level == levels[0] else INK, ls=LINES[level], label=level)
    for row, (level, values) in enumerate(draws.items(), start=1):
        y = -0.115 * top * row
        colour = MODEL if level == levels[0] else INK
        for probability, width in ((0.90, 1.2), (0.50, 4.0)):
            ax.plot(interval(values, probability), [y, y], color=colour, lw=width, solid_capstyle="butt")
        ax.plot(values.mean(), y, "o", color="white", mec=colour, ms=4.5, mew=1.2)
        ax.annotate(level, (grid[0], y), (0, 0), textcoords="offset points", va="center", fontsize=7.5)
    ax.set_ylim(-0.115 * top * (len(levels) + 0.7), 1.05 * top)
    ax.set_xlim(grid[0], grid[-1])
    ax.legend(title="Density at level", alignment="left", loc="upper right", handlelength=2.6)
    return figure


@_styled
def year_bands(table: Mapping[str, Any], ax: Any = None) -> Any:
    """Equity by the year in which the margin falls, with 90 % intervals."""
    figure, ax = _axes(ax, 4.4, 2.7)
    bands = table["bands"]
    means = [band["equity"]["mean"] for band in bands]
    bars = ax.bar(range(len(bands)), means, width=0.62, color=PALE, edgecolor=MODEL, lw=0.7)
    bars[-1].set_hatch("////" if bands[-1]["to_years"] == "infinite" else "")
    tops = list(means)
    for j, band in enumerate(bands):
        if band["equity"]["interval_90"]:
            low, high = band["equity"]["interval_90"]
            ax.plot([j, j], [low, high], color=INK, lw=1.1)
            tops[j] = high
    for j, band in enumerate(bands):
        ax.annotate(f"{100 * band['share']['mean']:.0f} %", (j, tops[j]), (0, 3), textcoords="offset points",
                    ha="center", fontsize=8)  # fmt: skip
    ax.set_xticks(range(len(bands)), [band["label"] for band in bands])
    ax.set_xlabel("Years after the valuation date")
    ax.set_ylabel(f"Equity ({table['currency']})")
    low = min(0.0, *means)
    ax.set_ylim(1.12 * low, 1.12 * max(*tops, -low))
    _thousands(ax.yaxis)
    return figure


@_styled
def lorenz(equity: Equity, ax: Any = None) -> Any:
    """Share of equity held by the most valuable share of customers, with a 90 % band."""
    figure, ax = _axes(ax, 4.4, 3.1)
    curve = equity.data["lorenz"]
    share = curve["share_of"].values
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=(0, (2, 2)))
    ax.annotate("equal values", (0.8, 0.8), (5, -7), textcoords="offset points", color=GREY, fontsize=7.5)
    shown = [level for level in ("expected", "latent", "point") if level in equity.levels]
    for level in shown:
        low, middle, high = curve.sel(level=level).transpose("quantile", "share_of").values
        colour = MODEL if level == shown[0] else INK
        many = equity.data.sizes["draw"] > 1
        if many:
            ax.fill_between(
                share, low, high, color=PALE if level == shown[0] else "#d9d9d9", lw=0, alpha=0.75
            )
        ax.plot(share, middle, color=colour, ls=LINES[level], label=level)
    handles, labels = ax.get_legend_handles_labels()
    if many:
        handles, labels = [*handles, Patch(color=PALE)], [*labels, "90 % interval"]
    ax.legend(handles, labels, loc="lower right", title="Level", alignment="left")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.01)
    ax.set_xlabel("Share of customers, most valuable first")
    ax.set_ylabel("Share of equity")
    _shares(ax.xaxis)
    _shares(ax.yaxis)
    return figure


SEGMENTS_SHOWN = 12


@_styled
def segment_shares(table: Mapping[str, Any], column: str, ax: Any = None) -> Any:
    """Share of equity of the most valuable segments of a column, with 90 % intervals."""
    blocks = table["segments"][column][:SEGMENTS_SHOWN]
    figure, ax = _axes(ax, 4.4, 0.9 + 0.22 * len(blocks))
    base = next(iter(table["levels"]))
    for j, block in enumerate(blocks):
        _interval(ax, j, block["share"][base], MODEL)
    total = sum(block["customers"]["value"] for block in table["segments"][column])
    ax.plot([block["customers"]["value"] / total for block in blocks], range(len(blocks)), "|", color=INK,
            ms=9, mew=1.2, label="share of customers")  # fmt: skip
    ax.set_yticks(range(len(blocks)), [_short(block["label"]) for block in blocks])
    ax.tick_params("y", length=0)
    ax.grid(axis="y", color="#eceff2", lw=0.6)
    ax.set_ylim(len(blocks) - 0.4, -0.6)
    means = [block["share"][base]["mean"] for block in blocks]
    if min(means) > 0 and max(means) > 30 * min(means):
        ax.set_xscale("log")
        ax.set_xlabel(f"Share of equity (level {base}; logarithmic)")
        ax.minorticks_off()
    else:
        ax.set_xlim(None if min(means) < 0 else 0)
        ax.set_xlabel(f"Share of equity (level {base})")
    _shares(ax.xaxis)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return figure


def _short(label: str, length: int = 28) -> str:
    """A label of data on one line, without what cannot be drawn."""
    label = " ".join("".join(c if c.isprintable() else " " for c in label).split())
    return label if len(label) <= length else label[: length - 1] + "…"


@_styled
def comparison(table: Mapping[str, Any]) -> Any:
    """Variants side by side: prediction of unseen customers, holdout total, equity.

    Parameters
    ----------
    table
        As made by :func:`clvmodels.report.comparison.build`.
    """
    variants, stacked = table["variants"], table["stacked"]["equity"]
    later = [variant["holdout"] for variant in variants]
    count = 2 + any(later)
    height = 1.15 + 0.3 * (len(variants) + bool(stacked))
    figure, panels = _panels(count, width=8.8, height=height, sharey=True)
    places = range(len(variants))
    _densities(panels[0], [variant["loo"] for variant in variants])
    if any(later):
        ax, actual = panels[1], table["data"]["holdout"]["orders"]["value"]
        ax.axvline(actual, color=INK, lw=0.9, ls=(0, (2, 1.6)), label="observed")
        for j, block in zip(places, later, strict=True):
            if block:
                total = block["totals"]["orders"]
                if total["interval_90"]:
                    ax.plot(total["interval_90"], [j, j], color=MODEL, lw=1.2)
                ax.plot(total["expected"], j, "o", color="white", mec=MODEL, ms=4.5, mew=1.2)
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
        ax.set_xlabel("Purchases in the holdout\n(expected; 90 % predictive interval)")
        _thousands(ax.xaxis)
    rows = [(variant["name"], variant["equity"]) for variant in variants]
    rows += [("stacked", stacked)] if stacked else []
    for j, (_, equity) in enumerate(rows):
        level, block = next(iter(equity.items()))
        _interval(panels[-1], j, block, INK if j >= len(variants) else MODEL)
    panels[-1].set_xlabel(
        f"Equity, {table['currency']}, level {level}\n(mean; 50 % and 90 % interval)"
        if block["interval_90"]
        else f"Equity, {table['currency']}, level {level}"
    )
    _thousands(panels[-1].xaxis)
    panels[-1].xaxis.get_major_locator().set_params(nbins=5)
    panels[0].set_yticks(range(len(rows)), [_short(name) for name, _ in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    for ax in panels:
        ax.tick_params("y", length=0)
        ax.grid(axis="y", color="#eceff2", lw=0.6)
    return figure


def _densities(ax: Any, scores: Sequence[Mapping[str, Any]]) -> None:
    """Differences in leave-one-out density to the best variant, with two standard errors."""
    drawn: list[tuple[str, list[tuple[int, Any]]]] = []
    for role in ("purchases", "spend"):
        known = [(j, score[role]["difference"]) for j, score in enumerate(scores) if score[role]]
        known = [(j, difference) for j, difference in known if difference]
        if any(difference["se"] for _, difference in known):  # not one model in all variants
            drawn.append((role, known))
    lowest = 0.0
    for number, (role, known) in enumerate(drawn):
        mark, colour = (("o", MODEL), ("s", INK))[number]
        shift = 0.24 * (number - (len(drawn) - 1) / 2)
        for j, difference in known:
            value, error = difference["value"], 2 * difference["se"]
            ax.plot([value - error, value + error], [j + shift] * 2, color=colour, lw=1.2)
            ax.plot(value, j + shift, mark, color="white", mec=colour, ms=4.5, mew=1.2)
            lowest = min(lowest, value - error)
        ax.plot([], [], mark, color="white", mec=colour, ms=4.5, mew=1.2, label=role)
    ax.axvline(0, color=GREY, lw=0.8)
    scale = "two standard errors"
    if lowest < -60:
        ax.set_xscale("symlog", linthresh=10)
        ax.set_xticks([0, *(-d for d in (10, 100, 1000, 10_000, 100_000) if d < -2 * lowest)])
        ax.xaxis.set_minor_locator(NullLocator())
        scale = "logarithmic beyond 10; two standard errors"
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.4g}".replace("-", "\u2212")))
    ax.set_xlabel(f"Log density of unseen customers, less the\nbest, nats ({scale})")
    if drawn:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=2)


def _interval(ax: Any, y: float, block: Mapping[str, Any], colour: str) -> None:
    """Mean with 50 % (thick) and 90 % (thin) interval, where there is one."""
    if block["interval_90"]:
        ax.plot(block["interval_90"], [y, y], color=colour, lw=1.2)
        ax.plot(block["interval_50"], [y, y], color=colour, lw=4, solid_capstyle="butt")
    ax.plot(block["mean"], y, "o", color="white", mec=colour, ms=4.5, mew=1.2)


# --- surfaces over recency and frequency ---------------------------------------------------------


def _shaded(
    figure: Any, ax: Any, s: Mapping[str, np.ndarray], name: str, levels: np.ndarray, form: str
) -> None:
    """Filled and labelled contours; white is little, blue much."""

    shades = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#cfdeec", "#8fb0cf", "#5b88b3"])
    ax.contourf(s["recency"], s["frequency"], s[name], levels=levels, cmap=shades, extend="max")
    lines = ax.contour(s["recency"], s["frequency"], s[name], levels=levels[1:-1], colors=INK, linewidths=0.5)
    ax.clabel(lines, fmt=lambda v: form.format(v), fontsize=7, inline=True, inline_spacing=2)


@_styled
def history_surfaces(s: Mapping[str, np.ndarray], unit: str) -> Any:
    """P(alive) and expected purchases in the next year, over recency and frequency."""
    figure, (left, right) = _panels(2, width=8.8, height=3.2, sharey=True)
    _shaded(figure, left, s, "p_alive", np.linspace(0, 1, 11), "{:.1f}")
    left.set_title("P(alive) at the valuation date")
    _shaded(figure, right, s, "orders", _round_levels(np.nanmax(s["orders"]), 9), "{:g}")
    right.set_title("Expected purchases in the next year")
    for ax in (left, right):
        ax.set_xlabel(f"Recency: first to last purchase ({unit}s)")
        ax.set_xlim(0, float(s["age"]))
    left.set_ylabel("Frequency (repeat purchases)")
    return figure


def _round_levels(top: float, count: int) -> np.ndarray:
    return np.asarray(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top))


@_styled
def iso_value(s: Mapping[str, np.ndarray], unit: str, currency: str, ax: Any = None) -> Any:
    """Histories of equal expected value: at a given recency, more purchases may mean less value."""
    figure, ax = _axes(ax, 4.4, 3.1)
    value = s["value"]
    steps = np.multiply.outer(10.0 ** np.arange(-6, 12), [1, 2, 5]).ravel()
    levels = steps[steps < 0.95 * np.nanmax(value)][-7:]
    lines = ax.contour(s["recency"], s["frequency"], value, levels=levels, colors=MODEL, linewidths=1.1)
    ax.clabel(lines, fmt=_money, fontsize=7.5, inline=True)
    recency, ridge = _ridge(s["recency"], s["frequency"], value)
    if len(ridge) > 1:
        ax.plot(
            recency, ridge, color=INK, lw=1.0, ls=(0, (1, 1.6)), label="most valuable frequency at a recency"
        )
        ax.legend(
            loc="upper left", frameon=True, facecolor="white", edgecolor="none", framealpha=1, borderpad=0.2
        )
    ax.set_xlim(0, float(s["age"]))
    ax.set_ylim(s["frequency"][0], s["frequency"][-1])
    ax.set_xlabel(f"Recency: first to last purchase ({unit}s), age {float(s['age']):,.0f} {unit}s")
    ax.set_ylabel("Frequency (repeat purchases)")
    ax.set_title(f"Expected value of a customer ({currency})", fontweight="normal")
    return figure


def _ridge(recency: np.ndarray, frequency: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where value peaks over frequency, inside the grid, by the parabola through the peak."""
    value = np.where(np.isnan(value), -np.inf, value)  # histories that cannot be
    best = value.argmax(axis=0)
    inside = (best > 0) & (best < len(frequency) - 1)
    inside &= np.isfinite(value[np.minimum(best + 1, len(frequency) - 1), np.arange(value.shape[1])])
    at, column = best[inside], np.flatnonzero(inside)
    below, peak, above = (value[at + k, column] for k in (-1, 0, 1))
    shift = 0.5 * (below - above) / (below - 2 * peak + above)
    return recency[inside], frequency[at] + shift * (frequency[1] - frequency[0])


# --- model against data --------------------------------------------------------------------------


@_styled
def frequency_histogram(arrays: Any, ax: Any = None) -> Any:
    """Customers by number of repeat purchases, observed and expected."""
    figure, ax = _axes(ax, 4.4, 2.7)
    place = np.arange(arrays.sizes["frequency"])
    low, mean, high = arrays["frequency_model"].values
    ax.bar(place, arrays["frequency_observed"].values, width=0.66, color=FAINT, edgecolor=GREY, lw=0.7,
           label="observed")  # fmt: skip
    if np.isfinite(low).all():
        ax.vlines(place, low, high, color=MODEL, lw=3.2, label="90 % predictive interval")
    ax.plot(place, mean, "o", color="white", mec=MODEL, ms=4.5, mew=1.2, label="model, mean")
    ax.set_xticks(place, arrays["frequency"].values.tolist())
    ax.set_xlabel("Repeat purchases in the window")
    ax.set_ylabel("Customers")
    _thousands(ax.yaxis)
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda j: labels[j] != "observed")
    ax.legend([handles[j] for j in order], [labels[j] for j in order], loc="upper right")
    return figure


@_styled
def recency_histogram(arrays: Any, unit: str, ax: Any = None) -> Any:
    """Repeat buyers by the time since their last purchase, observed and expected."""
    figure, ax = _axes(ax, 4.4, 2.7)
    edges = arrays["silence_edges"].values
    middle = (edges[1:] + edges[:-1]) / 2
    low, mean, high = arrays["silence_model"].values
    ax.bar(middle, arrays["silence_observed"].values, width=0.8 * np.diff(edges), color=FAINT, edgecolor=GREY,
           lw=0.7, label="observed")  # fmt: skip
    if np.isfinite(low).all():
        ax.vlines(middle, low, high, color=MODEL, lw=3.2, label="90 % predictive interval")
    ax.plot(middle, mean, "o", color="white", mec=MODEL, ms=4.5, mew=1.2, label="model, mean")
    ax.set_xlabel(f"Time since the last purchase ({unit}s)")
    ax.set_ylabel("Customers who bought again")
    _thousands(ax.yaxis)
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda j: labels[j] != "observed")
    ax.legend([handles[j] for j in order], [labels[j] for j in order], loc="upper right")
    return figure


@_styled
def tracking(arrays: Any, observation_end: str) -> Any:
    """Weekly and cumulative repeat purchases, observed and predicted, in the window and after it."""
    figure, panels = _panels(1, rows=2, width=8.8, height=4.8, sharex=True)
    week, unit = arrays["week"].values, arrays.attrs.get("tracking_unit", "week")
    end = np.datetime64(observation_end)
    after = week > end
    for ax, name, title in (
        (panels[0], "weekly", f"Repeat purchases per {unit}"),
        (panels[1], "cumulative", "Repeat purchases since the start, cumulative"),
    ):
        low, mean, high = arrays[f"{name}_model"].values
        for part, shade, hatch in ((~after, PALE, None), (after, FAINT, "////")):
            if part.any() and np.isfinite(low[part]).all():
                ax.fill_between(week[part], low[part], high[part], facecolor=shade, edgecolor=PALE,
                                hatch=hatch, lw=0)  # fmt: skip
            ax.plot(week[part], mean[part], color=MODEL, ls="-" if hatch is None else (0, (5, 2)))
        marker = "o" if name == "weekly" else ""
        ax.plot(week, arrays[f"{name}_observed"].values, color=INK, lw=0.9, marker=marker, ms=2.2)
        ax.set_title(title)
        ax.set_ylabel("Purchases")
        ax.set_ylim(0)
        _thousands(ax.yaxis)
        if after.any():
            ax.axvline(end, color=GREY, lw=0.8, ls=(0, (2, 2)))
    if after.any():
        panels[0].annotate("end of observation", (end, 1), (4, -2), xycoords=("data", "axes fraction"),
                           textcoords="offset points", va="top", color=GREY, fontsize=7.5)  # fmt: skip
    _legend(panels[1], after.any(), bool(np.isfinite(arrays["weekly_model"].values).all()))
    _dates(panels[1])
    panels[1].set_xlabel(f"{unit.capitalize()} (by its last day)")
    return figure


def _legend(ax: Any, after: bool, bands: bool) -> None:
    """One legend for both panels of the tracking figure."""
    entries: list[tuple[Any, str]] = [
        (Line2D([], [], color=INK, lw=0.9, marker="o", ms=2.2), "observed"),
        (Line2D([], [], color=MODEL), "model, in the window"),
    ]
    if bands:
        entries.append((Patch(facecolor=PALE), "90 % predictive interval"))
    if after:
        entries.append((Line2D([], [], color=MODEL, ls=(0, (5, 2))), "forecast from the end of observation"))
        if bands:
            entries.append(
                (Patch(facecolor=FAINT, edgecolor=PALE, hatch="////"), "its 90 % predictive interval")
            )
    ax.legend(*zip(*entries, strict=True), loc="upper left")


def _dates(ax: Any) -> None:
    """Months, and years where they begin."""
    locator = AutoDateLocator(minticks=5, maxticks=10)
    formats = ["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%S"]
    offsets = ["", "%Y", "%Y", "%d %b %Y", "%d %b %Y", "%d %b %Y"]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(
        ConciseDateFormatter(locator, formats=formats, zero_formats=["", "%Y", *formats[1:5]],
                             offset_formats=offsets, show_offset=False)
    )  # fmt: skip


@_styled
def spend_distribution(arrays: Any, currency: str, ax: Any = None) -> Any:
    """Mean spend per repeat buyer: density on a logarithmic axis, observed and model."""

    figure, ax = _axes(ax, 4.4, 2.7)
    edges = arrays["spend_edges"].values
    width = np.diff(np.log(edges))
    total = max(arrays["spend_observed"].values.sum(), 1)
    low, mean, high = arrays["spend_model"].values / total / width
    ax.stairs(arrays["spend_observed"].values / total / width, edges, fill=True, color=FAINT)
    ax.stairs(
        arrays["spend_observed"].values / total / width, edges, color=GREY, lw=0.9, zorder=3, label="observed"
    )
    middle = np.sqrt(edges[1:] * edges[:-1])
    if np.isfinite(low).all():
        ax.fill_between(middle, low, high, color=PALE, alpha=0.7, lw=0, label="90 % predictive interval")
    ax.plot(middle, mean, color=MODEL, label="model, mean")
    ax.set_xscale("log")
    decades = 10.0 ** np.arange(-6, 13)
    ticks = np.unique(np.concatenate([decades, 2 * decades, 5 * decades]))
    ax.xaxis.set_major_locator(FixedLocator(ticks[(ticks >= edges[0]) & (ticks <= edges[-1])]))
    ax.xaxis.set_minor_locator(NullLocator())
    _thousands(ax.xaxis)
    ax.set_xlabel(f"Mean spend per repeat purchase ({currency}, logarithmic)")
    ax.set_ylabel("Density (per unit of the logarithm)")
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0)
    ax.legend(loc="upper right")
    return figure


@_styled
def spend_by_frequency(arrays: Any, currency: str, ax: Any = None) -> Any:
    """Mean spend of repeat buyers by their number of repeat purchases, observed and model."""
    figure, ax = _axes(ax, 4.4, 2.7)
    place = np.arange(arrays.sizes["repeats"])
    low, mean, high = arrays["spend_by_frequency_model"].values
    if np.isfinite(low).any():
        ax.vlines(place, low, high, color=PALE, lw=7, label="90 % predictive interval")
    ax.plot(place, mean, "o", color="white", mec=MODEL, ms=4.5, mew=1.2, label="model, mean")
    ax.plot(place, arrays["spend_by_frequency_observed"].values, color=INK, lw=0.9, marker="D", ms=3.2,
            label="observed")  # fmt: skip
    ax.set_xticks(place, arrays["repeats"].values.tolist())
    ax.set_xlabel("Repeat purchases in the window")
    ax.set_ylabel(f"Mean spend per repeat purchase ({currency})")
    _thousands(ax.yaxis)
    ax.set_ylim(0, ax.get_ylim()[1] * 1.25)
    ax.legend(loc="upper left", ncols=3, columnspacing=1.0, handletextpad=0.5)
    return figure


@_styled
def draws(posterior: Posterior) -> Any:
    """Each parameter's density with its maximum-likelihood value, and ranks of its draws by chain.

    Ranks of well-mixed draws are spread evenly over every chain. One chain (importance sampling) is
    cut into four consecutive parts in the place of chains.
    """
    drawn = [part for part in (posterior.purchases, posterior.spend) if len(part.flat) > 1]
    parts = [(part, j) for part in drawn for j in range(len(part.parameters))]
    if not parts:
        return None
    figure, panels = _panels(len(parts), rows=2, width=8.8, height=3.0, squeeze=False)
    for column, (part, j) in enumerate(parts):
        top, bottom = panels[:, column]
        values, name = part.flat[:, j], part.parameters[j]
        low, high = np.quantile(values, [0.001, 0.999])
        grid = np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), 200)
        curve = _density(values, grid)
        top.fill_between(grid, 0, curve, color=FAINT, lw=0)
        top.plot(grid, curve, color=MODEL, lw=1.0)
        if name in part.maximum:
            top.axvline(part.maximum[name], color=INK, lw=0.9, ls=(0, (2, 1.6)))
        top.set_title(name)
        top.set_yticks([])
        top.spines["left"].set_visible(False)
        top.xaxis.get_major_locator().set_params(nbins=3)
        top.tick_params("x", labelsize=7)
        _ranks(bottom, part.draws[:, :, j])
        bottom.set_xlabel("rank", fontsize=7.5)
    panels[0, 0].set_ylabel("density")
    panels[1, 0].set_ylabel("chain" if parts[0][0].draws.shape[0] > 1 else "part of the draws")
    return figure


def _ranks(ax: Any, values: np.ndarray) -> None:
    """Histogram of ranks per chain, one row each; the dashed line is an even spread."""
    bins = 10
    if len(values) == 1:
        values = values[0, : values.size // 4 * 4].reshape(4, -1)
    ranks = values.ravel().argsort(kind="stable").argsort(kind="stable").reshape(values.shape)
    for row, chain in enumerate(ranks):
        counts = np.histogram(chain, np.linspace(0, values.size, bins + 1))[0] / (values.shape[1] / bins)
        ax.bar(np.arange(bins) + 0.5, 0.7 * counts / 1.6, bottom=-row, width=0.92, color=PALE, lw=0)
        ax.plot([0, bins], [-row + 0.7 / 1.6] * 2, color=INK, lw=0.6, ls=(0, (2, 1.6)))
    ax.set_yticks(-np.arange(len(values)), [str(row + 1) for row in range(len(values))])
    ax.tick_params("y", length=0, labelsize=7)
    ax.set_xticks([])
    ax.spines["left"].set_visible(False)


# --- all of them, and as text --------------------------------------------------------------------


def draw_all(
    summary: Summary, posterior: Posterior, equity: Equity, table: Mapping[str, Any], arrays: Any = None
) -> dict[str, tuple[Any, str]]:
    """Every figure that the artefacts allow: name → (figure, caption)."""
    unit, money, base = summary.time_unit, summary.currency, next(iter(table["levels"]))
    intervals = "" if posterior.is_point else " Mean, 50 % (thick) and 90 % (thin) interval."
    out: dict[str, tuple[Any, str]] = {
        "equity": (
            equity_density(equity),
            "" if posterior.is_point else f"Posterior density; below, by level:{intervals.lower()}",
        ),
        "bands": (
            year_bands(table),
            f"Level {base}; above the bars, shares of the total."
            + ("" if posterior.is_point else " Lines: 90 % intervals."),
        ),
        "lorenz": (
            lorenz(equity),
            "How concentrated value is, as expected from each customer's history."
            if posterior.is_point
            else "How concentrated value is: as expected from each history, and between customers as they "
            "really are (latent), which is less equal.",
        ),
    }
    for number, (column, blocks) in enumerate(table["segments"].items(), start=1):
        more = (
            f" The {SEGMENTS_SHOWN} most valuable of {len(blocks)}." if len(blocks) > SEGMENTS_SHOWN else ""
        )
        out[f"segments_{number}"] = (segment_shares(table, column), f"By {column}.{intervals}{more}")
    out |= position.figures(table)
    if (s := surfaces(summary, posterior, table["assumptions"])) is not None:
        age = f"{float(s['age']):,.0f} {unit}s"
        out["histories"] = (
            history_surfaces(s, unit),
            f"For customers who first bought {age} before the valuation date; posterior means. Customers "
            "without a repeat purchase are not on this map.",
        )
        bend = (
            " Lines bend back: of two customers whose last purchase lies equally far back, the one who used "
            "to buy more often may be worth less, being the more likely to have left."
        )
        out["iso_value"] = (
            iso_value(s, unit, money),
            f"Each line joins histories of equal expected value, at age {age}, mean margin and the mean "
            f"spend of a new customer ({money} {float(s['spend']):,.2f} a purchase)."
            + (bend if len(_ridge(s["recency"], s["frequency"], s["value"])[0]) else ""),
        )
    if arrays is not None:
        out |= _checked(arrays, table, money)
    if (panels := draws(posterior)) is not None:
        out["draws"] = (
            panels,
            "Above: posterior density; dashed, the maximum of the likelihood without priors. Below: ranks "
            "of the draws by chain (or by consecutive quarter of one chain); even, as the dashed line, where "
            "the draws agree.",
        )
    return out


def _checked(arrays: Any, table: Mapping[str, Any], money: str) -> dict[str, tuple[Any, str]]:
    whole = table["customers"]["total"]["value"]
    sample = int(arrays.attrs["customers"])
    of = "" if sample == whole else f" A sample of {sample:,} of {whole:,} customers."
    out = {
        "frequency": (frequency_histogram(arrays), f"Customers by repeat purchases.{of}"),
    }
    if "silence_edges" in arrays:
        out["recency"] = (
            recency_histogram(arrays, table["assumptions"]["time_unit"]),
            f"Repeat buyers by how long ago they last bought.{of}",
        )
    if "weekly_model" in arrays:
        out["tracking"] = (
            tracking(arrays, table["assumptions"]["valuation_date"]),
            "In the window the model simulates every customer anew from the first purchase; after it, it "
            "forecasts from each history, and the cumulative forecast starts at the observed total.",
        )
    if "spend_by_frequency_observed" in arrays:
        out["spend_by_frequency"] = (
            spend_by_frequency(arrays, money),
            "Mean over customers of their mean spend, by how often they bought. The model takes spend and "
            f"frequency as unrelated: a trend of the observed beyond the intervals speaks against it.{of}",
        )
    if "spend_edges" in arrays:
        out["spend"] = (
            spend_distribution(arrays, money),
            f"Mean spend per purchase of those who bought again; 99 % of them are in view.{of}",
        )
    return out


@_styled
def svg(figure: Any) -> str:
    """The figure as an SVG element: text as text, no date, ids only where they are referred to."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # what was laid out once stays where it is
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    text = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)  # a hundredth of a point is enough
    return text.replace("'DejaVu Sans'", _FONTS)


@_styled
def png(figure: Any) -> bytes:
    """The figure as a PNG file, without software or date in its metadata."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
