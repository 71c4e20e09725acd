"""Tensors and their definitions: index notation.

A tensor is an input (`placeholder`) or is *defined*: element ``T[i, j]`` equals an expression in
``i`` and ``j`` (pointwise), or the reduction of a term over further axes.  A reduction written
inside a larger expression becomes a tensor of its own, so a definition is always one of the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Union, overload

from tensordsl import dtypes, expr, guards
from tensordsl.affine import Affine, Datum, Dim
from tensordsl.axes import hidden, shown, with_names
from tensordsl.combination import Monoid
from tensordsl.data_index import Pending, subscript
from tensordsl.dimensions import DIMENSIONS, Extent, extent, row_pitch, sizes
from tensordsl.dtypes import DType, DTypeLike
from tensordsl.errors import Location, ProgramError, user_location
from tensordsl.expr import Axis, Expr, ExprLike, Index, Read, Reduce, Reducer
from tensordsl.ranges import Range, known_range, type_range, value_range
from tensordsl.refusals import NoArray
from tensordsl.sizes import at_most, clash, greatest
from tensordsl.summarised import Axes, Summarised
from tensordsl.tensor_operators import TensorOperators

__all__ = [
    "DIMENSIONS",
    "Axes",
    "Definition",
    "Extent",
    "ReduceAxis",
    "Tensor",
    "check_definition",
    "compute",
    "define",
    "extent",
    "placeholder",
    "recurrence",
    "recurrences",
    "reduce_axis",
]  # fmt: skip


#: Nested operations of one definition: what reads expressions recurses, and Python stops at 1000 calls.
MAX_DEPTH = 200


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
    if not isinstance(order, str) and not all(isinstance(o, str) for o in _sequence(order)):
        raise ProgramError(f"order={order!r} names no axes", hint='as in order="i", order="-i" or order=("t", "i")')
    return tuple(Causal.of(o) for o in ((order,) if isinstance(order, str) else order))


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, (tuple, list)) else (value,)


@dataclass(frozen=True, slots=True)
class Definition:
    """What a tensor is: ``T[axes] = body``, or ``T[axes] = reducer over reduce_axes of body``.

    order: the axes along which a recurrence runs, the slowest first; what it reads of itself lies
    strictly before in this (lexicographic) order.  fused: each term of the sum is a product, which is
    added to the sum with one rounding (see `tensordsl.program.Rounding`).
    """

    axes: tuple[Axis, ...]
    body: Expr
    reducer: Reducer | Monoid | None = None
    reduce_axes: tuple[Axis, ...] = ()
    order: tuple[Causal, ...] = ()
    fused: bool = False

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


@dataclass(eq=False, slots=True, repr=False)
class Tensor(TensorOperators, Summarised, NoArray):
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
    values: Range | None = None  # what the elements are known to lie in, both ends included
    stated: bool = False  # the caller promises these values: a kernel checks them when it is called
    pitch: int = 0  # of an input: elements between rows in memory (0: rows follow each other)
    value: Any = field(default=None, repr=False)  # of a constant: its elements (see constants.py)

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

    def __str__(self) -> str:
        stated = f" in {self.values[0]}..{self.values[1]}" if self.stated and self.values is not None else ""
        pitch = f":{self.pitch}" if self.pitch != 0 else ""
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}{pitch}]{stated}"


def _is_integer(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, (bool, Tensor))


def _subscript(tensor: Tensor, d: int, value: Any) -> Affine:
    if isinstance(value, Expr):
        return subscript(value, f"{tensor.name} (dimension {d})", user_location())
    number = value.__index__()
    return Affine.of(number + tensor.shape[d] if number < 0 else number)


# ---------------------------------------------------------------- index notation


def placeholder(
    shape: Extent | Sequence[Extent],
    dtype: DTypeLike = "float32",
    name: str | None = None,
    *,
    values: range | None = None,
    pitch: Extent | None = None,
) -> Tensor:
    """An input tensor.  shape: integers or names of bound dimensions; ``()`` is a run-time scalar.

    values: what the elements of an integer tensor lie in, ``range(n)`` or ``range(first, end)``.  They may
        then be used as indices.  Whoever calls the kernel promises it; a call that breaks the promise is
        refused before anything is computed.
    pitch: elements between the starts of neighbouring rows in memory, at least as many as a row has
        (None: rows follow each other).
    """
    extents, t = sizes(shape), dtypes.dtype(dtype)
    if t.bits < 8 and not extents:
        raise ProgramError(f"{t} packs two elements into a byte, so it needs a dimension", hint="use int8")
    label = name or "x"
    tensor = Tensor(label, extents, t, None, name is not None, user_location(), known_range(t))
    tensor.pitch = row_pitch(pitch, extents)
    if t.bits < 8 and tensor.pitch != 0:
        raise ProgramError(f"{label}: every row of {t} begins at a byte, and rows cannot lie apart", hint="use int8")
    if values is not None:
        _check_values(values, t, label)
        if tensor.pitch != 0:
            raise ProgramError(f"{label}: the values of rows that lie apart cannot be stated")
        tensor.values, tensor.stated = (values.start, values.stop - 1), True
    return tensor


def _check_values(values: range, t: DType, name: str) -> None:
    if not isinstance(values, range) or values.step != 1 or not len(values):
        raise ProgramError(f"{name}: values={values!r} is not a range of integers", hint="values=range(n)")
    low, high = type_range(t) if t.kind in "iu" else (1, 0)
    if values.start < low or values.stop - 1 > high:
        raise ProgramError(
            f"{name}: {t} does not hold values={values!r}", hint="values are stated for integer types that hold them"
        )


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
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise ProgramError(f"{name!r} is not a name", hint="use letters, digits and underscores")
    return ReduceAxis(Axis(name or hidden(default), extent(size)))


@overload
def compute(
    shape: Extent | Sequence[Extent],
    fn: Callable[..., ExprLike],
    name: str | None = None,
    *,
    order: OrderLike | None = None,
) -> Tensor: ...
@overload
def compute(
    shape: Extent | Sequence[Extent], fn: Callable[..., tuple[ExprLike, ...]], name: Sequence[str] | None = None
) -> tuple[Tensor, ...]: ...
def compute(
    shape: Extent | Sequence[Extent],
    fn: Callable[..., ExprLike | tuple[ExprLike, ...]],
    name: str | Sequence[str] | None = None,
    *,
    order: OrderLike | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """The tensor whose element at ``(i, j, ...)`` is ``fn(i, j, ...)``; where that is a tuple, a tensor for each.

    shape: integers or names of bound dimensions.  The loops are named after the parameters of fn.
    name: of the tensor, or one for each; several tensors share the reductions in them.
    """
    axes = _axes(fn, sizes(shape), 0)
    found = fn(*[Index(Affine.of(a.name)) for a in axes])
    if isinstance(found, tuple):
        from tensordsl import together

        return together.computed(axes, found, name, order)
    if name is not None and not isinstance(name, str):
        raise ProgramError(f"compute: one expression has one name, got {name!r}")
    return define(axes, expr.expression(found), name, order=order)


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
    if dtype.bits < 8:
        hint = 'convert the elements: td.cast(x[i], "int8"), x.astype("int8")'
        raise ProgramError(f"{name or label} would be {dtype}, a type of inputs: it is read, never made", hint=hint)
    return Tensor(name or label, shape, dtype, None, name is not None, user_location())


def _define(
    tensor: Tensor, axes: tuple[Axis, ...], body: Expr, order: tuple[Causal, ...], members: list[Tensor]
) -> None:
    """Set and check the definition of a tensor.

    members: the tensors of a recurrence in the making; hoisted ones that read them are added.
    """
    reducer: Reducer | Monoid | None = None
    reduced: tuple[Axis, ...] = ()
    if isinstance(body, Reduce):
        body = with_names(body, axes)
        for a in body.axes:
            if any(a.name == other.name for other in axes):
                raise ProgramError(
                    f"reduction axis {a.name!r} has the name of an axis of {tensor.name}",
                    location=body.location,
                    hint="name it otherwise: td.reduce_axis(size, name=...)",
                )
        reducer, reduced, body = body.reducer, body.axes, body.body
    body = guards.normalised(body, {a.name: (0, a.extent - 1) for a in axes + reduced})
    body = hoist(body, axes + reduced, tensor.name, order, members)
    tensor.definition = Definition(axes, body, reducer, reduced, order)
    if tensor.dtype.kind in "iu" and tensor.values is None:
        tensor.values = _values(tensor.definition, tensor.dtype)
    check_definition(tensor)


def _values(d: Definition, t: DType) -> Range | None:
    """What the elements of an integer definition lie in, where that is known."""
    if d.reducer is not None and d.reducer.name not in ("max", "min"):
        return known_range(t)
    found = value_range(d.body, {a.name: (0, greatest(a.extent - 1)) for a in (*d.axes, *d.reduce_axes)})
    if found is None or d.reducer is None:
        return found
    if all(at_most(1, a.extent) for a in d.reduce_axes):
        return found  # the identity is never left
    return known_range(t)


def _pending(body: Expr) -> list[Datum]:
    """The index expressions in a body that are no tensors yet, where they are used as they were written."""
    found = [d for e in expr.walk(body) if isinstance(e, Read) for i in e.index for d in i.data()]
    return [
        d for d in found
        if isinstance(d.source, Pending) and d.index == tuple(Affine.of(n) for n in d.source.parameters)
    ]  # fmt: skip


def hoist(body: Expr, scope: tuple[Axis, ...], label: str, order: tuple[Causal, ...], members: list[Tensor]) -> Expr:
    """Each reduction in an expression as a read of a tensor over just the axes it uses.

    A reduction that belongs to a recurrence, or that reads out of bounds elsewhere, has no terms where the
    selects around it do not ask for it: they may be what makes the recurrence well founded.
    """
    from tensordsl import bounds

    memo: dict[int, Expr] = {}
    given = guards.cases_of_reductions(body)

    def go(e: Expr) -> Expr:
        if id(e) not in memo:
            memo[id(e)] = hoisted(e) if isinstance(e, Reduce) else reread(e) if id(e) in indices else rebuilt(e)
        return memo[id(e)]

    placed: dict[Hashable, Affine] = {}
    indices = {id(d.source.value): d for d in _pending(body)}

    def datum(d: Datum) -> Affine:
        """An index that is an expression becomes a tensor; one read of it stands for all uses."""
        if not isinstance(d.source, Pending):
            return Affine(((d, 1),))
        value = d.source.at(d)
        e = hoisted(value) if isinstance(value, Reduce) else rebuilt(value)
        key = expr.structure(e), tuple(id(r.source) for r in expr.reads(e))
        if key not in placed:
            used = expr.free_names(e) | {n for r in expr.reads(e) for i in r.index for n in i.names()}
            cyclic = any(r.source is m for r in expr.reads(e) for m in members)
            used |= {o.axis for o in order} if cyclic else set()
            kept = tuple(a for a in scope if a.name in used)
            inner = _declare(tuple(a.extent for a in kept), e.dtype, None, f"{label}_index")
            inner.location = d.source.location
            if cyclic:
                members.append(inner)
            _define(inner, kept, e, order if cyclic else (), members)
            if inner.values is None:
                raise ProgramError(
                    f"index {d.source.value} may be any {e.dtype}",
                    location=d.source.location,
                    hint="clamp it: td.clip(..., 0, n - 1)",
                )
            index = tuple(Affine.of(a.name) for a in kept)
            placed[key] = Affine(((Datum(inner, index, *inner.values), 1),))
        return placed[key]

    def reread(e: Expr) -> Expr:
        """An expression that is an index elsewhere: a condition on it is one on that index."""
        [(d, _)] = datum(indices[id(e)]).terms
        assert isinstance(d, Datum)
        return expr.cast(Read(d.source, d.index, d.source.location), e.dtype)

    def rebuilt(e: Expr) -> Expr:
        if isinstance(e, Read) and any(True for i in e.index for _ in i.data()):
            return replace(e, index=tuple([i.map_data(datum) for i in e.index]))
        if isinstance(e, Index):
            affine = e.affine.map_data(datum)
            return e if affine is e.affine else Index(affine, e.dtype)
        args = tuple(go(a) for a in expr.children(e))
        same = all(a is b for a, b in zip(args, expr.children(e)))
        return e if same else replace(e, args=args)  # type: ignore[type-var]

    def hoisted(e: Reduce) -> Expr:
        cyclic = any(r.source is m for r in expr.reads(e) for m in members)
        if cyclic or not bounds.inside(e, scope):
            e = guards.restricted(e, given[id(e)])
        used = expr.free_names(e)
        if cyclic:
            used |= {o.axis for o in order}
        kept = tuple(a for a in scope if a.name in used)
        inner = _declare(tuple(a.extent for a in kept), e.dtype, None, f"{label}_{e.reducer.name}")
        if cyclic:
            members.append(inner)
        _define(inner, kept, e, order if cyclic else (), members)
        return Read(inner, tuple(Affine.of(a.name) for a in kept), e.location)

    return go(body)


def _axes(fn: Callable[..., Any], shape: tuple[int, ...], skip: int) -> tuple[Axis, ...]:
    """The axes of a definition, named after the parameters of its function past the first ``skip``."""
    parameters = _parameters(fn)
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return tuple(Axis(f"i{d}", n) for d, n in enumerate(shape))
    if len(parameters) != skip + len(shape):  # lambda i, c=c: .. keeps the c of now
        parameters = [p for p in parameters if p.default is inspect.Parameter.empty]
    if len(parameters) != skip + len(shape):
        raise ProgramError(
            f"the function takes {len(parameters) - skip} indices, the shape has {len(shape)} dimensions"
        )
    return tuple(Axis(p.name, n) for p, n in zip(parameters[skip:], shape))


def _parameters(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        found = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # no function, or one of C
        found = []
    if not callable(fn) or any(p.kind is inspect.Parameter.KEYWORD_ONLY for p in found):
        raise ProgramError(
            f"a definition is a function of indices, got {fn!r}", hint="td.compute(shape, lambda i, j: x[j, i])"
        )
    return found


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
                    f"{tensor.name}: index {shown(n)!r} is not an axis of this definition",
                    location=getattr(e, "location", None),
                    legal=sorted(known) or "this definition has no axes",
                    hint=f"this {shown(n)} is another td.reduce_axis than the one in axis="
                    if shown(n) in known
                    else "reduce over it with td.sum(..., axis=...)",
                )
    from tensordsl import bounds

    bounds.check(tensor)
