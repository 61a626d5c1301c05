"""MBG/NBD: Poisson purchasing, and dropout with probability p after every purchase.

Batislam, Denizel and Filiztekin (2007), "Empirical Validation and Comparison of Models for
Customer Base Analysis", IJRM 24(3); Hoppe and Wagner (2007), "Customer Base Analysis: The Case for
a Central Variant of the Betageometric/NBD Model", Marketing JRM 3(2), where it is the CBG/NBD:

* while alive, a customer buys at rate λ; λ ~ Gamma(r, α),
* after each purchase, the first included, the customer drops out with probability p;
  p ~ Beta(a, b).

With x repeat purchases there were x + 1 occasions to drop out: P(alive) < 1 at x = 0 too, and
b/(a+b) for a customer who has just been acquired.
"""

import math
from functools import partial

from clvmodels.models import _beta_geometric as shared
from clvmodels.models.family import Peer, PurchaseFamily, Reference, compiled
from clvmodels.numerics.special import against, beta_power_mean


def log_likelihood(theta, stats):
    """log of Γ(r+x)α^r/Γ(r) · B(a,b+x+1)/B(a,b) · [(α+T)^-(r+x) + a/(b+x) (α+t_x)^-(r+x)]."""
    import pytensor.tensor as pt

    from clvmodels.models._shares import beta_staying

    r, alpha, a, b = theta["r"], theta["alpha"], theta["a"], theta["b"]
    x, t_x, T = stats["frequency"], stats["recency"], stats["T"]
    purchases = pt.gammaln(r + x) - pt.gammaln(r) + r * pt.log(alpha)
    survival = beta_staying(a, b, x + 1)
    alive = -(r + x) * pt.log(alpha + T)
    dropped = pt.log(a) - pt.log(b + x) - (r + x) * pt.log(alpha + t_x)
    return purchases + survival + pt.logaddexp(alive, dropped)


@compiled.p_alive
def p_alive(theta, stats):
    """P(alive | x, t_x, T): 1 / (1 + a/(b+x) ((α+T)/(α+t_x))^(r+x))."""
    r, alpha, a, b = theta[0], theta[1], theta[2], theta[3]
    x, t_x, T = stats[0], stats[1], stats[2]
    return against(a / (b + x), (r + x) * math.log((alpha + T) / (alpha + t_x)))


@compiled.rate
def rate(theta, stats, s):
    """(R/A) E[(1 + ps/A)^-(R+1)], R = r+x, A = α+T, p ~ Beta(a, b+x+1): λ and p given alive."""
    r, alpha, a, b = theta[0], theta[1], theta[2], theta[3]
    x, T = stats[0], stats[2]
    R, A = r + x, alpha + T
    return R / A * beta_power_mean(R + 1.0, a, b + x + 1.0, s / A)


@compiled.survival
def survival(theta, stats, s):
    """E[(1 + ps/A)^-R], R = r+x, A = α+T, p ~ Beta(a, b+x+1): leaves at rate λp given alive."""
    r, alpha, a, b = theta[0], theta[1], theta[2], theta[3]
    x, T = stats[0], stats[2]
    return beta_power_mean(r + x, a, b + x + 1.0, s / (alpha + T))


@compiled.total
def total(theta, stats):
    """E[1/p | alive] = (a+b+x)/(a-1), finite for a > 1."""
    a, b = theta[2], theta[3]
    return (a + b + stats[0]) / (a - 1.0)


@compiled.latent
def latent(theta, stats, rng, out):
    """alive; then λ and p from their gamma and beta given that."""
    r, alpha, a, b = theta[0], theta[1], theta[2], theta[3]
    x, t_x, T = stats[0], stats[1], stats[2]
    shared.draw(p_alive(theta, stats), r + x, alpha + T, alpha + t_x, a, b + x + 1.0, rng, out)


@compiled.given_alive
def given_alive(theta, stats, out):
    """λ ~ Gamma(r+x, α+T), p ~ Beta(a, b+x+1)."""
    out[0], out[1] = theta[0] + stats[0], theta[1] + stats[2]
    out[2], out[3] = theta[2], theta[3] + stats[0] + 1.0


FAMILY = PurchaseFamily(
    name="mbg_nbd",
    title="MBG/NBD",
    role="purchases",
    clock="continuous",
    parameters=shared.PARAMETERS,
    coordinates=shared.COORDINATES,
    from_coordinates=shared.from_coordinates,
    to_coordinates=shared.to_coordinates,
    priors=shared.priors,
    statistics=("frequency", "recency", "T"),
    log_likelihood=log_likelihood,
    p_alive=p_alive,
    rate=rate,
    aging="alpha",
    survival=survival,
    dropout="purchase",
    converges=lambda draws: bool((draws[:, 2] > 1).all()),
    total=total,
    latents=shared.LATENTS,
    latent=latent,
    gap=shared.gap,
    given_alive=given_alive,
    transfer=shared.transfer,
    simulate=partial(shared.simulate, first_may_be_last=True),
    references=(
        Reference(
            authors="Batislam, Denizel and Filiztekin",
            year=2007,
            title="Empirical Validation and Comparison of Models for Customer Base Analysis",
            where="International Journal of Research in Marketing 24(3), 201-209",
        ),
        Reference(
            authors="Hoppe and Wagner",
            year=2007,
            title="Customer Base Analysis: The Case for a Central Variant of the Betageometric/NBD Model",
            where="Marketing - Journal of Research and Management 3(2), 75-90",
        ),
    ),
    typical=(
        {"r": 0.525, "alpha": 6.183, "a": 0.891, "b": 1.614},
        {"r": 1.8, "alpha": 12.0, "a": 1.4, "b": 4.0},
        {"r": 0.6, "alpha": 2.0, "a": 0.5, "b": 0.6},
    ),
    peer=Peer(model="ModifiedBetaGeoModel", kinds=("MBG/NBD",)),
)
