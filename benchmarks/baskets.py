"""Firms whose baskets grow or move with purchases, and firms whose baskets do not: how should shared shocks
of baskets be read?

Customers of a simulated firm come over a year and buy by BG/NBD; a basket is gamma around the customer's
own mean (inverse gamma), times a level that all share: exp(g t) with a yearly rate g, and an AR(1) shock.
Where they are asked for, customers who buy often have large baskets, or those who come later smaller ones;
purchases have shocks too, which baskets follow, or which fall on those with large baskets above all.
The firm is backtested at one origin, after a year, by the pipeline that users have. Then revenue is forecast
four ways from the same record: with the mean basket of all orders of a week (*all orders*), with the level
of baskets within customers (*within customers*), with the passing shocks of the one and the drift of the
other (*both*), and so that baskets may follow the passing shocks of purchases (*both, tied*, which is built
in). Of bundled logs the origins of their backtests are forecast the same ways.

    python -m benchmarks.baskets
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels import run
from clvmodels.errors import ConvergenceError
from clvmodels.fit import shocks
from clvmodels.models import registry
from clvmodels.validate import systematic
from clvmodels.validate.backtest import Backtest, Origin, score

FIRMS = {
    "steady": {},
    "steady, frequent buyers have large baskets": {"dependence": 0.6},
    "steady, newcomers have smaller baskets": {"newcomers": 0.2},
    "grows 20 % a year": {"growth": 0.2},
    "grows 20 % a year, newcomers have smaller baskets": {"growth": 0.2, "newcomers": 0.2},
    "promotions, baskets larger": {"weather": 0.2, "follow": 0.4},
    "promotions, baskets smaller": {"weather": 0.2, "follow": -0.4},
    "promotions for large baskets": {"weather": 0.2, "choosy": 0.5},
    "promotions, baskets as ever": {"weather": 0.2},
}
"""What a firm's baskets do, on the log and a year; ``dependence`` is a correlation of normal scores,
``weather`` the sd of shocks of purchases, ``follow`` the slope of baskets on them, ``choosy`` how much more a
shock moves customers whose mean basket's logarithm is one sd higher."""
HORIZONS = (4, 13, 26, 51)
WINDOW = 52
WORLDS = 12
CUSTOMERS = 2500
PURCHASES = {"r": 0.5, "alpha": 6.0, "a": 0.5, "b": 3.0}
WITHIN, BETWEEN, MEAN = 5.0, 4.0, 40.0
"""p and q of Gamma-Gamma, and customers' mean basket."""
SHOCK, PERSISTENCE = 0.1, 0.3
FIRST = np.datetime64("2020-01-01")


def shock(rng: np.random.Generator, size: float, weeks: int) -> np.ndarray:
    """An AR(1) of sd ``size``, shape (week,)."""
    out = size * rng.standard_normal(weeks)
    for t in range(1, weeks):
        out[t] = PERSISTENCE * out[t - 1] + np.sqrt(1 - PERSISTENCE**2) * out[t]
    return out


def firm(
    seed: int,
    growth: float = 0.0,
    dependence: float = 0.0,
    newcomers: float = 0.0,
    weather: float = 0.0,
    follow: float = 0.0,
    choosy: float = 0.0,
) -> Any:
    """The log of a firm, a year to the origin and a year after it."""
    import pandas as pd
    from scipy.stats import gamma, norm

    rng = np.random.default_rng(seed)
    weeks = WINDOW + max(HORIZONS) + 1
    born = rng.integers(0, 7 * (WINDOW - 2), CUSTOMERS)
    theta = PURCHASES
    rate = rng.gamma(theta["r"], 1 / theta["alpha"], CUSTOMERS)
    leaves = rng.beta(theta["a"], theta["b"], CUSTOMERS)
    often = norm.ppf(np.clip(gamma.cdf(rate, theta["r"], scale=1 / theta["alpha"]), 1e-6, 1 - 1e-6))
    normal = dependence * often + np.sqrt(1 - dependence**2) * rng.standard_normal(CUSTOMERS)
    level, moves = shock(rng, SHOCK, weeks), shock(rng, weather, weeks)
    # Everybody's clock runs at the week's intensity: purchases are Poisson on it.
    pace = np.exp(np.outer(1 + choosy * normal, moves))
    clock = np.column_stack([np.zeros(CUSTOMERS), pace.cumsum(axis=1)])

    def read(who: np.ndarray, time: np.ndarray) -> np.ndarray:
        week = np.minimum(time.astype(int), weeks - 1)
        return clock[who, week] + (time - week) * pace[who, week]

    def unread(who: np.ndarray, shown: np.ndarray) -> np.ndarray:
        week = np.minimum((clock[who, 1:] <= shown[:, None]).sum(axis=1), weeks - 1)
        return week + (shown - clock[who, week]) / pace[who, week]

    who, day = [np.arange(CUSTOMERS)], [born]
    time, there = born / 7, np.arange(CUSTOMERS)
    while len(there):
        shown = read(there, time) + rng.exponential(1 / np.maximum(rate[there], 1e-9))
        time = unread(there, shown)
        there, time = there[time < weeks], time[time < weeks]
        who.append(there)
        day.append(np.ceil(7 * time).astype(int))
        stays = rng.random(len(there)) >= leaves[there]
        there, time = there[stays], time[stays]
    owner, when = np.concatenate(who), np.concatenate(day)
    owner, when = owner[when < 7 * weeks], when[when < 7 * weeks]
    mean = MEAN * (BETWEEN - 1) / gamma.ppf(norm.cdf(-normal), BETWEEN)
    mean *= np.exp(-newcomers * born / 7 / shocks.YEAR)
    shared = np.exp(growth * when / 7 / shocks.YEAR + (level + follow * moves)[when // 7])
    amount = mean[owner] * shared * rng.gamma(WITHIN, 1 / WITHIN, len(owner))
    date = FIRST + when.astype("timedelta64[D]")
    return pd.DataFrame({"customer": owner.astype(str), "date": date, "amount": amount.round(2) + 0.01})


def study(about: str, cache: Path | None = None) -> list[Backtest]:
    """Firms of one kind, each backtested at one origin."""
    origin = FIRST + np.timedelta64(7 * WINDOW - 1, "D")
    config = {
        "name": "firm",
        "data": {"columns": {"customer": "customer", "date": "date", "amount": "amount"}},
        "models": {"purchases": {"family": "bg_nbd"}, "spend": {"family": "gamma_gamma"}},
        "fit": {"draws": 1000},
        "value": {"margin": 0.3, "annual_discount_rate": 0.1},
        "validation": {"origins": [str(origin)], "horizons": [f"{h} weeks" for h in HORIZONS]},
    }
    found, first = [], 1000 * list(FIRMS).index(about)
    for seed in range(first, first + WORLDS):
        try:
            done = run.backtest(config, firm(seed, **FIRMS[about]), cache=cache)
        except ConvergenceError:
            continue
        found.append(done.backtest)
    return found


def readings(
    origin: Origin, orders: shocks.Shocks, draws: int, seed: int
) -> Iterator[tuple[str, shocks.Shocks | str | None]]:
    """The ways of reading baskets from the weeks that an origin keeps; no model is fitted again."""
    data, described = origin.data, (origin.parameters or {})["spend"]
    count, paid = data["window_orders"].values, data["window_revenue"].values
    family = registry.spend(described["family"])
    wild = systematic.variation(family, list(described["mean"].values()), origin.date.toordinal()).total
    every = systematic.of_weeks(count, paid, wild)
    passing = shocks.estimate(every, draws, seed)
    yield "all orders", passing
    if "window_level" not in data:
        return
    level = data["window_level"].values
    within = shocks.Ratios(
        observed=level,
        expected=np.ones(len(level)),
        noise=data["window_level_noise"].values,
        anchor=data["window_anchor"].values,
    )
    lasting = shocks.estimate(within, draws, seed)
    yield "within customers", lasting
    if isinstance(passing, shocks.Shocks) and isinstance(lasting, shocks.Shocks):
        yield "both", passing.drifting(lasting)
    tied = replace(every, leader=orders.passing)
    yield "both, tied", systematic.of_baskets(tied, within, draws, seed)


Scores = list[tuple[str, str, dict[str, Any]]]
"""Way, horizon, score."""


def forecasts(origin: Origin, seed: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """:data:`Scores` of an origin's revenue."""
    data = origin.data
    draws, later = data.sizes["draw"], data["later_expected_revenue"].values.mean(axis=0)
    expected = data["window_expected_orders"].values.mean(axis=0)
    counts = shocks.Ratios.of_counts(data["window_orders"].values, expected)
    orders = shocks.estimate(counts, draws, seed)
    if isinstance(orders, str):
        return
    until = [max(1, -(-int(steps) // 7)) for steps in data["steps"].values]
    for name, found in readings(origin, orders, draws, seed + 1):
        if not isinstance(found, shocks.Shocks):
            continue
        baskets = found.path(len(later), seed + 1) * found.following(orders, len(later), seed)
        factor = systematic.factors(orders.path(len(later), seed) * baskets, later, until)
        for k, label in enumerate(origin.horizons):
            at = {"measure": "revenue", "horizon": label}
            drawn = data["total"].sel(level="predictive", **at).values * factor[k]
            yield name, label, score(drawn, float(data["actual"].sel(**at)))


def scores(backtests: list[Backtest]) -> Scores:
    """Of all origins, each with draws of its own."""
    origins = [origin for one in backtests for origin in one.scored]
    return [row for k, o in enumerate(origins) for row in forecasts(o, o.date.toordinal() + k)]


def summed(found: Scores, about: str) -> list[dict[str, Any]]:
    """Coverage, rms z, CRPS and bias by horizon and way."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, label, row in found:
        rows.setdefault((label, name), []).append(row)
    out = []
    for (label, name), some in sorted(rows.items(), key=lambda item: int(item[0][0].split()[0])):
        truth, mean = (np.mean([row[key] for row in some]) for key in ("actual", "mean"))
        out.append(
            {
                "of": about,
                "horizon": label,
                "way": name,
                "forecasts": len(some),
                "90": float(np.mean([r["inside_90"] for r in some])),
                "rms z": float(np.sqrt(np.mean([r["z"] ** 2 for r in some]))),
                "CRPS": float(np.mean([r["crps"] for r in some]) / truth),
                "bias": float(truth / mean - 1),
            }
        )
    return out


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each horizon of a kind, a column for each way."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = ["| " + " | ".join(["", "horizon", "forecasts", *ways]) + " |", "|" + "---|" * (3 + len(ways))]
    for (of, horizon), some in groupby(rows, key=lambda row: (row["of"], row["horizon"])):
        cells = {}
        for row in some:
            inside = "1" if row["90"] == 1 else f"{row['90']:.2f}".lstrip("0")
            shares = f"{100 * row['CRPS']:.1f} %, {100 * row['bias']:+.1f} %".replace("-", "−")
            cells[row["way"]] = f"{inside}, {row['rms z']:.2f}, {shares}"
        lines.append("| " + " | ".join([of, horizon, str(row["forecasts"]), *cells.values()]) + " |")
    return "\n".join(lines)


def page(logs: dict[str, Path], cache: Path | None = None) -> str:
    """Simulated firms, and revenue of backtests that lie in folders."""
    found = {about: scores(study(about, cache)) for about in FIRMS}
    found["all firms"] = [row for some in found.values() for row in some]
    found |= {title: scores([Backtest.load(path)]) for title, path in logs.items()}
    return table([row for about, some in found.items() for row in summed(some, about)])


if __name__ == "__main__":
    print(page({}))
