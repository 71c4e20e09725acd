"""An order primitive on reductions: their start as a nest of its own."""

from __future__ import annotations

from dataclasses import replace

from tensordsl.schedules.locate import edit, find_loops
from tensordsl.schedules.loopnest import (
    Alloc,
    For,
    If,
    Seq,
    Stmt,
    Store,
    children,
    rewrite,
    seq,
    stores,
    with_children,
)  # fmt: skip
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.errors import ScheduleError


@primitive
def decompose_reduction(s: Schedule, stage: str, loop: str) -> Schedule:
    """Start a reduction before a loop, in loops of its own, instead of in the loop's first iteration.

    Requires: the stage's start lies inside the loop.
    Rewrite: ``for k: for i: (if k == 0: C[i] = 0); C[i] += ..``  ->  ``for i: C[i] = 0; for k: for i: C[i] += ..``
    Raises: ScheduleError for an unknown loop, or where the start is not inside it.
    """
    targets = find_loops(s.nest, stage, loop)

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        return _decomposed(x, stage)

    return s.with_nest(edit(s.nest.body, targets, go))


def _decomposed(x: For, stage: str) -> Stmt:
    found = [(st, p) for st, p in stores(x) if st.instance.kind == "init" and st.instance.tensor == stage]
    if not found:
        raise ScheduleError(f'{stage} starts outside "{x.var}"')
    starts: list[Stmt] = []
    for store, path in found:
        if any(isinstance(s, Alloc) and s.buffer.name == store.buffer.name for s in path):
            raise ScheduleError(
                f'{stage} accumulates in {store.buffer.name}, which lives inside "{x.var}" only',
                hint="decompose the reduction before it is cached or placed",
            )
        names = {n for i in (*store.index, *store.instance.index) for n in i.names()}
        start: Stmt = store
        for s in reversed(path):
            if isinstance(s, For) and (s.var in names or s.var in _bounds(start)):
                start = replace(s, body=start)
            elif isinstance(s, If):
                kept = tuple(c for c in s.conditions if c.names() & names and not c.names() - names)
                start = If(kept, start) if kept else start
        starts.append(start)
    gone = {id(st) for st, _ in found}
    rest = rewrite(x, lambda y: Seq(()) if id(y) in gone else without_nothing(y))
    return seq(*starts, rest)


def _bounds(s: Stmt) -> set[str]:
    """The variables that the bounds of a nest's loops use."""
    names: set[str] = set()
    while True:
        if isinstance(s, For):
            names |= {n for b in s.lo + s.hi for n in b.names()}
        inner = children(s)
        if not inner:
            return names
        s = inner[0]


def without_nothing(s: Stmt) -> Stmt | None:
    """Nothing, for a loop or branch without statements."""
    if isinstance(s, Store) or not children(s):
        return None
    if isinstance(s, (For, If)) and all(isinstance(c, Seq) and not c.items for c in children(s)):
        return Seq(())
    return with_children(s, children(s))
