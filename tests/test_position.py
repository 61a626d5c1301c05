"""Where value sits, what is at risk, what it depends on, and what keeping customers costs."""

from __future__ import annotations

import dataclasses

import mpmath as mp
import numpy as np
import oracles
import pytest
import xarray as xr
from builders import make_assumptions, make_posterior, make_summary

from clvmodels import config as settings
from clvmodels import equity
from clvmodels.artifacts import LEVELS, Equity
from clvmodels.equity import risk, segments
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.value import Valuation

CDNOW = np.array([0.243, 4.414, 0.793, 2.426])
SPEND = np.array([6.25, 3.74, 15.44])
YEAR = 52.1775


def spread(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return (
        CDNOW * np.exp(0.1 * rng.standard_normal((count, 4))),
        SPEND * np.exp(0.05 * rng.standard_normal((count, 3))),
    )


def value(summary, draws: int = 6, **changes) -> Valuation:
    purchases, spend = spread(draws)
    posterior = make_posterior(("bg_nbd", purchases), ("gamma_gamma", spend))
    return Valuation(summary, posterior, make_assumptions(summary, **changes), seed=1)


def total(valuation: Valuation) -> np.ndarray:
    return sum(tile.sum() for tile in valuation.expected(details=False))


@pytest.fixture(scope="module")
def summary(cdnow):
    """Every tenth customer of the CDNOW sample, with their first days."""
    pick = np.arange(0, len(cdnow), 10)
    made = make_summary({name: cdnow[name][pick] for name in oracles.SUMMARY_COLUMNS})
    return dataclasses.replace(made, first_day=cdnow.first_day[pick])


@pytest.fixture(
    scope="module", params=[{}, {"cost_alive": 0.02, "cost_addressed": 0.03, "cost_window": 60.0}]
)
def surveyed(summary, request):
    """Without and with a cost of keeping customers."""
    return request.param, equity.survey(value(summary, **request.param))


# ---------------------------------------------------------------- sensitivities


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("discount_up", {"annual_discount_rate": 0.17}),
        ("discount_down", {"annual_discount_rate": 0.13}),
        ("horizon_3", {"horizon": 3 * YEAR}),
        ("horizon_10", {"horizon": 10 * YEAR}),
        ("horizon_inf", {}),
        ("margin_up", {"margin": 0.31}),
        ("margin_down", {"margin": 0.29}),
        ("spend", {"margin": 0.3 * 1.01}),
    ],
)
def test_a_change_equals_a_valuation_of_its_own(summary, surveyed, name, changes):
    cost, found = surveyed
    if "margin" in changes:
        changes = changes | {"margin": np.full(len(summary), changes["margin"])}
    np.testing.assert_allclose(found.changed[name], total(value(summary, **(cost | changes))), rtol=1e-8)


def test_changes_start_from_equity(summary, surveyed):
    cost, found = surveyed
    exact = total(value(summary, **cost))
    np.testing.assert_allclose(found.equity, exact, rtol=1e-10)
    assert found.value.sum() == pytest.approx(exact.mean(), rel=1e-10)


def residual_transactions(row, theta, delta, rate: float, dropout: float) -> float:
    """BG/NBD given alive, in mpmath: E[cλ/(chλp + δ)] = E_p[g_R(Aδ/(chp))/(hp)], g_R by an integral.

    equity-definitions 1.2: E[λ/(λ+c)] = 1 - z e^z E_R(z) for λ ~ Gamma(R, A), z = A c.
    """
    r, alpha, a, b = theta
    x, _, T = row
    R, A, B = r + x, alpha + T, b + x

    def integrand(p):
        z = A * delta / (rate * dropout * p)
        g = 1 - z * mp.exp(z) * mp.expint(R, z) if z < 1e8 else R / z * (1 - (R + 1) / z)
        return p ** (a - 1) * (1 - p) ** (B - 1) * g / (dropout * p)

    with mp.workdps(30):
        return float(mp.quad(integrand, [0, 1e-4, 1e-2, 0.2, 1]) / mp.beta(a, B))


@pytest.mark.parametrize(("name", "rate", "dropout"), [("rate", 1.01, 1.0), ("retention", 1.0, 0.99)])
def test_better_customers(name, rate, dropout):
    """Changed from the valuation date on, history unchanged, against mpmath."""
    row = np.array([2.0, 30.43, 38.86])
    one = make_summary({"frequency": row[:1], "recency": row[1:2], "T": row[2:]})
    posterior = make_posterior(("bg_nbd", CDNOW[None]), ("fixed_spend", np.ones((1, 1))))
    valuation = Valuation(one, posterior, make_assumptions(one, margin=np.ones(1)), seed=1)
    found = equity.survey(valuation)
    delta = valuation.flow.delta
    before = residual_transactions(row, CDNOW, delta, 1.0, 1.0)
    after = residual_transactions(row, CDNOW, delta, rate, dropout)
    assert found.changed[name][0] / found.equity[0] == pytest.approx(after / before, rel=1e-9)
    assert after > before


def test_better_retention_on_a_discrete_clock():
    """BG/BB: survival (1-θ)^(hs), summed term by term."""
    family = registry.get("bg_bb")
    theta = family.vector(family.typical[0])
    row = np.array([2.0, 4.0, 6.0])
    one = make_summary({"frequency": row[:1], "recency": row[1:2], "T": row[2:]})
    posterior = make_posterior(("bg_bb", theta[None]), ("fixed_spend", np.ones((1, 1))))
    valuation = Valuation(one, posterior, make_assumptions(one, margin=np.ones(1), cost_alive=0.1), seed=1)
    found = equity.survey(valuation)
    s = np.arange(1.0, 16_000.0)
    survival = np.array([family.survival(theta, row, 0.99 * k) for k in s])
    weight = np.exp(-valuation.flow.delta * s) * survival
    mean = (theta[0] + row[0]) / (theta[0] + theta[1] + row[2])
    exact = family.p_alive(theta, row) * (mean - 0.1) * weight.sum()
    assert found.changed["retention"][0] == pytest.approx(exact, rel=1e-8)
    assert found.changed["rate"][0] == pytest.approx(
        found.equity[0] + 0.01 * (found.equity[0] / (mean - 0.1) * mean), rel=1e-10
    )


def test_what_has_no_meaning_is_left_out():
    """A contract's rate is its renewal; without discounting an endless sum may diverge."""
    columns = {"frequency": np.array([3.0, 2.0]), "recency": np.array([3.0, 2.0]), "T": np.array([3.0, 4.0])}
    made = make_summary(columns)
    posterior = make_posterior(("sbg", np.array([[0.7, 3.8]])), ("fixed_spend", np.ones((1, 1))))
    found = equity.survey(
        Valuation(made, posterior, make_assumptions(made, annual_discount_rate=0.02), seed=1)
    )
    assert "rate" not in found.changed
    assert "discount_down" not in found.changed
    assert "discount_up" in found.changed
    # The second contract has ended: nobody can wake it up, and it is no part of potential equity.
    assert found.potential == pytest.approx(found.equity)
    assert found.lapse.tolist() == [0, 0]


# ---------------------------------------------------------------- at risk


def test_potential_is_the_value_of_everybody_alive(summary, surveyed):
    cost, found = surveyed
    valuation = value(summary, **cost)
    fixed = valuation.contact([valuation.flow])[0]
    # Value over P(alive), customer by customer and draw by draw.
    exact = np.zeros(6)
    for tile in valuation.expected(details=False):
        rows = valuation.rows.stats[valuation.rows.index[tile.customers]]
        alive = np.array([[valuation.purchases.p_alive(d, row) for d in valuation.draws] for row in rows])
        exact += ((tile.value + fixed) / alive - fixed).sum(axis=0)
    np.testing.assert_allclose(found.potential, exact, rtol=1e-9)
    assert (found.potential > found.equity).all()
    assert found.value.sum() + found.lapse.sum() == pytest.approx(found.potential.mean(), rel=1e-9)
    assert 0 < found.in_doubt.sum() < found.lapse.sum()


def test_attrition_takes_what_latents_say():
    """equity-definitions 4.3: alive e^(-δh) (1 - e^(-λph)) m ζ λ/(λp + δ) on latent draws."""
    row, h, m = np.array([2.0, 30.43, 38.86]), 39.0, 0.3
    one = make_summary({"frequency": row[:1], "recency": row[1:2], "T": row[2:]})
    posterior = make_posterior(("bg_nbd", CDNOW[None]), ("fixed_spend", np.full((1, 1), 30.0)))
    valuation = Valuation(one, posterior, make_assumptions(one), seed=1)
    lost = equity.survey(valuation).lost["39 weeks"][0]
    delta, rng, out = valuation.flow.delta, np.random.default_rng(2), np.zeros(4)
    drawn = []
    for _ in range(20_000):
        valuation.purchases.latent(CDNOW, row, rng, out)
        alive, lam, decay, _ = out
        gone = -np.expm1(-decay * h) * lam / (decay + delta)
        drawn.append(alive * np.exp(-delta * h) * gone * m * 30.0)
    oracles.assert_mean_zero(np.array(drawn) - lost, "attrition")


def test_tail_of_a_normal():
    draws = np.random.default_rng(1).normal(100.0, 10.0, 400_000)
    low, beyond = risk.tail(draws)
    # φ and its inverse at 5 %; sd of a quantile is √(0.05 · 0.95/n)/φ = 0.03, of the mean beyond less.
    assert low == pytest.approx(16.449, abs=4.5 * 0.034)
    assert beyond == pytest.approx(20.627, abs=4.5 * 0.05)
    # At 1 %: √(0.01 · 0.99/n)/φ(2.326) = 0.0059 of a standard deviation.
    assert risk.tail(draws, 0.01)[0] == pytest.approx(23.263, abs=4.5 * 0.06)


def budget(draws: int, acquisition: bool = False, **sd: float):
    """The budget of an equity that is a sum of independent sources with these standard deviations."""
    rng = np.random.default_rng(7)
    names = ("purchases", "spend", "latents", "noise", "later")
    part = {name: sd.get(name, 0.0) * rng.standard_normal(draws) for name in names}
    again = sd.get("latents", 0.0) * rng.standard_normal(draws)  # level predictive draws its own latents
    one = 100 + part["purchases"] + part["spend"]
    levels = np.stack([one, one + part["latents"], one + again + part["noise"]])
    data = xr.Dataset(
        {
            "total": (("level", "draw"), levels),
            "unchanged": ("picked", one),
            "by_purchases": ("picked", 100 + part["purchases"]),
            "by_spend": ("picked", 100 + part["spend"]),
        },
        coords={"level": list(LEVELS)},
    )
    return risk.variance_budget(
        Equity(data=data, customers=None), {"predictive": part["later"]} if acquisition else None
    )


def test_variance_budget_finds_its_sources():
    found = budget(4000, acquisition=True, purchases=3.0, spend=4.0, latents=2.0, noise=1.0, later=2.0)
    exact = {"purchases": 9, "spend": 16, "interplay": 0, "latents": 4, "noise": 1, "acquisition": 4}
    assert set(found) == set(exact)
    assert sum(part.share for part in found.values()) == pytest.approx(1, abs=1e-12)
    for name, variance in exact.items():
        assert 0 < found[name].error < 0.05
        assert abs(found[name].share - variance / 34) < oracles.Z * found[name].error, name


def test_monte_carlo_error_of_a_share_shrinks_with_draws():
    few, many = (budget(n, purchases=3.0, spend=4.0, latents=2.0, noise=1.0) for n in (500, 8000))
    # Sixteen times the draws, a quarter of the error; that of 20 blocks is itself known to 16 %.
    ratios = [few[name].error / many[name].error for name in few]
    assert 2.5 < np.exp(np.mean(np.log(ratios))) < 6.5


# ---------------------------------------------------------------- partitions


@pytest.fixture(scope="module")
def built(summary):
    valuation = value(summary, 30, cost_alive=0.03, cost_addressed=0.02, cost_window=100.0)
    return valuation, equity.build(valuation, survey=equity.survey(valuation))


@pytest.mark.parametrize("name", ["cohort", "decile", "p_alive"])
def test_partitions_add_up_in_every_draw(built, name):
    """Check 28, with values below zero."""
    valuation, found = built
    for level in LEVELS:
        parts = found.data[f"partition:{name}"].sel(level=level)
        np.testing.assert_allclose(parts.sum(f"in:{name}"), found.total(level), rtol=1e-11, atol=1e-8)
    assert found.data[f"members:{name}"].sum() == len(valuation.summary)


def test_levels_of_a_partition_agree(built):
    _, found = built
    parts = found.data["partition:decile"].transpose("level", "draw", ...).values
    for level in (1, 2):
        oracles.assert_mean_zero(parts[level] - parts[0], f"deciles at level {LEVELS[level]}")
    means = parts[0].mean(axis=0)
    assert (np.diff(means) < 0).all()


def test_customers_below_zero_are_counted(built):
    valuation, found = built
    for level in LEVELS:
        tiles = list(getattr(valuation, level)())
        values = np.concatenate([tile.value for tile in tiles])
        here = found.data.sel(level=level)
        np.testing.assert_array_equal(here["losing_customers"], (values < 0).sum(axis=0))
        np.testing.assert_allclose(here["losing_value"], values.clip(max=0).sum(axis=0), rtol=1e-11)
        assert (here["losing_customers"] > 0).any()


def test_customers_file_names_who_to_wake_up(built):
    _, found = built
    table = found.customers
    assert set(np.asarray(table["decile"])) == set(range(1, 11))
    best = np.asarray(table["value_mean"])[np.asarray(table["decile"]) == 1]
    assert best.min() >= np.sort(np.asarray(table["value_mean"]))[-len(best)] - 1e-9
    from clvmodels.report.position import wake_up

    listed = wake_up(found)
    doubts = [entry["in_doubt"]["value"] for entry in listed]
    assert doubts == sorted(doubts, reverse=True)
    assert doubts[0] == np.asarray(table["value_in_doubt"]).max()


def test_cohorts_are_as_fine_as_they_may_be():
    def labels(last: str) -> tuple[str, ...]:
        return segments.cohorts(np.arange("2020-01-15", last, dtype="datetime64[D]")).labels

    assert labels("2021-06-10")[::17] == ("2020-01", "2021-06")
    assert labels("2021-08-01") == (
        "2020 Q1",
        "2020 Q2",
        "2020 Q3",
        "2020 Q4",
        "2021 Q1",
        "2021 Q2",
        "2021 Q3",
    )
    assert labels("2025-01-01") == ("2020", "2021", "2022", "2023", "2024")


def test_tenths_are_of_equal_size():
    part = segments.deciles(np.random.default_rng(1).permutation(1003).astype(float))
    sizes = np.bincount(part.codes)
    assert sizes.sum() == 1003
    assert sizes.max() - sizes.min() <= 1
    few = segments.deciles(np.array([3.0, 1.0, 2.0]))
    assert sorted(np.bincount(few.codes)) == [1, 1, 1]


def test_classes_of_p_alive():
    part = segments.chances(np.array([0.0, 0.1, 0.49, 0.5, 1.0]))
    assert [part.labels[code] for code in part.codes] == [
        *("below 10 %", "10 % to 25 %", "25 % to 50 %", "50 % to 75 %", "90 % and more"),
    ]


# ---------------------------------------------------------------- cost


def test_addressing_costs_the_same_whoever_it_is(summary):
    """c (1 - e^(-δH)) / δ for every customer, in every draw, at every level."""
    free, paid = value(summary), value(summary, cost_addressed=0.05, cost_window=26.0)
    delta = free.flow.delta
    each = 0.05 * -np.expm1(-delta * 26.0) / delta
    for level in LEVELS:
        for before, after in zip(getattr(free, level)(), getattr(paid, level)(), strict=True):
            np.testing.assert_allclose(before.value - after.value, each, rtol=1e-9)


def test_contact_window_ends_at_the_horizon(summary):
    short, long = (value(summary, cost_addressed=1.0, cost_window=w, horizon=20.0) for w in (20.0, 900.0))
    np.testing.assert_allclose(total(short), total(long), rtol=1e-12)


def test_cost_for_ever_without_discounting_is_refused(summary):
    purchases = np.array([[0.243, 4.414, 1.8, 2.426]])
    posterior = make_posterior(("bg_nbd", purchases), ("fixed_spend", np.ones((1, 1))))
    assumptions = make_assumptions(summary, annual_discount_rate=0.0, cost_alive=1.0)
    with pytest.raises(InputError, match=r"value\.cost\.while_alive is paid for ever"):
        Valuation(summary, posterior, assumptions, seed=1)


def cost(**keys):
    document = {
        "data": {"source": "cdnow_sample"},
        "value": {"margin": 0.3, "annual_discount_rate": 0.15, "cost": keys},
    }
    return settings.load(document)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"while_alive": 5}, 'write "5 per year"'),
        ({"while_alive": "5 EUR"}, "amount of money per time"),
        ({"while_alive": "EUR 5 EUR per year"}, "amount of money per time"),
        ({"while_alive": "-5 per year"}, "amount of money per time"),
        ({"addressed": "5 per year"}, "go together"),
        ({"while_alive": "5 per year", "window": "2 years"}, "go together"),
        ({}, "value.cost is empty"),
        ({"addressed": "5 per year", "window": 2}, "needs its unit"),
    ],
)
def test_costs_need_units(keys, message):
    with pytest.raises(InputError, match=r"value\.cost") as raised:
        cost(**keys)
    assert message in str(raised.value)


def test_costs_are_read_in_their_units(cdnow):
    from clvmodels.run.stages import resolve_assumptions

    found = resolve_assumptions(
        cost(while_alive="52.1775 per year", addressed="USD 0.5 per week", window="2 years"), cdnow
    )
    assert found.cost_alive == pytest.approx(1.0, rel=1e-12)
    assert (found.cost_addressed, found.cost_window) == pytest.approx((0.5, 2 * YEAR), rel=1e-12)
    assert "2 years" in found.cost_source
    with pytest.raises(InputError, match="the money of the data is USD"):
        resolve_assumptions(cost(while_alive="5 GBP per month"), cdnow)
    assert resolve_assumptions(cost(while_alive="7 per day"), cdnow).cost_alive == pytest.approx(49.0)
