"""Do segments with shocks of their own get better intervals on bundled logs?

A backtest with ``shocks.by`` scores each segment twice, on the same draws: with the part of its own beside
the shared shocks, and by the path of all customers alone. Online Retail is parted by market, since most of
its countries have too few purchases in a week; the sample of CDNOW by the size of the first order, near
the thirds of its customers.

    python -m benchmarks.validation segments    # writes the table of docs/validation.md
    python -m benchmarks.segments               # prints that of CDNOW's full cohort, every other origin
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels import run
from clvmodels.data import bundled_path

ROOT = Path(__file__).parents[1]
COLUMNS = "data.columns={customer: customer_id, date: date, amount: amount}"
WORDS = {"orders": "purchases", "revenue": "revenue"}
EDGES = (15, 32)
"""USD between small, middling and large first orders."""
LEVELS = ("shared", "systematic")
DRAWS = 1000
HORIZONS = "[4 weeks, 13 weeks, 26 weeks]"


def markets() -> Any:
    """Online Retail by whether the customer is British."""
    import pandas as pd

    rows = pd.read_parquet(bundled_path("online_retail"))
    return rows.assign(market=np.where(rows["country"] == "United Kingdom", "United Kingdom", "abroad"))


def first_orders(log: str) -> Any:
    """CDNOW by what was paid on the first day."""
    import pandas as pd

    rows = pd.read_parquet(bundled_path(log))
    days = rows.groupby(["customer_id", "date"])["amount"].sum().astype(float)
    paid = days.groupby("customer_id").first().reindex(rows["customer_id"]).to_numpy()
    low, high = EDGES
    names = [f"below {low} USD", f"{low} to {high} USD"]
    return rows.assign(first_order=np.select([paid < low, paid < high], names, f"{high} USD and more"))


Log = tuple[str, str, Callable[[], Any], tuple[str, ...]]
"""Config, segment column, rows, changes of the config."""
LOGS: dict[str, Log] = {
    "Online Retail": ("online_retail.yaml", "market", markets, ()),
    "CDNOW, 1/10 sample": ("cdnow.yaml", "first_order", partial(first_orders, "cdnow_sample"), ()),
}
LARGE: dict[str, Log] = {
    "CDNOW, full cohort": (
        "cdnow.yaml",
        "first_order",
        partial(first_orders, "cdnow"),
        ("validation.every=8 weeks",),
    )
}


def page(cache: Path, logs: Mapping[str, Log] = LOGS) -> str:
    """Purchases of every segment by the shared path and with shocks of its own, and what all of them say."""
    head = "| log | segment | horizon | origins | apart | 90 %: shared | own | rms z: shared | own |"
    lines = [f"{head} CRPS: shared | own | width: shared | own |", "|" + "---|" * 13]
    notes = []
    for title, (config, by, read, more) in logs.items():
        changes = ["data.source=null", COLUMNS, f"data.segments=[{by}]", f"shocks.by={by}"]
        changes += [f"fit.draws={DRAWS}", f"validation.horizons={HORIZONS}", *more]
        found = run.backtest(ROOT / "configs" / config, read(), cache=cache, overrides=changes)
        rows: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
        for row in found.summary["coverage"]:
            if row["column"] == by and row["measure"] == "orders" and row["level"] in LEVELS:
                place = row["group"], row["horizon"]
                rows.setdefault(place, {})[row["level"]] = row
        for key, levels in rows.items():
            shared, own = levels["shared"], levels["systematic"]
            cells = [title, *key, str(own["origins"]), str(own["separate"])]
            for name, style in (
                ("coverage_90", ".2f"), ("rms_z", ".2f"), ("relative_crps", ".1%"), ("width_90", ".0%")
            ):  # fmt: skip
                cells += [format(row[name], style).replace("%", " %") for row in (shared, own)]
            lines.append("| " + " | ".join(cells) + " |")
        notes.append(f"- {title}: {together(found)}")
    return "\n".join([*lines, "", *notes])


def together(found: run.BacktestResult) -> str:
    """What all segments and horizons of a log say, and how large their own shocks were found to be."""
    parts = [(origin.weather or {}).get("segments", {}) for origin in found.backtest.scored]
    told = [part for part in parts if "shock" in part]
    shock, step = ([100 * part[name]["mean"] for part in told] for name in ("shock", "step"))
    sizes = (
        f"own shocks were told at {len(told)} of {len(parts)} origins, of {min(shock):.0f} to "
        f"{max(shock):.0f} % a week and a drift of {min(step):.1f} to {max(step):.1f} % a week "
        "(posterior means)"
    )
    changes = {
        word: ", ".join(
            f"{row['horizon']} {100 * row['crps']:+.1f} %".replace("-", "−")
            for row in found.summary["shocks"]["changes"]
            if row["measure"] == measure
        )
        for measure, word in WORDS.items()
    }
    said = "; of ".join(f"{word} {some}" for word, some in changes.items())
    return f"{sizes}. Mean CRPS over segments changed by them, of {said}."


def main() -> int:
    warnings.simplefilter("ignore")
    print(page(ROOT / "runs" / "validation" / "segments.cache", LARGE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
