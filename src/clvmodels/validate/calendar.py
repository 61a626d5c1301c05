"""Calendar intensity: seasons and growth that speed up or slow down everybody's clock together.

Every customer's purchases run on the clock S(t) = ∫ s, s the intensity of the calendar: a family sees
recency and age as times of that clock, and is otherwise as it was; a purchase rate λ is a rate λ s(t)
per unit of the calendar, and so is a dropout rate of families that leave by time. Durations still
depend on the days of first and last purchase alone, so that customers fold as before.

The intensity of a week is what came in it over what the model expects of these customers at
intensity one, smoothed as the weeks ask for (:func:`clvmodels.fit.shocks.profile`). Parameters and
intensity are estimated in turn until neither moves. Its mean over the window's expected purchases is
1, so that the clock leaves their total as it is (``benchmarks/gauge.py`` holds it against the mean over
weeks), and 1 is what it is beyond the data: forecasts are those of an average purchase's week.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

import numpy as np

from clvmodels.artifacts import Assumptions, Intensity, Posterior, Summary
from clvmodels.config import FitConfig, ModelsConfig
from clvmodels.data.history import History
from clvmodels.fit import fit, fit_family, shocks
from clvmodels.fit.priors import measure
from clvmodels.models import registry
from clvmodels.value import Valuation
from clvmodels.value.horizons import in_window

WEEK = 7
ROUNDS = 20
"""Turns of parameters and intensity at most."""
STILL = 0.01
"""Largest change of any week's log intensity at which the two stand still: a tenth of its own error
where a week has a hundred purchases."""
LOWEST = 0.05
"""Smallest intensity: clocks never stand still, so that days stay in order."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Attributes
    ----------
    intensity
        None where there is none, with the ``reason``.
    rounds
        Turns that were taken.
    change
        Of the last turn, largest change of a week's log intensity.
    """

    intensity: Intensity | None
    reason: str | None
    rounds: int
    change: float


def weeks_of(history: History, end: dt.date) -> np.ndarray:
    """Numbers of the days with which the window's weeks end, the one before the first included."""
    now, first = int(history.number(end)), int(history.number(history.first))
    return now - WEEK * np.arange((now - first + 1) // WEEK, -1, -1)


def estimate(history: History, end: dt.date, models: ModelsConfig, options: FitConfig, seed: int) -> Found:
    """The intensity of each week of the window that ends on a day.

    Parameters
    ----------
    models
        Purchases are fitted at their posterior mode in every turn.
    """
    edges = weeks_of(history, end)
    quick = options.model_copy(update={"sampler": "map"})
    value, change = np.ones(len(edges) - 1), np.inf
    if not len(value):
        return Found(intensity=None, reason="the window is shorter than a week", rounds=0, change=change)
    mode: Posterior | None = None
    for turn in range(1, ROUNDS + 1):
        intensity = Intensity(end=int(edges[-1]), width=WEEK, value=value)
        summary, position = history.at(end, intensity)
        if mode is None:
            mode = fit(summary, models.purchases, models.spend, quick, seed, maximum=False)
        else:  # spend knows no time
            rows = summary.fold(registry.get(models.purchases.family).statistics)
            part = fit_family(
                registry.get(models.purchases.family), rows, models.purchases, quick, seed, measure(summary),
                maximum=False,
            )  # fmt: skip
            mode = replace(mode, purchases=part)
        expected = at_one(summary, mode, history, intensity).mean(axis=0)
        found = shocks.profile(shocks.Ratios.of_counts(history.weekly(position, edges)[0], expected))
        if isinstance(found, str):
            return Found(intensity=None, reason=found, rounds=turn, change=change)
        new = np.maximum(found / level(found, expected), LOWEST)
        new /= level(new, expected)
        change = float(np.abs(np.log(new / value)).max())
        value = new
        if change < STILL:
            break
    intensity = Intensity(end=int(edges[-1]), width=WEEK, value=value)
    return Found(intensity=intensity, reason=None, rounds=turn, change=change)


def level(value: np.ndarray, expected: np.ndarray) -> float:
    """Which intensity is called one: the mean over the purchases expected at one; both of shape (week,)."""
    return float(np.average(value, weights=expected))


def assumptions(summary: Summary, horizon: float) -> Assumptions:
    """Purchases are counted, not valued."""
    return Assumptions(
        margin=np.ones(len(summary)),
        margin_source="",
        annual_discount_rate=0.0,
        units_per_year=1.0,
        horizon=horizon,
    )


def at_one(summary: Summary, posterior: Posterior, history: History, intensity: Intensity) -> np.ndarray:
    """Repeat purchases expected in each week had its intensity been one, the clocks before it as they were.

    Parameters
    ----------
    summary
        In times of the clock.

    Returns
    -------
    Shape (draw, week).
    """
    plain = assumptions(summary, 1.0)
    back = intensity.end - intensity.clock(intensity.edges)[::-1]
    orders, _ = in_window(Valuation(summary, posterior, plain, 0), history.per_unit, back)
    return orders[:, ::-1] / intensity.value
