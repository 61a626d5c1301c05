"""Refit at many past days, forecast, and compare with what happened."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clvmodels import config as settings
from clvmodels.artifacts import DAYS_PER_UNIT, Equity, Intensity, Posterior, Summary
from clvmodels.config import Config, MarginByColumn
from clvmodels.effects import fingerprint
from clvmodels.errors import ConvergenceError, InputError
from clvmodels.run.stages import (
    Clock,
    Progress,
    check_parts,
    check_shares,
    describe,
    events,
    load_config,
    margins,
    new_folder,
    refuse_existing,
    statistics,
    versions,
)

if TYPE_CHECKING:
    from clvmodels.data.history import History
    from clvmodels.validate.backtest import Backtest, Horizon, Origin
    from clvmodels.validate.systematic import Event, Weather

SEEN = 3
"""The first origin stands where this part (a third) of the log has been seen."""


@dataclass(frozen=True)
class BacktestResult:
    """Forecasts of the past with the calls that a notebook wants.

    Attributes
    ----------
    backtest
        Every origin, see :mod:`clvmodels.validate.backtest`.
    summary
        The content of ``backtest.json``: every number with its unit and level.
    path
        Folder, None if it was not written.
    """

    backtest: Backtest
    summary: Mapping[str, Any]
    config: Config
    meta: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @cached_property
    def scores(self) -> Any:
        """One row per origin, horizon, measure, level and group, a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.backtest.rows("scores"))

    @cached_property
    def coverage(self) -> Any:
        """One row per horizon, measure, level and group, a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.summary["coverage"])

    def plot(self) -> Any:
        """Coverage by horizon with its binomial bands; returns the matplotlib figure."""
        from clvmodels.report import backtest as reporting

        return reporting.coverage_figure(self.summary)

    def save(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write page, JSON, CSV, records and figures."""
        from clvmodels.report import backtest as reporting

        with new_folder(Path(folder), overwrite) as temporary:
            text = settings.dump(self.config, temporary)
            reporting.write(temporary, self.backtest, self.summary, text, self.meta)
        return Path(folder)

    def __repr__(self) -> str:
        where = f"\n  {self.path}" if self.path else ""
        lines = "".join(f"\n  {sentence}" for sentence in self.summary["sentences"])
        return f"<Backtest {self.summary['name']}>{lines}{where}"


def backtest(
    config: Config | Path | str | Mapping[str, Any],
    transactions: Any = None,
    *,
    out: Path | str | None = None,
    cache: Path | str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BacktestResult:
    """Refit at many origins and compare forecasts with what happened.

    The log is read once. The section ``validation`` of the config says which origins and horizons.

    Parameters
    ----------
    config, transactions, seed, overrides, overwrite, progress
        As for :func:`clvmodels.fit`.
    out
        Folder to write; None: nothing is written but the cache.
    cache
        Folder where finished origins are kept, so that a run that was interrupted goes on, and new
        origins or the same ones again cost only what is new; default: ``out`` with ``.cache``. None
        without ``out``: nothing is kept.

    Raises
    ------
    InputError
        If config or data cannot be used, an origin or a horizon lies outside the log, or no origin has
        enough data.
    ConvergenceError
        If the draws of no origin pass the gate.
    """
    from clvmodels import fit as fitting
    from clvmodels.data import history as histories
    from clvmodels.report import backtest as reporting
    from clvmodels.validate.backtest import Backtest

    tell, clock = progress or (lambda stage, fraction: None), Clock()
    config = load_config(config, overrides, seed)
    folder = None if out is None else Path(out)
    if folder is not None:
        refuse_existing(folder, overwrite)
        cache = cache or folder.with_name(f"{folder.name}.cache")
    kept = None if cache is None else Path(cache)
    fitting.check_model(config.models.purchases, "purchases")
    fitting.check_model(config.models.spend, "spend")
    fitting.check_effects(config.models)
    if config.models.calendar != "even" and config.data.clock == "discrete":
        raise InputError(
            "models.calendar: weekly needs a continuous clock: periods of a discrete one are whole."
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tell("reading transactions", None)
        margin = config.value.margin
        history = histories.read(
            config.data,
            transactions=transactions,
            statistics=statistics(config),
            margin_column=margin.column if isinstance(margin, MarginByColumn) else None,
            features=config.models.columns,
            base=config.base,
        )
        if (by := config.shocks.by) is not None:
            check_parts(by, history.segments[by][0])
        horizons, left_out = plan_horizons(config, history)
        dates = plan_origins(config, history, horizons)
        horizons, left_out = _inside(config, history, horizons, dates, left_out)
        clock.lap("data")
        origins = _origins(config, history, horizons, dates, kept, tell)
        clock.lap("origins")
    found = Backtest(
        origins=tuple(origins),
        horizons=tuple(horizons),
        currency=history.currency,
        time_unit=history.time_unit,
        clock=history.clock,
    )
    if not found.scored:
        raise ConvergenceError(
            f"no origin could be scored; the last, {origins[-1].date}: {origins[-1].reason}"
        )
    numbers = {origin.date.isoformat(): int(history.number(origin.date)) for origin in origins}
    drift = _drift(config, history, found)
    table = reporting.build(
        found, config, numbers,
        left_out=left_out, known=_known(history, found), drift=drift, last=history.last, versions=versions(),
    )  # fmt: skip
    result = BacktestResult(found, table, config, describe(clock, caught), folder)
    if folder is not None:
        tell("writing the report", None)
        result.save(folder, overwrite=overwrite)
    return result


# --- which days, how far -------------------------------------------------------------------------


def plan_horizons(config: Config, history: History) -> tuple[list[Horizon], dict[str, str]]:
    """Horizons in counted days (periods), ascending; and those that the clock cannot count, with why."""
    from clvmodels.validate.backtest import Horizon

    asked = config.validation.horizons != type(config.validation).model_fields["horizons"].default
    found: list[Horizon] = []
    left_out: dict[str, str] = {}
    for label in config.validation.horizons:
        steps = _steps(config, history, label)
        if steps is None:
            why = f"it is no whole number of {history.counted}s, in which the discrete clock counts"
            if asked:
                raise InputError(f"validation.horizons: {label}: {why}.")
            left_out[label] = why
        elif steps not in [horizon.steps for horizon in found]:
            found.append(Horizon(label=label, steps=steps))
    if not found:
        raise InputError(
            f"validation.horizons: none of them is a whole number of {history.counted}s; set for instance "
            f'"1 {history.time_unit}".'
        )
    return sorted(found, key=lambda horizon: horizon.steps), left_out


def _steps(config: Config, history: History, text: str) -> int | None:
    """A duration in counted days, or in periods that it is within a tenth of; None where there is none."""
    year = settings.units_per_year(config)
    units = settings.duration(text, config.data.time_unit, year)
    if history.clock != "discrete":
        return max(1, round(units * DAYS_PER_UNIT[config.data.time_unit]))
    whole = round(units)
    return whole if whole >= 1 and abs(units / whole - 1) <= 0.1 else None


def plan_origins(config: Config, history: History, horizons: Sequence[Horizon]) -> list[dt.date]:
    """Origins in order of time.

    Raises
    ------
    InputError
        If an origin that was asked for lies outside the log, or leaves no horizon inside it, or if the
        log is too short for any.
    """
    plan, shortest = config.validation, horizons[0]
    first, last = int(history.number(history.first)), int(history.number(history.last))
    span = f"the log runs from {history.first} to {history.last}"
    given = {text: dt.date.fromisoformat(text) for text in plan.origins}
    if plan.origins:
        for text, day in given.items():
            if not history.first < day < history.last:
                raise InputError(f"validation.origins: {text} is not inside the log: {span}.")
        ends = {text: history.end_of(day) for text, day in given.items()}
        for text, end in ends.items():
            if history.number(end) <= first or history.number(end) + shortest.steps > last:
                raise InputError(
                    f"validation.origins: {text} leaves less than the shortest horizon, {shortest.label}, "
                    f"inside the log: {span}."
                )
        return sorted(set(ends.values()))
    every = _steps(config, history, plan.every)
    if every is None:
        raise InputError(
            f"validation.every is {plan.every!r}, no whole number of {history.counted}s, in which the "
            "discrete clock counts."
        )
    if plan.first is not None:
        start = dt.date.fromisoformat(plan.first)
        if not history.first < start < history.last:
            raise InputError(f"validation.first {start} is not inside the log: {span}.")
        numbers = np.arange(int(history.number(history.end_of(start))), last - shortest.steps + 1, every)
    else:
        earliest = first - 1 + math.ceil((last - first + 1) / SEEN)
        numbers = np.arange(last - shortest.steps, earliest - 1, -every)[::-1]
    if not len(numbers):
        raise InputError(
            f"{span}, too short to look back: a backtest with a horizon of {shortest.label} needs it after a "
            f"third of the log{' or after validation.first' if plan.first else ''}; give shorter "
            "validation.horizons."
        )
    base = history.end_of(history.last)
    return [history.after(base, int(number) - last) for number in numbers]


def _inside(
    config: Config,
    history: History,
    horizons: list[Horizon],
    dates: Sequence[dt.date],
    left_out: dict[str, str],
) -> tuple[list[Horizon], dict[str, str]]:
    """Horizons that lie inside the log from the first origin at least."""
    last, earliest = int(history.number(history.last)), int(history.number(dates[0]))
    asked = config.validation.horizons != type(config.validation).model_fields["horizons"].default
    found = []
    for horizon in horizons:
        if earliest + horizon.steps <= last:
            found.append(horizon)
            continue
        why = (
            f"the log ends on {history.last}, earlier than {horizon.label} after the first origin, {dates[0]}"
        )
        if asked:
            raise InputError(f"validation.horizons: {horizon.label}: {why}; give a shorter one.")
        left_out = left_out | {horizon.label: why}
    return found, left_out


# --- origin by origin ----------------------------------------------------------------------------


def _origins(
    config: Config,
    history: History,
    horizons: Sequence[Horizon],
    dates: Sequence[dt.date],
    cache: Path | None,
    tell: Progress,
) -> list[Origin]:
    """Every origin, from the cache where it is there; one is evaluated while the next is fitted."""
    if cache is not None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{cache} cannot be written: {error.strerror}; name another with --out."
            ) from None
    last, by = int(history.number(history.last)), config.shocks.by
    waiting: list[Origin | Future[Origin]] = []
    with ThreadPoolExecutor(1) as pool:
        for number, day in enumerate(dates):
            tell("origins", number / len(dates))
            inside = [h for h in horizons if int(history.number(day)) + h.steps <= last]
            try:
                summary, position = history.at(day, daily_by=by)
            except InputError as error:
                waiting.append(_unscored(day, 0, str(error)))
                continue
            file = None if cache is None else cache / f"{day}-{_key(config, summary, inside)}.nc"
            if file is not None and (kept := _kept(file)) is not None:
                waiting.append(kept)
                continue
            if by is not None:
                check_shares(by, margins(config, summary)[0])
            intensity = _intensity(config, history, day)
            if isinstance(intensity, str):
                waiting.append(_store(_unscored(day, len(summary), intensity), file))
                continue
            if intensity is not None:
                summary, position = history.at(day, intensity, by)
            found = _fitted(config, summary)
            if isinstance(found, str):
                waiting.append(_store(_unscored(day, len(summary), found), file))
                continue
            margin = margins(config, summary)[0]
            known = events(config)
            waiting.append(
                pool.submit(
                    _evaluated,
                    history,
                    summary,
                    position,
                    found,
                    margin,
                    inside,
                    config.seed,
                    intensity,
                    known,
                    by,
                    file,
                )
            )
            if len(waiting) > 1 and isinstance(waiting[-2], Future):
                waiting[-2].result()  # at most one behind, so that what is kept stays small
        found_all = [one.result() if isinstance(one, Future) else one for one in waiting]
    tell("origins", 1.0)
    return found_all


def _unscored(day: dt.date, customers: int, reason: str) -> Origin:
    from clvmodels.validate.backtest import Origin

    return Origin(date=day, customers=customers, reason=reason)


def _intensity(config: Config, history: History, day: dt.date) -> Intensity | str | None:
    """How everybody's clock ran up to a day, or why that is unknown; None where it runs evenly."""
    from clvmodels.validate import calendar

    if config.models.calendar == "even":
        return None
    try:
        found = calendar.estimate(history, day, config.models, config.fit, config.seed)
    except InputError as error:
        return str(error)
    return found.intensity if found.intensity is not None else f"no calendar intensity: {found.reason}"


def _fitted(config: Config, summary: Summary) -> Posterior | str:
    """A posterior that passed the gate, or why there is none; effects are those of that day's customers."""
    from clvmodels import fit as fitting
    from clvmodels.data import design

    models = config.models
    try:
        draws = fitting.fit(
            summary, models.purchases, models.spend, config.fit, config.seed,
            terms=design.terms(models, summary),
        )  # fmt: skip
    except InputError as error:
        return str(error)
    failed = [check.sentence for check in fitting.gate(draws) if check.passed is False]
    return f"not converged: {' '.join(failed)}" if failed else draws


def _evaluated(
    history: History,
    summary: Summary,
    position: np.ndarray,
    posterior: Posterior,
    margin: np.ndarray,
    horizons: Sequence[Horizon],
    seed: int,
    intensity: Intensity | None,
    known: Sequence[Event],
    by: str | None,
    file: Path | None,
) -> Origin:
    from clvmodels.validate.backtest import evaluate

    # Origins that shared their draws would share the Monte Carlo error of their intervals.
    own = seed + summary.observation_end.toordinal()
    found = evaluate(history, summary, position, posterior, margin, horizons, own, intensity, known, by)
    return _store(found, file)


def _store(origin: Origin, file: Path | None) -> Origin:
    """Keep an origin; the file appears when it is whole."""
    if file is not None:
        temporary = file.with_suffix(".tmp")
        origin.to_dataset().to_netcdf(temporary, engine="h5netcdf")
        temporary.rename(file)
    return origin


def _kept(file: Path) -> Origin | None:
    import xarray as xr

    from clvmodels.validate.backtest import Origin

    if not file.exists():
        return None
    with xr.open_dataset(file, engine="h5netcdf") as found:
        return Origin.from_dataset(found.load())


def _key(config: Config, summary: Summary, horizons: Sequence[Horizon]) -> str:
    """Hash of everything that an origin depends on."""
    from clvmodels.validate.backtest import RECORD

    document = {
        "record": RECORD,
        "data": [summary.fingerprint, fingerprint(summary)],
        "models": config.models.model_dump(mode="json"),
        "fit": config.fit.model_dump(mode="json"),
        "margin": config.value.model_dump(mode="json")["margin"],
        "horizons": [[horizon.label, horizon.steps] for horizon in horizons],
        "time_unit": summary.time_unit,
        "seed": config.seed,
        "versions": versions(),
        **({"events": [event.model_dump() for event in config.events]} if config.events else {}),
        **({"shocks": config.shocks.model_dump()} if config.shocks.by is not None else {}),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def _known(history: History, found: Backtest) -> dict[tuple[str, str], dt.date]:
    """(Origin, horizon) → the last day of that horizon, on which its truth was known."""
    steps = {horizon.label: horizon.steps for horizon in found.horizons}
    return {
        (origin.date.isoformat(), label): history.after(origin.date, steps[label])
        for origin in found.scored
        for label in origin.horizons
    }


def _drift(config: Config, history: History, found: Backtest) -> dict[str, Any] | None:
    """How badly the last origin's parameters describe the first origin's customers, family by family.

    Twice the loss of log-likelihood against the first origin's own maximum; None for parameters
    that are given.
    """
    from clvmodels.fit.pointwise import log_density
    from clvmodels.models import registry

    first, last = found.scored[0], found.scored[-1]
    out: dict[str, Any] = {}
    for role in ("purchases", "spend"):
        described = [(origin.parameters or {})[role] for origin in (first, last)]
        family = registry.get(described[0]["family"])
        own, other = (one["maximum"] for one in described)
        if not own or not other or first is last:
            continue
        summary, _ = history.at(first.date, _kept_intensity(history, first))
        rows = summary.fold(family.statistics, summary.spenders if role == "spend" else None)
        theta = family.vector(other)[None]
        value = float(rows.weight @ log_density(family, theta, rows.stats)[0])
        free = len([name for name in own if name != "log_likelihood" and name not in family.constants])
        out[role] = {"loss": 2 * (own["log_likelihood"] - value), "parameters": free}
    return {"first": first.date, "last": last.date, "families": out} if out else None


def _kept_intensity(history: History, origin: Origin) -> Intensity | None:
    """The intensity with which an origin was fitted."""
    from clvmodels.validate.calendar import WEEK

    if origin.intensity is None:
        return None
    end = int(history.number(origin.date))
    return Intensity(end=end, width=WEEK, value=np.array(origin.intensity))


# --- on page one of a run ------------------------------------------------------------------------


def beside(config: Config, folder: Path | None) -> dict[str, Any] | None:
    """The backtest of a config: where it names one, else beside the run's folder; None if there is none.

    Raises
    ------
    InputError
        If the config names a folder that holds none, or one of other data or models.
    """
    from clvmodels.report import backtest as reporting

    named = config.validation.backtest
    place = folder.parent if folder is not None else config.out
    found = config.base / named if named is not None else place / f"{config.name}-backtest"
    if named is None and not (found / "backtest.json").is_file():
        return None
    table = reporting.load(found)
    if table["fingerprint"] == reporting.match(config):
        return table
    if named is None:
        return None
    raise InputError(
        f"validation.backtest: {found} is a backtest of other data or models: run 'backtest' with this "
        "config."
    )


def on_page_one(
    table: Mapping[str, Any], valuation: Any, equity: Equity, weather: Weather, seed: int
) -> dict[str, Any]:
    """The block of a run's table: what was tested, how much of this equity lies within, what is calibrated.

    Parameters
    ----------
    table
        Content of ``backtest.json``.
    equity
        Of the run, all levels.
    weather
        Shared shocks of the run's window.
    """
    from clvmodels.numerics.discounting import Flow
    from clvmodels.report import backtest as reporting
    from clvmodels.value.horizons import MEASURES, expected

    per_unit = _per_unit(table)
    flow = valuation.flow
    end = min(table["tested"]["steps"] / per_unit, flow.horizon)
    within = Flow(delta=flow.delta, horizon=end, timing=flow.timing, period=flow.period)
    everybody = np.zeros((len(valuation.summary), 1), np.int64)
    total = expected(valuation, [within, flow], everybody, 1).total[MEASURES.index("margin"), 0]
    found = _calibrated(table, valuation, equity, weather, seed)
    return reporting.block(table, total[0] / total[1], equity.levels[0], found)


def _per_unit(table: Mapping[str, Any]) -> float:
    return 1.0 if table["clock"] == "discrete" else DAYS_PER_UNIT[table["time_unit"]]


def _calibrated(
    table: Mapping[str, Any], valuation: Any, equity: Equity, weather: Weather, seed: int
) -> dict[str, Any]:
    """Intervals widened by the errors that were known on the day of the valuation, or why there are none."""
    from clvmodels.report import backtest as reporting
    from clvmodels.report.tables import statistics
    from clvmodels.validate import backtest as testing
    from clvmodels.validate import calibration, systematic
    from clvmodels.value import horizons as ahead
    from clvmodels.value import valuation as any_valuation

    day, last = valuation.summary.observation_end, equity.levels[-1]
    total, money = equity.total(last), equity.currency
    found = reporting.calibrated(table["errors"], day, seed)
    out: dict[str, Any] = {name: found[name] for name in ("day", "base", "reason", "estimates")}
    out |= {"horizons": [], "equity": None, "stress": None}
    labels = found["horizons"]
    if labels and found["base"] not in equity.levels:
        labels = []
        out["reason"] = f"past errors are those of level {found['base']}, which this run does not have"
    if not labels:
        out["stress"] = [
            {"share": share, "low": (1 - share) * total.mean(), "high": (1 + share) * total.mean(),
             "unit": money, "level": last}
            for share in calibration.STRESS
        ]  # fmt: skip
        return out
    steps = {row["horizon"]: row["steps"] for row in table["errors"]}
    lengths = [steps[label] / _per_unit(table) for label in labels]
    count = testing.draws_for(len(valuation.summary))
    picks = np.linspace(0, len(valuation.posterior) - 1, count).round().astype(int)
    few = any_valuation(valuation.summary, valuation.posterior.picked(picks), valuation.assumptions, seed)
    drawn = ahead.simulated(few, lengths, np.zeros((len(few.summary), 1), np.int64), 1).predictive[:, 0]
    if found["base"] == "systematic":
        drawn = drawn * systematic.upto(weather, valuation, lengths, seed)[..., picks]
    known = {m: calibration.remaining(table["errors"], m, day, seed) for m in ahead.MEASURES}
    units = {"orders": "orders", "revenue": money, "margin": money}
    for k, label in enumerate(labels):
        block: dict[str, Any] = {"label": label, "steps": steps[label]}
        for m, measure in enumerate(ahead.MEASURES):
            wide, _ = known[measure].widened(drawn[m, k], label, seed)
            block[measure] = statistics(wide, unit=units[measure], level="calibrated")
        out["horizons"].append(block)
    wide, _ = known["margin"].widened(total, labels[-1], seed)
    out["equity"] = statistics(wide, unit=money, level="calibrated") | {"horizon": labels[-1]}
    return out
