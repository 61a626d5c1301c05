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

from clvmodels.artifacts import DAYS_PER_UNIT, WEEKS, Calendar, Segment, Summary
from clvmodels.data import ledger, periods
from clvmodels.data.rows import SUMS, Cleaned, as_text, clean, refunded, segments_of, zero
from clvmodels.data.sources import Source, opened
from clvmodels.errors import InputError

if TYPE_CHECKING:
    from clvmodels.config import DataConfig
    from clvmodels.models.family import Statistic

MARGINS = ("weight", "weighted", "margins", "rows")
"""Sums of a customer-day from which a margin is averaged."""
MOST_SEGMENTS = 1000
WEEK = 7
PIECE = 100_000
"""Ids that are made to text at once."""
PARTS = 1e9
"""What is averaged within a customer is summed over customers in whole billionths, in any order."""


def summarise(
    config: DataConfig,
    *,
    transactions: Any = None,
    statistics: tuple[Statistic, ...] = (),
    margin_column: str | None = None,
    features: tuple[str, ...] = (),
    base: Path = Path("."),
    cohorts: bool = False,
    daily_by: str | None = None,
    own_means: bool = False,
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
    daily_by
        One of ``config.segments`` by which the calendar has repeat purchases as well.
    own_means
        Whether the calendar has what customers paid by week against their own mean.
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
        return summary_of(source, config, statistics, more, cohorts, daily_by, own_means)


def summary_of(
    source: Source,
    config: DataConfig,
    statistics: tuple[Statistic, ...] = (),
    features: tuple[str, ...] = (),
    cohorts: bool = False,
    daily_by: str | None = None,
    own_means: bool = False,
) -> Summary:
    """:func:`summarise` of a source that is open; ``features`` are the segments that only covariates need."""
    import ibis

    if config.kind == "summary":
        from clvmodels.data.table import read

        return read(source, config, statistics, features)
    cleaned = clean(source, config)
    facts = dict(cleaned.facts)
    refuse_days(source, config, facts)
    days = purchase_days(cleaned.days, config)
    excluded = {"customers": 0, "spend": None}
    if config.exclude:
        left_out = _excluded(days, config.exclude.repeat_spend_above, cleaned.end)
        totals = left_out.aggregate(customers=left_out.count(), spend=left_out.spend.sum())
        excluded = source.fetch(totals).to_pylist()[0]
        days = source.keep(days.anti_join(left_out, "customer"))
    refuse_logs(source, statistics, days, cleaned.end)
    holdout = cleaned.holdout_end is not None
    grouped = _grouped(days, config.time_unit, cleaned.end, statistics, config.clock, holdout=holdout)
    grouped = source.keep(grouped)
    daily = source.fetch(_daily(days, grouped, cleaned.end, holdout=holdout))
    facts |= source.fetch(_customer_facts(grouped, cleaned.end)).to_pylist()[0]
    facts["customers"] = facts["found"]
    if config.exclude or facts["refunded"] or facts["zero"]:
        everybody = cleaned.days.aggregate(customers=cleaned.days.customer.nunique())
        facts |= source.fetch(everybody).to_pylist()[0]
    refuse_one(source, facts["customers"])
    amounts = source.fetch(_by_cohort(days, grouped, cleaned.end)) if cohorts else None
    parted = None
    if daily_by is not None:
        column = f"segment_{config.segments.index(daily_by)}"
        parted = source.fetch(_by_segment(days, grouped, cleaned.end, column))
    counted, _ = _counted(config.time_unit, config.clock)
    against = _against_own_mean(source, days, grouped, cleaned.end, counted) if own_means else None
    source.drop(cleaned.days)
    table = _shaped(grouped, config.time_unit, cleaned.end, statistics, config.clock)
    table = table.filter(table.first_day <= ibis.date(cleaned.end.isoformat()))
    if source.owned:  # DuckDB compares text by its bytes and sorts what does not fit into memory
        table = table.order_by("customer")
    found = source.fetch(table)
    source.drop(grouped)
    summary = _assemble(source, config, cleaned, facts, excluded, found, daily, statistics, features)
    calendar = summary.calendar
    if amounts is not None:
        calendar = _with_cohorts(calendar, amounts, counted)
    if parted is not None and daily_by is not None:
        calendar = _with_segments(calendar, parted, counted, summary.segments[daily_by].labels)
    if against is not None:
        calendar = replace(calendar, **against)
    return replace(summary, calendar=calendar)


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


def purchase_days(days: Any, config: DataConfig) -> Any:
    """The customer-days that are purchases."""
    if config.zero_days == "drop":
        days = days.filter(~zero(days))
    if "lowest" not in days.columns:
        return days
    if config.negative_days == "zero":
        return days.mutate(amount=refunded(days).ifelse(0, days.amount).cast(days.amount.type()))
    return days.filter(~refunded(days))


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
        Ibis table ``customer`` (text or whole numbers), ``day``, ``amount`` (decimal) and the merged
        segment and margin columns, one row per purchase day.
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
        ``holdout_amount`` an exact decimal.
    """
    return _shaped(_grouped(days, time_unit, end, statistics, clock), time_unit, end, statistics, clock)


def _grouped(
    days: Any,
    time_unit: str,
    end: dt.date,
    statistics: tuple[Statistic, ...] = (),
    clock: str = "continuous",
    *,
    holdout: bool = True,
) -> Any:
    """Exact sums of each customer's purchase days; without a holdout no day is after ``end``."""
    import ibis

    counted, per = _counted(time_unit, clock)
    if any(s.of == "interval" for s in statistics):
        before = days.day.lag().over(ibis.window(group_by="customer", order_by="day"))
        days = days.mutate(interval=periods.between(before, days.day, counted) / per)
    seen = days.day <= _last_day(end, counted) if holdout else None
    columns = {
        "first_day": days.day.min(),
        "last_day": days.day.max(where=seen),
        "days": days.count(where=seen),
        "spend": days.amount.sum(where=seen),
        "first_amount": days.amount.argmin(days.day),
    }
    if seen is not None:
        columns |= {
            "holdout_frequency": days.count(where=~seen),
            "holdout_amount": days.amount.sum(where=~seen).fill_null(0),
        }
    for name in segments_of(days):
        columns[name] = days[name].fill_null("").argmin(days.day)
        columns[f"{name}_several"] = days[name].min(where=seen) < days[f"{name}_last"].max(where=seen)
    if "margins" in days.columns:
        for name in MARGINS:
            columns[name] = days[name].sum(where=seen)
    for i, statistic in enumerate(statistics):
        columns[f"statistic_{i}"] = _statistic(days, statistic, seen)
    return days.group_by("customer").aggregate(**columns)


def _shaped(grouped: Any, time_unit: str, end: dt.date, statistics: tuple[Statistic, ...], clock: str) -> Any:
    """The statistics of models from the sums of each customer."""
    counted, _ = _counted(time_unit, clock)
    frequency = grouped.days - 1
    some = frequency > 0
    repeat = grouped.spend - grouped.first_amount
    out = {
        "customer": as_text(grouped.customer),
        "first_day": grouped.first_day,
        "frequency": frequency.cast("float64"),
        "recency": periods.between(grouped.first_day, grouped.last_day, counted),
        "T": periods.between(grouped.first_day, _last_day(end, counted), counted),
        "monetary_value": some.ifelse(repeat.cast("float64") / frequency, None),
        "first_amount": grouped.first_amount.cast("float64"),
    }
    if "holdout_frequency" in grouped.columns:
        out["holdout_frequency"] = grouped.holdout_frequency.cast("float64")
        out["holdout_amount"] = grouped.holdout_amount
    if "weight" in grouped.columns:
        by_weight = grouped.weighted.cast("float64") / grouped.weight.nullif(0).cast("float64")
        out["margin"] = by_weight.fill_null(grouped.margins.cast("float64") / grouped.rows)
    for i, statistic in enumerate(statistics):
        value = grouped[f"statistic_{i}"].fill_null(0).cast("float64")
        value = value / frequency if statistic.reduce == "mean" else value
        out[f"statistic_{i}"] = some.ifelse(value, 0.0)
    rest = [name for name in grouped.columns if name.startswith("segment_")]
    return grouped.select(**out, **{name: grouped[name] for name in rest})


def _counted(time_unit: str, clock: str) -> tuple[str, float]:
    """What durations are counted in, and how many of it a time unit has."""
    return ("day", DAYS_PER_UNIT[time_unit]) if clock == "continuous" else (time_unit, 1.0)


def _last_day(end: dt.date, counted: str) -> Any:
    import ibis

    return periods.start_of(ibis.date(end.isoformat()), counted)


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


def _customer_facts(grouped: Any, end: dt.date) -> Any:
    """Customers and exact sums of their spend, by whether they had come by ``end``."""
    import ibis

    known = grouped.first_day <= ibis.date(end.isoformat())
    facts = {
        "found": grouped.count(),
        "later": grouped.count(where=~known),
        "spend_summary": grouped.spend.sum(where=known),
    }
    if "holdout_amount" in grouped.columns:
        facts |= {
            "holdout_days": grouped.holdout_frequency.sum(where=known),
            "spend_holdout": grouped.holdout_amount.sum(where=known),
            "spend_later": grouped.holdout_amount.sum(where=~known),
        }
    return grouped.aggregate(**facts)


def _daily(days: Any, grouped: Any, end: dt.date, *, holdout: bool) -> Any:
    """First and repeat purchase days and amounts by day; repeats of customers who had come by ``end``."""
    import ibis

    last = ibis.date(end.isoformat())
    every = days.group_by("day").aggregate(n=days.count(), paid=days.amount.sum())
    firsts = grouped.group_by(day=grouped.first_day).aggregate(
        n=grouped.count(), paid=grouped.first_amount.sum()
    )

    def part(table: Any, *, first: bool, repeat: int) -> Any:
        """First and repeat orders and amounts, counted once, not (0) or taken away (-1)."""
        orders, paid = (ibis.literal(0).cast(column.type()) for column in (table.n, table.paid))
        return table.select(
            "day",
            first_orders=table.n if first else orders,
            first_amount=table.paid if first else paid,
            repeat_orders={1: table.n, 0: orders, -1: -table.n}[repeat],
            repeat_amount={1: table.paid, 0: paid, -1: -table.paid}[repeat],
        )

    parts = [
        part(every, first=False, repeat=1),
        part(firsts.filter(firsts.day <= last), first=True, repeat=-1),
    ]
    if holdout:
        late = grouped.filter(grouped.first_day > last).select("customer")
        later = days.filter(days.day > last).semi_join(late, "customer")
        later = later.group_by("day").aggregate(n=later.count(), paid=later.amount.sum())
        parts += [
            part(firsts.filter(firsts.day > last), first=True, repeat=0),
            part(later, first=False, repeat=-1),
        ]
    stacked = parts[0].union(*parts[1:])
    names = ("first_orders", "first_amount", "repeat_orders", "repeat_amount")
    return stacked.group_by("day").aggregate(**{name: stacked[name].sum() for name in names})


def _by_cohort(days: Any, grouped: Any, end: dt.date) -> Any:
    """Amounts by day and month of the first purchase, of customers whose first is by ``end``."""
    import ibis

    known = grouped.filter(grouped.first_day <= ibis.date(end.isoformat()))
    known = known.select("customer", month=periods.start_of(known.first_day, "month"))
    joined = days.join(known, "customer")
    sums = joined.group_by("month", "day").aggregate(amount=joined.amount.sum())
    return sums.order_by("month", "day")


def _with_cohorts(calendar: Calendar, found: Any, counted: str) -> Calendar:
    """The calendar with what :func:`_by_cohort` found."""
    first = int(periods.number(calendar.day[0], counted))
    return replace(
        calendar,
        cohort_month=found["month"].to_numpy().astype("datetime64[M]").astype(float),
        cohort_day=(periods.number(found["day"].to_numpy(), counted) - first).astype(float),
        cohort_amount=_floats(found["amount"]),
    )


def _by_segment(days: Any, grouped: Any, end: dt.date, column: str) -> Any:
    """Repeat purchases by day and segment up to ``end``."""
    import ibis

    last = ibis.date(end.isoformat())
    known = grouped.select("customer", "first_day", label=grouped[column])
    joined = days.filter(days.day <= last).select("customer", "day").join(known, "customer")
    repeat = joined.filter(joined.day > joined.first_day)
    counts = repeat.group_by("label", "day").aggregate(orders=repeat.count())
    return counts.order_by("label", "day")


def _with_segments(calendar: Calendar, found: Any, counted: str, labels: tuple[str, ...]) -> Calendar:
    """The calendar with what :func:`_by_segment` found."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first = int(periods.number(calendar.day[0], counted))
    text = found["label"].combine_chunks().cast(pa.string())
    codes = _floats(pc.index_in(text, value_set=pa.array(labels, pa.string())))
    days = (periods.number(found["day"].to_numpy(), counted) - first).astype(float)
    order = np.lexsort((days, codes))  # engines sort text in more than one way
    return replace(
        calendar,
        segment_code=codes[order],
        segment_day=days[order],
        segment_orders=_floats(found["orders"])[order],
    )


def _against_own_mean(
    source: Source, days: Any, grouped: Any, end: dt.date, counted: str
) -> dict[str, np.ndarray]:
    """``returns``, ``baskets``, ``squares``, ``shares`` and ``pairs`` of the calendar.

    Customers with an amount below 0 (refunds) or nothing but zeros have no mean to hold against.
    """
    import ibis

    last = ibis.date(end.isoformat())
    known = grouped.select("customer", "first_day")
    repeat = days.filter(days.day <= last).select("customer", "day", "amount").join(known, "customer")
    repeat = repeat.filter(repeat.day > repeat.first_day)
    own = repeat.group_by("customer").aggregate(
        n=repeat.count().cast("float64"),
        mean=repeat.amount.sum().cast("float64") / repeat.count().cast("float64"),
        least=repeat.amount.min(),
    )
    own = own.filter((own.n >= 2) & (own["mean"] > 0) & (own.least >= 0)).select("customer", "n", "mean")
    ago = periods.between(repeat.day, _last_day(end, counted), counted)
    ago = (ago // (WEEK if counted == "day" else 1)).cast("int64")
    joined = repeat.mutate(ago=(ago >= WEEKS).ifelse(WEEKS, ago)).join(own, "customer")
    ratio = joined.amount.cast("float64") / joined["mean"]

    def whole(value: Any) -> Any:
        return (value * PARTS).round().cast("int64")

    by_week = source.keep(
        joined.group_by("customer", "ago").aggregate(
            k=joined.count().cast("int64"),
            n=joined.n.max(),
            baskets=whole(ratio).sum().cast("int64"),
            squares=whole(ratio * ratio).sum().cast("int64"),
        )
    )
    sums = by_week.group_by("ago").aggregate(
        returns=by_week.k.sum(), baskets=by_week.baskets.sum(), squares=by_week.squares.sum(),
        shares=whole(by_week.k / by_week.n).sum(),
    )  # fmt: skip
    other = by_week.select("customer", upto="ago", others="k")
    both = by_week.join(other, "customer")
    both = both.filter(both.ago >= both.upto)
    both = both.group_by("ago", "upto").aggregate(pairs=whole(both.k * both.others / both.n).sum())
    one, two = source.fetch(sums), source.fetch(both)
    source.drop(by_week)
    at, a, b = (
        _floats(table[name]).astype(int) for table, name in ((one, "ago"), (two, "ago"), (two, "upto"))
    )
    weeks = int(at.max(initial=-1)) + 1
    out = {name: np.zeros(weeks) for name in ("returns", "baskets", "squares", "shares")}
    for name, column in out.items():
        column[weeks - 1 - at] = _floats(one[name]) / (1.0 if name == "returns" else PARTS)
    pairs = np.zeros((weeks, weeks))
    pairs[weeks - 1 - a, weeks - 1 - b] = pairs[weeks - 1 - b, weeks - 1 - a] = _floats(two["pairs"]) / PARTS
    return out | {"pairs": pairs}


def refuse_days(source: Source, config: DataConfig, facts: dict[str, Any]) -> None:
    """Raise for customer-days that refunds bring to zero or below, where the config says so."""
    if facts["refunded"] and config.negative_days == "error":
        raise InputError(
            f"{source.column('amount')}: refunds bring {facts['refunded']:,} of {facts['days']:,} "
            "customer-days to zero or below and data.negative_days is 'error': choose 'drop' or 'zero'."
        )


def refuse_one(source: Source, customers: int) -> None:
    """A single customer makes no model."""
    if customers == 1:
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
    if table.num_rows < 2:
        what = "no customer has" if not table.num_rows else "only one customer has"
        raise InputError(
            f"{source.label}: {what} a purchase day by {cleaned.end}: a model needs many customers."
        )
    if not source.owned:
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
        "holdout_days": int(facts.get("holdout_days") or 0),
        "customers_read": facts["customers"],
        "customers_without_purchase": facts["customers"] - facts["found"] - excluded["customers"],
        "customers_later": facts["later"],
        "customers_excluded": excluded["customers"],
        "customers": table.num_rows,
        "repeat_customers": int((columns["frequency"] > 0).sum()),
        "observation_start": str(first_day.min()),
        "observation_end": cleaned.end.isoformat(),
        "holdout_end": cleaned.holdout_end and cleaned.holdout_end.isoformat(),
        "spend_refunded_days": facts["refunded_sum"] or Decimal(0),
        "spend_later_customers": facts.get("spend_later") or Decimal(0),
        "spend_excluded": excluded["spend"] or Decimal(0),
        "spend_holdout": facts.get("spend_holdout") or Decimal(0),
        "spend_summary": facts["spend_summary"] or Decimal(0),
        "segments": about,
        "notes": notes,
    }
    window = [periods.number(day, counted) for day in (cleaned.end, cleaned.holdout_end or cleaned.end)]
    holdout = float(window[1] - window[0])
    summary = Summary(
        customer=table["customer"].to_numpy(),
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


def refuse_logs(source: Source, statistics: tuple[Statistic, ...], days: Any, end: dt.date) -> None:
    """A purchase of amount zero has no logarithm."""
    import ibis

    logs = [s.name for s in statistics if s.of == "spend" and s.transform.startswith("log")]
    if not logs:
        return
    days = days.filter(days.day <= ibis.date(end.isoformat()))
    free = days.group_by("customer").aggregate(
        zeros=days.count(where=days.amount == 0), first=days.amount.argmin(days.day)
    )
    asked = free.aggregate(zeros=free.zeros.sum(), firsts=free.count(where=free["first"] == 0))
    found = source.fetch(asked).to_pylist()[0]
    if zeros := int(found["zeros"] or 0) - found["firsts"]:
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
    plain: dict[str, Any] = {
        "segments": {name: s.labels for name, s in sorted(summary.segments.items())},
        "window": [summary.observation_end.isoformat(), round(summary.holdout * per)],
    }
    if discrete:
        plain["opportunities"] = summary.time_unit
    # The text of one JSON object, in pieces, so that millions of ids are not held twice.
    for low in range(0, len(summary), PIECE):
        ids = json.dumps(summary.customer[low : low + PIECE].tolist())[1:-1]
        digest.update(((", " if low else '{"customer": [') + ids).encode())
    digest.update(f"], {json.dumps(plain, sort_keys=True)[1:]}".encode())
    arrays = [summary.first_day.astype(np.int64)]
    arrays += [np.rint(summary[name] * per) for name in ("recency", "T")]
    exact = ("frequency", "monetary_value", "first_amount", "margin", "holdout_frequency", "holdout_amount")
    arrays += [summary[name] for name in exact if name in summary.columns]
    arrays += [segment.codes for _, segment in sorted(summary.segments.items())]
    arrays += [summary.calendar.repeat_amount, summary.calendar.first_amount]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
