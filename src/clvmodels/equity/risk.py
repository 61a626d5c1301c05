"""What may be lost: the tail of equity, and the sources of its variance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from clvmodels.artifacts import Equity

TAIL = 0.05
"""Probability of the bad outcomes that the tail is about."""
TAILS = (0.01, 0.05, 0.10)
"""The same, for the table of equity at risk."""
BLOCKS = 20
"""Blocks of consecutive draws that are left out in turn for the Monte Carlo error."""


def tail(draws: np.ndarray, probability: float = TAIL) -> tuple[float, float]:
    """Equity at risk: the mean less a low quantile, and less the mean of the draws below it.

    Parameters
    ----------
    draws
        Equity of the level predictive, or systematic, shape (draw,).
    probability
        Of the quantile.
    """
    low = np.quantile(draws, probability)
    return float(draws.mean() - low), float(draws.mean() - draws[draws <= low].mean())


class Share(NamedTuple):
    """A source of variance: its share of the whole, the share's Monte Carlo error, and its variance."""

    share: float
    error: float
    variance: float


def variance_budget(
    equity: Equity, acquisition: Mapping[str, np.ndarray] | None = None
) -> Mapping[str, Share] | None:
    """Where the variance of equity at its last level comes from, predictive or systematic.

    By the law of total variance, with draws θ of the parameters and E3, E2, E1 the equity at levels
    predictive, latent and expected of one draw,

    ====================  =====================================================================
    ``purchases``         Var E[E1 | purchase parameters]
    ``spend``             Var E[E1 | spend parameters]
    ``interplay``         the rest of Var E1: both together
    ``latents``           E Var(E2 | θ) = Var(E2 - E1), as E[E2 | θ] = E1
    ``noise``             Var(E3 - E1) - Var(E2 - E1): purchases and baskets as they fall
    ``acquisition``       Var(E3 + A3) - Var E3, A the equity of future customers: what of it the same
                          parameters move together with E3 is in it
    ``shared``            Var(E4 + A4) - Var(E3 + A3): shocks that all customers share, where E4 exists
    ====================  =====================================================================

    The first three use the draws of the survey for their proportions. A share is an estimate and may
    come out below zero where it is small.

    Parameters
    ----------
    equity
        With the variables of a survey.
    acquisition
        Level → equity of customers still to come, shape (draw,); the budget is then of both together.

    Returns
    -------
    Source → share; None for a single parameter vector.
    """
    if "by_purchases" not in equity.data or len(equity.levels) < 3:
        return None
    expected, latent, predictive = (equity.total(level) for level in ("expected", "latent", "predictive"))
    shared = equity.total("systematic") if "systematic" in equity.levels else None
    surveyed = [equity.data[name].values for name in ("unchanged", "by_purchases", "by_spend")]

    def parts(keep: np.ndarray, picked: np.ndarray) -> dict[str, float]:
        one, two, three = expected[keep], latent[keep], predictive[keep]
        parameters = one.var(ddof=1)
        whole, purchases, spend = (values[picked].var(ddof=1) for values in surveyed)
        scale = parameters / whole if whole else 0.0
        latents = (two - one).var(ddof=1)
        found = {
            "purchases": scale * purchases,
            "spend": scale * spend,
            "interplay": scale * (whole - purchases - spend),
            "latents": latents,
            "noise": (three - one).var(ddof=1) - latents,
        }
        plain = three.var(ddof=1)
        if acquisition is not None:
            plain = (three + acquisition["predictive"][keep]).var(ddof=1)
            found["acquisition"] = plain - three.var(ddof=1)
        if shared is not None:
            later = 0.0 if acquisition is None else acquisition["systematic"][keep]
            found["shared"] = (shared[keep] + later).var(ddof=1) - plain
        return found

    def shares(found: Mapping[str, float]) -> np.ndarray:
        values = np.array(list(found.values()))
        return values / values.sum()

    every = [np.arange(len(expected)), np.arange(len(surveyed[0]))]
    found = parts(*every)
    blocks = [np.array_split(index, BLOCKS) for index in every]
    left = np.array([
        shares(parts(*(np.setdiff1d(index, block) for index, block in zip(every, pair, strict=True))))
        for pair in zip(*blocks, strict=True)
    ])  # fmt: skip
    error = np.sqrt((BLOCKS - 1) / BLOCKS * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    return {
        name: Share(float(share), float(e), found[name])
        for name, share, e in zip(found, shares(found), error, strict=True)
    }
