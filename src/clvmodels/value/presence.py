"""Time alive, discounted: what it costs to keep a customer who is there.

Given alive at T a customer is there at T + s with the probability ``survival(s)``, so that the
discounted time alive is ``Σ_j W_j survival(s_j)``, with the nodes and weights that value purchases.
Given latents of a family whose customers leave with probability p after a purchase,
``p R + δ L = 1`` for R purchases and time alive L, both discounted for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clvmodels.models.family import PurchaseFamily
from clvmodels.numerics.discounting import Flow, Schedule, schedule
from clvmodels.value.residual import FINENESS, ResidualTable, make_schedule, tabulate, time_scale


@dataclass(frozen=True)
class PresenceTable:
    """Discounted time alive given alive, at the nodes of a :class:`ResidualTable`.

    Where the family tells of last purchases and not of survival, ``table`` holds what they take
    away from ``whole``, the time of a customer who never leaves.
    """

    table: ResidualTable
    whole: np.ndarray | None = None

    def at(self, rows: slice | np.ndarray) -> np.ndarray:
        """Time alive of ascending rows, shape (row, flow, draw), in time units."""
        found = self.table.at(rows)
        return found if self.whole is None else self.whole[:, None] - found


def tabulate_presence(
    family: PurchaseFamily, draws: np.ndarray, stats: np.ndarray, flows: Sequence[Flow]
) -> PresenceTable:
    """Table of discounted time alive for rows sorted as :func:`tabulate` wants them.

    Parameters
    ----------
    draws, stats
        Shapes (draw, parameter) and (row, statistic).
    flows
        Each discounted, or with a horizon.
    """
    if family.survival is not None:
        there = replace(family, rate=family.survival, rates=family.survivals)
        return PresenceTable(tabulate(there, draws, stats, flows))
    plan = _by_parts(family, draws, stats, flows)
    lost = tabulate(replace(family, phases=family.leaving), draws, stats, flows, plan)
    return PresenceTable(lost, span(flows))


def span(flows: Sequence[Flow], discrete: bool = False) -> np.ndarray:
    """Discounted length of each flow's window, shape (flow,): the time of one who never leaves."""

    def until(flow: Flow, end: float) -> float:
        if end == 0:
            return 0.0
        return float(replace(flow, start=0.0, horizon=end).decaying(np.zeros(()), discrete))

    return np.array([until(flow, flow.horizon) - until(flow, flow.start) for flow in flows])


def _by_parts(
    family: PurchaseFamily, draws: np.ndarray, stats: np.ndarray, flows: Sequence[Flow]
) -> Schedule:
    """Weights on the rate of leaving that give the time lost.

    Survival at a node is one less the integral of that rate up to it, and this is a dot product with
    the rate at the nodes too.
    """
    plan = make_schedule(family, draws, stats, flows)
    scale = time_scale(family, draws, stats[:, family.state.index("T")])
    shrink, panels = next(
        found for found in FINENESS if np.array_equal(_nodes(flows, scale, *found), plan.nodes)
    )
    return replace(plan, weights=plan.weights @ _until(plan.nodes, scale / shrink, panels))


def _nodes(flows: Sequence[Flow], scale: float, shrink: int, refine: int) -> np.ndarray:
    return schedule(flows, scale / shrink, refine=refine).nodes


def _until(nodes: np.ndarray, scale: float, panels: int) -> np.ndarray:
    """Weights of the integral up to every node, shape (node, node): in log(1 + s/scale), panel by panel."""
    legendre, each = np.polynomial.legendre, len(nodes) // panels
    points, weights = legendre.leggauss(each)
    integrals = [legendre.legval(points, legendre.legint(c, lbnd=-1)) for c in np.eye(each)]
    part = np.linalg.solve(legendre.legvander(points, each - 1).T, integrals).T
    u = np.log1p(nodes / scale).reshape(panels, each)
    half = (u[:, -1] - u[:, 0]) / (points[-1] - points[0])
    stretch = np.repeat(half, each) * (nodes + scale)
    panel, within = np.divmod(np.arange(len(nodes)), each)
    before = panel[:, None] > panel
    same = panel[:, None] == panel
    return stretch * (before * weights[within] + same * part[within][:, within])
