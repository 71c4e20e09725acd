"""Functions of rows: softmax and normalisations over some dimensions, each row on its own."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.array import axes_like, broadcast_shapes, derived, dimensions, element, elementwise, reduce
from tensordsl.counts import number
from tensordsl.errors import ProgramError, user_location
from tensordsl.expr import REDUCERS, Expr, Read, Reduce
from tensordsl.tensor import Axes, Tensor, define


def softmax(x: Tensor, axis: Axes = -1) -> Tensor:
    """exp(x - max) / sum(exp(x - max)) over ``axis``; shape of x, floats."""
    over = _over("softmax", x, axis)
    top = reduce("max", x, over)
    e = _each(derived(x, "exp"), lambda v, m: expr.unary("exp", v - m), x, over, top)
    total = reduce("sum", e, over)
    return _each("softmax", lambda v, s: v / s, e, over, total)


def log_softmax(x: Tensor, axis: Axes = -1) -> Tensor:
    """x - max - log(sum(exp(x - max))) over ``axis``; shape of x, floats."""
    over = _over("log_softmax", x, axis)
    top = reduce("max", x, over)
    e = _each(derived(x, "exp"), lambda v, m: expr.unary("exp", v - m), x, over, top)
    total = elementwise(derived(x, "log"), lambda s: expr.unary("log", s), reduce("sum", e, over))
    return _each("log_softmax", lambda v, m, s: v - m - s, x, over, top, total)


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, axis: Axes = -1
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over ``axis``; shape of x, floats.

    weight, bias: broadcast to x from the right.  The variance is the mean of squared deviations.
    Ba, Kiros and Hinton, 2016 (arXiv 1607.06450).
    """
    over = _over("layer_norm", x, axis)
    mean = _mean(derived(x, "mean"), lambda v: v, x, over)
    variance = _mean(derived(x, "variance"), lambda v, m: (v - m) * (v - m), x, over, mean)
    scale = elementwise(derived(x, "scale"), lambda v: expr.unary("rsqrt", v + eps), variance)
    return _affine("layer_norm", lambda v, m, s: (v - m) * s, x, over, (mean, scale), weight, bias)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-5, axis: Axes = -1) -> Tensor:
    """x / sqrt(mean(x * x) + eps) * weight over ``axis``; shape of x, floats.

    weight: broadcast to x from the right.  Zhang and Sennrich, 2019 (arXiv 1910.07467).
    """
    over = _over("rms_norm", x, axis)
    square = _mean(derived(x, "mean_square"), lambda v: v * v, x, over)
    scale = elementwise(derived(x, "scale"), lambda v: expr.unary("rsqrt", v + eps), square)
    return _affine("rms_norm", lambda v, s: v * s, x, over, (scale,), weight, None)


def _over(name: str, x: Tensor, axis: Axes) -> list[int]:
    if not x.dtype.is_float:
        raise ProgramError(f"{name}: {x} is not of a float type", hint='convert it: x.astype("float32")')
    over = dimensions(x, axis, name)
    if any(x.shape[d] == 0 for d in over):
        raise ProgramError(f"{name}: {x} has no elements along its axis")
    return over


def _row(x: Tensor, over: list[int]) -> tuple[Affine, ...]:
    """The index of the row that an element of x belongs to."""
    return tuple(Affine.of(a.name) for d, a in enumerate(axes_like(x.shape, x)) if d not in over)


def _reads(x: Tensor, over: list[int], rows: tuple[Tensor, ...]) -> list[Expr]:
    """An element of x, and the values of its row."""
    here = user_location()
    own = Read(x, tuple(Affine.of(a.name) for a in axes_like(x.shape, x)), here)
    return [own, *(Read(r, _row(x, over), here) for r in rows)]


def _each(label: str, fn: Callable[..., Expr], x: Tensor, over: list[int], *rows: Tensor) -> Tensor:
    """A function of each element of x and of the values of its row."""
    return define(axes_like(x.shape, x), fn(*_reads(x, over, rows)), None, label=label)


def _mean(label: str, fn: Callable[..., Expr], x: Tensor, over: list[int], *rows: Tensor) -> Tensor:
    """The mean over a row of a function of its elements."""
    axes = axes_like(x.shape, x)
    inner = tuple(axes[d] for d in over)
    count = prod(a.extent for a in inner)
    total = Reduce(REDUCERS["sum"], inner, fn(*_reads(x, over, rows)), user_location())
    return define(
        tuple(a for d, a in enumerate(axes) if d not in over), total / number(count, x.dtype), None, label=label
    )


def _affine(
    label: str,
    fn: Callable[..., Expr],
    x: Tensor,
    over: list[int],
    rows: tuple[Tensor, ...],
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """A normalised element, times weight, plus bias, in one definition."""
    axes = axes_like(x.shape, x)
    index = [Affine.of(a.name) for a in axes]
    body = fn(*_reads(x, over, rows))
    for t in (weight, bias):
        if t is not None and (t.ndim > x.ndim or broadcast_shapes(label, x.shape, t.shape) != x.shape):
            raise ProgramError(f"{label}: {t} does not broadcast to {x}")
    if weight is not None:
        body = body * element(weight, index)
    if bias is not None:
        body = body + element(bias, index)
    return define(axes, body, None, label=label)
