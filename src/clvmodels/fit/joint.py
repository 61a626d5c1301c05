"""From a summary to joint posterior draws of the purchase and the spend family."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from clvmodels.artifacts import FamilyPosterior, Posterior, Rows, Sampler, Summary
from clvmodels.config import FitConfig, ModelConfig
from clvmodels.effects import Term
from clvmodels.fit.priors import AUTO, check_data, check_model, constants, fixed, is_given, measure, resolve
from clvmodels.models.family import Family, Scale

if TYPE_CHECKING:
    from clvmodels.fit import importance
    from clvmodels.fit.graph import Target
    from clvmodels.fit.maximum import Peak

Progress = Callable[[str, float | None], None]


def fit(
    summary: Summary,
    purchases: ModelConfig,
    spend: ModelConfig,
    options: FitConfig,
    seed: int,
    progress: Progress | None = None,
    terms: Sequence[Term] = (),
    *,
    maximum: bool = True,
) -> Posterior:
    """Fit both families; draw d of one meets draw d of the other.

    The posteriors are independent given the data, so the pairing is arbitrary; it is
    fixed by the seed.

    Parameters
    ----------
    summary
        Customers; the spend family sees those who spent something on repeat purchases.
    options
        Sampler and number of draws.
    progress
        Called with a stage and the share of it that is done, 0 to 1.
    terms
        Covariates and pooled columns, see :mod:`clvmodels.effects`; with any, ``options.draws`` are
        rounded up to a multiple of the chains.
    maximum
        Whether the likelihood's maximum is sought too, where there are no terms. No draw depends on it, and
        where a small log's likelihood has none inside the search is long.

    Raises
    ------
    InputError
        If the data cannot carry the model, or the model is wrong in itself.
    """
    families = check_model(purchases, "purchases"), check_model(spend, "spend")
    check_data(summary, purchases, spend)
    if terms:
        from clvmodels.fit.links import fit_linked

        even = -(-options.draws // options.chains) * options.chains
        options = options.model_copy(update={"draws": even})
    parts = []
    for family, model, where, stream in zip(
        families,
        (purchases, spend),
        (None, summary.spenders),
        np.random.SeedSequence(seed).spawn(2),
        strict=True,
    ):
        mine = [term for term in terms if (term.driver == "spend") == (family.role == "spend")]
        if mine:
            stage = _stages(family, progress)
            data_scale = measure(summary)
            parts.append(fit_linked(family, summary, where, mine, model, options, stream, data_scale, stage))
            continue
        free = not is_given(family, model)
        rows, scale = (summary.fold(family.statistics, where), measure(summary)) if free else (None, None)
        parts.append(fit_family(family, rows, model, options, stream, scale, progress, maximum=maximum))
    return Posterior(
        purchases=parts[0], spend=parts[1], time_unit=summary.time_unit, currency=summary.currency
    )


def fit_family(
    family: Family,
    rows: Rows | None,
    model: ModelConfig,
    options: FitConfig,
    seed: int | np.random.SeedSequence,
    scale: Scale | None,
    progress: Progress | None = None,
    *,
    maximum: bool = True,
) -> FamilyPosterior:
    """Fit one family to distinct rows.

    Parameters
    ----------
    rows
        Columns ``family.statistics``; None where the parameters are fixed.
    model
        Its priors, or its parameters.
    scale
        The data's own scale, for default priors and the start; None where the parameters are fixed.
    maximum
        Whether the likelihood's maximum is sought too.

    Returns
    -------
    FamilyPosterior
        The same bits for the same seed, and for customers in any order.
    """
    if is_given(family, model):
        point = family.vector(fixed(family, model))
        return _single(family, point, "fixed", maximum={}, diagnostics={}, priors={}, rows=0, customers=0)
    if rows is None or scale is None:
        raise ValueError(f"{family.name} cannot be fitted without rows and their scale")

    from clvmodels.fit import nuts
    from clvmodels.fit.convergence import diagnose
    from clvmodels.fit.maximum import climb, likelihood

    stage = _stages(family, progress)
    sampler = "importance" if options.sampler == "auto" else options.sampler
    stage("compiling")(0.0)
    target, mode, evidence = _choose(family, rows, model, scale)
    diagnostics: dict[str, Any] = {**evidence}
    highest: dict[str, float] = {}
    if maximum:
        highest, peak = likelihood(target, mode.point, scale)
        diagnostics["maximum_converged"] = peak.converged
        stage("maximum")(1.0)
    common: dict[str, Any] = {
        "maximum": highest,
        "diagnostics": diagnostics,
        "priors": {name: dict(spec) for name, spec in target.priors.specs.items()},
        "rows": len(rows.weight),
        "customers": int(rows.weight.sum()),
        "settings": dict(target.priors.constants),
    }
    if sampler == "map":
        mode = climb(lambda point: target(point, 1.0, 0.0)[:2], mode.point)
        return _single(family, target(mode.point)[2], "map", **common)
    stream = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    if sampler == "nuts":
        points, diagnostics["divergences"] = nuts.sample(
            target,
            mode,
            options.chains,
            min(options.tune, nuts.STEPS),
            options.draws,
            int(stream.generate_state(1)[0]),
            progress=stage("NUTS"),
            bend=True,
        )
        draws = target.native(points.reshape(-1, points.shape[2])).reshape(*points.shape[:2], -1)
    else:
        found, more = _importance(target, mode, options.draws, stream, stage("importance sampling"))
        draws = found.draws[None]
        diagnostics |= {"k_hat": found.k_hat, "ess": found.ess, "proposals": found.proposals, **more}
    diagnostics |= diagnose(
        draws, family.parameter_names, target.priors.constants, independent=sampler == "importance"
    )
    return FamilyPosterior(
        family=family.name, parameters=family.parameter_names, draws=draws, sampler=sampler, **common
    )


def _stages(family: Family, progress: Progress | None) -> Callable[[str], Callable[[float], None]]:
    """``name -> (share -> None)``: progress of a family's stages."""

    def stage(name: str) -> Callable[[float], None]:
        return lambda share: progress(f"{family.title}: {name}", share) if progress else None

    return stage


def _choose(
    family: Family, rows: Rows, model: ModelConfig, scale: Scale
) -> tuple[Target, Peak, dict[str, Any]]:
    """The posterior and its mode, with constants that are ``auto`` at their best choice.

    Returns
    -------
    target, mode, evidence
        ``evidence`` holds the log marginal likelihood (Laplace) of every choice, where there was one.
    """
    from clvmodels.fit.graph import Target
    from clvmodels.fit.maximum import climb

    asked = constants(family, model)
    choices = {p.name: p.choices for p in family.parameters if asked.get(p.name) == AUTO}
    found = []
    for values in itertools.product(*choices.values()):
        given = cast("dict[str, float]", asked) | dict(zip(choices, values, strict=True))
        target = Target.of(family, rows, resolve(family, model, scale, given))
        found.append((target, climb(partial(_posterior, target), target.start(scale))))
    target, mode = max(found, key=lambda pair: pair[1].log_integral)
    evidence = [
        {name: t.priors.constants[name] for name in choices} | {"log_evidence": peak.log_integral}
        for t, peak in found
    ]
    return target, mode, {"choices": evidence} if choices else {}


def _importance(
    target: Target,
    mode: Peak,
    draws: int,
    stream: np.random.SeedSequence,
    progress: Callable[[float], None],
) -> tuple[importance.Sample, dict[str, float]]:
    """Draws of native parameters: by way of a polynomial, where evaluations are dear and it will do."""
    from clvmodels.fit import importance, surrogate
    from clvmodels.fit.convergence import K_HAT_MAX

    rng = np.random.default_rng(stream)
    if target.dear:
        found, error = surrogate.draw(
            partial(_posterior, target), mode.point, mode.covariance, draws, rng, progress
        )
        if error <= surrogate.LARGEST_ERROR and found.k_hat <= K_HAT_MAX:
            return replace(found, draws=target.native(found.draws)), {"log_weight_error": error}
    return importance.sample(target.density, mode.point, mode.covariance, draws, rng, progress), {}


def _posterior(target: Target, point: np.ndarray) -> tuple[float, np.ndarray]:
    return target(point)[:2]


def _single(family: Family, point: np.ndarray, sampler: Sampler, **rest: Any) -> FamilyPosterior:
    """One parameter vector: nothing to diagnose."""
    for kind in ("ess_bulk", "ess_tail", "r_hat"):
        rest["diagnostics"][kind] = dict.fromkeys(family.parameter_names)
    return FamilyPosterior(
        family=family.name,
        parameters=family.parameter_names,
        draws=point[None, None],
        sampler=sampler,
        **rest,
    )
