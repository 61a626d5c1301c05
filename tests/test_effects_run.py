"""Covariates and pooled segments from a config to the files of a run."""

from __future__ import annotations

import csv
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import clvmodels as clv
from clvmodels import cli
from clvmodels import config as conf
from clvmodels import run as running
from clvmodels.equity.bridge import LINES
from clvmodels.errors import InputError

CONFIG = {
    "name": "effects",
    "data": {
        "columns": {"customer": "id", "date": "day", "amount": "paid"},
        "observation_end": "2024-12-29",
        "segments": ["channel"],
    },
    "models": {
        "covariates": {"purchase": ["age"], "columns": {"age": {"missing": "impute"}}},
        "pool": {"by": "channel", "on": "spend", "sd": 0.3},
    },
    "fit": {"draws": 700},
    "value": {"margin": 0.3, "annual_discount_rate": 0.15, "horizon": "3 years"},
}


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    """400 customers of one year: age (of one in ten unknown) doubles the rate, fairs spend more."""
    rng, n = np.random.default_rng(2), 400
    age, channel = rng.choice([30, 50], n), rng.choice(["ads", "fair", "web"], n)
    start = rng.integers(0, 200, n)
    rows = []
    for i in range(n):
        gaps = rng.exponential(60 if age[i] == 30 else 30, 40)
        days = np.floor(start[i] + np.r_[0.0, gaps[: rng.geometric(0.15)].cumsum()])
        for day in np.unique(days[days <= 420]):
            paid = round(30 * rng.gamma(5) / 5 * (1.5 if channel[i] == "fair" else 1.0), 2)
            rows.append((f"c{i:03}", day, paid, "" if i % 10 == 0 else str(age[i]), channel[i]))
    table = pd.DataFrame(rows, columns=["id", "day", "paid", "age", "channel"])
    table["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(table["day"], unit="D")
    return table


def typed(folder: Path, log: pd.DataFrame, config: dict, command: str) -> Any:
    """What a command computes of a log and a config in a folder, called as it is typed; it exits with 0."""
    log.to_csv(folder / "log.csv", index=False)
    source = {"data": config["data"] | {"source": "log.csv"}}
    (folder / "effects.yaml").write_text(json.dumps(config | source))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        made = getattr(running, command)
        patch.setattr(running, command, lambda *a, **k: found.append(made(*a, **k)) or found[0])
        arguments = [str(folder / "effects.yaml"), "--out", str(folder / "found")]
        patch.setattr(sys, "argv", ["clvmodels", command, *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return found[0]


@pytest.fixture(scope="module")
def run(log, tmp_path_factory) -> clv.Run:
    """By the command line, and with shocks by channel."""
    return typed(tmp_path_factory.mktemp("effects"), log, CONFIG | {"shocks": {"by": "channel"}}, "fit")


def test_effects_stand_in_every_file(run):
    rows = {(row["column"], row["label"]): row for row in run.summary["effects"]}
    sd = next(t.scale for t in run.draws.purchases.effects.terms)
    raised = f"+ {sd:.3g} (one sd)"
    assert set(rows) == {
        *(("age", label) for label in (raised, "missing")),
        *(("channel", label) for label in ("ads", "fair", "web")),
    }
    age = rows["age", raised]
    low, high = age["multipliers"]["purchase"]["interval_95"]
    assert low < np.sqrt(2) < high  # twice the rate over two standard deviations
    assert rows["channel", "fair"]["multipliers"]["spend"]["mean"] > 1.15
    assert rows["channel", "fair"]["value"]["interval_90"][0] > 1
    entry = next(i for i, row in enumerate(run.summary["effects"]) if row is rows["channel", "fair"])
    page = (run.path / "report.html").read_text()
    assert f'data-key="effects.{entry}.value.mean"' in page
    assert (run.path / "figures" / "pooling_1.svg").is_file()
    with (run.path / "effects.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["label"] == "fair" and row["metric"] == "value"]
    mean = next(float(row["value"]) for row in found if row["statistic"] == "mean")
    assert mean == json.loads((run.path / "summary.json").read_text())["effects"][entry]["value"]["mean"]
    assert run.summary["pooling"][0]["sd"]["mean"] == 0.3
    # What is at risk and what equity depends on, as of every run.
    total = run.summary["equity"]["existing"]["expected"]["mean"]
    deciles = run.summary["partitions"]["decile"]
    assert sum(part["equity"]["expected"]["mean"] for part in deciles) == pytest.approx(total, rel=1e-6)
    by_change = {row["name"]: row["equity"]["mean"] for row in run.summary["sensitivities"]}
    assert by_change["rate"] > run.summary["risk"]["equity"]["mean"] > by_change["discount_up"]
    assert (run.path / "wake_up.csv").read_text().count("\n") > 10


def test_shared_shocks_reach_customers_who_differ(run):
    """Level systematic: as many draws, the same centre, and wider, for shocks do not diversify."""
    predictive, systematic = (run.equity.total(level) for level in ("predictive", "systematic"))
    ratio = systematic / predictive
    assert abs(np.log(ratio).mean()) < 4 * np.log(ratio).std() / np.sqrt(len(ratio)) + ratio.var()
    assert np.log(systematic).std() > np.log(predictive).std()


def test_segments_of_customers_who_differ_have_shocks_of_their_own(run):
    drawn = run.result.segment("channel").transpose("draw", ..., "level")
    predictive, systematic = (drawn.sel(level=level).values for level in ("predictive", "systematic"))
    np.testing.assert_allclose(systematic.sum(axis=1), run.equity.total("systematic"), rtol=1e-12)
    assert np.ptp(systematic / predictive, axis=1).min() > 0
    said = "Segments of channel strayed from one another: weekly shocks of"
    assert [said in check.sentence for check in run.checks if check.name == "shocks by channel"] == [True]
    assert said in (run.path / "report.html").read_text()


def test_a_run_with_effects_is_read_back(run, log):
    again = clv.load(run.path)
    assert again.draws.purchases.effects.names == ("purchase: age", "purchase: age (missing)")
    one, two = (found.what_if(purchase=1.2, seed=1) for found in (run, again))
    np.testing.assert_array_equal(one.change, two.change)
    assert 0 < one.change.mean() / one.before.mean() < 0.2
    new = again.new_customer({"age": 50, "channel": "trade show"})
    assert new.value["expected"].mean() > new.spend["expected"].mean() * 0.3
    with pytest.raises(InputError, match="no counterpart in pymc-marketing"):
        run.to_pymc_marketing()


def test_a_bridge_and_a_history_follow_customers_who_differ(run, log, tmp_path):
    """Both dates by their own designs; a channel that the opening has not seen comes from its hierarchy."""
    late = log.assign(channel=np.where(log["day"] > "2024-06-30", "late", log["channel"]))
    config = CONFIG | {"fit": {"sampler": "map"}}
    found = clv.bridge(config, "2024-06-28", "2024-12-29", late).bridge
    for movement in found.movements.values():
        assert abs(movement.residual).max() < 1e-9 * movement["closing"].mean()
    labels, lines = found.movements["opening"].segments["channel"]
    late_ones = lines[:, labels.index("late")]
    assert (late_ones[LINES.index("opening")] == 0).all()
    assert (late_ones[LINES.index("new")] > 0).all()
    closing = clv.fit(config, late)
    np.testing.assert_allclose(
        found.movements["closing"]["closing"], closing.equity.total("point"), rtol=1e-9
    )
    plain = config | {"data": {k: v for k, v in CONFIG["data"].items() if k != "observation_end"}}
    asked = {"start": "2024-06-28", "end": "2024-09-28", "every": "quarter", "out": tmp_path / "history"}
    series = clv.history(plain, transactions=late, **asked)
    assert [date["skipped"] for date in series.summary["dates"]] == [None, None]
    assert len(series.summary["periods"]) == 1
    assert clv.history(plain, transactions=late, **asked).computed == ()
    older = late.assign(age=late["age"].replace("30", "31"))
    assert len(clv.history(plain, transactions=older, **asked).computed) == 3, "a covariate has changed"


def test_on_is_a_word_in_a_config(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "data: {source: cdnow_sample}\nvalue: {margin: 0.3, annual_discount_rate: 0.1}\n"
        "models:\n  pool: {by: first_month, on: [spend]}\nfit: {allow_unconverged: true}\n"
    )
    config = conf.load(path)
    assert config.models.pool[0].on == ("spend",)
    assert config.fit.allow_unconverged is True
    (tmp_path / "b.yaml").write_text(conf.dump(config))
    assert conf.load(tmp_path / "b.yaml").models == config.models


def test_a_column_that_is_not_there(log):
    models = {"covariates": {"purchase": ["agee"]}}
    with pytest.raises(InputError, match="has no column 'agee'; did you mean 'age'"):
        clv.check(CONFIG | {"models": models}, log)


def test_what_the_data_warn_of_reaches_the_user(capsys):
    """A run keeps the warnings of its fit; of those about the data the user hears, on stderr."""
    from clvmodels.cli.app import session
    from clvmodels.errors import DataWarning
    from clvmodels.run.stages import told

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("age was measured late", DataWarning, stacklevel=1)
        warnings.warn("of a library", RuntimeWarning, stacklevel=1)
    with session(quiet=True, as_json=True):
        warnings.simplefilter("default")
        assert told(caught) == ["age was measured late", "of a library"]
    assert capsys.readouterr().err == "warning: age was measured late\n"


def test_a_backtest_knows_of_columns_what_was_known_then(log, tmp_path):
    """Each origin is fitted with the scaling and the levels of its own customers; nothing later is in it."""
    late = log.assign(channel=np.where(log["day"] > "2024-05-31", "late", log["channel"]))
    validation = {"origins": ["2024-04-30", "2024-09-30"], "horizons": ["13 weeks"]}
    config = CONFIG | {"validation": validation, "fit": {"draws": 1000}}
    found = typed(tmp_path, late, config | {"shocks": {"by": "channel"}}, "backtest")
    assert [origin.reason for origin in found.backtest.origins] == [None, None]
    first, last = found.backtest.scored
    assert (first.horizons, last.horizons) == (("13 weeks",),) * 2
    rows = found.scores[found.scores["group"] == ""]
    assert set(rows["level"]) >= {"expected", "latent", "predictive"}
    # Customers of the origin, whatever comes later: a log that ends there gives the same forecast.
    cut = late[late["day"] <= "2024-07-30"]
    again = clv.backtest(config | {"validation": validation | {"origins": ["2024-04-30"]}}, cut)
    one, two = (run.backtest.scored[0].data["total"] for run in (found, again))
    np.testing.assert_array_equal(one, two)
    shown = found.scores.query("origin == '2024-04-30' and column == 'channel'")
    assert set(shown["group"]) == {"ads", "fair", "web"}
    # Shocks by channel, of which 17 weeks tell too little: for two channels 13 of them need enough purchases.
    assert "2 segments need 13 weeks" in first.weather["segments"]["reason"]
    assert (last.weather["segments"]["seen"], last.weather["segments"]["of"]) == (4, 4)
    assert found.summary["shocks"]["told"]["value"] == 1
    page = (found.path / "backtest.html").read_text()
    assert "Segments of channel had shocks of their own at" in page
    assert "and shared, by the path of all customers" in page
    compared = found.summary["shocks"]["compared"]
    for row in compared:
        some = found.scores.query("column == 'channel' and level == @row['level']")
        some = some[some.measure == row["measure"]]
        assert row["forecasts"] == len(some) == 7
        assert row["coverage_90"] == pytest.approx(some.inside_90.mean())
        assert row["rms_z"] == pytest.approx(np.sqrt((some.z**2).mean()))
        sums = some.groupby("group")[["crps", "actual"]].sum()
        assert row["relative_crps"] == pytest.approx((sums.crps / sums.actual).mean())
    crps = {(row["measure"], row["level"]): row["relative_crps"] for row in compared}
    for row in found.summary["shocks"]["changes"]:
        own, shared = (crps[row["measure"], level] for level in ("systematic", "shared"))
        assert row["crps"] == pytest.approx(own / shared - 1)
