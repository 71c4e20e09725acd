"""What a program's constants allow before anything else: computing with them now, and ordering them for their use."""

from __future__ import annotations

from tensordsl.schedules.analysis import definition_of, depends, identity_dims, register_tile, stride, tensor_names
from tensordsl.schedules.locate import fresh
from tensordsl.schedules.schedule import Schedule

from tensordsl import constants
from tensordsl.program import Program


def with_constants(s: Schedule) -> Schedule:
    """The schedule after the steps that only constants make possible."""
    if not s.program.constants or s.program.rounding != "free":
        return s
    s = _folded(s)
    for stage, source, order in _strided(s.program):
        s = s.relayout(stage, source, order, fresh(f"{source}_r", tensor_names(s.program)))
    return _folded(s)


def _folded(s: Schedule) -> Schedule:
    return s.fold_constants() if constants.foldable(s.program) else s


def _strided(program: Program) -> list[tuple[str, str, tuple[int, ...]]]:
    """(stage, constant, order of its dimensions) where vectors of a contraction would be gathered from a constant."""
    known = {t.name for t in program.constants}
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for t in program.tensors:
        tile = register_tile(t)
        if tile is None:
            continue
        for r in definition_of(t).reads:
            if r.source.name in known and depends(r, tile.vector) and stride(r, tile.vector) != 1:
                last = identity_dims(r).get(tile.vector)
                if last is not None:
                    order = (*(k for k in range(len(r.index)) if k != last), last)
                    found[t.name, r.source.name] = order
    return [(stage, source, order) for (stage, source), order in found.items()]
