"""Definition primitives for data that is known, or better read in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tensordsl.schedules.analysis import tensor_names
from tensordsl.schedules.locate import fresh
from tensordsl.schedules.lower import lower
from tensordsl.schedules.primitives.definitions import replace_stage, require_acyclic, require_unplaced
from tensordsl.schedules.primitives.placement import defined
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl import accesses, constants
from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import Axis, Read
from tensordsl.program import Program
from tensordsl.tensor import Definition, Tensor


@primitive
def fold_constants(s: Schedule) -> Schedule:
    """Compute now what follows from constants alone: it becomes a constant itself.

    Requires: no loop is ordered yet; such a definition, which is no output.
    Rewrite: ``B = constant; C[i, j] = B[j, i]``  ->  ``C = constant``
    Raises: ScheduleError where nothing follows from constants alone.
    """
    require_plain(s, "fold first, then order loops")
    if not constants.foldable(s.program):
        raise ScheduleError("no definition follows from constants alone")
    program = constants.folded(s.program)
    return Schedule(program, lower(program), s.trace, s.checked)


def require_plain(s: Schedule, hint: str) -> None:
    """The nest has the plain loops of every definition; in which order definitions stand is free."""
    if sorted(str(s.nest).splitlines()) != sorted(str(lower(s.program)).splitlines()):
        raise ScheduleError("loops or buffers are already arranged", hint=hint)


@primitive
def relayout(s: Schedule, stage: str, source: str, order: Sequence[int], name: str | None = None) -> Schedule:
    """Let a stage read a source through a copy of it with its dimensions in another order.

    order: the dimensions of the source in the order of the copy's.

    Requires: the stage reads the source; the stage's loops are not ordered yet; it is no recurrence.
    Rewrite: ``C[i, j] = f(B[j, i])``  ->  ``B_r[i, j] = B[j, i]; C[i, j] = f(B_r[i, j])``
    Raises: ScheduleError for a source that is not read, or something else than an order of its dimensions.
    """
    tensor = defined(s, stage)
    label = name or fresh(f"{source}_r", tensor_names(s.program))
    program = relaid(s.program, stage, source, order, label)
    require_unplaced(s, stage, tensor)
    return replace_stage(s, stage, program, label)


def relaid(program: Program, stage: str, source: str, order: Sequence[int], label: str) -> Program:
    """The program of `relayout`, with the copy in tensor ``label``."""
    d = program[stage].definition
    assert d is not None
    found = next((r.source for r in d.reads if r.source.name == source), None)
    if found is None or source == stage or source not in tensor_names(program):
        raise ScheduleError(f"{stage} reads no {source!r}", legal=sorted({r.source.name for r in d.reads}))
    require_acyclic(program, stage)
    if sorted(order) != list(range(len(found.shape))):
        raise ScheduleError(
            f"{list(order)} is not an order of the dimensions of {source}",
            legal=list(map(str, range(len(found.shape)))),
        )
    if label in tensor_names(program):
        raise ScheduleError(f"the name {label!r} is taken", hint="give another name=, or none")
    shape = tuple(found.shape[k] for k in order)
    axes = tuple(Axis(f"i{n}", e) for n, e in enumerate(shape))
    index = tuple(Affine.of(f"i{list(order).index(k)}") for k in range(len(shape)))
    copy = Tensor(label, shape, found.dtype, Definition(axes, Read(program[source], index)))

    def through(read: Tensor, index: tuple[Affine, ...]) -> tuple[Tensor, tuple[Affine, ...]] | None:
        return (copy, tuple(index[k] for k in order)) if read.name == source else None

    return program.with_definitions({stage: replace(d, body=accesses.map_accesses(d.body, through))}, [copy])
