"""Log-normal spend: log baskets are normal around a customer's own mean, which is normal.

The normal-normal model on log spend (Schmittlein and Peterson 1994, Marketing Science 13(1),
use it for average spend):

* log of a basket ~ Normal(m, σ),
* m ~ Normal(log median, τ), independent of how often the customer buys.

Every moment of spend is finite whatever the parameters.
"""

import math

import numpy as np

from clvmodels.models.family import (
    Baskets,
    Coordinate,
    Parameter,
    Reference,
    SpendFamily,
    Statistic,
    compiled,
)

LOGS = (
    Statistic(name="log_spend", of="spend", transform="log"),
    Statistic(name="log_spend_squared", of="spend", transform="log_square"),
)


def log_likelihood(theta, stats):
    """Log density of x baskets z_1 .. z_x from Σ log z and Σ (log z)², m integrated out."""
    import pytensor.tensor as pt

    mu, sigma, tau = pt.log(theta["median"]), theta["sigma"], theta["tau"]
    x, logs, squares = stats["frequency"], stats["log_spend"], stats["log_spend_squared"]
    mean = logs / x
    within = squares - x * mean**2
    spread = sigma**2 + x * tau**2
    return (
        -logs
        - x / 2 * math.log(2 * math.pi)
        - (x - 1) * pt.log(sigma)
        - pt.log(spread) / 2
        - within / (2 * sigma**2)
        - x * (mean - mu) ** 2 / (2 * spread)
    )


@compiled.expected_spend
def expected_spend(theta, stats):
    """E[exp(m + σ²/2) | data] with m's normal posterior."""
    median, sigma, tau = theta[0], theta[1], theta[2]
    x, logs = stats[0], stats[1]
    precision = 1.0 / tau**2 + x / sigma**2
    mean = (math.log(median) / tau**2 + logs / sigma**2) / precision
    return math.exp(mean + 0.5 / precision + 0.5 * sigma**2)


@compiled.latent
def latent(theta, stats, rng, out):
    """m from its normal posterior; the customer's mean spend is exp(m + σ²/2)."""
    median, sigma, tau = theta[0], theta[1], theta[2]
    x, logs = stats[0], stats[1]
    precision = 1.0 / tau**2 + x / sigma**2
    mean = (math.log(median) / tau**2 + logs / sigma**2) / precision
    m = mean + rng.standard_normal() / math.sqrt(precision)
    out[0] = math.exp(m + 0.5 * sigma**2)
    out[1] = sigma


@compiled.basket
def basket(latents, rng):
    """One basket: log-normal with mean ζ and log standard deviation σ."""
    sigma = latents[1]
    return latents[0] * math.exp(sigma * rng.standard_normal() - 0.5 * sigma**2)


def simulate(theta, frequency, rng):
    """Play the story: every basket of every customer."""
    m = rng.normal(np.log(theta["median"]), theta["tau"], len(frequency))
    customer = np.repeat(np.arange(len(frequency)), np.asarray(frequency, int))
    amount = rng.lognormal(m[customer], theta["sigma"])
    return Baskets(mean=np.exp(m + theta["sigma"] ** 2 / 2), customer=customer, amount=amount)


def transfer(theta, other, latents):
    """ζ with the median, the spreads held."""
    out = latents.copy()
    out[..., 0] *= other["median"] / theta["median"]
    return out


def from_coordinates(c):
    spread = (c["sigma"] ** 2 + c["tau"] ** 2) / 2
    return {"median": c["mean_spend"] * math.e ** (-spread), "sigma": c["sigma"], "tau": c["tau"]}


def to_coordinates(theta):
    spread = (theta["sigma"] ** 2 + theta["tau"] ** 2) / 2
    return {
        "mean_spend": theta["median"] * math.e**spread,
        "sigma": theta["sigma"],
        "tau": theta["tau"],
    }


def priors(scale):
    return {
        "mean_spend": {"dist": "LogNormal", "mu": math.log(scale.spend), "sigma": 1.0},
        "sigma": {"dist": "HalfNormal", "sigma": 1.5},
        "tau": {"dist": "HalfNormal", "sigma": 1.5},
    }


def objection(columns):
    if not np.isfinite(columns["log_spend"]).all():
        return (
            "log-normal spend needs amounts above 0 on every repeat purchase day: "
            "set data.negative_days to drop"
        )
    return None


FAMILY = SpendFamily(
    name="lognormal_spend",
    title="Log-normal spend",
    role="spend",
    parameters=(
        Parameter(
            name="median", domain="positive", unit="currency", meaning="median of customers' median baskets"
        ),
        Parameter(name="sigma", domain="positive", unit="1", meaning="sd of log baskets within a customer"),
        Parameter(name="tau", domain="positive", unit="1", meaning="sd of customers' mean log baskets"),
    ),
    coordinates=(
        Coordinate(
            name="mean_spend",
            domain="positive",
            unit="currency",
            meaning="population mean spend",
            drives="spend",
        ),
        Coordinate(name="sigma", domain="positive", unit="1", meaning="sd of log baskets within a customer"),
        Coordinate(name="tau", domain="positive", unit="1", meaning="sd of customers' mean log baskets"),
    ),
    from_coordinates=from_coordinates,
    to_coordinates=to_coordinates,
    priors=priors,
    statistics=("frequency", "log_spend", "log_spend_squared"),
    extra_statistics=LOGS,
    log_likelihood=log_likelihood,
    has_mean=lambda draws: np.ones(len(draws), bool),
    expected_spend=expected_spend,
    latents=("mean", "sigma"),
    latent=latent,
    basket=basket,
    simulate=simulate,
    transfer=transfer,
    objection=objection,
    references=(
        Reference(
            authors="Schmittlein and Peterson",
            year=1994,
            title="Customer Base Analysis: An Industrial Purchase Process Application",
            where="Marketing Science 13(1), 41-67",
        ),
    ),
    typical=(
        {"median": 28.0, "sigma": 0.45, "tau": 0.65},
        {"median": 300.0, "sigma": 1.0, "tau": 0.2},
    ),
)
