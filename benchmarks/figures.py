"""Time and peak memory against customers and draws, ours and the peers', as one small SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, Work
from benchmarks.suite import DRAWS, Suite

OURS, MARKETING, LIFETIMES = "#0b6e4f", "#c8553d", "#5b6c8f"


def scaling(suite: Suite, path: Path) -> bool:
    """Draw what the set has measured; False if there is nothing to draw."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "clvmodels", "font.size": 9})
    from matplotlib import pyplot as plt

    size, one = suite.size, suite.size.draws_customers
    n_axis = tuple(sorted({*size.value, *size.posterior, *size.nuts, *size.peer_value, *size.lifetimes}))
    draws = tuple(sorted({*size.value_draws, DRAWS}))
    series: list[tuple[int, str, str, str, Callable[[int], Work], tuple[int, ...]]] = [
        (0, "clvmodels, for ever", OURS, "-", suite.value, n_axis),
        (0, "clvmodels, 12 months", OURS, ":", lambda n: suite.value(n, horizon="12 months"), n_axis),
        (0, "pymc-marketing, 12 months", MARKETING, ":", suite.peer_value, n_axis),
        (1, "clvmodels, posterior", OURS, "-", suite.posterior, n_axis),
        (1, "pymc-marketing, NUTS", MARKETING, "-", suite.nuts, n_axis),
        (1, "lifetimes, maximum likelihood", LIFETIMES, "-", suite.lifetimes, n_axis),
        (2, "clvmodels", OURS, ":", lambda d: suite.value(one, d, horizon="12 months"), draws),
        (2, "pymc-marketing", MARKETING, ":", lambda d: suite.peer_value(one, d), draws),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), sharex="col", layout="constrained")
    drawn = False
    for column, label, color, style, make, xs in series:
        results = {x: found for x in xs if (found := suite.bench.known(make(x)))}
        good = {x: found for x, found in results.items() if found.ok}
        broken = [x for x, found in results.items() if not found.ok]
        if not good:
            continue
        drawn = True
        for row, y in enumerate(([r.seconds for r in good.values()], [_gb(r) for r in good.values()])):
            axis: Any = axes[row, column]
            axis.plot(list(good), y, style, marker="o", ms=4, color=color, label=label)
            for x in broken:
                axis.plot([max(good), x], [y[-1], y[-1]], style, color=color, alpha=0.4)
                axis.plot([x], [y[-1]], marker="x", color=color)
    titles = (f"value, {DRAWS:,} draws", "fit of BG/NBD", f"value of {one:,} customers, 12 months")
    for column, (title, label) in enumerate(zip(titles, ("customers", "customers", "draws"), strict=True)):
        axes[0, column].set_title(title)
        axes[1, column].set_xlabel(label)
        for row in range(2):
            _logarithmic(axes[row, column])
        axes[0, column].legend(fontsize=7, frameon=False)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("peak memory, GB")
    figure.suptitle("× : stopped by time, memory or an error", fontsize=8, x=0.99, ha="right")
    if drawn:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return drawn


def _logarithmic(axis: Any) -> None:
    """Logarithmic axes, at least a decade high, with plain numbers."""
    from matplotlib.ticker import NullFormatter

    axis.set(xscale="log", yscale="log")
    low, high = axis.get_ylim()
    spare = max(10 * low / high, 1.0) ** 0.5
    axis.set_ylim(low / spare, high * spare)
    for one, form in ((axis.xaxis, "{:,.0f}"), (axis.yaxis, "{:g}")):
        one.set_major_formatter(lambda value, _, form=form: form.format(value))
        one.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.25)


def _gb(result: Result) -> float:
    return result.peak_mb / 1000
