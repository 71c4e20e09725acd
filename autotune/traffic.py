"""Bytes that move between caches, read off the loops of a nest.

Bounding boxes of what each loop touches against the size of each cache: where one iteration of a
loop fits, the next one finds what they share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tensordsl.schedules.loopnest import Buffer, For, LoopNest, Stmt, Store, children

from tensordsl import expr
from tensordsl.affine import Affine, interval
from tensordsl.expr import Read

_LINE = 64  # bytes of a cache line

Ranges = Mapping[str, tuple[int, int]]
_Access = tuple[Buffer, tuple[Affine, ...]]


@dataclass(frozen=True, slots=True)
class _Node:
    """A loop that is not unrolled (or the whole nest).

    executions: how often it runs as a whole.  bytes: per buffer, what one such run touches.
    body: bytes of one iteration.  own: bytes of a run outside inner loops.
    """

    executions: float
    loops: Ranges
    accesses: tuple[_Access, ...]
    bytes: Mapping[str, float]
    body: float
    own: float
    children: tuple[_Node, ...]

    @property
    def working_set(self) -> float:
        return sum(self.bytes.values())


@dataclass(frozen=True, slots=True)
class Traffic:
    """into: bytes that enter each cache, in order of ``caches``.  compulsory: bytes of the caller's
    arrays that are touched at least once.  working_sets: bytes touched by the loops along the
    busiest path, innermost first."""

    into: tuple[float, ...]
    compulsory: float
    working_sets: list[float]


def traffic(nest: LoopNest, caches: Sequence[int], cold: bool) -> Traffic:
    """What one call moves.  cold: operands are in memory at the start; otherwise they are in the
    first cache that holds them all."""
    root = _node(nest.body, {}, {}, 1.0, 1.0)
    into = tuple(0.0 if root.working_set <= c and not cold else _entering(root, c) for c in caches)
    parameters = {b.name for b in nest.parameters}
    compulsory = sum(size for name, size in root.bytes.items() if name in parameters)
    node, sets = root, [root.working_set]
    while node.children:
        node = max(node.children, key=lambda n: n.executions * len(n.accesses))
        sets.append(node.working_set)
    return Traffic(into, compulsory, sets[::-1])


def _node(body: Stmt, loops: Ranges, ranges: Ranges, executions: float, trips: float) -> _Node:
    """A loop over ``loops`` with what its body touches; unrolled loops belong to the body."""
    own: list[_Access] = []
    varying = dict(loops)
    inner: list[_Node] = []

    def go(s: Stmt, known: Ranges, count: float) -> None:
        if isinstance(s, For):
            low, high = _range(s, known)
            new = {**known, s.var: (low, high)}
            times = max(0, -(-(high - low + 1) // s.step))
            if s.kind in ("unroll", "vector"):
                varying[s.var] = (low, high)
                go(s.body, new, count)
            else:
                inner.append(_node(s.body, {s.var: (low, high)}, new, count, times))
        elif isinstance(s, Store):
            accesses = [*((_buffer(r), r.index) for r in expr.reads(s.value)), (s.buffer, s.index)]
            own.extend((b, i) for b, i in accesses if b.scope != "register")
        else:
            for child in children(s):
                go(child, known, count)

    go(body, ranges, executions * trips)
    own_bytes = sum(_footprint(own, varying).values())
    for child in inner:
        varying.update(child.loops)
    accesses = (*own, *(a for child in inner for a in child.accesses))
    whole = _footprint(accesses, varying)
    once = {v: r for v, r in varying.items() if v not in loops}
    body_bytes = sum(_footprint(accesses, once).values()) if inner else 0.0
    return _Node(executions, varying, accesses, whole, body_bytes, own_bytes, tuple(inner))


def _buffer(r: Read) -> Buffer:
    assert isinstance(r.source, Buffer)
    return r.source


def _range(f: For, ranges: Ranges) -> tuple[int, int]:
    """First and last value of a loop variable at most."""
    lows = [interval(a, ranges)[0] for a in f.lo]
    highs = [interval(a, ranges)[1] for a in f.hi]
    low = max((x for x in lows if x is not None), default=0)
    high = min((x for x in highs if x is not None), default=low + 1)
    return low, max(low, high - 1)


def _footprint(accesses: Sequence[_Access], loops: Ranges) -> dict[str, float]:
    """Bytes of each buffer that are touched while ``loops`` run: lines of the bounding box."""
    boxes: dict[str, tuple[Buffer, list[tuple[int, int]]]] = {}
    for buffer, index in set(accesses):
        box: list[tuple[int, int]] = []
        for i, extent in zip(index, buffer.shape):
            low, high = interval(i, {n: loops.get(n, (0, 0)) for n in i.names()})
            first, last = low or 0, extent - 1 if high is None else high
            box.append((first, min(last, first + extent - 1)))
        known = boxes.get(buffer.name)
        if known:
            box = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(known[1], box)]
        boxes[buffer.name] = (buffer, box)
    found: dict[str, float] = {}
    for name, (buffer, box) in boxes.items():
        folds = buffer.fold + (0,) * len(box)
        widths = [min(b - a + 1, f or b - a + 1) for (a, b), f in zip(box, folds)] or [1]
        found[name] = math.prod(widths[:-1]) * math.ceil(widths[-1] * buffer.dtype.bytes / _LINE) * _LINE
    return found


def _entering(node: _Node, cache: int) -> float:
    """Bytes that enter a cache.  Where one iteration fits, what the next one shares with it is still
    there, so a run loads each line once; otherwise the inner loops load what they need."""
    if node.body <= cache:
        return node.executions * node.working_set
    return sum(_entering(c, cache) for c in node.children) + node.executions * node.own
