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

from clvmodels.artifacts import unique_rows
from clvmodels.errors import InputError
from clvmodels.models.family import Phases, PurchaseFamily
from clvmodels.numerics import loops
from clvmodels.numerics.discounting import Flow, Schedule, schedule
from clvmodels.value.similar import extremes, similar
from clvmodels.value.threads import ordered

_INTERPOLATION = 1e-12
_ACCURACY = 1e-10
FINENESS = ((1, 1), (8, 1), (64, 1), (64, 2), (512, 2))  # (shrink of the time scale, refine)
_CHUNK = 32
_FEW = 2_000  # rows × draws up to which it costs less to compute each rate than to make weights for all ages
_SMALLEST = (4.0, 8.0, 16.0, 32.0)  # frequencies from which interpolation in frequency may begin


@dataclass(frozen=True)
class _Curve:
    """R over the nodes in T for one combination of the other statistics.

    Attributes
    ----------
    first, count
        Where its nodes are in the table, and how many.
    share
        Where it is interpolated in frequency, the weights of the curves that begin at ``first`` and follow
        one another; otherwise None.
    """

    first: int
    count: int
    share: np.ndarray | None

    def nodes(self, values: np.ndarray) -> np.ndarray:
        """Values at the nodes in T, shape (node, flow * draw)."""
        flat = values.reshape(len(values), -1)
        if self.share is None:
            return flat[self.first : self.first + self.count]
        several = flat[self.first : self.first + len(self.share) * self.count]
        out = np.empty((1, self.count * flat.shape[1]))
        loops.combine(self.share[None], several.reshape(len(self.share), -1), out)
        return out.reshape(self.count, -1)


@dataclass(frozen=True)
class ResidualTable:
    """R at the nodes, and the weights that interpolate it to the rows.

    Attributes
    ----------
    values
        Shape (node, flow, draw).
    curves
        Where to find the nodes in T of each combination of the other statistics.
    curve, weights
        Row i is ``weights[i, :count] @ nodes`` of ``curves[curve[i]]``.
    mixture
        For a family with phases the flows of the table are those of each phase, and this gives
        the weights of the phases: ``rows -> (row, draw, phase)``.
    """

    flows: tuple[Flow, ...]
    values: np.ndarray
    curves: tuple[_Curve, ...]
    curve: np.ndarray
    weights: np.ndarray
    mixture: Callable[[slice | np.ndarray], np.ndarray] | None = None

    def at(self, rows: slice | np.ndarray) -> np.ndarray:
        """R of ascending rows, shape (row, flow, draw)."""
        curve, weights = self.curve[rows], self.weights[rows]
        shape = (len(self.flows), self.values.shape[2])
        out = np.empty((len(curve), *shape))
        new = np.r_[True, curve[1:] != curve[:-1]]
        if self.mixture is not None:
            new |= np.arange(len(curve)) % _CHUNK == 0
            shares = self.mixture(rows)
        starts = np.flatnonzero(new)
        latest, nodes = -1, np.empty((0, 0))
        for low, high in zip(starts, np.r_[starts[1:], len(curve)], strict=True):
            if curve[low] != latest:
                latest, nodes = curve[low], self.curves[curve[low]].nodes(self.values)
            part = np.ascontiguousarray(weights[low:high, : len(nodes)])
            if self.mixture is None:
                loops.combine(part, nodes, out[low:high].reshape(high - low, -1))
            else:
                found = np.empty((high - low, nodes.shape[1]))
                loops.combine(part, nodes, found)
                phases = found.reshape(high - low, -1, *shape)
                np.einsum("rdp,rpfd->rfd", shares[low:high], phases, out=out[low:high])
        return out


def groups(family: PurchaseFamily, stats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Statistics with one residual value given alive, as :func:`tabulate` wants them, and those of each row.

    Where the phases of the running gap depend on recency, so do groups.
    """
    used = list(family.state) if family.phases else list(family.rate_depends_on)
    order = [*_others(family), *[name for name in used if name not in _others(family)]]
    columns = [family.state.index(name) for name in order]
    distinct, index, _ = unique_rows(stats[:, columns])
    out = np.zeros((len(distinct), len(family.state)))
    out[:, columns] = distinct
    return out, index


def _others(family: PurchaseFamily) -> list[str]:
    """What the rate depends on besides T and the phases."""
    return [n for n in family.rate_depends_on if n != "T" and not (family.phases and n == "recency")]


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
    few_draws, few_stats = draws[extremes(draws)], stats[extremes(stats[:, depends])]
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
        return _integrate(family, draws, stats, flows, make_schedule(family, draws, stats, flows))
    without = stats.copy()
    without[:, family.state.index("recency")] = 0.0
    distinct, index = np.unique(without, axis=0, return_inverse=True)
    by_phase = _integrate(family, draws, distinct, flows, make_schedule(family, draws, distinct, flows))
    by_phase = by_phase.reshape(len(distinct), -1, len(flows), len(draws))
    out = np.empty((len(stats), len(flows), len(draws)))
    for rows in _chunks(len(stats)):
        shares = _phase_weights(phases, draws, stats, rows)
        np.einsum("rdp,rpfd->rfd", shares, by_phase[index.ravel()[rows]], out=out[rows])
    return out


def _integrate(
    family: PurchaseFamily, draws: np.ndarray, stats: np.ndarray, flows: Sequence[Flow], plan: Schedule
) -> np.ndarray:
    """R by row, flow and draw; or, for each phase in turn, by row, phase and flow, and draw."""
    phases = family.phases
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
    _complete(family, draws, stats, flows, out)
    return out


def _complete(
    family: PurchaseFamily, draws: np.ndarray, stats: np.ndarray, flows: Sequence[Flow], out: np.ndarray
) -> None:
    """Turn what precedes the start of a flow that is undiscounted forever into what follows it."""
    for k, flow in enumerate(flows):
        if flow.undiscounted_forever:
            everything = np.empty((len(stats), len(draws)))
            loops.over_stats(family.total, draws, stats, everything)
            out[:, k :: len(flows)] = everything[:, None] - out[:, k :: len(flows)]


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
    others = _others(family)
    key = stats[:, [family.state.index(name) for name in others]]
    starts = np.flatnonzero(np.r_[True, (key[1:] != key[:-1]).any(axis=1)]) if others else np.array([0])
    parts = [slice(*ends) for ends in zip(starts, np.r_[starts[1:], len(stats)], strict=True)]
    curve = np.repeat(np.arange(len(parts)), [part.stop - part.start for part in parts])
    T = stats[:, family.state.index("T")]
    floor = time_scale(family, draws, T) - T.min()
    own, plan = plan is None, plan or make_schedule(family, draws, stats, flows)
    in_time = [_interpolation(T[part], floor, family.clock == "discrete") for part in parts]
    across = _across(family, draws, stats, plan, parts, in_time, floor) if others == ["frequency"] else None
    nodes, weights, curves, at = [], [], [], 0
    alone = len(parts) if across is None else across.first
    for part, (grid, each) in zip(parts[:alone], in_time, strict=False):
        nodes.append(_rows_at(family, stats[part.start], grid))
        weights.append(each)
        curves.append(_Curve(at, len(grid), None))
        at += len(grid)
    if across is not None:
        nodes.append(across.nodes)
        weights.append(across.weights)
        curves += [_Curve(at, across.weights.shape[1], share) for share in across.shares]
    width = max(each.shape[1] for each in weights)
    padded = np.concatenate([np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in weights])
    rows = np.concatenate(nodes)
    if own and family.aging is not None and len(rows) * len(draws) > _FEW:
        values = similar(family, draws, rows, plan.flows)
        _complete(family, draws, rows, flows, values)
    else:
        values = _integrate(family, draws, rows, flows, plan)
    mixture = partial(_phase_weights, family.phases, draws, stats) if family.phases else None
    return ResidualTable(tuple(flows), values, tuple(curves), curve, padded, mixture)


@dataclass(frozen=True)
class _Across:
    """Interpolation in frequency: nodes in x, each with the same nodes in T.

    Attributes
    ----------
    first
        The first of the parts (rows of equal frequency) that is interpolated; all later ones are.
    nodes
        Statistics at the nodes, T fastest.
    shares
        Weights of the nodes in x, shape (part, node in x).
    weights
        Weights of the nodes in T, shape (row, node in T).
    """

    first: int
    nodes: np.ndarray
    shares: np.ndarray
    weights: np.ndarray


def _across(
    family: PurchaseFamily,
    draws: np.ndarray,
    stats: np.ndarray,
    plan: Schedule,
    parts: Sequence[slice],
    in_time: Sequence[tuple[np.ndarray, np.ndarray]],
    floor: float,
) -> _Across | None:
    """Interpolation in frequency where that needs fewer nodes and is as accurate, or None.

    R is a smooth function of log x too: its poles are at negative x. Nodes are added until it agrees with R
    itself at the extreme draws, for the frequencies next to the ends, where the error is largest.
    """
    x, T = (stats[:, family.state.index(name)] for name in ("frequency", "T"))
    level = np.array([x[part.start] for part in parts])
    alone = np.array([len(grid) for grid, _ in in_time])
    best, chosen = 0.8 * alone.sum(), None
    for smallest in _SMALLEST:
        first = int(np.searchsorted(level, smallest))
        if len(level) - first < 8:
            break
        grid, weights = _interpolation(T[parts[first].start :], floor, family.clock == "discrete")
        points, _ = _interpolation(level[first:], 0.0, False)
        cost = alone[:first].sum() + len(points) * len(grid)
        if len(points) < len(level) - first and cost < best:
            best, chosen = cost, (first, grid, weights)
    if chosen is None:
        return None
    first, grid, weights = chosen
    some, probes = draws[extremes(draws)], [1, (len(level) - first) // 2, len(level) - first - 2]
    ends = grid[[0, -1]]

    def at(frequencies: np.ndarray, ages: np.ndarray, draws: np.ndarray) -> np.ndarray:
        rows = np.concatenate([_rows_at(family, stats[0], ages, frequency) for frequency in frequencies])
        return _integrate(family, draws, rows, plan.flows, plan).reshape(len(frequencies), -1)

    exact = at(level[first:][probes], ends, some)
    for spare in (2, 10):
        points, shares = _interpolation(level[first:], 0.0, False, spare)
        found = shares[probes] @ at(points, ends, some)
        if (np.abs(found - exact) <= _ACCURACY / 4 * np.abs(exact)).all():
            nodes = np.concatenate([_rows_at(family, stats[0], grid, point) for point in points])
            return _Across(first, nodes, shares, weights)
    return None


def _rows_at(
    family: PurchaseFamily, row: np.ndarray, ages: np.ndarray, frequency: float | None = None
) -> np.ndarray:
    """Copies of a row at other ages, and another frequency."""
    names = family.state
    rows = np.repeat(row[None], len(ages), axis=0)
    rows[:, names.index("T")] = ages
    if frequency is not None:
        rows[:, names.index("frequency")] = frequency
    if "recency" in names and ("recency" not in family.rate_depends_on or family.phases):
        rows[:, names.index("recency")] = 0.0
    return rows


def _phase_weights(
    phases: Phases, draws: np.ndarray, stats: np.ndarray, rows: slice | np.ndarray
) -> np.ndarray:
    out = np.empty((len(stats[rows]), len(draws), phases.count(draws)))
    loops.phase_weights(phases.weights, draws, stats[rows], out)
    return out


def _interpolation(
    T: np.ndarray, floor: float, discrete: bool, spare: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in T, or another positive variable, and the matrix (row, node) from them to the rows."""
    distinct, inverse = np.unique(T, return_inverse=True)
    low, high = np.log(floor + distinct[0]), np.log(floor + distinct[-1])
    radius = (high - low) / 2
    if radius > 0 and not discrete:
        distance = np.pi / radius
        growth = np.log(distance + np.sqrt(1 + distance**2))
        n = int(np.ceil(-np.log(_INTERPOLATION) / growth)) + spare
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
