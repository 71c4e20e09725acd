"""Values: every read finds the element it needs, every reduction point is combined exactly once.

A cell is (values of the loops around its buffer's scope, indices).  Each buffer is analysed as if
allocated in the innermost loop common to its accesses, then one loop further out at a time up to its
declared scope, until the proof succeeds: a narrower scope forgets writers, so it only refuses more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import islpy as isl
from tensordsl.schedules.loopnest import Stmt
from tensordsl.schedules.polyhedral.events import (
    Event,
    Place,
    Refuted,
    Role,
    Violation,
    at,
    shared,
    shown,
    tuple_text,
)  # fmt: skip
from tensordsl.schedules.polyhedral.isl_build import (
    IN,
    OUT,
    box,
    coordinates,
    data_of,
    fixed,
    multi,
    named,
    ordered,
    point,
    space,
    where,
    zero,
)  # fmt: skip

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.combination import Monoid
from tensordsl.program import Program
from tensordsl.tensor import Definition

Exprs = tuple[Affine, ...]


class _Fails(Exception):
    """A check failed in the scope looked at; the text is made only if the scope is the declared one."""

    def __init__(self, explain: Callable[[], Violation]) -> None:
        super().__init__()
        self.explain = explain


def check_values(program: Program, events: Iterable[Event], exact: bool = False) -> None:
    """Every buffer in turn.  exact: reductions that rounding makes depend on the order of their points
    combine them in the written order.  Raises Refuted."""
    by: dict[Place, list[Event]] = {}
    for e in events:
        by.setdefault(e.place, []).append(e)
    for place, group in by.items():
        if place.holds is not None and place.expected is None:
            _input(place, group)
        else:
            _narrowing(program, place, group, exact)


def _input(place: Place, events: list[Event]) -> None:
    """A caller's input that is not written: each read takes the cell of its element."""
    for e in events:
        if e.step.store is None:
            continue
        if e.role.writes:
            message = f"{e.step.label} writes {place.buffer.name}, an input"
            raise Refuted(Violation("value", message, None, _stores(e)))
        bad = e.domain
        if e.role is Role.NEEDS_COMPLETE and e.tensor == place.holds:
            if e.cell == e.index:
                continue
            same = isl.Set.universe(space(len(e.dims)))
            for a, b in zip(e.cell, e.index):
                same = same.intersect(zero(a - b, e.dims))
            bad = bad.subtract(same)
        if not bad.is_empty():
            env = point(bad, e.dims)
            cell = shown(place.buffer.name, e.cell, env)
            raise Refuted(_wrong_value(e, env, f"finds {cell}"))


def _narrowing(program: Program, place: Place, events: list[Event], exact: bool) -> None:
    declared = len(place.scope)
    common = min(shared(e.step, events[0].step) for e in events)
    for level in range(common, declared - 1, -1):
        try:
            return _Scope(program, place, events, level).check(exact)
        except _Fails as failure:
            if level == declared:
                raise Refuted(failure.explain()) from None


class _Scope:
    """The checks of one buffer whose contents last for one iteration of the first ``level`` loops."""

    def __init__(self, program: Program, place: Place, events: list[Event], level: int) -> None:
        self.program, self.place, self.level = program, place, level
        self.events = events
        self.definitions = [e for e in events if e.role.defines]
        self.combines = [e for e in events if e.role in (Role.COMBINE, Role.JOIN)]
        self.maps: dict[tuple[Event, str], isl.Map] = {}

    def check(self, exact: bool) -> None:
        again = bool(self.combines) and self.initialised_twice()
        inits = [w for w in self.definitions if w.role is Role.INIT] if again else []
        for e in self.events:
            if e.role is Role.NEEDS_COMPLETE:
                right = [w for w in self.definitions if w.tensor == e.tensor]
                self.complete(e, self.last(e, self.definitions, right, "element", _needs), inits)
            elif e.role is Role.NEEDS_STATE or (e.role is Role.COMBINE and not e.moves):
                right = [w for w in self.definitions if w.tensor == e.tensor and w.role is Role.INIT]
                self.last(e, self.definitions, right, "element", _needs)
                if e.role is Role.NEEDS_STATE:
                    self.no_more(e, inits)
            elif e.role is Role.NEEDS_POINTS:
                self.last(e, inits, self.mine(e), "point", _incomplete)
        for i, u in enumerate(self.combines):
            for v in self.combines[i:]:
                self.once(u, v, self.definitions if again else [])
        for u in self.combines:
            if not ordered_points(self.program_definition(u.tensor), exact):
                continue
            for v in self.combines:
                self.in_order(u, v, self.definitions if again else [])

    # -- relations between events

    def exprs(self, e: Event, what: str) -> Exprs:
        cell = (*named(e.step.dims[: self.level]), *e.cell)
        if what == "cell":
            return cell
        return (*cell, *e.index) if what == "element" else (*cell, *e.index, *e.points)

    def image(self, e: Event, what: str) -> isl.Map:
        """Instance -> its cell, cell and element, or cell, element and points."""
        if (e, what) not in self.maps:
            found = isl.Map.from_multi_aff(multi(self.exprs(e, what), e.dims))
            self.maps[e, what] = found.intersect_domain(e.domain)
        return self.maps[e, what]

    def same(self, a: Event, b: Event, what: str) -> isl.Map:
        return self.image(a, what).apply_range(self.image(b, what).reverse())

    def before(self, a: Event, b: Event) -> isl.Map:
        """Pairs (a, b) with b before a; the loops of the scope are known to be equal."""
        return self.order(a, b, b.step.order < a.step.order, True)

    def after(self, a: Event, b: Event) -> isl.Map:
        return self.order(a, b, a.step.order < b.step.order, False)

    def order(self, a: Event, b: Event, weak: bool, backwards: bool) -> isl.Map:
        common = a.step.dims[self.level : shared(a.step, b.step)]
        return ordered(a.dims, b.dims, common, not weak, backwards)

    def mine(self, e: Event) -> list[Event]:
        return [u for u in self.combines if u.tensor == e.tensor]

    # -- the checks

    def last(
        self, a: Event, writers: list[Event], right: list[Event], what: str,
        explain: Callable[[_Scope, Event, isl.Set], Violation],
    ) -> list[tuple[Event, isl.Map]]:  # fmt: skip
        """Every instance of ``a`` comes after a right event on the same ``what``, with no wrong writer of
        its cell in between.  Returns the right events with their pairs."""
        left, found = a.domain, list[tuple[Event, isl.Map]]()
        for w in right:
            if found and not writers and left.is_empty():
                break
            m = self.same(a, w, what).intersect(self.before(a, w))
            if m.is_empty():
                continue
            found.append((w, m))
            left = left.subtract(m.domain())
        if not left.is_empty():
            raise _Fails(partial(explain, self, a, left))
        for x in writers:
            wrong = self.same(a, x, "cell").intersect(self.before(a, x))
            if wrong.is_empty():
                continue
            if x in right:
                wrong = wrong.subtract(self.same(a, x, what))
                if wrong.is_empty():
                    continue
            if all(m.apply_range(self.after(w, x)).intersect(wrong).is_empty() for w, m in found):
                continue
            bad = wrong  # several right writers: the last one counts
            for w, m in found:
                if bad.is_empty():
                    break
                later = self.before(w, x)
                if what == "point" and w.step is x.step:  # a step's own init comes before its points
                    later = later.union(_same_instance(w, x))
                bad = bad.subtract(m.apply_range(later))
            if not bad.is_empty():
                raise _Fails(partial(explain, self, a, bad.domain()))
        return found

    def complete(self, a: Event, found: list[tuple[Event, isl.Map]], inits: list[Event]) -> None:
        """Where the last writer is an accumulator, all its points are in it."""
        definition = self.program_definition(a.tensor)
        if definition is None or definition.reducer is None:
            return
        todo = isl.Set.empty(space(len(a.dims)))
        for w, m in found:
            if w.role is not Role.INIT:
                continue
            for f, other in found:
                if f.role is Role.COMPLETE:
                    m = m.subtract(other.apply_range(self.before(f, w)))
            todo = todo.union(m.domain())
        if todo.is_empty():
            return
        names = tuple([f"{x.name}'" for x in definition.reduce_axes])
        env = dict(zip([x.name for x in (*definition.axes, *definition.reduce_axes)], (*a.index, *named(names))))
        counted = expr.terms_where(definition.body, definition.reducer)
        read = {str(d): f"{d}'" for d in data_of(counted)}  # some numbers or other, whatever the nest reads
        ranges = [
            b for d in data_of(counted) for b in (Affine.of(read[str(d)]) - d.low, d.high - Affine.of(read[str(d)]))
        ]
        counted = tuple([c.map_data(lambda d: Affine.of(read[str(d)]), outer=True).substitute(env) for c in counted])
        names = (*names, *read.values())
        dims = (*a.dims, *names)
        points = where((*box(names, [x.extent for x in definition.reduce_axes]), *ranges, *counted), dims)
        domain = todo.add_dims(isl.dim_type.set, len(names)).intersect(points)
        wanted = named(names)
        self.last(replace(a, dims=dims, domain=domain, points=wanted), inits, self.mine(a), "point", _incomplete)

    def program_definition(self, name: str) -> Definition | None:
        return next((t.definition for t in self.program.tensors if t.name == name), None)

    def initialised_twice(self) -> bool:
        """Can a cell be given a new meaning more than once in the scope?"""
        d = self.definitions
        return any(not _distinct(self.same(w, x, "cell"), w, x).is_empty() for i, w in enumerate(d) for x in d[i:])

    def once(self, u: Event, v: Event, definitions: list[Event]) -> None:
        """No point is combined twice into an element in a cell, unless a new start lies between."""
        if u.tensor != v.tensor:
            return
        twice = _distinct(self.same(u, v, "point"), u, v)
        if twice.is_empty():
            return
        twice = self.of_one_start(twice, u, v, definitions)
        if not twice.is_empty():
            raise _Fails(partial(_combined_twice, u, v, twice))

    def in_order(self, u: Event, v: Event, definitions: list[Event]) -> None:
        """No later combination has an earlier point, and no partial result is combined as a whole."""
        if u.tensor != v.tensor:
            return
        if u.role is Role.COMBINE and u.moves:
            raise _Fails(partial(_merged, u))
        definition = self.program_definition(u.tensor)
        assert definition is not None
        count = len(definition.reduce_axes)  # the numbers that decide which points count come after
        earlier = isl.Map.lex_gt(space(count)).preimage_domain_multi_aff(multi(u.points[:count], u.dims))
        pairs = earlier.preimage_range_multi_aff(multi(v.points[:count], v.dims)).intersect(self.after(u, v))
        pairs = pairs.intersect(self.same(u, v, "element"))
        if pairs.is_empty():
            return
        pairs = self.of_one_start(pairs, u, v, definitions)
        if not pairs.is_empty():
            raise _Fails(partial(_out_of_order, u, v, pairs))

    def of_one_start(self, pairs: isl.Map, u: Event, v: Event, definitions: list[Event]) -> isl.Map:
        """The pairs of combinations into one cell with no new start between them."""
        for i in definitions:
            start = self.same(u, i, "cell")
            after, before = self.after(u, i), self.before(u, i)
            pairs = pairs.subtract(start.intersect(after).apply_range(self.after(i, v)))
            pairs = pairs.subtract(start.intersect(before).apply_range(self.before(i, v)))
            if i.step is v.step:  # the step that combines v starts anew itself
                pairs = pairs.subtract(start.intersect(after).apply_range(_same_instance(i, v)))
            if i.step is u.step:
                pairs = pairs.subtract(_same_instance(u, i).intersect(start).apply_range(self.before(i, v)))
            if pairs.is_empty():
                break
        return pairs

    def no_more(self, a: Event, inits: list[Event]) -> None:
        """The accumulator that ``a`` moves holds no points but those stated."""
        stated = next(
            (e for e in self.events if e.step is a.step and e.role is Role.NEEDS_POINTS and e.cell == a.cell), None
        )
        if stated is None:
            return
        extra = len(stated.dims) - len(a.dims)
        for u in self.mine(a):
            held = self.same(a, u, "element").intersect(self.before(a, u))
            for i in inits:
                between = self.same(a, i, "cell").intersect(self.before(a, i)).apply_range(self.after(u, i).reverse())
                held = held.subtract(between)
            wanted = self.same(stated, u, "point").project_out(IN, len(a.dims), extra)
            held = held.subtract(wanted)
            if not held.is_empty():
                raise _Fails(partial(_holds_more, a, u, held))


def rounds(d: Definition) -> bool:
    """Can the value of a reduction depend on the order of its points?"""
    if isinstance(d.reducer, Monoid):
        return True
    return d.reducer is not None and d.reducer.combine in ("add", "mul") and d.body.dtype.is_inexact


def ordered_points(d: Definition | None, exact: bool) -> bool:
    """Must a reduction combine its points in the written order?"""
    if d is None or d.reducer is None:
        return False
    return (exact and rounds(d)) or (isinstance(d.reducer, Monoid) and not d.reducer.commutative)


def _distinct(m: isl.Map, a: Event, b: Event) -> isl.Map:
    """Each pair once, no instance with itself."""
    return m.intersect(isl.Map.lex_lt(space(len(a.dims)))) if a is b else m


def _same_instance(a: Event, b: Event) -> isl.Map:
    """Pairs of events of one execution of their step (the points it moves are not compared)."""
    m = isl.Map.universe(isl.Space.alloc(a.domain.get_ctx(), 0, len(a.dims), len(b.dims)))
    for d in range(len(a.step.loops)):
        m = m.equate(IN, d, OUT, d)
    return m


# ---------------------------------------------------------------- counterexamples


def _stores(*events: Event) -> tuple[Stmt, ...]:
    return tuple([e.step.store for e in events if e.step.store is not None])


def _wrong_value(e: Event, env: dict[str, int], found: str, *others: Event) -> Violation:
    cell = shown(e.place.buffer.name, e.cell, env)
    need = shown(e.tensor, e.index, env)
    verb = "combines into" if e.role is Role.COMBINE else "reads" if e.step.store else "finds"
    kind = "an accumulator of " if e.role in (Role.COMBINE, Role.NEEDS_STATE) else ""
    message = f"{e.step.label} {verb} {e.place.buffer.name}, which does not hold {kind}the {e.tensor} it needs"
    case = f"{at(e.step, env)}: {verb} cell {cell}, needs {kind or 'element '}{need}, {found}"
    return Violation("value", message, case, _stores(e, *others), e.location)


def _needs(scope: _Scope, a: Event, bad: isl.Set) -> Violation:
    """What the cell really holds: the last writer before the first failing point."""
    env = point(bad, a.dims)
    best: tuple[Event, dict[str, int]] | None = None
    for w in scope.definitions:
        m = fixed(scope.same(a, w, "cell"), a.dims, env).intersect(scope.before(a, w))
        if m.is_empty():
            continue
        now = (w, coordinates(m.range().lexmax().sample_point(), w.dims))
        if best is None or _later(best, now):
            best = now
    if best is None:
        return _wrong_value(a, env, "finds it uninitialised")
    w, values = best
    note = " (an accumulator)" if w.role is Role.INIT else ""
    return _wrong_value(a, env, f"finds {shown(w.tensor, w.index, values)}{note} from {at(w.step, values)}", w)


def _later(x: tuple[Event, dict[str, int]], y: tuple[Event, dict[str, int]]) -> bool:
    (a, first), (b, second) = x, y
    common = a.step.dims[: shared(a.step, b.step)]
    return ([second[v] for v in common], b.step.order) > ([first[v] for v in common], a.step.order)


def _incomplete(scope: _Scope, a: Event, bad: isl.Set) -> Violation:
    env = point(bad, a.dims)
    cell = shown(a.place.buffer.name, a.cell, env)
    need = shown(a.tensor, a.index, env)
    message = f"{a.step.label} reads {a.place.buffer.name} before {a.tensor} is complete"
    missing = f"point {tuple_text(a.points, env)} is not in it"
    case = f"{at(a.step, env)}: reads cell {cell}, needs element {need}, {missing}"
    return Violation("reduction", message, case, _stores(a), a.location)


def _combined_twice(u: Event, v: Event, twice: isl.Map) -> Violation:
    env = point(twice.domain(), u.dims)
    other = point(fixed(twice, u.dims, env).range(), v.dims)
    message = f"{u.tensor} combines a point twice"
    what = f"{shown(u.tensor, u.index, env)} combines point {tuple_text(u.points, env)}"
    return Violation("reduction", message, f"{what} in {at(u.step, env)} and in {at(v.step, other)}", _stores(u, v))


def _out_of_order(u: Event, v: Event, pairs: isl.Map) -> Violation:
    env = point(pairs.domain(), u.dims)
    other = point(fixed(pairs, u.dims, env).range(), v.dims)
    what = f"{shown(u.tensor, u.index, env)} combines point {tuple_text(u.points, env)} in {at(u.step, env)}"
    then = f"and later point {tuple_text(v.points, other)} in {at(v.step, other)}"
    return Violation("order", f"{u.tensor} is not reduced in the written order", f"{what}, {then}", _stores(u, v))


def _merged(u: Event) -> Violation:
    message = f"{u.step.label} adds up partial results, which is not the written order"
    return Violation("order", message, None, _stores(u))


def _holds_more(a: Event, u: Event, held: isl.Map) -> Violation:
    env = point(held.domain(), a.dims)
    other = point(fixed(held, a.dims, env).range(), u.dims)
    message = f"{a.step.label} moves an accumulator of {a.tensor} that holds more points than it states"
    what = f"{shown(a.place.buffer.name, a.cell, env)} also holds point {tuple_text(u.points, other)}"
    return Violation("reduction", message, f"{at(a.step, env)}: {what} from {at(u.step, other)}", _stores(a, u))
