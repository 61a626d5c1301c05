"""Interchange with pymc-marketing: the same numbers from the same draws, and where it errs.

The tests of its errors assert that they are there, in the release that is pinned: when one turns
red after an upgrade, that package has mended it, and what is said of it here has to go.
"""

from __future__ import annotations

import importlib.metadata
import json
import math

import mpmath as mp
import numpy as np
import pytest
from builders import make_assumptions, make_posterior
from oracles import bg_residual, density
from scipy.integrate import quad

import clvmodels as clv
from clvmodels import equity
from clvmodels.errors import ConvergenceError, InputError
from clvmodels.models import registry
from clvmodels.models.family import Family, SpendFamily
from clvmodels.value import Valuation

peer = pytest.importorskip("pymc_marketing.clv", reason="pymc-marketing is not installed (extra interchange)")

VERSION = "1.3.0"
MENDED = (
    f"pymc-marketing no longer errs here: it was wrong in {VERSION}; turn this test into one of agreement"
)
EPS = np.finfo(float).eps

SHARED = [family for family in registry.families() if family.peer]
PURCHASES = [family for family in SHARED if family.role == "purchases"]
VALUE = {"margin": 0.3, "annual_discount_rate": 0.15, "horizons": ["12 weeks", "52 weeks"]}
CONFIG = {
    "data": {"time_unit": "week", "observation_end": "1997-09-30"},
    "fit": {"allow_unconverged": True},
}
SPEND = {"p": 6.25, "q": 3.74, "gamma": 15.44}


@pytest.fixture
def quick_graphs():
    """Graphs of theirs that are evaluated once are not worth compiling."""
    import pytensor

    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        yield


def table(family: Family):
    """Customers that the family allows, with every kind of row: none, recent, long gone, frequent."""
    import pandas as pd

    x = np.array([0, 0, 1, 1, 2, 3, 5, 8, 12, 29])
    if getattr(family, "clock", "continuous") == "discrete":
        x, T = np.minimum(x, 7), np.full(len(x), 8)  # its BG/BB wants one T
        recency = np.array([0, 0, 2, 7, 8, 4, 6, 8, 8, 7])
    else:
        T = np.array([38.9, 12.0, 38.0, 27.3, 39.0, 33.0, 30.4, 38.9, 35.0, 39.0])
        recency = np.array([0, 0, 1.7, 26.1, 39.0, 11.6, 27.7, 20.0, 34.9, 38.7])
    z = np.where(x > 0, 12.5 + 3.1 * np.arange(len(x)), 0.0)
    customer = [f"c{i}" for i in range(len(x))]
    columns = {"customer_id": customer, "frequency": x, "recency": recency, "T": T, "monetary_value": z}
    return pd.DataFrame(columns)


def as_fitted(family: Family, draws: np.ndarray, customers=None, **more):
    """A model of theirs with given draws (chain, draw, parameter) inside, made without our code."""
    import xarray as xr
    from pymc_extras.prior import Prior

    customers = table(family) if customers is None else customers
    if isinstance(family, SpendFamily):
        customers = customers[customers["frequency"] > 0]
    names = [family.peer.renamed.get(name, name) for name in family.parameter_names]
    model = getattr(peer, family.peer.model)(model_config={name: Prior("HalfFlat") for name in names} | more)
    model.build_model(customers)
    variables = {name: (("chain", "draw"), draws[:, :, j]) for j, name in enumerate(names)}
    model.idata = xr.DataTree.from_dict(
        {"posterior": xr.Dataset(variables), "fit_data": model.create_fit_data_group()}
    )
    model.set_idata_attrs()
    return model


def some_draws(family: Family, theta=None, chains: int = 2, draws: int = 10) -> np.ndarray:
    """Draws around a typical point, shape (chain, draw, parameter)."""
    rng = np.random.default_rng(7)
    centre = family.vector(theta or family.typical[0])
    return centre * np.exp(0.05 * rng.standard_normal((chains, draws, len(centre))))


def gamma_gamma() -> Family:
    return registry.get("gamma_gamma")


def run_of(family: Family, draws: np.ndarray, **changes):
    spend = as_fitted(gamma_gamma(), some_draws(gamma_gamma(), SPEND), table(family))
    model = as_fitted(family, draws)
    return clv.from_pymc_marketing(model, spend, value=VALUE, config=CONFIG | changes)


# ---------------------------------------------------------------- agreement


def test_the_peers_are_those_of_the_pinned_release():
    assert importlib.metadata.version("pymc-marketing") == VERSION
    for family in SHARED:
        assert getattr(peer, family.peer.model)._model_type == family.peer.kinds[0]
    assert peer.GammaGammaModelIndividual._model_type == gamma_gamma().peer.kinds[1]


@pytest.mark.parametrize("family", SHARED, ids=lambda family: family.name)
def test_log_densities_agree(family):
    """Per row, at every typical point.

    Both are sums of terms like lgamma(r + x) and (r + x) log(α + T), each right to some units in the
    last place of the largest; its ₂F₁, and our quadrature of the same integral, are right to 1e-9.
    """
    from pytensor.compile.mode import Mode

    customers = table(family)
    if isinstance(family, SpendFamily):
        customers = customers[customers["frequency"] > 0]
    columns = {name: customers[name].to_numpy(float) for name in family.statistics}
    graph = as_fitted(family, some_draws(family), customers).model
    terms = [*graph.observed_RVs, *graph.potentials]
    logp = graph.compile_fn(graph.logp(terms, jacobian=False, sum=False)[0], mode=Mode("py", "fast_compile"))
    for theta in family.typical:
        renamed = {family.peer.renamed.get(name, name): value for name, value in theta.items()}
        theirs = logp({f"{name}_log__": np.array(math.log(value)) for name, value in renamed.items()})
        ours = density(family, theta)(family.vector(theta), columns)
        x = columns["frequency"]
        largest = (1 + x) * (1 + max(theta.values())) * math.log(1e4)
        quadrature = 1e-11 if family.name == "pareto_nbd" else 0.0
        assert (np.abs(ours - theirs) <= 8 * EPS * largest + quadrature).all(), theta


def test_log_densities_of_contracts_agree():
    """sBG is not exchanged, because its parameters differ by cohort there, but it is the same model.

    Its lifetime is our x + 1; a contract still there after T renewals has a lifetime above T.
    """
    import pymc as pm
    from pymc_marketing.clv.distributions import ShiftedBetaGeometric

    family, lived = registry.get("sbg"), np.arange(1, 9)
    for theta in family.typical:
        law = ShiftedBetaGeometric.dist(*(np.float64(theta[name]) for name in ("alpha", "beta")))
        left = {"frequency": lived - 1.0, "recency": lived - 1.0, "T": lived + 3.0}
        stayed = {"frequency": lived + 0.0, "recency": lived + 0.0, "T": lived + 0.0}
        ours = density(family, theta)
        point = family.vector(theta)
        np.testing.assert_allclose(ours(point, left), pm.logp(law, lived).eval(), rtol=1e-12, atol=1e-13)
        survival = np.log1p(-np.exp(pm.logcdf(law, lived).eval()))
        # It takes 1 - S and we take it back: the relative error of S is that of 1 over S.
        np.testing.assert_allclose(ours(point, stayed), survival, atol=16 * EPS / np.exp(survival).min())


@pytest.mark.parametrize("family", PURCHASES, ids=lambda family: family.name)
def test_alive_orders_and_spend_agree(family, quick_graphs):
    """Means over the draws, customer by customer; orders are integrals, right to 1e-9 (ours, their ₂F₁).

    One draw of BG/BB, because its forecasts are wrong for several (see below).
    """
    draws = point(family, family.typical[0]) if family.name == "bg_bb" else some_draws(family)
    model = as_fitted(family, draws)
    run = run_of(family, draws)
    customers = run.customers.loc[model.data["customer_id"]]
    more = {"future_t": 0} if family.name == "bg_bb" else {}
    alive = model.expected_probability_alive(**more).mean(("chain", "draw"))
    np.testing.assert_allclose(customers["p_alive"], alive, rtol=1e-9)
    for weeks in (12, 52):
        theirs = model.expected_purchases(future_t=weeks).mean(("chain", "draw"))
        np.testing.assert_allclose(customers[f"orders_{weeks}_weeks"], theirs, rtol=1e-8)
    spend = as_fitted(gamma_gamma(), some_draws(gamma_gamma(), SPEND), table(family))
    expected = spend.expected_customer_spend(table(family)).mean(("chain", "draw"))
    np.testing.assert_allclose(customers["expected_spend"], expected, rtol=1e-12)


@pytest.mark.parametrize("family", PURCHASES, ids=lambda family: family.name)
def test_equity_is_that_of_the_same_draws_here(family):
    draws, spend = some_draws(family), some_draws(gamma_gamma(), SPEND)
    run = run_of(family, draws)
    flat = ((family.name, draws.reshape(-1, draws.shape[2])), ("gamma_gamma", spend.reshape(-1, 3)))
    assumptions = make_assumptions(run.data, horizons={"12 weeks": 12.0, "52 weeks": 52.0})
    ours = equity.build(Valuation(run.data, make_posterior(*flat), assumptions, run.config.seed))
    for level in ("expected", "latent", "predictive"):
        assert np.array_equal(run.equity.total(level), ours.total(level))


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("family", PURCHASES, ids=lambda family: family.name)
def test_a_run_goes_there_and_back_with_its_draws(family, tmp_path):
    """In memory and by file; nothing but ``value`` has to be said again."""
    run = run_of(family, some_draws(family))
    models = run.to_pymc_marketing()
    for model, part in zip(models, (run.draws.purchases, run.draws.spend), strict=True):
        peer_of = registry.get(part.family).peer
        assert type(model).__name__ == peer_of.model
        for j, name in enumerate(part.parameters):
            found = model.fit_result[peer_of.renamed.get(name, name)].values
            assert np.array_equal(found, part.draws[:, :, j])
    files = []
    for model in models:
        files.append(tmp_path / f"{type(model).__name__}.nc")
        model.save(str(files[-1]))
        type(model).load(str(files[-1]))
    for pair in (models, files):
        back = clv.from_pymc_marketing(*pair, value=VALUE, config={"fit": {"allow_unconverged": True}})
        assert np.array_equal(back.draws.purchases.draws, run.draws.purchases.draws)
        assert np.array_equal(back.draws.spend.draws, run.draws.spend.draws)
        assert back.draws.purchases.priors == run.draws.purchases.priors
        assert np.array_equal(back.equity.total(), run.equity.total())


def test_a_fitted_run_keeps_what_is_known_of_its_draws(cdnow):
    """An importance sample comes back as one, with its k-hat, and passes the gate."""
    priors = {"a": {"dist": "LogNormal", "mu": 0.0, "sigma": 1.0}}
    rng = np.random.default_rng(3)
    part = make_posterior(
        ("bg_nbd", some_draws(registry.get("bg_nbd"), draws=500).reshape(-1, 4)),
        ("gamma_gamma", gamma_gamma().vector(SPEND) * np.exp(0.05 * rng.standard_normal((1000, 3)))),
    )
    for found in (part.purchases, part.spend):
        found.diagnostics.update(k_hat=0.2, ess=900.0)
        found.priors.update(priors)
    from clvmodels import interchange

    models = interchange.models(cdnow, part)
    parts = interchange.read(models[0], "purchases"), interchange.read(models[1], "spend")
    back = interchange.posterior(parts, cdnow)
    assert back.purchases.sampler == "importance"
    assert back.purchases.diagnostics["k_hat"] == 0.2
    assert back.purchases.diagnostics["ess_bulk"]["r"] > 400
    assert back.spend.priors == priors
    assert np.array_equal(back.pairs()[0], part.pairs()[0])


def test_a_model_fitted_there_is_valued(tmp_path):
    """Its own MAP, in memory and saved: the parameter vector that it found, and no interval."""
    customers = table(registry.get("bg_nbd"))
    model = peer.BetaGeoModel()
    model.fit(customers, method="map", progressbar=False)
    spend = as_fitted(gamma_gamma(), gamma_gamma().vector(SPEND)[None, None], customers)
    run = clv.from_pymc_marketing(model, spend, value=VALUE, config={"data": CONFIG["data"]})
    assert run.result.levels == ("point",)
    found = model.fit_result
    assert run.draws.purchases.flat[0].tolist() == [found[k].item() for k in ("r", "alpha", "a", "b")]
    assert set(run.draws.purchases.priors) == {"r", "alpha", "phi_dropout", "kappa_dropout"}
    assert run.draws.purchases.customers == len(customers)
    model.save(str(tmp_path / "model.nc"))
    again = clv.from_pymc_marketing(
        tmp_path / "model.nc", spend, value=VALUE, config={"data": CONFIG["data"]}
    )
    assert again.equity.total("point") == run.equity.total("point")
    json.dumps(dict(run.summary))


def test_other_customers_and_segments_can_be_valued():
    family = registry.get("bg_nbd")
    model, spend = as_fitted(family, some_draws(family)), as_fitted(gamma_gamma(), some_draws(gamma_gamma()))
    others = table(family).head(6).assign(country=["A", "B"] * 3)
    config = CONFIG | {"data": CONFIG["data"] | {"segments": ["country"], "currency": "EUR"}}
    run = clv.from_pymc_marketing(model, spend, others, value=VALUE, config=config)
    assert len(run.customers) == 6
    assert run.equity.artifact.currency == "EUR"
    sums = run.equity.artifact.segment("country").sel(level="expected").sum("by:country")
    np.testing.assert_allclose(sums, run.equity.total(), rtol=1e-12)


# Its random variables are written in NumPy, and PyTensor's default linker says that it calls them.
@pytest.mark.filterwarnings("ignore:Numba will use object mode:UserWarning")
def test_its_plots_and_methods_work_on_our_posterior():
    import matplotlib.pyplot as plt

    run = run_of(registry.get("bg_nbd"), some_draws(registry.get("bg_nbd")))
    model, spend = run.to_pymc_marketing()
    n = len(run.data)
    assert peer.plot_probability_alive_matrix(model).get_title()
    assert peer.plot_expected_purchases_ppc(model, random_seed=1).get_title()
    plt.close("all")
    value = spend.expected_customer_lifetime_value(model, model.data, future_t=6, time_unit="W")
    assert value.sizes["customer_id"] == n
    assert (value > 0).all()
    thinned = model.thin_fit_result(keep_every=5)
    assert thinned.expected_probability_alive().sizes == {"chain": 2, "draw": 2, "customer_id": n}


# ---------------------------------------------------------------- refusals


def test_what_cannot_be_exchanged_says_so(tmp_path):
    family = registry.get("bg_nbd")
    model, spend = as_fitted(family, some_draws(family)), as_fitted(gamma_gamma(), some_draws(gamma_gamma()))

    def refuse(match: str, *models, error=InputError, **changes):
        with pytest.raises(error, match=match):
            clv.from_pymc_marketing(*models, **({"value": VALUE, "config": CONFIG} | changes))

    refuse("comes first", spend, model)
    refuse("is not fitted", peer.BetaGeoModel(), spend)
    refuse("is a dict: pass a fitted model", {}, spend)
    refuse("there is no file", tmp_path / "none.nc", spend)
    (tmp_path / "text.nc").write_text("no model")
    refuse("is not a saved model", tmp_path / "text.nc", spend)
    refuse("Shifted Beta-Geometric.*cannot be read", peer.ShiftedBetaGeoModel(), spend)
    refuse("time_unit is missing", model, spend, config={})
    refuse("observation_end is missing", model, spend, config={"data": {"time_unit": "week"}})
    refuse("config.models", model, spend, config=CONFIG | {"models": {}})
    refuse("config is a mapping", model, spend, config="run.yaml")
    refuse("value", model, spend, value=None)
    bare = table(family).drop(columns="monetary_value")
    refuse("8 of 10 customers bought again and have no monetary_value", model, spend, bare)
    refuse("did not converge", model, spend, error=ConvergenceError, config={"data": CONFIG["data"]})
    other = as_fitted(gamma_gamma(), some_draws(gamma_gamma(), chains=3))
    refuse("2 x 10 and 3 x 10 draws", model, other)
    negative = as_fitted(family, -some_draws(family))
    refuse("draws of r are not all positive", negative, spend)


def test_covariates_are_refused():
    family = registry.get("bg_nbd")
    customers = table(family).assign(age=np.linspace(-1, 1, 10))
    model = as_fitted(family, some_draws(family), customers, purchase_covariate_cols=["age"])
    posterior = model.idata["posterior"].to_dataset()
    wide = posterior["alpha"].expand_dims(customer_id=customers["customer_id"].tolist())
    model.idata["posterior"] = posterior.assign(alpha=wide)
    spend = as_fitted(gamma_gamma(), some_draws(gamma_gamma()))
    with pytest.raises(InputError, match="alpha differs by customer_id, so that the model has covariates"):
        clv.from_pymc_marketing(model, spend, value=VALUE, config=CONFIG)


def test_longer_chains_are_thinned():
    family = registry.get("bg_nbd")
    draws = some_draws(family, draws=25)
    run = run_of(family, draws)
    assert np.array_equal(run.draws.purchases.draws[:, [0, -1]], draws[:, [0, -1]])
    assert run.draws.purchases.draws.shape == (2, 10, 4)


def test_families_that_it_does_not_have(cdnow):
    from clvmodels import interchange

    spend = ("gamma_gamma", gamma_gamma().vector(SPEND))
    nbd = ("nbd", registry.get("nbd").vector(registry.get("nbd").typical[0]))
    model, other = interchange.models(cdnow, make_posterior(nbd, spend))
    assert model is None
    assert isinstance(other, peer.GammaGammaModel)
    with pytest.raises(InputError, match="has neither nbd nor fixed_spend"):
        interchange.models(cdnow, make_posterior(nbd, ("fixed_spend", np.array([30.0]))))
    unequal = ("bg_bb", registry.get("bg_bb").vector(registry.get("bg_bb").typical[0]))
    with pytest.raises(InputError, match=r"cannot hold these customers in its BetaGeoBetaBinomModel.*T"):
        interchange.models(cdnow, make_posterior(unequal, spend))


def test_the_extra_is_named_where_it_is_missing(cdnow, monkeypatch):
    import sys

    from clvmodels import interchange

    monkeypatch.setitem(sys.modules, "pymc_marketing", None)
    bg = registry.get("bg_nbd")
    draws = make_posterior(("bg_nbd", bg.vector(bg.typical[0])), ("gamma_gamma", gamma_gamma().vector(SPEND)))
    with pytest.raises(InputError, match=r"clvmodels\[interchange\]"):
        interchange.models(cdnow, draws)


# ---------------------------------------------------------------- its errors, in the pinned release


def one_customer(x: float, t_x: float, T: float):
    import pandas as pd

    return pd.DataFrame({"customer_id": ["a"], "frequency": [x], "recency": [t_x], "T": [T]})


def point(family: Family, theta) -> np.ndarray:
    return family.vector(theta)[None, None]


def test_bg_nbd_no_purchase_probability_of_one_time_buyers_is_wrong_there():
    """At x = 0 nobody has dropped out, so P(no purchase in (T, T+t]) = ((α+T)/(α+T+t))^r.

    The oracle is that ratio of two densities; the package adds a customer who dropped out at t_x = 0.
    """
    family = registry.get("bg_nbd")
    theta, T, t = family.typical[0], 20.0, 10.0
    right = float((1 + mp.mpf(t) / (theta["alpha"] + T)) ** -theta["r"])
    value = density(family, theta)
    nothing = {"frequency": np.zeros(2), "recency": np.zeros(2), "T": np.array([T, T + t])}
    ours = np.exp(np.diff(value(family.vector(theta), nothing)))
    np.testing.assert_allclose(ours, right, rtol=1e-13)
    model = as_fitted(family, point(family, theta), one_customer(0, 0.0, T))
    theirs = float(model.expected_probability_no_purchase(t=int(t)).squeeze())
    assert abs(theirs - right) > 0.01, MENDED


def test_heavy_buyers_have_no_forecast_there():
    """Its ₂F₁ overflows at x = 600 where the expected purchases are an ordinary number."""
    family = registry.get("bg_nbd")
    theta, x, t_x, T, weeks = family.typical[1], 600.0, 9.9, 10.0, 52.0
    right = bg_residual(theta, x, T, 0.0, weeks)
    row = np.array([x, t_x, T])
    vector = family.vector(theta)
    ours = quad(lambda s: family.rate(vector, row, s), 0, weeks, epsabs=0, epsrel=1e-10)[0]
    np.testing.assert_allclose(ours, right, rtol=1e-9)
    model = as_fitted(family, point(family, theta), one_customer(x, t_x, T))
    with np.errstate(all="ignore"):
        theirs = float(model.expected_purchases(future_t=int(weeks)).squeeze())
    assert not abs(theirs / float(family.p_alive(vector, row)) / right - 1) < 1e-6, MENDED


def test_heavy_buyers_have_no_pareto_density_there():
    """Its ₂F₁ overflows where L is an integral that mpmath does at once."""
    import pymc as pm
    from pymc_marketing.clv.distributions import ParetoNBD

    family = registry.get("pareto_nbd")
    theta, x, t_x, T = family.typical[1], 600.0, 20.0, 39.0
    with mp.workdps(40):
        r, alpha, s, beta = (mp.mpf(theta[name]) for name in family.parameter_names)
        cuts = [t_x + (T - t_x) * (mp.mpf(k) / 50) ** 3 for k in range(51)]  # it falls fast from t_x
        tail = mp.quad(lambda u: (alpha + u) ** -(r + x) * (beta + u) ** -(s + 1), cuts)
        alive = (alpha + T) ** -(r + x) * (beta + T) ** -s
        both = mp.loggamma(r + x) - mp.loggamma(r) + r * mp.log(alpha) + s * mp.log(beta)
        right = float(both + mp.log(alive + s * tail))
    row = {"frequency": np.array([x]), "recency": np.array([t_x]), "T": np.array([T])}
    ours = density(family, theta)(family.vector(theta), row)
    np.testing.assert_allclose(ours, right, rtol=1e-11)
    law = ParetoNBD.dist(*(np.float64(theta[name]) for name in family.parameter_names), T=T)
    with np.errstate(all="ignore"):
        theirs = float(pm.logp(law, np.array([t_x, x])).eval())
    assert not abs(theirs - right) < 1e-6, MENDED


def test_bg_bb_draws_are_wrong_there():
    """They hold one opportunity too many, and recency T for those who never came back.

    P(x <= T) = 1 over the 2^T histories; our simulator keeps to it.
    """
    from pymc_marketing.clv.distributions import BetaGeoBetaBinom

    family, T = registry.get("bg_bb"), 4
    theta = family.typical[0]
    inputs = [np.array(theta[name]) for name in family.parameter_names]
    rng = np.random.default_rng(1)
    recency, x = BetaGeoBetaBinom.rv_op.rng_fn(rng, *inputs, np.full(4000, T), None).T
    histories = {
        (x, t_x): math.comb(t_x - 1, x - 1) if x else 1
        for t_x in range(T + 1)
        for x in range(bool(t_x), t_x + 1)
    }
    rows = np.array(list(histories), float)
    columns = {"frequency": rows[:, 0], "recency": rows[:, 1], "T": np.full(len(rows), float(T))}
    mass = np.exp(density(family, theta)(family.vector(theta), columns)) @ np.array(list(histories.values()))
    np.testing.assert_allclose(mass, 1.0, rtol=1e-13)
    ours = family.simulate(theta, np.full(4000, float(T)), np.random.default_rng(1))
    assert ours.time.max() <= T
    assert x.max() > T, MENDED
    assert (recency[x == 0] == T).all(), MENDED


def test_bg_bb_forecasts_from_several_draws_are_wrong_there():
    """Every draw but the first is divided by the likelihood of the first: its P(alive) exceeds 1.

    Who bought at the last opportunity is alive; one draw at a time, it says so too.
    """
    family, T = registry.get("bg_bb"), 4
    draws = np.array([[family.vector(family.typical[0]), family.vector(family.typical[1])]])
    customer = one_customer(2, T, T)
    for theta in draws[0]:
        assert family.p_alive(theta, np.array([2.0, T, T])) == 1.0
    alone = as_fitted(family, draws[:, 1:], customer).expected_probability_alive(future_t=0)
    np.testing.assert_allclose(alone, 1.0, rtol=1e-12)
    theirs = as_fitted(family, draws, customer).expected_probability_alive(future_t=0).values.ravel()
    np.testing.assert_allclose(theirs[0], 1.0, rtol=1e-12)
    assert abs(theirs[1] - 1) > 0.01, MENDED
