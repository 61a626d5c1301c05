"""Values of customers who differ in their parameters: pattern by pattern, by the same kernels.

Customers with one pattern of covariates and pooled levels share native draws. A valuation of such a
posterior is the valuations of its patterns, with tiles in the order of patterns, so that sums do
not depend on threads; random streams belong to patterns. Native draws exist for the patterns in
work only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clvmodels.artifacts import Assumptions, FamilyPosterior, Posterior, Summary
from clvmodels.effects import Patterns, UnknownLevel, patterns
from clvmodels.errors import InputError
from clvmodels.models import links, registry
from clvmodels.models.family import Family
from clvmodels.numerics.discounting import Flow
from clvmodels.value.stream import TILE, Then, Tile, Valuation, itself, valuation_flow
from clvmodels.value.threads import ordered

_NONE = Patterns(index=np.zeros(0, int), keys=np.zeros((1, 0)), unseen=())


@dataclass(frozen=True)
class Natives:
    """Native draws of the customers of a summary, pattern by pattern.

    Attributes
    ----------
    part
        Posterior of one family, with effects or without.
    index
        Shape (customer,): pattern of each customer.
    """

    part: FamilyPosterior
    found: Patterns
    index: np.ndarray

    @classmethod
    def of(cls, part: FamilyPosterior, summary: Summary) -> Natives:
        """Patterns of a summary's customers.

        Raises
        ------
        InputError
            If a customer has a level of a covariate that the fit did not see.
        """
        if part.effects is None:
            return cls(part, _NONE, np.zeros(len(summary), int))
        try:
            found = patterns(part.effects.terms, summary)
        except UnknownLevel as unknown:
            column, label, known = unknown.args
            raise InputError(
                f"column {column!r} has {label!r}, which the model was fitted without (it knows "
                f"{', '.join(known[:10])}{' and others' if len(known) > 10 else ''}): fit it again, or pool "
                "the column with models.pool, which can predict new levels."
            ) from None
        except KeyError as missing:
            raise InputError(
                f"the customers have no column {missing.args[0]!r}, which the model's effects need: add it."
            ) from None
        return cls(part, found, found.index)

    @property
    def family(self) -> Family:
        return registry.get(self.part.family)

    def draws(self, pattern: int) -> np.ndarray:
        """Native draws of a pattern, shape (draw, parameter)."""
        effects = self.part.effects
        if effects is None:
            return self.part.flat
        return links.draws(self.family, self.part.flat, effects.shift(self.found, pattern))

    def groups(self, where: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Native draws of each pattern, and the positions of its customers (within ``where``)."""
        index = self.index if where is None else self.index[where]
        order = np.argsort(index, kind="stable")
        starts = np.flatnonzero(np.diff(index[order], prepend=-1))
        for low, high in zip(starts, np.r_[starts[1:], len(order)], strict=True):
            members = order[low:high]
            yield self.draws(int(index[members[0]])), members

    def thetas(self, picks: np.ndarray, where: np.ndarray) -> Iterator[dict[str, np.ndarray | float]]:
        """For each picked draw the native parameters of customers ``where``: numbers, or one each."""
        names = self.part.parameters
        picks = picks if len(self.part.flat) > 1 else np.zeros_like(picks)
        if self.part.effects is None:
            for d in picks:
                yield dict(zip(names, self.part.flat[d], strict=True))
            return
        distinct, place = np.unique(self.index[where], return_inverse=True)
        some = np.unique(picks)
        table = np.stack([self.draws(int(pattern))[some] for pattern in distinct])
        varies = (table != table[:1]).any(axis=(0, 1))
        for d in np.searchsorted(some, picks):
            yield {
                name: table[place, d, j] if many else float(table[0, d, j])
                for j, (name, many) in enumerate(zip(names, varies, strict=True))
            }


class PatternedValuation:
    """What :class:`clvmodels.value.stream.Valuation` offers, for a posterior with effects.

    Parameters
    ----------
    summary, posterior, assumptions, seed, threads
        As there.
    """

    def __init__(
        self,
        summary: Summary,
        posterior: Posterior,
        assumptions: Assumptions,
        seed: int,
        threads: int | None = None,
    ) -> None:
        self.summary, self.posterior, self.assumptions = summary, posterior, assumptions
        self.seed, self.threads = seed, threads
        self.draws, self.spend_draws = posterior.centre()
        self.purchases = Natives.of(posterior.purchases, summary)
        self.spend = Natives.of(posterior.spend, summary)
        self.flow = valuation_flow(assumptions)
        self.horizons = [Flow(delta=0.0, horizon=h) for h in assumptions.horizons.values()]
        both = np.column_stack([self.purchases.index, self.spend.index])
        self.pairs, index = np.unique(both, axis=0, return_inverse=True)
        order = np.argsort(index.ravel(), kind="stable")
        self.members = np.split(order, np.flatnonzero(np.diff(index.ravel()[order])) + 1)
        if assumptions.delta == 0 and not np.isfinite(assumptions.horizon):
            for number in range(len(self.pairs)):  # refuses a sum that diverges, before anything slow
                self.part(number)

    @property
    def order(self) -> np.ndarray:
        """Customers, those of a pattern next to each other."""
        return np.concatenate(self.members)

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

    def expected(self, *, details: bool = True, then: Then = itself) -> Iterator[Any]:
        """Level expected, see :meth:`Valuation.expected`."""
        return self._each(lambda part, after: part.expected(details=details, then=after), then)

    def latent(self, *, then: Then = itself) -> Iterator[Any]:
        """Level latent, see :meth:`Valuation.latent`."""
        return self._each(lambda part, after: part.latent(then=after), then)

    def predictive(self, *, then: Then = itself) -> Iterator[Any]:
        """Level predictive, see :meth:`Valuation.predictive`."""
        return self._each(lambda part, after: part.predictive(then=after), then)

    def future(self, edges: Sequence[float] | np.ndarray) -> Iterator[Tile]:
        """Orders and revenue in bins after T, see :meth:`Valuation.future`."""
        return self._each(lambda part, after: map(after, part.future(edges)), itself)

    def part(self, number: int, threads: int | None = None) -> Valuation:
        """The valuation of one pattern's customers, ``members[number]``."""
        of_purchases, of_spend = self.pairs[number]
        posterior = replace(
            self.posterior,
            purchases=_plain(self.posterior.purchases, self.purchases.draws(int(of_purchases))),
            spend=_plain(self.posterior.spend, self.spend.draws(int(of_spend))),
        )
        members = self.members[number]
        seed = np.random.SeedSequence([self.seed, number]).generate_state(2, np.uint64)
        return Valuation(
            self.summary.take(members),
            posterior,
            replace(self.assumptions, margin=self.assumptions.margin[members]),
            int(seed[0]),
            threads,
            window=float(self.summary["T"].max()),
        )

    def each(self, work: Callable[[Valuation, np.ndarray], Any]) -> Iterator[Any]:
        """What is made of each pattern's valuation and the positions of its customers.

        Large patterns come first, one after the other on threads; then the small ones, a pattern a thread.
        """
        large, small = self._sizes()
        for number in large:
            yield work(self.part(number, self.threads), self.members[number])
        yield from ordered(
            lambda number: work(self.part(number, 1), self.members[number]), small, self.threads
        )

    def _each(self, tiles: Callable[[Valuation, Then], Iterator[Any]], then: Then) -> Iterator[Any]:
        """What is made of the tiles, as they come: those of a large pattern are never all kept."""

        def each(number: int, threads: int | None) -> Iterator[Any]:
            members = self.members[number]
            return tiles(self.part(number, threads), lambda tile: then(_placed(tile, members)))

        large, small = self._sizes()
        for number in large:
            yield from each(number, self.threads)
        for found in ordered(lambda number: list(each(number, 1)), small, self.threads):
            yield from found

    def _sizes(self) -> tuple[list[int], list[int]]:
        """Patterns of more customers than a tile, and the others."""
        large = [number for number, members in enumerate(self.members) if len(members) > TILE]
        return large, [number for number, members in enumerate(self.members) if len(members) <= TILE]


def _plain(part: FamilyPosterior, draws: np.ndarray) -> FamilyPosterior:
    """A pattern's draws as a posterior that holds for all its customers."""
    return replace(part, draws=draws[None], effects=None)


def _placed(tile: Tile, members: np.ndarray) -> Tile:
    return replace(tile, customers=members[tile.customers])


AnyValuation = Valuation | PatternedValuation


def valuation(
    summary: Summary,
    posterior: Posterior,
    assumptions: Assumptions,
    seed: int,
    threads: int | None = None,
) -> AnyValuation:
    """A posterior, customers and assumptions, ready to be valued, whether customers differ or not."""
    if posterior.effects:
        return PatternedValuation(summary, posterior, assumptions, seed, threads)
    return Valuation(summary, posterior, assumptions, seed, threads)
