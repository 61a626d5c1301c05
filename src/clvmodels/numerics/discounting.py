"""Discounting as weights: the present value of an expected rate is a dot product.

For every family the value of a customer who is alive is ``∫ disc(s) rate(s) ds``, and the
rate is a smooth function of ``log(1 + s / scale)``. :class:`Schedule` fixes nodes ``s_j`` and,
for every :class:`Flow` (a discount rate, a window and a timing convention), weights ``W_j``
with ``value = Σ_j W_j rate(s_j)``: the integral of the interpolating polynomial against the
discount function (product integration). All horizons, year bands, discount rates and timing
conventions of a run share the same evaluations of the rate.

A discrete clock is the same with a sum over opportunities in the place of the integral.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numba
import numpy as np
from numba import complex128, float64, types, void

legendre = cache(np.polynomial.legendre.leggauss)
"""Gauss-Legendre nodes and weights; making them takes longer than using them."""

Timing = Literal["continuous", "begin", "mid", "end"]
OFFSET = {"begin": 1.0, "mid": 0.5, "end": 0.0}

_ERROR = 1e-13  # of the interpolation of a rate like 1/(scale + s)
_FADED = 42.0  # exp(-42) = 6e-19: what lies beyond is below float precision
_DIRECT = 64  # opportunities of a discrete clock that are nodes themselves


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A window of the future and how it is discounted to the end of observation.

    Attributes
    ----------
    start, horizon
        Purchases in (start, horizon] count, in time units; ``horizon`` may be ``inf``.
    delta
        Continuous discount rate per time unit.
    timing
        ``continuous``: discounted from the moment itself; ``begin``, ``mid``, ``end``:
        from that point of the period of length ``period`` in which it falls,
        ``Σ_i exp(-δ (i - o) period) {E[Y(i)] - E[Y(i-1)]}`` with o = 1, 0.5, 0
        (Fader and Hardie 2015, eq. 3.13, use 0.5).
    """

    delta: float
    horizon: float = np.inf
    start: float = 0.0
    timing: Timing = "continuous"
    period: float = 1.0

    @property
    def undiscounted_forever(self) -> bool:
        return self.delta == 0 and np.isinf(self.horizon)

    @property
    def ends(self) -> float:
        """Where it has faded below float precision."""
        return self.horizon if self.delta == 0 else min(self.horizon, _FADED / self.delta)

    def discount(self, s: np.ndarray) -> np.ndarray:
        """Discount factor of a purchase at s."""
        if self.timing == "continuous":
            return np.exp(-self.delta * s)
        periods = np.ceil(s / self.period - 1e-12) - OFFSET[self.timing]
        return np.exp(-self.delta * self.period * periods)

    def decaying(self, decay: np.ndarray, discrete: bool = False) -> np.ndarray:
        """Value of the rate ``exp(-decay s)`` in closed form, for ``start = 0``.

        On a discrete clock the rate is counted at opportunities s = 1, 2, ...
        """
        code = self.code(discrete)
        values = [decaying(eta, code) for eta in np.ravel(decay)]
        return np.reshape(values, np.shape(decay))

    def code(self, discrete: bool = False) -> np.ndarray:
        """The flow as the vector that :func:`decaying` reads."""
        if self.start:
            raise ValueError("the closed form is written for start = 0")
        periodic = discrete or self.timing != "continuous"
        step = 1.0 if discrete else self.period
        offset = 0.0 if self.timing == "continuous" else OFFSET[self.timing]
        return np.array([float(periodic), float(discrete), self.delta, self.horizon, step, offset])


_code = types.Array(float64, 1, "C")


@numba.njit([float64(float64, float64), complex128(complex128, float64)], cache=True)
def _stretch(rate, length):
    """``∫ exp(-rate s) ds`` over (0, length]."""
    if rate == 0.0:
        return rate + length
    if length == math.inf:
        return 1.0 / rate
    return -np.expm1(-rate * length) / rate


@numba.njit([float64(float64, _code), complex128(complex128, _code)], cache=True)
def decaying(decay, code):
    """Discounted value of the rate ``exp(-decay s)`` under a flow's :meth:`Flow.code`.

    A complex decay is half of a damped wave; its real part must be positive.
    """
    periodic, discrete, delta = code[0], code[1], code[2]
    horizon, step, offset = code[3], code[4], code[5]
    total = delta + decay
    if periodic == 0.0:
        return _stretch(total, horizon)
    whole = np.floor(horizon / step + 1e-12)
    one = np.exp(-decay) if discrete == 1.0 else _stretch(decay, step)
    late = math.exp(-delta * step * (1.0 - offset))
    if total == 0.0:
        many = total + whole
    elif whole == math.inf:
        many = -1.0 / np.expm1(-total * step)
    else:
        many = np.expm1(-total * step * whole) / np.expm1(-total * step)
    value = one * late * many
    if horizon == math.inf:
        return value
    rest = horizon - whole * step
    if discrete == 0.0 and rest > 1e-12 * step:
        value += np.exp(-total * step * whole) * late * _stretch(decay, rest)
    return value


def _edges(flow: Flow, low: float, high: float) -> np.ndarray:
    """Ends of the pieces of (low, high] on which the discount function is smooth."""
    if flow.timing == "continuous" or high <= low:
        return np.array([low, high])
    first, last = np.floor(low / flow.period) + 1, np.ceil(high / flow.period)
    inner = np.arange(first, last) * flow.period
    inner = inner[(inner > low * (1 + 1e-14)) & (inner < high * (1 - 1e-14))]
    return np.r_[low, inner, high]


@dataclass(frozen=True)
class Schedule:
    """Nodes and weights: ``values[flow] = weights[flow] @ rate(nodes)``.

    A flow that is undiscounted forever has weights of NaN: its value comes from the
    family's closed form.
    """

    flows: tuple[Flow, ...]
    nodes: np.ndarray
    weights: np.ndarray


def schedule(
    flows: Sequence[Flow],
    scale: float,
    *,
    discrete: bool = False,
    refine: int = 1,
    until: float | None = None,
) -> Schedule:
    """Nodes and weights for flows.

    Parameters
    ----------
    flows
        What is wanted; all share the nodes.
    scale
        Shortest time on which any rate varies: α + T at its smallest. Nodes are spread
        evenly in ``log(1 + s / scale)``.
    discrete
        Sum over opportunities 1, 2, ... instead of the integral.
    refine
        Number of panels of as many nodes; the difference to ``refine=1`` is an error estimate.
    until
        Where the nodes end; by default where the last flow does.
    """
    ends = [flow.ends for flow in flows if not flow.undiscounted_forever]
    end = max(ends, default=1.0) if until is None else until
    first = 0.0
    direct = np.zeros(0)
    if discrete:
        direct = np.arange(1.0, min(_DIRECT * refine, np.floor(end)) + 1)
        first = np.log1p((len(direct) + 0.5) / scale)
    last = np.log1p(end / scale)
    edges = np.linspace(first, last, refine + 1)
    if discrete and len(direct) >= np.floor(end):
        edges = edges[:1]
    panels = list(itertools.pairwise(edges))
    points, _ = legendre(_nodes(last - first))
    nodes = [direct]
    for low, high in panels:
        nodes.append(scale * np.expm1((low + high) / 2 + (high - low) / 2 * points))
    weights = np.zeros((len(flows), sum(map(len, nodes))))
    for k, flow in enumerate(flows):
        if flow.undiscounted_forever:
            weights[k] = np.nan
            continue
        if discrete:
            inside = (direct > flow.start) & (direct <= flow.horizon)
            weights[k, : len(direct)] = inside * _opportunity(flow, direct)
        at = len(direct)
        for low, high in panels:
            weights[k, at : at + len(points)] = _product_rule(flow, scale, low, high, points, discrete)
            at += len(points)
    return Schedule(tuple(flows), np.concatenate(nodes), weights)


def _nodes(length: float) -> int:
    """Nodes of a panel: 1/(scale + s) has its poles π away from the panel, which gives the rate of decay."""
    distance = 2 * np.pi / max(length, 1e-3)
    return int(np.ceil(-np.log(_ERROR) / np.arcsinh(distance)))


def _opportunity(flow: Flow, s: np.ndarray) -> np.ndarray:
    """Discount factor of opportunity s of a discrete clock."""
    offset = 0.0 if flow.timing == "continuous" else OFFSET[flow.timing]
    return np.exp(-flow.delta * (s - offset))


def _product_rule(
    flow: Flow, scale: float, low: float, high: float, points: np.ndarray, discrete: bool
) -> np.ndarray:
    """Integrals of disc(s) ℓ_j(s) over the part of one panel that lies in the window."""
    s_low = max(scale * np.expm1(low), flow.start)
    s_high = min(scale * np.expm1(high), flow.ends)
    if s_high <= s_low:
        return np.zeros(len(points))
    if discrete:
        s = np.arange(np.floor(s_low) + 1, np.floor(s_high) + 1)
        mass = _opportunity(flow, s)
    else:
        edges = _edges(flow, s_low, s_high)
        order = max(64, 2 * len(points)) if len(edges) == 2 else 12 if len(edges) > 40 else 24
        x, w = legendre(order)
        u = np.log1p(edges / scale)
        middle, radius = (u[1:] + u[:-1]) / 2, (u[1:] - u[:-1]) / 2
        s = scale * np.expm1(middle[:, None] + radius[:, None] * x)
        if flow.timing == "continuous":
            disc = flow.discount(s)
        else:
            disc = flow.discount((edges[1:] + edges[:-1]) / 2)[:, None]
        mass = (disc * radius[:, None] * w * (s + scale)).ravel()
        s = s.ravel()
    weights = np.zeros(len(points))
    gaps = points[:, None] - points[None, :] + np.eye(len(points))
    position = (np.log1p(s / scale) - (low + high) / 2) / ((high - low) / 2)
    _lagrange(points, 1.0 / gaps.prod(axis=1), position, mass, weights)
    return weights


@numba.njit(void(_code, _code, _code, _code, _code), cache=True, nogil=True, error_model="numpy")
def _lagrange(points, barycentric, x, mass, out):
    """Adds ``Σ_i mass_i ℓ_j(x_i)`` to ``out[j]``, by the barycentric formula."""
    terms = np.empty(len(points))
    for i in range(len(x)):
        hit = -1
        total = 0.0
        for j in range(len(points)):
            gap = x[i] - points[j]
            if gap == 0.0:
                hit = j
            terms[j] = barycentric[j] / gap
            total += terms[j]
        if hit >= 0:
            out[hit] += mass[i]
            continue
        share = mass[i] / total
        for j in range(len(points)):
            out[j] += share * terms[j]
