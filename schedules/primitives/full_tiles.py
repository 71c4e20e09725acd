"""Where the full tiles of a loop end, if its number of iterations is known only at the call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tensordsl.schedules.loopnest import For, If, Stmt, Store, children, seq
from tensordsl.schedules.simplify import Context

from tensordsl import conditions, expr
from tensordsl.affine import Affine
from tensordsl.expr import Op


def full_tiles(x: For, around: Context) -> Stmt:
    """The loop over its full tiles, then one over the partial tile, if there is one.

    Where the conditions inside end at several points, or nothing depends on the loop, it stays as it is.
    """
    ends = {e for c in _open_conditions(x, around) if (e := _end(c, x)) is not None}
    if len(ends) != 1:
        return x
    [(rest, by)] = ends
    full = (rest + by) // by
    [hi] = x.hi
    known = hi == (rest + by + (by - 1)) // by  # then no more tiles are full than there are
    first = replace(x, hi=(full,) if known else (full, hi))
    return seq(first, replace(x, lo=(full,) if known and x.lo == (Affine(),) else (*x.lo, full)))


def _open_conditions(x: For, around: Context) -> Iterator[Affine]:
    """What decides inside whether a tile is full, at the inner iterations where it decides most."""

    def go(y: Stmt, c: Context) -> Iterator[Affine]:
        found: list[Affine] = []
        if isinstance(y, For):
            found += [b - a for a in y.hi for b in y.hi if a is not b and a.is_constant]
            found += [b - a for a in y.lo for b in y.lo if a is not b and b.is_constant]
        if isinstance(y, If):
            found += y.conditions
        if isinstance(y, Store):
            choices = [e.args[0] for e in expr.walk(y.value) if isinstance(e, Op) and e.name == "select"]
            found += [k for e in choices for k in conditions.conditions(e) or ()]
        yield from (_least(k, c, len(around.loops)) for k in found if x.var in k.names() and not c.implies(k))
        for child in children(y):
            yield from go(child, c.inside(y))

    yield from go(x.body, around.inside(x))


def _least(condition: Affine, c: Context, outer: int) -> Affine:
    """The condition at the values of the loops inside for which it is hardest."""
    for f in reversed(c.loops[outer + 1 :]):
        k = condition.coefficient(f.var)
        ends = [h - 1 for h in f.hi if h.is_constant] if k < 0 else [lo for lo in f.lo if lo.is_constant]
        if k and ends:
            condition = condition.substitute({f.var: ends[0]})
    return condition


def _end(condition: Affine, x: For) -> tuple[Affine, int] | None:
    """(rest, by) of a condition ``rest - by * loop >= 0``."""
    by = -condition.coefficient(x.var)
    rest = condition + Affine.of(x.var) * by
    inside = {s.var for s in _loops(x.body)}
    return (rest, by) if by > 0 and x.var not in rest.names() and not rest.names() & inside else None


def _loops(s: Stmt) -> Iterator[For]:
    if isinstance(s, For):
        yield s
    for c in children(s):
        yield from _loops(c)
