"""The meaning of the scalar operations, on numpy arrays.

Floats follow numpy (inf and nan, never an exception); integers are exact and wrap around as in their
types; ``//`` and ``%`` are Python's.  What has no value (an integer division by zero, nan as an
integer) raises `Undefined` at the points where it is really needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tensordsl.dtypes import DType, TupleType

Array = npt.NDArray[Any]
#: "float64": floats are computed in float64 whatever their type; "float32": in their own type
#: (narrower ones in float32, each result rounded).
Precision = Literal["float64", "float32"]


class Undefined(Exception):
    """An operation without a value.  where: the points at fault (broadcastable over the domain)."""

    def __init__(self, message: str, where: Array) -> None:
        super().__init__(message)
        self.message, self.where = message, where


def numpy_type(t: DType, precision: Precision) -> np.dtype[Any]:
    """The numpy type in which values of a DType are computed and stored."""
    if isinstance(t, TupleType):
        return np.dtype([(f"part{n}", numpy_type(p, precision)) for n, p in enumerate(t.parts)])
    if t.is_complex and precision == "float64":
        return np.dtype(np.complex128)
    return np.dtype(np.float64) if t.is_float and precision == "float64" else t.computed.numpy


def rounded(value: Array, t: DType) -> Array:
    """Values of a type that are held in a wider one, rounded to it."""
    if isinstance(t, TupleType) or t.computed is t or not t.is_float:
        return value
    with np.errstate(over="ignore"):
        return value.astype(t.numpy).astype(value.dtype)


def _erf(x: Array) -> Array:
    """The error function; numpy has none, so Python's is applied point by point."""
    values = np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size)
    return values.reshape(x.shape).astype(x.dtype)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "pow": np.power,
    "max": np.maximum,
    "min": np.minimum,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "neg": np.negative,
    "abs": np.abs,
    "real": np.real,
    "imag": np.imag,
    "conj": np.conj,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "tanh": np.tanh,
    "erf": _erf,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
}

#: name of a reducer -> the numpy function whose ``.reduce`` it is
UFUNCS: dict[str, np.ufunc] = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


def apply(name: str, args: list[Array], mask: Array | None = None) -> Array:
    """An operation on arrays of one type (see `convert` for casts).  mask: where its value is needed."""
    if name in ("floordiv", "mod") and args[1].dtype.kind in "iu":
        zero = args[1] == 0
        if zero.any():
            _require(~zero, mask, "integer division by zero")
            args = [args[0], np.where(zero, np.ones_like(args[1]), args[1])]
    return _FUNCTIONS[name](*args)  # type: ignore[no-any-return]


def convert(value: Array, to: np.dtype[Any], mask: Array | None = None) -> Array:
    """A value in another type: towards zero from float to integer, wrapping around into integers."""
    if value.dtype.kind != "f" or to.kind not in "iu":
        return value.astype(to)
    finite = np.isfinite(value)
    if not finite.all():
        _require(finite, mask, f"infinity or nan has no value of type {to}")
        value = np.where(finite, value, 0)
    whole = np.trunc(value.astype(np.float64))
    if (np.abs(whole) < 2.0**63).all():
        return whole.astype(np.int64).astype(to)
    size = np.fmod(np.abs(whole), 2.0**64).astype(np.uint64)  # fmod is exact
    return np.where(whole < 0, np.zeros_like(size) - size, size).astype(to)


def _require(holds: Array, mask: Array | None, message: str) -> None:
    fault = ~holds if mask is None else ~holds & mask
    if fault.any():
        raise Undefined(message, fault)
