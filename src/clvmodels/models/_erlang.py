"""What the families with Erlang-k gaps share: the algebra of a gap that is running at T.

A gap is k phases of rate λ. With R = r + kx, A = α + T and y = (T-t_x)/A, the probability that
no k-th phase ended since t_x is a sum over the j < k phases that may be done, so that

* alive at T has the weight A^-R S, S = Σ_j Γ(R+j)/(Γ(R) j!) y^j,
* given alive, the phase is j with probability Γ(R+j)/(Γ(R) j!) y^j / S, and then
  λ ~ Gamma(R+j, A), p ~ Beta(a, b+n),

n being the occasions at which the customer did not drop out: x (BG) or x + 1 (MBG). ``theta``
is (k, r, α, a, b).
"""

import math

import numba
import numpy as np
from numba import float64, types, void

from clvmodels.models import _beta_geometric as beta_geometric
from clvmodels.models.family import Parameter, Statistic, compiled
from clvmodels.numerics.renewal import mixed_renewal_rates, renewal_presence, renewal_rate, renewal_value
from clvmodels.numerics.special import against, beta_power_mean

MOST = 8

PARAMETERS = (
    Parameter(
        name="k",
        domain="positive",
        unit="1",
        meaning="phases of a gap: 1, purchases at random; more, regular",
        constant=1.0,
        choices=tuple(float(k) for k in range(1, MOST + 1)),
    ),
    *beta_geometric.PARAMETERS,
)

LOG_INTERVALS = Statistic(name="log_intervals", of="interval", transform="log")

_vector = types.Array(float64, 1, "C")
_generator = numba.typeof(np.random.default_rng(0))


def log_likelihood(theta, stats, n):
    """Log density of the purchase times, k phases a gap, after n occasions to drop out."""
    import pytensor.tensor as pt

    from clvmodels.models._shares import beta_staying

    k, r, alpha, a, b = (pt.cast(theta[name], "float64") for name in ("k", "r", "alpha", "a", "b"))
    x, t_x, T, logs = (stats[name] for name in ("frequency", "recency", "T", LOG_INTERVALS.name))
    R, y = r + k * x, (T - t_x) / (alpha + T)
    S = 1.0
    for j in range(MOST - 1, 0, -1):
        S = 1.0 + 1.0 * (k > j) * (R + j - 1) / j * y * S
    gaps = (k - 1) * logs - x * pt.gammaln(k)
    purchases = pt.gammaln(R) - pt.gammaln(r) + r * pt.log(alpha)
    survival = beta_staying(a, b, n)
    alive = pt.log(S) - R * pt.log(alpha + T)
    dropped = pt.log(a) - pt.log(b + pt.maximum(n, 1) - 1) - R * pt.log(alpha + t_x)
    return gaps + purchases + survival + pt.where(n > 0, pt.logaddexp(alive, dropped), alive)


def phase_count(draws):
    """k, the same in all draws."""
    return int(draws[:, 0].max())


@compiled.phase_weights
def phase_weights(theta, stats, out):
    """Γ(R+j)/(Γ(R) j!) y^j / S for each phase j < k."""
    k, r, alpha = theta[0], theta[1], theta[2]
    x, t_x, T = stats[0], stats[1], stats[2]
    R, y = r + k * x, (T - t_x) / (alpha + T)
    S, out[0] = 1.0, 1.0
    for j in range(1, int(k)):
        out[j] = out[j - 1] * (R + j - 1.0) / j * y
        S += out[j]
    for j in range(int(k)):
        out[j] /= S


@numba.njit(float64(_vector, _vector, float64), cache=True)
def p_alive(theta, stats, n):
    """1 / (1 + a/(b+n-1) ((α+T)/(α+t_x))^R / S)."""
    k, r, alpha, a, b = theta[0], theta[1], theta[2], theta[3], theta[4]
    x, t_x, T = stats[0], stats[1], stats[2]
    if n == 0.0:
        return 1.0
    R, y, S = r + k * x, (T - t_x) / (alpha + T), 1.0
    for j in range(int(k) - 1, 0, -1):
        S = 1.0 + (R + j - 1.0) / j * y * S
    return against(a / (b + n - 1.0) / S, R * math.log((alpha + T) / (alpha + t_x)))


@numba.njit(void(_vector, float64, float64, float64, float64, _vector), cache=True)
def phase_rates(theta, x, T, n, s, out):
    """E[rate(s) | alive, phase j] into ``out[j]``: λ ~ Gamma(R+j, A), p ~ Beta(a, b+n)."""
    k, r, alpha, a, b = theta[0], theta[1], theta[2], theta[3], theta[4]
    R, A = r + k * x, alpha + T
    if k == 1.0:
        out[0] = R / A * beta_power_mean(R + 1.0, a, b + n, s / A)
        return
    mixed_renewal_rates(k, R, a, b + n, s / A, out)
    for j in range(int(k)):
        out[j] /= A


@numba.njit(float64(_vector, _vector, float64, float64), cache=True)
def rate(theta, stats, n, s):
    """E[rate(s) | alive]: the mean over the phases."""
    k = int(theta[0])
    weights, rates = np.empty(k), np.empty(k)
    phase_weights(theta, stats, weights)
    phase_rates(theta, stats[0], stats[2], n, s, rates)
    total = 0.0
    for j in range(k):
        total += weights[j] * rates[j]
    return total


@numba.njit(void(_vector, float64, float64, float64, float64, _vector), cache=True)
def phase_leaving(theta, x, T, n, s, out):
    """E[p rate(s) | alive, phase j] into ``out[j]``: p times a beta's density is that of a + 1."""
    a, b = theta[3], theta[4]
    raised = theta.copy()
    raised[3] = a + 1.0
    phase_rates(raised, x, T, n, s, out)
    for j in range(int(theta[0])):
        out[j] *= a / (a + b + n)


LATENTS = ("alive", "intensity", "decay", "p", "phase", "k")


@numba.njit(void(_vector, _vector, float64, float64, _generator, _vector), cache=True)
def draw(theta, stats, alive, n, rng, out):
    """alive; the phase of the running gap; λ and p given these. intensity is λ/k, decay λp/k."""
    k, r, alpha, a, b = theta[0], theta[1], theta[2], theta[3], theta[4]
    x, t_x, T = stats[0], stats[1], stats[2]
    R, phase = r + k * x, 0.0
    if rng.random() < alive:
        out[0] = 1.0
        weights = np.empty(int(k))
        phase_weights(theta, stats, weights)
        left = rng.random() - weights[0]
        while left > 0.0 and phase < k - 1.0:
            phase += 1.0
            left -= weights[int(phase)]
        lam = rng.gamma(R + phase, 1.0 / (alpha + T))
        p = rng.beta(a, b + n)
    else:
        out[0] = 0.0
        lam = rng.gamma(R, 1.0 / (alpha + t_x))
        p = rng.beta(a + 1.0, b + n - 1.0)
    out[1] = lam / k
    out[2] = lam / k * p
    out[3] = p
    out[4] = phase
    out[5] = k


@compiled.latent_rate
def latent_rate(latents, s):
    """A sum of k exponentials, see :func:`clvmodels.numerics.renewal.renewal_rate`."""
    k = latents[5]
    return renewal_rate(k, latents[4], latents[1] * k, latents[3], s)


@compiled.latent_value
def latent_value(latents, code):
    """The same, discounted and summed."""
    k = latents[5]
    return renewal_value(k, latents[4], latents[1] * k, latents[3], code)


@compiled.latent_presence
def latent_presence(latents, code):
    """Time alive, discounted: given λ and p a purchase that is the last comes at p times the rate."""
    k = latents[5]
    return renewal_presence(k, latents[4], latents[1] * k, latents[3], code)


@compiled.gap
def gap(latents, s, rng):
    """A purchase (but not the origin) may be the last; the next takes the phases that are left."""
    k = latents[5]
    if latents[1] == 0.0:
        return math.inf
    if s > 0.0:
        if rng.random() < latents[3]:
            return math.inf
        return rng.standard_gamma(k) / (latents[1] * k)
    return rng.standard_gamma(k - latents[4]) / (latents[1] * k)


def converges(draws):
    return bool((draws[:, 3] > 1).all())
