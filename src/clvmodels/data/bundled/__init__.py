"""Public data sets that come with the package; README.md tells their origin and terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clvmodels.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """What is known of a bundled data set: its columns, its currency and what the rows are.

    A table of summaries (``kind``) has the columns frequency, recency, T and weight, and says in
    which ``time_unit`` its opportunities are counted.
    """

    customer: str = ""
    date: str = ""
    amount: str = ""
    currency: str
    title: str
    kind: Literal["transactions", "summary"] = "transactions"
    time_unit: str | None = None


LOGS = {
    "cdnow": Bundled(
        customer="customer_id",
        date="date",
        amount="amount",
        currency="USD",
        title="CDNOW, all 23,570 customers who first bought in the first quarter of 1997",
    ),
    "cdnow_sample": Bundled(
        customer="customer_id",
        date="date",
        amount="amount",
        currency="USD",
        title="CDNOW, the 1/10 systematic sample of 2,357 customers",
    ),
    "online_retail": Bundled(
        customer="customer_id",
        date="date",
        amount="amount",
        currency="GBP",
        title="UCI Online Retail, 22,190 invoices and cancellations of 4,372 customers",
    ),
    "donations": Bundled(
        currency="USD",
        title="a summary of 11,104 donors who first gave to a nonprofit in 1995, over six years after it",
        kind="summary",
        time_unit="year",
    ),
    "contracts": Bundled(
        currency="USD",
        title="a summary of 2,000 yearly contracts in two segments over seven renewals",
        kind="summary",
        time_unit="year",
    ),
}


def bundled_path(name: str) -> Path:
    """Path of the Parquet file of a bundled data set.

    Parameters
    ----------
    name
        One of :data:`LOGS`.

    Raises
    ------
    InputError
        If there is no bundled data set of that name.
    """
    if name not in LOGS:
        raise InputError(f"no bundled data set {name!r}; there are {', '.join(LOGS)}.")
    return Path(__file__).parent / f"{name}.parquet"
