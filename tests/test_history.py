"""Purchase days in memory: summaries equal to those that the engine makes, at any day."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from clvmodels.artifacts import Summary
from clvmodels.config import DataConfig
from clvmodels.data import history, summarise
from clvmodels.errors import InputError
from clvmodels.models import registry

EXTRA = tuple({s.name: s for family in registry.families() for s in family.extra_statistics}.values())
MONTHS = {"clock": "discrete", "time_unit": "month"}
LARGE = {"repeat_spend_above": 200}
COLUMNS = {"customer": "who", "date": "when", "amount": "paid"}


def log(rows: int = 400, seed: int = 5) -> pd.DataFrame:
    """Refunds, several rows a day, days of amount zero, a margin and a segment that changes."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "who": [f"c{k:02}" for k in rng.integers(0, 40, rows)],
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 300, rows), "D"),
            "paid": rng.choice([10.25, 0.0, -10.25, 33.333333, 7.5], rows),
            "ratio": rng.choice([0.1, 0.25, 0.4], rows),
            "land": rng.choice(["north", "south", "a, b"], rows),
        }
    )


def same(config: dict, end: str, table=None, statistics=EXTRA, margin=None) -> None:
    """The summary from memory is that of the engine: equal, but for sums of logarithms."""
    found = history.read(
        DataConfig(**config), transactions=table, statistics=statistics, margin_column=margin
    )
    by = (config.get("segments") or [None])[0]
    ours, position = found.at(found.end_of(dt.date.fromisoformat(end)), daily_by=by)
    theirs = summarise(
        DataConfig(**config, observation_end=end),
        transactions=table,
        statistics=statistics,
        margin_column=margin,
        daily_by=by,
        own_means=True,
    )
    assert (ours.customer == theirs.customer).all()
    assert (found.customer[position] == ours.customer).all()
    assert ours.columns.keys() == theirs.columns.keys()
    for name in theirs.columns:
        # The engine rounds each term of a sum of logarithms or margins to twelve decimals.
        loose = name == "margin" or name in {s.name for s in statistics}
        tolerance = 1e-12 * (1 + theirs["frequency"].max()) if loose else 0.0
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-14 if loose else 0, atol=tolerance)
    for name, segment in theirs.segments.items():
        assert ours.segments[name].labels == segment.labels
        np.testing.assert_array_equal(ours.segments[name].codes, segment.codes)
    by_segment = tuple(f"segment_{name}" for name in ("code", "day", "orders"))
    for name in ("day", "first_orders", "repeat_orders", "first_amount", "repeat_amount", *by_segment):
        np.testing.assert_array_equal(getattr(ours.calendar, name), getattr(theirs.calendar, name))
    # The engine rounds the terms of each customer and week to a billionth, half a unit off at most.
    terms = 1e-9 * (1 + theirs["frequency"].sum())
    assert theirs.calendar.returns.sum() == ours.calendar.returns.sum() > 0
    for name in ("returns", "baskets", "squares", "shares", "pairs"):
        found_there, found_here = getattr(theirs.calendar, name), getattr(ours.calendar, name)
        np.testing.assert_allclose(found_here, found_there, rtol=0, atol=0 if name == "returns" else terms)
    about = ("time_unit", "observation_start", "observation_end", "holdout", "currency", "clock")
    assert [getattr(ours, name) for name in about] == [getattr(theirs, name) for name in about]
    if margin is None:  # averages of margins may differ in their last bit
        assert ours.fingerprint == theirs.fingerprint


@pytest.mark.parametrize(
    ("config", "end"),
    [
        ({"source": "cdnow_sample", "zero_days": "drop"}, "1997-02-10"),
        ({"source": "online_retail", "segments": ["country"], "zero_days": "drop"}, "2011-03-01"),
        ({"source": "cdnow_sample", "zero_days": "drop", **MONTHS}, "1997-09-15"),
        ({"source": "cdnow_sample", "zero_days": "drop", "exclude": LARGE}, "1998-06-30"),
    ],
    ids=["early", "segments and refunds", "periods", "exclude, no holdout"],
)  # fmt: skip
def test_bundled_logs_are_summarised_as_the_engine_does(config, end):
    same(config, end)


@pytest.mark.parametrize(
    "options",
    [
        {"negative_days": "zero", "segments": ["land"]},
        {"duplicates": "drop", "refunds": "drop", "holdout_end": "2020-09-01"},
        {"clock": "discrete", "time_unit": "week"},
        {"time_unit": "day", "zero_days": "drop"},
    ],
)
def test_rules_of_the_config_are_those_of_the_engine(options):
    spendless = tuple(s for s in EXTRA if s.of == "interval")
    same({"columns": COLUMNS, **options}, "2020-06-10", log(), spendless, "ratio")


def test_repeat_purchases_after_a_day_are_those_of_the_table():
    table = log()
    found = history.read(DataConfig(columns=COLUMNS, negative_days="zero"), transactions=table)
    summary, position = found.at(dt.date(2020, 6, 10))
    days = table.groupby(["who", "when"], as_index=False).agg(paid=("paid", "sum"), low=("paid", "min"))
    days.loc[(days.paid <= 0) & (days.low < 0), "paid"] = 0.0
    first = days.groupby("who").when.transform("min")
    later = days[(days.when > "2020-06-10") & (days.when <= "2020-07-15") & (days.when > first)]
    expected = later.groupby("who").agg(count=("paid", "size"), paid=("paid", "sum"))
    expected = expected.reindex(summary.customer, fill_value=0.0)
    count, paid = found.repeats(position, dt.date(2020, 6, 10), dt.date(2020, 7, 15))
    np.testing.assert_array_equal(count, expected["count"])
    np.testing.assert_allclose(paid, expected["paid"], atol=1e-9)
    edges = int(found.number(dt.date(2020, 6, 10))) + np.array([0, 7, 14, 35])
    by_week = found.weekly(position, edges)
    assert by_week[0].sum() == count.sum()
    assert by_week[1].sum() == pytest.approx(paid.sum())
    np.testing.assert_allclose(by_week[0][0], len(later[later.when <= "2020-06-17"]))


def test_days_before_anybody_bought_and_tables_of_summaries_are_refused():
    found = history.read(DataConfig(columns=COLUMNS), transactions=log())
    with pytest.raises(InputError, match="fewer than two customers"):
        found.at(dt.date(2019, 12, 31))
    with pytest.raises(InputError, match=r"data\.kind is summary.*needs a log"):
        history.read(DataConfig(source="donations", kind="summary", observation_end="2001-12-31"))


def test_amounts_by_cohort_are_those_of_the_table():
    """Witness: the rows of the log, one by one; and summed over cohorts they are the calendar's own."""
    config = DataConfig(source="cdnow_sample", observation_end="1997-09-30", holdout_end="1998-06-30")
    found = summarise(config, cohorts=True)
    calendar = found.calendar
    by_day = np.zeros(len(calendar.day))
    np.add.at(by_day, calendar.cohort_day.astype(int), calendar.cohort_amount)
    np.testing.assert_allclose(by_day, calendar.first_amount + calendar.repeat_amount, rtol=1e-12)
    months = calendar.cohort_month.astype(int).astype("datetime64[M]")
    assert sorted(set(months.astype(str))) == ["1997-01", "1997-02", "1997-03"]
    assert (calendar.day[calendar.cohort_day.astype(int)].astype("datetime64[M]") >= months).all()
    first = {m: calendar.cohort_amount[months == m].sum() for m in np.unique(months)}
    seen = found["first_amount"] + found["frequency"] * np.nan_to_num(found["monetary_value"])
    total = seen + found["holdout_amount"]
    for month, amount in first.items():
        mine = found.first_day.astype("datetime64[M]") == month
        assert amount == pytest.approx(total[mine].sum(), rel=1e-9)
    assert not len(summarise(config).calendar.cohort_amount)


def test_what_customers_paid_against_their_own_mean_is_saved(tmp_path):
    whole = summarise(DataConfig(columns=COLUMNS, negative_days="zero"), transactions=log(), own_means=True)
    found = whole.calendar
    whole.save(tmp_path / "summary.parquet")
    back = Summary.load(tmp_path / "summary.parquet").calendar
    assert found.pairs.shape == (len(found.returns),) * 2
    np.testing.assert_allclose(found.pairs.sum(axis=1), found.returns, rtol=1e-8)
    for name in ("returns", "baskets", "squares", "shares", "pairs"):
        np.testing.assert_array_equal(getattr(back, name), getattr(found, name))
