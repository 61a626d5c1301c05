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

import numba
import numpy as np
from numba import float64, types

from clvmodels.models._discrete import (
    contract_histories,
    contract_objection,
    decay_of,
    log_rising,
    log_rising_tensor,
)
from clvmodels.models.family import Coordinate, Parameter, PurchaseFamily, Reference, compiled

_DIRECT = 64
_FAR = 60.0  # beyond t^c = e^60 the tail of S(t) is a power law to float precision
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)


@numba.njit(float64(types.Array(float64, 1, "C"), float64), cache=True)
def log_lost(theta, t):
    """-log S(t) and a constant: log Γ(γ+δ+t^c) - log Γ(δ+t^c), which is γ log t^c in the far tail."""
    gamma, delta, c = theta[0], theta[1], theta[2]
    log_power = c * math.log(t) if t > 0.0 else -math.inf
    return gamma * log_power if log_power > _FAR else log_rising(delta + math.exp(log_power), gamma)


def log_likelihood(theta, stats):
    """log S(T) for those still there, log (S(x) - S(x+1)) for those who left after x renewals."""
    import pytensor.tensor as pt

    gamma, delta, c = theta["gamma"], theta["delta"], theta["c"]
    x, T = stats["frequency"], stats["T"]
    t = pt.stack([pt.zeros_like(x), x, x + 1.0])
    log_power = c * pt.log(pt.maximum(t, 1.0))
    power = pt.where(t > 0, pt.exp(pt.minimum(log_power, _FAR)), 0.0)
    lost = pt.where(log_power > _FAR, gamma * log_power, log_rising_tensor(delta + power, gamma))
    hazard = -pt.expm1(lost[1] - lost[2])
    return lost[0] - lost[1] + pt.where(x < T, pt.log(hazard), 0.0)


@compiled.p_alive
def p_alive(theta, stats):
    """1 if every opportunity was taken, else 0: in a contract the end is seen."""
    return 1.0 if stats[0] >= stats[1] else 0.0


@compiled.rate
def rate(theta, stats, s):
    """S(T+s)/S(T) = B(γ, δ+(T+s)^c)/B(γ, δ+T^c): renews at T+s."""
    return math.exp(log_lost(theta, stats[1]) - log_lost(theta, stats[1] + s))


@compiled.survival
def alive_at(theta, stats, s):
    """A living contract is one that is renewed."""
    return rate(theta, stats, s)


@compiled.total
def total(theta, stats):
    """Sum of S(T+s)/S(T) over s = 1, 2, ..., finite for cγ > 1.

    The first terms one by one; after them the integral from the middle between two opportunities
    (Euler and Maclaurin's formula with its first correction), in panels of log t until S(t) is
    its own power law, whose integral is known.
    """
    gamma, delta, c = theta[0], theta[1], theta[2]
    T = stats[1]
    found = 0.0
    for s in range(1, _DIRECT + 1):
        found += rate(theta, stats, float(s))
    low = T + _DIRECT + 0.5
    found += (rate(theta, stats, _DIRECT + 1.0) - rate(theta, stats, float(_DIRECT))) / 24.0
    length = 2.0 / max(c, 1.0)
    while low**c < 1e13 * (1.0 + gamma + delta):
        for j in range(len(_NODES)):
            t = low * math.exp(0.5 * length * (1.0 + _NODES[j]))
            found += 0.5 * length * _WEIGHTS[j] * t * rate(theta, stats, t - T)
        low *= math.exp(length)
    return found + low * rate(theta, stats, low - T) / (c * gamma - 1.0)


@compiled.latent
def latent(theta, stats, rng, out):
    """θ given T renewals; given x renewals and the one missed, by rejection from a beta.

    The missed one has probability 1 - (1-θ)^k with k = (x+1)^c - x^c, which is at most
    kθ(1-θ)^(k-1) for k < 1, kθ for k >= 1, and 1: the proposal is the tightest of these.
    """
    gamma, delta, c = theta[0], theta[1], theta[2]
    x = stats[0]
    out[0] = p_alive(theta, stats)
    out[1] = 1.0
    out[3], out[4] = c, x
    b = delta + x**c
    k = (x + 1.0) ** c - x**c
    while True:
        if out[0] == 1.0:
            out[2] = decay_of(rng.beta(gamma, b))
            return
        if k < 1.0:
            decay = decay_of(rng.beta(gamma + 1.0, b + k - 1.0))
            bound = -k * math.expm1(-decay) * math.exp((1.0 - k) * decay)
        elif k * gamma < gamma + b:
            decay = decay_of(rng.beta(gamma + 1.0, b))
            bound = -k * math.expm1(-decay)
        else:
            decay = decay_of(rng.beta(gamma, b))
            bound = 1.0
        if rng.random() * bound <= -math.expm1(-k * decay):
            out[2] = decay
            return


@compiled.latent_rate
def latent_rate(latents, s):
    """(1-θ)^((T+s)^c - T^c): renews at T+s, for one who has renewed T times."""
    c, T = latents[3], latents[4]
    return math.exp(-latents[2] * ((T + s) ** c - T**c))


@compiled.latent_value
def latent_value(latents, code):
    """That rate discounted and summed: like :func:`total`, until the horizon or until it has faded."""
    rho, horizon, offset = code[2], code[3], code[5]
    c, T = latents[3], latents[4]
    end = math.inf if horizon == math.inf else math.floor(horizon + 1e-9)
    found, s = 0.0, 1.0
    term = 1.0
    while s <= min(end, _DIRECT) and term > 1e-18 * found:
        term = latent_rate(latents, s) * math.exp(-rho * s)
        found += term
        s += 1.0
    if end > _DIRECT and term > 1e-18 * found:
        for edge, sign in ((float(_DIRECT), 1.0), (end, -1.0)):
            if edge < math.inf:
                before = latent_rate(latents, edge) * math.exp(-rho * edge)
                after = latent_rate(latents, edge + 1.0) * math.exp(-rho * (edge + 1.0))
                found += sign * (after - before) / 24.0
        length = 2.0 / max(c, 1.0)
        low, last = T + _DIRECT + 0.5, T + end + 0.5
        while low < last:
            width = min(length, math.log(last / low))
            part = 0.0
            for j in range(len(_NODES)):
                t = low * math.exp(0.5 * width * (1.0 + _NODES[j]))
                part += 0.5 * width * _WEIGHTS[j] * t * latent_rate(latents, t - T) * math.exp(-rho * (t - T))
            found += part
            if part <= 1e-16 * found:
                break
            low *= math.exp(width)
    return found * math.exp(rho * offset)


@compiled.gap
def gap(latents, s, rng):
    """The next renewal is one period away, or there is none."""
    c, t = latents[3], latents[4] + s
    return 1.0 if rng.standard_exponential() > latents[2] * ((t + 1.0) ** c - t**c) else math.inf


def simulate(theta, T, rng):
    """Play the story: at opportunity t a coin that says stay with probability (1-θ)^(t^c - (t-1)^c)."""
    stay, c = 1.0 - rng.beta(theta["gamma"], theta["delta"], len(T)), theta["c"]

    def renews(who, t):
        return rng.random(len(who)) >= 1.0 - stay[who] ** (t**c - (t - 1.0) ** c)

    return contract_histories(T, renews)


def from_coordinates(k):
    return {
        "gamma": k["dropout"] * k["dropout_precision"],
        "delta": (1 - k["dropout"]) * k["dropout_precision"],
        "c": k["c"],
    }


def to_coordinates(theta):
    precision = theta["gamma"] + theta["delta"]
    return {"dropout": theta["gamma"] / precision, "dropout_precision": precision, "c": theta["c"]}


def priors(scale):
    return {
        "dropout": {"dist": "Beta", "alpha": 1.0, "beta": 1.0},
        "dropout_precision": {"dist": "LogNormal", "mu": 1.0, "sigma": 1.0},
        "c": {"dist": "LogNormal", "mu": 0.0, "sigma": 0.5},
    }


FAMILY = PurchaseFamily(
    name="bdw",
    title="Beta-discrete-Weibull",
    role="contract",
    clock="discrete",
    parameters=(
        Parameter(name="gamma", domain="positive", unit="1", meaning="first shape of dropout θ"),
        Parameter(name="delta", domain="positive", unit="1", meaning="second shape of dropout θ"),
        Parameter(name="c", domain="positive", unit="1", meaning="duration dependence of dropout"),
    ),
    coordinates=(
        Coordinate(
            name="dropout",
            domain="unit",
            unit="1",
            meaning="mean dropout probability γ/(γ+δ) at the first renewal",
            drives="dropout",
        ),
        Coordinate(
            name="dropout_precision",
            domain="positive",
            unit="1",
            meaning="γ+δ: small, unequal dropout probabilities",
        ),
        Coordinate(
            name="c",
            domain="positive",
            unit="1",
            meaning="above 1 a customer leaves the more easily the longer it has stayed, below 1 the less",
        ),
    ),
    from_coordinates=from_coordinates,
    to_coordinates=to_coordinates,
    priors=priors,
    statistics=("frequency", "T"),
    log_likelihood=log_likelihood,
    per_row=False,
    objection=contract_objection,
    state=("frequency", "T"),
    p_alive=p_alive,
    rate=rate,
    survival=alive_at,
    rate_depends_on=("T",),
    converges=lambda draws: bool((draws[:, 0] * draws[:, 2] > 1).all()),
    total=total,
    latents=("alive", "intensity", "decay", "c", "tenure"),
    latent=latent,
    latent_rate=latent_rate,
    latent_value=latent_value,
    latent_presence=latent_value,
    gap=gap,
    simulate=simulate,
    references=(
        Reference(
            authors="Fader, Hardie, Liu, Davin and Steenburgh",
            year=2018,
            title='"How to Project Customer Retention" Revisited: The Role of Duration Dependence',
            where="Journal of Interactive Marketing 43, 1-16",
        ),
    ),
    typical=(
        {"gamma": 0.7, "delta": 3.5, "c": 1.2},
        {"gamma": 0.704, "delta": 1.182, "c": 1.0},
        {"gamma": 3.0, "delta": 9.0, "c": 0.6},
    ),
)
