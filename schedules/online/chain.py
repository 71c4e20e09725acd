"""Reductions over one axis that use each other's results: what a streaming form computes together.

Softmax is such a chain (a maximum, then a sum that uses it), and so are attention, the variance and
the position of a maximum.  Nothing is found by name: the chain of a reduction is every reduction of
the same extent that its terms use, through any pointwise definitions between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import Axis, Const, Expr, Index, Op, Read, Reducer
from tensordsl.program import Program
from tensordsl.tensor import Definition, Tensor


@dataclass(frozen=True, slots=True)
class Link:
    """One reduction of a chain, in the names of the last one.

    tensor: the reduction; axes: its axes; where: conditions (free of the chain's results) for a term to
    count; term: what is reduced, over the axes and the chain's axis; opened: the same with the pointwise
    definitions in it written out.
    """

    tensor: Tensor
    reducer: Reducer
    axes: tuple[Axis, ...]
    where: tuple[Expr, ...]
    term: Expr
    opened: Expr

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def extreme(self) -> bool:
        """Is it a maximum or minimum?  Such a result may be infinite, and keeps other terms in range."""
        return self.reducer.name in ("max", "min")


class Chain:
    """The reductions that share a pass with ``stage`` over ``axis``: `links`, each after those it uses.

    Raises ScheduleError where one is used at other rows than its own.
    """

    def __init__(self, program: Program, stage: str, axis: str) -> None:
        self.root, self.axis = program[stage], axis
        d = definition(self.root)
        self.extent = next(a.extent for a in d.reduce_axes if a.name == axis)
        self.cyclic = {t.name for g in program.groups if g.order is not None for t in g.tensors}
        self.found: dict[str, Link] = {}
        names = {a.name: Affine.of(a.name) for a in (*d.axes, *d.reduce_axes)}
        self.visit(self.root, names)
        self.links = tuple(self.found.values())

    def visit(self, t: Tensor, env: dict[str, Affine]) -> None:
        d = definition(t)
        if not isinstance(d.reducer, Reducer):
            raise ScheduleError(f"{t.name} has a reducer of its own, for which there are no rules of repair")
        written = expr.substitute(d.body, env)
        for r in self.results(self.opened(written)):
            assert isinstance(r.source, Tensor)
            self.use(r.source, r)
        body = expr.transform(written, self.scaled)
        where, term = self.terms(body, d.reducer)
        axes = tuple(Axis(_only(env[a.name]), a.extent) for a in d.axes)
        self.found[t.name] = Link(t, d.reducer, axes, where, term, self.opened(term))

    def use(self, t: Tensor, r: Read) -> None:
        d = definition(t)
        if any(name_of(i) is None for i in r.index) or len({*r.index}) != len(r.index):
            raise ScheduleError(f"{r} is not the result of one row of {self.root.name}")
        env = {a.name: i for a, i in zip(d.axes, r.index)} | {d.reduce_axes[0].name: Affine.of(self.axis)}
        if t.name in self.found:
            known = tuple(a.name for a in self.found[t.name].axes)
            if known != tuple(name_of(i) for i in r.index):
                raise ScheduleError(f"{t.name} is used at [{', '.join(known)}] and at {r}")
            return
        self.visit(t, env)

    def result(self, e: Expr) -> bool:
        """Is it the finished result of a reduction as long as the chain, the same for all its terms?"""
        if not (isinstance(e, Read) and isinstance(e.source, Tensor)) or e.source.name in self.cyclic:
            return False
        d = e.source.definition
        over = d is not None and isinstance(d.reducer, Reducer) and [a.extent for a in d.reduce_axes] == [self.extent]
        return over and e.source is not self.root and all(self.axis not in i.names() for i in e.index)

    def results(self, e: Expr) -> list[Read]:
        return [r for r in expr.reads(e) if self.result(r)]

    def body(self, r: Expr) -> Expr | None:
        """The definition of a pointwise tensor at the element read, if it uses results of the chain."""
        if not isinstance(r, Read) or not isinstance(r.source, Tensor) or r.source.name in self.cyclic:
            return None
        d = r.source.definition
        if d is None or d.reducer is not None:
            return None
        body = expr.substitute(d.body, {a.name: i for a, i in zip(d.axes, r.index)})
        return body if self.results(self.opened(body)) else None

    def opened(self, e: Expr) -> Expr:
        """With all pointwise definitions opened that use results of the chain."""

        def f(x: Expr) -> Expr | None:
            body = self.body(x)
            return None if body is None else self.opened(body)

        return expr.transform(e, f)

    def scaled(self, x: Expr) -> Expr | None:
        """A pointwise definition opened where it uses more than extremes: its factors may move behind a sum.

        Others, such as the exponentials of a softmax, stay values of their own, computed once a tile.
        """
        body = self.body(x)
        if body is None:
            return None
        names = {r.source.name for r in self.results(self.opened(body))}
        if all(self.found[n].extreme for n in names) and depends(body, self.axis):
            return None
        return expr.transform(body, self.scaled)

    def terms(self, body: Expr, reducer: Reducer) -> tuple[tuple[Expr, ...], Expr]:
        """The conditions for a term to count, as far as they use no results, and the term itself."""
        where: list[Expr] = []
        while isinstance(body, Op) and body.name == "select" and not self.results(self.opened(body.args[0])):
            other = body.args[2]
            if not (isinstance(other, Const) and other.value == reducer.identity(body.dtype).value):
                break
            where.append(body.args[0])
            body = body.args[1]
        return tuple(where), body


def definition(t: Tensor) -> Definition:
    assert t.definition is not None
    return t.definition


def name_of(i: Affine) -> str | None:
    """The name that an index consists of, or None."""
    return str(i.terms[0][0]) if i.const == 0 and len(i.terms) == 1 and i.terms[0][1] == 1 else None


def _only(i: Affine) -> str:
    name = name_of(i)
    assert name is not None
    return name


def factors(e: Expr, inverse: bool = False) -> Iterator[tuple[Expr, bool]]:
    """The factors of a product as it is written, each with whether it divides."""
    if isinstance(e, Op) and e.name in ("mul", "div"):
        yield from factors(e.args[0], inverse)
        yield from factors(e.args[1], inverse != (e.name == "div"))
    else:
        yield e, inverse


def product(parts: list[tuple[Expr, bool]], one: Const) -> Expr:
    """The product of some factors, in their order."""
    result: Expr | None = None
    for e, inverse in parts:
        if result is None:
            result = expr.binary("div", one, e) if inverse else e
        else:
            result = expr.binary("div" if inverse else "mul", result, e)
    return one if result is None else result


def depends(e: Expr, axis: str) -> bool:
    """Does a value change along an axis?"""
    indices = [
        i
        for x in expr.walk(e)
        for i in (x.index if isinstance(x, Read) else (x.affine,) if isinstance(x, Index) else ())
    ]
    return any(axis in i.names() for i in indices)
