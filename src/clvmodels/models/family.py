"""The protocol of a model family: one frozen record of pure functions per file.

A family writes scalar mathematics in the notation of its paper; the library owns
loops, discounting, reduction and threads. Two kinds exist:

* :class:`PurchaseFamily`: when customers buy and when they leave,
* :class:`SpendFamily`: how much they spend when they buy.

The functions of a family come in three dresses:

``log_likelihood``
    PyTensor, vectorised over rows; imports ``pytensor`` inside its body so that a
    saved posterior can be valued without it.
Numba scalars (``p_alive``, ``rate``, ``latent``, ``gap``, ...)
    decorated with :data:`compiled`, which fixes their signature, so that a shared loop
    takes them as first-class functions and loads from Numba's cache. ``theta`` is one
    draw in the order of ``parameters``; ``stats`` one row in the order of ``state`` (spend
    families: of ``statistics``). They are read by index: ``r, alpha = theta`` costs 50 ns.
``simulate``
    NumPy, from the story of the model alone. It must not reuse the likelihood's algebra,
    because simulator and likelihood are each other's proof.

Time is in the run's time unit everywhere. ``s`` counts from the end of observation T.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import numba
import numpy as np
from numba import float64, types, void

from clvmodels.effects import Driver

Theta = Mapping[str, Any]
"""Native parameters by name; values are scalars, arrays or tensors of one shape."""

PriorSpec = Mapping[str, Any]
"""One prior in the YAML form of pymc-extras: ``{"dist": "LogNormal", "mu": 0, "sigma": 1}``."""

Domain = Literal["positive", "unit", "real"]
Unit = Literal["1", "time", "1/time", "currency"]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A native parameter: one column of a draw.

    A parameter with a ``constant`` is given and not estimated: the config's ``settings`` may
    set it, or ask for ``auto``, the one of ``choices`` with the highest marginal likelihood.
    """

    name: str
    domain: Domain
    unit: Unit
    meaning: str
    constant: float | None = None
    choices: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """An interpretable coordinate of the population, on which priors are set.

    ``drives`` names the question that the coordinate answers (how often, how loyal, how
    much); covariates and partial pooling act on that coordinate and on no other.
    """

    name: str
    domain: Domain
    unit: Unit
    meaning: str
    drives: Driver | None = None


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A statistic of one customer's purchase days that the data layer computes on request.

    Parameters
    ----------
    name
        Column name.
    of
        ``"interval"``: times between successive purchase days, in time units;
        ``"spend"``: amounts of repeat purchase days (the first day is left out).
    transform, reduce
        The column is ``reduce(transform(of))`` over the customer; 0 where there is nothing.
    """

    name: str
    of: Literal["interval", "spend"]
    transform: Literal["identity", "log", "square", "log_square"] = "identity"
    reduce: Literal["sum", "mean"] = "sum"

    def of_values(self, customer: np.ndarray, values: np.ndarray, customers: int) -> np.ndarray:
        """The statistic of simulated values, one per purchase, shape (customers,)."""
        transformed = values if self.transform in ("identity", "square") else np.log(values)
        if "square" in self.transform:
            transformed = transformed**2
        total = np.bincount(customer, transformed, customers)
        count = np.bincount(customer, minlength=customers) if self.reduce == "mean" else np.ones(customers)
        return total / np.maximum(count, 1)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The data's own scale, from which unit-free default priors are built.

    ``time``: median age T; ``rate``: repeat purchases per unit of observed time;
    ``spend``: median mean repeat spend.
    """

    time: float
    rate: float
    spend: float


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Where a family was published."""

    authors: str
    year: int
    title: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The same model in pymc-marketing.

    Attributes
    ----------
    model
        Its class in ``pymc_marketing.clv``.
    kinds
        The ``model_type`` that fitted models of this kind carry; the first is that of ``model``.
    renamed
        Parameters that have another name there: ours → theirs.
    """

    model: str
    kinds: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Histories:
    """Simulated repeat purchases, sorted by customer and time.

    Attributes
    ----------
    customer, time
        One entry per repeat purchase; time counts from the customer's first purchase.
    lifetime
        Per customer, time from first purchase until dropout (``inf``: never).
    latents
        Each customer's own ``intensity`` and ``decay`` while alive, shape (customer, 2); None where the
        rate given alive is not exponential.
    """

    customer: np.ndarray
    time: np.ndarray
    lifetime: np.ndarray
    latents: np.ndarray | None = None

    def statistics(self, T: np.ndarray, extra: tuple[Statistic, ...] = ()) -> dict[str, np.ndarray]:
        """Frequency, recency, T and interval statistics, as seen by an observer who stops at age T."""
        seen = self.time <= T[self.customer]
        customer, time = self.customer[seen], self.time[seen]
        recency = np.zeros(len(T))
        np.maximum.at(recency, customer, time)
        frequency = np.bincount(customer, minlength=len(T)).astype(float)
        found = {"frequency": frequency, "recency": recency, "T": np.asarray(T, float)}
        first = np.r_[True, customer[1:] != customer[:-1]] if len(customer) else np.zeros(0, bool)
        before = np.where(first, 0.0, np.r_[0.0, time[:-1]]) if len(customer) else time
        for statistic in extra:
            found[statistic.name] = statistic.of_values(customer, time - before, len(T))
        return found


@dataclass(frozen=True, kw_only=True)
class Baskets:
    """Simulated spend, one basket per repeat purchase.

    Attributes
    ----------
    mean
        Each customer's own mean spend, shape (customer,).
    customer, amount
        One entry per basket.
    """

    mean: np.ndarray
    customer: np.ndarray
    amount: np.ndarray

    def statistics(self, extra: tuple[Statistic, ...] = ()) -> dict[str, np.ndarray]:
        """Frequency, monetary_value (NaN without a basket) and spend statistics per customer."""
        n = len(self.mean)
        frequency = np.bincount(self.customer, minlength=n).astype(float)
        total = np.bincount(self.customer, self.amount, n)
        average = np.divide(total, frequency, out=np.full(n, np.nan), where=frequency > 0)
        found = {"frequency": frequency, "monetary_value": average}
        for statistic in extra:
            found[statistic.name] = statistic.of_values(self.customer, self.amount, n)
        return found

    @property
    def monetary_value(self) -> np.ndarray:
        """Average basket per customer, NaN without one."""
        return self.statistics()["monetary_value"]


_vector = types.Array(float64, 1, "C")
_generator = numba.typeof(np.random.default_rng(0))

SIGNATURES = {
    "p_alive": float64(_vector, _vector),
    "rate": float64(_vector, _vector, float64),
    "rates": void(_vector, _vector, _vector, _vector),
    "survival": float64(_vector, _vector, float64),
    "survivals": void(_vector, _vector, _vector, _vector),
    "total": float64(_vector, _vector),
    "phase_weights": void(_vector, _vector, _vector),
    "phase_rates": void(_vector, _vector, float64, _vector),
    "latent": void(_vector, _vector, _generator, _vector),
    "latent_rate": float64(_vector, float64),
    "latent_value": float64(_vector, _vector),
    "latent_presence": float64(_vector, _vector),
    "gap": float64(_vector, float64, _generator),
    "expected_spend": float64(_vector, _vector),
    "basket": float64(_vector, _generator),
    "given_alive": void(_vector, _vector, _vector),
    "given_history": void(_vector, _vector, _vector),
}
"""Numba signature of every compiled scalar of the protocol."""

compiled = SimpleNamespace(
    **{name: numba.njit(signature, cache=True) for name, signature in SIGNATURES.items()}
)
"""Decorators: ``@compiled.p_alive`` compiles a scalar with the protocol's signature."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What purchase and spend families share.

    Attributes
    ----------
    name
        File stem and the YAML ``family:``.
    parameters
        Native parameters in the paper's notation; their order is the columns of a draw.
    coordinates
        Interpretable coordinates with default priors; as many as parameters.
    from_coordinates, to_coordinates
        ``dict -> dict``, elementwise arithmetic that works on floats, arrays and tensors.
    priors
        ``Scale -> {coordinate: PriorSpec}``, free of units.
    statistics
        Columns that the likelihood needs.
    log_likelihood
        ``(theta: dict, stats: dict) -> tensor``, one entry per row, in nats, with all
        constants so that it equals the published value.
    typical
        Native parameter points that the conformance suite must cover.
    extra_statistics
        Statistics beyond the summary's own columns, for the data layer to compute.
    objection
        ``columns -> sentence or None``: why these data cannot be of this family.
    peer
        The same model in pymc-marketing, where that package has it.
    transfer
        ``(theta, other, latents) -> latents``: draws of customers' latents, shape (customer, draw,
        latent), in a population of parameters ``theta`` (name → shape (draw,)), as those of the same
        customers in a population of parameters ``other``: each keeps its place in the population
        (quantile to quantile), and whether it is alive.
    per_row
        Whether ``log_likelihood`` takes parameters of shape (row,) as well as scalars, which covariates
        and pooling need.
    """

    name: str
    title: str
    role: Literal["purchases", "spend", "contract"]
    parameters: tuple[Parameter, ...]
    coordinates: tuple[Coordinate, ...]
    from_coordinates: Callable[[Theta], dict[str, Any]]
    to_coordinates: Callable[[Theta], dict[str, Any]]
    priors: Callable[[Scale], dict[str, PriorSpec]]
    statistics: tuple[str, ...]
    log_likelihood: Callable[[Theta, Mapping[str, Any]], Any]
    references: tuple[Reference, ...]
    typical: tuple[Mapping[str, float], ...]
    extra_statistics: tuple[Statistic, ...] = ()
    objection: Callable[[Mapping[str, np.ndarray]], str | None] | None = None
    peer: Peer | None = None
    transfer: Callable[[Theta, Theta, np.ndarray], np.ndarray] | None = None
    per_row: bool = True

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters)

    @property
    def constants(self) -> dict[str, float]:
        """Parameters that are given, with their defaults."""
        return {p.name: p.constant for p in self.parameters if p.constant is not None}

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.coordinates)

    def vector(self, theta: Theta) -> np.ndarray:
        """Native parameters as one draw, shape (parameter,)."""
        return np.array([float(theta[name]) for name in self.parameter_names])

    def __repr__(self) -> str:
        return f"<{self.role} family {self.name}({', '.join(self.parameter_names)})>"


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Hidden phases of the interval that runs at T: given the phase, ``rate`` needs no recency.

    The family's ``rate`` is the mean of ``rates`` under ``weights``.

    Attributes
    ----------
    count
        ``draws[draw, parameter] -> int``: how many there are.
    weights
        ``(theta, stats, out)``: writes the probability of each phase given alive at T.
    rates
        ``(theta, stats, s, out)``: writes the rate given alive and each phase, without recency.
    """

    count: Callable[[np.ndarray], int]
    weights: Callable[..., None]
    rates: Callable[..., None]


@dataclass(frozen=True, kw_only=True, repr=False)
class PurchaseFamily(Family):
    """When customers buy and when they leave.

    Attributes
    ----------
    clock
        ``continuous``: ``rate`` is a density over time; ``discrete``: ``rate(s)`` is the
        expected number of purchases at opportunity s = 1, 2, ...
    state
        The statistics that the compiled scalars see as ``stats``, in order: what the future
        depends on once theta is known.
    p_alive
        ``(theta, stats)``: probability of being alive at T.
    rate
        ``(theta, stats, s)``: expected purchases per time unit, s after T, *given alive at T*.
        A just-acquired customer is the row with x = t_x = T = 0.
    rates
        ``(theta, stats, times, out)``: writes ``rate`` at many times, where that is quicker than
        one after the other.
    rate_depends_on
        The statistics that ``rate`` uses; the table of residual values is folded over them.
    aging
        The parameter c, if there is one, with which ``rate`` at s over ``rate`` at 0, and ``survival``,
        depend on T and s through s / (c + T) alone: rates at one age then serve all ages.
    phases
        For a rate that depends on recency through :class:`Phases` alone: the table is made
        for each phase, without recency.
    survival
        ``(theta, stats, s)``: probability of being alive at T + s *given alive at T*; on a discrete
        clock at opportunity s. It depends on the statistics that ``rate`` depends on.
    survivals
        ``(theta, stats, times, out)``: writes ``survival`` at many times.
    leaving
        In the place of ``survival`` where only purchases end a life and survival has no closed form:
        as ``phases``, but the rate of purchases that are the last.
    dropout
        What a customer's risk of leaving goes with: ``purchase``, each of which may be the last, so
        that one who buys more often leaves sooner; or ``time``.
    converges
        ``theta array -> bool``: whether the undiscounted infinite sum of ``rate`` is finite.
    total
        ``(theta, stats)``: that sum, used where there is no discounting at all.
    latents
        Names of the entries of a latent draw. The first three are always ``alive`` (0 or 1),
        ``intensity`` and ``decay``: given alive, the expected rate at s is
        ``intensity * exp(-decay * s)`` unless ``latent_rate`` says otherwise.
    latent
        ``(theta, stats, rng, out)``: writes one draw of the customer's own latents.
    latent_rate
        ``(latents, s)``: expected rate given latents and alive, for families whose
        latent rate is not exponential.
    latent_value
        ``(latents, code)``: that rate discounted and summed as ``Flow.code`` says, where it has
        a closed form; without one it is summed at the nodes of the schedule.
    latent_presence
        ``(latents, code)``: discounted time alive given latents and alive, for families whose latent
        rate is not exponential; otherwise it follows from ``decay``.
    gap
        ``(latents, s, rng)``: given alive at s (0: the origin; otherwise the time of the
        latest purchase), the waiting time to the next purchase. If there is none, ``inf`` where
        the customer has left already, or minus the waiting time until leaving.
    given_alive
        Where purchases come at a rate λ that has a gamma law: ``(theta, stats, out)`` writes, given alive at
        T, its shape and rate; then the two shapes of the beta law of p, the probability that a purchase is
        the last (``dropout`` "purchase"), or shape and rate of the gamma law of the rate of leaving ("time";
        shape 0 where nobody leaves). Paths are then drawn many times faster than by ``latent`` and ``gap``,
        which must mean the same.
    simulate
        ``(theta, T, rng) -> Histories``; ages T per customer.
    """

    clock: Literal["continuous", "discrete"]
    state: tuple[str, ...] = ("frequency", "recency", "T")
    p_alive: Callable[..., float]
    rate: Callable[..., float]
    rates: Callable[..., None] | None = None
    rate_depends_on: tuple[str, ...] = ("frequency", "T")
    aging: str | None = None
    phases: Phases | None = None
    survival: Callable[..., float] | None = None
    survivals: Callable[..., None] | None = None
    leaving: Phases | None = None
    dropout: Literal["purchase", "time"] = "time"
    converges: Callable[[np.ndarray], bool]
    total: Callable[..., float]
    latents: tuple[str, ...]
    latent: Callable[..., None]
    latent_rate: Callable[..., float] | None = None
    latent_value: Callable[..., float] | None = None
    latent_presence: Callable[..., float] | None = None
    gap: Callable[..., float]
    given_alive: Callable[..., None] | None = None
    simulate: Callable[[Theta, np.ndarray, np.random.Generator], Histories]


@dataclass(frozen=True, kw_only=True, repr=False)
class SpendFamily(Family):
    """How much customers spend on a purchase day.

    Attributes
    ----------
    has_mean
        ``(draws[draw, parameter]) -> bool[draw]``: whether the population mean is finite.
    expected_spend
        ``(theta, stats)``: expected mean spend of the customer given its history.
    latents
        Names of a latent draw; the first is always ``mean``, the customer's own mean spend.
    latent
        ``(theta, stats, rng, out)``: writes one draw of the customer's latents.
    basket
        ``(latents, rng)``: the amount of one future purchase.
    given_history
        Where baskets are gamma with a rate ν that is gamma too: ``(theta, stats, out)`` writes shape and
        rate of ν given the history, and the shape of a basket.
    simulate
        ``(theta, frequency, rng) -> Baskets``.
    """

    has_mean: Callable[[np.ndarray], np.ndarray]
    expected_spend: Callable[..., float]
    latents: tuple[str, ...]
    latent: Callable[..., None]
    basket: Callable[..., float]
    given_history: Callable[..., None] | None = None
    simulate: Callable[[Theta, np.ndarray, np.random.Generator], Baskets]
