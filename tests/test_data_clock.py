"""Discrete clock: purchases merged within calendar periods, against pandas' periods."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from clvmodels.artifacts import Summary
from clvmodels.config import DataConfig
from clvmodels.data import bundled_path, periods, summarise
from clvmodels.errors import InputError
from clvmodels.models.family import Statistic

COLUMNS = {"customer": "customer_id", "date": "date", "amount": "amount"}
UNITS = {"day": "D", "week": "W-SUN", "month": "M", "year": "Y"}
"""Time unit → pandas' period; its weeks end on Sunday, so that they begin on Monday."""


def log(*rows: tuple, **data: object) -> Summary:
    """Summary of rows (id, when, paid[, region]) on a discrete clock of months."""
    frame = pd.DataFrame(rows, columns=["id", "when", "paid", "region"][: len(rows[0])])
    columns = {"customer": "id", "date": "when", "amount": "paid"}
    statistics = data.pop("statistics", ())
    config = DataConfig(columns=columns, **({"clock": "discrete", "time_unit": "month"} | data))
    return summarise(config, transactions=frame, statistics=statistics)


def row(summary: Summary, customer: str) -> dict[str, float]:
    (i,) = np.flatnonzero(summary.customer == customer)
    return {name: column[i] for name, column in summary.columns.items()}


# --- periods -----------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_periods_are_those_of_pandas(unit):
    days = pd.date_range("1967-12-25", "1972-03-05")
    theirs = days.to_period(UNITS[unit])
    number = periods.number(days.values, unit)
    assert (np.diff(number) == (theirs[1:] != theirs[:-1])).all()
    np.testing.assert_array_equal(periods.first_day(number, unit), theirs.start_time.values.astype("M8[D]"))
    np.testing.assert_array_equal(periods.last_day(number, unit), theirs.end_time.values.astype("M8[D]"))
    for day in days[::13]:
        whole = pd.Period(day, UNITS[unit])
        whole = whole if whole.end_time.date() == day.date() else whole - 1
        assert periods.last_complete(day.date(), unit) == whole.end_time.date()


# --- an independent oracle ---------------------------------------------------------------------


def oracle(frame: pd.DataFrame, end: str, after: str, unit: str) -> pd.DataFrame:
    """The summary by plain pandas, one customer at a time; ``end`` and ``after`` end a period."""
    code = UNITS[unit]
    last, very_last = pd.Period(end, code), pd.Period(after, code)
    out = {}
    for customer, rows in frame.groupby("customer_id"):
        sums = rows["amount"].groupby(pd.to_datetime(rows["date"]).dt.to_period(code)).sum().sort_index()
        seen, later = sums[sums.index <= last], sums[(sums.index > last) & (sums.index <= very_last)]
        if len(seen):
            first = seen.index[0]
            out[customer] = {
                "frequency": len(seen) - 1,
                "recency": (seen.index[-1] - first).n,
                "T": (last - first).n,
                "monetary_value": seen.iloc[1:].mean(),
                "first_amount": seen.iloc[0],
                "holdout_frequency": len(later),
                "holdout_amount": later.sum(),
            }
    return pd.DataFrame(out).T.sort_index()


@pytest.mark.parametrize(
    ("unit", "observed", "whole", "after"),
    [
        ("day", "1997-08-20", "1997-08-20", "1998-06-30"),
        ("week", "1997-08-20", "1997-08-17", "1998-06-28"),
        ("month", "1997-08-20", "1997-07-31", "1998-06-30"),
        ("month", "1997-08-31", "1997-08-31", "1998-06-30"),
        ("year", "2001-06-30", "2000-12-31", "2003-12-31"),
    ],
)
def test_summary_equals_the_oracle(unit, observed, whole, after):
    frame = pd.read_parquet(bundled_path("cdnow_sample"))
    if unit == "year":  # stretched from 18 months to seven years and a half
        start = pd.Timestamp("1997-01-01")
        frame["date"] = start + 5 * (pd.to_datetime(frame["date"]) - start)
    config = DataConfig(columns=COLUMNS, clock="discrete", time_unit=unit, observation_end=observed)
    summary = summarise(config, transactions=frame)
    assert summary.clock == "discrete"
    assert summary.observation_end.isoformat() == whole
    wanted = oracle(frame.astype({"amount": float}), whole, after, unit)
    assert summary.customer.tolist() == wanted.index.tolist()
    for name in wanted.columns:
        # Money is summed in decimals here and in floats there: 17 digits against 15.
        np.testing.assert_allclose(summary[name], wanted[name].astype(float), rtol=1e-13, err_msg=name)
    length = (pd.Period(after, UNITS[unit]) - pd.Period(whole, UNITS[unit])).n
    assert summary.holdout == length


def test_days_as_opportunities_are_the_days_of_the_continuous_clock():
    config = {"source": "cdnow_sample", "time_unit": "day", "observation_end": "1997-09-30"}
    one, two = (summarise(DataConfig(clock=clock, **config)) for clock in ("continuous", "discrete"))
    for name in one.columns:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    np.testing.assert_array_equal(one.calendar.day, two.calendar.day)
    np.testing.assert_array_equal(one.calendar.repeat_amount, two.calendar.repeat_amount)
    assert one.fingerprint != two.fingerprint


# --- rules -------------------------------------------------------------------------------------


def test_purchases_of_a_period_are_one():
    summary = log(
        ("a", "2020-01-05", 10.0),
        ("a", "2020-01-30", 5.0),
        ("a", "2020-03-01", 7.0),
        ("a", "2020-03-31", 1.0),
        ("b", "2020-02-10", 3.0),
        ("b", "2020-04-30", 4.0),
    )
    assert row(summary, "a") == {
        "frequency": 1, "recency": 2, "T": 3, "monetary_value": 8.0, "first_amount": 15.0,
    }  # fmt: skip
    assert row(summary, "b")["recency"] == row(summary, "b")["T"] == 2
    assert summary.first_day.astype(str).tolist() == ["2020-01-01", "2020-02-01"]
    calendar = summary.calendar
    assert calendar.day.astype(str).tolist() == ["2020-01-31", "2020-02-29", "2020-03-31", "2020-04-30"]
    assert calendar.repeat_orders.tolist() == [0, 0, 1, 1]
    assert calendar.first_amount.tolist() == [15, 3, 0, 0]
    assert summary.ledger["customer_days"] == 4
    assert summary.ledger["rows_used"] == 6
    assert any(
        "a customer-day of this ledger is a customer-month" in note for note in summary.ledger["notes"]
    )


def test_the_last_period_counts_only_when_it_is_complete():
    rows = [("a", "2020-01-05", 10.0), ("a", "2020-03-30", 5.0), ("b", "2020-01-01", 1.0)]
    open_end, whole = log(*rows), log(*rows, ("b", "2020-03-31", 2.0))
    assert open_end.observation_end == dt.date(2020, 2, 29)
    assert row(open_end, "a")["frequency"] == 0
    assert row(open_end, "a")["T"] == 1
    assert open_end.ledger["rows_after_window"] == 1
    assert open_end.ledger["spend_after_window"] == 5.0
    assert whole.observation_end == dt.date(2020, 3, 31)
    assert row(whole, "a")["frequency"] == row(whole, "b")["frequency"] == 1


def test_a_holdout_has_whole_periods():
    rows = [("a", "2020-01-05", 10.0), ("b", "2020-01-07", 1.0), ("a", "2020-02-20", 5.0)]
    rows += [("a", "2020-03-02", 2.0), ("a", "2020-03-20", 2.5), ("b", "2020-04-10", 9.0)]
    summary = log(*rows, observation_end="2020-02-29")
    assert summary.holdout == 1.0  # April is not over
    assert row(summary, "a")["holdout_frequency"] == 1
    assert row(summary, "a")["holdout_amount"] == 4.5
    assert row(summary, "b")["holdout_frequency"] == 0
    # A day in the middle of March ends the window with February, and March is held out in full.
    middle = log(*rows, observation_end="2020-03-15")
    assert (middle.observation_end, middle.holdout) == (dt.date(2020, 2, 29), 1.0)
    assert row(middle, "a")["holdout_amount"] == 4.5


def test_refunds_are_netted_within_the_period():
    rows = [("a", "2020-01-05", 10.0), ("a", "2020-02-02", 8.0), ("a", "2020-02-27", -8.0)]
    rows += [("b", "2020-01-05", 10.0), ("b", "2020-03-31", 1.0)]
    dropped = log(*rows)
    assert row(dropped, "a")["frequency"] == 0
    assert row(log(*rows, negative_days="zero"), "a")["frequency"] == 1
    assert row(log(*rows, time_unit="day"), "a")["frequency"] == 1  # on another day: a purchase
    assert dropped.ledger["refunded_days"] == 1


def test_intervals_count_periods():
    gaps = Statistic(name="gaps", of="interval", transform="square")
    rows = [("a", "2020-01-31", 1.0), ("a", "2020-02-01", 1.0), ("a", "2020-05-31", 1.0)]
    summary = log(*rows, ("b", "2020-01-01", 1.0), statistics=(gaps,))
    assert summary["gaps"].tolist() == [1 + 9, 0]


def test_a_segment_is_that_of_the_first_period():
    rows = [("a", "2020-01-31", 1.0, "y"), ("a", "2020-01-01", 1.0, "x"), ("a", "2020-03-31", 1.0, "z")]
    summary = log(*rows, ("b", "2020-01-01", 1.0, "y"), segments=["region"])
    segment = summary.segments["region"]
    assert [segment.labels[code] for code in segment.codes] == ["x", "y"]


def test_order_of_rows_and_kind_of_table_change_nothing():
    frame = pd.read_parquet(bundled_path("cdnow_sample"))
    config = DataConfig(columns=COLUMNS, clock="discrete", time_unit="week", observation_end="1997-09-30")
    import ibis
    import polars as pl

    backend = ibis.duckdb.connect()
    backend.raw_sql(f"create table log as from read_parquet('{bundled_path('cdnow_sample')}')")
    tables = [
        frame,
        frame.sample(frac=1, random_state=1),
        pl.read_parquet(bundled_path("cdnow_sample")),
        backend.table("log"),
    ]
    one, *others = (summarise(config, transactions=table) for table in tables)
    backend.disconnect()
    for other in others:
        assert other.fingerprint == one.fingerprint
        for name in one.columns:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_no_complete_period():
    rows = [("a", "2020-01-05", 10.0), ("b", "2020-01-29", 5.0)]
    with pytest.raises(InputError, match=r"the month of the first date in the data, 2020-01-05, is not comp"):
        log(*rows)
    with pytest.raises(InputError, match=r"all purchases up to 2020-01-31 fall on one month, 2020-01-01"):
        log(*rows, ("a", "2020-01-31", 1.0))


def test_saved_and_loaded(tmp_path):
    summary = log(("a", "2020-01-05", 10.0), ("b", "2020-02-29", 5.0))
    summary.save(tmp_path / "summary.parquet")
    assert Summary.load(tmp_path / "summary.parquet").clock == "discrete"
