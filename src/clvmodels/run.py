"""The pipeline: transactions → summary → posterior → equity → report.

Every input of every stage is checked before the first slow step; a run is written to a
temporary folder and renamed when it is complete.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels import config as settings
from clvmodels.artifacts import Assumptions, Check, Equity, Posterior, Summary
from clvmodels.config import Config, MarginByColumn, MarginBySegment
from clvmodels.errors import ConvergenceError, InputError
from clvmodels.models import registry

Progress = Callable[[str, float | None], None]

_PACKAGES = (
    "clvmodels", "pymc", "pytensor", "nutpie", "arviz", "numba", "numpy", "scipy", "xarray",
    "duckdb", "ibis-framework", "pyarrow", "matplotlib",
)  # fmt: skip


@dataclass(frozen=True)
class EquityResult:
    """Customer equity with the calls that a notebook wants."""

    artifact: Equity

    def summary(self) -> Any:
        """Mean, sd and 50, 90 and 95 % intervals by level, with what each level contains."""
        return self.artifact.summary()

    def total(self, level: str = "expected") -> np.ndarray:
        """Draws of the total at a level, shape (draw,), in the run's currency."""
        return self.artifact.total(level)

    @property
    def data(self) -> Any:
        """All equity draws as an xarray Dataset."""
        return self.artifact.data

    def plot(self, ax: Any = None) -> Any:
        """Density of equity by level; returns the matplotlib figure."""
        from clvmodels.report import figures

        return figures.equity_density(self.artifact, ax=ax)

    def __repr__(self) -> str:
        return repr(self.artifact)


@dataclass(frozen=True)
class Run:
    """A finished run: what went in, what came out, and how it was checked.

    Attributes
    ----------
    config
        As resolved; None for a run that was read back from a folder.
    data
        One row per customer.
    draws
        Posterior draws of both families.
    summary
        The content of ``summary.json``: every number with its unit and level.
    checks
        Convergence and posterior predictive checks.
    path
        Folder of the run, None if it was not written.
    """

    data: Summary
    draws: Posterior
    result: Equity
    summary: Mapping[str, Any]
    checks: tuple[Check, ...] = ()
    arrays: Any = None
    config: Config | None = None
    assumptions: Assumptions | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def equity(self) -> EquityResult:
        """Customer equity: ``summary()``, ``plot()``, ``total(level)``."""
        return EquityResult(self.result)

    @cached_property
    def customers(self) -> Any:
        """One row per customer as a pandas DataFrame; values at level expected."""
        return self.result.customers.to_pandas().set_index("customer")

    @cached_property
    def posterior(self) -> Any:
        """ArviZ DataTree: ``posterior/purchases``, ``posterior/spend``, ``equity``."""
        from clvmodels.report.files import to_datatree

        return to_datatree(self.draws, self.result, self.arrays)

    def save(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write the run's folder.

        Raises
        ------
        InputError
            If the folder exists and ``overwrite`` is not set.
        """
        from clvmodels import report

        if self.config is None or self.assumptions is None:
            raise InputError("a run that was read from a folder is already written there.")
        folder = Path(folder)
        with _folder(folder, overwrite) as temporary:
            report.write(
                temporary,
                summary=self.data,
                posterior=self.draws,
                assumptions=self.assumptions,
                equity=self.result,
                checks=self.checks,
                config=self.config,
                table=self.summary,
                meta=self.meta,
                arrays=self.arrays,
            )
        return folder

    def __repr__(self) -> str:
        passed = sum(check.passed is True for check in self.checks)
        judged = sum(check.passed is not None for check in self.checks)
        where = f"\n  {self.path}" if self.path else ""
        return f"<Run {self.summary['name']}: checks passed {passed} of {judged}>\n{self.result!r}{where}"


def fit(
    config: Config | Path | str | Mapping[str, Any],
    transactions: Any = None,
    *,
    out: Path | str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Read the log, fit the models, value the customers.

    Parameters
    ----------
    config
        A YAML file, a mapping of the same form, or a :class:`Config`.
    transactions
        pandas, Polars or Arrow table or Ibis table, in the place of ``data.source``.
    out
        Folder to write; None: nothing is written (see :meth:`Run.save`).
    overrides
        ``"key=value"`` strings over the config.
    overwrite
        Replace ``out`` if it exists.
    progress
        Called with the name of a stage and the fraction done.

    Raises
    ------
    InputError
        If config or data cannot be used; nothing has been written.
    ConvergenceError
        If the draws do not pass the gate; diagnostics are written to ``out``, no equity.
    """
    from clvmodels import fit as fitting

    tell = progress or (lambda stage, fraction: None)
    clock = _Clock()
    config = _load(config, overrides, seed)
    folder = None if out is None else Path(out)
    if folder is not None:
        _refuse_existing(folder, overwrite)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitting.check_model(config.models.purchases, "purchases")
        fitting.check_model(config.models.spend, "spend")
        tell("reading transactions", None)
        data = _summarise(config, transactions)
        assumptions = resolve_assumptions(config, data)
        clock.lap("data")
        draws = fitting.fit(
            data, config.models.purchases, config.models.spend, config.fit, config.seed, progress=progress
        )
        clock.lap("fit")
        gate = fitting.gate(draws)
        _pass(gate, config, folder, draws, data)
        run = _value(config, data, draws, assumptions, folder, clock, progress)
    meta = {
        "seconds": clock.laps,
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "warnings": sorted(
            {str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning | FutureWarning)}
        ),
    }
    return _finish(replace(run, meta=meta), folder, overwrite, tell)


def check(
    config: Config | Path | str | Mapping[str, Any],
    transactions: Any = None,
    *,
    out: Path | str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Summary:
    """Validate config and data without fitting; returns the summary with its ledger.

    With ``out``, the summary is written there as one parquet file.
    """
    from clvmodels import fit as fitting

    config = _load(config, overrides, seed)
    fitting.check_model(config.models.purchases, "purchases")
    fitting.check_model(config.models.spend, "spend")
    if out is not None and Path(out).exists():
        raise InputError(f"{out} exists; name another file with --out, or remove it.")
    if progress:
        progress("reading transactions", None)
    data = _summarise(config, transactions)
    fitting.check_data(data, config.models.purchases, config.models.spend)
    resolve_assumptions(config, data)
    if out is not None:
        data.save(Path(out))
    return data


def load(folder: Path | str) -> Run:
    """Read a run back from its folder, without the transactions and without PyMC."""
    from clvmodels import report

    found = report.load(Path(folder))
    return Run(
        data=found["summary"],
        draws=found["posterior"],
        result=found["equity"],
        summary=found["table"],
        checks=tuple(Check(**check) for check in found["table"]["checks"]),
        arrays=found["arrays"],
        meta=found["manifest"],
        path=Path(folder),
    )


def report(
    folder: Path | str,
    *,
    out: Path | str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Path:
    """Render the report of a run again, or value its posterior under other assumptions.

    Parameters
    ----------
    out
        Without overrides: a copy of the page to write as well. With overrides or a seed, which
        need it: the folder of the new run.
    overrides
        ``"key=value"`` under ``value`` or ``report``; nothing is fitted and no transaction is read.

    Returns
    -------
    Path of ``report.html``.
    """
    from clvmodels import report as reporting

    tell = progress or (lambda stage, fraction: None)
    if overrides or seed is not None:
        return _revalue(Path(folder), out, seed, overrides, tell)
    tell("writing the report", None)
    page = reporting.render(Path(folder))
    if out is None:
        return page
    if Path(out).exists():
        raise InputError(f"{out} exists; name another file with --out, or remove it.")
    return Path(shutil.copyfile(page, out))


def _revalue(
    folder: Path, out: Path | str | None, seed: int | None, overrides: Sequence[str], tell: Progress
) -> Path:
    from clvmodels import report as reporting

    other = [text for text in overrides if not text.strip().startswith(("value.", "report."))]
    if other:
        raise InputError(
            f"--set {other[0]}: a report can change keys under value and report only, "
            "because the rest was fitted; give it to 'fit'."
        )
    if out is None:
        raise InputError("a report with --set or --seed is a new run: name its folder with --out.")
    _refuse_existing(Path(out), overwrite=False)
    found = reporting.load(folder)
    config = _load(folder / "config.yaml", [f"name='{Path(out).name}'", *overrides], seed)
    data, clock = found["summary"], _Clock()
    assumptions = resolve_assumptions(config, data)
    run = _value(config, data, found["posterior"], assumptions, Path(out), clock, tell)
    meta = {"seconds": clock.laps, "revalued_from": found["table"]["fingerprints"]}
    _finish(replace(run, meta=meta), Path(out), False, tell)
    return Path(out) / "report.html"


def _value(
    config: Config,
    data: Summary,
    draws: Posterior,
    assumptions: Assumptions,
    folder: Path | None,
    clock: _Clock,
    progress: Progress | None,
) -> Run:
    """From posterior draws to equity, checks and the table of numbers."""
    from clvmodels import equity, validate
    from clvmodels import fit as fitting
    from clvmodels.report import tables
    from clvmodels.value import Valuation

    result = equity.build(Valuation(data, draws, assumptions, config.seed), progress)
    gate = fitting.gate(draws, result.total(result.levels[0]))
    _pass(gate, config, folder, draws, data)
    clock.lap("value")
    if progress:
        progress("predictive checks", None)
    found, arrays = validate.predictive_checks(data, draws, config.seed)
    clock.lap("checks")
    checks = (*gate, *found)
    diagnostics = {"converged": _converged(gate)}
    table = tables.build(data, draws, assumptions, result, checks, config, versions(), diagnostics, arrays)
    return Run(
        data=data, draws=draws, result=result, summary=table, checks=checks, arrays=arrays,
        config=config, assumptions=assumptions, path=folder,
    )  # fmt: skip


def _finish(run: Run, folder: Path | None, overwrite: bool, tell: Progress) -> Run:
    if folder is not None:
        tell("writing the report", None)
        run.save(folder, overwrite=overwrite)
    return run


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

    margin, source = _margin(config, data)
    value = config.value
    return Assumptions(
        margin=margin,
        margin_source=source,
        annual_discount_rate=value.annual_discount_rate,
        units_per_year=year,
        horizon=units(value.horizon),
        timing=value.timing,
        period=units(value.period),
        horizons={label: units(label) for label in value.horizons},
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


def _load(config: Any, overrides: Sequence[str], seed: int | None) -> Config:
    more = [] if seed is None else [f"seed={seed}"]
    return settings.load(config, [*overrides, *more])


def _summarise(config: Config, transactions: Any) -> Summary:
    from clvmodels.data import summarise

    models = (config.models.purchases, config.models.spend)
    statistics = [s for model in models for s in registry.get(model.family).extra_statistics]
    margin = config.value.margin
    return summarise(
        config.data,
        transactions=transactions,
        statistics=tuple(dict.fromkeys(statistics)),
        margin_column=margin.column if isinstance(margin, MarginByColumn) else None,
        base=config.base,
    )


def _margin(config: Config, data: Summary) -> tuple[np.ndarray, str]:
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


def _converged(gate: Sequence[Check]) -> bool:
    return all(check.passed is not False for check in gate)


def _pass(
    gate: Sequence[Check], config: Config, folder: Path | None, draws: Posterior, data: Summary
) -> None:
    """Stop a run whose draws may not be used, after writing what was found."""
    failed = [check for check in gate if check.passed is False]
    if not failed or config.fit.allow_unconverged:
        return
    where = ""
    if folder is not None:
        from clvmodels.report import files

        with _folder(folder, overwrite=True) as temporary:
            files.write_diagnostics(temporary, summary=data, posterior=draws, checks=gate, config=config)
        where = f" Diagnostics are in {folder}; no equity was written."
    importance = config.fit.sampler == "importance"
    advice = "use fit.sampler nuts" if importance else "use more fit.tune and fit.draws"
    raise ConvergenceError(
        f"the draws did not converge: {'; '.join(check.sentence.rstrip('.') for check in failed)}. "
        f"To go on, {advice}, or give the priors more information.{where}"
    )


def _refuse_existing(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not overwrite:
        raise InputError(f"the output folder {folder} exists: name another with --out, or add --overwrite.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder: name another with --out.")


@contextmanager
def _folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when everything is written."""
    _refuse_existing(folder, overwrite)
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


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = round(now - self._last, 3)
        self._last = now
