"""Streams tiles of customers through the draws; nothing of size draws × customers is kept.

A tile is a fixed number of customers with all draws. Random streams belong to tiles, and
results come back in the order of tiles, so that threads and memory change nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clvmodels.artifacts import Assumptions, Posterior, Rows, Summary
from clvmodels.models import registry
from clvmodels.models.family import PurchaseFamily, SpendFamily
from clvmodels.numerics import loops
from clvmodels.numerics.discounting import Flow
from clvmodels.value.residual import make_schedule, residual, tabulate
from clvmodels.value.threads import ordered

TILE = 256
_STREAM = {"latent": 1, "predictive": 2, "future": 3}
_DRAWN = 3.0  # purchases discounted by more than exp(-3) are expected, not drawn: 0.25 % of variance
_FADED = 14.0  # without a closed form for the rest, purchases are drawn until exp(-14) = 8e-7


@dataclass(frozen=True)
class Tile:
    """Values of one tile of customers at one level.

    Attributes
    ----------
    customers
        Positions in the summary.
    value
        Shape (customer, draw), currency.
    alive, orders, revenue
        Sums over the tile: shapes (draw,), (draw, horizon), (draw, horizon).
    bands
        Level expected: value by window of the future, summed, shape (draw, band).
    details
        Level expected: per-customer posterior means, name → shape (customer,).
    """

    customers: np.ndarray
    value: np.ndarray
    alive: np.ndarray
    orders: np.ndarray
    revenue: np.ndarray
    bands: np.ndarray | None = None
    details: Mapping[str, np.ndarray] | None = None


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
        self.rows: Rows = summary.fold(self.purchases.state)
        self.order = np.lexsort((np.arange(len(summary)), self.rows.index))
        self.spend_stats = spend_statistics(self.spend, summary)
        self.window = float(self.rows["T"].max()) if window is None else window
        self.flow = valuation_flow(assumptions)
        self.horizons = [Flow(delta=0.0, horizon=h) for h in assumptions.horizons.values()]
        make_schedule(self.purchases, self.draws, self.rows.stats, [self.flow])

    @property
    def band_edges(self) -> np.ndarray:
        """Edges of the year bands in time units, cut at the horizon."""
        edges = np.array(self.assumptions.band_years) * self.assumptions.units_per_year
        return np.minimum(edges, self.assumptions.horizon)

    def _tiles(self) -> list[np.ndarray]:
        return [self.order[low : low + TILE] for low in range(0, len(self.order), TILE)]

    def expected(self, *, details: bool = True) -> Iterator[Tile]:
        """Level expected: ``margin · E[spend] · P(alive) · R`` for every draw.

        The extra window of ``bands`` at the end is what lies beyond the length of the
        observed window.
        """
        edges = self.band_edges
        windows = list(itertools.pairwise(edges))
        windows.append((min(self.window, self.assumptions.horizon), self.assumptions.horizon))
        flow = self.flow
        flows = [flow, *self.horizons]
        flows += [
            Flow(delta=flow.delta, start=low, horizon=high, timing=flow.timing, period=flow.period)
            for low, high in windows
        ]
        table = tabulate(self.purchases, self.draws, self.rows.stats, flows)
        split = 1 + len(self.horizons)

        def work(customers: np.ndarray) -> Tile:
            index = self.rows.index[customers]
            rows = slice(index[0], index[-1] + 1)
            local = index - index[0]
            alive = np.empty((rows.stop - rows.start, len(self.draws)))
            loops.over_stats(self.purchases.p_alive, self.draws, self.rows.stats[rows], alive)
            spend = np.empty((len(customers), len(self.draws)))
            loops.over_stats(self.spend.expected_spend, self.spend_draws, self.spend_stats[customers], spend)
            left = table.at(rows) * alive[:, None, :]
            margin = self.assumptions.margin[customers]
            earned = spend * margin[:, None]
            value = earned * left[local, 0]
            # Every row of the tile has customers next to each other: sum those first.
            starts = np.flatnonzero(np.diff(local, prepend=-1))
            members = np.diff(np.r_[starts, len(local)])
            paid, gained = np.add.reduceat(spend, starts), np.add.reduceat(earned, starts)
            return Tile(
                customers=customers,
                value=value,
                alive=members @ alive,
                orders=np.einsum("r,rkd->dk", members, left[:, 1:split]),
                revenue=np.einsum("rd,rkd->dk", paid, left[:, 1:split]),
                bands=np.einsum("rd,rkd->dk", gained, left[:, split:]),
                details=self._details(local, alive, spend, left[:, 1:split]) if details else None,
            )

        return ordered(work, self._tiles(), self.threads)

    def _details(
        self, local: np.ndarray, alive: np.ndarray, spend: np.ndarray, orders: np.ndarray
    ) -> dict[str, np.ndarray]:
        details = {"p_alive": alive.mean(axis=1)[local], "expected_spend": spend.mean(axis=1)}
        for k, label in enumerate(self.assumptions.horizons):
            details[f"orders_{label.replace(' ', '_')}"] = orders[:, k].mean(axis=1)[local]
        return details

    def latent(self) -> Iterator[Tile]:
        """Level latent: each customer's own rate, dropout and mean spend are drawn."""
        flows = [self.flow, *self.horizons]
        family = self.purchases
        discrete = family.clock == "discrete"
        closed = family.latent_rate is None or family.latent_value is not None
        codes = np.array([flow.code(discrete) for flow in flows])
        plan = make_schedule(family, self.draws, self.rows.stats, flows)
        width = max(len(family.latents), len(self.spend.latents))

        def work(task: tuple[int, np.ndarray]) -> Tile:
            number, customers = task
            tile = self._empty(customers, len(self.horizons))
            loops.latent_values(
                family.latent,
                self.spend.latent,
                family.latent_rate or loops.exponential_rate,
                family.latent_value or loops.exponential_value,
                closed,
                self.draws,
                self.spend_draws,
                self.rows.stats[self.rows.index[customers]],
                self.spend_stats[customers],
                self.assumptions.margin[customers],
                codes,
                plan.nodes,
                plan.weights,
                self._generator("latent", number),
                width,
                tile.value,
                tile.alive,
                tile.orders.T,
                tile.revenue.T,
            )
            return tile

        return ordered(work, enumerate(self._tiles()), self.threads)

    def predictive(self) -> Iterator[Tile]:
        """Level predictive: every future purchase and basket is drawn."""
        edges = np.r_[0.0, np.sort(list(self.assumptions.horizons.values()))]
        order = np.argsort(np.argsort(list(self.assumptions.horizons.values()), kind="stable"))
        for tile in self._simulate("predictive", self.flow, edges):
            yield Tile(
                customers=tile.customers,
                value=tile.value,
                alive=tile.alive,
                orders=tile.orders.cumsum(axis=1)[:, order],
                revenue=tile.revenue.cumsum(axis=1)[:, order],
            )

    def future(self, edges: Sequence[float] | np.ndarray) -> Iterator[Tile]:
        """Predictive draws of repeat orders and revenue in consecutive bins after T.

        Parameters
        ----------
        edges
            Ascending, in time units after the end of observation; bin k is
            (edges[k], edges[k+1]].
        """
        none = Flow(delta=0.0, horizon=0.0)
        return self._simulate("future", none, np.asarray(edges, float))

    def _simulate(self, stream: str, flow: Flow, edges: np.ndarray) -> Iterator[Tile]:
        family = self.purchases
        code = flow.code(family.clock == "discrete")
        periodic, _, delta, horizon, step, offset = code
        memoryless = family.latent_rate is None
        cut = horizon if delta == 0 else min(horizon, (_DRAWN if memoryless else _FADED) / delta)
        if memoryless and cut < horizon:
            cut = min(max(cut, edges[-1]), horizon)
            cut = step * np.ceil(cut / step) if periodic else cut
        if np.isinf(cut):
            # Undiscounted for ever: lifetimes are finite in every draw, the sum converges.
            cut = np.finfo(float).max
        discounting = np.array([periodic, step, offset, delta, cut])
        rest = code.copy()
        rest[3] = max(horizon - cut, 0.0) if memoryless and cut < horizon else 0.0
        width = max(len(family.latents), len(self.spend.latents))

        def work(task: tuple[int, np.ndarray]) -> Tile:
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
                discounting,
                rest,
                edges,
                self._generator(stream, number),
                width,
                tile.value,
                tile.alive,
                tile.orders.T,
                tile.revenue.T,
            )
            return tile

        return ordered(work, enumerate(self._tiles()), self.threads)

    def _empty(self, customers: np.ndarray, bins: int) -> Tile:
        n = len(self.draws)
        return Tile(
            customers=customers,
            value=np.empty((len(customers), n)),
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
