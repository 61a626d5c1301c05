"""Loops over draws of customers' latents: drawn once, valued under more than one future."""

from __future__ import annotations

import numba
import numpy as np
from numba import float64, int64, types, void

from clvmodels.numerics.loops import _LATENT, _LATENT_RATE, _OF_STATS

_vector = types.Array(float64, 1, "C")
_matrix = types.Array(float64, 2, "C")
_cube = types.Array(float64, 3, "C")
_generator = numba.typeof(np.random.default_rng(0))


@numba.njit(void(_LATENT, _matrix, _matrix, _generator, int64, _cube), cache=True, nogil=True)
def draw(latent, draws, stats, rng, width, out):
    """``out[row, draw, :width]``: one draw of the latents of each row under each draw of parameters."""
    for i in range(stats.shape[0]):
        for d in range(draws.shape[0]):
            latent(draws[d], stats[i], rng, out[i, d])


@numba.njit(
    void(_LATENT_RATE, _OF_STATS, types.boolean, _cube, _vector, _vector, _vector, _matrix),
    cache=True,
    nogil=True,
)
def purchases(latent_rate, latent_value, closed, latents, code, nodes, weights, out):
    """``out[row, draw]``: expected (discounted) purchases given latents, 0 for those who have left.

    By ``latent_value`` where it is a closed form, otherwise by ``latent_rate`` at the nodes.
    """
    for i in range(latents.shape[0]):
        for d in range(latents.shape[1]):
            total = 0.0
            if latents[i, d, 0] != 0.0:
                if closed:
                    total = latent_value(latents[i, d], code)
                else:
                    for j in range(len(nodes)):
                        total += weights[j] * latent_rate(latents[i, d], nodes[j])
            out[i, d] = total
