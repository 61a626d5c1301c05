"""From the config's covariates and pooled columns to terms, with the scaling and levels of these customers.

Everything that would make an effect meaningless is refused here, before anything is fitted: values
that are missing, constant columns, columns that say the same thing, columns that are nearly an id.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clvmodels import effects
from clvmodels.effects import AMOUNT, DRIVERS, MISSING, Driver, Term
from clvmodels.errors import DataWarning, InputError

if TYPE_CHECKING:
    from clvmodels.artifacts import Summary
    from clvmodels.config import CovariateColumn, ModelsConfig, PoolConfig

MOST_LEVELS = 50
"""Levels that a categorical covariate may have, each with a coefficient of its own."""
NEARLY_ID = 0.5
"""Share of levels to customers above which a column tells customers, not segments, apart."""
COLLINEAR = 1e-8
"""Smallest singular value of standardised columns, relative to the largest, that is not zero."""


def terms(models: ModelsConfig, summary: Summary) -> tuple[Term, ...]:
    """The terms of a config for the customers of a summary, in an order that the config's does not change.

    Raises
    ------
    InputError
        If a column cannot be a covariate or be pooled; the message names key and column.
    """
    covariates = models.covariates
    for name in covariates.columns:
        if name not in {*covariates.purchase, *covariates.dropout, *covariates.spend}:
            raise InputError(
                f"models.covariates.columns.{name}: no covariate is called {name!r}: list it under purchase, "
                "dropout or spend."
            )
    found = []
    for driver in DRIVERS:
        key = f"models.covariates.{driver}"
        for name in sorted(set(getattr(covariates, driver))):
            how = covariates.columns.get(name)
            found.append(_covariate(key, driver, name, how, models, summary))
        pools = [(i, pool) for i, pool in enumerate(models.pool) if driver in pool.on]
        for i, pool in sorted(pools, key=lambda pair: pair[1].by):
            found.append(_pooled(f"models.pool[{i}]", driver, pool, summary))
        _refuse_twice(driver, [term for term in found if term.driver == driver])
        mine = [term for term in found if term.driver == driver and not term.pooled]
        _refuse_collinear(key, mine, driver, _seen_by(driver, summary))
    return tuple(found)


def _seen_by(driver: Driver, summary: Summary) -> Summary:
    """The customers from whom the effects of a driver are learned."""
    return summary.take(np.flatnonzero(summary.spenders)) if driver == "spend" else summary


def _values(key: str, summary: Summary, name: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    try:
        return effects.values(summary, name)
    except KeyError:
        known = [*summary.features, *summary.segments, *effects.BUILT_IN]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise InputError(f"{key}: the data have no column {name!r}{hint}") from None


def _covariate(
    key: str, driver: Driver, name: str, how: CovariateColumn | None, models: ModelsConfig, summary: Summary
) -> Term:
    from clvmodels.config import CovariateColumn

    how = how or CovariateColumn()
    codes, labels = _values(key, summary, name)
    where = f"{key}: column {name!r}"
    if how.measured is not None:
        _warn_of_date(where, how.measured, summary)
    given = [label for label in labels or () if label]
    texts = [label for label in given if not _is_number(label)]
    numeric = labels is None or (how.kind != "categorical" and len(texts) < len(given) and not texts)
    if how.kind == "numeric" and texts:
        raise InputError(f"{where} is to be numeric, but {texts[0]!r} is not a number.")
    if labels is None and how.kind == "categorical":
        raise InputError(f"{where} holds amounts, which are numbers: kind categorical does not fit.")
    if numeric:
        absent = np.isnan(effects.numbers(codes, labels))
    else:
        absent = np.array([not label for label in labels or ()])[codes]
    _refuse_missing(where, name, absent, how)
    common: dict[str, Any] = {
        "driver": driver,
        "by": (name,),
        "prior_scale": models.covariates.scale,
        "horseshoe": models.covariates.prior == "horseshoe",
    }
    if numeric:
        return _numeric(where, effects.numbers(codes, labels), how, common)
    return _levels(where, np.where(absent, MISSING, np.array(labels, dtype=object)[codes]), how, common)


def _refuse_missing(where: str, name: str, absent: np.ndarray, how: CovariateColumn) -> None:
    count = int(absent.sum())
    if count == len(absent):
        raise InputError(f"{where} is empty for all {count:,} customers.")
    if count and how.missing == "refuse":
        raise InputError(
            f"{where} is empty on the first purchase day of {count:,} of {len(absent):,} customers: fill it, "
            f"or set models.covariates.columns.{name}.missing to impute."
        )


def _numeric(where: str, numbers: np.ndarray, how: CovariateColumn, common: dict[str, Any]) -> Term:
    known = numbers[~np.isnan(numbers)]
    if not np.isfinite(known).all():
        raise InputError(f"{where} has infinite values: correct them.")
    if how.log and (known <= 0).any():
        count = int((known <= 0).sum())
        raise InputError(
            f"{where}: {count:,} of {len(known):,} values are not above 0 and have no logarithm: take "
            "log off, or correct them."
        )
    known = np.log(known) if how.log else known
    spread = float(known.std())
    flagged = bool(np.isnan(numbers).any())
    if spread <= 1e-9 * max(1.0, float(np.abs(known).max())):
        raise InputError(f"{where} is the same for all customers: it cannot tell them apart, leave it out.")
    return Term(
        **common,
        kind="numeric",
        log=how.log,
        centre=float(known.mean()),
        scale=spread,
        step=how.step,
        flagged=flagged,
    )


def _levels(where: str, texts: np.ndarray, how: CovariateColumn, common: dict[str, Any]) -> Term:
    distinct, counts = np.unique(texts.astype(str), return_counts=True)
    labels = distinct.tolist()
    if len(labels) == 1:
        raise InputError(
            f"{where} is {labels[0]!r} for all customers: it cannot tell them apart, leave it out."
        )
    if len(labels) > MOST_LEVELS:
        nearly = ", nearly an id" if len(labels) > NEARLY_ID * len(texts) else ""
        raise InputError(
            f"{where} has {len(labels):,} levels among {len(texts):,} customers{nearly}: a covariate has at "
            f"most {MOST_LEVELS}; group them, or pool the column with models.pool."
        )
    reference = how.reference or labels[counts.argmax()]
    if reference not in labels:
        near = difflib.get_close_matches(reference, labels, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f": it has {', '.join(labels[:10])}."
        raise InputError(f"{where} has no level {reference!r}, its reference{hint}")
    return Term(**common, kind="levels", labels=tuple(labels), reference=reference, coding=how.coding)


def _pooled(key: str, driver: Driver, pool: PoolConfig, summary: Summary) -> Term:
    for name in pool.by:
        if name == AMOUNT:
            raise InputError(f"{key}.by: {AMOUNT} is a number, not a level: use it as a covariate.")
        _values(key, summary, name)
    codes, labels = effects.combined(summary, pool.by)
    used = np.unique(codes)
    walk = pool.structure == "random_walk"
    kept = labels if walk else tuple(labels[i] for i in used)
    what = f"{key}: column {effects.JOIN.join(pool.by)!r}"
    if len(used) < 2:
        raise InputError(f"{what} has a single level, {labels[used[0]]!r}: there is nothing to pool.")
    if len(used) > NEARLY_ID * len(summary):
        raise InputError(
            f"{what} has {len(used):,} levels among {len(summary):,} customers, nearly an id: group its "
            "values, or leave it out."
        )
    return Term(
        driver=driver,
        by=pool.by,
        kind="walk" if walk else "pool",
        labels=kept,
        prior_scale=pool.scale,
        sd=pool.sd,
    )


def _refuse_twice(driver: Driver, found: Sequence[Term]) -> None:
    columns = [term.column for term in found]
    for name in columns:
        if columns.count(name) > 1:
            raise InputError(
                f"models: column {name!r} acts on {driver} twice, as a covariate and pooled, or pooled "
                "twice: once is enough."
            )


def _refuse_collinear(key: str, mine: Sequence[Term], driver: Driver, summary: Summary) -> None:
    """Columns, and the intercept, of which one follows from others have no effects of their own."""
    if not mine:
        return
    found = effects.patterns(mine, summary)
    weight = np.bincount(found.index, minlength=len(found))
    entries = np.column_stack([np.ones(len(found)), found.entries(mine, driver)]) * np.sqrt(weight)[:, None]
    sizes = np.sqrt((entries**2).sum(axis=0))
    owner = ["", *(term.column for term in mine for _ in term.names)]
    there = sizes > 0  # a level that none of these customers has keeps its prior
    _, size, axes = np.linalg.svd(entries[:, there] / sizes[there], full_matrices=False)
    owner = [name for name, some in zip(owner, there, strict=True) if some]
    if len(entries) < len(owner) or size[-1] < COLLINEAR * size[0]:
        involved = np.abs(axes[-1]) > 0.05
        columns = sorted({owner[j] for j in np.flatnonzero(involved) if owner[j]})
        if len(columns) == 1:
            raise InputError(
                f"{key}: column {columns[0]!r} does not differ among the {len(summary):,} customers from "
                f"whom its effect on {driver} is learned: leave it out."
            )
        raise InputError(
            f"{key}: {' and '.join(map(repr, columns))} say the same thing (one follows from the others), so "
            "that their effects cannot be told apart: leave one out."
        )


def _warn_of_date(where: str, day: str, summary: Summary) -> None:
    taken = np.datetime64(day)
    if taken > np.datetime64(summary.observation_end):
        warnings.warn(
            f"{where} was measured on {day}, after the outcome window ended on {summary.observation_end}: "
            "its effect may be a result of the purchases, not a cause, and a forecast would not have had it.",
            DataWarning,
            stacklevel=2,
        )
    elif before := int((summary.first_day < taken).sum()):
        warnings.warn(
            f"{where} was measured on {day}, after the first purchase of {before:,} of {len(summary):,} "
            "customers: its effect may be a result of their purchases.",
            DataWarning,
            stacklevel=2,
        )


def _is_number(text: str) -> bool:
    """Whether a text is a number, or says that there is none."""
    if text.strip().lower() in effects.NO_NUMBER:
        return True
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
