"""What travels between stages: frozen records of arrays with named axes and units.

``Summary`` (data → fit), ``Posterior`` (fit → value), ``Assumptions`` (config → value),
``Equity`` (equity → report), ``Check`` (any stage → report). Each is checked when made,
and is saved and loaded on its own.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clvmodels.effects import Effects, Term

LEVELS = ("expected", "latent", "predictive")
LEVEL_CONTENTS = {
    "point": "no uncertainty: one parameter vector",
    "expected": "uncertainty of the population parameters",
    "latent": "parameters, and who each customer really is",
    "predictive": "parameters, customers, and purchases and baskets as they will fall",
    "systematic": "parameters, customers, purchases, and shocks that all customers share",
    "calibrated": "the level before, and the error that its own past forecasts left",
}
INTERVALS = (0.50, 0.90, 0.95)

DAYS_PER_YEAR = 365.2425
DAYS_PER_UNIT = {"day": 1.0, "week": 7.0, "month": DAYS_PER_YEAR / 12, "year": DAYS_PER_YEAR}
TimeUnit = Literal["day", "week", "month", "year"]
WEEKS = 156
"""Weeks (periods) before the end of observation that a calendar keeps apart where it counts by week."""


def interval(values: np.ndarray, probability: float, axis: int = 0) -> tuple[Any, Any]:
    """Equal-tailed interval of draws; NaN where there are fewer than two draws."""
    if values.shape[axis] < 2:
        nan = np.full(np.delete(values.shape, axis), np.nan)
        return nan[()], nan[()]
    tail = (1 - probability) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=axis)
    return low, high


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A partition of the customers: ``labels[codes[i]]`` is customer i's segment."""

    codes: np.ndarray
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.codes) and not 0 <= self.codes.min() <= self.codes.max() < len(self.labels):
            raise ValueError("segment codes outside labels")


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """Daily totals of the log: first and repeat purchase days and their amounts.

    ``day`` is datetime64[D]; it runs past ``observation_end`` where a holdout exists. Where customers
    still to be won are asked for, ``cohort_amount[k]`` is the amount of the summary's customers on
    ``day[cohort_day[k]]``, first purchases included, whose first was in month ``cohort_month[k]``,
    counted from January 1970. Where a segment column has shocks of its own, ``segment_orders[k]`` are the
    repeat purchases on ``day[segment_day[k]]`` of its segment with code ``segment_code[k]``.

    What customers paid against their own mean, of those who came back at least twice by ``observation_end``,
    by weeks of seven days (periods of a discrete clock) that end with it, ascending; the first holds all
    that is older than ``WEEKS``: repeat purchases, ``returns``; sums of amount / own mean, ``baskets``, and
    of its square, ``squares``; of 1 / own repeat purchases, ``shares``, which sums to the number of these
    customers; all of shape (week,). And sums of n_t n_u / own repeat purchases, with n_t a customer's in
    week t: ``pairs``, shape (week, week). Empty where not asked for.
    """

    day: np.ndarray
    first_orders: np.ndarray
    repeat_orders: np.ndarray
    first_amount: np.ndarray
    repeat_amount: np.ndarray
    cohort_month: np.ndarray = field(default_factory=lambda: np.zeros(0))
    cohort_day: np.ndarray = field(default_factory=lambda: np.zeros(0))
    cohort_amount: np.ndarray = field(default_factory=lambda: np.zeros(0))
    segment_code: np.ndarray = field(default_factory=lambda: np.zeros(0))
    segment_day: np.ndarray = field(default_factory=lambda: np.zeros(0))
    segment_orders: np.ndarray = field(default_factory=lambda: np.zeros(0))
    returns: np.ndarray = field(default_factory=lambda: np.zeros(0))
    baskets: np.ndarray = field(default_factory=lambda: np.zeros(0))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))
    shares: np.ndarray = field(default_factory=lambda: np.zeros(0))
    pairs: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """How fast everybody's clock ran in each week of a window, 1 on average over its purchases.

    Time of a model is S(t) = ∫ s: a purchase rate λ per unit of it is a rate λ s(t) per unit of the
    calendar. Beyond the window s is 1, its mean over what was bought, so that what lies ahead is counted,
    and discounted, in calendar time.

    Attributes
    ----------
    end
        Number of the last day of the window.
    width
        Days in a week.
    value
        s in the weeks that end with the window, shape (week,); what lies before takes the first.
    """

    end: int
    width: int
    value: np.ndarray

    def __post_init__(self) -> None:
        if not (len(self.value) and np.isfinite(self.value).all() and (self.value > 0).all()):
            raise ValueError("an intensity is positive in every week")

    @property
    def edges(self) -> np.ndarray:
        """Numbers of the days with which weeks end, the day before the first week included."""
        return self.end - self.width * np.arange(len(self.value), -1, -1)

    def clock(self, number: np.ndarray | int) -> np.ndarray:
        """S at days, in days, counted so that the clock and the calendar agree at the window's end."""
        number = np.asarray(number, float)
        run = np.concatenate([[0.0], np.cumsum(self.width * self.value)])
        inside = np.interp(number, self.edges, run - run[-1] + self.end)
        before = np.minimum(number - self.edges[0], 0.0) * self.value[0]
        return inside + before + np.maximum(number - self.end, 0.0)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Distinct rows of statistics with the number of customers behind each.

    ``stats[row, statistic]``, ``weight[row]``, and ``index[customer]`` → row (-1: not in).
    """

    names: tuple[str, ...]
    stats: np.ndarray
    weight: np.ndarray
    index: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        return self.stats[:, self.names.index(name)]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One row per customer, in ascending order of customer id.

    Attributes
    ----------
    customer
        Customer ids as strings, shape (customer,).
    columns
        float64 arrays of shape (customer,): ``frequency`` (repeat purchase days),
        ``recency`` (first to last purchase day), ``T`` (first purchase day to observation
        end), both in time units and not rounded, ``monetary_value`` (mean amount of repeat
        purchase days; NaN where frequency is 0), ``first_amount`` (amount of the first
        purchase day); the statistics that the families declare; ``margin`` where the
        config takes it from a column; ``holdout_frequency`` and ``holdout_amount`` where
        there is a holdout window.
    first_day
        datetime64[D] of the first purchase.
    segments
        Column name → :class:`Segment`.
    holdout
        Length of the holdout window in time units, 0 if there is none.
    ledger
        What was read, what was dropped and why; see :mod:`clvmodels.data.ledger`.
    fingerprint
        Hash of the customer-level content, independent of the order of rows in the source.
    clock
        ``discrete``: frequency, recency and T count purchase opportunities (whole periods of
        ``time_unit``), at each of which a customer buys or does not.
    features
        Column name → values as text, as :class:`Segment`, of the columns that covariates and pooling
        need; an empty label where there is none. Unlike segments they do not partition equity.
    """

    customer: np.ndarray
    columns: Mapping[str, np.ndarray]
    first_day: np.ndarray
    segments: Mapping[str, Segment]
    calendar: Calendar
    time_unit: TimeUnit
    observation_start: dt.date
    observation_end: dt.date
    holdout: float
    currency: str
    ledger: Mapping[str, Any]
    fingerprint: str
    clock: Literal["continuous", "discrete"] = "continuous"
    features: Mapping[str, Segment] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.customer)
        for name in ("frequency", "recency", "T", "monetary_value", "first_amount"):
            if name not in self.columns:
                raise ValueError(f"summary without column {name!r}")
        for name, column in self.columns.items():
            if column.shape != (n,) or column.dtype != np.float64:
                raise ValueError(f"column {name!r} is not float64 of shape ({n},)")
        for name, segment in [*self.segments.items(), *self.features.items()]:
            if segment.codes.shape != (n,):
                raise ValueError(f"segment {name!r} does not cover every customer")
        x, t_x, T = self["frequency"], self["recency"], self["T"]
        if (x < 0).any() or (t_x < 0).any() or (t_x > T).any():
            raise ValueError("need 0 <= frequency and 0 <= recency <= T for every customer")
        if ((x == 0) != (t_x == 0)).any():
            raise ValueError("recency is 0 exactly where frequency is 0")

    def __len__(self) -> int:
        return len(self.customer)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __repr__(self) -> str:
        buyers = int((self["frequency"] > 0).sum())
        return (
            f"<Summary {len(self):,} customers, {buyers:,} with a repeat purchase, "
            f"{self.observation_start} to {self.observation_end}, in {self.time_unit}s>"
        )

    @property
    def spenders(self) -> np.ndarray:
        """Mask of the customers a spend family learns from: they bought again, and not only for nothing."""
        return (self["frequency"] > 0) & (self["monetary_value"] > 0)

    def fold(self, names: tuple[str, ...], where: np.ndarray | None = None) -> Rows:
        """Distinct rows of the named columns with their counts.

        Parameters
        ----------
        names
            Columns, in the order wanted.
        where
            Boolean mask of the customers to keep.
        """
        keep = np.ones(len(self), bool) if where is None else where
        stats = np.column_stack([self[name][keep] for name in names])
        distinct, inverse, count = unique_rows(stats)
        index = np.full(len(self), -1)
        index[keep] = inverse
        return Rows(names=names, stats=distinct, weight=count.astype(float), index=index)

    def take(self, chosen: np.ndarray) -> Summary:
        """The customers at ascending positions; calendar, ledger and fingerprint stay those of all."""

        def some(parts: Mapping[str, Segment]) -> dict[str, Segment]:
            return {name: replace(part, codes=part.codes[chosen]) for name, part in parts.items()}

        return replace(
            self,
            customer=self.customer[chosen],
            columns={name: column[chosen] for name, column in self.columns.items()},
            first_day=self.first_day[chosen],
            segments=some(self.segments),
            features=some(self.features),
        )

    def save(self, path: Path) -> None:
        """Write one parquet file; everything that is not a column goes into its metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        data: dict[str, Any] = {"customer": pa.array(self.customer, pa.string())}
        data |= {name: pa.array(column) for name, column in self.columns.items()}
        data["first_day"] = pa.array(self.first_day)
        for kind, parts in (("segment", self.segments), ("feature", self.features)):
            for name, segment in parts.items():
                codes = pa.array(segment.codes.astype(np.int32))
                labels = pa.array(list(segment.labels), pa.string())
                data[f"{kind}:{name}"] = pa.DictionaryArray.from_arrays(codes, labels)
        calendar = {f.name: getattr(self.calendar, f.name) for f in fields(self.calendar)}
        meta = {
            "calendar": {k: v.astype(str if k == "day" else float).tolist() for k, v in calendar.items()},
            "time_unit": self.time_unit,
            "observation_start": self.observation_start.isoformat(),
            "observation_end": self.observation_end.isoformat(),
            "holdout": self.holdout,
            "currency": self.currency,
            "ledger": dict(self.ledger),
            "fingerprint": self.fingerprint,
            "clock": self.clock,
        }
        table = pa.table(data).replace_schema_metadata({"clvmodels": json.dumps(meta)})
        pq.write_table(table, path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> Summary:
        """Read what :meth:`save` wrote."""
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        meta = json.loads(table.schema.metadata[b"clvmodels"])
        columns: dict[str, np.ndarray] = {}
        parts: dict[str, dict[str, Segment]] = {"segment": {}, "feature": {}}
        for name in table.column_names:
            column = table[name].combine_chunks()
            kind, _, of = name.partition(":")
            if of and kind in parts:
                labels = tuple(column.dictionary.to_pylist())
                codes = column.indices.to_numpy(zero_copy_only=False)
                parts[kind][of] = Segment(codes=codes, labels=labels)
            elif name not in ("customer", "first_day"):
                columns[name] = column.to_numpy(zero_copy_only=False)
        calendar = {
            k: np.array(v, "datetime64[D]" if k == "day" else float) for k, v in meta["calendar"].items()
        }
        if "pairs" in calendar:  # a list of no rows does not tell their length
            calendar["pairs"] = calendar["pairs"].reshape(2 * (len(calendar["pairs"]),))
        return cls(
            customer=np.array(table["customer"].to_pylist(), dtype=object),
            columns=columns,
            first_day=table["first_day"].to_numpy().astype("datetime64[D]"),
            segments=parts["segment"],
            features=parts["feature"],
            calendar=Calendar(**calendar),
            time_unit=meta["time_unit"],
            observation_start=dt.date.fromisoformat(meta["observation_start"]),
            observation_end=dt.date.fromisoformat(meta["observation_end"]),
            holdout=meta["holdout"],
            currency=meta["currency"],
            ledger=meta["ledger"],
            fingerprint=meta["fingerprint"],
            clock=meta["clock"],
        )


def unique_rows(stats: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``np.unique(axis=0, return_inverse=True, return_counts=True)`` by one lexicographic sort."""
    if not len(stats):
        return stats, np.zeros(0, int), np.zeros(0, int)
    order = np.lexsort(stats.T[::-1])
    ordered = stats[order]
    first = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
    inverse = np.empty(len(stats), int)
    inverse[order] = np.cumsum(first) - 1
    return ordered[first], inverse, np.diff(np.r_[np.flatnonzero(first), len(stats)])


EFFECTS = "effects"
"""Variable that holds the draws of effects in a dataset; no parameter is called so."""
Sampler = Literal["importance", "nuts", "map", "fixed"]


@dataclass(frozen=True, kw_only=True)
class FamilyPosterior:
    """Posterior draws of one family's native parameters.

    With ``effects`` the draws are those of a customer whose shifts are all zero: numbers at their
    centre, levels at the reference (with sum coding and pooling: at the centre of the levels).

    Attributes
    ----------
    parameters
        Names; the columns of ``draws``.
    draws
        float64, shape (chain, draw, parameter); one chain for importance sampling, shape
        (1, 1, parameter) for ``map`` and ``fixed``.
    maximum
        The likelihood's maximum, priors left out: native parameters and
        ``log_likelihood``; empty for ``fixed``.
    diagnostics
        ``k_hat``, ``ess`` (importance), ``divergences`` (NUTS), and per parameter
        ``ess_bulk``, ``ess_tail``, ``r_hat`` (None where the sampler has no chains).
    priors
        Coordinate or parameter → prior in YAML form, as used.
    rows, customers
        Distinct rows and customers that entered the likelihood.
    """

    family: str
    parameters: tuple[str, ...]
    draws: np.ndarray
    sampler: Sampler
    maximum: Mapping[str, float]
    diagnostics: Mapping[str, Any]
    priors: Mapping[str, Any]
    rows: int
    customers: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    effects: Effects | None = None

    def __post_init__(self) -> None:
        if self.draws.ndim != 3 or self.draws.shape[2] != len(self.parameters):
            raise ValueError("draws need the shape (chain, draw, parameter)")
        if not np.isfinite(self.draws).all():
            raise ValueError(f"non-finite draws of {self.family}")
        if self.effects is not None and self.effects.draws.shape[:2] != self.draws.shape[:2]:
            raise ValueError(f"draws of effects and of {self.family} differ in number")

    @property
    def flat(self) -> np.ndarray:
        """Draws as (draw, parameter), chains one after the other."""
        return self.draws.reshape(-1, self.draws.shape[2])


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Joint draws: draw d of the purchase model meets draw d of the spend model."""

    purchases: FamilyPosterior
    spend: FamilyPosterior
    time_unit: TimeUnit
    currency: str

    def __post_init__(self) -> None:
        sizes = {len(p.flat) for p in (self.purchases, self.spend)} - {1}
        if len(sizes) > 1:
            raise ValueError(f"purchase and spend draws differ in number: {sorted(sizes)}")

    def __len__(self) -> int:
        return max(len(self.purchases.flat), len(self.spend.flat))

    def __repr__(self) -> str:
        parts = (f"{p.family} ({p.sampler})" for p in (self.purchases, self.spend))
        return f"<Posterior {len(self):,} joint draws: {', '.join(parts)}>"

    @property
    def is_point(self) -> bool:
        """One parameter vector without uncertainty: no interval may be shown."""
        return len(self) == 1

    def thinned(self, count: int) -> Posterior:
        """As many draws as wanted, evenly spread over these; a single vector is repeated."""
        return self.picked(np.linspace(0, len(self) - 1, count).round().astype(int))

    def picked(self, positions: np.ndarray) -> Posterior:
        """The joint draws at these positions, as one chain."""

        def pick(part: FamilyPosterior) -> FamilyPosterior:
            at = np.minimum(positions, len(part.flat) - 1)
            effects = part.effects and replace(part.effects, draws=part.effects.flat[at][None])
            return replace(part, draws=part.flat[at][None], effects=effects)

        return replace(self, purchases=pick(self.purchases), spend=pick(self.spend))

    @property
    def effects(self) -> tuple[Effects, ...]:
        """Effects of covariates and pooling: none, those of one family, or of both."""
        return tuple(p.effects for p in (self.purchases, self.spend) if p.effects is not None)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Purchase and spend draws of equal length, shape (draw, parameter) each.

        They hold for every customer, which those of a posterior with effects do not: see
        :mod:`clvmodels.value.patterns`.
        """
        if self.effects:
            raise ValueError("customers differ in their parameters; ask for the draws of a pattern")
        return self.centre()

    def centre(self) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`pairs` gives; with effects, for a customer whose shifts are all zero."""
        n = len(self)
        purchase, spend = self.purchases.flat, self.spend.flat
        return (
            np.array(np.broadcast_to(purchase, (n, purchase.shape[1])), order="C"),
            np.array(np.broadcast_to(spend, (n, spend.shape[1])), order="C"),
        )

    def to_datasets(self) -> dict[str, Any]:
        """One xarray Dataset per family (dims chain, draw), everything else in attributes."""
        import xarray as xr

        out = {}
        for role, part in (("purchases", self.purchases), ("spend", self.spend)):
            variables: dict[str, Any] = {
                name: (("chain", "draw"), part.draws[:, :, j]) for j, name in enumerate(part.parameters)
            }
            plain = replace(part, effects=None)
            rest = {k: v for k, v in asdict(plain).items() if k not in ("draws", "parameters", "effects")}
            if part.effects is not None:
                variables[EFFECTS] = (("chain", "draw", "coefficient"), part.effects.draws)
                rest["terms"] = [asdict(term) for term in part.effects.terms]
            attrs = {"clvmodels": json.dumps(rest), "time_unit": self.time_unit, "currency": self.currency}
            coords: dict[str, Any] = {
                "chain": np.arange(part.draws.shape[0]),
                "draw": np.arange(part.draws.shape[1]),
            }
            if part.effects is not None:
                coords["coefficient"] = list(part.effects.names)
            out[role] = xr.Dataset(variables, coords=coords, attrs=attrs)
        return out

    @classmethod
    def from_datasets(cls, datasets: Mapping[str, Any]) -> Posterior:
        """Inverse of :meth:`to_datasets`."""
        parts: dict[str, FamilyPosterior] = {}
        for role in ("purchases", "spend"):
            data = datasets[role]
            names = tuple(str(name) for name in data.data_vars if name != EFFECTS)
            draws = np.stack([data[name].transpose("chain", "draw").values for name in names], axis=-1)
            rest = json.loads(data.attrs["clvmodels"])
            if terms := rest.pop("terms", None):
                texts: list[dict[str, Any]] = [
                    {k: tuple(v) if isinstance(v, list) else v for k, v in t.items()} for t in terms
                ]
                found = data[EFFECTS].transpose("chain", "draw", "coefficient").values
                rest["effects"] = Effects(terms=tuple(Term(**t) for t in texts), draws=found)
            parts[role] = FamilyPosterior(parameters=names, draws=draws, **rest)
        return cls(
            purchases=parts["purchases"],
            spend=parts["spend"],
            time_unit=data.attrs["time_unit"],
            currency=data.attrs["currency"],
        )


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What the analyst decides, resolved to numbers.

    Attributes
    ----------
    margin
        Contribution margin ratio per customer, shape (customer,).
    annual_discount_rate
        Effective rate d per year.
    units_per_year
        k of the time unit (52.1775 weeks unless set to 52 to match papers).
    horizon
        In time units; ``inf`` is the valuation standard.
    timing
        ``continuous``, or ``begin``, ``mid``, ``end`` of ``period``.
    period
        Length of a discounting period in time units; not used when continuous.
    horizons
        Label → duration in time units, for expected orders and revenue (undiscounted).
    cost_alive
        Cost of keeping a customer, currency per time unit (on a discrete clock: per opportunity), paid
        while the customer is there.
    cost_addressed, cost_window
        Cost of addressing a customer, currency per time unit, paid for ``cost_window`` time units whether
        the customer is there or not.
    cost_source
        The two in words; empty without cost.
    """

    margin: np.ndarray
    margin_source: str
    annual_discount_rate: float
    units_per_year: float
    horizon: float
    timing: Literal["continuous", "begin", "mid", "end"] = "continuous"
    period: float = 1.0
    horizons: Mapping[str, float] = field(default_factory=dict)
    cost_alive: float = 0.0
    cost_addressed: float = 0.0
    cost_window: float = 0.0
    cost_source: str = ""
    band_years: tuple[float, ...] = (0.0, 1.0, 3.0, 5.0, 10.0, np.inf)

    @property
    def delta(self) -> float:
        """Continuous discount rate per time unit, ``ln(1 + d) / k``."""
        return float(np.log1p(self.annual_discount_rate) / self.units_per_year)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Customers still to be won, in periods of equal length after the valuation date.

    Attributes
    ----------
    kind
        ``trend`` (forecast from the log's first purchases), ``plan`` (given) or ``none``.
    period
        Length of a period in time units.
    expected, counts
        Shape (draw, period): the rate at which customers come, and a number drawn at that rate.
        Draw d meets draw d of the posterior.
    history
        Customers won in past periods, the oldest first; what the trend was fitted to.
    """

    kind: Literal["trend", "plan", "none"]
    period: float
    expected: np.ndarray
    counts: np.ndarray
    history: np.ndarray

    def __post_init__(self) -> None:
        if self.expected.shape != self.counts.shape or self.expected.ndim != 2:
            raise ValueError("expected and counts need one shape (draw, period)")
        if not (np.isfinite(self.expected).all() and (self.expected >= 0).all() and (self.counts >= 0).all()):
            raise ValueError("customers won are finite and not negative")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was checked: passed, failed, or not applicable (None)."""

    name: str
    passed: bool | None
    sentence: str
    value: float | None = None
    threshold: float | None = None
    figure: str | None = None


def storable(column: str) -> str:
    """A column's name as netCDF can keep it: the slash divides groups there."""
    return column.replace("/", "\u2215")


@dataclass(frozen=True, kw_only=True)
class Equity:
    """Customer equity of a fixed set of customers, draw by draw.

    ``data`` is an xarray Dataset; every variable carries ``unit`` in its attributes.

    ==============================  =========================  ===============================
    variable                        dims                       unit
    ==============================  =========================  ===============================
    ``total``                       level, draw                currency
    ``never_again``                 level, draw                currency (customers without a
                                                               repeat purchase)
    ``bands``                       draw, band                 currency (level expected)
    ``alive``                       draw                       customers (sum of P(alive))
    ``orders``                      level, draw, horizon       orders (undiscounted)
    ``revenue``                     level, draw, horizon       currency (undiscounted)
    ``beyond``                      draw                       share of value later than the
                                                               length of the observed window
    ``gini``, ``top_decile``        level, draw                share
    ``fixed_top_decile``            level, draw                share of the fixed set of customers
                                                               with the highest posterior mean
    ``lorenz``                      level, quantile, share_of  share of equity held by the best
                                                               share of customers (5, 50, 95 %)
    ``segment:<column>``            level, draw, by:<column>   currency
    ``customers:<column>``          by:<column>                customers
    ``partition:<name>``            level, draw, in:<name>     currency: cohort, decile, p_alive
    ``members:<name>``              in:<name>                  customers
    ``losing_customers``,           level, draw                customers, currency: those worth less
    ``losing_value``                                           than nothing, where that may be
    ``unchanged``, ``potential``,   picked                     currency, of the survey's draws, see
    ``by_purchases``, ``by_spend``                             :class:`clvmodels.equity.Survey`
    ``changed``, ``lost``           change/until, picked       currency
    ==============================  =========================  ===============================

    ``customers`` is a pyarrow Table, one row per customer: the summary columns, ``p_alive``,
    ``expected_spend``, ``orders_<horizon>``, ``value_mean``, ``value_sd``, ``value_q05`` ..
    ``value_q95`` at level expected.

    ``future`` and ``acquisition`` are Datasets of :mod:`clvmodels.equity.future` and
    :mod:`clvmodels.equity.acquisition` where the config asks for them.
    """

    data: Any
    customers: Any
    checks: tuple[Check, ...] = ()
    future: Any = None
    acquisition: Any = None

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels that were computed; ``("point",)`` for a single parameter vector."""
        return tuple(str(level) for level in self.data["level"].values)

    @property
    def currency(self) -> str:
        return str(self.data.attrs["currency"])

    def total(self, level: str = "expected") -> np.ndarray:
        """Draws of the total, shape (draw,)."""
        return self.data["total"].sel(level=level).values

    def segment(self, column: str) -> Any:
        """Draws by segment, an xarray DataArray with dims level, draw, by:<column>."""
        return self.data[f"segment:{storable(column)}"]

    def segment_sizes(self, column: str) -> np.ndarray:
        """Customers in each segment, in the order of the summary's labels."""
        return self.data[f"customers:{storable(column)}"].values

    def summary(self) -> Any:
        """Mean, sd and intervals of the total by level, as a pandas DataFrame."""
        import pandas as pd

        rows = {}
        for level in self.levels:
            draws = self.total(level)
            row = {"mean": draws.mean(), "sd": draws.std(ddof=1) if len(draws) > 1 else np.nan}
            for probability in INTERVALS:
                low, high = interval(draws, probability)
                row |= {f"low_{probability:.0%}": low, f"high_{probability:.0%}": high}
            rows[level] = row | {"contains": LEVEL_CONTENTS[level]}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("level")

    def __repr__(self) -> str:
        lines = [f"<Equity of {len(self.customers):,} existing customers, {self.currency}>"]
        for level in self.levels:
            draws = self.total(level)
            low, high = interval(draws, 0.90)
            spread = f"   90 % {low:,.0f} to {high:,.0f}" if len(draws) > 1 else ""
            lines.append(f"  {level:<11}{draws.mean():>14,.0f}{spread}")
        return "\n".join(lines)
