"""An order primitive on reductions: independent accumulators for the lanes of vectors."""

from __future__ import annotations

from dataclasses import replace

from tensordsl.schedules.locate import edit, find_loops, fresh
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    Instance,
    Stmt,
    Store,
    buffers,
    loop,
    seq,
    stores,
    substitute,
)  # fmt: skip
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import Read


@primitive
def accumulate(
    s: Schedule, stage: str, loop: str, lanes: int, accumulators: int = 1, name: str | None = None
) -> Schedule:
    """Run the terms of a sum through independent accumulators, and add those up afterwards.

    lanes: terms of one vector.  accumulators: vectors whose additions need not wait for each other.
    The terms that fill no whole step follow in a loop ``loop.r``.

    Requires: the loop holds nothing but one reduction into one cell; it counts by ones.
    Rewrite: ``for k: S += f(k)``  ->  ``c[..] = 0; for k.v: vector k.l: c[k.l] += f(..); S += c; for k.r: S += f(k.r)``
    Raises: ScheduleError for another body, several bounds, or lanes that are no positive integers.
    """
    for label, value in (("lanes", lanes), ("accumulators", accumulators)):
        if value < 1:
            raise ScheduleError(f"{label}={value} is not a positive integer")
    s = s.with_nest(s.nest.body)  # bounds that always hold are dropped
    targets = find_loops(s.nest, stage, loop)
    var = next(iter(targets.values()))[0].var
    known = buffers(s.nest)
    if name is not None and name in known:
        raise ScheduleError(f"the name {name!r} is taken")
    buffer = name or fresh(f"{stage}_c", known)
    around = {f.var for _, path in targets.values() for f in path if isinstance(f, For)}
    clash = next((v for v in (f"{var}.v", f"{var}.l", f"{var}.m", f"{var}.r") if v in around), None)
    if clash is not None:
        raise ScheduleError(f'a loop "{clash}" stands around "{loop}" already')

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        if all(st.instance.kind == "init" for st, _ in stores(x)):  # the start of the reduction in a loop of its own
            return x
        return _accumulated(s, x, lanes, accumulators, buffer)

    return s.with_nest(edit(s.nest.body, targets, go))


def _accumulated(s: Schedule, x: For, lanes: int, accumulators: int, name: str) -> Stmt:
    update = x.body
    if not isinstance(update, Store) or update.instance.kind != "update":
        raise ScheduleError(
            f'the body of "{x.var}" is not one update of a reduction', hint="distribute or reorder the loop first"
        )
    if not isinstance(update.op, str):
        raise ScheduleError(f"{update.instance.tensor} has a reducer of its own", hint="rfactor it instead")
    if any(x.var in i.names() for i in update.index):
        raise ScheduleError(f'every iteration of "{x.var}" updates another cell', hint="vectorize the loop")
    if len(x.lo) != 1 or len(x.hi) != 1 or x.step != 1 or x.kind != "serial":
        raise ScheduleError(f'loop "{x.var}" has several bounds, or is not serial and by ones')
    if any(True for b in x.lo + x.hi for _ in b.data()):
        raise ScheduleError(f'the bounds of "{x.var}" are read from memory: which terms a lane has is not known')
    definition = s.program[update.instance.tensor].definition
    assert definition is not None and definition.reducer is not None
    width = lanes * accumulators
    start, count = x.lo[0], x.hi[0] - x.lo[0]
    steps = count // width
    step, lane, moved, rest = f"{x.var}.v", f"{x.var}.l", f"{x.var}.m", f"{x.var}.r"
    new = Buffer(name, (width,), update.buffer.dtype, "register")
    tensor, index = update.instance.tensor, update.instance.index
    zero = Store(new, (Affine.of(lane),), definition.reducer.identity(new.dtype), Instance("init", tensor, index))

    def at(k: Affine) -> Store:
        found = substitute(update, {x.var: k})
        assert isinstance(found, Store)
        return found

    def held(first: Affine, of: str, over: tuple[tuple[str, Affine, Affine], ...]) -> Instance:
        """The accumulator at ``first`` holds a point of each step."""
        points = at(start + Affine.of(of) * width + first).instance.points
        return Instance("merge", tensor, index, points, over)

    terms = at(start + Affine.of(step) * width + Affine.of(lane))
    main = loop(
        step, 0, steps,
        loop(lane, 0, width, replace(terms, buffer=new, index=(Affine.of(lane),)), kind="vector"),
    )  # fmt: skip
    times, which = f"{x.var}'", f"{x.var}''"
    every = ((times, Affine(), steps),)
    pairwise: list[Stmt] = []
    parts = accumulators
    while parts > 1 and parts % 2 == 0:  # halve them: the lower half of the vectors takes in the upper one
        parts //= 2
        half = parts * lanes
        places = Affine.of(lane) + half + Affine.of(which) * half * 2
        over = (*every, (which, Affine(), Affine((), width // (2 * half))))
        merge = Store(new, (Affine.of(lane),), new.at(Affine.of(lane) + half), held(places, times, over), update.op)
        pairwise.append(loop(lane, 0, half, merge, kind="vector"))
    left = parts * lanes
    over = (*every, (which, Affine(), Affine((), width // left)))
    places = Affine.of(moved) + Affine.of(which) * left
    total = Store(update.buffer, update.index, Read(new, (Affine.of(moved),)), held(places, times, over), update.op)
    last = For(rest, (start + steps * width,), x.hi, at(Affine.of(rest)), x.kind, 1, x.notes)
    body = seq(loop(lane, 0, width, zero, kind="vector"), main, *pairwise, loop(moved, 0, left, total, kind="vector"))
    return seq(Alloc(new, body, tensor, index), last)
