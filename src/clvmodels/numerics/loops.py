"""Shared loops over draws and rows around a family's compiled scalars.

The scalars arrive as first-class functions, so that the loops are compiled once, for all
families, and load from Numba's cache. All loops release the GIL; arrays are laid out with
the draws of one row or customer next to each other.

A row of a matrix is copied before a scalar sees it (:func:`_take`), and scalars read their arrays
by index: a view of a shared array, and an array that is unpacked as a whole, count references
with atomic instructions, which cost more than most scalars and stall threads that share them.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import float64, int64, types, void

from clvmodels.numerics.discounting import decaying

_vector = types.Array(float64, 1, "C")
_matrix = types.Array(float64, 2, "C")
_cube = types.Array(float64, 3, "C")
_index = types.Array(int64, 1, "C")
_index2 = types.Array(int64, 2, "C")
_generator = numba.typeof(np.random.default_rng(0))

_BLOCK = 512  # columns that stay in the fastest cache

_OF_STATS = types.FunctionType(float64(_vector, _vector))
_RATE = types.FunctionType(float64(_vector, _vector, float64))
_AT_TIMES = types.FunctionType(void(_vector, _vector, _vector, _vector))
_WEIGHTS = types.FunctionType(void(_vector, _vector, _vector))
_RATES = types.FunctionType(void(_vector, _vector, float64, _vector))
_LATENT = types.FunctionType(void(_vector, _vector, _generator, _vector))
_LATENT_RATE = types.FunctionType(float64(_vector, float64))
_GAP = types.FunctionType(float64(_vector, float64, _generator))
_BASKET = types.FunctionType(float64(_vector, _generator))


@numba.njit(void(_matrix, int64, _vector), cache=True)
def _take(matrix, row, out):
    """Copy a row of a matrix."""
    for j in range(matrix.shape[1]):
        out[j] = matrix[row, j]


@numba.njit(void(_OF_STATS, _matrix, _matrix, _matrix), cache=True, nogil=True)
def over_stats(scalar, draws, stats, out):
    """``out[row, draw] = scalar(draws[draw], stats[row])``."""
    theta, state = np.empty(draws.shape[1]), np.empty(stats.shape[1])
    for row in range(stats.shape[0]):
        _take(stats, row, state)
        for d in range(draws.shape[0]):
            _take(draws, d, theta)
            out[row, d] = scalar(theta, state)


@numba.njit(void(_RATE, _matrix, _matrix, _vector, _matrix, _cube), cache=True, nogil=True)
def weighted_rates(rate, draws, stats, nodes, weights, out):
    """``out[row, flow, draw] = Σ_j weights[flow, j] rate(draws[draw], stats[row], nodes[j])``."""
    flows = weights.shape[0]
    sums = np.empty(flows)
    theta, state = np.empty(draws.shape[1]), np.empty(stats.shape[1])
    for row in range(stats.shape[0]):
        _take(stats, row, state)
        for d in range(draws.shape[0]):
            _take(draws, d, theta)
            sums[:] = 0.0
            for j in range(len(nodes)):
                value = rate(theta, state, nodes[j])
                for k in range(flows):
                    sums[k] += weights[k, j] * value
            for k in range(flows):
                out[row, k, d] = sums[k]


@numba.njit(void(_AT_TIMES, _matrix, _matrix, _vector, _matrix, _cube), cache=True, nogil=True)
def weighted_rates_at_once(rates, draws, stats, nodes, weights, out):
    """The same from a function that writes the rates at all nodes."""
    values = np.empty(len(nodes))
    theta, state = np.empty(draws.shape[1]), np.empty(stats.shape[1])
    for row in range(stats.shape[0]):
        _take(stats, row, state)
        for d in range(draws.shape[0]):
            _take(draws, d, theta)
            rates(theta, state, nodes, values)
            for k in range(weights.shape[0]):
                total = 0.0
                for j in range(len(nodes)):
                    total += weights[k, j] * values[j]
                out[row, k, d] = total


@numba.njit(void(_RATES, int64, _matrix, _matrix, _vector, _matrix, _cube), cache=True, nogil=True)
def weighted_phase_rates(rates, phases, draws, stats, nodes, weights, out):
    """The same for each phase: ``out[row, phase * flows + flow, draw]``."""
    flows = weights.shape[0]
    values = np.empty(phases)
    sums = np.empty((phases, flows))
    theta, state = np.empty(draws.shape[1]), np.empty(stats.shape[1])
    for row in range(stats.shape[0]):
        _take(stats, row, state)
        for d in range(draws.shape[0]):
            _take(draws, d, theta)
            sums[:] = 0.0
            for j in range(len(nodes)):
                rates(theta, state, nodes[j], values)
                for phase in range(phases):
                    for k in range(flows):
                        sums[phase, k] += weights[k, j] * values[phase]
            for phase in range(phases):
                for k in range(flows):
                    out[row, phase * flows + k, d] = sums[phase, k]


@numba.njit(void(_RATE, _matrix, _vector, int64, int64, _vector, _matrix), cache=True, nogil=True)
def aging_rates(rate, draws, stats, column, age, v, out):
    """``out[j, draw] = rate(A v[j]) / rate(0)`` with A = draws[draw, column] + stats[age]."""
    theta = np.empty(draws.shape[1])
    for d in range(draws.shape[0]):
        _take(draws, d, theta)
        scale = theta[column] + stats[age]
        now = rate(theta, stats, 0.0)
        for j in range(len(v)):
            out[j, d] = rate(theta, stats, scale * v[j]) / now


@numba.njit(
    void(_RATE, _matrix, _matrix, int64, int64, _vector, _vector, _cube, _cube),
    cache=True,
    nogil=True,
    error_model="numpy",  # a division that is checked is not vectorised
)
def at_ages(rate, draws, stats, column, age, position, barycentric, nodes, out):
    """``out[row, flow, draw] = A rate(0) H(A)``, H interpolated from ``nodes[node, flow, draw]``.

    ``position`` holds log A at the nodes, ``barycentric`` their weights; A is as in
    :func:`aging_rates`.
    """
    count, flows, width = nodes.shape
    theta, state = np.empty(draws.shape[1]), np.empty(stats.shape[1])
    shares = np.empty((count, _BLOCK))
    where, now, total = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    for row in range(stats.shape[0]):
        _take(stats, row, state)
        for low in range(0, width, _BLOCK):
            size = min(_BLOCK, width - low)
            for j in range(size):
                _take(draws, low + j, theta)
                scale = theta[column] + state[age]
                where[j] = math.log(scale)
                now[j] = scale * rate(theta, state, 0.0)
                total[j] = 0.0
            for k in range(count):
                for j in range(size):
                    gap = where[j] - position[k]
                    gap = 1e-300 if gap == 0.0 else gap
                    shares[k, j] = barycentric[k] / gap
                    total[j] += shares[k, j]
            for j in range(size):
                now[j] /= total[j]
            for f in range(flows):
                for j in range(size):
                    out[row, f, low + j] = 0.0
                for k in range(count):
                    for j in range(size):
                        out[row, f, low + j] += shares[k, j] * nodes[k, f, low + j]
                for j in range(size):
                    out[row, f, low + j] *= now[j]


@numba.njit(void(_WEIGHTS, _matrix, _matrix, _cube), cache=True, nogil=True)
def phase_weights(weights, draws, stats, out):
    """``out[row, draw, phase]``: the probability of each phase given alive."""
    theta, state = np.empty(draws.shape[1]), np.empty(stats.shape[1])
    for row in range(stats.shape[0]):
        _take(stats, row, state)
        for d in range(draws.shape[0]):
            _take(draws, d, theta)
            weights(theta, state, out[row, d])


@numba.njit(void(_matrix, _matrix, _matrix), cache=True, nogil=True)
def combine(weights, values, out):
    """``out[row, :] = Σ_n weights[row, n] values[n, :]``, each sum in the order of n.

    A product of matrices whose result depends neither on the number of rows nor on threads.
    """
    width, rows = values.shape[1], weights.shape[0]
    for low in range(0, width, _BLOCK):
        high = min(low + _BLOCK, width)
        for row in range(rows):
            for j in range(low, high):
                out[row, j] = 0.0
            for n in range(weights.shape[1]):
                w = weights[row, n]
                if w != 0.0:
                    for j in range(low, high):
                        out[row, j] += w * values[n, j]


@numba.njit(
    void(
        _matrix,
        _matrix,
        _cube,
        _vector,
        _vector,
        _index,
        _index,
        _index,
        _matrix,
        _vector,
        _matrix,
        _matrix,
        _matrix,
        _matrix,
    ),
    cache=True,
    nogil=True,
)
def expected_values(
    alive,
    spend,
    left,
    margin,
    members,
    row,
    group,
    row_group,
    value,
    total_alive,
    orders,
    revenue,
    bands,
    mean,
):
    """One tile at level expected: kinds of customers with all draws.

    Parameters
    ----------
    alive, spend, left
        ``[row, draw]``, ``[kind, draw]``, ``[group, flow, draw]``: P(alive), expected spend, purchases
        given alive. Flow 0 is the valuation, the next are those of ``orders``, the others of ``bands``.
    margin, members
        Margin and number of customers by kind.
    row, group, row_group
        Row and group of each kind, group of each row; ascending.
    value, mean
        Written: ``[kind, draw]``; mean orders over draws ``[row, horizon]``.
    total_alive, orders, revenue, bands
        Sums over customers that are added to: ``[draw]``, ``[flow, draw]``.
    """
    kinds, draws = spend.shape
    horizons, windows = orders.shape[0], bands.shape[0]
    groups, rows = left.shape[0], alive.shape[0]
    bought, paid, gained = np.zeros((groups, draws)), np.zeros((groups, draws)), np.zeros((groups, draws))
    customers = np.zeros(rows)
    for k in range(kinds):
        r, g, n, m = row[k], group[k], members[k], margin[k]
        customers[r] += n
        for d in range(draws):
            e = spend[k, d] * alive[r, d]
            value[k, d] = m * e * left[g, 0, d]
            paid[g, d] += n * e
            gained[g, d] += n * m * e
    for r in range(rows):
        g, n = row_group[r], customers[r]
        for d in range(draws):
            total_alive[d] += n * alive[r, d]
            bought[g, d] += n * alive[r, d]
        for h in range(horizons):
            total = 0.0
            for d in range(draws):
                total += alive[r, d] * left[g, 1 + h, d]
            mean[r, h] = total / draws
    for g in range(groups):
        for h in range(horizons):
            for d in range(draws):
                orders[h, d] += bought[g, d] * left[g, 1 + h, d]
                revenue[h, d] += paid[g, d] * left[g, 1 + h, d]
        for b in range(windows):
            for d in range(draws):
                bands[b, d] += gained[g, d] * left[g, 1 + horizons + b, d]


@numba.njit(float64(_vector, float64), cache=True)
def exponential_rate(latents, s):
    """The latent rate of most families: ``intensity · exp(-decay · s)``."""
    return latents[1] * math.exp(-latents[2] * s)


@numba.njit(float64(_vector, _vector), cache=True)
def exponential_value(latents, code):
    """That rate, discounted and summed as ``Flow.code`` says."""
    return latents[1] * decaying(latents[2], code)


@numba.njit(float64(_vector, _vector), cache=True)
def exponential_presence(latents, code):
    """Time alive of a customer of such a family, discounted and summed."""
    return decaying(latents[2], code)


@numba.njit(
    void(
        _LATENT,
        _LATENT,
        _LATENT_RATE,
        _OF_STATS,
        _OF_STATS,
        types.boolean,
        _matrix,
        _matrix,
        _matrix,
        _matrix,
        _vector,
        float64,
        _matrix,
        _vector,
        _matrix,
        _generator,
        int64,
        _matrix,
        _vector,
        _matrix,
        _matrix,
    ),
    cache=True,
    nogil=True,
)
def latent_values(
    latent,
    spend_latent,
    latent_rate,
    latent_value,
    latent_presence,
    closed,
    draws,
    spend_draws,
    stats,
    spend_stats,
    margin,
    cost,
    codes,
    nodes,
    weights,
    rng,
    width,
    value,
    alive,
    orders,
    revenue,
):
    """One tile at level latent: who each customer is, purchases averaged out.

    The purchases of a flow are ``latent_value`` where it is a closed form (``closed``), otherwise
    ``latent_rate`` summed at the nodes. Flow 0 is the valuation, flows 1.. are the horizons.
    ``cost`` is paid per unit of time while the customer is there.
    Writes ``value[customer, draw]`` and adds to ``alive[draw]``, ``orders[flow, draw]``,
    ``revenue[flow, draw]``.
    """
    latents, spends = np.empty(width), np.empty(width)
    theta, state = np.empty(draws.shape[1]), np.empty(stats.shape[1])
    spend_theta, spend_state = np.empty(spend_draws.shape[1]), np.empty(spend_stats.shape[1])
    code = np.empty(codes.shape[1])
    flows = codes.shape[0]
    for i in range(stats.shape[0]):
        _take(stats, i, state)
        _take(spend_stats, i, spend_state)
        for d in range(draws.shape[0]):
            _take(draws, d, theta)
            _take(spend_draws, d, spend_theta)
            latent(theta, state, rng, latents)
            spend_latent(spend_theta, spend_state, rng, spends)
            if latents[0] == 0.0:
                value[i, d] = 0.0
                continue
            alive[d] += 1.0
            for k in range(flows):
                if closed:
                    _take(codes, k, code)
                    purchases = latent_value(latents, code)
                else:
                    purchases = 0.0
                    for j in range(len(nodes)):
                        purchases += weights[k, j] * latent_rate(latents, nodes[j])
                if k == 0:
                    value[i, d] = margin[i] * spends[0] * purchases
                    if cost != 0.0:
                        _take(codes, 0, code)
                        value[i, d] -= cost * latent_presence(latents, code)
                else:
                    orders[k - 1, d] += purchases
                    revenue[k - 1, d] += spends[0] * purchases


@numba.njit(
    void(
        _LATENT,
        _GAP,
        _LATENT,
        _BASKET,
        _matrix,
        _matrix,
        _matrix,
        _matrix,
        _vector,
        float64,
        _vector,
        _vector,
        _vector,
        _vector,
        _generator,
        int64,
        _matrix,
        _vector,
        _matrix,
        _matrix,
    ),
    cache=True,
    nogil=True,
)
def predictive_values(
    latent,
    gap,
    spend_latent,
    basket,
    draws,
    spend_draws,
    stats,
    spend_stats,
    margin,
    cost,
    whole,
    discounting,
    rest,
    edges,
    rng,
    width,
    value,
    alive,
    orders,
    revenue,
):
    """One tile at level predictive: every future purchase and basket is drawn.

    ``discounting`` is (periodic, step, offset, delta, cut): purchases up to ``cut`` are drawn and
    valued. For a customer who is still there at ``cut``, what follows is added in expectation;
    ``rest`` is the flow's code from ``cut`` on, with a horizon of 0 where nothing follows. ``cost`` is
    paid per unit of time (on a discrete clock: at every opportunity) until the customer leaves;
    ``whole`` is the flow's own code.
    Purchases in (edges[k], edges[k+1]] add to ``orders[k, draw]`` and ``revenue[k, draw]``.
    """
    periodic, step, offset = discounting[0], discounting[1], discounting[2]
    delta, cut = discounting[3], discounting[4]
    last = max(cut, edges[-1]) if len(edges) else cut
    later = math.exp(-delta * cut) if rest[3] > 0.0 else 0.0
    latents, spends = np.empty(width), np.empty(width)
    there = whole.copy()
    theta, state = np.empty(draws.shape[1]), np.empty(stats.shape[1])
    spend_theta, spend_state = np.empty(spend_draws.shape[1]), np.empty(spend_stats.shape[1])
    for i in range(stats.shape[0]):
        _take(stats, i, state)
        _take(spend_stats, i, spend_state)
        for d in range(draws.shape[0]):
            _take(draws, d, theta)
            latent(theta, state, rng, latents)
            value[i, d] = 0.0
            if latents[0] == 0.0:
                continue
            alive[d] += 1.0
            _take(spend_draws, d, spend_theta)
            spend_latent(spend_theta, spend_state, rng, spends)
            s = 0.0
            k = 0
            total = 0.0
            while True:
                wait = gap(latents, s, rng)
                if wait < 0.0 or wait == math.inf:
                    stays = wait < 0.0 and s - wait > cut
                    break
                s += wait
                if s > last:
                    stays = True
                    break
                amount = basket(spends, rng)
                if s <= cut:
                    at = s
                    if periodic == 1.0:
                        at = step * (math.ceil(s / step - 1e-12) - offset)
                    total += amount * math.exp(-delta * at)
                while k < len(edges) - 1 and s > edges[k + 1]:
                    k += 1
                if k < len(edges) - 1 and s > edges[k]:
                    orders[k, d] += 1.0
                    revenue[k, d] += amount
            if stays and later > 0.0:
                total += spends[0] * latents[1] * later * decaying(latents[2], rest)
            value[i, d] = margin[i] * total
            if cost != 0.0:
                until = s
                if wait < 0.0:
                    until = s - wait - whole[1]  # an opportunity at which one leaves is not attended
                there[3] = cut if stays else min(until, cut)
                kept = decaying(0.0, there)
                if stays and later > 0.0:
                    kept += later * decaying(latents[2], rest)
                value[i, d] -= cost * kept


@numba.njit(void(_matrix, _index2, _vector, int64, _matrix, _matrix), cache=True, nogil=True)
def histogram(value, bits, members, first, count, amount):
    """Add ``value[row, draw]``, ``members[row]`` times, to per-draw histograms in powers of two.

    ``count[bin, draw]`` and ``amount[bin, draw]``; a bin is an octave's 32nd part, read from the
    ``bits`` of the value, and ``first`` that of bin 0, which takes all that is smaller
    (zeros and negatives included). The last takes all that is larger.
    """
    last = count.shape[0] - 1
    for i in range(value.shape[0]):
        times = members[i]
        for d in range(value.shape[1]):
            b = min(max((bits[i, d] >> 47) - first, 0), last)
            count[b, d] += times
            amount[b, d] += times * value[i, d]


@numba.njit(
    void(_LATENT, _GAP, _matrix, _matrix, float64, _generator, int64, _matrix), cache=True, nogil=True
)
def count_purchases(latent, gap, draws, stats, length, rng, width, out):
    """``out[row, draw]``: one predictive draw of the purchases in (0, length] after T."""
    latents = np.empty(width)
    theta, state = np.empty(draws.shape[1]), np.empty(stats.shape[1])
    for i in range(stats.shape[0]):
        _take(stats, i, state)
        for d in range(draws.shape[0]):
            _take(draws, d, theta)
            latent(theta, state, rng, latents)
            count = 0.0
            s = 0.0
            while latents[0] != 0.0:
                wait = gap(latents, s, rng)
                if wait < 0.0 or wait == math.inf:
                    break
                s += wait
                if s > length:
                    break
                count += 1.0
            out[i, d] = count
