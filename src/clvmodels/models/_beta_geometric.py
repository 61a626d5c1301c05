"""What the beta-geometric families share: their population, and the story of their customers.

Each customer buys at times whose gaps have k phases of rate λ, λ ~ Gamma(r, α), and drops out
after a purchase with probability p, p ~ Beta(a, b): after repeat purchases only (BG), or after
the first purchase too (MBG).
"""

import math

import numba
import numpy as np
from numba import float64, types, void

from clvmodels.models.family import Coordinate, Histories, Parameter, compiled

PARAMETERS = (
    Parameter(name="r", domain="positive", unit="1", meaning="shape of the rate λ"),
    Parameter(name="alpha", domain="positive", unit="time", meaning="rate of λ's gamma"),
    Parameter(name="a", domain="positive", unit="1", meaning="first shape of dropout p"),
    Parameter(name="b", domain="positive", unit="1", meaning="second shape of dropout p"),
)

COORDINATES = (
    Coordinate(
        name="purchase_rate",
        domain="positive",
        unit="1/time",
        meaning="mean of λ/k: purchases per time while alive",
        drives="purchase",
    ),
    Coordinate(name="r", domain="positive", unit="1", meaning="shape: small r, unequal rates"),
    Coordinate(
        name="dropout",
        domain="unit",
        unit="1",
        meaning="mean dropout probability a/(a+b)",
        drives="dropout",
    ),
    Coordinate(
        name="dropout_precision",
        domain="positive",
        unit="1",
        meaning="a+b: small, unequal dropout probabilities",
    ),
)

_vector = types.Array(float64, 1, "C")
_generator = numba.typeof(np.random.default_rng(0))


def from_coordinates(c):
    return {
        "r": c["r"],
        "alpha": c["r"] / (c.get("k", 1) * c["purchase_rate"]),
        "a": c["dropout"] * c["dropout_precision"],
        "b": (1 - c["dropout"]) * c["dropout_precision"],
    }


def to_coordinates(theta):
    precision = theta["a"] + theta["b"]
    return {
        "purchase_rate": theta["r"] / (theta.get("k", 1) * theta["alpha"]),
        "r": theta["r"],
        "dropout": theta["a"] / precision,
        "dropout_precision": precision,
    }


def priors(scale):
    return {
        "purchase_rate": {"dist": "LogNormal", "mu": math.log(scale.rate), "sigma": 1.5},
        "r": {"dist": "LogNormal", "mu": 0.0, "sigma": 1.5},
        "dropout": {"dist": "Beta", "alpha": 1.0, "beta": 1.0},
        "dropout_precision": {"dist": "LogNormal", "mu": 1.0, "sigma": 1.0},
    }


_TINY = 1e-290
LATENTS = ("alive", "intensity", "decay", "p")


@numba.njit(
    void(float64, float64, float64, float64, float64, float64, _generator, _vector),
    cache=True,
)
def draw(alive, shape, alive_rate, dead_rate, a, b, rng, out):
    """Latents of exponential gaps: alive, and λ ~ Gamma(shape, ...), p ~ Beta given that.

    ``b`` counts the occasions survived by a customer who is alive: p ~ Beta(a, b), and
    Beta(a+1, b-1) for one who has dropped out at the latest occasion. A λ that underflows, as
    gammas of small shape do, stays above 0: λ/(λp) is then still 1/p.
    """
    if rng.random() < alive:
        out[0] = 1.0
        lam = rng.gamma(shape, 1.0 / alive_rate)
        p = rng.beta(a, b)
    else:
        out[0] = 0.0
        lam = rng.gamma(shape, 1.0 / dead_rate)
        p = rng.beta(a + 1.0, b - 1.0)
    lam = max(lam, _TINY)
    out[1] = lam
    out[2] = lam * p
    out[3] = p


def transfer(theta, other, latents):
    """λ from Gamma(r, α) to Gamma(r, α'), p from Beta(a, b) to Beta(a', b')."""
    from scipy.special import betainc, betaincc, betainccinv, betaincinv

    a, b, a_other, b_other = theta["a"], theta["b"], other["a"], other["b"]
    out = latents.copy()
    out[..., 1] *= theta["alpha"] / other["alpha"]
    if np.any(a != a_other) or np.any(b != b_other):
        p = latents[..., 3]
        low = betaincinv(a_other, b_other, betainc(a, b, p))
        high = betainccinv(a_other, b_other, betaincc(a, b, p))
        out[..., 3] = np.where(p < a / (a + b), low, high)  # by the nearer tail
    out[..., 2] = out[..., 1] * out[..., 3]
    return out


@compiled.gap
def gap(latents, s, rng):
    """A purchase (but not the origin) may be the last; otherwise the next comes after Exp(λ)."""
    if s > 0.0 and rng.random() < latents[3]:
        return math.inf
    return rng.standard_exponential() / latents[1]


def simulate(theta, T, rng, *, first_may_be_last):
    """Play the story: purchases one by one until the customer drops out or T is reached."""
    n = len(T)
    phases = theta.get("k", 1)
    lam = rng.gamma(theta["r"], 1 / theta["alpha"], n)
    p = rng.beta(theta["a"], theta["b"], n)
    clock, lifetime = np.zeros(n), np.full(n, np.inf)
    if first_may_be_last:
        lifetime[rng.random(n) < p] = 0.0
    customers, times = [np.zeros(0, int)], [np.zeros(0)]
    active = np.flatnonzero(lifetime > 0)
    while len(active):
        with np.errstate(divide="ignore", over="ignore"):  # λ that underflows: never again
            clock[active] += rng.standard_gamma(phases, len(active)) / lam[active]
        active = active[clock[active] <= T[active]]
        customers.append(active)
        times.append(clock[active])
        leaves = rng.random(len(active)) < p[active]
        lifetime[active[leaves]] = clock[active[leaves]]
        active = active[~leaves]
    customer, time = np.concatenate(customers), np.concatenate(times)
    order = np.lexsort((time, customer))
    latents = np.column_stack([lam, lam * p]) if phases == 1 else None
    return Histories(customer=customer[order], time=time[order], lifetime=lifetime, latents=latents)
