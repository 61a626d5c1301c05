"""Firms whose baskets grow: would a damped trend make the shared shocks cover?

The mean basket of a simulated firm follows exp(g t) with a yearly rate g, an AR(1)
shock and the chance of its orders; a year is seen, and the mean factor of the weeks that follow is forecast
twice: by the shocks as they are (a drift that is taken back), and with a linear trend as one more regressor
(prior sd 20 % a year), damped beyond the data with a half-life of 26 weeks. Scored: the mean basket of the
weeks ahead over that of the window. Of a backtest, the revenue of its origins is forecast both ways.

    python -m benchmarks.baskets
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clvmodels.fit import shocks
from clvmodels.models import registry
from clvmodels.validate import systematic
from clvmodels.validate.backtest import PROBABILITIES, Backtest, score

RATES = (0.0, 0.2, 0.4)
"""Growth of the mean basket a year, on the log."""
HORIZONS = (4, 13, 26, 52)
WINDOW = 52
WORLDS = 30
DRAWS = 200
ORDERS = 150
"""Orders a week."""
VARIATION = 1.0
"""Coefficient of variation of one basket."""
SHOCK, PERSISTENCE = 0.1, 0.3
PERCENTS = [f"{100 * p:.0f}" for p in PROBABILITIES]
SLOPE = 0.2
"""Prior sd of the trend, log a year."""
DAMPED = 26.0
"""Weeks in which half of the trend is lost."""


def world(rate: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """True mean basket and observed mean basket by week, window and the weeks after it."""
    weeks = WINDOW + max(HORIZONS)
    a = np.empty(weeks)
    a[0] = SHOCK * rng.standard_normal()
    for t in range(1, weeks):
        a[t] = PERSISTENCE * a[t - 1] + SHOCK * np.sqrt(1 - PERSISTENCE**2) * rng.standard_normal()
    true = 40 * np.exp(rate * np.arange(weeks) / shocks.YEAR + a - SHOCK**2 / 2)
    shape = ORDERS / VARIATION**2
    return true, true * rng.gamma(shape, 1 / shape, weeks)


def trend(window: int, later: int, weight: np.ndarray) -> np.ndarray:
    """The regressor, shape (week, 1): linear in the window with weighted mean 0, damped after it, in units
    of its prior."""
    inside = np.arange(window) - np.average(np.arange(window), weights=weight)
    kept = 0.5 ** (1 / DAMPED)
    beyond = inside[-1] + np.cumsum(kept ** np.arange(1, later + 1))
    return (np.concatenate([inside, beyond]) / shocks.YEAR * SLOPE / shocks.EVENT)[:, None]


def study(rate: float, seed: int) -> list[dict[str, Any]]:
    """One row per model and horizon."""
    rng = np.random.default_rng([seed, round(100 * rate)])
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    sloped = trend(WINDOW, max(HORIZONS), np.ones(WINDOW))
    for k in range(WORLDS):
        _, seen = world(rate, rng)
        window = seen[:WINDOW]
        for name, extra in (("as it is", None), ("damped trend", sloped)):
            found = shocks.estimate(
                shocks.Ratios(
                    observed=window, expected=np.full(WINDOW, window.mean()),
                    noise=np.full(WINDOW, VARIATION**2 / ORDERS), events=extra,
                ),
                DRAWS, k,
            )  # fmt: skip
            if isinstance(found, str):
                raise ValueError(found)
            path = found.path(max(HORIZONS), k)
            noise = np.random.default_rng(k).gamma(ORDERS, 1 / ORDERS, path.shape)
            for h in HORIZONS:
                truth = seen[WINDOW : WINDOW + h].mean() / window.mean()
                rows.setdefault((name, h), []).append(score((path * noise)[:, :h].mean(axis=1), truth))
    about = f"growth of {100 * rate:.0f} % a year"
    return [
        summed(some) | {"model": name, "horizon": f"{h} weeks", "of": about}
        for (name, h), some in rows.items()
    ]


def on_a_log(path: Path) -> list[dict[str, Any]]:
    """The same two forecasts of a backtest's revenue, from the weeks that its origins keep; nothing is
    fitted again."""
    backtest = Backtest.load(path)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for origin in backtest.scored:
        data, described = origin.data, (origin.parameters or {})["spend"]
        count, paid = data["window_orders"].values, data["window_revenue"].values
        expected = data["window_expected_orders"].values.mean(axis=0)
        later = data["later_expected_revenue"].values.mean(axis=0)
        draws, seed = data.sizes["draw"], origin.date.toordinal()
        family = registry.spend(described["family"])
        wild = systematic.variation(family, list(described["mean"].values()), seed).total
        mean = np.divide(paid, count, out=np.zeros(len(count)), where=count > 0)
        noise = np.full(len(count), np.inf)
        known = (count >= shocks.LEAST) & (mean > 0)
        noise[known] = np.maximum(wild**2 / count[known], systematic.FLOOR)
        orders = shocks.estimate(shocks.Ratios.of_counts(count, expected), draws, seed)
        extra = trend(len(count), len(later), np.where(known, 1 / (noise + 0.04), 0.0))
        for name, columns in (("as it is", None), ("damped trend", extra)):
            usual = np.full(len(count), paid.sum() / count.sum())
            found = shocks.estimate(
                shocks.Ratios(observed=mean, expected=usual, noise=noise, events=columns), draws, seed + 1
            )
            if isinstance(found, str) or isinstance(orders, str):
                continue
            path_ahead = orders.path(len(later), seed) * found.path(len(later), seed + 1)
            until = [max(1, -(-int(steps) // 7)) for steps in data["steps"].values]
            factor = systematic.factors(path_ahead, later, until)
            for k, label in enumerate(origin.horizons):
                at = {"measure": "revenue", "horizon": label}
                drawn = data["total"].sel(level="predictive", **at).values * factor[k]
                rows.setdefault((name, label), []).append(score(drawn, float(data["actual"].sel(**at))))
    return [summed(some) | {"model": name, "horizon": label} for (name, label), some in rows.items()]


def summed(some: list[dict[str, Any]]) -> dict[str, Any]:
    """Coverage, rms z, sharpness and bias of scored forecasts."""
    truth, mean = (np.mean([row[name] for row in some]) for name in ("actual", "mean"))
    return {
        **{p: float(np.mean([r[f"inside_{p}"] for r in some])) for p in PERCENTS},
        "forecasts": len(some),
        "rms z": float(np.sqrt(np.mean([r["z"] ** 2 for r in some]))),
        "CRPS": float(np.mean([r["crps"] for r in some]) / truth),
        "width": float(np.mean([r["high_90"] - r["low_90"] for r in some]) / mean),
        "bias": float(truth / mean - 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = (
        "",
        "horizon",
        "shocks",
        "forecasts",
        *(f"{p} %" for p in PERCENTS),
        "rms z",
        "CRPS",
        "width",
        "bias",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        shares = [f"{row[name]:.2f}".lstrip("0") for name in PERCENTS]
        tail = [f"{100 * row[name]:.1f} %".replace("-", "−") for name in ("CRPS", "width", "bias")]
        cells = [row["of"], row["horizon"], row["model"], str(row["forecasts"]), *shares]
        lines.append("| " + " | ".join([*cells, f"{row['rms z']:.2f}", *tail]) + " |")
    return "\n".join(lines)


def page(logs: dict[str, Path]) -> str:
    """Simulated firms, and revenue of backtests that lie in folders."""
    rows = [row for rate in RATES for row in study(rate, 1)]
    for title, path in logs.items():
        rows += [row | {"of": title} for row in on_a_log(path)]
    return table(rows)


if __name__ == "__main__":
    print(page({}))
