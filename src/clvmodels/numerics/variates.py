"""Random numbers inside compiled loops. A stream is a word and a step, both scalars.

Every function takes ``(word, step, ...)`` and returns its number with the next word: an array that is
handed to a compiled function counts references with atomic instructions, which cost more than the number.

Bits by SplitMix (Steele, Lea and Flood, 2014, OOPSLA), each stream with a step of its own; normals by
Marsaglia and Tsang's ziggurat in Doornik's form (2005), gammas by Marsaglia and Tsang (2000, ACM TOMS 26,
363-372), Poissons by inversion and by Hörmann's PTRS (1993).
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import float64, types, uint64

_number = types.Tuple((float64, uint64))

_LAYERS = 128
_R = 3.442619855899
_AREA = 9.91256303526217e-3


def _ziggurat() -> tuple[np.ndarray, np.ndarray]:
    """Right edges of the layers, the lowest first, and the ratio of each to the one before."""
    edge = np.zeros(_LAYERS + 1)
    density = math.exp(-0.5 * _R * _R)
    edge[0], edge[1] = _AREA / density, _R
    for i in range(2, _LAYERS):
        edge[i] = math.sqrt(-2.0 * math.log(_AREA / edge[i - 1] + density))
        density = math.exp(-0.5 * edge[i] * edge[i])
    return edge, edge[1:] / edge[:-1]


_EDGE, _RATIO = _ziggurat()


def stream(*key: int) -> tuple[np.uint64, np.uint64]:
    """A stream of its own for a key: where it begins, and its step, which is odd and not regular."""
    seed, step = np.random.SeedSequence(key[0], spawn_key=key[1:]).generate_state(2, np.uint64)
    step |= np.uint64(1)
    if bin(int(step ^ (step >> np.uint64(1)))).count("1") < 24:
        step ^= np.uint64(0xAAAAAAAAAAAAAAAA)
    return seed, step


@numba.njit(uint64(uint64), cache=True)
def _mixed(word):
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@numba.njit(_number(uint64, uint64), cache=True)
def uniform(word, step):
    """Between 0 and 1, never either."""
    word = word + step
    return (np.float64(np.int64(_mixed(word) >> np.uint64(11))) + 0.5) * 2.0**-53, word


@numba.njit(_number(uint64, uint64), cache=True)
def exponential(word, step):
    u, word = uniform(word, step)
    return -math.log(u), word


@numba.njit(_number(uint64, uint64, uint64, float64), cache=True, error_model="numpy")
def _edge_of_layer(word, step, i, u):
    """A normal in the tail or at the edge of layer i, NaN if it is refused."""
    if i == 0:
        while True:
            x, word = exponential(word, step)
            y, word = exponential(word, step)
            x = -x / _R
            if 2.0 * y >= x * x:
                return (x - _R if u < 0.0 else _R - x), word
    x = u * _EDGE[i]
    above = math.exp(-0.5 * (_EDGE[i] * _EDGE[i] - x * x))
    below = math.exp(-0.5 * (_EDGE[i + 1] * _EDGE[i + 1] - x * x))
    u, word = uniform(word, step)
    return (x if below + u * (above - below) < 1.0 else math.nan), word


@numba.njit(_number(uint64, uint64), cache=True, error_model="numpy")
def normal(word, step):
    found = math.nan
    while found != found:
        word = word + step
        mixed = _mixed(word)
        u = (np.float64(np.int64(mixed >> np.uint64(11))) + 0.5) * 2.0**-52 - 1.0
        i = mixed & np.uint64(127)
        if abs(u) < _RATIO[i]:
            found = u * _EDGE[i]
        else:
            found, word = _edge_of_layer(word, step, i, u)
    return found, word


@numba.njit(_number(uint64, uint64, float64), cache=True, error_model="numpy")
def gamma(word, step, shape):
    """Of scale 1; underflows to 0 where the shape is tiny."""
    least = shape if shape >= 1.0 else shape + 1.0
    d = least - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    found = -1.0
    while found < 0.0:
        x, word = normal(word, step)
        v = 1.0 + c * x
        if v > 0.0:
            v = v * v * v
            u, word = uniform(word, step)
            square = x * x
            if u < 1.0 - 0.0331 * square * square or (
                math.log(u) < 0.5 * square + d * (1.0 - v + math.log(v))
            ):
                found = d * v
    if shape < 1.0:
        u, word = uniform(word, step)
        found *= math.exp(math.log(u) / shape)
    return found, word


@numba.njit(_number(uint64, uint64, float64, float64), cache=True, error_model="numpy")
def beta(word, step, a, b):
    first, word = gamma(word, step, a)
    second, word = gamma(word, step, b)
    return first / max(first + second, 1e-300), word


@numba.njit(_number(uint64, uint64, float64), cache=True, error_model="numpy")
def poisson(word, step, mean):
    if mean < 12.0:
        u, word = uniform(word, step)
        chance = math.exp(-mean)
        count = 0.0
        while u > chance and count < 200.0:
            u -= chance
            count += 1.0
            chance *= mean / count
        return count, word
    log_mean, root = math.log(mean), math.sqrt(mean)
    b = 0.931 + 2.53 * root
    a = -0.059 + 0.02483 * b
    inverse = 1.1239 + 1.1328 / (b - 3.4)
    accept = 0.9277 - 3.6224 / (b - 2.0)
    while True:
        u, word = uniform(word, step)
        v, word = uniform(word, step)
        u -= 0.5
        us = 0.5 - abs(u)
        k = math.floor((2.0 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= accept:
            return k, word
        if k < 0.0 or (us < 0.013 and v > us):
            continue
        if math.log(v) + math.log(inverse) - math.log(a / (us * us) + b) <= (
            -mean + k * log_mean - math.lgamma(k + 1.0)
        ):
            return k, word
