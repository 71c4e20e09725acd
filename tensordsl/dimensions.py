"""Named sizes: ``"M"`` and ``"H + 2"`` in shapes mean integers while an operator is being bound."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Union

from tensordsl.errors import ProgramError, closest
from tensordsl.sizes import Size, is_linear, unproven

#: Sizes of named dimensions while an operator is being bound (see operator.py).
DIMENSIONS: ContextVar[Mapping[str, int]] = ContextVar("tensordsl_dimensions", default=MappingProxyType({}))
Extent = Union[int, str]
#: Elements of a tensor or iterations of an axis: byte offsets of any of them fit in 64 bits.
MOST = 2**60

_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def extent(value: Extent) -> int:
    """A size: an integer, or an expression in the dimensions of the operator being bound.

    Raises ProgramError for unknown dimensions and for sizes that are negative, too large or no integers.
    """
    if isinstance(value, str):
        size = bound(value)
    elif isinstance(value, Size):
        size = value
    elif isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ProgramError(f"a size must be an integer or a dimension's name, got {value!r}")
    else:
        size = value.__index__()
    if isinstance(size, Size):
        return _symbolic(size)
    if size < 0:
        raise ProgramError(f"a size must not be negative, got {size}" + (f" for {value!r}" if size != value else ""))
    if size > MOST:
        raise ProgramError(f"a size must be at most 2**60 (offsets are 64-bit integers), got {size}")
    return size


def bound(value: str) -> int:
    """One end of a range of values: any integer, in the dimensions of the operator being bound."""
    return _evaluate(parse(value), value, DIMENSIONS.get())


def _symbolic(size: Size) -> int:
    """A size known at the call, once it is proven to be one."""
    if not is_linear(size.affine):
        raise ProgramError(
            f"the size {size} is a product of dimensions", hint="keep them apart, or bind all but one to numbers"
        )
    found = unproven(size.affine)
    if found is not None:
        raise ProgramError(
            f"the size {size} may be negative", counterexample=found, hint="assume more of the dimensions"
        )
    return size


def sizes(shape: Extent | Sequence[Extent]) -> tuple[int, ...]:
    """A shape as integers; a single extent is a shape of rank 1."""
    if not isinstance(shape, (tuple, list)):
        return (extent(shape),)  # type: ignore[arg-type]
    found = tuple(extent(s) for s in shape)
    if not any(isinstance(s, Size) for s in found) and math.prod(found) > MOST:
        raise ProgramError(f"the shape {list(found)} has {math.prod(found)} elements, at most 2**60 can be addressed")
    return found


def row_pitch(value: Extent | None, shape: Sequence[int]) -> int:
    """Elements between the rows of a tensor, 0 for none in between.  Raises ProgramError where it has no such rows."""
    if value is None:
        return 0
    apart = extent(value)
    if len(shape) < 2:
        raise ProgramError(f"an input of rank {len(shape)} has no rows that a pitch could set apart")
    if not isinstance(shape[-1] - apart, Size) and apart < shape[-1]:
        raise ProgramError(f"the pitch {apart} is less than the {shape[-1]} elements of a row")
    return apart


def parse(text: str) -> ast.expr:
    """The syntax of a size.  Raises ProgramError where it is not one."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        tree = None
    if tree is None or not all(_allowed(node) for node in ast.walk(tree)):
        raise ProgramError(
            f"{text!r} is not a size", legal="integers and dimensions with + - * // %", hint='as in "M" or "H + 2"'
        )
    return tree


def names(tree: ast.expr) -> list[str]:
    """The dimensions of a size in order of appearance."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    return [n.id for n in sorted(found, key=lambda n: n.col_offset)]


def _allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int) and not isinstance(node.value, bool)
    kinds = (ast.Name, ast.BinOp, ast.UnaryOp, ast.USub, ast.expr_context, *_OPERATIONS)
    return isinstance(node, kinds)


def _evaluate(e: ast.expr, text: str, known: Mapping[str, int]) -> int:
    if isinstance(e, ast.Constant):
        return int(e.value)  # type: ignore[arg-type]
    if isinstance(e, ast.UnaryOp):
        return -_evaluate(e.operand, text, known)
    if isinstance(e, ast.BinOp):
        right = _evaluate(e.right, text, known)
        if right == 0 and isinstance(e.op, (ast.FloorDiv, ast.Mod)):
            raise ProgramError(f"the size {text!r} divides by zero")
        return _OPERATIONS[type(e.op)](_evaluate(e.left, text, known), right)
    assert isinstance(e, ast.Name)
    if e.id not in known:
        like = closest(e.id, known)
        raise ProgramError(
            f"dimension {e.id!r} has no size here",
            legal=sorted(known) or "no dimension is bound",
            hint=f"did you mean {like!r}?" if like else "pass an integer, or bind the dimension",
        )
    return known[e.id]
