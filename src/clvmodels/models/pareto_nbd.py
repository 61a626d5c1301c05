"""Pareto/NBD: Poisson purchasing, and dropout after an exponential lifetime.

Schmittlein, Morrison and Colombo (1987), Counting Your Customers, Management Science 33(1), in
the notation of Fader and Hardie (2005), A Note on Deriving the Pareto/NBD Model:

* while alive, a customer buys at rate λ; λ ~ Gamma(r, α),
* the lifetime τ is exponential with rate μ, purchases or none; μ ~ Gamma(s, β).

The customer may have left at any time since the last purchase, τ from t_x to T. With R = r + x,

    L = Γ(R)/Γ(r) α^r β^s { (α+T)^-R (β+T)^-s + s ∫ (α+τ)^-R (β+τ)^-(s+1) dτ }.

The papers write the integral as a difference of two ₂F₁. Here both ends of it are read as a chance: let
q(τ) = E[μ/(λ+μ)], given x purchases and being alive at τ, be that of leaving before the next purchase.
Leaving at any time after τ has likelihood q(τ) (α+τ)^-R (β+τ)^-s, so that

    L = Γ(R)/Γ(r) α^r β^s { (1 - q(T)) (α+T)^-R (β+T)^-s + q(t_x) (α+t_x)^-R (β+t_x)^-s },

a sum of positive terms: Abe's (2009) eq. (5), averaged. λ/(α+τ)^-1 and μ/(β+τ)^-1 are gammas, their
ratio is that of p ~ Beta(R, s) to 1-p, and q is a function of R, s and (α+τ)/(β+τ): ``beta_shares``.
"""

import math

import numba

from clvmodels.models._poisson import gap, histories
from clvmodels.models.family import (
    Coordinate,
    Parameter,
    Peer,
    PurchaseFamily,
    Reference,
    compiled,
)
from clvmodels.numerics.special import beta_shares


def log_likelihood(theta, stats):
    """Log of L above: of the second term, and of one plus the ratio of the first to it."""
    import pytensor.tensor as pt

    from clvmodels.models._shares import beta_share

    r, alpha, s, beta = theta["r"], theta["alpha"], theta["s"], theta["beta"]
    x, t_x, T = stats["frequency"], stats["recency"], stats["T"]
    R = r + x
    purchases = pt.gammaln(R) - pt.gammaln(r) + r * pt.log(alpha) + s * pt.log(beta)
    log_a, log_b = pt.log(alpha + t_x), pt.log(beta + t_x)
    fall = R * (log_a - pt.log(alpha + T)) + s * (log_b - pt.log(beta + T))
    left_by_t_x = beta_share(R, s, (alpha + t_x) / (beta + t_x))
    left_by_T = beta_share(R, s, (alpha + T) / (beta + T))
    return purchases - R * log_a - s * log_b + pt.log(left_by_t_x + pt.exp(fall) * (1 - left_by_T))


@compiled.p_alive
def p_alive(theta, stats):
    """P(alive | x, t_x, T): the likelihood of being alive at T over L."""
    r, alpha, s, beta = theta[0], theta[1], theta[2], theta[3]
    x, t_x, T = stats[0], stats[1], stats[2]
    if t_x >= T:
        return 1.0
    R = r + x
    fall = math.exp(-R * math.log((alpha + T) / (alpha + t_x)) - s * math.log((beta + T) / (beta + t_x)))
    _, left = beta_shares(R, s, (alpha + t_x) / (beta + t_x))
    buys, _ = beta_shares(R, s, (alpha + T) / (beta + T))
    return min(fall / (left + fall * buys), 1.0)


@compiled.rate
def rate(theta, stats, s):
    """E[λ e^(-μ s) | alive] = (r+x)/(α+T) ((β+T)/(β+T+s))^shape: λ and μ are independent gammas."""
    r, alpha, shape, beta = theta[0], theta[1], theta[2], theta[3]
    x, T = stats[0], stats[2]
    return (r + x) / (alpha + T) * math.exp(-shape * math.log1p(s / (beta + T)))


@compiled.survival
def survival(theta, stats, s):
    """E[e^(-μ s) | alive] = ((β+T)/(β+T+s))^shape."""
    return math.exp(-theta[2] * math.log1p(s / (theta[3] + stats[2])))


@compiled.total
def total(theta, stats):
    """E[λ/μ | alive] = (r+x)/(α+T) (β+T)/(s-1), finite for s > 1."""
    r, alpha, s, beta = theta[0], theta[1], theta[2], theta[3]
    x, T = stats[0], stats[2]
    return (r + x) / (alpha + T) * (beta + T) / (s - 1.0)


@numba.njit(cache=True)
def _leaving(a, R, b, S, duration, rng):
    """A draw of u in (0, duration] with density ∝ (1 + u/a)^-R (1 + u/b)^-S.

    By rejection from (1 + u/m)^-(R+S), m the weighted geometric mean of a and b: log(1 + u e^-v)
    is convex in v, so that this is never smaller.
    """
    N = R + S
    m = math.exp((R * math.log(a) + S * math.log(b)) / N)
    share = -math.expm1((1.0 - N) * math.log1p(duration / m))
    while True:
        u = m * math.expm1(-math.log1p(-share * rng.random()) / (N - 1.0))
        log_ratio = N * math.log1p(u / m) - R * math.log1p(u / a) - S * math.log1p(u / b)
        if math.log(1.0 - rng.random()) <= log_ratio:
            return min(u, duration)


@compiled.latent
def latent(theta, stats, rng, out):
    """alive, or the moment τ of leaving; then λ and μ from their gammas given that."""
    r, alpha, s, beta = theta[0], theta[1], theta[2], theta[3]
    x, t_x, T = stats[0], stats[1], stats[2]
    if rng.random() < p_alive(theta, stats):
        out[0], until, left = 1.0, T, 0.0
    else:
        out[0], until, left = 0.0, t_x + _leaving(alpha + t_x, r + x, beta + t_x, s + 1.0, T - t_x, rng), 1.0
    out[1] = rng.gamma(r + x, 1.0 / (alpha + until))
    out[2] = rng.gamma(s + left, 1.0 / (beta + until))


def simulate(theta, T, rng):
    """Play the story: a lifetime, and Poisson purchases within it."""
    n = len(T)
    lam = rng.gamma(theta["r"], 1 / theta["alpha"], n)
    mu = rng.gamma(theta["s"], 1 / theta["beta"], n)
    return histories(lam, mu, T, rng)


def transfer(theta, other, latents):
    """λ and μ from gammas of rates α and β to gammas of rates α' and β', the shapes held."""
    out = latents.copy()
    out[..., 1] *= theta["alpha"] / other["alpha"]
    out[..., 2] *= theta["beta"] / other["beta"]
    return out


def from_coordinates(c):
    return {
        "r": c["r"],
        "alpha": c["r"] / c["purchase_rate"],
        "s": c["s"],
        "beta": c["s"] / c["dropout_rate"],
    }


def to_coordinates(theta):
    return {
        "purchase_rate": theta["r"] / theta["alpha"],
        "r": theta["r"],
        "dropout_rate": theta["s"] / theta["beta"],
        "s": theta["s"],
    }


def priors(scale):
    return {
        "purchase_rate": {"dist": "LogNormal", "mu": math.log(scale.rate), "sigma": 1.5},
        "r": {"dist": "LogNormal", "mu": 0.0, "sigma": 1.5},
        "dropout_rate": {"dist": "LogNormal", "mu": -math.log(scale.time), "sigma": 1.5},
        "s": {"dist": "LogNormal", "mu": 0.0, "sigma": 1.0},
    }


@compiled.given_alive
def given_alive(theta, stats, out):
    """λ ~ Gamma(r+x, α+T), μ ~ Gamma(s, β+T)."""
    out[0], out[1] = theta[0] + stats[0], theta[1] + stats[2]
    out[2], out[3] = theta[2], theta[3] + stats[2]


FAMILY = PurchaseFamily(
    name="pareto_nbd",
    title="Pareto/NBD",
    role="purchases",
    clock="continuous",
    parameters=(
        Parameter(name="r", domain="positive", unit="1", meaning="shape of the purchase rate λ"),
        Parameter(name="alpha", domain="positive", unit="time", meaning="rate of λ's gamma"),
        Parameter(name="s", domain="positive", unit="1", meaning="shape of the dropout rate μ"),
        Parameter(name="beta", domain="positive", unit="time", meaning="rate of μ's gamma"),
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
            name="dropout_rate",
            domain="positive",
            unit="1/time",
            meaning="mean dropout rate s/β",
            drives="dropout",
        ),
        Coordinate(name="s", domain="positive", unit="1", meaning="shape: small s, unequal lifetimes"),
    ),
    from_coordinates=from_coordinates,
    to_coordinates=to_coordinates,
    priors=priors,
    statistics=("frequency", "recency", "T"),
    log_likelihood=log_likelihood,
    p_alive=p_alive,
    rate=rate,
    aging="beta",
    survival=survival,
    converges=lambda draws: bool((draws[:, 2] > 1).all()),
    total=total,
    latents=("alive", "intensity", "decay"),
    latent=latent,
    gap=gap,
    given_alive=given_alive,
    simulate=simulate,
    transfer=transfer,
    references=(
        Reference(
            authors="Schmittlein, Morrison and Colombo",
            year=1987,
            title="Counting Your Customers: Who Are They and What Will They Do Next?",
            where="Management Science 33(1), 1-24",
        ),
        Reference(
            authors="Fader and Hardie",
            year=2005,
            title="A Note on Deriving the Pareto/NBD Model and Related Expressions",
            where="brucehardie.com/notes/009",
        ),
    ),
    typical=(
        {"r": 0.553, "alpha": 10.578, "s": 0.606, "beta": 11.669},
        {"r": 1.8, "alpha": 4.0, "s": 1.6, "beta": 60.0},
        {"r": 0.8, "alpha": 20.0, "s": 0.9, "beta": 2.0},
    ),
    peer=Peer(model="ParetoNBDModel", kinds=("Pareto/NBD",)),
)
