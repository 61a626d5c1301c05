"""The compiled loop that draws what customers do up to several horizons, summed by group."""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import float64, int64, types, void

from clvmodels.numerics.loops import (
    _BASKET,
    _GAP,
    _LATENT,
    _LATENT_RATE,
    _OF_STATS,
    _generator,
    _matrix,
    _vector,
)

_members = types.Array(int64, 2, "C")
_sums = types.Array(float64, 4, "C")
_cube = types.Array(float64, 3, "C")


@numba.njit(
    void(
        _LATENT, _GAP, _LATENT, _BASKET, _LATENT_RATE, _OF_STATS, types.boolean,
        _matrix, _matrix, _matrix, _matrix, _vector, _members,
        _vector, _matrix, _vector, _matrix, _generator, int64,
        _sums, _sums, _matrix, _cube,
    ),
    cache=True,
    nogil=True,
)  # fmt: skip
def horizon_totals(
    latent,
    gap,
    spend_latent,
    basket,
    latent_rate,
    latent_value,
    closed,
    draws,
    spend_draws,
    stats,
    spend_stats,
    margin,
    member,
    horizons,
    codes,
    nodes,
    weights,
    rng,
    width,
    latents_out,
    predictive_out,
    bought,
    sampled,
):
    """Purchases, revenue and margin in (T, T + horizon] at levels latent and predictive.

    Each customer's latents are drawn once for both levels. ``member[customer, j]`` are the groups to
    which a customer belongs; ``horizons`` ascend. Adds to ``latents_out`` and ``predictive_out``, of shape
    (measure, group, horizon, draw), and to ``bought[customer, horizon]`` the draws with a purchase;
    writes the margin of the first draws to ``sampled[customer, horizon, draw]``. Latent purchases are
    ``latent_value`` where it is a closed form (``closed``), otherwise ``latent_rate`` summed at the nodes.
    """
    last = len(horizons) - 1
    own, spends = np.empty(width), np.empty(width)
    count, amount = np.empty(last + 1), np.empty(last + 1)
    for i in range(stats.shape[0]):
        for d in range(draws.shape[0]):
            latent(draws[d], stats[i], rng, own)
            if own[0] == 0.0:
                continue
            spend_latent(spend_draws[d], spend_stats[i], rng, spends)
            for k in range(last + 1):
                if closed:
                    expected = latent_value(own, codes[k])
                else:
                    expected = 0.0
                    for j in range(len(nodes)):
                        expected += weights[k, j] * latent_rate(own, nodes[j])
                paid = spends[0] * expected
                for j in range(member.shape[1]):
                    g = member[i, j]
                    latents_out[0, g, k, d] += expected
                    latents_out[1, g, k, d] += paid
                    latents_out[2, g, k, d] += margin[i] * paid
                count[k] = 0.0
                amount[k] = 0.0
            s = 0.0
            k = 0
            while True:
                wait = gap(own, s, rng)
                if wait < 0.0 or wait == math.inf:
                    break
                s += wait
                if s > horizons[last]:
                    break
                while s > horizons[k]:
                    k += 1
                count[k] += 1.0
                amount[k] += basket(spends, rng)
            number, paid = 0.0, 0.0
            for k in range(last + 1):
                number += count[k]
                if number == 0.0:
                    continue
                paid += amount[k]
                bought[i, k] += 1.0
                if d < sampled.shape[2]:
                    sampled[i, k, d] = margin[i] * paid
                for j in range(member.shape[1]):
                    g = member[i, j]
                    predictive_out[0, g, k, d] += number
                    predictive_out[1, g, k, d] += paid
                    predictive_out[2, g, k, d] += margin[i] * paid


@numba.njit(
    void(types.FunctionType(float64(_vector, _vector, float64)), _matrix, _vector, _vector, _matrix),
    cache=True,
    nogil=True,
)
def rates_over_time(rate, draws, stats, times, out):
    """``out[draw, time] = rate(draws[draw], stats, times[time])``."""
    for d in range(draws.shape[0]):
        for j in range(len(times)):
            out[d, j] = rate(draws[d], stats, times[j])
