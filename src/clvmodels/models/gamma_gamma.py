"""Gamma-Gamma spend: gamma baskets around a customer's own mean, which is inverse gamma.

Fader, Hardie and Lee (2005), "RFM and CLV", J. Marketing Research 42(4), after Colombo and
Jiang (1999):

* each basket of a customer is Gamma(p, ν), with mean ζ = p/ν,
* ν ~ Gamma(q, γ), independent of how often the customer buys.

The population mean pγ/(q-1) exists for q > 1 only.
"""

import math

import numpy as np

from clvmodels.models.family import Baskets, Coordinate, Parameter, Peer, Reference, SpendFamily, compiled


def log_likelihood(theta, stats):
    """Log density of the mean z̄ of x baskets, x >= 1 (the paper's eq. 1)."""
    import pytensor.tensor as pt

    p, q, gamma = theta["p"], theta["q"], theta["gamma"]
    x, z = stats["frequency"], stats["monetary_value"]
    px = p * x
    return (
        pt.gammaln(px + q)
        - pt.gammaln(px)
        - pt.gammaln(q)
        + q * pt.log(gamma)
        + (px - 1) * pt.log(z)
        + px * pt.log(x)
        - (px + q) * pt.log(gamma + x * z)
    )


@compiled.expected_spend
def expected_spend(theta, stats):
    """E[ζ | x, z̄] = p (γ + x z̄) / (p x + q - 1); infinite where p x + q <= 1."""
    p, q, gamma = theta[0], theta[1], theta[2]
    x, z = stats[0], stats[1]
    degrees = p * x + q - 1.0
    if degrees <= 0.0:
        return math.inf
    return p * (gamma + x * z) / degrees


@compiled.latent
def latent(theta, stats, rng, out):
    """ν ~ Gamma(q + p x, γ + x z̄); ζ = p/ν."""
    p, q, gamma = theta[0], theta[1], theta[2]
    x, z = stats[0], stats[1]
    nu = rng.gamma(q + p * x, 1.0 / (gamma + x * z))
    out[0] = p / nu
    out[1] = p


@compiled.basket
def basket(latents, rng):
    """One basket: gamma with shape p and mean ζ."""
    return rng.standard_gamma(latents[1]) * latents[0] / latents[1]


@compiled.given_history
def given_history(theta, stats, out):
    """ν ~ Gamma(q + p x, γ + x z̄), and p."""
    p, q, gamma = theta[0], theta[1], theta[2]
    out[0], out[1], out[2] = q + p * stats[0], gamma + stats[0] * stats[1], p


def simulate(theta, frequency, rng):
    """Play the story: every basket of every customer."""
    nu = rng.gamma(theta["q"], 1 / theta["gamma"], len(frequency))
    customer = np.repeat(np.arange(len(frequency)), np.asarray(frequency, int))
    amount = rng.gamma(theta["p"], 1 / nu[customer])
    return Baskets(mean=theta["p"] / nu, customer=customer, amount=amount)


def transfer(theta, other, latents):
    """ζ = p/ν with γ, the shapes held."""
    out = latents.copy()
    out[..., 0] *= other["gamma"] / theta["gamma"]
    return out


def from_coordinates(c):
    return {
        "p": c["p"],
        "q": 1 + c["tail"],
        "gamma": c["mean_spend"] * c["tail"] / c["p"],
    }


def to_coordinates(theta):
    tail = theta["q"] - 1
    return {"mean_spend": theta["p"] * theta["gamma"] / tail, "p": theta["p"], "tail": tail}


def priors(scale):
    return {
        "mean_spend": {"dist": "LogNormal", "mu": math.log(scale.spend), "sigma": 1.0},
        "p": {"dist": "LogNormal", "mu": 1.0, "sigma": 1.5},
        "tail": {"dist": "LogNormal", "mu": 1.0, "sigma": 1.0},
    }


FAMILY = SpendFamily(
    name="gamma_gamma",
    title="Gamma-Gamma",
    role="spend",
    parameters=(
        Parameter(name="p", domain="positive", unit="1", meaning="shape of a basket"),
        Parameter(name="q", domain="positive", unit="1", meaning="shape of ν across customers"),
        Parameter(name="gamma", domain="positive", unit="currency", meaning="rate of ν's gamma"),
    ),
    coordinates=(
        Coordinate(
            name="mean_spend",
            domain="positive",
            unit="currency",
            meaning="population mean spend pγ/(q-1)",
            drives="spend",
        ),
        Coordinate(name="p", domain="positive", unit="1", meaning="shape: large p, regular baskets"),
        Coordinate(
            name="tail",
            domain="positive",
            unit="1",
            meaning="q-1: small, a few customers spend very much; above 0 the mean is finite",
        ),
    ),
    from_coordinates=from_coordinates,
    to_coordinates=to_coordinates,
    priors=priors,
    statistics=("frequency", "monetary_value"),
    log_likelihood=log_likelihood,
    has_mean=lambda draws: draws[:, 1] > 1,
    expected_spend=expected_spend,
    latents=("mean", "shape"),
    latent=latent,
    basket=basket,
    given_history=given_history,
    simulate=simulate,
    transfer=transfer,
    references=(
        Reference(
            authors="Fader, Hardie and Lee",
            year=2005,
            title="RFM and CLV: Using Iso-Value Curves for Customer Base Analysis",
            where="Journal of Marketing Research 42(4), 415-430",
        ),
    ),
    typical=(
        {"p": 6.25, "q": 3.74, "gamma": 15.44},
        {"p": 1.5, "q": 6.0, "gamma": 120.0},
        {"p": 3.0, "q": 2.6, "gamma": 9.0},
    ),
    peer=Peer(
        model="GammaGammaModel",
        kinds=("Gamma-Gamma Model (Mean Transactions)", "Gamma-Gamma Model (Individual Transactions)"),
        renamed={"gamma": "v"},
    ),
)
