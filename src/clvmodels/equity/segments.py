"""Where value sits: sets of customers that partition the base, by what is known of each.

A set is fixed before it is valued: by the first purchase, or by posterior means. Its equity is then
summed inside every draw, so that a tenth that was chosen for its expected value is not overstated.
"""

from __future__ import annotations

import itertools

import numpy as np

from clvmodels.artifacts import Segment, Summary
from clvmodels.equity.sensitivity import Survey

COHORTS = 18
"""Cohorts are months, quarters or years of the first purchase: the finest with at most so many."""
CHANCES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Edges of the classes of P(alive)."""
_FORMATS = (("{0:04}-{1:02}", 1), ("{0:04} Q{1}", 3), ("{0:04}", 12))  # label, months


def partitions(summary: Summary, survey: Survey) -> dict[str, Segment]:
    """Cohorts, tenths by value and classes of P(alive); those with a single set are left out.

    Parameters
    ----------
    survey
        Posterior means by customer.
    """
    found = {
        "cohort": cohorts(summary.first_day),
        "decile": deciles(survey.value),
        "p_alive": chances(survey.p_alive),
    }
    return {name: part for name, part in found.items() if len(part.labels) > 1}


def cohorts(first_day: np.ndarray, most: int = COHORTS) -> Segment:
    """Month, quarter or year of the first purchase: the finest with at most so many."""
    month = first_day.astype("datetime64[M]").astype(int)
    form, length = next(
        (form, length)
        for form, length in _FORMATS
        if len(np.unique(month // length)) <= most or length == _FORMATS[-1][1]
    )
    codes, index = np.unique(month // length, return_inverse=True)
    each = 12 // length
    labels = tuple(form.format(1970 + code // each, code % each + 1) for code in codes)
    return Segment(codes=index, labels=labels)


def deciles(value: np.ndarray) -> Segment:
    """Tenths of the customers, the most valuable first; ties by position."""
    rank = np.empty(len(value), int)
    rank[np.argsort(-value, kind="stable")] = np.arange(len(value))
    edges = np.round(np.arange(1, 10) * len(value) / 10)
    codes = np.searchsorted(edges, rank, side="right")
    present, index = np.unique(codes, return_inverse=True)
    return Segment(codes=index, labels=tuple(str(code + 1) for code in present))


def chances(p_alive: np.ndarray) -> Segment:
    """Classes of P(alive), the least likely first."""
    ends = [f"{100 * p:g} %" for p in CHANCES]
    labels = [f"below {ends[0]}"]
    labels += [f"{low} to {high}" for low, high in itertools.pairwise(ends)]
    labels.append(f"{ends[-1]} and more")
    return Segment(codes=np.searchsorted(CHANCES, p_alive, side="right"), labels=tuple(labels))
