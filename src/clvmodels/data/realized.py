"""What customers paid between two dates, brought to the later one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clvmodels.artifacts import DAYS_PER_UNIT
from clvmodels.data import periods
from clvmodels.data.rows import SUMS, as_text, clean
from clvmodels.data.sources import Source, opened
from clvmodels.data.summary import purchase_days
from clvmodels.errors import InputError

if TYPE_CHECKING:
    from clvmodels.config import DataConfig


def realized(
    config: DataConfig,
    deltas: Sequence[float],
    *,
    transactions: Any = None,
    base: Path = Path("."),
) -> tuple[np.ndarray, np.ndarray]:
    """Revenue of each customer in (observation_end, holdout_end], first purchases included.

    Parameters
    ----------
    config
        With both ends of the window.
    deltas
        Continuous rates per time unit; a purchase s before the end counts exp(δ s) times.

    Returns
    -------
    customer
        Ids of those with a purchase day in the window.
    revenue
        Accumulated to the end, shape (customer, delta), currency. On a discrete clock purchases
        stand at the end of their period.
    """
    if config.kind == "summary":
        raise InputError("data.kind is summary: what was paid between two dates needs a log of transactions.")
    with opened(config, transactions, None, base, []) as source:
        return realized_of(source, config, deltas)


def realized_of(source: Source, config: DataConfig, deltas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """:func:`realized` of a source that is open."""
    import ibis

    cleaned = clean(source, config)
    end = cleaned.holdout_end
    if end is None:
        return np.zeros(0, object), np.zeros((0, len(deltas)))
    counted, per = ("day", DAYS_PER_UNIT[config.time_unit])
    if config.clock == "discrete":
        counted, per = config.time_unit, 1.0
    days = purchase_days(cleaned.days, config)
    days = days.filter(days.day > ibis.date(cleaned.end.isoformat()))
    last = periods.start_of(ibis.date(end.isoformat()), counted)
    left = periods.between(days.day, last, counted).cast("float64") / per
    amount = days.amount.cast("float64")
    sums = {f"at_{k}": (amount * (left * d).exp()).cast(SUMS).sum() for k, d in enumerate(deltas)}
    grouped = days.group_by("customer").aggregate(**sums)
    found = source.fetch(grouped.mutate(customer=as_text(grouped.customer)))
    customer = found["customer"].to_numpy()
    revenue = np.array([[float(v) for v in found[name].to_pylist()] for name in sums]).T
    return customer, revenue.reshape(len(customer), len(deltas))
