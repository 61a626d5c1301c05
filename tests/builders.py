"""Artefacts by hand: summaries, posteriors and assumptions without data and without a fit."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
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


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Keys of a table down to what is neither mapping nor list, as a/b/0."""
    if isinstance(node, dict | list) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*path, str(key)))
    else:
        yield "/".join(path)


def undocumented(table: Mapping[str, Any], page: str, heading: str) -> tuple[list[str], list[str]]:
    """Keys of a table that a section of the docs does not list, and keys it lists that are not there."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    patterns = {}
    for row in re.findall(r"^\| (`.*?`) \|", section, flags=re.M):
        for key in re.findall(r"`([^`]+)`", row):
            body = re.escape(key.removesuffix(".*")).replace(r"\.", "/").replace(r"\[i\]", r"/\d+")
            patterns[key] = re.compile(re.sub(r"<\w+>", "[^/]+", body) + "(/.*)?")
    paths = list(leaves(table))
    return (
        [path for path in paths if not any(pattern.fullmatch(path) for pattern in patterns.values())],
        [key for key, pattern in patterns.items() if not any(pattern.fullmatch(path) for path in paths)],
    )
