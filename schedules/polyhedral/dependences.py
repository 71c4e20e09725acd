"""Memory-based dependences between the statements of a nest, and which loops they leave free.

Two instances depend on each other if they touch one cell of one buffer and one of them writes.
Last-writer flow would be too weak here: with reductions relaxed it accepts orders that use an
accumulator too early.  A pair is relaxable only if both combine into the same element kept in the
same cell; pairs of the same statements through another buffer stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import islpy as isl
from tensordsl.schedules.loopnest import For, LoopNest, Store
from tensordsl.schedules.polyhedral.events import Event, Loop, Place, Refuted, Role, Step, refusal, shared
from tensordsl.schedules.polyhedral.extract import extract
from tensordsl.schedules.polyhedral.isl_build import IN, OUT, multi, named, ordered

from tensordsl.affine import Dim


@dataclass(frozen=True, slots=True, eq=False)
class Dependence:
    """``pairs``: instances of ``source`` -> later instances of ``sink`` that share a cell of ``place``.

    reduction: both combine into one accumulator element, so their order may be given up.
    """

    source: Step
    sink: Step
    place: Place
    kind: Literal["flow", "anti", "output"]
    pairs: isl.Map
    reduction: bool


@dataclass(frozen=True, slots=True)
class Freedom:
    """A loop: may its iterations run in any order or at once?

    exact: with bit-identical results; reassociated: if reductions may be reassociated (each
    iteration then needs an accumulator of its own, or an atomic or horizontal combination).
    """

    loop: For
    exact: bool
    reassociated: bool


class Analysis:
    """The dependences of a nest, found once.  Raises ScheduleError for a nest whose statements are no
    instances of its program."""

    def __init__(self, nest: LoopNest) -> None:
        try:
            self.events = [e for e in extract(nest).events if e.step.store is not None]
        except Refuted as refuted:
            raise refusal(nest, refuted.violation) from None
        self.dependences = _dependences(self.events)

    def freedom(self, loop: For) -> Freedom:
        """May the iterations of a loop run in any order?"""
        places = {(x.number, depth): x for e in self.events for depth, x in enumerate(e.step.loops) if x.node is loop}
        carried = [d for (_, depth), x in places.items() for d in self.dependences if _carries(d, x, depth)]
        return Freedom(loop, not carried, all(d.reduction for d in carried))

    def permutable(
        self, band: Sequence[For], skew: Sequence[int] = (), *, reassociate: bool = False, only: Store | None = None
    ) -> bool:
        """May consecutive loops, outermost first, be interchanged and tiled by any sizes?

        No dependence inside the band may go backwards along one of its loops.
        skew: per loop of the band, the multiple of the first one that is added to it beforehand.
        reassociate: reductions may be reordered.
        only: look at this statement alone (the others are kept out of the band).
        False where a statement is not inside all loops of the band.
        """
        steps = {e.step for e in self.events if any(x.node is band[0] for x in e.step.loops)}
        steps = {s for s in steps if only is None or s.store is only}
        if not steps:
            return True
        first = next(iter(steps))
        depth = next(n for n, x in enumerate(first.loops) if x.node is band[0])
        around = first.loops[: depth + len(band)]
        if [x.node for x in around[depth:]] != list(band) or any(s.loops[: len(around)] != around for s in steps):
            return False
        factors = [*skew, *[0] * (len(band) - len(skew))]
        for d in self.dependences:
            if d.source not in steps or d.sink not in steps or (d.reduction and reassociate):
                continue
            pairs = _equal_outside(d.pairs, depth)
            if any(not _backwards(pairs, depth, depth + n, factors[n]).is_empty() for n in range(len(band))):
                return False
        return True


def dependences(nest: LoopNest) -> tuple[Dependence, ...]:
    """Every dependence of a nest, per pair of statements and buffer."""
    return Analysis(nest).dependences


def parallel_loops(nest: LoopNest) -> tuple[Freedom, ...]:
    """Every loop of the nest that contains a statement, in the order of the text."""
    analysis = Analysis(nest)
    nodes = {x.number: x.node for e in analysis.events for x in e.step.loops if not isinstance(x.var, Dim)}
    return tuple([analysis.freedom(nodes[number]) for number in sorted(nodes)])


def permutable(nest: LoopNest, band: Sequence[For], skew: Sequence[int] = (), *, reassociate: bool = False) -> bool:
    """See `Analysis.permutable`."""
    return Analysis(nest).permutable(band, skew, reassociate=reassociate)


# ---------------------------------------------------------------- relations


def _dependences(events: Sequence[Event]) -> tuple[Dependence, ...]:
    by: dict[Place, dict[tuple[object, ...], Event]] = {}
    combined = {(e.step, e.place, e.cell) for e in events if e.role is Role.COMBINE}
    for e in events:
        if e.role is Role.NEEDS_STATE and (e.step, e.place, e.cell) in combined:
            continue  # the accumulator a step combines into: one access, not a read and a write
        key = (e.step, e.cell, e.role.writes, e.role is Role.COMBINE, id(e.domain))
        by.setdefault(e.place, {}).setdefault(key, e)
    found: list[Dependence] = []
    for place, group in by.items():
        accesses = list(group.values())
        for a in accesses:
            for b in accesses:
                if a.role.writes or b.role.writes:
                    found += _between(a, b, place)
    return tuple(found)


def _between(a: Event, b: Event, place: Place) -> list[Dependence]:
    """``a`` first, then ``b``."""
    common = a.step.dims[: shared(a.step, b.step)]
    order = ordered(a.dims, b.dims, common, not a.step.order < b.step.order, False)
    pairs = _same(a, b, place, False).intersect(order)
    if pairs.is_empty():
        return []
    kind: Literal["flow", "anti", "output"]
    kind = "anti" if not a.role.writes else "output" if b.role.writes else "flow"
    found: list[Dependence] = []
    if a.role is Role.COMBINE and b.role is Role.COMBINE and a.tensor == b.tensor:
        element = _same(a, b, place, True).intersect(order)
        pairs = pairs.subtract(element)
        found.append(Dependence(a.step, b.step, place, kind, _loops(element, a, b), True))
    found.append(Dependence(a.step, b.step, place, kind, _loops(pairs, a, b), False))
    return [d for d in found if not d.pairs.is_empty()]


def _same(a: Event, b: Event, place: Place, element: bool) -> isl.Map:
    """Pairs that touch one cell (and element); a buffer is another one in each iteration around it."""

    def image(e: Event) -> isl.Map:
        scope = named(e.step.dims[: len(place.scope)])
        exprs = (*scope, *e.cell, *(e.index if element else ()))
        return isl.Map.from_multi_aff(multi(exprs, e.dims)).intersect_domain(e.domain)

    return image(a).apply_range(image(b).reverse())


def _loops(m: isl.Map, a: Event, b: Event) -> isl.Map:
    """Without the dimensions that range over points."""
    m = m.project_out(IN, len(a.step.loops), len(a.dims) - len(a.step.loops))
    return m.project_out(OUT, len(b.step.loops), len(b.dims) - len(b.step.loops))


def _carries(d: Dependence, loop: Loop, depth: int) -> bool:
    """Does the dependence connect two iterations of a loop, those around it being equal?"""
    if not _inside(d.source, loop, depth) or not _inside(d.sink, loop, depth):
        return False
    pairs = _equal_outside(d.pairs, depth)
    return not pairs.order_lt(IN, depth, OUT, depth).is_empty()


def _inside(step: Step, loop: Loop, depth: int) -> bool:
    return len(step.loops) > depth and step.loops[depth].number == loop.number


def _equal_outside(pairs: isl.Map, depth: int) -> isl.Map:
    for d in range(depth):
        pairs = pairs.equate(IN, d, OUT, d)
    return pairs


def _backwards(pairs: isl.Map, first: int, dim: int, factor: int) -> isl.Map:
    """The pairs whose distance along ``dim + factor * first`` is negative."""
    space = isl.LocalSpace.from_space(pairs.get_space())
    c = isl.Constraint.alloc_inequality(space)  # source - sink - 1 >= 0
    coefficients = {dim: 1}
    coefficients[first] = coefficients.get(first, 0) + factor
    for d, coefficient in coefficients.items():
        c = c.set_coefficient_val(IN, d, coefficient).set_coefficient_val(OUT, d, -coefficient)
    return pairs.add_constraint(c.set_constant_val(-1))
