"""Are recurrences well founded?  Every cycle of reads must advance along the order axis."""

from __future__ import annotations

from collections.abc import Sequence

from tensordsl.affine import Affine
from tensordsl.bounds import Answer, guarded_reads, ranges_of, satisfiable
from tensordsl.errors import ProgramError
from tensordsl.expr import Read
from tensordsl.tensor import Definition, Tensor


def arrange(members: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Definitions that read each other, in the order in which they are computed within one step.

    Raises ProgramError with a counterexample where a read may lie in a later step, or where reads
    of the same step form a cycle.
    """
    same_step: dict[int, list[tuple[Tensor, Read, Answer]]] = {id(t): [] for t in members}
    for t in members:
        d = _definition(t)
        if any(a.extent == 0 for a in d.axes + d.reduce_axes):
            continue
        for read, given in guarded_reads(d.body):
            source = next((m for m in members if m is read.source), None)
            if source is None:
                continue
            late = _distance(t, read, source, given, 0)
            if late.possible is not False:
                raise _refusal(t, read, late, "a later step")
            same = _distance(t, read, source, given, 1)
            if same.possible is not False:
                same_step[id(t)].append((source, read, same))
    return _sorted(members, same_step)


def _sorted(members: Sequence[Tensor], same_step: dict[int, list[tuple[Tensor, Read, Answer]]]) -> tuple[Tensor, ...]:
    done: list[Tensor] = []
    active: list[Tensor] = []

    def visit(t: Tensor) -> None:
        if any(t is d for d in done):
            return
        active.append(t)
        for source, read, when in same_step[id(t)]:
            if any(source is a for a in active):
                raise _refusal(t, read, when, "the same step")
            visit(source)
        active.pop()
        done.append(t)

    for t in members:
        visit(t)
    return tuple(done)


def _distance(t: Tensor, read: Read, source: Tensor, given: tuple[Affine, ...], least: int) -> Answer:
    """Can the read lie less than ``least`` steps before the element that needs it?"""
    here, there = _definition(t), _definition(source)
    step = next(d for d, a in enumerate(there.axes) if a.name == there.order)
    assert here.order is not None
    return satisfiable((read.index[step] - Affine.of(here.order) + least - 1, *given), ranges_of(t))


def _refusal(t: Tensor, read: Read, when: Answer, where: str) -> ProgramError:
    d = _definition(t)
    element = f"{t.name}[{', '.join(a.name for a in d.axes)}]"
    counterexample = None
    if when.point is not None:
        # the axes that do not matter are shown at 0
        point = {a.name: 0 for a in d.axes + d.reduce_axes} | dict(when.point)
        needs = f"{read.source.name}[{', '.join(str(i.evaluate(point)) for i in read.index)}]"
        counterexample = f"{when}: " if when.point else ""
        counterexample += f"{t.name}[{', '.join(str(point[a.name]) for a in d.axes)}] reads {needs}"
    return ProgramError(
        f"{element} reads {read} of {where} in order of {d.order}"
        + ("" if when.point is not None else ", as far as can be proven"),
        location=read.location,
        counterexample=counterexample,
        hint=f"every read of {read.source.name} must lie before {d.order}: "
        "guard it with td.select, or choose another order",
    )


def _definition(t: Tensor) -> Definition:
    assert t.definition is not None
    return t.definition
