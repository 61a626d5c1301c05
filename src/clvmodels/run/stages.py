"""What every command of the pipeline needs: checks first, folders written whole, time kept."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels import config as settings
from clvmodels.artifacts import Assumptions, Check, Posterior, Summary
from clvmodels.config import Config, MarginByColumn, MarginBySegment
from clvmodels.errors import ConvergenceError, DataWarning, InputError
from clvmodels.models import registry
from clvmodels.models.family import Statistic

Progress = Callable[[str, float | None], None]

MOST_PARTS = 50
"""Segments with shocks of their own."""
_PACKAGES = (
    "clvmodels", "pymc", "pytensor", "nutpie", "arviz", "numba", "numpy", "scipy", "xarray",
    "duckdb", "ibis-framework", "pyarrow", "matplotlib",
)  # fmt: skip


def resolve_assumptions(config: Config, data: Summary) -> Assumptions:
    """The analyst's assumptions as numbers in the time unit of the data.

    Raises
    ------
    InputError
        If a margin is missing for a segment or customer, or above 1.
    """
    year = settings.units_per_year(config)

    def units(text: str) -> float:
        return settings.duration(text, config.data.time_unit, year)

    margin, source = margins(config, data)
    value = config.value
    cost = value.cost or settings.CostConfig.model_construct()

    def rate(name: str) -> float:
        text = getattr(cost, name)
        return settings.cost_rate(text, config.data.time_unit, year, data.currency, f"value.cost.{name}")

    return Assumptions(
        margin=margin,
        margin_source=source,
        annual_discount_rate=value.annual_discount_rate,
        units_per_year=year,
        horizon=units(value.horizon),
        timing=value.timing,
        period=1.0 if data.clock == "discrete" else units(value.period),
        horizons=settings.horizons(config),
        cost_alive=rate("while_alive"),
        cost_addressed=rate("addressed"),
        cost_window=units(cost.window) if cost.window else 0.0,
        cost_source=cost_words(cost),
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def load_config(config: Any, overrides: Sequence[str], seed: int | None) -> Config:
    more = [] if seed is None else [f"seed={seed}"]
    return settings.load(config, [*overrides, *more])


def summarise(config: Config, transactions: Any) -> Summary:
    from clvmodels.data import summarise

    refuse_calendar(config)
    margin = config.value.margin
    return summarise(
        config.data,
        transactions=transactions,
        statistics=statistics(config),
        margin_column=margin.column if isinstance(margin, MarginByColumn) else None,
        features=config.models.columns,
        base=config.base,
        cohorts=config.future is not None,
        daily_by=config.shocks.by,
        own_means=True,
    )


def check_shocks(config: Config, data: Summary, assumptions: Assumptions) -> None:
    """Refuse segments that cannot have shocks of their own."""
    by = config.shocks.by
    if by is None:
        return
    check_parts(by, data.segments[by].labels)
    check_shares(by, assumptions.margin)


def check_parts(by: str, labels: Sequence[str]) -> None:
    """Refuse a column with one segment, or too many to tell apart."""
    if len(labels) < 2:
        raise InputError(
            f"shocks.by is {by!r}, which has one value, {labels[0]!r}, and nothing to compare it with: name "
            "another column, or leave shocks.by out."
        )
    if len(labels) > MOST_PARTS:
        raise InputError(
            f"shocks.by is {by!r}, which has {len(labels):,} values: a week tells shocks of at most "
            f"{MOST_PARTS} segments apart; name a coarser column, or leave shocks.by out."
        )


def check_shares(by: str, margin: np.ndarray) -> None:
    """Refuse margins with which value is no share."""
    if below := int((margin < 0).sum()):
        raise InputError(
            f"shocks.by shares value among segments, but {below:,} customers have a margin below 0 "
            "(value.margin): correct it, or leave shocks.by out."
        )


def statistics(config: Config) -> tuple[Statistic, ...]:
    """Statistics beyond the summary's own columns that the families need."""
    models = (config.models.purchases, config.models.spend)
    needed = (s for model in models for s in registry.get(model.family).extra_statistics)
    return tuple(dict.fromkeys(needed))


def refuse_calendar(config: Config) -> None:
    """Refuse a calendar intensity where it would be left out."""
    if config.models.calendar != "even":
        raise InputError(
            "models.calendar: weekly is known to backtest and compare --rolling alone; take it out here."
        )


def margins(config: Config, data: Summary) -> tuple[np.ndarray, str]:
    """Margin ratio per customer, and one sentence on where it comes from."""
    margin, n = config.value.margin, len(data)
    if isinstance(margin, MarginByColumn):
        values = data["margin"]
        bad = int((~np.isfinite(values) | (values > 1)).sum())
        if bad:
            raise InputError(
                f"value.margin.column {margin.column!r}: {bad:,} of {n:,} customers have no margin or one "
                "above 1; a margin is a ratio such as 0.3: correct the column."
            )
        return values, f"column {margin.column}, weighted by amount"
    if isinstance(margin, MarginBySegment):
        segment = data.segments[margin.by]
        missing = [label for label in segment.labels if label not in margin.values]
        if missing:
            raise InputError(
                f"value.margin.values has no margin for {margin.by} {', '.join(map(repr, missing[:5]))}"
                f"{' and others' if len(missing) > 5 else ''}: add one for every segment."
            )
        table = np.array([margin.values[label] for label in segment.labels])
        return table[segment.codes], f"by {margin.by}"
    return np.full(n, float(margin)), f"{margin:.4g} for every customer"


def events(config: Config) -> list[tuple[str, dt.date, dt.date]]:
    """Known events: name, first and last day."""
    day = dt.date.fromisoformat
    return [(event.name, day(event.since), day(event.until)) for event in config.events]


def cost_words(cost: settings.CostConfig) -> str:
    """The cost of keeping and serving in words; empty without one."""
    parts = []
    if cost.while_alive:
        parts.append(f"{cost.while_alive} while the customer is there")
    if cost.addressed:
        parts.append(f"{cost.addressed} for every customer addressed, there or not, for {cost.window}")
    return " and ".join(parts)


def converged(gate: Sequence[Check]) -> bool:
    return all(check.passed is not False for check in gate)


def pass_gate(
    gate: Sequence[Check], config: Config, folder: Path | None, draws: Posterior, data: Summary
) -> None:
    """Stop a run whose draws may not be used, after writing what was found."""
    failed = [check for check in gate if check.passed is False]
    if not failed or config.fit.allow_unconverged:
        return
    where = ""
    if folder is not None:
        from clvmodels.report import files

        with new_folder(folder, overwrite=True) as temporary:
            files.write_diagnostics(temporary, summary=data, posterior=draws, checks=gate, config=config)
        where = f" Diagnostics are in {folder}; no equity was written."
    importance = "importance" in (draws.purchases.sampler, draws.spend.sampler)
    advice = "use fit.sampler nuts" if importance else "use more fit.tune and fit.draws"
    raise ConvergenceError(
        f"the draws did not converge: {'; '.join(check.sentence.rstrip('.') for check in failed)}. "
        f"To go on, {advice}, or give the priors more information.{where}"
    )


def refuse_existing(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not overwrite:
        raise InputError(f"the output folder {folder} exists: name another with --out, or add --overwrite.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder: name another with --out.")


@contextmanager
def new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when everything is written."""
    refuse_existing(folder, overwrite)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}; name another with --out.") from None
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def describe(clock: Clock, caught: Sequence[warnings.WarningMessage]) -> dict[str, Any]:
    """What may differ between two equal runs: timings, machine, warnings."""
    return {
        "seconds": clock.laps,
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "warnings": told(caught),
    }


def told(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """Texts of warnings that a run has kept; those about the data go on to the user."""
    for text in sorted({str(w.message) for w in caught if issubclass(w.category, DataWarning)}):
        warnings.warn(text, DataWarning, stacklevel=3)
    return sorted(
        {str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning | FutureWarning)}
    )


class Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = round(now - self._last, 3)
        self._last = now
