"""The order primitive that cuts the range of a loop, so that conditions are decided in each part."""

from __future__ import annotations

from tensordsl.schedules.locate import edit, find_loops
from tensordsl.schedules.loopnest import For, Stmt, seq
from tensordsl.schedules.primitives.copies import parse_affine, renamed
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.errors import ScheduleError


@primitive
def partition(s: Schedule, stage: str, loop: str, at: str, suffix: str | None = None) -> Schedule:
    """Cut the range of a loop in two; guards and selects that a part decides disappear there.

    at: the first value of the second part, a text such as ``"i + 1"`` over the loops around.
    suffix: added to the names of the second part's loops.

    Requires: the point uses only loops around ``loop``, which counts by ones.
    Rewrite: ``for v in a..b: S``  ->  ``for v in a..min(b, p): S; for v in max(a, p)..b: S``
    Raises: ScheduleError for a point that cannot be read or names another loop.
    """
    targets = find_loops(s.nest, stage, loop)
    point = parse_affine(at)
    for x, path in targets.values():
        around = [y.var for y in path if isinstance(y, For)]
        for name in point.names() - set(around):
            raise ScheduleError(f'the point {at} uses {name!r}, which is no loop around "{loop}"', legal=around)
        if x.step != 1 or x.kind not in ("serial", "unroll"):
            raise ScheduleError(f'loop "{loop}" is {x.kind} with steps of {x.step}', hint="partition it before")

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        first = For(x.var, x.lo, (*x.hi, point), x.body, x.kind, 1, x.notes)
        second = For(x.var, (*x.lo, point), x.hi, x.body, x.kind, 1, x.notes)
        return seq(first, renamed(second, suffix))

    return s.with_nest(edit(s.nest.body, targets, go))
