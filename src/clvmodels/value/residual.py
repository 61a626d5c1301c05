"""Residual value given alive: the costly factor, tabulated per draw and interpolated in T.

``R = Σ_j W_j rate(theta, x, T, s_j)`` does not depend on recency (for families that say so;
for others given the phase of the running interval) and is a smooth function of ``log(c + T)``,
c being the shortest time scale of the draws. For every distinct combination of the other
statistics, R is computed at Chebyshev nodes in that variable; their number follows from the
distance of the nearest singularity (T = -c, an imaginary distance π away) so that the
interpolation error is below 1e-11, or 1e-9 of the largest value where large shapes make a
window of the future rise over many decades of T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from clvmodels.errors import InputError
from clvmodels.models.family import Phases, PurchaseFamily
from clvmodels.numerics import loops
from clvmodels.numerics.discounting import Flow, Schedule, schedule
from clvmodels.value.threads import ordered

_INTERPOLATION = 1e-12
_ACCURACY = 1e-10
FINENESS = ((1, 1), (8, 1), (64, 1), (64, 2), (512, 2))  # (shrink of the time scale, refine)
_CHUNK = 32


@dataclass(frozen=True)
class ResidualTable:
    """R at the nodes, and the weights that interpolate it to the rows.

    Attributes
    ----------
    values
        Shape (node, flow, draw).
    first, count, weights
        Row i is ``weights[i, :count[i]] @ values[first[i]:first[i]+count[i]]``.
    mixture
        For a family with phases the flows of the table are those of each phase, and this gives
        the weights of the phases: ``rows -> (row, draw, phase)``.
    """

    flows: tuple[Flow, ...]
    values: np.ndarray
    first: np.ndarray
    count: np.ndarray
    weights: np.ndarray
    mixture: Callable[[slice | np.ndarray], np.ndarray] | None = None

    def at(self, rows: slice | np.ndarray) -> np.ndarray:
        """R of ascending rows, shape (row, flow, draw)."""
        first, count = self.first[rows], self.count[rows]
        shape = (len(self.flows), self.values.shape[2])
        out = np.empty((len(first), *shape))
        new = np.r_[True, first[1:] != first[:-1]]
        if self.mixture is not None:
            new |= np.arange(len(first)) % _CHUNK == 0
            shares = self.mixture(rows)
        starts = np.flatnonzero(new)
        for low, high in zip(starts, np.r_[starts[1:], len(first)], strict=True):
            node, n = first[low], count[low]
            block = self.values[node : node + n].reshape(n, -1)
            found = (self.weights[rows][low:high, :n] @ block).reshape(high - low, -1, *shape)
            if self.mixture is None:
                out[low:high] = found[:, 0]
            else:
                np.einsum("rdp,rpfd->rfd", shares[low:high], found, out=out[low:high])
        return out


def time_scale(family: PurchaseFamily, draws: np.ndarray, T: np.ndarray) -> float:
    """Shortest time on which the rate varies: the smallest parameter in units of time, plus T."""
    times = [j for j, p in enumerate(family.parameters) if p.unit == "time"]
    shortest = float(draws[:, times].min()) if times else 0.0
    return max(shortest + float(T.min()), 1e-6 * float(T.max()), 1e-9)


def make_schedule(
    family: PurchaseFamily, draws: np.ndarray, stats: np.ndarray, flows: Sequence[Flow]
) -> Schedule:
    """The schedule of flows for these draws and rows; refuses a sum that diverges.

    Rates that fall faster than :func:`time_scale` says (a large shape) need finer nodes: the
    first of ``FINENESS`` is taken that agrees with the next one at the extreme draws and rows.
    Of a flow that is undiscounted forever it holds the part before its start.
    """
    if any(flow.undiscounted_forever for flow in flows) and not family.converges(draws):
        raise InputError(
            "value.annual_discount_rate is 0 with an infinite horizon, and the undiscounted sum "
            f"diverges in at least one draw of {family.name}: "
            "set a positive discount rate or a finite horizon."
        )
    bounded = [replace(f, start=0.0, horizon=f.start) if f.undiscounted_forever else f for f in flows]
    depends = [family.state.index(name) for name in family.rate_depends_on]
    few_draws, few_stats = draws[_extremes(draws)], stats[_extremes(stats[:, depends])]
    scale = time_scale(family, draws, stats[:, family.state.index("T")])
    discrete = family.clock == "discrete"

    def at(shrink: float, refine: int) -> tuple[Schedule, np.ndarray]:
        plan = schedule(bounded, scale / shrink, discrete=discrete, refine=refine)
        value = np.empty((len(few_stats), len(bounded), len(few_draws)))
        _weigh(family, few_draws, few_stats, plan.nodes, plan.weights, value)
        return plan, value

    plan, value = at(*FINENESS[0])
    for fineness in FINENESS[1:]:
        finer, better = at(*fineness)
        size = np.abs(better) + 1e-6 * np.abs(better).max(axis=1, keepdims=True)
        if (np.abs(value - better) <= _ACCURACY * size).all():
            break
        plan, value = finer, better
    return plan


def _weigh(family: PurchaseFamily, *given: np.ndarray) -> None:
    """``Σ_j weights[flow, j] rate(nodes[j])`` by row, flow and draw, into the last of the arrays given."""
    if family.rates is not None:
        loops.weighted_rates_at_once(family.rates, *given)
    else:
        loops.weighted_rates(family.rate, *given)


def _extremes(table: np.ndarray) -> np.ndarray:
    """Rows at which a column is smallest or largest."""
    return np.unique(np.r_[table.argmin(axis=0), table.argmax(axis=0)])


def residual(
    family: PurchaseFamily, draws: np.ndarray, stats: np.ndarray, flows: Sequence[Flow]
) -> np.ndarray:
    """Expected purchases given alive, per row, flow and draw, without interpolation.

    Parameters
    ----------
    draws, stats
        Shapes (draw, parameter) and (row, statistic).

    Returns
    -------
    Array of shape (row, flow, draw).
    """
    phases = family.phases
    if phases is None:
        return _integrate(family, draws, stats, flows, None)
    without = stats.copy()
    without[:, family.state.index("recency")] = 0.0
    distinct, index = np.unique(without, axis=0, return_inverse=True)
    by_phase = _integrate(family, draws, distinct, flows, phases)
    by_phase = by_phase.reshape(len(distinct), -1, len(flows), len(draws))
    out = np.empty((len(stats), len(flows), len(draws)))
    for rows in _chunks(len(stats)):
        shares = _phase_weights(phases, draws, stats, rows)
        np.einsum("rdp,rpfd->rfd", shares, by_phase[index.ravel()[rows]], out=out[rows])
    return out


def _integrate(
    family: PurchaseFamily,
    draws: np.ndarray,
    stats: np.ndarray,
    flows: Sequence[Flow],
    phases: Phases | None,
    plan: Schedule | None = None,
) -> np.ndarray:
    """R by row, flow and draw; or, for each phase in turn, by row, phase and flow, and draw."""
    plan = plan or make_schedule(family, draws, stats, flows)
    count = phases.count(draws) if phases else 1
    out = np.empty((len(stats), count * len(flows), len(draws)))

    def work(rows: slice) -> None:
        given = (draws, stats[rows], plan.nodes, plan.weights, out[rows])
        if phases:
            loops.weighted_phase_rates(phases.rates, count, *given)
        else:
            _weigh(family, *given)

    for _ in ordered(work, _chunks(len(stats))):
        pass
    for k, flow in enumerate(flows):
        if flow.undiscounted_forever:
            everything = np.empty((len(stats), len(draws)))
            loops.over_stats(family.total, draws, stats, everything)
            out[:, k :: len(flows)] = everything[:, None] - out[:, k :: len(flows)]
    return out


def tabulate(
    family: PurchaseFamily,
    draws: np.ndarray,
    stats: np.ndarray,
    flows: Sequence[Flow],
    plan: Schedule | None = None,
) -> ResidualTable:
    """Table of R for rows that are sorted so that equal (statistics but T, recency) are together.

    ``plan``: nodes and weights in the place of the flows' own.
    """
    names, phases = family.state, family.phases
    depends = [name for name in family.rate_depends_on if not (phases and name == "recency")]
    t = names.index("T")
    others = [names.index(name) for name in depends if name != "T"]
    T = stats[:, t]
    floor = time_scale(family, draws, T) - T.min()
    key = stats[:, others]
    starts = np.flatnonzero(np.r_[True, (key[1:] != key[:-1]).any(axis=1)]) if len(others) else np.array([0])
    nodes: list[np.ndarray] = []
    plans = []
    at = 0
    for low, high in zip(starts, np.r_[starts[1:], len(stats)], strict=True):
        grid, weights = _interpolation(T[low:high], floor, family.clock == "discrete")
        block = np.repeat(stats[low : low + 1], len(grid), axis=0)
        block[:, t] = grid
        if "recency" in names and "recency" not in depends:
            block[:, names.index("recency")] = 0.0
        nodes.append(block)
        plans.append((low, high, at, weights))
        at += len(grid)
    width = max(weights.shape[1] for *_, weights in plans)
    first, count = np.empty(len(stats), int), np.empty(len(stats), int)
    table = np.zeros((len(stats), width))
    for low, high, node, weights in plans:
        first[low:high], count[low:high] = node, weights.shape[1]
        table[low:high, : weights.shape[1]] = weights
    values = _integrate(family, draws, np.concatenate(nodes), flows, phases, plan)
    mixture = partial(_phase_weights, phases, draws, stats) if phases else None
    return ResidualTable(tuple(flows), values, first, count, table, mixture)


def _phase_weights(
    phases: Phases, draws: np.ndarray, stats: np.ndarray, rows: slice | np.ndarray
) -> np.ndarray:
    out = np.empty((len(stats[rows]), len(draws), phases.count(draws)))
    loops.phase_weights(phases.weights, draws, stats[rows], out)
    return out


def _interpolation(T: np.ndarray, floor: float, discrete: bool) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in T and the matrix (row, node) from them to the rows."""
    distinct, inverse = np.unique(T, return_inverse=True)
    low, high = np.log(floor + distinct[0]), np.log(floor + distinct[-1])
    radius = (high - low) / 2
    if radius > 0 and not discrete:
        distance = np.pi / radius
        growth = np.log(distance + np.sqrt(1 + distance**2))
        n = int(np.ceil(-np.log(_INTERPOLATION) / growth)) + 2
    else:
        n = len(distinct)
    if n >= len(distinct):
        return distinct, np.eye(len(distinct))[inverse]
    angles = (2 * np.arange(n) + 1) * np.pi / (2 * n)
    points = np.cos(angles)
    barycentric = np.sin(angles) * (-1.0) ** np.arange(n)
    x = (np.log(floor + distinct) - (low + high) / 2) / radius
    difference = x[:, None] - points
    hit = difference == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = barycentric / difference
        weights = terms / terms.sum(axis=1, keepdims=True)
    rows = hit.any(axis=1)
    weights[rows] = hit[rows]
    return np.exp((low + high) / 2 + radius * points) - floor, weights[inverse]


def _chunks(n: int) -> list[slice]:
    return [slice(low, min(low + _CHUNK, n)) for low in range(0, n, _CHUNK)]
