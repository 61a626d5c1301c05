"""The pipeline: transactions → summary → posterior → equity → report.

Every input of every stage is checked before the first slow step; a run is written to a
temporary folder and renamed when it is complete.
"""

from __future__ import annotations

import datetime as dt
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
from typing import Any, Literal

import numpy as np

from clvmodels import config as settings
from clvmodels.artifacts import Assumptions, Check, Equity, Posterior, Summary
from clvmodels.config import Config, MarginByColumn, MarginBySegment
from clvmodels.errors import ConvergenceError, InputError
from clvmodels.models import registry
from clvmodels.models.family import Statistic

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
        return resolve_assumptions(_load(self.path / "config.yaml", (), None), self.data)

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
        with _folder(folder, overwrite) as temporary:
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
        fitting.check_effects(config.models)
        tell("reading transactions", None)
        data = _summarise(config, transactions)
        assumptions = resolve_assumptions(config, data)
        clock.lap("data")
        run = _fitted(config, data, assumptions, folder, clock, progress)
    return _finish(replace(run, meta=_meta(clock, caught)), folder, overwrite, tell)


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

    clock, folder = _Clock(), None if out is None else Path(out)
    if folder is not None:
        _refuse_existing(folder, overwrite)
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
                    key = f"{variant.base} {variant.data!r} {_statistics(variant)} {variant.value.margin!r}"
                    key += f" {variant.models.columns}"
                    if key not in read:
                        read[key] = _summarise(variant, transactions)
                    data[name] = read[key]
                    fitting.check_data(data[name], variant.models.purchases, variant.models.spend)
                    design.terms(variant.models, data[name])
                    assumed[name] = resolve_assumptions(variant, data[name])
        _refuse_other_customers(data)
        clock.lap("data")
        runs = {}
        for name, variant in found.items():
            if isinstance(variant, Run):
                runs[name] = variant
                continue
            with _about(name):
                laps = _Clock()
                run = _fitted(variant, data[name], assumed[name], None, laps, _prefixed(progress, name))
                runs[name] = replace(run, meta=_meta(laps, caught))
            clock.lap(f"run {name}")
        comparison = _compared(runs, folder.name if folder else _common_name(variants), progress)
        clock.lap("scores")
    comparison = replace(comparison, meta=_meta(clock, caught))
    if folder is not None:
        if progress:
            progress("writing the report", None)
        comparison.save(folder, overwrite=overwrite)
    return replace(comparison, path=folder)


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

    config = _load(config, overrides, seed)
    fitting.check_model(config.models.purchases, "purchases")
    fitting.check_model(config.models.spend, "spend")
    fitting.check_effects(config.models)
    if out is not None and Path(out).exists():
        raise InputError(f"{out} exists; name another file with --out, or remove it.")
    if progress:
        progress("reading transactions", None)
    data = _summarise(config, transactions)
    fitting.check_data(data, config.models.purchases, config.models.spend)
    design.terms(config.models, data)
    resolve_assumptions(config, data)
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

    clock = _Clock()
    parts = interchange.read(model, "purchases"), interchange.read(spend_model, "spend")
    resolved = _load(interchange.document(parts, value, config), (), None)
    summary = _summarise(resolved, interchange.customers(parts) if data is None else data)
    assumptions = resolve_assumptions(resolved, summary)
    draws = interchange.posterior(parts, summary, allow_unconverged=resolved.fit.allow_unconverged)
    clock.lap("data")
    run = _value(resolved, summary, draws, assumptions, None, clock, progress)
    return replace(run, meta={"seconds": clock.laps})


@dataclass(frozen=True)
class BridgeResult:
    """The bridge between two dates with the calls that a notebook wants.

    Attributes
    ----------
    bridge
        Draws of every line in both bases, see :mod:`clvmodels.equity.bridge`.
    summary
        The content of ``bridge.json``: every number with its unit and level.
    path
        Folder, None if it was not written.
    """

    bridge: Any
    summary: Mapping[str, Any]
    config: Config
    meta: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @cached_property
    def customers(self) -> Any:
        """Change, drift and surprise of every customer, a pandas DataFrame; level expected."""
        return self.bridge.customers.to_pandas().set_index("customer")

    @cached_property
    def alerts(self) -> Any:
        """Customers who fell short of expectation, the largest shortfall first."""
        return self.bridge.alerts().to_pandas().set_index("customer")

    def lines(self, basis: str | None = None) -> Any:
        """Mean, sd and intervals of the lines of a basis, a pandas DataFrame in the run's currency."""
        import pandas as pd

        found = self.summary["bases"][basis or self.summary["basis"]]["lines"]
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("line")

    def plot(self, basis: str | None = None) -> Any:
        """Waterfall with 90 % intervals; returns the matplotlib figure."""
        from clvmodels.report import bridge as reporting

        return reporting.waterfall(self.summary, basis)

    def save(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write page, JSON, CSV, customers, alert list and figures."""
        from clvmodels.report import bridge as reporting

        with _folder(Path(folder), overwrite) as temporary:
            text = settings.dump(self.config, temporary)
            reporting.write(temporary, self.bridge, self.summary, text, self.meta)
        return Path(folder)

    def __repr__(self) -> str:
        from clvmodels.report import bridge as reporting

        lines = [f"<Bridge {self.summary['opening']['date']} to {self.summary['closing']['date']}>"]
        for label, mean, span in reporting.summary_lines(self.summary):
            lines.append(f"  {label:<44}{mean:>12}   {span}")
        return "\n".join(lines)


def bridge(
    config: Config | Path | str | Mapping[str, Any],
    start: Any,
    end: Any,
    transactions: Any = None,
    *,
    basis: Literal["closing", "opening"] = "closing",
    coupling: Literal["independent", "comonotone"] = "independent",
    changes: Sequence[str] = (),
    acquisition_cost: float = 0.0,
    alert: float | None = None,
    out: Path | str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BridgeResult:
    """Why equity moved between two dates, and the return on it.

    The models are fitted at both dates to the log as it stood then.

    Parameters
    ----------
    start, end
        ISO dates (or ``datetime.date``); they take the place of ``data.observation_end``.
    basis
        Which of the two is shown first, see :mod:`clvmodels.equity.bridge`.
    coupling
        How draws of the two posteriors are paired, where a line compares them.
    changes
        ``"key=value"`` under ``value``, ``models`` or ``fit`` that hold at the closing date only.
    acquisition_cost
        Spent between the dates, in the run's currency, for the return with acquired customers.
    alert
        Shortfall of a customer to list, currency; default: the margin of an average first order.

    Raises
    ------
    InputError
        If dates, config or data cannot be used; nothing has been written.
    ConvergenceError
        If the draws of either date do not pass the gate.
    """
    from clvmodels import fit as fitting
    from clvmodels.data.realized import realized
    from clvmodels.equity import bridge as bridging
    from clvmodels.report import bridge as reporting

    tell, clock = progress or (lambda stage, fraction: None), _Clock()
    first_day, last_day = (_bridge_day(name, day) for name, day in (("from", start), ("to", end)))
    if first_day >= last_day:
        raise InputError(f"the bridge leads from {first_day} to {last_day}: --from is the earlier date.")
    if coupling not in ("independent", "comonotone") or basis not in bridging.BASES:
        raise InputError(
            f"coupling {coupling!r}, basis {basis!r}: choose independent or comonotone, "
            "and closing or opening."
        )
    other = [text for text in changes if not text.strip().startswith(("value.", "models.", "fit."))]
    if other:
        raise InputError(
            f"--change {other[0]}: only keys under value, models and fit may change between dates."
        )
    plain = _load(config, overrides, seed)
    if plain.models.columns or plain.models.pool:
        raise InputError("models.covariates, models.pool: a bridge does not know effects yet; take them out.")
    if plain.data.kind == "summary":
        raise InputError("data.kind is summary: a bridge needs a log of transactions, with dates.")
    window = (f"data.observation_end={first_day}", f"data.holdout_end={last_day}")
    before = _load(plain, window, None)
    after = _load(plain, ("data.holdout_end=", f"data.observation_end={last_day}", *changes), None)
    folder = None if out is None else Path(out)
    if folder is not None:
        _refuse_existing(folder, overwrite)
    for role in ("purchases", "spend"):
        for used in (before, after):
            fitting.check_model(getattr(used.models, role), role)
    sides: list[Any] = []
    converged = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tell("reading transactions", None)
        data = []
        for day, used in ((first_day, before), (last_day, after)):
            try:
                data.append(_summarise(used, transactions))
            except InputError as error:
                raise InputError(f"bridge at {day}: {error}") from None
        assumptions = [
            resolve_assumptions(used, found) for used, found in zip((before, after), data, strict=True)
        ]
        others: list[np.ndarray | None] = [None, None]
        if before.value.margin != after.value.margin:
            # A column of margins is read with the customers of its own date only.
            for k, used in enumerate((before, after)):
                if not isinstance(used.value.margin, MarginByColumn):
                    others[k] = _margin(used, data[1 - k])[0]
        deltas = [found.delta for found in assumptions]
        ids, revenue = realized(before.data, deltas, transactions=transactions, base=before.base)
        clock.lap("data")

        def posterior(used: Config, found: Summary) -> Posterior:
            nonlocal converged
            draws = fitting.fit(
                found, used.models.purchases, used.models.spend, used.fit, used.seed, progress=progress
            )
            gate = fitting.gate(draws)
            _pass(gate, used, folder, draws, found)
            converged = converged and _converged(gate)
            return draws

        for k, used in enumerate((before, after)):
            draws = posterior(used, data[k])
            sides.append(
                bridging.Side(
                    summary=data[k], posterior=draws, assumptions=assumptions[k], margin_of_other=others[k]
                )
            )
        families = [(used.models.purchases.family, used.models.spend.family) for used in (before, after)]
        middle = posterior(before, data[1]) if families[0] != families[1] else None
        clock.lap("fit")
        tell("bridge", None)
        found = bridging.build(
            sides[0], sides[1], refitted=middle, coupling=coupling,
            revenue=_of_customers(data[1], ids, revenue), alert=alert, seed=before.seed,
        )  # fmt: skip
        closing_gate = fitting.gate(sides[1].posterior, found.movements["closing"]["closing"])
        _pass(closing_gate, after, folder, sides[1].posterior, data[1])
        clock.lap("bridge")
    table = reporting.build(
        found,
        name=plain.name,
        opening=_described_side(before, sides[0]),
        closing=_described_side(after, sides[1]),
        basis=basis,
        acquisition_cost=acquisition_cost,
        alerts=found.alerts().num_rows,
        converged=converged and _converged(closing_gate),
        versions=versions(),
    )
    meta = {
        "seed": before.seed,
        "changes": list(changes),
        "coupling": coupling,
        "seconds": clock.laps,
        "versions": versions(),
        "warnings": sorted(
            {str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning | FutureWarning)}
        ),
    }
    result = BridgeResult(bridge=found, summary=table, config=before, meta=meta, path=folder)
    if folder is not None:
        tell("writing the report", None)
        result.save(folder, overwrite=overwrite)
    return result


def _bridge_day(name: str, day: Any) -> dt.date:
    try:
        return day if type(day) is dt.date else dt.date.fromisoformat(str(day))
    except ValueError:
        raise InputError(f"--{name} {day}: a day is written 1997-09-30, without a time.") from None


def _of_customers(data: Summary, ids: np.ndarray, revenue: np.ndarray) -> np.ndarray:
    """Rows of ``revenue`` for the customers of a summary, zero for those without one."""
    out = np.zeros((len(data), revenue.shape[1]))
    _, at, place = np.intersect1d(data.customer, ids, assume_unique=True, return_indices=True)
    out[at] = revenue[place]
    return out


def _described_side(config: Config, side: Any) -> dict[str, Any]:
    value, draws = config.value, side.posterior
    timing = value.timing if value.timing == "continuous" else f"{value.timing} of each {value.period}"
    return {
        "date": side.summary.observation_end.isoformat(),
        "customers": len(side.summary),
        "fingerprint": side.summary.fingerprint,
        "assumptions": {
            "Customers": f"{len(side.summary):,}",
            "Purchase model": f"{registry.get(draws.purchases.family).title} ({draws.purchases.sampler})",
            "Spend model": f"{registry.get(draws.spend.family).title} ({draws.spend.sampler})",
            "Joint draws": f"{len(draws):,}",
            "Margin": side.assumptions.margin_source,
            "Discount rate": f"{100 * value.annual_discount_rate:.4g} % a year, {timing}",
            "Horizon": value.horizon,
        },
    }


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


def _fitted(
    config: Config,
    data: Summary,
    assumptions: Assumptions,
    folder: Path | None,
    clock: _Clock,
    progress: Progress | None,
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
    _pass(gate, config, folder, draws, data)
    return _value(config, data, draws, assumptions, folder, clock, progress)


def _meta(clock: _Clock, caught: Sequence[warnings.WarningMessage]) -> dict[str, Any]:
    """What may differ between two equal runs: timings, machine, warnings."""
    return {
        "seconds": clock.laps,
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "warnings": sorted(
            {str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning | FutureWarning)}
        ),
    }


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
    from clvmodels.value import valuation

    result = equity.build(valuation(data, draws, assumptions, config.seed), progress)
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
        period=1.0 if data.clock == "discrete" else units(value.period),
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

    margin = config.value.margin
    return summarise(
        config.data,
        transactions=transactions,
        statistics=_statistics(config),
        margin_column=margin.column if isinstance(margin, MarginByColumn) else None,
        features=config.models.columns,
        base=config.base,
    )


def _statistics(config: Config) -> tuple[Statistic, ...]:
    """Statistics beyond the summary's own columns that the families need."""
    models = (config.models.purchases, config.models.spend)
    needed = (s for model in models for s in registry.get(model.family).extra_statistics)
    return tuple(dict.fromkeys(needed))


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
    importance = "importance" in (draws.purchases.sampler, draws.spend.sampler)
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
