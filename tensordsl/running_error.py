"""Error bounds of recurrences whose steps may be combined in any grouping: running sums and the like.

The bound of the written order follows its intermediate values; another grouping has others.  As for a
reduction, n steps of which the terms have the sizes s may be off by ``n u sum(s)`` in any grouping, on
top of what the errors of the terms do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensordsl.affine import Affine
from tensordsl.arithmetic import Array
from tensordsl.expr import Expr, Op, Read, reads
from tensordsl.tensor import Tensor

if TYPE_CHECKING:
    from tensordsl.evaluation import Box, Evaluator, Frame, Value


def combinable(t: Tensor) -> bool:
    """Does a definition use its element before only in sums, extremes and multiples?"""
    d = t.definition
    if d is None or d.reducer is not None or len(d.order) != 1 or not t.dtype.is_float:
        return False

    def go(e: Expr) -> bool:
        if isinstance(e, Read) or _free(e, t):
            return True
        assert isinstance(e, Op)
        match e.name:
            case "add" | "sub" | "neg" | "max" | "min" | "cast":
                return all(map(go, e.args))
            case "mul":
                return any(_free(a, t) for a in e.args) and all(map(go, e.args))
            case "div":
                return _free(e.args[1], t) and go(e.args[0])
            case "select":
                return _free(e.args[0], t) and all(map(go, e.args[1:]))
        return False

    own = {r.index for r in d.reads if r.source is t}
    shift = 1 if d.order[0].descending else -1
    before = tuple(Affine.of(a.name) + (shift if a.name == d.order[0].axis else 0) for a in d.axes)
    return own == {before} and go(d.body)


def _free(e: Expr, t: Tensor) -> bool:
    return all(r.source is not t for r in reads(e))


class Sizes:
    """The recurrence of one tensor on the sizes of its terms."""

    def __init__(self, t: Tensor, unit: float, whole: float) -> None:
        self.tensor, self.unit, self.whole = t, unit, whole
        self.cells = np.zeros(t.shape)

    def widened(self, e: Evaluator, frame: Frame, box: Box, value: Value) -> Value:
        """The values of a step with the bound of any grouping of the steps so far."""
        d = self.tensor.definition
        assert d is not None
        along = [a.name for a in d.axes].index(d.order[0].axis)
        steps = d.axes[along].extent - box[along][0] if d.order[0].descending else box[along][1]
        sizes = self._size(d.body, e, frame)
        self.cells[tuple(slice(lo, hi) for lo, hi in box)] = sizes
        error = np.zeros(()) if value.error is None else value.error
        exact = (error == 0) & (sizes == np.rint(sizes)) & (sizes <= self.whole)
        bound = error + np.where(exact, 0.0, 2 * steps * self.unit * sizes)
        return type(value)(value.value, np.where(np.isfinite(value.value), bound, 0.0))

    def _size(self, x: Expr, e: Evaluator, frame: Frame) -> Array:
        if _free(x, self.tensor):
            size: Array = np.abs(e.value(x, frame, None).value.astype(np.float64))
            return size
        if isinstance(x, Read):
            where = [frame.affine(i) for i in x.index]
            found: Array = self.cells[tuple(np.clip(i, 0, n - 1) for i, n in zip(where, self.tensor.shape))]
            return found
        assert isinstance(x, Op)
        if x.name == "select":
            holds = e.value(x.args[0], frame, None).value != 0
            sides = [self._side(a, e, frame, needed) for a, needed in zip(x.args[1:], (holds, ~holds))]
            chosen: Array = np.where(holds, *sides)
            return chosen
        sizes = [self._size(a, e, frame) for a in x.args]
        if x.name in ("add", "sub"):
            return sizes[0] + sizes[1]
        if x.name == "mul":
            return sizes[0] * sizes[1]
        if x.name == "div":
            return sizes[0] / sizes[1]
        largest: Array = np.maximum.reduce(np.broadcast_arrays(*sizes))
        return largest

    def _side(self, x: Expr, e: Evaluator, frame: Frame, needed: Array) -> Array:
        """A side of a select, evaluated only where it is chosen: elsewhere it may be out of bounds."""
        if not needed.any():
            return np.zeros(())
        if _free(x, self.tensor):
            size: Array = np.abs(e.value(x, frame, needed).value.astype(np.float64))
            return size
        return self._size(x, e, frame)
