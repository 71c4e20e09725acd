"""The definition of a sum by destination, computed by source: each term goes where its index says."""

from __future__ import annotations

from tensordsl.schedules.analysis import definition_of, destination
from tensordsl.schedules.locate import homes
from tensordsl.schedules.loopnest import Instance, Stmt, Store, seq
from tensordsl.schedules.lower import loops
from tensordsl.schedules.primitives.definitions import require_unplaced, with_stage
from tensordsl.schedules.primitives.placement import defined
from tensordsl.schedules.rounding import keeps_rounding
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl import accesses, expr
from tensordsl.affine import Affine, interval
from tensordsl.errors import ScheduleError
from tensordsl.tensor import Definition, Tensor


@primitive
@keeps_rounding()
def scatter(s: Schedule, stage: str, axis: str) -> Schedule:
    """Compute a reduction whose terms say to which element they belong in one sweep over the terms.

    The order of the terms of an element stays the same, so results are bit-identical.

    Requires: the stage is a reduction with terms only where ``axis`` equals an index that is read from
    memory; its loops are not ordered yet.
    Rewrite: ``for i: (y[i] = 0; for k: if x[k] == i: y[i] += f(i, k))``  ->
    ``for i: y[i] = 0; for k: y[x[k]] += f(x[k], k)``
    Raises: ScheduleError where no condition says what ``axis`` equals.
    """
    t = defined(s, stage)
    require_unplaced(s, stage, t)
    found = destination(t)
    if found is None or found[0] != axis:
        raise ScheduleError(
            f'no condition of {stage} says what "{axis}" equals',
            legal=[found[0]] if found else "no axis of it",
            hint="a sum with where=index[k] == i scatters along i",
        )
    return s.with_nest(with_stage(s.nest.body, stage, scattered(t, found, s)))


def scattered(t: Tensor, found: tuple[str, Affine], s: Schedule) -> Stmt:
    """The nest of `scatter`."""
    axis, index = found
    d = definition_of(t)
    assert d.reducer is not None
    known = homes(s.nest)
    place = next(k for k, a in enumerate(d.axes) if a.name == axis)
    at = {axis: index}
    cell = tuple([at.get(a.name, Affine.of(a.name)) for a in d.axes])
    conditions, term = expr.conditional_term(d.body, d.reducer)
    where = [c.substitute(at) for c in conditions] + _inside(index, d, place)
    left = tuple(dict.fromkeys(c for c in where if c.terms))

    def link(indices: tuple[Affine, ...]) -> tuple[Affine, ...]:
        return accesses.map_index_sources(indices, lambda source: known[source.name])

    value = accesses.map_sources(expr.substitute(term, at), lambda source: known[source.name])
    points = tuple([Affine.of(a.name) for a in d.reduce_axes])
    target = known[t.name]
    update = Store(target, link(cell), value, Instance("update", t.name, link(cell), points), d.reducer.combine)
    around = (*d.axes[:place], *d.reduce_axes, *d.axes[place + 1 :])
    plain = tuple([Affine.of(a.name) for a in d.axes])
    init = Store(target, plain, d.reducer.identity(t.dtype), Instance("init", t.name, plain))
    return seq(loops(d.axes, init), loops(around, update, link(left)))


def _inside(index: Affine, d: Definition, place: int) -> list[Affine]:
    """The conditions under which the destination exists."""
    ranges = {a.name: (0, a.extent - 1) for a in (*d.axes, *d.reduce_axes)}
    low, high = interval(index, ranges)
    found = [] if low is not None and low >= 0 else [index]
    last = d.axes[place].extent - 1
    return found if high is not None and high <= last else [*found, last - index]
