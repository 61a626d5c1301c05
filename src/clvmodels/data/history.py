"""The log as arrays of purchase days: read once, summarised at any day by NumPy.

What :func:`clvmodels.data.summary.summarise` reads for one ``observation_end`` is made here from
purchase days in memory, for as many ends as are wanted. Amounts are whole millionths, as in the
decimals of the log, so that sums are exact.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clvmodels.artifacts import DAYS_PER_UNIT, WEEKS, Calendar, Intensity, Segment, Summary, TimeUnit
from clvmodels.data import periods
from clvmodels.data.rows import as_text, clean, day_facts, segments_of
from clvmodels.data.sources import opened
from clvmodels.data.summary import (
    MARGINS,
    PARTS,
    WEEK,
    fingerprint,
    purchase_days,
    refuse_days,
    refuse_logs,
    refuse_one,
)
from clvmodels.errors import InputError

if TYPE_CHECKING:
    from clvmodels.config import DataConfig
    from clvmodels.models.family import Statistic

MILLIONTHS = 1e6


@dataclass(frozen=True, kw_only=True)
class History:
    """Purchase days of every customer of a log, sorted by customer and day.

    Attributes
    ----------
    customer
        Ids, in the order of summaries, shape (customer,).
    start
        Position of each customer's first purchase day, shape (customer + 1,).
    day
        datetime64[D]; on a discrete clock the first day of the period, shape (purchase,).
    amount
        Millionths of the currency, int64, shape (purchase,).
    segments, features
        Column → labels and code of each customer, by the first purchase day; features are those that
        only covariates and pooling read, and may be empty.
    margins
        Columns from which a margin ratio per row is averaged; empty without such a column.
    last
        Last day that the log tells of (of a discrete clock: end of the last complete period).
    exclude
        Customers whose repeat purchases up to an end sum to more are left out; None: nobody.
    statistics
        Columns that the families declare.
    """

    customer: np.ndarray
    start: np.ndarray
    day: np.ndarray
    amount: np.ndarray
    segments: Mapping[str, tuple[tuple[str, ...], np.ndarray]]
    margins: Mapping[str, np.ndarray]
    last: dt.date
    time_unit: TimeUnit
    clock: Literal["continuous", "discrete"]
    currency: str
    exclude: float | None = None
    statistics: tuple[Statistic, ...] = ()
    features: Mapping[str, tuple[tuple[str, ...], np.ndarray]] = field(default_factory=dict)

    @property
    def owner(self) -> np.ndarray:
        """Customer of each purchase day, as a position."""
        return np.repeat(np.arange(len(self.customer)), np.diff(self.start))

    @property
    def first(self) -> dt.date:
        """Day of the first purchase of all."""
        return self.day.min().item()

    @property
    def counted(self) -> TimeUnit:
        """What durations are counted in: days, or the periods of a discrete clock."""
        return self.time_unit if self.clock == "discrete" else "day"

    @property
    def per_unit(self) -> float:
        """Counted days (periods) in a time unit."""
        return 1.0 if self.clock == "discrete" else DAYS_PER_UNIT[self.time_unit]

    def number(self, day: Any) -> np.ndarray:
        """Days (periods) as whole numbers."""
        return np.asarray(periods.number(day, self.counted))

    def end_of(self, day: dt.date) -> dt.date:
        """The last day of observation not after ``day``: of a discrete clock the end of a period."""
        return periods.last_complete(day, self.time_unit) if self.clock == "discrete" else day

    def after(self, day: dt.date, steps: int) -> dt.date:
        """The end of observation that lies ``steps`` days (periods) after an end of observation."""
        return periods.last_day(self.number(day) + steps, self.counted).item()

    def at(
        self, end: dt.date, intensity: Intensity | None = None, daily_by: str | None = None
    ) -> tuple[Summary, np.ndarray]:
        """The summary at an end of observation; everything after it is the holdout.

        Parameters
        ----------
        intensity
            Of everybody's clock: durations are then of its time; default: of the calendar.
        daily_by
            Segment column whose segments' repeat purchases the calendar holds day by day.

        Returns
        -------
        summary
            Equal to that of :func:`clvmodels.data.summarise`, apart from the ledger.
        position
            Place of its customers in ``customer``.

        Raises
        ------
        InputError
            If fewer than two customers had bought by then, or all on one day.
        """
        firsts = self.start[:-1]
        number, owner = self.number(self.day), self.owner
        last, born = int(self.number(end)), number[self.start[:-1]]
        seen = number <= last
        spent = self._sum(np.where(seen, self.amount, 0))
        keep = born <= last
        if self.exclude is not None:
            keep &= ~((spent - self.amount[firsts]) / MILLIONTHS > self.exclude)
        if keep.sum() < 2:
            raise InputError(f"at {end} fewer than two customers had bought: a model needs many.")
        days = self._sum(seen.astype(np.int64))
        latest = np.maximum.reduceat(np.where(seen, number, -(2**60)), firsts)
        frequency = days - 1.0
        clock = (lambda day: day) if intensity is None else intensity.clock
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(frequency > 0, (spent - self.amount[firsts]) / MILLIONTHS / frequency, np.nan)
        columns = {
            "frequency": frequency,
            "recency": (clock(latest) - clock(born)) / self.per_unit,
            "T": (clock(last) - clock(born)) / self.per_unit,
            "monetary_value": mean,
            "first_amount": self.amount[firsts] / MILLIONTHS,
        }
        if self.margins:
            columns["margin"] = self._margin(seen)
        columns |= {s.name: self._statistic(s, seen, clock(number)) for s in self.statistics}
        later = ~seen
        columns |= {
            "holdout_frequency": self._sum(later.astype(np.int64)).astype(float),
            "holdout_amount": _money(self._sum(np.where(later, self.amount, 0))),
        }
        columns = {name: column[keep] + 0.0 for name, column in columns.items()}
        if not columns["T"].any() and not columns["recency"].any():
            raise InputError(
                f"at {end} all purchases fall on one {self.counted}: a model needs a span of time."
            )
        holdout = int(self.number(self.last)) - last
        if not holdout:
            for name in ("holdout_frequency", "holdout_amount"):
                del columns[name]
        segments = {name: _labelled(*found, keep) for name, found in self.segments.items()}
        parted = None if daily_by is None else segments[daily_by]
        summary = Summary(
            customer=self.customer[keep],
            columns=columns,
            first_day=self.day[firsts][keep],
            segments=segments,
            features={name: _labelled(*found, keep) for name, found in self.features.items()},
            calendar=self._calendar(number, owner, keep, last, parted),
            time_unit=self.time_unit,
            observation_start=self.day[firsts][keep].min().item(),
            observation_end=end,
            holdout=holdout / self.per_unit,
            currency=self.currency,
            ledger={"notes": []},
            fingerprint="",
            clock=self.clock,
        )
        return replace(summary, fingerprint=fingerprint(summary)), np.flatnonzero(keep)

    def repeats(self, position: np.ndarray, after: dt.date, until: dt.date) -> tuple[np.ndarray, np.ndarray]:
        """Repeat purchases in (after, until] of some customers, and what they paid for them.

        Parameters
        ----------
        position
            Of the customers in ``customer``.

        Returns
        -------
        count, amount
            Shape (customer,) each; first purchases are left out.
        """
        number = self.number(self.day)
        inside = (number > int(self.number(after))) & (number <= int(self.number(until)))
        inside[self.start[:-1]] = False
        count = self._sum(inside.astype(np.int64))[position]
        return count.astype(float), self._sum(np.where(inside, self.amount, 0))[position] / MILLIONTHS

    def weekly(self, position: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Repeat purchases of some customers and their amounts, by bins of day (period) numbers.

        Parameters
        ----------
        edges
            Ascending whole numbers as of :meth:`number`; bin k is (edges[k], edges[k+1]].
        """
        chosen = np.zeros(len(self.customer), bool)
        chosen[position] = True
        mask = chosen[self.owner]
        mask[self.start[:-1]] = False
        number = self.number(self.day[mask])
        where = np.searchsorted(edges, number, side="left") - 1
        inside = (where >= 0) & (where < len(edges) - 1)
        size = len(edges) - 1
        count = np.bincount(where[inside], minlength=size).astype(float)
        return count, np.bincount(where[inside], self.amount[mask][inside] / MILLIONTHS, size)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self.start[:-1])

    def _margin(self, seen: np.ndarray) -> np.ndarray:
        """Mean margin of each customer's rows, weighted by positive amounts; plain where none is."""
        sums = {name: self._sum(np.where(seen, values, 0)) for name, values in self.margins.items()}
        with np.errstate(invalid="ignore", divide="ignore"):
            plain = sums["margins"] / sums["rows"]
            return np.where(sums["weight"] > 0, sums["weighted"] / sums["weight"], plain)

    def _statistic(self, statistic: Statistic, seen: np.ndarray, number: np.ndarray) -> np.ndarray:
        values = self.amount / MILLIONTHS
        if statistic.of == "interval":
            values = np.diff(number, prepend=number[0]) / self.per_unit
        repeat = seen.copy()
        repeat[self.start[:-1]] = False
        values = np.where(repeat, values, 1.0)
        if statistic.transform.startswith("log"):
            repeat &= values > 0
            values = np.log(np.where(repeat, values, 1.0))
        if statistic.transform.endswith("square"):
            values = values**2
        total = self._sum(np.where(repeat, values, 0.0))
        days = self._sum(seen.astype(np.int64)) - 1
        return total / np.maximum(days, 1) if statistic.reduce == "mean" else total

    def _calendar(
        self, number: np.ndarray, owner: np.ndarray, keep: np.ndarray, last: int, parted: Segment | None
    ) -> Calendar:
        """Every day from the first purchase to the end of the log; repeats of the kept customers."""
        known = np.ones(len(self.customer), bool) if self.exclude is None else self._kept(last)
        inside = known[owner]
        low, high = int(number[inside].min()), int(self.number(self.last))
        first = np.zeros(len(number), bool)
        first[self.start[:-1]] = True
        place, size = number - low, high - low + 1
        totals = {}
        for name, mask in (("first", first & inside), ("repeat", ~first & keep[owner])):
            totals[f"{name}_orders"] = np.bincount(place[mask], minlength=size).astype(float)
            sums = np.zeros(size, np.int64)
            np.add.at(sums, place[mask], self.amount[mask])
            totals[f"{name}_amount"] = _money(sums)
        repeat = ~first & keep[owner] & (number <= last)
        against = self._against_own_mean(repeat, last - number, owner)
        if parted is not None:
            code = np.zeros(len(keep), np.int64)
            code[keep] = parted.codes
            cell, orders = np.unique(code[owner[repeat]] * size + place[repeat], return_counts=True)
            found = {"code": cell // size, "day": cell % size, "orders": orders}
            against |= {f"segment_{name}": values.astype(float) for name, values in found.items()}
        return Calendar(day=periods.last_day(np.arange(low, high + 1), self.counted), **totals, **against)

    def _against_own_mean(
        self, repeat: np.ndarray, ago: np.ndarray, owner: np.ndarray
    ) -> dict[str, np.ndarray]:
        """As ``data/summary.py`` asks of the engine, of the repeat purchases in a mask."""
        from scipy.sparse import csr_matrix

        amount, owner = self.amount[repeat], owner[repeat]
        ago = np.minimum(ago[repeat] // (WEEK if self.counted == "day" else 1), WEEKS)
        size = len(self.customer)
        count = np.bincount(owner, minlength=size)
        total = np.zeros(size, np.int64)
        np.add.at(total, owner, amount)
        usable = (count >= 2) & (total > 0)
        usable[owner[amount < 0]] = False
        keep = usable[owner]
        amount, owner, ago = amount[keep], owner[keep], ago[keep]
        weeks = int(ago.max(initial=-1)) + 1
        n = count[owner].astype(float)
        ratio = amount / MILLIONTHS / (total[owner] / MILLIONTHS / n)
        cell, place = np.unique(owner * (WEEKS + 1) + ago, return_inverse=True)
        who, at = cell // (WEEKS + 1), cell % (WEEKS + 1)
        k = np.bincount(place, minlength=len(cell))

        def summed(values: np.ndarray, at: np.ndarray) -> np.ndarray:
            out = np.zeros(weeks, np.int64)
            np.add.at(out, weeks - 1 - at, np.rint(values * PARTS).astype(np.int64))
            return out / PARTS

        one = csr_matrix((k.astype(float), (who, weeks - 1 - at)), shape=(size, weeks))
        scaled = csr_matrix((k / count[who], (who, weeks - 1 - at)), shape=(size, weeks))
        return {
            "returns": np.bincount(weeks - 1 - at, k, weeks),
            "baskets": summed(ratio, ago),
            "squares": summed(ratio**2, ago),
            "shares": summed(k / count[who], at),
            "pairs": (one.T @ scaled).toarray(),
        }

    def _kept(self, last: int) -> np.ndarray:
        """Customers whom ``exclude`` leaves in, those of later days included."""
        seen = self.number(self.day) <= last
        repeat = self._sum(np.where(seen, self.amount, 0)) - self.amount[self.start[:-1]]
        return ~(repeat / MILLIONTHS > (self.exclude if self.exclude is not None else np.inf))


def _labelled(labels: tuple[str, ...], codes: np.ndarray, keep: np.ndarray) -> Segment:
    """The segment of the kept customers, with the labels that they have."""
    used, inverse = np.unique(codes[keep], return_inverse=True)
    return Segment(codes=inverse.astype(np.int64), labels=tuple(labels[k] for k in used))


def read(
    config: DataConfig,
    *,
    transactions: Any = None,
    statistics: tuple[Statistic, ...] = (),
    margin_column: str | None = None,
    features: tuple[str, ...] = (),
    base: Path = Path("."),
) -> History:
    """Read the whole log, up to ``holdout_end`` where the config has one.

    Parameters
    ----------
    config, transactions, statistics, margin_column, features, base
        As for :func:`clvmodels.data.summarise`; ``observation_end`` is not used.

    Raises
    ------
    InputError
        As :func:`clvmodels.data.summarise` does; for a table of summaries, which has no dates.
    """
    import ibis
    import pyarrow as pa
    import pyarrow.compute as pc

    if config.kind == "summary":
        raise InputError(
            "data.kind is summary: a table of frequency, recency and T has no dates, so that nothing can be "
            "refitted to an earlier day; a backtest needs a log of transactions."
        )
    more = tuple(name for name in features if name not in config.segments)
    window = {"observation_end": config.holdout_end, "holdout_end": None}
    whole = config.model_copy(update={**window, "segments": (*config.segments, *more)})
    with opened(whole, transactions, margin_column, base, [s.name for s in statistics]) as source:
        cleaned = clean(source, whole)
        all_days = cleaned.days.filter(cleaned.days.day <= ibis.date(cleaned.end.isoformat()))
        refuse_days(source, whole, source.fetch(day_facts(all_days)).to_pylist()[0])
        days = purchase_days(all_days, whole)
        refuse_logs(source, statistics, days, cleaned.end)
        names = segments_of(days)
        extra = [name for name in MARGINS if "margins" in days.columns]
        columns = {"customer": as_text(days.customer)} | {name: days[name] for name in (*names, *extra)}
        table = source.fetch(days.select("day", "amount", **columns))
        currency = whole.currency or source.currency or "USD"
    if not table.num_rows:
        raise InputError("no customer of the log has a purchase day.")
    ids = table["customer"].cast(pa.large_binary())
    order = pc.sort_indices(
        pa.table({"customer": ids, "day": table["day"]}), [("customer", "ascending"), ("day", "ascending")]
    )
    table, ids = table.take(order), ids.take(order).combine_chunks()
    new = np.r_[True, pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)]
    start = np.flatnonzero(new)
    refuse_one(source, len(start))
    segments = {}
    for name, column in zip(names, whole.segments, strict=True):
        values = table[name].take(pa.array(start)).combine_chunks().cast(pa.string())
        values = pc.fill_null(values, "")
        if column not in more and (empty := pc.sum(pc.equal(values, "")).as_py()):
            raise InputError(
                f"{column!r} is empty on the first purchase day of {empty:,} of {len(values):,} customers: "
                "fill it, for instance with 'unknown', or take it out of data.segments."
            )
        labels = sorted(pc.unique(values).to_pylist())
        codes = pc.index_in(values, value_set=pa.array(labels, pa.string())).to_numpy()
        segments[column] = tuple(labels), codes.astype(np.int64)
    return History(
        customer=np.array(table["customer"].take(pa.array(start)).to_pylist(), dtype=object),
        start=np.r_[start, table.num_rows],
        day=table["day"].to_numpy().astype("datetime64[D]"),
        amount=_millionths(table["amount"]),
        segments={name: part for name, part in segments.items() if name not in more},
        features={name: part for name, part in segments.items() if name in more},
        margins={name: np.nan_to_num(table[name].cast(pa.float64()).to_numpy()) for name in extra},
        last=cleaned.end,
        time_unit=whole.time_unit,
        clock=whole.clock,
        currency=currency,
        exclude=whole.exclude.repeat_spend_above if whole.exclude else None,
        statistics=statistics,
    )


def _money(millionths: np.ndarray) -> np.ndarray:
    """Currency, rounded as Arrow rounds a decimal, so that fingerprints agree."""
    return millionths * 1e-6


def _millionths(column: Any) -> np.ndarray:
    """An exact decimal column as whole millionths."""
    import pyarrow as pa

    return np.rint(column.cast(pa.float64()).to_numpy() * MILLIONTHS).astype(np.int64)
