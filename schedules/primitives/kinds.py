"""Order primitives that say how a printer expands a loop."""

from __future__ import annotations

from dataclasses import replace

from tensordsl.schedules.locate import edit, find_loops
from tensordsl.schedules.loopnest import For, Kind, Stmt
from tensordsl.schedules.primitives.loops import constant_extent
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.errors import ScheduleError

HARDWARE: dict[str, Kind] = {"block": "block", "thread": "thread"}


def set_kind(s: Schedule, stage: str, loop: str, kind: Kind, note: str = "") -> Schedule:
    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        return replace(x, kind=kind, notes=(*x.notes, note) if note else x.notes)

    return s.with_nest(edit(s.nest.body, find_loops(s.nest, stage, loop), go))


@primitive
def unroll(s: Schedule, stage: str, loop: str) -> Schedule:
    """Print every iteration of a loop.

    Requires: a constant number of iterations in the printed nest.
    Rewrite: ``for v``  ->  ``unroll v``
    Raises: ScheduleError for an unknown loop.
    """
    return set_kind(s, stage, loop, "unroll")


@primitive
def vectorize(s: Schedule, stage: str, loop: str, lanes: int | None = None) -> Schedule:
    """Run the iterations of a loop as lanes of vectors.

    lanes: split first and vectorise the inner loop, named ``loop.l`` (the outer is ``loop.v``).

    Requires: iterations do not depend on each other (a reduction into one cell may).
    Rewrite: ``for v``  ->  ``vector v``
    Raises: ScheduleError with the two iterations that share a cell.
    """
    if lanes is None:
        return set_kind(s, stage, loop, "vector")
    if lanes < 1:
        raise ScheduleError(f"lanes={lanes} is not a positive integer")
    targets = find_loops(s.nest, stage, loop)
    var = next(iter(targets.values()))[0].var
    if all(_extent(f) == lanes for f, _ in targets.values()):
        return set_kind(s, stage, loop, "vector")
    return set_kind(
        s.unchecked().split(stage, loop, lanes, names=(f"{var}.v", f"{var}.l")), stage, f"{var}.l", "vector"
    )


def _extent(f: For) -> int | None:
    try:
        return constant_extent(f)
    except ScheduleError:
        return None


@primitive
def parallel(s: Schedule, stage: str, loop: str) -> Schedule:
    """Allow the iterations of a loop to run on several threads.

    Requires: iterations share no cell that one of them writes.
    Rewrite: ``for v``  ->  ``parallel v``
    Raises: ScheduleError with the two iterations that share a cell.
    """
    return set_kind(s, stage, loop, "parallel")


@primitive
def bind(s: Schedule, stage: str, loop: str, to: str) -> Schedule:
    """Map a loop to blocks or threads of a GPU.

    to: "block" or "thread", with an axis where several are bound: "block.y", "thread.x".

    Requires: as `parallel`.
    Rewrite: ``for v``  ->  ``block v`` or ``thread v``
    Raises: ScheduleError for another ``to``, or with the two iterations that share a cell.
    """
    kind = HARDWARE.get(to.split(".")[0])
    if kind is None:
        raise ScheduleError(
            f"to={to!r}", legal=("block", "block.x", "block.y", "block.z", "thread", "thread.x", "thread.y", "thread.z")
        )
    return set_kind(s, stage, loop, kind, to)
