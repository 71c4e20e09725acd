"""Schedules for recurrences: small storage, loops without conditions, vectors where nothing is carried.

The loops keep their written order.  What one step computes for itself lives inside the step; of the
axis along which a recurrence advances only the slices in use are stored; ranges are cut where
conditions on the indices change, so that the inner loops are straight.
"""

from __future__ import annotations

from collections.abc import Iterator

from tensordsl.schedules.analysis import definition_of
from tensordsl.schedules.locate import stage_of
from tensordsl.schedules.loopnest import Alloc, For, If, Stmt, Store, buffers, children, stores, walk
from tensordsl.schedules.polyhedral.dependences import Analysis
from tensordsl.schedules.polyhedral.validate import keeps
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.simplify import Context
from tensordsl.schedules.sketches.blocked import BlockSizes, apply_blocks, blocks
from tensordsl.schedules.sketches.orientation import neighbours, orient
from tensordsl.schedules.sketches.rows import try_step
from tensordsl.schedules.sketches.strips import apply_strips, strips
from tensordsl.schedules.sketches.sums import apply_sums

from tensordsl import conditions, expr
from tensordsl.affine import Affine
from tensordsl.causality import Group
from tensordsl.errors import ScheduleError
from tensordsl.expr import Op, Read
from tensordsl.sizes import at_most
from tensordsl.targets import Target

#: Slices of a causal axis that may be kept: 1 is in place, 2 two generations, 3 second-order schemes.
_SLICES = (1, 2, 3)
#: Statements past which ranges are cut no further.
_MOST_STATEMENTS = 96


def apply_recurrence(s: Schedule, group: Group, target: Target, sizes: BlockSizes | None = None) -> Schedule:
    """The schedule with the loops and buffers of one cyclic group arranged, in blocks of a size if one is given."""
    names = [t.name for t in group.tensors]
    free = s.program.rounding == "free"  # blocks, strips and sums in vectors add terms up in another order
    found = blocks(s.program, group) if free and sizes is not None else None
    if found is not None and sizes is not None:
        s = apply_blocks(s, found, sizes)
    narrow = strips(s.program, group, target) if free and found is None else None
    if narrow is not None:
        stripped = try_step(s, lambda x: apply_strips(x, narrow, cut_ranges))
        narrow, s = (narrow, stripped) if stripped is not s else (None, s)
    for name in names if found is None and narrow is None else ():
        s = _store_inside(s, name)
    for name in names:
        s = fold_slices(s, name)
    if found is None and narrow is None:
        s = orient(s, set(names))
    s = cut_ranges(s, set(names))
    s = _without_unread(s, set(names))
    s = apply_sums(s, set(names), target) if free else s
    return _vectorize(s, set(names), target)


# ---------------------------------------------------------------- storage


def _store_inside(s: Schedule, name: str) -> Schedule:
    """A tensor that only lives within one iteration of some loops is allocated there."""
    buffer = buffers(s.nest).get(name)
    if buffer is None or buffer.scope == "external":
        return s
    uses = [path for x, path in walk(s.nest.body) if isinstance(x, Store) and _touches(x, name)]
    common = [f for f in uses[0] if isinstance(f, For) and all(any(f is g for g in p) for p in uses)]
    for f in reversed(common):
        try:
            moved = s.store_at(name, f.var)
        except ScheduleError:
            continue
        if keeps(moved.nest, name):
            new = buffers(moved.nest).get(name)  # None: its loops are empty
            return moved.set_scope(name, "register") if new and all(e == 1 for e in new.shape) else moved
    return s


def _touches(x: Store, name: str) -> bool:
    return x.buffer.name == name or any(r.source.name == name for r in expr.reads(x.value))


def fold_slices(s: Schedule, name: str) -> Schedule:
    """As few slices of the slowest causal axis as the values allow."""
    buffer = buffers(s.nest).get(name)
    d = definition_of(s.program[name])
    if buffer is None or buffer.scope == "external" or not d.order or buffer.fold:
        return s
    axis = next(k for k, a in enumerate(d.axes) if a.name == d.order[0].axis)
    for slices in _SLICES:
        if at_most(buffer.shape[axis], slices):
            return s
        folded = s.fold(name, axis, slices)
        if keeps(folded.nest, name):
            return folded
    return s


# ---------------------------------------------------------------- conditions


def cut_ranges(s: Schedule, stages: set[str]) -> Schedule:
    """Cut ranges until no condition on the indices is left in the loops, the outermost range first."""
    count = 0
    tried: set[tuple[str, str, Affine]] = set()
    while sum(1 for _ in stores(s.nest.body)) <= _MOST_STATEMENTS:
        found = next((f for f in _changes(s.nest.body, stages, Context()) if f not in tried), None)
        if found is None:
            return s
        stage, loop, point = found
        tried.add(found)
        count += 1
        s = s.partition(stage, loop, str(point), suffix=f"p{count}")
    return s


def _changes(x: Stmt, stages: set[str], c: Context) -> Iterator[tuple[str, str, Affine]]:
    """Loops with a point at which an undecided condition changes: (a stage inside, loop, point)."""
    if isinstance(x, For):
        stage = next((stage_of(st, path) for st, path in stores(x) if stage_of(st, path) in stages), None)
        if stage is not None and x.step == 1 and x.kind == "serial":
            inside = c.inside(x)
            for condition in dict.fromkeys(_conditions(x.body, inside)):
                k = condition.coefficient(x.var)
                rest = condition - Affine.of(x.var) * k
                known = {f.var for f in c.loops}
                if abs(k) == 1 and x.var not in rest.names() and rest.names() <= known:
                    yield stage, x.var, -rest if k == 1 else rest + 1
        c = c.inside(x)
    if isinstance(x, If):
        yield from _changes(x.then, stages, c.inside(x))
        if x.otherwise is not None:
            yield from _changes(x.otherwise, stages, c)
        return
    for child in children(x):
        yield from _changes(child, stages, c)


def _conditions(x: Stmt, c: Context) -> Iterator[Affine]:
    """The undecided conditions of guards and selects."""
    if isinstance(x, If):
        yield from (k for k in x.conditions if not c.implies(k) and not c.excludes(k))
    if isinstance(x, Store):
        for e in expr.walk(x.value):
            if isinstance(e, Op) and e.name == "select":
                known = conditions.conditions(e.args[0]) or ()
                yield from (k for k in known if not c.implies(k) and not c.excludes(k))
    inner = c.inside(x)
    for child in children(x):
        yield from _conditions(child, inner)


def _without_unread(s: Schedule, stages: set[str]) -> Schedule:
    """Nothing is computed that nobody reads: what a step leaves behind beside its results."""
    found = [
        (stage_of(x.body, (*path, x)), x.var, x.body.buffer) for x, path in walk(s.nest.body)
        if isinstance(x, For) and isinstance(x.body, Store) and not list(expr.reads(x.body.value))
    ]  # fmt: skip
    for stage, loop, buffer in found:
        if stage in stages and buffer.scope in ("workspace", "stack"):
            left = s.drop(stage, loop)
            s = left if keeps(left.nest, buffer.name) else s
    return s


# ---------------------------------------------------------------- vectors


def _vectorize(s: Schedule, stages: set[str], target: Target) -> Schedule:
    """Innermost loops of pointwise statements with neighbouring accesses become vectors."""
    analysis: Analysis | None = None
    chosen: list[tuple[str, str, int | None]] = []
    for x, path in walk(s.nest.body):
        if not isinstance(x, For) or x.kind != "serial" or any(isinstance(y, For) for y, _ in walk(x.body)):
            continue
        inside = [(st, p) for st, p in stores(x)]
        if not inside or any(stage_of(st, (*path, x, *p)) not in stages or st.op for st, p in inside):
            continue
        if any(isinstance(y, (Alloc, If)) for y, _ in walk(x.body)):
            continue
        if any(_stays(st) for st, _ in inside) and all(_stays(st) or st.instance.kind == "init" for st, _ in inside):
            continue  # no code is made of it
        if not all(neighbours(st, x.var) for st, _ in inside):
            continue
        analysis = analysis or Analysis(s.nest)
        if analysis.freedom(x).exact:
            lanes = min(target.lanes(st.buffer.dtype) for st, _ in inside)
            varies = len(x.lo) == len(x.hi) == 1 and bool((x.hi[0] - x.lo[0]).terms)
            chosen.append((stage_of(inside[0][0], (*path, x)), x.var, None if varies else lanes))
    for stage, loop, width in chosen:
        s = s.vectorize(stage, loop) if width is None else s.vectorize(stage, loop, width)
        s = s if width is None else _full_vectors(s, stage, f"{loop}.v")
    return s


def _full_vectors(s: Schedule, stage: str, loop: str) -> Schedule:
    try:
        return s.peel(stage, loop, "tail")
    except ScheduleError:  # the range was shorter than a vector, or its bounds vary
        return s


def _stays(st: Store) -> bool:
    """Is an element where it should be already?"""
    return isinstance(st.value, Read) and st.value.source is st.buffer and st.value.index == st.index
