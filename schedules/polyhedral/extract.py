"""From a nest to its steps and events, with everything that is refused on sight.

Walking the nest, each store's instance is checked against the program (kinds, ranks, operations,
types, the stored expression), and its accesses become events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import islpy as isl
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    If,
    LoopNest,
    Outline,
    Prefetch,
    Seq,
    Stmt,
    Store,
    Sync,
    children,
    stores,
)  # fmt: skip
from tensordsl.schedules.polyhedral.events import Event, Inside, Loop, Place, Refuted, Role, Step, Violation, at
from tensordsl.schedules.polyhedral.expression import Matcher, equal
from tensordsl.schedules.polyhedral.isl_build import (
    Dims,
    box,
    data_of,
    named,
    point,
    space,
    where,
    with_data,
    zero,
)  # fmt: skip

from tensordsl import conditions, expr
from tensordsl.affine import Affine, Datum, Interval, interval
from tensordsl.combination import Combine
from tensordsl.errors import Location
from tensordsl.expr import Expr, Index, Read
from tensordsl.program import Program
from tensordsl.tensor import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """Where the walk is: loops, the instances that get there, ranges of the loops, names in scope.

    domain: over the loops, then the numbers read from memory by the conditions and bounds around.
    """

    loops: tuple[Loop, ...]
    domain: isl.Set
    ranges: Mapping[str, Interval]
    places: Mapping[str, Place]
    data: tuple[Datum, ...] = ()
    #: number (its text) -> where it is read: the step, and the instances with the numbers read before
    steps: Mapping[str, tuple[Step, Dims, isl.Set]] = field(default_factory=dict)

    @property
    def dims(self) -> Dims:
        return (*(loop.var for loop in self.loops), *map(str, self.data))


@dataclass(slots=True, eq=False)
class Events:
    """The steps and events of a nest; ranges: bounds of the loops of each step by interval arithmetic."""

    program: Program
    only: str | None = None  # a buffer: steps that do not use it are left out
    steps: list[Step] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    ranges: dict[int, Mapping[str, Interval]] = field(default_factory=dict)
    inside: list[Inside] = field(default_factory=list)
    order: int = 0


def extract(nest: LoopNest, only: str | None = None) -> Events:
    """Every access of a nest, the caller's included, or all those of the steps that use one buffer.  Raises Refuted."""
    found = Events(nest.program, only)
    sizes = _sizes(nest.program)
    places = {b.name: _parameter(nest, b, sizes) for b in nest.parameters}
    if len(places) != len(nest.parameters):
        raise _structure("two parameters of the nest have one name")
    found.places += places.values()
    missing = [t.name for t in nest.program.outputs if nest.program.inplace.get(t.name, t.name) not in places]
    if missing:
        raise _structure(f"output {missing[0]} is not among the parameters of the nest")
    for place in places.values():
        if place.holds is not None:
            _caller(found, place, place.holds, Role.COMPLETE, -1, sizes)
    _Walk(found).walk(nest.body, replace(sizes, places=places))
    found.order += 1
    for place in places.values():
        if place.expected is not None:
            _caller(found, place, place.expected, Role.NEEDS_COMPLETE, found.order, sizes)
    return found


def _sizes(program: Program) -> Path:
    """Sizes known only at the call are loops around everything: the nest is proven for each of their values."""
    free = program.free
    nodes = [For(d, (Affine((), d.least),), (), Seq(())) for d in free]
    loops = tuple([Loop(d, n - len(free), "serial", x) for n, (d, x) in enumerate(zip(free, nodes))])
    bounds = [Affine.of(d) - d.least for d in free] + [d.most - Affine.of(d) for d in free if d.most is not None]
    domain = where((*bounds, *program.relations), tuple(free))
    return Path(loops, domain, {d: (d.least, d.most) for d in free}, {})


def _called(op: Combine) -> str:
    return repr(op if isinstance(op, str) else op.name)


def _structure(message: str, *stores: Stmt) -> Refuted:
    return Refuted(Violation("structure", message, None, stores))


def _parameter(nest: LoopNest, b: Buffer, sizes: Path) -> Place:
    program = nest.program
    held = next((t for t in program.inputs if t.name == b.name), None)
    expected = [t for t in program.outputs if program.inplace.get(t.name, t.name) == b.name]
    if held is None and not expected:
        raise _structure(f"parameter {b.name} is neither an input nor an output of the program")
    pitch = 0 if held is None else held.pitch
    for t in ([] if held is None else [held]) + expected:
        if (
            b.shape != t.shape
            or b.dtype != t.dtype
            or b.pitch != pitch
            or any(b.fold)
            or b.banks
            or b.scope != "external"
        ):
            raise _structure(f"parameter {b} is not laid out as {t}")
    return Place(b, sizes.loops, None if held is None else held.name, expected[0].name if expected else None)


def _caller(found: Events, place: Place, tensor: str, role: Role, order: int, sizes: Path) -> None:
    names = tuple([f"{tensor}.{d}" for d in range(len(place.buffer.shape))])
    dims = (*sizes.dims, *names)
    domain = where(box(names, place.buffer.shape), dims)
    domain = domain.intersect(sizes.domain.add_dims(isl.dim_type.set, len(names)))
    label = f"the caller {'gives' if role.writes else 'takes'} {place.buffer.name}"
    step = Step(order, sizes.loops, sizes.domain, label)
    cell = named(names)
    found.events.append(Event(step, place, cell, tensor, cell, role, dims, domain))


class _Walk:
    def __init__(self, found: Events) -> None:
        self.found = found
        self.program = found.program
        self.tensors = {t.name: t for t in (*found.program.inputs, *found.program.tensors)}
        #: buffers that hold the same all the time
        self.fixed = {t.name for t in found.program.inputs} - set(found.program.inplace.values())

    def walk(self, s: Stmt, path: Path) -> None:
        if isinstance(s, Seq):
            for item in s.items:
                self.walk(item, path)
        elif isinstance(s, For):
            self.walk(s.body, self.enter(s, path))
        elif isinstance(s, If):
            path = self.reading(self.known(s.conditions, path, s), path, s)
            self.once(s.conditions, s, children(s))
            holds = path.domain.intersect(where(s.conditions, path.dims))
            self.walk(s.then, replace(path, domain=holds))
            if s.otherwise is not None:
                self.walk(s.otherwise, replace(path, domain=path.domain.subtract(holds)))
        elif isinstance(s, Alloc):
            self.layout(s, path)
            place = Place(s.buffer, path.loops)
            self.found.places.append(place)
            self.walk(s.body, replace(path, places={**path.places, s.buffer.name: place}))
        elif isinstance(s, Outline):
            self.walk(s.body, path)
        elif isinstance(s, Store):
            self.found.order += 1
            if not self.uses(s, path):
                return
            if not path.domain.is_empty():
                _StoreEvents(self, s, path).collect()
        elif isinstance(s, Prefetch):
            self.reading(self.known(s.index, path, s), path, s)  # a hint, but its index is read
            place_ = path.places.get(s.buffer.name)
            if place_ is None or place_.buffer != s.buffer or len(s.index) != len(s.buffer.shape):
                raise _structure(f"a prefetch asks for {s.buffer}, which is not allocated so around it", s)
        elif not isinstance(s, Sync):
            raise _structure(f"a {type(s).__name__} has no meaning in a nest", s)

    def uses(self, s: Store, path: Path) -> bool:
        """Is the step among those asked for?"""
        only = self.found.only
        if only is None or only in (s.buffer.name, *s.buffer.banks):
            return True
        sources = [r.source for r in (*expr.reads(s.value), *expr.data_reads(s.index))]
        read = {n for b in sources for n in (b.name, *getattr(b, "banks", ()))}
        return only in read or any(d.source.name == only for d in path.data)

    def layout(self, s: Alloc, path: Path) -> None:
        """Every cell of the buffer has memory of its own, and its name means nothing else here."""
        b = s.buffer
        if b.name in path.places:
            raise _structure(f"buffer {b.name} lies inside another buffer {b.name}", s)
        banks = [path.places.get(n) for n in b.banks]
        fault = b.fault([None if p is None else p.buffer for p in banks])
        if fault is not None:
            raise _structure(fault, s)

    def known(self, exprs: tuple[Affine, ...], path: Path, s: Stmt) -> tuple[Affine, ...]:
        for e in exprs:
            for name in e.names():
                if name not in path.ranges:
                    raise _structure(f"{e} uses {name}, which is not a loop around it", s)
        return exprs

    def enter(self, s: For, path: Path) -> Path:
        if s.var in path.ranges:
            raise _structure(f"loop {s.var} lies inside another loop {s.var}", s)
        if not s.lo or not s.hi or s.step < 1:
            raise _structure(f"loop {s.var} has no bounds or no positive step", s)
        path = self.reading(self.known(s.lo + s.hi, path, s), path, s)
        self.once(s.lo + s.hi, s, (s.body,))
        self.found.order += 1
        loop = Loop(s.var, self.found.order, s.kind, s)
        inner = replace(path, loops=(*path.loops, loop))
        v = Affine.of(s.var)
        bounds = tuple([v - lo for lo in s.lo] + [hi - 1 - v for hi in s.hi])
        domain = path.domain.insert_dims(isl.dim_type.set, len(path.loops), 1).intersect(where(bounds, inner.dims))
        if s.step > 1:
            domain = domain.intersect(_strided(v, s.lo, s.step, inner.dims))
        lows = [interval(lo, path.ranges)[0] for lo in s.lo]
        highs = [interval(hi, path.ranges)[1] for hi in s.hi]
        least = max((x for x in lows if x is not None), default=None)
        greatest = min((x - 1 for x in highs if x is not None), default=None)
        return replace(inner, domain=domain, ranges={**path.ranges, s.var: (least, greatest)})

    def reading(self, exprs: tuple[Affine, ...], path: Path, s: Stmt) -> Path:
        """The path once conditions, bounds or the cell of a store have read their numbers."""
        new = tuple([d for d in data_of(exprs) if str(d) not in path.dims])
        if not new:
            return path
        domain, dims, steps = path.domain, path.dims, dict(path.steps)
        for d in new:
            place = path.places.get(d.source.name)
            if place is None or place.buffer != d.source or d.source.banks or len(d.index) != len(d.source.shape):
                raise _structure(f"{d} reads {d.source}, which is not allocated so around it", s)
            self.found.order += 1
            self.found.ranges[self.found.order] = path.ranges
            step = Step(self.found.order, path.loops, path.domain, f"index {d}")
            steps[str(d)] = step, dims, domain
            domain, dims = with_data(domain, dims, (Affine(((d, 1),)),))
            self.found.inside.append(Inside(step, d.index, d.source.shape, dims, domain, f"buffer {d.source.name}"))
        return replace(path, domain=domain, data=(*path.data, *new), steps=steps)

    def once(self, exprs: tuple[Affine, ...], s: For | If, body: tuple[Stmt, ...]) -> None:
        """Bounds and conditions are read once: what they guard does not change them."""
        read = {d.source.name for d in data_of(exprs)}
        if read:
            for st in (st for x in body for st, _ in stores(x)):
                if st.buffer.name in read or read & set(st.buffer.banks):
                    raise _structure(f"{st.buffer.name} decides whether it runs, and is written there", s, st)


def _strided(v: Affine, lows: tuple[Affine, ...], step: int, dims: Dims) -> isl.Set:
    """The values of ``v`` that a loop of this step takes, counted from the greatest lower bound."""
    result = isl.Set.empty(space(len(dims)))
    for i, lo in enumerate(lows):
        greatest = tuple([lo - x - (1 if j < i else 0) for j, x in enumerate(lows) if j != i])
        offset = (v - lo) % step
        result = result.union(where((*greatest, -offset), dims))
    return result


class _StoreEvents:
    """The events of one store."""

    def __init__(self, walk: _Walk, s: Store, path: Path) -> None:
        i = s.instance
        conditions = len(path.data)
        path = walk.reading((*s.index, *i.index, *i.points), path, s)
        self.walk, self.s, self.path = walk, s, path
        self.conditional, self.scattered = path.data[:conditions], path.data[conditions:]
        self.found = walk.found
        self.dims = path.dims
        self.over = path.dims, path.domain  # with the points that one step moves
        self.step = Step(self.found.order, path.loops, path.domain, f"{i.kind} {i.tensor}", s)
        self.domain = path.domain
        #: numbers that the definition reads -> where the nest reads them
        self.identified: dict[str, Datum] = {}

    def collect(self) -> None:
        s, i = self.s, self.s.instance
        self.found.steps.append(self.step)
        self.found.ranges[self.step.order] = self.path.ranges
        tensor = self.walk.tensors.get(i.tensor)
        if tensor is None:
            raise self.wrong(f"the program has no tensor {i.tensor}")
        self.walk.known((*s.index, *i.index), self.path, s)
        for e in expr.walk(s.value):
            if isinstance(e, (Read, Index)):
                self.walk.known(e.index if isinstance(e, Read) else (e.affine,), self.path, s)
        if len(i.index) != tensor.ndim:
            raise self.wrong(f"{i} has {len(i.index)} indices, the rank of {tensor.name} is {tensor.ndim}")
        if s.buffer.dtype != tensor.dtype:
            raise self.wrong(f"elements of {tensor} are kept in {s.buffer}, a buffer of another type")
        rules = {
            "compute": self.compute, "init": self.init, "update": self.update,
            "copy": self.copy, "partial": self.partial, "merge": self.merge,
        }  # fmt: skip
        if i.kind not in rules:
            raise self.wrong(f"unknown kind of instance {i.kind!r}")
        rules[i.kind](tensor)

    def wrong(self, message: str) -> Refuted:
        return _structure(f"{self.step.label}: {message}", self.s)

    # -- the six kinds of instance

    def compute(self, t: Tensor) -> None:
        if t.definition is None:
            raise self.wrong(f"{t.name} is an input")
        if t.definition.reducer is not None:
            raise self.wrong(f"{t.name} is a reduction, computed by init and update")
        self.operation("")
        self.defined(t, ())
        self.write(Role.COMPLETE)

    def init(self, t: Tensor) -> None:
        self.reduction(t)
        self.operation("")
        assert t.definition is not None and t.definition.reducer is not None
        self.expression(t, t.definition.reducer.identity(t.dtype))
        self.write(Role.INIT)

    def update(self, t: Tensor) -> None:
        self.reduction(t)
        assert t.definition is not None and t.definition.reducer is not None
        self.operation(t.definition.reducer.combine)
        points = self.points(t)
        read = self.conditions(t, points)
        self.identify(read)
        self.defined(t, points)
        self.write(Role.COMBINE, points, self.as_read(tuple([Affine(((d, 1),)) for d in read])))

    def copy(self, t: Tensor) -> None:
        self.operation("")
        self.read(self.source(), t.name, self.s.instance.index, Role.NEEDS_COMPLETE)
        self.write(Role.COMPLETE)

    def partial(self, t: Tensor) -> None:
        self.operation("")
        points = self.moved(t)
        self.write(Role.INIT)
        self.write(Role.JOIN, points)

    def merge(self, t: Tensor) -> None:
        self.reduction(t)
        assert t.definition is not None and t.definition.reducer is not None
        self.operation(t.definition.reducer.combine)
        points = self.moved(t)
        self.read(self.s.buffer.at(*self.s.index), t.name, self.s.instance.index, Role.NEEDS_STATE)
        self.write(Role.COMBINE, points)

    # -- their parts

    def conditions(self, t: Tensor, points: tuple[Affine, ...]) -> tuple[Datum, ...]:
        """The numbers that decide which points count, as the definition reads them."""
        d = t.definition
        assert d is not None and d.reducer is not None
        env = dict(zip([a.name for a in d.axes], self.s.instance.index))
        env.update(zip([a.name for a in d.reduce_axes], points))
        return tuple([x.substitute(env) for x in data_of(conditions.terms_where(d.body, d.reducer))])

    def identify(self, wanted: tuple[Datum, ...]) -> None:
        """Every number that decides whether the step runs, or where it stores, is one that the definition reads."""
        for d in self.path.data:
            same = next((x for x in wanted if self.same(d, x)), None)
            if same is None:
                raise self.wrong(f"{d} decides whether it runs, which is no condition of {self.s.instance.tensor}")
            self.identified[str(same)] = d
            self.read(Read(d.source, d.index), same.source.name, self.as_read(same.index), Role.NEEDS_COMPLETE)
            step, dims, domain = self.path.steps[str(d)]  # the element is there when it is read
            cell = tuple([c % f if f else c for c, f in zip(d.index, d.source.fold)]) + d.index[len(d.source.fold) :]
            place, role = self.path.places[d.source.name], Role.NEEDS_COMPLETE
            self.found.events.append(Event(step, place, cell, same.source.name, d.index, role, dims, domain))

    def same(self, d: Datum, wanted: Datum) -> bool:
        if d.source.name != wanted.source.name or len(d.index) != len(wanted.index):
            return False
        return all(equal(a, b, self.domain, self.dims) for a, b in zip(d.index, self.as_read(wanted.index)))

    def as_read(self, index: tuple[Affine, ...]) -> tuple[Affine, ...]:
        """An index of the definition with the numbers in it that are identified already."""

        def known(d: Datum) -> Affine:
            return Affine(((self.identified.get(str(d), d), 1),))

        return tuple([i.map_data(known, outer=True) for i in index])

    def unconditional(self) -> None:
        """What is stored here is there in every run."""
        if self.conditional:
            raise self.wrong(f"{self.conditional[-1]} decides whether it runs")
        if self.scattered:
            raise self.wrong(f"{self.scattered[-1]} decides where it stores")

    def reduction(self, t: Tensor) -> None:
        if t.definition is None or t.definition.reducer is None:
            raise self.wrong(f"{t.name} is not a reduction")

    def operation(self, needed: Combine) -> None:
        if self.s.op != needed:
            said = f"combines by {_called(self.s.op)}" if self.s.op else "overwrites its cell"
            raise self.wrong(f"the store {said}, its meaning needs {_called(needed) if needed else 'a plain store'}")

    def points(self, t: Tensor) -> tuple[Affine, ...]:
        i = self.s.instance
        assert t.definition is not None
        axes = t.definition.reduce_axes
        if len(i.points) != len(axes):
            raise self.wrong(f"{i} has {len(i.points)} indices of points, {t.name} has {len(axes)} reduction axes")
        inner = {v for v, _, _ in i.over}
        for p in i.points:
            for name in p.names() - inner:
                if name not in self.path.ranges:
                    raise self.wrong(f"point {p} uses {name}, which is not a loop around it")
        return i.points

    def moved(self, t: Tensor) -> tuple[Affine, ...]:
        """The points of a partial accumulator that is read from another cell."""
        self.reduction(t)
        i = self.s.instance
        over = tuple([v for v, _, _ in i.over])
        clash = next((v for v in over if v in self.path.ranges or over.count(v) > 1), None)
        if clash is not None:
            raise self.wrong(f"{clash} ranges over points and is also a loop")
        dims, domain = self.dims, self.domain
        for v, lo, hi in i.over:
            if any(True for b in (lo, hi) for _ in b.data()):
                raise self.wrong(f"the range of {v} is read from memory")
            for name in (lo.names() | hi.names()) - set(dims):
                raise self.wrong(f"the range of {v} uses {name}, which is not a loop around it")
            dims = (*dims, v)
            x = Affine.of(v)
            domain = domain.add_dims(isl.dim_type.set, 1).intersect(where((x - lo, hi - 1 - x), dims))
        self.over = dims, domain
        points = self.points(t)
        if self.path.data or self.conditions(t, points):
            raise self.wrong(f"partial results of {t.name}, whose points are decided by data")
        source = self.source()
        self.read(source, t.name, i.index, Role.NEEDS_STATE)
        self.read(source, t.name, i.index, Role.NEEDS_POINTS, self.over, points)
        return points

    def source(self) -> Read:
        if not isinstance(self.s.value, Read):
            message = f"{self.step.label} stores {self.s.value}, which is no cell to move"
            raise Refuted(Violation("expression", message, None, (self.s,)))
        return self.s.value

    def defined(self, t: Tensor, points: tuple[Affine, ...]) -> None:
        d = t.definition
        assert d is not None
        env = dict(zip([a.name for a in d.axes], self.s.instance.index))
        env.update(zip([a.name for a in d.reduce_axes], points))
        self.expression(t, expr.substitute(d.body, env))

    def expression(self, t: Tensor, definition: Expr) -> None:
        matcher = Matcher(self.dims, self.identified, self.walk.fixed)
        needs = matcher.match(definition, self.s.value, self.domain)
        if needs is None:
            assert matcher.difference is not None
            wanted, found, domain = matcher.difference
            env = point(domain, self.dims)
            message = f"{self.step.label} stores {self.s.value}, its definition is {definition}"
            case = f"{at(self.step, env)}: the value has {found} where the definition has {wanted}"
            raise Refuted(Violation("expression", message, case, (self.s,), t.location))
        for n in needs.values():
            e = n.element
            instances = self.dims, n.domain
            self.read(
                n.cell, e.source.name, e.index, Role.NEEDS_COMPLETE, instances, given=n.given, location=e.location
            )

    def read(
        self, cell: Read, tensor: str, index: tuple[Affine, ...], role: Role,
        instances: tuple[Dims, isl.Set] | None = None, points: tuple[Affine, ...] = (), *,
        given: tuple[Affine, ...] = (), location: Location | None = None,
    ) -> None:  # fmt: skip
        """given: what is known (``>= 0``) of the numbers from memory where it is read."""
        buffer = cell.source
        if not isinstance(buffer, Buffer):
            raise self.wrong(f"{cell} is not in a buffer")
        if buffer.dtype != self.walk.tensors[tensor].dtype:
            raise self.wrong(f"{cell} is {buffer.dtype}, elements of {tensor} are {self.walk.tensors[tensor].dtype}")
        dims, domain = instances or (self.dims, self.domain)
        if given:
            domain, dims = with_data(domain, dims, given)
            domain = domain.intersect(where(given, dims))
        self.access(buffer, cell.index, tensor, index, role, dims, domain, points, location)

    def write(self, role: Role, points: tuple[Affine, ...] = (), read: tuple[Affine, ...] = ()) -> None:
        """read: the numbers that decide which points count."""
        i = self.s.instance
        if role.defines:
            self.unconditional()
        dims, domain = (self.dims, self.domain) if role.defines else self.over
        t = self.walk.tensors[i.tensor]
        if points:
            assert t.definition is not None
            extents = tuple([a.extent for a in t.definition.reduce_axes])
            self.found.inside.append(Inside(self.step, points, extents, dims, domain, f"the points of {t.name}"))
        self.found.inside.append(Inside(self.step, i.index, t.shape, dims, domain, f"the definition of {t.name}"))
        self.access(self.s.buffer, self.s.index, i.tensor, i.index, role, dims, domain, (*points, *read), None)

    def access(
        self, buffer: Buffer, cell: tuple[Affine, ...], tensor: str, index: tuple[Affine, ...], role: Role,
        dims: Dims, domain: isl.Set, points: tuple[Affine, ...], location: Location | None,
    ) -> None:  # fmt: skip
        place = self.path.places.get(buffer.name)
        if place is None:
            raise self.wrong(f"buffer {buffer.name} is not allocated around it")
        if place.buffer != buffer:
            raise self.wrong(f"{buffer} is allocated as {place.buffer}")
        if len(cell) != len(buffer.shape):
            raise self.wrong(f"{buffer.name} has rank {len(buffer.shape)}, {len(cell)} indices are given")
        moves = role in (Role.JOIN, Role.COMBINE, Role.NEEDS_POINTS) and len(dims) > len(self.dims)
        domain, dims = with_data(domain, dims, (*cell, *index, *points))
        self.found.inside.append(Inside(self.step, cell, buffer.shape, dims, domain, f"buffer {buffer.name}"))
        folded = tuple([c % f if f else c for c, f in zip(cell, buffer.fold)]) + cell[len(buffer.fold) :]
        add = self.found.events.append
        if not buffer.banks:
            add(Event(self.step, place, folded, tensor, index, role, dims, domain, points, location, moves))
            return
        for n, bank in enumerate([self.path.places[b] for b in buffer.banks]):
            part = domain.intersect(zero(folded[0] - n, dims))
            if not part.is_empty():
                add(Event(self.step, bank, folded[1:], tensor, index, role, dims, part, points, location, moves))
