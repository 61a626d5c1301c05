"""What the model says about a history of purchases: value, activity and orders by recency and frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clvmodels.artifacts import Posterior, Summary
from clvmodels.models import registry

SURFACE_DRAWS = 200
"""Posterior draws, spread evenly, over which surfaces are averaged."""

EXAMPLES = ((0, 0.0), (1, 0.5), (1, 0.9), (3, 0.5), (3, 0.9), (10, 0.5), (10, 0.9))
"""Repeat purchases, and recency as a share of the age, of the histories in the table."""
AGES = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
"""Renewals made by the contracts in the table."""


def examples(
    summary: Summary, posterior: Posterior, assumptions: Mapping[str, Any]
) -> tuple[list[tuple[float, float, float]], dict[str, np.ndarray]]:
    """Histories (frequency, recency, T) of the longest observed age, and what follows from them.

    With effects, the customers are those at the centre of all covariates and pooled columns.
    Of a contract nothing but its age counts: the histories are contracts still running at several
    ages.

    Returns
    -------
    histories, draws
        ``draws`` holds ``p_alive``, ``orders`` (next year, undiscounted) and ``value`` (at the mean
        margin and the mean spend of a new customer), each of shape (draw, history).
    """
    family = registry.purchases(posterior.purchases.family)
    end = float(summary["T"].max())
    rows = [(float(x), share * end, end) for x, share in EXAMPLES]
    if family.role == "contract":
        rows = [(age, age, age) for age in sorted({*(a for a in AGES if a < end), end})]
    elif family.clock == "discrete":
        half = np.ceil(end / 2)
        rows = [(x, t_x, end) for x, t_x in sorted({(0.0, 0.0), (1.0, half), (1.0, end), (half, half),
                                                    (half, end), (end, end)})]  # fmt: skip
    frequency, recency, T = np.array(rows).T
    purchase, spend = posterior.centre()
    return rows, _outlook(summary, posterior, assumptions, (purchase, spend), frequency, recency, T)


def surfaces(
    summary: Summary, posterior: Posterior, assumptions: Mapping[str, Any]
) -> dict[str, np.ndarray] | None:
    """Posterior means over a grid of histories of the longest observed age; None for contracts.

    Parameters
    ----------
    assumptions
        Block ``assumptions`` of the table.

    Returns
    -------
    dict
        ``recency`` (time), ``frequency`` (repeat purchases), ``age``, ``spend``, and of shape
        (frequency, recency): ``p_alive``, ``orders`` (expected in the next year, undiscounted) and
        ``value`` (expected, in currency, at the mean margin and the mean spend of a new customer).
        NaN where there are more purchases than opportunities.
    """
    family = registry.purchases(posterior.purchases.family)
    T, x = float(summary["T"].max()), summary["frequency"]
    top = int(np.clip(np.quantile(x[x > 0], 0.995) if (x > 0).any() else 10, 10, 400))
    frequency = np.linspace(1, top, 61)
    recency = np.linspace(0, T, 61)
    recency[0] = T / 1000
    if family.clock == "discrete":
        recency = np.unique(np.linspace(1, T, 61).round())
        frequency = np.unique(np.linspace(1, min(top, T), 61).round())
    if family.role == "contract" or min(len(recency), len(frequency)) < 2:
        return None
    t_x, count = np.meshgrid(recency, frequency)
    impossible = (count > t_x) & (family.clock == "discrete")
    t_x = np.where(impossible, count, t_x)
    picks = np.linspace(0, len(posterior) - 1, min(len(posterior), SURFACE_DRAWS)).round().astype(int)
    purchase, spend = (np.ascontiguousarray(part[picks]) for part in posterior.centre())
    found = _outlook(summary, posterior, assumptions, (purchase, spend), count.ravel(), t_x.ravel(), T)
    means = {
        name: np.where(impossible, np.nan, draws.mean(axis=0).reshape(count.shape))
        for name, draws in found.items()
        if name != "spend"
    }
    return means | {
        "recency": recency, "frequency": frequency, "age": np.array(T), "spend": found["spend"].mean()
    }  # fmt: skip


def _outlook(
    summary: Summary,
    posterior: Posterior,
    assumptions: Mapping[str, Any],
    draws: tuple[np.ndarray, np.ndarray],
    frequency: np.ndarray,
    recency: np.ndarray,
    T: np.ndarray | float,
) -> dict[str, np.ndarray]:
    from clvmodels import value

    family = registry.purchases(posterior.purchases.family)
    spending = registry.spend(posterior.spend.family)
    stats = _rows(summary, family.state, frequency, recency, T)
    endless = assumptions["horizon"]["value"] == "infinite"
    flows = [
        value.Flow(delta=0.0, horizon=assumptions["units_per_year"]),
        value.Flow(
            delta=assumptions["delta"]["value"],
            horizon=np.inf if endless else assumptions["horizon"]["value"],
            timing=assumptions["timing"],
            period=assumptions["period"]["value"] if assumptions["period"] else 1.0,
        ),
    ]
    depends = [name in family.rate_depends_on for name in family.state]
    distinct, inverse = np.unique(np.where(depends, stats, 0.0), axis=0, return_inverse=True)
    left = value.residual(family, draws[0], distinct, flows).transpose(2, 0, 1)[:, inverse.ravel()]
    alive = value.p_alive(family, draws[0], stats)
    ahead = alive[:, :, None] * left
    spend = value.expected_spend(spending, draws[1], np.zeros((1, len(spending.statistics))))
    return {
        "p_alive": alive,
        "orders": ahead[:, :, 0],
        "value": assumptions["margin"]["mean"] * spend * ahead[:, :, 1],
        "spend": spend,
    }


def _rows(
    summary: Summary,
    statistics: Sequence[str],
    frequency: np.ndarray,
    recency: np.ndarray,
    T: np.ndarray | float,
) -> np.ndarray:
    """Rows of statistics; those beyond recency, frequency and T are proportional to frequency, as
    they are on average over the customers."""
    known = {"frequency": frequency, "recency": recency, "T": np.broadcast_to(T, frequency.shape)}
    total = max(summary["frequency"].sum(), 1.0)
    return np.column_stack(
        [known[name] if name in known else frequency * summary[name].sum() / total for name in statistics]
    )
