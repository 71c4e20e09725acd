"""The storage primitive that stores the dimensions of a buffer in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tensordsl.schedules.loopnest import (
    CELL,
    Alloc,
    Buffer,
    Prefetch,
    Stmt,
    Store,
    buffers,
    map_values,
    rewrite,
    walk,
)  # fmt: skip
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import Expr, Read


@primitive
def permute(s: Schedule, buffer: str, order: Sequence[int]) -> Schedule:
    """Store the dimensions of a buffer in another order, the last one contiguous.

    order: for each new dimension, the old one.

    Requires: the buffer is not the caller's memory, and its rows are not padded yet.
    Rewrite: ``alloc c[n, m]; c[i, j] = ..``  ->  ``alloc c[m, n]; c[j, i] = ..``
    Raises: ScheduleError for an unknown buffer, the caller's, or an order that is none of its dimensions.
    """
    known = buffers(s.nest)
    if buffer not in known:
        raise ScheduleError(f"there is no buffer {buffer!r}", legal=sorted(known))
    if known[buffer].scope == "external":
        raise ScheduleError(f"{buffer} is the caller's memory", hint="cache it in a buffer of the kernel's own")
    found = [x.buffer for x, _ in walk(s.nest.body) if isinstance(x, Alloc) and x.buffer.name == buffer]
    if any(sorted(order) != list(range(len(b.shape))) for b in found):
        raise ScheduleError(
            f"order={list(order)} does not name each of {buffer}'s {len(found[0].shape)} dimensions once"
        )
    if any(b.pitch or b.banks for b in found):
        raise ScheduleError(f"the rows of {buffer} are padded already", hint="permute it before")
    memo: dict[int, Buffer] = {}

    def new(b: Buffer) -> Buffer:
        folds = b.fold + (0,) * (len(b.shape) - len(b.fold))
        fold = tuple(folds[d] for d in order) if any(folds) else ()
        return memo.setdefault(id(b), replace(b, shape=tuple(b.shape[d] for d in order), fold=fold))

    def moved(index: tuple[Affine, ...]) -> tuple[Affine, ...]:
        return tuple(index[d] for d in order)

    def value(e: Expr) -> Expr | None:
        if isinstance(e, Read) and isinstance(e.source, Buffer) and e.source.name == buffer:
            return replace(e, source=new(e.source), index=moved(e.index))
        return None

    def stmt(x: Stmt) -> Stmt | None:
        if isinstance(x, (Store, Prefetch)) and x.buffer.name == buffer:
            return replace(x, buffer=new(x.buffer), index=moved(x.index))
        if isinstance(x, Alloc) and x.buffer.name == buffer:
            cells = {CELL[d]: Affine.of(CELL[k]) for k, d in enumerate(order)}
            return replace(x, buffer=new(x.buffer), element=tuple(e.substitute(cells) for e in x.element))
        return None

    return s.with_nest(rewrite(map_values(s.nest.body, value), stmt))
