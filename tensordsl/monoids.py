"""Reducers defined by a user: `reducer` makes one from an identity and a combination of states.

A reducer is a monoid.  Its state is a value or a tuple of values; ``combine`` makes one state of two and is
associative; the identity changes nothing.  Both are declared, and tested on random states when the reducer
is defined: a wrong declaration is an error with a counterexample.  Schedules rely on it to split a reduction
over lanes, tiles and threads.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np

from tensordsl import array, combination, conditions, dtypes, expr
from tensordsl.affine import Affine, Interval, interval
from tensordsl.arithmetic import Array
from tensordsl.combination import Combination, Monoid, Slot
from tensordsl.dtypes import DType
from tensordsl.errors import Location, ProgramError, user_location
from tensordsl.evaluation import Value
from tensordsl.expr import REDUCERS, Axis, Const, Expr, Index, Read, Reduce
from tensordsl.sizes import greatest
from tensordsl.states import combined, constant_state
from tensordsl.tensor import Axes, ReduceAxis, Tensor
from tensordsl.together import several

Number = Union[int, float, bool]
#: The identity, a number for each component of the state, or what gives it for their types.
Identity = Union[Number, tuple[Number, ...], Callable[..., Any]]
#: How far two results of the test may differ, relative to the largest number in it: they are float64.
_CLOSE = 1e-6
_DRAWS = 6
_TRIALS = 400


def reducer(
    name: str,
    identity: Identity,
    combine: Callable[[Any, Any], Any],
    lift: Callable[..., Any] | None = None,
    commutative: bool = True,
) -> UserReducer:
    """A reducer of one's own: ``argmax = td.reducer("argmax", (-inf, -1), lambda a, b: ...)``.

    identity: the state of no terms: a number, or a tuple with one for each component of the state; an
        infinity is the least or greatest value of an integer type.  Or a function of the components' types.
    combine: of two states (tuples of scalars where the identity is a tuple) the state of both.
    lift: from a term to its state (default: a term is a state).
    commutative: False keeps the terms in order.
    Raises ProgramError with a counterexample where random states show that combine is not associative, not
    commutative (unless declared so), or that the identity changes a state.
    """
    if not name.isidentifier():
        raise ProgramError(f"{name!r} is not a name", hint="use letters, digits and underscores")
    if name in REDUCERS:
        raise ProgramError(f"the name {name!r} is that of a reducer of the language", hint="call it otherwise")
    made = UserReducer(name, identity, combine, lift, commutative, user_location())
    _test(made)
    return made


@dataclass(frozen=True, slots=True, eq=False)
class UserReducer:
    """A reducer (see `reducer`).  Call it like `td.sum`: on a term in index notation, or on a tensor.

    A term or tensor may be a tuple of several; the result is a tuple where the state is.
    """

    name: str
    identity: Identity
    combine: Callable[[Any, Any], Any]
    lift: Callable[..., Any] | None
    commutative: bool
    location: Location | None = field(default=None, repr=False)
    monoids: dict[tuple[DType, ...], Monoid] = field(default_factory=dict, repr=False)

    def __call__(self, value: Any, axis: Any = None, keepdims: bool = False, *, where: Any = None) -> Any:
        """The reduction of a term over axes made with `reduce_axis`, or of a tensor over dimensions.

        where: as in `td.sum`.
        """
        terms = value if isinstance(value, tuple) else (value,)
        if any(isinstance(t, Tensor) and t.ndim for t in terms):
            return self._tensors(terms, axis, keepdims, where)
        if keepdims:
            raise ProgramError(f"{self.name}: keepdims needs a tensor")
        axes = reduce_axes(self.name, axis)
        return self.reduction(terms, axes, where, user_location())

    def reduction(self, terms: Sequence[Any], axes: tuple[Axis, ...], where: Any, location: Location | None) -> Any:
        """The scalar, or the tuple of scalars, of a reduction in index notation."""
        state = terms if self.lift is None else self._lifted(terms)
        parts = self._typed(state, axes)
        monoid = self.monoid(tuple([p.dtype for p in parts]))
        body = combination.pack(parts) if self._tuple else parts[0]
        reduced = Reduce(monoid, axes, body, location)
        if where is not None:
            reduced = conditions.where(reduced, expr.expression(where))
        results = [
            expr.cast(combination.part(reduced, n), "int64")
            if isinstance(term, Index)
            else combination.part(reduced, n)
            for n, term in enumerate(state)
        ]
        return tuple(results) if self._tuple else results[0]

    @property
    def _tuple(self) -> bool:
        return callable(self.identity) or isinstance(self.identity, tuple)

    def _lifted(self, terms: Sequence[Any]) -> tuple[Any, ...]:
        assert self.lift is not None
        count = len(inspect.signature(self.lift).parameters)
        if count != len(terms):
            raise ProgramError(f"{self.name}: lift takes {count} values, a term has {len(terms)}")
        found = self.lift(*terms)
        return found if isinstance(found, tuple) else (found,)

    def _typed(self, state: Sequence[Any], axes: tuple[Axis, ...]) -> list[Expr]:
        """The components of a term's state; a position that fits is kept in 32 bits, a float takes the widest type."""
        known = [expr.expression(s) for s in state if not isinstance(s, (bool, int, float))]
        floats = [e.dtype for e in known if e.dtype.is_float]
        widest = max(floats, key=lambda t: t.bits, default=dtypes.float32)
        ranges: dict[str, Interval] = {a.name: (0, greatest(a.extent - 1)) for a in axes}
        parts = []
        for s in state:
            e = expr.expression(s, widest if isinstance(s, float) else None)
            parts.append(expr.cast(e, "int32") if isinstance(e, Index) and _short(e, ranges) else e)
        return parts

    def monoid(self, parts: tuple[DType, ...]) -> Monoid:
        """The reducer for components of these types."""
        if parts not in self.monoids:
            self.monoids[parts] = self._monoid(parts)
        return self.monoids[parts]

    def _monoid(self, parts: tuple[DType, ...]) -> Monoid:
        numbers = self.identity(*parts) if callable(self.identity) else self.identity
        numbers = numbers if isinstance(numbers, tuple) else (numbers,)
        if len(numbers) != len(parts):
            raise ProgramError(
                f"{self.name}: a term has {len(parts)} components, the identity has {len(numbers)}",
                location=user_location(),
            )
        units = [_unit(self.name, x, t) for x, t in zip(numbers, parts)]
        kind = dtypes.tuple_type(parts) if self._tuple else parts[0]
        left, right = Slot("a", kind), Slot("b", kind)
        sides = [tuple([combination.part(Read(s, ()), n) for n in range(len(parts))]) for s in (left, right)]
        found = self.combine(*(sides if self._tuple else [s[0] for s in sides]))
        values = found if isinstance(found, tuple) else (found,)
        if len(values) != len(parts):
            raise ProgramError(
                f"{self.name}: combine gives {len(values)} values, the state has {len(parts)}", location=self.location
            )
        typed = [expr.cast(expr.expression(v, t), t) for v, t in zip(values, parts)]
        value, unit = (combination.pack(typed), combination.pack(units)) if self._tuple else (typed[0], units[0])
        return Monoid(self.name, Combination(self.name, left, right, value), unit, self.commutative)

    def _tensors(self, terms: Sequence[Any], axis: Axes, keepdims: bool, where: Any) -> Any:
        """The reduction of tensors (and numbers) of one shape over dimensions."""
        if where is not None:
            raise ProgramError(f"{self.name}: where needs index notation")
        tensors = [t for t in terms if isinstance(t, Tensor) and t.ndim]
        first = tensors[0]
        if any(t.shape != first.shape for t in tensors):
            raise ProgramError(f"{self.name}: {' and '.join(map(str, tensors))} have different shapes")
        if reduce_axes_given(axis):
            raise ProgramError(f"{self.name}: axis is a reduce_axis", hint="index the tensors: x[i, k]")
        kept, over, index = reduced_dimensions(self.name, first, axis, keepdims)
        values = [t[index] if isinstance(t, Tensor) and t.ndim else t for t in terms]
        found = self.reduction(values, over, None, user_location())
        results = found if isinstance(found, tuple) else (found,)
        made = several(kept, results, None, array.derived(first, self.name))
        return made if isinstance(found, tuple) else made[0]


def reduced_dimensions(
    name: str, x: Tensor, axis: Axes, keepdims: bool
) -> tuple[tuple[Axis, ...], tuple[Axis, ...], tuple[Index, ...]]:
    """The axes of a tensor reduced over dimensions, the axes to reduce over, and the index of an element."""
    over = array.dimensions(x, axis, name)
    names = array.axis_names(x)
    kept = [Axis(names[d], x.shape[d]) for d in range(x.ndim) if d not in over]
    if keepdims:
        kept = [Axis(f"{n}_" if d in over else n, 1 if d in over else x.shape[d]) for d, n in enumerate(names)]
    reduced = tuple([Axis(names[d], x.shape[d]) for d in over])
    return tuple(kept), reduced, tuple([Index(Affine.of(n)) for n in names])


def reduce_axes_given(axis: Any) -> bool:
    first = axis[0] if isinstance(axis, (tuple, list)) and axis else axis
    return isinstance(first, ReduceAxis)


def reduce_axes(name: str, axis: Any) -> tuple[Axis, ...]:
    """``axis=`` of a reduction in index notation."""
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    for a in axes:
        if not isinstance(a, ReduceAxis):
            raise ProgramError(f"{name}: axis={a} is not an axis to reduce over", hint="make it with td.reduce_axis")
    names = [a.axis.name for a in axes]
    for n in names:
        if names.count(n) > 1:
            raise ProgramError(f"{name}: two axes are named {n!r}", hint="td.reduce_axis(size, name=...)")
    return tuple([a.axis for a in axes])


def _short(e: Index, ranges: dict[str, Interval]) -> bool:
    if not e.affine.names() <= ranges.keys():
        return False
    low, high = interval(e.affine, ranges)
    return low is not None and high is not None and low >= -(2**31) and high < 2**31


def _unit(name: str, value: Number, t: DType) -> Const:
    """A component of the identity in its type."""
    if not isinstance(value, (bool, int, float)):
        raise ProgramError(f"{name}: {value!r} in the identity is not a number")
    if not t.is_float and isinstance(value, float) and math.isinf(value):
        return REDUCERS["max" if value < 0 else "min"].identity(t)
    if t.kind in "iu" and value != int(value):
        raise ProgramError(f"{name}: {value} in the identity is no {t}", location=user_location())
    return Const(float(value) if t.is_float else bool(value) if t.kind == "b" else int(value), t)


# ---------------------------------------------------------------- the test of a definition


def _test(made: UserReducer) -> None:
    """Associative, commutative if it says so, and with an identity that changes nothing: on random states."""
    rng = np.random.default_rng(0)
    types = _test_types(made)
    monoid = made.monoid(types)
    unit = constant_state(monoid.unit, "float64").value
    terms = np.concatenate([_term(made, types, rng, whole) for _ in range(_DRAWS) for whole in (True, False)])

    def two(a: Array, b: Array) -> Array:
        return combined(monoid.combine, Value(a), Value(b), "float64").value

    states = np.concatenate([unit, terms, two(terms[:-2], terms[2:])])
    units = np.repeat(unit, len(states))
    for found, text in ((two(units, states), "combine(identity, a)"), (two(states, units), "combine(a, identity)")):
        _require(made, found, states, "the identity changes a state", {"a": states}, text)
    first, second, third = (rng.integers(0, len(states), _TRIALS) for _ in range(3))
    a, b, c = states[first], states[second], states[third]
    if made.commutative:
        message, hint = "combine is not commutative", "declare it: commutative=False keeps the terms in order"
        _require(made, two(a, b), two(b, a), message, {"a": a, "b": b}, "combine(a, b)", "combine(b, a)", hint)
    left, right = two(two(a, b), c), two(a, two(b, c))
    texts = "combine(combine(a, b), c)", "combine(a, combine(b, c))"
    _require(made, left, right, "combine is not associative", {"a": a, "b": b, "c": c}, *texts)


def _test_types(made: UserReducer) -> tuple[DType, ...]:
    """The types of the components in the test: the widest of the identity's kinds."""
    if callable(made.identity):
        return (dtypes.float64,) * len(inspect.signature(made.identity).parameters)
    numbers = made.identity if isinstance(made.identity, tuple) else (made.identity,)
    kinds = {bool: dtypes.bool_, int: dtypes.int64}
    return tuple([kinds.get(type(x), dtypes.float64) for x in numbers])


def _term(made: UserReducer, types: tuple[DType, ...], rng: np.random.Generator, whole: bool) -> Array:
    """The state of a random term.  whole: of small integers, so that terms are equal now and then."""
    if made.lift is None:
        parts: list[Expr] = [expr.constant(_number(t, rng, whole), t) for t in types]
    else:
        count = len(inspect.signature(made.lift).parameters)
        terms = [expr.constant(_number(dtypes.float64, rng, whole), dtypes.float64) for _ in range(count)]
        lifted = made._lifted(terms)
        if len(lifted) != len(types):
            raise ProgramError(
                f"{made.name}: lift gives {len(lifted)} values, the state has {len(types)}", location=made.location
            )
        parts = [expr.cast(expr.expression(s, t), t) for s, t in zip(lifted, types)]
    with np.errstate(all="ignore"):
        return constant_state(combination.pack(parts) if made._tuple else parts[0], "float64").value


def _number(t: DType, rng: np.random.Generator, whole: bool) -> float | int | bool:
    if t.kind == "b":
        return bool(rng.integers(0, 2))
    if not t.is_float:
        return int(rng.integers(0, 4))
    return float(rng.integers(0, 4) if whole else rng.standard_normal())


def _require(
    made: UserReducer, found: Array, wanted: Array, message: str, states: dict[str, Array], one: str,
    other: str = "", hint: str | None = None,
) -> None:  # fmt: skip
    """Raises ProgramError with the first states for which two results differ."""
    wrong = np.flatnonzero(~_close(_numbers(found), _numbers(wanted)))
    if not len(wrong):
        return
    at = int(wrong[0])
    given = ", ".join(f"{k} = {_text(x[at])}" for k, x in states.items())
    second = f", {other} = {_text(wanted[at])}" if other else ""
    raise ProgramError(
        f"{made.name}: {message}",
        location=made.location,
        counterexample=f"{given}: {one} = {_text(found[at])}{second}",
        hint=hint,
    )


def _close(a: Array, b: Array) -> Array:
    """Which states (rows of numbers) agree."""
    with np.errstate(all="ignore"):
        size = np.max(np.where(np.isfinite(a), np.abs(a), 0.0), axis=1, keepdims=True, initial=1.0)
        same = (np.abs(a - b) <= _CLOSE * size) | (a == b) | (np.isnan(a) & np.isnan(b))
    rows: Array = same.all(axis=1)
    return rows


def _numbers(states: Array) -> Array:
    """A row of floats for each state."""
    names = states.dtype.names
    return np.stack([(states[n] if names else states).astype(np.float64) for n in names or ("",)], axis=1)


def _text(state: Any) -> str:
    value = state.item()
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else str(value)
