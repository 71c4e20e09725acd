"""Structural facts about definitions that schedules are derived from."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from tensordsl import conditions, expr
from tensordsl.affine import Affine
from tensordsl.combination import Monoid
from tensordsl.data_index import affine_value
from tensordsl.expr import Expr, Index, Op, Read
from tensordsl.program import Program
from tensordsl.sizes import likely
from tensordsl.tensor import Definition, Tensor

#: Relative cost of a scalar operation: about how many multiply-adds it takes in vector code.
COST = {
    "div": 4, "sqrt": 4, "rsqrt": 5, "exp": 10, "exp2": 8, "log": 12, "log2": 12, "tanh": 14, "erf": 14, "sin": 16,
    "cos": 16, "pow": 24, "floordiv": 8, "mod": 8, "select": 2,
}  # fmt: skip

#: Whole loads that replace one of strided lanes, at most.
MOST_LOADS = 4


def definition_of(t: Tensor) -> Definition:
    assert t.definition is not None
    return t.definition


def tensor_names(program: Program) -> list[str]:
    """The names that a new tensor cannot have."""
    return [t.name for t in (*program.inputs, *program.tensors)]


def cost(e: Expr) -> int:
    """The cost of evaluating an expression once, reads not counted."""
    return sum(COST.get(x.name, 1) for x in expr.walk(e) if isinstance(x, Op) and x.name != "cast")


def instances(t: Tensor) -> int:
    """How often the body of a definition is evaluated."""
    d = definition_of(t)
    n = 1
    for a in d.axes + d.reduce_axes:
        n *= a.extent
    return n


def elements(t: Tensor) -> int:
    n = 1
    for e in t.shape:
        n *= e
    return n


def tensor_strides(shape: tuple[int, ...], pitch: int = 0) -> tuple[int, ...]:
    result, step = [], 1
    for e in reversed((*shape[:-1], pitch) if pitch != 0 else shape):
        result.append(step)
        step *= e
    return tuple(reversed(result))


def _strides(r: Read) -> tuple[int, ...]:
    return tensor_strides(r.source.shape, getattr(r.source, "pitch", 0))


def stride(r: Read, axis: str) -> int | None:
    """Elements between the reads of neighbouring values of an axis; None: not constant."""
    total = 0
    for i, step in zip(r.index, _strides(r)):
        if any(axis in atom.names() for atom, _ in i.terms if not isinstance(atom, str)):
            return None
        total += i.coefficient(axis) * step
    return total


def address(r: Read) -> Affine:
    """The element of the source that is read, counted in memory order."""
    total = Affine()
    for i, step in zip(r.index, _strides(r)):
        total = total + i * step
    return total.recombined()


def lane_distances(a: Affine, axis: str, width: int) -> tuple[int, ...] | None:
    """Distances of the values of an axis from the first of ``width`` that start at a multiple of it.

    None: they are not the same everywhere.
    """
    start = Affine.of(axis) * width
    first = a.substitute({axis: start})
    found = [a.substitute({axis: start + lane}) - first for lane in range(width)]
    return tuple(d.const for d in found) if all(d.is_constant for d in found) else None


def depends(r: Read, axis: str) -> bool:
    return any(axis in i.names() for i in r.index)


@dataclass(frozen=True, slots=True)
class Tile:
    """How a reduction maps to a register tile.

    vector: the axis whose values are lanes.  row: the axis that is unrolled beside it (None:
    nothing is reused across rows).  main: the reduction axis that may be split.  streams: tensors
    whose vectors are loaded in the innermost reduction loop.
    """

    vector: str
    row: str | None
    main: str
    streams: tuple[str, ...]
    broadcasts: tuple[str, ...]


def register_tile(t: Tensor) -> Tile | None:
    """The register tile of a reduction whose last axis can be vectorised, or None."""
    d = definition_of(t)
    if d.reducer is None or not d.axes or not d.reduce_axes:
        return None
    vector = d.axes[-1].name
    reads = d.reads
    streams = [r for r in reads if depends(r, vector)]
    if not streams or any(stride(r, vector) is None for r in reads):
        return None
    main = max(d.reduce_axes, key=lambda a: a.extent).name
    if isinstance(d.reducer, Monoid) and not d.reducer.commutative:
        main = d.reduce_axes[0].name  # the tile puts it outermost, and the terms stay in order
    inner = [a.name for a in d.reduce_axes]
    strided = [
        r for r in streams
        if abs(stride(r, vector) or 0) > MOST_LOADS and any(stride(r, k) == 1 for k in inner)
    ]  # fmt: skip
    if strided and not _reused(d, strided):
        return None  # a row reduction: the reduction axis itself is the one to vectorise
    ragged = decided_by_data(d)
    if vector in ragged:
        return None
    rows = [
        a.name for a in d.axes[:-1]
        if likely(a.extent) > 1 and a.name not in ragged and any(not depends(r, a.name) for r in streams)
        and all(stride(r, a.name) is not None for r in reads)
        and any(depends(r, a.name) for r in reads)
    ]  # fmt: skip
    row = rows[-1] if rows else None
    if row is not None:
        # the axis that leaves most vector loads alone, the last one among equals
        row = max(rows, key=lambda a: (sum(not depends(r, a) for r in streams), rows.index(a)))
    names = tuple(dict.fromkeys(r.source.name for r in streams))
    others = tuple(dict.fromkeys(r.source.name for r in reads if not depends(r, vector)))
    return Tile(vector, row, main, names, others)


def leading(tile: Tile, axes: list[str]) -> int:
    """How many axes, outermost first, the tile leaves as they are."""
    return min(axes.index(a) for a in (tile.row, tile.vector) if a is not None)


def _reused(d: Definition, streams: list[Read]) -> bool:
    """Is there an axis over which the streamed operand is read again?"""
    return any(not depends(r, a.name) for r in streams for a in d.axes[:-1])


def identity_dims(r: Read) -> dict[str, int]:
    """axis -> dimension, for the dimensions of a read that are indexed by one axis and nothing else."""
    found = {}
    for d, i in enumerate(r.index):
        if len(i.terms) == 1 and not i.const and i.terms[0][1] == 1 and isinstance(i.terms[0][0], str):
            found[i.terms[0][0]] = d
    return found


def inlinable(program: Program, kept: Container[str] = ()) -> str | None:
    """The first pointwise tensor worth computing inside its readers, or None.

    kept: tensors that stay as they are, and whose formulas do.
    """
    outputs = {t.name for t in program.outputs}
    overwritten = set(program.inplace.values())  # reading these later may be too late
    for t in program.tensors:
        d = definition_of(t)
        if d.reducer is not None or d.order or t.name in outputs:
            continue
        if any(r.source.name in overwritten for r in d.reads):
            continue
        if affine_value(d.body) is None and read_in_index(program, t.name):
            continue
        readers = program.consumers(t.name)
        if any(definition_of(c).order for c in readers) and any(_advances(r) for r in d.reads):
            continue  # the results of recurrences on the way to other ones are combined once
        if t.name in kept or any(c.name in kept for c in readers):
            continue
        sites = [r for c in readers for r in definition_of(c).reads if r.source.name == t.name]
        work = cost(d.body)
        again = max((instances(c) / max(1, elements(t)) for c in readers), default=1.0)
        guarded = any(isinstance(e, Op) and e.name == "select" for e in expr.walk(d.body))
        tiled = any(definition_of(c).reducer is not None and register_tile(c) is not None for c in readers)
        if work == 0 and not guarded:
            return t.name
        if tiled and again > 1:
            continue
        if again <= 1 and (len(sites) == 1 or work <= 2):
            return t.name
        if again <= 1 and len({s.index for s in sites}) == 1 and len(readers) == 1:
            return t.name
    return None


def _advances(r: Read) -> bool:
    source = r.source
    return isinstance(source, Tensor) and source.definition is not None and bool(source.definition.order)


def decided_by_data(d: Definition) -> frozenset[str]:
    """The axes of a reduction that occur in conditions on numbers read from memory."""
    if d.reducer is None:
        return frozenset()
    known = conditions.terms_where(d.body, d.reducer)
    return frozenset[str]().union(*(c.names() for c in known if any(True for _ in c.data())))


def destination(t: Tensor) -> tuple[str, Affine] | None:
    """The axis of a reduction that its terms determine, and the index read from memory that it equals."""
    d = definition_of(t)
    if d.reducer is None or d.order:
        return None
    known = conditions.terms_where(d.body, d.reducer)
    for a in reversed(d.axes):
        for c in known:
            index = c + Affine.of(a.name)
            if c.coefficient(a.name) == -1 and -c in known and a.name not in index.names():
                return (a.name, index) if any(True for _ in index.data()) else None
    return None


def read_in_index(program: Program, name: str) -> bool:
    """Is an element of a tensor used as an index?"""
    return any(x.source.name == name for t in program.tensors for i in _indices(definition_of(t)) for x in i.data())


def _indices(d: Definition) -> Iterator[Affine]:
    for e in expr.walk(d.body):
        if isinstance(e, Read):
            yield from e.index
        elif isinstance(e, Index):
            yield e.affine


def affine_names(indices: tuple[Affine, ...]) -> set[str]:
    return {n for i in indices for n in i.names()}
