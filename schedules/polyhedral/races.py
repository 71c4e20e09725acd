"""Races: no cell is shared by two iterations of a parallel or vector loop, one of them writing.

One exception: in a vector loop a store that combines into a cell without the lane is a horizontal
reduction, which the printer performs as one step; reductions may be reassociated.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

import islpy as isl
from tensordsl.schedules.polyhedral.events import Event, Loop, Place, Refuted, Role, Violation, at, shown
from tensordsl.schedules.polyhedral.isl_build import fixed, multi, named, ordered, point

from tensordsl.affine import Affine
from tensordsl.combination import Combination

_COMBINES = (Role.COMBINE, Role.NEEDS_STATE)


def check_races(events: Iterable[Event], ordered_tensors: Container[str] = ()) -> None:
    """Every loop that is not serial or unrolled, every buffer allocated outside it.

    ordered_tensors: reductions that may not be reassociated.  Raises Refuted.
    """
    loops: dict[int, tuple[Loop, int]] = {}
    inside: dict[tuple[int, Place], dict[tuple[object, ...], Event]] = {}
    for e in events:
        for depth, loop in enumerate(e.step.loops):
            if loop.kind in ("serial", "unroll") or loop in e.place.scope:
                continue
            loops[loop.number] = loop, depth
            # accesses of one cell by one step differ in what they need only
            key = (e.step, e.cell, e.role.writes, e.dims, id(e.domain))
            inside.setdefault((loop.number, e.place), {}).setdefault(key, e)
    for (number, _), group in inside.items():
        loop, depth = loops[number]
        accesses = list(group.values())
        for i, a in enumerate(accesses):
            for b in accesses[: i + 1]:
                if not (a.role.writes or b.role.writes):
                    continue
                if a.tensor in ordered_tensors or not _reduces_lanes(a, b, loop):
                    _pair(*((a, b) if a.role.writes else (b, a)), loop, depth)


def _reduces_lanes(a: Event, b: Event, loop: Loop) -> bool:
    if loop.kind != "vector" or a.step is not b.step or a.step.store is None:
        return False
    if not a.step.store.op or isinstance(a.step.store.op, Combination):  # the machine has no step for the latter
        return False
    return all(e.role in _COMBINES and all(loop.var not in c.names() for c in e.cell) for e in (a, b))


def _pair(w: Event, a: Event, loop: Loop, depth: int) -> None:
    """``w`` writes a cell in one iteration, ``a`` uses it in another, the loops around being equal."""
    if _separated(w, a, loop, depth):
        return
    around = named(w.step.dims[:depth])
    same = _image((*around, *w.cell), w).apply_range(_image((*around, *a.cell), a).reverse())
    for backwards in (False, True):
        m = same.intersect(ordered(w.dims, a.dims, (loop.var,), True, backwards))
        if not m.is_empty():
            raise Refuted(_violation(w, a, m, loop))
        if w.step is a.step and w.cell == a.cell and w.domain is a.domain:
            return  # symmetric


def _image(exprs: tuple[Affine, ...], e: Event) -> isl.Map:
    return isl.Map.from_multi_aff(multi(exprs, e.dims)).intersect_domain(e.domain)


def _separated(w: Event, a: Event, loop: Loop, depth: int) -> bool:
    """Does some index alone tell the iterations apart?  Then isl need not be asked."""
    around: set[str] = set(w.step.dims[: depth + 1])
    for x, y in zip(w.cell, a.cell):
        if any(True for _ in x.data()):  # what is read may have changed
            continue
        if x == y and x.coefficient(loop.var) and x.names() <= around:
            others = [atom for atom, _ in x.terms if atom != loop.var]
            if all(isinstance(atom, str) or loop.var not in atom.names() for atom in others):
                return True
    return False


def _violation(w: Event, a: Event, m: isl.Map, loop: Loop) -> Violation:
    env = point(m.domain(), w.dims)
    other = point(fixed(m, w.dims, env).range(), a.dims)
    cell = shown(w.place.buffer.name, w.cell, env)
    verb = "writes" if a.role.writes else "reads"
    return Violation(
        "race",
        f"iterations of the {loop.kind} loop {loop.var} share {w.place.buffer.name}",
        f"{at(w.step, env)} writes {cell}, and {at(a.step, other)} {verb} it",
        tuple([s for s in dict.fromkeys((w.step.store, a.step.store)) if s is not None]),
    )
