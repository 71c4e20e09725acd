"""Primitives without influence on the meaning: functions, prefetches, store kinds, notes."""

from __future__ import annotations

from dataclasses import replace

from tensordsl.schedules.locate import edit, find_loops, stage_of, stages
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    If,
    Outline,
    Prefetch,
    Stmt,
    Store,
    children,
    seq,
    stores,
    walk,
    with_children,
)  # fmt: skip
from tensordsl.schedules.regions import span
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import reads


@primitive
def outline(s: Schedule, stage: str, loop: str, name: str | None = None) -> Schedule:
    """Print the body of a loop as a function of its own (each branch of an If for itself).

    Equal bodies at different places become one function, which bounds text and compile time.

    Requires: an existing loop.
    Rewrite: ``for v: S``  ->  ``for v: function f: S``
    Raises: ScheduleError for an unknown loop.
    """
    targets = find_loops(s.nest, stage, loop)

    def wrap(x: Stmt) -> Stmt:
        if isinstance(x, If):
            return If(x.conditions, wrap(x.then), None if x.otherwise is None else wrap(x.otherwise))
        return Outline(name or f"{stage}_tile", x)

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        return replace(x, body=wrap(x.body))

    return s.with_nest(edit(s.nest.body, targets, go))


@primitive
def prefetch(
    s: Schedule, stage: str, source: str, at: str, ahead: int = 1, locality: int = 3,
    along: str | None = None, spread: str | None = None, width: int = 16, lines: int = 1,
) -> Schedule:  # fmt: skip
    """Ask for cache lines that a stage reads later.

    The hint stands at the end of loop ``at``'s body, once for each read of the source there, its
    inner loops at their first iteration.  along: the loop whose iteration ``ahead`` is meant
    (None: ``at`` itself).  spread: a loop around whose first iterations ask for one line each, the
    n-th for the elements from ``n * width`` of the last dimension on, until what one iteration
    reads is covered.  lines: how many neighbouring lines, ``width`` elements apart, each hint asks for.

    Requires: the stage reads the buffer inside the loop, and the buffer lives around it.
    Rewrite: ``for v: S(B[v])``  ->  ``for v: (S(B[v]); prefetch B[v + ahead])``
    Raises: ScheduleError when nothing inside the loop reads the buffer, or it is allocated in there.
    """
    targets = find_loops(s.nest, stage, at)
    if locality not in range(4):
        raise ScheduleError(f"locality={locality}", legal="0 (use once) to 3 (keep in every cache)")
    if width < 1:
        raise ScheduleError(f"width={width} is not a positive integer")
    asked_for: list[tuple[Affine, ...]] = []

    def go(x: Stmt, around: tuple[str, ...]) -> Stmt:
        assert isinstance(x, For)
        if any(isinstance(y, Alloc) and y.buffer.name == source for y, _ in walk(x.body)):
            raise ScheduleError(f'{source} lives inside "{x.var}" only', hint="prefetch what it is filled from")
        moved = x.var if along is None else _around(along, (*around, x.var))
        hints: dict[tuple[Affine, ...], Stmt] = {}
        for st, path in stores(x):
            if stage_of(st, path) != stage:
                continue
            inner = [f for f in path if isinstance(f, For) and f is not x]
            first: dict[str, Affine] = {}
            for f in inner:  # a loop may start where one around it says
                first[f.var] = f.lo[0].substitute(first)
            ahead_of = {moved: Affine.of(moved) + ahead}
            for r in reads(st.value):
                if r.source.name == source and isinstance(r.source, Buffer):
                    index = [i.substitute(first).substitute(ahead_of) for i in r.index]
                    lead, last = index[:-1], index[-1:]  # both empty for one element
                    if spread is not None:
                        if not index:
                            raise ScheduleError(f"{source} is one element: there is nothing to spread")
                        turn = Affine.of(_around(spread, around))
                        last = [last[0] + turn * width]
                    asked = [(*lead, *(i + n * width for i in last)) for n in range(lines if last else 1)]
                    hint = seq(*[Prefetch(r.source, i, locality) for i in asked])
                    if spread is not None:
                        hint = If(((span(r.index[-1], inner).extent - 1) // width - turn,), hint)
                    hints[asked[0]] = hint
        asked_for.extend(hints)
        return replace(x, body=seq(x.body, *hints.values()))

    def walk_down(x: Stmt, around: tuple[str, ...]) -> Stmt:
        inner = (*around, x.var) if isinstance(x, For) else around
        t = with_children(x, tuple([walk_down(c, inner) for c in children(x)]))
        return go(t, around) if id(x) in targets else t

    body = walk_down(s.nest.body, ())
    if not asked_for:
        raise ScheduleError(f'{stage} reads no {source} inside "{at}"')
    return s.with_nest(body)


def _around(name: str, loops: tuple[str, ...]) -> str:
    if name not in loops:
        raise ScheduleError(f'there is no loop "{name}" around', legal=loops)
    return name


@primitive
def store_nt(s: Schedule, stage: str) -> Schedule:
    """Write a stage's result past the caches (worth it only when it is larger than they are).

    Requires: the stage is pointwise or a copy, so that each cell is written once.
    Rewrite: ``C[i] = x``  ->  ``C[i] = x  (non-temporal)``
    Raises: ScheduleError for an unknown stage or an accumulating one.
    """
    found = False

    def go(x: Stmt, path: tuple[Stmt, ...]) -> Stmt:
        nonlocal found
        if isinstance(x, Store) and stage_of(x, path) == stage:
            if x.instance.kind not in ("compute", "copy"):
                raise ScheduleError(f"{stage} accumulates: its cells are written more than once")
            found = True
            return replace(x, nt=True)
        return with_children(x, tuple([go(c, (*path, x)) for c in children(x)]))

    body = go(s.nest.body, ())
    if not found:
        known = stages(s.nest)
        raise ScheduleError(f"there is no stage {stage!r}", legal=known)
    return s.with_nest(body)


@primitive
def annotate(s: Schedule, stage: str, loop: str, note: str) -> Schedule:
    """Attach a note to a loop for a printer or a later step.

    Requires: an existing loop.
    Rewrite: ``for v``  ->  ``for v`` with the note
    Raises: ScheduleError for an unknown loop.
    """
    targets = find_loops(s.nest, stage, loop)

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        return replace(x, notes=(*x.notes, note))

    return s.with_nest(edit(s.nest.body, targets, go))
