"""From rows to customers: one Ibis expression of two group-bys, run where the data are.

Purchases of a customer on one day are one purchase; durations are days divided by the days
of the time unit, not rounded. On a discrete clock a calendar period takes the place of the day
(its first day stands for it), and durations are counted in periods.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clvmodels.artifacts import DAYS_PER_UNIT, Calendar, Segment, Summary
from clvmodels.data import ledger, periods
from clvmodels.data.rows import Cleaned, clean
from clvmodels.data.sources import Source, opened
from clvmodels.errors import InputError

if TYPE_CHECKING:
    from clvmodels.config import DataConfig
    from clvmodels.models.family import Statistic

SUMS = "decimal(38, 12)"
"""Type in which statistics are summed, so that sums do not depend on the order of days."""
MOST_SEGMENTS = 1000


def summarise(
    config: DataConfig,
    *,
    transactions: Any = None,
    statistics: tuple[Statistic, ...] = (),
    margin_column: str | None = None,
    features: tuple[str, ...] = (),
    base: Path = Path("."),
    cohorts: bool = False,
) -> Summary:
    """Summary of a transaction log, or of a table of summaries, with the ledger of what was read.

    Parameters
    ----------
    config
        The ``data`` section of a config.
    transactions
        A table instead of ``config.source``: pandas, Polars, Arrow, or an Ibis table, which is
        reduced in its own backend.
    statistics
        Columns that the families declare.
    margin_column
        Column of margin ratios per row; the summary's ``margin`` is their mean over the
        customer's purchase days in the calibration window, weighted by positive amounts.
    features
        Columns that covariates and pooling need, read as segments are; they may be empty.
    cohorts
        Whether the calendar has amounts by month of the first purchase.
    base
        Folder to which a relative ``config.source`` refers.

    Returns
    -------
    Summary
        Durations in ``config.time_unit``, amounts in the currency. The calendar has every day
        from the first date to the end of the holdout (or calibration) window; its first orders
        are everybody's, its repeat orders those of the summary's customers. A segment is the
        customer's value on the first purchase day, the alphabetically first if that day has
        several. On a discrete clock "day" is "period of ``config.time_unit``" throughout.

    Raises
    ------
    InputError
        If the log cannot be read or does not make a summary; the message says what to do.
    """
    names = [statistic.name for statistic in statistics]
    more = tuple(name for name in features if name not in config.segments)
    config = config.model_copy(update={"segments": (*config.segments, *more)})
    with opened(config, transactions, margin_column, base, names) as source:
        return summary_of(source, config, statistics, more, cohorts)


def summary_of(
    source: Source,
    config: DataConfig,
    statistics: tuple[Statistic, ...] = (),
    features: tuple[str, ...] = (),
    cohorts: bool = False,
) -> Summary:
    """:func:`summarise` of a source that is open; ``features`` are the segments that only covariates need."""
    if config.kind == "summary":
        from clvmodels.data.table import read

        return read(source, config, statistics, features)
    cleaned = clean(source, config)
    rows = cleaned.rows
    if config.clock == "discrete":
        rows = rows.mutate(day=periods.start_of(rows.day, config.time_unit))
    all_days = source.keep(_customer_days(rows))
    facts = source.fetch(_day_facts(all_days)).to_pylist()[0]
    _refuse_days(source, config, facts, cleaned)
    days = _purchase_days(all_days, config)
    excluded = {"customers": 0, "spend": None}
    if config.exclude:
        left_out = _excluded(days, config.exclude.repeat_spend_above, cleaned.end)
        totals = left_out.aggregate(customers=left_out.count(), spend=left_out.spend.sum())
        excluded = source.fetch(totals).to_pylist()[0]
        days = source.keep(days.anti_join(left_out, "customer"))
    table = source.fetch(customers(days, config.time_unit, cleaned.end, statistics, config.clock))
    daily = source.fetch(_daily(days, cleaned.end))
    summary = _assemble(source, config, cleaned, facts, excluded, table, daily, statistics, features)
    if not cohorts:
        return summary
    found = source.fetch(_by_cohort(days, cleaned.end))
    counted = config.time_unit if config.clock == "discrete" else "day"
    return replace(summary, calendar=_with_cohorts(summary.calendar, found, counted))


def check(
    config: DataConfig,
    *,
    transactions: Any = None,
    statistics: tuple[Statistic, ...] = (),
    margin_column: str | None = None,
    base: Path = Path("."),
) -> dict[str, Any]:
    """Validate the data as :func:`summarise` would, with the same errors, and return the ledger."""
    summary = summarise(
        config, transactions=transactions, statistics=statistics, margin_column=margin_column, base=base
    )
    return dict(summary.ledger)


def _segments(table: Any) -> list[str]:
    return [name for name in table.columns if name.startswith("segment_") and name[8:].isdigit()]


def _customer_days(rows: Any) -> Any:
    """Merge the rows of a customer's day: amount, lowest amount, segments, margin sums."""
    columns = {"amount": rows.amount.sum(), "lowest": rows.amount.min()}
    for name in _segments(rows):
        columns |= {name: rows[name].min(), f"{name}_last": rows[name].max()}
    if "margin" in rows.columns:
        weight = (rows.amount > 0).ifelse(rows.amount, 0).cast("decimal(18, 6)")
        columns |= {
            "weight": weight.sum(),
            "weighted": (weight.cast("float64") * rows.margin.cast("float64")).cast(SUMS).sum(),
            "margins": rows.margin.sum(),
            "rows": rows.count(),
        }
    return rows.group_by("customer", "day").aggregate(**columns)


def _refunded(days: Any) -> Any:
    return (days.amount <= 0) & (days.lowest < 0)


def _zero(days: Any) -> Any:
    return (days.amount == 0) & (days.lowest == 0)


def _day_facts(days: Any) -> Any:
    return days.aggregate(
        customers=days.customer.nunique(),
        days=days.count(),
        refunded=days.count(where=_refunded(days)),
        refunded_sum=days.amount.sum(where=_refunded(days)),
        zero=days.count(where=_zero(days)),
    )


def _purchase_days(days: Any, config: DataConfig) -> Any:
    """The customer-days that are purchases."""
    if config.zero_days == "drop":
        days = days.filter(~_zero(days))
    if config.negative_days == "zero":
        return days.mutate(amount=_refunded(days).ifelse(0, days.amount).cast(days.amount.type()))
    return days.filter(~_refunded(days))


def _excluded(days: Any, limit: float, end: dt.date) -> Any:
    """Customers whose repeat purchases up to ``end`` sum to more than a limit, and all their spend."""
    import ibis

    grouped = days.group_by("customer").aggregate(
        first_amount=days.amount.argmin(days.day),
        seen=days.amount.sum(where=days.day <= ibis.date(end.isoformat())),
        spend=days.amount.sum(),
    )
    repeat = (grouped.seen - grouped.first_amount).cast("float64")
    return grouped.filter(repeat > limit).select("customer", "spend")


def customers(
    days: Any,
    time_unit: str,
    end: dt.date,
    statistics: tuple[Statistic, ...] = (),
    clock: str = "continuous",
) -> Any:
    """The customer summary as one Ibis expression over purchase days.

    Parameters
    ----------
    days
        Ibis table ``customer``, ``day``, ``amount`` (decimal) and the merged segment and margin
        columns, one row per purchase day.
    time_unit
        Unit of the intervals of which statistics are asked for.
    end
        Last day of the calibration window; later days count as holdout.
    statistics
        Columns that the families declare; only those of intervals need a window function.
    clock
        On a discrete clock ``day`` is the first day of a period.

    Returns
    -------
    Ibis table
        One row per customer, those whose first purchase is after ``end`` included. ``recency``
        and ``T`` are whole days, or periods (engines divide by a constant in more than one way),
        ``spend`` and ``holdout_amount`` exact decimals.
    """
    import ibis

    counted, per = ("day", DAYS_PER_UNIT[time_unit]) if clock == "continuous" else (time_unit, 1.0)
    last_day = periods.start_of(ibis.date(end.isoformat()), counted)
    if any(s.of == "interval" for s in statistics):
        before = days.day.lag().over(ibis.window(group_by="customer", order_by="day"))
        days = days.mutate(interval=periods.between(before, days.day, counted) / per)
    seen = days.day <= last_day
    columns = {
        "first_day": days.day.min(),
        "last_day": days.day.max(where=seen),
        "days": days.count(where=seen),
        "spend": days.amount.sum(where=seen),
        "first_amount": days.amount.argmin(days.day),
        "holdout_frequency": days.count(where=~seen),
        "holdout_amount": days.amount.sum(where=~seen).fill_null(0),
    }
    for name in _segments(days):
        columns[name] = days[name].fill_null("").argmin(days.day)
        columns[f"{name}_several"] = days[name].min(where=seen) < days[f"{name}_last"].max(where=seen)
    for name in ("weight", "weighted", "margins", "rows"):
        if name in days.columns:
            columns[name] = days[name].sum(where=seen)
    for i, statistic in enumerate(statistics):
        columns[f"statistic_{i}"] = _statistic(days, statistic, seen)
    grouped = days.group_by("customer").aggregate(**columns)
    frequency = grouped.days - 1
    some = frequency > 0
    repeat = grouped.spend - grouped.first_amount
    out = {
        "customer": grouped.customer,
        "first_day": grouped.first_day,
        "frequency": frequency.cast("float64"),
        "recency": periods.between(grouped.first_day, grouped.last_day, counted),
        "T": periods.between(grouped.first_day, last_day, counted),
        "monetary_value": some.ifelse(repeat.cast("float64") / frequency, None),
        "first_amount": grouped.first_amount.cast("float64"),
        "spend": grouped.spend,
        "holdout_frequency": grouped.holdout_frequency.cast("float64"),
        "holdout_amount": grouped.holdout_amount,
    }
    if "weight" in grouped.columns:
        by_weight = grouped.weighted.cast("float64") / grouped.weight.nullif(0).cast("float64")
        out["margin"] = by_weight.fill_null(grouped.margins.cast("float64") / grouped.rows)
    for i, statistic in enumerate(statistics):
        value = grouped[f"statistic_{i}"].fill_null(0).cast("float64")
        value = value / frequency if statistic.reduce == "mean" else value
        out[f"statistic_{i}"] = some.ifelse(value, 0.0)
    rest = [name for name in grouped.columns if name.startswith("segment_")]
    return grouped.select(**out, **{name: grouped[name] for name in rest})


def _statistic(days: Any, statistic: Statistic, seen: Any) -> Any:
    """Exact sum of a transformed quantity over a customer's repeat purchase days."""
    value = (days.interval if statistic.of == "interval" else days.amount).cast("float64")
    if statistic.transform.startswith("log"):
        value = (value > 0).ifelse(value, None).ln()
    if statistic.transform.endswith("square"):
        value = value * value
    value = value.cast(SUMS)
    total = value.sum(where=seen).fill_null(0)
    return total if statistic.of == "interval" else total - value.fill_null(0).argmin(days.day)


def _daily(days: Any, end: dt.date) -> Any:
    """First and repeat purchase days and amounts by day."""
    import ibis

    firsts = days.group_by("customer").aggregate(first_day=days.day.min())
    joined = days.join(firsts, "customer")
    first = joined.day == joined.first_day
    repeat = ~first & (joined.first_day <= ibis.date(end.isoformat()))
    return joined.group_by("day").aggregate(
        first_orders=joined.count(where=first),
        repeat_orders=joined.count(where=repeat),
        first_amount=joined.amount.sum(where=first),
        repeat_amount=joined.amount.sum(where=repeat),
        zero_repeats=joined.count(where=repeat & (joined.amount == 0)),
    )


def _by_cohort(days: Any, end: dt.date) -> Any:
    """Amounts by day and month of the first purchase, of customers whose first is by ``end``."""
    import ibis

    firsts = days.group_by("customer").aggregate(first_day=days.day.min())
    firsts = firsts.filter(firsts.first_day <= ibis.date(end.isoformat()))
    firsts = firsts.select("customer", month=periods.start_of(firsts.first_day, "month"))
    joined = days.join(firsts, "customer")
    grouped = joined.group_by("month", "day").aggregate(amount=joined.amount.sum())
    return grouped.order_by("month", "day")


def _with_cohorts(calendar: Calendar, found: Any, counted: str) -> Calendar:
    """The calendar with what :func:`_by_cohort` found."""
    first = int(periods.number(calendar.day[0], counted))
    return replace(
        calendar,
        cohort_month=found["month"].to_numpy().astype("datetime64[M]").astype(float),
        cohort_day=(periods.number(found["day"].to_numpy(), counted) - first).astype(float),
        cohort_amount=_floats(found["amount"]),
    )


def _refuse_days(source: Source, config: DataConfig, facts: dict[str, Any], cleaned: Cleaned) -> None:
    amount = source.column("amount")
    if facts["refunded"] and config.negative_days == "error":
        raise InputError(
            f"{amount}: refunds bring {facts['refunded']:,} of {facts['days']:,} customer-days to zero or "
            "below and data.negative_days is 'error': choose 'drop' or 'zero'."
        )
    if facts["customers"] == 1:
        raise InputError(f"{source.column('customer')} holds a single customer: a model needs many.")


def _assemble(
    source: Source,
    config: DataConfig,
    cleaned: Cleaned,
    facts: dict[str, Any],
    excluded: dict[str, Any],
    table: Any,
    daily: Any,
    statistics: tuple[Statistic, ...],
    more: tuple[str, ...] = (),
) -> Summary:
    """Arrays in order of customer id, the ledger and the fingerprint."""
    import pyarrow as pa
    import pyarrow.compute as pc

    counted = config.time_unit if config.clock == "discrete" else "day"
    found = table.num_rows
    in_time = pc.less_equal(table["first_day"], pa.scalar(cleaned.end, table["first_day"].type))
    later, table = table.filter(pc.invert(in_time)), table.filter(in_time)
    if table.num_rows < 2:
        what = "no customer has" if not table.num_rows else "only one customer has"
        raise InputError(
            f"{source.label}: {what} a purchase day by {cleaned.end}: a model needs many customers."
        )
    ids = table["customer"].cast(pa.large_binary())  # bytes: an order that knows no language
    table = table.take(pc.sort_indices(ids))
    first_day = table["first_day"].to_numpy().astype("datetime64[D]")
    names = ["frequency", "recency", "T", "monetary_value", "first_amount"]
    names += ["margin"] if "margin" in table.column_names else []
    columns = {name: _floats(table[name]) for name in names}
    if config.clock == "continuous":
        columns |= {name: columns[name] / DAYS_PER_UNIT[config.time_unit] for name in ("recency", "T")}
    columns |= {s.name: _floats(table[f"statistic_{i}"]) for i, s in enumerate(statistics)}
    if cleaned.holdout_end:
        columns |= {name: _floats(table[name]) for name in ("holdout_frequency", "holdout_amount")}
    if not columns["T"].any() and not columns["recency"].any():
        raise InputError(
            f"{source.column('date')}: all purchases up to {cleaned.end} fall on one {counted}, "
            f"{first_day[0]}: a model needs a span of time; look at data.date_format and "
            "data.observation_end."
        )
    calendar = _calendar(daily, first_day.min(), cleaned, counted)
    _refuse_logs(source, statistics, daily, cleaned)
    notes = [*cleaned.notes]
    if config.currency is None and source.currency is None:
        notes.append("currency not given: amounts are taken to be USD.")
    if facts["refunded"]:
        did = "are not purchases" if config.negative_days == "drop" else "are purchases of amount 0"
        notes.append(
            f"{ledger.counted(facts['refunded'], 'customer-day')} brought to zero or below by refunds {did}, "
            f"which leaves {facts['refunded_sum']:,.2f} out of the spend."
        )
    if facts["zero"]:
        did = "are not purchases" if config.zero_days == "drop" else "count as purchases of amount 0"
        notes.append(f"{ledger.counted(facts['zero'], 'customer-day')} of amount 0 without a refund {did}.")
    if free := int((columns["monetary_value"] == 0).sum()):
        notes.append(
            f"{ledger.counted(free, 'customer')} with repeat purchases of amount 0 only: a spend model is "
            "fitted without them."
        )
    if config.exclude:
        notes.append(
            f"{ledger.counted(excluded['customers'], 'customer')} left out by data.exclude: repeat purchases "
            f"up to {cleaned.end} of more than {config.exclude.repeat_spend_above:,.10g} in sum."
        )
    segments, about = {}, {}
    for i, name in enumerate(config.segments):
        segments[name], about[name] = _segment(source, table, f"segment_{i}", feature=name in more)
        if several := about[name]["several"]:
            notes.append(
                f"{ledger.counted(several, 'customer')} with more than one value of {name!r}: the value on "
                "the first purchase day counts, the alphabetically first of several on that day."
            )
    entries = cleaned.counts | {
        "source": Path(config.source).name if config.source else source.label,
        "engine": source.backend.name,
        "files": source.files,
        "currency": config.currency or source.currency or "USD",
        "customer_days": facts["days"],
        "refunded_days": facts["refunded"],
        "zero_days": facts["zero"],
        "purchase_days": int(columns["frequency"].sum()) + table.num_rows,
        "repeat_days": int(columns["frequency"].sum()),
        "holdout_days": int(_floats(table["holdout_frequency"]).sum()),
        "customers_read": facts["customers"],
        "customers_without_purchase": facts["customers"] - found - excluded["customers"],
        "customers_later": later.num_rows,
        "customers_excluded": excluded["customers"],
        "customers": table.num_rows,
        "repeat_customers": int((columns["frequency"] > 0).sum()),
        "observation_start": str(first_day.min()),
        "observation_end": cleaned.end.isoformat(),
        "holdout_end": cleaned.holdout_end and cleaned.holdout_end.isoformat(),
        "spend_refunded_days": facts["refunded_sum"] or Decimal(0),
        "spend_later_customers": _total(later["holdout_amount"]),
        "spend_excluded": excluded["spend"] or Decimal(0),
        "spend_holdout": _total(table["holdout_amount"]),
        "spend_summary": _total(table["spend"]),
        "segments": about,
        "notes": notes,
    }
    window = [periods.number(day, counted) for day in (cleaned.end, cleaned.holdout_end or cleaned.end)]
    holdout = float(window[1] - window[0])
    summary = Summary(
        customer=np.array(table["customer"].to_pylist(), dtype=object),
        columns=columns,
        first_day=first_day,
        segments={name: part for name, part in segments.items() if name not in more},
        features={name: part for name, part in segments.items() if name in more},
        calendar=calendar,
        time_unit=config.time_unit,
        observation_start=first_day.min().item(),
        observation_end=cleaned.end,
        holdout=holdout / DAYS_PER_UNIT[config.time_unit] if config.clock == "continuous" else holdout,
        currency=entries["currency"],
        ledger=ledger.reconcile(entries),
        fingerprint="",
        clock=config.clock,
    )
    return replace(summary, fingerprint=fingerprint(summary))


def _floats(column: Any) -> np.ndarray:
    """float64 with one kind of NaN for null and one kind of zero."""
    import pyarrow as pa

    values = column.cast(pa.float64()).to_numpy().astype(np.float64)
    return np.where(np.isnan(values), np.nan, values + 0.0)


def _total(column: Any) -> Decimal:
    """Exact sum of a decimal column."""
    import pyarrow.compute as pc

    return pc.sum(column).as_py() or Decimal(0)


def _segment(
    source: Source, table: Any, name: str, *, feature: bool = False
) -> tuple[Segment, dict[str, int]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = table[name].combine_chunks().cast(pa.string())
    empty = pc.sum(pc.equal(values, "")).as_py()
    if empty and not feature:
        raise InputError(
            f"{source.column(name)} is empty on the first purchase day of {empty:,} of {len(values):,} "
            "customers: fill it, for instance with 'unknown', or take it out of data.segments."
        )
    labels = sorted(pc.unique(values).to_pylist())
    if len(labels) > MOST_SEGMENTS and not feature:
        raise InputError(
            f"{source.column(name)} has {len(labels):,} values among {len(values):,} customers, nearly an "
            f"id: a segment has at most {MOST_SEGMENTS:,}; group it, or take it out of data.segments."
        )
    codes = pc.index_in(values, value_set=pa.array(labels, pa.string())).to_numpy().astype(np.int64)
    several = pc.sum(table[f"{name}_several"]).as_py() or 0
    return Segment(codes=codes, labels=tuple(labels)), {"values": len(labels), "several": several}


def _calendar(daily: Any, start: np.datetime64, cleaned: Cleaned, counted: str) -> Calendar:
    """Every day, or the last day of every period, of the window, zeros included."""
    first, last = (int(periods.number(day, counted)) for day in (start, cleaned.holdout_end or cleaned.end))
    every = np.arange(first, last + 1)
    place = periods.number(daily["day"].to_numpy(), counted) - first
    totals = {}
    for name in ("first_orders", "repeat_orders", "first_amount", "repeat_amount"):
        totals[name] = np.zeros(len(every))
        totals[name][place] = np.nan_to_num(_floats(daily[name]))
    return Calendar(day=periods.last_day(every, counted), **totals)


def _refuse_logs(source: Source, statistics: tuple[Statistic, ...], daily: Any, cleaned: Cleaned) -> None:
    """A purchase of amount zero has no logarithm."""
    import pyarrow as pa
    import pyarrow.compute as pc

    logs = [s.name for s in statistics if s.of == "spend" and s.transform.startswith("log")]
    if not logs:
        return
    seen = daily.filter(pc.less_equal(daily["day"], pa.scalar(cleaned.end, daily["day"].type)))
    if zeros := pc.sum(seen["zero_repeats"]).as_py():
        raise InputError(
            f"{source.column('amount')}: {ledger.counted(zeros, 'repeat purchase day')} of amount 0, "
            f"which has no logarithm for {', '.join(map(repr, logs))}: set data.zero_days and "
            "data.negative_days to 'drop', or choose another spend family."
        )


def fingerprint(summary: Summary) -> str:
    """sha256 of what the log says about customers, whatever the order of rows, engine or time unit.

    On a discrete clock the time unit counts: it decides what an opportunity is. It covers ids, days,
    amounts, margins, segments and windows; not the columns that families declare, which follow from
    the same purchases, nor features, so that models with and without them compare.
    """
    discrete = summary.clock == "discrete"
    per = 1.0 if discrete else DAYS_PER_UNIT[summary.time_unit]
    digest = hashlib.sha256()
    plain = {
        "customer": summary.customer.tolist(),
        "segments": {name: s.labels for name, s in sorted(summary.segments.items())},
        "window": [summary.observation_end.isoformat(), round(summary.holdout * per)],
    }
    if discrete:
        plain["opportunities"] = summary.time_unit
    digest.update(json.dumps(plain, sort_keys=True).encode())
    arrays = [summary.first_day.astype(np.int64)]
    arrays += [np.rint(summary[name] * per) for name in ("recency", "T")]
    exact = ("frequency", "monetary_value", "first_amount", "margin", "holdout_frequency", "holdout_amount")
    arrays += [summary[name] for name in exact if name in summary.columns]
    arrays += [segment.codes for _, segment in sorted(summary.segments.items())]
    arrays += [summary.calendar.repeat_amount, summary.calendar.first_amount]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
