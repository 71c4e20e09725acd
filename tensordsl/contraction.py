"""Sums of products as matrix products: the reductions that numpy's BLAS can do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tensordsl import expr
from tensordsl.arithmetic import Array
from tensordsl.expr import Expr, Op
from tensordsl.tensor import Definition

#: Elements of a factor or of a result block: 32 MB in float64.
BLOCK_ELEMENTS = 1 << 22
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Contraction:
    """Two or more factors whose product is summed.  axes: the positions each depends on."""

    factors: tuple[Expr, ...]
    axes: tuple[frozenset[int], ...]
    domain: tuple[Range, ...]
    outer: int

    def boxes(self) -> Iterator[tuple[Range, ...]]:
        """Blocks of the domain on which no factor and no result is large."""
        steps = [max(1, hi - lo) for lo, hi in self.domain]
        parts = [*self.axes, frozenset(range(self.outer))]
        while True:
            largest = max(parts, key=lambda p: math.prod(steps[d] for d in p))
            if math.prod(steps[d] for d in largest) <= BLOCK_ELEMENTS:
                break
            longest = max(largest, key=lambda d: steps[d])
            steps[longest] = -(-steps[longest] // 2)
        ranges = [[(i, min(i + s, hi)) for i in range(lo, hi, s)] for (lo, hi), s in zip(self.domain, steps)]
        return itertools.product(*ranges)


def contraction(d: Definition, domain: tuple[Range, ...]) -> Contraction | None:
    """The factors of a sum whose product need not be formed point by point, or None."""
    if d.reducer is None or d.reducer.name != "sum":
        return None
    factors = _factors(d.body)
    position = {a.name: i for i, a in enumerate((*d.axes, *d.reduce_axes))}
    long = {i for i, (lo, hi) in enumerate(domain) if hi - lo > 1}
    axes = [frozenset(position[n] for n in expr.free_names(f)) & long for f in factors]
    rest = _merge(list(axes))
    if len(rest) != 2 or all(a == long for a in rest):
        return None
    return Contraction(tuple(factors), tuple(axes), domain, len(d.axes))


def _factors(e: Expr) -> list[Expr]:
    if isinstance(e, Op) and e.name == "mul":
        return _factors(e.args[0]) + _factors(e.args[1])
    return [e]


def _merge(axes: list[frozenset[int]]) -> list[frozenset[int]]:
    """Which factors remain when those that add no axis to another one are multiplied into it."""
    while (pair := _inside(axes)) is not None:
        del axes[pair[0]]
    return axes


def _inside(axes: Sequence[frozenset[int]]) -> tuple[int, int] | None:
    if len(axes) > 2:
        for a, b in itertools.permutations(range(len(axes)), 2):
            if axes[a] <= axes[b]:
                return a, b
    return None


def contract(factors: Sequence[Array], extents: tuple[int, ...], outer: int) -> Array:
    """The sum over all but the first ``outer`` axes of the product of the factors.

    Integers go through float64 where that is exact, for its speed.
    """
    kind = np.result_type(*factors)
    if kind.kind in "iu":
        points = math.prod(extents[outer:])
        size = math.prod(max(abs(int(f.max(initial=0))), abs(int(f.min(initial=0)))) for f in factors)
        if points * size < 2**53:
            exact = contract([f.astype(np.float64) for f in factors], extents, outer)
            return np.rint(exact).astype(np.int64).astype(kind)
    rest = list(factors)
    while len(rest) > 2:
        used = [_used(f) for f in rest]
        a, b = _inside(used) or _smallest(used, extents)
        rest[b] = rest[a] * rest[b]
        del rest[a]
    if len(rest) == 1:
        rest.append(np.ones((1,) * len(extents), kind))
    return _product(rest[0], rest[1], extents, outer).astype(kind, copy=False)


def _smallest(used: list[frozenset[int]], extents: tuple[int, ...]) -> tuple[int, int]:
    """The two factors whose product has the fewest elements."""
    pairs = itertools.combinations(range(len(used)), 2)
    return min(pairs, key=lambda p: math.prod(extents[d] for d in used[p[0]] | used[p[1]]))


def _used(f: Array) -> frozenset[int]:
    return frozenset(d for d, n in enumerate(f.shape) if n > 1)


def _product(a: Array, b: Array, extents: tuple[int, ...], outer: int) -> Array:
    count = 1  # points of the axes that no factor depends on
    for d in range(outer, len(extents)):
        if a.shape[d] == b.shape[d] == 1:
            count *= extents[d]
        elif a.shape[d] == 1:
            b = b.sum(axis=d, keepdims=True, dtype=b.dtype)
        elif b.shape[d] == 1:
            a = a.sum(axis=d, keepdims=True, dtype=a.dtype)
    left, right = _used(a), _used(b)
    batch = sorted(d for d in left & right if d < outer)
    rows = sorted(d for d in left - right if d < outer)
    columns = sorted(d for d in right - left if d < outer)
    inner = sorted(d for d in left & right if d >= outer)
    result = np.matmul(_matrix(a, batch, rows, inner), _matrix(b, batch, inner, columns))
    order = [*batch, *rows, *columns]
    result = result.reshape([extents[d] for d in order] + [1] * (outer - len(order)))
    missing = [d for d in range(outer) if d not in order]
    back: list[int] = [int(d) for d in np.argsort([*order, *missing])] if outer else []
    result = result.transpose(back)
    scaled: Array = result if count == 1 else result * np.asarray(count).astype(result.dtype)
    return scaled


def _matrix(f: Array, batch: list[int], rows: list[int], columns: list[int]) -> Array:
    rest = [d for d in range(f.ndim) if d not in {*batch, *rows, *columns}]

    def size(dims: list[int]) -> int:
        return math.prod(f.shape[d] for d in dims)

    matrix: Array = f.transpose([*batch, *rows, *columns, *rest]).reshape(
        [*(f.shape[d] for d in batch), size(rows), size(columns)]
    )
    return matrix
