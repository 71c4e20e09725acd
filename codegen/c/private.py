"""Storage inside a vector loop: one copy for every lane.

A buffer allocated in the body of a loop is new in each iteration.  The lanes of a vector loop run
side by side, so there it gets a dimension of its own for the lane.
"""

from __future__ import annotations

from dataclasses import replace

from tensordsl.codegen.c.extents import allocates, static_extent
from tensordsl.schedules.loopnest import Alloc, Buffer, For, Stmt, children, map_accesses, rewrite, with_children

from tensordsl.affine import Affine


def private(s: Stmt) -> Stmt:
    """The statement with every allocation in a vector loop spread over its iterations."""
    inner = with_children(s, tuple([private(c) for c in children(s)]))
    if not (isinstance(inner, For) and inner.kind == "vector" and allocates(inner.body)):
        return inner
    e = static_extent(inner.lo, inner.hi, inner.step, inner.var, {})
    if e is None or e.guards:
        return replace(inner, kind="serial")  # no lanes to spread over
    lane, extent = (Affine.of(inner.var) - e.start) // inner.step, max(1, e.count)

    def spread(x: Stmt) -> Stmt | None:
        return _spread(x, extent, lane) if isinstance(x, Alloc) else None

    return replace(inner, body=rewrite(inner.body, spread))


def _spread(s: Alloc, extent: int, lane: Affine) -> Alloc:
    """The allocation with a last dimension for the lanes."""
    b = s.buffer
    fold = (*b.fold, *(0,) * (len(b.shape) + 1 - len(b.fold))) if any(b.fold) else ()
    wide = replace(b, shape=(*b.shape, extent), pitch=0, fold=fold)

    def place(buffer: Buffer, index: tuple[Affine, ...]) -> tuple[Buffer, tuple[Affine, ...]] | None:
        return (wide, (*index, lane)) if buffer.name == b.name else None

    return replace(s, buffer=wide, body=map_accesses(s.body, place))
