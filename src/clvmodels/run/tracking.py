"""Equity over time: the statement at a series of dates, and why it moved from each to the next.

Every date is fitted to the log as it stood then. What a date, and what a pair of dates, gave is kept in
``cache/`` of the output folder under a fingerprint of all that went into it, so that a run that was
interrupted or is extended computes only what is missing.
"""

from __future__ import annotations

import calendar
import datetime as dt
import hashlib
import itertools
import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from clvmodels import config as settings
from clvmodels.artifacts import Posterior, Summary
from clvmodels.config import Config
from clvmodels.effects import fingerprint
from clvmodels.errors import ClvError, InputError
from clvmodels.models import registry
from clvmodels.run.bridging import margin_column, of_customers, one_day
from clvmodels.run.stages import (
    Clock,
    Progress,
    converged,
    load_config,
    new_folder,
    pass_gate,
    refuse_calendar,
    refuse_existing,
    resolve_assumptions,
    statistics,
    told,
    versions,
)

MONTHS = {"month": 1, "quarter": 3, "year": 12}
STEPS = ("week", *MONTHS)
FEWEST = 30
"""Dates with fewer customers who have bought again are left out, unless all parameters are given."""
CACHE = "cache"
_SCHEMA = 2  # of what is in the cache


@dataclass(frozen=True)
class HistoryResult:
    """The statement of every date, with the calls that a notebook wants.

    Attributes
    ----------
    summary
        The content of ``history.json``: every number with its unit and level.
    computed
        Dates, and pairs of dates, that were computed; the others came from the cache.
    path
        Folder, None if it was not written.
    """

    summary: Mapping[str, Any]
    config: Config
    computed: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @cached_property
    def table(self) -> Any:
        """One row per date, posterior means at the first level, a pandas DataFrame."""
        import pandas as pd

        from clvmodels.report import series as reporting

        return pd.DataFrame(reporting.plain_rows(self.summary)).set_index("date")

    def plot(self) -> Any:
        """Equity over time with its intervals; returns the matplotlib figure."""
        from clvmodels.report import series as reporting

        return reporting.fan(self.summary)

    def __repr__(self) -> str:
        dates = self.summary["dates"]
        return f"<History {dates[0]['date']} to {dates[-1]['date']}>\n{self.table.to_string()}"


def history(
    config: Config | Path | str | Mapping[str, Any],
    start: Any,
    end: Any,
    transactions: Any = None,
    *,
    every: Literal["week", "month", "quarter", "year"] = "quarter",
    basis: Literal["closing", "opening"] = "closing",
    coupling: Literal["independent", "comonotone"] = "independent",
    out: Path | str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> HistoryResult:
    """Equity at a series of dates, each fitted to the log as it stood then.

    Parameters
    ----------
    start, end
        ISO dates (or ``datetime.date``): the first valuation date, and the day after which there is
        none. Steps from the last day of a month lead to last days of months.
    basis, coupling
        Of the bridges between successive dates, see :func:`clvmodels.run.bridge`.
    out
        Folder. Where it holds a history, only what is missing is computed.
    overwrite
        Throw away what the folder holds, and begin anew.

    Raises
    ------
    InputError
        If config, dates or data cannot be used, or no date can be valued; nothing has been written.

    Notes
    -----
    A date with fewer than 30 customers who have bought again, or whose draws do not pass the gate, has
    no equity: it is named with the reason, and the next bridge leads from the date before it.
    """
    from clvmodels import fit as fitting
    from clvmodels.data.log import opened_log
    from clvmodels.report import series as reporting

    tell, clock = progress or (lambda stage, fraction: None), Clock()
    days = valuation_dates(one_day("from", start), one_day("to", end), every)
    if basis not in ("closing", "opening") or coupling not in ("independent", "comonotone"):
        raise InputError(
            f"basis {basis!r}, coupling {coupling!r}: choose closing or opening, "
            "and independent or comonotone."
        )
    plain = load_config(config, overrides, seed)
    if plain.data.kind == "summary":
        raise InputError("data.kind is summary: a history needs a log of transactions, with dates.")
    plain = load_config(plain, ("data.holdout_end=", "data.observation_end="), None)
    plain = load_config(plain, ("value.horizons=['1 year']",), None)
    folder = None if out is None else Path(out)
    if folder is not None and not overwrite and not (folder / CACHE).is_dir():
        refuse_existing(folder, overwrite=False)
    for role in ("purchases", "spend"):
        fitting.check_model(getattr(plain.models, role), role)
    fitting.check_effects(plain.models)
    refuse_calendar(plain)
    tell("reading transactions", None)
    with (
        warnings.catch_warnings(record=True) as caught,
        opened_log(
            plain.data,
            transactions=transactions,
            margin_column=margin_column(plain),
            features=plain.models.columns,
            base=plain.base,
        ) as log,
    ):
        warnings.simplefilter("always")
        if days[0] < log.first:
            raise InputError(
                f"--from {days[0]} is before the first date in the data, {log.first}: give a later day."
            )
        for one, two in itertools.pairwise(days):
            if log.end(one) == log.end(two):
                raise InputError(
                    f"--every {every}: {one} and {two} both end at the last complete {plain.data.time_unit}, "
                    f"{log.end(two)}, of the discrete clock; take longer steps."
                )
        needed = statistics(plain)
        last = log.at(days[-1], needed)
        resolve_assumptions(plain, last)
        fitting.check_data(last, plain.models.purchases, plain.models.spend)
        if folder is not None and overwrite and folder.exists():
            refuse_existing(folder, overwrite)
            shutil.rmtree(folder)
        series = _Series(plain, coupling, None if folder is None else folder / CACHE)
        for number, day in enumerate(days, start=1):
            tell(f"{day} ({number} of {len(days)})", None)
            data = last if day == days[-1] else log.at(day, needed)
            series.add(day, data, log)
        clock.lap("dates")
    valued = [date for date in series.dates if not date["skipped"]]
    if not valued:
        raise InputError(f"no date can be valued; the first, {days[0]}: {series.dates[0]['skipped']}")
    table = reporting.build(
        series.dates, series.periods, name=plain.name, every=every, basis=basis, coupling=coupling,
        assumptions=_assumptions(plain), asked=(str(one_day("from", start)), str(one_day("to", end))),
        versions=versions(),
    )  # fmt: skip
    meta = {
        "seed": plain.seed,
        "computed": series.computed,
        "keys": series.keys,
        "seconds": clock.laps,
        "versions": versions(),
        "warnings": told(caught),
    }
    result = HistoryResult(table, plain, tuple(series.computed), meta, folder)
    if folder is not None:
        tell("writing the report", None)
        _write(folder, result)
    return result


def valuation_dates(start: dt.date, end: dt.date, every: str) -> list[dt.date]:
    """Dates from ``start`` in steps of a week, month, quarter or year, none after ``end``.

    Raises
    ------
    InputError
        If the dates are reversed, or leave no room for two.
    """
    if every not in STEPS:
        raise InputError(f"--every {every}: choose {', '.join(STEPS[:-1])} or {STEPS[-1]}.")
    if start >= end:
        raise InputError(f"the history leads from {start} to {end}: --from is the earlier date.")
    found: list[dt.date] = []
    while (day := _step(start, every, len(found))) <= end:
        found.append(day)
    if len(found) < 2:
        raise InputError(f"from {start} to {end} is less than a {every}: a history needs two dates.")
    return found


def _step(start: dt.date, every: str, count: int) -> dt.date:
    if every == "week":
        return start + dt.timedelta(weeks=count)
    month = start.year * 12 + start.month - 1 + MONTHS[every] * count
    length = calendar.monthrange(month // 12, month % 12 + 1)[1]
    ends = start.day == calendar.monthrange(start.year, start.month)[1]
    return dt.date(month // 12, month % 12 + 1, length if ends else min(start.day, length))


class _Series:
    """Statements and bridges, computed or read from the cache, in the order of dates."""

    def __init__(self, config: Config, coupling: Any, cache: Path | None) -> None:
        self.config, self.coupling, self.cache = config, coupling, cache
        self.dates: list[dict[str, Any]] = []
        self.periods: list[dict[str, Any]] = []
        self.computed: list[str] = []
        self.keys: dict[str, str] = {}
        self._before: tuple[dt.date, str, Summary] | None = None
        self._draws: dict[str, Posterior] = {}

    def add(self, day: dt.date, data: Summary, log: Any) -> None:
        """The statement of a date, and the bridge from the last one that has equity."""
        key = self._key(data.fingerprint, fingerprint(data), data.observation_end.isoformat())
        date = self._entry(str(day), key, "statement.json", lambda folder: self._statement(data, key, folder))
        self.dates.append(date)
        if date["skipped"]:
            return
        if self._before is not None:
            old, before, opening = self._before
            both = self._key(before, key, self.coupling)
            self.periods.append(
                self._entry(
                    f"{old}_{day}",
                    both,
                    "bridge.json",
                    lambda _: self._bridge((before, key), (opening, data), log),
                )
            )
        self._before = (day, key, data)
        self._draws = {name: draws for name, draws in self._draws.items() if name == key}

    def _key(self, *parts: str) -> str:
        """Fingerprint of what decides a result: data as they stood, config, software."""
        config = self.config.model_dump(mode="json", exclude={"name", "out", "report"})
        config["data"].pop("source")
        text = json.dumps([_SCHEMA, parts, config, versions()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _entry(
        self, name: str, key: str, file: str, compute: Callable[[Path | None], dict[str, Any]]
    ) -> dict[str, Any]:
        """From the cache, or computed and put there whole."""
        self.keys[name] = key
        place = None if self.cache is None else self.cache / f"{name}-{key}"
        if place is not None:
            try:
                return json.loads((place / file).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                pass  # not there, or not whole
        self.computed.append(name)
        if place is None:
            return compute(None)
        with new_folder(place, overwrite=True) as temporary:
            found = compute(temporary)
            (temporary / file).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
        return found

    def _statement(self, data: Summary, key: str, folder: Path | None) -> dict[str, Any]:
        """What is known on one date; ``skipped`` says why there is no equity."""
        from clvmodels.report import series as reporting
        from clvmodels.report import tables
        from clvmodels.report.files import to_datatree

        facts = reporting.facts(data)
        try:
            draws, equity, good = self._valued(data)
        except ClvError as error:
            return tables.clean(facts | {"skipped": str(error)})
        self._draws[key] = draws
        if folder is not None:
            to_datatree(draws).to_netcdf(folder / "posterior.nc", engine="h5netcdf")
        assumptions = resolve_assumptions(self.config, data)
        return tables.clean(facts | reporting.statement(equity, assumptions) | {"converged": good})

    def _valued(self, data: Summary) -> tuple[Posterior, Any, bool]:
        from clvmodels import equity
        from clvmodels import fit as fitting
        from clvmodels.data import design
        from clvmodels.value import valuation

        used = self.config
        buyers = int((data["frequency"] > 0).sum())
        given = used.models.purchases.fixed and used.models.spend.fixed
        if buyers < FEWEST and not given:
            raise InputError(
                f"{buyers} of {len(data):,} customers have bought again, fewer than the {FEWEST} that a fit "
                "is asked for."
            )
        models = used.models
        draws = fitting.fit(
            data, models.purchases, models.spend, used.fit, used.seed, terms=design.terms(models, data)
        )
        pass_gate(fitting.gate(draws), used, None, draws, data)
        assumptions = resolve_assumptions(used, data)
        result = equity.build(valuation(data, draws, assumptions, used.seed))
        gate = fitting.gate(draws, result.total(result.levels[0]))
        pass_gate(gate, used, None, draws, data)
        return draws, result, converged(gate)

    def _posterior(self, key: str) -> Posterior:
        if key not in self._draws:
            import xarray as xr

            assert self.cache is not None
            (place,) = self.cache.glob(f"*-{key}")
            with xr.open_datatree(place / "posterior.nc", engine="h5netcdf") as tree:
                parts = {r: tree[f"posterior/{r}"].to_dataset().load() for r in ("purchases", "spend")}
            self._draws[key] = Posterior.from_datasets(parts)
        return self._draws[key]

    def _bridge(self, keys: tuple[str, str], data: tuple[Summary, Summary], log: Any) -> dict[str, Any]:
        from clvmodels.equity import bridge as bridging
        from clvmodels.report import series as reporting
        from clvmodels.report import tables

        assumptions = [resolve_assumptions(self.config, summary) for summary in data]
        sides = [
            bridging.Side(summary=summary, posterior=self._posterior(key), assumptions=assumed)
            for summary, key, assumed in zip(data, keys, assumptions, strict=True)
        ]
        paid = log.between(*(s.observation_end for s in data), [a.delta for a in assumptions])
        found = bridging.build(
            *sides, coupling=self.coupling, revenue=of_customers(data[1], *paid), seed=self.config.seed
        )
        return tables.clean(reporting.period(found, *(s.observation_end for s in data)))


def _assumptions(config: Config) -> dict[str, str]:
    value = config.value
    timing = value.timing if value.timing == "continuous" else f"{value.timing} of each {value.period}"
    margin = value.margin
    return {
        "Purchase model": f"{registry.get(config.models.purchases.family).title} ({config.fit.sampler})",
        "Spend model": f"{registry.get(config.models.spend.family).title} ({config.fit.sampler})",
        "Joint draws": f"{config.fit.draws:,}",
        "Margin": f"{margin:.4g}" if isinstance(margin, float) else str(margin),
        "Discount rate": f"{100 * value.annual_discount_rate:.4g} % a year, {timing}",
        "Horizon": value.horizon,
    }


def _write(folder: Path, result: HistoryResult) -> None:
    """All files but the cache, written beside their places and moved there."""
    from clvmodels.report import series as reporting

    with new_folder(folder / ".new", overwrite=True) as temporary:
        reporting.write(temporary, result.summary, settings.dump(result.config, folder), result.meta)
        for path in temporary.iterdir():
            place = folder / path.name
            if place.is_dir():
                shutil.rmtree(place)
            path.replace(place)
    shutil.rmtree(folder / ".new", ignore_errors=True)
