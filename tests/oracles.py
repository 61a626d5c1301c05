"""What the tests compare with: second, slower and independent ways to the same numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import cached_property

import mpmath as mp
import numba
import numpy as np
from numba import float64, types

from clvmodels.models import registry
from clvmodels.models.family import SIGNATURES, Baskets, Family, Histories, PurchaseFamily, SpendFamily, Theta
from clvmodels.numerics.discounting import Flow
from clvmodels.value import residual

Z = 4.5
"""Threshold of every Monte Carlo test, in standard errors: two-sided probability 7e-6, so that
a thousand such tests raise a false alarm once in 150 changes of a seed or a simulator."""

CUSTOMERS = 30_000

SUMMARY_COLUMNS = ("frequency", "recency", "T", "monetary_value", "first_amount")


def standard_errors(sample: np.ndarray) -> np.ndarray:
    """Mean over the first axis in units of its standard error; exact zeros count as 0."""
    mean, error = sample.mean(axis=0), sample.std(axis=0, ddof=1) / math.sqrt(len(sample))
    return np.divide(mean, error, out=np.where(np.abs(mean) > 1e-12, np.inf, 0.0), where=error > 0)


def assert_mean_zero(sample: np.ndarray, what: str = "") -> None:
    """Fails where the mean over the first axis is further from 0 than ``Z`` standard errors."""
    z = np.atleast_1d(standard_errors(np.asarray(sample)))
    assert (np.abs(z) < Z).all(), f"{what}: {np.round(z, 1)} standard errors"


# ---------------------------------------------------------------- any family


class Density:
    """``log_likelihood`` of a family per row, its gradient by PyTensor and by differences.

    Gradients are over the parameters that are estimated; the others keep the values of ``theta``.
    """

    def __init__(self, family: Family, constants: Mapping[str, float]) -> None:
        import pytensor
        import pytensor.tensor as pt
        from pytensor.compile.mode import Mode

        self.family = family
        self.free = tuple(name for name in family.parameter_names if name not in constants)
        theta = {name: pt.dscalar(name) for name in self.free}
        stats = {name: pt.dvector(name) for name in family.statistics}
        weight = pt.dvector("weight")
        value = family.log_likelihood(theta | dict(constants), stats)
        gradient = pt.grad((weight * value).sum(), list(theta.values()))
        # NumPy under the usual rewrites of the graph: compiles quickly.
        mode = Mode(linker="py", optimizer="fast_run").excluding(
            "fusion", "inplace", "BlasOpt", "add_mul_fusion"
        )
        inputs, keywords = [*theta.values(), *stats.values()], {"mode": mode, "on_unused_input": "ignore"}
        self._folded: tuple = (None, None, None)
        self._value = pytensor.function(inputs, value, **keywords)
        self._gradient = pytensor.function([*inputs, weight], gradient, **keywords)

    def _inputs(self, theta: np.ndarray, columns: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        point = dict(zip(self.family.parameter_names, theta, strict=True))
        rows = [np.asarray(columns[name], float) for name in self.family.statistics]
        return [*(np.array(point[name]) for name in self.free), *rows]

    def __call__(self, theta: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Shape (row,). The branch that is not taken may overflow; what is taken is tested."""
        if columns is not self._folded[0]:
            rows = np.column_stack([np.asarray(columns[name], float) for name in self.family.statistics])
            distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
            folded = dict(zip(self.family.statistics, distinct.T, strict=True))
            self._folded = columns, folded, inverse.ravel()
        _, folded, inverse = self._folded
        with np.errstate(all="ignore"):
            return self._value(*self._inputs(theta, folded))[inverse]

    def gradient(
        self, theta: np.ndarray, columns: Mapping[str, np.ndarray], weight: np.ndarray
    ) -> np.ndarray:
        """PyTensor's gradient of the weighted sum, shape (estimated parameter,)."""
        with np.errstate(all="ignore"):
            return np.array(self._gradient(*self._inputs(theta, columns), weight))

    def score(self, theta: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Gradient per row by five-point differences, shape (row, estimated parameter).

        With steps of 1e-3 of the parameter the truncation is of order 1e-12 and the rounding
        1e-13 of the log-likelihood in units of the parameter.
        """
        out = []
        for name in self.free:
            j = self.family.parameter_names.index(name)
            step = 1e-3 * max(abs(theta[j]), 1e-2)
            values = []
            for k in (-2, -1, 1, 2):
                point = theta.copy()
                point[j] += k * step
                values.append(self(point, columns))
            out.append((values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step))
        return np.column_stack(out)

    def curvature(self, theta: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Second derivatives per row by central differences, shape (row, parameter, parameter).

        With steps of 1e-3 of the parameter they are right to some 1e-6 of their size.
        """
        index = [self.family.parameter_names.index(name) for name in self.free]
        steps = [1e-3 * max(abs(theta[j]), 1e-2) for j in index]

        def at(*moves: tuple[int, int]) -> np.ndarray:
            point = theta.copy()
            for k, sign in moves:
                point[index[k]] += sign * steps[k]
            return self(point, columns)

        middle = at()
        out = np.empty((len(middle), len(index), len(index)))
        for k in range(len(index)):
            out[:, k, k] = (at((k, 1)) - 2 * middle + at((k, -1))) / steps[k] ** 2
            for m in range(k):
                up, down = (
                    at((k, 1), (m, 1)) + at((k, -1), (m, -1)),
                    at((k, 1), (m, -1)) + at((k, -1), (m, 1)),
                )
                out[:, k, m] = out[:, m, k] = (up - down) / (4 * steps[k] * steps[m])
        return out


_densities: dict[tuple, Density] = {}


def density(family: Family, theta: Theta) -> Density:
    """The family's density, with its constants at those of the point; compiled once."""
    constants = {name: float(theta[name]) for name in family.constants}
    key = (family.name, *constants.values())
    if key not in _densities:
        _densities[key] = Density(family, constants)
    return _densities[key]


def in_domain(value: np.ndarray | float, domain: str) -> bool:
    value = np.asarray(value)
    inside = {"positive": value > 0, "unit": (value > 0) & (value < 1), "real": np.isfinite(value)}[domain]
    return bool((inside & np.isfinite(value)).all())


def corners(family: Family, theta: Theta) -> list[np.ndarray]:
    """Parameter points far out: each parameter small, large and beside 1; two that sum to 1."""
    base = family.vector(theta)
    free = [j for j, p in enumerate(family.parameters) if p.constant is None]
    out = [base]

    def put(**values: float) -> None:
        point = base.copy()
        for j, value in values.items():
            point[int(j[1:])] = value
        out.append(point)

    for j in free:
        domain = family.parameters[j].domain
        if domain == "positive":
            for value in (base[j] / 100, base[j] * 20, 1 - 1e-9, 1.0, 1 + 1e-9):
                put(**{f"_{j}": value})
        elif domain == "unit":
            for value in (1e-3, 1 - 1e-3):
                put(**{f"_{j}": value})
        else:
            for value in (base[j] - 3, base[j] + 3):
                put(**{f"_{j}": value})
    plain = [
        j for j in free if family.parameters[j].unit == "1" and family.parameters[j].domain == "positive"
    ]
    for i, j in itertools.combinations(plain, 2):
        put(**{f"_{i}": 0.4, f"_{j}": 0.6})
        put(**{f"_{i}": 0.4, f"_{j}": 0.6 + 1e-10})
    return out


def rescaled(family: Family, theta: np.ndarray, *, time: float = 1.0, currency: float = 1.0) -> np.ndarray:
    """The same point with the unit of time or currency that many times smaller."""
    factor = {"1": 1.0, "time": time, "1/time": 1 / time, "currency": currency}
    return theta * np.array([factor[p.unit] for p in family.parameters])


# ---------------------------------------------------------------- purchases


class PurchaseCase:
    """A purchase family at one parameter point, with customers simulated from it.

    ``scale`` is the age at which customers have made about one or two repeat purchases. Four
    ages are mixed; the future of a customer runs to ``horizon`` after its age.
    """

    def __init__(self, family: PurchaseFamily, theta: Theta) -> None:
        self.family, self.theta = family, theta
        self.vector = family.vector(theta)
        self.discrete = family.clock == "discrete"

    def __repr__(self) -> str:
        return f"{self.family.name}{dict(self.theta)}"

    @cached_property
    def scale(self) -> float:
        if self.discrete:
            return 4.0
        rng = np.random.default_rng(1)

        def purchases(age: float) -> float:
            return len(self.family.simulate(self.theta, np.full(2000, age), rng).time) / 2000

        scale, mean = 2.0**-10, 0.0
        while mean < 0.7:
            scale, before, mean = 2 * scale, mean, purchases(2 * scale)
            if before > 0.03 and mean < 1.5 * before:
                break  # most of those who will ever come back have done so
        return scale

    @cached_property
    def horizon(self) -> float:
        return 5.0 if self.discrete else 1.5 * self.scale

    @cached_property
    def delta(self) -> float:
        return 1.0 / self.scale

    @cached_property
    def T(self) -> np.ndarray:
        ages = np.array([1.0, 3.0, 6.0, 9.0]) if self.discrete else self.scale * np.array([0.5, 1, 2, 3])
        return np.resize(ages, CUSTOMERS)

    @cached_property
    def histories(self) -> Histories:
        """Purchases up to T + horizon."""
        return self.family.simulate(self.theta, self.T + self.horizon, np.random.default_rng(20260101))

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        return self.histories.statistics(self.T, self.family.extra_statistics)

    @cached_property
    def state(self) -> np.ndarray:
        """What the compiled scalars see, shape (customer, statistic)."""
        return self.states(self.columns)

    def states(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.column_stack([np.asarray(columns[name], float) for name in self.family.state])

    def observed(self, times: list[float], T: float) -> dict[str, np.ndarray]:
        """Statistics of one customer who bought at these times, at age T."""
        time = np.asarray(times, float)
        history = Histories(customer=np.zeros(len(time), int), time=time, lifetime=np.array([np.inf]))
        return history.statistics(np.array([float(T)]), self.family.extra_statistics)

    @cached_property
    def p_alive(self) -> np.ndarray:
        return np.array([self.family.p_alive(self.vector, row) for row in self.state])

    def given_alive(self, rows: np.ndarray, flows: list[Flow], theta: np.ndarray | None = None) -> np.ndarray:
        """R per row and flow, each distinct row evaluated once."""
        depends = [self.family.state.index(name) for name in self.family.rate_depends_on]
        _, first, inverse = np.unique(rows[:, depends], axis=0, return_index=True, return_inverse=True)
        draws = (self.vector if theta is None else theta)[None, :]
        return residual(self.family, draws, np.ascontiguousarray(rows[first]), flows)[inverse.ravel(), :, 0]

    @cached_property
    def future(self) -> tuple[np.ndarray, np.ndarray]:
        """Purchases in (T, T + horizon] per customer: their number and their discounted number."""
        customer, ahead = self.histories.customer, self.histories.time - self.T[self.histories.customer]
        later = ahead > 0
        count = np.bincount(customer[later], minlength=CUSTOMERS).astype(float)
        weight = np.exp(-self.delta * ahead[later])
        return count, np.bincount(customer[later], weight, CUSTOMERS)

    def some(self, count: int) -> np.ndarray:
        """Distinct states spread evenly over those simulated, shape (count, statistic)."""
        distinct = np.unique(self.state, axis=0)
        return distinct[np.linspace(0, len(distinct) - 1, count).astype(int)]

    def awkward(self) -> dict[str, np.ndarray]:
        """Statistics of customers on the edge: none, one or very many purchases, young, just seen."""
        tiny = 1.0 if self.discrete else 1e-6 * self.scale
        many = 250 if self.discrete else 1500
        long = float(many) if self.discrete else 10 * self.scale
        steady = list(np.arange(1, many + 1) * (long / many))
        seen = [([], 0.0), ([], tiny), ([], long), ([tiny], tiny), ([tiny], long), (steady, long)]
        if self.family.role != "contract":
            seen += [([long], long), (list(np.arange(1, 11) * tiny), long), (steady[-2:], long)]
        return merged([self.observed(times, T) for times, T in seen])


def merged(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def from_predictions(case: PurchaseCase, times: list[float], T: float) -> float:
    """Log-likelihood of a history, rebuilt from ``p_alive`` and ``rate`` alone.

    A point process is its intensity given the past: log L = Σ log h(t_i) - ∫ h, where
    h = P(alive) · rate(0). On a discrete clock h = P(alive) · rate(1) is the probability of a
    purchase at the next opportunity.
    """
    from scipy.integrate import quad

    family, theta = case.family, case.vector

    def intensity(past: list[float], now: float) -> float:
        row = case.states(case.observed(past, now))[0]
        return family.p_alive(theta, row) * family.rate(theta, row, 1.0 if case.discrete else 0.0)

    total = 0.0
    if case.discrete:
        for now in range(int(T)):
            past = [t for t in times if t <= now]
            chance = intensity(past, now)
            total += math.log(chance) if now + 1 in times else math.log1p(-chance)
        return total
    starts = [0.0, *times]
    for k, (low, high) in enumerate(itertools.pairwise([*starts, T])):
        past = list(times[:k])
        total -= quad(lambda u, past=past: intensity(past, u), low, high, epsabs=1e-11, epsrel=1e-11)[0]
        if k < len(times):
            total += math.log(intensity(past, high))
    return total


# ---------------------------------------------------------------- spend

_vector = types.Array(float64, 1, "C")
_LATENT = types.FunctionType(SIGNATURES["latent"])
_BASKET = types.FunctionType(SIGNATURES["basket"])
_generator = numba.typeof(np.random.default_rng(0))


@numba.njit(types.void(_LATENT, _BASKET, _vector, _vector, _generator, _vector, types.Array(float64, 2, "C")))
def spend_draws(latent, basket, theta, row, rng, latents, out):
    """``out[draw] = (mean, basket)`` of one customer; ``latents`` is room to work in."""
    for d in range(len(out)):
        latent(theta, row, rng, latents)
        out[d, 0] = latents[0]
        out[d, 1] = basket(latents, rng)


class SpendCase:
    """A spend family at one parameter point, with customers simulated from it."""

    def __init__(self, family: SpendFamily, theta: Theta) -> None:
        self.family, self.theta = family, theta
        self.vector = family.vector(theta)

    def __repr__(self) -> str:
        return f"{self.family.name}{dict(self.theta)}"

    @cached_property
    def frequency(self) -> np.ndarray:
        return np.resize([0, 1, 2, 3, 8, 30], CUSTOMERS)

    @cached_property
    def baskets(self):
        return self.family.simulate(self.theta, self.frequency, np.random.default_rng(20260101))

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        return self.baskets.statistics(self.family.extra_statistics)

    @cached_property
    def buyers(self) -> dict[str, np.ndarray]:
        """Columns of the customers whose spend was seen, scaled to the likelihood's needs."""
        return {name: column[self.frequency > 0] for name, column in self.columns.items()}

    def rows(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the compiled scalars see, shape (customer, statistic); 0 without a history."""
        return np.column_stack([np.nan_to_num(columns[name]) for name in self.family.statistics])

    def observed(self, baskets: np.ndarray) -> dict[str, np.ndarray]:
        """Statistics of customers with equally many baskets, shape (customer, basket)."""
        n, x = baskets.shape
        customer = np.repeat(np.arange(n), x)
        return Baskets(mean=np.ones(n), customer=customer, amount=baskets.ravel()).statistics(
            self.family.extra_statistics
        )

    def draws(self, row: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Latent mean and one basket of a customer with this history, shape (draw, 2)."""
        out, latents = np.empty((count, 2)), np.zeros(len(self.family.latents))
        rng = np.random.default_rng(seed)
        spend_draws(self.family.latent, self.family.basket, self.vector, row, rng, latents, out)
        return out

    @property
    def by_mean(self) -> bool:
        """Whether the likelihood is the density of the mean basket, and not of all baskets."""
        return not self.family.extra_statistics


# ---------------------------------------------------------------- discounting


def brute_timing(total: Callable[[np.ndarray], np.ndarray], flow: Flow, until: float) -> float:
    """``Σ_i exp(-δ (i - o) period) {Y(i) - Y(i-1)}`` term by term, Y the cumulative purchases."""
    offset = {"begin": 1.0, "mid": 0.5, "end": 0.0}[flow.timing]
    edges = np.arange(0, math.floor(until / flow.period + 1e-9) + 2) * flow.period
    clipped = np.clip(edges, flow.start, until)
    periods = np.arange(1, len(edges))
    return float(np.exp(-flow.delta * flow.period * (periods - offset)) @ np.diff(total(clipped)))


# ---------------------------------------------------------------- BG/NBD, in mpmath


def g(R: mp.mpf, z: mp.mpf) -> mp.mpf:
    """g_R(z) = E[λ/(λ+z)], λ ~ Gamma(R, 1): R e^z E_{R+1}(z), E_n by its continued fraction.

    Where that is slow (z and R small), by mpmath's ``expint``, which is slow where it is quick.
    """
    n = R + 1
    if z < 1 and R < 20:
        return R * mp.exp(z) * mp.expint(n, z)
    b = z + n
    d = fraction = 1 / b
    c = mp.inf
    for k in range(1, 10_000):
        b += 2
        a = -k * (n + k - 1)
        d = 1 / (a * d + b)
        c = b + a / c
        fraction *= c * d
        if abs(c * d - 1) < mp.eps:
            return R * fraction
    raise ArithmeticError(f"no convergence at {R}, {z}")


def beta_mean(a: float, b: float, f: Callable[[mp.mpf], mp.mpf]) -> mp.mpf:
    """E[f(p)], p ~ Beta(a, b), by the trapezoidal rule over w = logit p, in mpmath.

    The integrand is analytic for |Im w| < π/2 at least: an error below exp(-π²/h), 1e-17 for
    a step of 1/4. The tails are cut at exp(-60).
    """
    a, b = mp.mpf(a), mp.mpf(b)
    mode, width = mp.log(a / b), mp.sqrt(1 / a + 1 / b)
    step = min(mp.mpf(1) / 4, width / 3)
    total = mp.mpf(0)
    for k in range(int(-(60 / a + 12 * width) / step), int((60 / b + 12 * width) / step)):
        w = mode + k * step
        log_p, log_q = -mp.log1p(mp.exp(-w)), -mp.log1p(mp.exp(w))
        mass = mp.exp(a * log_p + b * log_q)
        total += mass * f(mp.exp(log_p))
    return step * total / mp.beta(a, b)


def bg_residual(theta: Mapping[str, float], x: float, T: float, delta: float, horizon: float) -> float:
    """R of BG/NBD in closed form, given alive.

    ``E_p[(1/p) (g_R(Aδ/p) - e^(-δH) (A/(A+pH))^R g_R((A+pH)δ/p))]`` with R = r + x,
    A = α + T and p ~ Beta(a, b + x).
    """
    R, A = mp.mpf(theta["r"]) + x, mp.mpf(theta["alpha"]) + T
    delta = mp.mpf(delta)

    def inside(p: mp.mpf) -> mp.mpf:
        if delta == 0:
            return -mp.expm1(-R * mp.log1p(p * horizon / A)) / p
        value = g(R, A * delta / p)
        if horizon < math.inf:
            later = A + p * horizon
            value -= mp.exp(-delta * horizon + R * mp.log(A / later)) * g(R, later * delta / p)
        return value / p

    return float(beta_mean(theta["a"], theta["b"] + x, inside))


def all_cases(role: type) -> list:
    """Every family of a kind at each of its typical points."""
    case = PurchaseCase if role is PurchaseFamily else SpendCase
    return [
        case(family, theta)
        for family in registry.families()
        if isinstance(family, role)
        for theta in family.typical
    ]
