"""Loop nests as Python text: loops over flat lists, with a check wherever an access may fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

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
    stores,
    walk,
)
from tensordsl.schedules.nest_text import nest_text
from tensordsl.schedules.scalar_python import ScalarCode, convert, operation, pending, wrap

from tensordsl.affine import Affine, Datum, Interval, interval
from tensordsl.errors import ScheduleError
from tensordsl.expr import Read

#: CPython compiles at most 20 nested loops; deeper statements become functions of their own.
MAX_DEPTH = 12
CONCURRENT = ("parallel", "block", "thread")


@dataclass(frozen=True, slots=True, eq=False)
class Marked:
    """A nest with one statement marked, rendered only when an error is printed."""

    nest: LoopNest
    stmt: Stmt

    def __str__(self) -> str:
        return nest_text(self.nest, {id(self.stmt)})


class Memory(NamedTuple):
    """One flat list passed to the generated function."""

    buffer: Buffer
    given: bool  # holds the caller's data at the start
    output: str  # the name it is returned by, or ""


class Site(NamedTuple):
    """An access that may fail, for the error text."""

    store: Store
    kind: Literal["read", "write"]
    problem: Literal["bounds", "unwritten", "race"]
    buffer: Buffer
    cell: tuple[Affine, ...]
    variables: tuple[str, ...]
    loop: str = ""


@dataclass(frozen=True, slots=True)
class _Storage:
    """The lists of a buffer in scope.  lists: one per bank.  depth: loops around its Alloc.
    lane_cells: cells per lane of a buffer that each lane has for itself (0: shared by the lanes)."""

    lists: tuple[str, ...]
    depth: int
    lane_cells: int = 0


@dataclass(frozen=True, slots=True)
class _Lanes:
    """The vector loop being run in lockstep.  active: name of the list of lane values that run the
    current statement; base, step: the first value of the chunk and the distance of two lanes."""

    loop: For
    active: str
    base: str


def _holds_vector(s: For) -> bool:
    """Is there a vector loop inside?  The innermost one has the lanes, those around it run in order."""
    return any(isinstance(x, For) and x.kind == "vector" for x, _ in walk(s.body))


def cells_of(b: Buffer) -> int:
    size = 1
    for e in b.extents()[1:] if b.banks else b.extents():
        size *= e
    return size


@dataclass(slots=True)
class NestCode:
    """Builds the Python text of a nest."""

    nest: LoopNest
    lockstep: bool
    single: bool
    lanes: int
    memory: list[Memory] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    functions: list[list[str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    visible: list[str] = field(default_factory=list)  # Python names that a split-off function takes
    loops: list[str] = field(default_factory=list)  # variables in scope
    names: dict[str, str] = field(default_factory=dict)  # variable -> Python name
    ranges: dict[str, Interval] = field(default_factory=dict)
    storage: dict[str, _Storage] = field(default_factory=dict)
    logs: list[tuple[int, str, str]] = field(default_factory=list)  # parallel loops: depth, log, variable
    written: frozenset[str] = frozenset()  # buffers stored to
    given: frozenset[str] = frozenset()  # buffers full of data from the start
    lane: _Lanes | None = None
    counter: int = 0

    def fresh(self, prefix: str) -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def text(self) -> str:
        self._parameters()
        self.written = frozenset(self._written_buffers())
        self.given = frozenset(m.buffer.name for m in self.memory if m.given)
        self.visible = [name for s in self.storage.values() for name in s.lists]
        self.visible = list(dict.fromkeys(self.visible))
        head = f"def nest({', '.join(self.visible)}):"
        self.body(self.nest.body, 1)
        self.functions.append([head, *self.lines])
        return "\n".join(line for f in self.functions for line in f) + "\n"

    # ------------------------------------------------------------ memory

    def _parameters(self) -> None:
        program = self.nest.program
        home = {program.inplace.get(t.name, t.name): t.name for t in program.outputs}
        inputs = {t.name for t in program.inputs}
        for p in self.nest.parameters:
            if not p.banks:
                self._add(p, p.name in inputs, home.get(p.name, ""))
        for p in self.nest.parameters:
            if p.banks:
                block = replace(p, shape=p.shape[1:], fold=p.fold[1:], banks=())
                for name in p.banks:
                    if name not in self.storage:
                        self._add(replace(block, name=name), name in inputs, home.get(name, ""))
                self.storage[p.name] = _Storage(self._bank_lists(p), 0)

    def _add(self, b: Buffer, given: bool, output: str) -> None:
        self.memory.append(Memory(b, given, output))
        self.storage[b.name] = _Storage((self.fresh("L"),), 0)

    def _bank_lists(self, b: Buffer) -> tuple[str, ...]:
        missing = [n for n in b.banks if n not in self.storage]
        if missing:
            raise ScheduleError(f"bank {missing[0]!r} of {b} is no buffer in scope", legal=sorted(self.storage))
        if not b.fold or b.fold[0] != len(b.banks):
            raise ScheduleError(f"{b}: dimension 0 must be folded by the number of banks, {len(b.banks)}")
        return tuple(self.storage[n].lists[0] for n in b.banks)

    def _written_buffers(self) -> Iterator[str]:
        """The buffers stored to anywhere, those behind banks included."""
        readonly = {m.buffer.name for m in self.memory if m.given and not m.output}
        for s, _ in stores(self.nest.body):
            for name in (s.buffer.name, *s.buffer.banks):
                if name in readonly:
                    raise ScheduleError(
                        f"{s.instance}: writes {s.buffer}, an input", context=Marked(self.nest, s),
                        hint="declare it in Program(inplace=...) to have an output take over its memory",
                    )  # fmt: skip
                yield name

    def _of(self, b: Buffer, s: Stmt) -> _Storage:
        if b.name not in self.storage:
            raise ScheduleError(
                f"{b.name} is used outside its allocation", context=Marked(self.nest, s), legal=sorted(self.storage)
            )
        return self.storage[b.name]

    def access(
        self, s: Store, b: Buffer, index: tuple[Affine, ...], kind: Literal["read", "write"], pad: str, reads: bool
    ) -> tuple[str, str, str]:
        """The checks of an access; its list, address and, where it is read, value."""
        where = self._of(b, s)
        if len(index) != len(b.shape):
            raise ScheduleError(
                f"{s.instance}: {b.name} of rank {len(b.shape)} used with {len(index)} indices",
                context=Marked(self.nest, s),
            )
        for i, extent in zip(index, b.shape):
            low, high = interval(i, self.ranges)
            if low is None or high is None or low < 0 or high >= extent:
                self._check(f"not 0 <= {self.affine(i)} < {extent}", s, kind, "bounds", b, index, pad)
        cells, at = self._cell(where, b, index)
        names = b.banks or (b.name,)
        written = any(n in self.written for n in names)
        poisoned = any(n not in self.given for n in names)
        if not at.isidentifier() and (not reads or written or poisoned):
            name = self.fresh("k")
            self.lines.append(f"{pad}{name} = {at}")
            at = name
        self._races(s, b, index, kind, where, cells, at, pad, written)
        value = f"{cells}[{at}]"
        if reads and poisoned:
            name = self.fresh("r")
            self.lines.append(f"{pad}{name} = {value}")
            self._check(f"{name} is None", s, "read", "unwritten", b, index, pad)
            value = name
        return cells, at, value

    def _cell(self, where: _Storage, b: Buffer, index: tuple[Affine, ...]) -> tuple[str, str]:
        """The list and the address of a cell."""
        folds = b.fold + (0,) * (len(index) - len(b.fold))
        physical = [i % f if f else i for i, f in zip(index, folds)]
        cells = where.lists[0]
        extents = list(b.extents())
        if b.banks:
            bank = physical.pop(0)
            extents.pop(0)
            cells = f"({', '.join(where.lists)},)[{self.affine(bank)}]"
        address, step = Affine(), 1
        for i, extent in zip(reversed(physical), reversed(extents)):
            address = address + i * step
            step *= extent
        at = self.affine(address)
        if where.lane_cells:
            assert self.lane is not None
            number = f"({self.names[self.lane.loop.var]} - {self.lane.base}) // {self.lane.loop.step}"
            at = f"{at} + {where.lane_cells} * ({number})"
        return cells, at

    def _races(
        self, s: Store, b: Buffer, index: tuple[Affine, ...], kind: Literal["read", "write"], where: _Storage,
        cells: str, at: str, pad: str, written: bool,
    ) -> None:  # fmt: skip
        for depth, log, var in self.logs if written else ():
            if where.depth <= depth:
                test = f"touch({log}, {cells}, {at}, {self.names[var]}, {kind == 'write'})"
                self._check(test, s, kind, "race", b, index, pad, var)

    def _check(
        self, test: str, s: Store, kind: Literal["read", "write"],
        problem: Literal["bounds", "unwritten", "race"], b: Buffer, index: tuple[Affine, ...], pad: str, loop: str = "",
    ) -> None:  # fmt: skip
        values = "".join(f"{self.names[v]}, " for v in self.loops)
        self.lines.append(f"{pad}if {test}: fail({len(self.sites)}, ({values}))")
        self.sites.append(Site(s, kind, problem, b, index, tuple(self.loops), loop))

    # ------------------------------------------------------------ scalars

    def affine(self, a: Affine) -> str:
        parts = []
        for atom, c in a.terms:
            if isinstance(atom, str):
                name = self.names.get(atom)
                if name is None:
                    raise ScheduleError(f"{atom!r} is used outside its loop", context=self.nest, legal=self.loops)
            elif isinstance(atom, Datum):
                name = self.datum(atom)
            else:
                name = f"(({self.affine(atom.argument)}) {'//' if atom.kind == 'div' else '%'} {atom.by})"
            parts.append(name if c == 1 else f"{c} * {name}")
        if a.const or not parts:
            parts.append(str(a.const))
        return " + ".join(parts)

    def datum(self, d: Datum) -> str:
        """An integer read in an index."""
        where = self.storage.get(d.source.name)
        if where is None:
            raise ScheduleError(f"index {d} is used outside the allocation of {d.source.name}", context=self.nest)
        cells, at = self._cell(where, d.source, d.index)
        return f"known({cells}, {at})"

    def conditions(self, s: If) -> str:
        return " and ".join(f"{self.affine(c)} >= 0" for c in s.conditions) or "True"

    def bound(self, word: str, bounds: tuple[Affine, ...]) -> str:
        texts = [self.affine(b) for b in bounds]
        return texts[0] if len(texts) == 1 else f"{word}({', '.join(texts)})"

    # ------------------------------------------------------------ statements

    def body(self, s: Stmt, depth: int) -> None:
        """A statement in a block of its own, which may be empty."""
        start = len(self.lines)
        self.stmt(s, depth)
        if len(self.lines) == start:
            self.lines.append(" " * depth + "pass")

    def stmt(self, s: Stmt, depth: int) -> None:
        if isinstance(s, Seq):
            for item in s.items:
                self.stmt(item, depth)
        elif isinstance(s, Store):
            self.store(s, depth)
        elif isinstance(s, Alloc):
            self.alloc(s, depth)
        elif isinstance(s, Outline):
            self.stmt(s.body, depth)
        elif isinstance(s, (For, If)):
            if depth > MAX_DEPTH:
                self.split_off(s, depth)
            elif isinstance(s, If):
                self.branch(s, depth)
            elif self.lockstep and s.kind == "vector" and not _holds_vector(s):
                self.vector(s, depth)
            elif self.lane is not None:
                self.loop_of_lanes(s, depth)
            else:
                self.loop(s, depth)
        elif isinstance(s, Prefetch):
            self._of(s.buffer, s)  # no meaning, but the buffer must exist
        elif not isinstance(s, Sync):
            raise ScheduleError(f"a {type(s).__name__} cannot be interpreted", context=self.nest)

    def split_off(self, s: Stmt, depth: int) -> None:
        """The statement as a function of its own, over everything that is visible."""
        name, taken = self.fresh("g"), ", ".join(self.visible)
        outer, self.lines = self.lines, [f"def {name}({taken}):"]
        self.stmt(s, 1)
        self.functions.append(self.lines)
        self.lines = outer
        self.lines.append(f"{' ' * depth}{name}({taken})")

    @contextmanager
    def variable(self, s: For) -> Iterator[str]:
        """The loop variable in scope, with its range."""
        if s.var in self.loops:
            raise ScheduleError(f"loop {s.var!r} lies inside a loop of the same name", context=Marked(self.nest, s))
        lows = [interval(a, self.ranges)[0] for a in s.lo]
        highs = [interval(a, self.ranges)[1] for a in s.hi]
        low = max((x for x in lows if x is not None), default=None)
        high = min((x - 1 for x in highs if x is not None), default=None)
        old = self.ranges.get(s.var), self.names.get(s.var)
        name = self.names[s.var] = self.fresh("v")
        self.ranges[s.var] = (low, high)
        self.loops.append(s.var)
        self.visible.append(name)
        yield name
        self.visible.remove(name)
        self.loops.pop()
        del self.names[s.var], self.ranges[s.var]
        assert old == (None, None)

    def loop(self, s: For, depth: int) -> None:
        span = f"range({self.bound('max', s.lo)}, {self.bound('min', s.hi)}{f', {s.step}' if s.step != 1 else ''})"
        pad = " " * depth
        shared = self.lockstep and s.kind in CONCURRENT and not any(isinstance(x, Sync) for x, _ in walk(s))
        if shared:
            log = self.fresh("P")
            self.lines.append(f"{pad}{log} = {{}}")
            self.logs.append((len(self.loops), log, s.var))
            self.visible.append(log)
        with self.variable(s) as name:
            self.lines.append(f"{pad}for {name} in {span}:")
            self.body(s.body, depth + 1)
        if shared:
            self.logs.pop()
            self.visible.remove(log)

    def branch(self, s: If, depth: int) -> None:
        if self.lane is not None:
            self.mask(s, depth)
            return
        pad = " " * depth
        self.lines.append(f"{pad}if {self.conditions(s)}:")
        self.body(s.then, depth + 1)
        if s.otherwise is not None:
            self.lines.append(f"{pad}else:")
            self.body(s.otherwise, depth + 1)

    def alloc(self, s: Alloc, depth: int) -> None:
        b = s.buffer
        old = self.storage.get(b.name)
        if b.banks:
            self.storage[b.name] = _Storage(self._bank_lists(b), len(self.loops))
            self.stmt(s.body, depth)
        else:
            name, cells = self.fresh("L"), cells_of(b)
            inside = self.lane is not None
            self.storage[b.name] = _Storage((name,), len(self.loops), cells if inside else 0)
            self.lines.append(f"{' ' * depth}{name} = [None] * {cells * self.lanes if inside else cells}")
            self.visible.append(name)
            self.stmt(s.body, depth)
            self.visible.remove(name)
        del self.storage[b.name]
        if old is not None:
            self.storage[b.name] = old

    def store(self, s: Store, depth: int) -> None:
        s = s.plain
        if self.lane is not None:
            self.store_of_lanes(s, depth)
            return
        pad = " " * depth
        value = self.value(s, pad)
        cells, at, old = self.access(s, s.buffer, s.index, "write", pad, bool(s.op))
        self.lines.append(f"{pad}{cells}[{at}] = {self.combined(s, old, value)}")

    def value(self, s: Store, pad: str) -> str:
        """The value of a store in the type of its cell."""

        def load(r: Read, indent: str) -> str:
            if not isinstance(r.source, Buffer):
                raise ScheduleError(f"{s.instance}: reads {r.source}, which is no buffer", context=self.nest)
            return self.access(s, r.source, r.index, "read", indent, True)[2]

        code = ScalarCode(self.lines, self.fresh, self.affine, load, self.single).value(s.value, pad)
        if pending(s.value):
            code = wrap(code, s.value.dtype)
        return convert(code, s.value.dtype, s.buffer.dtype, self.single)

    def combined(self, s: Store, old: str, value: str) -> str:
        """The new content of a cell whose type both operands have."""
        if not s.op or not isinstance(s.op, str):
            return value
        t = s.buffer.dtype
        code = operation(s.op, [old, value], t, self.single)
        return wrap(code, t) if s.op in ("add", "mul") and t.kind in "iu" else code

    # ------------------------------------------------------------ lockstep

    def vector(self, s: For, depth: int) -> None:
        pad = " " * depth
        points, start, active, base = (self.fresh(p) for p in "qcab")
        lo, hi = self.bound("max", s.lo), self.bound("min", s.hi)
        with self.variable(s):
            self.visible += [active, base]
            self.lane = _Lanes(s, active, base)
            self.lines += [
                f"{pad}{points} = range({lo}, {hi}, {s.step})",
                f"{pad}for {start} in range(0, len({points}), {self.lanes}):",
                f"{pad} {active} = {points}[{start}:{start} + {self.lanes}]",
                f"{pad} {base} = {active}[0]",
                f"{pad} {self.names[s.var]} = {base}",  # a name that split-off functions take
            ]
            self.body(s.body, depth + 1)
            self.lane = None
            self.visible.remove(active)
            self.visible.remove(base)

    @contextmanager
    def masked(self, active: str) -> Iterator[None]:
        assert self.lane is not None
        outer, self.lane = self.lane, replace(self.lane, active=active)
        self.visible.append(active)
        yield
        self.visible.remove(active)
        self.lane = outer

    def mask(self, s: If, depth: int) -> None:
        lane = self.lane
        assert lane is not None
        pad, v, test = " " * depth, self.names[lane.loop.var], self.conditions(s)
        arms = [(test, s.then)] + ([] if s.otherwise is None else [(f"not ({test})", s.otherwise)])
        masks = [self.fresh("a") for _ in arms]
        for mask, (condition, _) in zip(masks, arms):
            self.lines.append(f"{pad}{mask} = [{v} for {v} in {lane.active} if {condition}]")
        for mask, (_, body) in zip(masks, arms):
            self.lines.append(f"{pad}if {mask}:")
            with self.masked(mask):
                self.body(body, depth + 1)

    def loop_of_lanes(self, s: For, depth: int) -> None:
        """A loop inside a vector loop: all lanes advance together, those past their end masked."""
        lane = self.lane
        assert lane is not None
        if not any(lane.loop.var in a.names() for a in s.lo + s.hi):
            self.loop(s, depth)
            return
        if s.step != 1:
            raise ScheduleError(
                f"loop {s.var} of step {s.step} has bounds that vary with lane {lane.loop.var}",
                context=Marked(self.nest, s),
            )
        pad, v = " " * depth, self.names[lane.loop.var]
        lo, hi = self.bound("max", s.lo), self.bound("min", s.hi)
        mask = self.fresh("a")
        with self.variable(s) as name:
            first, last = (f"{w}({x} for {v} in {lane.active})" for w, x in (("min", lo), ("max", hi)))
            self.lines += [
                f"{pad}for {name} in range({first}, {last}):",
                f"{pad} {mask} = [{v} for {v} in {lane.active} if {lo} <= {name} < {hi}]",
                f"{pad} if {mask}:",
            ]
            with self.masked(mask):
                self.body(s.body, depth + 2)

    def store_of_lanes(self, s: Store, depth: int) -> None:
        lane = self.lane
        assert lane is not None
        pad, v = " " * depth, self.names[lane.loop.var]
        private = self._of(s.buffer, s).lane_cells
        horizontal = bool(s.op) and not private and not any(lane.loop.var in i.names() for i in s.index)
        batch, cells, at, value = (self.fresh(p) for p in "bckt")
        self.lines += [f"{pad}{batch} = []", f"{pad}for {v} in {lane.active}:"]
        code = self.value(s, pad + " ")
        if horizontal:
            self.lines.append(f"{pad} {batch}.append({code})")
            self.lines.append(f"{pad}{v} = {lane.active}[0]")
            cells, at, old = self.access(s, s.buffer, s.index, "write", pad, True)
            self.lines.append(f"{pad}for {value} in {batch}: {old} = {self.combined(s, old, value)}")
            self.lines.append(f"{pad}{cells}[{at}] = {old}")
            return
        where, address, old = self.access(s, s.buffer, s.index, "write", pad + " ", bool(s.op))
        self.lines.append(f"{pad} {batch}.append(({where}, {address}, {self.combined(s, old, code)}))")
        self.lines.append(f"{pad}for {cells}, {at}, {value} in {batch}: {cells}[{at}] = {value}")
