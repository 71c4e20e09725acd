"""What becomes of a partial reduction when the results it was computed with move.

A reduction whose terms use results of the chain is computed tile by tile, each with the results as
far as they are known.  Where a formula turns what was reduced with old results into what it would be
with new ones, without the terms, the reduction can be streamed; sympy decides whether one exists.
Let g(x; p) be the term, p the results it uses and p' their new values:

- factor: g(x; p') / g(x; p) is free of x: multiply by it (softmax, attention);
- shift: g(x; p') - g(x; p) is free of x: add it, for a sum once for each term;
- polynomial in p: the sums of the derivatives of g by p move by Taylor's formula (variance);
- indicator: g is h(x) where y(x) equals the extreme p of all y, else the identity: a better
  extreme erases it (position of the maximum).

A formula must hold for the results of every part, not only for the final ones: no quotient or
logarithm of what may be zero so far, and no exponential that may overflow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import factorial
from typing import Any

from tensordsl.schedules.online.chain import Link, depends

from tensordsl import expr
from tensordsl.errors import ScheduleError
from tensordsl.expr import Const, Expr, Op, Read

#: Degree in the results up to which a term is expanded by its derivatives.
MAX_DEGREE = 4
Values = Mapping[str, Expr]


@dataclass(frozen=True, slots=True)
class Statistic:
    """One value that is carried from tile to tile.  term: what it reduces (reads of results stand for
    their values in the tile)."""

    term: Expr


@dataclass(frozen=True, slots=True)
class Repair:
    """statistics: what is carried, the reduction itself first.  rule: why it is right.
    moved: (carried values, old results, new results, number of terms so far) -> the values repaired."""

    rule: str
    statistics: tuple[Statistic, ...]
    moved: Callable[[list[Expr], Values, Values, Expr], list[Expr]]


def find_repair(link: Link, term: Expr, chain: Mapping[str, Link], axis: str) -> Repair:
    """The repair of a reduction whose terms use results of the chain.  Raises ScheduleError where there is none."""
    used = _used(term, chain)
    if not used:
        return Repair("monoid", (Statistic(term),), lambda carried, old, new, count: carried)
    found = _indicator(link, term, chain)
    if found is not None:
        return found
    return _Algebra(link, term, used, chain, axis).repair()


def _indicator(link: Link, term: Expr, chain: Mapping[str, Link]) -> Repair | None:
    if not (isinstance(term, Op) and term.name == "select" and isinstance(term.args[0], Op)):
        return None
    condition, value, other = term.args
    neutral = isinstance(other, Const) and other.value == link.reducer.identity(term.dtype).value
    if not neutral or not isinstance(condition, Op) or condition.name != "eq":
        return None
    if any(r.source.name in chain for r in expr.reads(value)):
        return None
    for p, y in (condition.args, condition.args[::-1]):
        extreme = chain.get(p.source.name) if isinstance(p, Read) else None
        if extreme is None or not extreme.extreme or extreme.where != link.where:
            continue
        if expr.structure(y) == expr.structure(extreme.opened):
            return Repair("indicator", (Statistic(term),), partial(_kept, link, extreme.name))
    return None


def _kept(link: Link, extreme: str, carried: list[Expr], old: Values, new: Values, count: Expr) -> list[Expr]:
    """Nothing of what an older extreme selected, unless it still is the extreme."""
    same = expr.binary("eq", old[extreme], new[extreme])
    return [expr.select(same, c, link.reducer.identity(c.dtype)) for c in carried]


def defined_on_parts(link: Link, e: Expr, chain: Mapping[str, Link], axis: str) -> bool:
    """Is an expression defined whatever finite values the results it uses have so far?"""
    algebra = _Algebra(link, e, _used(e, chain), chain, axis)
    return algebra.defined(algebra.formula)


def _used(e: Expr, chain: Mapping[str, Link]) -> dict[str, Read]:
    return {r.source.name: r for r in expr.reads(e) if r.source.name in chain}


def at_least_one(link: Link, chain: Mapping[str, Link]) -> bool:
    """Is it a sum of exp(y - maximum of all y)?  The largest term is 1, on every part with a term at all."""
    e = link.opened
    if link.reducer.name != "sum" or not isinstance(e, Op) or e.name not in ("exp", "exp2"):
        return False
    distance = e.args[0]
    if not isinstance(distance, Op) or distance.name != "sub":
        return False
    y, m = distance.args
    top = chain.get(m.source.name) if isinstance(m, Read) else None
    return (
        top is not None
        and top.reducer.name == "max"
        and [expr.structure(w) for w in top.where] == [expr.structure(w) for w in link.where]
        and expr.structure(y) == expr.structure(top.opened)
    )


class _Algebra:
    """A term as a formula of the results it uses; what is free of them is one symbol."""

    def __init__(self, link: Link, term: Expr, used: Mapping[str, Read], chain: Mapping[str, Link], axis: str) -> None:
        import sympy  # heavy: only where a formula must be decided

        self.sp: Any = sympy
        self.link, self.term, self.axis = link, term, axis
        # what is at least 1 on every part; of others the sign is not known
        sign = {n: {"positive": True} if at_least_one(chain[n], chain) else {"real": True} for n in used}
        self.p = {n: sympy.Symbol(f"p{i}", **sign[n]) for i, n in enumerate(used)}
        self.q = {n: sympy.Symbol(f"q{i}", **sign[n]) for i, n in enumerate(used)}
        self.results = {*self.p.values(), *self.q.values()}
        self.towards = {self.p[n]: chain[n].reducer.name for n in used if chain[n].extreme}
        self.reads = used
        self.opaque: dict[Any, tuple[Any, Expr]] = {}  # structure -> (symbol, expression)
        self.formula = self.of(term)
        self.xs = {s for s, e in self.opaque.values() if depends(e, axis)}

    def of(self, e: Expr) -> Any:
        sp = self.sp
        if isinstance(e, Const):
            return sp.Integer(e.value) if float(e.value).is_integer() else sp.Float(e.value, 17)
        if isinstance(e, Read) and e.source.name in self.p:
            return self.p[e.source.name]
        if all(r.source.name not in self.p for r in expr.reads(e)):
            key = expr.structure(e)
            if key not in self.opaque:
                self.opaque[key] = (sp.Symbol(f"x{len(self.opaque)}", real=True), e)
            return self.opaque[key][0]
        if not isinstance(e, Op) or e.name not in _TO_SYMPY:
            raise ScheduleError(f"{self.link.name}: no streaming form is known through {e}")
        return _TO_SYMPY[e.name](sp, *[self.of(a) for a in e.args])

    def moved(self, f: Any) -> Any:
        """A formula with the new results."""
        return f.subs({self.p[n]: self.q[n] for n in self.p}, simultaneous=True)

    def tidy(self, f: Any) -> Any:
        return self.sp.simplify(self.sp.powsimp(self.sp.expand(f) if f.is_Add else f))

    def free(self, f: Any) -> bool:
        return not f.free_symbols & self.xs

    def defined(self, f: Any) -> bool:
        """Is a formula defined whatever finite values the results have so far?"""
        for x in self.sp.preorder_traversal(f):
            whole = x.is_Pow and x.exp.is_Integer and x.exp.is_nonnegative
            within = x.args[0] if isinstance(x, self.sp.log) or (x.is_Pow and not whole) else None
            if within is not None and within.free_symbols & self.results and not within.is_positive:
                return False
        return True

    def bounded(self, factor: Any) -> bool:
        """Is a factor defined, and does it only shrink what was reduced?  Exponentials do where they fall
        from an older extreme to a newer one."""
        for x in self.sp.preorder_traversal(factor):
            power = x.args[-1] if isinstance(x, self.sp.exp) or (x.is_Pow and x.base.is_number) else None
            if power is None or not power.free_symbols & self.results:
                continue
            for n, old in self.p.items():
                slope, back = self.sp.diff(power, old), self.sp.diff(power, self.q[n])
                falls = slope.is_positive if self.towards.get(old) == "max" else slope.is_negative
                if (slope, back) != (0, 0) and not (old in self.towards and falls and self.tidy(slope + back) == 0):
                    return False
        return self.defined(factor)

    def repair(self) -> Repair:
        if not self.defined(self.formula):
            raise ScheduleError(
                f"{self.link.name} cannot be streamed: its terms divide by, or take the logarithm of, "
                f"{', '.join(self.p)}, which may be 0 before the last term",
                hint="it needs a pass of its own",
            )
        g, sums = self.formula, self.link.reducer.name == "sum"
        alone = (Statistic(self.term),)
        ratio = self.tidy(self.moved(g) / g)
        if self.free(ratio) and self.bounded(ratio) and (sums or ratio.is_positive):

            def scaled(carried: list[Expr], old: Values, new: Values, count: Expr) -> list[Expr]:
                factor = self.back(ratio, old, new)
                return [expr.binary("mul", c, factor) for c in carried]

            return Repair("factor", alone, scaled)
        delta = self.tidy(self.moved(g) - g)
        if self.free(delta) and self.defined(delta) and self.link.reducer.name != "prod":

            def shifted(carried: list[Expr], old: Values, new: Values, count: Expr) -> list[Expr]:
                by = self.back(delta, old, new)
                by = expr.binary("mul", by, expr.cast(count, by.dtype)) if sums else by
                return [expr.binary("add", c, by) for c in carried]

            return Repair("shift", alone, shifted)
        if sums and (found := self.taylor()) is not None:
            return found
        raise ScheduleError(
            f"{self.link.name} cannot be streamed: no formula turns its {self.link.reducer.name} with "
            f"{', '.join(self.p)} so far into the one with {', '.join(self.p)} in the end",
            hint="it needs a pass of its own",
        )

    def taylor(self) -> Repair | None:
        """g = f(x; p) q(x; p) where f moves by a factor and q is a polynomial in p: q(x; p') is the sum over
        orders o of (p' - p)**o / o! times the o-th derivative of q at p."""
        sp, names = self.sp, list(self.p)
        ps = [self.p[n] for n in names]
        ratio, scaling, rest = sp.Integer(1), sp.Integer(1), sp.Integer(1)
        for f in sp.Mul.make_args(self.formula):
            r = self.tidy(self.moved(f) / f)
            if self.free(r) and self.bounded(r):
                ratio, scaling = ratio * r, scaling * f
            else:
                rest = rest * f
        try:
            degree = sp.Poly(rest, *ps).total_degree()
        except sp.PolynomialError:
            return None
        if degree > MAX_DEGREE:
            return None
        terms: dict[tuple[int, ...], Any] = {}
        for o in sorted(itertools.product(range(degree + 1), repeat=len(ps)), key=lambda o: (sum(o), o)):
            d = sp.factor(sp.diff(rest, *[(p, n) for p, n in zip(ps, o) if n]) if any(o) else rest)
            if sum(o) <= degree and d != 0:
                terms[o] = d * scaling
        statistics = tuple(Statistic(self.back(f, self.reads, {}) if any(o) else self.term) for o, f in terms.items())

        def moved(carried: list[Expr], old: Values, new: Values, count: Expr) -> list[Expr]:
            steps = [expr.binary("sub", new[n], old[n]) for n in names]
            at = dict(zip(terms, carried))
            results = [_series(at, o, steps) for o in terms]
            if ratio == 1:
                return results
            factor = self.back(sp.simplify(ratio), old, new)
            return [expr.binary("mul", r, factor) for r in results]

        return Repair("taylor", statistics, moved)

    def back(self, f: Any, old: Values, new: Values) -> Expr:
        """A formula in the compiler's own nodes."""
        values: dict[Any, Expr] = {s: e for s, e in self.opaque.values()}
        values |= {self.p[n]: e for n, e in old.items() if n in self.p}
        values |= {self.q[n]: e for n, e in new.items() if n in self.q}
        dtype = self.term.dtype

        def go(x: Any) -> Expr:
            sp = self.sp
            if x in values:
                return values[x]
            if x.is_number:
                return expr.constant(float(x), dtype)
            if x.is_Add:
                return _fold("add", [go(a) for a in x.args])
            if x.is_Mul:
                over, under = [], []
                for a in x.args:
                    if a.is_Pow and a.exp.is_number and a.exp.is_negative:
                        under.append(go(a.base**-a.exp))
                    else:
                        over.append(go(a))
                top = _fold("mul", over) if over else expr.constant(1.0, dtype)
                return expr.binary("div", top, _fold("mul", under)) if under else top
            if x.is_Pow and x.exp.is_Integer and 0 < int(x.exp) <= MAX_DEGREE:
                return _fold("mul", [go(x.base)] * int(x.exp))
            if x.is_Pow and x.exp == -1:
                return expr.binary("div", expr.constant(1.0, dtype), go(x.base))
            for name, kind in (("exp", sp.exp), ("log", sp.log), ("tanh", sp.tanh), ("abs", sp.Abs)):
                if isinstance(x, kind):
                    return expr.unary(name, go(x.args[0]))
            if x.is_Pow:
                if x.base == 2:
                    return expr.unary("exp2", go(x.exp))
                if x.exp == sp.Rational(1, 2):
                    return expr.unary("sqrt", go(x.base))
                return expr.binary("pow", go(x.base), go(x.exp))
            raise ScheduleError(f"{self.link.name}: its repair {x} has no expression")

        return go(f)


def _series(at: Mapping[tuple[int, ...], Expr], order: tuple[int, ...], steps: list[Expr]) -> Expr:
    """The sum of the carried derivatives from an order on, by powers of the steps."""
    total: Expr | None = None
    for more in itertools.product(range(MAX_DEGREE + 1), repeat=len(order)):
        part = at.get(tuple(a + b for a, b in zip(order, more)))
        if part is None:
            continue
        for step, n in zip(steps, more):
            part = _fold("mul", [part, *[step] * n])
            part = expr.binary("mul", part, 1.0 / factorial(n)) if n > 1 else part
        total = part if total is None else expr.binary("add", total, part)
    assert total is not None
    return total


def _fold(name: str, parts: list[Expr]) -> Expr:
    result = parts[0]
    for p in parts[1:]:
        result = expr.binary(name, result, p)
    return result


_TO_SYMPY: dict[str, Callable[..., Any]] = {
    "add": lambda sp, a, b: a + b,
    "sub": lambda sp, a, b: a - b,
    "mul": lambda sp, a, b: a * b,
    "div": lambda sp, a, b: a / b,
    "neg": lambda sp, a: -a,
    "pow": lambda sp, a, b: a**b,
    "exp": lambda sp, a: sp.exp(a),
    "exp2": lambda sp, a: sp.Integer(2) ** a,
    "log": lambda sp, a: sp.log(a),
    "sqrt": lambda sp, a: sp.sqrt(a),
    "rsqrt": lambda sp, a: 1 / sp.sqrt(a),
    "tanh": lambda sp, a: sp.tanh(a),
    "abs": lambda sp, a: sp.Abs(a),
    "cast": lambda sp, a: a,
}
