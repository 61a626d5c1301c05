"""Covariates and pooled segments: terms, links, fits, values, counterfactuals."""

from __future__ import annotations

import datetime as dt
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from builders import make_assumptions, make_posterior, make_summary

from clvmodels import effects as fx
from clvmodels import equity
from clvmodels import fit as fitting
from clvmodels.artifacts import Posterior, Segment, Summary
from clvmodels.config import CovariateColumn, CovariatesConfig, FitConfig, ModelsConfig, PoolConfig
from clvmodels.data import design
from clvmodels.effects import Effects, Term
from clvmodels.equity import bridge as bridging
from clvmodels.equity.bridge import Side
from clvmodels.errors import InputError
from clvmodels.fit.graph import Target
from clvmodels.fit.links import Design, LinkedTarget
from clvmodels.fit.priors import measure, resolve
from clvmodels.models import links, registry
from clvmodels.value import Flow, Natives, Valuation, horizons, valuation

BG, GG = registry.purchases("bg_nbd"), registry.spend("gamma_gamma")
THETA = {"r": 0.8, "alpha": 8.0, "a": 0.8, "b": 2.4}
SPEND = {"p": 6.25, "q": 3.74, "gamma": 15.44}
AGE, FRIEND_RATE, FRIEND_DROPOUT, AGE_SPEND = 0.4, 0.5, -0.5, 0.3


def with_features(columns, features) -> Summary:
    made = make_summary(columns, features)
    return replace(made, segments={}, features=dict(made.segments))


def played(rng, T, shifts) -> dict[str, np.ndarray]:
    """Customers of the published story, each with parameters of its own."""
    n = len(T)
    theta = links.native(BG, {name: np.full(n, v) for name, v in THETA.items()}, shifts)
    columns = BG.simulate(theta, T, rng).statistics(T)
    own = links.native(GG, {name: np.full(n, v) for name, v in SPEND.items()}, shifts)
    own = own | {"p": SPEND["p"], "q": SPEND["q"]}
    columns["monetary_value"] = GG.simulate(own, columns["frequency"], rng).monetary_value
    return columns


@pytest.fixture(scope="module")
def people() -> Summary:
    """2,000 customers of five ages and three channels."""
    rng, n = np.random.default_rng(5), 2000
    age = rng.choice([20, 30, 40, 50, 60], n)
    channel = rng.choice(["ads", "friend", "search"], n, p=[0.5, 0.3, 0.2])
    z = (age - age.mean()) / age.std()
    friend = channel == "friend"
    shifts = {
        "purchase": AGE * z + FRIEND_RATE * friend,
        "dropout": FRIEND_DROPOUT * friend,
        "spend": AGE_SPEND * z,
    }
    columns = played(rng, rng.choice([30.0, 45.0, 60.0], n), shifts)
    return with_features(columns, {"age": age.astype(str), "channel": channel})


MODELS = ModelsConfig(
    covariates=CovariatesConfig(purchase=("age", "channel"), dropout=("channel",), spend=("age",))
)


@pytest.fixture(scope="module")
def terms(people) -> tuple[Term, ...]:
    return design.terms(MODELS, people)


def fitted(summary, terms, sampler="importance", draws=1000, seed=3) -> Posterior:
    options = FitConfig(sampler=sampler, draws=draws)
    return fitting.fit(summary, MODELS.purchases, MODELS.spend, options, seed, terms=terms)


@pytest.fixture(scope="module")
def posterior(people, terms) -> Posterior:
    return fitted(people, terms)


# ---------------------------------------------------------------- terms


def test_numbers_are_standardised_and_the_scaling_is_stored(people, terms):
    term = next(t for t in terms if t.driver == "purchase" and t.by == ("age",))
    age = fx.numbers(*fx.values(people, "age"))
    assert (term.centre, term.scale) == (age.mean(), age.std())
    found = fx.patterns([term], people)
    np.testing.assert_allclose(found.keys[found.index, 0], (age - age.mean()) / age.std(), rtol=1e-15)


def test_rounded_numbers_fold(people, terms):
    term = next(t for t in terms if t.driver == "purchase" and t.by == ("age",))
    rng = np.random.default_rng(1)
    ages = tuple(f"{age:.6f}" for age in 40 + 14 * rng.standard_normal(len(people)))
    fine = replace(people, features={"age": Segment(codes=np.arange(len(people)), labels=ages)})
    exact, rounded = (fx.patterns([replace(term, step=step)], fine) for step in (0.0, 0.1))
    assert len(exact) > 1900
    assert len(rounded) < 90
    away = rounded.keys[rounded.index] - exact.keys[exact.index]
    assert np.abs(away).max() <= 0.05 + 1e-12


def test_levels_are_compared_with_the_most_frequent(terms):
    term = next(t for t in terms if t.driver == "dropout")
    assert term.names == ("dropout: channel = friend", "dropout: channel = search")
    assert term.contrasts().tolist() == [[0, 0], [1, 0], [0, 1]]
    assert replace(term, coding="sum").contrasts().sum(axis=0).tolist() == [0, 0]


def test_a_walk_is_centred_and_moves_by_its_steps():
    term = Term(driver="purchase", by=("first_month",), kind="walk", labels=tuple("abcd"), prior_scale=0.5)
    steps = np.array([9.0, 0.3, -0.2, 0.5])  # the first is no step
    u = term.root() @ steps
    np.testing.assert_allclose(np.diff(u), steps[1:], rtol=1e-12)
    assert abs(u.sum()) < 1e-12


def test_a_turned_walk_is_the_same_walk_seen_step_by_step():
    """The steps' law is that of before, and what many customers tell of them is told one by one."""
    from clvmodels.fit.links import turned

    term = Term(driver="purchase", by=("first_month",), kind="walk", labels=tuple("abcdef"), prior_scale=0.5)
    customers = np.array([900.0, 3.0, 40.0, 0.0, 210.0, 77.0])
    root, found = term.root(), turned(term, customers)
    np.testing.assert_allclose(found @ found.T, root @ root.T, atol=1e-12)
    assert np.abs(found.sum(axis=0)).max() < 1e-12  # still centred
    told = found.T @ (customers[:, None] * found)
    off = told - np.diag(np.diag(told))
    assert np.abs(off).max() < 1e-12 * np.abs(told).max()
    assert np.abs(root.T @ (customers[:, None] * root) - told).max() > 0.1 * np.abs(told).max()


def test_order_of_columns_customers_and_levels_is_irrelevant(people, terms):
    turned = MODELS.covariates.model_copy(update={"purchase": ("channel", "age")})
    assert design.terms(MODELS.model_copy(update={"covariates": turned}), people) == terms
    backwards = people.take(np.arange(len(people))[::-1])
    other = {
        name: Segment(codes=len(s.labels) - 1 - s.codes, labels=s.labels[::-1])
        for name, s in backwards.features.items()
    }
    again = design.terms(MODELS, replace(backwards, features=other))
    for one, two in zip(terms, again, strict=True):
        assert replace(two, centre=one.centre, scale=one.scale) == one
        assert (two.centre, two.scale) == pytest.approx((one.centre, one.scale), rel=1e-14)


def of(name, values, n=40, **how):
    """Terms of one column on purchases."""
    columns = {"frequency": np.ones(n), "recency": np.ones(n), "T": np.full(n, 2.0)}
    summary = with_features(columns, {name: np.resize(np.array(values, dtype=object), n).astype(str)})
    covariates = CovariatesConfig(purchase=(name,), columns={name: CovariateColumn(**how)} if how else {})
    return design.terms(ModelsConfig(covariates=covariates), summary)


def test_missing_values_are_refused_or_flagged():
    with pytest.raises(
        InputError, match=r"column 'age' is empty .* of 20 of 40 customers.*missing to impute"
    ):
        of("age", ["31", ""])
    (term,) = of("age", ["31", "", "33", "NA"], missing="impute")
    assert (term.centre, term.scale, term.flagged) == (32.0, 1.0, True)
    assert term.entries(np.array([1.0, np.nan])).tolist() == [[1, 0], [0, 1]]
    (term,) = of("channel", ["ads", "", "search"], missing="impute")
    assert fx.MISSING in term.labels


@pytest.mark.parametrize(
    ("values", "how", "says"),
    [
        (["7"], {}, "is the same for all customers"),
        (["ads"], {}, "is 'ads' for all customers"),
        ([f"id{i}" for i in range(60)], {}, "60 levels among 60 customers, nearly an id"),
        (["1", "old"], {"kind": "numeric"}, "'old' is not a number"),
        (["1", "0"], {"log": True}, "20 of 40 values are not above 0"),
        (["ads", "search"], {"reference": "add"}, "no level 'add', its reference; did you mean 'ads'"),
        (["", ""], {}, "is empty for all 40 customers"),
    ],
)
def test_columns_that_cannot_be_covariates(values, how, says):
    with pytest.raises(InputError, match=says):
        of("age", values, n=max(40, len(values)), **how)


def test_columns_that_say_the_same_are_refused(people):
    twice = replace(people, features={**people.features, "years": people.features["age"]})
    models = ModelsConfig(covariates=CovariatesConfig(purchase=("age", "years")))
    with pytest.raises(InputError, match="'age' and 'years' say the same thing"):
        design.terms(models, twice)
    with pytest.raises(InputError, match="'channel' acts on purchase twice"):
        design.terms(
            ModelsConfig(
                covariates=CovariatesConfig(purchase=("channel",)),
                pool=(PoolConfig(by="channel", on="purchase"),),
            ),
            people,
        )
    with pytest.raises(InputError, match="no column 'chanel'; did you mean 'channel'"):
        design.terms(ModelsConfig(covariates=CovariatesConfig(purchase=("chanel",))), people)


def test_late_measurements_warn():
    with pytest.warns(UserWarning, match="after the outcome window ended on 1997-09-30"):
        of("age", ["1", "2"], measured="1997-12-31")
    with pytest.warns(UserWarning, match="after the first purchase of 40 of 40"):
        of("age", ["1", "2"], measured="1997-06-30")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of("age", ["1", "2"], measured="1996-12-31")


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (
            {"purchases": {"family": "nbd"}, "covariates": {"dropout": ["age"]}},
            "effects on dropout are asked for, of which nbd knows nothing",
        ),
        (
            {"purchases": {"family": "bg_bb"}, "covariates": {"purchase": ["age"]}},
            "one set of parameters for all customers; bg_cnbd_k, bg_nbd",
        ),
        ({"spend": {"family": "gamma_gamma", "fixed": SPEND}, "covariates": {"spend": ["age"]}}, "given"),
        (
            {"purchases": {"family": "bg_nbd", "priors": "flat"}, "covariates": {"purchase": ["age"]}},
            "stand on",
        ),
    ],
)
def test_models_that_cannot_carry_effects(models, says):
    with pytest.raises(InputError, match=says):
        fitting.check_effects(ModelsConfig(**models))


def test_unseen_levels(people, terms, posterior):
    other = replace(people.features["channel"], labels=("ads", "friend", "fair"))
    strange = replace(people, features={**people.features, "channel": other})
    with pytest.raises(InputError, match="'channel' has 'fair', which the model was fitted without"):
        Natives.of(posterior.purchases, strange)


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(
    "family", [f for f in registry.families() if links.driven(f)], ids=lambda family: family.name
)
def test_shifts_move_one_coordinate_and_hold_the_others(family):
    for theta in family.typical:
        theta = {name: np.array([float(theta[name])]) for name in family.parameter_names}
        before = family.to_coordinates(theta)
        same = links.native(family, theta, {driver: np.zeros(1) for driver in links.driven(family)})
        for name in family.parameter_names:
            np.testing.assert_allclose(same[name], theta[name], rtol=1e-13)
        for driver, coordinate in links.driven(family).items():
            after = family.to_coordinates(links.native(family, theta, {driver: np.array([0.3])}))
            for name, value in before.items():
                if name != coordinate.name:
                    np.testing.assert_allclose(after[name], value, rtol=1e-12, err_msg=name)
            old, new = before[coordinate.name], after[coordinate.name]
            odds = (lambda v: v / (1 - v)) if coordinate.domain == "unit" else (lambda v: v)
            np.testing.assert_allclose(odds(new) / odds(old), np.exp(0.3), rtol=1e-12)


@pytest.mark.parametrize(
    "family",
    [f for f in registry.families() if links.driven(f) and f.per_row],
    ids=lambda family: family.name,
)
def test_families_take_a_parameter_of_each_row(family):
    """The likelihood of rows with their own parameters is that of each row with its own."""
    point = {name: float(value) for name, value in family.typical[0].items()}
    rng = np.random.default_rng(3)
    if family.role == "spend":
        stats = family.simulate(point, np.repeat([1, 2, 5], 4), rng).statistics(family.extra_statistics)
    else:
        ages = np.repeat([6.0, 12.0, 25.0], 4)
        stats = family.simulate(point, ages, rng).statistics(ages, family.extra_statistics)
    stats = {name: np.asarray(stats[name], float) for name in family.statistics}
    shift = np.tile([0.0, 0.2, -0.4, 0.7], 3)
    rows = links.native(family, point, dict.fromkeys(links.driven(family), shift))
    found = family.log_likelihood(rows, stats).eval(mode="FAST_COMPILE")
    for j in (1, 2, 7):
        own = {name: np.broadcast_to(value, 12)[j] for name, value in rows.items()}
        one = family.log_likelihood(own, {name: value[j : j + 1] for name, value in stats.items()})
        np.testing.assert_allclose(one.eval(mode="FAST_COMPILE"), found[j : j + 1], rtol=1e-9)


@pytest.mark.parametrize(
    "family", [f for f in registry.families() if f.transfer], ids=lambda family: family.name
)
def test_transferred_latents_are_those_of_the_other_population(family):
    """Kolmogorov-Smirnov distance of 4,000 against 4,000 draws: above 1.95 √(2/n) in 1 of 1,000 seeds."""
    from scipy.stats import ks_2samp

    rng, n = np.random.default_rng(9), 4000
    point = {name: np.full(1, float(value)) for name, value in family.typical[0].items()}
    other = links.native(family, point, {driver: np.full(1, 0.4) for driver in links.driven(family)})
    stats = np.zeros(len(family.statistics if family.role == "spend" else family.state))

    def drawn(theta) -> np.ndarray:
        vector = np.array([float(theta[name][0]) for name in family.parameter_names])
        out = np.zeros((n, len(family.latents)))
        for row in out:
            family.latent(vector, stats, rng, row)
        return out

    moved = family.transfer(point, other, drawn(point)[:, None])[:, 0]
    direct = drawn(other)
    for j, name in enumerate(family.latents):
        if name not in ("alive", "phase") and np.ptp(direct[:, j]) > 0:
            assert ks_2samp(moved[:, j], direct[:, j]).statistic < 1.95 * np.sqrt(2 / n), name


# ---------------------------------------------------------------- fits


def linked(family, summary, terms, where=None) -> LinkedTarget:
    mine = [t for t in terms if (t.driver == "spend") == (family.role == "spend")]
    found = Design.of(mine, summary)
    model = MODELS.spend if family.role == "spend" else MODELS.purchases
    priors = resolve(family, model, measure(summary), {})
    return LinkedTarget.of(family, found.fold(summary, family.statistics, where), priors, found)


@pytest.mark.parametrize("family", [BG, GG], ids=lambda family: family.name)
def test_effects_of_zero_leave_the_model_as_it_is(family, people, terms):
    where = people.spenders if family.role == "spend" else None
    with_terms = linked(family, people, terms, where)
    plain = Target.of(family, people.fold(family.statistics, where), with_terms.priors)
    point = plain.start(measure(people))
    zeros = np.zeros(len(with_terms.start(measure(people))) - len(point))
    # Sums over other folds of the same rows: rounding of some 2,000 terms.
    likelihoods = [
        target(np.r_[point, zeros] if target is with_terms else point, 0.0, 0.0)
        for target in (with_terms, plain)
    ]
    assert likelihoods[0][0] == pytest.approx(likelihoods[1][0], rel=1e-12)
    np.testing.assert_allclose(likelihoods[0][1][: len(point)], likelihoods[1][1], rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(likelihoods[0][2][: len(point)], likelihoods[1][2], rtol=1e-13)


@pytest.mark.parametrize("family", [BG, GG], ids=lambda family: family.name)
def test_likelihood_is_that_of_each_pattern(family, people, terms):
    """Against the family's own likelihood, pattern by pattern, at native parameters worked out by hand."""
    where = people.spenders if family.role == "spend" else np.ones(len(people), bool)
    target = linked(family, people, terms, where)
    rng = np.random.default_rng(1)
    point = target.start(measure(people)) + 0.3 * rng.standard_normal(len(target.start(measure(people))))
    value, gradient, quantities = target(point, 0.0, 0.0)
    count = len(family.parameter_names)
    centre, beta = quantities[:count], quantities[count:]
    z = (fx.numbers(*fx.values(people, "age")) - terms[0].centre) / terms[0].scale
    channel = np.array(people.features["channel"].labels)[people.features["channel"].codes]
    if family is BG:
        rate = beta[0] * z + beta[1] * (channel == "friend") + beta[2] * (channel == "search")
        r, alpha, a, b = centre
        odds = a / b * np.exp(beta[3] * (channel == "friend") + beta[4] * (channel == "search"))
        phi = odds / (1 + odds)
        theta = {"r": r, "alpha": alpha * np.exp(-rate), "a": phi * (a + b), "b": (1 - phi) * (a + b)}
    else:
        p, q, gamma = centre
        theta = {"p": p, "q": q, "gamma": gamma * np.exp(beta[0] * z)}
    theta = {name: np.broadcast_to(v, len(people))[where] for name, v in theta.items()}
    stats = {name: people[name][where] for name in family.statistics}
    direct = family.log_likelihood(theta, stats).eval(mode="FAST_COMPILE").sum()
    assert value == pytest.approx(direct, rel=1e-12)
    step = 1e-5
    for j in range(len(point)):
        up, down = (target(point + s * np.eye(len(point))[j], 0.0, 0.0)[0] for s in (step, -step))
        assert (up - down) / (2 * step) == pytest.approx(gradient[j], rel=1e-5, abs=1e-2)


def test_simulated_truth_is_recovered(posterior):
    """Each effect within 4 posterior standard deviations: one false alarm in 2,500 seeds."""
    truth = {
        "purchase: age": AGE,
        "purchase: channel = friend": FRIEND_RATE,
        "purchase: channel = search": 0.0,
        "dropout: channel = friend": FRIEND_DROPOUT,
        "dropout: channel = search": 0.0,
        "spend: age": AGE_SPEND,
    }
    found = {}
    for part in (posterior.purchases, posterior.spend):
        found |= dict(zip(part.effects.names, part.effects.flat.T, strict=True))
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        assert abs(found[name].mean() - value) < 4 * found[name].std(), name
    assert found["purchase: age"].std() < 0.1
    assert all(check.passed for check in fitting.gate(posterior))


def test_rescaling_a_covariate_rescales_its_coefficient_alone(people, terms, posterior):
    """Months instead of years: the same standardised column, to rounding, so the same draws."""
    ages = people.features["age"]
    months = replace(ages, labels=tuple(str(12 * int(age)) for age in ages.labels))
    scaled = replace(people, features={**people.features, "age": months})
    again = design.terms(MODELS, scaled)
    for one, other in zip(terms, again, strict=True):
        if one.kind == "numeric":
            assert (other.centre, other.scale) == pytest.approx((12 * one.centre, 12 * one.scale), rel=1e-13)
        else:
            assert other == one
    same = fitted(scaled, again)
    for one, other in ((posterior.purchases, same.purchases), (posterior.spend, same.spend)):
        np.testing.assert_allclose(other.draws, one.draws, rtol=1e-6)
        np.testing.assert_allclose(other.effects.draws, one.effects.draws, rtol=1e-5, atol=1e-7)


def test_posterior_survives_its_file_form(posterior, people, tmp_path):
    again = Posterior.from_datasets(posterior.to_datasets())
    assert again.purchases.effects.terms == posterior.purchases.effects.terms
    np.testing.assert_array_equal(again.spend.effects.draws, posterior.spend.effects.draws)
    people.save(tmp_path / "summary.parquet")
    read = Summary.load(tmp_path / "summary.parquet")
    assert read.features["channel"].labels == people.features["channel"].labels
    with pytest.raises(ValueError, match="customers differ"):
        posterior.pairs()


# ---------------------------------------------------------------- values


def test_values_are_those_of_each_pattern(people, posterior):
    """A customer with native draws worked out by hand, as if everyone had them."""
    few = people.take(np.arange(60))
    found = valuation(few, posterior, make_assumptions(few), seed=1)
    values = np.empty((len(few), len(posterior)))
    for tile in found.expected():
        values[tile.customers] = tile.value
    term = posterior.purchases.effects.terms[0]
    (age_rate, friend, search, friend_out, search_out) = posterior.purchases.effects.flat.T
    age_spend = posterior.spend.effects.flat[:, 0]
    r, alpha, a, b = posterior.purchases.flat.T
    p, q, gamma = posterior.spend.flat.T
    ages = fx.numbers(*fx.values(few, "age"))
    for i in range(0, 60, 7):
        z, label = (ages[i] - term.centre) / term.scale, few.features["channel"]
        label = label.labels[label.codes[i]]
        rate = age_rate * z + friend * (label == "friend") + search * (label == "search")
        odds = a / b * np.exp(friend_out * (label == "friend") + search_out * (label == "search"))
        phi, kappa = odds / (1 + odds), a + b
        own = make_posterior(
            ("bg_nbd", np.column_stack([r, alpha * np.exp(-rate), phi * kappa, (1 - phi) * kappa])),
            ("gamma_gamma", np.column_stack([p, q, gamma * np.exp(age_spend * z)])),
        )
        one = few.take(np.array([i]))
        (tile,) = Valuation(one, own, make_assumptions(one), seed=1).expected()
        np.testing.assert_allclose(values[i], tile.value[0], rtol=1e-9)


def test_levels_agree_and_threads_change_nothing(people, posterior):
    few = people.take(np.arange(300))
    thin = replace(
        posterior,
        purchases=replace(
            posterior.purchases,
            draws=posterior.purchases.draws[:, :200],
            effects=replace(posterior.purchases.effects, draws=posterior.purchases.effects.draws[:, :200]),
        ),
        spend=replace(
            posterior.spend,
            draws=posterior.spend.draws[:, :200],
            effects=replace(posterior.spend.effects, draws=posterior.spend.effects.draws[:, :200]),
        ),
    )
    one, two = (equity.build(valuation(few, thin, make_assumptions(few), 4, threads)) for threads in (1, 3))
    np.testing.assert_array_equal(one.data["total"].values, two.data["total"].values)
    totals = [one.total(level) for level in ("expected", "latent", "predictive")]
    for level in totals[1:]:  # the difference of the levels has mean 0 in every draw
        gap = level - totals[0]
        assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))


def test_effects_of_zero_give_the_values_without_effects(people):
    few = people.take(np.arange(200))
    plain = make_posterior(("bg_nbd", list(THETA.values())), ("gamma_gamma", list(SPEND.values())))
    term = Term(driver="purchase", by=("age",), kind="numeric", prior_scale=0.7, centre=40.0, scale=10.0)
    none = Effects(terms=(term,), draws=np.zeros((1, 1, 1)))
    linked = replace(plain, purchases=replace(plain.purchases, effects=none))
    totals = [
        equity.build(valuation(few, p, make_assumptions(few), 1)).total("point") for p in (plain, linked)
    ]
    assert totals[1] == pytest.approx(totals[0], rel=1e-10)


# ---------------------------------------------------------------- pooling

SIZES = {"A": 900, "B": 400, "C": 150, "D": 40, "E": 3}


@pytest.fixture(scope="module")
def unbalanced() -> Summary:
    """Five segments, from 900 customers down to three."""
    rng = np.random.default_rng(8)
    segment = np.repeat(list(SIZES), list(SIZES.values()))
    u = {"A": 0.1, "B": -0.3, "C": 0.4, "D": 0.5, "E": -0.2}
    shift = np.array([u[name] for name in segment])
    T = rng.choice([30.0, 60.0], len(segment))
    columns = played(rng, T, {"purchase": shift, "spend": shift})
    return with_features(columns, {"segment": segment})


def pooled(summary, sd=None, scale=0.5, on="spend", **more) -> tuple[Term, ...]:
    return design.terms(
        ModelsConfig(pool=(PoolConfig(by="segment", on=on, sd=sd, scale=scale, **more),)), summary
    )


def test_pooling_between_its_limits(unbalanced):
    """Given sd: 0 is the model without segments, a large one that of a coefficient for each segment."""
    where, scale = unbalanced.spenders, measure(unbalanced)
    complete = linked(GG, unbalanced, pooled(unbalanced, sd=0.0), where)
    point = complete.start(scale)
    point[-5:] = 1.7  # u = 0 · z
    plain = Target.of(GG, unbalanced.fold(GG.statistics, where), complete.priors)
    assert complete(point, 0.0, 0.0)[0] == pytest.approx(plain(point[:-5], 0.0, 0.0)[0], rel=1e-12)
    assert (complete(point)[2][-5:] == 0).all()

    from clvmodels.fit.maximum import climb

    none = linked(GG, unbalanced, pooled(unbalanced, sd=30.0), where)
    best = climb(lambda at: none(at)[:2], none.start(scale))
    u = none(best.point)[2][3:]
    covariate = ModelsConfig(
        covariates=CovariatesConfig(
            spend=("segment",), columns={"segment": CovariateColumn(reference="A")}, scale=30.0
        )
    )
    alone = linked(GG, unbalanced, design.terms(covariate, unbalanced), where)
    other = climb(lambda at: alone(at)[:2], alone.start(scale))
    # Both priors pull by about (error of the estimate / 30)² of the estimate: 1e-4 for three customers.
    np.testing.assert_allclose(u[1:] - u[0], alone(other.point)[2][3:], atol=2e-3)


@pytest.fixture(scope="module")
def partially(unbalanced) -> Posterior:
    """Spend pooled by NUTS, purchases without effects."""
    options = FitConfig(sampler="nuts", draws=2000, tune=400)
    terms = pooled(unbalanced)
    return fitting.fit(unbalanced, MODELS.purchases, MODELS.spend, options, 2, terms=terms)


@pytest.fixture(scope="module")
def sparse(unbalanced) -> tuple[Summary, tuple[Term, ...]]:
    """300 customers, their spend driven by the first of three numbers, under a horseshoe."""
    some = np.flatnonzero(unbalanced.spenders)[:300]
    few, rng = unbalanced.take(some), np.random.default_rng(6)
    columns = {name: rng.choice([0, 1, 2], len(few)) for name in ("x", "y", "z")}
    paid = few["monetary_value"] * np.exp(0.4 * columns["x"])
    people = replace(
        few,
        columns={**few.columns, "monetary_value": paid},
        features={name: Segment(codes=codes, labels=("0", "1", "2")) for name, codes in columns.items()},
    )
    covariates = CovariatesConfig(spend=("x", "y", "z"), prior="horseshoe")
    return people, design.terms(ModelsConfig(covariates=covariates), people)


@pytest.mark.parametrize("way", ["pooled", "horseshoe"])
def test_untied_points_have_the_same_density(unbalanced, sparse, way):
    """The density of y = (z - m) e^ρ is that of z times |dz/dy|, its gradient that of differences."""
    from clvmodels.fit.links import Untied
    from clvmodels.fit.maximum import climb

    people, terms = (unbalanced, pooled(unbalanced)) if way == "pooled" else sparse
    target = linked(GG, people, terms, people.spenders)
    mode = climb(lambda at: target(at)[:2], target.start(measure(people)))
    untied = Untied.of(target, mode)
    z, s = mode.point[untied.level], np.exp(untied.log_scale(mode.point)[0])
    np.testing.assert_allclose(
        s * z, target(mode.point)[2][3 : 3 + len(z)], rtol=1e-9
    )  # u, as the model has it
    peak = untied.peak(mode)
    if way == "pooled":
        assert untied.share[0] > 0.9 > 0.7 > untied.share[4]  # 900 customers, and three
    else:  # at the mode z is its own conditional mean, so that y is 0, with curvature 1
        np.testing.assert_allclose(peak.point[untied.level], 0.0, atol=1e-9)
        np.testing.assert_allclose(np.diag(peak.precision)[untied.level], 1.0, rtol=1e-9)
    np.testing.assert_allclose(untied.inner(peak.point), mode.point, rtol=1e-12, atol=1e-12)
    assert untied(peak.point)[0] + untied.moments(peak.point)[1].sum() == pytest.approx(mode.value)
    point = peak.point + 0.1
    _, gradient, quantities = untied(point)
    np.testing.assert_array_equal(quantities, target(untied.inner(point))[2])
    for j, step in enumerate(1e-5 * np.eye(len(point))):
        slope = (untied(point + step)[0] - untied(point - step)[0]) / 2e-5
        assert slope == pytest.approx(gradient[j], rel=1e-5, abs=1e-3)


def test_a_horseshoe_believes_few_effects(sparse, monkeypatch):
    """By NUTS without a divergence: two numbers that mean nothing are drawn to 0, one that does is kept."""
    from clvmodels.fit import links as linking

    monkeypatch.setattr(linking, "PILOT", 400)
    people, terms = sparse
    part = linking.fit_linked(
        GG, people, people.spenders, terms, MODELS.spend,
        FitConfig(sampler="nuts", draws=400, tune=200, chains=2), np.random.SeedSequence(1), measure(people),
        lambda name: lambda share: None,
    )  # fmt: skip
    assert part.diagnostics["divergences"] == 0
    assert max(part.diagnostics["r_hat"].values()) < 1.05  # of chains of 200 draws
    beta = part.effects.flat[:, :3]
    mean, sd = beta.mean(axis=0), beta.std(axis=0)
    assert abs(mean[0] - 0.4 * terms[0].scale) < 4 * sd[0]
    assert (abs(mean[1:]) < 3 * sd[1:]).all()
    assert (sd[1:] < sd[0]).all()  # narrower than what the data alone leave


def test_a_small_segment_borrows_strength(unbalanced, partially):
    where, scale = unbalanced.spenders, measure(unbalanced)
    from clvmodels.fit.maximum import climb

    none = linked(GG, unbalanced, pooled(unbalanced, sd=30.0), where)
    alone = none(climb(lambda at: none(at)[:2], none.start(scale)).point)[2][3:]
    effects = partially.spend.effects
    u, sd = effects.flat[:, :5], effects.sd(effects.terms[0])
    assert effects.names[-1] == "spend: sd of segment"
    assert all(check.passed for check in fitting.gate(partially) if check.name.startswith("spend"))
    centre = alone[:4].mean()
    assert abs(u[:, 4].mean()) < abs(alone[4] - centre), "three customers are believed entirely"
    assert u[:, 4].std() > 3 * (u[:, 1] - u[:, 0]).std()
    assert 0.02 < sd.mean() < 1.0


def test_pooled_levels_are_compared_with_the_average_customer(unbalanced, partially):
    rows = equity.effects(unbalanced, partially, make_assumptions(unbalanced))
    assert [row.label for row in rows] == list(SIZES)  # by customers
    u = partially.spend.effects.flat[:, :5]
    average = u @ np.array(list(SIZES.values())) / len(unbalanced)
    for row, own in zip(rows, u.T, strict=True):
        np.testing.assert_allclose(row.multipliers["spend"], np.exp(own - average), rtol=1e-12)
        np.testing.assert_allclose(row.value, np.exp(own - average), rtol=1e-12)  # spend alone differs
        assert row.customers == SIZES[row.label]
    where = unbalanced.spenders & (unbalanced.features["segment"].codes == 1)
    paid = unbalanced["frequency"] * np.nan_to_num(unbalanced["monetary_value"])
    ratio = [paid[w].sum() / unbalanced["frequency"][w].sum() for w in (where, unbalanced.spenders)]
    assert rows[1].observed["spend"] == pytest.approx(ratio[0] / ratio[1], rel=1e-12)


def test_new_segments_get_the_hierarchy(unbalanced, partially):
    strange = replace(
        unbalanced.take(np.arange(3)),
        features={"segment": Segment(codes=np.array([0, 1, 1]), labels=("A", "F"))},
    )
    effects = partially.spend.effects
    found = fx.patterns(effects.terms, strange)
    shifts = [effects.shift(found, pattern)["spend"] for pattern in found.index]
    np.testing.assert_array_equal(shifts[0], effects.flat[:, 0])
    np.testing.assert_array_equal(shifts[1], shifts[2])
    scaled = shifts[1] / effects.sd(effects.terms[0])
    n = len(scaled)  # a standard normal: mean and variance within 4 standard errors
    assert abs(scaled.mean()) < 4 / np.sqrt(n)
    assert abs(scaled.var() - 1) < 4 * np.sqrt(2 / n)


def test_combinations_and_cohorts(unbalanced):
    half = np.resize(["x", "y"], len(unbalanced))
    both = replace(
        unbalanced,
        features={
            **unbalanced.features,
            "half": Segment(codes=np.resize([0, 1], len(half)), labels=("x", "y")),
        },
        first_day=np.datetime64("1997-01-01") + np.resize([0, 40, 100], len(half)).astype("timedelta64[D]"),
    )
    pool = (PoolConfig(by="segment"), PoolConfig(by=("segment", "half")))
    found = design.terms(ModelsConfig(pool=pool), both)
    assert [t.column for t in found if t.driver == "dropout"] == ["segment", "segment / half"]
    assert found[1].labels[:3] == ("A / x", "A / y", "B / x")
    walk = PoolConfig(by="first_month", on="purchase", structure="random_walk")
    (term,) = design.terms(ModelsConfig(pool=(walk,)), both)
    assert term.labels == ("1997-01", "1997-02", "1997-03", "1997-04")
    draws = np.c_[np.zeros((500, 3)), np.full(500, 0.3), np.full(500, 0.2)][None]
    effects = Effects(terms=(term,), draws=draws)
    later = replace(
        both.take(np.arange(2)), first_day=np.array(["1997-04-05", "1997-08-01"], "datetime64[D]")
    )
    patterns = fx.patterns((term,), later)
    known, new = (effects.shift(patterns, p)["purchase"] for p in patterns.index)
    assert (known == 0.3).all()
    # Four months on: 0.3 and four steps of 0.2, within 4 standard errors of 500 draws.
    assert abs(new.mean() - 0.3) < 4 * 0.4 / np.sqrt(500)
    assert abs(new.std() / 0.4 - 1) < 4 / np.sqrt(1000)
    ids = Segment(codes=np.arange(len(half)), labels=tuple(f"{i:05}" for i in range(len(half))))
    with pytest.raises(InputError, match="nearly an id"):
        pooled(replace(unbalanced, features={"segment": ids}))


def test_a_drift_of_cohorts_is_seen_and_goes_on():
    """Baskets that fall by a tenth a month: the last lie below the first, and a later month near the last."""
    from clvmodels.fit.links import fit_linked

    rng, n = np.random.default_rng(7), 600
    month = np.resize(np.arange(4), n)
    columns = played(rng, np.full(n, 40.0), {"spend": -0.1 * month})
    first = np.datetime64("1997-01-15") + (31 * month).astype("timedelta64[D]")
    people = replace(make_summary(columns), first_day=first.astype("datetime64[D]"))
    walk = PoolConfig(by="first_month", on="spend", structure="random_walk", sd=0.15)
    terms = design.terms(ModelsConfig(pool=(walk,)), people)
    found = fit_linked(
        GG, people, people.spenders, terms, MODELS.spend, FitConfig(sampler="importance", draws=500),
        np.random.SeedSequence(3), measure(people), lambda name: lambda share: None,
    )  # fmt: skip
    u = found.effects.flat
    fall = u[:, 3] - u[:, 0]
    assert abs(fall.mean() + 0.3) < 4 * fall.std()
    assert (fall < 0).mean() > 0.95
    later = replace(people.take(np.arange(1)), first_day=np.array(["1997-06-15"], "datetime64[D]"))
    ahead = found.effects.shift(fx.patterns(terms, later), 0)["spend"] - u[:, 3]
    assert abs(ahead.mean()) < 4 * 0.15 * np.sqrt(2 / len(u))  # two months on: two steps
    assert abs(ahead.std() / (0.15 * np.sqrt(2)) - 1) < 4 / np.sqrt(2 * len(u))


# ---------------------------------------------------------------- horizons


def test_totals_ahead_are_sums_over_patterns(people, posterior):
    """Of two customers of each pattern, and of what their own draws say of each alone."""
    few = people.take(np.sort(np.unique(Natives.of(posterior.purchases, people).index, return_index=True)[1]))
    few = few.take(np.repeat(np.arange(len(few)), 2))
    draws, plain = posterior.thinned(40), make_assumptions(few)
    groups = np.stack([np.zeros(len(few), int), 1 + few.features["channel"].codes], axis=1)
    flows = [Flow(delta=0.0, horizon=13.0), Flow(delta=0.0, start=13.0, horizon=39.0)]
    found = horizons.expected(valuation(few, draws, plain, 1), flows, groups, 4)
    np.testing.assert_allclose(found.total[:, 1:].sum(axis=1), found.total[:, 0], rtol=1e-12)
    buys, pays = (Natives.of(part, few) for part in (draws.purchases, draws.spend))
    for i in (0, 7, 20):
        alone = make_posterior(
            ("bg_nbd", buys.draws(int(buys.index[i]))), ("gamma_gamma", pays.draws(int(pays.index[i])))
        )
        one = few.take(np.array([i]))
        assumed = replace(plain, margin=plain.margin[[i]])
        own = horizons.expected(Valuation(one, alone, assumed, 1), flows, np.zeros((1, 1), int), 1)
        np.testing.assert_allclose(found.orders[i], own.orders[0], rtol=1e-9)
        np.testing.assert_allclose(found.margin[i], own.margin[0], rtol=1e-9)
        assert found.spend[i] == pytest.approx(own.spend[0], rel=1e-9)
    drawn = horizons.simulated(valuation(few, draws, plain, 1), [13.0, 39.0], groups, 4)
    # Each draw of a total has the expected one as its mean given the parameters.
    upto = found.total.cumsum(axis=2)
    for totals in (drawn.latent, drawn.predictive):
        gap = (totals - upto)[:, 0]
        assert (abs(gap.mean(axis=-1)) < 4 * gap.std(axis=-1) / np.sqrt(40)).all()
    orders, paid = horizons.in_window(valuation(few, draws, plain, 1), 7.0, 7 * np.arange(5))
    parts = [
        horizons.in_window(part, 7.0, 7 * np.arange(5))
        for part, _ in valuation(few, draws, plain, 1).each(lambda part, members: (part, members))
    ]
    np.testing.assert_allclose(sum(part[0] for part in parts), orders, rtol=1e-12)
    assert (paid > 0).all()


# ---------------------------------------------------------------- survey


def test_a_survey_is_the_sum_of_those_of_each_pattern(people, posterior):
    """Two customers of each pattern, and each alone by its own native draws as if everyone had them."""
    few = people.take(np.sort(np.unique(Natives.of(posterior.purchases, people).index, return_index=True)[1]))
    few = few.take(np.repeat(np.arange(len(few)), 2))
    draws = posterior.thinned(12)
    plain = make_assumptions(few, cost_alive=0.02, cost_addressed=0.03, cost_window=60.0)
    found = equity.survey(valuation(few, draws, plain, 1, 2))
    buys, pays = (Natives.of(part, few) for part in (draws.purchases, draws.spend))
    own = []
    for i in range(len(few)):
        alone = make_posterior(
            ("bg_nbd", buys.draws(int(buys.index[i]))), ("gamma_gamma", pays.draws(int(pays.index[i])))
        )
        one = few.take(np.array([i]))
        own.append(equity.survey(Valuation(one, alone, replace(plain, margin=plain.margin[[i]]), 1, 1)))
    for name in ("equity", "potential", "by_purchases", "by_spend"):
        total = sum(getattr(one, name) for one in own)
        np.testing.assert_allclose(getattr(found, name), total, rtol=1e-9, err_msg=name)
    for name, value in found.changed.items():
        np.testing.assert_allclose(value, sum(one.changed[name] for one in own), rtol=1e-9, err_msg=name)
    for name, value in found.lost.items():
        np.testing.assert_allclose(value, sum(one.lost[name] for one in own), rtol=1e-9, err_msg=name)
    for name in ("p_alive", "value", "lapse", "in_doubt"):
        each = np.concatenate([getattr(one, name) for one in own])
        np.testing.assert_allclose(getattr(found, name), each, rtol=1e-9, atol=1e-12, err_msg=name)
    assert set(found.changed) == set(own[0].changed)
    total = sum(valuation(few, draws, plain, 1, 1).expected(details=False, then=lambda tile: tile.sum()))
    np.testing.assert_allclose(found.equity, total, rtol=1e-9)


def test_a_survey_takes_draws_that_stand_for_all(people, posterior):
    """An eighth of them, spread evenly by value: its mean is within a standard error of a random eighth's."""
    few = people.take(np.arange(12))
    whole = valuation(few, posterior, make_assumptions(few), 1, 1)
    found = equity.survey(whole, 125)
    total = sum(whole.expected(details=False, then=lambda tile: tile.sum()))
    assert (np.diff(found.picks) > 0).all()
    np.testing.assert_allclose(found.equity, total[found.picks], rtol=1e-9)
    assert abs(found.equity.mean() - total.mean()) < total.std() / np.sqrt(125)


# ---------------------------------------------------------------- bridge


def test_a_bridge_of_customers_who_differ_has_the_values_of_both_dates(people, posterior):
    """Opening and closing are those of a valuation; lines lead from one to the other in every draw."""
    draws = posterior.thinned(30)
    after = people.take(np.arange(90))
    fresh = np.arange(90) >= 70
    old = people.take(np.flatnonzero(~fresh))
    more = np.arange(90) % 3 == 0
    columns = {
        **after.columns,
        "T": np.where(fresh, 6.0, after["T"] + 10),
        "frequency": np.where(fresh, 1.0, after["frequency"] + more),
        "recency": np.where(fresh, 3.0, np.where(more, after["T"] + 5, after["recency"])),
        "monetary_value": np.where(after["frequency"] > 0, after["monetary_value"], 30.0),
    }
    end = old.observation_end + dt.timedelta(days=70)
    first = np.where(fresh, np.datetime64(end) - 42, old.first_day[0])
    new = replace(after, columns=columns, observation_end=end, first_day=first.astype("datetime64[D]"))
    turned = Posterior(
        purchases=draws.picked(np.arange(30)[::-1]).purchases, spend=draws.spend,
        time_unit=draws.time_unit, currency=draws.currency,
    )  # fmt: skip
    sides = [
        Side(summary=summary, posterior=drawn, assumptions=make_assumptions(summary))
        for summary, drawn in ((old, draws), (new, turned))
    ]
    found = bridging.build(*sides)
    published = [
        sum(valuation(side.summary, side.posterior, side.assumptions, 1).expected(then=lambda t: t.sum()))
        for side in sides
    ]
    for movement in found.movements.values():
        np.testing.assert_allclose(movement["opening"], published[0][found.order], rtol=1e-9)
        np.testing.assert_allclose(movement["closing"], published[1], rtol=1e-9)
        assert abs(movement.residual).max() < 1e-9 * published[1].mean()
        parts = sum(movement.newcomers[name] for name in ("acquired", "unwinding", "release", "experience"))
        np.testing.assert_allclose(parts, movement["new"], rtol=1e-9)
    assert found.counts["new"] == 20
    same = bridging.build(*(replace(side, posterior=draws) for side in sides))
    assert same.coupling == "identical"
    # Effects that differ are another posterior, though the centre is the same.
    effects = draws.purchases.effects
    moved = replace(draws.purchases, effects=replace(effects, draws=effects.draws + 0.1))
    other = replace(sides[1], posterior=replace(draws, purchases=moved))
    assert bridging.build(sides[0], other).coupling == "independent"


# ---------------------------------------------------------------- what if, new customers, effects on value


def shifted(stats, n=20_000, **shift):
    x, t_x, T = stats
    columns = {"frequency": np.full(n, x), "recency": np.full(n, t_x), "T": np.full(n, T)}
    summary = make_summary(columns)
    theta = make_posterior(("bg_nbd", [0.243, 4.414, 0.793, 2.426]), ("gamma_gamma", [6.25, 3.74, 15.44]))
    weekly = make_assumptions(summary, annual_discount_rate=np.expm1(0.0027 * 52), units_per_year=52.0)
    return equity.what_if(summary, theta, weekly, 5, **shift)


@pytest.mark.parametrize(
    ("stats", "printed"),
    [((2.0, 30.43, 38.86), 0.106), ((7.0, 35.0, 77.86), 0.111), ((0.0, 0.0, 38.86), 0.126)],
)
def test_a_higher_rate_from_now_on(stats, printed):
    """+20 % purchase rate, as printed; by re-conditioning it would be +0.7, -6.1 and +1.1 %.

    The exact value comes from λ' = 1.2 λ ~ Gamma(R, A / 1.2): the same rates in a quicker clock.
    """
    found = shifted(stats, purchase=1.2)
    n = found.customers
    ratio = float(found.after[0] / found.before[0] - 1)
    from clvmodels.value import Flow, residual

    theta = np.array([[0.243, 4.414, 0.793, 2.426]])
    row = np.array([stats])
    exact = [residual(BG, theta, row, [Flow(delta=0.0027 / f)])[0, 0, 0] for f in (1.0, 1.2)]
    exact_ratio = exact[1] / exact[0] - 1  # ∫ e^(-δs) f rate(f s) ds = ∫ e^(-(δ/f) u) rate(u) du
    assert round(exact_ratio, 3) == printed
    # The ratio of each customer lies in (0, 0.2), so that its standard deviation is at most 0.1; values
    # weigh unequally: an effective n/30 (the squared coefficient of variation of value is below 30).
    assert abs(ratio - exact_ratio) < 4 * 0.1 / np.sqrt(n / 30)


def test_what_if_shifts_only_what_it_says(people, posterior):
    few = people.take(np.arange(120))
    where = np.arange(120) < 40
    plain = make_assumptions(few)
    paid = equity.what_if(few, posterior, plain, 3, spend=1.1)
    np.testing.assert_allclose(paid.after, 1.1 * paid.before, rtol=1e-12)
    some = equity.what_if(few, posterior, plain, 3, spend=1.1, where=where)
    assert (some.change > 0).all()
    assert (some.change < paid.change).all()
    longer = equity.what_if(few, posterior, plain, 3, dropout=0.9)
    assert (longer.change > 0).all()
    older = equity.what_if(few, posterior, plain, 3, add={"age": 10.0})
    friend = equity.what_if(few, posterior, plain, 3, to={"channel": "friend"})
    assert older.change.mean() > 0
    assert friend.change.mean() > 0
    assert set(friend.summary().index) == {"before", "after", "change", "relative change"}
    for wrong, says in (
        ({}, "nothing is shifted"),
        ({"purchase": -1.0}, "factor above 0"),
        ({"dropout": 30.0}, "would pass 1"),
        ({"to": {"chanel": "x"}}, "no covariate or pooled column"),
        ({"to": {"channel": "fair"}}, "fitted without"),
    ):
        with pytest.raises(InputError, match=says):
            equity.what_if(few, posterior, plain, 3, **wrong)


def test_new_customers(people, posterior):
    plain = make_assumptions(people)
    pattern = {"age": 40.0, "channel": "friend"}
    found = equity.prospect(people, posterior, plain, 1, pattern)
    # Three levels of one quantity: paired differences have mean 0.
    for name in (found.value, found.orders, found.revenue):
        levels = [name[level] if name is found.value else name[level]["12 months"] for level in name]
        for other in levels[1:]:
            gap = other - levels[0]
            assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))
    assert (found.orders["predictive"]["12 months"] >= 1).all()
    assert found.value["predictive"].std() > found.value["latent"].std() > found.value["expected"].std()
    # Published: DET 3.64781 of a just-acquired customer, one more before the first order.
    theta = make_posterior(("bg_nbd", [0.243, 4.414, 0.793, 2.426]), ("gamma_gamma", [6.25, 3.74, 15.44]))
    weekly = make_assumptions(people, annual_discount_rate=np.expm1(0.0027 * 52), units_per_year=52.0)
    new = equity.prospect(people, theta, weekly, 1)
    assert new.value["point"][0] / (0.3 * new.spend["point"][0]) == pytest.approx(4.64781, abs=5e-6)
    with pytest.raises(InputError, match="age not given"):
        equity.prospect(people, posterior, plain, 1, {"channel": "ads"})


def test_effects_on_value(people, posterior):
    rows = equity.effects(people, posterior, make_assumptions(people))
    by = {(row.column, row.label): row for row in rows}
    assert [row.column for row in rows] == ["age", "channel", "channel"]
    age = rows[0]
    beta, spend = posterior.purchases.effects.flat[:, 0], posterior.spend.effects.flat[:, 0]
    np.testing.assert_allclose(age.multipliers["purchase"], np.exp(beta), rtol=1e-12)
    np.testing.assert_allclose(age.multipliers["spend"], np.exp(spend), rtol=1e-12)
    friend = by["channel", "friend (instead of ads)"]
    assert friend.customers == int((people.features["channel"].codes == 1).sum())
    assert set(friend.multipliers) == {"purchase", "dropout"}
    # The value of a new customer, worked out by the prediction of one.
    plain = make_assumptions(people)
    centre = posterior.purchases.effects.terms[0].centre
    values = [
        equity.prospect(people, posterior, plain, 1, {"age": centre, "channel": channel}).value["expected"]
        for channel in ("ads", "friend")
    ]
    np.testing.assert_allclose(friend.value, values[1] / values[0], rtol=1e-9)


@pytest.mark.parametrize("reach", [1.05, 1.6, 4.0, 30.0])
def test_marks_of_factors_do_not_run_into_one_another(reach):
    """Labels of the figure, as drawn, for factors of any width."""
    from clvmodels.report.effects import shrinkage

    def block(mean: float) -> dict:
        return {"mean": mean, "interval_50": [mean, mean], "interval_90": [mean / reach, mean * reach]}

    rows = [
        {"kind": "pool", "label": name, "customers": {"value": 9}, "observed": {}, "value": block(1.0)}
        | {"multipliers": {driver: block(1.0) for driver in ("purchase", "dropout", "spend")}}
        for name in ("one", "two")
    ]
    figure = shrinkage(rows)
    figure.draw_without_rendering()
    for ax in figure.axes:
        low, high = ax.get_xlim()
        labels = [mark.label1 for mark in ax.xaxis.get_major_ticks() if low <= mark.get_loc() <= high]
        boxes = [label.get_window_extent() for label in labels]
        assert boxes, "an axis has a mark"
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
