"""Log density of single rows under single draws, for scores that need it row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from clvmodels.models.family import Family

_compiled: dict[int, tuple[Family, Any]] = {}


def log_density(family: Family, draws: np.ndarray, stats: np.ndarray) -> np.ndarray:
    """The family's log-likelihood of every row under every draw.

    Parameters
    ----------
    draws
        Native parameters, shape (draw, parameter).
    stats
        Columns ``family.statistics``, shape (row, statistic).

    Returns
    -------
    In nats, shape (draw, row); the same constants as ``family.log_likelihood``.
    """
    function = _function(family)
    columns = [np.array(column, float) for column in stats.T]
    out = np.empty((len(draws), len(stats)))
    for d, theta in enumerate(np.asarray(draws, float)):
        out[d] = function(*map(np.asarray, theta), *columns)
    return out


def _function(family: Family) -> Any:
    """Compiled ``(*parameters, *columns) -> row``."""
    key = id(family)
    if key not in _compiled:
        import pytensor
        import pytensor.tensor as pt

        theta = {name: pt.scalar(name) for name in family.parameter_names}
        stats = {name: pt.vector(name) for name in family.statistics}
        inputs = [*theta.values(), *stats.values()]
        output = family.log_likelihood(theta, stats)
        function = pytensor.function(inputs, output, on_unused_input="ignore")
        function.trust_input = True
        _compiled[key] = family, function  # keeps the family, and so its id
    return _compiled[key][1]
