"""Scores by which models of the same customers are compared, customer by customer.

* :func:`leave_one_out`: how well a family predicts the history of a customer whom it has not seen,
* :func:`holdout`: how well it predicts what the customers did after the end of observation,
* :func:`difference`: two scores compared in pairs, with the standard error of the difference,
* :func:`stack`, :func:`mixture`: weights that predict best together, and what they say of a total.

Leave-one-out scores are made once for each distinct row of statistics and then given to all of its
customers. That is exact: the customers of a row are equal, so leaving out any of them leaves the same data,
and the log predictive density of each is the same number. A row of weight w thus counts as w customers
in sums, in the number of customers and in standard errors.

References
----------
Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out
cross-validation and WAIC, Statistics and Computing 27(5).
Sivula, Magnusson, Matamoros and Vehtari (2020), Uncertainty in Bayesian leave-one-out
cross-validation based model comparison, arXiv 2008.10296.
Yao, Vehtari, Simpson and Gelman (2018), Using stacking to average Bayesian predictive
distributions, Bayesian Analysis 13(3).
Gneiting and Raftery (2007), Strictly proper scoring rules, J. American Statistical Association 102.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clvmodels.artifacts import Assumptions, FamilyPosterior, Posterior, Rows, Summary
from clvmodels.models import registry
from clvmodels.models.family import Family, PurchaseFamily

SMALL = 4.0
"""Differences below this many nats do not tell models apart, whatever their standard error, which is
then itself too small (Sivula et al. 2020)."""
STANDARD_ERRORS = 2.0
"""Differences below this many standard errors do not tell models apart."""
FEW = 100
"""Customers below which the standard error of a difference cannot be trusted (the same source)."""
CUSTOMERS = 20_000
"""Holdout counts are scored for at most this many customers, a seeded subsample of all."""
SCORED_DRAWS = 400
"""Posterior draws, spread evenly, over which the probability of a holdout count is averaged."""
NODES = 20
"""Gauss-Jacobi nodes over the time of a customer's last purchase in the holdout."""
PATHS = 20_000
"""Simulated futures of each distinct history, for families whose probabilities have no quadrature."""

_BLOCK = 4_000_000  # entries of draws × rows held at a time
_ORDINARY = {"frequency", "recency", "T"}


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """Log predictive density of each customer's data, given the data of all others.

    Attributes
    ----------
    of
        The statistics whose density is scored; only equal ones may be compared.
    density
        In nats, shape (customer,); NaN for customers whom the family does not see.
    parameters
        Effective number of parameters: how much better the data are predicted when seen.
    k_hat
        Shape (customer,): how reliable the importance weights are; NaN where there are none.
    k_limit
        k-hat above it is unreliable at this number of draws.
    """

    of: str
    density: np.ndarray
    parameters: float
    k_hat: np.ndarray
    k_limit: float

    @property
    def unreliable(self) -> int:
        """Customers whose k-hat is above its limit."""
        return int((self.k_hat > self.k_limit).sum())


def leave_one_out(summary: Summary, part: FamilyPosterior) -> LeaveOneOut | None:
    """PSIS-LOO of one family by customer.

    Returns
    -------
    LeaveOneOut or None
        None for a posterior mode, which has no draws to re-weight, and for a family that learns nothing
        from amounts. Fixed parameters do not depend on any customer: their score is the log-likelihood.
    """
    from clvmodels.value import Natives

    family, of = registry.get(part.family), scored(registry.get(part.family))
    if of is None or part.sampler == "map":
        return None
    where = summary.spenders if family.role == "spend" else None
    count = len(summary)
    out = {name: np.full(count, np.nan) for name in ("density", "k_hat", "seen")}
    for draws, members in Natives.of(part, summary).groups():
        some = members if where is None else members[where[members]]
        if len(some):
            rows = summary.take(some).fold(family.statistics)
            for name, values in zip(out, _scores(family, part, draws, rows), strict=True):
                out[name][some] = values[rows.index]
    return LeaveOneOut(
        of=of,
        density=out["density"],
        parameters=float(np.nansum(out["seen"] - out["density"])),
        k_hat=out["k_hat"],
        k_limit=min(1 - 1 / np.log10(len(part.flat)), 0.7) if len(part.flat) > 1 else np.nan,
    )


def _scores(
    family: Family, part: FamilyPosterior, draws: np.ndarray, rows: Rows
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leave-one-out density, k-hat and density with all customers seen, each of shape (row,)."""
    from arviz_stats.base import array_stats

    from clvmodels.fit.pointwise import log_density

    density, k_hat = np.empty(len(rows.weight)), np.full(len(rows.weight), np.nan)
    seen = np.empty(len(rows.weight))
    sizes = [size for size in part.diagnostics.get("ess_bulk", {}).values() if size is not None]
    efficiency = min(1.0, min(sizes, default=len(draws)) / len(draws))
    step = max(1, _BLOCK // len(draws))
    for low in range(0, len(rows.weight), step):
        some = slice(low, low + step)
        values = log_density(family, draws, rows.stats[some]).T
        if len(draws) == 1:
            density[some] = seen[some] = values[:, 0]
        else:
            density[some], k_hat[some], gain = array_stats.loo(values, chain_axis=None, r_eff=efficiency)
            seen[some] = density[some] + gain
    return density, k_hat, seen


def scored(family: Family) -> str | None:
    """What a family's log-likelihood is a density of; None where it is one of nothing.

    Purchase families of one clock score the same thing, whatever statistics suffice them: the times of all
    purchases (continuous), or whether there was one at each opportunity (discrete). Spend families
    score the statistics of amounts that they declare.
    """
    if isinstance(family, PurchaseFamily):
        return "purchase times" if family.clock == "continuous" else "purchases at each opportunity"
    amounts = [name for name in family.statistics if name not in _ORDINARY]
    return " and ".join(amounts) or None


def total(score: np.ndarray) -> tuple[float, float]:
    """Sum of a score over its customers, and the standard error of that sum; NaN is left out."""
    score = score[~np.isnan(score)]
    n = len(score)
    return float(score.sum()), float(np.sqrt(n * score.var(ddof=1))) if n > 1 else 0.0


def difference(score: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    """Sum of ``score - best`` over customers, and its standard error, from pairs."""
    return total(score - best)


def told_apart(value: float, error: float) -> bool:
    """Whether a difference of log scores says that one model predicts better than another."""
    return abs(value) >= max(SMALL, STANDARD_ERRORS * error)


# --- what came after the end of observation ------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Predictions of the holdout window against what happened.

    Attributes
    ----------
    expected
        Expected purchases of each customer in the window, posterior mean, shape (customer,).
    expected_spend
        Expected spend of all customers in the window, posterior mean.
    log_score
        Log of the posterior predictive probability of each customer's number of purchases, in nats,
        shape (customer,); NaN for customers left out of the scored subsample.
    method
        ``exact``, or ``simulated``.
    floored
        Simulated only: scored customers whose number of purchases no path showed; their probability is
        set to half a path.
    crps
        Continuous ranked probability score of the total, ``orders`` (purchases) and ``spend``
        (currency); None for a single parameter vector.
    """

    expected: np.ndarray
    expected_spend: float
    log_score: np.ndarray
    method: str
    floored: int
    crps: Mapping[str, float | None]


def holdout(summary: Summary, posterior: Posterior, arrays: Any, seed: int) -> Holdout | None:
    """Score a posterior by the holdout window of its customers; None where there is none.

    Parameters
    ----------
    arrays
        Dataset of :func:`clvmodels.validate.checks.predictive_checks`.
    seed
        Of the scored subsample, which is the same for every model of the same customers.
    """
    from clvmodels.value import Natives

    if not summary.holdout or "holdout_frequency" not in summary.columns:
        return None
    expected, spend = _expected(summary, posterior, seed)
    n = len(summary)
    chosen = np.ones(n, bool)
    if n > CUSTOMERS:
        chosen[:] = False
        chosen[np.random.default_rng([seed, 1]).choice(n, CUSTOMERS, replace=False)] = True
    family = registry.purchases(posterior.purchases.family)
    names = tuple(dict.fromkeys((*family.statistics, *family.state, "holdout_frequency")))
    exact = set(family.statistics) <= _ORDINARY
    score, floored, rng = np.full(n, np.nan), 0, np.random.default_rng([seed, 2])
    for draws, members in Natives.of(posterior.purchases, summary).groups():
        some = members[chosen[members]]
        if not len(some):
            continue
        rows = summary.take(some).fold(names)
        if exact:
            picks = np.linspace(0, len(draws) - 1, min(len(draws), SCORED_DRAWS)).round().astype(int)
            columns = {name: rows[name] for name in family.statistics}
            found = log_count(family, draws[picks], columns, rows["holdout_frequency"], summary.holdout)
        else:
            stats = np.column_stack([rows[name] for name in family.state])
            found, misses = simulated_log_count(
                family, draws, stats, rows["holdout_frequency"], summary.holdout, rng
            )
            floored += int(rows.weight @ misses)
        score[some] = found[rows.index]
    crps: dict[str, float | None] = dict.fromkeys(("orders", "spend"))
    for name in crps:
        if arrays is not None and f"holdout_{name}" in arrays and len(posterior) > 1:
            drawn = arrays[f"holdout_{name}"]
            crps[name] = ranked_probability(drawn.values, float(drawn.attrs["actual"]))
    return Holdout(
        expected=expected,
        expected_spend=spend,
        log_score=score,
        method="exact" if exact else "simulated",
        floored=floored,
        crps=crps,
    )


def _expected(summary: Summary, posterior: Posterior, seed: int) -> tuple[np.ndarray, float]:
    """Expected purchases by customer and expected spend of all in the holdout, posterior means."""
    from clvmodels.value import valuation

    plain = Assumptions(
        margin=np.ones(len(summary)),
        margin_source="not used",
        annual_discount_rate=0.0,
        units_per_year=1.0,
        horizon=summary.holdout,
        horizons={"holdout": summary.holdout},
        band_years=(0.0, summary.holdout),
    )
    orders, spend = np.empty(len(summary)), 0.0
    for tile in valuation(summary, posterior, plain, seed).expected():
        assert tile.details is not None
        by_kind = tile.details["orders_holdout"]
        orders[tile.customers] = by_kind if tile.kind is None else by_kind[tile.kind]
        spend += float(tile.revenue.mean())
    return orders, spend


def log_count(
    family: PurchaseFamily,
    draws: np.ndarray,
    columns: Mapping[str, np.ndarray],
    count: np.ndarray,
    length: float,
) -> np.ndarray:
    """Log of the predictive probability of y purchases in (T, T+H], given each history.

    The likelihood is a density of purchase times, so for a family of x, t_x and T alone

        P(y | history) = ∫ (u-T)^(y-1)/(y-1)! L(x+y, u, T+H) du / L(x, t_x, T),   P(0) = L(x, t_x, T+H) / L,

    where u in (T, T+H] is the last of the y purchases and the factor before L is the volume of the times of
    the others. In discrete time u runs over opportunities, and the volume is a number of ways.

    Parameters
    ----------
    columns
        The family's statistics, each of shape (row,).
    count
        y, shape (row,).
    length
        H in time units.

    Returns
    -------
    Shape (row,), in nats: the log of the mean over draws.
    """
    from scipy.special import gammaln, logsumexp, roots_jacobi

    from clvmodels.fit.pointwise import log_density

    def stats(x: np.ndarray, recency: np.ndarray, T: np.ndarray) -> np.ndarray:
        given = {"frequency": x, "recency": recency, "T": T}
        return np.column_stack([given[name] for name in family.statistics])

    zero = np.zeros(len(count))
    x, t_x, T = (np.asarray(columns.get(name, zero), float) for name in ("frequency", "recency", "T"))
    out = np.empty(len(count))
    for y in np.unique(count):
        if y == 0 or family.role == "contract":  # renewals follow one another
            steps, weights = np.full(1, y), np.zeros(1)
        elif family.clock == "discrete":
            steps = np.arange(y, length + 1)
            weights = gammaln(steps) - gammaln(y) - gammaln(steps - y + 1)
        else:
            nodes, weights = roots_jacobi(NODES, 0.0, y - 1.0)
            steps = length * (1 + nodes) / 2
            weights = np.log(weights / weights.sum()) + y * np.log(length) - gammaln(y + 1)
        rows = np.flatnonzero(count == y)
        size = max(1, _BLOCK // (len(draws) * len(steps)))
        for some in (rows[low : low + size] for low in range(0, len(rows), size)):
            before = log_density(family, draws, stats(x[some], t_x[some], T[some]))
            last = T[some, None] + steps if y else t_x[some, None]
            shape = np.broadcast_shapes(last.shape)
            ahead = stats(
                np.broadcast_to(x[some, None] + y, shape).ravel(),
                last.ravel(),
                np.broadcast_to(T[some, None] + length, shape).ravel(),
            )
            after = log_density(family, draws, ahead).reshape(len(draws), *shape)
            out[some] = logsumexp(logsumexp(after + weights, axis=2) - before, axis=0) - np.log(len(draws))
    return out


def simulated_log_count(
    family: PurchaseFamily,
    draws: np.ndarray,
    stats: np.ndarray,
    count: np.ndarray,
    length: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """What :func:`log_count` gives, by simulation: for families that need more than x, t_x and T.

    Parameters
    ----------
    stats
        Columns ``family.state``, shape (row, statistic).

    Returns
    -------
    log_probability, missed
        Shape (row,) each. Where no path had the count (``missed``) the probability is half a path.
    """
    from clvmodels.numerics import loops

    repeated = np.ascontiguousarray(np.tile(draws, (-(-PATHS // len(draws)), 1)))
    paths, width = len(repeated), len(family.latents)
    hits = np.empty(len(count))
    size = max(1, _BLOCK // paths)
    for low in range(0, len(count), size):
        some = slice(low, low + size)
        block = np.ascontiguousarray(stats[some], float)
        out = np.empty((len(block), paths))
        loops.count_purchases(family.latent, family.gap, repeated, block, length, rng, width, out)
        hits[some] = (out == count[some, None]).sum(axis=1)
    return np.log(np.maximum(hits, 0.5) / paths), hits == 0


def accuracy(actual: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """How far expected counts are from actual ones, over customers.

    Returns
    -------
    dict
        ``bias`` (expected total over actual total, less 1), ``mae`` (mean absolute error), ``rmse``,
        ``relative_error`` (sum of absolute errors over sum of counts) and ``msle`` (mean squared difference
        of log(1 + count)).
    """
    error = expected - actual
    return {
        "bias": float(expected.sum() / actual.sum() - 1) if actual.sum() > 0 else np.nan,
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "relative_error": float(np.abs(error).sum() / actual.sum()) if actual.sum() > 0 else np.nan,
        "msle": float(((np.log1p(expected) - np.log1p(actual)) ** 2).mean()),
    }


def ranked_probability(draws: np.ndarray, actual: float) -> float:
    """CRPS of draws: E|Y - y| - E|Y - Y'|/2, in the unit of y; 0 is perfect, small is good."""
    n = len(draws)
    spread = 2 * (np.sort(draws) @ (2 * np.arange(1, n + 1) - n - 1)) / (n * (n - 1))
    return float(np.abs(draws - actual).mean() - spread / 2)


# --- one distribution from many ------------------------------------------------------------------


def stack(densities: Sequence[np.ndarray]) -> np.ndarray:
    """Weights whose mixture has the highest leave-one-out log predictive density.

    Parameters
    ----------
    densities
        Log predictive densities by customer, one array for each model.

    Returns
    -------
    Shape (model,), not negative, of sum 1.
    """
    from scipy.optimize import minimize

    log = np.column_stack(densities)
    log = log[~np.isnan(log).any(axis=1)]
    distinct, count = np.unique(log, axis=0, return_counts=True)
    density, share = np.exp(distinct - distinct.max(axis=1, keepdims=True)), count / count.sum()

    def loss(weight: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = density @ weight
        return -float(share @ np.log(mixed)), -density.T @ (share / mixed)

    k = density.shape[1]
    found = minimize(
        loss,
        np.full(k, 1 / k),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * k,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    weight = np.clip(found.x, 0, None)
    return weight / weight.sum()


def mixture(draws: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Draws of the mixture: of each model as many, evenly spread, as its weight allows.

    The number of draws is that of the model with the most; shares are rounded by largest remainder.
    """
    size = max(map(len, draws))
    wanted = weights * size
    number = np.floor(wanted).astype(int)
    number[np.argsort(number - wanted, kind="stable")[: size - number.sum()]] += 1
    parts = [
        one[np.linspace(0, len(one) - 1, k).round().astype(int)]
        for one, k in zip(draws, number, strict=True)
        if k
    ]
    return np.concatenate(parts)
