"""BG/CNBD-k: regular purchasing with Erlang-k gaps, and dropout as in the BG/NBD.

Reutterer, Platzer and Schröder (2021), "Leveraging Purchase Regularity for Predicting Customer
Behavior the Easy Way", IJRM 38(1), after Platzer (2008):

* while alive, the gap between purchases is Erlang-k with rate λ, in the paper's parametrization:
  k phases of rate λ each, mean k/λ; λ ~ Gamma(r, α),
* after each repeat purchase the customer drops out with probability p; p ~ Beta(a, b).

k = 1 is the BG/NBD. The likelihood needs the sum of the logarithms of the gaps. Prediction is
exact, not the paper's approximation: how much of the running gap is over at T counts, see
:mod:`clvmodels.models._erlang`.
"""

from functools import partial

from clvmodels.models import _beta_geometric as beta_geometric
from clvmodels.models import _erlang as erlang
from clvmodels.models.family import Phases, PurchaseFamily, Reference, compiled


def log_likelihood(theta, stats):
    """log of Π g_i^(k-1)/Γ(k)^x · Γ(R)α^r/Γ(r) · B(a,b+n)/B(a,b) · L with R = r+kx, n = x.

    L = S (α+T)^-R + 1{x>0} a/(b+n-1) (α+t_x)^-R; S is the sum over the phases of the running gap.
    """
    return erlang.log_likelihood(theta, stats, stats["frequency"])


@compiled.p_alive
def p_alive(theta, stats):
    """P(alive | x, t_x, T): 1 / (1 + 1{x>0} a/(b+x-1) ((α+T)/(α+t_x))^R / S)."""
    return erlang.p_alive(theta, stats, stats[0])


@compiled.rate
def rate(theta, stats, s):
    """E[rate(s) | alive]: a mean over the phases j of the running gap; it depends on T - t_x."""
    return erlang.rate(theta, stats, stats[0], s)


@compiled.phase_rates
def phase_rates(theta, stats, s, out):
    """E[rate(s) | alive, j] for each j < k: λ ~ Gamma(r+kx+j, α+T), p ~ Beta(a, b+x)."""
    erlang.phase_rates(theta, stats[0], stats[2], stats[0], s, out)


@compiled.phase_rates
def phase_leaving(theta, stats, s, out):
    """E[p rate(s) | alive, j] for each j < k: the rate of purchases that are the last."""
    erlang.phase_leaving(theta, stats[0], stats[2], stats[0], s, out)


@compiled.total
def total(theta, stats):
    """E[1/p | alive] = (a+b+x-1)/(a-1), finite for a > 1."""
    a, b = theta[3], theta[4]
    return (a + b + stats[0] - 1.0) / (a - 1.0)


@compiled.latent
def latent(theta, stats, rng, out):
    """alive; the phase j of the running gap; λ and p from their gamma and beta given these."""
    erlang.draw(theta, stats, p_alive(theta, stats), stats[0], rng, out)


FAMILY = PurchaseFamily(
    name="bg_cnbd_k",
    title="BG/CNBD-k",
    role="purchases",
    clock="continuous",
    parameters=erlang.PARAMETERS,
    coordinates=beta_geometric.COORDINATES,
    from_coordinates=beta_geometric.from_coordinates,
    to_coordinates=beta_geometric.to_coordinates,
    priors=beta_geometric.priors,
    statistics=("frequency", "recency", "T", "log_intervals"),
    extra_statistics=(erlang.LOG_INTERVALS,),
    log_likelihood=log_likelihood,
    p_alive=p_alive,
    rate=rate,
    rate_depends_on=("frequency", "recency", "T"),
    phases=Phases(count=erlang.phase_count, weights=erlang.phase_weights, rates=phase_rates),
    leaving=Phases(count=erlang.phase_count, weights=erlang.phase_weights, rates=phase_leaving),
    dropout="purchase",
    converges=erlang.converges,
    total=total,
    latents=erlang.LATENTS,
    latent=latent,
    latent_rate=erlang.latent_rate,
    latent_value=erlang.latent_value,
    latent_presence=erlang.latent_presence,
    gap=erlang.gap,
    transfer=beta_geometric.transfer,
    simulate=partial(beta_geometric.simulate, first_may_be_last=False),
    references=(
        Reference(
            authors="Reutterer, Platzer and Schröder",
            year=2021,
            title="Leveraging Purchase Regularity for Predicting Customer Behavior the Easy Way",
            where="International Journal of Research in Marketing 38(1), 194-215",
        ),
        Reference(
            authors="Platzer",
            year=2008,
            title="Stochastic Models of Noncontractual Consumer Relationships",
            where="Master's thesis, Vienna University of Economics and Business Administration",
        ),
    ),
    typical=(
        {"k": 2.0, "r": 0.4, "alpha": 3.0, "a": 0.793, "b": 2.426},
        {"k": 3.0, "r": 0.85, "alpha": 1.45, "a": 0.79, "b": 2.42},
        {"k": 6.0, "r": 1.8, "alpha": 3.0, "a": 1.4, "b": 4.0},
    ),
)
