"""Special functions as Numba scalars, stable where the textbook forms overflow or return NaN."""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import float64, types

_SERIES_TERMS = 120
_TAIL_TERMS = 12
_MOST_PAIRS = 10_000.0
_LANES = 32
_FEW = 16
_LARGE = 3000.0
"""With this many pairs of terms, of a + b up to this, numbers stay below 1e224."""
_LEAST = np.array([2.0, 2.0, *(math.tanh(7.5 / (n - 1.5)) ** 2 for n in range(2, _FEW + 1))])
"""v, or 1/v, below which the fraction of a share needs n pairs of terms (``_fraction_terms``), at index n."""


@numba.njit(float64(float64, float64), cache=True)
def log_beta(a, b):
    """``log B(a, b)``."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


@numba.njit(float64(float64), cache=True)
def _softplus(w):
    """``log(1 + e^w)`` without overflow."""
    if w > 0.0:
        return w + math.log1p(math.exp(-w))
    return math.log1p(math.exp(w))


@numba.njit(types.UniTuple(float64, 2)(float64, float64, float64, float64), cache=True)
def _series(a, b, c, z):
    """₂F₁(a, b; c; z) by its power series and its largest term; that is -1 without convergence."""
    total, term, largest = 1.0, 1.0, 1.0
    for n in range(_SERIES_TERMS):
        ratio = (a + n) * (b + n) / ((c + n) * (n + 1.0)) * z
        term *= ratio
        total += term
        size = abs(term)
        largest = max(largest, size)
        bound = max(abs(ratio), abs(z))
        settled = n > -b and n > -c and bound < 1.0
        if settled and size * bound < 1e-16 * (1.0 - bound) * abs(total):
            return total, largest
    return total, -1.0


@numba.njit(float64(float64, float64, float64, float64), cache=True)
def _pfaff(c, a, b, v):
    """(1 + v)^(-a) ₂F₁(a, a + b - c; a + b; v/(1+v)) by its series, -1 if that is no good."""
    total, largest = _series(a, a + b - c, a + b, v / (1.0 + v))
    if largest < 0.0 or largest > 100.0 * abs(total):
        return -1.0
    return math.exp(-a * math.log1p(v)) * total


@numba.njit(float64(float64), cache=True)
def _gamma_sign(z):
    """Sign of Γ(z), z not a pole."""
    return 1.0 if z > 0.0 or np.floor(z) % 2.0 == 0.0 else -1.0


@numba.njit(float64(float64, float64, float64, float64), cache=True)
def _reflected(c, a, b, v):
    """The two series in 1/(1+v) (Abramowitz and Stegun 15.3.8), -1 if they cancel.

    They are singular where c - a is an integer, and their sum loses as many digits as the
    terms are larger than it.
    """
    gap = c - a
    if abs(gap - np.round(gap)) < 0.02:
        return -1.0
    w = 1.0 / (1.0 + v)
    first, first_largest = _series(a, a + b - c, 1.0 - gap, w)
    second, second_largest = _series(c, b, 1.0 + gap, w)
    if first_largest < 0.0 or second_largest < 0.0:
        return -1.0
    log_w = math.log(w)
    beta = a + b - c
    scale = math.lgamma(a + b)
    one = math.exp(scale + math.lgamma(gap) - math.lgamma(c) - math.lgamma(b) + a * log_w)
    two = math.exp(scale + math.lgamma(-gap) - math.lgamma(a) - math.lgamma(beta) + c * log_w)
    one *= _gamma_sign(gap)
    two *= _gamma_sign(-gap) * _gamma_sign(beta)
    total = one * first + two * second
    if max(abs(one) * first_largest, abs(two) * second_largest) > 100.0 * abs(total):
        return -1.0
    return total


@numba.njit(float64(float64, float64, float64, float64), cache=True)
def _trapezoid(c, a, b, v):
    """∫ exp(a w) (1 + e^w)^(c-a-b) (1 + (1+v) e^w)^(-c) dw / B(a, b)."""
    q = 1.0 + v
    log_q = math.log(q)
    k = c - a - b
    h = min(0.3, 0.7 / math.sqrt(a))
    # Left of w0 the integrand is e^(a w) times a short power series in e^w, so that the
    # infinitely many nodes there sum to geometric series.
    u0 = 0.3 / (q * (c + _TAIL_TERMS) + abs(k))
    w0 = math.log(u0)
    previous, coefficient = 0.0, 1.0
    left, power = 0.0, 1.0
    for n in range(_TAIL_TERMS):
        left += coefficient * power / -math.expm1(-(a + n) * h)
        power *= u0
        following = ((k - c * q - n * (1.0 + q)) * coefficient + q * (k - c - (n - 1.0)) * previous) / (
            n + 1.0
        )
        previous, coefficient = coefficient, following
    # All terms are scaled by e^-shift, which follows them when they grow.
    total, shift = left, a * w0
    w, before = w0, 1.0
    while True:
        w += h
        if w < 0.0:
            plus, plus_q = math.log1p(math.exp(w)), _softplus(w + log_q)
        else:
            plus, plus_q = _softplus(w), _softplus(w + log_q)
        exponent = a * w + k * plus - c * plus_q - shift
        if exponent > 300.0:
            down = math.exp(-exponent)
            total, before, shift, exponent = total * down, before * down, shift + exponent, 0.0
        term = math.exp(exponent)
        total += term
        if term <= before and term < 1e-17 * total * -math.expm1(-b * h) and (b >= 1.0 or w > 3.0):
            break
        before = term
    return math.exp(math.log(h * total) + shift - log_beta(a, b))


@numba.njit(float64(float64, float64, float64, float64), cache=True)
def beta_power_mean(c, a, b, v):
    """``E[(1 + p v)^(-c)]`` for ``p ~ Beta(a, b)`` and ``v >= 0``: ₂F₁(c, a; a + b; -v).

    Series in ``1 / (1 + v)`` or ``v / (1 + v)`` where one converges within a hundred terms
    without cancellation; otherwise the trapezoidal rule on the whole line for ``w = logit p``,
    whose error falls exponentially with the step (Trefethen and Weideman, 2014, SIAM
    Review 56, 385-458) and whose terms are all positive. Relative error below 5e-11 against
    mpmath at 60 digits for a, b >= 0.05, a up to 200, b and c up to 1,500, v up to 1e12.
    """
    if v == 0.0:
        return 1.0
    value = -1.0
    if v > 1.5 and c < 25.0:
        value = _reflected(c, a, b, v)
    if value <= 0.0:
        value = _pfaff(c, a, b, v)
    if value <= 0.0:
        value = _trapezoid(c, a, b, v)
    return value


@numba.njit(types.int64(float64, float64, float64), cache=True, error_model="numpy")
def _fraction_terms(a, b, v):
    """Pairs of terms of the continued fraction below after which the rest is less than 1e-13 of it.

    Each term takes off the factor (1 - √v)/(1 + √v), from either side of v = 1 (a bound that is met for
    small a and b). Where that would take long, the fraction is evaluated forwards until it has settled.
    """
    root = math.sqrt(min(v, 1.0 / v))
    pairs = 1.5 - 15.0 / math.log(max((1.0 - root) / (1.0 + root), 1e-300))
    if pairs < 17.0:
        return int(pairs)
    c, z = a + b, 1.0 - 1.0 / v
    tail, step, total = 1.0, 1.0, 1.0
    for m in range(int(min(pairs, _MOST_PAIRS))):
        n = m + 1.0
        e = c + 2.0 * n
        down = (e - 2.0) * (e - 1.0)
        tail = down / (down - (a + m) * (c + m) * z * tail)
        step *= tail - 1.0
        total += step
        down = (e - 1.0) * e
        tail = down / (down - n * (b + n) * z * tail)
        step *= tail - 1.0
        total += step
        if abs(step) < 1e-14 * abs(total):
            return m + 2
    return int(min(pairs, _MOST_PAIRS))


@numba.njit(types.UniTuple(float64, 4)(float64, float64, float64), cache=True, error_model="numpy")
def _fraction(a, b, v):
    """₂F₁(1, a; a+b+1; 1 - 1/v) for a >= b v, and its derivatives by a, b and v.

    Gauss's continued fraction 1/(1 - c₁z/(1 - c₂z/(1 - ...))), from its last term on, as p/q.
    """
    c, z = a + b, 1.0 - 1.0 / v
    p, p_a, p_b, p_z = 1.0, 0.0, 0.0, 0.0
    q, q_a, q_b, q_z = 1.0, 0.0, 0.0, 0.0
    for n in range(_fraction_terms(a, b, v), 0, -1):
        m = float(n)
        e = c + 2.0 * m
        # Even terms: m (b + m) / ((e - 1) e).
        up, down, down_c = m * (b + m), (e - 1.0) * e, 2.0 * e - 1.0
        whole, whole_z = down * q, down * q_z
        whole_a, whole_b = down_c * q + down * q_a, down_c * q + down * q_b
        q = whole - z * up * p
        q_a = whole_a - z * up * p_a
        q_b = whole_b - z * (up * p_b + m * p)
        q_z = whole_z - up * (p + z * p_z)
        # Odd terms: (a + m - 1) (c + m - 1) / ((e - 2) (e - 1)).
        m -= 1.0
        up, down, down_c = (a + m) * (c + m), (e - 2.0) * (e - 1.0), 2.0 * e - 3.0
        p, p_a, p_b, p_z, whole, whole_a, whole_b, whole_z = (
            down * q,
            down_c * q + down * q_a,
            down_c * q + down * q_b,
            down * q_z,
            whole,
            whole_a,
            whole_b,
            whole_z,
        )
        q = p - z * up * whole
        q_a = p_a - z * (up * whole_a + (a + c + 2.0 * m) * whole)
        q_b = p_b - z * (up * whole_b + (a + m) * whole)
        q_z = p_z - up * (whole + z * whole_z)
        if q > 1e150:
            scale = 1.0 / q
            p, p_a, p_b, p_z = p * scale, p_a * scale, p_b * scale, p_z * scale
            q, q_a, q_b, q_z = 1.0, q_a * scale, q_b * scale, q_z * scale
    t, over = p / q, 1.0 / q
    return t, (p_a - t * q_a) * over, (p_b - t * q_b) * over, (p_z - t * q_z) * over / (v * v)


@numba.njit(float64(float64, float64, float64), cache=True, error_model="numpy")
def _fraction_value(a, b, v):
    """The first of the numbers of ``_fraction``."""
    c, z = a + b, 1.0 - 1.0 / v
    p, q = 1.0, 1.0
    for n in range(_fraction_terms(a, b, v), 0, -1):
        m = float(n)
        e = c + 2.0 * m
        p, q = (e - 1.0) * e * q, (e - 1.0) * e * q - z * m * (b + m) * p
        m -= 1.0
        p, q = (e - 2.0) * (e - 1.0) * q, (e - 2.0) * (e - 1.0) * q - z * (a + m) * (c + m) * p
        if q > 1e150:
            p, q = p / q, 1.0
    return p / q


@numba.njit(types.UniTuple(float64, 2)(float64, float64, float64), cache=True, error_model="numpy")
def beta_shares(a, b, v):
    """``E[p/(p + v(1-p))]`` and ``E[v(1-p)/(p + v(1-p))]`` for ``p ~ Beta(a, b)``, which sum to 1.

    The smaller is b/(a+b) ₂F₁(1, a; a+b+1; 1 - 1/v), or that with a and b exchanged and 1/v, by Gauss's
    continued fraction: no pole, no cancellation. Relative error of both below 1e-12 for a and b from 0.02
    to 1,500 and v from 1e-6 to 1e6.
    """
    if a >= b * v:
        second = b / (a + b) * _fraction_value(a, b, v)
        return 1.0 - second, second
    first = a / (a + b) * _fraction_value(b, a, 1.0 / v)
    return first, 1.0 - first


@numba.njit(types.UniTuple(float64, 4)(float64, float64, float64), cache=True, error_model="numpy")
def beta_share(a, b, v):
    """The second of :func:`beta_shares`, and its derivatives by a, b and v."""
    c = a + b
    if a >= b * v:
        t, t_a, t_b, t_v = _fraction(a, b, v)
        return b / c * t, b / c * (t_a - t / c), (a / c * t + b * t_b) / c, b / c * t_v
    t, t_b, t_a, t_u = _fraction(b, a, 1.0 / v)
    return 1.0 - a / c * t, -(b / c * t + a * t_a) / c, -a / c * (t_b - t / c), a / c * t_u / (v * v)


@numba.njit(cache=True, error_model="numpy", fastmath={"contract"})
def beta_share_along(a, b, v):
    """:func:`beta_share` along vectors, those of one entry held, shape (4, n): a fifth of its time.

    The same continued fraction, for 32 entries side by side, so that the loop over entries compiles to vector
    instructions: state k of entry j is ``w[k, j]``. Each entry has the terms that it needs: it enters late,
    and what stands beside it changes no bit of it. Entries that need many terms, or so large ones that a
    product of a few might overflow, are left to :func:`beta_share`.
    """
    n = max(len(a), len(b), len(v)) if min(len(a), len(b), len(v)) > 0 else 0
    step_a, step_b, step_v = int(len(a) > 1), int(len(b) > 1), int(len(v) > 1)
    out = np.empty((4, n))
    w = np.empty((14, _LANES))
    bound = _LEAST[_FEW]
    for first in range(0, n, _LANES):
        here = min(_LANES, n - first)
        for j in range(_LANES):
            i = first + min(j, here - 1)
            w[0, j], w[1, j], w[2, j] = a[i * step_a], b[i * step_b], v[i * step_v]
        for j in range(_LANES):
            A, B, V = w[0, j], w[1, j], w[2, j]
            inverse = 1.0 / V
            least = V if inverse > 1.0 else inverse
            few = (least >= bound) & (A + B <= _LARGE)
            hard = (least < bound) | (A + B > _LARGE)
            turned = A < B * V
            w[3, j] = 1.0 if turned else 0.0
            w[0, j], w[1, j], w[2, j] = (
                B if turned else A,
                A if turned else B,
                1.0 - (V if turned else inverse),
            )
            w[4, j], w[5, j], w[6, j], w[7, j] = 1.0, 0.0, 0.0, 0.0
            w[8, j], w[9, j], w[10, j], w[11, j] = 1.0, 0.0, 0.0, 0.0
            w[12, j] = least if few else (2.0 if hard else 1.0)
            w[13, j] = w[12, j]
        for half in (16, 8, 4, 2, 1):
            for j in range(half):
                w[13, j] = w[13, j] if w[13, j] < w[13, j + half] else w[13, j + half]
        terms = 1
        while w[13, 0] < _LEAST[terms + 1]:
            terms += 1
        for term in range(terms, 0, -1):
            enough, m = _LEAST[term], float(term)
            for j in range(_LANES):
                A, B, z = w[0, j], w[1, j], w[2, j]
                p, p_a, p_b, p_z = w[4, j], w[5, j], w[6, j], w[7, j]
                q, q_a, q_b, q_z = w[8, j], w[9, j], w[10, j], w[11, j]
                live = w[12, j] < enough
                # Even terms, as in ``_fraction``.
                c = A + B
                e = c + 2.0 * m
                up, down, down_c = m * (B + m), (e - 1.0) * e, 2.0 * e - 1.0
                whole, whole_z = down * q, down * q_z
                whole_a, whole_b = down_c * q + down * q_a, down_c * q + down * q_b
                r = whole - z * up * p
                r_a = whole_a - z * up * p_a
                r_b = whole_b - z * (up * p_b + m * p)
                r_z = whole_z - up * (p + z * p_z)
                # Odd terms.
                up, down = (A + (m - 1.0)) * (c + (m - 1.0)), (e - 2.0) * (e - 1.0)
                down_c = 2.0 * e - 3.0
                s, s_z = down * r, down * r_z
                s_a, s_b = down_c * r + down * r_a, down_c * r + down * r_b
                w[4, j] = s if live else p
                w[5, j] = s_a if live else p_a
                w[6, j] = s_b if live else p_b
                w[7, j] = s_z if live else p_z
                w[8, j] = s - z * up * whole if live else q
                w[9, j] = s_a - z * (up * whole_a + (A + c + (2.0 * m - 2.0)) * whole) if live else q_a
                w[10, j] = s_b - z * (up * whole_b + (A + (m - 1.0)) * whole) if live else q_b
                w[11, j] = s_z - up * (whole + z * whole_z) if live else q_z
        for j in range(_LANES):
            A, B, u = w[0, j], w[1, j], 1.0 - w[2, j]
            over, each = 1.0 / w[8, j], 1.0 / (A + B)
            t = w[4, j] * over
            t_a = (w[5, j] - t * w[9, j]) * over
            t_b = (w[6, j] - t * w[10, j]) * over
            t_z = (w[7, j] - t * w[11, j]) * over
            share, by_a = B * each * t, B * each * (t_a - t * each)
            by_b, by_v = (A * each * t + B * t_b) * each, B * each * t_z
            turned = w[3, j] == 1.0
            w[4, j] = 1.0 - share if turned else share
            w[5, j] = -by_b if turned else by_a
            w[6, j] = -by_a if turned else by_b
            w[7, j] = by_v if turned else by_v * u * u
        for j in range(here):
            i = first + j
            out[0, i], out[1, i], out[2, i], out[3, i] = w[4, j], w[5, j], w[6, j], w[7, j]
        for j in range(here):
            if w[12, j] > 1.0:
                i = first + j
                one = beta_share(a[i * step_a], b[i * step_b], v[i * step_v])
                out[0, i], out[1, i], out[2, i], out[3, i] = one
    return out


@numba.njit(float64(float64), cache=True)
def _digamma(z):
    """ψ(z), z at least 32: four terms of its asymptotic series leave less than 1e-15."""
    u = 1.0 / (z * z)
    return math.log(z) - 0.5 / z - u * (1.0 / 12.0 - u * (1.0 / 120.0 - u * (1.0 / 252.0 - u / 240.0)))


@numba.njit(float64(float64, float64), cache=True)
def _rising(z, n):
    """``log Γ(z + n)/Γ(z)``, z at least 32, without the cancellation of two large logarithms."""
    w = z + n
    u, v = 1.0 / (z * z), 1.0 / (w * w)
    tail = (1.0 / 12.0 - v * (1.0 / 360.0 - v * (1.0 / 1260.0 - v / 1680.0))) / w
    tail -= (1.0 / 12.0 - u * (1.0 / 360.0 - u * (1.0 / 1260.0 - u / 1680.0))) / z
    return (z - 0.5) * math.log1p(n / z) + n * (math.log(w) - 1.0) + tail


@numba.njit(types.UniTuple(float64, 3)(float64, float64, float64), cache=True, error_model="numpy")
def beta_staying(a, b, n):
    """``log E[(1-p)^n]``, p ~ Beta(a, b), n a whole number, and its derivatives by a and b.

    The product of (b + i)/(a + b + i) over i < n, and for i from 32 on the difference of two log beta
    functions by Stirling's series, whose first term left out is below 1e-16 there.
    """
    most = min(n, 32.0)
    product, value, by_a, by_b = 1.0, 0.0, 0.0, 0.0
    i = 0.0
    while i < most:
        whole = a + b + i
        product *= (b + i) / whole
        by_a -= 1.0 / whole
        by_b += a / ((b + i) * whole)
        if product < 1e-150:
            value += math.log(product)
            product = 1.0
        i += 1.0
    value += math.log(product)
    if n > most:
        one, other = b + most, a + b + most
        more = n - most
        value += _rising(one, more) - _rising(other, more)
        of_one, of_other = _digamma(one + more) - _digamma(one), _digamma(other + more) - _digamma(other)
        by_a -= of_other
        by_b += of_one - of_other
    return value, by_a, by_b


@numba.njit(float64(float64, float64), cache=True)
def against(odds, exponent):
    """``1 / (1 + odds e^exponent)`` without overflow."""
    if exponent > 600.0:
        return math.exp(-exponent) / odds
    return 1.0 / (1.0 + odds * math.exp(exponent))


@numba.njit(float64(float64, float64), cache=True)
def logistic_of_difference(log_dead, log_alive):
    """``1 / (1 + exp(log_dead - log_alive))`` without overflow."""
    z = log_dead - log_alive
    if z > 0.0:
        small = math.exp(-z)
        return small / (1.0 + small)
    return 1.0 / (1.0 + math.exp(z))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing their mean: ``scipy.stats.rankdata``, whose import takes 1 s."""
    _, index, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[index]
