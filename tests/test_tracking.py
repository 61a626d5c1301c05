"""Equity over time: dates, the cache, sums, files, bad input."""

from __future__ import annotations

import csv
import datetime as dt
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import undocumented

from clvmodels import cli, run
from clvmodels.config import DataConfig
from clvmodels.data import summarise
from clvmodels.data.log import as_it_stood, opened_log
from clvmodels.errors import InputError
from clvmodels.report import series
from clvmodels.run.tracking import valuation_dates

FIXED = {
    "purchases": {"family": "bg_nbd", "fixed": {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}},
    "spend": {"family": "gamma_gamma", "fixed": {"p": 6.25, "q": 3.74, "gamma": 15.44}},
}
DATES = ("--from", "2024-04-30", "--to", "2024-08-31", "--every", "month")


def rows(last: str = "2024-12-31") -> list[str]:
    """A log of 120 customers who arrive over half a year; what falls after ``last`` is left out."""
    rng = np.random.default_rng(12)
    out = []
    for customer, start in enumerate(rng.integers(0, 200, 120)):
        days = np.r_[0, rng.integers(1, 120, rng.poisson(3))]
        for day, amount in zip(days, rng.gamma(4, 10, 40), strict=False):
            date = str(np.datetime64("2024-01-01") + int(start + day))
            out += [f"c{customer},{date},{amount:.2f}"] if date <= last else []
    return ["customer_id,date,amount", *out]


def shop(folder: Path, **models) -> None:
    (folder / "shop.csv").write_text("\n".join(rows()) + "\n")
    config = {
        "name": "shop",
        "data": {
            "source": "shop.csv",
            "columns": {"customer": "customer_id", "date": "date", "amount": "amount"},
        },
        "models": models or FIXED,
        "value": {"margin": 0.3, "annual_discount_rate": 0.15, "cost": {"while_alive": "2 per year"}},
    }
    (folder / "shop.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict]:
    """Five months of the shop with its parameters given, and the table."""
    place = tmp_path_factory.mktemp("history")
    shop(place)
    found = run.history(
        place / "shop.yaml", "2024-04-30", dt.date(2024, 8, 31), every="month", out=place / "h"
    )
    assert len(found.computed) == 5 + 4
    return place, found.summary


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls the command line in this process; returns (exit status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clvmodels", "history", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *capsys.readouterr())

    return call


# --- dates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "every", "expected"),
    [
        ("2024-01-31", "2024-04-30", "month", ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"]),
        ("2024-02-29", "2024-04-29", "month", ["2024-02-29", "2024-03-31"]),
        ("2024-01-30", "2024-03-30", "month", ["2024-01-30", "2024-02-29", "2024-03-30"]),
        ("1997-09-30", "1998-06-30", "quarter", ["1997-09-30", "1997-12-31", "1998-03-31", "1998-06-30"]),
        ("2023-12-25", "2024-01-07", "week", ["2023-12-25", "2024-01-01"]),
        ("2023-02-28", "2024-02-29", "year", ["2023-02-28", "2024-02-29"]),
    ],
)
def test_steps_from_an_end_of_month_lead_to_ends_of_months(start, end, every, expected):
    found = valuation_dates(dt.date.fromisoformat(start), dt.date.fromisoformat(end), every)
    assert [str(day) for day in found] == expected


# --- the log as it stood -------------------------------------------------------------------------


def test_one_reading_of_the_log_gives_the_summary_of_every_date():
    """Those of ``summarise`` at each date, which reads the log anew; and nothing is left behind."""
    base = DataConfig(source="cdnow_sample")
    with opened_log(base) as log:
        assert (str(log.first), str(log.last)) == ("1997-01-01", "1998-06-30")
        for day in ("1997-02-15", "1997-09-30"):
            found = log.at(dt.date.fromisoformat(day))
            alone = summarise(base.model_copy(update={"observation_end": day}))
            assert "holdout_frequency" in alone.columns
            assert "holdout_frequency" not in found.columns
            assert found.holdout == 0
            assert found.calendar.day[-1] == np.datetime64(day)
            assert found.fingerprint == as_it_stood(alone).fingerprint != alone.fingerprint
            for name, column in found.columns.items():
                np.testing.assert_array_equal(column, alone[name], err_msg=name)
        tables = "select table_name from duckdb_tables()"
        assert len(log.source.backend.con.execute(tables).fetchall()) == 1


def test_the_fingerprint_knows_nothing_of_what_came_later(tmp_path):
    columns = {"customer": "customer_id", "date": "date", "amount": "amount"}
    marks = []
    for last in ("2024-12-31", "2024-08-01", "2024-04-30"):
        (tmp_path / f"{last}.csv").write_text("\n".join(rows(last)) + "\n")
        config = DataConfig(source=f"{last}.csv", columns=columns)
        with opened_log(config, base=tmp_path) as log:
            marks.append(log.at(dt.date(2024, 4, 30)).fingerprint)
    assert len(set(marks)) == 1


# --- numbers -------------------------------------------------------------------------------------


def test_each_date_is_the_valuation_of_its_own_run(finished):
    place, table = finished
    alone = run.fit(place / "shop.yaml", overrides=["data.observation_end=2024-06-30"])
    date = table["dates"][2]
    assert date["date"] == "2024-06-30"
    assert date["customers"]["value"] == len(alone.data)
    assert date["equity"]["point"]["mean"] == alone.summary["equity"]["existing"]["point"]["mean"]
    assert date["alive"]["mean"] == alone.summary["customers"]["alive"]["mean"]
    year = alone.summary["orders"]["12 months"]["point"]["mean"]
    assert date["orders"]["mean"] == pytest.approx(year / date["alive"]["mean"], rel=1e-9)
    spent = alone.summary["revenue"]["12 months"]["point"]["mean"]
    assert date["basket"]["mean"] == pytest.approx(spent / year, rel=1e-9)


def test_periods_are_the_bridges_between_dates_and_add_up(finished):
    place, table = finished
    alone = run.bridge(place / "shop.yaml", "2024-05-31", "2024-06-30").summary
    one = table["periods"][1]
    assert (one["from"], one["to"]) == ("2024-05-31", "2024-06-30")
    for basis in ("closing", "opening"):
        for line, block in alone["bases"][basis]["lines"].items():
            assert one["bases"][basis]["lines"][line]["mean"] == block["mean"], line
        assert (
            one["bases"][basis]["returns"]["published"]
            == alone["bases"][basis]["returns"]["existing"]["published"]
        )
    grouped = [line for _, lines in series.GROUPS.values() for line in lines]
    assert sorted(grouped) == sorted(set(series.LINES) - {"opening", "closing"})
    size = table["dates"][-1]["equity"]["point"]["mean"]
    for basis in ("closing", "opening"):
        for one in table["periods"]:
            parts = sum(block["mean"] for block in one["bases"][basis]["groups"].values())
            # Numbers are written with ten digits.
            assert parts == pytest.approx(one["change"]["mean"], abs=1e-8 * size)
        total = sum(block["value"] for block in table["totals"][basis].values())
        assert total == pytest.approx(table["change"]["value"], abs=1e-8 * size)
    assert table["change"]["value"] == pytest.approx(
        size - table["dates"][0]["equity"]["point"]["mean"], abs=1e-8 * size
    )


# --- the cache -----------------------------------------------------------------------------------


def test_only_what_is_missing_is_computed(finished, here, monkeypatch):
    """Interrupted, resumed, extended with more data, with another config, corrected, damaged."""
    _, whole = finished

    def history(end="2024-08-31", **more):
        return run.history("shop.yaml", "2024-04-30", end, every="month", out="h", **more)

    real, calls = run.tracking._Series._statement, []

    def interrupted(self, data, *rest):
        calls.append(data.observation_end)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, data, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(run.tracking._Series, "_statement", interrupted)
        with pytest.raises(KeyboardInterrupt):
            history()
    assert [path.name for path in (here / "h").iterdir()] == ["cache"]
    resumed = history()
    assert resumed.computed == (
        "2024-06-30", "2024-05-31_2024-06-30", "2024-07-31", "2024-06-30_2024-07-31",
        "2024-08-31", "2024-07-31_2024-08-31",
    )  # fmt: skip
    assert resumed.summary == whole
    files = sorted(path.name for path in (here / "h").iterdir())
    assert files == [
        "cache", "config.yaml", "figures", "history.csv", "history.html", "history.json", "manifest.json",
    ]  # fmt: skip
    monkeypatch.setattr(run.tracking, "_write", lambda *_: None)  # figures take the most time here
    assert history().computed == ()
    (here / "shop.csv").write_text("\n".join(rows("2024-09-30")) + "\n")
    assert history("2024-09-30").computed == ("2024-09-30", "2024-08-31_2024-09-30")
    assert history("2024-05-31", coupling="comonotone").computed == ("2024-04-30_2024-05-31",)
    assert len(history("2024-05-31", overrides=["value.margin=0.2"]).computed) == 3
    log = (here / "shop.csv").read_text().splitlines()
    june = next(k for k, line in enumerate(log) if ",2024-06-" in line)
    log[june] = log[june].rpartition(",")[0] + ",999.00"
    (here / "shop.csv").write_text("\n".join(log) + "\n")
    corrected = history("2024-06-30")
    assert corrected.computed == ("2024-06-30", "2024-05-31_2024-06-30")
    entry = here / "h" / "cache" / f"2024-04-30-{corrected.meta['keys']['2024-04-30']}"
    (entry / "statement.json").write_text("{")
    assert history("2024-05-31").computed == ("2024-04-30",)
    assert len(history("2024-05-31", overwrite=True).computed) == 3
    assert len(list((here / "h" / "cache").iterdir())) == 3


# --- dates without equity ------------------------------------------------------------------------


def test_dates_with_too_few_customers_are_named_and_left_out(tmp_path, command, monkeypatch):
    shop(tmp_path, purchases=FIXED["purchases"], spend={"family": "gamma_gamma"})
    monkeypatch.chdir(tmp_path)
    arguments = ("shop.yaml", "--from", "2024-03-31", "--to", "2024-05-31", "--every", "month", "--json")
    quick = ("--set", "fit.draws=500", "--set", "fit.allow_unconverged=true")
    status, out, err = command(*arguments, *quick)
    assert status == 0, err
    table = json.loads(out)
    early, *others = table["dates"]
    assert early["repeat_buyers"]["value"] == 28
    assert not any(date["skipped"] for date in others)
    note, *more = table["notes"]
    assert all("NOT converged" in other for other in more)  # 500 draws may be too few for the gate
    assert note == (
        "31\u00a0March\u00a02024 has no equity: 28 of 46 customers have bought again, fewer than the 30 that "
        "a fit is asked for."
    )
    assert [one["from"] for one in table["periods"]] == ["2024-04-30"]
    last = table["dates"][-1]["equity"]
    assert set(last) == {"expected", "latent", "predictive"}
    assert last["expected"]["interval_90"][0] < last["expected"]["mean"] < last["expected"]["interval_90"][1]
    assert table["periods"][-1]["change"]["coupling"] == "independent"
    chance = table["periods"][-1]["bases"]["closing"]["returns"]["achieved"]["chance"]["value"]
    assert 0 <= chance <= 1
    page = Path("runs/shop-history/history.html").read_text()
    assert note in page
    # Draws come back from the cache as they were: a bridge that is missing needs no fit.
    monkeypatch.setattr("clvmodels.fit.fit", None)
    for bridge in Path("runs/shop-history/cache").glob("*_*/bridge.json"):
        bridge.unlink()
    status, out, err = command(*arguments, *quick)
    assert status == 0, err
    assert json.loads(out) == table


def test_no_date_that_can_be_valued_is_an_error(here, command):
    flags = ("--from", "2024-01-10", "--to", "2024-01-24", "--every", "week")
    fitted = ("--set", "models.purchases.fixed=", "--set", "models.spend.fixed=")
    status, out, err = command("shop.yaml", *flags, *fitted)
    assert (status, out) == (2, "")
    assert re.search(r"no date can be valued; the first, 2024-01-10: \d+ of \d+ customers have bought", err)


# --- files ---------------------------------------------------------------------------------------


def test_page_json_and_csv_carry_the_same_numbers(finished):
    place, table = finished
    folder = place / "h"
    assert json.loads((folder / "history.json").read_text()) == table
    page = (folder / "history.html").read_text()
    shown = dict(re.findall(r'<span data-key="([^"]+)">([^<]*)</span>', page))
    assert "dates.4.equity.point.mean" in shown
    assert "periods.3.bases.closing.returns.published.excess.mean" in shown
    for key, text in shown.items():
        number = text.replace(",", "").replace("\u2212", "-").replace("\u00a0%", "")
        assert re.fullmatch(r"-?[\d.]+(e-?\d+)?|–", number), (key, text)
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", page)
    with (folder / "history.csv").open() as file:
        written = list(csv.DictReader(file))
    equity = {row["date"]: float(row["value"]) for row in written
              if row["metric"] == "equity" and row["statistic"] == "mean"}  # fmt: skip
    assert equity == {date["date"]: date["equity"]["point"]["mean"] for date in table["dates"]}
    excess = {row["date"]: float(row["value"]) for row in written
              if row["metric"] == "return.published.excess" and row["statistic"] == "mean"
              and row["basis"] == "closing"}  # fmt: skip
    assert excess == {
        one["to"]: one["bases"]["closing"]["returns"]["published"]["excess"]["mean"]
        for one in table["periods"]
    }
    assert all(row["unit"] for row in written)
    for name in ("equity", "statement", "change"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000


def test_a_notebook_sees_one_row_per_date(here):
    found = run.history("shop.yaml", "2024-04-30", "2024-06-29", every="month")
    assert found.path is None
    assert list(found.table.index) == ["2024-04-30", "2024-05-31"]
    # Numbers are written with ten digits, those of equity and of its change.
    size = found.table.loc["2024-05-31", "equity"]
    change = found.summary["change"]["value"]
    assert found.table.loc["2024-05-31", "change"] == pytest.approx(change, abs=1e-9 * size)
    assert "2024-05-31" in repr(found)
    assert found.summary["notes"] == [
        "The steps from 30\u00a0April\u00a02024 lead to 31\u00a0May\u00a02024, not to 29\u00a0June\u00a02024."
    ]
    from matplotlib.figure import Figure

    assert isinstance(found.plot(), Figure)


def test_docs_list_every_key(finished):
    assert undocumented(finished[1], "bridge.md", "`history.json`") == ([], [])


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--from", "2024-06-30", "--to", "2024-03-31"), "--from is the earlier date"),
        (("--from", "2024-06-30", "--to", "2024-06-30"), "--from is the earlier date"),
        (("--from", "2024-06-30", "--to", "2024-07-31"), "is less than a quarter: a history needs two dates"),
        (
            ("--from", "2020-06-30", "--to", "2024-06-30"),
            "2020-06-30 is before the first date in the data, 2",
        ),
        (("--from", "2024-03-31", "--to", "2026-12-31"), "after the last date in the data"),
        (("--from", "March", "--to", "2024-06-30"), "--from March: a day is written 1997-09-30"),
        ((*DATES[:4], "--every", "day"), "--every day: choose week, month, quarter or year"),
        ((*DATES, "--basis", "best"), "choose closing or opening"),
        ((*DATES, "--set", "value.margin=30"), "30 % is 0.3"),
        ((*DATES, "--out", "."), "the output folder . exists"),
        ((*DATES, "--set", "data.source=gone.csv"), "there is no file 'gone.csv'"),
        (
            (
                *("--from", "2024-05-06", "--to", "2024-05-27", "--every", "week"),
                *("--set", "data.clock=discrete", "--set", "data.time_unit=month"),
            ),
            "both end at the last complete month",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(here, command, arguments, expected):
    before = sorted(here.rglob("*"))
    status, out, err = command("shop.yaml", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert sorted(here.rglob("*")) == before


def test_a_table_of_summaries_has_no_history():
    with pytest.raises(InputError, match="needs a log of transactions"):
        run.history(Path(__file__).parents[1] / "configs" / "donations.yaml", "2001-01-01", "2002-01-01")
