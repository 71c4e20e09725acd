"""Software pipelining: the copies of later iterations run before the compute of this one."""

from __future__ import annotations

from dataclasses import replace

from tensordsl.schedules.locate import edit, find_loops
from tensordsl.schedules.loopnest import (
    CELL,
    Alloc,
    Buffer,
    For,
    Prefetch,
    Stmt,
    Store,
    items,
    map_values,
    rewrite,
    seq,
    stores,
    substitute,
)  # fmt: skip
from tensordsl.schedules.primitives.loops import constant_extent
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import Expr, Read, reads


@primitive
def pipeline(s: Schedule, stage: str, loop: str, stages: int = 2) -> Schedule:
    """Fill the shared buffers of a loop's next iterations before this iteration uses its own.

    Each shared buffer allocated in the loop's body gets a dimension for the iteration, folded to
    ``stages`` slots, and lives around the loop.  The fills of the first ``stages - 1`` iterations stand
    before the loop, its last ``stages - 1`` iterations after it.  The order of the fills among
    themselves and of the rest is kept.

    Requires: a constant number of at least ``stages`` iterations; shared buffers allocated directly in
    the body, filled by statements that write nothing else and read nothing the body writes.
    Rewrite: ``for k: (c = fill(k); S(c))``  ->
        ``c[0] = fill(0); for k: (c[(k+1) % 2] = fill(k+1); S(c[k % 2])); S(c[last % 2])``
    Raises: ScheduleError for an unknown loop, fewer than 2 stages or iterations, or no such buffer.
    """
    if isinstance(stages, bool) or not isinstance(stages, int) or stages < 2:
        raise ScheduleError(f"stages={stages!r}", legal="an integer of at least 2")
    targets = find_loops(s.nest, stage, loop)

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        return _pipelined(x, stages)

    return s.with_nest(edit(s.nest.body, targets, go))


def _pipelined(x: For, stages: int) -> Stmt:
    count = -(-constant_extent(x) // x.step)
    if count < stages:
        raise ScheduleError(f'loop "{x.var}" has {count} iterations, less than {stages} stages')
    allocs, parts = _unwrap(x.body)
    written = {st.buffer.name for p in parts for st, _ in stores(p)}
    ahead = [k for k, p in enumerate(parts) if _fills(p, {a.buffer.name for a in allocs}, written)]
    filled = {st.buffer.name for k in ahead for st, _ in stores(parts[k])}
    for i, p in enumerate(parts):
        for st, _ in stores(p):
            if i not in ahead and st.buffer.name in filled:
                raise ScheduleError(f'shared buffer {st.buffer.name} is also written by what stays in "{x.var}"')
    if not ahead:
        raise ScheduleError(
            f'no shared buffer is filled in the body of "{x.var}"',
            hint='cache_read(..., scope="shared") puts one there',
        )
    lo, step, k = x.lo[0], x.step, Affine.of(x.var)
    slot = (k - lo) // step
    staged = {a.buffer.name: _staged(a, count, stages, x) for a in allocs if a.buffer.name in filled}
    parts = [_redirect(p, {n: b.buffer for n, b in staged.items()}, slot) for p in parts]
    fill = seq(*[parts[i] for i in ahead])
    rest: Stmt = seq(*[p for i, p in enumerate(parts) if i not in ahead])
    for a in reversed([a for a in allocs if a.buffer.name not in filled]):
        rest = replace(a, body=rest)
    last = lo + (count - stages + 1) * step  # the first iteration whose successors are all filled
    result = seq(
        *[substitute(fill, {x.var: lo + i * step}) for i in range(stages - 1)],
        replace(x, hi=(last,), body=seq(substitute(fill, {x.var: k + (stages - 1) * step}), rest)),
        *[substitute(rest, {x.var: last + i * step}) for i in range(stages - 1)],
    )
    for b in reversed(list(staged.values())):
        result = replace(b, body=result)
    return result


def _unwrap(body: Stmt) -> tuple[list[Alloc], list[Stmt]]:
    """The allocations that open a body, and its statements."""
    allocs: list[Alloc] = []
    parts: list[Stmt] = []
    for x in items(body):
        if isinstance(x, Alloc):
            allocs.append(x)
            inner, more = _unwrap(x.body)
            allocs += inner
            parts += more
        else:
            parts.append(x)
    return allocs, parts


def _fills(p: Stmt, local: set[str], written: set[str]) -> bool:
    """Does a statement only fill shared buffers of the body, from what the body does not write?"""
    found = [st for st, _ in stores(p)]
    return bool(found) and all(
        st.buffer.scope == "shared"
        and st.buffer.name in local
        and not st.op
        and not any(r.source.name in written for r in reads(st.value))
        for st in found
    )


def _staged(a: Alloc, count: int, stages: int, x: For) -> Alloc:
    """The buffer with a folded dimension for the iterations of a loop."""
    b = a.buffer
    folds = b.fold + (0,) * (len(b.shape) - len(b.fold))
    new = replace(b, shape=(count, *b.shape), fold=(stages, *folds), pitch=b.pitch)
    cells = {CELL[d]: Affine.of(CELL[d + 1]) for d in range(len(b.shape))}
    cells[x.var] = x.lo[0] + Affine.of(CELL[0]) * x.step
    return replace(a, buffer=new, element=tuple(e.substitute(cells) for e in a.element))


def _redirect(p: Stmt, staged: dict[str, Buffer], slot: Affine) -> Stmt:
    def value(e: Expr) -> Expr | None:
        if isinstance(e, Read) and e.source.name in staged:
            return replace(e, source=staged[e.source.name], index=(slot, *e.index))
        return None

    def stmt(y: Stmt) -> Stmt | None:
        if isinstance(y, (Store, Prefetch)) and y.buffer.name in staged:
            return replace(y, buffer=staged[y.buffer.name], index=(slot, *y.index))
        return None

    return rewrite(map_values(p, value), stmt)
