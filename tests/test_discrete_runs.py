"""Whole runs on a discrete clock: donors, contracts, and a log whose months are opportunities."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import clvmodels as clv
from clvmodels import config as settings
from clvmodels.artifacts import Assumptions
from clvmodels.config import DataConfig, ModelConfig
from clvmodels.data import summarise
from clvmodels.errors import InputError
from clvmodels.fit import check_data
from clvmodels.models import registry
from clvmodels.models.family import PurchaseFamily
from clvmodels.numerics.discounting import Flow
from clvmodels.run.stages import resolve_assumptions
from clvmodels.value import expected_purchases, residual

CONFIGS = Path(__file__).parents[1] / "configs"
QUICK = ("fit.draws=100", "fit.allow_unconverged=true")
FIXED = ModelConfig(family="fixed_spend")


def mass(equity, level: str) -> float:
    return float(equity.total(level).mean())


@pytest.fixture(scope="module")
def contracts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "contracts"
    return clv.fit(CONFIGS / "contracts.yaml", out=folder, overrides=QUICK)


@pytest.fixture(scope="module")
def months(tmp_path_factory):
    config = {
        "data": {
            "source": "cdnow_sample",
            "clock": "discrete",
            "time_unit": "month",
            "observation_end": "1997-09-30",
        },
        "models": {"purchases": {"family": "bg_bb"}},
        "value": {"margin": 0.3, "annual_discount_rate": 0.15, "timing": "end"},
        "name": "months",
    }
    return clv.fit(config, out=tmp_path_factory.mktemp("run") / "months", overrides=QUICK)


# --- runs --------------------------------------------------------------------------------------


def test_contracts_are_worth_what_the_paper_s_sum_says(contracts):
    """Equity draw by draw: survivors × cash × Σ S(T+s)/S(T) (1+d)^-(s-1), added term by term."""
    T, alive = 7.0, 732  # 491 and 241 survivors
    assert contracts.result.data["alive"].values == pytest.approx(alive)
    s = np.arange(1.0, 400.0)
    for draw, total in zip(contracts.draws.purchases.flat, contracts.equity.total("expected"), strict=True):
        alpha, beta = draw
        rates = np.cumprod((beta + T + s - 1) / (alpha + beta + T + s - 1))
        assert total == pytest.approx(alive * 100 * (rates * 1.1 ** -(s - 1)).sum(), rel=1e-10)
    # 100 draws × 732 contracts: the latent and the predictive mean are good to 0.1 %.
    for level in ("latent", "predictive"):
        assert mass(contracts.equity, level) == pytest.approx(mass(contracts.equity, "expected"), rel=5e-3)


def test_a_run_of_contracts_is_written_and_read(contracts):
    table = json.loads((contracts.path / "summary.json").read_text())
    assert table["assumptions"]["clock"] == "discrete"
    assert table["assumptions"]["period"] == {"value": 1.0, "unit": "year"}
    assert {block["label"] for block in table["segments"]["segment"]} == {"High End", "Regular"}
    ages = [history["T"]["value"] for history in table["histories"]]
    assert ages == [0, 1, 2, 3, 5, 7]
    values = [history["value"]["mean"] for history in table["histories"]]
    assert values == sorted(values)
    page = (contracts.path / "report.html").read_text()
    assert "Contracts still running" in page
    assert "one year are one purchase" in page
    figures = {file.stem for file in (contracts.path / "figures").glob("*.svg")}
    assert {"equity", "frequency", "segments_1"} <= figures
    assert not {"tracking", "histories", "iso_value"} & figures
    again = clv.load(contracts.path)
    assert again.data.clock == "discrete"
    assert clv.run.report(contracts.path).exists()


def test_donors_run():
    run = clv.fit(CONFIGS / "donations.yaml", overrides=[*QUICK, "fit.sampler=map"])
    assert run.draws.is_point
    rows = run.data.fold(("frequency", "recency", "T"))
    flow = Flow(delta=math.log(1.1), timing="end")
    family = registry.purchases("bg_bb")
    each = expected_purchases(family, run.draws.purchases.flat, rows.stats, [flow])[0, :, 0]
    assert run.equity.total("point")[0] == pytest.approx(50 * rows.weight @ each, rel=1e-10)
    ahead = run.result.data["orders"].values.ravel()
    paper = 12_884.2  # of Fader, Hardie and Shang's spreadsheet, for the five years
    assert ahead[1] == pytest.approx(paper, rel=2e-3)


def test_a_log_of_months_is_tracked_month_by_month(months):
    data, arrays = months.data, months.arrays
    assert arrays.attrs["tracking_unit"] == "month"
    assert arrays["week"].values.astype("M8[D]").astype(str)[[0, 8, 17]].tolist() == [
        "1997-01-31", "1997-09-30", "1998-06-30",
    ]  # fmt: skip
    inside = arrays["week"].values <= np.datetime64("1997-09-30")
    observed = arrays["weekly_observed"].values
    assert observed[inside].sum() == data["frequency"].sum()
    assert observed[~inside].sum() == data["holdout_frequency"].sum()
    # Nobody is in the first month a repeat buyer; in month 9 a customer of month b is at age 9 - b.
    model = arrays["weekly_model"].sel(band="mean").values
    assert model[0] == observed[0] == 0
    born = 9 - data["T"].astype(int)
    draws = months.draws.purchases.flat
    wanted = np.zeros(9)
    for month in range(2, 10):
        for first in np.unique(born[born < month]):
            age = float(month - first)
            flow = Flow(delta=0.0, start=age - 1, horizon=age)
            new = expected_purchases(registry.purchases("bg_bb"), draws, np.zeros((1, 3)), [flow])
            wanted[month - 1] += (born == first).sum() * new.mean()
    # 200 replicates of some 200 orders a month: a standard error of 1 in 200.
    np.testing.assert_allclose(model[inside][1:], wanted[1:], rtol=0.03)
    checks = {check.name: check for check in months.checks}
    assert "months of repeat purchases" in checks["tracking_band"].sentence
    assert checks["holdout_orders"].sentence.startswith("Holdout of 9 months")
    assert (months.path / "figures" / "tracking.svg").exists()
    surface = (months.path / "figures" / "histories.svg").read_text()
    assert "Recency" in surface


# --- clocks ------------------------------------------------------------------------------------


def donors():
    years = {"kind": "summary", "clock": "discrete", "time_unit": "year"}
    return summarise(DataConfig(source="donations", observation_end="2001-12-31", **years))


def contracts_data():
    years = {"kind": "summary", "clock": "discrete", "time_unit": "year"}
    return summarise(DataConfig(source="contracts", observation_end="2001-12-31", **years))


def test_a_family_of_the_other_clock_is_refused(cdnow):
    sentence = (
        "models.purchases.family: bg_bb needs opportunities to be counted, and these data are on a "
        "continuous clock: set data.clock to discrete"
    )
    with pytest.raises(InputError, match=sentence) as refused:
        check_data(cdnow, ModelConfig(family="bg_bb"), FIXED)
    assert "bg_nbd" in str(refused.value)
    with pytest.raises(InputError, match=r"bg_nbd needs exact times, and these data are on a discrete clock"):
        check_data(donors(), ModelConfig(family="bg_nbd"), FIXED)


def test_the_families_that_fit_are_computed():
    """Every family that is named passes the check, and every other one does not."""
    for data in (donors(), contracts_data()):
        with pytest.raises(InputError) as refused:
            check_data(data, ModelConfig(family="bg_nbd"), FIXED)
        named = str(refused.value).partition("of the families, ")[2].removesuffix(" can use these data.")
        for family in registry.families():
            if not isinstance(family, PurchaseFamily):
                continue
            if family.name in named.split(", "):
                check_data(data, ModelConfig(family=family.name), FIXED)
            else:
                with pytest.raises(InputError):
                    check_data(data, ModelConfig(family=family.name), FIXED)


def test_contracts_and_purchases_are_told_apart():
    with pytest.raises(
        InputError, match=r"a contract ends with .*; of the families, bg_bb can use these data\.$"
    ):
        check_data(donors(), ModelConfig(family="sbg"), FIXED)
    with pytest.raises(InputError, match=r"for a contract family; of the families, .*bdw.*sbg.* can use"):
        check_data(contracts_data(), ModelConfig(family="bg_bb"), FIXED)


def test_a_contract_family_counts_as_one_of_purchases():
    with pytest.raises(InputError, match=r"purchases need one of .*sbg"):
        registry.purchases("gamma_gamma")
    assert registry.purchases("sbg").role == "contract"


# --- value -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", [f for f in registry.families() if getattr(f, "clock", "") == "discrete"], ids=lambda f: f.name
)
def test_value_is_the_sum_over_opportunities(family):
    """Residual values against sums of the rate, opportunity by opportunity."""
    d = math.log(1.1)
    flows = [
        *(Flow(delta=d, timing=timing) for timing in ("begin", "mid", "end", "continuous")),
        Flow(delta=d / 12, timing="mid"),
        Flow(delta=0.0, horizon=5.0),
        Flow(delta=0.0, horizon=66.7),
        Flow(delta=0.002, start=60.2, horizon=311.0, timing="begin"),
        Flow(delta=0.002, start=311.0),
        Flow(delta=d, horizon=0.4),
    ]
    offset = {"begin": 1.0, "mid": 0.5, "end": 0.0, "continuous": 0.0}
    for point in family.typical:
        theta = family.vector(point)
        for T in (0.0, 6.0, 150.0):
            known = {"frequency": T, "recency": T, "T": T}
            row = np.array([known[name] for name in family.state])
            found = residual(family, theta[None], row[None], flows)[0, :, 0]
            s = np.arange(1.0, 23_000.0)  # 0.002 * 23,000 = 46: beyond, less than 1e-19 is left
            rates = np.array([family.rate(theta, row, k) for k in s])
            for flow, value in zip(flows, found, strict=True):
                inside = (s > flow.start) & (s <= flow.horizon)
                terms = rates * inside * np.exp(-flow.delta * (s - offset[flow.timing]))
                # The schedule promises 1e-11; sums of 23,000 terms are good to 1e-12.
                assert value == pytest.approx(terms.sum(), rel=2e-11, abs=1e-300), (point, T, flow)


# --- assumptions -------------------------------------------------------------------------------


def test_the_period_of_a_discrete_clock_is_the_opportunity():
    config = settings.load(CONFIGS / "contracts.yaml")
    assumptions: Assumptions = resolve_assumptions(config, contracts_data())
    assert (assumptions.period, assumptions.units_per_year) == (1.0, 1.0)
    assert dict(assumptions.horizons) == {"1 year": 1.0, "5 years": 5.0}
    with pytest.raises(InputError, match=r"value.period is '3 months', but data.clock is discrete"):
        settings.load(CONFIGS / "contracts.yaml", ["value.period=3 months"])
    stored = settings.dump(config)
    assert settings.load(settings._parse(stored, "stored")).data == config.data
