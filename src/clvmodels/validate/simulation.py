"""Simulation-based calibration: does what is fitted, valued and predicted hold on its own terms?

Parameters are drawn from a prior, customers from the family's simulator, and the posterior under
the same prior from the fit. Then the rank of the truth among the posterior draws is uniform, for
every quantity that depends on parameters and data (Cook, Gelman and Rubin, 2006; Talts et al.,
2018; Modrák et al., 2023, who show that quantities which depend on the data, such as the
likelihood, find errors that parameters miss). A rank that is not uniform is an error of the
density, the sampler, the simulator or the valuation; which of them, the quantity tells:

=====================  ==================================================  =========================
quantity               truth                                               against
=====================  ==================================================  =========================
a coordinate           as drawn                                            posterior draws
``log_likelihood``     at the true parameters                              at the draws
``equity``             E[value | data, true parameters]                    level expected
``equity_latent``      E[value | own rate, dropout and mean spend]         level latent
``first_segment``      share of every second customer in equity            level expected
``bridge_<line>``      a line of the bridge over the window's last part    level expected
``alive``              customers who had not left                          level latent
``value``              discounted margin that came within the horizon      level predictive
``orders``             purchases that came within the horizon              level predictive
``revenue``            their amount                                        level predictive
=====================  ==================================================  =========================

``orders_expected`` holds the same orders against level expected, which leaves out who customers
are and when they buy: it must fail, or process noise has leaked into parameters. ``equity_latent`` is
ranked for families whose rate given alive is exponential.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from clvmodels.artifacts import Assumptions, Calendar, FamilyPosterior, Posterior, Segment, Summary
from clvmodels.config import FitConfig, ModelConfig
from clvmodels.models.family import Baskets, Family, Histories, PriorSpec, PurchaseFamily, SpendFamily
from clvmodels.numerics import loops
from clvmodels.value import Flow, Valuation

PER_YEAR = 52.1775
START, END = dt.date(2000, 1, 1), dt.date(2020, 12, 31)
DRAWS = 100
"""Posterior draws that the truth is ranked among, evenly chosen from those of the fit."""
AGES = 8
"""Different ages of the simulated customers."""
MARGIN = 0.3
RATE = 0.15
ORDERS = 2.0
"""Repeat purchases of an average simulated customer within the longest window."""
WRONG_ON_PURPOSE = ("orders_expected",)
"""Quantities whose ranks are not uniform in a right program."""
_SPREAD: Mapping[str, Callable[[float], PriorSpec]] = {
    "positive": lambda c: {"dist": "LogNormal", "mu": math.log(c), "sigma": 0.3},
    "unit": lambda c: {"dist": "Beta", "alpha": 20 * c, "beta": 20 * (1 - c)},
    "real": lambda c: {"dist": "Normal", "mu": c, "sigma": 0.3},
}
_DRAWN: Mapping[str, Callable[..., float]] = {
    "LogNormal": lambda rng, mu, sigma: rng.lognormal(mu, sigma),
    "Beta": lambda rng, alpha, beta: rng.beta(alpha, beta),
    "Normal": lambda rng, mu, sigma: rng.normal(mu, sigma),
}


Lines = Callable[[Summary, Summary, Posterior, Assumptions, Assumptions], Mapping[str, np.ndarray]]
"""``(before, now, posterior, assumptions before, now) -> quantity -> draws`` at level expected."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One simulated data set, fitted.

    Attributes
    ----------
    rank
        Quantity → share of posterior draws below the truth, ties broken at random, in (0, 1).
    converged
        Whether the draws passed the gate's limit of k-hat or R-hat.
    """

    rank: Mapping[str, float]
    converged: bool


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is simulated: families, priors, and how long how many customers are watched."""

    purchases: PurchaseFamily
    spend: SpendFamily
    priors: Mapping[str, Mapping[str, PriorSpec]]
    customers: int
    longest: float
    horizon: float

    @classmethod
    def of(cls, purchases: PurchaseFamily, spend: SpendFamily, customers: int) -> Design:
        """Priors around each family's first typical point; a window that holds a few purchases."""
        rng = np.random.default_rng(1)
        theta = dict(purchases.typical[0])
        discrete = purchases.clock == "discrete"
        longest = 6.0 if discrete else 1.0
        while not discrete:
            window = np.full(1_000, longest)
            if purchases.simulate(theta, window, rng).statistics(window)["frequency"].mean() >= ORDERS:
                break
            longest *= 1.5
        return cls(
            purchases=purchases,
            spend=spend,
            priors={family.name: _priors(family) for family in (purchases, spend)},
            customers=customers,
            longest=longest,
            horizon=round(longest / 2) if discrete else longest / 2,
        )

    def model(self, family: Family) -> ModelConfig:
        free = any(p.constant is None for p in family.parameters) and bool(self.priors[family.name])
        if not free:
            return ModelConfig(family=family.name, fixed=dict(family.typical[0]))
        return ModelConfig(family=family.name, priors=dict(self.priors[family.name]))


def trial(design: Design, options: FitConfig, rng: np.random.Generator, lines: Lines | None = None) -> Trial:
    """One data set: parameters from the prior, customers from the story, posterior, ranks.

    Parameters
    ----------
    lines
        What else each draw says of two dates of the same customers, such as why equity moved.
    """
    from clvmodels import fit as fitting

    purchases, spend = design.purchases, design.spend
    truth = {family.name: _draw(family, design.priors[family.name], rng) for family in (purchases, spend)}
    world = _World.simulate(design, truth, rng)
    now = world.summary()
    draws = fitting.fit(
        now,
        design.model(purchases),
        design.model(spend),
        options,
        int(rng.integers(2**31)),
        maximum=False,
    )
    converged = _trusted(draws)
    draws, exact = draws.thinned(min(DRAWS, len(draws))), _point(design, truth)
    seed = int(rng.integers(2**31))
    told = [_told(world, now, posterior, seed, lines) for posterior in (draws, exact)]
    pairs = {name: (told[0][name], told[1][name][0]) for name in told[1]}
    for family, part in ((purchases, draws.purchases), (spend, draws.spend)):
        if len(part.flat) > 1:
            columns = dict(zip(family.parameter_names, part.flat.T, strict=True))
            coordinates, true = family.to_coordinates(columns), family.to_coordinates(truth[family.name])
            for name in design.priors[family.name]:
                pairs[f"{family.role}:{name}"] = (np.asarray(coordinates[name]), float(true[name]))
    valuation = Valuation(now, draws, world.assumptions(now), seed)
    for level, field, name, actual in (
        ("latent", "alive", "alive", world.alive),
        ("predictive", "value", "value", world.value),
        ("predictive", "orders", "orders", world.orders),
        ("predictive", "revenue", "revenue", world.revenue),
        ("expected", "orders", "orders_expected", world.orders),
    ):
        pairs[name] = (_total(valuation, level, field), actual)
    if (equity := world.equity) is not None:
        endless = Valuation(now, draws, world.assumptions(now, math.inf), seed + 1)
        pairs["equity_latent"] = (_total(endless, "latent", "value"), equity)
    rank = {name: _rank(sample, actual, rng) for name, (sample, actual) in pairs.items()}
    return Trial(rank=rank, converged=converged)


@dataclass(frozen=True, kw_only=True)
class _World:
    """Simulated customers, up to the end of the horizon."""

    design: Design
    purchases: Histories
    baskets: Baskets
    age: np.ndarray
    past: float

    @classmethod
    def simulate(
        cls, design: Design, truth: Mapping[str, Mapping[str, float]], rng: np.random.Generator
    ) -> _World:
        n, discrete = design.customers, design.purchases.clock == "discrete"
        age = rng.choice(np.linspace(design.longest / 6, design.longest, AGES), n)
        age = np.round(age) if discrete else age
        end = age + design.horizon
        histories = design.purchases.simulate(truth[design.purchases.name], end, rng)
        seen = histories.time <= end[histories.customer]
        histories = replace(histories, customer=histories.customer[seen], time=histories.time[seen])
        count = np.bincount(histories.customer, minlength=n)
        baskets = design.spend.simulate(truth[design.spend.name], count, rng)
        past = round(design.longest / 4) if discrete else max(1, round(7 * design.longest / 4)) / 7
        return cls(design=design, purchases=histories, baskets=baskets, age=age, past=past)

    def summary(self, ago: float = 0.0) -> Summary:
        """What an observer sees who stopped so long ago: customers who had come by then."""
        families = (self.design.purchases, self.design.spend)
        known = np.flatnonzero(self.age >= ago)
        age = np.maximum(self.age - ago, 0.0)
        n = len(age)
        columns = self.purchases.statistics(age, families[0].extra_statistics)
        seen = self.purchases.time <= age[self.purchases.customer]
        customer, amount = self.purchases.customer[seen], self.baskets.amount[seen]
        x = columns["frequency"]
        total = np.bincount(customer, amount, n)
        columns["monetary_value"] = np.divide(total, x, out=np.full(n, np.nan), where=x > 0)
        columns["first_amount"] = np.ones(n)
        for statistic in families[1].extra_statistics:
            columns[statistic.name] = statistic.of_values(customer, amount, n)
        none = np.zeros(0)
        whole = Summary(
            customer=np.array([f"{i:06}" for i in range(n)], dtype=object),
            columns={name: np.asarray(column, float) for name, column in columns.items()},
            first_day=np.datetime64(END) - np.floor(7 * self.age + 1e-6).astype("timedelta64[D]"),
            segments={"half": Segment(codes=np.arange(n) % 2, labels=("even", "odd"))},
            calendar=Calendar(
                day=none.astype("datetime64[D]"), first_orders=none, repeat_orders=none,
                first_amount=none, repeat_amount=none,
            ),
            time_unit="week",
            observation_start=START,
            observation_end=END - dt.timedelta(days=round(7 * ago)),
            holdout=0.0,
            currency="USD",
            ledger={},
            fingerprint="simulated",
            clock=self.design.purchases.clock,
        )  # fmt: skip
        return whole if len(known) == n else whole.take(known)

    def assumptions(self, summary: Summary, horizon: float | None = None) -> Assumptions:
        return Assumptions(
            margin=np.full(len(summary), MARGIN),
            margin_source="simulated",
            annual_discount_rate=RATE,
            units_per_year=PER_YEAR,
            horizon=self.design.horizon if horizon is None else horizon,
            horizons={"horizon": self.design.horizon},
        )

    @property
    def _later(self) -> np.ndarray:
        return self.purchases.time > self.age[self.purchases.customer]

    @property
    def alive(self) -> float:
        return float((self.purchases.lifetime > self.age).sum())

    @property
    def orders(self) -> float:
        return float(self._later.sum())

    @property
    def revenue(self) -> float:
        return float(self.baskets.amount[self._later].sum())

    @property
    def equity(self) -> float | None:
        """Value of everybody given who each is, without a horizon; None where that has no closed form."""
        if self.purchases.latents is None:
            return None
        endless = Flow(delta=math.log1p(RATE) / PER_YEAR, horizon=math.inf)
        code = endless.code(self.design.purchases.clock == "discrete")
        alive = self.purchases.lifetime > self.age
        rest = np.array([loops.exponential_value(np.r_[1.0, own], code) for own in self.purchases.latents])
        return float(MARGIN * (alive * self.baskets.mean * rest).sum())

    @property
    def value(self) -> float:
        wait = (self.purchases.time - self.age[self.purchases.customer])[self._later]
        return float(MARGIN * (self.baskets.amount[self._later] * (1 + RATE) ** (-wait / PER_YEAR)).sum())


def _told(
    world: _World, now: Summary, draws: Posterior, seed: int, lines: Lines | None
) -> dict[str, np.ndarray]:
    """What each draw of the parameters says of these data: functions of both, exact at level expected."""
    from clvmodels.fit import pointwise

    design = world.design
    equity, half = 0.0, 0.0
    for tile in Valuation(now, draws, world.assumptions(now, math.inf), seed).expected(details=False):
        equity = equity + tile.sum()
        half = half + tile.sum(tile.customers % 2 == 0)
    rows = now.fold(design.purchases.statistics)
    density = pointwise.log_density(design.purchases, draws.purchases.flat, rows.stats) @ rows.weight
    told = {"log_likelihood": density, "equity": equity, "first_segment": half / equity}
    if lines is not None:
        before = world.summary(world.past)
        told |= lines(before, now, draws, *(world.assumptions(one, math.inf) for one in (before, now)))
    return told


def _total(valuation: Valuation, level: str, field: str) -> np.ndarray:
    """Draws of a total over the customers, shape (draw,)."""
    total: np.ndarray | float = 0.0
    for tile in getattr(valuation, level)():
        part = getattr(tile, field)
        total = total + {"value": part.sum(0), "alive": part}.get(
            field, part[:, 0] if part.ndim > 1 else part
        )
    return np.asarray(total)


def _priors(family: Family) -> dict[str, PriorSpec]:
    if all(p.constant is not None for p in family.parameters):
        return {}
    centre = family.to_coordinates(dict(family.typical[0]))
    return {c.name: _SPREAD[c.domain](float(centre[c.name])) for c in family.coordinates}


def _draw(family: Family, priors: Mapping[str, PriorSpec], rng: np.random.Generator) -> dict[str, float]:
    """Native parameters from the prior."""
    if not priors:
        return dict(family.typical[0])
    free = {
        name: _DRAWN[prior["dist"]](rng, **{k: v for k, v in prior.items() if k != "dist"})
        for name, prior in priors.items()
    }
    theta = {**family.from_coordinates({**free, **family.constants}), **family.constants}
    return {name: float(theta[name]) for name in family.parameter_names}


def _point(design: Design, truth: Mapping[str, Mapping[str, float]]) -> Posterior:
    parts = [
        FamilyPosterior(
            family=family.name, parameters=family.parameter_names,
            draws=family.vector(truth[family.name])[None, None], sampler="fixed",
            maximum={}, diagnostics={}, priors={}, rows=0, customers=0,
        )
        for family in (design.purchases, design.spend)
    ]  # fmt: skip
    return Posterior(purchases=parts[0], spend=parts[1], time_unit="week", currency="USD")


def _rank(sample: np.ndarray, truth: float, rng: np.random.Generator) -> float:
    """Share of draws below the truth; equal ones, and the ends, are broken at random."""
    sample = np.asarray(sample, float)
    close = 1e-9 * (abs(truth) + 1e-300)
    below, equal = (sample < truth - close).sum(), (np.abs(sample - truth) <= close).sum()
    return float((below + rng.random() * (equal + 1)) / (len(sample) + 1))


def _trusted(draws: Posterior) -> bool:
    from clvmodels import fit as fitting

    checks = fitting.gate(draws)
    return all(
        check.passed is not False for check in checks if "k-hat" in check.name or "R-hat" in check.name
    )


def uniform_band(trials: int, probability: float, seed: int = 0) -> tuple[np.ndarray, float]:
    """Simultaneous band of the empirical distribution of uniform ranks.

    Returns
    -------
    grid, half
        Points in (0, 1), and the critical value of max |ECDF(z) - z| / sqrt(z(1-z)/n) over them: the
        difference lies within ± half · sqrt(z(1-z)/n) everywhere with the given probability
        (Säilynoja, Bürkner and Vehtari, 2022, Statistics and Computing 32, 32).
    """
    grid = np.arange(1, 40) / 40
    scale = np.sqrt(grid * (1 - grid) / trials)
    ranks = np.random.default_rng(seed).random((4_000, trials))
    largest = [(np.abs(ecdf(r, grid) - grid) / scale).max() for r in ranks]
    return grid, float(np.quantile(largest, probability))


def departure(ranks: np.ndarray) -> float:
    """Largest standardised difference of the ranks' distribution from the uniform one."""
    grid = np.arange(1, 40) / 40
    return float((np.abs(ecdf(ranks, grid) - grid) / np.sqrt(grid * (1 - grid) / len(ranks))).max())


def ecdf(ranks: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(ranks), grid, side="right") / len(ranks)
