"""Acquisition spend by month from a small CSV file."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clvmodels.errors import InputError

_MONTH = re.compile(r"(\d{4})-(\d{2})(-\d{2})?")


@dataclass(frozen=True)
class SpendTable:
    """Spend by month and group.

    Attributes
    ----------
    months
        datetime64[M], ascending.
    groups
        Labels, in order of appearance; one empty label where there are no groups.
    spend
        Shape (group, month), currency; what the file does not mention is 0.
    """

    months: np.ndarray
    groups: tuple[str, ...]
    spend: np.ndarray


def read_spend(path: Path, by: str | None, currency: str) -> SpendTable:
    """Read ``month, spend`` and, with groups, the column ``by``; amounts of one cell are added up.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column, or holds a month, amount or currency that does not
        fit; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"acquisition.spend: {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InputError(f"acquisition.spend: {path} is not UTF-8 text; save it as UTF-8.") from None
    reader = csv.DictReader(text.splitlines())
    header = reader.fieldnames or []
    needed = ["month", "spend", *([by] if by else [])]
    if missing := [name for name in needed if name not in header]:
        raise InputError(
            f"acquisition.spend: {path} has no column {', '.join(missing)}; it has "
            f"{', '.join(header) or 'none'}: name its columns {', '.join(needed)}."
        )
    cells: dict[tuple[str, np.datetime64], float] = {}
    for row in reader:
        where = f"acquisition.spend: {path}, line {reader.line_num}"
        money = (row.get("currency") or "").strip()
        if money and money != currency:
            raise InputError(f"{where}: the spend is in {money}, the data in {currency}; convert it.")
        key = ((row[by] or "").strip() if by else "", _month(row["month"] or "", where))
        cells[key] = cells.get(key, 0.0) + _amount(row["spend"] or "", where)
    if not cells:
        raise InputError(f"acquisition.spend: {path} has no rows; give the spend of at least one month.")
    found = np.array(sorted({month for _, month in cells}))
    months = np.arange(found[0], found[-1] + 1)
    groups = tuple(dict.fromkeys(group for group, _ in cells))
    spend = np.array([[cells.get((group, month), 0.0) for month in months] for group in groups])
    return SpendTable(months, groups, spend)


def _month(text: str, where: str) -> np.datetime64:
    match = _MONTH.fullmatch(text.strip())
    if not match or not 1 <= int(match[2]) <= 12:
        raise InputError(f"{where}: {text.strip()!r} is not a month; write 2011-03.")
    return np.datetime64(f"{match[1]}-{match[2]}", "M")


def _amount(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{where}: {text.strip()!r} is not an amount of at least 0.")
    return value
