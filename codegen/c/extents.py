"""How far loops run: static extents with guards for what is left, and the lanes of vector loops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tensordsl.schedules.loopnest import Alloc, Buffer, For, If, Stmt, Store, children

from tensordsl import conditions, expr
from tensordsl.affine import Affine, Interval, interval
from tensordsl.expr import Const, Expr, Index, Op, Read
from tensordsl.targets import Target

#: functions of the vector library (see mathematics.py)
MATHEMATICS = frozenset(["exp", "exp2", "log", "log2", "tanh", "erf", "sin", "cos", "pow", "rsqrt"])
Ranges = Mapping[str, Interval]


class Extent(NamedTuple):
    """``count`` trips from ``start`` in steps; those where a guard is negative do not happen."""

    start: Affine
    count: int  # type: ignore[assignment]  # hides tuple.count
    guards: tuple[Affine, ...] = ()


def prune(bounds: tuple[Affine, ...], ranges: Ranges, lower: bool) -> tuple[Affine, ...]:
    """Bounds of a max (lower) or min without those that another one makes needless."""
    if len(bounds) == 1:
        return bounds
    kept: list[Affine] = []
    for i, x in enumerate(bounds):
        needless = False
        for j, y in enumerate(bounds):
            if i != j and (y in kept or j > i):
                low, high = interval(x - y, ranges)
                if (lower and high is not None and high <= 0) or (not lower and low is not None and low >= 0):
                    needless = True
                    break
        if not needless:
            kept.append(x)
    return tuple(kept)


def static_extent(lo: tuple[Affine, ...], hi: tuple[Affine, ...], step: int, var: str, ranges: Ranges) -> Extent | None:
    """The extent of a loop where one pair of bounds has a constant distance, or None."""
    if step != 1 and len(lo) > 1:
        return None
    best: tuple[int, Affine, Affine] | None = None
    for a in lo:
        for b in hi:
            distance = b - a
            if distance.is_constant and (best is None or distance.const < best[0]):
                best = (distance.const, a, b)
    if best is None:
        return None
    n, start, end = best
    v = Affine.of(var)
    guards = [v - a for a in lo if a is not start] + [b - v - 1 for b in hi if b is not end]
    return Extent(start, max(0, -(-n // step)), tuple(guards))


def value_bytes(value: Expr) -> int:
    """The widest element a stored value computes with (an index inside a cast needs no 64 bits)."""
    widest = 1
    seen: set[int] = set()

    def go(e: Expr) -> None:
        nonlocal widest
        if id(e) in seen:
            return
        seen.add(id(e))
        if isinstance(e, Op):
            if e.dtype.kind == "b" and conditions.conditions(e) is not None:
                return
            widest = max(widest, e.dtype.bytes)
            if e.name == "cast" and isinstance(e.args[0], Index):
                return
            for a in e.args:
                go(a)
        elif isinstance(e, (Index, Read)) or (isinstance(e, Const) and e.dtype.is_float):
            widest = max(widest, e.dtype.bytes)

    go(value)
    return widest


class Lanes:
    """Lanes of every vector loop, and of the register buffers these loops touch.

    Loops that share a register buffer share their lanes: what the widest element they compute with
    allows, and no more than the longest of them needs.  ``loops`` and ``buffers`` are keyed by the
    identity of the `For` and of the `Alloc`.
    """

    def __init__(self, body: Stmt, target: Target) -> None:
        self._parent: dict[int, int] = {}
        self._bytes: dict[int, int] = {}
        self._extent: dict[int, int] = {}
        loops: list[int] = []
        self._collect(body, None, {}, loops)
        lanes = {key: self._lanes(key, target) for key in list(self._parent)}
        self.loops = {key: lanes[key] for key in loops}
        self.buffers = {key: n for key, n in lanes.items() if key not in self.loops}

    def _lanes(self, key: int, target: Target) -> int:
        root = self._find(key)
        most = target.vector_bytes // self._bytes.get(root, 4)
        need = 1 << max(0, self._extent.get(root, most) - 1).bit_length()
        return max(1, min(most, need))

    def _find(self, key: int) -> int:
        self._parent.setdefault(key, key)
        while self._parent[key] != key:
            key = self._parent[key]
        return key

    def _join(self, a: int, b: int) -> None:
        a, b = self._find(a), self._find(b)
        if a == b:
            return
        self._parent[b] = a
        self._bytes[a] = max(self._bytes.get(a, 1), self._bytes.get(b, 1))
        self._extent[a] = max(self._extent.get(a, 1), self._extent.get(b, 1))

    def _collect(self, s: Stmt, vector: For | None, scope: dict[str, int], loops: list[int]) -> None:
        if isinstance(s, For) and s.kind == "vector":
            loops.append(id(s))
            e = static_extent(s.lo, s.hi, s.step, s.var, {})
            root = self._find(id(s))
            self._extent[root] = max(self._extent.get(root, 1), e.count if e else 1 << 30)
            vector = s
        elif isinstance(s, Alloc):
            scope = {**scope, s.buffer.name: id(s)}
        elif isinstance(s, Store) and vector is not None:
            root = self._find(id(vector))
            width = max(s.buffer.dtype.bytes, value_bytes(s.value))
            self._bytes[root] = max(self._bytes.get(root, 1), width)
            if any(isinstance(e, Op) and e.name in MATHEMATICS for e in expr.walk(s.value)):
                self._extent[root] = 1 << 30  # elementary functions are written for whole registers
            for b in _buffers(s):
                if b.scope == "register" and b.name in scope:
                    self._join(id(vector), scope[b.name])
        for c in children(s):
            self._collect(c, vector, scope, loops)


def _buffers(s: Store) -> Iterable[Buffer]:
    yield s.buffer
    for r in expr.reads(s.value):
        if isinstance(r.source, Buffer):
            yield r.source


def varies(s: Stmt, var: str) -> bool:
    """Does a loop inside run a number of times that depends on ``var``, directly or through others?"""
    names = {var}

    def go(x: Stmt) -> bool:
        if isinstance(x, For) and any(names & b.names() for b in (*x.lo, *x.hi)):
            return True
        return any(go(c) for c in children(x))

    return go(s)


def allocates(s: Stmt) -> bool:
    return isinstance(s, Alloc) or any(allocates(c) for c in children(s))


def conditions_of(s: Stmt) -> Iterable[Affine]:
    """Every guard in a statement."""
    if isinstance(s, If):
        yield from s.conditions
    for c in children(s):
        yield from conditions_of(c)
