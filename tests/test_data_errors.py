"""Bad data: each case is one InputError whose sentence says what is wrong, where, and what to do."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clvmodels.config import DataConfig
from clvmodels.data import bundled_path, guess, summarise
from clvmodels.errors import InputError
from clvmodels.models.family import Statistic

COLUMNS = {"customer": "id", "date": "when", "amount": "paid"}
GOOD = "id,when,paid,region\na,2020-01-01,1.5,x\nb,2020-01-02,2.5,y\na,2020-01-09,3.5,x\n"


def refused(folder: Path, text: str | bytes | None, *said: str, name: str = "log.csv", **data: object) -> str:
    """The sentence with which a file of that text is refused; it must say all of ``said``."""
    if text is not None:
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    margin = data.pop("margin_column", None)
    statistics = data.pop("statistics", ())
    config = DataConfig(**({"source": name, "columns": COLUMNS} | data))
    with pytest.raises(InputError) as caught:
        summarise(config, base=folder, margin_column=margin, statistics=statistics)
    message = str(caught.value)
    for part in said:
        assert part in message
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


def test_the_good_file_is_good(tmp_path):
    """The cases below are this file with one thing wrong."""
    (tmp_path / "log.csv").write_text(GOOD)
    config = DataConfig(source="log.csv", columns=COLUMNS, segments=["region"])
    assert len(summarise(config, base=tmp_path)) == 2


# --- files -------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    refused(tmp_path, None, "there is no file 'log.csv'", str(tmp_path), "cdnow_sample")
    refused(tmp_path, None, "no file matches 'logs/*.csv'", source="logs/*.csv")


def test_empty_file(tmp_path):
    refused(tmp_path, "", "'log.csv' is empty")
    refused(tmp_path, "\n\n", "'log.csv'", "first line is blank")
    refused(tmp_path, "id,when,paid\n", "'log.csv' has a header but no rows")


def test_a_folder(tmp_path):
    (tmp_path / "logs").mkdir()
    refused(tmp_path, None, "'logs' is a folder", "logs/*.csv", source="logs")


def test_unknown_ending(tmp_path):
    refused(tmp_path, GOOD, "'log.dat'", "data.format", name="log.dat")
    (tmp_path / "log.parquet").write_bytes(bundled_path("cdnow_sample").read_bytes())
    refused(tmp_path, GOOD, "both CSV and Parquet", source="log.[cp]*")


def test_not_parquet(tmp_path):
    refused(tmp_path, GOOD, "'log.parquet' cannot be read", name="log.parquet")


def test_not_gzip(tmp_path):
    refused(tmp_path, GOOD, "'log.csv.gz' cannot be read", name="log.csv.gz")


def test_wrong_delimiter(tmp_path):
    refused(tmp_path, GOOD, "single column", "'id,when,paid,region'", "data.delimiter to ','", delimiter=";")
    refused(tmp_path, GOOD.replace(",", ":"), "single column", "set data.delimiter")
    refused(tmp_path, GOOD.replace(",", "  "), "single column", "runs of spaces")
    refused(tmp_path, GOOD, "one character", delimiter=", ")


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_delimiters_are_found(tmp_path, delimiter):
    (tmp_path / "log.csv").write_text(GOOD.replace(",", delimiter))
    assert len(summarise(DataConfig(source="log.csv", columns=COLUMNS), base=tmp_path)) == 2


def test_lines_that_do_not_fit_the_header(tmp_path):
    refused(tmp_path, GOOD + "c,2020-01-02,7,x,more\n", "'log.csv', line 5", "Columns: 4 Found: 5")
    refused(tmp_path, GOOD + "c,2020-01-02\n", "'log.csv', line 5", "Columns: 4 Found: 2")
    refused(tmp_path, GOOD + '"c,2020-01-02,7,x\n', "'log.csv', line 5", "unterminated quote")


def test_not_utf8(tmp_path):
    latin = GOOD.replace("y\n", "Zürich\n").encode("latin-1")
    place = f"byte 0xfc at position {latin.index(0xFC)}, line 3"
    refused(tmp_path, latin, "'log.csv' is not UTF-8", place, "iconv", segments=["region"])
    config = DataConfig(source="log.csv", columns=COLUMNS)
    assert len(summarise(config, base=tmp_path)) == 2  # a column that is not used is not read
    refused(tmp_path, GOOD.replace("region", "région").encode("latin-1"), "byte 0xe9", "line 1", "iconv")
    refused(tmp_path, GOOD.encode("utf-16"), "byte 0xff at position 0, line 1", "UTF-16")


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "log.csv").write_text(GOOD, encoding="utf-8-sig")
    assert len(summarise(DataConfig(source="log.csv", columns=COLUMNS), base=tmp_path)) == 2


# --- columns -----------------------------------------------------------------------------------


def test_missing_column(tmp_path):
    text = GOOD.replace("id,when", "Customer ID,when")
    columns = {**COLUMNS, "customer": "customer_id"}
    refused(tmp_path, text, "no column 'customer_id'; did you mean 'Customer ID'?", columns=columns)
    refused(tmp_path, GOOD, "no column 'zzzzz'", "'id', 'when', 'paid'", columns={**COLUMNS, "date": "zzzzz"})
    refused(tmp_path, GOOD, "no column 'regions'; did you mean 'region'?", segments=["regions"])
    refused(tmp_path, GOOD, "no column 'margin'", margin_column="margin")


def test_missing_column_in_one_of_several_files(tmp_path):
    (tmp_path / "log-1.csv").write_text(GOOD)
    refused(
        tmp_path,
        "id,when,payed\n",
        "'log-2.csv'",
        "'paid'; did you mean 'payed'",
        name="log-2.csv",
        source="*.csv",
    )


def test_columns_named_twice(tmp_path):
    refused(tmp_path, GOOD, "one column twice", columns={**COLUMNS, "amount": "id"})
    refused(tmp_path, GOOD.replace("region", "id"), "more than one column 'id'")


def test_no_columns_and_no_source(tmp_path):
    refused(tmp_path, GOOD, "data.columns is missing", columns=None)
    refused(tmp_path, GOOD, "set data.source", source=None)
    with pytest.raises(InputError, match="leave one out"):
        summarise(DataConfig(source="cdnow"), transactions=pd.DataFrame())


@pytest.mark.parametrize("engine", ["pandas", "polars", "arrow", "ibis"])
def test_missing_column_in_a_table(engine):
    import ibis
    import polars as pl
    import pyarrow as pa

    frame = pd.DataFrame({"id": ["a"], "When": ["2020-01-01"], "paid": [1.0]})
    make = {
        "pandas": lambda f: f,
        "polars": pl.from_pandas,
        "arrow": pa.table,
        "ibis": lambda f: ibis.memtable(pa.table(f)),
    }
    with pytest.raises(InputError, match="no column 'when'; did you mean 'When'"):
        summarise(DataConfig(columns=COLUMNS), transactions=make[engine](frame))


def test_a_table_of_no_known_kind():
    with pytest.raises(InputError, match="transactions is a list"):
        summarise(DataConfig(columns=COLUMNS), transactions=[("a", "2020-01-01", 1.0)])


def test_a_column_of_mixed_types():
    frame = pd.DataFrame({"id": ["a", 1], "when": ["2020-01-01"] * 2, "paid": [1.0, 2.0]})
    with pytest.raises(InputError, match="mixed types"):
        summarise(DataConfig(columns=COLUMNS), transactions=frame)


def test_no_rows():
    frame = pd.DataFrame({"id": [], "when": [], "paid": []})
    with pytest.raises(InputError, match="no rows"):
        summarise(DataConfig(columns=COLUMNS), transactions=frame)


# --- dates -------------------------------------------------------------------------------------


def test_unparsable_dates(tmp_path):
    text = GOOD.replace("2020-01-02", "02.01.2020").replace("2020-01-09", "2020-02-31")
    refused(
        tmp_path,
        text,
        "'log.csv': column 'when': 2 of 3 values are not dates",
        "first '02.01.2020' (line 3), '2020-02-31' (line 4): set data.date_format",
    )
    refused(tmp_path, GOOD, "correct data.date_format '%d/%m/%Y'", date_format="%d/%m/%Y")
    refused(tmp_path, GOOD, "data.date_format is not a strptime format", "%Q", date_format="%Q")


def test_only_the_first_bad_dates_are_shown_and_their_lines_hold_in_a_long_file(tmp_path):
    rows = [f"c{i % 5000},2020-01-{i % 28 + 1:02d},1.0" for i in range(300_000)]
    for i in (123_456, 234_567, 250_000, 299_999):
        rows[i] = f"x,bad {i},1.0"
    refused(
        tmp_path,
        "id,when,paid\n" + "\n".join(rows),
        "4 of 300,000",
        "first 'bad 123456' (line 123,458), 'bad 234567' (line 234,569), 'bad 250000' (line 250,002):",
    )


def test_bad_dates_name_the_file_among_several(tmp_path):
    (tmp_path / "log-1.csv").write_text(GOOD)
    text = GOOD.replace("2020-01-02", "soon")
    refused(tmp_path, text, "2 files", "'soon' (line 3 of 'log-2.csv')", name="log-2.csv", source="*.csv")


def test_years_of_two_digits(tmp_path):
    refused(
        tmp_path,
        GOOD.replace("2020-01-0", "01/01/2"),
        "3 of 3 values are not dates",
        date_format="%d/%m/%Y",
    )


def test_dates_in_the_future(tmp_path):
    tomorrow = str(dt.date.today() + dt.timedelta(days=1))
    refused(
        tmp_path,
        GOOD.replace("2020-01-09", tomorrow),
        f"column 'when': 1 of 3 dates lie after today, {dt.date.today()}, first '{tomorrow}' (line 4)",
    )
    (tmp_path / "log.csv").write_text(GOOD.replace("2020-01-09", str(dt.date.today())))
    assert len(summarise(DataConfig(source="log.csv", columns=COLUMNS), base=tmp_path)) == 2


def test_whole_numbers_need_a_date_format():
    frame = pd.DataFrame({"id": ["a", "b"], "when": [20200101, 20200102], "paid": [1.0, 2.0]})
    with pytest.raises(InputError, match=r"whole numbers: set data\.date_format"):
        summarise(DataConfig(columns=COLUMNS), transactions=frame)
    with pytest.raises(InputError, match="it must hold dates"):
        summarise(DataConfig(columns=COLUMNS), transactions=frame.assign(when=[1.5, 2.5]))


# --- amounts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["$2.50", "2.50 EUR", '"2,50"', "1_000", "inf", "1e13", "two", "0x10", "1.2.3"]
)
def test_amounts_that_are_not_numbers(tmp_path, text):
    refused(
        tmp_path,
        GOOD.replace("2.5", text),
        "column 'paid': 1 of 3 values are not numbers",
        f"first {text.strip(chr(34))!r} (line 3)",
    )


def test_infinite_amounts_in_a_table():
    frame = pd.DataFrame({"id": ["a", "b"], "when": ["2020-01-01", "2020-01-02"], "paid": [1.0, np.inf]})
    with pytest.raises(
        InputError, match=r"1 of 2 values are not numbers below 1e\+12, first 'inf' \(row 2\)"
    ):
        summarise(DataConfig(columns=COLUMNS), transactions=frame)
    with pytest.raises(InputError, match="it must hold numbers"):
        summarise(DataConfig(columns=COLUMNS), transactions=frame.assign(paid=[True, False]))


def test_columns_without_any_value(tmp_path):
    refused(tmp_path, "id,when,paid\na,2020-01-01,\nb,2020-01-02,NA\n", "has no amounts: all 2 rows")
    refused(tmp_path, "id,when,paid\na,,1\nb,,2\n", "column 'when' is empty")
    refused(tmp_path, "id,when,paid\n,2020-01-01,1\n ,2020-01-02,2\n", "column 'id' is empty in all 2 rows")


def test_refunds_refused(tmp_path):
    text = GOOD + "a,2020-01-09,-1234.5,x\nb,2020-01-05,-1,x\n"
    said = ("2 of 5 amounts are negative, in sum -1,235.50", "'net' or 'drop'")
    refused(tmp_path, text, *said, refunds="error")
    said = ("refunds bring 2 of 4 customer-days", "'drop' or 'zero'")
    refused(tmp_path, text, *said, negative_days="error")


def test_logarithm_of_a_free_order(tmp_path):
    logs = Statistic(name="log_spend", of="spend", transform="log")
    text = GOOD + "b,2020-01-05,0,x\n"
    refused(
        tmp_path, text, "1 repeat purchase day of amount 0", "'log_spend'", "zero_days", statistics=(logs,)
    )
    (tmp_path / "log.csv").write_text(GOOD.replace("1.5", "0"))  # a first day is no repeat day
    config = DataConfig(source="log.csv", columns=COLUMNS)
    summary = summarise(config, base=tmp_path, statistics=(logs,))
    # Logarithms are rounded to 12 decimals.
    np.testing.assert_allclose(summary["log_spend"], [np.log(3.5), 0.0], atol=1e-12)


# --- customers, segments, margins --------------------------------------------------------------


def test_one_customer(tmp_path):
    refused(tmp_path, GOOD.replace("\nb", "\na"), "column 'id' holds a single customer")
    refused(
        tmp_path, GOOD, "only one customer has a purchase day by 2020-01-01", observation_end="2020-01-01"
    )


def test_only_refunds(tmp_path):
    refused(
        tmp_path, GOOD.replace(",1.5", ",-1").replace(",2.5", ",-2").replace(",3.5", ",-3"), "no customer"
    )


def test_one_day(tmp_path):
    text = GOOD.replace("2020-01-02", "2020-01-01").replace("2020-01-09", "2020-01-01")
    refused(tmp_path, text, "all purchases", "fall on one day, 2020-01-01", "data.date_format")


def test_no_repeat_buyer_is_for_the_spend_model_to_judge(tmp_path):
    (tmp_path / "log.csv").write_text(GOOD.replace("\na,2020-01-09", "\nc,2020-01-09"))
    summary = summarise(DataConfig(source="log.csv", columns=COLUMNS), base=tmp_path)
    assert summary.ledger["repeat_customers"] == 0


def test_segment_with_nulls(tmp_path):
    text = GOOD.replace("2.5,y", "2.5,").replace("3.5,x", "3.5,")
    said = (
        "column 'region' is empty on the first purchase day of 1 of 2 customers",
        "'unknown'",
        "data.segments",
    )
    refused(tmp_path, text, *said, segments=["region"])
    (tmp_path / "log.csv").write_text(GOOD.replace("3.5,x", "3.5,"))  # a later purchase does not matter
    assert (
        len(summarise(DataConfig(source="log.csv", columns=COLUMNS, segments=["region"]), base=tmp_path)) == 2
    )


def test_segment_that_is_nearly_an_id():
    n = 10_000
    frame = pd.DataFrame({"id": np.arange(n), "when": "2020-01-01", "paid": 1.0, "code": np.arange(n)})
    frame.loc[0, "when"] = "2020-01-02"
    with pytest.raises(InputError, match=r"'code' has 10,000 values among 10,000 customers, nearly an id"):
        summarise(DataConfig(columns=COLUMNS, segments=["code"]), transactions=frame)
    summarise(
        DataConfig(columns=COLUMNS, segments=["code"]), transactions=frame.assign(code=frame["code"] % 1000)
    )


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        ("30%", "1 of 3 margins are not numbers"),
        ("", "1 of 3 margins are missing"),
        ("30", "1 of 3 margins are above 1"),
    ],
)
def test_margins(tmp_path, ratio, said):
    text = f"id,when,paid,ratio\na,2020-01-01,1.5,0.5\nb,2020-01-02,2.5,{ratio}\na,2020-01-09,3.5,1\n"
    refused(tmp_path, text, f"column 'ratio': {said}", margin_column="ratio")


# --- windows -----------------------------------------------------------------------------------


def test_windows_outside_the_data(tmp_path):
    refused(tmp_path, GOOD, "observation_end 2019-12-31 is before the first", observation_end="2019-12-31")
    refused(
        tmp_path,
        GOOD,
        "observation_end 2020-01-17 is after the last",
        "2020-01-09",
        observation_end="2020-01-17",
    )
    window = {"observation_end": "2020-01-05", "holdout_end": "2020-01-04"}
    refused(tmp_path, GOOD, "holdout_end 2020-01-04 is before observation_end 2020-01-05", **window)
    window = {"observation_end": "2020-01-05", "holdout_end": "2020-02-01"}
    refused(tmp_path, GOOD, "holdout_end 2020-02-01 is after the last", **window)


def test_nothing_is_written(tmp_path):
    refused(tmp_path, GOOD.replace("2020-01-02", "soon"), "not dates")
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]


def test_unknown_bundled_name():
    with pytest.raises(InputError, match="cdnow_sample"):
        bundled_path("cdnau")


def test_guess_refuses_what_it_cannot_read(tmp_path):
    file = tmp_path / "log.csv"
    for text, said in (
        ("", "is empty"),
        ("id,when,paid\n", "no rows"),
        ("id,when,paid\na,soon,1\n", "no column holds dates"),
        ("id,when,paid\na,2020-01-01,one\nb,2020-01-02,two\n", "no column holds numbers"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=said):
            guess(file)
