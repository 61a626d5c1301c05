"""Discounting as weights: against closed forms, brute force, and BG/NBD in mpmath."""

from __future__ import annotations

import itertools
import math

import mpmath as mp
import numpy as np
import oracles
import pytest
from builders import make_assumptions, make_summary
from oracles import bg_residual

from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.numerics.discounting import Flow, decaying, schedule
from clvmodels.value import expected_purchases, p_alive, residual
from clvmodels.value.residual import make_schedule

BG = registry.purchases("bg_nbd")
CDNOW = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}

FLOWS = [
    Flow(delta=0.0027),
    Flow(delta=0.0027, horizon=39.0),
    Flow(delta=0.0, horizon=39.0),
    Flow(delta=1e-5),
    Flow(delta=0.0027, timing="end"),
    Flow(delta=0.0027, timing="mid", period=4.345),
    Flow(delta=0.0027, timing="begin", horizon=52.0),
    Flow(delta=0.0027, horizon=50.3, timing="end", period=4.0),
]
DISCRETE = [
    Flow(delta=0.1),
    Flow(delta=0.1, horizon=10.0),
    Flow(delta=0.0, horizon=5.0),
    Flow(delta=0.0003),
    Flow(delta=0.1, timing="begin"),
    Flow(delta=0.01, timing="mid", horizon=200.0),
]


class PowerLaw:
    """A rate with a known integral: Σ_j (1 + s/A_j)^(-c_j)."""

    A, c = np.array([4.4, 30.0, 200.0]), np.array([2.5, 1.3, 0.7])

    def rate(self, s: np.ndarray) -> np.ndarray:
        return ((1 + np.asarray(s)[..., None] / self.A) ** -self.c).sum(axis=-1)

    def total(self, s: np.ndarray) -> np.ndarray:
        powers = -np.expm1((1 - self.c) * np.log1p(np.asarray(s)[..., None] / self.A))
        return (self.A / (self.c - 1) * powers).sum(axis=-1)


POWER = PowerLaw()


# ---------------------------------------------------------------- weights against closed forms


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_weights_of_an_exponential_are_its_closed_form(flow):
    plan = schedule(FLOWS, 4.4)
    weights = plan.weights[plan.flows.index(flow)]
    # Where a horizon cuts a panel, the interpolation error of an exponential stays: 1e-8.
    for decay in (0.0, 0.001, 0.02, 0.1):
        closed = float(flow.decaying(np.array(decay)))
        assert weights @ np.exp(-decay * plan.nodes) == pytest.approx(closed, rel=1e-8)


@pytest.mark.parametrize("flow", DISCRETE, ids=str)
def test_weights_of_a_discrete_exponential_are_its_closed_form(flow):
    plan = schedule(DISCRETE, 3.0, discrete=True)
    weights = plan.weights[plan.flows.index(flow)]
    for decay in (0.001, 0.05, 0.3):
        closed = float(flow.decaying(np.array(decay), discrete=True))
        assert weights @ np.exp(-decay * plan.nodes) == pytest.approx(closed, rel=1e-8)


@pytest.mark.parametrize("flow", [flow for flow in FLOWS if flow.timing == "continuous"], ids=str)
def test_closed_form_of_a_continuous_exponential(flow):
    for decay in (0.001, 0.02, 1.3):
        rate = decay + flow.delta
        stretch = 1.0 if math.isinf(flow.horizon) else -math.expm1(-rate * flow.horizon)
        assert flow.decaying(np.array([decay])) == pytest.approx(stretch / rate, rel=1e-14)


@pytest.mark.parametrize("timing", ["begin", "mid", "end"])
@pytest.mark.parametrize(("period", "horizon"), [(1.0, 52.0), (4.345, 50.3), (13.0, 5.0), (7.0, 3000.0)])
def test_timing_term_by_term(timing, period, horizon):
    """Both the closed form of exponentials and the weights of a power law."""
    flow = Flow(delta=0.0027, horizon=horizon, timing=timing, period=period)
    for decay in (0.004, 0.3):
        brute = oracles.brute_timing(lambda s, d=decay: -np.expm1(-d * s) / d, flow, horizon)
        assert flow.decaying(np.array(decay)) == pytest.approx(brute, rel=1e-12)
    windows = [flow]
    if horizon > 10:
        windows += [
            Flow(delta=0.0027, start=2.2, horizon=horizon, timing=timing, period=period),
            Flow(delta=0.0027, start=2.2, horizon=9.9, timing=timing, period=period),
        ]
    plan = schedule(windows, 4.4)
    values = plan.weights @ POWER.rate(plan.nodes)
    for window, value in zip(windows, values, strict=True):
        assert value == pytest.approx(oracles.brute_timing(POWER.total, window, window.horizon), rel=1e-9)


@pytest.mark.parametrize("timing", ["continuous", "begin", "mid", "end"])
def test_discrete_clock_term_by_term(timing):
    offset = {"continuous": 0.0, "begin": 1.0, "mid": 0.5, "end": 0.0}[timing]
    for delta, horizon, start in (
        (0.02, 40.0, 0.0),
        (0.02, 500.0, 70.0),
        (0.005, 5000.0, 0.0),
        (0.1, 7.5, 2.0),
    ):
        flow = Flow(delta=delta, horizon=horizon, start=start, timing=timing)
        k = np.arange(math.floor(start) + 1, math.floor(horizon) + 1)
        brute = np.exp(-delta * (k - offset)) @ POWER.rate(k)
        plan = schedule([flow, Flow(delta=delta)], 4.4, discrete=True)
        assert plan.weights[0] @ POWER.rate(plan.nodes) == pytest.approx(brute, rel=1e-10)
        for decay in (0.003, 0.5):
            if start == 0:
                brute = np.exp(-delta * (k - offset) - decay * k).sum()
                assert flow.decaying(np.array(decay), discrete=True) == pytest.approx(brute, rel=1e-12)


@pytest.mark.parametrize("discrete", [False, True])
def test_halved_panels_agree(discrete):
    flows = DISCRETE if discrete else FLOWS
    coarse, fine = (schedule(flows, 4.4, discrete=discrete, refine=n) for n in (1, 2))
    assert len(fine.nodes) > 1.5 * len(coarse.nodes)
    for rate in (POWER.rate, lambda s: np.exp(-0.05 * s)):
        np.testing.assert_allclose(
            coarse.weights @ rate(coarse.nodes), fine.weights @ rate(fine.nodes), rtol=1e-8
        )


@pytest.mark.parametrize("discrete", [False, True])
def test_a_long_horizon_is_an_annuity(discrete):
    """100,000 periods; a rate of 1 earns the annuity, and weights reproduce every polynomial they can."""
    delta, periods = 1e-5, 100_000
    flow = Flow(delta=delta, timing="end", period=1.0, horizon=float(periods))
    plan = schedule([flow], 10.0, discrete=discrete)
    annuity = -math.expm1(-delta * periods) / math.expm1(delta)
    assert plan.weights[0].sum() == pytest.approx(annuity, rel=1e-11)
    s = np.arange(1.0, periods + 1) if discrete else np.arange(periods) + 0.5
    mass = np.exp(-delta * np.ceil(s))
    falling = plan.weights[0] @ (1 / (10.0 + plan.nodes))
    # On a continuous clock each period is integrated: the midpoint rule is off by 1/24 of the slope's change.
    assert falling == pytest.approx(mass @ (1 / (10.0 + s)), rel=1e-11 if discrete else 5e-4)


@pytest.mark.parametrize("timing", ["continuous", "begin", "mid", "end"])
@pytest.mark.parametrize("horizon", [math.inf, 700.0, 100.0])
def test_bands_add_up(timing, horizon):
    edges = np.minimum(52.1775 * np.array([0, 1, 3, 5, 10, math.inf]), horizon)
    flows = [Flow(delta=0.0027, horizon=horizon, timing=timing, period=4.345)]
    flows += [
        Flow(delta=0.0027, start=low, horizon=high, timing=timing, period=4.345)
        for low, high in itertools.pairwise(edges)
    ]
    plan = schedule(flows, 4.4)
    values = plan.weights @ POWER.rate(plan.nodes)
    # The pieces are cut inside of panels, the whole is not: 1e-9 is the accuracy of a cut.
    assert values[1:].sum() == pytest.approx(values[0], rel=1e-9)
    assert (values[1:][edges[:-1] == edges[1:]] == 0).all()


def test_conventions_differ_as_published():
    """A constant flow at 15 % a year against continuous discounting, per period convention.

    equity-definitions 1.2: annual end -6.8 %, mid -0.08 %, begin +7.2 %; quarterly end -1.7 %;
    monthly end -0.58 %; weekly end -0.13 %; printed digits.
    """
    delta = math.log(1.15) / 52
    continuous = Flow(delta=delta).decaying(np.array(0.0))
    table = [(52, "end", -6.8, 0.05), (52, "mid", -0.08, 0.005), (52, "begin", 7.2, 0.05)]
    table += [(13, "end", -1.7, 0.05), (52 / 12, "end", -0.58, 0.005), (1, "end", -0.13, 0.005)]
    for period, timing, printed, digit in table:
        value = Flow(delta=delta, timing=timing, period=period).decaying(np.array(0.0))
        assert 100 * (value / continuous - 1) == pytest.approx(printed, abs=digit)


def test_closed_form_needs_a_start_at_zero():
    with pytest.raises(ValueError, match="start = 0"):
        Flow(delta=0.1, start=1.0).code()


def test_decaying_at_its_edges():
    forever, none = Flow(delta=0.0).code(), Flow(delta=0.1, horizon=0.0).code()
    assert decaying(0.0, forever) == math.inf
    assert decaying(0.25, forever) == 4.0
    assert decaying(0.25, none) == 0.0
    assert decaying(0.0, Flow(delta=0.0, horizon=7.0).code()) == 7.0
    assert decaying(0.0, Flow(delta=0.0, horizon=7.0).code(discrete=True)) == 7.0
    assert decaying(0.0, Flow(delta=0.0, horizon=7.0, timing="mid", period=2.0).code()) == pytest.approx(7.0)


def test_delta_of_an_annual_rate():
    """Check 11: ln(1.15)/52 = .00268773, the papers' .0027."""
    assumptions = make_assumptions(
        make_summary({"frequency": [0], "recency": [0], "T": [1]}), units_per_year=52
    )
    assert assumptions.delta == pytest.approx(0.00268773, abs=5e-9)
    assert round(assumptions.delta, 4) == 0.0027


def test_transactions_and_lifetime_given_the_latents():
    """Check 14: p·DERT + δ·DERL = 1, with DERT = λ/(λp+δ) and DERL = 1/(λp+δ)."""
    rng = np.random.default_rng(0)
    lam, p = rng.gamma(0.5, 0.2, 200) + 1e-9, rng.beta(0.8, 2.4, 200)
    for delta in (1e-5, 0.0027, 0.1):
        years = Flow(delta=delta).decaying(lam * p)
        np.testing.assert_allclose(p * (lam * years) + delta * years, 1.0, rtol=1e-12)


# ---------------------------------------------------------------- BG/NBD


def value(theta, x, T, flows):
    """R by the library, per flow."""
    stats = np.array([[x, T if x else 0.0, T]], float)
    return residual(BG, BG.vector(theta)[None, :], stats, flows)[0, :, 0]


@pytest.mark.parametrize(("R", "z", "printed"), [(2.24, 0.7, 0.697969), (300, 2000, 0.130386)])
def test_oracle_has_the_published_values(R, z, printed):
    """Check 13: g_2.24(.7) = .697969, g_300(2000) = .130386 and the bounds."""
    found = oracles.g(mp.mpf(R), mp.mpf(z))
    assert float(found) == pytest.approx(printed, abs=5e-7)
    assert R / (z + R + 1) < found <= R / (z + R)
    # 1 - z e^z E_R(z) is the same number.
    with mp.workdps(40):
        assert float(1 - z * mp.exp(z) * mp.expint(R, z)) == pytest.approx(float(found), rel=1e-12)


def test_oracle_is_within_its_bounds():
    for R, z in itertools.product((0.05, 1.2, 25.0, 1500.0), (1e-4, 0.3, 20.0, 1e5)):
        found = oracles.g(mp.mpf(R), mp.mpf(z))
        assert R / (z + R + 1) < found <= R / (z + R)


GRID = [
    # a near 1, a + b near 1, x = 0, x = 1,500, T = t_x, young customers, small δ, H finite or not
    *itertools.product([CDNOW], [(0, 0.0), (0, 38.86), (2, 38.86), (1500, 38.86)], [1e-5, 0.0027]),
    *itertools.product(
        [CDNOW | {"a": 0.9999999}, CDNOW | {"a": 1.0000001}], [(0, 39.0), (1500, 500.0)], [1e-5]
    ),
    *itertools.product(
        [CDNOW | {"a": 0.4, "b": 0.6}, CDNOW | {"a": 0.4, "b": 0.6000001}], [(0, 1.0)], [1e-5]
    ),
    *itertools.product([CDNOW | {"a": 0.15, "b": 0.2}], [(0, 39.0), (30, 39.0)], [0.0027]),
    # large shapes: rates that fall much faster than α + T
    *itertools.product([{"r": 50, "alpha": 4.4, "a": 0.3, "b": 0.5}], [(0, 0.0), (2, 39.0)], [0.0027]),
    *itertools.product([{"r": 2.0, "alpha": 4.4, "a": 20.0, "b": 2.4}], [(0, 39.0), (1500, 39.0)], [0.0027]),
]


@pytest.mark.parametrize(("theta", "row", "delta"), GRID, ids=str)
def test_residual_against_mpmath(theta, row, delta):
    """R to 1e-8 relative, for ever and over finite windows, discounted and not."""
    x, T = row
    flows = [Flow(delta=delta), Flow(delta=delta, horizon=39.0), Flow(delta=0.0, horizon=39.0)]
    found = value(theta, x, T, flows)
    for flow, number in zip(flows, found, strict=True):
        reference = bg_residual(theta, x, T, flow.delta, flow.horizon)
        assert number == pytest.approx(reference, rel=1e-8), flow


def test_many_customers_do_not_blur_the_corner():
    """A young customer, an old one and a heavy one share nodes: each is right to 1e-8."""
    rows = np.array([[0, 0, 0], [0, 0, 500], [1500, 500, 500], [3, 0.2, 0.3]], float)
    draws = np.array([BG.vector(CDNOW), BG.vector({"r": 20, "alpha": 50.0, "a": 5.0, "b": 5.0})])
    flows = [Flow(delta=1e-5), Flow(delta=0.0027, horizon=39.0)]
    found = residual(BG, draws, rows, flows)
    for i, k, d in itertools.product(range(4), range(2), range(2)):
        theta = dict(zip(BG.parameter_names, draws[d], strict=True))
        reference = bg_residual(theta, rows[i, 0], rows[i, 2], flows[k].delta, flows[k].horizon)
        assert found[i, k, d] == pytest.approx(reference, rel=1e-8)


def dert(row, flow):
    return expected_purchases(BG, BG.vector(CDNOW)[None, :], np.array([row], float), [flow])[0, 0, 0]


@pytest.mark.parametrize(
    ("row", "printed"),
    [
        ((0, 0, 38.86), 1.01570),
        ((2, 30.43, 38.86), 5.15638),
        ((7, 35, 77.86), 0.67652),
        ((1, 30, 77.86), 1.47180),
        ((29, 35, 38), 60.7593),
        ((0, 0, 0), 3.64781),  # check 9: just acquired
    ],
)
def test_published_residual_transactions(row, printed):
    """Checks 8 and 9 at δ = .0027, to the digits printed."""
    half = 5e-5 if printed > 10 else 5e-6
    assert dert(row, Flow(delta=0.0027)) == pytest.approx(printed, abs=half)


def test_frequency_paradox():
    """Seven purchases, then silence, are worth less than one that is as old."""
    assert dert((7, 35, 77.86), Flow(delta=0.0027)) < dert((1, 30, 77.86), Flow(delta=0.0027))


@pytest.mark.parametrize(("timing", "printed"), [("end", 5.14942), ("mid", 5.15637), ("begin", 5.16334)])
def test_published_weekly_sums(timing, printed):
    """Check 10: weekly sums for (2, 30.43, 38.86)."""
    assert dert((2, 30.43, 38.86), Flow(delta=0.0027, timing=timing)) == pytest.approx(printed, abs=5e-6)


def conditional_expectation(theta, x, t_x, T, t) -> float:
    """E[Y(t) | x, t_x, T], Fader, Hardie and Lee (2005) eq. (10), in mpmath."""
    r, alpha, a, b = (mp.mpf(theta[name]) for name in ("r", "alpha", "a", "b"))
    with mp.workdps(60):
        tail = mp.hyp2f1(r + x, b + x, a + b + x - 1, t / (alpha + T + t))
        many = (a + b + x - 1) / (a - 1) * (1 - ((alpha + T) / (alpha + T + t)) ** (r + x) * tail)
        gone = a / (b + x - 1) * ((alpha + T) / (alpha + t_x)) ** (r + x) if x > 0 else 0
        return float(many / (1 + gone))


def test_undiscounted_window_is_the_conditional_expectation(published):
    """Checks 3 and 4: 1.226 purchases of (2, 30.43, 38.86) in 39 weeks; DERT(39, δ → 0) to 1e-8."""
    row = (2, 30.43, 38.86)
    printed = published["FHL2005_counting_easy_way"]["worked_conditional_expectation"]
    assert (printed["x"], printed["t_x"], printed["T"], printed["t"]) == (*row, 39)
    closed = conditional_expectation(CDNOW, *row, 39)
    assert closed == pytest.approx(1.226, abs=5e-4)
    assert dert(row, Flow(delta=0.0, horizon=39.0)) == pytest.approx(closed, rel=1e-8)
    assert dert(row, Flow(delta=1e-13, horizon=39.0)) == pytest.approx(closed, rel=1e-8)


def test_heavy_discounting_leaves_the_next_instant():
    """δ → ∞: P(alive) (r+x)/(α+T) / δ."""
    stats = np.array([[2, 30.43, 38.86]])
    chance = p_alive(BG, BG.vector(CDNOW)[None, :], stats)[0, 0]
    limit = chance * (CDNOW["r"] + 2) / (CDNOW["alpha"] + 38.86)
    # The next term is smaller by E[λp]/δ < 1e-4 at δ = 1e3.
    assert 1e3 * dert(stats[0], Flow(delta=1e3)) == pytest.approx(limit, rel=1e-4)


def test_continuous_is_nearly_a_weekly_sum():
    """Mid-week sums differ from continuous discounting by δ²/24 and the curvature of the rate."""
    row = (2, 30.43, 38.86)
    weekly, exact = dert(row, Flow(delta=0.0027, timing="mid")), dert(row, Flow(delta=0.0027))
    assert weekly == pytest.approx(exact, rel=1e-5)


def test_undiscounted_and_forever_is_refused_where_it_diverges():
    """Check 15: a <= 1 in any one draw."""
    stats = np.array([[0.0, 0.0, 10.0]])
    good = BG.vector(CDNOW | {"a": 1.2})
    with pytest.raises(InputError, match="annual_discount_rate is 0 with an infinite horizon"):
        make_schedule(BG, np.array([good, BG.vector(CDNOW)]), stats, [Flow(delta=0.0)])
    total = residual(BG, good[None, :], stats, [Flow(delta=0.0)])[0, 0, 0]
    assert total == pytest.approx((1.2 + CDNOW["b"] - 1) / 0.2, rel=1e-12)


def test_undiscounted_and_forever_in_windows():
    """With a > 1 the sum is closed, and a window that never ends is what the others leave."""
    theta = CDNOW | {"a": 1.7}
    draws, stats = BG.vector(theta)[None, :], np.array([[0.0, 0.0, 10.0], [4.0, 9.0, 10.0]])
    flows = [Flow(delta=0.0), Flow(delta=0.0, horizon=520.0), Flow(delta=0.0, start=520.0)]
    whole, early, late = residual(BG, draws, stats, flows)[:, :, 0].T
    np.testing.assert_allclose(early + late, whole, rtol=1e-12)
    assert (late > 0).all()
    for row, number in zip(stats, early, strict=True):
        assert number == pytest.approx(bg_residual(theta, row[0], row[2], 0.0, 520.0), rel=1e-8)
