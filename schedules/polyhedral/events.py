"""What a nest does to memory: steps (its stores, in order) and their events (one access each).

A write event says which logical element its cell holds afterwards; a read event says which element
it needs.  What a statement needs follows from the *definition*, never from the nest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import islpy as isl
from tensordsl.schedules.loopnest import Buffer, For, Kind, LoopNest, Stmt, Store
from tensordsl.schedules.nest_text import nest_text
from tensordsl.schedules.polyhedral.isl_build import Dims

from tensordsl.affine import Affine
from tensordsl.errors import Location, ScheduleError


class Role(Enum):
    """What an access does to the state of a cell, or needs of it."""

    COMPLETE = "writes a complete element"
    INIT = "writes an accumulator without points"
    COMBINE = "combines points into an accumulator"
    JOIN = "combines points into an accumulator that the same step initialises"
    NEEDS_COMPLETE = "needs a complete element"
    NEEDS_STATE = "needs an accumulator"
    NEEDS_POINTS = "needs an accumulator with certain points"

    @property
    def writes(self) -> bool:
        return self in (Role.COMPLETE, Role.INIT, Role.COMBINE, Role.JOIN)

    @property
    def defines(self) -> bool:
        """The cell's earlier contents are lost."""
        return self in (Role.COMPLETE, Role.INIT)


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of the nest; number: its position in the text, so that equal nodes stay apart."""

    var: str
    number: int
    kind: Kind
    node: For = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One piece of storage: a caller's buffer or the buffer of one Alloc with the loops around it.

    holds: the tensor whose elements it holds at entry (a caller's input); expected: the tensor it
    must hold at the end (a caller's output).
    """

    buffer: Buffer
    scope: tuple[Loop, ...] = ()
    holds: str | None = None
    expected: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A store with its loops; order: its position in the text.  The caller's own accesses are steps
    without a store."""

    order: int
    loops: tuple[Loop, ...]
    domain: isl.Set
    label: str
    store: Store | None = None

    @property
    def dims(self) -> Dims:
        return tuple([loop.var for loop in self.loops])


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One access: ``cell`` (folds applied) of ``place``, in the instances ``domain`` over ``dims``.

    dims: the loops of the step, then numbers read from memory (their texts), then names that range over
        points.
    points: the reduction points combined or needed, one expression per reduction axis, then the numbers
        that the definition's conditions read for them.
    moves: the event ranges over points.
    """

    step: Step
    place: Place
    cell: tuple[Affine, ...]
    tensor: str
    index: tuple[Affine, ...]
    role: Role
    dims: Dims
    domain: isl.Set
    points: tuple[Affine, ...] = ()
    location: Location | None = None
    moves: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Inside:
    """An obligation: ``0 <= index < extents`` in every instance.  what: `Buffer` text or tensor."""

    step: Step
    index: tuple[Affine, ...]
    extents: tuple[int, ...]
    dims: Dims
    domain: isl.Set
    what: str


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a nest does not compute its program.

    kind: structure, expression, bounds, value, reduction, order, race or undecided.
    message: what is wrong; counterexample: for which iteration; stores: the statements concerned.
    """

    kind: str
    message: str
    counterexample: str | None = None
    stores: tuple[Stmt, ...] = ()
    location: Location | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" + (f" ({self.counterexample})" if self.counterexample else "")


def refusal(nest: LoopNest, violation: Violation) -> ScheduleError:
    """The violation as the error a user sees, with the nest and its statements marked."""
    return ScheduleError(
        violation.message,
        location=violation.location,
        context=nest_text(nest, marked={id(s) for s in violation.stores}),
        counterexample=violation.counterexample,
    )


class Refuted(Exception):
    """Leaves a check with what it found."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


def shared(a: Step, b: Step) -> int:
    """How many loops, from the outermost, two steps have in common."""
    n = 0
    for x, y in zip(a.loops, b.loops):
        if x.number != y.number:
            break
        n += 1
    return n


# ---------------------------------------------------------------- texts


def shown(name: str, index: tuple[Affine, ...], env: Mapping[str, int]) -> str:
    """An element or cell at a point."""
    return f"{name}[{', '.join(str(i.evaluate(env)) for i in index)}]" if index else name


def tuple_text(points: tuple[Affine, ...], env: Mapping[str, int]) -> str:
    return "(" + ", ".join(str(p.evaluate(env)) for p in points) + ")"


def at(step: Step, env: Mapping[str, int]) -> str:
    """A step at a point of its loops."""
    values = ", ".join(f"{v} = {env[v]}" for v in step.dims)
    return f"{step.label} at {values}" if values else step.label
