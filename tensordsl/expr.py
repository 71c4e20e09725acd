"""Scalar expressions: one small language shared by operator definitions and loop nests.

Nodes are immutable and compared by identity (``==`` builds a comparison node); sharing is by
identity as well, so a node used twice is computed once.  `structure` gives a hashable key for
structural equality.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Union

from tensordsl import dtypes
from tensordsl.affine import Affine
from tensordsl.complex_operations import COMPLEX, PARTS, complex_unary, refused
from tensordsl.dtypes import DType
from tensordsl.errors import Location, ProgramError
from tensordsl.refusals import NoInteger, no_scalar, ufunc
from tensordsl.sizes import Size

if TYPE_CHECKING:
    from typing import Protocol

    from tensordsl.combination import Monoid
    from tensordsl.tensor import Tensor

    class Source(Protocol):
        """What can be read: a tensor of a program or a buffer of a loop nest."""

        @property
        def name(self) -> str: ...
        @property
        def shape(self) -> tuple[int, ...]: ...
        @property
        def dtype(self) -> DType: ...


Number = Union[int, float, bool]
#: What expressions are made of: a rank-0 tensor stands for its value.
ExprLike = Union["Expr", "Tensor", int, float, bool, complex]

ARITHMETIC = frozenset({"add", "sub", "mul", "div", "floordiv", "mod", "pow", "max", "min"})
COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
_DIVISION = {"floordiv": "//", "mod": "%"}
LOGICAL = frozenset({"and", "or", "not"})
#: One-argument functions of a real number, evaluated in the operand's type.
UNARY = frozenset(
    ["neg", "abs", "sqrt", "rsqrt", "exp", "exp2", "log", "log2", "tanh", "erf", "sin", "cos", "floor", "ceil", "round"]
)


class Expr(NoInteger):
    """Base of the nodes.  ``dtype`` is the type of the value."""

    __slots__ = ()
    dtype: DType

    def __add__(self, other: ExprLike) -> Expr:
        return binary("add", self, other)

    def __radd__(self, other: ExprLike) -> Expr:
        return binary("add", other, self)

    def __sub__(self, other: ExprLike) -> Expr:
        return binary("sub", self, other)

    def __rsub__(self, other: ExprLike) -> Expr:
        return binary("sub", other, self)

    def __mul__(self, other: ExprLike) -> Expr:
        return binary("mul", self, other)

    def __rmul__(self, other: ExprLike) -> Expr:
        return binary("mul", other, self)

    def __truediv__(self, other: ExprLike) -> Expr:
        return binary("div", self, other)

    def __rtruediv__(self, other: ExprLike) -> Expr:
        return binary("div", other, self)

    def __floordiv__(self, other: ExprLike) -> Expr:
        return binary("floordiv", self, other)

    def __rfloordiv__(self, other: ExprLike) -> Expr:
        return binary("floordiv", other, self)

    def __mod__(self, other: ExprLike) -> Expr:
        return binary("mod", self, other)

    def __rmod__(self, other: ExprLike) -> Expr:
        return binary("mod", other, self)

    def __pow__(self, other: ExprLike) -> Expr:
        return binary("pow", self, other)

    def __rpow__(self, other: ExprLike) -> Expr:
        return binary("pow", other, self)

    def __neg__(self) -> Expr:
        return unary("neg", self)

    def __abs__(self) -> Expr:
        return unary("abs", self)

    def __lt__(self, other: ExprLike) -> Expr:
        return binary("lt", self, other)

    def __le__(self, other: ExprLike) -> Expr:
        return binary("le", self, other)

    def __gt__(self, other: ExprLike) -> Expr:
        return binary("gt", self, other)

    def __ge__(self, other: ExprLike) -> Expr:
        return binary("ge", self, other)

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]
        return binary("eq", self, other)  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]
        return binary("ne", self, other)  # type: ignore[arg-type]

    def __and__(self, other: ExprLike) -> Expr:
        return binary("and", self, other)

    def __or__(self, other: ExprLike) -> Expr:
        return binary("or", self, other)

    def __invert__(self) -> Expr:
        return unary("not", self)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise ProgramError(
            "an expression has no truth value while an operator is being defined",
            hint="use td.select(condition, a, b), and & | ~ for and, or, not",
        )

    def __str__(self) -> str:
        from tensordsl.expression_text import text

        return text(self)

    __repr__ = __str__
    __array_ufunc__ = ufunc


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Const(Expr):
    value: Number
    dtype: DType


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Index(Expr):
    """An affine integer: an axis of the definition, or arithmetic on axes."""

    affine: Affine
    dtype: DType = dtypes.int64


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Read(Expr):
    """One element of a tensor or buffer."""

    source: Source
    index: tuple[Affine, ...]
    location: Location | None = None

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.source.dtype


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Op(Expr):
    """A function of scalars: arithmetic, comparison, logic, ``select``, ``cast``, mathematics."""

    name: str
    args: tuple[Expr, ...]
    dtype: DType


@dataclass(frozen=True, slots=True)
class Reducer:
    """A monoid: name, the operation `combine` as an Op name, and the identity per type."""

    name: str
    combine: str

    @property
    def key(self) -> str:
        """A text equal for reducers of equal structure."""
        return self.name

    def identity(self, t: DType) -> Const:
        if t.is_complex:
            return complex_constant(complex(self.name == "prod"), t)
        if self.name == "sum":
            return Const(0.0 if t.is_float else 0, t)
        if self.name == "prod":
            return Const(1.0 if t.is_float else 1, t)
        if t.is_float:
            return Const(float("-inf") if self.name == "max" else float("inf"), t)
        signed = t.kind == "i"
        least = -(1 << (t.bits - 1)) if signed else 0
        greatest = (1 << (t.bits - 1)) - 1 if signed else 1 if t.kind == "b" else (1 << t.bits) - 1
        return Const(least if self.name == "max" else greatest, t)


REDUCERS = {
    r.name: r for r in (Reducer("sum", "add"), Reducer("prod", "mul"), Reducer("max", "max"), Reducer("min", "min"))
}


@dataclass(frozen=True, slots=True)
class Axis:
    """A named range ``0 <= name < extent``."""

    name: str
    extent: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Reduce(Expr):
    """``body`` combined over every point of ``axes``.  Only inside `compute`, which hoists it."""

    reducer: Reducer | Monoid
    axes: tuple[Axis, ...]
    body: Expr
    location: Location | None = None

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.body.dtype


# ---------------------------------------------------------------- construction


def complex_constant(value: complex, t: DType) -> Const:
    """A literal of a complex type.  Numbers are real ones to a type checker: only these constants are not."""
    return Const(complex(value), t)  # type: ignore[arg-type]


def constant(value: Number | complex, like: DType | None = None) -> Const:
    """A literal; a Python number takes the type of what it meets."""
    if isinstance(value, bool):
        return Const(value, like or dtypes.bool_)
    if isinstance(value, complex) or (like is not None and like.is_complex):
        wide = like is not None and like.real is dtypes.float64
        return complex_constant(complex(value), dtypes.complex128 if wide else dtypes.complex64)
    if isinstance(value, int):
        if like is not None and like.is_float:
            return Const(float(value), like)
        return Const(value, like if like is not None and like.kind in "iu" else dtypes.int64)
    return Const(float(value), like if like is not None and like.is_float else dtypes.float32)


def expression(value: object, like: DType | None = None) -> Expr:
    """Any operand as an expression, with a clear error for what is none."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, Size):
        from tensordsl.counts import size_expression

        return size_expression(value, like)
    if isinstance(value, (bool, int, float, complex)):
        return constant(value, like)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a numpy scalar
        return constant(value.item(), like)
    if hasattr(value, "definition") and getattr(value, "shape", None) == ():  # a rank-0 tensor
        return Read(value, ())  # type: ignore[arg-type]
    if hasattr(value, "definition"):
        raise ProgramError(
            f"tensor {value.name!r} of rank {len(value.shape)} used as a scalar",  # type: ignore[attr-defined]
            hint="index it: x[i, j]",
        )
    raise no_scalar(value)


def cast(value: ExprLike, to: dtypes.DTypeLike) -> Expr:
    """The value converted to a dtype (towards zero for float to integer, as in C and numpy)."""
    t = dtypes.dtype(to)
    e = expression(value)
    if e.dtype == t:
        return e
    if t.bits < 8:
        raise ProgramError(f"{t} is a type of inputs: such elements are read, never made", hint="cast to int8 instead")
    if e.dtype.is_complex and not t.is_complex:
        raise ProgramError(f"a {e.dtype} has no value of type {t}", hint="take a part of it: td.real, td.imag, td.abs")
    if isinstance(e, Const):
        v = e.value
        if t.is_complex:
            return complex_constant(v, t)
        return Const(bool(v) if t.kind == "b" else float(v) if t.is_float else int(v), t)
    return Op("cast", (e,), t)


def operand(e: Expr) -> Expr:
    """A value as operations take it: what a type only stores is converted."""
    return cast(e, e.dtype.arithmetic)


def binary(name: str, left: ExprLike, right: ExprLike) -> Expr:
    """A two-argument operation with numpy's type promotion; affine integers stay affine."""
    a = operand(expression(left, right.dtype if isinstance(right, Expr) else None))
    b = operand(expression(right, a.dtype))
    folded = _affine(name, a, b)
    if folded is not None:
        return folded
    if name in ("floordiv", "mod") and isinstance(b, Const) and not (b.value or a.dtype.is_float or b.dtype.is_float):
        raise ProgramError(f"{a} {_DIVISION[name]} 0: a division of integers by zero")
    if (a.dtype.is_complex or b.dtype.is_complex) and name not in COMPLEX:
        raise refused(name)
    if name in LOGICAL:
        for side in (a, b):
            if side.dtype.is_inexact:
                raise ProgramError(f"{name} needs integers or conditions, got {side.dtype}")
        t = dtypes.promote(a.dtype, b.dtype)
        return Op(name, (cast(a, t), cast(b, t)), t)
    t = dtypes.promote(a.dtype, b.dtype)
    if name in ("div", "pow") and not t.is_inexact:
        t = dtypes.float64 if t.bits > 32 and not (isinstance(a, Index) or isinstance(b, Index)) else dtypes.float32
    if name in ARITHMETIC and t.kind == "b":
        t = dtypes.int64
    return Op(name, (cast(a, t), cast(b, t)), dtypes.bool_ if name in COMPARISONS else t)


def _affine(name: str, a: Expr, b: Expr) -> Expr | None:
    """Index arithmetic that stays affine, or None."""

    def value(e: Expr) -> Affine | None:
        if isinstance(e, Index):
            return e.affine
        if isinstance(e, Const) and e.dtype.kind in "iu":
            return Affine((), int(e.value))
        return None

    if not (isinstance(a, Index) or isinstance(b, Index)):
        return None
    x, y = value(a), value(b)
    if x is None or y is None:
        return None
    if name == "add":
        return Index(x + y)
    if name == "sub":
        return Index(x - y)
    if name == "mul" and (x.is_constant or y.is_constant):
        return Index(y * x.const if x.is_constant else x * y.const)
    if name in ("floordiv", "mod") and y.is_constant:
        if y.const < 1:
            said = f"index {a if len(x.terms) == 1 and not x.const else f'({a})'} {_DIVISION[name]} {y.const}"
            raise ProgramError(f"{said}: the divisor of an index must be positive")
        return Index(x // y.const if name == "floordiv" else x % y.const)
    return None


def unary(name: str, value: ExprLike) -> Expr:
    """A one-argument operation; functions of reals take floats only (integers are cast)."""
    e = operand(expression(value))
    if name in ("neg", "abs") and e.dtype.kind == "b":
        e = cast(e, dtypes.int64)
    if name == "neg" and isinstance(e, Index):
        return Index(-e.affine)
    if name == "neg" and isinstance(e, Const):
        return Const(-e.value, e.dtype)
    if name == "not":
        if e.dtype.is_inexact:
            raise ProgramError(f"not needs an integer or a condition, got {e.dtype}")
        return Op(name, (e,), e.dtype)
    if name in PARTS | {"conj"} or e.dtype.is_complex:
        return complex_unary(name, e)
    if name not in UNARY:
        raise ProgramError(f"unknown function {name!r}", legal=sorted(UNARY))
    if name not in ("neg", "abs") and not e.dtype.is_float:
        e = cast(e, dtypes.float32)
    return Op(name, (e,), e.dtype)


def select(condition: ExprLike, then: ExprLike, otherwise: ExprLike) -> Expr:
    """``then`` where the condition holds, else ``otherwise``; only the chosen side is evaluated."""
    c = expression(condition)
    if c.dtype.is_inexact:
        raise ProgramError(f"the condition of select is {c.dtype}", hint="compare it: x > 0")
    a = expression(then, otherwise.dtype if isinstance(otherwise, Expr) else None)
    b = expression(otherwise, a.dtype)
    t = dtypes.promote(a.dtype, b.dtype)
    return Op("select", (c, cast(a, t), cast(b, t)), t)


# ---------------------------------------------------------------- traversal


def children(e: Expr) -> tuple[Expr, ...]:
    if isinstance(e, Op):
        return e.args
    if isinstance(e, Reduce):
        return (e.body,)
    return ()


def walk(e: Expr) -> Iterator[Expr]:
    """Every node once, operands before what uses them."""
    seen: set[int] = {id(e)}
    path: list[tuple[Expr, Iterator[Expr]]] = [(e, iter(children(e)))]
    while path:
        node, rest = path[-1]
        for child in rest:
            if id(child) not in seen:
                seen.add(id(child))
                path.append((child, iter(children(child))))
                break
        else:
            path.pop()
            yield node


def reads(e: Expr) -> list[Read]:
    """Every read in an expression; what an index reads counts as well, before the read it is for."""
    found: list[Read] = []
    for x in walk(e):
        if isinstance(x, Read):
            found += data_reads(x.index, x.location)
            found.append(x)
        elif isinstance(x, Index):
            found += data_reads((x.affine,))
    return found


def data_reads(indices: Iterable[Affine], location: Location | None = None) -> list[Read]:
    """The reads that some index expressions contain."""
    found: list[Read] = []
    for i in indices:
        for d in i.data():
            inner = getattr(d.source, "value", None)  # an expression that is no tensor yet
            found += reads(inner) if inner is not None else [Read(d.source, d.index, location)]
    return found


def free_names(e: Expr) -> frozenset[str]:
    """The index variables an expression depends on; those a reduction binds are not free."""
    memo: dict[int, frozenset[str]] = {}

    def go(x: Expr) -> frozenset[str]:
        if id(x) not in memo:
            indices = x.index if isinstance(x, Read) else (x.affine,) if isinstance(x, Index) else ()
            found = frozenset[str]().union(*(i.names() for i in indices), *(go(c) for c in children(x)))
            memo[id(x)] = found - {a.name for a in x.axes} if isinstance(x, Reduce) else found
        return memo[id(x)]

    return go(e)


def transform(e: Expr, f: Callable[[Expr], Expr | None], memo: dict[int, Expr] | None = None) -> Expr:
    """Rebuild bottom-up: ``f`` sees each node with its children rebuilt and may replace it.

    Sharing is kept: one node stays one node, also over several calls with one memo.
    """
    memo = {} if memo is None else memo
    kept: list[Expr] = []  # ids stay unique while the nodes live

    def go(x: Expr) -> Expr:
        done = memo.get(id(x))
        if done is not None:
            return done
        y = x
        if isinstance(x, Op):
            args = tuple([go(a) for a in x.args])
            if any(a is not b for a, b in zip(args, x.args)):
                y = replace(x, args=args)
        elif isinstance(x, Reduce):
            body = go(x.body)
            if body is not x.body:
                y = replace(x, body=body)
        new = f(y)
        result = y if new is None else new
        memo[id(x)] = result
        kept.append(x)
        return result

    return go(e)


def substitute(e: Expr, env: Mapping[str, Affine], memo: dict[int, Expr] | None = None) -> Expr:
    """Replace index variables."""

    def f(x: Expr) -> Expr | None:
        if isinstance(x, Read) and x.index:
            index = tuple([i.substitute(env) for i in x.index])
            if any(a is not b for a, b in zip(index, x.index)):
                return replace(x, index=index)
        elif isinstance(x, Index):
            affine = x.affine.substitute(env)
            if affine is not x.affine:
                return Index(affine, x.dtype)  # a `ReduceAxis` becomes a plain index
        return None

    return transform(e, f, memo) if env else e


def structure(e: Expr) -> Hashable:
    """A key equal for expressions of equal structure (sources by name)."""
    from tensordsl.accesses import names_only

    memo: dict[int, Hashable] = {}
    for x in walk(e):
        key: Any
        if isinstance(x, Const):
            key = ("const", repr(x.value), x.dtype.name)
        elif isinstance(x, Index):
            key = ("index", names_only((x.affine,)))
        elif isinstance(x, Read):
            key = ("read", x.source.name, names_only(x.index))
        elif isinstance(x, Op):
            key = (x.name, x.dtype.name, *(memo[id(a)] for a in x.args))
        elif isinstance(x, Reduce):
            key = (x.reducer.key, x.axes, memo[id(x.body)])
        memo[id(x)] = key
    return memo[id(e)]
