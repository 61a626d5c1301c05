"""Fixed spend: what every purchase is worth is given, and equity is that times purchases."""

from __future__ import annotations

import numpy as np
import pytest

import clvmodels as clv
from clvmodels.errors import InputError
from clvmodels.models.fixed_spend import FAMILY

CONFIG = {
    "name": "fixed",
    "data": {"source": "cdnow_sample", "observation_end": "1997-09-30"},
    "models": {
        "purchases": {"family": "bg_nbd", "fixed": {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}},
        "spend": {"family": "fixed_spend", "settings": {"amount": 35.0}},
    },
    "value": {"margin": 0.3, "annual_discount_rate": 0.15},
}


@pytest.fixture(scope="module")
def run():
    return clv.fit(CONFIG)


def test_equity_is_the_amount_times_margin_times_discounted_orders(run):
    """Two ways to the total: the engine's, and Σ P(alive) R by the public functions."""
    from clvmodels.models import registry
    from clvmodels.value import Flow, expected_purchases

    family = registry.purchases("bg_nbd")
    stats = np.column_stack([run.data[name] for name in family.state])
    flow = Flow(delta=run.assumptions.delta)
    orders = expected_purchases(family, run.draws.purchases.flat, stats, [flow]).sum()
    assert run.equity.total("point") == pytest.approx([35.0 * 0.3 * orders], rel=1e-10)


def test_doubling_the_amount_doubles_equity(run):
    twice = {
        **CONFIG,
        "models": {**CONFIG["models"], "spend": {"family": "fixed_spend", "settings": {"amount": 70.0}}},
    }
    assert clv.fit(twice).equity.total("point") == pytest.approx(2 * run.equity.total("point"), rel=1e-12)


def test_a_single_vector_has_no_interval(run):
    assert run.result.levels == ("point",)
    assert run.equity.summary().loc["point", ["sd", "low_90%", "high_90%"]].isna().all()


def test_baskets_are_the_amount():
    baskets = FAMILY.simulate({"amount": 12.5}, np.array([2, 0, 1]), np.random.default_rng(1))
    assert (baskets.amount == 12.5).all()
    assert len(baskets.amount) == 3


def test_an_unknown_setting_is_named():
    wrong = {
        **CONFIG,
        "models": {**CONFIG["models"], "spend": {"family": "fixed_spend", "settings": {"amont": 1}}},
    }
    with pytest.raises(InputError, match="amount"):
        clv.fit(wrong)
