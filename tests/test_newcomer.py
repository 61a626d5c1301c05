"""Customers still to be won: what one is worth, when one pays back, against simulation and print."""

from __future__ import annotations

import numpy as np
import pytest
from builders import make_posterior
from scipy import integrate, special

from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.value import Flow, Newcomer

DELTA = np.log(1.15) / 52
CDNOW = (0.242594, 4.413532, 0.792886, 2.425895)
"""Maximum likelihood on the sample, to the digits that print leaves out."""


def newcomer(family="bg_nbd", theta=CDNOW, spend=35.17) -> Newcomer:
    return Newcomer(make_posterior((family, np.array(theta)), ("fixed_spend", np.array([spend]))), 0.30)


def test_just_acquired_orders_as_published():
    """Equity definitions, checks 7 and 9: the printed digits."""
    pareto = newcomer("pareto_nbd", (0.5629966, 12.5590370, 0.4081095, 10.5148048))
    beta = newcomer(theta=(0.243, 4.414, 0.793, 2.426))
    flow = Flow(delta=0.0027)
    assert pareto.orders([flow])[0, 0] == pytest.approx(5.210248, abs=5e-7)
    assert beta.orders([flow])[0, 0] == pytest.approx(3.64781, abs=5e-6)


def test_value_of_a_modified_newcomer_counts_the_chance_that_the_first_order_is_the_last():
    """DET = b/(a+b) ∫ e^{-δs} E[λ e^{-λps}] ds with p ~ Beta(a, b+1), by an outside quadrature."""
    r, alpha, a, b = theta = (0.525, 6.183, 0.891, 1.614)

    def inner(p):  # E[λ/(λp + δ)] for λ ~ Gamma(r, α), by the definition of Tricomi's function
        z = alpha * DELTA / p
        return r / p * z**r * special.hyperu(r + 1, r + 1, z) * p ** (a - 1) * (1 - p) ** b

    whole = integrate.quad(inner, 0, 1, epsabs=0, epsrel=1e-11, limit=400)[0] / special.beta(a, b + 1)
    found = newcomer("mbg_nbd", theta).orders([Flow(delta=DELTA)])[0, 0]
    assert found == pytest.approx(b / (a + b) * whole, rel=1e-8)


PURCHASES = [f for f in registry.names() if registry.get(f).role != "spend"]


@pytest.mark.parametrize("name", PURCHASES)
def test_simulated_newcomers_are_worth_what_is_expected(name):
    """Levels latent and predictive have the mean of level expected; first order and later ones."""
    family = registry.get(name)
    theta = np.tile(family.vector(family.typical[0]), (250, 1))
    spend = np.tile([6.25, 3.74, 15.44], (250, 1))
    posterior = make_posterior((name, theta), ("gamma_gamma", spend))
    new = Newcomer(posterior, 0.3, np.full(250, 50.0))
    flow = Flow(delta=0.02, horizon=60.0)
    expected = new.value(flow)[0]
    assert expected > new.first_order[0] == pytest.approx(15.0)
    for level in ("latent", "predictive"):
        values = new.simulate(level, flow, 40, np.random.SeedSequence(1))  # type: ignore[arg-type]
        error = values.std() / np.sqrt(values.size)
        assert abs(values.mean() - expected) < 4 * error
        assert (values > 0).all()


def test_payback_as_in_the_definitions():
    """Check 31: weeks to one decimal, which is what two printed digits of E[spend] leave (0.1)."""
    new = newcomer()
    assert new.value(Flow(delta=DELTA))[0] == pytest.approx(49.08, abs=0.02)
    assert new.first_order[0] == pytest.approx(10.55, abs=0.005)
    weeks = [new.payback(np.array([c]), 0.0, 5200.0, 1.0)[0] for c in (8.0, 15.0, 20.0, 30.0, 40.0, 60.0)]
    np.testing.assert_allclose(weeks[:4], [0, 9.7, 25.8, 77.0], atol=0.1)
    np.testing.assert_allclose(weeks[4:], [159.8, 457], rtol=0.002)
    discounted = [new.payback(np.array([c]), DELTA, 5200.0, 1.0)[0] for c in (8.0, 20.0, 60.0)]
    assert discounted == [0, pytest.approx(26.9, abs=0.1), np.inf]


@pytest.mark.parametrize("delta", [0.0, DELTA])
def test_at_payback_the_margin_equals_the_cost(delta):
    """Put back into the quadrature, which knows nothing of the grid: the cubic's error, 1e-6 of the cost."""
    rng = np.random.default_rng(3)
    draws = np.array(CDNOW) * np.exp(0.1 * rng.normal(size=(40, 4)))
    new = Newcomer(make_posterior(("bg_nbd", draws), ("fixed_spend", np.full((40, 1), 35.17))), 0.3)
    cost = rng.uniform(11, 30, 40)
    weeks = new.payback(cost, delta, 5200.0, 1.0)
    again = [Newcomer(make_posterior(("bg_nbd", d), ("fixed_spend", np.array([35.17]))), 0.3) for d in draws]
    flows = [Flow(delta=delta, horizon=w) for w in weeks]
    worth = [n.value(f)[0] for n, f in zip(again, flows, strict=True)]
    np.testing.assert_allclose(worth, cost, rtol=1e-6)


def test_payback_grows_with_cost_and_does_not_depend_on_the_grid():
    new = newcomer()
    weeks = np.array([new.payback(np.array([c]), 0.0, 5200.0, 1.0)[0] for c in np.linspace(5, 60, 23)])
    assert (np.diff(weeks) >= 0).all()
    assert weeks[0] == 0
    other = new.payback(np.array([30.0]), 0.0, 5200.0, 3.0)[0]
    assert other == pytest.approx(new.payback(np.array([30.0]), 0.0, 5200.0, 1.0)[0], rel=1e-5)


def test_payback_of_a_contract_is_the_renewal_that_covers_the_cost():
    """Brute force over renewals: E[survival to k] = B(α, β+k)/B(α, β)."""
    alpha, beta = 0.668, 3.806
    new = Newcomer(make_posterior(("sbg", np.array([alpha, beta])), ("fixed_spend", np.array([10.0]))), 1.0)
    renewals = np.exp(special.betaln(alpha, beta + np.arange(1, 400)) - special.betaln(alpha, beta))
    reached = 10 * (1 + np.cumsum(renewals))
    for cost in (9.0, 25.0, 70.0, 300.0):
        by_hand = 0 if cost <= 10 else 1 + int(np.argmax(reached >= cost))
        assert new.payback(np.array([cost]), 0.0, 390.0, 1.0)[0] == by_hand
    assert new.payback(np.array([1e6]), 0.0, 390.0, 1.0)[0] == np.inf


def test_an_infinite_undiscounted_value_is_refused():
    with pytest.raises(InputError, match="diverges"):
        newcomer().value(Flow(delta=0.0))
