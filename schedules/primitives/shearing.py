"""The storage primitive that moves rows from slice to slice, so that a step may overwrite its input."""

from __future__ import annotations

from dataclasses import replace

from tensordsl.schedules.loopnest import (
    CELL,
    Alloc,
    Buffer,
    Prefetch,
    Stmt,
    Store,
    map_values,
    rewrite,
)  # fmt: skip
from tensordsl.schedules.primitives.storage import _local
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import Expr, Read


@primitive
def shear(s: Schedule, buffer: str, dimension: int, by: int, factor: int) -> Schedule:
    """Store each slice of a dimension some rows further up than the one before.

    by: the dimension whose index moves the rows, ``factor`` rows with each step.  With dimension
    ``by`` folded to fewer slices afterwards, a step overwrites rows of the step before that nobody
    needs any more, instead of rows of the step before that.

    Requires: two different dimensions; the buffer is not folded yet.
    Rewrite: ``c[t, i]``  ->  ``c[t, i + factor * (last - t)]``
    Raises: ScheduleError for unknown dimensions, a factor that is no positive integer, or a folded buffer.
    """
    found = _local(s, buffer)
    rank = min(len(b.shape) for b in found)
    if not (0 <= dimension < rank and 0 <= by < rank) or dimension == by:
        raise ScheduleError(f"dimension={dimension}, by={by}: two different ones of {buffer}'s {rank} are needed")
    if factor < 1:
        raise ScheduleError(f"factor={factor} is not a positive integer")
    if any(b.fold or b.banks or b.pitch for b in found):
        raise ScheduleError(f"{buffer} is folded or padded already", hint="shear it before")
    memo: dict[int, Buffer] = {}

    def new(b: Buffer) -> Buffer:
        shape = tuple(e + factor * (b.shape[by] - 1) if d == dimension else e for d, e in enumerate(b.shape))
        return memo.setdefault(id(b), replace(b, shape=shape))

    def moved(b: Buffer, index: tuple[Affine, ...], sign: int = 1) -> tuple[Affine, ...]:
        shift = (b.shape[by] - 1 - index[by]) * (factor * sign)
        return tuple(i + shift if d == dimension else i for d, i in enumerate(index))

    def value(e: Expr) -> Expr | None:
        if isinstance(e, Read) and isinstance(e.source, Buffer) and e.source.name == buffer:
            return replace(e, source=new(e.source), index=moved(e.source, e.index))
        return None

    def stmt(x: Stmt) -> Stmt | None:
        if isinstance(x, (Store, Prefetch)) and x.buffer.name == buffer:
            return replace(x, buffer=new(x.buffer), index=moved(x.buffer, x.index))
        if isinstance(x, Alloc) and x.buffer.name == buffer:
            back = moved(x.buffer, tuple(Affine.of(CELL[d]) for d in range(len(x.buffer.shape))), -1)
            element = tuple(e.substitute({CELL[d]: i for d, i in enumerate(back)}) for e in x.element)
            return replace(x, buffer=new(x.buffer), element=element)
        return None

    return s.with_nest(rewrite(map_values(s.nest.body, value), stmt))
