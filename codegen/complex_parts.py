"""Complex numbers as pairs of real ones: what the pass of `representation` does with them.

In memory of the caller (and of buffers that share it) the parts alternate, as in numpy: one more dimension of two.
The kernel's own buffers are two, one for each part, so that vectors of either are vectors of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Union

from tensordsl.schedules.loopnest import Alloc, Buffer, For, Instance, Prefetch, Seq, Stmt, Store, seq

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.complex_operations import PARTS
from tensordsl.dtypes import DType
from tensordsl.errors import InternalError
from tensordsl.expr import Const, Expr, Op, Read

Pair = tuple[Expr, Expr]
#: buffer -> one with the parts side by side, or one for each
Homes = Mapping[Buffer, Union[Buffer, tuple[Buffer, Buffer]]]


def interleaved(b: Buffer) -> Buffer:
    fold = (*b.fold, *(0,) * (len(b.shape) + 1 - len(b.fold))) if any(b.fold) else b.fold
    shape = b.shape if b.pitch == 0 else (*b.shape[:-1], b.pitch)  # rows that lie apart, as longer ones
    return replace(b, shape=(*shape, 2), dtype=b.dtype.real, pitch=0, fold=fold)


def apart(b: Buffer, taken: set[str]) -> tuple[Buffer, Buffer]:
    """A buffer for each part, under names that are free."""
    names = []
    for part in ("re", "im"):
        name = f"{b.name}_{part}"
        while name in taken:
            name += "_"
        taken.add(name)
        names.append(name)
    real, imaginary = (replace(b, name=n, dtype=b.dtype.real) for n in names)
    return real, imaginary


class Parts:
    """Rewrites expressions and statements.  homes: of every complex buffer.  shared: names of buffers of
    which others have the memory.
    """

    def __init__(self, homes: Homes, fresh: Callable[[], str], shared: AbstractSet[str] = frozenset()) -> None:
        self.homes, self.fresh, self.shared = homes, fresh, shared
        self._pairs: dict[int, tuple[Expr, Pair]] = {}
        self._reals: dict[int, tuple[Expr, Expr]] = {}

    def cells(self, b: Buffer, index: tuple[Affine, ...]) -> tuple[tuple[Buffer, tuple[Affine, ...]], ...]:
        """Where the real and the imaginary part of a cell are."""
        home = self.homes[b]
        if isinstance(home, Buffer):
            return tuple([(home, (*index, Affine((), k))) for k in (0, 1)])
        return tuple([(one, index) for one in home])

    def value(self, e: Expr) -> Expr:
        """A real expression, whatever is complex inside it."""
        found = self._reals.get(id(e))
        if found is None:
            found = self._reals[id(e)] = (e, self._value(e))
        return found[1]

    def pair(self, e: Expr) -> Pair:
        """The parts of an expression (a real one has an imaginary part of 0)."""
        found = self._pairs.get(id(e))
        if found is None:
            found = self._pairs[id(e)] = (e, self._pair(e))
        return found[1]

    def _value(self, e: Expr) -> Expr:
        if not isinstance(e, Op):
            return e
        if not any(a.dtype.is_complex for a in e.args):
            args = tuple([self.value(a) for a in e.args])
            return e if all(a is b for a, b in zip(args, e.args)) else replace(e, args=args)
        pairs = [self.pair(a) for a in e.args]
        if e.name in ("eq", "ne"):
            (a, b), (c, d) = pairs
            parts = [Op(e.name, (x, y), e.dtype) for x, y in ((a, c), (b, d))]
            return Op("and" if e.name == "eq" else "or", tuple(parts), e.dtype)
        real, imaginary = pairs[0]
        if e.name == "abs":
            return _absolute(real, imaginary)
        if e.name in PARTS:
            return real if e.name == "real" else imaginary
        raise InternalError(f"{e.name} of complex numbers has no parts: {e}")

    def _pair(self, e: Expr) -> Pair:
        if isinstance(e, Const):
            number, t = complex(e.value), e.dtype.real
            return Const(number.real, t), Const(number.imag, t)
        if isinstance(e, Read):
            first, second = self.cells(e.source, e.index)  # type: ignore[arg-type]
            return replace(e, source=first[0], index=first[1]), replace(e, source=second[0], index=second[1])
        if not isinstance(e, Op):
            raise InternalError(f"{e} has no parts")
        if e.name == "cast":
            return self._cast(e.args[0], e.dtype.real)
        if e.name == "select":
            (a, b), (c, d) = self.pair(e.args[1]), self.pair(e.args[2])
            condition = self.value(e.args[0])
            return Op("select", (condition, a, c), a.dtype), Op("select", (condition, b, d), b.dtype)
        return combine(e.name, [self.pair(a) for a in e.args])

    def _cast(self, value: Expr, t: DType) -> Pair:
        if value.dtype.is_complex:
            a, b = self.pair(value)
            return expr.cast(a, t), expr.cast(b, t)
        return expr.cast(self.value(value), t), Const(0.0, t)

    # ------------------------------------------------------------ statements

    def statement(self, s: Stmt) -> Stmt | None:
        if isinstance(s, Alloc) and s.buffer in self.homes:
            home = self.homes[s.buffer]
            if isinstance(home, Buffer):
                return replace(s, buffer=home, element=())
            return Alloc(home[0], Alloc(home[1], s.body))
        if isinstance(s, Prefetch) and s.buffer in self.homes:
            buffer, index = self.cells(s.buffer, s.index)[0]
            return replace(s, buffer=buffer, index=index)
        if isinstance(s, For):
            return self._zipped(s)
        if not isinstance(s, Store):
            return None
        if s.buffer not in self.homes:
            return replace(s, value=self.value(s.value))
        value, op = self.pair(s.value), s.op
        assert isinstance(op, str)  # states are apart already
        if op == "mul":
            value, op = combine("mul", [self.pair(Read(s.buffer, s.index)), value]), ""
        cells = self.cells(s.buffer, s.index)
        written = {c[0] for c in cells}
        if s.buffer.name in self.shared or any(r.source in written for e in value for r in expr.reads(e)):
            return self._by_way_of_registers(s, value, cells, op)
        return seq(*[replace(s, buffer=b, index=i, value=v, op=op) for (b, i), v in zip(cells, value)])

    def _zipped(self, s: For) -> Stmt | None:
        """A vector loop over neighbouring cells of the caller's memory, rewritten already: its two stores take every
        other number, so both parts are computed into registers, which one loop over all the numbers stores."""
        pair = s.body.items if isinstance(s.body, Seq) else ()
        distance = s.hi[0] - s.lo[0]
        plain = s.kind == "vector" and len(s.lo) == len(s.hi) == s.step == 1 and distance.is_constant
        if not plain or len(pair) != 2 or not all(isinstance(x, Store) for x in pair):
            return None
        first, second = pair
        assert isinstance(first, Store) and isinstance(second, Store)
        last = first.index[-2] if len(first.index) > 1 else Affine()
        alike = first.buffer is second.buffer and first.index[:-1] == second.index[:-1]
        steps = last.coefficient(s.var) == 1 and not any(s.var in i.names() for i in first.index[:-2])
        whole = all(isinstance(a, str) for a, _ in last.terms)
        if not (alike and steps and whole and first.buffer.shape[-1] == 2 and distance.const > 1):
            return None
        place, extent = Affine.of(s.var) - s.lo[0], distance.const
        held = [Buffer(self.fresh(), (extent,), x.buffer.dtype, "register") for x in (first, second)]
        computed = [replace(x, buffer=r, index=(place,), op="", nt=False) for x, r in zip((first, second), held)]
        var = self.fresh()
        half, rest = Affine.of(var) // 2, Affine.of(var) % 2
        even = expr.binary("eq", expr.Index(rest), 0)
        either = Op("select", (even, *[Read(r, (half,)) for r in held]), first.buffer.dtype)
        index = (*first.index[:-2], last.substitute({s.var: s.lo[0] + half}), rest)
        stored = replace(first, index=index, value=either)
        loops = seq(replace(s, body=seq(*computed)), For(var, (Affine(),), (Affine((), 2 * extent),), stored, "vector"))
        return Alloc(held[0], Alloc(held[1], loops))

    def _by_way_of_registers(
        self, s: Store, value: Pair, cells: tuple[tuple[Buffer, tuple[Affine, ...]], ...], op: str
    ) -> Stmt:
        """Both parts are computed before either is stored."""
        instance = Instance("compute", s.instance.tensor, s.instance.index)
        held = [Buffer(self.fresh(), (), v.dtype, "register") for v in value]
        first = [Store(r, (), v, instance) for r, v in zip(held, value)]
        last = [replace(s, buffer=b, index=i, value=Read(r, ()), op=op) for (b, i), r in zip(cells, held)]
        return Alloc(held[0], Alloc(held[1], seq(*first, *last)))


# ---------------------------------------------------------------- arithmetic of pairs


def _op(name: str, *args: Expr) -> Expr:
    return Op(name, args, args[0].dtype)


def _zero(e: Expr) -> bool:
    return isinstance(e, Const) and e.value == 0


def combine(name: str, pairs: list[Pair]) -> Pair:
    """An operation with a complex result."""
    a, b = pairs[0]
    if name == "neg":
        return _op("neg", a), _op("neg", b)
    if name == "conj":
        return a, _op("neg", b)
    if name == "exp":
        size = _op("exp", a)
        return _op("mul", size, _op("cos", b)), _op("mul", size, _op("sin", b))
    c, d = pairs[1]
    if name in ("add", "sub"):
        return _op(name, a, c), _op(name, b, d)
    if name == "mul":
        return _op("sub", _op("mul", a, c), _op("mul", b, d)), _op("add", _op("mul", a, d), _op("mul", b, c))
    if name == "div":
        return _quotient(a, b, c, d)
    raise InternalError(f"{name} of complex numbers has no parts")


def _quotient(a: Expr, b: Expr, c: Expr, d: Expr) -> Pair:
    """R. Smith's division (CACM 5, 1962): the parts of the divisor are divided by the larger one first."""
    if _zero(d):
        return _op("div", a, c), _op("div", b, c)
    swap = expr.binary("lt", _op("abs", c), _op("abs", d))

    def choose(x: Expr, y: Expr) -> Expr:
        return Op("select", (swap, x, y), x.dtype)

    large, small, p, q = choose(d, c), choose(c, d), choose(b, a), choose(a, b)
    ratio = _op("div", small, large)
    size = _op("add", large, _op("mul", small, ratio))
    real = _op("div", _op("add", p, _op("mul", q, ratio)), size)
    other = _op("div", _op("sub", q, _op("mul", p, ratio)), size)
    return real, choose(_op("neg", other), other)


def _absolute(a: Expr, b: Expr) -> Expr:
    """The larger part times sqrt(1 + ratio^2), which overflows only where the result does."""
    x, y = _op("abs", a), _op("abs", b)
    large, small = _op("max", x, y), _op("min", x, y)
    one = Const(1.0, a.dtype)
    ratio = Op("select", (expr.binary("eq", large, small), one, _op("div", small, large)), a.dtype)
    return _op("mul", large, _op("sqrt", _op("add", one, _op("mul", ratio, ratio))))
