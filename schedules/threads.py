"""Which GPU thread runs a statement: the thread loops around it are the digits of one thread number.

A kernel's body is plain control flow, the same for every thread of a block, around *phases*: the
outermost thread loops.  All threads run a phase, each its own iteration; between phases a barrier
may stand.  Nested thread loops are the digits of the thread number, outermost most significant, so
phases may divide the same threads in different ways (16 x 16 to compute, 64 x 4 to copy).  A phase
of fewer iterations than threads leaves the last threads idle; a statement without thread loops is a
phase of thread 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace

from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    LoopNest,
    Seq,
    Stmt,
    Store,
    Sync,
    children,
    map_accesses,
    stores,
    walk,
    with_children,
)  # fmt: skip
from tensordsl.schedules.simplify import Context, context

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """Loops as the digits of one number; extents: how many values each takes (at most)."""

    loops: tuple[For, ...]
    extents: tuple[int, ...]

    @property
    def count(self) -> int:
        n = 1
        for e in self.extents:
            n *= e
        return n

    def strides(self) -> tuple[int, ...]:
        result, step = [], 1
        for e in reversed(self.extents):
            result.append(step)
            step *= e
        return tuple(reversed(result))

    def number(self) -> Affine:
        """The number, as a function of the loop variables."""
        total = Affine()
        for f, stride in zip(self.loops, self.strides()):
            total += (Affine.of(f.var) - f.lo[0]) // f.step * stride
        return total

    def digit(self, k: int, number: Affine) -> Affine:
        """How often loop ``k`` has stepped, as a function of the number."""
        d = number // self.strides()[k]
        return d if k == 0 else d % self.extents[k]

    def values(self, number: Affine) -> dict[str, Affine]:
        """The loop variables as functions of the number."""
        found: dict[str, Affine] = {}
        for k, f in enumerate(self.loops):
            found[f.var] = f.lo[0].substitute(found) + self.digit(k, number) * f.step
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Phase:
    """A statement that the threads of a block run without waiting for each other.

    path: the statements around it (block and serial loops); digits: its thread loops.
    """

    stmt: Stmt
    path: tuple[Stmt, ...]
    digits: Digits


def most_iterations(f: For, c: Context) -> int:
    """The greatest number of iterations of a loop, over all values of the loops around it.

    Raises ScheduleError where no constant bounds it.
    """
    best: int | None = None
    for lo in f.lo:
        for hi in f.hi:
            n = c.maximum(hi - lo)
            if n is not None and (best is None or n < best):
                best = n
    if best is None:
        raise ScheduleError(f"{f.kind} loop {f.var}: no constant bounds its number of iterations")
    return max(0, -(-best // f.step))


def digits(loops: tuple[For, ...], around: tuple[Stmt, ...]) -> Digits:
    """Nested loops as digits.  Raises ScheduleError where an extent or a start is not fixed."""
    c = context(around)
    extents: list[int] = []
    for f in loops:
        if len(f.lo) != 1:
            raise ScheduleError(
                f"{f.kind} loop {f.var} starts at a maximum of {len(f.lo)} values", hint="peel it first"
            )
        extents.append(most_iterations(f, c))
        c = c.inside(f)
    return Digits(loops, tuple(extents))


def block_loops(nest: LoopNest) -> tuple[Digits, Stmt]:
    """The block loops, which must be the outermost, and what each block runs.  Raises ScheduleError."""
    loops: list[For] = []
    s = _only(nest.body)
    while isinstance(s, For) and s.kind == "block":
        loops.append(s)
        s = _only(s.body)
    for x, _ in walk(s):
        if isinstance(x, For) and x.kind == "block":
            raise ScheduleError(
                f"block loop {x.var} is not outermost: it lies inside or beside other statements",
                context=nest,
                legal="block loops around everything else",
            )
        if isinstance(x, For) and x.kind == "parallel":
            raise ScheduleError(f"loop {x.var} is for CPU threads", context=nest, hint="bind it to blocks or threads")
    return digits(tuple(loops), ()), s


def _only(s: Stmt) -> Stmt:
    while isinstance(s, Seq) and len(s.items) == 1:
        s = s.items[0]
    return s


def phases(nest: LoopNest) -> list[Phase]:
    """The phases of a nest in the order of the text.  Raises ScheduleError for mixed thread loops."""
    block_loops(nest)
    return [_phase(x, path, nest) for x, path in _tops(nest.body, ())]


def _tops(s: Stmt, path: tuple[Stmt, ...]) -> Iterator[tuple[Stmt, tuple[Stmt, ...]]]:
    if (isinstance(s, For) and s.kind == "thread") or _is_for_one(s):
        yield s, path
        return
    for child in children(s):
        yield from _tops(child, (*path, s))


def _is_for_one(s: Stmt) -> bool:
    """May one thread run a statement alone: does it store, without threads, syncs or shared buffers of its own?"""
    found = [x for x, _ in walk(s)]
    return any(isinstance(x, Store) for x in found) and not any(
        isinstance(x, Sync)
        or (isinstance(x, For) and x.kind in ("block", "thread"))
        or (isinstance(x, Alloc) and x.buffer.scope == "shared")
        for x in found
    )


def _phase(x: Stmt, path: tuple[Stmt, ...], nest: LoopNest) -> Phase:
    found: Digits | None = None
    for _, inner in stores(x):
        chain = tuple(f for f in inner if isinstance(f, For) and f.kind == "thread")
        d = _in_context(chain, (*path, *inner))
        if found is not None and d.extents != found.extents:
            raise ScheduleError(
                f"statements under thread loop {chain[0].var} lie in thread loops of "
                f"{' x '.join(map(str, found.extents))} and of {' x '.join(map(str, d.extents))}",
                context=nest,
                hint="thread loops of one phase divide the threads in one way: distribute the loop",
            )
        found = found or d
    for y, _ in walk(x):
        if isinstance(y, Sync):
            raise ScheduleError(f"sync {y.kind} inside a thread loop: not every thread gets there", context=nest)
        if isinstance(y, Alloc) and y.buffer.scope == "shared":
            raise ScheduleError(f"shared buffer {y.buffer.name} is allocated inside a thread loop", context=nest)
    return Phase(x, path, found or Digits((), ()))


def _in_context(chain: tuple[For, ...], around: tuple[Stmt, ...]) -> Digits:
    """The digits of thread loops that other loops may lie between."""
    extents: list[int] = []
    for f in chain:
        outer = around[: next(i for i, x in enumerate(around) if x is f)]
        extents += digits((f,), outer).extents
    return Digits(chain, tuple(extents))


def distinct(nest: LoopNest) -> LoopNest:
    """The same nest with every statement an object of its own, so that an object is also a place.

    Different buffers of one name (tiles of a peeled iteration) get names of their own as well.
    """
    known: dict[str, list[Buffer]] = {}

    def own(b: Buffer) -> Buffer:
        variants = known.setdefault(b.name, [])
        if b not in variants:
            variants.append(b)
        n = variants.index(b)
        return replace(b, name=f"{b.name}.{n + 1}") if n else b

    def go(s: Stmt) -> Stmt:
        if isinstance(s, Seq):
            return Seq(tuple([go(x) for x in s.items]))
        if isinstance(s, Alloc) and own(s.buffer) != s.buffer:
            return Alloc(own(s.buffer), _renamed(go(s.body), s.buffer, own(s.buffer)), s.tensor, s.element)
        new = with_children(s, tuple([go(x) for x in children(s)]))
        return copy(new) if new is s else new

    return LoopNest(nest.program, nest.parameters, go(nest.body))


def _renamed(body: Stmt, old: Buffer, new: Buffer) -> Stmt:
    return map_accesses(body, lambda b, index: (new, index) if b == old else None)


def thread_count(found: list[Phase]) -> int:
    """Threads of a block: as many as the largest phase needs."""
    return max((p.digits.count for p in found), default=1)
