"""A log that is read once and seen as it stood at several dates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clvmodels.artifacts import Calendar, Summary
from clvmodels.config import DataConfig
from clvmodels.data import periods
from clvmodels.data.realized import realized_of
from clvmodels.data.rows import clean
from clvmodels.data.sources import Source, opened
from clvmodels.data.summary import fingerprint, summary_of
from clvmodels.errors import InputError

if TYPE_CHECKING:
    from clvmodels.models.family import Statistic


@dataclass(frozen=True)
class Log:
    """An open log.

    Attributes
    ----------
    first, last
        Days of its first and last purchase.
    features
        Those of ``config.segments`` that only covariates and pooling read.
    """

    source: Source
    config: DataConfig
    first: dt.date
    last: dt.date
    features: tuple[str, ...] = ()

    def end(self, day: dt.date) -> dt.date:
        """Where observation ends for ``day``: there, or with the last complete period before."""
        discrete = self.config.clock == "discrete"
        return periods.last_complete(day, self.config.time_unit) if discrete else day

    def at(self, day: dt.date, statistics: tuple[Statistic, ...] = ()) -> Summary:
        """Summary of the customers known on ``day``, as the log stood then: nothing later is in it.

        Raises
        ------
        InputError
            As :func:`clvmodels.data.summarise` does.
        """
        with _tidy(self.source) as source:
            return as_it_stood(summary_of(source, self._until(day), statistics, self.features))

    def between(self, start: dt.date, end: dt.date, deltas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Revenue of each customer in (start, end], see :func:`clvmodels.data.realized.realized`."""
        with _tidy(self.source) as source:
            return realized_of(source, self._until(start, end), deltas)

    def _until(self, day: dt.date, holdout_end: dt.date | None = None) -> DataConfig:
        window = {"observation_end": day.isoformat(), "holdout_end": holdout_end and holdout_end.isoformat()}
        return self.config.model_copy(update=window)


@dataclass(frozen=True, kw_only=True)
class _Tidy(Source):
    """A source that drops the tables it kept when it is left."""

    made: list[str] = field(default_factory=list)

    def keep(self, expression: Any) -> Any:
        table = super().keep(expression)
        if self.owned:
            self.made.append(table.op().name)
        return table

    def __enter__(self) -> _Tidy:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.made:
            self.backend.raw_sql(f'DROP TABLE IF EXISTS "{name}"')


def _tidy(source: Source) -> _Tidy:
    return _Tidy(**{f.name: getattr(source, f.name) for f in fields(Source)})


@contextmanager
def opened_log(
    config: DataConfig,
    *,
    transactions: Any = None,
    margin_column: str | None = None,
    features: tuple[str, ...] = (),
    base: Path = Path("."),
) -> Iterator[Log]:
    """Open a log for several dates; the windows of ``config`` are left aside.

    Parameters
    ----------
    config, transactions, margin_column, features, base
        As for :func:`clvmodels.data.summarise`.

    Raises
    ------
    InputError
        If the log cannot be read, or is a table of summaries.
    """
    if config.kind == "summary":
        raise InputError("data.kind is summary: several dates need a log of transactions, with dates.")
    more = tuple(name for name in features if name not in config.segments)
    window = {"observation_end": None, "holdout_end": None}
    config = config.model_copy(update={**window, "segments": (*config.segments, *more)})
    with opened(config, transactions, margin_column, base, []) as source:
        source = replace(source, table=source.keep(source.table))
        with _tidy(source) as some:
            counts = clean(some, config).counts
        first, last = (dt.date.fromisoformat(counts[f"{which}_date"]) for which in ("first", "last"))
        yield Log(source, config, first, last, more)


def as_it_stood(summary: Summary) -> Summary:
    """The summary without its holdout: equal, fingerprint included, whatever was bought later."""
    columns = {name: column for name, column in summary.columns.items() if not name.startswith("holdout_")}
    seen = summary.calendar.day <= np.datetime64(summary.observation_end)
    names = ("day", "first_orders", "repeat_orders", "first_amount", "repeat_amount")
    calendar = Calendar(**{name: getattr(summary.calendar, name)[seen] for name in names})
    cut = replace(summary, columns=columns, calendar=calendar, holdout=0.0, fingerprint="")
    return replace(cut, fingerprint=fingerprint(cut))
