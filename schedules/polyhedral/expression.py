"""Is a stored value the definition of its element?  If so, which element does each read need?

The definition's body, at the instance's index and points, and the stored expression are walked
together.  Where one of them chooses between cases by a condition on indices, each case is compared
on the instances that take it, so a nest may resolve the choice by its loops or choose more often.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import islpy as isl
from tensordsl.schedules.polyhedral.isl_build import Dims, where, zero

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.expr import Const, Expr, Index, Op, Read


@dataclass(frozen=True, slots=True, eq=False)
class Needed:
    """The cell read, the element it must hold, and the instances that read it."""

    cell: Read
    element: Read
    domain: isl.Set


Needs = dict[tuple[int, int, int], Needed]


def equal(a: Affine, b: Affine, domain: isl.Set, dims: Dims) -> bool:
    """Do two index expressions agree on the whole domain?"""
    if a == b:
        return True
    difference = a - b
    if difference.is_constant:
        return domain.is_empty()
    return bool(domain.is_subset(zero(difference, dims)))


def condition_set(e: Expr, dims: Dims, domain: isl.Set) -> isl.Set | None:
    """The points of a domain (perhaps more) where a condition on indices holds; None where it reads data there."""
    if isinstance(e, Op) and e.name in ("and", "or"):
        left, right = condition_set(e.args[0], dims, domain), condition_set(e.args[1], dims, domain)
        if left is None or right is None:
            return None
        return left.intersect(right) if e.name == "and" else left.union(right)
    if isinstance(e, Op) and e.name == "not" and e.dtype.kind == "b":
        inner = condition_set(e.args[0], dims, domain)
        return None if inner is None else inner.complement()
    if isinstance(e, Op) and e.name == "ne":
        same = expr.conditions(Op("eq", e.args, e.dtype))
        return None if same is None else where(same, dims).complement()
    if isinstance(e, Const) and e.dtype.kind != "b":
        return None
    if isinstance(e, Op) and e.name in expr.COMPARISONS:
        for k, side in enumerate(e.args):
            if isinstance(side, Op) and side.name == "select":
                return _comparison_of_cases(e, k, side, dims, domain)
    found = expr.conditions(e)
    return None if found is None else where(found, dims)


def _comparison_of_cases(e: Op, k: int, choice: Op, dims: Dims, domain: isl.Set) -> isl.Set | None:
    """A comparison whose side ``k`` is a choice by index: each case where it applies."""
    holds = condition_set(choice.args[0], dims, domain)
    if holds is None:
        return None
    found = isl.Set.empty(domain.get_space())
    for x, part in zip(choice.args[1:], (domain.intersect(holds), domain.subtract(holds))):
        if part.is_empty():
            continue
        case = condition_set(replace(e, args=(*e.args[:k], x, *e.args[k + 1 :])), dims, part)
        if case is None:
            return None
        found = found.union(case.intersect(part))
    return found


class Matcher:
    """Compares definitions with stored values over the instances of one store."""

    def __init__(self, dims: Dims) -> None:
        self.dims = dims
        self.memo: dict[tuple[int, int, int], Needs | None] = {}
        #: where the two differ first: part of the definition, of the value, and for which instances
        self.difference: tuple[Expr, Expr, isl.Set] | None = None
        self.kept: list[object] = []  # ids stay unique while their objects live

    def match(self, definition: Expr, value: Expr, domain: isl.Set) -> Needs | None:
        """The reads of ``value`` with the elements they must hold; None where the two differ."""
        key = (id(definition), id(value), id(domain))
        if key not in self.memo:
            self.kept += (definition, value, domain)
            self.memo[key] = self._match(definition, value, domain)
            if self.memo[key] is None and self.difference is None:
                self.difference = definition, value, domain
        return self.memo[key]

    def _match(self, d: Expr, n: Expr, domain: isl.Set) -> Needs | None:
        for chooser in (d, n):  # a choice by index, on either side, is decided or splits the domain
            if not (isinstance(chooser, Op) and chooser.name == "select"):
                continue
            holds = condition_set(chooser.args[0], self.dims, domain)
            if holds is None:
                continue
            needs: Needs | None = {}
            for case, part in ((1, domain.intersect(holds)), (2, domain.subtract(holds))):
                if needs is None or part.is_empty():
                    continue
                side = chooser.args[case]
                needs = _both(needs, self.match(side, n, part) if chooser is d else self.match(d, side, part))
            return needs
        if isinstance(d, Read):
            if not isinstance(n, Read) or n.dtype != d.dtype:
                return None
            return {(id(d), id(n), id(domain)): Needed(n, d, domain)}
        if isinstance(d, Const):
            same = isinstance(n, Const) and n.dtype == d.dtype and repr(n.value) == repr(d.value)
            return {} if same else None
        if isinstance(d, Index):
            if isinstance(n, Index):
                other = n.affine
            elif isinstance(n, Const) and n.dtype == d.dtype:
                other = Affine((), int(n.value))
            else:
                return None
            return {} if equal(d.affine, other, domain, self.dims) else None
        if not (isinstance(d, Op) and isinstance(n, Op)):
            return None
        if d.name != n.name or d.dtype != n.dtype or len(d.args) != len(n.args):
            return None
        needs = {}
        for a, b in zip(d.args, n.args):
            needs = _both(needs, self.match(a, b, domain))
            if needs is None:
                break
        return needs


def _both(a: Needs | None, b: Needs | None) -> Needs | None:
    if a is None or b is None:
        return None
    return {**a, **b} if a and b else a or b
