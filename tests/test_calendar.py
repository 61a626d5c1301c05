"""Calendar intensity: clocks, durations, a known profile found again, and where it is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from clvmodels import fit as fitting
from clvmodels import run
from clvmodels.artifacts import Intensity
from clvmodels.config import DataConfig, FitConfig, ModelConfig, ModelsConfig
from clvmodels.data import history
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.validate import calendar

FIRST = np.datetime64("2020-01-01")
WEEKS, LATER = 52, 8
THETA = {"r": 0.8, "alpha": 6.0, "a": 0.6, "b": 3.0}
SPEND = {"p": 6.25, "q": 3.74, "gamma": 15.44}
COLUMNS = {"customer": "who", "date": "when", "amount": "paid"}
MODELS = ModelsConfig(
    purchases=ModelConfig(family="bg_nbd", fixed=THETA),
    spend=ModelConfig(family="gamma_gamma", fixed=SPEND),
    calendar="weekly",
)
WAVE = 1 + 0.5 * np.sin(2 * np.pi * np.arange(WEEKS) / 26)
TRUTH = WAVE / WAVE.mean()
END = np.datetime64(FIRST + 7 * WEEKS - 1, "D").item()


def world(value: np.ndarray, customers: int, seed: int) -> pd.DataFrame:
    """A log of customers whose clocks run at an intensity, 1 beyond its weeks, that grow in number."""
    rng = np.random.default_rng(seed)
    total = 7 * (WEEKS + LATER)
    run = np.concatenate([[0.0], np.cumsum(np.r_[np.repeat(value, 7), np.ones(7 * LATER)])])
    born = np.sort((7 * (WEEKS - 4) * np.sqrt(rng.random(customers))).astype(int))
    # Day k lasts from k - 1 to k; first purchases fall at its end.
    path = registry.purchases("bg_nbd").simulate(THETA, (run[-1] - run[born + 1]) / 7, rng)
    moment = run[born[path.customer] + 1] + 7 * path.time
    day = np.maximum(np.searchsorted(run, moment) - 1, born[path.customer] + 1)
    inside = day < total
    who = np.r_[np.arange(customers), path.customer[inside]]
    when = np.r_[born, day[inside]]
    return pd.DataFrame(
        {
            "who": [f"c{k:05}" for k in who],
            "when": FIRST + when.astype("timedelta64[D]"),
            "paid": np.full(len(who), 10.0),
        }
    )


def read(table: pd.DataFrame, statistics: tuple = ()) -> history.History:
    return history.read(DataConfig(columns=COLUMNS), transactions=table, statistics=statistics)


@pytest.fixture(scope="module")
def past() -> history.History:
    return read(world(TRUTH, 3_000, 1))


def test_a_clock_agrees_with_the_calendar_at_the_end_and_beyond():
    clock = Intensity(end=100, width=7, value=np.array([0.5, 1.5, 1.0])).clock
    days = np.array([72, 79, 82.5, 86, 93, 100, 130])
    # 21 days of mean intensity 1; before the first week its own intensity goes on.
    np.testing.assert_allclose(clock(days), [79 - 3.5, 79, 80.75, 82.5, 93, 100, 130], rtol=1e-15)
    with pytest.raises(ValueError, match="positive"):
        Intensity(end=1, width=7, value=np.array([0.0]))


def test_an_even_clock_changes_nothing(past):
    plain, _ = past.at(END)
    even, _ = past.at(END, Intensity(end=int(past.number(END)), width=7, value=np.ones(WEEKS)))
    for name, column in plain.columns.items():
        np.testing.assert_allclose(even[name], column, rtol=1e-12, err_msg=name)


def test_durations_are_those_of_the_clock_by_brute_force():
    statistics = registry.get("mbg_cnbd_k").extra_statistics
    past = read(world(TRUTH, 200, 2), statistics)
    rng = np.random.default_rng(3)
    value = rng.uniform(0.3, 2, WEEKS)
    end = int(past.number(END))
    summary, position = past.at(END, Intensity(end=end, width=7, value=value))
    speed = np.repeat(value, 7)  # of day end - 363 ... end
    number = past.number(past.day)

    def between(low: int, high: int) -> float:
        return sum(speed[day - (end - len(speed)) - 1] for day in range(low + 1, high + 1)) / 7

    for row in rng.choice(len(summary), 40, replace=False):
        k = position[row]
        days = [d for d in number[past.start[k] : past.start[k + 1]] if d <= end]
        assert summary["recency"][row] == pytest.approx(between(days[0], days[-1]), rel=1e-9, abs=1e-9)
        assert summary["T"][row] == pytest.approx(between(days[0], end), rel=1e-9, abs=1e-9)
        gaps = [between(a, b) for a, b in itertools.pairwise(days)]
        for one in statistics:
            assert summary[one.name][row] == pytest.approx(np.log(gaps).sum() if gaps else 0.0, abs=1e-9)


def test_a_known_intensity_is_found(past):
    """Weekly counts are near Poisson given the model, so that the log errors of what was not smoothed away
    are at most 1/count in variance; 3,000 customers bring hundreds a week after the first quarter."""
    found = calendar.estimate(past, END, MODELS, FitConfig(), 1)
    assert found.change < calendar.STILL
    # The clock leaves the total of expected purchases as it is. What was expected is of the turn before,
    # whose log intensities were within STILL.
    summary, position = past.at(END, found.intensity)
    fixed = fitting.fit(summary, MODELS.purchases, MODELS.spend, FitConfig(), 1)
    expected = calendar.at_one(summary, fixed, past, found.intensity)[0]
    assert expected @ found.intensity.value == pytest.approx(expected.sum(), rel=calendar.STILL)
    assert abs(found.intensity.value.mean() - 1) > 2 * calendar.STILL  # which the mean over weeks does not
    count = past.weekly(position, calendar.weeks_of(past, END))[0]
    some = count >= 50
    assert some.sum() > 25
    truth = TRUTH[-len(some) :]  # the window begins with the first purchase
    error = np.log(found.intensity.value / truth)[some]
    error -= np.average(error, weights=count[some])  # the level hangs on weeks with few customers
    assert (error**2 * count[some]).sum() < chi2.ppf(0.999, some.sum())
    assert np.std(np.log(truth[some])) > 5 * np.std(error)


def test_an_even_calendar_stays_nearly_even():
    past = read(world(np.ones(WEEKS), 3_000, 4))
    found = calendar.estimate(past, END, MODELS, FitConfig(), 1)
    count = past.weekly(np.arange(len(past.customer)), calendar.weeks_of(past, END))[0]
    some = count >= 50
    assert (np.log(found.intensity.value[some]) ** 2 * count[some]).mean() < 1  # closer than raw ratios


def test_a_backtest_keeps_the_intensity_and_goes_on(past, tmp_path):
    table = world(TRUTH, 600, 5)
    config = {
        "name": "wave",
        "data": {"columns": COLUMNS},
        "models": MODELS.model_dump(mode="json", exclude_defaults=True),
        "value": {"margin": 0.3, "annual_discount_rate": 0.1},
        "validation": {"origins": [END.isoformat()], "horizons": ["8 weeks"]},
    }
    first = run.backtest(config, table, cache=tmp_path / "kept")
    again = run.backtest(config, table, cache=tmp_path / "kept")
    (one,), (two,) = first.backtest.origins, again.backtest.origins
    assert one.intensity == two.intensity
    # At intensity one the window's ratios are the intensity itself, but for chance.
    weeks = one.data["window_expected_orders"].mean("thin").values
    assert np.average(one.intensity, weights=weeks) == pytest.approx(1, rel=calendar.STILL)
    ratio = one.data["window_orders"].values / weeks
    assert np.corrcoef(ratio[-30:], TRUTH[-30:])[0, 1] > 0.8
    even = run.backtest(config, table, overrides=["models.calendar=even"])
    assert even.backtest.origins[0].intensity is None


@pytest.mark.parametrize(
    "command", [run.fit, lambda config, log: run.history(config, "2020-06-30", "2020-09-30", log)]
)
def test_commands_that_would_leave_it_out_refuse_it(command):
    config = {
        "data": {"columns": COLUMNS},
        "models": {"calendar": "weekly"},
        "value": {"margin": 0.3, "annual_discount_rate": 0.1},
    }
    with pytest.raises(InputError, match=r"models.calendar: weekly is known to backtest"):
        command(config, world(TRUTH, 100, 6))


def test_what_cannot_be_combined_is_one_sentence():
    config = {
        "data": {"columns": COLUMNS, "clock": "discrete"},
        "models": {"purchases": {"family": "bg_bb"}, "calendar": "weekly"},
        "value": {"margin": 0.3, "annual_discount_rate": 0.1},
    }
    with pytest.raises(InputError, match="needs a continuous clock"):
        run.backtest(config, world(TRUTH, 100, 6))
    config["data"].pop("clock")
    config["models"] = {"calendar": "weekly", "pool": {"by": "first_month"}}
    with pytest.raises(InputError, match="cannot be combined"):
        run.backtest(config, world(TRUTH, 100, 6))
