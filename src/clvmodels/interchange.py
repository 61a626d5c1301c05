"""Models of pymc-marketing become runs, and runs become models of pymc-marketing.

What a family is called there is said in its own file (``peer``). Reading a fitted model needs its
draws and its data only, so that a saved one is read without that package; it is imported to make
models, and comes with the extra ``interchange``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clvmodels.artifacts import FamilyPosterior, Posterior, Summary
from clvmodels.errors import ConvergenceError, InputError
from clvmodels.models import registry
from clvmodels.models.family import Family, PurchaseFamily

PACKAGE = "pymc-marketing"
_OURS = "clvmodels"  # attribute of draws that came from here


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A model that was fitted there.

    Attributes
    ----------
    draws
        Shape (chain, draw, parameter), in the order of the family's parameters.
    table
        The customers it was fitted to, as a pandas DataFrame; None where they were not kept.
    diverged
        Number of divergent transitions.
    priors
        Of the variables that were drawn.
    attrs
        Of the posterior; draws that came from here say so.
    """

    family: Family
    draws: np.ndarray
    table: Any
    diverged: int
    priors: Mapping[str, Any]
    attrs: Mapping[str, Any]


def read(model: Any, role: Literal["purchases", "spend"]) -> Fitted:
    """Draws and data of a fitted model.

    Parameters
    ----------
    model
        A fitted model of pymc-marketing, or the path of one that was saved.

    Raises
    ------
    InputError
        If it is not fitted, is of a kind that has no family here, has the wrong role or covariates.
    """
    tree, kind, what = _opened(model, role)
    family = _family(kind, role, what)
    assert family.peer is not None
    if tree is None or "posterior" not in tree.children:
        raise InputError(f"{what} is not fitted: call its fit first.")
    posterior = tree["posterior"].to_dataset()
    names = {name: family.peer.renamed.get(name, name) for name in family.parameter_names}
    missing = [name for name in names.values() if name not in posterior]
    if missing:
        raise InputError(f"{what} has no draws of {', '.join(missing)}: it is not a {family.title} model.")
    for name in names.values():
        if extra := set(posterior[name].dims) - {"chain", "draw"}:
            raise InputError(
                f"{what}: {name} differs by {', '.join(map(str, sorted(extra)))}, so that the model has "
                "covariates; only models without covariates can be valued here."
            )
    columns = [posterior[name].transpose("chain", "draw").values for name in names.values()]
    draws = np.stack(columns, axis=-1).astype(float)
    for parameter, column in zip(family.parameters, columns, strict=True):
        positive = parameter.domain == "real" or (column > 0).all()
        if not (positive and np.isfinite(column).all()):
            raise InputError(
                f"{what}: draws of {names[parameter.name]} are not all {parameter.domain}: refit it."
            )
    statistics = tree["sample_stats"] if "sample_stats" in tree.children else {}
    priors = json.loads(tree.attrs.get("model_config", "{}"))
    return Fitted(
        family=family,
        draws=draws,
        table=tree["fit_data"].to_dataset().to_dataframe() if "fit_data" in tree.children else None,
        diverged=int(statistics["diverging"].sum()) if "diverging" in statistics else 0,
        priors={k: v for k, v in priors.items() if k in posterior and isinstance(v, dict) and "dist" in v},
        attrs=posterior.attrs,
    )


def document(
    parts: Sequence[Fitted], value: Mapping[str, Any] | None, config: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The config of a run whose models are given: what the models do not say comes from the user.

    Raises
    ------
    InputError
        If the user names other models, or does not say in which unit the models count time.
    """
    if config is not None and not isinstance(config, Mapping):
        raise InputError("config is a mapping of config keys here, such as {'data': {'time_unit': 'week'}}.")
    config = dict(config or {})
    if "models" in config:
        raise InputError("config.models: the models are those that were fitted; leave it out.")
    purchases, spend = (part.family for part in parts)
    assert isinstance(purchases, PurchaseFamily)
    told = {k: v for k, v in parts[0].attrs.items() if k in ("time_unit", "currency", "observation_end")}
    data = {"kind": "summary", "clock": purchases.clock, "columns": {"customer": "customer_id"}}
    data |= told | dict(config.get("data", {}))
    if "time_unit" not in data:
        raise InputError(
            "config.data.time_unit is missing: the fitted model does not say whether its recency and T are "
            "counted in days, weeks, months or years."
        )
    point = all(part.draws.shape[:2] == (1, 1) for part in parts)
    stored = json.loads(parts[0].attrs.get(_OURS, "{}")).get("sampler", "nuts")
    sampler = "map" if point else "importance" if stored == "importance" else "nuts"
    return {
        "name": "imported",
        **config,
        **({} if value is None else {"value": value}),
        "data": data,
        "models": {"purchases": {"family": purchases.name}, "spend": {"family": spend.name}},
        "fit": {"sampler": sampler, **config.get("fit", {})},
    }


def customers(parts: Sequence[Fitted]) -> Any:
    """The customers of the purchase model, with the spend model's ``monetary_value`` where it has none.

    Raises
    ------
    InputError
        If the purchase model was saved without its data.
    """
    purchases, spend = (part.table for part in parts)
    if purchases is None:
        raise InputError("the purchase model was saved without its data: pass the customers as data.")
    if "monetary_value" in purchases or spend is None or "monetary_value" not in spend:
        return purchases
    return purchases.merge(spend[["customer_id", "monetary_value"]], how="left", on="customer_id")


def posterior(parts: Sequence[Fitted], summary: Summary, *, allow_unconverged: bool = False) -> Posterior:
    """Joint draws of both models; where one has longer chains, it is thinned evenly.

    Raises
    ------
    InputError
        If repeat buyers have no spend, or the chains of the two models cannot be paired.
    ConvergenceError
        If the draws do not pass the gate.
    """
    from clvmodels import fit as fitting

    bare = (summary["frequency"] > 0) & np.isnan(summary["monetary_value"])
    if bare.any():
        raise InputError(
            f"{bare.sum():,} of {len(summary):,} customers bought again and have no monetary_value: pass the "
            "customers as data, with frequency, recency, T and monetary_value."
        )
    purchases, spend = (
        _family_posterior(part, draws) for part, draws in zip(parts, _paired(parts), strict=True)
    )
    joint = Posterior(
        purchases=purchases, spend=spend, time_unit=summary.time_unit, currency=summary.currency
    )
    failed = [check.sentence.rstrip(".") for check in fitting.gate(joint) if check.passed is False]
    if failed and not allow_unconverged:
        raise ConvergenceError(
            f"the draws of the fitted models did not converge: {'; '.join(failed)}. Sample them there with "
            "more chains and draws, or set fit.allow_unconverged in config."
        )
    return joint


def models(summary: Summary, draws: Posterior) -> tuple[Any, Any]:
    """The purchase and the spend model as objects of pymc-marketing, with these draws inside.

    Returns
    -------
    tuple
        None in the place of a family that the package does not have.

    Raises
    ------
    InputError
        If it is not installed, has neither family, or refuses the customers.
    """
    parts = {"purchases": draws.purchases, "spend": draws.spend}
    peers = {role: registry.get(part.family).peer for role, part in parts.items()}
    if not any(peers.values()):
        raise InputError(
            f"{PACKAGE} has neither {draws.purchases.family} nor {draws.spend.family}: nothing to convert."
        )
    datasets = draws.to_datasets()
    make = partial(_made, observation_end=summary.observation_end.isoformat())
    found = [
        None if peer is None else make(parts[role], datasets[role], _table(summary, role))
        for role, peer in peers.items()
    ]
    return found[0], found[1]


def _opened(model: Any, role: str) -> tuple[Any, str, str]:
    """DataTree of a model, its kind and what messages call it."""
    import xarray as xr

    what = "spend_model" if role == "spend" else "model"
    if isinstance(model, str | Path):
        path = Path(model)
        if not path.exists():
            raise InputError(f"{what}: there is no file {path}.")
        try:
            opened = xr.open_datatree(path, engine="zarr" if path.is_dir() else "h5netcdf")
            with opened as lazy:
                tree = lazy.load()
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a saved model of {PACKAGE} ({error}).") from error
        what, kind = str(path), ""
    else:
        tree, kind = getattr(model, "idata", None), getattr(model, "_model_type", "")
        if not kind:
            raise InputError(
                f"{what} is a {type(model).__name__}: pass a fitted model of {PACKAGE}, or its file."
            )
    return tree, kind or str(tree.attrs.get("model_type", "")), what


def _family(kind: str, role: str, what: str) -> Family:
    """The family of that kind."""
    peers = {k: family for family in registry.families() if family.peer for k in family.peer.kinds}
    family = peers.get(kind)
    if family is None:
        raise InputError(
            f"{what} is of kind {kind or 'unknown'!r}, which cannot be read; these can: {', '.join(peers)}."
        )
    if (family.role == "spend") != (role == "spend"):
        order = "the purchase model comes first, the spend model second"
        raise InputError(f"{what} is a {family.title} model, which is a model of {family.role}: {order}.")
    return family


def _paired(parts: Sequence[Fitted]) -> list[np.ndarray]:
    """Draws of equal number, unless one is a single vector."""
    many = [part.draws for part in parts if part.draws.shape[:2] != (1, 1)]
    if len({len(d.reshape(-1, d.shape[2])) for d in many}) < 2:
        return [part.draws for part in parts]
    if len({len(d) for d in many}) > 1:
        sizes = " and ".join(f"{d.shape[0]} x {d.shape[1]}" for d in many)
        raise InputError(f"the models have {sizes} draws (chains x draws): fit both with as many chains.")
    length = min(d.shape[1] for d in many)
    thinned = []
    for part in parts:
        n = part.draws.shape[1]
        keep = slice(None) if n == 1 else np.linspace(0, n - 1, length).round().astype(int)
        thinned.append(part.draws[:, keep])
    return thinned


def _family_posterior(part: Fitted, draws: np.ndarray) -> FamilyPosterior:
    from clvmodels.fit.convergence import diagnose

    family, stored = part.family, json.loads(part.attrs.get(_OURS, "{}"))
    names = family.parameter_names
    if not stored:
        table = part.table
        columns = [s for s in family.statistics if table is not None and s in table]
        stored = {
            "family": family.name,
            "sampler": "map" if draws.shape[:2] == (1, 1) else "nuts",
            "maximum": {},
            "diagnostics": {"divergences": part.diverged},
            "priors": dict(part.priors),
            "rows": 0 if table is None else len(table[columns].drop_duplicates()),
            "customers": 0 if table is None else len(table),
        }
    if draws.shape[:2] == (1, 1):
        found: dict[str, Any] = {kind: dict.fromkeys(names) for kind in ("ess_bulk", "ess_tail", "r_hat")}
    else:
        found = diagnose(draws, names, (), independent=stored["sampler"] == "importance")
    diagnostics = {**stored["diagnostics"], **found}
    return FamilyPosterior(parameters=names, draws=draws, **(stored | {"diagnostics": diagnostics}))


def _table(summary: Summary, role: str) -> Any:
    """Customers as that package keeps them: whole numbers where they count, spend 0 without any."""
    import pandas as pd

    whole = ("frequency", "recency", "T") if summary.clock == "discrete" else ("frequency",)
    columns = {name: summary[name] for name in ("frequency", "recency", "T")}
    columns |= {name: columns[name].astype(int) for name in whole}
    columns["monetary_value"] = np.nan_to_num(summary["monetary_value"])
    table = pd.DataFrame({"customer_id": summary.customer, **columns})
    return table[summary.spenders].reset_index(drop=True) if role == "spend" else table


def _made(part: FamilyPosterior, draws: Any, table: Any, observation_end: str) -> Any:
    """One model of theirs, as a fit would leave it."""
    import xarray as xr

    peer = registry.get(part.family).peer
    assert peer is not None
    try:
        from pymc_extras.prior import Prior
        from pymc_marketing import clv
    except ImportError:
        raise InputError(
            f"{PACKAGE} is not installed: pip install 'clvmodels[interchange]' brings it."
        ) from None
    draws = draws.rename({ours: theirs for ours, theirs in peer.renamed.items() if ours in draws})
    model = getattr(clv, peer.model)(model_config={str(name): Prior("HalfFlat") for name in draws.data_vars})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "T=0 is uninformative", UserWarning)
            model.build_model(table)
    except ValueError as error:
        raise InputError(f"{PACKAGE} cannot hold these customers in its {peer.model}: {error}.") from error
    graph = model.model
    observed = {
        rv.name: (graph.named_vars_to_dims[rv.name], graph.rvs_to_values[rv].eval())
        for rv in graph.observed_RVs
    }
    coords = {dim: list(graph.coords[dim]) for dims, _ in observed.values() for dim in dims}
    model.idata = xr.DataTree.from_dict(
        {
            "posterior": draws.assign_attrs(observation_end=observation_end),
            "observed_data": xr.Dataset(observed, coords=coords),
            "fit_data": model.create_fit_data_group(),
        }
    )
    model.set_idata_attrs()
    model.is_fitted_ = True
    return model
