"""Posterior predictive checks: does the fitted model produce data like those observed?

Replicated data sets are simulated from posterior draws with the customers' own acquisition
dates and ages, by the story of the family (``simulate``), and compared with the data in the
ways that matter for value: how often customers buy, when, and how much they spend. Purchases
after the end of observation are compared with predictive draws that are conditional on each
customer's history. Every check states its threshold; the constants below are the thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clvmodels.artifacts import DAYS_PER_UNIT, Assumptions, Check, Posterior, Summary, interval
from clvmodels.models import registry
from clvmodels.numerics.special import ranks

if TYPE_CHECKING:
    from clvmodels.validate.systematic import Weather
    from clvmodels.value import Natives

REPLICATES = 200
"""Replicated data sets, from draws spread evenly over the posterior."""
CUSTOMERS = 20_000
"""Customers beyond this number are thinned to a seeded subsample; sentences say so."""
INTERVAL = 0.90
"""Probability of the predictive intervals that tracking and holdout are held against."""
P_MINIMUM = 0.05
"""Smallest posterior predictive p of a histogram (frequency, recency, spend) that passes."""
STATISTIC_INTERVAL = 0.95
"""Probability of the predictive interval that the zero class, the share of the window's second half and
spend statistics must be in."""
BAND_TAIL = 0.01
"""Tracking passes if the weeks inside the band are at least this quantile of the binomial
distribution that they would follow if the band held for each week independently."""
ERROR_LIMIT = 0.20
"""Largest weekly tracking error that passes: sum of absolute errors over sum of orders."""
CORRELATION_LIMIT = 0.20
"""Largest difference between the observed correlation of spend with frequency and that of
replicated data that passes. At 0.2 frequency explains 4 % of the variance of spend; Fader, Hardie
and Lee (2005) found .11 on CDNOW (.06 without one customer) and judged independence good enough."""
FREQUENCIES = 8
"""Classes of the frequency histogram: 0, 1, ..., and the last is open."""
SPENDS = 10
"""Classes of mean spend, equally probable in replicated data."""
SILENCES = 10
"""Classes of equal width of the time since the last purchase, up to the longest age."""

_WEEK = 7.0
_SPEND_BINS = 40


def predictive_checks(
    summary: Summary, posterior: Posterior, seed: int, weather: Weather | None = None
) -> tuple[tuple[Check, ...], Any]:
    """Compare data and replicated data, in the window and after it.

    Parameters
    ----------
    seed
        Of the replicates, the thinning and the predictive draws of the holdout.
    weather
        Shared shocks of the window, as many draws as the posterior has: the verdict on the holdout is
        then of level systematic.

    Returns
    -------
    checks
        ``frequency_histogram``, ``zero_class``, ``recency``, ``tracking_band``, ``tracking_error``,
        ``window_halves``, ``spend_mean``, ``spend_median``, ``spend_distribution``,
        ``spend_frequency_correlation``, and where a holdout exists ``holdout_orders`` and
        ``holdout_spend``. For a single parameter vector no verdict is given (``passed`` None): it has
        no interval to be inside of.
    arrays
        xarray Dataset for the figures: ``frequency_observed[frequency]`` and
        ``frequency_model[band, frequency]`` (customers), ``silence_observed[silence]`` and
        ``silence_model[band, silence]`` (repeat buyers by time since the last purchase;
        ``silence_edges[silence_edge]`` in time units), ``weekly_observed[week]``,
        ``weekly_model[band, week]`` and the same ``cumulative_*`` (repeat purchases;
        coordinate ``week`` is the last day of the week; on a discrete clock the periods take the
        place of weeks, and a table of summaries has neither), ``spend_observed[bin]`` and
        ``spend_model[band, bin]`` (customers; ``spend_edges[edge]`` in currency),
        ``spend_by_frequency_observed[repeats]`` and ``spend_by_frequency_model[band, repeats]`` (mean
        over buyers of their mean spend, currency; NaN where there is no buyer), and
        ``holdout_orders[draw]``, ``holdout_spend[draw]`` with the truth in the attribute
        ``actual``, and with ``weather`` the same at level systematic, names ending in ``_systematic``.
        ``band`` is low, mean, high of the 90 % predictive interval.
    """
    import xarray as xr

    from clvmodels.value import Natives

    rng = np.random.default_rng([seed, 0])
    n = len(summary)
    chosen = np.arange(n) if n <= CUSTOMERS else np.sort(rng.choice(n, CUSTOMERS, replace=False))
    sample = _Sample(
        summary=summary,
        chosen=chosen,
        rng=rng,
        point=posterior.is_point,
        of="" if len(chosen) == n else f" (on a sample of {len(chosen):,} of {n:,} customers)",
    )
    picks = np.linspace(0, len(posterior) - 1, REPLICATES).round().astype(int)
    attrs = {"interval": INTERVAL, "replicates": REPLICATES, "customers": len(chosen), "holdout": ""}
    attrs["tracking_unit"] = _tracking_unit(summary)

    checks, arrays = _purchases(sample, Natives.of(posterior.purchases, summary), picks)
    for more, extra in (
        _spend(sample, Natives.of(posterior.spend, summary), picks),
        _holdout(sample, posterior, seed, weather, arrays, attrs),
    ):
        checks += more
        arrays |= extra
    coords: dict[str, Any] = {
        "band": ["low", "mean", "high"],
        "frequency": [str(k) for k in range(FREQUENCIES - 1)] + [f"{FREQUENCIES - 1}+"],
    }
    coords["repeats"] = coords["frequency"][1:]
    if "week" in arrays:
        coords["week"] = arrays.pop("week").astype("datetime64[ns]")
    return tuple(checks), xr.Dataset(arrays, coords=coords, attrs=attrs)


Found = tuple[list[Check], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The customers that are replicated, and how sentences name them."""

    summary: Summary
    chosen: np.ndarray
    rng: np.random.Generator
    point: bool
    of: str

    def __getitem__(self, name: str) -> np.ndarray:
        return self.summary[name][self.chosen]

    def verdict(self, passed: bool) -> bool | None:
        """None for a single parameter vector: it has no interval to be inside of."""
        return None if self.point else bool(passed)

    def bands(self, draws: np.ndarray) -> np.ndarray:
        """Low, mean and high over replicates (axis 0)."""
        low, high = np.quantile(draws, [0.5 - INTERVAL / 2, 0.5 + INTERVAL / 2], axis=0)
        if self.point:
            low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
        return np.stack([low, draws.mean(axis=0), high])

    def within(
        self,
        low: float,
        high: float,
        probability: float,
        write: Callable[[float], str],
        level: str = "predictive",
    ) -> str:
        """The interval in words, in brackets; nothing for a single parameter vector."""
        if self.point:
            return ""
        return f" ({_percent(probability)} {level} interval {write(low)} to {write(high)})"


# --- how often and when --------------------------------------------------------------------------


def _purchases(sample: _Sample, natives: Natives, picks: np.ndarray) -> Found:
    """Frequency histogram, zero class and weekly tracking from the same replicates."""
    family, summary, of = registry.purchases(natives.part.family), sample.summary, sample.of
    T = sample["T"]
    born = (summary.first_day[sample.chosen] - np.datetime64(summary.observation_end, "D")).astype(float)
    dates, weekly = _observed_weeks(summary)
    weeks = len(dates)
    days = DAYS_PER_UNIT[summary.time_unit]

    histogram = np.empty((len(picks), FREQUENCIES))
    halves = np.empty((len(picks), 2, weeks))
    silence = np.empty((len(picks), SILENCES))
    edges = np.linspace(0.0, max(float(T.max()), 1e-9), SILENCES + 1)
    for d, theta in enumerate(natives.thetas(picks, sample.chosen)):
        histories = family.simulate(theta, T, sample.rng)
        seen = histories.time <= T[histories.customer]
        owner = histories.customer[seen]
        histogram[d] = _histogram(np.bincount(owner, minlength=len(T)))
        last = np.flatnonzero(np.r_[owner[1:] != owner[:-1], len(owner) > 0])
        silence[d] = np.histogram(T[owner[last]] - histories.time[seen][last], edges)[0]
        if summary.clock == "discrete":
            week = (T[owner] - histories.time[seen]).astype(int)
        else:
            week = _weeks_back(born[owner] + days * histories.time[seen])
        inside = (week >= 0) & (week < weeks)  # a first day counted back from T is off by hours
        key = (owner[inside] % 2) * weeks + weeks - 1 - week[inside]
        halves[d] = np.bincount(key, minlength=2 * weeks).reshape(2, weeks)

    observed = _histogram(sample["frequency"].astype(int)).astype(float)
    bought = sample["frequency"] > 0
    silent = np.histogram((T - sample["recency"])[bought], edges)[0].astype(float)
    zero, zeros = observed[0] / len(T), histogram[:, 0] / len(T)
    low, high = interval(zeros, STATISTIC_INTERVAL)

    arrays: dict[str, Any] = {
        "frequency_observed": ("frequency", observed),
        "frequency_model": (("band", "frequency"), sample.bands(histogram)),
        "silence_edges": ("silence_edge", edges),
        "silence_observed": ("silence", silent),
        "silence_model": (("band", "silence"), sample.bands(silence)),
    }
    tracked = []
    if weeks:
        scale = len(summary) / len(T)
        bands = sample.bands(_to_all(halves, scale))
        arrays |= {
            "week": dates,
            "weekly_observed": ("week", weekly),
            "weekly_model": (("band", "week"), bands),
            "cumulative_observed": ("week", weekly.cumsum()),
            "cumulative_model": (("band", "week"), sample.bands(_to_all(halves.cumsum(axis=2), scale))),
        }
        tracked = [*_tracking(sample, weekly, bands), *_halves(sample, weekly, halves, scale)]
    return [
        _follows(
            sample, "frequency_histogram", "frequency", "Repeat purchases per customer", observed, histogram
        ),
        Check(
            name="zero_class",
            passed=sample.verdict(low <= zero <= high),
            value=float(zero),
            figure="frequency",
            sentence=(
                f"{_percent(zero)} of customers have not bought again; the model expects "
                f"{_percent(zeros.mean())}{sample.within(low, high, STATISTIC_INTERVAL, _percent)}{of}."
            ),
        ),
        _follows(
            sample, "recency", "recency", "Times since the last purchase of repeat buyers", silent, silence
        ),
        *tracked,
    ], arrays


def _follows(
    sample: _Sample, name: str, figure: str, what: str, observed: np.ndarray, replicated: np.ndarray
) -> Check:
    """Chi-square discrepancy of a histogram from its expectation, against that of replicated data.

    Parameters
    ----------
    observed, replicated
        Counts, shapes (class,) and (replicate, class).
    """
    expected = np.maximum(replicated.mean(axis=0), 0.5)
    discrepancy = ((observed - expected) ** 2 / expected).sum()
    usual = ((replicated - expected) ** 2 / expected).sum(axis=1)
    p = float((usual >= discrepancy).mean())
    verdict = sample.verdict(p >= P_MINIMUM)
    return Check(
        name=name,
        passed=verdict,
        value=p,
        threshold=P_MINIMUM,
        figure=figure,
        sentence=(
            f"{what} {'do not follow' if verdict is False else 'follow'} the model's distribution: "
            f"chi-square discrepancy {discrepancy:.1f}, in replicated data {usual.mean():.1f} on average, "
            f"posterior predictive p = {p:.2f} (at least {P_MINIMUM}){sample.of}."
        ),
    )


def _halves(sample: _Sample, observed: np.ndarray, halves: np.ndarray, scale: float) -> list[Check]:
    """Whether one set of parameters holds for both halves of the window.

    Parameters
    ----------
    observed
        Repeat purchases by week, shape (week,).
    halves
        Replicated, of two halves of the customers, shape (replicate, half, week).
    """
    middle = len(observed) // 2
    if not middle or not observed.sum():
        return []
    parts = np.stack([halves[:, :, :middle].sum(axis=2), halves[:, :, middle:].sum(axis=2)], axis=2)
    totals = _to_all(parts, scale)
    model = totals[:, 1] / np.maximum(totals.sum(axis=1), 1.0)
    seen = float(observed[middle:].sum() / observed.sum())
    low, high = interval(model, STATISTIC_INTERVAL)
    verdict = sample.verdict(low <= seen <= high)
    sentence = (
        f"{_percent(seen)} of the window's repeat purchases fall into its second half; with the same "
        f"parameters throughout, the model expects {_percent(model.mean())}"
        f"{sample.within(low, high, STATISTIC_INTERVAL, _percent)}."
    )
    if verdict is False:
        sentence += (
            " Parameters that held all along would not give this: rates changed, or later customers differ "
            "from earlier ones."
        )
    return [
        Check(name="window_halves", passed=verdict, value=seen, figure="tracking", sentence=sentence),
    ]


def _tracking_unit(summary: Summary) -> str:
    return summary.time_unit if summary.clock == "discrete" else "week"


def _observed_weeks(summary: Summary) -> tuple[np.ndarray, np.ndarray]:
    """Last day and repeat purchases of every week of the window, or period of a discrete clock."""
    calendar, end = summary.calendar, np.datetime64(summary.observation_end, "D")
    if not len(calendar.day):
        return calendar.day, calendar.repeat_orders
    if summary.clock == "discrete":
        past = calendar.day <= end
        return calendar.day[past], calendar.repeat_orders[past]
    weeks = int(((end - np.datetime64(summary.observation_start, "D")).astype(int) + 1) // _WEEK)
    weeks = max(weeks, 1)  # of a shorter window, all of it
    back = _weeks_back((calendar.day - end).astype(float))
    inside = (back >= 0) & (back < weeks)
    weekly = np.bincount(weeks - 1 - back[inside], calendar.repeat_orders[inside], weeks)
    return end - (_WEEK * np.arange(weeks - 1, -1, -1)).astype("timedelta64[D]"), weekly


def _histogram(frequency: np.ndarray) -> np.ndarray:
    return np.bincount(np.minimum(frequency, FREQUENCIES - 1), minlength=FREQUENCIES)


def _weeks_back(day: np.ndarray) -> np.ndarray:
    """Whole weeks before the end of observation; week 0 holds days -6 to 0."""
    return np.floor(-day / _WEEK).astype(int)


def _to_all(halves: np.ndarray, scale: float) -> np.ndarray:
    """Replicated totals of all customers from two halves of a subsample of them.

    Given the parameters customers are independent, so the difference of the halves has the
    variance of chance alone; the sum has that and, squared with the number of customers, the
    variance of the parameters. Each part is scaled at its own rate.
    """
    total = halves.sum(axis=1)
    if scale == 1:
        return total
    mean = total.mean(axis=0)
    whole = total.var(axis=0)
    chance = np.minimum((halves[:, 0] - halves[:, 1]).var(axis=0), whole)
    wanted = scale**2 * (whole - chance) + scale * chance
    with np.errstate(invalid="ignore", divide="ignore"):
        stretch = np.where(whole > 0, np.sqrt(wanted / whole), 0.0)
    return np.maximum(scale * mean + stretch * (total - mean), 0.0)


def _tracking(sample: _Sample, observed: np.ndarray, bands: np.ndarray) -> list[Check]:
    from scipy.special import bdtr

    low, mean, high = bands
    weeks = len(observed)
    share = float(((low <= observed) & (observed <= high)).mean())
    below = bdtr(np.arange(weeks + 1.0), weeks, INTERVAL)  # distribution of weeks inside the band
    floor = float(np.searchsorted(below, BAND_TAIL) / weeks)
    verdict = sample.verdict(share >= floor)
    unit = _tracking_unit(sample.summary)
    if sample.point:
        sentence = f"Repeat purchases of {weeks} {unit}s: one parameter vector has no band to lie in."
    else:
        sentence = (
            f"{_percent(share)} of {weeks} {unit}s of repeat purchases lie inside the model's "
            f"{_percent(INTERVAL)} predictive band (at least {_percent(floor)} would if the band held)."
        )
    if verdict is False:
        sentence += (
            f" The {unit}s differ by more than chance: seasons, campaigns or news moved many customers "
            "together, which only level systematic contains."
        )
    error = float(np.abs(observed - mean).sum() / max(observed.sum(), 1))
    return [
        Check(
            name="tracking_band",
            passed=verdict,
            value=None if sample.point else share,
            threshold=floor,
            figure="tracking",
            sentence=sentence,
        ),
        Check(
            name="tracking_error",
            passed=error <= ERROR_LIMIT,
            value=error,
            threshold=ERROR_LIMIT,
            figure="tracking",
            sentence=(
                f"Repeat purchases by {unit} in the window differ from those expected by {_percent(error)} "
                "on average (sum of absolute differences over sum of purchases; at most "
                f"{_percent(ERROR_LIMIT)})."
            ),
        ),
    ]


# --- how much ------------------------------------------------------------------------------------


def _spend(sample: _Sample, natives: Natives, picks: np.ndarray) -> Found:
    """Distribution of mean spend per repeat buyer, and its correlation with frequency."""
    family = registry.spend(natives.part.family)
    x, spend = sample["frequency"], sample["monetary_value"]
    buyers = (x > 0) & (spend > 0)
    x, spend = x[buyers], spend[buyers]
    if len(spend) < 3:
        return [], {}
    thetas = natives.thetas(picks, sample.chosen[buyers])
    replicated = np.stack([family.simulate(theta, x, sample.rng).monetary_value for theta in thetas])
    low, high = np.quantile(spend, [0.005, 0.995])
    edges = np.geomspace(low, max(high, low * 1.01), _SPEND_BINS + 1)
    counts = np.stack([np.histogram(one, edges)[0] for one in replicated])
    arrays = {
        "spend_edges": ("edge", edges),
        "spend_observed": ("bin", np.histogram(spend, edges)[0].astype(float)),
        "spend_model": (("band", "bin"), sample.bands(counts)),
        "spend_by_frequency_observed": ("repeats", _by_frequency(x, spend)),
        "spend_by_frequency_model": (
            ("band", "repeats"),
            sample.bands(np.stack([_by_frequency(x, one) for one in replicated])),
        ),
    }
    checks: list[Check] = []
    for statistic, of_buyers in (("mean", np.mean), ("median", np.median)):
        seen, model = float(of_buyers(spend)), of_buyers(replicated, axis=1)
        low, high = interval(model, STATISTIC_INTERVAL)
        checks.append(
            Check(
                name=f"spend_{statistic}",
                passed=sample.verdict(low <= seen <= high),
                value=seen,
                figure="spend",
                sentence=(
                    f"The {statistic} over repeat buyers of their mean spend is {sample.summary.currency} "
                    f"{seen:,.2f}; the model expects {model.mean():,.2f}"
                    f"{sample.within(low, high, STATISTIC_INTERVAL, '{:,.2f}'.format)}{sample.of}."
                ),
            )
        )
    classes = np.unique(np.quantile(replicated, np.arange(1, SPENDS) / SPENDS))
    size = len(classes) + 1
    checks.append(
        _follows(
            sample,
            "spend_distribution",
            "spend",
            "Mean spends of repeat buyers",
            np.bincount(np.searchsorted(classes, spend), minlength=size).astype(float),
            np.stack([np.bincount(np.searchsorted(classes, one), minlength=size) for one in replicated]),
        )
    )
    return [*checks, _correlation(sample, x, spend, replicated)], arrays


def _by_frequency(x: np.ndarray, spend: np.ndarray) -> np.ndarray:
    """Mean of the buyers' mean spend by number of repeat purchases; the last class is open."""
    group = np.minimum(x.astype(int), FREQUENCIES - 1)
    with np.errstate(invalid="ignore"):
        return (np.bincount(group, spend, FREQUENCIES) / np.bincount(group, minlength=FREQUENCIES))[1:]


def _correlation(sample: _Sample, x: np.ndarray, spend: np.ndarray, replicated: np.ndarray) -> Check:
    """Spend and frequency are independent in the model; a clear correlation biases value.

    Even then the *mean* of more baskets is distributed otherwise than that of one, so that ranks
    correlate a little; what counts is the difference from replicated data.
    """
    name = "spend_frequency_correlation"
    if np.ptp(x) == 0 or np.ptp(spend) == 0:
        sentence = "Spend or frequency is the same for all repeat buyers: there is no correlation to check."
        return Check(name=name, passed=None, threshold=CORRELATION_LIMIT, sentence=sentence)
    found = {}
    for kind, scale in (("Pearson", np.asarray), ("Spearman", ranks)):
        model = [_correlate(scale(x), scale(one)) for one in replicated]
        found[kind] = (_correlate(scale(x), scale(spend)), float(np.mean(model)))
    excess = max((seen - model for seen, model in found.values()), key=abs)
    passed = bool(abs(excess) <= CORRELATION_LIMIT)
    words = " and ".join(
        f"{seen:.2f} ({kind}; model {model:.2f})" for kind, (seen, model) in found.items()
    ).replace("-", "\u2212")
    sentence = (
        f"Mean spend and frequency of {len(x):,} repeat buyers correlate by {words}{sample.of}; the model "
        f"takes them as independent (difference at most {CORRELATION_LIMIT})."
    )
    if not passed:
        sentence += (
            f" Frequent buyers spend {'more' if excess > 0 else 'less'} per purchase than the model knows, "
            f"so their value is too {'low' if excess > 0 else 'high'}. Remedy: split the log by something "
            "known at the first purchase (channel, country, size of the first order), run the parts and "
            "compare the sum of their equity with this one; where a few customers make the correlation, "
            "leave them out with data.exclude."
        )
    return Check(
        name=name,
        passed=passed,
        value=excess,
        threshold=CORRELATION_LIMIT,
        figure="spend_by_frequency",
        sentence=sentence,
    )


def _correlate(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(b) > 0 else 0.0


# --- after the window ----------------------------------------------------------------------------


def _holdout(
    sample: _Sample,
    posterior: Posterior,
    seed: int,
    weather: Weather | None,
    window: dict[str, Any],
    attrs: dict[str, Any],
) -> Found:
    """Purchases after the end of observation against draws conditional on the histories.

    Level systematic multiplies every draw of every week by that draw's path.
    """
    summary = sample.summary
    if summary.holdout <= 0:
        return [], {}
    days = DAYS_PER_UNIT[summary.time_unit]
    length = round(summary.holdout * days)
    weeks = int(length // _WEEK)
    edges = np.unique(np.r_[_WEEK * np.arange(weeks + 1), length]) / days
    if summary.clock == "discrete":
        weeks = int(summary.holdout)
        edges = np.arange(weeks + 1.0)
    orders, revenue = _future(summary, posterior, seed, edges)
    attrs["holdout"] = f"{summary.holdout:.4g} {summary.time_unit}s"
    shocked = weather is not None and weather.orders is not None
    paths = weather.paths(orders.shape[1], seed) if shocked and weather else (None, None)

    checks, arrays = [], {}
    for name, unit, actual, weekly, path in (
        ("orders", "repeat purchases", summary["holdout_frequency"].sum(), orders, paths[0]),
        ("spend", summary.currency, summary["holdout_amount"].sum(), revenue, paths[1]),
    ):
        draws, textbook = weekly.sum(axis=1), ""
        arrays[f"holdout_{name}"] = (("draw",), draws, {"actual": float(actual)})
        if path is not None:
            low, high = interval(draws, INTERVAL)
            textbook = f"; without shared shocks {draws.mean():,.0f}, {low:,.0f} to {high:,.0f}"
            draws = (weekly * path).sum(axis=1)
            arrays[f"holdout_{name}_systematic"] = (("draw",), draws, {"actual": float(actual)})
        low, high = interval(draws, INTERVAL)
        verdict = sample.verdict(low <= actual <= high)
        level = "predictive" if path is None else "systematic"
        more = "more" if actual >= draws.mean() else "fewer" if name == "orders" else "less"
        sentence = (
            f"Holdout of {attrs['holdout']}: {actual:,.0f} {unit} against {draws.mean():,.0f} expected, "
            f"{_percent(abs(actual / draws.mean() - 1))} {more}"
            f"{sample.within(low, high, INTERVAL, '{:,.0f}'.format, level)}{textbook}."
        )
        if verdict is False and path is not None:
            sentence += " A MISS, even with the shocks that all customers shared in the window."
        elif verdict is False:
            sentence += (
                " A MISS: level predictive leaves out whatever moves all customers together, so its interval "
                "was too narrow; level systematic, where it can be estimated, takes that in."
            )
        checks.append(
            Check(
                name=f"holdout_{name}",
                passed=verdict,
                value=float(actual),
                figure="tracking",
                sentence=sentence,
            )
        )
    if weeks:
        arrays |= _later_weeks(sample, orders[:, :weeks], window)
    return checks, arrays


def _future(
    summary: Summary, posterior: Posterior, seed: int, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Predictive orders and revenue of all customers in bins after the end of observation."""
    from clvmodels.value import valuation

    plain = Assumptions(
        margin=np.ones(len(summary)),
        margin_source="not used",
        annual_discount_rate=0.0,
        units_per_year=1.0,
        horizon=float(edges[-1]),
    )
    orders, revenue = np.zeros((2, len(posterior), len(edges) - 1))
    for tile in valuation(summary, posterior, plain, seed).future(edges):
        orders += tile.orders
        revenue += tile.revenue
    return orders, revenue


def _later_weeks(sample: _Sample, orders: np.ndarray, window: dict[str, Any]) -> dict[str, Any]:
    """Tracking arrays with the holdout weeks appended; the cumulative forecast starts at the truth."""
    summary, weeks = sample.summary, orders.shape[1]
    end = np.datetime64(summary.observation_end, "D")
    ahead = (summary.calendar.day - end).astype(float)
    week = np.ceil(ahead / _WEEK).astype(int) - 1
    dates = end + (_WEEK * np.arange(1, weeks + 1)).astype("timedelta64[D]")
    if summary.clock == "discrete":
        week = (ahead > 0).cumsum() - 1
        dates = summary.calendar.day[ahead > 0]
    repeat = summary.calendar.repeat_orders
    if repeat[ahead > 0].sum() == summary["holdout_frequency"].sum():
        inside = (ahead > 0) & (week < weeks)
        observed = np.bincount(week[inside], repeat[inside], weeks)
    else:  # the calendar also counts customers acquired after the end of observation
        observed = np.full(weeks, np.nan)
    start = window["cumulative_observed"][1][-1]
    later = {
        "weekly_observed": observed,
        "weekly_model": sample.bands(orders),
        "cumulative_observed": start + observed.cumsum(),
        "cumulative_model": start + sample.bands(orders.cumsum(axis=1)),
    }
    return {"week": np.concatenate([window["week"], dates])} | {
        name: (window[name][0], np.concatenate([window[name][1], values], axis=-1))
        for name, values in later.items()
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f}".removesuffix(".0") + "\u00a0%"
