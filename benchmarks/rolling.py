"""Writes rolling comparisons into docs/rolling.md: ``python -m benchmarks.rolling FOLDER...``

Folders are those of ``clvmodels compare --rolling`` and of ``python -m benchmarks.growth``; the tables stand
between the markers ``rolling: begin`` and ``rolling: end``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "rolling.md"


def table(found: dict[str, Any], level: str) -> str:
    """Purchases at one level as Markdown: bias, CRPS and coverage by horizon."""
    rows = [r for r in found["table"] if r["measure"] == "orders" and r["level"] == level]
    horizons = list(dict.fromkeys(row["horizon"] for row in rows))
    at = {(row["variant"], row["horizon"]): row for row in rows}
    apart = {h: at[found["variants"][0], h] for h in horizons}
    heads = [f"{h} ({apart[h]['origins']} origins, {apart[h]['apart']} apart)" for h in horizons]
    lines = [f"| level {level} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in dict.fromkeys(row["variant"] for row in rows):
        cells = []
        for horizon in horizons:
            row = at[name, horizon]
            bias = f"{100 * row['bias']:+.1f} %".replace("-", "−")
            score = f"{100 * row['relative_crps']:.1f} %"
            mark = {"best": "**", "worse": "_"}.get(row["verdict"], "")
            cells.append(f"{bias}, {mark}{score}{mark}, {row['coverage_90']:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parts = []
    for folder in parser.parse_args().folders:
        found = json.loads((folder / "rolling.json").read_text(encoding="utf-8"))
        levels = [lv for lv in ("predictive", "systematic") if any(r["level"] == lv for r in found["table"])]
        said = "\n".join(f"- {s}" for s in found["sentences"] if s.startswith(("Purchases", "At the last")))
        parts.append(f"### {folder.name.replace('_', ' ')}")
        parts += [*(table(found, level) for level in levels), said.replace("\u00a0", " ")]
    text = PAGE.read_text(encoding="utf-8")
    start, end = "<!-- rolling: begin -->", "<!-- rolling: end -->"
    head, rest = text.split(start)
    tail = rest.split(end)[1]
    body = "\n\n".join(parts)
    PAGE.write_text(f"{head}{start}\n\n{body}\n\n{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
