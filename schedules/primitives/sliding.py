"""Sliding windows: what the next iteration of a loop needs again is kept."""

from __future__ import annotations

from dataclasses import replace

from tensordsl.schedules.locate import Path, find_loops, fresh
from tensordsl.schedules.loopnest import (
    CELL,
    Alloc,
    Buffer,
    For,
    If,
    Instance,
    Seq,
    Stmt,
    Store,
    buffers,
    children,
    items,
    rewrite,
    seq,
    stores,
    walk,
    with_children,
)  # fmt: skip
from tensordsl.schedules.primitives.caches import at_loops, constant_end
from tensordsl.schedules.primitives.placement import local_scope
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import Read


@primitive
def slide(s: Schedule, stage: str, loop: str) -> Schedule:
    """Keep the part of a buffer that the next iteration of a loop needs again, and fill only the rest.

    stage: a cache or a stage placed by `compute_at`, whose region moves by a constant along one
    dimension with each iteration of the loop.

    Requires: consecutive regions overlap.
    Rewrite: ``for v: (c = region; ..)``  ->
        ``for v: (c[old] = kept, or its values if v is first; c[new] = ..; ..; kept = c[next])``
    Raises: ScheduleError when the region does not move, or consecutive regions do not overlap.
    """
    targets = find_loops(s.nest, stage, loop)
    known = set(buffers(s.nest))

    def go(x: Stmt, path: Path) -> Stmt:
        assert isinstance(x, For)
        count = 0
        keeps: list[Alloc] = []

        def inner(y: Stmt, p: Path) -> Stmt:
            nonlocal count
            if isinstance(y, Alloc) and y.buffer.name == stage:
                count += 1
                kept, new = _slide(s, x, y, p, fresh(f"{stage}_k", known))
                known.add(kept.buffer.name)
                keeps.append(kept)
                return new
            return with_children(y, tuple([inner(c, (*p, y)) for c in children(y)]))

        result: Stmt = replace(x, body=inner(x.body, ()))
        if not count:
            raise ScheduleError(f'no buffer {stage} is filled inside "{x.var}"')
        for k in keeps:
            result = replace(k, body=result)
        return result

    return at_loops(s, _outermost(targets), go)


def _outermost(targets: dict[int, tuple[For, Path]]) -> dict[int, tuple[For, Path]]:
    return {k: (f, p) for k, (f, p) in targets.items() if not any(id(y) in targets for y in p)}


def _slide(s: Schedule, x: For, alloc: Alloc, path: Path, label: str) -> tuple[Alloc, Alloc]:
    """The buffer that survives (to be put around loop x), and the changed allocation."""
    c = alloc.buffer
    rank = len(c.shape)
    moving = [d for d, e in enumerate(alloc.element) if e.coefficient(x.var)]
    if not moving:
        raise ScheduleError(f'the region of {c.name} does not move with "{x.var}"')
    dim_element = moving[0]
    dims = [d for d in range(rank) if alloc.element[dim_element].coefficient(CELL[d])]
    if len(moving) > 1 or len(dims) != 1 or alloc.element[dim_element].coefficient(CELL[dims[0]]) != 1:
        raise ScheduleError(f'the region of {c.name} does not move along one dimension with "{x.var}"')
    d = dims[0]
    step = alloc.element[dim_element].coefficient(x.var) * x.step
    overlap = c.shape[d] - step
    length = s.program[alloc.tensor].shape[dim_element]
    if step <= 0 or overlap <= 0:
        raise ScheduleError(
            f"consecutive regions of {c.name} do not overlap: {c.shape[d]} elements, {step} further each time"
        )
    parts = list(items(alloc.body))
    fills = [k for k, y in enumerate(parts) if all(st.buffer.name == c.name for st, _ in stores(y))]
    if not fills or fills[0] != 0:
        raise ScheduleError(f"{c.name} is not filled at the start of its block")
    fill = seq(*[parts[k] for k in fills])
    rest = [y for k, y in enumerate(parts) if k not in fills]
    # the kept cells: the loops between x and the block tell the copies apart
    between = [f for f in path if isinstance(f, For)]
    sizes = []
    for f in between:
        if any(lo.terms or lo.const < 0 for lo in f.lo) or all(h.terms for h in f.hi):
            raise ScheduleError(f'loop "{f.var}" between "{x.var}" and {c.name} has no constant range')
        sizes.append(constant_end(f))
    shape = (*sizes, *(overlap if k == d else e for k, e in enumerate(c.shape)))
    in_registers = c.scope == "register" and all(f.kind == "unroll" for f in between)
    size = 1
    for e in shape:
        size *= e
    kept = Buffer(label, shape, c.dtype, "register" if in_registers else local_scope(size, c.dtype.bytes))
    where = tuple(Affine.of(f.var) for f in between)
    element = {CELL[k]: Affine.of(CELL[k + len(between)]) for k in range(rank)} | {
        f.var: Affine.of(CELL[k]) for k, f in enumerate(between)
    }
    held = tuple(e.substitute(element) for e in alloc.element)
    loops = _fill_variables(fill, c, d)
    head = _restrict(fill, loops, None, overlap)
    new = _restrict(fill, loops, overlap, None)

    def copy(save: bool) -> Stmt:
        names = [f"{label}.{k}" for k in range(rank)]
        cell = tuple(Affine.of(n) for n in names)
        shifted = tuple(i + step if k == d else i for k, i in enumerate(cell))
        source = shifted if save else cell
        index = tuple(e.substitute(dict(zip(CELL, source))) for e in alloc.element)
        instance = Instance("copy", alloc.tensor, index)
        body: Stmt = (
            Store(kept, (*where, *cell), Read(c, shifted), instance)
            if save
            else Store(c, cell, Read(kept, (*where, *cell)), instance)
        )
        limits = _limits(fill, c)
        base = alloc.element[dim_element].substitute({n: Affine() for n in CELL}) + (step if save else 0)
        for k in reversed(range(rank)):
            size = overlap if k == d else c.shape[k]
            kind = "vector" if k == rank - 1 else "unroll" if c.scope == "register" else "serial"
            ends = (length - base,) if k == d else limits[k]
            starts = (Affine(), -base) if k == d else (Affine(),)
            body = For(names[k], starts, (Affine.of(size), *ends), body, kind)  # type: ignore[arg-type]
        return If(tuple(h - 2 - Affine.of(x.var) for h in x.hi), body) if save else body

    first = tuple(lo - Affine.of(x.var) for lo in x.lo)
    body = seq(If(first, head, copy(False)), new, *rest, copy(True))
    return Alloc(kept, Seq(()), alloc.tensor, held), replace(alloc, body=body)


def _fill_variables(fill: Stmt, c: Buffer, d: int) -> set[str]:
    """The loops of a fill that run along dimension d of the buffer."""
    found = set()
    for st, _ in stores(fill):
        i = st.index[d]
        if len(i.terms) != 1 or i.terms[0][1] != 1 or i.const or not isinstance(i.terms[0][0], str):
            raise ScheduleError(
                f"{c.name} is filled at [{', '.join(map(str, st.index))}], not one by one along the window"
            )
        found.add(i.terms[0][0])
    return found


def _restrict(fill: Stmt, loops: set[str], lo: int | None, hi: int | None) -> Stmt:
    def go(x: Stmt) -> Stmt | None:
        if isinstance(x, For) and x.var in loops:
            start = x.lo if lo is None else (*(b for b in x.lo if b != Affine()), Affine((), lo))
            end = x.hi if hi is None else (*(b for b in x.hi if b.terms), Affine((), hi))
            return replace(x, lo=start, hi=end)
        return None

    return rewrite(fill, go)


def _limits(fill: Stmt, c: Buffer) -> dict[int, tuple[Affine, ...]]:
    """Bounds of the fill loops beyond the buffer's extents, per dimension (ragged tiles)."""
    result: dict[int, tuple[Affine, ...]] = {d: () for d in range(len(c.shape))}
    for st, _ in stores(fill):
        for x, _ in walk(fill):
            if isinstance(x, For):
                for d, i in enumerate(st.index):
                    if i == Affine.of(x.var):
                        result[d] = tuple(h for h in x.hi if h.terms)
    return result
