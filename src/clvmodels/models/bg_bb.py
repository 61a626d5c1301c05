"""BG/BB: a coin for every purchase opportunity, and dropout before any of them.

Fader, Hardie and Shang (2010), Customer-Base Analysis in a Discrete-Time Noncontractual
Setting, Marketing Science 29(6):

* at every opportunity a living customer buys with probability p; p ~ Beta(α, β),
* before every opportunity a living customer drops out with probability θ; θ ~ Beta(γ, δ).

The paper's n is T, the opportunities after the first purchase, and its m the one of the last
purchase, t_x. Its P(alive) is that of surviving to opportunity n+1; here, as in every family,
alive is alive at T, and dropping out before opportunity T+1 is part of the future.
"""

import math

import numpy as np

from clvmodels.models._discrete import decay_of, fractional, log_rising, skipped, survival
from clvmodels.models.family import (
    Coordinate,
    Histories,
    Parameter,
    Peer,
    PurchaseFamily,
    Reference,
    compiled,
)
from clvmodels.numerics.special import logistic_of_difference


def log_likelihood(theta, stats):
    """Log of eq. (5): alive at T, or gone after opportunity i for one of i = t_x, ..., T-1.

    The ratio of term i+1 to term i depends on x and i alone. So the sums of all terms from i to
    the end of the longest history, over term i, come from one backward recursion over i for all x
    at once, and a row's own sum is the difference of two of them: what begins at t_x without what
    begins at T.
    """
    import pytensor
    import pytensor.tensor as pt

    def log_beta(a, b):
        return pt.gammaln(a) + pt.gammaln(b) - pt.gammaln(a + b)

    def add_term(i, following, x, alpha, beta, gamma, delta):
        ratio = (beta + pt.maximum(i - x, 0.0)) / (alpha + beta + i) * (delta + i) / (gamma + delta + 1.0 + i)
        return 1.0 + ratio * following

    alpha, beta, gamma, delta = (theta[name] for name in ("alpha", "beta", "gamma", "delta"))
    x, t_x, T = stats["frequency"], stats["recency"], stats["T"]
    alive = log_beta(alpha + x, beta + T - x) + log_beta(gamma, delta + T)
    first = log_beta(alpha + x, beta + t_x - x) + log_beta(gamma + 1.0, delta + t_x)
    beyond = log_beta(alpha + x, beta + T - x) + log_beta(gamma + 1.0, delta + T)

    end = pt.maximum(pt.max(T), 1.0).astype("int64")
    every_x = pt.arange(pt.max(x).astype("int64") + 1).astype("float64")
    sums = pytensor.scan(
        add_term,
        sequences=[pt.arange(end).astype("float64")],
        outputs_info=[pt.zeros_like(every_x)],
        non_sequences=[every_x, alpha, beta, gamma, delta],
        go_backwards=True,
        strict=True,
        return_updates=False,
    )
    sums = pt.concatenate([pt.zeros_like(every_x)[None], sums])[::-1]

    def sum_from(i):
        return sums[i.astype("int64"), x.astype("int64")]

    some = t_x < T
    terms = pt.where(some, sum_from(t_x) - sum_from(T) * pt.exp(beyond - first), 1.0)
    either = pt.where(some, pt.logaddexp(alive, first + pt.log(terms)), alive)
    return either - log_beta(alpha, beta) - log_beta(gamma, delta)


@compiled.p_alive
def p_alive(theta, stats):
    """P(alive at T | x, t_x, T): the first term of eq. (5) over all of them."""
    alpha, beta, gamma, delta = theta[0], theta[1], theta[2], theta[3]
    x, t_x, T = stats[0], stats[1], stats[2]
    if t_x >= T:
        return 1.0
    # log of term t_x over the term of the living, which is B(α+x, β+T-x) B(γ, δ+T).
    gone = log_rising(beta + T - x, alpha + x) - log_rising(beta + t_x - x, alpha + x)
    gone += log_rising(delta + T, gamma) - log_rising(delta + t_x, gamma)
    gone += math.log(gamma / (gamma + delta + t_x))
    terms = 0.0
    i = T
    while i > t_x:
        i -= 1.0
        terms = 1.0 + terms * (
            (beta + i - x) * (delta + i) / ((alpha + beta + i) * (gamma + delta + 1.0 + i))
        )
    return logistic_of_difference(gone + math.log(terms), 0.0)


@compiled.rate
def rate(theta, stats, s):
    """(α+x)/(α+β+T) · B(γ, δ+T+s)/B(γ, δ+T): buys at T+s and has survived the s dropouts before."""
    alpha, beta, gamma, delta = theta[0], theta[1], theta[2], theta[3]
    x, T = stats[0], stats[2]
    return (alpha + x) / (alpha + beta + T) * survival(gamma, delta + T, s)


@compiled.survival
def alive_at(theta, stats, s):
    """B(γ, δ+T+s)/B(γ, δ+T): survives the dropouts before s more opportunities."""
    return survival(theta[2], theta[3] + stats[2], s)


@compiled.total
def total(theta, stats):
    """E[p | x, T] E[(1-θ)/θ | alive at T], finite for γ > 1."""
    alpha, beta, gamma, delta = theta[0], theta[1], theta[2], theta[3]
    x, T = stats[0], stats[2]
    return (alpha + x) / (alpha + beta + T) * (delta + T) / (gamma - 1.0)


@compiled.latent
def latent(theta, stats, rng, out):
    """alive, or the opportunity after which the customer was gone; then p and θ given that."""
    alpha, beta, gamma, delta = theta[0], theta[1], theta[2], theta[3]
    x, t_x, T = stats[0], stats[1], stats[2]
    if rng.random() < p_alive(theta, stats):
        out[0] = 1.0
        p = rng.beta(alpha + x, beta + T - x)
        dropout = rng.beta(gamma, delta + T)
    else:
        out[0] = 0.0
        total, term = 0.0, 1.0
        for i in range(int(t_x), int(T)):
            total += term
            term *= (beta + i - x) * (delta + i) / ((alpha + beta + i) * (gamma + delta + 1.0 + i))
        left, term, i = rng.random() * total, 1.0, t_x
        while left > term and i < T - 1.0:
            left -= term
            term *= (beta + i - x) * (delta + i) / ((alpha + beta + i) * (gamma + delta + 1.0 + i))
            i += 1.0
        p = rng.beta(alpha + x, beta + i - x)
        dropout = rng.beta(gamma + 1.0, delta + i)
    out[1] = p
    out[2] = decay_of(dropout)


@compiled.gap
def gap(latents, s, rng):
    """Opportunities until something happens, dropout or purchase; then which of the two."""
    stays = math.exp(-latents[2])
    buys = stays * latents[1]
    happens = 1.0 - stays * (1.0 - latents[1])
    sign = 1.0 if rng.random() * happens < buys else -1.0
    if happens >= 1.0:
        return sign
    return sign * (1.0 + math.floor(math.log(1.0 - rng.random()) / math.log1p(-happens)))


def simulate(theta, T, rng):
    """Play the story: at every opportunity first the dropout, then the purchase."""
    n = len(T)
    p = rng.beta(theta["alpha"], theta["beta"], n)
    dropout = rng.beta(theta["gamma"], theta["delta"], n)
    lifetime = np.full(n, np.inf)
    customers, times = [np.zeros(0, int)], [np.zeros(0)]
    active, t = np.arange(n), 0.0
    while len(active := active[T[active] >= t + 1.0]):
        t += 1.0
        leaves = rng.random(len(active)) < dropout[active]
        lifetime[active[leaves]] = t
        active = active[~leaves]
        buyers = active[rng.random(len(active)) < p[active]]
        customers.append(buyers)
        times.append(np.full(len(buyers), t))
    customer, time = np.concatenate(customers), np.concatenate(times)
    order = np.lexsort((time, customer))
    latents = np.column_stack([p, -np.log1p(-np.minimum(dropout, 1 - 2.0**-53))])
    return Histories(customer=customer[order], time=time[order], lifetime=lifetime, latents=latents)


def from_coordinates(c):
    return {
        "alpha": c["purchase"] * c["purchase_precision"],
        "beta": (1 - c["purchase"]) * c["purchase_precision"],
        "gamma": c["dropout"] * c["dropout_precision"],
        "delta": (1 - c["dropout"]) * c["dropout_precision"],
    }


def to_coordinates(theta):
    purchase_precision, dropout_precision = theta["alpha"] + theta["beta"], theta["gamma"] + theta["delta"]
    return {
        "purchase": theta["alpha"] / purchase_precision,
        "purchase_precision": purchase_precision,
        "dropout": theta["gamma"] / dropout_precision,
        "dropout_precision": dropout_precision,
    }


def priors(scale):
    return {
        "purchase": {"dist": "Beta", "alpha": 1.0, "beta": 1.0},
        "purchase_precision": {"dist": "LogNormal", "mu": 1.0, "sigma": 1.0},
        "dropout": {"dist": "Beta", "alpha": 1.0, "beta": 1.0},
        "dropout_precision": {"dist": "LogNormal", "mu": 1.0, "sigma": 1.0},
    }


def objection(columns):
    if reason := fractional(columns):
        return f"{reason}; this family needs a discrete clock, on which whole periods are counted."
    bought, left = columns["frequency"] > 0, columns["recency"] < columns["T"]
    if skipped(columns)[0] == 0 and bought.any() and left.any() and (columns["T"] > 1).any():
        return (
            f"none of {len(bought):,} customers ever missed an opportunity and bought again later, so that "
            "dropout and absence cannot be told apart: these are contracts, for a contract family."
        )
    return None


FAMILY = PurchaseFamily(
    name="bg_bb",
    title="BG/BB",
    role="purchases",
    clock="discrete",
    parameters=(
        Parameter(name="alpha", domain="positive", unit="1", meaning="first shape of purchase p"),
        Parameter(name="beta", domain="positive", unit="1", meaning="second shape of purchase p"),
        Parameter(name="gamma", domain="positive", unit="1", meaning="first shape of dropout θ"),
        Parameter(name="delta", domain="positive", unit="1", meaning="second shape of dropout θ"),
    ),
    coordinates=(
        Coordinate(
            name="purchase",
            domain="unit",
            unit="1",
            meaning="mean purchase probability α/(α+β) at an opportunity",
            drives="purchase",
        ),
        Coordinate(
            name="purchase_precision",
            domain="positive",
            unit="1",
            meaning="α+β: small, unequal purchase probabilities",
        ),
        Coordinate(
            name="dropout",
            domain="unit",
            unit="1",
            meaning="mean dropout probability γ/(γ+δ) before an opportunity",
            drives="dropout",
        ),
        Coordinate(
            name="dropout_precision",
            domain="positive",
            unit="1",
            meaning="γ+δ: small, unequal dropout probabilities",
        ),
    ),
    from_coordinates=from_coordinates,
    to_coordinates=to_coordinates,
    priors=priors,
    statistics=("frequency", "recency", "T"),
    log_likelihood=log_likelihood,
    per_row=False,
    objection=objection,
    p_alive=p_alive,
    rate=rate,
    survival=alive_at,
    converges=lambda draws: bool((draws[:, 2] > 1).all()),
    total=total,
    latents=("alive", "intensity", "decay"),
    latent=latent,
    gap=gap,
    simulate=simulate,
    references=(
        Reference(
            authors="Fader, Hardie and Shang",
            year=2010,
            title="Customer-Base Analysis in a Discrete-Time Noncontractual Setting",
            where="Marketing Science 29(6), 1086-1108",
        ),
    ),
    typical=(
        {"alpha": 1.2035, "beta": 0.7497, "gamma": 0.6568, "delta": 2.7838},
        {"alpha": 2.0, "beta": 6.0, "gamma": 1.5, "delta": 12.0},
        {"alpha": 0.4, "beta": 0.6, "gamma": 0.5, "delta": 0.7},
    ),
    peer=Peer(model="BetaGeoBetaBinomModel", kinds=("BG/BB",)),
)
