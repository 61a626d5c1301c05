"""sBG: a contract that is renewed with the same probability at every opportunity.

Fader and Hardie (2007), How to Project Customer Retention, J. Interactive Marketing 21(1):

* at every renewal opportunity a customer leaves with probability θ; θ ~ Beta(α, β).

In the summary a contract is a row without gaps: x renewals made, recency x, and T renewal
opportunities seen. The customer is alive exactly if x = T; otherwise it left at opportunity
x + 1, and the paper's lifetime is x + 1.
"""

import numpy as np

from clvmodels.models._discrete import contract_histories, contract_objection, decay_of, survival
from clvmodels.models.family import Coordinate, Parameter, PurchaseFamily, Reference, compiled


def log_likelihood(theta, stats):
    """Log of eq. (5), P(lifetime = x + 1), or of eq. (6), S(T), for those still there."""
    import pytensor.tensor as pt

    def log_beta(a, b):
        return pt.gammaln(a) + pt.gammaln(b) - pt.gammaln(a + b)

    alpha, beta = theta["alpha"], theta["beta"]
    x, T = stats["frequency"], stats["T"]
    left, stayed = log_beta(alpha + 1.0, beta + x), log_beta(alpha, beta + T)
    return pt.where(x < T, left, stayed) - log_beta(alpha, beta)


@compiled.p_alive
def p_alive(theta, stats):
    """1 if every opportunity was taken, else 0: in a contract the end is seen."""
    return 1.0 if stats[0] >= stats[1] else 0.0


@compiled.rate
def rate(theta, stats, s):
    """B(α, β+T+s)/B(α, β+T): renews at T+s."""
    alpha, beta = theta[0], theta[1]
    return survival(alpha, beta + stats[1], s)


@compiled.survival
def alive_at(theta, stats, s):
    """A living contract is one that is renewed."""
    return rate(theta, stats, s)


@compiled.total
def total(theta, stats):
    """E[(1-θ)/θ | alive] = (β+T)/(α-1), finite for α > 1."""
    alpha, beta = theta[0], theta[1]
    return (beta + stats[1]) / (alpha - 1.0)


@compiled.latent
def latent(theta, stats, rng, out):
    """θ given T renewals, or x renewals and the one that was missed."""
    alpha, beta = theta[0], theta[1]
    out[0] = p_alive(theta, stats)
    out[1] = 1.0
    out[2] = decay_of(rng.beta(alpha + 1.0 - out[0], beta + stats[0]))


@compiled.gap
def gap(latents, s, rng):
    """The next renewal is one period away, or there is none."""
    return 1.0 if rng.standard_exponential() > latents[2] else -1.0


def simulate(theta, T, rng):
    """Play the story: a coin at every renewal opportunity, until it says leave."""
    dropout = rng.beta(theta["alpha"], theta["beta"], len(T))
    latents = np.column_stack([np.ones(len(T)), -np.log1p(-np.minimum(dropout, 1 - 2.0**-53))])
    return contract_histories(T, lambda who, t: rng.random(len(who)) >= dropout[who], latents)


def from_coordinates(c):
    return {
        "alpha": c["dropout"] * c["dropout_precision"],
        "beta": (1 - c["dropout"]) * c["dropout_precision"],
    }


def to_coordinates(theta):
    precision = theta["alpha"] + theta["beta"]
    return {"dropout": theta["alpha"] / precision, "dropout_precision": precision}


def priors(scale):
    return {
        "dropout": {"dist": "Beta", "alpha": 1.0, "beta": 1.0},
        "dropout_precision": {"dist": "LogNormal", "mu": 1.0, "sigma": 1.0},
    }


FAMILY = PurchaseFamily(
    name="sbg",
    title="sBG",
    role="contract",
    clock="discrete",
    parameters=(
        Parameter(name="alpha", domain="positive", unit="1", meaning="first shape of dropout θ"),
        Parameter(name="beta", domain="positive", unit="1", meaning="second shape of dropout θ"),
    ),
    coordinates=(
        Coordinate(
            name="dropout",
            domain="unit",
            unit="1",
            meaning="mean dropout probability α/(α+β) at the first renewal",
            drives="dropout",
        ),
        Coordinate(
            name="dropout_precision",
            domain="positive",
            unit="1",
            meaning="α+β: small, unequal dropout probabilities",
        ),
    ),
    from_coordinates=from_coordinates,
    to_coordinates=to_coordinates,
    priors=priors,
    statistics=("frequency", "T"),
    log_likelihood=log_likelihood,
    objection=contract_objection,
    state=("frequency", "T"),
    p_alive=p_alive,
    rate=rate,
    survival=alive_at,
    rate_depends_on=("T",),
    converges=lambda draws: bool((draws[:, 0] > 1).all()),
    total=total,
    latents=("alive", "intensity", "decay"),
    latent=latent,
    gap=gap,
    simulate=simulate,
    references=(
        Reference(
            authors="Fader and Hardie",
            year=2007,
            title="How to Project Customer Retention",
            where="Journal of Interactive Marketing 21(1), 76-90",
        ),
        Reference(
            authors="Fader and Hardie",
            year=2010,
            title="Customer-Base Valuation in a Contractual Setting: The Perils of Ignoring Heterogeneity",
            where="Marketing Science 29(1), 85-93",
        ),
    ),
    typical=(
        {"alpha": 0.668, "beta": 3.806},
        {"alpha": 0.704, "beta": 1.182},
        {"alpha": 2.5, "beta": 20.0},
    ),
)
