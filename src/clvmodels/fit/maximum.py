"""Maxima of smooth log densities in a few dimensions, with the curvature there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clvmodels.fit.graph import Target
from clvmodels.fit.priors import flat
from clvmodels.models.family import Scale

Density = Callable[[np.ndarray], tuple[float, np.ndarray]]

STEP = 1e-4
"""Step of the differences of the gradient. Coordinates are logarithms and logits, so that third and
higher derivatives are of the size of the second and the relative error is about STEP² = 1e-8."""
LARGEST_SD = 3.0
"""A direction in which the curvature says more than this many units of log or logit is not identified."""
ENDLESS = 1e-4
"""Nats that a Newton step gains below which the climb ends where a direction is not identified: such a ridge
rises towards its supremum for ever, and evaluations become slow out there."""


@dataclass(frozen=True)
class Peak:
    """Where a log density is highest.

    Attributes
    ----------
    point, value
        Shape (k,), and nats.
    precision
        Minus the Hessian, shape (k, k).
    converged
        Newton's step is below 1e-7 standard deviations, and every direction is identified; where not,
        the density has no maximum inside or the search was stuck.
    """

    point: np.ndarray
    value: float
    precision: np.ndarray
    converged: bool

    @property
    def log_integral(self) -> float:
        """Laplace's approximation of the log of the density's integral."""
        size = np.linalg.eigvalsh(self.precision)
        return self.value + 0.5 * float(np.log(2 * np.pi / np.maximum(size, LARGEST_SD**-2)).sum())

    @property
    def covariance(self) -> np.ndarray:
        """Inverse of the precision, directions without curvature at ``LARGEST_SD``."""
        size, axes = np.linalg.eigh(self.precision)
        return (axes / np.maximum(size, LARGEST_SD**-2)) @ axes.T


def climb(density: Density, start: np.ndarray) -> Peak:
    """Maximise by BFGS, then by Newton's steps with a Hessian from differences of the gradient.

    Parameters
    ----------
    density
        ``point -> (value, gradient)``.
    start
        Shape (k,).
    """
    from scipy.optimize import minimize

    unit = max(1.0, abs(density(start)[0]))

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = density(point)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e10, np.zeros(len(point))
        return -value / unit, -gradient / unit

    point = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-7}).x
    value, gradient = density(point)
    for _ in range(50):
        precision = precision_at(density, point)
        if not np.isfinite(precision).all():  # it climbs without end
            return Peak(point, value, np.zeros_like(precision), False)
        size, axes = np.linalg.eigh(precision)
        step = axes @ (axes.T @ gradient / np.maximum(np.abs(size), LARGEST_SD**-2))
        gain = gradient @ step
        endless = size[0] < LARGEST_SD**-2 and gain < ENDLESS
        if gain < 1e-14 or endless:
            break
        step *= min(1.0, 2.0 / np.abs(step).max())
        near = gain < 1e-4  # values no longer resolve the gain; Newton's step is safe here
        for _ in range(30):
            new_value, new_gradient = density(point + step)
            if np.isfinite(new_gradient).all() and (near or new_value > value):
                break
            step /= 2
        else:
            break
        point, value, gradient = point + step, new_value, new_gradient
    converged = bool(gain < 1e-10 and size[0] > LARGEST_SD**-2)
    return Peak(point, value, precision, converged)


def precision_at(density: Density, point: np.ndarray) -> np.ndarray:
    """Minus the Hessian by central differences of the gradient, shape (k, k)."""
    steps = STEP * np.eye(len(point))
    with np.errstate(invalid="ignore"):
        columns = [(density(point - step)[1] - density(point + step)[1]) / (2 * STEP) for step in steps]
        return (np.array(columns) + np.array(columns).T) / 2


def likelihood(target: Target, start: np.ndarray, scale: Scale) -> tuple[dict[str, float], Peak]:
    """The maximum of the likelihood, priors left out.

    It is sought over the target's own quantities. Where it is not inside them (a prior's support or
    the coordinates exclude part of the native parameters), it is sought over the native parameters.

    Parameters
    ----------
    start
        A point of the target, such as the posterior's mode.

    Returns
    -------
    maximum
        Native parameters and ``log_likelihood``.
    peak
        In the space in which it was found.
    """
    peak = climb(lambda point: target(point, 0.0, 0.0)[:2], start)
    anywhere = flat(target.family, target.priors.constants)
    if not peak.converged and target.priors != anywhere:
        wide = Target.of(target.family, target.rows, anywhere)
        other = climb(lambda point: wide(point, 0.0, 0.0)[:2], wide.start(scale))
        if other.converged or other.value > peak.value:
            peak, target = other, wide
    parameters = target(peak.point)[2]
    maximum = dict(zip(target.family.parameter_names, map(float, parameters), strict=True))
    return maximum | {"log_likelihood": peak.value}, peak
