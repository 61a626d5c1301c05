"""How well a family at its maximum of the likelihood forecasts each customer's holdout purchases."""

from __future__ import annotations

import numpy as np

from clvmodels import value
from clvmodels.artifacts import Summary
from clvmodels.config import FitConfig, ModelConfig
from clvmodels.fit import fit_family, measure
from clvmodels.models import registry
from clvmodels.numerics.discounting import Flow


def maximum(summary: Summary, name: str, **model) -> dict[str, float]:
    """Native parameters where the likelihood is highest, and ``log_likelihood`` there."""
    family = registry.get(name)
    posterior = fit_family(
        family,
        summary.fold(family.statistics),
        ModelConfig(family=name, **model),
        FitConfig(sampler="map"),
        1,
        measure(summary),
    )
    return dict(posterior.maximum)


def expected(summary: Summary, name: str, theta: dict[str, float], flow: Flow) -> np.ndarray:
    """Expected purchases of each customer under a flow, shape (customer,)."""
    family = registry.purchases(name)
    rows = summary.fold(family.state)
    draws = family.vector(theta)[None]
    return value.expected_purchases(family, draws, rows.stats, [flow])[0, rows.index, 0]


def accuracy(summary: Summary, name: str, theta: dict[str, float]) -> dict[str, float]:
    """Errors e of the expected holdout purchases, customer by customer, against those made, a.

    Returns
    -------
    MAPE, RMSE, MSLE
        Σ|e| / Σa, the root of mean e², and the mean square of the difference of log(1 + purchases).
    """
    made = summary["holdout_frequency"]
    error = expected(summary, name, theta, Flow(delta=0.0, horizon=summary.holdout)) - made
    return {
        "MAPE": np.abs(error).sum() / made.sum(),
        "RMSE": np.sqrt(np.mean(error**2)),
        "MSLE": np.mean((np.log1p(made + error) - np.log1p(made)) ** 2),
    }
