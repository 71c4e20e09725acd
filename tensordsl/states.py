"""States of a user's reducer, combined as arrays.

The terms of a block are combined in pairs of neighbours, level by level, so that their order is kept and
every level is one evaluation of the combination.  With error rules, two bounds are carried apart: what the
errors of the terms do to the result, and what the roundings of the combinations add.  A combination is
associative, so any order goes through states of about the same size; a kernel may go through n of them in
a row where the pairs have log2(n) levels, and the second bound is taken times n / log2(n).  For a sum that
is the usual bound, n u sum|terms|.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tensordsl.affine import Affine
from tensordsl.arithmetic import Array, Precision, Undefined
from tensordsl.combination import Combination, Monoid
from tensordsl.errors import ProgramError
from tensordsl.expr import Expr, Read, transform
from tensordsl.tolerance import Inherited

if TYPE_CHECKING:
    from tensordsl.evaluation import Value
    from tensordsl.tolerance import ErrorRules

Part = tuple[slice, ...]


def constant_state(unit: Expr, precision: Precision) -> Value:
    """The identity of a reducer as an array of one element."""
    from tensordsl.evaluation import Evaluator, Frame

    return Evaluator(None, precision).value(unit, Frame(("n",), ((0, 1),), {}), None)


def combined(c: Combination, left: Value, right: Value, precision: Precision, rules: ErrorRules | None = None) -> Value:
    """The combination of two arrays of states (of rank 1), element by element."""
    from tensordsl.evaluation import Evaluator, Frame

    size = left.value.size
    sides = {id(s): replace(s, shape=(size,)) for s in (c.left, c.right)}
    at = (Affine.of("n"),)
    value = transform(c.value, lambda e: Read(sides[id(e.source)], at) if isinstance(e, Read) else None)
    evaluator = Evaluator(None, precision, rules)
    evaluator.cells = {c.left.name: left, c.right.name: right}
    try:
        with np.errstate(all="ignore"):
            found = evaluator.value(value, Frame(("n",), ((0, size),), {}), None)
    except Undefined as fault:
        raise ProgramError(f"{c.name}: {fault.message}") from None
    return found.map(lambda a: np.broadcast_to(a, (size,)))


class States:
    """The running reduction of one definition over the elements of a box (see `reduction.Accumulator`)."""

    def __init__(self, monoid: Monoid, shape: tuple[int, ...], precision: Precision, rules: ErrorRules | None) -> None:
        self.combine, self.shape = monoid.combine, shape
        unit = constant_state(monoid.unit, precision)
        self.chains = [_Chain(monoid.combine, unit, shape, precision, rules)]
        if rules is not None:
            self.chains.append(_Chain(monoid.combine, unit, shape, precision, Inherited()))

    def add(self, part: Part, extents: tuple[int, ...], term: Value) -> None:
        """Combine the terms of one block: ``extents`` covers the output axes, then the reduced ones."""
        outer = len(self.shape)
        full = term.map(lambda a: np.broadcast_to(a, extents).reshape(*extents[:outer], -1))
        self.chains[0].add(part, replace(full, error=None))
        for chain in self.chains[1:]:
            chain.add(part, full)

    def result(self, count: int) -> tuple[Array, Array | None]:
        """The reduced states and their error bounds.  count: terms of each."""
        rounding = self.chains[0].states
        inherited = self.chains[1].states.error if len(self.chains) > 1 else None
        if rounding.error is None:
            return rounding.value, inherited
        depth = max(1.0, count / math.ceil(math.log2(count))) if count > 1 else 1.0
        return rounding.value, _sum(rounding.error, depth, inherited)


def _sum(rounding: Array, depth: float, inherited: Array | None) -> Array:
    if rounding.dtype.names is None:
        return rounding * depth + (0.0 if inherited is None else inherited)
    total = np.zeros_like(rounding)
    for name in rounding.dtype.names:
        total[name] = rounding[name] * depth + (0.0 if inherited is None else inherited[name])
    return total


class _Chain:
    """States combined under one set of error rules."""

    def __init__(
        self, c: Combination, unit: Value, shape: tuple[int, ...], precision: Precision, rules: ErrorRules | None
    ) -> None:
        self.c, self.precision, self.rules = c, precision, rules
        self.states = replace(unit, value=np.broadcast_to(unit.value[0], shape).copy())

    def add(self, part: Part, terms: Value) -> None:
        """Combine terms, the last dimension in order, into the states of a part."""
        while terms.value.shape[-1] > 1:
            left, right, rest = _neighbours(terms)
            terms = _joined(self.two(left, right), rest)
        new = self.two(self.states.map(lambda a: a[part]), terms.map(lambda a: a[..., 0]))
        self.states.value[part] = new.value
        if new.error is not None and self.states.error is None:
            self.states = replace(self.states, error=np.zeros(self.states.value.shape, new.error.dtype))
        if self.states.error is not None:
            self.states.error[part] = 0.0 if new.error is None else new.error

    def two(self, a: Value, b: Value) -> Value:
        shape = a.value.shape
        flat = [v.map(lambda x: np.ascontiguousarray(x).reshape(-1)) for v in (a, b)]
        return combined(self.c, flat[0], flat[1], self.precision, self.rules).map(lambda x: x.reshape(shape))


def _neighbours(terms: Value) -> tuple[Value, Value, Value]:
    """The first and the second of each pair along the last dimension, and the last one where it has no partner."""
    paired = terms.value.shape[-1] // 2 * 2
    return (
        terms.map(lambda a: a[..., :paired:2]),
        terms.map(lambda a: a[..., 1:paired:2]),
        terms.map(lambda a: a[..., paired:]),
    )


def _joined(a: Value, b: Value) -> Value:
    """Two arrays one after the other along the last dimension."""
    if not b.value.shape[-1]:
        return a
    error = None
    if a.error is not None or b.error is not None:
        kind = (a.error if a.error is not None else b.error).dtype  # type: ignore[union-attr]
        sides = [np.zeros(v.value.shape, kind) if v.error is None else v.error for v in (a, b)]
        error = np.concatenate(sides, axis=-1)
    return replace(a, value=np.concatenate([a.value, b.value], axis=-1), error=error)
