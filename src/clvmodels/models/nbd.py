"""NBD: Poisson purchasing without dropout.

Ehrenberg (1959), The Pattern of Consumer Purchases, Applied Statistics 8(1): a customer buys
at rate λ for ever; λ ~ Gamma(r, α).

The benchmark that shows why dropout matters. Everybody is alive and λ never decays, so that
purchases at infinite horizon are worth E[λ | x, T] / δ: ten or twenty years of today's rate.
Without discounting that sum has no limit.
"""

import math

import numpy as np

from clvmodels.models._poisson import gap, histories
from clvmodels.models.family import (
    Coordinate,
    Parameter,
    PurchaseFamily,
    Reference,
    compiled,
)


def log_likelihood(theta, stats):
    """Log density of x purchase times in (0, T]: Γ(r+x)/Γ(r) α^r / (α+T)^(r+x)."""
    import pytensor.tensor as pt

    r, alpha = theta["r"], theta["alpha"]
    x, T = stats["frequency"], stats["T"]
    return pt.gammaln(r + x) - pt.gammaln(r) + r * pt.log(alpha) - (r + x) * pt.log(alpha + T)


@compiled.p_alive
def p_alive(theta, stats):
    """Nobody leaves."""
    return 1.0


@compiled.rate
def rate(theta, stats, s):
    """E[λ | x, T] = (r+x)/(α+T), at any time."""
    r, alpha = theta[0], theta[1]
    x, T = stats[0], stats[1]
    return (r + x) / (alpha + T)


@compiled.survival
def survival(theta, stats, s):
    """Nobody leaves."""
    return 1.0


@compiled.total
def total(theta, stats):
    """Purchases never end."""
    return math.inf


@compiled.latent
def latent(theta, stats, rng, out):
    """λ ~ Gamma(r + x, α + T)."""
    r, alpha = theta[0], theta[1]
    x, T = stats[0], stats[1]
    out[0] = 1.0
    out[1] = rng.gamma(r + x, 1.0 / (alpha + T))
    out[2] = 0.0


def simulate(theta, T, rng):
    """Play the story: Poisson purchases up to T."""
    n = len(T)
    return histories(rng.gamma(theta["r"], 1 / theta["alpha"], n), np.zeros(n), T, rng)


def transfer(theta, other, latents):
    """λ from Gamma(r, α) to Gamma(r, α')."""
    out = latents.copy()
    out[..., 1] *= theta["alpha"] / other["alpha"]
    return out


def from_coordinates(c):
    return {"r": c["r"], "alpha": c["r"] / c["purchase_rate"]}


def to_coordinates(theta):
    return {"purchase_rate": theta["r"] / theta["alpha"], "r": theta["r"]}


def priors(scale):
    return {
        "purchase_rate": {"dist": "LogNormal", "mu": math.log(scale.rate), "sigma": 1.5},
        "r": {"dist": "LogNormal", "mu": 0.0, "sigma": 1.5},
    }


@compiled.given_alive
def given_alive(theta, stats, out):
    """λ ~ Gamma(r+x, α+T); nobody leaves."""
    out[0], out[1] = theta[0] + stats[0], theta[1] + stats[1]
    out[2], out[3] = 0.0, 1.0


FAMILY = PurchaseFamily(
    name="nbd",
    title="NBD",
    role="purchases",
    clock="continuous",
    parameters=(
        Parameter(name="r", domain="positive", unit="1", meaning="shape of the purchase rate λ"),
        Parameter(name="alpha", domain="positive", unit="time", meaning="rate of λ's gamma"),
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
    ),
    from_coordinates=from_coordinates,
    to_coordinates=to_coordinates,
    priors=priors,
    statistics=("frequency", "T"),
    log_likelihood=log_likelihood,
    state=("frequency", "T"),
    p_alive=p_alive,
    rate=rate,
    aging="alpha",
    survival=survival,
    converges=lambda draws: False,
    total=total,
    latents=("alive", "intensity", "decay"),
    latent=latent,
    gap=gap,
    given_alive=given_alive,
    simulate=simulate,
    transfer=transfer,
    references=(
        Reference(
            authors="Ehrenberg",
            year=1959,
            title="The Pattern of Consumer Purchases",
            where="Journal of the Royal Statistical Society C (Applied Statistics) 8(1), 26-41",
        ),
    ),
    typical=(
        {"r": 0.385, "alpha": 12.1},
        {"r": 2.0, "alpha": 15.0},
    ),
)
