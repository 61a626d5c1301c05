"""What is left of the error of forecasts, by horizon: bias and scale, pooled over horizons.

At past origins the log of what came over what was forecast is

    e = log(Y / Ŷ) ~ t_ν(b_H, σ²_model + σ_H²),

with σ_model the sd of the forecast's own draws (on the log), known for each origin; b_H the bias of
horizon H and σ_H the sd of what the forecast does not contain. Horizons are alike but not equal:

    b_H = β + ω η_H,    log σ_H = log s + κ ξ_H,    η_H, ξ_H ~ N(0, 1),

so that horizons with few origins borrow from the others. The t has ν degrees of freedom and the
*variance* σ_model² + σ_H²: one wild origin does not set the scale, and a normal error of that variance
has the same 90 % interval within 2 %. Origins are taken as independent: those of one horizon must not
overlap. Errors of one origin at two horizons share what happened first; this is left out.

References
----------
Gelman (2006), Prior distributions for variance parameters in hierarchical models, Bayesian Analysis 1(3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clvmodels.fit import importance
from clvmodels.fit.convergence import K_HAT_MAX

DEGREES = 8.0
"""ν."""
BIAS = 0.2
"""Prior sd of β: forecasts that are wrong by a fifth on average are bad ones."""
SPREAD = 0.1
"""Prior sd of ω (half-normal): how much the biases of two horizons differ."""
SCALE = 0.1
"""Prior sd of s (half-normal): a tenth on top of all that a forecast contains is much."""
RATIO = 0.5
"""Prior sd of κ (half-normal): the scales of two horizons differ by less than a factor of two, mostly."""
TRUSTED = K_HAT_MAX


@dataclass(frozen=True, kw_only=True)
class Remainder:
    """Posterior draws of bias and scale.

    Attributes
    ----------
    bias, scale
        b_H and σ_H on the log, shape (draw, horizon).
    k_hat, ess
        Certificate of the draws.
    """

    bias: np.ndarray
    scale: np.ndarray
    k_hat: float
    ess: float


def estimate(
    error: np.ndarray, model: np.ndarray, horizon: np.ndarray, horizons: int, draws: int, seed: int
) -> Remainder:
    """Posterior of bias and scale by horizon.

    Parameters
    ----------
    error
        log(Y / Ŷ), shape (error,).
    model
        σ_model, shape (error,), above 0.
    horizon
        Index of the horizon of each error, below ``horizons``; one without an error has its prior given
        the others.
    """
    from scipy.optimize import minimize

    error, model, horizon = np.asarray(error, float), np.asarray(model, float), np.asarray(horizon, int)

    def density(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        native = _native(points, horizons)
        bias, scale = native[:, :horizons], native[:, horizons:]
        return _log_likelihood(error, model, bias[:, horizon], scale[:, horizon]) - 0.5 * (points**2).sum(
            1
        ), native

    def loss(point: np.ndarray) -> float:
        return -float(density(point[None])[0][0])

    start = np.zeros(4 + 2 * horizons)
    mode = minimize(loss, start, method="BFGS").x
    covariance = importance.inverse_curvature(loss, mode)
    sample = importance.sample(density, mode, covariance, draws, np.random.default_rng(seed))
    return Remainder(
        bias=sample.draws[:, :horizons],
        scale=sample.draws[:, horizons:],
        k_hat=sample.k_hat,
        ess=sample.ess,
    )


def _log_likelihood(error: np.ndarray, model: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Of all errors, up to a constant, at points of shape (point, error)."""
    variance = model**2 + scale**2
    away = (error - bias) ** 2 / variance
    return (-(DEGREES + 1) / 2 * np.log1p(away / (DEGREES - 2)) - 0.5 * np.log(variance)).sum(1)


def _native(points: np.ndarray, horizons: int) -> np.ndarray:
    """Standard normal under the prior → biases and scales by horizon, shape (point, 2 horizon)."""
    from scipy.special import ndtr, ndtri

    beta, *sizes = points[:, :4].T
    spread, scale, ratio = (
        size * ndtri((1 + np.clip(ndtr(z), 1e-12, 1 - 1e-12)) / 2)
        for size, z in zip((SPREAD, SCALE, RATIO), sizes, strict=True)
    )
    eta, xi = points[:, 4 : 4 + horizons], points[:, 4 + horizons :]
    bias = BIAS * beta[:, None] + spread[:, None] * eta
    return np.column_stack([bias, scale[:, None] * np.exp(ratio[:, None] * xi)])
