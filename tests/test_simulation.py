"""Simulation-based calibration: the bands, what they catch, and a quick set of the default families."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy import stats

from clvmodels import run
from clvmodels.config import ModelsConfig
from clvmodels.errors import InputError
from clvmodels.validate import simulation

FITS = 10
DEFAULT = ModelsConfig()
PAIR = f"{DEFAULT.purchases.family} + {DEFAULT.spend.family}"


def test_band_leaves_one_in_twenty_of_uniform_ranks():
    _, limit = simulation.uniform_band(50, 0.95)
    rng = np.random.default_rng(1)
    outside = sum(simulation.departure(rng.random(50)) > limit for _ in range(2_000))
    low, high = stats.binom.ppf([0.0005, 0.9995], 2_000, 0.05)
    # The limit itself is a quantile of 4,000 simulations: its error adds half as much again.
    assert low - 30 < outside < high + 30


@pytest.mark.parametrize("wrong", [stats.beta(0.5, 0.5), stats.beta(3, 3), stats.beta(2, 1)])
def test_band_catches_narrow_wide_and_shifted_draws(wrong):
    _, limit = simulation.uniform_band(200, 0.99)
    assert simulation.departure(wrong.rvs(200, random_state=2)) > limit


def test_ties_are_broken_at_random():
    rng = np.random.default_rng(3)
    ranks = [simulation._rank(np.repeat([1.0, 2.0, 3.0], 33), 2.0, rng) for _ in range(2_000)]
    assert stats.kstest(ranks, stats.uniform(33 / 100, 34 / 100).cdf).pvalue > 1e-4


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    out = tmp_path_factory.mktemp("sbc") / "ranks"
    first = run.sbc([DEFAULT.purchases.family], fits=2, customers=200, out=out)
    before = (out / "ranks.csv").read_text()
    found = run.sbc([DEFAULT.purchases.family], fits=FITS, customers=200, out=out)
    return first, before, found


def test_quick_set_is_uniform(calibration):
    """Every quantity at once stays inside its band in 99 of 100 right programs; the seed is fixed."""
    pair = calibration[2].summary["pairs"][PAIR]
    assert pair["passed"], {q: row for q, row in pair["quantities"].items() if row["passed"] is False}
    assert pair["converged"] == pair["fits"] == FITS
    assert {
        "equity",
        "equity_latent",
        "value",
        "alive",
        "first_segment",
        "bridge_bought",
        "log_likelihood",
    } <= set(pair["quantities"])


def test_expected_level_is_too_narrow_for_purchases(calibration):
    """Its interval leaves chance out: the distance of its ranks from the middle is larger."""
    ranks = calibration[2].ranks[PAIR]
    far = {name: np.abs(ranks[name] - 0.5).mean() for name in ("orders", "orders_expected")}
    assert far["orders_expected"] > far["orders"]


def test_continues_where_it_stopped(calibration):
    first, before, found = calibration
    kept = (found.path / "ranks.csv").read_text()
    assert kept.startswith(before)
    for name, ranks in first.ranks[PAIR].items():
        np.testing.assert_allclose(found.ranks[PAIR][name][:2], ranks, atol=6e-5)
    with (found.path / "calibration.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["quantity"] for row in rows} == set(found.ranks[PAIR])
    assert (found.path / "calibration.svg").stat().st_size < 200_000


def test_bad_input_is_one_sentence(tmp_path):
    (tmp_path / "other.txt").write_text("x")
    with pytest.raises(InputError, match="is not a calibration"):
        run.sbc(out=tmp_path)
    with pytest.raises(InputError, match="choose importance or nuts"):
        run.sbc(sampler="gibbs")
    with pytest.raises(InputError, match="at least 50 customers"):
        run.sbc(customers=10)
    with pytest.raises(InputError, match="draws 50: the truth is ranked among 100"):
        run.sbc(draws=50)


def test_chains_pass_the_gate_at_their_default_draws():
    """Four chains of 500: R-hat stays below its limit, which chains of 100 exceed nearly always."""
    found = run.sbc([DEFAULT.purchases.family], fits=1, customers=60, sampler="nuts")
    assert found.summary["draws"] == 2000
    assert found.summary["pairs"][PAIR]["converged"] == 1
