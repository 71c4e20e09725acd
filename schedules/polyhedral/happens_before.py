"""Does every dependence between threads of a CUDA block cross a barrier, and every one on an
asynchronous copy a wait?

The nest is sequential; as a kernel its phases (see `schedules/threads.py`) run on many threads, each
at its own pace between two barriers.  A dependence of the sequential nest between accesses of
different threads is kept only if a barrier lies between them.  An asynchronous copy happens
anywhere between its issue and a ``wait n`` that at least n + 1 commits separate from it; only then
may a barrier hand its result to others.  Folded cells (pipeline stages) are compared by their
physical index.  Blocks are never ordered.  Registers and stack are private by construction (the
printer refuses others), so shared and global memory is all there is to check.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NoReturn

import islpy as isl
from tensordsl.schedules.loopnest import (
    Buffer,
    For,
    If,
    LoopNest,
    Stmt,
    Store,
    Sync,
    buffers,
    stores,
    walk,
)  # fmt: skip
from tensordsl.schedules.polyhedral.isl_build import (
    IN,
    OUT,
    SET,
    Dims,
    coordinates,
    multi,
    named,
    ordered,
    space,
    where,
)  # fmt: skip
from tensordsl.schedules.threads import Digits, Phase, block_loops, distinct, phases

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import reads

Path = tuple[Stmt, ...]
Hopeless = Literal["", "phase", "blocks"]


@dataclass(frozen=True, slots=True, eq=False)
class Spot:
    """A phase or a sync: the loops that every thread runs around it, and its place in the text."""

    loops: tuple[For, ...]
    order: int
    domain: isl.Set

    @property
    def dims(self) -> Dims:
        return tuple([f.var for f in self.loops])


@dataclass(frozen=True, slots=True, eq=False)
class Touch:
    """One store's accesses to one buffer.

    order: of the store in its phase; in_flight: by an asynchronous copy; loops: around the store;
    who, what: from the loops to (loops of the phase, thread) and to the cell; cells: from the one to
    the other.
    """

    phase: int
    order: int
    buffer: Buffer
    writes: bool
    in_flight: bool
    loops: tuple[For, ...]
    who: isl.Map
    what: isl.Map
    cells: isl.Map


@dataclass(frozen=True, slots=True, eq=False)
class Conflict:
    """Two accesses that share cells, at least one a write, in any order.

    own: pairs of points of one thread, other: of different threads, each (loops, thread) -> (loops,
    thread); own_loops, other_loops: the same without the threads.
    """

    first: Touch
    second: Touch
    own: isl.Map
    other: isl.Map
    own_loops: isl.Map
    other_loops: isl.Map


@dataclass(frozen=True, slots=True, eq=False)
class Hazard:
    """Two conflicting accesses, in sequential order, that nothing keeps in order on a GPU.

    first, second: their phases.  carried: the loop whose later iteration the second one is in (None:
    the same iteration of all common loops).  crosses: they are of different threads (a barrier is
    missing); in_flight: the first is an asynchronous copy (a wait is missing).
    hopeless: why no sync can help: both are in one phase, or in different blocks.
    """

    first: Phase
    second: Phase
    stores: tuple[Store, Store]
    buffer: Buffer
    carried: For | None
    crosses: bool
    in_flight: bool
    hopeless: Hopeless
    example: str


def find_conflicts(nest: LoopNest) -> tuple[Conflict, ...]:
    """What the phases of a nest share.  It does not depend on syncs, and serves every nest with the same phases."""
    return _Check(nest, ()).shared()


def find_hazards(nest: LoopNest, conflicts: tuple[Conflict, ...] | None = None) -> Iterator[Hazard]:
    """Every kind of dependence that the syncs of a nest do not keep.

    nest: `distinct`, so that a statement's identity is its place.  Raises ScheduleError for misplaced loops.
    """
    return _Check(nest, find_conflicts(nest) if conflicts is None else conflicts).hazards()


def domain(path: Path, leaf: Stmt) -> isl.Set:
    """The instances of a statement: values of the loops around it."""
    dims: tuple[str, ...] = ()
    points = isl.Set.universe(space(0))
    for s, child in zip(path, (*path[1:], leaf)):
        if isinstance(s, For):
            dims = (*dims, s.var)
            v = Affine.of(s.var)
            points = points.add_dims(SET, 1).intersect(
                where(tuple([v - lo for lo in s.lo] + [hi - 1 - v for hi in s.hi]), dims)
            )
            if s.step > 1 and len(s.lo) == 1:  # (with several starts: more points than there are, which is safe)
                points = points.intersect(where((-((v - s.lo[0]) % s.step),), dims))
        elif isinstance(s, If):
            holds = where(s.conditions, dims)
            points = points.intersect(holds) if child is s.then else points.subtract(holds)
    return points


def _spot(path: Path, leaf: Stmt, order: int) -> Spot:
    return Spot(tuple([f for f in path if isinstance(f, For)]), order, domain(path, leaf))


def _shared(a: Spot, b: Spot) -> Dims:
    """The loops that two spots have in common."""
    n = 0
    for x, y in zip(a.loops, b.loops):
        if x is not y:
            break
        n += 1
    return a.dims[:n]


def _same(names: Dims, first: Dims, second: Dims) -> isl.Map:
    """Pairs of points with equal values of some loops."""
    to = isl.Map.from_multi_aff(multi(named(names), first))
    return to.apply_range(isl.Map.from_multi_aff(multi(named(names), second)).reverse())


class _Check:
    def __init__(self, nest: LoopNest, conflicts: tuple[Conflict, ...]) -> None:
        self.nest = nest
        self.conflicts = conflicts
        self.blocks = tuple([f.var for f in block_loops(nest)[0].loops])
        self.phases = phases(nest)
        order = {id(s): k for k, (s, _) in enumerate(walk(nest.body))}
        self.order = order
        self.spots = [_spot(p.path, p.stmt, order[id(p.stmt)]) for p in self.phases]
        syncs = [(s, _spot(path, s, order[id(s)])) for s, path in walk(nest.body) if isinstance(s, Sync)]
        self.barriers = [spot for s, spot in syncs if s.kind == "barrier"]
        self.commits = [spot for s, spot in syncs if s.kind == "commit"]
        self.waits = [(s.count, spot) for s, spot in syncs if s.kind == "wait"]
        self.memo: dict[tuple[int, int], isl.Map] = {}

    # ---------------------------------------------------------------- accesses

    @cached_property
    def touches(self) -> list[Touch]:
        known = buffers(self.nest)
        written = {s.buffer.name for s, _ in stores(self.nest.body)}
        followed = {n for n, b in known.items() if b.scope in ("shared", "external", "workspace") and n in written}
        found: list[Touch] = []
        for k, p in enumerate(self.phases):
            for order, (store, inner) in enumerate(stores(p.stmt)):
                path = (*p.path, *inner)
                in_flight = any(isinstance(f, For) and "async" in f.notes for f in path)
                used = [(store.buffer, store.index, True)]
                used += [(r.source, r.index, False) for r in reads(store.value)]  # type: ignore[misc]
                if store.op:
                    used.append((store.buffer, store.index, False))
                for buffer, index, writes in used:
                    if buffer.name in followed:
                        who, what = self.access(k, store, path, buffer, index)
                        loops = tuple([f for f in path if isinstance(f, For)])
                        cells = who.reverse().apply_range(what)
                        found.append(Touch(k, order, buffer, writes, in_flight, loops, who, what, cells))
        return found

    def access(self, k: int, store: Store, path: Path, b: Buffer, index: tuple[Affine, ...]) -> tuple[isl.Map, isl.Map]:
        dims = tuple([f.var for f in path if isinstance(f, For)])
        chain = tuple([f for f in path if isinstance(f, For) and f.kind == "thread"])
        number = Digits(chain, self.phases[k].digits.extents).number()
        folds = b.fold + (0,) * (len(index) - len(b.fold))
        physical = tuple([i % m if m else i for i, m in zip(index, folds)])
        who = isl.Map.from_multi_aff(multi((*named(self.spots[k].dims), number), dims))
        what = isl.Map.from_multi_aff(multi(physical, dims))
        return who.intersect_domain(domain(path, store)), what

    # ---------------------------------------------------------------- order

    def before(self, a: Spot, b: Spot) -> isl.Map:
        """Pairs of instances of one block, the first strictly before the second."""
        key = (a.order, b.order)
        if key not in self.memo:
            names = _shared(a, b)
            m = ordered(a.dims, b.dims, names, a.order >= b.order, False)
            m = m.intersect(_same(self.blocks, a.dims, b.dims))
            self.memo[key] = m.intersect_domain(a.domain).intersect_range(b.domain)
        return self.memo[key]

    def through(self, a: Spot, middle: list[Spot], b: Spot) -> isl.Map:
        """Pairs of instances with one of ``middle`` between them."""
        found = isl.Map.empty(self.before(a, b).get_space())
        for m in middle:
            found = found.union(self.before(a, m).apply_range(self.before(m, b)))
        return found

    def arrivals(self, a: Spot) -> Iterator[tuple[Spot, isl.Map]]:
        """Each wait with the instances of ``a`` whose copies have arrived there."""
        for count, wait in self.waits:
            reached = [(c, self.before(a, c)) for c in self.commits]
            for _ in range(count):  # one more commit between the copy and the wait
                reached = [(d, _union([m.apply_range(self.before(c, d)) for c, m in reached])) for d in self.commits]
            if reached:
                yield wait, _union([m.apply_range(self.before(c, wait)) for c, m in reached])

    def kept(self, a: Spot, b: Spot, crosses: bool, in_flight: bool) -> isl.Map:
        """Pairs of instances that the syncs keep in order."""
        if not in_flight:
            return self.through(a, self.barriers, b)
        found = isl.Map.empty(self.before(a, b).get_space())
        for wait, arrived in self.arrivals(a):
            onward = self.through(wait, self.barriers, b) if crosses else self.before(wait, b)
            found = found.union(arrived.apply_range(onward))
        return found

    # ---------------------------------------------------------------- dependences without an order

    def shared(self) -> tuple[Conflict, ...]:
        found: list[Conflict] = []
        for k, a in enumerate(self.touches):
            for b in self.touches[k:]:
                if a.buffer.name != b.buffer.name or not (a.writes or b.writes):
                    continue
                meet = a.cells.apply_range(b.cells.reverse())
                if meet.is_empty():
                    continue
                n, m = len(self.spots[a.phase].dims), len(self.spots[b.phase].dims)
                every = isl.Map.universe(meet.get_space())
                own = meet.intersect(every.equate(IN, n, OUT, m))
                other = meet.intersect(every.order_lt(IN, n, OUT, m).union(every.order_gt(IN, n, OUT, m)))
                loops = [x.project_out(IN, n, 1).project_out(OUT, m, 1).coalesce() for x in (own, other)]
                found.append(Conflict(a, b, own, other, *loops))
                if a is not b:
                    found.append(Conflict(b, a, *[x.reverse() for x in (own, other, *loops)]))
        return tuple(found)

    def hazards(self) -> Iterator[Hazard]:
        for c in self.conflicts:
            yield from self.pair(c)

    def pair(self, c: Conflict) -> Iterator[Hazard]:
        """Hazards between two accesses, the first one earlier in the sequential nest."""
        a, b = c.first, c.second
        p, q = self.spots[a.phase], self.spots[b.phase]
        if a.buffer.scope != "shared" and self.blocks:
            apart = c.own.union(c.other).subtract(self.with_threads(_same(self.blocks, p.dims, q.dims)))
            yield from self.report(a, b, apart, None, True, False, "blocks")
        if a.phase == b.phase:
            now = self.with_threads(_same(p.dims, p.dims, p.dims))
            yield from self.report(a, b, c.other.intersect(now), None, True, a.in_flight, "phase")
            if a.in_flight:
                yield from self.report(a, b, self.later_in_phase(a, b).intersect(now), None, False, True, "phase")
        for crosses, found, loops in ((True, c.other, c.other_loops), (False, c.own, c.own_loops)):
            if not crosses and not a.in_flight:
                continue  # a thread keeps its own order
            pairs = loops.intersect(self.before(p, q))
            if pairs.is_empty():
                continue
            lost = pairs.subtract(self.kept(p, q, crosses, a.in_flight))
            if lost.is_empty():
                continue
            common = _shared(p, q)
            for k in range(len(self.blocks), len(common) + 1):
                level = _same(common[:k], p.dims, q.dims)
                if k < len(common):
                    level = level.intersect(ordered(p.dims, q.dims, common[k : k + 1], True, False))
                here = self.with_threads(lost.intersect(level)).intersect(found)
                yield from self.report(a, b, here, p.loops[k] if k < len(common) else None, crosses, a.in_flight, "")

    def later_in_phase(self, a: Touch, b: Touch) -> isl.Map:
        """Where a thread touches the cell of an earlier access again before its phase ends."""
        names = tuple([x.var for x, y in zip(a.loops, b.loops) if x is y])
        first, second = (tuple([f.var for f in x.loops]) for x in (a, b))
        pairs = a.what.apply_range(b.what.reverse())
        pairs = pairs.intersect(ordered(first, second, names, a.order >= b.order, False))
        found = a.who.reverse().apply_range(pairs).apply_range(b.who)
        n = len(self.spots[a.phase].dims)
        return found.intersect(isl.Map.universe(found.get_space()).equate(IN, n, OUT, n))

    def with_threads(self, m: isl.Map) -> isl.Map:
        """A relation between loops, for any two threads."""
        return m.add_dims(IN, 1).add_dims(OUT, 1)

    def report(
        self,
        a: Touch,
        b: Touch,
        found: isl.Map,
        carried: For | None,
        crosses: bool,
        in_flight: bool,
        hopeless: Hopeless,
    ) -> Iterator[Hazard]:
        if not found.is_empty():
            first, second = self.phases[a.phase], self.phases[b.phase]
            example = self.example(a, b, found)
            pair = (list(stores(first.stmt))[a.order][0], list(stores(second.stmt))[b.order][0])
            yield Hazard(first, second, pair, a.buffer, carried, crosses, in_flight, hopeless, example)

    def example(self, a: Touch, b: Touch, found: isl.Map) -> str:
        p, q = self.spots[a.phase].dims, self.spots[b.phase].dims
        names = tuple([f"1.{v}" for v in (*p, "")]) + tuple([f"2.{v}" for v in (*q, "")])
        at = coordinates(found.wrap().flatten().lexmin().sample_point(), names)
        where_a, where_b = [at[f"1.{v}"] for v in p], [at[f"2.{v}"] for v in q]
        cells = [_fixed(t.cells, (*w, at[f"{k}."])) for t, w, k in ((a, where_a, 1), (b, where_b, 2))]
        cell = cells[0].intersect(cells[1]).lexmin().sample_point()
        index = ", ".join(str(cell.get_coordinate_val(SET, d).to_python()) for d in range(len(a.buffer.shape)))
        parts = []
        for t, dims, values, k in ((a, p, where_a, 1), (b, q, where_b, 2)):
            place = f" at {', '.join(f'{v} = {x}' for v, x in zip(dims, values))}" if dims else ""
            verb = "writes" if t.writes else "reads"
            copying = " by an asynchronous copy" if t.in_flight else ""
            parts.append(f"thread {at[f'{k}.']} {verb} {a.buffer.name}[{index}]{place}{copying}")
        return "; ".join(parts)


def _union(maps: list[isl.Map]) -> isl.Map:
    result = maps[0]
    for m in maps[1:]:
        result = result.union(m)
    return result.coalesce()


def _fixed(m: isl.Map, point: tuple[int, ...]) -> isl.Set:
    for k, value in enumerate(point):
        m = m.fix_val(IN, k, value)
    return m.range()


def check_sync(nest: LoopNest) -> None:
    """Prove that a nest keeps its meaning on a GPU.  Raises ScheduleError with a counterexample."""
    nest = distinct(nest)
    for h in find_hazards(nest):
        refuse(nest, h)


def refuse(nest: LoopNest, h: Hazard) -> NoReturn:
    """Raises the ScheduleError of a hazard."""
    raise ScheduleError(_message(h), context=_marked(nest, h), counterexample=h.example, hint=_hint(h))


def _message(h: Hazard) -> str:
    name = h.buffer.name
    if h.hopeless:
        who = "threads of one phase" if h.hopeless == "phase" else "blocks"
        return f"{who} share a cell of {name}, and nothing orders them"
    missing = "a barrier" if not h.in_flight else "a wait and a barrier" if h.crosses else "a wait"
    when = f", the second in a later iteration of {h.carried.var}" if h.carried else ""
    return f"{missing} is missing between two accesses to {name}{when}"


def _hint(h: Hazard) -> str | None:
    return "bind another loop to threads, or give each its own cells" if h.hopeless else "insert_sync places them"


def _marked(nest: LoopNest, h: Hazard) -> str:
    from tensordsl.schedules.nest_text import nest_text

    return nest_text(nest, {id(s) for s in h.stores})
