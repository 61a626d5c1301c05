"""Both families on CDNOW: published maxima, samplers against each other, units, order, seeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clvmodels.artifacts import Posterior, Rows, Summary
from clvmodels.config import DataConfig, FitConfig, ModelConfig
from clvmodels.data import summarise
from clvmodels.fit import fit, fit_family, gate, measure
from clvmodels.fit.graph import Target
from clvmodels.fit.maximum import likelihood
from clvmodels.fit.priors import resolve
from clvmodels.models import registry

PUBLISHED = json.loads((Path(__file__).parent / "reference" / "fit.json").read_text())
PURCHASES, SPEND = ModelConfig(family="bg_nbd"), ModelConfig(family="gamma_gamma")
FLAT = {"priors": "flat"}
SEED = 11


def cdnow(**changes) -> Summary:
    return summarise(DataConfig(source="cdnow_sample", observation_end="1997-09-30", **changes))


@pytest.fixture(scope="module")
def weeks() -> Summary:
    return cdnow()


@pytest.fixture(scope="module")
def default(weeks) -> Posterior:
    return fit(weeks, PURCHASES, SPEND, FitConfig(), SEED)


@pytest.fixture(scope="module")
def flat(weeks) -> Posterior:
    return fit(
        weeks, ModelConfig(family="bg_nbd", **FLAT), ModelConfig(family="gamma_gamma", **FLAT), FitConfig(), 1
    )


@pytest.fixture(scope="module")
def nuts(weeks) -> Posterior:
    return fit(weeks, PURCHASES, SPEND, FitConfig(sampler="nuts"), 2)


def rounded(value: float, printed: float) -> float:
    """A value to as many digits as are printed."""
    return round(value, len(str(printed).partition(".")[2]))


@pytest.mark.parametrize(
    ("role", "key"), [("purchases", "counting_your_customers"), ("spend", "rfm_and_clv")]
)
def test_maximum_is_the_published_one(flat, role, key):
    maximum, published = getattr(flat, role).maximum, PUBLISHED[key]
    for name, printed in (published["parameters"] | {"log_likelihood": published["log_likelihood"]}).items():
        assert rounded(maximum[name], printed) == printed, name


def test_maximum_leaves_priors_out(flat, default):
    # Newton's steps end below 1e-7 standard deviations, in whichever coordinates they are taken.
    for role in ("purchases", "spend"):
        found, other = getattr(flat, role), getattr(default, role)
        assert found.diagnostics["maximum_converged"] is other.diagnostics["maximum_converged"] is True
        for j, name in enumerate(found.parameters):
            assert abs(found.maximum[name] - other.maximum[name]) < 1e-6 * found.flat[:, j].std()


def test_log_likelihood_of_single_customers(flat):
    published = PUBLISHED["counting_your_customers"]
    family = registry.get("bg_nbd")
    x, t_x, T, printed = np.array(published["contributions"]["rows"]).T
    stats = {"frequency": x, "recency": t_x / 7, "T": T / 7}
    found = family.log_likelihood(flat.purchases.maximum, stats).eval()
    np.testing.assert_array_equal(np.round(found, 4), printed)


def test_log_likelihood_at_ones(weeks):
    rows = weeks.fold(("frequency", "recency", "T"))
    family = registry.get("bg_nbd")
    ones = dict.fromkeys(family.parameter_names, 1.0)
    found = rows.weight @ family.log_likelihood(ones, {name: rows[name] for name in rows.names}).eval()
    printed = PUBLISHED["counting_your_customers"]["log_likelihood_at_ones"]
    assert rounded(found, printed) == printed


def test_standard_errors_are_those_of_lifetimes(weeks):
    # Its optimiser stops up to 6.4e-5 (relative) from the maximum, and the standard errors, with
    # an elasticity below 3 in the parameters, move by less than 2e-4 along with it.
    family, scale = registry.get("bg_nbd"), measure(weeks)
    priors = resolve(family, ModelConfig(family="bg_nbd", **FLAT), scale, {})
    target = Target.of(family, weeks.fold(family.statistics), priors)
    maximum, peak = likelihood(target, target.start(scale), scale)
    for j, (name, error) in enumerate(PUBLISHED["lifetimes"]["standard_errors"].items()):
        on_log_scale = np.sqrt(np.linalg.inv(peak.precision)[j, j])
        assert maximum[name] * on_log_scale == pytest.approx(error, rel=2e-4)


@pytest.mark.parametrize("role", ["purchases", "spend"])
def test_importance_and_nuts_agree(default, nuts, role):
    # Means and squared deviations, |z| < 4: a false alarm in 1 of 1,000 seeds over 14 comparisons.
    one, other = getattr(default, role), getattr(nuts, role)
    for j, name in enumerate(one.parameters):
        columns = [part.flat[:, j] for part in (one, other)]
        centre = columns[0].mean()
        sizes = [min(part.diagnostics["ess_bulk"][name], 2000) for part in (one, other)]
        tails = [
            min(part.diagnostics["ess_tail"][name], size)
            for part, size in zip((one, other), sizes, strict=True)
        ]
        for values, ess in ((columns, sizes), ([(c - centre) ** 2 for c in columns], tails)):
            error = np.sqrt(sum(v.var() / n for v, n in zip(values, ess, strict=True)))
            assert abs(values[0].mean() - values[1].mean()) < 4 * error, name


@pytest.mark.parametrize("which", ["default", "flat", "nuts"])
def test_gate_passes(request, which):
    posterior = request.getfixturevalue(which)
    purchases, spend = posterior.pairs()
    equity = purchases[:, 0] / purchases[:, 1] * spend[:, 0]
    checks = gate(posterior, equity)
    assert all(check.passed for check in checks)
    assert {"equity: bulk ESS", "equity: tail ESS"} < {check.name for check in checks}


@pytest.mark.parametrize("which", ["default", "nuts"])
def test_same_seed_same_bits(request, weeks, which):
    posterior = request.getfixturevalue(which)
    options, seed = (FitConfig(), SEED) if which == "default" else (FitConfig(sampler="nuts"), 2)
    again = fit(weeks, PURCHASES, SPEND, options, seed)
    np.testing.assert_array_equal(posterior.purchases.draws, again.purchases.draws)
    np.testing.assert_array_equal(posterior.spend.draws, again.spend.draws)


def test_order_of_customers_is_irrelevant(weeks, default):
    order = np.random.default_rng(3).permutation(len(weeks))
    shuffled = replace(weeks, columns={name: column[order] for name, column in weeks.columns.items()})
    again = fit(shuffled, PURCHASES, SPEND, FitConfig(), SEED)
    np.testing.assert_array_equal(default.purchases.draws, again.purchases.draws)
    np.testing.assert_array_equal(default.spend.draws, again.spend.draws)


def test_units_only_rescale_the_draws(weeks, default):
    # Default priors follow the data's scale, so that the same seed proposes the same points but for
    # rounding; Newton's last step leaves 1e-7 standard deviations.
    days = cdnow(time_unit="day")
    cents = replace(days, columns={**days.columns, "monetary_value": 100 * days["monetary_value"]})
    again = fit(cents, PURCHASES, SPEND, FitConfig(), SEED)
    for role, factors in (("purchases", {"alpha": 7}), ("spend", {"gamma": 100})):
        one, other = getattr(default, role), getattr(again, role)
        factor = np.array([factors.get(name, 1) for name in one.parameters])
        np.testing.assert_allclose(other.draws, one.draws * factor, rtol=1e-5)


def test_weights_are_repeated_rows(weeks):
    family, scale = registry.get("bg_nbd"), measure(weeks)
    rows = weeks.fold(family.statistics)
    repeated = np.repeat(np.arange(len(rows.weight)), rows.weight.astype(int))
    long = Rows(
        names=rows.names,
        stats=rows.stats[repeated],
        weight=np.ones(len(repeated)),
        index=np.arange(len(repeated)),
    )
    short, full = (fit_family(family, r, PURCHASES, FitConfig(draws=200), 5, scale) for r in (rows, long))
    # Sums in another order: the maximum moves by rounding.
    assert full.maximum == pytest.approx(short.maximum, rel=1e-9)
    np.testing.assert_allclose(full.draws, short.draws, rtol=1e-6)
    assert (short.rows, short.customers, full.rows) == (len(rows.weight), len(repeated), len(repeated))


def test_families_draw_from_streams_of_their_own(weeks, default):
    family, scale = registry.get("gamma_gamma"), measure(weeks)
    rows = weeks.fold(family.statistics, weeks["frequency"] > 0)
    first, second = np.random.SeedSequence(SEED).spawn(2)
    np.testing.assert_array_equal(
        fit_family(family, rows, SPEND, FitConfig(), second, scale).draws, default.spend.draws
    )
    other = fit_family(family, rows, SPEND, FitConfig(), first, scale).draws
    assert not np.isin(other, default.spend.draws).any()


def test_map_is_the_mode_over_what_has_priors(weeks, flat):
    models = [ModelConfig(family=name, **FLAT) for name in ("bg_nbd", "gamma_gamma")]
    posterior = fit(weeks, *models, FitConfig(sampler="map"), 0)
    assert posterior.is_point
    for part in (posterior.purchases, posterior.spend):
        assert part.draws.shape == (1, 1, len(part.parameters))
        found = dict(zip(part.parameters, part.flat[0], strict=True))
        assert found == pytest.approx({name: part.maximum[name] for name in part.parameters}, rel=1e-6)
        assert part.diagnostics["ess_bulk"] == dict.fromkeys(part.parameters)
    assert [check.passed for check in gate(posterior)] == [None, None]


def test_fixed_parameters_are_not_fitted(weeks, default):
    given = {"gamma": 15.44, "p": 6.25, "q": 3.74}
    spend = ModelConfig(family="gamma_gamma", fixed=given)
    posterior = fit(weeks, PURCHASES, spend, FitConfig(), SEED)
    assert posterior.spend.flat.tolist() == [[6.25, 3.74, 15.44]]
    assert posterior.spend.sampler == "fixed"
    assert posterior.spend.maximum == {}
    np.testing.assert_array_equal(posterior.purchases.draws, default.purchases.draws)
    checks = gate(posterior, posterior.purchases.flat[:, 0])
    assert [check.passed for check in checks if "spend" in check.name] == [None]
    bulk = next(check.value for check in checks if check.name == "equity: bulk ESS")
    assert bulk == pytest.approx(default.purchases.diagnostics["ess_bulk"]["r"])


def test_posterior_survives_its_file_form(default):
    again = Posterior.from_datasets(default.to_datasets())
    np.testing.assert_array_equal(again.purchases.draws, default.purchases.draws)
    assert again.purchases.diagnostics == default.purchases.diagnostics
    assert again.spend.priors == default.spend.priors


def test_progress_names_stages_and_ends_at_one(weeks):
    heard: list[tuple[str, float | None]] = []
    fit(weeks, PURCHASES, SPEND, FitConfig(), SEED, lambda stage, share: heard.append((stage, share)))
    assert heard[0][1] == 0.0
    assert ("BG/NBD: importance sampling", 1.0) in heard
    assert heard[-1] == ("Gamma-Gamma: importance sampling", 1.0)
    assert all(0 <= share <= 1 for _, share in heard)
