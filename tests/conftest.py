"""Shared fixtures: published numbers and summaries."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_summary

from clvmodels.artifacts import Summary

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def published() -> dict[str, Any]:
    """Numbers that appear in print, each block with its source."""
    return json.loads((REFERENCE / "published.json").read_text())


@pytest.fixture(scope="session")
def summary_of() -> Callable[..., Summary]:
    """A summary of the customers, or some of them, of a simulated case."""

    def build(case: Any, pick: np.ndarray | slice = slice(None)) -> Summary:
        return make_summary({name: column[pick] for name, column in case.columns.items()})

    return build


@pytest.fixture(scope="session")
def cdnow() -> Summary:
    """The 1/10 sample of CDNOW at week 39: 2,357 customers."""
    from clvmodels.config import DataConfig
    from clvmodels.data import summarise

    return summarise(DataConfig(source="cdnow_sample", observation_end=dt.date(1997, 9, 30)))


@pytest.fixture(scope="session")
def numbered(cdnow: Summary) -> np.ndarray:
    """Position in the summary of the sample's customers 1, 2, ...: by first day, then by id."""
    return np.lexsort((np.arange(len(cdnow)), cdnow.first_day))
