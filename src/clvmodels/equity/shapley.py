"""What each of several changes contributes, whatever the order in which they are made."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

MOST = 4
"""Changes that are averaged over their orders: 4 have 24 orders and 16 sets to value."""


def contributions(
    changes: Sequence[str], value: Callable[[frozenset[str]], np.ndarray]
) -> dict[str, np.ndarray]:
    """Average over all orders of the changes of what each adds when its turn comes (Shapley 1953).

    Parameters
    ----------
    changes
        At most four names.
    value
        Value once a set of the changes has been made; called once for every set.

    Returns
    -------
    dict
        Change → contribution, in the shape of the values. They add up to
        ``value(all) - value(none)``, two changes that do the same get the same, and undoing the
        changes instead of making them turns the sign.
    """
    n = len(changes)
    if n > MOST:
        raise ValueError(f"{n} changes have {math.factorial(n)} orders; at most {MOST} are averaged")
    if n == 1:
        return {changes[0]: value(frozenset(changes)) - value(frozenset())}
    sets = [frozenset(some) for size in range(n + 1) for some in itertools.combinations(changes, size)]
    values = {some: value(some) for some in sets}
    out = {}
    for change in changes:
        # A change comes after exactly `some` in |some|! (n - |some| - 1)! of the n! orders.
        out[change] = sum(
            (values[some | {change}] - values[some]) / (n * math.comb(n - 1, len(some)))
            for some in sets
            if change not in some
        )
    return out
