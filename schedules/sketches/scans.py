"""Running sums and extremes along memory: blocks of a few vectors, combined in registers."""

from __future__ import annotations

from tensordsl.schedules.analysis import cost, definition_of, stride, tensor_names
from tensordsl.schedules.associative import steps_of
from tensordsl.schedules.locate import stage_loops
from tensordsl.schedules.rounding import order_matters_in
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches.contraction import has_loop

from tensordsl.affine import Affine
from tensordsl.causality import Group
from tensordsl.errors import ScheduleError
from tensordsl.program import Program
from tensordsl.sizes import likely
from tensordsl.targets import Target
from tensordsl.tensor import Tensor

#: Vectors of a block: enough that what is carried from block to block is not waited for.
VECTORS = 4
#: Rows side by side where a row is computed step by step.
ROWS = 4
#: A term of at most this cost is computed before the steps are combined.
CHEAP = 64


def scan_block(program: Program, group: Group, target: Target) -> int:
    """Steps of a block, 0 where a recurrence is better computed step by step, or must be.

    Scales are left to the user's own steps: their products may leave the range of the type.
    """
    if len(group.tensors) != 1:
        return 0
    [t] = group.tensors
    d = definition_of(t)
    try:
        steps = steps_of(t)
    except ScheduleError:
        return 0
    block = VECTORS * target.lanes(t.dtype)
    if steps.scale is not None or steps.plus == "mul" or steps.axis != d.axes[-1].name:
        return 0
    if program.rounding != "free" and order_matters_in(steps.plus, t.dtype):
        return 0
    along = d.axes[-1]
    reads = [r for r in d.reads if r.source is not t]
    fine = all(stride(r, along.name) in (0, 1) and r.dtype.bytes == t.dtype.bytes for r in reads)
    return block if fine and likely(along.extent) >= 2 * block and cost(steps.term) <= CHEAP and block >= 8 else 0


def apply_scan(s: Schedule, t: Tensor, block: int) -> Schedule:
    """The schedule with one recurrence computed a block at a time."""
    d, before = definition_of(t), set(tensor_names(s.program))
    stage, axis = t.name, d.axes[-1].name
    s = s.scan(stage, block)
    parts = [x.name for x in s.program.tensors if x.name not in before]
    outer, inner = f"{axis}.v", f"{axis}.l"
    s = s.split(stage, axis, block, names=(outer, inner))
    s = s.reorder(stage, *(a.name for a in d.axes[:-1]), outer, inner)
    for part in reversed(parts):
        s = s.compute_at(part, stage, outer)
    for part in parts:
        lane = definition_of(s.program[part]).axes[-1].name
        own = f"{part}.{lane}"
        s = s.set_scope(part, "register").vectorize(part, own if own in stage_loops(s.nest, part) else lane)
    s = s.vectorize(stage, inner).peel(stage, outer, "first")
    return s.peel(stage, outer, "tail") if has_loop(s, stage, outer) else s


def rows_apart(s: Schedule, group: Group) -> Schedule:
    """A recurrence along the rows of memory, rows that do not need each other side by side: a few at a
    time, so that the steps of one are computed while another waits for its own."""
    t = group.tensors[0]
    d = definition_of(t)
    own = [r for r in d.reads if r.source is t]
    if len(group.tensors) > 1 or len(d.axes) < 2 or d.causal_axes != (d.axes[-1].name,) or d.reducer is not None:
        return s
    if any(r.index[:-1] != tuple(Affine.of(a.name) for a in d.axes[:-1]) for r in own):
        return s
    *outer, row = (a.name for a in d.axes[:-1])
    s = s.split(t.name, row, ROWS, names=(f"{row}.o", f"{row}.i"))
    s = s.reorder(t.name, *outer, f"{row}.o", d.axes[-1].name, f"{row}.i").unroll(t.name, f"{row}.i")
    return s.peel(t.name, f"{row}.o", "tail") if has_loop(s, t.name, f"{row}.o") else s
