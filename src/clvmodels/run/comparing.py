"""Variants of the same customers, side by side."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels import config as settings
from clvmodels.artifacts import Assumptions, Summary
from clvmodels.config import Config
from clvmodels.errors import ConvergenceError, InputError
from clvmodels.run.job import Run, fitted, load
from clvmodels.run.stages import (
    Clock,
    Progress,
    check_shocks,
    describe,
    new_folder,
    refuse_existing,
    resolve_assumptions,
    statistics,
    summarise,
    versions,
)


@dataclass(frozen=True)
class Comparison:
    """Variants of the same customers, side by side.

    Attributes
    ----------
    runs
        Name → run.
    summary
        The content of ``comparison.json``: every number with its unit and level.
    stacked
        Level → draws of equity of the stacked variants; empty where they cannot be stacked.
    entries
        Scores by customer of every variant.
    path
        Folder of the comparison, None if it was not written.
    """

    runs: Mapping[str, Run]
    summary: Mapping[str, Any]
    stacked: Mapping[str, np.ndarray]
    entries: tuple[Any, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def table(self) -> Any:
        """One row per variant as a pandas DataFrame: differences with standard errors, holdout, equity."""
        import pandas as pd

        from clvmodels.report import comparison

        rows = [{"variant": v["name"], **comparison.headline(v)} for v in self.summary["variants"]]
        return pd.DataFrame(rows).set_index("variant")

    def plot(self) -> Any:
        """The figure of the comparison; returns the matplotlib figure."""
        from clvmodels.report import figures

        return figures.comparison(self.summary)

    def save(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write the comparison's folder, with the runs that were fitted for it.

        Raises
        ------
        InputError
            If the folder exists and ``overwrite`` is not set.
        """
        from clvmodels.report import comparison

        folder = Path(folder)
        with new_folder(folder, overwrite) as temporary:
            for name, run in self.runs.items():
                if run.config is not None:
                    run.save(temporary / "variants" / name)
            first = next(iter(self.runs.values()))
            comparison.write(temporary, self.summary, self.entries, first.data, self.meta)
        return folder

    def __repr__(self) -> str:
        where = f"\n  {self.path}" if self.path else ""
        lines = "".join(f"\n  {sentence}" for sentence in self.summary["conclusions"])
        return f"<Comparison of {', '.join(self.runs)}>{lines}{where}"


def compare(
    variants: Any,
    transactions: Any = None,
    *,
    out: Path | str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Fit variants to the same customers and compare their scores and the equity each implies.

    Parameters
    ----------
    variants
        A config or several: YAML files, mappings, :class:`Config` objects; the entries of a config's
        ``variants`` count each. Folders of finished runs and :class:`Run` objects are taken as they are.
    transactions, out, seed, overrides, overwrite, progress
        As for :func:`fit`; ``out`` holds the comparison, and below ``variants`` the folder of every run
        that was fitted here.

    Raises
    ------
    InputError
        If a config or its data cannot be used, or the variants are not of the same customers.
    ConvergenceError
        If the draws of a variant do not pass the gate; nothing is written.
    """
    from clvmodels import fit as fitting
    from clvmodels.data import design

    clock, folder = Clock(), None if out is None else Path(out)
    if folder is not None:
        refuse_existing(folder, overwrite)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = _variants(variants, overrides, seed)
        data: dict[str, Summary] = {}
        assumed: dict[str, Assumptions] = {}
        for name, variant in found.items():
            if isinstance(variant, Run):
                data[name] = variant.data
                continue
            with _about(name):
                fitting.check_model(variant.models.purchases, "purchases")
                fitting.check_model(variant.models.spend, "spend")
                fitting.check_effects(variant.models)
        if progress:
            progress("reading transactions", None)
        read: dict[str, Summary] = {}
        for name, variant in found.items():
            if not isinstance(variant, Run):
                with _about(name):
                    key = f"{variant.base} {variant.data!r} {statistics(variant)} {variant.value.margin!r}"
                    key += f" {variant.models.columns} {variant.shocks!r}"
                    if key not in read:
                        read[key] = summarise(variant, transactions)
                    data[name] = read[key]
                    fitting.check_data(data[name], variant.models.purchases, variant.models.spend)
                    design.terms(variant.models, data[name])
                    assumed[name] = resolve_assumptions(variant, data[name])
                    check_shocks(variant, data[name], assumed[name])
        _refuse_other_customers(data)
        clock.lap("data")
        runs = {}
        for name, variant in found.items():
            if isinstance(variant, Run):
                runs[name] = variant
                continue
            with _about(name):
                laps = Clock()
                run = fitted(variant, data[name], assumed[name], None, laps, _prefixed(progress, name))
                runs[name] = replace(run, meta=describe(laps, caught))
            clock.lap(f"run {name}")
        comparison = _compared(runs, folder.name if folder else _common_name(variants), progress)
        clock.lap("scores")
    comparison = replace(comparison, meta=describe(clock, caught))
    if folder is not None:
        if progress:
            progress("writing the report", None)
        comparison.save(folder, overwrite=overwrite)
    return replace(comparison, path=folder)


def _variants(variants: Any, overrides: Sequence[str], seed: int | None) -> dict[str, Config | Run]:
    """Name → config to fit or finished run; names are unique."""
    several = isinstance(variants, Sequence) and not isinstance(variants, str)
    more = [] if seed is None else [f"seed={seed}"]
    found: dict[str, Config | Run] = {}
    for source in variants if several else [variants]:
        if isinstance(source, str | Path) and Path(source).is_dir():
            source = load(source)
        each: Sequence[Config | Run]
        each = [source] if isinstance(source, Run) else settings.variants(source, [*overrides, *more])
        for one in each:
            name = one.summary["name"] if isinstance(one, Run) else one.name
            if name in found:
                raise InputError(f"two variants are called {name!r}: give each its own name.")
            found[name] = one
    if len(found) < 2:
        raise InputError(
            "one variant alone cannot be compared: name two configs, or list variants in one of them."
        )
    return found


def _common_name(variants: Any) -> str:
    """Name of a comparison that is not written: that of its one config, or ``comparison``."""
    several = isinstance(variants, Sequence) and not isinstance(variants, str)
    return "comparison" if several else settings.load(variants).name


def _refuse_other_customers(data: Mapping[str, Summary]) -> None:
    """Scores of different data cannot be compared."""
    first, *others = data
    for name in others:
        one, other = data[first], data[name]
        for what, same in (
            ("time unit", one.time_unit == other.time_unit),
            ("clock", one.clock == other.clock),
            ("currency", one.currency == other.currency),
            ("customers or purchases", one.fingerprint == other.fingerprint),
        ):
            if not same:
                raise InputError(
                    f"variants {first!r} and {name!r} are not of the same data: they differ in {what}, so "
                    "their scores cannot be compared; give all variants the same data section."
                )


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Errors of a variant say which."""
    try:
        yield
    except (InputError, ConvergenceError) as error:
        raise type(error)(f"variant {name}: {error}") from error


def _prefixed(progress: Progress | None, name: str) -> Progress | None:
    if progress is None:
        return None
    return lambda stage, fraction: progress(f"{name}: {stage}", fraction)


def _compared(runs: Mapping[str, Run], name: str, progress: Progress | None) -> Comparison:
    """Scores of every run, and the table of the comparison."""
    from clvmodels.report import comparison
    from clvmodels.validate import compare

    seed = next(iter(runs.values())).summary["seed"]
    entries = []
    for number, (label, run) in enumerate(runs.items()):
        if progress:
            progress("comparing", number / len(runs))
        entries.append(
            comparison.Entry(
                name=label,
                table=run.summary,
                equity=run.result,
                leave_one_out={
                    "purchases": compare.leave_one_out(run.data, run.draws.purchases),
                    "spend": compare.leave_one_out(run.data, run.draws.spend),
                },
                holdout=compare.holdout(run.data, run.draws, run.arrays, seed),
            )
        )
    data = next(iter(runs.values())).data
    table, stacked = comparison.build(entries, data, name, versions())
    return Comparison(runs=runs, summary=table, stacked=stacked, entries=tuple(entries))
