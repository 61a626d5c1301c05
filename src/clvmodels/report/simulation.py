"""Simulation-based calibration: the table, and the figure of ranks."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels.validate.simulation import WRONG_ON_PURPOSE, ecdf, uniform_band

PROBABILITY = 0.99
"""Of the band, shared among the quantities of a pair: a right program leaves one in a hundred."""


def build(
    ranks: Mapping[str, Mapping[str, np.ndarray]], converged: Mapping[str, int], **settings: Any
) -> dict[str, Any]:
    """The content of ``calibration.json``."""
    pairs = {}
    for name, quantities in ranks.items():
        uniform = [q for q in quantities if q not in WRONG_ON_PURPOSE]
        fits = len(next(iter(quantities.values())))
        limit = uniform_band(fits, 1 - (1 - PROBABILITY) / len(uniform))[1]
        found = {q: _row(r, limit if q in uniform else None) for q, r in quantities.items()}
        pairs[name] = {
            "fits": fits,
            "converged": converged[name],
            "limit": limit,
            "passed": all(found[q]["passed"] for q in uniform),
            "quantities": found,
        }
    return {"schema": 1, "probability": PROBABILITY, **settings, "pairs": pairs}


def _row(ranks: np.ndarray, limit: float | None) -> dict[str, Any]:
    from clvmodels.validate.simulation import departure

    found = departure(ranks)
    inside = {f"coverage_{share}": float((np.abs(ranks - 0.5) < share / 200).mean()) for share in (50, 90)}
    return {
        "departure": found,
        "passed": None if limit is None else found <= limit,
        **inside,
        "mean_rank": float(ranks.mean()),
    }


def write(folder: Path, table: Mapping[str, Any], ranks: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """``calibration.json``, ``calibration.csv``, ``calibration.svg``."""
    from clvmodels.report import figures

    (folder / "calibration.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    with (folder / "calibration.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["pair", "quantity", "fits", "departure", "limit", "passed", "coverage_50", "coverage_90"]
        )
        for name, pair in table["pairs"].items():
            for quantity, row in pair["quantities"].items():
                numbers = (f"{row[k]:.4f}" for k in ("coverage_50", "coverage_90"))
                writer.writerow(
                    [name, quantity, pair["fits"], f"{row['departure']:.3f}", f"{pair['limit']:.3f}",
                     row["passed"], *numbers]
                )  # fmt: skip
    drawn = figure(ranks)
    (folder / "calibration.svg").write_text(figures.svg(drawn), encoding="utf-8")
    drawn.savefig(folder / "calibration.png", dpi=120)


def figure(ranks: Mapping[str, Mapping[str, np.ndarray]]) -> Any:
    """Standardised difference of each quantity's ranks from uniform ones, one panel a pair.

    A line inside the band is what a right program shows with 99 % probability. ∪ shapes of the
    ranks' histogram (intervals too narrow) fall first and then rise here; ∩ shapes the reverse.
    """
    import matplotlib.pyplot as plt

    from clvmodels.report.figures import GREY, INK, MODEL

    columns = min(3, len(ranks))
    rows = -(-len(ranks) // columns)
    drawn, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.3 * rows), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for ax in axes.flat[len(ranks) :]:
        ax.set_axis_off()
    for ax, (name, quantities) in zip(axes.flat, ranks.items(), strict=False):
        uniform = {q: r for q, r in quantities.items() if q not in WRONG_ON_PURPOSE}
        fits = len(next(iter(uniform.values())))
        grid, limit = uniform_band(fits, 1 - (1 - PROBABILITY) / len(uniform))
        half = limit * np.sqrt(grid * (1 - grid) / fits)
        ax.fill_between(grid, -half, half, color=GREY, alpha=0.2, lw=0)
        for r in uniform.values():
            ax.plot(grid, ecdf(r, grid) - grid, color=MODEL, lw=0.8, alpha=0.8)
        for q in WRONG_ON_PURPOSE:
            if q in quantities:
                ax.plot(grid, ecdf(quantities[q], grid) - grid, color=INK, lw=0.9, ls=(0, (2, 1.6)))
        ax.axhline(0, color=INK, lw=0.5)
        ax.set_title(f"{name}, {fits} fits", fontsize=8)
    drawn.supxlabel("rank of the truth among the draws", fontsize=8)
    drawn.supylabel("share of ranks below, less uniform", fontsize=8)
    return drawn
