"""Factorisations in blocks: sums of earlier results whose terms come from before the block are a product of matrices.

Elements (i, j) of such a recurrence need sums over k of results before i or before j.  Both axes are
split into blocks of ``nb``, and so is the range of k where the block begins: the terms before it are
all there, so a register tile adds them up for the whole block, in any order; those inside the block
follow one result after the other.

    for block of i: for block of j:
        for a few rows i: for k before the block: (registers) S[i, j] += f(i, j, k)
        for i, j in the block: for k inside the block: S[i, j] += f(i, j, k);  T[i, j] = g(S[i, j])
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tensordsl.schedules.analysis import definition_of, depends, stride
from tensordsl.schedules.locate import fresh, stage_loops, stage_of
from tensordsl.schedules.loopnest import For, Store, buffers, stores, walk
from tensordsl.schedules.schedule import Schedule

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.causality import Group
from tensordsl.errors import ScheduleError
from tensordsl.program import Program
from tensordsl.targets import Target

#: Extents below so many blocks are left as they are.
LEAST_BLOCKS = 3
#: Rows of a tile.
ROWS = (2, 4, 6, 8)


@dataclass(frozen=True, slots=True)
class Blocks:
    """result: the stage with the elements; sum: the stage with the sums it needs; outer, inner: their
    axes, the one whose blocks are the outer loops first; rows, columns: the same axes as the tile has
    them (columns are lanes); gathered: tensors that columns read in strides, so that a transposed copy
    of what one outer block reads is made.
    """

    result: str
    sum: str
    outer: str
    inner: str
    rows: str
    columns: str
    gathered: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """nb: rows and columns of a block.  mr: rows of it that are held in registers."""

    nb: int
    mr: int


def block_sizes(program: Program, b: Blocks, target: Target) -> tuple[BlockSizes, ...]:
    """The sizes worth trying, the best guess first; none where the program is too small for blocks."""
    lanes = target.lanes(program[b.sum].dtype)
    extent = min(program[b.result].shape)
    found = [
        BlockSizes(nb, mr) for nb in (max(16, 2 * lanes), lanes, 3 * lanes, 4 * lanes) for mr in reversed(ROWS)
        if lanes > 1 and nb >= 8 and extent >= LEAST_BLOCKS * nb and nb % mr == 0
        and mr * -(-nb // lanes) + -(-nb // lanes) + 1 <= target.registers
    ]  # fmt: skip
    return tuple(dict.fromkeys(found))


def blocks(program: Program, group: Group) -> Blocks | None:
    """The blocks of a recurrence, or None where it has another form."""
    sums = [t for t in group.tensors if definition_of(t).reducer is not None]
    results = [t for t in group.tensors if definition_of(t).reducer is None]
    if len(sums) != 1 or len(results) != 1:
        return None
    d, of = definition_of(results[0]), definition_of(sums[0])
    if [o.axis for o in d.order] != [a.name for a in d.axes] or len(d.axes) != 2 or any(o.descending for o in d.order):
        return None
    if [a.name for a in of.axes] != [a.name for a in d.axes] or len(of.reduce_axes) != 1:
        return None
    i, j = d.axes[0].name, d.axes[1].name
    streams = [r for r in of.reads if depends(r, j)]
    if not streams or any(stride(r, j) is None for r in streams):
        return None
    gathered = tuple(dict.fromkeys(r.source.name for r in streams if stride(r, j) != 1))
    outer, inner = (j, i) if gathered else (i, j)
    return Blocks(results[0].name, sums[0].name, outer, inner, i, j, gathered)


def apply_blocks(s: Schedule, b: Blocks, sizes: BlockSizes) -> Schedule:
    """The schedule in blocks.  Raises ScheduleError where the recurrence cannot be cut into them."""
    nb, mr = sizes.nb, sizes.mr
    t = s.program[b.result]
    extents = {a.name: a.extent for a in definition_of(t).axes}
    s = s.split(b.result, b.rows, nb).split(b.result, b.columns, nb)
    s = s.reorder(b.result, f"{b.outer}.o", f"{b.inner}.o", f"{b.rows}.i", f"{b.columns}.i")
    s = s.store_at(b.sum, f"{b.inner}.o")
    if extents[b.outer] % nb:
        s = s.partition(b.result, f"{b.outer}.o", str(extents[b.outer] // nb), suffix="b")
    for y in [x.removeprefix(f"{b.outer}.o") for x in _loops(s, b.result, f"{b.outer}.o")]:
        outer, inner = f"{b.outer}.o{y}", f"{b.inner}.o{y}"
        s = s.partition(b.result, inner, f"{outer} + 1", suffix="r").partition(b.result, inner, outer, suffix="d")
        for x in (y, f"{y}.d", f"{y}.r"):
            s = _part(s, b, outer, x, nb, mr, extents[b.inner])
    return s


def _loops(s: Schedule, stage: str, name: str) -> list[str]:
    return [x for x in stage_loops(s.nest, stage) if x == name or x.startswith(f"{name}.")]


def _part(s: Schedule, b: Blocks, outer: str, x: str, nb: int, mr: int, extent: int) -> Schedule:
    """The blocks before, on or after the diagonal, named by the suffix x; those without terms stay."""
    found = _terms(s, b, x)
    if found is None:
        return s.drop(b.sum, f"{b.columns}.i{x}") if f"{b.columns}.i{x}" in stage_loops(s.nest, b.sum) else s
    k, begin = found
    rows, columns = f"{b.rows}.i{x}", f"{b.columns}.i{x}"
    t = s.partition(b.sum, k, str(begin), suffix="q")
    try:
        t = t.distribute(b.sum, columns, before=f"{k}.q").distribute(b.sum, rows, before=f"{k}.q", suffix="t")
    except ScheduleError:  # guarded terms, as in a triangle on the diagonal
        return s
    if k not in stage_loops(t.nest, b.sum):
        return s
    for source in b.gathered if not x.endswith(".d") else ():
        t = _transposed(t, b, source, outer, columns)
    t = _inside(t, b, outer, f"{rows}.t", f"{columns}.t", f"{k}.q.t")
    inner = f"{b.inner}.o{x}"
    parts = [x]
    if extent % nb and inner in _loops(t, b.result, inner):
        t = t.partition(b.result, inner, str(extent // nb), suffix="e")
        parts += [f"{x}.e"] if f"{inner}.e" in _loops(t, b.result, inner) else []
    for y in parts:
        if f"{b.inner}.o{y}" in _loops(t, b.sum, f"{b.inner}.o{y}"):
            t = _tile(t, b, f"{b.rows}.i{y}", f"{b.columns}.i{y}", f"{k.removesuffix(x)}{y}", mr)
    return t


def _terms(s: Schedule, b: Blocks, x: str) -> tuple[str, Affine] | None:
    """The loop over the terms of a part, and the end of the terms that every element of a block has."""
    rows, columns = f"{b.rows}.i{x}", f"{b.columns}.i{x}"
    for f, path in walk(s.nest.body):
        if not isinstance(f, For) or not isinstance(f.body, Store) or stage_of(f.body, (*path, f)) != b.sum:
            continue
        if {rows, columns} <= {g.var for g in path if isinstance(g, For)} and f.body.instance.kind == "update":
            first = {rows: Affine(), columns: Affine()}
            ends = list(dict.fromkeys(h.substitute(first) for h in f.hi))
            return (f.var, ends[0]) if len(ends) == 1 else None
    return None


def _transposed(s: Schedule, b: Blocks, source: str, at: str, along: str) -> Schedule:
    """What the columns of a block read of a tensor, transposed, for all blocks below it."""
    name = fresh(f"{source}_t", buffers(s.nest))
    home = s.program.inplace.get(source, source)
    s = s.cache_read(b.sum, home, at, scope="workspace", name=name, along=along)
    return s.transform_layout(name, (1, 0)).reorder(name, f"{name}.1", f"{name}.0")


def _inside(s: Schedule, b: Blocks, outer: str, rows: str, columns: str, k: str) -> Schedule:
    """The terms inside a block: added to all rows below, or to all columns on the right, as vectors."""
    loop = next(f for f, _ in walk(s.nest.body) if isinstance(f, For) and f.var == k)
    names = {n for h in loop.hi for n in h.names()}
    if {rows, columns} <= names:
        return s
    if rows in names:  # each row needs those above it
        s = s.distribute(b.result, columns, before=b.result).reorder(b.sum, k, columns)
        return s.vectorize(b.sum, columns).vectorize(b.result, columns)
    for source in b.gathered:
        s = _transposed(s, b, source, outer, columns)
    s = s.reorder(b.result, columns, rows).distribute(b.result, rows, before=b.result)
    s = s.reorder(b.sum, k, rows).push(b.sum, columns, k).reorder(b.sum, rows, k)
    return s.vectorize(b.sum, k)


def _tile(s: Schedule, b: Blocks, rows: str, columns: str, k: str, mr: int) -> Schedule:
    """The terms before a block, a few rows of it in registers."""
    s = s.split(b.sum, rows, mr)
    s = s.reorder(b.sum, f"{rows}.o", k, f"{rows}.i", columns)
    s = s.cache_write(b.sum, f"{rows}.o", name=fresh(f"{b.sum}_acc", buffers(s.nest)))
    for source in _streams(s, b.sum, k, columns):
        s = s.cache_read(b.sum, source, k, name=fresh(f"{source}_v", buffers(s.nest)), along=columns)
    return s.unroll(b.sum, f"{rows}.i").vectorize(b.sum, columns)


def _streams(s: Schedule, stage: str, k: str, columns: str) -> Iterator[str]:
    """The buffers that a tile reads vectors of at each step."""
    found: dict[str, None] = {}
    for st, path in stores(s.nest.body):
        if stage_of(st, path) == stage and any(isinstance(f, For) and f.var == k for f in path):
            found |= {r.source.name: None for r in expr.reads(st.value) if any(columns in i.names() for i in r.index)}
    yield from found
