"""R of families whose future looks alike at every age: one set of rates for all ages.

Where ``rate(T, s) / rate(T, 0)`` is a function of ``v = s / A`` alone, A = c + T with a parameter c
(:attr:`PurchaseFamily.aging`), the rates at some v serve every T: with other weights, because what is
discounted is ``s = A v``. The weights are made at Chebyshev nodes in log A that all draws share, and
``H(A) = R(T) / (A rate(T, 0))`` is interpolated between them to each draw's own A. A rate is then computed
for each draw, frequency and v, and no longer for each age.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clvmodels.models.family import PurchaseFamily
from clvmodels.numerics import loops
from clvmodels.numerics.discounting import Flow, schedule
from clvmodels.value.threads import ordered

_INTERPOLATION = 1e-13
_ACCURACY = 1e-11
_FINENESS = ((1, 1), (8, 1), (64, 1), (64, 2), (512, 2), (512, 4))  # (shrink of the scale of v, panels)


@dataclass(frozen=True)
class _Plan:
    """Nodes in v and the weights at each A: ``H[node, flow] = weights[node, flow] @ rate(A v) / A``."""

    v: np.ndarray
    weights: np.ndarray


def similar(
    family: PurchaseFamily,
    draws: np.ndarray,
    stats: np.ndarray,
    flows: Sequence[Flow],
    threads: int | None = None,
) -> np.ndarray:
    """R of rows with each flow, shape (row, flow, draw), for a family with ``aging``.

    Parameters
    ----------
    draws, stats
        Shapes (draw, parameter) and (row, statistic); rows that differ in T alone follow one another.
    flows
        None of them undiscounted and without end.
    """
    assert family.aging is not None
    column, age = family.parameter_names.index(family.aging), family.state.index("T")
    low = draws[:, column].min() + stats[:, age].min()
    high = draws[:, column].max() + stats[:, age].max()
    position, barycentric = chebyshev(float(np.log(low)), float(np.log(high)))
    others = np.delete(stats, age, axis=1)
    starts = np.flatnonzero(np.r_[True, (others[1:] != others[:-1]).any(axis=1)])
    parts = [slice(*ends) for ends in zip(starts, np.r_[starts[1:], len(stats)], strict=True)]
    plan = _plan(family, draws, stats[starts], flows, np.exp(position))
    out = np.empty((len(stats), len(flows), len(draws)))
    weights = plan.weights.reshape(-1, len(plan.v))

    def work(part: slice) -> None:
        rates = np.empty((len(plan.v), len(draws)))
        loops.aging_rates(family.rate, draws, stats[part.start], column, age, plan.v, rates)
        nodes = np.empty((len(weights), len(draws)))
        loops.combine(weights, rates, nodes)
        by_flow = nodes.reshape(len(position), len(flows), -1)
        given = (family.rate, draws, stats[part], column, age, position, barycentric, by_flow)
        loops.at_ages(*given, out[part])

    for _ in ordered(work, parts, threads):
        pass
    return out


def chebyshev(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes between two logarithms, and their barycentric weights.

    As many as a function with its nearest singularity at an imaginary distance π needs.
    """
    radius = (high - low) / 2
    if radius <= 1e-14 * abs(high):
        return np.array([low]), np.ones(1)
    distance = np.pi / radius
    n = int(np.ceil(-np.log(_INTERPOLATION) / np.log(distance + np.sqrt(1 + distance**2)))) + 2
    angles = (2 * np.arange(n) + 1) * np.pi / (2 * n)
    return (low + high) / 2 + radius * np.cos(angles), np.sin(angles) * (-1.0) ** np.arange(n)


def _plan(
    family: PurchaseFamily, draws: np.ndarray, stats: np.ndarray, flows: Sequence[Flow], A: np.ndarray
) -> _Plan:
    """Nodes fine enough for the extreme draws and rows at both ends of A.

    The first of ``_FINENESS`` is taken that agrees with the next.
    """
    column, age = family.parameter_names.index(str(family.aging)), family.state.index("T")
    some = draws[extremes(draws)]
    few = stats[extremes(np.delete(stats, age, axis=1))]
    ends = [int(A.argmin()), int(A.argmax())]
    last = max(float(flow.ends) for flow in flows) / float(A.min())

    def weigh(fineness: tuple[int, int], at: Sequence[int] | range) -> _Plan:
        shrink, panels = fineness
        plans = [schedule(flows, A[k] / shrink, refine=panels, until=last * A[k]) for k in at]
        weights = np.array([plan.weights for plan in plans]) / A[list(at), None, None]
        return _Plan(plans[0].nodes / A[at[0]], weights)

    def found(plan: _Plan) -> np.ndarray:
        out = np.empty((len(few), plan.weights.shape[0] * len(flows), len(some)))
        for row, each in zip(few, out, strict=True):
            rates = np.empty((len(plan.v), len(some)))
            loops.aging_rates(family.rate, some, row, column, age, plan.v, rates)
            loops.combine(plan.weights.reshape(len(each), -1), rates, each)
        return out

    chosen = _FINENESS[0]
    value = found(weigh(chosen, ends))
    for finer in _FINENESS[1:]:
        better = found(weigh(finer, ends))
        size = np.abs(better) + 1e-6 * np.abs(better).max(axis=1, keepdims=True)
        if (np.abs(value - better) <= _ACCURACY * size).all():
            break
        chosen, value = finer, better
    return weigh(chosen, range(len(A)))


def extremes(table: np.ndarray) -> np.ndarray:
    """Rows at which a column is smallest or largest."""
    return np.unique(np.r_[table.argmin(axis=0), table.argmax(axis=0)])
