"""Priors: what the config says, checked against the family and completed by its defaults."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from clvmodels.artifacts import Summary
from clvmodels.config import ModelConfig, ModelsConfig
from clvmodels.effects import DRIVERS, Driver
from clvmodels.errors import InputError
from clvmodels.models import links, registry
from clvmodels.models.family import Domain, Family, Parameter, PriorSpec, PurchaseFamily, Scale, SpendFamily

FLAT: Mapping[Domain, PriorSpec] = {
    "positive": {"dist": "HalfFlat"},
    "unit": {"dist": "Uniform", "lower": 0.0, "upper": 1.0},
    "real": {"dist": "Flat"},
}
"""The flat prior on a domain; on native parameters it makes the posterior the likelihood."""

_LIMITS: Mapping[Domain, tuple[float, float]] = {
    "positive": (0.0, math.inf),
    "unit": (0.0, 1.0),
    "real": (-math.inf, math.inf),
}


AUTO = "auto"
"""Setting of a constant: the one of its choices with the highest marginal likelihood."""


@dataclass(frozen=True, kw_only=True)
class Priors:
    """What is free and what is given in a fit.

    Attributes
    ----------
    space
        Whether the free quantities are the family's coordinates or its native parameters.
    specs
        Free quantity → prior as ``{"dist": name, argument: number, ...}``.
    constants
        Native parameters that are given.
    """

    space: Literal["coordinates", "parameters"]
    specs: Mapping[str, PriorSpec]
    constants: Mapping[str, float]

    def native(self, family: Family, free: Mapping[str, Any]) -> dict[str, Any]:
        """All native parameters from the free quantities: floats, arrays or tensors."""
        given = {**free, **self.constants}
        theta = family.from_coordinates(given) if self.space == "coordinates" else given
        return {**theta, **self.constants}


def check_data(summary: Summary, purchases: ModelConfig, spend: ModelConfig) -> None:
    """Check that both models can be fitted to these customers.

    Raises
    ------
    InputError
        If there is nothing to learn from, or a family objects to the data.
    """
    families = registry.get(purchases.family), registry.get(spend.family)
    learns = not is_given(families[0], purchases), not is_given(families[1], spend)
    buyers = int((summary["frequency"] > 0).sum())
    end = summary.observation_end
    if learns[0] and not (summary["T"] > 0).any():
        raise InputError(
            f"all {len(summary):,} customers made their first purchase on {end}, the end of observation, so "
            f"{purchases.family} cannot be fitted: set data.observation_end to a later date."
        )
    none = f"none of {len(summary):,} customers has a repeat purchase by {end}, so"
    free = f"no repeat purchase of {buyers:,} customers has an amount above 0, so"
    if learns[1] and not summary.spenders.any():
        raise InputError(
            f"{free if buyers else none} {spend.family} cannot be fitted: give its parameters as "
            "models.spend.fixed, or choose a spend family that takes the mean spend as given."
        )
    if learns[0] and not buyers:
        raise InputError(
            f"{none} {purchases.family} cannot be fitted: give its parameters as models.purchases.fixed, "
            "or use a longer log."
        )
    for family in families:
        if sentence := _misfit(family, summary):
            raise InputError(f"{_key(family)}.family: {sentence.rstrip('.')}{_others(family, summary)}.")


def _misfit(family: Family, summary: Summary) -> str | None:
    """Why these data cannot be of a family: its clock, or what it says itself."""
    if isinstance(family, PurchaseFamily) and family.clock != summary.clock:
        need = {"continuous": "exact times", "discrete": "opportunities to be counted"}[family.clock]
        return (
            f"{family.name} needs {need}, and these data are on a {summary.clock} clock: set data.clock to "
            f"{family.clock}, where the data allow it"
        )
    missing = {statistic.name for statistic in family.extra_statistics} - set(summary.columns)
    return family.objection(summary.columns) if family.objection and not missing else None


def _others(family: Family, summary: Summary) -> str:
    """The purchase families that have nothing against these data, as the end of a sentence."""
    if not isinstance(family, PurchaseFamily):
        return ""
    families = (f for f in registry.families() if isinstance(f, PurchaseFamily))
    names = [f.name for f in families if _misfit(f, summary) is None]
    return f"; of the families, {', '.join(names)} can use these data" if names else ""


def measure(summary: Summary) -> Scale:
    """The data's own scale.

    Customers acquired on the last day (T = 0) are left out of the median age: they were not
    observed at all. ``spend`` is NaN where nobody spent anything on a repeat purchase.
    """
    x, T, z = summary["frequency"], summary["T"], summary["monetary_value"][summary.spenders]
    return Scale(
        time=float(np.median(T[T > 0])),
        rate=float(x.sum() / T.sum()),
        spend=float(np.median(z)) if len(z) else math.nan,
    )


def check_model(model: ModelConfig, role: Literal["purchases", "spend"] | None = None) -> Family:
    """Check one entry of ``models`` without data; PyMC is imported only for priors of the user's own.

    Parameters
    ----------
    role
        What the family is needed for; None: either.

    Returns
    -------
    Family
        The family that it names.

    Raises
    ------
    InputError
        For an unknown family, setting, parameter, coordinate, distribution or argument, and for
        values outside their domain; the message names the key.
    """
    get = registry.purchases if role == "purchases" else registry.spend if role == "spend" else registry.get
    family: Family = get(model.family)
    key = _key(family)
    constants(family, model)
    if model.fixed is not None:
        if model.priors:
            raise InputError(f"{key}: `fixed` leaves nothing to fit, so `priors` must not be given with it.")
        given = family.vector(fixed(family, model))
        if isinstance(family, SpendFamily) and not family.has_mean(given[None])[0]:
            raise InputError(
                f"{key}.fixed: the mean spend of {family.title} is infinite at these parameters, and so "
                "would equity be: give others, or fit them."
            )
    elif isinstance(model.priors, dict):
        space = _space(family, model.priors)
        domains = {item.name: item.domain for item in getattr(family, space)}
        for name, spec in model.priors.items():
            plain = _plain(f"{key}.priors.{name}", spec)
            _check_prior(f"{key}.priors.{name}", tuple(plain.items()), domains[name])
    return family


def check_effects(models: ModelsConfig) -> None:
    """Check without data that the families can carry the covariates and pooled columns of a config.

    Raises
    ------
    InputError
        If a family knows nothing of a driver, or leaves effects nothing to act on.
    """
    covariates = models.covariates
    drivers = {driver for driver in DRIVERS if getattr(covariates, driver)}
    drivers |= {driver for pool in models.pool for driver in pool.on}
    check_effects_of(registry.get(models.purchases.family), models.purchases, drivers - {"spend"})
    check_effects_of(registry.get(models.spend.family), models.spend, drivers & {"spend"})


def check_effects_of(family: Family, model: ModelConfig, drivers: Set[Driver]) -> None:
    """Check that one model can carry effects on some drivers."""
    if not drivers:
        return
    key, known = _key(family), links.driven(family)
    for driver in DRIVERS:
        if driver in drivers and driver not in known:
            raise InputError(
                f"models.covariates, models.pool: effects on {driver} are asked for, of which {family.name} "
                f"knows nothing (it has {', '.join(known) or 'none'}): choose another family, or leave "
                f"{driver} out."
            )
    if not family.per_row:
        others = (f for f in registry.families(family.role) if f.per_row and drivers <= set(links.driven(f)))
        raise InputError(
            f"models.covariates, models.pool: {family.name} has one set of parameters for all customers; "
            f"{', '.join(f.name for f in others)} can carry effects."
        )
    if is_given(family, model):
        raise InputError(f"{key}: its parameters are given: covariates and pooling have nothing to act on.")
    if AUTO in constants(family, model).values():
        raise InputError(f"{key}.settings: auto does not go with covariates or pooling; give the number.")
    flat_or_native = model.priors == "flat" or (
        isinstance(model.priors, dict) and model.priors and _space(family, model.priors) == "parameters"
    )
    if flat_or_native:
        raise InputError(
            f"{key}.priors: with covariates or pooling, priors stand on coordinates "
            f"({', '.join(family.coordinate_names)}), not on native parameters."
        )


def constants(family: Family, model: ModelConfig) -> dict[str, float | str]:
    """Parameters that are given and not estimated: defaults and ``settings``; a number or ``auto``."""
    key = f"{_key(family)}.settings"
    parameters = {p.name: p for p in family.parameters}
    for name, value in model.settings.items():
        if name not in family.constants:
            raise InputError(f"{key}: {_unknown(name, family.constants)}")
        if value == AUTO and parameters[name].choices:
            continue
        _check_value(f"{key}.{name}", value, parameters[name])
    return {**family.constants, **model.settings}


def is_given(family: Family, model: ModelConfig) -> bool:
    """Whether nothing is left to fit."""
    return model.fixed is not None or not free_names(family)


def fixed(family: Family, model: ModelConfig) -> dict[str, float]:
    """Native parameters as given, in the family's order; constants may be left to their defaults."""
    native = model.fixed or {}
    key = f"{_key(family)}.fixed"
    for name in native:
        if name not in family.parameter_names:
            raise InputError(f"{key}: {_unknown(name, family.parameter_names)}")
    given = {**constants(family, model), **native}
    missing = [name for name in family.parameter_names if given.get(name, AUTO) == AUTO]
    if missing:
        raise InputError(f"{key}: {', '.join(missing)} not given; {family.name} needs all its parameters.")
    for parameter in family.parameters:
        _check_value(f"{key}.{parameter.name}", given[parameter.name], parameter)
    return {name: float(given[name]) for name in family.parameter_names}


def resolve(family: Family, model: ModelConfig, scale: Scale, given: Mapping[str, float]) -> Priors:
    """The priors of a fit: the user's, completed by the family's defaults at the data's scale.

    Parameters
    ----------
    given
        Constants, as numbers.
    """
    if model.priors == "flat":
        return flat(family, given)
    assert isinstance(model.priors, dict)
    key = f"{_key(family)}.priors"
    specs = {name: _plain(f"{key}.{name}", spec) for name, spec in model.priors.items()}
    space = _space(family, specs)
    names = family.coordinate_names if space == "coordinates" else free_names(family)
    if space == "coordinates":
        specs = {name: dict(spec) for name, spec in family.priors(scale).items()} | specs
    return Priors(space=space, specs={name: specs[name] for name in names}, constants=given)


def flat(family: Family, given: Mapping[str, float]) -> Priors:
    """Flat priors on the native parameters: the posterior is the likelihood."""
    specs = {p.name: FLAT[p.domain] for p in family.parameters if p.constant is None}
    return Priors(space="parameters", specs=specs, constants=given)


def free_names(family: Family) -> tuple[str, ...]:
    """Native parameters that are estimated."""
    return tuple(p.name for p in family.parameters if p.constant is None)


def _key(family: Family) -> str:
    return "models.spend" if family.role == "spend" else "models.purchases"


def _space(family: Family, names: Iterable[str]) -> Literal["coordinates", "parameters"]:
    """Which quantities the names stand for: some of the coordinates, or all native parameters."""
    free = free_names(family)
    given, coordinates, parameters = set(names), set(family.coordinate_names), set(free)
    key = f"{_key(family)}.priors"
    for name in sorted(given - coordinates - parameters):
        raise InputError(f"{key}: {_unknown(name, dict.fromkeys([*family.coordinate_names, *free]))}")
    if given == parameters:
        return "parameters"
    if given <= coordinates:
        return "coordinates"
    if given <= parameters:
        missing = [name for name in free if name not in given]
        raise InputError(
            f"{key}: priors on native parameters must cover all of them ({', '.join(missing)} not given), or "
            f"stand on coordinates instead: {', '.join(family.coordinate_names)}."
        )
    native, other = ", ".join(sorted(given - coordinates)), ", ".join(sorted(given & coordinates))
    raise InputError(f"{key}: {native} (native) and {other} (coordinate) cannot be mixed; use one kind.")


def _plain(key: str, spec: Any) -> dict[str, Any]:
    """``{dist: LogNormal, mu: 0, sigma: 1}``, also from the nested form with ``kwargs``."""
    if not isinstance(spec, Mapping) or "dist" not in spec:
        form = "{dist: LogNormal, mu: 0, sigma: 1}"
        raise InputError(f"{key}: a prior is written like {form}, not {spec!r}.")
    plain = {name: value for name, value in spec.items() if name != "kwargs"} | dict(spec.get("kwargs", {}))
    for name, value in plain.items():
        if name != "dist" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{key}.{name}: {value!r} is not a number.")
    return plain


def _check_value(key: str, value: Any, parameter: Parameter) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{key}: {value!r} is not a number.")
    low, high = _LIMITS[parameter.domain]
    if not low < value < high:
        raise InputError(f"{key}: {value:g} is not {_words(parameter.domain)}.")
    if parameter.choices and value not in parameter.choices:
        choices = ", ".join(f"{choice:g}" for choice in parameter.choices)
        raise InputError(f"{key}: {value:g} is none of {choices}.")


@cache
def _check_prior(key: str, items: tuple[tuple[str, Any], ...], domain: Domain) -> None:
    """Refuse a prior that PyMC does not know or that leaves the domain, once for each."""
    import pymc as pm

    spec: PriorSpec = dict(items)
    known = [
        name
        for name, value in vars(pm).items()
        if isinstance(value, type) and issubclass(value, pm.Continuous) and hasattr(value, "dist")
    ]
    if spec["dist"] not in known:
        raise InputError(f"{key}.dist: {_unknown(spec['dist'], known, listed=False)}")
    distribution = getattr(pm, spec["dist"])
    arguments = {name: value for name, value in spec.items() if name != "dist"}
    accepted = [name for name in inspect.signature(distribution.dist).parameters if "args" not in name]
    for name in arguments:
        if name not in accepted:
            raise InputError(f"{key}: {_unknown(name, accepted)}")
    try:
        variable = distribution.dist(**arguments)
        centre = float(pm.distributions.distribution.support_point(variable).eval(mode="FAST_COMPILE"))
        pm.logp(variable, centre).eval(mode="FAST_COMPILE")
    except (ValueError, TypeError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{key}: {spec['dist']} does not accept {arguments} ({problem}).") from error
    from clvmodels.fit.graph import support

    low, high = support(variable)
    if low < _LIMITS[domain][0] or high > _LIMITS[domain][1]:
        raise InputError(
            f"{key}: {spec['dist']} reaches from {low:g} to {high:g}, but this quantity is {_words(domain)}."
        )


def _words(domain: Domain) -> str:
    return {"positive": "a positive number", "unit": "between 0 and 1", "real": "a finite number"}[domain]


def _unknown(name: str, known: Iterable[str], *, listed: bool = True) -> str:
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {name!r}{hint}" + (f" Known: {', '.join(known) or 'none'}." if listed else "")
