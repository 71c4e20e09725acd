"""Definition primitives on where and how a buffer is stored."""

from __future__ import annotations

import math
from dataclasses import replace

from tensordsl.schedules.locate import Path, element_of
from tensordsl.schedules.loopnest import (
    CELL,
    Alloc,
    Buffer,
    For,
    LoopNest,
    Prefetch,
    Seq,
    Stmt,
    Store,
    buffers,
    children,
    map_accesses,
    rewrite,
    stores,
    walk,
    with_children,
)  # fmt: skip
from tensordsl.schedules.primitives.caches import SCOPES
from tensordsl.schedules.primitives.placement import local_scope, rebase
from tensordsl.schedules.regions import NoBox, Span, span, union
from tensordsl.schedules.schedule import Schedule, primitive
from tensordsl.schedules.simplify import context

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import reads


def replace_buffer(s: Schedule, name: str, change: dict[str, object]) -> Schedule:
    """The nest with every buffer of that name changed."""
    if name not in buffers(s.nest):
        raise ScheduleError(f"there is no buffer {name!r}", legal=sorted(buffers(s.nest)))
    memo: dict[int, Buffer] = {}

    def new(b: Buffer) -> Buffer:
        return memo.setdefault(id(b), replace(b, **change))  # type: ignore[arg-type]

    def stmt(x: Stmt) -> Stmt | None:
        return replace(x, buffer=new(x.buffer)) if isinstance(x, Alloc) and x.buffer.name == name else None

    body = map_accesses(rewrite(s.nest.body, stmt), lambda b, index: (new(b), index) if b.name == name else None)
    t = s.with_nest(body)
    parameters = tuple(new(p) if p.name == name else p for p in s.nest.parameters)
    return Schedule(t.program, LoopNest(t.program, parameters, t.nest.body), t.trace, t.checked)


def _local(s: Schedule, name: str) -> list[Buffer]:
    """The buffers of a name: copies of a loop may have ones of different sizes."""
    known = buffers(s.nest)
    if name not in known:
        raise ScheduleError(f"there is no buffer {name!r}", legal=sorted(known))
    if known[name].scope == "external":
        raise ScheduleError(f"{name} is the caller's memory", hint="cache it in a buffer of the kernel's own")
    return [x.buffer for x, _ in walk(s.nest.body) if isinstance(x, Alloc) and x.buffer.name == name]


@primitive
def set_scope(s: Schedule, buffer: str, scope: str) -> Schedule:
    """Choose where a buffer lives.

    scope: "register" (named values; every index but the lane is unrolled), "stack", "workspace" or
    "shared" (a GPU's block memory).

    Requires: the buffer is not the caller's memory.
    Rewrite: ``alloc c stack``  ->  ``alloc c register``
    Raises: ScheduleError for an unknown buffer or scope.
    """
    _local(s, buffer)
    if scope not in SCOPES:
        raise ScheduleError(f"scope={scope!r}", legal=SCOPES)
    return replace_buffer(s, buffer, {"scope": scope})


@primitive
def store_at(s: Schedule, buffer: str, loop: str) -> Schedule:
    """Give a buffer memory inside a loop, only for what one iteration keeps in it.

    Requires: nothing outside the loop uses the buffer; one iteration uses a box of constant size.
    Rewrite: ``alloc c[n][m]; for v: (c[v][..] = ..; ..c[v][..])``  ->  ``for v: alloc c[1][m]; ..``
    Raises: ScheduleError for an unknown loop, a use outside it, or a region without a constant size.
    """
    _local(s, buffer)

    def go(x: Stmt, path: Path) -> Stmt:
        if isinstance(x, Alloc) and x.buffer.name == buffer:
            return _moved(x, path, loop)
        return with_children(x, tuple([go(c, (*path, x)) for c in children(x)]))

    return s.with_nest(go(s.nest.body, ()))


def _moved(alloc: Alloc, around: Path, loop: str) -> Stmt:
    """The body of an allocation with one in each loop of that name instead."""
    old, targets = alloc.buffer, set[int]()
    for x, path in walk(alloc.body):
        if old.name in _touched(x):
            loops = [f for f in path if isinstance(f, For)]
            target = next((f for f in loops if f.var == loop), None)
            if target is None:
                legal = [f.var for f in loops]
                raise ScheduleError(f'{x} uses {old.name} outside a loop "{loop}" of its memory', legal=legal)
            targets.add(id(target))

    def go(x: Stmt, path: Path) -> Stmt:
        if isinstance(x, Prefetch) and x.buffer is old:  # outside the new memory there is nothing to ask for
            return Seq(())
        if id(x) not in targets:
            return with_children(x, tuple([go(c, (*path, x)) for c in children(x)]))
        assert isinstance(x, For)
        spans = _spans(x, path, old.name)
        shape = tuple(sp.extent for sp in spans)
        scope = local_scope(math.prod(shape), old.dtype.bytes)
        new = replace(old, shape=shape, scope=scope, pitch=0, fold=(), banks=())
        bases = [sp.base for sp in spans]
        held = element_of(old, tuple(b + Affine.of(CELL[d]) for d, b in enumerate(bases)), (alloc,))
        return replace(x, body=Alloc(new, rebase(x.body, old, new, bases), held.tensor, held.index))

    return go(alloc.body, (*around, alloc))


def _touched(x: Stmt) -> set[str]:
    return {x.buffer.name, *(r.source.name for r in reads(x.value))} if isinstance(x, Store) else set()


def _spans(x: For, path: Path, buffer: str) -> list[Span]:
    """Per dimension what one iteration of a loop touches of a buffer."""
    c = context((*path, x))
    found = []
    for st, inside in stores(x):
        loops = [f for f in inside if isinstance(f, For) and f is not x]
        accesses = [st.index] if st.buffer.name == buffer else []
        accesses += [r.index for r in reads(st.value) if r.source.name == buffer]
        try:
            found += [[span(i, loops) for i in index] for index in accesses]
        except NoBox as e:
            raise ScheduleError(f"what one iteration of {x.var} keeps in {buffer} is no box: {e}") from None
    try:
        return [union([f[d] for f in found], c) for d in range(len(found[0]))]
    except NoBox as e:
        raise ScheduleError(f"what one iteration of {x.var} keeps in {buffer} is no box: {e}") from None


@primitive
def storage_align(s: Schedule, buffer: str, pitch: int) -> Schedule:
    """Pad the rows of a buffer to ``pitch`` elements, so that columns do not share a cache set.

    Requires: the pitch is at least the last extent.
    Rewrite: ``c[n][m]``  ->  ``c[n][pitch]``
    Raises: ScheduleError for a smaller pitch.
    """
    row = max(b.extents()[-1] if b.shape else 1 for b in _local(s, buffer))
    if pitch < row or any(not b.shape for b in _local(s, buffer)):
        raise ScheduleError(f"pitch={pitch} is less than the {row} elements of a row of {buffer}")
    return replace_buffer(s, buffer, {"pitch": pitch})


@primitive
def fold(s: Schedule, buffer: str, dimension: int, modulus: int) -> Schedule:
    """Store only ``modulus`` slices of a dimension, index i in slice ``i % modulus``.

    Requires: a slice is not needed any more when it is overwritten (proven by value).
    Rewrite: ``c[T][n]``  ->  ``c[modulus][n]``
    Raises: ScheduleError with the element that would be lost.
    """
    found = _local(s, buffer)
    rank = min(len(b.shape) for b in found)
    if not 0 <= dimension < rank:
        raise ScheduleError(f"dimension={dimension}: {buffer} has {rank} dimensions")
    if modulus < 1:
        raise ScheduleError(f"modulus={modulus} is not a positive integer")
    if any(len(b.shape) != rank or b.fold != found[0].fold for b in found):
        raise ScheduleError(f"the buffers named {buffer} differ in their dimensions or folds")
    folds = list(found[0].fold + (0,) * (rank - len(found[0].fold)))
    folds[dimension] = modulus
    return replace_buffer(s, buffer, {"fold": tuple(folds)})
