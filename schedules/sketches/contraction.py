"""The register-tile sketch: reductions whose last axis fills vectors (GEMM, convolution, pooling).

A tile of ``mr`` rows by ``nv`` vectors is held in registers over the whole innermost reduction;
the vectors of the streamed operand are loaded once per step, the other operand is broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tensordsl.schedules.analysis import Tile, decided_by_data, definition_of, depends, leading, stride
from tensordsl.schedules.locate import fresh, stage_loops, stage_stores
from tensordsl.schedules.loopnest import For, buffers
from tensordsl.schedules.schedule import Schedule

from tensordsl.affine import Affine
from tensordsl.dtypes import TupleType
from tensordsl.errors import ScheduleError
from tensordsl.sizes import likely
from tensordsl.targets import Target
from tensordsl.tensor import Definition, Tensor

#: A reduction of so many terms at most is written out, in so many statements at most.
MOST_TERMS = 16
MOST_STATEMENTS = 128
#: A tile of fewer vector operations is printed in place: a call would cost more than it saves text.
LEAST_CALL = 128


@dataclass(frozen=True, slots=True)
class TileSizes:
    """mr: rows of the tile.  nv: vectors of the tile.  kc: steps of the main reduction axis held in
    registers at a time.  mc: rows between two passes over the streamed operand.  packed: whether
    the streamed operand is copied in the order of its use.  ahead: whether the rows of the next
    panel are prefetched while the first row blocks of this one are computed.  near: steps ahead
    for which the lines of the packed panel are asked for (0: left to the hardware).
    """

    mr: int
    nv: int
    kc: int
    mc: int
    packed: bool
    ahead: bool = False
    near: int = 0


def row_extent(t: Tensor, tile: Tile) -> int:
    return next((likely(a.extent) for a in definition_of(t).axes if a.name == tile.row), 1)


def registers_needed(t: Tensor, tile: Tile, mr: int, nv: int) -> int:
    """Vector registers: accumulators, one set of streamed vectors, a broadcast operand."""
    parts = len(t.dtype.parts) if isinstance(t.dtype, TupleType) else 1
    return mr * nv * parts + nv * max(1, len(tile.streams)) + (1 if tile.broadcasts else 0)


def share(extent: int, tile: int) -> float:
    """The fraction of whole tiles that is work: 1 where the tile divides the extent."""
    return extent / (-(-extent // tile) * tile) if extent else 1.0


def tile_score(t: Tensor, tile: Tile, target: Target, mr: int, nv: int) -> float:
    """An estimate of the share of the machine's peak: latency, loads, cache traffic and ragged edges."""
    lanes = target.lanes(t.dtype)
    rows, columns = row_extent(t, tile), t.shape[-1]
    accumulators = mr * nv
    latency = min(1.0, accumulators / (4.0 * target.fma_per_cycle))
    # one vector load or two broadcasts a cycle beside the multiply-adds
    loads = nv * len(tile.streams) + (mr / 2 if tile.broadcasts else 0)
    balance = min(1.0, accumulators / target.fma_per_cycle / max(loads, 1e-9))
    # bytes per multiply-add: streamed vectors are used mr times, broadcast lines nv times
    traffic = target.vector_bytes / mr + (16.0 / nv if tile.broadcasts else 0.0)
    # a tile cut at the edge does less work in less time; a cut vector takes the time of a whole one
    edges = share(columns, lanes) * (0.7 + 0.3 * share(rows, mr)) * (0.7 + 0.3 * share(-(-columns // lanes), nv))
    return latency * min(1.0, 0.55 + 0.45 * balance) / (1.0 + 0.01 * traffic) * edges


def default_sizes(t: Tensor, tile: Tile, target: Target) -> TileSizes:
    """The sizes chosen without measuring."""
    d = definition_of(t)
    lanes = target.lanes(t.dtype)
    rows = row_extent(t, tile)
    best, choice = -1.0, (1, 1)
    for nv in range(1, 9):
        if nv > 1 and (nv - 1) * lanes >= t.shape[-1]:
            break
        for mr in range(1, 33):
            if mr > rows or registers_needed(t, tile, mr, nv) > target.registers:
                break
            score = tile_score(t, tile, target, mr, nv)
            if score > best:
                best, choice = score, (mr, nv)
    mr, nv = choice
    main = next(a.extent for a in d.reduce_axes if a.name == tile.main)
    chunks = 1 if tile.main in decided_by_data(d) else -(-main // 1024)
    kc = -(-main // chunks)
    # a block of the broadcast operand takes a quarter of the second-level cache
    fitting = max(mr, (target.caches[1] if len(target.caches) > 1 else 1 << 20) // 4 // max(1, kc * t.dtype.bytes))
    blocks = -(-rows // fitting)
    mc = -(-rows // blocks // mr) * mr if blocks > 1 else rows
    packed = _worth_packing(t, tile, target, mr)
    return TileSizes(mr, nv, kc, mc, packed, ahead=packed)


def _worth_packing(t: Tensor, tile: Tile, target: Target, mr: int) -> bool:
    """Does the streamed operand miss the caches or need gathering, and is it read often enough?"""
    if not packable(t, tile) or row_extent(t, tile) < 2 * mr:
        return False
    streams = [r for r in definition_of(t).reads if depends(r, tile.vector)]
    if any(stride(r, tile.vector) != 1 for r in streams):
        return True
    size = max(elements_of(r.source.shape) * r.source.dtype.bytes for r in streams)
    return size > target.caches[1] * 2 if len(target.caches) > 1 else False


def elements_of(shape: tuple[int, ...]) -> int:
    n = 1
    for e in shape:
        n *= likely(e)
    return n


def packable(t: Tensor, tile: Tile) -> bool:
    """Are the streamed operands read again for other rows, each by one read?"""
    if tile.row is None:
        return False
    streams = [r for r in definition_of(t).reads if depends(r, tile.vector)]
    return len(streams) == len(tile.streams) and not any(depends(r, tile.row) for r in streams)


def has_loop(s: Schedule, stage: str, name: str) -> bool:
    try:
        known = stage_loops(s.nest, stage)
    except ScheduleError:
        return False
    return name in known or f"{stage}.{name}" in known


def apply_tile(s: Schedule, stage: str, tile: Tile, sizes: TileSizes, target: Target, epilogue: str | None) -> Schedule:
    """The schedule with one reduction tiled.  Raises ScheduleError where its structure forbids it."""
    t = s.program[stage]
    d = definition_of(t)
    lanes = target.lanes(t.dtype)
    m, n, k = tile.row, tile.vector, tile.main
    main = next(likely(a.extent) for a in d.reduce_axes if a.name == k)
    split_k = sizes.kc < main
    block_m = m is not None and sizes.mr <= sizes.mc < row_extent(t, tile)
    if split_k:
        s = s.split(stage, k, sizes.kc)
    if m is not None and block_m:
        s = s.split(stage, m, factors=(None, sizes.mc // sizes.mr, sizes.mr))
    elif m is not None:
        s = s.split(stage, m, sizes.mr)
    s = s.split(stage, n, sizes.nv * lanes)
    others = [a.name for a in d.axes if a.name not in (m, n)]
    inner_k = [f"{k}.i" if split_k else k] + [a.name for a in d.reduce_axes if a.name != k]
    outer = [*others, *([f"{k}.o"] if split_k else [])]
    middle = [f"{n}.o", f"{m}.o"] if m is not None else [f"{n}.o"]
    if block_m:
        middle = [f"{m}.o", f"{n}.o", f"{m}.m"]
    elif m is not None and _results_dominate(t, tile, target):
        middle.reverse()
    lanes_and_rows = [*([f"{m}.i"] if m is not None else []), f"{n}.i"]
    kept = leading(tile, [a.name for a in d.axes])  # other stages may stand inside these loops
    s = s.reorder(stage, *outer[kept:], *middle, *inner_k, *lanes_and_rows)
    at = middle[-1]
    if epilogue is not None:
        s = s.reverse_compute_at(epilogue, stage, at)
    s = s.cache_write(stage, at, name=fresh(f"{stage}_acc", buffers(s.nest)))
    s, whole, ragged = _straightened(s, stage, inner_k, lanes_and_rows)
    step = inner_k[-1] + whole
    loaded = []
    for source in _reused(d, tile):
        name = f"{source}_v"
        try:
            name = fresh(name, buffers(s.nest))
            s = s.cache_read(stage, source, step, name=name, along=_only_vectors(d, tile, source, whole))
            loaded.append((name, source))
        except ScheduleError:  # reads that form no box stay where they are
            continue
    for name, source in loaded if packable(t, tile) else ():
        if sizes.ahead:
            s = s.prefetch(name, source, step, along=f"{n}.o", spread=at, width=64 // t.dtype.bytes)
        if sizes.packed:
            around = f"{k}.o" if split_k else others[-1] if others else None
            panel = fresh(f"{source}_panel", buffers(s.nest))
            s = s.pack(name, source, around, name=panel)
            if sizes.near:
                s = s.prefetch(name, panel, step, ahead=sizes.near, width=lanes, lines=sizes.nv)
    for part in (whole, *ragged):
        s = s if m is None else s.unroll(stage, f"{m}.i{part}")
        s = s.vectorize(stage, f"{n}.i{part}") if part != whole else s
        s = s.unroll(stage, inner_k[-1] + part) if part != whole else s
    extents = {a.name: likely(a.extent) for a in d.reduce_axes if a.name != k}
    extents[inner_k[0]] = sizes.kc if split_k else main
    for loop in _short(extents, inner_k, sizes):
        s = s.unroll(stage, loop + whole)
    s = s.vectorize(stage, f"{n}.i{whole}")
    if epilogue is not None:
        e = definition_of(s.program[epilogue])
        for a in e.axes[:-1]:
            if has_loop(s, epilogue, a.name) and a.name not in _shared_loops(s, epilogue, stage):
                s = s.unroll(epilogue, a.name)
        if has_loop(s, epilogue, e.axes[-1].name):
            s = s.vectorize(epilogue, e.axes[-1].name)
    if prod(extents.values()) * sizes.mr * sizes.nv >= LEAST_CALL:
        s = s.outline(stage, at)
    for loop in [f"{n}.o", *([f"{m}.o"] if m is not None else []), *([f"{m}.m"] if block_m else [])]:
        if has_loop(s, stage, loop):
            s = s.peel(stage, loop, "tail")
    return s


def _straightened(
    s: Schedule, stage: str, reductions: list[str], tile: list[str]
) -> tuple[Schedule, str, tuple[str, ...]]:
    """Terms that not all rows of a tile have, as along a diagonal, get a loop beside that of the others.

    Returns what is added to the names of the loops where all rows have all terms, and of the other ones.
    """
    for st, path in stage_stores(s.nest, stage):
        loops = [f for f in path if isinstance(f, For)]
        for f in loops if st.instance.kind == "update" else ():
            k = next((g.var for g in loops if g.var in reductions[-1:] and _bounded_by(f, g.var)), None)
            points = _whole_from(f, k) if f.var in tile and k is not None else []
            if k is not None and len(points) == 1:
                point, first = points[0]
                s = s.partition(stage, k, str(point), suffix="t")
                return s, *(("", (".t",)) if first else (".t", ("",)))
    return s, "", ()


def _bounded_by(f: For, k: str) -> bool:
    return any(k in b.names() for b in f.lo + f.hi)


def _whole_from(f: For, k: str) -> list[tuple[Affine, bool]]:
    """The values of k at which a bound begins, or ceases, to cut the constant range of a loop; is the
    range whole before it?"""
    lows, highs = [b.const for b in f.lo if not b.terms], [b.const for b in f.hi if not b.terms]
    found = []
    for bounds, limits, sign in ((f.lo, lows, 1), (f.hi, highs, -1)):
        for b in bounds:
            c, rest = b.coefficient(k), b - Affine.of(k) * b.coefficient(k)
            if not limits or abs(c) != 1 or k in rest.names():
                continue
            distance = rest - limits[0]  # whole where sign * (c * k + distance) <= 0
            before = sign * c == 1
            found.append((-distance * c + (1 if before else 0), before))
    return found


def _only_vectors(d: Definition, tile: Tile, source: str, part: str) -> str | None:
    """Where a tensor is also the broadcast operand (A times its transpose), the copy is of its vectors only."""
    both = any(r.source.name == source and not depends(r, tile.vector) for r in d.reads)
    return f"{tile.vector}.i{part}" if both else None


def _results_dominate(t: Tensor, tile: Tile, target: Target) -> bool:
    """Are the results most of the traffic?  Then they are written in the order of memory."""
    sources = {r.source.name: r.source for r in definition_of(t).reads if depends(r, tile.vector)}
    streamed = sum(elements_of(x.shape) * x.dtype.bytes for x in sources.values())
    return 2 * streamed <= target.caches[0] < elements_of(t.shape) * t.dtype.bytes


def _reused(d: Definition, tile: Tile) -> tuple[str, ...]:
    """The streams whose vectors serve several rows: the others are operands of one instruction each."""
    row = tile.row
    if row is None:
        return ()
    fixed = {r.source.name for r in d.reads if depends(r, tile.vector) and not depends(r, row)}
    return tuple(name for name in tile.streams if name in fixed)


def _short(extents: dict[str, int], inner: list[str], sizes: TileSizes) -> list[str]:
    """The innermost reduction loops that are written out: a window's taps, a handful of terms."""
    if prod(extents.values()) > MOST_TERMS:
        return []
    found, count = [], sizes.mr * sizes.nv
    for loop in reversed(inner):
        count *= extents[loop]
        if count > MOST_STATEMENTS:
            break
        found.append(loop)
    return found


def _shared_loops(s: Schedule, a: str, b: str) -> set[str]:
    return set(stage_loops(s.nest, a)) & set(stage_loops(s.nest, b))


def flops(t: Tensor) -> int:
    d = definition_of(t)
    n = 2
    for a in d.axes + d.reduce_axes:
        n *= a.extent
    return n
