"""Reductions that say more of many values than their sum: mean, variance, position of the largest, and others.

Written in the language itself.  In index notation they take a term and axes made with `reduce_axis`, on
tensors dimensions (``axis=0``), as numpy's functions of the same names.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Union, overload

from tensordsl import array, conditions, counts, dtypes, expr
from tensordsl.affine import Affine
from tensordsl.errors import Location, ProgramError, user_location
from tensordsl.expr import REDUCERS, Axis, Expr, Index, Read, Reduce
from tensordsl.monoids import UserReducer, reduce_axes, reduce_axes_given, reduced_dimensions
from tensordsl.sizes import at_most
from tensordsl.tensor import Axes, ReduceAxis, Tensor, define

__all__ = ["all", "any", "argmax", "argmin", "logsumexp", "mean", "std", "var"]

Scalar = Union[Expr, float]
ReduceAxes = Union[ReduceAxis, Sequence[ReduceAxis]]
#: What a reduction is: of a term, axes, a condition for a term to count (or None), the user's line.
Formula = Callable[[Expr, tuple[Axis, ...], Any, Union[Location, None]], Expr]


class Summary(Protocol):
    """A reduction of a term over axes, or of a tensor over dimensions."""

    @overload
    def __call__(self, x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor: ...
    @overload
    def __call__(self, x: Scalar, axis: ReduceAxes, *, where: Expr | None = None) -> Expr: ...


class Spread(Protocol):
    """The same with numpy's ``ddof``: what is subtracted from the number of values before dividing by it."""

    @overload
    def __call__(self, x: Tensor, axis: Axes = None, keepdims: bool = False, *, ddof: int = 0) -> Tensor: ...
    @overload
    def __call__(self, x: Scalar, axis: ReduceAxes, *, where: Expr | None = None, ddof: int = 0) -> Expr: ...


def _reduced(name: str, formula: Formula, x: Any, axis: Any, keepdims: bool, where: Any) -> Any:
    if isinstance(x, Tensor) and (x.ndim or not reduce_axes_given(axis)):
        if reduce_axes_given(axis):
            raise ProgramError(
                f"{name}: axis of tensor {x.name} is a reduce_axis",
                hint=f"use a dimension, td.{name}({x.name}, axis=0), or index the tensor",
            )
        if where is not None:
            raise ProgramError(f"{name}: where needs index notation")
        kept, over, index = reduced_dimensions(name, x, axis, keepdims)
        return define(kept, formula(x[index], over, None, user_location()), None, label=array.derived(x, name))
    if keepdims:
        raise ProgramError(f"{name}: keepdims needs a tensor")
    condition = None if where is None else expr.expression(where)
    return formula(expr.expression(x), reduce_axes(name, axis), condition, user_location())


def _summary(name: str, formula: Formula, meaning: str) -> Summary:
    def function(x: Any, axis: Any = None, keepdims: bool = False, *, where: Any = None) -> Any:
        return _reduced(name, formula, x, axis, keepdims, where)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = meaning
    return function


def _reduce(name: str, e: Expr, axes: tuple[Axis, ...], where: Expr | None, location: Location | None) -> Expr:
    reduction = Reduce(REDUCERS[name], axes, e, location)
    return reduction if where is None else conditions.where(reduction, where)


def _count(name: str, axes: tuple[Axis, ...], least: int = 1) -> int:
    count = math.prod(a.extent for a in axes)
    if count < least:
        raise ProgramError(f"{name}: there are no elements along {', '.join(a.name for a in axes)}")
    return count


def _float(e: Expr) -> Expr:
    return e if e.dtype.is_float else expr.cast(e, "float32")


# ---------------------------------------------------------------- of conditions


def _condition(e: Expr) -> Expr:
    return e if e.dtype.kind == "b" else expr.binary("ne", e, 0)


def _any(e: Expr, axes: tuple[Axis, ...], where: Expr | None, location: Location | None) -> Expr:
    return _reduce("max", _condition(e), axes, where, location)


def _all(e: Expr, axes: tuple[Axis, ...], where: Expr | None, location: Location | None) -> Expr:
    return _reduce("min", _condition(e), axes, where, location)


any = _summary("any", _any, "Does a condition hold anywhere?  (Of numbers: is one not zero?)  False of nothing.")
all = _summary("all", _all, "Does a condition hold everywhere?  (Of numbers: is none zero?)  True of nothing.")


# ---------------------------------------------------------------- mean and variance


def _mean(e: Expr, axes: tuple[Axis, ...], where: Expr | None, location: Location | None) -> Expr:
    e = _float(e)
    count: Expr = counts.number(_count("mean", axes), e.dtype)
    if where is not None:
        count = _reduce("sum", expr.constant(1.0, e.dtype), axes, where, location)
    return _reduce("sum", e, axes, where, location) / count


mean = _summary("mean", _mean, "The mean; of integers, in float32.  where: the mean of the terms that count.")


def _merge(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Count, mean and sum of squared distances from it of two parts together.

    T. Chan, G. Golub, R. LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    (n, m, q), (k, p, r) = a, b
    both, apart = n + k, p - m
    share = k / expr.binary("max", both, 1.0)
    return both, m + apart * share, q + r + apart * apart * n * share


#: One pass over the values.  Twice as fast as two passes where they do not fit the cache.
MOMENTS = UserReducer("moments", (0.0, 0.0, 0.0), _merge, lambda x: (1.0, x, 0.0), True)


def _var(ddof: int, e: Expr, axes: tuple[Axis, ...], where: Expr | None, location: Location | None) -> Expr:
    e = _float(e)
    number = _count("var", axes, ddof + 1)
    if where is None and isinstance(e, Read):  # counted from the first value, a large mean costs no digits
        e = e - expr.substitute(e, {a.name: Affine() for a in axes})
    count, center, squares = MOMENTS.reduction((e,), axes, where, location)
    squares = squares + center * 0.0  # nan where a value is infinite, in any order
    return squares / (counts.number(number - ddof, e.dtype) if where is None else count - float(ddof))  # type: ignore[no-any-return]


def _std(ddof: int, e: Expr, axes: tuple[Axis, ...], where: Expr | None, location: Location | None) -> Expr:
    return expr.unary("sqrt", _var(ddof, e, axes, where, location))


def _spread(name: str, formula: Callable[..., Expr], meaning: str) -> Spread:
    def function(x: Any, axis: Any = None, keepdims: bool = False, *, where: Any = None, ddof: int = 0) -> Any:
        return _reduced(name, functools.partial(formula, ddof), x, axis, keepdims, where)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = meaning
    return function


var = _spread("var", _var, "The variance, in one pass; of integers, in float32.")
std = _spread("std", _std, "The standard deviation, the root of `var`.")


# ---------------------------------------------------------------- log-sum-exp


def _logsumexp(e: Expr, axes: tuple[Axis, ...], where: Expr | None, location: Location | None) -> Expr:
    # the plain definition: one exponential a term, where a pass with a running maximum takes two
    e = _float(e)
    top = _reduce("max", e, axes, where, location)
    shift = expr.select(expr.binary("eq", expr.unary("abs", top), math.inf), 0.0, top)
    return shift + expr.unary("log", _reduce("sum", expr.unary("exp", e - shift), axes, where, location))


logsumexp = _summary("logsumexp", _logsumexp, "log(sum(exp(x))) without overflow; -inf of nothing.")


# ---------------------------------------------------------------- positions


def _better(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The larger value with its position; of equal values, the lower position."""
    (v, i), (w, j) = a, b
    take = (w > v) | (expr.binary("eq", w, v) & (j < i))
    return expr.select(take, w, v), expr.select(take, j, i)


def _worse(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> tuple[Expr, ...]:
    (v, i), (w, j) = a, b
    take = (w < v) | (expr.binary("eq", w, v) & (j < i))
    return expr.select(take, w, v), expr.select(take, j, i)


LARGEST = UserReducer("argmax", (-math.inf, math.inf), _better, None, True)
SMALLEST = UserReducer("argmin", (math.inf, math.inf), _worse, None, True)


def _position(
    chosen: UserReducer, e: Expr, axes: tuple[Axis, ...], where: Expr | None, location: Location | None
) -> Expr:
    """The position of an extreme value.

    As in numpy a nan beats every number, and the first one counts.  A comparison with nan says nothing, so it is
    kept as the best number there is, at a position below all others: ``position - low``.
    """
    count = _count(chosen.name, axes)
    short = at_most(count, 1 << 30)
    kind, low = (dtypes.int32, 1 << 30) if short else (dtypes.int64, 1 << 62)
    position, step = Affine(), 1
    for a in reversed(axes):
        position, step = position + Affine.of(a.name) * step, step * a.extent
    at = expr.cast(Index(position), kind)
    if e.dtype.kind == "b":
        e = expr.cast(e, "uint8")
    if e.dtype.is_float:
        nan = expr.binary("ne", e, e)
        best = math.inf if chosen is LARGEST else -math.inf
        e, at = expr.select(nan, best, e), expr.select(nan, at - expr.constant(low, kind), at)
    _, found = chosen.reduction((e, at), axes, where, location)
    place = expr.binary("and", found, expr.constant(low - 1, kind)) if e.dtype.is_float else found
    if where is not None:
        place = expr.select(expr.binary("eq", found, REDUCERS["min"].identity(kind)), -1, place)
    return expr.cast(place, "int64")


argmax = _summary(
    "argmax",
    functools.partial(_position, LARGEST),
    """The position of the largest value, the first of equal ones; nan is the largest (numpy's rules).

    Over several axes, the position counts their points in order.  where: -1 where no term counts.
    """,
)
argmin = _summary(
    "argmin", functools.partial(_position, SMALLEST), "The position of the smallest value; as `argmax` otherwise."
)
