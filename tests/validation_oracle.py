"""The verdict on a nest found by running it: every iteration, with symbolic contents of every cell.

Independent of isl and of the code that extracts events: a cell holds nothing, an element, or an
accumulator with the multiset of its points; a stored value is compared with the definition of its
element at each single point.  Only for small sizes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import product
from typing import Any

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
    walk,
)  # fmt: skip

from tensordsl.affine import Affine
from tensordsl.combination import Monoid
from tensordsl.expr import Const, Expr, Index, Op, Read, Reducer, conditions, is_identity

Env = dict[str, int]


def neutral(term: Expr, reducer: Reducer | Monoid, at: Mapping[str, int]) -> bool:
    """Is the term of a reduction at a point its identity, by the conditions on the indices alone?"""
    while isinstance(term, Op) and term.name == "select":
        facts = conditions(term.args[0])
        other = term.args[2]
        if facts is None or not is_identity(other, reducer):
            return False
        if any(f.evaluate(at) < 0 for f in facts):
            return True
        term = term.args[1]
    return False


class Wrong(Exception):
    """The nest is wrong; the text says why."""


def verdict(nest: LoopNest, exact: bool = False) -> str | None:
    """None where the nest computes its program, else what goes wrong first.

    exact: float sums and products combine their points in the written order.
    """
    try:
        _Run(nest, exact).run()
    except Wrong as wrong:
        return str(wrong)
    return None


class _Run:
    def __init__(self, nest: LoopNest, exact: bool) -> None:
        self.nest, self.exact = nest, exact
        self.tensors = {t.name: t for t in (*nest.program.inputs, *nest.program.tensors)}
        self.memory: dict[Any, Any] = {}
        self.storage = 0
        self.entries = 0
        #: (loop entry, storage, cell) -> what each iteration does to it
        self.touched: dict[Any, set[tuple[int, bool, Any]]] = defaultdict(set)
        #: loops around: (entry, For, iteration, storages allocated before it)
        self.loops: list[tuple[int, For, int, int]] = []

    def layouts(self) -> None:
        """Storage is laid out well, also where nothing runs."""
        for s, path in walk(self.nest.body):
            if not isinstance(s, Alloc):
                continue
            b = s.buffer
            around = {p.name for p in self.nest.parameters} | {a.buffer.name for a in path if isinstance(a, Alloc)}
            if b.name in around or any(n not in around for n in b.banks):
                raise Wrong("a name inside itself, or a bank that is not there")
            if b.banks and (not b.fold or b.fold[0] != len(b.banks)):
                raise Wrong("slices without a bank")
            if b.pitch and b.pitch < b.extents()[-1]:
                raise Wrong("rows overlap")

    def run(self) -> None:
        self.layouts()
        places: dict[str, tuple[int, Buffer]] = {}
        for b in self.nest.parameters:
            self.storage += 1
            places[b.name] = (self.storage, b)
            held = next((t for t in self.nest.program.inputs if t.name == b.name), None)
            if held is not None:
                for cell in product(*map(range, held.shape)):
                    self.memory[self.storage, cell] = ("element", held.name, cell)
        self.inputs = {
            places[t.name][0] for t in self.nest.program.inputs if t.name not in self.nest.program.inplace.values()
        }
        self.walk(self.nest.body, {}, places)
        for t in self.nest.program.outputs:
            storage, _ = places[self.nest.program.inplace.get(t.name, t.name)]
            for cell in product(*map(range, t.shape)):
                self.complete(self.memory.get((storage, cell)), t.name, cell)
        for uses in self.touched.values():
            self.race(uses)

    def race(self, uses: set[tuple[int, bool, Any]]) -> None:
        if len({iteration for iteration, _, _ in uses}) < 2 or not any(writes for _, writes, _ in uses):
            return
        for i, writes, lane in uses:
            for j, also, other in uses:
                if i != j and (writes or also) and not (lane is not None and lane == other):
                    raise Wrong("race")

    def walk(self, s: Stmt, env: Env, places: dict[str, Any]) -> None:
        if isinstance(s, Seq):
            for item in s.items:
                self.walk(item, env, places)
        elif isinstance(s, For):
            lo, hi = max(x.evaluate(env) for x in s.lo), min(x.evaluate(env) for x in s.hi)
            self.entries += 1
            entry, before = self.entries, self.storage
            for v in range(lo, hi, s.step):
                self.loops.append((entry, s, v, before))
                self.walk(s.body, {**env, s.var: v}, places)
                self.loops.pop()
        elif isinstance(s, If):
            if all(c.evaluate(env) >= 0 for c in s.conditions):
                self.walk(s.then, env, places)
            elif s.otherwise is not None:
                self.walk(s.otherwise, env, places)
        elif isinstance(s, Alloc):
            self.storage += 1
            self.walk(s.body, env, {**places, s.buffer.name: (self.storage, s.buffer)})
        elif isinstance(s, Outline):
            self.walk(s.body, env, places)
        elif isinstance(s, Store):
            self.store(s, env, places)
        else:
            assert isinstance(s, (Prefetch, Sync))

    # -- cells

    def cell(self, b: Buffer, index: tuple[Affine, ...], env: Env, places: dict[str, Any]) -> Any:
        values = tuple(i.evaluate(env) for i in index)
        if any(not 0 <= v < e for v, e in zip(values, b.shape)):
            raise Wrong("bounds")
        folded = tuple(v % f if f else v for v, f in zip(values, b.fold + (0,) * len(values)))
        if b.name not in places or places[b.name][1] != b:
            raise Wrong("no such buffer")
        if b.banks and all(n in places for n in b.banks):
            return places[b.banks[folded[0]]][0], folded[1:]
        return places[b.name][0], folded

    def touch(self, s: Store, cell: Any, index: tuple[Affine, ...], writes: bool, combines: bool) -> None:
        if writes and cell[0] in self.inputs:
            raise Wrong("writes an input")
        for entry, loop, iteration, before in self.loops:
            if loop.kind not in ("serial", "unroll") and cell[0] <= before:
                lane = combines and loop.kind == "vector" and s.op in ("add", "mul", "max", "min")
                lane = lane and all(loop.var not in i.names() for i in index) and not self.ordered(s)
                self.touched[entry, cell].add((iteration, writes, id(s) if lane else None))

    def ordered(self, s: Store) -> bool:
        """Must the points of this reduction keep their order?"""
        d = self.tensors[s.instance.tensor].definition
        if d is not None and isinstance(d.reducer, Monoid):
            return self.exact or not d.reducer.commutative
        return self.exact and s.op in ("add", "mul") and s.buffer.dtype.is_float

    def complete(self, state: Any, tensor: str, index: tuple[int, ...]) -> None:
        if state is None or state[1:3] != (tensor, index):
            raise Wrong("value")
        if state[0] == "accumulator":
            d = self.tensors[tensor].definition
            assert d is not None
            at = dict(zip((a.name for a in d.axes), index))
            for point in product(*(range(a.extent) for a in d.reduce_axes)):
                at.update(zip((a.name for a in d.reduce_axes), point))
                if point not in state[3] and not neutral(d.body, d.reducer, at):
                    raise Wrong("incomplete")

    def accumulator(self, state: Any, tensor: str, index: tuple[int, ...]) -> Counter[tuple[int, ...]]:
        if state is None or state[0] != "accumulator" or state[1:3] != (tensor, index):
            raise Wrong("state")
        return state[3]  # type: ignore[no-any-return]

    # -- stores

    def store(self, s: Store, env: Env, places: dict[str, Any]) -> None:
        i = s.instance
        t = self.tensors.get(i.tensor)
        if t is None or len(i.index) != t.ndim or s.buffer.dtype != t.dtype:
            raise Wrong("structure")
        d = t.definition
        index = tuple(x.evaluate(env) for x in i.index)
        if any(not 0 <= x < e for x, e in zip(index, t.shape)):
            raise Wrong("outside the definition")
        needs_op = i.kind in ("update", "merge")
        reduction = d is not None and d.reducer is not None
        if i.kind == "compute" and (d is None or reduction):
            raise Wrong("structure")
        if i.kind in ("init", "update", "partial", "merge") and not reduction:
            raise Wrong("structure")
        if needs_op:
            assert d is not None and d.reducer is not None
            if s.op != d.reducer.combine:
                raise Wrong("op")
        elif s.op:
            raise Wrong("op")
        target = self.cell(s.buffer, s.index, env, places)
        points: list[tuple[int, ...]] = []
        if i.kind in ("update", "partial", "merge"):
            assert d is not None
            if len(i.points) != len(d.reduce_axes):
                raise Wrong("structure")
            ranges = [range(lo.evaluate(env), hi.evaluate(env)) for _, lo, hi in i.over]
            for values in product(*ranges):
                inner = {**env, **{v: x for (v, _, _), x in zip(i.over, values)}}
                points.append(tuple(p.evaluate(inner) for p in i.points))
            if i.kind == "update" and i.over:
                raise Wrong("structure")
            for p in points:
                if any(not 0 <= x < a.extent for x, a in zip(p, d.reduce_axes)):
                    raise Wrong("points")
        if i.kind in ("copy", "partial", "merge"):
            if not isinstance(s.value, Read) or not isinstance(s.value.source, Buffer):
                raise Wrong("expression")
            source = self.cell(s.value.source, s.value.index, env, places)
            if s.value.dtype != t.dtype:
                raise Wrong("expression")
            self.touch(s, source, s.value.index, False, False)
            state = self.memory.get(source)
            if i.kind == "copy":
                self.complete(state, t.name, index)
            else:
                held = self.accumulator(state, t.name, index)
                if set(held) != set(points):
                    raise Wrong("partial")
        elif i.kind == "init":
            assert d is not None and d.reducer is not None
            self.compare(d.reducer.identity(t.dtype), {}, s.value, env, s, places)
        else:
            assert d is not None
            inner = dict(zip((a.name for a in d.axes), index))
            if i.kind == "update":
                inner.update(zip((a.name for a in d.reduce_axes), points[0]))
            self.compare(d.body, inner, s.value, env, s, places)
        self.touch(s, target, s.index, True, needs_op)
        if i.kind in ("compute", "copy"):
            self.memory[target] = ("element", t.name, index)
            return
        if i.kind in ("init", "partial"):
            self.memory[target] = ("accumulator", t.name, index, Counter())
        held = self.accumulator(self.memory.get(target), t.name, index)
        if needs_op and self.ordered(s) and (i.kind == "merge" or any(p > points[0] for p in held)):
            raise Wrong("order")
        for p in points:
            held[p] += 1
            if held[p] > 1:
                raise Wrong("twice")

    def compare(self, d: Expr, denv: Env, n: Expr, env: Env, s: Store, places: dict[str, Any]) -> None:
        """The definition and the stored value agree at one point; every cell read holds its element."""
        for e, values in ((d, denv), (n, env)):
            if isinstance(e, Op) and e.name == "select":
                holds = _truth(e.args[0], values)
                if holds is not None:
                    side = e.args[1 if holds else 2]
                    if e is d:
                        return self.compare(side, denv, n, env, s, places)
                    return self.compare(d, denv, side, env, s, places)
        if isinstance(d, Read):
            if not isinstance(n, Read) or d.dtype != n.dtype or not isinstance(n.source, Buffer):
                raise Wrong("expression")
            cell = self.cell(n.source, n.index, env, places)
            self.touch(s, cell, n.index, False, False)
            return self.complete(self.memory.get(cell), d.source.name, tuple(x.evaluate(denv) for x in d.index))
        if isinstance(d, Index):
            if isinstance(n, Index):
                other = n.affine.evaluate(env)
            elif isinstance(n, Const) and n.dtype == d.dtype:
                other = int(n.value)
            else:
                raise Wrong("expression")
            if other != d.affine.evaluate(denv):
                raise Wrong("expression")
            return None
        if isinstance(d, Const):
            if not isinstance(n, Const) or n.dtype != d.dtype or repr(n.value) != repr(d.value):
                raise Wrong("expression")
            return None
        if not (isinstance(d, Op) and isinstance(n, Op) and d.name == n.name and d.dtype == n.dtype):
            raise Wrong("expression")
        for a, b in zip(d.args, n.args):
            self.compare(a, denv, b, env, s, places)
        return None


class _Unknown(Exception):
    """A condition that reads data, or compares floats."""


def _truth(e: Expr, env: Env) -> bool | None:
    """A condition on indices alone at a point; None where it reads data there."""
    try:
        return bool(_number(e, env))
    except _Unknown:
        return None


_COMPARE = {
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "and": lambda a, b: bool(a and b),
    "or": lambda a, b: bool(a or b), "not": lambda a: not a,
}  # fmt: skip


def _number(e: Expr, env: Env) -> int | bool:
    if isinstance(e, Index):
        return e.affine.evaluate(env)
    if isinstance(e, Const) and not e.dtype.is_float:
        return e.value  # type: ignore[return-value]
    if isinstance(e, Op) and e.name == "select":
        return _number(e.args[1 if _number(e.args[0], env) else 2], env)
    if isinstance(e, Op) and e.name in _COMPARE and (e.name != "not" or e.dtype.kind == "b"):
        return _COMPARE[e.name](*(_number(a, env) for a in e.args))  # type: ignore[no-any-return, operator]
    raise _Unknown
