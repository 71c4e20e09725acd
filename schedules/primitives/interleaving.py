"""The order primitive that runs loops one after another as one loop, each some iterations behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tensordsl.schedules.locate import edit, find_loops
from tensordsl.schedules.loopnest import For, If, Seq, Stmt, seq, substitute, variables
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError


@primitive
def interleave(s: Schedule, stage: str, loop: str, delays: Sequence[int]) -> Schedule:
    """Run the loops that stand one after another in a loop's body as one loop, each some iterations behind.

    loop: the loop around them.  delays: for each of them, how many iterations it lags.

    Requires: the body consists of loops that count by ones, each from one bound to one bound, which
    differ from those of the first by constants.
    Rewrite: ``for t: (for i in 0..n: S; for i in 0..n: T)``  ->
        ``for t: for i in 0..n+d: (if i < n: S; if i >= d: T[i = i - d])``
    Raises: ScheduleError for another body, another number of delays, or where a value is needed before it
    is computed.
    """
    targets = find_loops(s.nest, stage, loop)

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        return replace(x, body=_joined(x, delays))

    return s.with_nest(edit(s.nest.body, targets, go))


def _joined(x: For, delays: Sequence[int]) -> Stmt:
    parts = x.body.items if isinstance(x.body, Seq) else (x.body,)
    loops = [y for y in parts if isinstance(y, For) and y.step == 1 and len(y.lo) == len(y.hi) == 1]
    if len(loops) != len(parts):
        raise ScheduleError(f'the body of "{x.var}" does not consist of loops from one bound to one bound')
    if len(loops) != len(delays):
        raise ScheduleError(f'{len(delays)} delays for the {len(loops)} loops in "{x.var}"')
    first = loops[0]
    lows = [y.lo[0] + d - first.lo[0] for y, d in zip(loops, delays)]
    highs = [y.hi[0] + d - first.hi[0] for y, d in zip(loops, delays)]
    if any(a.terms for a in (*lows, *highs)):
        raise ScheduleError(f'the loops in "{x.var}" do not run over ranges that differ by constants')
    for y in loops[1:]:
        if first.var != y.var and first.var in variables(y.body):
            raise ScheduleError(f'a loop "{first.var}" stands inside "{y.var}" already', hint="split with other names")
    lo = first.lo[0] + min(a.const for a in lows)
    hi = first.hi[0] + max(a.const for a in highs)
    i = Affine.of(first.var)
    bodies = []
    for y, d in zip(loops, delays):
        inside = (i - d - y.lo[0], y.hi[0] - 1 - i + d)
        bodies.append(If(inside, substitute(y.body, {y.var: i - d})))
    return For(first.var, (lo,), (hi,), seq(*bodies))
