"""Time loops whose reads lie at constant distances: several steps for a part of the grid at a time.

A sweep over a grid larger than the caches loads every row from memory in every step.  Here blocks of
rows are skewed by time: a block of step t follows one block behind step t - 1, so that the rows of
some steps stay in the second-level cache, and the outer loop walks the grid once for all of them
(wavefront of rows).  Fields that depend on each other within a step run in one loop over the blocks,
as many behind each other as their reads demand.  The delays, and how many slices of time are stored,
follow from the distances; the validator proves the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tensordsl.schedules.analysis import definition_of
from tensordsl.schedules.locate import stage_of
from tensordsl.schedules.loopnest import For, Seq, Stmt, Store, stores, walk
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches.cuts import cut, depends_on, is_copy

from tensordsl.affine import Affine
from tensordsl.causality import Group
from tensordsl.errors import ScheduleError
from tensordsl.program import Program
from tensordsl.targets import Target

#: Steps of time below which there is nothing to tile.
_LEAST_STEPS = 4
#: The share of the second-level cache for the rows of a tile.
_SHARE = 0.6
#: Rows that shearing may add, for each of the grid: memory that moves instead of a second slice.
_MOST_GROWTH = 2
#: Statements past which ranges are cut no further.
_MOST_STATEMENTS = 96
#: Steps that run together where each is a chain of dependent elements, the best first.
_CHAINS = (8, 10, 9, 7, 6, 12)
#: Rows that run together where they share what they read, and up to how many reads each.
_ROWS = 4
_MOST_READS = 8


@dataclass(frozen=True, slots=True)
class Distance:
    """A read: ``reader[t, i, ...]`` needs ``source[t - steps, i + offset, ...]``."""

    reader: str
    source: str
    steps: int
    offset: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stencil:
    """A group that advances along ``time``; all its reads of itself lie at constant distances.

    fields: its tensors in the order of a step.  shape: of the grid.  steps: after the first slice.
    """

    time: str
    fields: tuple[str, ...]
    shape: tuple[int, ...]
    steps: int
    distances: tuple[Distance, ...]
    element_bytes: int
    lanes: int

    @property
    def carried(self) -> bool:
        """Does a step read itself along a row, so that its lanes depend on each other?"""
        return any(d.steps == 0 and d.reader == d.source for d in self.distances)

    def slab(self) -> int:
        """Bytes of one field at one index of the outermost axis of the grid."""
        return prod(self.shape[1:]) * self.element_bytes


@dataclass(frozen=True, slots=True)
class TimeTile:
    """steps: of time in a tile.  rows: that run together (blocks of them along the outermost axis, if
    that is the axis of rows)."""

    steps: int
    rows: int


def stencil_of(program: Program, group: Group, target: Target) -> Stencil | None:
    """What is tiled of a group, or None where its shape or its reads are others."""
    if group.order is None or group.order.descending:
        return None
    fields = group.tensors
    names = {t.name for t in fields}
    first = fields[0]
    outputs = {t.name for t in program.outputs}
    if names & outputs or any(t.shape != first.shape or t.dtype != first.dtype for t in fields) or first.ndim < 3:
        return None
    found = []
    for t in fields:
        d = definition_of(t)
        if d.reducer is not None or d.axes[0].name != group.order.axis or d.loop_axes != d.axes:
            return None
        if any(o.descending for o in d.order):
            return None
        for r in d.reads:
            if r.source.name in names:
                offset = [i - Affine.of(a.name) for i, a in zip(r.index, d.axes)]
                if any(o.terms for o in offset):
                    return None
                found.append(Distance(t.name, r.source.name, -offset[0].const, tuple(o.const for o in offset[1:])))
    lanes = target.lanes(first.dtype)
    return Stencil(
        group.order.axis, tuple(t.name for t in fields), first.shape[1:], first.shape[0] - 1,
        tuple(dict.fromkeys(found)), first.dtype.bytes, lanes,
    )  # fmt: skip


# ---------------------------------------------------------------- sizes


def default_tile(x: Stencil, target: Target) -> TimeTile | None:
    """The tile chosen without measuring; None: one step's grid stays in the cache anyway."""
    store = storage_of(x, 1)
    if store is None or x.steps < _LEAST_STEPS or x.shape[-1] < 4 * x.lanes:
        return None
    if x.carried:
        return TimeTile(_chains(x), 1 + _reach(x)) if len(x.fields) == 1 else None
    slices = sum(n + bool(store.shear) for n in store.slices.values())  # step by step, shearing is no use
    if slices * x.slab() * x.shape[0] <= target.caches[1]:
        return None
    rows = _ROWS if _shares_rows(x) and (len(x.shape) > 2 or not store.shear) else 1
    return TimeTile(_fitting(x, rows if len(x.shape) == 2 else 1, target), rows)


def _shares_rows(x: Stencil) -> bool:
    """Do neighbouring rows of a field read the same rows, few enough for the registers?"""
    few = len(x.fields) == 1 and len(x.distances) <= _MOST_READS
    return few and not x.carried and len({d.offset[-2] for d in x.distances}) > 1


def _reach(x: Stencil) -> int:
    """Rows ahead, along the outermost axis, that a step reads of earlier steps."""
    return max((d.offset[0] for d in x.distances), default=0)


def _chains(x: Stencil) -> int:
    """Steps whose rows run together: a divisor of all steps where there is one."""
    return next((t for t in _CHAINS if x.steps % t == 0), min(_CHAINS[0], x.steps))


def _fitting(x: Stencil, block: int, target: Target) -> int:
    """Steps of a tile whose rows stay in the second-level cache, an even share of all steps."""
    store = storage_of(x, block)
    assert store is not None
    reach = max((abs(d.offset[0]) for d in x.distances), default=0)
    each = sum(store.slices.values()) * (block + reach) * x.slab()
    most = max(2, int(_SHARE * target.caches[1] / each))
    tiles = -(-x.steps // min(most, x.steps))
    return -(-x.steps // tiles)


def time_tiles(program: Program, target: Target) -> dict[str, tuple[Stencil, TimeTile]]:
    """The stencils worth tiling, by their first field, with the sizes chosen without measuring."""
    found = {}
    for group in program.groups:
        x = stencil_of(program, group, target)
        tile = None if x is None else default_tile(x, target)
        if x is not None and tile is not None:
            found[x.fields[0]] = (x, tile)
    return found


def step_choices(x: Stencil) -> list[int]:
    """Steps of a tile worth measuring; 0: no tiles."""
    return [0, *(t for t in (2, 4, 6, 8, 12, 16, 24, 32, 48) if t <= x.steps)]


def row_choices(x: Stencil) -> list[int]:
    if x.carried:
        return [1 + _reach(x)]
    return [r for r in (1, 2, 3, 4, 6, 8) if r <= x.shape[-2]] if _shares_rows(x) else [1]


# ---------------------------------------------------------------- delays and storage


def delays_of(x: Stencil, block: int, slices: dict[str, int], shear: int = 0) -> tuple[int, ...] | None:
    """How many blocks each field lags, or None where no delays allow so few slices of time.

    Blocks of ``block`` indices of the outermost axis, one further behind with each step.  A reader
    comes after its source, and before its source is overwritten: by the element some slices later,
    ``shear`` rows further down for each slice.
    """
    order = {f: k for k, f in enumerate(x.fields)}
    limits: list[tuple[str, str, int]] = []  # (a, b, w): delay of a >= delay of b + w
    for d in x.distances:
        ahead = (block - 1 + d.offset[0]) // block
        behind = (d.offset[0] + shear * slices[d.source]) // block
        limits.append((d.reader, d.source, ahead - d.steps))
        later = slices[d.source] - d.steps
        if later < 0:
            return None
        inner = next((o for o in d.offset[1:] if o), 0)  # within a row, places behind are overwritten already
        beside = d.reader == d.source and d.steps > 0 and (inner < 0 or (inner > 0 and not x.carried))
        strict = later == 0 and (order[d.reader] > order[d.source] or beside)
        limits.append((d.source, d.reader, -later - behind + strict))
    delay = dict.fromkeys(x.fields, 0)
    for _ in range(len(x.fields) + 1):
        changed = False
        for a, b, w in limits:
            if delay[a] < delay[b] + w:
                delay[a], changed = delay[b] + w, True
        if not changed:
            return tuple(delay.values())
    return None


@dataclass(frozen=True, slots=True)
class Storage:
    """slices: of time that are stored, by field.  shear: rows by which each slice lies further up, so that
    a step may overwrite the last one.  delays: blocks that each field lags."""

    slices: dict[str, int]
    shear: int
    delays: tuple[int, ...]


def storage_of(x: Stencil, block: int) -> Storage | None:
    """As few slices of time as some delays allow, or None where none do."""
    least = {f: max([1, *(d.steps for d in x.distances if d.source == f)]) for f in x.fields}
    more = {f: n + 1 for f, n in least.items()}
    for shear in range(2 * max((abs(d.offset[0]) for d in x.distances), default=0) + 1 if block == 1 else 1):
        if shear * x.steps * max(least.values()) > _MOST_GROWTH * x.shape[0]:
            break
        delays = delays_of(x, block, least, shear)
        if delays is not None:
            return Storage(least, shear, delays)
    for f in x.fields:
        fewer = more | {f: least[f]}
        more = fewer if delays_of(x, block, fewer) is not None else more
    delays = delays_of(x, block, more)
    return None if delays is None else Storage(more, 0, delays)


# ---------------------------------------------------------------- the schedule


def apply_time_tiling(s: Schedule, x: Stencil, tile: TimeTile) -> Schedule:
    """The schedule with a group tiled in time.  Raises ScheduleError where no delays of its fields allow it."""
    block = tile.rows if len(x.shape) == 2 or x.carried else 1
    store = storage_of(x, block)
    if store is None:
        raise ScheduleError("no delays of the fields keep what a step needs")
    first, stages = x.fields[0], set(x.fields)
    for name, count in store.slices.items():
        s = s.shear(name, 1, 0, store.shear) if store.shear else s
        s = s.fold(name, 0, count)
        if x.shape[-1] % x.lanes:
            s = s.storage_align(name, -(-x.shape[-1] // x.lanes) * x.lanes)
    s = cut(s, stages, [x.time], _MOST_STATEMENTS, "s")
    time = _longest(s, first, x.time)
    if x.carried and x.steps % tile.steps:  # whole tiles only; the last steps as they are written
        whole = _last(s, first, time) - x.steps % tile.steps
        s = s.partition(first, time, str(whole), suffix="w")
    outer, inner = f"{time}.b", f"{time}.s"
    s = s.split(first, time, tile.steps, names=(outer, inner))
    axes = {f: _row_axes(s, f, inner) for f in x.fields}
    if block > 1:
        for f in x.fields:
            s = s.split(f, axes[f][0], block)
    blocks = f"{axes[first][0]}.o" if block > 1 else axes[first][0]
    if len(x.fields) > 1:
        s = s.interleave(first, inner, store.delays)
    s = s.skew(first, blocks, inner).reorder(first, blocks, inner)
    if x.carried:
        return _interleaved_steps(s, x, tile, blocks, inner)
    return _rows(s, x, tile, axes, inner)


def _interleaved_steps(s: Schedule, x: Stencil, tile: TimeTile, blocks: str, inner: str) -> Schedule:
    """Element by element of a row, for all steps of a tile: as many chains of dependent elements at once.

    Rows of different steps are so far apart that their elements at one place of a row do not depend on
    each other.
    """
    [f] = x.fields
    s = cut(s, {f}, [blocks], _MOST_STATEMENTS, "c")
    for var in [v for v in _loops_of(s, f) if is_copy(v, inner)]:
        loop = _loop(s, f, var)
        if loop is None or _trips(loop) != tile.steps or depends_on(loop):
            continue
        rows = []
        node = loop.body
        while isinstance(node, For):
            rows.append(node.var)
            node = node.body
        s = s.reorder(f, *rows, var).unroll(f, var)
        s = cut(s, {f}, rows[-1:], 2 * _MOST_STATEMENTS, "d")
    return s


def _trips(x: For) -> int:
    """Iterations, where that is one constant, else 0."""
    return _size(x) if len(x.lo) == len(x.hi) == 1 else 0


def _rows(s: Schedule, x: Stencil, tile: TimeTile, axes: dict[str, list[str]], inner: str) -> Schedule:
    """Straight rows inside the tiles: whole vectors, several rows at a time where they share reads."""
    stages = set(x.fields)
    lanes: list[str] = []
    vectors: list[str] = []
    if not x.carried:
        for f in x.fields:
            last = axes[f][-1]
            s = s.split(f, last, x.lanes, names=(f"{last}.v", f"{last}.l"))
            lanes.append(f"{last}.l")
            vectors.append(f"{last}.v")
    between = [a for f in x.fields for a in axes[f][1:-1]]
    s = cut(s, stages, [inner, *between], _MOST_STATEMENTS, "c")
    if tile.rows > 1:
        s, vectors = _jam(s, x, tile, axes)
    rows = [f"{a}.i" for f in x.fields for a in axes[f][:-1]]
    s = cut(s, stages, [*rows, *(axes[f][-1] for f in x.fields if x.carried), *vectors], 2 * _MOST_STATEMENTS, "d")
    for f in x.fields:
        for var in [v for v in _loops_of(s, f) if any(is_copy(v, n) for n in lanes)]:
            s = s.vectorize(f, var)
    return s


def _jam(s: Schedule, x: Stencil, tile: TimeTile, axes: dict[str, list[str]]) -> tuple[Schedule, list[str]]:
    """Rows of one block run together, a vector of each at a time; with the loops over those vectors."""
    jammed = []
    for f in x.fields:
        row, last = axes[f][-2], axes[f][-1]
        if len(x.shape) > 2:
            for var in [v for v in _loops_of(s, f) if is_copy(v, row)]:
                if _extent(s, f, var) >= tile.rows:
                    s = s.split(f, var, tile.rows, names=(f"{var}.o", f"{var}.i")).peel(f, f"{var}.o", "tail")
        for var in [v for v in _loops_of(s, f) if is_copy(v, row)]:
            loop = _loop(s, f, var)
            if loop is None or not isinstance(loop.body, For) or _size(loop) != tile.rows or depends_on(loop):
                continue
            vector = loop.body.var
            if is_copy(vector, f"{last}.v") and isinstance(loop.body.body, For):
                s = s.reorder(f, vector, var, loop.body.body.var).unroll(f, var)
                jammed.append(vector)
    return s, jammed


def _longest(s: Schedule, stage: str, axis: str) -> str:
    """The part of a cut loop with the most iterations."""
    parts = {x.var: x for x, _ in walk(s.nest.body) if isinstance(x, For) and is_copy(x.var, axis)}
    names = [v for v in _loops_of(s, stage) if v in parts]
    return max(names, key=lambda v: _size(parts[v]))


def _last(s: Schedule, stage: str, var: str) -> Affine:
    loop = _loop(s, stage, var)
    assert loop is not None
    return loop.hi[0]


def _size(x: For) -> int:
    sizes = [(h - lo).const for h in x.hi for lo in x.lo if not (h - lo).terms]
    return min(sizes, default=0)


def _loops_of(s: Schedule, stage: str) -> list[str]:
    found: dict[str, None] = {}
    for st, path in stores(s.nest.body):
        if stage_of(st, path) == stage:
            found |= {f.var: None for f in path if isinstance(f, For)}
    return list(found)


def _loop(s: Schedule, stage: str, var: str) -> For | None:
    for st, path in stores(s.nest.body):
        if stage_of(st, path) == stage:
            for f in path:
                if isinstance(f, For) and f.var == var:
                    return f
    return None


def _extent(s: Schedule, stage: str, var: str) -> int:
    loop = _loop(s, stage, var)
    return 0 if loop is None else _size(loop)


def _row_axes(s: Schedule, stage: str, time: str) -> list[str]:
    """The loops of a stage inside its steps, which stand one in the other with nothing beside them."""
    top = _loop(s, stage, time)
    assert top is not None
    parts: tuple[Stmt, ...] = top.body.items if isinstance(top.body, Seq) else (top.body,)
    node = next(p for p in parts if any(stage_of(st, (top, *path)) == stage for st, path in stores(p)))
    names = []
    while isinstance(node, For):
        names.append(node.var)
        node = node.body
    if not isinstance(node, Store):
        raise ScheduleError(f"the loops of {stage} hold more than one statement")
    return names
