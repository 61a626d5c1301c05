"""A polynomial in place of a log density that is dear to evaluate, and how far it is off.

With many customers a posterior of a few quantities is close to normal: its logarithm within six standard
deviations of the mode is a polynomial of degree four to a small fraction of a nat. Fitted to values and
gradients at some sixty points it costs what those points cost, whatever the number of draws. Draws are
taken from it, and the density itself is evaluated at some of them. Where the two differ by a constant, the
draws are from the posterior; where the difference varies by ε standard deviations (of nats), the mean of
any quantity is off by at most ε of its posterior standard deviations (Cauchy-Schwarz, to first order).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clvmodels.fit.importance import Sample, sample

Density = Callable[[np.ndarray], tuple[float, np.ndarray]]

DEGREE = 4
REACH = 6.0
"""Standard deviations from the mode within which the polynomial is used: all but 1e-6 of a normal in four
dimensions, 1e-5 in six."""
EQUATIONS = 4
"""Equations for each coefficient; a point gives one for its value and one for each direction."""
CHECKED = 25
"""Draws at which the density itself is evaluated: its spread about the polynomial is known to a seventh."""
LARGEST_ERROR = 0.01
"""Standard deviation of that difference above which the polynomial is not used, a third of what the
Monte Carlo error of 1,000 draws is."""
PROPOSALS = 10
"""Proposals per draw: they cost nothing."""


@dataclass(frozen=True)
class Polynomial:
    """Values at points of shape (n, k), in nats up to a constant; -inf beyond ``REACH``.

    Attributes
    ----------
    centre, inverse
        Shape (k,) and (k, k): z = inverse (point - centre) is about standard normal.
    powers
        Of z / ``REACH``, shape (term, k).
    coefficients
        Shape (term,).
    """

    centre: np.ndarray
    inverse: np.ndarray
    powers: np.ndarray
    coefficients: np.ndarray

    @classmethod
    def of(
        cls, density: Density, centre: np.ndarray, covariance: np.ndarray, rng: np.random.Generator
    ) -> Polynomial:
        """Least squares over values and gradients at points in all directions, up to ``REACH`` away."""
        k = len(centre)
        root = np.linalg.cholesky(covariance)
        powers = np.array(
            [p for p in itertools.product(range(DEGREE + 1), repeat=k) if sum(p) <= DEGREE], dtype=int
        )
        number = -(-EQUATIONS * len(powers) // (k + 1))
        direction = rng.standard_normal((number, k))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = REACH * (np.arange(number) + 0.5) / number
        u = direction * (length / REACH)[:, None]
        found = [density(centre + root @ (REACH * z)) for z in u]
        finite = [i for i, (one, g) in enumerate(found) if np.isfinite(one) and np.isfinite(g).all()]
        u, length = u[finite], length[finite]
        value = np.array([found[i][0] for i in finite])
        gradient = np.array([REACH * root.T @ found[i][1] for i in finite]).reshape(-1, k)
        rows, targets = [_terms(u, powers)], [value - density(centre)[0]]
        for j in range(k):
            rows.append(powers[:, j] * _terms(u, np.maximum(powers - np.eye(k, dtype=int)[j], 0)))
            targets.append(gradient[:, j])
        # Far out, where no draws are, the polynomial need not be as good.
        weight = np.tile(1 / (1 + (length / 3) ** 4), k + 1)
        equations, right = np.concatenate(rows), np.concatenate(targets)
        coefficients = np.linalg.lstsq(weight[:, None] * equations, weight * right, rcond=None)[0]
        return cls(centre, np.linalg.inv(root), powers, coefficients)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        u = (points - self.centre) @ self.inverse.T / REACH
        inside = (u**2).sum(axis=1) <= 1.0
        return np.where(inside, _terms(u, self.powers) @ self.coefficients, -np.inf)


def _terms(u: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Monomials, shape (n, term)."""
    table = u[:, :, None] ** np.arange(DEGREE + 1)
    out = np.ones((len(u), len(powers)))
    for j in range(u.shape[1]):
        out *= table[:, j, powers[:, j]]
    return out


def draw(
    density: Density,
    centre: np.ndarray,
    covariance: np.ndarray,
    draws: int,
    rng: np.random.Generator,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Sample, float]:
    """Draws of points, and by how much their log weights are off.

    Parameters
    ----------
    density
        ``point (k,) -> (value, gradient)``.
    centre, covariance
        The mode, and the inverse of the curvature there.

    Returns
    -------
    sample, error
        Draws are points; standard deviation in nats of density less polynomial, infinite where the
        density is not finite.
    """
    polynomial = Polynomial.of(density, centre, covariance, rng)
    found = sample(
        lambda points: (polynomial(points), points), centre, covariance, draws, rng, progress, PROPOSALS
    )
    some = found.draws[:CHECKED]  # in random order
    off = np.array([density(point)[0] for point in some]) - polynomial(some)
    return found, float(off.std(ddof=1)) if np.isfinite(off).all() else np.inf
