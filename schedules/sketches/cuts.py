"""Cutting the ranges of loops where conditions inside them change, so that inner loops are straight.

A condition that depends on loops further in is decided for all of their iterations on either side of
two points; between the two it stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tensordsl.schedules.locate import stage_of
from tensordsl.schedules.loopnest import For, If, Stmt, Store, children, stores
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.simplify import Context

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.expr import Op


def is_copy(var: str, loop: str) -> bool:
    """Is a loop the one of that name, or a part of it that a cut made?"""
    return var == loop or var.startswith(f"{loop}.")


def cut(s: Schedule, stages: set[str], loops: Sequence[str], most: int, suffix: str) -> Schedule:
    """Cut the given loops of some stages until no condition changes in their parts, the outermost first.

    most: statements past which nothing is cut.  suffix: of the names of the parts, with a number.
    """
    tried: set[tuple[str, str, Affine]] = set()
    while sum(1 for _ in stores(s.nest.body)) <= most:
        found = next((f for f in _points(s.nest.body, stages, loops, Context()) if f not in tried), None)
        if found is None:
            return s
        stage, loop, point = found
        tried.add(found)
        s = s.partition(stage, loop, str(point), suffix=f"{suffix}{len(tried)}")
    return s


def _points(x: Stmt, stages: set[str], loops: Sequence[str], c: Context) -> Iterator[tuple[str, str, Affine]]:
    """Where an undecided condition is decided from: (a stage inside, loop, first value of the second part)."""
    if isinstance(x, For):
        inside = c.inside(x)
        stage = next((n for st, path in stores(x) if (n := stage_of(st, path)) in stages), None)
        if stage is not None and x.step == 1 and any(is_copy(x.var, n) for n in loops):
            known = {f.var for f in c.loops}
            for condition, inner in dict.fromkeys(_undecided(x.body, inside, ())):
                for point in _decided_from(condition, x.var, inner):
                    if point.names() <= known and not _beyond(point, x, inside):
                        yield stage, x.var, point
        c = inside
    if isinstance(x, If):
        yield from _points(x.then, stages, loops, c.inside(x))
        if x.otherwise is not None:
            yield from _points(x.otherwise, stages, loops, c)
        return
    for child in children(x):
        yield from _points(child, stages, loops, c)


def _undecided(x: Stmt, c: Context, inner: tuple[For, ...]) -> Iterator[tuple[Affine, tuple[For, ...]]]:
    """Conditions of guards, selects and double bounds, with the loops further in."""
    if isinstance(x, If):
        yield from ((k, inner) for k in x.conditions if _open(k, c))
    if isinstance(x, Store):
        for e in expr.walk(x.value):
            if isinstance(e, Op) and e.name == "select":
                yield from ((k, inner) for k in expr.conditions(e.args[0]) or () if _open(k, c))
    if isinstance(x, For):
        for bounds in (x.lo, x.hi):
            yield from ((a - b, inner) for a in bounds for b in bounds if a is not b and _open(a - b, c))
        inner = (*inner, x)
    c = c.inside(x)
    for child in children(x):
        yield from _undecided(child, c, inner)


def depends_on(x: For) -> bool:
    """Is a condition inside a loop not the same for all of its iterations?"""
    return any(x.var in k.names() for k, _ in _undecided(x.body, Context((x,)), ()))


def _open(condition: Affine, c: Context) -> bool:
    return not c.implies(condition) and not c.excludes(condition)


def _decided_from(condition: Affine, var: str, inner: tuple[For, ...]) -> list[Affine]:
    """The values of a loop from which on a condition holds, or fails, in all iterations of the loops inside."""
    points = []
    for sign in (1, -1):
        g = _extreme(condition, inner, sign)
        if g is None:
            continue
        k = g.coefficient(var)
        rest = g - Affine.of(var) * k
        if not k or var in rest.names():
            continue
        point = -(rest // k) if k > 0 else rest // -k + 1
        if not any(not isinstance(atom, str) for atom, _ in point.terms):
            points.append(point)
    return list(dict.fromkeys(points))


def _extreme(a: Affine, inner: tuple[For, ...], sign: int) -> Affine | None:
    """The least (sign 1) or greatest (-1) value over the loops further in."""
    for f in reversed(inner):
        k = a.coefficient(f.var) * sign
        if not k:
            continue
        ends = f.lo if k > 0 else tuple(h - 1 for h in f.hi)
        end = next((b for b in ends if not b.terms), ends[0])
        a = a.substitute({f.var: end})
    return a


def _beyond(point: Affine, f: For, c: Context) -> bool:
    """Does a point leave one of the two parts empty?"""
    v = Affine.of(f.var)
    return c.implies(v - point) or c.implies(point - 1 - v)
