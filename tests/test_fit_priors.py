"""What a model may say, and what is said when it may not."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from clvmodels.artifacts import Calendar, Rows, Summary
from clvmodels.config import FitConfig, ModelConfig
from clvmodels.errors import InputError
from clvmodels.fit import check_data, check_model, fit, fit_family, measure
from clvmodels.fit.priors import resolve
from clvmodels.models import registry
from clvmodels.models.family import Scale

SCALE = Scale(time=20.0, rate=0.05, spend=30.0)
GIVEN = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}
NATIVE = {name: {"dist": "Gamma", "alpha": 2, "beta": 1} for name in GIVEN}
SPEND = ModelConfig(family="gamma_gamma")
PURCHASES = ModelConfig(family="bg_nbd")


def summary(x, t_x, T, z=None) -> Summary:
    import datetime as dt

    x, t_x, T = (np.array(column, float) for column in (x, t_x, T))
    z = np.where(x > 0, 20.0, np.nan) if z is None else np.array(z, float)
    empty = np.zeros(0)
    return Summary(
        customer=np.array([str(i) for i in range(len(x))], object),
        columns={
            "frequency": x,
            "recency": t_x,
            "T": T,
            "monetary_value": z,
            "first_amount": np.ones(len(x)),
        },
        first_day=np.full(len(x), np.datetime64("2020-01-01")),
        segments={},
        calendar=Calendar(
            day=np.zeros(0, "datetime64[D]"),
            first_orders=empty,
            repeat_orders=empty,
            first_amount=empty,
            repeat_amount=empty,
        ),
        time_unit="week",
        observation_start=dt.date(2020, 1, 1),
        observation_end=dt.date(2020, 6, 1),
        holdout=0.0,
        currency="USD",
        ledger={},
        fingerprint="",
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"family": "bg_nbdd"}, "unknown family 'bg_nbdd'; did you mean 'bg_nbd'"),
        ({"priors": {"purchase_rat": {}}}, "unknown 'purchase_rat'; did you mean 'purchase_rate'"),
        ({"priors": {"r": 3}}, "models.purchases.priors.r: a prior is written like {dist: LogNormal, mu: 0"),
        ({"priors": {"r": {"dist": "LogNormale"}}}, "unknown 'LogNormale'; did you mean 'LogNormal'"),
        ({"priors": {"r": {"dist": "Poisson", "mu": 1}}}, "priors.r.dist: unknown 'Poisson'"),
        ({"priors": {"r": {"dist": "LogNormal", "sigm": 1}}}, "unknown 'sigm'; did you mean 'sigma'"),
        ({"priors": {"r": {"dist": "LogNormal", "sigma": "1e-3"}}}, "r.sigma: '1e-3' is not a number"),
        ({"priors": {"r": {"dist": "LogNormal", "sigma": -1}}}, "LogNormal does not accept {'sigma': -1}"),
        ({"priors": {"r": {"dist": "Gamma"}}}, "Gamma does not accept {}"),
        ({"priors": {"r": {"dist": "Normal"}}}, "Normal reaches from -inf to inf, but this"),
        ({"priors": {"dropout": {"dist": "HalfNormal"}}}, "0 to inf, but this quantity is between 0"),
        ({"priors": {"a": NATIVE["a"]}}, "must cover all of them (r, alpha, b not given)"),
        ({"priors": {"dropout": {}, "alpha": {}}}, "alpha (native) and dropout (coordinate) cannot be mixed"),
        ({"fixed": {"r": 1.0}}, "models.purchases.fixed: alpha, a, b not given"),
        ({"fixed": GIVEN | {"s": 1.0}}, "models.purchases.fixed: unknown 's'"),
        ({"fixed": GIVEN | {"a": -0.8}}, "models.purchases.fixed.a: -0.8 is not a positive number"),
        ({"fixed": GIVEN, "priors": "flat"}, "`fixed` leaves nothing to fit"),
        ({"settings": {"k": 2}}, "models.purchases.settings: unknown 'k'. Known: none"),
    ],
)  # fmt: skip
def test_a_wrong_model_is_refused(changes, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        check_model(ModelConfig(**{"family": "bg_nbd"} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"priors": "flat"},
        {"priors": NATIVE},
        {"priors": {"r": {"dist": "HalfNormal", "sigma": 2}}},
        {"priors": {"dropout": {"dist": "Uniform", "lower": 0.1, "upper": 0.6}}},
        {"fixed": GIVEN},
    ],
)
def test_a_right_model_is_accepted(changes):
    assert check_model(ModelConfig(family="bg_nbd", **changes)) is registry.get("bg_nbd")


def test_user_priors_are_completed_by_defaults():
    family = registry.get("bg_nbd")
    model = ModelConfig(family="bg_nbd", priors={"dropout": {"dist": "Beta", "alpha": 2, "beta": 6}})
    found = resolve(family, model, SCALE, {})
    assert found.space == "coordinates"
    assert found.specs == {**family.priors(SCALE), "dropout": {"dist": "Beta", "alpha": 2, "beta": 6}}
    assert tuple(found.specs) == family.coordinate_names


def test_all_native_names_are_priors_on_parameters():
    found = resolve(registry.get("bg_nbd"), ModelConfig(family="bg_nbd", priors=NATIVE), SCALE, {})
    assert (found.space, found.specs) == ("parameters", NATIVE)


def test_pymc_extras_form_is_understood():
    spec = {"dist": "LogNormal", "kwargs": {"mu": 0.5, "sigma": 1.0}}  # what Prior.to_dict() gives
    model = ModelConfig(family="bg_nbd", priors={"r": spec})
    check_model(model)
    found = resolve(registry.get("bg_nbd"), model, SCALE, {})
    assert found.specs["r"] == {"dist": "LogNormal", "mu": 0.5, "sigma": 1.0}


def test_no_repeat_buyer_cannot_be_fitted():
    data = summary([0, 0], [0, 0], [5, 9])
    with pytest.raises(InputError, match=r"none of 2 customers has a repeat purchase.*models\.spend\.fixed"):
        fit(data, PURCHASES, SPEND, FitConfig(), 0)
    spend = ModelConfig(family="gamma_gamma", fixed={"p": 6.0, "q": 4.0, "gamma": 15.0})
    with pytest.raises(
        InputError, match=r"none of 2 customers has a repeat purchase.*models\.purchases\.fixed"
    ):
        check_data(data, PURCHASES, spend)
    posterior = fit(data, ModelConfig(family="bg_nbd", fixed=GIVEN), spend, FitConfig(), 0)
    assert posterior.is_point
    assert posterior.purchases.customers == 0


def test_nobody_observed_for_any_time():
    with pytest.raises(InputError, match="first purchase on 2020-06-01, the end of observation"):
        check_data(summary([0, 0], [0, 0], [0, 0]), PURCHASES, SPEND)


def test_families_may_object_to_the_data(monkeypatch):
    family = replace(registry.get("bg_nbd"), objection=lambda columns: f"{len(columns['T'])} are too few.")
    monkeypatch.setattr(registry, "get", lambda name: family)
    with pytest.raises(InputError, match=r"models\.purchases\.family: 2 are too few"):
        check_data(summary([1, 0], [2, 0], [5, 9]), PURCHASES, SPEND)


def test_values_outside_the_model_are_named():
    family = registry.get("gamma_gamma")
    rows = Rows(
        names=family.statistics,
        stats=np.array([[1.0, 0.0], [2.0, 10.0]]),
        weight=np.array([3.0, 1.0]),
        index=np.zeros(4, int),
    )
    with pytest.raises(
        InputError, match=r"not finite for 3 of 4 customers \(first: frequency = 1, monetary_value = 0\)"
    ):
        fit_family(family, rows, SPEND, FitConfig(), 0, SCALE)


def test_customers_who_spent_nothing_are_left_to_the_purchase_family():
    data = summary([2, 1, 0], [3, 2, 0], [5, 9, 9], [10.0, 0.0, np.nan])
    posterior = fit(data, ModelConfig(family="bg_nbd", fixed=GIVEN), SPEND, FitConfig(sampler="map"), 0)
    assert posterior.spend.customers == 1
    free = summary([2, 1, 0], [3, 2, 0], [5, 9, 9], [0.0, 0.0, np.nan])
    with pytest.raises(InputError, match="no repeat purchase of 2 customers has an amount above 0"):
        check_data(free, PURCHASES, SPEND)


def test_role_of_a_family_is_checked():
    with pytest.raises(InputError, match="spend family"):
        fit(summary([1], [2], [5]), SPEND, SPEND, FitConfig(), 0)


def test_scale_is_that_of_the_data():
    data = summary([2, 0, 1, 0], [3, 0, 2, 0], [5, 9, 7, 0], [10.0, np.nan, 40.0, np.nan])
    assert measure(data) == Scale(time=7.0, rate=3 / 21, spend=25.0)
