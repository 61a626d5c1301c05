"""MBG/CNBD-k: published numbers at k = 1, and the BG/CNBD-k of those who survive their first purchase.

What both families of Erlang-k gaps share is tested in test_bg_cnbd_k.py.
"""

from __future__ import annotations

import numpy as np
import oracles
import pytest

from clvmodels.models import registry
from clvmodels.numerics.discounting import Flow
from clvmodels.value import expected_purchases

MBG, BG = registry.purchases("mbg_cnbd_k"), registry.purchases("bg_cnbd_k")
THETA = {"k": 3.0, "r": 0.85, "alpha": 1.45, "a": 0.79, "b": 2.42}


def surviving(theta: np.ndarray) -> np.ndarray:
    """p of those who did not leave after the first purchase is Beta(a, b + 1)."""
    k, r, alpha, a, b = theta
    return np.array([k, r, alpha, a, b + 1])


@pytest.fixture(scope="module")
def case() -> oracles.PurchaseCase:
    return oracles.PurchaseCase(MBG, THETA)


def test_expected_purchases_on_cdnow_at_one_phase(published):
    """E[Y(39) | 2, 30.43, 38.86] of the MBG/NBD at its published parameters."""
    theta = MBG.vector({"k": 1.0, **published["MBG_NBD_CDNOW"]["params"]})
    row, flow = np.array([[2, 30.43, 38.86]]), Flow(delta=0.0, horizon=39.0)
    assert expected_purchases(MBG, theta[None], row, [flow])[0, 0, 0] == pytest.approx(1.262961, abs=5e-7)


def test_density_is_a_mixture_over_the_first_purchase(case):
    """b/(a+b) of the customers are a BG/CNBD-k with b + 1; the others never buy again."""
    stays = THETA["b"] / (THETA["a"] + THETA["b"])
    later = oracles.density(BG, THETA)(surviving(case.vector), case.columns)
    silent = np.where(case.columns["frequency"] == 0, np.log1p(-stays), -np.inf)
    exact = np.logaddexp(np.log(stays) + later, silent)
    np.testing.assert_allclose(oracles.density(MBG, THETA)(case.vector, case.columns), exact, rtol=1e-11)


def test_the_living_are_those_of_the_bg_cnbd(case):
    for row in case.some(10):
        for s in (0.0, 1.0, 50.0, 1e4):
            assert MBG.rate(case.vector, row, s) == BG.rate(surviving(case.vector), row, s)
        if row[0] > 0:
            chance = BG.p_alive(surviving(case.vector), row)
            assert MBG.p_alive(case.vector, row) == pytest.approx(chance, rel=1e-13)


def test_one_time_buyers_may_be_gone():
    theta = MBG.vector(THETA)
    chances = [MBG.p_alive(theta, np.array([0.0, 0.0, T])) for T in (0.0, 0.1, 1.0, 10.0, 1e3)]
    assert chances[0] == pytest.approx(THETA["b"] / (THETA["a"] + THETA["b"]), rel=1e-15)
    assert (np.diff(chances) < 0).all()
    # Three phases take time: for a tenth of a week silence says next to nothing.
    assert chances[0] - chances[1] < 2e-4
