"""Pareto/NBD (Abe): correlated log-normal purchase and dropout rates.

Abe (2009), "Counting Your Customers" One by One, Marketing Science 28(3), without covariates;
Fader and Hardie (2015), A Correlated Pareto/NBD Model, is the same model:

* while alive, a customer buys at rate λ; the lifetime is exponential with rate μ,
* log λ and log μ are bivariate normal with standard deviations σ_λ, σ_μ and correlation ρ.

ρ is given by the coupling c = ρ/√(1-ρ²), any real number: the slope of log μ on log λ is
ρ σ_μ/σ_λ and the standard deviation that remains is σ_μ √(1-ρ²) = σ_μ/√(1+c²).

Abe's eq. (5), L = λ^x/(λ+μ) {λ e^-(λ+μ)T + μ e^-(λ+μ)t_x}, is averaged over λ and μ by the
trapezoidal rule on a grid in (log λ, log μ), whose error falls exponentially with the step
(Trefethen and Weideman, 2014, SIAM Review 56, 385-458). The steps: at most STEP, for e^(-μt) and
1/(λ+μ); at most SHARE standard deviations given the other rate; for log λ also at most
SHARE/√(x+1), the width of λ^x e^(-λt). Each gives errors of some 1e-10 of the average.
"""

import math

import numba
import numpy as np
from numba import float64, types

from clvmodels.models._poisson import gap, histories
from clvmodels.models.family import (
    Coordinate,
    Parameter,
    PurchaseFamily,
    Reference,
    compiled,
)

STEP = 0.4
SHARE = 0.8
REACH = 9.5  # standard deviations: exp(-REACH²/2) = 3e-20
DROP = 45.0  # a grid ends where the integrand is exp(-DROP) of its height


def log_likelihood(theta, stats):
    """Log of the average of L: of both its terms, by distinct pairs (x, T) and (x, t_x)."""
    import pytensor.tensor as pt
    from pytensor.gradient import disconnected_grad

    names = ("lambda_median", "sigma_lambda", "mu_median", "sigma_mu", "coupling")
    lambda_median, s1, mu_median, s2, coupling = (pt.as_tensor(theta[name]) for name in names)
    x, t_x, T = stats["frequency"], stats["recency"], stats["T"]
    m1, m2 = pt.log(lambda_median), pt.log(mu_median)
    rest = s2 / pt.sqrt(1 + coupling**2)
    slope = coupling * rest / s1

    # The nodes follow θ, and the average does not depend on where they are.
    h1 = pt.minimum(pt.minimum(STEP, SHARE / pt.sqrt(x.max() + 1)), SHARE * s1 * rest / s2)
    h2 = pt.minimum(STEP, SHARE * rest)
    low1, high1 = m1 - REACH * s1, _upper(x, t_x, m1, s1, pt).max()
    z1 = disconnected_grad(low1 + h1 * pt.arange(pt.ceil((high1 - low1) / h1)))
    ends = slope * (z1[0] - m1), slope * (z1[-1] - m1)
    low2 = m2 + pt.minimum(*ends) - REACH * rest
    high2 = m2 + pt.maximum(*ends) + REACH * rest
    z2 = disconnected_grad(low2 + h2 * pt.arange(pt.ceil((high2 - low2) / h2)))
    h1, h2 = disconnected_grad(h1), disconnected_grad(h2)

    lam, mu = pt.exp(z1), pt.exp(z2)
    log_weight = pt.log(h1 / s1) - ((z1 - m1) / s1) ** 2 / 2 - math.log(2 * math.pi)
    weight = h2 / rest * pt.exp(-(((z2 - m2 - slope * (z1 - m1)[:, None]) / rest) ** 2) / 2)
    share = lam[:, None] / (lam[:, None] + mu)

    def average(t, weight):
        """log E[λ^x e^-(λ+μ)t ...] by row."""
        pick, index = _distinct(x, t)
        t_here = t[pick][:, None]
        over_mu = pt.exp(-t_here * (mu - mu[0])) @ weight.T
        log_term = x[pick][:, None] * z1 - t_here * lam + log_weight
        top = disconnected_grad(log_term.max(axis=1))
        total = (pt.exp(log_term - top[:, None]) * over_mu).sum(axis=1)
        return (top - t[pick] * mu[0] + pt.log(total + 1e-300))[index]

    return pt.logaddexp(average(T, weight * share), average(t_x, weight * (1 - share)))
