"""Schedules for everything that is no register tile: rows in the first-level cache, plain vectors."""

from __future__ import annotations

from tensordsl.schedules.analysis import decided_by_data, definition_of
from tensordsl.schedules.locate import own_loops, stage_loops
from tensordsl.schedules.loopnest import buffers
from tensordsl.schedules.refusals import note
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches.contraction import has_loop
from tensordsl.schedules.sketches.data import apply_ragged
from tensordsl.schedules.sketches.flat import flat, step_width
from tensordsl.schedules.sketches.transposed import apply_transposition, transposition

from tensordsl.errors import ScheduleError
from tensordsl.sizes import DependsOnSizes, likely
from tensordsl.targets import Target


def partial_width(extent: int, accumulators: int, lanes: int) -> int:
    """Elements of a partial reduction: whole vectors, no more than there are terms."""
    while accumulators > 1 and accumulators * lanes > extent:
        accumulators //= 2
    return accumulators * lanes


def apply_partial(s: Schedule, stage: str, unrolled: bool = False) -> Schedule:
    """The partial results of a reduction (see `rfactor`) as vectors over their last axis, in
    registers where they are local.  unrolled: what is reduced lies in registers as well."""
    d = definition_of(s.program[stage])
    lane = d.axes[-1].name
    reductions = [_name(s, stage, a.name) for a in d.reduce_axes]
    width = _name(s, stage, lane)
    s = s.reorder(stage, *reductions, width).vectorize(stage, width)
    buffer = buffers(s.nest)[stage]
    if buffer.scope == "stack" and all(e == 1 for e in buffer.shape[:-1]):
        s = s.set_scope(stage, "register")
    for loop in reductions:
        s = s.unroll(stage, loop) if unrolled else s.peel(stage, loop, "tail")
    return s


def apply_last(s: Schedule, stage: str) -> Schedule:
    """The last few partial results, added up one after the other."""
    for a in definition_of(s.program[stage]).reduce_axes:
        s = s.unroll(stage, _name(s, stage, a.name))
    return s


def _name(s: Schedule, stage: str, axis: str) -> str:
    known = stage_loops(s.nest, stage)
    return f"{stage}.{axis}" if f"{stage}.{axis}" in known else axis


def apply_pointwise(s: Schedule, stage: str, target: Target) -> Schedule:
    """A pointwise stage (or one without a contiguous reduction) in vectors along its last axis."""
    t = s.program[stage]
    d = definition_of(t)
    if not d.axes:
        return s
    axis = d.axes[-1].name
    own = own_loops(s.nest, stage)
    if not {axis, f"{stage}.{axis}"} & set(own) or likely(d.axes[-1].extent) < 2 or axis in d.causal_axes:
        return s
    buffer = buffers(s.nest).get(stage)  # None: it lives in the memory of an input
    if buffer is not None and buffer.scope == "register":
        return s
    name = next(x for x in own if x in (axis, f"{stage}.{axis}"))
    lanes = target.lanes(t.dtype)
    if d.reducer is not None:
        if axis in decided_by_data(d):
            return apply_ragged(s, stage, name, target)
        if not step_width(t, d, d.axes[-1:], target):
            return s
        reductions = [x for a in d.reduce_axes for x in (a.name, f"{stage}.{a.name}") if x in own]
        s = s.split(stage, name, lanes, names=(f"{name}.v", f"{name}.l"))
        s = s.reorder(stage, f"{name}.v", *reductions, f"{name}.l")
        s = s.vectorize(stage, f"{name}.l")
        return s.peel(stage, f"{name}.v", "tail")
    tile = transposition(t, d, target)
    if tile is not None:
        tiled = try_step(s, lambda x: apply_transposition(x, stage, d, tile))
        if tiled is not s:
            return tiled
    count, width = flat(t, d, target)
    if not width:
        return s
    for a in reversed(d.axes[len(d.axes) - count : -1]):
        outer = next((x for x in own if x in (a.name, f"{stage}.{a.name}")), a.name)
        fused = try_step(s, lambda x, outer=outer, inner=name: x.fuse(stage, outer, inner))
        if fused is s:  # something else happens between the loops
            width = step_width(t, d, d.axes[-1:], target)
            break
        s, name = fused, f"{outer}.{name}"
    return _vectors(s, stage, name, width) if width else s


def _vectors(s: Schedule, stage: str, name: str, width: int) -> Schedule:
    s = s.vectorize(stage, name, width)
    return s.peel(stage, f"{name}.v", "tail") if has_loop(s, stage, f"{name}.v") else s


def try_step(s: Schedule, f: object) -> Schedule:
    """``f(s)``, or s itself where a step does not apply (see `refusals`)."""
    assert callable(f)
    try:
        result: Schedule = f(s)
        return result
    except (ScheduleError, DependsOnSizes) as error:
        note(error)
        return s
