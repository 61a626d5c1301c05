"""What ``clvmodels init`` guesses of a file."""

from __future__ import annotations

import pandas as pd
import pytest

from clvmodels.config import DataConfig
from clvmodels.data import bundled_path, guess, summarise


@pytest.mark.parametrize("name", ["cdnow", "cdnow_sample", "online_retail"])
def test_bundled_logs(name):
    found = guess(bundled_path(name))
    assert (found.customer, found.date, found.amount) == ("customer_id", "date", "amount")
    assert (found.format, found.delimiter, found.date_format, found.time_unit) == (
        "parquet",
        None,
        None,
        "week",
    )
    assert found.segments == (("country", "cancelled") if name == "online_retail" else ())
    ledger = summarise(DataConfig(source=name)).ledger
    assert (found.rows, found.customers) == (ledger["rows_read"], ledger["customers_read"])
    assert (str(found.first_date), str(found.last_date)) == (ledger["first_date"], ledger["last_date"])
    assert found.negative_rows == ledger["negative_rows"]


@pytest.mark.parametrize(
    ("form", "delimiter"),
    [
        ("%Y-%m-%d", ","),
        ("%Y-%m-%d %H:%M:%S", ";"),
        ("%Y%m%d", "\t"),
        ("%d/%m/%Y", "|"),
        ("%m/%d/%Y %H:%M", ","),
        ("%d.%m.%Y", ";"),
        ("%b %d, %Y", ";"),
    ],
)
def test_a_guess_makes_a_config_that_runs(tmp_path, form, delimiter):
    frame = pd.read_parquet(bundled_path("cdnow_sample")).head(500)
    frame = frame.assign(channel=["web", "shop"] * 250, Date=pd.to_datetime(frame["date"]).dt.strftime(form))
    frame = frame.rename(columns={"customer_id": "ClientNo", "amount": "Total Price"})
    frame = frame[["channel", "cds", "Total Price", "Date", "ClientNo"]]
    file = tmp_path / "log.csv"
    frame.to_csv(file, index=False, sep=delimiter)
    found = guess(file)
    assert (found.customer, found.date, found.amount) == ("ClientNo", "Date", "Total Price")
    assert found.date_format == (None if form.startswith("%Y-") else form)
    assert (found.delimiter, found.segments) == (delimiter, ("channel",))
    assert {"customer", "date", "amount", "date_format", "time_unit", "delimiter"} <= found.reasons.keys()
    config = DataConfig(
        source=str(file),
        columns={"customer": found.customer, "date": found.date, "amount": found.amount},
        delimiter=found.delimiter,
        date_format=found.date_format,
        time_unit=found.time_unit,
    )
    assert len(summarise(config)) == frame["ClientNo"].nunique()


def test_a_date_that_reads_both_ways_is_said(tmp_path):
    rows = [f"{i % 9},0{i % 9 + 1}/0{i % 7 + 1}/2020,{i}.5\n" for i in range(100)]
    file = tmp_path / "log.csv"
    file.write_text("customer,date,amount\n" + "".join(rows))
    found = guess(file)
    assert {found.date_format, *found.alternatives["date_format"]} == {"%d/%m/%Y", "%m/%d/%Y"}
    assert found.alternatives["date_format"][0] in found.reasons["date_format"]


@pytest.mark.parametrize(
    ("gap", "unit"), [(1, "day"), (13, "day"), (14, "week"), (60, "week"), (61, "month"), (200, "month")]
)
def test_time_unit_follows_the_time_between_purchases(tmp_path, gap, unit):
    start = pd.Timestamp("2010-01-01")
    # Six customers, as many purchases as give ten years or a thousand rows.
    days = [start + pd.Timedelta(days=gap * i) for i in range(min(1000, 3650 // gap))]
    frame = pd.DataFrame(
        [(f"c{c}", day, 1.5) for c in range(6) for day in days], columns=["id", "day", "amount"]
    )
    file = tmp_path / "log.parquet"
    frame.to_parquet(file)
    assert guess(file).time_unit == unit
