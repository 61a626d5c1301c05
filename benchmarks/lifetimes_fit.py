"""The measurement of lifetimes; runs in its own environment, with NumPy and pandas as they are there."""

from __future__ import annotations

import warnings
from typing import Any

from benchmarks import inputs
from benchmarks.child import Watch


def fit(watch: Watch, customers: int, folded: bool = False) -> dict[str, Any]:
    """Maximum likelihood: one row per customer, or distinct rows with weights; importing does not count."""
    import numpy as np
    from lifetimes import BetaGeoFitter

    arrays = np.load(inputs.arrays_path(customers))
    columns = [arrays[name] for name in ("frequency", "recency", "T")]
    weights = None
    if folded:
        rows, weights = np.unique(np.column_stack(columns), axis=0, return_counts=True)
        columns = list(rows.T)
    with warnings.catch_warnings(), watch():
        warnings.simplefilter("ignore")
        model = BetaGeoFitter().fit(*columns, weights=weights)
    return {name: float(model.params_[name]) for name in ("r", "alpha", "a", "b")}
