"""Calendar periods of a discrete clock: days, weeks from Monday, months and years.

A period is named by its first day, or by a whole number that grows by one from period to period.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np

_TRUNCATE = {"day": "D", "week": "W", "month": "M", "year": "Y"}
_MONDAY = 4  # days from 1970-01-01, a Thursday, to the first Monday


def number(day: Any, unit: str) -> np.ndarray:
    """Number of the period of a date or of datetime64 days."""
    days = np.asarray(day, "datetime64[D]")
    if unit == "week":
        return (days.astype(int) - _MONDAY) // 7
    return days.astype(f"datetime64[{_TRUNCATE[unit]}]").astype(int)


def first_day(number: Any, unit: str) -> np.ndarray:
    """First day of periods by number, datetime64[D]."""
    numbers = np.asarray(number, int)
    if unit == "week":
        return (7 * numbers + _MONDAY).astype("datetime64[D]")
    return numbers.astype(f"datetime64[{_TRUNCATE[unit]}]").astype("datetime64[D]")


def last_day(number: Any, unit: str) -> np.ndarray:
    """Last day of periods by number, datetime64[D]."""
    return first_day(np.asarray(number, int) + 1, unit) - np.timedelta64(1, "D")


def last_complete(day: dt.date, unit: str) -> dt.date:
    """Last day of the last period that has ended by the end of a day."""
    before = number(day + dt.timedelta(days=1), unit) - 1
    return last_day(before, unit).item()


def start_of(column: Any, unit: str) -> Any:
    """First day of the period of an Ibis column of dates."""
    return column if unit == "day" else column.truncate(_TRUNCATE[unit])


def between(earlier: Any, later: Any, unit: str) -> Any:
    """Periods from one to another; Ibis columns of first days."""
    if unit == "month":
        return (later.year() - earlier.year()) * 12 + later.month() - earlier.month()
    if unit == "year":
        return later.year() - earlier.year()
    days = later.delta(earlier, unit="day")
    return days // 7 if unit == "week" else days
