"""Bounds of affine expressions inside a nest, and the simplification they allow.

Loop bounds are minima and maxima of affine terms; guards come from splitting by sizes that do not
divide.  Once sizes are numbers, most of them are decided: bounds that never bind are dropped,
guards that always hold vanish.  Loops of one iteration
stay, since later steps may name them, but their variable is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tensordsl.schedules.divisions import decided
from tensordsl.schedules.loopnest import (
    For,
    If,
    Seq,
    Stmt,
    Store,
    children,
    seq,
    substitute,
    with_children,
)  # fmt: skip

from tensordsl import conditions, expr
from tensordsl.affine import Affine, Datum, Dim, Quasi, interval, is_symbolic
from tensordsl.expr import Expr, Op


@dataclass(frozen=True, slots=True)
class Context:
    """What is known at a place of a nest: the loops around it, outermost first, and guards (>= 0)."""

    loops: tuple[For, ...] = ()
    facts: tuple[Affine, ...] = ()

    def inside(self, s: Stmt) -> Context:
        """The context in the body of a loop or in the first branch of an If."""
        if isinstance(s, For):
            return Context((*self.loops, s), self.facts)
        if isinstance(s, If):
            return Context(self.loops, self.facts + s.conditions)
        return self

    def minimum(self, a: Affine) -> int | None:
        """A lower bound of ``a`` (exact for boxes and nested bounds), None where there is none."""
        return self._bound(a, len(self.loops) - 1, 1)

    def maximum(self, a: Affine) -> int | None:
        """An upper bound of ``a``, None where there is none."""
        low = self._bound(-a, len(self.loops) - 1, 1)
        return None if low is None else -low

    def _bound(self, a: Affine, last: int, _: int) -> int | None:
        if not a.terms:
            return a.const
        for atom, c in a.terms:
            if isinstance(atom, Quasi):
                low, high = self._quasi(atom)
                value = low if c > 0 else high
                if atom.kind == "div" and c % atom.by == 0 and (value is None or is_symbolic(atom.argument)):
                    k = c // atom.by  # n * (x // n) lies between x - n + 1 and x
                    near = a - Affine(((atom, c),)) + atom.argument * k - max(0, k) * (atom.by - 1)
                    found = self._bound(near, last, 1)
                    if found is not None and (value is None or found >= 0):
                        return found
                if value is None:
                    return None
                rest = Affine(tuple(t for t in a.terms if t[0] is not atom), a.const + c * value)
                return self._bound(rest, last, 1)
        for k in range(last, -1, -1):
            f = self.loops[k]
            c = a.coefficient(f.var)
            if not c:
                continue
            best: int | None = None
            ends = f.lo if c > 0 else tuple(h - 1 for h in f.hi)
            rest = a - Affine(((f.var, c),))
            for end in ends:
                low = self._bound(rest + end * c, k - 1, 1)
                if low is not None and (best is None or low > best):
                    best = low
            return best
        for atom, c in a.terms:  # after the loops, whose bounds may be the same number
            if isinstance(atom, Datum):
                rest = Affine(tuple(t for t in a.terms if t[0] is not atom), a.const)
                return self._bound(rest + c * (atom.low if c > 0 else atom.high), -1, 1)
        return interval(a, {})[0] if is_symbolic(a) else None

    def _quasi(self, atom: Quasi) -> tuple[int | None, int | None]:
        low, high = self.minimum(atom.argument), self.maximum(atom.argument)
        if atom.kind == "div":
            return (None if low is None else low // atom.by, None if high is None else high // atom.by)
        if low is not None and high is not None and low // atom.by == high // atom.by:
            return low % atom.by, high % atom.by
        return 0, atom.by - 1

    def implies(self, condition: Affine) -> bool:
        """Does ``condition >= 0`` hold for every iteration that gets here?"""
        low = self.minimum(condition)
        if low is not None and low >= 0:
            return True
        for fact in self.facts:
            low = self.minimum(condition - fact)
            if low is not None and low >= 0:
                return True
        return False

    def excludes(self, condition: Affine) -> bool:
        """Is ``condition >= 0`` false for every iteration that gets here?"""
        return self.implies(-condition - 1)

    def is_empty(self, f: For) -> bool:
        return any(self.implies(lo - hi) for lo in f.lo for hi in f.hi)


def context(path: Iterable[Stmt]) -> Context:
    """The context at the end of a path of statements (branches: see `Context.inside`)."""
    c = Context()
    for s in path:
        if isinstance(s, For):
            c = c.inside(s)
    return c


def simplify(s: Stmt, c: Context | None = None) -> Stmt:
    """The same nest with decided bounds, guards and selects resolved."""
    return _simplify(s, c or Context()) or Seq(())


def _simplify(s: Stmt, c: Context) -> Stmt | None:
    if isinstance(s, For):
        return _simplify_loop(s, c)
    if isinstance(s, If):
        return _simplify_if(s, c)
    if isinstance(s, Store):
        s = decided(s, lambda a: (c.minimum(a), c.maximum(a)))
        value = _simplify_value(s.value, c)
        return s if value is s.value else replace(s, value=value)
    if isinstance(s, Seq):
        parts = [_simplify(x, c) for x in s.items]
        kept = [p for p in parts if p is not None]
        if len(kept) == len(s.items) and all(a is b for a, b in zip(kept, s.items)):
            return s
        return seq(*kept) if kept else None
    inner = children(s)
    if not inner:
        return s
    body = _simplify(inner[0], c)
    return None if body is None else with_children(s, (body,))


def _simplify_loop(s: For, c: Context) -> Stmt | None:
    lo, hi = _tightest(s.lo, c, 1), _tightest(s.hi, c, -1)
    f = s if lo == s.lo and hi == s.hi else replace(s, lo=lo, hi=hi)
    if c.is_empty(f):
        return None
    inner = s.body
    if len(lo) == len(hi) == 1 and s.step == 1 and (hi[0] - lo[0]) == Affine((), 1):
        inner = substitute(inner, {s.var: lo[0]})
    body = _simplify(inner, c.inside(f))
    if body is None:
        return None
    return f if body is s.body else replace(f, body=body)


def _tightest(bounds: tuple[Affine, ...], c: Context, sign: int) -> tuple[Affine, ...]:
    """Without the bounds that another one implies (sign 1: lower bounds, -1: upper bounds)."""
    kept = list(dict.fromkeys(bounds))
    for b in list(kept):
        others = [x for x in kept if x is not b]
        if b.is_constant and sign < 0 and all(_known_at_call(x) for x in others):
            continue  # a tile stays one of constant size, of which a part is left out
        if any(c.implies((x - b) * sign) for x in others):
            kept = others
    return bounds if len(kept) == len(bounds) else tuple(kept)


def _known_at_call(a: Affine) -> bool:
    return any(isinstance(n, Dim) for n in a.names())


def _simplify_if(s: If, c: Context) -> Stmt | None:
    if any(c.excludes(x) for x in s.conditions):
        return None if s.otherwise is None else _simplify(s.otherwise, c)
    open_conditions = tuple(x for x in s.conditions if not c.implies(x))
    then = _simplify(s.then, c.inside(replace(s, conditions=open_conditions)))
    if not open_conditions:
        return then
    otherwise = None
    if s.otherwise is not None:
        facts = (-open_conditions[0] - 1,) if len(open_conditions) == 1 else ()
        otherwise = _simplify(s.otherwise, Context(c.loops, c.facts + facts))
    if then is None and otherwise is None:
        return None
    if then is None:
        if len(open_conditions) == 1 and otherwise is not None:
            return If((-open_conditions[0] - 1,), otherwise)
        then = Seq(())
    return If(open_conditions, then, otherwise)


def _simplify_value(value: Expr, c: Context) -> Expr:
    if not any(isinstance(e, Op) and e.name == "select" for e in expr.walk(value)):
        return value

    def choose(e: Expr) -> Expr | None:
        if isinstance(e, Op) and e.name == "select":
            known = conditions.facts(e.args[0])
            if known is not None:
                if all(c.implies(k) for k in known):
                    return e.args[1]
                if any(c.excludes(k) for k in known):
                    return e.args[2]
                condition = _open_part(e.args[0], c)
                if condition is not e.args[0]:
                    return replace(e, args=(condition, *e.args[1:]))
        return None

    return expr.transform(value, choose)


def simplify_value(value: Expr, c: Context) -> Expr:
    """An expression with the selects resolved that the context decides."""
    return _simplify_value(value, c)


def _open_part(condition: Expr, c: Context) -> Expr:
    """A conjunction without the parts that always hold (one part stays at least)."""
    if isinstance(condition, Op) and condition.name == "and":
        left, right = condition.args
        for part, other in ((left, right), (right, left)):
            known = conditions.facts(part)
            if known is not None and all(c.implies(k) for k in known):
                return _open_part(other, c)
        new = (_open_part(left, c), _open_part(right, c))
        if new[0] is not left or new[1] is not right:
            return replace(condition, args=new)
    return condition
