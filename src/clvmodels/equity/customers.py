"""The table of customers: history, posterior means, and the distribution of each value."""

from __future__ import annotations

from typing import Any

import numpy as np

from clvmodels.artifacts import Summary
from clvmodels.value import Tile

QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)


class CustomerTable:
    """Collects mean, sd and quantiles of every customer's value at level expected."""

    def __init__(self, customers: int, draws: int) -> None:
        self._customers, self._draws = customers, draws
        self._columns: dict[str, np.ndarray] = {}

    def add(self, tile: Tile) -> None:
        """Add one tile of level expected."""
        columns = dict(tile.details or {})
        columns["value_mean"] = tile.value.mean(axis=1)
        if self._draws > 1:
            columns["value_sd"] = tile.value.std(axis=1, ddof=1)
            quantiles = np.quantile(tile.value, QUANTILES, axis=1)
            columns |= {
                f"value_q{q:02.0f}": row for q, row in zip(np.array(QUANTILES) * 100, quantiles, strict=True)
            }
        for name, column in columns.items():
            self._columns.setdefault(name, np.empty(self._customers))[tile.customers] = column

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def table(self, summary: Summary) -> Any:
        """A pyarrow Table, one row per customer in the order of the summary."""
        import pyarrow as pa

        data: dict[str, Any] = {"customer": pa.array(summary.customer, pa.string())}
        data["first_day"] = pa.array(summary.first_day)
        data |= {name: pa.array(column, from_pandas=True) for name, column in summary.columns.items()}
        for name, segment in summary.segments.items():
            labels = pa.array(list(segment.labels), pa.string())
            free = name if name not in data and name not in self._columns else f"{name} (segment)"
            data[free] = pa.DictionaryArray.from_arrays(pa.array(segment.codes.astype(np.int32)), labels)
        data |= {name: pa.array(column) for name, column in self._columns.items()}
        return pa.table(data)
