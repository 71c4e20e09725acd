"""Accumulators of the evaluator: reductions combined block by block, with their error bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tensordsl.arithmetic import UFUNCS, Array, Precision, numpy_type
from tensordsl.contraction import contract
from tensordsl.expr import Reducer
from tensordsl.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensordsl.evaluation import Value
    from tensordsl.tolerance import ErrorRules

Part = tuple[slice, ...]


class Accumulator:
    """The running reduction of one definition over the output elements of a box.

    With rules, the error of a sum of n terms is bounded by ``sum(errors) + n u sum|terms|`` in any
    order of addition, and it is zero where all terms are integers of a small enough sum; a maximum
    has the largest error of its terms; a product is bounded factor by factor.
    """

    def __init__(self, t: Tensor, shape: tuple[int, ...], precision: Precision, rules: ErrorRules | None) -> None:
        d = t.definition
        assert d is not None and isinstance(d.reducer, Reducer)
        self.reducer, self.rules, self.dtype = d.reducer.name, rules, t.dtype
        self.ufunc = UFUNCS[self.reducer]
        self.value: Array = np.full(shape, d.reducer.identity(t.dtype).value, numpy_type(t.dtype, precision))
        self.error: Array | None = None
        self.magnitude: Array | None = None
        self.integral = True
        if rules is not None and self.reducer == "sum" and t.dtype.is_inexact:
            self.magnitude = np.zeros(shape)

    def add(self, part: Part, extents: tuple[int, ...], term: Value) -> None:
        """Combine the terms of one block: ``extents`` covers the output axes, then the reduced ones."""
        outer = self.value.ndim
        axes = tuple(range(outer, len(extents)))
        full = term.map(lambda a: np.broadcast_to(a, a.shape[:outer] + extents[outer:]))
        if self.rules is not None and self.reducer == "prod":
            value, error = self._product(full, outer)
        else:
            value = self.ufunc.reduce(full.value, axis=axes, dtype=self.value.dtype)
            combine = np.add if self.reducer == "sum" else np.maximum
            error = None if full.error is None else combine.reduce(full.error, axis=axes)
        if self.magnitude is not None:
            self.magnitude[part] += np.abs(full.value).sum(axis=axes)
            self._note(term.value)
        self._combine(part, value, error)

    def add_product(self, part: Part, extents: tuple[int, ...], factors: Sequence[Value]) -> None:
        """Add the sum of the product of some factors over one block."""
        outer = self.value.ndim
        value = contract([f.value for f in factors], extents, outer)
        error: Array | None = None
        if self.rules is not None:
            sizes = [np.abs(f.value) for f in factors]
            if self.magnitude is not None:
                self.magnitude[part] += contract(sizes, extents, outer)
                for f in factors:
                    self._note(f.value)
            # |prod (f + e) - prod f| <= sum_i |f_1| .. |f_i-1| e_i (|f_i+1| + e_i+1) ..
            for i, f in enumerate(factors):
                if f.error is not None:
                    after = [s if g.error is None else s + g.error for s, g in zip(sizes[i + 1 :], factors[i + 1 :])]
                    one = contract([*sizes[:i], f.error, *after], extents, outer)
                    error = one if error is None else error + one
        self._combine(part, value, error)

    def result(self, count: int) -> tuple[Array, Array | None]:
        """The reduced values and their error bounds.  count: terms of each element."""
        if self.magnitude is None or self.rules is None:
            return self.value, self.error
        exact = self.error is None or not self.error.any()
        if exact and self.integral and (self.magnitude <= self.rules.exact_integers(self.dtype)).all():
            return self.value, None
        rounding = self.rules.unit(self.dtype) * count * self.magnitude
        return self.value, rounding if self.error is None else rounding + self.error

    def _note(self, terms: Array) -> None:
        self.integral = self.integral and bool((terms == np.rint(terms)).all())

    def _combine(self, part: Part, value: Array, error: Array | None) -> None:
        if self.rules is not None and self.reducer == "prod":
            old = None if self.error is None else self.error[part]
            pair = self.rules.times(self.value[part], old, value, error, self.dtype)
            self.value[part] = pair[0]
            error = pair[1]
            if error is not None:
                self._errors()[part] = error
            return
        self.value[part] = self.ufunc(self.value[part], value)
        if error is not None:
            errors = self._errors()
            errors[part] = errors[part] + error if self.reducer == "sum" else np.maximum(errors[part], error)

    def _errors(self) -> Array:
        if self.error is None:
            self.error = np.zeros(self.value.shape)
        return self.error

    def _product(self, full: Value, outer: int) -> tuple[Array, Array | None]:
        """The product of the terms of a block, pairwise."""
        assert self.rules is not None
        shape = (*full.value.shape[:outer], math.prod(full.value.shape[outer:]))
        value, error = full.value.reshape(shape), None if full.error is None else full.error.reshape(shape)
        while value.shape[-1] > 1:
            half = value.shape[-1] // 2
            e = (None, None, None) if error is None else (error[..., :half], error[..., half : 2 * half], error)
            rest, rest_error = value[..., 2 * half :], None if e[2] is None else e[2][..., 2 * half :]
            value, error = self.rules.times(value[..., :half], e[0], value[..., half : 2 * half], e[1], self.dtype)
            value = np.concatenate([value, rest], axis=-1)
            if error is not None or rest_error is not None:
                zero = np.zeros(1)
                parts = [
                    np.broadcast_to(zero if error is None else error, (*shape[:-1], half)),
                    np.broadcast_to(zero if rest_error is None else rest_error, rest.shape),
                ]
                error = np.concatenate(parts, axis=-1)
        return value[..., 0], None if error is None else error[..., 0]
