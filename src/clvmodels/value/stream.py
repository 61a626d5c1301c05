"""Streams tiles of customers through the draws; nothing of size draws × customers is kept.

A tile is a fixed number of customers with all draws; at level expected, of kinds of customers:
those with equal statistics and margin are worth the same in every draw. Random streams belong to
tiles, and results come back in the order of tiles, so that threads and memory change nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clvmodels.artifacts import Assumptions, Posterior, Rows, Summary
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.models.family import PurchaseFamily, SpendFamily
from clvmodels.numerics import loops, paths, variates
from clvmodels.numerics.discounting import Flow
from clvmodels.value.presence import PresenceTable, span, tabulate_presence
from clvmodels.value.residual import groups as residual_groups
from clvmodels.value.residual import make_schedule, residual, tabulate
from clvmodels.value.threads import ordered

TILE = 256
_STREAM = {"latent": 1, "predictive": 2, "future": 3}
_DRAWN = 3.0  # purchases discounted by more than exp(-3) are summed, or expected: 0.25 % of variance
_WINDOW = 0.5  # discounting by exp(-0.5) within a window of many purchases
_FADED = 14.0  # without a closed form for the rest, purchases are drawn until exp(-14) = 8e-7


@dataclass(frozen=True)
class Tile:
    """Values of one tile of customers at one level.

    Attributes
    ----------
    customers
        Positions in the summary.
    distinct
        Shape (kind, draw), currency: a value for each kind of customer.
    kind
        Kind of each customer, shape (customer,); None where every customer is its own.
    alive, orders, revenue
        Sums over the tile: shapes (draw,), (draw, horizon), (draw, horizon).
    bands
        Level expected: value by window of the future, summed, shape (draw, band).
    details
        Level expected: posterior means, name → shape (kind,).
    """

    customers: np.ndarray
    distinct: np.ndarray
    alive: np.ndarray
    orders: np.ndarray
    revenue: np.ndarray
    kind: np.ndarray | None = None
    bands: np.ndarray | None = None
    details: Mapping[str, np.ndarray] | None = None

    @property
    def value(self) -> np.ndarray:
        """Value of every customer, shape (customer, draw)."""
        return self.distinct if self.kind is None else self.distinct[self.kind]

    @property
    def members(self) -> np.ndarray | None:
        """Customers of each kind, shape (kind,)."""
        return None if self.kind is None else np.bincount(self.kind, minlength=len(self.distinct))

    def sum(self, where: np.ndarray | None = None) -> np.ndarray:
        """Value of the customers of a mask, or of all, shape (draw,)."""
        if self.kind is None:
            return (self.distinct if where is None else self.distinct[where]).sum(axis=0)
        kind = self.kind if where is None else self.kind[where]
        times = np.bincount(kind, minlength=len(self.distinct)).astype(float)
        return np.einsum("k,kd->d", times, self.distinct)

    def sum_by(self, codes: np.ndarray) -> dict[int, np.ndarray]:
        """Value by code of the customers, shape (draw,) each."""
        return {int(code): self.sum(codes == code) for code in np.unique(codes)}


@dataclass(frozen=True)
class Kinds:
    """Customers folded to those that are worth the same, in order of group, row and spend.

    Attributes
    ----------
    order
        Customers, those of a kind next to each other.
    start
        Where each kind begins in ``order``, and the number of customers.
    row
        Row of each kind.
    group, statistics
        Group of each row, ascending in the order of kinds, and the statistics of each group: rows with
        one value given alive.
    """

    order: np.ndarray
    start: np.ndarray
    row: np.ndarray
    group: np.ndarray
    statistics: np.ndarray

    @classmethod
    def of(cls, family: PurchaseFamily, rows: Rows, spend: np.ndarray, margin: np.ndarray) -> Kinds:
        statistics, group = residual_groups(family, rows.stats)
        keys = (np.arange(len(margin)), margin, *spend.T[::-1], rows.index, group[rows.index])
        order = np.lexsort(keys)
        new = np.zeros(len(order), bool)
        new[:1] = True
        for key in keys[1:-1]:
            ordered_key = key[order]
            new[1:] |= ordered_key[1:] != ordered_key[:-1]
        start = np.flatnonzero(new)
        return cls(
            order=order,
            start=np.r_[start, len(order)],
            row=rows.index[order[start]],
            group=group,
            statistics=statistics,
        )


Then = Callable[[Tile], Any]
"""What is made of a tile in its thread."""


def itself(tile: Tile) -> Any:
    return tile


class Valuation:
    """A posterior, customers and assumptions, ready to be valued at any level.

    Parameters
    ----------
    summary, posterior, assumptions
        What to value.
    seed
        Seeds the levels latent and predictive.
    threads
        Number of threads; changes no result.
    window
        Length of the observed window in time units; default: the highest age of these customers.

    Raises
    ------
    InputError
        If there is no discounting, no horizon and the sum diverges in any draw.
    """

    def __init__(
        self,
        summary: Summary,
        posterior: Posterior,
        assumptions: Assumptions,
        seed: int,
        threads: int | None = None,
        window: float | None = None,
    ) -> None:
        self.summary, self.posterior, self.assumptions = summary, posterior, assumptions
        self.seed, self.threads = seed, threads
        self.purchases: PurchaseFamily = registry.purchases(posterior.purchases.family)
        self.spend: SpendFamily = registry.spend(posterior.spend.family)
        self.draws, self.spend_draws = posterior.pairs()
        self._check_spend()
        self.rows: Rows = summary.fold(self.purchases.state)
        self.order = np.lexsort((np.arange(len(summary)), self.rows.index))
        self.spend_stats = spend_statistics(self.spend, summary)
        self.window = float(self.rows["T"].max()) if window is None else window
        self.flow = valuation_flow(assumptions)
        if assumptions.cost_alive and self.flow.undiscounted_forever:
            raise InputError(
                "value.cost.while_alive is paid for ever: set a positive value.annual_discount_rate or a "
                "finite value.horizon."
            )
        self.horizons = [Flow(delta=0.0, horizon=h) for h in assumptions.horizons.values()]
        make_schedule(self.purchases, self.draws, self.rows.stats, [self.flow])

    def _check_spend(self) -> None:
        """Refuse draws in which a customer's mean spend is infinite: equity would be too."""
        without = int((~self.spend.has_mean(self.spend_draws)).sum())
        if without:
            raise InputError(
                f"models.spend: the mean spend of {self.spend.title} is infinite in {without:,} of "
                f"{len(self.spend_draws):,} draws, so equity is: leave out its fixed parameters or priors "
                "(by default the mean is finite in every draw), or take another spend family."
            )

    @property
    def band_edges(self) -> np.ndarray:
        """Edges of the year bands in time units, cut at the horizon."""
        edges = np.array(self.assumptions.band_years) * self.assumptions.units_per_year
        return np.minimum(edges, self.assumptions.horizon)

    @property
    def may_lose(self) -> bool:
        """Whether a customer may be worth less than nothing."""
        a = self.assumptions
        return a.cost_alive > 0 or a.cost_addressed > 0 or bool((a.margin < 0).any())

    def presence(self, stats: np.ndarray, flows: Sequence[Flow]) -> PresenceTable | None:
        """Discounted time alive of sorted rows, where that costs something."""
        if not self.assumptions.cost_alive:
            return None
        return tabulate_presence(self.purchases, self.draws, stats, flows)

    def contact(self, flows: Sequence[Flow]) -> np.ndarray:
        """Cost of addressing a customer for the contact window, alive or not, shape (flow,)."""
        cost, end = self.assumptions.cost_addressed, self.assumptions.cost_window
        if not cost:
            return np.zeros(len(flows))
        cut = [replace(f, start=min(f.start, end), horizon=min(f.horizon, end)) for f in flows]
        return cost * span(cut, self.purchases.clock == "discrete")

    def each(self, work: Callable[[Valuation, np.ndarray], Any]) -> Iterator[Any]:
        """What is made of the customers who share native draws, and their positions: here, of all."""
        yield work(self, np.arange(len(self.summary)))

    def _tiles(self) -> list[np.ndarray]:
        return [self.order[low : low + TILE] for low in range(0, len(self.order), TILE)]

    def expected(self, *, details: bool = True, then: Then = itself) -> Iterator[Any]:
        """Level expected: ``margin · E[spend] · P(alive) · R``, less the cost of keeping, for every draw.

        The extra window of ``bands`` at the end is what lies beyond the length of the
        observed window.

        Parameters
        ----------
        details
            Whether to add posterior means of each kind.
        then
            What is made of each tile in its thread; by default the tile itself.
        """
        edges = self.band_edges
        windows = list(itertools.pairwise(edges))
        windows.append((min(self.window, self.assumptions.horizon), self.assumptions.horizon))
        flow = self.flow
        banded = [replace(flow, start=low, horizon=high) for low, high in windows]
        flows = [flow, *self.horizons, *banded]
        kinds = Kinds.of(self.purchases, self.rows, self.spend_stats, self.assumptions.margin)
        table = tabulate(self.purchases, self.draws, kinds.statistics, flows)
        kept = self.presence(kinds.statistics, [flow, *banded])
        contact = self.contact([flow, *banded])
        draws, horizons = len(self.draws), len(self.horizons)

        def work(low: int) -> Any:
            high = min(low + TILE, len(kinds.row))
            start = kinds.start[low : high + 1]
            customers, one = kinds.order[start[0] : start[-1]], kinds.order[start[:-1]]
            rows, row = np.unique(kinds.row[low:high], return_inverse=True)
            groups, row_group = np.unique(kinds.group[rows], return_inverse=True)
            alive = np.empty((len(rows), draws))
            loops.over_stats(self.purchases.p_alive, self.draws, self.rows.stats[rows], alive)
            spend, value = np.empty((2, len(one), draws))
            loops.over_stats(self.spend.expected_spend, self.spend_draws, self.spend_stats[one], spend)
            total, mean = np.zeros(draws), np.empty((len(rows), horizons))
            orders, revenue, bands = (np.zeros((n, draws)) for n in (horizons, horizons, len(windows)))
            members = np.diff(start)
            loops.expected_values(
                alive,
                spend,
                table.at(groups),
                self.assumptions.margin[one],
                members.astype(float),
                row,
                row_group[row],
                row_group,
                value,
                total,
                orders,
                revenue,
                bands,
                mean,
            )
            if kept is not None:
                cost = self.assumptions.cost_alive * alive[:, None] * kept.at(groups)[row_group]
                value -= cost[row, 0]
                bands -= np.einsum("r,rkd->kd", np.bincount(row, members, len(rows)), cost[:, 1:])
            value -= contact[0]
            bands -= len(customers) * contact[1:, None]
            found = None
            if details:
                found = {"p_alive": alive.mean(axis=1)[row], "expected_spend": spend.mean(axis=1)}
                for k, label in enumerate(self.assumptions.horizons):
                    found[f"orders_{label.replace(' ', '_')}"] = mean[row, k]
            tile = Tile(
                customers=customers,
                distinct=value,
                kind=np.repeat(np.arange(len(one)), members),
                alive=total,
                orders=orders.T,
                revenue=revenue.T,
                bands=bands.T,
                details=found,
            )
            return then(tile)

        return ordered(work, range(0, len(kinds.row), TILE), self.threads)

    def latent(self, *, then: Then = itself) -> Iterator[Any]:
        """Level latent: each customer's own rate, dropout and mean spend are drawn."""
        flows = [self.flow, *self.horizons]
        family = self.purchases
        discrete = family.clock == "discrete"
        closed = family.latent_rate is None or family.latent_value is not None
        codes = np.array([flow.code(discrete) for flow in flows])
        plan = make_schedule(family, self.draws, self.rows.stats, flows)
        width = max(len(family.latents), len(self.spend.latents))

        def work(task: tuple[int, np.ndarray]) -> Any:
            number, customers = task
            tile = self._empty(customers, len(self.horizons))
            loops.latent_values(
                family.latent,
                self.spend.latent,
                family.latent_rate or loops.exponential_rate,
                family.latent_value or loops.exponential_value,
                family.latent_presence or loops.exponential_presence,
                closed,
                self.draws,
                self.spend_draws,
                self.rows.stats[self.rows.index[customers]],
                self.spend_stats[customers],
                self.assumptions.margin[customers],
                self.assumptions.cost_alive,
                codes,
                plan.nodes,
                plan.weights,
                self._generator("latent", number),
                width,
                tile.distinct,
                tile.alive,
                tile.orders.T,
                tile.revenue.T,
            )
            tile.distinct[:] -= self.contact([self.flow])
            return then(tile)

        return ordered(work, enumerate(self._tiles()), self.threads)

    def predictive(self, *, then: Then = itself) -> Iterator[Any]:
        """Level predictive: every future purchase and basket is drawn."""
        edges = np.r_[0.0, np.sort(list(self.assumptions.horizons.values()))]
        order = np.argsort(np.argsort(list(self.assumptions.horizons.values()), kind="stable"))

        def cumulated(tile: Tile) -> Any:
            orders, revenue = (bins.cumsum(axis=1)[:, order] for bins in (tile.orders, tile.revenue))
            tile.distinct[:] -= self.contact([self.flow])
            return then(replace(tile, orders=orders, revenue=revenue))

        return self._simulate("predictive", self.flow, edges, cumulated)

    def future(self, edges: Sequence[float] | np.ndarray) -> Iterator[Tile]:
        """Predictive draws of repeat orders and revenue in consecutive bins after T.

        Parameters
        ----------
        edges
            Ascending, in time units after the end of observation; bin k is
            (edges[k], edges[k+1]].
        """
        none = Flow(delta=0.0, horizon=0.0)
        return self._simulate("future", none, np.asarray(edges, float), itself)

    def _simulate(self, stream: str, flow: Flow, edges: np.ndarray, then: Then) -> Iterator[Any]:
        family = self.purchases
        code, discounting, rest = cut_off(family, flow, edges[-1])
        width = max(len(family.latents), len(self.spend.latents))
        plan = windows(flow, edges)
        if family.given_alive is not None and self.spend.given_history is not None and plan is not None:
            return self._paths(stream, flow, edges, then, plan)

        def work(task: tuple[int, np.ndarray]) -> Any:
            number, customers = task
            tile = self._empty(customers, len(edges) - 1)
            loops.predictive_values(
                family.latent,
                family.gap,
                self.spend.latent,
                self.spend.basket,
                self.draws,
                self.spend_draws,
                self.rows.stats[self.rows.index[customers]],
                self.spend_stats[customers],
                self.assumptions.margin[customers],
                self.assumptions.cost_alive if code[3] > 0 else 0.0,
                code,
                discounting,
                rest,
                edges,
                self._generator(stream, number),
                width,
                tile.distinct,
                tile.alive,
                tile.orders.T,
                tile.revenue.T,
            )
            return then(tile)

        return ordered(work, enumerate(self._tiles()), self.threads)

    def _paths(
        self, stream: str, flow: Flow, edges: np.ndarray, then: Then, plan: tuple[np.ndarray, int, float]
    ) -> Iterator[Any]:
        """The same where purchases and baskets have gamma laws; the clock is continuous."""
        family, (inner, near, end) = self.purchases, plan
        periodic, _, delta, _, step, offset = flow.code()
        discounting = np.array([periodic, step, offset, delta, end])

        def work(task: tuple[int, np.ndarray]) -> Any:
            number, customers = task
            word, jump = variates.stream(self.seed, _STREAM[stream], number)
            tile = self._empty(customers, len(edges) - 1)
            paths.predictive_paths(
                family.p_alive,
                family.given_alive,
                self.spend.given_history,
                family.dropout == "purchase",
                self.draws,
                self.spend_draws,
                self.rows.stats[self.rows.index[customers]],
                self.spend_stats[customers],
                self.assumptions.margin[customers],
                self.assumptions.cost_alive if flow.horizon > 0 else 0.0,
                discounting,
                inner,
                near,
                edges,
                word,
                jump,
                tile.distinct,
                tile.alive,
                tile.orders.T,
                tile.revenue.T,
            )
            return then(tile)

        return ordered(work, enumerate(self._tiles()), self.threads)

    def _empty(self, customers: np.ndarray, bins: int) -> Tile:
        n = len(self.draws)
        return Tile(
            customers=customers,
            distinct=np.empty((len(customers), n)),
            alive=np.zeros(n),
            orders=np.zeros((bins, n)).T,
            revenue=np.zeros((bins, n)).T,
        )

    def _generator(self, stream: str, number: int) -> np.random.Generator:
        key = (_STREAM[stream], number)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key)))


def valuation_flow(assumptions: Assumptions) -> Flow:
    """The flow that the assumptions describe."""
    return Flow(
        delta=assumptions.delta,
        horizon=assumptions.horizon,
        timing=assumptions.timing,
        period=assumptions.period,
    )


def cut_off(
    family: PurchaseFamily, flow: Flow, at_least: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Until when purchases are drawn one by one, and how what follows is added in expectation.

    Returns
    -------
    code, discounting, rest
        :meth:`Flow.code`, and what :func:`loops.predictive_values` reads under these names;
        purchases are drawn at least up to ``at_least`` where the rest has a closed form.
    """
    code = flow.code(family.clock == "discrete")
    periodic, _, delta, horizon, step, offset = code
    memoryless = family.latent_rate is None
    cut = horizon if delta == 0 else min(horizon, (_DRAWN if memoryless else _FADED) / delta)
    if memoryless and cut < horizon:
        cut = min(max(cut, at_least), horizon)
        cut = step * np.ceil(cut / step) if periodic else cut
    if np.isinf(cut):
        # Undiscounted for ever: lifetimes are finite in every draw, the sum converges.
        cut = np.finfo(float).max
    rest = code.copy()
    rest[3] = max(horizon - cut, 0.0) if memoryless and cut < horizon else 0.0
    return code, np.array([periodic, step, offset, delta, cut]), rest


def windows(flow: Flow, edges: np.ndarray) -> tuple[np.ndarray, int, float] | None:
    """Windows of the future in which discounting changes little, for :func:`paths.predictive_paths`.

    Returns
    -------
    windows, near, end
        Ascending from 0; the number of those in which purchases are counted; and where purchases are no
        longer valued. None for a sum without discounting and without end.
    """
    end = flow.horizon if flow.delta == 0 else min(flow.horizon, _FADED / flow.delta)
    if np.isinf(end):
        return None
    near, marks = max(end, edges[-1]), [0.0, end, *edges]
    if flow.delta > 0:
        near = max(min(end, _DRAWN / flow.delta), edges[-1])
        marks += [near, *(np.arange(0.0, _DRAWN, _WINDOW) / flow.delta)]
    last = max(end, near)
    inner = np.unique([mark for mark in marks if mark <= last])
    return inner, int(np.searchsorted(inner, near)), end


def spend_statistics(family: SpendFamily, summary: Summary) -> np.ndarray:
    """Statistics of the spend family, shape (customer, statistic); 0 where there is no history."""
    columns = [np.nan_to_num(summary[name]) for name in family.statistics]
    return np.ascontiguousarray(np.column_stack(columns))


def p_alive(family: PurchaseFamily, draws: np.ndarray, stats: np.ndarray) -> np.ndarray:
    """P(alive), shape (draw, row)."""
    out = np.empty((len(stats), len(draws)))
    loops.over_stats(family.p_alive, draws, np.ascontiguousarray(stats, float), out)
    return out.T


def expected_spend(family: SpendFamily, draws: np.ndarray, stats: np.ndarray) -> np.ndarray:
    """Expected mean spend, shape (draw, row)."""
    out = np.empty((len(stats), len(draws)))
    loops.over_stats(family.expected_spend, draws, np.ascontiguousarray(stats, float), out)
    return out.T


def expected_purchases(
    family: PurchaseFamily, draws: np.ndarray, stats: np.ndarray, flows: Sequence[Flow]
) -> np.ndarray:
    """P(alive) × R, expected (discounted) purchases, shape (draw, row, flow)."""
    left = residual(family, draws, np.ascontiguousarray(stats, float), flows)
    return left.transpose(2, 0, 1) * p_alive(family, draws, stats)[:, :, None]
