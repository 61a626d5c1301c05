"""Beta-discrete-Weibull: a contract whose dropout probability changes with its age.

Fader, Hardie, Liu, Davin and Steenburgh (2018), "How to Project Customer Retention" Revisited:
The Role of Duration Dependence, J. Interactive Marketing 43:

* a customer is still there after t renewal opportunities with probability (1-θ)^(t^c);
  θ ~ Beta(γ, δ).

θ is the dropout probability at the first opportunity. With c > 1 a customer leaves the more
easily the longer it has stayed, with c < 1 the less easily; c = 1 is the sBG. In the summary a
contract is a row without gaps: x renewals made, recency x, and T renewal opportunities seen;
alive exactly if x = T.
"""

import math

import numpy as np

from clvmodels.models._discrete import (
    contract_histories,
    contract_objection,
    decay_of,
    log_rising,
    log_rising_tensor,
)
from clvmodels.models.family import Coordinate, Parameter, PurchaseFamily, Reference, compiled

_DIRECT = 64
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)


def log_likelihood(theta, stats):
    """log S(T) for those still there, log (S(x) - S(x+1)) for those who left after x renewals."""
    import pytensor.tensor as pt

    gamma, delta, c = theta["gamma"], theta["delta"], theta["c"]
    x, T = stats["frequency"], stats["T"]

    def log_survival(t):
        power = pt.where(t > 0, pt.exp(c * pt.log(pt.maximum(t, 1.0))), 0.0)
        return log_rising_tensor(delta, gamma) - log_rising_tensor(delta + power, gamma)

    hazard = -pt.expm1(log_survival(x + 1.0) - log_survival(x))
    return log_survival(x) + pt.where(x < T, pt.log(hazard), 0.0)


@compiled.p_alive
def p_alive(theta, stats):
    """1 if every opportunity was taken, else 0: in a contract the end is seen."""
    return 1.0 if stats[0] >= stats[1] else 0.0


@compiled.rate
def rate(theta, stats, s):
    """S(T+s)/S(T) = B(γ, δ+(T+s)^c)/B(γ, δ+T^c): renews at T+s."""
    gamma, delta, c = theta
    T = stats[1]
    return math.exp(log_rising(delta + T**c, gamma) - log_rising(delta + (T + s) ** c, gamma))


@compiled.total
def total(theta, stats):
    """Sum of S(T+s)/S(T) over s = 1, 2, ..., finite for cγ > 1.

    The first terms one by one; after them the integral from the middle between two opportunities
    (Euler and Maclaurin's formula with its first correction), in panels of log t until S(t) is
    its own power law, whose integral is known.
    """
    gamma, delta, c = theta
    T = stats[1]
    found = 0.0
    for s in range(1, _DIRECT + 1):
        found += rate(theta, stats, float(s))
    low = T + _DIRECT + 0.5
    slope = (rate(theta, stats, _DIRECT + 1.0) - rate(theta, stats, float(_DIRECT))) / 24.0
    found += slope
    while low**c < 1e9 * (1.0 + delta + gamma):
        high = low * math.exp(1.0 / max(c, 1.0))
        for node, weight in zip(_NODES, _WEIGHTS):  # noqa: B905
            t = low * math.exp(0.5 * (1.0 + node) / max(c, 1.0))
            found += 0.5 / max(c, 1.0) * weight * t * rate(theta, stats, t - T)
        low = high
    return found + low * rate(theta, stats, low - T) / (c * gamma - 1.0)


@compiled.latent
def latent(theta, stats, rng, out):
    """θ given T renewals; given x and the one that was missed, by rejection from the first x."""
    gamma, delta, c = theta
    x, T = stats
    out[0] = p_alive(theta, stats)
    out[1] = 1.0
    out[3], out[4] = c, x
    if out[0] == 1.0:
        out[2] = decay_of(rng.beta(gamma, delta + x**c))
        return
    # The missed renewal has probability 1 - (1-θ)^k: the share (1-θ)^k of another beta is left out.
    k = (x + 1.0) ** c - x**c
    while True:
        decay = decay_of(rng.beta(gamma + 1.0, delta + x**c))
        # (1 - (1-θ)^k)/θ, the weight that is still missing, is at most max(k, 1).
        if rng.random() * max(k, 1.0) * -math.expm1(-decay) <= -math.expm1(-k * decay):
            out[2] = decay
            return


@compiled.latent_rate
def latent_rate(latents, s):
    """(1-θ)^((T+s)^c - T^c): renews at T+s, for one who has renewed T times."""
    c, T = latents[3], latents[4]
    return math.exp(-latents[2] * ((T + s) ** c - T**c))


@compiled.gap
def gap(latents, s, rng):
    """The next renewal is one period away, or there is none."""
    c, t = latents[3], latents[4] + s
    return 1.0 if rng.standard_exponential() > latents[2] * ((t + 1.0) ** c - t**c) else math.inf
