"""The definition primitive that drops an axis along which a stage does not change."""

from __future__ import annotations

from dataclasses import replace

from tensordsl.schedules.lower import lower
from tensordsl.schedules.primitives.placement import defined
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl import accesses, expr
from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import Index, Read
from tensordsl.program import Program
from tensordsl.tensor import Definition, Tensor


@primitive
def project(s: Schedule, stage: str, axis: str) -> Schedule:
    """Compute a stage once where its definition says the same for every value of an axis.

    Requires: no step was taken on the loops yet; the stage is no output and no part of a recurrence of
    several; what it reads of itself lies at the same value of the axis, and nothing else in its
    definition uses the axis.
    Rewrite: ``p[t, j] = f(p[t, j - 1], j); y = g(p[t, j])``  ->  ``p[j] = f(p[j - 1], j); y = g(p[j])``
    Raises: ScheduleError for an unknown axis, one that the definition uses, or loops that are ordered.
    """
    tensor = defined(s, stage)
    if str(s.nest) != str(lower(s.program)):
        raise ScheduleError("the loops are already ordered", hint="change definitions before ordering loops")
    d = tensor.definition
    assert d is not None
    if axis not in [a.name for a in d.axes]:
        raise ScheduleError(f"{stage} has no axis {axis!r}", legal=[a.name for a in d.axes])
    if axis not in steady_axes(s.program, tensor):
        raise ScheduleError(f"{stage} may change along {axis}, or has no other axis, or its shape is the caller's")
    program = projected(s.program, stage, axis)
    return Schedule(program, lower(program), s.trace, s.checked)


def steady_axes(program: Program, tensor: Tensor) -> list[str]:
    """The axes of several values along which the definition of a tensor says the same for each."""
    d = tensor.definition
    alone = next(len(g.tensors) == 1 for g in program.groups if any(t is tensor for t in g.tensors))
    if d is None or len(d.axes) < 2 or not alone or any(t is tensor for t in program.outputs):
        return []
    return [a.name for k, a in enumerate(d.axes) if a.extent > 1 and not _uses(d, tensor, a.name, k)]


def _uses(d: Definition, tensor: Tensor, axis: str, position: int) -> bool:
    for e in expr.walk(d.body):
        if isinstance(e, Index) and axis in e.affine.names():
            return True
        if isinstance(e, Read):
            own = e.source is tensor
            if own and e.index[position] != Affine.of(axis):
                return True
            others = [i for k, i in enumerate(e.index) if not (own and k == position)]
            if any(axis in i.names() for i in others):
                return True
    return False


def projected(program: Program, stage: str, axis: str) -> Program:
    """The program of `project`."""
    tensor = program[stage]
    d = tensor.definition
    assert d is not None
    position = next(k for k, a in enumerate(d.axes) if a.name == axis)

    def drop(source: Tensor, index: tuple[Affine, ...]) -> tuple[Tensor, tuple[Affine, ...]] | None:
        return (source, tuple(i for k, i in enumerate(index) if k != position)) if source is tensor else None

    new: dict[str, Definition] = {}
    for t in program.tensors:
        assert t.definition is not None
        body = accesses.map_accesses(t.definition.body, drop)
        if body is not t.definition.body:
            new[t.name] = replace(t.definition, body=body)
    axes = tuple(a for a in d.axes if a.name != axis)
    order = tuple(o for o in d.order if o.axis != axis)
    new[stage] = replace(new.get(stage, d), axes=axes, order=order)
    return program.with_definitions(new, [replace(tensor, shape=tuple(a.extent for a in axes))])
