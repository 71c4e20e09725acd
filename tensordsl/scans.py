"""Running sums, products and extremes of tensors, as recurrences."""

from __future__ import annotations

from typing import Any

from tensordsl import array, expr
from tensordsl.errors import ProgramError
from tensordsl.expr import REDUCERS, Expr, Index
from tensordsl.tensor import Tensor, recurrence


def cumsum(x: Tensor, axis: int | None = None, *, reverse: bool = False, exclusive: bool = False) -> Tensor:
    """The sum of the elements up to each one along a dimension (None: the only one), of x's type.

    reverse: from each one to the end.  exclusive: without the element itself.
    """
    return _running("sum", "cumsum", x, axis, reverse, exclusive)


def cumprod(x: Tensor, axis: int | None = None, *, reverse: bool = False, exclusive: bool = False) -> Tensor:
    """The product of the elements up to each one (see `cumsum`)."""
    return _running("prod", "cumprod", x, axis, reverse, exclusive)


def cummax(x: Tensor, axis: int | None = None, *, reverse: bool = False, exclusive: bool = False) -> Tensor:
    """The greatest of the elements up to each one (see `cumsum`)."""
    return _running("max", "cummax", x, axis, reverse, exclusive)


def cummin(x: Tensor, axis: int | None = None, *, reverse: bool = False, exclusive: bool = False) -> Tensor:
    """The least of the elements up to each one (see `cumsum`)."""
    return _running("min", "cummin", x, axis, reverse, exclusive)


def _running(kind: str, what: str, x: Tensor, axis: int | None, reverse: bool, exclusive: bool) -> Tensor:
    if not isinstance(x, Tensor):
        raise ProgramError(f"{what} takes a tensor, got a value of type {type(x).__name__}")
    if axis is None and x.ndim != 1:
        raise ProgramError(f"{what}: {x} has {x.ndim} dimensions", hint="say along which: axis=")
    [d] = array.dimensions(x, 0 if axis is None else axis, what)
    reducer = REDUCERS[kind]
    dtype = "int64" if x.dtype.kind == "b" and kind in ("sum", "prod") else x.dtype
    size, back = x.shape[d], 1 if reverse else -1

    def element(running: Tensor, *index: Index) -> Expr:
        def at(t: Tensor, shift: int) -> Any:
            place = (*index[:d], index[d] + shift, *index[d + 1 :])
            return t[place]

        inside = index[d] < size - 1 if reverse else index[d] > 0
        term = expr.cast(at(x, back if exclusive else 0), dtype)
        rest = reducer.identity(term.dtype) if exclusive else term
        return expr.select(inside, expr.binary(reducer.combine, at(running, back), term), rest)

    result = recurrence(x.shape, element, order=f"-i{d}" if reverse else f"i{d}", dtype=dtype)
    result.name = array.derived(x, what)
    return result
