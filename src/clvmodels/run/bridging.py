"""Why equity moved between two dates."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clvmodels import config as settings
from clvmodels.artifacts import Posterior, Summary
from clvmodels.config import Config, MarginByColumn
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.run.job import Run, load
from clvmodels.run.stages import (
    Clock,
    Progress,
    converged,
    load_config,
    margins,
    new_folder,
    pass_gate,
    refuse_calendar,
    refuse_existing,
    resolve_assumptions,
    statistics,
    told,
    versions,
)


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

        with new_folder(Path(folder), overwrite) as temporary:
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
    attribution: Literal["sequential", "shapley"] = "sequential",
    changes: Sequence[str] = (),
    acquisition_cost: float | None = None,
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
    attribution
        Changed assumptions one after the other, or averaged over all orders (Shapley).
    changes
        ``"key=value"`` under ``value``, ``models`` or ``fit`` that hold at the closing date only.
    acquisition_cost
        Spent between the dates, in the run's currency, for the return with acquired customers; default:
        the cost of a customer by ``future.cac`` or ``acquisition``, where the config has ``future``, times
        the customers acquired; otherwise 0.
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
    from clvmodels.data import design
    from clvmodels.data.log import opened_log
    from clvmodels.equity.bridge import Side

    tell, clock = progress or (lambda stage, fraction: None), Clock()
    days = [one_day(name, day) for name, day in (("from", start), ("to", end))]
    if days[0] >= days[1]:
        raise InputError(f"the bridge leads from {days[0]} to {days[1]}: --from is the earlier date.")
    how = _How(basis, coupling, attribution, acquisition_cost, alert)
    other = [text for text in changes if not text.strip().startswith(("value.", "models.", "fit."))]
    if other:
        raise InputError(
            f"--change {other[0]}: only keys under value, models and fit may change between dates."
        )
    plain = load_config(config, overrides, seed)
    if plain.data.kind == "summary":
        raise InputError("data.kind is summary: a bridge needs a log of transactions, with dates.")
    window = (f"data.observation_end={days[0]}", f"data.holdout_end={days[1]}")
    before = load_config(plain, window, None)
    after = load_config(plain, ("data.holdout_end=", f"data.observation_end={days[1]}", *changes), None)
    folder = None if out is None else Path(out)
    if folder is not None:
        refuse_existing(folder, overwrite)
    for role in ("purchases", "spend"):
        for used in (before, after):
            fitting.check_model(getattr(used.models, role), role)
            fitting.check_effects(used.models)
        refuse_calendar(used)
    good = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tell("reading transactions", None)
        data: list[Summary] = []
        with contextlib.ExitStack() as stack:
            columns = [margin_column(used) for used in (before, after)]
            read = functools.partial(
                opened_log,
                plain.data,
                transactions=transactions,
                features=tuple(dict.fromkeys((*before.models.columns, *after.models.columns))),
                base=plain.base,
            )
            log = stack.enter_context(read(margin_column=columns[1] or columns[0]))
            first = log
            if columns[0] and columns[1] and columns[0] != columns[1]:
                first = stack.enter_context(read(margin_column=columns[0]))
            for day, used, source in zip(days, (before, after), (first, log), strict=True):
                try:
                    data.append(source.at(day, statistics(used)))
                except InputError as error:
                    raise InputError(f"bridge at {day}: {error}") from None
            assumptions = [
                resolve_assumptions(used, found) for used, found in zip((before, after), data, strict=True)
            ]
            paid = log.between(days[0], days[1], [found.delta for found in assumptions])
        clock.lap("data")

        def posterior(used: Config, found: Summary) -> Posterior:
            nonlocal good
            models = used.models
            draws = fitting.fit(
                found, models.purchases, models.spend, used.fit, used.seed, progress,
                design.terms(models, found),
            )  # fmt: skip
            gate = fitting.gate(draws)
            pass_gate(gate, used, folder, draws, found)
            good = good and converged(gate)
            return draws

        draws = [posterior(used, found) for used, found in zip((before, after), data, strict=True)]
        sides = [
            Side(summary=data[k], posterior=draws[k], assumptions=assumptions[k], margin_of_other=margin)
            for k, margin in enumerate(other_margins((before, after), data))
        ]
        families = [(used.models.purchases.family, used.models.spend.family) for used in (before, after)]
        middle = posterior(before, data[1]) if families[0] != families[1] else None
        clock.lap("fit")
        tell("bridge", None)
        found = _built(sides, how, before.seed, middle, of_customers(data[1], *paid))
        future, notes = _future((before, after), sides, found, how, folder, progress=progress)
        closing_gate = fitting.gate(draws[1], found.movements["closing"]["closing"])
        pass_gate(closing_gate, after, folder, draws[1], data[1])
        clock.lap("bridge")
    meta = {
        "seed": before.seed,
        "changes": list(changes),
        "coupling": coupling,
        "seconds": clock.laps,
        "versions": versions(),
        "warnings": told(caught),
    }
    described = [_described_side(used, side) for used, side in zip((before, after), sides, strict=True)]
    good = good and converged(closing_gate)
    result = _result(found, plain.name, described, how, before, meta, good, notes, future)
    return _written(result, folder, overwrite, tell)


def bridge_runs(
    opening: Run | Path | str,
    closing: Run | Path | str,
    transactions: Any = None,
    *,
    basis: Literal["closing", "opening"] = "closing",
    coupling: Literal["independent", "comonotone"] = "independent",
    attribution: Literal["sequential", "shapley"] = "sequential",
    acquisition_cost: float | None = None,
    alert: float | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BridgeResult:
    """Why equity moved from one finished run to a later one; nothing is fitted.

    Parameters
    ----------
    opening, closing
        Folders of runs, or runs. Each brings its own customers, posterior and assumptions.
    transactions
        The closing's log, where its config names no source.
    basis, coupling, attribution, acquisition_cost, alert
        As for :func:`bridge`.

    Raises
    ------
    InputError
        If the opening is not earlier than the closing, or the two differ in time unit, currency or
        clock, or have no customer in common.

    Notes
    -----
    What customers paid between the dates, day by day, is read from the closing's log. Where that is
    not there, or does not say what the run read, the two runs' customers tell how much each paid, and
    it is brought to the closing as if it had come evenly; ``notes`` say so. Where the model classes
    differ, all of that change stands on the line ``model``.
    """
    from clvmodels.equity.bridge import Side

    tell, clock = progress or (lambda stage, fraction: None), Clock()
    how = _How(basis, coupling, attribution, acquisition_cost, alert)
    folder = None if out is None else Path(out)
    if folder is not None:
        refuse_existing(folder, overwrite)
    tell("reading runs", None)
    runs = [_run(one) for one in (opening, closing)]
    names = [str(run.path or run.summary["name"]) for run, _ in runs]
    data = [run.data for run, _ in runs]
    if data[0].observation_end >= data[1].observation_end:
        raise InputError(
            f"{names[0]} is a valuation at {data[0].observation_end} and {names[1]} at "
            f"{data[1].observation_end}: give the earlier run first."
        )
    configs = tuple(config for _, config in runs)
    assumptions = [resolve_assumptions(config, found) for config, found in zip(configs, data, strict=True)]
    sides = [
        Side(summary=data[k], posterior=runs[k][0].draws, assumptions=assumptions[k], margin_of_other=margin)
        for k, margin in enumerate(other_margins(configs, data))
    ]
    revenue, notes = _paid_between(configs[1], sides, transactions)
    clock.lap("data")
    tell("bridge", None)
    try:
        found = _built(sides, how, configs[0].seed, None, revenue)
    except InputError as error:
        raise InputError(f"{names[0]} and {names[1]}: {error}") from None
    future, more = _future(configs, sides, found, how, None, known=[run.result for run, _ in runs])
    notes += more
    clock.lap("bridge")
    pair = [run.draws for run, _ in runs]
    if any(getattr(pair[0], r).family != getattr(pair[1], r).family for r in ("purchases", "spend")):
        notes.append(
            "The two runs use other models. Nothing was fitted for this page, so the line “Another model” "
            "also holds what the old model would have learned since."
        )
    meta = {
        "seed": configs[0].seed,
        "runs": {
            which: {"path": name, "fingerprints": run.summary["fingerprints"]}
            for which, name, (run, _) in zip(("opening", "closing"), names, runs, strict=True)
        },
        "coupling": coupling,
        "seconds": clock.laps,
        "versions": versions(),
        "warnings": [],
    }
    described = [_described_side(config, side) for config, side in zip(configs, sides, strict=True)]
    good = all(run.summary["diagnostics"]["converged"] is not False for run, _ in runs)
    title = " to ".join(dict.fromkeys(config.name for config in configs))
    result = _result(found, title, described, how, configs[0], meta, good, notes, future)
    return _written(result, folder, overwrite, tell)


def earlier(config: Config) -> tuple[Run, Config] | None:
    """The run that ``report.since`` names, and its config.

    Raises
    ------
    InputError
        If the folder holds none.
    """
    if config.report.since is None:
        return None
    try:
        return _run(config.base / config.report.since)
    except InputError as error:
        raise InputError(f"report.since: {error}") from None


def check_since(before: tuple[Run, Config] | None, data: Summary) -> None:
    """Whether a run is of an earlier day and of the same customers, before anything is fitted.

    Raises
    ------
    InputError
        If it is not.
    """
    from clvmodels.equity.bridge import paid_between

    if before is None:
        return
    old = before[0].data
    if old.observation_end >= data.observation_end:
        raise InputError(
            f"report.since names a valuation at {old.observation_end}, and this one is at "
            f"{data.observation_end}: name an earlier run."
        )
    for what in ("currency", "time_unit", "clock"):
        one, other = getattr(old, what), getattr(data, what)
        if one != other:
            raise InputError(f"report.since: that run has {what} {one} and this one {other}.")
    try:
        paid_between(old, data)
    except InputError as error:
        raise InputError(f"report.since: {error}") from None


def since(
    before: tuple[Run, Config],
    config: Config,
    data: Summary,
    draws: Posterior,
    assumptions: Any,
    result: Any,
    transactions: Any = None,
) -> dict[str, Any]:
    """What page one says of the change since an earlier run.

    Parameters
    ----------
    before
        As :func:`earlier` gives it.
    result
        Equity of the run that is being made.
    """
    from clvmodels.equity.bridge import Side
    from clvmodels.report import bridge as reporting

    run, old = before
    posterior = run.draws
    if len({len(posterior), len(draws)} - {1}) > 1:
        posterior = posterior.thinned(len(draws))
    pairs = ((run.data, posterior, resolve_assumptions(old, run.data)), (data, draws, assumptions))
    sides = [
        Side(summary=found, posterior=drawn, assumptions=assumed, margin_of_other=margin)
        for (found, drawn, assumed), margin in zip(
            pairs, other_margins((old, config), (run.data, data)), strict=True
        )
    ]
    how = _How("closing", "independent", "sequential", None, None)
    revenue, notes = _paid_between(config, sides, transactions)
    found = _built(sides, how, old.seed, None, revenue)
    same = len(posterior) == len(run.draws)  # the saved forecast has as many draws as its run
    future: tuple[Any, float | None] = (None, None)
    if same:
        future, more = _future((old, config), sides, found, how, None, known=(run.result, result))
        notes += more
    meta: dict[str, Any] = {}
    described = [_described_side(used, side) for used, side in zip((old, config), sides, strict=True)]
    bridged = _result(found, config.name, described, how, old, meta, True, notes, future)
    return reporting.since(found, bridged.summary)


@dataclass(frozen=True)
class _How:
    """What the caller chose."""

    basis: Any
    coupling: Any
    attribution: Any
    acquisition_cost: float | None
    alert: float | None

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("basis", self.basis, ("closing", "opening")),
            ("coupling", self.coupling, ("independent", "comonotone")),
            ("attribution", self.attribution, ("sequential", "shapley")),
        ):
            if value not in choices:
                raise InputError(f"{name} is {value!r}: choose {' or '.join(choices)}.")


def _built(
    sides: Sequence[Any], how: _How, seed: int, middle: Posterior | None, revenue: np.ndarray | None
) -> Any:
    from clvmodels.equity import bridge as bridging

    return bridging.build(
        *sides, refitted=middle, coupling=how.coupling, attribution=how.attribution, revenue=revenue,
        alert=how.alert, seed=seed,
    )  # fmt: skip


def _result(
    found: Any,
    name: str,
    described: Sequence[Mapping[str, Any]],
    how: _How,
    config: Config,
    meta: Mapping[str, Any],
    good: bool,
    notes: Sequence[str] = (),
    future: tuple[Any, float | None] = (None, None),
) -> BridgeResult:
    from clvmodels.report import bridge as reporting

    equity, spent = future
    table = reporting.build(
        found,
        name=name,
        opening=described[0],
        closing=described[1],
        basis=how.basis,
        acquisition_cost=how.acquisition_cost if how.acquisition_cost is not None else spent or 0.0,
        future=equity,
        alerts=found.alerts().num_rows,
        converged=good,
        notes=notes,
        versions=versions(),
    )
    return BridgeResult(bridge=found, summary=table, config=config, meta=meta)


def _future(
    configs: Sequence[Config],
    sides: Sequence[Any],
    found: Any,
    how: _How,
    folder: Path | None,
    known: Sequence[Any] = (None, None),
    progress: Progress | None = None,
) -> tuple[tuple[Any, float | None], list[str]]:
    """Future customers at both dates, what winning those of the period cost, and what a reader must know."""
    from clvmodels.equity import future
    from clvmodels.run import newcomers

    asked = [config.future is not None for config in configs]
    if not all(asked):
        which = "closing" if asked[1] else "opening"
        one_sided = f"Only the {which} values customers still to be won, so that no return in total is given."
        return (None, None), [one_sided] if any(asked) else []
    cac = None
    if known[0] is None:
        cac = newcomers.cost_of_all(configs[1], sides[1].summary, len(sides[1].posterior))
    outlooks = []
    for config, side, run in zip(configs, sides, known, strict=True):
        try:
            one, gate = newcomers.outlook(
                config, side.summary, side.posterior, side.assumptions, cac=cac, known=run, progress=progress
            )
        except InputError as error:
            raise InputError(f"bridge at {side.summary.observation_end}: {error}") from None
        pass_gate(gate, config, folder, side.posterior, side.summary)
        outlooks.append(one)
    equity = future.between(outlooks[0], outlooks[1], found.elapsed).paired(found.order)
    spent = float(outlooks[1].cac.mean()) * found.counts["new"]
    notes = []
    if how.acquisition_cost is None and spent:
        notes.append(
            "What was spent to win customers between the dates was not given (--acquisition-cost): it is "
            "taken to be the cost of a future customer at the closing, times the customers won."
        )
    return (equity, spent), notes


def _written(result: BridgeResult, folder: Path | None, overwrite: bool, tell: Progress) -> BridgeResult:
    if folder is None:
        return result
    tell("writing the report", None)
    result.save(folder, overwrite=overwrite)
    return replace(result, path=folder)


def _run(given: Run | Path | str) -> tuple[Run, Config]:
    """A run with its config, which a folder holds."""
    if isinstance(given, Run):
        if given.config is not None:
            return given, given.config
        given = given.path or Path()
    path = Path(given)
    if not path.is_dir():
        raise InputError(
            f"{path} is not the folder of a run: give two folders that 'fit' wrote, or one config with "
            "--from and --to."
        )
    return load(path), load_config(path / "config.yaml", (), None)


def _paid_between(
    config: Config, sides: Sequence[Any], transactions: Any
) -> tuple[np.ndarray | None, list[str]]:
    """Revenue of the closing's customers between the dates from its log, or None and why."""
    from clvmodels.data.log import opened_log
    from clvmodels.equity.bridge import paid_between

    old, new = (side.summary for side in sides)
    try:
        with opened_log(config.data, transactions=transactions, base=config.base) as log:
            deltas = [side.assumptions.delta for side in sides]
            paid = log.between(old.observation_end, new.observation_end, [*deltas, 0.0])
    except InputError as error:
        return None, [f"{_EVENLY}: {error}"]
    revenue = of_customers(new, *paid)
    known, of_runs = paid_between(old, new)
    # Cents are exact in the log; the runs hold means of floats.
    if np.abs(revenue[known, 2] - of_runs).max(initial=0.0) > 1e-6 * np.abs(of_runs).max(initial=1.0):
        return None, [f"{_EVENLY}: it no longer says what the runs read."]
    return revenue[:, :2], []


_EVENLY = (
    "What customers paid between the dates is taken from the two runs, as if it had come evenly, because "
    "the closing's log could not be used"
)


def one_day(name: str, day: Any) -> dt.date:
    """A day of the command line."""
    try:
        return day if type(day) is dt.date else dt.date.fromisoformat(str(day))
    except ValueError:
        raise InputError(f"--{name} {day}: a day is written 1997-09-30, without a time.") from None


def margin_column(config: Config) -> str | None:
    """The column of margins, where the config takes them from the log."""
    margin = config.value.margin
    return margin.column if isinstance(margin, MarginByColumn) else None


def other_margins(configs: Sequence[Config], data: Sequence[Summary]) -> list[np.ndarray | None]:
    """What the margin rule of each date gives the other date's customers, where the rule changes."""
    if configs[0].value.margin == configs[1].value.margin:
        return [None, None]
    # A column of margins is read with the customers of its own date only.
    return [
        None if isinstance(used.value.margin, MarginByColumn) else margins(used, data[1 - k])[0]
        for k, used in enumerate(configs)
    ]


def of_customers(data: Summary, ids: np.ndarray, revenue: np.ndarray) -> np.ndarray:
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
            "Cost of keeping": side.assumptions.cost_source or "none",
            "Discount rate": f"{100 * value.annual_discount_rate:.4g} % a year, {timing}",
            "Horizon": value.horizon,
        },
    }
