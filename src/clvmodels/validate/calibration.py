"""The error that remains after the headline level, learned from a backtest's own past origins.

Every origin tells, once a horizon is over, by how much the truth strayed from the forecast:
e = log(Y / median), beside the sd of the forecast's draws on the log. ``fit/remainder.py`` turns such
errors into a bias and a scale by horizon. They are applied to *later* days only: a day t may use the
error of origin o at horizon H if o + H ≤ t, and of one horizon only errors of origins that do not
overlap. So every interval of level calibrated that a backtest scores is out of sample.

The scale widens: every draw is multiplied by exp(σ_H ε), with one ε a draw for all customers and
segments. The bias is shown and not applied; scored beside it is what would have come of applying it
(level moved). With fewer than ``ENOUGH`` origins apart nothing is estimated at a horizon, and
``STRESS`` stands in its place.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clvmodels.fit import remainder
from clvmodels.validate.backtest import ENOUGH, Backtest, Origin, apart, score, summed
from clvmodels.value.horizons import MEASURES

STRESS = (0.10, 0.20)
"""Everything comes out by so much lower or higher, where the error that remains is not estimable."""
DRAWS = 1000
TESTED = ("calibrated", "moved")
"""Levels that an estimate is scored at: widened; widened and the bias applied."""


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """What is known on one day of the errors that remain, for one measure.

    Attributes
    ----------
    used
        Horizon → origins without overlap whose truth was known by then.
    found
        Bias and scale, columns in the order of ``used``; None where no horizon has ``ENOUGH``.
    reason
        Why there is none; None where there is.
    """

    used: Mapping[str, int]
    found: remainder.Remainder | None
    reason: str | None

    @property
    def estimable(self) -> tuple[str, ...]:
        """Horizons with enough origins, in ascending order."""
        if self.found is None:
            return ()
        return tuple(label for label, count in self.used.items() if count >= ENOUGH)

    def of(self, horizon: str) -> tuple[np.ndarray, np.ndarray]:
        """Draws of bias and scale on the log, shape (draw,) each."""
        if self.found is None:
            raise ValueError(self.reason)
        at = list(self.used).index(horizon)
        return self.found.bias[:, at], self.found.scale[:, at]

    def widened(self, draws: np.ndarray, horizon: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws of a total times exp(σ ε), and these times exp(b); shape (draw,) each.

        The same seed gives the same ε: totals that belong to one another are widened together.
        """
        bias, scale = self.of(horizon)
        pick = np.arange(len(draws)) % len(bias)
        epsilon = np.random.default_rng([seed, 11]).standard_normal(len(draws))
        out = draws * np.exp(scale[pick] * epsilon)
        return out, out * np.exp(bias[pick])


def base_level(backtest: Backtest) -> str:
    """Level whose errors are taken: systematic, where every scored origin has it."""
    whole = all(_known(origin, "systematic") for origin in backtest.scored)
    return "systematic" if whole else "predictive"


def _known(origin: Origin, level: str) -> bool:
    return bool(np.isfinite(origin.data["total"].sel(level=level).values).all())


def errors(
    backtest: Backtest, numbers: Mapping[str, int], known: Mapping[tuple[str, str], dt.date]
) -> list[dict[str, Any]]:
    """One row per origin, horizon and measure: ``error``, ``model`` (both on the log) and when it was known.

    Where a truth or a draw is not above 0 there is no logarithm and no row.

    Parameters
    ----------
    numbers
        Origin (ISO date) → number of its day (period).
    known
        (Origin, horizon) → the last day of that horizon.
    """
    steps = {horizon.label: horizon.steps for horizon in backtest.horizons}
    level, out = base_level(backtest), []
    for origin in backtest.scored:
        day = origin.date.isoformat()
        for label in origin.horizons:
            for measure in MEASURES:
                at = {"measure": measure, "horizon": label}
                draws = origin.data["total"].sel(level=level, **at).values
                actual = float(origin.data["actual"].sel(**at))
                if actual <= 0 or draws.min() <= 0 or np.ptp(draws) == 0:
                    continue
                out.append(
                    {
                        "origin": day,
                        "number": numbers[day],
                        "known": known[day, label].isoformat(),
                        "horizon": label,
                        "steps": steps[label],
                        "measure": measure,
                        "level": level,
                        "error": float(np.log(actual / np.median(draws))),
                        "model": float(np.log(draws).std(ddof=1)),
                    }
                )
    return out


def remaining(
    rows: Sequence[Mapping[str, Any]], measure: str, day: dt.date, seed: int, draws: int = DRAWS
) -> Remaining:
    """Bias and scale as they could be known on a day.

    Parameters
    ----------
    rows
        Of :func:`errors`, of any day and measure.
    """
    usable = [row for row in rows if row["measure"] == measure and dt.date.fromisoformat(row["known"]) <= day]
    labels = dict(sorted({row["horizon"]: row["steps"] for row in rows}.items(), key=lambda item: item[1]))
    chosen: dict[str, list[Mapping[str, Any]]] = {}
    for label, steps in labels.items():
        some = sorted((row for row in usable if row["horizon"] == label), key=lambda row: row["number"])
        chosen[label] = [some[k] for k in apart([row["number"] for row in some], steps)]
    used = {label: len(some) for label, some in chosen.items()}
    most = max(used.values(), default=0)
    if most < ENOUGH:
        return Remaining(
            used=used,
            found=None,
            reason=(
                f"the error that remains is not estimable: it needs {ENOUGH} past forecasts without overlap "
                f"whose outcome was known, and there were {most}"
            ),
        )
    flat = [(row["error"], row["model"], h) for h, some in enumerate(chosen.values()) for row in some]
    error, model, horizon = (np.array(column) for column in zip(*flat, strict=True))
    found = remainder.estimate(error, model, horizon, len(labels), draws, seed)
    if found.k_hat > remainder.TRUSTED:
        reason = f"the draws of the error that remains cannot be trusted (k-hat {found.k_hat:.2f})"
        return Remaining(used=used, found=None, reason=reason)
    return Remaining(used=used, found=found, reason=None)


def tested(backtest: Backtest, rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Score rows of every origin at which something could be estimated, as of :func:`score`.

    Levels: the base on the same origins, and ``TESTED``.
    """
    out = []
    level = base_level(backtest)
    for origin in backtest.scored:
        by_measure = {m: remaining(rows, m, origin.date, seed) for m in MEASURES}
        for measure, known in by_measure.items():
            for label in (h for h in known.estimable if h in origin.horizons):
                at = {"measure": measure, "horizon": label}
                draws = origin.data["total"].sel(level=level, **at).values
                actual = float(origin.data["actual"].sel(**at))
                about = {"origin": origin.date.isoformat(), **at, "column": "", "group": ""}
                for name, some in zip(
                    (level, *TESTED), (draws, *known.widened(draws, label, seed)), strict=True
                ):
                    out.append(about | {"level": name} | score(some, actual))
    return out


def coverage(
    backtest: Backtest, rows: Sequence[Mapping[str, Any]], numbers: Mapping[str, int], seed: int
) -> list[dict[str, Any]]:
    """What :func:`tested` found by horizon, measure and level, as ``backtest.coverage``."""
    return summed(tested(backtest, rows, seed), backtest.horizons, numbers)
