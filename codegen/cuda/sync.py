"""Where a CUDA kernel must wait: barriers and waits, derived from the accesses of its nest.

`find_hazards` says which dependences between threads nothing keeps.  Each can be kept at any of
several *slots* of the control flow that all threads share: those that lie between the two accesses
whenever they conflict.  The cheapest set of slots that serves every dependence gets the barriers;
for asynchronous copies, waits are placed likewise and then made as weak as the proof allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tensordsl.schedules.loopnest import (
    For,
    LoopNest,
    Seq,
    Stmt,
    Sync,
    children,
    rewrite,
    seq,
    stores,
    walk,
    with_children,
)  # fmt: skip
from tensordsl.schedules.simplify import context
from tensordsl.schedules.threads import Phase, distinct, most_iterations, phases

from tensordsl.errors import InternalError

if TYPE_CHECKING:
    from tensordsl.schedules.polyhedral.happens_before import Conflict, Hazard

#: A place between two statements: a `Seq` by identity, and how many of its items come before.
Slot = tuple[int, int]


def check_sync(nest: LoopNest) -> None:
    """Prove that the syncs of a nest keep every dependence.  Raises ScheduleError with a counterexample."""
    from tensordsl.schedules.polyhedral import happens_before

    happens_before.check_sync(nest)


def insert_sync(nest: LoopNest) -> LoopNest:
    """The nest with the barriers, commits and waits that its dependences need (those it has are kept).

    Raises ScheduleError with a counterexample where no barrier can help.
    """
    from tensordsl.schedules.polyhedral.happens_before import find_conflicts, find_hazards, refuse

    nest = _blocks(_with_commits(distinct(nest)))
    conflicts = find_conflicts(nest)
    hazards: list[Hazard] = []
    for h in find_hazards(nest, conflicts):
        if h.hopeless:
            refuse(nest, h)
        hazards.append(h)
    if hazards:
        tree = _Tree(nest)
        for h in hazards:
            if not tree.slots(h):
                refuse(nest, h)
        barriers = cheapest([tree.slots(h) for h in hazards if h.crosses], tree.costs)
        arriving = [tree.slots(h) & barriers if h.crosses else tree.slots(h) for h in hazards if h.in_flight]
        # where a barrier stands anyway, a wait is preferred
        waits = cheapest(arriving, {s: c * (1 if s in barriers else 2) for s, c in tree.costs.items()})
        before = _syncs(nest)
        nest = _insert(nest, barriers, waits)
        for h in find_hazards(nest, conflicts):
            raise InternalError(f"insert_sync: a dependence is not kept: {h.example}", context=nest)
        nest = _without_superfluous(nest, before, conflicts)
    nest = _weakest_waits(nest, conflicts)
    return LoopNest(nest.program, nest.parameters, _simple(nest.body))


# ---------------------------------------------------------------- the control flow as blocks


def _blocks(nest: LoopNest) -> LoopNest:
    """The body of everything around the phases as a `Seq`, so that each place has a name."""
    inside = {id(x) for p in phases(nest) for x, _ in walk(p.stmt)}

    def go(s: Stmt) -> Stmt:
        if id(s) in inside:
            return s
        if isinstance(s, Seq):
            return Seq(tuple([go(x) for x in s.items]))
        inner = [go(c) for c in children(s)]
        return with_children(s, tuple([c if isinstance(c, Seq) else Seq((c,)) for c in inner]))

    return LoopNest(nest.program, nest.parameters, Seq((go(nest.body),)))


def _simple(s: Stmt) -> Stmt:
    return rewrite(s, lambda x: seq(*x.items) if isinstance(x, Seq) else None)


def is_async(p: Phase) -> bool:
    """Does a phase copy asynchronously?"""
    return any(isinstance(f, For) and "async" in f.notes for _, inner in stores(p.stmt) for f in (*p.path, *inner))


def _with_commits(nest: LoopNest) -> LoopNest:
    """A commit after each run of statements that do nothing but copy asynchronously, where there is none.

    A run that fills a buffer again (the next stage of a pipeline) is a group of its own.
    """
    found = phases(nest)
    if not any(is_async(p) for p in found):
        return nest
    copies = {id(p.stmt) for p in found if is_async(p)}
    others = {id(p.stmt) for p in found} - copies

    def only_copies(s: Stmt) -> bool:
        """(The iterations of a serial loop are groups of their own, those of an unrolled one are not.)"""
        if id(s) in copies or id(s) in others:
            return id(s) in copies
        if isinstance(s, Sync) or (isinstance(s, For) and s.kind != "unroll"):
            return False
        return bool(children(s)) and all(only_copies(c) for c in children(s))

    def go(s: Stmt) -> Stmt:
        if not isinstance(s, Seq) and only_copies(s):
            return Seq((s, Sync("commit")))
        if isinstance(s, Seq):
            items: list[Stmt] = []
            filled: set[str] = set()
            for x, after in zip(s.items, (*s.items[1:], Seq(()))):
                if not only_copies(x):
                    items.append(go(x))
                    continue
                items.append(x)
                filled |= _written(x)
                if not (only_copies(after) and filled.isdisjoint(_written(after))):
                    filled = set()
                    if not _is_commit(after):
                        items.append(Sync("commit"))
            return Seq(tuple(items))
        return with_children(s, tuple([go(c) for c in children(s)]))

    return LoopNest(nest.program, nest.parameters, go(nest.body))


def _written(s: Stmt) -> set[str]:
    return {st.buffer.name for st, _ in stores(s)}


def _is_commit(s: Stmt) -> bool:
    return isinstance(s, Sync) and s.kind == "commit"


@dataclass(slots=True, eq=False)
class _Tree:
    """Where the phases stand in the blocks, and how often each slot is passed."""

    where: dict[int, list[tuple[Seq, int]]]  # phase -> the blocks around it, with its position in each
    bodies: dict[int, Seq]  # loop -> its block
    costs: dict[Slot, int]  # twice the number of passes

    def __init__(self, nest: LoopNest) -> None:
        self.where, self.bodies, self.costs = {}, {}, {}
        leaves = {id(p.stmt) for p in phases(nest)}

        def go(s: Stmt, path: tuple[Stmt, ...], at: list[tuple[Seq, int]], times: int) -> None:
            if id(s) in leaves:
                self.where[id(s)] = at
                return
            if isinstance(s, Seq):
                for k in range(len(s.items) + 1):  # at the end of a block only where nothing else serves
                    self.costs[id(s), k] = 2 * times + (k == len(s.items))
                for k, x in enumerate(s.items):
                    go(x, (*path, s), [*at, (s, k)], times)
                return
            if isinstance(s, For):
                assert isinstance(s.body, Seq)
                self.bodies[id(s)] = s.body
                times *= 1 if s.kind == "block" else max(1, most_iterations(s, context(path)))
            for c in children(s):
                go(c, (*path, s), at, times)

        go(nest.body, (), [], 1)

    def slots(self, h: Hazard) -> frozenset[Slot]:
        """The slots that lie between the two phases of a hazard in any case."""
        p, q = list(self.where[id(h.first.stmt)]), self.where[id(h.second.stmt)]
        if h.in_flight:  # the copy ends with its commit
            level = max(i for i, (block, k) in enumerate(p) if any(_is_commit(x) for x in block.items[k:]))
            block, k = p[level]
            k = next(i for i in range(k, len(block.items)) if _is_commit(block.items[i]))
            p[level:] = [(block, k)]
        if h.carried is None:
            level = next(i for i, (x, y) in enumerate(zip(p, q)) if x[1] != y[1])
        else:
            level = next((i for i, (x, _) in enumerate(p) if x is self.bodies[id(h.carried)]), len(p))
        if level >= len(p):  # copies of one group in several iterations
            return frozenset()
        (block, a), (_, b) = p[level], q[level]
        n = len(block.items)
        between = [k for k in range(n + 1) if (a < k <= b if h.carried is None else k > a or k <= b)]
        found = {(id(block), k) for k in between}
        for inner, k in p[level + 1 :]:
            found |= {(id(inner), i) for i in range(k + 1, len(inner.items) + 1)}
        for inner, k in q[level + 1 :]:
            found |= {(id(inner), i) for i in range(k + 1)}
        return frozenset(found)


# ---------------------------------------------------------------- choosing slots


def cheapest(needs: Iterable[frozenset[Slot]], costs: Mapping[Slot, int]) -> frozenset[Slot]:
    """The cheapest slots such that each need has one of its own: branch and bound."""
    different = sorted(set(needs), key=len)
    minimal = [n for k, n in enumerate(different) if not any(m < n for m in different[:k])]
    rank = {slot: k for k, slot in enumerate(costs)}
    best: tuple[int, frozenset[Slot]] | None = None

    def go(open_needs: list[frozenset[Slot]], chosen: frozenset[Slot], cost: int) -> None:
        nonlocal best
        if best is not None and cost >= best[0]:
            return
        if not open_needs:
            best = (cost, chosen)
            return
        served = {s: sum(s in n for n in open_needs) for s in open_needs[0]}
        for s in sorted(served, key=lambda s: (-served[s], costs[s], rank[s])):
            go([n for n in open_needs if s not in n], chosen | {s}, cost + costs[s])

    go(minimal, frozenset(), 0)
    return best[1] if best else frozenset()


def _insert(nest: LoopNest, barriers: frozenset[Slot], waits: frozenset[Slot]) -> LoopNest:
    def go(s: Stmt) -> Stmt:
        if not isinstance(s, Seq):
            return with_children(s, tuple([go(c) for c in children(s)]))
        items: list[Stmt] = []
        for k in range(len(s.items) + 1):
            if (id(s), k) in waits:
                items.append(Sync("wait", 0))
            if (id(s), k) in barriers:
                items.append(Sync("barrier"))
            if k < len(s.items):
                items.append(go(s.items[k]))
        return Seq(tuple(items))

    return LoopNest(nest.program, nest.parameters, go(nest.body))


def _syncs(nest: LoopNest) -> list[Sync]:
    return [s for s, _ in walk(nest.body) if isinstance(s, Sync)]


def _is_kept(nest: LoopNest, conflicts: tuple[Conflict, ...]) -> bool:
    from tensordsl.schedules.polyhedral.happens_before import find_hazards

    return not any(True for _ in find_hazards(nest, conflicts))


def _without_superfluous(nest: LoopNest, given: list[Sync], conflicts: tuple[Conflict, ...]) -> LoopNest:
    """Without the inserted syncs that others make superfluous: distances of several iterations leave some."""
    kept = {id(s) for s in given}
    for target in _syncs(nest):
        if id(target) not in kept:
            less = replace(nest, body=rewrite(nest.body, lambda s, t=target: Seq(()) if s is t else None))  # type: ignore[misc]
            nest = less if _is_kept(less, conflicts) else nest
    return nest


def _weakest_waits(nest: LoopNest, conflicts: tuple[Conflict, ...]) -> LoopNest:
    """Each wait leaves as many copies in flight as the proof allows."""
    most = sum(s.kind == "commit" for s in _syncs(nest))
    for number, wait in enumerate(_syncs(nest)):
        for count in range(wait.count + 1, most + 1 if wait.kind == "wait" else 0):
            target = _syncs(nest)[number]
            weaker = replace(
                nest,
                body=rewrite(nest.body, lambda s, t=target, n=count: replace(t, count=n) if s is t else None),  # type: ignore[misc]
            )
            if not _is_kept(weaker, conflicts):
                break
            nest = weaker
    return nest
