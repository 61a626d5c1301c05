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
from clvmodels.numerics.special import logistic_of_difference

STEP = 0.4
SHARE = 0.8
REACH = 8.5  # standard deviations: exp(-REACH²/2) = 2e-16
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

    lam, mu = pt.exp(pt.clip(z1, -700, 700)), pt.exp(pt.clip(z2, -700, 700))
    log_weight = pt.log(h1 / s1) - ((z1 - m1) / s1) ** 2 / 2 - math.log(2 * math.pi)
    weight = h2 / rest * pt.exp(-(((z2 - m2 - slope * (z1 - m1)[:, None]) / rest) ** 2) / 2)
    share = lam[:, None] / (lam[:, None] + mu)

    def average(t, weight):
        """log E[λ^x e^-(λ+μ)t ...] by row."""
        pick, pair = _distinct(x, t)
        pick_time, time = _distinct(0 * x, t)
        over_mu = pt.exp(-t[pick_time][:, None] * (mu - mu[0])) @ weight.T
        log_term = x[pick][:, None] * z1 - t[pick][:, None] * lam + log_weight
        top = disconnected_grad(log_term.max(axis=1))
        total = (pt.exp(log_term - top[:, None]) * over_mu[time[pick]]).sum(axis=1)
        return (top - t[pick] * mu[0] + pt.log(total + 1e-300))[pair]

    return pt.logaddexp(average(T, weight * share), average(t_x, weight * (1 - share)))


def _upper(x, t, m, sd, pt):
    """Where e^((x+1)z - t e^z) times the normal density of z has fallen for good: by either."""
    k = x + 1
    above = pt.maximum(m + pt.log(pt.maximum(t, 1e-300)), 0) / sd**2
    by_data = pt.log((k + 60 + 9 * pt.sqrt(k) + above) / pt.maximum(t, 1e-300))
    return pt.minimum(m + k * sd**2 + REACH * sd, by_data)


def _distinct(x, t):
    """One row of every distinct pair (x, t), and for every row the number of its pair; x is whole."""
    import pytensor.tensor as pt

    key = x * (2 * t.max() + 1) + t
    order = pt.argsort(key)
    ascending = key[order]
    first = pt.concatenate([np.ones(1, "int64"), pt.neq(ascending[1:], ascending[:-1]).astype("int64")])
    index = pt.set_subtensor(pt.zeros_like(order)[order], pt.cumsum(first) - 1)
    return order[first.nonzero()[0]], index


@numba.njit(float64(float64), cache=True)
def _exp(z):
    """e^z, held between e^-700 and e^700."""
    return math.exp(min(max(z, -700.0), 700.0))


_vector = types.Array(float64, 1, "C")
_draw = types.UniTuple(float64, 6)


@numba.njit(_draw(_vector), cache=True)
def _population(theta):
    """Means and sds of log λ and log μ; slope of the latter on the former, and the sd that remains."""
    lambda_median, s1, mu_median, s2, coupling = theta
    rest = s2 / math.sqrt(1.0 + coupling**2)
    return math.log(lambda_median), s1, math.log(mu_median), s2, coupling * rest / s1, rest


@numba.njit(types.Tuple((_vector, _vector, float64))(_draw, float64, float64), cache=True)
def _purchases(population, x, t):
    """Nodes of log λ, weights λ^x e^(-λt) φ(log λ) of largest 1 and the log of their scale."""
    m, sd, _, s2, _, rest = population
    h = min(STEP, SHARE / math.sqrt(x + 1.0), SHARE * sd * rest / s2)
    z = m + x * sd**2
    if t > 0.0:
        z = min(z, max(m, math.log((x + 1e-300) / t)))
    for _ in range(100):  # Newton's steps from the right of the mode only go left
        slope, curvature = x - t * _exp(z) - (z - m) / sd**2, t * _exp(z) + 1.0 / sd**2
        z += slope / curvature
        if abs(slope) < 1e-3 * math.sqrt(curvature):
            break
    top = x * z - t * _exp(z) - ((z - m) / sd) ** 2 / 2.0
    count = [0, 0]
    for side in range(2):
        fall = 0.0
        while fall < DROP:
            count[side] += 1
            node = z + (2 * side - 1) * count[side] * h
            fall = top - x * node + t * _exp(node) + ((node - m) / sd) ** 2 / 2.0
    nodes = z + h * np.arange(-count[0], count[1] + 1)
    weight = np.empty(len(nodes))
    for i in range(len(nodes)):
        node = nodes[i]
        weight[i] = math.exp(x * node - t * _exp(node) - ((node - m) / sd) ** 2 / 2.0 - top)
    return nodes, weight, top


@numba.njit(types.Tuple((_vector, float64))(_draw, _vector), cache=True)
def _dropout(population, nodes):
    """Nodes of log μ that serve all nodes of log λ, and their step."""
    m1, _, m2, _, slope, rest = population
    ends = slope * (nodes[0] - m1), slope * (nodes[-1] - m1)
    h = min(STEP, SHARE * rest)
    low, high = m2 + min(ends) - REACH * rest, m2 + max(ends) + REACH * rest
    return low + h * np.arange(math.ceil((high - low) / h) + 1), h


@numba.njit(types.UniTuple(float64, 3)(_draw, float64, float64), cache=True)
def _terms(population, x, t):
    """E[λ^x e^(-(λ+μ)t) λ/(λ+μ)], the same with μ/(λ+μ), and the log of their scale."""
    nodes, weight, scale = _purchases(population, x, t)
    log_mu, h = _dropout(population, nodes)
    m1, _, m2, _, slope, rest = population
    mu, survives = np.empty(len(log_mu)), np.empty(len(log_mu))
    for j in range(len(log_mu)):
        mu[j] = _exp(log_mu[j])
        survives[j] = math.exp(-(mu[j] - mu[0]) * t)
    step = h / rest
    shrink = math.exp(-(step**2))
    first, left = 0.0, 0.0
    for i in range(len(nodes)):
        lam = _exp(nodes[i])
        start = (log_mu[0] - m2 - slope * (nodes[i] - m1)) / rest
        j = max(0, math.ceil((-REACH - start) / step))
        # A normal density at equal steps: the ratio of neighbors shrinks by a constant factor.
        d = start + j * step
        density, ratio = math.exp(-(d**2) / 2.0), math.exp(-step * (d + step / 2.0))
        buys, leaves = 0.0, 0.0
        while d < REACH and j < len(mu):
            chance = density * survives[j] / (lam + mu[j])
            buys += chance
            leaves += chance * mu[j]
            density *= ratio
            ratio *= shrink
            d += step
            j += 1
        first += weight[i] * lam * buys
        left += weight[i] * leaves
    return first, left, scale - mu[0] * t


@numba.njit(float64(_draw, float64, float64, float64, types.boolean), cache=True)
def _given_alive(population, x, T, s, forever):
    """E[λ e^(-μ s) | x, alive at T], or where it is summed ``forever`` E[λ/μ | x, alive at T]."""
    nodes, weight, _ = _purchases(population, x, T)
    log_mu, h = _dropout(population, nodes)
    m1, _, m2, _, slope, rest = population
    survives, later = np.empty(len(log_mu)), np.empty(len(log_mu))
    for j in range(len(log_mu)):
        mu = _exp(log_mu[j])
        survives[j] = math.exp(-(mu - _exp(log_mu[0])) * T)
        later[j] = survives[j] * (1.0 / mu if forever else math.exp(-mu * s))
    step = h / rest
    shrink = math.exp(-(step**2))
    whole, ahead = 0.0, 0.0
    for i in range(len(nodes)):
        start = (log_mu[0] - m2 - slope * (nodes[i] - m1)) / rest
        j = max(0, math.ceil((-REACH - start) / step))
        d = start + j * step
        density, ratio = math.exp(-(d**2) / 2.0), math.exp(-step * (d + step / 2.0))
        now, then = 0.0, 0.0
        while d < REACH and j < len(log_mu):
            now += density * survives[j]
            then += density * later[j]
            density *= ratio
            ratio *= shrink
            d += step
            j += 1
        whole += weight[i] * now
        ahead += weight[i] * _exp(nodes[i]) * then
    return min(ahead / whole, 1e300)


@compiled.p_alive
def p_alive(theta, stats):
    """E[λ^x e^-(λ+μ)T] over E[L]."""
    x, t_x, T = stats
    population = _population(theta)
    first, left, scale = _terms(population, x, T)
    _, left_before, scale_before = _terms(population, x, t_x)
    if first == 0.0:
        return 0.0
    share = logistic_of_difference(math.log(left_before + 1e-300) + scale_before, math.log(first) + scale)
    return min(1.0, (first + left) / first * share)


@compiled.rate
def rate(theta, stats, s):
    """E[λ e^(-μ s) | alive]."""
    x, _, T = stats
    return _given_alive(_population(theta), x, T, s, False)


@compiled.total
def total(theta, stats):
    """E[λ/μ | alive], finite for every θ."""
    x, _, T = stats
    return _given_alive(_population(theta), x, T, 0.0, True)


@numba.njit(types.UniTuple(float64, 3)(_vector, float64, float64, float64), cache=True)
def _log_term(stats, left, z1, z2):
    """Log-likelihood of who is alive at T or left before (a concave function), and its gradient."""
    x, t_x, T = stats
    lam, mu = _exp(z1), _exp(z2)
    g, duration = lam + mu, T - t_x
    if left == 0.0:
        return x * z1 - g * T, x - lam * T, -mu * T
    y = g * duration
    # log of (e^(-g t_x) - e^(-g T))/g and its derivative by g
    value = -g * t_x + math.log(-math.expm1(-y) / g)
    slope = -t_x - duration / 2.0 if y < 1e-5 else -t_x + duration / math.expm1(y) - 1.0 / g
    return x * z1 + z2 + value, x + lam * slope, 1.0 + mu * slope


@compiled.latent
def latent(theta, stats, rng, out):
    """alive; then log λ and log μ given that, by rejection.

    The log-likelihood is concave, so that its tangent at any point is above it; times the tangent's
    exponential, the population is a normal with another mean. That is proposed, at the mode.
    """
    out[0] = 1.0 if rng.random() < p_alive(theta, stats) else 0.0
    left = 1.0 - out[0]
    m1, s1, m2, s2, slope, rest = _population(theta)
    rho = slope * s1 / s2
    # Precision of the population.
    a, b, c = 1.0 / s1**2 + (slope / rest) ** 2, -slope / rest**2, 1.0 / rest**2
    z1, z2 = m1, m2
    value, d1, d2 = _log_term(stats, left, z1, z2)
    height = value
    for _ in range(200):
        u1, u2 = d1 - a * (z1 - m1) - b * (z2 - m2), d2 - b * (z1 - m1) - c * (z2 - m2)
        # Newton's step, but for a part of the curvature that would make it longer.
        k1 = a + max(stats[0] - d1, 0.0)
        k2 = c + max(left - d2, 0.0)
        det = k1 * k2 - b * b
        step1, step2 = (k2 * u1 - b * u2) / det, (k1 * u2 - b * u1) / det
        gain = u1 * step1 + u2 * step2
        if gain < 1e-4:
            break
        length = min(1.0, 5.0 * max(1.0, s1, s2) / (abs(step1) + abs(step2)))
        while length > 1e-6:
            y1, y2 = z1 + length * step1, z2 + length * step2
            value, e1, e2 = _log_term(stats, left, y1, y2)
            w1, w2 = y1 - m1, y2 - m2
            new = value - (a * w1 * w1 + 2.0 * b * w1 * w2 + c * w2 * w2) / 2.0
            if new > height:
                break
            length /= 2.0
        if length <= 1e-6:
            break
        z1, z2, d1, d2, height = y1, y2, e1, e2, new
    value, d1, d2 = _log_term(stats, left, z1, z2)
    mean1 = m1 + s1 * (s1 * d1 + rho * s2 * d2)
    mean2 = m2 + s2 * (s2 * d2 + rho * s1 * d1)
    while True:
        w = rng.standard_normal()
        y1 = mean1 + s1 * w
        y2 = mean2 + rho * s2 * w + rest * rng.standard_normal()
        tangent = value + d1 * (y1 - z1) + d2 * (y2 - z2)
        if -rng.standard_exponential() <= _log_term(stats, left, y1, y2)[0] - tangent:
            break
    out[1] = _exp(y1)
    out[2] = _exp(y2)


def simulate(theta, T, rng):
    """Play the story: two correlated rates, a lifetime, and Poisson purchases within it."""
    n, c = len(T), theta["coupling"]
    rho = c / math.sqrt(1 + c**2)
    one, other = rng.standard_normal((2, n))
    lam = theta["lambda_median"] * np.exp(theta["sigma_lambda"] * one)
    mu = theta["mu_median"] * np.exp(theta["sigma_mu"] * (rho * one + math.sqrt(1 - rho**2) * other))
    return histories(lam, mu, T, rng)


def from_coordinates(c):
    return {
        "lambda_median": c["purchase_rate"],
        "sigma_lambda": c["sigma_lambda"],
        "mu_median": c["dropout_rate"],
        "sigma_mu": c["sigma_mu"],
        "coupling": c["coupling"],
    }


def to_coordinates(theta):
    return {
        "purchase_rate": theta["lambda_median"],
        "sigma_lambda": theta["sigma_lambda"],
        "dropout_rate": theta["mu_median"],
        "sigma_mu": theta["sigma_mu"],
        "coupling": theta["coupling"],
    }


def priors(scale):
    return {
        "purchase_rate": {"dist": "LogNormal", "mu": math.log(scale.rate), "sigma": 1.5},
        "sigma_lambda": {"dist": "LogNormal", "mu": 0.0, "sigma": 0.75},
        "dropout_rate": {"dist": "LogNormal", "mu": -math.log(scale.time), "sigma": 1.5},
        "sigma_mu": {"dist": "LogNormal", "mu": 0.0, "sigma": 0.75},
        "coupling": {"dist": "Normal", "mu": 0.0, "sigma": 0.75},
    }


FAMILY = PurchaseFamily(
    name="pareto_nbd_lognormal",
    title="Pareto/NBD (Abe)",
    role="purchases",
    clock="continuous",
    parameters=(
        Parameter(name="lambda_median", domain="positive", unit="1/time", meaning="median purchase rate λ"),
        Parameter(name="sigma_lambda", domain="positive", unit="1", meaning="standard deviation of log λ"),
        Parameter(name="mu_median", domain="positive", unit="1/time", meaning="median dropout rate μ"),
        Parameter(name="sigma_mu", domain="positive", unit="1", meaning="standard deviation of log μ"),
        Parameter(
            name="coupling", domain="real", unit="1", meaning="ρ/√(1-ρ²), ρ the correlation of log λ and log μ"
        ),
    ),
    coordinates=(
        Coordinate(
            name="purchase_rate",
            domain="positive",
            unit="1/time",
            meaning="median purchase rate",
            drives="purchase",
        ),
        Coordinate(
            name="sigma_lambda", domain="positive", unit="1", meaning="sd of log λ: large, unequal rates"
        ),
        Coordinate(
            name="dropout_rate",
            domain="positive",
            unit="1/time",
            meaning="median dropout rate",
            drives="dropout",
        ),
        Coordinate(
            name="sigma_mu", domain="positive", unit="1", meaning="sd of log μ: large, unequal lifetimes"
        ),
        Coordinate(
            name="coupling",
            domain="real",
            unit="1",
            meaning="above 0, frequent buyers leave sooner; correlation ρ = c/√(1+c²)",
        ),
    ),
    from_coordinates=from_coordinates,
    to_coordinates=to_coordinates,
    priors=priors,
    statistics=("frequency", "recency", "T"),
    log_likelihood=log_likelihood,
    p_alive=p_alive,
    rate=rate,
    converges=lambda draws: True,
    total=total,
    latents=("alive", "intensity", "decay"),
    latent=latent,
    gap=gap,
    simulate=simulate,
    references=(
        Reference(
            authors="Abe",
            year=2009,
            title='"Counting Your Customers" One by One: A Hierarchical Bayes Extension to the Pareto/NBD Model',
            where="Marketing Science 28(3), 541-553",
        ),
        Reference(
            authors="Fader and Hardie",
            year=2015,
            title="A Correlated Pareto/NBD Model",
            where="brucehardie.com/notes",
        ),
    ),
    typical=(
        {"lambda_median": 0.028, "sigma_lambda": 1.19, "mu_median": 0.024, "sigma_mu": 1.5, "coupling": 0.15},
        {"lambda_median": 0.1, "sigma_lambda": 0.7, "mu_median": 0.02, "sigma_mu": 0.9, "coupling": -0.6},
    ),
)
