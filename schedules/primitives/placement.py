"""Order primitives that move a stage into the loops of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tensordsl.schedules.locate import (
    Path,
    find_loops,
    fresh,
    homes,
    stage_of,
)  # fmt: skip
from tensordsl.schedules.loopnest import (
    CELL,
    Alloc,
    Buffer,
    For,
    If,
    LoopNest,
    Prefetch,
    Scope,
    Seq,
    Stmt,
    Store,
    buffers,
    children,
    items,
    loop,
    map_accesses,
    rewrite,
    seq,
    stores,
    substitute,
    variables,
    walk,
    with_children,
)  # fmt: skip
from tensordsl.schedules.lower import definition_nest
from tensordsl.schedules.regions import NoBox, Span, clipped, span, union
from tensordsl.schedules.schedule import Schedule, primitive
from tensordsl.schedules.simplify import Context, context

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import reads
from tensordsl.sizes import Size
from tensordsl.tensor import Tensor

#: Local buffers up to this size live on the stack (bytes); larger ones in the caller's workspace.
STACK_LIMIT = 32 * 1024
#: Steps on a stage's own loops, which placing it afterwards would throw away.
ORDERING = frozenset(
    [
        *("split", "tile", "fuse", "reorder", "skew", "peel", "separate", "specialize", "distribute"),
        *("unroll", "vectorize", "parallel", "bind", "cache_write", "cache_read", "outline", "annotate", "store_nt"),
        "decompose_reduction",
    ]
)


def defined(s: Schedule, stage: str) -> Tensor:
    for t in s.program.tensors:
        if t.name == stage:
            return t
    names = [t.name for t in s.program.tensors]
    raise ScheduleError(f"there is no definition {stage!r}", legal=names)


def own_buffer(s: Schedule, stage: str) -> Buffer:
    """The buffer that holds a stage's elements: its own, or the input's whose memory it takes over."""
    known = buffers(s.nest)
    if stage in s.program.inplace:
        return known[s.program.inplace[stage]]
    if stage not in known:
        raise ScheduleError(
            f"{stage} has no buffer any more: it is cached elsewhere, or nothing reads it", legal=sorted(known)
        )
    return known[stage]


def without_stage(body: Stmt, stage: str) -> Stmt:
    """The nest without the stores of a stage, and without loops and branches that become empty."""

    def go(x: Stmt, path: Path) -> Stmt | None:
        if isinstance(x, Store):
            return None if stage_of(x, path) == stage else x
        inner = children(x)
        if not inner:
            return x
        kept = [go(c, (*path, x)) for c in inner]
        if isinstance(x, Seq):
            rest = [c for c in kept if c is not None]
            return seq(*rest) if rest else None
        if isinstance(x, If):
            then, otherwise = kept[0], kept[1] if len(kept) > 1 else None
            if then is None:
                if otherwise is None:
                    return None
                return If(x.conditions, Seq(()), otherwise)
            return If(x.conditions, then, otherwise)
        return None if kept[0] is None else with_children(x, (kept[0],))

    return go(body, ()) or Seq(())


def without_alloc(body: Stmt, name: str) -> Stmt:
    """The nest without a buffer that nothing uses any more but hints."""

    def go(x: Stmt) -> Stmt | None:
        if isinstance(x, Prefetch) and x.buffer.name == name:
            return Seq(())
        return x.body if isinstance(x, Alloc) and x.buffer.name == name else None

    return rewrite(body, go)


def local_scope(elements: int, element_bytes: int) -> Scope:
    return "stack" if not isinstance(elements, Size) and elements * element_bytes <= STACK_LIMIT else "workspace"


def inner_loops(path: Path, root: Stmt) -> list[For]:
    """The loops strictly inside ``root`` on a path."""
    d = next(k for k, x in enumerate(path) if x is root)
    return [x for x in path[d + 1 :] if isinstance(x, For)]


def read_spans(root: For, around: Path, source: str) -> list[Span] | None:
    """Per dimension the elements of a buffer read in one iteration of a loop; None: not read."""
    c = context((*around, root))
    found: list[list[Span]] = []
    for store, path in stores(root):
        inner = [x for x in path if isinstance(x, For) and x is not root]
        for r in reads(store.value):
            if r.source.name == source:
                found.append([span(i, inner) for i in r.index])
    if not found:
        return None
    return [union([f[d] for f in found], c) for d in range(len(found[0]))]


def box_loops(
    spans: Sequence[Span],
    names: Sequence[str],
    sizes: Sequence[int],
    c: Context,
    body: Stmt,
    keep: Sequence[bool] | None = None,
) -> Stmt:
    """Loops over a box, clipped to the tensor; dimensions of one element (unless kept) have no loop."""
    for d in reversed(range(len(spans))):
        sp = spans[d]
        if sp.extent == 1 and not (keep and keep[d]) and not _sticks_out(sp, sizes[d], c):
            body = substitute(body, {names[d]: Affine()})
            continue
        lo = [Affine()] if c.implies(sp.base) else [Affine(), -sp.base]
        hi = [Affine.of(sp.extent), *[e - sp.base for e in sp.ends]]
        if not c.implies(sizes[d] - sp.base - sp.extent):
            hi.append(sizes[d] - sp.base)
        body = loop(names[d], tuple(lo), tuple(dict.fromkeys(hi)), body)
    return body


def _sticks_out(sp: Span, size: int, c: Context) -> bool:
    return bool(sp.ends) or not (c.implies(sp.base) and c.implies(size - 1 - sp.base))


def insert_before_reader(body: Stmt, source: str, wrap: object) -> Stmt:
    """Apply ``wrap`` (a function of the rest) where the first statement that reads ``source`` begins."""
    assert callable(wrap)
    parts = items(body)
    for k, x in enumerate(parts):
        if any(r.source.name == source for st, _ in stores(x) for r in reads(st.value)):
            if isinstance(x, Alloc) and len(parts) == 1:
                return replace(x, body=insert_before_reader(x.body, source, wrap))
            result: Stmt = wrap(seq(*parts[k:]))
            return seq(*parts[:k], result)
    raise ScheduleError(f"nothing here reads {source!r}")


@primitive
def compute_at(s: Schedule, stage: str, consumer: str, loop: str) -> Schedule:
    """Compute just what one iteration of a consumer's loop needs of a stage, inside that loop.

    The stage's buffer shrinks to the region and moves to the loop (an output keeps its memory).

    Requires: every reader of the stage is inside the loop; the region is a box of constant size;
    the stage's own loops are not ordered yet.
    Rewrite: ``for i: P[i] = ..; for i: C[i] = f(P)``  ->  ``for i: (P[region of i] = ..; C[i] = f(P))``
    Raises: ScheduleError naming the reader outside, or the index whose region has no constant size.
    """
    tensor = defined(s, stage)
    targets = find_loops(s.nest, consumer, loop)
    _require_plain(s, stage)
    old = own_buffer(s, stage)
    is_output = any(t.name == stage for t in s.program.outputs)
    if old.name != stage:
        raise ScheduleError(
            f"{stage} takes over the memory of {old.name}, which is read before", hint="leave it outside"
        )
    for st, path in stores(s.nest.body):
        reader = stage_of(st, path) != stage and any(r.source.name == stage for r in reads(st.value))
        if reader and not any(id(p) in targets for p in path):
            raise ScheduleError(
                f'{stage_of(st, path)} reads {stage} outside loop "{loop}"',
                legal=["root"] + [x.var for x in path if isinstance(x, For) and _covers(s, stage, x)],
            )
    body = without_alloc(without_stage(s.nest.body, stage), stage)
    # removing the stage rebuilds the nest: find the loops again
    rest = replace(s.nest, body=body)
    targets = find_loops(rest, consumer, loop)
    assert tensor.definition is not None
    axes = [a.name for a in tensor.definition.axes]

    placed: list[For] = []

    def go(x: Stmt, path: Path) -> Stmt:
        if id(x) not in targets:
            return with_children(x, tuple([go(c, (*path, x)) for c in children(x)]))
        assert isinstance(x, For)
        try:
            spans = read_spans(x, path, stage)
        except NoBox as e:
            raise ScheduleError(f"the region of {stage} needed in one iteration of {x.var} is not a box: {e}") from None
        if spans is None:
            return x
        placed.append(x)
        # reads that a select keeps from the edges are not of this tensor
        spans = [clipped(sp, n) for sp, n in zip(spans, tensor.shape)]
        assert tensor.definition is not None
        for k, name in enumerate(axes):
            if name in tensor.definition.causal_axes:  # a recurrence needs all its earlier elements
                spans[k] = Span(Affine(), tensor.shape[k])
        c = context((*path, x))
        taken = {p.var for p in path if isinstance(p, For)} | {x.var} | variables(x.body)
        names = {a: a if a not in taken else fresh(f"{stage}.{a}", taken) for a in axes}
        plain = definition_nest(tensor, {**homes(rest), stage: old})
        plain = _rename_reductions(plain, axes, taken, stage)
        inner = _strip_loops(plain, axes)
        inner = substitute(inner, {a: spans[d].base + Affine.of(names[a]) for d, a in enumerate(axes)})
        if is_output:
            nest = box_loops(spans, [names[a] for a in axes], tensor.shape, c, inner)
            return replace(x, body=insert_before_reader(x.body, stage, lambda tail: seq(nest, tail)))
        shape = tuple(sp.extent for sp in spans)
        size = 1
        for width in shape:
            size *= width
        new = Buffer(stage, shape, old.dtype, local_scope(size, old.dtype.bytes), values=old.values)
        bases = [sp.base for sp in spans]
        inner = rebase(inner, old, new, bases)
        arranged = [axes.index(a.name) for a in tensor.definition.loop_axes]
        nest = box_loops(
            [spans[d] for d in arranged],
            [names[axes[d]] for d in arranged],
            [tensor.shape[d] for d in arranged],
            c,
            inner,
        )
        element = tuple(b + Affine.of(CELL[d]) for d, b in enumerate(bases))

        def wrap(tail: Stmt) -> Stmt:
            return Alloc(new, seq(nest, rebase(tail, old, new, bases)), stage, element)

        return replace(x, body=insert_before_reader(x.body, stage, wrap))

    new = go(body, ())
    if not placed:
        raise ScheduleError(f'nothing in loop "{loop}" of {consumer} reads {stage}')
    return s.with_nest(new)


def _covers(s: Schedule, stage: str, x: For) -> bool:
    readers = [
        p
        for st, p in stores(s.nest.body)
        if stage_of(st, p) != stage and any(r.source.name == stage for r in reads(st.value))
    ]
    return all(any(y is x for y in p) for p in readers)


def _require_plain(s: Schedule, stage: str) -> None:
    for step in s.trace:
        of = step.args[0] if step.args else dict(step.kwargs).get("stage")
        if of == stage and step.name in ORDERING:
            raise ScheduleError(
                f"the loops of {stage} are already ordered by {step}",
                hint="place a stage before ordering its own loops",
            )


def _rename_reductions(plain: Stmt, axes: Sequence[str], taken: set[str], stage: str) -> Stmt:
    def go(x: Stmt) -> Stmt | None:
        if isinstance(x, For) and x.var not in axes and x.var in taken:
            name = fresh(f"{stage}.{x.var}", taken)
            return For(name, x.lo, x.hi, substitute(x.body, {x.var: Affine.of(name)}), x.kind)
        return None

    return rewrite(plain, go)


def _strip_loops(plain: Stmt, axes: Sequence[str]) -> Stmt:
    while isinstance(plain, For) and plain.var in axes:
        plain = plain.body
    return plain


def rebase(body: Stmt, old: Buffer, new: Buffer, bases: Sequence[Affine]) -> Stmt:
    """Accesses to ``old`` as accesses to ``new``, whose cell 0 is the element at ``bases``."""

    def local(buffer: Buffer, index: tuple[Affine, ...]) -> tuple[Buffer, tuple[Affine, ...]] | None:
        return (new, tuple(i - b for i, b in zip(index, bases))) if buffer is old else None

    return map_accesses(body, local)


@primitive
def reverse_compute_at(s: Schedule, stage: str, producer: str, loop: str) -> Schedule:
    """Compute the elements of a pointwise stage as soon as an iteration of its producer's loop has
    completed what they read: an epilogue.

    Requires: the stage reads the producer at its own indices (plus constants), and is not ordered yet.
    Rewrite: ``for i: P[i]; for i: C[i] = f(P[i])``  ->  ``for i: (P[i]; C[i] = f(P[i]))``; where a
    reduction loop of P is outside, only in its last iteration.
    Raises: ScheduleError when the stage reads elements of other iterations.
    """
    tensor = defined(s, stage)
    source = defined(s, producer)
    d = tensor.definition
    assert d is not None and source.definition is not None
    if d.reducer is not None:
        raise ScheduleError(f"{stage} is a reduction", hint="only pointwise stages can follow their producer")
    _require_plain(s, stage)
    target = homes(s.nest)[stage] if stage in s.program.inplace else own_buffer(s, stage)
    own = [r for r in d.reads if r.source.name == producer]
    if not own:
        raise ScheduleError(f"{stage} does not read {producer}")
    dims: dict[str, tuple[int, int]] = {}
    for dim, i in enumerate(own[0].index):
        if len(i.terms) == 1 and i.terms[0][1] == 1 and isinstance(i.terms[0][0], str):
            dims[i.terms[0][0]] = (dim, i.const)
    body = without_stage(s.nest.body, stage)
    rest = replace(s.nest, body=body)
    targets = find_loops(rest, producer, loop)
    axes = [a.name for a in d.axes]

    def go(x: Stmt, path: Path) -> Stmt:
        if id(x) not in targets:
            return with_children(x, tuple([go(c, (*path, x)) for c in children(x)]))
        assert isinstance(x, For)
        c = context((*path, x))
        written = [(st, p) for st, p in stores(x) if stage_of(st, (*path, *p)) == producer]
        final = written[-1][0]
        try:
            inner = [[f for f in p if isinstance(f, For) and f is not x] for _, p in written]
            spans = [
                union([span(st.instance.index[k], fs) for (st, _), fs in zip(written, inner)], c)
                for k in range(len(source.shape))
            ]
        except NoBox as e:
            raise ScheduleError(f"one iteration of {x.var} does not complete a box of {producer}: {e}") from None
        taken = {p.var for p in path if isinstance(p, For)} | {x.var}
        names = {a: a if a not in taken else fresh(f"{stage}.{a}", taken) for a in axes}
        plain = _strip_loops(definition_nest(tensor, {**homes(rest), stage: target}), axes)
        boxes = []
        for k, a in enumerate(axes):
            if a in dims:
                dim, shift = dims[a]
                boxes.append(
                    Span(spans[dim].base - shift, spans[dim].extent, tuple(e - shift for e in spans[dim].ends))
                )
            else:
                boxes.append(Span(Affine(), tensor.shape[k]))
        plain = substitute(plain, {a: boxes[k].base + Affine.of(names[a]) for k, a in enumerate(axes)})
        nest = box_loops(boxes, [names[a] for a in axes], tensor.shape, c, plain)
        _require_in_scope(s.nest, stage, plain, (*path, *_leading(x.body)))
        points = {n for p in final.instance.points for n in p.names()}
        last = tuple(
            Affine.of(f.var) - (h - 1) for f in (*path, x) if isinstance(f, For) and f.var in points for h in f.hi
        )
        return replace(x, body=_append(x.body, If(last, nest) if last else nest))

    return s.with_nest(go(body, ()))


def _leading(body: Stmt) -> Path:
    """The allocations that surround everything in a body."""
    return (body, *_leading(body.body)) if isinstance(body, Alloc) else ()


def _require_in_scope(nest: LoopNest, stage: str, s: Stmt, path: Path) -> None:
    """Every buffer that a statement uses lives where it is put."""
    known = {b.name for b in nest.parameters} | {p.buffer.name for p in path if isinstance(p, Alloc)}
    for st, _ in stores(s):
        for name in (st.buffer.name, *(r.source.name for r in reads(st.value))):
            if name not in known:
                raise ScheduleError(
                    f"{stage} uses {name}, which lives elsewhere",
                    hint=f"place {stage} before what is computed for it with compute_at",
                )


def _append(body: Stmt, tail: Stmt) -> Stmt:
    """The tail at the end, inside the allocations that surround everything before it."""
    if isinstance(body, Alloc):
        return replace(body, body=_append(body.body, tail))
    return seq(body, tail)


@primitive
def jam(s: Schedule, stage: str, into: str, loop: str) -> Schedule:
    """Run the iterations of a stage's loop together with those of a later loop of the same range.

    Requires: both loops stand in the same sequence and have equal bounds.
    Rewrite: ``for v: S; ..; for v: T``  ->  ``..; for v: (S; T)``
    Raises: ScheduleError for unequal bounds, or when T would read what S has not computed yet.
    """
    first = {k: v for k, v in find_loops(s.nest, stage, loop).items()}
    second = {k: v for k, v in find_loops(s.nest, into, loop).items() if k not in first}
    if not second:
        raise ScheduleError(f'{stage} and {into} share the loop "{loop}" already')
    done = False

    def go(x: Stmt) -> Stmt:
        nonlocal done
        if isinstance(x, Seq):
            allocs, parts = _flat(x, second)
            a = next((k for k, y in enumerate(parts) if id(y) in first), None)
            b = next((k for k, y in enumerate(parts) if id(y) in second), None)
            if a is not None and b is not None:
                done = True
                p, q = parts[a], parts[b]
                assert isinstance(p, For) and isinstance(q, For)
                if (p.lo, p.hi, p.step) != (q.lo, q.hi, q.step):
                    raise ScheduleError(f'"{p.var}" of {stage} and "{q.var}" of {into} have different bounds')
                joined = replace(q, body=seq(substitute(p.body, {p.var: Affine.of(q.var)}), q.body))
                result: Stmt = seq(*parts[:a], *parts[a + 1 : b], joined, *parts[b + 1 :])
                for y in reversed(allocs):
                    result = replace(y, body=result)
                return result
        return with_children(x, tuple([go(c) for c in children(x)]))

    body = go(s.nest.body)
    if not done:
        raise ScheduleError(f'the loops "{loop}" of {stage} and {into} are not in one sequence')
    return s.with_nest(body)


def _flat(x: Seq, wanted: Mapping[int, object]) -> tuple[list[Alloc], list[Stmt]]:
    """A sequence with the allocations at its end opened, as far as they surround a wanted statement."""
    allocs: list[Alloc] = []
    parts = list(x.items)
    while isinstance(parts[-1], Alloc) and any(id(y) in wanted for y, _ in walk(parts[-1])):
        last = parts.pop()
        assert isinstance(last, Alloc)
        allocs.append(last)
        parts += items(last.body)
    return allocs, parts
