"""The main job: transactions → summary → posterior → equity → report.

Every input of every stage is checked before the first slow step; a run is written to a
temporary folder and renamed when it is complete.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clvmodels.artifacts import Assumptions, Check, Equity, Posterior, Summary
from clvmodels.config import Config
from clvmodels.errors import InputError
from clvmodels.run import backtesting, newcomers
from clvmodels.run.stages import (
    Clock,
    Progress,
    check_shocks,
    converged,
    describe,
    events,
    load_config,
    new_folder,
    pass_gate,
    refuse_existing,
    resolve_assumptions,
    summarise,
    versions,
)

if TYPE_CHECKING:
    from clvmodels.validate.systematic import Weather
    from clvmodels.value import AnyValuation


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
        with new_folder(folder, overwrite) as temporary:
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

    def what_if(self, *, seed: int | None = None, **shift: Any) -> Any:
        """Change of equity if customers bought more often, stayed longer or spent more from now on.

        Parameters
        ----------
        purchase, dropout, spend
            Factors of the mean purchase rate, mean dropout and mean spend, such as ``purchase=1.2``.
        to, add
            Covariate or pooled column → what it becomes; → what is added to it.
        where
            Mask of the customers whom the shift is for, in the order of ``customers``; default: all.

        Returns
        -------
        clvmodels.equity.what_if.WhatIf
            Draws of equity before and after, at level latent, and of their difference.

        Raises
        ------
        InputError
            If the shift is none, or the model does not know what it says.
        """
        from clvmodels import equity

        given = self.summary["seed"] if seed is None else seed
        return equity.what_if(self.data, self.draws, self._assumed(), given, **shift)

    def new_customer(
        self,
        pattern: Mapping[str, str | float] | None = None,
        *,
        margin: float | None = None,
        seed: int | None = None,
    ) -> Any:
        """Orders, revenue and lifetime value of a customer who is about to be acquired, first order included.

        Parameters
        ----------
        pattern
            Column → level or number, for every covariate and pooled column of the model; a pooled column
            may have a new level.
        margin
            Contribution margin ratio; default: the mean of the customers'.

        Returns
        -------
        clvmodels.equity.prospects.Prospect
            Draws at levels expected, latent and predictive.
        """
        from clvmodels import equity

        given = self.summary["seed"] if seed is None else seed
        return equity.prospect(self.data, self.draws, self._assumed(), given, pattern, margin)

    def _assumed(self) -> Assumptions:
        """The assumptions of the run, also of one that was read from its folder."""
        if self.assumptions is not None:
            return self.assumptions
        if self.path is None:
            raise InputError("this run has neither assumptions nor a folder.")
        return resolve_assumptions(load_config(self.path / "config.yaml", (), None), self.data)

    def to_pymc_marketing(self) -> tuple[Any, Any]:
        """The purchase and the spend model as models of pymc-marketing, with this posterior inside.

        Returns
        -------
        tuple
            Fitted models, whose plots, methods and ``save`` work; None in the place of a family that
            pymc-marketing does not have. Their priors are flat: the run's own stand on other coordinates.

        Raises
        ------
        InputError
            If pymc-marketing is not installed (extra ``interchange``), has neither family, or cannot
            hold these customers.
        """
        from clvmodels import interchange

        if self.draws.effects:
            raise InputError("models with covariates or pooling have no counterpart in pymc-marketing.")
        return interchange.models(self.data, self.draws)

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
    clock = Clock()
    config = load_config(config, overrides, seed)
    folder = None if out is None else Path(out)
    if folder is not None:
        refuse_existing(folder, overwrite)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitting.check_model(config.models.purchases, "purchases")
        fitting.check_model(config.models.spend, "spend")
        fitting.check_effects(config.models)
        backtesting.beside(config, folder)  # refuses a wrong one before anything slow starts
        before = _bridging().earlier(config)
        tell("reading transactions", None)
        data = summarise(config, transactions)
        assumptions = resolve_assumptions(config, data)
        check_shocks(config, data, assumptions)
        newcomers.check(config, data)
        _bridging().check_since(before, data)
        clock.lap("data")
        run = fitted(config, data, assumptions, folder, clock, progress, transactions)
    return finish(replace(run, meta=describe(clock, caught)), folder, overwrite, tell)


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
    from clvmodels.data import design

    config = load_config(config, overrides, seed)
    fitting.check_model(config.models.purchases, "purchases")
    fitting.check_model(config.models.spend, "spend")
    fitting.check_effects(config.models)
    if out is not None and Path(out).exists():
        raise InputError(f"{out} exists; name another file with --out, or remove it.")
    if progress:
        progress("reading transactions", None)
    data = summarise(config, transactions)
    fitting.check_data(data, config.models.purchases, config.models.spend)
    design.terms(config.models, data)
    check_shocks(config, data, resolve_assumptions(config, data))
    newcomers.check(config, data)
    if out is not None:
        data.save(Path(out))
    return data


def from_pymc_marketing(
    model: Any,
    spend_model: Any,
    data: Any = None,
    *,
    value: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Value the customers of models that were fitted in pymc-marketing.

    Parameters
    ----------
    model, spend_model
        Its fitted purchase model and spend model, or the paths of saved ones, without covariates.
        Where one has longer chains, its draws are thinned evenly.
    data
        pandas, Polars or Arrow table of the customers to value, with ``customer_id``, ``frequency``,
        ``recency``, ``T`` and ``monetary_value``; None: those that the models were fitted to.
    value
        The ``value`` section of a config.
    config
        Other sections of a config. ``data.time_unit`` and ``data.observation_end`` are needed, because
        the models do not hold them (unless they came from a run).

    Raises
    ------
    InputError
        If the models, the data or the config cannot be used.
    ConvergenceError
        If the draws do not pass the gate.
    """
    from clvmodels import interchange

    clock = Clock()
    parts = interchange.read(model, "purchases"), interchange.read(spend_model, "spend")
    resolved = load_config(interchange.document(parts, value, config), (), None)
    summary = summarise(resolved, interchange.customers(parts) if data is None else data)
    assumptions = resolve_assumptions(resolved, summary)
    draws = interchange.posterior(parts, summary, allow_unconverged=resolved.fit.allow_unconverged)
    clock.lap("data")
    run = valued(resolved, summary, draws, assumptions, None, clock, progress)
    return replace(run, meta={"seconds": clock.laps})


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
    refuse_existing(Path(out), overwrite=False)
    found = reporting.load(folder)
    tested = backtesting.beside(load_config(folder / "config.yaml", (), None), folder)
    config = load_config(folder / "config.yaml", [f"name='{Path(out).name}'", *overrides], seed)
    data, clock = found["summary"], Clock()
    _bridging().check_since(_bridging().earlier(config), data)
    assumptions = resolve_assumptions(config, data)
    check_shocks(config, data, assumptions)
    draws, known = found["posterior"], found["equity"]
    run = valued(config, data, draws, assumptions, Path(out), clock, tell, tested, known)
    meta = {"seconds": clock.laps, "revalued_from": found["table"]["fingerprints"]}
    finish(replace(run, meta=meta), Path(out), False, tell)
    return Path(out) / "report.html"


def fitted(
    config: Config,
    data: Summary,
    assumptions: Assumptions,
    folder: Path | None,
    clock: Clock,
    progress: Progress | None,
    transactions: Any = None,
) -> Run:
    """From customers to posterior draws that passed the gate, and on to equity."""
    from clvmodels import fit as fitting
    from clvmodels.data import design

    models = config.models
    draws = fitting.fit(
        data, models.purchases, models.spend, config.fit, config.seed, progress, design.terms(models, data)
    )
    clock.lap("fit")
    gate = fitting.gate(draws)
    pass_gate(gate, config, folder, draws, data)
    return valued(config, data, draws, assumptions, folder, clock, progress, transactions=transactions)


def valued(
    config: Config,
    data: Summary,
    draws: Posterior,
    assumptions: Assumptions,
    folder: Path | None,
    clock: Clock,
    progress: Progress | None,
    tested: Mapping[str, Any] | None = None,
    known: Equity | None = None,
    transactions: Any = None,
) -> Run:
    """From posterior draws to equity, checks and the table of numbers.

    ``tested`` is the content of a backtest; default: the one that lies beside the run. ``known`` is
    the equity of a run whose fits of new customers are taken as they are. ``transactions`` take the place
    of the config's source.
    """
    from clvmodels import equity
    from clvmodels import fit as fitting
    from clvmodels.validate import systematic
    from clvmodels.value import valuation as any_valuation

    valuation = any_valuation(data, draws, assumptions, config.seed)
    with ThreadPoolExecutor(1) as thread:  # value's kernels leave the interpreter free
        beside = thread.submit(_beside_value, valuation, config)
        if progress:
            progress("value, changed assumptions", None)
        result = equity.build(valuation, progress, equity.survey(valuation))
        gate = fitting.gate(draws, result.total(result.levels[0]))
        pass_gate(gate, config, folder, draws, data)
        result, more = newcomers.add(config, data, draws, assumptions, result, known, progress)
        gate = (*gate, *more)
        pass_gate(gate, config, folder, draws, data)
        weather, met, arrays = beside.result()
    if weather.reason is None:
        bands = result.data["bands"].mean("draw").values
        by, parts = weather.by, None
        if by is not None:
            parts = result.segment(by).sel(level=result.levels[0]).transpose("draw", ...).values.mean(axis=0)
        found = systematic.effects(weather, valuation, bands, config.seed, parts)
        moved = 1.0
        if assumptions.cost_source:
            moved = _of_purchases(valuation) / result.total(result.levels[0]).mean()
        value = 1 + moved * (found.value - 1)
        apart = {} if by is None or found.parts is None else {by: found.parts}
        result = equity.with_shocks(result, value, found.orders, found.revenue, apart)
    clock.lap("value")
    tested, block = tested or backtesting.beside(config, folder), None
    if tested is not None:
        block = backtesting.on_page_one(tested, valuation, result, weather, config.seed)
        met = (*met, *(Check(**check) for check in tested["checks"]))
    since: Mapping[str, Any] | None = None
    if (before := _bridging().earlier(config)) is not None:
        if progress:
            progress("change since the earlier run", None)
        since = _bridging().since(before, config, data, draws, assumptions, result, transactions)
        clock.lap("since")
    checks = (*gate, *met, *systematic.checks(weather))
    diagnostics = {"converged": converged(gate)}
    from clvmodels.report import tables

    table = tables.build(
        data, draws, assumptions, result, checks, config, versions(), diagnostics, arrays, block, since
    )
    return Run(
        data=data, draws=draws, result=result, summary=table, checks=checks, arrays=arrays,
        config=config, assumptions=assumptions, path=folder,
    )  # fmt: skip


def _beside_value(valuation: AnyValuation, config: Config) -> tuple[Weather, tuple[Check, ...], Any]:
    """What needs no equity: the shocks that all customers share, and the predictive checks."""
    from clvmodels import validate
    from clvmodels.validate import systematic

    weather = systematic.of_window(valuation, config.seed, events(config), config.shocks.by)
    met, arrays = validate.predictive_checks(valuation.summary, valuation.posterior, config.seed, weather)
    import_module("clvmodels.report.tables")  # which loads matplotlib
    return weather, met, arrays


def _bridging() -> Any:
    """The bridge to an earlier run, which knows runs itself."""
    from clvmodels.run import bridging

    return bridging


def _of_purchases(valuation: AnyValuation) -> float:
    """Mean value without what customers cost, which is paid in any weather."""
    from clvmodels.value import valuation as any_valuation

    free = replace(valuation.assumptions, cost_alive=0.0, cost_addressed=0.0)
    alone = any_valuation(valuation.summary, valuation.posterior, free, valuation.seed)
    return float(sum(alone.expected(details=False, then=lambda tile: tile.sum().mean())))


def finish(run: Run, folder: Path | None, overwrite: bool, tell: Progress) -> Run:
    if folder is not None:
        tell("writing the report", None)
        run.save(folder, overwrite=overwrite)
    return run
