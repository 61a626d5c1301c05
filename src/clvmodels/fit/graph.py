"""One PyMC model from a family, and its log density as a compiled function.

The PyMC model is the one source of the density. It holds the priors, the native
parameters as deterministics, and the log-likelihood of distinct rows times their number
of customers as one potential. Data and the arguments of priors are ``pm.Data``: they
become inputs of the compiled function, so that one compilation serves every data set of
a process and PyTensor's cache on disk serves the next process.

A column of statistics enters as its distinct values and an index. What a likelihood computes
from one column and parameters alone, such as log Γ(r + x) or log(α + T), is computed once
for each distinct value (:func:`over_distinct`): a fourth of the time on 330,000 rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from clvmodels.artifacts import Rows
from clvmodels.errors import InputError
from clvmodels.fit.priors import Priors
from clvmodels.models.family import Family, Scale

MANY_ROWS = 5_000
"""From this number of distinct rows on an evaluation is dear: a polynomial takes its place where that is
good enough (:mod:`clvmodels.fit.surrogate`); where not, compiling the density once more without its gradient
(0.4 s) costs less than computing gradients that proposals do not need (30 ns a row)."""

_compiled: dict[tuple, tuple[Family, Any]] = {}


def build(family: Family, rows: Rows, priors: Priors) -> Any:
    """The PyMC model of a family on distinct weighted rows.

    Returns
    -------
    pymc.Model
        Free variables named as in ``priors``; ``log_likelihood`` is the weighted sum in nats.
    """
    import pymc as pm
    import pytensor.tensor as pt

    with pm.Model() as model:
        free = {}
        for name, spec in priors.specs.items():
            arguments = {k: pm.Data(f"{name}_{k}", float(v)) for k, v in spec.items() if k != "dist"}
            free[name] = getattr(pm, spec["dist"])(name, **arguments)
        given = {name: pm.Data(name, float(value)) for name, value in priors.constants.items()}
        theta = replace(priors, constants=given).native(family, free)
        for name in family.parameter_names:
            if name not in model:
                pm.Deterministic(name, theta[name])
        stats, gathers = {}, {}
        for name in rows.names:
            distinct, index = np.unique(rows[name], return_inverse=True)
            stats[name] = pt.vector(name)
            gathers[stats[name]] = pm.Data(name, distinct), pm.Data(f"{name}_index", index.astype(np.int32))
        weight = pm.Data("customers", rows.weight)
        per_row = over_distinct(family.log_likelihood(theta, stats), gathers)
        pm.Potential("log_likelihood", (weight * per_row).sum())
    return model


def over_distinct(output: Any, gathers: Mapping[Any, tuple[Any, Any]]) -> Any:
    """Replace columns by ``distinct[index]``, and index as late as possible.

    Parameters
    ----------
    output
        Graph of one entry per row.
    gathers
        Column → (distinct values, index). An elementwise operation on one column and scalars is
        moved to the distinct values; one on two columns, if it calls itself costly, to the distinct pairs.
    """
    from pytensor.graph.replace import graph_replace
    from pytensor.graph.traversal import io_toposort
    from pytensor.tensor.elemwise import Elemwise

    moved = dict(gathers)
    pairs: dict[tuple[Any, ...], tuple[Any, Any, Any]] = {}
    nodes = io_toposort(list(gathers), [output])
    for node in nodes:
        costly = getattr(getattr(node.op, "scalar_op", node.op), "costly", False)
        if not (costly or isinstance(node.op, Elemwise)):
            continue
        indices = {moved[i][1] for i in node.inputs if i in moved}
        if not all(i in moved or all(i.type.broadcastable) for i in node.inputs):
            continue
        if len(indices) == 1:
            index = indices.pop()
            inputs = [moved[i][0] if i in moved else i for i in node.inputs]
        elif len(indices) == 2 and costly:
            key = tuple(sorted(indices, key=lambda index: index.name))
            if key not in pairs:
                pairs[key] = _pairs(*key)
            *members, index = pairs[key]
            member = dict(zip(key, members, strict=True))
            inputs = [moved[i][0][member[moved[i][1]]] if i in moved else i for i in node.inputs]
        else:
            continue
        over_distinct = node.op(*inputs, return_list=True)
        moved |= {old: (new, index) for old, new in zip(node.outputs, over_distinct, strict=True)}
    ends = [i for node in nodes if node.outputs[0] not in moved for i in node.inputs if i in moved]
    if output in moved:
        ends = [output]
    for replaced in (ends, gathers):  # what was moved may use scalars that come from whole columns
        output = graph_replace([output], {v: moved[v][0][moved[v][1]] for v in replaced}, strict=False)[0]
    return output


def _pairs(first: Any, second: Any) -> tuple[Any, Any, Any]:
    """Of two indices: both by distinct pair, and the index of the pairs."""
    import pymc as pm

    one, two = first.get_value(), second.get_value()
    span = int(two.max(initial=0)) + 1
    distinct, index = np.unique(one.astype(np.int64) * span + two, return_inverse=True)
    columns = distinct // span, distinct % span, index
    name = f"{first.name}_{second.name}"
    return tuple(
        pm.Data(f"{name}_{part}", column.astype(np.int32))
        for part, column in zip(("first", "second", "pair"), columns, strict=True)
    )


@dataclass(frozen=True)
class Target:
    """The log density of a family's free quantities, moved to the whole real line.

    A point is a vector of ``log`` of positive quantities, ``logit`` of quantities in an
    interval, and real quantities as they are: PyMC's own transforms.
    """

    family: Family
    rows: Rows
    priors: Priors
    model: Any

    @classmethod
    def of(cls, family: Family, rows: Rows, priors: Priors) -> Target:
        return cls(family, rows, priors, build(family, rows, priors))

    def __call__(
        self, point: np.ndarray, prior: float = 1.0, jacobian: float = 1.0
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """``log_likelihood + prior * log_prior + jacobian * log_jacobian`` at one point.

        With (1, 1) this is the posterior density over points, with (1, 0) the posterior density
        over the quantities that have priors, with (0, 0) the likelihood.

        Returns
        -------
        value, gradient, parameters
            In nats; over the point, shape (k,); native, shape (parameter,).
        """
        function, data = self._with_gradient
        value, parameters, gradient = function(point, np.array(prior), np.array(jacobian), *data)
        return float(value), gradient, parameters

    def density(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log posterior and native parameters at points of shape (n, k); -inf where undefined."""
        function = self._function(not self.dear)
        one, data = np.array(1.0), self._data()
        out = [function(point, one, one, *data)[:2] for point in np.ascontiguousarray(points)]
        value = np.array([float(v) for v, _ in out])
        return np.where(np.isfinite(value), value, -np.inf), np.array([parameters for _, parameters in out])

    @property
    def dear(self) -> bool:
        """Whether evaluations take longer than anything else."""
        return len(self.rows.weight) >= MANY_ROWS

    def native(self, points: np.ndarray) -> np.ndarray:
        """Native parameters at points of shape (n, k), shape (n, parameter), without the density."""
        free = {
            variable.name: _constrain(points[:, i], *support(variable))
            for i, variable in enumerate(self.model.free_RVs)
        }
        theta = self.priors.native(self.family, free)
        columns = [theta[name] for name in self.family.parameter_names]
        return np.column_stack(np.broadcast_arrays(*columns, points[:, 0])[:-1])

    def start(self, scale: Scale) -> np.ndarray:
        """Centre of the family's default priors at the data's scale.

        Where the user's prior excludes that centre, its own centre is taken.

        Raises
        ------
        InputError
            If the likelihood is not finite there, with the rows that make it so.
        """
        centre = {name: _centre(spec) for name, spec in self.family.priors(scale).items()}
        if self.priors.space == "parameters":
            centre = self.family.from_coordinates({**centre, **self.priors.constants})
        point = []
        for variable in self.model.free_RVs:
            low, high = support(variable)
            value = centre[variable.name]
            if not low < value < high:
                value = _centre(self.priors.specs[variable.name])
            point.append(_unconstrain(value, low, high))
        start = np.array(point)
        value, gradient, parameters = self(start)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            self._explain(dict(zip(self.family.parameter_names, parameters, strict=True)))
        return start

    def _explain(self, theta: Mapping[str, float]) -> None:
        rows = self.rows
        tensor = self.family.log_likelihood(theta, {name: rows[name] for name in rows.names})
        bad = np.flatnonzero(~np.isfinite(tensor.eval(mode="FAST_COMPILE")))
        first = ", ".join(f"{name} = {rows[name][bad[0]]:g}" for name in rows.names) if len(bad) else "none"
        raise InputError(
            f"the log-likelihood of {self.family.name} is not finite for {rows.weight[bad].sum():,.0f} of "
            f"{rows.weight.sum():,.0f} customers (first: {first}): check these values, or the priors."
        )

    @cached_property
    def _with_gradient(self) -> tuple[Any, list[np.ndarray]]:
        """Looked up once: that takes a tenth of an evaluation of a thousand rows."""
        return self._function(True), self._data()

    def _data(self) -> list[np.ndarray]:
        return [shared.get_value(borrow=True) for shared in self.model.data_vars]

    def _function(self, gradient: bool) -> Any:
        """Compiled ``(point, prior, jacobian, *data) -> value, parameters[, gradient]``.

        Kept by what decides the graph: the family, which quantities are free, and the
        distributions and argument names of their priors.
        """
        shape = tuple((name, *sorted(spec), spec["dist"]) for name, spec in self.priors.specs.items())
        key = (id(self.family), self.priors.space, shape, gradient)
        if key not in _compiled:
            _compiled[key] = self.family, self._compile(gradient)  # keeps the family, and so its id
        return _compiled[key][1]

    def _compile(self, gradient: bool) -> Any:
        import pytensor
        import pytensor.tensor as pt
        from pytensor.graph.replace import clone_replace

        model = self.model
        weights = pt.scalar("prior"), pt.scalar("jacobian")
        log_prior = model.varlogp_nojac
        value = model.potentiallogp + weights[0] * log_prior + weights[1] * (model.varlogp - log_prior)
        native = [model[name] for name in self.family.parameter_names]
        outputs = [value, pt.stack(model.replace_rvs_by_values(native))]
        if gradient:
            outputs.append(pt.stack(pt.grad(value, model.value_vars)))
        point = pt.vector("point")
        data = {shared: shared.type(shared.name) for shared in model.data_vars}
        parts = {variable: point[i] for i, variable in enumerate(model.value_vars)}
        function = pytensor.function(
            [point, *weights, *data.values()],
            clone_replace(outputs, parts | data),
            on_unused_input="ignore",
        )
        function.trust_input = True
        return function


def support(variable: Any) -> tuple[float, float]:
    """Lower and upper end of a scalar random variable, by the transform that PyMC gives it."""
    from pymc.distributions.transforms import _default_transform
    from pymc.logprob.transforms import IntervalTransform, LogOddsTransform, LogTransform

    transform = _default_transform(variable.owner.op, variable)
    if transform is None:
        return -math.inf, math.inf
    if isinstance(transform, LogTransform):
        return 0.0, math.inf
    if isinstance(transform, LogOddsTransform):
        return 0.0, 1.0
    if isinstance(transform, IntervalTransform):
        low, high = transform.args_fn(*variable.owner.inputs)
        return (
            -math.inf if low is None else float(low.eval(mode="FAST_COMPILE")),
            math.inf if high is None else float(high.eval(mode="FAST_COMPILE")),
        )
    raise InputError(f"{variable.owner.op.name or variable} cannot be the prior of a population quantity.")


def _centre(spec: Mapping[str, Any]) -> float:
    """A typical value of a prior: its mean where it has one."""
    given = {name: value for name, value in spec.items() if name != "dist"}
    return float(_support_point(spec["dist"], tuple(given))(*map(float, given.values())))


@cache
def _support_point(dist: str, names: tuple[str, ...]) -> Any:
    """Compiled ``(*arguments) -> typical value``, once for all values of the arguments."""
    import pymc as pm
    import pytensor
    import pytensor.tensor as pt

    arguments = {name: pt.dscalar(name) for name in names}
    variable = getattr(pm, dist).dist(**arguments)
    point = pm.distributions.distribution.support_point(variable)
    return pytensor.function(list(arguments.values()), point, mode="FAST_COMPILE", on_unused_input="ignore")


def _unconstrain(value: float, low: float, high: float) -> float:
    if math.isfinite(low) and math.isfinite(high):
        return math.log(value - low) - math.log(high - value)
    if math.isfinite(low):
        return math.log(value - low)
    return math.log(high - value) if math.isfinite(high) else value


def _constrain(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """The inverse of :func:`_unconstrain`."""
    if math.isfinite(low) and math.isfinite(high):
        return low + (high - low) / (1 + np.exp(-value))
    if math.isfinite(low):
        return low + np.exp(value)
    return high - np.exp(value) if math.isfinite(high) else value
