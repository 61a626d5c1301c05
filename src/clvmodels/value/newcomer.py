"""What a customer who is still to be won is worth: the first order, and the orders that follow it.

``v = m E[ζ] (1 + DET)``: a customer who has just made the first order is the history
x = t_x = T = 0, and the 1 is that first order itself (Fader and Hardie 2012, case 1: the bound on
what a customer may cost). All values are at the moment of the first order, before acquisition cost and
after the cost of keeping the customer from then on.

Where customers differ by covariates or pooled levels, a new one is a :class:`Mixture` of their patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from clvmodels.artifacts import FamilyPosterior, Posterior, Summary
from clvmodels.effects import MONTH
from clvmodels.models import registry
from clvmodels.models.family import PurchaseFamily, SpendFamily
from clvmodels.numerics import loops
from clvmodels.numerics.discounting import Flow
from clvmodels.numerics.newcomers import newcomer_values
from clvmodels.value.patterns import Natives
from clvmodels.value.presence import span, tabulate_presence
from clvmodels.value.residual import make_schedule
from clvmodels.value.stream import cut_off, expected_purchases, expected_spend

GRID = 128
"""Intervals in log time on which cumulative orders are interpolated; the error of a cubic on
intervals of 0.07 is below 1e-7 of an order."""
PATTERNS = 40
"""Patterns of a mixture; of more, so many customers stand for all."""


@dataclass(frozen=True)
class Newcomer:
    """A customer who is about to make the first order, under every draw of a posterior.

    Attributes
    ----------
    posterior
        Draws of both families.
    margin
        Contribution margin ratio.
    first_amount
        Amount of the first order by draw, shape (draw,); None: the spend model's mean.
    cost_alive, cost_addressed, cost_window
        Cost of keeping the customer, as in :class:`clvmodels.artifacts.Assumptions`, from the first order on.
    """

    posterior: Posterior
    margin: float
    first_amount: np.ndarray | None = None
    cost_alive: float = 0.0
    cost_addressed: float = 0.0
    cost_window: float = 0.0

    @cached_property
    def purchases(self) -> PurchaseFamily:
        return registry.purchases(self.posterior.purchases.family)

    @cached_property
    def spend(self) -> SpendFamily:
        return registry.spend(self.posterior.spend.family)

    @cached_property
    def _history(self) -> np.ndarray:
        return np.zeros((1, len(self.purchases.state)))

    @cached_property
    def amount(self) -> np.ndarray:
        """Expected amount of an order after the first, shape (draw,), currency."""
        nothing = np.zeros((1, len(self.spend.statistics)))
        return expected_spend(self.spend, self.posterior.pairs()[1], nothing)[:, 0]

    @property
    def first_order(self) -> np.ndarray:
        """Margin of the first order, shape (draw,), currency."""
        return self.margin * (self.amount if self.first_amount is None else self.first_amount)

    def orders(self, flows: Sequence[Flow]) -> np.ndarray:
        """Expected orders after the first, discounted to it, shape (draw, flow).

        Raises
        ------
        InputError
            If the sum of a flow diverges in any draw.
        """
        return expected_purchases(self.purchases, self.posterior.pairs()[0], self._history, flows)[:, 0]

    def later(self, flows: Sequence[Flow]) -> np.ndarray:
        """Expected margin of the orders after the first less the cost of keeping, shape (draw, flow)."""
        return self.margin * self.amount[:, None] * self.orders(flows) - self.kept(flows)

    def kept(self, flows: Sequence[Flow]) -> np.ndarray:
        """Expected cost of keeping the customer, shape (draw, flow), currency."""
        draws, end = self.posterior.pairs()[0], self.cost_window
        total = np.zeros((len(draws), len(flows)))
        if self.cost_addressed:
            cut = [replace(f, start=min(f.start, end), horizon=min(f.horizon, end)) for f in flows]
            total += self.cost_addressed * span(cut, self.purchases.clock == "discrete")
        if self.cost_alive:
            table = tabulate_presence(self.purchases, draws, self._history, flows)
            alive = np.empty((1, len(draws)))
            loops.over_stats(self.purchases.p_alive, draws, self._history, alive)
            total += self.cost_alive * (table.at(np.zeros(1, int))[0] * alive).T
        return total

    def value(self, flow: Flow) -> np.ndarray:
        """``m E[ζ] (1 + DET)``, shape (draw,), currency."""
        return self.first_order + self.later([flow])[:, 0]

    def simulate(
        self, level: Literal["latent", "predictive"], flow: Flow, customers: int, seed: np.random.SeedSequence
    ) -> np.ndarray:
        """Values of customers drawn from the population of each draw, shape (customer, draw), currency.

        Level latent draws who each customer is, level predictive every order and basket too. Their
        mean over customers is :meth:`value`; the cost of keeping is the expected one of each draw.
        """
        family, (draws, spend_draws) = self.purchases, self.posterior.pairs()
        code, discounting, rest = cut_off(family, flow)
        plan = make_schedule(family, draws, self._history, [flow])
        out = np.empty((customers, len(draws)))
        newcomer_values(
            level == "predictive",
            family.latent,
            family.gap,
            self.spend.latent,
            self.spend.basket,
            family.latent_rate or loops.exponential_rate,
            family.latent_value or loops.exponential_value,
            family.latent_rate is None or family.latent_value is not None,
            draws,
            spend_draws,
            self._history[0],
            np.zeros(len(self.spend.statistics)),
            np.ones(len(draws)) if self.first_amount is None else self.first_amount / self.amount,
            code,
            plan.nodes,
            plan.weights[0],
            discounting,
            rest,
            np.random.Generator(np.random.PCG64(seed)),
            max(len(family.latents), len(self.spend.latents)),
            out,
        )
        return self.margin * out - self.kept([flow])[:, 0]

    def payback(self, cost: np.ndarray, delta: float, longest: float, unit: float) -> np.ndarray:
        """Time at which expected margin has paid back a cost: ``inf{t: m E[ζ] (1 + E[X(t)]) ≥ cost}``.

        Parameters
        ----------
        cost
            Cost of a customer by draw, shape (draw,), currency.
        delta
            Continuous discount rate per time unit; 0 for the undiscounted curve.
        longest
            Time units after which the cost counts as never paid back.
        unit
            A short time, in time units, around which the curve bends.

        Returns
        -------
        Shape (draw,), time units; 0 where the first order covers the cost, ``inf`` where it is
        never covered. On a discrete clock a whole number of opportunities. With a cost of keeping the
        curve may turn; the first time counts, by linear interpolation on the grid.
        """
        return _payback(self, cost, delta, longest, unit)

    @property
    def keeping_costs(self) -> bool:
        return self.cost_alive > 0 or self.cost_addressed > 0

    def rates(self, times: np.ndarray) -> np.ndarray:
        """Expected margin per time unit after the first order, shape (draw, time)."""
        draws = self.posterior.pairs()[0]
        rates, alive = np.empty((1, len(times), len(draws))), np.empty((1, len(draws)))
        loops.weighted_rates(self.purchases.rate, draws, self._history, times, np.eye(len(times)), rates)
        loops.over_stats(self.purchases.p_alive, draws, self._history, alive)
        return (rates[0] * alive * self.margin * self.amount).T


@dataclass(frozen=True)
class Mixture:
    """A customer about to make the first order who has one of several patterns.

    Attributes
    ----------
    parts, weights
        A new customer of each pattern, and the probability of it.
    posterior
        The posterior of all.
    """

    parts: tuple[Newcomer, ...]
    weights: np.ndarray
    posterior: Posterior

    @classmethod
    def of(cls, posterior: Posterior, summary: Summary, **rest: Any) -> Mixture:
        """One who is like these customers; of months of the first purchase that are pooled, the next one.

        Parameters
        ----------
        rest
            Of :class:`Newcomer`.
        """
        terms = [term for found in posterior.effects for term in found.terms if MONTH in term.by]
        if terms and all(term.pooled for term in terms):
            month = np.datetime64(summary.observation_end, "M") + 1
            first_day = np.full(len(summary), month.astype("datetime64[D]"))
            summary = replace(summary, first_day=first_day)
        buying, spending = (Natives.of(part, summary) for part in (posterior.purchases, posterior.spend))
        both = np.column_stack([buying.index, spending.index])
        pairs, count = np.unique(both, axis=0, return_counts=True)
        if len(pairs) > PATTERNS:
            order = np.lexsort(both.T[::-1])
            picks = np.linspace(0, len(order), PATTERNS, endpoint=False) + len(order) / (2 * PATTERNS)
            pairs, count = np.unique(both[order[picks.astype(int)]], axis=0, return_counts=True)
        parts = []
        for bought, spent in pairs:
            own = replace(
                posterior,
                purchases=_plain(posterior.purchases, buying.draws(int(bought))),
                spend=_plain(posterior.spend, spending.draws(int(spent))),
            )
            parts.append(Newcomer(own, **rest))
        return cls(tuple(parts), count / count.sum(), posterior)

    @property
    def purchases(self) -> PurchaseFamily:
        return self.parts[0].purchases

    @property
    def keeping_costs(self) -> bool:
        return self.parts[0].keeping_costs

    @property
    def first_order(self) -> np.ndarray:
        """As :attr:`Newcomer.first_order`."""
        return self._mean(lambda part: part.first_order)

    def later(self, flows: Sequence[Flow]) -> np.ndarray:
        """As :meth:`Newcomer.later`."""
        return self._mean(lambda part: part.later(flows))

    def value(self, flow: Flow) -> np.ndarray:
        """As :meth:`Newcomer.value`."""
        return self.first_order + self.later([flow])[:, 0]

    def rates(self, times: np.ndarray) -> np.ndarray:
        """As :meth:`Newcomer.rates`."""
        return self._mean(lambda part: part.rates(times))

    def payback(self, cost: np.ndarray, delta: float, longest: float, unit: float) -> np.ndarray:
        """As :meth:`Newcomer.payback`, of the mean over patterns."""
        return _payback(self, cost, delta, longest, unit)

    def simulate(
        self, level: Literal["latent", "predictive"], flow: Flow, customers: int, seed: np.random.SeedSequence
    ) -> np.ndarray:
        """As :meth:`Newcomer.simulate`; each customer's pattern is drawn."""
        picked, *seeds = seed.spawn(len(self.parts) + 1)
        of = np.random.default_rng(picked).choice(len(self.parts), size=customers, p=self.weights)
        found = np.empty((customers, len(self.posterior)))
        for k in np.unique(of):
            rows = np.flatnonzero(of == k)
            found[rows] = self.parts[k].simulate(level, flow, len(rows), seeds[k])
        return found

    def _mean(self, value: Callable[[Newcomer], np.ndarray]) -> np.ndarray:
        total: Any = 0.0
        for part, weight in zip(self.parts, self.weights, strict=True):
            total = total + weight * value(part)
        return np.asarray(total)


AnyNewcomer = Newcomer | Mixture


def newcomer(posterior: Posterior, summary: Summary, **rest: Any) -> AnyNewcomer:
    """A customer about to be won who is like those of a summary, whether they differ or not."""
    if posterior.effects:
        return Mixture.of(posterior, summary, **rest)
    return Newcomer(posterior, **rest)


def _plain(part: FamilyPosterior, draws: np.ndarray) -> FamilyPosterior:
    return replace(part, draws=draws[None], effects=None)


def _payback(new: AnyNewcomer, cost: np.ndarray, delta: float, longest: float, unit: float) -> np.ndarray:
    """See :meth:`Newcomer.payback`."""
    discrete = new.purchases.clock == "discrete"
    u = np.linspace(0.0, np.log1p(longest / unit), GRID + 1)
    times = unit * np.expm1(u)
    if discrete:
        times = np.unique(np.r_[np.arange(65.0), np.ceil(times)])
        times = times[times <= max(np.floor(longest), 1.0)]
    curve = np.zeros((len(cost), len(times)))
    curve[:, 1:] = new.later([Flow(delta=delta, horizon=t) for t in times[1:]])
    target = np.broadcast_to(cost - new.first_order, len(cost))
    covered = curve >= target[:, None]
    k = np.where(covered.any(axis=1), covered.argmax(axis=1), len(times))  # the first that covers the cost
    out = np.where(target <= 0, 0.0, np.inf)
    rows = np.flatnonzero((k > 0) & (k < len(times)) & (target > 0))
    low, high = (curve[rows, k[rows] + i] for i in (-1, 0))
    share = (target[rows] - low) / (high - low)
    if discrete:
        start, step = times[k[rows] - 1], times[k[rows]] - times[k[rows] - 1]
        out[rows] = np.where(step == 1, times[k[rows]], np.ceil(start + share * step))
        return out
    if not new.keeping_costs:
        speed = np.exp(-delta * times) * (times + unit) * new.rates(times)
        rise, end = ((u[1] - u[0]) * speed[rows, k[rows] + i] for i in (-1, 0))
        share = _cross(low, high, rise, end, target[rows])
    out[rows] = unit * np.expm1(u[k[rows] - 1] + (u[1] - u[0]) * share)
    return out


def _cross(
    low: np.ndarray, high: np.ndarray, slope_low: np.ndarray, slope_high: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Where in [0, 1] the cubic with these ends and slopes reaches the target, by bisection."""
    left, right = np.zeros(len(low)), np.ones(len(low))
    for _ in range(50):
        x = (left + right) / 2
        value = (
            low * (1 + 2 * x) * (1 - x) ** 2
            + slope_low * x * (1 - x) ** 2
            + high * x**2 * (3 - 2 * x)
            - slope_high * x**2 * (1 - x)
        )
        below = value < target
        left, right = np.where(below, x, left), np.where(below, right, x)
    return right
