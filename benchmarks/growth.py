"""Which variant removes the bias of forecasts for a fast-growing firm? ``python -m benchmarks.growth``

A firm is simulated whose customers follow BG/NBD and Gamma-Gamma exactly, on clocks that its growth
speeds up: acquisitions double every 35 weeks, and everybody's intensity rises by a factor of e^0.5 a
year (``GROWING``), with weather of ``WEATHER`` that lasts a few weeks. The variants of ``VARIANTS`` are
compared on rolling origins, with ``--cohorts`` pooled months of acquisition too. Finished origins are kept
in ``--out`` with ``.cache``, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WEEKS = 104
WEATHER, PERSISTENCE = 0.15, 0.7
THETA = {"r": 0.5, "alpha": 6.0, "a": 0.8, "b": 2.4}
SPEND = {"p": 6.25, "q": 3.74, "gamma": 15.44}
FIRST = np.datetime64("2020-01-01")
VARIANTS: list[dict[str, Any]] = [
    {"name": "bg_nbd"},
    {"name": "mbg_nbd", "models": {"purchases": {"family": "mbg_nbd"}}},
    {"name": "pareto_nbd", "models": {"purchases": {"family": "pareto_nbd"}}},
    {"name": "mbg_cnbd_k", "models": {"purchases": {"family": "mbg_cnbd_k"}}},
    {"name": "bg_nbd calendar", "models": {"calendar": "weekly"}},
]
COHORTS: dict[str, Any] = {
    "name": "bg_nbd cohorts",
    "models": {"pool": {"by": "first_month", "on": "purchase", "structure": "random_walk"}},
}
"""Drawn by NUTS, which takes about as long as all the others together."""


@dataclass(frozen=True, kw_only=True)
class Firm:
    """How a firm's acquisitions and everybody's intensity go.

    Attributes
    ----------
    doubling
        Weeks in which acquisitions double; infinite: as many in every week.
    trend
        Growth of the intensity's logarithm in a year.
    season
        Amplitude of a yearly wave of the intensity's logarithm.
    opening
        Logarithm of the intensity in the first week, on top, which wears off with a half-life of 8 weeks.
    """

    doubling: float = 35.0
    trend: float = 0.0
    season: float = 0.0
    opening: float = 0.0


GROWING = Firm(trend=0.5)


def intensity(rng: np.random.Generator, firm: Firm = GROWING) -> np.ndarray:
    """Of each week, shape (week,)."""
    weather = np.zeros(WEEKS)
    for t in range(1, WEEKS):
        weather[t] = PERSISTENCE * weather[t - 1] + WEATHER * np.sqrt(1 - PERSISTENCE**2) * rng.normal()
    week = np.arange(WEEKS)
    wave = firm.season * np.sin(2 * np.pi * week / 52) + firm.opening * 0.5 ** (week / 8)
    return np.exp(firm.trend * week / 52 + wave + weather)


def world(customers: int, seed: int, firm: Firm = GROWING) -> Any:
    """The log: a pandas DataFrame of ``customer``, ``day`` and ``amount``."""
    import pandas as pd

    from clvmodels.models import registry

    rng = np.random.default_rng(seed)
    run = np.concatenate([[0.0], np.cumsum(np.repeat(intensity(rng, firm), 7))])
    last = WEEKS - 1
    share = rng.random(customers)
    growth = np.log(2) / firm.doubling
    born = 7 * (np.log1p(share * np.expm1(growth * last)) / growth if growth else share * last)
    born = np.sort(born.astype(int))
    purchases, spend = registry.purchases("bg_nbd"), registry.spend("gamma_gamma")
    path = purchases.simulate(THETA, (run[-1] - run[born + 1]) / 7, rng)
    moment = run[born[path.customer] + 1] + 7 * path.time
    day = np.maximum(np.searchsorted(run, moment) - 1, born[path.customer] + 1)
    inside = day < 7 * WEEKS
    owner, day = path.customer[inside], day[inside]
    count = np.bincount(owner, minlength=customers) + 1
    amount = spend.simulate(SPEND, count, rng).amount
    who = np.r_[np.arange(customers), owner]
    order = np.argsort(who, kind="stable")
    return pd.DataFrame(
        {
            "customer": [f"c{k:05}" for k in who[order]],
            "day": FIRST + np.r_[born, day][order].astype("timedelta64[D]"),
            "amount": np.maximum(np.round(amount, 2), 0.01),
        }
    )


def study(customers: int, seed: int, out: Path | None, cohorts: bool = False) -> Any:
    """The rolling comparison of the variants on one simulated firm, with those of pooled cohorts if asked."""
    from clvmodels import compare_rolling

    config = {
        "name": f"growing_{seed}",
        "data": {"columns": {"customer": "customer", "date": "day", "amount": "amount"}},
        "models": {"purchases": {"family": "bg_nbd"}, "spend": {"family": "gamma_gamma"}},
        "value": {"margin": 0.3, "annual_discount_rate": 0.15},
        "validation": {"horizons": ["4 weeks", "13 weeks", "26 weeks"], "every": "8 weeks"},
        "variants": [*VARIANTS, COHORTS] if cohorts else VARIANTS,
    }
    return compare_rolling(config, world(customers, seed), out=out, overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    parser.add_argument("--cohorts", action="store_true", help="pool the purchase rate of first months too")
    asked = parser.parse_args()
    found = study(asked.customers, asked.seed, asked.out, asked.cohorts)
    rows = found.table
    print(rows[rows["measure"] == "orders"].drop(columns="measure").round(3).to_string(index=False))
    print(*found.summary["sentences"], sep="\n")


if __name__ == "__main__":
    main()
