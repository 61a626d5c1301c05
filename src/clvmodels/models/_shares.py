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

import pytensor.tensor as pt
from pytensor.graph import Apply, Op
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_and_cache_key
from pytensor.link.numba.dispatch.scalar import register_scalar_funcify, scalar_op_cache_key
from pytensor.scalar.basic import ScalarOp, float64
from pytensor.tensor.elemwise import Elemwise

from clvmodels.numerics import special


class BetaShare(Op):
    """``E[v(1-p)/(p + v(1-p))]``, p ~ Beta(a, b), and its derivatives by a, b and v, along vectors.

    No ``Elemwise``, whose entries are computed one by one.
    """

    __props__ = ()
    costly = True
    """Worth computing once for each distinct pair of what two columns hold."""

    def make_node(self, *inputs: Any) -> Any:
        vectors = [pt.as_tensor_variable(i, dtype="float64") for i in inputs]
        shape = (1,) if all(i.type.broadcastable[0] for i in vectors) else (None,)
        return Apply(self, vectors, [pt.tensor(dtype="float64", shape=shape) for _ in range(4)])

    def perform(self, node: Any, inputs: Any, output_storage: Any) -> None:
        for storage, row in zip(output_storage, special.beta_share_along(*inputs), strict=True):
            storage[0] = row

    def infer_shape(self, node: Any, shapes: Any) -> list[Any]:
        long = [s for i, s in zip(node.inputs, shapes, strict=True) if not i.type.broadcastable[0]]
        return [(long or shapes)[0]] * 4

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        slopes = [cotangents[0] * slope for slope in outputs[1:]]
        return [
            slope.sum(keepdims=True) if i.type.broadcastable[0] else slope
            for i, slope in zip(inputs, slopes, strict=True)
        ]


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


@register_funcify_and_cache_key(BetaShare)
def _compiled_share(op: BetaShare, node: Any, **kwargs: Any) -> Any:
    along = special.beta_share_along

    @numba_njit
    def share(a, b, v):
        out = along(a, b, v)
        return out[0], out[1], out[2], out[3]

    return share, _source(special.__file__)


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
    """``E[v(1-p)/(p + v(1-p))]``, p ~ Beta(a, b); scalars or vectors, at least one of these."""
    return BetaShare()(*(pt.atleast_1d(i) for i in (a, b, v)))[0]


def beta_staying(a: Any, b: Any, n: Any) -> Any:
    """``log E[(1-p)^n]``, p ~ Beta(a, b), n whole: data."""
    return operation(special.beta_staying)(a, b, n)
