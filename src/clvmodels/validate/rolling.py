"""Variants against each other on rolling origins: nothing is scored by a truth that tuned it.

A variant itself is never tuned: at each origin it is fitted to what was known. Two ways of using several
are: ``stacked``, the mixture of the variants' draws with the weights that would have predicted best,
and ``chosen``, the variant that would have. At an origin both learn from the pairs of earlier origin and
horizon whose last day is not later than that origin; where there is none the weights are equal and the
first variant is chosen.

What is best is told by the continuous ranked probability score of totals over what came. Origins
overlap: a difference has the standard error of as many origins as lie apart, and with fewer than five
nothing is told apart.

References
----------
Yao, Vehtari, Simpson and Gelman (2018), Using stacking to average Bayesian predictive distributions,
Bayesian Analysis 13(3), section 3: stacking by a proper score.
Gneiting and Raftery (2007), Strictly proper scoring rules, J. American Statistical Association 102,
eq. 21: the score of a mixture is quadratic in its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clvmodels.validate import backtest as testing
from clvmodels.validate.backtest import ENOUGH, Backtest, Origin, score

STACKED, CHOSEN = "stacked", "chosen"
LEVELS = ("predictive", "systematic")
SCORED = ("orders", "revenue")
STANDARD_ERRORS = 2.0
"""Differences below this many standard errors do not tell variants apart."""
_THIN = 200  # draws of which distances within a mixture are averaged


@dataclass(frozen=True, kw_only=True)
class Rolling:
    """Scores of variants, stacked and chosen ones on the origins that all variants have.

    Attributes
    ----------
    scores
        One row per variant, level, measure, horizon and origin, as of :func:`backtest.score`.
    weights
        One row per level, measure and origin: ``known`` (pairs that it learnt from), ``chosen`` and
        ``weights`` by variant.
    table
        One row per level, measure, horizon and variant: ``origins``, ``apart``, ``bias`` (sum of truths
        over sum of means, less 1), ``relative_crps`` (over the mean truth), ``coverage_90``, ``rms_z``,
        ``width_90`` (over the mean of means); ``difference`` of relative_crps to the best and its
        standard error ``se``; ``verdict``: best, alike, worse, or unknown where too few lie apart.
    left_out
        Variant → origin → why it was not scored.
    """

    variants: tuple[str, ...]
    scores: tuple[Mapping[str, Any], ...]
    weights: tuple[Mapping[str, Any], ...]
    table: tuple[Mapping[str, Any], ...]
    left_out: Mapping[str, Mapping[str, str]]


def compare(backtests: Mapping[str, Backtest], numbers: Mapping[str, int]) -> Rolling:
    """Score variants of the same log against each other.

    Parameters
    ----------
    backtests
        Variant → its backtest; all of the same log and horizons.
    numbers
        Origin (ISO date) → number of its day (period).
    """
    names = tuple(backtests)
    found = {name: {o.date.isoformat(): o for o in b.scored} for name, b in backtests.items()}
    common = sorted(set.intersection(*(set(origins) for origins in found.values())))
    steps = {h.label: h.steps for b in backtests.values() for h in b.horizons}
    scores: list[dict[str, Any]] = []
    weights: list[dict[str, Any]] = []
    for level in LEVELS:
        for measure in SCORED:
            drawn = {
                (day, label): [_draws(found[name][day], level, measure, label) for name in names]
                for day in common
                for label in found[names[0]][day].horizons
            }
            if not drawn or any(np.isnan(d).any() for many in drawn.values() for d in many):
                continue
            truth = {(day, label): _actual(found[names[0]][day], measure, label) for day, label in drawn}
            for day in common:
                known = [
                    (o, h) for o, h in drawn if numbers[o] + steps[h] <= numbers[day] and truth[o, h] > 0
                ]
                share, best = learn([(drawn[pair], truth[pair]) for pair in known], len(names))
                about = {"level": level, "measure": measure, "origin": day}
                weights.append(
                    about
                    | {"known": len(known), "chosen": names[best]}
                    | {"weights": dict(zip(names, share.tolist(), strict=True))}
                )
                for label in found[names[0]][day].horizons:
                    many = drawn[day, label]
                    every = dict(zip(names, many, strict=True))
                    every |= {STACKED: mixed(many, share), CHOSEN: many[best]}
                    scores += [
                        about
                        | {"horizon": label, "variant": name, "steps": steps[label]}
                        | score(draws, truth[day, label])
                        for name, draws in every.items()
                    ]
    return Rolling(
        variants=names,
        scores=tuple(scores),
        weights=tuple(weights),
        table=tuple(summed(scores, numbers)),
        left_out={
            name: {o.date.isoformat(): o.reason for o in b.origins if o.reason is not None}
            for name, b in backtests.items()
        },
    )


def _draws(origin: Origin, level: str, measure: str, label: str) -> np.ndarray:
    found = origin.data["total"].sel(level=level, measure=measure, horizon=label)
    return np.asarray(found.values, float)


def _actual(origin: Origin, measure: str, label: str) -> float:
    return float(origin.data["actual"].sel(measure=measure, horizon=label))


def learn(pairs: Sequence[tuple[Sequence[np.ndarray], float]], count: int) -> tuple[np.ndarray, int]:
    """Weights of the mixture, and the one variant, of the lowest mean score over pairs.

    Parameters
    ----------
    pairs
        Draws of every variant and the truth, which is above 0.
    count
        Number of variants.

    Returns
    -------
    weights, best
        Shape (variant,), sum 1; equal and 0 without pairs.
    """
    from scipy.optimize import minimize

    equal = np.full(count, 1 / count)
    if not pairs:
        return equal, 0
    away, between = np.zeros(count), np.zeros((count, count))
    for many, actual in pairs:
        thin = [_thinned(draws) for draws in many]
        away += [np.abs(draws - actual).mean() / actual for draws in thin]
        between += [[_distance(a, b) / actual for b in thin] for a in thin]

    def loss(weight: np.ndarray) -> tuple[float, np.ndarray]:
        return float(weight @ away - weight @ between @ weight / 2), away - between @ weight

    best = int(np.argmin(away - np.diag(between) / 2))
    found = minimize(
        loss, equal, jac=True, method="SLSQP", bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
    )  # fmt: skip
    weight = np.maximum(found.x, 0)
    return weight / weight.sum(), best


def _thinned(draws: np.ndarray) -> np.ndarray:
    """Quantiles that stand for the draws."""
    return np.quantile(draws, (np.arange(_THIN) + 0.5) / _THIN)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(np.subtract.outer(a, b)).mean())


def mixed(many: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Draws of a mixture, as many as the first variant has: quantiles of each in proportion."""
    n = len(many[0])
    edges = np.rint(np.concatenate([[0.0], np.cumsum(weights)]) * n).astype(int)
    counts = np.diff(edges)
    parts = [np.quantile(d, (np.arange(k) + 0.5) / k) for d, k in zip(many, counts, strict=True) if k]
    return np.concatenate(parts)


def summed(scores: Sequence[Mapping[str, Any]], numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows of :attr:`Rolling.table`."""
    groups: dict[tuple[str, ...], dict[str, list[Mapping[str, Any]]]] = {}
    for row in scores:
        key = row["level"], row["measure"], row["horizon"]
        groups.setdefault(key, {}).setdefault(row["variant"], []).append(row)
    out = []
    for (level, measure, horizon), by_name in groups.items():
        some = next(iter(by_name.values()))
        apart = testing.separate(sorted(numbers[row["origin"]] for row in some), some[0]["steps"])
        actual = np.array([row["actual"] for row in some])
        crps = {name: np.array([row["crps"] for row in rows]) for name, rows in by_name.items()}
        best = min(
            (name for name in by_name if name != CHOSEN), key=lambda name: (float(crps[name].sum()), name)
        )
        for name, rows in by_name.items():
            mean = np.array([row["mean"] for row in rows])
            width = np.array([row["high_90"] - row["low_90"] for row in rows])
            z = np.array([row["z"] for row in rows if row["z"] is not None])
            differs = (crps[name] - crps[best]) / actual.mean()
            se = float(differs.std(ddof=1) / np.sqrt(apart)) if len(rows) > 1 and apart else None
            out.append(
                {
                    "level": level, "measure": measure, "horizon": horizon, "variant": name,
                    "origins": len(rows), "apart": apart,
                    "bias": float(actual.sum() / mean.sum() - 1) if mean.sum() > 0 else None,
                    "relative_crps": float(crps[name].mean() / actual.mean()) if actual.mean() > 0 else None,
                    "coverage_90": float(np.mean([row["inside_90"] for row in rows])),
                    "rms_z": float(np.sqrt((z**2).mean())) if len(z) else None,
                    "width_90": float(width.mean() / mean.mean()) if mean.mean() > 0 else None,
                    "difference": float(differs.mean()), "se": se,
                    "verdict": _verdict(name == best, apart, float(differs.mean()), se),
                }
            )  # fmt: skip
    return out


def _verdict(best: bool, apart: int, difference: float, se: float | None) -> str:
    if best:
        return "best"
    if apart < ENOUGH or se is None:
        return "unknown"
    return "worse" if difference > STANDARD_ERRORS * se else "alike"
