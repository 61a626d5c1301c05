"""Shocks that move all customers together: promotions, seasons, the economy, what a model leaves out.

Customers are independent given the parameters on paper only. In period t the log of what was
observed over what the model expects is

    log(y_t / m_t) = s_t + e_t,    s_t = a_t + w_t + season_t + events_t,

with e_t the chance of independent customers, whose variance is known; a_t a stationary AR(1) of
standard deviation σ and persistence φ, with mean -σ²/2, so that exp(a_t) has mean 1; and w_t a
slow random walk with step sd τ, anchored: its weighted mean over the window is 0, because the
parameters of the model were estimated there. From two years on a yearly season (two harmonics) is
seen, and known events are regressors. All terms are normal given (φ, σ, τ), so they integrate out
in closed form (Rasmussen and Williams, 2006, Gaussian Processes for Machine Learning, eq. 2.30);
the three that remain are drawn by the same certified importance sampling as the models.

Beyond the data a_t falls back at rate φ, and w_t to the window's mean with a half-life of
``HALF_LIFE``: a window cannot tell whether what drifts will drift for ever, and with a walk without
end the prior of τ alone would decide what an infinite horizon is worth. exp(a_t) and exp(w_t) keep
the mean that their centres give: shocks widen a forecast, they do not lift it.

A process may follow the passing shocks a' of another, that of baskets those of purchases: one more term
κ (a'_t - σ'²/2), whose mean weighed by exp(a') is 0. The window tells a' by its posterior mean, which leaves
κ unbiased, for E[κ a'_t | what leads] = κ E[a'_t | what leads] (Carroll, Ruppert, Stefanski and Crainiceanu,
2006, Measurement Error in Nonlinear Models, ch. 4: regression calibration). Drift is not followed: of two
slow movements a window sees too little to tell whether they belong together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from clvmodels.fit import importance
from clvmodels.fit.convergence import K_HAT_MAX

SHOCK = 0.3
"""Prior sd of σ (half-normal): a common shock of 30 % is large."""
STEP = 0.03
"""Prior sd of τ (half-normal) per square root of a week: 22 % after a year."""
HALF_LIFE = 104.0
"""Weeks in which half of a drift is taken back, beyond the data."""
EVENT = 0.7
"""Prior sd of the log effect of an event: half or double."""
SEASON = 0.2
"""Prior sd of each coefficient of the yearly season."""
HARMONICS = 2
FOLLOWING = 0.5
"""Prior sd of κ: baskets 5 % larger or smaller where purchases are a tenth above what is expected."""
TRUSTED = K_HAT_MAX
YEAR = 52.1775
"""Weeks."""
FEWEST = 13
"""Periods with an expectation below which shocks cannot be estimated."""
LEAST = 5.0
"""Expected purchases of a period below which log(y/m) is too far from normal: it is left out."""
MOST = 156
"""Periods used at most, the latest: older weather says little about tomorrow's."""


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """What was observed and what a model expected of it, by week.

    Attributes
    ----------
    observed, expected
        Totals (or means) of week t, shape (week,), the last week ends with the window.
    noise
        Variance of log(observed/expected) if customers were independent, shape (week,);
        ``inf`` where nothing was expected; or its covariance, shape (week, week), ``inf`` on the diagonal
        of such weeks.
    anchor
        Weights of the weeks over which the random walk has mean 0, shape (week,); None: by what the weeks
        tell, as the model's own estimates weigh them.
    events
        0/1 or dose, shape (week + later weeks, event): known for the past and planned beyond.
    leader
        ``passing`` of a process that this one may follow, shape (week,).
    """

    observed: np.ndarray
    expected: np.ndarray
    noise: np.ndarray
    events: np.ndarray | None = None
    anchor: np.ndarray | None = None
    leader: np.ndarray | None = None

    @classmethod
    def of_counts(
        cls, observed: np.ndarray, expected: np.ndarray, events: np.ndarray | None = None
    ) -> Ratios:
        """Poisson counts: the variance of log(y + 1/2) is 1/(y + 1/2) to first order."""
        observed, expected = np.asarray(observed, float), np.asarray(expected, float)
        noise = np.where(expected >= LEAST, 1 / (observed + 0.5), np.inf)
        return cls(observed=observed + 0.5, expected=expected + 0.5, noise=noise, events=events)


@dataclass(frozen=True, kw_only=True)
class Shocks:
    """Posterior draws of the process and of its state at the end of the window.

    Attributes
    ----------
    parameters
        φ (per week), σ, τ (per square root of a week), shape (draw, 3).
    state
        a and w at the end of the window, shape (draw, 2).
    loads
        Coefficients of season and events, shape (draw, coefficient).
    weeks
        Length of the window; ``used``: weeks with an expectation.
    k_hat, ess
        Certificate of the draws.
    passing
        a_t - σ²/2 in each week of the window, its mean given all weeks at the densest (φ, σ, τ), shape
        (week,).
    slope
        κ, shape (draw,); None where nothing leads.
    """

    parameters: np.ndarray
    state: np.ndarray
    loads: np.ndarray
    weeks: int
    used: int
    season: bool
    events: np.ndarray | None
    k_hat: float
    ess: float
    passing: np.ndarray | None = None
    slope: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.parameters)

    def steps(self, weeks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Passing shocks a and drift in each week after the window, of :func:`ahead`, shape (draw, week)."""
        found = list(ahead(self.parameters, self.state, weeks, np.random.default_rng(seed)))
        a, drift = (np.stack(part, axis=1) for part in zip(*found, strict=True))
        return a, drift

    def path(self, weeks: int, seed: int) -> np.ndarray:
        """Factor on everybody's rate in each week after the window, shape (draw, week)."""
        a, drift = self.steps(weeks, seed)
        out = a + drift
        later = np.arange(self.weeks, self.weeks + weeks)
        design = _design(later, self.season, None if self.events is None else self.events[self.weeks :])
        if design.shape[1]:
            out[:, : len(design)] += self.loads @ design.T
        return np.exp(out)

    def following(self, leader: Shocks, weeks: int, seed: int) -> np.ndarray:
        """Factor by which this process follows ``leader`` along the path of ``seed``, shape (draw, week).

        Its mean weighed by the leader's exp(a) is 1.
        """
        if self.slope is None:
            return np.ones((len(self), weeks))
        slope, variance = self.slope[:, None], leader.parameters[:, 1:2] ** 2
        return np.exp(slope * (leader.steps(weeks, seed)[0] - variance / 2) - slope**2 * variance / 2)

    def drifting(self, other: Shocks) -> Shocks:
        """This process with the drift of another in place of its own: draws are paired by position."""
        return replace(
            self,
            parameters=np.column_stack([self.parameters[:, :2], other.parameters[:, 2]]),
            state=np.column_stack([self.state[:, 0], other.state[:, 1]]),
            used=min(self.used, other.used),
            k_hat=max(self.k_hat, other.k_hat),
            ess=min(self.ess, other.ess),
        )


def ahead(
    parameters: np.ndarray, state: np.ndarray, weeks: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The process beyond the data, week by week, on the log and without season and events.

    Parameters
    ----------
    parameters
        φ, σ, τ, shape (draw, 3).
    state
        a and w in the last week of the window, shape (draw, 2) or (draw, segment, 2).

    Yields
    ------
    a, and w less what keeps the mean of exp(w), shape (draw,) or (draw, segment) each.
    """
    a, w = state[..., 0], state[..., 1]
    phi, sigma, tau = (column.reshape(-1, *[1] * (a.ndim - 1)) for column in parameters.T)
    centre, inner = -(sigma**2) / 2, sigma * np.sqrt(1 - phi**2)
    pull, spread = 0.5 ** (1 / HALF_LIFE), np.zeros_like(tau)
    for _ in range(weeks):
        a = centre + phi * (a - centre) + inner * rng.standard_normal(a.shape)
        w = pull * w + tau * rng.standard_normal(w.shape)
        spread = pull**2 * spread + tau**2
        yield a, w - spread / 2


def anchored(time: np.ndarray, share: np.ndarray, weeks: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Of a random walk with τ = 1 whose mean, weighed by ``share``, is 0: the covariance of the weeks
    ``time`` (counted from 1), that with its last value, and the variance of the last value."""
    walk = np.minimum.outer(time, time)
    mean = walk @ share
    return (
        walk - mean - mean[:, None] + share @ mean,
        time - mean - share @ time + share @ mean,
        float(weeks - 2 * share @ time + share @ mean),
    )


def estimate(ratios: Ratios, draws: int, seed: int) -> Shocks | str:
    """Posterior of the common shocks of a window, or a sentence why there is none.

    Parameters
    ----------
    ratios
        Weeks without an expectation are left out, not taken as quiet.
    draws
        Draws wanted.

    Returns
    -------
    Shocks
        Independent of the draws of any model; paired with them by position.
    """
    found = _process(ratios)
    if isinstance(found, str):
        return found
    process, events = found
    rng = np.random.default_rng(seed)
    mode, spread = process.mode()
    sample = importance.sample(lambda points: (process.density(points), points), mode, spread, draws, rng)
    parameters = native(sample.draws)
    state, loads = process.end(parameters, rng)
    slope = None
    if ratios.leader is not None:
        loads, slope = loads[:, :-1], loads[:, -1]
    passing = np.zeros(len(ratios.observed))
    passing[len(passing) - process.weeks :] = process.passing(native(mode[None])[0])
    return Shocks(
        parameters=parameters, state=state, loads=loads, weeks=process.weeks, used=len(process.z),
        season=process.season, events=events, k_hat=sample.k_hat, ess=sample.ess,
        passing=passing, slope=slope,
    )  # fmt: skip


def _process(ratios: Ratios) -> tuple[_Process, np.ndarray | None] | str:
    """The normal model of a window's latest weeks and their events, or why there is none."""
    first = max(0, len(ratios.observed) - MOST)
    observed, expected, noise = (
        np.asarray(v, float)[first:] for v in (ratios.observed, ratios.expected, ratios.noise)
    )
    noise = np.diag(noise) if noise.ndim == 1 else noise[:, first:]
    events = None if ratios.events is None else np.asarray(ratios.events, float)[first:]
    usable = np.isfinite(np.diagonal(noise)) & (expected > 0) & (observed > 0)
    if usable.sum() < FEWEST:
        return (
            f"shared shocks need {FEWEST} weeks in which at least {LEAST:.0f} repeat purchases were "
            f"expected, and the window has {usable.sum()}"
        )
    weeks = len(observed)
    season = weeks >= 2 * YEAR
    design = _design(np.arange(weeks), season, None if events is None else events[:weeks])
    prior = _loads_variance(season, 0 if events is None else events.shape[1])
    if ratios.leader is not None:
        design = np.column_stack([design, np.asarray(ratios.leader, float)[first:]])
        prior = np.append(prior, FOLLOWING**2)
    process = _Process.of(
        np.log(observed[usable] / expected[usable]),
        noise[np.ix_(usable, usable)],
        np.flatnonzero(usable),
        weeks,
        design,
        prior,
        season,
        None if ratios.anchor is None else np.asarray(ratios.anchor, float)[first:][usable],
    )
    return process, events


def profile(ratios: Ratios) -> np.ndarray | str:
    """The shared factor in every week of a window, smoothed as much as its weeks ask for.

    Posterior mean of its logarithm at the densest (φ, σ, τ); weeks without an expectation are filled in
    from their neighbours.

    Returns
    -------
    Shape (week,), or a sentence why it cannot be estimated. Weeks before the latest ``MOST`` have 1.
    """
    found = _process(ratios)
    if isinstance(found, str):
        return found
    process, _ = found
    point, _ = process.mode()
    out = np.zeros(len(ratios.observed))
    out[len(out) - process.weeks :] = process.smoothed(native(point[None])[0])
    return np.exp(out)


@dataclass(frozen=True, kw_only=True)
class _Process:
    """The normal model of one window: covariances of the weeks ``t`` that were observed.

    ``walk`` is that of the anchored random walk with τ = 1, ``walk_end`` with its last value, of
    variance ``walk_last``; ``loading`` that of season and events. ``time`` counts the observed weeks
    from 1, ``share`` is their weight in the anchor, ``every`` the design of all weeks.
    """

    z: np.ndarray
    noise: np.ndarray
    back: np.ndarray
    lag: np.ndarray
    walk: np.ndarray
    walk_end: np.ndarray
    walk_last: float
    design: np.ndarray
    prior: np.ndarray
    loading: np.ndarray
    weeks: int
    season: bool
    time: np.ndarray
    share: np.ndarray
    every: np.ndarray

    @classmethod
    def of(
        cls,
        z: np.ndarray,
        noise: np.ndarray,
        t: np.ndarray,
        weeks: int,
        design: np.ndarray,
        prior: np.ndarray,
        season: bool = False,
        anchor: np.ndarray | None = None,
    ) -> _Process:
        """The model of the weeks ``t``, ``noise`` and ``anchor`` of these alone, as of :class:`Ratios`."""
        every, design = design, design[t]
        noise = np.diag(noise) if noise.ndim == 1 else noise
        # The models' own estimates weigh weeks by what they tell.
        share = 1 / (np.diagonal(noise) + 0.04) if anchor is None else anchor
        share = share / share.sum()
        time = t + 1.0
        walk, walk_end, walk_last = anchored(time, share, weeks)
        return cls(
            z=z,
            noise=noise,
            back=weeks - time,
            lag=np.abs(np.subtract.outer(time, time)),
            walk=walk,
            walk_end=walk_end,
            walk_last=walk_last,
            design=design,
            prior=prior,
            loading=(design * prior) @ design.T,
            weeks=weeks,
            season=season,
            time=time,
            share=share,
            every=every,
        )

    def covariance(self, phi: np.ndarray, sigma: np.ndarray, tau: np.ndarray) -> np.ndarray:
        """Of the observations, shape (point, t, t)."""
        phi, sigma, tau = (v[:, None, None] for v in (phi, sigma, tau))
        return sigma**2 * phi**self.lag + tau**2 * self.walk + self.loading + self.noise

    def density(self, points: np.ndarray) -> np.ndarray:
        """Log posterior, up to a constant, at points of :func:`native`, shape (point,)."""
        phi, sigma, tau = native(points).T
        root = np.linalg.cholesky(self.covariance(phi, sigma, tau))
        scaled = np.linalg.solve(root, (self.z + sigma[:, None] ** 2 / 2)[..., None])[..., 0]
        log_determinant = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
        return -0.5 * (scaled**2).sum(1) - log_determinant - 0.5 * (points**2).sum(1)

    def mode(self) -> tuple[np.ndarray, np.ndarray]:
        """The densest point and the covariance there."""
        from scipy.optimize import minimize

        def loss(point: np.ndarray) -> float:
            return -float(self.density(point[None])[0])

        found = minimize(loss, np.zeros(3), method="Nelder-Mead").x
        return found, importance.inverse_curvature(loss, found)

    def smoothed(self, parameters: np.ndarray) -> np.ndarray:
        """Mean of s_t in every week of the window, observed or not, given all that was observed."""
        phi, sigma, tau = parameters
        every = np.arange(1.0, self.weeks + 1)
        low = np.minimum.outer(every, self.time)
        mean = np.minimum.outer(self.time, self.time) @ self.share
        walk = low - (low @ self.share)[:, None] - mean + self.share @ mean
        lag = np.abs(np.subtract.outer(every, self.time))
        cross = sigma**2 * phi**lag + tau**2 * walk + (self.every * self.prior) @ self.design.T
        total = self.covariance(*parameters[:, None])[0]
        return cross @ np.linalg.solve(total, self.z + sigma**2 / 2) - sigma**2 / 2

    def passing(self, parameters: np.ndarray) -> np.ndarray:
        """Mean of a_t - σ²/2 in every week of the window, given all that was observed."""
        phi, sigma, _ = parameters
        lag = np.abs(np.subtract.outer(np.arange(1.0, self.weeks + 1), self.time))
        total = self.covariance(*parameters[:, None])[0]
        return sigma**2 * phi**lag @ np.linalg.solve(total, self.z + sigma**2 / 2) - sigma**2

    def end(self, parameters: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws of (a, w) in the last week and of the coefficients, given all that was observed."""
        size = 2 + len(self.prior)
        out = np.empty((len(parameters), size))
        for d, (phi, sigma, tau) in enumerate(parameters):
            total = self.covariance(*np.array([[phi], [sigma], [tau]]))[0]
            cross = np.column_stack(
                [sigma**2 * phi**self.back, tau**2 * self.walk_end, self.design * self.prior]
            )
            gain = np.linalg.solve(total, cross).T
            mean = gain @ (self.z + sigma**2 / 2) - np.eye(size)[0] * sigma**2 / 2
            before = np.diag(np.concatenate([[sigma**2, tau**2 * self.walk_last], self.prior]))
            left, axes = np.linalg.eigh(before - gain @ cross)
            out[d] = mean + axes @ (np.sqrt(np.maximum(left, 0)) * rng.standard_normal(size))
        return out[:, :2], out[:, 2:]


def _design(week: np.ndarray, season: bool, events: np.ndarray | None) -> np.ndarray:
    """Columns of season and events, shape (week, coefficient); weeks without a plan have no event."""
    columns = []
    if season:
        for h in range(1, HARMONICS + 1):
            columns += [np.cos(2 * np.pi * h * week / YEAR), np.sin(2 * np.pi * h * week / YEAR)]
    if events is not None:
        known = np.zeros((len(week), events.shape[1]))
        known[: len(events)] = events[: len(week)]
        columns += list(known.T)
    return np.array(columns).T if columns else np.empty((len(week), 0))


def _loads_variance(season: bool, events: int) -> np.ndarray:
    """Prior variances of the coefficients of :func:`_design`."""
    waves = [(SEASON / h) ** 2 for h in range(1, HARMONICS + 1) for _ in range(2)] if season else []
    return np.array([*waves, *[EVENT**2] * events])


def native(points: np.ndarray) -> np.ndarray:
    """Standard normal under the prior → (φ, σ, τ): uniform, half-normal, half-normal."""
    from scipy.special import ndtr, ndtri

    share = np.clip(ndtr(points), 1e-6, 1 - 1e-6)
    phi, *sizes = share.T
    return np.column_stack(
        [phi, *(scale * ndtri((1 + u) / 2) for scale, u in zip((SHOCK, STEP), sizes, strict=True))]
    )
