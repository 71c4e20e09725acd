"""The schedule that never fails: good sizes without measuring, proven before use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tensordsl.schedules.refusals import note
from tensordsl.schedules.schedule import Schedule

from tensordsl.errors import ScheduleError
from tensordsl.program import Program
from tensordsl.sizes import DependsOnSizes, assuming
from tensordsl.targets import Target

if TYPE_CHECKING:
    from tensordsl.schedules.sketches import Sketch


def default_schedule(program: Program, target: Target) -> Schedule:
    """Fused elementwise stages, register-tiled contractions, vector reductions.

    Where the planned schedule cannot be proven, the plain loops, which compute every definition in
    written order, are the answer.
    """
    with assuming(program.relations):
        return _default(program, target)


def _default(program: Program, target: Target) -> Schedule:
    from tensordsl.schedules.sketches import sketches

    return first_valid(sketches(program, target)[0], Schedule(program, checked=False))


def first_valid(sketch: Sketch, plain: Schedule) -> Schedule:
    """A sketch's own choice, proven; where that fails its simpler forms, and then the plain loops."""
    attempts: tuple[Callable[[], Schedule], ...] = (lambda: sketch.build(sketch.default), *sketch.simpler)
    for attempt in attempts:
        try:
            return attempt().validate()
        except (ScheduleError, DependsOnSizes) as error:
            note(error, "the schedule as a whole: ")
    return plain.validate()
