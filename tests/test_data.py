"""From transactions to customers: known numbers, an independent oracle, engines and sources."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from clvmodels.artifacts import DAYS_PER_UNIT, Summary
from clvmodels.config import BUNDLED, DataConfig
from clvmodels.data import bundled_path, check, summarise
from clvmodels.data.bundled import LOGS
from clvmodels.data.ledger import KEYS
from clvmodels.errors import InputError
from clvmodels.models.family import Statistic

END = "1997-09-30"
COLUMNS = {"customer": "customer_id", "date": "date", "amount": "amount"}
HEADER = ("id", "when", "paid", "region", "ratio")


def bundled(name: str = "cdnow_sample", **data: object) -> Summary:
    return summarise(DataConfig(source=name, **data))


def log(*rows: tuple, **data: object) -> Summary:
    """Summary of rows (id, when, paid[, region[, ratio]]) in days, holdout and all."""
    frame = pd.DataFrame(rows, columns=list(HEADER[: len(rows[0])]))
    columns = {"customer": "id", "date": "when", "amount": "paid"}
    margin = data.pop("margin_column", None)
    statistics = data.pop("statistics", ())
    config = DataConfig(columns=columns, **({"time_unit": "day"} | data))
    return summarise(config, transactions=frame, margin_column=margin, statistics=statistics)


def row(summary: Summary, customer: str) -> dict[str, float]:
    (i,) = np.flatnonzero(summary.customer == customer)
    return {name: column[i] for name, column in summary.columns.items()}


@pytest.fixture(scope="module")
def sample() -> Summary:
    return bundled(observation_end=END)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return pd.read_parquet(bundled_path("cdnow_sample")).astype({"amount": float})


def same(one: Summary, two: Summary) -> None:
    """Equal to the last bit; the ledger may name another source and engine."""
    assert one.fingerprint == two.fingerprint
    assert (one.customer == two.customer).all()
    assert one.columns.keys() == two.columns.keys()
    for name in one.columns:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    for f in dataclasses.fields(one.calendar):
        np.testing.assert_array_equal(getattr(one.calendar, f.name), getattr(two.calendar, f.name))
    for name, segment in one.segments.items():
        assert segment.labels == two.segments[name].labels
        np.testing.assert_array_equal(segment.codes, two.segments[name].codes)
    told = {"source", "engine", "files", "notes", "currency"}
    assert {k: v for k, v in one.ledger.items() if k not in told} == {
        k: v for k, v in two.ledger.items() if k not in told
    }


# --- known numbers -----------------------------------------------------------------------------


def test_cdnow_sample_at_week_39(sample):
    """Fader, Hardie & Lee (2005): 2,357 customers, 946 of them repeat buyers in 39 weeks."""
    assert len(sample) == 2357
    assert (sample["frequency"] > 0).sum() == 946
    assert sample["frequency"].sum() == 2457
    assert sample["holdout_frequency"].sum() == 1882
    assert sample.holdout == 39.0
    first = row(sample, "00004")  # number 0001 of the sample
    assert first["frequency"] == 2
    # The paper prints two decimals of (214 - 1) / 7 and (273 - 1) / 7.
    assert (first["recency"], first["T"]) == (213 / 7, 272 / 7)
    assert (round(first["recency"], 2), round(first["T"], 2)) == (30.43, 38.86)


def test_age_counts_from_the_first_day_to_day_273(sample):
    day = (sample.first_day - np.datetime64("1997-01-01")).astype(int) + 1
    np.testing.assert_array_equal(sample["T"], (273 - day) / 7)


def test_cdnow_full_cohort():
    full = bundled("cdnow")
    assert len(full) == 23_570
    assert full.ledger["rows_read"] == 69_659
    # The ledger's float is the decimal sum, exact to the cent.
    assert full.ledger["spend_read"] == full.ledger["spend_summary"] == 2_500_315.63
    assert full.customer[0] == "00001"


def test_the_sample_is_part_of_the_cohort(sample):
    full = bundled("cdnow", observation_end=END)
    inside = np.isin(full.customer, sample.customer)
    assert inside.sum() == len(sample)
    for name in sample.columns:
        np.testing.assert_array_equal(full[name][inside], sample[name])


def test_online_retail_nets_refunds_and_has_countries():
    retail = bundled("online_retail", segments=["country"])
    assert retail.currency == "GBP"
    told = retail.ledger
    assert (told["rows_read"], told["customers_read"]) == (22_190, 4_372)
    assert (told["negative_rows"], told["negative_sum"]) == (3_654, -611_342.09)
    assert told["customers"] + told["customers_without_purchase"] == 4_372
    assert "12346" not in retail.customer  # bought for 77,183.60 and sent it all back that day
    assert told["segments"]["country"] == {"values": 37, "several": 8}
    assert retail.segments["country"].labels[-1] == "Unspecified"
    assert (retail["monetary_value"][retail["frequency"] > 0] > 0).all()


# --- an independent oracle ---------------------------------------------------------------------


EARLY = "1997-03-01"  # customers who come later must be left out


@pytest.fixture(scope="module")
def oracle(frame) -> pd.DataFrame:
    """The customer summary in days by plain pandas, one customer at a time."""
    cut, out = pd.Timestamp(EARLY), {}
    for customer, rows in frame.assign(date=pd.to_datetime(frame["date"])).groupby("customer_id"):
        days = rows.groupby("date")["amount"].sum().sort_index()
        seen, after = days[days.index <= cut], days[days.index > cut]
        if len(seen):
            out[customer] = {
                "frequency": len(seen) - 1,
                "recency": (seen.index[-1] - seen.index[0]).days,
                "T": (cut - seen.index[0]).days,
                "monetary_value": seen.iloc[1:].mean(),
                "first_amount": seen.iloc[0],
                "holdout_frequency": len(after),
                "holdout_amount": after.sum(),
            }
    return pd.DataFrame(out).T.sort_index()


@pytest.mark.parametrize("unit", ["day", "week", "month"])
def test_summary_equals_the_oracle(oracle, unit):
    summary = bundled(observation_end=EARLY, time_unit=unit)
    expected = oracle.copy()
    expected[["recency", "T"]] /= DAYS_PER_UNIT[unit]
    assert summary.customer.tolist() == expected.index.tolist()
    for name in expected:
        # Sums of floats against exact sums: a few eps of at most 100 amounts.
        np.testing.assert_allclose(summary[name], expected[name], rtol=1e-13, atol=1e-11, err_msg=name)
    told = summary.ledger
    assert told["customers_later"] == 2357 - len(summary) > 0
    assert told["spend_later_customers"] > 0


def test_calendar_adds_up(sample, frame):
    calendar = sample.calendar
    assert calendar.day[0] == np.datetime64("1997-01-01")
    assert calendar.day[-1] == np.datetime64("1998-06-30")
    assert (np.diff(calendar.day) == np.timedelta64(1, "D")).all()
    held = calendar.day > np.datetime64(END)
    assert calendar.first_orders.sum() == len(sample)
    assert calendar.repeat_orders[~held].sum() == sample["frequency"].sum()
    assert calendar.repeat_orders[held].sum() == sample["holdout_frequency"].sum()
    daily = frame.groupby("date")["amount"].sum()
    total = pd.Series(calendar.first_amount + calendar.repeat_amount, calendar.day)
    # Exact decimals against float sums of at most 60 rows a day.
    np.testing.assert_allclose(total[pd.DatetimeIndex(daily.index)], daily, rtol=1e-13)


def test_calendar_of_the_holdout_has_everybodys_first_orders_but_no_later_repeats():
    summary = log(
        ("a", "2020-01-01", 1.0),
        ("b", "2020-01-02", 1.0),
        ("a", "2020-01-06", 2.0),
        ("c", "2020-01-06", 4.0),
        ("c", "2020-01-08", 8.0),
        observation_end="2020-01-05",
    )
    assert summary.customer.tolist() == ["a", "b"]
    assert summary.calendar.first_orders.tolist() == [1, 1, 0, 0, 0, 1, 0, 0]
    assert summary.calendar.repeat_orders.tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    assert summary.calendar.repeat_amount.sum() == 2.0
    assert summary.ledger["spend_later_customers"] == 12.0


STATISTICS = tuple(
    Statistic(name=f"{of}_{transform}_{reduce}", of=of, transform=transform, reduce=reduce)
    for of in ("interval", "spend")
    for transform in ("identity", "log", "square", "log_square")
    for reduce in ("sum", "mean")
)


def test_declared_statistics_equal_the_oracle(frame):
    # Repeat days of amount 0 would have no logarithm; the sample has none up to then.
    config = DataConfig(source="cdnow_sample", observation_end=END)
    summary = summarise(config, statistics=STATISTICS)
    days = frame.assign(date=pd.to_datetime(frame["date"])).query(f"date <= '{END}'")
    days = days.groupby(["customer_id", "date"])["amount"].sum().reset_index()
    values = {
        "interval": days.groupby("customer_id")["date"].diff().dt.days / 7,
        "spend": days["amount"].where(days.duplicated("customer_id")),
    }
    change = {
        "identity": lambda v: v,
        "log": np.log,
        "square": np.square,
        "log_square": lambda v: np.log(v) ** 2,
    }
    for statistic in STATISTICS:
        value = change[statistic.transform](values[statistic.of])
        by = value.groupby(days["customer_id"])
        expected = by.sum() if statistic.reduce == "sum" else by.mean().fillna(0.0)
        # Terms are rounded to 12 decimals, customers have at most 30 of them.
        np.testing.assert_allclose(
            summary[statistic.name], expected, rtol=1e-12, atol=30e-12, err_msg=statistic.name
        )


# --- what must not matter ----------------------------------------------------------------------


def test_order_of_rows_does_not_matter(frame, sample):
    config = DataConfig(columns=COLUMNS, observation_end=END)
    for seed in (1, 2):
        same(summarise(config, transactions=frame.sample(frac=1, random_state=seed)), sample)


def test_order_of_rows_does_not_matter_for_statistics_and_margins(frame):
    config = DataConfig(columns=COLUMNS, observation_end=END)
    frame = frame.assign(ratio=np.arange(len(frame)) % 97 / 96)
    kwargs = {"statistics": STATISTICS, "margin_column": "ratio"}
    shuffled = frame.sample(frac=1, random_state=3)
    same(summarise(config, transactions=frame, **kwargs), summarise(config, transactions=shuffled, **kwargs))


def test_days_are_seven_times_weeks_to_the_last_bit(sample):
    days = bundled(observation_end=END, time_unit="day")
    for name in ("T", "recency"):
        assert (days[name] == np.rint(days[name])).all()
        np.testing.assert_array_equal(sample[name], days[name] / 7)
    np.testing.assert_array_equal(sample["monetary_value"], days["monetary_value"])
    assert days.fingerprint == sample.fingerprint


def test_cents_are_a_hundred_dollars(frame, sample):
    config = DataConfig(columns=COLUMNS, observation_end=END)
    cents = summarise(config, transactions=frame.assign(amount=(frame["amount"] * 100).round()))
    # Correctly rounded quotients: one ulp.
    np.testing.assert_allclose(cents["monetary_value"], 100 * sample["monetary_value"], rtol=3e-16)
    assert cents.fingerprint != sample.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.assign(amount=f["amount"] + (f.index == 17) * 0.01),
        lambda f: f.assign(date=f["date"].mask(f.index == 17, dt.date(1997, 2, 3))),
        lambda f: f.assign(customer_id=f["customer_id"].replace("00004", "4")),
        lambda f: f.drop(index=17),
    ],
)
def test_fingerprint_notices(frame, sample, change):
    config = DataConfig(columns=COLUMNS, observation_end=END)
    assert summarise(config, transactions=change(frame)).fingerprint != sample.fingerprint


# --- sources -----------------------------------------------------------------------------------


def sources(tmp: Path) -> dict[str, object]:
    """The sample as every kind of source, text and typed, in one file and in several."""
    import ibis
    import polars as pl

    table = pq.read_table(bundled_path("cdnow_sample"))
    floats = table.set_column(4, "amount", table["amount"].cast(pa.float64()))
    text = table.set_column(4, "amount", table["amount"].cast(pa.string()))
    pa.csv.write_csv(text, tmp / "log.csv")
    pa.csv.write_csv(text, tmp / "log.tsv", pa.csv.WriteOptions(delimiter="\t"))
    pq.write_table(floats, tmp / "log.parquet")
    pa.csv.write_csv(text.slice(0, 3000), tmp / "part-1.csv")
    pa.csv.write_csv(text.slice(3000).select(["amount", "date", "customer_id"]), tmp / "part-2.csv")
    pq.write_table(floats.slice(0, 3000), tmp / "part-1.parquet")
    pq.write_table(floats.slice(3000).select(["amount", "date", "customer_id"]), tmp / "part-2.parquet")
    (tmp / "log.csv.gz").write_bytes(_gzipped((tmp / "log.csv").read_bytes()))
    other = ibis.duckdb.connect(tmp / "other.duckdb")
    other.raw_sql(f"create table log as from read_parquet('{bundled_path('cdnow_sample')}')")
    polars = ibis.polars.connect()
    polars.create_table("log", table)
    return {
        "csv": "log.csv",
        "tsv": "log.tsv",
        "gz": "log.csv.gz",
        "parquet": "log.parquet",
        "csv glob": "part-*.csv",
        "parquet glob": "part-*.parquet",
        "pandas": floats.to_pandas(),
        "pandas with an index": floats.to_pandas().set_index(np.arange(len(table)) * 3),
        "pandas timestamps": floats.to_pandas().astype({"date": "datetime64[ns]"}),
        "pandas categories": floats.to_pandas().astype({"customer_id": "category"}),
        "polars": pl.from_arrow(floats),
        "polars lazy": pl.from_arrow(floats).lazy(),
        "arrow": table,
        "ibis on another DuckDB": other.table("log"),
        "ibis on Polars": polars.table("log"),
    }


def _gzipped(raw: bytes) -> bytes:
    import gzip

    return gzip.compress(raw)


@pytest.fixture(scope="module")
def every_source(tmp_path_factory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("sources")
    return folder, sources(folder)


KINDS = [
    *("csv", "tsv", "gz", "parquet", "csv glob", "parquet glob", "pandas", "pandas with an index"),
    *("pandas timestamps", "pandas categories", "polars", "polars lazy", "arrow"),
    *("ibis on another DuckDB", "ibis on Polars"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_summary(every_source, sample, kind):
    folder, found = every_source
    source = found[kind]
    data = {"columns": COLUMNS, "observation_end": END}
    if isinstance(source, str):
        summary = summarise(DataConfig(source=source, **data), base=folder)
        assert summary.ledger["source"] == source
        assert summary.ledger["files"] == (2 if "*" in source else 1)
    else:
        summary = summarise(DataConfig(**data), transactions=source)
    same(summary, sample)


def test_an_ibis_table_stays_in_its_backend(every_source, monkeypatch):
    import ibis

    _, found = every_source
    monkeypatch.setattr(ibis.duckdb, "connect", None)  # no engine of our own can be opened
    config = DataConfig(columns=COLUMNS, observation_end=END)
    for kind, engine in (("ibis on another DuckDB", "duckdb"), ("ibis on Polars", "polars")):
        assert summarise(config, transactions=found[kind]).ledger["engine"] == engine
    backend = found["ibis on another DuckDB"].get_backend()
    assert backend.raw_sql("show tables").fetchall() == [("log",)]


def test_engines_agree_on_statistics_and_margins(frame):
    import ibis

    config = DataConfig(columns=COLUMNS, observation_end=END)
    frame = frame.assign(ratio=np.arange(len(frame)) % 97 / 96)
    polars = ibis.polars.connect()
    polars.create_table("log", pa.table(frame))
    spend = tuple(s for s in STATISTICS if s.of == "spend")
    kwargs = {"statistics": spend, "margin_column": "ratio"}
    one = summarise(config, transactions=frame, **kwargs)
    two = summarise(config, transactions=polars.table("log"), **kwargs)
    assert one.fingerprint == two.fingerprint
    for name in one.columns:
        # A logarithm may fall on either side when it is rounded to 12 decimals; at most 30 terms.
        np.testing.assert_allclose(one[name], two[name], rtol=1e-15, atol=30e-12, err_msg=name)
    # Ibis has no window functions on Polars.
    with pytest.raises(InputError, match=r"its engine, polars \(.*pass its rows as an Arrow table"):
        summarise(config, transactions=polars.table("log"), statistics=STATISTICS)


def test_parquet_timestamps_with_a_zone_are_days_in_utc(tmp_path):
    stamps = pd.to_datetime(["2020-01-31 23:30", "2020-01-30 12:00"]).tz_localize("America/New_York")
    frame = pd.DataFrame({"customer_id": ["a", "b"], "date": stamps, "amount": [1.0, 2.0]})
    frame.to_parquet(tmp_path / "log.parquet")
    summary = summarise(DataConfig(source="log.parquet", columns=COLUMNS), base=tmp_path)
    assert summary.observation_end == dt.date(2020, 2, 1)
    assert any("time zone" in note for note in summary.ledger["notes"])


@pytest.mark.parametrize("dialect", ["postgres", "snowflake", "bigquery", "trino", "databricks"])
def test_the_expression_compiles_for_other_engines(dialect):
    import ibis

    from clvmodels.data.summary import customers

    money = "decimal(18, 6)"
    days = ibis.table({"customer": "string", "day": "date", "amount": money, "lowest": money}, name="days")
    expression = customers(days, "week", dt.date(2020, 1, 1), STATISTICS)
    assert ibis.to_sql(expression, dialect=dialect).count("GROUP BY") == 1


def test_a_window_function_is_used_for_intervals_only():
    import ibis

    from clvmodels.data.summary import customers

    money = "decimal(18, 6)"
    days = ibis.table({"customer": "string", "day": "date", "amount": money, "lowest": money}, name="days")
    spend = tuple(s for s in STATISTICS if s.of == "spend")
    for statistics, windows in (((), 0), (spend, 0), (STATISTICS, 1)):
        sql = ibis.to_sql(customers(days, "week", dt.date(2020, 1, 1), statistics), dialect="duckdb")
        assert sql.count(" OVER ") == windows


# --- ids, dates, amounts -----------------------------------------------------------------------


def test_ids_stay_as_they_are(tmp_path):
    (tmp_path / "log.csv").write_text(
        "id,when,paid\n00004,2020-01-01,1\n4,2020-01-02,1\n 4,2020-01-03,1\n4.0,2020-01-03,1\n"
        "É;'--,2020-01-03,1\n"
    )
    config = DataConfig(source="log.csv", columns={"customer": "id", "date": "when", "amount": "paid"})
    summary = summarise(config, base=tmp_path)
    assert summary.customer.tolist() == [" 4", "00004", "4", "4.0", "É;'--"]


def test_whole_numbers_among_missing_ids_have_no_decimal_point():
    summary = log((17850.0, "2020-01-01", 1.0), (None, "2020-01-02", 5.0), (3.0, "2020-01-03", 1.0))
    assert summary.customer.tolist() == ["17850", "3"]
    assert summary.ledger["rows_missing_id"] == 1
    assert summary.ledger["spend_missing_id"] == 5.0


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("2020-01-31", None),
        ("2020-01-31 23:59:59", None),
        ("2020-01-31T23:59:59+05:00", None),  # the day on the clock of the shop
        ("2020-1-31", None),
        ("31/01/2020", "%d/%m/%Y"),
        ("1/31/2020 11:59 PM", "%m/%d/%Y %I:%M %p"),
        ("20200131", "%Y%m%d"),
        (20200131, "%Y%m%d"),
        (dt.date(2020, 1, 31), None),
        (pd.Timestamp("2020-01-31 23:30", tz="America/New_York"), None),
    ],
)
def test_dates(text, form):
    summary = log(("a", text, 1.0), ("b", text, 1.0), ("b", _earlier(text), 1.0), date_format=form)
    assert summary.observation_end == dt.date(2020, 1, 31)


def _earlier(value: object) -> object:
    if isinstance(value, str):
        return value.replace("31", "30", 1)
    return value - 1 if isinstance(value, int) else value - dt.timedelta(days=1)


def test_amounts_of_text_and_missing_marks(tmp_path):
    (tmp_path / "log.csv").write_text(
        "id,when,paid\na,2020-01-01, 1.50 \na,2020-01-02,+2\nb,2020-01-01,.5\nb,2020-01-05,1e2\n"
        "b,2020-01-06,NA\nb,,7\nb,null,7\n"
    )
    config = DataConfig(source="log.csv", columns={"customer": "id", "date": "when", "amount": "paid"})
    summary = summarise(config, base=tmp_path)
    assert summary["first_amount"].tolist() == [1.5, 0.5]
    assert summary["monetary_value"].tolist() == [2.0, 100.0]
    told = summary.ledger
    assert (told["rows_missing_amount"], told["rows_missing_date"], told["spend_missing_date"]) == (
        1,
        2,
        14.0,
    )
    assert told["rows_used"] == 4


def test_sums_are_exact_where_floats_are_not():
    rows = [("a", "2020-01-01", 1.0), ("b", "2020-01-02", 1.0)]
    rows += [("a", "2020-01-02", 0.1)] * 3 + [("b", "2020-01-01", 1e9 + 0.01), ("b", "2020-01-03", 0.02)]
    summary = log(*rows)
    assert row(summary, "a")["monetary_value"] == 0.3 != 0.1 + 0.1 + 0.1
    assert summary.ledger["spend_summary"] == 1_000_000_002.33


def test_amounts_with_more_than_six_decimals_are_said():
    summary = log(("a", "2020-01-01", 1.23456789), ("b", "2020-01-02", 29.33))
    assert any(note.startswith("1 amount with more than six decimals") for note in summary.ledger["notes"])


# --- rules -------------------------------------------------------------------------------------

REFUNDED = (
    ("a", "2020-01-01", 10.0),
    ("a", "2020-01-01", -4.0),
    ("a", "2020-01-03", -6.0),
    ("a", "2020-01-05", 5.0),
    ("a", "2020-01-05", -5.0),
    ("b", "2020-01-02", 0.0),
    ("b", "2020-01-06", 3.0),
    ("c", "2020-01-06", -3.0),
)


def test_refunds_net_within_the_day_and_refunded_days_are_dropped():
    summary = log(*REFUNDED)
    assert summary.customer.tolist() == ["a", "b"]
    assert summary["frequency"].tolist() == [0.0, 1.0]
    assert summary["first_amount"].tolist() == [6.0, 0.0]
    told = summary.ledger
    assert (told["refunded_days"], told["zero_days"], told["customers_without_purchase"]) == (3, 1, 1)
    assert (told["negative_rows"], told["negative_sum"]) == (4, -18.0)
    assert (told["spend_read"], told["spend_refunded_days"], told["spend_summary"]) == (0.0, -9.0, 9.0)


def test_refunded_days_as_purchases_of_amount_zero():
    summary = log(*REFUNDED, negative_days="zero")
    assert summary.customer.tolist() == ["a", "b", "c"]
    assert row(summary, "a")["frequency"] == 2
    assert row(summary, "a")["monetary_value"] == 0
    assert summary.ledger["spend_refunded_days"] == -9.0
    assert summary.ledger["spend_summary"] == 9.0


def test_refunds_dropped():
    summary = log(*REFUNDED, refunds="drop")
    assert row(summary, "a")["first_amount"] == 10.0
    assert row(summary, "a")["monetary_value"] == 5.0
    told = summary.ledger
    assert (told["rows_refund"], told["spend_refund"], told["spend_summary"]) == (4, -18.0, 18.0)


def test_zero_days_dropped():
    summary = log(*REFUNDED, zero_days="drop")
    assert row(summary, "b")["frequency"] == 0
    assert row(summary, "b")["T"] == 0


def test_exact_duplicates_are_counted_and_dropped_on_request():
    rows = [("a", "2020-01-01 10:00", 1.0)] * 3 + [("a", "2020-01-01 11:00", 1.0), ("b", "2020-01-05", 1.0)]
    kept, dropped = log(*rows), log(*rows, duplicates="drop")
    assert row(kept, "a")["first_amount"] == 4.0
    assert row(dropped, "a")["first_amount"] == 2.0
    assert kept.ledger["duplicates_found"] == dropped.ledger["duplicates_found"] == 2
    assert (kept.ledger["rows_duplicate"], dropped.ledger["rows_duplicate"]) == (0, 2)
    assert dropped.ledger["spend_duplicate"] == 2.0


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_only_days_of_several_rows_are_looked_at_again(monkeypatch, duplicates):
    """Work that grows with the log: rows kept for later queries, counted at each step."""
    from clvmodels.data.sources import Source

    sizes, keep = [], Source.keep

    def counting(source, expression):
        table = keep(source, expression)
        sizes.append(source.fetch(table.aggregate(n=table.count()))["n"][0].as_py())
        return table

    monkeypatch.setattr(Source, "keep", counting)
    days = pd.date_range("2024-01-01", periods=50)
    plain = pd.DataFrame({"id": np.repeat(np.arange(1, 21), 50), "when": np.tile(days, 20), "paid": 1.0})
    summary = log(*pd.concat([plain, plain[:7]]).itertuples(index=False), duplicates=duplicates)
    assert summary.ledger["duplicates_found"] == 7
    # Customer-days; rows of the 7 that have two; customer-days without the duplicates; customers.
    assert sizes == [1000, 14, 20] if duplicates == "keep" else [1000, 14, 1000, 20]


def test_whole_number_ids_are_numbers_on_the_way_and_text_in_the_order_of_text_at_the_end():
    rows = [(2, "2024-01-01", 1.0), (10, "2024-01-02", 2.0), (1, "2024-01-03", 3.0), (10, "2024-01-05", 4.0)]
    numbers, texts = log(*rows), log(*((str(one), *rest) for one, *rest in rows))
    assert numbers.customer.tolist() == ["1", "10", "2"]
    same(numbers, texts)


def test_rows_after_the_window_are_counted():
    summary = bundled(observation_end="1997-06-30", holdout_end="1997-09-30")
    told = summary.ledger
    assert told["rows_after_window"] > 0
    assert told["spend_after_window"] > 0
    assert summary.holdout == 92 / 7
    assert summary.calendar.day[-1] == np.datetime64("1997-09-30")
    assert "holdout_amount" in summary.columns
    assert "holdout_amount" not in bundled(observation_end=END, holdout_end=END).columns


def test_the_ledger_says_what_was_assumed():
    notes = bundled().ledger["notes"]
    assert "observation_end not given: the last date in the data, 1998-06-30, is used." in notes
    assert not any("currency" in note for note in notes)
    notes = log(("a", "2020-01-01", 1.0), ("b", "2020-01-03", 1.0)).ledger["notes"]
    assert "currency not given: amounts are taken to be USD." in notes


def test_segment_is_the_value_on_the_first_purchase_day():
    summary = log(
        ("a", "2020-01-02", 1.0, "south"),
        ("a", "2020-01-01", 1.0, "west"),
        ("a", "2020-01-01", 1.0, "north"),
        ("b", "2020-01-01", 1.0, "west"),
        ("b", "2020-01-02", 1.0, None),
        segments=["region"],
    )
    segment = summary.segments["region"]
    assert [segment.labels[code] for code in segment.codes] == ["north", "west"]
    assert summary.ledger["segments"]["region"] == {"values": 2, "several": 1}
    assert any("'region'" in note for note in summary.ledger["notes"])


def test_margin_is_weighted_by_positive_amounts_in_the_calibration_window():
    summary = log(
        ("a", "2020-01-01", 30.0, "x", 0.1),
        ("a", "2020-01-02", 10.0, "x", 0.5),
        ("a", "2020-01-02", -5.0, "x", 0.9),
        ("a", "2020-01-09", 99.0, "x", 1.0),
        ("b", "2020-01-01", 1.0, "x", 0.25),
        observation_end="2020-01-05",
        margin_column="ratio",
    )
    assert summary["margin"].tolist() == [0.2, 0.25]


def test_observation_may_end_within_the_longest_pause_of_the_log():
    rows = (("a", "2020-01-01", 1.0), ("a", "2020-01-04", 1.0), ("b", "2020-01-04", 1.0))
    assert log(*rows, observation_end="2020-01-07")["T"].tolist() == [6.0, 3.0]


# --- safety ------------------------------------------------------------------------------------


def test_names_and_text_never_become_sql(tmp_path):
    names = ["""i'd"; DROP TABLE x; --""", "wann? ü", "%s {0}", "c0"]
    folder = tmp_path / "a'b; [x] *"
    folder.mkdir()
    file = folder / "l'og \"; --ü.csv"
    frame = pd.DataFrame([["x'; --", "2020-01-01", 1.5, "'"], ['"', "2020-01-02", 2.5, ";"]], columns=names)
    frame.to_csv(file, index=False)
    columns = {"customer": names[0], "date": names[1], "amount": names[2]}
    csv = summarise(DataConfig(source=str(file), columns=columns, segments=[names[3]]))
    memory = summarise(DataConfig(columns=columns, segments=[names[3]]), transactions=frame)
    parquet = file.with_suffix(".parquet")
    frame.to_parquet(parquet)
    same(csv, memory)
    same(csv, summarise(DataConfig(source=str(parquet), columns=columns, segments=[names[3]])))
    assert csv.customer.tolist() == ['"', "x'; --"]


def test_importing_data_loads_no_engine():
    code = (
        "import sys, clvmodels.data; "
        "print([m for m in ('ibis', 'duckdb', 'pandas', 'pyarrow', 'polars') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# --- the artefact ------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    config = DataConfig(source="online_retail", segments=["country"], observation_end="2011-09-01")
    summary = summarise(config)
    summary.save(tmp_path / "summary.parquet")
    loaded = Summary.load(tmp_path / "summary.parquet")
    same(summary, loaded)
    for f in dataclasses.fields(Summary):
        if f.name not in ("customer", "columns", "first_day", "segments", "calendar"):
            assert getattr(loaded, f.name) == getattr(summary, f.name), f.name
    np.testing.assert_array_equal(loaded.first_day, summary.first_day)


def test_ledger_is_json_with_documented_keys(sample):
    assert set(sample.ledger) == {*KEYS, "segments", "notes"}
    assert json.loads(json.dumps(sample.ledger)) == sample.ledger
    assert check(DataConfig(source="cdnow_sample", observation_end=END)) == sample.ledger


def test_a_ledger_that_does_not_add_up_is_refused(sample):
    from clvmodels.data.ledger import reconcile

    reconcile(sample.ledger | {"spend_read": 0, **{k: 0 for k in KEYS if k.startswith("spend_")}})
    with pytest.raises(RuntimeError, match="does not reconcile"):
        reconcile(sample.ledger | {"rows_used": sample.ledger["rows_used"] - 1})


def test_bundled_logs_are_those_of_the_config_and_small():
    assert tuple(LOGS) == BUNDLED
    readme = (bundled_path("cdnow").parent / "README.md").read_text()
    for name in LOGS:
        assert bundled_path(name).stat().st_size < 500_000
        assert f"`{name}.parquet`" in readme
