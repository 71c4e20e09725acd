"""Tensors and their definitions: index notation.

A tensor is an input (`placeholder`) or is *defined*: element ``T[i, j]`` equals an expression in
``i`` and ``j`` (pointwise), or the reduction of a term over further axes.  A reduction written
inside a larger expression becomes a tensor of its own, so a definition is always one of the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Union, overload

from tensordsl import dtypes, expr
from tensordsl.affine import Affine, Dim
from tensordsl.dimensions import DIMENSIONS, Extent, extent, row_pitch, sizes
from tensordsl.dtypes import DType, DTypeLike
from tensordsl.errors import Location, ProgramError, user_location
from tensordsl.expr import Axis, Expr, ExprLike, Index, Read, Reduce, Reducer
from tensordsl.sizes import clash

__all__ = [
    "DIMENSIONS", "Definition", "Extent", "ReduceAxis", "Tensor", "check_definition", "compute", "define", "extent",
    "placeholder", "recurrence", "recurrences", "reduce_axis",
]  # fmt: skip


#: Nested operations of one definition: what reads expressions recurses, and Python stops at 1000 calls.
MAX_DEPTH = 200
#: Dimensions of a tensor to reduce over: None (all), one, or several.
Axes = Union[int, Sequence[int], None]


@dataclass(frozen=True, slots=True)
class Causal:
    """One level of a causal order: the axis along which computing advances, up or down."""

    axis: str
    descending: bool = False

    @staticmethod
    def of(text: str) -> Causal:
        """``"t"``, or ``"-t"`` for descending."""
        return Causal(text[1:], True) if text.startswith("-") else Causal(text)

    def __str__(self) -> str:
        return f"-{self.axis}" if self.descending else self.axis


#: How a user writes an order: axes, the slowest first.
OrderLike = Union[str, Sequence[str]]


def causal_order(order: OrderLike | None) -> tuple[Causal, ...]:
    """The levels of a written order."""
    if order is None:
        return ()
    return tuple(Causal.of(o) for o in ((order,) if isinstance(order, str) else order))


@dataclass(frozen=True, slots=True)
class Definition:
    """What a tensor is: ``T[axes] = body``, or ``T[axes] = reducer over reduce_axes of body``.

    order: the axes along which a recurrence runs, the slowest first; what it reads of itself lies
    strictly before in this (lexicographic) order.
    """

    axes: tuple[Axis, ...]
    body: Expr
    reducer: Reducer | None = None
    reduce_axes: tuple[Axis, ...] = ()
    order: tuple[Causal, ...] = ()

    @property
    def reads(self) -> list[Read]:
        return expr.reads(self.body)

    @property
    def causal_axes(self) -> tuple[str, ...]:
        return tuple(o.axis for o in self.order)

    @property
    def loop_axes(self) -> tuple[Axis, ...]:
        """The axes in the order of the plain loops: the causal ones outermost."""
        rank = {name: n for n, name in enumerate(self.causal_axes)}
        return tuple(sorted(self.axes, key=lambda a: rank.get(a.name, len(rank))))


@dataclass(eq=False, slots=True)
class Tensor:
    """A named array of a program.  Immutable once its definition is set.

    ``x[i, j]`` with one scalar index per dimension reads an element; slices and numpy operators
    build new tensors (see array.py).
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    definition: Definition | None = None
    named: bool = True  # False: the name was made up and may be changed freely
    location: Location | None = field(default=None, repr=False)
    pitch: int = 0  # of an input: elements between rows in memory (0: rows follow each other)

    __array_ufunc__ = None  # numpy arrays give way to our operators

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self.name} has rank 0")
        return self.shape[0]

    def __iter__(self) -> Any:
        raise ProgramError(f"{self.name} cannot be iterated over", hint="index it with axes")

    def __getitem__(self, key: Any) -> Any:
        """An element where there is one scalar index per dimension, otherwise a slice: a new tensor."""
        index = key if isinstance(key, tuple) else (key,)
        scalars = [i for i in index if isinstance(i, Expr) or _is_integer(i)]
        if any(isinstance(i, Expr) for i in index) or (len(scalars) == len(index) == self.ndim):
            if len(scalars) != len(index) or len(index) != self.ndim:
                raise ProgramError(
                    f"{self.name} has rank {self.ndim}, read with {len(index)} indices",
                    hint=f"give one index for each dimension of {self}",
                )
            return Read(self, tuple(_subscript(self, d, i) for d, i in enumerate(index)), user_location())
        from tensordsl import array

        return array.getitem(self, index)

    # numpy's operators build new tensors; the one home of their meaning is array.py

    def _binary(self, name: str, left: Any, right: Any) -> Any:
        from tensordsl import array

        return array.binary(name, left, right)

    @overload
    def __add__(self, o: Expr) -> Expr: ...
    @overload
    def __add__(self, o: Tensor | float) -> Tensor: ...
    def __add__(self, o: Any) -> Any:
        return self._binary("add", self, o)

    def __radd__(self, o: float) -> Tensor:
        return self._binary("add", o, self)  # type: ignore[no-any-return]

    @overload
    def __sub__(self, o: Expr) -> Expr: ...
    @overload
    def __sub__(self, o: Tensor | float) -> Tensor: ...
    def __sub__(self, o: Any) -> Any:
        return self._binary("sub", self, o)

    def __rsub__(self, o: float) -> Tensor:
        return self._binary("sub", o, self)  # type: ignore[no-any-return]

    @overload
    def __mul__(self, o: Expr) -> Expr: ...
    @overload
    def __mul__(self, o: Tensor | float) -> Tensor: ...
    def __mul__(self, o: Any) -> Any:
        return self._binary("mul", self, o)

    def __rmul__(self, o: float) -> Tensor:
        return self._binary("mul", o, self)  # type: ignore[no-any-return]

    @overload
    def __truediv__(self, o: Expr) -> Expr: ...
    @overload
    def __truediv__(self, o: Tensor | float) -> Tensor: ...
    def __truediv__(self, o: Any) -> Any:
        return self._binary("div", self, o)

    def __rtruediv__(self, o: float) -> Tensor:
        return self._binary("div", o, self)  # type: ignore[no-any-return]

    @overload
    def __floordiv__(self, o: Expr) -> Expr: ...
    @overload
    def __floordiv__(self, o: Tensor | float) -> Tensor: ...
    def __floordiv__(self, o: Any) -> Any:
        return self._binary("floordiv", self, o)

    def __rfloordiv__(self, o: float) -> Tensor:
        return self._binary("floordiv", o, self)  # type: ignore[no-any-return]

    @overload
    def __mod__(self, o: Expr) -> Expr: ...
    @overload
    def __mod__(self, o: Tensor | float) -> Tensor: ...
    def __mod__(self, o: Any) -> Any:
        return self._binary("mod", self, o)

    def __rmod__(self, o: float) -> Tensor:
        return self._binary("mod", o, self)  # type: ignore[no-any-return]

    @overload
    def __pow__(self, o: Expr) -> Expr: ...
    @overload
    def __pow__(self, o: Tensor | float) -> Tensor: ...
    def __pow__(self, o: Any) -> Any:
        return self._binary("pow", self, o)

    def __rpow__(self, o: float) -> Tensor:
        return self._binary("pow", o, self)  # type: ignore[no-any-return]

    @overload
    def __lt__(self, o: Expr) -> Expr: ...
    @overload
    def __lt__(self, o: Tensor | float) -> Tensor: ...
    def __lt__(self, o: Any) -> Any:
        return self._binary("lt", self, o)

    @overload
    def __le__(self, o: Expr) -> Expr: ...
    @overload
    def __le__(self, o: Tensor | float) -> Tensor: ...
    def __le__(self, o: Any) -> Any:
        return self._binary("le", self, o)

    @overload
    def __gt__(self, o: Expr) -> Expr: ...
    @overload
    def __gt__(self, o: Tensor | float) -> Tensor: ...
    def __gt__(self, o: Any) -> Any:
        return self._binary("gt", self, o)

    @overload
    def __ge__(self, o: Expr) -> Expr: ...
    @overload
    def __ge__(self, o: Tensor | float) -> Tensor: ...
    def __ge__(self, o: Any) -> Any:
        return self._binary("ge", self, o)

    @overload
    def __and__(self, o: Expr) -> Expr: ...
    @overload
    def __and__(self, o: Tensor | float) -> Tensor: ...
    def __and__(self, o: Any) -> Any:
        return self._binary("and", self, o)

    @overload
    def __or__(self, o: Expr) -> Expr: ...
    @overload
    def __or__(self, o: Tensor | float) -> Tensor: ...
    def __or__(self, o: Any) -> Any:
        return self._binary("or", self, o)

    def __matmul__(self, o: Tensor) -> Tensor:
        from tensordsl import array

        return array.matmul(self, o)

    def __neg__(self) -> Tensor:
        return self._unary("neg")

    def __abs__(self) -> Tensor:
        return self._unary("abs")

    def __invert__(self) -> Tensor:
        return self._unary("not")

    def _unary(self, name: str) -> Tensor:
        from tensordsl import array

        return array.elementwise(name, lambda e: expr.unary(name, e), self)

    def __bool__(self) -> bool:
        raise ProgramError(
            f"tensor {self.name} has no truth value while an operator is being defined",
            hint="use td.where(condition, a, b), and & | ~ for and, or, not",
        )

    @property
    def T(self) -> Tensor:
        return self.transpose()

    def transpose(self, *axes: int) -> Tensor:
        from tensordsl import array

        return array.transpose(self, axes or None)

    def reshape(self, *shape: Extent | Sequence[Extent]) -> Tensor:
        from tensordsl import array

        one = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        return array.reshape(self, one)  # type: ignore[arg-type]

    def astype(self, dtype: DTypeLike) -> Tensor:
        from tensordsl import array

        return array.astype(self, dtype)

    def _reduce(self, name: str, axis: Axes, keepdims: bool) -> Tensor:
        from tensordsl import array

        return array.reduce(name, self, axis, keepdims)

    def sum(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._reduce("sum", axis, keepdims)

    def prod(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._reduce("prod", axis, keepdims)

    def max(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._reduce("max", axis, keepdims)

    def min(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._reduce("min", axis, keepdims)

    def mean(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        from tensordsl import array

        return array.mean(self, axis, keepdims)

    def __str__(self) -> str:
        pitch = f":{self.pitch}" if self.pitch != 0 else ""
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}{pitch}]"


def _is_integer(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, (bool, Tensor))


def _subscript(tensor: Tensor, d: int, value: Any) -> Affine:
    if isinstance(value, Expr):
        if isinstance(value, Index):
            return value.affine
        raise ProgramError(
            f"index {value} of {tensor.name} (dimension {d}) is not affine in the axes",
            hint="indices are sums of axes times integers, with // and % by positive integers",
        )
    number = value.__index__()
    return Affine.of(number + tensor.shape[d] if number < 0 else number)


# ---------------------------------------------------------------- index notation


def placeholder(
    shape: Extent | Sequence[Extent],
    dtype: DTypeLike = "float32",
    name: str | None = None,
    *,
    pitch: Extent | None = None,
) -> Tensor:
    """An input tensor.  shape: integers or names of bound dimensions; ``()`` is a run-time scalar.

    pitch: elements between the starts of neighbouring rows in memory, at least as many as a row has
    (None: rows follow each other).
    """
    extents = sizes(shape)
    apart = row_pitch(pitch, extents)
    return Tensor(name or "x", extents, dtypes.dtype(dtype), None, name is not None, user_location(), apart)


class ReduceAxis(Index):
    """An axis to reduce over: an index in expressions, and the ``axis=`` of a reduction."""

    __slots__ = ("axis",)
    axis: Axis

    def __init__(self, axis: Axis) -> None:
        Index.__init__(self, Affine.of(axis.name))
        object.__setattr__(self, "axis", axis)


def reduce_axis(size: Extent, name: str | None = None) -> ReduceAxis:
    """An axis ``0 <= k < size`` for `sum`, `prod`, `max`, `min`; a dimension's name may be the size."""
    default = size.lower() if isinstance(size, str) and size.isidentifier() else "k"
    return ReduceAxis(Axis(name or default, extent(size)))


def compute(
    shape: Extent | Sequence[Extent],
    fn: Callable[..., ExprLike],
    name: str | None = None,
    *,
    order: OrderLike | None = None,
) -> Tensor:
    """The tensor whose element at ``(i, j, ...)`` is ``fn(i, j, ...)``.

    shape: integers or names of bound dimensions.  The loops are named after the parameters of fn.
    """
    axes = _axes(fn, sizes(shape), 0)
    body = expr.expression(fn(*[Index(Affine.of(a.name)) for a in axes]))
    return define(axes, body, name, order=order)


def define(
    axes: tuple[Axis, ...], body: Expr, name: str | None, *, order: OrderLike | None = None, label: str = "t"
) -> Tensor:
    """The tensor ``T[axes] = body``; reductions inside the body become tensors of their own.

    label: what to call it where no name is given; a Program may number it.
    """
    tensor = _declare(tuple(a.extent for a in axes), body.dtype, name, label)
    _define(tensor, axes, body, causal_order(order), [])
    return tensor


def recurrence(
    shape: Extent | Sequence[Extent],
    fn: Callable[..., ExprLike],
    name: str | None = None,
    *,
    order: OrderLike,
    dtype: DTypeLike = "float32",
) -> Tensor:
    """A tensor whose elements read earlier elements of itself: ``fn(T, i, j, ...)``.

    order: the axis (a parameter of fn) along which every read of T lies strictly before; "-i" for an
        axis that is computed from its end; several, the slowest first, for a lexicographic order.
    Raises ProgramError with a counterexample where one does not.
    """
    return recurrences([shape], [fn], None if name is None else [name], order=[order], dtype=dtype)[0]


def recurrences(
    shapes: Sequence[Extent | Sequence[Extent]],
    fns: Sequence[Callable[..., ExprLike]],
    names: Sequence[str] | None = None,
    *,
    order: OrderLike | Sequence[OrderLike],
    dtype: DTypeLike = "float32",
) -> tuple[Tensor, ...]:
    """Tensors that read each other: element ``(i, j, ...)`` of the n-th is ``fns[n](A, B, ..., i, j, ...)``.

    order: as of `recurrence`, for all of them, or a list with one for each.  A read of another tensor
        may lie in the same step where no cycle results; where one does, the next axis of their orders
        decides.
    Raises ProgramError with a counterexample where a value would be needed before it is computed.
    """
    count = len(fns)
    if len(shapes) != count or (names is not None and len(names) != count):
        raise ProgramError(f"recurrences: {count} functions, {len(shapes)} shapes, {len(names or shapes)} names")
    tensors = [
        _declare(sizes(s), dtypes.dtype(dtype), None if names is None else names[n], "t") for n, s in enumerate(shapes)
    ]
    members = list(tensors)
    for tensor, fn, levels in zip(tensors, fns, _orders(order, count)):
        axes = _axes(fn, tensor.shape, count)
        for n, level in enumerate(levels):
            if level.axis not in [a.name for a in axes] or level.axis in [o.axis for o in levels[:n]]:
                raise ProgramError(f"recurrence: order={str(level)!r} is not an axis", legal=[a.name for a in axes])
        body = expr.expression(fn(*tensors, *[Index(Affine.of(a.name)) for a in axes]))
        _define(tensor, axes, expr.cast(body, tensor.dtype), levels, members)
    from tensordsl import causality

    causality.arrange(members)
    return tuple(tensors)


def _orders(order: OrderLike | Sequence[OrderLike], count: int) -> list[tuple[Causal, ...]]:
    """The order of each function.  A list has one for each, a string or a tuple is that of all."""
    if isinstance(order, list):
        if len(order) != count:
            raise ProgramError(f"recurrences: {count} functions, {len(order)} orders")
        return [causal_order(o) for o in order]
    return [causal_order(order)] * count  # type: ignore[arg-type]


def _declare(shape: tuple[int, ...], dtype: DType, name: str | None, label: str) -> Tensor:
    return Tensor(name or label, shape, dtype, None, name is not None, user_location())


def _define(
    tensor: Tensor, axes: tuple[Axis, ...], body: Expr, order: tuple[Causal, ...], members: list[Tensor]
) -> None:
    """Set and check the definition of a tensor.

    members: the tensors of a recurrence in the making; hoisted ones that read them are added.
    """
    reducer: Reducer | None = None
    reduced: tuple[Axis, ...] = ()
    if isinstance(body, Reduce):
        for a in body.axes:
            if any(a.name == other.name for other in axes):
                raise ProgramError(
                    f"reduction axis {a.name!r} has the name of an axis of {tensor.name}",
                    location=body.location,
                    hint="name it otherwise: td.reduce_axis(size, name=...)",
                )
        reducer, reduced, body = body.reducer, body.axes, body.body
    body = _hoist(body, axes + reduced, tensor.name, order, members)
    tensor.definition = Definition(axes, body, reducer, reduced, order)
    check_definition(tensor)


def _hoist(body: Expr, scope: tuple[Axis, ...], label: str, order: tuple[Causal, ...], members: list[Tensor]) -> Expr:
    """Each reduction in an expression as a read of a tensor over just the axes it uses.

    A reduction that belongs to a recurrence has no terms where the selects around it do not ask for it:
    they may be what makes the recurrence well founded.
    """
    memo: dict[int, Expr] = {}
    given = _known_at(body)

    def go(e: Expr) -> Expr:
        if id(e) not in memo:
            memo[id(e)] = hoisted(e) if isinstance(e, Reduce) else rebuilt(e)
        return memo[id(e)]

    def rebuilt(e: Expr) -> Expr:
        args = tuple(go(a) for a in expr.children(e))
        same = all(a is b for a, b in zip(args, expr.children(e)))
        return e if same else replace(e, args=args)  # type: ignore[type-var]

    def hoisted(e: Reduce) -> Expr:
        cyclic = any(r.source is m for r in expr.reads(e) for m in members)
        used = expr.free_names(e)
        if cyclic:
            facts = given[id(e)]
            e = expr.restricted(e, facts)
            used |= {o.axis for o in order}.union(*(c.names() for c in facts))
        kept = tuple(a for a in scope if a.name in used)
        inner = _declare(tuple(a.extent for a in kept), e.dtype, None, f"{label}_{e.reducer.name}")
        if cyclic:
            members.append(inner)
        _define(inner, kept, e, order if cyclic else (), members)
        return Read(inner, tuple(Affine.of(a.name) for a in kept), e.location)

    return go(body)


def _known_at(body: Expr) -> dict[int, tuple[Affine, ...]]:
    """For each reduction in an expression, the affine conditions (``>= 0``) that hold wherever it is needed."""
    found: dict[int, tuple[Affine, ...]] = {}
    seen: set[tuple[int, tuple[Affine, ...]]] = set()

    def go(e: Expr, given: tuple[Affine, ...]) -> None:
        if (id(e), given) in seen:
            return
        seen.add((id(e), given))
        if isinstance(e, Reduce):
            found[id(e)] = _common_facts(found[id(e)], given) if id(e) in found else given
            return
        for child, facts in expr.guarded_children(e, given):
            go(child, facts)

    go(body, ())
    return found


def _common_facts(a: tuple[Affine, ...], b: tuple[Affine, ...]) -> tuple[Affine, ...]:
    """What each of two sets of conditions says, up to the constant."""

    def said(c: Affine, facts: tuple[Affine, ...]) -> bool:
        return any((c - f).is_constant and (c - f).const >= 0 for f in facts)

    return tuple(dict.fromkeys([*(c for c in a if said(c, b)), *(c for c in b if said(c, a))]))


def _axes(fn: Callable[..., Any], shape: tuple[int, ...], skip: int) -> tuple[Axis, ...]:
    """The axes of a definition, named after the parameters of its function past the first ``skip``."""
    parameters = list(inspect.signature(fn).parameters.values())
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return tuple(Axis(f"i{d}", n) for d, n in enumerate(shape))
    if len(parameters) != skip + len(shape):
        raise ProgramError(
            f"the function takes {len(parameters) - skip} indices, the shape has {len(shape)} dimensions"
        )
    return tuple(Axis(p.name, n) for p, n in zip(parameters[skip:], shape))


def check_definition(tensor: Tensor) -> None:
    """Every variable is an axis, and every read is in bounds.  Raises ProgramError."""
    d = tensor.definition
    assert d is not None
    known = {a.name for a in d.axes + d.reduce_axes}
    if (taken := clash((a.name, a.extent) for a in d.axes + d.reduce_axes)) is not None:
        raise ProgramError(f"{tensor.name}: the axis {taken!r} has the name of a dimension", hint="rename the axis")
    depth: dict[int, int] = {}
    for e in expr.walk(d.body):
        depth[id(e)] = 1 + max((depth[id(c)] for c in expr.children(e)), default=0)
        if depth[id(e)] > MAX_DEPTH:
            raise ProgramError(
                f"{tensor.name}: operations are nested more than {MAX_DEPTH} deep",
                location=tensor.location,
                hint="use td.sum over an axis, or a tensor for a part of it",
            )
        indices: Iterable[Affine] = e.index if isinstance(e, Read) else (e.affine,) if isinstance(e, Index) else ()
        for i in indices:
            for n in sorted(n for n in i.names() - known if not isinstance(n, Dim)):
                raise ProgramError(
                    f"{tensor.name}: index {n!r} is not an axis of this definition",
                    location=getattr(e, "location", None),
                    legal=sorted(known) or "this definition has no axes",
                    hint="reduce over it with td.sum(..., axis=...)",
                )
    from tensordsl import bounds

    bounds.check(tensor)
