"""Pointwise stages that read columns where they write rows: square tiles, transposed in registers."""

from __future__ import annotations

from typing import NamedTuple

from tensordsl.schedules.analysis import cost, depends, stride
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches.contraction import has_loop

from tensordsl import expr
from tensordsl.expr import Index, Read
from tensordsl.sizes import likely
from tensordsl.targets import Target
from tensordsl.tensor import Definition, Tensor

#: The body is written out once per row of a tile.
CHEAP = 16


class Transposition(NamedTuple):
    """along: the axis that runs through the memory of the sources while the last axis jumps."""

    along: str
    sources: tuple[str, ...]
    size: int


def transposition(t: Tensor, d: Definition, target: Target) -> Transposition | None:
    """The tile, or None where no source is read in columns or its rows do not form tiles."""
    if d.reducer is not None or len(d.axes) < 2 or cost(d.body) > CHEAP:
        return None
    if any(isinstance(e, Index) for e in expr.walk(d.body)):
        return None
    last = d.axes[-1]
    size = min(target.lanes(t.dtype), target.registers // 2)
    columns = [r for r in d.reads if depends(r, last.name) and _step(r, last.name) >= size]
    names = tuple(dict.fromkeys(r.source.name for r in columns))
    for a in d.axes[:-1]:
        if (
            columns
            and all(_through(r, a.name, t) for r in columns)
            and min(likely(a.extent), likely(last.extent)) >= size // 2
        ):
            # a tile holds one box of each source
            return Transposition(a.name, names, size) if len(names) == len(columns) == _reads(d, names) else None
    return None


def _step(r: Read, axis: str) -> int:
    """Elements between the reads of neighbouring values of an axis, 0 where that varies."""
    n = stride(r, axis)
    return 0 if n is None else abs(likely(n))


def _through(r: Read, axis: str, t: Tensor) -> bool:
    return stride(r, axis) == 1 and r.dtype.bytes == t.dtype.bytes


def _reads(d: Definition, names: tuple[str, ...]) -> int:
    return sum(r.source.name in names for r in d.reads)


def apply_transposition(s: Schedule, stage: str, d: Definition, tile: Transposition) -> Schedule:
    """The stage in tiles.  Raises ScheduleError where something else happens between its loops."""
    a, b, size = tile.along, d.axes[-1].name, tile.size
    rest = [x.name for x in d.axes if x.name not in (a, b)]
    s = s.split(stage, a, size).split(stage, b, size)
    s = s.reorder(stage, *rest, f"{a}.o", f"{b}.o", f"{a}.i", f"{b}.i")
    for source in tile.sources:
        s = s.cache_read(stage, source, f"{b}.o", name=f"{source}_tile")
    s = s.unroll(stage, f"{a}.i").vectorize(stage, f"{b}.i")
    for loop in (f"{a}.o", f"{b}.o"):
        if has_loop(s, stage, loop):
            s = s.peel(stage, loop, "tail")
    return s
