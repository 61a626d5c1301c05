"""``beta_share`` and ``beta_staying`` as operations of PyTensor.

Numba compiles them, as the families' other scalars. PyTensor keeps compiled code on disk under a key of
the operation, which here holds the source of the functions too.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from pytensor.link.numba.dispatch.basic import numba_njit
from pytensor.link.numba.dispatch.scalar import register_scalar_funcify, scalar_op_cache_key
from pytensor.scalar.basic import ScalarOp, float64
from pytensor.tensor.elemwise import Elemwise

from clvmodels.numerics import special


class BetaShare(ScalarOp):
    """``E[v(1-p)/(p + v(1-p))]``, p ~ Beta(a, b), and its derivatives by a, b and v."""

    nin = 3
    nout = 4
    costly = True
    """Worth computing once for each distinct pair of what two columns hold."""

    def impl(self, a: float, b: float, v: float) -> tuple[float, ...]:
        return tuple(special.beta_share(float(a), float(b), float(v)))

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        return [cotangents[0] * slope for slope in outputs[1:]]


class BetaStaying(ScalarOp):
    """``log E[(1-p)^n]``, p ~ Beta(a, b), and its derivatives by a and b; n is data and has none."""

    nin = 3
    nout = 3
    costly = True

    def impl(self, a: float, b: float, n: float) -> tuple[float, ...]:
        return tuple(special.beta_staying(float(a), float(b), float(n)))

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        return [*(cotangents[0] * slope for slope in outputs[1:]), inputs[2].zeros_like(dtype="float64")]


@cache
def _source() -> str:
    return sha256(Path(special.__file__).read_bytes()).hexdigest()


@register_scalar_funcify(BetaShare)
def _compiled(op: BetaShare, node: Any, **kwargs: Any) -> Any:
    scalar = special.beta_share

    @numba_njit
    def share(a, b, v):
        return scalar(float(a), float(b), float(v))

    return share, scalar_op_cache_key(op, source=_source())


@register_scalar_funcify(BetaStaying)
def _compiled_staying(op: BetaStaying, node: Any, **kwargs: Any) -> Any:
    scalar = special.beta_staying

    @numba_njit
    def staying(a, b, n):
        return scalar(float(a), float(b), float(n))

    return staying, scalar_op_cache_key(op, source=_source())


def _three(*types: Any) -> tuple[Any, ...]:
    return (float64,) * 3


def _four(*types: Any) -> tuple[Any, ...]:
    return (float64,) * 4


_op = Elemwise(BetaShare(_four, name="beta_share"))


def beta_share(a: Any, b: Any, v: Any) -> Any:
    """``E[v(1-p)/(p + v(1-p))]``, p ~ Beta(a, b)."""
    return _op(a, b, v)[0]


_staying = Elemwise(BetaStaying(_three, name="beta_staying"))


def beta_staying(a: Any, b: Any, n: Any) -> Any:
    """``log E[(1-p)^n]``, p ~ Beta(a, b), n whole."""
    return _staying(a, b, n)[0]
