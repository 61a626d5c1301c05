"""Where should the level of a calendar intensity sit? ``python -m benchmarks.gauge``

An intensity s is known up to a factor: the gauge says which s is *one*, and one is what it is beyond
the data. Two gauges are compared on simulated firms: s of mean 1 over the window's weeks (``weeks``), and
over its expected purchases (``purchases``), so that the clock leaves their total as it is. Forecasts are of
26 weeks from the posterior mode, at level expected and times the mean path of the shared shocks
(systematic). Customers follow BG/NBD exactly, so that the calendar alone is what is wrong.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks.growth import FIRST, GROWING, Firm, world

FIRMS = {
    "constant": Firm(doubling=np.inf),
    "acquisitions double in 35 weeks": Firm(),
    "the same, intensity grows": GROWING,
    "the same, yearly season": Firm(season=0.4),
    "opening that wears off": Firm(doubling=np.inf, opening=0.7),
}
SEEN = (52, 78)
"""Weeks seen at the origins."""
AHEAD = 26
VARIANTS = ("even", "weeks", "purchases")
DRAWS = 400


def over_weeks(value: np.ndarray, expected: np.ndarray) -> float:
    return float(value.mean())


def over_purchases(value: np.ndarray, expected: np.ndarray) -> float:
    return float(np.average(value, weights=expected))


GAUGES = {"weeks": over_weeks, "purchases": over_purchases}


def forecasts(past: Any, end: Any, variant: str) -> tuple[float, float]:
    """Expected repeat purchases in the weeks after a day, at levels expected and systematic; NaN where the
    window's weeks are too few for a calendar intensity."""
    from clvmodels.artifacts import Intensity
    from clvmodels.config import FitConfig, ModelsConfig
    from clvmodels.fit import fit, shocks
    from clvmodels.validate import calendar
    from clvmodels.value import Flow, valuation
    from clvmodels.value import horizons as ahead

    models, quick = ModelsConfig(), FitConfig(sampler="map")
    edges = calendar.weeks_of(past, end)
    intensity = Intensity(end=int(edges[-1]), width=calendar.WEEK, value=np.ones(len(edges) - 1))
    if variant in GAUGES:
        calendar.level = GAUGES[variant]
        found = calendar.estimate(past, end, models, quick, 1).intensity
        if found is None:
            return np.nan, np.nan
        intensity = found
    summary, position = past.at(end, intensity)
    mode = fit(summary, models.purchases, models.spend, quick, 1, maximum=False)
    window = calendar.at_one(summary, mode, past, intensity).mean(axis=0)
    weather = shocks.estimate(shocks.Ratios.of_counts(past.weekly(position, edges)[0], window), DRAWS, 1)
    plain = calendar.assumptions(summary, AHEAD)
    flows = [Flow(delta=0.0, start=float(k), horizon=k + 1.0) for k in range(AHEAD)]
    nobody = np.zeros((len(summary), 1), np.int64)
    weekly = ahead.expected(valuation(summary, mode, plain, 1), flows, nobody, 1).total[0, 0].mean(axis=-1)
    path = np.ones(AHEAD) if isinstance(weather, str) else weather.path(AHEAD, 2).mean(axis=0)
    return float(weekly.sum()), float(weekly @ path)


def main() -> None:
    from clvmodels.config import DataConfig
    from clvmodels.data import history

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=11, help="first seed")
    asked = parser.parse_args()
    names = [f"{v}, {level}" for level in ("expected", "systematic") for v in VARIANTS]
    print(f"| firm | forecasts | {' | '.join(names)} |\n|{'---|' * (len(names) + 2)}")
    every = []
    for name, firm in FIRMS.items():
        rows = []
        for seed in range(asked.first, asked.first + asked.seeds):
            table = world(asked.customers, seed, firm)
            columns = {"customer": "customer", "date": "day", "amount": "amount"}
            past = history.read(DataConfig.model_validate({"columns": columns}), transactions=table)
            for seen in SEEN:
                end = (FIRST + np.timedelta64(7 * seen - 1, "D")).astype("datetime64[D]").item()
                position = past.at(end)[1]
                came = past.repeats(position, end, past.after(end, 7 * AHEAD))[0].sum()
                rows.append([came, *np.transpose([forecasts(past, end, v) for v in VARIANTS]).ravel()])
        found = np.array([row for row in rows if np.isfinite(row).all()], float)
        every.append(found)
        print(f"| {name} | {len(found)} | " + " | ".join(cells(found)) + " |", flush=True)
    whole = np.concatenate(every)
    print(f"| all | {len(whole)} | " + " | ".join(cells(whole)) + " |")


def cells(found: np.ndarray) -> list[str]:
    """Bias, and root mean square of log(truth / forecast), of each column after the first."""
    truth, forecast = found[:, :1], found[:, 1:]
    bias = truth.sum() / forecast.sum(axis=0) - 1
    error = np.sqrt((np.log(truth / forecast) ** 2).mean(axis=0))
    return [f"{100 * b:+.1f} %, {100 * e:.1f} %" for b, e in zip(bias, error, strict=True)]


if __name__ == "__main__":
    main()
