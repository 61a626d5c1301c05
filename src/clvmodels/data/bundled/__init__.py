"""Three public transaction logs that come with the package; README.md tells their origin and terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clvmodels.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """What is known of a bundled log: its columns, its currency and what the rows are."""

    customer: str
    date: str
    amount: str
    currency: str
    title: str


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
}


def bundled_path(name: str) -> Path:
    """Path of the Parquet file of a bundled log.

    Parameters
    ----------
    name
        ``cdnow``, ``cdnow_sample`` or ``online_retail``.

    Raises
    ------
    InputError
        If there is no bundled log of that name.
    """
    if name not in LOGS:
        raise InputError(f"no bundled data set {name!r}; there are {', '.join(LOGS)}.")
    return Path(__file__).parent / f"{name}.parquet"
