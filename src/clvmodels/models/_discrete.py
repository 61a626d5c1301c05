"""What the families of a discrete clock share: moments of a beta, and the shape of a contract."""

import math

import numba
import numpy as np
from numba import float64

from clvmodels.models.family import Histories

_SHIFT = 10


def _rising(log, log1p):
    """``log Γ(a + z) - log Γ(z)`` for z >= 10, in the arithmetic of the two functions given.

    The difference of two of Stirling's formulas, taken term by term: no difference of large
    logarithms, so that the result has float precision however large z is.
    """

    def rising(z, a):
        total = (z + a - 0.5) * log1p(a / z) + a * (log(z) - 1.0)
        for sign, y in ((1.0, z + a), (-1.0, z)):
            w = 1.0 / (y * y)
            total += sign / y * (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w * (1 / 1680 - w / 1188))))
        return total

    return rising


_rising_scalar = numba.njit(float64(float64, float64), cache=True)(_rising(math.log, math.log1p))


@numba.njit(float64(float64, float64), cache=True)
def log_rising(b, a):
    """``log Γ(a + b) - log Γ(b)``."""
    above, below = 1.0, 1.0
    for i in range(_SHIFT):
        above *= a + b + i
        below *= b + i
    return _rising_scalar(b + _SHIFT, a) - math.log(above / below)


def log_rising_tensor(b, a):
    """:func:`log_rising` of tensors."""
    import pytensor.tensor as pt

    steps = pt.log1p(a / (b[..., None] + np.arange(_SHIFT)))
    return _rising(pt.log, pt.log1p)(b + _SHIFT, a) - steps.sum(axis=-1)


@numba.njit(float64(float64, float64, float64), cache=True)
def survival(a, b, k):
    """``E[(1 - θ)^k] = B(a, b + k) / B(a, b)`` for ``θ ~ Beta(a, b)``."""
    return math.exp(log_rising(b, a) - log_rising(b + k, a))


@numba.njit(float64(float64), cache=True)
def decay_of(theta):
    """``-log(1 - θ)``, finite for a θ that has rounded to 1."""
    return -math.log1p(-min(theta, 1.0 - 2.0**-53))


def skipped(columns):
    """Customers who missed an opportunity and bought again later, and the number of customers."""
    return int((columns["frequency"] != columns["recency"]).sum()), len(columns["frequency"])


def fractional(columns):
    """Why the columns are not counts of opportunities, or None."""
    for name in ("frequency", "recency", "T"):
        odd = int((columns[name] != np.round(columns[name])).sum())
        if odd:
            return f"{odd:,} values of {name} are not whole numbers of opportunities"
    if (more := int((columns["frequency"] > columns["recency"]).sum())) > 0:
        return f"{more:,} customers bought more often than there were opportunities (frequency > recency)"
    return None


def contract_objection(columns):
    """Why these are not contracts: a contract ends with the first renewal that is missed."""
    if reason := fractional(columns):
        return f"{reason}; a contract is renewed or not at every whole period: a discrete clock counts them."
    gaps, customers = skipped(columns)
    if gaps:
        return (
            f"{gaps:,} of {customers:,} customers missed an opportunity and bought again later "
            "(frequency < recency), but a contract ends with the first renewal that is missed: these are "
            "repeat purchases, for a purchase family on a discrete clock."
        )
    return None


def contract_histories(T, renews, latents=None):
    """Renewals played one after the other.

    Parameters
    ----------
    T
        Renewal opportunities of each customer.
    renews
        ``(customers, t) -> bool``: who of these renews at opportunity t.
    latents
        As of :class:`clvmodels.models.family.Histories`.
    """
    lifetime = np.full(len(T), np.inf)
    customers, times = [np.zeros(0, int)], [np.zeros(0)]
    active, t = np.arange(len(T)), 0.0
    while len(active := active[T[active] >= t + 1.0]):
        t += 1.0
        stays = renews(active, t)
        lifetime[active[~stays]] = t
        active = active[stays]
        customers.append(active)
        times.append(np.full(len(active), t))
    customer, time = np.concatenate(customers), np.concatenate(times)
    order = np.lexsort((time, customer))
    return Histories(customer=customer[order], time=time[order], lifetime=lifetime, latents=latents)
