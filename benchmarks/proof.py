"""Writes the proof by simulation into docs/validation.md: ``python -m benchmarks.proof FOLDER...``

Folders are those of ``clvmodels sbc``. The table stands between the markers ``sbc: begin`` and ``sbc: end``,
the figure of the first folder in ``docs/figures/sbc.svg``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
NOMINAL = 0.90


def rows(table: dict[str, Any]) -> list[str]:
    """One line of Markdown for each pair of families."""
    from clvmodels.validate.backtest import band

    out = []
    for name, pair in table["pairs"].items():
        found = pair["quantities"]
        ranked = {q: row["departure"] for q, row in found.items() if row["passed"] is not None}
        worst = max(ranked, key=lambda q: ranked[q])
        limits = band(pair["fits"], NOMINAL)
        assert limits is not None
        failed = [q for q, row in found.items() if row["passed"] is False]
        out.append(
            f"| {name} | {table['sampler']} | {pair['fits']} | {pair['converged']} | {len(ranked)} | "
            f"{ranked[worst]:.2f} of {pair['limit']:.2f}: {worst.replace(':', ' ')} | "
            f"{', '.join(failed) or 'none'} | {found['orders']['coverage_90']:.3f} "
            f"[{limits[0]:.3f}, {limits[1]:.3f}] | {found['orders_expected']['coverage_90']:.3f} |"
        )
    return out


HEADER = (
    "| families | sampler | fits | converged | quantities | largest departure of its limit | not uniform | "
    "90 % of holdout total, predictive | the same, expected |\n|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    asked = parser.parse_args()
    lines = [HEADER]
    for folder in asked.folders:
        lines += rows(json.loads((folder / "calibration.json").read_text(encoding="utf-8")))
    page = DOCS / "validation.md"
    text = page.read_text(encoding="utf-8")
    start, end = "<!-- sbc: begin -->", "<!-- sbc: end -->"
    head, rest = text.split(start)
    tail = rest.split(end)[1]
    block = "\n".join(lines)
    page.write_text(f"{head}{start}\n{block}\n{end}{tail}", encoding="utf-8")
    figure = (asked.folders[0] / "calibration.svg").read_text(encoding="utf-8")
    (DOCS / "figures" / "sbc.svg").write_text(figure, encoding="utf-8")


if __name__ == "__main__":
    main()
