"""Order primitives for sums of earlier results: collected when needed, or pushed as soon as a result is there."""

from __future__ import annotations

from dataclasses import replace

from tensordsl.schedules.locate import edit, find_loops, stage_stores
from tensordsl.schedules.loopnest import For, Seq, Stmt, items, rewrite, seq, stores, substitute
from tensordsl.schedules.primitives.decompose import without_nothing
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError


@primitive
def push(s: Schedule, stage: str, loop: str, reduction: str) -> Schedule:
    """Add each result of a loop to the sums that need it at once, instead of collecting terms before each result.

    The left-looking form of a recurrence becomes its right-looking one.

    Requires: the body of ``loop`` begins with the loop ``reduction`` of the stage, which starts where
    ``loop`` starts and ends at its iteration (both up to one constant distance).
    Rewrite: ``for j in a..b: (for k in a..j: S[j] += f(k); T[j])``  ->
        ``for j in a..b: (T[j]; for k in j+1..b: S[k] += f(j))``
    Raises: ScheduleError for another body or other bounds, or when a sum would not be complete in time.
    """
    s = s.with_nest(s.nest.body)  # bounds that always hold are dropped
    targets = find_loops(s.nest, stage, loop)

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        if all(st.instance.kind == "init" for st, _ in stores(x)):  # the start of the sums in a loop of its own
            return x
        return _pushed(x, stage, reduction)

    return s.with_nest(edit(s.nest.body, targets, go))


def _pushed(x: For, stage: str, reduction: str) -> Stmt:
    first, *rest = items(x.body)
    if not isinstance(first, For) or first.var not in (reduction, f"{stage}.{reduction}"):
        raise ScheduleError(f'the body of "{x.var}" does not begin with loop "{reduction}"')
    distance = [h - Affine.of(x.var) for h in first.hi]
    if len(x.lo) != 1 or len(first.lo) != 1 or len(distance) != 1 or x.var in distance[0].names():
        raise ScheduleError(f'loop "{first.var}" does not end at each iteration of "{x.var}"')
    if first.lo[0] - x.lo[0] != distance[0] or x.step != 1 or first.step != 1:
        raise ScheduleError(f'loop "{first.var}" does not start where "{x.var}" does')
    later = substitute(first.body, {first.var: Affine.of(x.var) + distance[0], x.var: Affine.of(first.var)})
    inner = For(first.var, (Affine.of(x.var) + 1,), x.hi, later, first.kind, 1, first.notes)
    return replace(x, body=seq(*rest, inner))


@primitive
def drop(s: Schedule, stage: str, loop: str) -> Schedule:
    """Leave out what a stage computes in a loop, where nobody reads it.

    Requires: no reader of these elements is left, and they are no results of the program.
    Rewrite: ``for v: (S; T)``  ->  ``for v: T``
    Raises: ScheduleError with a read that would find nothing.
    """
    targets = find_loops(s.nest, stage, loop)

    gone = {id(st) for st, path in stage_stores(s.nest, stage) if any(id(f) in targets for f in path)}
    return s.with_nest(rewrite(s.nest.body, lambda x: Seq(()) if id(x) in gone else without_nothing(x)))
