"""Recurrences whose sums end at each element, in strips: a vector of neighbours at a time along the inner axis.

The terms that come before the strip are added up for all of its elements at once, in registers; those
inside it follow element by element.

    for i: for strip of j:
        (registers) S[strip] = terms before the strip
        for j in strip: S[j] += terms inside;  T[i, j] = g(S[j])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tensordsl.schedules.analysis import definition_of, depends, stride
from tensordsl.schedules.locate import fresh, stage_of
from tensordsl.schedules.loopnest import For, LoopNest, Store, buffers, stores, walk
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.simplify import context
from tensordsl.schedules.sketches.rows import try_step
from tensordsl.schedules.sketches.sums import most_iterations, whole_in_registers

from tensordsl.affine import Affine
from tensordsl.causality import Group
from tensordsl.program import Program
from tensordsl.targets import Target

#: Strips that a row has at least.
LEAST_STRIPS = 3


@dataclass(frozen=True, slots=True)
class Strips:
    """result, sum: stages as in `blocked.Blocks`.  outer: the axis of the rows; inner: that of the strips."""

    result: str
    sum: str
    outer: str
    inner: str
    width: int


def strips(program: Program, group: Group, target: Target) -> Strips | None:
    """The strips of a recurrence, or None where it has another form."""
    sums = [t for t in group.tensors if definition_of(t).reducer is not None]
    results = [t for t in group.tensors if definition_of(t).reducer is None]
    if len(sums) != 1 or len(results) != 1:
        return None
    d, of = definition_of(results[0]), definition_of(sums[0])
    names = [a.name for a in d.axes]
    if len(names) != 2 or [o.axis for o in d.order] != names or [a.name for a in of.axes] != names:
        return None
    steps = [stride(r, names[1]) for r in of.reads if depends(r, names[1])]
    lanes = target.lanes(sums[0].dtype)
    width = max(16, lanes)
    if lanes < 2 or not steps or any(x != 1 for x in steps) or len(of.reduce_axes) != 1 or d.order[1].descending:
        return None
    return (
        Strips(results[0].name, sums[0].name, names[0], names[1], width)
        if d.axes[1].extent >= LEAST_STRIPS * width
        else None
    )


def apply_strips(s: Schedule, b: Strips, cut: Callable[[Schedule, set[str]], Schedule]) -> Schedule:
    """The schedule in strips.  cut: makes the ranges of the loops free of conditions.  Raises ScheduleError."""
    s = cut(s.store_at(b.sum, b.outer), {b.sum, b.result})
    for f, k in list(_rows(s.nest, b)):
        s = try_step(s, lambda x, f=f, k=k: _in_strips(x, b, f, k))
    return s


def _rows(nest: LoopNest, b: Strips) -> Iterator[tuple[For, For]]:
    """The loops along the inner axis that hold the result and a loop over terms that ends at each element."""
    for f, path in walk(nest.body):
        if not isinstance(f, For) or f.kind != "serial" or len(f.lo) != 1 or len(f.hi) != 1 or f.step != 1:
            continue
        inside = list(stores(f))
        loops = [
            p[-1] for st, p in inside
            if stage_of(st, (*path, *p)) == b.sum and st.instance.kind == "update"
        ]  # fmt: skip
        both = {stage_of(st, (*path, *p)) for st, p in inside} == {b.sum, b.result}
        most = most_iterations(f, context(path))
        if (
            len(loops) == 1
            and both
            and all(sum(isinstance(x, For) for x in p) <= 2 for _, p in inside)
            and (most is None or most > b.width)
        ):
            k = loops[0]
            ends = isinstance(k, For) and k is not f and len(k.hi) == 1 and f.var in k.hi[0].names()
            if ends and isinstance(k, For) and isinstance(k.body, Store):
                yield f, k


def _in_strips(s: Schedule, b: Strips, f: For, k: For) -> Schedule:
    j, outer, inner = f.var, f"{f.var}.o", f"{f.var}.i"
    s = s.split(b.result, j, b.width)
    begin = k.hi[0].substitute({j: f.lo[0] + Affine.of(outer) * b.width})
    strip = fresh(f"{b.sum}_strip", buffers(s.nest))
    s = s.cache_write(b.sum, outer, scope="stack", name=strip).drop(strip, f"{strip}.1")
    s = s.partition(b.sum, k.var, str(begin), suffix="q").distribute(b.sum, inner, before=f"{k.var}.q", suffix="t")
    s = s.split(b.sum, inner, b.width).reorder(b.sum, f"{inner}.o", k.var, f"{inner}.i")
    left = f.hi[0] - f.lo[0] - Affine.of(outer) * b.width
    return whole_in_registers(s, b.sum, f"{inner}.o", f"{inner}.i", left)
