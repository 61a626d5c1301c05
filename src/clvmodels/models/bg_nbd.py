"""BG/NBD: Poisson purchasing, and dropout with probability p after every repeat purchase.

Fader, Hardie and Lee (2005), "Counting Your Customers" the Easy Way, Marketing Science 24(2):

* while alive, a customer buys at rate λ; λ ~ Gamma(r, α),
* after each repeat purchase the customer drops out with probability p; p ~ Beta(a, b).

A customer without a repeat purchase had no occasion to drop out, so P(alive) = 1 at x = 0.
"""

import math

import numpy as np

from clvmodels.models.family import (
    Coordinate,
    Histories,
    Parameter,
    Peer,
    PurchaseFamily,
    Reference,
    compiled,
)
from clvmodels.numerics.special import beta_power_mean, logistic_of_difference

_TINY = 1e-290  # a gamma of small shape underflows; a rate has to stay a number to divide by


def log_likelihood(theta, stats):
    """Log of eq. (6), with the sum over "alive" and "dropped out at t_x" in log space."""
    import pytensor.tensor as pt

    r, alpha, a, b = theta["r"], theta["alpha"], theta["a"], theta["b"]
    x, t_x, T = stats["frequency"], stats["recency"], stats["T"]
    purchases = pt.gammaln(r + x) - pt.gammaln(r) + r * pt.log(alpha)
    survival = pt.gammaln(b + x) + pt.gammaln(a + b) - pt.gammaln(b) - pt.gammaln(a + b + x)
    alive = -(r + x) * pt.log(alpha + T)
    dropped = pt.log(a) - pt.log(b + pt.maximum(x, 1) - 1) - (r + x) * pt.log(alpha + t_x)
    return purchases + survival + pt.where(x > 0, pt.logaddexp(alive, dropped), alive)


@compiled.p_alive
def p_alive(theta, stats):
    """P(alive | x, t_x, T): 1 / (1 + 1{x>0} a/(b+x-1) ((α+T)/(α+t_x))^(r+x))."""
    r, alpha, a, b = theta
    x, t_x, T = stats
    if x == 0.0:
        return 1.0
    odds = math.log(a / (b + x - 1.0)) + (r + x) * math.log((alpha + T) / (alpha + t_x))
    return logistic_of_difference(odds, 0.0)


@compiled.rate
def rate(theta, stats, s):
    """(R/A) E[(1 + ps/A)^-(R+1)], R = r+x, A = α+T, p ~ Beta(a, b+x): λ and p given alive."""
    r, alpha, a, b = theta
    x, _, T = stats
    R, A = r + x, alpha + T
    return R / A * beta_power_mean(R + 1.0, a, b + x, s / A)


@compiled.total
def total(theta, stats):
    """E[1/p | alive] = (a+b+x-1)/(a-1), finite for a > 1."""
    _, _, a, b = theta
    return (a + b + stats[0] - 1.0) / (a - 1.0)


@compiled.latent
def latent(theta, stats, rng, out):
    """alive; then λ and p from their gamma and beta given that."""
    r, alpha, a, b = theta
    x, t_x, T = stats
    if rng.random() < p_alive(theta, stats):
        out[0] = 1.0
        lam = rng.gamma(r + x, 1.0 / (alpha + T))
        p = rng.beta(a, b + x)
    else:
        out[0] = 0.0
        lam = rng.gamma(r + x, 1.0 / (alpha + t_x))
        p = rng.beta(a + 1.0, b + x - 1.0)
    lam = max(lam, _TINY)
    out[1] = lam
    out[2] = lam * p
    out[3] = p


@compiled.gap
def gap(latents, s, rng):
    """A purchase (but not the origin) may be the last; otherwise the next comes after Exp(λ)."""
    if s > 0.0 and rng.random() < latents[3]:
        return math.inf
    return rng.standard_exponential() / latents[1]


def simulate(theta, T, rng):
    """Play the story: purchases one by one until the customer drops out or T is reached."""
    n = len(T)
    lam = np.maximum(rng.gamma(theta["r"], 1 / theta["alpha"], n), _TINY)
    p = rng.beta(theta["a"], theta["b"], n)
    clock, lifetime = np.zeros(n), np.full(n, np.inf)
    customers, times = [np.zeros(0, int)], [np.zeros(0)]
    active = np.arange(n)
    while len(active):
        clock[active] += rng.exponential(size=len(active)) / lam[active]
        active = active[clock[active] <= T[active]]
        customers.append(active)
        times.append(clock[active])
        leaves = rng.random(len(active)) < p[active]
        lifetime[active[leaves]] = clock[active[leaves]]
        active = active[~leaves]
    customer, time = np.concatenate(customers), np.concatenate(times)
    order = np.lexsort((time, customer))
    return Histories(customer=customer[order], time=time[order], lifetime=lifetime)


def from_coordinates(c):
    return {
        "r": c["r"],
        "alpha": c["r"] / c["purchase_rate"],
        "a": c["dropout"] * c["dropout_precision"],
        "b": (1 - c["dropout"]) * c["dropout_precision"],
    }


def to_coordinates(theta):
    precision = theta["a"] + theta["b"]
    return {
        "purchase_rate": theta["r"] / theta["alpha"],
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


FAMILY = PurchaseFamily(
    name="bg_nbd",
    title="BG/NBD",
    role="purchases",
    clock="continuous",
    parameters=(
        Parameter(name="r", domain="positive", unit="1", meaning="shape of the purchase rate λ"),
        Parameter(name="alpha", domain="positive", unit="time", meaning="rate of λ's gamma"),
        Parameter(name="a", domain="positive", unit="1", meaning="first shape of dropout p"),
        Parameter(name="b", domain="positive", unit="1", meaning="second shape of dropout p"),
    ),
    coordinates=(
        Coordinate(
            name="purchase_rate",
            domain="positive",
            unit="1/time",
            meaning="mean purchase rate r/α",
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
    ),
    from_coordinates=from_coordinates,
    to_coordinates=to_coordinates,
    priors=priors,
    statistics=("frequency", "recency", "T"),
    log_likelihood=log_likelihood,
    p_alive=p_alive,
    rate=rate,
    converges=lambda draws: bool((draws[:, 2] > 1).all()),
    total=total,
    latents=("alive", "intensity", "decay", "p"),
    latent=latent,
    gap=gap,
    simulate=simulate,
    references=(
        Reference(
            authors="Fader, Hardie and Lee",
            year=2005,
            title='"Counting Your Customers" the Easy Way',
            where="Marketing Science 24(2), 275-284",
        ),
    ),
    typical=(
        {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426},
        {"r": 1.8, "alpha": 12.0, "a": 1.4, "b": 4.0},
        {"r": 0.6, "alpha": 2.0, "a": 0.5, "b": 0.6},
    ),
    peer=Peer(model="BetaGeoModel", kinds=("BG/NBD",)),
)
