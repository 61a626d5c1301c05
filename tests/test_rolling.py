"""Variants on rolling origins: mixtures by brute force, learning from the past alone, files."""

from __future__ import annotations

import csv
import datetime as dt
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from test_backtest import CONFIG, world

from clvmodels import cli, run
from clvmodels.errors import InputError
from clvmodels.validate import backtest as testing
from clvmodels.validate import rolling
from clvmodels.validate.backtest import Backtest, Horizon, Origin
from clvmodels.validate.compare import ranked_probability

DAY = dt.date(2020, 1, 1)


def origin(number: int, mean: float, sd: float, actual: float) -> Origin:
    rng = np.random.default_rng([number, int(10 * mean)])
    total = np.full((4, 3, 1, 400), np.nan)
    total[2:] = mean + sd * rng.standard_normal(400)
    data = xr.Dataset(
        {
            "total": (("level", "measure", "horizon", "draw"), total),
            "actual": (("measure", "horizon"), np.full((3, 1), actual)),
        },
        coords={
            "level": ["expected", "latent", "predictive", "systematic"],
            "measure": ["orders", "revenue", "margin"],
            "horizon": ["4 weeks"],
        },
    )
    day = DAY + dt.timedelta(days=28 * number)
    return Origin(date=day, customers=10, horizons=("4 weeks",), data=data)


def backtest(means: list[float], actual: list[float], sd: float = 5.0) -> Backtest:
    return Backtest(
        origins=tuple(origin(k, m, sd, a) for k, (m, a) in enumerate(zip(means, actual, strict=True))),
        horizons=(Horizon(label="4 weeks", steps=28),),
        currency="USD",
        time_unit="week",
        clock="continuous",
    )


def compared(**backtests: Backtest) -> rolling.Rolling:
    days = {o.date.isoformat(): (o.date - DAY).days for b in backtests.values() for o in b.origins}
    return rolling.compare(backtests, days)


def rows_of(found: rolling.Rolling, **where: str) -> list[dict]:
    return [r for r in found.table if all(r[k] == v for k, v in where.items())]


def test_weights_are_those_of_a_grid():
    rng = np.random.default_rng(1)
    truth = rng.normal(100, 8, 12)
    pairs = [([rng.normal(92, 5, 200), rng.normal(107, 5, 200)], actual) for actual in truth]
    weights, best = rolling.learn(pairs, 2)
    grid = np.linspace(0, 1, 201)
    loss = [
        sum(ranked_probability(rolling.mixed(many, np.array([w, 1 - w])), a) / a for many, a in pairs)
        for w in grid
    ]
    # The grid's draws are 200 in proportion: their own error moves the minimum of a flat loss by a few steps.
    assert weights[0] == pytest.approx(grid[np.argmin(loss)], abs=0.05)
    assert weights.sum() == pytest.approx(1)
    assert best == int(np.argmin([loss[-1], loss[0]]))


def test_without_a_past_weights_are_equal():
    weights, best = rolling.learn([], 3)
    np.testing.assert_array_equal(weights, np.full(3, 1 / 3))
    assert best == 0


def test_a_mixture_has_the_mean_of_its_parts():
    rng = np.random.default_rng(2)
    a, b = rng.normal(10, 1, 1_000), rng.normal(30, 1, 1_000)
    for share in (0.0, 0.25, 1.0):
        mixed = rolling.mixed([a, b], np.array([share, 1 - share]))
        assert len(mixed) == 1_000
        assert mixed.mean() == pytest.approx(share * a.mean() + (1 - share) * b.mean(), abs=0.05)


def test_an_origin_learns_from_what_was_known_then():
    """The second variant is right from the start; the third later, which is not foreseen."""
    actual = [100.0] * 6
    found = compared(
        low=backtest([60.0] * 6, actual),
        right=backtest([100.0] * 6, actual),
        late=backtest([60.0] * 3 + [100.0] * 3, actual),
    )
    weights = [w for w in found.weights if w["level"] == "systematic" and w["measure"] == "orders"]
    assert [w["known"] for w in weights] == [0, 1, 2, 3, 4, 5]
    assert [w["chosen"] for w in weights] == ["low"] + 5 * ["right"]
    changed = compared(
        low=backtest([60.0] * 6, [*actual[:-1], 60.0]),
        right=backtest([100.0] * 6, [*actual[:-1], 60.0]),
        late=backtest([60.0] * 3 + [100.0] * 3, [*actual[:-1], 60.0]),
    )
    assert [w for w in changed.weights if w["level"] == "systematic" and w["measure"] == "orders"] == weights


def test_verdicts():
    rng = np.random.default_rng(3)
    actual = list(100 + 5 * rng.standard_normal(12))
    found = compared(right=backtest([100.0] * 12, actual), wrong=backtest([140.0] * 12, actual))
    verdicts = {r["variant"]: r["verdict"] for r in rows_of(found, level="systematic", measure="orders")}
    assert verdicts["right"] == "best"
    assert verdicts["wrong"] == "worse"
    bias = {r["variant"]: r["bias"] for r in rows_of(found, level="systematic", measure="orders")}
    assert bias["wrong"] == pytest.approx(np.sum(actual) / (140 * 12) - 1, abs=0.01)
    few = compared(right=backtest([100.0] * 3, actual[:3]), wrong=backtest([140.0] * 3, actual[:3]))
    assert {r["verdict"] for r in few.table} == {"best", "unknown"}


@pytest.fixture(scope="module")
def document() -> dict:
    theta = CONFIG["models"]["purchases"]["fixed"]
    other = {"models": {"purchases": {"family": "bg_nbd", "fixed": {**theta, "alpha": 9.0}}}}
    return {
        **CONFIG,
        "validation": {"horizons": ["4 weeks", "13 weeks"], "every": "16 weeks"},
        "variants": [{"name": "true"}, {"name": "slow", **other}],
    }


def test_command_writes_tables_a_page_and_what_it_says(document, tmp_path, monkeypatch, capsys):
    import yaml

    world(7).to_csv(tmp_path / "log.csv", index=False)
    document = {**document, "data": {**document["data"], "source": "log.csv"}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(testing, "DRAWS", 400)

    def call() -> int:
        monkeypatch.setattr(sys, "argv", ["clvmodels", "compare", "two.yaml", "--rolling", "--out", "found"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0

    assert call() == 0
    printed = capsys.readouterr().out
    table = json.loads((tmp_path / "found" / "rolling.json").read_text())
    assert table["variants"] == ["true", "slow"]
    for sentence in table["sentences"]:
        assert sentence.split(";")[0][:40] in printed
    docs = (Path(__file__).parents[1] / "docs" / "rolling.md").read_text(encoding="utf-8")
    keys = {*table, *(f".{key}" for key in table["table"][0])} - {".level"}
    assert [key for key in keys if f"`{key}" not in docs and f"`table[i]{key}`" not in docs] == []
    with (tmp_path / "found" / "rolling.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == {"true", "slow", "stacked", "chosen"}
    level = [row for row in table["table"] if row["measure"] == "orders" and row["level"] == "predictive"]
    by_name = {row["variant"]: row for row in level if row["horizon"] == "13 weeks"}
    # A fifth fewer purchases are expected at α = 9 than came; the truth is closer.
    assert by_name["slow"]["bias"] > by_name["true"]["bias"] + 0.05
    page = (tmp_path / "found" / "rolling.html").read_text()
    assert "<svg" in page
    assert "stacked" in page
    assert call() == 2
    assert "exists" in capsys.readouterr().err


def test_bad_input_is_one_sentence(document, tmp_path):
    with pytest.raises(InputError, match="one variant alone"):
        run.compare_rolling(CONFIG)
    differs = {**document, "variants": [{"name": "a"}, {"name": "b", "data": {"time_unit": "day"}}]}
    with pytest.raises(InputError, match="differ in their data sections"):
        run.compare_rolling(differs)
    with pytest.raises(InputError, match="is a finished run"):
        run.compare_rolling([tmp_path])
    with pytest.raises(InputError, match="give each its own name"):
        run.compare_rolling({**document, "variants": [{"name": "a"}, {"name": "stacked"}]})
