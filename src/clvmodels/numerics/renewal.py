"""Renewals with Erlang-k intervals and geometric attrition, as Numba scalars.

An interval is k phases, each exponential with rate λ; a purchase ends the k-th phase and is
the customer's last with probability p. With j phases of the running interval done, the m-th
purchase ahead ends phase number mk - j and happens if the m - 1 before it were not the last:

    rate(s) = Σ_m (1-p)^(m-1) λ (λs)^(mk-j-1) e^(-λs) / (mk-j-1)!

The k-th roots of unity ω^l sum this in closed form (:func:`renewal_rate`); with λ gamma and p
beta it is a series of positive terms (:func:`mixed_renewal_rates`).
"""

from __future__ import annotations

import cmath
import math

import numba
import numpy as np
from numba import complex128, float64, types, void

from clvmodels.numerics.discounting import decaying

_DIRECT_TERMS = 400  # terms from which the sum over purchases is an integral with end corrections
_FIRST = 48  # purchases that are summed one by one before the integral
_WIDE = 9.5  # standard deviations at which a normal density is below float precision
_FADED = 40.0  # exp(-40) = 4e-18
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_CORRECTION = (
    np.array([0.0, 0.0, -1.0, 1.0, 0.0, 0.0]) / 24
    - np.array([0.0, -1.0, 3.0, -3.0, 1.0, 0.0]) * 17 / 5760
    + np.array([-1.0, 5.0, -10.0, 10.0, -5.0, 1.0]) * 367 / 967680
)
_vector = types.Array(float64, 1, "C")
_LEAST_SURVIVAL = 1e-9


@numba.njit(types.UniTuple(complex128, 2)(float64, float64, float64, float64, float64), cache=True)
def _root(k, j, lam, p, number):
    """Intensity and decay of one of the k exponentials ``intensity · exp(-decay · s)`` of the rate."""
    # At p = 1 the roots coincide at 0 and the k terms cancel; an error of 1e-9 in 1-p is harmless.
    rho = max(1.0 - p, _LEAST_SURVIVAL) ** (1.0 / k)
    angle = 2.0 * math.pi * number / k
    intensity = lam / k * rho ** (j + 1.0 - k) * cmath.exp(complex(0.0, angle * (j + 1.0)))
    return intensity, lam * (1.0 - rho * cmath.exp(complex(0.0, angle)))


@numba.njit(float64(float64, float64, float64, float64, float64), cache=True)
def renewal_rate(k, j, lam, p, s):
    """Expected purchases per unit of time at s, given λ, p, and j of k phases done at s = 0.

    ``λ/k ρ^(j+1-k) Σ_l ω^(l(j+1)) exp(-λ(1 - ω^l ρ)s)`` with ρ = (1-p)^(1/k); absolute error
    below 1e-8 λ.
    """
    total = 0.0
    for number in range(int(k)):
        intensity, decay = _root(k, j, lam, p, float(number))
        total += (intensity * cmath.exp(-decay * s)).real
    return max(total, 0.0)


@numba.njit(float64(float64, float64, float64, float64, _vector), cache=True)
def renewal_value(k, j, lam, p, code):
    """The same, discounted and summed as ``Flow.code`` says."""
    if lam == 0.0:
        return 0.0
    total = 0.0
    for number in range(int(k)):
        intensity, decay = _root(k, j, lam, p, float(number))
        if number == 0:
            total += intensity.real * decaying(decay.real, code)
        else:
            total += (intensity * decaying(decay, code)).real
    return max(total, 0.0)


@numba.njit(float64(float64, float64, float64, float64, _vector), cache=True)
def renewal_presence(k, j, lam, p, code):
    """Time alive, discounted and summed as ``Flow.code`` says.

    The rate of last purchases is p times that of :func:`renewal_rate`, so that its exponentials
    ``I exp(-κ s)`` make the survival ``Σ p I/κ exp(-κ s)``. Below p = 1e-7 the phases average out:
    a single exponential, right to a relative error of the order of p.
    """
    if p < 1e-7 or lam == 0.0:
        return decaying(lam * p / k, code)
    total = 0.0
    for number in range(int(k)):
        intensity, decay = _root(k, j, lam, p, float(number))
        if number == 0:
            total += p * intensity.real / decay.real * decaying(decay.real, code)
        else:
            total += (p * intensity / decay * decaying(decay, code)).real
    return max(total, 0.0)


@numba.njit(float64(float64), cache=True)
def _stirling(z):
    u = 1.0 / (z * z)
    return (1 / 12 - u * (1 / 360 - u * (1 / 1260 - u * (1 / 1680 - u * (1 / 1188 - u * 691 / 360360))))) / z


@numba.njit(float64(float64, float64), cache=True)
def _log_gamma_ratio(z, d):
    """``log Γ(z + d) / Γ(z)`` without the loss of digits of a difference of large numbers."""
    shift = 1.0
    while z < 12.0:
        shift *= (z + d) / z
        z += 1.0
    top = z + d
    stirling = (z - 0.5) * math.log1p(d / z) + d * (math.log(top) - 1.0)
    return stirling + _stirling(top) - _stirling(z) - math.log(shift)


@numba.njit(float64(float64, float64, float64, float64, float64, float64, float64), cache=True)
def _term(m, k, shape, a, b, log_w, constant):
    """The term of the m-th purchase with k - 1 phases done, for real m >= 1."""
    i = (m - 1.0) * k
    c = shape + k - 1.0
    return math.exp(_log_gamma_ratio(i + 1.0, c) - _log_gamma_ratio(b + m - 1.0, a) + i * log_w + constant)


@numba.njit(float64(float64, float64, float64, float64, float64, float64), cache=True)
def _ratio(m, k, shape, a, b, w):
    """That term of m + 1 over that of m."""
    i = (m - 1.0) * k + 1.0
    c = shape + k - 1.0
    above, below = b + m - 1.0, a + b + m - 1.0
    for _ in range(int(k)):
        above *= (c + i) * w
        below *= i
        i += 1.0
    return above / below


@numba.njit(float64(_vector, float64, float64, float64, float64, float64, float64), cache=True)
def _add(out, weight, term, m, k, shape, v):
    """Add the m-th terms of all phases, given that of phase k - 1; returns that of phase 0."""
    for j in range(int(k) - 1, 0, -1):
        out[j] += weight * term
        term *= v * (shape + j - 1.0) / (m * k - j)
    out[0] += weight * term
    return term


@numba.njit(void(_vector, float64, float64, float64, float64, float64, float64, float64), cache=True)
def _sum_all(out, first, k, shape, a, b, v, constant):
    """All terms, from the one where they are largest to both sides."""
    log_w = -math.log1p(1.0 / v)
    w, last = math.exp(log_w), int(k) - 1
    largest = _term(first, k, shape, a, b, log_w, constant)
    term, m = largest, first
    lowest = _add(out, 1.0, term, m, k, shape, v)
    while True:
        ratio = _ratio(m, k, shape, a, b, w)
        m += 1.0
        term *= ratio
        _add(out, 1.0, term, m, k, shape, v)
        ratio = max(ratio, math.exp(k * log_w))
        if ratio < 1.0 and term * ratio <= 1e-16 * (1.0 - ratio) * out[last]:
            break
    term, m = largest, first
    while m > 1.0 and lowest > 1e-18 * out[0]:
        m -= 1.0
        term /= _ratio(m, k, shape, a, b, w)
        lowest = _add(out, 1.0, term, m, k, shape, v)


@numba.njit(void(_vector, float64, float64, float64, float64, float64, float64, float64, float64), cache=True)
def _integrate_bulk(out, low, high, k, shape, a, b, v, constant):
    """``∫ term dm`` where the terms vanish at both ends: the trapezoidal rule in log m."""
    log_w, start = -math.log1p(1.0 / v), math.log(low)
    step = 0.55 / math.sqrt(max(a, shape + k))
    for point in range(int((math.log(high) - start) / step) + 1):
        m = math.exp(start + step * point)
        _add(out, step * m, _term(m, k, shape, a, b, log_w, constant), m, k, shape, v)


@numba.njit(void(_vector, float64, float64, float64, float64, float64, float64, float64), cache=True)
def _integrate_tail(out, high, k, shape, a, b, v, constant):
    """The first terms one by one; the others as an integral from half way between two of them.

    Differences there correct it, a sum of terms with weights (Gauss's form of Euler and Maclaurin).
    """
    log_w = -math.log1p(1.0 / v)
    w = math.exp(log_w)
    term = _term(1.0, k, shape, a, b, log_w, constant)
    for number in range(1, _FIRST + 3):
        weight = 1.0 if number < _FIRST else 0.0
        if number >= _FIRST - 3:
            weight += _CORRECTION[number - _FIRST + 3]
        _add(out, weight, term, float(number), k, shape, v)
        term *= _ratio(float(number), k, shape, a, b, w)
    start = math.log(_FIRST - 0.5)
    length = math.log(high) - start
    panels = math.ceil(length / min(2.6, 4.5 / math.sqrt(max(a, shape + k))))
    half = 0.5 * length / panels
    for panel in range(panels):
        middle = start + half * (2 * panel + 1)
        for point in range(len(_POINTS)):
            m = math.exp(middle + half * _POINTS[point])
            term = _term(m, k, shape, a, b, log_w, constant)
            _add(out, half * _WEIGHTS[point] * m, term, m, k, shape, v)


@numba.njit(float64(float64, float64, float64, float64, float64), cache=True)
def _peak(k, c, a, b, v):
    """The m >= 1 with the largest term, to a percent.

    Without attrition it is cv/k; the loss a/(b+m-1) per purchase moves it down, step by step.
    """
    log_odds = math.log1p(1.0 / v)
    m, before = c * v / k, math.inf
    while 1.0 < m < 0.99 * before:
        before = m
        m = c / math.expm1(log_odds + a / (k * (b + m - 1.0))) / k
    return max(m, 1.0)


@numba.njit(void(float64, float64, float64, float64, float64, _vector), cache=True)
def mixed_renewal_rates(k, shape, a, b, v, out):
    """E[rate] at s = v >= 0 for λ ~ Gamma(shape + j, 1), p ~ Beta(a, b), into ``out[j]``, j < k.

    ``Σ_m (b)_(m-1)/(a+b)_(m-1) · Γ(R+mk)/(Γ(R+j) Γ(mk-j)) · v^(mk-j-1) (1+v)^-(R+mk)`` with the
    shape R; for λ ~ Gamma(R + j, A) divide by A and take v = s/A. Where hundreds of terms count,
    their sum is taken as an integral. Relative error below 1e-11 for R up to 1,000 and below
    1e-10 up to 12,000, against the series and the integral over p in 30 digits.
    """
    last = int(k) - 1
    out[: last + 1] = 0.0
    c = shape + k - 1.0
    if v == 0.0:
        out[last] = c
        return
    constant = _log_gamma_ratio(b, a) - math.lgamma(c) - (c + 1.0) * math.log1p(v)
    # Around the largest the terms are like a gamma density; those of phase 0 lie lowest and widest.
    largest = _peak(k, shape, a, b, v)
    degrees = max(k * shape * largest / (k * largest + shape) - a * (largest / (b + largest)) ** 2, 0.05)
    spread = _WIDE / math.sqrt(degrees)
    low = largest * max(1.0 - spread, math.exp(-1.0 - _FADED / degrees))
    high = largest * (1.0 + spread) + (_FADED + 2.0 * k) * (1.0 + v) / k
    if high - low < _DIRECT_TERMS:
        _sum_all(out, max(1.0, np.floor(largest)), k, shape, a, b, v, constant)
    elif low < _FIRST:
        _integrate_tail(out, high, k, shape, a, b, v, constant)
    else:
        _integrate_bulk(out, low, high, k, shape, a, b, v, constant)
