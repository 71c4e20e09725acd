"""Which loops of a pointwise stage become vectors: the trailing axes, as one loop where memory allows it.

A row that is no multiple of the vector wastes lanes; where every access runs on from one row to the
next, or repeats with a short period, the rows are one long row.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm, prod
from typing import NamedTuple

from tensordsl.schedules.analysis import MOST_LOADS, address, cost, depends, lane_distances

from tensordsl import expr
from tensordsl.affine import Affine, Quasi
from tensordsl.expr import Axis, Index, Op, Read
from tensordsl.sizes import Size, likely
from tensordsl.targets import Target
from tensordsl.tensor import Definition, Tensor

#: Vectors of one unrolled step: repeated patterns of more are not worth their text.
MOST_VECTORS = 8
#: A body of at most this cost is written out for so many vectors at a time.
CHEAP = 16
UNROLLED = 4
#: Whole vectors of a row beside which a tail does not count.
LONG = 8
ROW = "@row"


class Flat(NamedTuple):
    """axes: how many trailing axes become one loop.  width: elements of a step (0: no vectors)."""

    axes: int
    width: int


def flat(t: Tensor, d: Definition, target: Target) -> Flat:
    """The loops to fuse and the width of a step."""
    most = 1 if _indices(d) else len(d.axes)  # conditions on an index want their rows
    if any(isinstance(a.extent, Size) for a in d.axes[1:]):  # nor do rows of any length form one
        most = 1
    best = Flat(1, 0)
    for count in range(1, most + 1):
        axes = d.axes[len(d.axes) - count :]
        extent, width = prod(likely(a.extent) for a in axes), step_width(t, d, axes, target)
        if width:
            best = Flat(count, width * _vectors(d, extent, width))
            if extent % width == 0 or extent >= LONG * width:
                break
    return best


def step_width(t: Tensor, d: Definition, axes: tuple[Axis, ...], target: Target) -> int:
    """Elements of a step along some axes in memory order, 0 where elements would be loaded one by one."""
    lanes, vector = target.lanes(t.dtype), target.vector_bytes // _widest(t, d)
    env = _digits(axes)
    reads = [r for r in d.reads if any(depends(r, a.name) for a in axes)]
    places = [address(Read(r.source, tuple(i.substitute(env) for i in r.index))) for r in reads]
    width = lcm(lanes, *(q.by for a in places for q in _quasis(a)))
    if width > MOST_VECTORS * max(lanes, vector):
        width = lanes
    regular = [_regular(a, width, vector) for a in places]
    if all(regular):
        return width
    # elements of one operand beside vectors of another are still worth it
    some = len(axes) == 1 and any(a.coefficient(ROW) in (0, 1) and not list(_quasis(a)) for a in places)
    return lanes if some else 0


def _indices(d: Definition) -> bool:
    """Are indices used as numbers or in conditions?"""
    return any(isinstance(e, Index) for e in expr.walk(d.body))


def _vectors(d: Definition, extent: int, width: int) -> int:
    """Steps to write out one after the other, where a little arithmetic does not hide the loop around it."""
    if not 0 < cost(d.body) <= CHEAP or _indices(d):
        return 1
    steps = -(-extent // width)
    return UNROLLED if steps >= LONG * UNROLLED else steps if steps <= UNROLLED else 1


def _digits(axes: tuple[Axis, ...]) -> dict[str, Affine]:
    """Each axis in terms of the one loop over all of them."""
    env, step = {}, 1
    for a in reversed(axes):
        env[a.name] = (Affine.of(ROW) // step) % a.extent if a is not axes[0] else Affine.of(ROW) // step
        step *= a.extent
    return env


def _regular(a: Affine, width: int, vector: int) -> bool:
    """Does each vector of a step need few whole loads?"""
    found = lane_distances(a, ROW, width)
    if found is None:
        return False
    return all(_loads(found[i : i + vector], vector) <= MOST_LOADS for i in range(0, width, vector))


def _loads(distances: tuple[int, ...], vector: int) -> int:
    """Whole vectors that cover the elements."""
    count, end = 0, min(distances) - 1
    for d in sorted(distances):
        if d > end:
            count, end = count + 1, d + vector - 1
    return count


def _quasis(a: Affine) -> Iterator[Quasi]:
    for atom, _ in a.terms:
        if isinstance(atom, Quasi) and ROW in atom.argument.names():
            yield atom
            yield from _quasis(atom.argument)


def _widest(t: Tensor, d: Definition) -> int:
    """Bytes of the widest number that a definition computes with."""
    sizes = [e.dtype.computed.bytes for e in expr.walk(d.body) if isinstance(e, (Op, Read)) and e.dtype.kind != "b"]
    return max([t.dtype.computed.bytes, *sizes])
