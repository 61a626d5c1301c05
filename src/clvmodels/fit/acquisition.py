"""How many customers will be won: counts of first purchases, and their response to spend, in PyMC.

Both models are negative binomial. The forecast's monthly rate is a random walk in logarithms with
drift; ahead of the data the drift is damped, so that growth fades instead of compounding::

    log μ_t = level_t + season_t,   level_{t+1} = level_t + growth φ^h + σ ε_t,   A_t ~ NegBin(μ_t, 1/noise²)

with h the number of periods after the last one seen (h = 0 before). The data cannot tell φ; it is
drawn from its prior. Scales of the priors are those of a month; other periods scale them by time.

Drawn by importance sampling. Given the scales (walk, noise, season) everything else is Gaussian a
priori and nearly so a posteriori: scales are proposed from a t at their mode, the rest from its
Gaussian approximation given them, and PyMC's joint density of both makes the weights exact. k-hat
and the effective sample size vouch for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from clvmodels.artifacts import DAYS_PER_UNIT, Check, Summary
from clvmodels.fit import importance
from clvmodels.fit.convergence import ESS_MIN, K_HAT_MAX, copies_of, ess
from clvmodels.fit.maximum import climb

LEAST = 6
"""Periods of history below which there is no trend to speak of."""
DAMPING = (0.8, 0.98)
"""φ per month, uniform: where damped trends are usually estimated (Hyndman and Athanasopoulos,
Forecasting: Principles and Practice, 3rd ed., section 8.2)."""
GROWTH, WALK, NOISE, SEASON = 0.05, 0.08, 0.20, 0.30
"""Prior scales per month: drift (normal), steps of the walk, noise and seasonal effects (half-normal).
The walk's keeps the mean of exp(walk) finite up to 1/0.08² = 156 months."""
DRAWS = 2000
"""At least so many are drawn, so that the gate does not depend on ``fit.draws``."""
STOPPED = 7.0
"""First purchases missing at the end of the log, at the rate before, that a pause by chance does not
explain: exp(-7) is 0.0009."""


def first_purchases(summary: Summary, period: float, since: float = np.inf) -> np.ndarray:
    """Customers won in each period of equal length, counted back from the end of observation.

    Parameters
    ----------
    period
        Length in time units.
    since
        Only periods that lie wholly within this many time units before the end; the log's first
        purchase bounds it too.

    Returns
    -------
    Counts, the oldest period first.
    """
    day = 1.0 if summary.clock == "discrete" else 1.0 / DAYS_PER_UNIT[summary.time_unit]
    span = min(since, float(summary["T"].max()) + day)
    periods = int(np.floor(span / period + 1e-9))
    back = np.floor(summary["T"] / period + 1e-9).astype(int)
    return np.bincount(back[back < periods], minlength=periods)[:periods][::-1].astype(float)


def stopped(summary: Summary, period: float) -> float:
    """Time units without a first purchase at the end of the log, 0 where acquisition goes on.

    A cohort that was closed by design (customers of one quarter, say) has a gap that its rate of
    first purchases before cannot explain.
    """
    T = summary["T"]
    gap, span = float(T.min()), float(T.max() - T.min())
    rate = len(T) / max(span, period)
    return gap if gap > period and rate * gap > STOPPED else 0.0


Batch = Callable[[np.ndarray], np.ndarray]


def _log_density(model: Any) -> tuple[Batch, Callable[[np.ndarray], tuple[float, np.ndarray]]]:
    """PyMC's log density of many points in one call, and of one point with its gradient.

    Without compilation: it would cost more than the few calls that are made.
    """
    import pytensor
    import pytensor.tensor as pt
    from pymc.pytensorf import join_nonshared_inputs
    from pytensor.graph.replace import vectorize_graph

    (value,), point = join_nonshared_inputs(
        point=model.initial_point(), outputs=[model.logp()], inputs=model.value_vars
    )
    points = pt.matrix("points")
    many = pytensor.function([points], vectorize_graph(value, {point: points}), mode="FAST_COMPILE")
    one = pytensor.function([point], [value, pt.grad(value, point)], mode="FAST_COMPILE")

    def single(at: np.ndarray) -> tuple[float, np.ndarray]:
        found, gradient = one(np.ascontiguousarray(at, float))
        return float(found), gradient

    return lambda at: many(np.ascontiguousarray(at, float)), single


@dataclass(frozen=True)
class _Trend:
    """The forecast's model of given counts: PyMC's joint density, and proposals for it.

    A point is the logarithms of the scales, then the Gaussian part: level, growth, steps of the walk
    and seasonal effects, all but the first two standard normal.
    """

    counts: np.ndarray
    season: int
    root: float

    @property
    def scales(self) -> int:
        return 3 if self.season else 2

    @property
    def _centre(self) -> np.ndarray:
        n = len(self.counts)
        recent = np.log(max(self.counts[-min(n, 6) :].mean(), 0.5))
        return np.r_[recent, np.zeros(n + (self.season - 1 if self.season else 0))]

    @property
    def _spread(self) -> np.ndarray:
        return np.r_[1.0, GROWTH * self.root, np.ones(len(self._centre) - 2)]

    def design(self, scales: np.ndarray) -> np.ndarray:
        """Linear map of the Gaussian part to log rates: ``scales[draw, scale] -> [draw, period, part]``."""
        n = len(self.counts)
        back = np.arange(n)[::-1].astype(float)
        later = (np.arange(n - 1)[None, :] < back[:, None]).astype(float)  # steps between period and end
        parts = [
            np.broadcast_to(np.column_stack([np.ones(n), -back]), (len(scales), n, 2)),
            -scales[:, :1, None] * later,
        ]
        if self.season:
            month = np.arange(-n, 0) % self.season
            parts.append(scales[:, 2:3, None] * contrasts(self.season)[month])
        return np.concatenate(parts, axis=2)

    def propose(self, log_scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gaussian approximation given the scales: its mode, and the root of its precision."""
        y, scales = self.counts, np.exp(log_scales)
        design, shape = self.design(scales), scales[:, 1:2] ** -2
        centre, precision = self._centre, self._spread**-2.0
        x = np.tile(centre, (len(scales), 1))
        for _ in range(60):
            rate = np.exp(np.clip((design @ x[:, :, None])[:, :, 0], -30, 30))
            weight = (y + shape) * shape * rate / (shape + rate) ** 2
            slope = y - (y + shape) * rate / (shape + rate)
            gradient = (design.transpose(0, 2, 1) @ slope[:, :, None])[:, :, 0] - (x - centre) * precision
            hessian = design.transpose(0, 2, 1) @ (weight[:, :, None] * design)
            hessian[:, np.arange(len(centre)), np.arange(len(centre))] += precision
            step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
            x = x + step * np.minimum(1.0, 2.0 / np.abs(step).max(axis=1, keepdims=True).clip(1e-300))
            if np.abs(step).max() < 1e-9:
                break
        return x, np.linalg.cholesky(hessian)

    def joint(self) -> Batch:
        """PyMC's log density of points."""
        import pymc as pm
        import pytensor.tensor as pt

        n = len(self.counts)
        later = (np.arange(n - 1)[None, :] < np.arange(n)[::-1][:, None]).astype(float)
        with pm.Model() as model:
            walk = pm.HalfNormal("walk", np.array(WALK * self.root))
            noise = pm.HalfNormal("noise", np.array(NOISE))
            scale = pm.HalfNormal("season_scale", np.array(SEASON)) if self.season else None
            level = pm.Normal("level", np.array(self._centre[0]), np.array(1.0))
            growth = pm.Normal("growth", np.array(0.0), np.array(GROWTH * self.root))
            steps = pm.Normal("steps", np.array(0.0), np.array(1.0), shape=n - 1)
            log_rate = level - growth * np.arange(n)[::-1].astype(float) - walk * (later * steps).sum(axis=1)
            if self.season:
                effects = pm.Normal("effects", np.array(0.0), np.array(1.0), shape=self.season - 1)
                of_month = contrasts(self.season)[np.arange(-n, 0) % self.season]
                log_rate = log_rate + scale * (of_month * effects).sum(axis=1)
            pm.NegativeBinomial(
                "counts", mu=pt.exp(log_rate), alpha=noise**-2.0, observed=self.counts.astype(int)
            )
        return _log_density(model)[0]

    def ahead(
        self, found: np.ndarray, periods: int, months: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rates and counts of the periods to come, shape (draw, period), from points."""
        scales, rest = np.exp(found[:, : self.scales]), found[:, self.scales :]
        walk, noise, level, growth = scales[:, 0], scales[:, 1], rest[:, 0], rest[:, 1]
        damping = rng.uniform(*DAMPING, len(found)) ** months
        drift = np.cumsum(damping[:, None] ** np.arange(1, periods + 1), axis=1)
        steps = np.cumsum(rng.standard_normal((len(found), periods)), axis=1)
        log_rate = level[:, None] + growth[:, None] * drift + walk[:, None] * steps
        if self.season:
            effects = scales[:, 2:3] * (rest[:, 1 + len(self.counts) :] @ contrasts(self.season).T)
            log_rate += effects[:, np.arange(periods) % self.season]
        expected = np.exp(log_rate)
        shape = np.maximum(noise, 1e-6)[:, None] ** -2
        return expected, rng.poisson(expected * rng.gamma(shape, 1 / shape, expected.shape)).astype(float)


def contrasts(k: int) -> np.ndarray:
    """Orthonormal basis of the effects of k levels that sum to zero, shape (k, k - 1)."""
    return np.linalg.svd(np.eye(k) - 1 / k)[0][:, : k - 1]


def trend(
    counts: np.ndarray,
    ahead: int,
    *,
    months: float,
    draws: int,
    seed: np.random.SeedSequence,
    progress: Callable[[str, float | None], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, tuple[Check, ...]]:
    """Forecast of the customers won, from the counts of past periods.

    Parameters
    ----------
    counts
        Past periods, the oldest first.
    ahead
        Periods to forecast.
    months
        Length of a period in months; the periods of a year have seasonal effects where two years are
        seen.
    draws
        Wanted.

    Returns
    -------
    expected, counts, checks
        Shapes (draw, period): the period's rate, and a count drawn at that rate; the convergence
        gate of the draws.
    """
    tell = progress or (lambda stage, share: None)
    tell("acquisition: compiling", None)
    cycle = round(12 / months)
    seasonal = cycle > 1 and abs(12 / months - cycle) < 1e-6 and len(counts) >= 2 * cycle
    model = _Trend(np.asarray(counts, float), cycle if seasonal else 0, float(np.sqrt(months)))
    joint, rng = model.joint(), np.random.default_rng(seed)

    def density(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mode, root = model.propose(points)
        normal = rng.standard_normal(mode.shape)
        x = mode + np.linalg.solve(root.transpose(0, 2, 1), normal[:, :, None])[:, :, 0]
        log_root = np.log(root.diagonal(axis1=1, axis2=2)).sum(axis=1)
        proposed = log_root - 0.5 * (normal**2).sum(axis=1) - 0.5 * x.shape[1] * np.log(2 * np.pi)
        whole = np.column_stack([points, x])
        value = joint(whole) - proposed
        return np.where(np.isfinite(value), value, -np.inf), whole

    def laplace(points: np.ndarray) -> np.ndarray:
        mode, root = model.propose(points)
        whole = np.column_stack([points, mode])
        log_root = np.log(root.diagonal(axis1=1, axis2=2)).sum(axis=1)
        return joint(whole) - log_root

    start = np.log(np.array([WALK * model.root, NOISE, SEASON])[: model.scales] / 2)
    mode = climb(lambda point: _by_differences(laplace, point), start)
    sample = importance.sample(
        density,
        mode.point,
        mode.covariance,
        max(DRAWS, draws),
        rng,
        lambda share: tell("acquisition: importance sampling", share),
    )
    expected, drawn = model.ahead(sample.draws, ahead, months, rng)
    checks = _gate(sample, expected)
    chosen = rng.permutation(len(expected))[:draws]
    return expected[chosen], drawn[chosen], checks


def _by_differences(
    f: Callable[[np.ndarray], np.ndarray], point: np.ndarray, step: float = 1e-3
) -> tuple[float, np.ndarray]:
    """Value and central differences of a smooth function of a few coordinates."""
    moves = step * np.eye(len(point))
    values = f(np.concatenate([point[None], point + moves, point - moves]))
    k = len(point)
    return float(values[0]), (values[1 : k + 1] - values[k + 1 :]) / (2 * step)


def _gate(sample: importance.Sample, expected: np.ndarray) -> tuple[Check, ...]:
    title, advice = "acquisition (forecast)", " Give a plan: future.forecast: plan."
    total = np.log(expected.sum(axis=1))[None]
    size = min(ess(total, copies_of(sample.draws)).values())
    good, enough = bool(sample.k_hat <= K_HAT_MAX), bool(size >= ESS_MIN)
    return (
        Check(
            name="acquisition: k-hat",
            passed=good,
            sentence=f"{title}: k-hat of importance weights is {sample.k_hat:.2f}, limit {K_HAT_MAX}."
            + ("" if good else advice),
            value=sample.k_hat,
            threshold=K_HAT_MAX,
        ),
        Check(
            name="acquisition: ESS",
            passed=enough,
            sentence=f"{title}, customers won: effective sample size is {size:,.0f}, at least {ESS_MIN:.0f} "
            f"needed.{'' if enough else advice}",
            value=size,
            threshold=ESS_MIN,
        ),
    )


LEAST_MONTHS = 12
"""Months of spend below which there is no response to speak of."""


def response(
    spend: np.ndarray, won: np.ndarray, draws: int, seed: np.random.SeedSequence
) -> tuple[np.ndarray, float] | None:
    """Response of monthly acquisitions to spend: ``A_t ~ NegBin(base + top S_t/(half + S_t), 1/noise²)``.

    A concave curve that saturates. Association, not cause: months differ in more than spend.

    Parameters
    ----------
    spend, won
        By month.
    draws
        Wanted.

    Returns
    -------
    draws, k_hat
        base, top, half by draw, shape (draw, 3); None where there are fewer than ``LEAST_MONTHS``
        months, or spend hardly varies (coefficient of variation below 0.2).
    """
    spend, won = np.asarray(spend, float), np.asarray(won, float)
    if len(spend) < LEAST_MONTHS or spend.mean() == 0 or spend.std() < 0.2 * spend.mean() or won.sum() == 0:
        return None
    import pymc as pm

    size, many = spend.mean(), max(won.mean(), 0.5)
    with pm.Model() as model:
        base = pm.HalfNormal("base", np.array(many))
        top = pm.HalfNormal("top", np.array(4 * many))
        half = pm.LogNormal("half", np.array(np.log(size)), np.array(1.0))
        noise = pm.HalfNormal("noise", np.array(NOISE))
        rate = base + top * spend / (half + spend)
        pm.NegativeBinomial("won", mu=rate, alpha=noise**-2.0, observed=won.astype(int))
    values, both = _log_density(model)

    def density(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return values(points), np.exp(points[:, :3])

    start = np.log([many / 2, many, size, NOISE / 2])
    mode = climb(both, start)
    rng = np.random.default_rng(seed)
    sample = importance.sample(density, mode.point, mode.covariance, max(DRAWS, draws), rng)
    return sample.draws[:draws], sample.k_hat
