"""Divisions and remainders in the indices of a statement that the loops around it decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tensordsl.schedules.loopnest import Store

from tensordsl import expr
from tensordsl.affine import Affine, Interval, Quasi
from tensordsl.expr import Expr, Index, Read


def decided(s: Store, extreme: Callable[[Affine], Interval]) -> Store:
    """The store with ``(j + 8*i) // 8`` as ``i`` where j is within 0..7.  extreme: the range of a term."""
    ranges: dict[str, Interval] = {}

    def short(a: Affine) -> Affine:
        if not any(isinstance(atom, Quasi) for atom, _ in a.terms):
            return a
        for name in a.names():
            if name not in ranges:
                ranges[name] = extreme(Affine.of(name))
        return a.within(ranges)

    def value(e: Expr) -> Expr | None:
        if isinstance(e, Read):
            index = tuple([short(i) for i in e.index])
            return None if index == e.index else replace(e, index=index)
        if isinstance(e, Index):
            affine = short(e.affine)
            return None if affine == e.affine else replace(e, affine=affine)
        return None

    new, index = expr.transform(s.value, value), tuple([short(i) for i in s.index])
    return s if new is s.value and index == s.index else replace(s, value=new, index=index)
