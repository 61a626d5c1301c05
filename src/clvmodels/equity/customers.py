"""The table of customers: history, posterior means, and the distribution of each value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clvmodels.artifacts import Summary
from clvmodels.value import Tile

QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)


def quantiles(values: np.ndarray, probabilities: Sequence[float]) -> np.ndarray:
    """``np.quantile(values, probabilities, axis=1)`` by sorting, which is quicker for several."""
    ordered = np.sort(values, axis=1)
    place = np.array(probabilities) * (values.shape[1] - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, values.shape[1] - 1)
    below, above = ordered[:, low].T, ordered[:, high].T
    return below + (above - below) * (place - low)[:, None]


class CustomerTable:
    """Collects mean, sd and quantiles of every customer's value at level expected."""

    def __init__(self, customers: int, draws: int) -> None:
        self._customers, self._draws = customers, draws
        self._columns: dict[str, np.ndarray] = {}

    def columns(self, tile: Tile) -> dict[str, np.ndarray]:
        """Means, sds and quantiles of one tile of level expected, by kind of customer."""
        columns = dict(tile.details or {})
        columns["value_mean"] = tile.distinct.mean(axis=1)
        if self._draws > 1:
            columns["value_sd"] = tile.distinct.std(axis=1, ddof=1)
            for q, column in zip(QUANTILES, quantiles(tile.distinct, QUANTILES), strict=True):
                columns[f"value_q{100 * q:02.0f}"] = column
        return columns

    def add(self, tile: Tile, columns: dict[str, np.ndarray]) -> None:
        """Keep the columns of one tile for each of its customers."""
        for name, column in columns.items():
            kept = self._columns.setdefault(name, np.empty(self._customers))
            kept[tile.customers] = column if tile.kind is None else column[tile.kind]

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
