"""How a number of the table is written: one formatter for the page, its sentences and its tests.

A key such as ``equity.existing.expected.interval_90.0`` walks the table; the unit of the nearest
enclosing block and the size of that block decide how the number is written, so that a mean, its
standard deviation and its intervals always carry the same number of decimals.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

NONE = "–"
"""What stands where there is no number, such as the interval of a single parameter vector."""

SPACE = "\u00a0"
_STYLES = dict.fromkeys(("customers", "orders", "rows", "draws", "days"), "count") | dict.fromkeys(
    ("share", "probability"), "percent"
)
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_OF_MEAN = re.compile(r"\.(mean|sd|actual|interval_\d+\.[01])$")
_PLACEHOLDER = re.compile(r"\{([^{}:]+)(?::(\w+))?\}")


def lookup(table: Mapping[str, Any], key: str) -> Any:
    """The entry of a dotted key; whole numbers index lists,
    and a name may itself hold dots (``1.5 years``).

    Raises
    ------
    KeyError
        If the table has no such entry.
    """
    return _walk(table, key)[-1]


def _walk(table: Mapping[str, Any], key: str) -> list[Any]:
    path, part = [table], ""
    for piece in key.split("."):
        part = f"{part}.{piece}" if part else piece
        node: Any = path[-1]
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            path, part = [*path, node[int(part)]], ""
        elif isinstance(node, Mapping) and part in node:
            path, part = [*path, node[part]], ""
    if part:
        raise KeyError(f"{key!r} is not in the table (at {part!r})")
    return path


def show(table: Mapping[str, Any], key: str, style: str | None = None) -> str:
    """The entry of ``key`` as it stands on the page.

    Parameters
    ----------
    style
        ``money``, ``count``, ``percent``, ``number`` (four significant digits), ``fixed``
        (two decimals), ``tenth`` (one), ``whole`` or ``text``; default: by the unit of the nearest
        enclosing block.
    """
    path = _walk(table, key)
    value = path[-1]
    block: Mapping[str, Any] = next(
        (node for node in reversed(path[:-1]) if isinstance(node, Mapping) and "unit" in node), {}
    )
    style = style or _STYLES.get(block.get("unit", ""))
    if style is None:
        style = "money" if block.get("unit") == table.get("currency", "") else "number"
    size = block.get("mean") if _OF_MEAN.search(key) else None
    if style == "percent" and size is not None and block.get("sd"):
        size = min(size, block["sd"] * 20)  # a narrow interval needs decimals to have two ends
    return write(value, style, abs(size) if size is not None else None)


def write(value: Any, style: str = "number", size: float | None = None) -> str:
    """One value as text; ``size`` is the magnitude that decides the number of decimals."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) or style == "text":
        return str(value)
    size = abs(value) if size is None else size
    if style == "percent":
        whole = size >= 0.0995 or value in (0, 1)
        return _minus(f"{100 * value:.{0 if whole else 1}f}{SPACE}%")
    if style == "fixed":
        return _minus(f"{value:,.2f}")
    if style == "tenth":
        return _minus(f"{value:,.1f}")
    if style == "whole":
        return _minus(f"{value:,.0f}")
    if style == "money":
        return _minus(f"{value:,.{0 if size >= 1000 else 2}f}")
    if style == "count" or isinstance(value, int):
        return _minus(f"{value:,.{0 if size >= 100 or value == int(value) else 1}f}")
    if value == 0:
        return "0"
    digits = 3 - math.floor(math.log10(abs(value)))
    return _minus(f"{value:,.{max(0, digits)}f}" if digits < 8 else f"{value:.3e}")


def _minus(text: str) -> str:
    """A true minus sign, and none before a zero."""
    if text.startswith("-"):
        return "\u2212" + text[1:] if re.search("[1-9]", text) else text[1:]
    return text


def fill(
    template: str, table: Mapping[str, Any], wrap: Callable[[str, str | None], Any] | None = None
) -> str:
    """Replace ``{key}`` and ``{key:style}`` by the numbers of the table.

    Parameters
    ----------
    wrap
        ``(key, style) -> text`` of one number; default :func:`show`. The page wraps each number
        in an element that carries its key.
    """

    def number(match: re.Match[str]) -> str:
        key, style = match[1], match[2]
        return str(wrap(key, style)) if wrap else show(table, key, style)

    return _PLACEHOLDER.sub(number, template)


def long_date(date: str | dt.date) -> str:
    """``1997-09-30`` as ``30 September 1997``."""
    day = dt.date.fromisoformat(date) if isinstance(date, str) else date
    return f"{day.day}{SPACE}{_MONTHS[day.month - 1]}{SPACE}{day.year}"


def duration(amount: float, unit: str) -> str:
    """``39 weeks``, ``1 year``, ``infinite``."""
    if not math.isfinite(amount):
        return "infinite"
    number = f"{amount:,.3g}" if amount < 10 else f"{amount:,.0f}"
    return f"{number}{SPACE}{unit}{'' if amount == 1 else 's'}"
