"""Pins: what a user fixes of a schedule before the search fills in the rest.

A pin gives holes of the sketches values (``{"y.mr": 6}``), or is a schedule: its steps are kept, the
stages they touch left alone, and the other stages get the steps of the sketch rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Union

from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches import Parameters, Sketch, sketches
from tensordsl.schedules.trace import Trace

from tensordsl.errors import ScheduleError, TuneError, closest
from tensordsl.program import Program
from tensordsl.targets import Target

#: What `td.tune` takes as pin.
PinLike = Union[Mapping[str, int], Schedule]
#: Assignments that are looked through for one that is allowed.
_LOOKED_AT = 100_000


@dataclass(frozen=True, slots=True)
class Pin:
    """sketches: those of the program with the pinned part fixed.  plain: the user's steps alone.
    text: what is pinned, part of the key of records."""

    sketches: tuple[Sketch, ...]
    plain: Schedule
    text: str


def pinned(program: Program, target: Target, pin: PinLike) -> Pin:
    """Raises TuneError for a pin that is none, does not fit the program, or leaves nothing to try."""
    if isinstance(pin, Schedule):
        return _started(program, target, pin.trace)
    if not isinstance(pin, Mapping) or not pin:
        raise TuneError(
            f"pin={pin!r} is neither values of holes nor a schedule",
            hint='as in pin={"y.mr": 6}, or a td.Schedule(program) with some steps',
        )
    found = sketches(program, target)
    known = {hole for s in found for hole in s.holes}
    for hole, value in pin.items():
        if hole not in known:
            like = closest(str(hole), known)
            raise TuneError(
                f"pin: {program.name} has no hole {hole!r}",
                legal=sorted(known) or "no holes: its schedule has no sizes to choose",
                hint=f"did you mean {like!r}?" if like else None,
            )
        if isinstance(value, bool) or not isinstance(value, int):
            raise TuneError(f"pin: {hole} = {value!r} is not an integer")
    fixed = [_fixed(s, pin) for s in found if set(pin) <= set(s.holes)]
    kept = tuple(s for s in fixed if s is not None)
    shown = ", ".join(f"{hole}={value}" for hole, value in sorted(pin.items()))
    if not kept:
        raise TuneError(
            f"pin: nothing in the space of {program.name} has {shown}",
            legal="\n".join(f"{h}: {', '.join(map(str, s.holes[h]))}" for s in found for h in pin if h in s.holes),
            hint="its values need more registers than there are, tile nothing, or contradict each other",
        )
    return Pin(kept, Schedule(program, checked=False), shown)


def _fixed(s: Sketch, pin: Mapping[str, int]) -> Sketch | None:
    """A sketch with some holes filled; its default is the allowed assignment nearest to its own."""
    if any(value not in s.holes[hole] for hole, value in pin.items()):
        return None
    holes = {hole: (pin[hole],) if hole in pin else values for hole, values in s.holes.items()}
    default = _nearest(s, holes)
    # simpler forms have none of the holes
    return None if default is None else replace(s, holes=holes, default=default, simpler=())


def _nearest(s: Sketch, holes: Mapping[str, tuple[int, ...]]) -> dict[str, int] | None:
    """The first allowed assignment in order of the holes that differ from the sketch's own default."""
    start = {hole: values[0] if len(values) == 1 else s.default[hole] for hole, values in holes.items()}
    front, seen = [start], {tuple(start.values())}
    for params in front:
        if s.allowed(params):
            return params
        for hole, values in holes.items():
            place = values.index(params[hole])
            for other in values[max(0, place - 1) : place + 2]:
                new: Parameters = {**params, hole: other}
                if tuple(new.values()) not in seen and len(seen) < _LOOKED_AT:
                    seen.add(tuple(new.values()))
                    front.append(dict(new))
    return None


def _started(program: Program, target: Target, trace: Trace) -> Pin:
    """The sketches of what a user's steps leave open."""
    from tensordsl.schedules.sketches.derive import derive

    try:
        start = Schedule.replay(program, trace).validate()
    except ScheduleError as error:
        raise TuneError(
            f"pin: the schedule's steps do not apply to {program.name}: {error.message}",
            context=error.context,
            counterexample=error.counterexample,
            hint="pin a schedule of this very program: td.Schedule(program)...",
        ) from None
    return Pin(tuple(derive(start.program, target, start)), start, str(trace.to_json()))
