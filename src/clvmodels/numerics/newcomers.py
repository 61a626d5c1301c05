"""The compiled loop over customers who are still to be won: first order, and all that may follow."""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import float64, int64, types, void

from clvmodels.numerics.discounting import decaying

_vector = types.Array(float64, 1, "C")
_matrix = types.Array(float64, 2, "C")
_generator = numba.typeof(np.random.default_rng(0))

_OF_VECTORS = types.FunctionType(float64(_vector, _vector))
_LATENT = types.FunctionType(void(_vector, _vector, _generator, _vector))
_AT_TIME = types.FunctionType(float64(_vector, float64))
_GAP = types.FunctionType(float64(_vector, float64, _generator))
_BASKET = types.FunctionType(float64(_vector, _generator))


@numba.njit(
    void(
        types.boolean,
        _LATENT,
        _GAP,
        _LATENT,
        _BASKET,
        _AT_TIME,
        _OF_VECTORS,
        types.boolean,
        _matrix,
        _matrix,
        _vector,
        _vector,
        _vector,
        _vector,
        _vector,
        _vector,
        _vector,
        _vector,
        _generator,
        int64,
        _matrix,
    ),
    cache=True,
    nogil=True,
)
def newcomer_values(
    drawn,
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
    first,
    code,
    nodes,
    weights,
    discounting,
    rest,
    rng,
    width,
    value,
):
    """``value[customer, draw]``: revenue of new customers, discounted to their first order.

    Parameters
    ----------
    drawn
        Every order and basket is drawn (level predictive); otherwise each customer's own latents
        are, and orders are averaged out (level latent).
    stats, spend_stats
        The history of a customer who has just made the first order.
    first
        Size of a first order relative to later ones, by draw.
    code, nodes, weights, discounting, rest
        As in ``loops.latent_values`` and ``loops.predictive_values``, of one flow.
    """
    periodic, step, offset, delta, cut = discounting
    later = math.exp(-delta * cut) if rest[3] > 0.0 else 0.0
    latents, spends = np.empty(width), np.empty(width)
    for i in range(value.shape[0]):
        for d in range(draws.shape[0]):
            latent(draws[d], stats, rng, latents)
            spend_latent(spend_draws[d], spend_stats, rng, spends)
            if not drawn:
                orders = 0.0
                if latents[0] != 0.0:
                    if closed:
                        orders = latent_value(latents, code)
                    else:
                        for j in range(len(nodes)):
                            orders += weights[j] * latent_rate(latents, nodes[j])
                value[i, d] = spends[0] * (first[d] + orders)
                continue
            total = first[d] * basket(spends, rng)
            s = 0.0
            stays = False
            while latents[0] != 0.0:
                wait = gap(latents, s, rng)
                if wait < 0.0 or wait == math.inf:
                    stays = wait < 0.0 and s - wait > cut
                    break
                s += wait
                if s > cut:
                    stays = True
                    break
                at = s
                if periodic == 1.0:
                    at = step * (math.ceil(s / step - 1e-12) - offset)
                total += basket(spends, rng) * math.exp(-delta * at)
            if stays and later > 0.0:
                total += spends[0] * latents[1] * later * decaying(latents[2], rest)
            value[i, d] = total
