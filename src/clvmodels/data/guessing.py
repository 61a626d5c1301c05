"""What a transaction file seems to hold, for ``clvmodels init``: a guess with its reasons."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clvmodels.artifacts import DAYS_PER_UNIT
from clvmodels.data import sources
from clvmodels.data.rows import ISO_DATE, try_strptime
from clvmodels.errors import InputError

SAMPLE = 20_000
FEW = 50
DATE_FORMATS = (
    "%Y%m%d",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d/%m/%y",
    "%m/%d/%y",
    "%d %b %Y",
    "%d-%b-%Y",
    "%b %d, %Y",
    "%d %B %Y",
    "%B %d, %Y",
)
ALL_FORMATS = (None, *(d + t for d in DATE_FORMATS for t in ("", " %H:%M", " %H:%M:%S", " %I:%M %p")))
WORDS = {
    "customer": (
        "customer client member buyer user account household donor cust id",
        "order invoice transaction product item sku stock line",
    ),
    "date": (
        "date day time timestamp datum created purchased ordered",
        "birth updated modified due delivery shipped",
    ),
    "amount": (
        "amount revenue sales total spend value price dollar paid net",
        "quantity qty unit count number lines id tax discount margin cost",
    ),
}
"""Words of a column name that speak for a role, the strongest first, and against it."""
MOST_SEGMENT_VALUES = 50


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a file seems to hold.

    Attributes
    ----------
    source
        The path as it was given.
    format, delimiter
        ``delimiter`` is None for Parquet.
    customer, date, amount
        Columns.
    date_format
        strptime format; None for ISO dates and date columns.
    time_unit
        From the typical time between purchases and the span of the log.
    segments
        Columns that may serve as segments.
    rows, customers, first_date, last_date, negative_rows
        What a whole pass over the file found.
    alternatives
        ``customer``, ``date``, ``amount``, ``date_format``, ``time_unit`` → other readings,
        the likeliest first.
    reasons
        The same keys and ``delimiter``, ``segments`` → one sentence each.
    """

    source: str
    format: Literal["csv", "parquet"]
    delimiter: str | None
    customer: str
    date: str
    amount: str
    date_format: str | None
    time_unit: Literal["day", "week", "month"]
    segments: tuple[str, ...]
    rows: int
    customers: int
    first_date: dt.date
    last_date: dt.date
    negative_rows: int
    alternatives: Mapping[str, tuple[str, ...]]
    reasons: Mapping[str, str]


def guess(source: Path) -> Guess:
    """Guess delimiter, columns, date format, time unit and segments of a transaction file.

    Parameters
    ----------
    source
        A CSV or Parquet file or a glob.

    Raises
    ------
    InputError
        If the file cannot be read, or no column can be a customer id, a date or an amount.
    """
    files = sources.find_files(str(source), Path("."))
    kind = sources.file_format(files)
    with sources.scratch() as backend:
        delimiter = None
        if kind == "csv":
            delimiter, names = sources.csv_header(files[0])
            table = sources.read_csv(backend, files, names, delimiter)
        else:
            table = sources.read_parquet(backend, files)
            names = list(table.columns)
            table = table.select(**{f"c{i}": table[name] for i, name in enumerate(names)})
        opened = sources.Source(table=table, backend=backend, names={}, label=repr(files[0].name))
        return _guess(str(source), kind, delimiter, names, opened)


def _guess(source: str, kind: Any, delimiter: str | None, names: list[str], opened: sources.Source) -> Guess:
    table = opened.table
    sample = opened.keep(table.limit(SAMPLE))
    facts = opened.fetch(_column_facts(sample)).to_pylist()[0]
    rows = facts["rows"]
    if not rows:
        raise InputError(f"{opened.label} has a header but no rows.")
    about = [
        {key: facts[f"c{i}_{key}"] for key in ("some", "distinct", "numbers", "decimals")}
        for i in range(len(names))
    ]
    listed = f"columns: {', '.join(names)}."
    head = opened.fetch(sample.limit(FEW))
    formats: dict[int, list[str | None]] = {}
    for i, name in enumerate(table.columns):
        if found := _date_formats(opened, sample[name], _likely_formats(head[name].to_pylist())):
            formats[i] = found
    dates = _ranked("date", dict.fromkeys(formats, 0.0), names)
    if not dates:
        raise InputError(f"{opened.label}: no column holds dates that can be read; {listed}")
    date = dates[0]
    numeric = {
        i: 0.5 * (facts[f"c{i}_decimals"] > 0)
        for i, column in enumerate(about)
        if column["numbers"] and column["numbers"] >= 0.99 * column["some"] and i != date
    }
    amounts = [i for i in _ranked("amount", numeric, names) if i not in dates[1:] or facts[f"c{i}_decimals"]]
    if not amounts:
        raise InputError(f"{opened.label}: no column holds numbers for the amount; {listed}")
    amount = amounts[0]
    repeated = {
        i: 1.0 * (1 < column["distinct"] < 0.98 * rows)
        for i, column in enumerate(about)
        if i not in (date, amount)
        and column["some"]
        and column["distinct"] > 1
        and (column["distinct"] > MOST_SEGMENT_VALUES or _hits("customer", names[i]))
    }
    people = _ranked("customer", repeated, names)
    if not people:
        raise InputError(f"{opened.label}: no column is left for the customer; {listed}")
    customer = people[0]
    candidates = [
        i
        for i, column in enumerate(about)
        if i not in (date, amount, customer, *dates)
        and i not in numeric
        and 2 <= column["distinct"] <= MOST_SEGMENT_VALUES
        and column["some"] == rows
    ]
    whole = opened.fetch(_whole(opened, customer, date, amount, formats[date][0], candidates)).to_pylist()[0]
    segments = tuple(
        names[i]
        for i in candidates
        if whole[f"c{i}_distinct"] <= MOST_SEGMENT_VALUES and whole[f"c{i}_some"] == whole["rows"]
    )
    if whole["first"] is None:
        raise InputError(f"{opened.label}: no row has both a customer and a date.")
    span = (whole["last"] - whole["first"]).days
    gap = whole["gap"]
    unit, why = _time_unit(gap, span)
    chosen = formats[date][0]
    reasons = {
        "customer": f"{names[customer]!r} names {whole['customers']:,} customers in {whole['rows']:,} rows",
        "date": f"{names[date]!r} runs from {whole['first']} to {whole['last']}",
        "amount": f"{names[amount]!r} holds numbers"
        + (" with decimals" if about[amount]["decimals"] else ""),
        "date_format": f"every date sampled reads as {chosen or 'an ISO date'}"
        + (f"; so do {', '.join(map(str, formats[date][1:]))}" if formats[date][1:] else ""),
        "time_unit": why,
        "segments": f"text columns with at most {MOST_SEGMENT_VALUES} values and no gaps",
    }
    if delimiter is not None:
        reasons["delimiter"] = f"{delimiter!r} splits the header into {len(names)} columns"
    return Guess(
        source=source,
        format=kind,
        delimiter=delimiter,
        customer=names[customer],
        date=names[date],
        amount=names[amount],
        date_format=chosen,
        time_unit=unit,
        segments=segments,
        rows=whole["rows"],
        customers=whole["customers"],
        first_date=whole["first"],
        last_date=whole["last"],
        negative_rows=whole["negative"],
        alternatives={
            "customer": tuple(names[i] for i in people[1:4]),
            "date": tuple(names[i] for i in dates[1:4]),
            "amount": tuple(names[i] for i in amounts[1:4] if i != customer),
            "date_format": tuple(str(f) for f in formats[date][1:]),
            "time_unit": tuple(u for u in ("day", "week", "month") if u != unit),
        },
        reasons=reasons,
    )


def _column_facts(sample: Any) -> Any:
    """Per column: values present, distinct values, numbers, and numbers with decimals."""
    out = {"rows": sample.count()}
    for name in sample.columns:
        column = sample[name]
        if column.type().is_boolean() or column.type().is_temporal():
            number = column.cast("string").try_cast("float64")
        else:
            number = column.try_cast("float64")
        out |= {
            f"{name}_some": column.count(),
            f"{name}_distinct": column.nunique(),
            f"{name}_numbers": number.count(),
            f"{name}_decimals": sample.count(where=number != number.round()),
        }
    return sample.aggregate(**out)


def _likely_formats(values: list[Any]) -> list[str | None]:
    """Formats that read the first few values; None is ISO."""
    texts = [str(value).strip() for value in values if value is not None and str(value).strip()]

    def reads(form: str | None, text: str) -> bool:
        if form is None:
            return re.match(ISO_DATE, text) is not None
        try:
            dt.datetime.strptime(text, form)
        except ValueError:
            return False
        return form != "%Y%m%d" or len(text) == 8

    return [form for form in ALL_FORMATS if texts and all(reads(form, text) for text in texts)]


def _date_formats(opened: sources.Source, column: Any, formats: Sequence[str | None]) -> list[str | None]:
    """Formats that read every value of a column as a date between 1970 and today; None is ISO."""
    import ibis

    kind = column.type()
    if kind.is_date() or kind.is_timestamp():
        return [None]
    if not formats or not (kind.is_string() or kind.is_integer()):
        return []
    text = column.cast("string")
    text = (text.strip() == "").ifelse(None, text)
    low, high = ibis.date("1970-01-01"), ibis.date(dt.date.today().isoformat())
    counts = {"some": text.count()}
    for i, form in enumerate(formats):
        if form is None:
            day = text.re_search(ISO_DATE).ifelse(text.try_cast("date"), None)
        else:
            digits = (text.length() == 8).ifelse(text, None) if form == "%Y%m%d" else text
            day = try_strptime()(digits, form).date()
        counts[f"format_{i}"] = day.between(low, high).sum()
    found = opened.fetch(column.as_table().aggregate(**counts)).to_pylist()[0]
    return [form for i, form in enumerate(formats) if found["some"] and found[f"format_{i}"] == found["some"]]


def _hits(role: str, name: str) -> float:
    """How much a column name speaks for a role (up to 2) or against it (-1.5 and more)."""
    good, bad = (text.split() for text in WORDS[role])
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    found = [2 - good.index(w) / len(good) for word in words for w in good if word.startswith(w)]
    return max(found, default=0.0) - 1.5 * any(word.startswith(w) for word in words for w in bad)


def _ranked(role: str, candidates: Mapping[int, float], names: list[str]) -> list[int]:
    """Candidates by name and evidence, the likeliest first; names that speak against only if alone."""
    scores = {i: evidence + _hits(role, names[i]) for i, evidence in candidates.items()}
    ranked = sorted(scores, key=lambda i: (-scores[i], i))
    return [i for i in ranked if scores[i] >= 0] or ranked[:1]


def _whole(
    opened: sources.Source, customer: int, date: int, amount: int, form: str | None, candidates: list[int]
) -> Any:
    """One row of facts over the whole file."""
    table = opened.table
    raw = table[f"c{date}"]
    if form is not None:
        day = try_strptime()(raw.cast("string"), form).date()
    else:
        day = raw.try_cast("date") if raw.type().is_string() else raw.cast("date")
    rows = opened.keep(
        table.select(
            customer=table[f"c{customer}"],
            day=day,
            amount=table[f"c{amount}"].try_cast("float64"),
            **{f"c{i}": table[f"c{i}"] for i in candidates},
        )
    )
    each = rows.group_by("customer").aggregate(
        n=rows.day.nunique(), first=rows.day.min(), last=rows.day.max()
    )
    repeat = each.filter(each.n > 1)
    gaps = repeat.select(gap=repeat.last.delta(repeat.first, unit="day") / (repeat.n - 1))
    counts = {"rows": rows.count(), "customers": rows.customer.nunique(), "first": rows.day.min()}
    counts |= {"last": rows.day.max(), "negative": rows.count(where=rows.amount < 0)}
    for i in candidates:
        counts |= {f"c{i}_distinct": rows[f"c{i}"].nunique(), f"c{i}_some": rows[f"c{i}"].count()}
    return rows.aggregate(**counts).cross_join(gaps.aggregate(gap=gaps.gap.median()))


def _time_unit(gap: float | None, span: int) -> tuple[Literal["day", "week", "month"], str]:
    """Largest unit that is at most half the typical gap and of which the log has at least 24."""
    if gap is None:
        return "week", "no customer buys on two days, so that any unit will do"
    for unit in ("month", "week"):
        if gap >= 2 * DAYS_PER_UNIT[unit] and span >= 24 * DAYS_PER_UNIT[unit]:
            break
    else:
        unit = "day"
    why = f"a typical repeat buyer buys every {gap:,.0f} days and the log spans {span:,} days"
    return unit, why  # type: ignore[return-value]
