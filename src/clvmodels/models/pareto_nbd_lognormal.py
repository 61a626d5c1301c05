"""Pareto/NBD (Abe): correlated log-normal purchase and dropout rates.

Abe (2009), "Counting Your Customers" One by One, Marketing Science 28(3), without covariates;
Fader and Hardie (2015), A Correlated Pareto/NBD Model, is the same model:

* while alive, a customer buys at rate λ; the lifetime is exponential with rate μ,
* log λ and log μ are bivariate normal with standard deviations σ_λ, σ_μ and correlation ρ.

ρ is given by the coupling c = ρ/√(1-ρ²), any real number: the slope of log μ on log λ is
ρ σ_μ/σ_λ and the standard deviation that remains is σ_μ √(1-ρ²) = σ_μ/√(1+c²).

Abe's eq. (5), L = λ^x/(λ+μ) {λ e^-(λ+μ)T + μ e^-(λ+μ)t_x}, is averaged over λ and μ by the
trapezoidal rule on a grid in (log λ, log μ), whose error falls exponentially with the step
(Trefethen and Weideman, 2014, SIAM Review 56, 385-458). The steps: at most STEP, for 1/(λ+μ), and
at most SHARE of a width: one over the root of the integrand's curvature at its mode given the other
rate. For log λ the curvature is that of the normal plus λT at the mode of λ^x e^(-λT) times the
normal, for log μ that of the normal plus μT at the mode of e^(-μT) times it. Averages are then
within 1e-9, mostly 1e-13, of those with steps half as long (240 pairs of θ and a customer).
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

STEP = 0.35
SHARE = 0.6
REACH = 8.5  # standard deviations: exp(-REACH²/2) = 2e-16
MOST = 1e7  # nodes of a grid; beyond, where ρ is within some 1e-6 of ±1, the likelihood is taken as 0
DROP = 45.0  # a grid ends where the integrand is exp(-DROP) of its height


def log_likelihood(theta, stats):
    """Log of the average of L: of both its terms, by distinct pairs (x, T) and (x, t_x).

    One grid serves all rows. Rows with parameters of their own have grids of their own (:func:`averaged`).
    """
    import pytensor.tensor as pt
    from pytensor.gradient import disconnected_grad

    names = ("lambda_median", "sigma_lambda", "mu_median", "sigma_mu", "coupling")
    lambda_median, s1, mu_median, s2, coupling = (pt.as_tensor(theta[name]) for name in names)
    x, t_x, T = (pt.as_tensor(stats[name]) for name in ("frequency", "recency", "T"))
    m1, m2 = pt.log(lambda_median), pt.log(mu_median)
    rest = s2 / pt.sqrt(1 + coupling**2)
    slope = coupling * rest / s1
    if any(parameter.ndim for parameter in (m1, s1, m2, s2, coupling)):
        from clvmodels.models._shares import operation

        return operation(averaged)(m1, s1, m2, slope, rest, x, t_x, T)

    # The nodes follow θ, and the average does not depend on where they are.
    log_T = pt.log(pt.maximum(T, 1e-300))
    buys = _lambert(2 * pt.log(s1) + m1 + x * s1**2 + log_T, pt)  # λT σ_λ² at the mode
    mode = m1 + x * s1**2 - buys
    leaves = _lambert(2 * pt.log(rest) + m2 + slope * (mode - m1) + log_T, pt).max()
    h1 = pt.minimum(STEP, SHARE * s1 / pt.sqrt((s2 / rest) ** 2 + buys.max()))
    h2 = pt.minimum(STEP, SHARE * rest / pt.sqrt(1 + leaves))
    low1, high1 = m1 - REACH * s1, _upper(x, t_x, m1, s1, pt).max()
    n1 = pt.ceil((high1 - low1) / h1)
    ends = slope * (low1 - m1), slope * (low1 + h1 * (n1 - 1) - m1)
    low2 = m2 + pt.minimum(*ends) - REACH * rest
    n2 = pt.ceil((m2 + pt.maximum(*ends) + REACH * rest - low2) / h2)
    fits = n1 * n2 < MOST
    z1 = disconnected_grad(low1 + h1 * pt.arange(pt.switch(fits, n1, 1)))
    z2 = disconnected_grad(low2 + h2 * pt.arange(pt.switch(fits, n2, 1)))
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

    value = pt.logaddexp(average(T, weight * share), average(t_x, weight * (1 - share)))
    return pt.switch(fits, value, -np.inf)


def _lambert(log_y, pt):
    """Lambert's W(y), within 2 % (Winitzki): W/σ² is λt where e^(-λt) times a log-normal of λ is highest."""
    u = pt.where(log_y > 35, log_y, pt.log1p(pt.exp(pt.minimum(log_y, 35))))
    return u * (1 - pt.log1p(u) / (2 + u))


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
    lambda_median, s1, mu_median, s2, coupling = theta[0], theta[1], theta[2], theta[3], theta[4]
    rest = s2 / math.sqrt(1.0 + coupling**2)
    return math.log(lambda_median), s1, math.log(mu_median), s2, coupling * rest / s1, rest


@numba.njit(types.Tuple((_vector, _vector, float64, float64))(_draw, float64, float64), cache=True)
def _purchases(population, x, t):
    """Nodes of log λ, weights λ^x e^(-λt) φ(log λ) of largest 1, log(scale times step), and the mode."""
    m, sd, _, s2, _, rest = population
    z = m + x * sd**2
    if t > 0.0:
        z = min(z, max(m, math.log((x + 1e-300) / t)))
    for _ in range(100):  # Newton's steps from the right of the mode only go left
        slope, curvature = x - t * _exp(z) - (z - m) / sd**2, t * _exp(z) + 1.0 / sd**2
        z += slope / curvature
        if abs(slope) < 1e-3 * math.sqrt(curvature):
            break
    h = min(STEP, SHARE / math.sqrt(t * _exp(z) + (s2 / (sd * rest)) ** 2))
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
    return nodes, weight, top + math.log(h), z


@numba.njit(float64(_draw, float64, float64), cache=True)
def _leaves(population, mode, t):
    """How far below the mean of log μ given λ its normal times e^(-μt) is highest: μt σ², as _lambert."""
    m1, _, m2, _, slope, rest = population
    if not t > 0.0:
        return 0.0
    log_y = m2 + slope * (mode - m1) + 2.0 * math.log(rest) + math.log(t)  # y itself may be beyond any number
    u = log_y if log_y > 35.0 else math.log1p(math.exp(log_y))
    return u * (1.0 - math.log1p(u) / (2.0 + u))


@numba.njit(types.Tuple((_vector, float64))(_draw, _vector, float64, float64), cache=True)
def _dropout(population, nodes, mode, t):
    """Nodes of log μ that serve all nodes of log λ, and their step; ``mode`` is that of log λ."""
    m1, _, m2, _, slope, rest = population
    ends = slope * (nodes[0] - m1), slope * (nodes[-1] - m1)
    leaves = _leaves(population, mode, t)
    h = min(STEP, SHARE * rest / math.sqrt(1.0 + leaves))
    low, high = m2 + min(ends) - REACH * rest, m2 + max(ends) + REACH * rest
    return low + h * np.arange(math.ceil((high - low) / h) + 1), h


@numba.njit(types.UniTuple(float64, 4)(_draw, float64, float64), cache=True)
def _window(population, x, t):
    """Both ends of the nodes of log λ, their step, and how far e^(-μt) pulls log μ down."""
    nodes, _, _, mode = _purchases(population, x, t)
    return nodes[0], nodes[-1], nodes[1] - nodes[0], _leaves(population, mode, t)


@numba.njit(
    types.UniTuple(float64, 6)(*(float64,) * 8), cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"}
)
def averaged(m1, s1, m2, slope, rest, x, t_x, T):
    """Log of the average of L for one customer, and its derivatives by the first five.

    Nodes of log λ and log μ are multiples of one step, so that λ/(λ+μ) is a table over their difference,
    and e^-μT one over μ. Both terms of L share the nodes. The derivatives are those of the normal
    density, averaged with L: moments of the standardised rates given the data. The value is within 1e-11
    of another rule (55 pairs of θ and a customer); both take 12 to 26 µs.
    """
    nothing = -np.inf, np.nan, np.nan, np.nan, np.nan, np.nan
    population = m1, s1, m2, math.sqrt(rest**2 + (slope * s1) ** 2), slope, rest
    if not population[3] < MOST / 100.0 * rest:  # so near ρ = ±1 each rate alone has too many nodes
        return nothing
    low1, high1, h1, leaves = _window(population, x, T)
    low, high, h, other = _window(population, x, t_x)
    low1, high1, h1, leaves = min(low1, low), max(high1, high), min(h1, h), max(leaves, other)
    h2 = min(STEP, SHARE * rest / math.sqrt(1.0 + leaves))
    if not (max(h1, h2) < MOST * min(h1, h2) and high1 - low1 < MOST * h1):  # counts that no integer holds
        return nothing
    # One step is a multiple of the other: h1 = many1 h, h2 = many2 h.
    many1, many2 = max(1, int(h1 / h2)), max(1, int(h2 / h1))
    h = min(h1, h2)
    h1, h2 = many1 * h, many2 * h
    step = h2 / rest
    n1 = int((high1 - low1) / h1) + 2
    below, above = math.ceil((REACH + leaves / rest) / step), math.ceil(REACH / step)
    width = below + above + 1
    ends = slope * (low1 - m1), slope * (low1 + h1 * (n1 - 1) - m1)
    low2 = m2 + min(ends) - (below + 1) * h2
    if not n1 * ((max(ends) - min(ends)) / h2 + width) < MOST:
        return nothing
    n2 = int((max(ends) - min(ends)) / h2) + width + 3

    stays, waits = np.empty(n2), np.empty(n2)  # e^(-μT) and e^(-μt_x), over their first
    least = _exp(low2)
    for j in range(n2):
        more = _exp(low2 + h2 * j) - least
        stays[j], waits[j] = math.exp(-more * T), math.exp(-more * t_x)
    # μ/(λ+μ), by the remainder of k many1 over many2, and j less the quotient.
    last = (n1 - 1) * many1 // many2
    tabled = many2 * (n2 + last) < n1 * width  # not where one rate varies far less than the other
    leave = np.empty((many2, n2 + last) if tabled else (1, width))
    if tabled:
        for r in range(many2):
            for j in range(n2 + last):
                leave[r, j] = 1.0 / (1.0 + _exp(low1 - low2 + h * (r - many2 * (j - last))))
    bell, place = np.empty(width), np.empty(width)
    for u in range(width):
        place[u] = u - below
        bell[u] = math.exp(-((place[u] * step) ** 2) / 2.0)
    height = np.empty(n1)
    for k in range(n1):
        z = low1 + h1 * k
        height[k] = x * z - t_x * _exp(z) - ((z - m1) / s1) ** 2 / 2.0
    top = height.max()

    weight = np.empty(width)
    total, e1, e2, e11, e12, e22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(n1):
        z = low1 + h1 * k
        left = math.exp(height[k] - top)
        if left < 1e-25:
            continue
        centre = (m2 + slope * (z - m1) - low2) / h2
        middle = round(centre)
        off = (middle - centre) * step
        # exp(-(off + u step)²/2): a power, times a table.
        up = math.exp(-off * step)
        down = 1.0 / up
        power = 1.0
        for u in range(below, width):
            weight[u] = power * bell[u]
            power *= up
        power = down
        for u in range(below - 1, -1, -1):
            weight[u] = power * bell[u]
            power *= down
        left *= math.exp(-(off**2) / 2.0)
        stayed = left * math.exp(-(T - t_x) * (_exp(z) + least))
        a = many1 * k
        start = middle - below
        if tabled:
            row = leave[a % many2, last - a // many2 + start :]
        else:
            row = leave[0]
            for u in range(width):
                row[u] = 1.0 / (1.0 + _exp(z - low2 - h2 * (start + u)))
        stay, wait = stays[start:], waits[start:]
        part, part1, part2 = 0.0, 0.0, 0.0
        for u in range(width):
            v = weight[u] * (stayed * stay[u] * (1.0 - row[u]) + left * wait[u] * row[u])
            part += v
            v *= place[u]
            part1 += v
            part2 += v * place[u]
        one = (z - m1) / s1
        first = off * part + step * part1
        total += part
        e1 += one * part
        e11 += one * one * part
        e2 += first
        e12 += one * first
        e22 += off * off * part + step * (2.0 * off * part1 + step * part2)
    if not total > 0.0:
        return nothing
    value = top - least * t_x + math.log(total) + math.log(h1 / s1 * step / (2.0 * math.pi))
    e1, e2, e11, e12, e22 = e1 / total, e2 / total, e11 / total, e12 / total, e22 / total
    return (
        value,
        e1 / s1 - slope / rest * e2,
        (e11 - 1.0) / s1,
        e2 / rest,
        s1 / rest * e12,
        (e22 - 1.0) / rest,
    )


@numba.njit(types.UniTuple(float64, 3)(_draw, float64, float64), cache=True)
def _terms(population, x, t):
    """E[λ^x e^(-(λ+μ)t) λ/(λ+μ)], the same with μ/(λ+μ), and the log of their scale."""
    nodes, weight, scale, mode = _purchases(population, x, t)
    log_mu, h = _dropout(population, nodes, mode, t)
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
    return first, left, scale + math.log(h) - mu[0] * t  # two calls may differ in their steps


@numba.njit(types.UniTuple(_vector, 3)(_vector, _vector), cache=True)
def _given_alive(theta, stats):
    """Nodes of μ, and weights with E[λ f(μ) | x, alive at T] = Σ weight f(node); then without λ."""
    x, T = stats[0], stats[2]
    population = _population(theta)
    nodes, weight, _, mode = _purchases(population, x, T)
    log_mu, h = _dropout(population, nodes, mode, T)
    m1, _, m2, _, slope, rest = population
    step = h / rest
    shrink = math.exp(-(step**2))
    mu, chance, bought = np.empty(len(log_mu)), np.zeros(len(log_mu)), np.zeros(len(log_mu))
    for i in range(len(nodes)):
        start = (log_mu[0] - m2 - slope * (nodes[i] - m1)) / rest
        j = max(0, math.ceil((-REACH - start) / step))
        d = start + j * step
        density, ratio = math.exp(-(d**2) / 2.0) * weight[i], math.exp(-step * (d + step / 2.0))
        lam = _exp(nodes[i])
        while d < REACH and j < len(mu):
            chance[j] += density
            bought[j] += density * lam
            density *= ratio
            ratio *= shrink
            d += step
            j += 1
    whole = 0.0
    for j in range(len(mu)):
        mu[j] = _exp(log_mu[j])
        survives = math.exp(-(mu[j] - mu[0]) * T)
        chance[j] *= survives
        whole += chance[j]
        bought[j] *= survives
    return mu, bought / whole, chance / whole


@compiled.p_alive
def p_alive(theta, stats):
    """E[λ^x e^-(λ+μ)T] over E[L]."""
    x, t_x, T = stats[0], stats[1], stats[2]
    population = _population(theta)
    first, left, scale = _terms(population, x, T)
    _, left_before, scale_before = _terms(population, x, t_x)
    if first == 0.0:
        return 0.0
    share = logistic_of_difference(math.log(left_before + 1e-300) + scale_before, math.log(first) + scale)
    return min(1.0, (first + left) / first * share)


@compiled.rates
def rates(theta, stats, times, out):
    """E[λ e^(-μ s) | alive] at many s."""
    mu, weight, _ = _given_alive(theta, stats)
    for k in range(len(times)):
        value = 0.0
        for j in range(len(mu)):
            value += weight[j] * math.exp(-mu[j] * times[k])
        out[k] = min(value, 1e300)


@compiled.rate
def rate(theta, stats, s):
    """E[λ e^(-μ s) | alive]."""
    out = np.empty(1)
    rates(theta, stats, np.array([s]), out)
    return out[0]


@compiled.survivals
def survivals(theta, stats, times, out):
    """E[e^(-μ s) | alive] at many s."""
    mu, _, chance = _given_alive(theta, stats)
    for k in range(len(times)):
        value = 0.0
        for j in range(len(mu)):
            value += chance[j] * math.exp(-mu[j] * times[k])
        out[k] = value


@compiled.survival
def survival(theta, stats, s):
    """E[e^(-μ s) | alive]."""
    out = np.empty(1)
    survivals(theta, stats, np.array([s]), out)
    return out[0]


@compiled.total
def total(theta, stats):
    """E[λ/μ | alive], finite for every θ."""
    mu, weight, _ = _given_alive(theta, stats)
    return (weight / mu).sum()


@numba.njit(types.UniTuple(float64, 3)(float64, float64, float64, float64, float64), cache=True)
def _log_term(p, q, t, z1, z2):
    """Log of λ^p μ^q e^-(λ+μ)t / (λ+μ), a concave function of log λ and log μ, and its gradient."""
    lam, mu = _exp(z1), _exp(z2)
    g = lam + mu
    return p * z1 + q * z2 - g * t - math.log(g), p - lam * (t + 1.0 / g), q - mu * (t + 1.0 / g)


@numba.njit(types.UniTuple(float64, 6)(_draw, float64, float64, float64), cache=True)
def _tangent(population, p, q, t):
    """Where a term times the population's density is highest, and the term's tangent there.

    The tangent moves the population's mean to the mode, or, off the mode, by the slope that is left times
    its covariance: with a term as narrow as a heavy buyer's a slope that is small beside the term's
    curvature moves it by many standard deviations, where nothing is accepted. The slope therefore has to be
    small beside the population's.

    Returns
    -------
    z1, z2, value, d1, d2, log_mass
        ``log_mass``: the log of the tangent's exponential, averaged over the population.
    """
    m1, s1, m2, _, slope, rest = population
    # Precision of the population.
    a, b, c = 1.0 / s1**2 + (slope / rest) ** 2, -slope / rest**2, 1.0 / rest**2
    z1, z2 = m1, m2
    value, d1, d2 = _log_term(p, q, t, z1, z2)
    height = value
    for _ in range(200):
        w1, w2 = z1 - m1, z2 - m2
        u1, u2 = d1 - a * w1 - b * w2, d2 - b * w1 - c * w2
        lam, mu = _exp(z1), _exp(z2)
        v = lam / (lam + mu) * (mu / (lam + mu))
        k1, k2, k = a + t * lam + v, c + t * mu + v, b - v
        det = k1 * k2 - k * k
        step1, step2 = (k2 * u1 - k * u2) / det, (k1 * u2 - k * u1) / det
        gain = u1 * step1 + u2 * step2
        if (s1 * (u1 + slope * u2)) ** 2 + (rest * u2) ** 2 < 1e-2:
            break
        # Newton's step, or the part of it that climbs; near the top heights no longer tell them apart.
        near = gain < 1e-4
        length = 1.0
        while length > 1e-9:
            y1, y2 = z1 + length * step1, z2 + length * step2
            y_value, y_d1, y_d2 = _log_term(p, q, t, y1, y2)
            w1, w2 = y1 - m1, y2 - m2
            y_height = y_value - (a * w1 * w1 + 2.0 * b * w1 * w2 + c * w2 * w2) / 2.0
            if near or y_height > height:
                break
            length /= 2.0
        if length <= 1e-9:
            break
        z1, z2, value, d1, d2, height = y1, y2, y_value, y_d1, y_d2, y_height
    spread = (s1 * d1 + slope * s1 * d2) ** 2 + (rest * d2) ** 2
    return z1, z2, value, d1, d2, value + d1 * (m1 - z1) + d2 * (m2 - z2) + spread / 2.0


@compiled.latent
def latent(theta, stats, rng, out):
    """log λ and log μ by rejection from the population times L; then alive given these.

    Both terms of L are log-concave in (log λ, log μ), so that the tangent of the logarithm at any
    point is above it. The exponential of a tangent makes the population a normal with another mean.
    """
    x, t_x, T = stats[0], stats[1], stats[2]
    population = _population(theta)
    m1, s1, m2, _, slope, rest = population
    first = _tangent(population, x + 1.0, 0.0, T)
    other = _tangent(population, x, 1.0, t_x)
    chance = logistic_of_difference(other[5], first[5])
    while True:
        _, _, _, d1, d2, _ = first if rng.random() < chance else other
        shift = s1 * (d1 + slope * d2)
        w = s1 * (shift + rng.standard_normal())
        z1 = m1 + w
        z2 = m2 + slope * w + rest * (rest * d2 + rng.standard_normal())
        above = first[2] + first[3] * (z1 - first[0]) + first[4] * (z2 - first[1])
        below = other[2] + other[3] * (z1 - other[0]) + other[4] * (z2 - other[1])
        term = _log_term(x + 1.0, 0.0, T, z1, z2)[0]
        term_left = _log_term(x, 1.0, t_x, z1, z2)[0]
        top = max(above, below)
        accept = (math.exp(term - top) + math.exp(term_left - top)) / (
            math.exp(above - top) + math.exp(below - top)
        )
        if rng.random() < accept:
            break
    lam, mu = _exp(z1), _exp(z2)
    # L: the share of e^-(λ+μ)T in {λ e^-(λ+μ)T + μ e^-(λ+μ)t_x} / (λ+μ).
    stays = logistic_of_difference(math.log(mu) + (lam + mu) * (T - t_x), math.log(lam))
    out[0] = 1.0 if rng.random() < stays * (lam + mu) / lam else 0.0
    out[1], out[2] = lam, mu


def simulate(theta, T, rng):
    """Play the story: two correlated rates, a lifetime, and Poisson purchases within it."""
    n, c = len(T), theta["coupling"]
    rho = c / math.sqrt(1 + c**2)
    one, other = rng.standard_normal((2, n))
    lam = theta["lambda_median"] * np.exp(theta["sigma_lambda"] * one)
    mu = theta["mu_median"] * np.exp(theta["sigma_mu"] * (rho * one + math.sqrt(1 - rho**2) * other))
    return histories(lam, mu, T, rng)


def transfer(theta, other, latents):
    """λ and μ with their medians, the spread and the coupling of their logarithms held."""
    out = latents.copy()
    out[..., 1] *= other["lambda_median"] / theta["lambda_median"]
    out[..., 2] *= other["mu_median"] / theta["mu_median"]
    return out


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
            name="coupling",
            domain="real",
            unit="1",
            meaning="ρ/√(1-ρ²), ρ the correlation of log λ and log μ",
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
    survival=survival,
    survivals=survivals,
    rates=rates,
    converges=lambda draws: True,
    total=total,
    latents=("alive", "intensity", "decay"),
    latent=latent,
    gap=gap,
    simulate=simulate,
    transfer=transfer,
    references=(
        Reference(
            authors="Abe",
            year=2009,
            title='"Counting Your Customers" One by One: '
            "A Hierarchical Bayes Extension to the Pareto/NBD Model",
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
        {"lambda_median": 0.03, "sigma_lambda": 1.0, "mu_median": 0.027, "sigma_mu": 1.8, "coupling": 0.13},
        {"lambda_median": 0.1, "sigma_lambda": 0.7, "mu_median": 0.02, "sigma_mu": 0.9, "coupling": -0.6},
    ),
)
