"""Recurrences along one axis whose results are combined point by point: panels of the other axes.

A filter forward and one backward along the same axis, and their sum, need each line as a whole but
no other line.  So a few lines at a time go through all of them in the cache, side by side as lanes.
Where lanes are no neighbours in memory the panel is stored transposed, and the sum turns it back in
registers.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensordsl.schedules.analysis import definition_of, elements
from tensordsl.schedules.locate import fresh, stage_of
from tensordsl.schedules.loopnest import For, Store, buffers, walk
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches.contraction import has_loop
from tensordsl.schedules.sketches.recurrence import cut_ranges

from tensordsl.affine import Affine
from tensordsl.program import Program
from tensordsl.targets import Target
from tensordsl.tensor import Tensor

#: Vectors of a panel's line where lanes are neighbours: long enough for whole pages, short enough for the cache.
WIDTHS = (16, 4, 8, 32)


@dataclass(frozen=True, slots=True)
class Panel:
    """reader: the pointwise stage; recurrences: what it combines, computed in its panels; causal: the
    axis along which they advance; lines: the axis that is cut into panels."""

    reader: str
    recurrences: tuple[str, ...]
    causal: str
    lines: str
    transposed: bool


def panels(program: Program, target: Target) -> list[Panel]:
    """The panels of a program whose recurrences do not fit in the cache."""
    alone = {g.tensors[0].name for g in program.groups if g.order is not None and len(g.tensors) == 1}
    found = (_panel(program, t, alone) for t in program.tensors)
    return [p for p in found if p is not None and _large(program, p, target)]


def _panel(program: Program, t: Tensor, alone: set[str]) -> Panel | None:
    d = definition_of(t)
    if d.reducer is not None or d.order or len(d.axes) < 2:
        return None
    own = tuple(Affine.of(a.name) for a in d.axes)
    names = dict.fromkeys(r.source.name for r in d.reads if r.source.name in alone)
    if not names or any(r.index != own for r in d.reads if r.source.name in names):
        return None
    dimensions = set()
    for name in names:
        e = definition_of(program[name])
        if [c.name for c in program.consumers(name)] not in ([t.name], [name, t.name]) or len(e.order) != 1:
            return None
        if e.reducer is not None or any(o.name == name for o in program.outputs):
            return None
        dimensions.add(next(k for k, a in enumerate(e.axes) if a.name == e.order[0].axis))
    if len(dimensions) != 1:
        return None
    causal = dimensions.pop()
    last = len(d.axes) - 1
    if causal < last - 1:
        return None
    lines = last if causal != last else last - 1
    return Panel(t.name, tuple(names), d.axes[causal].name, d.axes[lines].name, causal == last)


def _large(program: Program, p: Panel, target: Target) -> bool:
    size = sum(elements(program[n]) * program[n].dtype.bytes for n in p.recurrences)
    return len(target.caches) > 1 and size > target.caches[1] and target.lanes(program[p.reader].dtype) > 1


def apply_panel(s: Schedule, p: Panel, vectors: int, target: Target) -> Schedule:
    """The reader in panels, with its recurrences inside.  Raises ScheduleError."""
    lanes = target.lanes(s.program[p.reader].dtype)
    outer, inner = f"{p.lines}.o", f"{p.lines}.i"
    s = s.split(p.reader, p.lines, lanes if p.transposed else vectors * lanes)
    if not p.transposed:
        s = s.reorder(p.reader, outer, p.causal, inner)
    for name in p.recurrences:
        s = s.compute_at(name, p.reader, outer)
        if p.transposed:
            rank = s.program[name].ndim
            s = s.transform_layout(name, (*range(rank - 2), rank - 1, rank - 2))
    if p.transposed:
        s = s.split(p.reader, p.causal, lanes).reorder(p.reader, f"{p.causal}.o", inner, f"{p.causal}.i")
        for name in p.recurrences:
            s = s.cache_read(p.reader, name, f"{p.causal}.o", name=fresh(f"{name}_tile", buffers(s.nest)))
        s = s.unroll(p.reader, inner).vectorize(p.reader, f"{p.causal}.i")
    else:
        s = s.vectorize(p.reader, inner)
    s = cut_ranges(s, set(p.recurrences))
    for stage, loop in _innermost(s, set(p.recurrences)):
        s = s.vectorize(stage, loop)
    for loop in (f"{p.causal}.o", outer):
        s = s.peel(p.reader, loop, "tail") if has_loop(s, p.reader, loop) else s
    return s


def _innermost(s: Schedule, stages: set[str]) -> list[tuple[str, str]]:
    found = [
        (stage_of(x.body, (*path, x)), x.var) for x, path in walk(s.nest.body)
        if isinstance(x, For) and isinstance(x.body, Store) and x.kind == "serial"
    ]  # fmt: skip
    return [f for f in dict.fromkeys(found) if f[0] in stages]
