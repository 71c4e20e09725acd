"""Sketches: schedules with named holes, derived from the structure of a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tensordsl.schedules.schedule import Schedule

from tensordsl.program import Program
from tensordsl.targets import Target

Parameters = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Sketch:
    """A family of schedules.

    holes: name -> the values it may take.  allowed: is an assignment worth building (registers,
    caches)?  build: the schedule of an assignment; its steps are not proven one by one.
    default: the assignment chosen without measuring.  simpler: what to try where the first
    choice cannot be proven, the best first: without epilogues, then without register tiles.
    """

    name: str
    holes: dict[str, tuple[int, ...]]
    default: dict[str, int]
    allowed: Callable[[Parameters], bool] = field(repr=False)
    build: Callable[[Parameters], Schedule] = field(repr=False)
    simpler: tuple[Callable[[], Schedule], ...] = field(repr=False)


def sketches(program: Program, target: Target) -> list[Sketch]:
    """The sketches of a program, the most promising first (at least one)."""
    from tensordsl.schedules.sketches.derive import derive

    return derive(program, target)
