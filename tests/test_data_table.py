"""Tables of summaries: frequency, recency and T that are already there, with weights."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import ValidationError

from clvmodels.artifacts import Summary
from clvmodels.config import DataConfig
from clvmodels.data import bundled_path, check, summarise
from clvmodels.data.bundled import LOGS
from clvmodels.data.ledger import KEYS
from clvmodels.errors import InputError
from clvmodels.models.family import Statistic

END = "2001-12-31"
YEARS = {"kind": "summary", "clock": "discrete", "time_unit": "year", "observation_end": END}
PLAIN = {"frequency": [0, 2, 1], "recency": [0.0, 30.5, 4.0], "T": [38.0, 40.0, 39.5]}


def config(**data: object) -> DataConfig:
    return DataConfig(**({"kind": "summary", "observation_end": END} | data))


def table(changes: dict | None = None, **data: object) -> Summary:
    """The summary of three customers with columns changed or added."""
    statistics, margin = data.pop("statistics", ()), data.pop("margin_column", None)
    frame = pd.DataFrame(PLAIN | (changes or {}))
    return summarise(config(**data), transactions=frame, statistics=statistics, margin_column=margin)


# --- bundled -----------------------------------------------------------------------------------


def test_donations_are_the_published_donors(published):
    summary = summarise(DataConfig(source="donations", **YEARS))
    counts = published["BGBB_donations"]["holdout5_by_frequency"]["n"]
    assert np.bincount(summary["frequency"].astype(int)).tolist() == counts
    by_recency = published["BGBB_donations"]["holdout5_by_recency"]["n"]
    assert np.bincount(summary["recency"].astype(int)).tolist() == by_recency
    assert (summary["T"] == 6).all()
    assert len(summary) == len(set(summary.customer)) == 11_104
    assert summary.clock == "discrete"
    assert summary.first_day[0] == np.datetime64("1995-01-01")
    rows = summary.fold(("frequency", "recency", "T"))
    frame = pd.read_parquet(bundled_path("donations")).sort_values(["frequency", "recency"])
    np.testing.assert_array_equal(rows.weight, frame["weight"])


def test_contracts_are_the_published_survivors(published):
    summary = summarise(DataConfig(source="contracts", segments=["segment"], **YEARS))
    segment = summary.segments["segment"]
    assert segment.labels == ("High End", "Regular")
    for code, label in enumerate(segment.labels):
        x = summary["frequency"][segment.codes == code]
        survivors = [int((x >= t).sum()) for t in range(8)]
        assert survivors == published["sBG_FaderHardie2007"][label]["survivors_0..12"][:8]
    np.testing.assert_array_equal(summary["frequency"], summary["recency"])
    assert (summary["T"] == 7).all()


@pytest.mark.parametrize("name", [name for name, about in LOGS.items() if about.kind == "summary"])
def test_bundled_summaries_say_how_they_are_read(name):
    with pytest.raises(
        InputError, match=f"data.source '{name}' is a summary of .*: set data.kind to summary"
    ):
        summarise(DataConfig(source=name))
    with pytest.raises(InputError, match=r": set data\.clock to discrete and data\.time_unit to year\."):
        summarise(config(source=name))
    readme = (bundled_path(name).parent / "README.md").read_text()
    assert f"`{name}.parquet`" in readme


def test_a_bundled_log_is_no_summary():
    with pytest.raises(InputError, match=r"data.source 'cdnow' is CDNOW.*: set data\.kind to transactions\."):
        summarise(config(source="cdnow"))


# --- what a table becomes ----------------------------------------------------------------------


def test_rows_become_customers():
    summary = table({"monetary_value": [0.0, 10.0, 2.5], "weight": [2, 1, 3]})
    assert summary.customer.tolist() == list("123456")
    assert summary["frequency"].tolist() == [0, 0, 2, 1, 1, 1]
    assert summary["recency"].tolist() == [0, 0, 30.5, 4, 4, 4]
    np.testing.assert_array_equal(summary["monetary_value"], [np.nan, np.nan, 10, 2.5, 2.5, 2.5])
    assert np.isnan(summary["first_amount"]).all()
    assert summary.clock == "continuous"
    assert summary.observation_end == dt.date(2001, 12, 31)
    # 38 weeks before the end
    assert summary.first_day[0] == np.datetime64("2001-12-31") - 266
    assert len(summary.calendar.day) == 0
    ledger = summary.ledger
    assert set(KEYS) <= set(ledger)
    assert (ledger["rows_read"], ledger["customers"], ledger["repeat_days"]) == (3, 6, 5)
    assert ledger["spend_read"] == ledger["spend_summary"] == 27.5
    assert any("has no dates" in note for note in ledger["notes"])


def test_weights_equal_repeated_rows():
    weighted = table({"weight": [2, 1, 3]})
    repeated = pd.DataFrame(PLAIN).loc[[0, 0, 1, 2, 2, 2]]
    assert summarise(config(), transactions=repeated).fingerprint == weighted.fingerprint


def test_ids_segments_margins_and_declared_statistics():
    more = {"who": ["b", "a", "c"], "sort": ["u", "v", "u"], "ratio": [0.1, 0.2, 0.3]}
    logs = Statistic(name="log_spend", of="spend", transform="log")
    summary = table(
        more | {"log_spend": [0.0, 1.5, 2.5]},
        columns={"customer": "who"},
        segments=["sort"],
        margin_column="ratio",
        statistics=(logs,),
    )
    assert summary.customer.tolist() == ["a", "b", "c"]
    assert summary["frequency"].tolist() == [2, 0, 1]
    assert summary["margin"].tolist() == [0.2, 0.1, 0.3]
    assert summary["log_spend"].tolist() == [1.5, 0.0, 2.5]
    segment = summary.segments["sort"]
    assert [segment.labels[code] for code in segment.codes] == ["v", "u", "u"]


def test_columns_of_other_names():
    frame = pd.DataFrame(PLAIN).set_axis(["x", "t_x", "age"], axis=1).assign(z=[0, 3.0, 4.0], n=[1, 2, 1])
    names = {"frequency": "x", "recency": "t_x", "T": "age", "monetary_value": "z", "weight": "n"}
    summary = summarise(config(columns=names), transactions=frame)
    assert summary["T"].tolist() == [38, 40, 40, 39.5]
    assert summary["monetary_value"][1] == 3.0


def test_csv_polars_arrow_and_ibis_give_the_same(tmp_path):
    frame = pd.DataFrame(PLAIN | {"monetary_value": [None, 10.0, 2.5], "weight": [1, 2, 1]})
    frame.to_csv(tmp_path / "rfm.csv", index=False)
    frame.to_parquet(tmp_path / "rfm.parquet")
    import ibis

    backend = ibis.duckdb.connect()
    backend.raw_sql(f"create table rfm as from read_parquet('{tmp_path / 'rfm.parquet'}')")
    tables = [frame, pl.read_parquet(tmp_path / "rfm.parquet"), pa.table(frame), backend.table("rfm")]
    found = {summarise(config(), transactions=one).fingerprint for one in tables}
    backend.disconnect()
    found |= {
        summarise(config(source=name), base=tmp_path).fingerprint for name in ("rfm.csv", "rfm.parquet")
    }
    assert len(found) == 1
    assert check(config(source="rfm.csv"), base=tmp_path)["customers"] == 4


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frequency": [0, 2.5, 1]}, r"'frequency': 1 of 3 .* not whole numbers, first '2.5' \(row 2\)"),
        ({"frequency": [0, -2, 1]}, r"'frequency': 1 of 3 values are negative"),
        ({"frequency": [0, None, 1]}, r"'frequency': 1 of 3 values are missing"),
        ({"frequency": ["0", "two", "1"]}, r"'frequency': 1 of 3 .* are not numbers, first 'two' \(row 2\)"),
        ({"frequency": [True, False, True]}, r"'frequency' is of type bool: it must hold numbers"),
        ({"recency": [3.0, 30.5, 4.0]}, r"'recency': 1 of 3 .* above 0 without .* not the time since"),
        ({"recency": [0.0, 0.0, 4.0]}, r"'recency': 1 of 3 values are 0 with repeat purchases"),
        ({"recency": [0.0, 40.5, 4.0]}, r"'recency': 1 of 3 values are later than T, first '40.5'"),
        ({"T": [38.0, np.inf, 39.5]}, r"'T': 1 of 3 values are infinite"),
        ({"weight": [1, 1.5, 1]}, r"'weight': 1 of 3 values are not whole numbers"),
        ({"weight": [1, 0, 0]}, r"holds 1 customer: a model needs many"),
        ({"monetary_value": [0.0, None, 1.0]}, r"'monetary_value': 1 of 3 values are missing"),
        ({"monetary_value": [0.0, -1.0, 1.0]}, r"'monetary_value': 1 of 3 values are negative"),
        ({"customer": ["a", "b", "a"]}, r"'customer': 1 of 3 .* seen before, first 'a' \(row 3\)"),
        ({"customer": ["a", None, "b"]}, r"'customer': 1 of 3 values are missing"),
        ({"customer": list("abc"), "weight": [1, 1, 2]}, r"'weight': 1 of 3 values are not 1"),
        ({"frequency": [0, 0, 0], "recency": [0, 0, 0], "T": [0, 0, 0]}, r"'T' is 0 in all 3 rows"),
    ],
)  # fmt: skip
def test_impossible_numbers_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        table(changes)


def test_a_discrete_clock_counts():
    whole = {"recency": [0, 30, 4], "T": [38, 40, 39]}
    assert table(whole, clock="discrete").clock == "discrete"
    with pytest.raises(
        InputError, match=r"'T': 1 of 3 values are not whole numbers.*data.clock to continuous"
    ):
        table(whole | {"T": [38, 40, 39.5]}, clock="discrete")
    with pytest.raises(InputError, match=r"'frequency': 1 of 3 values are larger than recency"):
        table(whole | {"frequency": [0, 31, 1]}, clock="discrete")


def test_missing_columns():
    frame = pd.DataFrame(PLAIN).rename(columns={"T": "age"})
    with pytest.raises(InputError, match="has no column 'T'"):
        summarise(config(), transactions=frame)
    with pytest.raises(InputError, match="has no column 'z'"):
        table(columns={"monetary_value": "z"})
    logs = Statistic(name="log_spend", of="spend", transform="log")
    with pytest.raises(InputError, match="no column 'log_spend', which this model needs"):
        table(statistics=(logs,))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"columns": {"customer": "a", "date": "b", "amount": "c"}}, "data.columns names date or amount"),
        (
            {"kind": "transactions", "columns": {"customer": "a"}},
            "data.columns names neither date nor amount",
        ),
        ({"refunds": "drop"}, "data.refunds is for a log of transactions"),
        ({"holdout_end": "2002-01-31"}, "data.holdout_end is for a log of transactions"),
        ({"observation_end": None}, "data.observation_end is missing"),
    ],
)
def test_keys_of_the_other_kind_are_refused(data, message):
    with pytest.raises(ValidationError, match=message):
        config(**data)
