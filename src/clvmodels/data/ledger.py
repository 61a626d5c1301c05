"""The data ledger: every row and every cent of the log is accounted for.

A ledger is a plain dict of JSON-able values. Counts are integers, money is a float in the
run's currency (exact to the cent: sums are made in fixed-point decimals and turned into
floats last), dates are ISO strings. :data:`KEYS` lists its scalar keys in the order in which
they are read, each with a label and a kind for printing; two keys are structured:

``segments``
    Column → ``{"values": distinct values, "several": customers with more than one value}``.
``notes``
    Plain sentences about what was assumed and what was done.

Two identities hold exactly, and :func:`reconcile` refuses a ledger that breaks them::

    rows_read  = rows_missing_id + rows_missing_date + rows_missing_amount
               + rows_after_window + rows_duplicate + rows_refund + rows_used
    spend_read = spend_missing_id + spend_missing_date + spend_after_window
               + spend_duplicate + spend_refund + spend_refunded_days
               + spend_later_customers + spend_excluded + spend_holdout + spend_summary
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

KEYS: dict[str, tuple[str, str]] = {
    "source": ("Source", "text"),
    "engine": ("Engine", "text"),
    "files": ("Files read", "count"),
    "currency": ("Currency", "text"),
    "rows_read": ("Rows read", "count"),
    "rows_missing_id": ("Rows dropped: no customer id", "count"),
    "rows_missing_date": ("Rows dropped: no date", "count"),
    "rows_missing_amount": ("Rows dropped: no amount", "count"),
    "rows_after_window": ("Rows dropped: after the end of the window", "count"),
    "rows_duplicate": ("Rows dropped: exact duplicates", "count"),
    "rows_refund": ("Rows dropped: refunds", "count"),
    "rows_used": ("Rows used", "count"),
    "duplicates_found": ("Exact duplicates found", "count"),
    "negative_rows": ("Rows with a negative amount", "count"),
    "negative_sum": ("Sum of negative amounts", "money"),
    "customer_days": ("Customer-days after merging", "count"),
    "refunded_days": ("Customer-days not positive because of refunds", "count"),
    "zero_days": ("Customer-days of amount zero without a refund", "count"),
    "purchase_days": ("Purchase days in the calibration window", "count"),
    "repeat_days": ("Repeat purchase days in the calibration window", "count"),
    "holdout_days": ("Purchase days in the holdout window", "count"),
    "customers_read": ("Customers read", "count"),
    "customers_without_purchase": ("Customers left out: no purchase day", "count"),
    "customers_later": ("Customers left out: first purchase after observation_end", "count"),
    "customers_excluded": ("Customers left out: excluded by the config", "count"),
    "customers": ("Customers in the summary", "count"),
    "repeat_customers": ("Customers with a repeat purchase", "count"),
    "first_date": ("First date in the log", "date"),
    "last_date": ("Last date in the log", "date"),
    "observation_start": ("Observation starts", "date"),
    "observation_end": ("Observation ends", "date"),
    "holdout_end": ("Holdout ends", "date"),
    "spend_read": ("Spend read", "money"),
    "spend_missing_id": ("Spend dropped: no customer id", "money"),
    "spend_missing_date": ("Spend dropped: no date", "money"),
    "spend_after_window": ("Spend dropped: after the end of the window", "money"),
    "spend_duplicate": ("Spend dropped: exact duplicates", "money"),
    "spend_refund": ("Spend dropped: refunds", "money"),
    "spend_refunded_days": ("Spend dropped: days not positive because of refunds", "money"),
    "spend_later_customers": ("Spend left out: first purchase after observation_end", "money"),
    "spend_excluded": ("Spend left out: customers excluded by the config", "money"),
    "spend_holdout": ("Spend in the holdout window", "money"),
    "spend_summary": ("Spend in the calibration window", "money"),
}
"""Key → (label, kind); kind is ``text``, ``count``, ``money`` or ``date``. ``holdout_end`` is
None where there is no holdout."""

_ROWS = ("missing_id", "missing_date", "missing_amount", "after_window", "duplicate", "refund", "used")
_SPEND = (
    *("missing_id", "missing_date", "after_window", "duplicate", "refund"),
    *("refunded_days", "later_customers", "excluded", "holdout", "summary"),
)


def counted(number: int, noun: str) -> str:
    """``"1 row"``, ``"2,000 rows"``."""
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def reconcile(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Check that rows and spend add up exactly and return the JSON-able ledger in key order.

    Parameters
    ----------
    entries
        All keys of :data:`KEYS`, money as Decimal, with ``segments`` and ``notes``.

    Raises
    ------
    RuntimeError
        If a row or a cent is unaccounted for, which would be a fault of this package.
    """
    for total, parts in (("rows", _ROWS), ("spend", _SPEND)):
        gap = entries[f"{total}_read"] - sum(entries[f"{total}_{part}"] for part in parts)
        if gap:
            raise RuntimeError(f"the data ledger does not reconcile: {gap} of {total}_read unaccounted for")
    out = {key: entries[key] for key in (*KEYS, "segments", "notes")}
    return {key: float(value) if isinstance(value, Decimal) else value for key, value in out.items()}
