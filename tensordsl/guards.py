"""Conditions in a form that every later stage understands, whatever the user wrote.

Bounds, causality, proofs, loops and masks all work on conjunctions of affine conditions.  A select by
any other condition on indices (``|``, ``~``, ``!=``, mixed with data) is the same as nested selects
by conjunctions, so definitions are brought to that form once, when they are made:

    select(a | b, x, y)     = select(~a & ~b, y, x)                 where ~a and ~b are conjunctions
                            = select(a, x, select(b, x, y))         else
    select(a & data, x, y)  = select(a, select(data, x, y), y)
    select(a != b, x, y)    = select(a == b, y, x)

The two sides are shared, not copied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from tensordsl import dtypes, expr
from tensordsl.affine import Affine, Interval, interval
from tensordsl.expr import Const, Expr, Index, Op, Reduce

#: Copies of a side that printing without sharing would make; a condition that needs more stays as it is.
MOST_COPIES = 64
_OPPOSITE = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le", "eq": "ne", "ne": "eq"}
#: Integers up to here are exact in a float type.
_EXACT = {"float32": 2**24, "float64": 2**53}
Ranges = Mapping[str, Interval]
Facts = tuple[Affine, ...]


def normalised(body: Expr, ranges: Ranges) -> Expr:
    """An expression whose selects by conditions on indices ask for conjunctions.  ranges: of the axes."""

    def f(e: Expr) -> Expr | None:
        if not (isinstance(e, Op) and e.name == "select") or expr.conditions(e.args[0]) is not None:
            return None
        made = _Decisions(ranges)
        new = made.decide(*e.args)
        return new if made.created and made.copies(new) <= MOST_COPIES else None

    return expr.transform(body, f)


def merged(cases: Iterable[Facts]) -> list[Facts]:
    """The same union of conjunctions with fewer of them: implied ones and complementary pairs are joined."""
    found = [frozenset(c) for c in dict.fromkeys(cases)]
    again = True
    while again:
        again = False
        for a, b in itertools.permutations(found, 2):
            joined = a if a <= b else _joined(a, b)
            if joined is not None:
                found = [c for c in found if c is not a and c is not b]
                found += [] if joined in found else [joined]
                again = True
                break
    return [tuple(sorted(c, key=str)) for c in found]


def _joined(a: frozenset[Affine], b: frozenset[Affine]) -> frozenset[Affine] | None:
    """``F and c`` or ``F and not c`` is F."""
    [*mine], [*other] = a - b, b - a
    if len(mine) == len(other) == 1 and mine[0] == -other[0] - 1:
        return a & b
    return None


def cases_of_reductions(body: Expr) -> dict[int, list[Facts]]:
    """For each reduction in an expression (by its id), the cases in which it is needed: conditions (each
    ``>= 0``) that hold."""
    from tensordsl import bounds

    found: dict[int, list[Facts]] = {}
    seen: set[tuple[int, Facts]] = set()

    def go(e: Expr, given: Facts) -> None:
        if (id(e), given) in seen:
            return
        seen.add((id(e), given))
        if isinstance(e, Reduce):
            found.setdefault(id(e), []).append(given)
            return
        for child, facts in expr.guarded_children(e, given, len(seen) < bounds.CASES):
            go(child, facts)

    go(body, ())
    return found


def restricted(e: Reduce, cases: Iterable[Facts]) -> Reduce:
    """A reduction with terms only in some cases, the identity elsewhere."""
    few = merged(cases)
    common = few[0]
    for c in few[1:]:
        common = _common(common, c)
    if len(few) > 1:
        e = expr.where(e, any_of([tuple(f for f in c if f not in common) for c in few]))
    return expr.restricted(e, common)


def _common(a: Facts, b: Facts) -> Facts:
    """What each of two conjunctions says, up to the constant."""

    def said(c: Affine, facts: Facts) -> bool:
        return any((c - f).is_constant and (c - f).const >= 0 for f in facts)

    return tuple(dict.fromkeys([*(c for c in a if said(c, b)), *(c for c in b if said(c, a))]))


def any_of(cases: Sequence[Facts]) -> Expr:
    """The condition that one of some conjunctions holds."""
    result = expr.condition(cases[0])
    for c in cases[1:]:
        result = expr.binary("or", result, expr.condition(c))
    return result


class _Decisions:
    """Selects by conjunctions for one select."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.created: dict[int, Op] = {}

    def decide(self, c: Expr, then: Expr, otherwise: Expr) -> Expr:
        holds = self.conjunction(c, True)
        if holds is not None:
            return self.select(_all(holds), then, otherwise)
        fails = self.conjunction(c, False)
        if fails is not None:
            return self.select(_all(fails), otherwise, then)
        if not isinstance(c, Op) or c.dtype.kind != "b" or not self.on_indices(c):
            return _plain(c, then, otherwise)
        if c.name == "not":
            return self.decide(c.args[0], otherwise, then)
        if c.name == "select":
            inner = [self.decide(x, then, otherwise) for x in c.args[1:]]
            return self.decide(c.args[0], *inner)
        if c.name == "and":
            return self.every(_parts(c, "and"), then, otherwise)
        if c.name == "or":
            return self.some(_parts(c, "or"), then, otherwise)
        return _plain(c, then, otherwise)

    def every(self, parts: list[Expr], then: Expr, otherwise: Expr) -> Expr:
        """All parts hold: first what is known about indices, then cases, then data."""
        known: list[Expr] = []
        mixed: list[Expr] = []
        data: list[Expr] = []
        for p in parts:
            facts = self.conjunction(p, True)
            if facts is not None:
                known += facts
            else:
                (mixed if self.on_indices(p) else data).append(p)
        result = _plain(_chain("and", data), then, otherwise) if data else then
        for p in reversed(mixed):
            result = self.decide(p, result, otherwise)
        return self.select(_all(known), result, otherwise) if known else result

    def some(self, parts: list[Expr], then: Expr, otherwise: Expr) -> Expr:
        """One part holds: it is not the case that all their opposites do."""
        opposite: list[Expr] = []
        mixed: list[Expr] = []
        data: list[Expr] = []
        for p in parts:
            facts = self.conjunction(p, False)
            if facts is not None:
                opposite += facts
            else:
                (mixed if self.on_indices(p) else data).append(p)
        result = _plain(_chain("or", data), then, otherwise) if data else otherwise
        for p in reversed(mixed):
            result = self.decide(p, then, result)
        return self.select(_all(opposite), result, then) if opposite else result

    def select(self, c: Expr, then: Expr, otherwise: Expr) -> Expr:
        e = _plain(c, then, otherwise)
        self.created[id(e)] = e
        return e

    def copies(self, e: Expr) -> int:
        """How often the sides would be printed if every select had its own."""
        memo: dict[int, int] = {}

        def go(x: Expr) -> int:
            if id(x) not in self.created:
                return 1
            if id(x) not in memo:
                memo[id(x)] = sum(go(a) for a in self.created[id(x)].args[1:])
            return memo[id(x)]

        return go(e)

    def on_indices(self, c: Expr) -> bool:
        """Does a part of a condition ask for indices alone?"""
        if self.comparison(c) is not None:
            return True
        return isinstance(c, Op) and c.dtype.kind == "b" and c.name in _LOGIC and any(map(self.on_indices, c.args))

    def conjunction(self, c: Expr, holds: bool) -> list[Expr] | None:
        """Comparisons of indices that together say that a condition holds, or that it does not; None where
        there are none."""
        if isinstance(c, Const) and c.dtype.kind == "b":
            return [expr.constant(bool(c.value) == holds)]
        if not isinstance(c, Op) or c.dtype.kind != "b":
            return None
        if c.name == "not":
            return self.conjunction(c.args[0], not holds)
        if c.name == ("and" if holds else "or"):
            parts = [self.conjunction(a, holds) for a in c.args]
            return None if any(p is None for p in parts) else [x for p in parts if p is not None for x in p]
        one = self.comparison(c)
        if one is None:
            return None
        if not holds:
            one = Op(_OPPOSITE[one.name], one.args, one.dtype)
        return [one] if one.name != "ne" else self.one_sided(one)

    def one_sided(self, e: Op) -> list[Expr] | None:
        """``a != b`` as ``a > b`` or ``a < b`` where the axes allow only one of them."""
        equal = expr.conditions(Op("eq", e.args, e.dtype))
        assert equal is not None
        for name, difference in zip(("gt", "lt"), equal):
            low, _ = interval(difference, self.ranges)
            if low is not None and low >= 0:
                return [Op(name, e.args, e.dtype)]
        return None

    def comparison(self, c: Expr) -> Op | None:
        """A comparison of indices as one of integers, or None."""
        if not isinstance(c, Op) or c.name not in expr.COMPARISONS:
            return None
        if expr.conditions(Op("eq", c.args, c.dtype)) is not None:
            return c if any(isinstance(a, Index) for a in c.args) else None
        return self.with_float(c)

    def with_float(self, c: Op) -> Op | None:
        """``i < 2.5`` is ``i <= 2``."""
        sides = [a.args[0] if isinstance(a, Op) and a.name == "cast" else a for a in c.args]
        mirrored = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}
        name = c.name
        if isinstance(sides[0], Const):
            sides, name = sides[::-1], mirrored.get(name, name)
        i, number = sides
        exact = _EXACT.get(c.args[0].dtype.name)
        if exact is None or not (isinstance(i, Index) and isinstance(number, Const)):
            return None
        low, high = interval(i.affine, self.ranges)
        if low is None or high is None or max(-low, high) > exact or not math.isfinite(number.value):
            return None
        below = math.floor(number.value)
        if below != number.value:
            name = {"lt": "le", "ge": "gt"}.get(name, name)
            if name in ("eq", "ne"):  # never equal: a comparison that says so
                return Op("lt" if name == "eq" else "ge", (i, Const(low, dtypes.int64)), dtypes.bool_)
        return Op(name, (i, Const(below, dtypes.int64)), dtypes.bool_)


_LOGIC = frozenset({"and", "or", "not", "select"})


def _plain(c: Expr, then: Expr, otherwise: Expr) -> Op:
    return Op("select", (c, then, otherwise), then.dtype)


def _parts(c: Expr, name: str) -> list[Expr]:
    """The operands of nested operations of one kind."""
    if isinstance(c, Op) and c.name == name and c.dtype.kind == "b":
        return [p for a in c.args for p in _parts(a, name)]
    return [c]


def _chain(name: str, parts: Sequence[Expr]) -> Expr:
    result = parts[0]
    for p in parts[1:]:
        result = expr.binary(name, result, p)
    return result


def _all(parts: Sequence[Expr]) -> Expr:
    """The conjunction of comparisons, constants folded."""
    if any(isinstance(p, Const) and not p.value for p in parts):
        return expr.constant(False)
    kept = [p for p in parts if not isinstance(p, Const)]
    return _chain("and", kept) if kept else expr.constant(True)
