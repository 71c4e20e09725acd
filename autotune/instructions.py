"""Instructions of one call of a nest, counted loop by loop.

Counts are expectations over sampled iterations, so that triangular loops and short last tiles count
as what they are.  What does not change within a loop is counted outside of it, and equal addresses
of an unrolled body are loaded once: compilers do both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensordsl.schedules.components import split_components
from tensordsl.schedules.loopnest import Alloc, Buffer, For, If, Outline, Seq, Stmt, Store

from tensordsl import expr
from tensordsl.affine import Affine, Datum
from tensordsl.expr import Expr, Index, Op, Read

_SAMPLES = 16  # points per nest at which bounds are evaluated
_MOVE = 0.25  # a move between registers or to memory, in units of an FMA
_FMA_LATENCY = 4  # cycles, Zen and Skylake+
_MEMORY_ACCUMULATE = 9  # cycles: an addition and a store forwarded to the next load
#: Cost of one vector operation in units of an FMA (throughput; functions as printed polynomials).
_COST = {
    "div": 8.0, "sqrt": 8.0, "rsqrt": 10.0, "exp": 12.0, "exp2": 11.0, "log": 14.0, "log2": 14.0, "tanh": 16.0,
    "erf": 20.0, "sin": 20.0, "cos": 20.0, "pow": 28.0, "floordiv": 20.0, "mod": 20.0, "cast": 0.5,
}  # fmt: skip

Samples = np.ndarray[Any, Any]


@dataclass(slots=True)
class Instructions:
    """flops: arithmetic operations, an FMA counting two.  arithmetic: the same as numbers of FMAs that
    take as long: a division, an exponential are several.  vector_ops, loads, stores: instructions on
    full vectors.  broadcasts: loads of one number; gathers: those of them that fill a vector.
    statements: executions of stores, lanes counted.  body: the largest unrolled body in statements.
    chains: independent accumulations of the busiest statement.  latency: cycles that its and others'
    dependent accumulations take at least.  registers: vectors held at once.  lane_use: share of the
    lanes that do work.  iterations: of loops that stay loops.  parallel: of the parallel loops.
    """

    flops: float = 0.0
    arithmetic: float = 0.0
    vector_ops: float = 0.0
    loads: float = 0.0
    broadcasts: float = 0.0
    gathers: float = 0.0
    stores: float = 0.0
    statements: float = 0.0
    body: float = 0.0
    chains: float = 16.0
    latency: float = 0.0
    registers: float = 0.0
    lanes: float = 0.0
    used_lanes: float = 0.0
    iterations: float = 0.0
    parallel: float = 1.0

    @property
    def lane_use(self) -> float:
        return self.used_lanes / self.lanes if self.lanes else 1.0


def count(body: Stmt, vector_bytes: int) -> Instructions:
    """The instructions of a statement on vectors of this width."""
    counter = _Counter(vector_bytes)
    counter.visit(split_components(body), _Scope({}, (), np.ones(_SAMPLES)))
    return counter.found


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where a statement stands: sampled values of the loop variables, the loops with their trips at
    each sample, and the share of the iterations that pass the guards."""

    values: Mapping[str, Samples]
    loops: tuple[tuple[For, Samples], ...]
    share: Samples

    def count(self, level: int) -> Samples:
        """Iterations of the ``level`` outermost loops together."""
        total = self.share
        for _, trips in self.loops[:level]:
            total = total * trips
        return total

    def distinct(self, level: int, used: frozenset[str], lanes: int) -> float:
        """Instructions for something that changes with the loops ``used``, computed within the ``level``
        outermost: once for all iterations of unrolled loops it does not use, by vectors along a
        vector loop it uses."""
        total = self.share
        for f, trips in self.loops[:level]:
            if f.kind == "vector":
                total = total * (np.ceil(trips / lanes) if f.var in used else 1.0)
            elif f.kind != "unroll" or f.var in used:
                total = total * trips
        return float(total.mean())


@dataclass(frozen=True, slots=True)
class _Term:
    """What a value depends on.  level: loops around it; used: the loops its addresses change with."""

    level: int
    used: frozenset[str]


class _Counter:
    def __init__(self, vector_bytes: int) -> None:
        self.vector_bytes = vector_bytes
        self.found = Instructions()
        self._depth: dict[str, int] = {}  # loops around the allocation of a buffer
        self._registers = 0.0
        self._most = 0.0

    def visit(self, s: Stmt, scope: _Scope) -> None:
        if isinstance(s, Seq):
            for item in s.items:
                self.visit(item, scope)
        elif isinstance(s, For):
            self._loop(s, scope)
        elif isinstance(s, If):
            self._guard(s, scope)
        elif isinstance(s, Alloc):
            self._alloc(s, scope)
        elif isinstance(s, Outline):
            self.visit(s.body, scope)
        elif isinstance(s, Store):
            self._store(s, scope)

    def _loop(self, s: For, scope: _Scope) -> None:
        low = np.max([_values(a, scope.values) for a in s.lo], axis=0)
        high = np.min([_values(a, scope.values) for a in s.hi], axis=0)
        trips = np.maximum(0.0, np.ceil((high - low) / s.step))
        # stratified positions, in another order at each depth so that depths do not move together
        order = np.arange(_SAMPLES) * (2 * len(scope.loops) + 1) % _SAMPLES
        position = np.floor((order + 0.5) / _SAMPLES * trips)
        value = low + s.step * np.minimum(position, np.maximum(trips - 1, 0))
        inner = _Scope({**scope.values, s.var: value}, (*scope.loops, (s, trips)), scope.share)
        total = float(inner.count(len(inner.loops)).mean())
        if s.kind in ("parallel", "block"):
            self.found.parallel = max(self.found.parallel, total)
        if s.kind == "serial":
            self.found.iterations += total
        self.visit(s.body, inner)

    def _guard(self, s: If, scope: _Scope) -> None:
        holds = np.ones(_SAMPLES, dtype=bool)
        for c in s.conditions:
            holds &= _values(c, scope.values) >= 0
        share = float(holds.mean())
        for branch, weight in ((s.then, max(share, 0.5 / _SAMPLES)), (s.otherwise, 1.0 - share)):
            if branch is not None and weight > 0:
                self.visit(branch, _Scope(scope.values, scope.loops, scope.share * weight))

    def _alloc(self, s: Alloc, scope: _Scope) -> None:
        size = s.buffer.size() * s.buffer.dtype.bytes / self.vector_bytes
        held = math.ceil(size) if s.buffer.scope == "register" else 0
        self._depth[s.buffer.name] = len(scope.loops)
        self._registers += held
        self.found.registers = max(self.found.registers, self._registers)
        self.visit(s.body, scope)
        self._registers -= held

    # ------------------------------------------------------------ one statement

    def _store(self, s: Store, scope: _Scope) -> None:
        found = self.found
        depth = len(scope.loops)
        vector = next((f for f, _ in reversed(scope.loops) if f.kind == "vector"), None)
        lanes = max(1, self.vector_bytes // s.buffer.dtype.computed.bytes)
        total = scope.count(depth)
        serial = np.ones(_SAMPLES)
        packets = np.ones(_SAMPLES)
        for f, trips in scope.loops:
            if f is vector:
                packets = np.ceil(trips / lanes) / np.maximum(trips, 1.0)
            if f.kind not in ("unroll", "vector"):
                serial = serial * trips
        executed = float((total * packets).mean())
        found.statements += float(total.mean())
        found.lanes += executed * lanes
        found.used_lanes += float(total.mean())
        found.body = max(found.body, float((total / np.maximum(serial, 1e-9)).mean()))
        busy = self._operations(s, scope, lanes)
        found.vector_ops += max(busy, _MOVE * executed)
        self._loads(s, scope, vector, lanes)
        self._write(s, scope, vector, lanes)
        if s.op:
            self._accumulation(s, scope, vector, lanes, max(busy, executed))

    def _operations(self, s: Store, scope: _Scope, lanes: int) -> float:
        """Count the arithmetic of a statement; returns its vector instructions in units of an FMA."""
        terms: dict[int, _Term] = {}
        busy = 0.0
        depth = len(scope.loops)

        def add(name: str, level: int, used: frozenset[str], fused: bool) -> float:
            number = float(scope.count(level).mean())
            self.found.flops += number * (name not in ("cast", "select"))
            cost = 0.0 if fused else _COST.get(name, 1.0)
            self.found.arithmetic += cost * number
            return cost * scope.distinct(level, used | {f.var for f, _ in scope.loops if f.kind == "unroll"}, lanes)

        for e in expr.walk(s.value):
            terms[id(e)] = term = self._term(e, terms, scope)
            if isinstance(e, Op):
                busy += add(e.name, term.level, term.used, self._fuses(e, terms))
        if s.op:
            assert isinstance(s.op, str)  # combinations are written out
            fused = s.op == "add" and isinstance(s.value, Op) and s.value.name == "mul"
            every = frozenset(f.var for f, _ in scope.loops)
            busy += add(s.op, depth, every, fused and terms[id(s.value)].level == depth)
        return busy

    def _fuses(self, e: Op, terms: Mapping[int, _Term]) -> bool:
        """Whether an addition is part of an FMA: a product of the same loop is added."""
        return e.name in ("add", "sub") and any(
            isinstance(a, Op) and a.name == "mul" and terms[id(a)].level == terms[id(e)].level for a in e.args
        )

    def _term(self, e: Expr, terms: Mapping[int, _Term], scope: _Scope) -> _Term:
        names: frozenset[str] = frozenset()
        level = 0
        if isinstance(e, Read):
            names = frozenset().union(*(i.names() for i in e.index)) if e.index else names
            level = self._depth.get(e.source.name, 0)
        elif isinstance(e, Index):
            names = e.affine.names()
        for child in expr.children(e):
            level = max(level, terms[id(child)].level)
            names |= terms[id(child)].used
        for n, (f, _) in enumerate(scope.loops):
            if f.var in names:
                level = max(level, n + 1)
        return _Term(level, names)

    def _loads(self, s: Store, scope: _Scope, vector: For | None, lanes: int) -> None:
        seen: set[tuple[str, tuple[Affine, ...]]] = set()
        for r in expr.reads(s.value):
            buffer = r.source
            assert isinstance(buffer, Buffer)
            if buffer.scope == "register" or (buffer.name, r.index) in seen:
                continue
            seen.add((buffer.name, r.index))
            term = self._term(r, {}, scope)
            stride = 0 if vector is None else _stride(buffer, r.index, vector.var)
            self._load(scope.distinct(term.level, term.used, lanes), stride, lanes)

    def _load(self, times: float, stride: int, lanes: int) -> None:
        if stride == 1:
            self.found.loads += times
            return
        if stride:
            times *= lanes
            self.found.gathers += times
        self.found.broadcasts += times

    def _write(self, s: Store, scope: _Scope, vector: For | None, lanes: int) -> None:
        if s.buffer.scope == "register":
            return
        used = frozenset().union(*(i.names() for i in s.index)) if s.index else frozenset()
        times = scope.distinct(len(scope.loops), used, lanes)
        stride = 0 if vector is None else _stride(s.buffer, s.index, vector.var)
        if s.op:
            self._load(times, stride, lanes)
        self.found.stores += times if stride in (0, 1) else times * lanes

    def _accumulation(self, s: Store, scope: _Scope, vector: For | None, lanes: int, busy: float) -> None:
        """Independent accumulations in flight bound the rate by latency."""
        used = frozenset().union(*(i.names() for i in s.index)) if s.index else frozenset()
        chains, repeated = 1.0, False
        for f, trips in reversed(scope.loops):
            mean = float(trips.mean())
            if f.var in used:
                chains *= mean if f is not vector else max(1.0, mean / lanes)
            elif f.kind not in ("unroll", "vector"):
                repeated = True
                break
        if not repeated:
            return
        if busy > self._most:  # of the statement that does most of the work
            self._most, self.found.chains = busy, chains
        delay = _FMA_LATENCY if s.buffer.scope == "register" else _MEMORY_ACCUMULATE
        self.found.latency += busy * delay / max(1.0, min(chains, 64.0))


def _values(a: Affine, values: Mapping[str, Samples]) -> Samples:
    total = np.full(_SAMPLES, float(a.const))
    for atom, c in a.terms:
        if isinstance(atom, str):
            total = total + c * values.get(atom, np.zeros(_SAMPLES))
        elif isinstance(atom, Datum):
            total = total + c * (atom.low + atom.high) / 2
        else:
            x = _values(atom.argument, values)
            total = total + c * (np.floor(x / atom.by) if atom.kind == "div" else np.mod(x, atom.by))
    return total


def _stride(buffer: Buffer, index: tuple[Affine, ...], var: str) -> int:
    """Elements between neighbouring lanes (2 where it is not one number)."""
    total = 0
    for i, stride in zip(index, buffer.strides()):
        if var in i.names() and not i.coefficient(var):
            return 2
        total += i.coefficient(var) * stride
    return total
