"""What the families share whose customers buy at a constant rate λ and leave at a constant rate μ."""

import math

import numpy as np

from clvmodels.models.family import Histories, compiled


@compiled.gap
def gap(latents, s, rng):
    """The next purchase comes after Exp(λ), if the customer does not leave before, after Exp(μ)."""
    if latents[1] == 0.0:
        return math.inf
    wait = rng.standard_exponential() / latents[1]
    leaving = rng.standard_exponential()
    if leaving < latents[2] * wait:
        return -leaving / latents[2]
    return wait


def histories(lam, mu, T, rng):
    """Play the story: Poisson purchases until the customer drops out or T is reached.

    Parameters
    ----------
    lam, mu
        Purchase and dropout rate per customer; ``mu = 0`` stays for ever.
    """
    n = len(T)
    lifetime = np.full(n, np.inf)
    np.divide(rng.exponential(size=n), mu, out=lifetime, where=mu > 0)
    active = np.minimum(lifetime, T)
    customer = np.repeat(np.arange(n), rng.poisson(lam * active))
    # Given their number, Poisson purchases fall uniformly.
    time = rng.uniform(size=len(customer)) * active[customer]
    order = np.lexsort((time, customer))
    latents = np.column_stack([lam, mu])
    return Histories(customer=customer, time=time[order], lifetime=lifetime, latents=latents)
