"""Evaluation of programs on numpy arrays, block by block, so that temporaries stay small.

A value over a box of index points is an array with one dimension per axis, of length 1 where it
does not depend on the axis.  With error rules (see tolerance.py) every value carries a bound on the
rounding error of any kernel that computes it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tensordsl.affine import Affine, Datum, Interval, Quasi, interval
from tensordsl.arithmetic import Array, Precision, Undefined, apply, convert, numpy_type, rounded
from tensordsl.causality import Group
from tensordsl.combination import Monoid
from tensordsl.contraction import contraction
from tensordsl.dtypes import DType, TupleType
from tensordsl.errors import ProgramError
from tensordsl.expr import Const, Expr, Index, Op, Read
from tensordsl.program import Program
from tensordsl.reduction import Accumulator
from tensordsl.running_error import Sizes, combinable
from tensordsl.states import States
from tensordsl.tensor import Definition, Tensor

if TYPE_CHECKING:
    from tensordsl.tolerance import ErrorRules

#: Points of a block: temporaries of 2 MB stay in the second-level cache.
BLOCK_POINTS = 1 << 18
Range = tuple[int, int]
Box = tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """An array and a bound on the absolute error of a computed value (None: exact)."""

    value: Array
    error: Array | None = None

    def map(self, f: Callable[[Array], Array]) -> Value:
        return Value(f(self.value), None if self.error is None else f(self.error))


class Frame:
    """A box of index points: one dimension per axis.  cells: the tensors that indices may read."""

    def __init__(self, names: Sequence[str], box: Box, cells: Mapping[str, Value]) -> None:
        self.names, self.box, self.cells = tuple(names), box, cells
        self.shape = tuple(hi - lo for lo, hi in box)
        self.ranges: dict[str, Interval] = {n: (lo, hi - 1) for n, (lo, hi) in zip(names, box)}
        self.memo: dict[tuple[int, int], Value] = {}
        self.kept: list[object] = []  # masks whose id is in the memo
        self._axes: dict[str, Array] = {}

    def axis(self, name: str) -> Array:
        if name not in self._axes:
            d = self.names.index(name)
            lo, hi = self.box[d]
            shape = [1] * len(self.box)
            shape[d] = hi - lo
            self._axes[name] = np.arange(lo, hi, dtype=np.int64).reshape(shape)
        return self._axes[name]

    def affine(self, a: Affine) -> Array:
        """The values of an index expression."""
        total: Array = np.full((1,) * len(self.box), a.const, np.int64)
        for atom, coefficient in a.terms:
            if isinstance(atom, Quasi):
                inner = self.affine(atom.argument)
                part = inner // atom.by if atom.kind == "div" else inner % atom.by
            elif isinstance(atom, Datum):
                part = self.datum(atom)
            else:
                part = self.axis(atom)
            total = total + coefficient * part
        return total

    def datum(self, d: Datum) -> Array:
        """The integers that an index reads.  Where it reads outside, nobody needs them (see bounds.py)."""
        shape = d.source.shape
        if not all(shape):
            return np.zeros((1,) * len(self.box), np.int64)
        at = tuple(np.clip(self.affine(i), 0, size - 1) for i, size in zip(d.index, shape))
        cells = self.cells[d.source.name].value
        return (cells[at] if at else cells.reshape((1,) * len(self.box))).astype(np.int64)

    def doubtful(self, index: Sequence[Affine]) -> Array | None:
        """Where a kernel may find another integer in an index, because a float decided it."""
        found: Array | None = None
        for d in (d for i in index for d in i.data()):
            error = self.cells[d.source.name].error
            if error is not None and error.any():
                at = tuple(np.clip(self.affine(i), 0, size - 1) for i, size in zip(d.index, d.source.shape))
                here = (error > 0)[at]
                found = here if found is None else found | here
        return found

    def view(self, index: tuple[Affine, ...], shape: tuple[int, ...]) -> Callable[[Array], Array] | None:
        """How to see the elements at an index as a strided view, or None where that is impossible."""
        start: list[int] = []
        steps: dict[str, list[int]] = {}
        for d, a in enumerate(index):
            low, high = interval(a, self.ranges)
            if low is None or high is None or low < 0 or high >= shape[d]:
                return None
            first = a.const
            for atom, coefficient in a.terms:
                if not isinstance(atom, str):
                    return None
                first += coefficient * self.box[self.names.index(atom)][0]
                steps.setdefault(atom, [0] * len(index))[d] = coefficient
            start.append(first)
        extents = tuple(n if name in steps else 1 for name, n in zip(self.names, self.shape))

        def see(array: Array) -> Array:
            corner = array[tuple(slice(s, s + 1) for s in start)]
            strides = tuple(sum(c * n for c, n in zip(steps.get(name, ()), array.strides)) for name in self.names)
            return np.lib.stride_tricks.as_strided(corner, extents, strides, writeable=False)

        return see

    def point(self, where: Array) -> str:
        """The first point of a mask, as a counterexample."""
        first = np.argwhere(np.broadcast_to(where, self.shape))[0]
        at = [f"{n} = {lo + int(i)}" for n, (lo, _), i in zip(self.names, self.box, first)]
        return "when " + ", ".join(at) if at else "always"


class Evaluator:
    """Runs a program.  rules: also bound the errors of float arithmetic (None: values only)."""

    def __init__(self, program: Program | None, precision: Precision, rules: ErrorRules | None = None) -> None:
        self.program, self.precision, self.rules = program, precision, rules
        self.cells: dict[str, Value] = {}
        self.sizes: dict[str, Sizes] = {}  # of recurrences whose steps may be grouped in any way

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Value]:
        """The value of every tensor.  inputs: arrays by name, already of the right shape."""
        assert self.program is not None
        for t in self.program.inputs:
            array = np.ascontiguousarray(inputs[t.name], numpy_type(t.dtype, self.precision))
            error = self.rules.representation(array, t.dtype) if self.rules and t.dtype.is_inexact else None
            self.cells[t.name] = Value(self._rounded(array, t.dtype).reshape(t.shape), error)
        with np.errstate(all="ignore"):
            for g in self.program.groups:
                self._allocate(g)
                self._run(g, {})
        return self.cells

    def _allocate(self, g: Group) -> None:
        for t in g.tensors:
            value = np.zeros(t.shape, numpy_type(t.dtype, self.precision))
            cyclic = self.rules is not None and g.order is not None
            self.cells[t.name] = Value(value, no_error(t.dtype, t.shape) if cyclic else None)
            if self.rules is not None and len(g.tensors) == 1 and combinable(t):
                self.sizes[t.name] = Sizes(t, self.rules.unit(t.dtype), self.rules.exact_integers(t.dtype))

    def _run(self, part: Tensor | Group, at: Mapping[str, int]) -> None:
        """Compute a definition or a group.  at: the steps of the groups around it."""
        if isinstance(part, Tensor):
            axes = definition(part).axes
            if all(at.get(a.name, 0) < a.extent for a in axes):
                self._fill(part, tuple((at[a.name], at[a.name] + 1) if a.name in at else (0, a.extent) for a in axes))
            return
        if part.order is None:
            steps: Sequence[Mapping[str, int]] = [at]
        else:
            axis = part.order.axis
            count = max(a.extent for t in part.tensors for a in definition(t).axes if a.name == axis)
            numbers = range(count)[::-1] if part.order.descending else range(count)
            steps = [{**at, axis: n} for n in numbers]
        for step in steps:
            for p in part.parts:
                self._run(p, step)

    def _fill(self, t: Tensor, region: Box) -> None:
        """Compute the elements of a box of a tensor."""
        d = definition(t)
        if d.reducer is not None:
            self._reduce(t, region)
            return
        names = [a.name for a in d.axes]
        for box in boxes(region):
            frame = Frame(names, box, self.cells)
            value = self._evaluate(t, d.body, frame)
            if t.name in self.sizes:
                value = self.sizes[t.name].widened(self, frame, box, value)
            self._store(t, box, value)

    def _reduce(self, t: Tensor, region: Box) -> None:
        d = definition(t)
        names = [a.name for a in (*d.axes, *d.reduce_axes)]
        domain = (*region, *((0, a.extent) for a in d.reduce_axes))
        shape = tuple(hi - lo for lo, hi in region)
        total: Accumulator | States
        if isinstance(d.reducer, Monoid):
            total = States(d.reducer, shape, self.precision, self.rules)
        else:
            total = Accumulator(t, shape, self.precision, self.rules)
        plan = contraction(d, domain)
        for box in boxes(domain) if plan is None else plan.boxes():
            frame = Frame(names, box, self.cells)
            part = tuple(slice(lo - start, hi - start) for (lo, hi), (start, _) in zip(box, region))
            if plan is None or isinstance(total, States):
                total.add(part, frame.shape, self._evaluate(t, d.body, frame))
            else:
                factors = [self._evaluate(t, f, frame) for f in plan.factors]
                total.add_product(part, frame.shape, factors)
        value, error = total.result(math.prod(a.extent for a in d.reduce_axes))
        self._store(t, region, Value(value, error))

    def _store(self, t: Tensor, box: Box, value: Value) -> None:
        cells = self.cells[t.name]
        part = tuple(slice(lo, hi) for lo, hi in box)
        cells.value[part] = self._rounded(value.value, t.dtype)
        if value.error is None and cells.error is None:
            return
        if cells.error is None:
            cells = self.cells[t.name] = Value(cells.value, no_error(t.dtype, t.shape))
        assert cells.error is not None
        cells.error[part] = 0.0 if value.error is None else value.error

    def _evaluate(self, t: Tensor, e: Expr, frame: Frame) -> Value:
        try:
            return self.value(e, frame, None)
        except Undefined as fault:
            raise ProgramError(
                f"{t.name}: {fault.message}", location=t.location, counterexample=frame.point(fault.where)
            ) from None

    # ------------------------------------------------------------ expressions

    def value(self, e: Expr, frame: Frame, mask: Array | None) -> Value:
        """The value of an expression on a frame.  mask: the points where it is needed (None: all)."""
        key = (id(e), id(mask))
        found = frame.memo.get(key)
        if found is None:
            if mask is not None:
                frame.kept.append(mask)
            found = frame.memo[key] = self._value(e, frame, mask)
        return found

    def _value(self, e: Expr, frame: Frame, mask: Array | None) -> Value:
        if isinstance(e, Const):
            value = np.full((1,) * len(frame.shape), e.value, numpy_type(e.dtype, self.precision))
            value = self._rounded(value, e.dtype)
            return Value(value, None if self.rules is None else self.rules.constant(e))
        if isinstance(e, Index):
            return Value(frame.affine(e.affine))
        if isinstance(e, Read):
            return self._read(e, frame, mask)
        assert isinstance(e, Op)
        if e.name == "select":
            return self._select(e, frame, mask)
        args = [self.value(a, frame, mask) for a in e.args]
        if isinstance(e.dtype, TupleType):
            return packed(args, e.dtype)
        if isinstance(e.args[0].dtype, TupleType):
            return component(args[0], int(e.name[4:]))
        if e.name == "cast":
            value = convert(args[0].value, numpy_type(e.dtype, self.precision), mask)
        else:
            value = apply(e.name, [a.value for a in args], mask)
        value = self._rounded(value, e.dtype)
        return Value(value, None if self.rules is None else self.rules.operation(e, args, value))

    def _rounded(self, value: Array, t: DType) -> Array:
        return value if self.precision == "float64" else rounded(value, t)

    def _read(self, r: Read, frame: Frame, mask: Array | None) -> Value:
        cells = self.cells[r.source.name]
        shape = r.source.shape
        see = frame.view(r.index, shape)
        if see is not None:
            return cells.map(see)
        index = [frame.affine(i) for i in r.index]
        valid: Array = np.full((1,) * len(frame.shape), True)
        for at, size in zip(index, shape):
            valid = valid & (at >= 0) & (at < size)
        if not valid.all():
            fault = ~valid if mask is None else ~valid & mask
            if fault.any():
                raise Undefined(f"reads {r} outside its shape {list(shape)}", fault)
            if not all(shape):
                return Value(np.zeros((1,) * len(frame.shape), cells.value.dtype))
            index = [np.clip(at, 0, size - 1) for at, size in zip(index, shape)]
        found = cells.map(lambda array: array[tuple(index)])
        doubtful = None if self.rules is None else frame.doubtful(r.index)
        if doubtful is None:
            return found
        return Value(found.value, np.where(doubtful, np.inf, 0.0 if found.error is None else found.error))

    def _select(self, e: Op, frame: Frame, mask: Array | None) -> Value:
        condition = self.value(e.args[0], frame, mask)
        holds = condition.value != 0
        doubtful = None if condition.error is None else condition.error > 0
        if doubtful is None or not doubtful.any():
            if holds.all():
                return self.value(e.args[1], frame, mask)
            if not holds.any():
                return self.value(e.args[2], frame, mask)
            doubtful = None
        sides = []
        for arg, chosen in zip(e.args[1:], (holds, ~holds)):
            needed = chosen if doubtful is None else chosen | doubtful
            sides.append(self.value(arg, frame, needed if mask is None else needed & mask))
        if isinstance(e.dtype, TupleType):
            parts = [[component(s, n) for s in sides] for n in range(len(e.dtype.parts))]
            return packed([self._chosen(holds, doubtful, p) for p in parts], e.dtype)
        return self._chosen(holds, doubtful, sides)

    def _chosen(self, holds: Array, doubtful: Array | None, sides: Sequence[Value]) -> Value:
        value = np.where(holds, sides[0].value, sides[1].value)
        return Value(value, None if self.rules is None else self.rules.select(holds, doubtful, sides))


def packed(parts: Sequence[Value], t: TupleType) -> Value:
    """Several values as one: an array with a field for each."""
    shape = np.broadcast_shapes(*[p.value.shape for p in parts])
    value = np.empty(shape, [(f"part{n}", p.value.dtype) for n, p in enumerate(parts)])
    error = None if all(p.error is None for p in parts) else no_error(t, shape)
    for n, p in enumerate(parts):
        value[f"part{n}"] = p.value
        if error is not None and p.error is not None:
            error[f"part{n}"] = p.error
    return Value(value, error)


def component(v: Value, n: int) -> Value:
    """One field of such a value."""
    error = None if v.error is None else v.error[f"part{n}"]
    return Value(v.value[f"part{n}"], error if error is not None and error.any() else None)


def no_error(t: DType, shape: tuple[int, ...]) -> Array:
    """Errors of zero."""
    fields = [(f"part{n}", np.float64) for n in range(len(t.parts))] if isinstance(t, TupleType) else np.float64
    return np.zeros(shape, fields)


def definition(t: Tensor) -> Definition:
    assert t.definition is not None
    return t.definition


def boxes(region: Box, limit: int = BLOCK_POINTS) -> Iterator[Box]:
    """A box cut into boxes of at most ``limit`` points, inner axes kept whole as long as possible."""
    steps: list[int] = []
    room = limit
    for lo, hi in reversed(region):
        step = max(1, min(hi - lo, room))
        steps.insert(0, step)
        room = room // step
    ranges = [[(i, min(i + s, hi)) for i in range(lo, hi, s)] for (lo, hi), s in zip(region, steps)]
    return itertools.product(*ranges)
