"""Forecasts made from past days, held against what happened after them.

At an *origin* the models know the log as it stood on that day. :func:`evaluate` turns a posterior of
that day into an :class:`Origin`: predictive, latent and expected draws of what its customers would do
over several horizons, scored by what they did; what naive rules would have said; and, week by week,
what was expected and what came, which is the ground for a level of uncertainty that all customers
share. :func:`coverage` and the functions after it sum the origins up.

Origins whose horizons overlap repeat one another. Every count is therefore given twice: of all origins,
and of the most that can be chosen without overlap (``separate``), from which the binomial band of a
coverage is made.

References
----------
Gneiting and Raftery (2007), Strictly proper scoring rules, J. American Statistical Association 102.
Krüger, Lerch, Thorarinsdottir and Gneiting (2021), Predictive inference based on Markov chain Monte
Carlo output, International Statistical Review 89(2): the log score by a mixture over parameters.
Fader, Hardie and Lee (2005), RFM and CLV, Journal of Marketing Research 42(4): actual counts times
expected spend, which separates the error of spend from that of purchases.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels.artifacts import Assumptions, Intensity, Posterior, Summary
from clvmodels.data.history import History
from clvmodels.fit import segments
from clvmodels.numerics.discounting import Flow
from clvmodels.validate import systematic
from clvmodels.validate.compare import ranked_probability
from clvmodels.value import AnyValuation
from clvmodels.value import horizons as ahead
from clvmodels.value import valuation as any_valuation
from clvmodels.value.horizons import MEASURES

RECORD = 5
"""Changes when what an :class:`Origin` holds changes; kept origins of another number are made anew."""
LEVELS = ("expected", "latent", "predictive", "systematic")
SHARED = "shared"
"""Level systematic of segments that have shocks of their own, as it would be without them."""
PROBABILITIES = (0.50, 0.80, 0.90, 0.95)
BAND = 0.95
"""Probability of the binomial band that a coverage is held against."""
DRAWS = 1000
"""Draws of every forecast, spread evenly over the posterior; fewer of many customers, see ``WORK``."""
FEWEST = 400
WORK = 25_000_000
"""Customers times draws, beyond which draws are reduced to not fewer than ``FEWEST``."""
THIN = 100
"""Draws of which weekly expectations are kept."""
ENOUGH = 5
"""Separate origins below which errors of a horizon cannot be estimated."""
GROUPS = 12
"""Segments of a column that are scored on their own; the rest are scored together."""
OTHERS = "(others)"
BINS = 10
"""Classes of equal size of the reliability curve, and of customers by value."""
RULES = {
    "last period": "as many as in the period of equal length before",
    "trailing mean": "the mean of the last 52 weeks, or of all that was seen",
    "last year": "as many as in the same period one year (52 weeks) before",
}
YEAR_DAYS = 364
_WEEK = 7


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """How far ahead: ``steps`` counted days, or periods of a discrete clock."""

    label: str
    steps: int


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One origin: what was forecast on that day, and what happened.

    Attributes
    ----------
    date
        Last day that the models saw.
    reason
        Why nothing was scored; None where it was.
    customers
        Customers known by then.
    horizons
        Labels of the horizons that lie inside the log.
    parameters
        Role → ``family``, ``mean`` and ``sd`` of the native parameters over the posterior, and
        ``maximum`` with ``log_likelihood``.
    scores
        One row per horizon, measure, level and group; ``column`` and ``group`` are empty for all
        customers. ``log_score`` (nats) where the level is predictive and all customers are meant.
        Segments that have shocks of their own are scored at level systematic with these, and at level
        ``shared`` by the path of all customers.
    split
        One row per horizon: revenue ``actual``, ``given_count`` (expected spend times actual
        purchases) and ``expected``; ``spend_error`` and ``purchase_error`` are their log ratios.
    naive
        One row per horizon, measure and rule: ``forecast``, the model's ``mean`` (level predictive) and
        ``mean_systematic`` (None where there are no shocks), ``actual``.
    decisions
        One row per horizon: top-decile capture, Gini coefficients, Brier scores.
    reliability
        One row per horizon and bin: customers, mean ``predicted`` and ``observed`` share of buyers.
    weather
        Shared shocks: posterior means and sds of their parameters, k-hat and effective draws of
        ``orders`` and ``baskets``, or the ``reason`` why there are none; where a column was named
        whose segments have their own, ``segments``: the same of these, ``by`` and the number ``seen`` with
        weeks of their own, or ``by`` and ``reason``.
    data
        xarray Dataset, None where nothing was scored. Weeks are counted from the origin, backwards
        (``week``) and forwards (``later``), each named by its last day; on a discrete clock periods
        take their place. Totals are of the customers known at the origin, first purchases left out.

        ==============================  ============================  ===============================
        variable                        dims                          content
        ==============================  ============================  ===============================
        ``window_orders``, ``_revenue`` week                          what happened in the window
        ``window_expected_orders``      thin, week                    expected of these customers given
                                                                      their first days and parameters
        ``window_expected_revenue``     thin, week                    times the population's mean spend
        ``window_level``, ``_anchor``   week                          level of baskets within customers, and
                                                                      the weeks' weights in what the
                                                                      forecast rests on; left out where
                                                                      nothing tells them
        ``window_level_noise``          week, week_too                covariance of the level's logarithm
        ``later_orders``, ``_revenue``  later                         what happened after it
        ``later_expected_orders``,      thin, later                   expected given parameters and
        ``_revenue``                                                  histories
        ``total``                       level, measure, horizon, draw totals up to each horizon
        ``actual``                      measure, horizon              their truth
        ==============================  ============================  ===============================

        ``thin`` holds positions on ``draw``: parameters of the one are those of the other.
    intensity
        Of the calendar in the weeks of the window (:mod:`clvmodels.validate.calendar`), None where it
        is even. The window's expectations are then those at intensity one.
    """

    date: dt.date
    customers: int
    horizons: tuple[str, ...] = ()
    reason: str | None = None
    parameters: Mapping[str, Any] | None = None
    scores: tuple[Mapping[str, Any], ...] = ()
    split: tuple[Mapping[str, Any], ...] = ()
    naive: tuple[Mapping[str, Any], ...] = ()
    decisions: tuple[Mapping[str, Any], ...] = ()
    reliability: tuple[Mapping[str, Any], ...] = ()
    weather: Mapping[str, Any] | None = None
    data: Any = None
    intensity: tuple[float, ...] | None = None

    def to_dataset(self) -> Any:
        """Everything as one xarray Dataset; what is not an array is in the attribute ``clvmodels``."""
        import xarray as xr

        rest = {k: v for k, v in vars(self).items() if k != "data"} | {"date": self.date.isoformat()}
        found = xr.Dataset() if self.data is None else self.data
        return found.assign_attrs(clvmodels=json.dumps(rest), record=RECORD)

    @classmethod
    def from_dataset(cls, found: Any) -> Origin:
        """Inverse of :meth:`to_dataset`."""
        rest = json.loads(found.attrs["clvmodels"])
        rest["date"] = dt.date.fromisoformat(rest["date"])
        rest["intensity"] = None if rest.get("intensity") is None else tuple(rest["intensity"])
        for name in ("horizons", "scores", "split", "naive", "decisions", "reliability"):
            rest[name] = tuple(rest[name])
        return cls(data=found if found.data_vars else None, **rest)


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """Origins of one config on one log, in order of time."""

    origins: tuple[Origin, ...]
    horizons: tuple[Horizon, ...]
    currency: str
    time_unit: str
    clock: str

    @property
    def scored(self) -> tuple[Origin, ...]:
        """Origins whose draws passed the gate."""
        return tuple(origin for origin in self.origins if origin.reason is None)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Rows ``scores``, ``split``, ``naive``, ``decisions`` or ``reliability`` of every scored origin."""
        return [{"origin": o.date.isoformat(), **row} for o in self.scored for row in getattr(o, name)]

    def save(self, path: Path) -> None:
        """Write one netCDF file with a group for each origin."""
        import xarray as xr

        about = {k: v for k, v in vars(self).items() if k not in ("origins", "horizons")}
        about["horizons"] = [asdict(h) for h in self.horizons]
        tree = {"/": xr.Dataset(attrs={"backtest": json.dumps(about)})}
        tree |= {f"/{o.date.isoformat()}": o.to_dataset() for o in self.origins}
        xr.DataTree.from_dict(tree).to_netcdf(path, engine="h5netcdf")

    @classmethod
    def load(cls, path: Path) -> Backtest:
        """Read what :meth:`save` wrote."""
        import xarray as xr

        with xr.open_datatree(path, engine="h5netcdf") as tree:
            about = json.loads(tree.attrs["backtest"])
            origins = [Origin.from_dataset(tree[name].to_dataset().load()) for name in sorted(tree.children)]
        about["horizons"] = tuple(Horizon(**h) for h in about["horizons"])
        return cls(origins=tuple(origins), **about)


def evaluate(
    history: History,
    summary: Summary,
    position: np.ndarray,
    posterior: Posterior,
    margin: np.ndarray,
    horizons: Sequence[Horizon],
    seed: int,
    intensity: Intensity | None = None,
    events: Sequence[systematic.Event] = (),
    by: str | None = None,
) -> Origin:
    """Forecast from an origin and compare with what happened.

    Parameters
    ----------
    history
        The whole log.
    summary, position
        As ``history.at`` makes them at the origin.
    posterior
        Fitted to that summary. A single parameter vector is repeated: its predictive level then
        leaves the uncertainty of parameters out.
    margin
        Margin ratio of each customer.
    horizons
        Ascending, all inside the log.
    seed
        Of the draws.
    intensity
        Of the calendar, where the summary is in times of its clock.
    events
        Known to the shared shocks, past and planned.
    by
        Segment column whose segments have shocks of their own; the summary was made with their days.
    """
    origin = summary.observation_end
    draws = posterior.thinned(draws_for(len(summary)))
    lengths = [horizon.steps / history.per_unit for horizon in horizons]
    plain = Assumptions(
        margin=margin, margin_source="", annual_discount_rate=0.0, units_per_year=1.0, horizon=lengths[-1]
    )
    valuation = any_valuation(summary, draws, plain, seed)
    nobody = np.zeros((len(summary), 1), np.int64)
    mean = ahead.expected(valuation, [Flow(delta=0.0, horizon=length) for length in lengths], nobody, 1)
    member, names = _groups(summary, mean.margin[:, -1], seed)
    own = None if by is None else summary.segments[by]
    finer, size = member, len(names)
    if own is not None:  # every segment on its own, behind the groups that are scored
        finer, size = np.column_stack([member, own.codes + size]), size + len(own.labels)
    drawn = ahead.simulated(valuation, lengths, finer, size)
    weeks, few, back = _weeks(history, summary, position, draws, plain, horizons[-1].steps, seed, intensity)
    worth = mean.orders[:, -1] * mean.spend
    weather = _weather(history, summary, weeks, draws, worth, seed, events)
    if by is not None and weather.orders is not None:
        weather = systematic.apart_by(weather, few, by, history.per_unit, back, len(draws), seed, intensity)
    ways = _ways(history, weather, weeks, horizons, len(draws), seed)
    factor, predictive = ways.factor, drawn.predictive[:, 0]
    moved = factor[:, None] * drawn.predictive[:, len(names) :]
    if own is not None and isinstance(weather.parts, segments.Parts):
        expected = mean.orders[:, -1], worth, mean.margin[:, -1]
        share = np.stack([np.bincount(own.codes, some, len(own.labels)) for some in expected])
        moved = moved * ways.beside(weather.parts, share, drawn.predictive[:, len(names) :], seed)
    total = np.stack([mean.total[:, 0], drawn.latent[:, 0], predictive, predictive * factor])

    scores, split, naive, decisions, reliability, actual = [], [], [], [], [], []
    for k, horizon in enumerate(horizons):
        count, paid = history.repeats(position, origin, history.after(origin, horizon.steps))
        truth = np.stack([count, paid, margin * paid])
        actual.append(truth.sum(axis=1))
        about = {"horizon": horizon.label}
        for m, measure in enumerate(MEASURES):
            for j, level in enumerate(LEVELS):
                if np.isnan(total[j, m, k]).any():
                    continue
                row = score(total[j, m, k], float(truth[m].sum()))
                if level in ("predictive", "systematic"):
                    given = total[0, m, k] * (factor[m, k] if level == "systematic" else 1.0)
                    row["log_score"] = log_score(given, total[j, m, k], float(truth[m].sum()))
                scores.append(about | _of(measure, level, "", "", len(summary)) | row)
            for g, (column, group) in enumerate(names[1:], start=1):
                inside = (member == g).any(axis=1)
                came = float(truth[m][inside].sum())
                part = drawn.predictive[m, g, k]
                levels = {"predictive": part, "systematic": part * factor[m, k]}
                if own is not None and column == by:
                    levels[SHARED] = levels["systematic"]
                    levels["systematic"] = moved[m, np.unique(own.codes[inside]), k].sum(axis=0)
                for level, part in levels.items():
                    if np.isfinite(part).all():
                        found = _of(measure, level, column, group, int(inside.sum())) | score(part, came)
                        scores.append(about | found)
        given = float((mean.spend * count).sum())
        split.append(about | _split(float(paid.sum()), given, float(mean.total[1, 0, k].mean())))
        naive += [about | row for row in _naive(history, position, origin, horizon, truth, total[2:, :, k])]
        decisions.append(about | _decisions(history, position, origin, horizon, truth, mean, drawn, k))
        reliability += [about | row for row in reliable(drawn.bought[:, k], count > 0)]
    return Origin(
        date=origin,
        customers=len(summary),
        horizons=tuple(horizon.label for horizon in horizons),
        parameters=described(posterior),
        scores=tuple(scores),
        split=tuple(split),
        naive=tuple(naive),
        decisions=tuple(decisions),
        reliability=tuple(reliability),
        weather=_described(weather),
        data=_dataset(weeks, total, np.array(actual).T, horizons, summary.currency),
        intensity=None if intensity is None else tuple(map(float, intensity.value)),
    )


def draws_for(customers: int) -> int:
    """How many draws forecasts of so many customers are made of."""
    return max(FEWEST, min(DRAWS, WORK // max(customers, 1)))


def described(posterior: Posterior) -> dict[str, Any]:
    """Posterior means and standard deviations of the parameters, and the likelihood's maximum."""
    out = {}
    for role, part in (("purchases", posterior.purchases), ("spend", posterior.spend)):
        means, spreads = part.flat.mean(axis=0), part.flat.std(axis=0)
        out[role] = {
            "family": part.family,
            "mean": dict(zip(part.parameters, means.tolist(), strict=True)),
            "sd": dict(zip(part.parameters, spreads.tolist(), strict=True)),
            "maximum": dict(part.maximum),
        }
    return out


def _groups(summary: Summary, value: np.ndarray, seed: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Groups of each customer, shape (customer, grouping), and (column, group) of every group.

    The first grouping is everybody; the second the customers by expected margin in ten classes, the best
    first, ties in random order; then the segments.
    """
    n = len(summary)
    names = [("", "")]
    columns = [np.zeros(n, np.int64)]
    shuffled = np.random.default_rng([seed, 5]).permutation(n)
    order = shuffled[np.argsort(-value[shuffled], kind="stable")]
    decile = np.empty(n, np.int64)
    decile[order] = np.arange(n) * BINS // n
    columns.append(decile + len(names))
    names += [("value decile", str(k + 1)) for k in range(BINS)]
    for column, segment in summary.segments.items():
        size = np.bincount(segment.codes, minlength=len(segment.labels))
        shown = np.argsort(-size, kind="stable")[:GROUPS]
        place = np.full(len(segment.labels), len(shown))
        place[shown] = np.arange(len(shown))
        columns.append(place[segment.codes] + len(names))
        names += [(column, segment.labels[k]) for k in shown]
        if len(shown) < len(segment.labels):
            names.append((column, OTHERS))
    return np.ascontiguousarray(np.column_stack(columns)), names


def _of(measure: str, level: str, column: str, group: str, customers: int) -> dict[str, Any]:
    return {"measure": measure, "level": level, "column": column, "group": group, "customers": customers}


# --- one forecast, one truth ---------------------------------------------------------------------


def score(draws: np.ndarray, actual: float) -> dict[str, Any]:
    """Draws of a total held against its truth.

    Returns
    -------
    dict
        ``actual``, ``mean``, ``sd``; ``pit`` (share of draws at or below the truth); ``z``;
        ``log_ratio`` (log of truth over mean; None where either is not above 0); ``crps`` (unit of the
        total); ``low_p``, ``high_p`` and ``inside_p`` of the equal-tailed interval of each probability.
    """
    mean, sd = float(draws.mean()), float(draws.std(ddof=1))
    row: dict[str, Any] = {
        "actual": actual,
        "mean": mean,
        "sd": sd,
        "pit": float((draws <= actual).mean()),
        "z": (actual - mean) / sd if sd > 0 else None,
        "log_ratio": float(np.log(actual / mean)) if actual > 0 and mean > 0 else None,
        "crps": ranked_probability(draws, actual),
        "log_score": None,
    }
    for probability in PROBABILITIES:
        low, high = np.quantile(draws, [(1 - probability) / 2, (1 + probability) / 2])
        name = f"{100 * probability:.0f}"
        row |= {f"low_{name}": float(low), f"high_{name}": float(high)}
        row[f"inside_{name}"] = bool(low <= actual <= high)
    return row


def log_score(expected: np.ndarray, predictive: np.ndarray, actual: float) -> float | None:
    """Log predictive density of a total, in nats, by a mixture over parameter draws.

    Given the parameters the total is a sum over many independent customers, nearly normal around
    its expectation; its variance is the mean square of ``predictive - expected`` draw by draw.

    Parameters
    ----------
    expected, predictive
        Draw d of both has the same parameters, shape (draw,).
    """
    from scipy.special import logsumexp
    from scipy.stats import norm

    sd = float(np.sqrt(((predictive - expected) ** 2).mean()))
    if sd == 0:
        return None
    return float(logsumexp(norm.logpdf(actual, expected, sd)) - np.log(len(expected)))


def _split(actual: float, given_count: float, expected: float) -> dict[str, Any]:
    def ratio(a: float, b: float) -> float | None:
        return float(np.log(a / b)) if a > 0 and b > 0 else None

    return {
        "actual": actual,
        "given_count": given_count,
        "expected": expected,
        "spend_error": ratio(actual, given_count),
        "purchase_error": ratio(given_count, expected),
    }


def _naive(
    history: History,
    position: np.ndarray,
    origin: dt.date,
    horizon: Horizon,
    truth: np.ndarray,
    drawn: np.ndarray,
) -> list[dict[str, Any]]:
    """Totals that need no model, for the same customers; a rule that the log is too short for is left out.

    Parameters
    ----------
    drawn
        Totals at levels predictive and systematic, shape (2, measure, draw); NaN where there are no shocks.
    """
    first = int(history.number(history.first)) - 1
    now, year = int(history.number(origin)), _year(history)
    seen = min(now - first, year)
    spans = {"trailing mean": (now - seen, now, horizon.steps / seen)}
    if now - horizon.steps >= first:
        spans["last period"] = now - horizon.steps, now, 1.0
    if now - year >= first and horizon.steps <= year:
        spans["last year"] = now - year, now - year + horizon.steps, 1.0
    rows = []
    for rule in RULES:
        if rule in spans:
            low, high, factor = spans[rule]
            found = history.weekly(position, np.array([low, high]))
            for m, measure in enumerate(MEASURES[:2]):
                rows.append(
                    {
                        "measure": measure,
                        "rule": rule,
                        "forecast": factor * float(found[m][0]),
                        "mean": float(drawn[0, m].mean()),
                        "mean_systematic": (
                            float(drawn[1, m].mean()) if np.isfinite(drawn[1, m]).all() else None
                        ),
                        "actual": float(truth[m].sum()),
                    }
                )
    return rows


def _year(history: History) -> int:
    """Counted days (periods) that the same season lies back: 52 weeks, or a year of periods."""
    if history.counted == "day":
        return YEAR_DAYS
    return {"week": 52, "month": 12, "year": 1}[history.counted]


def _decisions(
    history: History,
    position: np.ndarray,
    origin: dt.date,
    horizon: Horizon,
    truth: np.ndarray,
    mean: ahead.Expected,
    drawn: ahead.Simulated,
    k: int,
) -> dict[str, Any]:
    """What a decision by customer would have been worth, by the model and by naive rules."""
    realised, bought = truth[2], truth[0] > 0
    now = int(history.number(origin))
    before = history.after(origin, -horizon.steps)
    last_count, last_paid = history.repeats(position, before, origin)
    spent = history.repeats(
        position, history.after(origin, int(history.number(history.first)) - 1 - now), origin
    )[1]
    gini = [gini_of(drawn.sampled[:, k, d]) for d in range(drawn.sampled.shape[2])]
    chance = drawn.bought[:, k]
    return {
        "top_decile": captured(realised, mean.margin[:, k]),
        "top_decile_last_period": captured(realised, last_paid),
        "top_decile_spend_so_far": captured(realised, spent),
        "top_decile_best": captured(realised, realised),
        "gini": gini_of(realised),
        "gini_model": float(np.mean(gini)),
        "gini_model_low": float(np.quantile(gini, 0.05)),
        "gini_model_high": float(np.quantile(gini, 0.95)),
        "buyers": float(bought.mean()),
        "buyers_model": float(chance.mean()),
        "brier": float(((chance - bought) ** 2).mean()),
        "brier_last_period": float((((last_count > 0) * 1.0 - bought) ** 2).mean()),
        "brier_share": float(bought.mean() * (1 - bought.mean())),
    }


def captured(realised: np.ndarray, ranking: np.ndarray, share: float = 0.1) -> float | None:
    """Share of what was realised that the best ``share`` of customers by a ranking hold.

    Customers tied at the edge count with the fraction of them that still fits.
    """
    total = float(realised.sum())
    if total <= 0:
        return None
    wanted = share * len(realised)
    edge = np.sort(ranking)[::-1][int(np.ceil(wanted)) - 1]
    above, tied = ranking > edge, ranking == edge
    fraction = (wanted - above.sum()) / tied.sum()
    return float((realised[above].sum() + fraction * realised[tied].sum()) / total)


def gini_of(values: np.ndarray) -> float:
    """Gini coefficient of values that are not negative; NaN where all are 0."""
    ordered = np.sort(values)
    n, total = len(ordered), ordered.sum()
    if total <= 0:
        return float("nan")
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def reliable(chance: np.ndarray, bought: np.ndarray) -> list[dict[str, Any]]:
    """Customers in classes of equal size by their probability of buying: predicted and observed."""
    order = np.argsort(chance, kind="stable")
    rows = []
    for number, some in enumerate(np.array_split(order, BINS), start=1):
        if len(some):
            rows.append(
                {
                    "bin": number,
                    "customers": len(some),
                    "predicted": float(chance[some].mean()),
                    "observed": float(bought[some].mean()),
                }
            )
    return rows


# --- week by week --------------------------------------------------------------------------------


def _weeks(
    history: History,
    summary: Summary,
    position: np.ndarray,
    draws: Posterior,
    plain: Assumptions,
    steps: int,
    seed: int,
    intensity: Intensity | None,
) -> tuple[dict[str, Any], AnyValuation, np.ndarray]:
    """Purchases and revenue by week before and after the origin, actual and expected.

    Returns
    -------
    The weeks; the valuation of the draws ``thin``; the window's edges in days (periods) before the origin,
    ascending.
    """
    width = 1 if history.clock == "discrete" else _WEEK
    now, first = int(history.number(summary.observation_end)), int(history.number(history.first))
    back = (now - first + 1) // width
    edges = now - width * np.arange(back, -1, -1)
    later = now + np.unique(np.r_[width * np.arange(steps // width + 1), steps])
    thin = np.linspace(0, len(draws) - 1, min(THIN, len(draws))).round().astype(int)
    few = any_valuation(summary, draws.picked(thin), plain, seed)

    out: dict[str, Any] = {"thin": thin}
    out["week"] = _last_days(history, edges[1:])
    out["later"] = _last_days(history, later[1:])
    out["window_orders"], out["window_revenue"] = history.weekly(position, edges)
    out["later_orders"], out["later_revenue"] = history.weekly(position, later)
    ago = now - (edges if intensity is None else intensity.clock(edges))[::-1]
    orders, revenue = ahead.in_window(few, history.per_unit, ago)
    rate = 1.0 if intensity is None else intensity.value
    out["window_expected_orders"] = orders[:, ::-1] / rate
    out["window_expected_revenue"] = revenue[:, ::-1] / rate
    bounds = (later - now) / history.per_unit
    flows = [Flow(delta=0.0, start=low, horizon=high) for low, high in itertools.pairwise(bounds)]
    found = ahead.expected(few, flows, np.zeros((len(summary), 1), np.int64), 1).total[:, 0]
    out["later_expected_orders"], out["later_expected_revenue"] = found[0].T, found[1].T
    return out, few, (now - edges)[::-1]


def _weather(
    history: History,
    summary: Summary,
    weeks: dict[str, Any],
    draws: Posterior,
    worth: np.ndarray,
    seed: int,
    events: Sequence[systematic.Event],
) -> systematic.Weather:
    """The shared shocks of the window.

    ``worth`` is the expected revenue of each customer; the levels that are found go into ``weeks``.
    """
    expected, calendar = weeks["window_expected_orders"].mean(axis=0), summary.calendar
    spread = systematic.spend_variation(draws.spend, summary, seed)
    within = None
    if spread.between > 0:
        weight = systematic.anchor(summary, len(calendar.returns), worth, spread)
        within = systematic.within_customers(calendar, len(expected), weight)
    if within is not None:
        weeks["window_level"] = within.observed / within.expected
        weeks["window_anchor"], weeks["window_level_noise"] = within.anchor, within.noise
    days = np.concatenate([weeks["week"], weeks["later"]]).astype("datetime64[D]")
    edges = np.concatenate([days[:1] - (days[1] - days[0]), days])
    return systematic.estimate(
        weeks["window_orders"], expected, weeks["window_revenue"], spread.total, len(draws), seed,
        systematic.doses(events, edges), within,
    )  # fmt: skip


@dataclass(frozen=True)
class _Ways:
    """Paths of the shared shocks from an origin on: ``factor`` on each total, shape (measure, horizon, draw);
    ``paths`` by measure, shape (draw, week); the ``flow`` that weighs them, shape (week,); and the number of
    weeks ``until`` each horizon."""

    factor: np.ndarray
    paths: tuple[np.ndarray, ...]
    flow: tuple[np.ndarray, ...]
    until: list[int]

    def beside(self, parts: segments.Parts, share: np.ndarray, drawn: np.ndarray, seed: int) -> np.ndarray:
        """Factors of segments beside the shared ones, with which they add to the total in every draw.

        Parameters
        ----------
        share
            Expected amounts, shape (measure, segment).
        drawn
            Totals at level predictive, shape (measure, segment, horizon, draw).

        Returns
        -------
        The shape of ``drawn``.
        """
        out = np.ones_like(drawn)
        for m, (weight, some) in enumerate(zip(share, drawn, strict=True)):
            if weight.sum() > 0:
                last = np.moveaxis(some, 0, -1)
                own = systematic.beside(parts, weight, self.paths[m], self.flow[m], self.until, seed + 2)
                out[m] = np.moveaxis(segments.adding_up(own, last), -1, 0)
        return out


def _ways(
    history: History,
    weather: systematic.Weather,
    weeks: Mapping[str, Any],
    horizons: Sequence[Horizon],
    draws: int,
    seed: int,
) -> _Ways:
    """The paths of the weather; factors are NaN where it could not be estimated."""
    width = 1 if history.clock == "discrete" else _WEEK
    until = [max(1, -(-horizon.steps // width)) for horizon in horizons]
    by_orders, by_revenue = (weeks[f"later_expected_{name}"].mean(axis=0) for name in ("orders", "revenue"))
    if weather.orders is None:
        orders = revenue = np.full((draws, len(by_orders)), np.nan)
    else:
        orders, revenue = weather.paths(len(by_orders), seed)
    paths, flow = (orders, revenue, revenue), (by_orders, by_revenue, by_revenue)
    factor = [systematic.factors(one, weight, until) for one, weight in zip(paths, flow, strict=True)]
    return _Ways(np.stack(factor), paths, flow, until)


def _described(weather: systematic.Weather) -> dict[str, Any]:
    """What an origin records of its weather."""

    def sizes(parameters: np.ndarray) -> dict[str, Any]:
        return {
            key: {"mean": float(column.mean()), "sd": float(column.std())}
            for key, column in zip(("persistence", "shock", "step"), parameters.T, strict=True)
        }

    if weather.orders is None:
        return {"reason": weather.reason}
    out: dict[str, Any] = {
        name: {
            **sizes(part.parameters),
            **(
                {"slope": {"mean": float(part.slope.mean()), "sd": float(part.slope.std())}}
                if part.slope is not None
                else {}
            ),
            "weeks": part.used,
            "season": part.season,
            "k_hat": part.k_hat,
            "ess": part.ess,
        }
        for name, part in (("orders", weather.orders), ("baskets", weather.baskets))
        if part is not None
    }
    own = weather.parts
    if isinstance(own, segments.Parts):
        out["segments"] = {
            "by": weather.by, **sizes(own.parameters), "seen": int(own.seen.sum()), "of": len(own.seen),
            "k_hat": own.k_hat, "ess": own.ess,
        }  # fmt: skip
    elif own is not None:
        out["segments"] = {"by": weather.by, "reason": own}
    return out


def _last_days(history: History, numbers: np.ndarray) -> np.ndarray:
    from clvmodels.data import periods

    return periods.last_day(numbers, history.counted)


def _dataset(
    weeks: Mapping[str, Any],
    total: np.ndarray,
    actual: np.ndarray,
    horizons: Sequence[Horizon],
    currency: str,
) -> Any:
    import xarray as xr

    def dims(name: str) -> tuple[str, ...]:
        if name == "window_level_noise":
            return "week", "week_too"
        along = "week" if name.startswith("window") else "later"
        return ("thin", along) if "expected" in name else (along,)

    variables: dict[str, Any] = {
        name: (dims(name), values, {"unit": _unit(name, currency)})
        for name, values in weeks.items()
        if name not in ("thin", "week", "later")
    }
    variables["total"] = ("level", "measure", "horizon", "draw"), total
    variables["actual"] = ("measure", "horizon"), actual
    coords: dict[str, Any] = {
        "thin": weeks["thin"],
        "week": weeks["week"].astype("datetime64[ns]"),
        "later": weeks["later"].astype("datetime64[ns]"),
        "level": list(LEVELS),
        "measure": list(MEASURES),
        "horizon": [horizon.label for horizon in horizons],
        "steps": ("horizon", [horizon.steps for horizon in horizons]),
    }
    return xr.Dataset(variables, coords=coords, attrs={"currency": currency})


def _unit(name: str, currency: str) -> str:
    return "1" if "level" in name or "anchor" in name else currency if "revenue" in name else "orders"


# --- many origins --------------------------------------------------------------------------------


def separate(numbers: Sequence[int], steps: int) -> int:
    """The most origins that can be chosen so that their horizons do not overlap.

    Parameters
    ----------
    numbers
        Origins as days (periods), ascending.
    """
    return len(apart(numbers, steps))


def apart(numbers: Sequence[int], steps: int) -> list[int]:
    """Positions of the most origins that can be chosen without overlap, the latest of them, ascending."""
    chosen: list[int] = []
    for k in range(len(numbers) - 1, -1, -1):
        if not chosen or numbers[k] + steps <= numbers[chosen[-1]]:
            chosen.append(k)
    return chosen[::-1]


def band(count: int, probability: float) -> tuple[float, float] | None:
    """Shares between which a coverage of ``count`` independent origins lies with probability ``BAND``."""
    from scipy.stats import binom

    if not count:
        return None
    low, high = binom.ppf([(1 - BAND) / 2, (1 + BAND) / 2], count, probability)
    return float(low / count), float(high / count)


def coverage(backtest: Backtest, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """Coverage, bias and sharpness by horizon, measure, level and group.

    Parameters
    ----------
    numbers
        Origin (ISO date) → number of its day (period).

    Returns
    -------
    list of dict
        ``origins``, ``separate``, ``mean_z``, ``rms_z``, ``log_ratio`` (mean), ``bias`` (sum of truths
        over sum of means, less 1), ``crps``, ``relative_crps`` (over the mean truth), ``log_score``,
        ``width_90`` (mean, over the mean of means); for each probability ``coverage_p``, ``band_p``
        (low, high) and ``within_p``, whether the coverage lies in the band.
    """
    return summed(backtest.rows("scores"), backtest.horizons, numbers)


def summed(
    scores: Sequence[Mapping[str, Any]], horizons: Sequence[Horizon], numbers: Mapping[str, int]
) -> list[dict[str, Any]]:
    """:func:`coverage` of rows of scores."""
    steps = {horizon.label: horizon.steps for horizon in horizons}
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in scores:
        key = tuple(row[name] for name in ("horizon", "measure", "level", "column", "group"))
        found.setdefault(key, []).append(row)
    out = []
    for (horizon, measure, level, column, group), rows in found.items():
        alone = separate(sorted(numbers[row["origin"]] for row in rows), steps[horizon])
        z = np.array([row["z"] for row in rows if row["z"] is not None])
        ratios = [row["log_ratio"] for row in rows if row["log_ratio"] is not None]
        logs = [row["log_score"] for row in rows if row["log_score"] is not None]
        actual = np.array([row["actual"] for row in rows])
        mean = np.array([row["mean"] for row in rows])
        crps = float(np.mean([row["crps"] for row in rows]))
        width = float(np.mean([row["high_90"] - row["low_90"] for row in rows]))
        entry: dict[str, Any] = {
            "horizon": horizon, "measure": measure, "level": level, "column": column, "group": group,
            "origins": len(rows), "separate": alone,
            "mean_z": float(z.mean()) if len(z) else None,
            "rms_z": float(np.sqrt((z**2).mean())) if len(z) else None,
            "log_ratio": float(np.mean(ratios)) if ratios else None,
            "bias": float(actual.sum() / mean.sum() - 1) if mean.sum() > 0 else None,
            "crps": crps,
            "relative_crps": crps / float(actual.mean()) if actual.mean() > 0 else None,
            "log_score": float(np.mean(logs)) if logs else None,
            "width_90": width / float(mean.mean()) if mean.mean() > 0 else None,
        }  # fmt: skip
        for probability in PROBABILITIES:
            name = f"{100 * probability:.0f}"
            share = float(np.mean([row[f"inside_{name}"] for row in rows]))
            limits = band(alone, probability)
            entry |= {f"coverage_{name}": share, f"band_{name}": limits}
            entry[f"within_{name}"] = limits is not None and limits[0] <= share <= limits[1]
        out.append(entry)
    return out


def over_segments(rows: Sequence[Mapping[str, Any]], by: str) -> list[dict[str, Any]]:
    """Segments of a column that have shocks of their own, all together, with these and without.

    Parameters
    ----------
    rows
        Of :func:`coverage`.

    Returns
    -------
    list of dict
        By horizon, measure and level (``systematic``, and ``shared`` by the path of all customers):
        ``segments``; their ``forecasts``, one at each origin; ``coverage_p`` and ``rms_z`` of these;
        ``relative_crps`` and ``width_90``, means over segments. There are no bands: segments of one
        origin are not independent.
    """
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["column"] == by and row["level"] in ("systematic", SHARED):
            found.setdefault((row["horizon"], row["measure"], row["level"]), []).append(row)
    out = []
    for (horizon, measure, level), some in found.items():
        count = [row["origins"] for row in some]
        known = [row for row in some if row["rms_z"] is not None]
        squares = sum(row["rms_z"] ** 2 * row["origins"] for row in known)
        entry: dict[str, Any] = {
            "horizon": horizon, "measure": measure, "level": level,
            "segments": len(some), "forecasts": sum(count),
            "rms_z": float(np.sqrt(squares / sum(row["origins"] for row in known))) if known else None,
        }  # fmt: skip
        for name in ("relative_crps", "width_90"):
            values = [row[name] for row in some if row[name] is not None]
            entry[name] = float(np.mean(values)) if values else None
        for probability in PROBABILITIES:
            name = f"coverage_{100 * probability:.0f}"
            entry[name] = float(np.average([row[name] for row in some], weights=count))
        out.append(entry)
    return out


def rules(backtest: Backtest) -> list[dict[str, Any]]:
    """Errors of the naive rules and of the model on the origins where the rule exists.

    Returns
    -------
    list of dict
        By horizon, measure and rule: ``origins``, ``error`` and ``model_error`` (sum of absolute errors
        over sum of truths), ``systematic_error`` (of the mean of level systematic; None where an origin has
        none), and ``wins``, whether the rule's is smaller than the model's.
    """
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in backtest.rows("naive"):
        found.setdefault((row["horizon"], row["measure"], row["rule"]), []).append(row)
    out = []
    for (horizon, measure, rule), rows in found.items():
        total = sum(row["actual"] for row in rows)
        errors = [sum(abs(row[name] - row["actual"]) for row in rows) for name in ("forecast", "mean")]
        error, model = (value / total if total > 0 else None for value in errors)
        drawn = [row["mean_systematic"] for row in rows]
        shocked = None
        if total > 0 and None not in drawn:
            apart = (abs(mean - row["actual"]) for mean, row in zip(drawn, rows, strict=True))
            shocked = sum(apart) / total
        out.append(
            {
                "horizon": horizon,
                "measure": measure,
                "rule": rule,
                "origins": len(rows),
                "error": error,
                "model_error": model,
                "systematic_error": shocked,
                "wins": error is not None and model is not None and error < model,
            }
        )
    order = [horizon.label for horizon in backtest.horizons]
    ranks = list(RULES)
    return sorted(
        out, key=lambda row: (order.index(row["horizon"]), row["measure"], ranks.index(row["rule"]))
    )


def pooled_reliability(backtest: Backtest) -> list[dict[str, Any]]:
    """Reliability by horizon and bin, customers of all origins together."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in backtest.rows("reliability"):
        found.setdefault((row["horizon"], row["bin"]), []).append(row)
    out = []
    for (horizon, number), rows in sorted(found.items(), key=lambda item: item[0][1]):
        size = np.array([row["customers"] for row in rows], float)
        means = {
            name: float(np.average([row[name] for row in rows], weights=size))
            for name in ("predicted", "observed")
        }
        out.append({"horizon": horizon, "bin": number, "customers": int(size.sum())} | means)
    return out
