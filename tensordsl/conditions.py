"""What a condition on indices says: conjunctions of affine conditions, and the terms of reductions they choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tensordsl.affine import Affine
from tensordsl.expr import (
    COMPARISONS,
    Const,
    Expr,
    Index,
    Op,
    Reduce,
    Reducer,
    binary,
    children,
    constant,
    select,
    structure,
)  # fmt: skip

if TYPE_CHECKING:
    from tensordsl.combination import Monoid


def facts(e: Expr) -> tuple[Affine, ...] | None:
    """As `conditions`, also of integers that are read from memory."""
    from tensordsl.data_index import affine_value

    return conditions(e, affine_value)


def conditions(e: Expr, read: Callable[[Expr], Affine | None] | None = None) -> tuple[Affine, ...] | None:
    """A condition as a conjunction of ``affine >= 0``, or None where it is not one.

    read: what makes an index expression of a side that is not one.
    """
    if isinstance(e, Const):
        return () if e.value else (Affine((), -1),)
    if not isinstance(e, Op):
        return None
    if e.name == "and":
        left, right = conditions(e.args[0], read), conditions(e.args[1], read)
        return None if left is None or right is None else left + right
    if e.name not in COMPARISONS or e.name == "ne":
        return None
    sides: list[Affine] = []
    for arg in e.args:
        if isinstance(arg, Index):
            sides.append(arg.affine)
        elif isinstance(arg, Const) and arg.dtype.kind in "iu":
            sides.append(Affine((), int(arg.value)))
        else:
            found = None if read is None or arg.dtype.kind not in "iu" else read(arg)
            if found is None or not any(True for _ in found.data()):
                return None
            sides.append(found)
    a, b = sides if e.name in ("ge", "gt", "eq") else sides[::-1]
    difference = a - b
    if e.name == "eq":
        return (difference, -difference)
    return (difference - 1,) if e.name in ("gt", "lt") else (difference,)


def condition(facts: Iterable[Affine]) -> Expr:
    """The conjunction of ``affine >= 0``."""
    result: Expr | None = None
    for fact in facts:
        one = binary("ge", Index(fact), 0)
        result = one if result is None else binary("and", result, one)
    return constant(True) if result is None else result


def guarded_children(e: Expr, given: tuple[Affine, ...], split: bool = True) -> list[tuple[Expr, tuple[Affine, ...]]]:
    """The children of a node with what is known where they are needed: ``given`` and, inside a select by
    affine conditions, those (each ``>= 0``).

    split: where a conjunction fails, one of its conditions does: one entry for each case.
    """
    if not (isinstance(e, Op) and e.name == "select"):
        return [(c, given) for c in children(e)]
    known = facts(e.args[0])
    holds = given + (known or ())
    fails = [given]
    if known is not None and (split or len(known) == 1):
        fails = [(*given, -c - 1) for c in known or (Affine(),)]
    return [(e.args[0], given), (e.args[1], holds), *((e.args[2], f) for f in fails)]


def restricted(e: Reduce, given: Sequence[Affine]) -> Reduce:
    """A reduction with terms only where some conditions (``>= 0``) hold, the identity elsewhere."""
    return where(e, condition(given)) if given else e


def where(e: Reduce, holds: Expr) -> Reduce:
    """A reduction with terms only where a condition holds."""
    return replace(e, body=select(holds, e.body, e.reducer.identity(e.dtype)))


def terms_where(body: Expr, reducer: Reducer | Monoid) -> tuple[Affine, ...]:
    """The affine conditions (``>= 0``) outside which the terms of a reduction are its identity."""
    return conditional_term(body, reducer)[0]


def conditional_term(body: Expr, reducer: Reducer | Monoid) -> tuple[tuple[Affine, ...], Expr]:
    """The conditions of `terms_where`, and the term where they hold."""
    found: tuple[Affine, ...] = ()
    while isinstance(body, Op) and body.name == "select":
        known, other = facts(body.args[0]), body.args[2]
        if is_identity(body.args[1], reducer):  # the terms of the other case, under their own conditions
            inner, term = conditional_term(other, reducer)
            return found + inner, replace(body, args=(*body.args[:2], term))
        if known is None or not is_identity(other, reducer):
            break
        found, body = found + known, body.args[1]
    return found, body


def is_identity(e: Expr, reducer: Reducer | Monoid) -> bool:
    """Is a term the identity of its reducer, as it is written?"""
    unit = reducer.identity(e.dtype)
    if isinstance(unit, Const):
        return isinstance(e, Const) and e.value == unit.value
    return structure(e) == structure(unit)
