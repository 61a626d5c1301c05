"""Shocks of single segments, beside those that all customers share.

In week t the log of what segment g bought over what the model expects of it is

    log(y_gt / m_gt) = l_g + c_t + u_gt + e_gt,

with c_t whatever all segments share, of which nothing is assumed; l_g the level of the segment in the
window, which forecasts know from its customers' own purchases and which is not continued; e_gt the
chance of independent customers, whose variance is known; and u_gt a process of the kind of
``fit/shocks.py`` (AR(1) and anchored random walk), independent from segment to segment, whose φ, σ and
τ are those of all segments: small ones borrow from large ones.

Given (φ, σ, τ) everything is normal. With S_g the covariance of l_g + u_g + e_g over the weeks and c
flat, the density of the data and the law of c need P = Σ S_g⁻¹ and b = Σ S_g⁻¹ z_g alone (Rasmussen and
Williams, 2006, Gaussian Processes for Machine Learning, eq. 2.45, with the weeks as flat coefficients):

    log p = -½ [Σ log|S_g| + log|P| + Σ z_gᵀ S_g⁻¹ z_g - bᵀ P⁻¹ b],    c | z ~ N(P⁻¹ b, P⁻¹),

and given c segments are independent. Only differences between segments are learnt: what all of them
do together is left to the shocks that all customers share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clvmodels.fit import importance, shocks

LEVEL = 1.0
"""Prior sd of l_g."""
FEWEST = 2
"""Segments with enough weeks, below which there is nothing to compare."""
LATEST = 104
"""Weeks used at most, the latest."""
SIZES = 400
"""Draws of φ, σ and τ; further draws share them and have their own states."""
UNSEEN = 1e6
"""Variance of a week that does not count."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Posterior draws of the processes of segments, and of their states at the end of the window.

    Attributes
    ----------
    parameters
        φ (per week), σ, τ (per square root of a week) of every segment, shape (draw, 3).
    state
        a and w at the end of the window, shape (draw, segment, 2).
    seen
        Whether a segment has weeks of its own; the others have the prior, shape (segment,).
    k_hat, ess
        Certificate of the draws of ``parameters``, of which there are ``SIZES`` at most.
    """

    parameters: np.ndarray
    state: np.ndarray
    seen: np.ndarray
    k_hat: float
    ess: float

    def factors(self, share: np.ndarray, weeks: int, seed: int) -> Iterator[np.ndarray]:
        """Factor of each segment beside the shared one, week after week beyond the data.

        Parameters
        ----------
        share
            Shares of the segments, shape (segment,), sum 1.

        Yields
        ------
        Shape (draw, segment); their mean with these shares is 1 in every draw.
        """
        rng = np.random.default_rng(seed)
        for a, drift in shocks.ahead(self.parameters, self.state, weeks, rng):
            own = np.exp(a + drift)
            yield own / (own @ share)[:, None]


def adding_up(own: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Factors of segments, scaled alike in every draw so that the segments still add to the same total.

    Parameters
    ----------
    own
        Factor of each segment, shape (..., segment).
    drawn
        What it multiplies, of the same shape.
    """
    whole, moved = drawn.sum(axis=-1), (drawn * own).sum(axis=-1)
    return own * np.divide(whole, moved, out=np.ones_like(moved), where=drawn.any(axis=-1))[..., None]


def estimate(observed: np.ndarray, expected: np.ndarray, draws: int, seed: int) -> Parts | str:
    """Posterior of the shocks of segments, or a sentence why there is none.

    Parameters
    ----------
    observed, expected
        Repeat purchases and what the model expects, shape (segment, week). A week of a segment counts if
        at least ``shocks.LEAST`` are expected at the level of the segment, and if it does for another one.
    """
    observed, expected = (np.asarray(v, float)[:, -LATEST:] for v in (observed, expected))
    weeks = observed.shape[1]
    bought, wanted = (v.sum(axis=1, keepdims=True) for v in (observed, expected))
    expected = expected * np.divide(bought, wanted, out=np.zeros_like(bought), where=wanted > 0)
    usable = np.asarray(expected >= shocks.LEAST)
    usable &= usable.sum(axis=0) >= FEWEST
    enough = int((usable.sum(axis=1) >= shocks.FEWEST).sum())
    if enough < FEWEST:
        return (
            f"{FEWEST} segments need {shocks.FEWEST} weeks with at least {shocks.LEAST:.0f} repeat purchases "
            f"in the same weeks, and {enough} of {len(observed)} have them"
        )
    seen = np.asarray(usable.any(axis=1))
    t = np.flatnonzero(usable.any(axis=0))
    at = np.ix_(seen, t)
    ratios = np.zeros((seen.sum(), len(t)))
    ratios[usable[at]] = np.log((observed[at] + 0.5) / (expected[at] + 0.5))[usable[at]]
    noise = np.where(usable[at], 1 / (observed[at] + 0.5), UNSEEN)
    process = _Joint.of(ratios, noise, t, weeks)
    rng = np.random.default_rng(seed)
    mode, spread = process.mode()
    sizes = min(draws, SIZES)
    sample = importance.sample(lambda points: (process.density(points), points), mode, spread, sizes, rng)
    found = shocks.native(sample.draws)
    parameters = found[np.arange(draws) % sizes]
    state = np.empty((draws, len(observed), 2))
    for k, one in enumerate(found):
        state[k::sizes] = process.end(one, seen, len(range(k, draws, sizes)), rng)
    return Parts(parameters=parameters, state=state, seen=seen, k_hat=sample.k_hat, ess=sample.ess)


@dataclass(frozen=True, kw_only=True)
class _Joint:
    """The normal model of all segments with weeks of their own.

    ``z`` and ``noise`` are of shape (segment, week); the weeks that count are ``back`` before the end.
    """

    z: np.ndarray
    noise: np.ndarray
    back: np.ndarray
    lag: np.ndarray
    walk: np.ndarray
    walk_end: np.ndarray
    walk_last: float

    @classmethod
    def of(cls, z: np.ndarray, noise: np.ndarray, t: np.ndarray, weeks: int) -> _Joint:
        time = t + 1.0
        share = (1 / (noise + 0.04)).sum(axis=0)  # the anchor of all: by what the weeks tell
        walk, walk_end, walk_last = shocks.anchored(time, share / share.sum(), weeks)
        return cls(
            z=z,
            noise=noise,
            back=weeks - time,
            lag=np.abs(np.subtract.outer(time, time)),
            walk=walk,
            walk_end=walk_end,
            walk_last=walk_last,
        )

    def inverses(self, phi: float, sigma: float, tau: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Lower triangles of S_g⁻¹, shape (segment, week, week); S_g⁻¹ z_g; and Σ log|S_g|."""
        from scipy.linalg import lapack

        signal = sigma**2 * phi**self.lag + tau**2 * self.walk + LEVEL**2
        inverse, pulled, size = np.empty((len(self.z), *signal.shape)), np.empty_like(self.z), 0.0
        for g, (z, noise) in enumerate(zip(self.z, self.noise, strict=True)):
            root, failed = lapack.dpotrf((signal + np.diag(noise)).T, lower=1, overwrite_a=1)
            if failed:
                raise np.linalg.LinAlgError(f"the covariance of segment {g} is not positive definite")
            size += 2 * float(np.log(np.diag(root)).sum())
            pulled[g] = lapack.dpotrs(root, z, lower=1)[0]
            inverse[g] = lapack.dpotri(root, lower=1)[0]
        return inverse, pulled, size

    def density(self, points: np.ndarray) -> np.ndarray:
        """Log posterior, up to a constant, at points of :func:`shocks.native`, shape (point,)."""
        out = np.empty(len(points))
        for k, (point, parameters) in enumerate(zip(points, shocks.native(points), strict=True)):
            inverse, pulled, size = self.inverses(*parameters)
            root = np.linalg.cholesky(inverse.sum(axis=0))  # which reads the lower triangle
            common = np.linalg.solve(root, pulled.sum(axis=0))
            fit = (self.z * pulled).sum() - common @ common
            out[k] = -0.5 * (size + 2 * np.log(np.diag(root)).sum() + fit + point @ point)
        return out

    def mode(self) -> tuple[np.ndarray, np.ndarray]:
        """The densest point and the covariance there."""
        from scipy.optimize import minimize

        def loss(point: np.ndarray) -> float:
            return -float(self.density(point[None])[0])

        found = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 0.01, "fatol": 0.01}).x
        return found, importance.inverse_curvature(loss, found)

    def end(
        self, parameters: np.ndarray, seen: np.ndarray, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Draws of (a, w) of every segment in the last week, given all that was observed.

        Returns
        -------
        Shape (count, segment, 2); segments that are not ``seen`` have the prior.
        """
        phi, sigma, tau = parameters
        lower, pulled, _ = self.inverses(phi, sigma, tau)
        inverse = np.tril(lower) + np.tril(lower, -1).transpose(0, 2, 1)
        precision = inverse.sum(axis=0)
        mean = np.linalg.solve(precision, pulled.sum(axis=0))
        root = np.linalg.cholesky(precision)
        common = mean[:, None] + np.linalg.solve(root.T, rng.standard_normal((len(mean), count)))
        cross = np.column_stack([sigma**2 * phi**self.back, tau**2 * self.walk_end])
        prior = np.diag([sigma**2, tau**2 * self.walk_last])
        gain = inverse @ cross
        told = np.zeros((count, len(seen), 2))
        told[:, seen] = np.einsum("gtk,gtn->ngk", gain, self.z[..., None] - common)
        left = np.repeat(prior[None], len(seen), axis=0)
        left[seen] -= np.einsum("tj,gtk->gjk", cross, gain)
        value, axes = np.linalg.eigh(left)
        spread = axes * np.sqrt(np.maximum(value, 0))[:, None, :]
        noise = np.einsum("gjk,ngk->ngj", spread, rng.standard_normal(told.shape))
        return told + noise - np.array([sigma**2 / 2, 0.0])
