"""Concentration of value over customers, per draw, from streamed histograms.

Three different questions, each labeled by its level: how unequal expected values are, how
unequal what customers really are worth is (re-sorted in every draw), and what a fixed set
of customers, chosen by posterior mean, holds.
"""

from __future__ import annotations

import numpy as np

from clvmodels.numerics import loops

_OCTAVES = 32  # bins span 2^-32 .. 2^32 of the typical value: ten decades either way
_PER_OCTAVE = 32


class Histogram:
    """Per-draw histogram of customer values in powers of two.

    Values within a bin differ by at most 3.1 %, which moves a Gini coefficient by less than
    0.0001. Zeros share one bin; Gini and shares are of the non-negative part of value.
    """

    def __init__(self, draws: int, typical: float) -> None:
        lowest = np.array(max(typical * 2.0**-_OCTAVES, np.finfo(float).tiny))
        self._first = int(lowest.view(np.int64) >> 47) - 1
        shape = (2 * _OCTAVES * _PER_OCTAVE, draws)
        self._count, self._amount = np.zeros(shape), np.zeros(shape)

    def add(self, value: np.ndarray, members: np.ndarray | None = None) -> None:
        """Add one tile, shape (row, draw), each row ``members`` times."""
        members = np.ones(len(value)) if members is None else members.astype(float)
        loops.histogram(value, value.view(np.int64), members, self._first, self._count, self._amount)

    @property
    def count(self) -> np.ndarray:
        """Customers, shape (draw, bin)."""
        return self._count.T

    @property
    def amount(self) -> np.ndarray:
        """Their value, shape (draw, bin)."""
        return self._amount.T

    def lorenz(self, shares: np.ndarray) -> np.ndarray:
        """Share of value held by the best ``shares`` of customers, shape (draw, share).

        A draw in which nobody is worth anything is shared equally.
        """
        count = np.cumsum(self.count[:, ::-1], axis=1)
        amount = np.cumsum(self.amount[:, ::-1].clip(min=0), axis=1)
        out = np.empty((len(count), len(shares)))
        for d, (n, v) in enumerate(zip(count, amount, strict=True)):
            held = n if v[-1] == 0 else v
            out[d] = np.interp(shares * n[-1], np.r_[0, n], np.r_[0, held]) / held[-1]
        return out

    def gini(self) -> np.ndarray:
        """Gini coefficient ``Σ (2i - n - 1) v_(i) / (n Σ v)``, shape (draw,); 0 where all are worth 0."""
        n = np.cumsum(self.count, axis=1)
        before = n - self.count
        v = self.amount.clip(min=0)
        size = n[:, -1]
        total = v.sum(axis=1)
        ranked = ((n + before - size[:, None]) * v).sum(axis=1)
        return np.divide(ranked, size * total, out=np.zeros(len(total)), where=total > 0)
