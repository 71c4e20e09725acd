"""Register buffers as named values: which form each takes, and its reads and writes.

A buffer whose last dimension is the lane of a vector loop becomes vectors ``name_i_j_q``, any other
one scalars ``name_i_j``.  Where an index is not known at print time, or a buffer is shared across
the border of a task, the buffer is an ordinary local array instead.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from tensordsl.codegen.c.addresses import at_lane
from tensordsl.codegen.c.extents import Lanes, Ranges, static_extent
from tensordsl.codegen.c.masks import blend, every, is_literal, vector_text
from tensordsl.codegen.c.types import Value, assignment, signed
from tensordsl.codegen.c.writer import LANE, Mask, Place, Writer
from tensordsl.schedules.loopnest import Alloc, Buffer, For, Stmt, Store, children

from tensordsl import expr
from tensordsl.affine import Affine, Interval, interval
from tensordsl.dtypes import DType
from tensordsl.errors import InternalError

_STATIC = "#"  # prefix of variables whose value is known at print time


class Form(NamedTuple):
    """lanes: of each vector (0: scalars).  observed: per vector of the last dimension, the lanes ever read."""

    lanes: int
    observed: tuple[int, ...] = ()


class Plan:
    """The form of the register buffer of every `Alloc`, by its identity; those without one are local arrays."""

    def __init__(self, body: Stmt, lanes: Lanes) -> None:
        self._lanes = lanes
        self._arrays: set[int] = set()
        self._vectors: set[int] = set()
        self._columns: dict[int, set[int]] = {}
        self._declared: dict[int, tuple[Buffer, int]] = {}
        self._indices: set[str] = set()
        self._borders = 0
        self._visit(body, {}, {}, frozenset(), {})
        self.forms = {
            key: self._form(key, buffer) for key, (buffer, _) in self._declared.items() if key not in self._arrays
        }

    def _form(self, key: int, b: Buffer) -> Form:
        lanes = self._lanes.buffers.get(key, 0)
        if key not in self._vectors or lanes < 2:
            return Form(0)
        count = -(-b.extents()[-1] // lanes)
        observed = [0] * count
        for column in self._columns.get(key, ()):
            observed[column // lanes] |= 1 << column % lanes
        return Form(lanes, tuple(observed))

    def indexed_by(self, var: str) -> bool:
        """Does a register buffer have an index with this loop variable?"""
        return var in self._indices

    def names(self) -> set[str]:
        return {self._declared[key][0].name for key in self.forms}

    def _visit(
        self, s: Stmt, env: dict[str, Affine], ranges: dict[str, Interval], lane: frozenset[str], scope: dict[str, int]
    ) -> None:
        if isinstance(s, Alloc) and s.buffer.scope == "register":
            self._declared[id(s)] = (s.buffer, self._borders)
            scope = {**scope, s.buffer.name: id(s)}
        elif isinstance(s, For):
            self._loop(s, env, ranges, lane, scope)
            return
        elif isinstance(s, Store):
            if s.buffer.scope == "register":
                self._access(scope[s.buffer.name], s.buffer, s.index, env, ranges, lane, False)
            for r in expr.reads(s.value):
                if isinstance(r.source, Buffer) and r.source.scope == "register":
                    self._access(scope[r.source.name], r.source, r.index, env, ranges, lane, True)
        for c in children(s):
            self._visit(c, env, ranges, lane, scope)

    def _loop(
        self, s: For, env: dict[str, Affine], ranges: dict[str, Interval], lane: frozenset[str], scope: dict[str, int]
    ) -> None:
        lo = tuple([x.substitute(env) for x in s.lo])
        hi = tuple([x.substitute(env) for x in s.hi])
        e = static_extent(lo, hi, s.step, s.var, ranges)
        if s.kind == "parallel":
            self._borders += 1
        if e is not None and (s.kind in ("unroll", "vector") or e.count <= 1):
            mark = _STATIC + s.var
            env = {**env, s.var: e.start + Affine.of(mark) * s.step}
            ranges = {**ranges, mark: (0, max(0, e.count - 1))}
            if s.kind == "vector":
                lane = lane | {mark}
        elif s.kind == "vector":
            lane = lane | {s.var}
        self._visit(s.body, env, ranges, lane, scope)
        if s.kind == "parallel":
            self._borders -= 1

    def _access(
        self, key: int, b: Buffer, index: tuple[Affine, ...], env: dict[str, Affine], ranges: Ranges,
        lane: frozenset[str], read: bool,
    ) -> None:  # fmt: skip
        for i in index:
            self._indices |= i.names()
        index = tuple([i.substitute(env) for i in index])
        folds = b.fold + (0,) * (len(index) - len(b.fold))
        index = tuple([i % f if f else i for i, f in zip(index, folds)])
        shared = self._declared[key][1] != self._borders or b.banks
        if shared or any(not n.startswith(_STATIC) for i in index for n in i.names()):
            self._arrays.add(key)
            return
        if not index:
            return
        last = index[-1]
        if any(isinstance(a, str) and a in lane and c == 1 for a, c in last.terms):
            self._vectors.add(key)
        if read:
            low, high = interval(last, ranges)
            assert low is not None and high is not None  # every variable has a static range
            self._columns.setdefault(key, set()).update(range(max(0, low), min(high, b.extents()[-1] - 1) + 1))


def uses(s: Stmt, names: dict[str, Form]) -> bool:
    """Does a statement use named values that are declared outside it?"""
    declared: set[str] = set()
    used: set[str] = set()

    def go(x: Stmt) -> None:
        if isinstance(x, Alloc):
            declared.add(x.buffer.name)
        elif isinstance(x, Store):
            used.add(x.buffer.name)
            used.update(r.source.name for r in expr.reads(x.value))
        for c in children(x):
            go(c)

    go(s)
    return any(name in names for name in used - declared)


# ---------------------------------------------------------------- declarations and cells


def _name(w: Writer, b: Buffer, *indices: int) -> str:
    """A named value; only those asked for are declared."""
    name = "_".join([w.names[b.name], *map(str, indices)])
    w.registers.add(name)
    return name


def declaration(w: Writer, b: Buffer, form: Form) -> str:
    """The definition of all its named values that were used."""
    extents = b.extents()
    spread = (*extents[:-1], len(form.observed)) if form.lanes else extents
    names = ["_".join([w.names[b.name], *map(str, i)]) for i in product(*map(range, spread))]
    used = [n for n in names if n in w.registers]
    w.registers.difference_update(used)
    # a value that is merged into must not start undefined: gcc 12 drops the lanes merged over an undefined value
    begun = [f"{n} = {{0}}" if n in w.merged else n for n in used]
    w.merged.difference_update(used)
    c_type = w.prelude.vector(b.dtype, form.lanes) if form.lanes else b.dtype.c_name
    return f"{c_type} {', '.join(begun)};" if used else ""


def _constants(b: Buffer, index: tuple[Affine, ...]) -> tuple[int, ...]:
    """The cell at a place known now (the plan made every other buffer an array)."""
    if any(i.terms for i in index):
        raise InternalError(f"{b.name}[{', '.join(map(str, index))}] is a register whose index is not known")
    folds = b.fold + (0,) * (len(index) - len(b.fold))
    return tuple([i.const % f if f else i.const for i, f in zip(index, folds)])


def cell(w: Writer, b: Buffer, form: Form, where: tuple[int, ...], changed: bool = False) -> str:
    """One element: a scalar's name, or an element of a vector (``changed``: that is stored to)."""
    if not form.lanes:
        return _name(w, b, *where)
    *outer, last = where
    name = _name(w, b, *outer, last // form.lanes)
    if changed:
        w.merged.add(name)
    return f"{name}[{last % form.lanes}]"


def _whole(b: Buffer, form: Form, index: tuple[Affine, ...], lanes: int) -> tuple[list[int], int, int] | None:
    """(outer indices, vector, offset in it) where the lane runs along the last dimension."""
    if form.lanes != lanes or index[-1].terms != ((LANE, 1),) or any(i.terms for i in index[:-1]):
        return None
    *outer, last = _constants(b, (*index[:-1], Affine((), index[-1].const)))
    return outer, last // lanes, last % lanes


def read(w: Writer, b: Buffer, form: Form, index: tuple[Affine, ...], lanes: int) -> Value:
    """The value of a register cell, or of one cell per lane."""
    if not lanes or not any(i.terms for i in index):
        return Value(cell(w, b, form, _constants(b, index)), b.dtype)
    where = _whole(b, form, index, lanes)
    if where is not None and where[1] >= 0:  # before the first vector: lanes that a select leaves out
        outer, vector, offset = where
        if not offset:
            return Value(_name(w, b, *outer, vector), b.dtype, lanes)
        if (vector + 1) * lanes < b.extents()[-1]:
            pair = _name(w, b, *outer, vector), _name(w, b, *outer, vector + 1)
            return Value(_shuffle(w, b.dtype, lanes, *pair, range(offset, offset + lanes)), b.dtype, lanes)
    text = _transposed(w, b, form, index, lanes)
    return Value(text or _collected(w, b, form, index, lanes), b.dtype, lanes)


def _shuffle(w: Writer, t: DType, lanes: int, a: str, b: str, picks: range | list[int]) -> str:
    w.prelude.shuffle()
    return f"td_shuffle({w.prelude.vector(signed(t.bits), lanes)}, {a}, {b}, {', '.join(map(str, picks))})"


def _collected(w: Writer, b: Buffer, form: Form, index: tuple[Affine, ...], lanes: int) -> str:
    """Any other pattern: a shuffle where the cells lie in two vectors, else element by element."""
    # lanes outside the buffer are not active: any cell will do
    cells = [_nearest(b, _constants(b, tuple([at_lane(i, lane) for i in index]))) for lane in range(lanes)]
    if form.lanes == lanes:
        homes = [(*c[:-1], c[-1] // lanes) for c in cells]
        different = list(dict.fromkeys(homes))
        if len(different) <= 2:
            names = [_name(w, b, *h) for h in different]
            picks = [different.index(h) * lanes + c[-1] % lanes for h, c in zip(homes, cells)]
            return _shuffle(w, b.dtype, lanes, names[0], names[-1], picks)
    texts = [cell(w, b, form, c) for c in cells]
    return f"({w.prelude.vector(b.dtype, lanes)}){{{', '.join(texts)}}}"


def _nearest(b: Buffer, where: tuple[int, ...]) -> tuple[int, ...]:
    """The cell of the buffer that is nearest to a place, which may lie outside."""
    return tuple([min(max(i, 0), n - 1) for i, n in zip(where, b.extents())])


def _transposed(w: Writer, b: Buffer, form: Form, index: tuple[Affine, ...], lanes: int) -> str | None:
    """A column of a lanes x lanes group of rows: the group is transposed once, by butterflies."""
    if form.lanes != lanes or lanes & (lanes - 1) or len(index) < 2 or b.fold:
        return None
    row, column = index[-2], index[-1]
    if row.terms != ((LANE, 1),) or column.terms or any(i.terms for i in index[:-2]):
        return None
    if row.const % lanes or row.const + lanes > b.extents()[-2]:
        return None
    outer = [i.const for i in index[:-2]]
    vector, offset = divmod(column.const, lanes)
    key = ("transposed", b.name, tuple(outer), row.const, vector)
    stem = w.named(key, anywhere=False)
    if stem is None:
        stem = _butterflies(w, b.dtype, lanes, [_name(w, b, *outer, row.const + i, vector) for i in range(lanes)])
        block = w.function.blocks[-1]
        block[key] = stem
        w.transposed.setdefault(b.name, []).append((block, key))
    return f"{stem}_{offset}"


def _butterflies(w: Writer, t: DType, lanes: int, sources: list[str]) -> str:
    """Transpose a square of vectors in log2(lanes) rounds of pairwise shuffles."""
    v = w.prelude.vector(t, lanes)
    stem = w.function.fresh("t")
    names = [f"{stem}_{i}" for i in range(lanes)]
    w.line(f"{v} {', '.join(f'{n} = {s}' for n, s in zip(names, sources))}, {stem};")
    half = lanes // 2
    while half:
        low = [i if not i & half else lanes + i - half for i in range(lanes)]
        high = [i + half if not i & half else lanes + i for i in range(lanes)]
        for i in range(lanes):
            if not i & half:
                a, b = names[i], names[i + half]
                w.line(f"{stem} = {_shuffle(w, t, lanes, a, b, low)};")
                w.line(f"{b} = {_shuffle(w, t, lanes, a, b, high)}; {a} = {stem};")
        half //= 2
    return stem


def forget_transposes(w: Writer, name: str) -> None:
    """A new value ends the transposed copies of a buffer."""
    for block, key in w.transposed.pop(name, ()):
        block.pop(key, None)


def write(w: Writer, b: Buffer, form: Form, index: tuple[Affine, ...], place: Place, text: str, keep: bool) -> None:
    """Assign one cell (a scalar text), or a vector text to the cells of the active lanes."""
    forget_transposes(w, b.name)
    lanes = place.lanes
    if not lanes or not any(i.terms for i in index):
        w.line(assignment(cell(w, b, form, _constants(b, index), changed=True), text))
        return
    where = _whole(b, form, index, lanes)
    if where is None or where[2]:
        _write_cells(w, b, form, index, place, text)
        return
    name = _name(w, b, *where[0], where[1])
    if place.mask is not None and not _unobserved(form, where[1], place.mask):
        text = blend(w, place.mask, b.dtype, lanes, text, name)
        w.merged.add(name)
    w.line(assignment(name, text))
    if keep:
        barrier = w.prelude.keep(lanes, b.dtype)
        if barrier:
            w.line(f"{barrier}({name});")


def _unobserved(form: Form, vector: int, mask: Mask) -> bool:
    """Is no lane that the mask leaves out ever read?"""
    return is_literal(mask) and not form.observed[vector] & ~mask.bits


def _write_cells(w: Writer, b: Buffer, form: Form, index: tuple[Affine, ...], place: Place, text: str) -> None:
    """Vectors that do not lie on a vector of the buffer are taken apart."""
    value = w.function.fresh("t")
    w.line(f"const {w.prelude.vector(b.dtype, place.lanes)} {value} = {text};")
    bits = every(place.lanes) if place.mask is None else place.mask.bits
    lanes_mask = None
    if not is_literal(place.mask):
        assert place.mask is not None
        lanes_mask = vector_text(w, place.mask, b.dtype.bits, place.lanes)
    for lane in range(place.lanes):
        where = _constants(b, tuple([at_lane(i, lane) for i in index]))
        if bits >> lane & 1 and where == _nearest(b, where):  # a run-time mask leaves the others out
            target = cell(w, b, form, where, changed=True)
            guard = f"if ({lanes_mask}[{lane}]) " if lanes_mask else ""
            w.line(f"{guard}{target} = {value}[{lane}];")
