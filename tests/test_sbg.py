"""sBG: the published contracts, their survivors and their value, and equations (5) to (8)."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pandas as pd
import pytest

from clvmodels.config import DataConfig, FitConfig, ModelConfig
from clvmodels.data import bundled_path, summarise
from clvmodels.fit import fit_family, measure
from clvmodels.models import registry
from clvmodels.numerics.discounting import Flow
from clvmodels.value import expected_purchases, residual

SBG = registry.purchases("sbg")
FLAT = ModelConfig(family="sbg", priors="flat")


@pytest.fixture(scope="module")
def block(published):
    return published["sBG_FaderHardie2007"]


def contracts(label: str, years: int = 7, survivors: list[int] | None = None):
    """A segment after some years, from the bundled data or from its survivors."""
    config = DataConfig(
        kind="summary", clock="discrete", time_unit="year", observation_end="2006-12-31", segments=["segment"]
    )
    if survivors is None:
        frame = pd.read_parquet(bundled_path("contracts")).query(f"segment == {label!r}")
    else:
        left = -np.diff(survivors[: years + 1])
        x = np.arange(years + 1)
        weight = np.r_[left, survivors[years]]
        frame = pd.DataFrame({"frequency": x, "recency": x, "T": years, "weight": weight, "segment": label})
    return summarise(config, transactions=frame)


def fitted(summary):
    return fit_family(
        SBG, summary.fold(SBG.statistics), FLAT, FitConfig(sampler="map"), 0, measure(summary)
    ).maximum


def survival(alpha: float, beta: float, years: int) -> np.ndarray:
    """S(0), ..., S(years) by the recursion of eq. (8), without a gamma function."""
    t = np.arange(1, years + 1)
    return np.cumprod(np.r_[1.0, (beta + t - 1) / (alpha + beta + t - 1)])


# --- published ---------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["High End", "Regular"])
def test_published_maximum(block, label):
    """The paper's text prints alpha = 0.688 for High End, a misprint: its appendix has 0.668."""
    summary, printed = contracts(label), block[label]
    maximum = fitted(summary)
    for name in SBG.parameter_names:
        # The log-likelihood is flat: the printed point, of a spreadsheet's search, is within 1e-5.
        assert maximum[name] == pytest.approx(printed[name], abs=2e-3)
    rows = summary.fold(SBG.statistics)
    point = np.array([printed[name] for name in SBG.parameter_names])
    columns = dict(zip(rows.names, rows.stats.T, strict=True))
    there = rows.weight @ oracles.density(SBG, {})(point, columns)
    assert maximum["log_likelihood"] - 1e-5 < there <= maximum["log_likelihood"] + 1e-9
    assert maximum["alpha"] / (maximum["alpha"] + maximum["beta"]) == pytest.approx(
        printed["E_theta"], abs=5e-4
    )
    if "LL" in printed:
        assert round(maximum["log_likelihood"], 1) == printed["LL"]
        assert round(maximum["log_likelihood"], 2) == printed["LL_handout"]
    again = fitted(contracts(label, 7, printed["survivors_0..12"]))
    assert again == pytest.approx(maximum, rel=1e-9)


def test_log_likelihood_at_other_points(block):
    summary = contracts("High End")
    rows = summary.fold(SBG.statistics)
    columns = dict(zip(rows.names, rows.stats.T, strict=True))
    start = rows.weight @ oracles.density(SBG, {})(np.ones(2), columns)
    assert round(float(start), 1) == block["LL_at_alpha=beta=1_high_end"]
    # Without heterogeneity: one theta is a beta of infinite precision.
    flat = block["geometric_benchmark_high_end"]
    point = np.array([flat["theta"], 1 - flat["theta"]]) * 1e7
    assert rows.weight @ oracles.density(SBG, {})(point, columns) == pytest.approx(flat["LL"], abs=0.02)


@pytest.mark.parametrize(("label", "year_12", "error"), [("High End", 0.378, -4), ("Regular", 0.170, -2)])
def test_published_forecast_of_survivors(block, label, year_12, error):
    """S(12) is 4 % and 2 % below the survivors; the paper's text says above."""
    theta = np.array([[block[label][name] for name in SBG.parameter_names]])
    new = np.zeros((1, 2))
    flows = [Flow(delta=0.0, start=t - 1.0, horizon=float(t)) for t in range(1, 13)]
    found = np.r_[1.0, residual(SBG, theta, new, flows)[0, :, 0]]
    np.testing.assert_allclose(found, survival(*theta[0], 12), rtol=1e-13)
    seen = np.array(block[label]["survivors_0..12"]) / 1000
    assert round(found[12], 3) == year_12
    assert round(100 * (found[12] / seen[12] - 1)) == error


def test_published_residual_lifetime_value(published):
    """Just before a renewal is due: the payment of that renewal is not discounted.

    The paper counts by the end of period n, when n - 1 renewals have been made.
    """
    block = published["FaderHardie2015_simple_models_CLV_CE"]["BG_contractual"]
    theta = np.array([[block["gamma"], block["delta"]]])
    delta, cash = math.log1p(block["d"]), block["net_cash_flow"]
    for period, printed in block["RLV_end_period"].items():
        row = np.full((1, 2), float(period) - 1)
        begin, end = (
            cash * expected_purchases(SBG, theta, row, [Flow(delta=delta, timing=timing)])[0, 0, 0]
            for timing in ("begin", "end")
        )
        assert round(begin) == printed
        assert end == pytest.approx(begin / 1.1, rel=1e-12)
    # With one retention rate for everybody, the formula in print.
    r = block["constant_retention"]
    same = np.array([[(1 - r) * 1e9, r * 1e9]])
    value = cash * residual(SBG, same, np.zeros((1, 2)), [Flow(delta=delta, timing="begin")])[0, 0, 0]
    assert round(value) == block["RLV_constant"]
    assert value == pytest.approx(cash * r / (1 - r / (1 + block["d"])), rel=1e-6)


# --- identities --------------------------------------------------------------------------------


def test_density_is_the_survivors_difference():
    theta = {"alpha": 0.704, "beta": 1.182}
    S = survival(*theta.values(), 200)
    x = np.r_[np.arange(200.0), 200.0]
    columns = {"frequency": x, "T": np.full(201, 200.0)}
    found = np.exp(oracles.density(SBG, theta)(np.array(list(theta.values())), columns))
    np.testing.assert_allclose(found, np.r_[S[:-1] - S[1:], S[-1]], rtol=1e-10)


def test_alive_is_seen():
    for x, T, alive in ((0, 0, 1.0), (3, 3, 1.0), (2, 3, 0.0), (0, 1, 0.0)):
        assert SBG.p_alive(np.array([0.7, 1.2]), np.array([x, T], float)) == alive


def test_objections():
    def objection(x, t_x, T):
        return SBG.objection({"frequency": np.array(x), "recency": np.array(t_x), "T": np.array(T)})

    assert objection([0.0, 2.0], [0.0, 2.0], [6.0, 2.0]) is None
    gaps = objection([0.0, 2.0], [0.0, 3.0], [6.0, 6.0])
    assert gaps.startswith("1 of 2 customers missed an opportunity and bought again later")
    assert gaps.endswith("these are repeat purchases, for a purchase family on a discrete clock.")
    assert "1 values of T are not whole numbers" in objection([0.0, 2.0], [0.0, 2.0], [6.0, 2.5])
