"""A schedule under other names of its tensors: same loops, same steps, the caller's own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tensordsl.autotune.workload import canonical_names, with_names
from tensordsl.schedules.loopnest import Alloc, Buffer, LoopNest, Stmt, Store, buffers, map_accesses, rewrite
from tensordsl.schedules.schedule import Schedule

from tensordsl.program import Program


def with_tensor_names(schedule: Schedule, names: Mapping[str, str]) -> Schedule:
    """The schedule with tensors (and the buffers that hold them) renamed, old name -> new name.

    A tensor or buffer of the schedule's own making that has one of the new names gets another.  The
    trace keeps the names it was written in.
    """
    every = _complete(schedule, names)
    program = _program(schedule.program, every)
    return Schedule(program, _nest(schedule.nest, program, every), schedule.trace, schedule.checked)


def _complete(schedule: Schedule, names: Mapping[str, str]) -> dict[str, str]:
    """The mapping, extended by names for what is in the way."""
    program = schedule.program
    present = {t.name for t in (*program.inputs, *program.tensors)} | set(buffers(schedule.nest))
    taken = set(names.values()) | present
    result = {old: names.get(old, old) for old in present}
    for old in sorted(present - set(names)):
        new, count = old, 0
        while new in names.values() or (new != old and new in taken):
            count += 1
            new = f"{old}_{count}"
        result[old] = new
        taken.add(new)
    return result


def _program(program: Program, names: Mapping[str, str]) -> Program:
    return with_names(program, [(names[tensor], *axes) for tensor, *axes in canonical_names(program)])


def _nest(nest: LoopNest, program: Program, names: Mapping[str, str]) -> LoopNest:
    def buffer(b: Buffer) -> Buffer:
        return replace(b, name=names[b.name], banks=tuple(names.get(n, n) for n in b.banks))

    def statement(s: Stmt) -> Stmt | None:
        match s:
            case Store():
                return replace(s, instance=replace(s.instance, tensor=names.get(s.instance.tensor, s.instance.tensor)))
            case Alloc():
                return replace(s, buffer=buffer(s.buffer), tensor=names.get(s.tensor, s.tensor))
        return None

    body = map_accesses(rewrite(nest.body, statement), lambda b, index: (buffer(b), index))
    return LoopNest(program, tuple(map(buffer, nest.parameters)), body)
