"""Fits in which a parameter is a row's own: covariates and pooled levels shift a coordinate of the family.

The PyMC model holds what :mod:`clvmodels.fit.graph` holds, and for each driver the coefficients of its
covariates and the standardised deviations of its pooled levels (not centred: ``u = sd · L z``). The
coordinate that the driver names becomes a vector over patterns, from which a row takes its own entry;
the family's functions do not know of it. Rows fold over (pattern, statistics).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clvmodels.artifacts import FamilyPosterior, Rows, Sampler, Summary
from clvmodels.config import FitConfig, ModelConfig
from clvmodels.effects import Driver, Effects, Patterns, Term, names, patterns
from clvmodels.fit.graph import Target, over_distinct
from clvmodels.fit.maximum import Peak, climb
from clvmodels.fit.priors import Priors, check_effects_of, constants, resolve
from clvmodels.models.family import Family, Scale
from clvmodels.models.links import driven, moved

PATTERN = "pattern"
"""Column of the rows that says which pattern a row has."""
FEW = 12
"""Free quantities up to which ``auto`` tries importance sampling: a t proposal serves so many."""
OVERALL = np.array(0.2)
"""Scale of the half-Cauchy prior of the horseshoe's overall scale: few of the effects are large."""

ACCEPTANCE = 0.9
"""Of NUTS, where scales are estimated: levels that hardly differ make a narrow corner near 0."""
PILOT = 1200
"""Draws from which the main run learns its geometry where scales are estimated."""

_compiled: dict[tuple, tuple[Family, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Design:
    """The terms of one family and the patterns of the customers it is fitted to."""

    terms: tuple[Term, ...]
    patterns: Patterns

    @classmethod
    def of(cls, terms: Sequence[Term], summary: Summary) -> Design:
        return cls(terms=tuple(terms), patterns=patterns(terms, summary))

    def fold(self, summary: Summary, columns: tuple[str, ...], where: np.ndarray | None) -> Rows:
        """Distinct rows of a pattern and statistics."""
        index = self.patterns.index.astype(float)
        with_pattern = replace(summary, columns={**summary.columns, PATTERN: index})
        return with_pattern.fold((*columns, PATTERN), where)


@dataclass(frozen=True)
class LinkedTarget:
    """The log density of a family's coordinates and effects, moved to the whole real line.

    It is called like :class:`clvmodels.fit.graph.Target`; in the place of the native parameters
    it gives those at the centre, then the coefficients and standard deviations of the effects in the order
    of :func:`clvmodels.effects.names`.
    """

    family: Family
    rows: Rows
    priors: Priors
    design: Design
    model: Any

    @classmethod
    def of(cls, family: Family, rows: Rows, priors: Priors, design: Design) -> LinkedTarget:
        return cls(family, rows, priors, design, build(family, rows, priors, design))

    def __call__(
        self, point: np.ndarray, prior: float = 1.0, jacobian: float = 1.0
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Weighted log density, its gradient, and the quantities at one point."""
        value, quantities, gradient = self._function()(
            point, np.array(prior), np.array(jacobian), *self._data()
        )
        return float(value), gradient, quantities

    def density(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log posterior and quantities at points of shape (n, k); -inf where undefined."""
        found = [self(point) for point in points]
        value = np.array([one for one, _, _ in found])
        return np.where(np.isfinite(value), value, -np.inf), np.array([q for _, _, q in found])

    def start(self, scale: Scale) -> np.ndarray:
        """The start of the family without effects, with effects at 0."""
        plain = Target.of(self.family, self._plain_rows(), self.priors)
        first = {rv.name: value for rv, value in zip(plain.model.free_RVs, plain.start(scale), strict=True)}
        places = self.places()
        out = np.zeros(max(place.stop for place in places.values()))
        for variable in self.model.value_vars:
            name = self.model.values_to_rvs[variable].name
            logarithm = -1.0 if variable.name.endswith("__") else 0.0
            out[places[name]] = first.get(name, logarithm)
        return out

    def places(self) -> dict[str, slice]:
        """Where in a point each free quantity of the model stands."""
        out, at = {}, 0
        for variable in self.model.value_vars:
            rv = self.model.values_to_rvs[variable]
            size = int(np.prod(rv.shape.eval())) if rv.ndim else 1
            out[rv.name] = slice(at, at + size)
            at += size
        return out

    def _plain_rows(self) -> Rows:
        """Rows without their pattern."""
        rows = self.rows
        return Rows(names=rows.names[:-1], stats=rows.stats[:, :-1], weight=rows.weight, index=rows.index)

    def _data(self) -> list[np.ndarray]:
        return [shared.get_value(borrow=True) for shared in self.model.data_vars]

    def _function(self) -> Any:
        """Compiled ``(point, prior, jacobian, *data) -> value, quantities, gradient``, kept by structure."""
        shape = tuple((name, *sorted(spec), spec["dist"]) for name, spec in self.priors.specs.items())
        terms = tuple(
            (t.driver, t.kind, len(t.names), t.estimated_sd, t.horseshoe) for t in self.design.terms
        )
        key = (id(self.family), shape, terms)
        if key not in _compiled:
            _compiled[key] = self.family, self._compile()  # keeps the family, and so its id
        return _compiled[key][1]

    def _compile(self) -> Any:
        import pytensor
        import pytensor.tensor as pt
        from pytensor.graph.replace import clone_replace

        model = self.model
        weights = pt.scalar("prior"), pt.scalar("jacobian")
        log_prior = model.varlogp_nojac
        value = model.potentiallogp + weights[0] * log_prior + weights[1] * (model.varlogp - log_prior)
        quantities = model.replace_rvs_by_values([model["quantities"]])[0]
        point = pt.vector("point")
        places = self.places()
        parts = {}
        for variable in model.value_vars:
            place = places[model.values_to_rvs[variable].name]
            parts[variable] = point[place] if variable.ndim else point[place.start]
        data = {shared: shared.type(shared.name) for shared in model.data_vars}
        value, quantities = clone_replace([value, quantities], parts | data)
        function = pytensor.function(
            [point, *weights, *data.values()],
            [value, quantities, pt.grad(value, point)],
            on_unused_input="ignore",
        )
        function.trust_input = True
        return function


@dataclass(frozen=True)
class Untied:
    """The same density over points in which deviations depend little on their scale.

    A deviation is u = s z with a scale s that is estimated: the sd of a pooled column, or what the horseshoe
    gives to one coefficient. z and s are tied along a curve where the data know u. A point has
    y = (z - m) e^ρ in the place of z:

    * Pooled levels share one scale: m = 0, ρ = w log s. w is the share of what is known of z at the mode that
      comes from the data, near 1 for the centred, near 0 for the non-centred form.
    * A coefficient with a scale of its own, which may be anything from 0 to the slab, and steps of a walk,
      turned so that the data see them one by one (:func:`turned`): if the data say of u what a normal of
      mean û and precision I does, z given s has precision A = 1 + s² I and mean m = s I û / A, so that with
      ρ = log(A) / 2 y is standard normal at any s. I and û are read off the mode.

    Attributes
    ----------
    level
        Places in a point of each deviation's z.
    scale
        Shape (deviation, 2): places of the logarithms whose sum x is the log of its scale (of the second
        for ``own`` alone).
    own
        Shape (deviation,): whether the scale is its own.
    exact
        Shape (deviation,): whether z is taken relative to what the data say of it at the scale.
    slab
        Shape (deviation,): log of the largest scale c, s = e^x / √(1 + (e^x / c)²); infinite where pooled.
    share, information, pull
        w, I and I û, shape (deviation,).
    """

    target: LinkedTarget
    level: np.ndarray
    scale: np.ndarray
    own: np.ndarray
    exact: np.ndarray
    slab: np.ndarray
    share: np.ndarray
    information: np.ndarray
    pull: np.ndarray

    @classmethod
    def of(cls, target: LinkedTarget, mode: Peak) -> Untied:
        places = target.places()
        level: list[int] = []
        scale: list[tuple[int, int]] = []
        own: list[bool] = []
        exact: list[bool] = []
        slab: list[float] = []
        for number, term in enumerate(target.design.terms):
            key = f"{term.driver}_{number}"
            mine = range(places[f"{key}_z"].start, places[f"{key}_z"].stop)
            if term.estimated_sd:
                scale += [(places[f"{key}_sd"].start,) * 2] * len(mine)
            elif term.horseshoe:
                overall = places[f"{term.driver}_overall"].start
                scale += [(places[f"{key}_local"].start + j, overall) for j in range(len(mine))]
            else:
                continue
            level += mine
            own += [term.horseshoe] * len(mine)
            exact += [term.horseshoe or term.kind == "walk"] * len(mine)
            slab += [float(np.log(term.prior_scale)) if term.horseshoe else np.inf] * len(mine)
        known = np.maximum(np.diag(mode.precision)[level], 1.0)
        none = np.zeros(len(level))
        tied = cls(
            target, np.array(level, int), np.array(scale, int).reshape(-1, 2), np.array(own, bool),
            np.array(exact, bool), np.array(slab), 1 - 1 / known, none, none,
        )  # fmt: skip
        s = np.exp(tied.log_scale(mode.point)[0])
        return replace(tied, information=(known - 1) / s**2, pull=mode.point[level] * known / s)

    def log_scale(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log of each deviation's scale, and its slope in x, shape (..., deviation)."""
        x = points[..., self.scale[:, 0]] + np.where(self.own, points[..., self.scale[:, 1]], 0.0)
        beyond = np.logaddexp(0.0, 2 * (x - self.slab))
        return x - beyond / 2, np.exp(-beyond)

    def moments(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """m and ρ of each deviation, and their slopes in x, shape (..., deviation)."""
        log_scale, slope = self.log_scale(points)
        s = np.exp(np.where(self.exact, log_scale, 0.0))
        A = 1 + s**2 * self.information
        known = np.where(self.exact, 1 - 1 / A, self.share)
        mean = np.where(self.exact, s * self.pull / A, 0.0)
        root = np.where(self.exact, np.log(A) / 2, self.share * log_scale)
        return mean, root, mean * (1 - 2 * known) * slope, known * slope

    def inner(self, points: np.ndarray) -> np.ndarray:
        """Points of the target."""
        out = points.copy()
        mean, root, *_ = self.moments(points)
        out[..., self.level] = points[..., self.level] * np.exp(-root) + mean
        return out

    def __call__(self, point: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        mean, root, mean_slope, root_slope = self.moments(point)
        shrink = np.exp(-root)
        away = point[self.level] * shrink
        inner = point.copy()
        inner[self.level] = away + mean
        value, gradient, quantities = self.target(inner)
        of_level = gradient[self.level]
        of_x = of_level * (mean_slope - away * root_slope) - root_slope
        np.add.at(gradient, self.scale[:, 0], of_x)
        np.add.at(gradient, self.scale[self.own, 1], of_x[self.own])
        gradient[self.level] = of_level * shrink
        return value - float(root.sum()), gradient, quantities

    def learned(self, points: np.ndarray) -> tuple[Untied, Peak]:
        """Pooled levels centred as draws of a pilot say, and their mean and covariance in the new points.

        With estimated scales the mode lies far from most of the posterior (a large scale with small z is
        as high as it gets). What the data know of a level is 1 + sd² I by the precision of its z at the
        mode, so that w there gives w at the pilot's sd.

        Parameters
        ----------
        points
            Shape (draw, k), of this density.
        """
        outer = self.inner(points)
        wider = np.exp(2 * self.log_scale(points)[0].mean(axis=0))
        new = replace(self, share=1 - 1 / (1 + self.information * wider))
        mean, root, *_ = new.moments(points)
        outer[:, self.level] = (outer[:, self.level] - mean) * np.exp(root)
        n, k = outer.shape
        covariance = np.cov(outer.T)
        covariance = (n * covariance + k * np.diag(np.diag(covariance))) / (n + k)
        centre = outer.mean(axis=0)
        return new, Peak(centre, new(centre)[0], np.linalg.inv(covariance), True)

    def peak(self, mode: Peak) -> Peak:
        """The mode of the target, and its covariance, in these points."""
        mean, root, mean_slope, root_slope = self.moments(mode.point)
        away = mode.point[self.level] - mean
        point, slope = mode.point.copy(), np.eye(len(mode.point))
        point[self.level] = away * np.exp(root)
        slope[self.level, self.level] = np.exp(root)
        by_x = np.exp(root) * (away * root_slope - mean_slope)
        slope[self.level, self.scale[:, 0]] = by_x
        slope[self.level[self.own], self.scale[self.own, 1]] = by_x[self.own]
        inverse = np.linalg.inv(slope)
        return Peak(point, mode.value, inverse.T @ mode.precision @ inverse, mode.converged)


def build(family: Family, rows: Rows, priors: Priors, design: Design) -> Any:
    """The PyMC model of a family with effects on distinct weighted rows.

    Returns
    -------
    pymc.Model
        ``log_likelihood`` is the weighted sum in nats; ``quantities`` the native parameters at the
        centre, the coefficients, and the standard deviations of pooled terms.
    """
    import pymc as pm
    import pytensor.tensor as pt

    with pm.Model() as model:
        free = {}
        for name, spec in priors.specs.items():
            arguments = {k: pm.Data(f"{name}_{k}", float(v)) for k, v in spec.items() if k != "dist"}
            free[name] = getattr(pm, spec["dist"])(name, **arguments)
        given = {name: pm.Data(name, float(value)) for name, value in priors.constants.items()}
        at = design.patterns.keys[rows[PATTERN].astype(int)]
        roots = [
            turned(term, np.bincount(at[:, j].astype(int), rows.weight, len(term.labels)))
            if term.kind == "walk"
            else None
            for j, term in enumerate(design.terms)
        ]
        coefficients, deviations = _coefficients(design.terms, roots)
        shifts: dict[Driver, Any] = {}
        for driver in driven(family):
            if found := _shift(design, driver, coefficients):
                shifts[driver] = sum(found[1:], found[0])
        coordinates = {**free, **given}
        for driver, coordinate in driven(family).items():
            if driver in shifts:
                coordinates[coordinate.name] = moved(
                    coordinate.domain, coordinates[coordinate.name], shifts[driver], pt
                )
        centre = replace(priors, constants=given).native(family, free)
        theta = {**family.from_coordinates(coordinates), **given}
        pattern = pm.Data("pattern_index", rows[PATTERN].astype(np.int32))
        gathers, stats = {}, {}
        for name in rows.names[:-1]:
            distinct, index = np.unique(rows[name], return_inverse=True)
            stats[name] = pt.vector(name)
            gathers[stats[name]] = pm.Data(name, distinct), pm.Data(f"{name}_index", index.astype(np.int32))
        for name in family.parameter_names:
            value = pt.as_tensor(theta[name])
            if value.ndim:
                theta[name] = pt.vector(name)
                gathers[theta[name]] = value, pattern
        weight = pm.Data("customers", rows.weight)
        per_row = over_distinct(family.log_likelihood(theta, stats), gathers)
        pm.Potential("log_likelihood", (weight * per_row).sum())
        centres = [pt.as_tensor(centre[name]).reshape((1,)) for name in family.parameter_names]
        pm.Deterministic("quantities", pt.concatenate([*centres, *coefficients, *deviations]))
    return model


def turned(term: Term, customers: np.ndarray) -> np.ndarray:
    """L of a walk, turned so that what the data know of ``z`` is about diagonal, shape (label, label).

    z is standard normal and stays so under any rotation Q: u = sd · L Q z is the same walk. With Q the
    eigenvectors of Lᵀ N L, N the customers of each label, each of z moves what the data see by itself.
    """
    root = term.root()
    return root @ np.linalg.eigh(root.T @ (customers[:, None] * root))[1]


def _coefficients(terms: Sequence[Term], roots: Sequence[np.ndarray | None]) -> tuple[list[Any], list[Any]]:
    """Coefficients of each term, and the standard deviations that are estimated."""
    import pymc as pm
    import pytensor.tensor as pt

    coefficients, deviations = [], []
    sparse = {term.driver for term in terms if term.horseshoe}
    overall = {
        driver: pm.HalfStudentT(f"{driver}_overall", nu=1.0, sigma=OVERALL) for driver in sorted(sparse)
    }
    for number, term in enumerate(terms):
        key, size = f"{term.driver}_{number}", len(term.names)
        scale = pm.Data(f"{key}_scale", term.prior_scale)
        z = pm.Normal(f"{key}_z", 0.0, 1.0, shape=size)
        if term.pooled:
            sd = pm.Data(f"{key}_sd", term.sd) if term.sd is not None else pm.HalfNormal(f"{key}_sd", scale)
            root = None if roots[number] is None else pm.Data(f"{key}_root", roots[number])
            coefficients.append(sd * (z if root is None else root @ z))
            if term.sd is None:
                deviations.append(sd.reshape((1,)))
        elif term.horseshoe:
            local = overall[term.driver] * pm.HalfStudentT(f"{key}_local", nu=1.0, sigma=1.0, shape=size)
            coefficients.append(scale * local / pt.sqrt(scale**2 + local**2) * z)
        else:
            coefficients.append(scale * z)
    return coefficients, deviations


def _shift(design: Design, driver: Driver, coefficients: Sequence[Any]) -> list[Any]:
    """Parts of a driver's shift, each of shape (pattern,)."""
    import pymc as pm

    parts = []
    for j, (term, found) in enumerate(zip(design.terms, coefficients, strict=True)):
        keys = design.patterns.keys[:, j]
        if term.driver != driver:
            continue
        if term.pooled:
            parts.append(found[pm.Data(f"{driver}_{j}_level", keys.astype(np.int32))])
        else:
            parts.append(pm.Data(f"{driver}_{j}_entries", term.entries(keys)) @ found)
    return parts


def _by_nuts(
    target: LinkedTarget,
    mode: Peak,
    options: FitConfig,
    stream: np.random.SeedSequence,
    stage: Callable[[str], Callable[[float], None]],
) -> tuple[np.ndarray, int]:
    """Draws of the quantities by NUTS, shape (chain, draw, quantity), and how many diverged.

    Coefficients alone are about normal around the mode, whose curvature scales them. Scales of pooled
    levels and of a horseshoe are not: there a pilot tells mean, covariance and how far to centre.
    """
    from clvmodels.fit import nuts

    first, second = (int(seed) for seed in stream.generate_state(2))
    untied = Untied.of(target, mode)
    around, tune, acceptance = untied.peak(mode), min(options.tune, nuts.STEPS), 0.8
    if any(term.estimated_sd or term.horseshoe for term in target.design.terms):
        points, _ = nuts.sample(
            untied, around, options.chains, tune, PILOT, first, ACCEPTANCE, stage("NUTS, pilot")
        )
        untied, around = untied.learned(points.reshape(-1, points.shape[2]))
        tune, acceptance = options.tune, ACCEPTANCE
    points, divergences = nuts.sample(
        untied, around, options.chains, tune, options.draws, second, acceptance, stage("NUTS")
    )
    draws = np.array([untied(point)[2] for point in points.reshape(-1, points.shape[2])])
    return draws.reshape(*points.shape[:2], -1), divergences


def fit_linked(
    family: Family,
    summary: Summary,
    where: np.ndarray | None,
    terms: Sequence[Term],
    model: ModelConfig,
    options: FitConfig,
    stream: np.random.SeedSequence,
    scale: Scale,
    stage: Callable[[str], Callable[[float], None]],
) -> FamilyPosterior:
    """Fit one family with effects.

    Parameters
    ----------
    where
        Mask of the customers that the family sees.
    terms
        Those of this family's drivers.
    stage
        ``name -> (share -> None)`` for progress.

    Raises
    ------
    InputError
        If the config's model cannot carry effects.
    """
    from clvmodels.fit import importance
    from clvmodels.fit.convergence import K_HAT_MAX, diagnose

    check_effects_of(family, model, {term.driver for term in terms})
    design = Design.of(terms, summary)
    rows = design.fold(summary, family.statistics, where)
    given = {name: float(value) for name, value in constants(family, model).items()}
    priors = resolve(family, model, scale, given)
    stage("compiling")(0.0)
    target = LinkedTarget.of(family, rows, priors, design)
    mode = climb(lambda point: target(point)[:2], target.start(scale))
    stage("maximum")(1.0)
    count = len(family.parameter_names)
    diagnostics: dict[str, Any] = {"maximum_converged": mode.converged, "dimension": len(mode.point)}

    def posterior(quantities: np.ndarray, sampler: Sampler) -> FamilyPosterior:
        return FamilyPosterior(
            family=family.name,
            parameters=family.parameter_names,
            draws=np.ascontiguousarray(quantities[:, :, :count]),
            sampler=sampler,
            maximum={},
            diagnostics=diagnostics,
            priors={name: dict(spec) for name, spec in priors.specs.items()},
            rows=len(rows.weight),
            customers=int(rows.weight.sum()),
            settings=dict(priors.constants),
            effects=Effects(terms=design.terms, draws=np.ascontiguousarray(quantities[:, :, count:])),
        )

    every = (*family.parameter_names, *names(design.terms))
    if options.sampler == "map":
        for kind in ("ess_bulk", "ess_tail", "r_hat"):
            diagnostics[kind] = dict.fromkeys(every)
        return posterior(target(mode.point)[2][None, None], "map")
    first, second = stream.spawn(2)
    sampler: Sampler = "importance" if options.sampler == "importance" else "nuts"
    draws: np.ndarray | None = None
    if options.sampler == "importance" or (options.sampler == "auto" and len(mode.point) <= FEW):
        sample = importance.sample(
            target.density,
            mode.point,
            mode.covariance,
            options.draws,
            np.random.default_rng(first),
            stage("importance sampling"),
        )
        found = {"k_hat": sample.k_hat, "ess": sample.ess, "proposals": sample.proposals}
        if options.sampler == "importance" or sample.k_hat <= K_HAT_MAX:
            sampler, draws = "importance", sample.draws[None]
            diagnostics |= found
    if draws is None:
        draws, diagnostics["divergences"] = _by_nuts(target, mode, options, second, stage)
    # Given parameters do not vary, and neither do the levels of a pool whose sd is 0.
    fixed = {name for name, column in zip(every, draws.reshape(-1, draws.shape[2]).T, strict=True)
             if name in priors.constants or (column == column[0]).all()}  # fmt: skip
    diagnostics |= diagnose(draws, every, fixed, independent=sampler == "importance")
    return posterior(draws, sampler)
