"""The values an integer expression can take: what makes an index that is read from memory safe."""

from __future__ import annotations

from collections.abc import Mapping

from tensordsl import expr
from tensordsl.affine import Interval, interval
from tensordsl.dtypes import DType
from tensordsl.expr import Const, Expr, Index, Op, Read

#: An inclusive range.
Range = tuple[int, int]
#: The values of a wider type are no useful range: nothing is known.
_WIDEST_BITS = 16


def type_range(t: DType) -> Range:
    """The least and greatest integer of a type."""
    if t.kind == "b":
        return 0, 1
    return (-(1 << t.bits - 1), (1 << t.bits - 1) - 1) if t.kind == "i" else (0, (1 << t.bits) - 1)


def known_range(t: DType) -> Range | None:
    """The range of a type that is narrow enough to count as one."""
    return type_range(t) if not t.is_float and t.bits <= _WIDEST_BITS else None


def value_range(e: Expr, axes: Mapping[str, Interval]) -> Range | None:
    """The range of an integer expression, None where it is not known.

    axes: the ranges of the index variables.
    """
    memo: dict[int, Range | None] = {}
    for x in expr.walk(e):
        memo[id(x)] = None if x.dtype.is_float else _range(x, [memo[id(c)] for c in expr.children(x)], axes)
    return memo[id(e)]


def _range(x: Expr, args: list[Range | None], axes: Mapping[str, Interval]) -> Range | None:
    found: Range | None = None
    if isinstance(x, Const):
        found = int(x.value), int(x.value)
    elif isinstance(x, Index):
        low, high = interval(x.affine, axes)
        found = None if low is None or high is None else (low, high)
    elif isinstance(x, Read):
        found = getattr(x.source, "values", None)
    elif isinstance(x, Op):
        found = _operation(x, args)
    whole = type_range(x.dtype)
    if found is None or found[0] < whole[0] or found[1] > whole[1]:  # it may wrap around
        return known_range(x.dtype)
    return found


def _operation(x: Op, args: list[Range | None]) -> Range | None:
    if x.name in ("max", "min"):
        return _extremum(x, args)
    if x.name == "mod":
        divisor = args[1]
        return (0, divisor[1] - 1) if divisor is not None and divisor[0] > 0 else None
    sides = args[1:] if x.name == "select" else args
    known = [a for a in sides if a is not None]
    if len(known) < len(sides):
        return None
    if x.name in ("select", "cast"):
        return min(lo for lo, _ in known), max(hi for _, hi in known)
    if x.name in ("add", "sub", "mul", "floordiv", "neg", "abs"):
        return _arithmetic(x.name, known)
    return None


def _extremum(x: Op, args: list[Range | None]) -> Range:
    """A clamped value: one side suffices for a bound."""
    low, high = type_range(x.dtype)
    sides = [a or (low, high) for a in args]
    choose = max if x.name == "max" else min
    return choose(lo for lo, _ in sides), choose(hi for _, hi in sides)


def _arithmetic(name: str, args: list[Range]) -> Range | None:
    (a, b) = args[0]
    if name == "neg":
        return -b, -a
    if name == "abs":
        return (0 if a <= 0 <= b else min(abs(a), abs(b))), max(abs(a), abs(b))
    c, d = args[1]
    if name == "add":
        return a + c, b + d
    if name == "sub":
        return a - d, b - c
    if name == "floordiv" and c <= 0:
        return None
    corners = [x * y if name == "mul" else x // y for x in (a, b) for y in (c, d)]
    return min(corners), max(corners)
