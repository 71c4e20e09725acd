"""Does a nest compute its program?  Proven by value, on the very nest that is printed.

Proven for all iterations: stored values are the definitions, accesses are in bounds, each read finds
the element it needs, each reduction point is combined exactly once, outputs are complete at the end,
iterations of parallel and vector loops are independent.  Trusted: the definitions, the printer, isl.
"""

from __future__ import annotations

from tensordsl.schedules.loopnest import LoopNest
from tensordsl.schedules.polyhedral.events import Refuted, Violation, refusal
from tensordsl.schedules.polyhedral.extract import extract
from tensordsl.schedules.polyhedral.inside import check_inside
from tensordsl.schedules.polyhedral.isl_build import Undecided, operations
from tensordsl.schedules.polyhedral.races import check_races
from tensordsl.schedules.polyhedral.values import check_values, rounds

from tensordsl.sizes import assuming

#: Elementary operations of isl (about 1 us each) allowed for one nest.
LIMIT = 1_000_000


def find_violation(nest: LoopNest, *, limit: int = LIMIT, exact: bool = False) -> Violation | None:
    """Why the nest does not compute ``nest.program``, or None where it is proven to.

    exact: float sums and products must also combine their points in the written order, so that the
    result is bit-identical to that of the plain loops (so they must where the program says so).
    """
    exact = exact or nest.program.rounding != "free"
    ordered = {t.name for t in nest.program.tensors if t.definition and rounds(t.definition)} if exact else set[str]()
    try:
        with operations(limit), assuming(nest.program.relations):
            found = extract(nest)
            check_inside(found.inside, found.ranges)
            check_values(nest.program, found.events, exact)
            check_races(found.events, ordered)
    except Refuted as refuted:
        return refuted.violation
    except Undecided:
        return Violation("undecided", f"no proof of the nest within {limit} operations of isl")
    return None


def validate(nest: LoopNest, *, limit: int = LIMIT, exact: bool = False) -> None:
    """Raises ScheduleError, with a counterexample, where the nest is not proven to compute its program.

    limit, exact: see `find_violation`.
    """
    violation = find_violation(nest, limit=limit, exact=exact)
    if violation is not None:
        raise refusal(nest, violation)


def keeps(nest: LoopNest, buffer: str, *, limit: int = LIMIT) -> bool:
    """Does every read of one buffer find the element it needs?  (Part of what `find_violation` asks.)"""
    try:
        with operations(limit):
            found = extract(nest, buffer)
            check_values(nest.program, [e for e in found.events if e.place.buffer.name == buffer])
    except (Refuted, Undecided):
        return False
    return True
