"""A definition primitive on the order of a buffer's dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from tensordsl.schedules.loopnest import CELL, Alloc, Buffer, Stmt, map_accesses, rewrite, walk
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError

T = TypeVar("T")


@primitive
def transform_layout(s: Schedule, buffer: str, order: Sequence[int]) -> Schedule:
    """Store the dimensions of a buffer in another order, the slowest first.

    order: the old dimension that each new one is.

    Requires: the buffer is not the caller's memory, and neither padded nor banked.
    Rewrite: ``c[i, j] = ..``  ->  ``c[j, i] = ..``
    Raises: ScheduleError for another buffer, or an order that is no permutation of its dimensions.
    """
    found = [x.buffer for x, _ in walk(s.nest.body) if isinstance(x, Alloc) and x.buffer.name == buffer]
    if not found:
        known = sorted({x.buffer.name for x, _ in walk(s.nest.body) if isinstance(x, Alloc)})
        raise ScheduleError(f"the kernel has no buffer {buffer!r} of its own", legal=known)
    for b in found:
        if sorted(order) != list(range(len(b.shape))):
            raise ScheduleError(f"order={list(order)!r} is no permutation of the {len(b.shape)} dimensions of {buffer}")
        if b.pitch or b.banks:
            raise ScheduleError(f"{b} is padded already", hint="transform the layout before")
    memo: dict[int, Buffer] = {}

    def new(b: Buffer) -> Buffer:
        folds = b.fold + (0,) * (len(b.shape) - len(b.fold))
        fold = _permuted(folds, order) if any(folds) else ()
        return memo.setdefault(id(b), replace(b, shape=_permuted(b.shape, order), fold=fold))

    def access(b: Buffer, index: tuple[Affine, ...]) -> tuple[Buffer, tuple[Affine, ...]] | None:
        return (new(b), _permuted(index, order)) if b.name == buffer else None

    def stmt(x: Stmt) -> Stmt | None:
        if isinstance(x, Alloc) and x.buffer.name == buffer:
            cells = {CELL[old]: Affine.of(CELL[k]) for k, old in enumerate(order)}
            return replace(x, buffer=new(x.buffer), element=tuple(i.substitute(cells) for i in x.element))
        return None

    return s.with_nest(rewrite(map_accesses(s.nest.body, access), stmt))


def _permuted(items: tuple[T, ...], order: Sequence[int]) -> tuple[T, ...]:
    return tuple(items[k] for k in order)
