"""Customer equity: sums over customers inside each draw, segments, bands and concentration."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from builders import make_assumptions, make_posterior, make_summary
from hypothesis import given, settings
from hypothesis import strategies as st

from clvmodels import equity
from clvmodels.artifacts import LEVELS
from clvmodels.equity.concentration import Histogram
from clvmodels.value import Valuation

CDNOW = np.array([0.243, 4.414, 0.793, 2.426])
SPEND = np.array([6.25, 3.74, 15.44])


def spread(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return (
        CDNOW * np.exp(0.1 * rng.standard_normal((count, 4))),
        SPEND * np.exp(0.05 * rng.standard_normal((count, 3))),
    )


def value(summary, purchases, spend, **changes) -> Valuation:
    posterior = make_posterior(("bg_nbd", purchases), ("gamma_gamma", spend))
    return Valuation(summary, posterior, make_assumptions(summary, **changes), seed=1)


@pytest.fixture(scope="module")
def summary(cdnow):
    """Every third customer of the CDNOW sample, with two segment columns."""
    pick = np.arange(0, len(cdnow), 3)
    rng = np.random.default_rng(0)
    segments = {
        "cohort": (np.arange(len(pick)) % 4).astype(str),
        "channel": rng.choice(["ads", "friends", "search"], len(pick), p=[0.9, 0.09, 0.01]),
    }
    return make_summary({name: cdnow[name][pick] for name in oracles.SUMMARY_COLUMNS}, segments)


@pytest.fixture(scope="module")
def valuation(summary):
    return value(summary, *spread(40))


@pytest.fixture(scope="module")
def built(valuation):
    return equity.build(valuation)


@pytest.fixture(scope="module")
def values(valuation):
    """Per level the values of all customers, shape (customer, draw)."""
    out = {}
    for level in LEVELS:
        tiles = list(getattr(valuation, level)())
        order = np.concatenate([tile.customers for tile in tiles])
        out[level] = np.concatenate([tile.value for tile in tiles])[np.argsort(order)]
    return out


# ---------------------------------------------------------------- sums


def test_levels_are_named(built):
    assert built.levels == LEVELS
    assert built.data["total"].dims == ("level", "draw")
    assert built.currency == "USD"
    assert built.data["total"].attrs["unit"] == "USD"
    assert list(built.summary().index) == list(LEVELS)
    assert built.summary()["contains"].is_unique


@pytest.mark.parametrize("level", LEVELS)
def test_total_is_the_sum_over_customers(built, values, level):
    np.testing.assert_allclose(built.total(level), values[level].sum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("column", ["cohort", "channel"])
def test_segments_partition_the_total_in_every_draw(built, summary, values, level, column):
    """Check 28."""
    parts = built.data[f"segment:{column}"].sel(level=level)
    np.testing.assert_allclose(parts.sum(f"by:{column}"), built.total(level), rtol=1e-12)
    segment = summary.segments[column]
    for code, label in enumerate(segment.labels):
        own = values[level][segment.codes == code].sum(axis=0)
        np.testing.assert_allclose(parts.sel({f"by:{column}": label}), own, rtol=1e-12, atol=1e-9)
    counts = built.data[f"customers:{column}"]
    assert counts.sum() == len(summary)
    assert (counts.values == np.bincount(segment.codes)).all()


def test_bands_partition_the_total(built):
    np.testing.assert_allclose(built.data["bands"].sum("band"), built.total("expected"), rtol=1e-9)
    assert list(built.data["band"].values) == [
        "0-1 years",
        "1-3 years",
        "3-5 years",
        "5-10 years",
        ">10 years",
    ]


def test_value_beyond_the_observed_window(summary):
    """As long again as the oldest customer was seen: a window of its own in a second valuation."""
    seen = summary["T"].max()
    pair = spread(3)
    whole = equity.build(value(summary, *pair))
    near = equity.build(value(summary, *pair, horizon=seen))
    share = 1 - near.total("expected") / whole.total("expected")
    np.testing.assert_allclose(whole.data["beyond"], share, rtol=1e-8)
    assert (near.data["beyond"] == 0).all()


def test_finite_horizon_cuts_the_bands(summary):
    found = equity.build(value(summary, *spread(3), horizon=2 * 52.1775))
    assert found.data.sizes["band"] == 2
    np.testing.assert_allclose(found.data["bands"].sum("band"), found.total("expected"), rtol=1e-9)


def test_customers_who_never_came_back(built, summary, values):
    once = summary["frequency"] == 0
    for level in LEVELS:
        own = built.data["never_again"].sel(level=level)
        np.testing.assert_allclose(own, values[level][once].sum(axis=0), rtol=1e-12)


def test_customer_table(built, summary, values):
    table = built.customers
    assert table.num_rows == len(summary)
    assert table["customer"].to_pylist() == list(summary.customer)
    expected = values["expected"]
    np.testing.assert_allclose(table["value_mean"], expected.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(table["value_sd"], expected.std(axis=1, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(table["value_q05"], np.quantile(expected, 0.05, axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        sum(table["value_mean"].to_numpy()), built.total("expected").mean(), rtol=1e-12
    )
    assert table["cohort"].to_pylist()[:5] == ["0", "1", "2", "3", "0"]
    alive = built.data["alive"]
    np.testing.assert_allclose(table["p_alive"].to_numpy().sum(), alive.mean(), rtol=1e-12)


def test_one_customer_is_worth_its_equity(summary):
    one = make_summary({name: summary[name][[7]] for name in oracles.SUMMARY_COLUMNS})
    found = equity.build(value(one, *spread(30)))
    assert found.customers["value_mean"].to_numpy()[0] == pytest.approx(
        found.total("expected").mean(), rel=1e-13
    )
    assert (found.data["gini"] == 0).all()
    np.testing.assert_allclose(found.data["top_decile"].sel(level="expected"), 0.1, rtol=1e-12)


def test_same_seed_same_bits(valuation, built):
    again = equity.build(valuation)
    assert again.data.identical(built.data)
    assert again.customers.equals(built.customers)


def test_progress_ends_at_one_for_every_level(summary):
    seen = {}
    equity.build(
        value(summary, *spread(2)), progress=lambda label, done: seen.setdefault(label, []).append(done)
    )
    assert set(seen) == {f"value, level {level}" for level in LEVELS}
    for fractions in seen.values():
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0


# ---------------------------------------------------------------- one parameter vector


def test_point_posterior_has_no_interval(summary):
    found = equity.build(value(summary, CDNOW, SPEND))
    assert found.levels == ("point",)
    row = found.summary().loc["point"]
    assert row["mean"] > 0
    assert np.isnan(row[[name for name in row.index if name[:3] in ("sd", "low", "hig")]].astype(float)).all()
    assert "value_sd" not in found.customers.column_names
    assert "90 %" not in repr(found)


# ---------------------------------------------------------------- concentration


def gini(values: np.ndarray) -> float:
    """The definition, by sorting: Σ (2i - n - 1) v_(i) / (n Σ v)."""
    v = np.sort(values)
    n = len(v)
    return float((2 * np.arange(1, n + 1) - n - 1) @ v / (n * v.sum()))


def histogram(values: np.ndarray, typical: float) -> Histogram:
    found = Histogram(1, typical)
    for part in np.array_split(values, 3):
        found.add(np.ascontiguousarray(part[:, None]))
    return found


# Values of a bin differ by up to 20 decades / 2,046 bins: 2.3 %. Their order inside of the bin is
# lost: that moves a Gini coefficient by at most the mean of the bins' own, 2.3 %/6, times the
# squares of their shares of customers, and a share by what one bin of customers can differ in.
GINI_ERROR = 1e-4


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).lognormal(3, 1.5, 4000),
        np.r_[np.zeros(2000), np.random.default_rng(2).lognormal(3, 2.5, 2000)],
        np.random.default_rng(3).gamma(0.1, 30.0, 5000),
        np.random.default_rng(4).uniform(0, 1, 3000),
    ],
    ids=["lognormal", "with zeros", "gamma", "uniform"],
)
def test_concentration_equals_sorting(values):
    found = histogram(values, 25.0)
    assert found.gini()[0] == pytest.approx(gini(values), abs=GINI_ERROR)
    shares = np.linspace(0, 1, 101)
    ranked = np.r_[0, np.cumsum(np.sort(values)[::-1])] / values.sum()
    exact = np.interp(shares * len(values), np.arange(len(values) + 1), ranked)
    np.testing.assert_allclose(found.lorenz(shares)[0], exact, atol=5e-4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=60).map(np.array),
    st.floats(1e-3, 1e3),
)
def test_gini_has_no_unit(values, factor):
    """In cents or thousands: bins move with the typical value, edges by float precision only."""
    # Few values may lie together in a bin: 2.3 % of values, a sixth of it at most in Gini.
    before, after = histogram(values, 1.0).gini()[0], histogram(values * factor, factor).gini()[0]
    assert after == pytest.approx(before, abs=0.012)
    assert before == pytest.approx(gini(values), abs=0.006)
    assert -1e-12 <= before < 1


def test_equal_values_are_equal():
    found = histogram(np.full(400, 12.5), 25.0)
    assert found.gini()[0] == pytest.approx(0, abs=1e-14)
    shares = np.linspace(0, 1, 11)
    np.testing.assert_allclose(found.lorenz(shares)[0], shares, rtol=1e-12)


def test_nothing_is_shared_equally():
    found = histogram(np.zeros(50), 25.0)
    assert found.gini()[0] == 0
    np.testing.assert_allclose(found.lorenz(np.linspace(0, 1, 11))[0], np.linspace(0, 1, 11))


def test_one_customer_has_everything():
    n = 1000
    found = histogram(np.r_[np.zeros(n - 1), 7.0], 1.0)
    assert found.gini()[0] == pytest.approx(1 - 1 / n, rel=1e-12)
    assert found.lorenz(np.array([0.001, 0.1]))[0] == pytest.approx([1, 1])


def test_negative_values_count_as_nothing():
    rng = np.random.default_rng(6)
    values = rng.lognormal(2, 1, 1000)
    losing = values.copy()
    losing[:200] *= -1
    clipped = histogram(losing.clip(min=0), 7.0)
    assert histogram(losing, 7.0).gini() == pytest.approx(clipped.gini(), rel=1e-12)


def test_values_off_the_scale_are_kept():
    values = np.array([1e-30, 1.0, 1e30])
    found = histogram(values, 1.0)
    assert found.count.sum() == 3
    assert found.amount.sum() == pytest.approx(1e30)
    assert found.gini()[0] == pytest.approx(2 / 3, abs=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_concentration_of_a_valuation(built, values, level):
    here = built.data.sel(level=level)
    exact = np.array([gini(column) for column in values[level].T])
    # 786 customers, each a bin of its own almost everywhere.
    np.testing.assert_allclose(here["gini"], exact, atol=GINI_ERROR)
    ranked = np.sort(values[level], axis=0)[::-1]
    place = 0.1 * len(ranked)
    top = ranked[: int(place)].sum(axis=0) + (place - int(place)) * ranked[int(place)]
    np.testing.assert_allclose(here["top_decile"], top / ranked.sum(axis=0), atol=2e-3)


def test_lorenz_curves(built):
    curves = built.data["lorenz"]
    assert (curves.sel(share_of=0.0) == 0).all()
    np.testing.assert_allclose(curves.sel(share_of=1.0), 1, rtol=1e-12)
    assert (curves.diff("share_of") >= -1e-12).all()
    # The best customers come first: every curve is concave and above the diagonal.
    assert (curves.diff("share_of").diff("share_of") <= 1e-3).all()
    assert (curves >= curves["share_of"] - 1e-12).all()
    assert (curves.diff("quantile") >= 0).all()


def test_levels_are_ever_more_concentrated(built):
    """Convex order: what customers really are is more unequal than what is expected of them."""
    by_level = built.data["gini"].mean("draw").values
    assert by_level[0] < by_level[1] < by_level[2]


def test_fixed_top_decile_is_one_set_of_customers(built, values):
    fixed = built.data["fixed_top_decile"]
    assert np.isnan(fixed.sel(level="expected")).all()
    best = equity.top(values["expected"].mean(axis=1), 0.10)
    assert best.sum() == round(0.1 * len(best))
    for level in LEVELS[1:]:
        share = values[level][best].sum(axis=0) / values[level].sum(axis=0)
        np.testing.assert_allclose(fixed.sel(level=level), share, rtol=1e-10)
    # Not chosen by what it turns out to be worth, the set holds at latent what it does at expected.
    exact = values["expected"][best].sum(axis=0) / values["expected"].sum(axis=0)
    oracles.assert_mean_zero(fixed.sel(level="latent").values - exact, "share of the fixed set")


def test_top_breaks_ties_by_position():
    mask = equity.top(np.array([1.0, 3.0, 3.0, 3.0, 0.0]), 0.4)
    assert mask.tolist() == [False, True, True, False, False]
    assert equity.top(np.ones(3), 0.1).tolist() == [True, False, False]


# ---------------------------------------------------------------- CDNOW


@pytest.fixture(scope="module")
def at_the_maximum(cdnow):
    """The whole sample at the published maximum, 200 equal draws."""
    pair = np.tile(CDNOW, (200, 1)), np.tile(SPEND, (200, 1))
    return equity.build(value(cdnow, *pair, units_per_year=52.0, horizons={"39 weeks": 39.0}))


def test_cdnow_equity(at_the_maximum):
    """equity-definitions 3.2: opening customer equity of 72,969 at week 39, parameters plugged in.

    The parameters are printed to three digits: r, α, a, b to 0.2 %, 0.01 %, 0.06 %, 0.02 %, and
    p, q, γ to 0.08 %, 0.13 %, 0.03 %, which together move equity by less than 0.5 %.
    """
    assert at_the_maximum.total("expected").mean() == pytest.approx(72_969, rel=0.005)


def test_cdnow_forecast(at_the_maximum):
    """equity-definitions 10.1: 1,657 repeat purchases are expected in the following 39 weeks."""
    orders = at_the_maximum.data["orders"].sel(level="expected", horizon="39 weeks")
    assert orders.mean() == pytest.approx(1657, rel=0.01)


def test_cdnow_bands(at_the_maximum):
    """equity-definitions 1.2: 29 % in year 1, 58 % within 3 years, 73.5 % within 5."""
    share = (at_the_maximum.data["bands"] / at_the_maximum.total("expected").mean()).mean("draw")
    # Those are means over a posterior, these at its maximum: a percentage point.
    assert np.cumsum(share.values)[:3] == pytest.approx([0.29, 0.58, 0.735], abs=0.01)


def test_cdnow_concentration(at_the_maximum):
    """Check 32: Gini .56 (0.49-0.62) expected, .83 (0.79-0.86) latent; top decile .52, .71."""
    mean = at_the_maximum.data[["gini", "top_decile"]].mean("draw")
    assert 0.49 < mean["gini"].sel(level="expected") < 0.62
    assert 0.79 < mean["gini"].sel(level="latent") < 0.86
    assert 0.46 < mean["top_decile"].sel(level="expected") < 0.57
    assert 0.64 < mean["top_decile"].sel(level="latent") < 0.76


def test_cdnow_noise_of_customers(at_the_maximum):
    """Check 17, without the parameters' share: 11,364² - 10,476² and 11,564² - 10,476², in dollars.

    A standard deviation of 200 draws is known to 5 %, the published ones of about a thousand
    draws each to 2 %, which the difference of squares turns into 15 %.
    """
    for level, printed in (("latent", 11_364), ("predictive", 11_564)):
        noise = at_the_maximum.total(level).std(ddof=1)
        assert noise == pytest.approx(np.sqrt(printed**2 - 10_476**2), rel=0.3)
