"""Functions of scalars and tensors, one home for each.

Inside an index expression they take and give scalars; on tensors they work element by element,
broadcasting like numpy, and give a new tensor.  Reductions take axes made with `reduce_axis` inside
an index expression, and dimensions (``axis=0``) on tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Union, overload

from tensordsl import array, dtypes, expr
from tensordsl.dtypes import DTypeLike
from tensordsl.errors import ProgramError, user_location
from tensordsl.expr import REDUCERS, Expr, Reduce
from tensordsl.tensor import Axes, ReduceAxis, Tensor

Scalar = Union[Expr, complex]
Operand = Union[Tensor, Expr, complex]
ReduceAxes = Union[ReduceAxis, Sequence[ReduceAxis]]


class Unary(Protocol):
    """A function of one real number, or of every element of a tensor."""

    @overload
    def __call__(self, x: Tensor) -> Tensor: ...
    @overload
    def __call__(self, x: Scalar) -> Expr: ...


class Binary(Protocol):
    """A function of two numbers, or of tensors element by element."""

    @overload
    def __call__(self, x: Tensor, y: Tensor | float) -> Tensor: ...
    @overload
    def __call__(self, x: float, y: Tensor) -> Tensor: ...
    @overload
    def __call__(self, x: Scalar, y: Scalar) -> Expr: ...


def _unary(name: str, meaning: str, formula: Callable[[Any], Expr] | None = None) -> Unary:
    scalar = formula or functools.partial(expr.unary, name)

    def function(x: Any) -> Any:
        return array.lift(name, scalar, x)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{meaning}  Integers are computed in float32."
    return function


def _binary(name: str, operation: str, meaning: str) -> Binary:
    def function(x: Any, y: Any) -> Any:
        return array.lift(name, functools.partial(expr.binary, operation), x, y)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = meaning
    return function


# ---------------------------------------------------------------- functions of reals

exp = _unary("exp", "e to the power x.")
exp2 = _unary("exp2", "2 to the power x.")
log = _unary("log", "The natural logarithm.")
log2 = _unary("log2", "The logarithm to base 2.")
sqrt = _unary("sqrt", "The square root.")
rsqrt = _unary("rsqrt", "1 / sqrt(x).")
tanh = _unary("tanh", "The hyperbolic tangent.")
erf = _unary("erf", "The error function.")
sin = _unary("sin", "The sine of x radians.")
cos = _unary("cos", "The cosine of x radians.")
floor = _unary("floor", "The greatest integer not above x, in x's type.")
ceil = _unary("ceil", "The least integer not below x, in x's type.")
round = _unary("round", "The nearest integer, in x's type; the even one of two that are as near.")
rint = round  #: the name numpy and C give to it
sigmoid = _unary("sigmoid", "1 / (1 + exp(-x)).", lambda x: 1.0 / (1.0 + expr.unary("exp", -x)))


real = _unary("real", "The real part of a complex number.")
imag = _unary("imag", "The imaginary part of a complex number.")
conj = _unary("conj", "The complex conjugate: the imaginary part with the other sign.")


def _square(x: Expr) -> Expr:
    return x * x


square = _unary("square", "x * x, in x's type.", _square)


@overload
def abs(x: Tensor) -> Tensor: ...
@overload
def abs(x: Scalar) -> Expr: ...
def abs(x: Any) -> Any:
    """The absolute value, in x's type; of a complex number, in the type of its parts."""
    return array.lift("abs", functools.partial(expr.unary, "abs"), x)


# ---------------------------------------------------------------- functions of two numbers

maximum = _binary("maximum", "max", "The larger of two numbers; nan where one is nan.")
minimum = _binary("minimum", "min", "The smaller of two numbers; nan where one is nan.")
pow = _binary("pow", "pow", "x to the power y, a float.")
equal = _binary("equal", "eq", "x == y as a condition (== itself compares tensors by identity).")
not_equal = _binary("not_equal", "ne", "x != y as a condition.")


def clip(x: Any, low: Any, high: Any) -> Any:
    """The nearest number in ``low..high`` (both included): ``minimum(maximum(x, low), high)``."""
    return minimum(maximum(x, low), high)


# ---------------------------------------------------------------- choices and types


@overload
def select(condition: Scalar, then: Scalar, otherwise: Scalar) -> Expr: ...
@overload
def select(condition: Operand, then: Operand, otherwise: Operand) -> Any: ...
def select(condition: Any, then: Any, otherwise: Any) -> Any:
    """``then`` where the condition holds, else ``otherwise``; only the chosen side is evaluated."""
    if isinstance(condition, bool):
        raise ProgramError(
            f"the condition of select is {condition}, a value of Python",
            hint="== and != compare tensors as objects: td.equal(x, y); Python's own values need only Python's if",
        )
    return array.lift("select", expr.select, condition, then, otherwise)


where = select  #: the name numpy gives to it


@overload
def cast(x: Tensor, dtype: DTypeLike) -> Tensor: ...
@overload
def cast(x: Scalar, dtype: DTypeLike) -> Expr: ...
def cast(x: Any, dtype: DTypeLike) -> Any:
    """x converted to a dtype: towards zero from float to integer, wrapping around into integers."""
    to = dtypes.dtype(dtype)
    return array.lift(f"{to}", lambda e: expr.cast(e, to), x, label="cast")


# ---------------------------------------------------------------- reductions


def _reduce(name: str, value: Any, axis: Any, keepdims: bool, where: Any = None) -> Any:
    if isinstance(value, Tensor) and (value.ndim or not _is_reduce_axis(axis)):
        if _is_reduce_axis(axis):
            raise ProgramError(
                f"{name}: axis of tensor {value.name} is a reduce_axis",
                hint=f"use a dimension, td.{name}({value.name}, axis=0), or index the tensor",
            )
        if where is not None:
            raise ProgramError(
                f"{name}: where needs index notation", hint=f"td.{name}(td.select(condition, x, ...)) on tensors"
            )
        return array.reduce(name, value, axis, keepdims)
    if keepdims:
        raise ProgramError(f"{name}: keepdims needs a tensor")
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    for a in axes:
        if not isinstance(a, ReduceAxis):
            raise ProgramError(f"{name}: axis={a} is not an axis to reduce over", hint="make it with td.reduce_axis")
    names = [a.axis.name for a in axes]
    for n in names:
        if names.count(n) > 1:
            raise ProgramError(f"{name}: two axes are named {n!r}", hint="td.reduce_axis(size, name=...)")
    body = expr.expression(value)
    if body.dtype.kind == "b" and name in ("sum", "prod"):
        body = expr.cast(body, "int64")
    if body.dtype.is_complex and name in ("max", "min"):
        raise ProgramError(f"{name}: complex numbers have no order", hint="reduce td.abs, td.real or td.imag")
    reduction = Reduce(REDUCERS[name], tuple(a.axis for a in axes), expr.operand(body), user_location())
    return reduction if where is None else expr.where(reduction, expr.expression(where))


def _is_reduce_axis(axis: Any) -> bool:
    first = axis[0] if isinstance(axis, (tuple, list)) and axis else axis
    return isinstance(first, ReduceAxis)


@overload
def sum(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor: ...
@overload
def sum(x: Scalar, axis: ReduceAxes, *, where: Expr | None = None) -> Expr: ...
def sum(x: Any, axis: Any = None, keepdims: bool = False, *, where: Any = None) -> Any:
    """The sum over axes; of conditions, their number.

    where: a condition on the indices; other terms do not count (an affine one shortens the loops).
    """
    return _reduce("sum", x, axis, keepdims, where)


@overload
def prod(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor: ...
@overload
def prod(x: Scalar, axis: ReduceAxes, *, where: Expr | None = None) -> Expr: ...
def prod(x: Any, axis: Any = None, keepdims: bool = False, *, where: Any = None) -> Any:
    """The product over axes.  where: as in `sum`."""
    return _reduce("prod", x, axis, keepdims, where)


def _extreme(name: str, values: tuple[Any, ...], axis: Any, keepdims: bool, where: Any) -> Any:
    if len(values) == 1:
        return _reduce(name, values[0], axis, keepdims, where)
    if not values or axis is not None or keepdims or where is not None:
        raise ProgramError(
            f"{name} takes one value to reduce over an axis, or several values to compare, "
            f"got {len(values)}{' and an axis' if axis is not None else ''}"
        )
    return functools.reduce(lambda a, b: array.lift(name, functools.partial(expr.binary, name), a, b), values)


@overload
def max(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Tensor: ...
@overload
def max(x: Scalar, /, *, axis: ReduceAxes, where: Expr | None = None) -> Expr: ...
@overload
def max(x: Tensor, y: Tensor | float, /, *more: Tensor | float) -> Tensor: ...
@overload
def max(x: float, y: Tensor, /, *more: Tensor | float) -> Tensor: ...
@overload
def max(x: Scalar, y: Scalar, /, *more: Scalar) -> Expr: ...
def max(*values: Any, axis: Any = None, keepdims: bool = False, where: Any = None) -> Any:
    """The largest value over axes, or of several values (nan where one is nan).  where: as in `sum`."""
    return _extreme("max", values, axis, keepdims, where)


@overload
def min(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Tensor: ...
@overload
def min(x: Scalar, /, *, axis: ReduceAxes, where: Expr | None = None) -> Expr: ...
@overload
def min(x: Tensor, y: Tensor | float, /, *more: Tensor | float) -> Tensor: ...
@overload
def min(x: float, y: Tensor, /, *more: Tensor | float) -> Tensor: ...
@overload
def min(x: Scalar, y: Scalar, /, *more: Scalar) -> Expr: ...
def min(*values: Any, axis: Any = None, keepdims: bool = False, where: Any = None) -> Any:
    """The smallest value over axes, or of several values (nan where one is nan).  where: as in `sum`."""
    return _extreme("min", values, axis, keepdims, where)
