"""The compiled loop of level predictive where a customer's rates have gamma and beta laws.

While alive a customer buys at rate λ ~ Gamma(k, A); it leaves after a purchase with probability
p ~ Beta(a, b), or at rate μ ~ Gamma(s, B). Baskets are Gamma(g, ν) with ν ~ Gamma. Nothing is drawn for
customers who have left. For the others comes first the wait for the next purchase, λ averaged out,
because half of them never buy again; then λ and p given that wait; then how many purchases follow and
when, all at once.

Baskets that no horizon tells apart are drawn as their sum, a gamma. What it is worth is the sum times the
mean of the discount factors, weighted with shares that are Dirichlet and independent of the sum; of that
mean the expectation and the variance are exact, its shape is not. So it is for the sum of far purchases
(discounted by more than exp(-3)): a Poisson number of baskets, drawn as one gamma of the same mean and
variance.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import float64, int64, types, uint64, void

from clvmodels.numerics.loops import _OF_STATS, _WEIGHTS, _matrix, _take, _vector
from clvmodels.numerics.variates import beta, exponential, gamma, poisson, uniform

_SINGLE = 24.0  # expected purchases up to which each is drawn
_FEW = 16.0  # purchases of a window up to which each is drawn
_number = types.Tuple((float64, uint64))
_pair = types.UniTuple(float64, 2)


@numba.njit(float64(float64, float64, float64, float64, float64), cache=True, error_model="numpy")
def annuity(t, delta, periodic, step, offset):
    """Discounted length of (0, t] at rate ``delta``; from a point in each period of ``step`` if periodic."""
    if delta == 0.0:
        return t
    if periodic == 0.0:
        return -math.expm1(-delta * t) / delta
    whole = math.floor(t / step + 1e-12)
    first = math.exp(-delta * step * (1.0 - offset))
    sum_ = step * first * math.expm1(-delta * step * whole) / math.expm1(-delta * step)
    return sum_ + max(t - whole * step, 0.0) * first * math.exp(-delta * step * whole)


@numba.njit(float64(float64, float64, float64, float64, float64), cache=True)
def _discount(s, delta, periodic, step, offset):
    if periodic == 1.0:
        s = step * (math.ceil(s / step - 1e-12) - offset)
    return math.exp(-delta * s)


@numba.njit(int64(float64, _vector), cache=True)
def _bin(s, edges):
    """k with s in (edges[k], edges[k+1]]; -1 where there is none."""
    low, high = 0, len(edges) - 1
    if s > edges[high] or s <= edges[0]:
        return -1
    while high - low > 1:
        middle = (low + high) // 2
        if s > edges[middle]:
            low = middle
        else:
            high = middle
    return low


@numba.njit(_pair(float64, float64, float64, float64, float64, float64), cache=True, error_model="numpy")
def _discounts(low, high, delta, periodic, step, offset):
    """Mean and mean square of the discount factor at a uniform time in (low, high]."""
    once = annuity(high, delta, periodic, step, offset) - annuity(low, delta, periodic, step, offset)
    delta *= 2.0
    twice = annuity(high, delta, periodic, step, offset) - annuity(low, delta, periodic, step, offset)
    return once / (high - low), twice / (high - low)


@numba.njit(_number(uint64, uint64, float64, float64), cache=True, error_model="numpy")
def _around(word, step, mean, spread):
    """A positive number of this mean and variance."""
    if 4.0 * spread < mean * mean:
        u, word = uniform(word, step)
        return mean + math.sqrt(12.0 * max(spread, 0.0)) * (u - 0.5), word
    x, word = gamma(word, step, mean * mean / spread)
    return x * spread / mean, word


@numba.njit(
    void(
        _OF_STATS, _WEIGHTS, _WEIGHTS, types.boolean,
        _matrix, _matrix, _matrix, _matrix, _vector, float64,
        _vector, _vector, int64, _vector, uint64, uint64,
        _matrix, _vector, _matrix, _matrix,
    ),
    cache=True,
    nogil=True,
    error_model="numpy",
)  # fmt: skip
def predictive_paths(
    p_alive,
    given,
    spend_given,
    leaves_at_purchase,
    draws,
    spend_draws,
    stats,
    spend_stats,
    margin,
    cost,
    discounting,
    windows,
    near,
    edges,
    word,
    jump,
    value,
    alive,
    orders,
    revenue,
):
    """One tile at level predictive: future purchases and baskets are drawn.

    Parameters
    ----------
    p_alive, given, spend_given
        The family's scalars; ``given`` writes (k, A, a, b) or (k, A, s, B), ``spend_given`` the shape and
        rate of ν and the shape of a basket.
    leaves_at_purchase
        Whether the third and fourth are those of p.
    discounting
        (periodic, step, offset, delta, end): purchases up to ``end`` are valued.
    windows, near
        Ascending edges from 0 that cover ``end`` and ``edges``; from ``windows[near]`` on purchases are
        valued together.
    word, jump
        Stream of random numbers.
    edges
        Purchases in (edges[k], edges[k+1]] add to ``orders[k, draw]`` and ``revenue[k, draw]``.
    cost
        Paid per unit of time until the customer leaves.
    """
    periodic, step, offset, delta = discounting[0], discounting[1], discounting[2], discounting[3]
    end, soon, last, known = discounting[4], windows[near], windows[-1], edges[-1]
    given_out, spend_out = np.empty(4), np.empty(3)
    whole = np.empty((len(windows) - 1, 2))
    for w in range(len(whole)):
        whole[w] = _discounts(windows[w], windows[w + 1], delta, periodic, step, offset)
    row, spend_row = np.empty(stats.shape[1]), np.empty(spend_stats.shape[1])
    theta, spend_theta = np.empty(draws.shape[1]), np.empty(spend_draws.shape[1])
    for i in range(stats.shape[0]):
        _take(stats, i, row)
        _take(spend_stats, i, spend_row)
        for d in range(draws.shape[0]):
            _take(draws, d, theta)
            value[i, d] = 0.0
            chance = p_alive(theta, row)
            u, word = uniform(word, jump)
            if u >= chance:
                continue
            alive[d] += 1.0
            given(theta, row, given_out)
            k, A, a, b = given_out[0], given_out[1], given_out[2], given_out[3]
            first = A * math.expm1(-math.log(u / chance) / k)
            leaves = math.inf
            if not leaves_at_purchase and a > 0.0:
                u, word = exponential(word, jump)
                leaves = b * math.expm1(u / a)
            total = 0.0
            if first <= last and first <= leaves:
                _take(spend_draws, d, spend_theta)
                spend_given(spend_theta, spend_row, spend_out)
                shape = spend_out[2]
                u, word = gamma(word, jump, spend_out[0])
                mean = spend_out[1] / u  # of a basket, over its shape
                u, word = gamma(word, jump, k + 1.0)
                rate = u / (A + first)
                ended = False
                if leaves_at_purchase:
                    u, word = uniform(word, jump)
                    if u * (a + b) < a:
                        leaves = first
                    else:
                        p, word = beta(word, jump, a, b + 1.0)
                        u, word = exponential(word, jump)
                        leaves = first + u / (rate * p)
                        rate *= 1.0 - p
                        ended = leaves <= last
                until = min(leaves, soon)
                single, more = True, 0.0
                if first < until:
                    more = rate * (until - first)
                    single = more <= _SINGLE
                    if single:
                        more, word = poisson(word, jump, more)
                    else:
                        more = 0.0
                # One by one: the first, the last, and those between if they are few.
                late, late_sum, late_square = 0.0, 0.0, 0.0
                for e in range((1 if ended else 0) + 1 + int(more)):
                    if e == 0:
                        s = first
                    elif e == 1 and ended:
                        s = leaves
                    else:
                        u, word = uniform(word, jump)
                        s = first + u * (until - first)
                    factor = _discount(s, delta, periodic, step, offset) if s <= end else 0.0
                    if s <= known:
                        amount, word = gamma(word, jump, shape)
                        amount *= mean
                        total += amount * factor
                        j = _bin(s, edges)
                        if j >= 0:
                            orders[j, d] += 1.0
                            revenue[j, d] += amount
                    else:
                        late += 1.0
                        late_sum += factor
                        late_square += factor * factor
                if late > 0.0 and late_sum > 0.0:
                    factor = late_sum / late
                    if late > 1.0:
                        # Shares of gamma baskets in their sum are Dirichlet, and independent of it.
                        spread = (late_square / late - factor * factor) / (late * shape + 1.0)
                        factor, word = _around(word, jump, factor, spread)
                    amount, word = gamma(word, jump, late * shape)
                    total += amount * mean * factor
                w, low = 0, first
                while not single and low < until:
                    while windows[w + 1] <= low:
                        w += 1
                    high = min(until, windows[w + 1])
                    count, word = poisson(word, jump, rate * (high - low))
                    if count > 0.0:
                        amount, word = gamma(word, jump, count * shape)
                        amount *= mean
                        j = _bin(high, edges)
                        if j >= 0:
                            orders[j, d] += count
                            revenue[j, d] += amount
                        if high <= end:
                            if count <= _FEW:
                                factor, square = 0.0, 0.0
                                for _ in range(int(count)):
                                    u, word = uniform(word, jump)
                                    u = _discount(low + u * (high - low), delta, periodic, step, offset)
                                    factor += u / count
                                    square += u * u / count
                                spread = (square - factor * factor) / (count * shape + 1.0)
                            else:
                                factor, square = whole[w, 0], whole[w, 1]
                                if low > windows[w] or high < windows[w + 1]:
                                    factor, square = _discounts(low, high, delta, periodic, step, offset)
                                # The times are not drawn: the variance of their mean comes on top.
                                spread = (square - factor * factor) * (shape + 1.0) / (count * shape + 1.0)
                            factor, word = _around(word, jump, factor, spread)
                            total += amount * factor
                    low = high
                until = min(leaves, end)
                for w in range(near, len(windows) - 1):
                    low, high = max(first, windows[w]), min(until, windows[w + 1])
                    if low < high:
                        factor, square = whole[w, 0], whole[w, 1]
                        if low > windows[w] or high < windows[w + 1]:
                            factor, square = _discounts(low, high, delta, periodic, step, offset)
                        # The sum of a Poisson number, as one gamma of the same mean and variance.
                        expected = rate * (high - low) * shape * factor
                        spread = rate * (high - low) * shape * (shape + 1.0) * square
                        if spread > 0.0 and expected > 0.0:
                            u, word = gamma(word, jump, expected * expected / spread)
                            total += u * spread / expected * mean
            value[i, d] = margin[i] * total
            if cost != 0.0:
                value[i, d] -= cost * annuity(min(leaves, end), delta, periodic, step, offset)
