"""Definition primitives on storage: copies of a buffer's region near its use.

A cache is a buffer, loops that fill or empty it, and accesses that go to it instead.  Register
tiles, packed panels, shared-memory stages and sliding windows are all made of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tensordsl.schedules.locate import (
    MOVES,
    Path,
    element_of,
    find_loops,
    fresh,
    stage_of,
    stage_stores,
)  # fmt: skip
from tensordsl.schedules.loopnest import (
    CELL,
    Alloc,
    Buffer,
    For,
    If,
    Instance,
    Scope,
    Seq,
    Stmt,
    Store,
    buffers,
    children,
    map_accesses,
    rewrite,
    seq,
    stores,
    walk,
    with_children,
)  # fmt: skip
from tensordsl.schedules.primitives.placement import (
    box_loops,
    insert_before_reader,
    without_alloc,
)  # fmt: skip
from tensordsl.schedules.regions import NoBox, Span, span, union
from tensordsl.schedules.schedule import Schedule, primitive
from tensordsl.schedules.simplify import Context, context

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError, closest
from tensordsl.expr import Read, reads

SCOPES = ("register", "stack", "workspace", "shared")


def _scope(scope: str) -> Scope:
    if scope not in SCOPES:
        raise ScheduleError(f"scope={scope!r}", legal=SCOPES)
    return scope  # type: ignore[return-value]


def _sizes(align: int, pad: int) -> None:
    if align < 1:
        raise ScheduleError(f"align={align} is not a positive integer")
    if pad < 0:
        raise ScheduleError(f"pad={pad} is less than 0")


def _external(s: Schedule, b: Buffer, stage: str) -> str:
    """The tensor that a stage reads of the caller's buffer: an input, or an output in its place."""
    outputs = [o for o, i in s.program.inplace.items() if i == b.name]
    t = next((t for t in s.program.tensors if t.name == stage), None)
    if t is None or t.definition is None:
        return b.name
    return next((r.source.name for r in t.definition.reads if r.source.name in outputs), b.name)


def _outside(b: Buffer, x: For) -> None:
    """A buffer is copied from and to where it exists."""
    if any(isinstance(y, Alloc) and y.buffer.name == b.name for y, _ in walk(x.body)):
        raise ScheduleError(f'{b.name} lives inside "{x.var}" only', hint="name a loop inside of its allocation")


def _known_buffer(s: Schedule, name: str) -> Buffer:
    known = buffers(s.nest)
    if name not in known:
        like = closest(name, known)
        raise ScheduleError(
            f"there is no buffer {name!r}", legal=sorted(known), hint=f'did you mean "{like}"?' if like else None
        )
    return known[name]


def _new_name(s: Schedule, name: str | None, default: str) -> str:
    known = buffers(s.nest)
    if name is not None and name in known:
        raise ScheduleError(f"the name {name!r} is taken")
    return name or fresh(default, known)


def at_loops(s: Schedule, targets: dict[int, tuple[For, Path]], f: object) -> Schedule:
    """Apply ``f(loop, path)`` at the given loops."""
    assert callable(f)

    def go(x: Stmt, path: Path) -> Stmt:
        if id(x) in targets:
            result: Stmt = f(x, path)
            return result
        return with_children(x, tuple([go(c, (*path, x)) for c in children(x)]))

    return s.with_nest(go(s.nest.body, ()))


def _box(found: Sequence[Sequence[Span]], c: Context, align: int) -> list[Span]:
    box = [union([f[d] for f in found], c) for d in range(len(found[0]))]
    if align > 1 and box:
        # the last dimension starts and ends at whole vectors; clipping keeps it inside the buffer
        sp = box[-1]
        shift = sp.base.const % align
        extent = -(-(sp.extent + shift) // align) * align
        box[-1] = Span(sp.base - shift, extent, ())
    return box


def _copy_loops(name: str, box: Sequence[Span], sizes: Sequence[int], c: Context, scope: str, make: object) -> Stmt:
    """Loops over a box around ``make(global index, local index)``; a register box is unrolled, lanes last."""
    assert callable(make)
    kept = [d for d, sp in enumerate(box) if sp.extent != 1]
    variables = [f"{name}.{d}" for d in range(len(box))]
    place = [box[d].base + (Affine.of(variables[d]) if d in kept else Affine()) for d in range(len(box))]
    body: Stmt = make(tuple(place), tuple(Affine.of(variables[d]) for d in kept))
    outside = tuple(
        g for d, sp in enumerate(box) if d not in kept
        for g in (sp.base, sizes[d] - 1 - sp.base) if not c.implies(g)
    )  # fmt: skip
    if outside:  # what guarded reads leave out of one-element dimensions
        body = If(outside, body)
    nest = box_loops([box[d] for d in kept], [variables[d] for d in kept], [sizes[d] for d in kept], c, body)
    if scope != "register" or not kept:
        return nest
    last = variables[kept[-1]]

    def kind(x: Stmt) -> Stmt | None:
        return replace(x, kind="vector" if x.var == last else "unroll") if isinstance(x, For) else None

    return rewrite(nest, kind)


def _redirect(
    body: Stmt,
    old: Buffer,
    new: Buffer,
    box: Sequence[Span],
    stage: str | None,
    path: Path,
    means: Callable[[Store], bool] = lambda x: True,
    which: Callable[[Buffer, tuple[Affine, ...]], bool] = lambda b, index: True,
) -> Stmt:
    """Accesses to ``old`` (by one stage, or all) as accesses to the cache.

    means: does a store that reads ``old`` mean the tensor that the cache holds?  which: the reads meant.
    """
    kept = [d for d, sp in enumerate(box) if sp.extent != 1]

    def local(index: tuple[Affine, ...]) -> tuple[Affine, ...]:
        return tuple(index[d] - box[d].base for d in kept)

    def cached(buffer: Buffer, index: tuple[Affine, ...]) -> tuple[Buffer, tuple[Affine, ...]] | None:
        return (new, local(index)) if buffer is old and which(buffer, index) else None

    def go(x: Stmt, here: Path) -> Stmt:
        if isinstance(x, Store):
            if stage is not None and stage_of(x, here) != stage:
                return x
            y = map_accesses(x, cached, stores=False) if means(x) else x
            assert isinstance(y, Store)
            return replace(y, buffer=new, index=local(x.index)) if stage is None and x.buffer is old else y
        return with_children(x, tuple([go(c, (*here, x)) for c in children(x)]))

    return go(body, path)


@primitive
def cache_read(
    s: Schedule,
    stage: str,
    source: str,
    at: str,
    scope: str = "register",
    name: str | None = None,
    align: int = 1,
    pad: int = 0,
    along: str | None = None,
) -> Schedule:
    """Copy what one iteration of a loop reads of a buffer into a new buffer, and read it there.

    at: the loop whose body holds the copy.  align: round the last dimension to whole vectors of so
    many elements.  pad: elements added to the pitch, against cache-set conflicts.  along: only the
    reads that move with this loop.

    Requires: the region is a box of constant size, complete before the copy.
    Rewrite: ``for v: S(B[e])``  ->  ``for v: (c[..] = B[region]; S(c[e - base]))``
    Raises: ScheduleError for an unknown buffer or loop, or a region without a constant size.
    """
    old = _known_buffer(s, source)
    kind = _scope(scope)
    _sizes(align, pad)
    label = _new_name(s, name, f"{source}_{scope[0]}")
    tensor = _external(s, old, stage)
    targets = find_loops(s.nest, stage, at)
    if along is not None:
        along = next(f.var for f, _ in find_loops(s.nest, stage, along).values())

    def meant(buffer: object, index: tuple[Affine, ...]) -> bool:
        return buffer is old and (along is None or any(along in i.names() for i in index))

    def go(x: Stmt, path: Path) -> Stmt:
        assert isinstance(x, For)
        _outside(old, x)
        c = context((*path, x))
        found: list[list[Span]] = []
        sample: tuple[Read, Path] | None = None
        for st, p in stores(x):
            if stage_of(st, (*path, *p)) != stage:
                continue
            inner = [f for f in p if isinstance(f, For) and f is not x]
            for r in reads(st.value):
                if meant(r.source, r.index):
                    sample = sample or (r, (*path, *p))
                    try:
                        found.append([span(i, inner, c) for i in r.index])
                    except NoBox as e:
                        raise ScheduleError(
                            f"what {stage} reads of {source} in one iteration of {x.var} is not a box: {e}"
                        ) from None
        if sample is None:
            return x
        box = _box(found, c, align)
        shape = tuple(sp.extent for sp in box if sp.extent != 1)
        pitch = shape[-1] + pad if pad and shape else 0
        new = Buffer(label, shape, old.dtype, kind, pitch, values=old.values)
        kept = [d for d, sp in enumerate(box) if sp.extent != 1]
        cells = [sp.base + (Affine.of(CELL[kept.index(d)]) if d in kept else Affine()) for d, sp in enumerate(box)]
        held = element_of(old, tuple(cells), sample[1], tensor)

        def copy(place: tuple[Affine, ...], cell: tuple[Affine, ...]) -> Stmt:
            element = element_of(old, place, sample[1], tensor)
            return Store(new, cell, Read(old, place), Instance("copy", element.tensor, element.index))

        fill = _copy_loops(label, box, old.shape, c, scope, copy)
        body = _redirect(x.body, old, new, box, stage, (*path, x), which=meant)
        body = insert_before_reader(body, label, lambda rest: Alloc(new, seq(fill, rest), held.tensor, held.index))
        return replace(x, body=body)

    return at_loops(s, targets, go)


@primitive
def cache_write(
    s: Schedule, stage: str, at: str, scope: str = "register", name: str | None = None, pad: int = 0
) -> Schedule:
    """Compute a stage's elements of one iteration of a loop in a new buffer and store them after it.

    A reduction whose outer part lies outside the loop is reloaded before and stored after each
    part; readers inside the loop (an epilogue) read the new buffer, and a result that nobody else
    reads is not stored at all.

    Requires: the region is a box of constant size; at most one reduction loop is outside.
    Rewrite: ``for v: B[e] += ..``  ->  ``for v: (c = 0 or B; c[e - base] += ..; B = c)``
    Raises: ScheduleError for an unknown loop, or a region without a constant size.
    """
    kind = _scope(scope)
    _sizes(1, pad)
    own = [(st, p) for st, p in stage_stores(s.nest, stage) if st.instance.kind in ("init", "update", "compute")]
    if not own:
        raise ScheduleError(f"{stage} computes nothing", hint="name a stage that a definition computes")
    homes = {id(st.buffer): st.buffer for st, _ in own}  # copies of a loop have buffers of their own
    label = _new_name(s, name, f"{stage}_{scope[0]}")
    targets = find_loops(s.nest, stage, at)
    is_output = any(t.name == stage for t in s.program.outputs)
    inside = {id(st) for x, _ in targets.values() for st, _ in stores(x)}
    read_elsewhere = any(
        id(st) not in inside and any(id(r.source) in homes for r in reads(st.value)) for st, _ in stores(s.nest.body)
    )
    needed = is_output or read_elsewhere
    definition = s.program[stage].definition
    assert definition is not None

    def go(x: Stmt, path: Path) -> Stmt:
        assert isinstance(x, For)
        old = next((homes[id(st.buffer)] for st, _ in stores(x) if id(st.buffer) in homes), own[0][0].buffer)
        _outside(old, x)
        c = context((*path, x))
        found, update, init = [], None, None
        for st, p in stores(x):
            if st.buffer is not old or st.instance.kind not in ("init", "update", "compute"):
                continue
            inner = [f for f in p if isinstance(f, For) and f is not x]
            update = (st, inner) if st.instance.kind == "update" else update
            init = st if st.instance.kind == "init" else init
            try:
                found.append([span(i, inner) for i in st.index])
            except NoBox as e:
                raise ScheduleError(f"what one iteration of {x.var} computes of {stage} is not a box: {e}") from None
        if not found:
            return x
        box = _box(found, c, 1)
        kept = [d for d, sp in enumerate(box) if sp.extent != 1]
        shape = tuple(box[d].extent for d in kept)
        pitch = shape[-1] + pad if pad and shape else 0
        new = Buffer(label, shape, old.dtype, kind, pitch, values=old.values)
        outer = []
        if update is not None:
            names = {n for p in update[0].instance.points for n in p.names()}
            outer = [f for f in (*path, x) if isinstance(f, For) and f.var in names]
            if len(outer) > 1:
                raise ScheduleError(
                    f"{len(outer)} reduction loops ({', '.join(f.var for f in outer)}) are outside {x.var}",
                    hint="keep all but one of them inside the loop",
                )

        def means(x: Store) -> bool:
            """In the memory of an input, a read may still mean that input."""
            if x.instance.kind in MOVES:
                return x.instance.tensor == stage
            return old.scope != "external" or _external(s, old, x.instance.tensor) == stage

        body = _redirect(x.body, old, new, box, None, (*path, x), means)

        def move(to_old: bool, kind: str, over: tuple[tuple[str, Affine, Affine], ...] = ()) -> Stmt:
            def copy(place: tuple[Affine, ...], cell: tuple[Affine, ...]) -> Stmt:
                element = element_of(old, place, path, stage)
                points = tuple(Affine.of(v) for v, _, _ in over)
                instance = Instance(kind, element.tensor, element.index, points, over)  # type: ignore[arg-type]
                return (
                    Store(old, place, Read(new, cell), instance)
                    if to_old
                    else Store(new, cell, Read(old, place), instance)
                )

            return _copy_loops(label, box, old.shape, c, scope, copy)

        if outer:
            assert update is not None
            before, after = [], []
            for a, point in zip(definition.reduce_axes, update[0].instance.points):
                v, full = f"{a.name}'", Affine.of(a.extent)
                if outer[0].var in point.names():
                    part = span(point, update[1])
                    before.append((v, Affine(), part.base))
                    after.append((v, Affine(), part.base + part.extent))
                else:
                    before.append((v, Affine(), full))
                    after.append((v, Affine(), full))
            fill = move(False, "partial", tuple(before))
            body = _reload(body, stage, fill) if init is not None else seq(fill, body)
            last = tuple(Affine.of(outer[0].var) - (h - 1) for h in outer[0].hi)
            spill = move(True, "partial", tuple(after))
            # a spill before the last part, the complete result after it
            if needed:
                tail: Stmt | None = If(last, move(True, "copy"), spill)
            else:
                tail = If(tuple(-1 - c for c in last), spill) if len(last) == 1 else If(last, Seq(()), spill)
        elif update is not None and needed and _continued(s, stage, old, inside):
            over = _range_of_points(update[0], update[1], [a.name for a in definition.reduce_axes])
            tail = move(True, "partial", over)
        else:
            tail = move(True, "copy") if needed else None
        held = element_of(
            old,
            tuple(sp.base + (Affine.of(CELL[kept.index(d)]) if d in kept else Affine()) for d, sp in enumerate(box)),
            path,
            stage,
        )
        return replace(x, body=Alloc(new, seq(body, tail), held.tensor, held.index))

    result = at_loops(s, targets, go)
    names = {b.name for b in homes.values()}
    used = {st.buffer.name for st, _ in stores(result.nest.body)}
    used |= {r.source.name for st, _ in stores(result.nest.body) for r in reads(st.value)}
    body = result.nest.body
    for name in [] if is_output else sorted(names - used):
        body = without_alloc(body, name)
    return result if body is result.nest.body else result.with_nest(body)


def _continued(s: Schedule, stage: str, home: Buffer, inside: set[int]) -> bool:
    """Do other loops add more terms to the results of these?"""
    found = [st for st, _ in stage_stores(s.nest, stage) if st.buffer is home and st.instance.kind == "update"]
    return any(id(st) not in inside for st in found)


def _range_of_points(
    update: Store, inner: Sequence[For], axes: Sequence[str]
) -> tuple[tuple[str, Affine, Affine], ...]:
    """The points that loops combine, where each axis of the reduction is one of them."""
    found = []
    for axis, point in zip(axes, update.instance.points):
        f = next((f for f in inner if f.var in point.names()), None)
        shift = point - Affine.of(f.var) if f is not None else point
        several = f is None or len(f.lo) != 1 or len(f.hi) != 1 or any(g.var in shift.names() for g in inner)
        if f is None or several or any(True for b in f.lo + f.hi for _ in b.data()):
            raise ScheduleError(f"the points {point} of {update.instance.tensor} are not the range of one loop")
        found.append((f"{axis}'", f.lo[0] + shift, f.hi[0] + shift))
    return tuple(found)


def _reload(body: Stmt, stage: str, fill: Stmt) -> Stmt:
    """``if first: init``  ->  ``if first: init else: fill``; where the start stands in the loops of the
    tile, ``if not first: fill`` goes before them."""

    def starts(x: Stmt) -> bool:
        inner = [st for st, _ in stores(x.then)] if isinstance(x, If) and x.otherwise is None else []
        return bool(inner) and all(st.instance.kind == "init" and st.instance.tensor == stage for st in inner)

    found = [(x, path) for x, path in walk(body) if starts(x)]
    if not found:
        raise ScheduleError(
            f"the start of {stage} stands in every part of its reduction", hint="reorder the reduction loop first"
        )
    for x, path in found:
        assert isinstance(x, If)
        if any(isinstance(y, For) for y in path):
            inside = {y.var for y in path if isinstance(y, For)}
            kept = tuple(c for c in x.conditions if not c.names() & inside)
            if not kept:
                continue
            return seq(If(tuple(-1 - c for c in kept), fill) if len(kept) == 1 else If(kept, Seq(()), fill), body)
    first = {id(x) for x, _ in found}

    def go(x: Stmt) -> Stmt:
        t = with_children(x, tuple([go(c) for c in children(x)]))
        return replace(t, otherwise=fill) if id(x) in first and isinstance(t, If) else t

    return go(body)


@primitive
def pack(
    s: Schedule, stage: str, source: str, at: str | None = None, name: str | None = None, scope: str = "workspace"
) -> Schedule:
    """Store what a copy into registers loads, in the order it is loaded, the first time; read the
    packed buffer afterwards.

    stage: a cache made by `cache_read`.  at: the loop whose body holds the packed buffer (None:
    the whole nest).  The buffer has one dimension for each loop the access depends on.

    Requires: a loop between ``at`` and the copy does not change what is read (the reuse).
    Rewrite: ``for i: for k: (r = B[k]; ..)``  ->
        ``for i: if i is first: for k: (r = B[k]; P[k] = r; ..) else: for k: (r = P[k]; ..)``
    Raises: ScheduleError when every iteration reads other elements.
    """
    old = _known_buffer(s, source)
    label = _new_name(s, name, f"{source}_p")
    kind = _scope(scope)
    if at is not None:
        return at_loops(
            s,
            find_loops(s.nest, stage, at),
            lambda x, path: replace(x, body=_pack(s, x.body, (*path, x), stage, old, label, kind)),
        )
    around = [next((y for y in p if isinstance(y, For)), None) for _, p in stage_stores(s.nest, stage)]
    outermost = {id(x): None for x in around if x is not None}
    if len(outermost) != 1:
        raise ScheduleError(f"{stage} stands in {len(outermost)} separate nests", hint="give at=")

    def go(x: Stmt, path: Path) -> Stmt:
        if id(x) in outermost:
            return _pack(s, x, path, stage, old, label, kind)
        return with_children(x, tuple([go(c, (*path, x)) for c in children(x)]))

    return s.with_nest(go(s.nest.body, ()))


def constant_end(f: For) -> int:
    """The least constant upper bound of a loop."""
    ends = [h.const for h in f.hi if not h.terms]
    if not ends:
        raise ScheduleError(f'loop "{f.var}" has no constant bound', hint="split or peel it first")
    return min(ends)


def _pack(s: Schedule, root: Stmt, path: Path, stage: str, old: Buffer, label: str, scope: Scope) -> Stmt:
    copies = [
        (st, p) for st, p in stores(root)
        if isinstance(st.value, Read) and st.value.source is old and st.instance.kind == "copy"
        and stage_of(st, (*path, *p)) == stage
    ]  # fmt: skip
    if not copies:
        raise ScheduleError(f"{stage} is no copy of {old.name}", hint="cache_read it into registers first")
    between = [f for f in copies[0][1] if isinstance(f, For)]
    first_read = copies[0][0].value
    assert isinstance(first_read, Read)
    used = [f for f in between if any(f.var in i.names() for i in first_read.index)]
    free = [f for f in between if all(f is not u for u in used)]
    if not free:
        raise ScheduleError(f"every iteration reads other elements of {old.name}: nothing is read twice")
    sizes = []
    for f in used:
        if f.lo != (Affine(),):
            raise ScheduleError(f'loop "{f.var}" does not start at 0')
        sizes.append(constant_end(f))
    panel = Buffer(label, tuple(sizes), old.dtype, scope, values=old.values)
    cell = tuple(Affine.of(f.var) for f in used)
    names = [f.var for f in used]
    first = tuple(lo - Affine.of(f.var) for f in free for lo in f.lo)
    reuse = free[-1].var
    sample = copies[0][0].value
    assert isinstance(sample, Read)
    held = element_of(
        old,
        tuple(i.substitute({n: Affine.of(CELL[d]) for d, n in enumerate(names)}) for i in sample.index),
        (*path, *copies[0][1]),
    )

    def is_copy(x: Stmt) -> bool:
        return (
            isinstance(x, Store) and x.instance.kind == "copy" and isinstance(x.value, Read) and x.value.source is old
        )

    def both(x: Stmt) -> Stmt | None:
        if is_copy(x):
            assert isinstance(x, Store)
            return seq(x, Store(panel, cell, Read(x.buffer, x.index), x.instance))
        return None

    def packed(x: Stmt) -> Stmt | None:
        return replace(x, value=Read(panel, cell)) if is_copy(x) and isinstance(x, Store) else None

    def go(x: Stmt) -> Stmt:
        if isinstance(x, For) and x.var == reuse:
            return replace(x, body=If(first, rewrite(x.body, both), rewrite(x.body, packed)))
        return with_children(x, tuple([go(c) for c in children(x)]))

    return Alloc(panel, go(root), held.tensor, held.index)
