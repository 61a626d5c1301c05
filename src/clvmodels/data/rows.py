"""Rows of the log with types, a customer id, a day, an exact amount, or the reason why not; merged by day.

Amounts are fixed-point decimals with six places: sums are exact, whatever the order of the
rows and the engine. A log may be larger than memory: it is read twice where it lies (once to judge it, once
to merge the rows of a customer's day), and of what is kept between queries the engine spills.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from clvmodels.data import periods
from clvmodels.data.ledger import counted
from clvmodels.data.sources import Source, short
from clvmodels.errors import InputError

if TYPE_CHECKING:
    from clvmodels.config import DataConfig

AMOUNT = "decimal(18, 6)"
LARGEST = 10**12
"""Amounts must be smaller than this in absolute value."""
MARGIN = "decimal(9, 6)"
SUMS = "decimal(38, 12)"
"""Type in which statistics are summed, so that sums do not depend on the order of days."""
MISSING = ("", "na", "nan", "nat", "null", "none", "n/a")
"""Texts of a date, amount or margin that mean that there is none, in any case of letters."""
ISO_DATE = r"^\s*\d{4}-\d{1,2}-\d{1,2}($|[ T])"
EARLIEST = dt.date(1900, 1, 1)
"""Days before are not dates of a log but years of two digits."""


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """The rows that take part, merged by customer and day, and what was counted on the way.

    Attributes
    ----------
    days
        Ibis table, a row per customer and day (of a discrete clock: first day of the period):
        ``customer`` (whole numbers as they came; :func:`as_text` makes ids of them), ``day``, ``amount``,
        ``lowest`` where there are negative amounts, ``rows``, and what is merged of margin and segments.
    facts
        Of the days: ``days``, ``refunded``, ``refunded_sum``, ``zero``.
    counts
        Entries of the ledger, money as Decimal.
    end, holdout_end
        Last day of the calibration window; last day of the holdout window or None.
    """

    days: Any
    facts: Mapping[str, Any]
    counts: dict[str, Any]
    notes: tuple[str, ...]
    end: dt.date
    holdout_end: dt.date | None


def clean(source: Source, config: DataConfig) -> Cleaned:
    """Give the rows types, count what is dropped and why, and settle the windows.

    Raises
    ------
    InputError
        For dates, amounts and margins that cannot be read, dates in the future, refunds where
        the config refuses them, and windows that do not fit the data.
    """
    today = dt.date.today()
    typed = source.table.select(**_columns(source, config))
    if any(source.table[name].type().is_string() for name in ("date", "amount")):
        typed = source.keep(typed)  # text is parsed once
    facts = source.fetch(_totals(typed, today)).to_pylist()[0]
    facts = {name: Decimal(0) if value is None else value for name, value in facts.items()}
    _refuse(source, config, facts, today)
    end, holdout_end, notes = _windows(source, config, facts, typed)
    used = [name for name in typed.columns if name not in ("raw_amount", "raw_margin")]
    inside = typed.filter(_valid(typed), typed.day <= (holdout_end or end)).select(used)
    if config.clock == "discrete":
        inside = inside.mutate(day=periods.start_of(inside.day, config.time_unit))
    days = source.keep(_merged(inside, **_form(source, facts)))
    within = _sums(source, days)
    days, left, found, duplicate, refunds = _dropped(source, config, facts, inside, days, within)
    if found and config.duplicates == "keep":
        notes.append(f"{counted(found, 'row')} equal to another in every column used; kept as purchases.")
    valid = facts["rows"] - facts["missing_id"] - facts["missing_date"] - facts["missing_amount"]
    spend_valid = facts["spend"] - facts["spend_missing_id"] - facts["spend_missing_date"]
    zone = getattr(source.table.date.type(), "timezone", None)
    if zone:
        notes.append(f"dates carry a time zone: days are those of {'UTC' if source.owned else 'the engine'}.")
    if facts["rounded"]:
        notes.append(f"{counted(facts['rounded'], 'amount')} with more than six decimals, rounded to six.")
    counts = {
        "rows_read": facts["rows"],
        "rows_missing_id": facts["missing_id"],
        "rows_missing_date": facts["missing_date"],
        "rows_missing_amount": facts["missing_amount"],
        "rows_after_window": valid - within.rows,
        "rows_duplicate": duplicate.rows,
        "rows_refund": refunds.rows,
        "rows_used": within.rows - duplicate.rows - refunds.rows,
        "duplicates_found": found,
        "negative_rows": facts["negative"],
        "negative_sum": facts["spend_negative"],
        "first_date": facts["first"].isoformat(),
        "last_date": facts["last"].isoformat(),
        "spend_read": facts["spend"],
        "spend_missing_id": facts["spend_missing_id"],
        "spend_missing_date": facts["spend_missing_date"],
        "spend_after_window": spend_valid - within.spend,
        "spend_duplicate": duplicate.spend,
        "spend_refund": refunds.spend,
    }
    return Cleaned(
        days=days, facts=left.facts, counts=counts, notes=tuple(notes), end=end, holdout_end=holdout_end
    )


@dataclass(frozen=True)
class _Sums:
    """Rows, what they sum to, and facts of the customer-days they are merged to."""

    rows: int
    spend: Decimal
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __sub__(self, other: _Sums) -> _Sums:
        return _Sums(self.rows - other.rows, self.spend - other.spend)


def _sums(source: Source, days: Any) -> _Sums:
    """Sums of merged rows."""
    more = {"rows": days.rows.sum(), "spend": days.amount.sum(), "several": days.count(where=days.rows > 1)}
    found = source.fetch(day_facts(days, **more)).to_pylist()[0]
    return _Sums(int(found["rows"] or 0), found["spend"] or Decimal(0), found)


def _dropped(
    source: Source, config: DataConfig, facts: dict[str, Any], inside: Any, days: Any, within: _Sums
) -> tuple[Any, _Sums, int, _Sums, _Sums]:
    """Drop duplicates and refunds if the config says so.

    Only customer-days of several rows can hold duplicates, so only their rows are looked at again.

    Returns
    -------
    days, left, found, duplicate, refunds
        Merged rows that are left and their sums, number of duplicates, sums of those dropped.
    """
    found, none = 0, _Sums(0, Decimal(0))
    duplicate = refunds = none
    several = days.filter(days.rows > 1).select("customer", "day")
    again = distinct = inside.semi_join(several, ["customer", "day"])
    if within.facts["several"]:
        again = source.keep(again)
        distinct = again.distinct()
        two = [
            source.fetch(rows.aggregate(rows=rows.count(), spend=rows.amount.sum())).to_pylist()[0]
            for rows in (again, distinct)
        ]
        more, left = (_Sums(one["rows"], one["spend"]) for one in two)
        found = (more - left).rows
        if config.duplicates == "drop":
            duplicate, again = more - left, distinct
    drop_refunds = config.refunds == "drop" and facts["negative"] > 0
    if not (duplicate.rows or drop_refunds):
        return days, within, found, duplicate, refunds
    single = days.filter(days.rows == 1)
    if drop_refunds:
        single, again = single.filter(single.amount >= 0), again.filter(again.amount >= 0)
    kept = source.keep(single.union(_merged(again, **_form(source, facts))))
    left = _sums(source, kept)
    return kept, left, found, duplicate, within - duplicate - left


def _form(source: Source, facts: Mapping[str, Any]) -> dict[str, bool]:
    """Whether merged rows need the lowest amount, and whether any sum of amounts fits into 64 bits."""
    valid = facts["spend"] - facts["spend_missing_id"] - facts["spend_missing_date"]
    narrow = source.owned and valid - 2 * facts["spend_negative"] < LARGEST
    return {"negative": facts["negative"] > 0, "narrow": narrow}


def _merged(rows: Any, *, negative: bool, narrow: bool) -> Any:
    """The rows of a customer's day as one: amount, lowest amount, number, segments, margin sums."""
    amount, number = rows.amount.sum(), rows.count()
    if narrow:
        amount, number = amount.cast(AMOUNT), number.cast("int32")
    columns = {"amount": amount, "rows": number}
    if negative:
        columns["lowest"] = rows.amount.min()
    for name in segments_of(rows):
        columns |= {name: rows[name].min(), f"{name}_last": rows[name].max()}
    if "margin" in rows.columns:
        weight = (rows.amount > 0).ifelse(rows.amount, 0).cast("decimal(18, 6)")
        columns |= {
            "weight": weight.sum(),
            "weighted": (weight.cast("float64") * rows.margin.cast("float64")).cast(SUMS).sum(),
            "margins": rows.margin.sum(),
        }
    return rows.group_by("customer", "day").aggregate(**columns)


def refunded(days: Any) -> Any:
    """Whether refunds bring a customer-day to zero or below."""
    if "lowest" not in days.columns:
        return days.amount < 0  # nothing is negative
    return (days.amount <= 0) & (days.lowest < 0)


def zero(days: Any) -> Any:
    """Whether a customer-day is of amount 0 without a refund."""
    return (days.amount == 0) & ~refunded(days)


def day_facts(days: Any, **more: Any) -> Any:
    """One row of customer-days, of those that are no purchases, and of what else is asked."""
    return days.aggregate(
        days=days.count(),
        refunded=days.count(where=refunded(days)),
        refunded_sum=days.amount.sum(where=refunded(days)),
        zero=days.count(where=zero(days)),
        **more,
    )


def segments_of(table: Any) -> list[str]:
    """Columns of segments."""
    return [name for name in table.columns if name.startswith("segment_") and name[8:].isdigit()]


def _columns(source: Source, config: DataConfig) -> dict[str, Any]:
    """Typed columns of the source's table, and what they were before."""
    raw = source.table
    whole = raw.customer.type().is_integer()
    columns = {
        "customer": raw.customer if whole else as_text(raw.customer),
        "day": _day(source, config),
        "raw_date": raw.date,
    }
    columns |= {"amount": _amount(source, "amount", AMOUNT), "raw_amount": raw.amount}
    if "margin" in raw.columns:
        columns |= {"margin": _amount(source, "margin", MARGIN), "raw_margin": raw.margin}
    return columns | {name: as_text(raw[name]) for name in raw.columns if name.startswith("segment_")}


def _flags(typed: Any, today: dt.date) -> dict[str, Any]:
    """What is wrong with a row's date, amount or margin."""
    import ibis

    early = (typed.day < ibis.date(EARLIEST.isoformat())).fill_null(False)
    flags = {
        "unread_date": typed.day.isnull().ifelse(~_absent(typed.raw_date), early),
        "unread_amount": typed.amount.isnull().ifelse(~_absent(typed.raw_amount), False),
        "future": typed.day > ibis.date(today.isoformat()),
        "rounded": _rounded(typed.raw_amount, typed.amount),
    }
    if "margin" in typed.columns:
        flags["unread_margin"] = typed.margin.isnull().ifelse(~_absent(typed.raw_margin), False)
        flags["missing_margin"] = _valid(typed) & typed.margin.isnull()
        flags["high_margin"] = _valid(typed) & (typed.margin > 1)
    return flags


def as_text(column: Any) -> Any:
    """Text exactly as it is; null where it is blank. Whole numbers have no decimal point."""
    if column.type().is_floating():
        whole = column.round().cast("int64")
        column = (column.isnan() | (column != whole)).ifelse(column.cast("string"), whole.cast("string"))
    elif not column.type().is_string():
        column = column.cast("string")
    return (column.strip() == "").ifelse(None, column)


def _absent(column: Any) -> Any:
    """Whether there is nothing: null, NaN, or text that means so."""
    if column.type().is_string():
        return column.isnull() | column.strip().lower().isin(MISSING)
    if column.type().is_floating():
        return column.isnull() | column.isnan()
    return column.isnull()


def _day(source: Source, config: DataConfig) -> Any:
    """Day of each row; null where there is none or it cannot be read."""
    column, kind = source.table.date, source.table.date.type()
    if kind.is_date():
        return column
    if kind.is_timestamp():
        return column.date()
    if not kind.is_string() and not kind.is_integer():
        raise InputError(f"{source.column('date')} is of type {kind}: it must hold dates.")
    if config.date_format is None:
        if kind.is_integer():
            raise InputError(
                f"{source.column('date')} holds whole numbers: set data.date_format, for instance '%Y%m%d'."
            )
        iso = column.re_search(ISO_DATE)
        return iso.ifelse(_cast(source, column, "date"), None)
    text = column.cast("string")
    if source.owned:
        return try_strptime()(text, config.date_format).date()
    return _absent(text).ifelse(None, text).as_timestamp(config.date_format).date()


def try_strptime() -> Any:
    """DuckDB's function: null where ibis' own parser of timestamps stops the query."""
    import ibis

    def parse(text: str, pattern: str) -> dt.datetime:  # type: ignore[empty-body]
        ...

    return ibis.udf.scalar.builtin(parse, name="try_strptime")


def _amount(source: Source, name: str, decimal: str) -> Any:
    """Exact decimal of a column; null where there is none or it cannot be read."""
    column, kind = source.table[name], source.table[name].type()
    if kind.is_string():
        plain = column.re_search(r"^\s*[-+]?[0-9.]+([eE][-+]?[0-9]+)?\s*$")
        return plain.ifelse(_cast(source, column, decimal), None)
    if not kind.is_numeric() or kind.is_boolean():
        raise InputError(f"{source.column(name)} is of type {kind}: it must hold numbers.")
    limit = LARGEST if decimal == AMOUNT else 1000
    readable = column.abs() < limit
    if kind.is_floating():
        readable = readable & ~column.isnan()
    return readable.ifelse(column, None).cast(decimal)


def _cast(source: Source, column: Any, kind: str) -> Any:
    from ibis.expr import operations as ops

    return column.try_cast(kind) if source.backend.has_operation(ops.TryCast) else column.cast(kind)


def _rounded(raw: Any, amount: Any) -> Any:
    """Whether six decimals were not enough."""
    import ibis

    if raw.type().is_floating():
        return (raw - amount.cast("float64")).abs() > 1e-8 + 1e-12 * raw.abs()
    if raw.type().is_string():
        return amount.notnull() & raw.re_search(r"\.[0-9]{6}[0-9]*[1-9]")
    return ibis.literal(False)


def _valid(rows: Any) -> Any:
    return rows.customer.notnull() & rows.day.notnull() & rows.amount.notnull()


def _totals(typed: Any, today: dt.date) -> Any:
    """One row of counts and sums over everything that was read."""
    no_id = typed.customer.isnull()
    no_date = typed.customer.notnull() & typed.day.isnull()
    no_amount = typed.customer.notnull() & typed.day.notnull() & typed.amount.isnull()
    valid = _valid(typed)
    negative = valid & (typed.amount < 0)
    sums = {
        "rows": typed.count(),
        "missing_id": typed.count(where=no_id),
        "missing_date": typed.count(where=no_date),
        "missing_amount": typed.count(where=no_amount),
        "negative": typed.count(where=negative),
        "first": typed.day.min(where=valid),
        "last": typed.day.max(where=valid),
        "spend": typed.amount.sum(),
        "spend_missing_id": typed.amount.sum(where=no_id),
        "spend_missing_date": typed.amount.sum(where=no_date),
        "spend_negative": typed.amount.sum(where=negative),
    }
    flagged = {name: typed.count(where=flag) for name, flag in _flags(typed, today).items()}
    return typed.aggregate(**sums, **flagged)


def _refuse(source: Source, config: DataConfig, facts: dict[str, Any], today: dt.date) -> None:
    """Raise for what no rule of the config allows for."""
    rows = facts["rows"]
    if not rows:
        raise InputError(f"{source.label} has a header but no rows.")
    if facts["unread_date"]:
        first = _first(source, config, today, "date", "unread_date")
        fix = "data.date_format" if config.date_format is None else f"data.date_format {config.date_format!r}"
        verb = "set" if config.date_format is None else "correct"
        raise InputError(
            f"{source.column('date')}: {facts['unread_date']:,} of {rows:,} values are not dates, "
            f"first {first}: {verb} {fix}, or remove those rows."
        )
    if facts["unread_amount"]:
        first = _first(source, config, today, "amount", "unread_amount")
        raise InputError(
            f"{source.column('amount')}: {facts['unread_amount']:,} of {rows:,} values are not numbers "
            f"below {LARGEST:.0e}, first {first}: write them like 1234.50, without currency or "
            "thousands separators."
        )
    if facts["missing_id"] == rows:
        raise InputError(f"{source.column('customer')} is empty in all {rows:,} rows.")
    if facts["missing_id"] + facts["missing_date"] == rows:
        raise InputError(
            f"{source.column('date')} is empty in all {rows - facts['missing_id']:,} rows with a customer."
        )
    if facts["missing_id"] + facts["missing_date"] + facts["missing_amount"] == rows:
        raise InputError(f"{source.column('amount')} has no amounts: all {rows:,} rows are without one.")
    if facts["future"]:
        first = _first(source, config, today, "date", "future")
        raise InputError(
            f"{source.column('date')}: {facts['future']:,} of {rows:,} dates lie after today, {today}, "
            f"first {first}: correct them, or data.date_format."
        )
    if facts["negative"] and config.refunds == "error":
        raise InputError(
            f"{source.column('amount')}: {facts['negative']:,} of {rows:,} amounts are negative, in sum "
            f"{facts['spend_negative']:,.2f}, and data.refunds is 'error': "
            "remove them, or choose 'net' or 'drop'."
        )
    for fact, what, fix in (
        ("unread_margin", "are not numbers", "write a ratio like 0.3"),
        ("missing_margin", "are missing", "fill them, or give value.margin as a number"),
        ("high_margin", "are above 1", "write 30 % as 0.3"),
    ):
        if facts.get(fact):
            raise InputError(f"{source.column('margin')}: {facts[fact]:,} of {rows:,} margins {what}: {fix}.")


def _first(source: Source, config: DataConfig, today: dt.date, name: str, flag: str, most: int = 3) -> str:
    """The first flagged values of a column and where they stand, for an error message."""
    import ibis

    shown: list[str] = []
    for part, make in source.parts or (("", lambda: source.table),):
        part_of = replace(source, table=make())
        columns = _columns(part_of, config) | {"line": ibis.row_number() + source.first_row}
        typed = part_of.table.select(**columns)
        wanted = typed.filter(_flags(typed, today)[flag]).order_by("line").limit(most - len(shown))
        wanted = wanted.select("line", value=typed[f"raw_{name}"].cast("string"))
        for row in source.fetch(wanted).to_pylist():
            place = f" ({'line' if source.first_row == 2 else 'row'} {row['line']:,}" if source.parts else ""
            place += f" of {part!r})" if len(source.parts) > 1 else ")" if place else ""
            shown.append(short(row["value"], 40) + place)
        if len(shown) == most:
            break
    return ", ".join(shown)


def _windows(
    source: Source, config: DataConfig, facts: dict[str, Any], typed: Any
) -> tuple[dt.date, dt.date | None, list[str]]:
    """End of the calibration window, end of the holdout window or None, and notes."""
    first, last, notes = facts["first"], facts["last"], []
    end = dt.date.fromisoformat(config.observation_end) if config.observation_end else last
    after = dt.date.fromisoformat(config.holdout_end) if config.holdout_end else None
    if config.observation_end is None:
        notes.append(f"observation_end not given: the last date in the data, {last}, is used.")
    if after is not None and after < end:
        raise InputError(f"data.holdout_end {after} is before observation_end {end}: give a later day.")
    if end < first:
        raise InputError(f"data.observation_end {end} is before the first date in the data, {first}.")
    for key, day in (("observation_end", end), ("holdout_end", after)):
        if day is not None and day > last and day > last + _pause(source, typed):
            raise InputError(
                f"data.{key} {day} is after the last date in the data, {last}: days without data would "
                "count as days without purchases."
            )
    if after is None and end < last:
        after = last
        notes.append(f"holdout_end not given: the last date in the data, {last}, is used.")
    if config.clock == "discrete":
        unit, whole = config.time_unit, periods.last_complete(end, config.time_unit)
        if whole < first:
            raise InputError(
                f"data.clock is discrete, and the {unit} of the first date in the data, {first}, is not "
                f"complete by observation_end {end}: give a later day or a shorter data.time_unit."
            )
        notes.append(
            f"Discrete clock: purchases are merged by {unit}, so that a customer-day of this ledger is a "
            f"customer-{unit}; the last complete {unit} ends on {whole}."
        )
        end, after = whole, after and periods.last_complete(after, unit)
    return end, after if after is not None and after > end else None, notes


def _pause(source: Source, typed: Any) -> dt.timedelta:
    """Longest stretch between two dates of the log that follow one another."""
    import numpy as np

    days = typed.filter(_valid(typed)).select("day").distinct()
    day = np.sort(source.fetch(days)["day"].to_numpy().astype("datetime64[D]"))
    return dt.timedelta(days=int(np.diff(day).astype(int).max(initial=0)))
