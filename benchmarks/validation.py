"""The numbers of docs/validation.md: backtests of bundled data, and data whose truth is known.

    python -m benchmarks.validation             # everything; make validation does the same
    python -m benchmarks.validation online_retail donations

Each part is written between its marks in docs/validation.md. Finished origins are kept in
``runs/validation``, so that a run that was stopped goes on. Baskets take a quarter of an hour of one core,
the full cohort five minutes, the other parts one to three each.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import baskets, mix, segments
from benchmarks.tables import write
from clvmodels import run
from clvmodels.artifacts import interval
from clvmodels.errors import ConvergenceError
from clvmodels.validate import backtest as testing

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "validation.md"
RUNS = ROOT / "runs" / "validation"
WORDS = {"orders": "purchases", "revenue": "revenue"}
PERCENTS = [f"{100 * p:.0f}" for p in testing.PROBABILITIES]

# --- bundled logs --------------------------------------------------------------------------------


def logs(name: str, config: str, *changes: str) -> Callable[[], str]:
    """A part that backtests a config."""

    def made() -> str:
        found = run.backtest(
            ROOT / "configs" / config, out=RUNS / name, overwrite=True, overrides=[*changes, f"name={name}"]
        ).summary
        return "\n\n".join(
            [covered(found["coverage"]), remaining(found), *(f"- {s}" for s in told(found))]
        ).replace("\n\n- ", "\n- ")

    return made


def covered(rows: list[Mapping[str, Any]], levels: tuple[str, ...] = ("predictive", "systematic")) -> str:
    """Markdown of coverage rows of totals, levels one below the other."""
    head = ("horizon", "of", "level", "origins", "apart", *(f"{p} %" for p in PERCENTS))
    head += ("band of 90 %", "rms z", "bias", "CRPS", "width", "log score")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    wanted = [r for r in rows if not r["column"] and r["measure"] in WORDS and r["level"] in levels]
    for row in wanted:
        low, high = row["band_90"] or (None, None)
        cells = [row["horizon"], WORDS[row["measure"]], row["level"], row["origins"], row["separate"]]
        cells += [share(row[f"coverage_{p}"]) for p in PERCENTS]
        cells += [f"{share(low)} to {share(high)}", fixed(row["rms_z"])]
        cells += [percent(row[name]) for name in ("bias", "relative_crps", "width_90")]
        cells.append(fixed(row["log_score"]))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def remaining(table: Mapping[str, Any]) -> str:
    """The error that remains, and what came of using it out of sample."""
    found = table["calibrated"]

    def spread(block: Mapping[str, Any]) -> str:
        return f"{percent(block['mean'])} ({' to '.join(map(percent, block['interval_90']))})"

    parts = [
        f"{WORDS[e['measure']]} at {e['horizon']}, {e['used']['value']} origins apart, "
        f"bias {spread(e['bias'])}, scale {spread(e['scale'])}"
        for e in found["estimates"]
        if e["estimable"] and e["measure"] in WORDS
    ]
    said = "; ".join(parts) or "not estimable"
    rest = f" Not estimable elsewhere: {found['reason']}." if parts and found["reason"] else ""
    out = f"Error that remains after level {found['base']}, mean and 90 % interval: {said}.{rest}"
    if table["calibration"]:
        levels = (found["base"], "calibrated", "moved")
        out += " Out of sample, on the origins that five known outcomes precede:\n\n"
        out += covered(table["calibration"], levels)
    return out


def told(table: Mapping[str, Any]) -> list[str]:
    """Sentences of the backtest on rules and rankings, and its checks of stability."""
    known = [s for s in table["sentences"] if "naive rule" in s.lower() or "RANKING" in s]
    return [*known, *(check["sentence"] for check in table["checks"])]


def share(value: float | None) -> str:
    if value is None:
        return "–"
    return "1" if value == 1 else f"{value:.2f}".lstrip("0") if value else "0"


def fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %".replace("-", "−")


# --- donations: published outcomes ---------------------------------------------------------------


def donations() -> str:
    """Gifts of 2002 to 2006 by the number of gifts before, against what was published of them."""
    from clvmodels.value import horizons as ahead
    from clvmodels.value import valuation

    block = json.loads((ROOT / "tests" / "reference" / "published.json").read_text())["BGBB_donations"]
    found = run.fit(ROOT / "configs" / "donations.yaml")
    count = np.asarray(found.data["frequency"]).astype(int)
    groups = np.column_stack([np.zeros_like(count), 1 + count])
    assert found.assumptions is not None
    one = valuation(found.data, found.draws, found.assumptions, 1)
    drawn = ahead.simulated(one, [5.0], groups, int(groups.max()) + 1).predictive[0, :, 0]
    table = block["holdout5_by_frequency"]
    sizes = np.array(table["n"])
    actual = np.rint(np.array(table["actual"]) * sizes)
    if not np.array_equal(np.bincount(count), sizes):
        raise ValueError("the bundled donors are not those of the published table")
    lines = ["| gifts 1996 to 2001 | donors | gifts 2002 to 2006 | expected | 90 % predictive | inside |"]
    lines.append("|" + "---|" * 6)
    for label, size, came, draws in [
        *zip(map(str, range(len(sizes))), sizes, actual, drawn[1:], strict=True),
        ("all", sizes.sum(), actual.sum(), drawn[0]),
    ]:
        low, high = interval(draws, 0.90)
        lines.append(
            f"| {label} | {size:,} | {came:,.0f} | {draws.mean():,.0f} | {low:,.0f} to {high:,.0f} | "
            f"{'yes' if low <= came <= high else '**no**'} |"
        )
    return "\n".join(lines)


# --- simulated: a true model ---------------------------------------------------------------------

WORLDS, CUSTOMERS, SEEN, LATER = 20, 500, 39, 26
THETA = {"r": 0.5, "alpha": 6.0, "a": 0.8, "b": 2.4}
SPEND = {"p": 6.25, "q": 3.74, "gamma": 15.44}


def log(seed: int) -> Any:
    """Customers who follow the models exactly, but that their purchases fall on days."""
    import pandas as pd

    from clvmodels.models import registry

    rng = np.random.default_rng(seed)
    born = rng.integers(0, 7 * 13, CUSTOMERS)
    end = 7 * (SEEN + LATER)
    path = registry.purchases("bg_nbd").simulate(THETA, (end - born) / 7, rng)
    day = born[path.customer] + np.ceil(7 * path.time).astype(int)
    kept = day < end
    who = np.concatenate([np.arange(CUSTOMERS), path.customer[kept]])
    order = np.lexsort((np.concatenate([born, day[kept]]), who))
    who, day = who[order], np.concatenate([born, day[kept]])[order]
    amount = registry.spend("gamma_gamma").simulate(SPEND, np.bincount(who), rng).amount
    when = np.datetime64("2020-01-01") + day.astype("timedelta64[D]")
    return pd.DataFrame({"customer": who.astype(str), "date": when, "amount": amount.round(2)})


def simulated() -> str:
    """Coverage over worlds, each fitted once: independent, so that the band needs no allowance."""
    origin = np.datetime64("2020-01-01") + np.timedelta64(7 * SEEN - 1, "D")
    config = {
        "name": "simulated",
        "data": {"columns": {"customer": "customer", "date": "date", "amount": "amount"}},
        "models": {"purchases": {"family": "bg_nbd"}, "spend": {"family": "gamma_gamma"}},
        "fit": {"draws": 1000},
        "value": {"margin": 0.3, "annual_discount_rate": 0.1},
        "validation": {"origins": [str(origin)], "horizons": ["4 weeks", "13 weeks", "25 weeks"]},
    }
    rows: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    left = 0
    for seed in range(WORLDS):
        try:
            found = run.backtest(config, log(seed), cache=RUNS / "simulated.cache")
        except ConvergenceError:
            left += 1
            continue
        for row in found.backtest.rows("scores"):
            if not row["column"] and row["measure"] in WORDS:
                rows.setdefault((row["horizon"], row["measure"], row["level"]), []).append(row)
    low, high = testing.band(WORLDS - left, 0.9) or (0.0, 1.0)
    lines = [f"| horizon | of | level | {' | '.join(f'{p} %' for p in PERCENTS)} | rms z |", "|" + "---|" * 8]
    for (horizon, measure, level), some in rows.items():
        if level in ("expected", "predictive", "systematic"):
            cells = [share(float(np.mean([r[f"inside_{p}"] for r in some]))) for p in PERCENTS]
            z = fixed(float(np.sqrt(np.mean([r["z"] ** 2 for r in some]))))
            lines.append(f"| {horizon} | {WORDS[measure]} | {level} | {' | '.join(cells)} | {z} |")
    note = (
        f"{WORLDS - left} data sets of {CUSTOMERS} customers, {SEEN} weeks seen ({left} more failed the "
        f"gate); with so many, intervals of 90 % that hold cover {share(low)} to {share(high)} 19 times "
        "in 20."
    )
    return "\n".join(lines) + f"\n\n{note}"


PARTS: dict[str, Callable[[], str]] = {
    "cdnow_sample": logs("cdnow_sample", "cdnow.yaml"),
    "cdnow_full": logs("cdnow_full", "cdnow.yaml", "data.source=cdnow"),
    "online_retail": logs("online_retail", "online_retail.yaml"),
    "donations": donations,
    "simulated": simulated,
    "segments": lambda: segments.page(RUNS / "segments.cache"),
    "mix": mix.page,
    "baskets": lambda: baskets.page(
        {
            title: RUNS / name / "backtest.nc"
            for title, name in (
                ("CDNOW, 1/10 sample", "cdnow_sample"),
                ("CDNOW, full cohort", "cdnow_full"),
                ("Online Retail", "online_retail"),
            )
            if (RUNS / name / "backtest.nc").exists()
        },
        RUNS / "baskets.cache",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all of them where none is named")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    RUNS.mkdir(parents=True, exist_ok=True)
    for name in options.parts or PARTS:
        print(name, flush=True)
        write(options.page, name, PARTS[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
