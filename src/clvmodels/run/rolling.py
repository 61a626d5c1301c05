"""Variants of a config on rolling origins of the same log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clvmodels import config as settings
from clvmodels.config import Config
from clvmodels.errors import ConvergenceError, InputError
from clvmodels.run.backtesting import backtest
from clvmodels.run.stages import Progress, new_folder, refuse_existing, versions

if TYPE_CHECKING:
    from clvmodels.validate.rolling import Rolling

STACKED, CHOSEN = "stacked", "chosen"
"""What a comparison adds to the variants, so that none may be called so."""


@dataclass(frozen=True)
class RollingResult:
    """Which variant forecasts best.

    Attributes
    ----------
    rolling
        Scores of every variant, see :mod:`clvmodels.validate.rolling`.
    summary
        The content of ``rolling.json``.
    path
        Folder, None if it was not written.
    """

    rolling: Rolling
    summary: Mapping[str, Any]
    path: Path | None = None

    @property
    def table(self) -> Any:
        """One row per level, measure, horizon and variant, a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.summary["table"])

    def plot(self) -> Any:
        """Bias and score by horizon; returns the matplotlib figure."""
        from clvmodels.report import rolling as reporting

        return reporting.figure(self.summary)

    def __repr__(self) -> str:
        lines = "".join(f"\n  {sentence}" for sentence in self.summary["sentences"])
        return f"<Rolling comparison of {', '.join(self.rolling.variants)}>{lines}"


def compare_rolling(
    variants: Any,
    transactions: Any = None,
    *,
    out: Path | str | None = None,
    cache: Path | str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RollingResult:
    """Backtest variants on the same origins and say which forecasts best.

    Parameters
    ----------
    variants
        A config or several, as for :func:`clvmodels.compare`; no finished runs.
    transactions, seed, overrides, overwrite, progress
        As for :func:`clvmodels.compare`.
    out
        Folder to write.
    cache
        As for :func:`clvmodels.backtest`; shared by all variants.

    Raises
    ------
    InputError
        If a config cannot be used, or variants differ in data, origins or horizons.
    ConvergenceError
        If no origin could be scored by all variants.
    """
    from clvmodels.data import periods
    from clvmodels.report import rolling as reporting
    from clvmodels.validate import rolling

    folder = None if out is None else Path(out)
    if folder is not None:
        refuse_existing(folder, overwrite)
        cache = cache or folder.with_name(f"{folder.name}.cache")
    found = _configs(variants, overrides, seed)
    backtests = {}
    for name, config in found.items():
        try:
            done = backtest(config, transactions, cache=cache, progress=_prefixed(progress, name))
        except (InputError, ConvergenceError) as error:
            raise type(error)(f"variant {name}: {error}") from error
        backtests[name] = done.backtest
    one = next(iter(backtests.values()))
    counted = one.time_unit if one.clock == "discrete" else "day"
    days = {origin.date for each in backtests.values() for origin in each.origins}
    result = rolling.compare(backtests, {day.isoformat(): int(periods.number(day, counted)) for day in days})
    if not result.table:
        raise ConvergenceError("no origin could be scored by every variant.")
    table = reporting.build(result, folder.name if folder else "rolling", one.currency, versions())
    if folder is not None:
        with new_folder(folder, overwrite) as temporary:
            reporting.write(temporary, table, result)
    return RollingResult(result, table, folder)


def _configs(variants: Any, overrides: Sequence[str], seed: int | None) -> dict[str, Config]:
    """Name → config; all of the same data and origins."""
    several = isinstance(variants, Sequence) and not isinstance(variants, str)
    more = [] if seed is None else [f"seed={seed}"]
    found: dict[str, Config] = {}
    for source in variants if several else [variants]:
        if isinstance(source, str | Path) and Path(source).is_dir():
            raise InputError(
                f"{source} is a finished run; --rolling refits at past days and needs its config."
            )
        for one in settings.variants(source, [*overrides, *more]):
            if one.name in found or one.name in (STACKED, CHOSEN):
                raise InputError(f"two variants are called {one.name!r}: give each its own name.")
            found[one.name] = one
    if len(found) < 2:
        raise InputError(
            "one variant alone cannot be compared: name two configs, or list variants in one of them."
        )
    first, *others = found
    for name in others:
        for section in ("data", "validation"):
            if getattr(found[first], section) != getattr(found[name], section):
                raise InputError(
                    f"variants {first!r} and {name!r} differ in their {section} sections: scores on rolling "
                    "origins are compared on the same log, origins and horizons."
                )
    return found


def _prefixed(progress: Progress | None, name: str) -> Progress | None:
    if progress is None:
        return None
    return lambda stage, fraction: progress(f"{name}: {stage}", fraction)
