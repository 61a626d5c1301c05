"""Fixed spend: every purchase is worth a given amount, with no spread and nothing to estimate.

For donations or subscriptions of one price, for logs without amounts, and where no customer
has bought twice, so that a spend model cannot be fitted.
"""

import numpy as np

from clvmodels.models.family import Baskets, Parameter, Reference, SpendFamily, compiled


def log_likelihood(theta, stats):
    """Nothing is learned from amounts."""
    return 0.0 * stats["frequency"]


@compiled.expected_spend
def expected_spend(theta, stats):
    """The amount."""
    return theta[0]


@compiled.latent
def latent(theta, stats, rng, out):
    """The amount, for every customer."""
    out[0] = theta[0]


@compiled.basket
def basket(latents, rng):
    """The amount, for every purchase."""
    return latents[0]


def simulate(theta, frequency, rng):
    customer = np.repeat(np.arange(len(frequency)), np.asarray(frequency, int))
    mean = np.full(len(frequency), float(theta["amount"]))
    return Baskets(mean=mean, customer=customer, amount=mean[customer])


FAMILY = SpendFamily(
    name="fixed_spend",
    title="Fixed spend",
    role="spend",
    parameters=(
        Parameter(
            name="amount",
            domain="positive",
            unit="currency",
            meaning="what every purchase is worth",
            constant=1.0,
        ),
    ),
    coordinates=(),
    from_coordinates=lambda c: {},
    to_coordinates=lambda theta: {},
    priors=lambda scale: {},
    statistics=("frequency",),
    log_likelihood=log_likelihood,
    has_mean=lambda draws: np.ones(len(draws), bool),
    expected_spend=expected_spend,
    latents=("mean",),
    latent=latent,
    basket=basket,
    simulate=simulate,
    references=(
        Reference(
            authors="Fader and Hardie",
            year=2015,
            title="Simple Probability Models for Computing CLV and CE",
            where="Handbook of Research on Customer Equity in Marketing, ch. 3",
        ),
    ),
    typical=({"amount": 25.0},),
)
