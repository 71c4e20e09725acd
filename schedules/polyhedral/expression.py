"""Is a stored value the definition of its element?  If so, which element does each read need?

The definition's body, at the instance's index and points, and the stored expression are walked
together.  Where one of them chooses between cases by a condition on indices, each case is compared
on the instances that take it, so a nest may resolve the choice by its loops or choose more often.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Union

import islpy as isl
from tensordsl.schedules.polyhedral.isl_build import Dims, where, with_data, zero

from tensordsl import expr
from tensordsl.affine import Affine, Datum
from tensordsl.data_index import affine_value
from tensordsl.expr import Const, Expr, Index, Op, Read


@dataclass(frozen=True, slots=True, eq=False)
class Needed:
    """The cell read, the element it must hold, and the instances that read it.

    given: what is known (``>= 0``) of the numbers from memory where it is read.
    """

    cell: Read
    element: Read
    domain: isl.Set
    given: tuple[Affine, ...]


Facts = tuple[Affine, ...]
Needs = dict[tuple[int, int, int, Facts], Needed]


def equal(a: Affine, b: Affine, domain: isl.Set, dims: Dims) -> bool:
    """Do two index expressions agree on the whole domain?"""
    if a == b:
        return True
    difference = a - b
    if difference.is_constant:
        return domain.is_empty()
    return bool(domain.is_subset(zero(difference, dims)))


#: What makes an index expression of an integer that is read from memory, None where it is not known.
Known = Callable[[Expr], Union[Affine, None]]


def condition_set(e: Expr, dims: Dims, domain: isl.Set, known: Known | None = None) -> isl.Set | None:
    """The points of a domain (perhaps more) where a condition on indices holds; None where it reads data there
    that is not known."""
    if isinstance(e, Op) and e.name in ("and", "or"):
        left, right = condition_set(e.args[0], dims, domain, known), condition_set(e.args[1], dims, domain, known)
        if left is None or right is None:
            return None
        return left.intersect(right) if e.name == "and" else left.union(right)
    if isinstance(e, Op) and e.name == "not" and e.dtype.kind == "b":
        inner = condition_set(e.args[0], dims, domain, known)
        return None if inner is None else inner.complement()
    if isinstance(e, Op) and e.name == "ne":
        same = expr.conditions(Op("eq", e.args, e.dtype), known)
        return None if same is None else where(same, dims).complement()
    if isinstance(e, Const) and e.dtype.kind != "b":
        return None
    if isinstance(e, Op) and e.name in expr.COMPARISONS:
        for k, side in enumerate(e.args):
            if isinstance(side, Op) and side.name == "select":
                return _comparison_of_cases(e, k, side, dims, domain)
    settled = _with_known_data(e, known)
    found = None if settled is None else expr.conditions(settled, known)
    return None if found is None else where(found, dims)


def _with_known_data(e: Expr, known: Known | None) -> Expr | None:
    """A condition whose indices read numbers that are known, or None."""
    if not isinstance(e, Op):
        return e
    args: list[Expr] = []
    for a in e.args:
        if isinstance(a, Index) and any(True for _ in a.affine.data()):
            affine = None if known is None else known(a)
            if affine is None:
                return None
            a = Index(affine, a.dtype)
        args.append(a)
    return e if all(a is b for a, b in zip(args, e.args)) else replace(e, args=tuple(args))


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

    def __init__(self, dims: Dims, identified: Mapping[str, Datum] | None = None, fixed: Container[str] = ()) -> None:
        """identified: numbers that the definition reads (texts) -> where the nest reads them, in ``dims``.
        fixed: buffers that the nest never writes."""
        self.dims, self.fixed = dims, fixed
        self.identified = identified or {}
        self.memo: dict[tuple[int, int, int, Facts], Needs | None] = {}
        #: where the two differ first: part of the definition, of the value, and for which instances
        self.difference: tuple[Expr, Expr, isl.Set] | None = None
        self.kept: list[object] = []  # ids stay unique while their objects live

    def match(self, definition: Expr, value: Expr, domain: isl.Set, given: Facts = ()) -> Needs | None:
        """The reads of ``value`` with the elements they must hold; None where the two differ."""
        key = (id(definition), id(value), id(domain), given)
        if key not in self.memo:
            self.kept += (definition, value, domain)
            self.memo[key] = self._match(definition, value, domain, given)
            if self.memo[key] is None and self.difference is None:
                self.difference = definition, value, domain
        return self.memo[key]

    def _match(self, d: Expr, n: Expr, domain: isl.Set, given: Facts) -> Needs | None:
        for chooser in (d, n):  # a choice by index, on either side, is decided or splits the domain
            if not (isinstance(chooser, Op) and chooser.name == "select"):
                continue
            holds = condition_set(chooser.args[0], self.dims, domain, self.defined if chooser is d else self.read)
            if holds is None:
                continue
            needs: Needs | None = {}
            for case, part in ((1, domain.intersect(holds)), (2, domain.subtract(holds))):
                if needs is None or part.is_empty():
                    continue
                side = chooser.args[case]
                pair = (side, n) if chooser is d else (d, side)
                needs = _both(needs, self.match(*pair, part, given))
            return needs
        if isinstance(d, Read):
            if not isinstance(n, Read) or n.dtype != d.dtype:
                return None
            found = self.paired(d.index, n.index, domain, given)
            if found is None:
                return None
            needs, index = found
            element = d if index == d.index else replace(d, index=index)
            return {**needs, (id(d), id(n), id(domain), given): Needed(n, element, domain, given)}
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
            found = self.paired((d.affine,), (other,), domain, given)
            if found is None:
                return None
            needs, [mine] = found
            over, dims = with_data(domain, self.dims, (mine, other))
            return needs if equal(mine, other, over, dims) else None
        if not (isinstance(d, Op) and isinstance(n, Op)):
            return None
        if d.name != n.name or d.dtype != n.dtype or len(d.args) != len(n.args):
            return None
        needs = {}
        for a, b, facts in zip(d.args, n.args, self.in_arguments(n, given)):
            needs = _both(needs, self.match(a, b, domain, facts))
            if needs is None:
                break
        return needs

    def in_arguments(self, n: Op, given: Facts) -> list[Facts]:
        """What is known of the numbers from memory in each argument: a select on them guards its sides."""
        if n.name != "select":
            return [given] * len(n.args)
        found = [facts for _, facts in expr.guarded_children(n, given)]
        return [tuple(f for f in facts if any(True for _ in f.data())) for facts in found]

    def paired(
        self, wanted: tuple[Affine, ...], found: tuple[Affine, ...], domain: isl.Set, given: Facts
    ) -> tuple[Needs, tuple[Affine, ...]] | None:
        """The definition's index with the numbers it reads as the nest reads them, and what those reads need."""
        mine = [x for i in wanted for x in i.outer_data()]
        theirs = [x for i in found for x in i.outer_data()]
        if len(mine) != len(theirs):
            return None
        needs: Needs | None = {}
        env: dict[Datum, Affine] = {}
        for a, b in zip(mine, theirs):
            needs = _both(needs, self.match(Read(a.source, a.index), Read(b.source, b.index), domain, given))
            env[a] = Affine(((b, 1),))
        if needs is None:
            return None
        return needs, tuple([i.map_data(lambda a: env[a], outer=True) for i in wanted])

    def defined(self, e: Expr) -> Affine | None:
        """A number that the definition reads, where the loops around read it as well."""
        a = affine_value(e)
        if a is None or any(str(x) not in self.identified for x in a.outer_data()):
            return None
        return a.map_data(lambda x: Affine(((self.identified[str(x)], 1),)), outer=True)

    def read(self, e: Expr) -> Affine | None:
        """A number that the nest reads, where the loops around read it as well and nothing changes it."""
        a = affine_value(e)
        known = {str(x) for x in self.identified.values()}
        return a if a is not None and all(str(x) in known and x.source.name in self.fixed for x in a.data()) else None


def _both(a: Needs | None, b: Needs | None) -> Needs | None:
    if a is None or b is None:
        return None
    return {**a, **b} if a and b else a or b
