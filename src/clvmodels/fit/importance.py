"""Importance sampling: exact draws with a certificate, for posteriors of a few dimensions.

Proposals come from a multivariate t at the mode; their first weights adapt its mean and
scale; the weights of the final proposals are smoothed (PSIS) and the proposals are
resampled into equally weighted draws.

Why resampled draws count as independent: systematic resampling with n draws takes proposal
i, of weight w_i, floor(n w_i) or ceil(n w_i) times. Where n w_i <= 1 it is taken or left, as
in rejection sampling, and the draws are independent. Only copies of one proposal are not:
with c_i copies the variance of a mean of draws is σ² Σ(c_i/n)², so that n²/Σc_i² draws are
effective. In expectation Σ(c_i/n)² = Σw_i² + Σf_i(1-f_i)/n² with f_i the fraction of n w_i:
the variance of the weighted mean (Kish) plus that of choosing among the proposals.

References
----------
Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling,
Journal of Machine Learning Research 25(72): smoothing and k-hat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clvmodels.fit.convergence import K_HAT_MAX

Density = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

DEGREES = 5.0
"""Degrees of freedom of the proposal: tails heavier than any posterior that a prior bounds."""
PILOT = 500
"""Proposals that adapt mean and scale, again until half of them are effective."""
ENOUGH = 0.8
"""Effective share of the draws at which no more proposals are made."""
MOST = 6
"""Proposals per draw at which a round ends."""
ROUNDS = 4
"""Pilots at most; and rounds of proposals until k-hat must be at most its limit."""


@dataclass(frozen=True)
class Sample:
    """Equally weighted draws, shape (draw, parameter), and how good they are."""

    draws: np.ndarray
    k_hat: float
    ess: float
    proposals: int


def sample(
    density: Density,
    mode: np.ndarray,
    covariance: np.ndarray,
    draws: int,
    rng: np.random.Generator,
    progress: Callable[[float], None] = lambda fraction: None,
    first: float = 1.25,
) -> Sample:
    """Draw from a density known up to a constant.

    Parameters
    ----------
    density
        ``points (n, k) -> (log density (n,), parameters (n, parameter))``.
    mode, covariance
        Where the first proposals are centred, shape (k,), and their spread, shape (k, k).
    draws
        Draws wanted.
    progress
        Called with the share of the proposals made, 0 to 1.
    first
        Proposals per draw to begin with; more where they are cheap give more effective draws.

    Returns
    -------
    Sample
        ``k_hat`` above 0.7 says that the draws cannot be trusted.
    """
    made = 0

    def propose(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points, log weights and parameters of n proposals."""
        nonlocal made
        root = np.linalg.cholesky(spread)
        normal = rng.standard_normal((n, len(centre)))
        radius = np.sqrt(DEGREES / rng.chisquare(DEGREES, n))
        log_proposal = -(DEGREES + len(centre)) / 2 * np.log1p((normal**2).sum(1) * radius**2 / DEGREES)
        points = centre + radius[:, None] * normal @ root.T
        log_target, parameters = [], []
        for batch in np.array_split(points, max(1, n // 100)):
            value, native = density(batch)
            log_target.append(value)
            parameters.append(native)
            made += len(batch)
            progress(min(1.0, made / (PILOT + first * draws)))
        return points, np.concatenate(log_target) - log_proposal, np.concatenate(parameters)

    centre, spread = mode, covariance
    for _ in range(ROUNDS):
        points, log_weight, _ = propose(PILOT)
        weight, _ = smooth(log_weight)
        centre, spread = _adapt(points, weight, spread)
        if _effective(weight, PILOT) > PILOT / 2:
            break
    for _ in range(ROUNDS):
        points, log_weight, parameters = propose(int(first * draws))
        weight, k_hat = smooth(log_weight)
        while k_hat <= K_HAT_MAX and len(points) < MOST * draws:
            if _effective(weight, draws) >= ENOUGH * draws:
                break
            more = propose(draws)
            points, log_weight, parameters = (
                np.concatenate(pair) for pair in zip((points, log_weight, parameters), more, strict=True)
            )
            weight, k_hat = smooth(log_weight)
        if k_hat <= K_HAT_MAX:
            break
        centre, spread = _adapt(points, weight, spread)
    progress(1.0)
    chosen = rng.permutation(resample(weight, draws, rng.random()))
    ess = draws**2 / float((np.bincount(chosen) ** 2).sum())
    return Sample(draws=parameters[chosen], k_hat=k_hat, ess=ess, proposals=made)


def inverse_curvature(loss: Callable[[np.ndarray], float], at: np.ndarray, step: float = 0.1) -> np.ndarray:
    """Covariance of the normal that fits at the mode, nowhere wider than the prior.

    Differences over a tenth of a prior sd: the density is smooth on that scale.
    """
    k = len(at)
    steps = step * np.eye(k)
    hessian = np.empty((k, k))
    for i in range(k):
        for j in range(k):
            corners = ((s * u, loss(at + s * steps[i] + u * steps[j])) for s in (1, -1) for u in (1, -1))
            hessian[i, j] = sum(sign * value for sign, value in corners) / (4 * step**2)
    value, vector = np.linalg.eigh((hessian + hessian.T) / 2)
    return (vector / np.maximum(value, 1.0)) @ vector.T


def smooth(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Normalised weights after Pareto smoothing, and k-hat; infinite where no tail can be fitted.

    The largest 3√n weights become the quantiles of a generalized Pareto distribution fitted to them
    (Vehtari et al. 2024, section 3). The same as ArviZ's ``psislw``, whose import takes longer than a fit.
    """
    if not np.isfinite(log_weight).any():
        return np.full(len(log_weight), 1 / len(log_weight)), np.inf
    n = len(log_weight)
    tail = int(3 * n**0.5 if n > 225 else n / 5)
    smoothed = log_weight - log_weight.max()
    order = np.argsort(smoothed)
    largest, cutoff = order[n - tail :], np.exp(smoothed[order[n - tail - 1]])
    k_hat, sigma = _pareto(np.exp(smoothed[largest]) - cutoff)
    if np.isfinite(k_hat):
        rest = -np.log1p(-np.arange(0.5, tail) / tail)
        quantiles = cutoff + sigma * (np.expm1(k_hat * rest) / k_hat if k_hat else rest)
        smoothed[largest] = np.minimum(np.log(quantiles), 0.0)
    weight = np.exp(smoothed - smoothed.max())
    return weight / weight.sum(), float(k_hat) if np.isfinite(k_hat) else np.inf


def _pareto(values: np.ndarray) -> tuple[float, float]:
    """Shape k and scale of a generalized Pareto distribution of ascending values.

    The empirical Bayes estimate of Zhang and Stephens (2009), Technometrics 51(3), with the prior for k
    of Vehtari et al. (2024, appendix C): ten observations at 0.5.
    """
    n = len(values)
    quartile = values[int(n / 4 + 0.5) - 1]
    if n < 5 or quartile <= values[0]:
        return np.nan, np.nan
    count = 30 + int(n**0.5)
    b = (1 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))) / (3 * quartile) + 1 / values[-1]
    k = np.log1p(-b[:, None] * values).mean(axis=1)
    log_likelihood = n * (np.log(-b / k) - k - 1)
    weight = np.exp(log_likelihood - log_likelihood.max())
    best = b @ weight / weight.sum()
    shape = np.log1p(-best * values).mean()
    return float((n * shape + 5) / (n + 10)), float(-shape / best)


def resample(weight: np.ndarray, draws: int, offset: float) -> np.ndarray:
    """Systematic resampling: indices of ``draws`` draws, in ascending order.

    Parameters
    ----------
    weight
        Normalised, shape (n,).
    offset
        Uniform on [0, 1).
    """
    edges = np.cumsum(weight) * draws
    return np.minimum(np.searchsorted(edges, np.arange(draws) + offset, side="right"), len(weight) - 1)


def _effective(weight: np.ndarray, draws: int) -> float:
    """Effective draws that resampling will give, in expectation."""
    copies = weight * draws
    fraction = copies % 1
    return draws**2 / float((copies**2 + fraction * (1 - fraction)).sum())


def _adapt(points: np.ndarray, weight: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the weighted proposals.

    With few effective proposals the old spread keeps the share that they cannot fill.
    """
    centre = weight @ points
    away = points - centre
    covariance = (away * weight[:, None]).T @ away
    k = points.shape[1]
    trust = 1 - min(1.0, 5 * k * float(weight @ weight))
    return centre, trust * covariance + (1 - trust) * spread
