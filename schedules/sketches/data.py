"""Schedules for reductions whose terms are chosen by numbers read from memory."""

from __future__ import annotations

from tensordsl.schedules.analysis import decided_by_data, definition_of, destination, stride
from tensordsl.schedules.schedule import Schedule

from tensordsl.sizes import likely
from tensordsl.targets import Target
from tensordsl.tensor import Tensor

#: Destinations up to this number are better looked for one by one, in vectors of terms.
_FEW_DESTINATIONS = 8


def scatters(t: Tensor) -> bool:
    """Is a reduction better computed term by term, each added where its index says?"""
    found = destination(t)
    return found is not None and t.shape[[a.name for a in definition_of(t).axes].index(found[0])] > _FEW_DESTINATIONS


def apply_scatter(s: Schedule, stage: str, target: Target) -> Schedule:
    """One sweep over the terms, in vectors where neighbouring elements have the same destination."""
    t = s.program[stage]
    d = definition_of(t)
    found = destination(t)
    assert found is not None
    s = s.scatter(stage, found[0])
    last = d.axes[-1]
    if last.name == found[0] or likely(last.extent) < 2 or any(stride(r, last.name) not in (0, 1) for r in d.reads):
        return s
    return s.vectorize(stage, last.name, min(likely(last.extent), target.lanes(t.dtype)))


def apply_ragged(s: Schedule, stage: str, axis: str, target: Target) -> Schedule:
    """A sum over a range that is read from memory, in vectors along it; ``axis`` is the innermost loop around."""
    t = s.program[stage]
    d = definition_of(t)
    ragged = decided_by_data(d)
    along = next((a.name for a in reversed(d.reduce_axes) if a.name in ragged), None)
    if along is None or not any(stride(r, along) == 1 for r in d.reads):
        return s
    return s.cache_write(stage, axis).vectorize(stage, along, target.lanes(t.dtype))
