"""Compiled functions of numbers, with their derivatives, as operations of PyTensor.

Numba compiles them, as the families' other scalars. PyTensor keeps compiled code on disk under a key of
the operation, which here holds the source of the functions too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from pytensor.link.numba.dispatch.basic import numba_njit
from pytensor.link.numba.dispatch.scalar import register_scalar_funcify, scalar_op_cache_key
from pytensor.scalar.basic import ScalarOp, float64
from pytensor.tensor.elemwise import Elemwise

from clvmodels.numerics import special


class WithSlopes(ScalarOp):
    """A function that gives its value, then its derivatives by its first arguments; the others are data."""

    scalar: Any
    costly = True
    """Worth computing once for each distinct pair of what two columns hold."""

    def impl(self, *values: float) -> tuple[float, ...]:
        return tuple(self.scalar(*map(float, values)))

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        slopes = [cotangents[0] * slope for slope in outputs[1:]]
        return [*slopes, *(data.zeros_like(dtype="float64") for data in inputs[len(slopes) :])]


@register_scalar_funcify(WithSlopes)
def _compiled(op: WithSlopes, node: Any, **kwargs: Any) -> Any:
    scalar = op.scalar

    @numba_njit
    def with_slopes(*values):
        return scalar(*values)

    return with_slopes, scalar_op_cache_key(op, source=_source(scalar.py_func.__code__.co_filename))


@cache
def _source(file: str) -> str:
    return sha256(Path(special.__file__).read_bytes() + Path(file).read_bytes()).hexdigest()


@cache
def operation(scalar: Any) -> Callable[..., Any]:
    """The value of a compiled function, elementwise, for graphs.

    Parameters
    ----------
    scalar
        Of one signature: numbers to a tuple of the value and its derivatives by the first arguments.
    """
    ((result, inputs),) = ((one.return_type, one.args) for one in scalar.nopython_signatures)
    members = {"nin": len(inputs), "nout": len(result), "scalar": staticmethod(scalar)}
    kind = type(scalar.py_func.__name__, (WithSlopes,), members)
    op = Elemwise(kind(lambda *types: (float64,) * len(result), name=scalar.py_func.__name__))
    return lambda *values: op(*values)[0]


def beta_share(a: Any, b: Any, v: Any) -> Any:
    """``E[v(1-p)/(p + v(1-p))]``, p ~ Beta(a, b)."""
    return operation(special.beta_share)(a, b, v)


def beta_staying(a: Any, b: Any, n: Any) -> Any:
    """``log E[(1-p)^n]``, p ~ Beta(a, b), n whole: data."""
    return operation(special.beta_staying)(a, b, n)
