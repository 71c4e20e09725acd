"""Register tiles of a product of which only a triangle is needed: syrk, syr2k, the lower half of A A^T.

Blocks of columns are the outer loop, and of the tiles below each other those are skipped that lie on
the other side of the diagonal.  What the columns of a block read in strides is transposed once for
all of its tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensordsl.schedules.analysis import Tile, definition_of, depends, stride
from tensordsl.schedules.locate import fresh
from tensordsl.schedules.loopnest import buffers
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches.contraction import LEAST_CALL, TileSizes, has_loop
from tensordsl.schedules.sketches.rows import try_step

from tensordsl import conditions, expr
from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import Op
from tensordsl.program import Program
from tensordsl.sizes import at_most
from tensordsl.targets import Target

#: Terms of a sum whose panel of columns stays in the second-level cache.
MOST_TERMS = 2048


@dataclass(frozen=True, slots=True)
class Triangle:
    """Where a sum is needed: rows - columns + distance >= 0 (below), or columns - rows + distance >= 0."""

    below: bool
    distance: int


def triangle(program: Program, stage: str, tile: Tile, epilogue: str) -> Triangle | None:
    """The triangle in which the epilogue uses the sums, or None where it needs them all."""
    d, of = definition_of(program[epilogue]), definition_of(program[stage])
    if tile.row is None or len(of.axes) != 2 or len(of.reduce_axes) != 1:
        return None
    if not at_most(of.reduce_axes[0].extent, MOST_TERMS):
        return None
    rename = {a.name: Affine.of(b.name) for a, b in zip(d.axes, of.axes)}
    sites = sum(r.source.name == stage for r in d.reads)
    for e in expr.walk(d.body):
        if not isinstance(e, Op) or e.name != "select":
            continue
        inside = sum(r.source.name == stage for r in expr.reads(e.args[1]))
        known = conditions.conditions(e.args[0])
        if not inside or inside < sites or known is None or len(known) != 1:
            continue
        c = known[0].substitute(rename)
        row, column = c.coefficient(tile.row), c.coefficient(tile.vector)
        if abs(row) == 1 and column == -row and not (c - c.const).names() - {tile.row, tile.vector}:
            return Triangle(row == 1, c.const)
    return None


def apply_triangle(
    s: Schedule, stage: str, tile: Tile, sizes: TileSizes, target: Target, epilogue: str, t: Triangle
) -> Schedule:
    """The schedule with the tiles of a triangle.  Raises ScheduleError where its structure forbids it."""
    d = definition_of(s.program[stage])
    lanes = target.lanes(s.program[stage].dtype)
    width = sizes.nv * lanes
    height = max((r for r in range(1, sizes.mr + 1) if width % r == 0), default=1)
    m, n, k = tile.row, tile.vector, tile.main
    assert m is not None
    rows, columns = f"{m}.o", f"{n}.o"
    s = s.split(stage, m, height).split(stage, n, width).reorder(stage, columns, rows, k, f"{m}.i", f"{n}.i")
    streams: list[str] = []
    for r in d.reads:
        if depends(r, n):
            home = s.program.inplace.get(r.source.name, r.source.name)
            streams.append(home if stride(r, n) == 1 else fresh(f"{home}_t", buffers(s.nest)))
            if stride(r, n) != 1:
                s = s.cache_read(stage, home, columns, scope="workspace", name=streams[-1], along=f"{n}.i")
                s = s.transform_layout(streams[-1], (1, 0)).reorder(streams[-1], f"{streams[-1]}.1", f"{streams[-1]}.0")
    s = s.reverse_compute_at(epilogue, stage, rows).store_at(stage, rows).set_scope(stage, "register")
    s, needed, free = _cut(s, stage, t, rows, columns, height, width)
    for x in free:
        s = s.drop(stage, rows + x)
    for x in needed:
        for source in dict.fromkeys(streams):
            s = s.cache_read(stage, source, k + x, name=fresh(f"{source}_v", buffers(s.nest)), along=f"{n}.i{x}")
        s = s.unroll(stage, f"{m}.i{x}").vectorize(stage, f"{n}.i{x}")
    e = definition_of(s.program[epilogue])
    for x in (*needed, *free):
        s = s.unroll(epilogue, e.axes[0].name + x).vectorize(epilogue, e.axes[1].name + x)
    for x in needed:
        if height * sizes.nv * d.reduce_axes[0].extent >= LEAST_CALL:
            s = s.outline(stage, rows + x)
    for loop in (columns, *(rows + x for x in needed)):
        s = try_step(s, lambda y, loop=loop: y.peel(stage, loop, "tail")) if has_loop(s, stage, loop) else s
    return s


def _cut(
    s: Schedule, stage: str, t: Triangle, rows: str, columns: str, height: int, width: int
) -> tuple[Schedule, tuple[str, ...], tuple[str, ...]]:
    """The blocks of rows cut where the diagonal enters and leaves a block of columns.

    Returns what is added to the loops' names of the parts that are needed, and of those that are not.
    """
    if width % height:
        raise ScheduleError(f"{width} columns are no whole number of {height} rows")
    ratio = Affine.of(columns) * (width // height)
    if t.below:  # the first block with a needed element, the first with needed ones only
        first, second = -((t.distance + height - 1) // height), -((t.distance + 1 - width) // height)
    else:  # the first block with an element too many, the first with no needed one
        first, second = (t.distance + 1 - height) // height + 1, (t.distance + width - 1) // height + 1
    s = s.partition(stage, rows, str(ratio + first), suffix="d").partition(
        stage, f"{rows}.d", str(ratio + second), suffix="f"
    )
    return (s, (".d", ".d.f"), ("",)) if t.below else (s, ("", ".d"), (".d.f",))
