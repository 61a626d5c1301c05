"""Artefacts by hand: summaries, posteriors and assumptions without data and without a fit."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import numpy as np

from clvmodels.artifacts import Assumptions, Calendar, FamilyPosterior, Posterior, Segment, Summary


def make_summary(
    columns: Mapping[str, np.ndarray], segments: Mapping[str, np.ndarray] | None = None
) -> Summary:
    """A summary of given columns; spend is 30 where none is given."""
    x = np.asarray(columns["frequency"], float)
    n = len(x)
    columns = {name: np.array(column, float) for name, column in columns.items()}
    columns.setdefault("monetary_value", np.where(x > 0, 30.0, np.nan))
    columns.setdefault("first_amount", np.full(n, 30.0))
    none = np.zeros(0)
    parts = {}
    for name, values in (segments or {}).items():
        labels, codes = np.unique(values, return_inverse=True)
        parts[name] = Segment(codes=codes, labels=tuple(map(str, labels)))
    return Summary(
        customer=np.array([f"{i:06}" for i in range(n)], dtype=object),
        columns=columns,
        first_day=np.full(n, np.datetime64("1997-01-01")),
        segments=parts,
        calendar=Calendar(
            day=none.astype("datetime64[D]"),
            first_orders=none,
            repeat_orders=none,
            first_amount=none,
            repeat_amount=none,
        ),
        time_unit="week",
        observation_start=dt.date(1997, 1, 1),
        observation_end=dt.date(1997, 9, 30),
        holdout=0.0,
        currency="USD",
        ledger={},
        fingerprint="made by hand",
    )


def make_posterior(purchases: tuple[str, np.ndarray], spend: tuple[str, np.ndarray]) -> Posterior:
    """A posterior of given draws (draw, parameter), by family name."""
    from clvmodels.models import registry

    parts = [
        FamilyPosterior(
            family=name,
            parameters=registry.get(name).parameter_names,
            draws=np.atleast_2d(np.asarray(draws, float))[None],
            sampler="fixed" if len(np.atleast_2d(draws)) == 1 else "importance",
            maximum={},
            diagnostics={},
            priors={},
            rows=0,
            customers=0,
        )
        for name, draws in (purchases, spend)
    ]
    return Posterior(purchases=parts[0], spend=parts[1], time_unit="week", currency="USD")


def make_assumptions(summary: Summary, **changes: Any) -> Assumptions:
    """30 % margin, 15 % a year, weeks, for ever."""
    plain = {
        "margin": np.full(len(summary), 0.3),
        "margin_source": "0.3",
        "annual_discount_rate": 0.15,
        "units_per_year": 52.1775,
        "horizon": np.inf,
        "horizons": {"39 weeks": 39.0, "12 months": 52.1775},
    }
    return Assumptions(**(plain | changes))
