"""BG/NBD against print, and against its own story integrated over λ and p."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
from scipy.special import betaln, gammaln

from clvmodels.models import registry
from clvmodels.numerics.discounting import Flow
from clvmodels.value import expected_purchases

BG = registry.purchases("bg_nbd")
CDNOW = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}
ROWS = np.array(
    [
        (0, 0, 0.5),
        (0, 0, 38.86),
        (1, 0.2, 38.0),
        (1, 37.9, 38.0),
        (2, 30.43, 38.86),
        (7, 35, 77.86),
        (40, 12, 39),
    ]
)


@pytest.fixture(scope="module")
def density() -> oracles.Density:
    return oracles.density(BG, CDNOW)


def columns(rows) -> dict[str, np.ndarray]:
    return dict(zip(("frequency", "recency", "T"), np.atleast_2d(np.asarray(rows, float)).T, strict=True))


def expected(theta, row, t) -> float:
    """E[Y(t) | x, t_x, T] = P(alive) R."""
    draws = BG.vector(theta)[None, :]
    return expected_purchases(BG, draws, np.array([row], float), [Flow(delta=0.0, horizon=t)])[0, 0, 0]


# ---------------------------------------------------------------- the story, integrated


class Story:
    """λ and p on a grid: trapezoidal rule over (log λ, logit p), with the mass of the prior.

    Given λ and p a history has density λ^x (1-p)^x e^(-λT) if alive at T, and
    λ^x p (1-p)^(x-1) e^(-λ t_x) if gone at t_x. The grid's error is below 1e-11: the mass it cuts
    off is e^-30, and the rule converges exponentially.
    """

    def __init__(self, theta, x, t_x, T):
        low = -math.log(theta["alpha"] + T) - 30 / theta["r"] - 3
        high = math.log((50 + 6 * x) / (theta["alpha"] + t_x))
        log_lam = np.linspace(low, high, 2500)[:, None]
        w = np.linspace(-30 / theta["a"], 30 / theta["b"], 1200)[None, :]
        step = (log_lam[1, 0] - log_lam[0, 0]) * (w[0, 1] - w[0, 0])
        self.lam, self.p = np.exp(log_lam), 1 / (1 + np.exp(-w))
        log_q = -np.logaddexp(0, w)
        log_p = -np.logaddexp(0, -w)
        prior = theta["r"] * (math.log(theta["alpha"]) + log_lam) - theta["alpha"] * self.lam
        prior = prior - gammaln(theta["r"]) + theta["a"] * log_p + theta["b"] * log_q
        prior = prior - betaln(theta["a"], theta["b"]) + math.log(step)
        self.alive = np.exp(prior + x * (log_lam + log_q) - self.lam * T)
        if x > 0:
            self.dead = np.exp(prior + x * log_lam + log_p + (x - 1) * log_q - self.lam * t_x)
        else:
            self.dead = np.zeros_like(self.alive)


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("theta", BG.typical, ids=str)
def test_density_and_p_alive_are_the_story_integrated(density, theta, row):
    story = Story(theta, *row)
    alive, dead = story.alive.sum(), story.dead.sum()
    direct = density(BG.vector(theta), columns(row))[0]
    assert direct == pytest.approx(math.log(alive + dead), abs=1e-9 * (1 + abs(direct)))
    assert BG.p_alive(BG.vector(theta), row) == pytest.approx(alive / (alive + dead), rel=1e-9)


@pytest.mark.parametrize("row", ROWS[[1, 3, 4, 5]], ids=str)
def test_rate_is_the_story_integrated(row):
    story, theta = Story(CDNOW, *row), BG.vector(CDNOW)
    for s in (0.0, 1.0, 39.0, 1000.0):
        ahead = (story.alive * story.lam * np.exp(-story.lam * story.p * s)).sum() / story.alive.sum()
        assert BG.rate(theta, row, s) == pytest.approx(ahead, rel=1e-8)


@pytest.mark.parametrize("row", ROWS[[3, 4, 5]], ids=str)
def test_latents_of_the_living_and_the_dead(row):
    """Means of λ and p given either, of 20,000 draws."""
    story, theta = Story(CDNOW, *row), BG.vector(CDNOW)
    rng, draws = np.random.default_rng(2), np.zeros((20_000, 4))
    for out in draws:
        BG.latent(theta, row, rng, out)
    for alive, mass in ((1.0, story.alive), (0.0, story.dead)):
        here = draws[draws[:, 0] == alive]
        assert len(here) > 100
        for column, latent in ((1, story.lam), (3, story.p), (2, story.lam * story.p)):
            mean = (mass * latent).sum() / mass.sum()
            if column != 2 or alive:
                oracles.assert_mean_zero(here[:, column] - mean, BG.latents[column])
    np.testing.assert_allclose(draws[:, 2], draws[:, 1] * draws[:, 3], rtol=1e-15)


# ---------------------------------------------------------------- print


def test_log_likelihood_of_the_sample(density, cdnow, published):
    """Check 1: -9582.4 at the published parameters; -13887.7 with all parameters 1."""
    printed = published["FHL2005_counting_easy_way"]
    best = printed["BG/NBD"]
    theta = np.array([best[name] for name in BG.parameter_names])
    assert density(theta, cdnow).sum() == pytest.approx(best["LL"], abs=0.05)
    assert density(np.ones(4), cdnow).sum() == pytest.approx(printed["LL_at_all_ones"], abs=0.05)


def test_contributions_of_single_customers(density, cdnow, numbered, published, precise):
    """Figure 1 of the paper: customers by their number in the sample."""
    level = density(BG.vector(precise), cdnow)[numbered]
    for number, printed in published["FHL2005_counting_easy_way"]["LL_contributions_Fig1"].items():
        # The optimum is known to some 1e-4, and so are contributions.
        assert level[int(number) - 1] == pytest.approx(printed, rel=1e-4, abs=1e-4)


def test_expected_purchases_of_a_new_customer(published, precise):
    block = published["FHL2005_counting_easy_way"]["E[X(t)]_BG/NBD_from_Hardie_Excel_via_lifetimes_tests"]
    for t, printed in zip(block["t"], block["value"], strict=True):
        # The spreadsheet's own optimum is another one's in the fourth digit, the print has four decimals.
        assert expected(precise, (0, 0, 0), t) == pytest.approx(printed, rel=3e-4, abs=5e-5)


@pytest.fixture(scope="module")
def walkthrough(published):
    return published["BTYD_walkthrough_CDNOW"]["BG/NBD"]


@pytest.fixture(scope="module")
def precise(walkthrough):
    return {name: walkthrough[name] for name in BG.parameter_names}


def test_walkthrough(walkthrough, precise, published):
    assert expected(precise, (0, 0, 0), 52) == pytest.approx(walkthrough["E[X(52)]"], abs=5e-7)
    known = published["BTYD_walkthrough_CDNOW"]["Pareto/NBD"]["cust1516"]
    row = (known["x"], known["t_x"], known["T"])
    printed = walkthrough["cust1516"]
    assert BG.p_alive(BG.vector(precise), np.array(row)) == pytest.approx(printed["P_alive"], abs=5e-7)
    assert expected(precise, row, 52) == pytest.approx(printed["CET_52"], abs=5e-5)


def test_increasing_frequency_paradox(walkthrough, precise):
    """T = 39, last purchase in week 20: the more there were, the fewer there will be."""
    for x, printed in walkthrough["increasing_frequency_T39_tx20_52w"].items():
        assert expected(precise, (float(x), 20.0, 39.0), 52) == pytest.approx(printed, rel=2e-6)


def chance(density, count: int, t: float) -> float:
    """P(X(t) = count): the density of all histories with so many purchases."""
    if count == 0:
        return math.exp(density(BG.vector(CDNOW), columns((0, 0, t)))[0])
    x, w = np.polynomial.legendre.leggauss(80)
    last = t * (x + 1) / 2
    rows = np.column_stack([np.full(80, count), last, np.full(80, t)])
    volume = (count - 1) * np.log(last) - gammaln(count)
    return float(t * w / 2 @ np.exp(density(BG.vector(CDNOW), columns(rows)) + volume))


def test_distribution_of_counts(density, published):
    block = published["BTYD_walkthrough_CDNOW"]["BG/NBD_pmf_from_BTYD_manual"]
    assert block["params"] == list(CDNOW.values())
    assert chance(density, 10, 2.0) == pytest.approx(block["P(X(2)=10)"], rel=1e-5)
    assert chance(density, 0, 39.0) == pytest.approx(block["P(X(39)=0)"], abs=5e-8)
    for count, printed in zip(range(11, 21), block["P(X(30)=11..20)"], strict=True):
        assert chance(density, count, 30.0) == pytest.approx(printed, rel=1e-6)


def test_holdout_by_calibration_frequency(cdnow, walkthrough, precise):
    """Mean of expected purchases in weeks 39 to 78 by repeat purchases in weeks 0 to 39."""
    stats = np.column_stack([cdnow[name] for name in BG.state])
    draws = BG.vector(precise)[None, :]
    ahead = expected_purchases(BG, draws, stats, [Flow(delta=0.0, horizon=39.0)])[0, :, 0]
    classes = np.minimum(cdnow["frequency"], 7)
    printed = walkthrough["holdout_by_calibration_frequency_0..7plus"]["expected"]
    for x, mean in enumerate(printed):
        assert ahead[classes == x].mean() == pytest.approx(mean, rel=1e-4)


def test_weekly_repeat_sales(cdnow, walkthrough, precise):
    """Expected repeat purchases of the cohort up to weeks 20 and 25, from everybody's first day on.

    The printed table counts weeks from the first day of the cohort.
    """
    begin, count = np.unique(cdnow["T"].max() - cdnow["T"], return_counts=True)
    for week, printed in ((20, 0), (25, 5)):
        flows = [Flow(delta=0.0, horizon=week - start) for start in begin]
        share = expected_purchases(BG, BG.vector(precise)[None, :], np.zeros((1, 3)), flows)[0, 0]
        assert share @ count == pytest.approx(walkthrough["cum_expected_w20_25"][printed], abs=1e-3)


# ---------------------------------------------------------------- corners of its own


def test_one_time_buyers_are_alive():
    for theta in BG.typical:
        assert BG.p_alive(BG.vector(theta), np.array([0.0, 0.0, 500.0])) == 1.0


def test_heavy_buyer_of_daily_data():
    """x = 1,500: the textbook's ₂F₁ overflows; the value does not."""
    theta = CDNOW | {"alpha": 4.414 * 7}
    row = np.array([1500.0, 1990.0, 2000.0])
    found = expected(theta, row, 365.0)
    chance_alive = BG.p_alive(BG.vector(theta), row)
    reference = chance_alive * oracles.bg_residual(theta, 1500, 2000.0, 0.0, 365.0)
    assert found == pytest.approx(reference, rel=1e-8)


def test_small_shape_does_not_divide_by_zero():
    """r = 0.001: most λ underflow to 0, which is a customer who never buys again."""
    theta = BG.vector(CDNOW | {"r": 0.001})
    rng, out = np.random.default_rng(0), np.zeros(4)
    rates = []
    for _ in range(200):
        BG.latent(theta, np.array([0.0, 0.0, 30.0]), rng, out)
        rates.append(out[1])
        assert BG.gap(out, 0.0, rng) > 0
        assert np.isfinite(out).all()
    assert min(rates) < 1e-280
    histories = BG.simulate(CDNOW | {"r": 0.001}, np.full(2000, 30.0), rng)
    assert np.isfinite(histories.time).all()
