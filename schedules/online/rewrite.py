"""A chain of reductions as a recurrence over tiles of its axis: one pass, with carried results."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from tensordsl.schedules.analysis import cost, tensor_names
from tensordsl.schedules.locate import fresh
from tensordsl.schedules.online.chain import Chain, Link, definition, depends, factors, name_of, product
from tensordsl.schedules.online.repair import Repair, Values, defined_on_parts, find_repair

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.dtypes import DType
from tensordsl.errors import ScheduleError
from tensordsl.expr import Axis, Const, Expr, Index, Op, Read
from tensordsl.program import Program
from tensordsl.tensor import Causal, Definition, Tensor

#: Operations (in multiply-adds) past which a factor is computed once a row rather than for each value it moves.
_WORTH_A_PLACE = 4


@dataclass(frozen=True, slots=True)
class Carried:
    """A link in its streaming form.  scale: what its carried value is multiplied by for the result, in
    terms of other results; runs: its statistics after each tile; guarded: results it depends on that are
    infinite while every term so far is masked."""

    link: Link
    scale: Expr | None
    runs: tuple[Tensor, ...]
    repair: Repair
    guarded: tuple[str, ...]


def streamed(program: Program, stage: str, axis: str, tile: int) -> Program:
    """The program with a reduction and those its terms use computed in one pass, ``tile`` terms at a time."""
    return _Rewriter(program, Chain(program, stage, axis), axis, tile).program()


class _Rewriter:
    def __init__(self, source: Program, chain: Chain, axis: str, tile: int) -> None:
        self.source, self.k = source, axis
        self.open = chain.opened
        self.links = links = chain.links
        self.chain = {x.name: x for x in links}
        last = definition(links[-1].tensor)
        extent = next(a.extent for a in last.reduce_axes if a.name == axis)
        used = {a.name for x in links for a in x.axes}
        self.step = Axis(fresh(f"{axis}.t", used), -(-extent // tile))
        self.inner = Axis(fresh(f"{axis}.r", used), tile)
        self.extent, self.tile = extent, tile
        self.taken = tensor_names(source)
        self.added: list[Tensor] = []
        self.carried: dict[str, Carried] = {}
        self.places: dict[Hashable, Tensor] = {}  # structure of a shared value -> where it is kept
        self.finite: dict[str, Tensor] = {}  # extreme -> its value, 0 while it is infinite
        self.means: dict[str, str] = {}  # name of a mean -> the sum it is made of

    def program(self) -> Program:
        for link in self.links:
            self.carry(link)
        new = {x.name: self.final(self.carried[x.name]) for x in self.links}
        return self.source.with_definitions(new, self.added)

    # -- names and places

    def tensor(self, name: str, d: Definition, dtype: DType) -> Tensor:
        label = fresh(name, self.taken)
        self.taken.append(label)
        t = Tensor(label, tuple(a.extent for a in d.axes), dtype, d)
        self.added.append(t)
        return t

    @property
    def now(self) -> Affine:
        return Affine.of(self.step.name)

    def read(self, t: Tensor, at: Affine, axes: tuple[Axis, ...]) -> Read:
        return Read(t, (at, *(Affine.of(a.name) for a in axes)))

    # -- results in the middle of the pass

    def result(self, name: str, at: Affine) -> Expr:
        """What a reduction is worth after the tile ``at``, as its definition applied to what is seen."""
        if name in self.means:
            seen = expr.binary("min", Index((at + 1) * self.tile), self.extent) if at.terms else self.extent
            total = self.result(self.means[name], at)
            return expr.binary("div", total, expr.cast(expr.expression(seen), total.dtype))
        c = self.carried[name]
        run: Expr = self.read(c.runs[0], at, c.link.axes)
        return run if c.scale is None else expr.binary("mul", run, self.placed(c.scale, at))

    def placed(self, e: Expr, at: Affine) -> Expr:
        """An expression with the results as they are after the tile ``at``."""
        return self.with_results(e, lambda name: self.result(name, at))

    def with_results(self, e: Expr, value: Callable[[str], Expr]) -> Expr:
        """An expression with values in place of the results it reads."""

        def f(x: Expr) -> Expr | None:
            return value(x.source.name) if isinstance(x, Read) and x.source.name in self.chain else None

        return expr.transform(e, f)

    def masked(self, name: str, at: Affine) -> Expr:
        """Have all terms so far been the identity of an extreme (minus infinity of a maximum)?"""
        link = self.chain[name]
        return expr.binary("eq", self.result(name, at), link.reducer.identity(link.tensor.dtype))

    def mean(self, e: Expr) -> Expr | None:
        """A sum divided by its number of terms: in the middle of the pass, by the number of those seen."""
        if not (isinstance(e, Op) and e.name in ("div", "mul") and e.dtype.is_float):
            return None
        by = float(self.extent) if e.name == "div" else 1.0 / self.extent
        for total, number in (e.args, e.args[::-1])[: 1 if e.name == "div" else 2]:
            if not isinstance(total, Read) or not isinstance(number, Const):
                continue
            link = self.chain.get(total.source.name)
            if link is None or link.reducer.name != "sum" or link.where:
                continue
            if abs(float(number.value) - by) <= 1e-6 * by:
                name = f"{link.name}/n"
                self.means[name] = link.name
                self.chain[name] = link
                return Read(replace(link.tensor, name=name, definition=None), total.index)
        return None

    # -- one link

    def carry(self, link: Link) -> None:
        link = replace(link, term=expr.transform(link.term, self.mean))
        scale, term = self.hoisted(link)
        formula = expr.transform(self.open(term), self.mean)
        repair = find_repair(link, formula, self.chain, self.k)
        used = [n for n in self.chain if any(r.source.name == n for r in expr.reads(formula))]
        for n in used:
            self.require_defined(link, n)
        guarded = () if repair.rule == "indicator" else tuple(dict.fromkeys(g for n in used for g in self.extremes(n)))
        new = {n: self.target(n) if self.extremes(n) and guarded else self.result(n, self.now) for n in used}
        old = {n: self.result(n, self.now - 1) for n in used}
        for n in used:  # what was reduced while no term counted moves nowhere
            for g in self.extremes(n) if guarded else ():
                old[n] = expr.select(self.masked(g, self.now - 1), new[n], old[n])
        axes = (self.step, *link.axes)
        terms = [term, *(x.term for x in repair.statistics[1:])]
        parts = [self.part(link, x, new, axes) for x in terms]
        runs = [self.tensor(f"{link.name}_run", Definition(axes, Const(0, p.dtype)), p.dtype) for p in parts]
        before: list[Expr] = [self.read(r, self.now - 1, link.axes) for r in runs]
        count = Index(self.now * self.tile)
        moved = repair.moved(before, old, new, count)
        moved = [self.shared(m, {r.name for r in runs}) for m in moved]
        first = expr.binary("le", Index(self.now), 0)
        for run, part, m in zip(runs, parts, moved):
            tile = self.read(part, self.now, link.axes)
            body = expr.select(first, tile, expr.binary(link.reducer.combine, m, tile))
            run.definition = Definition(axes, expr.cast(body, run.dtype), order=(Causal(self.step.name),))
        self.carried[link.name] = Carried(link, scale, tuple(runs), repair, guarded)

    def require_defined(self, link: Link, used: str) -> None:
        """What a result is multiplied by must mean something in the middle of the pass."""
        c = self.carried[self.means.get(used, used)]
        if c.scale is not None and not defined_on_parts(link, c.scale, self.chain, self.k):
            raise ScheduleError(
                f"{link.name} cannot be streamed: it uses {c.link.name}, which may be undefined before the last term",
                hint="it needs a pass of its own",
            )

    def shared(self, e: Expr, carried: set[str]) -> Expr:
        """With what does not use the carried values computed once a row, where it is worth a place."""
        if not isinstance(e, Op) or not e.dtype.is_float:
            return e
        if any(r.source.name in carried for r in expr.reads(e)):
            return replace(e, args=tuple(self.shared(a, carried) for a in e.args))
        if cost(e) < _WORTH_A_PLACE:
            return e
        used = expr.free_names(e)
        axes = {a.name: a for x in self.links for a in x.axes if a.name in used}
        key = expr.structure(e)
        if key not in self.places:
            first = expr.binary("le", Index(self.now), 0)
            value = expr.select(first, expr.constant(1.0, e.dtype), e)
            self.places[key] = self.tensor(f"{self.k}_moved", Definition((self.step, *axes.values()), value), e.dtype)
        return self.read(self.places[key], self.now, tuple(axes.values()))

    def part(self, link: Link, term: Expr, new: Values, axes: tuple[Axis, ...]) -> Tensor:
        """The reduction over one tile, with the results as they are after it."""
        at = self.now * self.tile + Affine.of(self.inner.name)

        def f(x: Expr) -> Expr | None:
            if isinstance(x, Read) and x.source.name in self.chain:
                return new[x.source.name]
            return self.in_tile(x, new) if isinstance(x, Read) and self.open(x) is not x else None

        body = expr.substitute(expr.transform(term, f), {self.k: at})
        where = [expr.substitute(w, {self.k: at}) for w in link.where]
        if self.extent % self.tile:
            where.insert(0, expr.binary("lt", Index(at), self.extent))
        for w in reversed(where):
            body = expr.select(w, body, link.reducer.identity(body.dtype))
        return self.tensor(f"{link.name}_tile", Definition(axes, body, link.reducer, (self.inner,)), body.dtype)

    def in_tile(self, r: Read, new: Values) -> Expr:
        """A value of a pointwise definition, computed once for the tile and all that use it."""
        at = self.now * self.tile + Affine.of(self.inner.name)
        names = {a.name: a for x in self.links for a in x.axes} | {self.k: self.inner}
        body = self.with_results(self.open(r), new.__getitem__)
        used = expr.free_names(body) | {self.k}
        written = [n for i in r.index if (n := name_of(i)) is not None]  # its rows stay rows
        order = dict.fromkeys([*(n for n in written if n in names), *names])
        axes = (self.step, *(names[n] for n in order if n in used))
        key = expr.structure(body)
        if key not in self.places:
            value = expr.substitute(body, {self.k: at})
            if self.extent % self.tile:
                value = expr.select(expr.binary("lt", Index(at), self.extent), value, expr.constant(0, value.dtype))
            self.places[key] = self.tensor(f"{r.source.name}_tile", Definition(axes, value), value.dtype)
        inner = Affine.of(self.k) - self.now * self.tile  # becomes the position in the tile
        place = self.places[key]
        rows = definition(place).axes[1:]
        return Read(place, (self.now, *(inner if a == self.inner else Affine.of(a.name) for a in rows)))

    def extremes(self, name: str) -> tuple[str, ...]:
        """The extremes that make a result infinite or undefined while they are: itself, or those it uses."""
        name = self.means.get(name, name)
        if self.chain[name].extreme:
            return (name,) if self.chain[name].tensor.dtype.is_float else ()
        return self.carried[name].guarded

    def target(self, name: str) -> Expr:
        """A result as terms of this tile use it.  While no term counts any finite number does: 0 for an
        extreme, 1 for what depends on one (it may be a divisor or under a logarithm)."""
        value = self.result(name, self.now)
        anchor = expr.constant(0.0 if self.chain[name].extreme else 1.0, value.dtype)
        for n in self.extremes(name):
            value = expr.select(self.masked(n, self.now), anchor, value)
        axes = self.chain[name].axes
        if name not in self.finite:
            label = f"{self.chain[name].name}_safe"
            self.finite[name] = self.tensor(label, Definition((self.step, *axes), value), value.dtype)
        return self.read(self.finite[name], self.now, axes)

    def hoisted(self, link: Link) -> tuple[Expr | None, Expr]:
        """A sum's factors that are the same for all terms move behind it.

        Not those that use an extreme: it keeps the terms in range.
        """
        if link.reducer.name != "sum":
            return None, link.term

        def moves(e: Expr) -> bool:
            results = [r.source.name for r in expr.reads(e) if r.source.name in self.chain]
            return bool(results) and not depends(e, self.k) and not any(self.chain[n].extreme for n in results)

        parts = list(factors(link.term))
        out = [p for p in parts if moves(p[0])]
        if not out:
            return None, link.term
        one = Const(1.0, link.term.dtype)
        return product(out, one), product([p for p in parts if not moves(p[0])], one)

    # -- the end

    def final(self, c: Carried) -> Definition:
        """The reduction as a pointwise definition: what is carried after the last tile."""
        d, end = definition(c.link.tensor), Affine.of(self.step.extent - 1)
        value: Expr = self.read(c.runs[0], end, c.link.axes)
        if c.scale is None:
            value = self.defined(value, c)
        else:
            value = expr.binary("mul", value, self.row_scale(c, self.defined(self.placed(c.scale, end), c)))
        names = {a.name: Affine.of(b.name) for a, b in zip(c.link.axes, d.axes)}
        return Definition(d.axes, expr.cast(expr.substitute(value, names), c.link.tensor.dtype))

    def defined(self, value: Expr, c: Carried) -> Expr:
        """nan where no term counts: the definition has no value there."""
        for n in c.guarded:
            nan = expr.constant(float("nan"), value.dtype)
            value = expr.select(self.masked(n, Affine.of(self.step.extent - 1)), nan, value)
        return value

    def row_scale(self, c: Carried, scale: Expr) -> Expr:
        """A scale that is the same for several results, computed once for them."""
        used = expr.free_names(scale)
        axes = tuple(a for a in c.link.axes if a.name in used)
        if len(axes) == len(c.link.axes):
            return scale
        t = self.tensor(f"{c.link.name}_scale", Definition(axes, scale), scale.dtype)
        return Read(t, tuple(Affine.of(a.name) for a in axes))


def check_tile(program: Program, stage: str, axis: str | None, tile: int) -> str:
    """The axis to stream along.  Raises ScheduleError for a stage or axis that cannot be."""
    t = next((x for x in program.tensors if x.name == stage), None)
    if t is None:
        raise ScheduleError(f"there is no definition {stage!r}", legal=[x.name for x in program.tensors])
    d = definition(t)
    names = [a.name for a in d.reduce_axes]
    if d.reducer is None or len(names) != 1 or (axis is not None and axis not in names):
        raise ScheduleError(
            f"{stage} is not a reduction over one axis" + ("" if axis is None else f" {axis!r}"), legal=names or None
        )
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
        raise ScheduleError(f"tile={tile!r} is not a positive integer")
    return names[0]
