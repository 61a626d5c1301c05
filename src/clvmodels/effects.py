"""What makes customers differ: terms of covariates and pooled columns, and draws of their effects.

A *driver* is one of the three questions about a customer: how often (``purchase``), how loyal
(``dropout``), how much (``spend``). A :class:`Term` says how one covariate, or the levels of one pooled
column, act on one driver; a customer's shift on that driver, on the scale on which effects add, is the
sum of ``coefficient × entry`` over the driver's terms. Customers who are equal in all columns of a
set of terms share a *pattern*, and with it everything that the terms say.

Levels of a pooled column are deviations ``u = sd · L z`` with z standard normal: L is the identity for
exchangeable levels, and a centred cumulative sum for a random walk over ordered levels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Driver = Literal["purchase", "dropout", "spend"]
DRIVERS: tuple[Driver, ...] = ("purchase", "dropout", "spend")
MISSING = "(missing)"
"""Label of the level that stands for customers without a value."""
MONTH = "first_month"
"""The month of the first purchase, which every log has."""
AMOUNT = "first_amount"
"""The amount of the first purchase day, which every log has."""
BUILT_IN = (MONTH, AMOUNT)
JOIN = " / "
NO_NUMBER = {"", "na", "n/a", "nan", "null", "none"}
"""Texts in a column of numbers that mean that there is none, in any case of letters."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """How a column acts on a driver.

    Attributes
    ----------
    by
        The column; of a pooled term also several, whose combinations are the levels.
    kind
        ``numeric``: one coefficient, of ``(value - centre) / scale`` (of the logarithm, where ``log``);
        ``levels``: one coefficient for each label but ``reference`` (with ``coding`` "sum": deviations
        from their unweighted mean, that of the reference being minus the sum of the others);
        ``pool``, ``walk``: one deviation for each label, exchangeable or in order.
    labels
        In alphabetical order.
    step
        Numeric: standardised values are rounded to multiples of it; 0: not.
    flagged
        Numeric: missing values stand at the centre and have a coefficient of their own.
    prior_scale
        Standard deviation of the normal prior of a coefficient; of a pooled term, that of the
        half-normal prior of ``sd``.
    sd
        Pooled: the standard deviation of the levels where it is given and not estimated.
    """

    driver: Driver
    by: tuple[str, ...]
    kind: Literal["numeric", "levels", "pool", "walk"]
    prior_scale: float
    labels: tuple[str, ...] = ()
    reference: str = ""
    coding: Literal["reference", "sum"] = "reference"
    log: bool = False
    centre: float = 0.0
    scale: float = 1.0
    step: float = 0.0
    flagged: bool = False
    horseshoe: bool = False
    sd: float | None = None

    @property
    def pooled(self) -> bool:
        return self.kind in ("pool", "walk")

    @property
    def column(self) -> str:
        """The column's name, or those of a combination joined."""
        return JOIN.join(self.by)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each coefficient."""
        head = f"{self.driver}: {self.column}"
        if self.kind == "numeric":
            return (head, f"{head} {MISSING}") if self.flagged else (head,)
        return tuple(f"{head} = {label}" for label in self.labels if self.pooled or label != self.reference)

    @property
    def estimated_sd(self) -> bool:
        return self.pooled and self.sd is None

    @property
    def sd_name(self) -> str:
        return f"{self.driver}: sd of {self.column}"

    def root(self) -> np.ndarray:
        """L of a pooled term, shape (label, label)."""
        n = len(self.labels)
        if self.kind == "pool":
            return np.eye(n)
        steps = np.tril(np.ones((n, n)))
        steps[:, 0] = 0.0
        return steps - steps.mean(axis=0)

    def contrasts(self) -> np.ndarray:
        """Entries of a level's coefficients, shape (label, coefficient)."""
        if self.pooled:
            return np.eye(len(self.labels))
        at = self.labels.index(self.reference)
        out = np.delete(np.eye(len(self.labels)), at, axis=1)
        out[at] = -1.0 if self.coding == "sum" else 0.0
        return out

    def entries(self, keys: np.ndarray) -> np.ndarray:
        """Entries of patterns, shape (pattern, coefficient); zero for levels that were not seen."""
        if self.kind == "numeric":
            known = np.nan_to_num(keys)[:, None]
            return np.column_stack([known, np.isnan(keys)]) if self.flagged else known
        codes = keys.astype(int)
        table = np.vstack([self.contrasts(), np.zeros(len(self.names))])
        return table[np.where(codes < len(self.labels), codes, len(self.labels))]


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """Distinct combinations of what the terms see.

    Attributes
    ----------
    index
        Shape (customer,): pattern of each customer.
    keys
        Shape (pattern, term): standardised value of a numeric term (NaN: missing), otherwise the
        position in ``labels``, and beyond it in ``unseen``.
    unseen
        Labels of each pooled term that the fit did not see.
    """

    index: np.ndarray
    keys: np.ndarray
    unseen: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.keys)

    def entries(self, terms: Sequence[Term], driver: Driver, *, pooled: bool | None = None) -> np.ndarray:
        """Entries of a driver's terms, shape (pattern, coefficient)."""
        blocks = [
            term.entries(self.keys[:, j])
            for j, term in enumerate(terms)
            if term.driver == driver and pooled in (None, term.pooled)
        ]
        return np.hstack([np.zeros((len(self), 0)), *blocks])


class UnknownLevel(ValueError):
    """A covariate has a level that the fit did not see; ``args``: column, label, known labels."""


def values(summary: Any, column: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """A column of a summary: codes and their labels, or numbers and None.

    An empty label, and NaN among numbers, mean that there is no value.

    Raises
    ------
    KeyError
        If the summary does not have it.
    """
    if column == AMOUNT:
        return summary[AMOUNT], None
    if column == MONTH:
        months = summary.first_day.astype("datetime64[M]")
        every = np.arange(months.min(), months.max() + 1)
        return (months - months.min()).astype(int), tuple(map(str, every))
    segment = summary.features[column] if column in summary.features else summary.segments[column]
    return segment.codes, segment.labels


def numbers(codes: np.ndarray, labels: tuple[str, ...] | None) -> np.ndarray:
    """Numbers of a column, NaN where there are none.

    Raises
    ------
    ValueError
        If a label is not a number.
    """
    if labels is None:
        return codes
    known = [math.nan if label.strip().lower() in NO_NUMBER else float(label) for label in labels]
    return np.array(known)[codes]


def combined(summary: Any, by: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes and labels of a column, or of the combinations of several that occur."""
    columns = []
    for name in by:
        codes, labels = values(summary, name)
        if labels is None:
            distinct, codes = np.unique(codes, return_inverse=True)
            labels = tuple(f"{number:g}" for number in distinct)
        columns.append((codes, tuple(label or MISSING for label in labels)))
    if len(columns) == 1:
        return columns[0]
    distinct, index = np.unique(np.column_stack([codes for codes, _ in columns]), axis=0, return_inverse=True)
    names = [
        JOIN.join(labels[code] for (_, labels), code in zip(columns, row, strict=True)) for row in distinct
    ]
    order = np.argsort(names, kind="stable")
    place = np.empty(len(names), int)
    place[order] = np.arange(len(names))
    return place[index.ravel()], tuple(names[i] for i in order)


def fingerprint(summary: Any) -> str:
    """sha256 of the columns that only covariates and pooling read, which a summary's own leaves out."""
    digest = hashlib.sha256()
    for name, segment in sorted(summary.features.items()):
        digest.update(json.dumps([name, segment.labels]).encode())
        digest.update(np.ascontiguousarray(segment.codes, np.int64).tobytes())
    return digest.hexdigest()


def patterns(terms: Sequence[Term], summary: Any) -> Patterns:
    """Patterns of the customers of a summary.

    Raises
    ------
    UnknownLevel
        For a level of a covariate that the fit did not see; pooled columns may have new levels.
    """
    columns, unseen = [], []
    for term in terms:
        new: tuple[str, ...] = ()
        if term.kind == "numeric":
            raw = numbers(*values(summary, term.by[0]))
            with np.errstate(divide="ignore", invalid="ignore"):
                raw = np.log(raw) if term.log else raw
            key = (raw - term.centre) / term.scale
            key = np.round(key / term.step) * term.step if term.step else key
            if np.isnan(key).any() and not term.flagged:
                raise UnknownLevel(term.column, MISSING, ("numbers",))
        else:
            codes, labels = combined(summary, term.by)
            used = np.zeros(len(labels), bool)
            used[np.unique(codes)] = True
            new = tuple(
                label for label, use in zip(labels, used, strict=True) if use and label not in term.labels
            )
            if new and not term.pooled:
                raise UnknownLevel(term.column, new[0], term.labels)
            known = {label: i for i, label in enumerate((*term.labels, *new))}
            key = np.array([known.get(label, -1) for label in labels], float)[codes]
        columns.append(key)
        unseen.append(new)
    stacked = np.column_stack(columns) if columns else np.zeros((len(summary), 0))
    distinct, index = np.unique(stacked + 0.0, axis=0, return_inverse=True, equal_nan=True)
    return Patterns(index=index.ravel(), keys=distinct, unseen=tuple(unseen))


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Draws of the coefficients of a family's terms.

    Attributes
    ----------
    terms
        In the order of their coefficients.
    draws
        Shape (chain, draw, coefficient): the coefficients of all terms, then the standard deviations
        of the pooled terms that estimate one.
    """

    terms: tuple[Term, ...]
    draws: np.ndarray

    def __post_init__(self) -> None:
        if self.draws.ndim != 3 or self.draws.shape[2] != len(self.names):
            raise ValueError("draws of effects need the shape (chain, draw, coefficient)")
        if not np.isfinite(self.draws).all():
            raise ValueError("non-finite draws of effects")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of ``draws``."""
        return names(self.terms)

    @property
    def flat(self) -> np.ndarray:
        """Draws as (draw, coefficient)."""
        return self.draws.reshape(-1, self.draws.shape[2])

    def sd(self, term: Term) -> np.ndarray:
        """Standard deviation of a pooled term, shape (draw,)."""
        if term.sd is not None:
            return np.full(len(self.flat), term.sd)
        return self.flat[:, self.names.index(term.sd_name)]

    def shift(self, found: Patterns, pattern: int) -> dict[Driver, np.ndarray]:
        """A pattern's shift on each driver, shape (draw,), on the scale on which effects add."""
        out: dict[Driver, np.ndarray] = {}
        at = 0
        for j, term in enumerate(self.terms):
            width = len(term.names)
            key = found.keys[pattern : pattern + 1, j]
            by = self.flat[:, at : at + width] @ term.entries(key)[0]
            new = int(key[0]) - len(term.labels) if term.pooled else -1
            if new >= 0:
                by = by + self._new_level(term, at, found.unseen[j][new])
            out[term.driver] = out.get(term.driver, 0.0) + by
            at += width
        return out

    def _new_level(self, term: Term, at: int, label: str) -> np.ndarray:
        """The hierarchy's predictive for a level it has not seen; a later month walks on from the last."""
        words = f"{term.driver} {term.column} {label}".encode()
        normal = np.zeros(1)  # of one parameter vector: the hierarchy's centre
        if len(self.flat) > 1:
            normal = np.random.default_rng(list(words)).standard_normal(len(self.flat))
        if term.kind == "pool":
            return self.sd(term) * normal
        last = self.flat[:, at + len(term.labels) - 1]
        steps = (np.datetime64(label, "M") - np.datetime64(term.labels[-1], "M")).astype(int)
        return last + self.sd(term) * math.sqrt(max(steps, 1)) * normal


def names(terms: Sequence[Term]) -> tuple[str, ...]:
    """Names of the coefficients of terms, then of the standard deviations that are estimated."""
    coefficients = [name for term in terms for name in term.names]
    return (*coefficients, *(term.sd_name for term in terms if term.estimated_sd))
