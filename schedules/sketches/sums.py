"""Sums inside recurrences: terms that are neighbours in memory, or results that are, become vectors.

A dot product runs through several independent accumulators.  A column-wise one is computed for many
columns at a time, which are held in registers over all terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tensordsl.schedules.locate import Path, find_loops, fresh, stage_loops, stage_of
from tensordsl.schedules.loopnest import Buffer, For, LoopNest, Store, buffers, stores, walk
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.simplify import Context, context

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.targets import Target

#: Vectors whose additions need not wait for each other.
ACCUMULATORS = 4
#: Vectors of neighbouring results.
COLUMNS = 4
#: Loops that never have so many vectors are not worth more than one accumulator.
FEW = 4


@dataclass(frozen=True, slots=True)
class Sum:
    """An innermost loop that adds terms into one cell; most: iterations (None: not known)."""

    stage: str
    loop: For
    update: Store
    path: Path
    most: int | None


def apply_sums(s: Schedule, stages: set[str], target: Target) -> Schedule:
    """The schedule with the sums of a recurrence in vectors."""
    done: set[tuple[str, str]] = set()
    while (found := next((x for x in _sums(s.nest, stages) if (x.stage, x.loop.var) not in done), None)) is not None:
        done.add((found.stage, found.loop.var))
        lanes = target.lanes(found.update.buffer.dtype)
        if found.most is not None and found.most < lanes:
            continue
        steps = reads_along(found.update, found.loop.var)
        try:
            if all(x in (0, 1, -1) for x in steps) and any(steps):
                s = _dot(s, found, lanes)
            else:
                s = _columns(s, found, lanes)
        except ScheduleError:  # something else happens between the loops
            continue
    return s


def _sums(nest: LoopNest, stages: set[str]) -> Iterator[Sum]:
    for x, path in walk(nest.body):
        if not isinstance(x, For) or x.kind != "serial" or x.step != 1 or not isinstance(x.body, Store):
            continue
        update = x.body
        stage = stage_of(update, (*path, x))
        if update.instance.kind != "update" or stage not in stages or any(x.var in i.names() for i in update.index):
            continue
        yield Sum(stage, x, update, path, most_iterations(x, context(path)))


def most_iterations(f: For, c: Context) -> int | None:
    """A constant that bounds the iterations of a loop."""
    sizes = [c.maximum(h - lo) for h in f.hi for lo in f.lo]
    return min((x for x in sizes if x is not None), default=None)


def step_along(buffer: Buffer, index: tuple[Affine, ...], var: str) -> int | None:
    """Elements between the accesses of neighbouring iterations; None: not constant."""
    total = 0
    for i, width in zip(index, buffer.strides()):
        if any(var in atom.names() for atom, _ in i.terms if not isinstance(atom, str)):
            return None
        total += i.coefficient(var) * width
    return total


def reads_along(st: Store, var: str) -> list[int | None]:
    return [step_along(r.source, r.index, var) for r in expr.reads(st.value) if isinstance(r.source, Buffer)]


def _dot(s: Schedule, x: Sum, lanes: int) -> Schedule:
    accumulators = ACCUMULATORS if x.most is None or x.most >= FEW * ACCUMULATORS * lanes else 1
    k = x.loop.var
    s = s.accumulate(x.stage, k, lanes, accumulators)
    rest = f"{k}.r"
    if accumulators > 1 and _has(s.nest, x.stage, rest):
        s = s.accumulate(x.stage, rest, lanes)
        rest = f"{rest}.r"
    return s.vectorize(x.stage, rest) if _has(s.nest, x.stage, rest) else s


def _columns(s: Schedule, x: Sum, lanes: int) -> Schedule:
    """Neighbouring results at once: the loop directly around holds nothing but this sum."""
    outer = next((f for f in reversed(x.path) if isinstance(f, For)), None)
    if outer is None or outer.kind != "serial" or outer.step != 1 or len(outer.lo) != 1:
        raise ScheduleError("the sum stands in no loop of its own")
    if any(stage_of(st, (*x.path, outer, *p)) != x.stage for st, p in stores(outer)):
        raise ScheduleError("other stages stand in the loop")
    steps = reads_along(x.update, outer.var)
    if any(k not in (0, 1) for k in steps) or step_along(x.update.buffer, x.update.index, outer.var) != 1:
        raise ScheduleError("results are no neighbours")
    most = most_iterations(outer, context(x.path[: x.path.index(outer)]))
    vectors = COLUMNS if most is None or most >= COLUMNS * lanes else 1
    j, k, width = outer.var, x.loop.var, vectors * lanes
    names = (f"{j}.v", f"{j}.m", f"{j}.l")
    s = s.split(x.stage, j, factors=(None, 1, width), names=names)
    s = s.reorder(x.stage, *names[:2], k, names[2])
    return whole_in_registers(s, x.stage, names[1], names[2], outer.hi[0] - outer.lo[0] - Affine.of(names[0]) * width)


def whole_in_registers(s: Schedule, stage: str, tile: str, lanes: str, left: Affine) -> Schedule:
    """A loop of one iteration, the tile, whose sums are held in registers where it is whole.

    lanes: its innermost loop.  left: how many elements there are from the tile's first one on.
    """
    loop = next(iter(find_loops(s.nest, stage, lanes).values()))[0]
    width = min(h.const for h in loop.hi if not h.terms)
    whole = ""
    if left.terms or left.const % width:
        whole = ".w"
        s = s.specialize(stage, tile, f"{left} >= {width}", suffix="w").vectorize(stage, lanes)
    s = s.cache_write(stage, f"{tile}{whole}", name=fresh(f"{stage}_acc", buffers(s.nest)))
    return s.vectorize(stage, f"{lanes}{whole}")


def _has(nest: LoopNest, stage: str, loop: str) -> bool:
    return loop in stage_loops(nest, stage)
