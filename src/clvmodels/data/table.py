"""A table of summaries that is already there: frequency, recency and T, a customer or more a row."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clvmodels.artifacts import DAYS_PER_UNIT, Calendar, Segment, Summary
from clvmodels.data import ledger, periods
from clvmodels.data.rows import MISSING
from clvmodels.data.sources import Source, short
from clvmodels.data.summary import MOST_SEGMENTS, fingerprint
from clvmodels.errors import InputError

if TYPE_CHECKING:
    from clvmodels.config import DataConfig
    from clvmodels.models.family import Statistic

NO_DATES = (
    "A table of summaries has no dates: first purchases are counted back from observation_end by T, and "
    "purchases cannot be followed over time."
)


def read(
    source: Source,
    config: DataConfig,
    statistics: tuple[Statistic, ...] = (),
    features: tuple[str, ...] = (),
) -> Summary:
    """Summary from a table of summaries; a row of weight n becomes n customers.

    Parameters
    ----------
    source
        Columns ``frequency``, ``recency``, ``T`` and, where the table has them,
        ``monetary_value``, ``weight``, ``customer``, ``margin``, ``segment_0``, ... and the
        statistics that families declare.

    Returns
    -------
    Summary
        Without a calendar; ``first_amount`` is NaN, and so is ``monetary_value`` where there is
        none. Customers without an id are numbered in the order of the rows.

    Raises
    ------
    InputError
        For values that are missing, not numbers, or not possible together; with the first rows.
    """
    rows = _Rows(source, source.fetch(source.table))
    names = rows.table.column_names
    x, t_x, T = (rows.numbers(name) for name in ("frequency", "recency", "T"))
    weight = rows.numbers("weight") if "weight" in names else np.ones(len(x))
    z = rows.numbers("monetary_value", where=x > 0) if "monetary_value" in names else np.full(len(x), np.nan)
    columns = {"frequency": x, "recency": t_x, "T": T, "monetary_value": np.where(x > 0, z, np.nan)}
    columns["first_amount"] = np.full(len(x), np.nan)
    more = ("margin", *(statistic.name for statistic in statistics))
    columns |= {name: rows.numbers(name) for name in more if name in names}
    _refuse(rows, config, columns, weight)
    times = weight.astype(int)
    customer, segments = _customers(rows, times), _segments(rows, config, features)
    order = np.argsort([name.encode() for name in customer], kind="stable")
    index = np.repeat(np.arange(len(x)), times)[order]
    if len(index) < 2:
        found = ledger.counted(len(index), "customer")
        raise InputError(f"{source.label} holds {found}: a model needs many.")
    assert config.observation_end is not None
    end = dt.date.fromisoformat(config.observation_end)
    first_day = _first_days(T, end, config)[index]
    summary = Summary(
        customer=customer[order],
        columns={name: np.ascontiguousarray(column[index]) for name, column in columns.items()},
        first_day=first_day,
        segments={n: replace(s, codes=s.codes[index]) for n, s in segments.items() if n not in features},
        features={n: replace(s, codes=s.codes[index]) for n, s in segments.items() if n in features},
        calendar=_no_calendar(),
        time_unit=config.time_unit,
        observation_start=first_day.min().item(),
        observation_end=end,
        holdout=0.0,
        currency=config.currency or source.currency or "USD",
        ledger={},
        fingerprint="",
        clock=config.clock,
    )
    summary = replace(summary, ledger=_ledger(source, config, summary, rows.table.num_rows, weight))
    return replace(summary, fingerprint=fingerprint(summary))


@dataclass(frozen=True)
class _Rows:
    """The table in memory, and how messages name its columns and rows."""

    source: Source
    table: Any

    def numbers(self, name: str, where: np.ndarray | None = None) -> np.ndarray:
        """A column as float64, NaN where it is missing, which it may be outside ``where`` only."""
        import pyarrow as pa

        column = self.table[name].combine_chunks()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            values = np.array([_number(text) for text in column.to_pylist()], float)
            unread = np.isinf(values)
            self.refuse(unread, name, "are not numbers", "write them like 12 or 3.5")
        elif (
            pa.types.is_floating(column.type)
            or pa.types.is_integer(column.type)
            or (pa.types.is_decimal(column.type))
        ):
            values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        else:
            raise InputError(f"{self.source.column(name)} is of type {column.type}: it must hold numbers.")
        need = np.ones(len(values), bool) if where is None else where
        self.refuse(need & np.isnan(values), name, "are missing", "fill them or leave those rows out")
        self.refuse(np.isinf(values), name, "are infinite", "correct them")
        return values + 0.0

    def texts(self, name: str, fix: str) -> list[str]:
        """A column as text, nowhere missing."""
        texts = [None if value is None else str(value) for value in self.table[name].to_pylist()]
        empty = np.array([text is None or not text.strip() for text in texts])
        self.refuse(empty, name, "are missing", fix)
        return [text for text in texts if text is not None]

    def refuse(self, bad: np.ndarray, name: str, what: str, fix: str) -> None:
        """Raise for the rows that are bad, naming the first."""
        if not bad.any():
            return
        first = np.flatnonzero(bad)[:3]
        values = self.table[name].take(first).to_pylist()
        kind = "line" if self.source.first_row == 2 else "row"
        shown = [
            f"{short(str(value), 40)} ({kind} {row + self.source.first_row:,})"
            if len(self.source.parts) == 1
            else short(str(value), 40)
            for row, value in zip(first, values, strict=True)
        ]
        raise InputError(
            f"{self.source.column(name)}: {bad.sum():,} of {len(bad):,} values {what}, first "
            f"{', '.join(shown)}: {fix}."
        )


def _number(text: str | None) -> float:
    """The number that a text holds, NaN where there is none, inf where it cannot be read."""
    if text is None or text.strip().lower() in MISSING:
        return np.nan
    try:
        return float(text)
    except ValueError:
        return np.inf


def _refuse(rows: _Rows, config: DataConfig, columns: dict[str, np.ndarray], weight: np.ndarray) -> None:
    """Raise for numbers that are not those of customers."""
    x, t_x, T = columns["frequency"], columns["recency"], columns["T"]
    for name, values in (("frequency", x), ("recency", t_x), ("T", T), ("weight", weight)):
        rows.refuse(values < 0, name, "are negative", "correct them")
    rows.refuse(x != np.round(x), "frequency", "are not whole numbers", "it counts repeat purchases")
    rows.refuse(weight != np.round(weight), "weight", "are not whole numbers", "it counts customers")
    since = "recency is the time from the first purchase to the last, not the time since the last"
    rows.refuse((x == 0) & (t_x > 0), "recency", "are above 0 without a repeat purchase", since)
    rows.refuse((x > 0) & (t_x == 0), "recency", "are 0 with repeat purchases", since)
    rows.refuse(t_x > T, "recency", "are later than T", "T is the time from the first purchase to the end")
    if config.clock == "discrete":
        for name, values in (("recency", t_x), ("T", T)):
            fix = "a discrete clock counts opportunities; for exact times set data.clock to continuous"
            rows.refuse(values != np.round(values), name, "are not whole numbers", fix)
        rows.refuse(x > t_x, "frequency", "are larger than recency", "there is one purchase at most a period")
    if "monetary_value" in rows.table.column_names:
        rows.refuse(columns["monetary_value"] < 0, "monetary_value", "are negative", "correct them")
    if "margin" in columns:
        rows.refuse(columns["margin"] > 1, "margin", "are above 1", "write 30 % as 0.3")
    if not T.any():
        raise InputError(f"{rows.source.column('T')} is 0 in all {len(T):,} rows: nobody was observed.")


def _customers(rows: _Rows, times: np.ndarray) -> np.ndarray:
    """An id for every customer, in the order of the rows."""
    total = int(times.sum())
    if "customer" not in rows.table.column_names:
        return np.array([f"{i + 1:0{len(str(total))}}" for i in range(total)], dtype=object)
    many = "with data.columns.customer a row is one customer; leave one of customer and weight out"
    rows.refuse(times != 1, "weight", "are not 1", many)
    ids = rows.texts("customer", "every customer needs an id")
    _, first = np.unique(ids, return_index=True)
    again = np.ones(len(ids), bool)
    again[first] = False
    rows.refuse(again, "customer", "stand for a customer seen before", "a customer has one row")
    return np.array(ids, dtype=object)


def _segments(rows: _Rows, config: DataConfig, features: tuple[str, ...]) -> dict[str, Segment]:
    out = {}
    for i, name in enumerate(config.segments):
        if name in features:
            found = rows.table[f"segment_{i}"].to_pylist()
            texts = ["" if value is None else str(value).strip() for value in found]
        else:
            fix = "fill them, for instance with 'unknown', or leave out the segment"
            texts = rows.texts(f"segment_{i}", fix)
        labels, codes = np.unique(texts, return_inverse=True)
        if len(labels) > MOST_SEGMENTS and name not in features:
            raise InputError(
                f"{rows.source.column(f'segment_{i}')} has {len(labels):,} values: a segment has at most "
                f"{MOST_SEGMENTS:,}; group it, or take it out of data.segments."
            )
        out[name] = Segment(codes=codes.astype(np.int64), labels=tuple(map(str, labels)))
    return out


def _first_days(T: np.ndarray, end: dt.date, config: DataConfig) -> np.ndarray:
    """First day of the first purchase's period, or the day itself, counted back from the end."""
    if config.clock == "discrete":
        return periods.first_day(periods.number(end, config.time_unit) - T.astype(int), config.time_unit)
    return np.datetime64(end) - np.rint(T * DAYS_PER_UNIT[config.time_unit]).astype("timedelta64[D]")


def _no_calendar() -> Calendar:
    none = np.zeros(0)
    return Calendar(
        day=none.astype("datetime64[D]"),
        first_orders=none,
        repeat_orders=none,
        first_amount=none,
        repeat_amount=none,
    )


def _ledger(
    source: Source, config: DataConfig, summary: Summary, rows: int, weight: np.ndarray
) -> dict[str, object]:
    x, z = summary["frequency"], summary["monetary_value"]
    spend = Decimal(f"{np.nansum(x * z):.6f}")
    none = {"count": 0, "money": Decimal(0)}
    zero = {key: none[kind] for key, (_, kind) in ledger.KEYS.items() if kind in none}
    notes = [NO_DATES]
    if config.currency is None and source.currency is None:
        notes.append("currency not given: amounts are taken to be USD.")
    if empty := int((weight == 0).sum()):
        notes.append(f"{ledger.counted(empty, 'row')} with weight 0: nobody.")
    return ledger.reconcile(
        zero
        | {
            "source": Path(config.source).name if config.source else source.label,
            "engine": source.backend.name,
            "files": source.files,
            "currency": summary.currency,
            "rows_read": rows,
            "rows_used": rows,
            "purchase_days": int(x.sum()) + len(x),
            "repeat_days": int(x.sum()),
            "customers_read": len(x),
            "customers": len(x),
            "repeat_customers": int((x > 0).sum()),
            "first_date": None,
            "last_date": None,
            "observation_start": summary.observation_start.isoformat(),
            "observation_end": summary.observation_end.isoformat(),
            "holdout_end": None,
            "spend_read": spend,
            "spend_summary": spend,
            "segments": {
                name: {"values": len(segment.labels), "several": 0}
                for name, segment in summary.segments.items()
            },
            "notes": notes,
        }
    )
