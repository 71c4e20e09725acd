"""Winograd's minimal filtering: a correlation with 3 taps as fewer products of transformed data and filters.

F(m, 3) computes m results of ``y[i] = sum_r x[i + r] w[r]`` with m + 2 products instead of 3 m:
``y = A' ((G w) * (B' x))`` (Winograd, 1980; for images Lavin and Gray, 2016, arXiv 1509.09308).  In two
dimensions it is applied to both.  The matrices are checked exactly before use (`identity_holds`): both
sides are bilinear in x and w, so they are equal if they agree on unit vectors.

The sums that are left are contractions like any other: transforms, a product at each point, and the
transform of the results, each scheduled by its structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product

import numpy as np
from tensordsl.schedules.analysis import tensor_names
from tensordsl.schedules.locate import fresh

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.constants import constant
from tensordsl.errors import ScheduleError
from tensordsl.expr import REDUCERS, Axis, Expr, Index, Op, Read
from tensordsl.program import Program
from tensordsl.tensor import Definition, Tensor

Matrix = tuple[tuple[Fraction, ...], ...]
TAPS = 3


def _matrix(*rows: str) -> Matrix:
    return tuple(tuple(Fraction(x) for x in row.split()) for row in rows)


#: m -> (B', G, A')
MATRICES: dict[int, tuple[Matrix, Matrix, Matrix]] = {
    2: (
        _matrix("1 0 -1 0", "0 1 1 0", "0 -1 1 0", "0 1 0 -1"),
        _matrix("1 0 0", "1/2 1/2 1/2", "1/2 -1/2 1/2", "0 0 1"),
        _matrix("1 1 1 0", "0 1 -1 -1"),
    ),
    4: (
        _matrix("4 0 -5 0 1 0", "0 -4 -4 1 1 0", "0 4 -4 -1 1 0", "0 -2 -1 2 1 0", "0 2 -1 -2 1 0", "0 4 0 -5 0 1"),
        _matrix("1/4 0 0", "-1/6 -1/6 -1/6", "-1/6 1/6 -1/6", "1/24 1/12 1/6", "1/24 -1/12 1/6", "0 0 1"),
        _matrix("1 1 1 1 1 0", "0 1 -1 2 -2 0", "0 1 1 4 4 0", "0 1 -1 8 -8 1"),
    ),
}


def identity_holds(data: Matrix, taps: Matrix, back: Matrix) -> bool:
    """Is ``back ((taps w) * (data x)) = correlation of x and w``, exactly?"""
    points = range(len(data))
    return all(
        sum(back[i][p] * taps[p][r] * data[p][j] for p in points) == (j == i + r)
        for i, r, j in product(range(len(back)), range(len(taps[0])), points)
    )


@dataclass(frozen=True, slots=True)
class Tap:
    """One dimension of the correlation: result axis ``along`` and tap axis ``tap``, added in dimension ``place`` of
    the data with ``offset``, and alone in dimension ``filter`` of the filter."""

    along: Axis
    tap: Axis
    place: int
    offset: int
    filter: int


@dataclass(frozen=True, slots=True)
class Correlation:
    """data and filter: the two factors.  taps: the dimensions that are transformed."""

    data: Read
    filter: Read
    taps: tuple[Tap, ...]


def correlation(t: Tensor) -> Correlation:
    """How a definition is a correlation with three taps.  Raises ScheduleError where it is none."""
    d = t.definition
    assert d is not None
    if d.reducer is None or d.reducer.name != "sum" or not t.dtype.is_float or d.order:
        raise ScheduleError(f"{t.name} is not a sum of floats")
    body = d.body
    if not (isinstance(body, Op) and body.name == "mul" and all(isinstance(a, Read) for a in body.args)):
        raise ScheduleError(f"the terms of {t.name} are not products of two elements")
    a, b = body.args
    assert isinstance(a, Read) and isinstance(b, Read)
    for data, weights in ((a, b), (b, a)):
        taps = tuple(x for r in d.reduce_axes if (x := _tap(d, r, data, weights)) is not None)
        if taps and _separate(d, data, weights, taps):
            return Correlation(data, weights, taps[-2:])
    raise ScheduleError(
        f"{t.name} is not a correlation with {TAPS} taps",
        hint=f"one factor is read at i + r, the other at r, for an axis r of {TAPS} terms, in steps of 1",
    )


def _tap(d: Definition, r: Axis, data: Read, weights: Read) -> Tap | None:
    if r.extent != TAPS:
        return None
    places = [k for k, i in enumerate(data.index) if r.name in i.names()]
    filters = [k for k, i in enumerate(weights.index) if r.name in i.names()]
    if len(places) != 1 or len(filters) != 1 or weights.index[filters[0]] != Affine.of(r.name):
        return None
    index = data.index[places[0]]
    for a in d.axes:
        rest = index - Affine.of(r.name) - Affine.of(a.name)
        if rest.is_constant and sum(a.name in i.names() for i in (*data.index, *weights.index)) == 1:
            return Tap(a, r, places[0], rest.const, filters[0])
    return None


def _separate(d: Definition, data: Read, weights: Read, taps: Sequence[Tap]) -> bool:
    """Is every other dimension of the factors indexed by an axis of its own, or fixed?"""
    for r, special in ((data, {t.place for t in taps}), (weights, {t.filter for t in taps})):
        names = [i for k, i in enumerate(r.index) if k not in special and not i.is_constant]
        if len({*names}) < len(names) or any(i != Affine.of(next(iter(i.names()))) for i in names):
            return False
    return all(a.extent > 0 for a in (*d.axes, *d.reduce_axes))


def with_winograd(program: Program, stage: str, m: int) -> Program:
    """The program of `winograd`."""
    if m not in MATRICES:
        raise ScheduleError(f"m={m!r} results at a time", legal=list(map(str, MATRICES)))
    if not identity_holds(*MATRICES[m]):
        raise ScheduleError(f"the matrices of F({m}, {TAPS}) are no identity")
    t = program[stage]
    return _Rewriter(program, t, correlation(t), m).program()


class _Rewriter:
    def __init__(self, source: Program, t: Tensor, c: Correlation, m: int) -> None:
        assert t.definition is not None
        self.source, self.t, self.c, self.m, self.d = source, t, c, m, t.definition
        self.taken = tensor_names(source)
        self.added: list[Tensor] = []
        self.extents = {a.name: a.extent for a in (*self.d.axes, *self.d.reduce_axes)}
        used = set(self.extents)
        self.names: dict[tuple[str, str], str] = {}  # (role, axis) -> the name of a new axis
        for x in c.taps:
            for role in ("tile", "point", "inner", "at"):
                self.names[role, x.along.name] = name = fresh(f"{x.along.name}.{role}", used)
                used.add(name)

    def axis(self, role: str, x: Tap) -> Axis:
        tiles = -(-x.along.extent // self.m)
        size = {"tile": tiles, "point": self.m + TAPS - 1, "inner": self.m, "at": tiles * self.m + TAPS - 1}[role]
        return Axis(self.names[role, x.along.name], size)

    def program(self) -> Program:
        to_data, to_filter, back = (self.matrix(x) for x in MATRICES[self.m])
        data, weights = self.factor("data", to_data), self.factor("filter", to_filter)
        result = self.results(data, weights)
        for x in self.c.taps:
            keep = [a for a in _axes(result) if a != self.axis("point", x)]
            body = self.product(back, (self.axis("inner", x), self.axis("point", x)), _read(result))
            result = self.tensor("back", [self.axis("inner", x), *keep], body, self.axis("point", x))
        where = {self.names["inner", x.along.name]: Affine.of(x.along.name) % self.m for x in self.c.taps}
        where |= {self.names["tile", x.along.name]: Affine.of(x.along.name) // self.m for x in self.c.taps}
        final = Definition(self.d.axes, _read(result, where))
        return self.source.with_definitions({self.t.name: final}, self.added)

    def matrix(self, rows: Matrix) -> Tensor:
        values = np.array([[float(x) for x in row] for row in rows], self.t.dtype.name)
        label = fresh(f"F{self.m}", self.taken)
        self.taken.append(label)
        t = constant(values, name=label)
        self.added.append(t)
        return t

    def tensor(self, what: str, axes: Sequence[Axis], body: Expr, *over: Axis) -> Tensor:
        label = fresh(f"{self.t.name}_{what}", self.taken)
        self.taken.append(label)
        d = Definition(tuple(axes), body, REDUCERS["sum"], over) if over else Definition(tuple(axes), body)
        t = Tensor(label, tuple(a.extent for a in axes), self.t.dtype, d)
        self.added.append(t)
        return t

    def product(self, matrix: Tensor, at: tuple[Axis, Axis], value: Expr) -> Expr:
        return expr.binary("mul", Read(matrix, tuple(Affine.of(a.name) for a in at)), value)

    def factor(self, what: str, matrix: Tensor) -> Tensor:
        """The data or the filter at the points, one dimension after the other."""
        r = self.c.data if what == "data" else self.c.filter
        place = {(x.place if what == "data" else x.filter): x for x in self.c.taps}
        current: Tensor | None = None
        for x in self.c.taps:
            if current is None:
                value, axes = self.original(r, place if what == "data" else {})
            else:
                value, axes = _read(current), list(_axes(current))
            step = replace(x.tap, name=fresh(x.tap.name + ".j", set(self.extents)), extent=matrix.shape[1])
            if what == "data":
                old, kept = self.axis("at", x), [self.axis("tile", x) if a == self.axis("at", x) else a for a in axes]
                moved = Affine.of(self.names["tile", x.along.name]) * self.m + Affine.of(step.name)
            else:
                old, kept, moved = x.tap, [a for a in axes if a != x.tap], Affine.of(step.name)
            body = self.product(matrix, (self.axis("point", x), step), expr.substitute(value, {old.name: moved}))
            current = self.tensor(what, [self.axis("point", x), *kept], body, step)
        assert current is not None
        return current

    def original(self, r: Read, place: dict[int, Tap]) -> tuple[Expr, list[Axis]]:
        """A factor as it is read, its transformed dimensions at positions that may lie past the end (zero there)."""
        index, axes, guards = list(r.index), [], []
        for k, i in enumerate(r.index):
            if k in place:
                at = self.axis("at", place[k])
                index[k] = Affine.of(at.name) + place[k].offset
                axes.append(at)
                if at.extent + place[k].offset > r.source.shape[k]:
                    guards.append(Index(index[k]) < r.source.shape[k])
            elif not i.is_constant:
                [name] = i.names()
                axes.append(Axis(name, self.extents[name]))
        value: Expr = Read(r.source, tuple(index))
        for g in guards:
            value = expr.select(g, value, expr.constant(0, r.dtype))
        return value, axes

    def results(self, data: Tensor, weights: Tensor) -> Tensor:
        """The products at each point, summed over everything but the taps."""
        tiles = {x.along.name: self.axis("tile", x) for x in self.c.taps}
        points = [self.axis("point", x) for x in reversed(self.c.taps)]
        axes = [*points, *(tiles.get(a.name, a) for a in self.d.axes)]
        taps = {x.tap.name for x in self.c.taps}
        rest = [a for a in self.d.reduce_axes if a.name not in taps]
        return self.tensor("points", axes, expr.binary("mul", _read(data), _read(weights)), *rest)


def _axes(t: Tensor) -> tuple[Axis, ...]:
    assert t.definition is not None
    return t.definition.axes


def _read(t: Tensor, where: dict[str, Affine] | None = None) -> Read:
    """The element of a tensor at its own axes, or at other places for some of them."""
    return Read(t, tuple((where or {}).get(a.name, Affine.of(a.name)) for a in _axes(t)))
