"""One pass over a large matrix for several products: the rows that one of them reads serve the others.

``A^T r`` goes through A a few rows at a time (see `streaming`), ``A p`` row by row.  Loops that use the
same rows run together, so that each row comes from memory once.
"""

from __future__ import annotations

from collections.abc import Iterator

from tensordsl.schedules.locate import stage_of
from tensordsl.schedules.loopnest import Alloc, Buffer, For, LoopNest, Stmt, items, stores
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches.rows import try_step

from tensordsl import expr
from tensordsl.affine import Affine

#: A stage, its loop over rows, whether it comes before the product, rows of a block of the product.
Shared = tuple[str, str, bool, int]


def share_rows(s: Schedule, stage: str, axis: str, large: int) -> Schedule:
    """The schedule with loops that use the rows of a streamed product's matrix jammed into its loop.

    stage: the product, whose loop ``axis.o`` goes through blocks of rows.  large: bytes of a matrix
    worth it.
    """
    tried: set[str] = set()
    while found := next((x for x in _partners(s.nest, stage, f"{axis}.o", large) if x[0] not in tried), None):
        tried.add(found[0])
        joined = try_step(s, lambda x, f=found: _joined(x, stage, f"{axis}.o", f))
        if joined is not s and find_violation(joined.nest) is None:
            s = joined
    return s


def _joined(s: Schedule, stage: str, block: str, found: Shared) -> Schedule:
    other, loop, first, rows = found
    s = s.split(other, loop, rows, names=(block, f"{loop}.i"))
    return s.jam(other, stage, block) if first else s.jam(stage, other, block)


def _partners(nest: LoopNest, stage: str, block: str, large: int) -> Iterator[Shared]:
    """Loops beside that of the stage over the rows of the same matrix: (a stage in it, its loop, does it
    come first, rows of a block)."""
    top = list(_top(nest.body))
    at = next((k for k, f in enumerate(top) if f.var == block and stage in _stages(f)), None)
    if at is None:
        return
    used = {b: rows for b, rows in _rows(top[at]) if b.size() * b.dtype.bytes >= large}
    for k, f in enumerate(top):
        if k == at or f.kind != "serial" or f.step != 1 or f.lo != (Affine(),) or len(f.hi) != 1:
            continue
        for b, size in _rows(f):
            if b in used and size == 1 and f.hi[0] == Affine((), b.shape[0]):
                yield _stages(f)[0], f.var, k < at, used[b]
                break


def _top(x: Stmt) -> Iterator[For]:
    """The outermost loops."""
    for y in items(x):
        if isinstance(y, Alloc):
            yield from _top(y.body)
        elif isinstance(y, For):
            yield y


def _stages(f: For) -> list[str]:
    return list(dict.fromkeys(stage_of(st, (f, *p)) for st, p in stores(f)))


def _rows(f: For) -> Iterator[tuple[Buffer, int]]:
    """Matrices whose rows a loop uses, and how many of them in one iteration."""
    for st, _ in stores(f):
        accesses = [(st.buffer, st.index), *((r.source, r.index) for r in expr.reads(st.value))]
        for b, index in accesses:
            if isinstance(b, Buffer) and len(b.shape) > 1 and index[0].coefficient(f.var) > 0:
                yield b, index[0].coefficient(f.var)
