"""How many elements an access touches over a tile, in closed form of the tile's extents.

An access is a vector of index expressions (the rows of the access matrix); a tile is a box
``0 <= axis < extent``.  Rows that share no axis count independently.  A row alone counts the sums of
arithmetic progressions, exactly, by shifting bit sets.  Rows that share axes count the box itself
where the map is injective, and are enumerated where it is not.  Results are memoised, so that a
search over many tile sizes costs table look-ups; isl is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np

from tensordsl.affine import Affine, Atom, Datum, Quasi, interval
from tensordsl.errors import InternalError

#: Points enumerated at most for one group of rows; beyond it the count is an upper bound.
ENUMERATED = 1 << 18
Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class _Row:
    """Linear terms of one index and what is not linear in it; axes by position."""

    linear: tuple[tuple[int, int], ...]
    rest: Affine  # divisions and remainders, over axes named by their position


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows that share axes."""

    rows: tuple[_Row, ...]
    axes: tuple[int, ...]
    injective: bool

    def count(self, extents: tuple[int, ...]) -> tuple[int, bool]:
        """(elements, is that exact) over the extents of ``axes``."""
        box = 1
        for e in extents:
            box *= e
        if self.injective or box == 0:
            return box, True
        if len(self.rows) == 1 and not self.rows[0].rest.terms:
            where = {a: n for n, a in enumerate(self.axes)}
            linear = self.rows[0].linear
            return _sums(tuple([abs(c) for _, c in linear]), tuple([extents[where[a]] for a, _ in linear])), True
        if box <= ENUMERATED:
            return _enumerate(self, extents), True
        alone = 1
        for row in self.rows:
            alone *= _row_bound(row, dict(zip(self.axes, extents)))
        return min(box, alone), False


class Footprint:
    """The footprint of one access.

    axes: the names of the tile's axes; every other name in an index is constant over the tile.
    Divisions and remainders are counted for a tile at the origin.
    """

    def __init__(self, index: Sequence[Affine], axes: Sequence[str]) -> None:
        self.axes = tuple(axes)
        index = [_scattered(i) for i in index]
        position = {name: n for n, name in enumerate(self.axes)}
        rows = [r for r in (_row(e, position) for e in index) if r.linear or r.rest.terms]
        self.groups = tuple(_groups(rows))

    def __call__(self, extents: Mapping[str, int] | Sequence[int]) -> int:
        """The number of elements for one tile (exact or an upper bound, see `exact`)."""
        return self._count(extents)[0]

    def exact(self, extents: Mapping[str, int] | Sequence[int]) -> bool:
        """Is the number exact for these extents?"""
        return self._count(extents)[1]

    def _count(self, extents: Mapping[str, int] | Sequence[int]) -> tuple[int, bool]:
        if isinstance(extents, Mapping):
            sizes = tuple([extents[a] for a in self.axes])
        else:
            sizes = tuple(extents)
        total, exact = 1, True
        for e in sizes:
            if e < 1:
                return 0, True
        for g in self.groups:
            count, fine = _counted(g, tuple([sizes[a] for a in g.axes]))
            total, exact = total * count, exact and fine
        return total, exact

    def counts(self, extents: Counts) -> Counts:
        """The numbers for many tiles at once.  extents: integers of shape ``(..., len(axes))``."""
        table = np.asarray(extents, dtype=np.int64)
        if table.shape[-1] != len(self.axes):
            raise ValueError(f"extents of {len(self.axes)} axes expected, got {table.shape[-1]}")
        total: Counts = np.ones(table.shape[:-1], np.int64)
        for g in self.groups:
            mine = table[..., list(g.axes)]
            if g.injective:
                total = total * mine.prod(axis=-1)
                continue
            different, back = np.unique(mine.reshape(-1, len(g.axes)), axis=0, return_inverse=True)
            values = np.array([_counted(g, tuple(row))[0] for row in different.tolist()], np.int64)
            total = total * values[back.reshape(mine.shape[:-1])]
        return np.where((table < 1).any(axis=-1), 0, total) if len(self.axes) else total


def _scattered(e: Affine) -> Affine:
    """A number from memory counts as if it were another one at every place it is read from."""
    return e.map_data(lambda d: sum(d.index, Affine()))


def _row(e: Affine, position: Mapping[str, int]) -> _Row:
    linear: dict[int, int] = {}
    rest: dict[Atom, int] = {}
    for atom, coefficient in e.terms:
        if isinstance(atom, str):
            terms: tuple[tuple[Atom, int], ...] = ((str(position[atom]), 1),) if atom in position else ()
        elif isinstance(atom, Datum):
            raise InternalError(f"{atom} in a footprint")  # replaced before
        else:
            here = {n: Affine.of(str(position[n])) if n in position else Affine() for n in atom.argument.names()}
            terms = _quasi(atom, here).terms
        for a, c in terms:
            if isinstance(a, str):
                linear[int(a)] = linear.get(int(a), 0) + c * coefficient
            else:
                rest[a] = rest.get(a, 0) + c * coefficient
    return _Row(tuple(sorted((a, c) for a, c in linear.items() if c)), Affine.build(rest, 0))


def _quasi(atom: Quasi, env: Mapping[str, Affine]) -> Affine:
    argument = atom.argument.substitute(env)
    return argument // atom.by if atom.kind == "div" else argument % atom.by


def _row_axes(row: _Row) -> set[int]:
    return {a for a, _ in row.linear} | {int(n) for n in row.rest.names()}


def _groups(rows: list[_Row]) -> list[_Group]:
    """Rows split into sets that share no axis."""
    groups: list[tuple[list[_Row], set[int]]] = []
    for row in rows:
        axes, members = _row_axes(row), [row]
        apart = []
        for others, theirs in groups:
            if theirs & axes:
                members, axes = others + members, axes | theirs
            else:
                apart.append((others, theirs))
        groups = [*apart, (members, axes)]
    return [_Group(tuple(members), tuple(sorted(axes)), _injective(members, axes)) for members, axes in groups]


def _injective(rows: list[_Row], axes: set[int]) -> bool:
    """Linear with independent columns: different points of the box touch different elements."""
    if any(r.rest.terms for r in rows):
        return False
    columns = sorted(axes)
    matrix = np.array([[dict(r.linear).get(a, 0) for a in columns] for r in rows])
    return int(np.linalg.matrix_rank(matrix)) == len(columns)


@lru_cache(maxsize=1 << 16)
def _counted(group: _Group, extents: tuple[int, ...]) -> tuple[int, bool]:
    return group.count(extents)


@lru_cache(maxsize=1 << 16)
def _sums(steps: tuple[int, ...], extents: tuple[int, ...]) -> int:
    """The number of different sums of ``step * n`` with ``0 <= n < extent``, one per step."""
    terms = sorted((c, e) for c, e in zip(steps, extents) if e > 1)
    if not terms:
        return 1
    unit = terms[0][0]
    span = unit * (terms[0][1] - 1)
    gapless = all(c % unit == 0 for c, _ in terms)
    for n, (c, e) in enumerate(terms[1:], 1):
        coarse = gcd(*[x for x, _ in terms[n:]])
        if coarse > span:  # copies of the finer sums that do not meet
            fine = _sums(*_columns(terms[:n], 1))
            return fine * _sums(*_columns(terms[n:], coarse))
        gapless = gapless and c <= span + unit  # a gapless set stays gapless
        span += c * (e - 1)
    if gapless:
        return span // unit + 1
    bits = 1
    for c, e in terms:
        copies, shifted = 1, bits
        while copies < e:  # doubling: `shifted` holds `copies` copies
            more = min(copies, e - copies)
            shifted |= shifted << (c * more)
            copies += more
        bits = shifted
    return bin(bits).count("1")


def _columns(terms: list[tuple[int, int]], divisor: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple([c // divisor for c, _ in terms]), tuple([e for _, e in terms])


def _enumerate(group: _Group, extents: tuple[int, ...]) -> int:
    grids = np.meshgrid(*[np.arange(e) for e in extents], indexing="ij")
    values = {str(a): g.ravel() for a, g in zip(group.axes, grids)}
    rows = []
    for r in group.rows:
        row = np.zeros(grids[0].size, np.int64)
        for a, c in r.linear:
            row = row + c * values[str(a)]
        rows.append(row + _evaluate(r.rest, values))
    return int(np.unique(np.stack(rows), axis=1).shape[1])


def _evaluate(e: Affine, values: Mapping[str, Counts]) -> Counts:
    total: Any = e.const
    for atom, c in e.terms:
        if isinstance(atom, str):
            total = total + c * values[atom]
        elif isinstance(atom, Quasi):
            inner = _evaluate(atom.argument, values)
            total = total + c * (inner // atom.by if atom.kind == "div" else inner % atom.by)
    return np.asarray(total, np.int64)


def _row_bound(row: _Row, extents: Mapping[int, int]) -> int:
    """An upper bound on the values of one row."""
    if row.rest.terms:
        low, high = 0, 0
        a, b = interval(row.rest, {str(n): (0, e - 1) for n, e in extents.items()})
        assert a is not None and b is not None
        for n, c in row.linear:
            low, high = low + min(0, c * (extents[n] - 1)), high + max(0, c * (extents[n] - 1))
        return high + b - low - a + 1
    return _sums(tuple([abs(c) for _, c in row.linear]), tuple([extents[n] for n, _ in row.linear]))
