"""Sizes as numbers in formulas: a mean divides by a count that may be known only at the call."""

from __future__ import annotations

from collections.abc import Sequence

from tensordsl import dtypes
from tensordsl.affine import Affine, Atom, factors
from tensordsl.dtypes import DType
from tensordsl.expr import Const, Expr, Index, binary, cast
from tensordsl.sizes import Size, is_linear


def number(value: int, t: DType) -> Expr:
    """A count as a float, be it known now or at the call."""
    return cast(size_expression(value, t), t) if isinstance(value, Size) else Const(float(value), t)


def size_expression(value: Size, like: DType | None) -> Expr:
    """A size known at the call as a number; a product of sizes in the type of what it meets."""
    if is_linear(value.affine):
        return Index(value.affine)
    t = like if like is not None and like.is_float else dtypes.int64
    terms = [_product(factors(atom), c, t) for atom, c in value.affine.terms]
    if value.affine.const:
        terms.append(cast(value.affine.const, t))
    total = terms[0]
    for term in terms[1:]:
        total = binary("add", total, term)
    return total


def _product(parts: Sequence[Atom], coefficient: int, t: DType) -> Expr:
    total: Expr | None = None if coefficient == 1 else cast(coefficient, t)
    for f in parts:
        one = cast(Index(Affine(((f, 1),))), t)
        total = one if total is None else binary("mul", total, one)
    assert total is not None
    return total
